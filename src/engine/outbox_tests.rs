//! Of one outbox, and of several in one account.

use super::*;

const EMPTY: TurnBuffers<'static> = TurnBuffers { cork: &[], arena: &[] };

fn own(text: &str) -> Data {
    Data::Own(Bytes::copy_from_slice(text.as_bytes()))
}

fn content(outbox: &Outbox, turn: TurnBuffers<'_>) -> String {
    let mut slices = Vec::new();
    let (_, bytes) = outbox.gather(turn, usize::MAX, &mut slices);
    let all: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
    assert_eq!(all.len(), bytes);
    assert_eq!(bytes, outbox.bytes());
    String::from_utf8(all).unwrap()
}

#[test]
fn neighbours_in_the_cork_leave_as_one_slice() {
    let turn = TurnBuffers { cork: b"onetwothree", arena: &[] };
    let mut outbox = Outbox::default();
    outbox.push(Data::Cork(0..3), 0);
    outbox.push(Data::Cork(3..6), 0);
    outbox.push(own("!"), 0);
    outbox.push(Data::Cork(6..11), 0);
    let mut slices = Vec::new();
    assert_eq!(outbox.gather(turn, usize::MAX, &mut slices), (3, 12));
    assert_eq!(content(&outbox, turn), "onetwo!three");
}

#[test]
fn neighbours_in_the_arena_leave_as_one_slice_and_others_do_not() {
    let turn = TurnBuffers { cork: b"?", arena: b"onetwo..three" };
    let mut outbox = Outbox::default();
    assert_eq!(outbox.arena_end(), None);
    outbox.push(Data::Arena(0..3), 0);
    outbox.push(Data::Arena(3..6), 0);
    assert_eq!(outbox.arena_end(), Some(6));
    outbox.push(Data::Arena(8..13), 0);
    outbox.push(Data::Cork(0..1), 0);
    assert_eq!(outbox.arena_end(), None);
    let mut slices = Vec::new();
    assert_eq!(outbox.gather(turn, usize::MAX, &mut slices), (3, 12));
    assert_eq!(content(&outbox, turn), "onetwothree?");
}

#[test]
fn an_offer_ends_within_a_segment_where_its_bound_is() {
    let turn = TurnBuffers { cork: b"", arena: &[] };
    let mut outbox = Outbox::default();
    outbox.push(own("one"), 0);
    let mut slices = Vec::new();
    assert_eq!(outbox.gather(turn, 2, &mut slices), (1, 2));
    drop(slices);
    outbox.push(own("two"), 0);
    outbox.push(own("three"), 0);
    let mut slices = Vec::new();
    assert_eq!(outbox.gather(turn, 5, &mut slices), (2, 5));
    let all: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
    assert_eq!(all, b"onetw");
    slices.clear();
    assert_eq!(outbox.gather(turn, 6, &mut slices), (2, 6), "and no empty slice behind");
}

#[test]
fn an_answer_of_the_turn_never_stands_in_line() {
    let waits = |data| {
        let mut outbox = Outbox::default();
        outbox.push(data, 0);
        outbox.can_wait()
    };
    assert!(waits(Data::Shared(Bytes::from_static(b"a publication"), 0)));
    assert!(!waits(Data::Cork(0..1 << 20)) && !waits(Data::Arena(0..1 << 20)));
    assert!(!waits(own("a little")) && waits(Data::Own(Bytes::from(vec![0; WAITS_FROM + 1]))));
    assert!(!Outbox::default().can_wait());
}

#[test]
fn what_is_left_after_a_turn_is_kept_without_the_turn() {
    let turn = TurnBuffers { cork: b"hello", arena: b"xxworld" };
    let mut outbox = Outbox::default();
    outbox.push(Data::Cork(0..5), 0);
    outbox.push(Data::Arena(2..7), 0);
    outbox.advance(2, &mut Ledger::default());
    let mut ledger = Ledger::default();
    outbox.settle(turn, &mut ledger);
    assert_eq!(content(&outbox, EMPTY), "lloworld");
    outbox.advance(4, &mut Ledger::default());
    assert_eq!(content(&outbox, EMPTY), "orld");
    outbox.advance(4, &mut Ledger::default());
    assert!(outbox.is_empty());
}

#[test]
fn a_partly_sent_message_is_never_dropped() {
    let mut outbox = Outbox::default();
    for text in ["aaaa", "bbbb", "cccc"] {
        outbox.push(own(text), 0);
    }
    outbox.advance(1, &mut Ledger::default());
    let dropped = outbox.make_room(4 + SEGMENT, &mut Ledger::default());
    assert_eq!(dropped, Dropped { messages: 2, bytes: 8 });
    assert_eq!(content(&outbox, EMPTY), "aaa");
    assert_eq!(outbox.cut(&mut Ledger::default()), Dropped::default());
}

#[test]
fn control_frames_overtake_but_never_split_a_message() {
    let mut outbox = Outbox::default();
    outbox.push(own("first"), 0);
    outbox.push(own("second"), 0);
    outbox.push_control(own("<1>"), 9);
    assert_eq!(content(&outbox, EMPTY), "<1>firstsecond");
    outbox.advance(4, &mut Ledger::default());
    outbox.push_control(own("<2>"), 9);
    outbox.push_control(own("<3>"), 9);
    outbox.push_control(own("(4)"), 10);
    assert_eq!(content(&outbox, EMPTY), "irst(4)<3>second");
}

#[test]
fn a_message_in_two_pieces_is_one() {
    let mut outbox = Outbox::default();
    outbox.push_pair(own("head"), own("body"));
    outbox.push(own("next"), 0);
    outbox.advance(4, &mut Ledger::default());
    outbox.push_control(own("<1>"), 9);
    assert_eq!(content(&outbox, EMPTY), "body<1>next");
    outbox.cut(&mut Ledger::default());
    assert_eq!(content(&outbox, EMPTY), "body");
}

#[test]
fn the_newest_of_a_key_wins() {
    let mut outbox = Outbox::default();
    outbox.push(own("a1"), 1);
    outbox.push(own("b1"), 2);
    assert!(outbox.conflate(&own("a2!"), 1, &mut Ledger::default()));
    assert!(!outbox.conflate(&own("c1"), 3, &mut Ledger::default()));
    assert_eq!(content(&outbox, EMPTY), "a2!b1");
}

#[test]
fn a_frame_counts_once_in_all_its_forms() {
    let wire = Bytes::from(vec![1; 100_000]);
    let mut ledger = Ledger::default();
    let mut outboxes: Vec<Outbox> = (0..100).map(|_| Outbox::default()).collect();
    for (slot, outbox) in outboxes.iter_mut().enumerate() {
        let data = match slot % 2 {
            0 => Data::Shared(wire.clone(), 0),
            _ => Data::Shared(wire.slice(10..), 10),
        };
        outbox.push(data, 0);
        outbox.settle(EMPTY, &mut ledger);
        ledger.enter(slot as u32, outbox);
    }
    assert!((100_000..200_000).contains(&ledger.total()), "{}", ledger.total());
    for (slot, outbox) in outboxes.iter_mut().enumerate() {
        assert!(!ledger.is_empty());
        outbox.reset(&mut ledger);
        ledger.enter(slot as u32, outbox);
    }
    assert!(ledger.is_empty());
}

#[test]
fn small_messages_count_with_what_keeps_them() {
    let mut ledger = Ledger::default();
    let mut outbox = Outbox::default();
    for _ in 0..1000 {
        outbox.push(own("x"), 1);
    }
    assert!(outbox.weight() > 50_000);
    outbox.settle(EMPTY, &mut ledger);
    ledger.enter(1, &mut outbox);
    assert!(ledger.total() >= 1000 * (SEGMENT + 16), "{}", ledger.total());
    outbox.advance(1000, &mut ledger);
    ledger.enter(1, &mut outbox);
    assert!(ledger.is_empty());
}

#[test]
fn who_reads_pays_after_who_does_not() {
    const TICK_NS: u64 = 100_000_000;
    let mut ledger = Ledger::default();
    let mut full = |bytes: usize, reads: bool, slot| {
        let mut outbox = Outbox::default();
        outbox.push(Data::Own(Bytes::from(vec![0; bytes])), 0);
        outbox.note_progress(0, 1000, 1000 * TICK_NS);
        outbox.settle(EMPTY, &mut ledger);
        if reads {
            for tick in 1001..1050 {
                outbox.note_progress(30_000, tick, u64::from(tick) * TICK_NS);
                outbox.advance(30_000, &mut ledger);
            }
        }
        ledger.enter(slot, &mut outbox);
        outbox
    };
    // Of those who take nothing, who holds most; who reads comes last, however much it holds.
    let mut outboxes = [full(16 << 20, true, 0), full(1 << 20, false, 1), full(4 << 20, false, 2)];
    for slot in [2, 1, 0] {
        assert_eq!(ledger.worst(), Some(slot));
        let outbox = &mut outboxes[slot as usize];
        outbox.reset(&mut ledger);
        ledger.enter(slot, outbox);
    }
    assert!(ledger.is_empty());
}
