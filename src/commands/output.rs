//! Output of commands that are no servers.
//!
//! The invariant: a reader that goes away, as in `ringhold config example | head`, ends the output
//! and neither the command nor its exit status. Servers print by `control::say` instead.

use std::io::{self, Write};

/// Prints to standard output.
///
/// # Errors
/// It cannot be written, as on a full disk; not where the reader went away.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(io::Error::new(error.kind(), format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a complaint to standard error, if there is one.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
