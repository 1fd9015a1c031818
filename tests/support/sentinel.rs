//! A primary and a replica under three real Sentinels, as child processes, ended by id.
//!
//! Times of Redis' own: a primary counts as gone after 5 s, since one that waits for its processor
//! must not, and Sentinels need some seconds to know each other.

use super::redis::Redis;
use super::until;

/// The name by which Sentinels know the primary.
pub(crate) const NAME: &str = "mymaster";

/// See the module's text.
pub(crate) struct Group {
    pub(crate) servers: [Redis; 2],
    pub(crate) sentinels: Vec<Redis>,
    /// Which of the servers is the primary, as far as the test has followed.
    pub(crate) primary: usize,
}

impl Group {
    /// Starts them, and waits until a failover is possible. `None`, and said: not installed.
    pub(crate) fn start(sentinels: usize) -> Option<Self> {
        Self::start_with(sentinels, &[], "", &[])
    }

    /// With more arguments of the servers, and more in the Sentinels' files; `access` is what
    /// `redis-cli` then needs for either.
    pub(crate) fn start_with(
        sentinels: usize,
        more: &[&str],
        file: &str,
        access: &[&str],
    ) -> Option<Self> {
        let arguments = [&["--repl-diskless-sync-delay", "0"], more].concat();
        let server = || Redis::start_with(&arguments, access);
        let (first, second) = (server()?, server()?);
        let port = first.port().to_string();
        // Not by its arguments: with them it would be a replica whenever it starts.
        second.cli(&["REPLICAOF", "127.0.0.1", &port]);
        until("the replica to be in step", || second.info("master_link_status") == "up");
        let quorum = sentinels / 2 + 1;
        let file = format!(
            "{file}sentinel monitor {NAME} 127.0.0.1 {port} {quorum}\n\
             sentinel down-after-milliseconds {NAME} 5000\n\
             sentinel failover-timeout {NAME} 2000\n"
        );
        let start = |_| Redis::start_sentinel(&file, access);
        let group = Self {
            servers: [first, second],
            sentinels: (0..sentinels).map(start).collect::<Option<_>>()?,
            primary: 0,
        };
        for sentinel in &group.sentinels {
            until("Sentinels to know all", || {
                let known = sentinel.cli(&["SENTINEL", "MASTER", NAME]);
                let lines: Vec<_> = known.lines().collect();
                let is = |field: &str, value: &str| {
                    lines.windows(2).any(|pair| pair[0] == field && pair[1] == value)
                };
                let others = (sentinels - 1).to_string();
                is("num-slaves", "1") && is("num-other-sentinels", &others)
            });
        }
        Some(group)
    }

    /// `host:port` of all Sentinels, with commas between them.
    pub(crate) fn address(&self) -> String {
        let place = |sentinel: &Redis| format!("127.0.0.1:{}", sentinel.port());
        self.sentinels.iter().map(place).collect::<Vec<_>>().join(",")
    }

    /// The keys of `engine.redis` that name the group.
    pub(crate) fn keys(&self) -> String {
        let address = self.address();
        format!("sentinel_address = [\"{address}\"]\nsentinel_master_name = \"{NAME}\"\n")
    }

    pub(crate) fn primary(&mut self) -> &mut Redis {
        &mut self.servers[self.primary]
    }

    pub(crate) fn replica(&self) -> &Redis {
        &self.servers[1 - self.primary]
    }

    /// Waits until the replica has all that the primary has.
    pub(crate) fn in_step(&self) {
        let primary = &self.servers[self.primary];
        until("the replica to be in step", || {
            let offset = primary.info("master_repl_offset");
            !offset.is_empty() && self.replica().info("slave_repl_offset") == offset
        });
    }

    /// Keeps the replica from hearing more of the primary, as a torn network would.
    pub(crate) fn tear(&mut self) {
        let replica = self.replica();
        for (key, value) in [("masteruser", "nobody"), ("masterauth", "nothing")] {
            replica.cli(&["CONFIG", "SET", key, value]);
        }
        self.primary().cli(&["CLIENT", "KILL", "TYPE", "replica"]);
        until("the replica to be alone", || self.replica().info("master_link_status") == "down");
    }

    /// Waits until the replica has taken over, as it says itself.
    pub(crate) fn taken_over(&mut self) {
        until("the replica to take over", || self.replica().info("role") == "master");
        self.primary = 1 - self.primary;
        let primary = self.primary();
        for (key, value) in [("masteruser", ""), ("masterauth", "")] {
            primary.cli(&["CONFIG", "SET", key, value]);
        }
    }
}
