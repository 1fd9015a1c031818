//! Centrifugo's subjects and messages on NATS. Nodes of Centrifugo and of ringhold read each
//! other's by it.
//!
//! Owns which channel has which subject, and what is in a message; knows no connection. The
//! invariant: no subject leaves here that NATS would not take for one, so that no name of a channel
//! can be taken for something else on the way.
//!
//! | subject | what |
//! |---|---|
//! | `P.client.CH` | a `Push` in Protobuf: a publication, who came, who went |
//! | `P.control` | what nodes tell all others |
//! | `P.node.UID` | what nodes tell one of them |
//!
//! In raw mode a channel's subject is the mode's own prefix and the name with its replacements, and
//! its messages are the data of publications.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::gateway::broker::{Fault, Message};
use crate::gateway::wire::messages::Publication;
use crate::gateway::wire::raw::{is_json, one_line};

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Subjects {
    prefix: Box<str>,
    raw: Option<Raw>,
    wildcards: bool,
}

#[derive(Clone, Debug)]
struct Raw {
    prefix: Box<str>,
    /// What is written otherwise: the longest first.
    replacements: Box<[(Box<str>, Box<str>)]>,
}

/// Bytes of a subject at most: with the channel's name beside it, it has to fit into a line of a
/// server that takes 4,096.
const SUBJECT_MAX: usize = 2000;

/// Begins the number of a subscription to a channel; the channel's name follows. So no table of
/// them is needed, here or when a message comes.
pub const CHANNEL: &str = "c";
/// The number of the subscription to what nodes tell each other.
pub const CONTROL: &str = "0";
/// Of that to what nodes tell this one.
pub const NODE: &str = "1";

impl Subjects {
    /// Of this prefix; channels may be listened to with `wildcards`.
    pub fn new(prefix: &str, wildcards: bool) -> Self {
        Self { prefix: prefix.into(), raw: None, wildcards }
    }

    /// In raw mode, with this prefix of channels, in whose names this is written otherwise.
    #[must_use]
    pub fn raw(self, prefix: &str, replacements: &BTreeMap<String, String>) -> Self {
        let raw = Raw { prefix: prefix.into(), replacements: ordered(replacements) };
        Self { raw: Some(raw), ..self }
    }

    /// What nodes tell all others.
    pub fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    /// What they tell one of them; `None` if the name, which others have given, makes no subject.
    pub fn node(&self, uid: &str) -> Option<String> {
        let subject = format!("{}.node.{uid}", self.prefix);
        is_subject(&subject, false).then_some(subject)
    }

    /// The subject in which a channel's messages are published.
    ///
    /// # Errors
    /// [`Fault::Name`]: there is none.
    pub fn to_publish(&self, channel: &str) -> Result<String, Fault> {
        self.subject(channel, false)
    }

    /// The subject by which a channel's messages are listened to.
    ///
    /// # Errors
    /// As for [`Self::to_publish`]; wildcards may be allowed here.
    pub fn to_listen(&self, channel: &str) -> Result<String, Fault> {
        self.subject(channel, self.wildcards)
    }

    fn subject(&self, channel: &str, wildcards: bool) -> Result<String, Fault> {
        let subject = match &self.raw {
            None => format!("{}.client.{channel}", self.prefix),
            Some(raw) => format!("{}{}", raw.prefix, raw.replaced(channel)),
        };
        // The name is the number of the subscription, too.
        let fits = is_word(channel) && channel.len() <= SUBJECT_MAX;
        let is_one = subject.len() <= SUBJECT_MAX && is_subject(&subject, wildcards);
        // A replacement must not bring in what the name may not have.
        let plain = wildcards || !channel.contains(['*', '>']);
        if fits && plain && is_one { Ok(subject) } else { Err(Fault::Name) }
    }

    /// A message that brings a publication: `data` is the client protocol's `Publication`.
    ///
    /// # Errors
    /// [`Fault::Malformed`]: it is none.
    pub fn publication(&self, channel: &str, data: &Bytes, delta: bool) -> Result<Wrapped, Fault> {
        if self.raw.is_some() {
            let publication = Publication::decode(data.clone()).map_err(|_| Fault::Malformed)?;
            return Ok(Wrapped { head: Vec::new(), body: publication.data, tail: &[] });
        }
        let tail: &[u8] = if delta { DELTA } else { &[] };
        let head = head(channel, PUBLICATION, data.len() + tail.len());
        Ok(Wrapped { head, body: data.clone(), tail })
    }

    /// A message that somebody came, or went; `None` where there are no such messages.
    pub fn notice(&self, channel: &str, info: &Bytes, joins: bool) -> Option<Wrapped> {
        if self.raw.is_some() {
            return None;
        }
        let mut inner = Vec::new();
        encode_key(INFO, WireType::LengthDelimited, &mut inner);
        encode_varint(info.len() as u64, &mut inner);
        let kind = if joins { JOIN } else { LEAVE };
        let mut head = head(channel, kind, inner.len() + info.len());
        head.extend_from_slice(&inner);
        Some(Wrapped { head, body: info.clone(), tail: &[] })
    }

    /// What a message says that came by the subscription to a channel. Nothing: it is for nobody
    /// here.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn message(
        &self,
        channel: &str,
        subject: &[u8],
        payload: &[u8],
    ) -> Result<Option<Message>, Malformed> {
        let several = self.is_pattern(channel);
        if let Some(raw) = &self.raw {
            if payload.is_empty() {
                // A publication has data.
                return Err(Malformed);
            }
            let breaks = payload.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
            let data = match breaks && is_json(payload) {
                // One line is one command of the client protocol.
                true => one_line(payload),
                false => Bytes::copy_from_slice(payload),
            };
            let place = std::str::from_utf8(subject).map_err(|_| Malformed)?;
            let place = place.strip_prefix(&*raw.prefix).ok_or(Malformed)?;
            let channel = if several { place.to_owned() } else { String::new() };
            let publication = Publication { data, channel, ..Publication::default() };
            return Ok(Some(Message::Passed(publication.encode_to_vec().into())));
        }
        let push = Push::decode(payload).map_err(|_| Malformed)?;
        let Push { channel: place, publication, join, leave } = push;
        Ok(Some(match (publication, join, leave) {
            (Some(data), ..) if several => {
                let mut data = data.to_vec();
                encode_key(PLACE, WireType::LengthDelimited, &mut data);
                encode_varint(place.len() as u64, &mut data);
                data.extend_from_slice(place.as_bytes());
                Message::Passed(data.into())
            }
            (Some(data), ..) => Message::Passed(data),
            (None, None, None) => return Err(Malformed),
            // Who is in one channel is in none of the others.
            _ if several => return Ok(None),
            (None, Some(join), _) => Message::Join(join.info.ok_or(Malformed)?),
            (None, None, Some(leave)) => Message::Leave(leave.info.ok_or(Malformed)?),
        }))
    }

    /// Whether what comes by a subscription to this name is from several channels.
    fn is_pattern(&self, channel: &str) -> bool {
        self.wildcards && is_wildcard(channel)
    }
}

impl Raw {
    /// At each place the longest that fits.
    fn replaced<'a>(&self, channel: &'a str) -> Cow<'a, str> {
        let fits = |rest: &str| {
            let found = self.replacements.iter().find(|(from, _)| rest.starts_with(&**from));
            found.map(|(from, to)| (from.len(), &**to))
        };
        if self.replacements.is_empty() {
            return channel.into();
        }
        let (mut replaced, mut rest) = (String::with_capacity(channel.len()), channel);
        while let Some(next) = rest.chars().next() {
            let step = match fits(rest) {
                Some((bytes, to)) => {
                    replaced.push_str(to);
                    bytes
                }
                None => {
                    replaced.push(next);
                    next.len_utf8()
                }
            };
            rest = &rest[step..];
        }
        replaced.into()
    }
}

fn ordered(replacements: &BTreeMap<String, String>) -> Box<[(Box<str>, Box<str>)]> {
    let some = replacements.iter().filter(|(from, _)| !from.is_empty());
    let mut all: Vec<_> =
        some.map(|(from, to)| (from.as_str().into(), to.as_str().into())).collect();
    all.sort_by_key(|(from, _): &(Box<str>, Box<str>)| std::cmp::Reverse(from.len()));
    all.into()
}

/// Whether it can stand in a line, as one word.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

/// Whether NATS has it as a subject.
fn is_subject(text: &str, wildcards: bool) -> bool {
    if !is_word(text) || !wildcards && text.contains(['*', '>']) {
        return false;
    }
    let mut words = text.split('.').peekable();
    while let Some(word) = words.next() {
        if word.is_empty() || word == ">" && words.peek().is_some() {
            return false;
        }
    }
    true
}

fn is_wildcard(channel: &str) -> bool {
    channel.contains(['*', '>'])
}

/// A message that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A message in pieces.
#[derive(Debug)]
pub struct Wrapped {
    head: Vec<u8>,
    body: Bytes,
    tail: &'static [u8],
}

impl Wrapped {
    /// The pieces.
    pub fn pieces(&self) -> [&[u8]; 3] {
        [&self.head, &self.body, self.tail]
    }
}

/// Fields of the client protocol's `Push`.
const PUSH_CHANNEL: u32 = 2;
const PUBLICATION: u32 = 4;
const JOIN: u32 = 5;
const LEAVE: u32 = 6;
/// Of `Join` and `Leave`.
const INFO: u32 = 1;
/// Of `Publication`: where it was published.
const PLACE: u32 = 10;
/// Of `Publication`: those who want it get patches.
const DELTA: &[u8] = &[8 << 3, 1];

/// A push up to the content of this field.
fn head(channel: &str, kind: u32, bytes: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(channel.len() + 16);
    encode_key(PUSH_CHANNEL, WireType::LengthDelimited, &mut head);
    encode_varint(channel.len() as u64, &mut head);
    head.extend_from_slice(channel.as_bytes());
    encode_key(kind, WireType::LengthDelimited, &mut head);
    encode_varint(bytes as u64, &mut head);
    head
}

/// What of a push is of use.
#[derive(Clone, PartialEq, prost::Message)]
struct Push {
    #[prost(string, tag = "2")]
    channel: String,
    #[prost(bytes = "bytes", optional, tag = "4")]
    publication: Option<Bytes>,
    #[prost(message, optional, tag = "5")]
    join: Option<Notice>,
    #[prost(message, optional, tag = "6")]
    leave: Option<Notice>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Notice {
    #[prost(bytes = "bytes", optional, tag = "1")]
    info: Option<Bytes>,
}

#[cfg(test)]
#[path = "subjects_tests.rs"]
mod tests;
