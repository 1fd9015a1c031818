//! `ringhold config`: explains configuration files before a server is started with them.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use ringhold::Server;
use ringhold::control;
use ringhold::gateway::options::{EXAMPLE, LoadError, Options, Sources};

use super::output::{complain, print};
use crate::control::logging;

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every mistake in a file with its line and key
    ///
    /// One mistake per line, as FILE:LINE: KEY: WHAT, and exit status 1; without mistakes "ok" and
    /// 0. The environment counts, as it does for the server.
    Check {
        /// The configuration file; - is standard input, TOML or a JSON object
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Take warnings, such as keys that have no meaning here, for mistakes
        #[arg(long)]
        strict: bool,
    },

    /// Print what a server would run with, as TOML with secrets masked
    ///
    /// From weakest to strongest: defaults, file, environment, --set. A table in comments says how
    /// much memory that can take at most: of what, by which key, per connection, core and process.
    Show {
        /// The configuration file
        #[arg(value_name = "FILE", env = "RINGHOLD_CONFIG")]
        file: Option<PathBuf>,

        /// Set a key, as client.insecure=true; stronger than file and environment. May be given
        /// several times
        #[arg(long = "set", value_name = "KEY=VALUE")]
        sets: Vec<String>,
    },

    /// Print a commented file with every key and its default, to start from
    Example,
}

pub(crate) fn run(arguments: ConfigArguments) -> Result<ExitCode, Box<dyn Error>> {
    let (file, sets, show, strict) = match arguments.command {
        ConfigCommand::Example => {
            print(EXAMPLE)?;
            return Ok(ExitCode::SUCCESS);
        }
        ConfigCommand::Check { file, strict } => (Some(file), Vec::new(), false, strict),
        ConfigCommand::Show { file, sets } => (file, sets, true, false),
    };
    let loaded = match file {
        Some(file) if file == Path::new("-") => {
            let text = std::io::read_to_string(std::io::stdin())
                .map_err(|error| format!("standard input: {error}"))?;
            // The name tells the format, and stands in front of each mistake.
            let json = text.trim_start().starts_with('{');
            let name = if json { "stdin.json" } else { "stdin" };
            Options::from_text(&Sources::of_process(Some(name.into()), sets), &text)
                .map_err(LoadError::Wrong)
        }
        file => Options::load(&Sources::of_process(file, sets)),
    };
    match loaded {
        Ok(loaded) if strict && !loaded.warnings.is_empty() => {
            complain(&loaded.warnings.join("\n"));
            Ok(ExitCode::FAILURE)
        }
        Ok(loaded) => {
            warn(&loaded.warnings);
            match show {
                true => print(&(loaded.options.to_toml() + &ceiling(&loaded.options)))?,
                false => print("ok\n")?,
            }
            Ok(ExitCode::SUCCESS)
        }
        // The lines are the answer that was asked for, so they carry no prefix that would keep
        // editors from finding the place.
        Err(error) => {
            complain(&error.to_string());
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The memory ceiling of a server with these options on this host, as comments.
fn ceiling(options: &Options) -> String {
    match Server::builder().config(options.engine_config()).layout() {
        Ok(layout) => {
            let table = control::ceiling(options, &layout).to_string();
            table.lines().fold("\n".to_owned(), |text, line| text + "# " + line.trim_end() + "\n")
        }
        Err(error) => format!("\n# no memory ceiling: {error}\n"),
    }
}

/// Tells what does not keep a server from starting.
pub(crate) fn warn(warnings: &[String]) {
    for warning in warnings {
        logging::tell(&format!("warning: {warning}"));
    }
}
