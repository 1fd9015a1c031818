//! Sources against each other, and the example file against the defaults.

use std::time::Duration;

use super::schema::{Field, leaves};
use super::*;
use crate::gateway::plan::DeltaType;
use crate::options::Size;

fn from(text: &str, variables: &[(&str, &str)], sets: &[&str]) -> Result<Loaded, Mistakes> {
    let sources = Sources {
        file: Some("/etc/ringhold/ringhold.toml".into()),
        variables: variables.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
        sets: sets.iter().map(|&set| set.to_owned()).collect(),
    };
    Options::from_text(&sources, text)
}

fn environment(variables: &[(&str, &str)]) -> Loaded {
    from("", variables, &[]).unwrap()
}

#[test]
fn flags_beat_the_environment_and_that_beats_the_file() {
    let text = "[client]\nchannel_limit = 1\nuser_connection_limit = 1\nconnection_limit = 1";
    let variables = [
        ("CENTRIFUGO_CLIENT_CHANNEL_LIMIT", "9"),
        ("RINGHOLD_CLIENT_CHANNEL_LIMIT", "2"),
        ("RINGHOLD_CLIENT_USER_CONNECTION_LIMIT", "2"),
    ];
    let client = from(text, &variables, &["client.channel_limit=3"]).unwrap().options.client;
    let limits =
        (client.plan.channel_limit, client.plan.user_connection_limit, client.connection_limit);
    assert_eq!(limits, (3, 2, 1));
}

#[test]
fn variables_set_keys_of_every_type() {
    let loaded = environment(&[
        ("RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY", "0123456789abcdef"),
        ("RINGHOLD_CLIENT_ALLOWED_ORIGINS", "https://a.org https://b.org"),
        ("RINGHOLD_CLIENT_INSECURE", "true"),
        ("RINGHOLD_CLIENT_PING_INTERVAL", "10s"),
        ("RINGHOLD_CLIENT_QUEUE_MAX_SIZE", "2MiB"),
        ("RINGHOLD_HTTP_SERVER_ADDRESS", ""),
        ("RINGHOLD_ENGINE_TYPE", "memory"),
        ("RINGHOLD_ENGINE_RATE_POLICY", "pause"),
        ("RINGHOLD_RPC_PROXY_HTTP_STATIC_HEADERS", "{\"X-A\": \"b\"}"),
        ("RINGHOLD_CHANNEL_WITHOUT_NAMESPACE_ALLOWED_DELTA_TYPES", "fossil"),
        ("CENTRIFUGO_HTTP_API_KEY", "key"),
        ("PATH", "/bin"),
    ]);
    let options = loaded.options;
    assert_eq!(options.client.plan.token.hmac_secret_key.reveal(), "0123456789abcdef");
    assert_eq!(options.client.plan.allowed_origins, ["https://a.org", "https://b.org"]);
    assert!(options.client.plan.insecure);
    assert_eq!(options.client.plan.ping_interval, Duration::from_secs(10));
    assert_eq!(options.client.plan.queue_max_size, Size(2 << 20));
    assert!(options.http_server.address.is_unspecified());
    assert_eq!(options.engine.rate_policy, RatePolicyChoice::Pause);
    assert_eq!(options.rpc.proxy.http.static_headers["X-A"], "b");
    assert_eq!(options.channel.plan.without_namespace.allowed_delta_types, [DeltaType::Fossil]);
    assert_eq!(options.http_api.key.reveal(), "key");
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
}

#[test]
fn namespaces_come_from_variables_as_json_or_by_name() {
    let json = r#"[{"name": "chat", "presence": true, "history_ttl": "5s", "history_size": 2}]"#;
    for prefix in ["RINGHOLD", "CENTRIFUGO"] {
        let namespaces = format!("{prefix}_CHANNEL_NAMESPACES");
        let by_json = environment(&[(&namespaces, json)]).options.channel.plan.namespaces;
        let option = |key: &str| format!("{namespaces}_CHAT_{key}");
        let by_name = environment(&[
            (&option("PRESENCE"), "true"),
            (&option("HISTORY_TTL"), "5s"),
            (&namespaces, "chat"),
            (&option("HISTORY_SIZE"), "2"),
        ]);
        assert_eq!(by_name.options.channel.plan.namespaces, by_json);
        assert!(by_json[0].options.presence && by_json[0].options.has_history());
    }
    // One of a file's namespaces, and all of them.
    let text = "[[channel.namespaces]]\nname = \"a-b.c\"\npresence = true\njoin_leave = \"x\"";
    let one = ("RINGHOLD_CHANNEL_NAMESPACES_A_B_C_PRESENCE", "maybe");
    let wrong = from(text, &[one], &[]).unwrap_err().to_string();
    assert!(wrong.contains("PRESENCE: channel.namespaces[0].presence: must be true or"), "{wrong}");
    let all = ("RINGHOLD_CHANNEL_NAMESPACES", "x");
    let wrong = from("", &[all], &[]).unwrap_err().to_string();
    assert!(
        wrong.starts_with("environment RINGHOLD_CHANNEL_NAMESPACES: channel.namespaces[0].name")
    );
    let broken = from("", &[("RINGHOLD_CHANNEL_NAMESPACES", "[{]")], &[]).unwrap_err();
    assert_eq!(broken.list[0].key, "channel.namespaces");
}

#[test]
fn proxies_and_their_lists_come_from_variables_too() {
    let transforms = r#"[{"status_code": 404, "to_error": {"code": 1404, "message": "none"}}]"#;
    let options = environment(&[
        ("CENTRIFUGO_PROXIES", "one two"),
        ("CENTRIFUGO_PROXIES_ONE_ENDPOINT", "http://a/b"),
        ("CENTRIFUGO_PROXIES_ONE_HTTP_STATUS_TO_CODE_TRANSFORMS", transforms),
        ("CENTRIFUGO_PROXIES_TWO_ENDPOINT", "http://c/d"),
        ("CENTRIFUGO_RPC_NAMESPACES", r#"[{"name": "ns", "proxy_enabled": true}]"#),
        ("CENTRIFUGO_RPC_NAMESPACES_NS_PROXY_NAME", "two"),
    ]);
    let proxies = options.options.proxies;
    let names: Vec<_> = proxies.iter().map(|it| (&*it.name, &*it.proxy.endpoint)).collect();
    assert_eq!(names, [("one", "http://a/b"), ("two", "http://c/d")]);
    let transform = &proxies[0].proxy.http.status_to_code_transforms[0];
    assert_eq!((transform.status_code, transform.to_error.code), (404, 1404));
    assert_eq!(options.options.rpc.plan.namespaces[0].options.proxy_name, "two");
    let wrong = ("RINGHOLD_RPC_PROXY_HTTP_STATUS_TO_CODE_TRANSFORMS", "404");
    let wrong = from("", &[wrong], &[]).unwrap_err().to_string();
    assert!(wrong.contains("must be a JSON list of tables"), "{wrong}");
}

#[test]
fn headers_name_variables() {
    let text = "[rpc.proxy.http.static_headers]\nA = \"Key ${CENTRIFUGO_VAR_A}, \
                ${RINGHOLD_VAR_B}\"\nB = \"${HOME} ${CENTRIFUGO_VAR_\"\n";
    let given = [("CENTRIFUGO_VAR_A", "a"), ("RINGHOLD_VAR_B", "${CENTRIFUGO_VAR_A}")];
    let loaded = from(text, &given, &[]).unwrap();
    let headers = &loaded.options.rpc.proxy.http.static_headers;
    assert_eq!(headers["A"], "Key a, ${CENTRIFUGO_VAR_A}");
    assert_eq!(headers["B"], "${HOME} ${CENTRIFUGO_VAR_");
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let wrong = from(text, &given[..1], &[]).unwrap_err().to_string();
    let expected = "rpc.proxy.http.static_headers: there is no environment variable RINGHOLD_VAR_B";
    assert!(wrong.contains(expected), "{wrong}");
}

#[test]
fn variables_that_set_nothing_are_told() {
    let loaded = environment(&[
        ("RINGHOLD_CLIENT_INSECUR", "true"),
        ("RINGHOLD_CLIENT", "x"),
        ("CENTRIFUGO_GRPC_API_ENABLE", "true"),
        // These are about other things.
        ("RINGHOLD_LOG", "debug"),
        ("RINGHOLD_CONFIG", "x"),
        ("RINGHOLD_SERVICE_HOST", "10.0.0.1"),
        ("RINGHOLD_PORT", "tcp://10.0.0.1:8000"),
        ("RINGHOLD_PORT_8000_TCP_ADDR", "10.0.0.1"),
    ]);
    let warnings = loaded.warnings.join("\n");
    assert_eq!(loaded.warnings.len(), 3, "{warnings}");
    assert!(warnings.contains("INSECUR sets nothing, did you mean RINGHOLD_CLIENT_INSECURE?"));
    assert_eq!(loaded.options, Options::default());
}

#[test]
fn variables_of_centrifugo_that_are_missed_are_mistakes() {
    let wrong = |variables: &[(&str, &str)]| from("", variables, &[]).unwrap_err().to_string();
    let grpc = wrong(&[("CENTRIFUGO_UNI_GRPC_ENABLED", "true"), ("CENTRIFUGO_UNI_GRPC_PORT", "1")]);
    assert_eq!(
        grpc,
        "environment CENTRIFUGO_UNI_GRPC_ENABLED: uni_grpc.enabled: a setting of Centrifugo's \
         that ringhold does not have: use another transport"
    );
    let redis = [("CENTRIFUGO_BROKER_TYPE", "redis"), ("CENTRIFUGO_BROKER_ENABLED", "true")];
    assert!(wrong(&redis).contains("broker.type: ringhold has Redis"), "{}", wrong(&redis));
    let consumers = r#"[{"name": "a", "type": "kafka", "enabled": true}]"#;
    assert!(wrong(&[("CENTRIFUGO_CONSUMERS", consumers)]).contains("consumers[0].type"));
    // Off, or no loss.
    let fine = [
        ("CENTRIFUGO_UNI_GRPC_PORT", "11000"),
        ("CENTRIFUGO_BROKER_REDIS_PREFIX", "x"),
        ("CENTRIFUGO_WEBSOCKET_READ_BUFFER_SIZE", "512"),
        ("CENTRIFUGO_CONSUMERS", "[]"),
    ];
    let loaded = environment(&fine);
    assert_eq!(loaded.warnings.len(), 3, "{:?}", loaded.warnings);
    let note = &loaded.warnings[2];
    assert!(note.contains("_BUFFER_SIZE: websocket.read_buffer_size: a setting"), "{note}");
    for (set, expected) in [
        ("uni_grpc.enabled=true", "--set uni_grpc.enabled: a setting of Centrifugo's that ringh"),
        (
            "presence_manager.type=redis",
            "--set presence_manager.type: a setting of Centrifugo's that ringhold does",
        ),
    ] {
        let wrong = from("", &[], &[set]).unwrap_err().to_string();
        assert!(wrong.starts_with(expected), "{wrong}");
    }
    assert_eq!(from("", &[], &["uni_grpc.port=11000"]).unwrap().warnings.len(), 1);
}

#[test]
fn a_bad_variable_is_named() {
    let wrong = from("", &[("RINGHOLD_CLIENT_CHANNEL_LIMIT", "many")], &[]).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "environment RINGHOLD_CLIENT_CHANNEL_LIMIT: client.channel_limit: must be an integer from \
         0 to 9223372036854775807, not \"many\""
    );
    let contradiction = from("", &[("RINGHOLD_CLIENT_PONG_TIMEOUT", "1m")], &[]).unwrap_err();
    let text = contradiction.to_string();
    assert!(
        text.starts_with("environment RINGHOLD_CLIENT_PONG_TIMEOUT: client.pong_timeout: must")
    );
}

#[test]
fn sets_reach_every_key() {
    let text = "[[channel.namespaces]]\nname = \"a.b\"";
    let sets = [
        "client.insecure=true",
        "client.token.audience=a=b",
        "channel.namespaces.a.b.presence=true",
        "client.allowed_origins=[\"https://a.org\"]",
        "client.subscription_token.enabled=true",
        "engine.workers=3",
    ];
    let options = from(text, &[], &sets).unwrap().options;
    assert!(options.client.plan.insecure && options.client.plan.subscription_token.enabled);
    assert_eq!(options.client.plan.token.audience, "a=b");
    assert!(options.channel.plan.namespaces[0].options.presence);
    assert_eq!(options.client.plan.allowed_origins, ["https://a.org"]);
    assert_eq!(options.engine.workers, 3);
    for (set, expected) in [
        ("client.insecure", "--set client.insecure: must be key=value"),
        ("client.insecur=true", "--set client.insecur: unknown key, did you mean insecure?"),
        ("clint.insecure=true", "--set clint: unknown key, did you mean client?"),
        ("client=true", "--set client: is a table"),
        ("=true", "--set : is a table"),
        ("client.insecure.x=true", "--set client.insecure.x: "),
        ("channel.namespaces.x.presence=true", "--set channel.namespaces.x: "),
        ("client.insecure=yes", "--set client.insecure: must be true or false"),
        ("client.pong_timeout=1m", "--set client.pong_timeout: must be less"),
    ] {
        let wrong = from("", &[], &[set]).unwrap_err().to_string();
        assert!(
            wrong.starts_with(expected)
                || expected.contains(": is a table") && wrong.contains("is a table"),
            "{set}: {wrong}"
        );
    }
}

#[test]
fn key_files_start_at_the_configuration() {
    let wrong = from("client.token.jwks_file = \"keys.json\"", &[], &[]).unwrap_err().to_string();
    assert!(wrong.contains("/etc/ringhold/keys.json: "), "{wrong}");
}

#[test]
fn what_is_shown_reads_back_and_keeps_secrets() {
    let text = "[client.token]\nhmac_secret_key = \"do not tell anybody\"\n\
                [http_api]\nkey = \"nor this one\"\n\
                [rpc.proxy.http.static_headers]\nAuthorization = \"nor that\"\n\
                [[channel.namespaces]]\nname = \"chat\"\nhistory_size = 2\nhistory_ttl = \"90s\"";
    let options = from(text, &[], &[]).unwrap().options;
    let shown = options.to_toml();
    for secret in ["do not tell anybody", "nor this one", "nor that"] {
        assert!(!shown.contains(secret), "{shown}");
        assert!(!format!("{options:?}").contains(secret) || secret == "nor that");
    }
    let again = from(&shown, &[], &[]).unwrap().options;
    assert_eq!(again.channel, options.channel);
    assert_eq!(again.engine, options.engine);
    assert_eq!(again.to_toml(), shown);
    let plain = toml::to_string(&options.show(Secrets::Plain)).unwrap();
    assert_eq!(from(&plain, &[], &[]).unwrap().options, options);
    let defaults = Options::default();
    assert_eq!(from(&defaults.to_toml(), &[], &[]).unwrap().options, defaults);
}

/// The example with its settings taken out of comments, up to the examples of namespaces and
/// whole.
fn uncommented() -> (String, String) {
    let setting = |line: &str| {
        line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned()
    };
    let lines: Vec<_> = EXAMPLE.lines().map(setting).collect();
    let mark = lines.iter().position(|line| line.contains("Examples of namespaces")).unwrap();
    (lines[..mark].join("\n"), lines.join("\n"))
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    assert_eq!(from(EXAMPLE, &[], &[]).unwrap().options, Options::default());
    let (defaults, whole) = uncommented();
    let loaded = from(&defaults, &[], &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(loaded.options, Options::default());
    assert!(loaded.warnings.is_empty());

    // Taken over is not enough: each key must really be there.
    let table: toml::Table = defaults.parse().unwrap();
    let mut paths = Vec::new();
    leaves(&Options::default(), "", &mut paths);
    let lists = ["channel.namespaces", "rpc.namespaces", "proxies", "consumers"];
    for path in paths.iter().filter(|path| !lists.contains(&path.as_str())) {
        let mut value = Some(&toml::Value::Table(table.clone())).cloned();
        for part in path.split('.') {
            value = value.and_then(|value| value.get(part).cloned());
        }
        assert!(value.is_some(), "{path} is not in the example");
    }

    let loaded = from(&whole, &[], &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    let names: Vec<_> =
        loaded.options.channel.plan.namespaces.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["chat", "price", "dialog", "auction"]);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

/// A configuration of Centrifugo's, as its users have them.
#[test]
fn a_configuration_of_centrifugo_is_understood() {
    let text = r#"{
        "http_server": {"address": "", "port": 8000, "internal_port": "9000"},
        "engine": {"type": "memory"},
        "log": {"level": "none"},
        "client": {
            "allowed_origins": ["http://localhost:3000", "https://*.example.org"],
            "token": {"hmac_secret_key": "bbe7d157-a253-4094-9759-06a8236543f9"},
            "subscribe_to_user_personal_channel": {
                "enabled": true, "personal_channel_namespace": "personal"
            },
            "proxy": {"connect": {
                "enabled": true, "endpoint": "http://localhost:3000/centrifugo/connect",
                "timeout": "500ms", "http_headers": ["Cookie"],
                "http": {"static_headers": {"X-Key": "k"}}
            }},
            "history_max_publication_limit": 1000, "recovery_max_publication_limit": 1000
        },
        "http_api": {"key": "d7627bb6-2292-4911-82e1-615c0ed3eebb"},
        "prometheus": {"enabled": true},
        "health": {"enabled": true},
        "channel": {
            "without_namespace": {"presence": true, "allow_publish_for_subscriber": true},
            "proxy": {"subscribe": {"endpoint": "http://localhost:3000/subscribe"}},
            "namespaces": [
                {"name": "personal", "history_size": 300, "history_ttl": "600s",
                 "force_recovery": true, "allow_user_limited_channels": true},
                {"name": "rooms", "subscribe_proxy_enabled": true,
                 "subscribe_proxy_name": "default", "channel_regex": "^[0-9]+$"}
            ]
        }
    }"#;
    let sources = Sources { file: Some("config.json".into()), ..Sources::default() };
    let loaded = Options::from_text(&sources, text).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.options.channel.plan.namespaces.len(), 2);
    assert_eq!(loaded.options.client.proxy.connect.proxy.timeout, Duration::from_millis(500));
    let config = loaded.options.engine_config();
    assert_eq!(config.listen, Some("0.0.0.0:8000".parse().unwrap()));
    assert_eq!(config.check(), Ok(()));
}
