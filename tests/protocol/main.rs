//! Frames, handshakes and deflate without sockets: properties, fuzz findings, and C zlib as the
//! other end. `protocol_allocations` is a program of its own: it counts what its process
//! allocates.

#[path = "../fuzz/entries.rs"]
mod entries;

mod deflate;
mod properties;
mod regressions;
