//! Compression on the way to clients and from them: who gets it, what is compressed and what is
//! not, that a publication is compressed once, and that nothing else looks different.

use serde_json::{Value, json};

use crate::support::deflate::{OFFER, offer_of};
use crate::support::gateway::{Gateway, Heard, PATH, Session, token, token_of};

const TABLES: &str = r#"
[websocket]
compression = true
[uni_websocket]
enabled = true
compression = true
[prometheus]
enabled = true
[[channel.namespaces]]
name = "news"
history_size = 100
history_ttl = "300s"
force_recovery = true
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_history_for_client = true
"#;

fn long(number: u32) -> Value {
    json!({"number": number, "text": "the same words again and again ".repeat(30)})
}

/// What browsers say of themselves and offer, and whether they get it.
#[test]
fn browsers() {
    let gateway = Gateway::start(TABLES);
    let mac = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like \
               Gecko)";
    let phone = |system: &str| {
        format!(
            "Mozilla/5.0 (iPhone; CPU iPhone OS {system} like Mac OS X) AppleWebKit/605.1.15 \
             (KHTML, like Gecko)"
        )
    };
    let plain = "permessage-deflate";
    let chromium = "permessage-deflate; client_max_window_bits";
    for (offer, agent, agreed) in [
        (
            plain,
            "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0".to_owned(),
            true,
        ),
        (
            chromium,
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
             Chrome/142.0.0.0 Safari/537.36"
                .to_owned(),
            true,
        ),
        (plain, format!("{mac} Version/26.0 Safari/605.1.15"), true),
        (plain, format!("{mac} Version/15.4 Safari/605.1.15"), true),
        (plain, format!("{mac} Version/15.1 Safari/605.1.15"), false),
        (plain, format!("{mac} Version/13.1.2 Safari/605.1.15"), false),
        ("x-webkit-deflate-frame", format!("{mac} Version/14.1 Safari/605.1.15"), false),
        (plain, format!("{} Version/18.3 Mobile/15E148 Safari/604.1", phone("18_3")), true),
        (plain, format!("{} Version/15.6 Mobile/15E148 Safari/604.1", phone("15_6")), false),
        (plain, format!("{} CriOS/104.0 Mobile/15E148 Safari/604.1", phone("15_4")), false),
    ] {
        let lines = [format!("Sec-WebSocket-Extensions: {offer}"), format!("User-Agent: {agent}")];
        let lines = lines.each_ref().map(String::as_str);
        let (head, _) = gateway.upgrade_head(PATH, &lines);
        let expected: &[&str] = match agreed {
            true => &["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
            // No header at all: an empty one breaks Safari.
            false => &[],
        };
        assert_eq!(head.values("sec-websocket-extensions"), expected, "{agent}");
        let mut session = gateway.session_at(PATH, &lines);
        session.connect(&json!({"token": token_of("42")}));
        session.subscribe("news:a");
        assert!(
            session.ask("publish", json!({"channel": "news:a", "data": long(1)}))["publish"]
                .is_object()
        );
        let had = session.client().inflated;
        // Its own publication may have come before the reply.
        assert_eq!(session.publication("news:a")["data"], long(1));
        assert_eq!(
            (had + session.client().inflated > 0, session.client().deflates()),
            (agreed, agreed)
        );
    }
    gateway.stop();
}

#[test]
fn a_publication_is_compressed_once_for_all() {
    let gateway = Gateway::start(TABLES);
    let offers = [OFFER.to_owned(), OFFER.to_owned(), offer_of(9), offer_of(15), String::new()];
    let mut sessions: Vec<Session> = (0..15)
        .map(|number| {
            let offer = offers[number % 5].as_str();
            let lines: &[&str] = if offer.is_empty() { &[] } else { &[offer] };
            let mut session = gateway.connected_with("42", lines);
            session.subscribe("news:a");
            session
        })
        .collect();
    for number in 0..5 {
        gateway.api("publish", json!({"channel": "news:a", "data": long(number)}));
    }
    for session in &mut sessions {
        let before = session.client().inflated;
        for number in 0..5 {
            assert_eq!(session.publication("news:a")["data"], long(number));
        }
        let compressed = if session.client().deflates() { 5 } else { 0 };
        assert_eq!(session.client().inflated - before, compressed);
    }
    // The message is longer than a window of nine bits.
    assert_eq!(gateway.metric("deflate_messages_total"), 2 * 5);
    assert_eq!(gateway.metric("deflate_shared_total"), 12 * 5 - 2 * 5);
    assert_eq!(gateway.metric("deflate_connections"), 12);
    gateway.stop();
}

/// Tokens are in the request, names of channels in the reply: its length tells nobody of them.
#[test]
fn secrets_and_short_ones_are_not_compressed() {
    let gateway = Gateway::start(TABLES);
    let mut session = gateway.session_at(PATH, &[OFFER]);
    let info = json!({"about": "a long description of me, and again ".repeat(20)});
    let channels: Vec<String> = (0..40).map(|number| format!("news:{number}")).collect();
    let claims = json!({"sub": "42", "info": info, "channels": channels});
    let result = session.connect(&json!({"token": token(&claims)}));
    assert!(result.to_string().len() > 1000);
    assert_eq!(session.client().inflated, 0, "the reply to connect");
    session.result("publish", json!({"channel": "news:0", "data": 1}));
    assert_eq!(session.publication("news:0")["data"], 1);
    // A publication of the client's carries its information, so it is long.
    let seen = session.client().inflated;
    let history = session.result("history", json!({"channel": "news:0", "limit": 10}));
    assert_eq!(history["publications"].as_array().map(Vec::len), Some(1));
    assert_eq!(session.client().inflated, seen + 1, "a reply with nothing of its own");
    gateway.stop();
}

#[test]
fn recovery_is_compressed_for_each() {
    let gateway = Gateway::start(TABLES);
    let first = gateway.connected("42").subscribe("news:a");
    for number in 0..20 {
        gateway.api("publish", json!({"channel": "news:a", "data": long(number)}));
    }
    let mut session = gateway.connected_with("42", &[OFFER]);
    let request =
        json!({"channel": "news:a", "recover": true, "offset": 0, "epoch": first["epoch"]});
    let result = session.result("subscribe", request);
    assert_eq!((&result["recovered"], session.client().inflated), (&json!(true), 1));
    let data: Vec<Value> = result["publications"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["data"].clone())
        .collect();
    assert_eq!(data, (0..20).map(long).collect::<Vec<_>>());
    gateway.stop();
}

#[test]
fn one_way_sockets_have_it_too() {
    let gateway = Gateway::start(TABLES);
    let mut sessions: Vec<Session> = [&[OFFER][..], &[OFFER], &[]]
        .map(|lines| gateway.session_at("/connection/uni_websocket", lines))
        .into();
    let claims = json!({"sub": "42", "channels": ["news:a"]});
    for session in &mut sessions {
        session.say(&json!({"token": token(&claims)}).to_string());
        let heard = session.hear();
        assert!(matches!(&heard[..], [Heard::Object(push)] if push["connect"].is_object()));
    }
    gateway.api("publish", json!({"channel": "news:a", "data": long(7)}));
    for session in &mut sessions {
        let heard = session.hear();
        let [Heard::Object(push)] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!(push["pub"]["data"], long(7));
        let compressed = u64::from(session.client().deflates());
        assert_eq!(session.client().inflated, compressed);
    }
    assert_eq!(gateway.metric("deflate_messages_total"), 1);
    gateway.stop();
    // Each kind by its own key.
    let gateway =
        Gateway::start(&TABLES.replace("enabled = true\ncompression = true", "enabled = true"));
    assert!(!gateway.session_at("/connection/uni_websocket", &[OFFER]).client().deflates());
    assert!(gateway.session_at(PATH, &[OFFER]).client().deflates());
    gateway.stop();
}

/// What is long goes as it is where the limit says so.
#[test]
fn long_publications_go_as_they_are() {
    let gateway = Gateway::start_listening("", "compression_max_size = \"2KiB\"", TABLES);
    let mut session = gateway.connected_with("42", &[OFFER]);
    session.subscribe("news:a");
    let before = session.client().inflated;
    let data = json!("x".repeat(3000));
    gateway.api("publish", json!({"channel": "news:a", "data": data}));
    assert_eq!(session.publication("news:a")["data"], data);
    assert_eq!(session.client().inflated, before);
    assert_eq!(gateway.metric("deflate_skipped_large_total"), 1);
    gateway.stop();
}
