//! TLS without sockets: our handshakes and records against rustls as the peer, in both roles, both
//! versions and each suite; then over sockets against OpenSSL's own client.
//!
//! Method: bytes go from one side's output to the other's input in pieces of any size. What rustls
//! accepts and sends is the truth; whatever is changed on the way must end the connection, and what
//! arrived before it must be what was sent.

#[path = "fuzz/tls.rs"]
mod entries;
#[path = "tls/handshakes.rs"]
mod handshakes;
#[path = "tls/keys.rs"]
mod keys;
#[path = "tls/openssl.rs"]
mod openssl;
#[path = "tls/peer.rs"]
mod peer;
#[path = "tls/records.rs"]
mod records;
#[path = "support/unbroken.rs"]
mod unbroken;

use std::fs;
use std::path::Path;

/// Each file of `tests/fuzz/corpus/<target>/` goes through the entry function of its target.
fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has seeds", folder.display());
    for file in files {
        // Shown only when the test fails.
        println!("{}", file.display());
        entry(&fs::read(&file).unwrap());
    }
}

#[test]
fn fuzzed_records() {
    replay("tls_records", entries::tls_records);
}

#[test]
fn fuzzed_greetings() {
    replay("tls_greeting", entries::tls_greeting);
}

mod random {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn records(data in vec(any::<u8>(), 0..600)) {
            super::entries::tls_records(&data);
        }

        #[test]
        fn greetings(
            settings in 0..2_u8,
            records in vec((20..24_u8, vec(any::<u8>(), 0..200)), 0..6),
        ) {
            let mut data = vec![settings];
            for (kind, body) in records {
                data.extend_from_slice(&[kind, 3, 3, 0, body.len() as u8]);
                data.extend_from_slice(&body);
            }
            super::entries::tls_greeting(&data);
        }
    }
}
