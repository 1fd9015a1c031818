//! `ringhold config`: explains configuration files before a server is started with them.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use ringhold::Server;
use ringhold::config::{EXAMPLE, LoadError, Options, Sources, stdin_name};

use super::init;
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
        /// The configuration file; - is standard input, TOML, YAML or a JSON object
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

    /// Write a short file with fresh secrets, to start from
    ///
    /// TOML, or by the end of its name JSON (.json) or YAML (.yaml, .yml). A file that is there
    /// already stays as it is, and the exit status is 1.
    Init {
        /// The file to write
        #[arg(value_name = "FILE", default_value = "ringhold.toml")]
        file: PathBuf,
    },

    /// Print the environment variables that set keys, with the values that hold
    ///
    /// One line each, as NAME=VALUE, for shells and --env-file. With a file its namespaces and
    /// proxies have theirs, too. Secrets are masked. CENTRIFUGO_ in place of RINGHOLD_ does as
    /// well.
    Env {
        /// The configuration file
        #[arg(value_name = "FILE", env = "RINGHOLD_CONFIG")]
        file: Option<PathBuf>,
    },
}

/// The output for a valid configuration.
enum Shows {
    Nothing,
    Options,
    Variables,
}

pub(crate) fn run(arguments: ConfigArguments) -> Result<ExitCode, Box<dyn Error>> {
    let (file, sets, shows, strict) = match arguments.command {
        ConfigCommand::Init { file } => {
            init::write(&file)?;
            print(&format!("{}\n", file.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        ConfigCommand::Env { file } => (file, Vec::new(), Shows::Variables, false),
        ConfigCommand::Example => {
            print(EXAMPLE)?;
            return Ok(ExitCode::SUCCESS);
        }
        ConfigCommand::Check { file, strict } => (Some(file), Vec::new(), Shows::Nothing, strict),
        ConfigCommand::Show { file, sets } => (file, sets, Shows::Options, false),
    };
    let loaded = match file {
        Some(file) if file == Path::new("-") => {
            let text = std::io::read_to_string(std::io::stdin())
                .map_err(|error| format!("standard input: {error}"))?;
            // The name tells the format, and stands in front of each mistake.
            let name = stdin_name(&text);
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
            match shows {
                Shows::Options => print(&(loaded.options.to_toml() + &ceiling(&loaded.options)))?,
                Shows::Variables => {
                    let variables = loaded.options.variables("RINGHOLD").into_iter();
                    let lines =
                        variables.map(|(name, value)| format!("{name}={}\n", quoted(&value)));
                    print(&lines.collect::<String>())?;
                }
                Shows::Nothing => print("ok\n")?,
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

/// Text as a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// The memory ceiling of a server with these options on this host, as comments.
fn ceiling(options: &Options) -> String {
    match Server::builder().config(options.engine_config()).layout() {
        Ok(layout) => {
            let table = options.memory_ceiling(&layout).to_string();
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
