//! Feeds: what the backend tells one subscription on a stream of its own, and, where the stream
//! goes both ways, what the subscriber publishes to it.
//!
//! A feed begins as a question ([`super::HookEvent::Subscribe`]). Once it has its answer, the
//! session says that the subscriber is there, and only then is told what the backend tells. It ends
//! with the subscription, whoever ends that.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Asking;
use crate::gateway::account::Held;
use crate::gateway::wire::Unsubscribe;

/// A feed, from its question to its end. No other has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeedId {
    /// Whose it is.
    pub from: Asking,
    /// Which of those of its core.
    pub number: u64,
}

/// A feed that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedAsked {
    /// Which it shall be.
    pub id: FeedId,
    /// The subscriber may publish to it.
    pub both_ways: bool,
}

/// What a session says of a feed.
#[derive(Debug)]
pub enum FeedWord {
    /// The subscriber has its reply.
    Ready,
    /// It publishes, and this much of what its session may have waiting is taken by that.
    Publish(Bytes, Held),
    /// It is not subscribed any more.
    Over,
}

/// Something about a feed, on its way to the session.
pub struct FeedNews {
    /// Which.
    pub feed: FeedId,
    /// What.
    pub said: FeedSaid,
    /// What the control plane has back when it is read.
    pub room: Box<dyn Send>,
}

/// What is told on a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedSaid {
    /// Something for the subscriber.
    Published {
        /// The payload.
        data: Bytes,
        /// Labels.
        tags: BTreeMap<String, String>,
    },
    /// It is over.
    Ended(FeedEnd),
}

/// Who ended a feed, if it was not the subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedEnd {
    /// The backend, and well.
    Backend,
    /// Nobody wanted to: the stream broke, or what came on it was no message.
    Failed,
}

impl FeedSaid {
    /// Bytes of it.
    pub fn size(&self) -> usize {
        match self {
            Self::Published { data, tags } => {
                data.len() + tags.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
            }
            Self::Ended(_) => 0,
        }
    }
}

impl FeedEnd {
    /// What the subscriber is told. After a failure SDKs subscribe again by themselves.
    pub fn told(self) -> Unsubscribe {
        match self {
            Self::Backend => Unsubscribe::SERVER,
            Self::Failed => Unsubscribe::INSUFFICIENT_STATE,
        }
    }
}

impl std::fmt::Debug for FeedNews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { feed, said, room: _ } = self;
        f.debug_struct("FeedNews").field("feed", feed).field("said", said).finish_non_exhaustive()
    }
}
