//! What the server API asks of all cores.

use std::sync::Arc;

use bytes::Bytes;
use globset::GlobMatcher;

use super::ClientId;
use super::reply::Gather;
use crate::gateway::channels::Override;
use crate::gateway::stream::Position;
use crate::gateway::wire::{Disconnect, Unsubscribe};

/// Do something with the connections of a user, on every core. The API call is answered when the
/// last core has dropped it, with one number per core: how many connections it was done with.
#[derive(Debug)]
pub struct UserOrder {
    /// The user.
    pub user: Box<str>,
    /// Only this connection of the user's.
    pub client: Option<ClientId>,
    /// But not these.
    pub spare: Vec<ClientId>,
    /// What to do.
    pub action: Action,
    /// Where to tell.
    pub done: Gather<usize>,
}

impl UserOrder {
    /// Whether it is about this connection of the user's.
    pub fn concerns(&self, client: ClientId) -> bool {
        self.client.is_none_or(|only| only == client) && !self.spare.contains(&client)
    }
}

/// What to do with a connection.
#[derive(Clone, Debug)]
pub enum Action {
    /// Subscribe it: the session's business, which knows the channel's options.
    Subscribe(Box<ServerSubscribe>),
    /// End a subscription, or all of them.
    Unsubscribe {
        /// Of this channel; `None` is every channel.
        channel: Option<Box<str>>,
        /// What to tell the client.
        why: Unsubscribe,
    },
    /// Close it.
    Disconnect(Disconnect),
    /// Change its expiry: the session's business.
    Refresh(Refresh),
}

/// A server-side subscription, as the API wants it.
#[derive(Clone, Debug, Default)]
pub struct ServerSubscribe {
    /// The channel.
    pub channel: String,
    /// `chan_info`. Raw.
    pub info: Bytes,
    /// For the client. Raw.
    pub data: Bytes,
    /// Unix time in seconds; 0 is never.
    pub expire_at: i64,
    /// Recover from here.
    pub recover_since: Option<Position<String>>,
    /// Options of the channel that do not hold for this subscription.
    pub overrides: Override,
}

/// A new expiry of a connection.
#[derive(Clone, Debug, Default)]
pub struct Refresh {
    /// It is over now.
    pub expired: bool,
    /// Unix time in seconds; 0 is never.
    pub expire_at: i64,
    /// New `conn_info`, if given. Raw.
    pub info: Option<Bytes>,
}

/// What is there, on every core.
#[derive(Debug)]
pub enum Survey {
    /// Channels with subscribers, and how many.
    Channels {
        /// Only those whose name matches.
        pattern: Option<GlobMatcher>,
        /// Where to tell.
        parts: Gather<Vec<(Arc<str>, u32)>>,
    },
    /// How much is there.
    Info {
        /// Where to tell.
        parts: Gather<CoreInfo>,
    },
}

/// What one core has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreInfo {
    /// Connections.
    pub clients: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Channels with subscribers anywhere, whose home this is.
    pub channels: usize,
    /// A hash for each user with a connection here, ascending: users may be on several cores.
    pub users: Vec<u64>,
}

/// What all cores have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surveyed {
    /// Connections.
    pub clients: usize,
    /// Different users.
    pub users: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Channels with subscribers.
    pub channels: usize,
}

impl Surveyed {
    /// Adds the cores up, each user once.
    pub fn of(cores: Vec<CoreInfo>) -> Self {
        let mut sum = Self::default();
        let mut users = Vec::new();
        for core in cores {
            sum.clients += core.clients;
            sum.subscriptions += core.subscriptions;
            sum.channels += core.channels;
            users.extend(core.users);
        }
        users.sort_unstable();
        users.dedup();
        sum.users = users.len();
        sum
    }
}
