//! Deadlines of one connection on a core without a ring, to the tick.

use super::*;
use crate::engine::config::{Config, Heartbeat};
use crate::engine::opening::Head;

const TICK_NS: u64 = 100_000_000;
/// A tick far from the wraps.
const START: u32 = 10_000;

fn core(change: impl FnOnce(&mut Config)) -> Core {
    core_of(0, change)
}

fn core_of(flags: u32, change: impl FnOnce(&mut Config)) -> Core {
    let heartbeat = Heartbeat { enabled: false, ..Heartbeat::default() };
    let mut config = Config { heartbeat, ..Config::default() };
    change(&mut config);
    Core::alone(config, u64::from(START) * TICK_NS, flags)
}

/// Moves the clock to so many ticks after the start.
fn at(core: &mut Core, ticks: u32) {
    core.set_now(u64::from(START + ticks) * TICK_NS);
}

/// The same, one after the other, and handles what is due.
fn pass(core: &mut Core, ticks: std::ops::RangeInclusive<u32>) {
    for tick in ticks {
        at(core, tick);
        core.on_time(&mut Vec::new());
    }
}

fn hot(core: &mut Core) -> &mut Hot {
    core.slots.get_mut(0).unwrap()
}

fn notices(core: &mut Core) -> Vec<Notice> {
    std::iter::from_fn(|| core.notices.pop()).collect()
}

#[test]
fn an_idle_connection_is_closed_behind_its_timeout() {
    let mut core = core(|config| config.idle_timeout = std::time::Duration::from_secs(5));
    pass(&mut core, 0..=50);
    assert_eq!(hot(&mut core).phase(), Phase::Open);
    pass(&mut core, 51..=51);
    assert_eq!(hot(&mut core).phase(), Phase::Closing);
    assert_eq!((core.counted.closed_idle, core.counted.closed), (1, 1));
}

#[test]
fn who_is_not_read_from_is_not_idle() {
    let mut core = core(|config| config.idle_timeout = std::time::Duration::from_secs(5));
    hot(&mut core).set(Flags::AWAITED);
    pass(&mut core, 0..=200);
    assert_eq!(hot(&mut core).phase(), Phase::Open);
    hot(&mut core).clear(Flags::AWAITED);
    pass(&mut core, 201..=300);
    assert_eq!(core.counted.closed_idle, 1);
}

#[test]
fn input_that_waits_is_read_before_its_sender_is_judged() {
    let mut core = core(|config| config.idle_timeout = std::time::Duration::from_secs(5));
    core.mark_ready(0);
    pass(&mut core, 0..=80);
    assert_eq!(hot(&mut core).phase(), Phase::Open);
    // What comes on a stream says nothing.
    let idle = |config: &mut Config| config.idle_timeout = std::time::Duration::from_secs(5);
    let mut stream = core_of(Flags::STREAM, idle);
    stream.mark_ready(0);
    pass(&mut stream, 1..=51);
    assert_eq!(stream.counted.closed_idle, 1);
}

#[test]
fn where_there_is_no_deadline_none_is_armed() {
    let mut core = core(|_| {});
    assert_eq!((core.timing.armed(), core.next_deadline_ns()), (0, u64::MAX));
    assert_eq!(core.timing.next_due(), None);
    pass(&mut core, 1..=5000);
    assert_eq!(hot(&mut core).phase(), Phase::Open);
}

#[test]
fn the_next_deadline_is_the_earliest_and_who_is_held_back_is_looked_at_each_tick() {
    let mut idle = core(|config| {
        config.idle_timeout = std::time::Duration::from_secs(5);
        config.message_rate = 1;
    });
    let ns = |tick: u32| u64::from(START + tick) * TICK_NS;
    assert_eq!((idle.timing.armed(), idle.timing.looked_at()), (1, START));
    let due = idle.timing.next_due().unwrap();
    assert!(due > START && due <= START + 51, "{due}");
    assert_eq!(idle.next_deadline_ns(), ns(due - START));
    idle.hold_back(0, 1, crate::engine::limits::Allowance::Wait(900_000));
    assert_eq!(idle.next_deadline_ns(), ns(1));
    let mut held = core(|config| config.message_rate = 1);
    held.hold_back(0, 1, crate::engine::limits::Allowance::Wait(900_000));
    assert_eq!((held.timing.next_due(), held.next_deadline_ns()), (None, ns(1)));
}

#[test]
fn a_handshake_has_its_time_and_who_is_to_be_refused_has_less() {
    let handshake = |surplus: bool, last: u32| {
        let mut core = core(|_| {});
        core.slots.free(0);
        let hot = core.slots.open(0, Phase::Handshake);
        if surplus {
            hot.set(Flags::SURPLUS);
        }
        core.begin_phase(0);
        // Whatever else happens moves no deadline of a handshake.
        core.arm(0);
        pass(&mut core, 1..=last);
        assert_eq!(core.slots.get(0).unwrap().phase(), Phase::Handshake, "{surplus} {last}");
        pass(&mut core, last + 1..=last + 1);
        assert_eq!(core.slots.get(0).unwrap().phase(), Phase::Flushing, "{surplus} {last}");
        assert_eq!(core.counted.handshake_timeouts, 1);
    };
    handshake(false, 100);
    handshake(true, 20);
}

#[test]
fn a_request_that_came_in_time_is_read_before_its_sender_is_judged() {
    let refused = |flags: u32, waits: bool| {
        let mut core = core(|_| {});
        core.slots.free(0);
        core.slots.open(0, Phase::Handshake).set(flags);
        core.begin_phase(0);
        if waits {
            core.mark_ready(0);
        }
        pass(&mut core, 1..=150);
        core.counted.handshake_timeouts
    };
    assert_eq!((refused(0, false), refused(0, true)), (1, 0));
    // Whoever is not read from, or has begun, gets no more time.
    assert_eq!((refused(Flags::PAUSED, true), refused(Flags::TLS, true)), (1, 1));
    let mut slow = core(|_| {});
    slow.slots.free(0);
    slow.slots.open(0, Phase::Handshake);
    slow.begin_phase(0);
    slow.keep_head(0, Head::of(b"GET / HTTP/1.1\r\n".to_vec()));
    slow.mark_ready(0);
    pass(&mut slow, 1..=101);
    assert_eq!(slow.counted.handshake_timeouts, 1);
}

#[test]
fn a_dial_that_is_not_answered_is_given_up() {
    for phase in [Phase::Connecting, Phase::Handshake] {
        let mut core = core(|_| {});
        core.slots.free(0);
        core.slots.open(0, phase).set(Flags::CLIENT);
        core.begin_phase(0);
        pass(&mut core, 1..=101);
        assert_eq!(hot(&mut core).phase(), Phase::Closed);
        assert_eq!(core.counted.handshake_timeouts, 1);
    }
}

#[test]
fn deadlines_that_were_found_late_move_once() {
    let mut core = core(|config| config.idle_timeout = std::time::Duration::from_secs(5));
    // Two ticks late is no stall.
    assert_eq!(LATE, 2);
    pass(&mut core, 1..=1);
    at(&mut core, 54);
    core.on_time(&mut Vec::new());
    assert_eq!(hot(&mut core).phase(), Phase::Open, "forgiven");
    at(&mut core, 54 + FORGIVEN);
    core.on_time(&mut Vec::new());
    assert_eq!(core.counted.closed_idle, 1);
    let mut prompt = self::core(|config| config.idle_timeout = std::time::Duration::from_secs(5));
    at(&mut prompt, 53);
    prompt.on_time(&mut Vec::new());
    assert_eq!(prompt.counted.closed_idle, 1);
}

#[test]
fn lateness_is_measured() {
    let mut core = core(|config| config.idle_timeout = std::time::Duration::from_secs(5));
    core.set_now(u64::from(START + 51) * TICK_NS + 30_000_000);
    core.on_time(&mut Vec::new());
    let (rtt, drift) = core.timing.measured();
    assert_eq!((rtt.count(), drift.count()), (0, 1));
    assert!((29_000..=31_000).contains(&drift.max()), "{}", drift.max());
}

#[test]
fn moments_do_not_grow_older_than_they_can_be_told() {
    let mut core = core(|_| {});
    // So long that the oldest moment would look like one to come.
    let mut ticks = 0u32;
    const { assert!(SWEEP <= 1 << 20 && SWEEP > 1) };
    while ticks < 3 << 30 {
        ticks += 1 << 20;
        core.set_now(u64::from(START) * TICK_NS + u64::from(ticks) * TICK_NS);
        core.on_time(&mut Vec::new());
    }
    let tick = core.clock.tick();
    let seen = hot(&mut core).pulse.seen;
    let (active, pinged) = (hot(&mut core).active, hot(&mut core).pulse.pinged);
    for moment in [seen, active, pinged] {
        assert!(since(tick, moment) >= 1 << 30, "{moment} at {tick}");
    }
}

fn beats(flags: u32, change: impl FnOnce(&mut Heartbeat)) -> Core {
    let mut heartbeat = Heartbeat::default();
    change(&mut heartbeat);
    let mut core = core_of(flags, |config| config.heartbeat = heartbeat);
    let tick = core.clock.tick();
    let hot = hot(&mut core);
    hot.pulse.seen = tick;
    hot.pulse.pinged = tick;
    core.arm(0);
    core
}

#[test]
fn a_silent_peer_is_asked_and_given_up_in_time() {
    let mut core = beats(0, |_| {});
    pass(&mut core, 1..=250);
    assert_eq!(core.counted.heartbeats_sent, 0);
    pass(&mut core, 251..=251);
    assert_eq!((core.counted.heartbeats_sent, core.counted.heartbeats_missed), (1, 0));
    assert_eq!(hot(&mut core).pulse.level, 1);
    // It has left at once.
    hot(&mut core).pulse.ping = Ping::Left;
    core.arm(0);
    pass(&mut core, 252..=251 + 151);
    assert_eq!((core.counted.heartbeats_sent, core.counted.heartbeats_missed), (2, 1));
    pass(&mut core, 251 + 152..=251 + 301);
    assert_eq!((core.counted.heartbeats_sent, core.counted.heartbeats_missed), (3, 2));
    pass(&mut core, 251 + 302..=251 + 601);
    assert_eq!((core.counted.heartbeats_sent, core.counted.heartbeats_missed), (3, 3));
    assert_eq!((core.counted.closed_heartbeat, hot(&mut core).phase()), (1, Phase::Closed));
}

#[test]
fn a_dead_peer_is_told_where_that_is_wanted() {
    let mut core = beats(0, |beat| beat.close = Some((CloseCode::GOING_AWAY, "no pong")));
    hot(&mut core).pulse.level = 3;
    hot(&mut core).pulse.ping = Ping::Left;
    core.arm(0);
    pass(&mut core, 1..=601);
    let codes: Vec<_> = notices(&mut core)
        .into_iter()
        .map(|notice| match notice {
            Notice::Closed { closed, .. } => closed.code,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(codes, [CloseCode::GOING_AWAY]);
    assert_eq!(hot(&mut core).phase(), Phase::Closing);
}

#[test]
fn the_application_is_asked_for_its_own_heartbeat() {
    let mut core = beats(0, |beat| {
        beat.steady = true;
        (beat.floor, beat.ceiling) = (beat.start, beat.start);
    });
    pass(&mut core, 1..=251);
    assert!(matches!(notices(&mut core)[..], [Notice::Heartbeat { slot: 0, generation: 1 }]));
    assert_eq!(core.counted.heartbeats_sent, 0, "not yet");
    core.on_heartbeat_decided(0, 2, HeartbeatAction::Sent);
    assert_eq!(core.counted.heartbeats_sent, 0, "another tenant of the slot");
    core.on_heartbeat_decided(0, 1, HeartbeatAction::Sent);
    assert_eq!((core.counted.heartbeats_sent, hot(&mut core).pulse.level), (1, 1));
    core.set_now(core.clock.now_ns() + 20_000_000);
    core.on_life(0);
    assert_eq!((hot(&mut core).pulse.rtt_us, hot(&mut core).pulse.level), (20_000, 0));
    assert_eq!(core.counted.heartbeats_answered, 1);
    assert_eq!(core.timing.measured().0.count(), 1);
    // The next one is due an interval after the last, whatever came since.
    pass(&mut core, 252..=251 + 251);
    assert_eq!(notices(&mut core).len(), 1);
    core.on_heartbeat_decided(0, 1, HeartbeatAction::Quiet);
    assert_eq!((core.counted.heartbeats_sent, hot(&mut core).pulse.level), (1, 0));
    let seen = hot(&mut core).pulse.seen;
    assert_ne!(seen, core.clock.tick(), "nothing came");
}

#[test]
fn who_sends_a_heartbeat_is_decided_for_each() {
    let mut core = beats(0, |beat| beat.steady = true);
    pass(&mut core, 1..=251);
    core.on_heartbeat_decided(0, 1, HeartbeatAction::Sent);
    assert!(hot(&mut core).is(Marks::ASKED));
    // The next one of the same silence is the engine's: its pong tells the round trip.
    core.on_heartbeat_decided(0, 1, HeartbeatAction::Ping);
    assert_eq!((core.counted.heartbeats_sent, hot(&mut core).pulse.level), (2, 1));
    assert_eq!((hot(&mut core).is(Marks::ASKED), hot(&mut core).pulse.rtt_us), (false, 0));
    let outbox = hot(&mut core).outbox.as_ref().map_or(0, |outbox| outbox.bytes());
    assert_eq!(outbox, 2 + 8, "a ping with its stamp");
    core.on_life(0);
    assert_eq!((hot(&mut core).pulse.level, core.timing.measured().0.count()), (0, 0));
    // Where no answer is awaited any more, the moment of asking is no round trip.
    core.on_heartbeat_decided(0, 1, HeartbeatAction::Sent);
    core.on_heartbeat_decided(0, 1, HeartbeatAction::Quiet);
    assert_eq!((hot(&mut core).pulse.level, hot(&mut core).pulse.rtt_us), (0, 0));
    // A stream has no pings.
    let mut stream = beats(Flags::STREAM, |_| {});
    stream.on_heartbeat_decided(0, 1, HeartbeatAction::Ping);
    assert_eq!((stream.counted.heartbeats_sent, hot(&mut stream).pulse.level), (0, 0));
}

#[test]
fn a_stream_whose_application_sends_nothing_is_asked_an_interval_later() {
    let mut core = beats(Flags::STREAM, |_| {});
    pass(&mut core, 1..=251);
    assert_eq!(notices(&mut core).len(), 1, "a stream has no pings of its own");
    core.on_heartbeat_decided(0, 1, HeartbeatAction::Quiet);
    let tick = core.clock.tick();
    assert_eq!((hot(&mut core).pulse.seen, hot(&mut core).pulse.level), (tick, 0));
    assert_eq!(core.counted.looks, 1, "whether anybody is there shows otherwise");
}

#[test]
fn an_idle_connection_is_not_closed_early_by_another_deadline() {
    let mut core = core(|config| {
        config.heartbeat = Heartbeat::default();
        config.idle_timeout = std::time::Duration::from_secs(5);
    });
    // Its ping is due a tick before.
    hot(&mut core).pulse.seen = START + 50 - 251;
    core.arm(0);
    pass(&mut core, 1..=50);
    assert_eq!((core.counted.heartbeats_sent, hot(&mut core).phase()), (1, Phase::Open));
    pass(&mut core, 51..=51);
    assert_eq!(core.counted.closed_idle, 1);
}

#[test]
fn a_round_trip_is_measured_where_one_was_begun() {
    let mut ours = beats(0, |_| {});
    (hot(&mut ours).pulse.level, hot(&mut ours).pulse.rtt_us) = (1, 7);
    ours.on_life(0);
    assert_eq!((hot(&mut ours).pulse.rtt_us, ours.timing.measured().0.count()), (7, 0), "by pongs");
    // Of a heartbeat that waited behind other bytes nobody knows when it left.
    let mut own = beats(0, |beat| beat.steady = true);
    hot(&mut own).pulse.level = 1;
    hot(&mut own).mark(Marks::ASKED);
    own.on_life(0);
    assert_eq!((hot(&mut own).pulse.rtt_us, own.timing.measured().0.count()), (0, 0));
}

#[test]
fn an_answer_that_comes_late_is_counted_apart() {
    let mut core = beats(0, |_| {});
    hot(&mut core).pulse.level = 2;
    core.on_life(0);
    let counted = &core.counted;
    assert_eq!((counted.heartbeats_answered, counted.heartbeats_late), (0, 1));
    assert_eq!(core.timing.measured().0.count(), 0, "our pings carry their time");
    core.on_life(0);
    assert_eq!(core.counted.heartbeats_late, 1, "nothing was awaited");
}

#[test]
fn who_is_not_read_from_is_asked_but_not_suspected() {
    let mut core = beats(0, |_| {});
    hot(&mut core).set(Flags::AWAITED);
    pass(&mut core, 1..=2000);
    assert_eq!((core.counted.heartbeats_missed, hot(&mut core).phase()), (0, Phase::Open));
    assert_eq!(core.counted.heartbeats_sent, 0, "it was as if something had just come");
}

#[test]
fn a_pong_tells_the_round_trip_if_it_is_ours() {
    let mut core = beats(0, |_| {});
    let stamp = |core: &Core| core.clock.now_ns().to_be_bytes();
    let ours = stamp(&core);
    let heard = |core: &Core| core.timing.measured().0.count();
    core.set_now(core.clock.now_ns() + 7_000_000);
    core.on_pong(0, &ours);
    assert_eq!(heard(&core), 0, "there was no ping");
    hot(&mut core).pulse.ping = Ping::Left;
    core.on_pong(0, &ours[1..]);
    assert_eq!(heard(&core), 0);
    core.on_pong(0, &ours);
    assert_eq!((heard(&core), hot(&mut core).pulse.rtt_us), (1, 7000));
    let now = stamp(&core);
    core.on_pong(0, &now);
    assert_eq!(heard(&core), 1, "no time has passed");
    // A tick and the rest of one may have passed since the ping.
    at(&mut core, 50);
    hot(&mut core).pulse.pinged = START + 49;
    let old = |ago: u64| (u64::from(START + 50) * TICK_NS - ago).to_be_bytes();
    core.on_pong(0, &old(2 * TICK_NS + 1));
    assert_eq!(heard(&core), 1, "from before the ping");
    core.on_pong(0, &old(2 * TICK_NS));
    assert_eq!((heard(&core), hot(&mut core).pulse.rtt_us), (2, 200_000));
}
