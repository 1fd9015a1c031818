//! `ringhold load`: the load generator's command line.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Args, Subcommand, ValueEnum};
use ringhold::gateway::wire::Encoding;
use ringhold::tls::keys::Trust;

use super::options::{duration, size};
use super::output::print;
use crate::control;
use crate::load::{
    self, Credentials, FanoutPlan, GatewayPlan, JSON_SIZE_MIN, Job, Plan, SIZE_MIN, Share, Sizes,
    Sources, StormPlan, Target,
};

/// Opens connections to a WebSocket server and measures what it does with them.
///
/// Exit status: 0 when nothing was lost, 3 when a connection failed or was lost, a message did not
/// come as it was sent, or --max-p99 was exceeded, 1 when nothing could be measured, 2 when the
/// arguments are wrong.
#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    #[command(subcommand)]
    workload: WorkloadArguments,
}

#[derive(Debug, Subcommand)]
enum WorkloadArguments {
    /// Open connections and hold them
    Idle {
        #[command(flatten)]
        common: CommonOptions,
        #[command(flatten)]
        storm: StormOptions,
        #[command(flatten, next_help_heading = "Clients of `ringhold serve`")]
        gateway: GatewayOptions,
        #[command(flatten)]
        channels: ChannelOptions,
    },

    /// Send messages that the server sends back: in a closed loop, or at a fixed rate with latency
    /// from the time at which each message was due
    Echo {
        #[command(flatten)]
        common: CommonOptions,
        #[command(flatten)]
        messages: MessageOptions,
        #[command(flatten)]
        large: LargeOptions,
        #[command(flatten)]
        storm: StormOptions,
    },

    /// Publish messages that the server sends to all connections of the path (with `ringhold
    /// echo`: a path below /fanout), or to all subscribers of a channel (with `ringhold serve`:
    /// --gateway)
    Fanout {
        #[command(flatten)]
        common: CommonOptions,
        #[command(flatten)]
        messages: MessageOptions,
        /// Connections that publish, among those that receive
        #[arg(long, default_value_t = 1, value_name = "N",
              value_parser = clap::value_parser!(u32).range(1..=1024))]
        publishers: u32,
        /// Messages a publisher sends at once. They are part of --rate; in a closed loop the next
        /// ones follow when all of them came back, with --gateway when they came to everybody
        #[arg(long, default_value_t = 1, value_name = "N",
              value_parser = clap::value_parser!(u32).range(1..=65_536))]
        burst: u32,
        #[command(flatten, next_help_heading = "Clients of `ringhold serve`")]
        gateway: GatewayOptions,
        /// Channel that all clients subscribe to, and in which clients may publish
        #[arg(long, default_value = "load:fanout", value_name = "NAME", requires = "gateway",
              value_parser = NonEmptyStringValueParser::new())]
        channel: String,
    },
}

#[derive(Debug, Args)]
struct CommonOptions {
    /// Where to connect to [default: ws://127.0.0.1:9001/; with --gateway port 8000, and the path
    /// /connection/websocket if the URL has none]
    #[arg(long, value_name = "URL")]
    url: Option<Target>,

    /// Believe these authorities where the URL is wss:// (a PEM file, or its text) [default: whom
    /// the host believes]
    #[arg(long, value_name = "PEM", conflicts_with = "insecure")]
    ca: Option<String>,

    /// Believe any certificate
    #[arg(long)]
    insecure: bool,

    /// Connections over all threads
    #[arg(short = 'c', long, default_value_t = 100, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    connections: u32,

    /// Threads; 0: one per processor, or as many as the limit of open files demands
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,

    /// Connections opened per second; 0: as fast as the server takes them
    #[arg(long, default_value_t = 0, value_name = "N")]
    open_rate: u64,

    /// Connections of one thread that are on their way at once
    #[arg(long, default_value_t = 512, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: u32,

    /// Time to measure, once all connections are open
    #[arg(short = 'd', long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    duration: Duration,

    /// Time before it, under the same load
    #[arg(long, default_value = "500ms", value_parser = duration, value_name = "TIME")]
    warmup: Duration,

    /// Time for the last messages to come, and for the last connections to close
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    linger: Duration,

    /// Time for TCP connect and the opening handshake
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    handshake_timeout: Duration,

    /// Connections closed per second at the end; 0: all at once. By default a pace that a server on
    /// the same host can follow
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    close_rate: u32,

    /// Offer compression (permessage-deflate), and send compressed where the server agrees
    #[arg(long)]
    compress: bool,

    /// Addresses to connect from, as 10.0.0.2,10.0.0.4-10.0.0.9 [default: for a loopback target as
    /// many of 127.0.0.2 and following as the connections need]
    #[arg(long, value_name = "ADDRESSES")]
    sources: Option<Sources>,

    /// Watch this process: its processor time and memory, and the kernel's memory
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct MessageOptions {
    /// Size of a message's payload, at least 20 bytes for its stamp [default: 32]; with --gateway
    /// at least 52, because it is a JSON object [default: 64]
    #[arg(short = 'b', long, value_parser = payload, value_name = "SIZE")]
    payload: Option<usize>,

    /// Messages per second, all senders together; 0: a closed loop
    #[arg(short = 'r', long, default_value_t = 0, value_name = "N",
          value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    rate: u64,

    /// Messages (with --burst: bursts) each sender keeps on their way in a closed loop
    #[arg(long, default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pipeline: u32,

    /// Fail with status 3 if more than one message in a hundred takes longer than this
    #[arg(long, value_parser = duration, value_name = "TIME")]
    max_p99: Option<Duration>,
}

#[derive(Debug, Args)]
struct LargeOptions {
    /// Size of the large messages among those of --payload. Their latency is reported apart
    #[arg(long, value_parser = payload, value_name = "SIZE")]
    large: Option<usize>,

    /// Part of the messages that are large
    #[arg(long, default_value_t = 0.01, value_parser = share, value_name = "PART",
          requires = "large")]
    large_share: f64,
}

#[derive(Debug, Args)]
struct StormOptions {
    /// After this part of the measured time, begin to close connections all at once, and open as
    /// many again without waiting for the end of that
    #[arg(long, value_parser = duration, value_name = "TIME")]
    storm_after: Option<Duration>,

    /// Part of the connections that are closed
    #[arg(long, default_value_t = 0.5, value_parser = share, value_name = "PART",
          requires = "storm_after")]
    storm_share: f64,

    /// Clients that come back over TLS do a whole handshake; without it they resume by a ticket, as
    /// browsers do
    #[arg(long, requires = "storm_after")]
    no_resumption: bool,
}

#[derive(Debug, Args)]
struct GatewayOptions {
    /// Speak the client protocol of `ringhold serve` and Centrifugo: connect, subscribe, answer
    /// pings. A connection is open once it is subscribed
    #[arg(long)]
    gateway: bool,

    /// Encoding of the protocol
    #[arg(long, value_enum, default_value = "json", requires = "gateway")]
    encoding: EncodingArgument,

    /// Connection token of all clients
    #[arg(long, value_name = "TOKEN", requires = "gateway", conflicts_with = "secret")]
    token: Option<String>,

    /// Make a token with this secret (HS256) for each client, as the user load-0, load-1... Others
    /// can see it in the list of processes
    #[arg(long, value_name = "SECRET", requires = "gateway",
          value_parser = NonEmptyStringValueParser::new())]
    secret: Option<String>,
}

#[derive(Debug, Args)]
struct ChannelOptions {
    /// Channel that each client subscribes to; "" for none. {n} in it is replaced by the client's
    /// number
    #[arg(long, default_value = "load:fanout", value_name = "NAME", requires = "gateway")]
    channel: String,

    /// So many channels for {n}, which clients take in turn; 0: one for each client
    #[arg(long, default_value_t = 0, value_name = "N", requires = "gateway")]
    channels: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EncodingArgument {
    /// Text frames
    Json,
    /// Binary frames
    Protobuf,
}

pub(crate) fn run(arguments: LoadArguments) -> Result<ExitCode, Box<dyn Error>> {
    let (plan, json) = arguments.plan().unwrap_or_else(|error| error.exit());
    let interrupted = control::watch_interrupts()?;
    let report = load::run(&plan, &interrupted)?;
    match json {
        true => print(&(serde_json::to_string(&report)? + "\n"))?,
        false => print(&report.to_string())?,
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(LOST) })
}

impl LoadArguments {
    fn plan(self) -> Result<(Plan, bool), clap::Error> {
        let max_p99 = self.workload.max_p99();
        let (common, job, storm, gateway) = match self.workload {
            WorkloadArguments::Idle { common, storm, gateway, channels } => {
                let ChannelOptions { channel, channels } = channels;
                (common, Job::Idle, storm.plan(), gateway.plan(channel, Some(channels)))
            }
            WorkloadArguments::Echo { common, messages, large, storm } => {
                let MessageOptions { payload, rate, pipeline, .. } = messages;
                let payload = payload.unwrap_or(PAYLOAD);
                let sizes = match large.large {
                    Some(size) => Sizes::mixed(payload, size, Share::of(large.large_share)),
                    None => Sizes::same(payload),
                };
                (common, Job::Echo { sizes, rate, pipeline }, storm.plan(), None)
            }
            WorkloadArguments::Fanout { common, messages, publishers, burst, gateway, channel } => {
                // All subscribe to the same one, whatever its name.
                let gateway = gateway.plan(channel, None);
                let size = messages.size(gateway.is_some())?;
                let MessageOptions { rate, pipeline, .. } = messages;
                let publishers = publishers.min(common.connections);
                let fanout = FanoutPlan { size, rate, pipeline, publishers, burst };
                (common, Job::Fanout(fanout), None, gateway)
            }
        };
        let target = target(common.url, gateway.as_ref());
        let target = target.map_err(|text| clap::Error::raw(ErrorKind::InvalidValue, text))?;
        let trust = trust(common.ca, common.insecure, &target)?;
        let plan = Plan {
            job,
            target,
            trust,
            connections: common.connections,
            threads: common.threads,
            open_rate: common.open_rate,
            in_flight: common.in_flight,
            warmup: common.warmup,
            duration: common.duration,
            linger: common.linger,
            handshake_timeout: common.handshake_timeout,
            close_rate: common.close_rate,
            max_p99,
            storm,
            gateway,
            compress: common.compress,
            sources: common.sources,
            server_pid: common.server_pid,
        };
        Ok((plan, common.json))
    }
}

impl WorkloadArguments {
    fn max_p99(&self) -> Option<Duration> {
        match self {
            Self::Echo { messages, .. } | Self::Fanout { messages, .. } => messages.max_p99,
            Self::Idle { .. } => None,
        }
    }
}

impl MessageOptions {
    /// Of a payload, which clients of a gateway send as JSON.
    fn size(&self, gateway: bool) -> Result<usize, clap::Error> {
        match (self.payload, gateway) {
            (Some(size), true) if size < JSON_SIZE_MIN => {
                let text =
                    format!("--payload must be at least {JSON_SIZE_MIN} bytes with --gateway\n");
                Err(clap::Error::raw(ErrorKind::ValueValidation, text))
            }
            (Some(size), _) => Ok(size),
            (None, true) => Ok(GATEWAY_PAYLOAD),
            (None, false) => Ok(PAYLOAD),
        }
    }
}

impl GatewayOptions {
    fn plan(self, channel: String, channels: Option<u32>) -> Option<GatewayPlan> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let credentials = match (self.token, self.secret) {
            (Some(token), _) => Credentials::Token(token),
            (None, Some(secret)) => Credentials::Secret { secret, made_at: now().as_secs() as i64 },
            (None, None) => Credentials::Nothing,
        };
        let encoding = match self.encoding {
            EncodingArgument::Json => Encoding::Json,
            EncodingArgument::Protobuf => Encoding::Protobuf,
        };
        self.gateway.then_some(GatewayPlan { encoding, credentials, channel, channels })
    }
}

/// The URL that was given or the default one, with what the gateway wants of it.
fn target(given: Option<Target>, gateway: Option<&GatewayPlan>) -> Result<Target, String> {
    let target = |default: &str| given.map_or_else(|| default.parse(), Ok);
    match gateway.map(|gateway| gateway.encoding) {
        None => target(ECHO_URL),
        Some(Encoding::Json) => Ok(target(GATEWAY_URL)?.or_path(GATEWAY_PATH)),
        Some(Encoding::Protobuf) => {
            Ok(target(GATEWAY_URL)?.or_path(GATEWAY_PATH).and_query("cf_protocol=protobuf"))
        }
    }
}

/// Whose certificates are believed.
fn trust(ca: Option<String>, insecure: bool, target: &Target) -> Result<Trust, clap::Error> {
    if (insecure || ca.is_some()) && !target.tls {
        let text = "--ca and --insecure need a wss:// URL\n";
        return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
    }
    Ok(match ca {
        Some(source) => Trust::Authorities(source),
        None if insecure => Trust::Anybody,
        None => Trust::System,
    })
}

impl StormOptions {
    fn plan(&self) -> Option<StormPlan> {
        let share = Share::of(self.storm_share);
        self.storm_after.map(|after| StormPlan { after, share, resume: !self.no_resumption })
    }
}

fn share(text: &str) -> Result<f64, String> {
    let part: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match part {
        0.000_001..=1.0 => Ok(part),
        _ => Err("must be above 0 and at most 1, such as 0.5".to_owned()),
    }
}

fn payload(text: &str) -> Result<usize, String> {
    let size = size(text.parse::<ByteSize>()?);
    match size {
        SIZE_MIN..=PAYLOAD_MAX => Ok(size),
        _ => Err(format!("must be {SIZE_MIN} bytes to 64MiB")),
    }
}

/// Something failed or was lost.
const LOST: u8 = 3;

const ECHO_URL: &str = "ws://127.0.0.1:9001/";
const GATEWAY_URL: &str = "ws://127.0.0.1:8000/";
const GATEWAY_PATH: &str = "/connection/websocket";

/// Bytes of a payload.
const PAYLOAD: usize = 32;
const GATEWAY_PAYLOAD: usize = 64;

/// Four of them are kept per thread.
const PAYLOAD_MAX: usize = 64 * 1024 * 1024;
