//! Consumers: requests of the server API that are read from streams in Redis.
//!
//! Owns which streams are read, and how often which of their messages were dealt with. How messages
//! become requests is in [`message`], how they are read and acknowledged in [`stream`]. The
//! invariants: a message is acknowledged once what it asks for was done, or can never be; of one
//! stream they are dealt with in their order, unless several workers are asked for.

mod message;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::api::{Api, ApiConfig};
use super::backend::Backend;
use super::counts::Counts;
use crate::broker::dial::Target;
use crate::gateway::options::{Consumer, Options, RedisPlace};
use crate::tls::keys;

/// One consumer, as it is read.
#[derive(Clone)]
pub(super) struct ConsumerConfig {
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

/// All consumers that are switched on. The error names the one that is wrong.
pub(super) fn configs(options: &Options) -> Result<Vec<ConsumerConfig>, String> {
    let on = options.consumers.iter().filter(|consumer| consumer.reads_redis());
    on.map(|consumer| config(consumer).map_err(|what| format!("{}: {what}", consumer.name)))
        .collect()
}

fn config(consumer: &Consumer) -> Result<ConsumerConfig, String> {
    let stream = &consumer.redis_stream;
    let server = stream.server()?;
    let tls = match (&server.place, server.tls) {
        (RedisPlace::Tcp(host, _), true) => {
            let loaded = keys::stream_client(&stream.tls.trust(), stream.tls.identity().as_ref());
            let name = match stream.tls.server_name.as_str() {
                "" => host.clone(),
                name => name.to_owned(),
            };
            let wrong = |_| format!("\"{name}\" can be no name in a certificate");
            let known = ServerName::try_from(name.clone()).map_err(wrong)?;
            Some((loaded.map_err(|fault| fault.to_string())?, known))
        }
        _ => None,
    };
    let client_name = match stream.client_name.as_str() {
        "" => "ringhold".to_owned(),
        name => name.to_owned(),
    };
    Ok(ConsumerConfig {
        name: consumer.name.as_str().into(),
        target: Target { server, tls, client_name },
        streams: stream.streams.clone(),
        group: stream.consumer_group.clone(),
        visibility: stream.visibility_timeout,
        workers: stream.num_workers as usize,
        reading: Arc::new(message::Reading::new(stream)),
    })
}

/// Reads all streams from now on. Within a runtime.
pub(super) fn start<B: Backend>(
    consumers: Vec<ConsumerConfig>,
    backend: &Arc<B>,
    counts: &Arc<Counts>,
) {
    // Of this process: what it leaves, others take over.
    let node: Arc<str> = uuid::Uuid::new_v4().simple().to_string().into();
    for consumer in consumers {
        let api = Api::new(backend.clone(), ApiConfig::default(), counts.clone());
        let api = Arc::new(api);
        for name in &consumer.streams {
            let place = stream::Place {
                config: consumer.clone(),
                stream: name.clone(),
                node: node.clone(),
            };
            let (api, backend, counts) = (api.clone(), backend.clone(), counts.clone());
            tokio::spawn(stream::run(place, api, backend, counts));
        }
    }
}
