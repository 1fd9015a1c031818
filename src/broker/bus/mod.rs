//! The control bus: nodes on the same Redis know of each other, give each other orders and ask each
//! other questions, by Centrifugo's control messages, so that nodes of both understand each other.
//!
//! Owns which nodes there are (`nodes`), which questions are open (`open`), and what waits to be
//! sent or to be done. Knows no connection: the broker's thread puts in what the control channels
//! bring (`Bus::receive`) and sends what is to be sent (`Bus::take`); the control plane asks
//! ([`Bus::order`], [`Bus::survey`]) and does what other nodes want ([`Bus::arrival`]).
//!
//! Messages get there at most once. An order is answered by each node of ringhold that was known
//! when it was given, and so either done by all of them or said not to be; nodes of Centrifugo do
//! not answer orders, only questions. The invariants: nobody waits longer than [`PATIENCE`]; all
//! that waits is bounded here, and counts until it is sent or done.

pub mod messages;
mod nodes;
mod open;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::Notify;

pub use self::messages::{Command, Node, SurveyResponse};
use self::nodes::Nodes;
pub use self::open::ANSWERS_BYTES;
use self::open::Questions;
use super::tally::{Condition, Tally};

/// How long answers of other nodes are waited for.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How often a node says that it is there, as Centrifugo's do.
pub const ANNOUNCED: Duration = Duration::from_secs(3);

/// Messages that wait to be sent or for the server to have taken them, and bytes of them.
pub const OUTGOING: usize = 1024;
/// See [`OUTGOING`].
pub const OUTGOING_BYTES: usize = 16 << 20;

/// Orders and questions of other nodes that wait to be done, and bytes of them.
pub const INCOMING: usize = 1024;
/// See [`INCOMING`].
pub const INCOMING_BYTES: usize = 8 << 20;

/// See the module's text.
pub struct Bus {
    uid: Box<str>,
    /// [`PATIENCE`], but in tests.
    patience: Duration,
    tally: Arc<Tally>,
    conditions: Arc<[Arc<Condition>]>,
    state: Mutex<State>,
    /// Wakes the thread: messages wait to be sent.
    outgoing: Notify,
    /// Wakes the control plane: orders or questions wait.
    incoming: Notify,
    held: Arc<Held>,
}

#[derive(Default)]
struct State {
    nodes: Nodes,
    questions: Questions,
    /// The last announcement of this node.
    own: Option<Node>,
    /// It has said that it goes.
    ended: bool,
    outgoing: VecDeque<Told>,
    incoming: VecDeque<Incoming>,
    incoming_bytes: usize,
}

/// A message on its way to the server.
#[derive(Debug)]
pub struct Told {
    /// To this node; nothing: to all.
    pub to: Option<Box<str>>,
    /// The [`Command`] in Protobuf.
    pub data: Bytes,
    /// Until the server has taken it.
    pub room: Room,
}

/// Messages that are not taken yet.
#[derive(Debug, Default)]
struct Held {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// The share of a message in the account, until it is dropped.
#[derive(Debug)]
pub struct Room {
    held: Arc<Held>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.held.messages.fetch_sub(1, Ordering::Relaxed);
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What another node wants done or to know.
#[derive(Debug)]
pub struct Incoming {
    /// It: an order or a question.
    pub command: Command,
    /// Whom to answer, if an answer is wanted.
    pub answer: Option<Address>,
    size: usize,
}

/// Where an answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    node: Box<str>,
    id: u64,
}

/// Why an order is not known to be done, or a question not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// There is no connection to the server.
    Away,
    /// Too much waits already.
    Full,
    /// These nodes did not answer, or said that they could not, by name.
    Nodes(Vec<String>),
}

/// What came of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Of the other nodes.
    pub answers: Vec<Bytes>,
    /// Nodes, by name, of which there is none.
    pub missing: Vec<String>,
}

impl Bus {
    /// Of the node with this name, which no other has. `conditions` say whether there is a
    /// connection.
    pub fn new(uid: &str, tally: Arc<Tally>, conditions: Arc<[Arc<Condition>]>) -> Self {
        Self {
            uid: uid.into(),
            patience: PATIENCE,
            tally,
            conditions,
            state: Mutex::default(),
            outgoing: Notify::new(),
            incoming: Notify::new(),
            held: Arc::default(),
        }
    }

    /// This node's name among nodes.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Control plane: says to all nodes what this one has.
    pub fn announce(&self, node: Node) {
        let node = Node { uid: self.uid.to_string(), acknowledges: true, ..node };
        let mut state = self.state();
        if !state.ended {
            state.own = Some(node);
            drop(state);
            self.greet(None);
        }
    }

    /// Says again what was announced last, if anything was.
    pub(super) fn greet(&self, to: Option<&str>) {
        let own = self.state().own.clone();
        if own.is_some() {
            let _ = self.tell(to, Command { node: own, ..Command::default() });
        }
    }

    /// The other nodes that are there.
    pub fn nodes(&self, now: Instant) -> Vec<Node> {
        self.state().nodes.alive(now)
    }

    /// Control plane: lets all other nodes do something. Returns when all that answer have.
    ///
    /// # Errors
    /// Some may not have done it. To give the order again does no harm.
    pub async fn order(&self, op: &'static str, command: Command) -> Result<(), Unreached> {
        let asked = self.ask(op, |id| Command { acknowledge: id, ..command }, true).await;
        match asked {
            Ok(Answers { missing, .. }) if !missing.is_empty() => Err(Unreached::Nodes(missing)),
            Ok(_) => Ok(()),
            Err(unreached) => Err(unreached),
        }
    }

    /// Control plane: asks all other nodes. Returns what there is after [`PATIENCE`] at the latest.
    ///
    /// # Errors
    /// Nobody could be asked.
    pub async fn survey(&self, op: &'static str, data: Bytes) -> Result<Answers, Unreached> {
        let request = |id| messages::SurveyRequest { id, op: op.to_owned(), data };
        let command = |id| Command { survey_request: Some(request(id)), ..Command::default() };
        self.ask(op, command, false).await
    }

    async fn ask(
        &self,
        op: &'static str,
        command: impl FnOnce(u64) -> Command,
        order: bool,
    ) -> Result<Answers, Unreached> {
        let asked = self.begin(command, order, Instant::now());
        let (question, answered) = match asked {
            Ok(asked) => asked,
            Err(unreached) => {
                self.tally.survey(op, unreached.name());
                return Err(unreached);
            }
        };
        let question = Asking { bus: self, question };
        let _ = tokio::time::timeout(self.patience, answered).await;
        let answers = question.end();
        let outcome = if answers.missing.is_empty() { "complete" } else { "partial" };
        self.tally.survey(op, outcome);
        if !answers.missing.is_empty() {
            tracing::warn!(op, nodes = ?answers.missing, "other nodes did not answer in time");
        }
        Ok(answers)
    }

    fn begin(
        &self,
        command: impl FnOnce(u64) -> Command,
        order: bool,
        now: Instant,
    ) -> Result<(u64, tokio::sync::oneshot::Receiver<()>), Unreached> {
        if !self.conditions.iter().any(|condition| condition.is_up()) {
            return Err(Unreached::Away);
        }
        let mut state = self.state();
        let asked = state.nodes.answering(order, now);
        let (id, answered) = state.questions.open(asked).ok_or(Unreached::Full)?;
        drop(state);
        match self.tell(None, command(id)) {
            Ok(()) => Ok((id, answered)),
            Err(unreached) => {
                self.state().questions.close(id);
                Err(unreached)
            }
        }
    }

    /// Puts a message into the queue to the server.
    fn tell(&self, to: Option<&str>, command: Command) -> Result<(), Unreached> {
        let command = Command { uid: self.uid.to_string(), ..command };
        let data = Bytes::from(command.encode_to_vec());
        let bytes = size_of::<Told>() + data.len();
        let mut state = self.state();
        let messages = self.held.messages.load(Ordering::Relaxed);
        let held = self.held.bytes.load(Ordering::Relaxed).saturating_add(bytes);
        if messages >= OUTGOING || held > OUTGOING_BYTES {
            drop(state);
            self.tally.control_dropped.add(1);
            return Err(Unreached::Full);
        }
        self.held.messages.fetch_add(1, Ordering::Relaxed);
        self.held.bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = Room { held: self.held.clone(), bytes };
        state.outgoing.push_back(Told { to: to.map(Into::into), data, room });
        drop(state);
        self.outgoing.notify_one();
        Ok(())
    }

    /// Thread: waits until something may have to be sent.
    pub(super) async fn outgoing(&self) {
        self.outgoing.notified().await;
    }

    /// Thread: takes what is to be sent.
    pub(super) fn take(&self) -> VecDeque<Told> {
        std::mem::take(&mut self.state().outgoing)
    }

    /// The node goes away, which others shall know at once. The last of its messages.
    pub(super) fn farewell(&self) {
        let mut state = self.state();
        (state.own, state.ended) = (None, true);
        drop(state);
        let shutdown = Some(messages::Shutdown {});
        let _ = self.tell(None, Command { shutdown, ..Command::default() });
    }

    /// Thread: something came through a control channel.
    pub(super) fn receive(&self, payload: &[u8], now: Instant) {
        let size = payload.len();
        let Ok(command) = Command::decode(payload) else {
            self.tally.control_malformed.add(1);
            return;
        };
        if *command.uid == *self.uid {
            return;
        }
        self.tally.control_received.add(1);
        if let Some(node) = command.node {
            // Who is new does not know us.
            if self.state().nodes.heard(node, now) {
                self.greet(Some(&command.uid));
            }
        } else if command.shutdown.is_some() {
            let mut state = self.state();
            state.nodes.gone(&command.uid);
            state.questions.excuse(&command.uid);
        } else if let Some(response) = command.survey_response {
            self.state().questions.answer(&command.uid, response);
        } else if let Some(id) = command.wants() {
            let answer = (id > 0).then(|| Address { node: command.uid.as_str().into(), id });
            self.hand_on(Incoming { command, answer, size });
        } else {
            self.tally.control_malformed.add(1);
        }
    }

    fn hand_on(&self, incoming: Incoming) {
        let mut state = self.state();
        let bytes = state.incoming_bytes.saturating_add(incoming.size);
        if state.incoming.len() >= INCOMING || bytes > INCOMING_BYTES {
            drop(state);
            self.tally.control_dropped.add(1);
            return;
        }
        state.incoming_bytes = bytes;
        state.incoming.push_back(incoming);
        drop(state);
        self.incoming.notify_one();
    }

    /// Control plane: waits for what another node wants. Dropped while it waits, it has taken
    /// nothing.
    pub async fn arrival(&self) -> Incoming {
        loop {
            {
                let mut state = self.state();
                if let Some(incoming) = state.incoming.pop_front() {
                    state.incoming_bytes -= incoming.size;
                    return incoming;
                }
            }
            self.incoming.notified().await;
        }
    }

    /// Control plane: answers what another node wanted. `code` 0: it is done, or here it is.
    pub fn answer(&self, to: &Address, code: u32, data: Bytes) {
        let response = SurveyResponse { id: to.id, code, data };
        let command = Command { survey_response: Some(response), ..Command::default() };
        let _ = self.tell(Some(&to.node), command);
    }
}

/// A question that ends with whoever waits for it.
struct Asking<'a> {
    bus: &'a Bus,
    question: u64,
}

impl Asking<'_> {
    fn end(self) -> Answers {
        let closed = self.bus.state().questions.close(self.question);
        closed.unwrap_or_default()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.bus.state().questions.close(self.question);
    }
}

impl Command {
    /// The number under which an order or a question is to be answered, 0 for none; `None` where it
    /// is neither.
    fn wants(&self) -> Option<u64> {
        if let Some(request) = &self.survey_request {
            return Some(request.id);
        }
        let Self { unsubscribe, disconnect, subscribe, refresh, acknowledge, .. } = self;
        let is_order = unsubscribe.is_some() || disconnect.is_some();
        (is_order || subscribe.is_some() || refresh.is_some()).then_some(*acknowledge)
    }
}

impl Unreached {
    /// As in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Full => "full",
            Self::Nodes(_) => "partial",
        }
    }

    /// All that becomes of orders and questions, as in metrics.
    pub const NAMES: [&'static str; 4] = ["complete", "partial", "away", "full"];
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("uid", &self.uid).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
