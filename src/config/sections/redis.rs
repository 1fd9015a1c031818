//! `engine.redis`: the server that orders channels for several nodes, and how to reach it.
//!
//! Names and defaults are Centrifugo's; what is ours alone is marked. Reads no file and opens no
//! connection: the broker does. `redis_address.rs` makes servers of the keys.

use std::path::Path;
use std::time::Duration;

use crate::broker::target::TlsDemands;
use crate::config::schema::{choice, section};
use crate::options::{Secret, Size};
use crate::tls::keys::{KeyPair, Trust, is_path};

section! {
    /// `engine.redis`: heard where `engine.type` is `redis`.
    pub struct Redis {
        /// One server, or several that share the channels: `host:port`, or a URL of `redis`,
        /// `rediss` (TLS), `tcp` or `unix`. What a URL says is stronger than the keys below.
        address: Vec<String> = vec!["redis://127.0.0.1:6379".to_owned()],
        /// Begins every name of ours in Redis.
        prefix: String = "centrifugo".to_owned(),
        /// For a connection with its handshakes.
        connect_timeout: Duration = Duration::from_secs(1),
        /// For the answer to a request; then clients and the API are told error 100.
        io_timeout: Duration = Duration::from_secs(4),
        /// Number of the database. Messages pass through all of them.
        db: u32 = 0,
        /// Who we are, where the server has users (ACL).
        user: String = String::new(),
        /// The password.
        password: Secret = Secret::default(),
        /// The name of our connections in `CLIENT LIST`. Empty: ringhold.
        client_name: String = String::new(),
        /// Speak version 2 of the protocol. Else 3, if the server does.
        force_resp2: bool = false,
        /// TLS, also without a URL of `rediss`.
        tls: RedisTls = RedisTls::default(),
        /// Redis Clusters: each element names some nodes of one, `host:port` with commas between
        /// them. Stronger than all other addresses.
        cluster_address: Vec<String> = Vec::new(),
        /// Of each cluster: messages pass through the node of their slot only, and channels have so
        /// many slots. 0: through all nodes.
        sharded_pub_sub_partitions: u32 = 0,
        /// Sentinels, which know where the server is: each element names those of one group,
        /// `host:port` with commas between them. Stronger than `address`.
        sentinel_address: Vec<String> = Vec::new(),
        /// The name by which they know it.
        sentinel_master_name: String = String::new(),
        /// Who we are to Sentinels, where they have users.
        sentinel_user: String = String::new(),
        /// Their password.
        sentinel_password: Secret = Secret::default(),
        /// The name of our connections to them. Empty: ringhold.
        sentinel_client_name: String = String::new(),
        /// TLS to them.
        sentinel_tls: RedisTls = RedisTls::default(),
        /// A member of a channel vanishes so long after its node was last heard of.
        presence_ttl: Duration = Duration::from_secs(60),
        /// What histories are believed after another server has taken over, or the same has
        /// started again. Ours, like all below.
        failover: Failover = Failover::Verify,
        /// Requests of a worker that may wait for their answers; one more gets error 111.
        requests: u32 = 65_536,
        /// Memory of such requests, per worker.
        requests_bytes: Size = Size(16 << 20),
    }
}

section! {
    /// `engine.redis.tls`. Each `*_pem` is the path of a PEM file, PEM text, or base64 of PEM text.
    pub struct RedisTls {
        /// Speak TLS.
        enabled: bool = false,
        /// Our certificate with the chain to its authority, where the server asks for one.
        cert_pem: String = String::new(),
        /// Its key.
        key_pem: Secret = Secret::default(),
        /// Authorities of the server's certificate. Empty: those of the host.
        server_ca_pem: String = String::new(),
        /// Believe every certificate.
        insecure_skip_verify: bool = false,
        /// The name in the server's certificate, where it is not the host of the address.
        server_name: String = String::new(),
    }
}

choice! {
    /// What histories are believed after the server was replaced.
    pub enum Failover {
        /// Those whose newest publication is the one that a node remembers. Others get a new epoch.
        Verify = "verify",
        /// None: each channel gets a new epoch at its first use.
        Renew = "renew",
    }
}

impl RedisTls {
    /// What a handshake with the server needs.
    pub(crate) fn demands(&self) -> TlsDemands {
        let (trust, identity) = (self.trust(), self.identity());
        TlsDemands { trust, identity, server_name: self.server_name.clone() }
    }

    /// Whom we believe to be the server.
    pub(crate) fn trust(&self) -> Trust {
        match () {
            () if self.insecure_skip_verify => Trust::Anybody,
            () if self.server_ca_pem.is_empty() => Trust::System,
            () => Trust::Authorities(self.server_ca_pem.clone()),
        }
    }

    /// Who we are, if the server asks.
    pub(crate) fn identity(&self) -> Option<KeyPair> {
        let key_pem = self.key_pem.reveal().to_owned();
        (!self.cert_pem.is_empty()).then(|| KeyPair { cert_pem: self.cert_pem.clone(), key_pem })
    }

    /// Paths in a configuration file begin at its folder.
    pub(crate) fn begin_at(&mut self, folder: &Path) {
        let begin = |path: &str| match !path.is_empty() && is_path(path) {
            true => folder.join(path).display().to_string(),
            false => path.to_owned(),
        };
        self.cert_pem = begin(&self.cert_pem);
        self.server_ca_pem = begin(&self.server_ca_pem);
        self.key_pem = Secret::new(begin(self.key_pem.reveal()));
    }
}
