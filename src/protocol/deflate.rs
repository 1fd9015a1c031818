//! Payloads of permessage-deflate (RFC 7692 section 7.2): one message in, one message out.
//!
//! Owns the compressors and the decompressor that all connections of a core share, what they cost
//! while they exist, and the bounds on what they write. Never knows a connection: each message
//! stands alone (no context takeover), so no state outlives a call. The invariant: what
//! [`Deflater`] writes, any inflater with the agreed window reads; what [`Inflater`] holds never
//! exceeds one message of the limit and one byte.

use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

use super::extension::WINDOW_BITS_MAX;
use super::{Fault, Kind, utf8};

/// Compresses messages. One per core: made at the first message, freed by [`Deflater::release`].
pub struct Deflater {
    level: i32,
    /// Mostly only the last one is ever made.
    states: [Option<Box<Deflate>>; WINDOWS],
}

/// The window that a message is compressed with: one of [`WINDOWS`]. What it gives suits everybody
/// who is to have that message with the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(u8);

/// Why a message goes out as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It would not get shorter.
    Grew,
    /// It is longer than the peer's window, which is too small for any compressor.
    Window,
}

/// Decompresses messages. One per core: made at the first message, freed by [`Inflater::release`].
#[derive(Default)]
pub struct Inflater {
    state: Option<Box<Inflate>>,
    /// Where messages are inflated to. As long as the longest one so far needed.
    out: Vec<u8>,
    /// How much of it is the last message.
    len: usize,
    /// See [`Inflater::effort`].
    effort: usize,
}

impl Window {
    /// For a message of that length to a peer that agreed on a window of so many bits (8 to 15).
    /// The largest one serves all messages that cannot refer further back than the peer's is long.
    ///
    /// Fails where the message is longer than a window of 8 bits, which nothing writes for.
    pub fn of(len: usize, window_bits: u8) -> Result<Self, Kept> {
        let window_bits = window_bits.min(WINDOW_BITS_MAX);
        let bits = if len <= 1 << window_bits { WINDOW_BITS_MAX } else { window_bits };
        let suits = |window: &u8| *window <= bits;
        WINDOW_BITS.iter().rposition(suits).map(|index| Self(index as u8)).ok_or(Kept::Window)
    }

    /// Below [`WINDOWS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// How many windows there are that messages of this length are compressed with.
    pub fn count(len: usize) -> usize {
        1 + WINDOW_BITS[..WINDOWS - 1].iter().filter(|bits| len > 1 << **bits).count()
    }
}

impl Deflater {
    /// One that compresses at a level of 1 to 9, and has no memory yet.
    pub fn new(level: u8) -> Self {
        // Level 1 of this library uses fixed codes only: ratio 1.12 instead of 1.34 at 200 bytes.
        Self { level: level.clamp(LEVEL_MIN, 9).into(), states: [const { None }; WINDOWS] }
    }

    /// Appends the payload of a compressed message to `out` for a peer that agreed on a window of
    /// so many bits (8 to 15). Appends nothing if the message should go as it is.
    pub fn deflate(
        &mut self,
        message: &[u8],
        window_bits: u8,
        out: &mut Vec<u8>,
    ) -> Result<(), Kept> {
        self.deflate_for(Window::of(message.len(), window_bits)?, message, out)
    }

    /// The same for all peers who have a message of that length with this window.
    pub fn deflate_for(
        &mut self,
        window: Window,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Kept> {
        let (level, bits) = (self.level, WINDOW_BITS[window.index()]);
        let state = self.states[window.index()]
            .get_or_insert_with(|| Box::new(Deflate::new(level, false, bits)));
        // The flush marker is cut off, so what fills this is as long as the message.
        let start = out.len();
        out.resize(start + message.len() + MARKER.len(), 0);
        let done = state.compress(message, &mut out[start..], DeflateFlush::SyncFlush);
        let used = state.total_out() as usize;
        let all = state.total_in() == message.len() as u64;
        let end = start + used;
        if end == out.len() {
            drain(state);
        }
        state.reset();
        // Full output: more was to come.
        if done == Ok(Status::Ok) && all && end < out.len() && out[start..end].ends_with(&MARKER) {
            out.truncate(end - MARKER.len());
            Ok(())
        } else {
            out.truncate(start);
            Err(Kept::Grew)
        }
    }

    /// Bytes of memory it holds, rounded up.
    pub fn memory(&self) -> usize {
        self.states.iter().flatten().count() * DEFLATE_BYTES
    }

    /// Frees its memory, until the next message.
    pub fn release(&mut self) {
        self.states.fill_with(|| None);
    }
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflater").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Inflater {
    /// Inflates a message of at most `limit` bytes and checks its text. The payload is whole: that
    /// of a message in fragments is put together first.
    ///
    /// Fails with [`Fault::MessageTooBig`] as soon as one byte more than the limit is written,
    /// however much would follow; with [`Fault::TooManyBlocks`] if that takes longer than a message
    /// of the limit may; with [`Fault::BadDeflate`] or [`Fault::InvalidUtf8`].
    pub fn message(&mut self, kind: Kind, payload: &[u8], limit: usize) -> Result<&[u8], Fault> {
        (self.len, self.effort) = (0, payload.len());
        let result = self.inflate(payload, limit);
        // Whatever it ended in: the next message knows nothing of this one.
        if let Some(state) = &mut self.state {
            state.reset(false);
        }
        let len = result?;
        if kind == Kind::Text && !utf8::is_valid(&self.out[..len]) {
            return Err(Fault::InvalidUtf8);
        }
        self.len = len;
        Ok(self.inflated())
    }

    /// The last message; nothing where it failed.
    pub fn inflated(&self) -> &[u8] {
        &self.out[..self.len]
    }

    /// The time that the last message took, as bytes that are inflated in it; also where it failed.
    pub fn effort(&self) -> usize {
        self.effort
    }

    /// Bytes of memory it holds, rounded up.
    pub fn memory(&self) -> usize {
        self.out.capacity() + self.state.as_ref().map_or(0, |_| INFLATE_BYTES)
    }

    /// Frees its memory, until the next message.
    pub fn release(&mut self) {
        *self = Self::default();
    }

    /// Fills `out` and returns how far.
    fn inflate(&mut self, payload: &[u8], limit: usize) -> Result<usize, Fault> {
        // Section 7.2.3.6 wants a byte for an empty message, but zlib, flushed twice, writes none.
        if payload.is_empty() {
            return Ok(0);
        }
        let mut run = Run { limit, filled: 0, blocks: 0 };
        let outcome = self.feed(payload, &mut run).and_then(|ends| match ends {
            // A final block that ends with the payload: nothing was cut off.
            true => Ok(true),
            false => self.feed(&END, &mut run),
        });
        self.effort += run.filled + run.blocks * BLOCK_EFFORT;
        // The stream must end where `END` does, not in the middle of a block.
        if outcome? { Ok(run.filled) } else { Err(Fault::BadDeflate) }
    }

    /// Inflates all of `input`, block by block. Whether a final block ends where it does.
    fn feed(&mut self, mut input: &[u8], run: &mut Run) -> Result<bool, Fault> {
        let state =
            self.state.get_or_insert_with(|| Box::new(Inflate::new(false, WINDOW_BITS_MAX)));
        let most = run.limit.saturating_add(1);
        // Each turn but the last consumes input, fills the output or ends a block, all of which are
        // bounded.
        loop {
            if run.filled == self.out.len() {
                // It is no longer than the limit, else more than that would be filled.
                let more = (2 * run.filled).max(4 * input.len()).max(OUT_MIN);
                let more = more.min(most);
                self.out.reserve_exact(more - self.out.len());
                self.out.resize(more, 0);
            }
            let end = self.out.len().min(most);
            let (read, written) = (state.total_in(), state.total_out());
            let status = state
                .decompress(input, &mut self.out[run.filled..end], InflateFlush::Block)
                .map_err(|_| Fault::BadDeflate)?;
            let (read, written) = (state.total_in() - read, state.total_out() - written);
            input = &input[read as usize..];
            run.filled += written as usize;
            if run.filled > run.limit {
                return Err(Fault::MessageTooBig);
            }
            run.blocks += 1;
            if run.blocks > blocks_max(run.limit) {
                return Err(Fault::TooManyBlocks);
            }
            if status == Status::StreamEnd {
                // Section 7.2.3.4: a final block may stand anywhere; what follows starts anew.
                state.reset(false);
                if input.is_empty() {
                    return Ok(true);
                }
            } else if read == 0 && written == 0 {
                // A block may end in the last byte before others do.
                return if input.is_empty() { Ok(false) } else { Err(Fault::BadDeflate) };
            }
        }
    }
}

/// A message that is being inflated.
struct Run {
    limit: usize,
    /// Bytes of it.
    filled: usize,
    /// Blocks of it, and pieces of those that did not fit the room that there was.
    blocks: usize,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("memory", &self.memory()).finish_non_exhaustive()
    }
}

/// Takes what a compressor still has to write. Version 0.6.8 of zlib-rs does not forget at a reset
/// where that begins in its buffer: after some messages that were not taken to their end, there
/// would be no room left, and a panic.
fn drain(state: &mut Deflate) {
    let mut rest = [0; 256];
    // Nothing is added, so this ends with its buffer of 64 KiB.
    loop {
        let before = state.total_out();
        let done = state.compress(&[], &mut rest, DeflateFlush::SyncFlush);
        if done != Ok(Status::Ok) || state.total_out() - before < rest.len() as u64 {
            return;
        }
    }
}

/// The longest payload that a compressed message of `max_message` bytes comes in. What cannot be
/// compressed grows: by 5 bytes for each stored block, by an eighth where an encoder has nothing
/// but the fixed codes, of which most have 8 or 9 bits.
pub const fn payload_max(max_message: usize) -> usize {
    max_message.saturating_add(max_message / 8).saturating_add(256)
}

/// Most blocks that a message of so many bytes at most is inflated from; a final one counts twice.
/// Encoders end a block after some kilobytes, or where they are flushed, which takes another one. A
/// block without content takes 12 bytes and 0.43 µs: without this a message of 1 MiB took 40 ms.
const fn blocks_max(limit: usize) -> usize {
    (limit / 128).saturating_add(64)
}

/// What a sync flush ends in: an empty stored block, less its first byte. It is not sent (section
/// 7.2.1).
const MARKER: [u8; 4] = [0, 0, 0xff, 0xff];
/// The marker, and an empty final block, by which the inflater shows that no block was open.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// The lowest level of zlib-rs with codes of its own.
const LEVEL_MIN: u8 = 2;
/// The windows that messages are compressed with. A smaller one suits peers with larger ones, too:
/// so few compressors and so few forms of a message serve all. zlib does not write for 8 bits.
const WINDOW_BITS: [u8; WINDOWS] = [9, 12, WINDOW_BITS_MAX];
/// How many compressors there may be.
pub const WINDOWS: usize = 3;
/// The time for the codes of a block, as bytes that are inflated in it: 0.43 µs, 1.5 ns.
const BLOCK_EFFORT: usize = 300;
/// The least room for a message: small ones do not grow it step by step.
const OUT_MIN: usize = 1 << 10;
/// What a compressor of zlib-rs with the whole window allocates, measured. The others are smaller.
pub const DEFLATE_BYTES: usize = 384 << 10;
/// What its decompressor allocates, measured.
pub const INFLATE_BYTES: usize = 48 << 10;

#[cfg(test)]
#[path = "deflate_tests.rs"]
mod tests;
