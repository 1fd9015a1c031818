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
}

impl Cluster {
    /// Starts one whose nodes serve their slots although others are gone. `None`, and said: not
    /// installed.
    pub(crate) fn start(replicas: usize) -> Option<Self> {
        let count = 3 + replicas;
        let arguments = [
            ["--cluster-enabled", "yes"],
            ["--cluster-node-timeout", "1000"],
            ["--cluster-require-full-coverage", "no"],
            ["--repl-diskless-sync-delay", "0"],
        ];
        let start = |_| Redis::start_with(&arguments.concat(), &[]);
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
        let cluster = Self { servers, ids };
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
        format!("cluster_address = [\"{}\"]\n", self.address())
    }

    /// Two of its nodes.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{},127.0.0.1:{}", self.servers[1].port(), self.servers[2].port())
    }

    /// The slot of a channel.
    pub(crate) fn slot(&self, channel: &str) -> usize {
        let name = format!("centrifugo.client.{{{channel}}}");
        self.servers[1].cli(&["CLUSTER", "KEYSLOT", &name]).parse().expect("a number")
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
            let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            command.extend(keys.iter().map(String::as_str));
            let moved = self.servers[from].cli(&command);
            assert!(moved == "OK" || moved == "NOKEY", "{moved}");
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        set(to, "NODE", to);
        set(from, "NODE", to);
    }
}
