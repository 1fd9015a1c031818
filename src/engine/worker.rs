//! The turn: one pass of a core's loop, in named steps.
//!
//! ```text
//! flush and wait → completions → letters → deadlines → receive → application → ring work
//! ```
//!
//! Events move one way. A completion changes marks, a step acts on marks, the application's calls
//! leave marks; nothing calls back into the step it came from.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::admission::Admission;
use super::conn::{Connection, Context};
use super::core::Core;
use super::drain;
use super::guard;
use super::handler::Handler;
use super::links::{Command, Post};
use super::mailbox::Postage;
use super::notices::Notice;
use super::reading::Arena;
use super::reclaim::Reclaim;
use super::ring::{Completion, Ring, Wait};
use super::slots::{Flags, Phase};
use super::sys;
use super::token::{Op, Token};
use super::value::{ConnId, HeartbeatAction};
use super::writing;
use crate::common::table::SlotTable;

/// One core: its ring, its connections, its application.
pub struct Worker<R: Ring, H: Handler> {
    pub(super) ring: R,
    pub(super) core: Core,
    pub(super) handler: H,
    pub(super) states: SlotTable<H::State>,
    pub(super) arena: Arena,
    pub(super) admission: Admission,
    pub(super) post: Arc<Post<H::Event>>,
    pub(super) drain: Option<drain::Draining>,
    pub(super) reclaim: Reclaim,
    /// When the application wants its next turn.
    wake_at: Option<u64>,
    pub(super) done: VecDeque<Completion>,
    /// Taken from the mailbox and not worked off, each with what it counts there.
    pub(super) letters: VecDeque<(Command<H::Event>, Postage)>,
    /// Of the ring, in the midst of a turn.
    pub(super) failure: Option<io::Error>,
    fired: Vec<(u32, u32)>,
    /// Answers to looks of this wake.
    looked: Vec<(Token, io::Result<u32>)>,
    pub(super) lists: writing::Lists,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There may be more.
    Continue,
    /// The drain is complete: no connection is left and no operation is outstanding.
    Finished,
}

impl<R: Ring, H: Handler> Worker<R, H> {
    pub(super) fn new(
        ring: R,
        mut core: Core,
        handler: H,
        post: Arc<Post<H::Event>>,
        table: u32,
    ) -> Self {
        let admission = Admission::new(&core.config, ring.lanes(), table);
        core.begin_time(ring.now());
        Self {
            ring,
            core,
            handler,
            states: SlotTable::default(),
            arena: Arena::default(),
            admission,
            post,
            drain: None,
            reclaim: Reclaim::default(),
            // The application's first turn comes at once: it may have connections to open.
            wake_at: Some(0),
            done: VecDeque::new(),
            letters: VecDeque::new(),
            failure: None,
            fired: Vec::new(),
            looked: Vec::new(),
            lists: writing::Lists::default(),
        }
    }

    /// One pass. An error is the ring's own failure and ends the core.
    pub fn turn(&mut self) -> io::Result<Turn> {
        let waited = self.flush_and_wait();
        self.wake();
        waited?;
        self.act()
    }

    /// The first half: sends what the turn before queued, and waits.
    pub(super) fn flush_and_wait(&mut self) -> io::Result<()> {
        self.core.counted.turns += 1;
        self.flush(true)
    }

    /// Between the halves: the wait is over.
    pub(super) fn wake(&mut self) {
        self.post.mailbox.awake();
        self.core.set_now(self.ring.now());
    }

    /// The second half: acts on what happened during the wait.
    pub(super) fn act(&mut self) -> io::Result<Turn> {
        self.deliver_notices();
        self.take_completions();
        self.take_letters();
        self.core.on_time(&mut self.fired);
        self.deliver_notices();
        self.pace_drain();
        self.receive()?;
        self.ring_timers();
        self.ask_application();
        self.submit_ring_work();
        self.give_back();
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let finished = self.is_finished() && !self.call_cx(|handler, cx| handler.lingers(cx));
        Ok(if finished { Turn::Finished } else { Turn::Continue })
    }

    /// What this core counts.
    pub fn stats(&self) -> super::Stats {
        let mut stats = self.core.stats();
        stats.counters.queue_overflows = self.ring.overflows();
        stats.counters.mailbox_bytes_held = self.post.mailbox.bytes() as u64;
        stats
    }

    /// After a burst: what its turns needed is more than those to come will.
    fn give_back(&mut self) {
        if self.core.compressor.rest(self.core.clock.now_ns()) {
            // Large blocks, which the allocator would keep.
            self.core.config.after_burst.iter().for_each(|collect| collect());
        }
        self.core.secure.rest(self.core.clock.now_ns());
        let handshakes = self.core.counted.tls_handshakes;
        let used = self.core.slots.used();
        let Some(kept) = self.reclaim.look(used, handshakes, self.core.clock.now_ns()) else {
            return;
        };
        // What is about to leave from where it was received lies before this.
        sys::discard(&mut self.arena.bytes[kept..]);
        self.ring.shrink();
        self.core.shrink();
        self.states.shrink();
        self.arena.shrink();
        self.done.shrink_to_fit();
        self.letters.shrink_to_fit();
        self.fired.shrink_to_fit();
        self.looked.shrink_to_fit();
        self.lists.shrink();
        if let Some(collect) = self.core.config.after_burst {
            collect();
        }
    }

    pub(super) fn choose_wait(&mut self) -> Wait {
        let left = !(self.letters.is_empty() && self.done.is_empty());
        if left || self.core.has_work() || !self.post.mailbox.sleep() {
            return Wait::No;
        }
        let now = self.core.clock.now_ns();
        let mut end = self.core.next_deadline_ns().min(now + SLEEP_MAX_NS);
        if let Some(at) = self.wake_at {
            end = end.min(at);
        }
        if let Some(at) = self.core.appointments.next_ns() {
            end = end.min(at);
        }
        if self.drain.is_some() {
            end = end.min(now + drain::STEP_NS);
        }
        if self.admission.wants_tick() {
            end = end.min(now + self.core.limits.tick_ns);
        }
        if end <= now { Wait::No } else { Wait::Until(end) }
    }

    fn take_completions(&mut self) {
        while let Some(completion) = self.done.pop_front() {
            match completion {
                Completion::Accepted { lane, result } => self.on_accepted(lane, result),
                Completion::Connected { token, result } => self.on_connected(token, result),
                Completion::Polled { token, result, more } => self.on_polled(token, result, more),
                Completion::Closed { token } => self.on_closed(token),
                Completion::ShutDown { token } => self.on_detached(token, Flags::SHUTDOWN),
                Completion::Installed { token, result } => self.on_installed(token, result),
                Completion::Unacknowledged { token, result } => self.looked.push((token, result)),
                Completion::Woken => {}
            }
        }
        if self.looked.is_empty() {
            return;
        }
        // Last: what has arrived or become free is known before anybody is judged.
        for (token, result) in self.looked.drain(..) {
            self.core.on_looked(token, result);
        }
    }

    fn on_polled(&mut self, token: Token, result: io::Result<super::ring::Readiness>, more: bool) {
        let core = &mut self.core;
        let (slot, generation) = (token.slot(), token.generation());
        let Some(hot) = core.slots.lookup(slot, generation) else {
            core.counted.stale_completions += 1;
            return;
        };
        let input = token.op() == Some(Op::Poll);
        if !more {
            hot.clear(if input { Flags::POLL } else { Flags::POLL_OUT });
        }
        if hot.phase() == Phase::Closed {
            return;
        }
        // A poll that failed found a broken socket; the receive or send will say how.
        let (ready, broken) = match result {
            Ok(ready) if input => (ready.readable, ready.readable && ready.broken),
            Ok(ready) => (ready.writable, false),
            Err(_) => (true, false),
        };
        if !input {
            if ready {
                core.outgoing.unblock(hot);
                core.outgoing.mark(slot, hot);
            }
            return;
        }
        if broken {
            hot.set(Flags::BROKEN);
        }
        let queued = if ready { core.inbox.mark_ready(slot, hot) } else { 0 };
        if !more {
            core.counted.polls_rearmed += u64::from(hot.pace.is_lively());
            // Else the receive that is due arms it again.
            if !hot.has(Flags::READY) {
                core.work.arm_poll(slot, hot);
            }
        }
        core.prune_inbox(queued);
    }

    #[inline(never)]
    fn on_closed(&mut self, token: Token) {
        let core = &mut self.core;
        if core.slots.lookup(token.slot(), token.generation()).is_none() {
            core.counted.stale_completions += 1;
            return;
        }
        self.forget(token.slot());
    }

    /// The slot's descriptor is closed: the record goes too.
    pub(super) fn forget(&mut self, slot: u32) {
        // Covers a connection whose state was made but that never opened.
        self.states.remove(slot);
        self.end_dial(slot);
        self.core.uncount(slot);
        self.core.slots.free(slot);
    }

    /// Works off letters, in their order, for as long as a turn may take for them; the rest waits
    /// for the next one.
    fn take_letters(&mut self) {
        if self.letters.is_empty() && !self.post.mailbox.take(&mut self.letters) {
            return;
        }
        let end_ns = self.ring.now() + self.core.config.turn_letters_time.as_nanos() as u64;
        // At the end nobody is kept waiting, and who asked is answered.
        let last = self.drain.is_some() && self.core.slots.used() == 0;
        let most = if last { u32::MAX } else { self.core.config.turn_letters };
        for _ in 0..most {
            let Some((letter, postage)) = self.letters.pop_front() else {
                // Others may have been posted, but they have to wait for reads and deadlines.
                return;
            };
            self.on_letter(letter);
            self.post.mailbox.done(postage);
            self.deliver_notices();
            self.relieve();
            if !last && self.ring.now() > end_ns {
                break;
            }
        }
        self.core.counted.mailbox_late += u64::from(!self.letters.is_empty());
    }

    fn on_letter(&mut self, letter: Command<H::Event>) {
        match letter {
            Command::Send(id, frame) => {
                let _ = self.core.queue_frame(id.slot, id.generation, &frame);
            }
            Command::Close(id, code, reason) => {
                let _ = self.core.close_by_application(id.slot, id.generation, code, &reason);
            }
            Command::Publish(topic, frame) => {
                let frame = &self.core.compressible(&frame);
                self.core.publish_local(&topic, frame, None);
            }
            Command::Subscribe(id, topic, joins) => {
                let _ = self.core.subscribe_at(id, &topic, joins);
            }
            Command::App(letter) => self.call_cx(|handler, cx| handler.on_event(cx, letter)),
            // A receiver that has gone away needs no answer.
            Command::Stats(to) => drop(to.send((self.core.number, self.stats()))),
            Command::Slow(to) => drop(to.send(self.core.slow_peers())),
            Command::Subscribers(topic, to) => {
                let _ = to.send(self.core.fanout.topics().count(&topic));
            }
            Command::Drain(plan) => self.begin_drain(plan),
            Command::Tls(setup) => self.core.secure.replace_setup(setup),
            Command::Stop => self.cut_all(),
        }
    }

    /// Rings the application's timers that are due.
    fn ring_timers(&mut self) {
        let now = self.core.clock.now_ns();
        if self.core.appointments.next_ns().is_none_or(|due| due > now) {
            return;
        }
        let last = self.core.appointments.last();
        while let Some(tag) = self.core.appointments.pop(now, last) {
            self.call_cx(|handler, cx| handler.on_timer(cx, tag));
            self.deliver_notices();
            self.relieve();
        }
    }

    fn ask_application(&mut self) {
        let limit = self.call_cx(|handler, cx| handler.on_turn(cx));
        self.wake_at = limit.map(|d| {
            let wait = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
            self.core.clock.now_ns().saturating_add(wait)
        });
        if std::mem::take(&mut self.core.stop_requested) {
            self.stop();
        }
        self.deliver_notices();
    }

    /// Calls the application for one connection. A panic closes the connection with 1011.
    pub(super) fn call<T>(
        &mut self,
        slot: u32,
        generation: u32,
        callback: impl FnOnce(&mut H, &mut Connection<'_>, &mut H::State) -> T,
    ) -> Option<T> {
        let state = self.states.get_mut(slot)?;
        let handler = &mut self.handler;
        guard::call_for(&mut self.core, slot, generation, |conn| callback(handler, conn, state))
    }

    /// Calls the application outside of any connection. A panic is counted and goes no further.
    pub(super) fn call_cx<T: Default>(
        &mut self,
        callback: impl FnOnce(&mut H, &mut Context<'_>) -> T,
    ) -> T {
        let handler = &mut self.handler;
        let states = &mut self.states;
        guard::call(&mut self.core, states, |cx| callback(handler, cx)).unwrap_or_default()
    }

    /// Tells the application what happened during its last callback or step.
    #[inline]
    pub(super) fn deliver_notices(&mut self) {
        if !self.core.notices.is_empty() {
            self.deliver_all();
        }
    }

    /// Not inlined: mostly there is none, in a turn that asks a dozen times.
    #[inline(never)]
    fn deliver_all(&mut self) {
        while let Some(notice) = self.core.notices.pop() {
            match notice {
                Notice::Closed { slot, generation, closed, own } => {
                    self.say_farewell(slot, generation, &closed, &own);
                    let Some(state) = self.states.remove(slot) else { continue };
                    let id = ConnId { core: self.core.number, slot, generation };
                    self.call_cx(|handler, cx| handler.on_close(cx, id, state, &closed));
                }
                // More would be queued, and enough is.
                Notice::Writable { .. } if self.core.turn_size() > self.core.limits.turn_soft => {
                    self.core.notices.postpone(notice);
                }
                Notice::Writable { slot, generation } => {
                    if self.core.is_open(slot, generation) {
                        self.call(slot, generation, |handler, conn, state| {
                            handler.on_writable(conn, state);
                        });
                    }
                }
                Notice::Sent { slot, generation } => self.pass_on(slot, generation),
                Notice::Heartbeat { slot, generation } => {
                    if self.core.is_open(slot, generation) {
                        let action = self.call(slot, generation, |handler, conn, state| {
                            handler.on_heartbeat(conn, state)
                        });
                        let action = action.unwrap_or(HeartbeatAction::Quiet);
                        self.core.on_heartbeat_decided(slot, generation, action);
                    }
                }
            }
        }
    }
}

impl Core {
    fn is_open(&mut self, slot: u32, generation: u32) -> bool {
        self.slots.lookup(slot, generation).is_some_and(|hot| hot.phase() == Phase::Open)
    }
}

/// Nobody sleeps longer than this, so that a lost wake-up would show as latency, not as a hang.
const SLEEP_MAX_NS: u64 = 1_000_000_000;
