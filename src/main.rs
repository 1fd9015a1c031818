//! The program `ringhold`: arguments in, exit status out.

mod commands;
mod doctor;
mod load;

use std::process::ExitCode;

use clap::Parser;
use ringhold::control;

// Gives freed pages back to the kernel, which glibc's allocator does not do reliably.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
