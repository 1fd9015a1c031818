//! Compression on one core: what is compressed for those who have agreed on it, and what they send.
//!
//! Owns the compressor and the decompressor that all connections of the core share, how much of a
//! turn they may take, and what is counted of them. Never keeps anything of a connection: each
//! message stands alone. The invariant: who has agreed has [`Flags::DEFLATE`] and is counted once;
//! where nobody is left, a calm core gives the memory back.

use std::borrow::Cow;
use std::time::Instant;

use super::config::Compression;
use super::core::Core;
use super::counters::Counters;
use super::slots::{Flags, Hot};
use super::value::{Data, Frame, Framing, opcode};
use crate::protocol::deflate::Window;
use crate::protocol::{Agreement, Deflater, Fault, Inflater, Kind, frame};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Compressor {
    settings: Option<Compression>,
    deflater: Deflater,
    inflater: Inflater,
    /// What was compressed last.
    payload: Vec<u8>,
    /// Connections that have agreed.
    agreed: u64,
    /// When somebody was last here.
    needed_ns: u64,
    effort: Effort,
}

/// What a turn, and in it one connection, may still inflate and compress, in bytes inflated.
#[derive(Debug)]
struct Effort {
    turn: usize,
    portion: usize,
    /// Of those whose input takes long a turn takes up few, so that each may have its portion.
    late: bool,
}

impl Effort {
    fn spend(&mut self, bytes: usize) {
        self.turn = self.turn.saturating_sub(if self.late { 0 } else { bytes });
        self.portion = self.portion.saturating_sub(bytes);
    }
}

impl Compressor {
    pub(super) fn new(settings: Option<Compression>) -> Self {
        Self {
            settings,
            deflater: Deflater::new(settings.unwrap_or_default().level),
            inflater: Inflater::default(),
            payload: Vec::new(),
            agreed: 0,
            needed_ns: 0,
            effort: Effort { turn: TURN_EFFORT, portion: PORTION_EFFORT, late: false },
        }
    }

    /// A turn begins to work off what was received.
    pub(super) fn begin_turn(&mut self) {
        self.effort.turn = TURN_EFFORT;
    }

    /// It begins with one connection's input.
    pub(super) fn begin_portion(&mut self, hot: &Hot) {
        self.effort.portion = PORTION_EFFORT;
        self.effort.late = hot.has(Flags::CHATTY | Flags::COSTLY);
    }

    /// Whether the rest of that has to wait for a later turn.
    #[inline]
    pub(super) fn is_spent(&self, hot: &Hot) -> bool {
        let Effort { turn, portion, late } = self.effort;
        hot.has(Flags::DEFLATE) && (portion == 0 || turn == 0 && !late)
    }

    /// Whether this connection has had its portion of the turn.
    pub(super) fn has_had_its_portion(&self) -> bool {
        self.effort.portion == 0
    }

    /// Whether clients that offer compression get it.
    pub(super) fn offers(&self) -> bool {
        self.settings.is_some()
    }

    /// Bytes that a message may be inflated to.
    fn max_inflated(&self, max_message: usize) -> usize {
        match self.settings.unwrap_or_default().max_inflated {
            0 => max_message,
            limit => limit.min(max_message),
        }
    }

    /// A connection opens that has agreed.
    pub(super) fn enter(&mut self, hot: &Hot) {
        self.agreed += u64::from(hot.has(Flags::DEFLATE));
    }

    /// A connection that was open closes.
    pub(super) fn leave(&mut self, hot: &Hot) {
        self.agreed -= u64::from(hot.has(Flags::DEFLATE));
    }

    /// Connections that have agreed.
    pub(super) fn agreed(&self) -> u64 {
        self.agreed
    }

    /// Bytes of memory it holds.
    pub(super) fn memory(&self) -> usize {
        self.deflater.memory() + self.inflater.memory() + self.payload.capacity()
    }

    /// Frees the memory when nobody has needed it for a while, and says so. Every turn asks.
    #[inline]
    pub(super) fn rest(&mut self, now_ns: u64) -> bool {
        if self.agreed > 0 {
            self.needed_ns = now_ns;
            return false;
        }
        let rests = now_ns.saturating_sub(self.needed_ns) > REST_NS && self.memory() > 0;
        if rests {
            self.release();
        }
        rests
    }

    /// Frees what it can: with nobody here all, else what long messages needed.
    pub(super) fn shrink(&mut self) {
        if self.agreed == 0 {
            self.release();
        } else {
            self.payload = Vec::new();
            self.inflater.release();
        }
    }

    fn release(&mut self) {
        self.deflater.release();
        self.inflater.release();
        self.payload = Vec::new();
    }

    /// Whether a message of that length goes as it is, to whomever.
    fn refuses(&self, len: usize, counted: &mut Counters) -> bool {
        let settings = self.settings.unwrap_or_default();
        counted.deflate_skipped_small += u64::from(len < settings.min_size);
        counted.deflate_skipped_large += u64::from(len > settings.max_size);
        !(settings.min_size..=settings.max_size).contains(&len)
    }

    /// Compresses a payload into [`Self::payload`]. False: it is to go as it is.
    fn deflate(&mut self, payload: &[u8], window: Window, counted: &mut Counters) -> bool {
        let started = Instant::now();
        self.payload.clear();
        let outcome = self.deflater.deflate_for(window, payload, &mut self.payload);
        counted.deflate_ns += started.elapsed().as_nanos() as u64;
        self.effort.spend(payload.len() * DEFLATE_EFFORT);
        match outcome {
            Ok(()) => {
                counted.deflate_messages += 1;
                counted.deflate_bytes_before += payload.len() as u64;
                counted.deflate_bytes_after += self.payload.len() as u64;
                true
            }
            Err(_) => {
                counted.deflate_skipped_grew += 1;
                false
            }
        }
    }

    /// The compressed twin of a frame's wire: a final frame of a server.
    fn twin(&mut self, frame: &Frame, window: Window, counted: &mut Counters) -> Option<Vec<u8>> {
        if !self.deflate(frame.payload(), window, counted) {
            return None;
        }
        let mut wire = Vec::with_capacity(self.payload.len() + frame::HEADER_MAX);
        frame::append_deflated(&mut wire, opcode(frame.kind()), &self.payload, None);
        Some(wire)
    }
}

impl Core {
    /// A connection that is about to open has agreed on compression, or not.
    pub(super) fn agree(&mut self, slot: u32, agreement: Option<Agreement>) {
        if let (Some(agreement), Some(hot)) = (agreement, self.slots.get_mut(slot)) {
            hot.agree(agreement.window_bits());
            self.compressor.begin_portion(hot);
        }
    }

    /// The window for a connection's messages, in bits; `None` if it has not agreed.
    #[inline]
    fn window_bits(&self, slot: u32) -> Option<u8> {
        if self.compressor.agreed == 0 {
            return None;
        }
        self.slots.get(slot).and_then(|hot| hot.window_bits())
    }

    /// Whether messages are compressed for a connection.
    #[inline]
    pub(super) fn compresses(&self, slot: u32) -> bool {
        self.window_bits(slot).is_some()
    }

    /// The window for a message of that length to a connection that has agreed. `None`: it goes as
    /// it is.
    fn window(&mut self, len: usize, window_bits: u8) -> Option<Window> {
        if self.compressor.refuses(len, &mut self.counted) {
            return None;
        }
        let window = Window::of(len, window_bits);
        self.counted.deflate_skipped_window += u64::from(window.is_err());
        window.ok()
    }

    /// A payload as bytes of a connection that has agreed: compressed, if that is worth it.
    #[inline]
    pub(super) fn deflated(
        &mut self,
        slot: u32,
        framing: Framing,
        kind: Kind,
        payload: &[u8],
    ) -> Option<Data> {
        let window_bits = self.window_bits(slot)?;
        self.deflate(window_bits, framing, kind, payload)
    }

    #[inline(never)]
    fn deflate(
        &mut self,
        window_bits: u8,
        framing: Framing,
        kind: Kind,
        payload: &[u8],
    ) -> Option<Data> {
        let window = self.window(payload.len(), window_bits)?;
        let mask = (framing == Framing::Masked).then(|| self.mask());
        let Self { compressor, outgoing, counted, .. } = self;
        if !compressor.deflate(payload, window, counted) {
            return None;
        }
        let payload = &compressor.payload;
        if payload.len() < super::queueing::CORK_MAX {
            let append = |cork: &mut Vec<u8>| {
                frame::append_deflated(cork, opcode(kind), payload, mask);
            };
            return Some(outgoing.write(append));
        }
        let mut wire = Vec::with_capacity(payload.len() + frame::HEADER_MAX);
        frame::append_deflated(&mut wire, opcode(kind), payload, mask);
        outgoing.note_own(wire.len());
        Some(Data::Own(wire.into()))
    }

    /// The bytes of a shared frame for a connection that has agreed, shared as those are among all
    /// who have it with the same window: made by the first core that needs them. `None`: it gets
    /// what others get.
    #[inline]
    pub(super) fn deflated_frame(&mut self, slot: u32, frame: &Frame) -> Option<Data> {
        let window_bits = self.window_bits(slot)?;
        let window = self.window(frame.payload().len(), window_bits)?;
        let Self { compressor, counted, .. } = self;
        let before = counted.deflate_messages + counted.deflate_skipped_grew;
        let wire = frame.twin(window, || compressor.twin(frame, window, counted))?;
        let made = counted.deflate_messages + counted.deflate_skipped_grew != before;
        counted.deflate_shared += u64::from(!made);
        Some(Data::Shared(wire, 0))
    }

    /// A frame for many, with a place for its compressed twins where anybody may want them.
    pub(super) fn compressible<'a>(&self, frame: &'a Frame) -> Cow<'a, Frame> {
        match self.compressor.offers() && !frame.is_compressible() {
            true => Cow::Owned(frame.clone().compressible()),
            false => Cow::Borrowed(frame),
        }
    }

    /// What was compressed in a message that arrived. The decompressor goes with it, to be put back
    /// when the message is worked off.
    pub(super) fn take_inflater(&mut self) -> Inflater {
        std::mem::take(&mut self.compressor.inflater)
    }

    pub(super) fn put_inflater(&mut self, inflater: Inflater) {
        self.compressor.inflater = inflater;
    }

    /// Inflates a message and counts it.
    pub(super) fn inflate<'a>(
        &mut self,
        inflater: &'a mut Inflater,
        kind: Kind,
        payload: &[u8],
    ) -> Result<&'a [u8], Fault> {
        let started = Instant::now();
        let limit = self.compressor.max_inflated(self.config.max_message);
        let outcome = inflater.message(kind, payload, limit).map(<[u8]>::len);
        self.compressor.effort.spend(inflater.effort());
        let counted = &mut self.counted;
        counted.inflate_ns += started.elapsed().as_nanos() as u64;
        match outcome {
            Ok(len) => {
                counted.inflate_messages += 1;
                counted.inflate_bytes_before += payload.len() as u64;
                counted.inflate_bytes_after += len as u64;
            }
            Err(_) => counted.inflate_failed += 1,
        }
        outcome.map(|_| inflater.inflated())
    }
}

/// Nobody is here for so long before memory is given back: who comes and goes finds it.
const REST_NS: u64 = 2_000_000_000;

/// Bytes that a turn inflates of connections that became readable: some 0.5 ms where they are hard
/// to inflate.
const TURN_EFFORT: usize = 256 << 10;

/// The same for one connection, which is never interrupted in the middle of a message.
const PORTION_EFFORT: usize = 64 << 10;

/// Bytes that are inflated in the time in which one is compressed: 1.5 to 3 against 11 to 25 ns.
const DEFLATE_EFFORT: usize = 8;
