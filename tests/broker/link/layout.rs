//! What is in Redis after each request, looked at by another client, and what the answers say.

use std::time::Duration;

use prost::Message as _;
use ringhold::gateway::broker::{
    Absent, Entry, Fault, History, Kept, Message, Outcome, Past, Present, Publish, Renew, Request,
    TopOf,
};
use ringhold::gateway::letters::ClientId;
use ringhold::gateway::stream::Epoch;
use ringhold::gateway::wire::messages::ClientInfo;

use super::rig::{Rig, kept, offset, publish, request, said_in};
use crate::support::redis::Redis;

fn rig() -> Option<(Redis, Rig)> {
    let redis = Redis::start()?;
    let keys = format!("address = [\"127.0.0.1:{}\"]\nprefix = \"p\"\n", redis.port());
    let rig = Rig::connected(&keys);
    Some((redis, rig))
}

fn epoch(text: &str) -> Epoch {
    Epoch::parse(text).unwrap()
}

fn history(rig: &mut Rig, since: Option<u64>, limit: u32, reverse: bool) -> Past {
    let history = History {
        channel: "ch".into(),
        since,
        limit,
        reverse,
        meta_ttl: Duration::from_secs(600),
        fresh: epoch("fromread"),
    };
    match rig.result(|ticket| Request::History(ticket, Box::new(history))) {
        Ok(Outcome::History(past)) => past,
        other => panic!("{other:?}"),
    }
}

fn offsets(past: &Past) -> Vec<u64> {
    past.entries.iter().map(|entry| entry.offset).collect()
}

#[test]
fn a_publication_is_kept_and_passed_on() {
    let Some((redis, mut rig)) = rig() else { return };
    rig.listen(&["ch"]);
    for n in 1..=5 {
        let stream = Some(kept(3));
        let one = Publish { stream, ..publish("ch", &format!("d{n}"), n) };
        assert_eq!(offset(rig.result(request(one))), n);
    }
    let stream = redis.lines(&["XRANGE", "p.stream.ch", "-", "+"]);
    let expected = ["3-0", "d", "d3", "m", "node.0.3", "4-0", "d", "d4", "m", "node.0.4"];
    let stream: Vec<_> = stream.iter().map(|line| said_in(line)).collect();
    assert_eq!(stream[..10], expected);
    assert_eq!(stream.len(), 15, "trimmed to three");
    let mut meta = redis.lines(&["HGETALL", "p.stream.meta.ch"]);
    meta.sort();
    assert_eq!(meta, ["5", "e", "freshone", "s"]);
    let ttl = |key: &str| redis.cli(&["TTL", key]).parse::<i64>().unwrap();
    // A tenth longer than asked for.
    assert!((60..=66).contains(&ttl("p.stream.ch")), "{}", ttl("p.stream.ch"));
    assert!((600..=660).contains(&ttl("p.stream.meta.ch")));
    rig.until("all messages", |rig| rig.messages.len() == 5);
    for (n, (name, message)) in (1..).zip(&rig.messages) {
        let data = format!("d{n}").into();
        let expected = Message::Published { epoch: epoch("freshone"), offset: n, data };
        assert_eq!((name.as_str(), message), ("ch", &expected));
    }
    rig.finish();
}

/// What Redis holds of a channel, and what was heard of it.
fn left(redis: &Redis, rig: &Rig, channel: &str) -> (Vec<String>, Vec<String>, Vec<bool>, usize) {
    let (stream, meta) = (format!("p.stream.{channel}"), format!("p.stream.meta.{channel}"));
    let entries = redis.lines(&["XRANGE", &stream, "-", "+"]);
    // Marks differ, as each has its own.
    let entries = entries.iter().filter(|line| !line.starts_with("node."));
    let entries = entries.map(|line| said_in(line).to_owned()).collect();
    let mut fields = redis.lines(&["HGETALL", &meta]);
    fields.sort();
    let lives = [&stream, &meta].map(|key| redis.cli(&["TTL", key]).parse::<i64>().unwrap() > 0);
    let heard = rig.messages.iter().filter(|(name, _)| name == channel).count();
    (entries, fields, lives.to_vec(), heard)
}

fn calls(redis: &Redis) -> u64 {
    let text = redis.cli(&["INFO", "commandstats"]);
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.and_then(|line| line.split(',').next()).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn publications_in_one_request_are_as_one_after_the_other() {
    let Some((redis, mut rig)) = rig() else { return };
    let channels = ["a0", "a1", "a2", "b0", "b1", "b2"];
    rig.listen(&channels);
    let one = |kind: &str, n: u64| {
        let stream = Kept { renew: n.is_multiple_of(3), ..kept(2 + (n % 3) as u32) };
        let stream = if n % 3 == 1 { Kept { meta_ttl: Duration::ZERO, ..stream } } else { stream };
        let one = publish(&format!("{kind}{}", n % 3), &format!("d{n}"), n);
        Publish { stream: Some(stream), ..one }
    };
    let apart: Vec<_> = (0..60).map(|n| offset(rig.result(request(one("a", n))))).collect();
    let before = calls(&redis);
    assert_eq!(before, 60);
    let together = rig.results((0..60).map(|n| one("b", n)).collect());
    assert_eq!(together.into_iter().map(offset).collect::<Vec<_>>(), apart);
    assert!(calls(&redis) - before < 10, "{} requests", calls(&redis) - before);
    rig.until("all messages", |rig| rig.messages.len() == 120);
    for n in 0..3 {
        let [apart, together] = ["a", "b"].map(|kind| left(&redis, &rig, &format!("{kind}{n}")));
        assert_eq!(apart, together);
        assert_eq!(apart.3, 20);
        assert_eq!(apart.2, [true, n != 1], "without a life the position stays");
    }
    // A life that ended begins anew, also within one request.
    redis.cli(&["DEL", "p.stream.meta.b0"]);
    let again = rig.results((60..=63).filter(|n| n % 3 == 0).map(|n| one("b", n)).collect());
    assert_eq!(again.into_iter().map(offset).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(redis.cli(&["XLEN", "p.stream.b0"]), "2");
    rig.finish();
}

#[test]
fn a_publication_that_fails_keeps_no_other_back() {
    let Some((redis, mut rig)) = rig() else { return };
    redis.cli(&["SET", "p.stream.meta.position", "no hash"]);
    redis.cli(&["SET", "p.stream.entries", "no stream"]);
    redis.cli(&["HSET", "p.stream.meta.entries", "e", "freshone", "s", "4"]);
    let all = || ["good", "position", "good", "entries", "good"].map(|it| publish(it, "x", 1));
    let good = |results: &[Result<Outcome, Fault>]| {
        let offsets: Vec<_> = [0, 2, 4].map(|at| offset(results[at].clone())).to_vec();
        assert_eq!([&results[1], &results[3]], [&Err(Fault::Denied); 2]);
        offsets
    };
    assert_eq!(good(&rig.results(all().to_vec())), [1, 2, 3]);
    // A server that has forgotten its scripts gets them again.
    redis.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(good(&rig.results(all().to_vec())), [4, 5, 6]);
    // One without room says so of each.
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = rig.results(vec![publish("good", "x", 1), publish("good", "x", 2)]);
    assert_eq!(refused, [Err(Fault::Denied), Err(Fault::Denied)]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(good(&rig.results(all().to_vec())), [7, 8, 9]);
    rig.finish();
}

#[test]
fn what_centrifugo_publishes_is_understood() {
    let Some((redis, mut rig)) = rig() else { return };
    rig.listen(&["ch"]);
    for payload in
        ["__p1:7:abcdefgh__one", "__d1:8:abcdefgh:3:one:3:two", "__j__who", "bare", "__?"]
    {
        redis.cli(&["PUBLISH", "p.client.ch", payload]);
    }
    let malformed = |rig: &Rig| rig.view.tally.messages_malformed.get();
    rig.until("four messages, and none", |rig| rig.messages.len() == 4 && malformed(rig) == 1);
    let placed = |offset, data: &'static str| Message::Published {
        epoch: epoch("abcdefgh"),
        offset,
        data: data.into(),
    };
    let messages: Vec<_> = rig.messages.iter().map(|(_, message)| message.clone()).collect();
    let expected = [
        placed(7, "one"),
        placed(8, "two"),
        Message::Join("who".into()),
        Message::Passed("bare".into()),
    ];
    assert_eq!(messages, expected);
    // A stream of its nodes has no marks, and an epoch of digits.
    redis.cli(&["HSET", "p.stream.meta.ch", "e", "1700000000", "s", "2"]);
    redis.cli(&["XADD", "p.stream.ch", "2-0", "d", "old"]);
    let past = history(&mut rig, None, 10, false);
    let entries = vec![Entry { offset: 2, data: "old".into() }];
    assert_eq!(past, Past { epoch: epoch("1700000000"), top: 2, entries });
    assert_eq!(offset(rig.result(request(publish("ch", "new", 1)))), 3);
    rig.finish();
}

#[test]
fn deltas_carry_the_publication_before() {
    let Some((redis, mut rig)) = rig() else { return };
    rig.listen(&["ch"]);
    for (n, data) in [(1, "one"), (2, "three")] {
        let one = Publish { delta: true, ..publish("ch", data, n) };
        rig.result(request(one)).unwrap();
    }
    rig.until("both", |rig| rig.messages.len() == 2);
    let data: Vec<_> = rig.messages.iter().map(|(_, message)| message.data()).collect();
    assert_eq!(data, [&b"one"[..], b"three"]);
    assert!(redis.cli(&["XREVRANGE", "p.stream.ch", "+", "-"]).contains("three"));
    rig.finish();
}

#[test]
fn keys_and_versions_suppress() {
    let Some((redis, mut rig)) = rig() else { return };
    rig.listen(&["ch", "plain"]);
    let keyed =
        |sequence| Publish { idempotency_key: "k".to_owned(), ..publish("ch", "one", sequence) };
    assert_eq!(offset(rig.result(request(keyed(1)))), 1);
    let position = Some((epoch("freshone"), 1));
    let known = Ok(Outcome::Published { position, suppressed: true });
    assert_eq!(rig.result(request(keyed(2))), known);
    let mut result = redis.lines(&["HGETALL", "p.result.ch.k"]);
    result.sort();
    assert_eq!(result, ["1", "e", "freshone", "s"]);
    let ttl: i64 = redis.cli(&["TTL", "p.result.ch.k"]).parse().unwrap();
    assert!((1..=300).contains(&ttl));

    let plain = |sequence| Publish {
        stream: None,
        idempotency_key: "k".to_owned(),
        ..publish("plain", "one", sequence)
    };
    let fresh = Ok(Outcome::Published { position: None, suppressed: false });
    assert_eq!(rig.result(request(plain(3))), fresh);
    let known = Ok(Outcome::Published { position: None, suppressed: true });
    assert_eq!(rig.result(request(plain(4))), known);
    let ttl: i64 = redis.cli(&["TTL", "p.result.plain.k"]).parse().unwrap();
    assert!((1..=300).contains(&ttl));

    let version = |version, version_epoch: &str, sequence| Publish {
        version,
        version_epoch: version_epoch.to_owned(),
        ..publish("ch", "two", sequence)
    };
    // To a number of Lua the first two are one.
    let big = 9_007_199_254_740_993;
    assert_eq!(offset(rig.result(request(version(big - 1, "a", 5)))), 2);
    assert_eq!(offset(rig.result(request(version(big, "a", 6)))), 3);
    let stale = Ok(Outcome::Published { position: Some((epoch("freshone"), 3)), suppressed: true });
    assert_eq!(rig.result(request(version(big - 1, "a", 7))), stale);
    assert_eq!(rig.result(request(version(big, "", 8))), stale);
    assert_eq!(offset(rig.result(request(version(big + 1, "a", 9)))), 4);
    assert_eq!(offset(rig.result(request(version(1, "b", 10)))), 5, "of another epoch");
    rig.until("six messages", |rig| rig.messages.len() == 6);
    rig.finish();
}

#[test]
fn histories_are_read_in_all_directions() {
    let Some((redis, mut rig)) = rig() else { return };
    let empty = history(&mut rig, None, 10, false);
    assert_eq!(empty, Past { epoch: epoch("fromread"), top: 0, entries: Vec::new() });
    assert_eq!(redis.cli(&["HGET", "p.stream.meta.ch", "e"]), "fromread");
    // Who reads lets the position live longer.
    redis.cli(&["EXPIRE", "p.stream.meta.ch", "5"]);
    history(&mut rig, None, 10, false);
    assert!(redis.cli(&["TTL", "p.stream.meta.ch"]).parse::<i64>().unwrap() > 5);
    for n in 1..=5 {
        let one = publish("ch", &format!("d{n}"), n);
        assert_eq!(offset(rig.result(request(one))), n);
    }
    for (since, limit, reverse, expected) in [
        (None, 0, false, &[][..]),
        (None, 100, false, &[1, 2, 3, 4, 5]),
        (None, 2, true, &[5, 4]),
        (Some(2), 2, false, &[3, 4]),
        (Some(5), 10, false, &[]),
        (Some(3), 10, true, &[2, 1]),
        (Some(1), 10, true, &[]),
        (Some(99), 10, true, &[5, 4, 3, 2, 1]),
    ] {
        let past = history(&mut rig, since, limit, reverse);
        assert_eq!(
            (offsets(&past), past.top),
            (expected.to_vec(), 5),
            "{since:?} {limit} {reverse}"
        );
    }
    let removed = rig.result(|ticket| Request::HistoryRemove(ticket, "ch".into()));
    assert_eq!(removed, Ok(Outcome::Done));
    let told = ("ch".to_owned(), Message::Removed);
    rig.until("nodes to hear of it", |rig| rig.messages.contains(&told));
    let past = history(&mut rig, None, 10, false);
    assert_eq!((past.top, past.entries.len()), (5, 0), "the position stays");
    assert_eq!(offset(rig.result(request(publish("ch", "d6", 6)))), 6);
    // The stream was begun anew, and lives as long as any.
    assert!(redis.cli(&["PTTL", "p.stream.ch"]).parse::<i64>().unwrap() > 0);
    rig.finish();
}

#[test]
fn positions_and_new_epochs() {
    let Some((redis, mut rig)) = rig() else { return };
    for n in 1..=3 {
        let one = Publish { stream: Some(kept(2)), ..publish("ch", &format!("d{n}"), n) };
        rig.result(request(one)).unwrap();
    }
    let ask = |entry, meta_ttl| TopOf { channel: "ch".into(), entry, meta_ttl, count: entry != 1 };
    let nothing = TopOf { channel: "none".into(), entry: 0, meta_ttl: None, count: true };
    let tops = vec![ask(0, None), ask(1, None), ask(3, Some(Duration::from_secs(900))), nothing];
    let answer = rig.result(|ticket| Request::Positions(ticket, tops));
    let Ok(Outcome::Positions(tops)) = answer else { panic!("{answer:?}") };
    let seen: Vec<_> = tops
        .iter()
        .map(|top| top.as_ref().map(|top| (top.top, top.first, top.entry.is_some(), top.count)))
        .collect();
    assert_eq!(
        seen,
        [
            Some((3, 0, false, Some(2))),
            Some((3, 2, false, None)),
            Some((3, 2, true, Some(2))),
            None
        ]
    );
    assert_eq!(redis.cli(&["EXISTS", "p.stream.meta.none"]), "0", "asking begins no life");
    assert!(redis.cli(&["TTL", "p.stream.meta.ch"]).parse::<i64>().unwrap() > 900);

    let renew = |old: &str, fresh: &str| {
        let renew = Renew {
            channel: "ch".into(),
            old: epoch(old),
            fresh: epoch(fresh),
            meta_ttl: Duration::from_secs(600),
        };
        move |ticket| Request::Renew(ticket, Box::new(renew))
    };
    let renewed = |epoch| Ok(Outcome::Renewed(Some((epoch, 3))));
    assert_eq!(rig.result(renew("freshone", "second")), renewed(epoch("second")));
    assert_eq!(rig.result(renew("freshone", "third")), renewed(epoch("second")), "it was first");
    redis.cli(&["DEL", "p.stream.meta.ch"]);
    assert_eq!(rig.result(renew("second", "third")), Ok(Outcome::Renewed(None)));
    // What is left of an earlier life goes with the first publication of the next.
    assert_eq!(offset(rig.result(request(publish("ch", "again", 9)))), 1);
    assert_eq!(redis.cli(&["XLEN", "p.stream.ch"]), "1");
    rig.finish();
}

#[test]
fn members_come_stay_and_vanish() {
    let Some((redis, mut rig)) = rig() else { return };
    let info = |user: &str, client: ClientId| {
        let (user, client) = (user.to_owned(), client.to_string());
        ClientInfo { user, client, ..ClientInfo::default() }.encode_to_vec().into()
    };
    let ids: Vec<_> = (1..=3).map(ClientId::new).collect();
    let member = |user: &str, n: usize| Present {
        client: ids[n],
        user: user.into(),
        info: info(user, ids[n]),
    };
    let members = vec![member("ann", 0), member("ann", 1), member("bob", 2)];
    let add = |members| move |ticket| Request::PresenceAdd(ticket, "ch".into(), members);
    assert_eq!(rig.result(add(members.clone())), Ok(Outcome::Done));
    assert_eq!(redis.cli(&["HLEN", "p.presence.data.ch"]), "3");
    let score: u64 = redis
        .cli(&["ZSCORE", "p.presence.expire.ch", &ids[0].to_string()])
        .parse()
        .expect("the time at which it vanishes");
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((50..=61).contains(&(score - unix.as_secs())), "{score}");
    assert!(redis.cli(&["TTL", "p.presence.data.ch"]).parse::<i64>().unwrap() > 50);

    let stats = |ticket| Request::PresenceStats(ticket, "ch".into());
    assert_eq!(rig.result(stats), Ok(Outcome::PresenceStats { clients: 3, users: 2 }));
    let renew = |ticket| Request::PresenceRenew(ticket, "ch".into(), ids.clone());
    assert_eq!(rig.result(renew), Ok(Outcome::Missing(Vec::new())));
    // Another node's member, whose time has passed, and more of them than one call takes.
    let ghosts: Vec<_> = (0..2500).map(|n| format!("ghost-{n}")).collect();
    for ghosts in ghosts.chunks(500) {
        let scores: Vec<&str> = ghosts.iter().flat_map(|ghost| ["1000", ghost]).collect();
        redis.cli(&[&["ZADD", "p.presence.expire.ch"], &scores[..]].concat());
        let fields: Vec<&str> = ghosts.iter().flat_map(|ghost| [ghost.as_str(), "x"]).collect();
        redis.cli(&[&["HSET", "p.presence.data.ch"], &fields[..]].concat());
    }
    let answer = rig.result(|ticket| Request::Presence(ticket, "ch".into()));
    let Ok(Outcome::Presence(there)) = answer else { panic!("{answer:?}") };
    let mut users: Vec<_> =
        there.iter().map(|info| ClientInfo::decode(&info[..]).unwrap().user).collect();
    users.sort();
    assert_eq!(users, ["ann", "ann", "bob"]);
    assert_eq!(redis.cli(&["ZCARD", "p.presence.expire.ch"]), "3");

    let absent = vec![Absent { client: ids[2], user: "bob".into() }];
    let remove = |ticket| Request::PresenceRemove(ticket, "ch".into(), absent);
    assert_eq!(rig.result(remove), Ok(Outcome::Done));
    assert_eq!(rig.result(stats), Ok(Outcome::PresenceStats { clients: 2, users: 1 }));
    redis.cli(&["FLUSHALL"]);
    assert_eq!(rig.result(renew), Ok(Outcome::Missing(ids.clone())));
    rig.finish();
}
