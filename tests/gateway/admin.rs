//! The admin page as an operator meets it: in headless Chromium, in front of a gateway with clients
//! that publish, and one that does not read.
//!
//! Method: what the page shows is read back from its elements and compared with `/metrics`, number
//! by number: under load each lies between what `/metrics` says before and after, and when the load
//! pauses they are the same. Whatever the page asks for and complains about is looked through at
//! the end. Screenshots go below the target folder. Without Chromium the test says so and checks
//! nothing, but fails where `CI` is set. The routes alone are in `admin_http.rs`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::browser::{BROWSERS, Browser, LIMIT, Tab};
use crate::support::gateway::{Gateway, Session};
use crate::support::{PATIENCE, find_program, skip};

const PASSWORD: &str = "open sesame please";

const TABLES: &str = r#"
[client]
# Nothing is sent by itself while figures are compared.
ping_interval = "600s"
queue_max_size = "16MiB"
[websocket]
write_timeout = "600s"
[prometheus]
enabled = true
[admin]
enabled = true
password = "open sesame please"
[[channel.namespaces]]
name = "chat"
presence = true
history_size = 10
history_ttl = "10m"
allow_subscribe_for_client = true
allow_publish_for_client = true
"#;

/// Numbers by name, as `/metrics` has them; labels in alphabetical order.
type Numbers = BTreeMap<String, f64>;

/// One connection for `/metrics`, so that asking does not change what the engine counts; another
/// one where the server has ended it, idle for too long.
struct Metrics(SocketAddr, BufReader<TcpStream>);

impl Metrics {
    fn new(gateway: &Gateway) -> Self {
        Self(gateway.address(), Self::connect(gateway.address()))
    }

    fn connect(address: SocketAddr) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        BufReader::new(stream)
    }

    fn read(&mut self) -> Numbers {
        self.try_read().unwrap_or_else(|| {
            self.1 = Self::connect(self.0);
            self.try_read().expect("an answer")
        })
    }

    /// `None`: the connection has ended, or is about to.
    fn try_read(&mut self) -> Option<Numbers> {
        let request = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";
        self.1.get_mut().write_all(request).ok()?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.1.read_line(&mut line).ok().filter(|count| *count > 0)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.starts_with("http/1.1 408 ") {
                return None;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.1.read_exact(&mut body).expect("a body");
        let text = String::from_utf8(body).expect("text");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Some(samples.map(|line| sample(line).unwrap_or_else(|| panic!("{line}"))).collect())
    }
}

/// A line of the exposition, with the labels in alphabetical order.
fn sample(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((base, labels)) = name.split_once('{') else { return Some((name.to_owned(), value)) };
    let mut labels: Vec<_> = labels.strip_suffix('}')?.split(',').collect();
    labels.sort_unstable();
    Some((format!("{base}{{{}}}", labels.join(",")), value))
}

/// The page in one tab.
struct Page {
    browser: Browser,
    tab: Tab,
}

impl Page {
    fn value(&mut self, expression: &str) -> Value {
        self.tab.value(&mut self.browser, expression)
    }

    fn shows(&mut self, expression: &str, expected: &Value) {
        self.tab.shows(&mut self.browser, expression, expected);
    }

    fn text_of(&mut self, id: &str) -> String {
        let text = self.value(&format!("document.getElementById('{id}').textContent"));
        text.as_str().expect("text").to_owned()
    }

    fn click(&mut self, selector: &str) {
        let there = format!("document.querySelector('{selector}') !== null");
        self.shows(&there, &json!(true));
        self.value(&format!("document.querySelector('{selector}').click()"));
    }

    /// Puts text into a field, as a person does.
    fn write(&mut self, id: &str, text: &str) {
        self.value(&format!("document.getElementById('{id}').select()"));
        self.browser.call(Some(&self.tab.session), "Input.insertText", json!({"text": text}));
        self.shows(&format!("document.getElementById('{id}').value"), &json!(text));
    }

    fn log_in(&mut self, password: &str) {
        self.value("document.getElementById('password').focus()");
        self.write("password", password);
        self.click("#login-button");
    }

    /// Waits until it shows figures that were read after this call.
    fn next_round(&mut self) {
        let round = "Number(document.getElementById('page').dataset.round || 0)";
        // One may have been under way.
        let now = self.value(round).as_u64().expect("a number") + 2;
        self.shows(&format!("{round} >= {now}"), &json!(true));
    }

    /// All numbers of the table of metrics.
    fn numbers(&mut self) -> Numbers {
        let rows = self.value(
            "JSON.stringify([...document.querySelectorAll('#all-rows tr')].map((row) => \
             [row.children[0].textContent, Number(row.children[1].dataset.value), \
              row.children[1].textContent]))",
        );
        let rows: Vec<(String, f64, String)> =
            serde_json::from_str(rows.as_str().expect("text")).expect("JSON");
        for (name, number, text) in &rows {
            let shown: f64 = text.replace(',', "").parse().unwrap_or(f64::NAN);
            assert_eq!(shown, *number, "{name} is shown as {text}");
        }
        rows.into_iter().map(|(name, number, _)| (name, number)).collect()
    }

    /// The figures outside of that table, by the metric they say they are.
    fn figures(&mut self) -> Vec<(String, f64, String)> {
        let all = self.value(
            "JSON.stringify([...document.querySelectorAll('[data-metric]')].map((one) => \
             [one.dataset.metric, Number(one.dataset.value), one.textContent]))",
        );
        serde_json::from_str(all.as_str().expect("text")).expect("JSON")
    }
}

/// What a server does for itself, whether or not somebody comes.
fn is_restless(name: &str) -> bool {
    let engine = ["ringhold_resident", "ringhold_turns", "ringhold_core_turns", "ringhold_timer"];
    // Asking costs processor time, too: on a slow machine some of it in every round.
    let process = ["process_cpu", "process_resident", "process_virtual"];
    engine.iter().chain(&process).any(|start| name.starts_with(start))
}

fn calm(numbers: &Numbers) -> Numbers {
    let calm = numbers.iter().filter(|(name, _)| !is_restless(name));
    calm.map(|(name, number)| (name.clone(), *number)).collect()
}

#[test]
fn the_page_tells_the_truth_and_acts() {
    let Some(chromium) = find_program(&BROWSERS) else {
        return skip("chromium is not installed");
    };
    let gateway = Gateway::start(TABLES);
    let mut metrics = Metrics::new(&gateway);
    let mut browser = Browser::start(&chromium, "gateway-admin");
    let tab = browser.open(&format!("http://{}/", gateway.address()));
    let mut page = Page { browser, tab };

    // Without the right password there is nothing.
    page.shows("document.getElementById('login')?.hidden", &json!(false));
    page.log_in("guess");
    let error = "document.getElementById('login-error').textContent";
    page.shows(error, &json!("Wrong password"));
    assert_eq!(page.value("document.getElementById('page').hidden"), json!(true));
    page.log_in(PASSWORD);
    page.shows("document.getElementById('page').hidden", &json!(false));
    page.shows("document.getElementById('state').textContent", &json!("live"));
    page.click("#all summary");

    let mut sessions = ["ann", "ann", "bob", "eve"].map(|user| gateway.connected(user));
    for session in &mut sessions {
        session.subscribe("chat:room");
    }
    under_load(&gateway, &mut page, &mut metrics);
    at_rest(&mut page, &mut metrics);
    look(&mut page, "light");

    channels_and_publishing(&mut page, &mut sessions);
    users_and_disconnecting(&mut page, &mut sessions);
    drop(sessions);
    slow_consumers(&gateway, &mut page, &mut metrics);

    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    page.browser.call(Some(&page.tab.session), "Emulation.setEmulatedMedia", dark);
    look(&mut page, "dark");
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    page.browser.call(Some(&page.tab.session), "Emulation.setDeviceMetricsOverride", phone);
    look(&mut page, "phone");

    can_be_operated(&mut page);
    begins_full(&mut page);
    page.click("#logout");
    page.shows("document.getElementById('login').hidden", &json!(false));
    assert_eq!(page.value("sessionStorage.length"), json!(0));
    stays_at_home(&page, &gateway);
}

/// While clients publish, every counter lies between those of `/metrics` before and after.
fn under_load(gateway: &Gateway, page: &mut Page, metrics: &mut Metrics) {
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = ["pat", "quinn"]
        .into_iter()
        .map(|user| {
            let (mut session, stop) = (gateway.connected(user), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let publication = json!({"channel": "chat:load", "data": {"text": "x"}});
                    session.result("publish", publication);
                }
            })
        })
        .collect();
    let mut grown = 0;
    for _ in 0..4 {
        let before = metrics.read();
        page.next_round();
        let shown = page.numbers();
        let after = metrics.read();
        assert!(shown.len() > 300, "only {} numbers", shown.len());
        for (name, number) in &shown {
            let is_total = name.split('{').next().is_some_and(|base| {
                ["_total", "_count", "_bucket"].iter().any(|end| base.ends_with(end))
            });
            // A series that is new.
            let least = before.get(name).copied().unwrap_or_default();
            let most = after[name];
            if is_total {
                assert!((least..=most).contains(number), "{name}: {least} {number} {most}");
                grown += u32::from(least < *number);
            }
        }
    }
    assert!(grown > 20, "only {grown} counters grew");
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.join().expect("the publisher did well");
    }
}

/// When nothing happens, every number is exactly the one of `/metrics`.
fn at_rest(page: &mut Page, metrics: &mut Metrics) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let before = metrics.read();
        page.next_round();
        let (shown, figures) = (page.numbers(), page.figures());
        let after = metrics.read();
        if calm(&before) != calm(&after) {
            assert!(Instant::now() < deadline, "the server does not come to rest");
            continue;
        }
        assert_eq!(calm(&shown), calm(&after));
        assert_eq!(shown.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        assert!(figures.len() > 10, "{figures:?}");
        for (name, number, text) in &figures {
            assert_eq!(text.replace(',', "").parse(), Ok(*number), "{name}");
            assert!(is_restless(name) || after[name] == *number, "{name}: {number}");
        }
        assert_eq!(after["ringhold_open"], 4.0);
        assert!(after["ringhold_gateway_publications_total"] > 0.0);
        let cores = page.value("document.querySelectorAll('#cores-rows tr').length");
        assert_eq!(cores, json!(2));
        return;
    }
}

fn channels_and_publishing(page: &mut Page, sessions: &mut [Session]) {
    page.write("channels-q", "roo");
    page.click("#channels-form button");
    let list =
        "[...document.querySelectorAll('#channels-rows td')].map((cell) => cell.textContent)";
    page.shows(&format!("{list}.slice(0, 2)"), &json!(["chat:room", "4"]));
    page.click("#channels-rows button");
    let present = "document.querySelectorAll('#channel-rows tr').length";
    page.shows(present, &json!(4));
    let facts = "document.getElementById('channel-facts').textContent";
    page.shows(&format!("{facts}.includes('4 connections of 3 users')"), &json!(true));
    page.tab.screenshot(&mut page.browser, "gateway-admin-channel.png");

    page.click("#channel-publish");
    page.write("publish-data", "{\"text\": ");
    page.click("#publish-do");
    let said = "document.getElementById('publish-said').textContent";
    page.shows(&format!("{said}.startsWith('No JSON')"), &json!(true));
    page.write("publish-data", "{\"text\": \"from the page\"}");
    page.click("#publish-do");
    page.shows(said, &json!("Published, offset 1"));
    for session in sessions {
        let publication = session.publication("chat:room");
        assert_eq!(publication["data"], json!({"text": "from the page"}));
    }
    // A channel that is not allowed is said so.
    page.write("publish-channel", "nowhere:x");
    page.click("#publish-do");
    page.shows(&format!("{said}.includes('unknown channel (102)')"), &json!(true));
    page.click("#publish [data-close]");
    page.click("#channel [data-close]");
}

fn users_and_disconnecting(page: &mut Page, sessions: &mut [Session; 4]) {
    page.write("users-q", "*nn");
    page.click("#users-form button");
    let list = "[...document.querySelectorAll('#users-rows td')].map((cell) => cell.textContent)";
    page.shows(list, &json!(["ann", "2"]));
    page.click("#users-rows button");
    page.shows("document.querySelectorAll('#user-rows tr').length", &json!(2));
    // From where, how, and since when each is there.
    let cells = "[...document.querySelectorAll('#user-rows tr:first-child td')].map((cell) => \
                 cell.textContent)";
    let cells = page.value(&format!("JSON.stringify({cells})"));
    let cells: Vec<String> = serde_json::from_str(cells.as_str().expect("text")).expect("JSON");
    assert!(cells[1].starts_with("127.0.0.1:") && cells[1].len() > 11, "{cells:?}");
    assert_eq!((&*cells[2], &*cells[5], &*cells[6]), ("websocket, json", "1", "chat:room"));
    let (_, ago) = cells[3].split_once(' ').expect("a time");
    assert!(["s ago", "min ago"].iter().any(|unit| ago.ends_with(unit)), "{cells:?}");
    // One of them, which may come back, then all.
    page.click("#user-rows button");
    page.click("#disconnect-back");
    page.click("#disconnect-do");
    page.shows("document.querySelectorAll('#user-rows tr').length", &json!(1));
    page.click("#user-disconnect");
    assert_eq!(page.text_of("disconnect-whom"), "ann, all connections");
    page.click("#disconnect-do");
    let nobody = "document.getElementById('user-rows').textContent";
    page.shows(nobody, &json!("No connection any more"));
    let mut codes: Vec<u16> = sessions[..2].iter_mut().map(Session::closed_with).collect();
    codes.sort_unstable();
    assert_eq!(codes, [3011, 3503]);
    page.click("#user [data-close]");
    let rows = "document.getElementById('disconnects-rows').textContent";
    page.shows(&format!("{rows}.includes('3503 force disconnect')"), &json!(true));
}

/// Who does not read is named while it lasts, and after it was closed for it.
fn slow_consumers(gateway: &Gateway, page: &mut Page, metrics: &mut Metrics) {
    let mut slow = gateway.session();
    let token = crate::support::gateway::token_of("slowpoke");
    let client = slow.connect(&json!({"token": token}))["client"].clone();
    slow.subscribe("chat:flood");
    let text = "x".repeat(200_000);
    let publish = || {
        gateway.api("publish", json!({"channel": "chat:flood", "data": text}));
    };
    let deadline = Instant::now() + LIMIT;
    while metrics.read()["ringhold_blocked"] < 1.0 {
        assert!(Instant::now() < deadline, "the send buffer never fills");
        publish();
    }
    let cells = "[...document.querySelectorAll('#slow-rows td')].map((cell) => cell.textContent)";
    page.shows(&format!("{cells}[0]"), &json!("slowpoke"));
    assert_eq!(page.value(&format!("{cells}[1]")), client);
    assert_eq!(page.value(&format!("{cells}[3]")), json!("1"));
    let waiting = page.value(&format!("{cells}[4]"));
    assert!(waiting.as_str().is_some_and(|text| text.ends_with("iB")), "{waiting}");
    assert_eq!(page.text_of("slow-nav"), "Slow (1)");
    look(page, "slow");
    while metrics.read()["ringhold_closes_total{cause=\"slow\"}"] < 1.0 {
        assert!(Instant::now() < deadline, "it is never closed");
        publish();
    }
    let cells = "[...document.querySelectorAll('#ended-rows td')].map((cell) => cell.textContent)";
    page.shows(&format!("{cells}.slice(0, 4)"), &json!(["slowpoke", client, "1", "slow"]));
    let nobody = "document.getElementById('slow-rows').textContent";
    page.shows(nobody, &json!("Nobody: everyone reads what is sent"));
}

/// Takes a picture of all of it, which must not be wider than the window.
fn look(page: &mut Page, name: &str) {
    page.value("scrollTo({top: 0, behavior: 'instant'})");
    page.next_round();
    let size = "JSON.stringify([document.documentElement.scrollHeight, innerWidth, \
                document.documentElement.scrollWidth])";
    let size = page.value(size);
    let size: [u32; 3] = serde_json::from_str(size.as_str().expect("text")).expect("JSON");
    let [height, width, needed] = size;
    assert!(needed <= width, "{name}: {needed} pixels in a window of {width}");
    // A phone makes its window wider rather than let it scroll.
    assert!(name != "phone" || width == 360, "{name}: {width}");
    let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
    let name = format!("gateway-admin-{name}.png");
    page.tab.screenshot_of(&mut page.browser, &name, json!({"clip": clip}));
}

/// Whoever comes sees what was before: the server has kept it.
fn begins_full(page: &mut Page) {
    page.click("#logout");
    page.log_in(PASSWORD);
    page.shows("document.getElementById('page').hidden", &json!(false));
    let points = "JSON.stringify([...document.querySelectorAll('#rate-charts path.line')]\
                  .map((line) => line.getAttribute('d').split('L').length))";
    let before = page.value("Number(document.getElementById('page').dataset.round)");
    page.next_round();
    let looked = page.value("Number(document.getElementById('page').dataset.round)");
    let looked = looked.as_u64().expect("a number") - before.as_u64().expect("a number") + 1;
    let points = page.value(points);
    let points: Vec<u64> = serde_json::from_str(points.as_str().expect("text")).expect("JSON");
    assert!(points.len() >= 12, "{points:?}");
    for count in &points {
        assert!(*count > looked + 1, "{points:?} after {looked} looks");
    }
    page.click("input[name=range][value=\"3600000\"]");
    page.next_round();
}

/// What the keyboard and a screen reader need.
fn can_be_operated(page: &mut Page) {
    for (what, all, is_bad) in [
        ("fields have labels", "input, textarea", "!e.hidden && !e.labels.length"),
        ("buttons have names", "button", "!e.textContent.trim()"),
        ("tables have headers", "table", "!e.querySelector('thead th[scope=col]')"),
        ("dialogs have titles", "dialog", "!$(e.getAttribute('aria-labelledby'))"),
        ("charts are described", "svg[role=img]", "!e.getAttribute('aria-label')"),
        ("there is one title", "#page h1 ~ h1", "true"),
    ] {
        let found = page.value(&format!(
            "(($) => [...document.querySelectorAll('{all}')].filter((e) => {is_bad})\
             .map((e) => e.outerHTML.slice(0, 200)))((id) => document.getElementById(id))"
        ));
        assert_eq!(found, json!([]), "{what}");
    }
    // The first press of the key leads to the link that skips what is above, and it is seen.
    page.value("document.activeElement.blur(); scrollTo(0, 0)");
    for kind in ["keyDown", "keyUp"] {
        let key = json!({"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9});
        page.browser.call(Some(&page.tab.session), "Input.dispatchKeyEvent", key);
    }
    page.shows("document.activeElement.matches(':focus-visible')", &json!(true));
    let outline = page.value("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, json!("solid"));
}

/// No script failed, nothing was complained about, and no request left this server.
fn stays_at_home(page: &Page, gateway: &Gateway) {
    let exceptions = page.browser.exceptions();
    assert!(exceptions.is_empty(), "{exceptions:?}");
    let said = page.browser.events("Runtime.consoleAPICalled");
    assert!(said.is_empty(), "{said:?}");
    let is_error = |entry: &&&Value| {
        let entry = &entry["entry"];
        // The wrong password, as it was meant.
        let expected = entry["url"].as_str().is_some_and(|url| url.ends_with("/admin/auth"));
        ["error", "warning"].contains(&entry["level"].as_str().unwrap_or("")) && !expected
    };
    let entries = page.browser.events("Log.entryAdded");
    let errors: Vec<_> = entries.iter().filter(is_error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let home = format!("http://{}/", gateway.address());
    let requests = page.browser.events("Network.requestWillBeSent");
    assert!(requests.len() > 20, "{}", requests.len());
    for request in requests {
        let url = request["request"]["url"].as_str().expect("an address");
        assert!(url.starts_with(&home), "{url}");
    }
}

#[test]
fn a_page_that_nobody_looks_at_asks_nothing() {
    let Some(chromium) = find_program(&BROWSERS) else {
        return skip("chromium is not installed");
    };
    let gateway = Gateway::start(TABLES);
    let mut browser = Browser::start(&chromium, "gateway-admin-hidden");
    let tab = browser.open(&format!("http://{}/admin", gateway.address()));
    let mut page = Page { browser, tab };
    page.shows("document.getElementById('login')?.hidden", &json!(false));
    page.log_in(PASSWORD);
    page.next_round();
    // What was begun so far, as the browser told before it answers.
    let asked = |page: &mut Page| {
        page.value("0");
        let begun = page.browser.events("Network.requestWillBeSent");
        let url = |event: &Value| event["request"]["url"].as_str().map(str::to_owned);
        let urls = begun.into_iter().filter_map(url);
        urls.filter(|url| url.split('?').next().is_some_and(|it| it.ends_with("/stats"))).count()
    };
    let hide = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}}); \
             document.dispatchEvent(new Event('visibilitychange'))"
        )
    };
    page.value(&hide(true));
    page.shows("document.getElementById('state').textContent", &json!("paused"));
    let before = asked(&mut page);
    assert!(before > 0, "it has asked before");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(asked(&mut page), before);
    page.value(&hide(false));
    page.next_round();
    page.shows("document.getElementById('state').textContent", &json!("live"));
}
