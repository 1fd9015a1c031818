//! The connections of one core, by slot: the index of a connection's record is the index of its
//! direct descriptor, so the kernel is the allocator of both.
//!
//! The hot record is one cache line; what is rarely read lies in a table beside it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::outbox::Outbox;
use super::phase::Event;
pub use super::phase::Phase;
use super::value::Framing;
use super::wheel::{Timer, Timers};
use crate::common::table::SlotTable;
use crate::protocol::Partial;
use crate::protocol::extension::WINDOW_BITS_MAX;

/// A set of facts about a connection, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// In the queue of connections to be read.
    pub const READY: u32 = 1 << 0;
    /// In the queue of connections to be sent to.
    pub const DIRTY: u32 = 1 << 1;
    /// The kernel's send buffer is full; wait for the poll.
    pub const BLOCKED: u32 = 1 << 2;
    /// The poll for input is armed.
    pub const POLL: u32 = 1 << 3;
    /// The one-shot poll for output is armed.
    pub const POLL_OUT: u32 = 1 << 4;
    /// This side is the client.
    pub const CLIENT: u32 = 1 << 5;
    /// A close frame was queued; nothing may follow it.
    pub const CLOSE_SENT: u32 = 1 << 6;
    /// The application was told that the connection opened, and not yet that it closed.
    pub const ANNOUNCED: u32 = 1 << 7;
    /// The outbox went over its high-water mark; tell the application when it is low again.
    pub const HIGH_WATER: u32 = 1 << 8;
    /// Input is left in the kernel until the outbox drains.
    pub const PAUSED: u32 = 1 << 9;
    /// Frame boundaries are lost: input is discarded unread.
    pub const DEAF: u32 = 1 << 10;
    /// After the outbox, shut down and linger instead of closing at once.
    pub const LINGER: u32 = 1 << 11;
    /// Counted in the server's total.
    pub const COUNTED: u32 = 1 << 12;
    /// A connect is in flight.
    pub const CONNECT: u32 = 1 << 13;
    /// A shutdown is in flight.
    pub const SHUTDOWN: u32 = 1 << 14;
    /// Beyond the limit: here only to be told so.
    pub const SURPLUS: u32 = 1 << 15;
    /// Input is left in the kernel until the rate allows.
    pub const THROTTLED: u32 = 1 << 16;
    /// The connection is broken; a receive behind the last byte will say how.
    pub const BROKEN: u32 = 1 << 17;
    /// An install is in flight.
    pub const INSTALL: u32 = 1 << 18;
    /// Its last receive brought many messages: it is read from in small portions, after others.
    pub const CHATTY: u32 = 1 << 19;
    /// The client's address is known, and counted if that is limited.
    pub const KNOWN: u32 = 1 << 20;
    /// Whether it began with a PROXY header is decided.
    pub const GREETED: u32 = 1 << 21;
    /// A response that goes on instead of a WebSocket: one way, and what still comes is discarded.
    pub const STREAM: u32 = 1 << 22;
    /// A stream without chunks: the end of the connection is its end (HTTP/1.0).
    pub const BARE: u32 = 1 << 23;
    /// Input is left in the kernel until the application has done what it has.
    pub const AWAITED: u32 = 1 << 24;
    /// Messages may be compressed.
    pub const DEFLATE: u32 = 1 << 25;
    /// The lowest of the three bits that say by how many a window is smaller than the largest: see
    /// [`Hot::window_bits`].
    const WINDOW: u32 = 1 << 26;
    /// Speaks TLS.
    pub const TLS: u32 = 1 << 29;
    /// Its TLS handshake is not complete: it is read from after all others, a few each turn.
    pub const GREETING: u32 = 1 << 30;
    /// Its input takes long: it is read from after others, a few each turn.
    pub const COSTLY: u32 = 1 << 31;
    /// Reasons not to read.
    pub const HELD: u32 = Self::PAUSED | Self::THROTTLED | Self::AWAITED;
}

/// A set of further facts, as bits. Four are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u16);

impl Marks {
    /// What its peer acknowledges is watched: see `patience`.
    pub const WATCHED: u16 = 1 << 0;
    /// A stream whose request has no answer yet.
    pub const UNANSWERED: u16 = 1 << 1;
    /// It ends, and what is last on it is not queued: see `farewell`.
    pub const PARTING: u16 = 1 << 2;
    /// A heartbeat of the application awaits its answer: [`Pulse::rtt_us`] is when it was sent.
    pub const ASKED: u16 = 1 << 3;
}

/// Where the last ping is, or the close frame, which awaits an answer as a ping does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Ping {
    /// There was none.
    #[default]
    Never,
    /// It may wait behind bytes that the peer has not acknowledged.
    Waiting,
    /// Nothing is before it, so its time runs.
    Left,
}

/// Heartbeat state of a connection: 16 bytes. See `heartbeat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Tick of the last inbound byte.
    pub seen: u32,
    /// Tick of the last ping of the present silence, or of the close frame; moved as long as what
    /// is before it leaves.
    pub pinged: u32,
    /// Last round-trip time in microseconds, 0 if none was measured; see [`Marks::ASKED`].
    pub rtt_us: u32,
    /// Current interval in ticks.
    pub interval: u16,
    /// How long the silence has lasted.
    pub level: u8,
    /// See [`Ping`].
    pub ping: Ping,
}

/// How input comes, in a byte: how much to receive at once, and how often input came soon after
/// other input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace(u8);

impl Pace {
    /// The highest appetite: three bits.
    pub const APPETITE_MAX: u8 = 7;
    /// The lowest of the four bits that count beats, and all of them.
    const BEAT: u8 = 1 << 3;
    const LIVELY: u8 = 0xf * Self::BEAT;

    /// How much to receive at once: an exponent, adapted to what arrives.
    #[inline]
    pub fn appetite(self) -> u8 {
        self.0 & Self::APPETITE_MAX
    }

    /// Changes the appetite.
    #[inline]
    pub fn set_appetite(&mut self, appetite: u8) {
        self.0 = self.0 & !Self::APPETITE_MAX | appetite.min(Self::APPETITE_MAX);
    }

    /// Input came, `soon` after the one before it or after a pause.
    #[inline]
    pub fn note_input(&mut self, soon: bool) {
        if !self.is_lively() {
            self.0 = if soon { self.0 + Self::BEAT } else { self.0 & !Self::LIVELY };
        }
    }

    /// Whether input is frequent enough for a multishot poll.
    #[inline]
    pub fn is_lively(self) -> bool {
        self.0 & Self::LIVELY == Self::LIVELY
    }
}

/// What an idle connection needs: one cache line.
#[derive(Debug)]
#[repr(align(64))]
pub struct Hot {
    /// Which tenant of the slot; unique in its core.
    pub generation: u32,
    /// Links into the timer wheel.
    pub timer: Timer,
    /// A message in progress.
    pub partial: Option<Box<Partial>>,
    /// What is to be sent; only while there is something.
    pub outbox: Option<Box<Outbox>>,
    /// First of its topic subscriptions.
    pub subscriptions: u32,
    /// Tick of the last message, or of opening.
    pub active: u32,
    /// Heartbeat.
    pub pulse: Pulse,
    /// See [`Flags`].
    pub flags: Flags,
    /// See [`Phase`].
    phase: Phase,
    /// See [`Pace`].
    pub pace: Pace,
    /// See [`Marks`].
    pub marks: Marks,
}

/// What is read at opening, closing and by rate limits.
#[derive(Clone, Copy, Debug)]
pub struct Cold {
    ip: [u8; 16],
    port: u16,
    /// An IPv4 address, in its mapped form. The table takes one of its spare values for vacancy.
    mapped: bool,
    /// Time until which received messages are paid for (see `limits`).
    pub messages: u32,
    /// The same for received bytes.
    pub bytes: u32,
}

impl Hot {
    fn new(generation: u32, phase: Phase) -> Self {
        Self {
            generation,
            timer: Timer::default(),
            partial: None,
            outbox: None,
            subscriptions: NO_SUBSCRIPTION,
            active: 0,
            pulse: Pulse::default(),
            flags: Flags::default(),
            phase,
            pace: Pace::default(),
            marks: Marks::default(),
        }
    }

    /// Where it is in its life.
    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Moves on to the next phase. False if the event cannot happen, which is an error of the
    /// engine.
    pub(super) fn advance(&mut self, event: Event) -> bool {
        let next = self.phase.on(event);
        debug_assert!(next.is_some(), "{event:?} in {:?}", self.phase);
        self.phase = next.unwrap_or(self.phase);
        next.is_some()
    }

    /// Whether a flag is set.
    #[inline]
    pub fn has(&self, flag: u32) -> bool {
        self.flags.0 & flag != 0
    }

    /// Sets a flag and says whether it was set before.
    #[inline]
    pub fn set(&mut self, flag: u32) -> bool {
        let before = self.has(flag);
        self.flags.0 |= flag;
        before
    }

    /// Whether a mark is set.
    #[inline]
    pub fn is(&self, mark: u16) -> bool {
        self.marks.0 & mark != 0
    }

    /// Sets a mark.
    #[inline]
    pub fn mark(&mut self, mark: u16) {
        self.marks.0 |= mark;
    }

    /// Clears a mark and says whether it was set before.
    #[inline]
    pub fn unmark(&mut self, mark: u16) -> bool {
        let before = self.is(mark);
        self.marks.0 &= !mark;
        before
    }

    /// No answer is awaited any more that would tell a round trip: it is not known.
    pub fn forget_asked(&mut self) {
        if self.unmark(Marks::ASKED) {
            self.pulse.rtt_us = 0;
        }
    }

    /// How messages are framed.
    #[inline]
    pub fn framing(&self) -> Framing {
        match self.flags.0 & (Flags::CLIENT | Flags::STREAM | Flags::BARE) {
            0 => Framing::Frames,
            Flags::STREAM => Framing::Chunks,
            flags if flags & Flags::CLIENT != 0 => Framing::Masked,
            _ => Framing::Bare,
        }
    }

    /// The peer has agreed on compression with a window of so many bits for what is sent to it.
    pub fn agree(&mut self, window_bits: u8) {
        debug_assert!(!self.has(Flags::DEFLATE) && (8..=15).contains(&window_bits));
        let smaller = u32::from(WINDOW_BITS_MAX.saturating_sub(window_bits) & 7);
        self.flags.0 |= Flags::DEFLATE | (smaller * Flags::WINDOW);
    }

    /// That window; `None` if it has not agreed.
    #[inline]
    pub fn window_bits(&self) -> Option<u8> {
        let smaller = (self.flags.0 / Flags::WINDOW) as u8 & 7;
        self.has(Flags::DEFLATE).then(|| WINDOW_BITS_MAX - smaller)
    }

    /// Clears a flag and says whether it was set before.
    #[inline]
    pub fn clear(&mut self, flag: u32) -> bool {
        let before = self.has(flag);
        self.flags.0 &= !flag;
        before
    }
}

impl Default for Cold {
    fn default() -> Self {
        let ip = Ipv6Addr::UNSPECIFIED.octets();
        Self { ip, port: 0, mapped: false, messages: 0, bytes: 0 }
    }
}

impl Cold {
    /// Remembers the peer's address.
    pub fn set_peer(&mut self, peer: SocketAddr) {
        let ip = peer.ip().to_canonical();
        self.mapped = ip.is_ipv4();
        self.ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        self.port = peer.port();
    }

    /// The peer's address; a mapped IPv4 address as IPv4.
    pub fn peer(&self) -> SocketAddr {
        let ip = Ipv6Addr::from(self.ip);
        let ip = if self.mapped { ip.to_canonical() } else { IpAddr::V6(ip) };
        SocketAddr::new(ip, self.port)
    }
}

/// The table of connections. See the module's text.
#[derive(Default)]
pub struct Slots {
    hot: SlotTable<Hot>,
    cold: SlotTable<Cold>,
    generation: u32,
}

impl Slots {
    /// Connections in the table.
    pub fn used(&self) -> u32 {
        self.hot.used()
    }

    /// Entries in a list with one for each connection above which some are of connections that are
    /// gone, so many that to take them out costs little for each.
    pub fn most_entries(&self) -> usize {
        2 * self.used() as usize + 64
    }

    /// Takes a free slot for a new connection and returns its record, fresh, with a generation no
    /// other connection of this core has had (in 2^32 connections).
    pub fn open(&mut self, slot: u32, phase: Phase) -> &mut Hot {
        // Zero is never a generation, so that an all-zero identifier names nothing.
        self.generation = self.generation.wrapping_add(1).max(1);
        self.cold.insert(slot, Cold::default());
        self.hot.insert(slot, Hot::new(self.generation, phase))
    }

    /// Gives a slot back. Its timer must be cancelled and its outbox taken before.
    pub fn free(&mut self, slot: u32) {
        let hot = self.hot.remove(slot);
        self.cold.remove(slot);
        debug_assert!(hot.is_some_and(|hot| hot.timer.due().is_none() && hot.outbox.is_none()));
    }

    /// The record of a slot that is in use.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&Hot> {
        self.hot.get(slot)
    }

    /// The record of a slot that is in use.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Hot> {
        self.hot.get_mut(slot)
    }

    /// The record of exactly this connection; `None` if it is gone.
    #[inline]
    pub fn lookup(&mut self, slot: u32, generation: u32) -> Option<&mut Hot> {
        self.get_mut(slot).filter(|hot| hot.generation == generation)
    }

    /// The record's seldom-read half.
    pub fn cold(&mut self, slot: u32) -> Option<&mut Cold> {
        self.cold.get_mut(slot)
    }

    /// Gives back the tables of chunks behind the last one in use.
    pub fn shrink(&mut self) {
        self.hot.shrink();
        self.cold.shrink();
    }

    /// Every connection, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Hot)> {
        self.hot.iter()
    }

    /// Visits the records of one chunk, and returns which chunk is next.
    pub(super) fn sweep(&mut self, chunk: usize, visit: impl FnMut(&mut Hot)) -> usize {
        self.hot.sweep(chunk, visit)
    }

    /// One past the highest slot that may be in use.
    pub fn end(&self) -> u32 {
        self.hot.end()
    }
}

impl Timers for Slots {
    #[inline]
    fn timer(&mut self, slot: u32) -> &mut Timer {
        match self.hot.get_mut(slot) {
            Some(hot) => &mut hot.timer,
            None => unreachable!("timers are only linked while their connection lives"),
        }
    }
}

/// End of a connection's list of subscriptions.
pub const NO_SUBSCRIPTION: u32 = u32::MAX;

const _: () = assert!(size_of::<Option<Hot>>() == 64, "the hot record is one cache line");
const _: () = assert!(size_of::<Option<Cold>>() == 28);
const _: () = assert!(size_of::<Pulse>() == 16, "a quarter of the hot record");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_generation_finds_nothing() {
        let mut slots = Slots::default();
        let first = slots.open(5000, Phase::Open).generation;
        assert!(slots.lookup(5000, first).is_some());
        slots.free(5000);
        assert!(slots.lookup(5000, first).is_none());
        slots.open(5000, Phase::Open);
        assert!(slots.lookup(5000, first).is_none());
        assert_eq!(slots.used(), 1);
    }

    #[test]
    fn framing_follows_from_flags() {
        let mut hot = Hot::new(1, Phase::Open);
        hot.set(Flags::CHATTY | Flags::STREAM);
        assert_eq!(hot.framing(), Framing::Chunks);
        hot.set(Flags::BARE | Flags::LINGER);
        assert_eq!(hot.framing(), Framing::Bare);
        hot.clear(Flags::STREAM | Flags::BARE);
        assert_eq!(hot.framing(), Framing::Frames);
        hot.set(Flags::CLIENT);
        assert_eq!(hot.framing(), Framing::Masked);
    }

    #[test]
    fn appetite_and_beats_are_told_apart() {
        let mut pace = Pace::default();
        for beat in 1..=15 {
            pace.set_appetite(beat % 8);
            pace.note_input(true);
            assert_eq!((pace.appetite(), pace.is_lively()), (beat % 8, beat == 15));
            if beat == 9 {
                let mut other = pace;
                other.note_input(false);
                assert_eq!((other.appetite(), other.is_lively()), (1, false));
            }
        }
        pace.set_appetite(7);
        pace.note_input(false);
        assert!(pace.is_lively() && pace.appetite() == 7, "once lively, always lively");
    }

    #[test]
    fn addresses_keep_their_family() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:443"] {
            let peer: SocketAddr = text.parse().unwrap();
            let mut cold = Cold::default();
            cold.set_peer(peer);
            assert_eq!(cold.peer(), peer);
        }
    }
}
