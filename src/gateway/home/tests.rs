//! What bounds the memory of a home core, and frees it.

use bytes::Bytes;

use super::*;
use crate::gateway::hub_port::SubKey;
use crate::gateway::letters::{Answer, ClientId, Member, Publish, Who};
use crate::gateway::letters::{Recover, RecoverMode, SubscribeLetter, UnsubscribeLetter};
use crate::gateway::wire::Encoding;

pub(super) const OPTIONS: StreamOptions =
    StreamOptions { size: 100, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(600) };

pub(super) fn home(limits: HomeLimits) -> Home {
    Home::new(2, Placement::new(4, 1), limits)
}

pub(super) fn publish(home: &mut Home, channel: &str, bytes: usize, now: Duration) -> u64 {
    let publish = Publish {
        data: Bytes::from(vec![b'1'; bytes]),
        stream: Some(OPTIONS),
        ..Publish::default()
    };
    match home.publish(&channel.into(), publish, now.as_nanos() as u64, now).answer {
        Answer::Published { position: Some(position), suppressed: false, .. } => position.offset,
        other => panic!("{other:?}"),
    }
}

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn history_stays_within_its_bytes_and_the_oldest_goes() {
    let limits = HomeLimits { history_bytes: 20_000, ..HomeLimits::default() };
    let mut home = home(limits);
    for n in 0..50 {
        publish(&mut home, &format!("channel:{}", n % 5), 1_000, seconds(n));
        assert!(home.history_bytes() <= 20_000);
    }
    assert!(home.history_bytes() > 15_000, "no more is dropped than must be");
    let left = home.counters().history_dropped;
    assert_eq!(left, 50 - home.stored.iter().map(|key| retained(&home, *key)).sum::<u64>());
    // Few channels: all are looked at, so the oldest of all goes.
    let oldest = home.stored.iter().filter_map(|key| oldest(&home, *key)).min();
    assert_eq!(oldest, Some(seconds(left)));
}

fn retained(home: &Home, key: u32) -> u64 {
    let stream = home.channels[key].stream.as_ref().unwrap();
    stream.read(&crate::gateway::stream::Read { limit: -1, ..Default::default() }).unwrap().len()
        as u64
}

fn oldest(home: &Home, key: u32) -> Option<Duration> {
    home.channels[key].stream.as_ref()?.oldest()
}

#[test]
fn a_publication_larger_than_all_history_is_published_and_not_kept() {
    let mut home = home(HomeLimits { history_bytes: 3_000, ..HomeLimits::default() });
    assert_eq!(publish(&mut home, "a", 10_000, seconds(1)), 1);
    assert_eq!((home.held.items, home.stored.len()), (0, 0));
    assert!(home.history_bytes() <= 3_000);
    assert_eq!(publish(&mut home, "a", 10, seconds(1)), 2);
    assert_eq!(home.stored.len(), 1);
}

#[test]
fn idle_channels_are_bounded_and_the_longest_unused_goes() {
    let mut home = home(HomeLimits { idle_channels: 3, ..HomeLimits::default() });
    for n in 1..=5 {
        publish(&mut home, &format!("channel:{n}"), 10, seconds(n));
        if n == 3 {
            publish(&mut home, "channel:1", 10, seconds(10));
        }
    }
    assert_eq!((home.len(), home.counters().channels_dropped), (3, 2));
    let there: Vec<_> = (1..=5).filter(|n| home.find(&format!("channel:{n}")).is_some()).collect();
    assert_eq!(there, [1, 4, 5]);
}

/// What the account should be, from what there is.
fn audit(home: &Home) {
    let mut held = Share::default();
    let mut idle = 0;
    for (key, channel) in home.channels.iter() {
        let share = channel.share();
        held.items += share.items;
        held.record += share.record;
        idle += usize::from(channel.is_idle());
        let stored = home.stored.get(channel.stored as usize) == Some(&key);
        assert_eq!(stored, share.items > 0, "{}", channel.name);
    }
    assert_eq!((home.held, home.idle), (held, idle));
}

#[test]
fn the_account_is_the_sum_of_what_is_held() {
    let limits = HomeLimits { history_bytes: 60_000, ..HomeLimits::default() };
    let mut home = home(limits);
    let mut rng = crate::common::rng::Rng::new(13);
    let mut listening = [0; 12];
    for n in 0..20_000 {
        let now = Duration::from_millis(n * 40);
        let at = rng.below(12) as usize;
        let name: Arc<str> = format!("{}{at}", "channel:".repeat(at * at / 3)).into();
        let stream = (rng.below(5) > 0).then_some(OPTIONS);
        match rng.below(8) {
            0 => {
                let recover = Some(Recover {
                    since: Default::default(),
                    mode: RecoverMode::Cache,
                    limit: 0,
                    max_bytes: usize::MAX,
                    or_reject: false,
                });
                let letter = SubscribeLetter {
                    channel: name,
                    core: 0,
                    sub: SubKey(0),
                    nonce: 1,
                    ticket: 0,
                    delta: true,
                    stream,
                    recover,
                    filter: None,
                    member: None,
                    hears: false,
                };
                home.subscribe(letter, n, now);
                listening[at] += 1;
            }
            1 if listening[at] > 0 => {
                let letter = UnsubscribeLetter {
                    channel: name,
                    core: 0,
                    sub: SubKey(0),
                    member: None,
                    hears: false,
                };
                home.unsubscribe(&letter, now);
                listening[at] -= 1;
            }
            2 => _ = home.history(&name, &OPTIONS, &Default::default(), n, now),
            3 if rng.below(9) == 0 => home.remove_history(&name),
            4 => _ = home.sweep(now),
            _ => {
                let key = if rng.below(3) == 0 { format!("key {n}") } else { String::new() };
                let publish = Publish {
                    data: Bytes::from(vec![b'1'; rng.below(3000) as usize]),
                    stream,
                    delta: rng.below(2) == 0,
                    idempotency_key: key,
                    version: u64::from(rng.below(20) / 19) * n,
                    tags: [("tag".to_owned(), "t".repeat(rng.below(40) as usize))].into(),
                    ..Publish::default()
                };
                home.publish(&name, publish, n, now);
            }
        }
        audit(&home);
        // Nobody can take from those who listen what they need.
        let left = home.held.items == 0 && home.idle == 0;
        assert!(left || home.history_bytes() <= limits.history_bytes, "{}", home.history_bytes());
    }
    assert!(home.counters().history_dropped > 100);
}

#[test]
fn positions_of_idle_channels_do_not_squeeze_out_publications() {
    let limits = HomeLimits { history_bytes: 200_000, ..HomeLimits::default() };
    let mut home = home(limits);
    for n in 0..50 {
        publish(&mut home, "kept", 1_000, seconds(n));
    }
    for n in 0..5_000 {
        let name = format!("flood:{n}").into();
        let _ = home.history(&name, &OPTIONS, &Default::default(), n, seconds(100 + n));
        assert!(home.history_bytes() <= limits.history_bytes);
    }
    assert_eq!(home.counters().history_dropped, 0);
    assert!(home.counters().channels_dropped > 1_000);
}

#[test]
fn a_sweep_frees_what_nobody_asks_for() {
    let check = Duration::from_secs(40);
    let mut home = home(HomeLimits { position_check: check, ..HomeLimits::default() });
    for n in 0..500 {
        publish(&mut home, &format!("channel:{n}"), 10, seconds(1));
    }
    let sweep = |home: &mut Home, mut now: Duration, until: Duration| {
        while now < until {
            let (tops, next) = home.sweep(now);
            assert!(tops.is_empty(), "nobody listens");
            let next = next?;
            assert!(next > now && next <= now + check / 100);
            now = next;
        }
        Some(now)
    };
    sweep(&mut home, seconds(61), seconds(61) + check + check / 10).unwrap();
    assert_eq!((home.held.items, home.stored.len(), home.len()), (0, 0, 500));
    assert_eq!(sweep(&mut home, seconds(601), seconds(700)), None);
    assert!(home.is_empty());
}

#[test]
fn a_step_of_the_sweep_looks_at_a_fraction() {
    let mut home = home(HomeLimits::default());
    for n in 0..1_600 {
        publish(&mut home, &format!("channel:{n}"), 10, seconds(1));
    }
    // A 160th of them and one.
    home.sweep(seconds(10_000));
    assert_eq!(home.len(), 1_600 - 11);
    home.sweep(seconds(20_000));
    assert_eq!(home.len(), 1_600 - 22);
}

#[test]
fn channels_that_nothing_needs_leave_no_record() {
    let mut home = home(HomeLimits::default());
    let published =
        home.publish(&"plain".into(), Publish { delta: true, ..Publish::default() }, 1, seconds(1));
    assert!(published.delivery.is_none());
    assert!(home.is_empty());
}

#[test]
fn the_last_subscriber_leaves_only_the_history() {
    let mut home = home(HomeLimits::default());
    publish(&mut home, "kept", 10, seconds(1));
    let member =
        Member { client: ClientId::new(1), info: Who::default(), present: true, announced: true };
    for channel in ["kept", "plain"] {
        for core in [0, 3] {
            let letter = SubscribeLetter {
                channel: channel.into(),
                core,
                sub: SubKey(0),
                nonce: 1,
                ticket: 0,
                delta: false,
                stream: None,
                recover: None,
                filter: None,
                member: Some(member.clone()),
                hears: true,
            };
            home.subscribe(letter, 1, seconds(1));
        }
        let delta = Publish { delta: true, ..Publish::default() };
        let published = home.publish(&channel.into(), delta, 1, seconds(1));
        assert!(published.delivery.is_some());
        for core in [0, 3] {
            let member = Some(ClientId::new(1));
            let letter = UnsubscribeLetter {
                channel: channel.into(),
                core,
                sub: SubKey(0),
                member,
                hears: true,
            };
            home.unsubscribe(&letter, seconds(1));
        }
    }
    assert!(home.find("plain").is_none());
    let kept = &home.channels[home.find("kept").unwrap()];
    assert!(kept.listeners.is_empty() && kept.roster.is_none() && kept.last.is_none());
    assert_eq!((kept.hears, home.active(), home.idle), (0, 0, 1));
}

#[test]
fn ids_are_positive_and_differ_between_cores() {
    let mut ids = std::collections::BTreeSet::new();
    for core in 0..4 {
        let home = Home::new(core, Placement::new(4, 1), HomeLimits::default());
        for key in 0..100 {
            assert!(home.id(key).wire() > 0);
            assert!(ids.insert(home.id(key)));
        }
    }
}

#[test]
fn nothing_is_left_when_each_book_is_empty() {
    let remains: [fn(&mut Home); 7] = [
        |home| _ = home.intern(&"a".into()),
        |home| home.stored.push(0),
        |home| home.held.record = 1,
        |home| home.held.items = 1,
        |home| home.idle = 1,
        |home| home.copies = 1,
        |home| home.copied.push_back(0),
    ];
    assert!(home(HomeLimits::default()).is_empty());
    for (number, leave) in remains.into_iter().enumerate() {
        let mut home = home(HomeLimits::default());
        leave(&mut home);
        assert!(!home.is_empty(), "{number}");
    }
}

#[test]
fn tables_grow_by_a_quarter_and_idle_channels_pay_their_part_of_them() {
    let mut home = home(HomeLimits::default());
    let mut before = [0; 2];
    for n in 0..400 {
        publish(&mut home, &format!("channel:{n}"), 10, seconds(1));
        let now = [home.channels.capacity(), home.stored.capacity()];
        for (before, now) in before.iter_mut().zip(now) {
            let grown = now - *before;
            assert!(
                grown == 0 || (*before / 4..=*before / 4 + 8).contains(&grown),
                "{before} {now}"
            );
            *before = now;
        }
    }
    assert_eq!((home.len(), home.idle, home.active()), (400, 400, 0));
    let records = heap(home.channels.capacity() * size_of::<Option<Channel>>());
    let keys = heap((home.stored.capacity() + home.missed.capacity()) * size_of::<u32>());
    let tables = records + keys + home.channels.table_size();
    assert_eq!(home.records(), home.held.record + tables);
    assert_eq!(
        home.history_bytes(),
        home.held.items + home.held.record + tables + home.results.bytes()
    );
    // Channels with subscribers are on the account of those.
    home.idle = 100;
    assert_eq!((home.records(), home.active()), (home.held.record + tables / 4, 300));
    home.missed.reserve_exact(1000);
    assert!(home.records() >= home.held.record + tables / 4 + 1000);
}

#[test]
fn keys_of_publications_are_counted_each_once() {
    let mut home = home(HomeLimits::default());
    for key in ["a", "b", "c", "a"] {
        let publish = Publish {
            data: Bytes::from_static(b"1"),
            stream: Some(OPTIONS),
            idempotency_key: key.to_owned(),
            ..Publish::default()
        };
        home.publish(&"channel".into(), publish, 0, seconds(1));
    }
    assert_eq!((home.idempotency_keys(), home.counters().suppressed), (3, 1));
    assert!(home.results.bytes() > 0);
    let held = home.held.items + home.records() + home.results.bytes();
    assert_eq!(home.history_bytes(), held);
}

pub(super) fn letter(
    channel: &str,
    core: u16,
    member: Option<Member>,
    hears: bool,
) -> SubscribeLetter {
    SubscribeLetter {
        channel: channel.into(),
        core,
        sub: SubKey(0),
        nonce: 1,
        ticket: 0,
        delta: false,
        stream: Some(OPTIONS),
        recover: None,
        filter: None,
        member,
        hears,
    }
}

pub(super) fn member(number: u128, bytes: usize, announced: bool) -> Member {
    let info = Who { user: "ann".into(), conn_info: vec![b'1'; bytes].into(), ..Who::default() };
    Member { client: ClientId::new(number), info, present: true, announced }
}

#[test]
fn answers_to_presence_are_kept_within_their_bytes() {
    let audit = |home: &Home| {
        let copied = |key: &u32| home.channels[*key].roster.as_ref().unwrap().copied();
        let kept: Vec<usize> = home.copied.iter().map(copied).collect();
        assert!(kept.iter().all(|bytes| *bytes > 0));
        assert_eq!(home.copies, kept.iter().sum::<usize>());
        assert!(home.copies <= COPIES_MAX);
        kept.len()
    };
    let mut home = home(HomeLimits::default());
    let nobody = home.members("c0", Encoding::Json, 1).unwrap();
    let name = |n: u128| format!("c{n}");
    for n in 0..20 {
        home.subscribe(letter(&name(n), 0, Some(member(n, 1 << 20, false)), false), 1, NOW);
        let first = home.members(&name(n), Encoding::Json, usize::MAX).unwrap();
        assert!(first.len() > 1 << 20 && first != nobody);
        assert_eq!(audit(&home), (n as usize + 1).min(15));
        // The next one who asks shares it.
        let again = home.members(&name(n), Encoding::Json, usize::MAX).unwrap();
        assert_eq!(first.as_ptr(), again.as_ptr());
        assert!(home.members(&name(n), Encoding::Json, 100).is_err(), "more than it takes");
    }
    let both = home.members(&name(19), Encoding::Protobuf, usize::MAX).unwrap();
    assert!(both.len() > 1 << 20);
    assert_eq!(audit(&home), 14);
    // Who comes, changes or goes has it made anew.
    home.subscribe(letter(&name(19), 0, Some(member(100, 1, false)), false), 1, NOW);
    assert_eq!(audit(&home), 13);
    assert_eq!(home.presence(&name(19)).len(), 2);
    assert_eq!(home.presence_stats(&name(19)).num_clients, 2);
}

pub(super) const NOW: Duration = Duration::from_secs(1);

#[test]
fn those_who_hear_are_told_who_comes_and_goes() {
    let mut home = home(HomeLimits::default());
    let leave = |channel: &str, number| UnsubscribeLetter {
        channel: channel.into(),
        core: 0,
        sub: SubKey(0),
        member: Some(ClientId::new(number)),
        hears: false,
    };
    // Nobody hears.
    let (answer, join) = home.subscribe(letter("a", 0, Some(member(1, 1, true)), false), 1, NOW);
    assert!(answer.told == 0 && join.is_none());
    home.subscribe(letter("a", 0, Some(member(2, 1, true)), false), 1, NOW);
    assert!(home.unsubscribe(&leave("a", 1), NOW).is_none());
    // Two do.
    home.subscribe(letter("a", 0, None, true), 1, NOW);
    home.subscribe(letter("a", 3, None, true), 1, NOW);
    let (answer, join) = home.subscribe(letter("a", 0, Some(member(3, 1, true)), false), 1, NOW);
    assert_eq!(answer.told, 2);
    assert!(matches!(join.unwrap().1.happening(), Happening::Join(..)));
    let (answer, join) = home.subscribe(letter("a", 0, Some(member(4, 1, false)), false), 1, NOW);
    assert!(answer.told == 0 && join.is_none(), "it is not announced");
    let (_, left) = home.unsubscribe(&leave("a", 3), NOW).unwrap();
    assert!(matches!(left.happening(), Happening::Leave(..)));
    assert!(home.unsubscribe(&leave("a", 4), NOW).is_none());
    let listening: Vec<_> =
        home.channels().map(|(name, count, _)| (name.to_string(), count)).collect();
    assert_eq!(listening, [("a".to_owned(), 3)]);
    let key = home.find("a").unwrap();
    assert_eq!([0, 1, 2].map(|n| home.listener(key, n)), [Some(0), Some(3), None]);
}

#[test]
fn cores_that_missed_something_are_told_until_they_know() {
    let mut home = home(HomeLimits::default());
    for (channel, core) in [("a", 0), ("a", 1), ("b", 1)] {
        home.subscribe(letter(channel, core, None, false), 1, NOW);
    }
    let published = |home: &mut Home, channel: &str, stream| {
        let publish = Publish { data: Bytes::from_static(b"1"), stream, ..Publish::default() };
        home.publish(&channel.into(), publish, 1, NOW).delivery.unwrap()
    };
    // What has no offset is not missed.
    let (a, delivery) = published(&mut home, "a", None);
    home.refused(a, 1, &delivery);
    assert!(!home.has_missed() && home.missed().is_empty());
    for _ in 0..2 {
        let (a, delivery) = published(&mut home, "a", Some(OPTIONS));
        home.refused(a, 1, &delivery);
    }
    let (b, delivery) = published(&mut home, "b", Some(OPTIONS));
    home.refused(b, 0, &delivery);
    assert!(home.has_missed() && home.counters().deliveries_refused == 4);
    assert_eq!(home.missed(), [(1, vec![(home.id(a), 2), (home.id(b), 1)])]);
    home.told(&[0]);
    assert!(home.has_missed() && !home.missed().is_empty());
    home.told(&[1]);
    assert!(!home.has_missed() && home.missed().is_empty());
    let (_, delivery) = published(&mut home, "a", None);
    let Happening::Published { seq, base, .. } = delivery.happening() else { panic!() };
    assert_eq!((*seq, base.is_none()), (4, true));
}

#[test]
fn answers_to_presence_may_fill_their_bytes() {
    let length = |bytes: usize| {
        let mut home = home(HomeLimits::default());
        home.subscribe(letter("a", 0, Some(member(1, bytes, false)), false), 1, NOW);
        (home.members("a", Encoding::Json, usize::MAX).unwrap().len(), home.copies)
    };
    let around = length(5000).0 - 5000;
    assert_eq!(COPIES_MAX, 16 << 20);
    assert_eq!(length(COPIES_MAX - around), (COPIES_MAX, COPIES_MAX));
    assert_eq!(length(COPIES_MAX - around + 1), (COPIES_MAX + 1, 0));
}

/// A subscriber without history.
pub(super) fn listens(home: &mut Home, channel: &str) -> u32 {
    let plain = SubscribeLetter { stream: None, ..letter(channel, 0, None, false) };
    home.subscribe(plain, 1, NOW);
    home.find(channel).unwrap()
}

pub(super) fn leaves(home: &mut Home, channel: &str, now: Duration) {
    let letter = UnsubscribeLetter {
        channel: channel.into(),
        core: 0,
        sub: SubKey(0),
        member: None,
        hears: false,
    };
    home.unsubscribe(&letter, now);
}

#[test]
fn what_patches_need_is_on_the_account_once() {
    let mut home = home(HomeLimits::default());
    let key = listens(&mut home, "a");
    let publish = |home: &mut Home, stream| {
        let data = Bytes::from(vec![b'1'; 1000]);
        let publish = Publish { data, stream, delta: true, ..Publish::default() };
        home.publish(&"a".into(), publish, 1, NOW);
    };
    publish(&mut home, None);
    let last = home.channels[key].last.clone().unwrap();
    assert_eq!(home.held, Share { items: last.cost(), record: 0 });
    // One of the history lies there.
    publish(&mut home, Some(OPTIONS));
    let history = home.channels[key].stream.as_ref().unwrap().bytes();
    assert!(history >= 1000);
    assert_eq!(home.held.items, history);
    // Without room for it the next one goes to everybody whole.
    home.limits.history_bytes = 100;
    home.make_room();
    assert_eq!((home.held.items, home.counters().history_dropped), (0, 2));
    assert!(home.channels[key].last.is_none());
}

#[test]
fn what_nobody_keeps_or_hears_drops_nothing() {
    let mut home = home(HomeLimits { idle_channels: 1, ..HomeLimits::default() });
    publish(&mut home, "kept", 10, NOW);
    let published = home.publish(&"plain".into(), Publish::default(), 1, NOW);
    assert!(matches!(
        published.answer,
        Answer::Published { position: None, suppressed: false, receivers: 0 }
    ));
    assert_eq!((home.counters().published, home.counters().channels_dropped), (2, 0));
    assert!(home.find("kept").is_some());
    assert_eq!(home.limits().idle_channels, 1);
}

#[test]
fn publications_are_counted_by_what_became_of_them() {
    let mut home = home(HomeLimits::default());
    for version in [5, 5, 4, 6] {
        let publish = Publish { stream: Some(OPTIONS), version, ..Publish::default() };
        home.publish(&"a".into(), publish, 1, NOW);
    }
    assert_eq!((home.counters().published, home.counters().suppressed), (2, 2));
}

#[test]
fn history_may_fill_its_bytes() {
    let fill = |limit: usize| {
        let mut home = home(HomeLimits { history_bytes: limit, ..HomeLimits::default() });
        listens(&mut home, "a");
        (0..3).for_each(|_| _ = publish(&mut home, "a", 1000, NOW));
        (home.history_bytes(), home.counters().history_dropped)
    };
    let (all, _) = fill(usize::MAX);
    assert_eq!(fill(all), (all, 0));
    assert_eq!(fill(all - 1).1, 1);
}

#[test]
fn publications_beyond_their_half_go_before_positions() {
    let limits = HomeLimits { history_bytes: 100_000, ..HomeLimits::default() };
    let mut home = home(limits);
    for n in 0..50 {
        let _ =
            home.history(&format!("idle:{n}").into(), &OPTIONS, &Default::default(), n, seconds(1));
    }
    let listening = listens(&mut home, "kept");
    for n in 0..200 {
        publish(&mut home, "kept", 1_000, seconds(2 + n));
    }
    let counters = home.counters();
    assert!(counters.history_dropped > 100 && counters.channels_dropped == 0, "{counters:?}");
    assert_eq!(home.listener(listening, 0), Some(0));
}

/// Idle channels are looked for among 64 of all that there are; these lie beyond.
#[test]
fn all_that_must_go_goes_however_many_listen() {
    let limits = HomeLimits { history_bytes: 8_000, ..HomeLimits::default() };
    let mut home = home(limits);
    let (small, large) = ("s".repeat(3_000), "l".repeat(9_000));
    for n in 0..150 {
        let name = match n {
            70 => &small,
            80 => &large,
            _ => &format!("channel:{n}"),
        };
        home.subscribe(letter(name, 0, None, false), 1, NOW);
    }
    leaves(&mut home, &small, NOW);
    assert!(home.find(&small).is_some() && home.idle == 1);
    home.hands = [0; 2];
    // The older one goes first, which is not enough.
    leaves(&mut home, &large, seconds(2));
    assert!(home.find(&small).is_none() && home.find(&large).is_none());
    assert_eq!((home.counters().channels_dropped, home.idle), (2, 0));
}
