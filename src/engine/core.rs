//! One core's world, without its ring: connections, timers, topics, what is queued, what is
//! counted.
//!
//! Everything an application may do from a callback is an operation on [`Core`], so none of it can
//! reach the kernel: it leaves marks (dirty, ready, ending) that the worker's turn acts upon. The
//! operations are grouped by duty: what is queued in `queueing`, endings in `closing`, deadlines in
//! `timing`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::addresses::Addresses;
use super::census::Census;
use super::clock::Clock;
use super::config::{Config, ticks};
use super::counters::{Counters, Stats};
use super::dialling::Dials;
use super::handover::Handover;
use super::heartbeat;
use super::inbound::Inbound;
use super::ledger::Ledger;
use super::notices::Notices;
use super::opening::Handshakes;
use super::outbox::{Outbox, SEGMENT};
use super::patience::Watches;
use super::reading::RECEIVE_MAX;
use super::ringwork::RingWork;
use super::rng::Rng;
use super::slots::{Flags, Hot, Phase, Slots};
use super::timing::Timing;
use super::topics::Topics;
use super::value::{ConnId, Frame, Framing, SendError};
use crate::protocol::{CloseCode, Decoder, Role};

/// The other cores, as seen from one.
pub(crate) trait Links: Send + Sync {
    fn send(&self, id: ConnId, frame: &Frame) -> Result<(), SendError>;
    fn close(&self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), SendError>;
    /// Returns how many cores could not take it.
    fn publish(&self, from: u16, topic: &Arc<str>, frame: &Frame) -> u64;
    fn workers(&self) -> usize;
}

/// See the module's text.
pub(crate) struct Core {
    pub(crate) config: Arc<Config>,
    pub(crate) limits: Limits,
    pub(crate) worker: u16,
    pub(crate) links: Arc<dyn Links>,
    pub(crate) census: Census,

    pub(crate) slots: Slots,
    pub(crate) clock: Clock,
    pub(crate) timing: Timing,
    pub(crate) topics: Topics,
    pub(crate) handshakes: Handshakes,
    pub(crate) handover: Handover,
    pub(crate) dials: Dials,
    pub(crate) server: Decoder,
    pub(crate) client: Decoder,

    /// Frames encoded in this turn.
    pub(crate) cork: Vec<u8>,
    /// Memory of what this turn has queued and not offered to the kernel, apart from the cork.
    pub(crate) turn_own: usize,
    /// The last flush left something that it did not offer.
    pub(crate) unoffered: bool,
    /// Slots with something to send or to settle; flag DIRTY.
    pub(crate) dirty: Vec<u32>,
    /// Slots that became readable; flag READY.
    pub(crate) ready: VecDeque<u32>,
    /// Slots that were read from and have more; flag READY.
    pub(crate) eager: VecDeque<u32>,
    pub(crate) work: RingWork,
    /// Connections held back by a rate, with the tick at which to look again.
    pub(crate) throttled: Vec<(u32, u32, u32)>,
    pub(crate) watches: Watches,
    pub(crate) notices: Notices,
    pub(crate) stop_requested: bool,

    pub(crate) rng: Rng,
    pub(crate) counted: Counters,
    /// Memory of input that is not complete.
    pub(crate) inbound: Inbound,
    /// Memory of outboxes that outlived a turn.
    pub(crate) ledger: Ledger,
    pub(crate) blocked: u64,
    /// Boxed as the slots hold them, so that reuse moves a pointer.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Outbox>>,
    /// Kept between publications for its memory.
    receivers: Vec<u32>,
}

/// The configuration in the units of the hot path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) tick_ns: u64,
    pub(crate) handshake: u32,
    pub(crate) idle: u32,
    pub(crate) write: u32,
    /// How long nothing may be acknowledged of what the kernel has taken.
    pub(crate) unacknowledged: u32,
    /// Over which the least rate of reading is judged.
    pub(crate) read_window: u32,
    pub(crate) close: u32,
    pub(crate) linger: u32,
    /// Input that comes within this is lively.
    pub(crate) lively: u32,
    pub(crate) heartbeat: heartbeat::Plan,
    pub(crate) high_water: usize,
    pub(crate) low_water: usize,
    /// Bytes queued in a turn after which they are sent before anything else happens.
    pub(crate) turn_soft: usize,
    /// Bytes queued in a turn, by one callback, beyond which receivers are closed.
    pub(crate) turn_hard: usize,
    /// A message in progress may rest so long; 0 where none has to hurry.
    pub(crate) upload_grace_ns: u64,
    /// What a byte of it is worth.
    pub(crate) upload_byte_ns: u64,
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
    pub(crate) fn new(
        config: Arc<Config>,
        worker: u16,
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
        Self {
            limits,
            server: decoder(Role::Server),
            client: decoder(Role::Client),
            config,
            worker,
            links,
            census: Census::new(total, addresses),
            slots: Slots::default(),
            clock: Clock::new(limits.tick_ns),
            timing: Timing::default(),
            topics: Topics::default(),
            handshakes: Handshakes::default(),
            handover: Handover::default(),
            dials: Dials::default(),
            cork: Vec::new(),
            turn_own: 0,
            unoffered: false,
            dirty: Vec::new(),
            ready: VecDeque::new(),
            eager: VecDeque::new(),
            work: RingWork::default(),
            throttled: Vec::new(),
            watches: Watches::default(),
            notices: Notices::default(),
            stop_requested: false,
            rng,
            counted: Counters::default(),
            inbound: Inbound::default(),
            ledger: Ledger::default(),
            blocked: 0,
            spare: Vec::new(),
            receivers: Vec::new(),
        }
    }

    /// Gives back the memory of all lists: what a calm core needs of it is made again in a moment,
    /// and is small.
    pub(crate) fn shrink(&mut self) {
        self.slots.shrink();
        self.cork.shrink_to_fit();
        self.dirty.shrink_to_fit();
        self.ready.shrink_to_fit();
        self.eager.shrink_to_fit();
        self.work.shrink();
        self.notices.shrink();
        self.throttled.shrink_to_fit();
        self.watches.shrink();
        self.handshakes.shrink();
        self.handover.shrink();
        self.dials.shrink();
        self.receivers.shrink_to_fit();
        // A few of thousands that were made together: each would keep a page of the allocator's.
        self.spare = Vec::new();
        self.ledger.shrink();
        self.inbound.shrink();
    }

    /// The counters, with the present amounts filled in.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            connections: u64::from(self.slots.used()),
            open: self.census.open(),
            streams: self.census.streams(),
            inbound_bytes_held: self.inbound.total() as u64,
            outbox_bytes_held: self.ledger.total() as u64,
            blocked: self.blocked,
            timers: u64::from(self.timing.armed()),
            topics: self.topics.len() as u64,
            subscriptions: self.topics.subscriptions() as u64,
            ..self.counted
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (rtt_us, drift_us) = self.timing.measured();
        Stats { counters: self.counters(), rtt_us, drift_us }
    }

    /// How messages are framed on a connection; as in frames for one that is gone.
    pub(crate) fn framing(&self, slot: u32) -> Framing {
        self.slots.get(slot).map_or(Framing::Frames, |hot| hot.framing())
    }

    pub(crate) fn is_stream(&self, slot: u32) -> bool {
        self.slots.get(slot).is_some_and(|hot| hot.has(Flags::STREAM))
    }

    pub(crate) fn subscribe(&mut self, slot: u32, topic: &str) -> bool {
        match self.slots.get_mut(slot) {
            Some(hot) if hot.phase() == Phase::Open => {
                self.topics.subscribe(slot, &mut hot.subscriptions, topic)
            }
            _ => false,
        }
    }

    pub(crate) fn unsubscribe(&mut self, slot: u32, topic: &str) -> bool {
        match self.slots.get_mut(slot) {
            Some(hot) => self.topics.unsubscribe(&mut hot.subscriptions, topic),
            None => false,
        }
    }

    /// Queues a frame for this core's subscribers.
    pub(crate) fn publish_local(&mut self, topic: &str, frame: &Frame, except: Option<u32>) {
        self.counted.published += 1;
        // The subscribers may change while the frame is queued (a slow one is closed), so their
        // slots are copied: 4 bytes each, once per publication.
        let mut slots = std::mem::take(&mut self.receivers);
        slots.extend(self.topics.subscribers(topic));
        // Made once for all who need it in the other shape.
        let mut other = None;
        for slot in &slots {
            if Some(*slot) == except {
                continue;
            }
            let Some(hot) = self.slots.get(*slot) else { continue };
            let generation = hot.generation;
            let frame = match frame.suits(hot.framing()) {
                true => frame,
                false => other.get_or_insert_with(|| frame.reshaped()),
            };
            // A receiver that is gone or full is counted where that is found out.
            let _ = self.queue_frame(*slot, generation, frame);
        }
        slots.clear();
        self.receivers = slots;
    }

    /// Sends a publication to the other cores.
    pub(crate) fn publish_remote(&mut self, topic: &str, frame: &Frame) {
        if self.links.workers() > 1 {
            let missed = self.links.publish(self.worker, &topic.into(), frame);
            self.counted.mailbox_full += missed;
        }
    }

    /// Sends a frame to a connection of another core.
    pub(crate) fn send_remote(&mut self, id: ConnId, frame: &Frame) -> Result<(), SendError> {
        let sent = self.links.send(id, frame);
        self.count_busy(sent)
    }

    /// Closes a connection of another core.
    pub(crate) fn close_remote(
        &mut self,
        id: ConnId,
        code: CloseCode,
        reason: &str,
    ) -> Result<(), SendError> {
        let sent = self.links.close(id, code, reason);
        self.count_busy(sent)
    }

    fn count_busy(&mut self, sent: Result<(), SendError>) -> Result<(), SendError> {
        self.counted.mailbox_full += u64::from(sent == Err(SendError::Busy));
        sent
    }

    /// Four bytes to mask a client frame with.
    pub(crate) fn mask(&mut self) -> [u8; 4] {
        (self.rng.draw() as u32).to_ne_bytes()
    }

    /// Marks a slot for the flush at the end of the turn.
    pub(crate) fn mark_dirty(&mut self, slot: u32) {
        if let Some(hot) = self.slots.get_mut(slot)
            && !hot.set(Flags::DIRTY)
        {
            self.dirty.push(slot);
        }
    }

    /// Marks a slot for the next batch of receives.
    pub(crate) fn mark_ready(&mut self, slot: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        if !hot.set(Flags::READY) {
            let queue = if hot.has(Flags::CHATTY) { &mut self.eager } else { &mut self.ready };
            queue.push_back(slot);
            let many = queue.len() > self.slots.most_entries();
            if many {
                self.prune_queues();
            }
        }
    }

    /// Marks a slot that left input behind: it waits for its turn among those that do.
    pub(crate) fn mark_eager(&mut self, slot: u32) {
        if let Some(hot) = self.slots.get_mut(slot)
            && !hot.set(Flags::READY)
        {
            self.eager.push_back(slot);
            if self.eager.len() > self.slots.most_entries() {
                self.prune_queues();
            }
        }
    }

    /// Takes those out of the queues of the ready that have left: where many come and go, they
    /// would add up.
    #[cold]
    fn prune_queues(&mut self) {
        let Self { slots, ready, eager, .. } = self;
        for queue in [&mut *ready, &mut *eager] {
            // The first entry of each stands for it.
            queue.retain(|slot| slots.get_mut(*slot).is_some_and(|hot| hot.clear(Flags::READY)));
        }
        for slot in ready.iter().chain(eager.iter()) {
            if let Some(hot) = slots.get_mut(*slot) {
                hot.set(Flags::READY);
            }
        }
    }

    /// Gives the outbox of a connection that needs none back to the pool: nothing waits for room in
    /// the send buffer any more.
    pub(crate) fn retire_outbox(&mut self, slot: u32) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let Some(mut outbox) = hot.outbox.take() else { return };
        self.blocked -= u64::from(hot.clear(Flags::BLOCKED));
        outbox.reset(&mut self.ledger);
        self.ledger.enter(slot, &mut outbox);
        if self.spare.len() < SPARE_OUTBOXES {
            self.spare.push(outbox);
        }
    }

    /// Enters in the core's account what a connection's outbox holds now.
    pub(crate) fn enter_outbox(&mut self, slot: u32) {
        if let Some(outbox) = self.slots.get_mut(slot).and_then(|hot| hot.outbox.as_mut()) {
            self.ledger.enter(slot, outbox);
        }
    }

    /// Memory of what this turn has queued and not offered to the kernel.
    pub(crate) fn turn_size(&self) -> usize {
        self.cork.len() + self.turn_own
    }

    /// Runs `change` on the slot's outbox, which is made if there is none, and marks the slot.
    pub(crate) fn with_outbox(&mut self, slot: u32, change: impl FnOnce(&mut Outbox)) {
        let (tick, now_ns) = (self.clock.tick(), self.clock.now_ns());
        let spare = &mut self.spare;
        let turn = &mut self.turn_own;
        let Some(hot) = self.slots.get_mut(slot) else { return };
        *turn += SEGMENT;
        let outbox = hot.outbox.get_or_insert_with(|| {
            *turn += OUTBOX_NEW;
            let mut outbox = spare.pop().unwrap_or_default();
            (outbox.progress, outbox.progress_ns) = (tick, now_ns);
            outbox
        });
        change(outbox);
        if !hot.set(Flags::DIRTY) {
            self.dirty.push(slot);
        }
    }
}

/// Outboxes kept for reuse per core: one turn's worth, about 30 KiB.
const SPARE_OUTBOXES: usize = 256;

/// Memory of an outbox with its first segments.
const OUTBOX_NEW: usize = 96 + 3 * SEGMENT;

/// Most bytes that a turn queues before it sends them: far more than the L2 cache, so that who is
/// sent much to gets it in few sends; far less than memory.
const TURN_SOFT: usize = 16 << 20;

const _: () = assert!(size_of::<Hot>() == 64);
