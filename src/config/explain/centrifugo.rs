//! The fate of Centrifugo's keys that are none of ours. `centrifugo.tsv` lists all keys there
//! are; a rule below says of each that no section here has what is lost without it. The invariant,
//! held by tests: every listed key is ours or has a rule, and the page `docs/centrifugo-keys.md`
//! says the same.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::config::schema::{Entry, Location, Node, Value, join};

/// A key of Centrifugo's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Its path; `[]` stands for an element of a list.
    pub(crate) path: &'static str,
    /// `bool`, `int`, `duration`, `string`, `strings`, `map` or `list`.
    pub(crate) kind: &'static str,
    /// Its default, as text; empty: what is zero of its kind.
    #[cfg_attr(not(test), allow(dead_code, reason = "what tests try each key with"))]
    pub(crate) default: &'static str,
}

/// The fate of a key that is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing is lost without it.
    Noted,
    /// Something would be unsafe or lost: where it is on, the server does not start.
    Missed,
    /// Likewise with any value but these.
    Unless(&'static [&'static str]),
}

/// A mistake about a key: its place, its path, in words.
pub(crate) type Wrong = (Location, String, String);

/// All keys, in the order of their sections.
pub(crate) fn keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let lines = include_str!("centrifugo.tsv").lines().filter(|line| !line.starts_with('#'));
        let key = |line: &'static str| {
            let mut parts = line.split('\t');
            let mut next = || parts.next().unwrap_or_default();
            Key { path: next(), kind: next(), default: next() }
        };
        lines.map(key).collect()
    })
}

fn by_path() -> &'static BTreeMap<&'static str, Key> {
    static INDEX: OnceLock<BTreeMap<&'static str, Key>> = OnceLock::new();
    INDEX.get_or_init(|| keys().iter().map(|key| (key.path, *key)).collect())
}

/// The key that an environment variable of Centrifugo's names, without its prefix. Elements of
/// lists have none.
pub(crate) fn key_of_variable(name: &str) -> Option<&'static str> {
    static INDEX: OnceLock<BTreeMap<String, &'static str>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let single = keys().iter().filter(|key| !key.path.contains("[]"));
        single.map(|key| (key.path.to_ascii_uppercase().replace('.', "_"), key.path)).collect()
    });
    index.get(name).copied()
}

/// Whether Centrifugo has a key of this path, or a table.
pub(crate) fn is_key(path: &str) -> bool {
    let plain = normal(path);
    keys().iter().any(|key| key.path == plain || within(key.path, &plain))
}

/// Whether a key is one that would be missed where it is on.
pub(crate) fn is_missed(path: &str) -> bool {
    matches!(rule(&normal(path)), Some((Fate::Missed | Fate::Unless(_), _)))
}

/// What is wrong with a value at a path that no section has. `None`: it is no key of Centrifugo's
/// either. Nothing: a note will do.
pub(crate) fn judge(path: &str, node: &Node) -> Option<Vec<Wrong>> {
    if !is_key(path) {
        return None;
    }
    let mut wrong = Vec::new();
    look(path, node, &mut wrong);
    Some(wrong)
}

/// Whether a key stands below a table or list.
fn within(path: &str, table: &str) -> bool {
    path.strip_prefix(table).is_some_and(|rest| rest.starts_with('.') || rest.starts_with("[]"))
}

fn look(path: &str, node: &Node, wrong: &mut Vec<Wrong>) {
    let plain = normal(path);
    let key = by_path().get(plain.as_str());
    match (&node.value, key) {
        (Value::Other("null"), _) => {}
        (Value::Table(entries), None) => {
            let switched = by_path().contains_key(join(&plain, "enabled").as_str());
            let on = |entry: &Entry| entry.key == "enabled" && !is_off(&entry.node.value);
            if switched && !entries.iter().any(on) {
                return;
            }
            for entry in entries {
                look(&join(path, &entry.key), &entry.node, wrong);
            }
        }
        (Value::List(nodes), Some(key)) if key.kind == "list" => {
            for (index, node) in nodes.iter().enumerate() {
                look(&format!("{path}[{index}]"), node, wrong);
            }
        }
        (Value::Raw(text), Some(key)) if key.kind == "list" && text.trim().starts_with('[') => {
            match Node::from_json_text(text, &node.place) {
                Ok(list) => look(path, &list, wrong),
                Err(what) => wrong.push((node.place.clone(), path.to_owned(), what)),
            }
        }
        (_, None) => {
            wrong.push((node.place.clone(), path.to_owned(), "unknown key".to_owned()));
        }
        (value, Some(_)) => {
            let Some((fate, why)) = rule(&plain) else { return };
            let fine = match fate {
                Fate::Noted => true,
                Fate::Missed => is_off(value),
                Fate::Unless(values) => match value {
                    Value::Text(text) | Value::Raw(text) => values.contains(&text.as_str()),
                    value => is_off(value),
                },
            };
            if !fine {
                let what = format!("a setting of Centrifugo's that ringhold does not have{why}");
                wrong.push((node.place.clone(), path.to_owned(), what));
            }
        }
    }
}

/// The note for a setting that keeps nobody from starting.
pub(crate) fn note(path: &str) -> String {
    let plain = normal(path);
    let missed = |key: &Key| {
        let below = key.path == plain || within(key.path, &plain);
        below && matches!(rule(key.path), Some((Fate::Missed | Fate::Unless(_), _)))
    };
    match keys().iter().any(missed) {
        true => "a setting of Centrifugo's that ringhold does not have, and that is off".to_owned(),
        false => {
            let why = rule(&plain).map_or("", |(_, why)| why);
            format!("a setting of Centrifugo's that has no meaning here{why}")
        }
    }
}

/// `a[3].b` as `a[].b`.
fn normal(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut within = false;
    for c in path.chars() {
        match c {
            '[' => {
                within = true;
                plain.push_str("[]");
            }
            ']' => within = false,
            c if !within => plain.push(c),
            _ => {}
        }
    }
    plain
}

/// The same path in the words of the rules, where several sections have the same keys.
fn shared(plain: &str) -> Option<String> {
    let alike = [
        ("channel.namespaces[]", "channel.*"),
        ("channel.without_namespace", "channel.*"),
        ("client.subscription_token", "client.*token"),
        ("client.token", "client.*token"),
        ("client.proxy.connect", "*.proxy"),
        ("client.proxy.refresh", "*.proxy"),
        ("channel.proxy.subscribe", "*.proxy"),
        ("channel.proxy.publish", "*.proxy"),
        ("channel.proxy.sub_refresh", "*.proxy"),
        ("channel.proxy.subscribe_stream", "*.proxy"),
        ("rpc.proxy", "*.proxy"),
        ("proxies[]", "*.proxy"),
    ];
    alike.iter().find_map(|(section, name)| {
        let rest = plain.strip_prefix(section)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{name}{rest}"))
    })
}

/// The rule that holds for a key or table: the longest that begins its path.
pub(crate) fn rule(plain: &str) -> Option<(Fate, &'static str)> {
    let name = shared(plain).unwrap_or_else(|| plain.to_owned());
    let fits = |at: &str| name == at || within(&name, at);
    let best = RULES.iter().filter(|(at, ..)| fits(at)).max_by_key(|(at, ..)| at.len())?;
    Some((best.1, best.2))
}

/// Whether a value switches nothing on.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::Integer(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::Text(text) | Value::Raw(text) => {
            matches!(text.as_str(), "" | "false" | "0" | "0s" | "[]" | "{}")
        }
        Value::List(list) => list.is_empty(),
        Value::Table(entries) => entries.iter().all(|entry| is_off(&entry.node.value)),
        Value::Other(name) => *name == "null",
    }
}

/// A key or table, what becomes of it, and why or what to do instead.
const RULES: &[(&str, Fate, &str)] = &[
    // Unsafe to ignore, or a loss.
    ("presence_manager.type", Fate::Unless(&["", "memory"]), PRESENCE),
    ("controller.enabled", Fate::Missed, CONTROLLER),
    ("engine.redis.history_use_lists", Fate::Missed, ": histories are streams"),
    (
        "engine.redis.presence_hash_field_ttl",
        Fate::Missed,
        ": members have their time in a sorted set",
    ),
    (
        "engine.redis.presence_user_mapping",
        Fate::Missed,
        ": users are counted from the members' data",
    ),
    ("uni_grpc.enabled", Fate::Missed, ": use another transport"),
    ("webtransport.enabled", Fate::Missed, ": use another transport"),
    ("consumers[].redis_stream.cluster_address", Fate::Missed, NO_CLUSTER),
    ("client.insecure_skip_token_signature_verify", Fate::Missed, ": tokens are always verified"),
    ("admin.insecure", Fate::Missed, ": set admin.password"),
    // Harmless.
    ("broker", Fate::Noted, ": engine.redis is the Redis, and broker.nats the other broker"),
    ("broker.nats.tls.client_ca_pem", Fate::Noted, ": a client verifies no client"),
    ("presence_manager", Fate::Noted, PRESENCE),
    ("controller", Fate::Noted, CONTROLLER),
    (
        "engine.redis.replica_client.enabled",
        Fate::Noted,
        ": the primary is asked, as by Centrifugo's open edition",
    ),
    ("engine.redis.tls.client_ca_pem", Fate::Noted, ": a client verifies no client"),
    ("engine.redis.sentinel_tls.client_ca_pem", Fate::Noted, ": a client verifies no client"),
    ("map_broker", Fate::Noted, KINDS),
    ("shared_poll", Fate::Noted, KINDS),
    ("channel.*.map", Fate::Noted, KINDS),
    ("channel.*.shared_poll", Fate::Noted, KINDS),
    ("channel.*.map_clients_presence_channel_prefix", Fate::Noted, KINDS),
    ("channel.*.map_users_presence_channel_prefix", Fate::Noted, KINDS),
    ("channel.proxy.map_publish", Fate::Noted, KINDS),
    ("channel.proxy.map_remove", Fate::Noted, KINDS),
    ("channel.proxy.shared_poll_refresh", Fate::Noted, KINDS),
    (
        "*.proxy.grpc_metadata",
        Fate::Noted,
        ": there is no gRPC transport whose metadata it could be",
    ),
    ("grpc_api.tls.server_ca_pem", Fate::Noted, NO_CLIENT),
    ("grpc_api.tls.server_name", Fate::Noted, NO_CLIENT),
    ("grpc_api.tls.insecure_skip_verify", Fate::Noted, NO_CLIENT),
    ("uni_grpc", Fate::Noted, ": use another transport"),
    ("webtransport", Fate::Noted, ": use another transport"),
    ("consumers[].postgresql.tls.client_ca_pem", Fate::Noted, ": a client verifies no client"),
    ("consumers[].kafka", Fate::Noted, CONSUMERS),
    ("consumers[].nats_jetstream", Fate::Noted, CONSUMERS),
    ("consumers[].google_pub_sub", Fate::Noted, CONSUMERS),
    ("consumers[].aws_sqs", Fate::Noted, CONSUMERS),
    ("consumers[].azure_service_bus", Fate::Noted, CONSUMERS),
    ("consumers[].redis_stream.replica_client.enabled", Fate::Noted, ": the primary is read"),
    ("consumers[].redis_stream.tls.client_ca_pem", Fate::Noted, ": a client verifies no client"),
    (
        "consumers[].redis_stream.sentinel_tls.client_ca_pem",
        Fate::Noted,
        ": a client verifies no client",
    ),
    ("http_server.tls.server_ca_pem", Fate::Noted, NO_CLIENT),
    ("http_server.tls.server_name", Fate::Noted, NO_CLIENT),
    ("http_server.tls.insecure_skip_verify", Fate::Noted, NO_CLIENT),
    ("http_server.internal_tls.server_ca_pem", Fate::Noted, NO_CLIENT),
    ("http_server.internal_tls.server_name", Fate::Noted, NO_CLIENT),
    ("http_server.internal_tls.insecure_skip_verify", Fate::Noted, NO_CLIENT),
    ("http_server.http3", Fate::Noted, ": browsers fall back by themselves"),
    ("http_server.h2c_external", Fate::Noted, ": proxies speak HTTP/1.1 to it"),
    ("swagger", Fate::Noted, ": /api/openapi.json describes the API"),
    ("debug", Fate::Noted, ": profiles are those of Go; perf reads ringhold's"),
    ("init", Fate::Noted, ": cookies of balancers come with the upgrade, too"),
    ("opentelemetry", Fate::Noted, ": use prometheus"),
    ("graphite", Fate::Noted, ": use prometheus"),
    ("usage_stats", Fate::Noted, ": nothing is ever sent anywhere"),
    ("node.info_metrics_aggregate_interval", Fate::Noted, ": use prometheus"),
    ("enable_unreleased_features", Fate::Noted, ": there are none"),
    (
        "client.presence_update_interval",
        Fate::Noted,
        ": presence follows the connections by itself",
    ),
    (
        "client.*token.insecure_skip_jwks_endpoint_safety_check",
        Fate::Noted,
        ": values of groups in an endpoint are a list",
    ),
    ("websocket.read_buffer_size", Fate::Noted, BUFFERS),
    ("websocket.write_buffer_size", Fate::Noted, BUFFERS),
    ("websocket.use_write_buffer_pool", Fate::Noted, BUFFERS),
    ("uni_websocket.read_buffer_size", Fate::Noted, BUFFERS),
    ("uni_websocket.write_buffer_size", Fate::Noted, BUFFERS),
    ("uni_websocket.use_write_buffer_pool", Fate::Noted, BUFFERS),
    ("uni_websocket.message_size_limit", Fate::Noted, ": websocket.message_size_limit holds"),
    ("uni_websocket.write_timeout", Fate::Noted, ": websocket.write_timeout holds"),
    ("uni_websocket.decompressed_message_size_limit", Fate::Noted, ": that of websocket holds"),
    ("uni_websocket.join_push_messages", Fate::Noted, ": each push is a message of its own"),
    ("uni_websocket.disable_closing_handshake", Fate::Noted, ": every end has its close frame"),
    ("uni_websocket.disable_disconnect_push", Fate::Noted, ": the close frame says it"),
    ("admin.web_path", Fate::Noted, ": the page is part of the program"),
    ("admin.web_proxy_address", Fate::Noted, ": the page is part of the program"),
    ("prometheus.instrument_http_handlers", Fate::Noted, ": calls are counted in any case"),
    ("prometheus.recovered_publications_histogram", Fate::Noted, ": recoveries are counted"),
    ("prometheus.native_histograms", Fate::Noted, ": histograms have buckets"),
];

const CONTROLLER: &str = ": nodes speak to each other through engine.redis or broker.nats";
const PRESENCE: &str =
    ": engine.type = \"redis\" and engine.redis keep it, also beside broker.nats";
const NO_CLUSTER: &str =
    ": streams of a Redis Cluster are not read; give the address of one server";
const CONSUMERS: &str =
    ": streams of Redis and outboxes in PostgreSQL are read; or publish through http_api";
const KINDS: &str = ": subscriptions are streams";
const NO_CLIENT: &str = ": a server verifies no server";
const BUFFERS: &str = ": buffers belong to the worker, not to the connection";

#[cfg(test)]
#[path = "centrifugo_tests.rs"]
mod tests;
