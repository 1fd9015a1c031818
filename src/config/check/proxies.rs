//! Proxies: that each one that is switched on exists, and can be asked.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::super::{Proxy, ProxyTls, StatusTransform};
use super::Check;
use crate::control::outgoing::is_grpc;
use crate::control::pem;
use crate::gateway::hooks::{DEFAULT_PROXY, proxy_name};
use crate::gateway::plan::ChannelPlan;

impl Check<'_> {
    pub(super) fn proxies(&mut self) {
        let options = self.options;
        let (client, channel) = (&options.client.proxy, &options.channel.proxy);
        let namespaces = options.channel.plan.namespaces.iter().map(|namespace| &namespace.options);
        let rules: Vec<_> = namespaces.chain([&options.channel.plan.without_namespace]).collect();
        let default = |enabled: bool, name: &str| enabled && proxy_name(name) == DEFAULT_PROXY;
        let rpc = options.rpc.plan.namespaces.iter().map(|namespace| &namespace.options);
        let mut rpc = rpc.chain([&options.rpc.plan.without_namespace]);
        let used = [
            ("client.proxy.connect", &client.connect.proxy, client.connect.enabled),
            ("client.proxy.refresh", &client.refresh.proxy, client.refresh.enabled),
            (
                "channel.proxy.subscribe",
                &channel.subscribe,
                rules
                    .iter()
                    .any(|it| default(it.subscribe_proxy_enabled, &it.subscribe_proxy_name)),
            ),
            (
                "channel.proxy.publish",
                &channel.publish,
                rules.iter().any(|it| default(it.publish_proxy_enabled, &it.publish_proxy_name)),
            ),
            (
                "channel.proxy.sub_refresh",
                &channel.sub_refresh,
                rules
                    .iter()
                    .any(|it| default(it.sub_refresh_proxy_enabled, &it.sub_refresh_proxy_name)),
            ),
            (
                "channel.proxy.subscribe_stream",
                &channel.subscribe_stream,
                options.streams(DEFAULT_PROXY),
            ),
            (
                "rpc.proxy",
                &options.rpc.proxy,
                rpc.any(|it| default(it.proxy_enabled, &it.proxy_name)),
            ),
        ];
        for (table, proxy, used) in used {
            self.proxy(table, proxy, used);
        }
        let streams = options.streams(DEFAULT_PROXY);
        self.speaks_grpc("channel.proxy.subscribe_stream", &channel.subscribe_stream, streams);
        for (index, named) in options.proxies.iter().enumerate() {
            let table = format!("proxies[{index}]");
            self.name_of(&format!("{table}.name"), &named.name);
            let known = options.proxies[..index].iter().any(|earlier| earlier.name == named.name);
            let key = format!("{table}.name");
            self.demand(!known, &key, format!("\"{}\" is there already", named.name));
            let what = "is the name of those in client.proxy, channel.proxy and rpc.proxy";
            self.demand(named.name != DEFAULT_PROXY, &key, what);
            let there = !named.proxy.endpoint.is_empty();
            self.demand(there, &format!("{table}.endpoint"), "is needed");
            self.proxy(&table, &named.proxy, options.uses(&named.name));
            self.speaks_grpc(&table, &named.proxy, options.streams(&named.name));
        }
        self.rpc();
        self.names();
    }

    /// A name as namespaces and proxies have it.
    pub(super) fn name_of(&mut self, key: &str, name: &str) {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let what = "must have two or more letters, digits, `-`, `_` or `.`";
        let legal = name.len() >= 2 && name.chars().all(legal);
        self.demand(legal, key, format!("{what}, not \"{name}\""));
    }

    fn rpc(&mut self) {
        let rpc = &self.options.rpc.plan;
        for (index, namespace) in rpc.namespaces.iter().enumerate() {
            let key = format!("rpc.namespaces[{index}].name");
            self.name_of(&key, &namespace.name);
            let known = rpc.namespaces[..index].iter().any(|one| one.name == namespace.name);
            self.demand(!known, &key, format!("\"{}\" is there already", namespace.name));
            let boundary = &rpc.namespace_boundary;
            let within = !boundary.is_empty() && namespace.name.contains(boundary.as_str());
            let what = "holds rpc.namespace_boundary, so that no method could be in it";
            self.demand(!within, &key, what);
        }
        let named = !rpc.ping.enabled || !rpc.ping.method.is_empty();
        self.demand(named, "rpc.ping.method", "must not be empty");
    }

    /// Every name that is used is one.
    fn names(&mut self) {
        let options = self.options;
        let known: BTreeSet<_> = options.proxies.iter().map(|named| named.name.as_str()).collect();
        let mut used = Vec::new();
        let namespaces = options.channel.plan.namespaces.iter().enumerate();
        let namespaces = namespaces.map(|(index, one)| (Some(index), &one.options));
        for (index, rules) in namespaces.chain([(None, &options.channel.plan.without_namespace)]) {
            for (key, name) in [
                ("subscribe_proxy_name", &rules.subscribe_proxy_name),
                ("publish_proxy_name", &rules.publish_proxy_name),
                ("sub_refresh_proxy_name", &rules.sub_refresh_proxy_name),
                ("subscribe_stream_proxy_name", &rules.subscribe_stream_proxy_name),
            ] {
                used.push((ChannelPlan::name_of(index, key), name));
            }
            let other = rules.subscribe_proxy_enabled
                || rules.publish_proxy_enabled
                || rules.sub_refresh_proxy_enabled;
            let key = ChannelPlan::name_of(index, "subscribe_stream_proxy_enabled");
            let what = "cannot be beside the proxies of subscribe, publish and sub_refresh";
            self.demand(!(rules.subscribe_stream_proxy_enabled && other), &key, what);
        }
        let namespaces = options.rpc.plan.namespaces.iter().enumerate();
        let key = |index| format!("rpc.namespaces[{index}].proxy_name");
        used.extend(namespaces.map(|(index, one)| (key(index), &one.options.proxy_name)));
        let rpc = &options.rpc.plan.without_namespace;
        used.push(("rpc.without_namespace.proxy_name".to_owned(), &rpc.proxy_name));
        for (key, name) in used {
            let there = proxy_name(name) == DEFAULT_PROXY || known.contains(name.as_str());
            self.demand(there, &key, format!("there is no proxy \"{name}\" in `proxies`"));
        }
    }

    fn proxy(&mut self, table: &str, proxy: &Proxy, used: bool) {
        let key = |name: &str| format!("{table}.{name}");
        if proxy.endpoint.is_empty() {
            self.demand(!used, &key("endpoint"), "is needed: this proxy is switched on");
        } else if let Err(what) = is_backend(&proxy.endpoint) {
            match used {
                true => self.wrong(&key("endpoint"), what),
                false => self.warn(true, &key("endpoint"), &what),
            }
        }
        let timeout = proxy.timeout > Duration::ZERO;
        self.demand(timeout, &key("timeout"), "must not be zero");
        self.demand(proxy.concurrency > 0, &key("concurrency"), "must not be zero");
        let least = 4 * self.options.websocket.message_size_limit.0 + (64 << 10);
        let fits = proxy.endpoint.is_empty() || proxy.max_memory.0 >= least;
        let what = format!("must be at least {least}: a question of websocket.message_size_limit");
        self.demand(fits, &key("max_memory"), &what);
        for (name, list) in
            [("http_headers", &proxy.http_headers), ("emulated_headers", &proxy.emulated_headers)]
        {
            for header in list {
                if HeaderName::try_from(header.as_str()).is_err() {
                    self.wrong(&key(name), format!("\"{header}\" is no header name"));
                }
            }
        }
        for (header, value) in &proxy.http.static_headers {
            let named = HeaderName::try_from(header.as_str()).is_ok();
            if !named || HeaderValue::try_from(value.as_str()).is_err() {
                self.wrong(&key("http.static_headers"), format!("\"{header}\" is no header"));
            }
        }
        for (index, transform) in proxy.http.status_to_code_transforms.iter().enumerate() {
            self.transform(&key(&format!("http.status_to_code_transforms[{index}]")), transform);
        }
        self.tls_of(&key("http.tls"), &proxy.http.tls);
        let host = proxy.endpoint.parse::<Uri>().ok();
        let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
        let name = proxy.http.tls.server_name.as_str();
        let same = !proxy.http.tls.enabled || name.is_empty() || name.eq_ignore_ascii_case(host);
        let what = "must be the host of `endpoint`: another name is not supported";
        self.demand(same, &key("http.tls.server_name"), what);
        self.warn(
            proxy.http.tls.enabled && proxy.http.tls.insecure_skip_verify,
            &key("http.tls.insecure_skip_verify"),
            "whoever is on the way can answer in the backend's place",
        );
        self.grpc_of(&key("grpc"), proxy);
    }

    /// A proxy whose answers are streams.
    fn speaks_grpc(&mut self, table: &str, proxy: &Proxy, used: bool) {
        let grpc = proxy.endpoint.is_empty() || is_grpc(&proxy.endpoint);
        let what = "must be grpc://HOST:PORT: streams of subscriptions go over gRPC only";
        self.demand(!used || grpc, &format!("{table}.endpoint"), what);
        let some = proxy.max_streams > 0;
        self.demand(!used || some, &format!("{table}.max_streams"), "must not be zero");
    }

    fn grpc_of(&mut self, table: &str, proxy: &Proxy) {
        let grpc = &proxy.grpc;
        let key = |name: &str| format!("{table}.{name}");
        let pairs =
            grpc.static_metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let credentials = (grpc.credentials_key.as_str(), grpc.credentials_value.reveal());
        let credentials = Some(credentials).filter(|(name, _)| !name.is_empty());
        for (header, value) in pairs.chain(credentials) {
            let named = HeaderName::try_from(header).is_ok();
            if !named || HeaderValue::try_from(value).is_err() {
                self.wrong(&key("static_metadata"), format!("\"{header}\" is no metadata"));
            }
        }
        self.tls_of(&key("tls"), &grpc.tls);
        let skips = grpc.tls.enabled && grpc.tls.insecure_skip_verify;
        let what = "is not supported over gRPC: name the backend's authority in server_ca_pem";
        self.demand(!skips, &key("tls.insecure_skip_verify"), what);
        self.warn(grpc.compression, &key("compression"), "questions are not compressed");
    }

    fn transform(&mut self, table: &str, transform: &StatusTransform) {
        let StatusTransform { status_code, to_error, to_disconnect } = transform;
        let legal = (100..=599).contains(status_code) && *status_code != 200;
        let what = "must be a status of HTTP other than 200";
        self.demand(legal, &format!("{table}.status_code"), format!("{what}, not {status_code}"));
        let one = (to_error.code > 0) != (to_disconnect.code > 0);
        self.demand(one, table, "needs either to_error or to_disconnect, with a code");
        let code = matches!(to_disconnect.code, 0 | 3000..=4999);
        self.demand(code, &format!("{table}.to_disconnect.code"), "must be from 3000 to 4999");
        for (key, text) in [
            ("to_error.message", &to_error.message),
            ("to_disconnect.reason", &to_disconnect.reason),
        ] {
            let short = text.is_ascii() && text.len() <= REASON_MAX;
            self.demand(short, &format!("{table}.{key}"), "must be at most 123 bytes of ASCII");
        }
    }

    fn tls_of(&mut self, table: &str, tls: &ProxyTls) {
        if !tls.enabled {
            return;
        }
        let key = |name: &str| format!("{table}.{name}");
        let pair = tls.cert_pem.is_empty() == tls.key_pem.is_empty();
        self.demand(pair, &key("cert_pem"), "and key_pem are a pair: one of them is missing");
        for (name, value) in [
            ("cert_pem", tls.cert_pem.as_str()),
            ("key_pem", tls.key_pem.reveal()),
            ("server_ca_pem", &tls.server_ca_pem),
        ] {
            if !value.is_empty()
                && let Err(what) = pem::load(value)
            {
                self.wrong(&key(name), what);
            }
        }
    }
}

/// As in a close frame.
pub(super) const REASON_MAX: usize = 123;

/// Whether a backend can be asked there.
fn is_backend(text: &str) -> Result<(), String> {
    match is_url(text) {
        Err(_) if is_grpc(text) => Ok(()),
        Err(_) if text.starts_with("grpc://") => {
            Err(format!("must be grpc://HOST:PORT, not \"{text}\""))
        }
        other => other,
    }
}

pub(super) fn is_url(text: &str) -> Result<(), String> {
    let schemes = ["http", "https"];
    match text.parse::<Uri>() {
        Ok(url) if url.scheme_str().is_some_and(|s| schemes.contains(&s)) => Ok(()),
        _ => Err(format!("must be an http:// or https:// URL, not \"{text}\"")),
    }
}
