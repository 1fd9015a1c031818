//! The gateway over TLS: WebSocket, streams and HTTP on the public port, the internal port, client
//! certificates, certificates by name, reloads, and what a configuration is told.
//!
//! Method: `ringhold serve` as a child process, clients of rustls with tungstenite, and Python's.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Instant;

use rustix::process::Signal;
use rustls::{ClientConfig, HandshakeKind};
use serde_json::{Value, json};

use crate::peer::{SHAPES, certificates, client_config, key, path, unbroken};
use crate::site::{ask, connected, dial, metric, secure, tcp};
use crate::support::daemon::free_port;
use crate::support::gateway::{API_KEY, Gateway, token_of};
use crate::support::{PATIENCE, own_folder, own_path};

/// Keys of `http_server.tls` with the certificate of localhost.
fn localhost() -> String {
    tls("tls", "localhost")
}

fn tls(table: &str, name: &str) -> String {
    let (cert, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
    format!("{table}.enabled = true\n{table}.cert_pem = \"{cert}\"\n{table}.key_pem = \"{key}\"\n")
}

const TABLES: &str = r#"
[health]
enabled = true
[prometheus]
enabled = true
[admin]
enabled = true
password = "a long password"
[channel.without_namespace]
allow_subscribe_for_client = true
"#;

fn start(http_server: &str) -> Gateway {
    Gateway::start_listening(http_server, "", TABLES)
}

#[test]
fn clients_streams_and_http_share_the_port() {
    // With streams, an HTTP connection ends behind its answer.
    let tables = format!("{TABLES}\n[uni_sse]\nenabled = true\n");
    let gateway = Gateway::start_listening(&localhost(), "", &tables);
    let address = gateway.address();
    let mut clients: Vec<_> = (0..3).map(|_| connected(address)).collect();
    let mut stream = secure(address);
    let target = "GET /connection/uni_sse?cf_connect=";
    let connect = json!({"token": token_of("u"), "subs": {"news": {}}}).to_string();
    let connect: String = connect.bytes().map(|byte| format!("%{byte:02x}")).collect();
    stream.write_all(format!("{target}{connect} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(ask(&mut secure(address), "GET /health", "").0, 200);
    let text = "x".repeat(50_000);
    let publish = json!({"channel": "news", "data": text}).to_string();
    let (status, answer) = ask(&mut secure(address), "POST /api/publish", &publish);
    assert!(status == 200 && answer.contains("result"), "{status} {answer}");
    assert_eq!(ask(&mut secure(address), "GET /admin/", "").0, 200);
    assert_eq!(metric(&mut secure(address), "tls_connections"), 4);
    for client in &mut clients {
        let push: Value =
            serde_json::from_str(&client.read().unwrap().into_text().unwrap()).unwrap();
        assert_eq!(push["push"]["pub"]["data"], text);
    }
    let mut heard = String::new();
    while !heard.contains(&text[..40_000]) {
        let mut piece = [0; 16_384];
        let count = unbroken(|| stream.read(&mut piece)).unwrap();
        assert!(count > 0, "{heard}");
        heard.extend(String::from_utf8_lossy(&piece[..count]).chars().filter(|c| *c == 'x'));
    }
    // A request that arrives in single bytes.
    let mut slow = secure(address);
    for byte in b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" {
        slow.write_all(&[*byte]).unwrap();
        slow.flush().unwrap();
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    gateway.stop();
    // The end is said.
    stream.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn calls_share_a_connection_that_may_be_passed_on() {
    let gateway = start(&localhost());
    let body = json!({"channel": "news", "data": "x".repeat(1000)}).to_string();
    let publish = |line: &str| {
        let length = body.len();
        format!(
            "POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: {API_KEY}\r\n{line}\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    let health = "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_owned();
    for (last, passed) in [(publish("Connection: close\r\n"), false), (health, true)] {
        for piece in [1000, 20_000, 200_000] {
            let mut stream = secure(gateway.address());
            let all = publish("").repeat(50) + &last;
            for piece in all.as_bytes().chunks(piece) {
                stream.write_all(piece).unwrap();
                stream.flush().unwrap();
            }
            let mut answers = String::new();
            stream.read_to_string(&mut answers).unwrap();
            let count = |what: &str| answers.matches(what).count();
            assert_eq!(count("HTTP/1.1 200 "), 51, "{answers}");
            assert_eq!(count(r#"{"result":{"#), 50 + usize::from(!passed), "{answers}");
        }
    }
    assert_eq!(metric(&mut secure(gateway.address()), "kept"), 0);
    gateway.stop();
}

fn with_internal(keys: &str) -> (Gateway, SocketAddr) {
    let port = free_port();
    let gateway = start(&format!("internal_port = {port}\n{keys}"));
    (gateway, SocketAddr::from(([127, 0, 0, 1], port)))
}

fn plain_health(address: SocketAddr) -> String {
    let mut socket = tcp(address);
    socket.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_internal_port_speaks_what_it_is_told() {
    // As the public one.
    let (gateway, internal) = with_internal(&localhost());
    assert_eq!(ask(&mut secure(internal), "GET /health", "").0, 200);
    assert!(plain_health(internal).starts_with("HTTP/1.1 400 "));
    connected(gateway.address());
    gateway.stop();
    // In the clear.
    let (gateway, internal) = with_internal(&format!("tls_external = true\n{}", localhost()));
    assert!(plain_health(internal).starts_with("HTTP/1.1 200 "));
    connected(gateway.address());
    gateway.stop();
    // With a certificate of its own, and the public one in the clear.
    let (gateway, internal) = with_internal(&tls("internal_tls", "example"));
    let config = Arc::new(client_config(SHAPES[2]));
    let mut stream = dial(internal, &config, "example.test").unwrap();
    assert_eq!(ask(&mut stream, "GET /health", "").0, 200);
    assert!(plain_health(gateway.address()).starts_with("HTTP/1.1 404 "));
    gateway.stop();
}

#[test]
fn clients_show_certificates_where_authorities_are_named() {
    let gateway = start(&format!("{}tls.client_ca_pem = \"{}\"\n", localhost(), path("ca.pem")));
    let mut config = client_config(SHAPES[0]);
    config.client_auth_cert_resolver = {
        let builder = ClientConfig::builder_with_provider(crate::peer::provider(SHAPES[0]));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(crate::peer::roots());
        let config = builder.with_client_auth_cert(certificates("client"), key("client")).unwrap();
        config.client_auth_cert_resolver
    };
    let mut stream = dial(gateway.address(), &Arc::new(config), "localhost").unwrap();
    assert_eq!(ask(&mut stream, "GET /health", "").0, 200);
    // TLS 1.3 tells a client of it behind its own part.
    let mut refused = secure(gateway.address());
    let error = unbroken(|| refused.read(&mut [0; 10])).unwrap_err().to_string();
    assert!(error.contains("CertificateRequired"), "{error}");
    gateway.stop();
}

#[test]
fn certificates_are_chosen_by_name() {
    let (cert, key) = (path("example.pem"), path("example.key"));
    let more = format!(
        "tls.certificates = [{{ cert_pem = \"{cert}\", key_pem = \"{key}\" }}]\n\
         tls.min_version = \"1.3\"\n"
    );
    let gateway = start(&(localhost() + &more));
    let config = Arc::new(client_config(SHAPES[1]));
    for (name, file) in
        [("localhost", "localhost"), ("example.test", "example"), ("a.example.test", "example")]
    {
        let stream = dial(gateway.address(), &config, name).unwrap();
        assert_eq!(stream.conn.peer_certificates().unwrap()[0], certificates(file)[0], "{name}");
    }
    let old = Arc::new(client_config(SHAPES[2]));
    assert!(dial(gateway.address(), &old, "localhost").is_err(), "1.2 is spoken");
    gateway.stop();
}

/// With a key for tickets, sessions go on over a restart.
#[test]
fn tickets_outlive_the_process() {
    let mut gateway = start(&format!("{}tls.ticket_key = \"{}\"\n", localhost(), "k".repeat(40)));
    let config = Arc::new(client_config(SHAPES[0]));
    let mut first = dial(gateway.address(), &config, "localhost").unwrap();
    assert_eq!(ask(&mut first, "GET /health", "").0, 200);
    assert_eq!(first.conn.handshake_kind(), Some(HandshakeKind::Full));
    drop(first);
    gateway.restart();
    let mut second = dial(gateway.address(), &config, "localhost").unwrap();
    assert_eq!(ask(&mut second, "GET /health", "").0, 200);
    assert_eq!(second.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    gateway.stop();
}

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    own_folder(&format!("tls-{name}"))
}

fn put(folder: &Path, name: &str, ending: &str) {
    fs::copy(path(&format!("{name}.{ending}")), folder.join(format!("host.{ending}"))).unwrap();
}

/// SIGHUP exchanges certificates and drops nobody; what cannot be loaded changes nothing.
#[test]
fn a_reload_drops_nobody() {
    let folder = folder("reload");
    put(&folder, "localhost", "pem");
    put(&folder, "localhost", "key");
    let file = |ending: &str| folder.join(format!("host.{ending}")).display().to_string();
    let keys = format!(
        "tls.enabled = true\ntls.cert_pem_file = \"{}\"\ntls.key_pem_file = \"{}\"\n",
        file("pem"),
        file("key")
    );
    let gateway = start(&keys);
    let address = gateway.address();
    let mut clients: Vec<_> = (0..50).map(|_| connected(address)).collect();
    let mut http = secure(address);
    assert_eq!(metric(&mut http, "tls_reloads_total"), 0);
    let shown = |name: &str| {
        let stream = dial(address, &Arc::new(client_config(SHAPES[0])), name);
        stream.map(|stream| stream.conn.peer_certificates().unwrap()[0].clone())
    };
    assert_eq!(shown("localhost").unwrap(), certificates("localhost")[0]);

    put(&folder, "example", "pem");
    put(&folder, "example", "key");
    gateway.signal(Signal::HUP);
    let deadline = Instant::now() + PATIENCE;
    while metric(&mut http, "tls_reloads_total") == 0 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(shown("example.test").unwrap(), certificates("example")[0]);
    assert!(shown("localhost").is_err());

    // A key of another certificate, then one that has expired: all stays as it is.
    for (cert, key, failures) in [("example", "localhost", 1), ("expired", "expired", 2)] {
        put(&folder, cert, "pem");
        put(&folder, key, "key");
        gateway.signal(Signal::HUP);
        while metric(&mut http, "tls_reloads_failed_total") < failures {
            assert!(Instant::now() < deadline);
        }
        assert_eq!(shown("example.test").unwrap(), certificates("example")[0]);
    }
    let publish = json!({"channel": "news", "data": 7}).to_string();
    assert_eq!(ask(&mut http, "POST /api/publish", &publish).0, 200);
    for client in &mut clients {
        let push: Value =
            serde_json::from_str(&client.read().unwrap().into_text().unwrap()).unwrap();
        assert_eq!(push["push"]["pub"]["data"], 7);
    }
    assert_eq!(metric(&mut http, "closed_total"), 0);
    gateway.stop();
}

fn check(name: &str, http_server: &str) -> Output {
    let file = own_path(&format!("tls-check-{name}.toml"));
    fs::write(&file, format!("[http_server]\n{http_server}")).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_ringhold"));
    program.args(["config", "check"]).arg(&file).output().unwrap()
}

#[test]
fn mistakes_are_told_before_a_start() {
    let said = |name: &str, keys: &str| {
        let output = check(name, keys);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("http_server."), "{keys}: {text}");
        text
    };
    let pair = |cert: &str, key: &str| {
        let (cert, key) = (path(cert), path(key));
        format!("tls.enabled = true\ntls.cert_pem = \"{cert}\"\ntls.key_pem = \"{key}\"\n")
    };
    let missing = said("missing", &pair("missing.pem", "localhost.key"));
    assert!(missing.contains("missing.pem: No such file"), "{missing}");
    let wrong = said("wrong", &pair("localhost.pem", "example.key"));
    assert!(wrong.contains("the key is not this certificate's"), "{wrong}");
    let expired = said("expired", &pair("expired.pem", "expired.key"));
    assert!(expired.contains("it expired"), "{expired}");
    let none = said("none", "tls.enabled = true\n");
    assert!(none.contains("tls.cert_pem: is needed") && none.contains("tls.key_pem"), "{none}");
    let both = pair("localhost.pem", "localhost.key") + "tls.cert_pem_file = \"x\"\n";
    assert!(said("both", &both).contains("one of them is enough"));
    let short = pair("localhost.pem", "localhost.key") + "tls.ticket_key = \"short\"\n";
    assert!(said("short", &short).contains("at least 32 bytes"));
    let internal = said("internal", &tls("internal_tls", "missing"));
    assert!(internal.contains("http_server.internal_tls"), "{internal}");

    let output = check("right", &localhost());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = check("rsa", &tls("tls", "rsa"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("is RSA"), "{text}");
}

/// Clients that nobody here wrote.
#[test]
fn pythons_client_asks_over_https() {
    let gateway = start(&localhost());
    let script = "import http.client, ssl, sys\n\
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):\n\
        \x20   context = ssl.create_default_context(cafile=sys.argv[1])\n\
        \x20   context.minimum_version = context.maximum_version = version\n\
        \x20   port = int(sys.argv[2])\n\
        \x20   client = http.client.HTTPSConnection('localhost', port, context=context)\n\
        \x20   for path in ('/health', '/metrics', '/admin/', '/health'):\n\
        \x20       client.request('GET', path)\n\
        \x20       answer = client.getresponse()\n\
        \x20       assert answer.status == 200, (path, answer.status)\n\
        \x20       answer.read()\n\
        \x20   print(client.sock.version())\n";
    let port = gateway.address().port().to_string();
    let python = Command::new("python3").args(["-c", script, &path("ca.pem"), &port]).output();
    let Ok(output) = python else { return crate::support::skip("no python3") };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().collect::<Vec<_>>(), ["TLSv1.2", "TLSv1.3"]);
    gateway.stop();
}
