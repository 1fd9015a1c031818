//! Who may subscribe, publish, read the history and ask who is there.

use serde_json::json;

use crate::support::gateway::{Gateway, Session};

/// The commands that have a ladder of permissions, and what each needs to be available at all.
const LADDERS: [(&str, &str, &str); 4] = [
    ("publish", "publish", ""),
    ("history", "history", "history_size = 10\nhistory_ttl = \"60s\"\n"),
    ("presence", "presence", "presence = true\n"),
    ("presence_stats", "presence", "presence = true\n"),
];

fn refused(session: &mut Session, method: &str) -> Option<u64> {
    let reply = session.ask(method, json!({"channel": "a", "data": 1}));
    match reply.get(method) {
        Some(_) => None,
        None => Some(reply["error"]["code"].as_u64().expect("an error's code")),
    }
}

#[test]
fn publish_history_and_presence_are_granted_step_by_step() {
    // What is allowed; whether a user may, a subscribed user, nobody, a subscribed nobody.
    let steps: [(&[&str], [bool; 4]); 5] = [
        (&[], [false, false, false, false]),
        (&["client"], [true, true, false, false]),
        (&["subscriber"], [false, true, false, false]),
        (&["client", "anonymous"], [true, true, true, true]),
        (&["subscriber", "anonymous"], [false, true, false, true]),
    ];
    for (allowed, expected) in steps {
        let mut config = "[client]\nallow_anonymous_connect_without_token = true\n\
             [channel.without_namespace]\nallow_subscribe_for_client = true\n\
             allow_subscribe_for_anonymous = true\nhistory_size = 10\nhistory_ttl = \"60s\"\n\
             presence = true\n"
            .to_owned();
        for what in ["publish", "history", "presence"] {
            for whom in allowed {
                config += &format!("allow_{what}_for_{whom} = true\n");
            }
        }
        let gateway = Gateway::start(&config);
        for (method, _, _) in LADDERS {
            let cases = [("42", false), ("42", true), ("", false), ("", true)];
            for ((user, subscribed), may) in cases.into_iter().zip(expected) {
                let mut session = gateway.connected(user);
                if subscribed {
                    session.subscribe("a");
                }
                let got = refused(&mut session, method);
                let what = format!("{method} by {user:?}, subscribed {subscribed}, {allowed:?}");
                assert_eq!(got, (!may).then_some(103), "{what}");
            }
        }
        gateway.stop();
    }
}

#[test]
fn what_is_not_switched_on_is_not_available() {
    let gateway = Gateway::start(
        "[channel.without_namespace]\nallow_history_for_client = true\n\
         allow_presence_for_client = true\nallow_publish_for_client = true\n",
    );
    let mut session = gateway.connected("42");
    for (method, _, needs) in LADDERS {
        let expected = (!needs.is_empty()).then_some(108);
        assert_eq!(refused(&mut session, method), expected, "{method}");
    }
    gateway.stop();
}

#[test]
fn channels_are_checked_for_every_command() {
    let gateway = Gateway::start("");
    let methods = ["publish", "history", "presence", "presence_stats"];
    for method in methods {
        let mut session = gateway.connected("42");
        session.fails(method, json!({"channel": "unknown:a", "data": 1}), 102);
        session.command(method, &json!({"data": 1}));
        session.closed(3501);
    }
    for method in ["unsubscribe", "sub_refresh"] {
        let mut session = gateway.connected("42");
        session.command(method, &json!({"token": "t"}));
        session.closed(3501);
    }
    gateway.stop();
}

#[test]
fn users_subscribe_where_they_may() {
    let gateway = Gateway::start(
        "[client]\nallow_anonymous_connect_without_token = true\n\
         [[channel.namespaces]]\nname = \"none\"\n\
         [[channel.namespaces]]\nname = \"users\"\nallow_subscribe_for_client = true\n\
         [[channel.namespaces]]\nname = \"both\"\nallow_subscribe_for_client = true\n\
         allow_subscribe_for_anonymous = true\n",
    );
    for (user, channel, may) in [
        ("42", "a", false),
        ("42", "none:a", false),
        ("42", "users:a", true),
        ("42", "both:a", true),
        ("42", "$users:a", false),
        ("", "none:a", false),
        ("", "users:a", false),
        ("", "both:a", true),
    ] {
        let mut session = gateway.connected(user);
        match may {
            true => _ = session.subscribe(channel),
            false => session.fails("subscribe", json!({"channel": channel}), 103),
        }
    }
    gateway.stop();
}

#[test]
fn without_checks_everything_is_allowed() {
    let gateway = Gateway::start(
        "[client]\ninsecure = true\n[channel.without_namespace]\nhistory_size = 10\n\
         history_ttl = \"60s\"\npresence = true\nallow_user_limited_channels = true\n\
         [[channel.namespaces]]\nname = \"plain\"\n",
    );
    let mut session = gateway.connected("");
    for (method, _, _) in LADDERS {
        assert_eq!(refused(&mut session, method), None, "{method}");
    }
    session.subscribe("dialog#42");
    session.fails("subscribe", json!({"channel": "unknown:a"}), 102);
    session.fails("presence", json!({"channel": "plain:a"}), 108);
    session.fails("history", json!({"channel": "plain:a"}), 108);
    gateway.stop();
}

#[test]
fn data_must_be_there_and_of_the_format() {
    let gateway = Gateway::start(
        "[client]\ninsecure = true\n[[channel.namespaces]]\nname = \"any\"\n\
         [[channel.namespaces]]\nname = \"json\"\npublication_data_format = \"json\"\n\
         [[channel.namespaces]]\nname = \"object\"\npublication_data_format = \"json_object\"\n",
    );
    let mut session = gateway.connected("");
    for channel in ["any:a", "json:a", "object:a"] {
        session.fails("publish", json!({"channel": channel}), 107);
        session.result("publish", json!({"channel": channel, "data": {}}));
    }
    session.result("publish", json!({"channel": "json:a", "data": "text"}));
    session.fails("publish", json!({"channel": "object:a", "data": "text"}), 107);
    session.fails("publish", json!({"channel": "object:a", "data": [1]}), 107);
    gateway.stop();
}

#[test]
fn presence_tells_who_and_how_many() {
    let gateway = Gateway::start(
        "[channel.without_namespace]\npresence = true\nallow_subscribe_for_client = true\n\
         allow_presence_for_client = true\n",
    );
    let mut one = gateway.connected("42");
    let empty = one.ask("presence", json!({"channel": "a"}));
    assert_eq!(empty["presence"], json!({"presence": {}}));
    let stats = one.ask("presence_stats", json!({"channel": "a"}));
    assert_eq!(stats["presence_stats"], json!({"num_clients": 0, "num_users": 0}));
    let mut two = gateway.connected("42");
    let mut three = gateway.connected("43");
    for session in [&mut one, &mut two, &mut three] {
        session.subscribe("a");
    }
    let stats = one.result("presence_stats", json!({"channel": "a"}));
    assert_eq!(stats, json!({"num_clients": 3, "num_users": 2}));
    let present = one.result("presence", json!({"channel": "a"}));
    let present = present["presence"].as_object().expect("a map");
    assert!(present.iter().all(|(id, info)| info["client"] == json!(id)), "{present:?}");
    three.result("unsubscribe", json!({"channel": "a"}));
    let stats = one.result("presence_stats", json!({"channel": "a"}));
    assert_eq!(stats, json!({"num_clients": 2, "num_users": 1}));
    // The API says the same.
    let stats = gateway.api("presence_stats", json!({"channel": "a"}));
    assert_eq!(stats, json!({"num_clients": 2, "num_users": 1}));
    drop(two);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while gateway.api("presence_stats", json!({"channel": "a"}))["num_clients"] != json!(1) {
        assert!(std::time::Instant::now() < deadline, "who is gone stays present");
    }
    gateway.stop();
}
