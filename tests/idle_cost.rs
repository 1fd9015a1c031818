//! An idle event stream costs no more memory of the process than an idle WebSocket: counted, not
//! believed.
//!
//! The method: a gateway within this process, and an allocator that counts the bytes that are held.
//! So many clients connect by WebSocket, and when all are at rest their share is noted; then they
//! leave, and as many come by event stream. Clients are bare sockets, whose memory is the kernel's.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use ringhold::config::Options;
use ringhold::gateway::account::Budget;
use ringhold::gateway::app::{ControlPlane, Gateway, Seed, unix_now};
use ringhold::gateway::emulation::SessionNames;
use ringhold::gateway::farewell::Keeping;
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::hooks::HookRequest;
use ringhold::gateway::placement::Placement;
use ringhold::gateway::rulebook::Rulebook;
use ringhold::gateway::session::HookTicket;
use ringhold::{Detached, Running, Server};

use crate::support::figures;
use crate::support::stream::{escaped, request};
use crate::support::unbroken::unbroken;
use crate::support::wire::{self, FIN, TEXT};
use crate::support::{PATIENCE, raise_open_files};

/// The system's allocator, which counts the bytes that are held.
struct Counting;

static HELD: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the pointer came from `System`, because `alloc` passes everything on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Nobody is there.
struct Nobody;

impl ControlPlane for Nobody {
    fn ask(&self, _: usize, _: Box<HookRequest>, question: HookTicket) -> Result<(), HookTicket> {
        Err(question)
    }

    fn serve(&self, passed: Detached) -> Result<(), Detached> {
        Err(passed)
    }

    fn want_keys(&self) {}
}

fn start() -> Running<Gateway> {
    let mut options = Options::default();
    options.client.plan.insecure = true;
    // Nothing happens while it is measured.
    options.client.plan.ping_interval = Duration::ZERO;
    options.client.plan.stale_close_delay = STALE;
    options.sse.enabled = true;
    options.uni_sse.enabled = true;
    options.http_stream.enabled = true;
    options.http_server.port = 0;
    options.engine.workers = 1;
    options.engine.max_connections = 2 * CLIENTS as u32;
    let config = options.engine_config();
    let placement = Placement::new(1, 1);
    let rules = Arc::new(Rulebook::new(options.gateway_plan()).expect("the options hold"));
    let names = Arc::new(SessionNames::new("here".to_owned()));
    let limits = HomeLimits::default();
    let posts = Budget::new(0);
    let (control, broker, unix) = (Arc::new(Nobody), None, unix_now);
    let keeping = Keeping::default();
    let seed = Seed { placement, limits, rules, control, names, posts, broker, unix, keeping };
    let server = Server::builder().config(config).workers(1);
    server.start(move |core| Gateway::new(core, &seed)).expect("the server starts")
}

/// As many as fit the tables of connections to the last place.
const CLIENTS: usize = 2048;

/// Bytes of each client's share in the lists of a turn, 8 KiB in all, which are as long as the
/// largest turn there was. What a client has to itself is more.
const SHARED: f64 = 4.0;

const CONNECT: &[u8] = b"{\"id\":1,\"connect\":{}}";

#[derive(Clone, Copy, Debug)]
enum By {
    WebSocket,
    Sse,
    UniSse,
    HttpStream,
}

fn connect(address: SocketAddr, by: By) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("the server accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
    let connect = escaped(std::str::from_utf8(CONNECT).expect("text"));
    let bytes = match by {
        By::WebSocket => {
            let line = "GET /connection/websocket HTTP/1.1";
            [wire::request(line, &wire::UPGRADE), wire::frame(FIN | TEXT, CONNECT)].concat()
        }
        By::Sse => request("GET", &format!("/connection/sse?cf_connect={connect}"), &[], b""),
        By::UniSse => request("GET", "/connection/uni_sse", &[], b""),
        By::HttpStream => request("POST", "/connection/http_stream", &[], CONNECT),
    };
    socket.write_all(&bytes).expect("the request is taken");
    let mut received = Vec::new();
    while !received.windows(12).any(|window| window == b"\"connect\":{\"") {
        let mut bytes = [0; 2048];
        let count = unbroken(|| socket.read(&mut bytes)).expect("a connect reply");
        assert!(count > 0, "{}", received.escape_ascii());
        received.extend_from_slice(&bytes[..count]);
    }
    socket
}

/// How long the gateway keeps a note of each connection, whether it connects.
const STALE: Duration = Duration::from_millis(300);

/// What is held when nothing changes it any more.
fn at_rest() -> i64 {
    let deadline = Instant::now() + PATIENCE;
    let (mut last, mut since) = (HELD.load(Ordering::Relaxed), Instant::now());
    while since.elapsed() < STALE.mul_f32(1.5) {
        assert!(Instant::now() < deadline, "never at rest");
        std::thread::sleep(Duration::from_millis(10));
        let now = HELD.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// Waits until what the last crowd's turns needed is given back: the core looks for it every two
/// seconds, in some turn, and every question for its figures makes one.
fn await_calm(running: &Running<Gateway>) {
    std::thread::sleep(Duration::from_millis(2100));
    // The first is answered before its turn looks, the second after that.
    for _ in 0..2 {
        figures::stats(&running.handle());
    }
}

fn wait_open(running: &Running<Gateway>, open: usize) {
    let deadline = Instant::now() + PATIENCE;
    let connections = || figures::counters(&running.handle()).connections as usize;
    while connections() != open {
        assert!(Instant::now() < deadline, "{} connections", connections());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// So many clients come and go. Returns what is held while they are there.
fn crowd(running: &Running<Gateway>, by: By, held: impl FnOnce() -> i64) -> i64 {
    let address = running.address().expect("it listens");
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(address, by)).collect();
    wait_open(running, CLIENTS);
    let held = held();
    drop(clients);
    wait_open(running, 0);
    held
}

/// Bytes that are held for each of so many clients.
fn cost(running: &Running<Gateway>, by: By) -> f64 {
    await_calm(running);
    let before = at_rest();
    let own = (CLIENTS * size_of::<TcpStream>()) as i64;
    let held = crowd(running, by, || {
        let counters = figures::counters(&running.handle());
        let streams = if matches!(by, By::WebSocket) { 0 } else { CLIENTS as u64 };
        assert_eq!((counters.open, counters.streams), (CLIENTS as u64, streams));
        assert_eq!((counters.inbound_bytes_held, counters.outbox_bytes_held), (0, 0));
        at_rest()
    });
    (held - before - own) as f64 / CLIENTS as f64
}

#[test]
fn an_idle_stream_costs_no_more_than_an_idle_websocket() {
    raise_open_files();
    let running = start();
    let streams = [By::Sse, By::UniSse, By::HttpStream];
    // What is kept between crowds is there from now on.
    crowd(&running, By::WebSocket, || 0);
    for by in streams {
        crowd(&running, by, || 0);
    }
    // A table that grows at one moment or another is nobody's cost, so the least of two counts
    // where one may be too high.
    let websocket = cost(&running, By::WebSocket).min(cost(&running, By::WebSocket));
    println!("WebSocket: {websocket:.1} bytes");
    assert!((100.0..400.0).contains(&websocket), "{websocket} bytes: is everything counted?");
    for by in streams {
        let mut stream = cost(&running, by);
        if stream > websocket + SHARED {
            stream = stream.min(cost(&running, by));
        }
        println!("{by:?}: {stream:.1} bytes");
        assert!(stream <= websocket + SHARED, "{by:?}: {stream} bytes, a WebSocket {websocket}");
    }
    running.handle().stop();
    running.join().expect("it ends well");
}
