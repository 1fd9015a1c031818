//! The application under test: it echoes, publishes, closes, panics, keeps identifiers too long;
//! and it checks what the engine promises an application. What it sees goes to a [`Journal`] that
//! the clients are checked against.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringhold::engine::rng::Rng;
use ringhold::protocol::Refusal;
use ringhold::protocol::request::Request;
use ringhold::{
    Answer, Cause, CloseCode, Closed, Conn, ConnId, Cx, DialTarget, Frame, Handler, Message, Plain,
    SendError, Via,
};

use super::coverage::Coverage;

/// What the application knows of one connection, by its client's port.
#[derive(Default)]
pub struct Record {
    pub opened: bool,
    /// Whom the engine took it for.
    pub client: Option<IpAddr>,
    pub cause: Option<Cause>,
    /// Messages received, and echoes that were taken.
    pub received: u64,
    pub echoed: u64,
    /// Every echo so far was taken.
    pub topics: HashSet<String>,
}

#[derive(Default)]
pub struct Journal {
    /// Broken promises.
    pub broken: Vec<String>,
    pub records: HashMap<u16, Record>,
    pub causes: HashMap<Cause, u64>,
    pub seen: Coverage,
    /// Clients that were found dead of silence since the last look.
    pub silenced: Vec<u16>,
    /// Outcomes told of each dial.
    pub dials: Vec<u32>,
}

pub struct App {
    pub journal: Rc<RefCell<Journal>>,
    pub rng: Rng,
    /// Whether it misbehaves.
    pub wild: bool,
    /// Identifiers, of the living and the dead.
    kept: Vec<(ConnId, u16)>,
    closed: HashSet<ConnId>,
    opened: HashSet<ConnId>,
}

pub struct State {
    id: Option<ConnId>,
    port: u16,
    path: String,
}

impl App {
    pub fn new(journal: Rc<RefCell<Journal>>, rng: Rng, wild: bool) -> Self {
        let (kept, closed, opened) = Default::default();
        Self { journal, rng, wild, kept, closed, opened }
    }

    fn check(&self, holds: bool, what: &str) {
        if !holds {
            self.journal.borrow_mut().broken.push(what.to_owned());
        }
    }

    fn count(&self, name: &'static str) {
        self.journal.borrow_mut().seen.count(name);
    }

    /// What an application may do at any time.
    fn meddle(&mut self, cx: &mut Cx<'_>) {
        if !self.wild || self.kept.is_empty() || !self.rng.one_in(4) {
            return;
        }
        let (id, port) = self.kept[self.rng.below(self.kept.len() as u32) as usize];
        let dead = self.closed.contains(&id);
        let result = match self.rng.below(12) {
            0 => cx.close(id, CloseCode(3000 + self.rng.below(999) as u16), "enough"),
            1..4 => {
                let topic = TOPICS[self.rng.below(3) as usize];
                let payload = format!("T{topic} {}", "x".repeat(self.size()));
                let frame = self.frame(&payload).keyed(u64::from(self.rng.below(3)));
                return cx.publish(topic, &frame);
            }
            4 => {
                let heard = cx.heard(id, 10);
                self.check(!(dead && heard), "somebody gone was heard");
                return;
            }
            5 | 6 => {
                // What is not a stream gets the message alone.
                let frame = Frame::chunk(format!("D{port} {}", "p".repeat(self.size())).as_bytes());
                cx.send_prefixed_to(id, format!("P{port} ").as_bytes(), &frame)
            }
            _ => {
                let payload = format!("D{port} {}", "y".repeat(self.size()));
                cx.send_to(id, &self.frame(&payload).keyed(u64::from(self.rng.below(3))))
            }
        };
        self.check(!dead || result == Err(SendError::Gone), "a stale identifier reached somebody");
        if dead {
            self.count("stale identifier used");
        }
    }

    /// Made for streams or for others: both get it.
    fn frame(&mut self, payload: &str) -> Frame {
        match self.rng.one_in(2) {
            true => Frame::chunk(payload.as_bytes()),
            false => Frame::text(payload),
        }
    }

    fn size(&mut self) -> usize {
        match self.rng.below(20) {
            0 => self.rng.below(60_000) as usize,
            1..4 => self.rng.below(2000) as usize,
            _ => self.rng.below(60) as usize,
        }
    }

    fn enter(&self, conn: &mut Conn<'_>, state: &State) {
        let id = conn.id();
        self.check(state.id == Some(id), "the state is another connection's");
        self.check(self.opened.contains(&id), "an event before open");
        self.check(!self.closed.contains(&id), "an event after close");
        self.check(conn.is_open(), "an event of a connection that is not open");
        let port = conn.peer_addr().map(|peer| peer.port());
        self.check(state.path == "/dialled" || port == Some(state.port), "another's port");
    }

    fn echo(&mut self, conn: &mut Conn<'_>, state: &State, message: Message<'_>) {
        let kind = message.kind();
        let result = match state.path.as_str() {
            "/send" => conn.send(kind, message.data()),
            "/frame" => conn.send_frame(&Frame::new(kind, message.data())),
            "/text" if message.text().is_some() => conn.text(message.text().unwrap_or_default()),
            _ => conn.reply(message),
        };
        let mut journal = self.journal.borrow_mut();
        let record = journal.records.entry(state.port).or_default();
        record.received += 1;
        record.echoed += u64::from(result.is_ok());
    }
}

impl Handler for App {
    type State = State;
    type Letter = u64;

    fn request(
        &mut self,
        cx: &mut Cx<'_>,
        request: &Request<'_>,
        peer: SocketAddr,
    ) -> Answer<State> {
        self.meddle(cx);
        match request.path() {
            "/refuse" => return Answer::Refuse(Refusal::NotFound),
            "/panic" if self.wild => resume_unwind(Box::new("in request")),
            _ => {}
        }
        let path = request.path().to_owned();
        let state = State { id: None, port: peer.port(), path };
        let dialect = if self.rng.one_in(4) { 2 } else { 0 };
        Answer::Accept { state, protocol: None, headers: Vec::new(), dialect }
    }

    fn heartbeat(&mut self, conn: &mut Conn<'_>, state: &mut State) -> bool {
        self.meddle(conn);
        if state.path == "/stream" {
            self.check(conn.ping(b"") != Ok(()), "a ping on a stream");
            return conn.text("Beat").is_ok() && self.rng.one_in(2);
        }
        !self.rng.one_in(8) && conn.ping(b"beat").is_ok()
    }

    fn plain(
        &mut self,
        cx: &mut Cx<'_>,
        request: &Request<'_>,
        body: Option<&[u8]>,
        peer: SocketAddr,
    ) -> Plain<State> {
        self.meddle(cx);
        match (request.path(), request.method, body) {
            ("/stream", "POST", None) => return Plain::Body(BODY_MAX),
            ("/stream", _, body) => {
                let whole = body.is_none_or(|body| body.iter().all(|byte| *byte == b'b'));
                self.check(whole, "another's body");
                let state = State { id: None, port: peer.port(), path: "/stream".to_owned() };
                let headers = vec![("X-Sim".to_owned(), "1".to_owned())];
                return Plain::Stream { state, headers, dialect: self.rng.below(8) as u8 };
            }
            ("/answer", ..) => return Plain::Answer { status: 204, headers: Vec::new() },
            _ => {}
        }
        match request.method == "GET" && self.rng.one_in(2) {
            true => Plain::Pass,
            false => Plain::Refuse,
        }
    }

    fn passed(&mut self, cx: &mut Cx<'_>, _: OwnedFd, received: Vec<u8>, _: Via) {
        self.meddle(cx);
        self.check(received.starts_with(b"GET "), "handed over without its request");
    }

    fn open(&mut self, conn: &mut Conn<'_>, state: &mut State) {
        state.id = Some(conn.id());
        let first = self.opened.insert(conn.id());
        self.check(first, "opened twice");
        self.kept.push((conn.id(), state.port));
        {
            let mut journal = self.journal.borrow_mut();
            let record = journal.records.entry(state.port).or_default();
            record.opened = true;
            record.client = conn.peer_addr().map(|peer| peer.ip());
        }
        self.enter(conn, state);
        match state.path.as_str() {
            "/greet" => {
                for _ in 0..=self.rng.below(3) {
                    let payload = format!("D{} {}", state.port, "z".repeat(self.size()));
                    let _ = conn.text(&payload);
                }
                let _ = conn.ping(b"hello");
            }
            "/topic" => {
                for topic in TOPICS.iter().take(1 + self.rng.below(3) as usize) {
                    self.check(conn.subscribe(topic), "not subscribed");
                    self.check(!conn.subscribe(topic), "subscribed twice");
                    let mut journal = self.journal.borrow_mut();
                    let record = journal.records.entry(state.port).or_default();
                    record.topics.insert((*topic).to_owned());
                }
            }
            "/dialled" => {
                for _ in 0..self.rng.below(4) {
                    let payload = "d".repeat(self.size());
                    let _ = conn.text(&payload);
                }
            }
            "/stream" => {
                let _ = conn.subscribe(TOPICS[self.rng.below(3) as usize]);
                for _ in 0..self.rng.below(4) {
                    let payload = format!("D{} {}", state.port, "z".repeat(self.size()));
                    let _ = conn.text(&payload);
                    let _ = conn.text("");
                }
            }
            "/shut" => drop(conn.close(CloseCode(4001), "not you")),
            "/panic-open" if self.wild => resume_unwind(Box::new("in open")),
            _ => {}
        }
        self.meddle(conn);
    }

    fn message(&mut self, conn: &mut Conn<'_>, state: &mut State, message: Message<'_>) {
        self.enter(conn, state);
        self.check(state.path != "/stream", "a message on a stream");
        let lot = if self.wild { self.rng.below(40) } else { u32::MAX };
        match (state.path.as_str(), lot) {
            ("/close", 0..8) => {
                let _ = conn.close(CloseCode(4000), "bye");
                self.check(conn.text("D late") == Err(SendError::Gone), "sent behind the close");
                self.check(!conn.subscribe("a"), "subscribed while closing");
                return;
            }
            ("/panic-message", 0..8) => resume_unwind(Box::new("in message")),
            ("/topic", _) => {
                let key = self.rng.below(3);
                let topic = TOPICS[key as usize];
                if self.rng.one_in(8) {
                    conn.unsubscribe(topic);
                }
                let payload = format!("T{topic} {} {}", state.port, "x".repeat(self.size()));
                conn.publish_others(topic, &Frame::text(&payload).keyed(u64::from(key)));
            }
            ("/ping", _) => drop(conn.ping(&lot.to_be_bytes())),
            _ => {}
        }
        if !conn.is_open() {
            return;
        }
        self.echo(conn, state, message);
        self.meddle(conn);
    }

    fn writable(&mut self, conn: &mut Conn<'_>, state: &mut State) {
        self.enter(conn, state);
        self.count("writable");
        if self.wild && state.path == "/panic-message" && self.rng.one_in(4) {
            resume_unwind(Box::new("in writable"));
        }
        self.meddle(conn);
    }

    fn close(&mut self, cx: &mut Cx<'_>, id: ConnId, state: State, closed: &Closed) {
        self.check(self.opened.contains(&id), "closed without open");
        self.check(state.id == Some(id), "closed with another's state");
        let first = self.closed.insert(id);
        self.check(first, "closed twice");
        let late = cx.send_to(id, &Frame::text("D late"));
        self.check(late == Err(SendError::Gone), "sent to the closed");
        {
            let mut journal = self.journal.borrow_mut();
            *journal.causes.entry(closed.cause).or_default() += 1;
            journal.records.entry(state.port).or_default().cause = Some(closed.cause);
            let stream = state.path == "/stream";
            match closed.cause {
                Cause::Slow if stream => journal.seen.count("stream closed: Slow"),
                Cause::Peer if stream => journal.seen.count("stream closed: Peer"),
                Cause::Heartbeat if stream => journal.seen.count("stream closed: Heartbeat"),
                _ => {}
            }
            // What is heard of a stream's client does not come on its connection.
            if closed.cause == Cause::Heartbeat && state.port < DIALLED && !stream {
                journal.silenced.push(state.port);
            }
        }
        self.meddle(cx);
        if self.wild && state.path == "/panic-close" {
            resume_unwind(Box::new("in close"));
        }
    }

    fn letter(&mut self, cx: &mut Cx<'_>, letter: u64) {
        self.count("letter");
        if self.wild && letter.is_multiple_of(7) {
            resume_unwind(Box::new("in letter"));
        }
        self.meddle(cx);
    }

    fn dialled(&mut self, cx: &mut Cx<'_>, tag: u64) -> Option<State> {
        self.journal.borrow_mut().dials[tag as usize] += 1;
        self.count("dialled");
        self.meddle(cx);
        if self.rng.one_in(6) {
            resume_unwind(Box::new("in dialled"));
        }
        let port = DIALLED + tag as u16;
        let state = State { id: None, port, path: "/dialled".to_owned() };
        (!self.rng.one_in(6)).then_some(state)
    }

    fn dial_failed(&mut self, cx: &mut Cx<'_>, tag: u64, _: &str) {
        self.journal.borrow_mut().dials[tag as usize] += 1;
        self.count("dial failed");
        self.meddle(cx);
    }

    fn turn(&mut self, cx: &mut Cx<'_>) -> Option<Duration> {
        let begun = self.journal.borrow().dials.len();
        if self.wild && begun < DIALS_MAX && self.rng.one_in(100) {
            self.journal.borrow_mut().dials.push(0);
            let peer = SocketAddr::from(([10, 1, 0, 1], 80));
            let (host, target) = ("remote".to_owned(), "/".to_owned());
            let target = DialTarget { peer, host, target, headers: Vec::new() };
            cx.dial(&Arc::new(target), None, begun as u64);
        }
        if self.wild && self.rng.one_in(16) {
            self.meddle(cx);
        }
        self.rng.one_in(50).then(|| Duration::from_micros(u64::from(self.rng.below(5000))))
    }
}

/// Bytes of a body.
pub const BODY_MAX: usize = 5000;

/// Dials of one run.
const DIALS_MAX: usize = 12;

/// Ports of the clients are below.
const DIALLED: u16 = 20_000;

pub const TOPICS: [&str; 3] = ["a", "b", "c"];
