//! `ringhold serve` as a child process, its server API, and sessions of the client protocol over a
//! raw socket: whatever commands a test makes up, and what comes back as JSON values.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::client::{Client, Head};
use super::server::{IO, Server, under_test};
use super::wire::{CLOSE, FIN, PING, PONG, TEXT, UPGRADE, close_payload, frame, request};
use super::{PATIENCE, files};

/// Where clients connect.
pub(crate) const PATH: &str = "/connection/websocket";

/// The key of the server API in every configuration here.
pub(crate) const API_KEY: &str = "api key of the tests";

/// The secret of tokens in every configuration here.
pub(crate) const SECRET: &str = "secret of the tests";

/// What every configuration here begins with; a test adds tables of its own.
const COMMON: &str = r#"
[http_server]
port = 0
[http_api]
key = "api key of the tests"
[engine]
workers = 2
max_connections = 4096
tick = "10ms"
close_timeout = "200ms"
[client.token]
hmac_secret_key = "secret of the tests"
"#;

/// Limits of time, with the words of a configuration that is about them; elsewhere a client may be
/// as slow as the machine. As a pong has to come before the next ping, none is longer than this.
const PATIENT: [(&[&str], &str); 3] = [
    (&["ping_interval", "pong_timeout"], "RINGHOLD_CLIENT_PONG_TIMEOUT"),
    (&["stale_close_delay"], "RINGHOLD_CLIENT_STALE_CLOSE_DELAY"),
    (&["handshake_timeout"], "RINGHOLD_ENGINE_HANDSHAKE_TIMEOUT"),
];

/// A running `ringhold serve`.
pub(crate) struct Gateway {
    server: Server,
    config: Option<PathBuf>,
}

impl Gateway {
    /// Starts it with these tables of configuration besides those that all tests have.
    pub(crate) fn start(tables: &str) -> Self {
        Self::start_whole(&format!("{COMMON}{tables}"))
    }

    /// Likewise, with these keys of `http_server` and `engine`, too.
    pub(crate) fn start_listening(http_server: &str, engine: &str, tables: &str) -> Self {
        let mut common = COMMON.to_owned();
        for (table, keys) in [("[http_server]\n", http_server), ("[engine]\n", engine)] {
            assert!(common.contains(table));
            common = common.replace(table, &format!("{table}{keys}\n"));
        }
        Self::start_whole(&format!("{common}{tables}"))
    }

    /// Starts it with exactly this configuration.
    pub(crate) fn start_whole(config: &str) -> Self {
        let path = Self::new_file();
        std::fs::write(&path, config).expect("the configuration can be written");
        let server = Self::serve(&path, &[]);
        Self { server, config: Some(path) }
    }

    /// Starts it as its environment says, without a file.
    pub(crate) fn start_by(variables: &[(String, String)]) -> Self {
        let mut command = program();
        command.envs(variables.iter().map(|(name, value)| (name, value))).args(["--port", "0"]);
        Self { server: Server::launch(&mut command, address).0, config: None }
    }

    fn new_file() -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gateway-{}-{number}.toml", std::process::id());
        files().join(name)
    }

    /// Starts it again with the same configuration at the same address.
    pub(crate) fn restart(&mut self) {
        self.restart_after(|| {});
    }

    /// Likewise, with something done while nothing runs.
    pub(crate) fn restart_after(&mut self, meanwhile: impl FnOnce()) {
        self.server.signal(Signal::TERM);
        self.server.exited_well();
        meanwhile();
        self.start_again();
    }

    /// Likewise after an end that it hears nothing of.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill();
        self.start_after_kill();
    }

    /// Starts another one with the same configuration, which takes over: at the same port, or at
    /// this one.
    pub(crate) fn successor(&self, port: Option<u16>, more: &[&str]) -> Self {
        let config = self.config.clone().expect("it has a configuration");
        let own = Self::new_file();
        std::fs::copy(&config, &own).expect("the configuration can be copied");
        let port = port.unwrap_or(self.address().port()).to_string();
        let takes = ["--takeover", "--port", &port];
        let server = Self::serve(&own, &[&takes[..], more].concat());
        Self { server, config: Some(own) }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.server.signal(Signal::KILL);
        self.server.wait(PATIENCE).expect("it is ended");
    }

    /// Starts it again, after it was killed and while no other is at its address.
    pub(crate) fn start_after_kill(&mut self) {
        // What the kernel tears down of it may take a moment longer than the process.
        let address = self.address();
        super::until("its port to be free", || TcpStream::connect(address).is_err());
        self.start_again();
    }

    fn start_again(&mut self) {
        let config = self.config.clone().expect("it has a configuration");
        let port = self.address().port().to_string();
        self.server = Self::serve(&config, &["--port", &port]);
    }

    fn serve(config: &Path, more: &[&str]) -> Server {
        let mut command = program();
        let text = std::fs::read_to_string(config).expect("the configuration can be read");
        for (words, variable) in PATIENT {
            if !words.iter().any(|word| text.contains(word)) {
                command.env(variable, "24s");
            }
        }
        let (server, _) = Server::launch(command.arg("--config").arg(config).args(more), address);
        server.goes_the_way();
        server
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The file of its configuration.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Where clients connect.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}{PATH}", self.address())
    }

    /// A session that has not connected yet.
    pub(crate) fn session(&self) -> Session {
        self.session_at(PATH, &[])
    }

    /// Likewise with another target and more header lines.
    pub(crate) fn session_at(&self, target: &str, lines: &[&str]) -> Session {
        Session::open_on(Client::connect(&self.server), target, lines)
    }

    /// An upgrade request's status, and the connection.
    pub(crate) fn upgrade(&self, target: &str, lines: &[&str]) -> (u16, Client) {
        let (head, client) = self.upgrade_head(target, lines);
        (head.status, client)
    }

    /// Likewise with the whole head.
    pub(crate) fn upgrade_head(&self, target: &str, lines: &[&str]) -> (Head, Client) {
        upgrade(Client::connect(&self.server), target, lines)
    }

    /// A session connected as this user; "" is with no token.
    pub(crate) fn connected(&self, user: &str) -> Session {
        self.connected_with(user, &[])
    }

    /// Likewise with more header lines.
    pub(crate) fn connected_with(&self, user: &str, lines: &[&str]) -> Session {
        let mut session = self.session_at(PATH, lines);
        session.connect(&match user {
            "" => json!({}),
            user => json!({"token": token_of(user)}),
        });
        session
    }

    /// Calls the server API; what comes back whole.
    pub(crate) fn api_reply(&self, method: &str, parameters: &Value) -> Value {
        let (status, body) = self.post(method, &parameters.to_string(), API_KEY);
        assert_eq!(status, 200, "{method} {parameters}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// Calls the server API, which must succeed.
    pub(crate) fn api(&self, method: &str, parameters: Value) -> Value {
        let mut reply = self.api_reply(method, &parameters);
        assert!(reply.get("result").is_some(), "{method} {parameters}: {reply}");
        reply["result"].take()
    }

    /// One POST to the server API: status and body.
    pub(crate) fn post(&self, method: &str, body: &str, key: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address()).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        let head = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: test\r\nX-API-Key: {key}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("a request is taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer in text");
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (status.unwrap_or_else(|| panic!("no status in {answer:?}")), body.to_owned())
    }

    /// The text of `/metrics`; asked for again where a core has had no turn to answer in.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        super::until("all cores to answer", || {
            let (status, body) = self.get("/metrics");
            text = body;
            status != 503
        });
        text
    }

    /// Status and body of what is at this path.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address()).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request is taken");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer in text");
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        (status, text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }

    /// Waits until it says that it is well. `health` is switched on in its configuration.
    pub(crate) fn healthy(&self) {
        super::until("a healthy node", || self.get("/health").0 == 200);
    }

    /// Publishes by the server API; what comes back whole, which may be an error.
    pub(crate) fn publish(&self, channel: &str, data: &Value) -> Value {
        self.api_reply("publish", &json!({"channel": channel, "data": data}))
    }

    /// One value of `/metrics`, by its name behind `ringhold_` and its labels. What is counted by
    /// labels has no line with them before it is first counted: then it is 0.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("ringhold_{name} ")));
        let is_known = || {
            let (family, _) = name.split_once('{')?;
            let family = family.trim_end_matches("_total");
            text.contains(&format!("# HELP ringhold_{family} ")).then_some(0)
        };
        let value = line.map_or_else(is_known, |value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Waits until a metric has this value.
    pub(crate) fn wait_for_metric(&self, name: &str, value: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric(name) != value {
            assert!(Instant::now() < deadline, "{name} is {}, not {value}", self.metric(name));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it by SIGTERM; it must end well.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        self.exited_well();
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.server.id()
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.server.signal(signal);
    }

    /// Asserts that it exits with 0 after a signal.
    pub(crate) fn exited_well(&mut self) {
        self.server.exited_well();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(config) = &self.config {
            let _ = std::fs::remove_file(config);
        }
    }
}

/// `ringhold serve`, without anything from this process's environment that would change it, but for
/// the way into the kernel.
pub(crate) fn program() -> Command {
    let mut command = Command::new(under_test());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text != IO && (text.starts_with("RINGHOLD_") || text.starts_with("CENTRIFUGO_")) {
            command.env_remove(name);
        }
    }
    command.arg("serve");
    command
}

/// An upgrade request: the head of the answer, and the connection.
fn upgrade(mut client: Client, target: &str, lines: &[&str]) -> (Head, Client) {
    let lines = [&UPGRADE[..], lines].concat();
    client.send(&request(&format!("GET {target} HTTP/1.1"), &lines));
    let head = client.read_head();
    (head, client)
}

/// The address in a line with an URL of this machine.
pub(crate) fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("://127.0.0.1:")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let port = rest[..end].parse().ok().filter(|port| *port != 0)?;
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Seconds since 1970.
pub(crate) fn unix() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_secs()).expect("it is before the end of time")
}

/// A token with these claims, signed with [`SECRET`].
pub(crate) fn token(claims: &Value) -> String {
    signed(Algorithm::HS256, claims, SECRET)
}

/// A connection token of this user that never expires.
pub(crate) fn token_of(user: &str) -> String {
    token(&json!({"sub": user}))
}

/// A token with these claims, signed with a secret.
pub(crate) fn signed(algorithm: Algorithm, claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("a token can be made")
}

/// One client's session in JSON.
pub(crate) struct Session {
    client: Client,
    /// Received and not looked at yet.
    replies: VecDeque<Value>,
    pushes: VecDeque<Value>,
    id: u64,
}

/// What comes from the server.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A reply or push; `{}` is a ping.
    Object(Value),
    /// A ping of RFC 6455.
    Ping(Vec<u8>),
    /// A close frame.
    Close(u16, String),
}

impl Session {
    /// A session on this connection that has not connected yet.
    pub(crate) fn open_on(client: Client, target: &str, lines: &[&str]) -> Self {
        let (head, client) = upgrade(client, target, lines);
        assert_eq!(head.status, 101, "{head:?}");
        Self { client, replies: VecDeque::new(), pushes: VecDeque::new(), id: 0 }
    }

    /// Sends one WebSocket message.
    pub(crate) fn say(&mut self, text: &str) {
        self.client.send_frame(FIN | TEXT, text.as_bytes());
    }

    /// The connection below.
    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The connection below, without the session.
    pub(crate) fn into_client(self) -> Client {
        self.client
    }

    /// Sends a command and returns its id.
    pub(crate) fn command(&mut self, method: &str, parameters: &Value) -> u64 {
        self.id += 1;
        let id = self.id;
        self.say(&json!({"id": id, method: parameters}).to_string());
        id
    }

    /// Sends a command and returns the whole reply.
    pub(crate) fn ask(&mut self, method: &str, parameters: Value) -> Value {
        let id = self.command(method, &parameters);
        self.reply(id)
    }

    /// Sends a command, which must succeed, and returns its result.
    pub(crate) fn result(&mut self, method: &str, parameters: Value) -> Value {
        let mut reply = self.ask(method, parameters);
        assert!(reply.get(method).is_some_and(Value::is_object), "{method}: {reply}");
        reply[method].take()
    }

    /// Sends a command, which must fail with this code, and its words.
    pub(crate) fn fails(&mut self, method: &str, parameters: Value, code: u32) {
        let reply = self.ask(method, parameters.clone());
        assert_error(&reply, code, &format!("{method} {parameters}"));
    }

    /// Connects.
    pub(crate) fn connect(&mut self, parameters: &Value) -> Value {
        self.result("connect", parameters.clone())
    }

    /// Subscribes and returns the result.
    pub(crate) fn subscribe(&mut self, channel: &str) -> Value {
        self.result("subscribe", json!({"channel": channel}))
    }

    /// The reply with this id. Pushes before it are kept; pings are answered.
    pub(crate) fn reply(&mut self, id: u64) -> Value {
        loop {
            let found = self.replies.iter().position(|reply| reply["id"] == json!(id));
            if let Some(reply) = found.and_then(|at| self.replies.remove(at)) {
                return reply;
            }
            self.receive(&format!("reply {id}"));
        }
    }

    /// The next push.
    pub(crate) fn push(&mut self) -> Value {
        loop {
            if let Some(mut push) = self.pushes.pop_front() {
                return push["push"].take();
            }
            self.receive("a push");
        }
    }

    /// The next push, which must be a publication in this channel.
    pub(crate) fn publication(&mut self, channel: &str) -> Value {
        let mut push = self.push();
        assert_eq!(push["channel"], json!(channel), "{push}");
        assert!(push.get("pub").is_some(), "{push}");
        push["pub"].take()
    }

    /// The numbers of the next publications in this channel.
    pub(crate) fn numbers(&mut self, channel: &str, count: usize) -> Vec<u64> {
        let mut number = || self.publication(channel)["data"].as_u64().expect("a number");
        (0..count).map(|_| number()).collect()
    }

    /// The pushes that came while a reply was awaited.
    pub(crate) fn pushed(&mut self) -> Vec<Value> {
        self.pushes.drain(..).map(|mut push| push["push"].take()).collect()
    }

    /// Asserts that no push came: a later command is answered first.
    pub(crate) fn no_push(&mut self) {
        self.result("unsubscribe", json!({"channel": "nowhere"}));
        assert!(self.pushes.is_empty(), "{:?}", self.pushes);
    }

    /// Receives what comes within so long, or is there already; pings are answered.
    pub(crate) fn listen(&mut self, time: Duration) {
        if self.client.comes_within(time) {
            self.receive("anything");
        }
    }

    /// Reads one frame's worth into the queues.
    fn receive(&mut self, waiting_for: &str) {
        let (first, payload) = self.client.read_frame();
        if first == FIN | PING {
            self.client.send_frame(FIN | PONG, &payload);
            return;
        }
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert_eq!(first, FIN | TEXT, "waiting for {waiting_for}, got {first:#x} {text:?}");
        for value in objects(&text) {
            if value == json!({}) {
                self.say("{}");
            } else if value.get("push").is_some() {
                self.pushes.push_back(value);
            } else {
                self.replies.push_back(value);
            }
        }
    }

    /// The next thing from the server, with nothing answered.
    pub(crate) fn hear(&mut self) -> Vec<Heard> {
        match self.client.read_frame() {
            (first, payload) if first == FIN | TEXT => {
                let text = String::from_utf8(payload).expect("text is UTF-8");
                objects(&text).into_iter().map(Heard::Object).collect()
            }
            (first, payload) if first == FIN | PING => vec![Heard::Ping(payload)],
            (first, payload) if first == FIN | CLOSE => {
                let (code, reason) = payload.split_first_chunk().expect("a close code");
                let reason = String::from_utf8(reason.to_vec()).expect("a reason is UTF-8");
                vec![Heard::Close(u16::from_be_bytes(*code), reason)]
            }
            (first, payload) => panic!("unexpected frame {first:#x}: {payload:?}"),
        }
    }

    /// Expects the close with this code and its words, whatever comes before it, and the end of
    /// the connection. Pings are not answered.
    pub(crate) fn closed(&mut self, code: u16) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no close {code}");
            for heard in self.hear() {
                if let Heard::Close(got, reason) = heard {
                    assert_eq!((got, reason.as_str()), (code, words_of_close(code)));
                    self.client.try_send(&frame(FIN | CLOSE, &close_payload(code, b"")));
                    self.client.expect_end();
                    return;
                }
            }
        }
    }

    /// Waits for the close, and says with which code.
    pub(crate) fn closed_with(&mut self) -> u16 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no close");
            for heard in self.hear() {
                if let Heard::Close(code, _) = heard {
                    return code;
                }
            }
        }
    }

    /// Asserts that the server said nothing, not even a ping, for so long.
    pub(crate) fn silent(&mut self, time: Duration) {
        assert!(!self.client.comes_within(time), "the server says something");
    }
}

/// The objects of one message.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    text.trim().split('\n').map(parse).collect()
}

/// Asserts that a reply is an error with this code and its words.
pub(crate) fn assert_error(reply: &Value, code: u32, what: &str) {
    let (message, temporary) = words_of_error(code);
    let mut expected = json!({"code": code, "message": message});
    if temporary {
        expected["temporary"] = json!(true);
    }
    assert_eq!(reply["error"], expected, "{what}: {reply}");
}

/// An error's words, and whether a client tries again.
fn words_of_error(code: u32) -> (&'static str, bool) {
    match code {
        100 => ("internal server error", true),
        101 => ("unauthorized", false),
        102 => ("unknown channel", false),
        103 => ("permission denied", false),
        104 => ("method not found", false),
        105 => ("already subscribed", false),
        106 => ("limit exceeded", false),
        107 => ("bad request", false),
        108 => ("not available", false),
        109 => ("token expired", false),
        110 => ("expired", false),
        111 => ("too many requests", true),
        112 => ("unrecoverable position", false),
        other => panic!("error {other} has no words"),
    }
}

/// The words of a close code.
pub(crate) fn words_of_close(code: u16) -> &'static str {
    match code {
        1009 => "",
        3000 => "connection closed",
        3001 => "shutdown",
        3004 => "internal server error",
        3005 => "connection expired",
        3006 => "subscription expired",
        3008 => "slow",
        3009 => "write error",
        3010 => "insufficient state",
        3011 => "force reconnect",
        3012 => "no pong",
        3013 => "too many requests",
        3014 => "state invalidated",
        3500 => "invalid token",
        3501 => "bad request",
        3502 => "stale",
        3503 => "force disconnect",
        3504 => "connection limit",
        3505 => "channel limit",
        3506 => "inappropriate protocol",
        3507 => "permission denied",
        3508 => "not available",
        3509 => "too many errors",
        other => panic!("close code {other} has no words"),
    }
}
