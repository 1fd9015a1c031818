//! Replies as Redis gives them to each request, and others.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::gateway::broker::{Absent, History, Kept, Publish, Renew, Ticket};
use crate::gateway::letters::ClientId;

fn epoch() -> Epoch {
    Epoch::parse("epoch").unwrap()
}

fn request(stream: bool, key: &str) -> Request {
    let kept = Kept {
        size: 1,
        ttl: Duration::from_secs(1),
        meta_ttl: Duration::ZERO,
        renew: false,
        fresh: epoch(),
    };
    let publish = Publish {
        channel: "ch".into(),
        data: "data".into(),
        stream: stream.then_some(kept),
        delta: false,
        idempotency_key: key.to_owned(),
        idempotency_ttl: Duration::from_secs(1),
        version: 0,
        version_epoch: String::new(),
        sequence: 1,
    };
    Request::Publish(Ticket(1), Box::new(publish))
}

fn requests() -> Vec<Request> {
    let history = History {
        channel: "ch".into(),
        since: None,
        limit: 1,
        reverse: false,
        meta_ttl: Duration::ZERO,
        fresh: epoch(),
    };
    let renew =
        Renew { channel: "ch".into(), old: epoch(), fresh: epoch(), meta_ttl: Duration::ZERO };
    let top = |entry| {
        let meta_ttl = Some(Duration::MAX);
        TopOf { channel: "ch".into(), entry, meta_ttl, count: entry == 0 }
    };
    let client = ClientId::new(1);
    vec![
        request(true, ""),
        request(false, ""),
        request(false, "k"),
        Request::History(Ticket(1), Box::new(history)),
        Request::HistoryRemove(Ticket(1), "ch".into()),
        Request::Positions(Ticket(1), vec![top(0), top(3), top(0)]),
        Request::Renew(Ticket(1), Box::new(renew)),
        Request::PresenceRemove(
            Ticket(1),
            "ch".into(),
            vec![Absent { client, user: "ann".into() }],
        ),
        Request::PresenceRenew(Ticket(1), "ch".into(), vec![client]),
        Request::Presence(Ticket(1), "ch".into()),
        Request::PresenceStats(Ticket(1), "ch".into()),
    ]
}

fn result(request: &Request, replies: &[&str], again: bool) -> Result<Outcome, Fault> {
    let mut gathered = Gathered::default();
    for reply in replies {
        gathered.take(request, &Reply::parse(reply.as_bytes()).unwrap(), again);
    }
    assert_eq!(gathered.came(), replies.len());
    gathered.result(request)
}

#[test]
fn publications_are_placed_suppressed_or_unknown() {
    let reply = |why: &str| format!("*3\r\n$1\r\n7\r\n$5\r\nepoch\r\n${}\r\n{why}\r\n", why.len());
    let of = |why, again| result(&request(true, ""), &[&reply(why)], again);
    let placed = |suppressed| Ok(Outcome::Published { position: Some((epoch(), 7)), suppressed });
    assert_eq!(of("", false), placed(false));
    assert_eq!(of("known", false), placed(true));
    assert_eq!(of("known", true), placed(false), "by the attempt before");
    assert_eq!(of("stale", true), placed(true));
    assert_eq!(of("unsure", true), Err(Fault::Unknown));
    let plain = |suppressed| Ok(Outcome::Published { position: None, suppressed });
    assert_eq!(result(&request(false, ""), &[":0\r\n"], false), plain(false));
    assert_eq!(result(&request(false, "k"), &["$0\r\n\r\n"], false), plain(false));
    assert_eq!(result(&request(false, "k"), &["$5\r\nknown\r\n"], false), plain(true));
    assert_eq!(result(&request(false, "k"), &["$5\r\nknown\r\n"], true), plain(false));
}

#[test]
fn histories_have_entries_whose_other_fields_are_passed_over() {
    let [.., request] = &requests()[..4] else { panic!() };
    let entries = "*2\r\n*2\r\n$3\r\n6-0\r\n*4\r\n$1\r\nm\r\n$1\r\nx\r\n$1\r\nd\r\n$2\r\nd6\r\n\
                   *2\r\n$3\r\n7-0\r\n*2\r\n$1\r\nd\r\n$2\r\nd7\r\n";
    let reply = format!("*3\r\n$1\r\n7\r\n$5\r\nepoch\r\n{entries}");
    let entry = |offset, data| Entry { offset, data: Bytes::from_static(data) };
    let entries = vec![entry(6, b"d6"), entry(7, b"d7")];
    let past = Past { epoch: epoch(), top: 7, entries };
    assert_eq!(result(request, &[&reply], false), Ok(Outcome::History(past)));
    let bad = reply.replace("6-0", "6+0");
    assert_eq!(result(request, &[&bad], false), Err(Fault::Malformed));
    assert_eq!(result(request, &[":1\r\n"], false), Err(Fault::Malformed));
    assert_eq!(result(request, &[], false), Err(Fault::Malformed));
}

#[test]
fn positions_come_with_their_entries() {
    let request = &requests()[5];
    let none = "*2\r\n_\r\n_\r\n";
    let life = ":1\r\n";
    let place = "*2\r\n$1\r\n4\r\n$5\r\nepoch\r\n";
    let begun = "*2\r\n$-1\r\n$5\r\nepoch\r\n";
    let entry = |id| format!("*1\r\n*2\r\n$3\r\n{id}-0\r\n*2\r\n$1\r\nd\r\n$1\r\nx\r\n");
    let replies = [none, ":0\r\n", life, place, &entry(3), &entry(2), life, begun, ":7\r\n", life];
    let top = |top, first, entry, count| Some(Top { epoch: epoch(), top, first, entry, count });
    let tops = vec![None, top(4, 2, Some("x".into()), None), top(0, 0, None, Some(7))];
    assert_eq!(result(request, &replies, false), Ok(Outcome::Positions(tops)));
    let empty = "*0\r\n";
    let replies = [none, ":0\r\n", life, none, empty, empty, life, none, ":0\r\n", life];
    assert_eq!(result(request, &replies, false), Ok(Outcome::Positions(vec![None, None, None])));
    assert_eq!(result(request, &replies[..7], false), Err(Fault::Malformed));
    let odd = [none, "$1\r\nx\r\n", life, none, empty, empty, life, none, ":0\r\n", life];
    assert_eq!(result(request, &odd, false), Err(Fault::Malformed));
}

#[test]
fn members_are_renewed_counted_and_listed() {
    let all = requests();
    let [.., renew, presence, stats] = &all[..] else { panic!() };
    let missing = |added: &str, there: &str| {
        let replies = [added, there, ":1\r\n"];
        result(renew, &replies, false)
    };
    let client = ClientId::new(1);
    assert_eq!(missing(":0\r\n", ":1\r\n"), Ok(Outcome::Missing(Vec::new())));
    assert_eq!(missing(":1\r\n", ":1\r\n"), Ok(Outcome::Missing(vec![client])));
    assert_eq!(missing(":0\r\n", ":0\r\n"), Ok(Outcome::Missing(vec![client])));
    let info = |user: &str| ClientInfo { user: user.to_owned(), ..ClientInfo::default() };
    let mut reply = "*3\r\n".to_owned();
    for user in ["ann", "bob", "ann"] {
        let bytes = info(user).encode_to_vec();
        reply += &format!("${}\r\n{}\r\n", bytes.len(), String::from_utf8(bytes).unwrap());
    }
    let counted = Outcome::PresenceStats { clients: 3, users: 2 };
    assert_eq!(result(stats, &[&reply], false), Ok(counted));
    let Ok(Outcome::Presence(members)) = result(presence, &[&reply], false) else { panic!() };
    assert_eq!(ClientInfo::decode(members[1].clone()).unwrap(), info("bob"));
    assert_eq!(result(presence, &["*1\r\n:1\r\n"], false), Err(Fault::Malformed));
}

#[test]
fn errors_are_told_apart_by_their_first_word() {
    for (error, trouble) in [
        ("NOSCRIPT No matching script. Please use EVAL.", Trouble::NoScript),
        ("READONLY You can't write against a read only replica.", Trouble::NotPrimary),
        ("LOADING Redis is loading the dataset in memory", Trouble::NotPrimary),
        (
            "ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write",
            Trouble::NotPrimary,
        ),
        ("WRONGPASS invalid username-password pair", Trouble::Unauthorised),
        ("NOAUTH Authentication required.", Trouble::Unauthorised),
        ("OOM command not allowed when used memory > 'maxmemory'.", Trouble::Denied),
        ("", Trouble::Denied),
    ] {
        assert_eq!(Trouble::of(error.as_bytes()), trouble, "{error}");
    }
}

/// Shapes of replies that no command has.
fn shape() -> impl Strategy<Value = Reply<'static>> {
    let leaf = prop_oneof![
        Just(Reply::Nil),
        any::<i64>().prop_map(Reply::Integer),
        prop::sample::select(vec![&b"7"[..], b"epoch", b"7-0", b"\xff", b"d"])
            .prop_map(Reply::Bulk),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        proptest::collection::vec(inner, 0..5).prop_map(Reply::List)
    })
}

proptest! {
    #[test]
    fn whatever_comes_is_an_outcome_or_a_fault(
        replies in proptest::collection::vec(shape(), 0..10),
        again in any::<bool>(),
    ) {
        for request in requests() {
            let mut gathered = Gathered::default();
            replies.iter().for_each(|reply| gathered.take(&request, reply, again));
            let _ = gathered.result(&request);
        }
    }
}
