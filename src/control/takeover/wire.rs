//! One end of the socket between two processes: words in, words out.
//!
//! Owns what was received and is not a whole word yet, and what is not sent. The invariant: neither
//! waits for the other, and a peer that takes nothing for [`STALL`] is noticed.

use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::gateway::handover::words::Word;

/// A peer that takes nothing for so long, or answers nothing, is given up.
pub(super) const STALL: Duration = Duration::from_secs(4);

/// Bytes that are not sent, beyond which nothing is added but what was asked for.
pub(super) const OUT_MAX: usize = 16 << 20;

/// Bytes received at once.
const CHUNK: usize = 256 << 10;

/// See the module's text.
pub(super) struct Wire {
    stream: UnixStream,
    received: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    /// When it last got rid of something, or had nothing to send.
    moved: Instant,
    /// When it last received something.
    pub(super) heard: Instant,
}

/// Why there is no more.
#[derive(Debug)]
pub(super) enum End {
    /// The peer has closed it.
    Closed,
    /// The peer says what is no word.
    Malformed,
    /// The peer takes nothing, or answers nothing.
    Stalled,
    /// The socket failed.
    Failed(io::Error),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("it has closed the socket"),
            Self::Malformed => f.write_str("it says what cannot be understood"),
            Self::Stalled => f.write_str("it does not go on"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl Wire {
    /// Over this socket.
    pub(super) fn new(stream: UnixStream) -> Self {
        let now = Instant::now();
        let (received, out) = (Vec::new(), Vec::new());
        Self { stream, received, out, sent: 0, moved: now, heard: now }
    }

    /// Queues a word.
    pub(super) fn say(&mut self, word: &Word) {
        if self.out.is_empty() {
            self.moved = Instant::now();
        }
        word.write(&mut self.out);
    }

    /// Queues words that are written already.
    pub(super) fn add(&mut self, words: Vec<u8>) {
        if self.out.is_empty() {
            (self.out, self.sent, self.moved) = (words, 0, Instant::now());
        } else {
            self.out.extend(words);
        }
    }

    /// Bytes that are not sent.
    pub(super) fn queued(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Waits until something can be received or sent.
    pub(super) async fn ready(&self) -> Result<(), End> {
        let interest = match self.queued() {
            0 => Interest::READABLE,
            _ => Interest::READABLE | Interest::WRITABLE,
        };
        self.stream.ready(interest).await.map(|_| ()).map_err(End::Failed)
    }

    /// Sends what the socket takes.
    pub(super) fn send(&mut self) -> Result<(), End> {
        while self.queued() > 0 {
            match self.stream.try_write(&self.out[self.sent..]) {
                Ok(sent) => {
                    self.sent += sent;
                    self.moved = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(End::Failed(error)),
            }
        }
        if self.queued() == 0 {
            self.out = Vec::new();
            self.sent = 0;
        } else if self.sent > OUT_MAX {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        match self.queued() > 0 && self.moved.elapsed() > STALL {
            true => Err(End::Stalled),
            false => Ok(()),
        }
    }

    /// Receives what there is, and hands on the words that are whole.
    pub(super) fn receive(&mut self, mut word: impl FnMut(Word)) -> Result<(), End> {
        let mut chunk = vec![0; CHUNK];
        let closed = loop {
            match self.stream.try_read(&mut chunk) {
                Ok(0) => break true,
                Ok(read) => {
                    self.heard = Instant::now();
                    self.received.extend(&chunk[..read]);
                    if self.received.len() >= 4 * CHUNK {
                        break false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) => return Err(End::Failed(error)),
            }
        };
        let mut rest = &self.received[..];
        while let Some(next) = Word::read(&mut rest).map_err(|_| End::Malformed)? {
            word(next);
        }
        let left = rest.len();
        self.received.drain(..self.received.len() - left);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        if closed { Err(End::Closed) } else { Ok(()) }
    }
}
