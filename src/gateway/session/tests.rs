//! What a session holds, to the byte, and its small parts.

use super::table::SessionTable;
use super::ticket::{Ticket, Waits};
use super::*;
use crate::gateway::hub_port::Link;
use crate::gateway::letters::{Action, Gather};
use crate::gateway::stats::CommandKind;
use crate::gateway::wire::Disconnect;
use crate::gateway::wire::messages::SubscribeResult;

#[test]
fn tickets_keep_what_they_are_given() {
    for kind in CommandKind::ALL {
        let ticket = Ticket::new(Waits::Command(*kind), 0x12ff_ffff, u32::MAX);
        assert_eq!(ticket.waits(), Some(Waits::Command(*kind)));
        assert_eq!((ticket.id(), ticket.age_ms(0x1300_0004)), (u32::MAX, 5));
    }
    for waits in [Waits::Connect, Waits::Api] {
        assert_eq!(Ticket::new(waits, 7, 9).waits(), Some(waits));
    }
}

fn idle() -> Session {
    Session {
        generation: 0,
        client: NOBODY,
        since: 0,
        expire_at: 0,
        flags: 0,
        format: Format::WebSocketJson,
        asked: 0,
        busy: 0,
        failures: 0,
        pings: 0,
        more: None,
    }
}

fn lines(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn order() -> Arc<UserOrder> {
    let (action, done) = (Action::Disconnect(Disconnect::STALE), Gather::new(|_| {}));
    Arc::new(UserOrder { user: "".into(), client: None, spare: Vec::new(), action, done })
}

/// What fills one part, and what it takes then.
type Part = (fn(&mut More), usize);

/// One for each part of what few connections have.
fn parts() -> [Part; 10] {
    [
        (|more| more.conn_info = Bytes::from_static(b"abc"), 3),
        (|more| more.meta = Bytes::from_static(b"abcde"), 5),
        (|more| more.vouched = Some("ann".into()), 3),
        (
            |more| {
                let (transport, emulated) =
                    (lines(&[("ab", "cde"), ("f", "")]), lines(&[("g", "h")]));
                more.headers = Arc::new(ClientHeaders { transport, emulated });
            },
            3 * ENTRY + 6 + 2,
        ),
        (|more| more.answer = Some(lines(&[("ab", "cdef"), ("g", "")]).into()), 2 * ENTRY + 7),
        (|more| more.connecting = Some(Box::default()), size_of::<Connecting>()),
        (
            |more| {
                let request = |epoch: &str| SubscribeRequest {
                    epoch: epoch.to_owned(),
                    ..Default::default()
                };
                let positions =
                    [("a".to_owned(), request("xyz")), ("bc".to_owned(), request(""))].into();
                let orders = vec![order(), order()];
                let connecting =
                    Connecting { positions, orders, stashed: 1000, ..Default::default() };
                more.connecting = Some(Box::new(connecting));
            },
            size_of::<Connecting>()
                + 1000
                + 2 * size_of::<Arc<UserOrder>>()
                + 2 * (size_of::<SubscribeRequest>() + ENTRY)
                + 6,
        ),
        (
            |more| {
                more.subs = Vec::with_capacity(3);
                let raw = Bytes::from_static;
                let sub = |channel: &str| SubMore { channel: channel.into(), ..SubMore::default() };
                more.subs.push(SubMore { info: raw(b"abcd"), data: raw(b"cdefg"), ..sub("abc") });
                more.subs.push(sub("d"));
            },
            3 * size_of::<SubMore>() + 13,
        ),
        (|more| more.reserved = vec!["abc".into(), "d".into()], 2 * ENTRY + 4),
        (
            |more| {
                let why = Unsubscribe::SERVER;
                more.revoked.push(Revoked { channel: "abc".into(), why: why.clone() });
                more.revoked.push(Revoked { channel: "d".into(), why });
            },
            4 * ENTRY + 4,
        ),
    ]
}

#[test]
fn what_few_connections_have_is_counted_part_by_part() {
    assert_eq!((More::default().bytes(), ENTRY), (0, 48));
    for (fill, bytes) in parts() {
        let mut more = More::default();
        fill(&mut more);
        assert!(!more.is_idle());
        assert_eq!(more.bytes(), size_of::<More>() + bytes);
    }
    let mut more = More::default();
    more.queue.push(b"a command");
    assert!(!more.is_idle() && more.queue.memory() > 0);
    assert_eq!(more.bytes(), size_of::<More>() + more.queue.memory());
    let mut more = More::default();
    more.places.begin("a", &SubscribeResult { recoverable: true, ..SubscribeResult::default() });
    assert!(!more.is_idle());
    // All of them together, but for the lesser of two.
    let mut more = More::default();
    let all: Vec<Part> =
        parts().into_iter().enumerate().filter(|(at, _)| *at != 5).map(|(_, it)| it).collect();
    all.iter().for_each(|(fill, _)| fill(&mut more));
    assert_eq!(more.bytes(), size_of::<More>() + all.iter().map(|(_, bytes)| bytes).sum::<usize>());
}

#[test]
fn the_account_of_a_core_is_the_sum_of_its_sessions() {
    let mut sessions = SessionTable::default();
    let id = |index: u64, generation: u64| Link(generation << 32 | index);
    let (a, b) = (id(1, 5), id(2, 6));
    sessions.insert(a, idle(), 7);
    sessions.insert(b, idle(), i64::MAX);
    let since = |sessions: &mut SessionTable, id| sessions.get_mut(id).expect("there").since();
    assert_eq!((since(&mut sessions, a), since(&mut sessions, b)), (7, u32::MAX));
    let hold = |sessions: &mut SessionTable, id: Link, bytes: usize| {
        sessions.get_mut(id).expect("there").more().meta = vec![0; bytes].into();
        sessions.weigh(id);
    };
    hold(&mut sessions, a, 1000);
    assert_eq!(sessions.bytes(), size_of::<More>() + 1000);
    hold(&mut sessions, b, 10);
    hold(&mut sessions, a, 3000);
    assert_eq!(sessions.bytes(), 2 * size_of::<More>() + 3010);
    hold(&mut sessions, a, 500);
    assert_eq!(sessions.bytes(), 2 * size_of::<More>() + 510);
    // What holds nothing has no box.
    hold(&mut sessions, b, 0);
    assert_eq!(sessions.bytes(), size_of::<More>() + 500);
    assert!(sessions.get_mut(b).is_some_and(|session| session.more.is_none()));
    // One that has used the same place before is not there.
    let before = id(1, 4);
    assert!(sessions.get_mut(before).is_none() && sessions.remove(before).is_none());
    sessions.weigh(before);
    assert!(sessions.remove(a).is_some() && sessions.remove(a).is_none());
    assert_eq!(sessions.bytes(), 0);
}

#[test]
fn a_box_goes_with_the_last_thing_in_it_unless_the_account_knows_of_it() {
    let mut session = idle();
    session.reserve("a");
    session.reserve("b");
    assert_eq!(
        (session.reserved(), session.is_reserved("a"), session.is_reserved("c")),
        (2, true, false)
    );
    session.release("a");
    assert_eq!(
        (session.reserved(), session.is_reserved("a"), session.is_reserved("b")),
        (1, false, true)
    );
    session.release("b");
    assert!(session.more.is_none() && session.reserved() == 0);
    let why = Unsubscribe::SERVER;
    session.revoke("a", &why);
    session.revoke("b", &Unsubscribe::EXPIRED);
    session.revoke("b", &why);
    assert_eq!(session.more().revoked.len(), 2);
    assert!(session.take_revoked("c").is_none());
    assert_eq!(
        session.take_revoked("b").expect("it is").why,
        Unsubscribe::EXPIRED,
        "the first holds"
    );
    assert!(session.more.is_some());
    assert_eq!(&*session.take_revoked("a").expect("it is").channel, "a");
    assert!(session.more.is_none());
    for channel in ["a", "b"] {
        let sub = SubMore { channel: channel.into(), expire_at: 7, ..SubMore::default() };
        session.more().subs.push(sub);
    }
    session.forget_sub("a");
    assert!(session.sub("a").is_none() && session.sub("b").is_some());
    session.more().charged = 1;
    session.forget_sub("b");
    assert!(session.more.is_some() && session.charged() == 1);
    session.more().charged = 0;
    session.tidy();
    assert!(session.more.is_none() && session.charged() == 0);
}

#[test]
fn flags_are_one_each() {
    let all = [HELD, NATIVE_PINGS, CONNECTING, OPEN, ASKED, RUNNING, BACKLOG];
    for flag in all {
        let mut session = idle();
        session.set(flag, true);
        assert!(all.iter().all(|it| session.is(*it) == (*it == flag)));
        session.set(flag, true);
        assert!(session.is(flag));
        all.iter().for_each(|it| session.set(*it, true));
        session.set(flag, false);
        assert!(all.iter().all(|it| session.is(*it) == (*it != flag)));
        session.set(flag, false);
        assert!(!session.is(flag));
    }
}

#[test]
fn what_expires_is_due_when_its_clients_time_is_over() {
    let sub = |expire_at, by_backend, asked| SubMore {
        expire_at,
        by_backend,
        asked,
        ..SubMore::default()
    };
    assert_eq!(sub(0, false, false).due(5), None);
    assert_eq!(sub(-1, false, false).due(5), None);
    assert_eq!(sub(1, false, false).due(5), Some(6));
    assert_eq!(sub(1, true, false).due(5), Some(1), "the backend is asked at once");
    assert_eq!(sub(1, true, true).due(5), None);
    assert_eq!(sub(i64::MAX, false, false).due(5), Some(i64::MAX));
}

#[test]
fn pings_are_answered_once_each() {
    let mut session = idle();
    session.set_pinged();
    assert!(session.pong(false).is_err(), "it is not open");
    session.set(OPEN, true);
    session.set_pinged();
    assert!(session.pong(true).is_ok(), "one that overtakes leaves its ping open");
    assert!(session.pong(false).is_ok() && session.pong(false).is_ok());
    assert!(session.pong(false).is_err() && session.pong(true).is_err());
    (0..300).for_each(|_| session.set_pinged());
    assert_eq!(session.pings, u8::MAX);
}
