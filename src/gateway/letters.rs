//! What cores say to each other, and what the control plane says to cores.
//!
//! Owns the shapes, and the answers that reach the control plane: each is given exactly once, also
//! when a letter is lost with a core that ends. A letter is small; what is large is boxed or
//! shared.

mod api;
mod reply;
mod size;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use api::{Action, CoreInfo, Refresh, ServerSubscribe, Survey, Surveyed, UserOrder};
pub use reply::{Gather, Reply};

use super::broker;
use super::delivery::{Delivery, Item};
use super::filter::Filter;
use super::handover::Handover;
use super::hub_port::{Link, SubKey};
use super::stream::{Position, Read, StreamOptions};
use super::wire::messages::{ClientInfo, HistoryResult, PresenceStatsResult};
use super::wire::{Disconnect, Encoding, Error};

/// A client's id: the 128 bits of a UUID. Written with hyphens, as clients see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId([u8; 16]);

impl ClientId {
    /// From the bits.
    pub fn new(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }

    /// The bits.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// A new one, of 122 random bits.
    pub fn random(high: u64, low: u64) -> Self {
        let bits = u128::from(high) << 64 | u128::from(low);
        let uuid = uuid::Builder::from_u128(bits)
            .with_variant(uuid::Variant::RFC4122)
            .with_version(uuid::Version::Random);
        Self(uuid.into_uuid().into_bytes())
    }

    /// From its text; `None` if that is no UUID.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok().map(|uuid| Self(uuid.into_bytes()))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A channel while it is in use, over all cores: positive, and fits into the `id` of a push. Given
/// anew when the channel is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub(super) u64);

impl ChannelId {
    /// As in `SubscribeResult.id` and `Push.id`.
    pub fn wire(self) -> i64 {
        // Keys are 32 bits and cores 16.
        self.0 as i64
    }
}

/// From one core, or the control plane, to a core.
#[derive(Debug)]
pub enum Letter {
    /// To the home core: one more subscriber here. Answered by [`Self::Subscribed`].
    Subscribe(Box<SubscribeLetter>),
    /// From the home core. Publications to the new subscriber follow it.
    Subscribed(Box<SubscribedLetter>),
    /// To the home core: takes one [`Self::Subscribe`] back, answered or not.
    Unsubscribe(UnsubscribeLetter),
    /// To the home core: what others see of a member has changed.
    Inform(Box<InformLetter>),
    /// From the home core to a core that has subscribers.
    Deliver(Arc<Delivery>),
    /// Likewise, publications of one channel that follow each other.
    DeliverAll(Arc<[Arc<Delivery>]>),
    /// From the home core: all that it sent to this core before brings a subscriber to these
    /// positions. Who is not there has lost something.
    Positions(Vec<(ChannelId, u64)>),
    /// To the home core: a question about a channel. From anybody to any core, which forwards it.
    /// From the home core to one that is behind with deliveries: it comes back when these are done.
    Ask(Box<Ask>),
    /// As [`Self::Ask`], questions to one home core that are answered in this order.
    Asks(VecDeque<Ask>),
    /// The answer to a client's question.
    Answer(Box<AnswerLetter>),
    /// To any core, which passes it on to all: do this with a user's connections.
    Order(Arc<UserOrder>),
    /// As [`Self::Order`], passed on.
    OrderHere(Arc<UserOrder>),
    /// To any core, which passes it on to all: what is there?
    Survey(Arc<Survey>),
    /// As [`Self::Survey`], passed on.
    SurveyHere(Arc<Survey>),
    /// To the user's home core: a connection wants a seat.
    Enter(Box<EnterLetter>),
    /// To the user's home core: the seat is free again.
    Leave {
        /// The user.
        user: Box<str>,
        /// Whose seat.
        client: ClientId,
    },
    /// From the user's home core: the seat is given.
    Entered {
        /// Whose.
        link: Link,
        /// From the request.
        ticket: u64,
    },
    /// From the user's home core: another connection took the seat, or there is none.
    Evict {
        /// Whose.
        link: Link,
        /// What to close it with.
        disconnect: Box<Disconnect>,
    },
    /// From the broker's thread: what happened, in this order.
    Batch(Vec<broker::Happening>),
    /// From the control plane: another process takes over, or this one does.
    Handover(Box<Handover>),
}

impl Letter {
    /// To a core with subscribers.
    pub(super) fn of_deliveries(deliveries: &[Arc<Delivery>]) -> Self {
        match deliveries {
            [only] => Self::Deliver(only.clone()),
            several => Self::DeliverAll(several.into()),
        }
    }

    /// Questions of one asker to one home core. `None`: there are none.
    pub fn of_asks(mut asks: VecDeque<Ask>) -> Option<Self> {
        match asks.len() {
            0 | 1 => asks.pop_front().map(|ask| Self::Ask(Box::new(ask))),
            _ => Some(Self::Asks(asks)),
        }
    }
}

/// Everything the home core needs to know of a new subscriber.
#[derive(Debug)]
pub struct SubscribeLetter {
    pub(super) channel: Arc<str>,
    pub(super) core: u16,
    pub(super) sub: SubKey,
    /// Tells apart what used the same key one after the other.
    pub(super) nonce: u64,
    /// From the session's request.
    pub(super) ticket: u64,
    /// The subscriber takes patches.
    pub(super) delta: bool,
    /// Set if the subscriber wants a position.
    pub(super) stream: Option<StreamOptions>,
    pub(super) recover: Option<Recover>,
    /// What of recovered publications the subscriber wants.
    pub(super) filter: Option<Arc<Filter>>,
    /// Set if the subscriber appears in presence, or in joins and leaves.
    pub(super) member: Option<Member>,
    /// The subscriber wants joins and leaves.
    pub(super) hears: bool,
}

/// What a subscriber wants to have recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recover {
    /// What the client saw last.
    pub since: Position<String>,
    /// How.
    pub mode: RecoverMode,
    /// `recovery_max_publication_limit`; 0 is no limit.
    pub limit: u32,
    /// Bytes of what was missed; 0 is no limit.
    pub max_bytes: usize,
    /// Refuse the subscription with [`Error::UNRECOVERABLE_POSITION`] if it cannot be done.
    pub or_reject: bool,
}

/// How missed publications are made good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoverMode {
    /// All of them, or none.
    #[default]
    Stream,
    /// The newest only.
    Cache,
}

/// Somebody in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub(super) client: ClientId,
    /// `user`, `conn_info` and `chan_info`; `client` is filled in when it is sent.
    pub(super) info: Who,
    /// Shown in presence.
    pub(super) present: bool,
    /// Comes and goes with join and leave.
    pub(super) announced: bool,
}

/// Who a subscriber is, to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The user's id.
    pub user: Arc<str>,
    /// Raw.
    pub conn_info: Bytes,
    /// Raw.
    pub chan_info: Bytes,
}

impl Who {
    /// As it travels.
    pub fn wire(&self, client: ClientId) -> ClientInfo {
        ClientInfo {
            user: self.user.as_ref().to_owned(),
            client: client.to_string(),
            conn_info: self.conn_info.clone(),
            chan_info: self.chan_info.clone(),
        }
    }
}

/// A subscriber is in.
#[derive(Debug)]
pub struct SubscribedLetter {
    pub(super) channel: ChannelId,
    pub(super) sub: SubKey,
    pub(super) nonce: u64,
    pub(super) ticket: u64,
    /// The sequence number of the channel's last publication.
    pub(super) seq: u64,
    /// Set if the subscriber wanted a position: the stream's top.
    pub(super) top: Option<Position>,
    /// How many others were told that it came.
    pub(super) told: u32,
    pub(super) recovered: Option<Recovered>,
    /// It cannot be had now: the broker is away.
    pub(super) refused: Option<Box<Error>>,
}

impl SubscribedLetter {
    /// From the session's request.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Whether the subscriber does not want to be in: what it missed cannot be had.
    pub(super) fn is_rejected(&self) -> bool {
        self.recovered.as_ref().is_some_and(|it| it.or_reject && it.items.is_none())
    }

    /// The stream's top, if the subscriber wanted a position.
    pub fn top(&self) -> Option<Position> {
        self.top
    }
}

/// The outcome of a recovery.
#[derive(Debug)]
pub struct Recovered {
    /// What was missed; `None` if that cannot be told.
    pub(super) items: Option<Vec<Arc<Item>>>,
    /// What the client asked with.
    pub(super) since: u64,
    pub(super) or_reject: bool,
    /// The last of the items is what the next publication's delta is based on.
    pub(super) primed: bool,
}

/// A subscriber is out.
#[derive(Debug)]
pub struct UnsubscribeLetter {
    pub(super) channel: Arc<str>,
    pub(super) core: u16,
    /// Which of that core.
    pub(super) sub: SubKey,
    /// Set if it was a member.
    pub(super) member: Option<ClientId>,
    pub(super) hears: bool,
}

/// What others see of a member from now on.
#[derive(Debug)]
pub struct InformLetter {
    pub(super) channel: Arc<str>,
    pub(super) client: ClientId,
    pub(super) conn_info: Bytes,
    pub(super) chan_info: Bytes,
}

/// A question about a channel, for its home core.
#[derive(Debug)]
pub struct Ask {
    /// The channel.
    pub channel: Arc<str>,
    /// What is asked.
    pub question: Question,
    /// Who wants to know.
    pub asker: Asker,
}

/// What can be asked of a channel.
#[derive(Debug)]
pub enum Question {
    /// Publish this. Answered by [`Answer::Published`].
    Publish(Publish),
    /// What was published? Answered by [`Answer::History`].
    History {
        /// The channel's options; with them a stream without publications begins its life.
        stream: StreamOptions,
        /// Which part of it.
        read: Read,
    },
    /// Forget what was published. The position stays. Answered by [`Answer::Done`].
    HistoryRemove,
    /// Who is there? Answered by [`Answer::Presence`].
    Presence,
    /// The same for a client, ready to be sent. Answered by [`Answer::Members`].
    Members {
        /// How the client takes it.
        encoding: Encoding,
        /// More bytes than this are answered by [`Error::LIMIT_EXCEEDED`].
        max: usize,
    },
    /// How many are there? Answered by [`Answer::PresenceStats`].
    PresenceStats,
}

/// What to publish, and how.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// The payload.
    pub data: Bytes,
    /// The payload is known to be JSON; otherwise who needs that looks.
    pub is_json: bool,
    /// The publisher, if it is a client.
    pub info: Option<Box<ClientInfo>>,
    /// What filters look at.
    pub tags: BTreeMap<String, String>,
    /// The channel's options; `None` if it has no history, or this shall not be in it.
    pub stream: Option<StreamOptions>,
    /// Make deltas for subscribers that take them.
    pub delta: bool,
    /// Within five minutes the same key is published once; empty is none.
    pub idempotency_key: String,
    /// Not published unless higher than the last one of the stream; 0 is none.
    pub version: u64,
    /// A version is compared with those of the same epoch only; empty compares with all.
    pub version_epoch: String,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is out, or was already.
    Published {
        /// Where, if the channel has a stream.
        position: Option<Position>,
        /// Nothing was sent: the idempotency key or the version is known.
        suppressed: bool,
        /// How many subscribers it went to.
        receivers: u32,
    },
    /// Past publications.
    History(HistoryResult),
    /// Everybody who is there.
    Presence(Vec<(ClientId, Who)>),
    /// The same as text, shared by all who ask for it.
    Members(Bytes),
    /// How many are there.
    PresenceStats(PresenceStatsResult),
    /// It is done.
    Done,
}

/// Who wants to know.
#[derive(Debug)]
pub enum Asker {
    /// A connection.
    Client {
        /// Its core.
        core: u16,
        /// Where on that core.
        link: Link,
        /// What it calls the question.
        ticket: u64,
    },
    /// The control plane.
    Control(Reply<Answer>),
    /// Nobody.
    Nobody,
}

/// The answer to a client's question, on its way to the client's core.
#[derive(Debug)]
pub struct AnswerLetter {
    pub(super) link: Link,
    pub(super) ticket: u64,
    pub(super) answer: Result<Answer, Error>,
}

/// A connection wants a seat among those of its user.
#[derive(Debug)]
pub struct EnterLetter {
    pub(super) user: Box<str>,
    pub(super) client: ClientId,
    pub(super) core: u16,
    pub(super) link: Link,
    pub(super) ticket: u64,
    pub(super) rule: SeatRule,
}

/// How many connections a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatRule {
    /// So many; one more is refused.
    Limit(u32),
    /// One; a new one takes the seat of those before it.
    Single,
}

/// How long the result of a publication with an idempotency key is known.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(300);

const _: () = assert!(size_of::<Letter>() <= 48);
