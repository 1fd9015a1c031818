//! The simulated broker's thread of one node: two connections to the server, which carry things in
//! order, break between sending and answering, and come back; and requests that come back because
//! their channel is on its way to another server.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ringhold::gateway::broker::{
    Fault, Happening, Life, Limits, Message, Outcome, Request, Scope, Ticket,
};

use super::moves::{Deaf, Moves};
use super::server::Server;

/// A request on its way.
#[derive(Debug)]
struct Job {
    core: usize,
    request: Request,
    ticket: Option<Ticket>,
    until: Duration,
}

/// What a core is to hear.
pub type Said = (usize, Happening);

pub struct Link {
    node: usize,
    pub limits: Limits,
    /// What the cores asked, and the thread has not read.
    queue: VecDeque<Job>,
    /// On its way to the server.
    sent: VecDeque<Job>,
    /// On its way back.
    replies: VecDeque<(Job, Outcome)>,
    /// What was under way when the connection broke.
    broken: VecDeque<Job>,
    /// What the server did not do, because the channel is apart; and what waits behind it.
    strays: VecDeque<Job>,
    /// How many there were.
    pub strayed: u64,
    /// Channels that have moved, and of which nothing comes until they are listened to again.
    deaf: Deaf,
    /// On its way from the server, in order: what is to be said to the channel's home.
    pushes: VecDeque<Push>,
    pub commands_up: bool,
    pub subs_up: bool,
    /// The server that the last connection for messages went to.
    run: Option<u64>,
    /// Unanswered requests by core.
    under_way: Vec<usize>,
    /// What was asked so far, by kind.
    pub asked: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
pub enum Push {
    Listening(Arc<str>),
    Message(Arc<str>, Message),
}

impl Link {
    pub fn new(node: usize, cores: usize, limits: Limits) -> Self {
        Self {
            node,
            limits,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            replies: VecDeque::new(),
            broken: VecDeque::new(),
            strays: VecDeque::new(),
            strayed: 0,
            deaf: Deaf::default(),
            pushes: VecDeque::new(),
            commands_up: false,
            subs_up: false,
            run: None,
            under_way: vec![0; cores],
            asked: BTreeMap::new(),
        }
    }

    /// A core asks.
    pub fn request(&mut self, core: usize, request: Request, now: Duration) -> Result<(), Request> {
        if self.under_way[core] >= self.limits.requests {
            return Err(request);
        }
        self.under_way[core] += 1;
        *self.asked.entry(request.name()).or_default() += 1;
        let ticket = request.ticket();
        self.queue.push_back(Job { core, request, ticket, until: now + self.limits.deadline });
        Ok(())
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.sent.is_empty()
            && self.replies.is_empty()
            && self.broken.is_empty()
            && self.strays.is_empty()
            && self.pushes.is_empty()
    }

    fn answer(&mut self, job: &Job, answer: Result<Outcome, Fault>) -> Option<Said> {
        self.under_way[job.core] -= 1;
        job.ticket.map(|ticket| (job.core, Happening::Answer(ticket, answer)))
    }

    /// Reads one request of a core.
    pub fn take(&mut self, server: &mut Server) -> Option<Said> {
        let job = self.queue.pop_front()?;
        match &job.request {
            Request::Listen(names) => {
                self.under_way[job.core] -= 1;
                let up = self.subs_up;
                for name in names.iter().filter(|name| up && !self.deaf.has(name)) {
                    server.subscribe(name, self.node);
                    self.pushes.push_back(Push::Listening(name.clone()));
                }
                None
            }
            Request::Ignore(names) => {
                self.under_way[job.core] -= 1;
                for name in names.iter().filter(|_| self.subs_up) {
                    server.unsubscribe(name, self.node);
                }
                None
            }
            _ if !self.commands_up => self.answer(&job, Err(Fault::Away)),
            _ => {
                self.sent.push_back(job);
                None
            }
        }
    }

    /// The next request reaches the server before the channels that were asked for ahead of it,
    /// which go over the other connection. False if there is none.
    pub fn overtake(&mut self) -> bool {
        let asks = |job: &Job| !matches!(job.request, Request::Listen(_) | Request::Ignore(_));
        let Some(place) = self.queue.iter().position(asks).filter(|_| self.commands_up) else {
            return false;
        };
        self.sent.extend(self.queue.remove(place));
        true
    }

    /// Requests that the server has and has not done.
    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    /// The server does one request, or sends it back. Gives what it passes on.
    pub fn execute(&mut self, server: &mut Server, now: Duration) -> Option<(Arc<str>, Message)> {
        let job = self.sent.pop_front()?;
        if self.must_wait(&job, self.strays.len(), &server.slots) {
            self.strayed += 1;
            self.strays.push_back(job);
            return None;
        }
        self.perform(job, server, now)
    }

    fn perform(
        &mut self,
        job: Job,
        server: &mut Server,
        now: Duration,
    ) -> Option<(Arc<str>, Message)> {
        let (outcome, passed) = server.execute(&job.request, self.node, now);
        self.replies.push_back((job, outcome));
        passed
    }

    /// Whether a channel of this request is apart, or one of those before it waits.
    fn must_wait(&self, job: &Job, before: usize, moves: &Moves) -> bool {
        let waits = |channel: &str| {
            let same = |it: &Job| it.request.channel().is_some_and(|of| **of == *channel);
            moves.is_apart(channel) || self.strays.iter().take(before).any(same)
        };
        match &job.request {
            Request::Positions(_, tops) => tops.iter().any(|top| moves.is_apart(&top.channel)),
            request => request.channel().is_some_and(|channel| waits(channel)),
        }
    }

    /// One of those that came back is asked again, if there is one whose turn it is.
    pub fn retry(&mut self, server: &mut Server, now: Duration) -> Option<(Arc<str>, Message)> {
        if !self.commands_up {
            return None;
        }
        let is_free = |place: &usize| !self.must_wait(&self.strays[*place], *place, &server.slots);
        let place = (0..self.strays.len()).find(is_free)?;
        let job = self.strays.remove(place)?;
        self.perform(job, server, now)
    }

    /// A channel has another server: what comes from the old one is not minded any more.
    pub fn hear_of_move(
        &mut self,
        channel: &str,
        life: Life,
        server: &mut Server,
    ) -> Option<Happening> {
        if !self.subs_up {
            return None;
        }
        server.unsubscribe(channel, self.node);
        self.pushes.retain(|push| match push {
            Push::Listening(name) | Push::Message(name, _) => **name != *channel,
        });
        Some(Happening::Deaf(self.deaf.add(channel, life)))
    }

    /// One of such channels can be listened to again.
    pub fn end_move(&mut self, number: usize) -> Option<Happening> {
        self.deaf.end(number).map(|(scope, life)| Happening::Back(scope, life))
    }

    /// One reply arrives.
    pub fn reply(&mut self) -> Option<Said> {
        let (job, outcome) = self.replies.pop_front()?;
        self.answer(&job, Ok(outcome))
    }

    pub fn push(&mut self, push: Push) {
        self.pushes.push_back(push);
    }

    /// One message arrives.
    pub fn pushed(&mut self) -> Option<Push> {
        self.pushes.pop_front()
    }

    /// A message overtakes another.
    pub fn swap(&mut self, place: usize) {
        let (one, other) = (place, place + 1);
        if other < self.pushes.len()
            && let (Push::Message(..), Push::Message(..)) = (&self.pushes[one], &self.pushes[other])
        {
            self.pushes.swap(one, other);
        }
    }

    pub fn pushes(&self) -> usize {
        self.pushes.len()
    }

    /// Answers what has waited too long. What is sent may still be done.
    pub fn expire(&mut self, now: Duration) -> Vec<Said> {
        let mut said = Vec::new();
        let late = |job: &mut Job| match job.until <= now {
            true => job.ticket.take().map(|ticket| (job.core, ticket)),
            false => None,
        };
        let replies = self.replies.iter_mut().map(|(job, _)| job);
        let all = self.sent.iter_mut().chain(replies);
        let all = all.chain(&mut self.broken).chain(&mut self.strays);
        for (core, ticket) in all.filter_map(late) {
            said.push((core, Happening::Answer(ticket, Err(Fault::Late))));
        }
        let Self { broken, strays, under_way, .. } = self;
        // What came back for nobody is not asked for again and again either.
        for waiting in [broken, strays] {
            waiting.retain(|job| {
                let over = job.until <= now;
                under_way[job.core] -= usize::from(over);
                !over
            });
        }
        said
    }

    /// The connection for requests breaks. Some of what was sent is done all the same.
    pub fn drop_commands(
        &mut self,
        server: &mut Server,
        done: usize,
        now: Duration,
    ) -> Vec<(Arc<str>, Message)> {
        let mut passed = Vec::new();
        self.commands_up = false;
        for _ in 0..done {
            passed.extend(self.execute(server, now));
        }
        let replies = std::mem::take(&mut self.replies);
        let unsent = std::mem::take(&mut self.sent);
        let all: Vec<_> = replies.into_iter().map(|(job, _)| job).chain(unsent).collect();
        for job in all {
            match job.ticket {
                Some(_) => self.broken.push_back(job),
                // Nobody waits for it.
                None => self.under_way[job.core] -= 1,
            }
        }
        passed
    }

    /// There is one again: what is unknown is found out, or done again, in order.
    pub fn connect_commands(&mut self, server: &mut Server, now: Duration) -> Vec<Said> {
        let mut said = self.expire(now);
        self.commands_up = true;
        for job in std::mem::take(&mut self.broken) {
            let Request::Publish(_, publish) = &job.request else {
                self.sent.push_back(job);
                continue;
            };
            if !publish.idempotency_key.is_empty() {
                self.sent.push_back(job);
                continue;
            }
            if publish.stream.is_none() {
                said.extend(self.answer(&job, Err(Fault::Unknown)));
                continue;
            }
            let mark = (self.node, publish.sequence);
            match server.find(&publish.channel, mark, now) {
                Some(position) => {
                    let position = Some(position);
                    let found = Outcome::Published { position, suppressed: false };
                    said.extend(self.answer(&job, Ok(found)));
                }
                None => self.sent.push_back(job),
            }
        }
        said
    }

    /// The connection for messages breaks, and what was under way is lost.
    pub fn drop_subs(&mut self, server: &mut Server) -> Happening {
        self.subs_up = false;
        server.forget(self.node);
        self.pushes.clear();
        self.deaf.clear();
        Happening::Deaf(Scope::All)
    }

    pub fn connect_subs(&mut self, server: &Server) -> Happening {
        self.subs_up = true;
        let life = match self.run {
            Some(run) if run != server.run => Life::Other,
            _ => Life::Same,
        };
        self.run = Some(server.run);
        Happening::Back(Scope::All, life)
    }
}
