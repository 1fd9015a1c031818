//! What two processes say to each other over a socket while one takes over from the other.
//!
//! Owns the form of words. Knows no socket. The invariant: what [`Word::write`] has written
//! [`Word::read`] reads as it was, and no bytes whatever make that panic, or allocate more than a
//! few times as many.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::encoding::encode_varint;

use crate::gateway::broker::{
    Absent, Entry, Fault, Happening, History, Kept, Message, Outcome, Past, Present, Publish,
    Renew, Request, Scope, Ticket, Top, TopOf,
};
use crate::gateway::letters::ClientId;
use crate::gateway::state::{
    Malformed, read_bytes, read_text, take, varint, write_bytes, write_millis,
};
use crate::gateway::stream::Epoch;

/// The form of words. A process that speaks another one is not taken over from.
pub const VERSION: u32 = 1;

/// Bytes of a word at most, with its length.
pub const WORD_MAX: usize = 64 << 20;

/// One thing that is said.
#[derive(Clone, Debug)]
pub enum Word {
    /// The successor is there: its version, and the name of the server.
    Hello(u32, String),
    /// It may take over.
    Welcome(u32),
    /// It may not, for this reason.
    Refused(String),
    /// A core of the successor asks.
    Ask(u16, Request),
    /// A request of that core is answered.
    Answer(u16, Ticket, Result<Outcome, Fault>),
    /// Something happened: [`Happening::Listening`], `Message` or `Suspect`.
    Tell(Happening),
    /// Records of the state.
    State(Bytes),
    /// The state is whole: the successor orders the channels from here on.
    Final,
    /// It does.
    Adopted,
}

impl Word {
    /// Adds it to what is written, with its length before it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; 4]);
        self.write_body(out);
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Takes a word off what was read. `None`: it has not come whole.
    pub fn read(bytes: &mut &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length + 4 > WORD_MAX {
            return Err(Malformed);
        }
        let Some((mut body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
        let word = Self::read_body(&mut body)?;
        if !body.is_empty() {
            return Err(Malformed);
        }
        *bytes = rest;
        Ok(Some(word))
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(version, name) => {
                out.push(0);
                encode_varint((*version).into(), out);
                write_bytes(name.as_bytes(), out);
            }
            Self::Welcome(version) => {
                out.push(1);
                encode_varint((*version).into(), out);
            }
            Self::Refused(why) => {
                out.push(2);
                write_bytes(why.as_bytes(), out);
            }
            Self::Ask(core, request) => {
                out.push(3);
                encode_varint((*core).into(), out);
                write_request(request, out);
            }
            Self::Answer(core, ticket, answer) => {
                out.push(4);
                encode_varint((*core).into(), out);
                encode_varint(ticket.0, out);
                write_answer(answer, out);
            }
            Self::Tell(happening) => {
                out.push(5);
                write_happening(happening, out);
            }
            Self::State(records) => {
                out.push(6);
                write_bytes(records, out);
            }
            Self::Final => out.push(7),
            Self::Adopted => out.push(8),
        }
    }

    fn read_body(body: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(match take(body, 1)?[0] {
            0 => Self::Hello(small(body)?, read_text(body)?.to_owned()),
            1 => Self::Welcome(small(body)?),
            2 => Self::Refused(read_text(body)?.to_owned()),
            3 => Self::Ask(small(body)?, read_request(body)?),
            4 => Self::Answer(small(body)?, Ticket(varint(body)?), read_answer(body)?),
            5 => Self::Tell(read_happening(body)?),
            6 => Self::State(owned(body)?),
            7 => Self::Final,
            8 => Self::Adopted,
            _ => return Err(Malformed),
        })
    }
}

fn write_request(request: &Request, out: &mut Vec<u8>) {
    match request {
        Request::Listen(names) => {
            out.push(0);
            write_names(names, out);
        }
        Request::Ignore(names) => {
            out.push(1);
            write_names(names, out);
        }
        Request::Publish(ticket, publish) => {
            out.push(2);
            encode_varint(ticket.0, out);
            write_publish(publish, out);
        }
        Request::Join(channel, info) | Request::Leave(channel, info) => {
            out.push(if matches!(request, Request::Join(..)) { 3 } else { 4 });
            write_bytes(channel.as_bytes(), out);
            write_bytes(info, out);
        }
        Request::History(ticket, history) => {
            out.push(5);
            encode_varint(ticket.0, out);
            let History { channel, since, limit, reverse, meta_ttl, fresh } = &**history;
            write_bytes(channel.as_bytes(), out);
            write_option(*since, out);
            encode_varint((*limit).into(), out);
            out.push(u8::from(*reverse));
            write_millis(*meta_ttl, out);
            write_epoch(fresh, out);
        }
        Request::HistoryRemove(ticket, channel) => write_about(6, *ticket, channel, out),
        Request::Positions(ticket, tops) => {
            out.push(7);
            encode_varint(ticket.0, out);
            encode_varint(tops.len() as u64, out);
            // The elder tells its heir of removals.
            for TopOf { channel, entry, meta_ttl, count: _ } in tops {
                write_bytes(channel.as_bytes(), out);
                encode_varint(*entry, out);
                write_option(meta_ttl.map(millis), out);
            }
        }
        Request::Renew(ticket, renew) => {
            let Renew { channel, old, fresh, meta_ttl } = &**renew;
            write_about(8, *ticket, channel, out);
            write_epoch(old, out);
            write_epoch(fresh, out);
            write_millis(*meta_ttl, out);
        }
        Request::PresenceAdd(ticket, channel, members) => {
            write_about(9, *ticket, channel, out);
            encode_varint(members.len() as u64, out);
            for Present { client, user, info } in members {
                out.extend(client.bytes());
                write_bytes(user.as_bytes(), out);
                write_bytes(info, out);
            }
        }
        Request::PresenceRemove(ticket, channel, members) => {
            write_about(10, *ticket, channel, out);
            encode_varint(members.len() as u64, out);
            for Absent { client, user } in members {
                out.extend(client.bytes());
                write_bytes(user.as_bytes(), out);
            }
        }
        Request::PresenceRenew(ticket, channel, members) => {
            write_about(11, *ticket, channel, out);
            encode_varint(members.len() as u64, out);
            members.iter().for_each(|client| out.extend(client.bytes()));
        }
        Request::Presence(ticket, channel) => write_about(12, *ticket, channel, out),
        Request::PresenceStats(ticket, channel) => write_about(13, *ticket, channel, out),
    }
}

fn write_about(kind: u8, ticket: Ticket, channel: &str, out: &mut Vec<u8>) {
    out.push(kind);
    encode_varint(ticket.0, out);
    write_bytes(channel.as_bytes(), out);
}

fn read_request(body: &mut &[u8]) -> Result<Request, Malformed> {
    let kind = take(body, 1)?[0];
    match kind {
        0 => return Ok(Request::Listen(read_names(body)?)),
        1 => return Ok(Request::Ignore(read_names(body)?)),
        3 => return Ok(Request::Join(name(body)?, owned(body)?)),
        4 => return Ok(Request::Leave(name(body)?, owned(body)?)),
        _ => {}
    }
    let ticket = Ticket(varint(body)?);
    Ok(match kind {
        2 => Request::Publish(ticket, Box::new(read_publish(body)?)),
        5 => {
            let history = History {
                channel: name(body)?,
                since: read_option(body)?,
                limit: small(body)?,
                reverse: flag(body)?,
                meta_ttl: time(body)?,
                fresh: epoch(body)?,
            };
            Request::History(ticket, Box::new(history))
        }
        6 => Request::HistoryRemove(ticket, name(body)?),
        7 => {
            let top = |body: &mut &[u8]| {
                let (channel, entry) = (name(body)?, varint(body)?);
                let meta_ttl = read_option(body)?.map(Duration::from_millis);
                Ok(TopOf { channel, entry, meta_ttl, count: false })
            };
            Request::Positions(ticket, list(body, top)?)
        }
        8 => {
            let (channel, old, fresh) = (name(body)?, epoch(body)?, epoch(body)?);
            let renew = Renew { channel, old, fresh, meta_ttl: time(body)? };
            Request::Renew(ticket, Box::new(renew))
        }
        9 => {
            let present = |body: &mut &[u8]| {
                Ok(Present { client: client(body)?, user: name(body)?, info: owned(body)? })
            };
            Request::PresenceAdd(ticket, name(body)?, list(body, present)?)
        }
        10 => {
            let absent = |body: &mut &[u8]| Ok(Absent { client: client(body)?, user: name(body)? });
            Request::PresenceRemove(ticket, name(body)?, list(body, absent)?)
        }
        11 => Request::PresenceRenew(ticket, name(body)?, list(body, client)?),
        12 => Request::Presence(ticket, name(body)?),
        13 => Request::PresenceStats(ticket, name(body)?),
        _ => return Err(Malformed),
    })
}

fn write_publish(publish: &Publish, out: &mut Vec<u8>) {
    let Publish { channel, data, stream, delta, idempotency_key, idempotency_ttl, .. } = publish;
    let Publish { version, version_epoch, sequence, .. } = publish;
    write_bytes(channel.as_bytes(), out);
    write_bytes(data, out);
    out.push(u8::from(stream.is_some()) | u8::from(*delta) << 1);
    if let Some(Kept { size, ttl, meta_ttl, renew, fresh }) = stream {
        encode_varint((*size).into(), out);
        write_millis(*ttl, out);
        write_millis(*meta_ttl, out);
        out.push(u8::from(*renew));
        write_epoch(fresh, out);
    }
    write_bytes(idempotency_key.as_bytes(), out);
    write_millis(*idempotency_ttl, out);
    encode_varint(*version, out);
    write_bytes(version_epoch.as_bytes(), out);
    encode_varint(*sequence, out);
}

fn read_publish(body: &mut &[u8]) -> Result<Publish, Malformed> {
    let (channel, data) = (name(body)?, owned(body)?);
    let flags = take(body, 1)?[0];
    if flags > 3 {
        return Err(Malformed);
    }
    let stream = match flags & 1 != 0 {
        false => None,
        true => Some(Kept {
            size: small(body)?,
            ttl: time(body)?,
            meta_ttl: time(body)?,
            renew: flag(body)?,
            fresh: epoch(body)?,
        }),
    };
    Ok(Publish {
        channel,
        data,
        stream,
        delta: flags & 2 != 0,
        idempotency_key: read_text(body)?.to_owned(),
        idempotency_ttl: time(body)?,
        version: varint(body)?,
        version_epoch: read_text(body)?.to_owned(),
        sequence: varint(body)?,
    })
}

fn write_answer(answer: &Result<Outcome, Fault>, out: &mut Vec<u8>) {
    let outcome = match answer {
        Ok(outcome) => outcome,
        Err(fault) => {
            let at = FAULTS.iter().position(|it| it == fault).unwrap_or_default();
            return out.extend([0, at as u8]);
        }
    };
    match outcome {
        Outcome::Published { position, suppressed } => {
            out.extend([1, u8::from(*suppressed)]);
            write_place(position.as_ref(), out);
        }
        Outcome::History(Past { epoch, top, entries }) => {
            out.push(2);
            write_epoch(epoch, out);
            encode_varint(*top, out);
            encode_varint(entries.len() as u64, out);
            for Entry { offset, data } in entries {
                encode_varint(*offset, out);
                write_bytes(data, out);
            }
        }
        Outcome::Positions(tops) => {
            out.push(3);
            encode_varint(tops.len() as u64, out);
            for top in tops {
                out.push(u8::from(top.is_some()));
                let Some(Top { epoch, top, first, entry, count: _ }) = top else { continue };
                write_epoch(epoch, out);
                encode_varint(*top, out);
                encode_varint(*first, out);
                out.push(u8::from(entry.is_some()));
                entry.iter().for_each(|entry| write_bytes(entry, out));
            }
        }
        Outcome::Renewed(place) => {
            out.push(4);
            write_place(place.as_ref(), out);
        }
        Outcome::Missing(clients) => {
            out.push(5);
            encode_varint(clients.len() as u64, out);
            clients.iter().for_each(|client| out.extend(client.bytes()));
        }
        Outcome::Presence(members) => {
            out.push(6);
            encode_varint(members.len() as u64, out);
            members.iter().for_each(|info| write_bytes(info, out));
        }
        Outcome::PresenceStats { clients, users } => {
            out.push(7);
            encode_varint((*clients).into(), out);
            encode_varint((*users).into(), out);
        }
        Outcome::Done => out.push(8),
    }
}

fn read_answer(body: &mut &[u8]) -> Result<Result<Outcome, Fault>, Malformed> {
    Ok(Ok(match take(body, 1)?[0] {
        0 => {
            let at = usize::from(take(body, 1)?[0]);
            return FAULTS.get(at).map(|fault| Err(*fault)).ok_or(Malformed);
        }
        1 => Outcome::Published { suppressed: flag(body)?, position: place(body)? },
        2 => {
            let entry = |body: &mut &[u8]| Ok(Entry { offset: varint(body)?, data: owned(body)? });
            let (epoch, top) = (epoch(body)?, varint(body)?);
            Outcome::History(Past { epoch, top, entries: list(body, entry)? })
        }
        3 => {
            let top = |body: &mut &[u8]| {
                if !flag(body)? {
                    return Ok(None);
                }
                let (epoch, top, first) = (epoch(body)?, varint(body)?, varint(body)?);
                let entry = if flag(body)? { Some(owned(body)?) } else { None };
                Ok(Some(Top { epoch, top, first, entry, count: None }))
            };
            Outcome::Positions(list(body, top)?)
        }
        4 => Outcome::Renewed(place(body)?),
        5 => Outcome::Missing(list(body, client)?),
        6 => Outcome::Presence(list(body, owned)?),
        7 => Outcome::PresenceStats { clients: small(body)?, users: small(body)? },
        8 => Outcome::Done,
        _ => return Err(Malformed),
    }))
}

/// By their numbers.
const FAULTS: [Fault; 7] = [
    Fault::Away,
    Fault::Late,
    Fault::Unknown,
    Fault::Denied,
    Fault::Malformed,
    Fault::Name,
    Fault::Size,
];

fn write_happening(happening: &Happening, out: &mut Vec<u8>) {
    match happening {
        Happening::Listening(names) => {
            out.push(0);
            write_names(names, out);
        }
        Happening::Suspect(Scope::Channels(names)) => {
            out.push(1);
            encode_varint(names.len() as u64, out);
            names.iter().for_each(|name| write_bytes(name.as_bytes(), out));
        }
        Happening::Message(channel, message) => {
            let kind = match message {
                Message::Published { .. } => 3,
                Message::Passed(_) => 4,
                Message::Join(_) => 5,
                Message::Leave(_) => 6,
                Message::Removed => 7,
            };
            out.push(kind);
            write_bytes(channel.as_bytes(), out);
            if let Message::Published { epoch, offset, .. } = message {
                write_epoch(epoch, out);
                encode_varint(*offset, out);
            }
            write_bytes(message.data(), out);
        }
        // Of whatever else happens all channels are told, and it is not said here.
        _ => out.push(2),
    }
}

fn read_happening(body: &mut &[u8]) -> Result<Happening, Malformed> {
    let kind = take(body, 1)?[0];
    match kind {
        0 => return Ok(Happening::Listening(read_names(body)?)),
        1 => {
            let text = |body: &mut &[u8]| Ok(Box::<str>::from(read_text(body)?));
            return Ok(Happening::Suspect(Scope::Channels(list(body, text)?.into())));
        }
        2 => return Ok(Happening::Suspect(Scope::All)),
        _ => {}
    }
    let channel = read_text(body)?.into();
    let message = match kind {
        3 => {
            let (epoch, offset) = (epoch(body)?, varint(body)?);
            Message::Published { epoch, offset, data: owned(body)? }
        }
        4 => Message::Passed(owned(body)?),
        5 => Message::Join(owned(body)?),
        6 => Message::Leave(owned(body)?),
        7 if read_bytes(body)?.is_empty() => Message::Removed,
        _ => return Err(Malformed),
    };
    Ok(Happening::Message(channel, message))
}

fn write_names(names: &[Arc<str>], out: &mut Vec<u8>) {
    encode_varint(names.len() as u64, out);
    names.iter().for_each(|name| write_bytes(name.as_bytes(), out));
}

fn read_names(body: &mut &[u8]) -> Result<Vec<Arc<str>>, Malformed> {
    list(body, name)
}

/// Each of a list takes a byte at least, so it is no longer than what is there.
fn list<T>(
    body: &mut &[u8],
    mut one: impl FnMut(&mut &[u8]) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let length = varint(body)?;
    if length > body.len() as u64 {
        return Err(Malformed);
    }
    (0..length).map(|_| one(body)).collect()
}

fn write_option(number: Option<u64>, out: &mut Vec<u8>) {
    out.push(u8::from(number.is_some()));
    number.iter().for_each(|number| encode_varint(*number, out));
}

fn read_option(body: &mut &[u8]) -> Result<Option<u64>, Malformed> {
    if flag(body)? { varint(body).map(Some) } else { Ok(None) }
}

fn write_epoch(epoch: &Epoch, out: &mut Vec<u8>) {
    write_bytes(epoch.as_str().as_bytes(), out);
}

fn epoch(body: &mut &[u8]) -> Result<Epoch, Malformed> {
    Epoch::parse(read_text(body)?).ok_or(Malformed)
}

fn write_place(place: Option<&(Epoch, u64)>, out: &mut Vec<u8>) {
    out.push(u8::from(place.is_some()));
    if let Some((epoch, offset)) = place {
        write_epoch(epoch, out);
        encode_varint(*offset, out);
    }
}

fn place(body: &mut &[u8]) -> Result<Option<(Epoch, u64)>, Malformed> {
    if flag(body)? { Ok(Some((epoch(body)?, varint(body)?))) } else { Ok(None) }
}

fn flag(body: &mut &[u8]) -> Result<bool, Malformed> {
    match take(body, 1)?[0] {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

fn small<T: TryFrom<u64>>(body: &mut &[u8]) -> Result<T, Malformed> {
    T::try_from(varint(body)?).map_err(|_| Malformed)
}

fn time(body: &mut &[u8]) -> Result<Duration, Malformed> {
    varint(body).map(Duration::from_millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn name(body: &mut &[u8]) -> Result<Arc<str>, Malformed> {
    read_text(body).map(Arc::from)
}

fn owned(body: &mut &[u8]) -> Result<Bytes, Malformed> {
    read_bytes(body).map(Bytes::copy_from_slice)
}

fn client(body: &mut &[u8]) -> Result<ClientId, Malformed> {
    let bytes = take(body, 16)?.try_into().map_err(|_| Malformed)?;
    Ok(ClientId::new(u128::from_be_bytes(bytes)))
}
