//! The application under test, one on each core: it echoes, publishes, closes, panics, keeps
//! identifiers too long, and reaches connections and applications of all cores; and it checks what
//! the engine promises an application. What it sees goes to a [`Journal`] that all cores share and
//! the clients are checked against.
//!
//! What it sends is numbered: by sender and receiver, or by publisher and topic.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringhold::internals::rng::Rng;
use ringhold::protocol::Refusal;
use ringhold::protocol::request::Request;
use ringhold::{
    AddressPlace, Cause, CloseCode, Closed, ConnId, Connection, Context, Detached, DialTarget,
    Ending, Frame, Handle, Handler, HeartbeatAction, HttpAction, HttpResponse, Message, SendError,
    UpgradeAction,
};

use super::coverage::Coverage;
use super::plan::Plan;

/// What the application knows of one connection, by its client's port.
#[derive(Default)]
pub struct Record {
    pub opened: bool,
    /// Whom the engine took it for.
    pub client: Option<IpAddr>,
    pub cause: Option<Cause>,
    /// The close code that goes with it.
    pub code: Option<CloseCode>,
    /// Messages received, and echoes that were taken.
    pub received: u64,
    pub echoed: u64,
    /// Every echo so far was taken.
    pub topics: HashSet<String>,
}

/// What is known of all cores together.
#[derive(Default)]
pub struct Journal {
    /// Broken promises.
    pub broken: Vec<String>,
    pub records: HashMap<u16, Record>,
    pub causes: HashMap<Cause, u64>,
    pub seen: Coverage,
    /// Clients that were found dead of silence since the last look.
    pub silenced: Vec<u16>,
    /// Clients that were cut for taking nothing since the last look.
    pub stalled: Vec<u16>,
    /// Of connections that were handed over and are served.
    pub places: Vec<AddressPlace>,
    /// Outcomes told of each dial.
    pub dials: Vec<u32>,
    /// Identifiers, of the living and the dead, with their clients' ports.
    pub kept: Vec<(ConnId, u16)>,
    opened: HashSet<ConnId>,
    pub closed: HashSet<ConnId>,
    /// Those that were asked for their farewell.
    pub left: HashSet<ConnId>,
    /// Whom the application asked to close.
    pub dismissed: HashSet<ConnId>,
    /// Turns that each core has taken; `None`: it has ended.
    pub turns: Vec<Option<u64>>,
    /// Cores that were told to end.
    pub leaving: Vec<bool>,
    /// Publications, each once for every core.
    pub published: u64,
    /// Sends and closes for another core whose mailbox was full.
    pub busy: u64,
    /// Numbers of what was sent last, by what they count.
    numbers: HashMap<String, u64>,
}

impl Journal {
    pub fn new(cores: usize) -> Self {
        Self { turns: vec![Some(0); cores], leaving: vec![false; cores], ..Self::default() }
    }

    /// A message that says whose it is, with the next number of its kind.
    pub fn numbered(&self, label: &str, len: usize) -> String {
        let next = self.numbers.get(label).map_or(1, |last| last + 1);
        format!("{label}.{next} {}", "x".repeat(len))
    }

    /// It was taken.
    pub fn sent(&mut self, label: &str) {
        *self.numbers.entry(label.to_owned()).or_default() += 1;
        if label.starts_with('T') {
            self.published += self.turns.len() as u64;
        }
    }

    /// The next number of a letter from one core to another.
    pub fn next_letter(&self, from: usize, to: usize) -> u64 {
        self.numbers.get(&format!("L{from} {to}")).map_or(1, |last| last + 1)
    }

    /// The answer to something that was asked of the core of `id`.
    pub fn check_remote(&mut self, id: ConnId, result: Result<(), SendError>) {
        let ended = self.turns[id.core()].is_none();
        let holds = match result {
            Ok(()) => !ended,
            Err(SendError::Gone) => ended,
            Err(error) => error == SendError::Busy,
        };
        self.seen.count(match result {
            Ok(()) => "sent to another core",
            Err(SendError::Gone) => "sent to a core that has ended",
            _ => "mailbox full",
        });
        if !holds {
            self.broken.push(format!("{id:?}: {result:?} from afar, ended: {ended}"));
        }
    }
}

/// From one core's application, or from outside, to another's; with a number of their own.
#[derive(Clone, Copy, Debug)]
pub struct Mail {
    pub from: usize,
    pub number: u64,
    /// What receives it panics.
    pub fatal: bool,
}

pub struct App {
    core: usize,
    journal: Rc<RefCell<Journal>>,
    handle: Handle<App>,
    rng: Rng,
    /// Whether it misbehaves.
    wild: bool,
    /// Whether connections speak TLS.
    secure: bool,
    /// Whether it may stop its core.
    quits: bool,
    /// Letters received, by sender.
    letters: HashMap<usize, u64>,
    /// Timers that have not rung.
    timers: usize,
    /// Connections whose requests are to be answered, and with what.
    owed: Vec<(ConnId, String)>,
}

pub struct State {
    id: Option<ConnId>,
    port: u16,
    path: String,
    /// How it says farewell, below 8: not at all, in few words or in many.
    manner: u8,
}

impl App {
    pub fn new(
        core: usize,
        journal: Rc<RefCell<Journal>>,
        handle: Handle<App>,
        rng: Rng,
        plan: &Plan,
    ) -> Self {
        let (letters, owed) = (HashMap::new(), Vec::new());
        let (wild, secure, quits) = (!plan.calm, plan.tls.is_some(), plan.quits);
        Self { core, journal, handle, rng, wild, secure, quits, letters, timers: 0, owed }
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
    fn meddle(&mut self, cx: &mut Context<'_>) {
        let kept = self.journal.borrow().kept.len() as u32;
        if kept == 0 || !self.rng.one_in(if self.wild { 4 } else { 40 }) {
            return;
        }
        let (id, port) = self.journal.borrow().kept[self.rng.below(kept) as usize];
        let lot = if self.wild { self.rng.below(14) } else { 2 + self.rng.below(12) };
        match lot {
            0 => self.dismiss(cx, id),
            1 => {
                let dead = self.journal.borrow().closed.contains(&id);
                let heard = cx.heard(id, 10);
                self.check(!(dead && heard), "somebody gone was heard");
                self.check(!heard || id.core() == self.core, "heard from afar");
            }
            2..5 => {
                let topic = TOPICS[self.rng.below(3) as usize];
                let label = format!("T{topic} {}", self.core);
                let frame = self.frame(&label, 3);
                cx.publish(topic, &frame);
                self.journal.borrow_mut().sent(&label);
            }
            5 => self.write_letter(),
            lot => self.send(cx, id, port, lot),
        }
    }

    /// Closes somebody, of whichever core.
    fn dismiss(&mut self, cx: &mut Context<'_>, id: ConnId) {
        self.journal.borrow_mut().dismissed.insert(id);
        let result = cx.close(id, CloseCode(3000 + self.rng.below(999) as u16), "enough");
        self.check_result(id, result);
    }

    /// Sends a message to somebody, of whichever core.
    fn send(&mut self, cx: &mut Context<'_>, id: ConnId, port: u16, lot: u32) {
        let label = format!("D{port} {}", self.core);
        let frame = self.frame(&label, 3);
        let result = match lot {
            // What is not a stream of this core gets the message alone.
            6 | 7 => cx.send_prefixed_to(id, format!("P{port} ").as_bytes(), &frame),
            8 => cx.send_message_to(id, frame.kind(), frame.payload()),
            _ => cx.send_to(id, &frame),
        };
        self.check_result(id, result);
        if result.is_ok() {
            self.journal.borrow_mut().sent(&label);
        }
    }

    fn check_result(&mut self, id: ConnId, result: Result<(), SendError>) {
        let mut journal = self.journal.borrow_mut();
        let dead = journal.closed.contains(&id);
        if dead {
            journal.seen.count("stale identifier used");
        }
        if id.core() != self.core {
            journal.busy += u64::from(result == Err(SendError::Busy));
            return journal.check_remote(id, result);
        }
        drop(journal);
        self.check(!dead || result == Err(SendError::Gone), "a stale identifier reached somebody");
        self.check(result != Err(SendError::Busy), "busy with itself");
    }

    fn write_letter(&mut self) {
        let to = self.rng.below(self.handle.workers() as u32) as usize;
        let mut journal = self.journal.borrow_mut();
        let number = journal.next_letter(self.core, to);
        let fatal = self.wild && self.rng.one_in(7);
        if self.handle.post(to, Mail { from: self.core, number, fatal }).is_ok() {
            journal.sent(&format!("L{} {to}", self.core));
        }
    }

    /// Made for streams or for others: both get it.
    fn frame(&mut self, label: &str, keys: u32) -> Frame {
        let len = self.size();
        let payload = self.journal.borrow().numbered(label, len);
        let frame = match self.rng.one_in(2) {
            true => Frame::chunk(payload.as_bytes()),
            false => Frame::text(&payload),
        };
        frame.keyed(u64::from(self.rng.below(keys)))
    }

    /// Sends to the connection at hand.
    fn tell(&mut self, conn: &mut Connection<'_>, port: u16) {
        let label = format!("D{port} {}", self.core);
        let len = self.size();
        let payload = self.journal.borrow().numbered(&label, len);
        if conn.text(&payload).is_ok() {
            self.journal.borrow_mut().sent(&label);
        }
    }

    fn size(&mut self) -> usize {
        // Where nothing fails nobody is sent more than it can read in the time there is.
        match self.rng.below(20) {
            _ if !self.wild => self.rng.below(60) as usize,
            0 => self.rng.below(60_000) as usize,
            1..4 => self.rng.below(2000) as usize,
            _ => self.rng.below(60) as usize,
        }
    }

    /// Looks at the state of one of all connections there have been, which is there as long as it
    /// is of this core and open.
    fn look(&mut self, cx: &mut Context<'_>, which: usize) {
        let journal = self.journal.borrow();
        let Some((id, _)) = journal.kept.get(which % journal.kept.len().max(1)).copied() else {
            return;
        };
        let mine = id.core() == self.core && journal.opened.contains(&id);
        let here = mine && !journal.closed.contains(&id);
        drop(journal);
        let found = cx.state::<State>(id).map(|state| state.id);
        self.check(found == here.then_some(Some(id)), "a state was missing, or another's");
    }

    fn enter(&self, conn: &mut Connection<'_>, state: &State) {
        let id = conn.id();
        self.check(state.id == Some(id), "the state is another connection's");
        self.check(id.core() == self.core, "another core's");
        self.check(self.journal.borrow().opened.contains(&id), "an event before open");
        self.check(!self.journal.borrow().closed.contains(&id), "an event after close");
        self.check(conn.is_open(), "an event of a connection that is not open");
        let port = conn.peer_addr().map(|peer| peer.port());
        self.check(state.path == "/dialled" || port == Some(state.port), "another's port");
    }

    fn echo(&mut self, conn: &mut Connection<'_>, state: &State, message: Message<'_>) {
        let kind = message.kind();
        let result = match state.path.as_str() {
            "/send" => conn.send(kind, message.payload()),
            "/frame" => conn.send_frame(&Frame::new(kind, message.payload())),
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
    type Event = Mail;

    fn on_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        peer: SocketAddr,
    ) -> UpgradeAction<State> {
        self.meddle(cx);
        match request.path() {
            "/refuse" => return UpgradeAction::Refuse(Refusal::NotFound),
            "/panic" if self.wild => resume_unwind(Box::new("in request")),
            _ => {}
        }
        let path = request.path().to_owned();
        let manner = [0, 0, 2, 7][self.rng.below(4) as usize];
        UpgradeAction::accept(State { id: None, port: peer.port(), path, manner })
    }

    fn on_heartbeat(&mut self, conn: &mut Connection<'_>, state: &mut State) -> HeartbeatAction {
        self.meddle(conn);
        let stream = state.path == "/stream";
        if self.rng.one_in(4) {
            return HeartbeatAction::Ping;
        }
        let awaited = if stream {
            self.check(conn.ping(b"") != Ok(()), "a ping on a stream");
            conn.text("Beat").is_ok() && self.rng.one_in(2)
        } else {
            !self.rng.one_in(8) && conn.ping(b"beat").is_ok()
        };
        if awaited { HeartbeatAction::Sent } else { HeartbeatAction::Quiet }
    }

    fn farewell(&self, state: &State, ending: &Ending<'_>, out: &mut Vec<u8>) {
        let Some(id) = state.id else { return self.check(false, "a farewell before open") };
        let (first, gone) = {
            let mut journal = self.journal.borrow_mut();
            (journal.left.insert(id), journal.closed.contains(&id))
        };
        self.check(first && !gone, "asked for another farewell");
        let Ending { code, reason, .. } = ending;
        if state.manner > 1 {
            out.extend_from_slice(format!("W{} {code} {reason}", state.manner).as_bytes());
        }
        if state.manner == 7 {
            out.resize(out.len() + 40_000, b'w');
        }
    }

    fn on_http(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        body: Option<&[u8]>,
        peer: SocketAddr,
    ) -> HttpAction<State> {
        self.meddle(cx);
        match (request.path(), request.method, body) {
            ("/stream", "POST", None) => return HttpAction::Body(BODY_MAX),
            ("/stream", _, body) => {
                let whole = body.is_none_or(|body| body.iter().all(|byte| *byte == b'b'));
                self.check(whole, "another's body");
                let (path, manner) = ("/stream".to_owned(), self.rng.below(8) as u8);
                let state = State { id: None, port: peer.port(), path, manner };
                let headers = vec![("X-Sim".to_owned(), "1".to_owned())];
                return HttpAction::Stream { state, headers };
            }
            ("/answer", ..) => return HttpAction::Respond(HttpResponse::new(204)),
            ("/stay", "POST", None) => return HttpAction::Body(BODY_MAX),
            ("/stay", ..) => return self.stay(cx, request),
            _ => {}
        }
        match request.method == "GET" && self.rng.one_in(2) {
            true => HttpAction::Detach,
            false => HttpAction::Refuse,
        }
    }

    fn on_detach(&mut self, cx: &mut Context<'_>, passed: Detached) {
        let Detached { received, place, tls, .. } = passed;
        // It is served for a while.
        let mut journal = self.journal.borrow_mut();
        journal.places.push(place);
        if journal.places.len() > 3 {
            journal.places.remove(0);
        }
        drop(journal);
        self.count("place handed over");
        self.meddle(cx);
        self.check(received.starts_with(b"GET "), "handed over without its request");
        self.check(tls.is_some() == self.secure, "handed over without its TLS");
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, state: &mut State) {
        state.id = Some(conn.id());
        let first = self.journal.borrow_mut().opened.insert(conn.id());
        self.check(first, "opened twice");
        {
            let mut journal = self.journal.borrow_mut();
            journal.kept.push((conn.id(), state.port));
            let record = journal.records.entry(state.port).or_default();
            record.opened = true;
            record.client = conn.peer_addr().map(|peer| peer.ip());
        }
        self.enter(conn, state);
        match state.path.as_str() {
            "/greet" => {
                for _ in 0..=self.rng.below(3) {
                    self.tell(conn, state.port);
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
                    self.tell(conn, state.port);
                    let _ = conn.text("");
                }
            }
            "/shut" => {
                self.journal.borrow_mut().dismissed.insert(conn.id());
                let _ = conn.close(CloseCode(4001), "not you");
            }
            "/panic-open" if self.wild => resume_unwind(Box::new("in open")),
            _ => {}
        }
        self.meddle(conn);
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, state: &mut State, message: Message<'_>) {
        self.enter(conn, state);
        self.check(state.path != "/stream", "a message on a stream");
        let lot = if self.wild { self.rng.below(40) } else { u32::MAX };
        match (state.path.as_str(), lot) {
            ("/close", 0..8) => {
                self.journal.borrow_mut().dismissed.insert(conn.id());
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
                let label = format!("T{topic} {}", state.port);
                let len = self.size();
                let payload = self.journal.borrow().numbered(&label, len);
                conn.publish_others(topic, &Frame::text(&payload).keyed(u64::from(key)));
                self.journal.borrow_mut().sent(&label);
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

    fn on_writable(&mut self, conn: &mut Connection<'_>, state: &mut State) {
        self.enter(conn, state);
        self.count("writable");
        if self.wild && state.path == "/panic-message" && self.rng.one_in(4) {
            resume_unwind(Box::new("in writable"));
        }
        self.meddle(conn);
    }

    fn on_close(&mut self, cx: &mut Context<'_>, id: ConnId, state: State, closed: &Closed) {
        self.check(self.journal.borrow().opened.contains(&id), "closed without open");
        self.check(state.id == Some(id), "closed with another's state");
        let first = self.journal.borrow_mut().closed.insert(id);
        self.check(first, "closed twice");
        let late = cx.send_to(id, &Frame::text("D late"));
        self.check(late == Err(SendError::Gone), "sent to the closed");
        {
            let mut journal = self.journal.borrow_mut();
            *journal.causes.entry(closed.cause).or_default() += 1;
            let record = journal.records.entry(state.port).or_default();
            (record.cause, record.code) = (Some(closed.cause), Some(closed.code));
            let meant = match closed.cause {
                Cause::Application => journal.dismissed.contains(&id),
                Cause::Drain => journal.leaving[self.core],
                _ => true,
            };
            if !meant {
                journal.broken.push(format!("{id:?} was closed by nobody: {closed:?}"));
            }
            let stream = state.path == "/stream";
            match closed.cause {
                Cause::Slow if stream => journal.seen.count("stream closed: Slow"),
                Cause::Peer if stream => journal.seen.count("stream closed: Peer"),
                Cause::Heartbeat if stream => journal.seen.count("stream closed: Heartbeat"),
                _ => {}
            }
            if closed.cause == Cause::WriteTimeout && state.port < DIALLED {
                journal.stalled.push(state.port);
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

    fn on_event(&mut self, cx: &mut Context<'_>, letter: Mail) {
        self.count("letter");
        let last = self.letters.insert(letter.from, letter.number).unwrap_or(0);
        self.check(letter.number == last + 1, "a letter is missing, or came twice");
        if letter.fatal {
            resume_unwind(Box::new("in letter"));
        }
        self.look(cx, letter.number as usize);
        let pause = Duration::from_millis(letter.number % 7 * 3);
        let timer = cx.set_timer(pause, (cx.now() + pause).as_nanos() as u64);
        if letter.number.is_multiple_of(5) {
            self.check(cx.cancel_timer(timer), "a timer was lost");
        } else {
            self.timers += 1;
        }
        self.meddle(cx);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, due: u64) {
        self.count("timer");
        self.check(self.timers > 0, "a timer rang twice, or was cancelled");
        self.timers -= 1;
        self.check(cx.now() >= Duration::from_nanos(due), "a timer rang too soon");
    }

    fn on_dialled(&mut self, cx: &mut Context<'_>, tag: u64) -> Option<State> {
        self.journal.borrow_mut().dials[tag as usize] += 1;
        self.count("dialled");
        self.meddle(cx);
        if self.rng.one_in(6) {
            resume_unwind(Box::new("in dialled"));
        }
        let port = DIALLED + tag as u16;
        let state = State { id: None, port, path: "/dialled".to_owned(), manner: 0 };
        (!self.rng.one_in(6)).then_some(state)
    }

    fn on_dial_failed(&mut self, cx: &mut Context<'_>, tag: u64, error: &str) {
        self.journal.borrow_mut().dials[tag as usize] += 1;
        self.count(match error {
            _ if error.contains("refused") => "dial failed: refused",
            _ if error.contains("no TCP connection") => "dial failed: no connection",
            _ if error.contains("no answer") => "dial failed: no answer",
            _ if error.contains("before it answered") => "dial failed: closed",
            _ if error.contains("goes away") => "dial failed: drain",
            _ if error.contains("connection broke") => "dial failed: broken",
            _ if error.contains("answer") => "dial failed: wrong answer",
            _ if error.contains("os error") => "dial failed: no socket",
            _ => "dial failed: otherwise",
        });
        self.meddle(cx);
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let begun = self.journal.borrow().dials.len();
        if self.wild && begun < DIALS_MAX && self.rng.one_in(100) {
            self.journal.borrow_mut().dials.push(0);
            let peer = SocketAddr::from(([10, 1, 0, 1], 80));
            let (host, target) = ("remote".to_owned(), "/".to_owned());
            let headers = Vec::new();
            let tls = (self.secure && !self.rng.one_in(3)).then(|| host.clone());
            let (resume, compression) = (false, false);
            let target = DialTarget { peer, host, target, headers, tls, resume, compression };
            cx.dial(&Arc::new(target), None, begun as u64);
        }
        if self.rng.one_in(16) {
            self.meddle(cx);
        }
        if !self.owed.is_empty() && self.rng.one_in(2) {
            let (id, text) = self.owed.remove(0);
            let answered = cx.answer(id, &stayed(text.clone()));
            self.count(if answered.is_ok() { "answered later" } else { "owed to somebody gone" });
            let again = cx.answer(id, &stayed(text));
            self.check(again == Err(SendError::Gone), "answered twice");
        }
        if self.quits && self.rng.one_in(3000) {
            self.count("core stopped by its application");
            self.journal.borrow_mut().leaving[self.core] = true;
            cx.stop();
        }
        self.rng.one_in(50).then(|| Duration::from_micros(u64::from(self.rng.below(5000))))
    }
}

impl App {
    /// Answers a request on a connection that stays: at once, or later.
    fn stay(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> HttpAction<State> {
        let text = request.query().unwrap_or_default().to_owned();
        let id = cx.asking();
        self.check(id.is_some_and(|id| id.core() == self.core), "asked by nobody");
        match id {
            Some(id) if self.rng.one_in(3) => {
                self.owed.push((id, text));
                HttpAction::AnswerLater
            }
            _ => HttpAction::Answer(stayed(text)),
        }
    }
}

/// The answer that says which request it is to; now and then a long one.
fn stayed(text: String) -> HttpResponse {
    let more = if text.ends_with('7') { 10_000 } else { 0 };
    HttpResponse::new(201).body("text/plain", text + &"s".repeat(more))
}

/// Bytes of a body.
pub const BODY_MAX: usize = 5000;

/// Dials of one run.
const DIALS_MAX: usize = 12;

/// Ports of the clients are below.
const DIALLED: u16 = 20_000;

pub const TOPICS: [&str; 3] = ["a", "b", "c"];
