//! What another token may change about a connection and a subscription.

use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringhold::gateway::placement::Placement;
use serde_json::{Value, json};

use super::site::{Peer, Site, token};

const SEEN: &str = "[channel.without_namespace]\npresence = true\n\
    allow_subscribe_for_client = true\nallow_presence_for_subscriber = true\n";

fn of(subs: &[&str]) -> Value {
    let subs = subs.iter().map(|name| ((*name).to_owned(), json!({})));
    let subs = subs.collect::<serde_json::Map<_, _>>();
    json!({"token": token(&json!({"sub": "42", "subs": subs}))})
}

#[test]
fn another_token_grants_the_same_channels() {
    let personal = "[client.subscribe_to_user_personal_channel]\nenabled = true\n";
    for personal in ["", personal] {
        let mut site = Site::new(&format!("{personal}{SEEN}"));
        for (subs, end) in [
            (&["a", "b"][..], None),
            (&["b", "a", ""], None),
            (&["a"], Some(3010)),
            (&[], Some(3010)),
            (&["a", "b", "c"], Some(3010)),
        ] {
            let mut peer = site.session();
            peer.connect(&mut site, of(&["a", "b"]));
            // What the client has subscribed to itself needs no token.
            peer.subscribe(&mut site, "own");
            let number = peer.command(&mut site, "refresh", of(subs));
            assert_eq!((peer.reply(number).is_none(), peer.ended()), (end.is_some(), end));
            let mut peer = site.session();
            peer.connect(&mut site, of(&["a"]));
            peer.result(&mut site, "refresh", of(&["a"]));
            let mut peer = site.connected("43");
            let number = peer.command(&mut site, "refresh", of(&[]));
            let refused = (peer.reply(number).is_none(), peer.ended());
            assert_eq!(refused, (true, Some(3500)), "another user's");
        }
    }
}

/// What others see of a subscription.
fn info(peer: &mut Peer, site: &mut Site, channel: &str) -> Value {
    let result = peer.result(site, "presence", json!({"channel": channel}));
    let members = result["presence"].as_object().expect("members");
    members.values().next().expect("a member")["chan_info"].clone()
}

#[test]
fn of_a_subscription_only_what_was_said_is_kept() {
    let mut site = Site::new(SEEN);
    let mut peer = site.connected("42");
    let of = |more: Value| {
        let mut claims = json!({"sub": "42", "channel": "$a"});
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        json!({"channel": "$a", "token": token(&claims)})
    };
    peer.result(&mut site, "subscribe", of(json!({})));
    let held = site.stats().counters.session_bytes;
    peer.result(&mut site, "sub_refresh", of(json!({})));
    assert_eq!(site.stats().counters.session_bytes, held, "nothing was said");
    peer.result(&mut site, "sub_refresh", of(json!({"info": {"s": 1}})));
    assert_eq!(info(&mut peer, &mut site, "$a"), json!({"s": 1}));
    assert!(site.stats().counters.session_bytes > held);
}

#[test]
fn no_token_prolongs_what_the_backend_decides_about() {
    let mut site = Site::new(
        "[client.proxy.refresh]\nenabled = true\nendpoint = \"http://backend/refresh\"\n",
    );
    let mut peer = site.connected("42");
    peer.command(&mut site, "refresh", of(&[]));
    assert_eq!((peer.heard(), peer.ended()), (Vec::new(), Some(3501)));
    let mut site = Site::new(
        "[channel.proxy.sub_refresh]\nendpoint = \"http://backend/sub_refresh\"\n\
         [[channel.namespaces]]\nname = \"asks\"\nsub_refresh_proxy_enabled = true\n\
         [[channel.namespaces]]\nname = \"else\"\n",
    );
    let until = |exp: i64, channel: &str| {
        let claims = json!({"sub": "42", "channel": channel, "exp": exp});
        json!({"channel": channel, "token": token(&claims)})
    };
    for (channel, end) in [("$asks:a", Some(3501)), ("$else:a", None)] {
        let mut peer = site.connected("42");
        // Where it is not, it is told so before.
        let request = until(site.now() + 10, channel);
        let reply = peer.ask(&mut site, "sub_refresh", request.clone());
        assert_eq!(reply["error"]["code"], json!(103), "{reply}");
        let result = peer.result(&mut site, "subscribe", request);
        assert_eq!(result.get("ttl").is_none(), end.is_some(), "{result}");
        site.seconds(9);
        let request = until(site.now() + 10, channel);
        let number = peer.command(&mut site, "sub_refresh", request);
        assert_eq!((peer.reply(number).is_none(), peer.ended()), (end.is_some(), end));
    }
}

#[test]
fn what_has_no_answer_yet_is_not_there() {
    for (refused, end) in [(true, None), (true, Some(3010)), (false, Some(3010))] {
        let mut site = Site::with_cores(
            2,
            "[client]\nconcurrency = 8\n[channel.without_namespace]\nhistory_size = 10\n\
             history_ttl = \"60s\"\nforce_recovery = true\n",
        );
        let away = |name: &String| Placement::new(2, 1).home(name) == 1;
        let away = (0..).map(|n| format!("$a{n}")).find(away).expect("some");
        let claims = json!({"sub": "42", "channel": away});
        let subscribe = json!({
            "channel": away, "token": token(&claims), "flag": 2,
            "recover": refused, "offset": 1, "epoch": "elsewhen",
        });
        let mut peer = site.connected_on(0, "42");
        let names: &[&str] = if end.is_some() { &[&away] } else { &[] };
        // In one message: the channel's home core has not answered when the other one comes.
        peer.say(&[
            json!({"id": 50, "subscribe": subscribe}),
            json!({"id": 51, "refresh": of(names)}),
        ]);
        site.run();
        assert_eq!((peer.reply(51).is_some(), peer.ended()), (end.is_none(), end));
        if end.is_none() {
            assert_eq!(peer.reply(50).expect("a reply")["error"]["code"], json!(112));
        }
    }
}

#[test]
fn a_key_that_is_not_here_yet_is_fetched_and_the_client_comes_again() {
    let mut site = Site::new(&format!(
        "[client.subscription_token]\nenabled = true\n\
         jwks_public_endpoint = \"https://issuer/keys\"\n{SEEN}"
    ));
    let mut peer = site.connected("42");
    peer.subscribe(&mut site, "a");
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unknown = |channel: &str| {
        let claims = part(json!({"sub": "42", "channel": channel}));
        let token = format!("{}.{claims}.AAAA", part(json!({"alg": "RS256", "kid": "k"})));
        json!({"channel": channel, "token": token})
    };
    for (command, channel, wanted) in [("subscribe", "$b", 1), ("sub_refresh", "a", 2)] {
        let reply = peer.ask(&mut site, command, unknown(channel));
        assert_eq!(reply["error"]["code"], json!(100), "{command}");
        assert_eq!(site.backend.keys_wanted.load(Ordering::Relaxed), wanted);
    }
    // One that no key can be right for is none of ours.
    let junk = json!({"channel": "a", "token": "junk"});
    peer.command(&mut site, "sub_refresh", junk);
    assert_eq!(peer.ended(), Some(3500));
}
