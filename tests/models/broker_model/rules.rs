//! Single rules, in the same world: one node, whose every step is chosen.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use ringhold::gateway::broker::{
    Fault, Happening, Keeps, Life, Limits, Message, Part, Request, Scope, Ticket,
};
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::hub::Subscribe;
use ringhold::gateway::hub_port::{ClientKey, Link};
use ringhold::gateway::letters::{
    Answer, ClientId, Letter, Publish, Question, Recover, RecoverMode,
};
use ringhold::gateway::local::Wants;
use ringhold::gateway::stream::{Position, Read};
use ringhold::gateway::wire::messages::{Publication, SubscribeResult};
use ringhold::gateway::wire::{Encoding, Error};
use ringhold::internals::rng::Rng;

use super::moves;
use super::run::{CHECK, PRESENCE_TTL, stream};
use super::server::Server;
use super::world::{Asked, Faults, Node, Seen, World};

const LONG: &str = "long:1";
const PLAIN: &str = "plain:1";

/// One node of one core, connected to a server.
fn world() -> World {
    let mut world = unconnected();
    world.settle(Duration::ZERO);
    world
}

fn unconnected() -> World {
    unconnected_to(Keeps::All)
}

fn unconnected_to(keeps: Keeps) -> World {
    let limits = HomeLimits { position_check: CHECK, ..HomeLimits::default() };
    let broker = Limits { presence_ttl: PRESENCE_TTL, keeps, ..Limits::default() };
    let node = Node::new(0, 1, 1, limits, broker);
    let faults = Faults { loses: 0, doubles: 0, swaps: 0 };
    World::new(Rng::new(5), Server::new(PRESENCE_TTL), vec![node], faults)
}

fn connect(world: &mut World, number: u64) -> (Link, ClientKey) {
    let (link, id) = (Link(number), ClientId::new(number.into()));
    world.nodes[0].between.inbox.insert(link, Vec::new());
    let key = world.nodes[0].at(0, |hub, _| hub.connect(link, id, "ann", Encoding::Protobuf));
    (link, key)
}

/// Subscribes a new connection; `since` makes it recover.
fn subscribe(world: &mut World, number: u64, channel: &str, since: Option<(u64, &str)>) -> Link {
    let (link, key) = connect(world, number);
    let stream = stream(channel);
    let subscribe = Subscribe {
        ticket: number,
        wants: Wants { positioned: stream.is_some(), ..Wants::default() },
        stream,
        recover: since.map(|(offset, epoch)| Recover {
            since: Position { offset, epoch: epoch.to_owned() },
            mode: RecoverMode::Stream,
            limit: 0,
            max_bytes: 0,
            or_reject: false,
        }),
        present: true,
        ..Subscribe::default()
    };
    world.nodes[0].at(0, |hub, out| hub.subscribe(out, key, channel, subscribe)).expect("it may");
    link
}

fn publish(world: &mut World, channel: &str, text: &str) -> Asked {
    let publish = Publish {
        data: Bytes::from(text.to_owned()),
        stream: stream(channel),
        ..Publish::default()
    };
    world.nodes[0].ask(0, channel, Question::Publish(publish))
}

fn seen(world: &mut World, link: Link) -> Vec<Seen> {
    std::mem::take(world.nodes[0].between.inbox.get_mut(&link).expect("it is connected"))
}

/// The answer to a subscription, if there is one.
fn answer(world: &mut World, link: Link) -> Option<Result<SubscribeResult, Error>> {
    seen(world, link).into_iter().find_map(|seen| match seen {
        Seen::Subscribed { result, .. } => Some(result),
        _ => None,
    })
}

fn asked(world: &World, kind: &str) -> u64 {
    world.nodes[0].between.link.asked.get(kind).copied().unwrap_or(0)
}

fn hears(world: &mut World, happening: Happening) {
    world.nodes[0].at(0, |hub, out| hub.letter(out, Letter::Batch(vec![happening])));
}

/// What the server would pass on.
fn message(world: &mut World, offset: u64, text: &str) -> Happening {
    let (epoch, _) = world.server.position(LONG, world.now).expect("it has a position");
    let data = Bytes::from(text.to_owned());
    let data = Publication { data, ..Publication::default() }.encode_to_vec().into();
    Happening::Message(LONG.into(), Message::Published { epoch, offset, data })
}

/// A subscriber has begun behind the first publication, or has got it.
fn knows_of_one(world: &mut World, link: Link) {
    let (mut offset, mut frames) = (0, 0);
    for seen in seen(world, link) {
        match seen {
            Seen::Subscribed { result, .. } => offset = result.expect("subscribed").offset,
            Seen::Frame(_) => frames += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(offset == 1 || frames > 0, "it does not know of what was published");
}

#[test]
fn a_broker_that_keeps_nothing_is_asked_for_messages_only() {
    let mut world = unconnected_to(Keeps::Nothing);
    let early = subscribe(&mut world, 1, PLAIN, None);
    world.nodes[0].turn(0);
    assert!(answer(&mut world, early).is_none(), "there is no connection, and it waits");
    world.pass(Duration::from_secs(4));
    world.nodes[0].turn(0);
    assert_eq!(answer(&mut world, early), Some(Err(Error::INTERNAL)));
    world.settle(Duration::ZERO);
    // What cannot be listened to is refused, and asked for again by who comes next.
    for number in [2, 3] {
        let refused = subscribe(&mut world, number, PLAIN, None);
        world.nodes[0].turn(0);
        hears(&mut world, Happening::Refused(vec![PLAIN.into()], Fault::Name));
        assert_eq!(answer(&mut world, refused), Some(Err(Error::BAD_REQUEST)));
    }
    let link = subscribe(&mut world, 4, PLAIN, None);
    world.settle(Duration::ZERO);
    assert!(answer(&mut world, link).expect("answered").is_ok());
    // Of one that is listened to nothing is refused any more.
    hears(&mut world, Happening::Refused(vec![PLAIN.into()], Fault::Name));
    world.settle(PRESENCE_TTL);
    let stats = world.nodes[0].ask(0, PLAIN, Question::PresenceStats);
    let Some(Ok(Answer::PresenceStats(stats))) = stats.get() else { panic!("{stats:?}") };
    assert_eq!((stats.num_clients, stats.num_users), (1, 1));
    for kind in ["presence_add", "presence_renew", "presence_stats", "history", "tops"] {
        assert_eq!(asked(&world, kind), 0, "{kind}");
    }
}

#[test]
fn a_crowd_that_returns_costs_one_question() {
    let mut world = world();
    for number in 0..20 {
        publish(&mut world, LONG, &format!("{number}"));
    }
    world.settle(Duration::ZERO);
    let epoch = world.server.position(LONG, world.now).unwrap().0;
    let links: Vec<_> = (1..=100)
        .map(|number| subscribe(&mut world, number, LONG, Some((number % 20, epoch.as_str()))))
        .collect();
    world.settle(Duration::ZERO);
    for (number, link) in (1..).zip(links) {
        let result = answer(&mut world, link).expect("answered").expect("subscribed");
        assert!(result.recovered);
        assert_eq!(result.publications.len() as u64, 20 - number % 20);
    }
    assert_eq!((asked(&world, "listen"), asked(&world, "history")), (1, 1));
    // Who comes later finds everything here.
    let link = subscribe(&mut world, 200, LONG, Some((3, epoch.as_str())));
    assert!(answer(&mut world, link).expect("at once").expect("subscribed").recovered);
}

#[test]
fn equal_questions_are_asked_once_and_anew_after_a_change() {
    let mut world = world();
    let read = Read { limit: -1, max: 300, ..Read::default() };
    let history = || Question::History { stream: stream(LONG).unwrap(), read: read.clone() };
    let before: Vec<_> = (0..10).map(|_| world.nodes[0].ask(0, LONG, history())).collect();
    let published = publish(&mut world, LONG, "1");
    let after: Vec<_> = (0..10).map(|_| world.nodes[0].ask(0, LONG, history())).collect();
    world.settle(Duration::ZERO);
    assert!(published.get().expect("answered").is_ok());
    let count = |asked: &Asked| match asked.get() {
        Some(Ok(Answer::History(history))) => history.publications.len(),
        other => panic!("{other:?}"),
    };
    assert!(before.iter().all(|asked| count(asked) == 0));
    assert!(after.iter().all(|asked| count(asked) == 1), "who has published sees it");
    assert_eq!(asked(&world, "history"), 2);
    let presence: Vec<_> =
        (0..10).map(|_| world.nodes[0].ask(0, LONG, Question::Presence)).collect();
    world.settle(Duration::ZERO);
    assert!(presence.iter().all(|asked| asked.get() == Some(Ok(Answer::Presence(Vec::new())))));
    assert_eq!(asked(&world, "presence"), 1);
}

#[test]
fn without_a_broker_everything_fails_soon_and_nobody_is_closed() {
    let mut world = unconnected();
    let (plain, long) =
        (subscribe(&mut world, 1, PLAIN, None), subscribe(&mut world, 2, LONG, None));
    let result = answer(&mut world, plain).expect("history-less channels are there at once");
    assert!(result.is_ok());
    let published = publish(&mut world, LONG, "1");
    while world.work(0) || world.nodes[0].step() {}
    assert_eq!(published.get(), Some(Err(Error::INTERNAL)), "at once");
    world.pass(Duration::from_secs(3));
    world.nodes[0].turn(0);
    assert!(answer(&mut world, long).is_none(), "it waits");
    world.pass(Duration::from_secs(1));
    world.nodes[0].turn(0);
    assert_eq!(answer(&mut world, long), Some(Err(Error::INTERNAL)), "as long as it may");
    // The subscription that was accepted begins with the connection.
    world.settle(Duration::ZERO);
    publish(&mut world, PLAIN, "2");
    world.settle(Duration::ZERO);
    assert!(matches!(seen(&mut world, plain)[..], [Seen::Frame(_)]));
}

#[test]
fn a_live_channel_serves_while_the_connection_is_lost_and_is_checked_after() {
    let mut world = world();
    let first = subscribe(&mut world, 1, LONG, None);
    world.settle(Duration::ZERO);
    publish(&mut world, LONG, "1");
    world.settle(Duration::ZERO);
    assert_eq!(seen(&mut world, first).len(), 2);
    world.drop_subs(0);
    // Published elsewhere.
    world.connect_commands(0);
    publish(&mut world, LONG, "2");
    while world.work(0) || world.nodes[0].step() {}
    let second = subscribe(&mut world, 2, LONG, None);
    assert_eq!(answer(&mut world, second).expect("at once").expect("subscribed").offset, 1);
    assert!(seen(&mut world, first).is_empty());
    let tops = asked(&world, "tops");
    world.settle(Duration::ZERO);
    assert_eq!(asked(&world, "tops"), tops + 1);
    for link in [first, second] {
        assert!(matches!(seen(&mut world, link)[..], [Seen::Frame(_)]), "repaired");
    }
}

/// The answer to the first question comes late: when the channel is listened to anew, what was
/// published between is in neither.
#[test]
fn an_answer_from_before_the_connection_was_lost_is_not_the_last_word() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    world.nodes[0].turn(0);
    while asked(&world, "history") == 0 {
        let node = &mut world.nodes[0];
        node.between.link.take(&mut world.server);
        if let Some(push) = node.between.link.pushed() {
            node.arrive(push);
        }
        node.step();
    }
    let World { nodes, server, now, .. } = &mut world;
    nodes[0].between.link.take(server);
    assert!(nodes[0].between.link.execute(server, *now).is_none(), "a question");
    world.drop_subs(0);
    publish(&mut world, LONG, "1");
    let World { nodes, server, now, .. } = &mut world;
    nodes[0].between.link.take(server);
    nodes[0].between.link.execute(server, *now).expect("it is passed on to nobody");
    world.settle(CHECK / 8);
    knows_of_one(&mut world, link);
}

#[test]
fn a_channel_is_ignored_when_nobody_comes_back() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    world.settle(Duration::ZERO);
    let reads = asked(&world, "history");
    let leave = |world: &mut World, number: u64, link: Link| {
        world.nodes[0].at(0, |hub, out| {
            let key = hub.users().of("ann").map(|(key, _)| key).next().expect("connected");
            hub.disconnect(out, key);
        });
        world.nodes[0].between.inbox.remove(&link).expect("connected");
        assert!(number > 0);
    };
    leave(&mut world, 1, link);
    world.settle(Duration::from_secs(1));
    let link = subscribe(&mut world, 2, LONG, None);
    assert!(answer(&mut world, link).expect("at once").is_ok());
    world.settle(Duration::from_secs(5));
    assert_eq!((asked(&world, "ignore"), asked(&world, "history")), (0, reads));
    leave(&mut world, 2, link);
    world.settle(Duration::from_secs(3));
    assert_eq!((asked(&world, "ignore"), world.server.subscriptions()), (1, 0));
    assert!(world.nodes[0].hubs[0].is_empty());
}

#[test]
fn only_channels_of_a_lost_part_are_asked_for_again() {
    #[derive(Debug)]
    struct Long;
    impl Part for Long {
        fn has(&self, channel: &str) -> bool {
            channel.starts_with("long")
        }
    }
    let mut world = world();
    let plain = subscribe(&mut world, 1, PLAIN, None);
    subscribe(&mut world, 2, LONG, None);
    world.settle(Duration::ZERO);
    let part = Scope::Part(Arc::new(Long));
    let listens = asked(&world, "listen");
    hears(&mut world, Happening::Deaf(part.clone()));
    world.nodes[0].turn(0);
    assert_eq!(asked(&world, "listen"), listens);
    let other = subscribe(&mut world, 3, "long:2", None);
    world.settle(Duration::from_millis(10));
    assert!(answer(&mut world, other).is_none(), "there is no connection for it");
    assert_eq!(asked(&world, "listen"), listens);
    hears(&mut world, Happening::Back(part, Life::Same));
    world.settle(Duration::ZERO);
    assert_eq!(asked(&world, "listen"), listens + 1);
    assert!(answer(&mut world, other).expect("answered").is_ok());
    assert!(answer(&mut world, plain).expect("answered").is_ok());
}

/// Servers are connected to in any order, and one of them perhaps never.
#[test]
fn a_channel_that_moves_twice_is_heard_where_it_is() {
    let mut world = world();
    subscribe(&mut world, 1, LONG, None);
    world.settle(Duration::ZERO);
    let listens = asked(&world, "listen");
    let (first, second) = (moves::scope(LONG), moves::scope(LONG));
    let said = [&first, &second].map(|scope| Happening::Deaf(scope.clone()));
    said.into_iter().for_each(|deaf| hears(&mut world, deaf));
    hears(&mut world, Happening::Back(first.clone(), Life::Same));
    world.nodes[0].turn(0);
    assert_eq!(asked(&world, "listen"), listens, "it is not there any more");
    hears(&mut world, Happening::Back(second.clone(), Life::Same));
    world.nodes[0].turn(0);
    assert_eq!(asked(&world, "listen"), listens + 1);
    // The other way round, and the first one never says anything.
    for scope in [&first, &second] {
        hears(&mut world, Happening::Deaf(scope.clone()));
    }
    hears(&mut world, Happening::Back(second, Life::Same));
    world.nodes[0].turn(0);
    assert_eq!(asked(&world, "listen"), listens + 2);
    world.settle(Duration::ZERO);
    let other = subscribe(&mut world, 2, LONG, None);
    assert!(answer(&mut world, other).expect("at once").is_ok());
}

#[test]
fn what_comes_before_its_turn_is_held_within_bounds() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    for number in 1..=3 {
        publish(&mut world, LONG, &format!("{number}"));
    }
    world.settle(Duration::ZERO);
    seen(&mut world, link);
    (4..=200).for_each(|number| _ = publish(&mut world, LONG, &format!("{number}")));
    let mut messages = Vec::new();
    let World { nodes, server, now, .. } = &mut world;
    while nodes[0].between.link.take(server).is_some() || messages.len() < 197 {
        messages.extend(nodes[0].between.link.execute(server, *now));
    }
    // 4 is missing, and so are all that were held when they became too many.
    for (_, message) in messages.into_iter().skip(1) {
        hears(&mut world, Happening::Message(LONG.into(), message));
    }
    let counters = world.nodes[0].hubs[0].mirror_counters().unwrap();
    assert_eq!((counters.gaps, asked(&world, "history")), (1, 2));
    assert!(seen(&mut world, link).is_empty());
    world.settle(Duration::ZERO);
    let seen = seen(&mut world, link);
    assert_eq!(seen.len(), 197);
    assert!(seen.iter().all(|seen| matches!(seen, Seen::Frame(_))));
    let reads = asked(&world, "history");
    assert!((3..=4).contains(&reads), "what was not held is asked for again, a few times: {reads}");
}

#[test]
fn a_server_that_does_not_know_what_it_passed_on_has_forked() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    publish(&mut world, LONG, "1");
    world.settle(Duration::ZERO);
    seen(&mut world, link);
    let before = world.server.position(LONG, world.now).unwrap().0;
    let message = message(&mut world, 9, "9");
    hears(&mut world, message);
    world.settle(Duration::ZERO);
    assert_eq!(world.nodes[0].hubs[0].mirror_counters().unwrap().forks, 1);
    assert_ne!(world.server.position(LONG, world.now).unwrap().0, before);
    assert!(matches!(seen(&mut world, link)[..], [Seen::Unsubscribed { code: 2500, .. }]));
}

/// A subscriber has two publications, of which another server lacks the second, and has a third one
/// in its place. The node has not heard of that.
fn loses_the_second(world: &mut World) -> Link {
    let link = subscribe(world, 1, LONG, None);
    publish(world, LONG, "1");
    world.settle(Duration::ZERO);
    let saved = world.server.state.clone();
    publish(world, LONG, "2");
    world.settle(Duration::ZERO);
    seen(world, link);
    world.fail_over(saved);
    world.connect_commands(0);
    publish(world, LONG, "another");
    while world.work(0) || world.nodes[0].step() {}
    link
}

/// Another server has as many publications, and the last one is another.
#[test]
fn a_server_with_the_same_top_is_looked_at_closely() {
    let mut world = world();
    let link = loses_the_second(&mut world);
    let top = world.server.position(LONG, world.now).map(|(_, top)| top);
    assert_eq!(top, Some(2));
    world.settle(CHECK / 8);
    assert_eq!(world.nodes[0].hubs[0].mirror_counters().unwrap().forks, 1);
    assert!(matches!(seen(&mut world, link)[..], [Seen::Unsubscribed { code: 2500, .. }]));
}

/// A renewal is lost with a server's end, and the next one goes on in the epoch that was left.
#[test]
fn an_epoch_that_was_left_does_not_come_back() {
    for somebody_stays in [true, false] {
        let mut world = world();
        let link = loses_the_second(&mut world);
        let first = world.server.position(LONG, world.now).expect("it has a position").0;
        let saved = world.server.state.clone();
        world.settle(CHECK / 8);
        let second = world.server.position(LONG, world.now).expect("it has a position").0;
        assert_ne!(first, second, "the fork was found");
        assert!(seen(&mut world, link).iter().any(|it| matches!(it, Seen::Unsubscribed { .. })));
        if somebody_stays {
            subscribe(&mut world, 2, LONG, None);
        }
        world.settle(CHECK);
        world.fail_over(saved);
        world.settle(CHECK);
        if somebody_stays {
            let third = world.server.position(LONG, world.now).expect("it has a position").0;
            assert!(third != first && third != second, "it goes on in an epoch that was left");
        }
        publish(&mut world, LONG, "3");
        let away = subscribe(&mut world, 3, LONG, Some((2, first.as_str())));
        world.settle(CHECK);
        let answer = answer(&mut world, away).expect("answered").expect("subscribed");
        assert!(!answer.recovered, "what it has seen is not in this history");
        assert_ne!(answer.epoch, first.as_str());
        let counters = world.nodes[0].hubs[0].mirror_counters().unwrap();
        assert_eq!((counters.forks, counters.returned), (1, 1));
    }
}

/// A channel is given up and wanted again before the first acknowledgement has come: it counts for
/// what was given up.
#[test]
fn an_acknowledgement_is_of_the_time_that_it_was_asked_for() {
    let mut world = world();
    let first = subscribe(&mut world, 1, LONG, None);
    world.nodes[0].turn(0);
    let World { nodes, server, .. } = &mut world;
    nodes[0].between.link.take(server);
    nodes[0].at(0, |hub, out| {
        let key = hub.users().of("ann").map(|(key, _)| key).next().expect("connected");
        hub.disconnect(out, key);
    });
    nodes[0].between.inbox.remove(&first).expect("connected");
    world.pass(Duration::from_secs(3));
    world.nodes[0].turn(0);
    let second = subscribe(&mut world, 2, LONG, None);
    world.nodes[0].turn(0);
    assert_eq!((asked(&world, "ignore"), asked(&world, "listen")), (1, 2));
    let World { nodes, server, now, .. } = &mut world;
    // The first acknowledgement comes, and the channel is given up at the server.
    let acknowledged = nodes[0].between.link.pushed().expect("the first one");
    nodes[0].arrive(acknowledged);
    while nodes[0].step() {}
    while server.subscriptions() > 0 {
        nodes[0].between.link.take(server);
    }
    let kept = Publication { data: Bytes::from_static(b"1"), ..Publication::default() };
    let options = stream(LONG).unwrap();
    let publish = ringhold::gateway::broker::Publish {
        channel: LONG.into(),
        data: kept.encode_to_vec().into(),
        stream: Some(ringhold::gateway::broker::Kept {
            size: options.size,
            ttl: options.ttl,
            meta_ttl: options.meta_ttl,
            renew: true,
            fresh: ringhold::gateway::stream::Epoch::parse("freshone").unwrap(),
        }),
        delta: false,
        idempotency_key: String::new(),
        idempotency_ttl: Duration::from_secs(300),
        version: 0,
        version_epoch: String::new(),
        sequence: 1,
    };
    // What was asked by then is answered without what another node publishes after it: questions
    // go over another connection than the channel, which is not asked for again yet.
    while nodes[0].between.link.overtake() {}
    while nodes[0].between.link.sent() > 0 {
        nodes[0].between.link.execute(server, *now);
    }
    server.execute(&Request::Publish(Ticket(0), Box::new(publish)), 1, *now);
    world.settle(CHECK / 8);
    knows_of_one(&mut world, second);
}

#[test]
fn who_needs_no_position_does_not_wait_for_the_next_connection() {
    let mut world = world();
    let link = subscribe(&mut world, 1, PLAIN, None);
    world.nodes[0].turn(0);
    assert_eq!((asked(&world, "listen"), seen(&mut world, link).len()), (1, 0));
    world.drop_subs(0);
    while world.nodes[0].step() {}
    assert!(answer(&mut world, link).expect("at once").is_ok());
}

/// A full mailbox has lost a message, and an answer that is older is under way.
#[test]
fn what_a_full_mailbox_lost_is_in_no_answer_from_before() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    world.nodes[0].turn(0);
    while asked(&world, "history") == 0 {
        let node = &mut world.nodes[0];
        node.between.link.take(&mut world.server);
        if let Some(push) = node.between.link.pushed() {
            node.arrive(push);
        }
        node.step();
    }
    let World { nodes, server, now, .. } = &mut world;
    nodes[0].between.link.take(server);
    assert!(nodes[0].between.link.execute(server, *now).is_none(), "a question");
    publish(&mut world, LONG, "1");
    let World { nodes, server, now, .. } = &mut world;
    nodes[0].between.link.take(server);
    nodes[0].between.link.execute(server, *now).expect("its message is lost");
    hears(&mut world, Happening::Suspect(Scope::Channels([Box::from(LONG)].into())));
    world.settle(CHECK / 8);
    knows_of_one(&mut world, link);
}

/// What was skipped was seen by nobody here, so it cannot be another one.
#[test]
fn a_gap_that_cannot_be_filled_is_no_fork() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    publish(&mut world, LONG, "1");
    world.settle(Duration::ZERO);
    seen(&mut world, link);
    world.faults.loses = 1;
    publish(&mut world, LONG, "2");
    publish(&mut world, LONG, "3");
    world.settle(Duration::ZERO);
    world.server.execute(&Request::HistoryRemove(Ticket(0), LONG.into()), 1, world.now);
    for _ in 0..2 {
        let late = message(&mut world, 3, "3");
        hears(&mut world, late);
        world.settle(Duration::ZERO);
    }
    assert!(matches!(seen(&mut world, link)[..], [Seen::Unsubscribed { code: 2500, .. }]));
    assert_eq!(world.nodes[0].hubs[0].mirror_counters().unwrap().forks, 0);
    // Nor when the server is another one by name.
    world.fail_over(world.server.state.clone());
    world.settle(CHECK);
    assert_eq!(world.nodes[0].hubs[0].mirror_counters().unwrap().forks, 0);
}

#[test]
fn members_are_renewed_by_channel_and_added_where_they_are_missing() {
    let mut world = world();
    (1..=50).for_each(|number| _ = subscribe(&mut world, number, PLAIN, None));
    world.settle(Duration::ZERO);
    assert_eq!((asked(&world, "presence_add"), asked(&world, "presence_renew")), (50, 0));
    world.settle(3 * PRESENCE_TTL);
    assert_eq!(world.server.members(PLAIN, world.now).len(), 50);
    let renewals = asked(&world, "presence_renew");
    assert!((8..=10).contains(&renewals), "{renewals}");
    assert_eq!(asked(&world, "presence_add"), 50);
    // The server forgets everything.
    world.fail_over(Default::default());
    world.settle(PRESENCE_TTL);
    assert_eq!(world.server.members(PLAIN, world.now).len(), 50);
    assert_eq!(asked(&world, "presence_add"), 51, "in one request");
}

#[test]
fn what_is_no_publication_is_counted_and_checked() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    world.settle(Duration::ZERO);
    seen(&mut world, link);
    let epoch = world.server.position(LONG, world.now).unwrap().0;
    let data = Bytes::from_static(b"\xff\xff\xff");
    let broken = Message::Published { epoch, offset: 1, data: data.clone() };
    for message in [broken, Message::Passed(data.clone()), Message::Join(data)] {
        hears(&mut world, Happening::Message(LONG.into(), message));
    }
    assert_eq!(world.nodes[0].hubs[0].mirror_counters().unwrap().malformed, 3);
    world.settle(Duration::ZERO);
    assert!(seen(&mut world, link).is_empty());
    assert_eq!(asked(&world, "tops"), 1);
}

#[test]
fn a_history_that_another_node_removed_is_not_answered_from_memory() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    world.settle(Duration::ZERO);
    publish(&mut world, LONG, "1");
    world.settle(Duration::ZERO);
    let read = Read { limit: -1, max: 300, ..Read::default() };
    let stream = stream(LONG).unwrap();
    let count = |world: &mut World| {
        let question = Question::History { stream, read: read.clone() };
        let asked = world.nodes[0].ask(0, LONG, question);
        world.settle(Duration::ZERO);
        match asked.get() {
            Some(Ok(Answer::History(history))) => history.publications.len(),
            other => panic!("{other:?}"),
        }
    };
    let reads = asked(&world, "history");
    assert_eq!((count(&mut world), asked(&world, "history")), (1, reads), "from memory");
    world.server.execute(&Request::HistoryRemove(Ticket(0), LONG.into()), 1, world.now);
    hears(&mut world, Happening::Message(LONG.into(), Message::Removed));
    assert_eq!((count(&mut world), asked(&world, "history")), (0, reads + 1));
    publish(&mut world, LONG, "2");
    world.settle(Duration::ZERO);
    assert_eq!(seen(&mut world, link).len(), 3, "the position has stayed");
}

/// The answer to a question overtakes the message: who needs no position waits for the message.
#[test]
fn who_listened_before_the_first_position_misses_nothing() {
    let mut world = world();
    let (link, key) = connect(&mut world, 1);
    let plain = Subscribe { ticket: 1, ..Subscribe::default() };
    world.nodes[0].at(0, |hub, out| hub.subscribe(out, key, LONG, plain)).expect("it may");
    world.settle(Duration::ZERO);
    publish(&mut world, LONG, "1");
    let World { nodes, server, now, .. } = &mut world;
    nodes[0].between.link.take(server);
    let (_, late) = nodes[0].between.link.execute(server, *now).expect("it is published");
    let positioned = subscribe(&mut world, 2, LONG, None);
    world.settle(Duration::ZERO);
    assert_eq!(answer(&mut world, positioned).expect("answered").expect("subscribed").offset, 1);
    assert!(matches!(seen(&mut world, link)[..], [Seen::Subscribed { .. }]));
    for _ in 0..2 {
        hears(&mut world, Happening::Message(LONG.into(), late.clone()));
    }
    assert!(matches!(seen(&mut world, link)[..], [Seen::Frame(_)]), "once");
    assert!(seen(&mut world, positioned).is_empty());
    publish(&mut world, LONG, "2");
    world.settle(Duration::ZERO);
    for link in [link, positioned] {
        assert!(matches!(seen(&mut world, link)[..], [Seen::Frame(_)]));
    }
}

#[path = "promises.rs"]
mod promises;
