//! Deadlines of one connection against a kernel that is asked what its peer has acknowledged, with
//! clocks that go around on the way.

use std::time::Duration;

use bytes::Bytes;

use super::config::{Config, Heartbeat};
use super::core::Core;
use super::inbound::Holding;
use super::slots::{Flags, Phase, Ping};
use super::value::{Cause, Data};
use crate::protocol::CloseCode;

const STEP_NS: u64 = 100_000_000;

/// One core with one connection, in slot 0.
struct Stage {
    core: Core,
    now: u64,
    /// What the kernel holds for the peer.
    held: u32,
}

/// Starts shortly before each moment at which a clock goes around, and far from them.
fn starts(config: &Config) -> [u64; 4] {
    let tick = config.tick.as_nanos() as u64;
    let before = |at: u64| at - 3_000_000_000;
    [0, before((1 << 32) * tick), before((1 << 31) * tick), before((1 << 32) * 1000)]
}

impl Stage {
    fn new(config: &Config, start: u64) -> Self {
        let core = Core::alone(config.clone(), start, 0);
        Self { core, now: start, held: 0 }
    }

    /// Something waits, and the kernel has no room.
    fn block(&mut self, bytes: usize) {
        let data = Data::Own(Bytes::from(vec![0; bytes]));
        self.core.with_outbox(0, |outbox| outbox.push(data, 0));
        let Core { slots, outgoing, .. } = &mut self.core;
        outgoing.block(slots.get_mut(0).unwrap());
        self.core.arm(0);
    }

    fn phase(&self) -> Phase {
        self.core.slots.get(0).unwrap().phase()
    }

    /// Lets time pass; `each` is called every tenth of a second, before deadlines are.
    fn pass(&mut self, seconds: u64, mut each: impl FnMut(&mut Self)) {
        for _ in 0..seconds * 10 {
            self.now += STEP_NS;
            self.core.set_now(self.now);
            each(self);
            self.core.on_time(&mut Vec::new());
            while let Some(token) = self.core.next_look() {
                self.core.on_looked(token, Ok(self.held));
            }
            self.core.say_farewells(b"");
            while self.core.notices.pop().is_some() {}
            let hot = self.core.slots.get_mut(0).unwrap();
            if !hot.has(Flags::BLOCKED) {
                // Taken, and acknowledged in its turn: a few bytes that `held` leaves out.
                hot.clear(Flags::DIRTY);
                self.core.retire_outbox(0);
                self.core.outgoing.truncate_marks(0);
                self.core.outgoing.end_turn();
            }
        }
    }
}

fn config() -> Config {
    let quiet = Heartbeat { enabled: false, ..Heartbeat::default() };
    Config {
        write_timeout: Duration::from_secs(4),
        close_timeout: Duration::from_secs(2),
        heartbeat: quiet,
        ..Config::default()
    }
}

#[test]
fn who_acknowledges_is_not_cut_and_who_stops_is() {
    for start in starts(&config()) {
        let mut stage = Stage::new(&config(), start);
        stage.held = 4_000_000;
        stage.block(1000);
        stage.pass(100, |stage| stage.held -= 2000);
        assert_eq!(stage.phase(), Phase::Open, "20 KB/s, and the socket took nothing");
        stage.pass(3, |_| {});
        assert_eq!(stage.phase(), Phase::Open);
        stage.pass(3, |_| {});
        assert_eq!(stage.phase(), Phase::Closed);
        assert_eq!(stage.core.counted.closed_write_timeout, 1);
        assert!(stage.core.watches.len() == 0);
    }
}

#[test]
fn who_takes_a_byte_now_and_then_is_cut() {
    let mut stage = Stage::new(&config(), 0);
    stage.held = 4_000_000;
    stage.block(1000);
    let mut steps = 0;
    stage.pass(50, |stage| {
        steps += 1;
        stage.held -= u32::from(steps % 10 == 0);
    });
    assert_eq!(stage.phase(), Phase::Open);
    stage.pass(30, |stage| stage.held -= 1);
    assert_eq!(stage.phase(), Phase::Closed);
    assert_eq!(stage.core.counted.closed_trickle, 1);
}

#[test]
fn a_ping_behind_a_download_waits_for_it() {
    let second = Duration::from_secs;
    let heartbeat = Heartbeat {
        start: second(1),
        floor: second(1),
        ceiling: second(1),
        suspect: second(2),
        probe: second(3),
        dead: second(4),
        ..Heartbeat::default()
    };
    let config = Config { heartbeat, ..config() };
    for start in starts(&config) {
        let mut stage = Stage::new(&config, start);
        stage.held = 4_000_000;
        // Nothing of ours waits: all of it is in the kernel, and the ping behind it.
        stage.pass(60, |stage| stage.held -= 6000);
        assert_eq!(stage.phase(), Phase::Open);
        stage.pass(3, |stage| stage.held = 0);
        assert_eq!(stage.phase(), Phase::Open, "the answer is due now");
        stage.pass(4, |_| {});
        assert_eq!(stage.phase(), Phase::Closed);
        assert_eq!(stage.core.counted.closed_heartbeat, 1);
        // One whose ping left at once has no more time than that.
        let mut silent = Stage::new(&config, start);
        silent.pass(4, |_| {});
        assert_eq!(silent.phase(), Phase::Open);
        silent.pass(2, |_| {});
        assert_eq!(silent.phase(), Phase::Closed);
    }
}

#[test]
fn the_close_timeout_begins_when_the_close_frame_has_left() {
    for start in starts(&config()) {
        let mut stage = Stage::new(&config(), start);
        stage.held = 4_000_000;
        stage.block(1000);
        stage.core.begin_close(0, Cause::Application, CloseCode::NORMAL, "");
        stage.pass(60, |stage| stage.held -= 2000);
        assert_eq!(stage.phase(), Phase::Closing);
        stage.core.retire_outbox(0);
        stage.pass(30, |stage| stage.held -= 2000);
        assert_eq!(stage.phase(), Phase::Closing, "the kernel still has it");
        stage.held = 0;
        stage.pass(2, |_| {});
        assert_eq!(stage.phase(), Phase::Closing);
        stage.pass(2, |_| {});
        assert_eq!(stage.phase(), Phase::Closed);
        assert_eq!(stage.core.counted.close_timeouts, 1);
    }
}

#[test]
fn nobody_dies_by_an_answer_from_before_a_stall() {
    let config = Config { heartbeat: Heartbeat::default(), ..config() };
    for start in starts(&config) {
        let mut stage = Stage::new(&config, start);
        let tick = stage.core.clock.tick();
        let hot = stage.core.slots.get_mut(0).unwrap();
        (hot.pulse.level, hot.pulse.pinged, hot.pulse.ping) = (1, tick, Ping::Waiting);
        stage.core.look(0);
        let token = stage.core.next_look().unwrap();
        stage.core.set_now(start + 100_000_000_000);
        stage.core.on_looked(token, Ok(20));
        let pulse = stage.core.slots.get(0).unwrap().pulse;
        assert_eq!((stage.phase(), pulse.level), (Phase::Open, 1), "its answer may have come");
    }
}

#[test]
fn who_was_given_up_gets_no_more_time_than_the_close_timeout() {
    let mut stage = Stage::new(&config(), 0);
    stage.held = 4_000_000;
    stage.block(1000);
    stage.core.give_up(0, Cause::Slow);
    stage.pass(3, |stage| stage.held -= 2000);
    assert_eq!(stage.phase(), Phase::Closed);
}

#[test]
fn an_upload_is_not_idle_and_neither_is_who_is_not_read_from() {
    let idle_timeout = Duration::from_secs(2);
    let config = Config { idle_timeout, min_upload_rate: 0, ..config() };
    for start in starts(&config) {
        let mut stage = Stage::new(&config, start);
        let mut input = *b"\x82\xfe\x10\x00\x00\x00\x00\x00abc";
        let hot = stage.core.slots.get_mut(0).unwrap();
        let decoded = stage.core.server.decode(&mut hot.partial, &mut input, &mut 0);
        assert!(matches!(decoded, Ok(None)));
        let held = hot.partial.as_ref().unwrap().memory();
        let mut place = Holding::default();
        stage.core.inbound.set(&mut place, 0, held);
        stage.core.slots.get_mut(0).unwrap().partial.as_mut().unwrap().place = place.0;
        stage.pass(10, |stage| stage.core.on_life(0));
        assert_eq!(stage.phase(), Phase::Open);
        stage.pass(3, |_| {});
        assert_eq!((stage.phase(), stage.core.counted.closed_idle), (Phase::Closing, 1));
        for held in [Flags::PAUSED, Flags::THROTTLED] {
            let mut stage = Stage::new(&config, start);
            stage.core.slots.get_mut(0).unwrap().set(held);
            stage.pass(10, |_| {});
            assert_eq!(stage.phase(), Phase::Open);
            stage.core.slots.get_mut(0).unwrap().clear(held);
            stage.pass(1, |_| {});
            assert_eq!(stage.phase(), Phase::Closing);
        }
    }
}

#[test]
fn what_is_old_does_not_look_young_when_ticks_have_gone_around() {
    let config = Config { tick: Duration::from_millis(1), ..config() };
    let mut stage = Stage::new(&config, 0);
    let seen = stage.core.slots.get(0).unwrap().pulse.seen;
    // 2^32 ticks in large steps; each is longer than it takes to sweep the one chunk there is.
    for _ in 0..1 << 10 {
        stage.now += (1 << 22) * 1_000_000;
        stage.core.set_now(stage.now);
        stage.core.on_time(&mut Vec::new());
    }
    stage.now += 1_000_000;
    stage.core.set_now(stage.now);
    assert!(stage.core.clock.tick().wrapping_sub(seen) < 1 << 20, "it would look as young as this");
    let kept = stage.core.slots.get(0).unwrap().pulse.seen;
    assert!(super::clock::since(stage.core.clock.tick(), kept) >= 1 << 30);
}

#[test]
fn each_ping_waits_for_what_is_before_it() {
    let config = Config { heartbeat: Heartbeat::default(), ..config() };
    let mut stage = Stage::new(&config, 0);
    let take = |stage: &mut Stage, count: usize| {
        let Core { slots, watches, .. } = &mut stage.core;
        watches.note_taken(0, slots.get(0).unwrap(), count);
    };
    // As much is acknowledged as is taken: 10 KB/s.
    stage.held = 20_000;
    stage.pass(35, |stage| take(stage, 1000));
    assert_eq!(stage.core.counted.heartbeats_sent, 1);
    stage.core.on_life(0);
    assert_eq!(stage.core.counted.heartbeats_answered, 1);
    stage.pass(25, |stage| take(stage, 1000));
    // The next one comes behind 40 s of data.
    take(&mut stage, 380_000);
    stage.held = 400_000;
    stage.pass(28, |stage| stage.held -= 1000);
    let counted = &stage.core.counted;
    assert_eq!((counted.heartbeats_sent, counted.heartbeats_missed), (2, 0));
}
