//! What a run is made of: its size, its times, what nodes are configured with.

use std::time::Duration;

/// Size and times of one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    pub(crate) clients: usize,
    /// Publications per second, over all channels.
    pub(crate) rate: u64,
    /// Mean seconds that a client stays, and the longest that it is away.
    pub(crate) stay: f64,
    pub(crate) away: f64,
    /// Longest time of a fault that passes by itself.
    pub(crate) lasts: f64,
    /// Longest pause between two faults.
    pub(crate) pause: f64,
    pub(crate) report: Duration,
}

impl Plan {
    /// The long run if the environment asks for it, the short one of `cargo test` otherwise.
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str, default: u64| {
            std::env::var(name).ok().map_or(default, |text| {
                text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
            })
        };
        let seconds = number("BROKER_SOAK_SECONDS", 20);
        let long = seconds >= 120;
        let either = |short, other| if long { other } else { short };
        Self {
            time: Duration::from_secs(seconds),
            seed: number("BROKER_SOAK_SEED", 1),
            clients: number("BROKER_SOAK_CLIENTS", 60) as usize,
            rate: number("BROKER_SOAK_RATE", 50),
            stay: either(6.0, 60.0),
            away: either(1.0, 8.0),
            lasts: either(1.5, 8.0),
            pause: either(0.5, 5.0),
            report: Duration::from_secs(if long { 60 } else { 5 }),
        }
    }
}

/// Nodes of ringhold.
pub(crate) const NODES: usize = 3;

/// What can be had of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All of it, for longer than anybody is away.
    Kept,
    /// The same, with members who come and go.
    Room,
    /// The last few.
    Short,
    /// Nothing that is past.
    Plain,
}

impl Kind {
    pub(crate) fn has_stream(self) -> bool {
        self != Self::Plain
    }

    /// Whether everything that was published can be had as long as the server has it.
    pub(crate) fn is_whole(self) -> bool {
        matches!(self, Self::Kept | Self::Room)
    }
}

/// All channels, by name.
pub(crate) fn channels() -> Vec<(String, Kind)> {
    let kinds = [(Kind::Kept, "kept", 10), (Kind::Room, "room", 4)];
    let others = [(Kind::Short, "short", 3), (Kind::Plain, "plain", 3)];
    let name = |(kind, name, count): (Kind, &'static str, usize)| {
        (0..count).map(move |number| (format!("{name}:{number}"), kind))
    };
    kinds.into_iter().chain(others).flat_map(name).collect()
}

/// What all nodes are configured with, besides where their broker is.
pub(crate) const TABLES: &str = r#"
[client]
channel_position_check_delay = "1s"
[health]
enabled = true
[prometheus]
enabled = true
[[channel.namespaces]]
name = "kept"
history_size = 1500
history_ttl = "3600s"
force_recovery = true
allow_subscribe_for_client = true
[[channel.namespaces]]
name = "room"
history_size = 1500
history_ttl = "3600s"
force_recovery = true
presence = true
join_leave = true
force_push_join_leave = true
allow_subscribe_for_client = true
[[channel.namespaces]]
name = "short"
history_size = 5
history_ttl = "3600s"
force_recovery = true
allow_subscribe_for_client = true
[[channel.namespaces]]
name = "plain"
allow_subscribe_for_client = true
"#;

/// Keys of `engine.redis` besides: members of a killed node are gone soon, so that the end may
/// be compared.
pub(crate) const KEYS: &str = "presence_ttl = \"10s\"\nio_timeout = \"2s\"\n";
