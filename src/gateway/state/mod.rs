//! What a server keeps over its end, in bytes: the channels of its home cores, and the results of
//! publications with idempotency keys.
//!
//! Owns the form of records, and the ways out of the cores and into them ([`Vault`], [`Chest`]).
//! Knows neither file nor socket. A record stands for itself: it names its channel, so records of
//! several cores may come in any mixture, and be taken in by another number of cores. The records
//! of one core keep their order: a channel comes before its publications.
//!
//! Times are told as what is left of them, since clocks of two processes have nothing in common.
//! The invariant: what was written by [`Record::write`] is read by [`Record::read`] as it was, and
//! no bytes whatever make that panic, or allocate more than there are bytes.

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::encoding::{decode_varint, encode_varint};

use super::delivery::Item;
use super::stream::{Epoch, Position};
use super::wire::messages::ClientInfo;

/// The form that is written. Others are refused.
pub const VERSION: u32 = 1;

/// Records are handed on when there are about so many bytes of them.
pub const PIECE: usize = 256 << 10;

/// Where the cores of a server that ends put what they keep. Called by their threads.
pub trait Vault: Send + Sync + fmt::Debug {
    /// Takes so many bytes of the room that there is. False: there are not so many.
    fn claim(&self, bytes: usize) -> bool;

    /// Takes records, each of them whole.
    fn put(&self, records: &[u8]);

    /// What a core could not keep because there was no room.
    fn left_out(&self, out: LeftOut);
}

/// What there was no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Channels of which nothing is kept.
    pub channels: u64,
    /// Publications of channels whose position is kept.
    pub publications: u64,
}

/// What the cores of a server that begins find. Called by their threads, by each for itself.
pub trait Chest: Send + Sync + fmt::Debug {
    /// Gives all records to `take`, in pieces of whole ones, and tells how old they are. What
    /// cannot be read ends it, and is logged.
    fn open(&self, take: &mut dyn FnMut(&[u8]));

    /// How long ago it was filled.
    fn age(&self) -> Duration;
}

/// What cores took over from a process before this one, counted over all.
#[derive(Debug, Default)]
pub struct Restored {
    /// With or without publications.
    channels: AtomicU64,
    publications: AtomicU64,
    /// Of idempotency.
    keys: AtomicU64,
}

impl Restored {
    /// Channels, publications and keys.
    pub fn get(&self) -> [u64; 3] {
        [&self.channels, &self.publications, &self.keys].map(|it| it.load(Ordering::Relaxed))
    }

    /// Adds what one core took.
    pub fn add(&self, channels: u64, publications: u64, keys: u64) {
        self.channels.fetch_add(channels, Ordering::Relaxed);
        self.publications.fetch_add(publications, Ordering::Relaxed);
        self.keys.fetch_add(keys, Ordering::Relaxed);
    }
}

/// One thing that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A channel with a stream.
    Channel(Kept),
    /// Publications that follow those of the same channel so far.
    Items(Arc<str>, Vec<Item>),
    /// The result of a publication with an idempotency key.
    Result(KeptResult),
}

/// A channel as it is kept, without its publications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: Arc<str>,
    /// Of its stream.
    pub position: Position,
    /// How many publications follow.
    pub items: u64,
    /// What these have left of their life.
    pub items_left: Duration,
    /// What the position has left; `None` is for ever.
    pub meta_left: Option<Duration>,
    /// The last version and its epoch, if publishers give some.
    pub version: Option<(u64, Box<str>)>,
    /// Patches may be based on the last publication.
    pub at_top: bool,
}

/// A result as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptResult {
    /// The channel's name.
    pub channel: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// What the publisher was told.
    pub position: Option<Position>,
    /// What it has left of its life.
    pub left: Duration,
}

const CHANNEL: u8 = 1;
const ITEMS: u8 = 2;
const RESULT: u8 = 3;

/// A time that does not end.
const FOR_EVER: u64 = u64::MAX;

/// The bytes are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Record {
    /// Adds it to a piece. `now` as for [`Self::read`].
    pub fn write(&self, now: Duration, piece: &mut Vec<u8>) {
        let mut body = Vec::new();
        let kind = match self {
            Self::Channel(kept) => {
                kept.write(&mut body);
                CHANNEL
            }
            Self::Items(name, items) => {
                write_bytes(name.as_bytes(), &mut body);
                items.iter().for_each(|item| write_item(item, now, &mut body));
                ITEMS
            }
            Self::Result(result) => {
                write_bytes(result.channel.as_bytes(), &mut body);
                write_bytes(result.key.as_bytes(), &mut body);
                write_position(result.position.as_ref(), &mut body);
                write_millis(result.left, &mut body);
                RESULT
            }
        };
        frame(kind, &body, piece);
    }

    /// Takes the first record off a piece. `now`: the time by which items tell when they were
    /// published.
    pub fn read(piece: &mut &[u8], now: Duration) -> Result<Self, Malformed> {
        let kind = take(piece, 1)?[0];
        let mut body = read_bytes(piece)?;
        let body = &mut body;
        let record = match kind {
            CHANNEL => Self::Channel(Kept::read(body)?),
            ITEMS => {
                let name = read_text(body)?.into();
                let mut items = Vec::new();
                while !body.is_empty() {
                    items.push(read_item(body, now)?);
                }
                Self::Items(name, items)
            }
            RESULT => Self::Result(KeptResult {
                channel: read_text(body)?.into(),
                key: read_text(body)?.into(),
                position: read_position(body)?,
                left: Duration::from_millis(varint(body)?),
            }),
            _ => return Err(Malformed),
        };
        if body.is_empty() { Ok(record) } else { Err(Malformed) }
    }
}

/// Publications of one channel on their way into pieces, so that none has to be copied before.
#[derive(Debug)]
pub struct ItemsWriter {
    body: Vec<u8>,
    name: Arc<str>,
}

impl ItemsWriter {
    /// Of this channel.
    pub fn new(name: &Arc<str>) -> Self {
        let mut writer = Self { body: Vec::new(), name: name.clone() };
        writer.begin();
        writer
    }

    fn begin(&mut self) {
        self.body.clear();
        write_bytes(self.name.as_bytes(), &mut self.body);
    }

    /// Adds one. True: it is time to [`Self::finish`] what there is.
    pub fn add(&mut self, item: &Item, now: Duration) -> bool {
        write_item(item, now, &mut self.body);
        self.body.len() >= PIECE
    }

    /// Adds the record to a piece, and begins another of the same channel.
    pub fn finish(&mut self, piece: &mut Vec<u8>) {
        frame(ITEMS, &self.body, piece);
        self.begin();
    }
}

fn frame(kind: u8, body: &[u8], piece: &mut Vec<u8>) {
    piece.push(kind);
    write_bytes(body, piece);
}

impl Kept {
    fn write(&self, out: &mut Vec<u8>) {
        write_bytes(self.name.as_bytes(), out);
        write_position(Some(&self.position), out);
        encode_varint(self.items, out);
        write_millis(self.items_left, out);
        encode_varint(self.meta_left.map_or(FOR_EVER, millis), out);
        out.push(u8::from(self.at_top) | u8::from(self.version.is_some()) << 1);
        if let Some((number, epoch)) = &self.version {
            encode_varint(*number, out);
            write_bytes(epoch.as_bytes(), out);
        }
    }

    fn read(body: &mut &[u8]) -> Result<Self, Malformed> {
        let name = read_text(body)?.into();
        let position = read_position(body)?.ok_or(Malformed)?;
        let items = varint(body)?;
        let items_left = Duration::from_millis(varint(body)?);
        let meta_left = match varint(body)? {
            FOR_EVER => None,
            left => Some(Duration::from_millis(left)),
        };
        let flags = take(body, 1)?[0];
        let version = match flags & 2 != 0 {
            true => Some((varint(body)?, read_text(body)?.into())),
            false => None,
        };
        if items > position.offset || flags > 3 {
            return Err(Malformed);
        }
        Ok(Self { name, position, items, items_left, meta_left, version, at_top: flags & 1 != 0 })
    }
}

fn write_item(item: &Item, now: Duration, out: &mut Vec<u8>) {
    write_millis(now.saturating_sub(item.at), out);
    encode_varint(item.offset, out);
    write_bytes(&item.data, out);
    encode_varint(item.version(), out);
    encode_varint(item.tags().len() as u64, out);
    for (key, tag) in item.tags() {
        write_bytes(key.as_bytes(), out);
        write_bytes(tag.as_bytes(), out);
    }
    out.push(u8::from(item.info().is_some()));
    if let Some(info) = item.info() {
        let ClientInfo { user, client, conn_info, chan_info } = info;
        for part in [user.as_bytes(), client.as_bytes(), conn_info, chan_info] {
            write_bytes(part, out);
        }
    }
}

fn read_item(body: &mut &[u8], now: Duration) -> Result<Item, Malformed> {
    let age = Duration::from_millis(varint(body)?);
    let offset = varint(body)?;
    let data = Bytes::copy_from_slice(read_bytes(body)?);
    let version = varint(body)?;
    let mut tags = BTreeMap::new();
    for _ in 0..varint(body)? {
        let key = read_text(body)?.to_owned();
        tags.insert(key, read_text(body)?.to_owned());
    }
    let info = match take(body, 1)?[0] {
        0 => None,
        1 => Some(Box::new(ClientInfo {
            user: read_text(body)?.to_owned(),
            client: read_text(body)?.to_owned(),
            conn_info: Bytes::copy_from_slice(read_bytes(body)?),
            chan_info: Bytes::copy_from_slice(read_bytes(body)?),
        })),
        _ => return Err(Malformed),
    };
    let mut item = Item::new(now.saturating_sub(age), data, info, tags, version);
    item.offset = offset;
    Ok(item)
}

fn write_position(position: Option<&Position>, out: &mut Vec<u8>) {
    // No epoch is empty.
    write_bytes(position.map_or("", |it| it.epoch.as_str()).as_bytes(), out);
    encode_varint(position.map_or(0, |it| it.offset), out);
}

fn read_position(body: &mut &[u8]) -> Result<Option<Position>, Malformed> {
    let epoch = read_text(body)?;
    let offset = varint(body)?;
    match epoch {
        "" => Ok(None),
        epoch => Ok(Some(Position { offset, epoch: Epoch::parse(epoch).ok_or(Malformed)? })),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(FOR_EVER).min(FOR_EVER - 1)
}

pub(super) fn write_millis(time: Duration, out: &mut Vec<u8>) {
    encode_varint(millis(time), out);
}

pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(super) fn varint(body: &mut &[u8]) -> Result<u64, Malformed> {
    if !body.has_remaining() {
        return Err(Malformed);
    }
    decode_varint(body).map_err(|_| Malformed)
}

pub(super) fn read_bytes<'a>(body: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = varint(body)?;
    take(body, usize::try_from(length).map_err(|_| Malformed)?)
}

pub(super) fn read_text<'a>(body: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    std::str::from_utf8(read_bytes(body)?).map_err(|_| Malformed)
}

pub(super) fn take<'a>(body: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (first, rest) = body.split_at_checked(length).ok_or(Malformed)?;
    *body = rest;
    Ok(first)
}
