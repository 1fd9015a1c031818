//! The file in which channels outlive a restart: written when a server has ended its drain, and
//! read by the next one.
//!
//! Owns the file's form, and whose it is. While a server runs the file is a mark that says so: what
//! was there before is read once, and never again, since publications go on from there and offsets
//! must not be given twice. At its end a server replaces its own mark only: one that has taken over
//! has put another there. The invariant: what is given to the cores was written whole by a server
//! of this name that ended well, or nothing is.
//!
//! ```text
//! head: magic, version, kind, milliseconds since 1970, mark, name
//! blocks: length (not 0), records (`gateway::state`)
//! end: 0, SHA-256 of all before
//! ```
//!
//! It is not forced to the disk: what a host loses that fails at this moment the sum finds.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::alone::Alone;
use crate::gateway::state::{Chest, LeftOut, PIECE, VERSION, Vault};

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

/// Where the file is, and what it may be.
#[derive(Clone, Debug)]
pub struct StateFile {
    pub(crate) path: PathBuf,
    /// Bytes.
    pub(crate) max_size: u64,
    pub(crate) max_age: Duration,
    /// Which server's it is.
    pub(crate) name: String,
}

/// Why a file is of no use.
#[derive(Debug)]
pub enum Unusable {
    /// It is not one of these.
    Foreign,
    /// Another version of the program has written it.
    Version(u32),
    /// Another server has.
    Other(String),
    /// It is too old, or from the future.
    Stale(Duration),
    /// It has more bytes than it may have.
    Oversized(u64),
    /// It ends too early, or goes on.
    Truncated,
    /// Its bytes are not those that were written.
    Corrupt,
    /// The server that has left it was ended before it could write, or runs.
    Unfinished,
    /// It cannot be read.
    Unreadable(io::Error),
}

impl Unusable {
    /// As in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Foreign | Self::Version(_) | Self::Other(_) => "foreign",
            Self::Stale(_) => "stale",
            Self::Oversized(_) => "oversized",
            Self::Truncated | Self::Corrupt => "corrupt",
            Self::Unfinished => "unfinished",
            Self::Unreadable(_) => "unreadable",
        }
    }

    /// All names.
    pub const NAMES: [&str; 6] =
        ["corrupt", "foreign", "oversized", "stale", "unfinished", "unreadable"];
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("it is no state of this program"),
            Self::Version(version) => write!(f, "it has version {version}, not {VERSION}"),
            Self::Other(name) => write!(f, "it is of the server {name:?}"),
            Self::Stale(age) => write!(f, "it is {} s old", age.as_secs()),
            Self::Oversized(bytes) => write!(f, "it has {bytes} bytes"),
            Self::Truncated => f.write_str("it is not whole"),
            Self::Corrupt => f.write_str("its sum is another"),
            Self::Unfinished => f.write_str("the server before has not ended well, or runs"),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Unreadable(error),
        }
    }
}

const MAGIC: [u8; 16] = *b"ringhold state\n\0";
const STATE: u32 = 1;
const RUNNING: u32 = 2;
/// Suffix of the file that a process writes before it puts it in its place; the mark follows.
const VAULT: &str = ".vault-";
/// Bytes of a head without the name.
const HEAD: usize = 16 + 4 + 4 + 8 + 16 + 4;
pub(crate) const NAME_MAX: usize = 1024;
/// Bytes of a block at most: a piece, and the largest publication that the API takes.
const BLOCK_MAX: usize = PIECE + (32 << 20);

/// What a server of these bounds holds to write or read its state, on each core.
pub const CORE_BYTES: u64 = 2 * PIECE as u64 + (16 << 20);

impl StateFile {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(what);
        path.into()
    }

    /// Looks for what the process before has left. `None`: there is nothing.
    pub fn open(&self) -> Result<Option<Left>, Unusable> {
        match File::open(&self.path) {
            Ok(file) => Left::check(file, self).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Marks the place: this process is the one that writes there in its end.
    pub fn mark(&self) -> io::Result<Mark> {
        let mark = Mark { place: self.clone(), id: uuid::Uuid::new_v4().into_bytes() };
        let _alone = Alone::at(&self.path);
        self.remove_vaults();
        match std::fs::rename(&self.path, self.beside(".before")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = create(&self.beside(".new"))?;
        file.write_all(&self.head(RUNNING, &mark.id))?;
        std::fs::rename(self.beside(".new"), &self.path)?;
        Ok(mark)
    }

    /// Where a process with this mark writes: a name of its own, since one that takes over writes
    /// its mark while the process before still keeps what it had.
    fn vault(&self, mark: &[u8; 16]) -> PathBuf {
        let id: String = mark.iter().map(|byte| format!("{byte:02x}")).collect();
        self.beside(&format!("{VAULT}{id}"))
    }

    /// Removes what others were writing: they died, or another has the place now.
    fn remove_vaults(&self) {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let prefix = [name.as_encoded_bytes(), VAULT.as_bytes()].concat();
        for found in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if found.file_name().as_encoded_bytes().starts_with(&prefix) {
                let _ = std::fs::remove_file(found.path());
            }
        }
    }

    fn head(&self, kind: u32, mark: &[u8; 16]) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend(kind.to_le_bytes());
        head.extend(unix_millis().to_le_bytes());
        head.extend(mark);
        head.extend((self.name.len() as u32).to_le_bytes());
        head.extend(self.name.as_bytes());
        head
    }
}

/// A head as it was read.
struct Head {
    kind: u32,
    written: u64,
    mark: [u8; 16],
    name: String,
    bytes: Vec<u8>,
}

impl Head {
    fn read(file: &mut impl io::Read) -> Result<Self, Unusable> {
        let mut bytes = vec![0; HEAD];
        file.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Unusable::Foreign,
            _ => Unusable::Unreadable(error),
        })?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        if bytes[..16] != MAGIC {
            return Err(Unusable::Foreign);
        }
        if number(16) != VERSION {
            return Err(Unusable::Version(number(16)));
        }
        let written = u64::from(number(24)) | u64::from(number(28)) << 32;
        let (kind, length) = (number(20), number(48) as usize);
        let mut mark = [0; 16];
        mark.copy_from_slice(&bytes[32..48]);
        if length > NAME_MAX {
            return Err(Unusable::Corrupt);
        }
        let mut name = vec![0; length];
        file.read_exact(&mut name)?;
        bytes.extend(&name);
        let name = String::from_utf8(name).map_err(|_| Unusable::Corrupt)?;
        Ok(Self { kind, written, mark, name, bytes })
    }
}

/// What a process has left for the next one. The cores read it, each for itself.
#[derive(Debug)]
pub struct Left {
    /// Taken when nobody needs it any more: a file that has no name takes room as long as it is
    /// open.
    file: Mutex<Option<Arc<File>>>,
    /// Where each block lies: its place and its length.
    blocks: Vec<(u64, u32)>,
    bytes: u64,
    age: Duration,
}

impl Left {
    /// Reads the file once, and believes nothing of it.
    fn check(file: File, place: &StateFile) -> Result<Self, Unusable> {
        let size = file.metadata()?.len();
        let mut reader = io::BufReader::with_capacity(PIECE, &file);
        let head = Head::read(&mut reader)?;
        if head.name != place.name {
            return Err(Unusable::Other(head.name));
        }
        match head.kind {
            STATE => {}
            RUNNING => return Err(Unusable::Unfinished),
            _ => return Err(Unusable::Corrupt),
        }
        if size > place.max_size.saturating_add(OVERHEAD) {
            return Err(Unusable::Oversized(size));
        }
        let now = unix_millis();
        // A clock that was set back by a little is none of the file's faults.
        let future = Duration::from_millis(head.written.saturating_sub(now));
        let age = Duration::from_millis(now.saturating_sub(head.written));
        if age > place.max_age || future > place.max_age {
            return Err(Unusable::Stale(age));
        }
        let mut sum = Context::new(&SHA256);
        sum.update(&head.bytes);
        let (mut at, mut blocks) = (head.bytes.len() as u64, Vec::new());
        let mut block = Vec::new();
        loop {
            let mut length = [0; 4];
            reader.read_exact(&mut length)?;
            sum.update(&length);
            at += 4;
            let length = u32::from_le_bytes(length);
            if length == 0 {
                break;
            }
            if length as usize > BLOCK_MAX || u64::from(length) > size {
                return Err(Unusable::Corrupt);
            }
            block.resize(length as usize, 0);
            reader.read_exact(&mut block)?;
            sum.update(&block);
            blocks.push((at, length));
            at += u64::from(length);
        }
        let mut told = [0; SHA256_OUTPUT_LEN];
        reader.read_exact(&mut told)?;
        if sum.finish().as_ref() != told {
            return Err(Unusable::Corrupt);
        }
        if reader.read(&mut [0])? != 0 {
            return Err(Unusable::Truncated);
        }
        drop(reader);
        Ok(Self { file: Mutex::new(Some(Arc::new(file))), blocks, bytes: size, age })
    }

    fn file(&self) -> MutexGuard<'_, Option<Arc<File>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody reads it any more.
    pub fn close(&self) {
        *self.file() = None;
    }

    /// Of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Chest for Left {
    fn open(&self, take: &mut dyn FnMut(&[u8])) {
        let Some(file) = self.file().clone() else { return };
        let mut block = Vec::new();
        for (at, length) in &self.blocks {
            block.resize(*length as usize, 0);
            if let Err(error) = file.read_exact_at(&mut block, *at) {
                tracing::error!(%error, "the state cannot be read any more");
                return;
            }
            take(&block);
        }
    }

    fn age(&self) -> Duration {
        self.age
    }
}

/// This process writes at a place in its end, unless another one does by then.
#[derive(Debug)]
pub struct Mark {
    place: StateFile,
    id: [u8; 16],
}

impl Mark {
    /// The server runs: what was there before is history.
    pub fn settle(&self) {
        let _ = std::fs::remove_file(self.place.beside(".before"));
    }

    /// The server does not start: what was there before is there again.
    pub fn undo(&self) {
        let _alone = Alone::at(&self.place.path);
        if self.is_ours() {
            let before = self.place.beside(".before");
            if std::fs::rename(before, &self.place.path).is_err() {
                let _ = std::fs::remove_file(&self.place.path);
            }
        }
    }

    fn is_ours(&self) -> bool {
        let head = File::open(&self.place.path).map_err(Unusable::from);
        head.and_then(|mut file| Head::read(&mut file)).is_ok_and(|head| head.mark == self.id)
    }

    /// A file for what the cores keep.
    pub fn vault(&self) -> io::Result<Arc<FileVault>> {
        let path = self.place.vault(&self.id);
        let mut vault = Writing {
            file: io::BufWriter::with_capacity(PIECE, create(&path)?),
            sum: Context::new(&SHA256),
            failed: None,
        };
        vault.write(&self.place.head(STATE, &self.id));
        Ok(Arc::new(FileVault {
            path,
            room: AtomicU64::new(self.place.max_size),
            writing: Mutex::new(vault),
            left_out: [AtomicU64::new(0), AtomicU64::new(0)],
        }))
    }

    /// Puts what the cores have kept in the mark's place, and says in the log what it is.
    pub fn finish(&self, vault: &FileVault, whole: bool) {
        let path = self.place.path.display();
        let finished = vault.finish();
        let _alone = Alone::at(&self.place.path);
        if !self.is_ours() {
            tracing::info!(%path, "another server has taken over: nothing is kept");
            let _ = std::fs::remove_file(&vault.path);
            return;
        }
        match finished.and_then(|bytes| {
            std::fs::rename(&vault.path, &self.place.path)?;
            Ok(bytes)
        }) {
            Ok(bytes) => {
                let [channels, publications] = &vault.left_out;
                let (channels, publications) =
                    (channels.load(Ordering::Relaxed), publications.load(Ordering::Relaxed));
                if channels + publications > 0 {
                    let most = "shutdown.state_max_size";
                    tracing::warn!(channels, publications, most, "not all channels are kept");
                }
                if !whole {
                    tracing::warn!("a core failed: its channels are not kept");
                }
                tracing::info!(%path, bytes, "channels are kept for the next process");
            }
            Err(error) => {
                tracing::error!(%path, %error, "channels are not kept");
                let _ = std::fs::remove_file(&vault.path);
            }
        }
    }
}

/// The way of the cores into the file.
#[derive(Debug)]
pub struct FileVault {
    path: PathBuf,
    room: AtomicU64,
    writing: Mutex<Writing>,
    left_out: [AtomicU64; 2],
}

struct Writing {
    file: io::BufWriter<File>,
    sum: Context,
    failed: Option<io::Error>,
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Writing {
    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.sum.update(bytes);
            self.failed = self.file.write_all(bytes).err();
        }
    }
}

impl FileVault {
    fn writing(&self) -> MutexGuard<'_, Writing> {
        // What a thread that panicked has left the sum finds.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody needs it.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// Ends the file. How long it is.
    fn finish(&self) -> io::Result<u64> {
        let mut writing = self.writing();
        writing.write(&0u32.to_le_bytes());
        let sum = writing.sum.clone().finish();
        writing.write(sum.as_ref());
        match writing.failed.take() {
            Some(error) => Err(error),
            None => {
                writing.file.flush()?;
                Ok(writing.file.get_ref().metadata()?.len())
            }
        }
    }
}

impl Vault for FileVault {
    fn claim(&self, bytes: usize) -> bool {
        let less = |room: u64| room.checked_sub(bytes as u64);
        self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn put(&self, records: &[u8]) {
        let Ok(length) = u32::try_from(records.len()) else { return };
        let mut writing = self.writing();
        writing.write(&length.to_le_bytes());
        writing.write(records);
    }

    fn left_out(&self, out: LeftOut) {
        for (total, more) in self.left_out.iter().zip([out.channels, out.publications]) {
            total.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// Bytes beside records: head, lengths, sum.
const OVERHEAD: u64 = 1 << 20;

fn create(path: &Path) -> io::Result<File> {
    // Only whoever runs the server may read what was published.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
