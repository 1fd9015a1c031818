//! Endings of one connection on a core without a ring: what is said, counted and awaited in each.

use super::*;
use crate::engine::config::{Config, LastWords};
use crate::engine::slots::{Hot, UNANSWERED};

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

fn queued(core: &Core) -> Vec<u8> {
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
            Notice::Closed { slot: 0, generation: 1, closed } => (closed.cause, closed.code),
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
    assert_eq!((phase(&core), queued(&core)), (Phase::Closing, b"\x88\x05\x03\xe8bye".to_vec()));
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
    assert_eq!((phase(&core), queued(&core)), (Phase::Flushing, b"\x88\x02\x03\xe8".to_vec()));
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
    assert_eq!(queued(&ours).len(), 4, "one close frame");
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
        assert_eq!(told(&mut core), [(cause, code)]);
        assert_eq!((core.counted.dropped_full, phase(&core)), (3, Phase::Flushing));
        assert_eq!(queued(&core)[..4], close_head(&core, code));
        assert_eq!(hot(&mut core).pulse.ping, Ping::Left, "its time runs already");
    }
}

fn close_head(core: &Core, code: CloseCode) -> [u8; 4] {
    let len = queued(core).len() as u8 - 2;
    let [high, low] = code.0.to_be_bytes();
    [0x88, len, high, low]
}

#[test]
fn the_last_words_come_before_the_close_frame_or_the_end_of_the_body() {
    let words = LastWords(|dialect, _, reason, out| {
        if dialect != 2 {
            out.extend_from_slice(reason.as_bytes());
        }
    });
    let said = |flags: u32, dialect: u8, reason: &str| {
        let config = Config { last_words: words, ..Config::default() };
        let mut core = Core::alone(config, 1_000_000_000, flags);
        hot(&mut core).dialect = dialect;
        core.begin_close(0, Cause::Application, CloseCode::NORMAL, reason);
        assert_eq!(phase(&core) == Phase::Closing, flags & Flags::STREAM == 0);
        queued(&core)
    };
    assert_eq!(said(0, 1, "why"), b"\x81\x03why\x88\x05\x03\xe8why");
    assert_eq!(said(0, 0, "why"), b"\x88\x05\x03\xe8why", "no dialect");
    assert_eq!(said(0, 2, "why"), b"\x88\x05\x03\xe8why", "nothing to say");
    assert_eq!(said(Flags::STREAM, 1, "why"), b"3\r\nwhy\r\n0\r\n\r\n");
    assert_eq!(said(Flags::STREAM | Flags::BARE, 1, "why"), b"why");
    assert_eq!(said(Flags::STREAM | Flags::BARE, 0, "why"), b"");
    let masked = said(Flags::CLIENT, 1, "why");
    assert_eq!((masked.len(), masked[1], masked[10]), (9 + 11, 0x83, 0x85));
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
    assert_eq!((dropped.counted.dropped_gone, queued(&dropped)), (2, Vec::new()));
    // Below its messages only the alert can be said.
    let mut alerted = core(|_| {});
    queue_two(&mut alerted);
    alerted.end_secure(0, b"alert".to_vec());
    assert_eq!((alerted.counted.dropped_gone, queued(&alerted)), (2, b"alert".to_vec()));
    assert_eq!(phase(&alerted), Phase::Flushing);
    assert!(hot(&mut alerted).has(Flags::DEAF) && hot(&mut alerted).has(Flags::LINGER));
    assert_eq!(told(&mut alerted), [(Cause::Protocol, CloseCode::ABNORMAL)]);
}

#[test]
fn what_is_flushed_lingers_or_is_closed() {
    let leave = |flags: u32, more: bool| {
        let mut core = with(flags);
        core.on_close_frame(0, &BYE, more);
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
        String::from_utf8(queued(&core)).unwrap()
    };
    let (with, without) = (refuse(false), refuse(true));
    assert!(with.starts_with("HTTP/1.1 408 ") && without.starts_with("HTTP/1.1 408 "));
    assert!(without.ends_with("\r\n\r\n") && !with.ends_with("\r\n\r\n"), "{with:?}");
}

#[test]
fn a_stream_without_an_answer_gets_one_of_any_kind() {
    let waiting = || {
        let mut core = with(Flags::STREAM);
        hot(&mut core).dialect = 1 | UNANSWERED;
        core
    };
    let answer = |core: &mut Core, status: u16| {
        core.respond(0, 1, &HttpResponse::new(status).body("text/plain", b"body".to_vec()))
    };
    for (status, counted) in [(200, (1, 0)), (399, (1, 0)), (400, (0, 1))] {
        let mut core = waiting();
        assert_eq!(answer(&mut core, status), Ok(()));
        let text = String::from_utf8(queued(&core)).unwrap();
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
    assert!(queued(&full).starts_with(b"HTTP/1.1 503 "));
    assert_eq!((full.counted.answered, full.counted.refused_application), (0, 1));
    // It ends before there is one.
    let mut ended = waiting();
    ended.begin_close(0, Cause::Application, CloseCode::NORMAL, "why");
    assert!(queued(&ended).starts_with(b"HTTP/1.1 503 "));
    assert_eq!(answer(&mut ended, 200), Err(SendError::Gone));
}
