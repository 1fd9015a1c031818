//! The ceiling: the most memory that a configuration lets the process take, as a table.
//!
//! Each layer adds lines for what it holds; a line names the option that bounds it. The sum covers
//! user space: what the kernel keeps for sockets is bounded by `net.ipv4.tcp_mem` for the whole
//! host, and no process can promise less. Invariant: a line's figure is the bound that the code
//! enforces, never an estimate of use.

use std::fmt;

use super::config::{Config, Layout};
use super::inbox::RECEIVE_MAX;
use super::outbox::SEGMENT;
use super::secure::{RECORD_BYTES, STAGING_BYTES};
use super::slots::{Cold, Hot};
use crate::protocol::deflate::{DEFLATE_BYTES, INFLATE_BYTES, WINDOWS, payload_max};
use crate::tls::RecordLayer;

/// How often a line counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Once for each connection that the server admits.
    Connection,
    /// Once for each core.
    Core,
    /// Once.
    Process,
}

/// One bounded thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CeilingLine {
    /// What takes the memory.
    pub what: &'static str,
    /// The option that bounds it; empty if the bound is fixed.
    pub option: &'static str,
    /// How often it counts.
    pub per: Per,
    /// Bytes, each time.
    pub bytes: u64,
}

/// The table. [`Ceiling::total`] is the promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceiling {
    cores: u64,
    connections: u64,
    lines: Vec<CeilingLine>,
}

impl Ceiling {
    /// An empty table for a server of so many cores and connections.
    pub fn new(cores: u64, connections: u64) -> Self {
        Self { cores, connections, lines: Vec::new() }
    }

    /// Adds a line.
    pub fn add(&mut self, per: Per, what: &'static str, option: &'static str, bytes: u64) {
        self.lines.push(CeilingLine { what, option, per, bytes });
    }

    /// Adds the lines of TLS.
    #[cfg_attr(not(feature = "tls"), allow(private_interfaces, reason = "there is none then"))]
    pub fn add_tls(&mut self, layout: &Layout, option: &'static str, layer: RecordLayer) {
        let record = RECORD_BYTES + layer.bytes();
        let records = u64::from(layout.table) * record as u64;
        self.add(Per::Core, "record layers of TLS", option, records);
        let bytes = TLS_SETUP + STAGING_BYTES as u64;
        self.add(Per::Core, "certificates, records on their way", "", bytes);
    }

    /// The lines, in the order in which layers added them.
    pub fn lines(&self) -> &[CeilingLine] {
        &self.lines
    }

    /// How often a line counts, and its bytes all together.
    pub fn of(&self, line: &CeilingLine) -> (u64, u64) {
        let times = match line.per {
            Per::Connection => self.connections,
            Per::Core => self.cores,
            Per::Process => 1,
        };
        (times, line.bytes.saturating_mul(times))
    }

    /// Bytes of all lines, and of the allocator's slack; `u64::MAX` if one has no limit.
    pub fn total(&self) -> u64 {
        self.held().saturating_add(self.slack())
    }

    fn held(&self) -> u64 {
        self.lines.iter().fold(0, |sum, line| sum.saturating_add(self.of(line).1))
    }

    /// Free room in pages of the allocator that hold something: measured at up to a ninth of what
    /// is held, counted as an eighth.
    fn slack(&self) -> u64 {
        match self.held() {
            u64::MAX => u64::MAX,
            held => held / 8,
        }
    }
}

impl Config {
    /// What the engine takes of a server that is laid out so, for an application whose state is
    /// `state` bytes and whose configuration is written with these names: `named` translates a
    /// field of [`Config`] to the option that sets it.
    pub fn ceiling(
        &self,
        layout: &Layout,
        state: usize,
        named: impl Fn(&'static str) -> &'static str,
    ) -> Ceiling {
        let mut ceiling = Ceiling::new(layout.workers as u64, u64::from(layout.connections));
        let table = u64::from(layout.table);
        let records = RECORD + state as u64 + LISTS;
        ceiling.add(Per::Process, "the program, stacks, tables of the start", "", PROGRAM);
        ceiling.add(Per::Core, "ring, receive arena, wheel, histograms", "", CORE);
        ceiling.add(
            Per::Core,
            "records of connections, lists of a turn",
            named("max_connections"),
            table * records,
        );
        if self.max_per_address > 0 {
            ceiling.add(Per::Connection, "table of addresses", named("max_per_address"), ADDRESS);
        }
        let turn = self.turn_max();
        for (what, option, bytes) in [
            ("input that is not complete", "max_inbound", self.max_inbound + 2 * self.max_message),
            ("outboxes", "max_outboxes", self.max_outboxes),
            ("what one turn queues", "max_outboxes", 2 * turn + turn * PIECE / SEGMENT),
            ("letters between cores", "mailbox_bytes", 2 * self.mailbox_bytes),
        ] {
            ceiling.add(Per::Core, what, named(option), bytes as u64);
        }
        if let Some(keys) = &self.tls {
            ceiling.add_tls(layout, named("max_connections"), keys.record_layer());
        }
        if let Some(compression) = &self.compression {
            let states = WINDOWS * DEFLATE_BYTES + INFLATE_BYTES;
            // What is inflated, what is compressed, and how much longer a message may come than
            // it is, twice while it grows.
            let grown = payload_max(self.max_message) - self.max_message;
            let bytes = [self.max_message, compression.max_size, 2 * grown, RECEIVE_MAX];
            let bytes = bytes.into_iter().fold(states, usize::saturating_add);
            let what = "compressors, and what they work on";
            ceiling.add(Per::Core, what, named("compression"), bytes as u64);
        }
        ceiling
    }
}

/// The hot and the cold half of a connection's record.
const RECORD: u64 = (size_of::<Hot>() + size_of::<Cold>()) as u64;

/// Entries of a connection in the queues and marks of a turn: see the table in `engine`.
const LISTS: u64 = 256;

/// A slice of a send, for each segment.
const PIECE: usize = 16;

/// An entry of the table of addresses, in a hash table that is half full.
const ADDRESS: u64 = 2 * 17;

/// Of each core: 640 KiB of arena, 1 MiB of frames kept between turns, the ring's queues, the
/// wheel's buckets, histograms, a stack.
const CORE: u64 = 4 << 20;

/// Chains, keys and settings of handshakes: every core has its own, and two while they are
/// exchanged.
const TLS_SETUP: u64 = 512 << 10;

/// What is there before the first connection, in pages that are touched; with a control plane.
const PROGRAM: u64 = 32 << 20;

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "memory ceiling of {} cores and {} connections, without the kernel's part",
            self.cores, self.connections
        )?;
        writeln!(
            f,
            "{:<46} {:<34} {:>10}   {:>8} {:>10}",
            "what", "bound by", "each", "times", "all"
        )?;
        for line in &self.lines {
            let (times, all) = self.of(line);
            let option = if line.option.is_empty() { "fixed" } else { line.option };
            let (each, all) = (Size(line.bytes), Size(all));
            writeln!(f, "{:<46} {option:<34} {each:>10} x {times:>8} {all:>10}", line.what)?;
        }
        let (slack, total) = (Size(self.slack()), Size(self.total()));
        writeln!(
            f,
            "{:<46} {:<34} {:>10}   {:>8} {slack:>10}",
            "the allocator's slack", "an eighth", "", ""
        )?;
        write!(f, "{:<46} {:<34} {:>10}   {:>8} {total:>10}", "together", "", "", "")
    }
}

/// Bytes, in the largest unit that keeps three digits.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == u64::MAX {
            return f.pad("no limit");
        }
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let text = UNITS.iter().find(|(unit, _)| self.0 >= *unit).map_or_else(
            || format!("{} B", self.0),
            |(unit, name)| {
                let value = self.0 as f64 / *unit as f64;
                let digits = usize::from(value < 100.0 && !self.0.is_multiple_of(*unit));
                format!("{value:.digits$} {name}")
            },
        );
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_as_often_as_they_exist() {
        let mut ceiling = Ceiling::new(2, 1000);
        ceiling.add(Per::Connection, "records", "engine.max_connections", 96);
        ceiling.add(Per::Core, "inbound", "engine.max_inbound", 1 << 20);
        ceiling.add(Per::Process, "program", "", 8 << 20);
        let held = 96 * 1000 + 2 * (1 << 20) + (8 << 20);
        assert_eq!(ceiling.total(), held + held / 8);
        let text = ceiling.to_string();
        assert!(text.contains("engine.max_inbound"), "{text}");
        assert!(text.lines().last().unwrap().starts_with("together"), "{text}");
    }

    #[test]
    fn a_ceiling_without_bound_saturates() {
        let mut ceiling = Ceiling::new(2, 1000);
        ceiling.add(Per::Connection, "all", "", u64::MAX / 2);
        assert_eq!(ceiling.total(), u64::MAX);
    }

    #[test]
    fn sizes_are_read_at_a_glance() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (256 << 20, "256 MiB"),
            (300 << 30, "300 GiB"),
            (u64::MAX, "no limit"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
