//! What happens, drawn from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use ringhold::gateway::filter::Filter;
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::hub::Subscribe;
use ringhold::gateway::hub_port::Link;
use ringhold::gateway::letters::{
    Action, Answer, ClientId, Gather, Publish, Question, Recover, RecoverMode, UserOrder,
};
use ringhold::gateway::local::Wants;
use ringhold::gateway::stream::{Position, Read, StreamOptions};
use ringhold::gateway::wire::messages::FilterNode;
use ringhold::gateway::wire::{Disconnect, Encoding, Error, Unsubscribe};
use ringhold::internals::rng::Rng;

use super::client::{Client, Sub};
use super::truth::Request;
use super::world::{Asked, World};

/// Without history, with little, and with enough.
const CHANNELS: [&str; 6] = ["plain:1", "plain:2", "short:1", "short:2", "long:1", "long:2"];
const USERS: [&str; 3] = ["", "ann", "bob"];
const RECOVERY_LIMIT: u32 = 20;
const STEPS: u32 = 1500;

fn stream(channel: &str) -> Option<StreamOptions> {
    let seconds = Duration::from_secs;
    match channel.split_once(':')?.0 {
        "short" => Some(StreamOptions { size: 3, ttl: seconds(2), meta_ttl: seconds(20) }),
        "long" => Some(StreamOptions { size: 30, ttl: seconds(60), meta_ttl: seconds(1000) }),
        _ => None,
    }
}

/// What a run has met. A model that never meets something checks nothing of it.
#[derive(Debug, Default)]
pub struct Covered {
    pub delivered: u64,
    pub patches: u64,
    pub joins: u64,
    pub insufficient: u64,
    pub recovered: u64,
    pub recovered_publications: u64,
    pub rejected: u64,
    /// Subscriptions that ended before they were answered.
    pub withdrawn: u64,
    /// Subscriptions whose letter was not taken.
    pub refused: u64,
    /// Publications that were there already.
    pub suppressed: u64,
    /// Letters with several publications.
    pub together: u64,
}

impl Covered {
    fn each(&mut self) -> [&mut u64; 11] {
        [
            &mut self.delivered,
            &mut self.patches,
            &mut self.joins,
            &mut self.insufficient,
            &mut self.recovered,
            &mut self.recovered_publications,
            &mut self.rejected,
            &mut self.withdrawn,
            &mut self.refused,
            &mut self.suppressed,
            &mut self.together,
        ]
    }

    pub fn add(&mut self, other: &Self) {
        let mut other = Self { ..*other };
        for (sum, more) in self.each().into_iter().zip(other.each()) {
            *sum += *more;
        }
    }

    pub fn check(mut self) {
        assert!(self.each().into_iter().all(|count| *count >= 50), "too little was met: {self:?}");
    }
}

pub struct Run {
    world: World,
    rng: Rng,
    clients: Vec<Client>,
    /// Counts links, tickets and publications.
    count: u64,
    covered: Covered,
}

impl Run {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 5);
        let cores = 1 + rng.below(4) as usize;
        let limits = HomeLimits {
            position_check: Duration::from_secs(4),
            // Some letters with publications take more turns than one.
            turn_deliveries: [6, u64::MAX / 2][rng.below(2) as usize],
            ..HomeLimits::default()
        };
        let mut world = World::new(cores, rng.draw(), limits);
        // Some worlds lose letters all the time, some never.
        world.shared.capacity = [4, 12, 40, usize::MAX][rng.below(4) as usize];
        Self { world, rng, clients: Vec::new(), count: 0, covered: Covered::default() }
    }

    pub fn run(mut self) -> Covered {
        for _ in 0..STEPS {
            self.act();
            self.look();
            if self.rng.one_in(300) {
                self.settle();
            }
        }
        self.settle();
        self.end();
        self.covered.together = self.world.shared.together;
        self.covered
    }

    fn count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.below(of.len() as u32) as usize]
    }

    fn core(&mut self) -> usize {
        self.rng.below(self.world.hubs.len() as u32) as usize
    }

    fn act(&mut self) {
        match self.rng.below(100) {
            0..4 => self.connect(),
            4..6 => self.disconnect(),
            6..18 => self.subscribe(),
            18..24 => self.unsubscribe(),
            24..45 => self.publish(),
            45..48 => self.publish_several(),
            48..49 => self.order(),
            49..53 => self.turn(),
            53..54 => self.world.shared.now += Duration::from_millis(self.rng.below(3000).into()),
            _ => _ = self.world.step(),
        }
    }

    /// Lets every client look at what came, and go if it was told to, which others hear of.
    fn look(&mut self) {
        while self.world.shared.inbox.values().any(|inbox| !inbox.is_empty()) {
            self.look_once();
        }
    }

    fn look_once(&mut self) {
        let mut place = 0;
        while place < self.clients.len() {
            let client = &mut self.clients[place];
            let inbox = self.world.shared.inbox.get_mut(&client.link).expect("it is connected");
            let seen = std::mem::take(inbox);
            client.look(seen, &self.world.shared.truth, &mut self.covered);
            match client.closed {
                true => self.remove(place),
                false => place += 1,
            }
        }
    }

    fn connect(&mut self) {
        if self.clients.len() >= 12 {
            return;
        }
        let (core, user) = (self.core(), self.pick(&USERS));
        let link = Link(self.count());
        let id = ClientId::new(link.0.into());
        let encoding = self.pick(&[Encoding::Json, Encoding::Protobuf]);
        self.world.shared.inbox.insert(link, Vec::new());
        let key = self.world.at(core, |hub, _| hub.connect(link, id, user, encoding));
        let (subs, known, ids) = Default::default();
        let closed = false;
        self.clients.push(Client { core, key, link, id, user, encoding, subs, known, ids, closed });
    }

    fn disconnect(&mut self) {
        if !self.clients.is_empty() {
            let place = self.rng.below(self.clients.len() as u32) as usize;
            self.remove(place);
        }
    }

    fn remove(&mut self, place: usize) {
        let client = self.clients.swap_remove(place);
        self.covered.withdrawn +=
            client.subs.values().filter(|sub| sub.live.is_none()).count() as u64;
        let before = self.world.shared.inbox[&client.link].len();
        self.world.at(client.core, |hub, out| hub.disconnect(out, client.key));
        let seen = self.world.shared.inbox.remove(&client.link).expect("it was connected");
        assert_eq!(seen.len(), before, "{seen:?}: something was sent to who is gone");
    }

    fn subscribe(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let place = self.rng.below(self.clients.len() as u32) as usize;
        let channel = self.pick(&CHANNELS);
        let ticket = self.count();
        let (sub, request) = self.draw_subscription(place, channel, ticket);
        let Self { world, clients, .. } = self;
        let client = &mut clients[place];
        let had_one = client.subs.contains_key(channel);
        let subscribe = Subscribe {
            ticket,
            wants: Wants {
                positioned: sub.positioned,
                recoverable: sub.positioned,
                delta: sub.delta,
                compact: ticket.is_multiple_of(3),
                joins: sub.joins,
                server_side: sub.server_side,
                by_token: false,
            },
            stream: request.stream,
            recover: request.since.clone().map(|since| Recover {
                since,
                mode: RecoverMode::Stream,
                max_bytes: 0,
                limit: RECOVERY_LIMIT,
                or_reject: sub.or_reject,
            }),
            filter: sub.filtered.then(odd),
            present: sub.present,
            announced: ticket.is_multiple_of(2),
            conn_info: Bytes::new(),
            chan_info: Bytes::from_static(b"{}"),
        };
        if !had_one {
            world.shared.truth.requests.insert(ticket, request);
            client.subs.insert(channel.to_owned(), sub);
        }
        let (core, key) = (client.core, client.key);
        match world.at(core, |hub, out| hub.subscribe(out, key, channel, subscribe)) {
            Ok(_) => assert!(!had_one),
            Err(error) if error == Error::ALREADY_SUBSCRIBED => assert!(had_one),
            Err(error) => {
                assert_eq!(error, Error::TOO_MANY_REQUESTS);
                assert!(world.shared.capacity < usize::MAX);
                client.subs.remove(channel);
                self.covered.refused += 1;
            }
        }
    }

    fn draw_subscription(&mut self, place: usize, channel: &str, ticket: u64) -> (Sub, Request) {
        let known = self.clients[place].known.get(channel).cloned();
        let stream = stream(channel);
        let positioned = stream.is_some() && !self.rng.one_in(5);
        let mut since = None;
        if positioned && self.rng.below(3) > 0 {
            // What it saw itself, what another saw, or nothing it could have seen.
            let (offset, epoch) = match (known, self.rng.below(12)) {
                (_, 0) => (0, String::new()),
                (_, 1) => (2, "elsewhen".to_owned()),
                (Some((offset, epoch)), 2) => (offset + 1, epoch),
                (Some(known), _) => known,
                (None, _) => self.world.shared.truth.channel(channel).top.clone(),
            };
            since = Some(Position { offset, epoch });
        }
        let filtered = self.rng.one_in(4);
        let sub = Sub {
            ticket,
            positioned,
            filtered,
            delta: self.rng.one_in(2),
            joins: self.rng.one_in(3),
            present: self.rng.one_in(2),
            recovering: since.is_some(),
            or_reject: self.rng.one_in(3),
            server_side: self.rng.one_in(4),
            live: None,
        };
        let channel = channel.to_owned();
        let stream = stream.filter(|_| positioned);
        (sub, Request { channel, stream, since, limit: RECOVERY_LIMIT })
    }

    fn unsubscribe(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let place = self.rng.below(self.clients.len() as u32) as usize;
        let channel = self.pick(&CHANNELS);
        let client = &mut self.clients[place];
        let (core, key) = (client.core, client.key);
        let had_one = client.subs.contains_key(channel);
        let ended = self.world.at(core, |hub, out| hub.unsubscribe(out, key, channel));
        assert_eq!(ended, had_one);
        let Some(sub) = client.subs.remove(channel) else { return };
        match &sub.live {
            Some(live) => client.keep_place(channel.to_owned(), live.place().clone(), &sub),
            None => self.covered.withdrawn += 1,
        }
    }

    fn publish(&mut self) {
        let (core, channel) = (self.core(), self.pick(&CHANNELS));
        let publish = self.publication(channel);
        let asked = self.world.ask(core, channel, Question::Publish(publish));
        self.note(&asked);
    }

    /// In one letter, mostly to one channel.
    fn publish_several(&mut self) {
        let (core, channel) = (self.core(), self.pick(&CHANNELS));
        let home = self.world.home(channel);
        let mut publications = Vec::new();
        for _ in 0..2 + self.rng.below(6) {
            let other = self.pick(&CHANNELS);
            let leaves = self.rng.one_in(4) && self.world.home(other) == home;
            let channel = if leaves { other } else { channel };
            publications.push((channel, self.publication(channel)));
        }
        for asked in self.world.ask_all(core, publications) {
            self.note(&asked);
        }
    }

    fn note(&mut self, asked: &Asked) {
        if let Some(Ok(Answer::Published { suppressed: true, .. })) = asked.take() {
            self.covered.suppressed += 1;
        }
    }

    fn publication(&mut self, channel: &str) -> Publish {
        let number = self.count();
        let filler = ["abcdefgh".repeat(8), "zürich und mehr ".repeat(6), String::new()];
        let filler = &filler[(number % 40).saturating_sub(37) as usize];
        let data = format!(r#"{{"n":{number},"text":"{filler}"}}"#);
        let tags = match self.rng.one_in(2) {
            true => BTreeMap::from([("odd".to_owned(), "1".to_owned())]),
            false => BTreeMap::new(),
        };
        let idempotency_key = match self.rng.one_in(6) {
            true => format!("key {}", self.rng.below(8)),
            false => String::new(),
        };
        let stream = stream(channel).filter(|_| !self.rng.one_in(8));
        let versioned = stream.is_some() && self.rng.one_in(5);
        Publish {
            data: data.into(),
            is_json: false,
            info: None,
            tags,
            stream,
            delta: !self.rng.one_in(4),
            idempotency_key,
            version: if versioned { number / 40 + u64::from(self.rng.below(3)) } else { 0 },
            version_epoch: self.pick(&["", "v1"]).to_owned(),
        }
    }

    /// The server API ends subscriptions and connections of a user.
    fn order(&mut self) {
        let (core, user) = (self.core(), self.pick(&USERS));
        let action = match self.rng.below(4) {
            0 => Action::Disconnect(Disconnect::FORCE_NO_RECONNECT),
            1 => Action::Unsubscribe { channel: None, why: Unsubscribe::SERVER },
            _ => Action::Unsubscribe {
                channel: Some(self.pick(&CHANNELS).into()),
                why: Unsubscribe::SERVER,
            },
        };
        let done = Gather::new(|_| {});
        let spare = Vec::new();
        let order = UserOrder { user: user.into(), client: None, spare, action, done };
        self.world.at(core, |hub, out| hub.order(out, &Arc::new(order)));
    }

    fn turn(&mut self) {
        let core = self.core();
        self.world.at(core, |hub, out| hub.turn(out));
    }

    /// Delivers everything, tells every core what it missed, and compares all there is.
    fn settle(&mut self) {
        let capacity = std::mem::replace(&mut self.world.shared.capacity, usize::MAX);
        // Who was closed for a loss goes, which others hear of.
        for _ in 0..3 {
            self.world.settle();
            self.world.pass(Duration::ZERO);
            self.look();
        }
        for client in &self.clients {
            client.settled(&self.world.shared.truth);
        }
        for channel in CHANNELS {
            self.compare_presence(channel);
            self.compare_history(channel);
        }
        for (core, hub) in self.world.hubs.iter().enumerate() {
            let here = self.clients.iter().filter(|client| client.core == core);
            let subs: usize = here.clone().map(|client| client.subs.len()).sum();
            let users: BTreeSet<_> = here.clone().map(|client| client.user).collect();
            let gauges = hub.gauges();
            assert_eq!(gauges.subscriptions, subs);
            assert_eq!((gauges.clients, gauges.users), (here.count(), users.len()));
        }
        self.world.shared.capacity = capacity;
    }

    fn answer(&mut self, channel: &str, question: Question) -> Answer {
        let core = self.core();
        let asked = self.world.ask(core, channel, question);
        self.world.settle();
        asked.take().expect("it is settled").expect("it works")
    }

    fn compare_presence(&mut self, channel: &str) {
        let Answer::Presence(result) = self.answer(channel, Question::Presence) else {
            panic!("no presence");
        };
        let there = self.clients.iter().filter(|client| client.shown_in().contains(channel));
        let ids: BTreeSet<_> = there.clone().map(|client| client.id.to_string()).collect();
        let found: BTreeSet<_> = result.into_iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!(found, ids);
        let users: BTreeSet<_> = there.map(|client| client.user).collect();
        let Answer::PresenceStats(stats) = self.answer(channel, Question::PresenceStats) else {
            panic!("no presence stats");
        };
        assert_eq!(
            (stats.num_clients as usize, stats.num_users as usize),
            (ids.len(), users.len())
        );
    }

    fn compare_history(&mut self, channel: &str) {
        let Some(stream) = stream(channel) else { return };
        let reverse = self.rng.one_in(2);
        let read = Read { limit: -1, reverse, ..Read::default() };
        let question = Question::History { stream, read };
        let Answer::History(result) = self.answer(channel, question) else { panic!("no history") };
        let now = self.world.shared.now;
        let truth = self.world.shared.truth.channel(channel);
        truth.used(&result.epoch, &stream, now);
        assert_eq!(result.offset, truth.top.0);
        let mut kept = truth.kept(now).to_vec();
        if reverse {
            kept.reverse();
        }
        let kept: Vec<_> = kept.iter().map(|index| truth.log[*index].data.as_slice()).collect();
        let read: Vec<_> = result.publications.iter().map(|it| it.data.as_ref()).collect();
        assert_eq!(read, kept);
    }

    /// Everybody goes, and nothing is left once all that expires has.
    fn end(&mut self) {
        while !self.clients.is_empty() {
            self.disconnect();
            self.look();
        }
        self.world.shared.capacity = usize::MAX;
        self.world.settle();
        self.world.shared.now += Duration::from_secs(2000);
        for _ in 0..200 {
            self.world.pass(Duration::from_millis(50));
        }
        for hub in &self.world.hubs {
            assert!(hub.is_empty(), "something is left: {:?}", hub.gauges());
        }
    }
}

fn odd() -> Arc<Filter> {
    let node = FilterNode { key: "odd".to_owned(), cmp: "ex".to_owned(), ..FilterNode::default() };
    Arc::new(Filter::new(&node).expect("a good filter"))
}
