//! Consumers: requests of the server API that are read from streams in Redis and from outboxes in
//! PostgreSQL.
//!
//! Owns which of them are read. How messages become requests is in [`message`], what becomes of a
//! request in [`doing`], how messages are read and acknowledged in [`stream`] and [`postgresql`].
//! The invariants: a message is acknowledged once what it asks for was done, or can never be; of
//! one stream or partition they are dealt with in their order, unless several workers are asked
//! for.

mod doing;
#[cfg(test)]
pub(super) mod fake;
mod message;
#[cfg(feature = "postgresql")]
mod postgresql;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::counts::Counts;
use crate::broker::target::Target;
use crate::config::Consumer;

use doing::Doer;

/// Bytes of a payload of an outbox, and of those that are read at once; 64 MiB are a stream's.
pub(crate) const OUTBOX_BYTES: u64 = 16 << 20;

/// The consumers that are switched on, as they are read.
#[derive(Clone, Default)]
pub(super) struct Consumers {
    streams: Vec<StreamConfig>,
    #[cfg(feature = "postgresql")]
    outboxes: Vec<postgresql::OutboxConfig>,
}

/// A consumer of streams.
#[derive(Clone)]
struct StreamConfig {
    /// In metrics and the log.
    name: Arc<str>,
    /// The server, and how it is reached.
    target: Target,
    /// Keys of streams.
    streams: Vec<String>,
    /// Who shares their messages.
    group: String,
    /// Others take over what was not acknowledged for so long.
    visibility: Duration,
    /// Messages of a stream that are dealt with at once.
    workers: usize,
    /// The values that messages are made of.
    reading: Arc<message::Reading>,
}

impl Consumers {
    /// All that are switched on. The error names the one that is wrong.
    pub(super) fn new(consumers: &[Consumer]) -> Result<Self, String> {
        let mut all = Self::default();
        for (index, consumer) in consumers.iter().enumerate() {
            let wrong = |what| format!("{}: {what}", consumer.name);
            if consumer.reads_redis() {
                all.streams.push(stream(consumer, index).map_err(wrong)?);
            }
            #[cfg(feature = "postgresql")]
            if consumer.reads_postgresql() {
                let name = consumer.name.as_str().into();
                let outbox = postgresql::OutboxConfig::new(name, &consumer.postgresql);
                all.outboxes.push(outbox.map_err(wrong)?);
            }
        }
        Ok(all)
    }

    /// Reads all of them from now on. Within a runtime.
    pub(super) fn start<B: Backend>(self, backend: &Arc<B>, counts: &Arc<Counts>) {
        let doer = |name: &Arc<str>| Doer::new(name.clone(), backend.clone(), counts.clone());
        // Of this process: what it leaves, others take over.
        let node: Arc<str> = uuid::Uuid::new_v4().simple().to_string().into();
        for config in self.streams {
            let doer = Arc::new(doer(&config.name));
            for name in &config.streams {
                let (config, stream) = (config.clone(), name.clone());
                let place = stream::StreamReader { config, stream, node: node.clone() };
                tokio::spawn(stream::run(place, doer.clone()));
            }
        }
        #[cfg(feature = "postgresql")]
        for outbox in self.outboxes {
            let doer = Arc::new(doer(outbox.name()));
            outbox.start(&doer);
        }
    }
}

fn stream(consumer: &Consumer, index: usize) -> Result<StreamConfig, String> {
    let stream = &consumer.redis_stream;
    let keys = format!("consumers[{index}].redis_stream");
    let server = stream.server().map_err(|fault| format!("{keys}.{}: {fault}", fault.key))?;
    let (tls, sentinel_tls) = (stream.tls.demands(), stream.sentinel_tls.demands());
    let target = Target::new(server, &tls, &sentinel_tls, &stream.client_name, &keys);
    let target = target.map_err(|error| error.to_string())?;
    Ok(StreamConfig {
        name: consumer.name.as_str().into(),
        target,
        streams: stream.streams.clone(),
        group: stream.consumer_group.clone(),
        visibility: stream.visibility_timeout,
        workers: stream.num_workers as usize,
        reading: Arc::new(message::Reading::new(stream)),
    })
}
