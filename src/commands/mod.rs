//! The command line: what each subcommand takes, and which part of the library runs it.

mod config;
mod doctor;
mod echo;
mod load;
mod options;
mod output;
mod serve;
mod token;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::control::logging;

/// A WebSocket connection server on io_uring. Without a command it runs `serve`.
///
/// Exit status: 0 when it ended as asked, 1 when it could not start or failed or `doctor` found
/// something to mend, 2 when the arguments are wrong, 3 when `load` found something lost.
#[derive(Debug, Parser)]
#[command(name = "ringhold", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// What to log on standard error: error, warn, info, debug, or per module as in
    /// `info,ringhold::engine=debug` [default: info]
    #[arg(long, global = true, env = "RINGHOLD_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,

    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve: the push gateway, for SDKs and backends of Centrifugo
    ///
    /// Without a configuration it starts on 127.0.0.1:8000 with secrets of its own, and prints what
    /// to try. SIGTERM and SIGINT drain it, SIGHUP reloads channel options and keys.
    Serve(Box<serve::ServeArguments>),

    /// Serve: send every message back
    Echo(Box<echo::EchoArguments>),

    /// Measure: open connections to a server and load it
    Load(Box<load::LoadArguments>),

    /// Examine the host: does it carry so many connections, and what to change
    ///
    /// Says for each limit whether it is enough, what it costs if not, and the line that mends it.
    /// Changes nothing. Exit status: 0 when the connections fit, 1 when something must be mended, 2
    /// when the arguments are wrong.
    Doctor(Box<doctor::DoctorArguments>),

    /// Make a token that the gateway accepts, and print it
    ///
    /// A connection token, or with --channel a subscription token. It is signed with HS256 under
    /// the secret in --secret, or else in the configuration (--config, environment), whose
    /// audience, issuer and user claim go into the token, too. In production the application makes
    /// its tokens itself, with the claims that Centrifugo documents.
    Token(Box<token::TokenArguments>),

    /// Check and show configuration files of the gateway
    ///
    /// A file is TOML, or JSON if its name ends with .json, with Centrifugo's sections and keys.
    /// Environment variables are stronger: RINGHOLD_ and the key in capitals with _ for dots, as
    /// RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY. CENTRIFUGO_ is understood as a prefix, too.
    Config(config::ConfigArguments),
}

/// Logs go to standard error, quiet by default: what a message says is for the operator.
pub(crate) fn start_logging(filter: Option<&str>) {
    logging::start(filter.unwrap_or("info")).unwrap_or_else(|error| {
        output::complain(&format!("ringhold: --log: {error}"));
        std::process::exit(2);
    });
}

/// Runs one subcommand to its end.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let log = arguments.log;
    let command = match arguments.command {
        Some(command) => command,
        // For what it takes from the environment.
        None => match Arguments::parse_from(["ringhold", "serve"]).command {
            Some(command) => command,
            None => return Err("there is nothing to do".into()),
        },
    };
    // A server's configuration may say what to log.
    if !matches!(command, Command::Serve(_)) {
        start_logging(log.as_deref());
    }
    match command {
        Command::Serve(arguments) => serve::run(&arguments, log.as_deref()),
        Command::Echo(arguments) => echo::run(*arguments),
        Command::Load(arguments) => load::run(*arguments),
        Command::Doctor(arguments) => doctor::run(*arguments),
        Command::Token(arguments) => token::run(*arguments),
        Command::Config(arguments) => config::run(arguments),
    }
}
