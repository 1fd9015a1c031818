//! The certificates of all ports: loaded at the start, at a reload, and when an authority has
//! issued one.
//!
//! Owns what seals tickets where no key is configured, so that a reload keeps sessions. The
//! invariant: what was loaded is in use on all cores or on none; a load that fails changes nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::counts::Counts;
use super::secure::Certificates;
use crate::config::{HttpServer, Options};
use crate::tls::TicketSecret;
use crate::tls::keys::{KeyFault, KeyPair, OnOrder, ServerKeys, ServerMaterials};
use crate::{Handle, Handler};

/// See the module's text.
#[derive(Clone, Debug)]
pub struct CertificateKeeper {
    own: TicketSecret,
    counts: Arc<Counts>,
    on_order: Arc<Mutex<OnOrder>>,
    reloads: Arc<Notify>,
    /// The internal port's TLS, if it has any.
    internal: Option<Certificates>,
    /// That of gRPC, likewise.
    grpc: Option<Certificates>,
}

/// The loaded certificates of all ports.
#[derive(Debug)]
pub struct LoadedCertificates {
    /// For the public port, if it speaks TLS.
    pub public: Option<ServerMaterials>,
    internal: Option<ServerMaterials>,
    grpc: Option<ServerMaterials>,
}

impl CertificateKeeper {
    /// Loads what the options name, and what an authority has issued before.
    pub fn new(
        options: &Options,
        issued: Vec<KeyPair>,
        counts: Arc<Counts>,
    ) -> Result<(Self, Option<ServerMaterials>), KeyFault> {
        let own = TicketSecret::random().map_err(KeyFault::of("tickets"))?;
        let on_order = OnOrder { issued, challenges: Vec::new() };
        let on_order = Arc::new(Mutex::new(on_order));
        let reloads = Arc::default();
        let mut keeper = Self { own, counts, on_order, reloads, internal: None, grpc: None };
        let LoadedCertificates { public, internal, grpc } = keeper.load(options)?;
        let of = |materials: Option<&ServerMaterials>, protocol| {
            materials.map(|materials| Certificates::new(materials, protocol)).transpose()
        };
        keeper.internal = of(internal.as_ref(), b"http/1.1")?;
        keeper.grpc = of(grpc.as_ref(), b"h2")?;
        Ok((keeper, public))
    }

    /// The internal port's TLS, if it has any.
    pub fn internal(&self) -> Option<Certificates> {
        self.internal.clone()
    }

    /// That of gRPC, likewise.
    pub fn grpc(&self) -> Option<Certificates> {
        self.grpc.clone()
    }

    /// What an authority has to do with the public port, to be changed before
    /// [`replace`](Self::replace).
    pub fn on_order(&self) -> MutexGuard<'_, OnOrder> {
        self.on_order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next reload, also for one that fails. For one task.
    pub async fn reloaded(&self) {
        self.reloads.notified().await;
    }

    /// Loads again what the options name, and has all ports go on with it.
    pub fn reload<H: Handler>(&self, options: &Options, handle: &Handle<H>) {
        let own = self.internal.is_some() || self.grpc.is_some();
        if !options.http_server.speaks_tls() && !own {
            return;
        }
        self.reloads.notify_one();
        match self.replace(options, handle) {
            Ok(()) => {
                self.counts.tls_reloads.count();
                tracing::info!("certificates are those of the files as they are now");
            }
            Err(error) => {
                self.note_failure();
                tracing::error!(%error, "the certificates stay as they were");
            }
        }
    }

    /// A reload failed before certificates were looked at.
    pub fn note_failure(&self) {
        if self.counts.tls_not_after.get() > 0 {
            self.counts.tls_reloads_failed.count();
        }
    }

    fn load(&self, options: &Options) -> Result<LoadedCertificates, KeyFault> {
        let server = &options.http_server;
        let inside = server.tls_inside().filter(|_| server.internal_port != 0);
        let mut ends = Vec::new();
        let mut of = |keys: &ServerKeys, warn: bool| {
            let now = SystemTime::now();
            let materials = ServerMaterials::load(keys, now)?;
            if warn {
                for warning in materials.warnings(now) {
                    tracing::warn!("{warning}");
                }
            }
            ends.extend(materials.facts().iter().map(|facts| facts.not_after));
            Ok(materials)
        };
        let public = self.public_keys(server).map(|keys| of(&keys, true)).transpose()?;
        let warn = server.internal_tls.enabled;
        let internal = inside.map(|tls| of(&tls.keys(&self.own), warn)).transpose()?;
        let grpc = Some(&options.grpc_api).filter(|api| api.enabled && api.tls.enabled);
        let grpc = grpc.map(|api| of(&api.tls.keys(&self.own), true)).transpose()?;
        let first = ends.iter().min().and_then(|end| end.duration_since(UNIX_EPOCH).ok());
        self.counts.tls_not_after.set(first.map_or(0, |end| end.as_secs()));
        Ok(LoadedCertificates { public, internal, grpc })
    }

    /// What handshakes on the public port need, if it speaks TLS.
    fn public_keys(&self, server: &HttpServer) -> Option<ServerKeys> {
        let mut keys = server.speaks_tls().then(|| server.tls.keys(&self.own))?;
        if server.tls_autocert.enabled {
            if !server.tls.enabled {
                keys.certificates.clear();
            }
            keys.on_order = Some(self.on_order().clone());
        }
        Some(keys)
    }

    /// Loads everything, and has all ports go on with it. A fault changes nothing.
    pub fn replace<H: Handler>(
        &self,
        options: &Options,
        handle: &Handle<H>,
    ) -> Result<(), KeyFault> {
        let loaded = self.load(options)?;
        for (certificates, materials) in
            [(&self.internal, &loaded.internal), (&self.grpc, &loaded.grpc)]
        {
            if let (Some(certificates), Some(materials)) = (certificates, materials) {
                certificates.replace(materials)?;
            }
        }
        match &loaded.public {
            Some(materials) => handle.replace_tls(materials),
            None => Ok(()),
        }
    }
}
