//! Connections and subscriptions that expire, to the second; who is asked whether they may stay;
//! and what the server API changes about them.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ringhold::gateway::hooks::{
    HookEvent, HookRefusal, HookReply, RefreshReply, SubRefreshReply, SubscribeReply,
};
use ringhold::gateway::letters::{Action, Refresh, ServerSubscribe};
use ringhold::gateway::wire::{Disconnect, Error, Unsubscribe};
use serde_json::{Value, json};

use super::site::{Peer, Site, token};

/// Clients have five seconds to refresh what has expired.
const SOON: &str = "[client]\nping_interval = \"0s\"\nexpired_close_delay = \"5s\"\n\
    expired_sub_close_delay = \"5s\"\n";

/// The backend decides, and has five seconds to do that.
const BY_BACKEND: &str = "[client.proxy.refresh]\nenabled = true\n\
    endpoint = \"http://backend/refresh\"\n\
    [channel.proxy.sub_refresh]\nendpoint = \"http://backend/sub_refresh\"\n\
    [channel.proxy.subscribe]\nendpoint = \"http://backend/subscribe\"\n\
    [channel.without_namespace]\nsubscribe_proxy_enabled = true\nsub_refresh_proxy_enabled = true\n\
    presence = true\nallow_presence_for_subscriber = true\n";

/// Who is in a channel is seen by who is in it.
const SEEN: &str = "[channel.without_namespace]\npresence = true\n\
    allow_subscribe_for_client = true\nallow_presence_for_subscriber = true\n";

fn connect_until(site: &mut Site, expire_at: i64) -> (Peer, Value) {
    let mut peer = site.session();
    let claims = json!({"sub": "42", "exp": expire_at, "info": {"n": 1}});
    let result = peer.connect(site, json!({"token": token(&claims)}));
    (peer, result)
}

/// What others see of the only member of a channel.
fn member(peer: &mut Peer, site: &mut Site, channel: &str) -> Value {
    let result = peer.result(site, "presence", json!({"channel": channel}));
    let members = result["presence"].as_object().expect("members").clone();
    assert_eq!(members.len(), 1, "{members:?}");
    members.into_iter().next().expect("one").1
}

#[test]
fn a_connection_ends_when_its_token_and_the_grace_are_over() {
    let mut site = Site::new(SOON);
    let until = site.now() + 10;
    let (mut peer, result) = connect_until(&mut site, until);
    assert_eq!((&result["expires"], &result["ttl"]), (&json!(true), &json!(10)));
    site.seconds(14);
    assert_eq!(peer.ended(), None);
    site.seconds(1);
    assert_eq!(peer.ended(), Some(3005));
    site.empty();
}

#[test]
fn the_clock_of_the_world_decides() {
    let mut site = Site::new(SOON);
    let until = site.now() + 10;
    let (mut peer, _) = connect_until(&mut site, until);
    site.put_back(3);
    site.seconds(17);
    assert_eq!(peer.ended(), None);
    site.seconds(1);
    assert_eq!(peer.ended(), Some(3005));
}

#[test]
fn a_refresh_prolongs_or_lifts_and_has_the_last_word() {
    let mut site = Site::new(&format!("{SOON}{SEEN}"));
    let until = site.now() + 10;
    let (mut peer, _) = connect_until(&mut site, until);
    peer.subscribe(&mut site, "a");
    assert_eq!(member(&mut peer, &mut site, "a")["conn_info"], json!({"n": 1}));
    site.seconds(9);
    let claims = json!({"sub": "42", "exp": site.now() + 10, "info": {"n": 2}});
    let result = peer.result(&mut site, "refresh", json!({"token": token(&claims)}));
    assert_eq!((&result["expires"], &result["ttl"]), (&json!(true), &json!(10)));
    assert_eq!(member(&mut peer, &mut site, "a")["conn_info"], json!({"n": 2}));
    site.seconds(14);
    assert_eq!(peer.ended(), None);
    // Shorter than what is left of the old one; no information leaves what there was.
    let claims = json!({"sub": "42", "exp": site.now() + 1});
    let result = peer.result(&mut site, "refresh", json!({"token": token(&claims)}));
    assert_eq!(result["ttl"], json!(1));
    assert_eq!(member(&mut peer, &mut site, "a")["conn_info"], json!({"n": 2}));
    let forever = token(&json!({"sub": "42"}));
    let result = peer.result(&mut site, "refresh", json!({"token": forever}));
    assert!(result.get("expires").is_none() && result.get("ttl").is_none(), "{result}");
    site.seconds(10_000);
    assert_eq!(peer.ended(), None);
    peer.leave(&mut site);
    site.empty();
}

#[test]
fn a_moment_that_is_now_is_over() {
    let mut site = Site::new(&format!("{SOON}{SEEN}"));
    let now = site.now();
    for (at, lives) in [(now, false), (now + 1, true)] {
        // The token is good, but the connection would be over.
        let claims = json!({"sub": "42", "exp": now + 100, "expire_at": at});
        let mut peer = site.session();
        let reply = peer.ask(&mut site, "connect", json!({"token": token(&claims)}));
        assert_eq!(reply["error"]["code"].as_u64(), (!lives).then_some(110), "{reply}");
        let (mut peer, _) = connect_until(&mut site, now + 1000);
        let claims = json!({"sub": "42", "exp": now + 100, "expire_at": at});
        let number = peer.command(&mut site, "refresh", json!({"token": token(&claims)}));
        assert_eq!(peer.reply(number).is_some(), lives);
        assert_eq!(peer.ended(), (!lives).then_some(3005));
        let mut peer = site.connected("42");
        let claims = json!({"sub": "42", "channel": "$a", "exp": now + 100, "expire_at": at});
        let request = json!({"channel": "$a", "token": token(&claims)});
        let reply = peer.ask(&mut site, "subscribe", request);
        assert_eq!(reply.get("subscribe").is_some(), lives, "{reply}");
    }
}

#[test]
fn the_backend_is_asked_whether_a_connection_may_stay() {
    let mut site = Site::new(&format!("{SOON}{BY_BACKEND}"));
    let until = site.now() + 10;
    let (mut peer, result) = connect_until(&mut site, until);
    assert!(result.get("expires").is_none() && result.get("ttl").is_none(), "{result}");
    site.seconds(9);
    assert!(site.try_asked().is_none());
    site.seconds(1);
    let asked = site.asked();
    assert_eq!((&asked.request.event, &*asked.request.caller.user), (&HookEvent::Refresh, "42"));
    // The deadline is that of its answer now.
    site.seconds(4);
    assert_eq!(peer.ended(), None);
    let info = Some(Bytes::from_static(b"{\"n\":2}"));
    let expire_at = site.now() + 10;
    let meta = Some(Bytes::from_static(b"{\"m\":1}"));
    site.answer(asked, HookReply::Refresh(RefreshReply { expired: false, expire_at, info, meta }));
    site.seconds(9);
    assert!(site.try_asked().is_none());
    site.seconds(1);
    // The second time it knows what the first answer said.
    let asked = site.asked();
    assert_eq!(asked.request.caller.meta, Bytes::from_static(b"{\"m\":1}"));
    // Nobody answers.
    site.seconds(4);
    assert_eq!(peer.ended(), None);
    site.seconds(1);
    assert_eq!(peer.ended(), Some(3005));
    assert_eq!(site.backend.forgotten.load(Ordering::Relaxed), 1);
    drop(asked);
    site.empty();
}

#[test]
fn what_the_backend_says_of_a_connection_holds() {
    let mut site = Site::new(&format!("{SOON}{BY_BACKEND}"));
    let start = site.now();
    let refused = |error: Disconnect| Err(HookRefusal::Disconnect(error));
    let reply = |expired, expire_at| {
        let reply = RefreshReply { expired, expire_at, ..RefreshReply::default() };
        Ok(HookReply::Refresh(reply))
    };
    for (result, code) in [
        (reply(true, 0), Some(3005)),
        (reply(false, start + 10), Some(3005)),
        (reply(false, start + 9), Some(3005)),
        (reply(false, start + 11), None),
        (reply(false, 0), None),
        (refused(Disconnect::EXPIRED), Some(3005)),
    ] {
        let mut site = Site::new(&format!("{SOON}{BY_BACKEND}"));
        let (mut peer, _) = connect_until(&mut site, start + 10);
        site.seconds(10);
        let asked = site.asked();
        site.conclude(asked, result.clone());
        assert_eq!(peer.ended(), code, "{result:?}");
    }
    // No room for the question: a minute later it is asked.
    site.backend.full.store(true, Ordering::Relaxed);
    let (mut peer, _) = connect_until(&mut site, start + 10);
    site.seconds(10);
    site.backend.full.store(false, Ordering::Relaxed);
    site.seconds(59);
    assert!(site.try_asked().is_none());
    site.seconds(1);
    assert_eq!(peer.ended(), None);
    assert_eq!(site.asked().request.event, HookEvent::Refresh);
}

#[test]
fn a_subscription_ends_when_its_token_and_the_grace_are_over() {
    let mut site = Site::new(SOON);
    let mut peer = site.connected("42");
    let claims = json!({"sub": "42", "channel": "$a", "exp": site.now() + 10});
    let request = json!({"channel": "$a", "token": token(&claims)});
    let result = peer.result(&mut site, "subscribe", request);
    assert_eq!((&result["expires"], &result["ttl"]), (&json!(true), &json!(10)));
    // Another one later; the first deadline is the earlier one's.
    let claims = json!({"sub": "42", "channel": "$b", "exp": site.now() + 20});
    let request = json!({"channel": "$b", "token": token(&claims)});
    peer.result(&mut site, "subscribe", request);
    site.seconds(14);
    assert!(peer.pushes().is_empty());
    site.seconds(1);
    let end = json!({"code": 2501, "reason": "subscription expired"});
    assert_eq!(peer.push(), json!({"channel": "$a", "unsubscribe": end}));
    assert_eq!(site.stats().counters.subscriptions, 1);
    site.seconds(9);
    assert!(peer.pushes().is_empty());
    site.seconds(1);
    assert_eq!(peer.push()["channel"], json!("$b"));
    assert_eq!(site.stats().counters.session_bytes, 0, "nothing is kept for it");
    assert_eq!(site.stats().counters.deadlines, 0);
}

#[test]
fn a_subscription_refresh_prolongs_or_lifts_and_tells_others_what_is_new() {
    let mut site = Site::new(&format!(
        "{SOON}[channel.without_namespace]\npresence = true\nallow_presence_for_subscriber = true\n"
    ));
    let mut peer = site.connected("42");
    let of = |exp: Option<i64>, info: Option<Value>| {
        let mut claims = json!({"sub": "42", "channel": "$a"});
        exp.into_iter().for_each(|exp| claims["exp"] = json!(exp));
        info.into_iter().for_each(|info| claims["info"] = info);
        json!({"channel": "$a", "token": token(&claims)})
    };
    let now = site.now();
    let result = peer.result(&mut site, "subscribe", of(None, None));
    assert!(result.get("expires").is_none() && result.get("ttl").is_none(), "{result}");
    // One that nothing was kept of may expire from now on.
    let result = peer.result(&mut site, "sub_refresh", of(Some(now + 10), None));
    assert_eq!((&result["expires"], &result["ttl"]), (&json!(true), &json!(10)));
    site.seconds(10);
    let result = peer.result(&mut site, "sub_refresh", of(Some(now + 20), Some(json!({"s": 1}))));
    assert_eq!(result["ttl"], json!(10));
    assert_eq!(member(&mut peer, &mut site, "$a")["chan_info"], json!({"s": 1}));
    site.seconds(14);
    assert!(peer.pushes().is_empty());
    let result = peer.result(&mut site, "sub_refresh", of(None, None));
    assert_eq!(result, json!({}));
    assert_eq!(member(&mut peer, &mut site, "$a")["chan_info"], json!({"s": 1}));
    site.seconds(10_000);
    assert!(peer.pushes().is_empty() && peer.ended().is_none());
    // What is over now ends the connection: SDKs come back with another token.
    let now = site.now();
    let mut claims = json!({"sub": "42", "channel": "$a", "exp": now + 100, "expire_at": now + 1});
    let request = json!({"channel": "$a", "token": token(&claims)});
    peer.result(&mut site, "sub_refresh", request);
    claims["expire_at"] = json!(now);
    peer.command(&mut site, "sub_refresh", json!({"channel": "$a", "token": token(&claims)}));
    assert_eq!(peer.ended(), Some(3006));
    site.empty();
}

#[test]
fn the_backend_is_asked_whether_a_subscription_may_stay() {
    let mut site = Site::new(&format!("{SOON}{BY_BACKEND}"));
    let mut peer = site.connected("42");
    let until = |seconds: i64, site: &Site| SubscribeReply {
        expire_at: site.now() + seconds,
        info: Bytes::from_static(b"{\"s\":1}"),
        ..SubscribeReply::default()
    };
    let subscribe = |peer: &mut Peer, site: &mut Site| {
        let number = peer.command(site, "subscribe", json!({"channel": "a"}));
        let asked = site.asked();
        let reply = until(10, site);
        site.answer(asked, HookReply::Subscribe(reply));
        peer.reply(number).expect("a reply")["subscribe"].clone()
    };
    let result = subscribe(&mut peer, &mut site);
    assert!(result.get("expires").is_none() && result.get("ttl").is_none(), "{result}");
    site.seconds(9);
    assert!(site.try_asked().is_none());
    site.seconds(1);
    let asked = site.asked();
    assert_eq!(asked.request.event, HookEvent::SubRefresh { channel: "a".to_owned() });
    // However long it thinks, it is asked once.
    site.seconds(100);
    assert!(site.try_asked().is_none() && peer.pushes().is_empty());
    let expire_at = site.now() + 10;
    let prolonged = SubRefreshReply { expire_at, info: None, ..SubRefreshReply::default() };
    site.answer(asked, HookReply::SubRefresh(prolonged));
    assert_eq!(member(&mut peer, &mut site, "a")["chan_info"], json!({"s": 1}));
    site.seconds(9);
    assert!(site.try_asked().is_none());
    site.seconds(1);
    let asked = site.asked();
    let info = Some(Bytes::from_static(b"{\"s\":2}"));
    let expire_at = site.now() + 10;
    site.answer(asked, HookReply::SubRefresh(SubRefreshReply { info, expire_at, expired: false }));
    assert_eq!(member(&mut peer, &mut site, "a")["chan_info"], json!({"s": 2}));
    site.seconds(10);
    // An answer that cannot be used prolongs by a minute, as no room for the question does.
    let asked = site.asked();
    site.conclude(asked, Err(HookRefusal::Error(Error::INTERNAL)));
    site.seconds(59);
    assert!(site.try_asked().is_none());
    site.backend.full.store(true, Ordering::Relaxed);
    site.seconds(1);
    site.backend.full.store(false, Ordering::Relaxed);
    assert!(site.try_asked().is_none());
    site.seconds(59);
    assert!(site.try_asked().is_none());
    site.seconds(1);
    let asked = site.asked();
    let expire_at = site.now();
    site.answer(asked, HookReply::SubRefresh(SubRefreshReply { expire_at, ..Default::default() }));
    assert_eq!(peer.push()["unsubscribe"]["code"], json!(2501), "until now is no longer");
    // It may begin anew, and an answer about the one before is nobody's.
    subscribe(&mut peer, &mut site);
    site.seconds(10);
    let asked = site.asked();
    peer.result(&mut site, "unsubscribe", json!({"channel": "a"}));
    subscribe(&mut peer, &mut site);
    let expired = SubRefreshReply { expired: true, ..SubRefreshReply::default() };
    site.answer(asked, HookReply::SubRefresh(expired.clone()));
    assert!(peer.pushes().is_empty());
    site.seconds(10);
    let asked = site.asked();
    site.answer(asked, HookReply::SubRefresh(expired));
    assert_eq!(peer.push()["unsubscribe"]["code"], json!(2501));
    assert_eq!(site.stats().counters.session_bytes, 0);
}

#[test]
fn the_end_of_a_subscription_of_the_server_is_that_of_the_connection() {
    let mut site = Site::new(SOON);
    let mut peer = site.connected("42");
    let wanted = ServerSubscribe {
        channel: "a".to_owned(),
        data: Bytes::from_static(b"{\"d\":1}"),
        expire_at: site.now() + 10,
        ..ServerSubscribe::default()
    };
    site.order("42", Action::Subscribe(Box::new(wanted.clone())));
    let push = peer.push();
    assert_eq!((&push["channel"], &push["subscribe"]["data"]), (&json!("a"), &json!({"d": 1})));
    // What is over is not done at all.
    for at in [site.now(), site.now() - 1] {
        let over = ServerSubscribe { channel: "b".to_owned(), expire_at: at, ..wanted.clone() };
        site.order("42", Action::Subscribe(Box::new(over)));
    }
    assert!(peer.pushes().is_empty());
    site.seconds(14);
    assert_eq!(peer.ended(), None);
    site.seconds(1);
    assert_eq!(peer.ended(), Some(3006));
    site.empty();
}

#[test]
fn the_server_api_changes_when_a_connection_expires() {
    let mut site = Site::new(&format!("{SOON}{SEEN}"));
    let mut peer = site.connected("42");
    peer.subscribe(&mut site, "a");
    let until = |expire_at, info: Option<&'static [u8]>| {
        let info = info.map(Bytes::from_static);
        Action::Refresh(Refresh { expired: false, expire_at, info })
    };
    site.order("42", until(site.now() + 10, Some(b"{\"n\":7}")));
    assert_eq!(peer.push(), json!({"refresh": {"expires": true, "ttl": 10}}));
    assert_eq!(member(&mut peer, &mut site, "a")["conn_info"], json!({"n": 7}));
    site.seconds(14);
    site.order("42", until(0, None));
    assert_eq!(peer.push(), json!({"refresh": {}}));
    assert_eq!(member(&mut peer, &mut site, "a")["conn_info"], json!({"n": 7}));
    site.seconds(1000);
    assert_eq!(peer.ended(), None);
    site.order("42", until(site.now() + 1, None));
    assert_eq!(peer.push()["refresh"]["ttl"], json!(1));
    site.order("42", until(site.now(), None));
    assert_eq!(peer.ended(), Some(3005), "until now is no longer");
    let mut peer = site.connected("42");
    let expired = Refresh { expired: true, expire_at: site.now() + 10, info: None };
    site.order("42", Action::Refresh(expired));
    assert_eq!(peer.ended(), Some(3005));
    site.empty();
}

#[test]
fn an_answer_about_a_time_that_is_no_more_is_nobodys() {
    let mut site = Site::new(&format!("{SOON}{BY_BACKEND}"));
    let over = || HookReply::Refresh(RefreshReply { expired: true, ..RefreshReply::default() });
    let start = site.now();
    let (mut peer, _) = connect_until(&mut site, start + 10);
    site.seconds(10);
    let first = site.asked();
    let until = |expire_at| Action::Refresh(Refresh { expired: false, expire_at, info: None });
    site.order("42", until(site.now() + 10));
    peer.pushes();
    site.answer(first, over());
    assert_eq!(peer.ended(), None);
    // It is asked about anew when that is over.
    site.seconds(10);
    let second = site.asked();
    assert_eq!(second.request.event, HookEvent::Refresh);
    site.answer(second, over());
    assert_eq!(peer.ended(), Some(3005));
    // The same of a subscription that has begun anew meanwhile, until the same channel's next.
    let mut peer = site.connected("42");
    let claims = |site: &Site| json!({"sub": "42", "channel": "$a", "exp": site.now() + 10});
    let subscribe = |peer: &mut Peer, site: &mut Site| {
        let request = json!({"channel": "$a", "token": token(&claims(site))});
        peer.result(site, "subscribe", request);
    };
    subscribe(&mut peer, &mut site);
    site.seconds(10);
    let first = site.asked();
    peer.result(&mut site, "unsubscribe", json!({"channel": "$a"}));
    subscribe(&mut peer, &mut site);
    let over = || SubRefreshReply { expired: true, ..SubRefreshReply::default() };
    site.seconds(10);
    let second = site.asked();
    site.answer(first, HookReply::SubRefresh(over()));
    assert!(peer.pushes().is_empty());
    site.answer(second, HookReply::SubRefresh(over()));
    assert_eq!(peer.push()["unsubscribe"]["code"], json!(2501));
}

#[test]
fn a_subscription_of_the_server_that_begins_to_expire_takes_its_connection_along() {
    let mut site = Site::new(SOON);
    for subs in [json!({"$a": {}}), json!({"$a": {"info": {"s": 1}}})] {
        let mut peer = site.session();
        peer.connect(&mut site, json!({"token": token(&json!({"sub": "42", "subs": subs}))}));
        let claims = json!({"sub": "42", "channel": "$a", "exp": site.now() + 10});
        let request = json!({"channel": "$a", "token": token(&claims)});
        assert_eq!(peer.result(&mut site, "sub_refresh", request)["ttl"], json!(10));
        site.seconds(14);
        assert_eq!(peer.ended(), None);
        site.seconds(1);
        assert_eq!((peer.pushes(), peer.ended()), (Vec::new(), Some(3006)));
    }
    site.empty();
}

#[test]
fn what_the_api_ends_before_it_has_an_answer_ends_with_the_answer() {
    let mut site = Site::new(&format!("{SOON}{BY_BACKEND}"));
    let why = Unsubscribe { code: 2500, reason: "by the test".into() };
    for channel in [None, Some("a".into())] {
        let mut peer = site.connected("42");
        let number = peer.command(&mut site, "subscribe", json!({"channel": "a"}));
        let asked = site.asked();
        let other = Action::Unsubscribe { channel: Some("b".into()), why: why.clone() };
        site.order("42", other);
        let end = Action::Unsubscribe { channel: channel.clone(), why: why.clone() };
        site.order("42", end.clone());
        site.order("42", end);
        site.answer(asked, HookReply::Subscribe(SubscribeReply::default()));
        assert!(peer.reply(number).expect("a reply").get("subscribe").is_some());
        let end = json!({"code": 2500, "reason": "by the test"});
        assert_eq!(peer.push(), json!({"channel": "a", "unsubscribe": end}), "{channel:?}");
        assert_eq!(site.stats().counters.subscriptions, 0);
        // Refused, it needs no end, and the next one is not ended either.
        let number = peer.command(&mut site, "subscribe", json!({"channel": "a"}));
        let asked = site.asked();
        site.order("42", Action::Unsubscribe { channel: channel.clone(), why: why.clone() });
        site.conclude(asked, Err(HookRefusal::Error(Error::PERMISSION_DENIED)));
        assert_eq!(peer.reply(number).expect("a reply")["error"]["code"], json!(103));
        let number = peer.command(&mut site, "subscribe", json!({"channel": "a"}));
        let asked = site.asked();
        site.answer(asked, HookReply::Subscribe(SubscribeReply::default()));
        assert!(peer.reply(number).expect("a reply").get("subscribe").is_some());
        assert!(peer.pushes().is_empty());
        peer.leave(&mut site);
        site.empty();
    }
}
