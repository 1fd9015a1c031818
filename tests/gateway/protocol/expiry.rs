//! Connections and subscriptions that expire, and how they are kept: with a server's own clock.
//! To the second it is `tests/models/gateway_session`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Session, token, unix};

/// Without pings, so that nothing is said at all.
const SHORT: &str = "[client]\nping_interval = \"0s\"\nexpired_close_delay = \"1s\"\n\
    expired_sub_close_delay = \"1s\"\n";

/// Connects with a token that expires in so many seconds.
fn expiring(gateway: &Gateway, seconds: i64) -> Session {
    let mut session = gateway.session();
    let claims = json!({"sub": "42", "exp": unix() + seconds});
    let result = session.connect(&json!({"token": token(&claims)}));
    assert_eq!(result["expires"], json!(true), "{result}");
    session
}

#[test]
fn a_connection_that_is_not_refreshed_ends() {
    let gateway = Gateway::start(SHORT);
    let begun = Instant::now();
    let mut session = expiring(&gateway, 2);
    session.closed(3005);
    // Two seconds and one of grace, in whole seconds.
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    gateway.stop();
}

#[test]
fn a_connection_that_is_refreshed_stays() {
    let gateway = Gateway::start(SHORT);
    let mut session = expiring(&gateway, 4);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        let claims = json!({"sub": "42", "exp": unix() + 4});
        let result = session.result("refresh", json!({"token": token(&claims)}));
        assert_eq!(result["expires"], json!(true), "{result}");
        assert!((1..=4).contains(&result["ttl"].as_i64().unwrap_or(0)), "{result}");
        assert!(result["client"].is_string() && result["version"].is_string(), "{result}");
        std::thread::sleep(Duration::from_millis(500));
    }
    let forever = token(&json!({"sub": "42"}));
    let result = session.result("refresh", json!({"token": forever}));
    assert!(result.get("expires").is_none() && result.get("ttl").is_none(), "{result}");
    session.silent(Duration::from_secs(6));
    gateway.stop();
}

#[test]
fn refresh_tokens_are_verified() {
    let gateway = Gateway::start("[[channel.namespaces]]\nname = \"ns\"\n");
    let now = unix();
    for (token, code) in [
        (String::new(), 3501),
        ("junk".to_owned(), 3500),
        (token(&json!({"sub": "42", "exp": now - 10})), 3005),
        (token(&json!({"sub": "42", "exp": now + 60, "expire_at": now - 10})), 3005),
        (token(&json!({"sub": "43"})), 3500),
        (token(&json!({"sub": "42", "channel": "a"})), 3500),
        // Other server-side subscriptions than before.
        (token(&json!({"sub": "42", "channels": ["ns:a"]})), 3010),
    ] {
        let mut session = expiring(&gateway, 600);
        session.command("refresh", &json!({"token": token}));
        session.closed(code);
    }
    gateway.stop();
}

const PRIVATE: &str = "history_size = 10\nhistory_ttl = \"60s\"\nforce_recovery = true\n";

fn subscription(channel: &str, seconds: i64) -> String {
    token(&json!({"sub": "42", "channel": channel, "exp": unix() + seconds}))
}

#[test]
fn a_subscription_that_is_not_refreshed_ends() {
    let gateway = Gateway::start(&format!("{SHORT}[channel.without_namespace]\n{PRIVATE}"));
    let mut session = gateway.connected("42");
    let request = json!({"channel": "$a", "token": subscription("$a", 2)});
    let result = session.result("subscribe", request);
    assert_eq!(result["expires"], json!(true), "{result}");
    assert!((1..=2).contains(&result["ttl"].as_i64().unwrap_or(0)), "{result}");
    let end = json!({"code": 2501, "reason": "subscription expired"});
    assert_eq!(session.push(), json!({"channel": "$a", "unsubscribe": end}));
    gateway.api("publish", json!({"channel": "$a", "data": 1}));
    session.no_push();
    // It can be made anew.
    session.result("subscribe", json!({"channel": "$a", "token": subscription("$a", 600)}));
    gateway.stop();
}

#[test]
fn a_subscription_that_is_refreshed_stays() {
    let gateway = Gateway::start(SHORT);
    let mut session = gateway.connected("42");
    session.result("subscribe", json!({"channel": "$a", "token": subscription("$a", 4)}));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        let request = json!({"channel": "$a", "token": subscription("$a", 4)});
        let result = session.result("sub_refresh", request);
        assert_eq!(result["expires"], json!(true), "{result}");
        std::thread::sleep(Duration::from_millis(500));
    }
    let forever = token(&json!({"sub": "42", "channel": "$a"}));
    let result = session.result("sub_refresh", json!({"channel": "$a", "token": forever}));
    assert_eq!(result, json!({}));
    session.silent(Duration::from_secs(6));
    gateway.stop();
}

#[test]
fn subscription_refresh_tokens_are_verified() {
    let gateway = Gateway::start("");
    let now = unix();
    let claims = |channel: &str, user: &str, exp: i64| {
        token(&json!({"sub": user, "channel": channel, "exp": exp}))
    };
    let mut session = gateway.connected("42");
    let not_subscribed = json!({"channel": "$a", "token": subscription("$a", 600)});
    session.fails("sub_refresh", not_subscribed, 103);
    session.result("subscribe", json!({"channel": "$a", "token": subscription("$a", 600)}));
    let refresh = |token: String| json!({"channel": "$a", "token": token});
    let over = json!({"sub": "42", "channel": "$a", "exp": now + 60, "expire_at": now - 10});
    for (token, code) in [
        (String::new(), 3500),
        ("junk".to_owned(), 3500),
        // An error would be the end of the subscription; closed, SDKs come back with another token.
        (claims("$a", "42", now - 10), 3006),
        (token(&over), 3006),
        (claims("$b", "42", now + 600), 3500),
        (claims("$a", "43", now + 600), 3500),
    ] {
        let mut session = gateway.connected("42");
        session.result("subscribe", json!({"channel": "$a", "token": subscription("$a", 600)}));
        session.command("sub_refresh", &refresh(token));
        session.closed(code);
    }
    gateway.stop();
}

#[test]
fn what_is_unsubscribed_does_not_expire() {
    let gateway = Gateway::start(SHORT);
    let mut session = gateway.connected("42");
    session.result("subscribe", json!({"channel": "$a", "token": subscription("$a", 1)}));
    session.result("unsubscribe", json!({"channel": "$a"}));
    let forever = token(&json!({"sub": "42", "channel": "$a"}));
    let result = session.result("subscribe", json!({"channel": "$a", "token": forever}));
    assert_eq!(result, Value::Object(serde_json::Map::new()));
    session.silent(Duration::from_secs(4));
    gateway.stop();
}
