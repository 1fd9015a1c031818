//! Subscriptions that the backend feeds: what is said of them when, and that whatever ends the
//! subscription ends the feed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ringhold::gateway::hooks::{
    FeedEnd, FeedId, FeedSaid, FeedWord, HookEvent, HookRefusal, HookReply, SubscribeReply,
};
use ringhold::gateway::letters::Action;
use ringhold::gateway::wire::{Error, Unsubscribe};
use serde_json::{Value, json};

use super::site::{Asked, Peer, Site};

const FED: &str = "[channel.proxy.subscribe_stream]\nendpoint = \"grpc://127.0.0.1:1\"\n\
    [channel.without_namespace]\nsubscribe_stream_proxy_enabled = true\n\
    subscribe_stream_proxy_bidirectional = true\n\
    [[channel.namespaces]]\nname = \"one\"\nsubscribe_stream_proxy_enabled = true\n\
    [client]\nchannel_limit = 2\nexpired_sub_close_delay = \"5s\"\n";

/// The feed that a question begins.
fn feed_of(asked: &Asked, channel: &str, both_ways: bool) -> FeedId {
    let HookEvent::Subscribe { channel: of, feed: Some(feed), .. } = &asked.request.event else {
        panic!("{:?}", asked.request.event)
    };
    assert_eq!((&**of, feed.both_ways), (channel, both_ways));
    feed.id
}

fn granted(expire_at: i64) -> HookReply {
    let data = Bytes::from_static(b"1");
    HookReply::Subscribe(SubscribeReply { expire_at, data, ..SubscribeReply::default() })
}

/// Subscribes to a fed channel.
fn begin(site: &mut Site, peer: &mut Peer, channel: &str, expire_at: i64) -> FeedId {
    let number = peer.command(site, "subscribe", json!({"channel": channel}));
    let asked = site.asked();
    let feed = feed_of(&asked, channel, !channel.starts_with("one:"));
    assert!(site.words().is_empty(), "nobody is there to hear it");
    site.answer(asked, granted(expire_at));
    assert_eq!(peer.reply(number).expect("a reply")["subscribe"]["data"], json!(1));
    let words = site.words();
    assert!(
        matches!(&words[..], [(it, proxy, FeedWord::Ready)] if *it == feed && proxy == "default")
    );
    feed
}

fn is_over(site: &Site, feed: FeedId) -> bool {
    let words = site.words();
    matches!(&words[..], [(it, _, FeedWord::Over)] if *it == feed)
}

fn published(data: &str) -> FeedSaid {
    FeedSaid::Published { data: data.to_owned().into(), tags: BTreeMap::new() }
}

#[test]
fn a_subscriber_is_told_what_its_own_feed_says() {
    let mut site = Site::with_cores(2, FED);
    let mut peers = [site.connected_on(0, "42"), site.connected_on(1, "43")];
    let feeds = peers.each_mut().map(|peer| begin(&mut site, peer, "a", 0));
    assert_ne!(feeds[0], feeds[1]);
    for (n, feed) in feeds.into_iter().enumerate() {
        site.tell(feed, published(&n.to_string()));
    }
    for (n, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.push(), json!({"channel": "a", "pub": {"data": n}}));
    }
    // What comes after the end is nobody's, also where there is another one by then.
    let [mut peer, other] = peers;
    peer.result(&mut site, "unsubscribe", json!({"channel": "a"}));
    assert!(is_over(&site, feeds[0]));
    let next = begin(&mut site, &mut peer, "a", 0);
    assert_ne!(next, feeds[0]);
    for late in [published("9"), FeedSaid::Ended(FeedEnd::Failed)] {
        site.tell(feeds[0], late);
    }
    assert!(peer.pushes().is_empty());
    site.tell(next, published("2"));
    assert_eq!(peer.push()["pub"]["data"], json!(2));
    peer.leave(&mut site);
    other.leave(&mut site);
    assert_eq!(site.backend.forgotten.load(Ordering::Relaxed), 2, "the backend may stop");
    site.empty();
}

#[test]
fn whatever_ends_a_subscription_ends_its_feed() {
    let mut site = Site::new(FED);
    let mut peer = site.connected("42");
    // By the client, by the server, by time, by the backend.
    let feed = begin(&mut site, &mut peer, "a", 0);
    peer.result(&mut site, "unsubscribe", json!({"channel": "a"}));
    assert!(is_over(&site, feed));
    let feed = begin(&mut site, &mut peer, "a", 0);
    let unsubscribe = || {
        let why = Unsubscribe::SERVER;
        Action::Unsubscribe { channel: Some("a".into()), why }
    };
    site.order("42", unsubscribe());
    assert!(is_over(&site, feed));
    assert_eq!(peer.push()["unsubscribe"]["code"], json!(2000));
    let soon = site.now() + 10;
    let feed = begin(&mut site, &mut peer, "a", soon);
    site.seconds(16);
    assert!(is_over(&site, feed));
    assert_eq!(peer.push()["unsubscribe"]["code"], json!(2501));
    for (end, code) in [(FeedEnd::Backend, 2000), (FeedEnd::Failed, 2500)] {
        let feed = begin(&mut site, &mut peer, "a", 0);
        site.tell(feed, FeedSaid::Ended(end));
        assert_eq!(peer.push()["unsubscribe"]["code"], json!(code));
        assert!(site.words().is_empty(), "it is over");
    }
    // Before it has begun: the backend says no, or too late; the server API was faster.
    let number = peer.command(&mut site, "subscribe", json!({"channel": "a"}));
    let asked = site.asked();
    let feed = feed_of(&asked, "a", true);
    site.conclude(asked, Err(HookRefusal::Error(Error::PERMISSION_DENIED)));
    assert_eq!(peer.reply(number).expect("a reply")["error"]["code"], json!(103));
    assert!(is_over(&site, feed));
    let number = peer.command(&mut site, "subscribe", json!({"channel": "a"}));
    let asked = site.asked();
    let feed = feed_of(&asked, "a", true);
    let now = site.now();
    site.answer(asked, granted(now));
    assert_eq!(peer.reply(number).expect("a reply")["error"]["code"], json!(110));
    assert!(is_over(&site, feed));
    let number = peer.command(&mut site, "subscribe", json!({"channel": "a"}));
    let asked = site.asked();
    let feed = feed_of(&asked, "a", true);
    site.order("42", unsubscribe());
    site.answer(asked, granted(0));
    assert!(peer.reply(number).expect("a reply")["subscribe"].is_object());
    assert_eq!(peer.push()["unsubscribe"]["code"], json!(2000));
    let words = site.words();
    let [(_, _, FeedWord::Ready), (it, _, FeedWord::Over)] = &words[..] else {
        panic!("{words:?}")
    };
    assert_eq!(*it, feed);
    // There is no room for the question, or no place for the subscription.
    site.backend.full.store(true, Ordering::Relaxed);
    let reply = peer.ask(&mut site, "subscribe", json!({"channel": "a"}));
    assert_eq!(reply["error"]["code"], json!(100));
    site.backend.full.store(false, Ordering::Relaxed);
    assert!(matches!(&site.words()[..], [(_, _, FeedWord::Over)]));
    let feeds = ["a", "one:b"].map(|channel| begin(&mut site, &mut peer, channel, 0));
    let reply = peer.ask(&mut site, "subscribe", json!({"channel": "c"}));
    assert_eq!(reply["error"]["code"], json!(106));
    assert!(site.words().is_empty());
    for (feed, channel) in feeds.into_iter().zip(["a", "one:b"]) {
        peer.result(&mut site, "unsubscribe", json!({"channel": channel}));
        assert!(is_over(&site, feed));
    }
    assert_eq!(site.stats().counters.session_bytes, 0);
    // A connection takes all of its feeds along, also that which is asked for.
    peer.command(&mut site, "subscribe", json!({"channel": "a"}));
    let asked = site.asked();
    peer.leave(&mut site);
    assert_eq!(site.backend.forgotten.load(Ordering::Relaxed), 1);
    site.answer(asked, granted(0));
    site.empty();
}

#[test]
fn what_is_published_to_a_feed_is_bounded() {
    let mut site = Site::new(FED);
    let mut peer = site.connected("42");
    let publish = |site: &mut Site, peer: &mut Peer, channel: &str, data: Value| {
        let reply = peer.ask(site, "publish", json!({"channel": channel, "data": data}));
        reply["error"]["code"].as_u64()
    };
    assert_eq!(publish(&mut site, &mut peer, "a", json!(1)), Some(108));
    begin(&mut site, &mut peer, "one:b", 0);
    assert_eq!(publish(&mut site, &mut peer, "one:b", json!(1)), Some(108));
    let feed = begin(&mut site, &mut peer, "a", 0);
    assert_eq!(publish(&mut site, &mut peer, "a", json!(1)), None);
    let words = site.words();
    assert!(
        matches!(&words[..], [(it, _, FeedWord::Publish(data, _))] if *it == feed && data == "1")
    );
    drop(words);
    // Text of 32 KiB in quotes: eight times it are a little too much.
    let large = "x".repeat((32 << 10) - 1);
    let accepted =
        (0..20).take_while(|_| publish(&mut site, &mut peer, "a", json!(large)).is_none());
    assert_eq!(accepted.count(), 7);
    assert_eq!(publish(&mut site, &mut peer, "a", json!(large)), Some(111));
    assert!(peer.pushes().is_empty());
    // Taken, it leaves room for others; if the control plane has some.
    drop(site.words());
    assert_eq!(publish(&mut site, &mut peer, "a", json!(large)), None);
    drop(site.words());
    site.backend.deaf.store(true, Ordering::Relaxed);
    assert_eq!(publish(&mut site, &mut peer, "a", json!(1)), Some(111));
    site.backend.deaf.store(false, Ordering::Relaxed);
    assert_eq!(publish(&mut site, &mut peer, "a", json!(1)), None);
}
