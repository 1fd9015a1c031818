//! Which variant of the bare loop is measured: one flag per experiment, each off by default.
//!
//! Owns the command line of `floor` and the sizes that follow from it; touches no ring. Without
//! flags the loop is what the engine does. What the variants gave is in benches/NOTES.md.

use clap::{Parser, ValueEnum};

/// The floor of an echo, and variants of it.
#[derive(Parser)]
#[command(name = "floor")]
pub(crate) struct Variant {
    /// Port to serve on, on loopback.
    pub(crate) port: Option<u16>,
    /// Bytes of a message that buffers are made for.
    #[arg(default_value_t = 32)]
    pub(crate) payload: usize,
    /// How bytes are waited for and received.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) receive: Receive,
    /// Where buffers lie.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) buffers: Buffers,
    /// How answers are sent.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) send: Send,
    /// `plain`, or `min-wait=US`: waits so many microseconds for 32 completions (Linux 6.12).
    #[arg(long, default_value = "plain", value_parser = min_wait)]
    pub(crate) wait: MinWait,
    /// A kernel thread submits, and sleeps after so many idle milliseconds. It has the processors
    /// of this program.
    #[arg(long, value_name = "MS")]
    pub(crate) sqpoll: Option<u32>,
    /// Busy polling of network queues before sleeping, in microseconds (Linux 6.9).
    #[arg(long, value_name = "US")]
    pub(crate) napi: Option<u32>,
    /// When the handshake is read.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) accept: Accept,
    /// Instead of serving: so many wake-ups of another thread's ring, by an eventfd and by
    /// `IORING_OP_MSG_RING`.
    #[arg(long, value_name = "COUNT")]
    pub(crate) wakes: Option<u32>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
pub(crate) enum Receive {
    /// A multishot poll per connection, then one receive.
    #[default]
    Poll,
    /// A multishot receive per connection, into a ring of buffers.
    Multishot,
    /// Likewise, and receives share buffers (Linux 6.12).
    MultishotIncremental,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
pub(crate) enum Buffers {
    #[default]
    Heap,
    /// Transparent huge pages.
    Huge,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
pub(crate) enum Send {
    #[default]
    Plain,
    /// One `sendmsg` of as many pieces as messages.
    Gather,
    /// Likewise a bundle of provided buffers (Linux 6.10).
    Bundle,
    /// A write from a registered buffer.
    Registered,
    /// Zero-copy for answers of more than 4 KiB.
    ZeroCopy,
    /// Likewise, from registered buffers.
    ZeroCopyRegistered,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
pub(crate) enum Accept {
    /// When the connection is accepted, waiting for it.
    #[default]
    Blocking,
    /// When a poll says that it came.
    Polled,
    /// `TCP_DEFER_ACCEPT`: it is there when the connection is accepted.
    Deferred,
}

/// Microseconds to wait for more than one completion, if any.
pub(crate) type MinWait = Option<u32>;

fn min_wait(text: &str) -> Result<Option<u32>, String> {
    match text.strip_prefix("min-wait=").map(str::parse) {
        Some(Ok(us)) => Ok(Some(us)),
        None if text == "plain" => Ok(None),
        _ => Err("write `plain` or `min-wait=US`".to_owned()),
    }
}

impl Variant {
    /// From the command line. One that does not begin with a port is for other benches, as `cargo
    /// bench` gives it to all: says so.
    pub(crate) fn from_arguments() -> Option<Self> {
        let is_ours =
            |it: &String| it.parse::<u16>().is_ok() || it == "--help" || it.starts_with("--wakes");
        if !std::env::args().skip(1).find(|it| it != "--bench").is_some_and(|it| is_ours(&it)) {
            println!("floor: give a port to serve on, e.g. `cargo bench --bench floor -- 9002`");
            return None;
        }
        let variant = Self::parse();
        if variant.accept == Accept::Polled && variant.receive != Receive::Poll {
            eprintln!("floor: --accept polled goes with --receive poll only");
            return None;
        }
        Some(variant)
    }

    /// Bytes of a buffer, and how many there are; each has room for a header before its data.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let message = self.payload + 2 * crate::HEADER_MAX;
        match self.receive {
            Receive::Poll => {
                let buffer = message.clamp(crate::BUFFER_MIN, crate::BUFFER_MAX);
                (buffer, (TOGETHER / buffer).clamp(crate::BATCH_MIN, crate::BATCH_MAX))
            }
            // Every receive takes a whole buffer, so these are small and many.
            Receive::Multishot => {
                let buffer = message.clamp(512, 32 * 1024);
                (buffer, 2 * TOGETHER / buffer)
            }
            Receive::MultishotIncremental => (64 * 1024, 2 * TOGETHER / (64 * 1024)),
        }
    }

    /// Bytes of an answer to one message.
    pub(crate) fn answer(&self) -> usize {
        match self.payload {
            0..=125 => self.payload + 2,
            126..=65_535 => self.payload + 4,
            _ => self.payload + 10,
        }
    }
}

/// Bytes of all buffers: half of the second-level cache of a common processor.
const TOGETHER: usize = 1024 * 1024;
