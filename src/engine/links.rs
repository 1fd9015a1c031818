//! The post between cores: what can be sent to a core, and the handle that sends it.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::config::{Config, Drain};
use super::counters::Stats;
use super::handler::Handler;
use super::mailbox::{Capacity, Mailbox, Refused};
use super::publishing::Links;
use super::ring::Doorbell;
use super::value::{ConnId, Frame, SendError};
use crate::protocol::CloseCode;
use crate::tls::keys::{KeyFault, ServerMaterials, ServerSetup};

/// What can be asked of a worker.
pub(super) enum Command<L> {
    Send(ConnId, Frame),
    Close(ConnId, CloseCode, String),
    Publish(Arc<str>, Frame),
    /// Or the end of a subscription.
    Subscribe(ConnId, Box<str>, bool),
    Subscribers(Arc<str>, mpsc::Sender<usize>),
    App(L),
    Stats(mpsc::Sender<(u16, Stats)>),
    Slow(mpsc::Sender<Vec<SlowPeer>>),
    Drain(Drain),
    /// Handshakes go on with these keys.
    Tls(ServerSetup),
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

impl<L> Command<L> {
    /// Bytes of memory that it holds besides itself.
    fn size(&self, weigh: fn(&L) -> usize) -> usize {
        match self {
            Self::Send(_, frame) => frame.size(),
            Self::Close(_, _, reason) => reason.capacity(),
            Self::Publish(topic, frame) => topic.len() + frame.size(),
            Self::App(letter) => weigh(letter),
            Self::Drain(plan) => plan.reason.capacity(),
            Self::Tls(_) => SETUP,
            Self::Subscribe(_, topic, _) => topic.len(),
            Self::Subscribers(topic, _) => topic.len(),
            Self::Stats(_) | Self::Slow(_) | Self::Stop => 0,
        }
    }
}

/// One worker's mailbox.
pub(super) struct Post<L> {
    pub(super) mailbox: Mailbox<Command<L>>,
    /// Bytes of memory that an event holds besides itself.
    weigh: fn(&L) -> usize,
}

impl<L> Post<L> {
    pub(super) fn new<H: Handler<Event = L>>(config: &Config, doorbell: Box<dyn Doorbell>) -> Self {
        let capacity = Capacity { letters: config.mailbox, bytes: config.mailbox_bytes };
        Self { mailbox: Mailbox::new(capacity, doorbell), weigh: H::event_size }
    }

    fn post(&self, command: Command<L>) -> Result<(), Refused<Command<L>>> {
        let size = command.size(self.weigh);
        self.mailbox.post(command, size)
    }

    fn post_urgent(&self, command: Command<L>) -> Result<(), Refused<Command<L>>> {
        let size = command.size(self.weigh);
        self.mailbox.post_urgent(command, size)
    }
}

/// All mailboxes, in the order of workers.
pub(super) struct Network<L> {
    pub(super) posts: Vec<Arc<Post<L>>>,
}

impl<L: Send + 'static> Network<L> {
    fn post(&self, core: usize, command: Command<L>) -> Result<(), SendError> {
        let Some(post) = self.posts.get(core) else { return Err(SendError::Gone) };
        post.post(command).map_err(SendError::from)
    }
}

impl<T> From<Refused<T>> for SendError {
    fn from(refused: Refused<T>) -> Self {
        match refused {
            Refused::Full(_) => Self::Busy,
            Refused::Closed(_) => Self::Gone,
        }
    }
}

impl<L: Send + 'static> Links for Network<L> {
    fn send(&self, id: ConnId, frame: &Frame) -> Result<(), SendError> {
        self.post(id.core(), Command::Send(id, frame.clone()))
    }

    fn close(&self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), SendError> {
        self.post(id.core(), Command::Close(id, code, reason.to_owned()))
    }

    fn subscribe(&self, id: ConnId, topic: &str, joins: bool) -> Result<(), SendError> {
        self.post(id.core(), Command::Subscribe(id, topic.into(), joins))
    }

    fn publish(&self, from: u16, topic: &Arc<str>, frame: &Frame) -> u64 {
        let others = (0..self.posts.len()).filter(|core| *core != usize::from(from));
        others
            .filter(|core| {
                let command = Command::Publish(topic.clone(), frame.clone());
                self.post(*core, command) == Err(SendError::Busy)
            })
            .count() as u64
    }

    fn workers(&self) -> usize {
        self.posts.len()
    }
}

/// Reaches every core of a server from any thread. Cloning is cheap. Nothing here blocks on a core,
/// except [`Handle::stats`], [`Handle::stats_by_core`], [`Handle::slow_peers`] and
/// [`Handle::subscribers`], which wait for answers and must not be called in a callback.
pub struct Handle<H: Handler> {
    network: Arc<Network<H::Event>>,
}

impl<H: Handler> Clone for Handle<H> {
    fn clone(&self) -> Self {
        Self { network: self.network.clone() }
    }
}

impl<H: Handler> Handle<H> {
    pub(super) fn new(network: Arc<Network<H::Event>>) -> Self {
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

    /// Subscribes a connection to a topic. `Ok` means that its core's mailbox took the wish; for a
    /// connection that is gone then, nothing happens.
    pub fn subscribe(&self, id: ConnId, topic: &str) -> Result<(), SendError> {
        self.network.subscribe(id, topic, true)
    }

    /// Ends a subscription, as [`Self::subscribe`] begins one.
    pub fn unsubscribe(&self, id: ConnId, topic: &str) -> Result<(), SendError> {
        self.network.subscribe(id, topic, false)
    }

    /// How many connections are subscribed to a topic, over all cores. Cores that do not answer
    /// within a second are left out.
    pub fn subscribers(&self, topic: &str) -> usize {
        let topic: Arc<str> = topic.into();
        self.ask(|to| Command::Subscribers(topic.clone(), to)).into_iter().sum()
    }

    /// Sends a frame to every subscriber of a topic. Returns how many cores were too busy to take
    /// it. Each core that compresses it does so once; [`Frame::compressible`] makes that once for
    /// all of them.
    pub fn publish(&self, topic: &str, frame: &Frame) -> u64 {
        self.network.publish(u16::MAX, &topic.into(), frame)
    }

    /// Sends an event to the application on one core.
    pub fn post(&self, core: usize, event: H::Event) -> Result<(), SendError> {
        self.network.post(core, Command::App(event))
    }

    /// As [`Self::post`], beyond the capacity of the mailbox: for withdrawals, whose number is
    /// bounded by what they take back. They count, so that others are refused.
    pub fn post_urgent(&self, core: usize, event: H::Event) -> Result<(), SendError> {
        let Some(post) = self.network.posts.get(core) else { return Err(SendError::Gone) };
        post.post_urgent(Command::App(event)).map_err(|_| SendError::Gone)
    }

    /// As [`Self::post`], for what has to arrive whoever fills the mailbox: as much room as all
    /// other events have is reserved for it. It arrives in order with these.
    pub fn post_reserved(&self, core: usize, event: H::Event) -> Result<(), SendError> {
        let Some(post) = self.network.posts.get(core) else { return Err(SendError::Gone) };
        let size = (post.weigh)(&event);
        post.mailbox.post_reserved(Command::App(event), size).map_err(SendError::from)
    }

    /// Whether a worker has much to work off of what has room reserved.
    pub fn is_behind(&self, core: usize) -> bool {
        self.network.posts.get(core).is_some_and(|post| post.mailbox.is_behind())
    }

    /// The same of what has none, for any worker.
    pub fn is_crowded(&self) -> bool {
        self.network.posts.iter().any(|post| post.mailbox.is_crowded())
    }

    /// Bytes of memory of the commands that wait for a worker.
    pub fn mailbox_bytes(&self, core: usize) -> usize {
        self.network.posts.get(core).map_or(0, |post| post.mailbox.bytes())
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.network.posts.len()
    }

    /// Starts to go away: see [`Drain`]. The server's `join` returns when it is done.
    pub fn drain(&self, plan: &Drain) {
        for post in &self.network.posts {
            // A worker that has ended needs no drain.
            let _ = post.post_urgent(Command::Drain(plan.clone()));
        }
    }

    /// Goes on with these certificates and keys, on every core: handshakes that begin from now on
    /// use them, connections that are open keep what they have. On an error all stays as it is. For
    /// servers that speak TLS.
    pub fn replace_tls(&self, keys: &ServerMaterials) -> Result<(), KeyFault> {
        let setups: Result<Vec<_>, _> = self.network.posts.iter().map(|_| keys.setup()).collect();
        for (post, setup) in self.network.posts.iter().zip(setups?) {
            // A worker that has ended needs none.
            let _ = post.post_urgent(Command::Tls(setup));
        }
        Ok(())
    }

    /// Ends every connection at once, without close frames.
    pub fn stop(&self) {
        for post in &self.network.posts {
            let _ = post.post_urgent(Command::Stop);
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

    fn ask<T>(&self, question: impl Fn(mpsc::Sender<T>) -> Command<H::Event>) -> Vec<T> {
        let answers = self.put(question);
        std::iter::from_fn(|| answers.recv_timeout(Duration::from_secs(1)).ok()).collect()
    }

    /// Puts a question to every core. The answers end when each has answered or dropped it.
    pub(super) fn put<T>(
        &self,
        question: impl Fn(mpsc::Sender<T>) -> Command<H::Event>,
    ) -> mpsc::Receiver<T> {
        let (to, answers) = mpsc::channel();
        for post in &self.network.posts {
            let _ = post.post_urgent(question(to.clone()));
        }
        answers
    }
}

/// What a chain, its key and what handshakes share take, roughly.
const SETUP: usize = 16 << 10;
