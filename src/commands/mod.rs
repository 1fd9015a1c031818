//! The command line: what each subcommand takes, and which part of the library runs it.

mod echo;
mod load;
mod options;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A WebSocket connection server on io_uring.
///
/// Exit status: 0 when it ended as asked, 1 when it could not start or failed, 2 when the
/// arguments are wrong, 3 when `load` found something lost.
#[derive(Debug, Parser)]
#[command(name = "ringhold", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// What to log on standard error: error, warn, info, debug, or per module as in
    /// `info,ringhold::engine=debug` [default: info]
    #[arg(long, global = true, env = "RINGHOLD_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve: send every message back
    Echo(Box<echo::EchoArguments>),

    /// Measure: open connections to a server and load it
    Load(Box<load::LoadArguments>),
}

/// Logs go to standard error, quiet by default: what a message says is for the operator.
pub(crate) fn start_logging(filter: Option<&str>) {
    let filter = EnvFilter::try_new(filter.unwrap_or("info")).unwrap_or_else(|error| {
        eprintln!("ringhold: --log: {error}");
        std::process::exit(2);
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// Runs one subcommand to its end.
pub(crate) fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Echo(arguments) => echo::run(*arguments),
        Command::Load(arguments) => load::run(*arguments),
    }
}
