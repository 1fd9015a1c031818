//! `ringhold completions` and `ringhold man`: what packages contain beside the program, made from
//! the command line's own definitions.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Arguments;
use super::output::print;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// For which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Where to write them
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(crate) fn completions(arguments: &CompletionsArguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "ringhold", &mut text);
    print(&String::from_utf8(text)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn pages(arguments: &ManArguments) -> Result<ExitCode, Box<dyn Error>> {
    let folder = &arguments.folder;
    let failed = |error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(failed)?;
    // The short version: a page is about a version, not about one build.
    let mut command = Arguments::command().long_version(None).disable_help_subcommand(true);
    command.build();
    write(&command, folder).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// The page of a command and those of its own commands.
fn write(command: &Command, folder: &Path) -> io::Result<()> {
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        write(one, folder)?;
    }
    let program = concat!("ringhold ", env!("CARGO_PKG_VERSION"));
    // Without a date, the program would be written in its place.
    Man::new(command.clone()).date(" ").source(program).generate_to(folder)?;
    Ok(())
}
