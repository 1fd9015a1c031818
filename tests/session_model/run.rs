//! A world, and what happens in it, drawn from a seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold::gateway::letters::Answer;
use ringhold::gateway::wire::Error;
use ringhold::internals::rng::Rng;
use serde_json::Value;

use super::conn::{Cmd, Conn, Places, What};
use super::plan::Plan;
use super::posts::Post;
use super::truth::{Channel, Publication};
use super::watch::ShownMembers;
use crate::site::{Asked, BEGINNING, Site};

/// What happens in one world.
const STEPS: u32 = 160;

/// How often something was met. A model that never meets something checks nothing of it.
#[derive(Clone, Debug, Default)]
pub struct Covered(pub BTreeMap<&'static str, u64>);

impl Covered {
    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, count)| *self.0.entry(what).or_default() += count);
    }

    /// All that is listed was met so often.
    pub fn check(&self, floors: &[(&str, u64)]) {
        let of = |what: &str| self.0.get(what).copied().unwrap_or(0);
        let few: Vec<_> = floors.iter().filter(|(what, floor)| of(what) < *floor).collect();
        assert!(few.is_empty(), "too little was met: {few:?} of {self:?}");
        let known = |what: &&str| floors.iter().any(|(of, _)| of == what);
        let unknown: Vec<_> = self.0.keys().filter(|what| !known(what)).collect();
        assert!(unknown.is_empty(), "no floors: {unknown:?}");
    }
}

/// What the server API does with a user's connections.
#[derive(Clone, Debug)]
pub enum Does {
    Subscribe { channel: String, expire_at: i64, info: Value },
    Unsubscribe { channel: Option<String> },
    Disconnect,
    Refresh { expired: bool, expire_at: i64, info: Value },
}

#[derive(Debug)]
pub struct Order {
    pub given: u64,
    /// Unix time in seconds.
    pub given_at: i64,
    pub user: String,
    pub client: Option<String>,
    pub spare: Vec<String>,
    pub does: Does,
    pub done: Arc<AtomicBool>,
    /// The step at which that was seen.
    pub done_at: Option<u64>,
    /// Connections and channels in which it showed.
    pub shown: Vec<(usize, String)>,
    /// Connections in which it has to show, and of which channel.
    pub owed: Vec<(usize, String, u64)>,
    /// Connections that were not open when it was given.
    pub connecting: Vec<usize>,
}

/// A question to the backend.
pub struct Question {
    pub asked: Option<Asked>,
    pub conn: usize,
    pub about: About,
    pub step: u64,
    /// The step at which it was answered; 0: not yet.
    pub answered: u64,
    /// What was answered, if anything was.
    pub said: Option<Said>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum About {
    /// A command, by its id.
    Command(u64),
    /// The connection's stay.
    Stay,
    /// That of a subscription.
    Sub(String, u64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// It may; until then (Unix seconds; 0 is for ever), and what the client gets with it.
    Yes {
        expire_at: i64,
        data: Value,
        info: Value,
        user: String,
        channels: Vec<String>,
    },
    Error(u64),
    Close(u16, String),
    /// Of a connect: nobody in particular.
    Nobody,
}

/// A call of the server API.
pub type Slot = Arc<Mutex<Option<Result<Answer, Error>>>>;

pub enum Called {
    Publish(usize),
    Remove(String),
}

pub struct Run {
    pub site: Site,
    pub rng: Rng,
    pub plan: Plan,
    pub channels: Vec<String>,
    pub conns: Vec<Conn>,
    pub orders: Vec<Order>,
    pub pubs: Vec<Publication>,
    pub streams: BTreeMap<String, Channel>,
    pub questions: Vec<Question>,
    pub calls: Vec<(Called, Slot)>,
    /// By user and channel: where it was.
    pub known: BTreeMap<(String, String), (u64, String)>,
    pub step: u64,
    /// The step of the last rest, when all had happened that could.
    pub rested: u64,
    pub rested_ms: u64,
    /// When clients looked last.
    pub looked_ms: u64,
    pub uid: u64,
    pub covered: Covered,
    pub trace: bool,
    pub drained: bool,
    /// How many turns each core has taken, at least.
    pub turns: Vec<u64>,
    /// Posts on their way, by the connection's place and the numbers of its commands.
    pub mail: Vec<(usize, Vec<u64>, String)>,
    /// Posts without an answer.
    pub posts: Vec<Post>,
    /// Questions of connections whose connect reply was not read.
    pub early: std::collections::VecDeque<Asked>,
    /// Ids of events, and where their clients were by then.
    pub ids: Vec<(String, Places)>,
    /// Subscriptions in whose time a stream's life has ended, which they keep up.
    pub released: Vec<(String, usize, u64)>,
    /// Answers about members that were not compared yet.
    pub shown: Vec<ShownMembers>,
}

impl Run {
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5e55);
        let plan = Plan::draw(&mut rng);
        if trace {
            println!("{plan:#?}");
        }
        let site = Site::with_cores(plan.cores, &plan.toml());
        let channels = plan.channels();
        let turns = vec![0; plan.cores];
        Self {
            site,
            rng,
            channels,
            plan,
            conns: Vec::new(),
            orders: Vec::new(),
            pubs: Vec::new(),
            streams: BTreeMap::new(),
            questions: Vec::new(),
            calls: Vec::new(),
            known: BTreeMap::new(),
            step: 1,
            rested: 1,
            rested_ms: 0,
            looked_ms: 0,
            uid: 0,
            covered: Covered::default(),
            trace,
            drained: false,
            turns,
            mail: Vec::new(),
            posts: Vec::new(),
            early: std::collections::VecDeque::new(),
            ids: Vec::new(),
            released: Vec::new(),
            shown: Vec::new(),
        }
    }

    pub fn run(mut self) -> Covered {
        for _ in 0..STEPS {
            self.step += 1;
            if self.deliver() && self.plan.calm {
                self.rest();
            }
            self.act();
            if self.plan.calm {
                self.rest();
                continue;
            }
            for _ in 0..self.rng.below(4) {
                let core = self.core();
                self.turn(core);
            }
            if self.rng.one_in(5) {
                // One core is ahead of the others.
                let core = self.core();
                (0..8).for_each(|_| self.turn(core));
            }
            self.look();
            if self.rng.one_in(7) {
                self.rest();
            }
        }
        self.rest();
        self.end();
        self.covered
    }

    /// Whether what a connection hears was said just now, and nothing else happened meanwhile.
    pub fn is_exact(&self, place: usize) -> bool {
        self.plan.calm && !self.plan.lossy && !self.conns[place].lags
    }

    /// Any core.
    pub fn core(&mut self) -> usize {
        self.rng.below(self.plan.cores as u32) as usize
    }

    fn turn(&mut self, core: usize) {
        self.site.turn(core);
        self.turns[core] += 1;
    }

    /// Whether a connection's commands go one after the other, as they were sent.
    pub fn in_order(&self, place: usize) -> bool {
        self.plan.at_once() == 1 && !self.conns[place].way.is_emulated()
    }

    pub fn met(&mut self, what: &'static str) {
        *self.covered.0.entry(what).or_default() += 1;
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>5} {:>7} ms  {}", self.step, self.now(), what());
        }
    }

    /// Milliseconds since the world began.
    pub fn now(&self) -> u64 {
        self.site.time().as_millis() as u64
    }

    /// Unix time in seconds.
    pub fn unix(&self) -> i64 {
        BEGINNING + (self.now() / 1000) as i64
    }

    /// A moment in Unix seconds, in milliseconds since the world began.
    pub fn ms_of(unix: i64) -> u64 {
        u64::try_from((unix - BEGINNING) * 1000).unwrap_or(0)
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.rng.below(of.len() as u32) as usize].clone()
    }

    pub fn channel(&mut self) -> String {
        let all = self.channels.clone();
        self.pick(&all)
    }

    pub fn stream(&mut self, channel: &str) -> &mut Channel {
        let history = self.plan.space(channel).and_then(|space| space.history);
        let ttl_ms = history.map_or(0, |(_, ttl)| ttl * 1000);
        let new = || Channel { ttl_ms, ..Channel::default() };
        self.streams.entry(channel.to_owned()).or_insert_with(new)
    }

    /// Whether somebody holds on to a channel's stream.
    pub fn is_listened(&self, channel: &str) -> bool {
        !self.holders(channel).is_empty()
    }

    /// Who does, and by which subscription; each may have ended without that it was read yet.
    fn holders(&self, channel: &str) -> Vec<(usize, u64)> {
        let holds = |(place, conn): (usize, &Conn)| {
            let leaves = |cmd: &Cmd| matches!(&cmd.what, What::Unsubscribe(it) if it == channel);
            let sure = !conn.lags && !conn.cmds.iter().any(leaves) && !conn.client.is_ended();
            let sub = conn.subs.get(channel).filter(|sub| sub.mode.positioned);
            sub.filter(|_| sure && conn.is_open()).map(|sub| (place, sub.uid))
        };
        self.conns.iter().enumerate().filter_map(holds).collect()
    }

    /// A stream shows its epoch.
    pub fn shows(&mut self, channel: &str, epoch: &str) {
        let (now, holders) = (self.now(), self.holders(channel));
        let meta = self.plan.space(channel).map_or(0, |space| space.meta_seconds);
        // It may have been used as soon as clients had looked before this.
        let since = self.looked_ms;
        if self.stream(channel).shows(epoch, (since, now), meta) {
            // They must have ended before.
            let ended = holders.into_iter().map(|(place, uid)| (channel.to_owned(), place, uid));
            self.released.extend(ended);
        }
    }

    /// Whether a stream's life may have ended, since nobody has used it for long.
    pub fn may_be_over(&mut self, channel: &str) -> bool {
        let (now, listened) = (self.now(), self.is_listened(channel));
        let meta = self.plan.space(channel).map_or(0, |space| space.meta_seconds);
        let used = self.stream(channel).used_ms;
        meta > 0 && now + 50 >= used + meta * 1000 && !listened
    }

    /// A client has published there, and nobody else did at the time.
    pub fn grew(&mut self, channel: &str, number: usize) {
        let (now, over) = (self.now(), self.may_be_over(channel));
        let looked = self.looked_ms;
        let stream = self.stream(channel);
        if over || stream.unsure || stream.epoch.is_empty() {
            stream.unsure = true;
        } else {
            stream.grows(number, now);
            stream.used_ms = stream.used_ms.max(looked);
        }
    }

    /// Reads what has come.
    pub fn look(&mut self) {
        for place in 0..self.conns.len() {
            if self.conns[place].reads {
                self.read(place);
            }
        }
        self.compare_shown();
        self.hear_backend();
        self.hear_posts();
        let calls = std::mem::take(&mut self.calls);
        for (called, slot) in calls {
            let answer = slot.lock().expect("no panic").take();
            match answer {
                Some(answer) => self.called(called, answer),
                None => self.calls.push((called, slot)),
            }
        }
        self.looked_ms = self.now();
        self.step += 1;
        let step = self.step;
        for order in self.orders.iter_mut().filter(|order| order.done_at.is_none()) {
            order.done_at = order.done.load(Ordering::Relaxed).then_some(step);
        }
    }

    /// What the server API was answered.
    fn called(&mut self, called: Called, answer: Result<Answer, Error>) {
        self.step += 1;
        match (called, answer) {
            (Called::Publish(number), Ok(Answer::Published { position, suppressed, .. })) => {
                let channel = self.pubs[number].channel.clone();
                let fate =
                    if suppressed { super::truth::Fate::Not } else { super::truth::Fate::Out };
                (self.pubs[number].done, self.pubs[number].fate) = (Some(self.step), fate);
                let keeps = self.plan.space(&channel).is_some_and(|it| it.history.is_some());
                assert_eq!(position.is_some(), keeps, "{channel}");
                if let Some(position) = position {
                    self.shows(&channel, position.epoch.as_str());
                    if !suppressed {
                        let now = self.now();
                        self.stream(&channel).place(position.offset, number, now);
                    }
                }
                self.met(if suppressed { "suppressed" } else { "published by API" });
            }
            (Called::Remove(channel), Ok(Answer::Done)) => {
                let calm = self.plan.calm;
                let stream = self.stream(&channel);
                stream.removing = !calm;
                stream.remove();
                self.met("history removed");
            }
            (Called::Publish(number), Err(error)) => {
                assert!(self.plan.lossy || self.drained, "{error}");
                self.pubs[number].done = Some(self.step);
                self.pubs[number].fate = super::truth::Fate::Not;
            }
            (Called::Remove(_), Err(error)) => assert!(self.plan.lossy || self.drained, "{error}"),
            (_, Ok(other)) => panic!("another answer: {other:?}"),
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.site.advance(time);
    }
}
