//! Compressed messages beside C zlib: the same message or none, and never more than the limit.
//!
//! Needs a nightly compiler and `cargo install cargo-fuzz`. From the root of the repository:
//!
//! ```sh
//! mkdir -p /tmp/corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz inflate \
//!     /tmp/corpus tests/fuzz/corpus/inflate -- -max_total_time=600 -max_len=2048
//! ```
//!
//! What it finds lands in `tests/fuzz/artifacts/inflate/`. Once it is understood, minimise it
//! with `cargo fuzz tmin` and move it to `tests/fuzz/corpus/inflate/`: from then on `cargo test`
//! replays it.

#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code)]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::inflate(data));
