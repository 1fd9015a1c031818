//! What an operator sees of a core: its figures, its connections, and who did not read.
//!
//! Never changes anything but the memory of who was closed as slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::machine::Sessions;
use super::port::Port;
use crate::engine::Cause;
use crate::gateway::hub_port::{ClientKey, Link};
use crate::gateway::inspect::{CHANNELS_NAMED, Connection, Found, Inspect, Slow, SlowEnd};
use crate::gateway::placement::Placement;
use crate::gateway::rulebook::Rulebook;
use crate::gateway::state::Vault;
use crate::gateway::stats::GatewayStats;

impl Sessions {
    /// Which core is the home of what.
    pub(in crate::gateway) fn placement(&self) -> &Placement {
        self.hub.placement()
    }

    /// The rules at present.
    pub(in crate::gateway) fn rules(&self) -> &Arc<Rulebook> {
        &self.state.rules
    }

    /// Other rules, from now on.
    pub(in crate::gateway) fn set_rules(&mut self, rules: Arc<Rulebook>) {
        self.state.rules = rules;
    }

    /// Writes down what the channels hold whose home this is.
    pub(in crate::gateway) fn keep(&mut self, now: Duration, vault: &dyn Vault) {
        self.hub.keep(now, vault);
    }

    /// Whether clients were refused something that is to be told.
    pub(in crate::gateway) fn has_refusals(&self) -> bool {
        !self.state.refusals.is_empty()
    }

    /// Writes what clients were refused. `address`: of the one whose message it was.
    pub(in crate::gateway) fn tell_refusals(&mut self, address: Option<SocketAddr>) {
        self.state.refusals.write(address);
    }

    /// What is counted here.
    pub(in crate::gateway) fn stats(&self) -> GatewayStats {
        let mut stats = self.state.stats.clone();
        let (gauges, hub) = (self.hub.gauges(), self.hub.counters());
        stats.mirror = self.hub.mirror_counters().unwrap_or_default();
        let c = &mut stats.counters;
        c.clients = gauges.clients as u64;
        c.users = gauges.users as u64;
        c.subscriptions = gauges.subscriptions as u64;
        c.channels = gauges.active_channels as u64;
        c.channels_known = gauges.channels as u64;
        c.history_bytes = gauges.history_bytes as u64;
        c.idempotency_keys = gauges.idempotency_keys as u64;
        c.deadlines = self.state.timers.len() as u64;
        c.session_bytes = (self.state.table.bytes() + gauges.subscription_bytes) as u64;
        c.filter_bytes = gauges.filter_bytes as u64;
        c.subscribes = hub.subscribed;
        c.publications = hub.home.published;
        c.publications_repeated = hub.home.suppressed;
        c.deliveries = hub.sent;
        c.recoveries = hub.home.recovered;
        c.recoveries_failed = hub.home.unrecovered;
        c.positions_lost = hub.insufficient;
        c.letters_refused = hub.letters_refused + hub.home.deliveries_refused;
        c.history_dropped = hub.home.history_dropped;
        stats
    }

    /// Answers an operator.
    pub(in crate::gateway) fn inspect(&mut self, port: &mut impl Port, inspect: Inspect) {
        match inspect {
            Inspect::Channels(search, reply) => {
                reply.answer(Ok(Found::of_channels(self.hub.channels(), &search)));
            }
            Inspect::Users(search, reply) => {
                reply.answer(Ok(Found::of_users(self.hub.users().names(), &search)));
            }
            Inspect::User(name, limit, reply) => {
                let of_user = self.hub.users().of(&name);
                let keys: Vec<_> = of_user.take(limit).map(|(key, _)| key).collect();
                let all = keys.into_iter().filter_map(|key| {
                    let mut connection = self.connection(port, key)?;
                    let channels = self.hub.subscriptions(key).take(CHANNELS_NAMED);
                    connection.channels = channels.map(|s| s.channel.clone()).collect();
                    Some(connection)
                });
                reply.answer(Ok(all.collect()));
            }
            Inspect::Slow(ids, reply) => {
                let now = ids.into_iter().map(|id| {
                    let session = self.state.table.get_mut(Link(id.to_bits()));
                    let key = session.and_then(|session| session.client());
                    (id, key.and_then(|key| self.connection(port, key)))
                });
                let now = now.collect();
                let ended = self.state.slow_ends.iter().cloned().collect();
                reply.answer(Ok(Slow { now, ended }));
            }
        }
    }

    /// A connection, without its channels.
    fn connection(&mut self, port: &mut impl Port, key: ClientKey) -> Option<Connection> {
        let user = self.hub.users().name_of(key).cloned().unwrap_or_default();
        let client = self.hub.users().get(key)?;
        let link = client.link();
        // Its session may be gone by now.
        let since = self.state.table.get_mut(link).map_or(0, |session| session.since());
        Some(Connection {
            core: self.state.core,
            client: client.id(),
            user,
            peer: port.peer(link),
            transport: client.format().transport(),
            since: since.into(),
            encoding: client.format().encoding(),
            subscriptions: client.subscriptions(),
            channels: Vec::new(),
        })
    }

    /// Remembers a connection that is about to go, if it goes because it did not read.
    pub(super) fn remember_slow(
        &mut self,
        port: &mut impl Port,
        (key, since): (ClientKey, u32),
        cause: Cause,
    ) {
        use Cause::{OutboxFull, Slow, Trickle, WriteTimeout};
        if !matches!(cause, Slow | WriteTimeout | Trickle | OutboxFull) {
            return;
        }
        self.state.unix = port.unix();
        let at = self.state.unix;
        if let Some(mut connection) = self.connection(port, key) {
            connection.since = since.into();
            self.state.slow_ends.push(SlowEnd { at, cause, connection });
        }
    }
}
