//! `ringhold echo`: the engine with the smallest application there is, for conformance and
//! benchmarks.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use ringhold::protocol::request::Request;
use ringhold::tls::keys::{KeyFault, KeyPair, ServerKeys, ServerMaterials};
use ringhold::tls::{RecordLayer, TicketSecret, Version};
use ringhold::{
    Closed, ConnId, Connection, Context, Frame, Handler, Message, Server, UpgradeAction,
};

use super::options::{EngineOptions, duration};
use crate::control::{self, Duties};

/// Sends every message back. Clients of a path below `/fanout` share a topic instead: what one
/// sends, all of them receive.
#[derive(Debug, Args)]
pub(crate) struct EchoArguments {
    #[command(flatten)]
    engine: EngineOptions,

    /// Speak TLS with this chain of certificates: a PEM file, or its text. SIGHUP loads it again
    #[arg(long, help_heading = "TLS", requires = "tls_key", value_name = "PEM")]
    tls_cert: Option<String>,

    /// The key of that certificate
    #[arg(long, help_heading = "TLS", requires = "tls_cert", value_name = "PEM")]
    tls_key: Option<String>,

    /// Who carries connections after their handshakes: own, or rustls, which takes 20 times the
    /// memory
    #[arg(
        long,
        help_heading = "TLS",
        requires = "tls_cert",
        default_value = "own",
        value_name = "LAYER"
    )]
    tls_record_layer: TlsRecordLayer,

    /// Log the counters at this interval; 0s: never
    #[arg(long, help_heading = None::<&str>, default_value = "0s", value_parser = duration,
          value_name = "TIME")]
    stats_interval: Duration,
}

pub(crate) fn run(arguments: EchoArguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut config = arguments.engine.config();
    let pair = arguments.tls_cert.zip(arguments.tls_key);
    let layer = arguments.tls_record_layer;
    let keys = pair.map(|(cert_pem, key_pem)| keys(cert_pem, key_pem, layer)).transpose()?;
    if let Some(keys) = &keys {
        config.tls = Some(Arc::new(load(keys)?));
    }
    let (drain, io) = (config.drain.clone(), config.io);
    let scheme = if config.tls.is_some() { "wss" } else { "ws" };
    let running = Server::builder().config(config).start(|_| Echo::default())?;
    let mut duties = Duties { io, ..Duties::default() };
    if let Some(keys) = keys {
        let handle = running.handle();
        duties.reload = Box::new(move || {
            match load(&keys).and_then(|materials| handle.replace_tls(&materials)) {
                Ok(()) => tracing::info!("certificates are those of the files as they are now"),
                Err(error) => tracing::error!(%error, "the certificates stay as they were"),
            }
        });
    }
    let control = control::start(running.handle(), drain, arguments.stats_interval, duties)?;
    if let Some(address) = running.address() {
        control::announce(scheme, address, running.workers());
    }
    let stats = running.join()?;
    control.finish();
    control::summarise(&stats);
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TlsRecordLayer {
    Own,
    Rustls,
}

fn keys(
    cert_pem: String,
    key_pem: String,
    layer: TlsRecordLayer,
) -> Result<ServerKeys, Box<dyn Error>> {
    Ok(ServerKeys {
        certificates: vec![KeyPair { cert_pem, key_pem }],
        client_ca_pem: None,
        min_version: Version::Tls12,
        tickets: TicketSecret::random()?,
        record_layer: match layer {
            TlsRecordLayer::Own => RecordLayer::Own,
            TlsRecordLayer::Rustls => RecordLayer::Rustls,
        },
        on_order: None,
    })
}

fn load(keys: &ServerKeys) -> Result<ServerMaterials, KeyFault> {
    let now = SystemTime::now();
    let materials = ServerMaterials::load(keys, now)?;
    for warning in materials.warnings(now) {
        tracing::warn!("{warning}");
    }
    Ok(materials)
}

/// State per connection: whether it wants fan-out. One byte, so that the density of the engine is
/// what an idle connection shows; the few that have a topic are kept beside.
#[derive(Default)]
struct Echo {
    topics: HashMap<ConnId, Box<str>>,
    /// The topic of the connection that was just accepted; `open` follows `request` at once.
    accepted: Option<Box<str>>,
}

impl Handler for Echo {
    type State = bool;
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<bool> {
        let path = request.path();
        self.accepted = path.starts_with("/fanout").then(|| path.into());
        UpgradeAction::accept(self.accepted.is_some())
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, _: &mut bool) {
        if let Some(topic) = self.accepted.take() {
            conn.subscribe(&topic);
            self.topics.insert(conn.id(), topic);
        }
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, fans_out: &mut bool, message: Message<'_>) {
        if !*fans_out {
            // A peer that is gone or too slow is counted by the engine.
            let _ = conn.reply(message);
        } else if let Some(topic) = self.topics.get(&conn.id()) {
            conn.publish(topic, &Frame::new(message.kind(), message.payload()));
        }
    }

    fn on_close(&mut self, _: &mut Context<'_>, id: ConnId, fans_out: bool, _: &Closed) {
        if fans_out {
            self.topics.remove(&id);
        }
    }
}
