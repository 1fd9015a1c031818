//! A kernel that exists in memory: sockets, polls and a clock, and for each core a listener, a
//! table of direct descriptors and a completion queue.
//!
//! It gives every completion io_uring may give, late and in any order that io_uring may give it,
//! and fails whatever may fail, as the seed says. It panics where the engine misuses it: a poll
//! armed twice, an operation on a descriptor that is not open, a close that leaves a poll armed.
//!
//! What is modelled of Linux: a poll announces edges, and the level when it is armed; a receive
//! says that more is queued whenever it is; a slot is free for the next accept before its close
//! has reported; a close with unread input resets the peer; listeners share a port, and each client
//! meets one of them. A completion that finds its queue full is kept and comes in its turn, but the
//! report of a multishot poll ends that poll (`io_req_post_cqe` fails and the request completes
//! with the report, io_uring/poll.c).

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringhold::internals::ring::{Completion, Readiness};
use ringhold::internals::rng::Rng;
use ringhold::internals::token::{Op, Token};

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

/// What happens at some time; on a core, where one is named.
pub enum Event {
    /// A client acts.
    Peer(usize),
    /// A dialled server acts.
    Remote(usize),
    /// Another thread does something.
    HubPort,
    /// A connect ends.
    Connect(usize, Token),
    /// A completion arrives.
    Done(usize, Completion),
    /// A close takes effect.
    Close(usize, Token),
    /// A shutdown takes effect.
    Shutdown(usize, Token, usize),
    /// An install takes effect.
    Install(usize, Token),
}

/// When a kernel's clock starts, so that a run crosses what clocks go around at: ticks and
/// microseconds modulo 2^32, and half of it.
pub fn start(rng: &mut Rng, tick_ns: u64) -> u64 {
    let around = match rng.below(6) {
        0 => return 1_000_000,
        1 => (1 << 32) * tick_ns,
        2 => (1 << 31) * tick_ns,
        3 => (1 << 32) * 1000,
        4 => (1 + u64::from(rng.below(1 << 20))) * (1 << 32) * 1000,
        _ => return u64::from(rng.below(u32::MAX)) * u64::from(rng.below(1 << 28)),
    };
    around - u64::from(1 + rng.below(20_000)) * 1_000_000
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
    Unacknowledged(Token),
}

/// What the kernel keeps for one core.
pub struct Side {
    pub bell: Arc<AtomicBool>,
    pub sockets: Vec<Option<Socket>>,
    pub lanes: Vec<bool>,
    pub backlog: VecDeque<usize>,
    pub listening: bool,
    pub ignoring: bool,
    pub dialled: u32,
    /// Completions that the core has not taken, those beyond the queue's size included.
    pub queue: VecDeque<Completion>,
    pub overflows: u64,
    /// Until when the core waits, if it does.
    pub asleep: Option<u64>,
}

impl Side {
    fn new(table: u32, lanes: u32) -> Self {
        Self {
            bell: Arc::default(),
            sockets: (0..table).map(|_| None).collect(),
            lanes: vec![false; lanes as usize],
            backlog: VecDeque::new(),
            listening: true,
            ignoring: false,
            dialled: 0,
            queue: VecDeque::new(),
            overflows: 0,
            asleep: None,
        }
    }

    /// Whether something ends the core's wait.
    pub fn is_stirred(&self) -> bool {
        !self.queue.is_empty() || self.bell.load(Ordering::SeqCst)
    }

    fn socket_at(&mut self, slot: u32) -> Option<&mut Socket> {
        self.sockets[slot as usize].as_mut()
    }
}

pub struct Kernel {
    pub now: u64,
    pub rng: Rng,
    pub chaos: Chaos,
    pub wires: Vec<Wire>,
    pub seen: Coverage,
    pub log: Option<VecDeque<String>>,
    pub cores: Vec<Side>,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
}

impl Kernel {
    pub fn new(rng: Rng, chaos: Chaos, cores: usize, table: u32, lanes: u32) -> Self {
        Self {
            now: chaos.start_ns,
            rng,
            chaos,
            wires: Vec::new(),
            seen: Coverage::default(),
            log: None,
            cores: (0..cores).map(|_| Side::new(table, lanes)).collect(),
            events: BTreeMap::new(),
            sequence: 0,
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
        self.strikes_at(name, self.chaos.odds)
    }

    /// The same with odds of its own, where there is chaos at all.
    fn strikes_at(&mut self, name: &'static str, odds: u32) -> bool {
        let odds = odds.min(self.chaos.odds);
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

    /// A completion reaches its core's queue.
    pub fn deliver(&mut self, core: usize, mut completion: Completion) {
        let side = &mut self.cores[core];
        let full = side.queue.len() >= self.chaos.queue;
        if full {
            // Counted as the engine can: once for all that are beyond when it looks.
            side.overflows += u64::from(side.queue.len() == self.chaos.queue);
            self.seen.count("completion queue overflow");
        }
        if let Completion::Polled { token, result: Ok(ready), more } = &mut completion
            && let Some(socket) = side.sockets[token.slot() as usize].as_mut()
            && socket.poll == Some(*token)
        {
            socket.announced = false;
            // One report stands for all that happened before it, an error included.
            let broken = self.wires[socket.wire].error.is_some();
            (ready.writable, ready.broken) = (broken, broken);
            if full && *more {
                (*more, socket.poll) = (false, None);
                self.seen.count("poll ended by overflow");
                let token = *token;
                let same = |it: &Event| match it {
                    Event::Done(of, Completion::Polled { token: other, .. }) => {
                        *of == core && *other == token
                    }
                    _ => false,
                };
                self.events.retain(|_, event| !same(event));
            }
        }
        self.note(|| format!("done {core} {completion:?}"));
        self.cores[core].queue.push_back(completion);
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

    pub fn complete(&mut self, core: usize, due: u64, completion: Completion) {
        self.at(due, Event::Done(core, completion));
    }

    /// The socket a token speaks of, which must be open and the token's tenant's.
    fn socket(&mut self, core: usize, token: Token) -> &mut Socket {
        let sockets = &mut self.cores[core].sockets;
        let socket = sockets.get_mut(token.slot() as usize).and_then(Option::as_mut);
        let socket = socket.unwrap_or_else(|| panic!("{token:?}: the descriptor is not open"));
        assert!(!socket.closing, "{token:?}: the descriptor is being closed");
        let generation = *socket.generation.get_or_insert(token.generation());
        assert_eq!(generation, token.generation(), "{token:?}: another tenant's slot");
        socket
    }

    pub fn submit(&mut self, core: usize, submission: Submission) {
        match submission {
            Submission::Accept(lane) => {
                assert!(self.cores[core].listening, "accept without a listener");
                let armed = std::mem::replace(&mut self.cores[core].lanes[lane as usize], true);
                assert!(!armed, "lane {lane} was armed");
                self.accept_waiting(core);
            }
            Submission::CancelAccept(lane) => self.cancel_accept(core, lane),
            Submission::Poll(token, multishot) => self.arm(core, token, multishot),
            Submission::Connect(token) => self.dial(core, token),
            Submission::Shutdown(token) => {
                let socket = self.socket(core, token);
                socket.shutting = true;
                let wire = socket.wire;
                let due = self.later();
                self.at(due, Event::Shutdown(core, token, wire));
            }
            Submission::Install(token) => {
                self.socket(core, token).installing = true;
                let due = self.later();
                self.at(due, Event::Install(core, token));
            }
            Submission::Unacknowledged(token) => {
                let wire = self.socket(core, token).wire;
                let held = self.wires[wire].outbox.len() as u32;
                let result = match self.chaos.tells && !self.strikes("look failed") {
                    true => Ok(held),
                    false => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
                };
                let still = self.now.saturating_sub(self.wires[wire].taken_ns);
                self.wires[wire].still_ns = result.is_ok().then_some(still);
                let due = self.later();
                self.complete(core, due, Completion::Unacknowledged { token, result });
            }
            Submission::Close(token, polls) => self.close(core, token, &polls),
        }
    }

    /// Makes a socket of an outgoing connection in the lowest free slot.
    pub fn make_socket(&mut self, core: usize, peer: SocketAddr) -> io::Result<u32> {
        let free = self.cores[core].sockets.iter().position(Option::is_none);
        let Some(slot) = free.filter(|_| !self.strikes("socket error")) else {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        };
        let wire = Wire { core: Some(core), ..Wire::new(peer, self.chaos.room) };
        self.wires.push(wire);
        self.cores[core].dialled += 1;
        self.cores[core].sockets[slot] = Some(Socket::new(self.wires.len() - 1));
        Ok(slot as u32)
    }

    fn dial(&mut self, core: usize, token: Token) {
        let before = self.socket(core, token).connect.replace(token);
        assert!(before.is_none(), "{token:?}: connects twice");
        // Some hosts never answer.
        if !self.rng.one_in(8) {
            let due = self.later();
            self.at(due, Event::Connect(core, token));
        }
    }

    pub fn finish_connect(&mut self, core: usize, token: Token) {
        let Some(socket) = self.cores[core].socket_at(token.slot()) else { return };
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
        self.complete(core, due, Completion::Connected { token, result });
    }

    fn arm(&mut self, core: usize, token: Token, multishot: bool) {
        let input = token.op() == Some(Op::Poll);
        assert!(input || token.op() == Some(Op::PollOut), "{token:?} is no poll");
        assert!(input || !multishot, "{token:?} is for one event");
        let socket = self.socket(core, token);
        let place = if input { &mut socket.poll } else { &mut socket.poll_out };
        let before = place.replace(token);
        assert!(before.is_none(), "{token:?}: armed twice");
        if input {
            (socket.announced, socket.multishot) = (false, multishot);
        }
        self.announce(core, token.slot());
    }

    /// Reports what is ready to the polls of a socket.
    pub fn announce(&mut self, core: usize, slot: u32) {
        let Some(socket) = &self.cores[core].sockets[slot as usize] else { return };
        let wire = &self.wires[socket.wire];
        let broken = wire.error.is_some();
        let (readable, writable) = (wire.is_readable(), wire.is_writable());
        let (poll, poll_out) = (socket.poll, socket.poll_out);
        if let (Some(token), true, false) = (poll, readable, socket.announced) {
            self.report(core, token, Ok(Readiness { readable: true, writable: broken, broken }));
        }
        if let (Some(token), true) = (poll_out, writable) {
            let due = self.later();
            if let Some(socket) = self.cores[core].socket_at(slot) {
                socket.poll_out = None;
            }
            let result = Ok(Readiness { readable: broken, writable: true, broken });
            self.complete(core, due, Completion::Polled { token, result, more: false });
        }
    }

    /// Reports on a poll for input, which ends by that: always one for one event, at the kernel's
    /// will a multishot.
    fn report(&mut self, core: usize, token: Token, result: io::Result<Readiness>) {
        let goes_on = self.cores[core].socket_at(token.slot()).is_some_and(|it| it.multishot);
        let ends = result.is_err() || !goes_on || self.strikes("poll ended");
        let due = self.later();
        let Some(socket) = self.cores[core].socket_at(token.slot()) else { return };
        let due = due.max(socket.after_ns);
        (socket.after_ns, socket.announced) = (due, true);
        if ends {
            socket.poll = None;
        }
        self.complete(core, due, Completion::Polled { token, result, more: !ends });
    }

    /// Something changed on a connection.
    pub fn stir(&mut self, wire: usize) {
        let Some(core) = self.wires[wire].core else { return };
        let mine = |socket: &Option<Socket>| socket.as_ref().is_some_and(|s| s.wire == wire);
        let Some(slot) = self.cores[core].sockets.iter().position(mine) else { return };
        self.announce(core, slot as u32);
        let poll = self.cores[core].socket_at(slot as u32).and_then(|socket| socket.poll);
        let Some(token) = poll else { return };
        if self.strikes("poll spurious") {
            self.report(core, token, Ok(Readiness { readable: true, ..Readiness::default() }));
        } else if self.strikes("poll failed") {
            self.report(core, token, Err(io::Error::from_raw_os_error(libc::ENOMEM)));
        }
    }

    fn close(&mut self, core: usize, token: Token, polls: &[Token]) {
        let socket = self.socket(core, token);
        assert!(!socket.shutting, "{token:?}: the shutdown would meet the next tenant");
        assert!(!socket.installing, "{token:?}: the install would meet the next tenant");
        socket.closing = true;
        let after = socket.after_ns;
        let armed = [socket.poll.take(), socket.poll_out.take()];
        if let Some(connect) = socket.connect.take() {
            assert!(polls.contains(&connect), "{token:?}: {connect:?} is left in flight");
            let due = self.later();
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            self.complete(core, due, Completion::Connected { token: connect, result });
        }
        for poll in armed.into_iter().flatten() {
            assert!(polls.contains(&poll), "{token:?}: {poll:?} is left armed");
            let due = self.later().max(after);
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            self.complete(core, due, Completion::Polled { token: poll, result, more: false });
        }
        match self.later() {
            due if due > self.now => self.at(due, Event::Close(core, token)),
            _ => self.finish_close(core, token),
        }
    }

    pub fn finish_close(&mut self, core: usize, token: Token) {
        let socket = self.cores[core].sockets[token.slot() as usize].take().expect("closed once");
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
        self.complete(core, due, Completion::Closed { token });
        self.accept_waiting(core);
    }

    pub fn finish_shutdown(&mut self, core: usize, token: Token, wire: usize) {
        self.wires[wire].shut = true;
        if let Some(socket) = self.cores[core].socket_at(token.slot()) {
            socket.shutting = false;
        }
        let due = self.later();
        self.complete(core, due, Completion::ShutDown { token });
    }

    pub fn finish_install(&mut self, core: usize, token: Token) {
        if let Some(socket) = self.cores[core].socket_at(token.slot()) {
            socket.installing = false;
        }
        // Few are asked for, and the usual odds would try this in no run of fixed seeds.
        let result = if self.strikes_at("install failed", 3) {
            Err(io::Error::from_raw_os_error(libc::EMFILE))
        } else {
            self.seen.count("installed");
            File::open("/dev/null").map(OwnedFd::from)
        };
        let due = self.later();
        self.complete(core, due, Completion::Installed { token, result });
    }

    /// A core's slots with input that no poll is going to announce, with their connections.
    pub fn unannounced(&self, core: usize) -> impl Iterator<Item = (u32, usize)> + '_ {
        let side = &self.cores[core];
        let waits = move |poll: Token| {
            let mut queue = side.queue.iter();
            queue.any(|it| matches!(it, Completion::Polled { token, .. } if *token == poll))
        };
        side.sockets.iter().enumerate().filter_map(move |(slot, socket)| {
            let socket = socket.as_ref()?;
            let unheard = |poll| !socket.announced && !socket.closing && !waits(poll);
            let silent = socket.poll.is_some_and(unheard);
            let readable = self.wires[socket.wire].is_readable();
            (silent && readable).then_some((slot as u32, socket.wire))
        })
    }

    /// What of a core's is still open or armed.
    pub fn outstanding(&self, core: usize) -> Option<String> {
        let side = &self.cores[core];
        if let Some(slot) = side.sockets.iter().position(Option::is_some) {
            return Some(format!("descriptor {slot} is still open"));
        }
        if side.listening || side.lanes.contains(&true) {
            return Some("the listener is still open".to_owned());
        }
        None
    }

    /// The connection behind a slot, which must be open.
    pub fn wire_of(&self, core: usize, slot: u32) -> usize {
        let socket = self.cores[core].sockets.get(slot as usize).and_then(Option::as_ref);
        let socket = socket.unwrap_or_else(|| panic!("slot {slot}: the descriptor is not open"));
        assert!(!socket.closing, "slot {slot}: used while being closed");
        socket.wire
    }

    /// All that has completed for a core, the ring of its bell included.
    pub fn take(&mut self, core: usize) -> VecDeque<Completion> {
        let side = &mut self.cores[core];
        side.asleep = None;
        let mut taken = std::mem::take(&mut side.queue);
        if side.bell.swap(false, Ordering::SeqCst) {
            self.seen.count("woken");
            taken.push_back(Completion::Woken);
        }
        taken
    }
}

/// Events kept for the report of a failure.
const LOG_MAX: usize = 400;
