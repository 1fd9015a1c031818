//! `ringhold doctor`: does this host carry that many connections, and what to change if not.

use std::error::Error;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ringhold::broker::inspect::{Remark, inspect};
use ringhold::config::{Options, Sources};

use super::output::print;
use crate::doctor::{self, Profile, Wish};

/// What to examine, and for what.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Connections over all workers
    #[arg(short = 'c', long, default_value_t = 100_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    connections: u32,

    /// What the host is for; each profile has a sysctl file in tuning/
    #[arg(long, value_enum, default_value_t = Profile::Density)]
    profile: Profile,

    /// Worker threads; 0: as ringhold chooses
    #[arg(long, default_value_t = 0, value_name = "N")]
    workers: usize,

    /// Connections in a hundred that hold messages in the kernel at one moment [default: 10]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    busy: Option<u32>,

    /// Bytes of the program's memory per connection. The default is a client of the gateway with
    /// one subscription; for `echo`, or an application on the engine that keeps nothing, it is 126
    #[arg(long, default_value_t = doctor::USER_PER_CONNECTION, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(0..=1 << 30))]
    user_bytes: u64,

    /// Ports that are listened on
    #[arg(long, default_value = "8000,9001", value_delimiter = ',', value_name = "PORTS")]
    port: Vec<u16>,

    /// Judge by the limits of this process rather than by this one's own
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// Fail, too, if something could be better or could not be read
    #[arg(long)]
    strict: bool,

    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,

    /// Read the files of a host below this directory: an image, a container, a copy of /proc and
    /// /sys. No ring is tried then
    #[arg(long, value_name = "DIR", value_parser = directory)]
    root: Option<PathBuf>,

    /// Look at what this configuration needs besides the host, too: the Redis or NATS that it names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(arguments: DoctorArguments) -> Result<ExitCode, Box<dyn Error>> {
    let process = arguments.pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let wish = Wish {
        connections: arguments.connections,
        profile: arguments.profile,
        workers: arguments.workers,
        busy: arguments.busy,
        ports: arguments.port,
        user_bytes: arguments.user_bytes,
    };
    let trial = arguments.root.is_none();
    let root = arguments.root.unwrap_or_else(|| PathBuf::from("/"));
    let remarks = arguments.config.map_or_else(|| Ok(Vec::new()), servers)?;
    let report = doctor::examine(&root, &process, wish, trial, remarks);
    if arguments.json {
        print(&(serde_json::to_string(&report)? + "\n"))?;
    } else {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        print(&report.text(!plain && std::io::stdout().is_terminal()).to_string())?;
    }
    Ok(if report.fails(arguments.strict) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is to be said of the servers that a configuration names.
fn servers(file: PathBuf) -> Result<Vec<Remark>, Box<dyn Error>> {
    let options = Options::load(&Sources::of_process(Some(file), Vec::new()))?.options;
    Ok(match options.broker_config("doctor")? {
        Some(config) => inspect(&config)?,
        None => Vec::new(),
    })
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() { Ok(path) } else { Err("not a directory".to_owned()) }
}
