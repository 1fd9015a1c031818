//! What the configuration means for the control plane.

use std::net::SocketAddr;
use std::time::Duration;

use super::access::Access;
#[cfg(feature = "acme")]
use super::acme::AcmeConfig;
use super::admin::AdminConfig;
use super::api::ApiConfig;
use super::demo::Demo;
use super::grpc::{GrpcConfig, GrpcLimits};
use super::health::HealthConfig;
use super::http::{HttpConfig, HttpLimits};
use super::jwks::JwksConfig;
use super::metrics::Names;
use super::outgoing::Certificates;
use super::outgoing::is_grpc;
use super::proxy::{HookConfig, HookTarget};
use crate::config::{ErrorMode, Options, Proxy, StatusTransform};
use crate::gateway::plan::Token;
use crate::gateway::proxy::DEFAULT_PROXY;
use crate::gateway::proxy::{HookKind, HookRefusal};
use crate::gateway::tokens::Endpoints;
use crate::gateway::wire::{Disconnect, Error};

/// Which certificates an authority issues, if it does.
#[cfg(feature = "acme")]
pub fn acme(options: &Options) -> Option<AcmeConfig> {
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
pub fn http(options: &Options, demo: Option<Demo>) -> HttpConfig {
    let api = &options.http_api;
    let health =
        HealthConfig { health: path(&options.health.handler_prefix), ..HealthConfig::default() };
    HttpConfig {
        api: (!api.disabled).then(|| ApiConfig {
            prefix: path(&api.handler_prefix),
            access: access(options).into(),
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
        internal: internal_address(options).is_some(),
    }
}

/// Limits of the public port's HTTP connections.
pub fn http_limits(options: &Options) -> HttpLimits {
    HttpLimits {
        connections: options.http_server.http_connections as usize,
        anonymous: options.http_server.http_anonymous as usize,
        // A connection that is handed over does not come back, and clients that keep theirs would
        // ask it for a stream, which only the engine has.
        keep_alive: !options.has_streams(),
        ..HttpLimits::default()
    }
}

/// Who may call the server API.
pub fn access(options: &Options) -> Access {
    Access::new(options.http_api.key.reveal(), options.http_api.insecure)
}

/// Where the internal port is, if there is one.
pub fn internal_address(options: &Options) -> Option<SocketAddr> {
    let server = &options.http_server;
    (server.internal_port != 0)
        .then(|| SocketAddr::new(server.internal_address, server.internal_port))
}

/// Where the server API speaks gRPC, if it does.
pub fn grpc_address(options: &Options) -> Option<SocketAddr> {
    let api = &options.grpc_api;
    api.enabled.then(|| SocketAddr::new(api.address, api.port))
}

/// How it does.
pub fn grpc(options: &Options) -> Option<GrpcConfig> {
    let api = &options.grpc_api;
    api.enabled.then(|| GrpcConfig {
        access: grpc_access(options).into(),
        transport_errors: api.error_mode == ErrorMode::Transport,
        reflection: api.reflection,
        message_max: api.message_max(),
    })
}

/// Who may call it.
pub fn grpc_access(options: &Options) -> Access {
    Access::new(options.grpc_api.key.reveal(), options.grpc_api.insecure)
}

/// The places of its connections, and what each may hold.
pub(super) fn grpc_limits(options: &Options) -> (HttpLimits, GrpcLimits) {
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
pub fn hooks(options: &Options) -> Vec<(HookTarget, HookConfig)> {
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
pub fn jwks(token: &Token) -> Vec<JwksConfig> {
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
        assert_eq!(internal_address(&options), Some("127.0.0.1:9000".parse().unwrap()));
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
}
