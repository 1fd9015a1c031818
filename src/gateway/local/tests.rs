//! The books of one core's subscribers.

use super::*;
use crate::gateway::letters::ClientId;
use crate::gateway::users::Users;
use crate::gateway::wire::messages::FilterNode;

fn begin(filter: Option<Arc<Filter>>) -> Begin {
    Begin { wants: Wants::default(), member: false, filter }
}

fn answer(begun: &Begun, channel: u64) -> SubscribedLetter {
    SubscribedLetter {
        channel: ChannelId(channel),
        sub: begun.sub,
        nonce: begun.nonce,
        ticket: 0,
        seq: 0,
        top: None,
        told: 0,
        recovered: None,
        refused: None,
    }
}

#[test]
fn what_a_subscription_had_goes_with_it() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let key = users.connect(Link(1), ClientId::new(1), "ann", Format::WebSocketJson);
    let client = users.get_mut(key).unwrap();
    let node = FilterNode { key: "odd".to_owned(), cmp: "ex".to_owned(), ..FilterNode::default() };
    let filter = Arc::new(Filter::new(&node).unwrap());

    let stays = locals.begin(key, client, "stays", begin(None)).unwrap();
    let goes = locals.begin(key, client, "goes", begin(Some(filter))).unwrap();
    assert!(locals.begin(key, client, "goes", begin(None)).is_none(), "it has one");
    for (begun, channel) in [(&stays, 1), (&goes, 2)] {
        let letter = answer(begun, channel);
        assert!(locals.confirm(&letter).is_some());
        assert!(locals.confirm(&letter).is_none(), "once");
    }
    assert_eq!((client.subscriptions(), locals.filters.len(), locals.ids.len()), (2, 1, 2));
    assert!(locals.end(client, goes.sub).is_some());
    assert!(locals.end(client, goes.sub).is_none());
    assert_eq!((client.subscriptions(), locals.filters.len(), locals.ids.len()), (1, 0, 1));
    assert_eq!((locals.names.len(), locals.channels.len()), (1, 1));
    assert!(locals.end_first(client).is_some() && locals.is_empty());
}

/// The home core forgets a channel and gives its number to another, while the first is
/// subscribed anew.
#[test]
fn a_number_that_is_given_anew_finds_the_new_channel() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let keys = [1, 2]
        .map(|n| users.connect(Link(n), ClientId::new(n.into()), "ann", Format::WebSocketJson));
    let first = locals.begin(keys[0], users.get_mut(keys[0]).unwrap(), "a", begin(None)).unwrap();
    locals.confirm(&answer(&first, 5)).unwrap();
    let again = locals.begin(keys[1], users.get_mut(keys[1]).unwrap(), "a", begin(None)).unwrap();
    locals.end(users.get_mut(keys[0]).unwrap(), first.sub).unwrap();
    assert!(locals.ids.is_empty(), "nobody listens under this number");
    let other = locals.begin(keys[0], users.get_mut(keys[0]).unwrap(), "b", begin(None)).unwrap();
    locals.confirm(&answer(&other, 5)).unwrap();
    locals.confirm(&answer(&again, 6)).unwrap();
    let name = |id| &*locals.channels[locals.ids[&ChannelId(id)] as usize].name;
    assert_eq!((name(5), name(6)), ("b", "a"));
}

#[test]
fn each_wish_is_kept_as_it_was_said() {
    let wishes: [fn(&mut Wants); 7] = [
        |wants| wants.positioned = true,
        |wants| wants.recoverable = true,
        |wants| wants.delta = true,
        |wants| wants.compact = true,
        |wants| wants.joins = true,
        |wants| wants.server_side = true,
        |wants| wants.by_token = true,
    ];
    let placement = Placement::new(1, 1);
    for (number, wish) in wishes.into_iter().enumerate() {
        for format in Format::ALL {
            let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
            let key = users.connect(Link(1), ClientId::new(1), "ann", format);
            let client = users.get_mut(key).unwrap();
            let mut wants = Wants::default();
            wish(&mut wants);
            let begin = Begin { wants, member: number % 2 == 0, filter: None };
            let begun = locals.begin(key, client, "a", begin).unwrap();
            assert_eq!(locals.is_member(begun.sub), number % 2 == 0);
            assert_eq!(locals.get(begun.sub).unwrap().wants, wants);
            let confirmed = locals.confirm(&answer(&begun, 1)).unwrap();
            assert_eq!((confirmed.format, confirmed.wants), (format, wants));
            let ended = locals.end(client, begun.sub).unwrap();
            assert_eq!((ended.joins, ended.server_side), (wants.joins, wants.server_side));
        }
    }
}

#[test]
fn a_subscription_is_its_connections() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let keys = [1, 2]
        .map(|n| users.connect(Link(n), ClientId::new(n.into()), "ann", Format::WebSocketJson));
    let first = locals.begin(keys[0], users.get_mut(keys[0]).unwrap(), "a", begin(None)).unwrap();
    let other = locals.begin(keys[1], users.get_mut(keys[1]).unwrap(), "b", begin(None)).unwrap();
    assert!(locals.end(users.get_mut(keys[1]).unwrap(), first.sub).is_none());
    // An answer to what was before in the same place confirms nothing.
    let mut old = answer(&first, 1);
    old.nonce = other.nonce;
    assert!(locals.confirm(&old).is_none());
    assert!(locals.confirm(&answer(&first, 1)).is_some());
}

#[test]
fn the_account_has_every_part_of_a_subscription() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let key = users.connect(Link(1), ClientId::new(1), "ann", Format::WebSocketJson);
    let client = users.get_mut(key).unwrap();
    let node = FilterNode { key: "odd".to_owned(), cmp: "ex".to_owned(), ..FilterNode::default() };
    let filter = Arc::new(Filter::new(&node).unwrap());
    locals.begin(key, client, "short", begin(None)).unwrap();
    let records = size_of::<Sub>() + size_of::<u32>() + 128;
    let name = |length: usize| 2 * (size_of::<Channel>() + 128 + shared(length));
    assert_eq!((locals.bytes(), locals.filter_bytes()), (records + name(5), 0));
    let long = "long".repeat(50);
    let filtered = locals.begin(key, client, &long, begin(Some(filter.clone()))).unwrap();
    assert_eq!(locals.bytes(), 2 * records + name(5) + name(200));
    let place = 2 * size_of::<(u32, Arc<Filter>)>();
    assert_eq!(locals.filter_bytes(), filter.cost() + place);
    locals.end(client, filtered.sub).unwrap();
    assert_eq!((locals.bytes(), locals.filter_bytes()), (records + name(5), 0));
}

#[test]
fn nothing_is_left_when_each_book_is_empty() {
    let remains: [fn(&mut Locals); 6] = [
        |locals| _ = locals.names.insert_unique(0, 0, |_| 0),
        |locals| locals.bytes = 1,
        |locals| locals.filter_bytes = 1,
        |locals| _ = locals.ids.insert(ChannelId(1), 0),
        |locals| _ = locals.intern("a"),
        |locals| {
            let node = FilterNode { cmp: "ex".to_owned(), ..FilterNode::default() };
            let node = FilterNode { key: "odd".to_owned(), ..node };
            locals.filters.insert(0, Arc::new(Filter::new(&node).unwrap()));
        },
    ];
    assert!(Locals::new(Placement::new(1, 1)).is_empty());
    for (number, leave) in remains.into_iter().enumerate() {
        let mut locals = Locals::new(Placement::new(1, 1));
        leave(&mut locals);
        assert!(!locals.is_empty(), "{number}");
    }
}

#[test]
fn a_crowd_that_leaves_a_channel_gives_its_memory_back_and_numbers_go_on() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let mut crowd = Vec::new();
    for n in 0..1000u32 {
        let key = users.connect(Link(n.into()), ClientId::new(n.into()), "", Format::Sse);
        let begun = locals.begin(key, users.get_mut(key).unwrap(), "a", begin(None)).unwrap();
        locals.confirm(&answer(&begun, 1)).unwrap();
        crowd.push((key, begun.sub));
    }
    let capacity = |locals: &Locals| -> usize {
        locals.channels.iter().map(|it| it.1.members.capacity()).sum()
    };
    let full: usize = capacity(&locals);
    let leave = |locals: &mut Locals, users: &mut Users, (key, sub): (ClientKey, SubKey)| {
        locals.end(users.get_mut(key).unwrap(), sub).unwrap();
    };
    for it in crowd.drain(full / 4..) {
        leave(&mut locals, &mut users, it);
        assert_eq!(capacity(&locals), full, "those who come back find room");
    }
    leave(&mut locals, &mut users, crowd.pop().unwrap());
    assert_eq!(capacity(&locals), 2 * (full / 4 - 1), "and so they do now");
    for it in crowd.drain(10..) {
        leave(&mut locals, &mut users, it);
    }
    let few: usize = capacity(&locals);
    assert!((10..=40).contains(&few), "{few}");
    for it in crowd.drain(..) {
        leave(&mut locals, &mut users, it);
    }
    assert!(locals.is_empty());
    let key = users.connect(Link(1), ClientId::new(1), "", Format::Sse);
    let begun = locals.begin(key, users.get_mut(key).unwrap(), "a", begin(None)).unwrap();
    assert_eq!(begun.nonce, 1001, "answers may be under way");
}
