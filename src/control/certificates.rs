//! The certificates of all ports: loaded at the start, and again at a reload.
//!
//! Owns what seals tickets where no key is configured, so that a reload keeps sessions. The
//! invariant: what was loaded is in use on all cores or on none; a load that fails changes nothing.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::counts::Counts;
use super::secure::Certificates;
use crate::gateway::options::{Options, Tls};
use crate::tls::TicketSecret;
use crate::tls::keys::{KeyFault, ServerMaterials};
use crate::{Handle, Handler};

/// See the module's text.
#[derive(Clone, Debug)]
pub struct CertificateKeeper {
    own: TicketSecret,
    counts: Arc<Counts>,
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
    /// Loads what the options name.
    pub fn new(
        options: &Options,
        counts: Arc<Counts>,
    ) -> Result<(Self, Option<ServerMaterials>), KeyFault> {
        let own = TicketSecret::random().map_err(KeyFault::of("tickets"))?;
        let mut keeper = Self { own, counts, internal: None, grpc: None };
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

    /// Loads again what the options name, and has all ports go on with it.
    pub fn reload<H: Handler>(&self, options: &Options, handle: &Handle<H>) {
        let own = self.internal.is_some() || self.grpc.is_some();
        if !options.http_server.tls.enabled && !own {
            return;
        }
        match self.load(options).and_then(|loaded| self.replace(&loaded, handle)) {
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
        let mut of = |tls: &Tls, warn: bool| {
            let now = SystemTime::now();
            let materials = ServerMaterials::load(&tls.keys(&self.own), now)?;
            if warn {
                for warning in materials.warnings(now) {
                    tracing::warn!("{warning}");
                }
            }
            ends.extend(materials.facts().iter().map(|facts| facts.not_after));
            Ok(materials)
        };
        let public = Some(&server.tls).filter(|tls| tls.enabled);
        let public = public.map(|tls| of(tls, true)).transpose()?;
        let internal = inside.map(|tls| of(tls, server.internal_tls.enabled)).transpose()?;
        let grpc = Some(&options.grpc_api).filter(|api| api.enabled && api.tls.enabled);
        let grpc = grpc.map(|api| of(&api.tls, true)).transpose()?;
        let first = ends.iter().min().and_then(|end| end.duration_since(UNIX_EPOCH).ok());
        self.counts.tls_not_after.set(first.map_or(0, |end| end.as_secs()));
        Ok(LoadedCertificates { public, internal, grpc })
    }

    fn replace<H: Handler>(
        &self,
        loaded: &LoadedCertificates,
        handle: &Handle<H>,
    ) -> Result<(), KeyFault> {
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
