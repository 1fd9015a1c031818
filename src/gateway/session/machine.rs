//! The machine: all sessions of one core with their channels, without I/O and without a clock.
//!
//! Owns what a core's sessions share, and the order in which things happen. Everything that
//! happens is an [`Input`], and each goes through [`Sessions::step`]; what comes of it are calls of
//! a [`Port`]. The hub tells sessions what happens while it works ([`HubSide`](super::events)):
//! what they say to that at once they say, and what needs the hub again is an entry of one list,
//! which `step` works off. The invariant: between two steps the list is empty, a session exists
//! exactly while its connection is open, and it is known to the hub from its accepted connect
//! command to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::events::HubSide;
use super::hooks::HookAnswer;
use super::order::Run;
use super::port::Port;
use super::shares::{Debts, Pace};
use super::table::SessionTable;
use super::timers::{Timers, What};
use super::{Revoked, Session};
use crate::engine::Cause;
use crate::gateway::emulation::SessionNames;
use crate::gateway::format::Format;
use crate::gateway::hooks::FeedNews;
use crate::gateway::hub::Hub;
use crate::gateway::hub_port::Link;
use crate::gateway::inspect::SlowEnds;
use crate::gateway::letters::{Letter, UserOrder};
use crate::gateway::places::Resume;
use crate::gateway::refusals::Refusals;
use crate::gateway::rulebook::Rulebook;
use crate::gateway::stats::GatewayStats;
use crate::gateway::wire;
use crate::gateway::wire::messages::ConnectRequest;

/// See the module's text.
pub(in crate::gateway) struct Sessions {
    pub(super) hub: Hub,
    pub(super) state: CoreState,
}

/// Everything but the hub, so that the hub can be lent one and the other be told things.
pub(super) struct CoreState {
    /// Which core this is.
    pub(super) core: u16,
    pub(super) rules: Arc<Rulebook>,
    pub(super) names: Arc<SessionNames>,
    /// The number of the last feed.
    pub(super) last_feed: u64,
    pub(super) table: SessionTable,
    pub(super) timers: Timers,
    pub(super) pace: Pace,
    /// What the hub's subscriptions take.
    pub(super) subscription_bytes: usize,
    pub(super) debts: Debts,
    pub(super) stats: GatewayStats,
    pub(super) refusals: Refusals,
    /// Connections that were closed because they did not read.
    pub(super) slow_ends: SlowEnds,
    deferred: VecDeque<Deferred>,
    /// Kept for its memory.
    pub(super) buffer: Vec<u8>,
    /// Unix time in seconds, as of this input.
    pub(super) unix: i64,
}

/// What came with the request of a connection.
pub(in crate::gateway) enum First {
    /// Nothing: it follows.
    Nothing,
    /// Commands, as in one WebSocket message.
    Commands(Vec<u8>),
    /// All that a one-way client ever says, and where it was.
    Connect(Box<ConnectRequest>, Resume),
}

/// What a client is sent as a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Beat {
    /// Nothing: it has not connected.
    None,
    /// A ping of WebSocket has to be sent.
    Ping,
    /// A ping of the protocol was sent.
    Sent {
        /// An answer is expected.
        awaited: bool,
    },
}

/// Something that happens.
enum Input<'a> {
    /// A connection opened.
    Opened(Link, Session),
    /// Its request was all that its client will say.
    Connect(Link, Box<ConnectRequest>, Resume),
    /// Commands came.
    Message(Link, &'a [u8]),
    /// Commands came, of the client of a stream by another connection.
    Posted(Link, &'a [u8]),
    /// What was queued for a connection is little again.
    Writable(Link),
    /// A heartbeat is due.
    Heartbeat(Link, &'a mut Beat),
    /// A connection is gone.
    Closed(Link, Cause),
    /// For the hub.
    Letter(Letter),
    /// The backend has answered.
    Answered(Box<HookAnswer>),
    /// The backend has said something on a feed.
    Fed(Box<FeedNews>),
    /// A deadline of a session came.
    Due(Link, What),
    /// Commands that had to wait for this turn.
    Backlog(Link),
    /// The hub's own work; when it wants to be called again.
    Turn(&'a mut Option<Duration>),
}

/// What the hub said and only the hub can go on with.
pub(super) enum Deferred {
    /// The connection has its seat among those of its user.
    Entered(Link),
    /// Something was answered that commands of its client waited for.
    Commands(Link),
    /// The server API wants something of it.
    Order(Link, Arc<UserOrder>),
    /// The server API wanted something of it while it connected.
    LateOrder(Link, Arc<UserOrder>),
    /// The server API has ended a subscription that was not answered then.
    Revoked(Link, Box<Revoked>),
}

impl CoreState {
    /// Leaves something to be done when the hub has returned.
    pub(super) fn defer(&mut self, deferred: Deferred) {
        self.deferred.push_back(deferred);
    }
}

impl Sessions {
    /// Those of a core, which has none, at this Unix time in seconds.
    pub(in crate::gateway) fn new(
        core: u16,
        hub: Hub,
        rules: Arc<Rulebook>,
        names: Arc<SessionNames>,
        unix: i64,
    ) -> Self {
        let state = CoreState {
            core,
            rules,
            names,
            last_feed: 0,
            table: SessionTable::default(),
            timers: Timers::default(),
            pace: Pace::default(),
            subscription_bytes: 0,
            debts: Debts::default(),
            stats: GatewayStats::default(),
            refusals: Refusals::default(),
            slow_ends: SlowEnds::default(),
            deferred: VecDeque::new(),
            buffer: Vec::new(),
            unix,
        };
        Self { hub, state }
    }

    /// A connection opened, and this came with its request.
    pub(in crate::gateway) fn open(
        &mut self,
        port: &mut impl Port,
        link: Link,
        session: Session,
        first: First,
    ) {
        self.step(port, Input::Opened(link, session));
        match first {
            First::Nothing => {}
            First::Commands(commands) => self.step(port, Input::Message(link, &commands)),
            First::Connect(request, resume) => {
                self.step(port, Input::Connect(link, request, resume));
            }
        }
    }

    /// Commands came.
    pub(in crate::gateway) fn message(&mut self, port: &mut impl Port, link: Link, data: &[u8]) {
        self.step(port, Input::Message(link, data));
    }

    /// The client of a stream posted commands.
    pub(in crate::gateway) fn posted(&mut self, port: &mut impl Port, link: Link, data: &[u8]) {
        self.step(port, Input::Posted(link, data));
    }

    /// What was queued for a connection is little again.
    pub(in crate::gateway) fn writable(&mut self, port: &mut impl Port, link: Link) {
        self.step(port, Input::Writable(link));
    }

    /// A connection is to show that it is alive.
    pub(in crate::gateway) fn heartbeat(&mut self, port: &mut impl Port, link: Link) -> Beat {
        let mut beat = Beat::None;
        self.step(port, Input::Heartbeat(link, &mut beat));
        beat
    }

    /// A connection is gone.
    pub(in crate::gateway) fn closed(&mut self, port: &mut impl Port, link: Link, cause: Cause) {
        self.step(port, Input::Closed(link, cause));
    }

    /// A letter for the hub.
    pub(in crate::gateway) fn letter(&mut self, port: &mut impl Port, letter: Letter) {
        self.step(port, Input::Letter(letter));
    }

    /// The backend has answered.
    pub(in crate::gateway) fn answered(&mut self, port: &mut impl Port, answer: Box<HookAnswer>) {
        self.step(port, Input::Answered(answer));
    }

    /// The backend has said something on a feed.
    pub(in crate::gateway) fn fed(&mut self, port: &mut impl Port, news: Box<FeedNews>) {
        self.step(port, Input::Fed(news));
    }

    /// To be called once per turn. Returns the time at which it wants to be called again, which may
    /// be now.
    pub(in crate::gateway) fn turn(&mut self, port: &mut impl Port) -> Option<Duration> {
        let now = port.now();
        // Deadlines that become due meanwhile wait for the next turn.
        for _ in 0..self.state.timers.len() {
            let Some((link, what)) = self.state.timers.due(now) else { break };
            self.step(port, Input::Due(link, what));
        }
        for _ in 0..self.state.pace.begin() {
            let Some(link) = self.state.pace.next() else { break };
            self.step(port, Input::Backlog(link));
        }
        let more = self.state.pace.end().then_some(now);
        let mut hub = None;
        self.step(port, Input::Turn(&mut hub));
        let debts = self.state.debts.sweep(now);
        [more, hub, self.state.timers.next(), debts].into_iter().flatten().min()
    }

    /// Takes one thing in and does all that follows from it: first what the hub has told meanwhile,
    /// then the next command, if commands came or had waited. Every way in leads through here, and
    /// nowhere else is the list worked off.
    fn step<P: Port>(&mut self, port: &mut P, input: Input<'_>) {
        let mut run = self.take(port, input);
        // Those that woken ones came before.
        let mut later = Vec::new();
        loop {
            if let Some(deferred) = self.state.deferred.pop_front() {
                let woken = self.settle(port, deferred);
                // It begins at once, so that all go on in the order in which they were woken.
                if let Some(next) = woken.and_then(|run| self.advance(port, run)) {
                    later.extend(run.replace(next));
                }
            } else if let Some(now) = run.take() {
                run = self.advance(port, now).or_else(|| later.pop());
            } else {
                return;
            }
        }
    }

    /// Takes an input in. Returns commands that are to be done.
    fn take<'a, P: Port>(&mut self, port: &mut P, input: Input<'a>) -> Option<Run<'a>> {
        match input {
            // They look at it themselves, where it matters.
            Input::Heartbeat(..) | Input::Closed(..) | Input::Turn(_) => {}
            _ => self.state.unix = port.unix(),
        }
        match input {
            Input::Message(link, data) => return self.hear(port, link, data),
            Input::Posted(link, data) => return self.hear_posted(port, link, data),
            Input::Writable(link) => return self.go_on(link),
            Input::Backlog(link) => return self.take_up(link),
            Input::Due(link, what) => return self.expire(port, link, what),
            Input::Opened(link, session) => self.state.begin(port, link, session),
            Input::Connect(link, request, resume) => {
                self.connect_one_way(port, link, *request, resume);
            }
            Input::Heartbeat(link, beat) => *beat = self.state.beat(port, link),
            Input::Closed(link, cause) => self.end(port, link, cause),
            Input::Letter(letter) => self.with_hub(port, |hub, out| hub.letter(out, letter)),
            Input::Answered(answer) => {
                let HookAnswer { question, result, room } = *answer;
                self.backend_answered(port, question, result);
                drop(room);
            }
            Input::Fed(news) => self.feed_told(port, *news),
            Input::Turn(next) => *next = self.with_hub(port, |hub, out| hub.turn(out)),
        }
        None
    }

    /// Does what had to wait for the hub. Returns commands that are to be done.
    fn settle(&mut self, port: &mut impl Port, deferred: Deferred) -> Option<Run<'static>> {
        match deferred {
            Deferred::Commands(link) => return self.go_on(link),
            Deferred::Entered(link) => self.entered(port, link),
            Deferred::Order(link, order) => self.obey(port, link, &order),
            Deferred::LateOrder(link, order) => self.obey_late(port, link, &order),
            Deferred::Revoked(link, revoked) => self.revoke(port, link, &revoked),
        }
        None
    }

    /// Lends the hub its port.
    pub(super) fn with_hub<P: Port, T>(
        &mut self,
        port: &mut P,
        act: impl FnOnce(&mut Hub, &mut HubSide<'_, P>) -> T,
    ) -> T {
        let result = act(&mut self.hub, &mut HubSide { state: &mut self.state, port });
        self.state.subscription_bytes = self.hub.subscription_bytes();
        result
    }

    /// A connection is gone.
    fn end(&mut self, port: &mut impl Port, link: Link, cause: Cause) {
        let Some(session) = self.state.table.remove(link) else { return };
        self.state.timers.forget(link);
        self.state.debts.forget(link);
        self.state.stats.ended(session.format().transport());
        if session.has_asked() || session.has_feeds() {
            port.forget(link);
        }
        if let Some(client) = session.client() {
            self.remember_slow(port, (client, session.since()), cause);
            self.with_hub(port, |hub, out| hub.disconnect(out, client));
        }
    }
}

impl CoreState {
    /// A connection opened.
    fn begin(&mut self, port: &impl Port, link: Link, session: Session) {
        let delay = self.rules.options.client.stale_close_delay;
        self.timers.set(port.now() + delay, link, What::Stale);
        self.stats.opened(session.format().transport());
        self.table.insert(link, session, self.unix);
    }

    /// A connection is to show that it is alive.
    fn beat(&mut self, port: &mut impl Port, link: Link) -> Beat {
        let Some(session) = self.table.get_mut(link).filter(|session| session.is_open()) else {
            return Beat::None;
        };
        if session.pings_natively() {
            return Beat::Ping;
        }
        let format = session.format();
        if !format.is_uni() {
            session.set_pinged();
        }
        self.say(port, link, |format, batch| wire::encode_ping(format.encoding(), batch));
        match format {
            // The browser answers the one, the page reads the other.
            Format::UniWebSocket => Beat::Ping,
            // Nobody answers; that nobody takes it is found by the kernel.
            Format::UniSse | Format::UniStream => Beat::Sent { awaited: false },
            _ => Beat::Sent { awaited: !self.rules.options.client.pong_timeout.is_zero() },
        }
    }
}
