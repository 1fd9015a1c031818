//! What is written is read as it was, in whatever mixture, and nothing else is.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::gateway::home::{Home, HomeLimits, Restoring};
use crate::gateway::letters::{Answer, Publish};
use crate::gateway::placement::Placement;
use crate::gateway::stream::{Read, StreamOptions};

const NOW: Duration = Duration::from_secs(1000);

const OPTIONS: StreamOptions =
    StreamOptions { size: 50, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(600) };

/// A vault in memory, of some size.
#[derive(Debug)]
pub(in crate::gateway) struct Memory {
    room: Mutex<usize>,
    records: Mutex<Vec<Vec<u8>>>,
    pub(in crate::gateway) out: Mutex<LeftOut>,
}

impl Memory {
    pub(in crate::gateway) fn new(room: usize) -> Self {
        Self { room: room.into(), records: Mutex::default(), out: Mutex::default() }
    }

    pub(in crate::gateway) fn pieces(&self) -> Vec<Vec<u8>> {
        self.records.lock().unwrap().clone()
    }
}

impl Vault for Memory {
    fn claim(&self, bytes: usize) -> bool {
        let mut room = self.room.lock().unwrap();
        let fits = room.checked_sub(bytes);
        *room = fits.unwrap_or(*room);
        fits.is_some()
    }

    fn put(&self, records: &[u8]) {
        self.records.lock().unwrap().push(records.to_vec());
    }

    fn left_out(&self, out: LeftOut) {
        let mut all = self.out.lock().unwrap();
        all.channels += out.channels;
        all.publications += out.publications;
    }
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn millis_of() -> impl Strategy<Value = Duration> {
    (0u64..1 << 40).prop_map(Duration::from_millis)
}

fn items() -> impl Strategy<Value = Item> {
    let info = (text(), text(), bytes(), bytes()).prop_map(|(user, client, conn, chan)| {
        Box::new(ClientInfo { user, client, conn_info: conn, chan_info: chan })
    });
    let tags = prop::collection::btree_map(text(), text(), 0..4);
    let parts =
        (any::<u64>(), 0u64..1_000_000, bytes(), prop::option::of(info), tags, any::<u64>());
    parts.prop_map(|(offset, age, data, info, tags, version)| {
        let at = NOW - Duration::from_millis(age);
        let mut item = Item::new(at, data, info, tags, version);
        item.offset = offset;
        item
    })
}

fn position() -> impl Strategy<Value = Position> {
    ("[a-zA-Z0-9]{1,16}", any::<u64>())
        .prop_map(|(epoch, offset)| Position { offset, epoch: Epoch::parse(&epoch).unwrap() })
}

fn kept() -> impl Strategy<Value = Kept> {
    let version = prop::option::of((any::<u64>(), text().prop_map(String::into_boxed_str)));
    let parts = (
        text(),
        position(),
        any::<u64>(),
        millis_of(),
        prop::option::of(millis_of()),
        version,
        any::<bool>(),
    );
    parts.prop_map(|(name, position, items, items_left, meta_left, version, at_top)| {
        let items = items % position.offset.saturating_add(1).max(1);
        Kept { name: name.into(), position, items, items_left, meta_left, version, at_top }
    })
}

fn result() -> impl Strategy<Value = KeptResult> {
    let parts = (text(), text(), prop::option::of(position()), millis_of());
    parts.prop_map(|(channel, key, position, left)| KeptResult {
        channel: channel.into(),
        key: key.into(),
        position,
        left,
    })
}

fn record() -> impl Strategy<Value = Record> {
    let of = (text(), prop::collection::vec(items(), 0..5));
    prop_oneof![
        kept().prop_map(Record::Channel),
        of.prop_map(|(name, items)| Record::Items(name.into(), items)),
        result().prop_map(Record::Result),
    ]
}

proptest! {
    #[test]
    fn records_are_read_as_they_were_written(records in prop::collection::vec(record(), 1..6)) {
        let mut piece = Vec::new();
        records.iter().for_each(|record| record.write(NOW, &mut piece));
        let mut rest = &piece[..];
        for record in &records {
            prop_assert_eq!(&Record::read(&mut rest, NOW).unwrap(), record);
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn other_bytes_are_no_records_and_harm_nobody(
        record in record(),
        cut in any::<prop::sample::Index>(),
        change in any::<(prop::sample::Index, u8)>(),
    ) {
        let mut piece = Vec::new();
        record.write(NOW, &mut piece);
        let cut = cut.index(piece.len());
        prop_assert_eq!(Record::read(&mut &piece[..cut], NOW), Err(Malformed));
        let (at, bits) = change;
        let at = at.index(piece.len());
        piece[at] ^= bits;
        // It may be another record by now.
        let _ = Record::read(&mut &piece[..], NOW);
    }

    #[test]
    fn a_home_is_the_same_after_any_number_of_cores(
        acts in prop::collection::vec((0usize..6, 0u64..400, any::<bool>(), 0u8..4), 1..80),
        cores in (1u16..4, 1u16..4),
    ) {
        let old = Placement::new(cores.0, 7);
        let mut homes: Vec<_> =
            (0..cores.0).map(|core| Home::new(core, old, HomeLimits::default())).collect();
        let mut now = NOW;
        for (channel, wait, clear, key) in acts {
            now += Duration::from_millis(wait);
            let name: Arc<str> = format!("news:{channel}").into();
            let home = &mut homes[old.home(&name)];
            if clear && key == 0 {
                home.remove_history(&name);
                continue;
            }
            let key = if key > 1 { format!("key {key}") } else { String::new() };
            home.publish(&name, publish(&key, wait), wait * 977 + 1, now);
        }
        let before: Vec<_> = (0..6).map(|n| seen(&mut homes, old, n, now)).collect();
        let vault = Memory::new(usize::MAX);
        homes.iter_mut().for_each(|home| home.keep(now, &vault));

        let new = Placement::new(cores.1, 8);
        let start = Duration::from_secs(3);
        let mut homes: Vec<_> =
            (0..cores.1).map(|core| Home::new(core, new, HomeLimits::default())).collect();
        for home in &mut homes {
            let mut restoring = Restoring::new(start, Duration::ZERO);
            vault.pieces().iter().for_each(|piece| restoring.take(home, piece).unwrap());
            restoring.finish(home);
        }
        let after: Vec<_> = (0..6).map(|n| seen(&mut homes, new, n, start)).collect();
        prop_assert_eq!(before, after);
        let held: usize = homes.iter().map(Home::len).sum();
        let keys: usize = homes.iter().map(Home::idempotency_keys).sum();
        let again = Memory::new(usize::MAX);
        homes.iter_mut().for_each(|home| home.keep(start, &again));
        let records: Vec<_> = again.pieces().concat();
        let mut rest = &records[..];
        let mut found = (0, 0);
        while !rest.is_empty() {
            match Record::read(&mut rest, start).unwrap() {
                Record::Channel(_) => found.0 += 1,
                Record::Result(_) => found.1 += 1,
                Record::Items(..) => {}
            }
        }
        prop_assert_eq!(found, (held, keys));
    }
}

fn publish(key: &str, n: u64) -> Publish {
    Publish {
        data: Bytes::from(format!("{{\"n\":{n}}}")),
        stream: Some(OPTIONS),
        tags: BTreeMap::from([("n".to_owned(), n.to_string())]),
        idempotency_key: key.to_owned(),
        ..Publish::default()
    }
}

type Seen = (u64, String, Vec<(u64, Bytes)>, Vec<Option<Position>>);

/// What a client sees of a channel: its history, and what is known of keys. Changes nothing that
/// is kept, but for epochs of channels that do not exist.
fn seen(homes: &mut [Home], placement: Placement, channel: usize, now: Duration) -> Option<Seen> {
    let name: Arc<str> = format!("news:{channel}").into();
    let home = &mut homes[placement.home(&name)];
    let there = home.knows(&name);
    if !there {
        return None;
    }
    let read = Read { limit: -1, ..Read::default() };
    let history = home.history(&name, &OPTIONS, &read, 5, now).unwrap();
    let publications = history.publications.into_iter().map(|it| (it.offset, it.data));
    let (publications, mut results) = (publications.collect(), Vec::new());
    for key in 2..4 {
        results.push(home.result(&name, &format!("key {key}"), now));
    }
    Some((history.offset, history.epoch, publications, results))
}

fn offset(home: &mut Home, name: &str, now: Duration) -> (u64, bool) {
    match home.publish(&name.into(), publish("", 1), 9, now).answer {
        Answer::Published { position: Some(position), .. } => {
            (position.offset, position.epoch == Epoch::new(9))
        }
        other => panic!("{other:?}"),
    }
}

fn one() -> Home {
    Home::new(0, Placement::new(1, 1), HomeLimits::default())
}

fn restored(vault: &Memory, now: Duration, age: Duration) -> Home {
    let mut home = one();
    let mut restoring = Restoring::new(now, age);
    vault.pieces().iter().for_each(|piece| restoring.take(&mut home, piece).unwrap());
    restoring.finish(&mut home);
    home
}

#[test]
fn what_outlives_its_time_while_nobody_runs_is_gone() {
    let mut home = one();
    offset(&mut home, "a", NOW);
    offset(&mut home, "a", NOW + Duration::from_secs(10));
    let vault = Memory::new(usize::MAX);
    home.keep(NOW + Duration::from_secs(20), &vault);
    let now = Duration::from_secs(500);
    let count = |age: u64| {
        let mut home = restored(&vault, now, Duration::from_secs(age));
        let read = Read { limit: -1, ..Read::default() };
        let history = home.history(&"a".into(), &OPTIONS, &read, 9, now).unwrap();
        (history.offset, history.publications.len())
    };
    assert_eq!(count(49), (2, 2));
    assert_eq!(count(51), (2, 0), "the publications live for a minute");
    assert_eq!(count(589), (2, 0));
    assert_eq!(count(591), (0, 0), "the position lives for ten");
}

#[test]
fn where_there_is_no_room_positions_come_before_publications() {
    let mut home = one();
    for _ in 0..10 {
        offset(&mut home, "a", NOW);
    }
    let vault = Memory::new(500);
    home.keep(NOW, &vault);
    assert_eq!(*vault.out.lock().unwrap(), LeftOut { channels: 0, publications: 10 });
    let mut home = restored(&vault, NOW, Duration::ZERO);
    assert_eq!(home.history_items("a"), 0);
    assert_eq!(offset(&mut home, "a", NOW), (11, true), "the epoch and the offsets go on");

    let vault = Memory::new(10);
    home.keep(NOW, &vault);
    assert_eq!(vault.out.lock().unwrap().channels, 1);
    assert_eq!(restored(&vault, NOW, Duration::ZERO).len(), 0);
}

#[test]
fn publications_that_are_missing_leave_no_gap() {
    let mut home = one();
    for _ in 0..5 {
        offset(&mut home, "a", NOW);
    }
    let vault = Memory::new(usize::MAX);
    home.keep(NOW, &vault);
    let all = vault.pieces().concat();
    let mut rest = &all[..];
    let channel = Record::read(&mut rest, NOW).unwrap();
    let Record::Items(name, items) = Record::read(&mut rest, NOW).unwrap() else {
        panic!("publications follow");
    };
    for missing in 0..5 {
        let mut items = items.clone();
        items.remove(missing);
        let mut piece = Vec::new();
        channel.write(NOW, &mut piece);
        Record::Items(name.clone(), items).write(NOW, &mut piece);
        let mut home = one();
        let mut restoring = Restoring::new(NOW, Duration::ZERO);
        restoring.take(&mut home, &piece).unwrap();
        restoring.finish(&mut home);
        assert_eq!(home.history_items("a"), 0, "without {missing}");
        assert_eq!(offset(&mut home, "a", NOW).0, 6);
    }
}
