//! The elder's side of a takeover: what its heir asks of the channels whose home this core is.
//!
//! The heir listens like one more core, by the number [`HEIR`]; its members are guests in rosters.
//! What it asks is done at once, by the same code as for this process's own clients, and in the
//! same order: this core orders.

use std::sync::Arc;

use prost::Message as _;

use super::Hub;
use super::mirror::member;
use crate::gateway::broker::{self, Fault, Message, Outcome, Request};
use crate::gateway::delivery::{Delivery, Happening};
use crate::gateway::handover::Handover;
use crate::gateway::home::told;
use crate::gateway::hub_port::HubPort;
use crate::gateway::letters::{Answer, ClientId, Letter, Publish, Who};
use crate::gateway::stream::{Position, Read, StreamOptions};
use crate::gateway::wire::messages::Publication;

impl Hub {
    /// The control plane says something about a takeover.
    pub(super) fn hand_over(&mut self, out: &mut dyn HubPort, letter: Handover) {
        match letter {
            Handover::Attach(heir) => self.heir = Some(heir),
            Handover::Ask(core, request) => {
                let ticket = request.ticket();
                let outcome = self.fulfil(out, request);
                if let (Some(ticket), Some(heir)) = (ticket, &self.heir) {
                    heir.answer(core, ticket, outcome);
                }
            }
            Handover::Positions { core, ticket, tops, mut found } => {
                let now = out.now();
                for (of, found) in tops.iter().zip(&mut found) {
                    if self.placement.home(&of.channel) == usize::from(self.core) {
                        *found = self.home.top_of(of, now);
                    }
                }
                let next = usize::from(self.core) + 1;
                if next < self.placement.cores() {
                    let letter = Handover::Positions { core, ticket, tops, found };
                    return out.post_urgent(next, Letter::Handover(Box::new(letter)));
                }
                if let Some(heir) = &self.heir {
                    heir.answer(core, ticket, Ok(Outcome::Positions(found)));
                }
            }
            Handover::Detach => {
                self.heir = None;
                self.home.forget_heir(out.now());
            }
            Handover::Records(records, _counted) => self.take_records(out, &records),
            Handover::Succeed(whole, done) => {
                self.succeed(out, whole);
                drop(done);
            }
            Handover::Unanswered(request) => {
                let ticket = request.ticket();
                let outcome = self.fulfil(out, request);
                if let Some(ticket) = ticket {
                    self.answered_late(out, ticket, outcome);
                }
            }
        }
    }

    /// Does what a mirror asks of a home.
    fn fulfil(&mut self, out: &mut dyn HubPort, request: Request) -> Result<Outcome, Fault> {
        let now = out.now();
        match request {
            Request::Listen(names) => {
                let Some(heir) = self.heir.clone() else { return Ok(Outcome::Done) };
                names.iter().for_each(|name| self.home.listen_heir(name));
                heir.listening(names);
            }
            Request::Ignore(names) => {
                names.iter().for_each(|name| self.home.ignore_heir(name, now));
            }
            Request::Publish(_, publish) => return self.publish_for(out, *publish),
            Request::Join(channel, info) => {
                let (client, who) = member(&info).ok_or(Fault::Malformed)?;
                self.spread(out, &channel, Happening::Join(client, who));
            }
            Request::Leave(channel, info) => {
                let (client, who) = member(&info).ok_or(Fault::Malformed)?;
                self.spread(out, &channel, Happening::Leave(client, who));
            }
            Request::History(_, history) => {
                let broker::History { channel, since, limit, reverse, meta_ttl, .. } = *history;
                let since = since.map(|offset| Position { offset, epoch: String::new() });
                let limit = i32::try_from(limit).unwrap_or(i32::MAX);
                let read = Read { since, limit, reverse, ..Read::default() };
                let random = out.random();
                let past = self.home.past(&channel, (&read, meta_ttl), random, now);
                return past.map(Outcome::History);
            }
            Request::HistoryRemove(_, channel) => {
                self.home.remove_history(&channel);
                self.tell_removed(&channel);
            }
            Request::Positions(_, tops) => {
                let tops = tops.iter().map(|of| self.home.top_of(of, now)).collect();
                return Ok(Outcome::Positions(tops));
            }
            // A stream that has one home does not fork: the heir has misread something, and reads
            // it again.
            Request::Renew(_, renew) => {
                let of = broker::TopOf {
                    channel: renew.channel,
                    entry: 0,
                    meta_ttl: None,
                    count: false,
                };
                let top = self.home.top_of(&of, now);
                return Ok(Outcome::Renewed(top.map(|top| (top.epoch, top.top))));
            }
            Request::PresenceAdd(_, channel, members) => {
                for present in members {
                    let (client, who) = member(&present.info).ok_or(Fault::Malformed)?;
                    if self.heir.is_some() {
                        self.home.add_guest(&channel, client, who);
                    }
                }
            }
            Request::PresenceRemove(_, channel, members) => {
                if self.heir.is_some() {
                    members.iter().for_each(|it| self.home.remove_guest(&channel, it.client));
                }
            }
            Request::PresenceRenew(_, channel, clients) => {
                let missing = |client: &_| !self.home.is_present(&channel, *client);
                return Ok(Outcome::Missing(clients.into_iter().filter(missing).collect()));
            }
            Request::Presence(_, channel) => {
                let members = self.home.presence(&channel).into_iter();
                let info = |(client, who): (ClientId, Who)| who.wire(client).encode_to_vec().into();
                return Ok(Outcome::Presence(members.map(info).collect()));
            }
            Request::PresenceStats(_, channel) => {
                let stats = self.home.presence_stats(&channel);
                let (clients, users) = (stats.num_clients, stats.num_users);
                return Ok(Outcome::PresenceStats { clients, users });
            }
        }
        Ok(Outcome::Done)
    }

    fn publish_for(
        &mut self,
        out: &mut dyn HubPort,
        publish: broker::Publish,
    ) -> Result<Outcome, Fault> {
        let broker::Publish { channel, data, stream, delta, idempotency_key, .. } = publish;
        let broker::Publish { version, version_epoch, .. } = publish;
        let Publication { data, info, tags, .. } =
            Publication::decode(data).map_err(|_| Fault::Malformed)?;
        let publish = Publish {
            data,
            is_json: false,
            info: info.map(Box::new),
            tags,
            stream: stream.map(|kept| StreamOptions {
                size: kept.size,
                ttl: kept.ttl,
                meta_ttl: kept.meta_ttl,
            }),
            delta,
            idempotency_key,
            version,
            version_epoch,
        };
        let (now, random) = (out.now(), out.random());
        let published = self.home.publish(&channel, publish, random, now);
        if let Some((key, delivery)) = published.delivery {
            self.fan_out(out, key, &delivery);
        }
        match published.answer {
            Answer::Published { position, suppressed, .. } => {
                let position = position.map(|position| (position.epoch, position.offset));
                Ok(Outcome::Published { position, suppressed })
            }
            _ => Err(Fault::Malformed),
        }
    }

    fn spread(&mut self, out: &mut dyn HubPort, channel: &str, happening: Happening) {
        if let Some((key, delivery)) = self.home.spread(channel, happening) {
            self.fan_out(out, key, &delivery);
        }
    }

    /// The heir listens: this is for it.
    pub(super) fn tell_heir(&self, key: u32, delivery: &Delivery) {
        let Some(heir) = &self.heir else { return };
        let info = |client: &ClientId, who: &Who| who.wire(*client).encode_to_vec().into();
        let message = match delivery.happening() {
            Happening::Published { item, .. } => {
                let data = told(item);
                match self.home.position(key).filter(|_| item.offset > 0) {
                    Some(Position { epoch, .. }) => {
                        Message::Published { epoch, offset: item.offset, data }
                    }
                    None => Message::Passed(data),
                }
            }
            Happening::Join(client, who) => Message::Join(info(client, who)),
            Happening::Leave(client, who) => Message::Leave(info(client, who)),
        };
        heir.message(&delivery.name, message);
    }

    /// A history was removed.
    pub(super) fn tell_removed(&self, channel: &Arc<str>) {
        if let Some(heir) = &self.heir
            && self.home.is_heard(channel)
        {
            heir.message(channel, Message::Removed);
        }
    }
}
