//! From options to what the control plane is told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{ErrorMode, Options, Orderer, Proxy, StatusTransform};
use crate::control::access::Access;
#[cfg(feature = "acme")]
use crate::control::acme::AcmeConfig;
use crate::control::admin::AdminConfig;
use crate::control::api::ApiConfig;
use crate::control::certificates::CertificateSources;
use crate::control::demo::Demo;
use crate::control::grpc::{GrpcConfig, GrpcLimits};
use crate::control::health::HealthConfig;
use crate::control::hooks::{HookConfig, HookTarget};
use crate::control::http::{HttpConfig, HttpLimits};
use crate::control::jwks::JwksConfig;
use crate::control::keeping::KeepSettings;
use crate::control::metrics::Names;
use crate::control::outgoing::{Certificates, is_grpc};
use crate::control::settings::Settings;
use crate::control::state::{NAME_MAX, StateFile};
use crate::gateway::hooks::{DEFAULT_PROXY, HookKind, HookRefusal};
use crate::gateway::plan::Token;
use crate::gateway::tokens::Endpoints;
use crate::gateway::wire::{Disconnect, Error};
use crate::tls::TicketSecret;

impl Options {
    /// Where the certificates of each port are; `own` seals tickets where no key is configured.
    pub fn certificate_sources(&self, own: &TicketSecret) -> CertificateSources {
        let server = &self.http_server;
        let mut public = server.speaks_tls().then(|| server.tls.keys(own));
        if let Some(keys) = public.as_mut().filter(|_| !server.tls.enabled) {
            keys.certificates.clear();
        }
        let inside = server.tls_inside().filter(|_| server.internal_port != 0);
        let grpc = Some(&self.grpc_api).filter(|api| api.enabled && api.tls.enabled);
        CertificateSources {
            public,
            on_order: server.tls_autocert.enabled,
            internal: inside.map(|tls| tls.keys(own)),
            internal_own: server.internal_tls.enabled,
            grpc: grpc.map(|api| api.tls.keys(own)),
        }
    }

    /// What is served beside the cores, and what it asks others.
    pub fn control_settings(&self, demo: Option<Demo>) -> Settings {
        let client = &self.client.plan;
        let subscriptions = &client.subscription_token;
        Settings {
            http: http(self, demo),
            http_limits: http_limits(self),
            bodies: self.http_server.http_bodies.0,
            proxies: self.proxies(),
            internal: self.internal_address(),
            grpc: self.grpc_address().zip(grpc(self)),
            grpc_limits: grpc_limits(self),
            #[cfg(feature = "acme")]
            acme: acme(self),
            hooks: hooks(self),
            connection_keys: jwks(&client.token),
            subscription_keys: match subscriptions.enabled {
                true => jwks(&subscriptions.token),
                false => Vec::new(),
            },
            consumers: self.consumers.clone(),
        }
    }

    /// Who may call the server API.
    pub fn api_access(&self) -> Access {
        Access::new(self.http_api.key.reveal(), self.http_api.insecure)
    }

    /// Who may call it over gRPC.
    pub fn grpc_access(&self) -> Access {
        Access::new(self.grpc_api.key.reveal(), self.grpc_api.insecure)
    }

    /// Where the internal port is, if there is one.
    pub fn internal_address(&self) -> Option<SocketAddr> {
        let server = &self.http_server;
        (server.internal_port != 0)
            .then(|| SocketAddr::new(server.internal_address, server.internal_port))
    }

    /// Where the server API speaks gRPC, if it does.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        let api = &self.grpc_api;
        api.enabled.then(|| SocketAddr::new(api.address, api.port))
    }

    /// What is kept over a restart, and where.
    pub fn keep_settings(&self) -> KeepSettings {
        KeepSettings {
            file: self.state_file(&folder_of("STATE_DIRECTORY")),
            door: self.takeover_path(),
            deadline: self.shutdown.timeout,
            room: self.shutdown.state_max_size.0 as u64,
            name: self.own_name(),
        }
    }

    /// The file of channels in that folder of systemd's (`StateDirectory=`), which may be empty;
    /// `None`: there is none.
    fn state_file(&self, folder: &str) -> Option<StateFile> {
        let shutdown = &self.shutdown;
        let path = placed(&shutdown.state_path, folder, "state")?;
        let (max_size, max_age) = (shutdown.state_max_size.0 as u64, shutdown.state_max_age);
        let own = self.orderer() == Orderer::Process;
        own.then(|| StateFile { path, max_size, max_age, name: self.own_name() })
    }

    /// The socket at which channels are taken over, if there shall be one: where the options, or
    /// systemd (`RuntimeDirectory=`), want it.
    pub fn takeover_path(&self) -> Option<PathBuf> {
        let path = &self.shutdown.takeover_path;
        let path = placed(path, &folder_of("RUNTIME_DIRECTORY"), "takeover")?;
        (self.orderer() == Orderer::Process).then_some(path)
    }

    /// By which a server knows its own.
    pub fn own_name(&self) -> String {
        let server = &self.http_server;
        let name = match self.node.name.as_str() {
            "" => format!("{}:{}", server.address, server.port),
            name => name.to_owned(),
        };
        name.chars().take(NAME_MAX / 4).collect()
    }
}

/// The folder that systemd names in a variable; empty: none.
fn folder_of(variable: &str) -> String {
    first_of(&std::env::var(variable).unwrap_or_default()).to_owned()
}

/// systemd separates several by colons.
fn first_of(folders: &str) -> &str {
    folders.split(':').next().unwrap_or_default()
}

/// A path as an option names it: `none` is none, and an empty one `name` in the folder, if there is
/// one.
fn placed(path: &str, folder: &str, name: &str) -> Option<PathBuf> {
    match path {
        "none" => None,
        "" if folder.is_empty() => None,
        "" => Some(Path::new(folder).join(name)),
        path => Some(path.into()),
    }
}

/// Which certificates an authority issues, if it does.
#[cfg(feature = "acme")]
fn acme(options: &Options) -> Option<AcmeConfig> {
    let order = Some(&options.http_server.tls_autocert).filter(|order| order.enabled)?;
    Some(AcmeConfig {
        hosts: order.hosts(),
        folder: order.cache_dir.clone(),
        email: order.email.clone(),
        directory: order.directory.clone(),
        directory_ca: order.directory_ca_pem.clone(),
        http: if order.http { order.http_address() } else { None },
    })
}

/// What is served over HTTP.
fn http(options: &Options, demo: Option<Demo>) -> HttpConfig {
    let api = &options.http_api;
    let health =
        HealthConfig { health: path(&options.health.handler_prefix), ..HealthConfig::default() };
    HttpConfig {
        api: (!api.disabled).then(|| ApiConfig {
            prefix: path(&api.handler_prefix),
            access: options.api_access().into(),
            transport_errors: api.error_mode == ErrorMode::Transport,
            ..ApiConfig::default()
        }),
        api_external: api.external,
        health: options.health.enabled.then_some(health),
        metrics: options.prometheus.enabled.then(|| path(&options.prometheus.handler_prefix)),
        metric_names: match options.prometheus.centrifugo_names {
            true => Names::Both,
            false => Names::Ours,
        },
        admin: options.admin.enabled.then(|| AdminConfig {
            prefix: path(&options.admin.handler_prefix),
            password: options.admin.password.clone(),
            secret: options.admin.secret.clone(),
            ..AdminConfig::default()
        }),
        admin_external: options.admin.external,
        demo,
        internal: options.internal_address().is_some(),
    }
}

/// Limits of the public port's HTTP connections.
fn http_limits(options: &Options) -> HttpLimits {
    HttpLimits {
        connections: options.http_server.http_connections as usize,
        anonymous: options.http_server.http_anonymous as usize,
        // A connection that is handed over does not come back, and clients that keep theirs would
        // ask it for a stream, which only the engine has.
        keep_alive: !options.has_streams(),
        ..HttpLimits::default()
    }
}

/// How the server API speaks gRPC, if it does.
fn grpc(options: &Options) -> Option<GrpcConfig> {
    let api = &options.grpc_api;
    api.enabled.then(|| GrpcConfig {
        access: options.grpc_access().into(),
        transport_errors: api.error_mode == ErrorMode::Transport,
        reflection: api.reflection,
        message_max: api.message_max(),
    })
}

/// The places of connections of gRPC, and what each may hold.
fn grpc_limits(options: &Options) -> (HttpLimits, GrpcLimits) {
    let api = &options.grpc_api;
    let limits = HttpLimits {
        connections: api.max_connections as usize,
        anonymous: api.max_anonymous as usize,
        // Clients keep theirs, and come back by themselves after a farewell.
        head_timeout: GRPC_PATIENCE,
        ..HttpLimits::default()
    };
    (limits, GrpcLimits { calls: api.max_concurrent_calls, head: GRPC_HEAD })
}

/// Bytes of a call's metadata: what implementations of gRPC take where nothing is said.
const GRPC_HEAD: u32 = 8 << 10;

/// How long a connection may stay without a call.
const GRPC_PATIENCE: Duration = Duration::from_secs(300);

/// The hooks that are switched on, or could be by a namespace.
pub(super) fn hooks(options: &Options) -> Vec<(HookTarget, HookConfig)> {
    let (client, channel) = (&options.client.proxy, &options.channel.proxy);
    let there = |proxy: &Proxy| is_http(&proxy.endpoint) || is_grpc(&proxy.endpoint);
    let rpc = &options.rpc.proxy;
    let of_kind = [
        (HookKind::Connect, &client.connect.proxy, client.connect.enabled),
        (HookKind::Refresh, &client.refresh.proxy, client.refresh.enabled),
        (HookKind::Subscribe, &channel.subscribe, there(&channel.subscribe)),
        (HookKind::Publish, &channel.publish, there(&channel.publish)),
        (HookKind::SubRefresh, &channel.sub_refresh, there(&channel.sub_refresh)),
        (
            HookKind::SubscribeStream,
            &channel.subscribe_stream,
            is_grpc(&channel.subscribe_stream.endpoint),
        ),
        (HookKind::Rpc, rpc, there(rpc) && options.uses(DEFAULT_PROXY)),
    ];
    let of_kind = of_kind.into_iter().filter(|(_, _, used)| *used);
    let of_kind = of_kind.map(|(kind, proxy, _)| {
        // A namespace may be given to it by a reload.
        let streams = kind == HookKind::SubscribeStream;
        (HookTarget::Default(kind), hook(proxy, streams))
    });
    let named = options.proxies.iter().filter(|named| there(&named.proxy));
    let named = named.map(|it| {
        let hook = hook(&it.proxy, options.streams(&it.name));
        (HookTarget::Named(it.name.clone()), hook)
    });
    of_kind.chain(named).collect()
}

fn is_http(endpoint: &str) -> bool {
    let schemes = ["http://", "https://"];
    schemes.iter().any(|it| endpoint.to_ascii_lowercase().starts_with(it))
}

fn hook(proxy: &Proxy, streams: bool) -> HookConfig {
    let (mut headers, tls) = match is_http(&proxy.endpoint) {
        true => (proxy.http.static_headers.clone(), &proxy.http.tls),
        false => (proxy.grpc.static_metadata.clone(), &proxy.grpc.tls),
    };
    if !is_http(&proxy.endpoint) && !proxy.grpc.credentials_key.is_empty() {
        let value = proxy.grpc.credentials_value.reveal().to_owned();
        headers.insert(proxy.grpc.credentials_key.clone(), value);
    }
    HookConfig {
        endpoint: proxy.endpoint.clone(),
        timeout: proxy.timeout,
        concurrency: proxy.concurrency as usize,
        max_memory: proxy.max_memory.0,
        max_streams: if streams { proxy.max_streams as usize } else { 0 },
        http_headers: proxy.http_headers.clone(),
        emulated_headers: proxy.emulated_headers.clone(),
        static_headers: headers,
        binary_encoding: proxy.binary_encoding,
        include_connection_meta: proxy.include_connection_meta,
        statuses: proxy.http.status_to_code_transforms.iter().map(status).collect(),
        tls: tls.enabled.then(|| Certificates {
            certificate: tls.cert_pem.clone(),
            key: tls.key_pem.clone(),
            authority: tls.server_ca_pem.clone(),
            name: tls.server_name.clone(),
            believe_all: tls.insecure_skip_verify,
        }),
        ..HookConfig::default()
    }
}

fn status(transform: &StatusTransform) -> (u16, HookRefusal) {
    let (error, disconnect) = (&transform.to_error, &transform.to_disconnect);
    let refusal = match u16::try_from(disconnect.code) {
        Ok(code @ 1..) => HookRefusal::Disconnect(Disconnect::new(code, disconnect.reason.clone())),
        _ => HookRefusal::Error(Error::new(error.code, error.message.clone(), error.temporary)),
    };
    (transform.status_code, refusal)
}

/// Where keys for tokens are fetched, if they are.
fn jwks(token: &Token) -> Vec<JwksConfig> {
    if token.jwks_public_endpoint.is_empty() {
        return Vec::new();
    }
    // One that is wrong was told of when the options were checked.
    let urls = Endpoints::new(token).map_or(Vec::new(), |endpoints| endpoints.urls().to_vec());
    urls.into_iter().map(|url| JwksConfig { url, ..JwksConfig::default() }).collect()
}

/// Without a slash at its end.
fn path(prefix: &str) -> String {
    prefix.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineType;
    use crate::options::Secret;

    #[test]
    fn by_default_nobody_may_call_and_nothing_else_is_there() {
        let options = Options::default();
        let config = http(&options, None);
        let api = config.api.unwrap();
        assert_eq!((api.prefix.as_str(), api.access.access()), ("/api", Access::Nobody));
        assert!(!api.transport_errors && !config.internal && config.demo.is_none());
        assert_eq!((config.health, config.metrics), (None, None));
        assert!(hooks(&options).is_empty());
        assert_eq!(jwks(&options.client.plan.token), []);
    }

    #[test]
    fn what_is_configured_is_there() {
        let mut options = Options::default();
        options.http_api.key = Secret::new("k");
        options.http_api.handler_prefix = "/backend/".to_owned();
        options.http_api.error_mode = ErrorMode::Transport;
        options.health.enabled = true;
        options.prometheus.enabled = true;
        options.http_server.internal_port = 9000;
        let config = http(&options, None);
        let api = config.api.unwrap();
        assert_eq!(
            (api.prefix.as_str(), api.access.access()),
            ("/backend", Access::Key("k".to_owned()))
        );
        assert!(api.transport_errors && config.internal);
        assert_eq!(config.health, Some(HealthConfig::default()));
        assert_eq!(config.metrics.as_deref(), Some("/metrics"));
        assert_eq!(options.internal_address(), Some("127.0.0.1:9000".parse().unwrap()));
        options.http_api.disabled = true;
        assert!(http(&options, None).api.is_none());
    }

    #[test]
    fn hooks_are_those_in_use() {
        let mut options = Options::default();
        let proxy = &mut options.client.proxy.connect;
        proxy.enabled = true;
        proxy.proxy.endpoint = "http://b/connect".to_owned();
        proxy.proxy.timeout = Duration::from_secs(3);
        proxy.proxy.http_headers = vec!["cookie".to_owned()];
        options.client.proxy.refresh.proxy.endpoint = "http://b/unused".to_owned();
        options.channel.proxy.publish.endpoint = "http://b/publish".to_owned();
        options.client.plan.token.jwks_public_endpoint = "https://i/keys".to_owned();
        let all = hooks(&options);
        let targets: Vec<_> = all.iter().map(|(target, _)| target.clone()).collect();
        let kinds = [HookKind::Connect, HookKind::Publish];
        assert_eq!(targets, kinds.map(HookTarget::Default));
        let connect = &all[0].1;
        assert_eq!((connect.endpoint.as_str(), connect.timeout.as_secs()), ("http://b/connect", 3));
        assert_eq!(
            (connect.http_headers.as_slice(), connect.concurrency),
            (&["cookie".to_owned()][..], 512)
        );
        assert_eq!(jwks(&options.client.plan.token)[0].url, "https://i/keys");
    }

    #[test]
    fn the_place_is_what_options_and_systemd_say() {
        let mut options = Options::default();
        let path = |options: &Options, folder: &str| {
            options.state_file(first_of(folder)).map(|file| file.path.display().to_string())
        };
        assert_eq!(path(&options, ""), None);
        assert_eq!(
            path(&options, "/var/lib/ringhold:/x").as_deref(),
            Some("/var/lib/ringhold/state")
        );
        options.shutdown.state_path = "/tmp/it".to_owned();
        assert_eq!(path(&options, "/var/lib/ringhold").as_deref(), Some("/tmp/it"));
        options.engine.kind = EngineType::Redis;
        assert_eq!(path(&options, ""), None);
        let mut options = Options::default();
        options.shutdown.state_path = "none".to_owned();
        assert_eq!(path(&options, "/var/lib/ringhold"), None);
    }
}
