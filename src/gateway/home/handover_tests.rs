//! What a home core tells the heir of its process, and what becomes of channels as theirs.

use bytes::Bytes;
use prost::Message as _;

use super::line::{KNOWN, Waiting};
use super::tests::{NOW, OPTIONS, home, leaves, letter, listens, member, publish, seconds};
use super::*;
use crate::gateway::broker::{Fault, TopOf};
use crate::gateway::handover::words::WORD_MAX;
use crate::gateway::letters::{ClientId, Publish, SubscribeLetter};
use crate::gateway::stream::{Position, Read};
use crate::gateway::wire::Encoding;
use crate::gateway::wire::messages::Publication;

fn new() -> Home {
    home(HomeLimits::default())
}

/// The cores that hear of a channel.
fn cores(home: &Home, name: &str) -> Vec<u16> {
    home.listeners(name).collect()
}

#[test]
fn the_heir_listens_as_one_core_whose_subscribers_nobody_counts() {
    let mut home = new();
    for _ in 0..2 {
        home.listen_heir(&"a".into());
        assert_eq!((cores(&home, "a"), home.audience("a")), (vec![HEIR], 0));
    }
    assert!(home.is_heard("a") && !home.is_heard("b"));
    home.ignore_heir("b", NOW);
    home.ignore_heir("a", NOW);
    assert!(home.is_empty(), "nobody else listens");
    for core in [0, 3] {
        home.subscribe(letter("a", core, None, false), 1, NOW);
        home.listen_heir(&"a".into());
    }
    assert_eq!((cores(&home, "a"), home.audience("a")), (vec![0, HEIR, 3], 2));
    home.ignore_heir("a", NOW);
    assert_eq!((cores(&home, "a"), home.is_heard("a")), (vec![0, 3], false));
    home.ignore_heir("a", NOW);
    assert_eq!(cores(&home, "a"), [0, 3]);
}

/// Asks who is in a channel, so that the answer is kept.
fn copy(home: &mut Home, name: &str) {
    assert!(home.members(name, Encoding::Json, usize::MAX).is_ok());
    assert!(home.copies > 0);
}

#[test]
fn guests_are_seen_until_they_go_or_the_heir_does() {
    let mut home = new();
    let who = || member(1, 5000, false).info;
    let [guest, own] = [1, 2].map(ClientId::new);
    // Where it has members it listens.
    home.listen_heir(&"a".into());
    home.add_guest(&"a".into(), guest, who());
    assert!(home.is_present("a", guest) && !home.is_present("a", own));
    assert!(!home.is_present("b", guest));
    copy(&mut home, "a");
    home.remove_guest("b", guest);
    home.remove_guest("a", own);
    assert!(home.is_present("a", guest) && home.copies == 0, "its members may have changed");
    copy(&mut home, "a");
    home.remove_guest("a", guest);
    assert!(home.is_heard("a") && home.presence("a").is_empty());
    let key = home.find("a").expect("it is heard");
    assert!(home.roster(key).is_none(), "an empty one takes memory");
    home.ignore_heir("a", NOW);
    assert!(home.is_empty());
    // Those of this process stay, and what is kept of the channel.
    home.subscribe(letter("a", 0, Some(member(2, 5000, false)), false), 1, NOW);
    copy(&mut home, "a");
    home.add_guest(&"a".into(), guest, who());
    assert_eq!((home.presence("a").len(), home.copies), (2, 0));
    copy(&mut home, "a");
    home.remove_guest("a", guest);
    assert!(home.is_present("a", own));
    home.add_guest(&"a".into(), guest, who());
    home.add_guest(&"guests".into(), guest, who());
    publish(&mut home, "kept", 10, NOW);
    ["a", "kept", "heard"].iter().for_each(|name| home.listen_heir(&(*name).into()));
    copy(&mut home, "a");
    home.forget_heir(NOW);
    assert_eq!((home.presence("a").len(), home.copies, cores(&home, "a")), (1, 0, vec![0]));
    assert!(home.is_present("a", own));
    assert!(home.find("kept").is_some() && !home.is_heard("kept"));
    assert!(home.find("guests").is_none() && home.find("heard").is_none());
}

#[test]
fn what_is_told_all_is_told_where_somebody_listens() {
    let mut home = new();
    let left = || Happening::Leave(ClientId::new(1), member(1, 1, true).info);
    publish(&mut home, "idle", 10, NOW);
    assert!(home.spread("nothing", left()).is_none() && home.spread("idle", left()).is_none());
    let key = listens(&mut home, "a");
    let (of, delivery) = home.spread("a", left()).expect("somebody listens");
    assert_eq!((of, delivery.channel()), (key, "a"));
}

#[test]
fn the_heir_reads_what_is_kept() {
    let mut home = new();
    let name: Arc<str> = "a".into();
    let all = Read { limit: -1, ..Read::default() };
    let past = |home: &mut Home, read: &Read, now| home.past(&name, (read, seconds(600)), 7, now);
    let begun = past(&mut home, &all, NOW).expect("nothing yet");
    assert_eq!((begun.top, begun.entries.len()), (0, 0));
    (0..3).for_each(|n| _ = publish(&mut home, "a", 10 + n, NOW));
    let read = past(&mut home, &all, NOW).expect("three");
    assert_eq!((&read.epoch, read.top), (&begun.epoch, 3), "asking began its life");
    let items: Vec<_> = home.channels[0].stream.as_ref().expect("there").items().cloned().collect();
    let told: Vec<_> = items.iter().map(|item| (item.offset, told(item))).collect();
    let third = Publication::decode(&*told[2].1).expect("a publication");
    assert_eq!((third.offset, third.data), (0, items[2].payload()));
    let entries: Vec<_> = read.entries.into_iter().map(|it| (it.offset, it.data)).collect();
    assert_eq!(entries, told);
    let elsewhere = Some(Position { offset: 1, epoch: "other".to_owned() });
    let read = Read { since: elsewhere, ..all.clone() };
    assert_eq!(past(&mut home, &read, NOW).err(), Some(Fault::Denied));
    // It lives as long as the heir wants.
    past(&mut home, &all, seconds(500)).expect("nothing is left");
    let over = |home: &Home, at| home.channels[0].stream.as_ref().expect("there").is_over(at);
    assert!(!over(&home, seconds(1_099)) && over(&home, seconds(1_100)));
}

#[test]
fn what_is_too_long_to_be_told_is_denied() {
    let options = StreamOptions { size: 10_000, ..OPTIONS };
    let least = Item::new(NOW, Bytes::new(), None, Default::default(), 0).cost();
    // So many small ones that the rest is a large one's.
    let count = (1..).find(|count| (count * least).is_multiple_of(4096)).expect("some");
    let fill = |bytes: usize| {
        let mut home = new();
        let name: Arc<str> = "a".into();
        for n in 0..count {
            let data = if n == 0 { vec![b'1'; bytes] } else { Vec::new() };
            let stream = Some(options);
            let publish = Publish { data: data.into(), stream, ..Publish::default() };
            home.publish(&name, publish, 1, NOW);
        }
        let all = Read { limit: -1, ..Read::default() };
        let items = home.channels[0].stream.as_ref().expect("there").items();
        let cost = items.map(|item| item.cost()).sum::<usize>();
        (cost, home.past(&name, (&all, seconds(600)), 1, NOW).map(|past| past.entries.len()))
    };
    let most = WORD_MAX / 2;
    assert_eq!(most, 32 << 20);
    let large = most - count * least;
    assert_eq!(fill(large), (most, Ok(count)));
    assert_eq!(fill(large + 1), (most + 4096, Err(Fault::Denied)));
    assert_eq!(fill(most).1, Err(Fault::Denied));
}

#[test]
fn the_heir_is_told_a_position_and_an_entry() {
    let mut home = new();
    listens(&mut home, "plain");
    let options = StreamOptions { size: 2, ..OPTIONS };
    for n in 0..5 {
        let data = Bytes::from(vec![b'1'; n]);
        let publish = Publish { data, stream: Some(options), ..Publish::default() };
        home.publish(&"a".into(), publish, 1, NOW);
    }
    let of =
        |name: &str, entry, meta_ttl| TopOf { channel: name.into(), entry, meta_ttl, count: false };
    assert!(home.top_of(&of("plain", 0, None), NOW).is_none());
    assert!(home.top_of(&of("nothing", 0, None), NOW).is_none() && home.find("nothing").is_none());
    let key = home.find("a").expect("there");
    let told_of = |home: &mut Home, entry, now| {
        let top = home.top_of(&of("a", entry, None), now).expect("a position");
        let stream = home.channels[key].stream.as_ref().expect("there");
        assert_eq!(top.epoch, stream.position().epoch);
        assert_eq!(top.entry, stream.get(entry).map(told));
        (top.top, top.first, top.entry.is_some())
    };
    assert_eq!(told_of(&mut home, 0, NOW), (5, 0, false), "none was asked for");
    assert_eq!(told_of(&mut home, 4, NOW), (5, 4, true));
    assert_eq!(told_of(&mut home, 3, NOW), (5, 4, false), "it is not retained");
    let later = NOW + OPTIONS.ttl;
    assert_eq!(told_of(&mut home, 4, later), (5, 0, false), "nothing is");
    let over = |home: &Home, at| home.channels[key].stream.as_ref().expect("there").is_over(at);
    assert!(over(&home, NOW + OPTIONS.meta_ttl));
    home.top_of(&of("a", 0, Some(seconds(600))), seconds(500));
    assert!(!over(&home, seconds(1_099)) && over(&home, seconds(1_100)));
}

/// A channel of the elder with so many publications, and what it is called.
fn kept(many: usize) -> (Home, Position) {
    let mut kept = new();
    (0..many).for_each(|n| _ = publish(&mut kept, "a", n, NOW));
    let key = kept.find("a").expect("there");
    let position = kept.position(key).expect("a stream");
    (kept, position)
}

/// A mirrored channel with a subscriber, whose stream is this far.
fn mirrored(home: &mut Home, name: &str, position: Position, delta: bool) -> u32 {
    let key = home.expect(&SubscribeLetter { delta, ..letter(name, 0, None, false) });
    home.adopt(key, position, &OPTIONS, NOW);
    key
}

/// Offsets of publications that listeners have not got, and whether they may be patches.
fn missing(inherited: &handover::Inherited) -> Vec<(u64, bool)> {
    let of = |(_, delivery): &(u32, Arc<Delivery>)| match delivery.happening() {
        Happening::Published { item, base, .. } => (item.offset, base.is_some()),
        other => panic!("{other:?}"),
    };
    inherited.missing.iter().map(of).collect()
}

#[test]
fn listeners_are_told_what_they_have_not_got_of_what_was_kept() {
    for delta in [false, true] {
        let (kept, top) = kept(5);
        let mut home = new();
        let here = Position { offset: 3, epoch: top.epoch };
        let key = mirrored(&mut home, "a", here, delta);
        let inherited = home.inherit(Some(kept));
        assert_eq!(missing(&inherited), [(4, false), (5, delta)]);
        assert_eq!((inherited.lost.len(), home.position(key)), (0, Some(top)));
        assert_eq!((home.lines_end(), home.line(key).is_some()), (0, false));
        assert!(home.history_bytes() > 0);
    }
    for at_top in [false, true] {
        let (kept, top) = kept(5);
        let mut home = new();
        let key = mirrored(&mut home, "a", top, false);
        home.channels[key].at_top = at_top;
        let inherited = home.inherit(Some(kept));
        assert!(inherited.missing.is_empty() && inherited.lost.is_empty());
        assert_eq!(home.channels[key].at_top, at_top, "as the last one was");
    }
}

#[test]
fn where_something_is_missing_listeners_have_lost_it() {
    let elsewhere = |_: &Position| Position { offset: 2, epoch: Epoch::new(99) };
    let ahead = |top: &Position| Position { offset: 6, epoch: top.epoch };
    let cases: [&dyn Fn(&Position) -> Position; 2] = [&elsewhere, &ahead];
    for position in cases {
        let (kept, top) = kept(5);
        let mut home = new();
        let key = mirrored(&mut home, "a", position(&top), false);
        let inherited = home.inherit(Some(kept));
        assert_eq!((inherited.missing.len(), inherited.lost), (0, vec![key]));
        assert_eq!(home.position(key), Some(top), "it goes on as it was kept");
    }
    // Some have expired before they were told.
    let (mut kept, top) = kept(5);
    kept.channels[0].stream.as_mut().expect("there").drop_oldest();
    let mut home = new();
    let here = |offset| Position { offset, epoch: top.epoch };
    let key = mirrored(&mut home, "a", here(0), false);
    let inherited = home.inherit(Some(kept));
    assert_eq!((inherited.missing.len(), inherited.lost), (0, vec![key]));
    // A position that was not known for sure is not compared.
    let (kept, top) = self::kept(5);
    let mut home = new();
    let key = mirrored(&mut home, "a", here(3), false);
    home.line(key).expect("a line").set(KNOWN, false);
    let inherited = home.inherit(Some(kept));
    assert!(inherited.missing.is_empty() && inherited.lost.is_empty());
    assert_eq!(home.position(key), Some(top));
}

#[test]
fn what_was_not_kept_begins_anew() {
    let mut home = new();
    let (kept, top) = kept(5);
    let a = mirrored(&mut home, "a", top, false);
    let b = mirrored(&mut home, "b", top, false);
    home.channels[b].at_top = true;
    let plain = home.expect(&SubscribeLetter { stream: None, ..letter("plain", 0, None, false) });
    let inherited = home.inherit(Some(kept));
    assert_eq!(inherited.lost, [b], "{a} was, and {plain} has nothing to lose");
    assert_eq!((home.position(a), home.position(b)), (Some(top), None));
    assert!(!home.channels[b].at_top && home.line(plain).is_none());
    // Nobody has kept anything.
    let mut home = new();
    let key = mirrored(&mut home, "a", top, false);
    let inherited = home.inherit(None);
    assert_eq!((inherited.lost, home.position(key), home.lines_end()), (vec![key], None, 0));
}

#[test]
fn what_nobody_listens_to_is_taken_as_it_was_kept() {
    for at_top in [false, true] {
        let (mut kept, top) = kept(5);
        kept.channels[0].at_top = at_top;
        let mut home = new();
        assert!(home.inherit(Some(kept)).lost.is_empty());
        let key = home.find("a").expect("it is there");
        assert_eq!((home.position(key), home.idle), (Some(top), 1));
        assert_eq!(home.channels[key].at_top, at_top);
        home.tidy_all();
        assert!(home.find("a").is_some());
        // Without a stream nothing is left of it.
        home.change(key, |channel| channel.stream = None);
        home.tidy_all();
        assert!(home.is_empty());
    }
}

#[test]
fn who_waited_is_let_in_when_the_channel_is_ours() {
    let mut home = new();
    let waits = |core: u16| SubscribeLetter {
        hears: true,
        member: Some(member(core.into(), 1, true)),
        ..letter("a", core, None, false)
    };
    for core in [0, 3] {
        let key = home.expect(&waits(core));
        let waiting = Waiting { letter: Box::new(waits(core)), settled_by: None };
        home.wait(key).subscribers.push(waiting);
    }
    home.expect(&letter("b", 0, None, false));
    let waiting = home.take_waiting();
    assert_eq!(waiting.iter().map(|it| it.core).collect::<Vec<_>>(), [0, 3]);
    assert!(home.take_waiting().is_empty());
    home.inherit(None);
    for letter in waiting {
        let core = letter.core;
        let (answer, joined) = home.settle(letter, 1, NOW);
        assert_eq!((answer.top.map(|top| top.offset), answer.told), (Some(0), 2), "{core}");
        assert!(joined.is_some());
    }
    assert_eq!(cores(&home, "a"), [0, 3], "each has arrived once");
    leaves(&mut home, "a", NOW);
    assert_eq!(cores(&home, "a"), [3]);
}
