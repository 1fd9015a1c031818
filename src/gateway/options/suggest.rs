//! What to say about a key that there is not: the one that was probably meant, where it belongs,
//! or that it is a setting of Centrifugo's that this server does not have.

use super::Options;
use super::channel::Namespace;
use super::field::{Field, join};
use super::node::Value;

/// Says what is wrong with the last part of `path`, whose table knows these keys.
pub(crate) fn unknown(path: &str, siblings: &[String]) -> String {
    let plain = without_indices(path);
    let (parent, key) = plain.rsplit_once('.').unwrap_or(("", &plain));
    if let Some(hint) = foreign(parent, key) {
        return format!("a setting of Centrifugo's that ringhold does not have{hint}");
    }
    if let Some(near) = nearest(key, siblings) {
        return format!("unknown key, did you mean {near}?");
    }
    match elsewhere(key) {
        Some(path) => format!("unknown key here, did you mean {path}?"),
        None if siblings.len() <= FEW => {
            format!("unknown key; known here: {}", siblings.join(", "))
        }
        None => "unknown key".to_owned(),
    }
}

/// The word that a typing mistake or two turn into this one.
pub(crate) fn nearest<'a>(word: &str, known: &'a [String]) -> Option<&'a String> {
    let distance = |other: &str| strsim::damerau_levenshtein(word, other);
    let near = known.iter().map(|other| (distance(other), other));
    let best = near.min_by_key(|(distance, _)| *distance)?;
    (best.0 <= (word.len() / 3).clamp(1, 4)).then_some(best.1)
}

/// A key of that name, or whose path ends with it as in Centrifugo before version 6.
fn elsewhere(key: &str) -> Option<String> {
    let mut paths = Vec::new();
    leaves(&Options::default(), "", &mut paths);
    leaves(&Namespace::default(), "channel.namespaces", &mut paths);
    let last = |path: &String| path.rsplit('.').next() == Some(key);
    let tail = |path: &String| {
        let flat = path.replace('.', "_");
        flat.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    };
    let exact = paths.iter().find(|path| last(path));
    exact.or_else(|| paths.iter().find(|path| tail(path))).cloned()
}

/// All keys with a single value below a field, by path.
pub(crate) fn leaves(field: &dyn Field, path: &str, found: &mut Vec<String>) {
    let children = field.children();
    if children.is_empty() && field.takes_text() {
        found.push(path.to_owned());
    }
    for (key, child) in children {
        leaves(child, &join(path, &key), found);
    }
}

/// `a[3].b` as `a.b`.
fn without_indices(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut within = false;
    for c in path.chars() {
        match c {
            '[' => within = true,
            ']' => within = false,
            c if !within => plain.push(c),
            _ => {}
        }
    }
    plain
}

/// What to say about a setting of Centrifugo's that keeps nobody from starting, if it is one.
pub(crate) fn note(path: &str, value: &Value) -> Option<String> {
    let plain = without_indices(path);
    let (parent, key) = plain.rsplit_once('.').unwrap_or(("", &plain));
    if let Some(hint) = find(NOTED, parent, key) {
        return Some(format!("a setting of Centrifugo's that has no meaning here{hint}"));
    }
    let off = foreign(parent, key).is_some() && is_off(value);
    off.then(|| "a setting of Centrifugo's that ringhold does not have, and that is off".to_owned())
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
        Value::Table(entries) => match entries.iter().find(|entry| entry.key == "enabled") {
            Some(switch) => is_off(&switch.node.value),
            None => entries.iter().all(|entry| is_off(&entry.node.value)),
        },
        Value::Other(name) => *name == "null",
    }
}

fn foreign(parent: &str, key: &str) -> Option<&'static str> {
    find(FOREIGN, parent, key)
}

fn find(settings: &'static [(&str, &str, &str)], parent: &str, key: &str) -> Option<&'static str> {
    let parent = match parent {
        "channel.namespaces" | "channel.without_namespace" => "channel.*",
        "client.token" | "client.subscription_token" => "client.*token",
        _ if parent.contains(".proxy") || parent == "rpc.proxy" => "*.proxy",
        parent => parent,
    };
    settings.iter().find(|(at, known, _)| *at == parent && *known == key).map(|(.., hint)| *hint)
}

/// Centrifugo's settings without which something would be unsafe or lost: table, key, what to do
/// instead. Where they are off they are noted only.
const FOREIGN: &[(&str, &str, &str)] = &[
    ("", "broker", ": channels live in this process"),
    ("", "presence_manager", ": presence lives in this process"),
    ("", "map_broker", ""),
    ("", "controller", ""),
    ("", "shared_poll", ""),
    ("", "grpc_api", ": use http_api"),
    ("", "consumers", ": publish through http_api"),
    ("", "webtransport", ""),
    ("", "uni_grpc", ""),
    ("http_server", "tls_autocert", ": have certbot or lego renew what http_server.tls names"),
    ("client", "connection_rate_limit", ": use engine.accept_rate, per worker"),
    ("client", "insecure_skip_token_signature_verify", ""),
    ("client", "user_id_http_header", ""),
    ("admin", "insecure", ": set admin.password"),
    ("uni_websocket", "disable_disconnect_push", ""),
    ("channel.*", "map_clients_presence_channel_prefix", ""),
    ("channel.*", "map_users_presence_channel_prefix", ""),
    ("channel.*", "map", ""),
    ("channel.*", "shared_poll", ""),
    ("channel.*", "subscribe_stream_proxy_enabled", ""),
];

/// Centrifugo's settings that nothing is lost without: table, key, why.
const NOTED: &[(&str, &str, &str)] = &[
    ("", "swagger", ""),
    ("", "debug", ""),
    ("", "init", ""),
    ("", "opentelemetry", ": use prometheus"),
    ("", "graphite", ": use prometheus"),
    ("", "usage_stats", ": nothing is ever sent anywhere"),
    ("", "node", ""),
    ("", "pid_file", ""),
    ("", "enable_unreleased_features", ""),
    ("http_server", "http3", ""),
    ("http_server.tls", "server_ca_pem", ": a server verifies no server"),
    ("http_server.tls", "server_ca_pem_file", ": a server verifies no server"),
    ("http_server.tls", "server_name", ": a server verifies no server"),
    ("http_server.tls", "insecure_skip_verify", ": a server verifies no server"),
    ("http_server.internal_tls", "server_ca_pem", ": a server verifies no server"),
    ("http_server.internal_tls", "server_ca_pem_file", ": a server verifies no server"),
    ("http_server.internal_tls", "server_name", ": a server verifies no server"),
    ("http_server.internal_tls", "insecure_skip_verify", ": a server verifies no server"),
    ("http_server", "h2c_external", ""),
    ("log", "file", ": logs go to standard error"),
    ("client", "presence_update_interval", ": presence follows the connections by itself"),
    ("client", "channel_position_max_time_lag", ""),
    ("client", "connect_code_to_unidirectional_disconnect", ""),
    ("client.*token", "insecure_skip_jwks_endpoint_safety_check", ""),
    ("engine", "redis", ": channels live in this process"),
    ("websocket", "read_buffer_size", ": buffers belong to the worker, not to the connection"),
    ("websocket", "write_buffer_size", ": buffers belong to the worker, not to the connection"),
    ("websocket", "use_write_buffer_pool", ": buffers belong to the worker"),
    ("admin", "web_path", ": the page is part of the program"),
    ("admin", "web_proxy_address", ": the page is part of the program"),
    ("uni_sse", "connect_code_to_http_response", ": errors are told in the stream"),
    ("uni_http_stream", "connect_code_to_http_response", ": errors are told in the stream"),
    ("uni_websocket", "message_size_limit", ": use websocket.message_size_limit"),
    ("uni_websocket", "write_timeout", ": use websocket.write_timeout"),
    ("uni_websocket", "join_push_messages", ": each push is a message of its own"),
    ("uni_websocket", "disable_closing_handshake", ""),
    ("uni_websocket", "read_buffer_size", ": buffers belong to the worker"),
    ("uni_websocket", "write_buffer_size", ": buffers belong to the worker"),
    ("uni_websocket", "use_write_buffer_pool", ": buffers belong to the worker"),
    ("uni_websocket", "decompressed_message_size_limit", ": that of websocket holds"),
    ("prometheus", "instrument_http_handlers", ""),
    ("prometheus", "recovered_publications_histogram", ""),
    ("prometheus", "native_histograms", ""),
    ("channel.*", "subscribe_stream_proxy_name", ""),
    ("channel.*", "subscribe_stream_proxy_bidirectional", ""),
    ("*.proxy", "subscribe_stream", ""),
    ("*.proxy", "map_publish", ""),
    ("*.proxy", "map_remove", ""),
    ("*.proxy", "shared_poll_refresh", ""),
    ("*.proxy", "grpc", ": backends are asked over HTTP"),
    ("*.proxy", "grpc_metadata", ": backends are asked over HTTP"),
];

/// So many keys are listed where none is near.
const FEW: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> String {
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
        let mut field: &dyn Field = &Options::default();
        let options;
        let namespace = Namespace::default();
        if parent.starts_with("channel.namespaces") {
            field = &namespace;
        } else {
            options = Options::default();
            let mut children = vec![(String::new(), &options as &dyn Field)];
            for part in parent.split('.').filter(|part| !part.is_empty()) {
                let (_, at) = children.pop().unwrap();
                children.push(at.children().into_iter().find(|(key, _)| key == part).unwrap());
            }
            if let Some((_, at)) = children.pop() {
                let known: Vec<_> = at.children().into_iter().map(|(key, _)| key).collect();
                return unknown(path, &known);
            }
        }
        let known: Vec<_> = field.children().into_iter().map(|(key, _)| key).collect();
        unknown(path, &known)
    }

    #[test]
    fn what_was_meant_is_found() {
        let cases = [
            ("client.ping_intervall", "did you mean ping_interval?"),
            ("cleint", "did you mean client?"),
            ("channel.namespaces[2].histroy_size", "did you mean history_size?"),
            ("token_hmac_secret_key", "did you mean client.token.hmac_secret_key?"),
            ("client.hmac_secret_key", "did you mean client.token.hmac_secret_key?"),
            ("http_server.allowed_origins", "did you mean client.allowed_origins?"),
            ("health.zzzzzzzz", "known here: enabled, handler_prefix"),
            ("client.zzzzzzzzzz", "unknown key"),
            ("consumers", "publish through http_api"),
            ("grpc_api", "Centrifugo's that ringhold does not have: use http_api"),
            ("channel.namespaces[0].map", "Centrifugo's"),
        ];
        for (path, expected) in cases {
            let said = of(path);
            assert!(said.contains(expected), "{path}: {said}");
        }
    }

    #[test]
    fn foreign_keys_are_not_ours() {
        let mut ours = Vec::new();
        leaves(&Options::default(), "", &mut ours);
        for (parent, key, _) in
            FOREIGN.iter().chain(NOTED).filter(|(parent, ..)| !parent.contains('*'))
        {
            let path = join(parent, key);
            assert!(!ours.iter().any(|one| *one == path || one.starts_with(&format!("{path}."))));
        }
    }

    #[test]
    fn what_is_off_or_means_nothing_here_is_noted() {
        let table = |key: &str, value| {
            let place = super::super::node::Place::Unknown;
            let node = super::super::node::Node { value, place: place.clone() };
            Value::Table(vec![super::super::node::Entry { key: key.to_owned(), place, node }])
        };
        let on = || Value::Bool(true);
        for (path, value, noted) in [
            ("websocket.read_buffer_size", Value::Integer(4096), true),
            ("client.subscription_token.insecure_skip_jwks_endpoint_safety_check", on(), true),
            ("channel.proxy.subscribe.grpc", table("tls", on()), true),
            ("grpc_api", table("enabled", on()), false),
            ("grpc_api", table("enabled", Value::Bool(false)), true),
            ("grpc_api", table("port", Value::Integer(10_000)), false),
            ("consumers", Value::List(Vec::new()), true),
            ("consumers", Value::List(vec![]), true),
            ("http_server.tls", table("enabled", on()), false),
            ("client.user_id_http_header", Value::Text("X-User".to_owned()), false),
            ("client.user_id_http_header", Value::Text(String::new()), true),
            ("channel.namespaces[3].subscribe_stream_proxy_enabled", on(), false),
            ("channel.namespaces[3].subscribe_stream_proxy_enabled", Value::Bool(false), true),
            ("client.ping_intervall", Value::Bool(false), false),
        ] {
            assert_eq!(note(path, &value).is_some(), noted, "{path} {value:?}");
        }
    }
}
