//! `consumers`: that each has a name, and can find what it reads.

use std::time::Duration;

use super::super::consumers::{Consumer, REDIS_STREAM};
use super::super::reader::Reader;
use super::super::{Options, RedisStream};
use super::Check;
use crate::tls::keys;

/// Of one that is off, and of other kinds than that which is on, nothing is missed.
pub(super) fn forgive(options: &Options, reader: &mut Reader) {
    for (index, consumer) in options.consumers.iter().enumerate() {
        if !consumer.reads_redis() {
            let table = format!("consumers[{index}].redis_stream");
            reader.forgive(&table, "is not heard: no stream is read");
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
        if consumer.kind != REDIS_STREAM {
            let what = format!(
                "a setting of Centrifugo's that ringhold does not have: \"{}\" is not read, \
                 redis_stream is; or publish through http_api",
                consumer.kind
            );
            return self.wrong(&key("type"), what);
        }
        let stream = &consumer.redis_stream;
        let key = |name: &str| key(&format!("redis_stream.{name}"));
        if let Err(what) = stream.server() {
            self.wrong(&key("address"), what);
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
        self.certificates(&key, stream);
    }

    fn certificates(&mut self, key: &dyn Fn(&str) -> String, stream: &RedisStream) {
        let tls = &stream.tls;
        let both = tls.cert_pem.is_empty() == tls.key_pem.is_empty();
        self.demand(both, &key("tls.key_pem"), "and cert_pem belong together");
        let secure = stream.server().is_ok_and(|server| server.tls);
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

/// Calls of one stream at once.
const WORKERS_MAX: u32 = 64;
