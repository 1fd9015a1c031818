//! The program `ringhold`: arguments in, exit status out.

mod commands;
mod control;
mod load;

use std::process::ExitCode;

use clap::Parser;

// Gives freed pages back to the kernel, which glibc's allocator does not do reliably.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = commands::Arguments::parse();
    commands::start_logging(arguments.log.as_deref());
    match commands::run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringhold: {error}");
            ExitCode::FAILURE
        }
    }
}
