//! One core's world, without its ring: its parts, composed.
//!
//! Owns nothing itself: each part keeps its fields to its own file, and says there what holds of
//! them. What an application may do from a callback is an operation on [`Core`], so none of it can
//! reach the kernel: it leaves marks in the parts that the worker's turn acts upon. Operations that
//! need several parts are grouped by duty: what comes in `reading`, what is queued in `queueing`,
//! endings in `closing`, deadlines in `timing`.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::addresses::Addresses;
use super::adopting::Adopted;
use super::appointments::Appointments;
use super::census::Census;
use super::clock::Clock;
use super::compression::Compressor;
use super::config::{Config, ticks};
use super::counters::{Counters, Stats};
use super::dialling::Dials;
use super::handover::Handover;
use super::heartbeat;
use super::inbound::Inbound;
use super::inbox::{Inbox, RECEIVE_MAX};
use super::leftovers::Leftovers;
use super::limits::Rates;
use super::notices::Notices;
use super::opening::Handshakes;
use super::outbox::Outbox;
use super::outgoing::Outgoing;
use super::patience::Watches;
use super::publishing::{Fanout, Links};
use super::requests::Requests;
use super::ringwork::RingWork;
use super::secure::Secure;
use super::slots::{Flags, Slots};
use super::timing::Timing;
use super::value::Framing;
use crate::common::rng::Rng;
use crate::protocol::{Decoder, Role};

/// See the module's text.
pub(super) struct Core {
    pub(super) config: Arc<Config>,
    pub(super) limits: Limits,
    /// Which core of its server it is.
    pub(super) number: u16,

    /// The records of connections.
    pub(super) slots: Slots,
    /// Who is here.
    pub(super) census: Census,
    /// The present, and what is due.
    pub(super) clock: Clock,
    pub(super) timing: Timing,

    /// From the kernel: who is to be received from, and what of it is not complete.
    pub(super) inbox: Inbox,
    pub(super) leftovers: Leftovers,
    pub(super) inbound: Inbound,
    pub(super) rates: Rates,
    /// Before a connection is open, or instead.
    pub(super) secure: Secure,
    pub(super) handshakes: Handshakes,
    pub(super) requests: Requests,
    pub(super) adopted: Adopted,
    pub(super) handover: Handover,
    pub(super) dials: Dials,
    pub(super) server: Decoder,
    pub(super) client: Decoder,

    /// To the kernel: what is to be sent, and what else is asked of it.
    pub(super) outgoing: Outgoing,
    pub(super) watches: Watches,
    pub(super) compressor: Compressor,
    pub(super) work: RingWork,
    /// To the application, and to others.
    pub(super) notices: Notices,
    pub(super) fanout: Fanout,
    pub(super) appointments: Appointments,
    pub(super) stop_requested: bool,

    pub(super) rng: Rng,
    pub(super) counted: Counters,
}

/// The configuration in the units of the hot path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) tick_ns: u64,
    pub(super) handshake: u32,
    /// Between the requests of a connection that stays.
    pub(super) keep_alive: u32,
    /// For an answer that the application owes.
    pub(super) answer: u32,
    pub(super) idle: u32,
    pub(super) write: u32,
    /// How long nothing may be acknowledged of what the kernel has taken.
    pub(super) unacknowledged: u32,
    /// Over which the least rate of reading is judged.
    pub(super) read_window: u32,
    pub(super) close: u32,
    pub(super) linger: u32,
    /// Input that comes within this is lively.
    pub(super) lively: u32,
    pub(super) heartbeat: heartbeat::Plan,
    pub(super) high_water: usize,
    pub(super) low_water: usize,
    /// Bytes queued in a turn after which they are sent before anything else happens.
    pub(super) turn_soft: usize,
    /// Bytes queued in a turn, by one callback, beyond which receivers are closed.
    pub(super) turn_hard: usize,
    /// A message in progress may rest so long; 0 where none has to hurry.
    pub(super) upload_grace_ns: u64,
    /// What a byte of it is worth.
    pub(super) upload_byte_ns: u64,
}

impl Limits {
    fn new(config: &Config) -> Self {
        let close = ticks(config.close_timeout, config.tick);
        // What one more receive can complete still has to fit, or a peer that is answered would be
        // closed as slow before its reading pauses.
        let high_water = (config.max_outbox / 2)
            .min(config.max_outbox.saturating_sub(config.max_message + RECEIVE_MAX));
        Self {
            tick_ns: config.tick.as_nanos() as u64,
            handshake: ticks(config.handshake_timeout, config.tick),
            keep_alive: ticks(config.keep_alive, config.tick),
            answer: ticks(config.answer_timeout, config.tick),
            idle: ticks(config.idle_timeout, config.tick),
            write: ticks(config.write_timeout, config.tick),
            unacknowledged: ticks(config.user_timeout(), config.tick),
            read_window: ticks(config.read_window, config.tick).max(1),
            close,
            // Long enough for a close frame to be read across the globe, short enough not to hold
            // a slot for a peer that has broken the rules.
            linger: close.min(ticks(std::time::Duration::from_secs(2), config.tick)),
            lively: ticks(std::time::Duration::from_secs(1), config.tick),
            heartbeat: heartbeat::Plan::new(&config.heartbeat, config.tick),
            high_water,
            low_water: high_water / 4,
            turn_soft: config.turn_soft(),
            turn_hard: config.turn_hard(),
            upload_grace_ns: match config.min_upload_rate {
                0 => 0,
                _ => config.upload_grace.as_nanos() as u64,
            },
            upload_byte_ns: 1_000_000_000 / u64::from(config.min_upload_rate.max(1)),
        }
    }
}

impl Config {
    /// Bytes queued in a turn after which they are sent before anything else happens.
    fn turn_soft(&self) -> usize {
        (self.max_outboxes / 16).min(TURN_SOFT)
    }

    /// Bytes queued in a turn, by one callback, beyond which receivers are closed.
    fn turn_hard(&self) -> usize {
        self.max_outboxes / 2
    }

    /// The most that a turn queues before it is offered to the kernel.
    pub(super) fn turn_max(&self) -> usize {
        self.turn_soft() + self.turn_hard() + self.max_message
    }
}

impl Core {
    pub(super) fn new(
        config: Arc<Config>,
        number: u16,
        links: Arc<dyn Links>,
        total: Arc<AtomicU32>,
        addresses: Arc<Addresses>,
        rng: Rng,
    ) -> Self {
        let decoder = |role| Decoder {
            role,
            max_message: config.max_message,
            max_fragments: config.max_fragments,
        };
        let limits = Limits::new(&config);
        let compression = config.compression;
        Self {
            limits,
            server: decoder(Role::Server),
            client: decoder(Role::Client),
            config,
            number,
            fanout: Fanout::new(links),
            census: Census::new(total, addresses),
            compressor: Compressor::new(compression),
            slots: Slots::default(),
            clock: Clock::new(limits.tick_ns),
            timing: Timing::default(),
            secure: Secure::default(),
            handshakes: Handshakes::default(),
            requests: Requests::default(),
            adopted: Adopted::default(),
            handover: Handover::default(),
            dials: Dials::default(),
            outgoing: Outgoing::default(),
            inbox: Inbox::default(),
            leftovers: Leftovers::default(),
            work: RingWork::default(),
            rates: Rates::default(),
            watches: Watches::default(),
            notices: Notices::default(),
            appointments: Appointments::default(),
            stop_requested: false,
            rng,
            counted: Counters::default(),
            inbound: Inbound::default(),
        }
    }

    /// Gives back the memory of all lists: what a calm core needs of it is made again in a moment,
    /// and is small.
    pub(super) fn shrink(&mut self) {
        self.slots.shrink();
        self.outgoing.shrink();
        self.inbox.shrink();
        self.leftovers.shrink();
        self.work.shrink();
        self.notices.shrink();
        self.rates.shrink();
        self.watches.shrink();
        self.compressor.shrink();
        self.secure.shrink();
        self.handshakes.shrink();
        self.requests.shrink();
        self.adopted.shrink();
        self.handover.shrink();
        self.dials.shrink();
        self.fanout.shrink();
        self.inbound.shrink();
    }

    /// The counters, with the present amounts filled in.
    pub(super) fn counters(&self) -> Counters {
        Counters {
            connections: u64::from(self.slots.used()),
            open: self.census.open(),
            streams: self.census.streams(),
            kept: self.requests.len() as u64,
            adopted_here: self.adopted.len() as u64,
            deflate_connections: self.compressor.agreed(),
            deflate_bytes_held: self.compressor.memory() as u64,
            inbound_bytes_held: self.inbound.total() as u64,
            outbox_bytes_held: self.outgoing.ledger().total() as u64,
            tls_connections: u64::from(self.secure.records()),
            tls_handshakes_waiting: self.secure.greetings() as u64,
            blocked: self.outgoing.blocked(),
            timers: u64::from(self.timing.armed()),
            topics: self.fanout.topics().len() as u64,
            subscriptions: self.fanout.topics().subscriptions() as u64,
            ..self.counted
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let (rtt_us, drift_us) = self.timing.measured();
        Stats { counters: self.counters(), rtt_us, drift_us }
    }

    /// How messages are framed on a connection; as in frames for one that is gone.
    pub(super) fn framing(&self, slot: u32) -> Framing {
        self.slots.get(slot).map_or(Framing::Frames, |hot| hot.framing())
    }

    pub(super) fn is_stream(&self, slot: u32) -> bool {
        self.slots.get(slot).is_some_and(|hot| hot.has(Flags::STREAM))
    }

    /// Four bytes to mask a client frame with.
    pub(super) fn mask(&mut self) -> [u8; 4] {
        (self.rng.draw() as u32).to_ne_bytes()
    }

    /// Marks a slot for the next batch of receives.
    pub(super) fn mark_ready(&mut self, slot: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let queued = self.inbox.mark_ready(slot, hot);
        self.prune_inbox(queued);
    }

    /// Marks a slot that left input behind.
    pub(super) fn mark_eager(&mut self, slot: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let queued = self.inbox.mark_eager(slot, hot);
        self.prune_inbox(queued);
    }

    /// Takes those out of the inbox that have left, if a queue of it is as long as this and that is
    /// too long.
    #[inline]
    pub(super) fn prune_inbox(&mut self, queued: usize) {
        if queued > self.slots.most_entries() {
            self.inbox.prune(&mut self.slots);
        }
    }

    /// Marks a slot for the flush at the end of the turn.
    pub(super) fn mark_dirty(&mut self, slot: u32) {
        if let Some(hot) = self.slots.get_mut(slot) {
            self.outgoing.mark(slot, hot);
        }
    }

    /// A core without a ring, for tests, with one open connection: in slot 0, with these flags.
    #[cfg(test)]
    pub(super) fn alone(config: Config, start_ns: u64, flags: u32) -> Self {
        let links: Arc<super::links::Network<()>> =
            Arc::new(super::links::Network { posts: Vec::new() });
        let (total, addresses) = (Arc::default(), Arc::default());
        let mut core = Self::new(Arc::new(config), 0, links, total, addresses, Rng::new(1));
        core.begin_time(start_ns);
        let tick = core.clock.tick();
        let pulse = core.limits.heartbeat.begin(tick, &mut core.rng);
        let now_us = core.clock.now_us();
        let hot = core.slots.open(0, super::slots::Phase::Open);
        hot.set(flags);
        core.census.enter(hot);
        (hot.active, hot.pulse) = (tick, pulse);
        if let Some(cold) = core.slots.cold(0) {
            (cold.messages, cold.bytes) = (now_us, now_us);
        }
        core.arm(0);
        core
    }

    /// Gives the outbox of a connection that needs none back.
    #[cfg(test)]
    pub(super) fn retire_outbox(&mut self, slot: u32) {
        if let Some(hot) = self.slots.get_mut(slot) {
            self.outgoing.retire(slot, hot);
        }
    }

    /// Memory of what this turn has queued and not offered to the kernel.
    pub(super) fn turn_size(&self) -> usize {
        self.outgoing.turn_size()
    }

    /// Runs `change` on the slot's outbox, which is made if there is none, and marks the slot.
    pub(super) fn with_outbox(&mut self, slot: u32, change: impl FnOnce(&mut Outbox)) {
        if let Some(hot) = self.slots.get_mut(slot) {
            change(self.outgoing.open(slot, hot, &self.clock));
        }
    }
}

/// Most bytes that a turn queues before it sends them: far more than the L2 cache, so that who is
/// sent much to gets it in few sends; far less than memory.
const TURN_SOFT: usize = 16 << 20;
