//! What a home core holds back, waits for and tells of a channel that a broker orders.

use bytes::Bytes;

use super::line::{BEHIND, DUE, FORKED, HEARD, HELD_BYTES, HELD_MESSAGES, HELD_TOTAL, Held};
use super::line::{KNOWN, PATCHED, Reading, VERIFY, Wait, Waiting, seconds as in_seconds};
use super::*;
use crate::gateway::broker::Ticket;
use crate::gateway::hub_port::SubKey;
use crate::gateway::letters::{ClientId, Member, Recover, RecoverMode, SubscribeLetter};
use crate::gateway::letters::{UnsubscribeLetter, Who};
use crate::gateway::stream::{Position, Read};
use crate::gateway::wire::Error;

const OPTIONS: StreamOptions =
    StreamOptions { size: 100, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(600) };

const NOW: Duration = Duration::from_secs(5);

fn home() -> Home {
    Home::new(2, Placement::new(4, 1), HomeLimits::default())
}

fn epoch(name: &str) -> Epoch {
    Epoch::parse(name).expect("an epoch")
}

fn item(offset: u64, bytes: usize) -> Item {
    let data = Bytes::from(vec![b'1'; bytes]);
    let mut item = Item::new(NOW, data, None, Default::default(), 0);
    item.offset = offset;
    item
}

fn held(of: &str, offset: u64, bytes: usize) -> Held {
    Held { epoch: epoch(of), item: item(offset, bytes), print: offset, told: false }
}

/// A subscriber of this core with this number.
fn letter(channel: &str, core: u16, sub: u32) -> SubscribeLetter {
    SubscribeLetter {
        channel: channel.into(),
        core,
        sub: SubKey(sub),
        nonce: 1,
        ticket: 7,
        delta: false,
        stream: Some(OPTIONS),
        recover: None,
        filter: None,
        member: None,
        hears: false,
    }
}

fn leaves(channel: &str, core: u16, sub: u32) -> UnsubscribeLetter {
    UnsubscribeLetter {
        channel: channel.into(),
        core,
        sub: SubKey(sub),
        member: None,
        hears: false,
    }
}

fn since(epoch: &str, offset: u64) -> Position<String> {
    Position { offset, epoch: epoch.to_owned() }
}

/// A channel whose stream was found at an offset, and has come so much further.
fn channel(home: &mut Home, offset: u64, more: u64) -> u32 {
    let key = home.expect(&letter("a", 0, 0));
    home.adopt(key, Position { offset, epoch: epoch("A") }, &OPTIONS, NOW);
    home.line(key).expect("a line").set(HEARD, true);
    for at in offset + 1..=offset + more {
        home.follow(key, (item(at, 10), at * 11), &OPTIONS, NOW);
    }
    key
}

/// Epochs and offsets of what is released, and whether there was more.
fn released(home: &mut Home, key: u32) -> (Vec<(String, u64)>, bool) {
    let (all, more) = home.release(key);
    (all.iter().map(|it| (it.epoch.as_str().to_owned(), it.item.offset)).collect(), more)
}

fn of(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(epoch, offset)| ((*epoch).to_owned(), *offset)).collect()
}

#[test]
fn what_comes_too_early_is_held_in_its_order() {
    let mut home = home();
    let key = home.expect(&letter("a", 0, 0));
    assert_eq!(released(&mut home, key), (Vec::new(), false));
    for (name, offset, new) in [
        ("A", 5, true),
        ("A", 3, true),
        ("A", 4, true),
        ("A", 3, false),
        ("B", 2, true),
        ("B", 1, true),
        ("A", 9, true),
        ("A", 9, false),
        ("B", 1, false),
    ] {
        assert_eq!(home.hold(key, held(name, offset, 10)), new, "{name}{offset}");
    }
    assert!(!home.lines.is_empty());
    let all = [("A", 3), ("A", 4), ("A", 5), ("A", 9), ("B", 1), ("B", 2)];
    assert_eq!(released(&mut home, key), (of(&all), false));
    assert_eq!(released(&mut home, key), (Vec::new(), false), "once");
    home.tidy_wait(key);
    assert!(home.line(key).is_some_and(|line| line.wait.is_none()));
}

#[test]
fn the_highest_place_is_known_of_the_last_epoch() {
    let mut home = home();
    let key = home.expect(&letter("a", 0, 0));
    for (name, offset, highest) in [
        ("A", 5, ("A", 5)),
        ("A", 3, ("A", 5)),
        ("A", 6, ("A", 6)),
        ("B", 2, ("B", 2)),
        ("B", 1, ("B", 2)),
    ] {
        home.hold(key, held(name, offset, 10));
        assert_eq!(home.wait(key).highest, Some((epoch(highest.0), highest.1)));
    }
    home.release(key);
    assert_eq!(home.wait(key).highest, None);
}

#[test]
fn a_channel_holds_back_so_many_messages() {
    let mut home = home();
    let key = home.expect(&letter("a", 0, 0));
    for offset in 1..=HELD_MESSAGES as u64 {
        home.hold(key, held("A", offset, 10));
    }
    assert_eq!(home.wait(key).held.len(), HELD_MESSAGES);
    assert!(!home.wait(key).dropped);
    home.hold(key, held("A", 1000, 10));
    assert!(home.wait(key).held.is_empty() && home.wait(key).dropped);
    assert_eq!(home.wait(key).highest, Some((epoch("A"), 1000)));
    // What comes then is held, too, and that there was more is not forgotten.
    home.hold(key, held("A", 1001, 10));
    assert_eq!(released(&mut home, key), (of(&[("A", 1001)]), true));
    assert_eq!(released(&mut home, key), (Vec::new(), false));
}

/// Bytes of messages that together take exactly what one channel may hold.
fn filling() -> Vec<usize> {
    let cost = |bytes: usize| item(1, bytes).cost();
    let with = |each: usize| {
        let count = HELD_BYTES / cost(each) - 1;
        let last = (1..8000).find(|last| count * cost(each) + cost(*last) == HELD_BYTES)?;
        (count < HELD_MESSAGES).then(|| [vec![each; count], vec![last]].concat())
    };
    (1000..4000).find_map(with).expect("some sizes")
}

/// Has a channel hold messages of these sizes.
fn hold_all(home: &mut Home, key: u32, sizes: &[usize]) {
    for (offset, bytes) in (1..).zip(sizes) {
        home.hold(key, held("A", offset, *bytes));
    }
}

#[test]
fn a_channel_holds_back_so_many_bytes() {
    let full = filling();
    let mut over = full.clone();
    over.last_mut().into_iter().for_each(|last| *last += 1000);
    for (sizes, fits) in [(full, true), (over, false)] {
        let mut home = home();
        let key = home.expect(&letter("a", 0, 0));
        hold_all(&mut home, key, &sizes);
        assert_eq!(home.wait(key).dropped, !fits);
        assert_eq!(home.wait(key).held.len(), if fits { sizes.len() } else { 0 });
        home.release(key);
        home.hold(key, held("A", 1, 10));
        home.dismiss(&leaves("a", 0, 0));
        assert!(home.lines.is_empty(), "the account is even");
    }
}

#[test]
fn all_channels_together_hold_back_so_many_bytes() {
    let (mut home, full) = (home(), filling());
    let all = HELD_TOTAL / HELD_BYTES;
    let name = |n: usize| format!("c{n}");
    let keys: Vec<u32> = (0..=all).map(|n| home.expect(&letter(&name(n), 0, 0))).collect();
    for key in &keys[..all] {
        hold_all(&mut home, *key, &full);
        assert!(!home.wait(*key).dropped && home.wait(*key).held.len() == full.len());
    }
    home.hold(keys[all], held("A", 1, 1));
    assert!(home.wait(keys[all]).dropped);
    // The place of those that are let go is free.
    home.release(keys[0]);
    home.release(keys[all]);
    hold_all(&mut home, keys[all], &full);
    assert!(!home.wait(keys[all]).dropped);
    (0..=all).for_each(|n| _ = home.dismiss(&leaves(&name(n), 0, 0)));
    assert!(home.is_empty() && home.lines_end() == 0);
}

#[test]
fn a_line_is_its_channels() {
    let mut home = home();
    assert!(home.lines.is_empty() && home.line_of("a").is_none() && home.lines_end() == 0);
    let (a, b) = (home.expect(&letter("a", 0, 0)), home.expect(&letter("b", 0, 0)));
    assert!(home.line(a).is_some() && home.line(b).is_some());
    let (key, line) = home.line_of("b").expect("one");
    line.set(PATCHED, true);
    assert_eq!(key, b);
    assert!(home.draw_line(b).is(PATCHED) && !home.draw_line(a).is(PATCHED));
    assert!(home.lines_end() >= 2 && !home.lines.is_empty());
    let found: Vec<u32> = (0..home.lines_end()).filter(|key| home.line(*key).is_some()).collect();
    assert_eq!(found, [a, b]);
    // Messages that were held back go with the line.
    home.hold(a, held("A", 5, 10));
    home.dismiss(&leaves("a", 0, 0));
    assert!(!home.lines.is_empty() && home.line_of("a").is_none());
    home.dismiss(&leaves("b", 0, 0));
    assert!(home.lines.is_empty() && home.lines_end() == 0);
}

#[test]
fn flags_of_a_line_are_one_each() {
    let mut home = home();
    let key = home.expect(&letter("a", 0, 0));
    let line = home.draw_line(key);
    for (heard, verify, certain) in
        [(false, false, false), (true, false, true), (true, true, false), (false, true, false)]
    {
        line.set(HEARD, heard);
        line.set(VERIFY, verify);
        assert_eq!(line.is_certain(), certain);
        assert_eq!((line.is(HEARD), line.is(VERIFY), line.is(KNOWN)), (heard, verify, false));
    }
    line.set(VERIFY, true);
    line.set(VERIFY, true);
    assert!(line.is(VERIFY));
    line.set(HEARD, false);
    line.set(HEARD, false);
    assert!(!line.is(HEARD) && line.is(VERIFY));
}

fn reading() -> Reading {
    Reading { ticket: Ticket(1), since: None, limit: 0, at: None, heard: None }
}

#[test]
fn a_wait_goes_when_nothing_is_in_it() {
    let waiting = |stream| Waiting {
        letter: Box::new(SubscribeLetter { stream, ..letter("a", 0, 0) }),
        settled_by: None,
    };
    type Fill = fn(&mut Wait);
    let fill: [(Fill, bool, bool); 6] = [
        (|wait| wait.reading = Some(reading()), true, true),
        (|wait| wait.untold = Some((1, 2)), false, false),
        (|wait| wait.dropped = true, false, false),
        (|wait| wait.held.push(held("A", 1, 1)), false, false),
        (|wait| wait.promised = Some((epoch("A"), 1)), false, false),
        (|_| {}, false, false),
    ];
    for (at, (fill, wants, reads)) in fill.into_iter().enumerate() {
        let mut home = home();
        let key = home.expect(&letter("a", 0, 0));
        fill(home.wait(key));
        assert_eq!(home.wait(key).wants_position(), wants);
        let line = home.line(key).expect("a line");
        assert_eq!(line.is_reading(), reads);
        home.tidy_wait(key);
        let there = home.line(key).expect("a line").wait.is_some();
        assert_eq!(there, at != 5, "the last one has nothing");
    }
    for (stream, wants) in [(Some(OPTIONS), true), (None, false)] {
        let mut home = home();
        let key = home.expect(&letter("a", 0, 0));
        home.wait(key).subscribers.push(waiting(stream));
        home.tidy_wait(key);
        assert_eq!(home.wait(key).wants_position(), wants);
        assert_eq!(home.wait(key).subscribers.len(), 1);
    }
}

#[test]
fn promises_hold_until_the_stream_is_there() {
    let mut home = home();
    let key = channel(&mut home, 6, 4);
    home.keep_promise(key);
    home.promise(key, (epoch("A"), 12));
    home.promise(key, (epoch("A"), 11));
    assert_eq!(home.wait(key).promised, Some((epoch("A"), 12)));
    home.promise(key, (epoch("A"), 13));
    home.keep_promise(key);
    assert_eq!(home.wait(key).promised, Some((epoch("A"), 13)));
    home.promise(key, (epoch("B"), 1));
    home.keep_promise(key);
    assert_eq!(home.wait(key).promised, Some((epoch("B"), 1)), "another stream's");
    home.promise(key, (epoch("A"), 11));
    home.follow(key, (item(11, 10), 0), &OPTIONS, NOW);
    home.keep_promise(key);
    assert!(home.line(key).expect("a line").wait.is_none());
    // The server has told where the stream is, after all that it has told before.
    home.promise(key, (epoch("A"), 100));
    home.adopt(key, Position { offset: 20, epoch: epoch("A") }, &OPTIONS, NOW);
    assert_eq!(home.wait(key).promised, None);
}

#[test]
fn who_waits_is_found_by_core_and_number() {
    let mut home = home();
    let key = home.expect(&letter("a", 0, 0));
    for (core, sub) in [(0, 1), (1, 0), (1, 1)] {
        let waiting = Waiting { letter: Box::new(letter("a", core, sub)), settled_by: None };
        home.wait(key).subscribers.push(waiting);
    }
    home.hold(key, held("A", 5, 10));
    assert!(home.stop_waiting(key, 0, SubKey(0)).is_none());
    let found = home.stop_waiting(key, 1, SubKey(0)).expect("it waits");
    assert_eq!((found.core, found.sub), (1, SubKey(0)));
    assert!(home.stop_waiting(key, 1, SubKey(0)).is_none(), "once");
    home.stop_waiting(key, 0, SubKey(1)).expect("it waits");
    assert_eq!(home.wait(key).held.len(), 1, "one who wants a position waits");
    home.stop_waiting(key, 1, SubKey(1)).expect("it waits");
    assert!(home.line(key).expect("a line").wait.is_none(), "what was held is nobody's");
    // Where the stream is known, it is needed nevertheless.
    let waiting = Waiting { letter: Box::new(letter("a", 1, 1)), settled_by: None };
    home.wait(key).subscribers.push(waiting);
    home.hold(key, held("A", 5, 10));
    home.line(key).expect("a line").set(KNOWN, true);
    home.stop_waiting(key, 1, SubKey(1)).expect("it waits");
    assert_eq!(home.wait(key).held.len(), 1);
}

#[test]
fn what_is_retained_settles_who_missed_no_more() {
    let mut home = home();
    let key = home.expect(&letter("a", 0, 0));
    assert!(!home.settles(key, &letter("a", 0, 0), NOW), "there is no stream");
    let mut home = self::home();
    let key = channel(&mut home, 6, 4);
    assert!(home.settles(key, &letter("a", 0, 0), NOW));
    let asks = |since: Position<String>, mode, limit| SubscribeLetter {
        recover: Some(Recover { since, mode, limit, max_bytes: 0, or_reject: false }),
        ..letter("a", 0, 0)
    };
    let stream = RecoverMode::Stream;
    for (from, limit, settled) in [
        (since("A", 10), 0, true),
        (since("A", 6), 0, true),
        (since("A", 5), 0, false),
        (since("A", 5), 5, false),
        (since("A", 5), 4, true),
        (since("A", 11), 0, false),
        (since("A", 11), 4, false),
        (since("B", 10), 0, false),
        (since("B", 1), 4, false),
        (since("", 8), 0, true),
    ] {
        assert_eq!(home.settles(key, &asks(from.clone(), stream, limit), NOW), settled, "{from:?}");
    }
    for (from, settled) in [(since("A", 10), true), (since("B", 1), true)] {
        assert_eq!(home.settles(key, &asks(from, RecoverMode::Cache, 0), NOW), settled);
    }
    let no_stream = SubscribeLetter { stream: None, ..asks(since("A", 5), stream, 0) };
    assert!(home.settles(key, &no_stream, NOW), "it needs no position");
    // What has expired is not retained.
    let later = NOW + OPTIONS.ttl;
    assert!(home.settles(key, &asks(since("A", 10), stream, 0), later));
    assert!(!home.settles(key, &asks(since("A", 9), stream, 0), later));
    assert!(!home.settles(key, &asks(since("B", 9), RecoverMode::Cache, 0), later));
}

#[test]
fn a_subscriber_gets_what_is_retained_or_is_refused() {
    let mut home = home();
    let key = channel(&mut home, 6, 4);
    let member = Member {
        client: ClientId::new(1),
        info: Who { user: "ann".into(), ..Who::default() },
        present: true,
        announced: true,
    };
    let recover = |offset, or_reject| {
        let mode = RecoverMode::Stream;
        Some(Recover { since: since("A", offset), mode, limit: 0, max_bytes: 0, or_reject })
    };
    let asks = |offset, or_reject| SubscribeLetter {
        recover: recover(offset, or_reject),
        member: Some(member.clone()),
        hears: true,
        ..letter("a", 0, 1)
    };
    let came = asks(8, false);
    home.expect(&came);
    let (answer, joined) = home.welcome(key, came, NOW);
    assert_eq!(answer.top, Some(Position { offset: 10, epoch: epoch("A") }));
    assert_eq!(answer.recovered.as_ref().and_then(|it| it.items.as_ref()).map(Vec::len), Some(2));
    assert_eq!((joined.map(|(client, _)| client), answer.told), (Some(ClientId::new(1)), 1));
    let counters = home.counters();
    assert_eq!((counters.recovered, counters.unrecovered), (1, 0));
    // One that needs no position has none, and recovers nothing.
    let plain = SubscribeLetter { stream: None, member: None, ..asks(8, false) };
    let (answer, joined) = home.welcome(key, plain, NOW);
    assert!(answer.top.is_none() && answer.recovered.is_none() && joined.is_none());
    let (answer, _) = home.welcome(key, asks(2, true), NOW);
    assert!(answer.is_rejected());
    assert_eq!(home.counters().unrecovered, 1);
    let other = Member { client: ClientId::new(2), ..member.clone() };
    let refused = SubscribeLetter { member: Some(other), ..asks(8, false) };
    let refused = home.refuse(key, refused, Error::INTERNAL);
    assert_eq!(home.presence("a").len(), 1, "who is refused is not there");
    assert_eq!(refused.refused.as_deref(), Some(&Error::INTERNAL));
    assert!(refused.top.is_none() && refused.recovered.is_none() && refused.told == 0);
    let later = NOW + OPTIONS.ttl;
    let (answer, _) = home.welcome(key, asks(9, false), later);
    assert!(answer.recovered.is_some_and(|it| it.items.is_none()), "it has expired");
}

#[test]
fn the_last_to_go_leaves_a_stream_or_nothing() {
    let mut home = home();
    assert!(home.dismiss(&leaves("a", 0, 0)).is_none() && home.abandon("a"));
    let key = channel(&mut home, 6, 4);
    assert_eq!((home.audience("a"), home.audience("b")), (1, 0));
    home.expect(&letter("a", 0, 1));
    home.expect(&letter("a", 3, 0));
    assert_eq!(home.audience("a"), 3);
    assert!(!home.has_others(99));
    assert!(home.has_others(key));
    for sub in 0..3 {
        assert!(home.has_others(key));
        let waiting = Waiting { letter: Box::new(letter("a", 0, sub)), settled_by: None };
        home.wait(key).subscribers.push(waiting);
    }
    assert!(!home.has_others(key), "all of them wait");
    assert!(matches!(home.dismiss(&leaves("a", 0, 0)), Some((None, false))));
    assert!(matches!(home.dismiss(&leaves("a", 3, 0)), Some((None, false))));
    assert!(!home.abandon("a") && home.audience("a") == 1);
    home.change(key, |channel| channel.last = Some(Arc::new(item(9, 10))));
    assert!(matches!(home.dismiss(&leaves("a", 0, 1)), Some((None, true))));
    assert!(home.channels[key].last.is_none() && home.audience("a") == 0);
    assert_eq!(home.position(key).map(|it| it.offset), Some(10), "the stream is kept");
    assert!(home.abandon("a") && home.find("a").is_none());
    // Without a stream there is nothing to keep.
    home.expect(&letter("b", 0, 0));
    assert!(matches!(home.dismiss(&leaves("b", 0, 0)), Some((None, true))));
    assert!(home.is_empty());
}

#[test]
fn history_is_told_where_all_of_it_lies_here_for_sure() {
    let whole = StreamOptions { size: 4, ..OPTIONS };
    let none = StreamOptions { size: 0, ..OPTIONS };
    let five = StreamOptions { size: 5, ..OPTIONS };
    let read = |since: Option<Position<String>>, limit, reverse, max| Read {
        since,
        limit,
        reverse,
        max,
        max_bytes: 0,
    };
    let at = |offset| Some(since("A", offset));
    let offsets = |home: &mut Home, options: &StreamOptions, read: &Read, now| {
        let past = home.retained("a", options, read, now)?;
        let (position, items) = past.expect("a history");
        assert_eq!(position, Position { offset: 10, epoch: epoch("A") });
        Some(items.iter().map(|item| item.offset).collect::<Vec<_>>())
    };
    let mut home = home();
    channel(&mut home, 6, 4);
    for (options, read, expected) in [
        (&OPTIONS, read(None, 0, false, 0), Some(vec![])),
        (&OPTIONS, read(None, -1, false, 0), None),
        (&whole, read(None, -1, false, 0), Some(vec![7, 8, 9, 10])),
        (&none, read(None, -1, false, 0), Some(vec![7, 8, 9, 10])),
        (&five, read(None, -1, false, 0), None),
        (&OPTIONS, read(at(6), -1, false, 0), Some(vec![7, 8, 9, 10])),
        (&OPTIONS, read(at(5), -1, false, 0), None),
        (&whole, read(at(5), -1, false, 0), None),
        (&OPTIONS, read(at(10), -1, false, 0), Some(vec![])),
        (&OPTIONS, read(at(11), -1, false, 0), None),
        (&OPTIONS, read(at(11), -1, true, 1), None),
        (&OPTIONS, read(Some(since("B", 8)), -1, false, 0), None),
        (&OPTIONS, read(Some(since("", 8)), -1, false, 0), Some(vec![9, 10])),
        (&OPTIONS, read(None, 4, true, 0), Some(vec![10, 9, 8, 7])),
        (&OPTIONS, read(None, 5, true, 0), None),
        (&OPTIONS, read(None, -1, true, 0), None),
        (&OPTIONS, read(None, -1, true, 4), Some(vec![10, 9, 8, 7])),
        (&OPTIONS, read(None, -1, true, 5), None),
        (&OPTIONS, read(None, 9, true, 4), Some(vec![10, 9, 8, 7])),
        (&OPTIONS, read(None, 2, true, 9), Some(vec![10, 9])),
        (&OPTIONS, read(at(10), 3, true, 0), Some(vec![9, 8, 7])),
        (&OPTIONS, read(at(10), 4, true, 0), None),
        (&whole, read(at(10), 4, true, 0), Some(vec![9, 8, 7])),
        (&whole, read(None, -1, true, 0), Some(vec![10, 9, 8, 7])),
    ] {
        assert_eq!(offsets(&mut home, options, &read, NOW), expected, "{read:?}");
    }
    // What has expired at the server, too, is known to be nothing.
    let later = NOW + OPTIONS.ttl;
    assert_eq!(offsets(&mut home, &OPTIONS, &read(at(10), -1, false, 0), later), Some(vec![]));
    assert_eq!(offsets(&mut home, &OPTIONS, &read(at(9), -1, false, 0), later), None);
    // From the first publication on.
    let mut home = self::home();
    channel(&mut home, 0, 10);
    let all = Some((1..=10).collect::<Vec<_>>());
    assert_eq!(offsets(&mut home, &OPTIONS, &read(None, -1, false, 0), NOW), all);
    assert!(home.retained("b", &OPTIONS, &read(None, 0, false, 0), NOW).is_none());
}

#[test]
fn history_is_not_told_where_something_may_be_missing() {
    let anything = Read { limit: 0, ..Read::default() };
    let told = |home: &mut Home| home.retained("a", &OPTIONS, &anything, NOW).is_some();
    let mut home = home();
    let key = channel(&mut home, 6, 4);
    assert!(told(&mut home));
    for (flag, needed) in
        [(KNOWN, true), (HEARD, true), (BEHIND, false), (DUE, false), (FORKED, false)]
    {
        home.line(key).expect("a line").set(flag, !needed);
        assert!(!told(&mut home), "{flag}");
        home.line(key).expect("a line").set(flag, needed);
        assert!(told(&mut home));
    }
    for (place, tells) in [(("A", 10), true), (("A", 11), false), (("B", 1), false)] {
        home.wait(key).promised = Some((epoch(place.0), place.1));
        assert_eq!(told(&mut home), tells, "{place:?}");
    }
}

#[test]
fn publications_follow_pass_or_are_known_already() {
    let mut home = home();
    let key = channel(&mut home, 6, 4);
    let published = |delivery: Option<(u32, Arc<Delivery>)>| {
        let (of, delivery) = delivery.expect("somebody listens");
        assert_eq!((of, delivery.channel()), (key, "a"));
        match delivery.happening() {
            Happening::Published { item, base, .. } => (item.offset, base.is_some()),
            other => panic!("{other:?}"),
        }
    };
    let at_top = |home: &Home| home.channels[key].at_top;
    let delivery = home.follow(key, (item(11, 10), 77), &OPTIONS, NOW);
    assert_eq!(published(delivery), (11, false));
    assert_eq!(home.line(key).map(|line| line.print), Some(77));
    assert!(at_top(&home));
    home.absorb(key, (item(12, 10), 78), &OPTIONS, NOW);
    assert_eq!(home.position(key).map(|it| it.offset), Some(12));
    assert_eq!(home.line(key).map(|line| line.print), Some(78));
    assert!(!at_top(&home));
    home.follow(key, (item(13, 10), 79), &OPTIONS, NOW);
    let delivery = home.pass(key, item(3, 10));
    assert_eq!(published(delivery), (3, false));
    assert!(!at_top(&home));
    home.follow(key, (item(14, 10), 80), &OPTIONS, NOW);
    let delivery = home.pass_late(key, item(4, 10));
    assert_eq!(published(delivery), (4, false));
    assert!(!at_top(&home) && home.position(key).map(|it| it.offset) == Some(14));
    // Somebody takes patches: each is based on the one before, but for one that comes late.
    home.expect(&SubscribeLetter { delta: true, ..letter("a", 0, 1) });
    home.follow(key, (item(15, 10), 81), &OPTIONS, NOW);
    let delivery = home.follow(key, (item(16, 10), 82), &OPTIONS, NOW);
    assert_eq!(published(delivery), (16, true));
    let delivery = home.pass(key, item(17, 10));
    assert_eq!(published(delivery), (17, true));
    let delivery = home.pass_late(key, item(5, 10));
    assert_eq!(published(delivery), (5, false));
    // A new stream begins without a print, and is not at its top.
    home.follow(key, (item(15, 10), 83), &OPTIONS, NOW);
    home.adopt(key, Position { offset: 3, epoch: epoch("B") }, &OPTIONS, NOW);
    assert_eq!(home.line(key).map(|line| (line.print, line.is(KNOWN))), Some((0, true)));
    assert!(!at_top(&home));
}

#[test]
fn joins_and_leaves_are_for_those_who_hear() {
    let mut home = home();
    let key = channel(&mut home, 6, 4);
    let join = || Happening::Join(ClientId::new(1), Who::default());
    assert!(home.announce(key, join()).is_none() && home.announce(99, join()).is_none());
    home.expect(&SubscribeLetter { hears: true, ..letter("a", 0, 1) });
    assert!(home.announce(key, join()).is_some());
}

#[test]
fn a_stream_skips_gains_what_was_before_and_knows_what_differs() {
    let mut home = home();
    let key = channel(&mut home, 6, 2);
    assert_eq!(home.differs(key, &item(8, 10)), Some(false));
    assert_eq!(home.differs(key, &item(8, 11)), Some(true));
    assert_eq!((home.differs(key, &item(6, 10)), home.differs(99, &item(8, 10))), (None, None));
    home.prepend(key, vec![item(5, 10), item(6, 10)], &OPTIONS, NOW);
    assert_eq!(home.differs(key, &item(5, 10)), Some(false));
    home.skip_to(key, 20);
    assert_eq!(home.position(key).map(|it| it.offset), Some(20));
    assert_eq!(home.differs(key, &item(8, 10)), None);
    home.count_published(true);
    home.count_published(false);
    home.count_published(false);
    assert_eq!((home.counters().published, home.counters().suppressed), (2, 1));
    assert_eq!((home.name(key).map(|it| &**it), home.name(99)), (Some("a"), None));
    assert!(home.position(99).is_none() && home.roster(99).is_none());
    assert_eq!(in_seconds(Duration::from_millis(2_999)), 2);
}
