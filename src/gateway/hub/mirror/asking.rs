//! Questions about channels: answered by what lies here, or by the broker, which is asked once for
//! all who ask the same.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::checks::Checked;
use super::messages::{item, member};
use super::{Hub, Mirror};
use crate::gateway::broker::{self, Fault, History, Kept, Outcome, Request, Ticket};
use crate::gateway::home::line::{KNOWN, seconds};
use crate::gateway::hub_port::HubPort;
use crate::gateway::letters::{Answer, Ask, Asker, ClientId, IDEMPOTENCY_TTL, Publish, Question};
use crate::gateway::stream::{Epoch, Position, Read, StreamOptions};
use crate::gateway::wire::messages::{HistoryResult, PresenceStatsResult, Publication};
use crate::gateway::wire::{self, Encoding, Error};

/// What the broker was asked for.
#[derive(Debug)]
pub(super) enum Pending {
    /// To publish. `prolongs`: its history lives longer then.
    Publish { channel: Arc<str>, asker: Asker, prolongs: bool },
    /// For a part of a history, by these.
    History { channel: Arc<str>, askers: Vec<(Asker, Read)> },
    /// To forget a history.
    Remove { channel: Arc<str>, asker: Asker },
    /// For members, by these.
    Presence { channel: Arc<str>, askers: Vec<(Asker, Form)> },
    /// For their number, by these.
    PresenceStats { channel: Arc<str>, askers: Vec<Asker> },
    /// For what a channel here needs of its history.
    Read { channel: Arc<str> },
    /// For positions.
    Positions(Vec<Checked>),
    /// For a new epoch.
    Renew { channel: Arc<str> },
    /// To let members live longer.
    Renewal { channel: Arc<str> },
    /// For what nobody waits for.
    Nothing,
}

/// How members are told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// One by one.
    Members,
    /// As a client takes them, and so many bytes at most.
    Encoded { encoding: Encoding, max: usize },
}

/// Questions that are the same have the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    History { since: Option<u64>, limit: u32, reverse: bool },
    Presence,
    PresenceStats,
}

impl Hub {
    /// Home: answers from memory, or asks the broker.
    pub(in crate::gateway::hub) fn ask_mirrored(&mut self, out: &mut dyn HubPort, ask: Ask) {
        let Ask { channel, question, asker } = ask;
        match question {
            Question::Publish(publish) => self.publish_mirrored(out, channel, publish, asker),
            Question::History { stream, read } => {
                self.history_mirrored(out, channel, stream, read, asker);
            }
            Question::HistoryRemove => {
                self.close(&channel);
                let pending = Pending::Remove { channel: channel.clone(), asker };
                let remove = |ticket| Request::HistoryRemove(ticket, channel);
                self.ask_for(out, pending, remove);
            }
            Question::Presence => self.presence_mirrored(out, channel, asker, Form::Members),
            Question::Members { encoding, max } => {
                let form = Form::Encoded { encoding, max };
                self.presence_mirrored(out, channel, asker, form);
            }
            Question::PresenceStats => {
                let asker = match self.join(&channel, Kind::PresenceStats) {
                    Some(Pending::PresenceStats { askers, .. }) => return askers.push(asker),
                    _ => asker,
                };
                let pending =
                    Pending::PresenceStats { channel: channel.clone(), askers: vec![asker] };
                let name = channel.clone();
                let ask = |ticket| Request::PresenceStats(ticket, name);
                self.ask_openly(out, channel, Kind::PresenceStats, pending, ask);
            }
        }
    }

    fn publish_mirrored(
        &mut self,
        out: &mut dyn HubPort,
        channel: Arc<str>,
        publish: Publish,
        asker: Asker,
    ) {
        let now = seconds(out.now());
        let Publish { data, info, tags, stream, delta, idempotency_key, .. } = publish;
        let Publish { version, version_epoch, .. } = publish;
        let prolonged = self.home.line_of(&channel).map(|(_, line)| line.prolonged);
        let prolonged = prolonged.filter(|at| *at > 0);
        let stream = stream.map(|StreamOptions { size, ttl, meta_ttl }| {
            // Nobody remembers for a channel that nobody listens to.
            let since = prolonged.map_or(u32::MAX, |at| now.saturating_sub(at));
            let (renew, fresh) = (is_due(since, ttl, meta_ttl), Epoch::new(out.random()));
            Kept { size: size.max(1), ttl, meta_ttl, renew, fresh }
        });
        let time = out.unix_millis();
        let info = info.map(|info| *info);
        let data = Publication { data, info, tags, version, time, ..Publication::default() };
        let mirror = self.mirror();
        mirror.sequence += 1;
        let publish = broker::Publish {
            channel: channel.clone(),
            data: data.encode_to_vec().into(),
            stream,
            delta,
            idempotency_key,
            idempotency_ttl: IDEMPOTENCY_TTL,
            version,
            version_epoch,
            sequence: mirror.sequence,
        };
        self.close(&channel);
        let prolongs = stream.is_some_and(|stream| stream.renew);
        let pending = Pending::Publish { channel, asker, prolongs };
        self.ask_for(out, pending, |ticket| Request::Publish(ticket, Box::new(publish)));
    }

    fn history_mirrored(
        &mut self,
        out: &mut dyn HubPort,
        channel: Arc<str>,
        options: StreamOptions,
        read: Read,
        asker: Asker,
    ) {
        let since = read.since.as_ref().map(|since| since.offset);
        if read.reverse && since == Some(0) {
            return self.answer(out, asker, Err(Error::BAD_REQUEST));
        }
        if let Some(past) = self.home.retained(&channel, &options, &read, out.now()) {
            self.mirror().counters.local_answers += 1;
            let answer = past.map(|(position, items)| HistoryResult {
                publications: items.iter().map(|item| item.wire()).collect(),
                epoch: position.epoch.as_str().to_owned(),
                offset: position.offset,
            });
            return self.answer(out, asker, answer.map(Answer::History));
        }
        let max = if read.max == 0 { u32::MAX } else { read.max };
        let limit = u32::try_from(read.limit).unwrap_or(u32::MAX).min(max);
        let kind = Kind::History { since, limit, reverse: read.reverse };
        let asked = match self.join(&channel, kind) {
            Some(Pending::History { askers, .. }) => return askers.push((asker, read)),
            _ => (asker, read),
        };
        let history = History {
            channel: channel.clone(),
            since,
            limit,
            reverse: asked.1.reverse,
            meta_ttl: options.meta_ttl,
            fresh: Epoch::new(out.random()),
        };
        let pending = Pending::History { channel: channel.clone(), askers: vec![asked] };
        let ask = |ticket| Request::History(ticket, Box::new(history));
        self.ask_openly(out, channel, kind, pending, ask);
    }

    fn presence_mirrored(
        &mut self,
        out: &mut dyn HubPort,
        channel: Arc<str>,
        asker: Asker,
        form: Form,
    ) {
        let asker = match self.join(&channel, Kind::Presence) {
            Some(Pending::Presence { askers, .. }) => return askers.push((asker, form)),
            _ => asker,
        };
        let pending = Pending::Presence { channel: channel.clone(), askers: vec![(asker, form)] };
        let name = channel.clone();
        let ask = |ticket| Request::Presence(ticket, name);
        self.ask_openly(out, channel, Kind::Presence, pending, ask);
    }

    /// The same question, if it is under way and nothing was changed from here since.
    fn join(&mut self, channel: &str, kind: Kind) -> Option<&mut Pending> {
        let Mirror { open, pending, counters, .. } = self.mirror();
        let (_, ticket) = open.get(channel)?.iter().find(|(of, _)| *of == kind)?;
        let pending = pending.get_mut(ticket)?;
        counters.local_answers += 1;
        Some(pending)
    }

    /// Who asks from here on wants to see what is about to change.
    pub(super) fn close(&mut self, channel: &str) {
        self.mirror().open.remove(channel);
    }

    fn ask_openly(
        &mut self,
        out: &mut dyn HubPort,
        channel: Arc<str>,
        kind: Kind,
        pending: Pending,
        request: impl FnOnce(Ticket) -> Request,
    ) {
        if let Some(ticket) = self.ask_for(out, pending, request) {
            self.mirror().open.entry(channel).or_default().push((kind, ticket));
        }
    }

    /// Asks the broker, or answers that there is no room to.
    fn ask_for(
        &mut self,
        out: &mut dyn HubPort,
        pending: Pending,
        request: impl FnOnce(Ticket) -> Request,
    ) -> Option<Ticket> {
        match self.ask_broker(out, pending, request) {
            Ok(ticket) => Some(ticket),
            Err(pending) => {
                self.fail(out, pending, &Error::TOO_MANY_REQUESTS);
                None
            }
        }
    }

    /// Tells all who asked that there is no answer.
    fn fail(&mut self, out: &mut dyn HubPort, pending: Pending, error: &Error) {
        let askers = match pending {
            Pending::Publish { asker, .. } | Pending::Remove { asker, .. } => vec![asker],
            Pending::History { askers, .. } => askers.into_iter().map(|(asker, _)| asker).collect(),
            Pending::Presence { askers, .. } => {
                askers.into_iter().map(|(asker, _)| asker).collect()
            }
            Pending::PresenceStats { askers, .. } => askers,
            _ => return,
        };
        for asker in askers {
            self.answer(out, asker, Err(error.clone()));
        }
    }

    /// The broker has answered.
    pub(in crate::gateway::hub) fn answered(
        &mut self,
        out: &mut dyn HubPort,
        ticket: Ticket,
        answer: Result<Outcome, Fault>,
    ) {
        let Some(pending) = self.mirror().pending.remove(&ticket) else { return };
        if let Some(channel) = pending.shared() {
            self.shut(&channel.clone(), ticket);
        }
        match (pending, answer) {
            (
                Pending::Publish { channel, asker, prolongs },
                Ok(Outcome::Published { position, suppressed }),
            ) => {
                if prolongs && !suppressed {
                    self.prolonged(&channel, seconds(out.now()).max(1));
                }
                if let Some(place) = position {
                    self.promise(&channel, place);
                }
                let position = position.map(|(epoch, offset)| Position { offset, epoch });
                let receivers = if suppressed { 0 } else { self.home.audience(&channel) };
                self.home.count_published(suppressed);
                let answer = Answer::Published { position, suppressed, receivers };
                self.answer(out, asker, Ok(answer));
            }
            (Pending::History { askers, .. }, Ok(Outcome::History(past))) => {
                for (asker, read) in askers {
                    let answer = part(&past, &read, out);
                    self.answer(out, asker, answer.map(Answer::History));
                }
            }
            (Pending::Remove { channel, asker }, Ok(Outcome::Done)) => {
                self.home.remove_history(&channel);
                self.answer(out, asker, Ok(Answer::Done));
            }
            (Pending::Presence { askers, .. }, Ok(Outcome::Presence(members))) => {
                self.tell_members(out, askers, &members);
            }
            (
                Pending::PresenceStats { askers, .. },
                Ok(Outcome::PresenceStats { clients, users }),
            ) => {
                let stats = PresenceStatsResult { num_clients: clients, num_users: users };
                for asker in askers {
                    self.answer(out, asker, Ok(Answer::PresenceStats(stats)));
                }
            }
            (Pending::Read { channel }, Ok(Outcome::History(past))) => {
                self.past(out, &channel, ticket, Ok(past));
            }
            (Pending::Read { channel }, answer) => {
                self.past(out, &channel, ticket, Err(fault(answer)));
            }
            (Pending::Positions(checked), Ok(Outcome::Positions(tops))) => {
                self.tops(out, checked, Ok(tops));
            }
            (Pending::Positions(checked), answer) => self.tops(out, checked, Err(fault(answer))),
            (Pending::Renew { channel }, answer) => {
                self.renewed(out, channel, matches!(answer, Ok(Outcome::Renewed(_))));
            }
            (Pending::Renewal { channel }, Ok(Outcome::Missing(clients))) => {
                self.missing(out, &channel, &clients);
            }
            (pending, answer) => self.fail(out, pending, &fault(answer).error()),
        }
    }

    /// A question is answered: who asks the same asks anew.
    fn shut(&mut self, channel: &str, ticket: Ticket) {
        let open = &mut self.mirror().open;
        if let Some(questions) = open.get_mut(channel) {
            questions.retain(|(_, of)| *of != ticket);
            if questions.is_empty() {
                open.remove(channel);
            }
        }
    }

    fn prolonged(&mut self, channel: &str, now: u32) {
        if let Some((_, line)) = self.home.line_of(channel) {
            line.prolonged = now;
        }
    }

    /// Whoever published is told the place, and may ask for the history next: what lies here is
    /// too old until the publication has come.
    fn promise(&mut self, channel: &Arc<str>, place: (Epoch, u64)) {
        let Some((key, line)) = self.home.line_of(channel) else { return };
        if !line.is(KNOWN) {
            return;
        }
        let Some(ours) = self.home.position(key) else { return };
        if ours.epoch != place.0 {
            self.doubt(channel, false);
        } else if place.1 <= ours.offset {
            return;
        }
        self.home.promise(key, place);
    }

    fn tell_members(
        &mut self,
        out: &mut dyn HubPort,
        askers: Vec<(Asker, Form)>,
        members: &[Bytes],
    ) {
        let members: Vec<_> = members.iter().filter_map(member).collect();
        let mut copies: [Option<Bytes>; 2] = [None, None];
        for (asker, form) in askers {
            let answer = match form {
                Form::Members => Ok(Answer::Presence(members.clone())),
                Form::Encoded { encoding, max } => {
                    let copy = &mut copies[usize::from(encoding == Encoding::Protobuf)];
                    let copy = copy.get_or_insert_with(|| encode(encoding, &members));
                    match copy.len() <= max {
                        true => Ok(Answer::Members(copy.clone())),
                        false => Err(Error::LIMIT_EXCEEDED),
                    }
                }
            };
            self.answer(out, asker, answer);
        }
    }
}

impl Pending {
    /// The channel, of questions that others may share.
    fn shared(&self) -> Option<&Arc<str>> {
        match self {
            Self::History { channel, .. }
            | Self::Presence { channel, .. }
            | Self::PresenceStats { channel, .. } => Some(channel),
            _ => None,
        }
    }
}

/// Why there is no result; also a result of something else is none.
fn fault(answer: Result<Outcome, Fault>) -> Fault {
    answer.err().unwrap_or(Fault::Malformed)
}

fn encode(encoding: Encoding, members: &[(ClientId, crate::gateway::letters::Who)]) -> Bytes {
    let members = members.iter().map(|(client, who)| who.wire(*client));
    wire::encode_members(encoding, members).into()
}

/// Whether the life of a history begins anew with this publication: after a tenth of it.
fn is_due(since: u32, ttl: std::time::Duration, meta_ttl: std::time::Duration) -> bool {
    let shortest = if meta_ttl.is_zero() { ttl } else { ttl.min(meta_ttl) };
    // Seconds are counted by their beginnings.
    u64::from(since) + 1 >= (shortest / 10).as_secs()
}

/// What somebody asked for of the history that came.
fn part(past: &broker::Past, read: &Read, out: &mut dyn HubPort) -> Result<HistoryResult, Error> {
    if read.since.as_ref().is_some_and(|since| !since.is_of(&past.epoch)) {
        return Err(Error::UNRECOVERABLE_POSITION);
    }
    let since = read.since.as_ref().map(|since| since.offset);
    // There is nothing to go back from.
    let beyond = read.reverse && since.is_some_and(|since| since > past.top.saturating_add(1));
    let entries = if beyond { &[][..] } else { &past.entries[..] };
    let mut room = if read.max_bytes == 0 { usize::MAX } else { read.max_bytes };
    let mut publications = Vec::new();
    for entry in entries {
        let Some(item) = item(&entry.data, entry.offset, out.now()) else { continue };
        if item.cost() > room && !publications.is_empty() {
            break;
        }
        room = room.saturating_sub(item.cost());
        publications.push(Arc::new(item).wire());
    }
    let (epoch, offset) = (past.epoch.as_str().to_owned(), past.top);
    Ok(HistoryResult { publications, epoch, offset })
}
