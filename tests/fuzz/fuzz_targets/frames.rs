//! Frames in pieces against the naive decoder.
//!
//! Needs a nightly compiler and `cargo install cargo-fuzz`. From the root of the repository:
//!
//! ```sh
//! mkdir -p /tmp/corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz frames \
//!     /tmp/corpus tests/fuzz/corpus/frames -- -max_total_time=600 -max_len=1024
//! ```
//!
//! What it finds lands in `tests/fuzz/artifacts/frames/`. Once it is understood, minimise it with
//! `cargo fuzz tmin` and move it to `tests/fuzz/corpus/frames/`: from then on `cargo test` replays
//! it.

#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code)]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::frames(data));
