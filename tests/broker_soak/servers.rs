//! The servers of a run, whichever kind they are, and what is done to them. Every change of who is
//! in charge ends with replicas that are in step again.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::dice::Dice;
use crate::support::cluster::Cluster;
use crate::support::redis::Redis;
use crate::support::sentinel::{Group, NAME};

/// See the module's text.
pub(crate) enum Servers {
    /// Three primaries with a replica each.
    Cluster(Cluster),
    /// A primary and a replica under three Sentinels.
    Group(Box<Group>),
}

/// Of a channel with a history, as a server has it.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) epoch: String,
    pub(crate) top: u64,
    /// Offsets and numbers.
    pub(crate) entries: Vec<(u64, u32)>,
}

/// Conditions of real servers on a machine with a lot to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// Waits for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Servers {
    pub(crate) fn cluster() -> Option<Self> {
        Cluster::start(3).map(Self::Cluster)
    }

    pub(crate) fn group() -> Option<Self> {
        Group::start(3).map(|group| Self::Group(Box::new(group)))
    }

    /// Servers on a machine with other work count as gone after a longer time only.
    pub(crate) fn be_patient(&self) {
        match self {
            Self::Cluster(cluster) => {
                for server in &cluster.servers {
                    server.cli(&["CONFIG", "SET", "cluster-node-timeout", "3000"]);
                }
            }
            Self::Group(group) => {
                for sentinel in &group.sentinels {
                    sentinel.cli(&["SENTINEL", "SET", NAME, "down-after-milliseconds", "3000"]);
                }
            }
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(crate) fn all(&self) -> &[Redis] {
        match self {
            Self::Cluster(cluster) => &cluster.servers,
            Self::Group(group) => &group.servers,
        }
    }

    fn all_mut(&mut self) -> &mut [Redis] {
        match self {
            Self::Cluster(cluster) => &mut cluster.servers,
            Self::Group(group) => &mut group.servers,
        }
    }

    /// All that a node speaks to.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let sentinels = match self {
            Self::Cluster(_) => &[][..],
            Self::Group(group) => &group.sentinels,
        };
        self.all().iter().chain(sentinels).map(Redis::port).collect()
    }

    /// Keys of `engine.redis` with which a node finds them at a host of its own.
    pub(crate) fn keys(&self, host: &str) -> String {
        let place = |server: &Redis| format!("{host}:{}", server.port());
        match self {
            Self::Cluster(cluster) => {
                let some: Vec<_> = cluster.servers.iter().take(3).map(place).collect();
                format!("cluster_address = [\"{}\"]\n", some.join(","))
            }
            Self::Group(group) => {
                let all: Vec<_> = group.sentinels.iter().map(place).collect();
                let all = all.join(",");
                format!("sentinel_address = [\"{all}\"]\nsentinel_master_name = \"{NAME}\"\n")
            }
        }
    }

    /// A key of a channel: of its history, and the like.
    pub(crate) fn key(&self, what: &str, channel: &str) -> String {
        match self {
            Self::Cluster(_) => format!("centrifugo.{what}.{{{channel}}}"),
            Self::Group(_) => format!("centrifugo.{what}.{channel}"),
        }
    }

    /// Whose replica a server is.
    fn primary_of(&self, replica: usize) -> usize {
        let port = self.all()[replica].info("master_port");
        let found = self.all().iter().position(|it| it.port().to_string() == port);
        found.expect("it is one of ours")
    }

    /// A primary and its replica, drawn; both are there and in step.
    pub(crate) fn pair(&self, dice: &mut Dice) -> (usize, usize) {
        self.are_well();
        let replicas: Vec<_> =
            (0..self.all().len()).filter(|it| self.all()[*it].info("role") == "slave").collect();
        let replica = replicas[dice.below(replicas.len())];
        (self.primary_of(replica), replica)
    }

    /// Waits until every primary has a replica that is in step, and all know all.
    pub(crate) fn are_well(&self) {
        for server in self.all() {
            until("replicas in step", || {
                let in_step = server.info("master_link_status") == "up";
                match server.info("role").as_str() {
                    "master" => server.info("connected_slaves") == "1",
                    _ => in_step && server.info("master_sync_in_progress") == "0",
                }
            });
        }
        match self {
            Self::Cluster(cluster) => {
                let whole = |it: &Redis| {
                    let info = it.cli(&["CLUSTER", "INFO"]);
                    info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
                };
                let (deadline, mut opened) = (Instant::now() + PATIENCE, Instant::now());
                while !cluster.servers.iter().all(whole) {
                    if opened.elapsed() > Duration::from_secs(5) {
                        cluster.mend();
                        opened = Instant::now();
                    }
                    if Instant::now() > deadline {
                        let all = cluster.servers.iter().map(|it| it.cli(&["CLUSTER", "NODES"]));
                        panic!("no whole cluster: {}", all.collect::<Vec<_>>().join("\n\n"));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Self::Group(group) => {
                for sentinel in &group.sentinels {
                    until("Sentinels that agree", || {
                        let port = sentinel.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
                        let port = port.lines().nth(1).unwrap_or_default().to_owned();
                        let primary = self.all().iter().find(|it| it.port().to_string() == port);
                        primary.is_some_and(|it| it.info("role") == "master")
                    });
                }
            }
        }
        for replica in 0..self.all().len() {
            let of = |server: &Redis, field: &str| server.info(field).parse::<u64>().unwrap_or(0);
            if self.all()[replica].info("role") != "slave" {
                continue;
            }
            let primary = &self.all()[self.primary_of(replica)];
            until("replicas without a backlog", || {
                let wrote = of(primary, "master_repl_offset");
                let has = of(&self.all()[replica], "slave_repl_offset");
                // Publications go on meanwhile.
                wrote.saturating_sub(has) < 100_000
            });
        }
    }

    fn takes_over(&self, replica: usize) {
        until("the replica to take over", || self.all()[replica].info("role") == "master");
    }

    /// Waits until one of two follows the other. Sentinels that give up a failover go back, so that
    /// it may be either.
    fn follows(&self, pair: [usize; 2]) {
        let [one, other] = pair.map(|server| &self.all()[server]);
        let follows = |server: &Redis, primary: &Redis| {
            server.info("role") == "slave"
                && server.info("master_link_status") == "up"
                && primary.info("role") == "master"
        };
        let deadline = Instant::now() + PATIENCE;
        while !follows(one, other) && !follows(other, one) {
            if Instant::now() > deadline {
                let both = [one, other].map(|it| it.cli(&["INFO", "replication"]));
                panic!("none follows the other: {}", both.join("\n\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A primary is killed, its replica takes over, and it comes back as a replica.
    pub(crate) fn kill(&mut self, (primary, replica): (usize, usize)) {
        self.all_mut()[primary].kill();
        self.takes_over(replica);
        self.comes_back(primary, replica);
    }

    /// What was a primary comes back as a replica.
    fn comes_back(&mut self, server: usize, primary: usize) {
        self.all_mut()[server].restart();
        if let Self::Group(group) = self {
            // As Sentinels would say ten seconds later.
            let port = group.servers[primary].port().to_string();
            group.servers[server].cli(&["REPLICAOF", "127.0.0.1", &port]);
        }
        self.follows([server, primary]);
    }

    /// The same, with a replica that has not heard of the last publications.
    pub(crate) fn kill_torn(&mut self, (primary, replica): (usize, usize), time: Duration) {
        let set = |server: &Redis, user: &str, password: &str| {
            server.cli(&["CONFIG", "SET", "masteruser", user]);
            server.cli(&["CONFIG", "SET", "masterauth", password]);
        };
        set(&self.all()[replica], "nobody", "nothing");
        self.all()[primary].cli(&["CLIENT", "KILL", "TYPE", "replica"]);
        std::thread::sleep(time);
        self.all_mut()[primary].kill();
        self.takes_over(replica);
        set(&self.all()[replica], "", "");
        self.comes_back(primary, replica);
    }

    /// A primary stops for longer than it is waited for, its replica takes over, and it goes on.
    pub(crate) fn stop(&mut self, (primary, replica): (usize, usize)) {
        self.all()[primary].signal(Signal::STOP);
        self.takes_over(replica);
        self.all()[primary].signal(Signal::CONT);
        self.follows([primary, replica]);
    }

    /// A primary stops for so short a time that nobody takes over.
    pub(crate) fn stop_shortly(&mut self, primary: usize, time: Duration) {
        self.all()[primary].signal(Signal::STOP);
        std::thread::sleep(time);
        self.all()[primary].signal(Signal::CONT);
    }

    /// A failover that is ordered. In a cluster nothing is lost by it.
    pub(crate) fn fail_over(&mut self, (primary, replica): (usize, usize)) {
        match self {
            Self::Cluster(cluster) => {
                let answer = cluster.servers[replica].cli(&["CLUSTER", "FAILOVER"]);
                assert_eq!(answer, "OK");
            }
            Self::Group(group) => until("Sentinel to obey", || {
                group.sentinels[0].cli(&["SENTINEL", "FAILOVER", NAME]) == "OK"
            }),
        }
        self.takes_over(replica);
        self.follows([primary, replica]);
    }

    /// A primary is killed and back, empty, before its replica can take over, or after.
    pub(crate) fn empty(&mut self, (primary, _): (usize, usize)) {
        self.all_mut()[primary].restart();
        self.are_well();
    }

    /// The slot of a channel moves to another primary.
    pub(crate) fn move_slot(&mut self, channel: &str, dice: &mut Dice) {
        let Self::Cluster(cluster) = self else { panic!("slots are of clusters") };
        let of = |role: &str| {
            let servers = cluster.servers.iter().enumerate();
            servers.filter(|(_, it)| it.info("role") == role).map(|(n, _)| n).collect::<Vec<_>>()
        };
        let slot = cluster.slot(channel);
        let primaries = of("master");
        let key = format!("centrifugo.client.{{{channel}}}");
        let has = |it: &&usize| !cluster.servers[**it].cli(&["GET", &key]).contains("MOVED");
        let from = *primaries.iter().find(has).expect("somebody has it");
        let others: Vec<_> = primaries.into_iter().filter(|it| *it != from).collect();
        cluster.move_slot(slot, from, others[dice.below(others.len())]);
    }

    /// A Sentinel is killed and back.
    pub(crate) fn kill_sentinel(&mut self, number: usize, time: Duration) {
        let Self::Group(group) = self else { panic!("a cluster has no Sentinels") };
        let sentinel = &mut group.sentinels[number];
        sentinel.kill();
        std::thread::sleep(time);
        sentinel.restart();
    }

    /// Connections of clients end, by their type.
    pub(crate) fn kill_clients(&self, of: &str) {
        for server in self.all() {
            server.cli(&["CLIENT", "KILL", "TYPE", of]);
        }
    }

    /// Asks whoever has a channel.
    pub(crate) fn ask(&self, script: &str, keys: &[String]) -> Vec<String> {
        let count = keys.len().to_string();
        let mut command = vec!["-c", "EVAL", script, &count];
        command.extend(keys.iter().map(String::as_str));
        let primary = self.all().iter().find(|it| it.info("role") == "master");
        primary.expect("somebody is in charge").lines(&command)
    }

    /// The history of a channel as the servers have it.
    pub(crate) fn stream(&self, channel: &str) -> Stream {
        let keys = ["stream.meta", "stream"].map(|what| self.key(what, channel));
        let lines = self.ask(READ, &keys);
        let mut lines = lines.iter();
        let epoch = lines.next().cloned().unwrap_or_default();
        let top = lines.next().and_then(|top| top.parse().ok()).unwrap_or(0);
        let entry = |line: &String| {
            let (id, number) = line.split_once(' ')?;
            let offset = id.split('-').next()?.parse().ok()?;
            Some((offset, number.parse().ok()?))
        };
        let entries = lines.filter(|line| !line.is_empty());
        let entries = entries.map(|line| entry(line).unwrap_or_else(|| panic!("{line:?}")));
        Stream { epoch, top, entries: entries.collect() }
    }
}

/// Epoch, top, and offset with number of each entry.
const READ: &str = "local meta = redis.call('HMGET', KEYS[1], 'e', 's') \
    local lines = {meta[1] or '', meta[2] or '0'} \
    for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do \
        for place = 1, #entry[2], 2 do \
            if entry[2][place] == 'd' then \
                local number = string.match(entry[2][place + 1], '\"n\":(%d+)') \
                lines[#lines + 1] = entry[1] .. ' ' .. (number or '?') \
            end \
        end \
    end \
    return lines";
