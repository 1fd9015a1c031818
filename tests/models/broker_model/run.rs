//! What happens, drawn from a seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;

use ringhold::gateway::broker::Limits;
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::hub::{MirrorCounters, Subscribe};
use ringhold::gateway::hub_port::Link;
use ringhold::gateway::letters::{Answer, ClientId, Publish, Question, Recover, RecoverMode};
use ringhold::gateway::local::Wants;
use ringhold::gateway::stream::{Epoch, Position, Read, StreamOptions};
use ringhold::gateway::wire::{Encoding, Error};
use ringhold::internals::rng::Rng;

use super::audit::{self, Audit, What};
use super::client::{Client, Place, Strict, Sub};
use super::server::{Server, State};
use super::world::{Asked, Faults, Node, World};

/// Without history, with little, and with enough.
const CHANNELS: [&str; 6] = ["plain:1", "plain:2", "short:1", "short:2", "long:1", "long:2"];
const STEPS: u32 = 1200;
const PERSONS: usize = 10;
pub const PRESENCE_TTL: Duration = Duration::from_secs(6);
pub const CHECK: Duration = Duration::from_secs(4);
/// Within this time after connections are there again everything is repaired: questions that had no
/// answer are repeated several times.
const PROMPT: Duration = Duration::from_millis(1500);

pub fn stream(channel: &str) -> Option<StreamOptions> {
    let seconds = Duration::from_secs;
    match channel.split_once(':')?.0 {
        "short" => Some(StreamOptions { size: 3, ttl: seconds(3), meta_ttl: seconds(30) }),
        "long" => Some(StreamOptions { size: 2000, ttl: seconds(9000), meta_ttl: seconds(90_000) }),
        _ => None,
    }
}

macro_rules! covered {
    ($($(#[$doc:meta])* $name:ident: $floor:literal,)*) => {
        /// What a run has met. A model that never meets something checks nothing of it.
        #[derive(Debug, Default)]
        pub struct Covered {
            $($(#[$doc])* pub $name: u64,)*
            /// Publications that followed others than those that the subscriber had, where nothing
            /// was retained that could have told.
            pub crossed: u64,
        }

        impl Covered {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                self.crossed += other.crossed;
            }

            pub fn check(self) {
                $(assert!(self.$name >= $floor, "too little was met: {self:?}");)*
            }
        }
    };
}

covered! {
    delivered: 50_000,
    patches: 500,
    joins: 500,
    told: 500,
    recovered: 2_000,
    recovered_publications: 2_000,
    unrecovered: 200,
    rejected: 50,
    /// Subscriptions that found no broker in time.
    late: 50,
    withdrawn: 200,
    published: 20_000,
    /// Publications that were there already.
    suppressed: 200,
    /// Publications and questions that had no answer from the server.
    failed: 500,
    lost: 500,
    doubled: 500,
    refused: 200,
    failovers: 100,
    restarts: 100,
    /// Channels that have got another server, and requests that came back meanwhile.
    moved: 5_000,
    strayed: 1_000,
    trimmed: 1_000,
    gaps: 500,
    repaired: 300,
    unrepaired: 20,
    forks: 10,
    epochs: 50,
    /// Epochs that nodes had left, and that a server went on in.
    returned: 3,
    duplicates: 500,
    local_recoveries: 200,
    local_answers: 200,
    checks: 1_000,
    removed: 50,
    /// Histories and members that were told, and looked at.
    histories: 2_000,
    presences: 500,
}

struct Published {
    node: usize,
    at_home: bool,
    channel: &'static str,
    data: Bytes,
    asked: Asked,
    /// The life of the server in which it was asked for.
    run: u64,
    /// The answer was seen.
    told: bool,
}

pub struct Run {
    pub world: World,
    rng: Rng,
    clients: Vec<Client>,
    known: Vec<HashMap<String, Place>>,
    published: Vec<Published>,
    audit: Audit,
    strict: Strict,
    /// Channels move all the time.
    travels: bool,
    /// The server's life when everything was at rest last, and epochs ended by then.
    life: (u64, u64),
    /// Counts links, tickets and publications.
    count: u64,
    covered: Covered,
}

impl Run {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 11);
        let gentle = rng.one_in(4);
        let faults = Faults {
            loses: [0, 10, 40][rng.below(3) as usize],
            doubles: [0, 10, 40][rng.below(3) as usize],
            swaps: [0, 10, 40][rng.below(3) as usize],
        };
        let limits = HomeLimits {
            position_check: CHECK,
            history_bytes: if gentle || rng.one_in(2) { 1 << 28 } else { 20_000 },
            ..HomeLimits::default()
        };
        let requests = if gentle || rng.one_in(2) { 65_536 } else { 6 };
        let broker = Limits { requests, presence_ttl: PRESENCE_TTL, ..Limits::default() };
        let mut server = Server::new(PRESENCE_TTL);
        server.slots.sharded = rng.one_in(2);
        let travels = rng.one_in(3);
        let nodes = 2 + rng.below(3) as usize;
        let capacity = [6, 20, usize::MAX, usize::MAX][rng.below(4) as usize];
        let nodes = (0..nodes).map(|number| {
            let cores = 1 + rng.below(3) as usize;
            let mut node = Node::new(number, cores, rng.draw(), limits, broker);
            node.between.capacity = if gentle { usize::MAX } else { capacity };
            node
        });
        let nodes = nodes.collect();
        let world = World::new(Rng::new(rng.draw()), server, nodes, faults);
        Self {
            world,
            rng,
            clients: Vec::new(),
            known: vec![HashMap::new(); PERSONS],
            published: Vec::new(),
            audit: Audit::default(),
            strict: Strict { gentle },
            travels,
            life: (0, 0),
            count: 0,
            covered: Covered::default(),
        }
    }

    pub fn run(mut self) -> Covered {
        for node in 0..self.world.nodes.len() {
            if !self.rng.one_in(4) {
                self.world.connect_commands(node);
                self.world.connect_subs(node);
            }
        }
        for _ in 0..STEPS {
            self.act();
            self.look();
            if self.rng.one_in(400) {
                self.settle();
            }
        }
        self.settle();
        self.end();
        self.covered
    }

    fn count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.below(of.len() as u32) as usize]
    }

    fn place(&mut self) -> (usize, usize) {
        let node = self.rng.below(self.world.nodes.len() as u32) as usize;
        (node, self.rng.below(self.world.nodes[node].hubs.len() as u32) as usize)
    }

    fn act(&mut self) {
        if self.travels && self.rng.one_in(12) {
            return self.travel();
        }
        match self.rng.below(200) {
            0..6 => self.connect(),
            6..9 => self.disconnect(),
            9..27 => self.subscribe(),
            27..36 => self.unsubscribe(),
            36..64 => self.publish(),
            64..68 => self.ask(),
            68..69 => self.fault(),
            69..74 => self.mend(),
            74..85 => {
                let (node, core) = self.place();
                self.world.nodes[node].turn(core);
            }
            85..88 => {
                let time = Duration::from_millis(self.rng.below(300).into());
                self.world.pass(time);
            }
            88..89 => {
                let time = Duration::from_millis(self.rng.below(3000).into());
                self.world.pass(time);
            }
            89..140 => {
                let (node, _) = self.place();
                self.world.work(node);
            }
            _ => {
                let (node, _) = self.place();
                self.world.nodes[node].step();
            }
        }
    }

    /// Channels are on their way again before all nodes have followed.
    fn travel(&mut self) {
        let (node, _) = self.place();
        match self.rng.below(3) {
            0 => _ = self.world.follow_move(node),
            _ => {
                let channel = self.pick(&["long:1", "long:2", "plain:1"]);
                self.world.move_channel(channel);
            }
        }
    }

    fn fault(&mut self) {
        let (node, _) = self.place();
        match self.rng.below(14) {
            10.. => {
                let channel = self.pick(&CHANNELS);
                self.world.move_channel(channel);
            }
            0..3 => self.world.drop_commands(node),
            3..6 => self.world.drop_subs(node),
            6 => {
                self.world.drop_commands(node);
                self.world.drop_subs(node);
            }
            7 => self.world.saved = self.world.server.state.clone(),
            8 if !self.strict.gentle => {
                let saved = match self.rng.one_in(3) {
                    // Nothing is lost.
                    true => self.world.server.state.clone(),
                    false => self.world.saved.clone(),
                };
                self.world.fail_over(saved);
                self.covered.failovers += 1;
            }
            9 if !self.strict.gentle => {
                self.world.fail_over(State::default());
                self.world.saved = State::default();
                self.covered.restarts += 1;
            }
            _ => {}
        }
    }

    fn mend(&mut self) {
        let (node, _) = self.place();
        // The renewal of an epoch is lost with a server's end.
        if !self.strict.gentle
            && let Some(before) = self.world.server.before_renewal.take()
        {
            self.world.fail_over(before);
            self.covered.failovers += 1;
        }
        match self.rng.below(4) {
            0 => self.world.connect_commands(node),
            1 => self.world.connect_subs(node),
            2 => {
                let under_way = self.world.server.slots.under_way();
                if let Some(channel) = under_way.first() {
                    self.world.move_channel(channel);
                }
            }
            _ => _ = self.world.follow_move(node),
        }
    }

    /// Lets every client look at what came, and go if it was told to.
    fn look(&mut self) {
        let mut place = 0;
        while place < self.clients.len() {
            let client = &mut self.clients[place];
            let inbox = &mut self.world.nodes[client.node].between.inbox;
            let seen = std::mem::take(inbox.get_mut(&client.link).expect("it is connected"));
            client.look(seen, &self.world.server, &mut self.covered, &self.strict);
            match client.closed {
                true => self.remove(place),
                false => place += 1,
            }
        }
        self.look_at_answers();
    }

    fn look_at_answers(&mut self) {
        let World { server, now, .. } = &mut self.world;
        for published in self.published.iter_mut().filter(|it| !it.told) {
            let Some(answer) = published.asked.get() else { continue };
            published.told = true;
            if let Ok(Answer::Published { position: Some(position), .. }) = answer
                && published.run == server.run
            {
                self.audit.published(published.node, published.channel, server.run, &position);
            }
        }
        self.audit.look(server, *now, &mut self.covered);
    }

    fn connect(&mut self) {
        let free: Vec<_> = (0..PERSONS)
            .filter(|person| !self.clients.iter().any(|client| client.person == *person))
            .collect();
        if free.is_empty() {
            return;
        }
        let person = self.pick(&free);
        let (node, core) = self.place();
        let link = Link(self.count());
        let id = ClientId::new(link.0.into());
        let user = ["ann", "bob"][person % 2];
        self.audit.homes.insert(id, node);
        self.world.nodes[node].between.inbox.insert(link, Vec::new());
        let key = self.world.nodes[node]
            .at(core, |hub, _| hub.connect(link, id, user, Encoding::Protobuf));
        let (subs, known) = (BTreeMap::new(), std::mem::take(&mut self.known[person]));
        let closed = false;
        self.clients.push(Client { node, core, key, link, id, person, subs, known, closed });
    }

    fn disconnect(&mut self) {
        if !self.clients.is_empty() {
            let place = self.rng.below(self.clients.len() as u32) as usize;
            self.remove(place);
        }
    }

    fn remove(&mut self, place: usize) {
        let mut client = self.clients.swap_remove(place);
        for (channel, sub) in std::mem::take(&mut client.subs) {
            self.covered.withdrawn += u64::from(sub.live.is_none());
            client.keep_place(channel, &sub);
        }
        let node = &mut self.world.nodes[client.node];
        node.at(client.core, |hub, out| hub.disconnect(out, client.key));
        node.between.inbox.remove(&client.link).expect("it was connected");
        self.known[client.person] = client.known;
    }

    fn subscribe(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let place = self.rng.below(self.clients.len() as u32) as usize;
        let (channel, ticket) = (self.pick(&CHANNELS), self.count());
        let stream = stream(channel);
        let positioned = stream.is_some() && !self.rng.one_in(5);
        let known = self.clients[place].known.get(channel).cloned();
        let cached = positioned && known.is_none() && self.rng.one_in(3);
        let since = match positioned {
            true if cached => Some((0, String::new())),
            true => known.filter(|_| !self.rng.one_in(4)),
            false => None,
        };
        let sub = Sub {
            ticket,
            positioned,
            delta: self.rng.one_in(2),
            present: self.rng.one_in(2),
            server_side: self.rng.one_in(4),
            cached,
            or_reject: !cached && self.rng.one_in(4),
            since: since.clone(),
            live: None,
        };
        let mode = if cached { RecoverMode::Cache } else { RecoverMode::Stream };
        let subscribe = Subscribe {
            ticket,
            wants: Wants {
                positioned,
                recoverable: positioned,
                delta: sub.delta,
                compact: false,
                joins: ticket.is_multiple_of(3),
                server_side: sub.server_side,
                by_token: false,
            },
            stream: stream.filter(|_| positioned),
            recover: since.map(|(offset, epoch)| Recover {
                since: Position { offset, epoch },
                mode,
                limit: if self.strict.gentle { 0 } else { [0, 5, 300][ticket as usize % 3] },
                max_bytes: 0,
                or_reject: sub.or_reject,
            }),
            filter: None,
            present: sub.present,
            announced: ticket.is_multiple_of(2),
            conn_info: Bytes::new(),
            chan_info: Bytes::from_static(b"{}"),
        };
        let client = &mut self.clients[place];
        if client.subs.contains_key(channel) {
            return;
        }
        client.subs.insert(channel.to_owned(), sub);
        let (core, key) = (client.core, client.key);
        let node = &mut self.world.nodes[client.node];
        let subscribed = node.at(core, |hub, out| hub.subscribe(out, key, channel, subscribe));
        if let Err(error) = subscribed {
            assert_eq!(error, Error::TOO_MANY_REQUESTS);
            client.subs.remove(channel);
        }
    }

    fn unsubscribe(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let place = self.rng.below(self.clients.len() as u32) as usize;
        let channel = self.pick(&CHANNELS);
        let client = &mut self.clients[place];
        let (core, key) = (client.core, client.key);
        let node = &mut self.world.nodes[client.node];
        let ended = node.at(core, |hub, out| hub.unsubscribe(out, key, channel));
        // What it has not looked at, it has not seen.
        node.between.inbox.entry(client.link).or_default().clear();
        assert_eq!(ended, client.subs.contains_key(channel));
        if let Some(sub) = client.subs.remove(channel) {
            self.covered.withdrawn += u64::from(sub.live.is_none());
            client.keep_place(channel.to_owned(), &sub);
        }
    }

    fn publish(&mut self) {
        let ((node, core), channel, number) = (self.place(), self.pick(&CHANNELS), self.count());
        let filler = ["abcdefgh".repeat(8), String::new()];
        let data =
            Bytes::from(format!("{{\"n\":{number},\"t\":\"{}\"}}", filler[number as usize % 2]));
        let idempotency_key = match self.rng.one_in(8) {
            true => format!("key {}", self.rng.below(20)),
            false => String::new(),
        };
        let stream = stream(channel).filter(|_| !self.rng.one_in(10));
        let versioned = stream.is_some() && self.rng.one_in(8);
        let publish = Publish {
            data: data.clone(),
            stream,
            idempotency_key,
            version: if versioned { number / 40 + u64::from(self.rng.below(3)) } else { 0 },
            ..Publish::default()
        };
        let at_home = self.world.nodes[node].hubs[0].placement().home(channel) == core;
        let asked = self.world.nodes[node].ask(core, channel, Question::Publish(publish));
        let (run, told) = (self.world.server.run, false);
        self.published.push(Published { node, at_home, channel, data, asked, run, told });
    }

    fn ask(&mut self) {
        let ((node, core), channel) = (self.place(), self.pick(&CHANNELS));
        let (question, what) = match (stream(channel), self.rng.below(8)) {
            (_, 0) => (Question::Presence, What::Presence),
            (_, 1) => (Question::PresenceStats, What::Other),
            (_, 2) => (Question::Members { encoding: Encoding::Json, max: 1 << 20 }, What::Other),
            (Some(_), 3) if !self.strict.gentle => {
                self.covered.removed += 1;
                (Question::HistoryRemove, What::Remove)
            }
            (Some(stream), _) => {
                let read = Read {
                    limit: [-1, 0, 3][self.rng.below(3) as usize],
                    reverse: self.rng.one_in(2),
                    max: 300,
                    ..Read::default()
                };
                (Question::History { stream, read: read.clone() }, What::History(read))
            }
            (None, _) => (Question::Presence, What::Presence),
        };
        // What was answered before counts.
        self.look_at_answers();
        let asked = self.world.nodes[node].ask(core, channel, question);
        let World { server, now, .. } = &mut self.world;
        self.audit.ask((node, channel), (what, asked), server, *now);
    }

    fn life_of_server(&self) -> (u64, u64) {
        (self.world.server.run, self.world.server.renewals)
    }

    /// Connects everything, lets enough time pass for everything to be found out, and compares.
    fn settle(&mut self) {
        let faults =
            std::mem::replace(&mut self.world.faults, Faults { loses: 0, doubles: 0, swaps: 0 });
        // Of an epoch that another node has ended, a node hears with the next publication.
        let life = self.life_of_server();
        let same_life = std::mem::replace(&mut self.life, life) == life;
        let nothing_lost = faults.loses == 0 && same_life;
        let capacities: Vec<_> =
            self.world.nodes.iter().map(|node| node.between.capacity).collect();
        self.world.nodes.iter_mut().for_each(|node| node.between.capacity = usize::MAX);
        if nothing_lost {
            // What is known to be missing does not wait until positions are compared in their turn.
            self.world.settle(PROMPT);
            self.look();
            if life == self.life_of_server() {
                self.compare_positions();
            }
        }
        for _ in 0..3 {
            self.world.settle(2 * CHECK);
            // Who is told to goes, which others may hear of.
            self.look();
        }
        self.compare_positions();
        self.compare_listening();
        self.compare_presence();
        self.compare_answers();
        self.compare_histories();
        for (node, capacity) in self.world.nodes.iter_mut().zip(capacities) {
            node.between.capacity = capacity;
        }
        self.world.faults = faults;
        // What comes after this may be lost.
        self.world.saved = self.world.server.state.clone();
    }

    fn compare_positions(&mut self) {
        let now = self.world.now;
        for client in &self.clients {
            client.settled(&mut self.world.server, now);
            let positioned = client.subs.iter().filter(|(_, sub)| sub.positioned);
            for channel in positioned.map(|(channel, _)| channel) {
                let Some((epoch, _)) = self.world.server.position(channel, now) else { continue };
                let place = (client.node, channel.clone(), epoch);
                assert!(!self.world.server.ended.contains(&place), "{place:?} has come back");
            }
        }
    }

    /// The server passes on what anybody waits for, be it positioned or not.
    fn compare_listening(&self) {
        for client in &self.clients {
            for channel in client.subs.keys() {
                let listens = self.world.server.listeners(channel).contains(&client.node);
                assert!(listens, "{channel}: node {} does not listen to it", client.node);
            }
        }
    }

    fn compare_presence(&mut self) {
        let now = self.world.now;
        for channel in CHANNELS {
            let there = self.clients.iter().filter(|client| {
                client.subs.get(channel).is_some_and(|sub| sub.present && sub.live.is_some())
            });
            let there: BTreeSet<_> = there.map(|client| client.id).collect();
            assert_eq!(self.world.server.members(channel, now), there, "{channel}");
        }
    }

    /// Everything was answered, and what was said to be published was.
    fn compare_answers(&mut self) {
        let orderly = self.world.server.run == 0;
        let mut last: HashMap<(usize, &str, Epoch), u64> = HashMap::new();
        for Published { node, at_home, channel, data, asked, .. } in
            std::mem::take(&mut self.published)
        {
            match asked.get().expect("every publication is answered") {
                Ok(Answer::Published { position, suppressed: false, .. }) => {
                    self.covered.published += 1;
                    let Some(position) = position else {
                        assert!(self.world.server.passed.contains(&(channel.to_owned(), data)));
                        continue;
                    };
                    let place = (channel.to_owned(), position.epoch, position.offset);
                    let log = self.world.server.log.get(&place).into_iter().flatten();
                    assert!(log.into_iter().any(|logged| logged.data == data), "{place:?}");
                    // Where nothing is trimmed, what was done before the connection broke is found.
                    if at_home && orderly && channel.starts_with("long") {
                        let before = last.insert((node, channel, position.epoch), position.offset);
                        assert!(before < Some(position.offset), "{channel}: out of order");
                    }
                }
                Ok(Answer::Published { .. }) => self.covered.suppressed += 1,
                Ok(answer) => panic!("{answer:?}"),
                Err(error) => {
                    assert!([Error::INTERNAL, Error::TOO_MANY_REQUESTS].contains(&error));
                    self.covered.failed += 1;
                }
            }
        }
        self.audit.settled();
    }

    /// Every node tells the history as the server has it.
    fn compare_histories(&mut self) {
        for channel in ["long:1", "long:2"] {
            let Some(stream) = stream(channel) else { continue };
            // Whether a node has heard of a removal is not promised.
            if self.audit.cleared.contains(channel) {
                continue;
            }
            for node in 0..self.world.nodes.len() {
                let read = Read { limit: -1, ..Read::default() };
                let question = Question::History { stream, read };
                let asked = self.world.nodes[node].ask(0, channel, question);
                self.world.settle(Duration::ZERO);
                match asked.get() {
                    Some(Ok(Answer::History(history))) => {
                        let World { server, now, .. } = &mut self.world;
                        audit::agrees(channel, &history, server, *now);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// Everybody goes, and nothing stays.
    fn end(&mut self) {
        while !self.clients.is_empty() {
            self.remove(0);
        }
        self.world.settle(2 * PRESENCE_TTL);
        self.compare_presence();
        assert_eq!(self.world.server.subscriptions(), 0, "somebody listens");
        for node in &self.world.nodes {
            self.covered.refused += node.between.refused;
            self.covered.strayed += node.between.link.strayed;
            for hub in &node.hubs {
                assert!(hub.is_empty(), "something is left: {hub:?}");
                let counters = hub.mirror_counters().expect("it has a broker");
                self.covered.count(&counters);
            }
        }
        self.covered.moved = self.world.server.slots.count;
        self.covered.lost = self.world.lost;
        self.covered.doubled = self.world.doubled;
        self.covered.trimmed = self.world.server.trimmed;
    }
}

impl Covered {
    fn count(&mut self, counters: &MirrorCounters) {
        let MirrorCounters { gaps, repaired, unrepaired, forks, epochs, returned, .. } = *counters;
        let MirrorCounters { duplicates, local_recoveries, local_answers, checks, .. } = *counters;
        self.gaps += gaps;
        self.repaired += repaired;
        self.unrepaired += unrepaired;
        self.forks += forks;
        self.epochs += epochs;
        self.returned += returned;
        self.duplicates += duplicates;
        self.local_recoveries += local_recoveries;
        self.local_answers += local_answers;
        self.checks += checks;
    }
}
