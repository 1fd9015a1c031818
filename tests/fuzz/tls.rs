//! What the fuzz targets of TLS run on their bytes. `cargo test` replays the corpus through the
//! same functions (`tests/tls/fuzzed.rs`), so a finding stays found.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use ringhold::tls::keys::{ClientSetup, KeyPair, ServerKeys, ServerMaterials, ServerSetup, Trust};
use ringhold::tls::{
    Aead, Fault, Greeting, Limits, Opened, RECORD_MAX, Record, RecordLayer, Role, Step,
    TicketSecret, Version, greet, length,
};

/// Records: a byte of settings, then a script of what a peer sends, right and wrong. What is right
/// arrives as it was sent, in order, until the first wrong record; nothing arrives after it.
pub(crate) fn tls_records(data: &[u8]) {
    let Some((&settings, mut script)) = data.split_first() else { return };
    let aead = if settings & 1 == 0 { Aead::Aes128Gcm } else { Aead::ChaCha20Poly1305 };
    let (role, other) = match settings & 2 {
        0 => (Role::Server, Role::Client),
        _ => (Role::Client, Role::Server),
    };
    let limits = if settings & 4 == 0 {
        Limits::default()
    } else {
        Limits { records_per_key: 3, key_updates: 2, empty_records: 2, warnings: 1 }
    };
    let mut ours = Record::from_secrets(role, aead, [1; 32], [2; 32]);
    let mut peer = Record::from_secrets(other, aead, [1; 32], [2; 32]);
    let (mut last, mut replies) = (Vec::new(), Vec::new());
    while let Some((&[kind, len], rest)) = script.split_first_chunk::<2>() {
        let (content, rest) = rest.split_at(rest.len().min(usize::from(len)));
        script = rest;
        let ended = ours.is_ended();
        let mut sent = Vec::new();
        match kind % 8 {
            0..=2 => peer.seal(&limits, &[content], &mut sent).unwrap_or_default(),
            3 => peer.update_key(len & 1 == 0, &mut sent).unwrap_or_default(),
            4 => peer.close(&mut sent),
            5 => sent.extend_from_slice(content),
            6 => sent.clone_from(&last),
            _ => {
                peer.seal(&limits, &[content], &mut sent).unwrap_or_default();
                // Within the header and the tag, so that there is something to flip.
                let at = usize::from(kind / 8) % sent.len().max(1);
                if let Some(byte) = sent.get_mut(at) {
                    *byte ^= 1 << (len % 8);
                }
            }
        }
        let is_right = kind % 8 < 5 || sent.is_empty();
        let mut heard = Vec::new();
        let result = receive(&mut ours, &limits, &sent.clone(), &mut heard);
        if is_right {
            match result {
                Ok(()) if !ended => assert!(kind % 8 > 2 || heard == content),
                Ok(()) => assert!(heard.is_empty()),
                Err(Fault::KeyUpdates) => assert_eq!(kind % 8, 3),
                Err(fault) => panic!("{fault}"),
            }
            last = sent;
        } else {
            assert!(heard.is_empty(), "nothing of a wrong record arrives");
        }
        if let Err(fault) = result {
            ours.refuse(&fault, &mut replies);
            let again = ours.open(&limits, &mut [23, 3, 3, 0, 0]);
            assert_eq!(again, Err(Fault::Closed));
            let len = replies.len();
            ours.close(&mut replies);
            assert_eq!(replies.len(), len);
            return;
        }
        if !is_right {
            // Half a record, which waits for bytes that never open, or one behind the end.
            return;
        }
        let owed = ours.owes();
        let before = replies.len();
        ours.settle(&mut replies).unwrap();
        assert_eq!(owed, replies.len() > before);
        assert!(!ours.owes());
    }
}

/// All whole records of `bytes`; what is incomplete is left alone.
fn receive(
    ours: &mut Record,
    limits: &Limits,
    bytes: &[u8],
    heard: &mut Vec<u8>,
) -> Result<(), Fault> {
    let mut bytes = bytes.to_vec();
    let mut rest = &mut bytes[..];
    while let Some(len) = length(rest)?.filter(|len| *len <= rest.len()) {
        assert!(len <= RECORD_MAX);
        let (record, later) = rest.split_at_mut(len);
        match ours.open(limits, record)? {
            Opened::Data(place) => {
                assert!(!place.is_empty() && place.end <= len);
                heard.extend_from_slice(&record[place]);
            }
            Opened::Nothing | Opened::Messages(_) => {}
            Opened::Closed => return Ok(()),
        }
        rest = later;
    }
    Ok(())
}

/// A handshake: a byte of settings, then what the peer sends.
pub(crate) fn tls_greeting(data: &[u8]) {
    let Some((&settings, mut rest)) = data.split_first() else { return };
    let mut out = Vec::new();
    let greeting = if settings & 1 == 0 {
        Greeting::server(server())
    } else {
        Greeting::client(client(), "localhost", true, &mut out)
    };
    let mut greeting = greeting.unwrap();
    let mut first = settings & 1 == 0;
    while let Ok(Some(len)) = greet::length(rest, first) {
        first = false;
        let Some((record, later)) = rest.split_at_checked(len) else { return };
        rest = later;
        match greeting.feed(record, &mut out) {
            Ok(Step::More) => {}
            Ok(Step::Done(_)) => panic!("nobody signs what a fuzzer makes"),
            Err(_) => {
                let len = out.len();
                assert!(greeting.feed(record, &mut out).is_err(), "a fault is final");
                assert!(out.len() <= len + 7);
                return;
            }
        }
        assert!(out.len() < 32 << 10);
    }
}

fn server() -> &'static ServerSetup {
    static SETUP: OnceLock<ServerSetup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let keys = ServerKeys {
            certificates: vec![KeyPair {
                cert_pem: include_str!("../tls/keys/localhost.pem").to_owned(),
                key_pem: include_str!("../tls/keys/localhost.key").to_owned(),
            }],
            client_ca_pem: None,
            min_version: Version::Tls12,
            tickets: TicketSecret::from_bytes(&[7; 32]).unwrap(),
            record_layer: RecordLayer::Own,
            on_order: None,
        };
        // The certificate's first year, and the same for every run.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        ServerMaterials::load(&keys, now).unwrap().setup().unwrap()
    })
}

fn client() -> &'static ClientSetup {
    static SETUP: OnceLock<ClientSetup> = OnceLock::new();
    SETUP.get_or_init(|| ClientSetup::new(&Trust::Anybody).unwrap())
}
