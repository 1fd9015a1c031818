//! Patches: any can be applied or refused, and those we make give the target.
//!
//! Needs a nightly compiler and `cargo install cargo-fuzz`. From the root of the repository:
//!
//! ```sh
//! mkdir -p /tmp/corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz deltas \
//!     /tmp/corpus tests/fuzz/corpus/deltas -- -max_total_time=600 -max_len=1024
//! ```
//!
//! What it finds lands in `tests/fuzz/artifacts/deltas/`. Once it is understood, minimise it with
//! `cargo fuzz tmin` and move it to `tests/fuzz/corpus/deltas/`: from then on `cargo test` replays
//! it.

#![no_main]

#[path = "../gateway.rs"]
#[allow(dead_code)]
mod gateway;

libfuzzer_sys::fuzz_target!(|data: &[u8]| gateway::deltas(data));
