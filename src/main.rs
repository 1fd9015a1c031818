//! The program `ringhold`: arguments in, exit status out.

mod commands;
mod doctor;
mod load;
mod memory;

use std::process::ExitCode;

use clap::Parser;
use ringhold::control;

fn main() -> ExitCode {
    let arguments = commands::Arguments::parse();
    match commands::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringhold: {error}");
            ExitCode::FAILURE
        }
    }
}
