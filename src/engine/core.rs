//! One core's world, without its ring: connections, timers, topics, what is queued, what is
//! counted.
//!
//! Everything an application may do from a callback is an operation on [`Core`], so none of it can
//! reach the kernel: it leaves marks (dirty, ready, ending) that the worker's turn acts upon. The
//! operations are grouped by duty: queueing here, endings in `closing`, deadlines in `timing`.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;

use super::addresses::Addresses;
use super::config::{Config, Via, ticks};
use super::conn::{ConnId, DialTarget, Frame, SendError, opcode};
use super::counters::{Counters, Stats};
use super::handler::{Cause, Closed};
use super::heartbeat;
use super::outbox::{Data, Outbox, Policy};
use super::reading::RECEIVE_MAX;
use super::rng::Rng;
use super::slots::{Flags, Framing, Hot, Phase, Slots};
use super::token::Token;
use super::topics::Topics;
use super::wheel::Wheel;
use crate::protocol::frame::{self, HEADER_MAX, Header, Opcode};
use crate::protocol::{CloseCode, Decoder, Kind, Role, stream};

/// What the application has to be told, once its present callback has returned.
#[derive(Debug)]
pub(crate) enum Notice {
    Closed {
        slot: u32,
        generation: u32,
        closed: Closed,
    },
    Writable {
        slot: u32,
        generation: u32,
    },
    /// It is time for the application's heartbeat.
    Heartbeat {
        slot: u32,
        generation: u32,
    },
}

/// An outgoing connection that is to be made.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) target: Arc<DialTarget>,
    pub(crate) local: Option<IpAddr>,
    pub(crate) tag: u64,
}

/// An outgoing connection before it is open.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) outgoing: Outgoing,
    pub(crate) key: [u8; 16],
    /// Why it will not open; empty as long as it may.
    pub(crate) failure: &'static str,
}

/// A request or response head that came in part.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) bytes: Vec<u8>,
    pub(crate) scanned: usize,
    /// Where the body ends that the application asked for; 0 if it asked for none.
    pub(crate) end: usize,
    /// Which way it came, once the head was whole.
    pub(crate) via: Option<Via>,
}

impl Head {
    /// What the core's account holds for it: a head alone is bounded by its own limit.
    pub(crate) fn held(&self) -> usize {
        if self.end > 0 { self.bytes.capacity() } else { 0 }
    }
}

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
    /// Connections of the whole server, against `max_connections`.
    pub(crate) total: Arc<AtomicU32>,
    /// Where the whole server's connections come from, against `max_per_address`.
    pub(crate) addresses: Arc<Addresses>,

    pub(crate) slots: Slots,
    pub(crate) wheel: Wheel,
    pub(crate) topics: Topics,
    pub(crate) heads: HashMap<u32, Head>,
    /// What was received on connections that are being handed over, and which way they came.
    pub(crate) passing: HashMap<u32, (Vec<u8>, Via)>,
    pub(crate) dials: HashMap<u32, Dial>,
    pub(crate) server: Decoder,
    pub(crate) client: Decoder,

    /// Frames encoded in this turn.
    pub(crate) cork: Vec<u8>,
    /// Slots with something to send or to settle; flag DIRTY.
    pub(crate) dirty: Vec<u32>,
    /// Slots that became readable; flag READY.
    pub(crate) ready: VecDeque<u32>,
    /// Slots that were read from and have more; flag READY.
    pub(crate) eager: VecDeque<u32>,
    /// Slots whose descriptor is to be closed.
    pub(crate) releases: Vec<u32>,
    /// Slots whose sending half is to be shut down.
    pub(crate) shutdowns: Vec<u32>,
    /// Slots whose socket is to get a file descriptor.
    pub(crate) installs: Vec<u32>,
    /// Polls to be armed.
    pub(crate) polls: Vec<Token>,
    /// Connections held back by a rate, with the tick at which to look again.
    pub(crate) throttled: Vec<(u32, u32, u32)>,
    pub(crate) outgoing: VecDeque<Outgoing>,
    pub(crate) notices: VecDeque<Notice>,
    pub(crate) stop_requested: bool,
    /// The 101 for the request at hand.
    pub(crate) accepted_head: Vec<u8>,

    pub(crate) now_ns: u64,
    pub(crate) tick: u32,
    pub(crate) rng: Rng,
    pub(crate) counted: Counters,
    pub(crate) rtt_us: Histogram<u64>,
    pub(crate) drift_us: Histogram<u64>,
    /// Deadlines were found late, and moved, when they were last looked at.
    pub(crate) forgave: bool,
    /// Bytes of messages and bodies in progress.
    pub(crate) inbound_held: usize,
    /// Bytes in outboxes that outlived a turn.
    pub(crate) outbox_held: usize,
    pub(crate) open: u64,
    /// Streams among the open.
    pub(crate) streams: u64,
    pub(crate) blocked: u64,
    /// Connections that are here only to be refused.
    pub(crate) surplus: u32,
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
    pub(crate) close: u32,
    pub(crate) linger: u32,
    /// Input that comes within this is lively.
    pub(crate) lively: u32,
    pub(crate) heartbeat: heartbeat::Plan,
    pub(crate) high_water: usize,
    pub(crate) low_water: usize,
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
            close,
            // Long enough for a close frame to be read across the globe, short enough not to hold
            // a slot for a peer that has broken the rules.
            linger: close.min(ticks(std::time::Duration::from_secs(2), config.tick)),
            lively: ticks(std::time::Duration::from_secs(1), config.tick),
            heartbeat: heartbeat::Plan::new(&config.heartbeat, config.tick),
            high_water,
            low_water: high_water / 4,
        }
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
        let Stats { rtt_us, drift_us, .. } = Stats::default();
        Self {
            limits: Limits::new(&config),
            server: decoder(Role::Server),
            client: decoder(Role::Client),
            config,
            worker,
            links,
            total,
            addresses,
            slots: Slots::default(),
            wheel: Wheel::default(),
            topics: Topics::default(),
            heads: HashMap::new(),
            passing: HashMap::new(),
            dials: HashMap::new(),
            cork: Vec::new(),
            dirty: Vec::new(),
            ready: VecDeque::new(),
            eager: VecDeque::new(),
            releases: Vec::new(),
            shutdowns: Vec::new(),
            installs: Vec::new(),
            polls: Vec::new(),
            throttled: Vec::new(),
            outgoing: VecDeque::new(),
            notices: VecDeque::new(),
            stop_requested: false,
            accepted_head: Vec::new(),
            now_ns: 0,
            tick: TICK_ORIGIN,
            rng,
            counted: Counters::default(),
            rtt_us,
            drift_us,
            forgave: false,
            inbound_held: 0,
            outbox_held: 0,
            open: 0,
            streams: 0,
            blocked: 0,
            surplus: 0,
            spare: Vec::new(),
            receivers: Vec::new(),
        }
    }

    /// Gives back the memory of all lists: what a calm core needs of it is made again in a moment,
    /// and is small.
    pub(crate) fn shrink(&mut self) {
        self.cork.shrink_to_fit();
        self.dirty.shrink_to_fit();
        self.ready.shrink_to_fit();
        self.eager.shrink_to_fit();
        self.releases.shrink_to_fit();
        self.shutdowns.shrink_to_fit();
        self.installs.shrink_to_fit();
        self.polls.shrink_to_fit();
        self.notices.shrink_to_fit();
        self.outgoing.shrink_to_fit();
        self.throttled.shrink_to_fit();
        self.heads.shrink_to_fit();
        self.passing.shrink_to_fit();
        self.dials.shrink_to_fit();
        self.receivers.shrink_to_fit();
        // A few of thousands that were made together: each would keep a page of the allocator's.
        self.spare = Vec::new();
    }

    /// The counters, with the present amounts filled in.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            connections: u64::from(self.slots.used()),
            open: self.open,
            streams: self.streams,
            inbound_bytes_held: self.inbound_held as u64,
            outbox_bytes_held: self.outbox_held as u64,
            blocked: self.blocked,
            timers: u64::from(self.wheel.armed()),
            topics: self.topics.len() as u64,
            subscriptions: self.topics.subscriptions() as u64,
            ..self.counted
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            counters: self.counters(),
            rtt_us: self.rtt_us.clone(),
            drift_us: self.drift_us.clone(),
        }
    }

    /// How messages are framed on a connection; as in frames for one that is gone.
    pub(crate) fn framing(&self, slot: u32) -> Framing {
        self.slots.get(slot).map_or(Framing::Frames, |hot| hot.framing())
    }

    pub(crate) fn is_stream(&self, slot: u32) -> bool {
        self.slots.get(slot).is_some_and(|hot| hot.has(Flags::STREAM))
    }

    /// Copies a payload into a frame of this turn.
    pub(crate) fn queue_message(
        &mut self,
        slot: u32,
        generation: u32,
        kind: Kind,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let framing = self.admit(slot, generation, payload.len() + AROUND_MAX)?;
        if payload.is_empty() && matches!(framing, Framing::Chunks | Framing::Bare) {
            // Nothing is nothing there, and a chunk of it would be the end.
            return Ok(());
        }
        if payload.len() >= CORK_MAX && framing != Framing::Masked {
            let mut wire = BytesMut::with_capacity(payload.len() + AROUND_MAX);
            let (len, bytes) = before(framing, kind, payload.len());
            wire.extend_from_slice(&bytes[..len]);
            wire.extend_from_slice(payload);
            wire.extend_from_slice(after(framing));
            self.enqueue(slot, Data::Shared(wire.freeze()), 0);
            return Ok(());
        }
        let start = self.cork.len();
        match framing {
            Framing::Chunks => stream::append_chunk(&mut self.cork, payload),
            Framing::Bare => self.cork.extend_from_slice(payload),
            Framing::Frames => frame::append(&mut self.cork, opcode(kind), payload, None),
            Framing::Masked => {
                let mask = self.mask();
                frame::append(&mut self.cork, opcode(kind), payload, Some(mask));
            }
        }
        let end = self.cork.len();
        self.enqueue(slot, Data::Cork(start..end), 0);
        Ok(())
    }

    /// Queues a frame that others share.
    pub(crate) fn queue_frame(
        &mut self,
        slot: u32,
        generation: u32,
        frame: &Frame,
    ) -> Result<(), SendError> {
        let Some(wire) = frame.wire(self.framing(slot)) else {
            return self.queue_message(slot, generation, frame.kind(), frame.payload());
        };
        let conflates = self.config.outbox_policy == Policy::Conflate && frame.key() != 0;
        if conflates && self.conflate(slot, generation, &wire, frame.key()) {
            return Ok(());
        }
        self.admit(slot, generation, wire.len())?;
        self.enqueue(slot, Data::Shared(wire), if conflates { frame.key() } else { 0 });
        Ok(())
    }

    /// Queues a prefix of a stream's own and a frame that others share, as one message: both arrive
    /// or none.
    pub(crate) fn queue_prefixed(
        &mut self,
        slot: u32,
        generation: u32,
        prefix: &[u8],
        frame: &Frame,
    ) -> Result<(), SendError> {
        let framing = self.framing(slot);
        let streams = matches!(framing, Framing::Chunks | Framing::Bare);
        let Some(wire) = frame.wire(framing).filter(|_| streams && !prefix.is_empty()) else {
            return self.queue_frame(slot, generation, frame);
        };
        self.admit(slot, generation, prefix.len() + AROUND_MAX + wire.len())?;
        let start = self.cork.len();
        match framing {
            Framing::Chunks => stream::append_chunk(&mut self.cork, prefix),
            _ => self.cork.extend_from_slice(prefix),
        }
        let prefix = Data::Cork(start..self.cork.len());
        self.counted.messages_out += 1;
        self.with_outbox(slot, |outbox| outbox.push_pair(prefix, Data::Shared(wire)));
        Ok(())
    }

    /// Queues a payload that is owned already: its header goes to the cork.
    pub(crate) fn queue_owned(
        &mut self,
        slot: u32,
        generation: u32,
        kind: Kind,
        payload: Bytes,
    ) -> Result<(), SendError> {
        if payload.len() < CORK_MAX || self.framing(slot) != Framing::Frames {
            return self.queue_message(slot, generation, kind, &payload);
        }
        self.admit(slot, generation, payload.len() + HEADER_MAX)?;
        let (len, bytes) = before(Framing::Frames, kind, payload.len());
        let start = self.cork.len();
        self.cork.extend_from_slice(&bytes[..len]);
        self.counted.messages_out += 1;
        let header = Data::Cork(start..start + len);
        self.with_outbox(slot, |outbox| outbox.push_pair(header, Data::Shared(payload)));
        Ok(())
    }

    /// Queues a whole frame that lies in the receive arena.
    pub(crate) fn queue_arena(
        &mut self,
        slot: u32,
        generation: u32,
        frame: Range<usize>,
    ) -> Result<(), SendError> {
        self.admit(slot, generation, frame.len())?;
        self.enqueue(slot, Data::Arena(frame), 0);
        Ok(())
    }

    /// Queues a ping or pong; ahead of waiting messages if the peer reads slowly. Streams have
    /// none.
    pub(crate) fn queue_control(
        &mut self,
        slot: u32,
        generation: u32,
        opcode: Opcode,
        payload: &[u8],
    ) -> Result<(), SendError> {
        if payload.len() > 125 {
            return Err(SendError::TooLong);
        }
        let Some(hot) = self.slots.lookup(slot, generation) else { return Err(SendError::Gone) };
        if hot.phase != Phase::Open || hot.has(Flags::CLOSE_SENT) {
            return Err(SendError::Gone);
        }
        if hot.has(Flags::STREAM) {
            return Err(SendError::Stream);
        }
        let (client, blocked) = (hot.has(Flags::CLIENT), hot.has(Flags::BLOCKED));
        let mask = client.then(|| self.mask());
        let start = self.cork.len();
        frame::append(&mut self.cork, opcode, payload, mask);
        let data = Data::Cork(start..self.cork.len());
        self.with_outbox(slot, |outbox| match blocked {
            true => outbox.push_control(data, opcode as u64),
            false => outbox.push_run(data),
        });
        Ok(())
    }

    pub(crate) fn subscribe(&mut self, slot: u32, topic: &str) -> bool {
        match self.slots.get_mut(slot) {
            Some(hot) if hot.phase == Phase::Open => {
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
        for slot in &slots {
            if Some(*slot) == except {
                continue;
            }
            if let Some(generation) = self.slots.get(*slot).map(|hot| hot.generation) {
                // A receiver that is gone or full is counted where that is found out.
                let _ = self.queue_frame(*slot, generation, frame);
            }
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
        }
    }

    /// Marks a slot that left input behind: it waits for its turn among those that do.
    pub(crate) fn mark_eager(&mut self, slot: u32) {
        if let Some(hot) = self.slots.get_mut(slot)
            && !hot.set(Flags::READY)
        {
            self.eager.push_back(slot);
        }
    }

    /// Gives an emptied outbox back to the pool.
    pub(crate) fn retire_outbox(&mut self, slot: u32) {
        let Some(mut outbox) = self.slots.get_mut(slot).and_then(|hot| hot.outbox.take()) else {
            return;
        };
        self.outbox_held -= outbox.settled;
        if self.spare.len() < SPARE_OUTBOXES {
            outbox.reset();
            self.spare.push(outbox);
        }
    }

    /// Whether something is queued for this slot.
    pub(crate) fn has_outbox(&self, slot: u32) -> bool {
        self.slots.get(slot).is_some_and(|hot| hot.outbox.is_some())
    }

    /// Runs `change` on the slot's outbox, which is made if there is none, and marks the slot.
    pub(crate) fn with_outbox(&mut self, slot: u32, change: impl FnOnce(&mut Outbox)) {
        let tick = self.tick;
        let spare = &mut self.spare;
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let outbox = hot.outbox.get_or_insert_with(|| {
            let mut outbox = spare.pop().unwrap_or_default();
            outbox.progress = tick;
            outbox
        });
        change(outbox);
        if !hot.set(Flags::DIRTY) {
            self.dirty.push(slot);
        }
    }

    fn enqueue(&mut self, slot: u32, data: Data, key: u64) {
        self.counted.messages_out += 1;
        self.with_outbox(slot, |outbox| outbox.push(data, key));
    }

    fn conflate(&mut self, slot: u32, generation: u32, wire: &Bytes, key: u64) -> bool {
        let Some(hot) = self.slots.lookup(slot, generation) else { return false };
        let data = Data::Shared(wire.clone());
        let replaced = hot.phase == Phase::Open
            && hot.outbox.as_mut().is_some_and(|outbox| outbox.conflate(&data, key));
        self.counted.conflated += u64::from(replaced);
        replaced
    }

    /// Whether `len` more bytes may be queued; applies the policy if not. Returns how the
    /// connection's messages are framed.
    fn admit(&mut self, slot: u32, generation: u32, len: usize) -> Result<Framing, SendError> {
        let Some(hot) = self.slots.lookup(slot, generation) else {
            self.counted.dropped_gone += 1;
            return Err(SendError::Gone);
        };
        if hot.phase != Phase::Open || hot.has(Flags::CLOSE_SENT) {
            self.counted.dropped_gone += 1;
            return Err(SendError::Gone);
        }
        let framing = hot.framing();
        let Some(outbox) = hot.outbox.as_mut() else { return Ok(framing) };
        let queued = outbox.bytes();
        // What the kernel has not been offered yet says nothing about the peer's speed.
        let limit = match hot.flags.0 & Flags::BLOCKED {
            0 => self.config.max_outbox.max(TURN_OUTBOX),
            _ => self.config.max_outbox,
        };
        if queued == 0 || queued + len <= limit {
            let total = self.outbox_held + len;
            if queued > 0 && total > self.config.max_outboxes {
                self.give_up(slot, Cause::OutboxFull);
                return Err(SendError::Slow);
            }
            return Ok(framing);
        }
        match self.config.outbox_policy {
            Policy::CloseSlow => {
                self.give_up(slot, Cause::Slow);
                Err(SendError::Slow)
            }
            Policy::DropNewest => {
                self.counted.dropped_full += 1;
                Err(SendError::Dropped)
            }
            Policy::DropOldest | Policy::Conflate => {
                let dropped = outbox.make_room(limit.saturating_sub(len));
                self.counted.dropped_full += dropped.messages;
                if outbox.bytes() > 0 && outbox.bytes() + len > limit {
                    self.counted.dropped_full += 1;
                    return Err(SendError::Dropped);
                }
                Ok(framing)
            }
        }
    }
}

/// What comes before a payload that is not masked.
fn before(framing: Framing, kind: Kind, len: usize) -> (usize, [u8; BEFORE_MAX]) {
    let mut bytes = [0; BEFORE_MAX];
    let used = match framing {
        Framing::Bare => 0,
        Framing::Chunks => {
            let (head, used) = stream::chunk_head(len);
            bytes[..used].copy_from_slice(&head[..used]);
            used
        }
        Framing::Frames | Framing::Masked => {
            let mut head = [0; HEADER_MAX];
            let header = Header { fin: true, opcode: opcode(kind), mask: None, len: len as u64 };
            let used = header.write(&mut head);
            bytes[..used].copy_from_slice(&head[..used]);
            used
        }
    };
    (used, bytes)
}

/// What comes after a payload.
fn after(framing: Framing) -> &'static [u8] {
    if framing == Framing::Chunks { stream::CHUNK_TAIL } else { b"" }
}

/// Most bytes before a payload, in frames and chunks.
const BEFORE_MAX: usize =
    if HEADER_MAX > stream::CHUNK_HEAD_MAX { HEADER_MAX } else { stream::CHUNK_HEAD_MAX };

/// Most bytes before and after a payload.
const AROUND_MAX: usize = BEFORE_MAX + stream::CHUNK_TAIL.len();

/// Payloads up to this size are copied into the cork; larger ones get a buffer of their own.
const CORK_MAX: usize = 16 * 1024;

/// What one turn may queue for a peer that was not yet found to be slow.
const TURN_OUTBOX: usize = 1024 * 1024;

/// Ticks start here, so that differences to moments before the start need no care.
pub(crate) const TICK_ORIGIN: u32 = 1 << 20;

/// Outboxes kept for reuse per core: one turn's worth, about 30 KiB.
const SPARE_OUTBOXES: usize = 256;

const _: () = assert!(size_of::<Hot>() == 64);
