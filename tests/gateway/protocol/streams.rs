//! History, positions, recovery, cache mode, deltas in JSON, versions and idempotency.

use serde_json::{Value, json};

use crate::support::deflate::OFFER;
use crate::support::gateway::{Gateway, Session};

const STREAM: &str = "[channel.without_namespace]\nhistory_size = 5\nhistory_ttl = \"60s\"\n\
    allow_subscribe_for_client = true\nallow_history_for_client = true\n\
    allow_publish_for_client = true\nforce_recovery = true\n";

/// Publishes numbers into a channel and returns its epoch.
fn fill(gateway: &Gateway, channel: &str, numbers: std::ops::RangeInclusive<u64>) -> Value {
    let mut epoch = Value::Null;
    for number in numbers {
        let position = gateway.api("publish", json!({"channel": channel, "data": number}));
        assert_eq!(position["offset"], json!(number));
        epoch = position["epoch"].clone();
    }
    epoch
}

/// Publications as the history has them.
fn publications(numbers: impl IntoIterator<Item = u64>) -> Value {
    numbers.into_iter().map(|n| json!({"data": n, "offset": n})).collect()
}

/// Publications without what only the first of a stream may carry.
fn bare(mut list: Value) -> Value {
    for publication in list.as_array_mut().into_iter().flatten() {
        publication.as_object_mut().map(|one| one.remove("epoch"));
    }
    list
}

#[test]
fn history_is_read_as_asked() {
    let gateway = Gateway::start(STREAM);
    let mut session = gateway.connected("42");
    let empty = session.result("history", json!({"channel": "a", "limit": 10}));
    assert_eq!((&empty["publications"], &empty["offset"]), (&json!([]), &json!(0)));
    let first_epoch = empty["epoch"].as_str().expect("an epoch").to_owned();
    assert!(!first_epoch.is_empty());
    // Of seven, five are kept.
    let epoch = fill(&gateway, "a", 1..=7);
    assert_eq!(epoch, json!(first_epoch));
    let since = |offset: u64| json!({"offset": offset, "epoch": epoch});
    let cases = [
        (json!({}), vec![]),
        (json!({"limit": 0}), vec![]),
        (json!({"limit": -1}), vec![3, 4, 5, 6, 7]),
        (json!({"limit": 2}), vec![3, 4]),
        (json!({"limit": 100}), vec![3, 4, 5, 6, 7]),
        (json!({"limit": -1, "reverse": true}), vec![7, 6, 5, 4, 3]),
        (json!({"limit": 2, "reverse": true}), vec![7, 6]),
        (json!({"limit": -1, "since": since(4)}), vec![5, 6, 7]),
        (json!({"limit": 1, "since": since(4)}), vec![5]),
        (json!({"limit": -1, "since": since(7)}), vec![]),
        (json!({"limit": -1, "since": since(9)}), vec![]),
        (json!({"limit": -1, "since": since(1)}), vec![3, 4, 5, 6, 7]),
        (json!({"limit": -1, "since": since(5), "reverse": true}), vec![4, 3]),
        (json!({"limit": 1, "since": since(5), "reverse": true}), vec![4]),
        (json!({"limit": -1, "since": since(3), "reverse": true}), vec![]),
    ];
    for (mut request, expected) in cases {
        request["channel"] = json!("a");
        let result = session.result("history", request.clone());
        let got = bare(result["publications"].clone());
        assert_eq!(got, publications(expected), "{request}");
        assert_eq!((&result["offset"], &result["epoch"]), (&json!(7), &epoch), "{request}");
        let same = gateway.api("history", request.clone());
        assert_eq!(bare(same["publications"].clone()), got, "{request}");
    }
    let wrong = json!({"offset": 4, "epoch": "another"});
    session.fails("history", json!({"channel": "a", "limit": -1, "since": wrong}), 112);
    let zero = json!({"channel": "a", "limit": -1, "since": since(0), "reverse": true});
    session.fails("history", zero, 107);
    gateway.stop();
}

#[test]
fn history_is_given_up_to_the_cap() {
    let gateway = Gateway::start(&format!("[client]\nhistory_max_publication_limit = 2\n{STREAM}"));
    fill(&gateway, "a", 1..=5);
    let mut session = gateway.connected("42");
    for limit in [-1, 3, 100] {
        let result = session.result("history", json!({"channel": "a", "limit": limit}));
        assert_eq!(bare(result["publications"].clone()), publications([1, 2]), "{limit}");
    }
    gateway.stop();
}

#[test]
fn a_stream_survives_what_it_holds() {
    let gateway = Gateway::start(&STREAM.replace("60s", "1s"));
    let epoch = fill(&gateway, "a", 1..=3);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let result = gateway.api("history", json!({"channel": "a", "limit": -1}));
        assert_eq!((&result["offset"], &result["epoch"]), (&json!(3), &epoch));
        if result["publications"] == json!([]) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "nothing expires");
    }
    fill(&gateway, "a", 4..=4);
    // By the API it goes at once; offset and epoch stay.
    gateway.api("history_remove", json!({"channel": "a"}));
    let result = gateway.api("history", json!({"channel": "a", "limit": -1}));
    assert_eq!(result["publications"], json!([]));
    gateway.stop();
}

/// Subscribes anew with a position.
fn recover(gateway: &Gateway, mut request: Value) -> Value {
    request["channel"] = json!("a");
    request["recover"] = json!(true);
    gateway.connected("42").ask("subscribe", request)
}

#[test]
fn missed_publications_are_replayed() {
    let gateway = Gateway::start(STREAM);
    let epoch = fill(&gateway, "a", 1..=7);
    for (offset, missed) in [(7, vec![]), (6, vec![7]), (4, vec![5, 6, 7]), (2, (3..=7).collect())]
    {
        let reply = recover(&gateway, json!({"epoch": epoch, "offset": offset}));
        let result = &reply["subscribe"];
        assert_eq!(result["recovered"], json!(true), "{offset}: {reply}");
        assert_eq!(result["was_recovering"], json!(true), "{offset}: {reply}");
        assert_eq!(result["recoverable"], json!(true), "{offset}: {reply}");
        assert_eq!(result["positioned"], json!(true), "{offset}: {reply}");
        // The client counts on from where it was.
        assert_eq!((&result["offset"], &result["epoch"]), (&json!(offset), &epoch), "{reply}");
        let got = result.get("publications").cloned().unwrap_or(json!([]));
        assert_eq!(bare(got), publications(missed), "{offset}");
    }
    gateway.stop();
}

#[test]
fn what_cannot_be_replayed_is_said() {
    let gateway = Gateway::start(STREAM);
    let epoch = fill(&gateway, "a", 1..=7);
    for position in [
        json!({"epoch": epoch, "offset": 1}),
        json!({"epoch": epoch, "offset": 0}),
        json!({"epoch": epoch, "offset": 8}),
        json!({"epoch": "another", "offset": 7}),
        json!({"epoch": "_", "offset": 7}),
        json!({"epoch": "another", "offset": 0}),
    ] {
        let reply = recover(&gateway, position.clone());
        let result = &reply["subscribe"];
        assert!(result.get("recovered").is_none(), "{position}: {reply}");
        assert_eq!(result["was_recovering"], json!(true), "{position}: {reply}");
        assert!(result.get("publications").is_none(), "{position}: {reply}");
        assert_eq!((&result["offset"], &result["epoch"]), (&json!(7), &epoch), "{position}");
        let mut strict = position.clone();
        strict["flag"] = json!(2);
        let reply = recover(&gateway, strict);
        assert_eq!(reply["error"]["code"], json!(112), "{position}: {reply}");
    }
    // It can be asked for and given, too.
    let reply = recover(&gateway, json!({"epoch": epoch, "offset": 6, "flag": 2}));
    assert_eq!(reply["subscribe"]["recovered"], json!(true), "{reply}");
    gateway.stop();
}

#[test]
fn a_refused_recovery_leaves_no_subscription() {
    let gateway = Gateway::start(STREAM);
    fill(&gateway, "a", 1..=7);
    let mut session = gateway.connected("42");
    let request = json!({"channel": "a", "recover": true, "epoch": "x", "offset": 1, "flag": 2});
    session.fails("subscribe", request, 112);
    fill(&gateway, "a", 8..=8);
    session.no_push();
    let result = session.subscribe("a");
    assert_eq!(result["offset"], json!(8));
    gateway.stop();
}

#[test]
fn recovery_is_given_up_to_the_limit() {
    let gateway =
        Gateway::start(&format!("[client]\nrecovery_max_publication_limit = 3\n{STREAM}"));
    let epoch = fill(&gateway, "a", 1..=5);
    let reply = recover(&gateway, json!({"epoch": epoch, "offset": 2}));
    assert_eq!(reply["subscribe"]["recovered"], json!(true), "{reply}");
    let reply = recover(&gateway, json!({"epoch": epoch, "offset": 1}));
    assert!(reply["subscribe"].get("recovered").is_none(), "{reply}");
    gateway.stop();
}

#[test]
fn positions_are_given_to_those_who_may_have_them() {
    let options = "allow_subscribe_for_client = true\nhistory_size = 5\nhistory_ttl = \"60s\"\n";
    let gateway = Gateway::start(&format!(
        "[[channel.namespaces]]\nname = \"off\"\n{options}\
         [[channel.namespaces]]\nname = \"ask-position\"\nallow_positioning = true\n{options}\
         [[channel.namespaces]]\nname = \"ask-recovery\"\nallow_recovery = true\n{options}\
         [[channel.namespaces]]\nname = \"position\"\nforce_positioning = true\n{options}\
         [[channel.namespaces]]\nname = \"recovery\"\nforce_recovery = true\n{options}\
         [[channel.namespaces]]\nname = \"history\"\nallow_history_for_client = true\n{options}"
    ));
    let both = json!({"positioned": true, "recoverable": true});
    let none = json!({});
    for (namespace, wish, positioned, recoverable) in [
        ("off", &both, false, false),
        ("ask-position", &none, false, false),
        ("ask-position", &json!({"positioned": true}), true, false),
        ("ask-recovery", &none, false, false),
        ("ask-recovery", &json!({"recoverable": true}), true, true),
        ("position", &none, true, false),
        ("recovery", &none, true, true),
        ("history", &both, true, true),
    ] {
        let mut request = wish.clone();
        request["channel"] = json!(format!("{namespace}:a"));
        let result = gateway.connected("42").result("subscribe", request);
        let says = |key: &str| result.get(key) == Some(&json!(true));
        let got = (says("positioned"), says("recoverable"));
        assert_eq!(got, (positioned, recoverable), "{namespace} {wish}: {result}");
        assert_eq!(result.get("epoch").is_some(), positioned, "{namespace} {wish}: {result}");
    }
    gateway.stop();
}

#[test]
fn publications_carry_offsets_unless_they_skip_history() {
    let gateway = Gateway::start(STREAM);
    let mut session = gateway.connected("42");
    session.subscribe("a");
    fill(&gateway, "a", 1..=1);
    let first = session.publication("a");
    assert_eq!((&first["offset"], &first["data"]), (&json!(1), &json!(1)));
    let skipped = gateway.api("publish", json!({"channel": "a", "data": 0, "skip_history": true}));
    assert_eq!(skipped, json!({}));
    assert_eq!(session.publication("a"), json!({"data": 0}));
    session.result("publish", json!({"channel": "a", "data": 2}));
    assert_eq!(session.publication("a")["offset"], json!(2));
    gateway.stop();
}

#[test]
fn cache_mode_gives_the_newest() {
    let options = "allow_subscribe_for_client = true\nhistory_size = 1\nhistory_ttl = \"60s\"\n\
        force_recovery = true\nforce_recovery_mode = \"cache\"\n";
    let gateway = Gateway::start(&format!(
        "[[channel.namespaces]]\nname = \"ask\"\n{options}\
         [[channel.namespaces]]\nname = \"auto\"\nauto_cache_recover = true\n{options}"
    ));
    let subscribe = |channel: &str, wish: Value| {
        let mut request = wish;
        request["channel"] = json!(channel);
        gateway.connected("42").result("subscribe", request)
    };
    for channel in ["ask:a", "auto:a"] {
        let epoch = fill(&gateway, channel, 1..=4);
        for position in [
            json!({"recover": true, "epoch": epoch, "offset": 1}),
            json!({"recover": true, "epoch": "another", "offset": 1}),
            json!({"recover": true}),
        ] {
            let result = subscribe(channel, position.clone());
            assert_eq!(result["recovered"], json!(true), "{channel} {position}: {result}");
            assert_eq!(bare(result["publications"].clone()), publications([4]), "{result}");
        }
        let there = json!({"recover": true, "epoch": epoch, "offset": 4});
        let result = subscribe(channel, there);
        assert_eq!(result["recovered"], json!(true), "{channel}: {result}");
        assert!(result.get("publications").is_none(), "{channel}: {result}");
    }
    let result = subscribe("ask:a", json!({}));
    assert!(result.get("publications").is_none(), "{result}");
    let result = subscribe("auto:a", json!({}));
    assert_eq!(bare(result["publications"].clone()), publications([4]), "{result}");
    gateway.stop();
}

#[test]
fn a_publication_is_made_once_per_key() {
    let gateway = Gateway::start(STREAM);
    let mut session = gateway.connected("42");
    session.subscribe("a");
    let once = json!({"channel": "a", "data": 1, "idempotency_key": "k"});
    let first = gateway.api("publish", once.clone());
    assert_eq!(gateway.api("publish", once), first);
    // Another channel is another matter.
    gateway.api("publish", json!({"channel": "b", "data": 1, "idempotency_key": "k"}));
    let next = gateway.api("publish", json!({"channel": "a", "data": 2, "idempotency_key": "l"}));
    assert_eq!((&first["offset"], &next["offset"]), (&json!(1), &json!(2)));
    assert_eq!(session.publication("a")["data"], json!(1));
    assert_eq!(session.publication("a")["data"], json!(2));
    session.no_push();
    gateway.stop();
}

#[test]
fn an_older_version_is_dropped() {
    let gateway = Gateway::start(STREAM);
    let mut session = gateway.connected("42");
    session.subscribe("a");
    for (version, epoch) in [(5, ""), (4, ""), (5, ""), (6, ""), (1, "new"), (1, "new"), (2, "new")]
    {
        let publish = json!({"channel": "a", "data": [epoch, version], "version": version,
                "version_epoch": epoch});
        gateway.api("publish", publish);
    }
    for expected in [json!(["", 5]), json!(["", 6]), json!(["new", 1]), json!(["new", 2])] {
        assert_eq!(session.publication("a")["data"], expected);
    }
    session.no_push();
    gateway.stop();
}

const DELTA: &str = "[channel.without_namespace]\nallow_subscribe_for_client = true\n\
    history_size = 10\nhistory_ttl = \"60s\"\nforce_recovery = true\n\
    allowed_delta_types = [\"fossil\"]\n";

fn delta_session(gateway: &Gateway, more: Value) -> (Session, Value) {
    let mut request = more;
    request["channel"] = json!("a");
    request["delta"] = json!("fossil");
    let mut session = gateway.connected("42");
    let result = session.result("subscribe", request);
    assert_eq!(result["delta"], json!(true), "{result}");
    (session, result)
}

/// Patches that are long enough are compressed, and shared as whole publications are.
#[test]
fn deltas_are_compressed() {
    let compression = "[websocket]\ncompression = true\n[prometheus]\nenabled = true\n";
    let gateway = Gateway::start(&format!("{compression}{DELTA}delta_publish = true\n"));
    let mut sessions: Vec<Session> =
        (0..4).map(|_| gateway.connected_with("42", &[OFFER])).collect();
    for session in &mut sessions {
        let request = json!({"channel": "a", "delta": "fossil"});
        assert_eq!(session.result("subscribe", request)["delta"], json!(true));
    }
    let kept = (0..300).map(|n| format!("{n} words ")).collect::<String>();
    let changed = |n: u32| (n..n + 100).map(|n| format!("{n} others ")).collect::<String>();
    let data = |n: u32| json!({"changed": changed(n * 1000), "kept": kept});
    for n in 0..3 {
        gateway.api("publish", json!({"channel": "a", "data": data(n)}));
    }
    for session in &mut sessions {
        let before = session.client().inflated;
        for n in 0..3 {
            let one = session.publication("a");
            assert_eq!(one.get("delta").is_some(), n > 0, "{one}");
            let text = one["data"].as_str().expect("data is a string");
            assert!(n == 0 || (300..2000).contains(&text.len()), "{}", text.len());
        }
        assert_eq!(session.client().inflated - before, 3);
    }
    assert_eq!(gateway.metric("deflate_messages_total"), 3);
    assert_eq!(gateway.metric("deflate_shared_total"), 3 * 3);
    gateway.stop();
}

#[test]
fn deltas_travel_as_text() {
    let gateway = Gateway::start(&format!("{DELTA}delta_publish = true\n"));
    let (mut session, first) = delta_session(&gateway, json!({}));
    let mut plain = gateway.connected("43");
    plain.subscribe("a");
    let long = "the quick brown fox jumps over the lazy dog ".repeat(5);
    let data = |n: u32| json!({"text": long, "n": n});
    for n in 0..3 {
        gateway.api("publish", json!({"channel": "a", "data": data(n)}));
        assert_eq!(plain.publication("a")["data"], data(n));
    }
    let full = session.publication("a");
    assert!(full.get("delta").is_none(), "{full}");
    let text = full["data"].as_str().expect("data is a string");
    assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), data(0));
    for _ in 1..3 {
        let patch = session.publication("a");
        assert_eq!(patch["delta"], json!(true), "{patch}");
        let text = patch["data"].as_str().expect("data is a string");
        assert!(text.ends_with(';') && text.len() < 100, "{text}");
    }
    // Replayed: the first in full, the others against the one before.
    let again = json!({"recover": true, "offset": 0, "epoch": first["epoch"]});
    let (mut late, result) = delta_session(&gateway, again);
    let list = result["publications"].as_array().expect("a list");
    let marked: Vec<_> = list.iter().map(|one| one["delta"] == json!(true)).collect();
    assert_eq!(marked, [false, true, true], "{result}");
    for one in list {
        let text = one["data"].as_str().expect("data is a string");
        match one["delta"] == json!(true) {
            true => assert!(text.ends_with(';') && text.len() < 100, "{text}"),
            false => assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), data(0)),
        }
    }
    gateway.api("publish", json!({"channel": "a", "data": data(3)}));
    assert!(late.publication("a")["data"].is_string());
    // The history is never a patch.
    let history = gateway.api("history", json!({"channel": "a", "limit": -1}));
    for (n, one) in history["publications"].as_array().expect("a list").iter().enumerate() {
        assert_eq!(one["data"], data(n as u32));
    }
    gateway.stop();
}

#[test]
fn deltas_are_sent_where_they_pay_and_are_wanted() {
    let gateway = Gateway::start(DELTA);
    let (mut session, _) = delta_session(&gateway, json!({}));
    let publish = |data: &Value, delta: bool| {
        gateway.api("publish", json!({"channel": "a", "data": data, "delta": delta}));
    };
    let long = "x".repeat(1000);
    for (data, delta, expected) in [
        (json!([long, 1]), true, Some(false)),
        (json!([long, 2]), true, Some(true)),
        (json!([long, 3]), false, Some(false)),
        // Against one that was not prepared it may be a patch.
        (json!([long, 4]), true, None),
        (json!([long, 5]), true, Some(true)),
        // A patch that is not shorter is none.
        (json!(1), true, Some(false)),
        (json!([long, 6]), true, Some(false)),
    ] {
        publish(&data, delta);
        let publication = session.publication("a");
        let patched = publication["delta"] == json!(true);
        assert_eq!(patched, expected.unwrap_or(patched), "{data} {publication}");
        let text = publication["data"].as_str().expect("data is a string");
        if !patched {
            assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), data);
        }
    }
    gateway.stop();
}
