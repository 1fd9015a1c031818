//! Protobuf messages of both directions: never a panic, and what is understood can be said again.
//!
//! Needs a nightly compiler and `cargo install cargo-fuzz`. From the root of the repository:
//!
//! ```sh
//! mkdir -p /tmp/corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz protobuf_commands \
//!     /tmp/corpus tests/fuzz/corpus/protobuf_commands -- -max_total_time=600 -max_len=1024
//! ```
//!
//! What it finds lands in `tests/fuzz/artifacts/protobuf_commands/`. Once it is understood,
//! minimise it with `cargo fuzz tmin` and move it to `tests/fuzz/corpus/protobuf_commands/`: from
//! then on `cargo test` replays it.

#![no_main]

#[path = "../gateway.rs"]
#[allow(dead_code)]
mod gateway;

libfuzzer_sys::fuzz_target!(|data: &[u8]| gateway::protobuf_commands(data));
