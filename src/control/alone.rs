//! One process at a time at a path that two of them use: who goes away looks whether a file is its
//! own before it removes it, and who takes over may put another there in between.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long is waited for another process, which is through in much less.
const PATIENCE: Duration = Duration::from_secs(1);

/// A lock on the folder of a path, which only those heed who ask for it; until this is dropped.
/// Best effort: where a file system has no locks, or somebody else holds one for long, all is done
/// without.
pub struct Alone(#[expect(dead_code, reason = "held")] Option<File>);

impl Alone {
    /// Waits for at most a second, from any thread.
    pub fn at(path: &Path) -> Self {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) else { return Self(None) };
        let end = Instant::now() + PATIENCE;
        loop {
            match folder.try_lock() {
                Ok(()) => return Self(Some(folder)),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return Self(None),
            }
        }
    }
}
