//! The load generator: client connections on the engine that serves them.
//!
//! ```text
//! conductor ──letters──► driver (one per thread) ──► workload: idle, echo, fanout
//!     ▲                     │
//!     └──── board, tally ───┘
//! ```
//!
//! [`run`] conducts: open everything, begin, measure, end, report, close. A [`driver`] opens the
//! connections of one thread and counts what becomes of them; a workload sends and judges. For
//! clients of the [`gateway`] a part of the driver (`member.rs`) speaks the protocol. What a run
//! found is a [`report`]. Uses the library's public interface only.

mod amounts;
mod board;
mod conductor;
mod content;
mod driver;
mod echo;
mod fanout;
mod findings;
mod gateway;
mod idle;
mod joining;
mod member;
mod mix;
mod proc;
mod reasons;
mod report;
mod rounds;
mod schedule;
mod sequence;
mod storm;
mod table;
mod tally;
mod target;

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ringhold::StartError;
use ringhold::tls::keys::Trust;

pub(crate) use content::{JSON_SIZE_MIN, SIZE_MIN};
pub(crate) use gateway::{Credentials, GatewayPlan};
pub(crate) use mix::{Share, Sizes};
pub(crate) use report::Report;
pub(crate) use storm::StormPlan;
pub(crate) use target::{Sources, Target};

/// What to do, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) job: Job,
    pub(crate) target: Target,
    /// Whose certificates are believed, where TLS is spoken.
    pub(crate) trust: Trust,
    pub(crate) connections: u32,
    /// 0: as many as processors, or as the limit of open files demands.
    pub(crate) threads: usize,
    /// Connections opened per second; 0: no limit.
    pub(crate) open_rate: u64,
    /// Connections of one thread that may be on their way at once.
    pub(crate) in_flight: u32,
    /// From begin to measure.
    pub(crate) warmup: Duration,
    /// From measure to end.
    pub(crate) duration: Duration,
    /// How long to wait for the last messages, and for the last close frames.
    pub(crate) linger: Duration,
    pub(crate) handshake_timeout: Duration,
    /// Connections closed per second at the end; 0: all at once.
    pub(crate) close_rate: u32,
    /// Longest latency of 99 messages in a hundred; `None`: whatever it is.
    pub(crate) max_p99: Option<Duration>,
    pub(crate) storm: Option<StormPlan>,
    /// `None`: a server that speaks WebSocket and nothing above it.
    pub(crate) gateway: Option<GatewayPlan>,
    /// Offer compression.
    pub(crate) compress: bool,
    /// `None`: as many loopback addresses as the connections need.
    pub(crate) sources: Option<Sources>,
    pub(crate) server_pid: Option<u32>,
}

/// The workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Hold connections.
    Idle,
    /// Send, and get it back.
    Echo {
        sizes: Sizes,
        /// Messages per second over all connections; 0: closed loop.
        rate: u64,
        /// Messages each connection keeps on their way in a closed loop.
        pipeline: u32,
    },
    /// Send, and everybody gets it.
    Fanout(FanoutPlan),
}

/// Who publishes what, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FanoutPlan {
    /// Bytes of a message.
    pub(crate) size: usize,
    /// Messages per second over all publishers; 0: each sends when its own came back, and clients
    /// of the gateway when all that was sent came to everybody.
    pub(crate) rate: u64,
    /// Bursts each publisher keeps on their way without a rate.
    pub(crate) pipeline: u32,
    /// Connections that publish.
    pub(crate) publishers: u32,
    /// Messages a publisher sends at once.
    pub(crate) burst: u32,
}

/// Why a run could not be made.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The target or the sources cannot be used; says why.
    Target(String),
    /// The threads did not start, or one failed.
    Engine(StartError),
    /// Not one connection opened; says why not.
    NothingOpened(String),
    /// No process has the number that was given.
    NoServer(u32),
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(text) => f.write_str(text),
            Self::Engine(StartError::Config(error)) => {
                write!(f, "{error} (--threads, --connections)")
            }
            Self::Engine(error) => error.fmt(f),
            Self::NothingOpened(text) => write!(f, "no connection could be opened: {text}"),
            Self::NoServer(pid) => write!(f, "--server-pid: there is no process {pid}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Runs a plan to its end, or to the report so far once `interrupted` is set.
pub(crate) fn run(plan: &Plan, interrupted: &AtomicBool) -> Result<Report, Failure> {
    match plan.job {
        Job::Idle => conductor::conduct(plan, interrupted, |_| idle::Idle::default()),
        Job::Echo { sizes, rate, pipeline } => conductor::conduct(plan, interrupted, move |seat| {
            echo::Echo::new(seat, sizes, rate, pipeline)
        }),
        Job::Fanout(fanout) => {
            let gateway = plan.gateway.clone();
            let rounds = Arc::<rounds::Rounds>::default();
            conductor::conduct(plan, interrupted, move |seat| {
                fanout::Fanout::new(seat, fanout, gateway.clone(), rounds.clone())
            })
        }
    }
}

impl Job {
    /// For reports; stable.
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Echo { .. } => "echo",
            Self::Fanout(_) => "fanout",
        }
    }

    /// Bytes of the largest message.
    fn size(self) -> usize {
        match self {
            Self::Idle => 0,
            Self::Echo { sizes, .. } => sizes.most(),
            Self::Fanout(FanoutPlan { size, .. }) => size,
        }
    }
}
