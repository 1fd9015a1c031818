//! `consumers`: that each has a name, and can find what it reads.

use std::time::Duration;

use super::super::explain;
use super::super::schema::Reader;
use super::super::sections::consumers::{POSTGRESQL, REDIS_STREAM};
use super::super::{Consumer, Options, Postgresql, RedisStream, RedisTls};
use super::Check;
use crate::tls::keys;

/// Of one that is off, and of other kinds than that which is on, nothing is missed.
pub(super) fn forgive(options: &Options, reader: &mut Reader) {
    for (index, consumer) in options.consumers.iter().enumerate() {
        if !consumer.reads_redis() {
            let table = format!("consumers[{index}].redis_stream");
            explain::forgive(reader, &table, "is not heard: no stream is read");
        }
        if !consumer.reads_postgresql() {
            let table = format!("consumers[{index}].postgresql");
            explain::forgive(reader, &table, "is not heard: no outbox is read");
        }
    }
}

impl Check<'_> {
    pub(super) fn consumers(&mut self) {
        let all = &self.options.consumers;
        for (index, consumer) in all.iter().enumerate() {
            let key = |name: &str| format!("consumers[{index}].{name}");
            self.name_of(&key("name"), &consumer.name);
            let known = all[..index].iter().any(|one| one.name == consumer.name);
            self.demand(!known, &key("name"), format!("\"{}\" is there already", consumer.name));
            if consumer.enabled {
                self.consumer(&key, consumer);
            }
        }
    }

    fn consumer(&mut self, key: &dyn Fn(&str) -> String, consumer: &Consumer) {
        match consumer.kind.as_str() {
            REDIS_STREAM => {
                let key = |name: &str| key(&format!("redis_stream.{name}"));
                self.stream(&key, &consumer.redis_stream);
            }
            POSTGRESQL if cfg!(feature = "postgresql") => {
                let key = |name: &str| key(&format!("postgresql.{name}"));
                self.outbox(&key, &consumer.postgresql);
            }
            POSTGRESQL => self.wrong(&key("type"), "needs a build with the feature postgresql"),
            other => {
                let what = format!(
                    "a setting of Centrifugo's that ringhold does not have: \"{other}\" is not \
                     read, redis_stream and postgresql are; or publish through http_api"
                );
                self.wrong(&key("type"), what);
            }
        }
    }

    fn outbox(&mut self, key: &dyn Fn(&str) -> String, outbox: &Postgresql) {
        for (name, server) in
            [("dsn", outbox.server()), ("partition_notification_dsn", outbox.listened())]
        {
            match server {
                Err(what) => self.wrong(&key(name), what),
                Ok(server) if !outbox.tls.enabled => {
                    let (trust, identity) = (server.tls.trust(), server.identity);
                    let identity = identity.map(|identity| identity.pair());
                    if let Err(fault) = keys::stream_client(&trust, identity.as_ref()) {
                        self.wrong(&key(name), fault.to_string());
                    }
                }
                Ok(_) => {}
            }
            // Without one of its own it is the same.
            if outbox.partition_notification_dsn.is_empty() {
                break;
            }
        }
        let table = outbox.table().is_some();
        self.demand(table, &key("outbox_table_name"), "must be the name of a table");
        for (name, number, most) in [
            ("num_partitions", outbox.num_partitions, PARTITIONS_MAX),
            ("partition_select_limit", outbox.partition_select_limit, ROWS_MAX),
        ] {
            let within = (1..=most).contains(&number);
            self.demand(within, &key(name), format!("must be from 1 to {most}"));
        }
        let range = Duration::from_millis(10)..=Duration::from_secs(3600);
        let within = range.contains(&outbox.partition_poll_interval);
        self.demand(within, &key("partition_poll_interval"), "must be from 10ms to 1h");
        let plain = !outbox.partition_notification_channel.contains('\0');
        let short = outbox.partition_notification_channel.len() < 64;
        let what = "must be a name of at most 63 bytes";
        self.demand(plain && short, &key("partition_notification_channel"), what);
        self.certificates(key, &outbox.tls, outbox.tls.enabled);
    }

    fn stream(&mut self, key: &dyn Fn(&str) -> String, stream: &RedisStream) {
        if let Err(fault) = stream.server() {
            self.wrong(&key(fault.key), fault.to_string());
        }
        let named = !stream.streams.is_empty() && stream.streams.iter().all(|it| !it.is_empty());
        self.demand(named, &key("streams"), "is needed: the keys of one or more streams");
        let few = stream.streams.len() <= STREAMS_MAX;
        self.demand(few, &key("streams"), format!("must be at most {STREAMS_MAX}"));
        let group = !stream.consumer_group.is_empty();
        self.demand(group, &key("consumer_group"), "is needed");
        let range = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let within = range.contains(&stream.visibility_timeout);
        self.demand(within, &key("visibility_timeout"), "must be from 1s to 24h");
        let within = (1..=WORKERS_MAX).contains(&stream.num_workers);
        self.demand(within, &key("num_workers"), format!("must be from 1 to {WORKERS_MAX}"));
        let payload = !stream.payload_value.is_empty();
        self.demand(payload, &key("payload_value"), "must not be empty");
        let mode = &stream.publication_data_mode;
        let channels = !mode.enabled || !mode.channels_value.is_empty();
        let what = "must not be empty";
        self.demand(channels, &key("publication_data_mode.channels_value"), what);
        let secure = stream.server().is_ok_and(|server| server.tls);
        self.certificates(key, &stream.tls, secure);
    }

    fn certificates(&mut self, key: &dyn Fn(&str) -> String, tls: &RedisTls, secure: bool) {
        let both = tls.cert_pem.is_empty() == tls.key_pem.is_empty();
        self.demand(both, &key("tls.key_pem"), "and cert_pem belong together");
        let loads = !tls.server_ca_pem.is_empty() || !tls.cert_pem.is_empty();
        if secure
            && both
            && loads
            && let Err(fault) = keys::stream_client(&tls.trust(), tls.identity().as_ref())
        {
            self.wrong(&key("tls"), fault.to_string());
        }
    }
}

/// Each has a connection of its own.
const STREAMS_MAX: usize = 64;

/// Each is asked for by itself.
const PARTITIONS_MAX: u32 = 1024;

/// Rows of one question; their bytes have a bound of their own.
const ROWS_MAX: u32 = 10_000;

/// Calls of one stream at once.
const WORKERS_MAX: u32 = 64;
