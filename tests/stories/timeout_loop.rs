//! The story of the heartbeat timeout loop, told by users whose connections open and close in
//! every order.
//!
//! The method: an application keeps a registry with one connection per user, as everybody does;
//! the newest replaces the older. Two connections of a user run through each interleaving of
//! their opens and ends, with each way to end. The registry and the counters must agree after it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold::protocol::request::Request;
use ringhold::{
    Cause, CloseCode, Closed, Config, ConnId, Connection, Context, Handler, Message, UpgradeAction,
};

use crate::stories::{Child, Peer, Site, wait_until};
use crate::support::wire::{CLOSE, FIN, close_payload, frame};

/// What all cores know of the users.
#[derive(Default)]
struct Registry {
    present: HashMap<String, ConnId>,
    opened: u64,
    /// How often each connection was removed, and why.
    removed: HashMap<ConnId, Vec<Cause>>,
}

struct Hub(Arc<Mutex<Registry>>);

impl Handler for Hub {
    type State = String;
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        r: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<String> {
        UpgradeAction::accept(r.path().to_owned())
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, user: &mut String) {
        let mut registry = self.0.lock().unwrap();
        registry.opened += 1;
        if let Some(old) = registry.present.insert(user.clone(), conn.id()) {
            // It may be gone already, with its close event on the way.
            let _ = conn.close_other(old);
        }
    }

    fn on_message(&mut self, _: &mut Connection<'_>, _: &mut String, _: Message<'_>) {}

    fn on_close(&mut self, _: &mut Context<'_>, id: ConnId, user: String, closed: &Closed) {
        let mut registry = self.0.lock().unwrap();
        registry.removed.entry(id).or_default().push(closed.cause);
        if registry.present.get(&user) == Some(&id) {
            registry.present.remove(&user);
        }
    }
}

trait CloseOther {
    fn close_other(&mut self, id: ConnId) -> Result<(), ringhold::SendError>;
}

impl CloseOther for Connection<'_> {
    fn close_other(&mut self, id: ConnId) -> Result<(), ringhold::SendError> {
        (**self).close(id, CloseCode(4000), "replaced")
    }
}

fn quick_heartbeats(config: &mut Config) {
    config.heartbeat.enabled = true;
    config.heartbeat.start = Duration::from_millis(800);
    config.heartbeat.floor = Duration::from_millis(400);
    config.heartbeat.ceiling = Duration::from_millis(800);
    config.heartbeat.suspect = Duration::from_millis(300);
    config.heartbeat.probe = Duration::from_millis(600);
    config.heartbeat.dead = Duration::from_millis(900);
    config.close_timeout = Duration::from_secs(1);
}

/// The ways to end: with a close frame, with a FIN, with a reset, with nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Fin,
    Reset,
    Silence,
}

const ENDS: [End; 4] = [End::Close, End::Fin, End::Reset, End::Silence];

/// Who does the next step, the first or the second connection: each opens, then ends.
const ORDERS: [[usize; 4]; 6] =
    [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]];

/// A client times out; its close event is handled after the open event of the same user's next
/// connection and removes that one instead. Now nobody is registered, the timeout fires again,
/// and again, and the log fills with the same line. (gowebsocket)
#[test]
fn every_order_of_opens_and_ends_leaves_the_registry_right() {
    let registry: Arc<Mutex<Registry>> = Arc::default();
    let kept = registry.clone();
    let site = Site::start(quick_heartbeats, move || Hub(kept.clone()));
    // The silent ones stay connected to the end.
    let mut silent = Vec::new();
    let mut users = 0;
    for order in ORDERS {
        for first in ENDS {
            for second in ENDS {
                users += 1;
                run(site.address, users, order, [first, second], &mut silent);
            }
        }
    }
    let end = site.wait_empty();
    let registry = registry.lock().unwrap();
    assert_eq!(registry.opened, 2 * users);
    assert_eq!(registry.removed.len() as u64, 2 * users, "everyone is removed");
    let twice: Vec<_> = registry.removed.iter().filter(|(_, causes)| causes.len() != 1).collect();
    assert!(twice.is_empty(), "removed more than once: {twice:?}");
    assert!(registry.present.is_empty(), "still registered: {:?}", registry.present);
    assert_eq!((end.opened, end.closed), (2 * users, 2 * users), "the counters agree");
    let count = |cause| registry.removed.values().filter(|causes| causes[0] == cause).count();
    assert_eq!(end.closed_heartbeat, count(Cause::Heartbeat) as u64);
    assert_eq!(end.closed_application, count(Cause::Application) as u64);
    assert!(end.closed_heartbeat > 0 && end.closed_application > 0, "{end:?}");
    assert_eq!(end.panics, 0);
    drop(registry);
    site.end();
}

fn run(address: SocketAddr, user: u64, order: [usize; 4], ends: [End; 2], silent: &mut Vec<Peer>) {
    let path = format!("/user{user}");
    let mut peers = [None, None];
    let mut started = [false, false];
    for who in order {
        if !std::mem::replace(&mut started[who], true) {
            peers[who] = Some(Peer::open(address, &path));
            continue;
        }
        let mut peer: Peer = peers[who].take().expect("it is open");
        match ends[who] {
            End::Close => {
                // It may have been replaced meanwhile.
                let _ = peer.try_send(&frame(FIN | CLOSE, &close_payload(1000, b"")));
            }
            End::Fin => drop(peer),
            End::Reset => peer.reset(),
            End::Silence => silent.push(peer),
        }
    }
}

/// Timeouts of many silent connections at once: each is closed once, each after its deadline,
/// and the timers are gone with them.
#[test]
fn a_timed_out_connection_is_removed_exactly_once() {
    const CLIENTS: usize = 300;
    let (site, journal) = Site::watched(quick_heartbeats);
    let clients: Vec<Peer> = (0..CLIENTS).map(|_| Peer::open(site.address, "/silent")).collect();
    let end = site.wait_empty();
    assert_eq!(end.closed_heartbeat, CLIENTS as u64);
    assert_eq!(end.heartbeats_missed, 3 * end.closed_heartbeat, "suspect, probe, dead");
    assert_eq!(end.heartbeats_sent, 3 * end.closed_heartbeat);
    // Much longer than any of the deadlines: nothing repeats.
    std::thread::sleep(Duration::from_millis(2_500));
    let later = site.counters();
    assert_eq!(later.heartbeats_missed, end.heartbeats_missed);
    assert_eq!(later.heartbeats_sent, end.heartbeats_sent);
    assert_eq!(later.closed, CLIENTS as u64);
    journal.assert_sound();
    assert!(journal.ended().iter().all(|ended| ended.cause == Cause::Heartbeat));
    drop(clients);
    site.end();
}

/// The log of the program says what happened, and does not say it for ever.
#[test]
fn no_log_line_repeats() {
    let (server, address) = Child::serve(&[
        "--log=trace",
        "--listen=127.0.0.1:0",
        "--workers=2",
        "--heartbeat-start=800ms",
        "--heartbeat-floor=400ms",
        "--heartbeat-suspect=300ms",
        "--heartbeat-probe=600ms",
        "--heartbeat-dead=900ms",
    ]);
    let mut clients: Vec<Peer> = (0..100).map(|_| Peer::open(address, "/")).collect();
    for peer in &mut clients {
        wait_until("the silent to be cut", || peer.read().ok().map(|frame| format!("{frame:?}")));
    }
    server.signal("TERM");
    let (status, log) = server.ended();
    assert!(status.success());
    let mut seen = HashMap::<&str, usize>::new();
    for line in log.iter().filter(|line| line.contains("ringhold")) {
        // Behind the time.
        *seen.entry(line.split_once(' ').map_or("", |(_, rest)| rest)).or_default() += 1;
    }
    let repeated: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(repeated.is_empty(), "{repeated:?}");
    assert!(seen.len() < 20, "{} lines for 100 ordinary timeouts: {seen:?}", seen.len());
}
