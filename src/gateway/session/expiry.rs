//! Connections and subscriptions that expire, and what the server API changes about a connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::commands::Refusal;
use super::connect::ServerSub;
use super::{ASKED, OPEN, Revoked, Ticket, Waits, link};
use crate::engine::{ConnId, Context};
use crate::gateway::app::{Desk, Gateway};
use crate::gateway::letters::{Action, UserOrder};
use crate::gateway::outside::Link;
use crate::gateway::proxy::{GRACE_SECONDS, HookEvent, HookReply, HookResult, SubRefreshReply};
use crate::gateway::stats::CommandKind;
use crate::gateway::timers::What;
use crate::gateway::wire::messages::{PushBody, RefreshPush, SubscribeRequest};
use crate::gateway::wire::{Disconnect, Unsubscribe};

impl Desk {
    /// Time until a moment, none if it is over.
    pub(super) fn left(&self, unix: i64) -> Duration {
        Duration::from_secs(u64::try_from(unix.saturating_sub(self.unix)).unwrap_or(0))
    }

    /// What a client is told of the same: at least a second, or it would ask at once.
    pub(super) fn ttl(&self, unix: i64) -> u32 {
        u32::try_from(self.left(unix).as_secs()).unwrap_or(u32::MAX).max(1)
    }

    /// Whether a moment is over. 0 never comes.
    pub(super) fn is_over(&self, expire_at: i64) -> bool {
        expire_at > 0 && expire_at <= self.unix
    }

    /// Sets when a connection expires (Unix time in seconds; 0 is never). Returns what the client
    /// is told of it.
    pub(super) fn prolong(&mut self, cx: &Context<'_>, id: ConnId, expire_at: i64) -> (bool, u32) {
        let (left, ttl) = (self.left(expire_at), self.ttl(expire_at));
        let Some(session) = self.sessions.get_mut(id) else { return (false, 0) };
        // In the year 2106 it is asked anew.
        session.expire_at = u32::try_from(expire_at).unwrap_or(u32::MAX);
        session.set(ASKED, false);
        if expire_at <= 0 {
            session.expire_at = 0;
            self.timers.clear(link(id), What::Connection);
            return (false, 0);
        }
        let delay = match self.rules.options.hooks.refresh {
            true => Duration::ZERO,
            false => self.rules.options.client.expired_close_delay,
        };
        let at = cx.now().saturating_add(left).saturating_add(delay);
        self.timers.set(at, link(id), What::Connection);
        (true, ttl)
    }
}

impl Gateway {
    /// A deadline of a session came; it may matter no longer.
    pub(in crate::gateway) fn expire(&mut self, cx: &mut Context<'_>, link: Link, what: What) {
        let id = self.desk.id(link);
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        match what {
            What::Stale if !session.is(OPEN) => self.desk.close(cx, id, &Disconnect::STALE),
            What::Stale => {}
            What::Connection => self.expire_connection(cx, id),
            What::Subscription => self.expire_subscriptions(cx, id),
            What::Commands => self.go_on(cx, id),
        }
    }

    fn expire_connection(&mut self, cx: &mut Context<'_>, id: ConnId) {
        let unix = self.desk.unix;
        let client = &self.desk.rules.options.client;
        let by_backend = self.desk.rules.options.hooks.refresh;
        let delay = client.expired_close_delay;
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        let at = i64::from(session.expire_at);
        // While the backend thinks, the deadline is that of its answer.
        let asks = by_backend && !session.is(ASKED);
        let grace = if asks { 0 } else { whole_seconds(delay) };
        if at == 0 {
            return;
        }
        let until = at.saturating_add(grace);
        if until > unix {
            // The clock of the world goes slower than ours.
            let left = self.desk.left(until);
            self.desk.timers.set(cx.now().saturating_add(left), link(id), What::Connection);
            return;
        }
        if asks {
            session.set(ASKED, true);
            self.desk.timers.set(cx.now().saturating_add(delay), link(id), What::Connection);
            let now = cx.now().as_millis() as u64;
            let ticket = Ticket::new(Waits::Command(CommandKind::Refresh), now, 0);
            // Without an answer the next deadline closes. Where there was no room to ask, it is not
            // the connection's fault.
            if self.ask_backend(id, ticket, HookEvent::Refresh).is_err() {
                self.desk.prolong(cx, id, unix + GRACE_SECONDS);
            }
            return;
        }
        self.desk.close(cx, id, &Disconnect::EXPIRED);
    }

    fn expire_subscriptions(&mut self, cx: &mut Context<'_>, id: ConnId) {
        let unix = self.desk.unix;
        let delay = whole_seconds(self.desk.rules.options.client.expired_sub_close_delay);
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        let Some(more) = &mut session.more else { return };
        let mut over = Vec::new();
        for sub in &mut more.subs {
            if sub.due(delay).is_some_and(|at| at <= unix) {
                sub.asked = sub.by_backend;
                over.push((sub.channel.clone(), sub.server_side, sub.by_backend));
            }
        }
        for (channel, server_side, by_backend) in over {
            match by_backend {
                true => self.ask_for_subscription(cx, id, &channel),
                false => self.end_subscription(cx, id, &channel, server_side),
            }
        }
        self.desk.watch_subscriptions(cx, id, 0);
        self.desk.sessions.weigh(id);
    }

    /// A subscription has expired: the one of a client ends, that of the server takes its
    /// connection along.
    fn end_subscription(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnId,
        channel: &str,
        server_side: bool,
    ) {
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        let Some(client) = session.client() else { return };
        // Also where the connection goes: until it has, nothing may be due again.
        self.desk.forget_sub(id, channel);
        if server_side {
            return self.desk.close(cx, id, &Disconnect::SUBSCRIPTION_EXPIRED);
        }
        if self.with_hub(cx, |hub, out| hub.unsubscribe(out, client, channel)) {
            self.desk.tell_unsubscribed(cx, id, channel, &Unsubscribe::EXPIRED);
        }
    }

    /// Asks the backend whether a subscription may stay.
    fn ask_for_subscription(&mut self, cx: &mut Context<'_>, id: ConnId, channel: &str) {
        let now = cx.now().as_millis() as u64;
        let ticket = Ticket::new(Waits::Command(CommandKind::SubRefresh), now, 0);
        let event = HookEvent::SubRefresh { channel: channel.to_owned() };
        // Where there was no room to ask, it is not the subscription's fault.
        if self.ask_backend(id, ticket, event).is_err() {
            self.renew_sub(cx, id, channel, self.desk.unix + GRACE_SECONDS, Bytes::new());
        }
    }

    /// The backend has said whether a subscription may stay.
    pub(super) fn sub_refreshed(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnId,
        channel: &str,
        result: HookResult,
    ) {
        let grace = self.desk.unix + GRACE_SECONDS;
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        // It may have ended meanwhile, and perhaps begun anew.
        let Some(sub) = session.sub(channel).filter(|sub| sub.asked) else { return };
        let server_side = sub.server_side;
        let reply = match result {
            Ok(HookReply::SubRefresh(reply)) => reply,
            _ => SubRefreshReply { expire_at: grace, ..SubRefreshReply::default() },
        };
        if reply.expired || self.desk.is_over(reply.expire_at) {
            self.end_subscription(cx, id, channel, server_side);
        } else {
            self.renew_sub(cx, id, channel, reply.expire_at, reply.info.unwrap_or_default());
        }
        self.desk.watch_subscriptions(cx, id, 0);
        self.desk.sessions.weigh(id);
    }

    /// Does what the server API wants of a connection.
    pub(in crate::gateway) fn obey(
        &mut self,
        cx: &mut Context<'_>,
        link: Link,
        order: &Arc<UserOrder>,
    ) {
        let id = self.desk.id(link);
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        if let Some(connecting) = session.connecting() {
            // What it is told of this follows its connect reply, which is made already.
            connecting.orders.push(order.clone());
            return;
        }
        match &order.action {
            Action::Subscribe(wanted) => {
                if self.desk.is_over(wanted.expire_at) {
                    tracing::debug!(channel = wanted.channel, "a subscription has expired before");
                    return;
                }
                let sub = ServerSub {
                    channel: wanted.channel.clone(),
                    info: wanted.info.clone(),
                    data: wanted.data.clone(),
                    expire_at: wanted.expire_at,
                    overrides: wanted.overrides,
                    cached: false,
                    by_token: false,
                };
                let since = wanted.recover_since.clone();
                let request = since.map(|since| SubscribeRequest {
                    recover: true,
                    offset: since.offset,
                    epoch: since.epoch,
                    ..SubscribeRequest::default()
                });
                // It may be subscribed already, which is what was wanted.
                let _ = self.subscribe_by_server(cx, id, Waits::Api, 0, sub, request);
            }
            Action::Refresh(refresh) => {
                if refresh.expired || self.desk.is_over(refresh.expire_at) {
                    self.desk.close(cx, id, &Disconnect::EXPIRED);
                    return;
                }
                let info = refresh.info.clone().unwrap_or_default();
                self.renew(cx, id, &info, &Bytes::new());
                let (expires, ttl) = self.desk.prolong(cx, id, refresh.expire_at);
                self.desk.push(cx, id, "", PushBody::Refresh(RefreshPush { expires, ttl }));
            }
            Action::Unsubscribe { channel, why } => {
                self.revoke_pending(id, channel.as_deref(), why);
            }
            // The hub does it by itself.
            Action::Disconnect(_) => {}
        }
        self.desk.sessions.weigh(id);
    }

    /// The same for an order that waited for the connect reply: what was answered meanwhile ends.
    pub(in crate::gateway) fn obey_late(
        &mut self,
        cx: &mut Context<'_>,
        link: Link,
        order: &Arc<UserOrder>,
    ) {
        let id = self.desk.id(link);
        let client = self.desk.sessions.get_mut(id).and_then(|session| session.client());
        if let (Action::Unsubscribe { channel, why }, Some(client)) = (&order.action, client) {
            let matches = |name: &str| channel.as_deref().is_none_or(|channel| *channel == *name);
            let subs = self.hub.subscriptions(client);
            let over = subs.filter(|sub| !sub.pending && matches(sub.channel));
            let over: Vec<Box<str>> = over.map(|sub| Box::from(&**sub.channel)).collect();
            for channel in over {
                self.revoke(cx, link, &Revoked { channel, why: why.clone() });
            }
        }
        self.obey(cx, link, order);
    }

    /// Subscriptions to this channel or to any that are under way shall end with their answers.
    fn revoke_pending(&mut self, id: ConnId, channel: Option<&str>, why: &Unsubscribe) {
        let matches = |name: &str| channel.is_none_or(|channel| *channel == *name);
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        let asked = session.more.iter().flat_map(|more| &more.reserved);
        let mut under_way: Vec<Box<str>> = asked.filter(|name| matches(name)).cloned().collect();
        if let Some(client) = session.client() {
            let pending = self.hub.subscriptions(client);
            let pending = pending.filter(|sub| sub.pending && matches(sub.channel));
            under_way.extend(pending.map(|sub| Box::from(&**sub.channel)));
        }
        for channel in under_way {
            session.revoke(&channel, why);
        }
    }

    /// Ends a subscription that was answered just now.
    pub(in crate::gateway) fn revoke(
        &mut self,
        cx: &mut Context<'_>,
        link: Link,
        revoked: &Revoked,
    ) {
        let id = self.desk.id(link);
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        let Some(client) = session.client() else { return };
        self.desk.forget_sub(id, &revoked.channel);
        if self.with_hub(cx, |hub, out| hub.unsubscribe(out, client, &revoked.channel)) {
            self.desk.tell_unsubscribed(cx, id, &revoked.channel, &revoked.why);
        }
        self.desk.sessions.weigh(id);
    }

    /// A connection has new information, as far as it is not empty; its channels learn of it.
    pub(super) fn renew(&mut self, cx: &mut Context<'_>, id: ConnId, info: &Bytes, meta: &Bytes) {
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        if !meta.is_empty() {
            session.more().meta = meta.clone();
        }
        if info.is_empty() || session.more.as_ref().is_some_and(|more| more.conn_info == *info) {
            return;
        }
        session.more().conn_info = info.clone();
        let Some(client) = session.client() else { return };
        let channels: Vec<_> =
            self.hub.subscriptions(client).map(|sub| sub.channel.clone()).collect();
        for channel in channels {
            self.inform(cx, id, &channel);
        }
    }

    /// The members of a channel shall see of a connection what is known of it now.
    pub(super) fn inform(&mut self, cx: &mut Context<'_>, id: ConnId, channel: &Arc<str>) {
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        let Some(client) = session.client() else { return };
        let conn_info =
            session.more.as_ref().map(|more| more.conn_info.clone()).unwrap_or_default();
        let chan_info = session.sub(channel).map(|sub| sub.info.clone()).unwrap_or_default();
        self.with_hub(cx, |hub, out| hub.inform(out, client, channel, (conn_info, chan_info)));
    }

    /// Tells a client what came of a command that something else decided about.
    pub(super) fn conclude(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnId,
        ticket: Ticket,
        outcome: Result<(), Refusal>,
    ) {
        match outcome.map_err(Refusal::at_once) {
            Ok(()) | Err(Refusal::Later) => {}
            Err(Refusal::Error(error)) => {
                if ticket.waits() == Some(Waits::Command(CommandKind::Connect))
                    && let Some(session) = self.desk.sessions.get_mut(id)
                {
                    // It was the last command, and what is kept for it goes now.
                    session.more().connecting = None;
                    session.tidy();
                }
                self.desk.fail(cx, id, ticket, error);
            }
            Err(Refusal::Disconnect(disconnect)) => self.desk.close(cx, id, &disconnect),
        }
        self.desk.sessions.weigh(id);
    }
}

/// A time in whole seconds, capped.
pub(super) fn whole_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
