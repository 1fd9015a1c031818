//! The command line: what each subcommand takes, and which part of the library runs it.

mod config;
mod doctor;
mod echo;
mod explain;
mod health;
mod init;
mod load;
mod manual;
mod options;
mod output;
mod serve;
mod token;

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringhold::control::logging::{Format, LogFile};

use crate::control::logging;

/// A WebSocket connection server on io_uring. Without a command it runs `serve`: `ringhold --port
/// 9000` is `ringhold serve --port 9000`.
///
/// Exit status: 0 when it ended as asked, 1 when it could not start or failed or `doctor` found
/// something to mend, 2 when the arguments are wrong, 3 when `load` found something lost or too
/// slow.
#[derive(Debug, Parser)]
#[command(name = "ringhold", version, long_version = LONG_VERSION, max_term_width = 100,
          override_usage = "ringhold [serve] [OPTIONS]\n       ringhold <COMMAND> [OPTIONS]")]
pub(crate) struct Arguments {
    /// What to log on standard error: error, warn, info, debug, or per module as in
    /// `info,ringhold::engine=debug` [default: info]
    #[arg(long, global = true, env = "RINGHOLD_LOG", value_name = "FILTER", display_order = 900)]
    pub(crate) log: Option<String>,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The version, with the commit and the profile that it was built from.
const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_OF_RINGHOLD"), ")");

impl Arguments {
    /// Those of this process. Without a command they are those of `serve`.
    pub(crate) fn of_process() -> Self {
        Self::parse_from(with_command(std::env::args_os().collect()))
    }
}

/// Puts the command `serve` in front of the first option that is none of the program itself.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let text = |at: usize| arguments.get(at).map(|word| word.to_string_lossy().into_owned());
    let mut at = 1;
    loop {
        match text(at).as_deref() {
            Some("--log") => at += 2,
            Some(word) if word.starts_with("--log=") => at += 1,
            Some("-h" | "--help" | "-V" | "--version") => return arguments,
            Some(word) if !word.starts_with('-') => return arguments,
            _ => break,
        }
    }
    arguments.insert(at.min(arguments.len()), OsStr::new("serve").to_owned());
    arguments
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
    /// its tokens itself, with the claims that Centrifugo documents. `token check` explains one.
    Token(Box<token::TokenArguments>),

    /// Check and show configuration files of the gateway
    ///
    /// A file is TOML, or by the end of its name JSON (.json) or YAML (.yaml, .yml), with
    /// Centrifugo's sections and keys.
    /// Environment variables are stronger: RINGHOLD_ and the key in capitals with _ for dots, as
    /// RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY. CENTRIFUGO_ is understood as a prefix, too.
    Config(config::ConfigArguments),

    /// Ask a running server whether it is healthy
    ///
    /// For containers, which have no curl. Exit status: 0 when the answer is 200, 1 otherwise.
    Health(health::HealthArguments),

    /// Print completions for a shell
    ///
    /// As in: ringhold completions bash > /usr/share/bash-completion/completions/ringhold
    Completions(manual::CompletionsArguments),

    /// Write the manual pages, one for each command
    Man(manual::ManArguments),
}

/// Logs go to standard error or a file, quiet by default: what a message says is for the operator.
pub(crate) fn start_logging(filter: Option<&str>, format: Format, file: Option<LogFile>) {
    logging::start(filter.unwrap_or("info"), format, file).unwrap_or_else(|error| {
        output::complain(&format!("ringhold: --log: {error}"));
        std::process::exit(2);
    });
}

/// Runs one subcommand to its end.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let log = arguments.log;
    let command = arguments.command;
    // A server's configuration may say what to log.
    if !matches!(command, Command::Serve(_)) {
        start_logging(log.as_deref(), Format::Text, None);
    }
    match command {
        Command::Serve(arguments) => serve::run(&arguments, log.as_deref()),
        Command::Echo(arguments) => echo::run(*arguments),
        Command::Load(arguments) => load::run(*arguments),
        Command::Doctor(arguments) => doctor::run(*arguments),
        Command::Token(arguments) => token::run(*arguments),
        Command::Config(arguments) => config::run(arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man(arguments) => manual::pages(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_command_the_options_are_those_of_serve() {
        for (given, meant) in [
            ("ringhold", "ringhold serve"),
            ("ringhold --port 0", "ringhold serve --port 0"),
            ("ringhold --log debug", "ringhold --log debug serve"),
            ("ringhold --log=debug -c x.toml", "ringhold --log=debug serve -c x.toml"),
            ("ringhold --log", "ringhold --log serve"),
            ("ringhold --log debug echo --port 1", "ringhold --log debug echo --port 1"),
            ("ringhold echo", "ringhold echo"),
            ("ringhold -h", "ringhold -h"),
            ("ringhold --version", "ringhold --version"),
            ("ringhold sevre --port 0", "ringhold sevre --port 0"),
        ] {
            let words = with_command(given.split(' ').map(OsString::from).collect());
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            assert_eq!(words.join(" "), meant);
        }
    }
}
