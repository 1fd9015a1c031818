//! The Protobuf encoding: each command, reply or push after its length as a varint.
//!
//! Messages themselves are prost's, whose decoder stops at a nesting of 100. Pushes are enclosed
//! here, so that neither a publication nor a push has to be copied into what is around it.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint,
    encoded_len_varint, skip_field,
};

use super::messages::{ClientInfo, Command, ConnectRequest, Publication, Push, Reply};
use super::{ENTRIES_MAX, Envelope, Malformed, Payload, Subject};

/// `Command.connect`.
const CONNECT: u32 = 4;
/// `ConnectRequest.subs` and `ConnectRequest.headers`.
const MAPS: [u32; 2] = [3, 6];
/// `Reply.push`.
const PUSH: u32 = 4;
/// `Reply.id`.
const REPLY_ID: u32 = 1;
/// `Reply.presence`.
const PRESENCE: u32 = 9;
/// `PresenceResult.presence`, a map.
const MEMBERS: u32 = 1;
/// The two fields of a map's entry.
const MAP_KEY: u32 = 1;
const MAP_VALUE: u32 = 2;
/// `Push.id`.
const ID: u32 = 1;
/// `Push.channel`.
const CHANNEL: u32 = 2;
/// `Push.pub`.
const PUBLICATION: u32 = 4;

/// The first command, and what comes after it. A command of no length is a pong.
pub(super) fn command(bytes: &[u8]) -> Result<(Command, &[u8]), Malformed> {
    let (len, bytes) = length(bytes).ok_or(Malformed::Length)?;
    let (command, rest) = bytes.split_at_checked(len).ok_or(Malformed::Length)?;
    let mut entries = 0;
    let few = each_field(command, |tag, content| {
        tag != CONNECT || each_field(content, |tag, _| is_one_of_few(tag, &mut entries))
    });
    if few { Ok((message(command)?, rest)) } else { Err(Malformed::Protobuf) }
}

/// The request of a one-way client.
pub(super) fn connect(bytes: &[u8]) -> Result<ConnectRequest, Malformed> {
    let mut entries = 0;
    let few = each_field(bytes, |tag, _| is_one_of_few(tag, &mut entries));
    if few { message(bytes) } else { Err(Malformed::Protobuf) }
}

/// Counts the entries of maps before there are any.
fn is_one_of_few(tag: u32, entries: &mut usize) -> bool {
    *entries += usize::from(MAPS.contains(&tag));
    *entries <= ENTRIES_MAX
}

/// Visits the fields that have a length. False if the visitor says so, or at the first field that
/// is none.
fn each_field(mut bytes: &[u8], mut visit: impl FnMut(u32, &[u8]) -> bool) -> bool {
    while !bytes.is_empty() {
        let Ok((tag, kind)) = decode_key(&mut bytes) else { return false };
        if kind != WireType::LengthDelimited {
            if skip_field(kind, tag, &mut bytes, DecodeContext::default()).is_err() {
                return false;
            }
            continue;
        }
        let Ok(length) = decode_varint(&mut bytes) else { return false };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((content, rest)) = bytes.split_at_checked(length) else { return false };
        if !visit(tag, content) {
            return false;
        }
        bytes = rest;
    }
    true
}

/// A varint of at most 32 bits, and what comes after it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        length |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let length = u32::try_from(length).ok()?;
            return Some((usize::try_from(length).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

/// A message without anything around it.
pub(super) fn message<T: Message + Default>(bytes: &[u8]) -> Result<T, Malformed> {
    T::decode(bytes).map_err(|_| Malformed::Protobuf)
}

pub(super) fn reply(reply: &Reply, batch: &mut Vec<u8>) {
    put_enclosed(reply, batch);
}

/// The fields of a [`PresenceResult`](super::messages::PresenceResult).
pub(super) fn members(members: impl Iterator<Item = ClientInfo>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for info in members {
        let (name, len) = (info.client.len(), info.encoded_len());
        encode_key(MEMBERS, WireType::LengthDelimited, &mut bytes);
        encode_varint((field_len(name) + field_len(len)) as u64, &mut bytes);
        encode_key(MAP_KEY, WireType::LengthDelimited, &mut bytes);
        encode_varint(name as u64, &mut bytes);
        bytes.extend_from_slice(info.client.as_bytes());
        encode_key(MAP_VALUE, WireType::LengthDelimited, &mut bytes);
        put_enclosed(&info, &mut bytes);
    }
    bytes
}

pub(super) fn presence(id: u32, members: &[u8], batch: &mut Vec<u8>) {
    let number = if id == 0 { 0 } else { 1 + encoded_len_varint(id.into()) };
    encode_varint((number + field_len(members.len())) as u64, batch);
    if id != 0 {
        encode_key(REPLY_ID, WireType::Varint, batch);
        encode_varint(id.into(), batch);
    }
    encode_key(PRESENCE, WireType::LengthDelimited, batch);
    encode_varint(members.len() as u64, batch);
    batch.extend_from_slice(members);
}

pub(super) fn push(envelope: Envelope, push: &Push, batch: &mut Vec<u8>) {
    open(envelope, push.encoded_len(), batch);
    put(push, batch);
}

pub(super) fn publication(
    envelope: Envelope,
    subject: Subject<'_>,
    publication: &Publication,
    payload: Payload<'_>,
    batch: &mut Vec<u8>,
) {
    match payload {
        Payload::Verbatim | Payload::Text => self::enclosed(envelope, subject, publication, batch),
        Payload::Patch(patch) => {
            let data = Bytes::clone(patch);
            let patched = Publication { data, delta: true, ..publication.clone() };
            self::enclosed(envelope, subject, &patched, batch);
        }
    }
}

fn enclosed(
    envelope: Envelope,
    subject: Subject<'_>,
    publication: &Publication,
    batch: &mut Vec<u8>,
) {
    let subject_len = match subject {
        Subject::Channel("") | Subject::Id(0) => 0,
        Subject::Channel(channel) => field_len(channel.len()),
        Subject::Id(id) => 1 + encoded_len_varint(id as u64),
    };
    open(envelope, subject_len + field_len(publication.encoded_len()), batch);
    match subject {
        Subject::Channel("") | Subject::Id(0) => {}
        Subject::Channel(channel) => {
            encode_key(CHANNEL, WireType::LengthDelimited, batch);
            encode_varint(channel.len() as u64, batch);
            batch.extend_from_slice(channel.as_bytes());
        }
        Subject::Id(id) => {
            encode_key(ID, WireType::Varint, batch);
            encode_varint(id as u64, batch);
        }
    }
    encode_key(PUBLICATION, WireType::LengthDelimited, batch);
    put_enclosed(publication, batch);
}

pub(super) fn ping(batch: &mut Vec<u8>) {
    batch.push(0);
}

/// Writes what comes before a push of this length.
fn open(envelope: Envelope, push_len: usize, batch: &mut Vec<u8>) {
    if envelope == Envelope::Reply {
        encode_varint(field_len(push_len) as u64, batch);
        encode_key(PUSH, WireType::LengthDelimited, batch);
    }
    encode_varint(push_len as u64, batch);
}

/// The length of a field of up to that many bytes, with its key (all tags here are below 16) and
/// its length.
fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn put(message: &impl Message, batch: &mut Vec<u8>) {
    // Fails only where there is no room, and a vector makes itself room.
    let _ = message.encode(batch);
}

fn put_enclosed(message: &impl Message, batch: &mut Vec<u8>) {
    let _ = message.encode_length_delimited(batch);
}

#[cfg(test)]
#[path = "protobuf_tests.rs"]
mod tests;
