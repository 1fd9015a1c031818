//! The heir's end: it carries what its cores ask to the elder, and what the elder says to them,
//! until it is told all, or the elder is lost.
//!
//! Owns what was asked and is not answered. The invariant: each of that is answered by the elder,
//! or done by the core itself when it has taken over, and never both.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream as Blocking;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::wire::{End, OUT_MAX, STALL, Wire};
use crate::Handle;
use crate::broker::queue::Taken;
use crate::broker::{Post, Queue};
use crate::control::broker::Mailboxes;
use crate::control::counts::Counts;
use crate::gateway::app::{self, Gateway};
use crate::gateway::broker::{Happening, Life, Limits, Scope, Ticket};
use crate::gateway::handover::Handover;
use crate::gateway::handover::words::{VERSION, Word};
use crate::gateway::letters::{Gather, Letter};
use crate::gateway::placement::Placement;

/// An elder that waits to be taken over from.
#[derive(Debug)]
pub struct Found(Blocking);

/// Knocks at an elder's door, by our name. An error says why nobody is taken over from.
pub fn knock(path: &Path, name: String) -> Result<Found, String> {
    let said = |error: io::Error| error.to_string();
    let mut stream = Blocking::connect(path).map_err(said)?;
    for set in [Blocking::set_read_timeout, Blocking::set_write_timeout] {
        set(&stream, Some(STALL)).map_err(said)?;
    }
    let mut words = Vec::new();
    Word::Hello(VERSION, name).write(&mut words);
    stream.write_all(&words).map_err(said)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(said)?;
    let mut word = length.to_vec();
    word.resize(4 + (u32::from_le_bytes(length) as usize).min(FIRST_MAX), 0);
    stream.read_exact(&mut word[4..]).map_err(said)?;
    match Word::read(&mut &word[..]) {
        Ok(Some(Word::Welcome(VERSION))) => Ok(Found(stream)),
        Ok(Some(Word::Refused(why))) => Err(why),
        _ => Err("the answer is none".to_owned()),
    }
}

/// Bytes of the first word at most.
const FIRST_MAX: usize = 4096;

/// The cores' way to the elder.
pub(in crate::control) fn queue(cores: usize) -> Arc<Queue> {
    Queue::new(cores, Limits { deadline: STALL, ..Limits::default() })
}

/// What the task needs.
pub(in crate::control) struct Follower {
    pub(in crate::control) queue: Arc<Queue>,
    pub(in crate::control) placement: Placement,
    pub(in crate::control) handle: Handle<Gateway>,
    pub(in crate::control) counts: Arc<Counts>,
}

/// What was asked of the elder.
struct Asked {
    /// In which order.
    number: u64,
    taken: Taken,
}

/// A follower at work.
struct Following {
    follower: Follower,
    post: Post,
    wire: Wire,
    asked: HashMap<(u16, Ticket), Asked>,
    number: u64,
    waiting: VecDeque<Taken>,
    /// One for each piece of state that a core has not taken in yet, and one more.
    pieces: Arc<()>,
    is_final: bool,
}

/// Pieces of state on their way to each core.
pub(super) const PIECES: usize = 8;

impl Follower {
    /// Follows an elder until its cores order their channels themselves. `begin` is called when
    /// that is decided, before they do. Whether the elder's state is theirs.
    pub(in crate::control) async fn follow(self, found: Found, begin: impl FnOnce()) -> bool {
        let counts = self.counts.clone();
        let stream = found.0.set_nonblocking(true).and_then(|()| UnixStream::from_std(found.0));
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!(%error, "the elder cannot be followed");
                begin();
                self.succeed(false, Vec::new()).await;
                return false;
            }
        };
        counts.takeover_linked.set(1);
        let post =
            Post::new(Box::new(Mailboxes(self.handle.clone())), self.placement, Arc::default());
        let mut following = Following {
            follower: self,
            post,
            wire: Wire::new(stream),
            asked: HashMap::new(),
            number: 0,
            waiting: VecDeque::new(),
            pieces: Arc::new(()),
            is_final: false,
        };
        following.post.tell_all(&Happening::Back(Scope::All, Life::Same));
        following.post.flush(std::time::Instant::now());
        let whole = following.run().await;
        begin();
        let Following { follower, mut wire, asked, waiting, .. } = following;
        let mut left: Vec<Asked> = asked.into_values().collect();
        left.sort_by_key(|asked| asked.number);
        let left = left.into_iter().map(|asked| asked.taken).chain(waiting).collect();
        follower.succeed(whole, left).await;
        counts.takeover_linked.set(0);
        counts.takeover("heir", if whole { "adopted" } else { "broken" });
        if whole {
            tracing::info!("channels go on where the process before has left them");
            wire.say(&Word::Adopted);
            let _ = tokio::time::timeout(STALL, async {
                while wire.send().is_ok() && wire.queued() > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
        }
        whole
    }

    fn tell(&self, core: usize, letter: Handover) {
        let letter = app::CoreEvent::Hub(Letter::Handover(Box::new(letter)));
        // A core that has ended needs nothing.
        let _ = self.handle.post_urgent(core, letter);
    }

    /// Lets the cores order their channels, and do what was asked of the elder.
    async fn succeed(&self, whole: bool, left: Vec<Taken>) {
        let (to, done) = oneshot::channel();
        let gather = Arc::new(Gather::new(move |_: Vec<()>| _ = to.send(())));
        for core in 0..self.handle.workers() {
            self.tell(core, Handover::Succeed(whole, gather.clone()));
        }
        drop(gather);
        let _ = done.await;
        // From here on nothing more is asked.
        let mut rest = VecDeque::from(left);
        self.queue.take(&mut rest);
        for taken in rest {
            let core = usize::from(taken.core);
            self.tell(core, Handover::Unanswered(taken.into_request()));
        }
    }
}

impl Following {
    /// Until all is told, or there is nobody any more. Whether it is the former.
    async fn run(&mut self) -> bool {
        loop {
            match self.turn().await {
                Ok(()) if self.is_final => return true,
                Ok(()) => {}
                Err(_) if self.is_final => return true,
                Err(end) => {
                    tracing::error!(error = %end, "the elder is lost: channels begin anew");
                    return false;
                }
            }
        }
    }

    async fn turn(&mut self) -> Result<(), End> {
        let busy = Arc::strong_count(&self.pieces) > PIECES * self.follower.handle.workers();
        tokio::select! {
            // What the cores have not taken in waits in the socket.
            ready = self.wire.ready(), if !busy => ready?,
            () = self.follower.queue.arrival() => {}
            () = tokio::time::sleep(if busy { SOON } else { TICK }) => {}
        }
        if !busy {
            let mut words = Vec::new();
            let received = self.wire.receive(|word| words.push(word));
            words.into_iter().for_each(|word| self.hear(word));
            self.post.flush(std::time::Instant::now());
            received?;
        }
        self.carry();
        self.wire.send()?;
        let late = |asked: &Asked| asked.taken.at.elapsed() > STALL;
        let silent = !busy && self.wire.heard.elapsed() > STALL;
        match silent && self.asked.values().any(late) {
            true => Err(End::Stalled),
            false => Ok(()),
        }
    }

    /// Carries what the cores ask to the elder.
    fn carry(&mut self) {
        self.follower.queue.take(&mut self.waiting);
        while self.wire.queued() < OUT_MAX
            && let Some(taken) = self.waiting.pop_front()
        {
            if self.asked.is_empty() {
                // It was not silent as long as nobody asked.
                self.wire.heard = Instant::now();
            }
            self.number += 1;
            let word = Word::Ask(taken.core, taken.request.clone());
            self.wire.say(&word);
            if let Some(ticket) = taken.request.ticket() {
                self.asked.insert((taken.core, ticket), Asked { number: self.number, taken });
            }
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Answer(core, ticket, answer) => {
                // Of one that was given up nobody wants to hear.
                let Some(_) = self.asked.remove(&(core, ticket)) else { return };
                self.post.tell(core, Happening::Answer(ticket, answer));
            }
            Word::Tell(Happening::Message(channel, message)) => {
                self.post.message(&channel, message);
            }
            Word::Tell(Happening::Listening(names)) => {
                let placement = self.follower.placement;
                let mut parts = vec![Vec::new(); placement.cores()];
                names.into_iter().for_each(|name| parts[placement.home(&name)].push(name));
                let parts = parts.into_iter().enumerate().filter(|(_, names)| !names.is_empty());
                for (core, names) in parts {
                    self.post.tell(core as u16, Happening::Listening(names));
                }
            }
            Word::Tell(happening) => self.post.tell_all(&happening),
            Word::State(records) => {
                // Before it the cores hear what came before.
                self.post.flush(std::time::Instant::now());
                for core in 0..self.follower.handle.workers() {
                    let letter = Handover::Records(records.clone(), self.pieces.clone());
                    self.follower.tell(core, letter);
                }
            }
            Word::Final => self.is_final = true,
            _ => {}
        }
    }
}

/// How soon the cores are looked at again that have much to take in.
const SOON: Duration = Duration::from_millis(1);

/// How often it looks whether the elder is silent.
const TICK: Duration = Duration::from_millis(250);
