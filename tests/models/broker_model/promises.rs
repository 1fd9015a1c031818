//! Rules for what no random order shows: what takes longer than one, what only some options do, and
//! what needs two connections to be out of step.

use ringhold::gateway::broker::{self, Kept, Renew};
use ringhold::gateway::stream::Epoch;

use super::*;

const SHORT: &str = "short:1";

/// What another node publishes, as the server passes it on: to nobody here.
fn elsewhere(world: &mut World, text: &str) -> Message {
    let options = stream(LONG).unwrap();
    let (_, top) = world.server.position(LONG, world.now).unwrap_or((fresh(), 0));
    let data = Publication { data: Bytes::from(text.to_owned()), ..Publication::default() };
    let publish = broker::Publish {
        channel: LONG.into(),
        data: data.encode_to_vec().into(),
        stream: Some(Kept {
            size: options.size,
            ttl: options.ttl,
            meta_ttl: options.meta_ttl,
            renew: true,
            fresh: fresh(),
        }),
        delta: false,
        idempotency_key: String::new(),
        idempotency_ttl: Duration::from_secs(300),
        version: 0,
        version_epoch: String::new(),
        sequence: 1_000_000 + top,
    };
    let request = Request::Publish(Ticket(0), Box::new(publish));
    let (_, passed) = world.server.execute(&request, 1, world.now);
    passed.expect("it is published").1
}

fn fresh() -> Epoch {
    Epoch::parse("freshone").unwrap()
}

fn arrives(world: &mut World, message: Message) {
    hears(world, Happening::Message(LONG.into(), message));
}

/// One subscriber that has got a publication, and what it has seen is looked at.
fn begun() -> (World, Link) {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    publish(&mut world, LONG, "1");
    world.settle(Duration::ZERO);
    knows_of_one(&mut world, link);
    (world, link)
}

/// The channel is listened to, and the question for its history is with the server.
fn asks_for_history(world: &mut World) {
    world.nodes[0].turn(0);
    while asked(world, "history") == 0 {
        let node = &mut world.nodes[0];
        node.between.link.take(&mut world.server);
        if let Some(push) = node.between.link.pushed() {
            node.arrive(push);
        }
        node.step();
    }
    world.nodes[0].between.link.take(&mut world.server);
}

/// The server does what it was asked for next; the answer is under way.
fn does_it(world: &mut World) {
    let World { nodes, server, now, .. } = world;
    assert!(nodes[0].between.link.execute(server, *now).is_none(), "a question");
}

/// There is a connection for messages again, and the channel is acknowledged; what is asked then
/// waits.
fn heard_again(world: &mut World) {
    world.connect_subs(0);
    while world.nodes[0].step() {}
    world.nodes[0].turn(0);
    let node = &mut world.nodes[0];
    let acknowledged = loop {
        node.between.link.take(&mut world.server);
        if let Some(push) = node.between.link.pushed() {
            break push;
        }
    };
    node.arrive(acknowledged);
    while node.step() {}
}

fn is_told(world: &mut World, link: Link) {
    let seen = seen(world, link);
    assert!(matches!(seen[..], [Seen::Unsubscribed { code: 2500, .. }]), "{seen:?}");
}

fn forks(world: &World) -> u64 {
    world.nodes[0].hubs[0].mirror_counters().unwrap().forks
}

/// The same as `an_answer_from_before_the_connection_was_lost_is_not_the_last_word`, but that the
/// channel is acknowledged first: then nothing else asks again.
#[test]
fn an_answer_that_comes_after_the_next_acknowledgement_is_older() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    asks_for_history(&mut world);
    does_it(&mut world);
    world.drop_subs(0);
    elsewhere(&mut world, "1");
    heard_again(&mut world);
    world.settle(CHECK / 8);
    knows_of_one(&mut world, link);
}

/// Nobody comes back for so long that the channel is given up; then somebody does.
#[test]
fn an_answer_to_an_earlier_question_is_not_taken_for_a_later_one() {
    let mut world = world();
    let first = subscribe(&mut world, 1, LONG, None);
    asks_for_history(&mut world);
    does_it(&mut world);
    world.nodes[0].at(0, |hub, out| {
        let key = hub.users().of("ann").map(|(key, _)| key).next().expect("connected");
        hub.disconnect(out, key);
    });
    world.nodes[0].between.inbox.remove(&first).expect("connected");
    world.pass(Duration::from_millis(2500));
    world.nodes[0].turn(0);
    while world.server.subscriptions() > 0 {
        world.nodes[0].between.link.take(&mut world.server);
    }
    elsewhere(&mut world, "1");
    let second = subscribe(&mut world, 2, LONG, None);
    world.nodes[0].turn(0);
    let World { nodes, server, .. } = &mut world;
    while server.subscriptions() == 0 {
        nodes[0].between.link.take(server);
    }
    let acknowledged = nodes[0].between.link.pushed().expect("acknowledged");
    nodes[0].arrive(acknowledged);
    while nodes[0].step() {}
    let answer = nodes[0].between.link.reply();
    nodes[0].say(answer);
    world.settle(CHECK / 8);
    knows_of_one(&mut world, second);
}

/// A server that lost its tail without anybody noticing, and gave its offsets again.
#[test]
fn a_gap_shows_another_publication_at_our_top() {
    let (mut world, link) = begun();
    let saved = world.server.state.clone();
    publish(&mut world, LONG, "2");
    world.settle(Duration::ZERO);
    seen(&mut world, link);
    world.server.state = saved;
    for text in ["another", "3"] {
        elsewhere(&mut world, text);
    }
    let late = elsewhere(&mut world, "4");
    arrives(&mut world, late);
    world.settle(CHECK / 8);
    assert_eq!(forks(&world), 1);
    is_told(&mut world, link);
}

#[test]
fn what_cannot_be_had_any_more_is_told_at_once() {
    let (mut world, link) = begun();
    elsewhere(&mut world, "2");
    world.server.execute(&Request::HistoryRemove(Ticket(0), LONG.into()), 1, world.now);
    hears(&mut world, Happening::Suspect(Scope::All));
    // Before the round that compares all subscribers with their channels comes by.
    world.settle(Duration::ZERO);
    is_told(&mut world, link);
    assert_eq!(forks(&world), 0);
}

/// Another node has ended the epoch, and this one has not heard of it.
#[test]
fn a_position_of_a_newer_epoch_is_recovered_by_the_server() {
    let (mut world, _) = begun();
    let (old, _) = world.server.position(LONG, world.now).unwrap();
    let meta_ttl = stream(LONG).unwrap().meta_ttl;
    let renew = Renew { channel: LONG.into(), old, fresh: fresh(), meta_ttl };
    world.server.execute(&Request::Renew(Ticket(0), Box::new(renew)), 1, world.now);
    let link = subscribe(&mut world, 2, LONG, Some((1, fresh().as_str())));
    world.settle(Duration::ZERO);
    assert!(answer(&mut world, link).expect("answered").expect("subscribed").recovered);
}

#[test]
fn a_history_is_not_told_from_memory_while_something_is_missing() {
    let (mut world, _) = begun();
    elsewhere(&mut world, "2");
    let third = elsewhere(&mut world, "3");
    arrives(&mut world, third);
    let read = Read { limit: -1, max: 300, ..Read::default() };
    let question = Question::History { stream: stream(LONG).unwrap(), read };
    let asked = world.nodes[0].ask(0, LONG, question);
    world.settle(Duration::ZERO);
    let Some(Ok(Answer::History(history))) = asked.get() else { panic!("{asked:?}") };
    assert_eq!(history.publications.len(), 3);
}

#[test]
fn a_key_publishes_once_in_each_channel() {
    let mut world = world();
    let ask = |world: &mut World, channel: &str| {
        let publish = Publish {
            data: Bytes::from_static(b"1"),
            stream: stream(channel),
            idempotency_key: "key".to_owned(),
            ..Publish::default()
        };
        world.nodes[0].ask(0, channel, Question::Publish(publish))
    };
    let all = [LONG, LONG, "long:2", PLAIN, PLAIN].map(|channel| ask(&mut world, channel));
    world.settle(Duration::ZERO);
    let suppressed = all.map(|asked| match asked.get() {
        Some(Ok(Answer::Published { suppressed, .. })) => suppressed,
        other => panic!("{other:?}"),
    });
    assert_eq!(suppressed, [false, true, false, false, true]);
    assert_eq!(world.server.position(LONG, world.now).map(|(_, top)| top), Some(1));
}

/// A subscriber that needs no position, and what it misses of the first one comes too late.
#[test]
fn who_needs_no_position_gets_nothing_out_of_order() {
    let mut world = world();
    let (link, key) = connect(&mut world, 1);
    let plain = Subscribe { ticket: 1, ..Subscribe::default() };
    world.nodes[0].at(0, |hub, out| hub.subscribe(out, key, LONG, plain)).expect("it may");
    world.settle(Duration::ZERO);
    let late = elsewhere(&mut world, "1");
    subscribe(&mut world, 2, LONG, None);
    world.settle(Duration::ZERO);
    publish(&mut world, LONG, "2");
    world.settle(Duration::ZERO);
    assert!(matches!(seen(&mut world, link)[..], [Seen::Subscribed { .. }, Seen::Frame(_)]));
    arrives(&mut world, late);
    assert!(seen(&mut world, link).is_empty(), "it is older than the last one");
}

/// It is passed on before the position is known, and is in the answer that makes it known.
#[test]
fn what_comes_while_the_first_position_is_asked_for_comes_once() {
    let mut world = world();
    let (link, key) = connect(&mut world, 1);
    let plain = Subscribe { ticket: 1, ..Subscribe::default() };
    world.nodes[0].at(0, |hub, out| hub.subscribe(out, key, LONG, plain)).expect("it may");
    world.settle(Duration::ZERO);
    let positioned = subscribe(&mut world, 2, LONG, None);
    let message = elsewhere(&mut world, "1");
    arrives(&mut world, message);
    world.settle(Duration::ZERO);
    assert!(matches!(seen(&mut world, link)[..], [Seen::Subscribed { .. }, Seen::Frame(_)]));
    knows_of_one(&mut world, positioned);
}

/// The connection is lost just when the epoch has to end.
#[test]
fn another_publication_at_a_known_offset_ends_the_epoch_as_soon_as_may_be() {
    let (mut world, link) = begun();
    let before = world.server.position(LONG, world.now).unwrap().0;
    let other = message(&mut world, 1, "another");
    world.drop_commands(0);
    hears(&mut world, other);
    while world.work(0) || world.nodes[0].step() {}
    assert_eq!(forks(&world), 1);
    world.settle(CHECK / 8);
    assert_ne!(world.server.position(LONG, world.now).unwrap().0, before);
    is_told(&mut world, link);
}

/// One asks for more than it may have, so that the answer has nothing for the other.
#[test]
fn the_newest_is_told_beside_a_recovery_of_too_much() {
    let mut world = world();
    (0..20).for_each(|number| _ = publish(&mut world, LONG, &number.to_string()));
    world.settle(Duration::ZERO);
    let epoch = world.server.position(LONG, world.now).unwrap().0;
    let mut recover = |number: u64, mode, limit, epoch: &str| {
        let (link, key) = connect(&mut world, number);
        let since = Position { offset: 0, epoch: epoch.to_owned() };
        let subscribe = Subscribe {
            ticket: number,
            wants: Wants { positioned: true, recoverable: true, ..Wants::default() },
            stream: stream(LONG),
            recover: Some(Recover { since, mode, limit, max_bytes: 0, or_reject: false }),
            ..Subscribe::default()
        };
        world.nodes[0].at(0, |hub, out| hub.subscribe(out, key, LONG, subscribe)).expect("it may");
        link
    };
    let much = recover(1, RecoverMode::Stream, 5, epoch.as_str());
    let newest = recover(2, RecoverMode::Cache, 1, "");
    world.settle(Duration::ZERO);
    let result = answer(&mut world, much).expect("answered").expect("subscribed");
    assert!(!result.recovered, "{result:?}");
    let result = answer(&mut world, newest).expect("answered").expect("subscribed");
    assert!(result.recovered && result.publications.len() == 1, "{result:?}");
    assert_eq!(result.publications[0].offset, 20);
}

/// Its tail is another's, and it goes on from there: what it says next leads on by its offset only.
#[test]
fn nothing_of_another_server_is_passed_on_before_it_is_verified() {
    let (mut world, link) = begun();
    let saved = world.server.state.clone();
    publish(&mut world, LONG, "2");
    world.settle(Duration::ZERO);
    seen(&mut world, link);
    world.fail_over(saved);
    elsewhere(&mut world, "another");
    world.connect_commands(0);
    heard_again(&mut world);
    let next = elsewhere(&mut world, "3");
    arrives(&mut world, next);
    assert!(seen(&mut world, link).is_empty());
    world.settle(CHECK / 8);
    assert_eq!(forks(&world), 1);
    is_told(&mut world, link);
}

/// It was asked of the server before, without looking at what is at the top, and is answered by the
/// next one.
#[test]
fn a_question_from_before_verifies_nothing() {
    let (mut world, link) = begun();
    let saved = world.server.state.clone();
    publish(&mut world, LONG, "2");
    world.settle(Duration::ZERO);
    seen(&mut world, link);
    hears(&mut world, Happening::Suspect(Scope::All));
    let tops = asked(&world, "tops");
    world.nodes[0].turn(0);
    assert_eq!(asked(&world, "tops"), tops + 1);
    world.nodes[0].between.link.take(&mut world.server);
    world.fail_over(saved);
    elsewhere(&mut world, "another");
    world.connect_commands(0);
    world.connect_subs(0);
    while world.nodes[0].step() {}
    world.nodes[0].turn(0);
    does_it(&mut world);
    let answer = world.nodes[0].between.link.reply();
    world.nodes[0].say(answer);
    while world.nodes[0].step() {}
    world.settle(CHECK / 8);
    assert_eq!(forks(&world), 1);
    is_told(&mut world, link);
}

#[test]
fn who_goes_is_gone_at_once() {
    let mut world = world();
    let both = [1, 2].map(|number| {
        let (link, key) = connect(&mut world, number);
        let subscribe = Subscribe { ticket: number, present: true, ..Subscribe::default() };
        world.nodes[0].at(0, |hub, out| hub.subscribe(out, key, PLAIN, subscribe)).expect("it may");
        (link, key)
    });
    world.settle(Duration::ZERO);
    assert_eq!(world.server.members(PLAIN, world.now).len(), 2);
    let (link, key) = both[0];
    world.nodes[0].at(0, |hub, out| hub.disconnect(out, key));
    world.nodes[0].between.inbox.remove(&link).expect("connected");
    world.settle(Duration::ZERO);
    assert_eq!(world.server.members(PLAIN, world.now).len(), 1);
}

/// With `client.channel_position_max_time_lag`.
#[test]
fn a_publication_that_comes_late_is_a_reason_to_ask() {
    let lag = Duration::from_secs(1);
    let limits = HomeLimits { position_check: CHECK, position_lag: lag, ..HomeLimits::default() };
    let broker = Limits { presence_ttl: PRESENCE_TTL, ..Limits::default() };
    let node = Node::new(0, 1, 1, limits, broker);
    let faults = Faults { loses: 0, doubles: 0, swaps: 0 };
    let mut world = World::new(Rng::new(5), Server::new(PRESENCE_TTL), vec![node], faults);
    world.settle(Duration::ZERO);
    subscribe(&mut world, 1, LONG, None);
    world.settle(Duration::ZERO);
    let tops = asked(&world, "tops");
    for (late, more) in [(Duration::from_millis(500), 0), (Duration::from_millis(1500), 1)] {
        let Message::Published { epoch, offset, data } = elsewhere(&mut world, "x") else {
            panic!("no publication")
        };
        let time = (world.now - late).as_millis() as i64;
        let data = Publication { time, ..Publication::decode(data).unwrap() };
        let data = data.encode_to_vec().into();
        arrives(&mut world, Message::Published { epoch, offset, data });
        world.nodes[0].turn(0);
        assert_eq!(asked(&world, "tops"), tops + more, "{late:?} late");
    }
}

/// Another run of the server with `failover = "renew"`: nothing of before is believed, although
/// nothing says that it differs.
#[test]
fn histories_of_a_server_that_counts_as_lost_get_a_new_epoch() {
    let mut world = world();
    let link = subscribe(&mut world, 1, LONG, None);
    publish(&mut world, LONG, "1");
    world.settle(Duration::ZERO);
    seen(&mut world, link);
    let before = world.server.position(LONG, world.now).unwrap();
    hears(&mut world, Happening::Deaf(Scope::All));
    hears(&mut world, Happening::Back(Scope::All, Life::Lost));
    world.settle(CHECK / 8);
    let after = world.server.position(LONG, world.now).unwrap();
    assert!(after.0 != before.0 && after.1 == before.1, "{before:?} {after:?}");
    assert!(matches!(seen(&mut world, link)[..], [Seen::Unsubscribed { code: 2500, .. }]));
}

/// A channel to which somebody publishes now and then keeps its history.
#[test]
fn a_history_lives_as_long_as_it_is_published_to() {
    let mut world = world();
    let link = subscribe(&mut world, 1, SHORT, None);
    world.settle(Duration::ZERO);
    for number in 0..10 {
        publish(&mut world, SHORT, &number.to_string());
        world.settle(Duration::from_secs(1));
        let history = Question::History {
            stream: stream(SHORT).unwrap(),
            read: Read { limit: -1, ..Read::default() },
        };
        let told = world.server.kept(SHORT, world.now);
        assert_eq!(told, (number + 1).min(3), "after {number} more");
        let asked = world.nodes[0].ask(0, SHORT, history);
        world.settle(Duration::ZERO);
        assert!(asked.get().expect("answered").is_ok());
    }
    assert_eq!(seen(&mut world, link).len(), 11);
}

/// Nobody publishes for many times as long as a position lives by itself.
#[test]
fn a_position_lives_as_long_as_somebody_listens() {
    let mut world = world();
    let link = subscribe(&mut world, 1, SHORT, None);
    publish(&mut world, SHORT, "1");
    world.settle(Duration::ZERO);
    seen(&mut world, link);
    let before = world.server.position(SHORT, world.now).expect("it has a position");
    world.settle(10 * stream(SHORT).unwrap().meta_ttl);
    assert_eq!(world.server.position(SHORT, world.now), Some(before));
    assert!(seen(&mut world, link).is_empty(), "nobody is told anything");
}

#[test]
fn a_queue_that_is_full_is_told_and_not_waited_for() {
    let limits = HomeLimits::default();
    let mut node = Node::new(0, 1, 1, limits, Limits { requests: 1, ..Limits::default() });
    let refused = node.at(0, |_, out| {
        let leave = || Request::Leave(PLAIN.into(), Bytes::new());
        (out.broker(leave()).is_ok(), out.broker(leave()).is_ok())
    });
    assert_eq!(refused, (true, false));
    let asked = node.ask(0, PLAIN, Question::Presence);
    assert_eq!(asked.get(), Some(Err(Error::TOO_MANY_REQUESTS)));
}

/// Nodes of Centrifugo tell nobody: the next look at the position finds how many are left.
#[test]
fn a_removal_that_nobody_told_is_seen_when_the_position_is_checked() {
    for later in [0, 2] {
        let mut world = world();
        subscribe(&mut world, 1, LONG, None);
        world.settle(Duration::ZERO);
        (1..=3).for_each(|n| _ = publish(&mut world, LONG, &n.to_string()));
        world.settle(Duration::ZERO);
        world.server.execute(&Request::HistoryRemove(Ticket(0), LONG.into()), 1, world.now);
        (0..later).for_each(|n| _ = publish(&mut world, LONG, &format!("later {n}")));
        world.settle(2 * CHECK);
        let question = Question::History {
            stream: stream(LONG).unwrap(),
            read: Read { limit: -1, max: 300, ..Read::default() },
        };
        let asked = world.nodes[0].ask(0, LONG, question);
        world.settle(Duration::ZERO);
        let Some(Ok(Answer::History(history))) = asked.get() else { panic!("no history") };
        let offsets: Vec<_> = history.publications.iter().map(|it| it.offset).collect();
        assert_eq!((offsets, history.offset), ((4..4 + later).collect(), 3 + later));
    }
}
