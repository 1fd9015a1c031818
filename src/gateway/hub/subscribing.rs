//! Subscriptions begin and end, on both sides.

use std::sync::Arc;

use bytes::Bytes;

use super::Hub;
use crate::gateway::delivery::{Item, chain};
use crate::gateway::filter::Filter;
use crate::gateway::hub_port::{ClientKey, Event, HubPort, SubKey};
use crate::gateway::letters::{
    ClientId, InformLetter, Letter, Member, Recover, SubscribeLetter, SubscribedLetter,
    UnsubscribeLetter, Who,
};
use crate::gateway::local::{Begin, Confirmed, Ended, Wants, cost};
use crate::gateway::stream::StreamOptions;
use crate::gateway::wire::messages::{Publication, SubscribeResult};
use crate::gateway::wire::{self, Disconnect, Encoding, Error, Unsubscribe};

/// A subscription as the session has decided about it.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    /// Comes back with [`Event::Subscribed`].
    pub ticket: u64,
    /// What of the channel it wants.
    pub wants: Wants,
    /// The channel's options. Needed to be positioned, and to recover.
    pub stream: Option<StreamOptions>,
    /// What to recover. Also without the client asking for it, where the newest publication shall
    /// come with the reply.
    pub recover: Option<Recover>,
    /// Which publications it wants.
    pub filter: Option<Arc<Filter>>,
    /// It appears in presence.
    pub present: bool,
    /// Others are told when it comes and goes.
    pub announced: bool,
    /// For presence, join and leave. Raw.
    pub conn_info: Bytes,
    /// For presence, join and leave. Raw.
    pub chan_info: Bytes,
}

impl Hub {
    /// Subscribes a connection. [`Event::Subscribed`] tells the outcome, perhaps before this
    /// returns.
    ///
    /// # Errors
    /// [`Error::ALREADY_SUBSCRIBED`], also while an earlier subscription to this channel is
    /// not answered; [`Error::LIMIT_EXCEEDED`] if its filter finds no room;
    /// [`Error::TOO_MANY_REQUESTS`] if the home core has no room for the letter.
    /// There is no event then.
    pub fn subscribe(
        &mut self,
        out: &mut dyn HubPort,
        key: ClientKey,
        channel: &str,
        subscribe: Subscribe,
    ) -> Result<SubKey, Error> {
        let user = self.users.name_of(key).cloned().ok_or(Error::INTERNAL)?;
        let client = self.users.get_mut(key).ok_or(Error::INTERNAL)?;
        let Subscribe { ticket, wants, filter, present, announced, .. } = subscribe;
        let Subscribe { conn_info, chan_info, .. } = subscribe;
        let more = filter.as_ref().map_or(0, |filter| cost(filter));
        if more > 0 && self.locals.filter_bytes() + more > self.filters_max {
            return Err(Error::LIMIT_EXCEEDED);
        }
        let member = (present || announced).then(|| Member {
            client: client.id(),
            info: Who { user, conn_info, chan_info },
            present,
            announced,
        });
        let begin = Begin { wants, member: member.is_some(), filter: filter.clone() };
        let begun = self.locals.begin(key, client, channel, begin);
        let begun = begun.ok_or(Error::ALREADY_SUBSCRIBED)?;
        let positioned = wants.positioned || wants.recoverable || subscribe.recover.is_some();
        let letter = SubscribeLetter {
            channel: begun.channel,
            core: self.core,
            sub: begun.sub,
            nonce: begun.nonce,
            ticket,
            delta: wants.delta,
            stream: subscribe.stream.filter(|_| positioned),
            recover: subscribe.recover,
            filter,
            member,
            hears: wants.joins,
        };
        let home = self.placement.home(channel);
        let posted = self.post(out, home, Letter::Subscribe(Box::new(letter)));
        if posted.is_err()
            && let Some(client) = self.users.get_mut(key)
        {
            self.locals.end(client, begun.sub);
        }
        posted.map(|()| begun.sub)
    }

    /// Ends a connection's subscription, answered or not. No event tells. False if there is none.
    pub fn unsubscribe(&mut self, out: &mut dyn HubPort, key: ClientKey, channel: &str) -> bool {
        let client = self.users.get(key);
        let sub = client.and_then(|client| self.locals.find(client, channel));
        sub.is_some_and(|sub| self.end(out, key, sub, None))
    }

    /// What others see of a connection in its channel is this from now on.
    pub fn inform(
        &mut self,
        out: &mut dyn HubPort,
        key: ClientKey,
        channel: &Arc<str>,
        (conn_info, chan_info): (Bytes, Bytes),
    ) {
        let Some(client) = self.users.get(key) else { return };
        if !self.locals.find(client, channel).is_some_and(|sub| self.locals.is_member(sub)) {
            return;
        }
        let client = client.id();
        let letter = InformLetter { channel: channel.clone(), client, conn_info, chan_info };
        let home = self.placement.home(channel);
        self.post_urgent(out, home, Letter::Inform(Box::new(letter)));
    }

    /// Ends a subscription, and tells the session if it does not know.
    pub(super) fn end(
        &mut self,
        out: &mut dyn HubPort,
        key: ClientKey,
        sub: SubKey,
        why: Option<&Unsubscribe>,
    ) -> bool {
        let Some(client) = self.users.get_mut(key) else { return false };
        let (id, link) = (client.id(), client.link());
        let Some(ended) = self.locals.end(client, sub) else { return false };
        if let Some(why) = why {
            let (channel, server_side) = (&ended.channel, ended.server_side);
            out.event(link, Event::Unsubscribed { sub, channel, server_side, why });
        }
        self.withdraw(out, ended, id);
        true
    }

    /// Takes back at the home core what a subscription asked for.
    pub(super) fn withdraw(&mut self, out: &mut dyn HubPort, ended: Ended, client: ClientId) {
        let Ended { sub, channel, member, joins, .. } = ended;
        let home = self.placement.home(&channel);
        let member = member.then_some(client);
        let letter = UnsubscribeLetter { channel, core: self.core, sub, member, hears: joins };
        self.post_urgent(out, home, Letter::Unsubscribe(letter));
    }

    /// Home: one more subscriber.
    pub(super) fn subscribe_at_home(&mut self, out: &mut dyn HubPort, letter: SubscribeLetter) {
        if self.is_mirror() {
            return self.subscribe_mirrored(out, letter);
        }
        let core = letter.core;
        let random = out.random();
        let (answer, join) = self.home.subscribe(letter, random, out.now());
        self.post_urgent(out, core.into(), Letter::Subscribed(Box::new(answer)));
        if let Some((key, delivery)) = join {
            self.fan_out(out, key, &delivery);
        }
    }

    /// Home: one subscriber less.
    pub(super) fn unsubscribe_at_home(
        &mut self,
        out: &mut dyn HubPort,
        letter: &UnsubscribeLetter,
    ) {
        if self.is_mirror() {
            return self.unsubscribe_mirrored(out, letter);
        }
        if let Some((key, delivery)) = self.home.unsubscribe(letter, out.now()) {
            self.fan_out(out, key, &delivery);
        }
    }

    /// The home core has let a subscriber in.
    pub(super) fn subscribed(&mut self, out: &mut dyn HubPort, letter: SubscribedLetter) {
        // It may have ended in the meantime; then its withdrawal is under way.
        let Some(confirmed) = self.locals.confirm(&letter) else { return };
        self.counters.subscribed += 1;
        let (sub, ticket, link) = (letter.sub, letter.ticket, confirmed.link);
        let told = letter.told;
        let refused = match &letter.refused {
            Some(error) => Some((**error).clone()),
            None => letter.is_rejected().then_some(Error::UNRECOVERABLE_POSITION),
        };
        let channel = confirmed.channel.clone();
        let channel = &channel;
        if let Some(error) = refused {
            let result = Err(error);
            out.event(link, Event::Subscribed { sub, ticket, channel, told, result });
            if let Some(client) = self.locals.client(sub) {
                self.end(out, client, sub, None);
            }
            return;
        }
        match result(letter, &confirmed) {
            Some(result) => {
                let result = Ok(result);
                out.event(link, Event::Subscribed { sub, ticket, channel, told, result });
            }
            None => {
                self.counters.not_json += 1;
                out.event(link, Event::Close(&Disconnect::INAPPROPRIATE_PROTOCOL));
            }
        }
    }
}

/// What to reply to a subscriber. `None` if something is not JSON, which is all the client knows.
fn result(letter: SubscribedLetter, confirmed: &Confirmed) -> Option<SubscribeResult> {
    let Confirmed { wants, format, .. } = confirmed;
    let encoding = format.encoding();
    let mut result = SubscribeResult {
        recoverable: wants.recoverable,
        positioned: wants.positioned,
        delta: wants.delta,
        id: if wants.compact { letter.channel.wire() } else { 0 },
        ..SubscribeResult::default()
    };
    if let Some(top) = letter.top {
        result.epoch = top.epoch.as_str().to_owned();
        result.offset = top.offset;
    }
    if let Some(recovered) = letter.recovered {
        result.was_recovering = true;
        if let Some(items) = recovered.items {
            result.recovered = true;
            // The client's own position: it goes on from there as it takes the publications.
            result.offset = recovered.since;
            result.publications = match wants.delta {
                true => chain(encoding, &items)?,
                false => plain(encoding, &items)?,
            };
        }
    }
    Some(result)
}

fn plain(encoding: Encoding, items: &[Arc<Item>]) -> Option<Vec<Publication>> {
    let fits = |item: &&Arc<Item>| encoding == Encoding::Protobuf || wire::is_json(&item.data);
    items.iter().map(|item| Some(&item).filter(|item| fits(item)).map(|item| item.wire())).collect()
}
