//! What is kept where, and when an order is due.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;

fn pair(host: &str, since: u32, left: u32) -> KeyPair {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
    let now = SystemTime::now();
    params.not_before = (now - DAY * since).into();
    params.not_after = (now + DAY * left).into();
    let certificate = params.self_signed(&key).unwrap();
    KeyPair { cert_pem: certificate.pem(), key_pem: key.serialize_pem() }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ringhold-acme-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn config(hosts: &[&str], folder: &std::path::Path) -> AcmeConfig {
    AcmeConfig {
        hosts: hosts.iter().map(|host| host.to_string()).collect(),
        folder: folder.display().to_string(),
        email: String::new(),
        directory: "https://127.0.0.1:1/".to_owned(),
        directory_ca: concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/keys/ca.pem").to_owned(),
        http: None,
    }
}

#[test]
fn a_certificate_is_due_when_a_third_of_its_time_is_left() {
    let now = SystemTime::now();
    for (since, left) in [(0, 90), (60, 30), (10, 5), (0, 6), (200, 1)] {
        let at = renewal(&pair("a.test", since, left));
        let expected = now + DAY * left - DAY * (since + left) / 3;
        let off = at.duration_since(expected).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(60), "{since} days old, {left} left: {off:?} off");
    }
    let damaged = KeyPair { cert_pem: "-----BEGIN x".into(), key_pem: "-----BEGIN x".into() };
    assert_eq!(renewal(&damaged), SystemTime::UNIX_EPOCH, "at once");
}

#[test]
fn what_is_kept_is_read_again_in_the_order_of_the_hosts() {
    let path = folder("kept");
    let kept = Folder::open(&path.display().to_string()).unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let (a, b) = (pair("a.test", 1, 80), pair("b.test", 1, 80));
    kept.keep_certificate("a.test", &a).unwrap();
    kept.keep_certificate("b.test", &b).unwrap();
    // What an interrupted write left behind is in nobody's way.
    std::fs::write(path.join("a.test.pem.new"), "half").unwrap();
    kept.keep_certificate("a.test", &a).unwrap();
    assert_eq!(mode(&path.join("a.test.pem")), 0o600);
    // Under another host's name, and no certificate at all.
    std::fs::copy(path.join("a.test.pem"), path.join("c.test.pem")).unwrap();
    std::fs::write(path.join("d.test.pem"), "nothing").unwrap();
    let hosts = ["d.test", "b.test", "c.test", "a.test", "e.test"];
    let acme = Acme::new(config(&hosts, &path), Arc::default()).unwrap();
    let found: Vec<_> = acme.issued().iter().map(|pair| pair.facts().unwrap().names).collect();
    assert_eq!(found, [["b.test"], ["a.test"]]);
    let _ = std::fs::remove_dir_all(&path);
}

#[test]
fn a_folder_that_cannot_be_written_is_told_at_the_start() {
    let path = folder("file");
    std::fs::write(&path, "in the way").unwrap();
    let error = Acme::new(config(&["a.test"], &path), Arc::default()).err().unwrap();
    assert!(error.starts_with("cache_dir "), "{error}");
    let _ = std::fs::remove_file(&path);
    let none = Folder::open("").unwrap();
    none.keep_certificate("a.test", &pair("a.test", 1, 80)).unwrap();
    assert!(none.certificate("a.test").unwrap().is_none());
}

const DAY: Duration = Duration::from_secs(24 * 3600);
