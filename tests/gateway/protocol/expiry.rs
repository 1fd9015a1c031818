//! Connections and subscriptions that expire, and how they are kept: with a server's own clock.
//! To the second it is `tests/models/gateway_session`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::gateway::{Gateway, Heard, Session, token, unix};
use crate::support::moments::{connect_for, subscribe_for};

/// Without pings, so that nothing is said at all.
const SHORT: &str = "[client]\nping_interval = \"0s\"\nexpired_close_delay = \"1s\"\n\
    expired_sub_close_delay = \"1s\"\n";

/// Connects with a token that expires in so many seconds.
fn expiring(gateway: &Gateway, seconds: i64) -> Session {
    let (session, result) = connect_for(gateway, seconds, &json!({"sub": "42"}));
    assert_eq!(result["expires"], json!(true), "{result}");
    session
}

/// Tokens of this many seconds are renewed twice a second, for longer than one of them lasts with
/// its second of grace.
const LASTS: i64 = 4;
const RENEWED_FOR: Duration = Duration::from_secs(7);

/// Renews what lasts [`LASTS`] in this way for [`RENEWED_FOR`]. A machine that stands still for as
/// long as a token lasts renews it too late, and then all begins anew.
fn renewed(method: &str, begin: impl Fn() -> Session, again: impl Fn() -> Value) -> Session {
    let deadline = Instant::now() + PATIENCE;
    'anew: loop {
        assert!(Instant::now() < deadline, "nothing is renewed in time");
        // Before the token that counts was made.
        let mut last = Instant::now();
        let mut session = begin();
        let begun = Instant::now();
        while begun.elapsed() < RENEWED_FOR {
            let now = Instant::now();
            session.command(method, &again());
            match session.hear().pop() {
                Some(Heard::Object(reply)) if reply.get(method).is_some() => {
                    let result = &reply[method];
                    assert_eq!(result["expires"], json!(true), "{result}");
                    assert!((0..=LASTS).contains(&result["ttl"].as_i64().unwrap_or(0)), "{result}");
                    if method == "refresh" {
                        assert!(result["client"].is_string(), "{result}");
                        assert!(result["version"].is_string(), "{result}");
                    }
                }
                // Whole seconds: it lasts one less than it says, at worst.
                heard => {
                    assert!(last.elapsed() >= Duration::from_secs(LASTS as u64 - 1), "{heard:?}");
                    continue 'anew;
                }
            }
            last = now;
            std::thread::sleep(Duration::from_millis(500));
        }
        // The last one must not be over meanwhile.
        if last.elapsed() < Duration::from_secs(LASTS as u64 - 1) {
            return session;
        }
    }
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
    let again = || json!({"token": token(&json!({"sub": "42", "exp": unix() + LASTS}))});
    let mut session = renewed("refresh", || expiring(&gateway, LASTS), again);
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
    let result = subscribe_for(&mut session, "42", "$a", 2);
    assert_eq!(result["expires"], json!(true), "{result}");
    assert!((0..=2).contains(&result["ttl"].as_i64().unwrap_or(0)), "{result}");
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
    let begin = || {
        let mut session = gateway.connected("42");
        subscribe_for(&mut session, "42", "$a", LASTS);
        session
    };
    let again = || json!({"channel": "$a", "token": subscription("$a", LASTS)});
    let mut session = renewed("sub_refresh", begin, again);
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
    subscribe_for(&mut session, "42", "$a", 1);
    session.result("unsubscribe", json!({"channel": "$a"}));
    let forever = token(&json!({"sub": "42", "channel": "$a"}));
    let result = session.result("subscribe", json!({"channel": "$a", "token": forever}));
    assert_eq!(result, Value::Object(serde_json::Map::new()));
    session.silent(Duration::from_secs(4));
    gateway.stop();
}
