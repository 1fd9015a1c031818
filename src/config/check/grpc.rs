//! `grpc_api`: who may call, and its limits.

use super::Check;

impl Check<'_> {
    pub(super) fn grpc_api(&mut self) {
        let (api, server) = (&self.options.grpc_api, &self.options.http_server);
        self.tls("grpc_api.tls", &api.tls);
        for (key, number) in [
            ("max_connections", api.max_connections),
            ("max_anonymous", api.max_anonymous),
            ("max_concurrent_calls", api.max_concurrent_calls),
        ] {
            let within = (1..=65_536).contains(&number);
            self.demand(within, &format!("grpc_api.{key}"), "must be from 1 to 65536");
        }
        if !api.enabled {
            return;
        }
        let someone = !api.key.is_empty() || api.insecure;
        let what = "is needed: without one whoever reaches the port may publish, which only \
                    `insecure` allows";
        self.demand(someone, "grpc_api.key", what);
        self.warn(
            api.insecure && !api.address.is_loopback(),
            "grpc_api.insecure",
            "whoever reaches the port may publish to everybody",
        );
        let taken =
            [(server.address, server.port), (server.internal_address, server.internal_port)];
        let own = api.port == 0 || !taken.contains(&(api.address, api.port));
        self.demand(own, "grpc_api.port", "is a port of http_server");
        let most = server.http_bodies.0 / 2;
        let fits = api.message_max() <= most;
        let what = "must be at most half of http_server.http_bodies: a message counts twice";
        self.demand(fits, "grpc_api.max_receive_message_size", what);
    }
}
