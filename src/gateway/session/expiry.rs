//! Connections and subscriptions that expire, and what the server API changes about a connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::commands::CommandError;
use super::connect::ServerSub;
use super::machine::{CoreState, Sessions};
use super::order::Run;
use super::port::Port;
use super::ticket::{Ticket, Waits};
use super::timers::What;
use super::{ASKED, OPEN, Revoked};
use crate::gateway::hooks::{GRACE_SECONDS, HookEvent, HookReply, HookResult, SubRefreshReply};
use crate::gateway::hub_port::Link;
use crate::gateway::letters::{Action, UserOrder};
use crate::gateway::stats::CommandKind;
use crate::gateway::wire::messages::{PushBody, RefreshPush, SubscribeRequest};
use crate::gateway::wire::{Disconnect, Unsubscribe};

impl CoreState {
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
    pub(super) fn prolong(&mut self, port: &impl Port, link: Link, expire_at: i64) -> (bool, u32) {
        let (left, ttl) = (self.left(expire_at), self.ttl(expire_at));
        let Some(session) = self.table.get_mut(link) else { return (false, 0) };
        // In the year 2106 it is asked anew.
        session.expire_at = u32::try_from(expire_at).unwrap_or(u32::MAX);
        session.set(ASKED, false);
        if expire_at <= 0 {
            session.expire_at = 0;
            self.timers.clear(link, What::Connection);
            return (false, 0);
        }
        let delay = match self.rules.options.hooks.refresh {
            true => Duration::ZERO,
            false => self.rules.options.client.expired_close_delay,
        };
        let at = port.now().saturating_add(left).saturating_add(delay);
        self.timers.set(at, link, What::Connection);
        (true, ttl)
    }
}

impl Sessions {
    /// A deadline of a session came; it may matter no longer. Returns commands that waited for it.
    pub(super) fn expire(
        &mut self,
        port: &mut impl Port,
        link: Link,
        what: What,
    ) -> Option<Run<'static>> {
        let session = self.state.table.get_mut(link)?;
        match what {
            What::Stale if !session.is(OPEN) => self.state.close(port, link, &Disconnect::STALE),
            What::Stale => {}
            What::Connection => self.expire_connection(port, link),
            What::Subscription => self.expire_subscriptions(port, link),
            What::Commands => return self.go_on(link),
        }
        None
    }

    fn expire_connection(&mut self, port: &mut impl Port, link: Link) {
        let unix = self.state.unix;
        let client = &self.state.rules.options.client;
        let by_backend = self.state.rules.options.hooks.refresh;
        let delay = client.expired_close_delay;
        let Some(session) = self.state.table.get_mut(link) else { return };
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
            let left = self.state.left(until);
            self.state.timers.set(port.now().saturating_add(left), link, What::Connection);
            return;
        }
        if asks {
            session.set(ASKED, true);
            self.state.timers.set(port.now().saturating_add(delay), link, What::Connection);
            let now = port.now().as_millis() as u64;
            let ticket = Ticket::new(Waits::Command(CommandKind::Refresh), now, 0);
            // Without an answer the next deadline closes. Where there was no room to ask, it is not
            // the connection's fault.
            if self.ask_backend(port, link, ticket, HookEvent::Refresh).is_err() {
                self.state.prolong(port, link, unix + GRACE_SECONDS);
            }
            return;
        }
        self.state.close(port, link, &Disconnect::EXPIRED);
    }

    fn expire_subscriptions(&mut self, port: &mut impl Port, link: Link) {
        let unix = self.state.unix;
        let delay = whole_seconds(self.state.rules.options.client.expired_sub_close_delay);
        let Some(session) = self.state.table.get_mut(link) else { return };
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
                true => self.ask_for_subscription(port, link, &channel),
                false => self.end_subscription(port, link, &channel, server_side),
            }
        }
        self.state.watch_subscriptions(port, link, 0);
        self.state.table.weigh(link);
    }

    /// A subscription has expired: the one of a client ends, that of the server takes its
    /// connection along.
    fn end_subscription(
        &mut self,
        port: &mut impl Port,
        link: Link,
        channel: &str,
        server_side: bool,
    ) {
        let Some(session) = self.state.table.get_mut(link) else { return };
        let Some(client) = session.client() else { return };
        // Also where the connection goes: until it has, nothing may be due again.
        self.state.forget_sub(port, link, channel);
        if server_side {
            return self.state.close(port, link, &Disconnect::SUBSCRIPTION_EXPIRED);
        }
        if self.with_hub(port, |hub, out| hub.unsubscribe(out, client, channel)) {
            self.state.tell_unsubscribed(port, link, channel, &Unsubscribe::EXPIRED);
        }
    }

    /// Asks the backend whether a subscription may stay.
    fn ask_for_subscription(&mut self, port: &mut impl Port, link: Link, channel: &str) {
        let now = port.now().as_millis() as u64;
        let ticket = Ticket::new(Waits::Command(CommandKind::SubRefresh), now, 0);
        let event = HookEvent::SubRefresh { channel: channel.to_owned() };
        // Where there was no room to ask, it is not the subscription's fault.
        if self.ask_backend(port, link, ticket, event).is_err() {
            self.renew_sub(port, link, channel, self.state.unix + GRACE_SECONDS, Bytes::new());
        }
    }

    /// The backend has said whether a subscription may stay.
    pub(super) fn sub_refreshed(
        &mut self,
        port: &mut impl Port,
        link: Link,
        (channel, expire_at): (&str, i64),
        result: HookResult,
    ) {
        let grace = self.state.unix + GRACE_SECONDS;
        let Some(session) = self.state.table.get_mut(link) else { return };
        // It may have ended meanwhile, and perhaps begun anew, or have been refreshed: then the
        // backend was asked about another time.
        let sub = session.sub(channel).filter(|sub| sub.asked && sub.expire_at == expire_at);
        let Some(sub) = sub else { return };
        let server_side = sub.server_side;
        let reply = match result {
            Ok(HookReply::SubRefresh(reply)) => reply,
            _ => SubRefreshReply { expire_at: grace, ..SubRefreshReply::default() },
        };
        if reply.expired || self.state.is_over(reply.expire_at) {
            self.end_subscription(port, link, channel, server_side);
        } else {
            self.renew_sub(port, link, channel, reply.expire_at, reply.info.unwrap_or_default());
        }
        self.state.watch_subscriptions(port, link, 0);
        self.state.table.weigh(link);
    }

    /// Does what the server API wants of a connection.
    pub(super) fn obey(&mut self, port: &mut impl Port, link: Link, order: &Arc<UserOrder>) {
        let Some(session) = self.state.table.get_mut(link) else { return };
        if let Some(connecting) = session.connecting() {
            if let Action::Unsubscribe { channel, .. } = &order.action {
                // What began is over already, so what would begin now has to be over, too.
                let ends = |name: &str| channel.as_deref().is_none_or(|channel| *channel == *name);
                connecting.orders.retain(|earlier| match &earlier.action {
                    Action::Subscribe(wanted) => !ends(&wanted.channel),
                    _ => true,
                });
            }
            // What it is told of this follows its connect reply, which is made already.
            connecting.orders.push(order.clone());
            return;
        }
        match &order.action {
            Action::Subscribe(wanted) => {
                if self.state.is_over(wanted.expire_at) {
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
                let _ = self.subscribe_by_server(port, link, Waits::Api, 0, sub, request);
            }
            Action::Refresh(refresh) => {
                if refresh.expired || self.state.is_over(refresh.expire_at) {
                    self.state.close(port, link, &Disconnect::EXPIRED);
                    return;
                }
                let info = refresh.info.clone().unwrap_or_default();
                self.renew(port, link, &info, &Bytes::new());
                let (expires, ttl) = self.state.prolong(port, link, refresh.expire_at);
                self.state.push(port, link, "", PushBody::Refresh(RefreshPush { expires, ttl }));
            }
            Action::Unsubscribe { channel, why } => {
                self.revoke_pending(link, channel.as_deref(), why);
            }
            // The hub does it by itself.
            Action::Disconnect(_) => {}
        }
        self.state.table.weigh(link);
    }

    /// The same for an order that waited for the connect reply: what was answered meanwhile ends.
    pub(super) fn obey_late(&mut self, port: &mut impl Port, link: Link, order: &Arc<UserOrder>) {
        let client = self.state.table.get_mut(link).and_then(|session| session.client());
        if let (Action::Unsubscribe { channel, why }, Some(client)) = (&order.action, client) {
            let matches = |name: &str| channel.as_deref().is_none_or(|channel| *channel == *name);
            let subs = self.hub.subscriptions(client);
            let over = subs.filter(|sub| !sub.pending && matches(sub.channel));
            let over: Vec<Box<str>> = over.map(|sub| Box::from(&**sub.channel)).collect();
            for channel in over {
                self.revoke(port, link, &Revoked { channel, why: why.clone() });
            }
        }
        self.obey(port, link, order);
    }

    /// Subscriptions to this channel or to any that are under way shall end with their answers.
    fn revoke_pending(&mut self, link: Link, channel: Option<&str>, why: &Unsubscribe) {
        let matches = |name: &str| channel.is_none_or(|channel| *channel == *name);
        let Some(session) = self.state.table.get_mut(link) else { return };
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
    pub(super) fn revoke(&mut self, port: &mut impl Port, link: Link, revoked: &Revoked) {
        let Some(session) = self.state.table.get_mut(link) else { return };
        let Some(client) = session.client() else { return };
        self.state.forget_sub(port, link, &revoked.channel);
        if self.with_hub(port, |hub, out| hub.unsubscribe(out, client, &revoked.channel)) {
            self.state.tell_unsubscribed(port, link, &revoked.channel, &revoked.why);
        }
        self.state.table.weigh(link);
    }

    /// A connection has new information, as far as it is not empty; its channels learn of it.
    pub(super) fn renew(&mut self, port: &mut impl Port, link: Link, info: &Bytes, meta: &Bytes) {
        let Some(session) = self.state.table.get_mut(link) else { return };
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
            self.inform(port, link, &channel);
        }
    }

    /// The members of a channel shall see of a connection what is known of it now.
    pub(super) fn inform(&mut self, port: &mut impl Port, link: Link, channel: &Arc<str>) {
        let Some(session) = self.state.table.get_mut(link) else { return };
        let Some(client) = session.client() else { return };
        let conn_info =
            session.more.as_ref().map(|more| more.conn_info.clone()).unwrap_or_default();
        let chan_info = session.sub(channel).map(|sub| sub.info.clone()).unwrap_or_default();
        self.with_hub(port, |hub, out| hub.inform(out, client, channel, (conn_info, chan_info)));
    }

    /// Tells a client what came of a command that something else decided about.
    pub(super) fn conclude(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        outcome: Result<(), CommandError>,
    ) {
        match outcome.map_err(CommandError::at_once) {
            Ok(()) | Err(CommandError::Later) => {}
            Err(CommandError::Error(error)) => {
                if ticket.waits() == Some(Waits::Command(CommandKind::Connect)) {
                    // It was the last command, and what is kept for it goes now.
                    self.give_up(port, link);
                }
                self.state.fail(port, link, ticket, error);
            }
            Err(CommandError::Disconnect(disconnect)) => self.state.close(port, link, &disconnect),
        }
        self.state.table.weigh(link);
    }
}

/// A time in whole seconds, capped.
pub(super) fn whole_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
