//! Request heads: never a panic, and one answer however they are cut.
//!
//! Needs a nightly compiler and `cargo install cargo-fuzz`. From the root of the repository:
//!
//! ```sh
//! mkdir -p /tmp/corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz handshake \
//!     /tmp/corpus tests/fuzz/corpus/handshake -- -max_total_time=600 -max_len=2048
//! ```
//!
//! What it finds lands in `tests/fuzz/artifacts/handshake/`. Once it is understood, minimise it
//! with `cargo fuzz tmin` and move it to `tests/fuzz/corpus/handshake/`: from then on `cargo test`
//! replays it.

#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code)]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::handshake(data));
