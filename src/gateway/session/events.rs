//! What the hub tells of a connection, put into the client's words. The hub is at work meanwhile,
//! so nothing here may call it.

use std::sync::Arc;

use super::{Session, Ticket, Waits};
use crate::engine::{ConnId, Context};
use crate::gateway::app::{Desk, Later};
use crate::gateway::calls;
use crate::gateway::format::Format;
use crate::gateway::letters::Answer;
use crate::gateway::outside::{Event, Link};
use crate::gateway::wire::messages::{
    Publication, PublishResult, Push, PushBody, ReplyBody, SubscribePush, SubscribeResult,
};
use crate::gateway::wire::{self, Disconnect, Encoding, Error, Unsubscribe};

impl Desk {
    pub(in crate::gateway) fn event(&mut self, cx: &mut Context<'_>, link: Link, event: Event<'_>) {
        let event = match event {
            Event::Answered { ticket, answer } if calls::is_call(ticket) => {
                return self.call_answered(cx, ticket, answer);
            }
            event => event,
        };
        let id = self.id(link);
        if self.sessions.get_mut(id).is_none() {
            return;
        }
        match event {
            Event::Subscribed { ticket, channel, result, told, .. } => {
                // Who has come will go.
                self.pay_deliveries(cx, id, told.saturating_mul(2));
                self.subscribed(cx, id, Ticket(ticket), channel, result);
            }
            Event::Unsubscribed { channel, server_side, why, .. } => {
                self.unsubscribed(cx, id, channel, server_side, why);
            }
            Event::Answered { ticket, answer } => {
                let ticket = Ticket(ticket);
                match answer {
                    Ok(Answer::Members(members)) => self.reply_members(cx, id, ticket, &members),
                    Ok(answer) => {
                        if let Answer::Published { receivers, .. } = answer {
                            self.pay_deliveries(cx, id, receivers);
                        }
                        self.reply(cx, id, ticket, body(answer));
                    }
                    Err(error) => self.fail(cx, id, ticket, error),
                }
            }
            Event::Entered { .. } => self.put_aside(Later::Entered(link)),
            Event::Close(disconnect) => self.close(cx, id, disconnect),
            Event::Order(order) => self.put_aside(Later::Order(link, order.clone())),
        }
        self.sessions.weigh(id);
    }

    /// Whether the client's encoding can carry a reply: JSON takes only JSON. Publications that a
    /// subscription recovers are looked at before.
    pub(super) fn can_take(&mut self, id: ConnId, body: &ReplyBody) -> bool {
        let json = |session: &mut Session| session.encoding() == Encoding::Json;
        if !self.sessions.get_mut(id).is_some_and(json) {
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
        cx: &mut Context<'_>,
        id: ConnId,
        ticket: Ticket,
        channel: &Arc<str>,
        result: Result<SubscribeResult, Error>,
    ) {
        let result = result.map(|mut result| {
            let sub = self.sessions.get_mut(id).and_then(|session| session.sub(channel));
            let expire_at = sub.map_or(0, |sub| {
                result.data = std::mem::take(&mut sub.data);
                // The client has nothing to do where the backend decides.
                if sub.by_backend { 0 } else { sub.expire_at }
            });
            if let Some(session) = self.sessions.get_mut(id)
                && session.sub(channel).is_some_and(|it| it.expire_at == 0 && it.info.is_empty())
            {
                session.forget_sub(channel);
            }
            (result.expires, result.ttl) = self.watch_subscriptions(cx, id, expire_at);
            result
        });
        if result.is_err() {
            self.forget_sub(id, channel);
        }
        let revoked = self.sessions.get_mut(id).and_then(|session| session.take_revoked(channel));
        if let (Ok(_), Some(revoked)) = (&result, revoked) {
            self.put_aside(Later::Revoked(super::link(id), Box::new(revoked)));
        }
        match (ticket.waits(), result) {
            (Some(Waits::Command(_)), Ok(result)) => {
                self.reply(cx, id, ticket, ReplyBody::Subscribe(Box::new(result)));
                self.open_feed(id, channel);
            }
            (Some(Waits::Command(_)), Err(error)) => self.fail(cx, id, ticket, error),
            (Some(Waits::Connect), Ok(result)) => self.connect_part(cx, id, channel, result),
            // The broker is away: it has waited as long as it may, and comes back later.
            (Some(Waits::Connect), Err(_)) => self.close(cx, id, &Disconnect::FORCE_RECONNECT),
            (Some(Waits::Api), Ok(result)) => {
                self.announce(cx, id, channel, result);
                // An unsubscribe may have waited for it.
                self.wake(id);
            }
            (Some(Waits::Api), Err(error)) => {
                let channel = &**channel;
                tracing::debug!(channel, %error, "a subscription of the server failed");
                self.wake(id);
            }
            (None, _) => debug_assert!(false, "a ticket nobody gave"),
        }
    }

    /// Tells a client that the server has subscribed it, and what it missed.
    fn announce(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnId,
        channel: &str,
        result: SubscribeResult,
    ) {
        let json = |session: &mut Session| session.encoding() == Encoding::Json;
        let is_json = self.sessions.get_mut(id).is_some_and(json);
        if is_json && !result.data.is_empty() && !wire::is_json(&result.data) {
            return self.close(cx, id, &Disconnect::INAPPROPRIATE_PROTOCOL);
        }
        let told = result.clone();
        let SubscribeResult { recoverable, positioned, epoch, offset, data, publications, .. } =
            result;
        let begun = SubscribePush { recoverable, epoch, offset, positioned, data };
        self.push(cx, id, channel, PushBody::Subscribe(begun));
        for publication in publications {
            let publication = Publication { channel: String::new(), ..publication };
            self.push(cx, id, channel, PushBody::Publication(Box::new(publication)));
        }
        // From now on its id names the channel, too.
        if let Some(session) = self.sessions.get_mut(id)
            && session.format() == Format::UniSse
        {
            session.more().places.begin(channel, &told);
            session.tidy();
        }
    }

    fn unsubscribed(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnId,
        channel: &str,
        server_side: bool,
        why: &Unsubscribe,
    ) {
        self.forget_sub(id, channel);
        if server_side && *why == Unsubscribe::INSUFFICIENT_STATE {
            self.close(cx, id, &Disconnect::INSUFFICIENT_STATE);
            return;
        }
        self.tell_unsubscribed(cx, id, channel, why);
    }

    /// Tells a client that a subscription is over.
    pub(super) fn tell_unsubscribed(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnId,
        channel: &str,
        why: &Unsubscribe,
    ) {
        self.stats.unsubscribe(why.code);
        self.push(cx, id, channel, PushBody::Unsubscribe(why.clone().into()));
    }

    /// Queues a push for one connection.
    pub(super) fn push(&mut self, cx: &mut Context<'_>, id: ConnId, channel: &str, body: PushBody) {
        let push = Push { id: 0, channel: channel.to_owned(), body: Some(body) };
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.connecting().is_some() {
            // It follows the connect reply.
            let (format, mut element) = (session.format(), Vec::new());
            wire::encode_push(format.encoding(), format.envelope(), &push, &mut element);
            return self.send_at(cx, super::link(id), &format.frame(element), None);
        }
        self.say(cx, id, |format, batch| {
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
