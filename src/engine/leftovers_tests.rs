//! Compressed messages that take longer than a turn should, on a core in memory: how much of them a
//! turn works off, that nothing is lost or doubled, and what becomes of the rest at each end.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::engine::harness::{Client, Received, World};
use crate::engine::{
    Cause, Closed, Compression, Config, ConnId, Connection, Context, Message, RatePolicy,
    UpgradeAction,
};
use crate::protocol::frame::{self, Opcode};
use crate::protocol::request::Request;
use crate::protocol::{CloseCode, Deflater, Kind};

/// What the application sees.
#[derive(Default)]
struct Seen {
    /// Bytes of messages in each turn that had some.
    turns: Vec<usize>,
    now: usize,
    messages: usize,
    closed: Vec<Cause>,
}

struct Host(Rc<RefCell<Seen>>);

impl Handler for Host {
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
        let mut seen = self.0.borrow_mut();
        seen.now += message.payload().len();
        seen.messages += 1;
        let turns = seen.turns.len();
        if message.payload() == b"where?" {
            let place = format!("turn {turns}");
            conn.send(Kind::Text, place.as_bytes()).unwrap();
        } else if message.payload().starts_with(b"end") {
            conn.close(CloseCode::NORMAL, "").unwrap();
        }
    }

    fn on_turn(&mut self, _: &mut Context<'_>) -> Option<Duration> {
        let mut seen = self.0.borrow_mut();
        let now = std::mem::take(&mut seen.now);
        if now > 0 {
            seen.turns.push(now);
        }
        None
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ConnId, (): (), closed: &Closed) {
        self.0.borrow_mut().closed.push(closed.cause);
    }
}

const LIMIT: usize = 64 << 10;
const OFFER: (&str, &str) = ("Sec-WebSocket-Extensions", "permessage-deflate");
/// What one connection is let do in a turn, and what may come on top.
const PORTION: usize = 2 * LIMIT;

fn config() -> Config {
    Config { max_message: LIMIT, compression: Some(Compression::default()), ..Config::default() }
}

fn world(config: Config) -> (World<Host>, Rc<RefCell<Seen>>) {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let host = seen.clone();
    (World::new(config, 1, move |_| Host(host.clone())), seen)
}

/// A frame that is inflated to so many bytes.
fn bomb(len: usize) -> Vec<u8> {
    let (mut payload, mut wire) = (Vec::new(), Vec::new());
    Deflater::new(9).deflate(&vec![b' '; len], 15, &mut payload).unwrap();
    frame::append_deflated(&mut wire, Opcode::Text, &payload, Some(*b"mask"));
    wire
}

/// A client whose receives are as large as there are.
fn greedy(world: &mut World<Host>) -> Client {
    let client = world.open(0, "/", &[OFFER]).unwrap();
    for _ in 0..8 {
        (0..8).for_each(|_| client.binary(&[0; LIMIT]));
        world.run();
    }
    client
}

#[test]
fn small_pieces_that_are_inflated_to_much_take_many_turns() {
    let (mut world, seen) = world(config());
    let attacker = greedy(&mut world);
    let other = world.open(0, "/", &[OFFER]).unwrap();
    *seen.borrow_mut() = Seen::default();
    let wire = bomb(LIMIT).repeat(500);
    assert!(wire.len() < super::super::inbox::RECEIVE_MAX, "one receive: {}", wire.len());
    attacker.bytes(&wire);
    other.text("where?");
    world.run();
    let counters = world.stats().counters;
    let seen = seen.borrow();
    assert_eq!(seen.messages, 501, "nothing is lost or doubled");
    assert!(seen.turns.iter().all(|bytes| *bytes <= PORTION + 6), "{:?}", seen.turns);
    assert_eq!(other.next_text().as_deref(), Some("turn 0"), "nobody waits for all of it");
    assert!(counters.reads_left == 1 && counters.reads_costly >= 1);
    assert_eq!((counters.inbound_bytes_held, counters.inflate_messages), (0, 500));
}

#[test]
fn many_who_become_readable_at_once_share_a_turn() {
    let (mut world, seen) = world(config());
    let clients: Vec<_> = (0..100).map(|_| world.open(0, "/", &[OFFER]).unwrap()).collect();
    let wire = bomb(LIMIT).repeat(3);
    for client in &clients {
        client.bytes(&wire);
        client.text("where?");
    }
    world.run();
    let seen = seen.borrow();
    assert_eq!(seen.messages, 400);
    let most = (256 << 10) + LIMIT + 4 * PORTION;
    assert!(seen.turns.iter().all(|bytes| *bytes <= most), "{:?}", seen.turns);
    let places: Vec<usize> = clients
        .iter()
        .map(|client| client.next_text().unwrap()["turn ".len()..].parse().unwrap())
        .collect();
    // Four portions each, four or more of them in a turn.
    assert!(places.iter().all(|place| *place <= 110), "{places:?}");
    assert_eq!(world.stats().counters.inbound_bytes_held, 0);
}

#[test]
fn what_is_inflated_counts_for_the_rate() {
    let rate = 16 * LIMIT;
    for policy in [RatePolicy::Pause, RatePolicy::Close] {
        let config = Config { byte_rate: rate as u32, rate_policy: policy, ..config() };
        let (mut world, seen) = world(config);
        let client = world.open(0, "/", &[OFFER]).unwrap();
        client.bytes(&bomb(LIMIT).repeat(100));
        world.run();
        let most = (rate + PORTION) / LIMIT + 1;
        assert!((16..=most).contains(&seen.borrow().messages), "{}", seen.borrow().messages);
        world.advance(Duration::from_secs(10));
        let counters = world.stats().counters;
        if policy == RatePolicy::Close {
            assert_eq!(seen.borrow().closed, [Cause::Rate]);
        } else {
            assert_eq!(seen.borrow().messages, 100);
            assert!(counters.read_pauses >= 4);
        }
        assert_eq!(counters.inbound_bytes_held, 0);
    }
}

#[test]
fn what_waits_is_memory_that_is_accounted() {
    let config = Config { max_inbound: 20 << 10, ..config() };
    let (mut world, seen) = world(config);
    let clients: Vec<_> = (0..100).map(|_| world.open(0, "/", &[OFFER]).unwrap()).collect();
    for client in &clients {
        client.bytes(&bomb(LIMIT).repeat(20));
    }
    world.run();
    let seen = seen.borrow();
    assert!((50..100).contains(&seen.closed.len()), "{}", seen.closed.len());
    assert!(seen.closed.iter().all(|cause| *cause == Cause::InboundFull));
    assert!(seen.messages >= 20 * (100 - seen.closed.len()), "the others are served");
    assert_eq!(world.stats().counters.inbound_bytes_held, 0);
}

#[test]
fn ends_come_behind_what_waits() {
    // The peer's close frame, a fault, an end of the application's, a silent end.
    for end in ["close", "fault", "application", "silent"] {
        let (mut world, seen) = world(config());
        let client = greedy(&mut world);
        *seen.borrow_mut() = Seen::default();
        client.bytes(&bomb(LIMIT).repeat(20));
        let (expected, code) = match end {
            "close" => (20, Some(1000)),
            "fault" => (20, Some(1002)),
            "application" => (21, Some(1000)),
            _ => (20, None),
        };
        match end {
            "close" => client.close(CloseCode::NORMAL, ""),
            "fault" => client.bytes(b"\x70"),
            "application" => client.text("end"),
            _ => client.leave(),
        }
        client.bytes(&bomb(LIMIT).repeat(20));
        world.run();
        assert_eq!((seen.borrow().messages, seen.borrow().closed.len()), (expected, 1), "{end}");
        let closes = std::iter::from_fn(|| client.next()).find_map(|received| match received {
            Received::Close(code, _) => Some(code.0),
            _ => None,
        });
        assert_eq!(closes, code, "{end}");
        world.advance(Duration::from_secs(30));
        let counters = world.stats().counters;
        assert_eq!((counters.inbound_bytes_held, counters.connections), (0, 0), "{end}");
    }
}
