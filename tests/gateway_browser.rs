//! What a person sees who starts the program with no configuration and opens its page twice:
//! headless Chromium, two tabs that talk.
//!
//! Method: `ringhold serve` prints an address; two tabs of one Chromium open it, driven through the
//! browser's debugging protocol: text typed, buttons clicked, what is shown read back. Screenshots
//! go below the target folder, for a person to look at. Without Chromium the test says so and
//! checks nothing, but fails where `CI` is set.

mod support;

use std::collections::VecDeque;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::client::Client;
use support::gateway::{Session, address, program};
use support::server::Server;
use support::{Program, find_program, run, skip};
use tungstenite::{Message, WebSocket};

const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-port=0",
    "--window-size=900,600",
    // Nothing but this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// A browser's first start may take a while.
const LIMIT: Duration = Duration::from_secs(180);

/// A browser under the debugging protocol.
struct Browser {
    socket: WebSocket<TcpStream>,
    id: u64,
    events: VecDeque<Value>,
    _program: Program,
}

impl Browser {
    fn start(chromium: &Path) -> Self {
        let profile = folder().join("gateway-browser");
        if profile.exists() {
            std::fs::remove_dir_all(&profile).expect("an old profile can be removed");
        }
        let program = Program::start(
            Command::new(chromium)
                .args(FLAGS)
                .arg(format!("--user-data-dir={}", profile.display()))
                .arg("about:blank"),
        );
        // The port, and the path behind it.
        let said = profile.join("DevToolsActivePort");
        let deadline = Instant::now() + LIMIT;
        let (port, path) = loop {
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n').filter(|(_, path)| !path.is_empty()) {
                break (port.to_owned(), path.trim().to_owned());
            }
            assert!(Instant::now() < deadline, "the browser does not say where to debug it");
            std::thread::sleep(Duration::from_millis(10));
        };
        let stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("the browser accepts");
        stream.set_read_timeout(Some(LIMIT)).expect("set_read_timeout");
        let url = format!("ws://127.0.0.1:{port}{path}");
        let (socket, _) = tungstenite::client(url, stream).expect("the browser speaks WebSocket");
        Self { socket, id: 0, events: VecDeque::new(), _program: program }
    }

    /// Does one thing in a tab (or in the browser, if there is none) and returns the result.
    fn call(&mut self, tab: Option<&str>, method: &str, parameters: Value) -> Value {
        self.try_call(tab, method, parameters).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_call(
        &mut self,
        tab: Option<&str>,
        method: &str,
        parameters: Value,
    ) -> Result<Value, String> {
        self.id += 1;
        let mut command = json!({"id": self.id, "method": method, "params": parameters});
        if let Some(tab) = tab {
            command["sessionId"] = json!(tab);
        }
        self.socket.send(Message::text(command.to_string())).expect("the browser listens");
        loop {
            let message = self.socket.read().expect("the browser answers");
            let Message::Text(text) = message else { continue };
            let mut value: Value = serde_json::from_str(&text).expect("JSON");
            if value["id"] == json!(self.id) {
                return match value.get("error") {
                    Some(error) => Err(format!("{command}: {error}")),
                    None => Ok(value["result"].take()),
                };
            }
            self.events.push_back(value);
        }
    }

    /// Opens a page in a new tab.
    fn open(&mut self, url: &str) -> Tab {
        let target = self.call(None, "Target.createTarget", json!({"url": url}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call(None, "Target.attachToTarget", attach);
        let tab = session["sessionId"].as_str().expect("a session").to_owned();
        self.call(Some(&tab), "Runtime.enable", json!({}));
        self.call(Some(&tab), "Page.enable", json!({}));
        // Both tabs believe that somebody looks at them.
        self.call(Some(&tab), "Emulation.setFocusEmulationEnabled", json!({"enabled": true}));
        Tab { session: tab }
    }

    /// What scripts threw and nobody caught.
    fn exceptions(&self) -> Vec<&Value> {
        self.events.iter().filter(|event| event["method"] == "Runtime.exceptionThrown").collect()
    }
}

/// One tab.
struct Tab {
    session: String,
}

impl Tab {
    /// The value of an expression.
    fn value(&self, browser: &mut Browser, expression: &str) -> Value {
        self.try_value(browser, expression).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_value(&self, browser: &mut Browser, expression: &str) -> Result<Value, String> {
        let evaluate = json!({"expression": expression, "returnByValue": true});
        let mut result = browser.try_call(Some(&self.session), "Runtime.evaluate", evaluate)?;
        match result.get("exceptionDetails") {
            Some(exception) => Err(format!("{expression}: {exception}")),
            None => Ok(result["result"]["value"].take()),
        }
    }

    /// Waits until an expression has this value. Before a page is there it may have none.
    fn shows(&self, browser: &mut Browser, expression: &str, expected: &Value) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let got = self.try_value(browser, expression);
            if got.as_ref() == Ok(expected) {
                return;
            }
            assert!(Instant::now() < deadline, "{expression}: {got:?} instead of {expected}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types a message as a person does, and presses the button.
    fn write(&self, browser: &mut Browser, text: &str) {
        self.value(browser, "document.getElementById('text').focus()");
        browser.call(Some(&self.session), "Input.insertText", json!({"text": text}));
        self.shows(browser, "document.getElementById('text').value", &json!(text));
        self.value(browser, "document.getElementById('send').click()");
        // It is empty when the server has the message.
        self.shows(browser, "document.getElementById('text').value", &json!(""));
    }

    fn screenshot(&self, browser: &mut Browser, name: &str) {
        let format = json!({"format": "png"});
        let picture = browser.call(Some(&self.session), "Page.captureScreenshot", format);
        let picture = STANDARD.decode(picture["data"].as_str().expect("data")).expect("base64");
        assert!(picture.starts_with(b"\x89PNG"), "not a picture");
        std::fs::write(folder().join(name), picture).expect("the picture can be written");
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

const MESSAGES: &str =
    "[...document.querySelectorAll('#messages li')].map((line) => line.textContent)";
const MINE: &str = "document.querySelectorAll('#messages li.mine').length";
const HERE: &str =
    "[...document.querySelectorAll('#who li')].map((line) => line.textContent).sort()";
const STATE: &str = "document.getElementById('state').textContent";
const ME: &str = "document.getElementById('me').textContent";

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
    let mut browser = Browser::start(&chromium);
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
    one.write(&mut browser, hello);
    two.write(&mut browser, "Hello from the second");
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
    let mut session = Session::open_on(Client::connect(&server), support::gateway::PATH, &[]);
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
