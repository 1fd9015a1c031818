//! Which command waits for what, and for how long; when a connection is not read.

use std::time::Duration;

use ringhold::gateway::hooks::{HookReply, RpcReply, SubscribeReply};
use serde_json::{Value, json};

use super::site::{Peer, Site, token};

/// Procedures are the backend's.
const CALLS: &str = "[rpc.proxy]\nendpoint = \"http://backend/rpc\"\n\
    [rpc.without_namespace]\nproxy_enabled = true\n";

/// A call whose command has so many bytes.
fn call(id: u64, bytes: usize) -> Value {
    let of = |data: &str| json!({"id": id, "rpc": {"method": "m", "data": data}});
    let least = of("").to_string().len();
    let call = of(&"x".repeat(bytes.checked_sub(least).expect("room for a call")));
    assert_eq!(call.to_string().len(), bytes);
    call
}

fn short(id: u64) -> Value {
    call(id, 60)
}

/// The backend answers the next question, which is a call.
fn answer(site: &mut Site) {
    let asked = site.asked();
    site.answer(asked, HookReply::Rpc(RpcReply::default()));
}

#[test]
fn so_many_commands_are_under_way_at_once() {
    for (concurrency, at_once) in [(0, 1), (1, 1), (2, 2), (3, 3)] {
        let mut site = Site::new(&format!("[client]\nconcurrency = {concurrency}\n{CALLS}"));
        let mut peer = site.connected("42");
        (11..16).for_each(|id| peer.say(&[short(id)]));
        site.run();
        let mut asked: Vec<_> = std::iter::from_fn(|| site.try_asked()).collect();
        assert_eq!(asked.len(), at_once, "{concurrency}");
        // The answer to any lets the next one begin.
        let last = asked.pop().expect("one");
        site.answer(last, HookReply::Rpc(RpcReply::default()));
        assert!(peer.reply(10 + at_once as u64).is_some());
        asked.extend(std::iter::from_fn(|| site.try_asked()));
        assert_eq!(asked.len(), at_once);
        while let Some(next) = asked.pop() {
            site.answer(next, HookReply::Rpc(RpcReply::default()));
            asked.extend(std::iter::from_fn(|| site.try_asked()));
        }
        assert!((11..16).all(|id| id == 10 + at_once as u64 || peer.reply(id).is_some()));
    }
}

#[test]
fn subscriptions_that_are_asked_about_take_their_places() {
    let asked = "[client]\nconcurrency = 8\nchannel_limit = 3\n\
        [channel.proxy.subscribe]\nendpoint = \"http://backend/subscribe\"\n\
        [channel.without_namespace]\nsubscribe_proxy_enabled = true\n";
    let mut site = Site::new(asked);
    let mut peer = site.connected("42");
    let subscribe = |site: &mut Site, peer: &mut Peer, channel: &str| {
        peer.command(site, "subscribe", json!({"channel": channel}))
    };
    let number = subscribe(&mut site, &mut peer, "a");
    let reply = || HookReply::Subscribe(SubscribeReply::default());
    let asked = site.asked();
    site.answer(asked, reply());
    assert!(peer.reply(number).expect("a reply")["subscribe"].is_object());
    let waiting = ["b", "c"].map(|channel| subscribe(&mut site, &mut peer, channel));
    assert!(waiting.iter().all(|number| peer.reply(*number).is_none()));
    for (channel, code) in [("a", 105), ("b", 105), ("d", 106)] {
        let number = subscribe(&mut site, &mut peer, channel);
        let reply = peer.reply(number).expect("at once");
        assert_eq!(reply["error"]["code"], json!(code), "{channel}");
    }
    for number in waiting {
        let asked = site.asked();
        site.answer(asked, reply());
        assert!(peer.reply(number).expect("a reply")["subscribe"].is_object());
    }
    assert_eq!(site.stats().counters.subscriptions, 3);
}

#[test]
fn a_connection_has_so_many_questions_to_the_backend() {
    let mut site = Site::new(&format!("[client]\nconcurrency = 10\nhook_limit = 2\n{CALLS}"));
    let mut peer = site.connected("42");
    (11..14).for_each(|id| peer.say(&[short(id)]));
    site.run();
    assert!(peer.reply(11).is_none() && peer.reply(12).is_none());
    assert_eq!(peer.reply(13).expect("refused at once")["error"]["code"], json!(111));
    assert_eq!(site.stats().counters.hooks_limited, 1);
    answer(&mut site);
    peer.say(&[short(14)]);
    site.run();
    assert!(peer.reply(14).is_none());
    (0..2).for_each(|_| answer(&mut site));
    assert!([11, 12, 14].into_iter().all(|id| peer.reply(id).is_some()));
}

/// Whether a further message of a client is received.
fn is_read(site: &mut Site, peer: &mut Peer, id: u64) -> bool {
    let before = site.engine().counters.messages_in;
    peer.say(&[call(id, 96)]);
    site.run();
    site.engine().counters.messages_in > before
}

#[test]
fn a_connection_is_not_read_while_enough_waits() {
    // Each message waits behind its length, which are four bytes.
    for (last, goes_on) in [(96, true), (97, false)] {
        let mut site = Site::new(&format!("[client]\ncommand_queue_max_size = 1000\n{CALLS}"));
        let mut peer = site.connected("42");
        peer.say(&[short(10)]);
        site.run();
        for id in 11..21 {
            assert!(is_read(&mut site, &mut peer, id), "{id}");
        }
        assert_eq!(site.engine().counters.read_pauses, 0, "1000 bytes may wait");
        peer.say(&[call(21, last)]);
        site.run();
        assert_eq!(site.engine().counters.read_pauses, 1);
        assert!(!is_read(&mut site, &mut peer, 22));
        // The first one that waited is under way when the one before it is answered.
        let before = site.engine().counters.messages_in;
        (0..5).for_each(|_| answer(&mut site));
        assert_eq!(site.engine().counters.messages_in, before);
        answer(&mut site);
        let read = site.engine().counters.messages_in > before;
        assert_eq!(read, goes_on, "half of it is little enough");
        (0..7).for_each(|_| answer(&mut site));
        assert!((10..23).all(|id| peer.reply(id).is_some()));
        peer.leave(&mut site);
        site.empty();
    }
}

#[test]
fn what_waits_goes_with_its_connection() {
    let mut site = Site::new(CALLS);
    let peer = site.connected("42");
    (11..30).for_each(|id| peer.say(&[short(id)]));
    site.run();
    let asked = site.asked();
    assert!(site.stats().counters.session_bytes > 19 * 60);
    // The client breaks the protocol meanwhile: all that it said is answered to nobody.
    peer.say(&[json!({"id": 0})]);
    site.run();
    site.answer(asked, HookReply::Rpc(RpcReply::default()));
    let other = site.try_asked();
    assert!(other.is_some(), "what came before it is done first");
    peer.client.leave();
    site.run();
    site.answer(other.expect("one"), HookReply::Rpc(RpcReply::default()));
    assert!(site.try_asked().is_none());
    site.empty();
}

#[test]
fn pongs_wait_for_no_command() {
    let mut site = Site::new(&format!("[client]\nping_interval = \"10s\"\n{CALLS}"));
    let mut peer = site.connected("42");
    peer.say(&[short(11)]);
    site.run();
    let asked = site.asked();
    site.seconds(10);
    // One while nothing waits, and one that overtakes.
    let held = site.stats().counters.session_bytes;
    peer.client.text("{}");
    site.run();
    assert_eq!(site.stats().counters.session_bytes, held, "it is not kept");
    site.seconds(10);
    peer.say(&[short(12)]);
    peer.client.text("{}");
    site.run();
    site.seconds(9);
    assert_eq!(peer.ended(), None, "both pings are answered");
    site.answer(asked, HookReply::Rpc(RpcReply::default()));
    assert!(peer.reply(11).is_some());
}

/// Ten a second; nothing else is paid for.
const DELIVERIES: &str = "[client]\nping_interval = \"0s\"\nanswer_rate = 0\ndelivery_rate = 10\n";

/// Time until a command is answered that is sent now.
fn wait(site: &mut Site, peer: &mut Peer) -> Duration {
    let number = peer.command(site, "history", json!({"channel": "a"}));
    let mut waited = Duration::ZERO;
    let step = Duration::from_millis(5);
    while peer.reply(number).is_none() {
        assert!(waited < Duration::from_secs(100), "no answer");
        site.advance(step);
        waited += step;
    }
    waited
}

#[test]
fn answers_are_paid_for_with_time() {
    let open = "[channel.without_namespace]\nhistory_size = 10\nhistory_ttl = \"1h\"\n\
        allow_subscribe_for_client = true\nallow_history_for_client = true\n";
    let mut site =
        Site::new(&format!("[client]\nping_interval = \"0s\"\nanswer_rate = 1000\n{open}"));
    site.publish("a", "\"x\"");
    let mut peer = site.connected("42");
    // Seconds pass until the answer to the connect command is paid for.
    site.seconds(100);
    let request = json!({"channel": "a", "limit": 1});
    let number = peer.command(&mut site, "history", request.clone());
    let reply = peer.reply(number).expect("at once");
    let bytes = reply.to_string().len() as u64;
    assert!(bytes < 400, "{bytes}");
    // Four seconds' worth are free.
    let free = 4000 / bytes;
    for _ in 3..free {
        let number = peer.command(&mut site, "history", request.clone());
        assert!(peer.reply(number).is_some());
    }
    assert_eq!(site.stats().counters.commands_delayed, 0);
    let mut late = 0;
    while site.stats().counters.commands_delayed == 0 {
        let number = peer.command(&mut site, "history", request.clone());
        late = number;
        assert!(number < 10_000);
    }
    assert!(peer.reply(late).is_none());
    site.advance(Duration::from_millis(bytes + 20));
    assert!(peer.reply(late).is_some(), "it has paid");
    // Without a rate nothing is paid.
    let mut site = Site::new(&format!("[client]\nanswer_rate = 0\n{open}"));
    site.publish("a", "\"x\"");
    let mut peer = site.connected("42");
    for _ in 0..200 {
        assert_eq!(wait(&mut site, &mut peer), Duration::ZERO);
    }
}

#[test]
fn what_others_receive_is_paid_for_with_time() {
    let open = "[channel.without_namespace]\nallow_subscribe_for_client = true\n\
        allow_publish_for_client = true\n";
    let mut site = Site::new(&format!("{DELIVERIES}{open}"));
    let mut crowd: Vec<Peer> = (0..20).map(|n| site.connected(&format!("{n}"))).collect();
    crowd.iter_mut().for_each(|peer| _ = peer.subscribe(&mut site, "a"));
    let mut peer = site.connected("42");
    site.seconds(1);
    let publish = json!({"channel": "a", "data": 1});
    // Each takes two seconds, and four are free: the third is paid for before the fourth.
    for _ in 0..3 {
        let number = peer.command(&mut site, "publish", publish.clone());
        assert!(peer.reply(number).is_some());
    }
    let number = peer.command(&mut site, "publish", publish.clone());
    assert!(peer.reply(number).is_none());
    site.advance(Duration::from_millis(1_990));
    assert!(peer.reply(number).is_none());
    site.advance(Duration::from_millis(20));
    assert!(peer.reply(number).is_some());
    assert!(site.stats().counters.commands_delayed >= 1);
    assert_eq!(crowd[0].pushes().len(), 4);
}

/// The order in which publications of two clients come that have ten each to make at once.
#[test]
fn who_makes_others_receive_much_lets_the_others_in_between() {
    let open = "[channel.without_namespace]\nallow_subscribe_for_client = true\n\
        allow_publish_for_client = true\n";
    let free = "[client]\nping_interval = \"0s\"\nanswer_rate = 0\ndelivery_rate = 0\n";
    for (crowd, at_once) in [(21, 6), (1, 10)] {
        let mut site = Site::new(&format!("{free}{open}"));
        let mut crowd: Vec<Peer> = (0..crowd).map(|n| site.connected(&format!("{n}"))).collect();
        crowd.iter_mut().for_each(|peer| _ = peer.subscribe(&mut site, "a"));
        let peers = [site.connected("first"), site.connected("second")];
        for (name, peer) in ["first", "second"].iter().zip(&peers) {
            let publish = |n: u64| json!({"id": n, "publish": {"channel": "a", "data": name}});
            peer.say(&(11..21).map(publish).collect::<Vec<_>>());
        }
        site.run();
        let from: Vec<Value> =
            crowd[0].pushes().iter().map(|push| push["pub"]["data"].clone()).collect();
        let own = from.iter().take_while(|it| **it == json!("first")).count();
        assert_eq!((own, from.len()), (at_once, 20), "a command costs 2 KiB, each of them 512");
    }
}

#[test]
fn joins_are_paid_for_twice_since_who_comes_goes() {
    let open = "[channel.without_namespace]\nallow_subscribe_for_client = true\n\
        join_leave = true\nforce_push_join_leave = true\n";
    let mut site = Site::new(&format!("{DELIVERIES}{open}"));
    let mut crowd: Vec<Peer> = (0..20).map(|n| site.connected(&format!("{n}"))).collect();
    crowd.iter_mut().for_each(|peer| _ = peer.subscribe(&mut site, "a"));
    let mut peer = site.connected("42");
    site.seconds(100);
    // It hears of itself as well: 21 of them twice, which is 4.2 seconds.
    peer.subscribe(&mut site, "a");
    let number = peer.command(&mut site, "unsubscribe", json!({"channel": "b"}));
    assert!(peer.reply(number).is_none());
    site.advance(Duration::from_millis(180));
    assert!(peer.reply(number).is_none());
    site.advance(Duration::from_millis(30));
    assert!(peer.reply(number).is_some());
}

#[test]
fn signatures_are_paid_for_with_time() {
    let mut site = Site::new("[client]\nanswer_rate = 0\nfailed_token_limit = 0\n");
    let mut peer = site.connected("42");
    let forever = token(&json!({"sub": "42"}));
    // 800 are free, one of which was that of the connect command.
    for n in 1..=800 {
        let (name, request) = match n % 2 {
            0 => ("refresh", json!({"token": forever})),
            _ => ("subscribe", json!({"channel": "$a", "token": "junk"})),
        };
        let number = peer.command(&mut site, name, request);
        assert!(peer.reply(number).is_some(), "{n}");
    }
    let number = peer.command(&mut site, "unsubscribe", json!({"channel": "a"}));
    assert!(peer.reply(number).is_none());
    site.advance(Duration::from_millis(10));
    assert!(peer.reply(number).is_some());
}

#[test]
fn what_is_no_command_is_counted_and_closes() {
    let mut site = Site::new("[uni_websocket]\nenabled = true\n");
    let mut peer = site.connected("42");
    peer.client.text("nonsense");
    site.run();
    assert_eq!((peer.ended(), site.stats().counters.undecodable), (Some(3501), 1));
    let mut peer = site.open(0, "/connection/uni_websocket", &[]);
    peer.client.text("nonsense");
    site.run();
    assert_eq!((peer.ended(), site.stats().counters.undecodable), (Some(3501), 2));
    // All that a one-way client has to say is its first message.
    let mut peer = site.open(0, "/connection/uni_websocket", &[]);
    let request = json!({"token": token(&json!({"sub": "42"}))});
    peer.say(&[request]);
    peer.client.text("nonsense");
    site.run();
    assert_eq!((peer.ended(), site.stats().counters.undecodable), (None, 2));
    assert_eq!(site.stats().counters.clients, 1);
}

#[test]
fn the_backend_is_told_who_has_gone_with_a_question() {
    use std::sync::atomic::Ordering;

    let mut site = Site::new(CALLS);
    let forgotten = |site: &Site| site.backend.forgotten.load(Ordering::Relaxed);
    let peer = site.connected("42");
    peer.leave(&mut site);
    let peer = site.connected("42");
    peer.say(&[short(11)]);
    site.run();
    answer(&mut site);
    peer.leave(&mut site);
    assert_eq!(forgotten(&site), 0, "they had their answers");
    let peer = site.connected("42");
    peer.say(&[short(11)]);
    site.run();
    assert_eq!(site.asked().request.proxy, "default");
    peer.leave(&mut site);
    assert_eq!(forgotten(&site), 1);
    site.empty();
}
