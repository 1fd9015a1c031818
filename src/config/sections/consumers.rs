//! `consumers`: where commands and publications come from, besides the server API.
//!
//! Names and defaults are Centrifugo's. Opens no connection: `crate::control::consumers` does.

use std::time::Duration;

use super::postgresql::Postgresql;
use super::redis::{Redis, RedisTls};
use super::redis_address::AddressFault;
use crate::broker::server::{RedisPlace, RedisServer};
use crate::config::schema::{section, tables};
use crate::options::Secret;

section! {
    /// One of `consumers`.
    pub struct Consumer {
        /// Letters, digits, `_`, `-` and `.`, at least two; unique. Names it in metrics and logs.
        name: String = String::new(),
        /// Consume.
        enabled: bool = false,
        /// `redis_stream` or `postgresql`.
        kind as "type": String = String::new(),
        /// Details of streams in Redis.
        redis_stream: RedisStream = RedisStream::default(),
        /// Details of an outbox in PostgreSQL.
        postgresql: Postgresql = Postgresql::default(),
    }
}

tables!(Consumer by name);

section! {
    /// Streams in Redis, each read by itself.
    pub struct RedisStream {
        /// The server, as in `engine.redis.address`: one.
        address: Vec<String> = vec!["redis://127.0.0.1:6379".to_owned()],
        /// For a connection with its handshakes.
        connect_timeout: Duration = Duration::from_secs(1),
        /// For the answer to a request.
        io_timeout: Duration = Duration::from_secs(4),
        /// Number of the database.
        db: u32 = 0,
        /// Who we are, where the server has users (ACL).
        user: String = String::new(),
        /// The password.
        password: Secret = Secret::default(),
        /// The name of our connections in `CLIENT LIST`. Empty: ringhold.
        client_name: String = String::new(),
        /// Has no meaning here: version 2 of the protocol is spoken in any case.
        force_resp2: bool = false,
        /// TLS, also without a URL of `rediss`.
        tls: RedisTls = RedisTls::default(),
        /// Sentinels, as in `engine.redis.sentinel_address`: one group.
        sentinel_address: Vec<String> = Vec::new(),
        /// The name by which they know the server.
        sentinel_master_name: String = String::new(),
        /// Who we are to Sentinels, where they have users.
        sentinel_user: String = String::new(),
        /// Their password.
        sentinel_password: Secret = Secret::default(),
        /// The name of our connections to them. Empty: ringhold.
        sentinel_client_name: String = String::new(),
        /// TLS to them.
        sentinel_tls: RedisTls = RedisTls::default(),
        /// Their keys.
        streams: Vec<String> = Vec::new(),
        /// The group that shares their messages; it is made where there is none, and then begins
        /// with what comes.
        consumer_group: String = String::new(),
        /// Another node takes over a message that was not acknowledged for so long.
        visibility_timeout: Duration = Duration::from_secs(30),
        /// Messages of a stream that are worked on at once. 1: in their order.
        num_workers: u32 = 1,
        /// The value of a message that holds its payload.
        payload_value: String = "payload".to_owned(),
        /// The value that names the method of the API, whose request the payload then is. Without
        /// it the payload is `{"method": …, "payload": …}`.
        method_value: String = "method".to_owned(),
        /// The payload is what is published, and other values say where.
        publication_data_mode: StreamPublications = StreamPublications::default(),
    }
}

section! {
    /// Values of a message whose payload is what is published.
    pub struct StreamPublications {
        /// Payloads are published as they are.
        enabled: bool = false,
        /// Channels, with commas between them.
        channels_value: String = "centrifugo-channels".to_owned(),
        /// As the API's `idempotency_key`.
        idempotency_key_value: String = "centrifugo-idempotency-key".to_owned(),
        /// As the API's `delta`: `true` or `false`.
        delta_value: String = "centrifugo-delta".to_owned(),
        /// As the API's `version`.
        version_value: String = "centrifugo-version".to_owned(),
        /// As the API's `version_epoch`.
        version_epoch_value: String = "centrifugo-version-epoch".to_owned(),
        /// The beginning of values that are tags.
        tags_value_prefix: String = "centrifugo-tag-".to_owned(),
    }
}

/// The kinds of consumers.
pub(crate) const REDIS_STREAM: &str = "redis_stream";
pub(crate) const POSTGRESQL: &str = "postgresql";

impl Consumer {
    /// Whether an outbox in PostgreSQL is to be read.
    pub(crate) fn reads_postgresql(&self) -> bool {
        self.enabled && self.kind == POSTGRESQL
    }

    /// Whether streams of Redis are to be read.
    pub(crate) fn reads_redis(&self) -> bool {
        self.enabled && self.kind == REDIS_STREAM
    }
}

impl RedisStream {
    /// The server. The error says what is wrong with its address, without a password.
    pub(crate) fn server(&self) -> Result<RedisServer, AddressFault> {
        let redis = Redis {
            address: self.address.clone(),
            connect_timeout: self.connect_timeout,
            io_timeout: self.io_timeout,
            db: self.db,
            user: self.user.clone(),
            password: self.password.clone(),
            tls: self.tls.clone(),
            sentinel_address: self.sentinel_address.clone(),
            sentinel_master_name: self.sentinel_master_name.clone(),
            sentinel_user: self.sentinel_user.clone(),
            sentinel_password: self.sentinel_password.clone(),
            sentinel_client_name: self.sentinel_client_name.clone(),
            sentinel_tls: self.sentinel_tls.clone(),
            ..Redis::default()
        };
        match <[RedisServer; 1]>::try_from(redis.servers()?) {
            // Replies to reads are maps in version 3.
            Ok([server]) if !matches!(server.place, RedisPlace::Cluster(_)) => {
                Ok(RedisServer { force_resp2: true, ..server })
            }
            _ => Err(redis.must_be_one()),
        }
    }
}
