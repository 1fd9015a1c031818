//! The order of a connection's commands: one after the other, or as many at once as
//! `client.concurrency` allows, and none before the connect reply.
//!
//! Owns when a command is decoded and done. What cannot be done yet waits as it came
//! ([`Queue`](super::queue::Queue)); beyond `client.command_queue_max_size` the connection is not
//! read, and the client of a stream, whose commands come by other connections, is closed. The
//! invariant: what waits is waited for by something that calls [`Gateway::go_on`]: an answer, the
//! outbox, a deadline, or the next turn.

use std::time::Duration;

use super::queue::Queue;
use super::shares::{COMMAND, DELIVERY, SIGNATURE, at_rate};
use super::{BACKLOG, HELD, OPEN, RUNNING, Session, link};
use crate::engine::{ConnId, Context};
use crate::gateway::app::{Desk, Gateway, Later};
use crate::gateway::entrance;
use crate::gateway::places::Resume;
use crate::gateway::timers::What;
use crate::gateway::wire::{self, Disconnect};

/// How soon a command is tried again for which another core had no room.
const RETRY: Duration = Duration::from_millis(5);

/// What became of a command.
pub(in crate::gateway) enum Done {
    /// It is answered, or will be.
    Done,
    /// It has to wait for the answer to another one.
    Wait,
}

impl Gateway {
    /// Commands came, as in one WebSocket message.
    pub(in crate::gateway) fn hear(&mut self, cx: &mut Context<'_>, id: ConnId, data: &[u8]) {
        self.desk.look_at_wall(cx);
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        let format = session.format();
        if format.is_uni() {
            return self.hear_one_way(cx, id, data);
        }
        let waits = session.waits();
        if wire::is_pong(format.encoding(), data) {
            // The answer to a ping is no command and waits for none.
            if session.pong(waits).is_err() {
                self.desk.close(cx, id, &Disconnect::BAD_REQUEST);
            }
            return;
        }
        if waits {
            return self.desk.keep(cx, id, data);
        }
        if let Some(left) = self.run(cx, id, data) {
            self.desk.keep(cx, id, &data[data.len() - left..]);
        }
    }

    fn hear_one_way(&mut self, cx: &mut Context<'_>, id: ConnId, data: &[u8]) {
        // The first message is all that a one-way client has to say.
        if self.desk.sessions.get_mut(id).is_none_or(|session| session.is_connecting()) {
            return;
        }
        match entrance::connect_request(data) {
            Ok(request) => self.connect_one_way(cx, id, request, Resume::default()),
            Err(_) => {
                self.desk.stats.counters.undecodable += 1;
                self.desk.close(cx, id, &Disconnect::BAD_REQUEST);
            }
        }
        self.settle(cx);
    }

    /// The client of a stream posted something.
    pub(in crate::gateway) fn posted(&mut self, cx: &mut Context<'_>, id: ConnId, data: &[u8]) {
        let session = self.desk.sessions.get_mut(id);
        if session.is_none_or(|session| !session.format().is_emulated())
            || !cx.heard(id, data.len())
        {
            self.desk.stats.counters.emulation_lost += 1;
            return;
        }
        self.desk.stats.counters.emulated += 1;
        self.hear(cx, id, data);
    }

    /// Does commands that waited, as far as they need wait no longer.
    pub(in crate::gateway) fn go_on(&mut self, cx: &mut Context<'_>, id: ConnId) {
        let Some(session) = self.desk.sessions.get_mut(id).filter(|it| !it.is(RUNNING)) else {
            return;
        };
        let Some(mut queue) = session.take_queue() else { return };
        while let Some(message) = queue.first() {
            let left = self.run(cx, id, message);
            if !cx.is_open_at(id) {
                // What a closed connection asked is answered to nobody.
                queue = Queue::default();
                break;
            }
            queue.keep(left);
            if left.is_some() {
                break;
            }
        }
        self.desk.put_back(cx, id, queue);
    }

    /// Does the commands of a message, one after the other, until one has to wait. Returns how many
    /// bytes are left then, which something will come back for.
    fn run(&mut self, cx: &mut Context<'_>, id: ConnId, data: &[u8]) -> Option<usize> {
        let session = self.desk.sessions.get_mut(id)?;
        session.set(RUNNING, true);
        let encoding = session.encoding();
        let mut commands = wire::decode(encoding, data);
        let mut left = None;
        while !commands.is_done() {
            let before = commands.left();
            if self.desk.has_to_wait(cx, id) {
                left = Some(before);
                break;
            }
            self.desk.pace.spend(link(id), COMMAND);
            let sent = self.hub.sent();
            let outcome = match commands.next() {
                None => break,
                Some(Ok(command)) => self.command(cx, id, command),
                Some(Err(_)) => {
                    self.desk.stats.counters.undecodable += 1;
                    Err(Disconnect::BAD_REQUEST)
                }
            };
            match outcome {
                Ok(Done::Done) => {}
                Ok(Done::Wait) => {
                    left = Some(before);
                    break;
                }
                Err(disconnect) => self.desk.close(cx, id, &disconnect),
            }
            self.settle(cx);
            // Who makes this core deliver pays for it, as for the bytes of an answer.
            let deliveries = (self.hub.sent() - sent) as usize;
            self.desk.pace.spend(link(id), deliveries * DELIVERY);
            if !cx.is_open_at(id) {
                break;
            }
        }
        if let Some(session) = self.desk.sessions.get_mut(id) {
            session.set(RUNNING, false);
        }
        self.desk.sessions.weigh(id);
        left
    }

    /// Goes on with connections that had to wait for this turn. Returns whether some have to wait
    /// for the next one.
    pub(in crate::gateway) fn take_up(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..self.desk.pace.begin() {
            let Some(link) = self.desk.pace.next() else { break };
            let id = self.desk.id(link);
            if let Some(session) = self.desk.sessions.get_mut(id) {
                session.set(BACKLOG, false);
                self.desk.look_at_wall(cx);
                self.go_on(cx, id);
                self.settle(cx);
            }
        }
        self.desk.pace.end()
    }
}

impl Desk {
    /// Whether a connection's next command has to wait; then something goes on with it.
    fn has_to_wait(&mut self, cx: &mut Context<'_>, id: ConnId) -> bool {
        let concurrency = self.rules.options.client.concurrency.max(1);
        let Some(session) = self.sessions.get_mut(id) else { return false };
        // The first is answered some time, the second ends with an empty outbox.
        if session.is_answering(concurrency) || cx.is_congested_at(id) {
            return true;
        }
        let link = link(id);
        // Whoever has no answer to come asks nevertheless: many questions of one would keep those
        // of all others waiting.
        if session.busy > 0 && self.handle.is_crowded() {
            self.stats.counters.commands_delayed += 1;
            self.timers.set(cx.now() + RETRY, link, What::Commands);
            return true;
        }
        if let Some(until) = self.debts.wait(cx.now(), link) {
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
    pub(super) fn postpone(&mut self, cx: &Context<'_>, id: ConnId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.busy = session.busy.saturating_sub(1);
        self.stats.counters.commands_delayed += 1;
        self.timers.set(cx.now() + RETRY, link(id), What::Commands);
    }

    /// Keeps commands that have to wait.
    fn keep(&mut self, cx: &mut Context<'_>, id: ConnId, data: &[u8]) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let mut queue = session.take_queue().unwrap_or_default();
        queue.push(data);
        self.put_back(cx, id, queue);
        if self.is_crowded() {
            self.close(cx, id, &Disconnect::TOO_MANY_REQUESTS);
        }
    }

    /// Whether sessions take as much memory as they may, which is counted as a refusal.
    pub(super) fn is_crowded(&mut self) -> bool {
        let max = self.rules.options.client.max_session_memory.0;
        let crowded = max > 0 && self.sessions.bytes() + self.subscription_bytes >= max;
        self.stats.counters.session_memory_refused += u64::from(crowded);
        crowded
    }

    /// Puts back what still waits, and decides whether more is read.
    fn put_back(&mut self, cx: &mut Context<'_>, id: ConnId, queue: Queue) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (len, held) = (queue.len(), session.is(HELD));
        let emulated = session.format().is_emulated();
        session.put_queue(queue);
        let max = self.rules.options.client.command_queue_max_size.0;
        if len > max && emulated {
            // There is nothing to leave unread.
            return self.close(cx, id, &Disconnect::TOO_MANY_REQUESTS);
        }
        if len > max && !held {
            session.set(HELD, true);
            cx.hold(id);
        } else if len <= max / 2 && held {
            session.set(HELD, false);
            cx.resume(id);
        }
        self.sessions.weigh(id);
    }

    /// Something was answered. If commands waited for it, they go on when the hub has returned.
    pub(super) fn wake(&mut self, id: ConnId) {
        if self.sessions.get_mut(id).is_some_and(|session| session.waits()) {
            self.put_aside(Later::Commands(link(id)));
        }
    }

    /// A connection pays for the bytes of an answer.
    pub(super) fn pay_answer(&mut self, cx: &Context<'_>, id: ConnId, bytes: usize) {
        self.pace.spend(link(id), bytes);
        let rate = self.rules.options.client.answer_rate.0;
        self.debts.owe(cx.now(), link(id), at_rate(bytes, rate));
    }

    /// A connection pays for what it made others receive.
    pub(super) fn pay_deliveries(&mut self, cx: &Context<'_>, id: ConnId, count: u32) {
        let rate = self.rules.options.client.delivery_rate as usize;
        self.debts.owe(cx.now(), link(id), at_rate(count as usize, rate));
    }

    /// A connection pays for the check of a token.
    pub(super) fn pay_signature(&mut self, cx: &Context<'_>, id: ConnId) {
        self.debts.owe(cx.now(), link(id), SIGNATURE);
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
