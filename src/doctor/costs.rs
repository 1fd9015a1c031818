//! What things cost, as measured, each with what gave it. Linux 6.18, x86-64, 4 KiB pages.

/// Kernel memory of an idle connection, in bytes: socket 3,640, slot 32, poll 256.
/// `ringhold echo --max-connections 100000` and
/// `ringhold load idle --connections 100000 --server-pid PID`: slabs of both ends divided by two.
pub(crate) const KERNEL_PER_CONNECTION: u64 = 3932;

/// User memory of an idle connection of the gateway, in bytes, with a user of its own and one
/// subscription with a recovery position: growth of the resident set with 100,000 of them, 384 if
/// they share 1,000 channels. An idle connection of `ringhold echo`, which is the engine's part,
/// takes 112 where a million are held (`benches/density.sh 1000000`).
pub(crate) const USER_PER_CONNECTION: u64 = 412;

/// User memory of a worker without connections, in bytes: resident set of `ringhold echo` with 2
/// workers (9,012 KiB) and 12 (14,936 KiB).
pub(crate) const USER_PER_WORKER: u64 = 600 << 10;

/// User memory of the program without workers, in bytes: the same two runs.
pub(crate) const USER_BASE: u64 = 8 << 20;

/// Ring of the control plane, in bytes of locked memory: 256 entries, rounded up.
pub(crate) const CONTROL_RING: u64 = 64 << 10;

/// Descriptors of a worker and of the program that are not connections: /proc/PID/fd of the same
/// runs (19 with 2 workers, 49 with 12).
pub(crate) const FILES_PER_WORKER: u64 = 3;
/// See [`FILES_PER_WORKER`]; and some that the application opens.
pub(crate) const FILES_BASE: u64 = 64;

/// Threads of a worker: its own, and up to four of the kernel's (`IORING_REGISTER_IOWQ_MAX_WORKERS`
/// is set to two of each kind).
pub(crate) const THREADS_PER_WORKER: u64 = 5;
/// Threads of the program without workers.
pub(crate) const THREADS_BASE: u64 = 8;

/// Connections that a processor accepts and upgrades per second, with its clients on the same
/// machine: 18,000 on two processors in the run of [`KERNEL_PER_CONNECTION`].
pub(crate) const ACCEPTS_PER_PROCESSOR: u64 = 9_000;

/// Seconds over which clients that were cut off together come back: the first steps of usual
/// backoffs. An assumption.
pub(crate) const STORM_SECONDS: u64 = 10;

/// A tracked connection, in bytes: object size of `nf_conntrack` in /proc/slabinfo. Extensions
/// (NAT, accounting, labels) come on top where they are in use.
pub(crate) const CONNTRACK_ENTRY: u64 = 256;

/// A bucket of the kernel's hash tables of connections, in bytes.
pub(crate) const BUCKET: u64 = 8;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
