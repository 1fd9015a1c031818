//! The order of a connection's commands: one after the other, or as many at once as
//! `client.concurrency` allows, and none before the connect reply.
//!
//! Owns when a command is decoded and done. What cannot be done yet waits as it came
//! ([`Queue`](super::queue::Queue)); beyond `client.command_queue_max_size` the connection is not
//! read, and the client of a stream, whose commands come by other connections, is closed. The
//! invariant: what waits is waited for by something that calls [`Sessions::go_on`]: an answer, the
//! outbox, a deadline, or the next turn.

use std::time::Duration;

use super::connect::connect_request;
use super::machine::{CoreState, Deferred, Sessions};
use super::port::Port;
use super::queue::Queue;
use super::shares::{COMMAND, DELIVERY, SIGNATURE, at_rate};
use super::timers::What;
use super::{BACKLOG, HELD, OPEN, RUNNING, Session};
use crate::gateway::hub_port::Link;
use crate::gateway::places::Resume;
use crate::gateway::wire::{self, Disconnect};

/// How soon a command is tried again for which another core had no room.
const RETRY: Duration = Duration::from_millis(5);

/// What became of a command.
pub(super) enum Done {
    /// It is answered, or will be.
    Done,
    /// It has to wait for the answer to another one.
    Wait,
}

/// Messages whose commands are being done, one after the other.
pub(super) struct Run<'a> {
    link: Link,
    rest: Rest<'a>,
    /// What the hub had sent before the last command, if there was one.
    sent: Option<u64>,
}

/// What is not done of them.
enum Rest<'a> {
    /// Of a message that has just come; `None` if all is.
    Fresh(Option<&'a [u8]>),
    /// Of those that waited.
    Kept(Queue),
}

impl Rest<'_> {
    /// The message at hand; `None` if all is done.
    fn message(&self) -> Option<&[u8]> {
        match self {
            Self::Fresh(rest) => *rest,
            Self::Kept(queue) => queue.first(),
        }
    }

    /// Of that message so many bytes at its end are left.
    fn keep(&mut self, left: usize) {
        let left = (left > 0).then_some(left);
        match (self, left) {
            (Self::Fresh(Some(rest)), Some(left)) => *rest = &rest[rest.len() - left..],
            (Self::Fresh(rest), _) => *rest = None,
            (Self::Kept(queue), left) => queue.keep(left),
        }
    }
}

impl Sessions {
    /// Commands came, as in one WebSocket message. Returns them, unless they have to wait.
    pub(super) fn hear<'a>(
        &mut self,
        port: &mut impl Port,
        link: Link,
        data: &'a [u8],
    ) -> Option<Run<'a>> {
        let session = self.state.table.get_mut(link)?;
        let format = session.format();
        if format.is_uni() {
            self.hear_one_way(port, link, data);
            return None;
        }
        let waits = session.waits();
        if wire::is_pong(format.encoding(), data) {
            // The answer to a ping is no command and waits for none.
            if session.pong(waits).is_err() {
                self.state.close(port, link, &Disconnect::BAD_REQUEST);
            }
            return None;
        }
        if waits {
            self.state.keep(port, link, data);
            return None;
        }
        session.set(RUNNING, true);
        Some(Run { link, rest: Rest::Fresh(Some(data)), sent: None })
    }

    fn hear_one_way(&mut self, port: &mut impl Port, link: Link, data: &[u8]) {
        // The first message is all that a one-way client has to say.
        if self.state.table.get_mut(link).is_none_or(|session| session.is_connecting()) {
            return;
        }
        match connect_request(data) {
            Ok(request) => self.connect_one_way(port, link, request, Resume::default()),
            Err(_) => {
                self.state.stats.counters.undecodable += 1;
                self.state.close(port, link, &Disconnect::BAD_REQUEST);
            }
        }
    }

    /// The client of a stream posted something. Returns commands as [`Self::hear`] does.
    pub(super) fn hear_posted<'a>(
        &mut self,
        port: &mut impl Port,
        link: Link,
        data: &'a [u8],
    ) -> Option<Run<'a>> {
        let session = self.state.table.get_mut(link);
        if session.is_none_or(|session| !session.format().is_emulated())
            || !port.heard(link, data.len())
        {
            self.state.stats.counters.emulation_lost += 1;
            return None;
        }
        self.state.stats.counters.emulated += 1;
        self.hear(port, link, data)
    }

    /// Something came for which commands of a connection may have waited. Returns them, unless they
    /// are being done.
    pub(super) fn go_on(&mut self, link: Link) -> Option<Run<'static>> {
        let session = self.state.table.get_mut(link).filter(|it| !it.is(RUNNING))?;
        let queue = session.take_queue()?;
        session.set(RUNNING, true);
        Some(Run { link, rest: Rest::Kept(queue), sent: None })
    }

    /// The turn has come for which commands of a connection have waited. Returns them.
    pub(super) fn take_up(&mut self, link: Link) -> Option<Run<'static>> {
        self.state.table.get_mut(link)?.set(BACKLOG, false);
        self.go_on(link)
    }

    /// Does the next command, when all is done that followed from the last one. Returns what is
    /// left; `None`: nothing, or it has to wait, which something will come back for.
    pub(super) fn advance<'a>(
        &mut self,
        port: &mut impl Port,
        mut run: Run<'a>,
    ) -> Option<Run<'a>> {
        let link = run.link;
        if let Some(sent) = run.sent.take() {
            // Who makes this core deliver pays for it, as for the bytes of an answer.
            let deliveries = (self.hub.sent() - sent) as usize;
            self.state.pace.spend(link, deliveries * DELIVERY);
            if !port.is_open(link) {
                self.stop(port, run);
                return None;
            }
        }
        let sent = self.hub.sent();
        let message = run.rest.message();
        match message.and_then(|message| self.first_command(port, link, message)) {
            Some(left) => {
                run.rest.keep(left);
                run.sent = Some(sent);
                Some(run)
            }
            None => {
                self.stop(port, run);
                None
            }
        }
    }

    /// Does the first command of a message, unless it has to wait. Returns how many bytes are left
    /// behind it.
    fn first_command(&mut self, port: &mut impl Port, link: Link, message: &[u8]) -> Option<usize> {
        let encoding = self.state.table.get_mut(link)?.encoding();
        if self.state.has_to_wait(port, link) {
            return None;
        }
        self.state.pace.spend(link, COMMAND);
        let mut commands = wire::decode(encoding, message);
        let outcome = match commands.next()? {
            Ok(command) => self.command(port, link, command),
            Err(_) => {
                self.state.stats.counters.undecodable += 1;
                Err(Disconnect::BAD_REQUEST)
            }
        };
        match outcome {
            Ok(Done::Done) => {}
            Ok(Done::Wait) => return None,
            Err(disconnect) => self.state.close(port, link, &disconnect),
        }
        Some(commands.left())
    }

    /// Nothing more is done of these messages now: what is left of them waits.
    fn stop(&mut self, port: &mut impl Port, run: Run<'_>) {
        let Run { link, mut rest, .. } = run;
        if let Some(session) = self.state.table.get_mut(link) {
            session.set(RUNNING, false);
        }
        if rest.message().is_some() && !port.is_open(link) {
            // What a closed connection asked is answered to nobody.
            rest = Rest::Kept(Queue::default());
        }
        match rest {
            Rest::Fresh(None) => {}
            Rest::Fresh(Some(data)) => self.state.keep(port, link, data),
            Rest::Kept(queue) => self.state.put_back(port, link, queue),
        }
        self.state.table.weigh(link);
    }
}

impl CoreState {
    /// Whether a connection's next command has to wait; then something goes on with it.
    fn has_to_wait(&mut self, port: &mut impl Port, link: Link) -> bool {
        let concurrency = self.rules.options.client.concurrency.max(1);
        let Some(session) = self.table.get_mut(link) else { return false };
        // The first is answered some time, the second ends with an empty outbox.
        if session.is_answering(concurrency) || port.is_congested(link) {
            return true;
        }
        // Whoever has no answer to come asks nevertheless: many questions of one would keep those
        // of all others waiting.
        if session.busy > 0 && port.is_crowded() {
            self.stats.counters.commands_delayed += 1;
            self.timers.set(port.now() + RETRY, link, What::Commands);
            return true;
        }
        if let Some(until) = self.debts.wait(port.now(), link) {
            self.stats.counters.commands_delayed += 1;
            self.timers.set(until, link, What::Commands);
            return true;
        }
        if self.pace.is_spent(link) {
            if !session.is(BACKLOG) {
                session.set(BACKLOG, true);
                self.pace.wait(link);
            }
            return true;
        }
        false
    }

    /// A command that was begun has to wait until another core has room for it.
    pub(super) fn postpone(&mut self, port: &impl Port, link: Link) {
        let Some(session) = self.table.get_mut(link) else { return };
        session.busy = session.busy.saturating_sub(1);
        self.stats.counters.commands_delayed += 1;
        self.timers.set(port.now() + RETRY, link, What::Commands);
    }

    /// Keeps commands that have to wait.
    fn keep(&mut self, port: &mut impl Port, link: Link, data: &[u8]) {
        let Some(session) = self.table.get_mut(link) else { return };
        let mut queue = session.take_queue().unwrap_or_default();
        queue.push(data);
        self.put_back(port, link, queue);
        if self.is_crowded() {
            self.close(port, link, &Disconnect::TOO_MANY_REQUESTS);
        }
    }

    /// Whether sessions take as much memory as they may, which is counted as a refusal.
    pub(super) fn is_crowded(&mut self) -> bool {
        let max = self.rules.options.client.max_session_memory.0;
        let crowded = max > 0 && self.table.bytes() + self.subscription_bytes >= max;
        self.stats.counters.session_memory_refused += u64::from(crowded);
        crowded
    }

    /// Puts back what still waits, and decides whether more is read.
    fn put_back(&mut self, port: &mut impl Port, link: Link, queue: Queue) {
        let Some(session) = self.table.get_mut(link) else { return };
        let (len, held) = (queue.len(), session.is(HELD));
        let emulated = session.format().is_emulated();
        session.put_queue(queue);
        let max = self.rules.options.client.command_queue_max_size.0;
        if len > max && emulated {
            // There is nothing to leave unread.
            return self.close(port, link, &Disconnect::TOO_MANY_REQUESTS);
        }
        if len > max && !held {
            session.set(HELD, true);
            port.hold(link);
        } else if len <= max / 2 && held {
            session.set(HELD, false);
            port.resume(link);
        }
        self.table.weigh(link);
    }

    /// Something was answered. If commands waited for it, they go on when the hub has returned.
    pub(super) fn wake(&mut self, link: Link) {
        if self.table.get_mut(link).is_some_and(|session| session.waits()) {
            self.defer(Deferred::Commands(link));
        }
    }

    /// A connection pays for the bytes of an answer.
    pub(super) fn pay_answer(&mut self, port: &impl Port, link: Link, bytes: usize) {
        self.pace.spend(link, bytes);
        let rate = self.rules.options.client.answer_rate.0;
        self.debts.owe(port.now(), link, at_rate(bytes, rate));
    }

    /// A connection pays for what it made others receive.
    pub(super) fn pay_deliveries(&mut self, port: &impl Port, link: Link, count: u32) {
        let rate = self.rules.options.client.delivery_rate as usize;
        self.debts.owe(port.now(), link, at_rate(count as usize, rate));
    }

    /// A connection pays for the check of a token.
    pub(super) fn pay_signature(&mut self, port: &impl Port, link: Link) {
        self.debts.owe(port.now(), link, SIGNATURE);
    }
}

impl Session {
    /// Whether so many commands are under way that no other may begin.
    fn is_answering(&mut self, concurrency: u32) -> bool {
        self.connecting().is_some() || u32::from(self.busy) >= concurrency
    }

    /// Whether commands wait.
    fn waits(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.queue.is_empty())
    }

    /// The answer to a ping came. The error: no ping was without one. A pong that overtakes what
    /// waits leaves its ping open, because an older pong may be among that.
    pub(super) fn pong(&mut self, overtakes: bool) -> Result<(), Disconnect> {
        if !self.is(OPEN) || self.pings == 0 {
            return Err(Disconnect::BAD_REQUEST);
        }
        self.pings -= u8::from(!overtakes);
        Ok(())
    }

    fn take_queue(&mut self) -> Option<Queue> {
        self.more.as_mut().map(|more| std::mem::take(&mut more.queue))
    }

    fn put_queue(&mut self, queue: Queue) {
        if self.more.is_some() || !queue.is_empty() {
            self.more().queue = queue;
            self.tidy();
        }
    }
}
