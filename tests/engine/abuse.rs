//! Clients that mean harm, or act as if: what they do costs themselves, and others are served.
//!
//! The method: while well-behaved clients echo, a gang does one kind of mischief with raw sockets.
//! The plain test asserts that echoes go on and that nothing stays behind. How long others wait is
//! a statement about time: `cargo test --release --test engine abuse:: -- --ignored --nocapture`
//! prints the p99 alone, among as many well-behaved clients, and among each kind of gang, and
//! fails where a gang makes it more than twice what it is alone.
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::stories::peer::upgrade;
use crate::stories::{Peer, Site, Watcher};
use crate::support::wire::{BINARY, CONTINUATION, FIN, PING, TEXT, frame};

/// The kinds of mischief.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    /// None: one small message after the other.
    Polite,
    /// Handshakes that come one byte at a time and never end.
    SlowLoris,
    /// Frames that come one byte at a time.
    OneByteFrames,
    PingFlood,
    EmptyFragments,
    TinyMessages,
    /// Connections that are opened and half-closed, again and again.
    HalfClosed,
    /// Readers that ask for much and never read.
    NeverReader,
}

const ALL: [Mischief; 7] = [
    Mischief::SlowLoris,
    Mischief::OneByteFrames,
    Mischief::PingFlood,
    Mischief::EmptyFragments,
    Mischief::TinyMessages,
    Mischief::HalfClosed,
    Mischief::NeverReader,
];

const GANG: usize = 50;

/// One of the gang.
struct Member {
    peer: Peer,
    step: usize,
    /// What its socket did not take of its last bytes.
    rest: Vec<u8>,
}

/// A member of the gang acts once. Returns false when it has to come again as somebody new.
fn act(kind: Mischief, member: &mut Member) -> bool {
    let Member { peer, step, rest } = member;
    let step = std::mem::replace(step, *step + 1);
    let many = |first, payload: &[u8]| frame(first, payload).repeat(500);
    let mut bytes = match kind {
        Mischief::Polite => frame(FIN | BINARY, b"a small message"),
        Mischief::SlowLoris => {
            let head = upgrade("/");
            // Stops before the end of the head.
            vec![head[step % (head.len() - 4)]]
        }
        Mischief::OneByteFrames => {
            let bytes = frame(FIN | TEXT, b"x");
            vec![bytes[step % bytes.len()]]
        }
        Mischief::PingFlood => many(FIN | PING, b"ping"),
        Mischief::EmptyFragments => {
            let mut bytes = frame(BINARY, b"");
            bytes.extend(many(CONTINUATION, b""));
            bytes.extend(frame(FIN | CONTINUATION, b""));
            bytes
        }
        Mischief::TinyMessages => many(FIN | BINARY, b"x"),
        Mischief::HalfClosed => {
            peer.half_close();
            return false;
        }
        Mischief::NeverReader if rest.is_empty() => frame(FIN | BINARY, &[0; 60_000]),
        Mischief::NeverReader => std::mem::take(rest),
    };
    let stays = !matches!(kind, Mischief::SlowLoris) || step < 200;
    // A piece at a time: what runs in the kernel does not make way for the victims.
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + 4096);
        match peer.socket().write(&bytes[at..end]) {
            Ok(count) => at += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(_) => return false,
        }
    }
    if matches!(kind, Mischief::NeverReader) {
        // It must stay for the server to be the one who waits.
        *rest = bytes.split_off(at);
        return true;
    }
    // Else a frame cut by a full socket breaks the stream; then somebody new comes.
    stays && (at == 0 || at == bytes.len())
}

/// Leaves the server its processor, the first. Else the scheduler now and then wakes a client on
/// it, and leaves it waiting there.
fn keep_off_the_server() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    if let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)) {
        let mut own = CpuSet::new();
        own.set(last);
        let _ = sched_setaffinity(None, &own);
    }
}

/// Lets everybody else run first: what is measured is how the server serves the others, not how the
/// host shares processors. Where the scheduler's idle class cannot be had, the lowest priority is
/// next best: such a thread, once it runs, is left its slice (0.7 ms) while others wait.
fn stand_back() {
    let thread = rustix::thread::gettid();
    let id = thread.as_raw_nonzero().to_string();
    let idle = Command::new("chrt").args(["--idle", "--pid", "0", &id]).status();
    if !idle.is_ok_and(|status| status.success()) {
        let _ = rustix::process::setpriority_process(Some(thread), 19);
    }
}

/// Tells the gang to go, also when the test fails meanwhile.
struct Dismissal<'a>(&'a AtomicBool);

impl Drop for Dismissal<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The gang at work on one thread, until told to go. It reads nothing it can do without.
fn gang(kind: Mischief, server: SocketAddr, going_on: &AtomicBool) {
    let arrive = || {
        let mut peer = Peer::connect(server);
        if !matches!(kind, Mischief::SlowLoris) {
            peer = peer.upgraded("/");
        }
        peer.socket().set_nonblocking(true).expect("set_nonblocking");
        Member { peer, step: 0, rest: Vec::new() }
    };
    let mut members: Vec<Member> = (0..GANG).map(|_| arrive()).collect();
    let mut scrap = vec![0; 65_536];
    while going_on.load(Ordering::Relaxed) {
        for member in &mut members {
            let stays = act(kind, member);
            if !matches!(kind, Mischief::NeverReader) {
                let _ = member.peer.socket().read(&mut scrap);
            }
            if !stays {
                *member = arrive();
            }
        }
        // The gang shares the processors with its victims; a pause leaves them to the server.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Echoes with some clients for this long; gives the sorted latencies.
fn echoes(server: SocketAddr, time: Duration) -> Vec<Duration> {
    let mut peers: Vec<Peer> = (0..10).map(|_| Peer::open(server, "/")).collect();
    let end = Instant::now() + time;
    let mut latencies = Vec::new();
    while Instant::now() < end {
        for peer in &mut peers {
            let start = Instant::now();
            peer.echo(b"how long does this take?");
            latencies.push(start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for peer in peers {
        peer.close(1000);
    }
    latencies.sort_unstable();
    latencies
}

fn site(workers: usize) -> Site<Watcher> {
    let (site, _) = Site::watched(|config| {
        config.workers = workers;
        config.pin = workers == 1;
        config.max_message = 64 * 1024;
        config.max_outbox = 256 * 1024;
        // Of those that dawdle, all leave before.
        config.handshake_timeout = Duration::from_secs(30);
        config.write_timeout = Duration::from_secs(2);
        config.close_timeout = Duration::from_secs(2);
    });
    site
}

/// Echoes while the gang is at work. `settle` is what its thread does first.
fn troubled(site: &Site<Watcher>, kind: Mischief, time: Duration, settle: fn()) -> Vec<Duration> {
    let going_on = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let _dismissal = Dismissal(&going_on);
        scope.spawn(|| {
            settle();
            gang(kind, site.address, &going_on);
        });
        site.wait_for("the gang", |c| c.connections >= GANG as u64 / 2);
        let latencies = echoes(site.address, time);
        if matches!(kind, Mischief::NeverReader) {
            // On a busy machine it takes a while to send that much.
            site.wait_for("a pause in reading", |c| c.read_pauses > 0);
        }
        latencies
    })
}

/// Seven kinds of clients that are there to hurt, each in its turn. The others' echoes come,
/// every one of them; and when the gang is gone nothing of it is left.
#[test]
fn others_are_served_and_nothing_is_left() {
    let site = site(2);
    for kind in ALL {
        // Of the same rank as everybody: a gang that stands back does nothing on a busy machine.
        let latencies = troubled(&site, kind, Duration::from_millis(1_000), || {});
        // A stalled core would answer none; how many is a question of the machine.
        assert!(latencies.len() >= 3, "{kind:?}: only {} echoes", latencies.len());
        let counters = site.wait_empty();
        assert_eq!(counters.panics, 0, "{kind:?}");
    }
    let end = site.end().counters;
    assert!(end.handshake_timeouts > 0 || end.handshake_aborts > 0, "{end:?}");
}

/// The same with a clock.
#[test]
#[ignore = "measures time: run it alone, on a release build"]
fn p99_stays_within_twice_its_quiet_value() {
    // One worker, so that the clients have a processor, as they have on other hosts: a flood that
    // keeps the worker busy must not also keep its victims from running.
    let site = site(1);
    keep_off_the_server();
    let time = Duration::from_secs(10);
    let p99 = |latencies: &[Duration]| latencies[latencies.len() * 99 / 100];
    let p50 = |latencies: &[Duration]| latencies[latencies.len() / 2];
    let mut beyond = Vec::new();
    let heads = ["alone p99", "polite p50", "polite p99", "p50", "p99"];
    println!("{:<16} {}", "kind", heads.map(|head| format!("{head:>10}")).join(" "));
    for kind in ALL {
        // Just before, since the machine may do other things at different times.
        let alone = echoes(site.address, time / 2);
        let polite = troubled(&site, Mischief::Polite, time / 2, stand_back);
        let abused = troubled(&site, kind, time, stand_back);
        let figures = [p99(&alone), p50(&polite), p99(&polite), p50(&abused), p99(&abused)];
        let [a, b, c, d, e] = figures.map(|d| format!("{d:.1?}"));
        println!("{:<16} {a:>10} {b:>10} {c:>10} {d:>10} {e:>10}", format!("{kind:?}"));
        if figures[4] > 2 * figures[0] {
            beyond.push(kind);
        }
        site.wait_empty();
    }
    site.end();
    assert!(beyond.is_empty(), "beyond twice the p99 of a quiet server: {beyond:?}");
}
