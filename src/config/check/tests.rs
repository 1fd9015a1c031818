//! Every rule: a configuration that breaks it, and the line and key that are named.

use super::super::{Location, Mistakes, Options, Sources};

/// NATS with these lines more, the first of which is the fifth.
macro_rules! on_nats {
    ($more:literal) => {
        concat!("[broker]\nenabled = true\ntype = \"nats\"\n[broker.nats]\n", $more)
    };
}

fn load(text: &str) -> Result<super::super::Loaded, Mistakes> {
    let sources = Sources { file: Some("ringhold.toml".into()), ..Sources::default() };
    Options::from_text(&sources, text)
}

/// `line: key: what` of each mistake.
fn mistakes(text: &str) -> Vec<String> {
    match load(text) {
        Ok(_) => Vec::new(),
        Err(mistakes) => {
            let text = mistakes.to_string();
            let strip = |line: &str| line.strip_prefix("ringhold.toml:").unwrap_or(line).to_owned();
            text.lines().map(strip).collect()
        }
    }
}

#[test]
fn an_empty_file_is_right() {
    let loaded = load("").unwrap();
    assert_eq!(loaded.options, Options::default());
    assert!(loaded.warnings.is_empty());
}

#[test]
fn every_contradiction_is_named_with_its_line() {
    let pem = "\"\"\"-----BEGIN PRIVATE KEY-----\"\"\"";
    let cases: &[(&str, &str)] = &[
        ("[client]\nping_interval = \"5s\"", "1: client.pong_timeout: must be less"),
        ("[client]\n\npong_timeout = \"25s\"", "3: client.pong_timeout: must be less"),
        ("client.user_id_http_header = \"a b\"", "1: client.user_id_http_header: \"a b\" is no"),
        (
            "[[client.connect_code_to_unidirectional_disconnect.transforms]]\ncode = 109",
            "transforms[0].to.code: must be from 3000 to 4999",
        ),
        ("client.queue_max_size = 10", "1: client.queue_max_size: must be at least 1KiB"),
        ("client.allowed_origins = [\"https://[a\"]", "1: client.allowed_origins: \"https://[a\""),
        (
            "client.allowed_origins = [\"example.org\"]",
            "lacks its scheme, as in https://example.org",
        ),
        ("client.allowed_origins = [\"https://a.org/\"]", "has a path"),
        (
            "[client.subscribe_to_user_personal_channel]\nsingle_connection = true",
            "2: client.subscribe_to_user_personal_channel.single_connection: needs `enabled`",
        ),
        (
            "[client.subscribe_to_user_personal_channel]\nenabled = true\nsingle_connection = true",
            "3: client.subscribe_to_user_personal_channel.single_connection: needs `presence`",
        ),
        (
            "[client.subscribe_to_user_personal_channel]\nenabled = true\n\
             personal_channel_namespace = \"me\"",
            "3: client.subscribe_to_user_personal_channel.personal_channel_namespace: there is no",
        ),
        (
            "channel.user_boundary = \"\"\n\
             client.subscribe_to_user_personal_channel.enabled = true",
            "2: client.subscribe_to_user_personal_channel.enabled: needs channel.user_boundary",
        ),
        // Keys.
        (
            "[client.token]\nhmac_secret_key = \"0123456789abcdef\"\n\
             jwks_public_endpoint = \"https://a/b\"",
            "2: client.token.hmac_secret_key: stands beside a key set",
        ),
        (
            "[client.token]\njwks_public_endpoint = \"https://a/b\"\njwks_file = \"/nowhere\"",
            "3: client.token.jwks_file: stands beside a key set",
        ),
        ("client.token.jwks_file = \"/nowhere\"", "1: client.token.jwks_file: /nowhere: No such"),
        ("client.token.jwks_public_endpoint = \"ftp://a\"", "must be an http:// or https:// URL"),
        (
            "client.token.jwks_public_endpoint = \"https://a/{{tenant}}\"",
            "1: client.token.jwks_public_endpoint: names {{tenant}}, which is no group",
        ),
        (
            "client.token.hmac_previous_secret_key = \"x\"",
            "1: client.token.hmac_previous_secret_key: needs a new secret",
        ),
        (
            "client.token.hmac_previous_secret_key_valid_until = 7",
            "1: client.token.hmac_previous_secret_key_valid_until: needs hmac_previous",
        ),
        ("client.token.rsa_public_key = \"x\"", "1: client.token.rsa_public_key: is no public key"),
        (&format!("client.token.ecdsa_public_key = {pem}"), "ecdsa_public_key: is a private key"),
        ("client.token.audience_regex = \"(\"", "1: client.token.audience_regex: \"(\": unclosed"),
        ("client.token.issuer_regex = \"[\"", "1: client.token.issuer_regex: \"[\": unclosed"),
        (
            "client.token.issuer = \"a\"\nclient.token.issuer_regex = \"a\"",
            "2: client.token.issuer_regex: stands beside the exact value",
        ),
        (
            "[client.subscription_token]\nhmac_secret_key = \"x\"",
            "1: client.subscription_token: has keys, but `enabled` is not set",
        ),
        (
            "[client.subscription_token]\nenabled = true\nrsa_public_key = \"x\"",
            "3: client.subscription_token.rsa_public_key: is no public key",
        ),
        // Proxies.
        ("[client.proxy.connect]\nenabled = true", "1: client.proxy.connect.endpoint: is needed"),
        (
            "[client.proxy.refresh]\nenabled = true\nendpoint = \"grpc://a\"",
            "3: client.proxy.refresh.endpoint: must be grpc://HOST:PORT",
        ),
        (
            "rpc.proxy.grpc.tls = { enabled = true, insecure_skip_verify = true }",
            "1: rpc.proxy.grpc.tls.insecure_skip_verify: is not supported over gRPC",
        ),
        (
            "rpc.proxy.grpc.static_metadata = { \"a b\" = \"c\" }",
            "1: rpc.proxy.grpc.static_metadata: \"a b\" is no metadata",
        ),
        (
            "[[channel.namespaces]]\nname = \"chat\"\nsubscribe_proxy_enabled = true",
            "channel.proxy.subscribe.endpoint: is needed",
        ),
        (
            "[channel.without_namespace]\npublish_proxy_enabled = true",
            "channel.proxy.publish.endpoint: is needed",
        ),
        ("rpc.without_namespace.proxy_enabled = true", "1: rpc.proxy.endpoint: is needed"),
        ("rpc.proxy.timeout = \"0s\"", "1: rpc.proxy.timeout: must not be zero"),
        ("rpc.proxy.concurrency = 0", "1: rpc.proxy.concurrency: must not be zero"),
        ("rpc.proxy.http_headers = [\"a b\"]", "1: rpc.proxy.http_headers: \"a b\" is no header"),
        (
            "[rpc.proxy.http.static_headers]\nX-A = \"a\\nb\"",
            "rpc.proxy.http.static_headers: \"X-A\" is no header",
        ),
        (
            "[channel.without_namespace]\nsub_refresh_proxy_enabled = true",
            "channel.proxy.sub_refresh.endpoint: is needed",
        ),
        ("[[proxies]]\nname = \"x\"\nendpoint = \"http://a\"", "2: proxies[0].name: must have two"),
        ("[[proxies]]\nname = \"mine\"", "1: proxies[0].endpoint: is needed"),
        (
            "[[proxies]]\nname = \"default\"\nendpoint = \"http://a\"",
            "2: proxies[0].name: is the name of those in",
        ),
        (
            "[[proxies]]\nname = \"ab\"\nendpoint = \"http://a\"\n\
             [[proxies]]\nname = \"ab\"\nendpoint = \"http://a\"",
            "5: proxies[1].name: \"ab\" is there already",
        ),
        (
            "[[rpc.namespaces]]\nname = \"ab\"\nproxy_name = \"mine\"",
            "3: rpc.namespaces[0].proxy_name: there is no proxy \"mine\" in `proxies`",
        ),
        ("[[rpc.namespaces]]\nname = \"a b\"", "2: rpc.namespaces[0].name: must have two"),
        (
            "[rpc]\nnamespace_boundary = \".\"\n[[rpc.namespaces]]\nname = \"a.b\"",
            "4: rpc.namespaces[0].name: holds rpc.namespace_boundary",
        ),
        ("rpc.ping = { enabled = true, method = \"\" }", "1: rpc.ping.method: must not be empty"),
        (
            "rpc.proxy.http.status_to_code_transforms = [{ status_code = 200, to_error.code = 9 }]",
            "[0].status_code: must be a status of HTTP other than 200, not 200",
        ),
        (
            "rpc.proxy.http.status_to_code_transforms = [{ status_code = 400 }]",
            "1: rpc.proxy.http.status_to_code_transforms[0]: needs either to_error or",
        ),
        (
            "[[rpc.proxy.http.status_to_code_transforms]]\nstatus_code = 400\n\
             to_disconnect.code = 1000",
            "3: rpc.proxy.http.status_to_code_transforms[0].to_disconnect.code: must be from 3000",
        ),
        (
            "rpc.proxy.http.tls = { enabled = true, cert_pem = \"/nowhere\" }",
            "1: rpc.proxy.http.tls.cert_pem: and key_pem are a pair",
        ),
        (
            "rpc.proxy.http.tls = { enabled = true, server_ca_pem = \"/nowhere\" }",
            "1: rpc.proxy.http.tls.server_ca_pem: is neither PEM",
        ),
        (
            "[rpc.proxy]\nendpoint = \"https://a/b\"\n\
             http.tls = { enabled = true, server_name = \"c\" }",
            "3: rpc.proxy.http.tls.server_name: must be the host of `endpoint`",
        ),
        // Certificates that an authority issues.
        (
            "http_server.tls_autocert.enabled = true",
            "http_server.tls_autocert.host_whitelist: must name at least one host",
        ),
        (
            "http_server.tls_autocert = { enabled = true, host_whitelist = [\"*.a.test\"] }",
            "1: http_server.tls_autocert.host_whitelist: must hold names as \"www.example.com\"",
        ),
        (
            "http_server.tls_autocert = { enabled = true, host_whitelist = [\"192.0.2.1\"] }",
            "1: http_server.tls_autocert.host_whitelist: must hold names as \"www.example.com\"",
        ),
        (
            "[http_server.tls_autocert]\nenabled = true\nhost_whitelist = [\"a.test\"]\n\
             server_name = \"b.test\"",
            "4: http_server.tls_autocert.server_name: must be one of host_whitelist",
        ),
        (
            "[http_server.tls_autocert]\nenabled = true\nhost_whitelist = [\"a.test\"]\n\
             http_addr = \"80\"",
            "4: http_server.tls_autocert.http_addr: must be an address with a port",
        ),
        (
            "[http_server.tls_autocert]\nenabled = true\nhost_whitelist = [\"a.test\"]\n\
             directory = \"http://a.test/\"",
            "4: http_server.tls_autocert.directory: must begin with https://",
        ),
        (
            "[http_server.tls_autocert]\nenabled = true\nhost_whitelist = [\"a.test\"]\n\
             email = \"a, b@c\"",
            "4: http_server.tls_autocert.email: must be one address",
        ),
        ("grpc_api.enabled = true", "1: grpc_api.key: is needed: without one whoever reaches"),
        (
            "[grpc_api]\nenabled = true\nkey = \"k\"\nport = 8000",
            "4: grpc_api.port: is a port of http_server",
        ),
        (
            "[grpc_api]\nenabled = true\nkey = \"k\"\nmax_receive_message_size = \"1GiB\"",
            "4: grpc_api.max_receive_message_size: must be at most half of",
        ),
        ("grpc_api.max_concurrent_calls = 0", "1: grpc_api.max_concurrent_calls: must be from 1"),
        // Consumers.
        (
            "[[consumers]]\nname = \"a1\"\nenabled = true\ntype = \"kafka\"",
            "4: consumers[0].type: a setting of Centrifugo's that ringhold does not have",
        ),
        (
            "[[consumers]]\nname = \"a1\"\nenabled = true\ntype = \"redis_stream\"\n\
             redis_stream.consumer_group = \"g\"",
            "consumers[0].redis_stream.streams: is needed",
        ),
        ("[[consumers]]\nname = \"a b\"", "2: consumers[0].name: must have two or more"),
        (
            "[[uni_sse.connect_code_to_http_response.transforms]]\ncode = 109",
            "transforms[0].to.status_code: must be from 200 to 599",
        ),
        // Channels.
        ("channel.user_boundary = \":\"", "1: channel.user_boundary: is the same as channel.name"),
        ("channel.private_prefix = \"\u{a7}\"", "1: channel.private_prefix: must be ASCII"),
        ("channel.history_meta_ttl = \"1500ms\"", "must be in whole seconds"),
        ("[[channel.namespaces]]\nname = \"a\"", "2: channel.namespaces[0].name: must have two"),
        ("[[channel.namespaces]]\npresence = true", "1: channel.namespaces[0].name: must have two"),
        ("[[channel.namespaces]]\nname = \"a:b\"", "2: channel.namespaces[0].name: must have two"),
        (
            "[[channel.namespaces]]\nname = \"ab\"\n[[channel.namespaces]]\nname = \"ab\"",
            "4: channel.namespaces[1].name: \"ab\" is there already",
        ),
        (
            "channel.namespace_boundary = \"-\"\n[[channel.namespaces]]\nname = \"a-b\"",
            "3: channel.namespaces[0].name: holds a marker",
        ),
        (
            "[channel.without_namespace]\nhistory_size = 5",
            "2: channel.without_namespace.history_size: needs history_ttl",
        ),
        (
            "[channel.without_namespace]\nhistory_ttl = \"5s\"",
            "2: channel.without_namespace.history_ttl: needs history_size",
        ),
        (
            "[channel.without_namespace]\nhistory_size = 1\nhistory_ttl = \"2s\"\n\
             history_meta_ttl = \"1s\"",
            "3: channel.without_namespace.history_ttl: must not be longer",
        ),
        (
            "[channel.without_namespace]\nhistory_size = 1\nhistory_ttl = \"1500ms\"",
            "3: channel.without_namespace.history_ttl: must be in whole seconds",
        ),
        (
            "[channel.without_namespace]\nforce_recovery = true",
            "2: channel.without_namespace.force_recovery: needs history_size and history_ttl",
        ),
        (
            "[channel.without_namespace]\nauto_cache_recover = true",
            "2: channel.without_namespace.auto_cache_recover: needs force_recovery",
        ),
        (
            "[[channel.namespaces]]\nname = \"chat\"\n\nchannel_regex = \"(\"",
            "4: channel.namespaces[0].channel_regex: \"(\": unclosed group",
        ),
        (
            "[channel.without_namespace]\nallowed_delta_types = [\"fossil\", \"vcdiff\"]",
            "2: channel.without_namespace.allowed_delta_types: \"vcdiff\" is not supported",
        ),
        (
            "[channel.without_namespace]\nforce_recovery_mode = \"all\"",
            "must be one of \"stream\", \"cache\", not \"all\"",
        ),
        (
            "[channel.without_namespace]\nsubscription_type = \"map\"",
            "\"map\" is not supported; only \"stream\" is",
        ),
        (
            "[channel.without_namespace]\nsubscribe_proxy_name = \"mine\"",
            "2: channel.without_namespace.subscribe_proxy_name: there is no proxy \"mine\"",
        ),
        // The server.
        ("http_server.internal_port = 8000", "1: http_server.internal_port: is the public port"),
        ("http_server.address = \"here\"", "1: http_server.address: must be an address"),
        ("http_server.port = 70000", "1: http_server.port: must be an integer from 0 to 65535"),
        (
            "http_server.trusted_proxies = [\"10.0.0.1/8\"]",
            "1: http_server.trusted_proxies: \"10.0.0.1/8\" has bits behind its prefix of 8",
        ),
        (
            "http_server.trusted_proxies = [\"0.0.0.0/0\"]",
            "1: http_server.trusted_proxies: \"0.0.0.0/0\" is everybody",
        ),
        (
            "http_server.trusted_proxies = [\"10.0.0.0/8\"]",
            "1: http_server.trusted_proxies: are believed nothing",
        ),
        ("http_server.forwarded_for = true", "1: http_server.forwarded_for: believes nobody"),
        (
            "http_server.proxy_protocol = \"required\"",
            "1: http_server.proxy_protocol: believes nobody",
        ),
        (
            "http_server.proxy_protocol = \"v2\"",
            "1: http_server.proxy_protocol: must be one of \"off\", \"optional\", \"required\"",
        ),
        ("websocket.handler_prefix = \"ws\"", "1: websocket.handler_prefix: must be a path"),
        ("health.handler_prefix = \"/api/\"", "1: health.handler_prefix: is the same as http_api"),
        ("admin.enabled = true", "admin.password: is needed"),
        (
            "[admin]\nenabled = true\npassword = \"open sesame please\"\nhandler_prefix = \"x\"",
            "4: admin.handler_prefix: must be empty or a path",
        ),
        ("admin.insecure = true", "1: admin.insecure: a setting of Centrifugo's that ringhold"),
        ("websocket.compression_level = 0", "1: websocket.compression_level: must be from 1 to 9"),
        (
            "uni_websocket.compression_level = 10",
            "1: uni_websocket.compression_level: must be from 1 to 9",
        ),
        (
            "websocket.decompressed_message_size_limit = \"1MiB\"",
            "1: websocket.decompressed_message_size_limit: must be at most",
        ),
        (
            "websocket.compression = true\n[uni_websocket]\nenabled = true\ncompression = true\n\
             compression_level = 4",
            "5: uni_websocket.compression_level: must be the same as",
        ),
        (
            "[sse]\nenabled = true\nmax_request_body_size = \"1GiB\"",
            "3: sse.max_request_body_size: must be at most engine.max_inbound",
        ),
        (
            "uni_sse.handler_prefix = \"/emulation/\"",
            "1: uni_sse.handler_prefix: is the same as emulation.handler_prefix",
        ),
        ("shutdown.timeout = \"0s\"", "1: shutdown.timeout: must not be zero"),
        ("shutdown.drain_window = \"31s\"", "1: shutdown.drain_window: must not be longer"),
        ("log.level = \"a=b=c\"", "1: log.level: must be error"),
        ("log.level = \"inof\"", "1: log.level: must be error"),
        ("log.level = \"info,ringhold::engine=loud\"", "1: log.level: must be error"),
        ("http_api.error_mode = \"loud\"", "1: http_api.error_mode: must be one of"),
        // NATS.
        (
            "[broker]\nenabled = true\ntype = \"redis\"",
            "3: broker.type: ringhold has Redis as engine.type",
        ),
        ("[broker]\nenabled = true\ntype = \"postgres\"", "3: broker.type: must be \"nats\" or"),
        (on_nats!("url = \"ws://h\""), "5: broker.nats.url: must begin with nats:// or tls://"),
        (on_nats!("prefix = \"a..b\""), "5: broker.nats.prefix: must be words with dots"),
        (on_nats!("prefix = \"a.*\""), "5: broker.nats.prefix: must be words with dots"),
        (on_nats!("dial_timeout = \"0s\""), "5: broker.nats.dial_timeout: must be from 1ms to 1m"),
        (
            on_nats!("write_timeout = \"2m\""),
            "5: broker.nats.write_timeout: must be from 1ms to 1m",
        ),
        (on_nats!("requests = 0"), "5: broker.nats.requests: must not be zero"),
        (on_nats!("requests_bytes = \"1KiB\""), "5: broker.nats.requests_bytes: must be at least"),
        (
            on_nats!("tls.cert_pem = \"x\""),
            "5: broker.nats.tls.key_pem: and cert_pem belong together",
        ),
        (
            on_nats!("raw_mode = { enabled = true, prefix = \"a b.\" }"),
            "5: broker.nats.raw_mode.prefix: must be words with dots",
        ),
        (
            on_nats!("raw_mode = { enabled = true, channel_replacements = { \"\" = \".\" } }"),
            "5: broker.nats.raw_mode.channel_replacements: must not replace an empty text",
        ),
        (
            on_nats!("[channel.without_namespace]\nhistory_size = 1\nhistory_ttl = \"1m\""),
            "6: channel.without_namespace.history_size: NATS keeps no history",
        ),
        (
            on_nats!("[[channel.namespaces]]\nname = \"ab\"\nallow_recovery = true"),
            "7: channel.namespaces[0].allow_recovery: is impossible: broker.type is \"nats\"",
        ),
        (
            on_nats!("[channel.without_namespace]\nforce_positioning = true"),
            "6: channel.without_namespace.force_positioning: is impossible",
        ),
        // The engine.
        ("engine.type = \"nats\"", "1: engine.type: must be one of \"memory\", \"redis\""),
        // The broker.
        ("[engine]\ntype = \"redis\"\nredis.address = []", "3: engine.redis.address: is needed"),
        (
            "[engine]\ntype = \"redis\"\nredis.address = [\"h:1\", \"redis+cluster://h/1\"]",
            "3: engine.redis.address: number 2 is a cluster, which has no databases",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.address = [\"h/1\", \"redis://h:6379/2\"]",
            "3: engine.redis.address: number 1 must be host:port or a URL",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.address = [\"h\", \"redis://h:6379/2\"]",
            "3: engine.redis.address: names a server twice",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.sentinel_address = [\"h:1\"]",
            "engine.redis.sentinel_master_name: is needed: there are Sentinels",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.sentinel_master_name = \"m\"\n\
             redis.sentinel_address = [\"h:1,i:1\", \"j:1,,k:x\"]",
            "4: engine.redis.sentinel_address: number 2 must be host:port, several with commas",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.sentinel_master_name = \"m\"\n\
             redis.sentinel_address = [\"h:1\", \"h:1\"]",
            "4: engine.redis.sentinel_address: names a server twice",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.sentinel_user = \"a\"",
            "engine.redis.sentinel_password: is needed: there is a user",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.sentinel_client_name = \"a b\"",
            "3: engine.redis.sentinel_client_name: must have no spaces",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.sentinel_tls.cert_pem = \"a\"",
            "engine.redis.sentinel_tls.key_pem: and cert_pem belong together",
        ),
        ("[engine]\ntype = \"redis\"\nredis.prefix = \"\"", "3: engine.redis.prefix: must not"),
        (
            "[engine]\ntype = \"redis\"\nredis.io_timeout = \"2m\"",
            "3: engine.redis.io_timeout: must be from 1ms to 1m",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.connect_timeout = \"0s\"",
            "3: engine.redis.connect_timeout: must be from 1ms",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.presence_ttl = \"1s\"",
            "3: engine.redis.presence_ttl: must be at least 3s",
        ),
        ("[engine]\ntype = \"redis\"\nredis.requests = 0", "3: engine.redis.requests: must not"),
        (
            "[engine]\ntype = \"redis\"\nredis.requests_bytes = 1",
            "3: engine.redis.requests_bytes: must be at least",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.client_name = \"a b\"",
            "3: engine.redis.client_name: must have no spaces",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.user = \"a\"",
            "engine.redis.password: is needed: there is a user",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.tls.cert_pem = \"x\"",
            "engine.redis.tls.key_pem: and cert_pem belong together",
        ),
        (
            "[engine]\ntype = \"redis\"\nredis.tls.server_ca_pem = \"/nowhere.pem\"",
            "engine.redis.tls: authorities: No such file",
        ),
        ("engine.tick = \"2s\"", "1: engine.tick: must be from 1ms to 1s"),
        ("engine.workers = 5000", "1: engine.workers: must be at most 4096"),
        ("engine.max_head = 1", "1: engine.max_head: must be from 256 bytes"),
        ("engine.max_fragments = 0", "1: engine.max_fragments: must not be zero"),
        ("engine.mailbox = 0", "1: engine.mailbox: must not be zero"),
        ("engine.mailbox_bytes = 1", "1: engine.mailbox_bytes: must be at least"),
        ("engine.upload_grace = \"1ms\"", "1: engine.upload_grace: must be at least"),
        ("engine.byte_rate = \"5GiB\"", "1: engine.byte_rate: must be less than 4GiB"),
        ("engine.handshake_timeout = \"0s\"", "1: engine.handshake_timeout: must not be zero"),
        ("engine.close_timeout = \"0s\"", "1: engine.close_timeout: must not be zero"),
        ("engine.max_inbound = 1", "1: engine.max_inbound: must be at least"),
        ("client.ping_interval = \"24h\"", "1: client.ping_interval: must be from one engine.tick"),
    ];
    for (text, expected) in cases {
        let found = mistakes(text);
        assert!(found.iter().any(|one| one.contains(expected)), "{text}\n{expected}\n{found:#?}");
        let line = expected.split(':').next().is_some_and(|n| n.parse::<u32>().is_ok());
        assert!(!line || found.iter().any(|one| one.starts_with(expected)), "{text}\n{found:#?}");
        // A key may have more than one mistake, and no other key is blamed.
        let key = |one: &String| one.split(": ").take(2).map(str::to_owned).collect::<Vec<_>>();
        assert!(found.iter().all(|one| key(one) == key(&found[0])), "{text}\n{found:#?}");
    }
}

#[test]
fn all_mistakes_come_at_once_in_order() {
    let text = "\
[client]
insecure = 7
ping_intervall = \"25s\"
pong_timeout = 8

[clinet]
x = 1

[[channel.namespaces]]
name = \"chat\"
histroy_size = 10
history_ttl = \"5s\"

[http_server]
port = \"eighty\"
";
    assert_eq!(
        mistakes(text),
        [
            "2: client.insecure: must be true or false, not 7",
            "3: client.ping_intervall: unknown key, did you mean ping_interval?",
            "4: client.pong_timeout: must be a duration with its unit, as \"25s\", \"100ms\" or \
             \"1h30m\", not 8",
            "6: clinet: unknown key, did you mean client?",
            "11: channel.namespaces[0].histroy_size: unknown key, did you mean history_size?",
            "12: channel.namespaces[0].history_ttl: needs history_size beside it",
            "15: http_server.port: must be an integer from 0 to 65535, not \"eighty\"",
        ]
    );
}

#[test]
fn text_that_is_no_toml_is_refused_and_the_rest_still_read() {
    let found = mistakes("[client]\ninsecure = yes\nping_intervall = \"1s\"\n");
    assert!(found[0].starts_with("2: "), "{found:?}");
    assert!(found.iter().any(|one| one.starts_with("3: client.ping_intervall: ")), "{found:?}");
}

#[test]
fn levels_and_filters_of_logs_are_known() {
    for level in ["none", "off", "error", "WARN", "info", "debug", "trace", "info,ringhold=debug"] {
        let loaded = load(&format!("log.level = \"{level}\"")).unwrap();
        assert_eq!(loaded.options.log.filter(), if level == "none" { "off" } else { level });
    }
}

#[test]
fn what_weakens_the_server_is_a_warning() {
    let warnings = |text: &str| load(text).unwrap().warnings.join("\n");
    let open = "http_server.address = \"0.0.0.0\"\n";
    assert!(warnings(&format!("{open}client.insecure = true")).contains("client.insecure"));
    assert_eq!(warnings("client.insecure = true"), "");
    assert!(warnings(&format!("{open}http_api.insecure = true")).contains("http_api.insecure"));
    let inside = format!("{open}http_api.insecure = true\nhttp_server.internal_port = 9000");
    assert_eq!(warnings(&inside), "");
    assert!(warnings("client.token.hmac_secret_key = \"secret\"").contains("is short"));
    for option in [
        "allow_recovery",
        "allow_positioning",
        "force_positioning",
        "allow_history_for_client",
        "allow_history_for_subscriber",
        "allow_presence_for_client",
        "allow_presence_for_subscriber",
        "allow_subscribe_for_anonymous",
        "allow_publish_for_anonymous",
    ] {
        let text = format!("channel.without_namespace.{option} = true");
        assert!(warnings(&text).contains(option), "{option}");
    }
    let useful = "[channel.without_namespace]\nhistory_size = 1\nhistory_ttl = \"1s\"\n\
                  presence = true\nallow_recovery = true\nallow_history_for_client = true\n\
                  allow_presence_for_client = true\nallow_subscribe_for_client = true\n\
                  allow_subscribe_for_anonymous = true";
    assert_eq!(warnings(useful), "");
}

#[test]
fn what_makes_certificates_end_or_unprovable_is_a_warning() {
    let hosts = "[http_server.tls_autocert]\nhost_whitelist = [\"a.test\"]\n";
    let warnings = |text: &str| load(&format!("{hosts}{text}")).unwrap().warnings.join("\n");
    assert!(warnings("").contains("tls_autocert.host_whitelist: is not heard"));
    let both = warnings("enabled = true");
    assert!(both.contains("tls_autocert.cache_dir: is empty: every start orders anew"), "{both}");
    assert!(both.contains("http_server.port: the authority asks at port 443"), "{both}");
    assert_eq!(warnings("enabled = true\nhttp = true\ncache_dir = \"/x\""), "");

    let text = "[http_server.tls_autocert]\nserver_name = \"B.test\"\n\
                host_whitelist = [\"a.test\", \"b.test\", \"A.test\", \"b.test\"]";
    let hosts = load(text).unwrap().options.http_server.tls_autocert.hosts();
    assert_eq!(hosts, ["b.test", "a.test"], "each once, and who is for all first");
}

#[test]
fn what_nats_does_not_do_is_a_warning() {
    let warnings = |text: &str| load(text).unwrap().warnings.join("\n");
    assert_eq!(warnings("broker.enabled = false"), "");
    assert_eq!(warnings(on_nats!("")), "");
    let presence = on_nats!("[channel.without_namespace]\npresence = true");
    assert!(
        warnings(presence).contains("channel.without_namespace.presence: is that of each node")
    );
    assert_eq!(warnings(&format!("engine.type = \"redis\"\n{presence}")), "");
    let raw = on_nats!("raw_mode.enabled = true");
    assert!(warnings(raw).contains("broker.nats.raw_mode.prefix: clients reach each subject"));
    let off = on_nats!("raw_mode.prefix = \"a.\"");
    assert!(warnings(off).contains("broker.nats.raw_mode.enabled: is false"));
    assert!(warnings("broker.nats.prefix = \"x\"").contains("broker.enabled is false"));
    assert!(warnings("broker.enabled = true").contains("changes nothing: see engine.type"));
    let anybody = on_nats!("url = \"tls://h\"\ntls.insecure_skip_verify = true");
    assert!(warnings(anybody).contains("the connection is encrypted, to whomever"));
    let kept = on_nats!("[shutdown]\nstate_path = \"/x\"");
    assert!(
        warnings(kept).contains("shutdown.state_path: changes nothing: NATS keeps no channels")
    );
}

#[test]
fn keys_of_redis_that_change_nothing_are_warnings() {
    let warnings = |keys: &str| {
        let text = format!("[engine]\ntype = \"redis\"\n[engine.redis]\n{keys}\n");
        load(&text).unwrap().warnings.join("\n")
    };
    assert_eq!(warnings(""), "");
    let group = "sentinel_address = [\"h:1\"]\nsentinel_master_name = \"m\"\n";
    assert_eq!(warnings(group), "");
    for (keys, what) in [
        ("sentinel_master_name = \"m\"".to_owned(), "sentinel_address: is not heard"),
        (format!("{group}address = [\"h:1\"]"), "address: is not heard"),
        (format!("{group}tls.server_name = \"a\""), "tls: is not heard: no address"),
        (format!("{group}sentinel_tls.server_name = \"a\""), "sentinel_tls: is not heard: no Sen"),
        (
            format!("{group}sentinel_tls = {{ enabled = true, insecure_skip_verify = true }}"),
            "sentinel_tls.insecure_skip_verify: the connection is encrypted, to whomever",
        ),
    ] {
        let found = warnings(&keys);
        assert!(found.contains(&format!("engine.redis.{what}")), "{keys}: {found}");
    }
}

#[test]
fn json_is_read_like_toml_with_its_lines() {
    let sources = Sources { file: Some("config.json".into()), ..Sources::default() };
    let text = r#"{
  "client": {
    "allowed_origins": ["*"],
    "ping_intervall": "1s",
    "pong_timeout": "30s",
    "pong_timeout": "31s"
  },
  "channel": {"namespaces": [
    {"name": "chat", "presence": true},
    {"name": "chat"}
  ]}
}"#;
    let wrong = Options::from_text(&sources, text).unwrap_err();
    let found: Vec<_> = wrong.list.iter().map(|one| (one.place.clone(), &*one.key)).collect();
    let expected = [
        (Location::Line(4), "client.ping_intervall"),
        (Location::Line(6), "client.pong_timeout"),
        (Location::Line(10), "channel.namespaces[1].name"),
    ];
    assert_eq!(found, expected);
    let right =
        "{\"client\": {\"channel_limit\": 7}, \"http_server\": {\"internal_port\": \"9000\"}}";
    let options = Options::from_text(&sources, right).unwrap().options;
    assert_eq!((options.client.plan.channel_limit, options.http_server.internal_port), (7, 9000));
    let broken = Options::from_text(&sources, "{\n\"a\": }").unwrap_err();
    assert_eq!(broken.list[0].place, Location::Line(2));
}

proptest::proptest! {
    #[test]
    fn arbitrary_files_never_panic(text in "(\\PC|\n){0,80}") {
        for file in ["a.toml", "a.json"] {
            let sources = Sources { file: Some(file.into()), ..Sources::default() };
            let _ = Options::from_text(&sources, &text).map_err(|mistakes| mistakes.to_string());
        }
    }
}
