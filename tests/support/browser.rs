//! Headless Chromium, driven through its debugging protocol: pages opened, scripts asked, pictures
//! taken.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::unbroken::Unbroken;
use super::{Program, own_path};

/// Programs that are such a browser.
pub(crate) const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
/// What keeps one to this machine and to itself.
pub(crate) const FLAGS: [&str; 11] = [
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
    // Nothing but this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// A browser's first start may take a while.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

/// A browser under the debugging protocol.
pub(crate) struct Browser {
    socket: WebSocket<Unbroken<TcpStream>>,
    id: u64,
    events: VecDeque<Value>,
    _program: Program,
}

impl Browser {
    /// Starts it with a fresh profile of this name.
    pub(crate) fn start(chromium: &Path, name: &str) -> Self {
        let profile = own_path(name);
        let program = Program::start(
            Command::new(chromium)
                .args(FLAGS)
                .args(["--remote-debugging-port=0", "--window-size=900,600"])
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
        let socket = tungstenite::client(url, Unbroken(stream));
        let (socket, _) = socket.expect("the browser speaks WebSocket");
        Self { socket, id: 0, events: VecDeque::new(), _program: program }
    }

    /// Does one thing in a tab (or in the browser, if there is none) and returns the result.
    pub(crate) fn call(&mut self, tab: Option<&str>, method: &str, parameters: Value) -> Value {
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
    pub(crate) fn open(&mut self, url: &str) -> Tab {
        let target = self.call(None, "Target.createTarget", json!({"url": url}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call(None, "Target.attachToTarget", attach);
        let tab = session["sessionId"].as_str().expect("a session").to_owned();
        self.call(Some(&tab), "Runtime.enable", json!({}));
        self.call(Some(&tab), "Page.enable", json!({}));
        self.call(Some(&tab), "Log.enable", json!({}));
        self.call(Some(&tab), "Network.enable", json!({}));
        // Both tabs believe that somebody looks at them.
        self.call(Some(&tab), "Emulation.setFocusEmulationEnabled", json!({"enabled": true}));
        Tab { session: tab }
    }

    /// What was told of this kind, such as `Network.requestWillBeSent`.
    pub(crate) fn events(&self, method: &str) -> Vec<&Value> {
        let of_kind = self.events.iter().filter(|event| event["method"] == method);
        of_kind.map(|event| &event["params"]).collect()
    }

    /// What scripts threw and nobody caught.
    pub(crate) fn exceptions(&self) -> Vec<&Value> {
        self.events.iter().filter(|event| event["method"] == "Runtime.exceptionThrown").collect()
    }
}

/// One tab.
pub(crate) struct Tab {
    pub(crate) session: String,
}

impl Tab {
    /// The value of an expression.
    pub(crate) fn value(&self, browser: &mut Browser, expression: &str) -> Value {
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
    pub(crate) fn shows(&self, browser: &mut Browser, expression: &str, expected: &Value) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let got = self.try_value(browser, expression);
            if got.as_ref() == Ok(expected) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{expression}: {got:?} instead of {expected}; thrown: {:?}; not loaded: {:?}",
                browser.exceptions(),
                browser.events("Network.loadingFailed")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A picture below the target folder, for a person to look at.
    pub(crate) fn screenshot(&self, browser: &mut Browser, name: &str) {
        self.screenshot_of(browser, name, json!({}));
    }

    /// Likewise with more parameters, such as a `clip`.
    pub(crate) fn screenshot_of(&self, browser: &mut Browser, name: &str, mut how: Value) {
        how["format"] = json!("png");
        how["captureBeyondViewport"] = json!(true);
        // A tab behind another one is painted when the browser comes to it, minutes later.
        browser.call(Some(&self.session), "Page.bringToFront", json!({}));
        let picture = browser.call(Some(&self.session), "Page.captureScreenshot", how);
        let picture = STANDARD.decode(picture["data"].as_str().expect("data")).expect("base64");
        assert!(picture.starts_with(b"\x89PNG"), "not a picture");
        std::fs::write(own_path(name), picture).expect("the picture can be written");
    }
}
