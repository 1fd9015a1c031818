//! The story of the message for a missing client, told by thousands of clients that vanish while
//! messages to and from them are in flight.
//!
//! The method: the clients live in a child process that is killed with SIGKILL, so the kernel ends
//! all their connections in one moment, by reset where they left something unread. The application
//! goes on sending, by identifier and by topic. Exact counters say what became of each message.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold::protocol::request::Request;
use ringhold::{
    Closed, ConnId, Connection, Context, Frame, Handler, Message, SendError, UpgradeAction,
};

use crate::stories::{Child, Peer, Site, child_port, is_child, wait_until};
use crate::support::wire::{BINARY, Length, MASK, header};

const CLIENTS: usize = 3_000;

/// The server of a game keeps sending votes to players whose train has gone into a tunnel. The
/// message for a client that is gone throws in the process that serves everybody else. One train
/// takes them all down. (Parabol)
#[test]
fn thousands_vanish_with_messages_in_flight() {
    let (site, journal) = Site::watched(|config| {
        config.max_connections = 2 * CLIENTS as u32;
        config.heartbeat.enabled = true;
        config.heartbeat.start = Duration::from_secs(2);
        config.heartbeat.floor = Duration::from_secs(1);
        config.write_timeout = Duration::from_secs(5);
    });
    let child = Child::reenter("missing_client::passengers", site.address, &[]);
    child.wait_line("aboard");
    let before = site.wait_for("all aboard", |c| {
        c.open == CLIENTS as u64 && c.subscriptions == c.open && c.inbound_bytes_held > 0
    });
    assert_eq!(before.topics, 2, "one per core");

    let vote = Frame::binary(&[7; 2_000]);
    let ids = journal.open();
    assert_eq!(ids.len(), CLIENTS);
    let mut votes = 0;
    for round in 0..20 {
        site.handle.publish("news", &vote);
        votes += ids.iter().filter(|id| send_patiently(&site, **id, &vote)).count() as u64;
        if round == 3 {
            child.signal("KILL");
        }
    }
    let after = site.wait_empty();
    journal.assert_sound();
    assert_eq!(journal.ended().len(), CLIENTS, "each ended, once");
    assert_eq!(after.opened, after.closed);
    let gone = after.dropped_gone - before.dropped_gone;
    assert!(gone > 0 && gone <= votes + 20 * CLIENTS as u64, "{gone} of {votes} dropped");

    // What is sent now is dropped one by one, and nothing else happens.
    let sent = ids.iter().filter(|id| send_patiently(&site, **id, &vote)).count() as u64;
    assert_eq!(sent, CLIENTS as u64);
    assert_eq!(site.handle.publish("news", &vote), 0);
    let end = site.wait_for("all to be dropped", |c| c.dropped_gone >= after.dropped_gone + sent);
    assert_eq!(end.dropped_gone, after.dropped_gone + sent);
    assert_eq!(end.messages_out, after.messages_out, "no message was queued for the missing");
    assert_eq!(end.timers, 0);

    // Twice the interval at which their timers would have fired.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(site.counters().heartbeats_sent, after.heartbeats_sent, "no timer of theirs fired");
    assert_eq!(site.counters().panics, 0);
    Peer::open(site.address, "/").echo(b"the rest of the world goes on");
    site.end();
}

/// The clients of the story, in a process of their own: each has subscribed, has sent a message
/// and the first half of another, and never reads.
#[test]
#[ignore = "runs only as a child of the story"]
fn passengers() {
    if !is_child() {
        return;
    }
    let server = child_port();
    let mut half = header(0x80 | BINARY, Length::shortest(3_000), Some(MASK));
    half.extend([0; 1_500]);
    let clients: Vec<Peer> = (0..CLIENTS)
        .map(|_| {
            let mut peer = Peer::open(server, "/topic");
            peer.message(b"a vote");
            peer.send(&half);
            peer
        })
        .collect();
    println!("aboard");
    std::thread::sleep(crate::stories::PATIENCE);
    drop(clients);
}

fn send_patiently<H: Handler>(site: &Site<H>, id: ConnId, frame: &Frame) -> bool {
    loop {
        match site.handle.send(id, frame) {
            Ok(()) => return true,
            Err(SendError::Busy) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => return false,
        }
    }
}

/// A server repeats each message until the client acknowledges it. The client is gone, so it
/// repeats for ever; and when the place of the client is given to another, the other one gets
/// what was meant for the first.
#[test]
fn retries_end_and_never_reach_the_next_tenant() {
    let fates: Arc<Mutex<Fates>> = Arc::default();
    let kept = fates.clone();
    let site = Site::start(
        |config| config.workers = 1,
        move || Retrier { waiting: HashSet::new(), gone: Vec::new(), fates: kept.clone() },
    );
    const TENANTS: u64 = 200;
    for tenant in 0..TENANTS {
        // Slots are handed out again at once, so each tenant lives where the last one did.
        let mut peer = Peer::open(site.address, "/");
        peer.send_frame(0x80 | BINARY, &tenant.to_be_bytes());
        let crate::stories::Frame::Binary(got) = peer.read().expect("a message") else {
            panic!("expected a message")
        };
        assert_eq!(got, tenant.to_be_bytes(), "a message meant for somebody else");
        peer.reset();
    }
    site.wait_empty();
    wait_until("a late retry for each", || {
        let refused = fates.lock().unwrap().refused;
        (refused < TENANTS).then(|| format!("{refused} refused"))
    });
    // In this order: what the application saw refused was counted before.
    let Fates { closed, refused, reached_the_gone } = *fates.lock().unwrap();
    let end = site.counters();
    assert_eq!(closed, TENANTS, "each retry list ends with its connection");
    assert_eq!(reached_the_gone, 0, "nothing is queued for who is gone");
    // What was queued just before the connection broke was never sent, and is counted with them.
    let unsent = end.dropped_gone.checked_sub(refused).expect("each refused retry is counted");
    assert!(unsent <= end.messages_out - TENANTS, "{unsent} were counted that nobody queued");
    site.end();
}

#[derive(Clone, Copy, Default)]
struct Fates {
    closed: u64,
    refused: u64,
    reached_the_gone: u64,
}

/// Sends each client its own message again and again, for which it keeps a list that outlives
/// the connections by one retry.
struct Retrier {
    waiting: HashSet<(ConnId, u64)>,
    /// Identifiers of the past, retried whenever somebody new speaks.
    gone: Vec<(ConnId, u64)>,
    fates: Arc<Mutex<Fates>>,
}

impl Handler for Retrier {
    type State = u64;
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: std::net::SocketAddr,
    ) -> UpgradeAction<u64> {
        UpgradeAction::accept(0)
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, tenant: &mut u64, message: Message<'_>) {
        *tenant = u64::from_be_bytes(message.payload().try_into().expect("eight bytes"));
        let fates = &mut *self.fates.lock().unwrap();
        for (id, old) in &self.gone {
            match conn.send_to(*id, &Frame::binary(&old.to_be_bytes())) {
                Err(SendError::Gone) => fates.refused += 1,
                _ => fates.reached_the_gone += 1,
            }
        }
        self.waiting.insert((conn.id(), *tenant));
    }

    fn on_close(&mut self, cx: &mut Context<'_>, id: ConnId, tenant: u64, _: &Closed) {
        let fates = &mut *self.fates.lock().unwrap();
        fates.closed += 1;
        self.gone.push((id, tenant));
        // The close is known, and still a retry comes: now, and at the next turn.
        match cx.send_to(id, &Frame::binary(&tenant.to_be_bytes())) {
            Err(SendError::Gone) => fates.refused += 1,
            _ => fates.reached_the_gone += 1,
        }
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let fates = &mut *self.fates.lock().unwrap();
        self.waiting.retain(|(id, tenant)| {
            let sent = cx.send_to(*id, &Frame::binary(&tenant.to_be_bytes()));
            fates.refused += u64::from(sent == Err(SendError::Gone));
            sent != Err(SendError::Gone)
        });
        (!self.waiting.is_empty()).then_some(Duration::from_millis(1))
    }
}
