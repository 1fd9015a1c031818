//! Offers and answers of extensions: never a panic, and nothing agreed on that was not offered.
//!
//! Needs a nightly compiler and `cargo install cargo-fuzz`. From the root of the repository:
//!
//! ```sh
//! mkdir -p /tmp/corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz extensions \
//!     /tmp/corpus tests/fuzz/corpus/extensions -- -max_total_time=600 -max_len=512
//! ```
//!
//! What it finds lands in `tests/fuzz/artifacts/extensions/`. Once it is understood, minimise it
//! with `cargo fuzz tmin` and move it to `tests/fuzz/corpus/extensions/`: from then on `cargo test`
//! replays it.

#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code)]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::extensions(data));
