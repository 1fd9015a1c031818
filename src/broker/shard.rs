//! One server: a connection for commands, one for what is published, and what the cores hear of
//! both.
//!
//! Owns when the cores are told [`Happening::Deaf`] and [`Happening::Back`]: deaf when the
//! connection that brings messages is lost; back when both are there and lead to the same run of
//! the same server. The invariant: one turn reads each socket once and works it off, then posts, so
//! neither connection keeps the other waiting; nothing but the sockets and the clock makes it wait.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::Sleep;

use super::bus::{Bus, Told};
use super::cluster::Cluster;
use super::dial::{Identity, Purpose};
use super::diary::Diary;
use super::link::Lost;
use super::listening::{Listening, Piece};
use super::places::Owned;
use super::post::Post;
use super::requests::Dialect;
use super::side::{LinkEvent, Side};
use super::tally::{Condition, Tally};
use super::target::Target;
use super::work::{Job, Work};
use crate::broker::server::RedisPlace;
use crate::gateway::broker::{Happening, Life, Scope};

/// What comes to a shard from the cores, within the thread.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: RefCell<Arrived>,
}

#[derive(Debug, Default)]
struct Arrived {
    jobs: VecDeque<Box<Job>>,
    pieces: VecDeque<Piece>,
    told: VecDeque<Told>,
    /// Where the server is, as Sentinels say.
    moved: Option<RedisPlace>,
    /// Some of its channels may be another node's by now.
    shed: bool,
    /// Channels that have become its own, and what is believed of their histories.
    gained: Vec<(Scope, Life)>,
    /// What nodes tell each other comes here, and not to another node of the cluster.
    appointed: bool,
    ending: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// A request.
    pub(super) fn job(&self, job: Box<Job>) {
        self.state.borrow_mut().jobs.push_back(job);
    }

    /// Channels to begin or end to listen to.
    pub(super) fn piece(&self, piece: Piece) {
        self.state.borrow_mut().pieces.push_back(piece);
    }

    /// A message to other nodes.
    pub(super) fn tell(&self, told: Told) {
        self.state.borrow_mut().told.push_back(told);
    }

    /// The server is there, as its Sentinels say.
    pub(super) fn moved(&self, place: RedisPlace) {
        self.state.borrow_mut().moved = Some(place);
    }

    /// Some of its channels may be another node's by now.
    pub(super) fn shed(&self) {
        self.state.borrow_mut().shed = true;
    }

    /// Channels of another node of the cluster are its own from now on.
    pub(super) fn gained(&self, scope: Scope, life: Life) {
        self.state.borrow_mut().gained.push((scope, life));
    }

    /// Of these the cores were not told that they can be listened to here.
    pub(super) fn take_gained(&self) -> Vec<(Scope, Life)> {
        std::mem::take(&mut self.state.borrow_mut().gained)
    }

    /// Whether what nodes tell each other comes here.
    pub(super) fn appoint(&self, yes: bool) {
        self.state.borrow_mut().appointed = yes;
    }

    /// There will be no more.
    pub(super) fn end(&self) {
        self.state.borrow_mut().ending = true;
    }

    /// Whether anything has come that every kind of shard has to look at, or the end; `is_idle`:
    /// nothing is unanswered. If not, the next wakes whoever polls.
    pub(super) fn poll(&self, is_idle: bool, cx: &mut Context<'_>) -> bool {
        let mut arrived = self.state.borrow_mut();
        let some = !arrived.jobs.is_empty()
            || !arrived.pieces.is_empty()
            || !arrived.told.is_empty()
            || arrived.ending && is_idle;
        if !some {
            arrived.waker = Some(cx.waker().clone());
        }
        some
    }

    /// Hands all of that on. Whether there will be no more.
    pub(super) fn hand_on(&self, work: &mut Work, listening: Option<&mut Listening>) -> bool {
        let mut arrived = self.state.borrow_mut();
        let pieces = arrived.pieces.drain(..);
        // What nobody listens to is asked for anew when there is a connection.
        match listening {
            Some(listening) => pieces.for_each(|piece| listening.submit(piece)),
            None => drop(pieces),
        }
        arrived.jobs.drain(..).for_each(|job| work.submit(job));
        arrived.told.drain(..).for_each(|told| work.tell(told));
        arrived.ending
    }

    /// Wakes the shard.
    pub(super) fn ring(&self) {
        if let Some(waker) = self.state.borrow_mut().waker.take() {
            waker.wake();
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Shard {
    inbox: Rc<Inbox>,
    commands: Side,
    messages: Side,
    work: Work,
    listening: Listening,
    dialect: Rc<Dialect>,
    post: Rc<Post>,
    bus: Arc<Bus>,
    tally: Arc<Tally>,
    diary: Diary,
    /// Where the server is, as Sentinels said last.
    primary: Option<RedisPlace>,
    /// `io_timeout`.
    patience: Duration,
    /// Its channels.
    scope: Scope,
    /// What is believed of another run.
    other: Life,
    /// The cluster that the server is a node of.
    cluster: Option<Membership>,
    /// The run that the cores were told of last; nothing: none yet.
    run: Option<Option<String>>,
    /// Both connections are there.
    is_up: bool,
    /// The cores were told so.
    told: bool,
    timer: Pin<Box<Sleep>>,
    /// When a full mailbox is tried again.
    retry: Option<Instant>,
    /// Messages are wanted, too.
    listens: bool,
}

/// What a shard is made of.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// How requests are written.
    pub(super) dialect: Rc<Dialect>,
    /// The way to the cores.
    pub(super) post: Rc<Post>,
    /// The way to other nodes.
    pub(super) bus: Arc<Bus>,
    /// What is counted.
    pub(super) tally: Arc<Tally>,
    /// How it is with the server.
    pub(super) condition: Arc<Condition>,
    /// Its channels.
    pub(super) scope: Scope,
    /// What is believed of another run: [`Life::Other`] or [`Life::Lost`].
    pub(super) other: Life,
    /// The cluster that the server is a node of.
    pub(super) cluster: Option<Membership>,
    /// Messages are wanted, too, and cores are told when they cannot come.
    pub(super) listens: bool,
}

/// A node's place in its cluster.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) cluster: Rc<Cluster>,
    /// The node's slots.
    pub(super) owned: Arc<Owned>,
}

/// A server that says nothing for so long is asked whether it is there.
pub(super) const SILENCE: Duration = Duration::from_secs(5);

/// What one turn has found.
#[derive(Debug, Default)]
struct Found {
    commands: Option<LinkEvent>,
    messages: Option<LinkEvent>,
}

impl Shard {
    /// Of this server. Connects when it runs.
    pub(super) fn new(target: Target, inbox: Rc<Inbox>, parts: Parts) -> Self {
        let Parts { dialect, post, bus, tally, condition, scope, other, cluster, listens } = parts;
        let patience = target.server.io_timeout;
        let place = target.server.place.to_string();
        let target = Rc::new(target);
        let mut work = Work::new(post.clone(), tally.clone(), dialect.clone(), patience);
        let mut listening = Listening::new(post.clone(), bus.clone(), tally.clone(), patience);
        if cluster.is_some() {
            work = work.in_cluster();
            listening = listening.in_cluster(scope.clone());
        }
        Self {
            inbox,
            commands: Side::new(target.clone(), Purpose::Commands),
            messages: match listens {
                true => Side::new(target, Purpose::Messages),
                false => Side::unwanted(),
            },
            work,
            listening,
            dialect,
            post,
            bus,
            diary: Diary::new(place, condition, tally.clone()),
            tally,
            primary: None,
            patience,
            scope,
            other,
            cluster,
            run: None,
            is_up: false,
            told: false,
            timer: Box::pin(tokio::time::sleep(SILENCE)),
            retry: None,
            listens,
        }
    }

    /// Serves until the inbox ends and all that came is answered.
    pub(super) async fn run(mut self) {
        loop {
            let found = poll_fn(|cx| self.poll(cx)).await;
            let now = Instant::now();
            if let Some(turn) = found.messages {
                self.on_messages(turn, now);
            }
            if let Some(turn) = found.commands {
                self.on_commands(turn, now);
            }
            let moved = self.inbox.state.borrow_mut().moved.take();
            if let Some(place) = moved {
                self.on_moved(place, now);
            }
            let ending = self.take_in();
            self.reunite();
            self.tell_gained();
            self.send(now);
            self.check_time(now);
            if let Some(Membership { cluster, .. }) = &self.cluster {
                let strays = self.work.take_strays();
                strays.into_iter().for_each(|(job, why)| cluster.stray(job, why));
                cluster.lose(&self.listening.take_lost());
            }
            self.retry = self.post.flush(now);
            if ending && self.work.is_empty() {
                return;
            }
            self.set_timer(now);
        }
    }

    /// Looks at everything that may have happened.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Found> {
        let mut found = Found::default();
        if let Poll::Ready(turn) = self.messages.poll(cx) {
            found.messages = Some(turn);
        }
        if let Poll::Ready(turn) = self.commands.poll(cx) {
            found.commands = Some(turn);
        }
        let late = self.timer.as_mut().poll(cx).is_ready();
        // Ending is looked at in the turn that it causes; what is unanswered then has deadlines.
        let some = self.inbox.poll(self.work.is_empty(), cx);
        let arrived = self.inbox.state.borrow();
        let more =
            arrived.moved.is_some() || arrived.shed || !arrived.gained.is_empty() && self.told;
        if some || more || late || found.commands.is_some() || found.messages.is_some() {
            return Poll::Ready(found);
        }
        Poll::Pending
    }

    fn take_in(&mut self) -> bool {
        let is_up = self.messages.up().is_some();
        let ending = self.inbox.hand_on(&mut self.work, is_up.then_some(&mut self.listening));
        let shed = std::mem::take(&mut self.inbox.state.borrow_mut().shed);
        if let Some(Membership { owned, .. }) = self.cluster.as_ref().filter(|_| shed) {
            self.work.shed(|job| owned.takes(job));
        }
        ending
    }

    /// Cores hear of channels that have become this node's own, once it is there.
    fn tell_gained(&mut self) {
        if !self.told {
            return;
        }
        for (scope, life) in self.inbox.take_gained() {
            self.post.tell_all(&Happening::Back(scope, life));
        }
    }

    fn on_commands(&mut self, turn: LinkEvent, now: Instant) {
        match turn {
            LinkEvent::Made(identity) => {
                self.work.back();
                self.made("commands", &identity);
            }
            LinkEvent::Failed(error) => {
                self.failed("commands", error.name(), &error.to_string(), now);
                self.work.away();
            }
            LinkEvent::Received => {
                let Self { commands, work, .. } = self;
                let Some(up) = commands.up() else { return };
                if let Err(lost) = up.link.replies(now, |reply| work.reply(&reply, now)) {
                    self.lose_commands(&lost, now);
                }
            }
            LinkEvent::Lost(lost) => self.lose_commands(&lost, now),
        }
    }

    fn on_messages(&mut self, turn: LinkEvent, now: Instant) {
        match turn {
            LinkEvent::Made(identity) => self.made("messages", &identity),
            LinkEvent::Failed(error) => {
                self.failed("messages", error.name(), &error.to_string(), now);
            }
            LinkEvent::Received => {
                let Self { messages, listening, dialect, .. } = self;
                let Some(up) = messages.up() else { return };
                let layout = &dialect.layout;
                let read = up.link.replies(now, |reply| listening.reply(&reply, layout, now));
                if let Err(lost) = read {
                    self.lose_messages(&lost, now);
                }
            }
            LinkEvent::Lost(lost) => self.lose_messages(&lost, now),
        }
    }

    /// Sentinels say where the server is. Connections that lead elsewhere are of no use any more,
    /// whatever their server still says of itself.
    fn on_moved(&mut self, place: RedisPlace, now: Instant) {
        let changed = self.primary.as_ref() != Some(&place);
        if let Some(before) = self.primary.replace(place.clone()).filter(|_| changed) {
            self.tally.switches.add(1);
            let server = self.diary.place();
            tracing::info!(server, %before, now = %place, "Sentinels name another");
        }
        let elsewhere = |side: &Side| side.identity().is_some_and(|it| it.place != place);
        if elsewhere(&self.commands) {
            self.lose_commands(&Lost::Moved, now);
        }
        if elsewhere(&self.messages) {
            self.lose_messages(&Lost::Moved, now);
        }
        if changed {
            // Attempts that are under way may lead to the old place, or wait.
            self.commands.hurry();
            self.messages.hurry();
        }
    }

    fn made(&mut self, purpose: &'static str, identity: &Identity) {
        self.diary.made(purpose, &identity.version);
    }

    fn failed(&mut self, purpose: &'static str, name: &'static str, what: &str, now: Instant) {
        self.diary.failed(purpose, name, what, now);
        self.is_down();
    }

    fn lose_commands(&mut self, lost: &Lost, now: Instant) {
        self.lose("commands", lost, now);
        self.commands.drop_link();
        self.work.lost(now);
    }

    fn lose_messages(&mut self, lost: &Lost, now: Instant) {
        self.lose("messages", lost, now);
        self.messages.drop_link();
        self.listening.lost();
        self.told = false;
        self.post.tell_all(&Happening::Deaf(self.scope.clone()));
    }

    fn lose(&mut self, purpose: &'static str, lost: &Lost, now: Instant) {
        self.diary.lost(purpose, lost, now);
        self.is_down();
    }

    fn is_down(&mut self) {
        self.is_up = false;
        if let Some(Membership { cluster, .. }) = &self.cluster {
            cluster.changed();
        }
    }

    /// Whether both connections lead to the same run; then the cores hear of it.
    fn reunite(&mut self) {
        if self.is_up {
            return;
        }
        let messages = match self.listens {
            true => self.messages.identity(),
            false => self.commands.identity(),
        };
        let Some((commands, messages)) = self.commands.identity().zip(messages) else { return };
        if commands.run_id != messages.run_id {
            // One of them is behind the times. Which one shows when both are made anew.
            let now = Instant::now();
            self.lose_commands(&Lost::Moved, now);
            self.lose_messages(&Lost::Moved, now);
            return;
        }
        let (run, version) = (commands.run_id.clone(), commands.version.clone());
        self.diary.well(&version);
        self.is_up = true;
        if let Some(Membership { cluster, .. }) = &self.cluster {
            cluster.changed();
        }
        if self.told {
            return;
        }
        let life = match &self.run {
            None => Life::Same,
            Some(before) if before.is_some() && *before == run => Life::Same,
            Some(_) => self.other,
        };
        (self.told, self.run) = (true, Some(run));
        // What others had before is doubted more, and so comes first.
        self.tell_gained();
        let server = self.diary.place();
        tracing::info!(server, %version, ?life, "the broker is there");
        self.post.tell_all(&Happening::Back(self.scope.clone(), life));
        if self.listens {
            // Others may have given this node up.
            self.bus.greet(None);
        }
    }

    fn send(&mut self, now: Instant) {
        let Self { commands, messages, work, listening, dialect, .. } = self;
        if commands.up().is_none() {
            work.drop_told();
        }
        if let Some(up) = commands.up() {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            work.send(up.link.output(), now, unix);
            if work.is_settled() && up.link.heard() + SILENCE <= now {
                work.ping(up.link.output(), now);
            }
        }
        if let Some(up) = messages.up() {
            let appointed = self.cluster.is_none() || self.inbox.state.borrow().appointed;
            listening.appoint(appointed, up.link.output(), &dialect.layout, now);
            listening.send(up.link.output(), &dialect.layout, now);
            if !listening.is_pinged() && up.link.heard() + SILENCE <= now {
                listening.ping(up.link.output(), now);
            }
        }
    }

    fn check_time(&mut self, now: Instant) {
        if self.work.expire(now) {
            self.lose_commands(&Lost::Silent(self.patience), now);
        }
        if self.listening.deadline().is_some_and(|at| at <= now) {
            self.lose_messages(&Lost::Silent(self.patience), now);
        }
    }

    fn set_timer(&mut self, now: Instant) {
        let silence = [self.commands.up(), self.messages.up()]
            .map(|up| up.map(|up| up.link.heard() + SILENCE));
        let deadlines = [self.work.deadline(), self.listening.deadline(), self.retry];
        let next = silence.into_iter().chain(deadlines).flatten().filter(|at| *at > now).min();
        let next = next.unwrap_or(now + SILENCE);
        self.timer.as_mut().reset(next.into());
    }
}
