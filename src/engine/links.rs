//! The post between cores: what can be sent to a worker, and the handle that sends it.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::config::Drain;
use super::conn::{ConnId, Frame, SendError};
use super::core::Links;
use super::counters::Stats;
use super::handler::Handler;
use super::mailbox::{Mailbox, Refused};
use crate::protocol::CloseCode;

/// What can be asked of a worker.
pub(crate) enum Command<L> {
    Send(ConnId, Frame),
    Close(ConnId, CloseCode, String),
    Publish(Arc<str>, Frame),
    App(L),
    Stats(mpsc::Sender<(u16, Stats)>),
    Slow(mpsc::Sender<Vec<SlowPeer>>),
    Drain(Drain),
    Stop,
}

/// A connection that does not read as fast as is sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowPeer {
    /// Which.
    pub id: ConnId,
    /// From where.
    pub peer: std::net::SocketAddr,
    /// Bytes that wait for it.
    pub queued: usize,
    /// Time since it last took a byte.
    pub stalled: Duration,
}

/// One worker's mailbox.
pub(crate) struct Post<L> {
    pub(crate) mailbox: Mailbox<Command<L>>,
}

/// All mailboxes, in the order of workers.
pub(crate) struct Network<L> {
    pub(crate) posts: Vec<Arc<Post<L>>>,
}

impl<L: Send + 'static> Network<L> {
    fn post(&self, worker: usize, command: Command<L>) -> Result<(), SendError> {
        let Some(post) = self.posts.get(worker) else { return Err(SendError::Gone) };
        post.mailbox.post(command).map_err(|refused| match refused {
            Refused::Full(_) => SendError::Busy,
            Refused::Closed(_) => SendError::Gone,
        })
    }
}

impl<L: Send + 'static> Links for Network<L> {
    fn send(&self, id: ConnId, frame: &Frame) -> Result<(), SendError> {
        self.post(id.worker(), Command::Send(id, frame.clone()))
    }

    fn close(&self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), SendError> {
        self.post(id.worker(), Command::Close(id, code, reason.to_owned()))
    }

    fn publish(&self, from: u16, topic: &Arc<str>, frame: &Frame) -> u64 {
        let others = (0..self.posts.len()).filter(|worker| *worker != usize::from(from));
        others
            .filter(|worker| {
                let command = Command::Publish(topic.clone(), frame.clone());
                self.post(*worker, command) == Err(SendError::Busy)
            })
            .count() as u64
    }

    fn workers(&self) -> usize {
        self.posts.len()
    }
}

/// Reaches every core of a server from any thread. Cloning is cheap. Nothing here blocks on a core,
/// except [`Handle::stats`], [`Handle::stats_by_core`] and [`Handle::slow_peers`], which wait for
/// answers.
pub struct Handle<H: Handler> {
    network: Arc<Network<H::Letter>>,
}

impl<H: Handler> Clone for Handle<H> {
    fn clone(&self) -> Self {
        Self { network: self.network.clone() }
    }
}

impl<H: Handler> Handle<H> {
    pub(crate) fn new(network: Arc<Network<H::Letter>>) -> Self {
        Self { network }
    }

    /// Queues a frame for a connection. `Ok` means that its core's mailbox took it.
    pub fn send(&self, id: ConnId, frame: &Frame) -> Result<(), SendError> {
        self.network.send(id, frame)
    }

    /// Starts the close handshake of a connection.
    pub fn close(&self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), SendError> {
        self.network.close(id, code, reason)
    }

    /// Sends a frame to every subscriber of a topic. Returns how many cores were too busy to take
    /// it.
    pub fn publish(&self, topic: &str, frame: &Frame) -> u64 {
        self.network.publish(u16::MAX, &topic.into(), frame)
    }

    /// Sends a letter to the application on one core.
    pub fn post(&self, worker: usize, letter: H::Letter) -> Result<(), SendError> {
        self.network.post(worker, Command::App(letter))
    }

    /// As [`Self::post`], beyond the capacity of the mailbox: for answers and withdrawals, whose
    /// number is bounded by what they answer.
    pub fn post_urgent(&self, worker: usize, letter: H::Letter) -> Result<(), SendError> {
        let Some(post) = self.network.posts.get(worker) else { return Err(SendError::Gone) };
        post.mailbox.post_urgent(Command::App(letter)).map_err(|_| SendError::Gone)
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.network.posts.len()
    }

    /// Starts to go away: see [`Drain`]. The server's `join` returns when it is done.
    pub fn drain(&self, plan: &Drain) {
        for post in &self.network.posts {
            // A worker that has ended needs no drain.
            let _ = post.mailbox.post_urgent(Command::Drain(plan.clone()));
        }
    }

    /// Ends every connection at once, without close frames.
    pub fn stop(&self) {
        for post in &self.network.posts {
            let _ = post.mailbox.post_urgent(Command::Stop);
        }
    }

    /// What all cores count together. Cores that do not answer within a second are left out.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for (_, stats) in self.stats_by_core() {
            sum.add(&stats);
        }
        sum
    }

    /// What each core counts, with its number, in their order. Cores that do not answer within a
    /// second are left out.
    pub fn stats_by_core(&self) -> Vec<(u16, Stats)> {
        let mut all = self.ask(Command::Stats);
        all.sort_unstable_by_key(|(core, _)| *core);
        all
    }

    /// The connections that have something waiting which the kernel did not take, most first.
    pub fn slow_peers(&self) -> Vec<SlowPeer> {
        let mut all: Vec<SlowPeer> = self.ask(Command::Slow).into_iter().flatten().collect();
        all.sort_by_key(|peer| std::cmp::Reverse(peer.queued));
        all
    }

    fn ask<T>(&self, question: impl Fn(mpsc::Sender<T>) -> Command<H::Letter>) -> Vec<T> {
        let answers = self.put(question);
        std::iter::from_fn(|| answers.recv_timeout(Duration::from_secs(1)).ok()).collect()
    }

    /// Puts a question to every core. The answers end when each has answered or dropped it.
    pub(super) fn put<T>(
        &self,
        question: impl Fn(mpsc::Sender<T>) -> Command<H::Letter>,
    ) -> mpsc::Receiver<T> {
        let (to, answers) = mpsc::channel();
        for post in &self.network.posts {
            let _ = post.mailbox.post_urgent(question(to.clone()));
        }
        answers
    }
}
