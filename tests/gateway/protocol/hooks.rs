//! What the application's backend is asked, and what its answers do; keys that are fetched from it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::gateway::{Gateway, Heard, token_of, unix};
use crate::support::moments::connect_until;

/// A backend that answers each path with what is set for it (a number is a status; what expires in
/// some seconds, `expire_in`, does that from the answer on), and remembers what it was asked.
/// Its thread ends with the process.
pub(super) struct Backend {
    address: SocketAddr,
    answers: Arc<Mutex<Vec<(&'static str, Value)>>>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// Held by a test: no answer is given meanwhile.
    pub(super) gate: Arc<Mutex<()>>,
}

impl Backend {
    pub(super) fn start(answers: &[(&'static str, Value)]) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), answers)
    }

    pub(super) fn start_at(address: SocketAddr, answers: &[(&'static str, Value)]) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let backend = Self {
            address: listener.local_addr().expect("bound"),
            answers: Arc::new(Mutex::new(answers.to_vec())),
            asked: Arc::default(),
            gate: Arc::default(),
        };
        let (answers, asked) = (backend.answers.clone(), backend.asked.clone());
        let gate = backend.gate.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, asked, gate) = (answers.clone(), asked.clone(), gate.clone());
                std::thread::spawn(move || serve(stream, &answers, &asked, &gate));
            }
        });
        backend
    }

    /// Configuration: `{}` is where this backend is. A hook of which nothing is said has time: a
    /// thread of the backend may not run for a while.
    pub(super) fn configures(&self, tables: &str) -> Gateway {
        let tables = tables.replace("{}", &self.url());
        let (mut all, mut lines) = (String::new(), tables.lines().peekable());
        while let Some(line) = lines.next() {
            all += &format!("{line}\n");
            let is_said = lines.peek().is_some_and(|next| next.starts_with("timeout"));
            if line.starts_with("endpoint = ") && !is_said {
                all += "timeout = \"60s\"\n";
            }
        }
        Gateway::start(&all)
    }

    pub(super) fn set(&self, path: &'static str, answer: Value) {
        let mut answers = self.answers.lock().expect("no panic");
        answers.retain(|(at, _)| *at != path);
        answers.push((path, answer));
    }

    /// Waits until so many questions came to a path, and returns what was asked there.
    pub(super) fn wait_for(&self, path: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = self.asked.lock().expect("no panic");
            let there = asked.iter().filter(|(at, _)| at == path);
            let there: Vec<_> = there.map(|(_, question)| question.clone()).collect();
            drop(asked);
            if there.len() >= count {
                return there;
            }
            assert!(Instant::now() < deadline, "{} questions at {path}", there.len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The last question at a path.
    pub(super) fn asked(&self, path: &str) -> Value {
        let asked = self.asked.lock().expect("no panic");
        let last = asked.iter().rev().find(|(at, _)| at == path);
        last.map(|(_, question)| question.clone()).expect("asked")
    }
}

type Shared<T> = Arc<Mutex<Vec<T>>>;

/// Requests of one connection, until it ends.
fn serve(
    stream: TcpStream,
    answers: &Shared<(&'static str, Value)>,
    asked: &Shared<(String, Value)>,
    gate: &Mutex<()>,
) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let question = serde_json::from_slice(&body).unwrap_or_default();
        asked.lock().ok()?.push((path.clone(), question));
        drop(gate.lock().ok()?);
        let answer = answers.lock().ok()?.iter().find(|(at, _)| *at == path).cloned();
        if answer.as_ref().is_some_and(|(_, answer)| *answer == json!("hang")) {
            // Until the other end gives up.
            let _ = reader.read(&mut [0]);
            return None;
        }
        let (status, body) = match answer {
            Some((_, Value::Number(status))) => (format!("{status} As Told"), String::new()),
            Some((_, answer)) => ("200 OK".to_owned(), from_now(answer).to_string()),
            None => ("500 Internal Server Error".to_owned(), String::new()),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
        writer.write_all((head + &body).as_bytes()).ok()?;
    }
}

/// An answer of which something expires in some seconds, as it is given now.
fn from_now(mut answer: Value) -> Value {
    if let Some(fields) = answer.as_object_mut() {
        if let Some(seconds) = fields.remove("expire_in").and_then(|it| it.as_i64()) {
            fields.insert("expire_at".to_owned(), json!(unix() + seconds));
        }
        fields.values_mut().for_each(|value| *value = from_now(value.take()));
    }
    answer
}

#[test]
fn the_backend_says_who_a_connection_is() {
    let who = json!({"result": {
        "user": "42", "data": {"hello": 1}, "info": {"name": "Ann"}, "channels": ["news"],
    }});
    let backend = Backend::start(&[("/connect", who)]);
    let gateway = backend.configures(
        "[client.proxy.connect]\nenabled = true\nendpoint = \"{}/connect\"\n\
         [channel.without_namespace]\npresence = true\nallow_presence_for_subscriber = true\n",
    );
    let mut session = gateway.session();
    let result = session.connect(&json!({"name": "js", "data": {"from": "client"}}));
    assert_eq!(result["data"], json!({"hello": 1}));
    assert!(result["subs"]["news"].is_object(), "{result}");
    let question = backend.asked("/connect");
    assert_eq!(question["data"], json!({"from": "client"}));
    assert_eq!(question["name"], json!("js"));
    assert_eq!(question["transport"], json!("websocket"));
    let presence = session.result("presence", json!({"channel": "news"}));
    let id = result["client"].as_str().expect("an id");
    let expected = json!({"user": "42", "client": id, "conn_info": {"name": "Ann"}});
    assert_eq!(presence["presence"][id], expected);

    backend.set("/connect", json!({"error": {"code": 1000, "message": "not now"}}));
    let mut session = gateway.session();
    session.command("connect", &json!({}));
    let reply = session.reply(1);
    assert_eq!(reply["error"], json!({"code": 1000, "message": "not now"}));

    backend.set("/connect", json!({"disconnect": {"code": 4501, "reason": "never"}}));
    let mut session = gateway.session();
    session.command("connect", &json!({}));
    let heard = session.hear();
    assert!(matches!(&heard[..], [Heard::Close(4501, why)] if why == "never"), "{heard:?}");
    gateway.stop();
}

#[test]
fn commands_that_come_with_connect_wait_for_it() {
    let backend = Backend::start(&[("/connect", json!({"result": {"user": "42"}}))]);
    let gateway = backend.configures(
        "[client.proxy.connect]\nenabled = true\nendpoint = \"{}/connect\"\n\
         [channel.without_namespace]\nallow_subscribe_for_client = true\n",
    );
    let mut session = gateway.session();
    session.say("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"news\"}}");
    assert!(session.reply(1)["connect"].is_object());
    assert!(session.reply(2)["subscribe"].is_object());
    gateway.stop();
}

#[test]
fn the_backend_decides_about_subscriptions_publications_and_calls() {
    let backend = Backend::start(&[
        ("/subscribe", json!({"result": {"data": {"welcome": true}}})),
        ("/publish", json!({"result": {"data": {"text": "checked"}}})),
        ("/rpc", json!({"result": {"data": {"answer": 42}}})),
    ]);
    let gateway = backend.configures(
        "[channel.proxy.subscribe]\nendpoint = \"{}/subscribe\"\n\
         [channel.proxy.publish]\nendpoint = \"{}/publish\"\n\
         [rpc.proxy]\nendpoint = \"{}/rpc\"\n\
         [rpc.without_namespace]\nproxy_enabled = true\n\
         [channel.without_namespace]\nsubscribe_proxy_enabled = true\n\
         publish_proxy_enabled = true\n",
    );
    let mut session = gateway.connected("42");
    let result = session.subscribe("news");
    assert_eq!(result["data"], json!({"welcome": true}));
    let question = backend.asked("/subscribe");
    assert_eq!((&question["user"], &question["channel"]), (&json!("42"), &json!("news")));

    session.command("publish", &json!({"channel": "news", "data": {"text": "raw"}}));
    assert_eq!(session.publication("news")["data"], json!({"text": "checked"}));
    assert_eq!(backend.asked("/publish")["data"], json!({"text": "raw"}));

    let result = session.result("rpc", json!({"method": "sum", "data": [40, 2]}));
    assert_eq!(result, json!({"data": {"answer": 42}}));
    assert_eq!(backend.asked("/rpc")["method"], json!("sum"));

    backend.set("/subscribe", json!({"error": {"code": 103, "message": "permission denied"}}));
    session.fails("subscribe", json!({"channel": "secret"}), 103);
    backend.set("/publish", json!({"error": {"code": 103, "message": "permission denied"}}));
    session.fails("publish", json!({"channel": "news", "data": {}}), 103);
    // No usable answer: the client may try again.
    backend.set("/rpc", json!("nonsense"));
    session.fails("rpc", json!({"method": "sum", "data": {}}), 100);
    gateway.stop();
}

#[test]
fn a_hook_whose_backend_hangs_delays_no_other() {
    let backend = Backend::start(&[
        ("/rpc", json!("hang")),
        ("/subscribe", json!({"result": {}})),
        ("/publish", json!({"result": {}})),
    ]);
    let gateway = backend.configures(
        "[channel.proxy.subscribe]\nendpoint = \"{}/subscribe\"\n\
         [channel.proxy.publish]\nendpoint = \"{}/publish\"\n\
         [rpc.proxy]\nendpoint = \"{}/rpc\"\ntimeout = \"1h\"\nconcurrency = 1\n\
         [rpc.without_namespace]\nproxy_enabled = true\n\
         [channel.without_namespace]\nsubscribe_proxy_enabled = true\n\
         publish_proxy_enabled = true\n",
    );
    let mut hangs: Vec<_> = (0..3).map(|n| gateway.connected(&n.to_string())).collect();
    for session in &mut hangs {
        session.command("rpc", &json!({"method": "m", "data": {}}));
    }
    let mut session = gateway.connected("42");
    session.subscribe("news");
    session.result("publish", json!({"channel": "news", "data": {}}));
    gateway.stop();
}

#[test]
fn what_is_wrong_with_a_request_is_said_before_the_backend_is_asked() {
    let backend = Backend::start(&[("/subscribe", json!({"result": {}}))]);
    let gateway = backend.configures(
        "[client]\nchannel_limit = 2\n\
         [channel.proxy.subscribe]\nendpoint = \"{}/subscribe\"\n\
         [channel.without_namespace]\nsubscribe_proxy_enabled = true\n\
         allow_tags_filter = true\n",
    );
    let mut session = gateway.connected("42");
    for tf in [
        json!({"key": "k", "cmp": "eq", "val": "v".repeat(4096)}),
        json!({"op": "and", "nodes": vec![json!({}); 20_000]}),
        json!({"op": "xor", "nodes": []}),
    ] {
        session.fails("subscribe", json!({"channel": "news", "tf": tf}), 107);
    }
    assert!(backend.asked.lock().expect("no panic").is_empty());
    session.result("subscribe", json!({"channel": "news", "tf": {"key": "k", "cmp": "ex"}}));
    session.command("subscribe", &json!({"channel": "more", "tf": {"nodes": 1}}));
    session.closed(3501);
    let mut session = gateway.session();
    session.command("connect", &json!({"subs": {"a": {}, "b": {}, "c": {}}}));
    session.closed(3505);
    gateway.stop();
}

#[test]
fn the_backend_prolongs_or_ends_what_expires() {
    let backend = Backend::start(&[
        ("/connect", json!({"result": {"user": "42", "expire_in": 2}})),
        ("/refresh", json!({"result": {"expire_in": 3600}})),
    ]);
    let gateway = backend.configures(
        "[client.proxy.connect]\nenabled = true\nendpoint = \"{}/connect\"\n\
         [client.proxy.refresh]\nenabled = true\nendpoint = \"{}/refresh\"\n",
    );
    let (mut stays, result) = connect_until(&gateway, 0, |_| json!({}));
    // The client has nothing to do with it.
    assert_eq!(result.get("expires"), None, "{result}");
    assert_eq!(backend.wait_for("/refresh", 1)[0]["user"], json!("42"));
    stays.no_push();

    backend.set("/refresh", json!({"result": {"expired": true}}));
    let (mut goes, _) = connect_until(&gateway, 0, |_| json!({}));
    goes.closed(3005);
    gateway.stop();
}

#[test]
fn keys_are_fetched_from_their_endpoint() {
    let backend = Backend::start(&[("/keys", keys_of(PUBLIC_ED25519))]);
    let gateway = Gateway::start_whole(&format!(
        "[http_server]\nport = 0\n[http_api]\nkey = \"k\"\n\
         [client.token]\njwks_public_endpoint = \"http://{}/keys\"\n",
        backend.address
    ));
    assert_eq!(told(&gateway, &signed(&json!({"sub": "42"}))), None);
    assert_eq!(told(&gateway, &token_of("42")), Some(3500));
    gateway.stop();
}

/// Both realms have a key of the same name.
#[test]
fn each_issuer_has_its_own_keys() {
    let other = "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw";
    let (staff, public) = (keys_of(PUBLIC_ED25519), keys_of(other));
    let backend = Backend::start(&[("/staff/keys", staff), ("/public/keys", public)]);
    let gateway = Gateway::start_whole(&format!(
        "[http_server]\nport = 0\n[http_api]\nkey = \"k\"\n\
         [client.token]\njwks_public_endpoint = \"http://{}/{{{{realm}}}}/keys\"\n\
         issuer_regex = \"^https://id/(?P<realm>staff|public)$\"\n",
        backend.address
    ));
    let of = |realm: &str| signed(&json!({"sub": "42", "iss": format!("https://id/{realm}")}));
    assert_eq!(told(&gateway, &of("staff")), None);
    // With the key of the other realm.
    assert_eq!(told(&gateway, &of("public")), Some(3500));
    for nowhere in ["else", "staff/keys/../../x", ""] {
        assert_eq!(told(&gateway, &of(nowhere)), Some(3500), "{nowhere}");
    }
    assert_eq!(told(&gateway, &signed(&json!({"sub": "42"}))), Some(3500));
    // Nothing else was asked for.
    let asked = backend.asked.lock().expect("no panic");
    assert!(asked.iter().all(|(path, _)| path == "/staff/keys" || path == "/public/keys"));
    drop(asked);
    gateway.stop();
}

/// A set with one key.
fn keys_of(public: &str) -> Value {
    json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "x": public},
    ]})
}

/// A token with that key.
fn signed(claims: &Value) -> String {
    let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::EdDSA) };
    let der = [&PKCS8_ED25519[..], &SECRET_ED25519[..]].concat();
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(&der)).expect("signs")
}

/// What a client with this token is closed with; `None`: nothing, it is connected. Until keys are
/// here, clients are sent away to come again (3004).
fn told(gateway: &Gateway, token: &str) -> Option<u16> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut session = gateway.session();
        session.command("connect", &json!({"token": token}));
        match session.hear().first() {
            Some(Heard::Object(_)) => return None,
            Some(Heard::Close(3004, _)) => {}
            Some(Heard::Close(code, _)) => return Some(*code),
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < end, "the keys did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// RFC 8032, section 7.1, test 1.
const PUBLIC_ED25519: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

/// What comes before the 32 bytes of a private key (RFC 8410, section 7).
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// RFC 8032, section 7.1, test 1.
const SECRET_ED25519: [u8; 32] = [
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4,
    0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];

#[test]
fn the_backend_has_its_time_whenever_a_connection_expires() {
    // What the backend grants is as long as it may think, so that deadlines of both are due at
    // once.
    let backend = Backend::start(&[
        ("/connect", json!({"result": {"user": "42", "expire_in": 6}})),
        ("/refresh", json!({"result": {"expire_in": 6}})),
    ]);
    let gateway = backend.configures(
        "[client]\nexpired_close_delay = \"6s\"\n\
         [client.proxy.connect]\nenabled = true\nendpoint = \"{}/connect\"\n\
         [client.proxy.refresh]\nenabled = true\nendpoint = \"{}/refresh\"\n",
    );
    let (mut session, _) = connect_until(&gateway, 0, |_| json!({}));
    backend.wait_for("/refresh", 3);
    session.no_push();
    gateway.stop();
}
