//! Replays the fuzz corpus: seeds and everything the fuzzers have found. Each file of
//! `tests/fuzz/corpus/<target>/` goes through the entry function of its target.

use std::fs;
use std::path::Path;

fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has seeds", folder.display());
    for file in files {
        // Shown only when the test fails.
        println!("{}", file.display());
        entry(&fs::read(&file).unwrap());
    }
}

#[test]
fn frames() {
    replay("frames", crate::entries::frames);
}

#[test]
fn handshake() {
    replay("handshake", crate::entries::handshake);
}

#[test]
fn proxy_header() {
    replay("proxy_header", crate::entries::proxy_header);
}

#[test]
fn client_response() {
    replay("client_response", crate::entries::client_response);
}

#[test]
fn extensions() {
    replay("extensions", crate::entries::extensions);
}

#[test]
fn inflate() {
    replay("inflate", crate::entries::inflate);
}
