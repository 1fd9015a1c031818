//! What the home cores ask of a broker, and what a broker tells them.
//!
//! Owns the shapes; knows no connection, no protocol of a server and no thread. A broker is a
//! server outside that passes publications on to all nodes that listen. Redis orders channels
//! besides: it gives offsets and epochs, and keeps histories, presence and idempotency results.
//! NATS keeps nothing ([`Keeps`]).
//!
//! # Who calls what, on which thread
//! A channel's home core makes all requests about it, by [`HubPort::broker`], which ends in
//! [`Broker::request`] on the core's own thread; once per turn with requests the core calls
//! [`Broker::ring`]. Neither waits. The broker's thread takes them, and posts what happened as
//! [`Letter::Batch`]: messages and what is said of a channel go to the channel's home core
//! (`Placement::home`), answers to the core that asked, and [`Happening::Suspect`],
//! [`Happening::Deaf`] and [`Happening::Back`] to every core.
//!
//! # Order
//! Requests of one core about one channel take effect in the order in which they were made, also
//! where the broker's thread repeats some of them. Happenings reach a core in the order in which
//! the thread learned of them. Nothing is promised between a message and the answer to the request
//! that caused it: offsets order what has to be ordered.
//!
//! # Answers
//! Each request with a ticket is answered once: by its result, or by a [`Fault`] at the latest when
//! its deadline has passed ([`Limits::deadline`] after [`Broker::request`] took it). While there is
//! no connection to the server that is in charge of the channel, the answer is [`Fault::Away`], at
//! once. [`Request::Listen`] and [`Request::Ignore`] have no ticket and no deadline: see there.
//!
//! # Bounds
//! Each core may have [`Limits::requests`] requests of [`Limits::bytes`] bytes unanswered; one more
//! is refused, and its asker is told error 111. `Listen` and `Ignore` count until they are read by
//! the thread. Batches with messages are posted with `post_reserved`: one that a core's full
//! mailbox does not take is dropped, and [`Happening::Suspect`] for its channels follows. Batches
//! without messages are posted with `post_urgent`: they are no more than requests and connections.
//!
//! [`HubPort::broker`]: super::hub_port::HubPort::broker
//! [`Letter::Batch`]: super::letters::Letter::Batch

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::letters::ClientId;
use super::stream::Epoch;
use super::wire::Error;

/// The way from a core to the broker's thread.
pub trait Broker: Send + Sync + fmt::Debug + 'static {
    /// Puts a request into this core's queue. The error gives it back: see [`Limits`].
    fn request(&self, core: u16, request: Request) -> Result<(), Request>;

    /// Wakes the thread if it sleeps. Called once per turn with requests.
    fn ring(&self, core: u16);

    /// The same for all requests of a process.
    fn limits(&self) -> Limits;
}

/// What a broker's thread takes of one core, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that are not answered yet.
    pub requests: usize,
    /// Bytes of them ([`Request::size`]).
    pub bytes: usize,
    /// `io_timeout`: a request is answered at the latest so long after it was made.
    pub deadline: Duration,
    /// `presence_ttl`: a member that is not renewed vanishes after so long.
    pub presence_ttl: Duration,
    /// What of a channel it keeps.
    pub keeps: Keeps,
}

/// What a broker keeps of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Histories and members.
    All,
    /// Members: no request about a history is made, and no position is asked for.
    Members,
    /// Nothing: each node knows its own members.
    Nothing,
}

impl Keeps {
    /// Whether it knows who is in a channel.
    pub fn members(self) -> bool {
        self != Self::Nothing
    }

    /// Whether it knows what was published in a channel.
    pub fn histories(self) -> bool {
        self == Self::All
    }
}

impl Default for Limits {
    /// 65,536 requests, 16 MiB, 4 s, 60 s; all is kept.
    fn default() -> Self {
        Self {
            requests: 65_536,
            bytes: 16 << 20,
            deadline: Duration::from_secs(4),
            presence_ttl: Duration::from_secs(60),
            keeps: Keeps::All,
        }
    }
}

/// What a core calls a request of its own until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a home core wants of the broker.
#[derive(Clone, Debug)]
pub enum Request {
    /// Messages of these channels from here on, at most [`PIECE`] of them. Answered per channel by
    /// [`Happening::Listening`] when the server has acknowledged it, however long that takes, or by
    /// [`Happening::Refused`]; asked
    /// again for a channel that is listened to already, it is acknowledged again. With a lost
    /// connection it is forgotten, also when it was not acknowledged yet: the core hears
    /// [`Happening::Deaf`], and asks anew after [`Happening::Back`]. So the thread need not
    /// remember who listens. Asked for while there is no connection, it is dropped.
    Listen(Vec<Arc<str>>),
    /// No more messages of these channels, at most [`PIECE`] of them. Some may still come.
    Ignore(Vec<Arc<str>>),
    /// Publish. Answered by [`Outcome::Published`].
    Publish(Ticket, Box<Publish>),
    /// Tell all nodes that somebody came. At most once, and not answered.
    Join(Arc<str>, Bytes),
    /// Tell all nodes that somebody went. At most once, and not answered.
    Leave(Arc<str>, Bytes),
    /// A part of the history. Answered by [`Outcome::History`].
    History(Ticket, Box<History>),
    /// Forget what was published; the position stays. Answered by [`Outcome::Done`].
    HistoryRemove(Ticket, Arc<str>),
    /// Positions of channels, at most [`PIECE`] of them. Answered by [`Outcome::Positions`].
    Positions(Ticket, Vec<TopOf>),
    /// A new epoch for a channel, unless it has another than the old one by now, or none. Offsets
    /// go on, and the history stays. Answered by [`Outcome::Renewed`].
    Renew(Ticket, Box<Renew>),
    /// These are in the channel, at most [`PIECE`] of them. Answered by [`Outcome::Done`].
    PresenceAdd(Ticket, Arc<str>, Vec<Present>),
    /// These are not any more, at most [`PIECE`] of them. Answered by [`Outcome::Done`].
    PresenceRemove(Ticket, Arc<str>, Vec<Absent>),
    /// These are still in the channel, at most [`PIECE`] of them: their time to live begins anew.
    /// Answered by [`Outcome::Missing`].
    PresenceRenew(Ticket, Arc<str>, Vec<ClientId>),
    /// Who is in the channel, on any node? Answered by [`Outcome::Presence`].
    Presence(Ticket, Arc<str>),
    /// How many are in the channel, on any node? Answered by [`Outcome::PresenceStats`].
    PresenceStats(Ticket, Arc<str>),
}

/// Channels or members that one request names at most.
pub const PIECE: usize = 512;

/// A publication.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The channel.
    pub channel: Arc<str>,
    /// The client protocol's `Publication` in Protobuf, without offset.
    pub data: Bytes,
    /// Set if it goes into the history.
    pub stream: Option<Kept>,
    /// `__d1`: with the publication before it, for nodes that want it so.
    pub delta: bool,
    /// Published once within `idempotency_ttl`; empty is none.
    pub idempotency_key: String,
    /// How long the result is known.
    pub idempotency_ttl: Duration,
    /// Not published unless higher than the last one of the stream; 0 is none.
    pub version: u64,
    /// A version is compared with those of the same epoch only; empty compares with all.
    pub version_epoch: String,
    /// Unique for this core and the life of the process. With the node's id and the core's number,
    /// which the thread adds, the mark by which a publication is found again in the stream after
    /// its answer was lost.
    pub sequence: u64,
}

/// How the history keeps a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// `history_size`, at least 1: the stream is trimmed to exactly so many.
    pub size: u32,
    /// `history_ttl`.
    pub ttl: Duration,
    /// `history_meta_ttl`; 0 is never.
    pub meta_ttl: Duration,
    /// Both begin anew, a tenth longer. Otherwise only where this publication makes the key.
    pub renew: bool,
    /// The stream's epoch if it has none.
    pub fresh: Epoch,
}

/// A question about a history.
#[derive(Clone, Debug)]
pub struct History {
    /// The channel.
    pub channel: Arc<str>,
    /// Entries above this offset, or below it if `reverse`; `None` is from the end where reading
    /// begins.
    pub since: Option<u64>,
    /// Entries at most; 0 is none, only the position.
    pub limit: u32,
    /// Newest first.
    pub reverse: bool,
    /// `history_meta_ttl`, which begins anew; 0 is never.
    pub meta_ttl: Duration,
    /// The stream's epoch if it has none: asking begins its life.
    pub fresh: Epoch,
}

/// Asks for a channel's position, which begins no life.
#[derive(Clone, Debug)]
pub struct TopOf {
    /// The channel.
    pub channel: Arc<str>,
    /// The entry at this offset, too; 0 is none.
    pub entry: u64,
    /// How many publications are retained, too.
    pub count: bool,
    /// Set if the meta key's life shall begin anew: `history_meta_ttl`, not 0.
    pub meta_ttl: Option<Duration>,
}

/// A change of the epoch.
#[derive(Clone, Debug)]
pub struct Renew {
    /// The channel.
    pub channel: Arc<str>,
    /// Only if it has this one.
    pub old: Epoch,
    /// To this one.
    pub fresh: Epoch,
    /// `history_meta_ttl`; 0 is never.
    pub meta_ttl: Duration,
}

/// Somebody in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The connection.
    pub client: ClientId,
    /// Whose it is.
    pub user: Arc<str>,
    /// The client protocol's `ClientInfo` in Protobuf.
    pub info: Bytes,
}

/// Somebody not in a channel any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The connection.
    pub client: ClientId,
    /// Whose it was.
    pub user: Arc<str>,
}

/// What a broker's thread has to say to a core.
#[derive(Clone, Debug)]
pub enum Happening {
    /// The server passes on what is published in these channels from here on.
    Listening(Vec<Arc<str>>),
    /// The server will not, in answer to the same request: whoever waits hears the fault's error.
    Refused(Vec<Arc<str>>, Fault),
    /// Something was published in a channel, or somebody came or went.
    Message(Box<str>, Message),
    /// A request is answered.
    Answer(Ticket, Result<Outcome, Fault>),
    /// Messages of these channels may be lost; they are still listened to.
    Suspect(Scope),
    /// The connection that brought messages of these channels is lost: nobody listens to them.
    Deaf(Scope),
    /// There is a connection for these channels again, or for the first time.
    Back(Scope, Life),
}

/// Which channels something is about.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All of them.
    All,
    /// These.
    Channels(Arc<[Box<str>]>),
    /// Those of a shard, or of some slots.
    Part(Arc<dyn Part>),
}

/// A part of all channels.
pub trait Part: Send + Sync + fmt::Debug {
    /// Whether a channel is in it.
    fn has(&self, channel: &str) -> bool;

    /// It is said of a change that is over once there is a connection: who remembers what was said
    /// of each part need not remember this one then.
    fn passes(&self) -> bool {
        false
    }
}

impl Scope {
    /// Whether a channel is in it.
    pub fn has(&self, channel: &str) -> bool {
        match self {
            Self::All => true,
            Self::Channels(names) => names.iter().any(|name| **name == *channel),
            Self::Part(part) => part.has(channel),
        }
    }
}

/// Whether the server is the one that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The same process, as its `run_id` says, or there was none before: positions can be believed.
    Same,
    /// Another one: it may have lost publications and given their offsets to others.
    Other,
    /// Another one, and each history of before counts as lost (`failover = "renew"`).
    Lost,
}

/// What comes through a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A publication of a history: the client protocol's `Publication` in Protobuf, and its place.
    Published {
        /// Of the stream.
        epoch: Epoch,
        /// In the stream; at least 1.
        offset: u64,
        /// As it was published.
        data: Bytes,
    },
    /// A publication without a history.
    Passed(Bytes),
    /// Somebody came: `ClientInfo` in Protobuf.
    Join(Bytes),
    /// Somebody went: `ClientInfo` in Protobuf.
    Leave(Bytes),
    /// The history was removed, by whichever node; the position stays. At most once.
    Removed,
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is out, or was already.
    Published {
        /// Where, if it has a history.
        position: Option<(Epoch, u64)>,
        /// Nothing was published: the idempotency key or the version is known.
        suppressed: bool,
    },
    /// What was published, in the order asked for.
    History(Past),
    /// Positions, in the order asked for; `None` where the channel has none.
    Positions(Vec<Option<Top>>),
    /// The channel's position now; `None` where it has none.
    Renewed(Option<(Epoch, u64)>),
    /// Those that were not there, and have to be added.
    Missing(Vec<ClientId>),
    /// Everybody who is there: `ClientInfo` in Protobuf.
    Presence(Vec<Bytes>),
    /// How many are there.
    PresenceStats {
        /// Connections.
        clients: u32,
        /// Different users.
        users: u32,
    },
    /// It is done.
    Done,
}

/// A part of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Of the stream.
    pub epoch: Epoch,
    /// Its last publication; 0 is none.
    pub top: u64,
    /// Publications.
    pub entries: Vec<Entry>,
}

/// A publication in a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub offset: u64,
    /// The client protocol's `Publication` in Protobuf, as it was published.
    pub data: Bytes,
}

/// A channel's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// Of the stream.
    pub epoch: Epoch,
    /// Its last publication; 0 is none.
    pub top: u64,
    /// The lowest offset that is retained, where an entry was asked for; 0 is none.
    pub first: u64,
    /// The entry that was asked for, if it is retained.
    pub entry: Option<Bytes>,
    /// Publications that are retained, if that was asked.
    pub count: Option<u64>,
}

/// Why a request has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no connection to the server. Nothing was done.
    Away,
    /// The deadline has passed. Whether it was done is unknown.
    Late,
    /// The connection broke, and whether it was done cannot be found out.
    Unknown,
    /// The server refused it: out of memory, no permission, not the primary.
    Denied,
    /// The answer is none that the request can have.
    Malformed,
    /// The server can have no channel of this name. Nothing was done.
    Name,
    /// The server takes no message of this size. Nothing was done.
    Size,
}

impl Fault {
    /// What clients and the server API are told: 100, temporary, unless it will never be done.
    pub fn error(self) -> Error {
        match self {
            Self::Name => Error::BAD_REQUEST,
            Self::Size => Error::LIMIT_EXCEEDED,
            Self::Away | Self::Late | Self::Unknown | Self::Denied | Self::Malformed => {
                Error::INTERNAL
            }
        }
    }

    /// As in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Late => "late",
            Self::Unknown => "unknown",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::Name => "bad_name",
            Self::Size => "oversized",
        }
    }
}

impl Request {
    /// Its ticket, if it is answered.
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Listen(_) | Self::Ignore(_) | Self::Join(..) | Self::Leave(..) => None,
            Self::Publish(ticket, _)
            | Self::History(ticket, _)
            | Self::HistoryRemove(ticket, _)
            | Self::Positions(ticket, _)
            | Self::Renew(ticket, _)
            | Self::PresenceAdd(ticket, ..)
            | Self::PresenceRemove(ticket, ..)
            | Self::PresenceRenew(ticket, ..)
            | Self::Presence(ticket, _)
            | Self::PresenceStats(ticket, _) => Some(*ticket),
        }
    }

    /// Its channel, if it concerns one only.
    pub fn channel(&self) -> Option<&Arc<str>> {
        match self {
            Self::Listen(_) | Self::Ignore(_) | Self::Positions(..) => None,
            Self::Publish(_, publish) => Some(&publish.channel),
            Self::History(_, history) => Some(&history.channel),
            Self::Renew(_, renew) => Some(&renew.channel),
            Self::Join(channel, _)
            | Self::Leave(channel, _)
            | Self::HistoryRemove(_, channel)
            | Self::PresenceAdd(_, channel, _)
            | Self::PresenceRemove(_, channel, _)
            | Self::PresenceRenew(_, channel, _)
            | Self::Presence(_, channel)
            | Self::PresenceStats(_, channel) => Some(channel),
        }
    }

    /// Whether it is about who is in a channel.
    pub fn is_of_members(&self) -> bool {
        matches!(
            self,
            Self::PresenceAdd(..)
                | Self::PresenceRemove(..)
                | Self::PresenceRenew(..)
                | Self::Presence(..)
                | Self::PresenceStats(..)
        )
    }

    /// As in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Listen(_) => "listen",
            Self::Ignore(_) => "ignore",
            Self::Publish(..) => "publish",
            Self::Join(..) => "join",
            Self::Leave(..) => "leave",
            Self::History(..) => "history",
            Self::HistoryRemove(..) => "history_remove",
            Self::Positions(..) => "tops",
            Self::Renew(..) => "renew",
            Self::PresenceAdd(..) => "presence_add",
            Self::PresenceRemove(..) => "presence_remove",
            Self::PresenceRenew(..) => "presence_renew",
            Self::Presence(..) => "presence",
            Self::PresenceStats(..) => "presence_stats",
        }
    }

    /// Bytes of memory that it holds besides itself, about; names are shared with the core.
    pub fn size(&self) -> usize {
        match self {
            Self::Listen(names) | Self::Ignore(names) => size_of_val(&names[..]),
            Self::Publish(_, publish) => {
                let texts = publish.idempotency_key.len() + publish.version_epoch.len();
                size_of_val(&**publish) + publish.data.len() + texts
            }
            Self::Join(_, info) | Self::Leave(_, info) => info.len(),
            Self::History(_, history) => size_of_val(&**history),
            Self::Positions(_, tops) => size_of_val(&tops[..]),
            Self::Renew(_, renew) => size_of_val(&**renew),
            Self::PresenceAdd(.., members) => {
                members.iter().map(|it| size_of_val(it) + it.info.len()).sum()
            }
            Self::PresenceRemove(.., members) => size_of_val(&members[..]),
            Self::PresenceRenew(.., members) => size_of_val(&members[..]),
            Self::HistoryRemove(..) | Self::Presence(..) | Self::PresenceStats(..) => 0,
        }
    }
}

impl Happening {
    /// Bytes of memory that it holds besides itself, about.
    pub fn size(&self) -> usize {
        match self {
            Self::Listening(names) | Self::Refused(names, _) => size_of_val(&names[..]),
            Self::Message(channel, message) => channel.len() + message.data().len(),
            Self::Answer(_, Ok(outcome)) => outcome.size(),
            Self::Answer(..) | Self::Suspect(_) | Self::Deaf(_) | Self::Back(..) => 0,
        }
    }
}

impl Message {
    /// What it carries.
    pub fn data(&self) -> &[u8] {
        match self {
            Self::Published { data, .. } => data,
            Self::Passed(data) | Self::Join(data) | Self::Leave(data) => data,
            Self::Removed => &[],
        }
    }
}

impl Outcome {
    fn size(&self) -> usize {
        match self {
            Self::History(past) => {
                past.entries.iter().map(|entry| size_of_val(entry) + entry.data.len()).sum()
            }
            Self::Positions(tops) => {
                let entries = tops.iter().flatten().filter_map(|top| top.entry.as_ref());
                size_of_val(&tops[..]) + entries.map(Bytes::len).sum::<usize>()
            }
            Self::Missing(members) => size_of_val(&members[..]),
            Self::Presence(members) => {
                members.iter().map(|info| size_of_val(info) + info.len()).sum()
            }
            Self::Published { .. } | Self::Renewed(_) | Self::PresenceStats { .. } | Self::Done => {
                0
            }
        }
    }
}
