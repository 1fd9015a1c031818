//! What of a home core is written down, and what of it is taken in again.

use bytes::Bytes;

use super::keep::hand_on;
use super::tests::{NOW, OPTIONS, seconds};
use super::*;
use crate::gateway::letters::Publish;
use crate::gateway::state::tests::Memory;
use crate::gateway::state::{LeftOut, PIECE, Record};

fn new(limits: HomeLimits) -> Home {
    Home::new(0, Placement::new(1, 1), limits)
}

fn publish(home: &mut Home, name: &str, more: Publish, options: StreamOptions) {
    let data = Bytes::from(vec![b'1'; 100]);
    home.publish(&name.into(), Publish { data, stream: Some(options), ..more }, 7, NOW);
}

fn keyed(key: &str) -> Publish {
    Publish { idempotency_key: key.to_owned(), ..Publish::default() }
}

/// What is written down where there is so much room, and what is left out then.
fn kept(home: &mut Home, room: usize) -> (Memory, LeftOut) {
    let vault = Memory::new(room);
    home.keep(NOW, &vault);
    let out = std::mem::take(&mut *vault.out.lock().unwrap());
    (vault, out)
}

/// Channels, publications and keys.
type Counts = (u64, u64, u64);

/// A home that takes in what was kept so long ago.
fn restored(vault: &Memory, age: Duration, limits: HomeLimits) -> (Home, Counts) {
    let mut home = new(limits);
    let mut restoring = Restoring::new(NOW, age);
    vault.pieces().iter().for_each(|piece| restoring.take(&mut home, piece).unwrap());
    let counts = restoring.finish(&mut home);
    (home, counts)
}

fn again(vault: &Memory) -> (Home, Counts) {
    restored(vault, Duration::ZERO, HomeLimits::default())
}

#[test]
fn room_is_claimed_to_the_byte() {
    let mut home = new(HomeLimits::default());
    let more = Publish { version: 5, version_epoch: "epoch".to_owned(), ..keyed("key") };
    publish(&mut home, "channel", more, OPTIONS);
    let (record, result) = (80 + 7 + 5, 80 + 7 + 3);
    let items = home.channels[0].stream.as_ref().unwrap().bytes() + 7;
    let all = record + items + result;
    let out = |channels, publications| LeftOut { channels, publications };
    for (room, counts, left_out) in [
        (all, (1, 1, 1), out(0, 0)),
        (all - 1, (1, 1, 0), out(0, 0)),
        (record + items, (1, 1, 0), out(0, 0)),
        (record + items - 1, (1, 0, 1), out(0, 1)),
        (record, (1, 0, 0), out(0, 1)),
        (record - 1, (0, 0, 1), out(1, 0)),
        (result, (0, 0, 1), out(1, 0)),
        (result - 1, (0, 0, 0), out(1, 0)),
    ] {
        let (vault, of) = kept(&mut home, room);
        assert_eq!((again(&vault).1, of), (counts, left_out), "{room} of {all}");
    }
    // Of a channel without publications nothing is claimed for them.
    let mut bare = new(HomeLimits::default());
    publish(&mut bare, "channel", keyed("key"), OPTIONS);
    bare.remove_history("channel");
    let (vault, left_out) = kept(&mut bare, 80 + 7 + result);
    assert_eq!((again(&vault).1, left_out), ((1, 0, 1), out(0, 0)));
    let mut rest = &vault.pieces().concat()[..];
    let first = Record::read(&mut rest, NOW).unwrap();
    let second = Record::read(&mut rest, NOW).unwrap();
    assert!(matches!((first, second), (Record::Channel(_), Record::Result(_))));
    assert!(rest.is_empty());
}

#[test]
fn what_is_left_out_is_summed_up() {
    let mut home = new(HomeLimits::default());
    for name in ["a", "b", "c"] {
        (0..2).for_each(|_| publish(&mut home, name, Publish::default(), OPTIONS));
    }
    assert_eq!(kept(&mut home, 0).1, LeftOut { channels: 3, publications: 0 });
    assert_eq!(kept(&mut home, 3 * 81).1, LeftOut { channels: 0, publications: 6 });
}

#[test]
fn a_piece_is_handed_on_when_it_is_full_and_gives_back_its_room() {
    let vault = Memory::new(0);
    let mut piece = Vec::with_capacity(10 * PIECE);
    piece.resize(PIECE - 1, 7);
    hand_on(&vault, &mut piece, PIECE);
    assert_eq!((piece.len(), vault.pieces().len()), (PIECE - 1, 0));
    piece.push(7);
    hand_on(&vault, &mut piece, PIECE);
    assert_eq!((piece.len(), vault.pieces()), (0, vec![vec![7; PIECE]]));
    assert!((2 * PIECE..3 * PIECE).contains(&piece.capacity()), "{}", piece.capacity());
}

#[test]
fn a_channel_is_at_its_top_if_its_last_publication_is_there() {
    let mut home = new(HomeLimits::default());
    (0..3).for_each(|_| publish(&mut home, "a", Publish::default(), OPTIONS));
    let at_top = |vault: &Memory| {
        let (home, _) = again(vault);
        (home.channels[0].at_top, home.history_items("a"))
    };
    assert_eq!(at_top(&kept(&mut home, usize::MAX).0), (true, 3));
    assert_eq!(at_top(&kept(&mut home, 81).0), (false, 0), "there was no room for it");
    home.channels[0].at_top = false;
    assert_eq!(at_top(&kept(&mut home, usize::MAX).0), (false, 3));
    home.channels[0].at_top = true;
    home.remove_history("a");
    assert_eq!(at_top(&kept(&mut home, usize::MAX).0), (false, 0));
}

#[test]
fn publications_outlive_the_memory_of_their_position() {
    let options = StreamOptions { ttl: seconds(600), meta_ttl: seconds(60), ..OPTIONS };
    let mut home = new(HomeLimits::default());
    (0..2).for_each(|_| publish(&mut home, "a", Publish::default(), options));
    let vault = kept(&mut home, usize::MAX).0;
    let counts = |age| restored(&vault, seconds(age), HomeLimits::default()).1;
    assert_eq!([counts(59), counts(100), counts(599)], [(1, 2, 0); 3]);
    // Nothing is left of it.
    assert_eq!(counts(600), (0, 0, 0));
}

#[test]
fn as_many_keys_come_back_as_there_may_be_and_each_for_what_is_left_of_its_time() {
    let mut home = new(HomeLimits::default());
    for key in ["a", "b", "c"] {
        publish(&mut home, "channel", keyed(key), OPTIONS);
    }
    let vault = kept(&mut home, usize::MAX).0;
    for (most, keys) in [(2, 2), (3, 3), (100, 3)] {
        let limits = HomeLimits { idempotency_keys: most, ..HomeLimits::default() };
        let (home, (_, _, counted)) = restored(&vault, Duration::ZERO, limits);
        assert_eq!((counted, home.idempotency_keys()), (keys, keys as usize));
    }
    let known = |age, later| {
        let (mut home, (.., keys)) = restored(&vault, seconds(age), HomeLimits::default());
        (keys, home.result("channel", "a", NOW + seconds(later)).is_some())
    };
    assert_eq!(known(100, 199), (3, true));
    assert_eq!(known(100, 200), (3, false));
    assert_eq!((known(299, 0), known(300, 0)), ((3, true), (0, false)));
}
