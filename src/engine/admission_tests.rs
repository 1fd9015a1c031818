//! Accepting on one core: which lanes are armed when, against a kernel that only keeps the list.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::engine::config::{Drain, Proxies};
use crate::engine::harness::World;
use crate::engine::ring::{Completion, Doorbell, Recv, Send, Wait};
use crate::engine::testing::Shared;
use crate::engine::token::Token;
use crate::engine::{Cause, Connection, Context, Message, UpgradeAction};
use crate::protocol::request::Request;

struct Host;

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

    fn on_message(&mut self, _: &mut Connection<'_>, (): &mut (), _: Message<'_>) {}
}

struct NoBell;

impl Doorbell for NoBell {
    fn ring(&self) {}
}

/// What accepting asks of a kernel; it does nothing else.
struct Kernel {
    lanes: u32,
    armed: Vec<u32>,
    cancelled: Vec<u32>,
    takes_syns: bool,
    listens: bool,
}

impl Ring for Kernel {
    fn now(&self) -> u64 {
        START_NS
    }
    fn accept(&mut self, lane: u32) {
        assert!(!self.armed.contains(&lane));
        self.armed.push(lane);
    }
    fn lanes(&self) -> u32 {
        self.lanes
    }
    fn cancel_accept(&mut self, lane: u32) {
        self.cancelled.push(lane);
    }
    fn stop_listening(&mut self) {
        assert!(std::mem::take(&mut self.takes_syns), "once");
    }
    fn close_listener(&mut self) {
        assert!(std::mem::take(&mut self.listens), "once");
    }
    fn poll(&mut self, _: Token, _: bool) {}
    fn close(&mut self, _: Token, _: &[Token]) {}
    fn shutdown(&mut self, _: Token) {}
    fn unacknowledged(&mut self, _: Token) {}
    fn install(&mut self, _: Token) {}
    fn socket(&mut self, _: SocketAddr, _: Option<IpAddr>) -> io::Result<u32> {
        Err(io::Error::from_raw_os_error(libc::ENETUNREACH))
    }
    fn connect(&mut self, _: Token, _: SocketAddr) {}
    fn recv(&mut self, _: &mut [u8], _: &mut [Recv]) -> io::Result<()> {
        Ok(())
    }
    fn enter(
        &mut self,
        _: &mut [Send],
        _: &[IoSlice<'_>],
        _: Wait,
        _: &mut VecDeque<Completion>,
    ) -> io::Result<()> {
        Ok(())
    }
}

const START_NS: u64 = 1_000_000_000;

/// A core that accepts.
struct Gate {
    worker: Worker<Kernel, Host>,
    next: u32,
}

impl Gate {
    fn new(lanes: u32, table: u32, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { max_connections: 1000, reserve: 0, ..Config::default() };
        change(&mut config);
        let shared = Shared::<Host>::new(config, vec![Box::new(NoBell)]);
        let (armed, cancelled) = (Vec::new(), Vec::new());
        let kernel = Kernel { lanes, armed, cancelled, takes_syns: true, listens: true };
        let worker = shared.worker(0, kernel, Host, table, 1);
        Self { worker, next: 0 }
    }

    /// How many lanes are armed, once those are that may be.
    fn armed(&mut self) -> usize {
        self.worker.arm_accepts();
        self.worker.ring.armed.len()
    }

    fn at(&mut self, ns: u64) {
        self.worker.core.set_now(START_NS + ns);
    }

    fn complete(&mut self, result: io::Result<(u32, SocketAddr)>) {
        let lane = self.worker.ring.armed.remove(0);
        self.worker.on_accepted(lane, result);
    }

    /// Somebody comes, from the given host of a network; returns the slot.
    fn come(&mut self, host: u8) -> u32 {
        let slot = self.next;
        self.next += 1;
        self.complete(Ok((slot, SocketAddr::from(([192, 0, 2, host], 9)))));
        slot
    }

    fn leave(&mut self, slot: u32) {
        self.worker.core.drop_connection(slot, Cause::Abrupt);
        self.worker.forget(slot);
    }

    fn fail(&mut self, errno: i32) {
        self.complete(Err(io::Error::from_raw_os_error(errno)));
    }

    fn phase(&self, slot: u32) -> Phase {
        self.worker.core.slots.get(slot).unwrap().phase()
    }

    fn has(&self, slot: u32, flag: u32) -> bool {
        self.worker.core.slots.get(slot).unwrap().has(flag)
    }
}

#[test]
fn each_lane_is_taken_once_and_can_be_put_back() {
    for count in [0, 1, 5, LANES_MAX] {
        let mut lanes = Lanes::all(count);
        assert_eq!(lanes.len(), count);
        let taken: Vec<u32> = std::iter::from_fn(|| lanes.take()).collect();
        assert_eq!(taken, (0..count).collect::<Vec<u32>>());
        assert!(lanes.is_empty());
        if let Some(last) = count.checked_sub(1) {
            lanes.put(last);
            assert!(lanes.contains(last) && lanes.take() == Some(last));
        }
    }
}

#[test]
fn tokens_come_back_at_the_rate_and_are_never_more_than_a_burst() {
    let config = Config { accept_rate: 10, ..Config::default() };
    let mut admission = Admission::new(&config, 4, 100);
    assert_eq!(admission.tokens, 10 * MILLION, "a burst is there at once");
    admission.tokens = 0;
    admission.refill(1_500_700);
    assert_eq!((admission.tokens, admission.refilled_ns), (15_000, 1_500_000));
    // The rest of a microsecond counts the next time.
    admission.refill(1_501_000);
    assert_eq!((admission.tokens, admission.refilled_ns), (15_010, 1_501_000));
    admission.refill(900_000_000_000);
    assert_eq!(admission.tokens, 10 * MILLION);
}

#[test]
fn ticks_are_wanted_by_who_waits_for_time_alone() {
    let with = |accept_rate, lanes| {
        Admission::new(&Config { accept_rate, ..Config::default() }, lanes, 100)
    };
    assert!(!with(0, 4).wants_tick(), "whatever comes completes an accept");
    assert!(with(9, 4).wants_tick());
    assert!(!with(9, 0).wants_tick(), "a core without a listener");
    let mut rests = with(0, 4);
    rests.rest_until_ns = 1;
    assert!(rests.wants_tick());
    rests.idle = Lanes::all(0);
    assert!(!rests.wants_tick(), "all accepts are in flight");
    let mut ends = with(9, 4);
    ends.accepting = false;
    assert!(!ends.wants_tick());
}

#[test]
fn what_is_in_flight_has_a_slot() {
    let mut gate = Gate::new(2, 3, |_| {});
    assert_eq!(gate.armed(), 2, "as many as there are lanes");
    gate.come(1);
    assert_eq!(gate.armed(), 2, "and slots");
    gate.come(1);
    assert_eq!(gate.armed(), 1);
    gate.come(1);
    assert_eq!(gate.armed(), 0);
    gate.leave(0);
    assert_eq!(gate.armed(), 1);
}

#[test]
fn a_full_table_is_a_pause_until_there_is_room() {
    let mut gate = Gate::new(2, 2, |_| {});
    let pauses = |gate: &Gate| gate.worker.core.counted.accept_pauses;
    assert_eq!(gate.armed(), 2);
    gate.come(1);
    assert_eq!((gate.armed(), pauses(&gate)), (1, 0), "one is still in flight");
    gate.come(1);
    for _ in 0..3 {
        assert_eq!((gate.armed(), pauses(&gate)), (0, 1), "one pause, however many turns");
    }
    gate.leave(0);
    assert_eq!((gate.armed(), pauses(&gate)), (1, 1));
    gate.come(1);
    assert_eq!((gate.armed(), pauses(&gate)), (0, 2));
}

#[test]
fn who_comes_to_be_refused_comes_within_the_reserve() {
    let mut gate = Gate::new(2, 10, |config| config.reserve = 1);
    for _ in 0..8 {
        assert_eq!(gate.armed(), 2);
        let slot = gate.come(1);
        assert!(!gate.has(slot, Flags::SURPLUS));
    }
    assert_eq!(gate.armed(), 1, "that one is the reserve's, or the last to be served");
    let last = gate.come(1);
    assert!(!gate.has(last, Flags::SURPLUS));
    assert_eq!((gate.armed(), gate.worker.core.counted.refused_full), (1, 0));
    let surplus = gate.come(1);
    assert!(gate.has(surplus, Flags::SURPLUS));
    assert_eq!((gate.armed(), gate.worker.core.counted.refused_full), (0, 1));
    assert_eq!(gate.worker.core.counted.accepted, 10);
}

#[test]
fn beyond_the_servers_limit_the_reserve_is_used() {
    let mut gate = Gate::new(2, 100, |config| (config.max_connections, config.reserve) = (2, 2));
    let inside = [1, 1].map(|host| {
        gate.armed();
        gate.come(host)
    });
    assert_eq!(gate.armed(), 2);
    let outside = [gate.come(1), gate.come(1)];
    assert!(inside.iter().all(|slot| gate.has(*slot, Flags::COUNTED)));
    assert!(outside.iter().all(|slot| gate.has(*slot, Flags::SURPLUS)));
    assert_eq!((gate.armed(), gate.worker.core.counted.refused_full), (0, 2));
    assert!(outside.iter().all(|slot| gate.phase(*slot) == Phase::Handshake), "told so");
    gate.leave(outside[0]);
    assert_eq!(gate.armed(), 1);
}

#[test]
fn one_address_does_not_get_all_the_room_there_is_to_refuse_it() {
    let mut gate = Gate::new(8, 100, |config| (config.max_per_address, config.reserve) = (1, 1));
    gate.armed();
    let [first, told, cut] = [1, 1, 1].map(|host| gate.come(host));
    assert!(!gate.has(first, Flags::SURPLUS) && gate.has(first, Flags::KNOWN));
    assert!(gate.has(told, Flags::SURPLUS) && gate.phase(told) == Phase::Handshake);
    assert_eq!(gate.phase(cut), Phase::Closed);
    let counted = &gate.worker.core.counted;
    assert_eq!((counted.refused_per_address, counted.refused_full), (2, 0));
    let other = gate.come(2);
    assert!(gate.has(other, Flags::COUNTED));
}

#[test]
fn who_speaks_for_others_is_not_counted_by_its_own_address() {
    let proxies = Proxies {
        trusted: vec!["192.0.2.7".parse().unwrap()],
        forwarded_for: true,
        ..Proxies::default()
    };
    let mut gate = Gate::new(8, 100, |config| {
        (config.max_per_address, config.proxies) = (1, proxies);
    });
    gate.armed();
    for _ in 0..2 {
        let slot = gate.come(7);
        assert!(gate.has(slot, Flags::COUNTED) && !gate.has(slot, Flags::KNOWN));
    }
    let slot = gate.come(8);
    assert!(gate.has(slot, Flags::KNOWN));
    assert_eq!(gate.worker.core.counted.refused_per_address, 0);
}

#[test]
fn accepts_have_a_rate() {
    let mut gate = Gate::new(4, 100, |config| config.accept_rate = 2);
    let pauses = |gate: &Gate| gate.worker.core.counted.accept_rate_pauses;
    assert_eq!((gate.armed(), pauses(&gate)), (2, 0), "a burst of a second");
    gate.come(1);
    gate.come(1);
    assert_eq!((gate.armed(), pauses(&gate)), (0, 1));
    gate.at(499_999_000);
    assert_eq!((gate.armed(), pauses(&gate)), (0, 2));
    gate.at(500_000_000);
    assert_eq!((gate.armed(), pauses(&gate)), (1, 2));
    gate.at(1_000_000_000);
    assert_eq!(gate.armed(), 2);
    // Without room it is not the rate that holds anybody back.
    let mut full = Gate::new(4, 2, |config| config.accept_rate = 2);
    full.armed();
    full.come(1);
    full.come(1);
    assert_eq!((full.armed(), pauses(&full)), (0, 0));
}

#[test]
fn a_host_in_need_rests_and_a_peer_that_is_gone_costs_nothing() {
    let mut gate = Gate::new(2, 100, |_| {});
    gate.armed();
    gate.fail(libc::ECONNABORTED);
    assert_eq!((gate.armed(), gate.worker.core.counted.accept_errors), (2, 1));
    gate.fail(libc::ECANCELED);
    assert_eq!((gate.armed(), gate.worker.core.counted.accept_errors), (2, 1));
    gate.fail(libc::ENFILE);
    assert_eq!((gate.armed(), gate.worker.core.counted.accept_errors), (1, 2));
    gate.at(REST_NS - 1);
    assert_eq!(gate.armed(), 1);
    gate.at(REST_NS);
    assert_eq!(gate.armed(), 2);
    assert!(!gate.worker.admission.wants_tick());
}

#[test]
fn a_listener_that_goes_away_accepts_until_nobody_has_come_for_a_while() {
    let mut gate = Gate::new(2, 4, |_| {});
    gate.armed();
    gate.worker.stop_accepting();
    assert!(!gate.worker.ring.takes_syns && gate.worker.ring.listens);
    gate.at(QUIET_NS - 1);
    // It is going away already: asked once more, it does not begin anew.
    gate.worker.stop_accepting();
    assert_eq!(gate.armed(), 2);
    gate.come(1);
    gate.at(2 * QUIET_NS - 2);
    assert_eq!((gate.armed(), gate.worker.ring.cancelled.len()), (2, 0), "somebody came");
    gate.at(2 * QUIET_NS - 1);
    gate.armed();
    assert_eq!(gate.worker.ring.cancelled.len(), 2);
    assert!(!gate.worker.admission.is_quiet(), "they are in flight");
    gate.worker.stop_listening_now();
    assert_eq!(gate.worker.ring.cancelled.len(), 2, "once");
    // A connection may still come with it.
    gate.come(1);
    assert_eq!(gate.armed(), 1, "and no other after that");
    assert!(gate.worker.ring.listens);
    gate.fail(libc::ECANCELED);
    assert!(!gate.worker.admission.is_quiet(), "the listener is still open");
    gate.armed();
    assert!(!gate.worker.ring.listens && gate.worker.admission.is_quiet());
    gate.armed();
}

#[test]
fn a_full_core_that_goes_away_still_accepts_who_knocked() {
    let mut gate = Gate::new(2, 1, |_| {});
    gate.armed();
    gate.worker.stop_accepting();
    gate.come(1);
    gate.at(3 * QUIET_NS);
    assert_eq!(gate.armed(), 0);
    gate.leave(0);
    assert_eq!(gate.armed(), 1, "nothing in flight proves nothing about the queue");
}

#[test]
fn a_slot_that_comes_anew_has_been_left() {
    let mut gate = Gate::new(4, 100, |_| {});
    gate.armed();
    let slot = gate.come(1);
    let before = gate.worker.core.slots.get(slot).unwrap().generation;
    gate.worker.core.drop_connection(slot, Cause::Abrupt);
    gate.next = slot;
    assert_eq!(gate.come(2), slot);
    let hot = gate.worker.core.slots.get(slot).unwrap();
    assert!(hot.generation != before && hot.phase() == Phase::Handshake);
    assert_eq!(gate.worker.core.counted.stale_completions, 1);
    assert_eq!(gate.worker.core.slots.used(), 1);
}

#[test]
fn a_full_server_pauses_once() {
    let config = Config { max_connections: 2, reserve: 3, ..Config::default() };
    let mut world = World::new(config, 1, |_| Host);
    let knock = |world: &mut World<Host>, count: usize| {
        (0..count).map(|_| world.connect(0)).collect::<Vec<_>>()
    };
    let inside = knock(&mut world, 2);
    // What is armed completes; then the reserve is used up, and the rest waits.
    let waiting = knock(&mut world, 2 * LANES_MAX as usize);
    assert_eq!(world.stats().counters.accept_pauses, 1);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.stats().counters.accept_pauses, 1);
    assert!(inside.iter().all(|client| !client.is_ended()));
    assert!(waiting.iter().any(|client| client.answer().is_none()));
}

/// The core had no processor for longer than a drain waits for silent connections, and a request
/// came meanwhile: to close before it is read would reset its sender.
#[test]
fn a_request_that_came_while_the_core_stood_still_is_answered() {
    let config = Config { handshake_timeout: Duration::from_secs(100), ..Config::default() };
    let mut world = World::new(config, 1, |_| Host);
    let (late, silent) = (world.connect(0), world.connect(0));
    world.handle().drain(&Drain { deadline: Duration::from_secs(60), ..Drain::default() });
    world.run();
    assert!(!late.is_ended() && !silent.is_ended());
    world.stall(Duration::from_secs(30));
    late.bytes(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    world.run();
    assert_eq!(late.answer().map(|answer| answer.status), Some(101));
    assert!(silent.is_ended(), "nobody waits for who says nothing");
    world.advance(Duration::from_secs(5));
    assert!(world.is_ended(), "who was answered is told to go");
}
