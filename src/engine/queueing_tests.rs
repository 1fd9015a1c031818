//! What is let into the outbox of one connection on a core without a ring, and in which bytes.

use super::*;
use crate::engine::config::Config;
use crate::engine::slots::Hot;

const LIMIT: usize = 10_000;

fn core(change: impl FnOnce(&mut Config)) -> Core {
    let mut config = Config { max_outbox: LIMIT, ..Config::default() };
    change(&mut config);
    Core::alone(config, 1_000_000_000, 0)
}

fn with(flags: u32) -> Core {
    Core::alone(Config { max_outbox: LIMIT, ..Config::default() }, 1_000_000_000, flags)
}

fn hot(core: &mut Core) -> &mut Hot {
    core.slots.get_mut(0).unwrap()
}

/// A piece that waits, and a kernel without room.
fn block(core: &mut Core, bytes: usize) {
    core.with_outbox(0, |outbox| outbox.push(Data::Own(vec![0; bytes].into()), 0));
    let Core { slots, outgoing, .. } = core;
    outgoing.block(slots.get_mut(0).unwrap());
}

/// All that is queued.
fn queued(core: &mut Core, arena: &[u8]) -> Vec<u8> {
    let Some(outbox) = core.slots.get(0).unwrap().outbox.as_ref() else { return Vec::new() };
    let mut slices = Vec::new();
    outbox.gather(core.outgoing.turn(arena), usize::MAX, &mut slices);
    slices.iter().flat_map(|slice| slice.iter().copied()).collect()
}

fn text(core: &mut Core, payload: &[u8]) -> Result<(), SendError> {
    core.queue_message(0, 1, Kind::Text, payload)
}

#[test]
fn who_is_gone_or_closing_is_queued_nothing() {
    let mut core = core(|_| {});
    assert_eq!(core.queue_message(0, 2, Kind::Text, b"x"), Err(SendError::Gone));
    assert_eq!(core.queue_message(1, 1, Kind::Text, b"x"), Err(SendError::Gone));
    assert_eq!(core.counted.dropped_gone, 2);
    hot(&mut core).set(Flags::CLOSE_SENT);
    assert_eq!(text(&mut core, b"x"), Err(SendError::Gone));
    assert_eq!(core.queue_control(0, 1, Opcode::Ping, b""), Err(SendError::Gone));
    hot(&mut core).clear(Flags::CLOSE_SENT);
    core.begin_close(0, Cause::Application, crate::protocol::CloseCode::NORMAL, "");
    hot(&mut core).clear(Flags::CLOSE_SENT);
    assert_eq!(text(&mut core, b"x"), Err(SendError::Gone), "whatever was said");
    assert_eq!(core.queue_control(0, 1, Opcode::Ping, b""), Err(SendError::Gone));
    assert_eq!(core.counted.dropped_gone, 4);
    assert_eq!(core.counted.messages_out, 0);
}

#[test]
fn a_callback_may_queue_so_much_and_no_more() {
    let mut core = core(|_| {});
    let hard = core.limits.turn_hard;
    core.outgoing.note_own(hard);
    assert_eq!(text(&mut core, b"x"), Ok(()));
    assert_eq!(text(&mut core, b"x"), Err(SendError::Slow));
    assert_eq!((core.counted.closed_outbox_full, core.counted.messages_out), (1, 1));
}

#[test]
fn a_blocked_peer_is_queued_what_fits_its_outbox() {
    let around = AROUND_MAX + 2 * SEGMENT;
    let fits = LIMIT - 1000 - around;
    let mut core = self::core(|_| {});
    block(&mut core, 1000);
    assert_eq!(text(&mut core, &vec![b'x'; fits]), Ok(()));
    let mut full = self::core(|_| {});
    block(&mut full, 1000);
    assert_eq!(text(&mut full, &vec![b'x'; fits + 1]), Err(SendError::Slow));
    assert_eq!((full.counted.closed_slow, full.counted.closed), (1, 1));
    let mut open = self::core(|_| {});
    open.with_outbox(0, |outbox| outbox.push(Data::Own(vec![0; 1000].into()), 0));
    assert_eq!(text(&mut open, &vec![b'x'; LIMIT]), Ok(()), "the kernel was not asked yet");
}

#[test]
fn every_way_in_counts_the_same() {
    type Way = fn(&mut Core, usize) -> Result<(), SendError>;
    let ways: [(usize, Way); 4] = [
        (AROUND_MAX, |core, len| core.queue_secret(0, 1, Kind::Text, &vec![b'x'; len])),
        (AROUND_MAX, |core, len| {
            core.queue_reply(0, 1, Kind::Text, &mut vec![b'x'; 20 + len], 20..20 + len)
        }),
        (HEADER_MAX, |core, len| core.queue_owned(0, 1, Kind::Text, vec![b'x'; len].into())),
        (4, |core, len| core.queue_frame(0, 1, &Frame::text(&"x".repeat(len)))),
    ];
    for (number, (around, way)) in ways.into_iter().enumerate() {
        let (limit, waits) = (100_000, 50_000);
        let fits = limit - waits - around - 2 * SEGMENT;
        let attempt = |len: usize| {
            let mut core = core(|config| config.max_outbox = limit);
            block(&mut core, waits);
            way(&mut core, len)
        };
        assert_eq!(attempt(fits), Ok(()), "{number}");
        assert_eq!(attempt(fits + 1), Err(SendError::Slow), "{number}");
    }
}

#[test]
fn the_newest_is_dropped_where_the_policy_says_so() {
    let mut core = core(|config| config.outbox_policy = Policy::DropNewest);
    block(&mut core, 1000);
    assert_eq!(text(&mut core, &[b'x'; LIMIT]), Err(SendError::Dropped));
    assert_eq!((core.counted.dropped_full, core.counted.messages_out), (1, 0));
    assert_eq!(hot(&mut core).phase(), Phase::Open);
    assert_eq!(text(&mut core, b"small"), Ok(()));
}

#[test]
fn the_oldest_are_dropped_until_the_new_one_fits() {
    for policy in [Policy::DropOldest, Policy::Conflate] {
        let mut core = core(|config| config.outbox_policy = policy);
        let message = vec![b'x'; 3000];
        block(&mut core, 3000);
        for _ in 0..2 {
            core.with_outbox(0, |outbox| outbox.push(Data::Own(message.clone().into()), 0));
        }
        assert_eq!(text(&mut core, &message), Ok(()));
        assert_eq!((core.counted.dropped_full, core.counted.messages_out), (1, 1));
        let room = LIMIT - 3 * (3000 + SEGMENT);
        let weight = hot(&mut core).outbox.as_ref().unwrap().weight();
        assert!(weight <= LIMIT && weight > LIMIT - room - 2 * AROUND_MAX, "{weight}");
        // An empty outbox takes one message of any size.
        assert_eq!(text(&mut core, &[b'x'; 2 * LIMIT]), Ok(()));
        assert_eq!(core.counted.dropped_full, 4);
    }
}

#[test]
fn the_new_one_is_dropped_if_the_oldest_cannot_be() {
    let around = AROUND_MAX + 2 * SEGMENT;
    let attempt = |pinned: usize| {
        let mut core = core(|config| config.outbox_policy = Policy::DropOldest);
        block(&mut core, 0);
        core.retire_outbox(0);
        // A pong, which is never dropped.
        let pong = Data::Own(vec![0; pinned].into());
        core.with_outbox(0, |outbox| outbox.push_run(pong));
        let Core { slots, outgoing, .. } = &mut core;
        outgoing.block(slots.get_mut(0).unwrap());
        core.with_outbox(0, |outbox| outbox.push(Data::Own(vec![0; 6000].into()), 0));
        (text(&mut core, &vec![b'x'; LIMIT - 5000 - around]), core.counted.dropped_full)
    };
    assert_eq!(attempt(5000), (Ok(()), 1), "to the byte");
    assert_eq!(attempt(5001), (Err(SendError::Dropped), 2));
}

#[test]
fn control_frames_are_short_and_overtake_what_waits() {
    let mut core = core(|_| {});
    assert_eq!(core.queue_control(0, 1, Opcode::Ping, &[0; 126]), Err(SendError::TooLong));
    assert_eq!(core.queue_control(0, 2, Opcode::Ping, b""), Err(SendError::Gone));
    text(&mut core, b"first").unwrap();
    assert_eq!(core.queue_control(0, 1, Opcode::Ping, &[7; 125]), Ok(()));
    let bytes = queued(&mut core, &[]);
    assert_eq!((&bytes[..7], bytes[7] & 0xf), (&b"\x81\x05first"[..], 9), "in their order");
    assert_eq!(bytes.len(), 7 + 2 + 125);
    let mut blocked = self::core(|_| {});
    block(&mut blocked, 5);
    blocked.queue_control(0, 1, Opcode::Pong, b"a").unwrap();
    blocked.queue_control(0, 1, Opcode::Pong, b"b").unwrap();
    assert_eq!(queued(&mut blocked, &[]), b"\x8a\x01b\0\0\0\0\0", "one of a kind, ahead");
    let mut stream = with(Flags::STREAM);
    assert_eq!(stream.queue_control(0, 1, Opcode::Ping, b""), Err(SendError::Stream));
    let mut client = with(Flags::CLIENT);
    client.queue_control(0, 1, Opcode::Ping, b"").unwrap();
    assert_eq!(queued(&mut client, &[]).len(), 6, "masked");
}

#[test]
fn there_is_room_for_what_is_around_a_payload() {
    let around = |framing| before(framing, Kind::Text, usize::MAX >> 1).0 + after(framing).len();
    let framings = [Framing::Frames, Framing::Masked, Framing::Chunks, Framing::Bare];
    assert_eq!(framings.map(around).into_iter().max(), Some(AROUND_MAX));
}

#[test]
fn large_payloads_have_a_buffer_of_their_own() {
    let queue = |flags: u32, len: usize| {
        let mut core = with(flags);
        text(&mut core, &vec![b'x'; len]).unwrap();
        let bytes = queued(&mut core, &[]);
        (core.outgoing.corked(), core.turn_size() >= len, bytes)
    };
    assert_eq!(CORK_MAX, 16_384);
    let (corked, counted, bytes) = queue(0, CORK_MAX);
    assert_eq!((corked, counted, bytes.len()), (0, true, CORK_MAX + 4));
    assert_eq!(bytes[..4], [0x81, 126, 0x40, 0]);
    let (corked, counted, bytes) = queue(0, CORK_MAX - 1);
    assert_eq!((corked, counted, bytes.len()), (CORK_MAX + 3, true, CORK_MAX + 3));
    // A mask needs a pass over the bytes anyway.
    let (corked, _, bytes) = queue(Flags::CLIENT, CORK_MAX);
    assert_eq!((corked, bytes.len(), bytes[1]), (CORK_MAX + 8, CORK_MAX + 8, 0xfe));
    let (corked, _, bytes) = queue(Flags::STREAM, CORK_MAX);
    assert_eq!(
        (corked, &bytes[..6], &bytes[bytes.len() - 3..]),
        (0, &b"4000\r\n"[..], &b"x\r\n"[..])
    );
    let (corked, _, bytes) = queue(Flags::STREAM | Flags::BARE, CORK_MAX);
    assert_eq!((corked, bytes.len()), (0, CORK_MAX));
}

#[test]
fn an_empty_message_is_nothing_on_a_stream() {
    let queue = |flags: u32| {
        let mut core = with(flags);
        text(&mut core, b"").unwrap();
        core.queue_secret(0, 1, Kind::Binary, b"").unwrap();
        queued(&mut core, &[])
    };
    assert_eq!(queue(0), [0x81, 0, 0x82, 0]);
    assert_eq!(queue(Flags::STREAM), b"");
    assert_eq!(queue(Flags::STREAM | Flags::BARE), b"");
}

#[test]
fn an_owned_payload_goes_out_from_where_it_is() {
    let queue = |flags: u32, len: usize| {
        let mut core = with(flags);
        core.queue_owned(0, 1, Kind::Binary, vec![b'x'; len].into()).unwrap();
        assert_eq!(core.counted.messages_out, 1);
        let size = core.turn_size();
        assert!(size >= len && size < len + 1000, "{size}");
        (core.outgoing.corked(), queued(&mut core, &[]).len())
    };
    assert_eq!(queue(0, CORK_MAX), (4, CORK_MAX + 4), "only its header is copied");
    assert_eq!(queue(0, CORK_MAX - 1), (CORK_MAX + 3, CORK_MAX + 3));
    assert_eq!(queue(Flags::STREAM | Flags::BARE, CORK_MAX), (0, CORK_MAX));
}

#[test]
fn a_prefix_and_a_shared_frame_are_one_message() {
    let frame = Frame::chunk(b"shared");
    let queue = |flags: u32, prefix: &[u8]| {
        let mut core = with(flags);
        core.queue_prefixed(0, 1, prefix, &frame).unwrap();
        assert_eq!(core.counted.messages_out, 1);
        String::from_utf8(queued(&mut core, &[])).unwrap()
    };
    assert_eq!(queue(Flags::STREAM, b"id\n"), "3\r\nid\n\r\n6\r\nshared\r\n");
    assert_eq!(queue(Flags::STREAM, b""), "6\r\nshared\r\n");
    assert_eq!(queue(Flags::STREAM | Flags::BARE, b"id\n"), "id\nshared");
    let mut socket = with(0);
    socket.queue_prefixed(0, 1, b"id", &Frame::text("shared")).unwrap();
    assert_eq!(queued(&mut socket, &[]), b"\x81\x06shared", "frames have no prefix");
    let mut full = with(Flags::STREAM);
    block(&mut full, LIMIT - 6 - AROUND_MAX - 11 - 2 * SEGMENT);
    assert_eq!(full.queue_prefixed(0, 1, b"prefix", &frame), Ok(()), "to the byte");
    let mut full = with(Flags::STREAM);
    block(&mut full, LIMIT - 6 - AROUND_MAX - 11 - 2 * SEGMENT + 1);
    assert_eq!(full.queue_prefixed(0, 1, b"prefix", &frame), Err(SendError::Slow));
}

#[test]
fn replies_lie_where_they_were_received_and_small_ones_move_together() {
    let mut core = core(|_| {});
    let mut arena = *b"......one.......two.............................";
    core.queue_reply(0, 1, Kind::Text, &mut arena, 6..9).unwrap();
    assert_eq!(core.outgoing.corked(), 0);
    core.queue_reply(0, 1, Kind::Text, &mut arena, 16..19).unwrap();
    assert_eq!(&arena[4..14], b"\x81\x03one\x81\x03two");
    assert_eq!(queued(&mut core, &arena), b"\x81\x03one\x81\x03two");
    assert_eq!(core.counted.messages_out, 2);
    // A larger one stays where it is.
    let mut core = self::core(|_| {});
    let mut arena = vec![b'.'; 2000];
    core.queue_reply(0, 1, Kind::Text, &mut arena, 6..9).unwrap();
    core.queue_reply(0, 1, Kind::Text, &mut arena, 100..100 + MOVED_MAX + 1).unwrap();
    assert_eq!(&arena[96..100], b"\x81\x7e\x01\x01");
    core.queue_reply(0, 1, Kind::Text, &mut arena, 500..500 + MOVED_MAX).unwrap();
    let end = 100 + MOVED_MAX + 1;
    assert_eq!(&arena[end..end + 4], b"\x81\x7e\x01\x00", "moved up");
    // No room before it, or another framing: a copy.
    let mut arena = *b"one";
    let mut copy = self::core(|_| {});
    copy.queue_reply(0, 1, Kind::Text, &mut arena, 0..3).unwrap();
    assert_eq!((copy.outgoing.corked(), queued(&mut copy, &arena)), (5, b"\x81\x03one".to_vec()));
    let mut client = with(Flags::CLIENT);
    let mut arena = *b"......one";
    client.queue_reply(0, 1, Kind::Text, &mut arena, 6..9).unwrap();
    assert_eq!((client.outgoing.corked(), client.counted.messages_out), (9, 1));
}

#[test]
fn of_one_key_the_newest_is_kept_where_the_policy_says_so() {
    let queue = |policy: Policy, keys: [u64; 2]| {
        let mut core = core(|config| config.outbox_policy = policy);
        block(&mut core, 3);
        for (key, text) in keys.into_iter().zip(["old", "new"]) {
            core.queue_frame(0, 1, &Frame::text(text).keyed(key)).unwrap();
        }
        (core.counted.conflated, core.counted.messages_out, queued(&mut core, &[]).len())
    };
    assert_eq!(queue(Policy::Conflate, [5, 5]), (1, 1, 8));
    assert_eq!(queue(Policy::Conflate, [5, 6]), (0, 2, 13));
    assert_eq!(queue(Policy::Conflate, [0, 0]), (0, 2, 13));
    assert_eq!(queue(Policy::DropOldest, [5, 5]), (0, 2, 13));
    // Whoever is closing gets no new one.
    let mut core = core(|config| config.outbox_policy = Policy::Conflate);
    block(&mut core, 3);
    core.queue_frame(0, 1, &Frame::text("old").keyed(5)).unwrap();
    hot(&mut core).clear(Flags::DIRTY);
    let own = core.turn_size();
    core.queue_frame(0, 1, &Frame::text("new").keyed(5)).unwrap();
    assert_eq!(core.turn_size(), own + SEGMENT);
    assert!(hot(&mut core).has(Flags::DIRTY), "what is new has to be settled");
    core.begin_close(0, Cause::Application, crate::protocol::CloseCode::NORMAL, "");
    let late = Frame::text("late").keyed(5);
    assert_eq!(core.queue_frame(0, 1, &late), Err(SendError::Gone));
    assert_eq!(core.counted.conflated, 1);
}
