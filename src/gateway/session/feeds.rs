//! Subscriptions that the backend feeds, each on a stream of its own. The invariant: a session has
//! a feed from its question on for as long as the channel is asked for or subscribed to; whatever
//! ends the one ends the other.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::commands::Outcome;
use super::machine::{CoreState, Sessions};
use super::port::Port;
use super::ticket::Ticket;
use super::{Revoked, Session};
use crate::gateway::account::Budget;
use crate::gateway::channels::{Override, Switch};
use crate::gateway::hooks::{Asking, FeedAsked, FeedId, FeedNews, FeedSaid, FeedWord};
use crate::gateway::hooks::{DEFAULT_PROXY, proxy_name};
use crate::gateway::hub_port::Link;
use crate::gateway::wire::messages::{
    Publication, PublishResult, PushBody, ReplyBody, SubscribeRequest,
};
use crate::gateway::wire::{self, Disconnect, Encoding, Error};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Feed {
    channel: Box<str>,
    number: u64,
    proxy: Cow<'static, str>,
    /// What the subscriber may have on its way to the backend, if it may publish.
    out: Option<Arc<Budget>>,
}

impl Feed {
    /// What it takes, beside its place in a list.
    pub(super) fn bytes(&self) -> usize {
        self.channel.len() + self.out.as_ref().map_or(0, |_| 2 * size_of::<Budget>())
    }

    fn id(&self, from: Asking) -> FeedId {
        FeedId { from, number: self.number }
    }
}

impl Session {
    fn feed(&self, channel: &str) -> Option<&Feed> {
        self.more.as_ref()?.feeds.iter().find(|feed| *feed.channel == *channel)
    }

    fn take_feed(&mut self, channel: &str) -> Option<Feed> {
        let feeds = &mut self.more.as_mut()?.feeds;
        let at = feeds.iter().position(|feed| *feed.channel == *channel)?;
        let feed = feeds.swap_remove(at);
        feeds.shrink_to_fit();
        self.tidy();
        Some(feed)
    }

    /// Whether the backend feeds one of its subscriptions.
    pub(super) fn has_feeds(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.feeds.is_empty())
    }

    /// Whether the backend feeds this one, or is asked to.
    pub(super) fn is_fed(&self, channel: &str) -> bool {
        self.feed(channel).is_some()
    }

    /// Whether the client may publish to the feed of a channel.
    pub(super) fn feeds_back(&self, channel: &str) -> bool {
        self.feed(channel).is_some_and(|feed| feed.out.is_some())
    }
}

/// What a subscription cannot have that is fed: there is no stream of the channel's behind it.
pub(super) fn plain(request: &mut SubscribeRequest) {
    request.positioned = false;
    request.recoverable = false;
    request.recover = false;
    request.join_leave = false;
    request.delta.clear();
}

/// The same of what the backend says of it.
pub(super) fn unrecovered(overrides: Override) -> Override {
    let off = Some(Switch { value: false });
    Override { force_recovery: off, force_positioning: off, ..overrides }
}

impl Sessions {
    /// Begins a feed, for the question that is asked next.
    pub(super) fn begin_feed(&mut self, link: Link, channel: &str) -> Option<FeedAsked> {
        let rules = self.state.rules.clone();
        let options = &rules.namespaces.place(channel).ok()?.rules.options;
        let both_ways = options.subscribe_stream_proxy_bidirectional;
        let proxy = match proxy_name(&options.subscribe_stream_proxy_name) {
            DEFAULT_PROXY => Cow::Borrowed(DEFAULT_PROXY),
            name => Cow::Owned(name.to_owned()),
        };
        self.state.last_feed += 1;
        let number = self.state.last_feed;
        let from = self.state.asking(link);
        let session = self.state.table.get_mut(link)?;
        let out = both_ways.then(|| Budget::new(OUT_BYTES));
        session.more().feeds.push(Feed { channel: channel.into(), number, proxy, out });
        Some(FeedAsked { id: FeedId { from, number }, both_ways })
    }

    /// A client publishes to the feed of a channel.
    pub(super) fn publish_to_feed(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        channel: &str,
        data: Bytes,
    ) -> Outcome {
        let from = self.state.asking(link);
        let Some(session) = self.state.table.get_mut(link) else { return Ok(()) };
        let feed = session.feed(channel);
        let feed = feed.and_then(|feed| Some((feed.id(from), &feed.proxy, feed.out.as_ref()?)));
        let Some((feed, proxy, out)) = feed else { return Err(Error::NOT_AVAILABLE.into()) };
        let held = out.take(data.len().clamp(1, OUT_BYTES));
        let word = held.map(|held| FeedWord::Publish(data, held));
        if !word.is_some_and(|word| port.feed(feed, proxy, word)) {
            return Err(Error::TOO_MANY_REQUESTS.into());
        }
        self.state.reply(port, link, ticket, ReplyBody::Publish(PublishResult {}));
        Ok(())
    }

    /// The backend has said something on a feed.
    pub(super) fn feed_told(&mut self, port: &mut impl Port, news: FeedNews) {
        let FeedNews { feed, said, room } = news;
        let link = feed.from.link;
        let Some(session) = self.state.table.get_mut(link) else { return };
        // It may have ended meanwhile, and perhaps begun anew.
        let feeds = session.more.iter().flat_map(|more| &more.feeds);
        let found = feeds.into_iter().find(|one| one.number == feed.number);
        let Some(channel) = found.map(|feed| feed.channel.clone()) else { return };
        match said {
            FeedSaid::Published { data, tags } => {
                if session.encoding() == Encoding::Json && !wire::is_json(&data) {
                    return self.state.close(port, link, &Disconnect::INAPPROPRIATE_PROTOCOL);
                }
                let publication = Publication { data, tags, ..Publication::default() };
                let body = PushBody::Publication(Box::new(publication));
                self.state.push(port, link, &channel, body);
            }
            FeedSaid::Ended(end) => {
                session.take_feed(&channel);
                self.revoke(port, feed.from.link, &Revoked { channel, why: end.told() });
            }
        }
        drop(room);
    }
}

impl CoreState {
    /// This connection as one that asks the backend.
    pub(super) fn asking(&self, link: Link) -> Asking {
        Asking { core: self.core, link }
    }

    /// The reply to a subscription has left: its feed may speak.
    pub(super) fn open_feed(&mut self, port: &mut impl Port, link: Link, channel: &str) {
        let from = self.asking(link);
        let session = self.table.get_mut(link);
        if let Some(feed) = session.and_then(|session| session.feed(channel)) {
            port.feed(feed.id(from), &feed.proxy, FeedWord::Ready);
        }
    }

    /// A channel is not asked for or subscribed to any more.
    pub(super) fn end_feed(&mut self, port: &mut impl Port, link: Link, channel: &str) {
        let from = self.asking(link);
        let session = self.table.get_mut(link);
        if let Some(feed) = session.and_then(|session| session.take_feed(channel)) {
            port.feed(feed.id(from), &feed.proxy, FeedWord::Over);
        }
    }

    /// A subscription is over, or is not to be.
    pub(super) fn forget_sub(&mut self, port: &mut impl Port, link: Link, channel: &str) {
        if let Some(session) = self.table.get_mut(link) {
            session.forget_sub(channel);
        }
        self.end_feed(port, link, channel);
    }
}

/// Bytes of publications of one subscriber that the backend has not taken. More are refused with
/// error 111; one that is larger goes alone.
const OUT_BYTES: usize = 256 << 10;
