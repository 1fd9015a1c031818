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
use crate::tls::TicketSecret;
use crate::tls::keys::{KeyFault, KeyPair, OnOrder, ServerKeys, ServerMaterials};
use crate::{Handle, Handler};

/// See the module's text.
#[derive(Clone, Debug)]
pub struct CertificateKeeper {
    own: TicketSecret,
    counts: Arc<Counts>,
    on_order: Arc<Mutex<OnOrder>>,
    /// As they were asked for last.
    sources: Arc<Mutex<CertificateSources>>,
    reloads: Arc<Notify>,
    /// The internal port's TLS, if it has any.
    internal: Option<Certificates>,
    /// That of gRPC, likewise.
    grpc: Option<Certificates>,
}

/// Where the certificates of each port are; `None`: it speaks no TLS.
#[derive(Clone, Debug, Default)]
pub struct CertificateSources {
    /// Of the public port.
    pub public: Option<ServerKeys>,
    /// An authority issues certificates of the public port, too.
    pub on_order: bool,
    /// Of the internal port.
    pub internal: Option<ServerKeys>,
    /// The internal port's are not those of the public one.
    pub internal_own: bool,
    /// Of gRPC.
    pub grpc: Option<ServerKeys>,
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
    /// Loads what is asked for, and what an authority has issued before. `sources` is told what
    /// seals tickets where no key is configured.
    pub fn new(
        sources: impl FnOnce(&TicketSecret) -> CertificateSources,
        issued: Vec<KeyPair>,
        counts: Arc<Counts>,
    ) -> Result<(Self, Option<ServerMaterials>), KeyFault> {
        let own = TicketSecret::random().map_err(KeyFault::of("tickets"))?;
        let on_order = OnOrder { issued, challenges: Vec::new() };
        let on_order = Arc::new(Mutex::new(on_order));
        let reloads = Arc::default();
        let sources = Arc::new(Mutex::new(sources(&own)));
        let mut keeper =
            Self { own, counts, on_order, sources, reloads, internal: None, grpc: None };
        let LoadedCertificates { public, internal, grpc } = keeper.load()?;
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

    /// Loads what is asked for now, and has all ports go on with it.
    pub fn reload<H: Handler>(
        &self,
        sources: impl FnOnce(&TicketSecret) -> CertificateSources,
        handle: &Handle<H>,
    ) {
        let sources = sources(&self.own);
        let own = self.internal.is_some() || self.grpc.is_some();
        if sources.public.is_none() && !own {
            return;
        }
        *self.sources.lock().unwrap_or_else(PoisonError::into_inner) = sources;
        self.reloads.notify_one();
        match self.replace(handle) {
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

    fn load(&self) -> Result<LoadedCertificates, KeyFault> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
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
        let on_order = sources.on_order.then(|| self.on_order().clone());
        let public = sources.public.map(|keys| ServerKeys { on_order, ..keys });
        let public = public.map(|keys| of(&keys, true)).transpose()?;
        let internal = sources.internal.map(|keys| of(&keys, sources.internal_own)).transpose()?;
        let grpc = sources.grpc.map(|keys| of(&keys, true)).transpose()?;
        let first = ends.iter().min().and_then(|end| end.duration_since(UNIX_EPOCH).ok());
        self.counts.tls_not_after.set(first.map_or(0, |end| end.as_secs()));
        Ok(LoadedCertificates { public, internal, grpc })
    }

    /// Loads everything, and has all ports go on with it. A fault changes nothing.
    pub fn replace<H: Handler>(&self, handle: &Handle<H>) -> Result<(), KeyFault> {
        let loaded = self.load()?;
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
