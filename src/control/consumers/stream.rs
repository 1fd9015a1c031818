//! One stream: its messages are read for the group, dealt with, and acknowledged.
//!
//! Owns a connection and what was read by it. What a connection leaves unacknowledged is read again
//! by the next one; what a process leaves, others take over once it was visible to nobody for long
//! enough. The invariants: at most one batch is held; whatever the server says or the API answers
//! ends in a message that was dealt with, or in another try after a pause.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::StreamConfig;
use super::doing::{Doer, Fate, Patience, Rest, pause};
use super::message::{Message, PassedOver};
use crate::broker::dial::{self, DialError, Purpose};
use crate::broker::link::{Link, Lost};
use crate::broker::resp::{Command, Fault, Reply};
use crate::control::backend::Backend;
use crate::gateway::api::ApiRequest;

/// A stream, and who reads it.
pub(super) struct StreamReader {
    pub(super) config: StreamConfig,
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
pub(super) async fn run<B: Backend>(place: StreamReader, doer: Arc<Doer<B>>) {
    let mut reader =
        Reader { place, doer, width: Width::Batch, claimed: START.to_owned(), failures: 0 };
    while !reader.doer.draining() {
        let Err(gone) = reader.connection().await else { return };
        reader.doer.gone(&reader.place.stream, gone.name(), &gone);
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
    place: StreamReader,
    doer: Arc<Doer<B>>,
    width: Width,
    /// Up to where was looked for what others have left.
    claimed: String,
    /// Connections that failed since the last one that did not.
    failures: u32,
}

/// A message, and what is to be done for it.
#[derive(Clone)]
struct Task {
    id: String,
    request: Result<Box<ApiRequest>, PassedOver>,
    doubtful: bool,
}

/// What came of a try.
enum Tried {
    Done,
    PassedOver,
    Open(Task),
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
            let batch = self.read(&mut link, &behind, WAIT).await?;
            self.failures = 0;
            let Some(last) = batch.last() else { break };
            behind.clone_from(&last.id);
            self.deal(&mut link, batch, &Patience::default()).await?;
            if let Width::One { behind: kept } = &mut self.width {
                kept.clone_from(&behind);
            }
        }
        self.width = Width::Batch;
        let mut claimed = None;
        while !self.doer.draining() {
            if claimed.is_none_or(|at: Instant| at.elapsed() >= CLAIM_EVERY) {
                self.claim(&mut link).await?;
                claimed = Some(Instant::now());
            }
            let batch = self.read(&mut link, NEW, WAIT).await?;
            self.deal(&mut link, batch, &Patience::default()).await?;
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
    async fn read(
        &self,
        link: &mut Link,
        behind: &str,
        wait: Duration,
    ) -> Result<Vec<Message>, Gone> {
        let StreamReader { stream, node, .. } = &self.place;
        let wait = if behind == NEW { wait } else { Duration::ZERO };
        let one = self.width != Width::Batch || behind == NEW && wait.is_zero();
        let count = if one { "1" } else { BATCH };
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

    /// Takes over and deals with what others, or this one before, have left for too long. What
    /// there is no time for has its turn the next time.
    async fn claim(&mut self, link: &mut Link) -> Result<(), Gone> {
        for _ in 0..CLAIM_STEPS {
            let StreamReader { stream, node, config } = &self.place;
            let idle = config.visibility.as_millis().to_string();
            let from = &self.claimed;
            let group = self.group();
            let parts = ["XAUTOCLAIM", stream, group, node, &idle, from, "COUNT", BATCH];
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
            // An empty batch is no end: of so many that were looked at none was left for too long.
            self.claimed = next;
            self.deal(link, batch, &Patience::spent()).await?;
            if self.claimed == START || self.doer.draining() {
                break;
            }
        }
        Ok(())
    }

    /// Deals with messages in their order, as many at once as there are workers, and acknowledges
    /// what was dealt with. One that fails holds those behind it up, unless it is to blame.
    async fn deal(
        &self,
        link: &mut Link,
        batch: Vec<Message>,
        patience: &Patience,
    ) -> Result<(), Gone> {
        let mut behind: VecDeque<Task> = batch.iter().map(|message| self.task(message)).collect();
        drop(batch);
        let (mut held, mut done) = (Instant::now(), Vec::new());
        let workers = self.place.config.workers;
        while !behind.is_empty() && !self.doer.draining() {
            let chunk = behind.drain(..workers.min(behind.len())).collect();
            let mut open = self.try_all(chunk, &mut done).await;
            let mut patience = patience.clone();
            while let Some(first) = open.first() {
                self.acknowledge(link, &mut done).await?;
                if self.doer.draining() {
                    return Ok(());
                }
                let (at, doubtful) = ((&*self.place.stream, &*first.id), first.doubtful);
                if patience.fails(&self.doer, at, doubtful).await
                    && self.others_come_through(link, &mut behind, &mut done).await?
                {
                    // They stay unacknowledged, until somebody claims them.
                    open.iter().for_each(|it| self.doer.put_off(&self.place.stream, &it.id));
                    break;
                }
                tokio::time::sleep(patience.pause()).await;
                self.hold(link, &mut held, open.iter().chain(&behind)).await?;
                open = self.try_all(open, &mut done).await;
            }
            self.hold(link, &mut held, behind.iter()).await?;
        }
        self.acknowledge(link, &mut done).await
    }

    fn task(&self, message: &Message) -> Task {
        let request = match &message.values {
            Some(_) => self.place.config.reading.request(message).map(Box::new),
            None => Err(PassedOver::Deleted),
        };
        Task { id: message.id.clone(), request, doubtful: false }
    }

    /// Whether the next message behind one that fails can be dealt with. Then it was.
    async fn others_come_through(
        &self,
        link: &mut Link,
        behind: &mut VecDeque<Task>,
        done: &mut Vec<String>,
    ) -> Result<bool, Gone> {
        loop {
            if behind.is_empty() {
                let more = self.read(link, NEW, Duration::ZERO).await?;
                behind.extend(more.iter().map(|message| self.task(message)));
            }
            let Some(next) = behind.pop_front() else { return Ok(false) };
            let fate = self.doer.attempt(next.request.clone()).await;
            match self.settle(next, fate, done) {
                Tried::Done => return Ok(true),
                // It says nothing about the server.
                Tried::PassedOver => {}
                Tried::Open(task) => {
                    behind.push_front(task);
                    return Ok(false);
                }
            }
        }
    }

    /// Does what messages ask for. Those are left that have to be tried again.
    async fn try_all(&self, tasks: Vec<Task>, done: &mut Vec<String>) -> Vec<Task> {
        let mut fates = vec![None; tasks.len()];
        match &tasks[..] {
            [one] => fates[0] = Some(self.doer.attempt(one.request.clone()).await),
            several => {
                let mut running = JoinSet::new();
                for (place, task) in several.iter().enumerate() {
                    let (doer, request) = (self.doer.clone(), task.request.clone());
                    running.spawn(async move { (place, doer.attempt(request).await) });
                }
                while let Some(ended) = running.join_next().await {
                    // One that died is tried again.
                    if let Ok((place, fate)) = ended {
                        fates[place] = Some(fate);
                    }
                }
            }
        }
        let mut again = Vec::new();
        for (task, fate) in tasks.into_iter().zip(fates) {
            let tried = match fate {
                Some(fate) => self.settle(task, fate, done),
                None => Tried::Open(Task { doubtful: true, ..task }),
            };
            if let Tried::Open(task) = tried {
                again.push(task);
            }
        }
        again
    }

    fn settle(&self, task: Task, fate: Fate, done: &mut Vec<String>) -> Tried {
        let tried = match fate {
            Fate::Again(Rest { request, doubtful }) => {
                return Tried::Open(Task { request: Ok(request), doubtful, ..task });
            }
            Fate::Done => {
                self.doer.done();
                Tried::Done
            }
            // Whoever deleted it wanted nothing of it.
            Fate::PassedOver(PassedOver::Deleted) => {
                self.doer.done();
                Tried::PassedOver
            }
            Fate::PassedOver(why) => {
                self.doer.passed_over(&self.place.stream, &task.id, why.name());
                Tried::PassedOver
            }
        };
        done.push(task.id);
        tried
    }

    /// Keeps messages from others for another while, once half of their time is over.
    async fn hold<'a>(
        &self,
        link: &mut Link,
        held: &mut Instant,
        tasks: impl Iterator<Item = &'a Task>,
    ) -> Result<(), Gone> {
        let StreamReader { config, stream, node } = &self.place;
        if held.elapsed() < config.visibility / 2 {
            return Ok(());
        }
        let mut parts = vec!["XCLAIM", stream, &config.group, node, "0"];
        let fixed = parts.len();
        parts.extend(tasks.map(|task| task.id.as_str()));
        if parts.len() > fixed {
            parts.push("JUSTID");
            self.ask(link, &parts, Duration::ZERO, |_| ()).await?;
        }
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
        let StreamReader { stream, node, config } = &self.place;
        let from = format!("({behind}");
        let parts = ["XPENDING", stream, &config.group, &from, "+", "1", node];
        let first = |reply: &Reply<'_>| {
            let first = reply.list().and_then(|list| list.first()?.list());
            first.and_then(|entry| entry.first()?.str()).map(str::to_owned)
        };
        if let Some(id) = self.ask(link, &parts, Duration::ZERO, first).await? {
            self.doer.passed_over(stream, &id, PassedOver::TooLarge.name());
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

/// In front of all messages, and behind all that were read.
const START: &str = "0-0";
const NEW: &str = ">";

/// Messages read at once.
const BATCH: &str = "64";

/// How long the server waits for new messages.
const WAIT: Duration = Duration::from_secs(1);

/// How often is looked for what others have left.
const CLAIM_EVERY: Duration = Duration::from_secs(5);

/// How many questions for it, of 64 messages each, are asked at once.
const CLAIM_STEPS: u32 = 64;

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
}
