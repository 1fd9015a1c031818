//! Connections and subscriptions that expire, and what the server API changes about a connection.

use std::sync::Arc;
use std::time::Duration;

use super::commands::Refusal;
use super::connect::ServerSub;
use super::{ASKED, OPEN, Ticket, Waits, link};
use crate::engine::{ConnId, Cx};
use crate::gateway::app::{Desk, Gateway};
use crate::gateway::letters::{Action, UserOrder};
use crate::gateway::outside::Link;
use crate::gateway::proxy::{GRACE_SECONDS, HookEvent};
use crate::gateway::stats::CommandKind;
use crate::gateway::timers::What;
use crate::gateway::wire::messages::SubscribeRequest;
use crate::gateway::wire::{Disconnect, Unsubscribe};

impl Desk {
    /// Time until a moment, none if it is over.
    pub(super) fn left(&self, unix: i64) -> Duration {
        Duration::from_secs(u64::try_from(unix - self.unix).unwrap_or(0))
    }

    /// Sets when a connection expires (Unix time in seconds; 0 is never). Returns what the client
    /// is told of it.
    pub(super) fn prolong(&mut self, cx: &Cx<'_>, id: ConnId, expire_at: i64) -> (bool, u32) {
        let left = self.left(expire_at);
        let Some(session) = self.sessions.get_mut(id) else { return (false, 0) };
        session.expire_at = u32::try_from(expire_at).unwrap_or(u32::MAX);
        session.set(ASKED, false);
        if expire_at <= 0 {
            session.expire_at = 0;
            self.timers.clear(link(id), What::Connection);
            return (false, 0);
        }
        let delay = match self.rules.options.client.proxy.refresh.enabled {
            true => Duration::ZERO,
            false => self.rules.options.client.expired_close_delay,
        };
        self.timers.set(cx.now() + left + delay, link(id), What::Connection);
        (true, left.as_secs().max(1) as u32)
    }
}

impl Gateway {
    /// A deadline of a session came; it may matter no longer.
    pub(in crate::gateway) fn expire(&mut self, cx: &mut Cx<'_>, link: Link, what: What) {
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

    fn expire_connection(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        let unix = self.desk.unix;
        let client = &self.desk.rules.options.client;
        let by_backend = client.proxy.refresh.enabled;
        let delay = client.expired_close_delay;
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        let at = i64::from(session.expire_at);
        // While the backend thinks, the deadline is that of its answer.
        let asks = by_backend && !session.is(ASKED);
        let grace = if asks { 0 } else { delay.as_secs() as i64 };
        if at == 0 {
            return;
        }
        if at + grace > unix {
            // The clock of the world goes slower than ours.
            let left = self.desk.left(at + grace);
            self.desk.timers.set(cx.now() + left, link(id), What::Connection);
            return;
        }
        if asks {
            session.set(ASKED, true);
            self.desk.timers.set(cx.now() + delay, link(id), What::Connection);
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

    fn expire_subscriptions(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        let unix = self.desk.unix;
        let delay = self.desk.rules.options.client.expired_sub_close_delay.as_secs() as i64;
        let Some(session) = self.desk.sessions.get_mut(id) else { return };
        let Some(client) = session.client() else { return };
        let Some(more) = &session.more else { return };
        let over =
            more.subs.iter().filter(|sub| sub.expire_at > 0 && sub.expire_at + delay <= unix);
        let over: Vec<_> = over.map(|sub| (sub.channel.clone(), sub.server_side)).collect();
        for (channel, server_side) in over {
            if server_side {
                self.desk.close(cx, id, &Disconnect::SUBSCRIPTION_EXPIRED);
                return;
            }
            if let Some(session) = self.desk.sessions.get_mut(id) {
                session.forget_sub(&channel);
            }
            if self.with_hub(cx, |hub, out| hub.unsubscribe(out, client, &channel)) {
                self.desk.tell_unsubscribed(cx, id, &channel, &Unsubscribe::EXPIRED);
            }
        }
        self.desk.watch_subscriptions(cx, id, 0);
        self.desk.sessions.weigh(id);
    }

    /// Does what the server API wants of a connection.
    pub(in crate::gateway) fn obey(&mut self, cx: &mut Cx<'_>, link: Link, order: &Arc<UserOrder>) {
        let id = self.desk.id(link);
        match &order.action {
            Action::Subscribe(wanted) => {
                let sub = ServerSub {
                    channel: wanted.channel.clone(),
                    info: wanted.info.clone(),
                    data: wanted.data.clone(),
                    expire_at: wanted.expire_at,
                    overrides: wanted.overrides,
                    cached: false,
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
                if refresh.expired {
                    self.desk.close(cx, id, &Disconnect::EXPIRED);
                    return;
                }
                if let (Some(info), Some(session)) = (&refresh.info, self.desk.sessions.get_mut(id))
                {
                    session.more().conn_info = info.clone();
                    session.tidy();
                }
                self.desk.prolong(cx, id, refresh.expire_at);
            }
            // The hub does these by itself.
            Action::Unsubscribe { .. } | Action::Disconnect(_) => {}
        }
        self.desk.sessions.weigh(id);
    }

    /// Tells a client what came of a command that something else decided about.
    pub(super) fn conclude(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        ticket: Ticket,
        outcome: Result<(), Refusal>,
    ) {
        self.desk.sessions.weigh(id);
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
    }
}
