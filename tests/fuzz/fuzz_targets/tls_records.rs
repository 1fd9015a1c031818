//! Records of a peer that errs: what is right arrives, nothing after the first fault.
//!
//! Needs a nightly compiler and `cargo install cargo-fuzz`. From the root of the repository:
//!
//! ```sh
//! mkdir -p /tmp/corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz tls_records \
//!     /tmp/corpus tests/fuzz/corpus/tls_records -- -max_total_time=600 -max_len=1024
//! ```
//!
//! What it finds lands in `tests/fuzz/artifacts/tls_records/`. Once it is understood, minimise it
//! with `cargo fuzz tmin` and move it to `tests/fuzz/corpus/tls_records/`: from then on
//! `cargo test` replays it.

#![no_main]

#[path = "../tls.rs"]
#[allow(dead_code)]
mod tls;

libfuzzer_sys::fuzz_target!(|data: &[u8]| tls::tls_records(data));
