//! Tokens and grants that end within seconds, on a machine that may stand still for longer: a test
//! asks again for one that ended before the server had read it.

use std::time::Instant;

use serde_json::{Value, json};

use super::PATIENCE;
use super::gateway::{Gateway, Session, token, unix};

/// Codes of errors that say so: of a token, and of what the backend granted.
const OVER: [u64; 2] = [109, 110];

/// Connects with what is made of a moment so many seconds from now. The session, and the result.
pub(crate) fn connect_until(
    gateway: &Gateway,
    seconds: i64,
    parameters: impl Fn(i64) -> Value,
) -> (Session, Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Who was refused may not try again.
        let mut session = gateway.session();
        if let Some(result) = ask(&mut session, "connect", parameters(unix() + seconds)) {
            return (session, result);
        }
        assert!(Instant::now() < deadline, "it is always over");
    }
}

/// Likewise with a token of these claims, which expires then.
pub(crate) fn connect_for(gateway: &Gateway, seconds: i64, claims: &Value) -> (Session, Value) {
    connect_until(gateway, seconds, |exp| {
        let mut claims = claims.clone();
        claims["exp"] = json!(exp);
        json!({"token": token(&claims)})
    })
}

/// Subscribes with a token of this user that expires so many seconds from now.
pub(crate) fn subscribe_for(
    session: &mut Session,
    user: &str,
    channel: &str,
    seconds: i64,
) -> Value {
    subscribe_until(session, || {
        let claims = json!({"sub": user, "channel": channel, "exp": unix() + seconds});
        json!({"channel": channel, "token": token(&claims)})
    })
}

/// Subscribes with what is made anew each time.
pub(crate) fn subscribe_until(session: &mut Session, parameters: impl Fn() -> Value) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = ask(session, "subscribe", parameters()) {
            return result;
        }
        assert!(Instant::now() < deadline, "it is always over");
    }
}

/// The result; `None`: what was asked for is over.
fn ask(session: &mut Session, method: &str, parameters: Value) -> Option<Value> {
    let mut reply = session.ask(method, parameters);
    if reply.get(method).is_some() {
        return Some(reply[method].take());
    }
    let code = reply["error"]["code"].as_u64();
    assert!(code.is_some_and(|code| OVER.contains(&code)), "{method}: {reply}");
    None
}
