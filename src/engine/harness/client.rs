//! Both ends of a connection in memory, and the client that a test holds.
//!
//! The invariant: a client that reads has read, decoded and answered what the server sent before
//! the server's turn goes on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::engine::ring::Errno;
use crate::protocol::close::write_payload;
use crate::protocol::frame::{self, Opcode};
use crate::protocol::{CloseCode, Decoder, Event, Kind, Partial, Role};

/// A message or an end that a client received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// The server's close frame, which the client has answered.
    Close(CloseCode, String),
    /// The end of the connection.
    End,
}

/// An answer without an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// Names and values of the headers, in their order.
    pub headers: Vec<(String, String)>,
    /// What followed the head so far, as it came: chunks of a stream with their frames.
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A client of a [`World`](super::World). What it does reaches the server with
/// [`World::run`](super::World::run). It answers pings and the close frame; dropping it changes
/// nothing.
#[derive(Debug)]
pub struct Client {
    pub(super) pipe: Rc<RefCell<Pipe>>,
}

impl Client {
    pub(super) fn new(peer: SocketAddr) -> Self {
        Self { pipe: Rc::new(RefCell::new(Pipe::new(peer))) }
    }

    /// Its address, as the server sees it.
    pub fn address(&self) -> SocketAddr {
        self.pipe.borrow().peer
    }

    /// Sends a text message.
    pub fn text(&self, text: &str) {
        self.pipe.borrow_mut().frame(Opcode::Text, text.as_bytes());
    }

    /// Sends a binary message.
    pub fn binary(&self, payload: &[u8]) {
        self.pipe.borrow_mut().frame(Opcode::Binary, payload);
    }

    /// Sends bytes as they are, whatever they mean.
    pub fn bytes(&self, bytes: &[u8]) {
        self.pipe.borrow_mut().send(bytes);
    }

    /// Starts the close handshake.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.pipe.borrow_mut().close(code, reason);
    }

    /// Ends the connection without a close frame.
    pub fn leave(&self) {
        self.pipe.borrow_mut().leave();
    }

    /// Reads what the server sends, as clients do from the beginning, or leaves it: then the
    /// server's kernel takes 64 KiB, and its peer is slow.
    pub fn set_reading(&self, reads: bool) {
        let mut pipe = self.pipe.borrow_mut();
        pipe.reads = reads;
        pipe.read();
    }

    /// Answers pings, as clients do from the beginning, or lets them be: then it seems dead.
    pub fn set_answering(&self, answers: bool) {
        self.pipe.borrow_mut().answers = answers;
    }

    /// The next of what came.
    pub fn next(&self) -> Option<Received> {
        self.pipe.borrow_mut().received.pop_front()
    }

    /// The next message, which must be text if there is one.
    ///
    /// # Panics
    ///
    /// If something else came.
    pub fn next_text(&self) -> Option<String> {
        match self.next()? {
            Received::Text(text) => Some(text),
            other => panic!("no text: {other:?}"),
        }
    }

    /// How many pings came.
    pub fn pings(&self) -> u64 {
        self.pipe.borrow().pings
    }

    /// Whether the server has ended the connection.
    pub fn is_ended(&self) -> bool {
        self.pipe.borrow().ended
    }

    /// The head of the server's answer, and what is there of its body; `None` until the head is
    /// whole.
    pub fn answer(&self) -> Option<HttpAnswer> {
        self.pipe.borrow().answer.clone()
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) peer: SocketAddr,
    /// Sent by the client and not received by the server.
    pub(super) inbound: VecDeque<u8>,
    /// How often something came for the server.
    pub(super) arrivals: u64,
    /// The client has said all.
    pub(super) left: bool,
    /// Sent by the server and not read by the client.
    outbound: Vec<u8>,
    reads: bool,
    answers: bool,
    ended: bool,
    close_sent: bool,
    answer: Option<HttpAnswer>,
    partial: Option<Box<Partial>>,
    received: VecDeque<Received>,
    pings: u64,
}

impl Pipe {
    fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            inbound: VecDeque::new(),
            arrivals: 0,
            left: false,
            outbound: Vec::new(),
            reads: true,
            answers: true,
            ended: false,
            close_sent: false,
            answer: None,
            partial: None,
            received: VecDeque::new(),
            pings: 0,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        if !self.left && !self.ended {
            self.inbound.extend(bytes);
            self.arrivals += 1;
        }
    }

    fn frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, opcode, payload, Some(*b"mask"));
        self.send(&bytes);
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        if !std::mem::replace(&mut self.close_sent, true) {
            let mut payload = [0; 125];
            let len = write_payload(&mut payload, code, reason);
            self.frame(Opcode::Close, &payload[..len]);
        }
    }

    fn leave(&mut self) {
        self.left = true;
        self.arrivals += 1;
    }

    /// Whether a receive would find something: bytes, or the end.
    pub(super) fn is_readable(&self) -> bool {
        !self.inbound.is_empty() || self.left
    }

    /// Whether a send would find room.
    pub(super) fn is_writable(&self) -> bool {
        self.room() > 0
    }

    /// Bytes that the server sent and the client has not read.
    pub(super) fn unread(&self) -> usize {
        self.outbound.len()
    }

    fn room(&self) -> usize {
        if self.reads { usize::MAX } else { WINDOW.saturating_sub(self.outbound.len()) }
    }

    /// The server sends.
    pub(super) fn take(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
        if self.left {
            return Err(Errno(libc::EPIPE));
        }
        let mut taken = 0;
        for piece in pieces {
            let part = &piece[..piece.len().min(self.room())];
            self.outbound.extend_from_slice(part);
            taken += part.len();
        }
        self.read();
        Ok(taken)
    }

    /// The server ends the connection.
    pub(super) fn end(&mut self) {
        self.read();
        if !std::mem::replace(&mut self.ended, true) {
            self.received.push_back(Received::End);
        }
    }

    fn read(&mut self) {
        if !self.reads {
            return;
        }
        if self.answer.is_none() {
            let Some((answer, len)) = parse(&self.outbound) else { return };
            self.outbound.drain(..len);
            self.answer = Some(answer);
        }
        let mut bytes = std::mem::take(&mut self.outbound);
        match &mut self.answer {
            Some(answer) if answer.status == 101 => self.decode(&mut bytes),
            Some(answer) => answer.body.append(&mut bytes),
            None => {}
        }
    }

    fn decode(&mut self, bytes: &mut [u8]) {
        let decoder =
            Decoder { role: Role::Client, max_message: usize::MAX, max_fragments: u32::MAX };
        let mut at = 0;
        loop {
            let event = decoder.decode(&mut self.partial, bytes, &mut at);
            match event.unwrap_or_else(|fault| panic!("the server broke the protocol: {fault}")) {
                None => return,
                Some(Event::Message(Kind::Text, payload)) => {
                    let text = String::from_utf8_lossy(payload.bytes(bytes)).into_owned();
                    self.received.push_back(Received::Text(text));
                }
                Some(Event::Message(Kind::Binary, payload)) => {
                    self.received.push_back(Received::Binary(payload.bytes(bytes).to_vec()));
                }
                Some(Event::Ping(payload)) => {
                    self.pings += 1;
                    if self.answers {
                        let payload = payload.bytes(bytes).to_vec();
                        self.frame(Opcode::Pong, &payload);
                    }
                }
                Some(Event::Pong(_)) => {}
                Some(Event::Close(close)) => {
                    self.received.push_back(Received::Close(close.code, close.reason));
                    self.close(close.code, "");
                    return self.leave_behind();
                }
            }
        }
    }

    /// RFC 6455 section 7.1.1: the server ends the connection first; the client says no more.
    fn leave_behind(&mut self) {
        self.answers = false;
    }
}

/// The head of an answer, and its length, once it is whole. Interim answers are skipped.
fn parse(bytes: &[u8]) -> Option<(HttpAnswer, usize)> {
    let mut skipped = 0;
    loop {
        let mut lines = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut lines);
        let parsed = response.parse(&bytes[skipped..]).expect("the server writes HTTP");
        let httparse::Status::Complete(len) = parsed else { return None };
        let status = response.code.unwrap_or_default();
        if status == 100 {
            skipped += len;
            continue;
        }
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let lines = response.headers.iter();
        let headers = lines.map(|line| (line.name.to_owned(), text(line.value))).collect();
        return Some((HttpAnswer { status, headers, body: Vec::new() }, skipped + len));
    }
}

/// Send buffer of a client that does not read, in bytes.
const WINDOW: usize = 64 * 1024;
