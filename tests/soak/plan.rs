//! What a run is made of: its size, its times, and everything that is drawn from its seed.

use std::time::Duration;

use super::dice::Dice;

/// Size and times of one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) time: Duration,
    pub(crate) connections: usize,
    /// Connections opened, and as many ended, per second.
    pub(crate) churn: usize,
    pub(crate) seed: u64,
    pub(crate) is_long: bool,
    /// By how many bytes the server's memory may grow, beside a twentieth of it. In a short run it
    /// has not come to rest.
    pub(crate) memory_slack: u64,
    /// Mean time a connection is held.
    pub(crate) life: f64,
    /// Shortest and longest time between two actions of a connection, in seconds.
    pub(crate) pauses: (f64, f64),
    /// First connections are spread over this time.
    pub(crate) ramp: Duration,
    pub(crate) sample: Duration,
    pub(crate) report: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    /// The server's times, as flags.
    pub(crate) flags: Vec<(&'static str, &'static str)>,
}

impl Plan {
    /// The long run if the environment asks for it, the short one of `cargo test` otherwise.
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str, default: u64| {
            std::env::var(name).ok().map_or(default, |text| {
                text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
            })
        };
        let seconds = number("SOAK_SECONDS", 8);
        let connections = number("SOAK_CONNECTIONS", 300) as usize;
        let churn = number("SOAK_CHURN", 50).max(1) as usize;
        let seed = number("SOAK_SEED", 1);
        let long = seconds >= 120;
        let times = |short, long_run| Duration::from_secs(if long { long_run } else { short });
        Self {
            time: Duration::from_secs(seconds),
            connections,
            churn,
            seed,
            is_long: long,
            memory_slack: if long { 2 << 20 } else { 32 << 20 },
            life: connections as f64 / churn as f64,
            pauses: if long { (2.0, 12.0) } else { (0.2, 1.2) },
            ramp: times(1, (seconds / 20).min(60)),
            sample: if long { Duration::from_secs(5) } else { Duration::from_millis(200) },
            report: if long { Duration::from_secs(60) } else { Duration::from_secs(2) },
            write_timeout: times(2, 10),
            handshake_timeout: times(3, 10),
            flags: if long { LONG_TIMES.to_vec() } else { SHORT_TIMES.to_vec() },
        }
    }
}

const SHORT_TIMES: [(&str, &str); 11] = [
    ("--stats-interval", "500ms"),
    ("--handshake-timeout", "3s"),
    ("--write-timeout", "2s"),
    ("--close-timeout", "2s"),
    ("--idle-timeout", "6s"),
    ("--heartbeat-start", "1s"),
    ("--heartbeat-floor", "500ms"),
    ("--heartbeat-ceiling", "1s"),
    ("--heartbeat-suspect", "1s"),
    ("--heartbeat-probe", "2s"),
    ("--heartbeat-dead", "4s"),
];

const LONG_TIMES: [(&str, &str); 11] = [
    ("--stats-interval", "5s"),
    ("--handshake-timeout", "10s"),
    ("--write-timeout", "10s"),
    ("--close-timeout", "10s"),
    ("--idle-timeout", "45s"),
    ("--heartbeat-start", "8s"),
    ("--heartbeat-floor", "2s"),
    ("--heartbeat-ceiling", "10s"),
    ("--heartbeat-suspect", "5s"),
    ("--heartbeat-probe", "10s"),
    ("--heartbeat-dead", "20s"),
];

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Our close frame, answered by the server's behind every echo.
    Close,
    /// The descriptor closed, without a frame.
    Drop,
    /// Reset.
    Reset,
    /// Gone in the middle of a frame.
    MidFrame,
    /// Our direction shut down, then read to the end.
    HalfClose,
    /// A broken rule, answered by the close frame that names it.
    Violation,
    /// Nothing written any more, no pong either: given up by the server.
    Mute,
    /// Pongs, but no messages: closed by the server.
    Idle,
    /// As `Idle`, and the server's close frame stays unanswered.
    IdleMute,
    /// Sends much and never reads.
    Slow,
    /// Gone before the handshake is complete.
    MidHandshake,
    /// A handshake that does not go on: 408.
    Stall,
    /// A request that is no upgrade: refused.
    Refused,
}

/// Every way with its weight, of 1000.
pub(crate) const ENDS: [(End, u32); 13] = [
    (End::Close, 400),
    (End::Drop, 120),
    (End::Reset, 110),
    (End::MidFrame, 80),
    (End::HalfClose, 70),
    (End::Violation, 85),
    (End::Mute, 15),
    (End::Idle, 7),
    (End::IdleMute, 5),
    (End::Slow, 3),
    (End::MidHandshake, 75),
    (End::Stall, 15),
    (End::Refused, 15),
];

impl End {
    /// The server ends it, after a time of its own; so it starts early.
    pub(crate) fn takes_time(self) -> bool {
        matches!(self, Self::Mute | Self::Idle | Self::IdleMute | Self::Slow)
    }

    /// It is over before the connection is open.
    pub(crate) fn never_opens(self) -> bool {
        matches!(self, Self::MidHandshake | Self::Stall | Self::Refused)
    }
}

impl Dice {
    pub(crate) fn end(&mut self) -> End {
        let mut at = self.below(1000) as u32;
        for (end, weight) in ENDS {
            if at < weight {
                return end;
            }
            at -= weight;
        }
        End::Close
    }

    /// How long a connection is held before it begins to end. The mean over all of them is `life`.
    pub(crate) fn life(&mut self, end: End, life: f64) -> Duration {
        let unit = self.unit();
        Duration::from_secs_f64(match end {
            End::MidHandshake => life * 0.01 * unit,
            _ if end.never_opens() || end.takes_time() => life * 0.05 * unit,
            // Exponential, cut at four means.
            _ => (-(1.0 - unit).ln() * life).min(4.0 * life),
        })
    }

    /// Payload bytes of a message: mostly small, at most 256 KiB.
    pub(crate) fn size(&mut self) -> usize {
        let below = match self.below(1000) {
            0..20 => return 0,
            20..550 => 126,
            550..850 => 2 * 1024,
            850..970 => 16 * 1024,
            970..996 => 66 * 1024,
            996..999 => SIZE_MAX,
            _ => return SIZE_MAX,
        };
        self.below(below)
    }
}

/// The longest message.
pub(crate) const SIZE_MAX: usize = 256 * 1024;
