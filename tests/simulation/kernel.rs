//! A kernel that exists in memory: a listener, a table of direct descriptors, sockets, polls, a
//! clock.
//!
//! It gives every completion io_uring may give, late and in any order that io_uring may give it,
//! and fails whatever may fail, as the seed says. It panics where the engine misuses it: a poll
//! armed twice, an operation on a descriptor that is not open, a close that leaves a poll armed.
//!
//! What is modelled of Linux: a poll announces edges, and the level when it is armed; a receive
//! says that more is queued whenever it is; a slot is free for the next accept before its close
//! has reported; a close with unread input resets the peer.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringhold::engine::ring::{Completion, Readiness};
use ringhold::engine::rng::Rng;
use ringhold::engine::token::{Op, Token};

use super::coverage::Coverage;
use super::plan::Chaos;
use super::wire::Wire;

/// An open direct descriptor.
pub struct Socket {
    wire: usize,
    /// The tenant's, as the first token told it.
    generation: Option<u32>,
    poll: Option<Token>,
    /// Whether `poll` goes on after an event.
    multishot: bool,
    /// A report of `poll` is on its way.
    announced: bool,
    /// Reports of one request arrive in order: none before this.
    after_ns: u64,
    poll_out: Option<Token>,
    connect: Option<Token>,
    /// A shutdown is submitted: it looks the slot up when it runs, whoever's that is then.
    shutting: bool,
    /// An install is submitted, likewise.
    installing: bool,
    closing: bool,
}

impl Socket {
    pub fn new(wire: usize) -> Self {
        Self {
            wire,
            generation: None,
            poll: None,
            multishot: false,
            announced: false,
            after_ns: 0,
            poll_out: None,
            connect: None,
            shutting: false,
            installing: false,
            closing: false,
        }
    }
}

/// What happens at some time.
pub enum Event {
    /// A client acts.
    Peer(usize),
    /// A dialled server acts.
    Remote(usize),
    /// A connect ends.
    Connect(Token),
    /// Another thread does something.
    Outside,
    /// A completion arrives.
    Done(Completion),
    /// A close takes effect.
    Close(Token),
    /// A shutdown takes effect.
    Shutdown(Token, usize),
    /// An install takes effect.
    Install(Token),
}

/// A submitted operation.
pub enum Submission {
    Accept(u32),
    CancelAccept(u32),
    Poll(Token, bool),
    Close(Token, Vec<Token>),
    Connect(Token),
    Shutdown(Token),
    Install(Token),
}

pub struct Kernel {
    pub now: u64,
    pub rng: Rng,
    pub chaos: Chaos,
    pub wires: Vec<Wire>,
    pub bell: Arc<AtomicBool>,
    pub seen: Coverage,
    pub log: Option<VecDeque<String>>,
    pub sockets: Vec<Option<Socket>>,
    pub lanes: Vec<bool>,
    pub backlog: VecDeque<usize>,
    pub listening: bool,
    pub ignoring: bool,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub dialled: u32,
}

impl Kernel {
    pub fn new(rng: Rng, chaos: Chaos, table: u32, lanes: u32) -> Self {
        Self {
            now: 1_000_000,
            rng,
            chaos,
            wires: Vec::new(),
            bell: Arc::default(),
            seen: Coverage::default(),
            log: None,
            sockets: (0..table).map(|_| None).collect(),
            lanes: vec![false; lanes as usize],
            backlog: VecDeque::new(),
            listening: true,
            ignoring: false,
            events: BTreeMap::new(),
            sequence: 0,
            dialled: 0,
        }
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            if log.len() == LOG_MAX {
                log.pop_front();
            }
            log.push_back(format!("{:>12} {}", self.now / 1000, text()));
        }
    }

    /// Lets a fault of this kind happen or not.
    pub fn strikes(&mut self, name: &'static str) -> bool {
        let odds = self.chaos.odds;
        let strikes = odds > 0 && self.rng.one_in(odds);
        if strikes {
            self.seen.count(name);
        }
        strikes
    }

    pub fn at(&mut self, due: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((due, self.sequence), event);
    }

    pub fn next_ns(&self) -> Option<u64> {
        self.events.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes the next event that is due.
    pub fn next_event(&mut self) -> Option<Event> {
        let first = self.events.first_entry().filter(|first| first.key().0 <= self.now)?;
        Some(first.remove())
    }

    /// A completion that was waiting reaches the queue.
    pub fn deliver(&mut self, mut completion: Completion, done: &mut VecDeque<Completion>) {
        if let Completion::Polled { token, result: Ok(ready), .. } = &mut completion
            && let Some(socket) = self.sockets[token.slot() as usize].as_mut()
            && socket.poll == Some(*token)
        {
            socket.announced = false;
            // One report stands for all that happened before it, an error included.
            let broken = self.wires[socket.wire].error.is_some();
            (ready.writable, ready.broken) = (broken, broken);
        }
        self.note(|| format!("done {completion:?}"));
        done.push_back(completion);
    }

    /// When what happens now is reported.
    pub fn later(&mut self) -> u64 {
        let most = match self.chaos.delay_us {
            0 => return self.now,
            most if self.rng.one_in(8) => most,
            most => most / 50 + 1,
        };
        self.now + u64::from(self.rng.below(most)) * 1000
    }

    pub fn complete(&mut self, due: u64, completion: Completion) {
        self.at(due, Event::Done(completion));
    }

    /// The socket a token speaks of, which must be open and the token's tenant's.
    fn socket(&mut self, token: Token) -> &mut Socket {
        let socket = self.sockets.get_mut(token.slot() as usize).and_then(Option::as_mut);
        let socket = socket.unwrap_or_else(|| panic!("{token:?}: the descriptor is not open"));
        assert!(!socket.closing, "{token:?}: the descriptor is being closed");
        let generation = *socket.generation.get_or_insert(token.generation());
        assert_eq!(generation, token.generation(), "{token:?}: another tenant's slot");
        socket
    }

    pub fn submit(&mut self, submission: Submission) {
        match submission {
            Submission::Accept(lane) => {
                assert!(self.listening, "accept without a listener");
                let armed = std::mem::replace(&mut self.lanes[lane as usize], true);
                assert!(!armed, "lane {lane} was armed");
                self.accept_waiting();
            }
            Submission::CancelAccept(lane) => self.cancel_accept(lane),
            Submission::Poll(token, multishot) => self.arm(token, multishot),
            Submission::Connect(token) => self.dial(token),
            Submission::Shutdown(token) => {
                let socket = self.socket(token);
                socket.shutting = true;
                let wire = socket.wire;
                let due = self.later();
                self.at(due, Event::Shutdown(token, wire));
            }
            Submission::Install(token) => {
                self.socket(token).installing = true;
                let due = self.later();
                self.at(due, Event::Install(token));
            }
            Submission::Close(token, polls) => self.close(token, &polls),
        }
    }

    /// Makes a socket of an outgoing connection in the lowest free slot.
    pub fn make_socket(&mut self, peer: SocketAddr) -> io::Result<u32> {
        let free = self.sockets.iter().position(Option::is_none);
        let Some(slot) = free.filter(|_| !self.strikes("socket error")) else {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        };
        self.dialled += 1;
        self.wires.push(Wire::new(peer, self.chaos.room));
        self.sockets[slot] = Some(Socket::new(self.wires.len() - 1));
        Ok(slot as u32)
    }

    fn dial(&mut self, token: Token) {
        let before = self.socket(token).connect.replace(token);
        assert!(before.is_none(), "{token:?}: connects twice");
        // Some hosts never answer.
        if !self.rng.one_in(8) {
            let due = self.later();
            self.at(due, Event::Connect(token));
        }
    }

    pub fn finish_connect(&mut self, token: Token) {
        let Some(socket) = self.sockets[token.slot() as usize].as_mut() else { return };
        if socket.connect != Some(token) {
            return;
        }
        socket.connect = None;
        let wire = socket.wire;
        let refused = self.rng.one_in(6);
        let result = match refused {
            true => Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)),
            false => Ok(()),
        };
        if refused {
            self.wires[wire].error = Some(libc::ECONNREFUSED);
        } else {
            self.at(self.now, Event::Remote(wire));
        }
        let due = self.later();
        self.complete(due, Completion::Connected { token, result });
    }

    fn arm(&mut self, token: Token, multishot: bool) {
        let input = token.op() == Some(Op::Poll);
        assert!(input || token.op() == Some(Op::PollOut), "{token:?} is no poll");
        assert!(input || !multishot, "{token:?} is for one event");
        let socket = self.socket(token);
        let place = if input { &mut socket.poll } else { &mut socket.poll_out };
        let before = place.replace(token);
        assert!(before.is_none(), "{token:?}: armed twice");
        if input {
            (socket.announced, socket.multishot) = (false, multishot);
        }
        self.announce(token.slot());
    }

    /// Reports what is ready to the polls of a socket.
    pub fn announce(&mut self, slot: u32) {
        let Some(socket) = &self.sockets[slot as usize] else { return };
        let wire = &self.wires[socket.wire];
        let broken = wire.error.is_some();
        let (readable, writable) = (wire.is_readable(), wire.is_writable());
        let (poll, poll_out) = (socket.poll, socket.poll_out);
        if let (Some(token), true, false) = (poll, readable, socket.announced) {
            self.report(token, Ok(Readiness { readable: true, writable: broken, broken }));
        }
        if let (Some(token), true) = (poll_out, writable) {
            let due = self.later();
            if let Some(socket) = &mut self.sockets[slot as usize] {
                socket.poll_out = None;
            }
            let result = Ok(Readiness { readable: broken, writable: true, broken });
            self.complete(due, Completion::Polled { token, result, more: false });
        }
    }

    /// Reports on a poll for input, which ends by that: always one for one event, at the kernel's
    /// will a multishot.
    fn report(&mut self, token: Token, result: io::Result<Readiness>) {
        let slot = token.slot() as usize;
        let goes_on = self.sockets[slot].as_ref().is_some_and(|socket| socket.multishot);
        let ends = result.is_err() || !goes_on || self.strikes("poll ended");
        let due = self.later();
        let Some(socket) = &mut self.sockets[slot] else { return };
        let due = due.max(socket.after_ns);
        (socket.after_ns, socket.announced) = (due, true);
        if ends {
            socket.poll = None;
        }
        self.complete(due, Completion::Polled { token, result, more: !ends });
    }

    /// Something changed on a connection.
    pub fn stir(&mut self, wire: usize) {
        let mine = |socket: &Option<Socket>| socket.as_ref().is_some_and(|s| s.wire == wire);
        let Some(slot) = self.sockets.iter().position(mine) else { return };
        self.announce(slot as u32);
        let Some(token) = self.sockets[slot].as_ref().and_then(|socket| socket.poll) else {
            return;
        };
        if self.strikes("poll spurious") {
            self.report(token, Ok(Readiness { readable: true, ..Readiness::default() }));
        } else if self.strikes("poll failed") {
            self.report(token, Err(io::Error::from_raw_os_error(libc::ENOMEM)));
        }
    }

    fn close(&mut self, token: Token, polls: &[Token]) {
        let socket = self.socket(token);
        assert!(!socket.shutting, "{token:?}: the shutdown would meet the next tenant");
        assert!(!socket.installing, "{token:?}: the install would meet the next tenant");
        socket.closing = true;
        let after = socket.after_ns;
        let armed = [socket.poll.take(), socket.poll_out.take()];
        if let Some(connect) = socket.connect.take() {
            assert!(polls.contains(&connect), "{token:?}: {connect:?} is left in flight");
            let due = self.later();
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            self.complete(due, Completion::Connected { token: connect, result });
        }
        for poll in armed.into_iter().flatten() {
            assert!(polls.contains(&poll), "{token:?}: {poll:?} is left armed");
            let due = self.later().max(after);
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            self.complete(due, Completion::Polled { token: poll, result, more: false });
        }
        match self.later() {
            due if due > self.now => self.at(due, Event::Close(token)),
            _ => self.finish_close(token),
        }
    }

    pub fn finish_close(&mut self, token: Token) {
        let socket = self.sockets[token.slot() as usize].take().expect("closed once");
        let wire = &mut self.wires[socket.wire];
        wire.gone = true;
        wire.torn = !wire.inbox.is_empty() && !wire.deaf;
        if wire.torn {
            self.seen.count("reset by close");
        }
        let due = self.later();
        if due > self.now {
            self.seen.count("slot free before Closed");
        }
        self.complete(due, Completion::Closed { token });
        self.accept_waiting();
    }

    pub fn finish_shutdown(&mut self, token: Token, wire: usize) {
        self.wires[wire].shut = true;
        if let Some(socket) = &mut self.sockets[token.slot() as usize] {
            socket.shutting = false;
        }
        let due = self.later();
        self.complete(due, Completion::ShutDown { token });
    }

    pub fn finish_install(&mut self, token: Token) {
        if let Some(socket) = &mut self.sockets[token.slot() as usize] {
            socket.installing = false;
        }
        let result = if self.strikes("install failed") {
            Err(io::Error::from_raw_os_error(libc::EMFILE))
        } else {
            self.seen.count("installed");
            File::open("/dev/null").map(OwnedFd::from)
        };
        let due = self.later();
        self.complete(due, Completion::Installed { token, result });
    }

    /// Slots with input that no poll is going to announce, with their connections.
    pub fn unannounced(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        self.sockets.iter().enumerate().filter_map(|(slot, socket)| {
            let socket = socket.as_ref()?;
            let silent = socket.poll.is_some() && !socket.announced && !socket.closing;
            let readable = self.wires[socket.wire].is_readable();
            (silent && readable).then_some((slot as u32, socket.wire))
        })
    }

    /// What is still open or armed.
    pub fn outstanding(&self) -> Option<String> {
        if let Some(slot) = self.sockets.iter().position(Option::is_some) {
            return Some(format!("descriptor {slot} is still open"));
        }
        if self.listening || self.lanes.contains(&true) {
            return Some("the listener is still open".to_owned());
        }
        None
    }

    /// The connection behind a slot, which must be open.
    pub fn wire_of(&self, slot: u32) -> usize {
        let socket = self.sockets.get(slot as usize).and_then(Option::as_ref);
        let socket = socket.unwrap_or_else(|| panic!("slot {slot}: the descriptor is not open"));
        assert!(!socket.closing, "slot {slot}: used while being closed");
        socket.wire
    }

    pub fn rung(&self) -> bool {
        self.bell.swap(false, Ordering::SeqCst)
    }
}

/// Events kept for the report of a failure.
const LOG_MAX: usize = 400;
