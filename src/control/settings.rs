//! What the control plane is told. The configuration, above it, makes this
//! (`config::plans::control`); the control plane knows neither its keys nor where they come from.

use std::net::SocketAddr;

#[cfg(feature = "acme")]
use super::acme::AcmeConfig;
use super::grpc::{GrpcConfig, GrpcLimits};
use super::hooks::{HookConfig, HookTarget};
use super::http::{HttpConfig, HttpLimits};
use super::jwks::JwksConfig;
use crate::Proxies;
use crate::config::Consumer;

/// All of it, but for certificates, which a reload changes.
pub struct Settings {
    /// What is served over HTTP.
    pub http: HttpConfig,
    /// Limits of the public port's HTTP connections.
    pub http_limits: HttpLimits,
    /// Bytes that the bodies of requests to the server API hold together.
    pub bodies: usize,
    /// Which proxies are trusted, and for which headers.
    pub proxies: Proxies,
    /// Where the internal port is, if there is one.
    pub internal: Option<SocketAddr>,
    /// Where and how the server API speaks gRPC, if it does.
    pub grpc: Option<(SocketAddr, GrpcConfig)>,
    /// The places of its connections, and what each may hold.
    pub grpc_limits: (HttpLimits, GrpcLimits),
    /// Which certificates an authority issues, if it does.
    #[cfg(feature = "acme")]
    pub acme: Option<AcmeConfig>,
    /// The hooks that are switched on, or could be by a namespace.
    pub hooks: Vec<(HookTarget, HookConfig)>,
    /// Where keys for connection tokens are fetched.
    pub connection_keys: Vec<JwksConfig>,
    /// Where those for subscription tokens are, if they are others.
    pub subscription_keys: Vec<JwksConfig>,
    /// What is read besides the server API.
    pub consumers: Vec<Consumer>,
}
