//! One stream: its messages are read for the group, dealt with, and acknowledged.
//!
//! Owns a connection and what was read by it. What a connection leaves unacknowledged is read again
//! by the next one; what a process leaves, others take over once it was visible to nobody for long
//! enough. The invariants: at most one batch is held; whatever the server says or the API answers
//! ends in a message that was dealt with, or in another try after a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::ConsumerConfig;
use super::message::{Message, PassedOver, Reading};
use crate::broker::dial::{self, DialError, Purpose};
use crate::broker::link::{Link, Lost};
use crate::broker::resp::{Command, Fault, Reply};
use crate::control::api::Api;
use crate::control::backend::Backend;
use crate::control::counts::Counts;
use crate::gateway::api::ApiReply;
use crate::gateway::wire::Error;

/// A stream, and who reads it.
pub(super) struct Place {
    pub(super) config: ConsumerConfig,
    /// Its key.
    pub(super) stream: String,
    /// Our name in the group.
    pub(super) node: Arc<str>,
}

/// Why a connection is no more.
enum Gone {
    /// There was none.
    Dial(DialError),
    /// It broke.
    Lost(Lost),
    /// The server refused a command.
    Said(String),
}

impl Gone {
    /// As in metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::Dial(_) => "connect",
            Self::Lost(_) => "lost",
            Self::Said(_) => "redis",
        }
    }
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dial(error) => error.fmt(f),
            Self::Lost(lost) => lost.fmt(f),
            Self::Said(what) => f.write_str(what),
        }
    }
}

impl From<Lost> for Gone {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// Reads a stream until the server goes away.
pub(super) async fn run<B: Backend>(
    place: Place,
    api: Arc<Api<B>>,
    backend: Arc<B>,
    counts: Arc<Counts>,
) {
    let name = place.config.name.clone();
    let mut reader = Reader {
        place,
        api,
        backend,
        counts,
        width: Width::Batch,
        failures: 0,
        told: AtomicU64::new(0),
        began: Instant::now(),
    };
    while !reader.backend.draining() {
        let Err(gone) = reader.connection().await else { return };
        reader.counts.consumer_failed(&name, gone.name());
        let stream = &reader.place.stream;
        tracing::warn!(consumer = %name, %stream, error = %gone, "a stream cannot be read");
        if let Gone::Lost(Lost::Protocol(Fault::Bytes | Fault::Elements)) = gone {
            reader.narrow();
        }
        tokio::time::sleep(pause(reader.failures)).await;
        reader.failures = reader.failures.saturating_add(1);
    }
}

/// How much is read at once: one message after replies were too large, and none that is too large
/// by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Width {
    Batch,
    One { behind: String },
    PassOver { behind: String },
}

struct Reader<B> {
    place: Place,
    api: Arc<Api<B>>,
    backend: Arc<B>,
    counts: Arc<Counts>,
    width: Width,
    /// Connections that failed since the last one that did not.
    failures: u32,
    /// The second in which a message was logged last, since the beginning.
    told: AtomicU64,
    began: Instant,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    PassedOver(PassedOver),
    Again,
}

impl<B: Backend> Reader<B> {
    /// A connection's life. `Ok`: the server goes away.
    async fn connection(&mut self) -> Result<(), Gone> {
        let dialled = dial::dial(&self.place.config.target, Purpose::Messages).await;
        let (mut link, _) = dialled.map_err(Gone::Dial)?;
        self.join(&mut link).await?;
        // What a connection before this one has read and not acknowledged.
        let mut behind = match std::mem::replace(&mut self.width, Width::Batch) {
            Width::Batch => START.to_owned(),
            Width::One { behind } => {
                self.width = Width::One { behind: behind.clone() };
                behind
            }
            Width::PassOver { behind } => {
                self.pass_over(&mut link, &behind).await?;
                behind
            }
        };
        loop {
            let batch = self.read(&mut link, &behind).await?;
            self.failures = 0;
            let Some(last) = batch.last() else { break };
            behind.clone_from(&last.id);
            self.deal(&mut link, batch).await?;
            if let Width::One { behind: kept } = &mut self.width {
                kept.clone_from(&behind);
            }
        }
        self.width = Width::Batch;
        let mut claimed = None;
        while !self.backend.draining() {
            if claimed.is_none_or(|at: Instant| at.elapsed() >= CLAIM_EVERY) {
                self.claim(&mut link).await?;
                claimed = Some(Instant::now());
            }
            let batch = self.read(&mut link, NEW).await?;
            self.deal(&mut link, batch).await?;
        }
        Ok(())
    }

    /// After a reply that was too large.
    fn narrow(&mut self) {
        self.width = match std::mem::replace(&mut self.width, Width::Batch) {
            Width::Batch => Width::One { behind: START.to_owned() },
            Width::One { behind } | Width::PassOver { behind } => Width::PassOver { behind },
        };
    }

    /// Makes the group, where there is none.
    async fn join(&self, link: &mut Link) -> Result<(), Gone> {
        let parts = ["XGROUP", "CREATE", &self.place.stream, self.group(), "$", "MKSTREAM"];
        match self.ask(link, &parts, Duration::ZERO, |_| ()).await {
            Err(Gone::Said(what)) if what.starts_with("BUSYGROUP") => Ok(()),
            other => other,
        }
    }

    /// Messages behind one that this node has read, or new ones, for which it waits.
    async fn read(&self, link: &mut Link, behind: &str) -> Result<Vec<Message>, Gone> {
        let Place { stream, node, .. } = &self.place;
        let count = if self.width == Width::Batch { BATCH } else { "1" };
        let wait = if behind == NEW { WAIT } else { Duration::ZERO };
        let block = wait.as_millis().to_string();
        let mut parts = vec!["XREADGROUP", "GROUP", self.group(), node, "COUNT", count];
        if !wait.is_zero() {
            parts.extend(["BLOCK", &block]);
        }
        parts.extend(["STREAMS", stream, behind]);
        self.ask(link, &parts, wait, |reply| {
            let stream = reply.list().and_then(|streams| streams.first()?.list());
            stream.and_then(|stream| stream.get(1)).map(messages).unwrap_or_default()
        })
        .await
    }

    /// Takes over and deals with what others, or this one before, have left for too long.
    async fn claim(&self, link: &mut Link) -> Result<(), Gone> {
        let Place { stream, node, config } = &self.place;
        let idle = config.visibility.as_millis().to_string();
        let mut from = START.to_owned();
        loop {
            let group = self.group();
            let parts = ["XAUTOCLAIM", stream, group, node, &idle, &from, "COUNT", BATCH];
            let read = |reply: &Reply<'_>| {
                let list = reply.list().unwrap_or_default();
                let next = list.first().and_then(Reply::str).unwrap_or(START).to_owned();
                (next, list.get(1).map(messages).unwrap_or_default())
            };
            let (next, batch) = match self.ask(link, &parts, Duration::ZERO, read).await {
                // Servers before 6.2 have no such command.
                Err(Gone::Said(what)) if what.starts_with("ERR unknown") => return Ok(()),
                other => other?,
            };
            let ended = next == START || batch.is_empty() || self.backend.draining();
            self.deal(link, batch).await?;
            if ended {
                return Ok(());
            }
            from = next;
        }
    }

    /// Deals with messages in their order, as many at once as there are workers, and acknowledges
    /// what was dealt with.
    async fn deal(&self, link: &mut Link, batch: Vec<Message>) -> Result<(), Gone> {
        let batch: Vec<_> = batch.into_iter().map(Arc::new).collect();
        let mut held = Instant::now();
        let mut done = Vec::new();
        for (number, chunk) in batch.chunks(self.place.config.workers).enumerate() {
            let rest = &batch[number * self.place.config.workers..];
            let (mut open, mut tries) = (chunk.to_vec(), 0);
            loop {
                open = self.try_all(open, &mut done).await;
                if open.is_empty() {
                    break;
                }
                self.acknowledge(link, &mut done).await?;
                // Without its broker nobody can publish, and no message is to blame.
                tries += u32::from(self.backend.broken().is_none());
                if tries > TRIES_MAX || self.backend.draining() {
                    break;
                }
                tokio::time::sleep(pause(tries)).await;
                self.hold(link, &mut held, rest).await?;
            }
            self.put_off(&open);
            if self.backend.draining() {
                break;
            }
            self.hold(link, &mut held, rest).await?;
        }
        self.acknowledge(link, &mut done).await
    }

    /// Messages that did not come through stay unacknowledged, until somebody claims them.
    fn put_off(&self, messages: &[Arc<Message>]) {
        for message in messages {
            let Place { config, stream, .. } = &self.place;
            self.counts.consumer_failed(&config.name, "put_off");
            if self.may_tell() {
                let (consumer, id) = (&config.name, &message.id);
                tracing::warn!(%consumer, %stream, %id, "a message is tried again later");
            }
        }
    }

    /// Does what messages ask for. Those are left that have to be tried again.
    async fn try_all(
        &self,
        messages: Vec<Arc<Message>>,
        done: &mut Vec<String>,
    ) -> Vec<Arc<Message>> {
        let mut fates = vec![Fate::Again; messages.len()];
        match &messages[..] {
            [one] => fates[0] = fate(&self.api, &self.place.config.reading, one).await,
            several => {
                let mut running = JoinSet::new();
                for (place, message) in several.iter().cloned().enumerate() {
                    let (api, reading) = (self.api.clone(), self.place.config.reading.clone());
                    running.spawn(async move { (place, fate(&api, &reading, &message).await) });
                }
                while let Some(ended) = running.join_next().await {
                    // One that died is tried again.
                    if let Ok((place, fate)) = ended {
                        fates[place] = fate;
                    }
                }
            }
        }
        let mut again = Vec::new();
        for (message, fate) in messages.into_iter().zip(fates) {
            match fate {
                Fate::Again => {
                    again.push(message);
                    continue;
                }
                Fate::Done => self.counts.consumed(&self.place.config.name),
                Fate::PassedOver(why) => self.passed_over(&message, why),
            }
            done.push(message.id.clone());
        }
        again
    }

    fn passed_over(&self, message: &Message, why: PassedOver) {
        let Place { config, stream, .. } = &self.place;
        let (id, why) = (&message.id, why.name());
        self.counts.consumer_failed(&config.name, why);
        if self.may_tell() {
            let consumer = &config.name;
            tracing::warn!(%consumer, %stream, %id, why, "a message was passed over");
        }
    }

    /// One message a second is logged, all are counted.
    fn may_tell(&self) -> bool {
        let second = self.began.elapsed().as_secs() + 1;
        self.told.swap(second, Ordering::Relaxed) != second
    }

    /// Keeps messages from others for another while, once half of their time is over.
    async fn hold(
        &self,
        link: &mut Link,
        held: &mut Instant,
        messages: &[Arc<Message>],
    ) -> Result<(), Gone> {
        let Place { config, stream, node } = &self.place;
        if held.elapsed() < config.visibility / 2 {
            return Ok(());
        }
        let mut parts = vec!["XCLAIM", stream, &config.group, node, "0"];
        parts.extend(messages.iter().map(|message| message.id.as_str()));
        parts.push("JUSTID");
        self.ask(link, &parts, Duration::ZERO, |_| ()).await?;
        *held = Instant::now();
        Ok(())
    }

    async fn acknowledge(&self, link: &mut Link, done: &mut Vec<String>) -> Result<(), Gone> {
        if done.is_empty() {
            return Ok(());
        }
        let mut parts = vec!["XACK", &self.place.stream, self.group()];
        parts.extend(done.iter().map(String::as_str));
        self.ask(link, &parts, Duration::ZERO, |_| ()).await?;
        done.clear();
        Ok(())
    }

    /// Acknowledges the first message behind one, which no reply can hold.
    async fn pass_over(&self, link: &mut Link, behind: &str) -> Result<(), Gone> {
        let Place { stream, node, config } = &self.place;
        let from = format!("({behind}");
        let parts = ["XPENDING", stream, &config.group, &from, "+", "1", node];
        let first = |reply: &Reply<'_>| {
            let first = reply.list().and_then(|list| list.first()?.list());
            first.and_then(|entry| entry.first()?.str()).map(str::to_owned)
        };
        if let Some(id) = self.ask(link, &parts, Duration::ZERO, first).await? {
            self.counts.consumer_failed(&config.name, "too_large");
            tracing::warn!(consumer = %config.name, %stream, %id, "a message is too large");
            self.acknowledge(link, &mut vec![id]).await?;
        }
        Ok(())
    }

    fn group(&self) -> &str {
        &self.place.config.group
    }

    /// The answer to a command, for which the server may wait so long.
    async fn ask<T>(
        &self,
        link: &mut Link,
        parts: &[&str],
        wait: Duration,
        read: impl Fn(&Reply<'_>) -> T,
    ) -> Result<T, Gone> {
        let mut command = Command::begin(link.output(), parts.len());
        for part in parts {
            command.part(part);
        }
        drop(command);
        let within = wait + self.place.config.target.server.io_timeout;
        let answered = async {
            let mut answer = None;
            loop {
                link.exchange().await?;
                link.replies(Instant::now(), |reply| {
                    answer = Some(match &reply {
                        Reply::Error(what) => Err(String::from_utf8_lossy(what).into_owned()),
                        reply => Ok(read(reply)),
                    });
                    Ok(())
                })?;
                if let Some(answer) = answer.take() {
                    return Ok::<_, Lost>(answer);
                }
            }
        };
        let answer = tokio::time::timeout(within, answered).await;
        answer.unwrap_or(Err(Lost::Silent(within)))?.map_err(Gone::Said)
    }
}

/// Does what a message asks for.
async fn fate<B: Backend>(api: &Api<B>, reading: &Reading, message: &Message) -> Fate {
    if message.values.is_none() {
        return Fate::Done;
    }
    let request = match reading.request(message) {
        Ok(request) => request,
        Err(why) => return Fate::PassedOver(why),
    };
    let passes = |error: &Error| error.code == Error::INTERNAL.code || error.temporary;
    match api.call(request).await {
        Err(error) if passes(&error) => Fate::Again,
        Err(_) => Fate::PassedOver(PassedOver::Refused),
        // Some channels get it twice, unless it has an idempotency key.
        Ok(ApiReply::Broadcast(it))
            if it.responses.iter().any(|one| one.as_ref().is_err_and(&passes)) =>
        {
            Fate::Again
        }
        Ok(_) => Fate::Done,
    }
}

/// `[id, [name, value, …]]`, many.
fn messages(list: &Reply<'_>) -> Vec<Message> {
    let entry = |entry: &Reply<'_>| {
        let entry = entry.list()?;
        let id = entry.first()?.str()?.to_owned();
        let values = entry.get(1).and_then(Reply::list).map(|values| {
            let bytes = |reply: &Reply<'_>| reply.text().unwrap_or_default().to_vec();
            values.chunks_exact(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1]))).collect()
        });
        Some(Message { id, values })
    };
    list.list().unwrap_or_default().iter().filter_map(entry).collect()
}

/// Before the next try, after so many.
fn pause(tries: u32) -> Duration {
    PAUSE_MAX.min(PAUSE * 2_u32.saturating_pow(tries.min(16)))
}

/// In front of all messages, and behind all that were read.
const START: &str = "0-0";
const NEW: &str = ">";

/// Messages read at once.
const BATCH: &str = "64";

/// How long the server waits for new messages.
const WAIT: Duration = Duration::from_secs(1);

/// How often is looked for what others have left.
const CLAIM_EVERY: Duration = Duration::from_secs(5);

/// Tries of a message after the first, 6 s together, before those behind it have their turn.
const TRIES_MAX: u32 = 8;

const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_deleted_ones_are_known() {
        let wire = b"*3\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n\
            *2\r\n$3\r\n2-0\r\n*-1\r\n$-1\r\n";
        let reply = Reply::parse(wire).unwrap();
        let values = Some(vec![(b"a".to_vec(), b"b".to_vec())]);
        let first = Message { id: "1-0".to_owned(), values };
        let second = Message { id: "2-0".to_owned(), values: None };
        assert_eq!(messages(&reply), [first, second]);
        assert!(messages(&Reply::Nil).is_empty());
    }

    #[test]
    fn pauses_grow_and_end() {
        assert_eq!(pause(0), PAUSE);
        assert_eq!(pause(1), 2 * PAUSE);
        assert_eq!((pause(16), pause(u32::MAX)), (PAUSE_MAX, PAUSE_MAX));
        let all: Duration = (1..=TRIES_MAX).map(pause).sum();
        assert!(all < Duration::from_secs(10), "{all:?}");
    }
}
