//! The certificates of both ports: loaded at the start, and again at a reload.
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
}

/// The loaded certificates of both ports.
#[derive(Debug)]
pub struct LoadedCertificates {
    /// For the public port, if it speaks TLS.
    pub public: Option<ServerMaterials>,
    internal: Option<ServerMaterials>,
}

impl CertificateKeeper {
    /// Loads what the options name.
    pub fn new(
        options: &Options,
        counts: Arc<Counts>,
    ) -> Result<(Self, Option<ServerMaterials>), KeyFault> {
        let own = TicketSecret::random().map_err(KeyFault::of("tickets"))?;
        let mut keeper = Self { own, counts, internal: None };
        let LoadedCertificates { public, internal } = keeper.load(options)?;
        keeper.internal = internal.as_ref().map(Certificates::new).transpose()?;
        Ok((keeper, public))
    }

    /// The internal port's TLS, if it has any.
    pub fn internal(&self) -> Option<Certificates> {
        self.internal.clone()
    }

    /// Loads again what the options name, and has both ports go on with it.
    pub fn reload<H: Handler>(&self, options: &Options, handle: &Handle<H>) {
        if !options.http_server.tls.enabled && self.internal.is_none() {
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
        let first = ends.iter().min().and_then(|end| end.duration_since(UNIX_EPOCH).ok());
        self.counts.tls_not_after.set(first.map_or(0, |end| end.as_secs()));
        Ok(LoadedCertificates { public, internal })
    }

    fn replace<H: Handler>(
        &self,
        loaded: &LoadedCertificates,
        handle: &Handle<H>,
    ) -> Result<(), KeyFault> {
        if let (Some(certificates), Some(materials)) = (&self.internal, &loaded.internal) {
            certificates.replace(materials)?;
        }
        match &loaded.public {
            Some(materials) => handle.replace_tls(materials),
            None => Ok(()),
        }
    }
}
