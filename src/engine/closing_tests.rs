//! Endings of one connection on a core without a ring: what is said, counted and awaited in each.

use super::*;
use crate::engine::config::Config;
use crate::engine::slots::Hot;
use crate::protocol::Kind;

fn core(change: impl FnOnce(&mut Config)) -> Core {
    let mut config = Config::default();
    change(&mut config);
    Core::alone(config, 1_000_000_000, 0)
}

fn with(flags: u32) -> Core {
    Core::alone(Config::default(), 1_000_000_000, flags)
}

fn hot(core: &mut Core) -> &mut Hot {
    core.slots.get_mut(0).unwrap()
}

fn phase(core: &Core) -> Phase {
    core.slots.get(0).unwrap().phase()
}

/// The queued bytes, of an application that says no farewell.
fn queued(core: &mut Core) -> Vec<u8> {
    core.say_farewells(b"");
    let Some(outbox) = core.slots.get(0).unwrap().outbox.as_ref() else { return Vec::new() };
    let mut slices = Vec::new();
    outbox.gather(core.outgoing.turn(&[]), usize::MAX, &mut slices);
    slices.iter().flat_map(|slice| slice.iter().copied()).collect()
}

/// What the application was told.
fn told(core: &mut Core) -> Vec<(Cause, CloseCode)> {
    let notices = std::iter::from_fn(|| core.notices.pop());
    notices
        .map(|notice| match notice {
            Notice::Closed { slot: 0, generation: 1, closed, .. } => (closed.cause, closed.code),
            other => panic!("{other:?}"),
        })
        .collect()
}

const BYE: CloseFrame = CloseFrame { code: CloseCode::NORMAL, reason: String::new() };

#[test]
fn the_application_closes_what_is_open_and_only_that() {
    let mut core = core(|_| {});
    let close = |core: &mut Core, generation| {
        core.close_by_application(0, generation, CloseCode::NORMAL, "bye")
    };
    assert_eq!(close(&mut core, 2), Err(SendError::Gone), "another tenant of the slot");
    assert_eq!(close(&mut core, 1), Ok(()));
    assert_eq!(
        (phase(&core), queued(&mut core)),
        (Phase::Closing, b"\x88\x05\x03\xe8bye".to_vec())
    );
    assert_eq!(close(&mut core, 1), Err(SendError::Gone));
    assert_eq!(told(&mut core), [(Cause::Application, CloseCode::NORMAL)]);
    assert!(!hot(&mut core).has(Flags::READY));
    let mut held = with(Flags::AWAITED);
    close(&mut held, 1).unwrap();
    assert!(hot(&mut held).has(Flags::READY), "its close frame may lie in the kernel");
}

#[test]
fn the_peers_close_frame_is_answered_once() {
    let mut core = core(|_| {});
    core.on_close_frame(0, &BYE, false);
    assert_eq!((phase(&core), queued(&mut core)), (Phase::Flushing, b"\x88\x02\x03\xe8".to_vec()));
    assert_eq!((core.counted.closed_clean, core.counted.closed), (1, 1));
    assert!(!hot(&mut core).has(Flags::LINGER), "nothing is left unread");
    core.on_close_frame(0, &BYE, false);
    assert_eq!(core.counted.closed_clean, 1);
    let mut more = self::core(|_| {});
    more.on_close_frame(0, &BYE, true);
    assert!(hot(&mut more).has(Flags::LINGER));
    let mut ours = self::core(|_| {});
    ours.begin_close(0, Cause::Drain, CloseCode::GOING_AWAY, "");
    ours.on_close_frame(0, &BYE, false);
    assert_eq!((phase(&ours), ours.counted.closed_clean), (Phase::Flushing, 1));
    assert_eq!(queued(&mut ours).len(), 4, "one close frame");
    assert_eq!(told(&mut ours), [(Cause::Drain, CloseCode::GOING_AWAY)]);
    let mut client = with(Flags::CLIENT);
    client.on_close_frame(0, &BYE, false);
    assert!(hot(&mut client).has(Flags::LINGER), "the server closes the connection");
}

#[test]
fn a_fault_is_told_by_its_code_and_ends_the_connection() {
    let faults = [
        (Fault::MessageTooBig, Cause::TooBig),
        (Fault::InvalidUtf8, Cause::InvalidData),
        (Fault::ReservedBits, Cause::Protocol),
    ];
    for (fault, cause) in faults {
        let mut core = core(|_| {});
        core.on_fault(0, fault);
        assert_eq!(told(&mut core), [(cause, fault.close_code())]);
        assert!(hot(&mut core).has(Flags::DEAF) && hot(&mut core).has(Flags::LINGER));
        assert_eq!(phase(&core), Phase::Flushing);
        core.on_fault(0, fault);
        assert!(told(&mut core).is_empty(), "once");
    }
    let mut closing = core(|_| {});
    closing.begin_close(0, Cause::Application, CloseCode::NORMAL, "");
    closing.on_fault(0, Fault::ReservedBits);
    assert_eq!(phase(&closing), Phase::Flushing, "its answer is not awaited any more");
    assert_eq!(told(&mut closing).len(), 1);
}

#[test]
fn each_cause_has_its_counter() {
    let count = |cause: Cause| {
        let mut core = core(|_| {});
        core.drop_connection(0, cause);
        assert_eq!(core.counted.closed, 1);
        assert_eq!(phase(&core), Phase::Closed);
        core.drop_connection(0, cause);
        assert_eq!(core.counted.closed, 1, "once");
        core.counted
    };
    assert_eq!(count(Cause::Abrupt).closed_abrupt, 1);
    assert_eq!(count(Cause::Broken).closed_error, 1);
    assert_eq!(count(Cause::Unacknowledged).closed_unacknowledged, 1);
    assert_eq!(count(Cause::Protocol).closed_protocol, 1);
    assert_eq!(count(Cause::InvalidData).closed_invalid_data, 1);
    assert_eq!(count(Cause::TooBig).closed_too_big, 1);
    assert_eq!(count(Cause::Rate).closed_rate, 1);
    assert_eq!(count(Cause::InboundFull).closed_inbound_full, 1);
    assert_eq!(count(Cause::SlowUpload).closed_slow_upload, 1);
    assert_eq!(count(Cause::Slow).closed_slow, 1);
    assert_eq!(count(Cause::OutboxFull).closed_outbox_full, 1);
    assert_eq!(count(Cause::WriteTimeout).closed_write_timeout, 1);
    assert_eq!(count(Cause::Trickle).closed_trickle, 1);
    assert_eq!(count(Cause::Idle).closed_idle, 1);
    assert_eq!(count(Cause::Heartbeat).closed_heartbeat, 1);
    assert_eq!(count(Cause::Panic).closed_panic, 1);
    assert_eq!(count(Cause::Application).closed_application, 1);
    assert_eq!(count(Cause::Drain).closed_drain, 1);
    assert_eq!(count(Cause::Abrupt).handshake_aborts, 0);
    assert_eq!(count(Cause::Peer).closed_clean, 0, "which its close frame counts");
}

#[test]
fn a_handshake_that_breaks_off_is_counted_and_nobody_is_told() {
    let mut core = core(|_| {});
    core.slots.open(1, Phase::Handshake);
    core.drop_connection(1, Cause::Abrupt);
    assert_eq!((core.counted.handshake_aborts, core.counted.closed), (1, 0));
    assert!(core.notices.is_empty());
}

#[test]
fn who_reads_too_slowly_loses_what_waits_and_is_told_why() {
    for (cause, code) in
        [(Cause::Slow, CloseCode::POLICY), (Cause::OutboxFull, CloseCode::TRY_AGAIN)]
    {
        let mut core = core(|_| {});
        for _ in 0..3 {
            core.with_outbox(0, |outbox| outbox.push(Data::Own(vec![7; 100].into()), 0));
        }
        core.give_up(0, cause);
        assert_eq!((core.counted.dropped_full, phase(&core)), (3, Phase::Flushing));
        let (last, [high, low]) = (queued(&mut core), code.0.to_be_bytes());
        assert_eq!(last[..4], [0x88, last.len() as u8 - 2, high, low]);
        assert_eq!(told(&mut core), [(cause, code)]);
        assert_eq!(hot(&mut core).pulse.ping, Ping::Left, "its time runs already");
    }
}

#[test]
fn the_farewell_comes_before_the_close_frame_or_the_end_of_the_body() {
    let said = |flags: u32, words: &str| {
        let mut core = with(flags);
        core.begin_close(0, Cause::Application, CloseCode::NORMAL, "why");
        assert_eq!(phase(&core) == Phase::Closing, flags & Flags::STREAM == 0);
        core.say_farewells(words.as_bytes());
        assert!(!hot(&mut core).is(Marks::PARTING));
        queued(&mut core)
    };
    assert_eq!(said(0, "bye"), b"\x81\x03bye\x88\x05\x03\xe8why");
    assert_eq!(said(0, ""), b"\x88\x05\x03\xe8why", "nothing to say");
    assert_eq!(said(Flags::STREAM, "bye"), b"3\r\nbye\r\n0\r\n\r\n");
    assert_eq!(said(Flags::STREAM, ""), b"0\r\n\r\n");
    assert_eq!(said(Flags::STREAM | Flags::BARE, "bye"), b"bye");
    assert_eq!(said(Flags::STREAM | Flags::BARE, ""), b"");
    let masked = said(Flags::CLIENT, "bye");
    assert_eq!((masked.len(), masked[1], masked[10]), (9 + 11, 0x83, 0x85));
}

#[test]
fn a_connection_that_takes_leave_sends_nothing_else_and_stays_until_it_has() {
    for flags in [0, Flags::STREAM, Flags::STREAM | Flags::BARE] {
        let mut core = with(flags);
        core.fail(0, Cause::Rate, CloseCode::POLICY, "why");
        let late = core.queue_message(0, 1, Kind::Text, b"late");
        assert_eq!(late, Err(SendError::Gone));
        // A flush between the decision and the farewell.
        core.flushed(0);
        assert_eq!(phase(&core), Phase::Flushing, "its last is still to come");
        core.say_farewells(b"bye");
        let last = queued(&mut core);
        assert!(last.windows(3).any(|window| window == b"bye"), "{last:?}");
        core.say_farewells(b"bye");
        assert_eq!(queued(&mut core), last, "once");
        core.retire_outbox(0);
        core.flushed(0);
        assert_eq!(phase(&core), Phase::Lingering);
    }
    // What has nothing to say, not even a close frame, still comes to its end.
    let mut mute = with(Flags::STREAM | Flags::BARE);
    mute.fail(0, Cause::Rate, CloseCode::POLICY, "why");
    mute.outgoing.drop_marks(mute.outgoing.marked().len());
    hot(&mut mute).clear(Flags::DIRTY);
    mute.say_farewells(b"");
    assert_eq!((queued(&mut mute).len(), mute.outgoing.marked()), (0, &[0][..]));
}

#[test]
fn on_a_connection_that_is_dropped_nothing_is_said() {
    let mut core = core(|_| {});
    core.begin_close(0, Cause::Application, CloseCode::NORMAL, "why");
    core.drop_connection(0, Cause::Broken);
    assert!(!hot(&mut core).is(Marks::PARTING));
    assert_eq!(queued(&mut core), b"");
    assert!(hot(&mut core).outbox.is_none(), "no memory of the gone");
    assert_eq!(told(&mut core), [(Cause::Application, CloseCode::NORMAL)], "the first end holds");
}

#[test]
fn what_cannot_be_said_any_more_is_counted() {
    let queue_two = |core: &mut Core| {
        for _ in 0..2 {
            core.with_outbox(0, |outbox| outbox.push(Data::Own(vec![7; 100].into()), 0));
        }
    };
    let mut dropped = core(|_| {});
    queue_two(&mut dropped);
    dropped.drop_connection(0, Cause::Abrupt);
    assert_eq!((dropped.counted.dropped_gone, queued(&mut dropped)), (2, Vec::new()));
    // Below its messages only the alert can be said.
    let mut alerted = core(|_| {});
    queue_two(&mut alerted);
    alerted.end_secure(0, b"alert".to_vec());
    assert_eq!((alerted.counted.dropped_gone, queued(&mut alerted)), (2, b"alert".to_vec()));
    assert_eq!(phase(&alerted), Phase::Flushing);
    assert!(hot(&mut alerted).has(Flags::DEAF) && hot(&mut alerted).has(Flags::LINGER));
    assert_eq!(told(&mut alerted), [(Cause::Protocol, CloseCode::ABNORMAL)]);
    let mut leaving = core(|_| {});
    leaving.begin_close(0, Cause::Application, CloseCode::NORMAL, "why");
    leaving.end_secure(0, b"alert".to_vec());
    assert_eq!(queued(&mut leaving), b"alert", "and no farewell");
}

#[test]
fn what_is_flushed_lingers_or_is_closed() {
    let leave = |flags: u32, more: bool| {
        let mut core = with(flags);
        core.on_close_frame(0, &BYE, more);
        core.say_farewells(b"");
        core.flushed(0);
        let shut = core.work.shutdowns().len();
        (phase(&core), shut)
    };
    assert_eq!(leave(0, false), (Phase::Closed, 0));
    assert_eq!(leave(0, true), (Phase::Lingering, 1));
    assert_eq!(leave(Flags::CLIENT, false), (Phase::Lingering, 0), "the server ends first");
    let mut open = core(|_| {});
    open.flushed(0);
    assert_eq!(phase(&open), Phase::Open);
}

#[test]
fn a_refusal_has_a_body_unless_the_request_wants_none() {
    let refuse = |bodiless: bool| {
        let mut core = core(|config| config.heartbeat.enabled = false);
        core.slots.free(0);
        core.slots.open(0, Phase::Handshake);
        core.refuse_with(0, Refusal::Timeout, bodiless);
        assert_eq!(phase(&core), Phase::Flushing);
        assert!(hot(&mut core).has(Flags::DEAF) && hot(&mut core).has(Flags::LINGER));
        String::from_utf8(queued(&mut core)).unwrap()
    };
    let (with, without) = (refuse(false), refuse(true));
    assert!(with.starts_with("HTTP/1.1 408 ") && without.starts_with("HTTP/1.1 408 "));
    assert!(without.ends_with("\r\n\r\n") && !with.ends_with("\r\n\r\n"), "{with:?}");
}

#[test]
fn a_stream_without_an_answer_gets_one_of_any_kind() {
    let waiting = || {
        let mut core = with(Flags::STREAM);
        hot(&mut core).mark(Marks::UNANSWERED);
        core
    };
    let answer = |core: &mut Core, status: u16| {
        core.respond(0, 1, &HttpResponse::new(status).body("text/plain", b"body".to_vec()))
    };
    for (status, counted) in [(200, (1, 0)), (399, (1, 0)), (400, (0, 1))] {
        let mut core = waiting();
        assert_eq!(answer(&mut core, status), Ok(()));
        let text = String::from_utf8(queued(&mut core)).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")) && text.ends_with("body"));
        assert_eq!((core.counted.answered, core.counted.refused_application), counted);
        assert!(hot(&mut core).has(Flags::DEAF) && hot(&mut core).has(Flags::CLOSE_SENT));
        assert_eq!(told(&mut core), [(Cause::Application, CloseCode::ABNORMAL)]);
        assert_eq!(phase(&core), Phase::Flushing);
        assert_eq!(answer(&mut core, status), Err(SendError::Gone), "once");
    }
    // There is no room for it.
    let mut full = waiting();
    full.outgoing.note_own(full.limits.turn_hard);
    assert_eq!(answer(&mut full, 200), Ok(()));
    assert!(queued(&mut full).starts_with(b"HTTP/1.1 503 "));
    assert_eq!((full.counted.answered, full.counted.refused_application), (0, 1));
    // It ends before there is one.
    let mut ended = waiting();
    ended.begin_close(0, Cause::Application, CloseCode::NORMAL, "why");
    assert!(queued(&mut ended).starts_with(b"HTTP/1.1 503 "));
    assert_eq!(answer(&mut ended, 200), Err(SendError::Gone));
}
