//! Offsets, recovery, reading and expiry of one stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::gateway::wire::messages::FilterNode;

const OPTIONS: StreamOptions =
    StreamOptions { size: 4, ttl: Duration::from_secs(10), meta_ttl: Duration::from_secs(100) };
const START: Duration = Duration::from_secs(50);

fn item(version: u64, tag: Option<&str>) -> Item {
    let tags = tag.map(|tag| (tag.to_owned(), String::new()));
    Item::new(START, Bytes::from_static(b"{}"), None, BTreeMap::from_iter(tags), version)
}

fn stream(publications: u64) -> Stream {
    let mut stream = Stream::new(Epoch::new(7), &OPTIONS, START);
    for _ in 0..publications {
        stream.add(item(0, None), "", &OPTIONS, START);
    }
    stream
}

fn at(offset: u64) -> Position<String> {
    Position { offset, epoch: Epoch::new(7).as_str().to_owned() }
}

fn offsets(items: &[Arc<Item>]) -> Vec<u64> {
    items.iter().map(|item| item.offset).collect()
}

fn newest(stream: &Stream, since: &Position<String>) -> Option<Vec<u64>> {
    stream.newest(since, 0, None).map(|items| offsets(&items))
}

fn recover(stream: &Stream, since: &Position<String>, limit: u32) -> Option<Vec<u64>> {
    stream.recover(since, limit, 0, None).map(|items| offsets(&items))
}

#[test]
fn offsets_begin_at_1_and_the_size_holds() {
    let stream = stream(6);
    assert_eq!(stream.position().offset, 6);
    let all = stream.read(&Read { limit: -1, ..Read::default() }).unwrap();
    assert_eq!(offsets(&all), [3, 4, 5, 6]);
    let items: usize = all.iter().map(|item| item.cost()).sum();
    assert_eq!(stream.bytes(), items + OPTIONS.size as usize * size_of::<usize>());
}

#[test]
fn recovery_gives_everything_or_nothing() {
    let stream = stream(6);
    assert_eq!(recover(&stream, &at(6), 0), Some(vec![]), "nothing was missed");
    assert_eq!(recover(&stream, &at(4), 0), Some(vec![5, 6]));
    assert_eq!(recover(&stream, &at(2), 0), Some(vec![3, 4, 5, 6]));
    assert_eq!(recover(&stream, &at(1), 0), None, "2 is not retained");
    assert_eq!(recover(&stream, &at(7), 0), None, "beyond the top");
    assert_eq!(recover(&stream, &at(3), 3), Some(vec![4, 5, 6]));
    assert_eq!(recover(&stream, &at(2), 3), None, "over the limit");
    let elsewhere = Position { offset: 6, epoch: "other".to_owned() };
    assert_eq!(recover(&stream, &elsewhere, 0), None);
    let anywhere = Position { offset: 5, epoch: String::new() };
    assert_eq!(recover(&stream, &anywhere, 0), Some(vec![6]), "an empty epoch is any");
}

#[test]
fn filtered_publications_are_recovered_as_nothing() {
    let mut stream = stream(0);
    for tag in [None, Some("odd"), None] {
        stream.add(item(0, tag), "", &OPTIONS, START);
    }
    let node = FilterNode { key: "odd".to_owned(), cmp: "ex".to_owned(), ..FilterNode::default() };
    let filter = Filter::new(&node).unwrap();
    let recovered = stream.recover(&at(0), 0, 0, Some(&filter)).unwrap();
    assert_eq!(offsets(&recovered), [2]);
    assert_eq!(offsets(&stream.newest(&at(0), 0, Some(&filter)).unwrap()), [2]);
    assert!(stream.newest(&at(0), 1, Some(&filter)).is_none(), "2 is not within the limit");
}

#[test]
fn a_cache_gives_the_newest() {
    assert!(stream(0).newest(&at(0), 0, None).is_none(), "there is none");
    let mut stream = stream(6);
    assert_eq!(newest(&stream, &at(0)), Some(vec![6]));
    assert_eq!(newest(&stream, &at(6)), Some(vec![]), "the client has it");
    let elsewhere = Position { offset: 6, epoch: "other".to_owned() };
    assert_eq!(newest(&stream, &elsewhere), Some(vec![6]));
    stream.clear();
    assert_eq!(newest(&stream, &at(6)), Some(vec![]), "the client has it still");
    assert_eq!(newest(&stream, &at(5)), None);
}

#[test]
fn publications_vanish_together_and_the_position_stays() {
    let mut stream = stream(2);
    stream.add(item(0, None), "", &OPTIONS, START + Duration::from_secs(5));
    stream.expire(START + Duration::from_millis(14_999));
    assert_eq!(recover(&stream, &at(0), 0), Some(vec![1, 2, 3]));
    stream.expire(START + Duration::from_secs(15));
    assert!(stream.is_empty() && stream.bytes() == 0);
    assert_eq!(stream.position().offset, 3);
    assert_eq!(recover(&stream, &at(3), 0), Some(vec![]));
    assert_eq!(recover(&stream, &at(2), 0), None);
    assert!(!stream.is_over(START + Duration::from_millis(104_999)));
    assert!(stream.is_over(START + Duration::from_secs(105)));
    stream.touch(&OPTIONS, START + Duration::from_secs(50));
    assert!(!stream.is_over(START + Duration::from_secs(149)));
    stream.touch(&StreamOptions { meta_ttl: Duration::ZERO, ..OPTIONS }, START);
    assert!(!stream.is_over(Duration::from_secs(1 << 40)), "0 is never");
}

#[test]
fn stale_versions_are_not_published() {
    let mut stream = stream(0);
    let mut add = |version, epoch| {
        let added = stream.add(item(version, None), epoch, &OPTIONS, START);
        matches!(added, Added::Top(_))
    };
    assert!(add(5, "a"));
    assert!(!add(5, "a") && !add(4, "a"), "not higher");
    assert!(!add(5, ""), "compares with any epoch");
    assert!(add(0, ""), "without a version");
    assert!(!add(5, "a"), "the last version is remembered");
    assert!(add(1, "b"), "another epoch");
    assert!(!add(1, "b") && add(2, "b"));
    assert_eq!(stream.position().offset, 4);
}

#[test]
fn reading_back_from_the_beginning_or_another_epoch_is_an_error() {
    let stream = stream(3);
    let back = Read { since: Some(at(0)), limit: 5, reverse: true, ..Read::default() };
    assert_eq!(stream.read(&back), Err(Error::BAD_REQUEST));
    let elsewhere = Position { offset: 1, epoch: "other".to_owned() };
    for reverse in [false, true] {
        let read = Read { since: Some(elsewhere.clone()), limit: 5, reverse, ..Read::default() };
        assert_eq!(stream.read(&read), Err(Error::UNRECOVERABLE_POSITION));
    }
}

proptest! {
    /// Any read against the list of all offsets.
    #[test]
    fn reads_are_what_their_words_say(
        published in 0u64..8,
        since in proptest::option::of(0u64..10),
        limit in -1i32..6,
        max in 0u32..5,
        reverse: bool,
    ) {
        let stream = stream(published);
        let mut expected: Vec<u64> = (1..=published).rev().take(4).collect();
        if !reverse {
            expected.reverse();
        }
        if let Some(since) = since {
            expected.retain(|offset| if reverse { *offset < since } else { *offset > since });
            // Backwards there is nothing from where nothing was published yet.
            if reverse && since > published + 1 {
                expected.clear();
            }
        }
        if limit >= 0 {
            expected.truncate(limit as usize);
        }
        if max > 0 {
            expected.truncate(max as usize);
        }
        let read = Read { since: since.map(at), limit, reverse, max, max_bytes: 0 };
        match stream.read(&read) {
            Ok(items) => prop_assert_eq!(offsets(&items), expected),
            Err(error) => {
                prop_assert_eq!(error, Error::BAD_REQUEST);
                prop_assert!(reverse && since == Some(0));
            }
        }
    }
}
