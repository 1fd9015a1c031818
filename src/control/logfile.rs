//! The file that a log goes to. What is asked of it from outside, to be opened anew after somebody
//! moved it aside, the thread that writes does before its next line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file for appended lines. It stays open where it cannot be opened anew.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    reopen: Reopen,
}

/// Has a [`LogFile`] opened anew; clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Reopen(Arc<AtomicBool>);

impl Reopen {
    /// Before the next line.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl LogFile {
    /// Opens a file, or makes it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, path) = (open(path)?, path.to_owned());
        Ok(Self { path, file, reopen: Reopen::default() })
    }

    /// By which it is opened anew.
    pub fn reopen(&self) -> Reopen {
        self.reopen.clone()
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.reopen.0.swap(false, Ordering::Relaxed)
            && let Ok(file) = open(&self.path)
        {
            self.file = file;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_aside_is_made_anew_when_asked() {
        let folder = std::env::temp_dir().join(format!("ringhold-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, aside) = (folder.join("a.log"), folder.join("a.log.1"));
        let mut file = LogFile::open(&path).unwrap();
        file.write_all(b"1\n").unwrap();
        std::fs::rename(&path, &aside).unwrap();
        file.write_all(b"2\n").unwrap();
        file.reopen().ask();
        file.write_all(b"3\n").unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!((read(&aside), read(&path)), ("1\n2\n".to_owned(), "3\n".to_owned()));
        // One that cannot be made leaves the old one.
        std::fs::remove_dir_all(&folder).unwrap();
        file.reopen().ask();
        file.write_all(b"4\n").unwrap();
        assert!(!path.exists());
    }
}
