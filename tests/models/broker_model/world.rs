//! Nodes of several cores on one server: what the engine and the broker's thread are to the hubs in
//! earnest.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold::Frame;
use ringhold::gateway::broker::{Happening, Life, Limits, Message, Request, Scope};
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::hub::Hub;
use ringhold::gateway::hub_port::{Event, HubPort, Link as Address, Refused};
use ringhold::gateway::letters::{Answer, Ask, Asker, Letter, Question, Reply};
use ringhold::gateway::placement::Placement;
use ringhold::gateway::wire::Error;
use ringhold::gateway::wire::messages::SubscribeResult;
use ringhold::internals::rng::Rng;

use super::link::{Link, Push, Said};
use super::server::{Server, State};

/// What a connection got.
#[derive(Debug)]
pub enum Seen {
    Frame(Vec<u8>),
    Subscribed { ticket: u64, channel: String, result: Result<SubscribeResult, Error> },
    Unsubscribed { channel: String, code: u32 },
    Close(u16),
}

/// What lies between the cores of a node, and its link.
pub struct Between {
    node: usize,
    /// Whether `BROKER_TRACE` is set: what cores ask and hear is printed.
    traces: bool,
    pub now: Duration,
    pub rng: Rng,
    /// By destination and sender.
    queues: Vec<Vec<VecDeque<Letter>>>,
    /// Letters that one core's mailbox holds.
    pub capacity: usize,
    /// What the thread has said to each core.
    said: Vec<VecDeque<Happening>>,
    /// Channels of which a full mailbox did not take a message, by core.
    spilt: Vec<BTreeSet<Box<str>>>,
    pub link: Link,
    pub inbox: HashMap<Address, Vec<Seen>>,
    /// Deliveries that a mailbox did not take.
    pub refused: u64,
}

pub struct Node {
    pub hubs: Vec<Hub>,
    pub between: Between,
}

struct Port<'a> {
    core: usize,
    between: &'a mut Between,
}

impl Port<'_> {
    fn put(&mut self, core: usize, letter: Letter) {
        assert_ne!(core, self.core, "a core has no letters for itself");
        self.between.queues[core][self.core].push_back(letter);
    }
}

impl HubPort for Port<'_> {
    fn now(&self) -> Duration {
        self.between.now
    }

    fn unix_millis(&self) -> i64 {
        self.between.now.as_millis() as i64
    }

    fn random(&mut self) -> u64 {
        self.between.rng.draw()
    }

    fn post(&mut self, core: usize, letter: Letter) -> Result<(), Refused> {
        let waiting: usize = self.between.queues[core].iter().map(VecDeque::len).sum();
        if waiting < self.between.capacity {
            self.put(core, letter);
            return Ok(());
        }
        self.between.refused += 1;
        Err(Refused)
    }

    fn post_reserved(&mut self, core: usize, letter: Letter) -> Result<(), Refused> {
        self.post(core, letter)
    }

    fn post_urgent(&mut self, core: usize, letter: Letter) {
        self.put(core, letter);
    }

    fn broker(&mut self, request: Request) -> Result<(), Refused> {
        self.between.trace(|| format!("core {} asks {request:?}", self.core));
        let now = self.between.now;
        self.between.link.request(self.core, request, now).map_err(|_| Refused)
    }

    fn send(&mut self, link: Address, frame: &Frame) {
        let inbox = self.between.inbox.get_mut(&link).expect("sent to a connection that is gone");
        inbox.push(Seen::Frame(frame.payload().to_vec()));
    }

    fn event(&mut self, link: Address, event: Event<'_>) {
        let seen = match event {
            Event::Subscribed { ticket, channel, result, .. } => {
                Seen::Subscribed { ticket, channel: channel.to_string(), result }
            }
            Event::Unsubscribed { channel, why, .. } => {
                Seen::Unsubscribed { channel: channel.to_string(), code: why.code }
            }
            Event::Close(disconnect) => Seen::Close(disconnect.code),
            Event::Answered { .. } | Event::Entered { .. } | Event::Order(_) => {
                panic!("{event:?} was not asked for")
            }
        };
        // Answers may come late.
        if let Some(inbox) = self.between.inbox.get_mut(&link) {
            inbox.push(seen);
        }
    }
}

impl Node {
    pub fn new(node: usize, cores: usize, seed: u64, limits: HomeLimits, broker: Limits) -> Self {
        let placement = Placement::new(cores as u16, seed);
        let hub = |core| Hub::with_broker(core as u16, placement, limits, broker);
        let queues = (0..cores).map(|_| (0..cores).map(|_| VecDeque::new()).collect()).collect();
        Self {
            hubs: (0..cores).map(hub).collect(),
            between: Between {
                node,
                traces: std::env::var_os("BROKER_TRACE").is_some(),
                now: Duration::from_secs(1000),
                rng: Rng::new(seed),
                queues,
                capacity: usize::MAX,
                said: (0..cores).map(|_| VecDeque::new()).collect(),
                spilt: vec![BTreeSet::new(); cores],
                link: Link::new(node, cores, broker),
                inbox: HashMap::new(),
                refused: 0,
            },
        }
    }

    /// Lets a core's hub do something.
    pub fn at<T>(&mut self, core: usize, act: impl FnOnce(&mut Hub, &mut dyn HubPort) -> T) -> T {
        act(&mut self.hubs[core], &mut Port { core, between: &mut self.between })
    }

    fn home(&self, channel: &str) -> usize {
        self.hubs[0].placement().home(channel)
    }

    /// Asks from a core as the control plane does.
    pub fn ask(&mut self, core: usize, channel: &str, question: Question) -> Asked {
        let asked = Asked::default();
        let put = asked.clone();
        let reply = Reply::new(move |answer| {
            let before = put.0.lock().unwrap().replace(answer);
            assert!(before.is_none(), "answered twice");
        });
        let ask = Ask { channel: channel.into(), question, asker: Asker::Control(reply) };
        // A refusal is an answer, too.
        let _ = self.at(core, |hub, out| hub.ask(out, ask));
        asked
    }

    /// The thread says something.
    pub fn say(&mut self, said: impl IntoIterator<Item = Said>) {
        for (core, happening) in said {
            self.between.said[core].push_back(happening);
        }
    }

    pub fn say_all(&mut self, happening: &Happening) {
        self.between.said.iter_mut().for_each(|said| said.push_back(happening.clone()));
    }

    /// A message goes to the core whose it is, if there is room.
    pub fn arrive(&mut self, push: Push) {
        let (channel, happening) = match push {
            Push::Listening(channel) => {
                (channel.clone(), Happening::Listening(vec![channel.clone()]))
            }
            Push::Message(channel, message) => {
                (channel.clone(), Happening::Message(channel.as_ref().into(), message))
            }
        };
        let core = self.home(&channel);
        let full = self.between.said[core].len() >= self.between.capacity;
        if full && matches!(happening, Happening::Message(..)) {
            self.between.refused += 1;
            self.between.spilt[core].insert(channel.as_ref().into());
            return;
        }
        self.say([(core, happening)]);
    }

    /// One of several things that cores have to do; false if there is nothing.
    pub fn step(&mut self) -> bool {
        let cores = self.hubs.len();
        let mut waiting: Vec<(usize, Option<usize>)> = Vec::new();
        for to in 0..cores {
            if !self.between.said[to].is_empty() || !self.between.spilt[to].is_empty() {
                waiting.push((to, None));
            }
            let from = (0..cores).filter(|from| !self.between.queues[to][*from].is_empty());
            waiting.extend(from.map(|from| (to, Some(from))));
        }
        if waiting.is_empty() {
            return false;
        }
        let pick = self.between.rng.below(waiting.len() as u32) as usize;
        match waiting[pick] {
            (to, Some(from)) => {
                if let Some(letter) = self.between.queues[to][from].pop_front() {
                    self.at(to, |hub, out| hub.letter(out, letter));
                }
            }
            (to, None) => {
                let spilt = std::mem::take(&mut self.between.spilt[to]);
                let count = 1 + self.between.rng.below(4) as usize;
                let said = &mut self.between.said[to];
                let mut batch: Vec<_> = said.drain(..count.min(said.len())).collect();
                if !spilt.is_empty() {
                    let names: Vec<_> = spilt.into_iter().collect();
                    batch.push(Happening::Suspect(Scope::Channels(names.into())));
                }
                for happening in &batch {
                    self.between.trace(|| format!("core {to} hears {happening:?}"));
                }
                self.at(to, |hub, out| hub.letter(out, Letter::Batch(batch)));
            }
        }
        true
    }

    /// Gives the time at which the core wants its next turn.
    pub fn turn(&mut self, core: usize) -> Option<Duration> {
        self.at(core, |hub, out| hub.turn(out))
    }
}

/// A place where an answer comes.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<Mutex<Option<Result<Answer, Error>>>>);

impl Asked {
    pub fn get(&self) -> Option<Result<Answer, Error>> {
        self.0.lock().unwrap().clone()
    }
}

/// Which faults a world has.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Messages get lost, once in so many; 0 is never.
    pub loses: u32,
    pub doubles: u32,
    pub swaps: u32,
}

pub struct World {
    pub nodes: Vec<Node>,
    pub server: Server,
    pub rng: Rng,
    pub now: Duration,
    pub faults: Faults,
    /// What another server would have.
    pub saved: State,
    pub lost: u64,
    pub doubled: u64,
}

impl World {
    pub fn new(rng: Rng, server: Server, nodes: Vec<Node>, faults: Faults) -> Self {
        let now = Duration::from_secs(1000);
        let (saved, lost, doubled) = (State::default(), 0, 0);
        Self { nodes, server, rng, now, faults, saved, lost, doubled }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.nodes.iter_mut().for_each(|node| node.between.now = self.now);
    }

    fn hits(&mut self, once_in: u32) -> bool {
        once_in > 0 && self.rng.one_in(once_in)
    }

    fn broadcast(&mut self, (channel, message): (Arc<str>, Message)) {
        for node in self.server.listeners(&channel) {
            if self.hits(self.faults.loses) {
                self.lost += 1;
                continue;
            }
            let link = &mut self.nodes[node].between.link;
            link.push(Push::Message(channel.clone(), message.clone()));
            if self.faults.doubles > 0 && self.rng.one_in(self.faults.doubles) {
                self.doubled += 1;
                link.push(Push::Message(channel.clone(), message.clone()));
            }
            let place = link.pushes().saturating_sub(2);
            if self.faults.swaps > 0 && self.rng.one_in(self.faults.swaps) {
                link.swap(place);
            }
        }
    }

    /// A node's thread, its connections and the server do one thing. False if there is nothing.
    pub fn work(&mut self, node: usize) -> bool {
        let Self { nodes, server, .. } = self;
        let between = &mut nodes[node].between;
        if between.link.is_idle() {
            return false;
        }
        match self.rng.below(5) {
            4 => {
                if let Some(passed) = between.link.retry(server, self.now) {
                    self.broadcast(passed);
                }
            }
            // The two connections are not in step.
            0 if self.rng.one_in(4) && between.link.overtake() => {}
            0 => {
                let said = between.link.take(server);
                nodes[node].say(said);
            }
            1 => {
                if let Some(passed) = between.link.execute(server, self.now) {
                    self.broadcast(passed);
                }
            }
            2 => {
                let said = between.link.reply();
                nodes[node].say(said);
            }
            _ => {
                if let Some(push) = between.link.pushed() {
                    nodes[node].arrive(push);
                }
            }
        }
        let said = self.nodes[node].between.link.expire(self.now);
        self.nodes[node].say(said);
        true
    }

    pub fn drop_commands(&mut self, node: usize) {
        let done = self.rng.below(4) as usize;
        let Self { nodes, server, now, .. } = self;
        if !nodes[node].between.link.commands_up {
            return;
        }
        for passed in nodes[node].between.link.drop_commands(server, done, *now) {
            self.broadcast(passed);
        }
    }

    pub fn connect_commands(&mut self, node: usize) {
        let Self { nodes, server, now, .. } = self;
        if !nodes[node].between.link.commands_up {
            let said = nodes[node].between.link.connect_commands(server, *now);
            nodes[node].say(said);
        }
    }

    pub fn drop_subs(&mut self, node: usize) {
        if !self.nodes[node].between.link.subs_up {
            return;
        }
        let kept = self.rng.below(6);
        for _ in 0..kept {
            if let Some(push) = self.nodes[node].between.link.pushed() {
                self.nodes[node].arrive(push);
            }
        }
        let happening = self.nodes[node].between.link.drop_subs(&mut self.server);
        self.nodes[node].say_all(&happening);
    }

    pub fn connect_subs(&mut self, node: usize) {
        if !self.nodes[node].between.link.subs_up {
            let happening = self.nodes[node].between.link.connect_subs(&self.server);
            self.nodes[node].say_all(&happening);
        }
    }

    /// Another server takes over: every connection is lost, and what was not saved.
    pub fn fail_over(&mut self, state: State) {
        self.nodes[0].between.trace(|| "another server takes over".to_owned());
        for node in 0..self.nodes.len() {
            self.drop_commands(node);
            self.drop_subs(node);
        }
        self.server.fail_over(state);
    }

    /// A channel goes on its way to another server, or comes there.
    pub fn move_channel(&mut self, channel: &str) {
        let nodes = self.nodes.len();
        self.server.slots.go_on(channel, nodes);
    }

    /// A node hears of a move, or listens at the new place. False if there is none.
    pub fn follow_move(&mut self, node: usize) -> bool {
        let Self { nodes, server, rng, .. } = self;
        let link = &mut nodes[node].between.link;
        // Mostly the old server says that it has given the channel away.
        let life = if rng.one_in(4) { Life::Other } else { Life::Same };
        let heard = if rng.one_in(2) { server.slots.hear(node) } else { None };
        let number = rng.draw() as usize;
        let said = match &heard {
            Some(channel) => link.hear_of_move(channel, life, server),
            None => link.end_move(number),
        };
        let some = heard.is_some() || said.is_some();
        said.iter().for_each(|said| nodes[node].say_all(said));
        some
    }

    /// All that are on their way arrive, and every node knows.
    pub fn end_moves(&mut self) {
        for channel in self.server.slots.under_way() {
            while self.server.slots.under_way().contains(&channel) {
                self.move_channel(&channel);
            }
        }
        for node in 0..self.nodes.len() {
            while self.server.slots.is_behind(node) || self.follow_move(node) {
                self.follow_move(node);
            }
        }
    }

    /// Connects everything, and lets time pass with all that happens in it.
    pub fn settle(&mut self, time: Duration) {
        self.end_moves();
        for node in 0..self.nodes.len() {
            self.connect_commands(node);
            self.connect_subs(node);
        }
        let end = self.now + time;
        let mut turns = 0;
        while let Some(next) = self.rest().filter(|next| *next <= end) {
            turns += 1;
            assert!(turns < TURNS_MAX, "somebody wants turn after turn");
            let time = next.saturating_sub(self.now).max(Duration::from_millis(1));
            self.pass(time);
        }
        self.pass(end.saturating_sub(self.now));
        self.rest();
    }

    /// Lets all that is under way arrive. Gives the next time at which something is to be done.
    fn rest(&mut self) -> Option<Duration> {
        for _ in 0..1_000_000 {
            let (mut busy, mut next) = (false, None::<Duration>);
            for node in 0..self.nodes.len() {
                busy |= self.work(node);
                while self.nodes[node].step() {
                    busy = true;
                }
                for core in 0..self.nodes[node].hubs.len() {
                    let wants = self.nodes[node].turn(core);
                    next = [next, wants].into_iter().flatten().min();
                }
                busy |= !self.nodes[node].between.link.is_idle();
            }
            if !busy {
                return next;
            }
        }
        panic!("it does not come to rest");
    }
}

impl Between {
    fn trace(&self, line: impl FnOnce() -> String) {
        if self.traces {
            let line: String = line().chars().take(400).collect();
            println!("{:?} node {} {line}", self.now, self.node);
        }
    }
}

/// Times at which something is due within one [`World::settle`], at most.
const TURNS_MAX: u32 = 100_000;
