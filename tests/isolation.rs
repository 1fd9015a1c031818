//! What one connection, one callback or one crash of thousands of clients may do to the rest:
//! nothing.
//!
//! The method: handlers that panic on request in each callback, identifiers used after their
//! connection is gone, mailboxes that are full, and rounds of clients that are killed in the
//! middle of everything. Afterwards every gauge is at zero and memory is where it was.

#[path = "support/stories/mod.rs"]
mod stories;
mod support;

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ringhold::protocol::request::Request;
use ringhold::{
    CloseCode, Closed, ConnId, Connection, Context, Frame, Handler, Message, SendError,
    UpgradeAction,
};

use crate::stories::{Child, Peer, Site, child_port, is_child};
use crate::support::wire::{BINARY, Length, MASK, header};

/// Echoes, and panics in the callback that the path names.
struct Fragile {
    fuse: bool,
}

impl Fragile {
    fn check(path: &str, callback: &str) {
        assert!(path != callback, "asked to panic in {callback}");
    }
}

impl Handler for Fragile {
    type State = String;
    type Event = bool;

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        r: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<String> {
        Self::check(r.path(), "/request");
        UpgradeAction::accept(r.path().to_owned())
    }

    fn on_open(&mut self, _: &mut Connection<'_>, path: &mut String) {
        Self::check(path, "/open");
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, path: &mut String, message: Message<'_>) {
        Self::check(path, "/message");
        let _ = conn.reply(message);
    }

    fn on_writable(&mut self, _: &mut Connection<'_>, path: &mut String) {
        Self::check(path, "/writable");
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ConnId, path: String, _: &Closed) {
        Self::check(&path, "/close");
    }

    fn on_event(&mut self, _: &mut Context<'_>, in_turn: bool) {
        self.fuse = in_turn;
        assert!(in_turn, "asked to panic in a letter");
    }

    fn on_turn(&mut self, _: &mut Context<'_>) -> Option<Duration> {
        assert!(!std::mem::take(&mut self.fuse), "asked to panic in a turn");
        None
    }
}

/// A handler has a bug that one user's input triggers. The user sees an error; everybody else on
/// the same core sees nothing.
#[test]
fn a_panic_in_any_callback_ends_that_connection_only() {
    let site = Site::start(
        |config| {
            config.workers = 1;
            config.max_outbox = 64 * 1024;
        },
        || Fragile { fuse: false },
    );
    let mut bystander = Peer::open(site.address, "/");
    let mut refused = Peer::connect(site.address);
    refused.send(&stories::peer::upgrade("/request"));
    assert!(refused.read_head().starts_with("HTTP/1.1 503 "));
    bystander.echo(b"after request");

    assert_eq!(Peer::open(site.address, "/open").read_close().0, 1011);
    bystander.echo(b"after open");

    let mut peer = Peer::open(site.address, "/message");
    peer.message(b"now");
    assert_eq!(peer.read_close().0, 1011);
    bystander.echo(b"after message");

    // A reader that lets its outbox fill, and then reads it empty, is told that it is writable.
    let mut peer = Peer::open_narrow(site.address, "/writable");
    let mut sender = peer.socket().try_clone().expect("a socket can be shared");
    sender.set_nonblocking(true).expect("set_nonblocking");
    let bytes = support::wire::frame(0x82, &[0; 4000]);
    while site.counters().read_pauses == 0 {
        // What does not fit is cut, which no longer matters here.
        let _ = std::io::Write::write(&mut sender, &bytes);
    }
    sender.set_nonblocking(false).expect("set_nonblocking");
    assert_eq!(peer.read_close().0, 1011);
    bystander.echo(b"after writable");

    let mut peer = Peer::open(site.address, "/close");
    peer.echo(b"fine so far");
    peer.close(1000);
    bystander.echo(b"after close");

    site.handle.post(0, false).expect("the core listens");
    bystander.echo(b"after letter");
    site.handle.post(0, true).expect("the core listens");
    bystander.echo(b"after turn");

    bystander.close(1000);
    drop(refused);
    let end = site.wait_empty();
    assert_eq!(end.panics, 7, "each counted");
    assert_eq!(end.closed_panic, 3, "open, message, writable");
    site.end();
}

/// Identifiers outlive connections: in a database, in another thread's queue. Used late, they
/// reach nobody, least of all the next connection in the same slot.
#[test]
fn stale_identifiers_from_other_threads_reach_nobody() {
    let (site, journal) = Site::watched(|config| config.workers = 1);
    const GONE: usize = 50;
    for round in 0..GONE {
        Peer::open(site.address, &format!("/{round}")).close(1000);
    }
    let gone: Vec<ConnId> = journal.ended().iter().map(|ended| ended.id).collect();
    site.wait_for("all to be gone", |c| c.connections == 0);
    let mut heirs: Vec<Peer> = (0..GONE).map(|_| Peer::open(site.address, "/heir")).collect();
    let frame = Frame::text("for somebody else");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for id in &gone {
                    site.handle.send(*id, &frame).expect("the mailbox takes it");
                    site.handle.close(*id, CloseCode(4000), "stale").expect("and this");
                }
            });
        }
    });
    site.wait_for("all to be refused", |c| c.dropped_gone == 4 * GONE as u64);
    for peer in &mut heirs {
        peer.echo(b"only mine");
    }
    for peer in heirs {
        peer.close(1000);
    }
    let end = site.wait_empty();
    assert_eq!(end.closed_application, 0);
    journal.assert_sound();
    site.end();
}

/// An application that waits on its core, which it must not.
struct Sleepy;

impl Handler for Sleepy {
    type State = ();
    /// A gate to wait for, if there is one.
    type Event = Option<Receiver<()>>;

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

    fn on_event(&mut self, _: &mut Context<'_>, gate: Option<Receiver<()>>) {
        let _ = gate.map(|gate| gate.recv());
    }
}

/// A core is stuck and its mailbox fills. Who sends to it is told, nobody waits, nothing grows;
/// afterwards what was taken is done.
#[test]
fn a_full_mailbox_refuses_and_recovers() {
    const ROOM: usize = 64;
    let site = Site::start(
        |config| {
            config.workers = 1;
            config.mailbox = ROOM;
        },
        || Sleepy,
    );
    let mut peer = Peer::open(site.address, "/");
    let (open, gate) = channel();
    site.handle.post(0, Some(gate)).expect("the mailbox is empty");
    // It counts until it is worked off, which it is not before the gate is open.
    let refused = (0..3 * ROOM).filter(|_| {
        let answer = site.handle.post(0, None);
        assert!(matches!(answer, Ok(()) | Err(SendError::Busy)), "{answer:?}");
        answer.is_err()
    });
    assert_eq!(refused.count(), 2 * ROOM + 1);
    // A question and a drain are taken beyond the capacity.
    assert!(site.handle.stats_by_core().is_empty(), "the gate is closed");
    drop(open);
    site.wait_for("an answer", |c| c.open == 1);
    peer.echo(b"awake again");
    site.handle.post(0, None).expect("there is room again");
    peer.close(1000);
    site.end();
}

const CLIENTS: usize = 2_000;

/// A fleet of clients is deployed, crashes, and is deployed again, ten times in a row: killed
/// while idle, in the middle of a handshake, in the middle of a message. Nothing of them stays.
#[test]
fn ten_rounds_of_killed_clients_leave_nothing() {
    let (site, journal) = Site::watched(|config| {
        config.max_connections = 2 * CLIENTS as u32;
    });
    let mut settled = 0;
    for round in 0..10 {
        let child = Child::reenter("fleet", site.address, &[]);
        child.wait_line("deployed");
        site.wait_for("the fleet", |c| c.connections >= CLIENTS as u64 * 3 / 4);
        child.kill();
        site.wait_empty();
        // The first rounds fill what is kept for reuse.
        if round == 2 {
            settled = stories::resident();
        }
    }
    let end = stories::resident();
    assert!(end < settled + (24 << 20), "memory grew from {settled} to {end} bytes");
    journal.assert_sound();
    Peer::open(site.address, "/").echo(b"still here");
    site.end();
}

/// The clients of the story: a quarter each idle, before the request's end, in a message of
/// many bytes, and with an unread echo.
#[test]
#[ignore = "runs only as a child of the story"]
fn fleet() {
    if !is_child() {
        return;
    }
    let server = child_port();
    let mut half = header(0x80 | BINARY, Length::shortest(100_000), Some(MASK));
    half.extend([0; 20_000]);
    let clients: Vec<Peer> = (0..CLIENTS)
        .map(|index| match index % 4 {
            0 => Peer::open(server, "/topic"),
            1 => {
                let mut peer = Peer::connect(server);
                peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nUpgr");
                peer
            }
            2 => {
                let mut peer = Peer::open(server, "/");
                peer.send(&half);
                peer
            }
            _ => {
                let mut peer = Peer::open(server, "/");
                peer.message(&[1; 10_000]);
                peer
            }
        })
        .collect();
    println!("deployed");
    std::thread::sleep(stories::PATIENCE);
    drop(clients);
}
