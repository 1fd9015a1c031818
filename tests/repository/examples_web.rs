//! The examples for the web do what their READMEs say, in a browser: `examples/web`, a dashboard,
//! and `examples/fastapi`, a chat whose backend logs users in, answers hooks and publishes.
//!
//! Method: `ringhold serve` runs with the configuration of the example, on a free port and with
//! secrets in the environment; headless Chromium opens the page. The pages are as they are but for
//! the server's port and the address of the SDK, whose text is that of the pinned npm package: the
//! browser holds it to the hash in the page. Pictures go below the target folder.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::browser::{BROWSERS, Browser, Tab};
use crate::support::client::Client;
use crate::support::daemon::free_address;
use crate::support::gateway::{self, API_KEY, SECRET, Session};
use crate::support::server::Server;
use crate::support::site::{Relay, site};
use crate::support::{PATIENCE, Program, find_program, own_folder, packages, skip};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
const REQUIREMENTS: &str = "examples/fastapi/requirements.txt";
const CDN: &str = "https://unpkg.com/centrifuge@5.8.0/dist/centrifuge.js";
const HOOK_KEY: &str = "hook key of the tests";

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(EXAMPLES).join(path)).expect("a file of an example")
}

/// A page with the SDK at this address.
fn page(path: &str, library: &str) -> String {
    let text = read(path);
    assert!(text.contains(&format!("src=\"{CDN}\"")), "{path} names another SDK");
    text.replace(CDN, library)
}

/// The text of the SDK.
fn library() -> Option<String> {
    let folder = packages::javascript()?;
    let file = folder.join("node_modules/centrifuge/dist/centrifuge.js");
    Some(std::fs::read_to_string(file).expect("the SDK"))
}

/// The server with the configuration of an example, as its README starts it.
fn serve(config: &str, more: &[&str]) -> Server {
    let mut command = gateway::program();
    command
        .env("RINGHOLD_HTTP_API_KEY", API_KEY)
        .env("RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET)
        .env("RINGHOLD_VAR_HOOK_KEY", HOOK_KEY)
        // Who is cut on the way is missed soon, not after half a minute.
        .env("RINGHOLD_CLIENT_PING_INTERVAL", "8s")
        .env("RINGHOLD_CLIENT_PONG_TIMEOUT", "7s")
        .arg("--config")
        .arg(Path::new(EXAMPLES).join(config))
        .args(more);
    Server::launch(&mut command, gateway::address).0
}

/// One request: the status, the head and the body of the answer.
fn ask(address: SocketAddr, target: &str, lines: &[&str], body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!(
        "{target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{lines}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("a request is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_owned(), body.to_owned())
}

fn api(server: &Server, method: &str, parameters: Value) -> Value {
    let key = format!("X-API-Key: {API_KEY}");
    let target = format!("POST /api/{method}");
    let (status, _, body) = ask(server.address(), &target, &[&key], &parameters.to_string());
    assert_eq!(status, 200, "{body}");
    let mut reply: Value = serde_json::from_str(&body).expect("JSON");
    assert!(reply["result"].is_object(), "{reply}");
    reply["result"].take()
}

fn text(id: &str) -> String {
    format!("document.getElementById('{id}').textContent")
}

fn click(tab: &Tab, browser: &mut Browser, id: &str) {
    tab.value(browser, &format!("document.getElementById('{id}').click()"));
}

/// Types into a field as a person does, and presses Enter.
fn enter(tab: &Tab, browser: &mut Browser, id: &str, words: &str) {
    tab.value(browser, &format!("document.getElementById('{id}').focus()"));
    browser.call(Some(&tab.session), "Input.insertText", json!({"text": words}));
    for kind in ["keyDown", "keyUp"] {
        let key = json!({"type": kind, "key": "Enter", "code": "Enter", "text": "\r",
            "windowsVirtualKeyCode": 13});
        browser.call(Some(&tab.session), "Input.dispatchKeyEvent", key);
    }
}

fn dark(tab: &Tab, browser: &mut Browser) {
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.call(Some(&tab.session), "Emulation.setEmulatedMedia", dark);
}

fn phone(tab: &Tab, browser: &mut Browser) {
    let phone = json!({"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": true});
    browser.call(Some(&tab.session), "Emulation.setDeviceMetricsOverride", phone);
    let width = "document.documentElement.scrollWidth - innerWidth";
    let beyond = tab.value(browser, width).as_i64().expect("a number");
    assert!(beyond <= 0, "the page is {beyond} pixels too wide for a phone");
}

/// A number of samples of a machine at work.
fn sample(server: &Server, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let data = json!({"processor": (n * n * 7 / 3) % 83, "memory": 40 + n % 9});
        api(server, "publish", json!({"channel": "host:load", "data": data}));
    }
}

#[test]
fn the_dashboard_recovers_what_it_missed() {
    let Some(chromium) = find_program(&BROWSERS) else {
        return skip("chromium is not installed");
    };
    let Some(library) = library() else { return };
    let mut server = serve("web/ringhold.toml", &["--port", "0"]);
    let relay = Relay::to(server.address());
    let html = page("web/index.html", "/centrifuge.js");
    assert!(html.contains(":8000/"));
    let html = html.replace(":8000/", &format!(":{}/", relay.address().port()));
    let origin = site(vec![
        ("/", "text/html; charset=utf-8", html),
        ("/centrifuge.js", "text/javascript", library),
    ]);
    sample(&server, 1..61);

    let mut browser = Browser::start(&chromium, "examples-web");
    let one = browser.open(&origin);
    one.shows(&mut browser, &text("note"), &json!("60 samples from the history."));
    one.shows(&mut browser, &text("state"), &json!("connected"));
    one.shows(&mut browser, &text("watching"), &json!("1"));
    let two = browser.open(&origin);
    for tab in [&one, &two] {
        tab.shows(&mut browser, &text("watching"), &json!("2"));
    }
    sample(&server, 61..62);
    for tab in [&one, &two] {
        tab.shows(&mut browser, "samples.size", &json!(61));
        tab.shows(&mut browser, &text("memory"), &json!("47 %"));
    }

    // Switched off by its reader.
    click(&one, &mut browser, "switch");
    one.shows(&mut browser, &text("state"), &json!("disconnected"));
    two.shows(&mut browser, &text("watching"), &json!("1"));
    sample(&server, 62..82);
    two.shows(&mut browser, "samples.size", &json!(81));
    click(&one, &mut browser, "switch");
    one.shows(&mut browser, &text("note"), &json!("Back: 20 missed samples recovered."));
    one.shows(&mut browser, "samples.size", &json!(81));
    one.shows(&mut browser, "document.getElementById('gap').getAttribute('width')", &json!("19"));
    sample(&server, 82..92);
    one.shows(&mut browser, "samples.size", &json!(91));
    one.screenshot(&mut browser, "examples-web-light.png");
    dark(&one, &mut browser);
    one.screenshot(&mut browser, "examples-web-dark.png");
    phone(&two, &mut browser);
    two.screenshot(&mut browser, "examples-web-phone.png");

    // Cut on the way: the page notices and comes back by itself.
    relay.cut();
    for tab in [&one, &two] {
        let back = format!("{}.startsWith('Back: ')", text("note"));
        tab.shows(&mut browser, &back, &json!(true));
        tab.shows(&mut browser, &text("watching"), &json!("2"));
    }
    sample(&server, 92..93);
    one.shows(&mut browser, "samples.size", &json!(92));
    assert_eq!(one.value(&mut browser, "samples.size"), json!(92));

    // Another server at the same address has another history.
    server.signal(Signal::TERM);
    server.exited_well();
    let port = server.address().port().to_string();
    let server = serve("web/ringhold.toml", &["--port", &port]);
    one.shows(&mut browser, &text("note"), &json!("0 samples from the history."));
    one.shows(&mut browser, "samples.size", &json!(0));

    // What publishes, as the README starts it.
    if find_program(&["curl"]).is_some() {
        let _publisher = Program::start(
            Command::new(Path::new(EXAMPLES).join("web/publish.sh"))
                .arg(format!("http://{}", server.address()))
                .env("RINGHOLD_HTTP_API_KEY", API_KEY),
        );
        one.shows(&mut browser, "samples.size >= 2", &json!(true));
        let percent = "[...samples.values()].every(({ processor, memory }) =>
            [processor, memory].every((n) => Number.isInteger(n) && 0 <= n && n <= 100))";
        assert_eq!(one.value(&mut browser, percent), json!(true));
    }
    let exceptions = browser.exceptions();
    assert!(exceptions.is_empty(), "{exceptions:?}");
}

/// The example's folder, copied, with the SDK where this test serves it.
fn copy_of_the_backend(name: &str, library: &str) -> PathBuf {
    let folder = own_folder(name);
    std::fs::write(folder.join("app.py"), read("fastapi/app.py")).expect("a copy");
    std::fs::write(folder.join("index.html"), page("fastapi/index.html", library)).expect("a copy");
    folder
}

/// The chat: its backend, its server, and where they are.
struct Chat {
    server: Server,
    backend: SocketAddr,
    _program: Program,
}

impl Chat {
    fn start(name: &str, python: &Path, library: &str) -> Self {
        let backend = free_address();
        let hook =
            |name: &str, what: &str| format!("{name}.endpoint=http://{backend}/hooks/{what}");
        let connect = hook("client.proxy.connect", "connect");
        let subscribe = hook("channel.proxy.subscribe", "subscribe");
        // One that has to wait for its processor is none that does not answer.
        let [connects, subscribes] = ["client.proxy.connect", "channel.proxy.subscribe"]
            .map(|name| format!("{name}.timeout=60s"));
        let sets = [&connect, &subscribe, &connects, &subscribes];
        let more: Vec<&str> = ["--port", "0"]
            .into_iter()
            .chain(sets.into_iter().flat_map(|set| ["--set", set.as_str()]))
            .collect();
        let server = serve("fastapi/ringhold.toml", &more);
        let mut program = Program::start(
            Command::new(python)
                .args(["-m", "uvicorn", "app:app", "--port", &backend.port().to_string()])
                .current_dir(copy_of_the_backend(name, library))
                .env("RINGHOLD_URL", format!("http://{}", server.address()))
                .env("RINGHOLD_HTTP_API_KEY", API_KEY)
                .env("RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET)
                .env("RINGHOLD_VAR_HOOK_KEY", HOOK_KEY),
        );
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(backend).is_err() {
            assert!(
                program.is_running() && Instant::now() < deadline,
                "the backend does not start"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { server, backend, _program: program }
    }

    /// The cookie of a user who logged in.
    fn log_in(&self, name: &str) -> String {
        let body = json!({"name": name}).to_string();
        let (status, head, body) = ask(self.backend, "POST /login", &[], &body);
        assert_eq!(status, 204, "{body}");
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let line = lines.find(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        let (_, cookie) = line.unwrap_or_else(|| panic!("no cookie: {head}"));
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=lax"), "{cookie}");
        format!("Cookie: {}", cookie.split(';').next().expect("a pair"))
    }

    fn session(&self, lines: &[&str]) -> Session {
        Session::open_on(Client::connect(&self.server), gateway::PATH, lines)
    }

    fn say(&self, room: &str, cookie: &str, text: &str) -> u16 {
        let target = format!("POST /rooms/{room}/messages");
        ask(self.backend, &target, &[cookie], &json!({"text": text}).to_string()).0
    }
}

#[test]
fn the_backend_in_fastapi_decides() {
    let Some(python) = packages::python(REQUIREMENTS) else { return };
    let chat = Chat::start("examples-fastapi-backend", &python, CDN);
    let (ann, zoe) = (chat.log_in("ann"), chat.log_in("zoe"));

    // Who it is, by the cookie of the browser.
    let mut session = chat.session(&[&ann]);
    session.connect(&json!({}));
    for room in ["room:lobby", "room:staff"] {
        session.subscribe(room);
    }
    let presence = session.result("presence", json!({"channel": "room:lobby"}));
    let users: Vec<_> = presence["presence"].as_object().expect("clients").values().collect();
    assert_eq!((users.len(), &users[0]["user"]), (1, &json!("ann")));
    // By a token.
    let (status, _, body) = ask(chat.backend, "GET /token", &[&zoe], "");
    assert_eq!(status, 200, "{body}");
    let token: Value = serde_json::from_str(&body).expect("JSON");
    let mut other = chat.session(&[]);
    other.connect(&token);
    other.subscribe("room:lobby");
    for room in ["room:staff", "room:nowhere"] {
        let refused = other.ask("subscribe", json!({"channel": room}));
        assert_eq!(refused["error"], json!({"code": 403, "message": "not your room"}), "{room}");
    }
    // Nobody, and somebody with a cookie that the backend did not sign.
    let forged = format!("Cookie: session={}", gateway::token_of("ann"));
    for lines in [&[][..], &[forged.as_str()]] {
        let mut nobody = chat.session(lines);
        nobody.command("connect", &json!({}));
        assert_eq!(nobody.closed_with(), 4501);
        assert_eq!(ask(chat.backend, "GET /token", lines, "").0, 401);
    }

    // What is said goes through the backend, to those in the room.
    session.pushed();
    assert_eq!(chat.say("lobby", &zoe, "hello"), 204);
    // Who is there hears who comes, too.
    let mut push = other.push();
    while push.get("join").is_some() {
        push = other.push();
    }
    assert_eq!(push["pub"]["data"], json!({"from": "zoe", "text": "hello"}), "{push}");
    assert_eq!(chat.say("staff", &ann, "psst"), 204);
    other.no_push();
    let refused =
        [("staff", &zoe, "x", 403), ("lobby", &forged, "x", 401), ("lobby", &zoe, "", 422)];
    for (room, cookie, words, status) in refused {
        assert_eq!(chat.say(room, cookie, words), status, "{room} {words:?}");
    }
    let refused = other.ask("publish", json!({"channel": "room:lobby", "data": {}}));
    assert_eq!(refused["error"]["code"], json!(103));
    // Only ringhold may ask.
    for key in ["X-Hook-Key: guessed", "X-Other: header"] {
        let question = json!({"user": "ann", "channel": "room:staff"}).to_string();
        assert_eq!(ask(chat.backend, "POST /hooks/subscribe", &[key], &question).0, 403);
        assert_eq!(ask(chat.backend, "POST /hooks/connect", &[key], "{}").0, 403);
    }
    // A server that is gone is no reason to lose a message without a word.
    let Chat { mut server, backend, _program } = chat;
    drop((session, other));
    server.signal(Signal::TERM);
    server.exited_well();
    let body = json!({"text": "anybody?"}).to_string();
    assert_eq!(ask(backend, "POST /rooms/lobby/messages", &[&ann], &body).0, 502);
}

#[test]
fn two_people_chat_in_the_page_of_the_backend() {
    let Some(chromium) = find_program(&BROWSERS) else {
        return skip("chromium is not installed");
    };
    let Some(library) = library() else { return };
    let Some(python) = packages::python(REQUIREMENTS) else { return };
    let library = site(vec![("/centrifuge.js", "text/javascript", library)]) + "/centrifuge.js";
    let chat = Chat::start("examples-fastapi-page", &python, &library);
    let url = format!("http://{}/", chat.backend);

    // A name for each browser; a cookie is that of all tabs.
    let mut people = ["ann", "zoe"].map(|name| {
        let mut browser = Browser::start(&chromium, &format!("examples-fastapi-{name}"));
        let tab = browser.open(&url);
        tab.shows(&mut browser, "document.getElementById('login')?.hidden", &json!(false));
        enter(&tab, &mut browser, "name", name);
        tab.shows(&mut browser, &text("state"), &json!("connected"));
        (browser, tab)
    });
    let rooms = "[...document.querySelectorAll('#rooms button')].map((b) => b.textContent)";
    for ((browser, tab), all) in
        people.iter_mut().zip([json!(["lobby", "staff"]), json!(["lobby"])])
    {
        tab.shows(browser, rooms, &all);
        tab.shows(browser, &text("here"), &json!("Here: ann, zoe"));
    }
    let said = "[...document.querySelectorAll('#messages li')].map((line) => line.textContent)";
    let lines = ["Has anybody seen <b>the report</b>?", "On the shared drive, folder “žluťoučký”."];
    for ((browser, tab), line) in people.iter_mut().zip(lines) {
        enter(tab, browser, "text", line);
        tab.shows(browser, "document.getElementById('text').value", &json!(""));
        tab.shows(browser, "document.querySelectorAll('li.mine').length", &json!(1));
    }
    let both = json!([format!("ann{}", lines[0]), format!("zoe{}", lines[1])]);
    for (n, (browser, tab)) in people.iter_mut().enumerate() {
        tab.shows(browser, said, &both);
        tab.screenshot(browser, &format!("examples-fastapi-{n}.png"));
        phone(tab, browser);
        // Who comes back has a cookie, and finds the history.
        browser.call(Some(&tab.session), "Page.reload", json!({}));
        tab.shows(browser, said, &both);
    }
    let (browser, tab) = &mut people[0];
    tab.value(browser, "document.querySelectorAll('#rooms button')[1].click()");
    tab.shows(browser, &text("here"), &json!("Here: ann"));
    tab.shows(browser, said, &json!([]));
    for (browser, _) in &people {
        assert!(browser.exceptions().is_empty(), "{:?}", browser.exceptions());
    }
}
