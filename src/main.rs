//! The program `ringhold`: arguments in, exit status out.

mod commands;
mod doctor;
mod load;
mod memory;

use std::process::ExitCode;

use ringhold::control;

fn main() -> ExitCode {
    let arguments = commands::Arguments::of_process();
    let code = commands::run(arguments).unwrap_or_else(|error| {
        control::logging::tell(&format!("ringhold: {error}"));
        ExitCode::FAILURE
    });
    control::logging::flush(control::logging::LAST_WORDS);
    code
}
