//! Loading keys: every form they come in, and every mistake by its name.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringhold::tls::keys::{ClientSetup, KeyPair, OnOrder, ServerKeys, ServerMaterials, Trust};
use ringhold::tls::{Fault, TicketSecret};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::peer::{
    Ours, Peer, SHAPES, certificates, client_config, key, pair, path, provider, server_keys,
    server_setup, settle,
};

fn with(pairs: Vec<KeyPair>) -> ServerKeys {
    ServerKeys { certificates: pairs, ..server_keys() }
}

fn mistake(keys: &ServerKeys) -> String {
    match ServerMaterials::load(keys, SystemTime::now()) {
        Ok(_) => panic!("{keys:?} is taken"),
        Err(fault) => fault.to_string(),
    }
}

#[test]
fn keys_are_paths_text_or_base64() {
    let text = |name: &str| fs::read_to_string(path(name)).unwrap();
    let packed = |name: &str| STANDARD.encode(text(name));
    let broken = |name: &str| {
        let packed = packed(name);
        packed.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n").collect()
    };
    let pairs = vec![
        pair("localhost"),
        KeyPair { cert_pem: text("localhost.pem"), key_pem: text("localhost.key") },
        KeyPair { cert_pem: packed("example.pem"), key_pem: packed("example.key") },
        KeyPair { cert_pem: broken("rsa.pem"), key_pem: broken("rsa.key") },
    ];
    let mut keys = with(pairs);
    keys.client_ca_pem = Some(text("ca.pem"));
    let materials = ServerMaterials::load(&keys, SystemTime::now()).unwrap();
    let facts = materials.facts();
    assert_eq!(facts[0].names, ["localhost"]);
    assert_eq!(facts[2].names, ["example.test", "*.example.test"]);
    assert_eq!(
        facts.iter().map(|facts| facts.is_rsa).collect::<Vec<_>>(),
        [false, false, false, true]
    );
}

#[test]
fn mistakes_name_the_file_and_what_is_wrong() {
    let of = |cert: &str, key: &str| {
        mistake(&with(vec![KeyPair { cert_pem: path(cert), key_pem: path(key) }]))
    };
    let missing = of("missing.pem", "localhost.key");
    assert!(missing.contains("missing.pem") && missing.contains("No such file"), "{missing}");
    let other = of("localhost.pem", "example.key");
    assert!(other.contains("localhost.pem: the key is not this certificate's"), "{other}");
    let expired = of("expired.pem", "expired.key");
    assert!(expired.contains("expired.pem: it expired"), "{expired}");
    let no_key = of("localhost.pem", "localhost.pem");
    assert!(no_key.contains("localhost.pem: it holds no private key"), "{no_key}");
    let no_certificate = of("localhost.key", "localhost.key");
    assert!(no_certificate.contains("it holds no certificate"), "{no_certificate}");
    let empty = mistake(&with(Vec::new()));
    assert_eq!(empty, "certificates: there is none");
    let mut keys = server_keys();
    keys.client_ca_pem = Some(path("client.key"));
    assert!(mistake(&keys).starts_with("client_ca_pem: "), "{}", mistake(&keys));
    let inline = KeyPair { cert_pem: "-----BEGIN nothing".into(), key_pem: path("rsa.key") };
    let inline = mistake(&with(vec![inline]));
    assert!(inline.starts_with("certificate in the configuration: "), "{inline}");
    assert!(ClientSetup::new(&Trust::Authorities(path("missing.pem"))).is_err());
}

#[test]
fn a_certificate_of_the_future_is_refused() {
    let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    let fault = ServerMaterials::load(&server_keys(), early).err().unwrap().to_string();
    assert!(fault.contains("it is not valid yet"), "{fault}");
}

#[test]
fn operators_are_warned_of_rsa_and_of_a_near_end() {
    let now = SystemTime::now();
    let materials = ServerMaterials::load(&with(vec![pair("localhost")]), now).unwrap();
    assert!(materials.warnings(now).is_empty());
    let end = materials.facts()[0].not_after;
    let warnings = materials.warnings(end - Duration::from_secs(48 * 3600));
    assert_eq!(warnings, ["the certificate localhost expires in 48 hours"]);
    let materials = ServerMaterials::load(&with(vec![pair("rsa")]), now).unwrap();
    assert!(materials.warnings(now)[0].contains("RSA"), "{:?}", materials.warnings(now));
}

#[test]
fn secrets_are_not_shown() {
    let keys = format!("{:?}", server_keys());
    assert!(!keys.contains("localhost.key") && keys.contains("localhost.pem"), "{keys}");
    assert_eq!(format!("{:?}", TicketSecret::random().unwrap()), "TicketSecret");
}

/// RFC 8737 section 3.
#[test]
fn the_proof_of_a_name_is_for_an_authority_alone() {
    let challenges = vec![pair("example")];
    let mut keys = server_keys();
    keys.on_order = Some(OnOrder { challenges, ..OnOrder::default() });
    let greet = |keys: &ServerKeys, shape, name: &str, offered: &[&str]| {
        let mut config = client_config(shape);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (mut ours, mut peer) = (Ours::server(server_setup(keys)), Peer::client(config, name));
        let settled =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| settle(&mut ours, &mut peer)));
        (settled, peer)
    };
    for shape in SHAPES {
        let (settled, peer) = greet(&keys, shape, "example.test", &["acme-tls/1"]);
        assert_eq!(settled.unwrap(), Err(Fault::Validated));
        assert_eq!(peer.tls.peer_certificates().unwrap()[0], certificates("example")[0]);
        assert_eq!(peer.tls.alpn_protocol(), Some(&b"acme-tls/1"[..]));
        let (settled, peer) = greet(&keys, shape, "localhost", &["http/1.1", "acme-tls/1"]);
        assert_eq!(settled.unwrap(), Ok(()));
        assert_eq!(peer.tls.peer_certificates().unwrap()[0], certificates("localhost")[0]);
        // Of a name that is not asked about, and where nothing is.
        for (keys, name) in [(&keys, "localhost"), (&server_keys(), "example.test")] {
            let (settled, peer) = greet(keys, shape, name, &["acme-tls/1"]);
            assert!(matches!(settled, Err(_) | Ok(Err(Fault::Greeting(..)))), "{name}");
            assert!(peer.tls.peer_certificates().is_none(), "{name}");
        }
    }
}

#[test]
fn certificates_on_order_may_be_missing_or_over() {
    let mut keys = with(Vec::new());
    assert_eq!(mistake(&keys), "certificates: there is none");
    keys.on_order = Some(OnOrder::default());
    assert!(ServerMaterials::load(&keys, SystemTime::now()).unwrap().facts().is_empty());
    let issued = vec![pair("expired"), pair("localhost")];
    keys.on_order = Some(OnOrder { issued, ..OnOrder::default() });
    let now = SystemTime::now();
    let materials = ServerMaterials::load(&keys, now).unwrap();
    assert_eq!(materials.facts().len(), 2);
    assert!(materials.warnings(now)[0].contains("expires in 0 hours"));
    // A file's is refused all the same.
    keys.certificates = vec![pair("expired")];
    assert!(mistake(&keys).contains("it expired"));
}

/// Of an authority under another name, of another authority, expired, and with another's key.
#[test]
fn trust_goes_as_far_as_it_says() {
    let believes = |trust: &Trust, certificate: &str, key_of: &str, name: &str| {
        let config = ServerConfig::builder_with_provider(provider(SHAPES[0]));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let signer = aws_lc_rs::sign::any_supported_type(&key(key_of)).unwrap();
        let pair = CertifiedKey::new(certificates(certificate), signer);
        let config = config.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        let mut ours = Ours::client(&ClientSetup::new(trust).unwrap(), name);
        let mut peer = Peer::server(config);
        loop {
            let (from_us, from_peer) = (std::mem::take(&mut ours.out), peer.out());
            if ours.receive(&from_peer).is_err() {
                return false;
            }
            if from_us.is_empty() && from_peer.is_empty() {
                return ours.welcome.is_some();
            }
            peer.receive(&from_us).unwrap();
        }
    };
    let authorities = Trust::Authorities(path("ca.pem"));
    let any_of = Trust::AnyOf(path("ca.pem"));
    let of_another = Trust::AnyOf(path("client.pem"));
    for (certificate, key_of, name, right) in [
        ("localhost", "localhost", "localhost", [true, true, false, true]),
        ("localhost", "localhost", "elsewhere.test", [false, true, false, true]),
        ("expired", "expired", "localhost", [false, false, false, true]),
        ("expired", "expired", "elsewhere.test", [false, false, false, true]),
        ("localhost", "example", "localhost", [false, false, false, false]),
    ] {
        let trusts = [&authorities, &any_of, &of_another, &Trust::Anybody];
        let found = trusts.map(|trust| believes(trust, certificate, key_of, name));
        assert_eq!(found, right, "{certificate} with the key of {key_of} as {name}");
    }
}

/// Also of those that live for days only, as authorities issue them.
#[test]
fn the_end_is_warned_of_when_a_renewal_is_late() {
    let day = Duration::from_secs(24 * 3600);
    let now = SystemTime::now();
    for (age, left, warned) in [
        (0, 90, false),
        (70, 20, false),
        (77, 13, true),
        (0, 6, false),
        (4, 2, false),
        (5, 1, true),
    ] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.not_before = (now - day * age).into();
        params.not_after = (now + day * left).into();
        let certificate = params.self_signed(&key).unwrap();
        let pair = KeyPair { cert_pem: certificate.pem(), key_pem: key.serialize_pem() };
        let materials = ServerMaterials::load(&with(vec![pair]), now).unwrap();
        assert_eq!(!materials.warnings(now).is_empty(), warned, "{age} days old, {left} left");
    }
}
