//! What the gateway counts on one core. Plain numbers, written by their core only; other threads
//! ask for a copy. What the engine counts (bytes, frames, heartbeats, refusals) is in
//! [`crate::Counters`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::format::Transport;
use super::hub::MirrorCounters;
use super::wire::Error;
use crate::common::counters::counters;

counters! {
    /// Counters of the gateway, of one core or summed. Names are stable.
    pub struct GatewayCounters {
        /// Connections past their connect command.
        clients: Gauge,
        /// Different users among them, counted per core.
        users: Gauge,
        /// Channels with subscribers, counted on their home cores.
        channels: Gauge,
        /// Subscriptions, client-side and server-side.
        subscriptions: Gauge,
        /// Channels that exist for whatever reason, also as the memory of a stream.
        channels_known: Gauge,
        /// Idempotency keys remembered.
        idempotency_keys: Gauge,
        /// Deadlines of sessions that are to come.
        deadlines: Gauge,
        /// Bytes that histories take: publications kept, positions of channels without subscribers,
        /// idempotency keys.
        history_bytes: Gauge,
        /// Bytes that tag filters of subscriptions take.
        filter_bytes: Gauge,
        /// Bytes that streams' clients have posted and that wait for their sessions, the same on
        /// all cores and told by the first.
        emulation_bytes: Gauge,
        /// Connect commands that succeeded.
        connects: Total,
        /// Subscribe commands and server-side subscriptions that succeeded.
        subscribes: Total,
        /// Publications accepted, from clients and from the server API.
        publications: Total,
        /// Publications dropped because their idempotency key or version had been seen.
        publications_repeated: Total,
        /// Publications, joins and leaves queued for subscribers, one per receiver.
        deliveries: Total,
        /// Subscribers that asked for recovery and missed nothing.
        recoveries: Total,
        /// Subscribers that asked for recovery of what is not kept any more.
        recoveries_failed: Total,
        /// Kept publications forgotten early, because memory for history was used up.
        history_dropped: Total,
        /// Subscribers found behind their stream, and told so.
        positions_lost: Total,
        /// Connection and subscription tokens refused.
        tokens_refused: Total,
        /// Subscriptions that clients asked for and that channels, permissions or the backend
        /// refused.
        subscriptions_refused: Total,
        /// Publications of clients that channels, permissions or the backend refused.
        publications_refused: Total,
        /// Bytes of what sessions hold: subscriptions, information, commands that wait.
        session_bytes: Gauge,
        /// Sessions and subscriptions refused, because memory for sessions was used up.
        session_memory_refused: Total,
        /// Commands that waited: their connection had used up its share, or another core had no
        /// room.
        commands_delayed: Total,
        /// Messages of clients that could not be decoded.
        undecodable: Total,
        /// Requests of streams' clients (`/emulation`) passed on to their sessions.
        emulated: Total,
        /// Such requests answered with 400, 404 or 503.
        emulation_refused: Total,
        /// Such requests for sessions that are not there (any more).
        emulation_lost: Total,
        /// Questions to the backend refused because their connection had too many under way.
        hooks_limited: Total,
        /// Letters between cores that found a mailbox full.
        letters_refused: Total,
    }
}

macro_rules! commands {
    ($($name:literal => $variant:ident,)+) => {
        /// What a client can command.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum CommandKind {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        impl CommandKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name, as in the protocol.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

commands! {
    "connect" => Connect,
    "subscribe" => Subscribe,
    "unsubscribe" => Unsubscribe,
    "publish" => Publish,
    "presence" => Presence,
    "presence_stats" => PresenceStats,
    "history" => History,
    "rpc" => Rpc,
    "send" => Send,
    "refresh" => Refresh,
    "sub_refresh" => SubRefresh,
}

/// How many transports there are.
const TRANSPORTS: usize = Transport::ALL.len();

/// How many kinds of commands there are.
const COMMANDS: usize = CommandKind::ALL.len();

/// A copy of what one core, or all, counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatewayStats {
    /// Plain counters.
    pub counters: GatewayCounters,
    /// Of channels that a broker orders.
    pub mirror: MirrorCounters,
    /// Connections there are and were, by transport.
    transports: [(u64, u64); TRANSPORTS],
    /// Time from a command's arrival to its reply.
    commands: [Durations; COMMANDS],
    /// Error replies by command and code. At most as many as there are codes: applications' codes
    /// are counted as 400.
    errors: BTreeMap<(CommandKind, u32), u64>,
    /// Calls of the server API served by the cores, by method.
    api_calls: BTreeMap<&'static str, Durations>,
    /// Error answers among them by method and code.
    api_errors: BTreeMap<(&'static str, u32), u64>,
    /// Connections closed by the gateway, by code.
    disconnects: BTreeMap<u16, u64>,
    /// Subscriptions ended by the gateway, by code.
    unsubscribes: BTreeMap<u32, u64>,
}

impl GatewayStats {
    /// A connection opened.
    pub fn opened(&mut self, transport: Transport) {
        let (now, ever) = &mut self.transports[transport as usize];
        *now += 1;
        *ever += 1;
    }

    /// A connection is gone.
    pub fn ended(&mut self, transport: Transport) {
        self.transports[transport as usize].0 -= 1;
    }

    /// Connections by transport: how many there are, and how many there were ever.
    pub fn transports(&self) -> impl Iterator<Item = (Transport, u64, u64)> {
        Transport::ALL.into_iter().zip(self.transports).map(|(name, (now, ever))| (name, now, ever))
    }

    /// A command was answered.
    pub fn command(&mut self, kind: CommandKind, took: Duration) {
        self.commands[kind as usize].record(took);
    }

    /// A command was answered with an error.
    pub fn error(&mut self, kind: CommandKind, code: u32) {
        *self.errors.entry((kind, own_code(code, APPLICATION_ERROR))).or_default() += 1;
    }

    /// A call of the server API was served.
    pub fn api_call(&mut self, method: &'static str, took: Duration, error: Option<&Error>) {
        self.api_calls.entry(method).or_default().record(took);
        if let Some(error) = error {
            let code = own_code(error.code, APPLICATION_ERROR);
            *self.api_errors.entry((method, code)).or_default() += 1;
        }
    }

    /// Calls of the server API that the cores served, by method.
    pub fn api_calls(&self) -> &BTreeMap<&'static str, Durations> {
        &self.api_calls
    }

    /// Error answers among them: by method and code.
    pub fn api_errors(&self) -> &BTreeMap<(&'static str, u32), u64> {
        &self.api_errors
    }

    /// A connection was closed with a code.
    pub fn disconnect(&mut self, code: u16) {
        let code = if (3000..4000).contains(&code) { code } else { APPLICATION_CLOSE };
        *self.disconnects.entry(code).or_default() += 1;
    }

    /// A subscription was ended with a code.
    pub fn unsubscribe(&mut self, code: u32) {
        *self.unsubscribes.entry(code).or_default() += 1;
    }

    /// Durations of commands, by kind.
    pub fn commands(&self) -> impl Iterator<Item = (CommandKind, &Durations)> {
        CommandKind::ALL.iter().copied().zip(&self.commands)
    }

    /// Error replies: command, code, number.
    pub fn errors(&self) -> impl Iterator<Item = (CommandKind, u32, u64)> {
        self.errors.iter().map(|((kind, code), number)| (*kind, *code, *number))
    }

    /// Connections closed: code, number.
    pub fn disconnects(&self) -> impl Iterator<Item = (u16, u64)> {
        self.disconnects.iter().map(|(code, number)| (*code, *number))
    }

    /// Subscriptions ended: code, number.
    pub fn unsubscribes(&self) -> impl Iterator<Item = (u32, u64)> {
        self.unsubscribes.iter().map(|(code, number)| (*code, *number))
    }

    /// Adds another core's.
    pub fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.mirror.add(&other.mirror);
        for (sum, part) in self.transports.iter_mut().zip(&other.transports) {
            sum.0 += part.0;
            sum.1 += part.1;
        }
        for (sum, part) in self.commands.iter_mut().zip(&other.commands) {
            sum.add(part);
        }
        for (method, part) in &other.api_calls {
            self.api_calls.entry(method).or_default().add(part);
        }
        add_map(&mut self.errors, &other.errors);
        add_map(&mut self.api_errors, &other.api_errors);
        add_map(&mut self.disconnects, &other.disconnects);
        add_map(&mut self.unsubscribes, &other.unsubscribes);
    }
}

fn add_map<K: Ord + Copy>(sum: &mut BTreeMap<K, u64>, part: &BTreeMap<K, u64>) {
    for (key, number) in part {
        *sum.entry(*key).or_default() += number;
    }
}

/// A distribution of durations: how many fell below each of fixed bounds. 144 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// One per bound, and one for what is above all.
    buckets: [u64; Durations::BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Durations {
    /// Upper bounds of the buckets in microseconds, included.
    pub const BOUNDS_US: [u64; 16] = [
        50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
        1_000_000, 2_500_000, 10_000_000,
    ];

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[Self::BOUNDS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Upper bound in microseconds (`None`: above all) and how many are between it and the bound
    /// before.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = Self::BOUNDS_US.iter().copied().map(Some).chain([None]);
        bounds.zip(self.buckets)
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += part;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }
}

/// Codes of applications are theirs to choose, and would make as many series; they are counted
/// together.
pub(crate) fn own_code(code: u32, other: u32) -> u32 {
    if code < 400 { code } else { other }
}

/// What an application's error code (400 to 1999) is counted as.
const APPLICATION_ERROR: u32 = 400;

/// What an application's close code (4000 to 4999) is counted as.
const APPLICATION_CLOSE: u16 = 4000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_below_their_bounds() {
        let mut durations = Durations::default();
        for us in [0, 50, 51, 10_000_000, 10_000_001] {
            durations.record(Duration::from_micros(us));
        }
        durations.record(Duration::MAX);
        let filled: Vec<_> = durations.buckets().filter(|(_, number)| *number > 0).collect();
        assert_eq!(filled, [(Some(50), 2), (Some(100), 1), (Some(10_000_000), 1), (None, 2)]);
        assert_eq!((durations.count(), durations.sum_us()), (6, u64::MAX));
    }

    #[test]
    fn cores_add_up() {
        let mut one = GatewayStats::default();
        one.counters.clients = 2;
        one.opened(Transport::Sse);
        one.opened(Transport::Sse);
        one.ended(Transport::Sse);
        one.command(CommandKind::Publish, Duration::from_micros(7));
        one.error(CommandKind::Publish, 103);
        one.disconnect(3001);
        one.unsubscribe(2500);
        let mut sum = one.clone();
        sum.add(&one);
        assert_eq!(sum.counters.clients, 4);
        let filled: Vec<_> = sum.transports().filter(|(_, _, ever)| *ever > 0).collect();
        assert_eq!(filled, [(Transport::Sse, 2, 4)]);
        let publish = sum.commands().find(|(kind, _)| *kind == CommandKind::Publish).unwrap().1;
        assert_eq!((publish.count(), publish.sum_us()), (2, 14));
        assert_eq!(sum.errors().collect::<Vec<_>>(), [(CommandKind::Publish, 103, 2)]);
        assert_eq!(sum.disconnects().collect::<Vec<_>>(), [(3001, 2)]);
        assert_eq!(sum.unsubscribes().collect::<Vec<_>>(), [(2500, 2)]);
    }

    #[test]
    fn codes_of_applications_are_one_series() {
        let mut stats = GatewayStats::default();
        for code in 400..2000 {
            stats.error(CommandKind::Rpc, code);
        }
        for code in 4000..5000 {
            stats.disconnect(code);
        }
        assert_eq!(stats.errors().collect::<Vec<_>>(), [(CommandKind::Rpc, 400, 1600)]);
        assert_eq!(stats.disconnects().collect::<Vec<_>>(), [(4000, 1000)]);
    }
}
