//! Requests to one server that are not answered yet: those that wait for a connection, and those
//! that were sent.
//!
//! Owns their order and their ends: each is answered once, by its result or by a fault. Knows no
//! socket. The invariant: what was sent is ahead of what waits, also after a connection broke and
//! what was sent waits again, so that requests about one channel take effect in their order.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answers::{Gathered, Trouble, Why};
use super::bus::{Room, Told};
use super::dial;
use super::join::{Joined, Part, settle};
use super::link::Lost;
use super::places::Lane;
use super::post::Post;
use super::queue::Taken;
use super::resp::{Reply, command};
use super::scripts::Script;
use super::tally::Tally;
use super::tongue::{Asked, Joins, Tongue};
use crate::gateway::broker::{Fault, Happening, Outcome, Request, TopOf};

/// A request and what came of it so far.
#[derive(Debug)]
pub(super) struct Job {
    taken: Taken,
    /// A part of what a core wants, which asked several servers.
    part: Option<Part>,
    /// It was sent before, and may have been done.
    again: bool,
    /// Times that the server had forgotten its script.
    forgotten: u8,
    /// Replies that it has in all.
    replies: usize,
    gathered: Gathered,
    /// A cluster's node takes it although the slot is still on its way there.
    asking: bool,
    /// Replies to come that say only so.
    asked: usize,
    /// A reply says that it has to be asked elsewhere, or later.
    why: Option<Why>,
    /// Its place among those of a cluster.
    number: u64,
    /// It is with a node of a cluster.
    flight: Option<Flight>,
}

/// Requests that are with nodes of a cluster: of each lane with which one, and how many.
pub(super) type Flights = Rc<RefCell<HashMap<Lane, (Arc<str>, usize)>>>;

/// One of them, until it is answered or comes back.
#[derive(Debug)]
struct Flight {
    all: Flights,
    lane: Lane,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut all = self.all.borrow_mut();
        if let Some((_, count)) = all.get_mut(&self.lane) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.lane);
            }
        }
    }
}

/// What was sent.
#[derive(Debug)]
pub(super) enum Sent {
    Job(Box<Job>),
    /// Several that have one reply, a list.
    #[allow(clippy::vec_box, reason = "each goes on in the box that it is in")]
    Joined(Vec<Box<Job>>),
    /// A script, of which the server says only that it is there.
    Script,
    /// To hear whether somebody is there.
    Ping(Instant),
    /// A message to other nodes, and what it counts.
    Told {
        at: Instant,
        _room: Room,
    },
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Work {
    post: Rc<Post>,
    pub(super) tally: Arc<Tally>,
    tongue: Rc<dyn Tongue>,
    /// `io_timeout`.
    pub(super) patience: Duration,
    pub(super) waiting: VecDeque<Box<Job>>,
    /// Messages to other nodes.
    told: VecDeque<Told>,
    pub(super) sent: VecDeque<Sent>,
    /// Of what was sent, what has to be sent again because a script was forgotten. It is ahead of
    /// the rest.
    forgotten: VecDeque<Box<Job>>,
    /// What another node of the cluster is to be asked for; `None` where there is no cluster.
    strays: Option<Vec<(Box<Job>, Why)>>,
    /// There is no connection, and an attempt to make one has failed.
    away: bool,
    /// When the log was last told of an error.
    pub(super) complained: Option<Instant>,
}

impl Job {
    /// That nobody has worked on yet.
    pub(super) fn new(taken: Taken, part: Option<Part>) -> Box<Self> {
        Box::new(Self {
            taken,
            part,
            again: false,
            forgotten: 0,
            replies: 0,
            gathered: Gathered::default(),
            asking: false,
            asked: 0,
            why: None,
            number: 0,
            flight: None,
        })
    }

    /// Its place among those of a cluster, in whose order those of one channel are done.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Gives it its place.
    pub(super) fn set_number(&mut self, number: u64) {
        self.number = number;
    }

    /// It goes to a node of a cluster.
    pub(super) fn leaves(&mut self, all: &Flights, lane: Lane, node: &Arc<str>) {
        let mut flights = all.borrow_mut();
        flights.entry(lane.clone()).or_insert_with(|| (node.clone(), 0)).1 += 1;
        drop(flights);
        self.flight = Some(Flight { all: all.clone(), lane });
    }

    /// It is back.
    pub(super) fn returns(&mut self) {
        self.flight = None;
    }

    /// The channel that it concerns, or the first of several.
    pub(super) fn channel(&self) -> Option<&Arc<str>> {
        self.taken.request.channel().or_else(|| self.tops().first().map(|top| &top.channel))
    }

    /// The positions that it asks for.
    pub(super) fn tops(&self) -> &[TopOf] {
        match &self.taken.request {
            Request::Positions(_, tops) => tops,
            _ => &[],
        }
    }

    /// A question for positions in parts; `places` says of each in which.
    #[allow(clippy::vec_box, reason = "each goes on in the box that it is in")]
    pub(super) fn split(mut self: Box<Self>, places: Vec<u16>, parts: usize) -> Vec<Box<Self>> {
        if parts < 2 || self.tops().is_empty() {
            return vec![self];
        }
        let Request::Positions(ticket, tops) = &mut self.taken.request else { return vec![self] };
        let (ticket, tops) = (*ticket, std::mem::take(tops));
        let (whole, parts) = Joined::split(tops, places, parts, self.part.take());
        let whole = Rc::new(RefCell::new(whole));
        let part = |(number, tops)| {
            let taken = self.taken.part(Request::Positions(ticket, tops));
            Self::new(taken, Some(Part { whole: whole.clone(), number }))
        };
        parts.into_iter().map(part).collect()
    }

    /// Whether a node is asked for what is on its way to it.
    pub(super) fn asks(&mut self, asking: bool) {
        self.asking = asking;
    }

    /// When it was made.
    pub(super) fn at(&self) -> Instant {
        self.taken.at
    }

    /// What a core wants.
    pub(super) fn request(&self) -> &Request {
        &self.taken.request
    }

    /// Whether its time has passed.
    pub(super) fn is_late(&self, patience: Duration, now: Instant) -> bool {
        self.taken.at + patience <= now
    }

    /// Ends it.
    pub(super) fn answer(
        self: Box<Self>,
        post: &Post,
        tally: &Tally,
        result: Result<Outcome, Fault>,
    ) {
        let Self { taken, part, .. } = *self;
        let outcome = result.as_ref().map_or_else(|fault| fault.name(), |_| "ok");
        *tally.maps().requests.entry((taken.request.name(), outcome)).or_default() += 1;
        if let Some((ticket, result)) = taken.request.ticket().zip(settle(part, result)) {
            post.tell(taken.core, Happening::Answer(ticket, result));
        }
    }
}

/// Requests that are written together, and bytes of them: a server does nothing else meanwhile.
const JOINED_MAX: usize = 32;
const JOINED_BYTES: usize = 64 << 10;

/// Times that a request is sent because the server has forgotten its script.
const FORGOTTEN_MAX: u8 = 3;

impl Work {
    /// Nothing is asked yet.
    pub(super) fn new(
        post: Rc<Post>,
        tally: Arc<Tally>,
        tongue: Rc<dyn Tongue>,
        patience: Duration,
    ) -> Self {
        let (waiting, sent, forgotten) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self {
            post,
            tally,
            tongue,
            patience,
            waiting,
            told: VecDeque::new(),
            sent,
            forgotten,
            strays: None,
            away: false,
            complained: None,
        }
    }

    /// The server is a node of a cluster.
    pub(super) fn in_cluster(mut self) -> Self {
        self.strays = Some(Vec::new());
        self
    }

    /// What another node is to be asked for.
    pub(super) fn take_strays(&mut self) -> Vec<(Box<Job>, Why)> {
        self.strays.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Some channels are another node's by now: what waits of them is not for this one.
    pub(super) fn shed(&mut self, takes: impl Fn(&Job) -> bool) {
        let Some(strays) = &mut self.strays else { return };
        for job in std::mem::take(&mut self.waiting) {
            match job.asking || takes(&job) {
                true => self.waiting.push_back(job),
                false => strays.push((job, Why::Moved)),
            }
        }
    }

    /// A request. Without a connection in sight it is answered at once.
    pub(super) fn submit(&mut self, job: Box<Job>) {
        match self.away {
            true => self.answer(job, Err(Fault::Away)),
            false => self.waiting.push_back(job),
        }
    }

    /// A message to other nodes. It goes with the next [`Self::send`], or is dropped.
    pub(super) fn tell(&mut self, told: Told) {
        self.told.push_back(told);
    }

    /// There is no connection: messages to other nodes are too old before there is.
    pub(super) fn drop_told(&mut self) {
        self.tally.control_dropped.add(self.told.len() as u64);
        self.told = VecDeque::new();
    }

    /// Writes what waits to a connection.
    pub(super) fn send(&mut self, out: &mut Vec<u8>, now: Instant, unix: Duration) {
        while let Some(Told { to, data, room }) = self.told.pop_front() {
            match self.tongue.tell(out, to.as_deref(), &data) {
                true => self.sent.push_back(Sent::Told { at: now, _room: room }),
                false => self.tally.control_dropped.add(1),
            }
        }
        if !self.forgotten.is_empty() {
            if !self.sent.is_empty() {
                // What was sent behind it may be of the same channel: first it comes back.
                return;
            }
            for script in Script::ALL {
                dial::load(out, script);
                self.sent.push_back(Sent::Script);
            }
            while let Some(job) = self.forgotten.pop_back() {
                self.waiting.push_front(job);
            }
        }
        while let Some(mut job) = self.waiting.pop_front() {
            if self.is_late(&job, now) {
                self.answer(job, Err(Fault::Late));
                continue;
            }
            if let Some(joins) = self.joins(&job).filter(|joins| self.follows(joins.slot)) {
                let joined = self.collect(job, joins, now);
                if let [_, _, ..] = &joined[..] {
                    let asked = |core| Asked { core, unix, again: false };
                    let requests = joined.iter().map(|job| &job.taken);
                    let requests: Vec<_> =
                        requests.map(|taken| (&taken.request, asked(taken.core))).collect();
                    self.tongue.write_joined(out, &requests);
                    self.sent.push_back(Sent::Joined(joined));
                    continue;
                }
                let Some(alone) = joined.into_iter().next() else { continue };
                job = alone;
            }
            let asked = Asked { core: job.taken.core, unix, again: job.again };
            job.gathered = Gathered::default();
            job.asked = usize::from(job.asking);
            if job.asking {
                command(out, &["ASKING"]);
            }
            match self.tongue.write(out, &job.taken.request, asked) {
                Err(fault) => self.answer(job, Err(fault)),
                Ok(0) => self.finish(job, now),
                Ok(replies) => {
                    job.replies = replies;
                    self.sent.push_back(Sent::Job(job));
                }
            }
        }
    }

    /// Whether a request may be written together with those behind it.
    fn joins(&self, job: &Job) -> Option<Joins> {
        let is_new = !job.again && !job.asking;
        is_new.then(|| self.tongue.joins(&job.taken.request)).flatten()
    }

    /// Whether the next request joins others of a slot.
    fn follows(&self, slot: u16) -> bool {
        let next = self.waiting.front().and_then(|next| self.joins(next));
        next.is_some_and(|next| next.slot == slot)
    }

    /// A request that joins, and those behind it that do.
    #[allow(clippy::vec_box, reason = "each goes on in the box that it is in")]
    fn collect(&mut self, first: Box<Job>, joins: Joins, now: Instant) -> Vec<Box<Job>> {
        let Joins { mut bytes, slot } = joins;
        let mut joined = vec![first];
        while joined.len() < JOINED_MAX
            && let Some(next) = self.waiting.front().filter(|next| !self.is_late(next, now))
            && let Some(more) = self.joins(next).filter(|next| next.slot == slot)
            && bytes + more.bytes <= JOINED_BYTES
            && let Some(next) = self.waiting.pop_front()
        {
            bytes += more.bytes;
            joined.push(next);
        }
        joined
    }

    /// Writes a question that only wants to hear whether somebody is there.
    pub(super) fn ping(&mut self, out: &mut Vec<u8>, now: Instant) {
        command(out, &["PING"]);
        self.sent.push_back(Sent::Ping(now));
    }

    /// The next reply.
    ///
    /// # Errors
    /// The connection is of no use any more. What was sent on it stays sent until [`Self::lost`].
    pub(super) fn reply(&mut self, reply: &Reply<'_>, now: Instant) -> Result<(), Lost> {
        if matches!(reply, Reply::Push(_)) {
            return Ok(());
        }
        if let Some(Sent::Told { .. }) = self.sent.front() {
            self.sent.pop_front();
            return self.told(reply, now);
        }
        if let Some(Sent::Joined(_)) = self.sent.front() {
            return self.joined(reply, now);
        }
        let Some(Sent::Job(job)) = self.sent.front_mut() else {
            // A reply that nobody waits for: the count is off, and no answer can be believed.
            return match self.sent.pop_front() {
                Some(_) => Ok(()),
                None => Err(Lost::Protocol(super::resp::Fault::End)),
            };
        };
        if job.asked > 0 {
            job.asked -= 1;
            return Ok(());
        }
        match reply {
            Reply::Error(what) => match Trouble::of(what) {
                Trouble::Elsewhere if self.strays.is_some() => {
                    job.gathered.fail(Fault::Denied);
                    // Keys of one channel may be at several places, and each has its own answer.
                    match (Why::of(what), job.replies) {
                        (Why::Ask(_), 2..) => job.why = job.why.take().or(Some(Why::Later)),
                        (why, _) => job.why = Some(why),
                    }
                }
                Trouble::NoScript if job.forgotten < FORGOTTEN_MAX => {
                    job.forgotten += 1;
                    if let Some(Sent::Job(job)) = self.sent.pop_front() {
                        self.forgotten.push_back(job);
                    }
                    return Ok(());
                }
                _ => {
                    if let Some(lost) = ended_by(what) {
                        return Err(lost);
                    }
                    job.gathered.fail(Fault::Denied);
                    complain(&mut self.complained, job.taken.request.name(), what, now);
                }
            },
            reply => job.gathered.take(&job.taken.request, reply, job.again),
        }
        if job.gathered.came() == job.replies
            && let Some(Sent::Job(mut job)) = self.sent.pop_front()
        {
            match (job.why.take(), &mut self.strays) {
                (Some(why), Some(strays)) => strays.push((job, why)),
                _ => self.finish(job, now),
            }
        }
        Ok(())
    }

    /// The reply to several requests: an error of all, or a list with one of each.
    fn joined(&mut self, reply: &Reply<'_>, now: Instant) -> Result<(), Lost> {
        let each = match reply {
            Reply::Error(_) => std::slice::from_ref(reply),
            reply => reply.list().unwrap_or_default(),
        };
        for reply in each {
            if let Reply::Error(what) = reply
                && let Some(lost) = ended_by(what)
            {
                return Err(lost);
            }
        }
        let Some(Sent::Joined(jobs)) = self.sent.pop_front() else { return Ok(()) };
        if let Reply::Error(what) = reply
            && Trouble::of(what) == Trouble::NoScript
            && jobs.iter().all(|job| job.forgotten < FORGOTTEN_MAX)
        {
            for mut job in jobs {
                job.forgotten += 1;
                self.forgotten.push_back(job);
            }
            return Ok(());
        }
        if let Reply::Error(what) = reply
            && Trouble::of(what) == Trouble::Elsewhere
            && let Some(strays) = &mut self.strays
        {
            // Nothing of it was done.
            let why = Why::of(what);
            strays.extend(jobs.into_iter().map(|job| (job, why.clone())));
            return Ok(());
        }
        let count = jobs.len();
        for (at, mut job) in jobs.into_iter().enumerate() {
            job.gathered = Gathered::default();
            match (reply, each.get(at).filter(|_| each.len() == count)) {
                (Reply::Error(what), _) | (_, Some(Reply::Error(what))) => {
                    job.gathered.fail(Fault::Denied);
                    complain(&mut self.complained, job.taken.request.name(), what, now);
                }
                (_, Some(own)) => job.gathered.take(&job.taken.request, own, false),
                (_, None) => job.gathered.fail(Fault::Malformed),
            }
            self.finish(job, now);
        }
        Ok(())
    }

    /// A message to other nodes was taken, or was not.
    fn told(&mut self, reply: &Reply<'_>, now: Instant) -> Result<(), Lost> {
        let Reply::Error(what) = reply else {
            self.tally.control_sent.add(1);
            return Ok(());
        };
        self.tally.control_dropped.add(1);
        if let Some(lost) = ended_by(what) {
            return Err(lost);
        }
        complain(&mut self.complained, "control", what, now);
        Ok(())
    }

    /// The connection is lost. What may be done twice waits for the next one, ahead of the rest.
    pub(super) fn lost(&mut self, now: Instant) {
        // What the server had no script for was not done.
        let mut again: Vec<_> = self.forgotten.drain(..).collect();
        let mut jobs = Vec::new();
        for sent in std::mem::take(&mut self.sent) {
            match sent {
                Sent::Job(job) => jobs.push(job),
                Sent::Joined(joined) => jobs.extend(joined),
                Sent::Told { .. } => self.tally.control_dropped.add(1),
                Sent::Script | Sent::Ping(_) => {}
            }
        }
        for mut job in jobs {
            if self.is_late(&job, now) {
                self.answer(job, Err(Fault::Late));
            } else if self.tongue.may_repeat(&job.taken.request) {
                job.again = true;
                self.tally.repeated.add(1);
                again.push(job);
            } else {
                self.answer(job, Err(Fault::Unknown));
            }
        }
        for job in again.into_iter().rev() {
            self.waiting.push_front(job);
        }
    }

    /// An attempt to make a connection has failed: what was never sent waits no longer, nor will
    /// what comes.
    pub(super) fn away(&mut self) {
        self.away = true;
        for job in std::mem::take(&mut self.waiting) {
            match job.again {
                true => self.waiting.push_back(job),
                false => self.answer(job, Err(Fault::Away)),
            }
        }
    }

    /// There is a connection.
    pub(super) fn back(&mut self) {
        self.away = false;
    }

    /// Answers what has waited for too long. True if the server is late with what was sent: then
    /// the connection is of no use any more.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        while self.waiting.front().is_some_and(|job| self.is_late(job, now)) {
            if let Some(job) = self.waiting.pop_front() {
                self.answer(job, Err(Fault::Late));
            }
        }
        self.oldest_sent().is_some_and(|at| at + self.patience <= now)
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.front().map(|job| job.taken.at);
        let oldest = waiting.into_iter().chain(self.oldest_sent()).min();
        oldest.map(|at| at + self.patience)
    }

    fn oldest_sent(&self) -> Option<Instant> {
        let forgotten = self.forgotten.front().map(|job| job.taken.at);
        forgotten.or_else(|| {
            self.sent.iter().find_map(|sent| match sent {
                Sent::Job(job) => Some(job.taken.at),
                Sent::Joined(jobs) => jobs.first().map(|job| job.taken.at),
                Sent::Ping(at) | Sent::Told { at, .. } => Some(*at),
                Sent::Script => None,
            })
        })
    }

    /// Whether the server owes no reply.
    pub(super) fn is_settled(&self) -> bool {
        self.sent.is_empty()
    }

    /// Whether nothing is unanswered.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
            && self.told.is_empty()
            && self.sent.is_empty()
            && self.forgotten.is_empty()
    }

    fn is_late(&self, job: &Job, now: Instant) -> bool {
        job.is_late(self.patience, now)
    }

    fn finish(&mut self, mut job: Box<Job>, now: Instant) {
        let result = std::mem::take(&mut job.gathered).result(&job.taken.request);
        self.finish_with(job, result, now);
    }

    /// Ends a request that the server has answered.
    pub(super) fn finish_with(&self, job: Box<Job>, result: Result<Outcome, Fault>, now: Instant) {
        let took = now.saturating_duration_since(job.taken.at);
        let name = job.taken.request.name();
        self.tally.maps().durations.entry(name).or_default().record(took);
        self.answer(job, result);
    }

    /// Ends a request.
    pub(super) fn answer(&self, job: Box<Job>, result: Result<Outcome, Fault>) {
        job.answer(&self.post, &self.tally, result);
    }
}

impl Drop for Work {
    /// Only a fault of ours leaves something here.
    fn drop(&mut self) {
        let sent = std::mem::take(&mut self.sent).into_iter().flat_map(|sent| match sent {
            Sent::Job(job) => vec![job],
            Sent::Joined(jobs) => jobs,
            Sent::Script | Sent::Ping(_) | Sent::Told { .. } => Vec::new(),
        });
        let strays = self.take_strays().into_iter().map(|(job, _)| job);
        let rest = self.forgotten.drain(..).chain(sent).chain(self.waiting.drain(..)).chain(strays);
        for job in rest.collect::<Vec<_>>() {
            self.answer(job, Err(Fault::Unknown));
        }
    }
}

/// An error after which the connection is of no use.
fn ended_by(what: &[u8]) -> Option<Lost> {
    match Trouble::of(what) {
        Trouble::NotPrimary => Some(Lost::NotPrimary),
        Trouble::Unauthorised => Some(Lost::Refused(String::from_utf8_lossy(what).into_owned())),
        Trouble::NoScript | Trouble::Elsewhere | Trouble::Denied => None,
    }
}

/// Says in the log what the server refuses, unless it has just now.
pub(super) fn complain(last: &mut Option<Instant>, request: &str, what: &[u8], now: Instant) {
    if last.is_none_or(|at| at + REPEAT <= now) {
        *last = Some(now);
        let what = String::from_utf8_lossy(&what[..what.len().min(WORDS_MAX)]);
        tracing::warn!(request, %what, "the broker refuses a request");
    }
}

/// Of the log: one error in so long; all are counted.
const REPEAT: Duration = Duration::from_secs(1);

/// Of a server's error in the log.
const WORDS_MAX: usize = 200;

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
