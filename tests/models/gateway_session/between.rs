//! What concerns several cores: one that has no room, and what comes at an awkward moment.

use std::sync::Arc;
use std::time::Duration;

use ringhold::gateway::letters::{Action, Letter, ServerSubscribe};
use ringhold::gateway::wire::Unsubscribe;
use serde_json::json;

use super::site::{ENGINE, PATH, Peer, Site, order_of, token};

/// Four letters fill a core's mailbox, and two make it crowded.
const NARROW: &str = "mailbox = 4\n[channel.without_namespace]\nhistory_size = 10\n\
    history_ttl = \"1h\"\nallow_history_for_client = true\n\
    [client]\nconcurrency = 5\nping_interval = \"0s\"\n\
    [rpc.proxy]\nendpoint = \"http://backend/rpc\"\n\
    [rpc.without_namespace]\nproxy_enabled = true\n";

/// Two cores with narrow mailboxes, a channel of the first, and clients of the second.
fn narrow(clients: usize) -> (Site, String, Vec<Peer>) {
    let mut site = Site::with_cores(2, &format!("{ENGINE}{NARROW}"));
    let channel = site.channel_of(0, 0);
    let peers = (0..clients).map(|n| site.connected_on(1, &format!("{n}"))).collect();
    (site, channel, peers)
}

/// Asks for a channel's history without waiting for it.
fn ask(peer: &Peer, id: u64, channel: &str) {
    peer.say(&[json!({"id": id, "history": {"channel": channel}})]);
}

fn answered(peers: &mut [Peer], id: u64) -> usize {
    peers
        .iter_mut()
        .filter_map(|peer| peer.reply(id))
        .filter(|it| it["history"].is_object())
        .count()
}

#[test]
fn what_another_core_has_no_room_for_is_asked_a_little_later() {
    let (mut site, channel, mut peers) = narrow(5);
    peers.iter().for_each(|peer| ask(peer, 50, &channel));
    site.run();
    assert_eq!((answered(&mut peers, 50), site.stats().counters.commands_delayed), (4, 1));
    site.advance(Duration::from_millis(20));
    assert_eq!((answered(&mut peers, 50), site.stats().counters.commands_delayed), (1, 1));
    // Nothing of that is left: the next ones go their way.
    for id in 51..60 {
        ask(&peers[4], id, &channel);
        site.run();
        assert_eq!(answered(&mut peers, id), 1);
    }
    peers.into_iter().for_each(|peer| peer.leave(&mut site));
    site.empty();
}

#[test]
fn who_has_an_answer_to_come_waits_for_others_where_a_core_is_crowded() {
    let (mut site, channel, mut peers) = narrow(3);
    peers[2].say(&[json!({"id": 40, "rpc": {"method": "m"}})]);
    site.run();
    assert!(site.try_asked().is_some());
    peers.iter().for_each(|peer| ask(peer, 50, &channel));
    site.run();
    assert_eq!((answered(&mut peers, 50), site.stats().counters.commands_delayed), (2, 1));
    site.advance(Duration::from_millis(20));
    assert_eq!(answered(&mut peers, 50), 1);
    // Its own questions crowd it as well.
    let many = [51, 52, 53].map(|id| json!({"id": id, "history": {"channel": channel}}));
    peers[0].say(&many);
    site.run();
    assert!([51, 52, 53].into_iter().all(|id| answered(&mut peers, id) == 1));
    assert!(site.stats().counters.commands_delayed >= 2);
}

#[test]
fn a_connect_command_for_which_there_is_no_room_is_answered_and_nothing_is_left_of_it() {
    // A seat has to be had first, or not.
    for limit in [0, 9] {
        let mut site = Site::with_cores(
            2,
            &format!("{ENGINE}mailbox = 4\n[client]\nuser_connection_limit = {limit}\n"),
        );
        let channels: Vec<_> = (0..6).map(|n| site.channel_of(0, n)).collect();
        let subs = channels.iter().map(|name| (name.clone(), json!({})));
        let subs = serde_json::Value::Object(subs.collect());
        for user in ["1", "2", "3", "4"] {
            let mut peer = site.open(1, PATH, &[]);
            let token = token(&json!({"sub": user, "subs": subs}));
            let reply = peer.ask(&mut site, "connect", json!({"token": token}));
            assert_eq!(reply["error"]["code"], json!(111), "{limit} {user}");
            let held = site.stats().counters;
            assert_eq!((held.clients, held.subscriptions, held.channels), (0, 0, 0), "{limit}");
            // The next command closes, as after every error.
            peer.command(&mut site, "rpc", json!({}));
            assert_eq!(peer.ended(), Some(3501));
        }
        site.empty();
    }
}

#[test]
fn an_order_that_comes_while_a_client_connects_is_done_after_the_reply() {
    let why = Unsubscribe { code: 2500, reason: "by the test".into() };
    for all in [false, true] {
        let mut site = Site::with_cores(2, "");
        let [x, y] = [0, 1].map(|n| site.channel_of(1, n));
        let mut subs = json!({});
        [&x, &y].into_iter().for_each(|name| subs[name] = json!({}));
        let mut peer = site.open(0, PATH, &[]);
        let token = token(&json!({"sub": "42", "subs": subs}));
        peer.say(&[json!({"id": 1, "connect": {"token": token}})]);
        let channel = (!all).then(|| x.as_str().into());
        site.order_behind("42", Action::Unsubscribe { channel, why: why.clone() }, &x);
        site.run();
        let reply = peer.reply(1).expect("a reply");
        let granted = reply["connect"]["subs"].as_object().expect("subscriptions").len();
        let end = json!({"code": 2500, "reason": "by the test"});
        let mut pushes = peer.pushes();
        pushes.sort_by_key(|push| push["channel"] == json!(y));
        let ended = if all { vec![&x, &y] } else { vec![&x] };
        let told = ended.iter().map(|name| json!({"channel": name, "unsubscribe": end}));
        assert_eq!((granted, pushes), (2, told.collect()));
        assert_eq!(site.stats().counters.subscriptions, 2 - ended.len() as u64);
    }
}

#[test]
fn orders_that_come_while_a_client_connects_are_done_in_their_order() {
    let why = Unsubscribe { code: 2500, reason: "by the test".into() };
    for ends_first in [false, true] {
        let mut site = Site::with_cores(3, "");
        let [x, y] = [1, 2].map(|core| site.channel_of(core, 0));
        let mut subs = json!({});
        [&x, &y].into_iter().for_each(|name| subs[name] = json!({}));
        let mut peer = site.open(0, PATH, &[]);
        let token = token(&json!({"sub": "42", "subs": subs}));
        peer.say(&[json!({"id": 1, "connect": {"token": token}})]);
        // One of both is answered.
        [0, 0, 0, 1, 0].into_iter().for_each(|core| site.turn(core));
        let subscribe = ServerSubscribe { channel: x.clone(), ..ServerSubscribe::default() };
        let begin = Action::Subscribe(Box::new(subscribe));
        let end = Action::Unsubscribe { channel: None, why: why.clone() };
        let orders = if ends_first { [end, begin] } else { [begin, end] };
        for action in orders {
            let (order, _) = order_of("42", action);
            assert!(site.send(0, Letter::Order(Arc::new(order))));
        }
        site.turn(0);
        assert!(peer.reply(1).is_none(), "the other is not answered");
        site.run();
        assert!(peer.reply(1).is_some());
        let pushes = peer.pushes();
        let of = |name: &str| -> Vec<bool> {
            let own = pushes.iter().filter(|push| push["channel"] == json!(name));
            own.map(|push| push.get("subscribe").is_some()).collect()
        };
        let began: &[bool] = if ends_first { &[false, true] } else { &[false] };
        assert_eq!((of(&x), of(&y)), (began.to_vec(), vec![false]), "{pushes:?}");
        assert_eq!(site.stats().counters.subscriptions, u64::from(ends_first));
    }
}

#[test]
fn an_order_that_comes_while_a_client_connects_spares_what_it_asks_for_afterwards() {
    let open = "[channel.without_namespace]\nallow_subscribe_for_client = true\n";
    let why = Unsubscribe { code: 2500, reason: "by the test".into() };
    for (home, all) in [(0, false), (0, true), (1, false), (1, true)] {
        let mut site = Site::with_cores(2, open);
        let [x, y] = [0, 1].map(|n| site.channel_of(1, n));
        let own = site.channel_of(home, 2);
        let mut subs = json!({});
        [&x, &y].into_iter().for_each(|name| subs[name] = json!({}));
        let mut peer = site.open(0, PATH, &[]);
        let token = token(&json!({"sub": "42", "subs": subs}));
        peer.say(&[
            json!({"id": 1, "connect": {"token": token}}),
            json!({"id": 50, "subscribe": {"channel": own}}),
        ]);
        let channel = (!all).then(|| own.as_str().into());
        site.order_behind("42", Action::Unsubscribe { channel, why: why.clone() }, &x);
        site.run();
        assert!(peer.reply(1).is_some() && peer.reply(50).is_some_and(|it| it["error"].is_null()));
        let ended: Vec<_> = peer.pushes().into_iter().map(|push| push["channel"].clone()).collect();
        assert_eq!((ended.len(), ended.contains(&json!(own))), (if all { 2 } else { 0 }, false));
    }
}

#[test]
fn of_what_is_under_way_only_what_is_named_ends() {
    let open = "[channel.without_namespace]\nallow_subscribe_for_client = true\n";
    let why = Unsubscribe { code: 2500, reason: "by the test".into() };
    for named in [false, true] {
        let mut site = Site::with_cores(2, open);
        let [x, y] = [0, 1].map(|n| site.channel_of(1, n));
        let mut peer = site.connected_on(0, "42");
        let channel = Some(if named { x.as_str() } else { y.as_str() }.into());
        peer.say(&[json!({"id": 50, "subscribe": {"channel": x}})]);
        site.order_behind("42", Action::Unsubscribe { channel, why: why.clone() }, &x);
        site.run();
        assert!(peer.reply(50).is_some_and(|it| it["subscribe"].is_object()));
        assert_eq!(peer.pushes().len(), usize::from(named));
        assert_eq!(site.stats().counters.subscriptions, u64::from(!named));
        // One that was answered before is not ended twice.
        peer.subscribe(&mut site, &y);
        site.order("42", Action::Unsubscribe { channel: None, why: why.clone() });
        peer.pushes();
        peer.subscribe(&mut site, &y);
        assert!(peer.pushes().is_empty());
    }
}
