//! The record layer of a connection whose handshake is done: opens what arrives, seals what leaves,
//! and answers what the protocol itself asks. Both versions, both roles.
//!
//! Knows no descriptor, no clock, no buffer of its own: records are opened where they lie, and
//! sealed to the end of a vector.
//!
//! Invariant: after a [`Fault`] nothing opens any more, and after an alert of ours nothing is
//! sealed. A connection costs the 176 bytes of [`Own`], asserted below.

use std::ops::Range;

#[cfg(test)]
use super::direction::expand_label;
use super::direction::{
    APPLICATION_DATA, Aead, CONTENT_MAX, Direction, HEADER, SECRET, Shape, Version,
};
use super::fault::{CLOSE_NOTIFY, Fault, NO_RENEGOTIATION, USER_CANCELED};
#[cfg(test)]
use super::post_handshake::NEW_SESSION_TICKET;
use super::post_handshake::{KEY_UPDATE, PostHandshake};

/// Both directions of one connection.
pub(super) struct Own {
    read: Direction<Inward>,
    write: Direction<Outward>,
}

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that was dialled.
    Server,
    /// The one that dialled.
    Client,
}

/// How much of what costs only us a peer may send, and how long a key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records under one AES-GCM key, then comes another. Half of what rustls allows, which is 2^24
    /// for an advantage of 2^-60.
    pub records_per_key: u64,
    /// KeyUpdates of the peer without data between them. rustls has 32, too.
    pub key_updates: u8,
    /// Empty records of the peer without data between them. BoringSSL has 32, too.
    pub empty_records: u8,
    /// Warnings of the peer in all. rustls has 4, too.
    pub warnings: u8,
}

/// What a record held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Data, at this place of the record. Never empty.
    Data(Range<usize>),
    /// Something of the protocol. [`Record::owes`](super::Record::owes) tells whether it wants an
    /// answer.
    Nothing,
    /// Messages behind the handshake that a client may look at, or a piece of one: tickets and
    /// KeyUpdates. What they mean for records is done; else as `Nothing`.
    Messages(Range<usize>),
    /// The peer's end: no data follows.
    Closed,
}

/// What is counted of the peer.
struct Inward {
    /// In a row, without data between.
    key_updates: u8,
    /// In a row, without data between.
    empty_records: u8,
    warnings: u8,
    flags: u8,
}

struct Outward {
    version: Version,
    /// What there is of a message after the handshake.
    post_handshake: PostHandshake,
}

/// The peer said close_notify.
const END: u8 = 1 << 0;
/// A fault ended reading.
const BROKEN: u8 = 1 << 1;
/// An alert of ours ended writing.
const SHUT: u8 = 1 << 2;
/// The peer asked for a KeyUpdate.
const OWES_KEY_UPDATE: u8 = 1 << 3;
/// The peer asked for renegotiation.
const OWES_REFUSAL: u8 = 1 << 4;
/// It was told that there is none.
const REFUSED: u8 = 1 << 5;
/// We dialled.
const CLIENT: u8 = 1 << 6;
/// The AEAD is ChaCha20-Poly1305, else AES-128-GCM.
const CHACHA20: u8 = 1 << 7;

const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
/// Content, type and tag of TLS 1.3, padding included (RFC 8446 section 5.2). TLS 1.2 would allow
/// 2,048 bytes around the content; its AEADs here use 24.
pub(super) const BODY_MAX: usize = CONTENT_MAX + 256;
/// The longest record on the wire.
pub const RECORD_MAX: usize = HEADER + BODY_MAX;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const WARNING: u8 = 1;
pub(super) const FATAL: u8 = 2;

const _: () = assert!(size_of::<Own>() == 176);

/// The length of the record that `bytes` begin with, header included; `None` while the header is
/// not there. For connections whose handshake is done: see [`super::greet::length`] for others.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    match bytes.first() {
        Some(kind @ (..CHANGE_CIPHER_SPEC | 24..)) => return Err(Fault::RecordType(*kind)),
        Some(_) => {}
        None => return Ok(None),
    }
    let Some(&[_, major, minor, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    if [major, minor] != [3, 3] {
        return Err(Fault::RecordVersion(u16::from_be_bytes([major, minor])));
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > BODY_MAX { Err(Fault::RecordLength) } else { Ok(Some(HEADER + len)) }
}

impl Own {
    /// The record layer over keys that a handshake left. `None` if a length is wrong.
    pub(super) fn new(role: Role, shape: Shape, read: Keys<'_>, write: Keys<'_>) -> Option<Self> {
        let outward = Outward { version: shape.version, post_handshake: PostHandshake::default() };
        let Keys { secret, key, iv, next } = read;
        let read = Direction::new(shape.aead, secret, key, iv, next, Inward::of(role, shape.aead))?;
        let Keys { secret, key, iv, next } = write;
        let write = Direction::new(shape.aead, secret, key, iv, next, outward)?;
        Some(Self { read, write })
    }

    /// The record layer of TLS 1.3 over two traffic secrets, from their first records on: for
    /// simulations and vectors. A server reads what `client` protects.
    pub(super) fn from_secrets(role: Role, aead: Aead, client: [u8; 32], server: [u8; 32]) -> Self {
        const { assert!(SECRET == 32) };
        let (read, write) = match role {
            Role::Server => (client, server),
            Role::Client => (server, client),
        };
        let shape = Shape { version: Version::Tls13, aead };
        let outward = Outward { version: shape.version, post_handshake: PostHandshake::default() };
        Self {
            read: Direction::of_secret(aead, read, Inward::of(role, shape.aead)),
            write: Direction::of_secret(aead, write, outward),
        }
    }

    /// Version and AEAD.
    pub(super) fn shape(&self) -> Shape {
        let aead = if self.has(CHACHA20) { Aead::ChaCha20Poly1305 } else { Aead::Aes128Gcm };
        Shape { version: self.write.tally.version, aead }
    }

    /// Opens one whole record, as long as [`length`] says, in place.
    ///
    /// After a fault, [`Own::refuse`] makes its alert.
    pub(super) fn open(&mut self, limits: &Limits, record: &mut [u8]) -> Result<Opened, Fault> {
        if self.has(BROKEN) {
            return Err(Fault::Closed);
        }
        // RFC 8446 section 6.1: what follows the end is ignored.
        if self.has(END) {
            return Ok(Opened::Closed);
        }
        let opened = self.open_and_judge(limits, record);
        match &opened {
            Ok(Opened::Closed) => self.set(END),
            Ok(_) => {}
            Err(_) => self.set(BROKEN),
        }
        opened
    }

    fn open_and_judge(&mut self, limits: &Limits, record: &mut [u8]) -> Result<Opened, Fault> {
        if length(record)? != Some(record.len()) {
            return Err(Fault::RecordLength);
        }
        let shape = self.shape();
        let in_order = match shape.version {
            Version::Tls13 => record[0] == APPLICATION_DATA,
            Version::Tls12 => record[0] != CHANGE_CIPHER_SPEC,
        };
        if !in_order {
            return Err(Fault::RecordType(record[0]));
        }
        let (kind, content) = self.read.open(shape, record)?;
        // RFC 8446 section 5.1: no data between the pieces of a message.
        if self.write.tally.post_handshake.is_begun() && !matches!(kind, HANDSHAKE | ALERT) {
            return Err(Fault::RecordType(kind));
        }
        match kind {
            APPLICATION_DATA if content.is_empty() => {
                count(&mut self.read.tally.empty_records, limits.empty_records)
                    .ok_or(Fault::EmptyRecords)?;
                Ok(Opened::Nothing)
            }
            APPLICATION_DATA => {
                self.read.tally.key_updates = 0;
                self.read.tally.empty_records = 0;
                Ok(Opened::Data(content))
            }
            ALERT => self.on_alert(limits, &record[content]),
            HANDSHAKE if shape.version == Version::Tls13 => {
                self.on_handshake(limits, &record[content.clone()])?;
                Ok(if self.has(CLIENT) { Opened::Messages(content) } else { Opened::Nothing })
            }
            HANDSHAKE => self.on_renegotiation(&record[content]),
            kind => Err(Fault::RecordType(kind)),
        }
    }

    fn on_alert(&mut self, limits: &Limits, alert: &[u8]) -> Result<Opened, Fault> {
        let &[level, code] = alert else {
            // RFC 8446 section 5.4: no empty ones.
            return Err(if alert.is_empty() { Fault::NoContent } else { Fault::AlertForm });
        };
        if code == CLOSE_NOTIFY {
            return Ok(Opened::Closed);
        }
        // TLS 1.3 gives levels no meaning; of its alerts, only one more is not fatal.
        let warns = match self.shape().version {
            Version::Tls13 => code == USER_CANCELED,
            Version::Tls12 if level != WARNING && level != FATAL => return Err(Fault::AlertForm),
            Version::Tls12 => level == WARNING,
        };
        if !warns {
            return Err(Fault::Alert(code));
        }
        count(&mut self.read.tally.warnings, limits.warnings).ok_or(Fault::Warnings)?;
        Ok(Opened::Nothing)
    }

    /// Messages of TLS 1.3 after the handshake.
    fn on_handshake(&mut self, limits: &Limits, content: &[u8]) -> Result<(), Fault> {
        if content.is_empty() {
            // RFC 8446 section 5.1: no empty fragments of these.
            return Err(Fault::NoContent);
        }
        let client = self.has(CLIENT);
        let Some(asks) = self.write.tally.post_handshake.take(client, content)? else {
            // A ticket, or a piece, is an empty record for us.
            count(&mut self.read.tally.empty_records, limits.empty_records)
                .ok_or(Fault::EmptyRecords)?;
            return Ok(());
        };
        count(&mut self.read.tally.key_updates, limits.key_updates).ok_or(Fault::KeyUpdates)?;
        self.read.advance(self.shape().aead);
        if asks {
            self.set(OWES_KEY_UPDATE);
        }
        Ok(())
    }

    /// TLS 1.2: the peer wants another handshake, and hears once that there is none.
    fn on_renegotiation(&mut self, content: &[u8]) -> Result<Opened, Fault> {
        let asks = if self.has(CLIENT) { HELLO_REQUEST } else { CLIENT_HELLO };
        match content.first() {
            Some(kind) if *kind == asks && !self.has(OWES_REFUSAL | REFUSED) => {
                self.set(OWES_REFUSAL);
                Ok(Opened::Nothing)
            }
            Some(kind) if *kind == asks => Err(Fault::Renegotiation),
            Some(kind) => Err(Fault::HandshakeMessage(*kind)),
            None => Err(Fault::NoContent),
        }
    }

    /// Whether the peer waits for an answer of the protocol ([`Own::settle`]).
    pub(super) fn owes(&self) -> bool {
        self.has(OWES_KEY_UPDATE | OWES_REFUSAL) && !self.has(SHUT)
    }

    /// Appends what the protocol itself wants to say. [`Own::seal`] does it first.
    pub(super) fn settle(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if !self.owes() {
            return Ok(());
        }
        if self.has(OWES_REFUSAL) {
            self.clear(OWES_REFUSAL);
            self.set(REFUSED);
            self.write.seal(self.shape(), ALERT, &[&[WARNING, NO_RENEGOTIATION]], out)?;
        }
        if self.has(OWES_KEY_UPDATE) {
            self.update_key(false, out)?;
        }
        Ok(())
    }

    /// Appends records with all of `parts` as their content, in as few records as it takes: one, up
    /// to 16,384 bytes. Nothing, if there is no content.
    pub(super) fn seal(
        &mut self,
        limits: &Limits,
        parts: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if self.has(SHUT) {
            return Err(Fault::Closed);
        }
        self.settle(out)?;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        match len {
            0 => Ok(()),
            1..=CONTENT_MAX => self.seal_one(limits, parts, out),
            _ => self.seal_many(limits, parts, out),
        }
    }

    fn seal_many(
        &mut self,
        limits: &Limits,
        parts: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let mut gathered: Vec<&[u8]> = Vec::new();
        let mut room = CONTENT_MAX;
        for mut part in parts.iter().copied() {
            while part.len() > room {
                let (now, later) = part.split_at(room);
                gathered.push(now);
                self.seal_one(limits, &gathered, out)?;
                gathered.clear();
                (part, room) = (later, CONTENT_MAX);
            }
            room -= part.len();
            gathered.push(part);
        }
        self.seal_one(limits, &gathered, out)
    }

    fn seal_one(
        &mut self,
        limits: &Limits,
        parts: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let shape = self.shape();
        if shape.aead == Aead::Aes128Gcm && self.write.used() >= limits.records_per_key {
            match shape.version {
                Version::Tls13 => self.update_key(false, out)?,
                Version::Tls12 => return Err(Fault::KeyWornOut),
            }
        }
        self.write.seal(shape, APPLICATION_DATA, parts, out)
    }

    /// Appends a KeyUpdate, after which we write under the next key; `ask` asks the same of the
    /// peer. Nothing in TLS 1.2, which has none.
    pub(super) fn update_key(&mut self, ask: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.has(SHUT) {
            return Err(Fault::Closed);
        }
        let shape = self.shape();
        if shape.version == Version::Tls12 {
            return Ok(());
        }
        self.clear(OWES_KEY_UPDATE);
        self.write.seal(shape, HANDSHAKE, &[&[KEY_UPDATE, 0, 0, 1, u8::from(ask)]], out)?;
        self.write.advance(shape.aead);
        Ok(())
    }

    /// Appends close_notify, once; nothing is sealed after it. Reading goes on.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        self.last_words(WARNING, CLOSE_NOTIFY, out);
    }

    /// Appends the alert of `fault`, if it has one, once; nothing is sealed or opened after it.
    pub(super) fn refuse(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        match fault.alert() {
            Some(code) => self.alert(code, out),
            None => self.set(BROKEN | SHUT),
        }
    }

    /// Appends a fatal alert, once; nothing is sealed or opened after it.
    pub(super) fn alert(&mut self, code: u8, out: &mut Vec<u8>) {
        self.set(BROKEN);
        self.last_words(FATAL, code, out);
    }

    fn last_words(&mut self, level: u8, alert: u8, out: &mut Vec<u8>) {
        if !self.has(SHUT) {
            self.set(SHUT);
            // Fails after 2^64 records only: the peer then sees the end without it.
            let _ = self.write.seal(self.shape(), ALERT, &[&[level, alert]], out);
        }
    }

    /// Whether the peer said that nothing follows: an end without it is a truncation.
    pub(super) fn is_ended(&self) -> bool {
        self.has(END)
    }

    /// Whether an alert of ours, close_notify included, is the last thing sealed.
    pub(super) fn is_shut(&self) -> bool {
        self.has(SHUT)
    }

    fn has(&self, flags: u8) -> bool {
        self.read.tally.flags & flags != 0
    }

    fn set(&mut self, flags: u8) {
        self.read.tally.flags |= flags;
    }

    fn clear(&mut self, flags: u8) {
        self.read.tally.flags &= !flags;
    }
}

/// What a handshake leaves of one direction.
pub(super) struct Keys<'a> {
    pub(super) secret: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) iv: &'a [u8],
    /// The number of the next record.
    pub(super) next: u64,
}

impl Inward {
    fn of(role: Role, aead: Aead) -> Self {
        let role = if role == Role::Client { CLIENT } else { 0 };
        let aead = if aead == Aead::ChaCha20Poly1305 { CHACHA20 } else { 0 };
        let flags = role | aead;
        Self { key_updates: 0, empty_records: 0, warnings: 0, flags }
    }
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self =
        Self { records_per_key: 1 << 23, key_updates: 32, empty_records: 32, warnings: 4 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// One more of what may come `max` times.
fn count(tally: &mut u8, max: u8) -> Option<()> {
    *tally = tally.checked_add(1).filter(|count| *count <= max)?;
    Some(())
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
