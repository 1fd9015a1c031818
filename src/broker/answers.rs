//! What Redis' replies mean: the result of a request, or what went wrong.
//!
//! Owns the reading of replies, one request at a time. A reply that the commands of
//! [`super::requests`] cannot have is [`Fault::Malformed`], and never more.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;

use super::requests::parts_of;
use super::resp::Reply;
use super::target::Address;
use crate::gateway::broker::{Entry, Fault, Outcome, Past, Request, Top, TopOf};
use crate::gateway::stream::Epoch;
use crate::gateway::wire::messages::ClientInfo;

/// What an error reply means for the connection and for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The server has forgotten our scripts. Nothing was done.
    NoScript,
    /// The server is not in charge, or not yet: another has to be looked for. Nothing was done.
    NotPrimary,
    /// Another node of the cluster has to be asked, or the same one later: see [`Why`]. Nothing was
    /// done.
    Elsewhere,
    /// The server wants a password, or another one.
    Unauthorised,
    /// Whatever else: it will not be better at the next attempt.
    Denied,
}

impl Trouble {
    /// By the word that the error begins with. Scripts hand on that of the command that failed,
    /// which older servers put behind words of their own.
    pub fn of(error: &[u8]) -> Self {
        let word = error.split(|byte| *byte == b' ').next().unwrap_or_default();
        let handed_on = |word: &[u8]| error.windows(word.len()).any(|part| part == word);
        match word {
            b"NOSCRIPT" => Self::NoScript,
            b"READONLY" | b"MASTERDOWN" | b"LOADING" => Self::NotPrimary,
            b"NOAUTH" | b"WRONGPASS" => Self::Unauthorised,
            b"MOVED" | b"ASK" | b"TRYAGAIN" | b"CLUSTERDOWN" => Self::Elsewhere,
            _ if handed_on(b"-READONLY ") || handed_on(b"-MASTERDOWN ") => Self::NotPrimary,
            _ => Self::Denied,
        }
    }
}

/// Why a cluster's node did not do a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another has its slot.
    Moved,
    /// Its slot is on its way, and its keys are at this place already.
    Ask(Address),
    /// Its slot is on its way, and its keys are apart; or the cluster is not whole.
    Later,
}

impl Why {
    /// Of an error that is [`Trouble::Elsewhere`].
    pub fn of(error: &[u8]) -> Self {
        let words: Vec<&str> =
            std::str::from_utf8(error).map(|text| text.split(' ').collect()).unwrap_or_default();
        match words[..] {
            ["MOVED", ..] => Self::Moved,
            ["ASK", _, place] => {
                let place = place
                    .rsplit_once(':')
                    .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
                place.map_or(Self::Later, Self::Ask)
            }
            _ => Self::Later,
        }
    }

    /// As in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Ask(_) => "ask",
            Self::Later => "later",
        }
    }

    /// All of these.
    pub const NAMES: [&'static str; 3] = ["moved", "ask", "later"];
}

/// The replies to one request, of which some may still be on their way.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Replies that have come.
    came: usize,
    fault: Option<Fault>,
    outcome: Option<Outcome>,
    tops: Vec<Option<Top>>,
    /// Replies about the newest of these.
    part: usize,
    /// Some members were not there.
    missing: bool,
}

impl Gathered {
    /// Takes the next reply to a request; no error. `again`: the request was sent before, and may
    /// have been done then.
    pub fn take(&mut self, request: &Request, reply: &Reply<'_>, again: bool) {
        let at = self.came;
        self.came += 1;
        let read = match request {
            Request::Positions(_, tops) => self.position(tops, reply),
            Request::PresenceRenew(..) => self.renewed(at, reply),
            _ => outcome(request, reply, again).map(|outcome| self.outcome = Some(outcome)),
        };
        if let Err(fault) = read {
            self.fault.get_or_insert(fault);
        }
    }

    /// The next reply was an error.
    pub fn fail(&mut self, fault: Fault) {
        self.came += 1;
        self.fault.get_or_insert(fault);
    }

    /// Replies that have come.
    pub fn came(&self) -> usize {
        self.came
    }

    /// The result, once all have come.
    pub fn result(self, request: &Request) -> Result<Outcome, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        match request {
            Request::Positions(_, tops) if tops.len() == self.tops.len() => {
                Ok(Outcome::Positions(self.tops))
            }
            // Redis says how many, not which; that all are added again is right for each.
            Request::PresenceRenew(.., members) => Ok(Outcome::Missing(match self.missing {
                true => members.clone(),
                false => Vec::new(),
            })),
            // Nobody is told in this channel.
            Request::Join(..) | Request::Leave(..) if self.came == 0 => Ok(Outcome::Done),
            // Nothing was asked for.
            Request::PresenceAdd(.., members) if members.is_empty() => Ok(Outcome::Done),
            Request::PresenceRemove(.., members) if members.is_empty() => Ok(Outcome::Done),
            _ => self.outcome.ok_or(Fault::Malformed),
        }
    }

    /// The position of a channel, then its entry and the first one, then how many are retained,
    /// then that its life goes on.
    fn position(&mut self, asked: &[TopOf], reply: &Reply<'_>) -> Result<(), Fault> {
        let index = self.tops.len() - usize::from(self.part > 0);
        let asked = asked.get(index).ok_or(Fault::Malformed)?;
        let part = self.part;
        self.part = if part + 1 < parts_of(asked) { part + 1 } else { 0 };
        match part {
            0 => {
                self.tops.push(None);
                self.tops[index] = top(reply)?;
            }
            1 | 2 if asked.entry > 0 => {
                let found = entries(reply)?.into_iter().next();
                match (&mut self.tops[index], part) {
                    (Some(top), 1) => top.entry = found.map(|entry| entry.data),
                    (Some(top), _) => top.first = found.map_or(0, |entry| entry.offset),
                    (None, _) => {}
                }
            }
            _ if asked.count && part == if asked.entry > 0 { 3 } else { 1 } => {
                let count = reply.count().ok_or(Fault::Malformed)?;
                if let Some(top) = &mut self.tops[index] {
                    top.count = Some(count);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// How many members were added that should have been there; whether there is data of any.
    fn renewed(&mut self, at: usize, reply: &Reply<'_>) -> Result<(), Fault> {
        let number = reply.number().ok_or(Fault::Malformed)?;
        match at {
            0 => self.missing |= number != 0,
            1 => self.missing |= number == 0,
            _ => {}
        }
        Ok(())
    }
}

/// The result of a request whose last reply says all.
fn outcome(request: &Request, reply: &Reply<'_>, again: bool) -> Result<Outcome, Fault> {
    Ok(match request {
        Request::Publish(_, publish) if publish.stream.is_some() => published(reply, again)?,
        Request::Publish(_, publish) if !publish.idempotency_key.is_empty() => {
            let known = reply.text().ok_or(Fault::Malformed)? == b"known";
            Outcome::Published { position: None, suppressed: known && !again }
        }
        Request::Publish(..) => {
            reply.number().ok_or(Fault::Malformed)?;
            Outcome::Published { position: None, suppressed: false }
        }
        Request::History(..) => Outcome::History(history(reply)?),
        Request::Renew(..) => Outcome::Renewed(match reply {
            Reply::Nil => None,
            _ => Some(position(reply)?),
        }),
        Request::Presence(..) => {
            let copy = |info: &[u8]| Bytes::copy_from_slice(info);
            Outcome::Presence(members(reply)?.map(copy).collect())
        }
        Request::PresenceStats(..) => stats(reply)?,
        _ => Outcome::Done,
    })
}

/// Offset, epoch, and why nothing was published.
fn published(reply: &Reply<'_>, again: bool) -> Result<Outcome, Fault> {
    let why = reply.list().and_then(|list| list.get(2)?.text()).ok_or(Fault::Malformed)?;
    if why == b"unsure" {
        return Err(Fault::Unknown);
    }
    let (epoch, offset) = position(reply)?;
    // What the key is known from may be the attempt whose answer was lost.
    let suppressed = why == b"stale" || why == b"known" && !again;
    Ok(Outcome::Published { position: Some((epoch, offset)), suppressed })
}

/// Offset and epoch.
fn position(reply: &Reply<'_>) -> Result<(Epoch, u64), Fault> {
    let [offset, epoch, ..] = reply.list().unwrap_or_default() else {
        return Err(Fault::Malformed);
    };
    let epoch = epoch.str().and_then(Epoch::parse).ok_or(Fault::Malformed)?;
    Ok((epoch, offset.count().ok_or(Fault::Malformed)?))
}

/// The same of a hash, where neither has to be there. Without an epoch there is none.
fn top(reply: &Reply<'_>) -> Result<Option<Top>, Fault> {
    let [top, epoch] = reply.list().unwrap_or_default() else { return Err(Fault::Malformed) };
    if *epoch == Reply::Nil {
        return Ok(None);
    }
    let epoch = epoch.str().and_then(Epoch::parse).ok_or(Fault::Malformed)?;
    let top = match top {
        Reply::Nil => 0,
        top => top.count().ok_or(Fault::Malformed)?,
    };
    Ok(Some(Top { epoch, top, first: 0, entry: None, count: None }))
}

/// Offset, epoch, entries.
fn history(reply: &Reply<'_>) -> Result<Past, Fault> {
    let (epoch, top) = position(reply)?;
    let list = reply.list().and_then(|list| list.get(2)).ok_or(Fault::Malformed)?;
    Ok(Past { epoch, top, entries: entries(list)? })
}

/// Of a stream: each has its id, and fields with their values.
fn entries(reply: &Reply<'_>) -> Result<Vec<Entry>, Fault> {
    let list = reply.list().ok_or(Fault::Malformed)?;
    list.iter().map(|entry| entry_of(entry).ok_or(Fault::Malformed)).collect()
}

fn entry_of(reply: &Reply<'_>) -> Option<Entry> {
    let [id, fields] = reply.list()? else { return None };
    let (offset, _) = id.str()?.split_once('-')?;
    let pairs = fields.list()?.chunks_exact(2);
    let data = pairs.clone().find(|pair| pair[0].text() == Some(b"d"))?[1].text()?;
    Some(Entry { offset: offset.parse().ok()?, data: Bytes::copy_from_slice(data) })
}

fn members<'a>(
    reply: &'a Reply<'a>,
) -> Result<impl ExactSizeIterator<Item = &'a [u8]> + 'a, Fault> {
    let list = reply.list().ok_or(Fault::Malformed)?;
    if list.iter().any(|member| member.text().is_none()) {
        return Err(Fault::Malformed);
    }
    Ok(list.iter().map(|member| member.text().unwrap_or_default()))
}

fn stats(reply: &Reply<'_>) -> Result<Outcome, Fault> {
    let members = members(reply)?;
    let clients = u32::try_from(members.len()).unwrap_or(u32::MAX);
    let mut users = HashSet::new();
    for info in members {
        let info = ClientInfo::decode(info).map_err(|_| Fault::Malformed)?;
        users.insert(info.user);
    }
    let users = u32::try_from(users.len()).unwrap_or(u32::MAX);
    Ok(Outcome::PresenceStats { clients, users })
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
