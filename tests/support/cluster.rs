//! A Redis Cluster of three primaries, with replicas of the first ones as far as they are wanted:
//! real servers as child processes, ended by id.

use super::redis::Redis;
use super::until;

/// Slots of a cluster.
const SLOTS: usize = 16_384;

/// See the module's text.
pub(crate) struct Cluster {
    /// Three primaries, then their replicas.
    pub(crate) servers: Vec<Redis>,
    ids: Vec<String>,
    /// Of sharded messages; 0: there are none.
    partitions: u16,
}

impl Cluster {
    /// Starts one whose nodes serve their slots although others are gone. `None`, and said: not
    /// installed.
    pub(crate) fn start(replicas: usize) -> Option<Self> {
        Self::start_with(replicas, &[], &[])
    }

    /// The same, for nodes with so many partitions; 0: their messages are not sharded.
    pub(crate) fn start_for(partitions: u16, replicas: usize) -> Option<Self> {
        let mut cluster = Self::start(replicas)?;
        cluster.partitions = partitions;
        Some(cluster)
    }

    /// With more arguments; `access` is what `redis-cli` then needs.
    pub(crate) fn start_with(replicas: usize, more: &[&str], access: &[&str]) -> Option<Self> {
        let count = 3 + replicas;
        let arguments = [
            ["--cluster-enabled", "yes"],
            ["--cluster-node-timeout", "5000"],
            ["--cluster-require-full-coverage", "no"],
            ["--repl-diskless-sync-delay", "0"],
        ];
        let start = |_| Redis::start_with(&[&arguments.concat(), more].concat(), access);
        let servers: Vec<Redis> = (0..count).map(start).collect::<Option<_>>()?;
        for (number, server) in servers.iter().enumerate().take(3) {
            server.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            let (from, to) = (number * SLOTS / 3, (number + 1) * SLOTS / 3 - 1);
            server.cli(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
        }
        for server in servers.iter().skip(1) {
            let (port, bus) = (server.port().to_string(), server.bus().to_string());
            servers[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        let ids = servers.iter().map(|server| server.cli(&["CLUSTER", "MYID"])).collect();
        let cluster = Self { servers, ids, partitions: 0 };
        cluster.is_whole();
        for (replica, id) in (3..count).zip(&cluster.ids) {
            cluster.servers[replica].cli(&["CLUSTER", "REPLICATE", id]);
        }
        for (replica, id) in (3..count).zip(&cluster.ids) {
            let replica = &cluster.servers[replica];
            until("the replica", || replica.info("master_link_status") == "up");
            until("all to know the replica", || {
                let line = format!("slave {id}");
                cluster.servers[..3].iter().all(|it| it.cli(&["CLUSTER", "NODES"]).contains(&line))
            });
        }
        Some(cluster)
    }

    /// Waits until all nodes know each other, and all slots.
    fn is_whole(&self) {
        let known = format!("cluster_known_nodes:{}", self.servers.len());
        for server in &self.servers {
            until("the cluster to be whole", || {
                let info = server.cli(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains(&known)
            });
        }
    }

    /// The key of `engine.redis` that names some of its nodes.
    pub(crate) fn keys(&self) -> String {
        let (address, partitions) = (self.address(), self.partitions);
        format!("cluster_address = [\"{address}\"]\nsharded_pub_sub_partitions = {partitions}\n")
    }

    /// Two of its nodes.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{},127.0.0.1:{}", self.servers[1].port(), self.servers[2].port())
    }

    /// The slot of a channel.
    pub(crate) fn slot(&self, channel: &str) -> usize {
        let name = self.messages(channel);
        self.servers[1].cli(&["CLUSTER", "KEYSLOT", &name]).parse().expect("a number")
    }

    /// The name of a channel's messages.
    pub(crate) fn messages(&self, channel: &str) -> String {
        format!("centrifugo.client.{}", self.tagged(channel))
    }

    /// The key of a channel's history.
    pub(crate) fn stream(&self, channel: &str) -> String {
        format!("centrifugo.stream.{}", self.tagged(channel))
    }

    fn tagged(&self, channel: &str) -> String {
        match self.partitions {
            0 => format!("{{{channel}}}"),
            partitions => format!("{{{}}}.{channel}", partition(channel, partitions)),
        }
    }

    /// Which of the primaries has a channel in the beginning.
    pub(crate) fn owner(&self, channel: &str) -> usize {
        let slot = self.slot(channel);
        (0..3).find(|number| slot < (number + 1) * SLOTS / 3).expect("one of three")
    }

    /// Names of channels with a beginning that lie on each of the primaries.
    pub(crate) fn channels(&self, beginning: &str) -> [String; 3] {
        let all = || (0..1000).map(|number| format!("{beginning}{number}"));
        [0, 1, 2].map(|owner| all().find(|name| self.owner(name) == owner).expect("one of many"))
    }

    /// Moves a slot with its keys.
    pub(crate) fn move_slot(&self, slot: usize, from: usize, to: usize) {
        let (slot, port) = (slot.to_string(), self.servers[to].port().to_string());
        let set = |server: usize, state: &str, id: usize| {
            let answer =
                self.servers[server].cli(&["CLUSTER", "SETSLOT", &slot, state, &self.ids[id]]);
            assert_eq!(answer, "OK");
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
        // One by one, with time in which they are apart; then the rest.
        for count in [1, 1, 1, 1].into_iter().chain(std::iter::repeat(500)) {
            let count = count.to_string();
            let keys = self.servers[from].lines(&["CLUSTER", "GETKEYSINSLOT", &slot, &count]);
            if keys.iter().all(String::is_empty) {
                break;
            }
            // A server may hold keys of a slot that a takeover took from it: the owner's count.
            let mut command =
                vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "REPLACE", "KEYS"];
            command.extend(keys.iter().map(String::as_str));
            let moved = self.servers[from].cli(&command);
            assert!(moved == "OK" || moved == "NOKEY", "{moved}");
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        set(to, "NODE", to);
        set(from, "NODE", to);
    }

    /// Does what an operator has to where a takeover cut a move short (`redis-cli --cluster fix`):
    /// nodes that still take a slot over believe its owner, who gets the keys that they have of it.
    pub(crate) fn mend(&self) {
        for (number, server) in self.servers.iter().enumerate() {
            let lines = server.lines(&["CLUSTER", "NODES"]);
            let own = lines.iter().find(|line| line.contains("myself"));
            let open = own.into_iter().flat_map(|line| line.split_whitespace());
            for slot in open.filter_map(|word| Some(word.strip_prefix('[')?.split_once('-')?.0)) {
                let answer = server.cli(&["CLUSTER", "SETSLOT", slot, "STABLE"]);
                assert_eq!(answer, "OK", "{slot} at {number}");
                let Some(owner) = self.owner_by_others(slot, number) else { continue };
                let keys = server.lines(&["CLUSTER", "GETKEYSINSLOT", slot, "1000"]);
                if keys.iter().all(String::is_empty) {
                    continue;
                }
                let port = self.servers[owner].port().to_string();
                let mut command =
                    vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "REPLACE", "KEYS"];
                command.extend(keys.iter().map(String::as_str));
                server.cli(&command);
            }
        }
    }

    /// Which server has a slot, if it is not this one, as the others say.
    fn owner_by_others(&self, slot: &str, but: usize) -> Option<usize> {
        let slot: usize = slot.parse().ok()?;
        let has = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let both = first.parse::<usize>().ok().zip(last.parse::<usize>().ok());
            both.is_some_and(|(first, last)| (first..=last).contains(&slot))
        };
        (0..self.servers.len()).filter(|number| *number != but).find(|number| {
            let lines = self.servers[*number].lines(&["CLUSTER", "NODES"]);
            let own = lines.iter().find(|line| line.contains("myself"));
            own.is_some_and(|line| line.split_whitespace().skip(8).any(has))
        })
    }
}

/// As Centrifugo has it: the jump consistent hash of FNV-1a with 64 bits.
fn partition(channel: &str, partitions: u16) -> u16 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in channel.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    let (mut last, mut next) = (0.0, 0.0);
    while next < f64::from(partitions) {
        last = next;
        state = state.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((last + 1.0) * (2_147_483_648.0 / ((state >> 33) + 1) as f64)).floor();
    }
    last as u16
}
