//! Waits that outlive a pause of the process.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{self, Read, Write};

/// Repeats a call until it ends by itself. A wait on a socket with a timeout ends with EINTR where
/// the process was stopped and goes on (signal(7)), even without a handler; the standard library
/// repeats `read_exact` and its kind, but neither `read` nor `peek`.
pub(crate) fn unbroken<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => return ended,
        }
    }
}

/// A socket for clients that take EINTR for the end.
#[derive(Debug)]
pub(crate) struct Unbroken<S>(pub(crate) S);

impl<S: Read> Read for Unbroken<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        unbroken(|| self.0.read(buffer))
    }
}

impl<S: Write> Write for Unbroken<S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        unbroken(|| self.0.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        unbroken(|| self.0.flush())
    }
}
