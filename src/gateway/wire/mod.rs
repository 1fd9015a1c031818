//! The client protocol as it travels: messages, codes, and the two encodings.
//!
//! Owns what a WebSocket message of the Centrifugo client protocol looks like, in JSON and in
//! Protobuf. Knows no connection, no channel and no clock; never decides what to answer. The
//! invariant: whatever bytes come in, decoding ends in commands or in an error, and takes memory
//! in proportion to the bytes: what is nested or repeated without need stays as it came, and maps
//! are counted while they come.
//!
//! [`decode`] gives the commands of one message one after the other. The `encode_` functions append
//! to a batch: what is in the buffer already is taken for the elements before.
//!
//! ```
//! use ringhold::gateway::wire::messages::{Reply, ReplyBody, UnsubscribeResult};
//! use ringhold::gateway::wire::{self, Encoding};
//!
//! let message = br#"{"id":1,"unsubscribe":{"channel":"news"}}"#;
//! let mut batch = Vec::new();
//! for command in wire::decode(Encoding::Json, message) {
//!     let body = Some(ReplyBody::Unsubscribe(UnsubscribeResult {}));
//!     wire::encode_reply(Encoding::Json, &Reply { id: command?.id, body }, &mut batch);
//! }
//! wire::encode_ping(Encoding::Json, &mut batch);
//! assert_eq!(batch, b"{\"id\":1,\"unsubscribe\":{}}\n{}");
//! # Ok::<(), wire::Malformed>(())
//! ```

pub mod codes;
mod json;
mod json_fields;
pub mod messages;
mod nullable;
mod object;
mod protobuf;
pub mod raw;
mod replies;
mod requests;

#[cfg(test)]
mod description_tests;

use std::fmt;

use bytes::Bytes;

pub use codes::{Disconnect, Error, Unsubscribe};
use messages::{ClientInfo, Command, ConnectRequest, EmulationRequest, Publication, Push, Reply};
pub use raw::is_json;

/// Entries of a map in a request. Each takes some 300 bytes, of five that it may have travelled in.
pub const ENTRIES_MAX: usize = 4096;

/// How a connection's messages are encoded. Fixed when the connection opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Objects with a newline between them, in text frames.
    Json,
    /// Messages, each after its length as a varint, in binary frames.
    Protobuf,
}

/// What is around a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Envelope {
    /// A reply without id, as clients that send commands expect it.
    Reply,
    /// Nothing, as unidirectional transports have it.
    Bare,
}

/// How a push names its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// By name.
    Channel(&'a str),
    /// By the number that the subscribe reply gave it; greater than 0.
    Id(i64),
}

/// What a publication carries to one kind of subscriber.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Its data, verbatim: for subscribers without delta.
    Verbatim,
    /// Its data to a subscriber with delta: in JSON a string that holds the text.
    Text,
    /// A patch against the publication before: in JSON a string, so it must be UTF-8
    /// (see [`delta::text_patch`](crate::gateway::delta::text_patch)).
    Patch(&'a Bytes),
}

/// Why a message holds no (further) command. Clients are closed with [`Disconnect::BAD_REQUEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Nothing in it.
    Empty,
    /// A length that is not a varint of 32 bits, or greater than what follows.
    Length,
    /// No JSON object, or one with values of the wrong kind.
    Json,
    /// No Protobuf message, or one with fields of the wrong kind.
    Protobuf,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the message is empty",
            Self::Length => "a length does not fit the message",
            Self::Json => "malformed JSON",
            Self::Protobuf => "malformed Protobuf",
        })
    }
}

impl std::error::Error for Malformed {}

/// The commands in one message, in order. Nothing comes after an error; the commands before it are
/// good.
pub fn decode(encoding: Encoding, message: &[u8]) -> Commands<'_> {
    let error = message.is_empty().then_some(Malformed::Empty);
    Commands { encoding, rest: message, error }
}

/// See [`decode`].
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    encoding: Encoding,
    /// What is not decoded yet; empty once there was an error.
    rest: &'a [u8],
    /// Known before anything was decoded.
    error: Option<Malformed>,
}

impl Commands<'_> {
    /// Whether nothing comes any more.
    pub fn is_done(&self) -> bool {
        self.rest.is_empty() && self.error.is_none()
    }

    /// Bytes at the end of the message that are not decoded yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }
}

/// Whether a message is nothing but the answer to a ping.
pub fn is_pong(encoding: Encoding, message: &[u8]) -> bool {
    match encoding {
        Encoding::Json => message.trim_ascii() == b"{}",
        Encoding::Protobuf => message == [0],
    }
}

impl Iterator for Commands<'_> {
    type Item = Result<Command, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        if self.rest.is_empty() {
            return None;
        }
        let decoded = match self.encoding {
            Encoding::Json => json::command(self.rest),
            Encoding::Protobuf => protobuf::command(self.rest),
        };
        match decoded {
            Ok((command, rest)) => {
                self.rest = rest;
                Some(Ok(command))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

/// The one request that a client of a unidirectional transport sends, without anything around it.
pub fn decode_connect(encoding: Encoding, request: &[u8]) -> Result<ConnectRequest, Malformed> {
    match encoding {
        Encoding::Json => json::object(request),
        Encoding::Protobuf => protobuf::connect(request),
    }
}

/// What a client of an emulated transport posts.
pub fn decode_emulation(encoding: Encoding, body: &[u8]) -> Result<EmulationRequest, Malformed> {
    match encoding {
        Encoding::Json => json::object(body),
        Encoding::Protobuf => protobuf::message(body),
    }
}

/// Appends a reply. Its raw fields must be JSON for a JSON client: see [`is_json`].
pub fn encode_reply(encoding: Encoding, reply: &Reply, batch: &mut Vec<u8>) {
    match encoding {
        Encoding::Json => json::reply(reply, batch),
        Encoding::Protobuf => protobuf::reply(reply, batch),
    }
}

/// The result of `presence` for these members, to be shared by all who ask.
pub fn encode_members(encoding: Encoding, members: impl Iterator<Item = ClientInfo>) -> Vec<u8> {
    match encoding {
        Encoding::Json => json::members(members),
        Encoding::Protobuf => protobuf::members(members),
    }
}

/// Appends the reply to `presence` with what [`encode_members`] made.
pub fn encode_presence(encoding: Encoding, id: u32, members: &[u8], batch: &mut Vec<u8>) {
    match encoding {
        Encoding::Json => json::presence(id, members, batch),
        Encoding::Protobuf => protobuf::presence(id, members, batch),
    }
}

/// Appends a push. Its raw fields must be JSON for a JSON client: see [`is_json`].
pub fn encode_push(encoding: Encoding, envelope: Envelope, push: &Push, batch: &mut Vec<u8>) {
    match encoding {
        Encoding::Json => json::push(envelope, push, batch),
        Encoding::Protobuf => protobuf::push(envelope, push, batch),
    }
}

/// Appends the push of a publication, which is not copied for it, and no separator before it. Its
/// raw fields must be JSON for a JSON client: see [`is_json`].
pub fn encode_publication(
    encoding: Encoding,
    envelope: Envelope,
    subject: Subject<'_>,
    publication: &Publication,
    payload: Payload<'_>,
    batch: &mut Vec<u8>,
) {
    let encode = match encoding {
        Encoding::Json => json::publication,
        Encoding::Protobuf => protobuf::publication,
    };
    encode(envelope, subject, publication, payload, batch);
}

/// Appends a ping: a reply with nothing in it.
pub fn encode_ping(encoding: Encoding, batch: &mut Vec<u8>) {
    match encoding {
        Encoding::Json => json::ping(batch),
        Encoding::Protobuf => protobuf::ping(batch),
    }
}
