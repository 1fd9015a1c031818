//! Single rules of the hub, in the same world: what the model does not draw.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use ringhold::gateway::delta;
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::hub::Subscribe;
use ringhold::gateway::hub_port::{ClientKey, Link};
use ringhold::gateway::letters::{
    Action, Answer, Ask, Asker, ClientId, CoreInfo, Gather, Letter, Publish, Question, Recover,
    RecoverMode, Refresh, Reply, SeatRule, Survey, Surveyed, UserOrder,
};
use ringhold::gateway::local::Wants;
use ringhold::gateway::stream::{Position, Read, StreamOptions};
use ringhold::gateway::wire::messages::SubscribeResult;
use ringhold::gateway::wire::{Disconnect, Encoding, Error};

use super::world::{Seen, World};

const STREAM: StreamOptions =
    StreamOptions { size: 10, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(600) };

fn world(cores: usize) -> World {
    World::new(cores, 11, HomeLimits::default())
}

fn connect(world: &mut World, core: usize, link: u64, user: &str, encoding: Encoding) -> ClientKey {
    world.shared.inbox.insert(Link(link), Vec::new());
    let id = ClientId::new(link.into());
    world.at(core, |hub, _| hub.connect(Link(link), id, user, encoding))
}

fn seen(world: &mut World, link: u64) -> Vec<Seen> {
    std::mem::take(world.shared.inbox.get_mut(&Link(link)).unwrap())
}

/// Frames as text.
fn pushes(world: &mut World, link: u64) -> Vec<String> {
    let frames = seen(world, link).into_iter().map(|seen| match seen {
        Seen::Frame(frame) => String::from_utf8(frame).unwrap(),
        other => panic!("{other:?}"),
    });
    frames.collect()
}

fn wants(positioned: bool) -> Wants {
    Wants { positioned, recoverable: positioned, ..Wants::default() }
}

fn subscribe(
    world: &mut World,
    core: usize,
    (key, link): (ClientKey, u64),
    channel: &str,
    subscribe: Subscribe,
) -> Result<SubscribeResult, Error> {
    world.at(core, |hub, out| hub.subscribe(out, key, channel, subscribe))?;
    world.settle();
    let mut seen = seen(world, link);
    match seen.remove(0) {
        Seen::Subscribed { result, .. } => {
            world.shared.inbox.insert(Link(link), seen);
            result
        }
        other => panic!("{other:?}"),
    }
}

fn publish(world: &mut World, core: usize, channel: &str, publish: Publish) {
    world.ask(core, channel, Question::Publish(publish));
}

fn data(data: &'static str) -> Publish {
    Publish { data: Bytes::from_static(data.as_bytes()), ..Publish::default() }
}

fn kept(text: &'static str) -> Publish {
    Publish { stream: Some(STREAM), ..data(text) }
}

/// A core that is not the channel's home.
fn elsewhere(world: &World, channel: &str) -> usize {
    (world.home(channel) + 1) % world.hubs.len()
}

#[test]
fn the_compact_id_is_told_and_shared() {
    let mut world = world(2);
    for (core, link) in [(0, 1), (1, 2)] {
        let key = connect(&mut world, core, link, "ann", Encoding::Json);
        let compact = Wants { compact: true, ..Wants::default() };
        let request = Subscribe { wants: compact, ..Subscribe::default() };
        let result = subscribe(&mut world, core, (key, link), "news", request).unwrap();
        assert!(result.id > 0);
        let named = subscribe(&mut world, core, (key, link), "named", Subscribe::default());
        assert_eq!(named.unwrap().id, 0);
        publish(&mut world, 0, "news", data("1"));
        world.settle();
        let expected = format!(r#"{{"push":{{"id":{},"pub":{{"data":1}}}}}}"#, result.id);
        assert_eq!(pushes(&mut world, link), [expected]);
    }
}

#[test]
fn payloads_that_are_not_json_close_json_clients_only() {
    let mut world = world(2);
    for (link, encoding) in [(1, Encoding::Json), (2, Encoding::Protobuf)] {
        let core = elsewhere(&world, "news");
        let key = connect(&mut world, core, link, "ann", encoding);
        subscribe(&mut world, core, (key, link), "news", Subscribe::default()).unwrap();
    }
    publish(&mut world, 0, "news", data("no json"));
    world.settle();
    assert!(matches!(seen(&mut world, 1)[..], [Seen::Close(3506)]));
    assert!(matches!(seen(&mut world, 2)[..], [Seen::Frame(_)]));
    // Recovered ones likewise.
    publish(&mut world, 0, "kept", kept("no json"));
    world.settle();
    let core = world.home("kept");
    let key = connect(&mut world, core, 3, "ann", Encoding::Json);
    let since = Position { offset: 0, epoch: String::new() };
    let recover =
        Recover { since, mode: RecoverMode::Stream, limit: 0, max_bytes: 0, or_reject: false };
    let request = Subscribe {
        wants: wants(true),
        stream: Some(STREAM),
        recover: Some(recover),
        ..Subscribe::default()
    };
    world.at(core, |hub, out| hub.subscribe(out, key, "kept", request)).unwrap();
    assert!(matches!(seen(&mut world, 3)[..], [Seen::Close(3506)]));
}

#[test]
fn a_cache_comes_with_the_subscription() {
    let mut world = world(2);
    for text in ["1", "2"] {
        publish(&mut world, 0, "state", kept(text));
    }
    world.settle();
    let core = elsewhere(&world, "state");
    let key = connect(&mut world, core, 1, "ann", Encoding::Json);
    let since = Position { offset: 0, epoch: String::new() };
    let recover =
        Recover { since, mode: RecoverMode::Cache, limit: 0, max_bytes: 0, or_reject: false };
    let request = Subscribe {
        wants: wants(true),
        stream: Some(STREAM),
        recover: Some(recover),
        ..Subscribe::default()
    };
    let result = subscribe(&mut world, core, (key, 1), "state", request).unwrap();
    assert!(result.recovered && result.was_recovering && result.positioned && result.recoverable);
    assert_eq!((result.offset, result.publications.len()), (0, 1));
    assert_eq!(
        (result.publications[0].offset, result.publications[0].data.as_ref()),
        (2, &b"2"[..])
    );
    publish(&mut world, 0, "state", kept("3"));
    world.settle();
    assert_eq!(pushes(&mut world, 1).len(), 1, "it goes on from the top");
}

const LONG: [&str; 3] = [
    r#"{"n":1,"text":"lorem ipsum dolor sit amet, consectetur adipisici elit"}"#,
    r#"{"n":2,"text":"lorem ipsum dolor sit amet, consectetur adipisici elit"}"#,
    r#"{"n":3,"text":"lorem ipsum dolor sit amet, consectetur adipisici elit"}"#,
];

fn recovering_delta() -> Subscribe {
    let since = Position { offset: 0, epoch: String::new() };
    let recover =
        Recover { since, mode: RecoverMode::Stream, limit: 0, max_bytes: 0, or_reject: false };
    Subscribe {
        wants: Wants { delta: true, ..wants(true) },
        stream: Some(STREAM),
        recover: Some(recover),
        ..Subscribe::default()
    }
}

#[test]
fn the_first_publication_after_a_recovery_may_be_a_patch() {
    let mut world = world(2);
    let delta = |text| Publish { delta: true, ..kept(text) };
    publish(&mut world, 0, "news", delta(LONG[0]));
    world.settle();
    let core = elsewhere(&world, "news");
    let key = connect(&mut world, core, 1, "ann", Encoding::Json);
    let result = subscribe(&mut world, core, (key, 1), "news", recovering_delta()).unwrap();
    assert_eq!(result.publications.len(), 1);
    publish(&mut world, 0, "news", delta(LONG[1]));
    world.settle();
    assert!(pushes(&mut world, 1)[0].contains(r#""delta":true"#));
}

/// What is recovered last is not what the others have last.
#[test]
fn a_publication_beside_the_stream_is_no_base_for_who_recovers() {
    let mut world = world(2);
    let core = world.home("news");
    let encoding = Encoding::Json;
    let (old, new) = (
        connect(&mut world, core, 1, "ann", encoding),
        connect(&mut world, core, 2, "ann", encoding),
    );
    publish(&mut world, core, "news", kept(LONG[0]));
    subscribe(&mut world, core, (old, 1), "news", recovering_delta()).unwrap();
    publish(&mut world, core, "news", Publish { delta: true, ..data(LONG[1]) });
    pushes(&mut world, 1);
    subscribe(&mut world, core, (new, 2), "news", recovering_delta()).unwrap();
    publish(&mut world, core, "news", Publish { delta: true, ..kept(LONG[2]) });
    let base = LONG[1].as_bytes();
    let push: serde_json::Value = serde_json::from_str(&pushes(&mut world, 1)[0]).unwrap();
    let patch = push["push"]["pub"]["data"].as_str().unwrap();
    assert_eq!(delta::apply(base, patch.as_bytes(), 1 << 10).unwrap(), LONG[2].as_bytes());
    let push: serde_json::Value = serde_json::from_str(&pushes(&mut world, 2)[0]).unwrap();
    assert_eq!(push["push"]["pub"]["data"], LONG[2]);
}

/// Who publishes faster than a core delivers waits for that core, and nothing is lost.
#[test]
fn a_publication_waits_for_a_core_that_is_behind() {
    let mut world = world(3);
    let home = world.home("news");
    let core = elsewhere(&world, "news");
    for (core, link) in [(home, 1), (core, 2)] {
        let key = connect(&mut world, core, link, "ann", Encoding::Json);
        subscribe(&mut world, core, (key, link), "news", Subscribe::default()).unwrap();
    }
    let ask = |world: &mut World, ticket| {
        let asker = Asker::Client { core: home as u16, link: Link(1), ticket };
        let ask = Ask { channel: "news".into(), question: Question::Publish(data("1")), asker };
        world.at(home, |hub, out| hub.ask(out, ask)).unwrap();
    };
    world.shared.behind = vec![core];
    ask(&mut world, 1);
    assert_eq!(seen(&mut world, 1).len(), 2, "that it is behind is seen with the first");
    ask(&mut world, 2);
    for _ in 0..20 {
        assert!(world.step_as_it_is());
        assert!(seen(&mut world, 1).is_empty(), "not published, not answered");
    }
    // A core without subscribers keeps nobody waiting.
    world.shared.behind = vec![(0..3).find(|other| ![home, core].contains(other)).unwrap()];
    while world.step_as_it_is() {}
    let answered = |seen: &Seen| matches!(seen, Seen::Answered { ticket: 2, .. });
    let here = seen(&mut world, 1);
    assert!(here.len() == 2 && here.iter().any(answered), "{here:?}");
    assert_eq!(pushes(&mut world, 2).len(), 2);
}

/// Publications of one letter, numbered from 1, and the order in which they were answered.
fn many(channel: &str, count: usize) -> (Letter, Arc<Mutex<Vec<usize>>>) {
    let answered = Arc::new(Mutex::new(Vec::new()));
    let ask = |n: usize| {
        let put = answered.clone();
        let reply = Reply::new(move |answer: Result<Answer, Error>| {
            assert!(answer.is_ok(), "{answer:?}");
            put.lock().unwrap().push(n);
        });
        let publish = Publish { data: n.to_string().into(), ..Publish::default() };
        let question = Question::Publish(publish);
        Ask { channel: channel.into(), question, asker: Asker::Control(reply) }
    };
    (Letter::Asks((1..=count).map(ask).collect()), answered)
}

/// Many publications of one request keep their order where they are more than one turn does, and
/// through a core that is not their home.
#[test]
fn publications_of_one_letter_keep_their_order_over_turns() {
    let mut world = world(3);
    let (home, core) = (world.home("news"), elsewhere(&world, "news"));
    for (core, link) in [(home, 1), (core, 2)] {
        let key = connect(&mut world, core, link, "ann", Encoding::Json);
        subscribe(&mut world, core, (key, link), "news", Subscribe::default()).unwrap();
    }
    let (letter, answered) = many("news", 200);
    world.at(core, |hub, out| hub.letter(out, letter));
    assert!(world.step_as_it_is());
    let first = answered.lock().unwrap().len();
    assert!((1..200).contains(&first), "{first} in one turn: others would wait for all of them");
    while world.step_as_it_is() {}
    assert_eq!(*answered.lock().unwrap(), Vec::from_iter(1..=200));
    let expected: Vec<_> = (1..=200)
        .map(|n| format!(r#"{{"push":{{"channel":"news","pub":{{"data":{n}}}}}}}"#))
        .collect();
    assert!(pushes(&mut world, 1) == expected && pushes(&mut world, 2) == expected);
}

/// Where the first waits for a core that is behind, all do: none goes ahead when it has caught up.
/// That it is behind is seen when something is sent there.
#[test]
fn publications_of_one_letter_wait_together() {
    let mut world = world(3);
    let (home, core) = (world.home("news"), elsewhere(&world, "news"));
    for (core, link) in [(home, 1), (core, 2)] {
        let key = connect(&mut world, core, link, "ann", Encoding::Json);
        subscribe(&mut world, core, (key, link), "news", Subscribe::default()).unwrap();
    }
    world.shared.behind = vec![core];
    let (first, answered) = many("news", 1);
    world.at(home, |hub, out| hub.letter(out, first));
    assert_eq!(answered.lock().unwrap().len(), 1);
    let (letter, answered) = many("news", 9);
    world.at(home, |hub, out| hub.letter(out, letter));
    for _ in 0..20 {
        assert!(world.step_as_it_is());
    }
    assert_eq!(answered.lock().unwrap().len(), 0);
    world.shared.behind = Vec::new();
    while world.step_as_it_is() {}
    assert_eq!(*answered.lock().unwrap(), Vec::from_iter(1..=9));
}

/// A lost publication, with nothing after it.
#[test]
fn a_loss_is_told_without_a_further_publication() {
    for server_side in [false, true] {
        let mut world = world(2);
        let core = elsewhere(&world, "news");
        let (positioned, plain) = (
            connect(&mut world, core, 1, "ann", Encoding::Json),
            connect(&mut world, core, 2, "ann", Encoding::Json),
        );
        let request = Subscribe {
            wants: Wants { server_side, ..wants(true) },
            stream: Some(STREAM),
            ..Subscribe::default()
        };
        subscribe(&mut world, core, (positioned, 1), "news", request).unwrap();
        subscribe(&mut world, core, (plain, 2), "news", Subscribe::default()).unwrap();
        world.shared.capacity = 0;
        let home = world.home("news");
        publish(&mut world, home, "news", kept("1"));
        world.pass(Duration::ZERO);
        assert!(seen(&mut world, 1).is_empty(), "the mailbox is still full");
        world.shared.capacity = 1;
        world.pass(Duration::from_millis(5));
        let seen = seen(&mut world, 1);
        let [Seen::Unsubscribed { channel, server_side: side, code: 2500 }] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!((channel.as_str(), *side), ("news", server_side));
        assert!(world.shared.inbox[&Link(2)].is_empty(), "who has no position was promised none");
        assert_eq!(world.hubs[home].counters().home.deliveries_refused, 1);
        assert_eq!(world.hubs[core].counters().insufficient, 1);
        assert_eq!(world.hubs[core].gauges().subscriptions, 1);
    }
}

#[test]
fn positions_are_compared_from_time_to_time() {
    let mut world = world(2);
    let core = elsewhere(&world, "news");
    let key = connect(&mut world, core, 1, "ann", Encoding::Json);
    let request = Subscribe { wants: wants(true), stream: Some(STREAM), ..Subscribe::default() };
    subscribe(&mut world, core, (key, 1), "news", request).unwrap();
    let home = world.home("news");
    publish(&mut world, home, "news", kept("1"));
    // A letter that vanishes without anybody counting it, as no engine should let it.
    world.lose_letters();
    let mut time = Duration::ZERO;
    while seen(&mut world, 1).is_empty() {
        assert!(time <= Duration::from_secs(41), "the check is due every 40 s");
        time += Duration::from_millis(250);
        world.pass(Duration::from_millis(250));
    }
    assert_eq!(world.hubs[core].gauges().subscriptions, 0);
}

#[test]
fn clients_are_answered_on_their_core() {
    let mut world = world(3);
    for core in 0..3 {
        let link = core as u64;
        connect(&mut world, core, link, "ann", Encoding::Json);
        let ask = |question| Ask {
            channel: "news".into(),
            question,
            asker: Asker::Client { core: core as u16, link: Link(link), ticket: 5 },
        };
        let read = Read { limit: 0, ..Read::default() };
        let question = ask(Question::History { stream: STREAM, read });
        world.at(core, |hub, out| hub.ask(out, question)).unwrap();
        world.settle();
        let seen = seen(&mut world, link);
        let [Seen::Answered { ticket: 5, answer: Ok(Answer::History(history)) }] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!((history.offset, history.epoch.len()), (0, 8));
    }
}

#[test]
fn a_full_home_core_refuses_what_can_be_asked_again() {
    let mut world = world(2);
    let core = elsewhere(&world, "news");
    let key = connect(&mut world, core, 1, "ann", Encoding::Json);
    world.shared.capacity = 0;
    let refused = world.at(core, |hub, out| hub.subscribe(out, key, "news", Subscribe::default()));
    assert_eq!(refused, Err(Error::TOO_MANY_REQUESTS));
    assert_eq!(world.hubs[core].gauges().subscriptions, 0);
    assert_eq!(world.ask(core, "news", Question::Presence).take(), Some(Err(Error::INTERNAL)));
    assert_eq!(world.hubs[core].counters().letters_refused, 2);
    world.shared.capacity = 1;
    subscribe(&mut world, core, (key, 1), "news", Subscribe::default()).unwrap();
    // Withdrawals are taken always.
    world.shared.capacity = 0;
    world.at(core, |hub, out| hub.disconnect(out, key));
    world.settle();
    assert!(world.hubs.iter().all(|hub| hub.is_empty()));
}

#[test]
fn a_subscription_can_be_made_anew_before_the_first_is_answered() {
    let mut world = world(2);
    let core = elsewhere(&world, "news");
    let key = connect(&mut world, core, 1, "ann", Encoding::Json);
    for ticket in [1, 2] {
        let request = Subscribe { ticket, present: true, ..Subscribe::default() };
        world.at(core, |hub, out| hub.subscribe(out, key, "news", request)).unwrap();
        let again =
            world.at(core, |hub, out| hub.subscribe(out, key, "news", Subscribe::default()));
        assert_eq!(again, Err(Error::ALREADY_SUBSCRIBED));
        if ticket == 1 {
            assert!(world.at(core, |hub, out| hub.unsubscribe(out, key, "news")));
        }
    }
    world.settle();
    let seen = seen(&mut world, 1);
    assert!(matches!(seen[..], [Seen::Subscribed { ticket: 2, result: Ok(_), .. }]), "{seen:?}");
    let asked = world.ask(core, "news", Question::PresenceStats);
    world.settle();
    let Some(Ok(Answer::PresenceStats(stats))) = asked.take() else { panic!("no stats") };
    assert_eq!((stats.num_clients, stats.num_users), (1, 1));
}

#[test]
fn orders_reach_a_users_connections_on_all_cores() {
    let mut world = world(3);
    for (core, link, user) in [(0, 1, "ann"), (1, 2, "ann"), (2, 3, "ann"), (2, 4, "bob")] {
        connect(&mut world, core, link, user, Encoding::Json);
    }
    let counts = Arc::new(Mutex::new(None));
    let order = |client, spare, action| {
        let counts = counts.clone();
        let done = Gather::new(move |parts: Vec<usize>| {
            *counts.lock().unwrap() = Some(parts.into_iter().sum::<usize>());
        });
        Arc::new(UserOrder { user: "ann".into(), client, spare, action, done })
    };
    let disconnect = || Action::Disconnect(Disconnect::FORCE_NO_RECONNECT);
    let told = |world: &mut World| -> Vec<bool> {
        (1..=4).map(|link| !seen(world, link).is_empty()).collect()
    };

    let all = order(None, vec![ClientId::new(2)], disconnect());
    world.at(1, |hub, out| hub.letter(out, Letter::Order(all)));
    assert_eq!(*counts.lock().unwrap(), None, "the other cores have not acted");
    world.settle();
    assert_eq!(counts.lock().unwrap().take(), Some(2));
    assert_eq!(told(&mut world), [true, false, true, false]);

    let one = order(Some(ClientId::new(3)), Vec::new(), disconnect());
    world.at(0, |hub, out| hub.letter(out, Letter::Order(one)));
    world.settle();
    assert_eq!(counts.lock().unwrap().take(), Some(1));
    assert_eq!(told(&mut world), [false, false, true, false]);

    let refresh = order(None, Vec::new(), Action::Refresh(Refresh::default()));
    world.at(0, |hub, out| hub.letter(out, Letter::Order(refresh)));
    world.settle();
    assert_eq!(counts.lock().unwrap().take(), Some(3));
    assert!(matches!(seen(&mut world, 1)[..], [Seen::Order]));
}

#[test]
fn surveys_add_up_over_cores() {
    let mut world = world(3);
    for (core, link, user) in [(0, 1, "ann"), (1, 2, "ann"), (2, 3, "bob")] {
        let key = connect(&mut world, core, link, user, Encoding::Json);
        for channel in ["news:1", "news:2", "other"] {
            if link < 3 || channel == "other" {
                subscribe(&mut world, core, (key, link), channel, Subscribe::default()).unwrap();
            }
        }
    }
    // A channel with a history and no subscriber is none that anybody is in.
    publish(&mut world, 0, "news:3", kept("1"));
    let sum = Arc::new(Mutex::new(None));
    let put = sum.clone();
    let parts = Gather::new(move |parts: Vec<CoreInfo>| {
        *put.lock().unwrap() = Some(Surveyed::of(parts));
    });
    let survey = Arc::new(Survey::Info { parts });
    world.at(1, |hub, out| hub.letter(out, Letter::Survey(survey)));
    world.settle();
    let expected = Surveyed { clients: 3, users: 2, subscriptions: 7, channels: 3 };
    assert_eq!(sum.lock().unwrap().take(), Some(expected));

    let names = Arc::new(Mutex::new(Vec::new()));
    let put = names.clone();
    let parts = Gather::new(move |parts: Vec<Vec<(Arc<str>, u32)>>| {
        put.lock().unwrap().extend(parts.into_iter().flatten());
    });
    let pattern = Some(globset::Glob::new("news:*").unwrap().compile_matcher());
    let survey = Arc::new(Survey::Channels { pattern, parts });
    world.at(2, |hub, out| hub.letter(out, Letter::Survey(survey)));
    world.settle();
    let mut names = std::mem::take(&mut *names.lock().unwrap());
    names.sort();
    assert_eq!(names, [("news:1".into(), 2), ("news:2".into(), 2)]);
}

#[test]
fn one_of_two_newcomers_keeps_a_single_seat() {
    for first in [0, 1] {
        let mut world = world(3);
        let mut keys = Vec::new();
        for core in 0..2 {
            keys.push(connect(&mut world, core, core as u64, "ann", Encoding::Json));
        }
        for core in [first, 1 - first] {
            let key = keys[core];
            world.at(core, |hub, out| hub.enter(out, key, 9, SeatRule::Single)).unwrap();
        }
        world.settle();
        let closed: Vec<bool> = (0..2)
            .map(|link| seen(&mut world, link).iter().any(|it| matches!(it, Seen::Close(3504))))
            .collect();
        assert_eq!(closed.iter().filter(|closed| **closed).count(), 1);
        for (core, key) in keys.into_iter().enumerate() {
            world.at(core, |hub, out| hub.disconnect(out, key));
        }
        world.settle();
        assert!(world.hubs.iter().all(|hub| hub.is_empty()));
    }
}

#[test]
fn a_limit_of_connections_holds_over_cores_and_frees_seats() {
    let mut world = world(3);
    let enter = |world: &mut World, core: usize, link: u64| {
        let key = connect(world, core, link, "ann", Encoding::Json);
        world.at(core, |hub, out| hub.enter(out, key, link, SeatRule::Limit(2))).unwrap();
        world.settle();
        match seen(world, link)[..] {
            [Seen::Entered { ticket }] if ticket == link => Some((core, key)),
            [Seen::Close(3504)] => None,
            ref other => panic!("{other:?}"),
        }
    };
    let first = enter(&mut world, 0, 1);
    assert!(first.is_some() && enter(&mut world, 1, 2).is_some());
    assert!(enter(&mut world, 2, 3).is_none());
    let (core, key) = first.unwrap();
    world.at(core, |hub, out| hub.disconnect(out, key));
    world.settle();
    assert!(enter(&mut world, 2, 4).is_some());
}

#[test]
fn questions_that_a_dead_core_had_are_answered() {
    let mut world = world(2);
    let core = elsewhere(&world, "news");
    let answer = Arc::new(Mutex::new(None));
    let put = answer.clone();
    let reply = Reply::new(move |answer| *put.lock().unwrap() = Some(answer));
    let ask =
        Ask { channel: "news".into(), question: Question::Presence, asker: Asker::Control(reply) };
    world.at(core, |hub, out| hub.ask(out, ask)).unwrap();
    world.lose_letters();
    assert_eq!(*answer.lock().unwrap(), Some(Err(Error::INTERNAL)));
}

#[test]
fn removed_history_keeps_its_position() {
    let mut world = world(1);
    for text in ["1", "2"] {
        publish(&mut world, 0, "news", kept(text));
    }
    assert_eq!(world.ask(0, "news", Question::HistoryRemove).take(), Some(Ok(Answer::Done)));
    let read = Read { limit: -1, ..Read::default() };
    let asked = world.ask(0, "news", Question::History { stream: STREAM, read });
    let Some(Ok(Answer::History(history))) = asked.take() else { panic!("no history") };
    assert_eq!((history.offset, history.publications.len()), (2, 0));
}
