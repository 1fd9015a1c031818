//! What the hub needs and tells while it works: its needs go on to the sessions' port, and what it
//! tells of a connection is put into the client's words.
//!
//! Owns the one implementation of the hub's [`HubPort`]. The hub is at work meanwhile, so nothing
//! here may call it: what needs that is deferred. The invariant: nothing here has the hub at hand.

use std::sync::Arc;
use std::time::Duration;

use super::machine::{CoreState, Deferred};
use super::port::Port;
use super::ticket::{Ticket, Waits, is_call};
use super::{Leads, Session};
use crate::engine::Frame;
use crate::gateway::broker;
use crate::gateway::format::Format;
use crate::gateway::hub_port::{Event, HubPort, Link, Refused};
use crate::gateway::letters::{Answer, Letter};
use crate::gateway::wire::messages::{
    Publication, PublishResult, Push, PushBody, ReplyBody, SubscribePush, SubscribeResult,
};
use crate::gateway::wire::{self, Disconnect, Encoding, Error, Unsubscribe};

/// The way of the hub to the sessions, and through them to all else.
pub(super) struct HubSide<'p, P> {
    pub(super) state: &'p mut CoreState,
    pub(super) port: &'p mut P,
}

impl<P: Port> HubPort for HubSide<'_, P> {
    fn now(&self) -> Duration {
        self.port.now()
    }

    fn unix_millis(&self) -> i64 {
        self.port.unix_millis()
    }

    fn random(&mut self) -> u64 {
        self.port.random()
    }

    fn post(&mut self, core: usize, letter: Letter) -> Result<(), Refused> {
        self.port.post(core, letter)
    }

    fn post_reserved(&mut self, core: usize, letter: Letter) -> Result<(), Refused> {
        self.port.post_reserved(core, letter)
    }

    fn is_behind(&self, core: usize) -> bool {
        self.port.is_behind(core)
    }

    fn post_urgent(&mut self, core: usize, letter: Letter) {
        self.port.post_urgent(core, letter);
    }

    fn broker(&mut self, request: broker::Request) -> Result<(), Refused> {
        self.port.ask_broker(request)
    }

    fn send(&mut self, link: Link, frame: &Frame) {
        self.state.send_at(self.port, link, frame, None);
    }

    fn publication(&mut self, link: Link, frame: &Frame, channel: &str, offset: u64) {
        self.state.send_at(self.port, link, frame, Some((channel, offset)));
    }

    fn event(&mut self, link: Link, event: Event<'_>) {
        match event {
            Event::Answered { ticket, answer } if is_call(ticket) => {
                self.port.answer_call(ticket, answer);
            }
            event => self.state.event(self.port, link, event),
        }
    }
}

impl CoreState {
    fn event(&mut self, port: &mut impl Port, link: Link, event: Event<'_>) {
        if self.table.get_mut(link).is_none() {
            return;
        }
        match event {
            Event::Subscribed { ticket, channel, result, told, .. } => {
                // Who has come will go.
                self.pay_deliveries(port, link, told.saturating_mul(2));
                self.subscribed(port, link, Ticket(ticket), channel, result);
            }
            Event::Unsubscribed { channel, server_side, why, .. } => {
                self.unsubscribed(port, link, channel, server_side, why);
            }
            Event::Answered { ticket, answer } => {
                let ticket = Ticket(ticket);
                match answer {
                    Ok(Answer::Members(members)) => {
                        self.reply_members(port, link, ticket, &members)
                    }
                    Ok(answer) => {
                        if let Answer::Published { receivers, .. } = answer {
                            self.pay_deliveries(port, link, receivers);
                        }
                        self.reply(port, link, ticket, body(answer));
                    }
                    Err(error) => self.fail(port, link, ticket, error),
                }
            }
            Event::Entered { .. } => self.defer(Deferred::Entered(link)),
            Event::Close(disconnect) => self.close(port, link, disconnect),
            Event::Order(order) => self.defer(Deferred::Order(link, order.clone())),
        }
        self.table.weigh(link);
    }

    /// Whether the client's encoding can carry a reply: JSON takes only JSON. Publications that a
    /// subscription recovers are looked at before.
    pub(super) fn can_take(&mut self, link: Link, body: &ReplyBody) -> bool {
        let json = |session: &mut Session| session.encoding() == Encoding::Json;
        if !self.table.get_mut(link).is_some_and(json) {
            return true;
        }
        let fits = |data: &[u8]| data.is_empty() || wire::is_json(data);
        match body {
            ReplyBody::Connect(result) => {
                fits(&result.data) && result.subs.values().all(|sub| fits(&sub.data))
            }
            ReplyBody::Subscribe(result) => fits(&result.data),
            ReplyBody::History(result) => {
                result.publications.iter().all(|publication| wire::is_json(&publication.data))
            }
            ReplyBody::Rpc(result) => fits(&result.data),
            _ => true,
        }
    }

    fn subscribed(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        channel: &Arc<str>,
        result: Result<SubscribeResult, Error>,
    ) {
        let result = result.map(|mut result| {
            let sub = self.table.get_mut(link).and_then(|session| session.sub(channel));
            let expire_at = sub.map_or(0, |sub| {
                result.data = std::mem::take(&mut sub.data);
                // The client has nothing to do where the backend decides.
                if sub.by_backend { 0 } else { sub.expire_at }
            });
            if let Some(session) = self.table.get_mut(link)
                && session.sub(channel).is_some_and(|it| it.expire_at == 0 && it.info.is_empty())
            {
                session.forget_sub(channel);
            }
            (result.expires, result.ttl) = self.watch_subscriptions(port, link, expire_at);
            result
        });
        if result.is_err() {
            self.forget_sub(port, link, channel);
        }
        let revoked = self.table.get_mut(link).and_then(|session| session.take_revoked(channel));
        if let (Ok(_), Some(revoked)) = (&result, revoked) {
            self.defer(Deferred::Revoked(link, Box::new(revoked)));
        }
        match (ticket.waits(), result) {
            (Some(Waits::Command(_)), Ok(result)) => {
                self.reply(port, link, ticket, ReplyBody::Subscribe(Box::new(result)));
                self.open_feed(port, link, channel);
            }
            (Some(Waits::Command(_)), Err(error)) => self.fail(port, link, ticket, error),
            (Some(Waits::Connect), Ok(result)) => self.connect_part(port, link, channel, result),
            // The broker is away: it has waited as long as it may, and comes back later.
            (Some(Waits::Connect), Err(_)) => self.close(port, link, &Disconnect::FORCE_RECONNECT),
            (Some(Waits::Api), Ok(result)) => {
                self.announce(port, link, channel, result);
                // An unsubscribe may have waited for it.
                self.wake(link);
            }
            (Some(Waits::Api), Err(error)) => {
                let channel = &**channel;
                tracing::debug!(channel, %error, "a subscription of the server failed");
                self.wake(link);
            }
            (None, _) => debug_assert!(false, "a ticket nobody gave"),
        }
    }

    /// Tells a client that the server has subscribed it, and what it missed.
    fn announce(
        &mut self,
        port: &mut impl Port,
        link: Link,
        channel: &str,
        result: SubscribeResult,
    ) {
        let json = |session: &mut Session| session.encoding() == Encoding::Json;
        let is_json = self.table.get_mut(link).is_some_and(json);
        if is_json && !result.data.is_empty() && !wire::is_json(&result.data) {
            return self.close(port, link, &Disconnect::INAPPROPRIATE_PROTOCOL);
        }
        let told = result.clone();
        let SubscribeResult { recoverable, positioned, epoch, offset, data, publications, .. } =
            result;
        let begun = SubscribePush { recoverable, epoch, offset, positioned, data };
        self.push(port, link, channel, PushBody::Subscribe(begun));
        for publication in publications {
            let publication = Publication { channel: String::new(), ..publication };
            self.push(port, link, channel, PushBody::Publication(Box::new(publication)));
        }
        // From now on its id names the channel, too.
        if let Some(session) = self.table.get_mut(link)
            && session.format() == Format::UniSse
        {
            session.more().places.begin(channel, &told);
            session.tidy();
        }
    }

    fn unsubscribed(
        &mut self,
        port: &mut impl Port,
        link: Link,
        channel: &str,
        server_side: bool,
        why: &Unsubscribe,
    ) {
        self.forget_sub(port, link, channel);
        if server_side && *why == Unsubscribe::INSUFFICIENT_STATE {
            self.close(port, link, &Disconnect::INSUFFICIENT_STATE);
            return;
        }
        self.tell_unsubscribed(port, link, channel, why);
    }

    /// Tells a client that a subscription is over.
    pub(super) fn tell_unsubscribed(
        &mut self,
        port: &mut impl Port,
        link: Link,
        channel: &str,
        why: &Unsubscribe,
    ) {
        self.stats.unsubscribe(why.code);
        self.push(port, link, channel, PushBody::Unsubscribe(why.clone().into()));
    }

    /// Queues a push for one connection.
    pub(super) fn push(&mut self, port: &mut impl Port, link: Link, channel: &str, body: PushBody) {
        let push = Push { id: 0, channel: channel.to_owned(), body: Some(body) };
        let Some(session) = self.table.get_mut(link) else { return };
        if session.connecting().is_some() {
            // It follows the connect reply.
            let (format, mut element) = (session.format(), Vec::new());
            wire::encode_push(format.encoding(), format.envelope(), &push, &mut element);
            let ends = matches!(push.body, Some(PushBody::Unsubscribe(_)));
            let leads = ends.then(|| Leads::OutOf(channel.into()));
            return self.stash(port, link, &format.frame(element), leads);
        }
        self.say(port, link, |format, batch| {
            wire::encode_push(format.encoding(), format.envelope(), &push, batch);
        });
    }
}

fn body(answer: Answer) -> ReplyBody {
    match answer {
        Answer::Published { .. } => ReplyBody::Publish(PublishResult {}),
        Answer::History(result) => ReplyBody::History(result),
        Answer::PresenceStats(result) => ReplyBody::PresenceStats(result),
        // Clients cannot ask for these, or get them in another way.
        Answer::Done | Answer::Presence(_) | Answer::Members(_) => {
            ReplyBody::Publish(PublishResult {})
        }
    }
}
