//! One client connection: frames out, events in, and every echo compared with what was sent.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use ringhold::Kind;
use ringhold::protocol::frame::{self, HEADER_MAX, Header, Opcode};
use ringhold::protocol::{CloseCode, CloseFrame, Decoder, Event, Partial, Role, mask};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::dice::Dice;
use super::plan::SIZE_MAX;
use super::tally::Tally;

/// An open connection.
pub(crate) struct Peer<'a> {
    pub(crate) stream: TcpStream,
    pub(crate) dice: Dice,
    tally: &'a Tally,
    /// Bytes to write, and how many of them are written.
    out: Vec<u8>,
    written: usize,
    /// So far may be written for now.
    gate: usize,
    partial: Option<Box<Partial>>,
    expected: VecDeque<Expected>,
    pings: VecDeque<u64>,
    /// Pings that a newer one's pong overtook. Theirs may follow, or never come.
    overtaken: Vec<u64>,
    /// Pings are answered.
    pub(crate) answers: bool,
    /// A close frame is answered, too.
    pub(crate) answers_close: bool,
    pub(crate) reads: bool,
    close_sent: bool,
    pub(crate) closed: Option<CloseFrame>,
    pub(crate) over: Option<Over>,
}

/// A message that must come back.
struct Expected {
    kind: Kind,
    range: Range<usize>,
    since: Instant,
}

/// How the server's direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    End,
    Reset,
}

/// Why [`Peer::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// What was waited for is there.
    Done,
    /// The time has come.
    Time,
    /// The connection is over.
    Over,
    /// The run ends.
    Stop,
}

/// What messages are cut from, so that comparing needs no copy of what was sent.
static BINARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dice = Dice::new(7, 7);
    (0..2 * SIZE_MAX / 8).flat_map(|_| dice.draw().to_le_bytes()).collect()
});

static TEXT: LazyLock<String> = LazyLock::new(|| {
    let mut dice = Dice::new(8, 8);
    let mut text = String::new();
    while text.len() < 2 * SIZE_MAX {
        match dice.below(8) {
            0 => text.push_str(["é", "κόσμε", "水", "🦀", "\0", "\u{10ffff}"][dice.below(6)]),
            _ => text.push((b' ' + dice.below(95) as u8) as char),
        }
    }
    text
});

fn source(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Text => TEXT.as_bytes(),
        Kind::Binary => &BINARY,
    }
}

/// Some `len` bytes, or up to three less where a character would be cut.
fn cut(dice: &mut Dice, kind: Kind, len: usize) -> Range<usize> {
    let mut start = dice.below(SIZE_MAX);
    let mut end = start + len;
    if kind == Kind::Text {
        start = (start..=end).find(|at| TEXT.is_char_boundary(*at)).unwrap_or(end);
        end = (start..=end).rev().find(|at| TEXT.is_char_boundary(*at)).unwrap_or(start);
    }
    start..end
}

const DECODER: Decoder = Decoder { role: Role::Client, max_message: SIZE_MAX, max_fragments: 1 };

thread_local! {
    /// Received into by all connections of a thread, one at a time.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

impl<'a> Peer<'a> {
    pub(crate) fn new(stream: TcpStream, dice: Dice, tally: &'a Tally) -> Self {
        tally.opened.add(1);
        tally.held.add(1);
        Self {
            stream,
            dice,
            tally,
            out: Vec::new(),
            written: 0,
            gate: usize::MAX,
            partial: None,
            expected: VecDeque::new(),
            pings: VecDeque::new(),
            overtaken: Vec::new(),
            answers: true,
            answers_close: true,
            reads: true,
            close_sent: false,
            closed: None,
            over: None,
        }
    }

    /// Queues a message of some kind and size, whole or in fragments, maybe with pings between.
    pub(crate) fn message(&mut self, size: usize) {
        let kind = if self.dice.chance(500) { Kind::Text } else { Kind::Binary };
        let range = cut(&mut self.dice, kind, size);
        let payload = &source(kind)[range.clone()];
        let pieces = if self.dice.chance(150) { 2 + self.dice.below(5) } else { 1 };
        let mut opcode = if kind == Kind::Text { Opcode::Text } else { Opcode::Binary };
        let mut at = 0;
        for piece in 1..=pieces {
            let fin = piece == pieces;
            let rest = payload.len() - at;
            let len = if fin { rest } else { self.dice.below(rest + 1) };
            self.frame(fin, opcode, &payload[at..at + len]);
            at += len;
            opcode = Opcode::Continuation;
            if !fin && self.dice.chance(200) {
                self.ping();
            }
        }
        self.expected.push_back(Expected { kind, range, since: Instant::now() });
        self.tally.sent.add(1);
    }

    pub(crate) fn ping(&mut self) {
        let number = self.dice.draw();
        self.frame(true, Opcode::Ping, &number.to_be_bytes());
        self.pings.push_back(number);
    }

    /// Queues a close frame, the last of ours.
    pub(crate) fn close(&mut self, code: CloseCode, reason: &str) {
        let mut payload = [0; 125];
        let len = ringhold::protocol::close::write_payload(&mut payload, code, reason);
        self.frame(true, Opcode::Close, &payload[..len]);
        self.close_sent = true;
    }

    pub(crate) fn frame(&mut self, fin: bool, opcode: Opcode, payload: &[u8]) {
        let mask = self.dice.mask();
        let mut bytes = [0; HEADER_MAX];
        let len = payload.len() as u64;
        let used = Header { fin, opcode, mask: Some(mask), len }.write(&mut bytes);
        self.raw(&bytes[..used]);
        mask::append(&mut self.out, payload, mask);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A frame of which only a part will ever be written.
    pub(crate) fn part_of_frame(&mut self) {
        let before = self.out.len();
        let size = 1 + self.dice.size();
        frame::append(&mut self.out, Opcode::Binary, &BINARY[..size], Some([1, 2, 3, 4]));
        let part = 1 + self.dice.below(self.out.len() - before - 1);
        self.out.truncate(before + part);
    }

    /// Lets only some of what is queued be written for now.
    pub(crate) fn hold_some(&mut self) {
        let waiting = self.out.len() - self.written;
        self.gate = self.written + self.dice.below(waiting + 1);
    }

    pub(crate) fn hold_none(&mut self) {
        self.gate = usize::MAX;
    }

    /// Everything queued is written.
    pub(crate) fn is_written(&self) -> bool {
        self.written == self.out.len()
    }

    /// Everything sent came back.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_written() && self.expected.is_empty() && self.pings.is_empty()
    }

    /// Since when the oldest message has been waiting for its echo.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.expected.front().map(|expected| expected.since)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.expected.len()
    }

    /// Reads and writes until `done`, at most until `deadline`.
    pub(crate) async fn run(
        &mut self,
        deadline: Instant,
        stop: Option<&mut watch::Receiver<bool>>,
        done: impl Fn(&Self) -> bool,
    ) -> Result<Woken, String> {
        let stopped = async {
            match stop {
                // An error means that the run is over, too.
                Some(stop) => drop(stop.wait_for(|stop| *stop).await),
                None => std::future::pending().await,
            }
        };
        tokio::pin!(stopped);
        loop {
            if done(self) {
                return Ok(Woken::Done);
            }
            if self.over.is_some() {
                return Ok(Woken::Over);
            }
            let writes = self.written < self.out.len().min(self.gate);
            let interest = match (self.reads, writes) {
                (true, true) => Interest::READABLE | Interest::WRITABLE,
                (true, false) => Interest::READABLE,
                (false, true) => Interest::WRITABLE,
                (false, false) => Interest::ERROR,
            };
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(Woken::Stop),
                () = sleep_until(deadline) => return Ok(Woken::Time),
                ready = self.stream.ready(interest) => {
                    let ready = ready.map_err(|error| format!("no readiness: {error}"))?;
                    let (ended, failed) = (ready.is_read_closed(), ready.is_error());
                    if self.reads && (ready.is_readable() || ended || failed) {
                        self.read()?;
                    } else if failed {
                        self.over = Some(Over::Reset);
                    }
                    if writes {
                        self.write();
                    }
                }
            }
        }
    }

    fn write(&mut self) {
        while self.written < self.out.len().min(self.gate) {
            let end = self.out.len().min(self.gate);
            match self.stream.try_write(&self.out[self.written..end]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // What the server said before it went may still be there to read.
                    self.written = self.out.len();
                    if !self.reads {
                        self.over = Some(Over::Reset);
                    }
                }
            }
        }
        if self.is_written() {
            self.out = Vec::new();
            self.written = 0;
        }
    }

    fn read(&mut self) -> Result<(), String> {
        SCRATCH.with_borrow_mut(|scratch| {
            // Bounded, so that other connections have their turn.
            for _ in 0..8 {
                match self.stream.try_read(scratch) {
                    Ok(0) => self.over = Some(Over::End),
                    Ok(count) => {
                        self.decode(&mut scratch[..count])?;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => self.over = Some(Over::Reset),
                }
                break;
            }
            Ok(())
        })
    }

    /// Bytes that came with the answer to the handshake, or later.
    pub(crate) fn decode(&mut self, input: &mut [u8]) -> Result<(), String> {
        let mut at = 0;
        while at < input.len() {
            if self.closed.is_some() {
                return Err(format!("{} bytes behind the close frame", input.len() - at));
            }
            let event = DECODER.decode(&mut self.partial, input, &mut at);
            match event.map_err(|fault| format!("the server broke the protocol: {fault:?}"))? {
                None => break,
                Some(Event::Message(kind, payload)) => self.echo(kind, payload.bytes(input))?,
                Some(Event::Ping(payload)) => {
                    if self.answers && !self.close_sent {
                        self.frame(true, Opcode::Pong, payload.bytes(input));
                    }
                }
                Some(Event::Pong(payload)) => self.pong(payload.bytes(input))?,
                Some(Event::Close(frame)) => {
                    if self.answers && self.answers_close && !self.close_sent {
                        self.close(frame.code, "");
                    }
                    self.closed = Some(frame);
                }
            }
        }
        Ok(())
    }

    fn echo(&mut self, kind: Kind, payload: &[u8]) -> Result<(), String> {
        let Some(expected) = self.expected.pop_front() else {
            return Err(format!("a message of {} bytes that was never sent", payload.len()));
        };
        let sent = &source(expected.kind)[expected.range];
        if kind != expected.kind || payload != sent {
            let same = payload.iter().zip(sent).take_while(|(a, b)| a == b).count();
            return Err(format!(
                "sent {:?} of {} bytes, received {kind:?} of {}, the same up to byte {same}",
                expected.kind,
                sent.len(),
                payload.len()
            ));
        }
        self.tally.echoed.add(1);
        self.tally.echoed_bytes.add(sent.len());
        Ok(())
    }

    /// A newer ping may be answered in place of an older one (RFC 6455 section 5.5.3), and a pong
    /// may overtake what waits for a peer that was not reading, other pongs included.
    fn pong(&mut self, payload: &[u8]) -> Result<(), String> {
        let number = payload.try_into().map(u64::from_be_bytes).ok();
        if let Some(at) = self.pings.iter().position(|ping| Some(*ping) == number) {
            self.overtaken.extend(self.pings.drain(..=at).take(at));
        } else if let Some(at) = self.overtaken.iter().position(|ping| Some(*ping) == number) {
            self.overtaken.swap_remove(at);
        } else {
            return Err(format!("a pong to no ping of ours: {payload:?}"));
        }
        self.tally.pongs.add(1);
        Ok(())
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        self.tally.held.subtract(1);
    }
}

/// Long enough for what should take no time at all, on a machine that does other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
