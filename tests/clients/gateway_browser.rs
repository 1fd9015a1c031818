//! What a person sees who starts the program with no configuration and opens its page twice:
//! headless Chromium, two tabs that talk. And what the browser's own `EventSource` and `fetch` make
//! of event streams, from a page of another origin, and through nginx.
//!
//! Method: `ringhold serve` prints an address; two tabs of one Chromium open it, driven through the
//! browser's debugging protocol: text typed, buttons clicked, what is shown read back. Screenshots
//! go below the target folder, for a person to look at. Without Chromium the test says so and
//! checks nothing, but fails where `CI` is set.

use std::process::Command;

use serde_json::json;

use crate::support::browser::{BROWSERS, Browser, LIMIT, Tab};
use crate::support::client::Client;
use crate::support::front::{Front, Kind};
use crate::support::gateway::{Gateway, Session, address, program, token};
use crate::support::server::Server;
use crate::support::site::site;
use crate::support::{find_program, run, skip};

const MESSAGES: &str =
    "[...document.querySelectorAll('#messages li')].map((line) => line.textContent)";
const MINE: &str = "document.querySelectorAll('#messages li.mine').length";
const HERE: &str =
    "[...document.querySelectorAll('#who li')].map((line) => line.textContent).sort()";
const STATE: &str = "document.getElementById('state').textContent";
const ME: &str = "document.getElementById('me').textContent";

/// Types a message as a person does, and presses the button.
fn write(tab: &Tab, browser: &mut Browser, text: &str) {
    tab.value(browser, "document.getElementById('text').focus()");
    browser.call(Some(&tab.session), "Input.insertText", json!({"text": text}));
    tab.shows(browser, "document.getElementById('text').value", &json!(text));
    tab.value(browser, "document.getElementById('send').click()");
    // It is empty when the server has the message.
    tab.shows(browser, "document.getElementById('text').value", &json!(""));
}

/// What the program printed: the page, a token, and a line that publishes.
struct Printed {
    page: String,
    token: String,
    curl: String,
}

/// Starts the program without a configuration, on a port of the kernel's choice.
fn start() -> (Server, Printed) {
    let (server, mut lines) = Server::launch(program().args(["--port", "0"]), address);
    let last = "ringhold serve --config";
    while !lines.iter().any(|line| line.contains(last)) {
        let line = server.line();
        lines.push(line.unwrap_or_else(|| panic!("it prints no {last:?}: {lines:?}")));
    }
    let text = lines.join("\n");
    let find = |what: &str| {
        let found = lines.iter().map(|line| line.trim()).find(|line| line.starts_with(what));
        found.unwrap_or_else(|| panic!("no {what:?} in {text}"))
    };
    let token = find("token ").split_whitespace().last().expect("a token").to_owned();
    let page = find("http://").to_owned();
    let (_, curl) = text.split_once("curl ").expect("a curl line");
    let end = curl.find("/api/publish").expect("where it publishes") + "/api/publish".len();
    (server, Printed { page, token, curl: format!("curl -s {}", &curl[..end]) })
}

#[test]
fn two_tabs_talk() {
    let Some(chromium) = find_program(&BROWSERS) else {
        return skip("chromium is not installed");
    };
    let (server, printed) = start();
    let mut browser = Browser::start(&chromium, "gateway-browser");
    let one = browser.open(&printed.page);
    one.shows(&mut browser, STATE, &json!("connected"));
    let two = browser.open(&printed.page);
    two.shows(&mut browser, STATE, &json!("connected"));

    // Each sees both.
    let names = [&one, &two].map(|tab| tab.value(&mut browser, ME));
    let names = names.map(|name| name.as_str().expect("a name").to_owned());
    assert_ne!(names[0], names[1]);
    for (tab, me) in [(&one, 0), (&two, 1)] {
        let mut here = names.clone();
        here[me] += " (you)";
        here.sort();
        tab.shows(&mut browser, HERE, &json!(here));
    }

    let hello = "Hello from the first tab: <b>žluťoučký</b> & \u{1f600}";
    write(&one, &mut browser, hello);
    write(&two, &mut browser, "Hello from the second");
    let mut said =
        vec![format!("{}{hello}", names[0]), format!("{}Hello from the second", names[1])];
    for tab in [&one, &two] {
        tab.shows(&mut browser, MESSAGES, &json!(said));
        tab.shows(&mut browser, MINE, &json!(1));
    }

    // The line that publishes, as printed.
    if find_program(&["curl"]).is_some() {
        let curl = run(Command::new("sh").arg("-c").arg(&printed.curl), LIMIT);
        curl.assert_success();
        assert!(curl.stdout.contains("\"offset\":3"), "{}: {}", printed.curl, curl.stdout);
        said.push("the serverhello".to_owned());
    }
    for tab in [&one, &two] {
        tab.shows(&mut browser, MESSAGES, &json!(said));
    }
    one.screenshot(&mut browser, "gateway-demo-light.png");
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.call(Some(&two.session), "Emulation.setEmulatedMedia", dark);
    two.screenshot(&mut browser, "gateway-demo-dark.png");
    let phone = json!({"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": true});
    browser.call(Some(&two.session), "Emulation.setDeviceMetricsOverride", phone);
    two.screenshot(&mut browser, "gateway-demo-phone.png");
    let width = "document.documentElement.scrollWidth - innerWidth";
    let beyond = two.value(&mut browser, width).as_i64().expect("a number");
    assert!(beyond <= 0, "the page is {beyond} pixels too wide for a phone");

    // Who comes later sees what was said; who leaves is gone for the others.
    browser.call(Some(&two.session), "Page.reload", json!({}));
    two.shows(&mut browser, STATE, &json!("connected"));
    two.shows(&mut browser, MESSAGES, &json!(said));
    let later = two.value(&mut browser, ME);
    let later = later.as_str().expect("a name").to_owned();
    assert_ne!(later, names[1]);
    let mut here = [format!("{} (you)", names[0]), later];
    here.sort();
    one.shows(&mut browser, HERE, &json!(here));

    // The printed token is good for an SDK.
    let mut session =
        Session::open_on(Client::connect(&server), crate::support::gateway::PATH, &[]);
    session.connect(&json!({"token": printed.token}));
    let result = session.subscribe("demo:chat");
    assert_eq!(result["offset"], json!(said.len()));

    // The server goes: the page says so, and tries again.
    drop(session);
    let mut server = server;
    server.signal(rustix::process::Signal::TERM);
    // Browsers open connections ahead of need, which have as long as a handshake may take.
    let status = server.wait(LIMIT).expect("the server ends");
    assert!(status.success(), "{status}");
    for tab in [&one, &two] {
        let lost = format!("['disconnected', 'connecting again'].includes({STATE})");
        tab.shows(&mut browser, &lost, &json!(true));
    }
    let exceptions = browser.exceptions();
    assert!(exceptions.is_empty(), "{exceptions:?}");
}

const STREAMS: &str = r#"
[sse]
enabled = true
[uni_sse]
enabled = true
[[channel.namespaces]]
name = "news"
history_size = 100
history_ttl = "300s"
force_recovery = true
allow_subscribe_for_client = true
"#;

#[test]
fn event_sources_of_another_origin_listen_and_come_back() {
    let Some(chromium) = find_program(&BROWSERS) else {
        return skip("chromium is not installed");
    };
    let origin = site(Vec::new());
    let gateway = Gateway::start(&format!("[client]\nallowed_origins = [\"{origin}\"]\n{STREAMS}"));
    let base = format!("http://{}", gateway.address());
    let mut browser = Browser::start(&chromium, "gateway-browser-streams");
    let tab = browser.open(&origin);
    tab.shows(&mut browser, "location.origin", &json!(origin));

    // One way, with nothing but the browser's own class.
    let claims = json!({"sub": "42", "channels": ["news:a"]});
    let connect = json!({"token": token(&claims)});
    let script = format!(
        "window.seen = []; window.ids = []; window.opens = 0;
         const url = '{base}/connection/uni_sse?cf_connect='
             + encodeURIComponent(JSON.stringify({connect}));
         window.source = new EventSource(url, {{ withCredentials: true }});
         source.onopen = () => {{ opens += 1; }};
         source.onmessage = (event) => {{
             const push = JSON.parse(event.data);
             const missed = push.connect?.subs['news:a'].publications ?? [];
             for (const one of push.pub ? [push.pub] : missed) seen.push(one.data);
             ids.push(event.lastEventId);
         }};
         null"
    );
    tab.value(&mut browser, &format!("(() => {{ {script} }})()"));
    tab.shows(&mut browser, "opens", &json!(1));
    tab.shows(&mut browser, "ids.length", &json!(1));
    let large = "\u{e9}".repeat(30_000);
    for data in [json!(1), json!({"two": 2}), json!(large)] {
        gateway.api("publish", json!({"channel": "news:a", "data": data}));
    }
    tab.shows(
        &mut browser,
        "JSON.stringify(seen) === JSON.stringify([1, {two: 2}, seen[2]])",
        &json!(true),
    );
    tab.shows(&mut browser, "seen[2].length", &json!(30_000));
    // The stream ends; what is published until the browser is back is not lost.
    gateway.api("disconnect", json!({"user": "42", "disconnect": {"code": 3000, "reason": "go"}}));
    for data in 4..=6 {
        gateway.api("publish", json!({"channel": "news:a", "data": data}));
    }
    tab.shows(&mut browser, "opens", &json!(2));
    tab.shows(&mut browser, "seen.slice(3)", &json!([4, 5, 6]));
    gateway.api("publish", json!({"channel": "news:a", "data": 7}));
    tab.shows(&mut browser, "seen.slice(3)", &json!([4, 5, 6, 7]));
    tab.shows(&mut browser, "new Set(ids).size >= 5", &json!(true));
    tab.value(&mut browser, "source.close(); null");

    // Both ways: commands are posted, which needs the browser's leave.
    let first = json!({"id": 1, "connect": {"token": token(&json!({"sub": "43"}))}});
    let script = format!(
        "window.heard = []; window.answers = [];
         const url = '{base}/connection/sse?cf_connect='
             + encodeURIComponent(JSON.stringify({first}));
         window.other = new EventSource(url);
         const post = async (session, node, data) => {{
             const body = JSON.stringify({{ session, node, data }});
             const headers = {{ 'Content-Type': 'application/json' }};
             const credentials = 'include';
             const answer = await fetch('{base}/emulation',
                 {{ method: 'POST', headers, body, credentials }});
             answers.push(answer.status);
         }};
         other.onmessage = (event) => {{
             const reply = JSON.parse(event.data);
             heard.push(reply);
             if (!reply.connect) return;
             const command = {{ id: 2, subscribe: {{ channel: 'news:b' }} }};
             post(reply.connect.session, reply.connect.node, JSON.stringify(command));
             post('nobody', 'elsewhere', '{{}}');
         }};
         null"
    );
    tab.value(&mut browser, &format!("(() => {{ {script} }})()"));
    tab.shows(&mut browser, "answers.toSorted()", &json!([204, 404]));
    tab.shows(&mut browser, "heard.length", &json!(2));
    gateway.api("publish", json!({"channel": "news:b", "data": {"hi": 1}}));
    tab.shows(&mut browser, "heard[2]?.push?.pub?.data", &json!({"hi": 1}));
    let exceptions = browser.exceptions();
    assert!(exceptions.is_empty(), "{exceptions:?}");
    drop(browser);
    gateway.stop();
}

/// Whatever is cut, the browser comes back by itself: the proxy, which forgets nothing, and the
/// server, whose history is gone.
#[test]
fn an_event_source_survives_its_proxy_and_its_server() {
    let Some(chromium) = find_program(&BROWSERS) else {
        return skip("chromium is not installed");
    };
    let origin = site(Vec::new());
    let tables = format!("[client]\nallowed_origins = [\"{origin}\"]\n{STREAMS}");
    let keys = Kind::Nginx.server_keys();
    let mut gateway = Gateway::start_listening(keys, "", &tables);
    let Some(mut front) = Front::start(Kind::Nginx, gateway.address()) else { return };
    let mut browser = Browser::start(&chromium, "gateway-browser-proxy");
    let tab = browser.open(&origin);
    tab.shows(&mut browser, "location.origin", &json!(origin));
    let connect = json!({"token": token(&json!({"sub": "42", "channels": ["news:a"]}))});
    let script = format!(
        "window.seen = []; window.recovered = [];
         const url = 'http://{}/connection/uni_sse?cf_connect='
             + encodeURIComponent(JSON.stringify({connect}));
         window.source = new EventSource(url);
         source.onmessage = (event) => {{
             const push = JSON.parse(event.data);
             const sub = push.connect?.subs['news:a'];
             if (sub) recovered.push(sub.recovered ?? false);
             const all = push.pub ? [push.pub] : sub?.publications ?? [];
             for (const one of all) seen.push(one.data);
         }};
         null",
        front.address()
    );
    tab.value(&mut browser, &format!("(() => {{ {script} }})()"));
    tab.shows(&mut browser, "recovered", &json!([false]));
    // One after the other: none waits in the proxy for the next.
    for data in 0..3 {
        gateway.api("publish", json!({"channel": "news:a", "data": data}));
        tab.shows(&mut browser, "seen.at(-1)", &json!(data));
    }
    let large = "\u{e9}".repeat(30_000);
    gateway.api("publish", json!({"channel": "news:a", "data": large}));
    tab.shows(&mut browser, "seen.at(-1) === '\u{e9}'.repeat(30_000)", &json!(true));
    front.restart();
    gateway.api("publish", json!({"channel": "news:a", "data": "missed"}));
    tab.shows(&mut browser, "recovered", &json!([false, true]));
    tab.shows(&mut browser, "seen.slice(4)", &json!(["missed"]));
    // It tries while there is nobody behind the proxy, too, and must not take that for the end.
    gateway.restart();
    tab.shows(&mut browser, "recovered", &json!([false, true, false]));
    gateway.api("publish", json!({"channel": "news:a", "data": "anew"}));
    tab.shows(&mut browser, "seen.slice(5)", &json!(["anew"]));
    assert_eq!(tab.value(&mut browser, "source.readyState"), json!(1));
    let exceptions = browser.exceptions();
    assert!(exceptions.is_empty(), "{exceptions:?}");
    drop(browser);
    gateway.stop();
}
