//! Instructions of user space for one message that comes alone: the whole way from the end of the
//! wait to the end of the next, counted by single steps, so exactly.
//!
//! `cargo bench --bench lone_turn`, wherever threads can be stepped. The figure belongs to one
//! compiler and one set of options; compare before and after with the same. `--addresses FILE`
//! writes how often each instruction ran, for `addr2line` (x86-64).
//!
//! The method: a child echoes on one worker, whose thread is stepped (`PTRACE_SINGLESTEP`). The
//! next message is sent when the reply to the last one has come and the worker sleeps, so a count
//! begins and ends with the wait. Calls of the kernel are one step each.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use ringhold::protocol::request::Request;
use ringhold::{Connection, Context, Handler, Message, Server, UpgradeAction};

struct Echo;

impl Handler for Echo {
    type State = ();
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        UpgradeAction::accept(())
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        let _ = conn.reply(message);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == SERVE) {
        return serve();
    }
    let mut child = Command::new(&arguments[0])
        .arg(SERVE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts once more");
    let addresses = arguments.iter().position(|argument| argument == "--addresses");
    let file = addresses.and_then(|at| arguments.get(at + 1));
    let counts = count(&mut child, file.map(String::as_str));
    drop(child.kill());
    drop(child.wait());
    let mut sorted = counts.clone();
    sorted.sort_unstable();
    let out = std::io::stdout();
    let _ = writeln!(
        out.lock(),
        "instructions of user space per lone message: {} (least {}, most {}, of {})",
        sorted[sorted.len() / 2],
        sorted[0],
        sorted[sorted.len() - 1],
        sorted.len()
    );
}

/// The child: echoes until it is killed, or its parent is gone.
fn serve() {
    let server = Server::builder()
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .workers(1)
        .max_connections(100)
        .configure(|config| {
            config.heartbeat.enabled = false;
            // Slower than any turn that is stepped through, so that no tick is among the counted.
            config.tick = Duration::from_secs(1);
        })
        .start(|_| Echo)
        .expect("the server starts");
    let address = server.address().expect("it listens");
    let _ = writeln!(std::io::stdout(), "{address}");
    let _ = std::io::stdin().read(&mut [0]);
    server.handle().stop();
    let _ = server.join();
}

/// Steps through the worker while a client echoes; returns the steps of each message.
fn count(child: &mut Child, file: Option<&str>) -> Vec<u64> {
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    output.read_line(&mut line).expect("the child says its address");
    let address: SocketAddr = line.trim().parse().expect("an address");
    let replies = Arc::new(AtomicUsize::new(0));
    let turns = Arc::new(AtomicUsize::new(WARM));
    let client = std::thread::spawn({
        let (replies, turns) = (replies.clone(), turns.clone());
        move || echo(address, &replies, &turns)
    });
    while replies.load(Ordering::Acquire) < WARM {
        std::thread::yield_now();
    }
    let thread = worker_of(child.id());
    ptrace::attach(thread).expect("a child may be traced");
    while !has_stopped(thread) {
        std::thread::yield_now();
    }
    let mut hits: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut counts, mut steps) = (Vec::new(), 0);
    let mut seen = 0;
    while counts.len() < MESSAGES + 2 {
        let running = counts.len() > 2 && file.is_some();
        if running && let Some(at) = position(thread) {
            *hits.entry(at).or_default() += 1;
        }
        ptrace::step(thread, None::<Signal>).expect("a stopped thread steps");
        steps += 1;
        while !has_stopped(thread) {
            // It sleeps: a call that does not is over by now.
            let now = replies.load(Ordering::Acquire);
            if now > seen {
                seen = now;
                counts.push(std::mem::take(&mut steps));
                turns.store(now + 1, Ordering::Release);
            }
            std::thread::yield_now();
        }
    }
    turns.store(usize::MAX, Ordering::Release);
    if let Some(file) = file {
        write_addresses(child.id(), &hits, file);
    }
    let _ = ptrace::detach(thread, None::<Signal>);
    drop(child.kill());
    // Its connection ends with the child.
    let _ = client.join();
    // The first are those of the attaching.
    counts.split_off(2)
}

/// The address of the next instruction.
#[cfg(target_arch = "x86_64")]
fn position(thread: Pid) -> Option<u64> {
    ptrace::getregs(thread).ok().map(|registers| registers.rip)
}

#[cfg(not(target_arch = "x86_64"))]
fn position(_: Pid) -> Option<u64> {
    None
}

fn has_stopped(thread: Pid) -> bool {
    match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Stopped(..)) => true,
        Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => panic!("the server is gone"),
        _ => false,
    }
}

fn worker_of(process: u32) -> Pid {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the child lives");
    let named = threads.flatten().find(|thread| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|it| it.trim() == "ringhold-0")
    });
    let name = named.expect("a worker").file_name();
    Pid::from_raw(name.to_string_lossy().parse().expect("a number"))
}

/// One message at a time, as many as there are turns, until the server is gone.
fn echo(address: SocketAddr, replies: &AtomicUsize, turns: &AtomicUsize) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the server answers");
        head.push(byte[0]);
    }
    // 32 bytes, masked with zeros; binary, so that nobody looks for UTF-8.
    let mut message = vec![0x82, 0x80 | 32, 0, 0, 0, 0];
    message.extend_from_slice(&[b'x'; 32]);
    let mut reply = [0; 34];
    while stream.write_all(&message).and_then(|()| stream.read_exact(&mut reply)).is_ok() {
        let count = replies.fetch_add(1, Ordering::AcqRel) + 1;
        while turns.load(Ordering::Acquire) <= count {
            std::thread::yield_now();
        }
    }
}

/// Addresses as in the program's file, each with its count.
fn write_addresses(process: u32, hits: &BTreeMap<u64, u64>, file: &str) {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("the child lives");
    let base = maps.split('-').next().and_then(|base| u64::from_str_radix(base, 16).ok());
    let base = base.expect("a map begins with an address");
    let lines: String =
        hits.iter().map(|(at, count)| format!("{:#x} {count}\n", at.wrapping_sub(base))).collect();
    fs::write(file, lines).expect("the file can be written");
}

const SERVE: &str = "--serve";

/// Replies before the first step.
const WARM: usize = 200;

/// Messages that are counted.
const MESSAGES: usize = 21;
