//! Backends with names: which one is asked, what its statuses mean, how subscriptions stay, and
//! what clients hear of a backend that is right, slow, wrong, gone and back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::hooks::Backend;
use crate::support::PATIENCE;
use crate::support::daemon::free_address;
use crate::support::gateway::{Gateway, Heard, Session};
use crate::support::moments::{connect_until, subscribe_until};

/// Two backends, each for its own namespaces of channels and methods.
const TWO: &str = r#"
proxies = [
  { name = "one", endpoint = "ONE/any", timeout = "8s", http.static_headers = { X-A = "b" } },
  { name = "two", endpoint = "TWO/any", timeout = "60s" },
]
[rpc]
namespaces = [
  { name = "one", proxy_enabled = true, proxy_name = "one" },
  { name = "two", proxy_enabled = true, proxy_name = "two" },
  { name = "off" },
]
ping = { enabled = true }
[[channel.namespaces]]
name = "one"
subscribe_proxy_enabled = true
subscribe_proxy_name = "one"
publish_proxy_enabled = true
publish_proxy_name = "one"
[[channel.namespaces]]
name = "two"
subscribe_proxy_enabled = true
subscribe_proxy_name = "two"
"#;

/// The tables of a test stand behind those of all, so a list of the root is written in tables.
fn two(one: &str, two: &str) -> Gateway {
    let (root, tables) = TWO.split_once("[rpc]").expect("a table");
    let root = root.replace("ONE", one).replace("TWO", two);
    let common = "[http_server]\nport = 0\n[http_api]\nkey = \"api key of the tests\"\n\
                  [client.token]\nhmac_secret_key = \"secret of the tests\"\n";
    Gateway::start_whole(&format!("{root}\n{common}[rpc]{tables}"))
}

fn rpc(session: &mut Session, method: &str) -> Value {
    session.ask("rpc", json!({"method": method, "data": {"n": 1}}))
}

#[test]
fn each_namespace_has_its_backend() {
    let first = Backend::start(&[("/any", json!({"result": {"data": {"from": 1}}}))]);
    let second = Backend::start(&[("/any", json!({"result": {"data": {"from": 2}}}))]);
    let gateway = two(&first.url(), &second.url());
    let mut session = gateway.connected("42");
    assert_eq!(session.subscribe("one:a")["data"], json!({"from": 1}));
    assert_eq!(session.subscribe("two:a")["data"], json!({"from": 2}));
    session.command("publish", &json!({"channel": "one:a", "data": {}}));
    assert_eq!(session.publication("one:a")["data"], json!({"from": 1}));
    assert_eq!(rpc(&mut session, "one:sum")["rpc"]["data"], json!({"from": 1}));
    assert_eq!(first.asked("/any")["method"], json!("one:sum"), "the whole name");
    assert_eq!(rpc(&mut session, "two:a:b")["rpc"]["data"], json!({"from": 2}));
    assert_eq!(first.wait_for("/any", 3).len() + second.wait_for("/any", 2).len(), 5);
    // What no backend answers.
    assert_eq!(rpc(&mut session, "ping")["rpc"], json!({}));
    assert_eq!(rpc(&mut session, "off:a")["error"]["code"], json!(108));
    assert_eq!(rpc(&mut session, "none:a")["error"]["code"], json!(104));
    assert_eq!(rpc(&mut session, "a")["error"]["code"], json!(108));
    gateway.stop();
}

#[test]
fn a_backend_is_right_slow_wrong_gone_and_back_and_the_other_does_not_mind() {
    let fine = json!({"result": {"data": {"fine": true}}});
    let steady = Backend::start(&[("/any", fine.clone())]);
    // An address where nobody is.
    let gone = free_address();
    let gateway = two(&format!("http://{gone}"), &steady.url());
    let mut session = gateway.connected("42");
    let mut round = |expected: Option<u64>, what: &str| {
        let reply = rpc(&mut session, "one:a");
        assert_eq!(reply["error"]["code"].as_u64(), expected, "{what}: {reply}");
        assert_eq!(reply["rpc"]["data"]["fine"].as_bool(), expected.is_none().then_some(true));
        let reply = rpc(&mut session, "two:a");
        assert_eq!(reply["rpc"]["data"], json!({"fine": true}), "{what}");
    };
    round(Some(100), "gone");
    let backend = Backend::start_at(gone, &[("/any", fine.clone())]);
    round(None, "back");
    for (answer, what) in [
        (json!("hang"), "slow"),
        (json!("nonsense"), "wrong"),
        (json!({"result": 7}), "of another shape"),
        (json!({"error": {"code": 0}}), "an error that is none"),
        (json!({"disconnect": {"code": 1}}), "an end that is none"),
        (json!(503), "busy"),
    ] {
        backend.set("/any", answer);
        round(Some(100), what);
        backend.set("/any", fine.clone());
        round(None, "right again");
    }
    gateway.stop();
}

#[test]
fn statuses_mean_what_is_said_of_them() {
    let backend = Backend::start(&[]);
    let transforms = r#"
        http.status_to_code_transforms = [
          { status_code = 404, to_error = { code = 1404, message = "no such", temporary = true } },
          { status_code = 404, to_error = { code = 1405 } },
          { status_code = 401, to_disconnect = { code = 4401, reason = "log in again" } },
        ]
    "#;
    let gateway = backend.configures(&format!(
        "[client.proxy.connect]\nenabled = true\nendpoint = \"{{}}/connect\"\n{transforms}\n\
         [channel.proxy.subscribe]\nendpoint = \"{{}}/subscribe\"\n{transforms}\n\
         [channel.proxy.publish]\nendpoint = \"{{}}/publish\"\n{transforms}\n\
         [rpc.proxy]\nendpoint = \"{{}}/rpc\"\n{transforms}\n\
         [rpc.without_namespace]\nproxy_enabled = true\n\
         [channel.without_namespace]\nsubscribe_proxy_enabled = true\n\
         publish_proxy_enabled = true\n",
    ));
    let commands = [
        ("connect", json!({})),
        ("subscribe", json!({"channel": "a"})),
        ("publish", json!({"channel": "a", "data": {}})),
        ("rpc", json!({"method": "a", "data": {}})),
    ];
    let paths = ["/connect", "/subscribe", "/publish", "/rpc"];
    let open = |method: &str| match method {
        "connect" => gateway.session(),
        _ => gateway.connected("42"),
    };
    for (path, (method, parameters)) in paths.into_iter().zip(&commands) {
        backend.set(path, json!(404));
        let reply = open(method).ask(method, parameters.clone());
        let expected = json!({"code": 1404, "message": "no such", "temporary": true});
        assert_eq!(reply["error"], expected, "{method}");
        // One that nothing is said of.
        backend.set(path, json!(403));
        let reply = open(method).ask(method, parameters.clone());
        assert_eq!(reply["error"]["code"], json!(100), "{method}");
        backend.set(path, json!(401));
        let mut session = open(method);
        session.command(method, parameters);
        let heard = session.hear();
        let end = heard.last();
        assert!(
            matches!(end, Some(Heard::Close(4401, why)) if why == "log in again"),
            "{method}: {heard:?}"
        );
    }
    gateway.stop();
}

/// Where subscriptions last as long as the backend says.
const REFRESHED: &str = "[client]\nexpired_sub_close_delay = \"1h\"\nping_interval = \"0s\"\n\
    [client.proxy.connect]\nenabled = true\nendpoint = \"{}/connect\"\n\
    [channel.proxy.subscribe]\nendpoint = \"{}/subscribe\"\n\
    [channel.proxy.sub_refresh]\nendpoint = \"{}/sub_refresh\"\ntimeout = \"8s\"\n\
    [channel.without_namespace]\nsubscribe_proxy_enabled = true\n\
    sub_refresh_proxy_enabled = true\npresence = true\n\
    allow_presence_for_subscriber = true\n\
    [prometheus]\nenabled = true\n";

fn expires_in(seconds: i64) -> Value {
    json!({"result": {"expire_in": seconds}})
}

/// Subscribes, and again where the answer of the backend was over before it was read.
fn subscribe(session: &mut Session, channel: &str) -> Value {
    subscribe_until(session, || json!({"channel": channel}))
}

#[test]
fn the_backend_prolongs_subscriptions_and_ends_them() {
    let backend = Backend::start(&[("/connect", json!({"result": {"user": "42"}}))]);
    let gateway = backend.configures(REFRESHED);
    backend.set("/subscribe", expires_in(1));
    let mut prolonged = expires_in(600);
    prolonged["result"]["info"] = json!({"new": 1});
    backend.set("/sub_refresh", prolonged);
    let mut session = gateway.session();
    session.connect(&json!({}));
    let result = subscribe(&mut session, "a");
    assert!(result.get("expires").is_none() && result.get("ttl").is_none(), "{result}");
    let asked = backend.wait_for("/sub_refresh", 1);
    assert_eq!((&asked[0]["channel"], &asked[0]["user"]), (&json!("a"), &json!("42")));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let presence = session.result("presence", json!({"channel": "a"}));
        let members = presence["presence"].as_object().expect("members");
        if members.values().any(|it| it["chan_info"] == json!({"new": 1})) {
            break;
        }
        assert!(Instant::now() < deadline, "{presence}");
        std::thread::sleep(Duration::from_millis(20));
    }
    backend.set("/sub_refresh", json!({"result": {"expired": true}}));
    subscribe(&mut session, "b");
    let end = session.push();
    assert_eq!((&end["channel"], &end["unsubscribe"]["code"]), (&json!("b"), &json!(2501)));
    gateway.stop();
}

#[test]
fn a_subscription_outlives_a_backend_that_cannot_say() {
    for answer in [json!("hang"), json!("nonsense"), json!(500)] {
        let backend = Backend::start(&[("/connect", json!({"result": {"user": "42"}}))]);
        let gateway = backend.configures(REFRESHED);
        backend.set("/subscribe", expires_in(1));
        backend.set("/sub_refresh", answer.clone());
        let mut session = gateway.session();
        session.connect(&json!({}));
        subscribe(&mut session, "a");
        backend.wait_for("/sub_refresh", 1);
        let failures = "ringhold_hook_failures_total{hook=\"sub_refresh\"";
        let deadline = Instant::now() + PATIENCE;
        while !gateway.metrics().contains(failures) {
            assert!(Instant::now() < deadline, "{answer}: no failure is counted");
            std::thread::sleep(Duration::from_millis(20));
        }
        let presence = session.result("presence", json!({"channel": "a"}));
        assert_eq!(presence["presence"].as_object().map(|it| it.len()), Some(1), "{answer}");
        gateway.stop();
    }
}

#[test]
fn a_refusal_of_a_server_side_subscription_takes_the_connection_along() {
    let who = json!({"result": {"user": "42", "subs": {"a": {"expire_in": 2}}}});
    let backend = Backend::start(&[("/connect", who), ("/sub_refresh", json!({"result": null}))]);
    let gateway = backend.configures(REFRESHED);
    let (mut session, result) = connect_until(&gateway, 0, |_| json!({}));
    assert!(result["subs"]["a"].get("expires").is_none(), "{result}");
    session.closed(3006);
    gateway.stop();
}
