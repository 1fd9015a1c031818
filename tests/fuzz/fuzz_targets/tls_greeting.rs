//! What a peer may say instead of a handshake: never a panic, and no handshake.
//!
//! Needs a nightly compiler and `cargo install cargo-fuzz`. From the root of the repository:
//!
//! ```sh
//! mkdir -p /tmp/corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz tls_greeting \
//!     /tmp/corpus tests/fuzz/corpus/tls_greeting -- -max_total_time=600 -max_len=2048
//! ```
//!
//! What it finds lands in `tests/fuzz/artifacts/tls_greeting/`. Once it is understood, minimise it
//! with `cargo fuzz tmin` and move it to `tests/fuzz/corpus/tls_greeting/`: from then on
//! `cargo test` replays it.

#![no_main]

#[path = "../tls.rs"]
#[allow(dead_code)]
mod tls;

libfuzzer_sys::fuzz_target!(|data: &[u8]| tls::tls_greeting(data));
