//! What a run is made of: its size, its times, the server's configuration.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::gateway::{API_KEY, SECRET};

/// Size and times of one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Of the round that counts; the warm-up takes a sixth of it.
    pub(crate) time: Duration,
    pub(crate) clients: usize,
    pub(crate) seed: u64,
    pub(crate) is_long: bool,
    /// Expiring connections are prolonged by the backend, not by their clients.
    pub(crate) by_backend: bool,
    /// Channels of each kind.
    pub(crate) channels: usize,
    /// Publications by the server API, per second.
    pub(crate) publications: f64,
    /// Mean seconds a connection is held, and between two commands of it.
    pub(crate) life: f64,
    pub(crate) pause: f64,
    /// Seconds for which tokens are good.
    pub(crate) token: (i64, i64),
    /// Longest time a client does not read.
    pub(crate) stall: f64,
    /// Time after everybody has left before memory is read.
    pub(crate) rest: Duration,
    /// Bytes by which memory at rest may grow, beside a tenth of it.
    pub(crate) slack: u64,
    pub(crate) report: Duration,
}

impl Plan {
    /// The long run if the environment asks for it, the short one of `cargo test` otherwise.
    pub(crate) fn from_environment(by_backend: bool) -> Self {
        let number = |name: &str, default: u64| {
            std::env::var(name).ok().map_or(default, |text| {
                text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
            })
        };
        let seconds = number("GATEWAY_SOAK_SECONDS", 15);
        // Two servers share them.
        let clients = (number("GATEWAY_SOAK_CLIENTS", 240) as usize / 2).max(40);
        let is_long = seconds >= 120;
        Self {
            time: Duration::from_secs(seconds),
            clients,
            seed: number("GATEWAY_SOAK_SEED", 1),
            is_long,
            by_backend,
            channels: (clients / 60).clamp(3, 12),
            publications: if is_long { 12.0 } else { 30.0 },
            life: if is_long { 45.0 } else { 4.0 },
            pause: if is_long { 12.0 } else { 1.0 },
            token: if is_long { (8, 60) } else { (3, 8) },
            stall: if is_long { 10.0 } else { 2.0 },
            rest: Duration::from_secs(if is_long { 10 } else { 2 }),
            slack: if is_long { 4 << 20 } else { 6 << 20 },
            report: Duration::from_secs(if is_long { 60 } else { 5 }),
        }
    }

    /// Seconds that a connection or subscription stays beyond its time.
    pub(crate) fn grace(&self) -> i64 {
        if self.is_long { 5 } else { 3 }
    }

    /// What the server is configured with, for this backend.
    pub(crate) fn config(&self, backend: SocketAddr) -> String {
        let grace = self.grace();
        let most = 3 * self.clients + 200;
        let refresh = match self.by_backend {
            true => {
                "[client.proxy.refresh]\nenabled = true\nendpoint = \"{}/refresh\"\n\
                 timeout = \"1s\"\n"
            }
            false => "",
        };
        let text = format!(
            r#"
[http_server]
port = 0
[http_api]
key = "{API_KEY}"
[prometheus]
enabled = true
[websocket]
write_timeout = "3s"
[sse]
enabled = true
[http_stream]
enabled = true
[engine]
workers = 2
max_connections = {most}
tick = "20ms"
close_timeout = "2s"
[client]
ping_interval = "9s"
pong_timeout = "8s"
stale_close_delay = "5s"
expired_close_delay = "{grace}s"
expired_sub_close_delay = "{grace}s"
channel_position_check_delay = "2s"
[client.token]
hmac_secret_key = "{SECRET}"
[client.proxy.connect]
enabled = true
endpoint = "{{}}/connect"
timeout = "1s"
{refresh}
[channel.proxy.subscribe]
endpoint = "{{}}/subscribe"
timeout = "1s"
[channel.proxy.publish]
endpoint = "{{}}/publish"
timeout = "1s"
[rpc.without_namespace]
proxy_enabled = true
[rpc.proxy]
endpoint = "{{}}/rpc"
timeout = "1s"
{NAMESPACES}"#
        );
        text.replace("{}", &format!("http://{backend}"))
    }
}

/// Publications that a channel with a history keeps.
pub(crate) const HISTORY: u64 = 100;

/// Seconds for which it keeps them.
pub(crate) const HISTORY_TTL: u64 = 120;

const NAMESPACES: &str = r#"
[[channel.namespaces]]
name = "stream"
allow_subscribe_for_client = true
allow_publish_for_subscriber = true
allow_history_for_subscriber = true
history_size = 100
history_ttl = "120s"
force_recovery = true
[[channel.namespaces]]
name = "delta"
allow_subscribe_for_client = true
history_size = 100
history_ttl = "120s"
force_recovery = true
allowed_delta_types = ["fossil"]
delta_publish = true
[[channel.namespaces]]
name = "plain"
allow_subscribe_for_client = true
presence = true
allow_presence_for_subscriber = true
join_leave = true
force_push_join_leave = true
[[channel.namespaces]]
name = "ask"
subscribe_proxy_enabled = true
publish_proxy_enabled = true
allow_publish_for_subscriber = true
history_size = 100
history_ttl = "120s"
force_recovery = true
[[channel.namespaces]]
name = "private"
presence = true
allow_presence_for_subscriber = true
history_size = 100
history_ttl = "120s"
force_recovery = true
[[channel.namespaces]]
name = "given"
history_size = 100
history_ttl = "120s"
force_recovery = true
[[channel.namespaces]]
name = "order"
history_size = 100
history_ttl = "120s"
force_recovery = true
[[channel.namespaces]]
name = "room"
presence = true
allow_presence_for_subscriber = true
allow_subscribe_for_client = true
[[channel.namespaces]]
name = "brief"
history_size = 5
history_ttl = "2s"
history_meta_ttl = "4s"
"#;
