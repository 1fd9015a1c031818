//! The nodes of a Redis Cluster: which there are, who of them is asked for what, and what becomes
//! of a request that came to one that does not have its slot.
//!
//! Each node that owns slots is a shard of its own with both connections: a channel is listened to
//! where its slot is, so that a node that is lost takes nothing else along. Owns the map of slots,
//! requests that wait for it to become right, and which node is asked for messages to all nodes.
//! The invariants: of a channel nothing overtakes a request that waits here; a request waits no
//! longer than its deadline; no redirection reaches whoever asked.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::answers::Why;
use super::bus::Told;
use super::listening::Piece;
use super::nodes::{self, Claims};
use super::places::{Lane, Moved, Owned, Places};
use super::shard::{Inbox, Membership, Parts};
use super::slots::{Claim, Map, Node, SLOTS, Set};
use super::tally::Condition;
use super::target::{Address, Target};
use super::thread::keep;
use super::work::{Flights, Job};
use crate::broker::server::RedisPlace;
use crate::gateway::broker::{self, Fault, Happening, Life, Outcome, Scope};

/// See the module's text.
pub(super) struct Cluster {
    target: Target,
    /// For each shard.
    parts: Parts,
    places: Places,
    flights: Flights,
    state: RefCell<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    members: BTreeMap<Node, Member>,
    /// Those that have left, until they have ended.
    leaving: Vec<JoinHandle<()>>,
    /// Where nodes were seen.
    seen: Vec<Address>,
    strays: VecDeque<Stray>,
    /// Lanes of these.
    held: HashSet<Lane>,
    /// Slots that nobody owns.
    unowned: usize,
    /// Slots that are on their way, since when.
    moving: BTreeMap<u16, Instant>,
    /// Slots that their node does not pass on messages of any more.
    lost: BTreeSet<u16>,
    /// When such were listened to anew.
    mended: Option<Instant>,
    /// No node has answered at last, and why.
    away: Option<String>,
    /// The map may be wrong.
    stale: bool,
    /// The number of the last request.
    number: u64,
    /// The node that messages to all nodes are read from.
    ear: Option<Node>,
    ending: bool,
}

/// A node, and its shard.
struct Member {
    inbox: Rc<Inbox>,
    condition: Arc<Condition>,
    scope: Arc<Owned>,
    task: JoinHandle<()>,
}

/// A request that waits.
struct Stray {
    job: Box<Job>,
    why: Why,
    since: Instant,
}

/// Which request of a channel it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestOrder {
    /// It has just come.
    New,
    /// It is the first of those that came back.
    First,
    /// The one before it is on its way already.
    Behind,
}

/// All nodes are asked so often what they own.
const EVERY: Duration = Duration::from_secs(10);

/// The same where something is wrong.
const DOUBTFUL: Duration = Duration::from_millis(500);

/// The same after something has happened.
const SOON: Duration = Duration::from_millis(100);

/// Requests that came back are tried again so soon.
const PACE: Duration = Duration::from_millis(20);

/// A slot that nobody was sent away from for so long has arrived, or stays.
const MOVING: Duration = Duration::from_secs(5);

/// Places that are remembered.
const SEEN_MAX: usize = 1024;

impl State {
    /// A request waits, and all that come for its channel behind it.
    fn wait(&mut self, job: Box<Job>, lane: Lane, why: Why, since: Instant) {
        self.held.insert(lane);
        self.strays.push_back(Stray { job, why, since });
    }
}

impl Cluster {
    /// Of this target; `share` says which of several clusters it is, and of how many. Nothing is
    /// connected to before it runs.
    pub(super) fn new(target: Target, parts: Parts, share: Option<(usize, usize)>) -> Rc<Self> {
        let layout = parts.dialect.layout.clone();
        let places = Places { layout, map: Arc::default(), share };
        let state = RefCell::new(State { unowned: SLOTS, ..State::default() });
        let (flights, wake) = (Flights::default(), Notify::new());
        Rc::new(Self { target, parts, places, flights, state, wake })
    }

    /// Serves until it ends and all that came is answered.
    pub(super) async fn run(self: Rc<Self>) {
        let mut round: Option<Pin<Box<dyn Future<Output = Claims>>>> = None;
        let mut asked = None::<Instant>;
        loop {
            let now = Instant::now();
            let pause = self.pause(asked, now);
            if round.is_none() && pause.is_zero() {
                asked = Some(now);
                self.state.borrow_mut().stale = false;
                let (target, places) = (self.target.clone(), self.known());
                round = Some(Box::pin(async move { nodes::ask_all(&target, places).await }));
            }
            self.retry(now);
            self.report();
            self.parts.post.flush(now);
            if self.state.borrow().ending && self.state.borrow().strays.is_empty() {
                break;
            }
            let wait = if self.state.borrow().strays.is_empty() { pause } else { PACE };
            let answered = async {
                match &mut round {
                    Some(round) => round.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                claims = answered => {
                    round = None;
                    self.apply(claims);
                }
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait.max(PACE)) => {}
            }
        }
        let mut state = self.state.take();
        state.ending = true;
        state.away = Some("this node ends".to_owned());
        let (members, leaving) =
            (std::mem::take(&mut state.members), std::mem::take(&mut state.leaving));
        *self.state.borrow_mut() = state;
        for member in members.values() {
            member.inbox.end();
            member.inbox.ring();
        }
        for task in members.into_values().map(|member| member.task).chain(leaving) {
            // Each ends in its time.
            let _ = task.await;
        }
        let waiting = std::mem::take(&mut self.state.borrow_mut().strays);
        waiting.into_iter().for_each(|stray| self.fail(stray.job, Fault::Away));
        self.parts.post.flush(Instant::now());
    }

    /// Until nodes are asked again.
    fn pause(&self, asked: Option<Instant>, now: Instant) -> Duration {
        let Some(asked) = asked else { return Duration::ZERO };
        let state = self.state.borrow();
        let whole = state.members.values().all(|member| member.condition.is_up());
        let doubtful = state.away.is_some()
            || state.unowned > 0
            || !whole
            || !state.moving.is_empty()
            || !state.lost.is_empty();
        let every = match (state.stale, doubtful) {
            (true, _) => SOON,
            (false, true) => DOUBTFUL,
            (false, false) => EVERY,
        };
        (asked + every).saturating_duration_since(now)
    }

    /// Where nodes may be.
    fn known(&self) -> Vec<Address> {
        let RedisPlace::Cluster(seeds) = &self.target.server.place else { return Vec::new() };
        let state = self.state.borrow();
        let known = state.members.keys().map(|node| &node.place);
        let mut places: Vec<Address> = Vec::new();
        for place in known.chain(seeds.iter()).chain(&state.seen) {
            if !places.contains(place) {
                places.push(place.clone());
            }
        }
        places
    }

    /// There will be no more.
    pub(super) fn end(&self) {
        self.state.borrow_mut().ending = true;
        self.wake.notify_one();
    }

    /// Something is different with a node.
    pub(super) fn changed(&self) {
        self.state.borrow_mut().stale = true;
        self.wake.notify_one();
    }

    /// Wakes the shards.
    pub(super) fn ring(&self) {
        self.state.borrow().members.values().for_each(|member| member.inbox.ring());
    }

    /// A request.
    pub(super) fn job(&self, mut job: Box<Job>) {
        let now = Instant::now();
        if job.tops().is_empty() {
            let mut state = self.state.borrow_mut();
            state.number += 1;
            job.set_number(state.number);
            self.place(&mut state, job, Why::Moved, now, RequestOrder::New);
        } else {
            self.tops(job, now);
        }
    }

    /// A question about channels of several nodes, in parts. Slots that are on their way are asked
    /// about by themselves: nobody else waits for them.
    fn tops(&self, job: Box<Job>, now: Instant) {
        let mut state = self.state.borrow_mut();
        let map = self.places.map.get();
        let mut numbers: HashMap<(Option<&Node>, Option<u16>), u16> = HashMap::new();
        let mut number = |channel: &str| {
            let slot = self.places.slot(channel);
            let moving = state.moving.contains_key(&slot).then_some(slot);
            let next = numbers.len() as u16;
            *numbers.entry((map.owner(slot), moving)).or_insert(next)
        };
        let places = job.tops().iter().map(|top| number(&top.channel)).collect();
        let parts = numbers.len();
        for mut job in job.split(places, parts) {
            let Some(slot) = job.channel().map(|channel| self.places.slot(channel)) else {
                continue;
            };
            job.asks(false);
            match map.owner(slot).and_then(|node| state.members.get(node)) {
                Some(member) => member.inbox.job(job),
                None if state.away.is_some() => self.fail(job, Fault::Away),
                None => {
                    state.stale = true;
                    state.strays.push_back(Stray { job, why: Why::Moved, since: now });
                    self.wake.notify_one();
                }
            }
        }
    }

    /// Hands a request to who owns its slot, or to who it was sent on to; else it waits. Whether it
    /// is on its way.
    fn place(
        &self,
        state: &mut State,
        mut job: Box<Job>,
        why: Why,
        now: Instant,
        turn: RequestOrder,
    ) -> bool {
        let Some(channel) = job.channel().cloned() else {
            // Only a question for no positions has none.
            job.answer(&self.parts.post, &self.parts.tally, Ok(Outcome::Positions(Vec::new())));
            return true;
        };
        let map = self.places.map.get();
        let lane = self.places.lane(&job, &channel);
        let sent_on = match &why {
            Why::Ask(at) => state.members.keys().find(|node| node.place == *at),
            _ => None,
        };
        let owner = sent_on.or_else(|| map.owner(self.places.slot_of(&job, &channel)));
        // What is with another node may come back, and is to be done first.
        let clear = match (self.flights.borrow().get(&lane), owner, turn) {
            (None, ..) => true,
            (Some(_), None, _) | (Some(_), _, RequestOrder::First) => false,
            (Some((at, _)), Some(node), _) => *at == node.id,
        };
        let held = turn == RequestOrder::New && state.held.contains(&lane);
        job.asks(sent_on.is_some());
        match owner.and_then(|node| Some((node, state.members.get(node)?))) {
            Some((node, member)) if clear && !held => {
                job.leaves(&self.flights, lane, &node.id);
                member.inbox.job(job);
                return true;
            }
            None if state.away.is_some() => {
                self.fail(job, Fault::Away);
                return true;
            }
            None => state.stale = true,
            Some(_) => {}
        }
        state.wait(job, lane, why, now);
        if turn == RequestOrder::New {
            self.wake.notify_one();
        }
        false
    }

    fn fail(&self, job: Box<Job>, fault: Fault) {
        job.answer(&self.parts.post, &self.parts.tally, Err(fault));
    }

    /// A request is back, of which nothing was done, or only what may be done twice.
    pub(super) fn stray(&self, mut job: Box<Job>, why: Why) {
        job.returns();
        let mut state = self.state.borrow_mut();
        *self.parts.tally.maps().redirects.entry(why.name()).or_default() += 1;
        let Some(channel) = job.channel().cloned() else { return };
        let since = Instant::now();
        match why {
            Why::Moved => state.stale = true,
            Why::Ask(_) | Why::Later => {
                state.moving.insert(self.places.slot_of(&job, &channel), since);
            }
        }
        match job.tops().is_empty() {
            true => {
                let lane = self.places.lane(&job, &channel);
                state.wait(job, lane, why, since);
            }
            false => state.strays.push_back(Stray { job, why, since }),
        }
        drop(state);
        self.wake.notify_one();
    }

    /// A node does not pass on messages of these slots any more. They are listened to anew as soon
    /// as all nodes have said what they own.
    pub(super) fn lose(&self, slots: &[u16]) {
        let mut state = self.state.borrow_mut();
        let new = slots.iter().filter(|slot| state.lost.insert(**slot)).count();
        if new == 0 {
            return;
        }
        self.parts.tally.slots_lost.add(new as u64);
        // Where it was of no use just now, there is time.
        state.stale |= state.mended.is_none_or(|at| at.elapsed() >= DOUBTFUL);
        drop(state);
        self.wake.notify_one();
    }

    /// Tries what waits again, in the order in which it came first.
    fn retry(&self, now: Instant) {
        let mut state = self.state.borrow_mut();
        state.moving.retain(|_, since| now.saturating_duration_since(*since) < MOVING);
        if state.strays.is_empty() {
            return;
        }
        let mut waiting: Vec<_> = std::mem::take(&mut state.strays).into();
        waiting.sort_by_key(|stray| stray.job.number());
        state.held.clear();
        let (mut tops, mut passed) = (Vec::new(), HashSet::new());
        for Stray { job, why, since } in waiting {
            let Some(channel) = job.channel().cloned() else { continue };
            let is_due = since + PACE <= now;
            let lane = self.places.lane(&job, &channel);
            if job.is_late(self.target.server.io_timeout, now) {
                self.fail(job, Fault::Late);
            } else if !job.tops().is_empty() {
                match is_due {
                    true => tops.push(job),
                    false => state.strays.push_back(Stray { job, why, since }),
                }
            } else if state.held.contains(&lane) || !is_due {
                state.wait(job, lane, why, since);
            } else {
                let turn =
                    if passed.contains(&lane) { RequestOrder::Behind } else { RequestOrder::First };
                if self.place(&mut state, job, why, since, turn) {
                    passed.insert(lane);
                }
            }
        }
        drop(state);
        // The map may be another by now.
        tops.into_iter().for_each(|job| self.tops(job, now));
        self.ring();
    }

    /// Channels to begin or end to listen to.
    pub(super) fn piece(&self, piece: Piece) {
        let state = self.state.borrow();
        let map = self.places.map.get();
        let mut parts: BTreeMap<&Node, Vec<Arc<str>>> = BTreeMap::new();
        for name in piece.names {
            // Where nobody owns it there is no connection either.
            if let Some(node) = map.owner(self.places.slot(&name)) {
                parts.entry(node).or_default().push(name);
            }
        }
        for (node, names) in parts {
            if let Some(member) = state.members.get(node) {
                member.inbox.piece(Piece { core: piece.core, begins: piece.begins, names });
            }
        }
    }

    /// A message to other nodes: any node of the cluster passes it on to all.
    pub(super) fn tell(&self, told: Told) {
        let state = self.state.borrow();
        match state.members.values().find(|member| member.condition.is_up()) {
            Some(member) => member.inbox.tell(told),
            None => self.parts.tally.control_dropped.add(1),
        }
    }

    /// Nodes have said what they own.
    fn apply(self: &Rc<Self>, claims: Claims) {
        let Claims { claims, faults } = claims;
        let mut state = self.state.borrow_mut();
        if claims.is_empty() {
            state.away = Some(format!("no node of the cluster answers: {}", faults.join("; ")));
            // What waits for the first map waits no longer.
            let waiting = std::mem::take(&mut state.strays);
            state.held.clear();
            for Stray { job, .. } in waiting {
                self.fail(job, Fault::Away);
            }
            return;
        }
        state.away = None;
        let seen = claims.iter().flat_map(|claim| &claim.others).map(|(_, place)| place.clone());
        let seen: HashSet<Address> = seen.collect();
        state.seen = seen.into_iter().take(SEEN_MAX).collect();
        let before = self.places.map.get();
        let after = Arc::new(before.after(&claims));
        // One without slots may be about to get some.
        let primaries = claims.iter().filter(|claim| claim.is_primary);
        let primaries = primaries.filter_map(|claim| after.node(&claim.id, &claims));
        let wanted: HashSet<Node> = after.nodes().iter().cloned().chain(primaries).collect();
        state.unowned = after.unowned();
        for node in &wanted {
            if !state.members.contains_key(node) {
                let member = self.member(node.clone());
                state.members.insert(node.clone(), member);
            }
        }
        let lost = std::mem::take(&mut state.lost);
        if !lost.is_empty() {
            state.mended = Some(Instant::now());
        }
        if before != after || !lost.is_empty() {
            self.places.map.set(after.clone());
            self.hand_over(&state, &before, &after, (&claims, &lost));
        }
        let gone: Vec<_> =
            state.members.keys().filter(|node| !wanted.contains(*node)).cloned().collect();
        for node in gone {
            let Some(member) = state.members.remove(&node) else { continue };
            member.scope.ended.store(true, Ordering::Relaxed);
            let scope: Arc<dyn broker::Part> = member.scope.clone();
            self.parts.post.tell_all(&Happening::Back(Scope::Part(scope), Life::Same));
            // What it never came to say: its channels are others' by now.
            for (scope, life) in member.inbox.take_gained() {
                self.parts.post.tell_all(&Happening::Back(scope, life));
            }
            member.inbox.shed();
            member.inbox.end();
            member.inbox.ring();
            state.leaving.push(member.task);
        }
        state.leaving.retain(|task| !task.is_finished());
    }

    /// Tells cores and shards which slots have another owner, or are to be listened to anew.
    fn hand_over(
        &self,
        state: &State,
        before: &Map,
        after: &Map,
        (claims, lost): (&[Claim], &BTreeSet<u16>),
    ) {
        // Who says itself that it has given a slot away has lost nothing with it.
        let gave = |old: &Node, slot: u16| {
            let mut own = claims.iter().filter(|claim| claim.id == old.id && claim.is_primary);
            own.any(|claim| !claim.slots.iter().any(|(from, to)| (*from..=*to).contains(&slot)))
        };
        let mut gained: BTreeMap<(&Node, bool), Set> = BTreeMap::new();
        let mut number = 0;
        for slot in 0..SLOTS as u16 {
            let (old, new) = (before.owner(slot), after.owner(slot));
            if old == new && !lost.contains(&slot) {
                continue;
            }
            number += u64::from(old != new);
            let Some(new) = new else { continue };
            let moved = old == Some(new) || old.is_some_and(|old| gave(old, slot));
            gained.entry((new, moved)).or_default().add(slot);
        }
        self.parts.tally.slots_moved.add(if before.nodes().is_empty() { 0 } else { number });
        for member in state.members.values() {
            member.inbox.shed();
        }
        if before.nodes().is_empty() {
            // Each shard tells of its own.
            return;
        }
        for ((node, moved), slots) in gained {
            let Some(member) = state.members.get(node) else { continue };
            let part = Arc::new(Moved { places: self.places.clone(), slots });
            let life = if moved { Life::Same } else { self.parts.other };
            self.parts.post.tell_all(&Happening::Deaf(Scope::Part(part.clone())));
            member.inbox.gained(Scope::Part(part), life);
        }
        state.members.values().for_each(|member| member.inbox.ring());
    }

    /// Begins a shard.
    fn member(self: &Rc<Self>, node: Node) -> Member {
        let target = self.target.node(&node.place);
        let condition = Arc::new(Condition::new(&target.server.place));
        let scope = Arc::new(Owned::new(self.places.clone(), node));
        let inbox = Rc::new(Inbox::default());
        let parts = Parts {
            condition: condition.clone(),
            scope: Scope::Part(scope.clone()),
            cluster: Some(Membership { cluster: self.clone(), owned: scope.clone() }),
            ..self.parts.clone()
        };
        let task = tokio::task::spawn_local(keep(target, inbox.clone(), parts));
        Member { inbox, condition, scope, task }
    }

    /// Says how it is with the cluster as a whole, and sees that one node is asked for messages to
    /// all nodes.
    fn report(&self) {
        let mut state = self.state.borrow_mut();
        let State { members, ear, away, unowned, .. } = &mut *state;
        let is_up = |node: &Node| members.get(node).is_some_and(|member| member.condition.is_up());
        let owners = self.places.map.get();
        let down = owners.nodes().iter().find_map(|node| {
            let reason = members.get(node)?.condition.reason()?;
            let (host, port) = &node.place;
            Some(format!("node {host}:{port}: {reason}"))
        });
        let whole = || match (owners.nodes().is_empty(), *unowned) {
            (true, _) => Some("not reached yet".to_owned()),
            (false, 0) => None,
            (false, slots) => Some(format!("{slots} slots have no node")),
        };
        let condition = &self.parts.condition;
        match away.clone().or(down).or_else(whole) {
            Some(reason) => condition.partly(reason, members.keys().any(is_up)),
            None if condition.reason().is_some() => {
                let now = Instant::now();
                let mut versions =
                    members.values().map(|member| member.condition.report(now).version);
                condition.up(&versions.find(|version| !version.is_empty()).unwrap_or_default());
            }
            None => {}
        }
        if ear.as_ref().is_some_and(is_up) {
            return;
        }
        let Some(next) = members.keys().find(|node| is_up(node)).cloned() else { return };
        for (node, member) in members.iter() {
            member.inbox.appoint(*node == next);
            // A turn of its own makes it so.
            member.inbox.shed();
            member.inbox.ring();
        }
        *ear = Some(next);
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("at", &self.target.server.place).finish_non_exhaustive()
    }
}
