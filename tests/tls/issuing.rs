//! Certificates that an authority issues by itself: proven by TLS and by HTTP, kept over a restart,
//! renewed in time, and what happens where the authority refuses.
//!
//! Method: `ringhold serve` as a child process, and an authority of our own on loopback.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use crate::acme::{Authority, offer};
use crate::peer::{FOLDER, unbroken};
use crate::site::{Stream, dial, metric, reply, upgrade};
use crate::support::daemon::free_port;
use crate::support::gateway::{Gateway, token_of};
use crate::support::{own_path, until};

const DAY: Duration = Duration::from_secs(24 * 3600);

const TABLES: &str = "[health]\nenabled = true\n[prometheus]\nenabled = true\n";

/// Where a new folder may be made.
fn folder(name: &str) -> PathBuf {
    own_path(&format!("acme-{name}"))
}

fn keys(authority: &Authority, hosts: &str, folder: &Path) -> String {
    format!(
        "tls_autocert.enabled = true\ntls_autocert.host_whitelist = {hosts}\n\
         tls_autocert.cache_dir = \"{}\"\ntls_autocert.directory = \"{}\"\n\
         tls_autocert.directory_ca_pem = \"{FOLDER}/ca.pem\"\ntls_autocert.email = \"o@e.test\"\n",
        folder.display(),
        authority.directory(),
    )
}

fn start(keys: &str) -> Gateway {
    Gateway::start_listening(keys, "", TABLES)
}

/// A client that believes the authority only.
fn client(authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

fn visit(at: SocketAddr, client: &Arc<ClientConfig>, host: &str) -> io::Result<Stream> {
    dial(at, client, host)
}

fn shown(stream: &Stream) -> CertificateDer<'static> {
    stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Waits until `host` is served under a certificate of the authority.
fn served(at: SocketAddr, client: &Arc<ClientConfig>, host: &str) -> Stream {
    let mut found = None;
    until("a certificate", || {
        found = visit(at, client, host).ok();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn hosts_are_proven_by_tls_and_their_certificates_are_kept() {
    let (authority, folder) = (Authority::start(FOLDER), folder("by-tls"));
    authority.hold(true);
    authority.refuse_nonces(2);
    let hosts = "[\"www.example.test\", \"Api.example.test\"]";
    let more = "tls_autocert.server_name = \"api.example.test\"\n";
    let mut gateway = start(&(keys(&authority, hosts, &folder) + more));
    let at = gateway.address();
    authority.look_at(Some(at), None);
    let client = client(&authority);

    // While a proof waits, only who asks for it and nothing else sees it; its connection ends.
    until("the first proof", || authority.orders() == 1);
    let first = "api.example.test";
    let mut proof = None;
    until("its certificate", || {
        proof = offer(at, first, &["acme-tls/1"]).ok();
        proof.is_some()
    });
    let mut proof = proof.unwrap();
    assert_eq!(proof.conn.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(unbroken(|| proof.read(&mut [0; 16])).unwrap(), 0, "close_notify");
    for protocols in [&["http/1.1"][..], &["http/1.1", "acme-tls/1"], &[]] {
        assert!(offer(at, first, protocols).is_err(), "{protocols:?}: there is no certificate yet");
    }
    assert!(offer(at, "www.example.test", &["acme-tls/1"]).is_err(), "not this one's turn");
    authority.hold(false);

    let one = shown(&served(at, &client, "www.example.test"));
    let other = shown(&served(at, &client, "api.example.test"));
    assert_ne!(one, other);
    assert_eq!(authority.proofs(), [Ok(()), Ok(())]);
    assert_eq!((authority.orders(), authority.accounts()), (2, 1));
    // Who names no host, or another one.
    assert_eq!(shown(&offer(at, "elsewhere.test", &["http/1.1"]).unwrap()), other);
    // Without a proof that is waited for, nobody gets one.
    assert!(offer(at, first, &["acme-tls/1"]).is_err());
    let mut session = upgrade(visit(at, &client, "www.example.test").unwrap());
    let connect = json!({"id": 1, "connect": {"token": token_of("u")}});
    assert!(reply(&mut session, &connect)["connect"]["client"].is_string());
    let mut http = visit(at, &client, "www.example.test").unwrap();
    assert_eq!(metric(&mut http, "tls_orders_total"), 2);
    assert_eq!(metric(&mut http, "tls_orders_failed_total"), 0);
    assert_eq!(metric(&mut http, "tls_validations_total"), 3);
    let end = metric(&mut http, "tls_certificate_not_after_seconds");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!((89..=90).contains(&((end - now + 3600) / DAY.as_secs())), "{end}");

    let mut kept: Vec<_> = fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
    kept.sort_by_key(fs::DirEntry::file_name);
    let names: Vec<_> = kept.iter().map(fs::DirEntry::file_name).collect();
    assert_eq!(names, ["account.json", "api.example.test.pem", "www.example.test.pem"]);
    for file in &kept {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    // After a restart nothing is ordered.
    gateway.restart();
    let at = gateway.address();
    assert_eq!(shown(&visit(at, &client, "www.example.test").unwrap()), one);
    assert_eq!(shown(&visit(at, &client, "api.example.test").unwrap()), other);
    assert_eq!(authority.orders(), 2);
    gateway.stop();
}

/// Status and head of the answer of the plain port.
fn plain(at: SocketAddr, line: &str, host: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(at).unwrap();
    socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

#[test]
fn hosts_are_proven_by_http_and_browsers_are_sent_to_https() {
    let (authority, folder) = (Authority::start(FOLDER), folder("by-http"));
    let port = SocketAddr::from(([127, 0, 0, 1], free_port()));
    authority.look_at(None, Some(port));
    authority.hold(true);
    let more = format!("tls_autocert.http = true\ntls_autocert.http_addr = \"{port}\"\n");
    let gateway = start(&(keys(&authority, "[\"www.example.test\"]", &folder) + &more));
    let at = gateway.address();
    until("a proof", || authority.asked().len() == 1);
    let target = format!("GET /.well-known/acme-challenge/{}", authority.asked()[0]);
    assert_eq!(plain(port, &target, "www.example.test").0, 200);
    assert!(offer(at, "www.example.test", &["acme-tls/1"]).is_err(), "it is proven by HTTP");
    authority.hold(false);
    let client = client(&authority);
    served(at, &client, "www.example.test");
    assert_eq!(authority.proofs(), [Ok(())]);

    assert_eq!(plain(port, &target, "www.example.test").0, 404, "it was for once");
    let (status, head) = plain(port, "GET /a/b?c=d", "WWW.example.test:80");
    assert_eq!(status, 308);
    assert!(head.contains("location: https://www.example.test/a/b?c=d\r\n"), "{head}");
    assert_eq!(plain(port, "POST /a", "www.example.test").0, 400);
    assert_eq!(plain(port, "GET /", "elsewhere.test").0, 421);
    assert_eq!(plain(port, "GET /health", "www.example.test").0, 308, "nothing else is served");
    gateway.stop();
}

#[test]
fn a_certificate_is_renewed_while_clients_stay() {
    let (authority, folder) = (Authority::start(FOLDER), folder("renewal"));
    fs::create_dir_all(&folder).unwrap();
    let put = |host: &str, since: Duration| {
        fs::write(folder.join(format!("{host}.pem")), authority.issue(host, since, 90 * DAY))
            .unwrap();
    };
    // Due, not due, damaged.
    put("due.example.test", 61 * DAY);
    put("fresh.example.test", 59 * DAY);
    fs::write(folder.join("lost.example.test.pem"), "-----BEGIN nothing").unwrap();
    authority.hold(true);
    let hosts = "[\"due.example.test\", \"fresh.example.test\", \"lost.example.test\"]";
    let gateway = start(&keys(&authority, hosts, &folder));
    let at = gateway.address();
    authority.look_at(Some(at), None);
    let client = client(&authority);
    // What is there is in use from the first moment on.
    let old = shown(&visit(at, &client, "due.example.test").unwrap());
    let fresh = shown(&visit(at, &client, "fresh.example.test").unwrap());
    let mut stays = visit(at, &client, "due.example.test").unwrap();
    authority.hold(false);
    served(at, &client, "lost.example.test");
    until("the new one", || {
        visit(at, &client, "due.example.test").is_ok_and(|stream| shown(&stream) != old)
    });
    assert_eq!(shown(&visit(at, &client, "fresh.example.test").unwrap()), fresh);
    assert_eq!(authority.orders(), 2);
    assert_eq!(metric(&mut stays, "tls_orders_total"), 2);
    gateway.stop();
}

#[test]
fn a_refusal_changes_nothing_and_a_reload_tries_again() {
    let (authority, folder) = (Authority::start(FOLDER), folder("refusal"));
    fs::create_dir_all(&folder).unwrap();
    // An expired one is better than none, and is no mistake.
    let expired = authority.issue("www.example.test", 91 * DAY, 90 * DAY);
    fs::write(folder.join("www.example.test.pem"), expired).unwrap();
    // The authority finds nothing at that host.
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    authority.look_at(Some(nobody), None);
    let gateway = start(&keys(&authority, "[\"www.example.test\"]", &folder));
    let at = gateway.address();
    let mut http = offer(at, "www.example.test", &["http/1.1"]).unwrap();
    let failures = |http: &mut Stream| metric(http, "tls_orders_failed_total");
    until("the refusal", || failures(&mut http) == 1);
    assert!(authority.proofs()[0].is_err());
    let client = client(&authority);
    assert!(visit(at, &client, "www.example.test").is_err(), "it has expired");
    assert!(offer(at, "www.example.test", &["acme-tls/1"]).is_err(), "the proof is gone");

    // The authority has forgotten us, too: a new account, with the try after that.
    authority.look_at(Some(at), None);
    authority.forget_accounts();
    gateway.signal(Signal::HUP);
    until("the second refusal", || failures(&mut http) == 2);
    gateway.signal(Signal::HUP);
    served(at, &client, "www.example.test");
    assert_eq!(authority.accounts(), 2);
    assert_eq!(metric(&mut http, "tls_orders_total"), 1);
    gateway.stop();
}

#[test]
fn a_silent_authority_keeps_nobody_from_starting() {
    let folder = folder("silent");
    let nobody = format!("https://localhost:{}/directory", free_port());
    let config = format!(
        "tls_autocert.enabled = true\ntls_autocert.host_whitelist = [\"www.example.test\"]\n\
         tls_autocert.cache_dir = \"{}\"\ntls_autocert.directory = \"{nobody}\"\n\
         tls.enabled = true\ntls.cert_pem = \"{FOLDER}/localhost.pem\"\n\
         tls.key_pem = \"{FOLDER}/localhost.key\"\n",
        folder.display()
    );
    let gateway = start(&config);
    // Certificates of files stand beside those that are ordered.
    let mut http = crate::site::secure(gateway.address());
    until("the failure", || metric(&mut http, "tls_orders_failed_total") == 1);
    gateway.stop();
}
