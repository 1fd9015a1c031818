//! Feeds on the control thread: each is a task that has asked, and reads on for as long as somebody
//! is subscribed.
//!
//! The invariants: nothing is told before the session says that the subscriber is there; what waits
//! on either way is on the account of its proxy; a feed ends with its subscriber, and its
//! subscriber hears when it ends by itself.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{Failed, HookSender, Hooks, Room, Said, Target};
use crate::control::counts::FEED_ENDS;
use crate::control::grpc::{Feed, GrpcBackend, Message, NoAnswer, Outgoing};
use crate::control::turns::Line;
use crate::gateway::account::Held;
use crate::gateway::hooks::protobuf::{BOTH_WAYS, feed_publication, feed_question, feed_told};
use crate::gateway::hooks::{
    Asking, FeedAsked, FeedEnd, FeedId, FeedNews, FeedSaid, FeedWord, HookFailure, HookKind,
    HookReply, HookRequest, HookResult,
};

/// What engine threads say of a feed, with what it takes.
pub(super) enum Word {
    Ready,
    Publish(Bytes, [Held; 2]),
    Over,
}

impl<T> HookSender<T> {
    /// Says something of a feed of this proxy. False: there is no room for what is published.
    pub fn feed(&self, feed: FeedId, proxy: &str, word: FeedWord) -> bool {
        let word = match word {
            FeedWord::Ready => Word::Ready,
            FeedWord::Over => Word::Over,
            FeedWord::Publish(data, own) => {
                let target = self.hooks.named(HookKind::SubscribeStream, proxy);
                // As it waits, and as it goes.
                let all = target.and_then(|target| target.feeds_out.take(2 * data.len() + AROUND));
                let Some(all) = all else {
                    self.hooks.counts.feeds_full.count();
                    return false;
                };
                self.hooks.counts.feed_messages_out.count();
                Word::Publish(data, [own, all])
            }
        };
        self.said.send(Said::Feed(feed, word)).is_ok()
    }
}

/// Feeds that are open, and how each is told.
#[derive(Default)]
pub(super) struct Feeds(HashMap<Asking, HashMap<u64, Way>>);

struct Way {
    ready: Option<oneshot::Sender<()>>,
    out: Option<mpsc::UnboundedSender<Message>>,
    /// Dropped, it ends the feed.
    _end: oneshot::Sender<Infallible>,
}

/// What a feed's task hears.
pub(super) struct Orders {
    ready: oneshot::Receiver<()>,
    out: Option<mpsc::UnboundedReceiver<Message>>,
    end: oneshot::Receiver<Infallible>,
}

impl Feeds {
    /// Here and not in the task, which may begin after the connection has gone.
    pub(super) fn begin(&mut self, asked: FeedAsked) -> Orders {
        let (ready, is_ready) = oneshot::channel();
        let (end, over) = oneshot::channel();
        // What is in it has room of the feed's and of the proxy's.
        let (out, more) = asked.both_ways.then(mpsc::unbounded_channel).unzip();
        let way = Way { ready: Some(ready), out, _end: end };
        self.0.entry(asked.id.from).or_default().insert(asked.id.number, way);
        Orders { ready: is_ready, out: more, end: over }
    }

    pub(super) fn hear(&mut self, feed: FeedId, word: Word) {
        let ways = self.0.get_mut(&feed.from);
        let Some(way) = ways.and_then(|ways| ways.get_mut(&feed.number)) else { return };
        match word {
            Word::Ready => drop(way.ready.take().map(|ready| ready.send(()))),
            Word::Publish(data, held) => {
                if let Some(out) = &way.out {
                    // One that has ended tells the session so.
                    let _ = out.send((feed_publication(data), held));
                }
            }
            Word::Over => self.end(feed),
        }
    }

    pub(super) fn end(&mut self, feed: FeedId) {
        let Some(ways) = self.0.get_mut(&feed.from) else { return };
        ways.remove(&feed.number);
        if ways.is_empty() {
            self.0.remove(&feed.from);
        }
    }

    /// A connection has gone, and its feeds with it.
    pub(super) fn forget(&mut self, asking: Asking) {
        self.0.remove(&asking);
    }
}

/// A stream that is being opened, beside its question: what will be sent on it, and itself.
#[derive(Default)]
pub(super) struct Opening {
    out: Option<mpsc::UnboundedReceiver<Message>>,
    feed: Option<Feed>,
}

impl Hooks {
    /// Asks for a feed, replies, and tells what comes on it, to its end.
    pub(super) async fn feed(
        &self,
        request: HookRequest,
        line: Option<Line>,
        mut room: Room,
        mut orders: Orders,
        reply: impl FnOnce(HookResult, Room),
        tell: impl Fn(FeedNews),
    ) {
        let Some((target, asked)) = self.target(&request).zip(request.feed()) else {
            if let Some(outcome) =
                self.call(request, line, &mut room, &mut Opening::default()).await
            {
                reply(outcome, room);
            }
            return;
        };
        let _place = room.feed.take();
        let mut opening = Opening { out: orders.out.take(), feed: None };
        let outcome = tokio::select! {
            biased;
            _ = &mut orders.end => None,
            outcome = self.call(request, line, &mut room, &mut opening) => outcome,
        };
        let Some(outcome) = outcome else { return };
        let feed = opening.feed.filter(|_| outcome.is_ok());
        reply(outcome, room);
        let Some(feed) = feed else { return };
        let _open = self.counts.feeds.enter();
        let heard = |said, room| {
            self.counts.feed_messages_in.count();
            tell(FeedNews { feed: asked.id, said, room });
        };
        let end = tokio::select! {
            biased;
            _ = &mut orders.end => None,
            end = target.listen(feed, orders.ready, heard) => end,
        };
        let [client, backend, failure] = FEED_ENDS;
        let who = match end {
            None => client,
            Some(Ok(())) => backend,
            Some(Err(_)) => failure,
        };
        self.counts.feed_ended(who);
        let said = match end {
            None => return,
            Some(Ok(())) => FeedSaid::Ended(FeedEnd::Backend),
            Some(Err(failed)) => {
                let Failed { why, detail } = failed;
                tracing::warn!(why = why.name(), detail, "a stream of a subscription failed");
                FeedSaid::Ended(FeedEnd::Failed)
            }
        };
        tell(FeedNews { feed: asked.id, said, room: Box::new(()) });
    }
}

impl Target {
    pub(super) async fn open_feed(
        &self,
        backend: &GrpcBackend,
        request: HookRequest,
        asked: FeedAsked,
        room: &mut Room,
        opening: &mut Opening,
    ) -> Result<HookResult, Failed> {
        let question =
            request.message(self.config.binary_encoding, self.config.include_connection_meta);
        let metadata = self.headers(&request.caller.headers);
        let kind = request.kind();
        drop(request);
        let (path, first) = match asked.both_ways {
            true => (BOTH_WAYS, feed_question(question)),
            false => (kind.grpc_path(), question.into()),
        };
        let outgoing = Outgoing::new(&first, opening.out.take());
        let opened = backend.open(path, metadata, outgoing, self.config.reply_max).await;
        let mut feed = opened.map_err(Failed::of_stream)?;
        let Some(length) = feed.begins().await.map_err(Failed::of_stream)? else {
            return Err(Failed::new(HookFailure::BadReply, "it ended without a message"));
        };
        // Read, and decoded.
        if !room.grow(2 * length) {
            return Err(Failed::new(HookFailure::Overloaded, "answers take the memory"));
        }
        let first = feed.message(length).await.map_err(Failed::of_stream)?;
        let outcome = HookReply::decode_message(kind, first).map_err(Failed::of_reply)?;
        opening.feed = Some(feed);
        Ok(outcome)
    }

    /// Tells what comes. `None`: nobody is there any more.
    async fn listen(
        &self,
        mut feed: Feed,
        ready: oneshot::Receiver<()>,
        tell: impl Fn(FeedSaid, Box<dyn Send>),
    ) -> Option<Result<(), Failed>> {
        ready.await.ok()?;
        loop {
            match self.next(&mut feed).await {
                Ok(Some((said, room))) => tell(said, Box::new(room)),
                Ok(None) => return Some(Ok(())),
                Err(failed) => return Some(Err(failed)),
            }
        }
    }

    /// The next message with something in it, once there is room for it.
    async fn next(
        &self,
        feed: &mut Feed,
    ) -> Result<Option<(FeedSaid, OwnedSemaphorePermit)>, Failed> {
        loop {
            let length = feed.begins().await.map_err(Failed::of_stream)?;
            let Some(length) = length else { return Ok(None) };
            // As it comes, and decoded. One that is larger than all there is takes all.
            let units = (2 * length + AROUND).div_ceil(UNIT).min(self.feeds_in_units);
            let units = u32::try_from(units).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.feeds_in).acquire_many_owned(units).await;
            let Ok(room) = room else { return Ok(None) };
            // What has room has to come: others wait for that.
            let whole = tokio::time::timeout(self.config.timeout, feed.message(length)).await;
            let message = match whole {
                Ok(message) => message.map_err(Failed::of_stream)?,
                Err(_) => return Err(Failed::new(HookFailure::Timeout, "half a message")),
            };
            if let Some(said) = feed_told(message).map_err(Failed::of_reply)? {
                return Ok(Some((said, room)));
            }
        }
    }
}

impl Failed {
    fn of_stream((why, detail): NoAnswer) -> Self {
        Self::new(why, detail)
    }
}

/// What a message takes besides its bytes.
const AROUND: usize = 256;

/// Bytes that a unit of room is.
pub(super) const UNIT: usize = 1024;
