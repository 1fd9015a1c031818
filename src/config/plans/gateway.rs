//! From options to what the gateway is told.

use crate::config::{ErrorMode, Options};
use crate::gateway::api::key::ApiKey;
use crate::gateway::plan::{CallsPlan, HooksPlan, Plan};

impl Options {
    /// What the gateway is told: what connections, channels and calls may do, and the ways in.
    pub fn gateway_plan(&self) -> Plan {
        Plan {
            client: self.client.plan.clone(),
            channel: self.channel.plan.clone(),
            rpc: self.rpc.plan.clone(),
            hooks: self.hooks_plan(),
            calls: self.calls_plan(),
            websocket: self.websocket.clone(),
            uni_websocket: self.uni_websocket.clone(),
            sse: self.sse.clone(),
            http_stream: self.http_stream.clone(),
            emulation: self.emulation.clone(),
            uni_sse: self.uni_sse.clone(),
            uni_http_stream: self.uni_http_stream.clone(),
        }
    }

    fn hooks_plan(&self) -> HooksPlan {
        HooksPlan {
            connect: self.client.proxy.connect.enabled,
            refresh: self.client.proxy.refresh.enabled,
            http_headers: each_once(self.backends().flat_map(|it| &it.http_headers)),
            emulated_headers: each_once(self.backends().flat_map(|it| &it.emulated_headers)),
            behind_proxies: !self.http_server.trusted_proxies.is_empty(),
        }
    }

    fn calls_plan(&self) -> Option<CallsPlan> {
        let api = &self.http_api;
        (!api.disabled).then(|| CallsPlan {
            prefix: api.handler_prefix.trim_end_matches('/').to_owned(),
            key: match api.insecure {
                true => ApiKey::anybody(),
                false => ApiKey::new(api.key.reveal()),
            },
            transport_errors: api.error_mode == ErrorMode::Transport,
            inside: self.http_server.internal_port != 0 && !api.external,
        })
    }
}

/// Names of headers, in whatever letters, each once.
fn each_once<'n>(names: impl Iterator<Item = &'n String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in names {
        if !all.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            all.push(name.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Secret;

    #[test]
    fn an_empty_configuration_is_an_empty_plan() {
        let plan = Options::default().gateway_plan();
        let nobody = CallsPlan {
            prefix: "/api".to_owned(),
            key: ApiKey::new(""),
            transport_errors: false,
            inside: false,
        };
        assert_eq!(plan, Plan { calls: Some(nobody), ..Plan::default() });
    }

    #[test]
    fn headers_of_all_backends_are_wanted() {
        let mut options = Options::default();
        options.client.proxy.connect.enabled = true;
        options.client.proxy.connect.proxy.http_headers = vec!["X-Id".into()];
        options.rpc.proxy.http_headers = vec!["x-id".into(), "Cookie".into()];
        options.rpc.proxy.emulated_headers = vec!["Auth".into()];
        options.http_server.trusted_proxies = vec!["10.0.0.0/8".parse().expect("a network")];
        let hooks = options.gateway_plan().hooks;
        assert_eq!(hooks.http_headers, ["X-Id", "Cookie"]);
        assert_eq!(hooks.emulated_headers, ["Auth"]);
        assert_eq!((hooks.connect, hooks.refresh, hooks.behind_proxies), (true, false, true));
    }

    /// Whatever is in the plan is printed with it.
    #[test]
    fn what_is_not_the_gateways_is_not_in_its_plan() {
        let mut options = Options::default();
        options.http_api.key = Secret::new("key-of-the-api");
        options.grpc_api.key = Secret::new("key-of-grpc");
        options.admin.password = Secret::new("word-of-the-admin");
        (options.http_server.port, options.http_server.internal_port) = (54_321, 54_322);
        options.client.proxy.connect.proxy.endpoint = "http://backend".into();
        let plan = options.gateway_plan();
        let Plan { calls, .. } = &plan;
        let calls = calls.as_ref().expect("there is an API");
        assert!(calls.key.admits([&b"key-of-the-api"[..]]) && calls.inside);
        let printed = format!("{plan:?}");
        for word in ["key-of", "word-of", "54321", "54322", "backend"] {
            assert!(!printed.contains(word), "{word}: {printed}");
        }
        assert_eq!(options.channel.plan, plan.channel);
    }
}
