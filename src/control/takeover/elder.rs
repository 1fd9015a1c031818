//! The elder's end: it listens for an heir, passes on what the cores have for it, and in the end
//! what their channels hold.
//!
//! Owns the queue between the cores and the socket ([`Line`]). The invariants: a core never waits
//! for the heir while it has connections; the queue is bounded, but for answers, which are as many
//! as the heir may ask for; there is one heir at a time.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::wire::{End, OUT_MAX, STALL, Wire};
use crate::Handle;
use crate::control::alone::Alone;
use crate::control::counts::Counts;
use crate::gateway::app::{self, Gateway};
use crate::gateway::broker::{Fault, Happening, Message, Outcome, Request, Scope, Ticket};
use crate::gateway::handover::words::{VERSION, Word};
use crate::gateway::handover::{Handover, Heir};
use crate::gateway::letters::Letter;
use crate::gateway::placement::Placement;

/// The queue of what an heir is told.
pub(in crate::control) struct Line {
    queue: Mutex<Queue>,
    /// There is something in it.
    filled: Notify,
    /// There is room in it, or its end has come.
    emptied: Condvar,
}

#[derive(Default)]
struct Queue {
    words: Vec<u8>,
    /// Channels of which something was dropped.
    missed: BTreeSet<Arc<str>>,
    /// More of them than are worth a list.
    missed_many: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Linked,
    /// The heir has what it needs.
    Adopted,
    /// The heir has gone.
    Broken,
}

/// Names of channels that are kept; beyond it all are suspect.
const MISSED_MAX: usize = 1024;

/// So long the elder waits in its end for a heir that goes on taking.
const ADOPTION: Duration = Duration::from_secs(10);

impl Line {
    fn new() -> Arc<Self> {
        let queue = Mutex::default();
        Arc::new(Self { queue, filled: Notify::new(), emptied: Condvar::new() })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, word: &Word) {
        word.write(&mut self.queue().words);
        self.filled.notify_one();
    }

    fn enter(&self, stage: Stage) {
        self.queue().stage = stage;
        self.emptied.notify_all();
    }

    /// Whether there is an heir that takes what it is told.
    pub(in crate::control) fn is_linked(&self) -> bool {
        self.queue().stage == Stage::Linked
    }

    /// Tells the heir records of the state. Waits for room, as long as the heir takes something.
    pub(in crate::control) fn put(&self, records: &[u8]) {
        let full = |queue: &mut Queue| queue.words.len() > OUT_MAX && queue.stage == Stage::Linked;
        let waited = self.emptied.wait_timeout_while(self.queue(), 2 * STALL, full);
        let (mut queue, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            queue.stage = Stage::Broken;
        }
        if queue.stage == Stage::Linked {
            let records = bytes::Bytes::copy_from_slice(records);
            Word::State(records).write(&mut queue.words);
            drop(queue);
            self.filled.notify_one();
        }
    }

    /// All is told. Waits until the heir has taken over, and says whether it has.
    pub(in crate::control) fn finish(&self) -> bool {
        self.say(&Word::Final);
        let waits = |queue: &mut Queue| queue.stage == Stage::Linked;
        let waited = self.emptied.wait_timeout_while(self.queue(), ADOPTION, waits);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.stage == Stage::Adopted
    }

    /// What is to be sent next.
    fn take(&self) -> Vec<u8> {
        let mut queue = self.queue();
        let missed = std::mem::take(&mut queue.missed);
        if std::mem::take(&mut queue.missed_many) {
            Word::Tell(Happening::Suspect(Scope::All)).write(&mut queue.words);
        } else if !missed.is_empty() {
            let names = missed.iter().map(|name| Box::<str>::from(&**name)).collect();
            Word::Tell(Happening::Suspect(Scope::Channels(names))).write(&mut queue.words);
        }
        let words = std::mem::take(&mut queue.words);
        drop(queue);
        self.emptied.notify_all();
        words
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("stage", &self.queue().stage).finish_non_exhaustive()
    }
}

impl Heir for Line {
    fn message(&self, channel: &Arc<str>, message: Message) {
        let mut queue = self.queue();
        if queue.words.len() > OUT_MAX || queue.missed.contains(channel) || queue.missed_many {
            // Once it is told that it is suspect, it reads what is missing.
            queue.missed.insert(channel.clone());
            if queue.missed.len() > MISSED_MAX {
                queue.missed.clear();
                queue.missed_many = true;
            }
            return;
        }
        let word = Word::Tell(Happening::Message((&**channel).into(), message));
        word.write(&mut queue.words);
        drop(queue);
        self.filled.notify_one();
    }

    fn listening(&self, channels: Vec<Arc<str>>) {
        self.say(&Word::Tell(Happening::Listening(channels)));
    }

    fn answer(&self, core: u16, ticket: Ticket, answer: Result<Outcome, Fault>) {
        self.say(&Word::Answer(core, ticket, answer));
    }
}

/// Where an heir may come, and whether one is there. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Door(Arc<Mutex<Option<Arc<Line>>>>);

impl Door {
    fn held(&self) -> MutexGuard<'_, Option<Arc<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The heir, if one is there.
    pub(in crate::control) fn line(&self) -> Option<Arc<Line>> {
        self.held().clone().filter(|line| line.is_linked())
    }
}

/// What the task needs.
#[derive(Clone)]
pub(in crate::control) struct Elder {
    pub(in crate::control) name: String,
    pub(in crate::control) placement: Placement,
    pub(in crate::control) handle: Handle<Gateway>,
    pub(in crate::control) door: Door,
    pub(in crate::control) counts: Arc<Counts>,
}

/// A socket in the file system, which goes with this.
pub(in crate::control) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Listens at a path, in place of whatever is there. Within a runtime.
    pub(in crate::control) fn bind(path: &Path) -> io::Result<Self> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let _ = std::fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        // Nobody knows the name so far.
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::metadata(&new)?.ino();
        let _alone = Alone::at(path);
        std::fs::rename(&new, path)?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // An heir that has taken over has put its own there, or does so right now.
        let _alone = Alone::at(&self.path);
        if std::fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Elder {
    /// Serves heirs, one after the other, as long as the control thread runs.
    pub(in crate::control) async fn serve(self, socket: Socket) {
        loop {
            match socket.listener.accept().await {
                Ok((stream, _)) => self.welcome(stream).await,
                Err(error) => {
                    tracing::warn!(%error, "accepting an heir failed");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn welcome(&self, stream: UnixStream) {
        let mut wire = Wire::new(stream);
        let refusal = match tokio::time::timeout(STALL, first_word(&mut wire)).await {
            Ok(Ok(Word::Hello(VERSION, name))) if name == self.name => None,
            Ok(Ok(Word::Hello(VERSION, name))) => Some(format!("this is not {name:?}")),
            Ok(Ok(Word::Hello(version, _))) => Some(format!("this is version {version}'s elder")),
            _ => return,
        };
        let refusal = match self.door.line() {
            Some(_) => Some("there is another heir".to_owned()),
            None => refusal,
        };
        if let Some(why) = refusal {
            tracing::warn!(why, "an heir is refused");
            wire.say(&Word::Refused(why));
            let _ = wire.send();
            return;
        }
        wire.say(&Word::Welcome(VERSION));
        let line = Line::new();
        *self.door.held() = Some(line.clone());
        self.tell_all(|| Handover::Attach(line.clone()));
        tracing::info!("an heir is there: it will take over when this process has drained");
        let (elder, line) = (self.clone(), line);
        tokio::spawn(async move { elder.accompany(wire, line).await });
    }

    fn tell_all(&self, letter: impl Fn() -> Handover) {
        for core in 0..self.handle.workers() {
            self.tell(core, letter());
        }
    }

    fn tell(&self, core: usize, letter: Handover) {
        // A core that has ended orders nothing: the heir does what is not answered.
        let letter = app::CoreEvent::Hub(Letter::Handover(Box::new(letter)));
        let _ = self.handle.post_urgent(core, letter);
    }

    /// Serves an heir to its end.
    async fn accompany(&self, mut wire: Wire, line: Arc<Line>) {
        let end = loop {
            if let Err(end) = self.turn(&mut wire, &line).await {
                break end;
            }
        };
        if line.queue().stage == Stage::Adopted {
            self.counts.takeover("elder", "adopted");
            return;
        }
        line.enter(Stage::Broken);
        self.counts.takeover("elder", "broken");
        tracing::warn!(error = %end, "the heir is gone: everything goes on here");
        self.tell_all(|| Handover::Detach);
    }

    async fn turn(&self, wire: &mut Wire, line: &Line) -> Result<(), End> {
        tokio::select! {
            ready = wire.ready() => ready?,
            () = line.filled.notified(), if wire.queued() < OUT_MAX => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
        let mut adopted = false;
        let received = wire.receive(|word| match word {
            Word::Ask(core, request) => self.ask(core, request),
            Word::Adopted => adopted = true,
            _ => {}
        });
        if adopted {
            line.enter(Stage::Adopted);
        }
        received?;
        if wire.queued() < OUT_MAX {
            let words = line.take();
            if !words.is_empty() {
                wire.add(words);
            }
        }
        wire.send()?;
        match line.queue().stage == Stage::Broken {
            true => Err(End::Stalled),
            false => Ok(()),
        }
    }

    /// Hands a request to the home core of its channel, or parts of it to those of its channels.
    fn ask(&self, core: u16, request: Request) {
        if matches!(request, Request::Listen(_) | Request::Ignore(_)) {
            return self.ask_all(core, request);
        }
        // What has many channels goes round.
        let to = request.channel().map_or(0, |channel| self.placement.home(channel));
        let letter = match request {
            Request::Positions(ticket, tops) => {
                let found = vec![None; tops.len()];
                Handover::Positions { core, ticket, tops, found }
            }
            request => Handover::Ask(core, request),
        };
        self.tell(to, letter);
    }

    fn ask_all(&self, core: u16, request: Request) {
        let (begins, names) = match request {
            Request::Listen(names) => (true, names),
            Request::Ignore(names) => (false, names),
            _ => return,
        };
        let mut parts = vec![Vec::new(); self.placement.cores()];
        names.into_iter().for_each(|name| parts[self.placement.home(&name)].push(name));
        for (home, names) in parts.into_iter().enumerate().filter(|(_, names)| !names.is_empty()) {
            let part = if begins { Request::Listen(names) } else { Request::Ignore(names) };
            self.tell(home, Handover::Ask(core, part));
        }
    }
}

/// The first word of whoever came.
async fn first_word(wire: &mut Wire) -> Result<Word, End> {
    loop {
        wire.ready().await?;
        let mut first = None;
        wire.receive(|word| first = first.take().or(Some(word)))?;
        if let Some(word) = first {
            return Ok(word);
        }
    }
}

/// How soon something is looked at again.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// One process goes away while another opens its own door at the same path.
    #[test]
    fn the_door_of_an_heir_stays() {
        let folder = std::env::temp_dir().join(format!("ringhold-doors-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("door");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.expect("a runtime");
        let bind = || {
            let _inside = runtime.enter();
            Socket::bind(&path).expect("a door")
        };
        let mut door = bind();
        for round in 0..2_000 {
            let (old, start) = (door, Barrier::new(2));
            door = std::thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    drop(old);
                });
                start.wait();
                bind()
            });
            let found = std::fs::metadata(&path).map(|found| found.ino());
            assert_eq!(found.ok(), Some(door.inode), "round {round}");
        }
        drop(door);
        assert!(!path.exists(), "it goes with its process");
        std::fs::remove_dir_all(&folder).expect("nothing else is in it");
    }
}
