//! The JSON encoding: one object per command, reply or push, with newlines between them.
//!
//! Decoding is serde's, a command at a time, so that those before a malformed one are there. It
//! takes line breaks out of payloads; encoding looks once more, because a line break in an object
//! would end it.
//!
//! More than Centrifugo takes, because nobody is hurt by it: whitespace around objects and between
//! their tokens, empty lines, and requests as arrays of their fields.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::messages::{ClientInfo, Command, Publication, Push, Reply, ReplyBody};
use super::object::{Object, object as write};
use super::{Envelope, Malformed, Payload, Subject};
use crate::gateway::repeated;

/// The first command, and what comes after it and the whitespace behind it. Commands are apart by
/// a newline at least.
pub(super) fn command(text: &[u8]) -> Result<(Command, &[u8]), Malformed> {
    let text = text.trim_ascii_start();
    // The answer to a ping, as every client writes it.
    if let Some(rest) = text.strip_prefix(b"{}") {
        return Ok((Command::default(), next_line(rest)?));
    }
    // Serde would take an array of the fields.
    match text.first() {
        None => return Err(Malformed::Empty),
        Some(b'{') => {}
        Some(_) => return Err(Malformed::Json),
    }
    let mut commands = serde_json::Deserializer::from_slice(text).into_iter();
    let command = match commands.next() {
        Some(Ok(command)) => command,
        Some(Err(error)) if repeated::is_repeat(&error) => return repeating(text),
        _ => return Err(Malformed::Json),
    };
    let rest = text.get(commands.byte_offset()..).unwrap_or_default();
    Ok((command, next_line(rest)?))
}

/// The same for a command that names fields twice.
fn repeating(text: &[u8]) -> Result<(Command, &[u8]), Malformed> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
    let Some(Ok(value)) = values.next() else { return Err(Malformed::Json) };
    let rest = text.get(values.byte_offset()..).unwrap_or_default();
    let command = repeated::read(value.get().as_bytes()).map_err(|_| Malformed::Json)?;
    Ok((command, next_line(rest)?))
}

/// What comes after the whitespace, which must hold a newline if anything comes.
fn next_line(text: &[u8]) -> Result<&[u8], Malformed> {
    let rest = text.trim_ascii_start();
    let skipped = &text[..text.len() - rest.len()];
    if rest.is_empty() || skipped.contains(&b'\n') { Ok(rest) } else { Err(Malformed::Json) }
}

/// The one object in this text.
pub(super) fn object<T: DeserializeOwned>(text: &[u8]) -> Result<T, Malformed> {
    match text.trim_ascii_start().first() {
        None => Err(Malformed::Empty),
        Some(b'{') => repeated::read(text).map_err(|_| Malformed::Json),
        Some(_) => Err(Malformed::Json),
    }
}

pub(super) fn reply(reply: &Reply, batch: &mut Vec<u8>) {
    separate(batch);
    write(batch, |o| {
        o.uint("id", reply.id.into());
        match &reply.body {
            None => {}
            Some(ReplyBody::Error(it)) => o.message("error", it),
            Some(ReplyBody::Push(it)) => o.message("push", &**it),
            Some(ReplyBody::Connect(it)) => o.message("connect", &**it),
            Some(ReplyBody::Subscribe(it)) => o.message("subscribe", &**it),
            Some(ReplyBody::Unsubscribe(it)) => o.message("unsubscribe", it),
            Some(ReplyBody::Publish(it)) => o.message("publish", it),
            Some(ReplyBody::Presence(it)) => o.message("presence", it),
            Some(ReplyBody::PresenceStats(it)) => o.message("presence_stats", it),
            Some(ReplyBody::History(it)) => o.message("history", it),
            Some(ReplyBody::Rpc(it)) => o.message("rpc", it),
            Some(ReplyBody::Refresh(it)) => o.message("refresh", it),
            Some(ReplyBody::SubRefresh(it)) => o.message("sub_refresh", it),
        }
    });
}

/// The object that a [`PresenceResult`](super::messages::PresenceResult) is.
pub(super) fn members(members: impl Iterator<Item = ClientInfo>) -> Vec<u8> {
    let mut text = Vec::new();
    write(&mut text, |o| {
        o.object("presence", |o| {
            members.for_each(|info| {
                o.entry_of(&info.client, &info);
            });
        });
    });
    text
}

pub(super) fn presence(id: u32, members: &[u8], batch: &mut Vec<u8>) {
    separate(batch);
    write(batch, |o| {
        o.uint("id", id.into());
        o.raw("presence", members);
    });
}

pub(super) fn push(envelope: Envelope, push: &Push, batch: &mut Vec<u8>) {
    separate(batch);
    enclose(envelope, batch, |o| o.fields(push));
}

pub(super) fn publication(
    envelope: Envelope,
    subject: Subject<'_>,
    publication: &Publication,
    payload: Payload<'_>,
    batch: &mut Vec<u8>,
) {
    enclose(envelope, batch, |o| {
        match subject {
            Subject::Channel(channel) => o.string("channel", channel),
            Subject::Id(id) => o.int("id", id),
        }
        o.object("pub", |o| o.publication(publication, payload));
    });
}

pub(super) fn ping(batch: &mut Vec<u8>) {
    separate(batch);
    batch.extend_from_slice(b"{}");
}

fn enclose(envelope: Envelope, batch: &mut Vec<u8>, push: impl FnOnce(&mut Object<'_>)) {
    match envelope {
        Envelope::Bare => write(batch, push),
        Envelope::Reply => write(batch, |o| o.object("push", push)),
    }
}

fn separate(batch: &mut Vec<u8>) {
    if !batch.is_empty() {
        batch.push(b'\n');
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
