//! Replays the fuzz corpus: seeds and everything the fuzzers have found. Each file of
//! `tests/fuzz/corpus/<target>/` goes through the entry function of its target.

#[path = "fuzz/entries.rs"]
mod entries;

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
    replay("frames", entries::frames);
}

#[test]
fn handshake() {
    replay("handshake", entries::handshake);
}

#[test]
fn proxy_header() {
    replay("proxy_header", entries::proxy_header);
}

#[test]
fn client_response() {
    replay("client_response", entries::client_response);
}

#[test]
fn extensions() {
    replay("extensions", entries::extensions);
}

#[test]
fn inflate() {
    replay("inflate", entries::inflate);
}
