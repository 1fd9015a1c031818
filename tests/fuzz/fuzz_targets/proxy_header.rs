//! What proxies say about a client: never a panic, and one answer however it is cut.
//!
//! Needs a nightly compiler and `cargo install cargo-fuzz`. From the root of the repository:
//!
//! ```sh
//! mkdir -p /tmp/corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz proxy_header \
//!     /tmp/corpus tests/fuzz/corpus/proxy_header -- -max_total_time=600 -max_len=5000
//! ```
//!
//! What it finds lands in `tests/fuzz/artifacts/proxy_header/`. Once it is understood, minimise it
//! with `cargo fuzz tmin` and move it to `tests/fuzz/corpus/proxy_header/`: from then on
//! `cargo test` replays it.

#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code)]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::proxy_header(data));
