//! nginx and HAProxy in front of the gateway, with the configurations of `tuning/`.
//!
//! The method: the same tests for each of them, through whatever Debian's package does with the
//! bytes. Clients have loopback addresses of their own, so that it shows whose the server sees.

mod streams;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::front::{Front, Kind};
use crate::support::gateway::{API_KEY, Gateway, Heard, PATH, Session, token_of};
use crate::support::wire::{UPGRADE, request};

/// A client's own address: the proxies are at 127.0.0.1.
fn client(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 8, last])
}

/// Runs a test with each proxy that is installed, in front of a gateway with these tables.
fn behind(tables: &str, test: impl Fn(Kind, Site)) {
    behind_with("", tables, test);
}

/// Likewise, with these keys of `engine`.
fn behind_with(engine: &str, tables: &str, test: impl Fn(Kind, Site)) {
    for kind in Kind::ALL {
        let gateway = Gateway::start_listening(kind.server_keys(), engine, tables);
        let Some(front) = Front::start(kind, gateway.address()) else { continue };
        println!("{kind:?}");
        test(kind, Site { gateway, front });
    }
}

/// With all proxies at once, which have this patience: it is what the test waits for.
fn behind_all(tables: &str, timeout: &str, test: impl Fn(Kind, Site) + Sync) {
    std::thread::scope(|scope| {
        for kind in Kind::ALL {
            let test = &test;
            scope.spawn(move || {
                let gateway = Gateway::start_listening(kind.server_keys(), "", tables);
                let front = Front::start_hasty(kind, gateway.address(), Some(timeout));
                let Some(front) = front else { return };
                test(kind, Site { gateway, front });
            });
        }
    });
}

/// A gateway and what is in front of it.
struct Site {
    gateway: Gateway,
    front: Front,
}

impl Site {
    /// A session through the proxy, not connected yet.
    fn session(&self, from: IpAddr, lines: &[&str]) -> Session {
        let client = Client::connect_to(self.front.address(), Some(from));
        Session::open_on(client, PATH, lines)
    }

    fn connected(&self, user: &str) -> Session {
        let mut session = self.session(client(1), &[]);
        session.connect(&json!({"token": token_of(user)}));
        session
    }

    /// The status of an upgrade request through the proxy.
    fn status(&self, from: IpAddr) -> u16 {
        let mut client = Client::connect_to(self.front.address(), Some(from));
        client.send(&request(&format!("GET {PATH} HTTP/1.1"), &UPGRADE));
        client.read_head().status
    }

    /// Calls the server API through the proxy.
    fn api(&self, method: &str, parameters: &Value) -> Value {
        Api::connect(self).call(method, parameters)
    }

    /// Waits until the server knows so many clients.
    fn wait_clients(&self, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let info = self.api("info", &json!({}));
            let clients = info["nodes"][0]["num_clients"].as_u64();
            if clients == Some(count) {
                return;
            }
            assert!(Instant::now() < deadline, "{count} clients are expected: {info}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A connection to the proxy for calls of the API, one after the other.
struct Api(BufReader<TcpStream>);

impl Api {
    fn connect(site: &Site) -> Self {
        let stream = TcpStream::connect(site.front.address()).expect("the proxy accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        Self(BufReader::new(stream))
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        let body = parameters.to_string();
        let head = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: test\r\nX-API-Key: {API_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(head.as_bytes()).expect("the proxy takes it");
        let (first, length) = read_head(&mut self.0).expect("an answer");
        assert!(first.starts_with("HTTP/1.1 200 "), "{method}: {first}");
        let body = match length {
            Some(length) => {
                let mut body = vec![0; length];
                self.0.read_exact(&mut body).expect("the whole answer");
                body
            }
            None => panic!("an answer without its length"),
        };
        let mut reply: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(reply.get("result").is_some(), "{method}: {reply}");
        reply["result"].take()
    }
}

/// The first line of a head, and what it says about the length of its body.
fn read_head(stream: &mut impl BufRead) -> Option<(String, Option<usize>)> {
    let (mut first, mut length) = (String::new(), None);
    stream.read_line(&mut first).ok().filter(|count| *count > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            return Some((first, length));
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
    }
}

/// A backend that lets everybody in as the user "guest", and tells the headers it was sent.
fn backend() -> (SocketAddr, Receiver<Vec<(String, String)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (sender, receiver) = channel();
    // Ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut headers = Vec::new();
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    let line = line.trim();
                    if line.is_empty() {
                        let mut body = vec![0; std::mem::take(&mut length)];
                        if stream.read_exact(&mut body).is_err() {
                            return;
                        }
                        let _ = sender.send(std::mem::take(&mut headers));
                        let body = json!({"result": {"user": "guest"}}).to_string();
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                        continue;
                    }
                    let (name, value) = line.split_once(':').unwrap_or((line, ""));
                    let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
                    if name == "content-length" {
                        length = value.parse().unwrap_or(0);
                    }
                    headers.push((name, value));
                }
            });
        }
    });
    (address, receiver)
}

/// The gateway asks that backend who comes, and passes on how it knows the client.
fn hook(backend: SocketAddr) -> String {
    format!(
        "[client.proxy.connect]\nenabled = true\nendpoint = \"http://{backend}/connect\"\n\
         timeout = \"60s\"\nhttp_headers = [\"X-Forwarded-For\", \"X-Real-IP\", \"X-Other\"]\n"
    )
}

/// What the backend was told about the client, by these headers.
fn told(asked: &Receiver<Vec<(String, String)>>) -> [Vec<String>; 3] {
    let headers = asked.recv_timeout(PATIENCE).expect("the backend is asked");
    ["x-forwarded-for", "x-real-ip", "x-other"].map(|name| {
        headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
    })
}

/// Silence longer than a proxy's patience never comes: pings go through, and answers come back.
#[test]
fn heartbeats_keep_a_connection() {
    let beats = "[client]\nping_interval = \"8s\"\npong_timeout = \"7s\"\n";
    behind_all(beats, "16s", |kind, site| {
        let start = Instant::now();
        let mut session = site.connected("42");
        let mut pings = 0;
        while pings < 3 {
            for heard in session.hear() {
                match heard {
                    Heard::Object(object) if object == json!({}) => {
                        pings += 1;
                        session.say("{}");
                    }
                    other => panic!("{kind:?}: {other:?}"),
                }
            }
        }
        assert!(start.elapsed() > Duration::from_millis(19_500), "{kind:?}");
        assert_eq!(session.ask("rpc", json!({"method": "x"}))["error"]["code"], 108);
    });
    // And that the patience is what would have ended it otherwise.
    behind_all("[client]\nping_interval = \"0s\"\n", "6s", |kind, site| {
        let start = Instant::now();
        let mut session = site.connected("42");
        let mut rest = Vec::new();
        let end = session.client().socket().read_to_end(&mut rest);
        assert!(end.is_ok() && rest.is_empty(), "{kind:?}: {end:?} {rest:?}");
        assert!(start.elapsed() >= Duration::from_millis(5900), "{kind:?}: {:?}", start.elapsed());
        site.wait_clients(0);
    });
}

/// What is shipped outlasts the gateway's defaults: a ping, and the time for its answer.
#[test]
fn shipped_timeouts_are_longer_than_a_heartbeat() {
    let options = ringhold::config::Options::default();
    let beat = options.client.plan.ping_interval + options.client.plan.pong_timeout;
    for kind in Kind::ALL {
        let text = kind.shipped();
        let names = match kind {
            Kind::Nginx => &["proxy_read_timeout", "proxy_send_timeout"][..],
            Kind::NginxStream => &["proxy_timeout"],
            Kind::Haproxy => &["timeout client", "timeout server", "timeout tunnel"],
        };
        for name in names {
            let values = text.lines().filter_map(|line| {
                let value = line.trim().strip_prefix(name)?.strip_prefix(' ')?;
                let value = humantime::parse_duration(value.trim_end_matches(';')).ok()?;
                // Requests of the API are answered within 10 s.
                (value != Duration::from_secs(15)).then_some(value)
            });
            let values: Vec<Duration> = values.collect();
            assert!(!values.is_empty(), "{kind:?} does not say {name}");
            assert!(values.iter().all(|value| *value > 2 * beat), "{kind:?} {name}: {values:?}");
        }
    }
}

/// The server, and so its backend, knows the client's address; what clients claim is not heard.
#[test]
fn the_clients_address_arrives() {
    let (address, asked) = backend();
    behind(&hook(address), |kind, site| {
        for (last, lines) in [
            (1, &[][..]),
            (2, &["X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9", "X-Other: mine"]),
            (3, &["X-Forwarded-For: 127.0.0.1, 203.0.113.9", "X-Forwarded-For: 127.0.0.1"]),
            (4, &["X-Forwarded-For: unknown", "Forwarded: for=203.0.113.9"]),
        ] {
            let mut session = site.session(client(last), lines);
            session.connect(&json!({}));
            let [forwarded, real, other] = told(&asked);
            let own = vec![client(last).to_string()];
            assert_eq!((forwarded, real), (own.clone(), own), "{kind:?} {lines:?}");
            assert_eq!(other.len(), usize::from(last == 2), "{kind:?}: others are passed on");
        }
        // Around the proxy: who is not trusted is not believed.
        let direct = || Client::connect_to(site.gateway.address(), Some(client(9)));
        let forged = "X-Forwarded-For: 203.0.113.9";
        if kind == Kind::Nginx {
            Session::open_on(direct(), PATH, &[forged]).connect(&json!({}));
            let [forwarded, real, _] = told(&asked);
            let own = vec![client(9).to_string()];
            assert_eq!((forwarded, real), (own.clone(), own));
        } else {
            let header = "PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n";
            for first in ["", header] {
                let mut client = direct();
                let upgrade = request(&format!("GET {PATH} HTTP/1.1"), &UPGRADE);
                client.send(&[first.as_bytes(), &upgrade].concat());
                client.expect_refusal(&[400]);
            }
        }
    });
}

/// Without a list of trusted proxies, backends get what clients sent, as they always did.
#[test]
fn without_a_list_headers_pass_as_they_come() {
    let (address, asked) = backend();
    let gateway = Gateway::start(&hook(address));
    let lines = ["X-Forwarded-For: 203.0.113.9, 192.0.2.1", "X-Real-IP: 203.0.113.9"];
    gateway.session_at(PATH, &lines).connect(&json!({}));
    let [forwarded, real, _] = told(&asked);
    assert_eq!(
        (forwarded, real),
        (vec!["203.0.113.9, 192.0.2.1".into()], vec!["203.0.113.9".into()])
    );
}

/// The limit per address is each client's, not the proxy's.
#[test]
fn the_limit_per_address_is_the_clients() {
    behind_with("max_per_address = 3", "[client]\nstale_close_delay = \"1h\"\n", |kind, site| {
        let inside: Vec<Session> = (0..9).map(|at| site.session(client(1 + at % 3), &[])).collect();
        for last in 1..=3 {
            assert_eq!(site.status(client(last)), 503, "{kind:?}");
        }
        let _fourth = site.session(client(4), &[]);
        drop(inside);
        let deadline = Instant::now() + PATIENCE;
        while site.status(client(1)) != 101 {
            assert!(Instant::now() < deadline, "{kind:?}: who left is still counted");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

/// Large messages pass both ways as they are, in text and whole.
#[test]
fn large_messages_arrive_intact() {
    let tables = "[websocket]\nmessage_size_limit = \"256KiB\"\n\
        [channel.without_namespace]\nallow_subscribe_for_client = true\n\
        allow_publish_for_client = true\n";
    behind(tables, |kind, site| {
        let mut sender = site.connected("1");
        let mut receiver = site.connected("2");
        receiver.subscribe("news");
        for size in [2_000, 64 << 10] {
            for round in 0..5 {
                let text = varied(size, round);
                sender.result("publish", json!({"channel": "news", "data": text}));
                let publication = receiver.publication("news");
                assert!(publication["data"] == json!(text), "{kind:?}: {size} bytes changed");
                site.api("publish", &json!({"channel": "news", "data": {"text": text}}));
                let publication = receiver.publication("news");
                assert!(publication["data"]["text"] == json!(text), "{kind:?}: {size} bytes");
            }
        }
    });
}

/// Text of so many bytes that repeats nowhere, with characters of several bytes.
fn varied(size: usize, seed: usize) -> String {
    let mut text = String::with_capacity(size + 16);
    let mut at = seed;
    while text.len() < size {
        text += &format!("{at}é→\u{1f30a}\"\\\n");
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    while text.len() > size {
        text.pop();
    }
    text
}

/// Requests of the API share connections, to the proxy and behind it; WebSockets take no part.
#[test]
fn the_api_answers_through_it() {
    behind("[health]\nenabled = true\n", |kind, site| {
        let mut api = Api::connect(&site);
        let channel = json!({"channel": "news", "data": {}});
        for round in 0..20 {
            api.call("publish", &channel);
            if round % 5 == 0 {
                // From the address that the API's connections behind the proxy are for.
                let mut session = site.session(IpAddr::from([127, 0, 0, 1]), &[]);
                session.connect(&json!({"token": token_of("42")}));
            }
        }
        site.wait_clients(0);
        if kind != Kind::NginxStream {
            for path in ["/metrics", "/health", "/"] {
                let mut client = Client::connect_to(site.front.address(), None);
                client.send(&request(&format!("GET {path} HTTP/1.1"), &["Host: test"]));
                assert_eq!(client.read_head().status, 404, "{kind:?} {path}");
            }
        }
    });
}

/// A drain reaches clients as what it is.
#[test]
fn a_drain_reaches_clients_as_a_close() {
    behind("", |_, mut site| {
        let mut sessions: Vec<Session> =
            (0..5).map(|user| site.connected(&user.to_string())).collect();
        site.gateway.signal(Signal::TERM);
        for session in &mut sessions {
            session.closed(3001);
        }
        site.gateway.exited_well();
    });
}

/// A client that is killed is gone from the server's tables: its end passes the proxy.
#[test]
fn a_killed_client_is_gone() {
    // Heartbeats would find it long after the test has lost its patience.
    let slow = "[client]\nping_interval = \"600s\"\n\
        [channel.without_namespace]\nallow_subscribe_for_client = true\npresence = true\n";
    behind(slow, |kind, site| {
        let mut reset = site.connected("reset");
        let mut cut = site.connected("cut");
        let mut stays = site.connected("stays");
        for session in [&mut reset, &mut cut, &mut stays] {
            session.subscribe("news");
        }
        site.wait_clients(3);
        reset.into_client().reset();
        drop(cut);
        site.wait_clients(1);
        let present = site.api("presence_stats", &json!({"channel": "news"}));
        assert_eq!(present["num_clients"], 1, "{kind:?}: {present}");
        stays.result("unsubscribe", json!({"channel": "news"}));
    });
}
