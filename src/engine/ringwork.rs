//! What a turn asks of the ring besides receiving and sending: polls, and the steps in which a
//! connection gives its descriptor back.
//!
//! Owns the marks of a turn, which are handed over at its end. Never looks at the phase of a
//! connection. The invariant: an operation is marked at most once, since its flag is set with the
//! mark and cleared by its completion; and the descriptor is closed behind all operations that a
//! thread of the kernel runs.

use super::core::Core;
use super::handler::Handler;
use super::ring::Ring;
use super::slots::{Flags, Hot, Phase, Slots};
use super::token::{Op, Token};
use super::worker::Worker;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct RingWork {
    /// Polls to be armed, and which of them for good.
    polls: Vec<(Token, bool)>,
    /// Slots whose socket is to get a file descriptor.
    installs: Vec<u32>,
    /// Slots whose sending half is to be shut down.
    shutdowns: Vec<u32>,
    /// Slots whose descriptor is to be closed.
    releases: Vec<u32>,
}

impl RingWork {
    /// Marks the poll for input to be armed, if it is not.
    ///
    /// It is for one event, and armed again behind the receive: whoever says goodbye has fired it,
    /// and nothing is left to cancel. The kernel finds what it cancels by walking one of at most
    /// 256 lists (Linux 6.18), each as long as its share of the ring's polls. For the lively,
    /// arming so often would cost more than that.
    #[inline]
    pub(super) fn arm_poll(&mut self, slot: u32, hot: &mut Hot) {
        if !hot.set(Flags::POLL) {
            self.polls.push((Token::new(Op::Poll, slot, hot.generation), hot.pace.is_lively()));
        }
    }

    /// Waits for the next input of a connection that left none behind, unless nobody wants it.
    #[inline]
    pub(super) fn await_input(&mut self, slot: u32, hot: &mut Hot) {
        if hot.phase().listens() {
            self.arm_poll(slot, hot);
        }
    }

    /// Marks the one-shot poll for output to be armed, if it is not.
    pub(super) fn arm_poll_out(&mut self, slot: u32, hot: &mut Hot) {
        if !hot.set(Flags::POLL_OUT) {
            self.polls.push((Token::new(Op::PollOut, slot, hot.generation), false));
        }
    }

    /// Marks the socket to get a file descriptor of the process.
    pub(super) fn install(&mut self, slot: u32, hot: &mut Hot) {
        hot.set(Flags::INSTALL);
        self.installs.push(slot);
    }

    /// Marks the sending half to be shut down.
    pub(super) fn shut_down(&mut self, slot: u32, hot: &mut Hot) {
        hot.set(Flags::SHUTDOWN);
        self.shutdowns.push(slot);
    }

    /// Marks the descriptor of one that is gone for closing, unless an operation has it that looks
    /// it up on a kernel thread, whenever that runs: behind the close it would hit the next tenant.
    /// The completion of the last such operation comes here again, so the mark is made once.
    pub(super) fn close_when_detached(&mut self, slot: u32, hot: &Hot) {
        if !hot.has(Flags::SHUTDOWN | Flags::INSTALL) {
            self.releases.push(slot);
        }
    }

    /// Whether the ring is asked for nothing.
    pub(super) fn is_empty(&self) -> bool {
        let detached = self.installs.len() + self.shutdowns.len();
        self.polls.len() + self.releases.len() + detached == 0
    }

    pub(super) fn shrink(&mut self) {
        self.polls.shrink_to_fit();
        self.installs.shrink_to_fit();
        self.shutdowns.shrink_to_fit();
        self.releases.shrink_to_fit();
    }

    /// Hands over what connections wait for.
    fn submit_polls(&mut self, ring: &mut impl Ring, slots: &Slots) {
        for (token, multishot) in self.polls.drain(..) {
            ring.poll(token, multishot);
        }
        for slot in self.installs.drain(..) {
            if let Some(hot) = slots.get(slot) {
                ring.install(Token::new(Op::Install, slot, hot.generation));
            }
        }
    }

    /// Hands over what ends them.
    fn submit_ends(&mut self, ring: &mut impl Ring, slots: &Slots) {
        for slot in self.shutdowns.drain(..) {
            if let Some(hot) = slots.get(slot) {
                ring.shutdown(Token::new(Op::Shutdown, slot, hot.generation));
            }
        }
        for slot in self.releases.drain(..) {
            if let Some(hot) = slots.get(slot) {
                close_descriptor(ring, slot, hot);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn shutdowns(&self) -> &[u32] {
        &self.shutdowns
    }
}

fn close_descriptor(ring: &mut impl Ring, slot: u32, hot: &Hot) {
    let all =
        [(Flags::POLL, Op::Poll), (Flags::POLL_OUT, Op::PollOut), (Flags::CONNECT, Op::Connect)];
    let mut pending = [Token(0); 3];
    let mut count = 0;
    for (_, op) in all.into_iter().filter(|(flag, _)| hot.has(*flag)) {
        pending[count] = Token::new(op, slot, hot.generation);
        count += 1;
    }
    ring.close(Token::new(Op::Close, slot, hot.generation), &pending[..count]);
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Hands the turn's operations to the ring; they are submitted with the next flush.
    pub(super) fn submit_ring_work(&mut self) {
        // First, since a dial that fails at once is told to the application, which may act on it.
        self.dial();
        self.adopt();
        self.deliver_notices();
        if self.core.has_ring_work() {
            self.core.work.submit_polls(&mut self.ring, &self.core.slots);
            while let Some(token) = self.core.next_look() {
                self.ring.unacknowledged(token);
            }
            self.core.work.submit_ends(&mut self.ring, &self.core.slots);
        }
        self.arm_accepts();
    }

    /// An operation ended that the closing of a descriptor has to wait for.
    #[inline(never)]
    pub(super) fn on_detached(&mut self, token: Token, flag: u32) {
        let core = &mut self.core;
        let Some(hot) = core.slots.lookup(token.slot(), token.generation()) else {
            core.counted.stale_completions += 1;
            return;
        };
        hot.clear(flag);
        if hot.phase() == Phase::Closed {
            core.work.close_when_detached(token.slot(), hot);
        }
    }
}

impl Core {
    /// Whether the ring is asked for something.
    pub(super) fn has_ring_work(&self) -> bool {
        !self.work.is_empty() || self.watches.has_looks()
    }
}
