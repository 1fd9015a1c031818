//! Why a way into the kernel could not be made, in words that name the remedy.
//!
//! Owns the words. Never decides what happens instead.

use std::io;

impl SetupError {
    /// The host has no io_uring, or none that this program can use, whatever is configured.
    pub fn is_refusal(&self) -> bool {
        let Self::Ring(error) = self else { return false };
        let refusals = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EINVAL];
        error.raw_os_error().is_some_and(|number| refusals.contains(&number))
    }
}

/// Why a ring could not be made, in words that name the remedy.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetupError {
    /// `io_uring_setup` failed.
    Ring(io::Error),
    /// The direct descriptor table could not be registered.
    Table {
        /// Entries asked for.
        table: u32,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The eventfd could not be made.
    Doorbell(io::Error),
    /// The self-check of the send path could not run.
    Probe(io::Error),
    /// The set of descriptors could not be made (epoll).
    Epoll(io::Error),
}

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ring(error) => match error.raw_os_error() {
                Some(libc::EPERM) => write!(
                    f,
                    "io_uring is forbidden here. In a container, run it with \
                     tuning/seccomp-ringhold.json (the default profiles of Docker and Kubernetes \
                     block io_uring); on a host, set sysctl kernel.io_uring_disabled=0"
                ),
                Some(libc::ENOSYS) => write!(
                    f,
                    "this kernel has no io_uring, or a seccomp profile hides it; Linux 6.1 or \
                     later is needed"
                ),
                Some(libc::EINVAL) => write!(
                    f,
                    "this kernel's io_uring lacks DEFER_TASKRUN; Linux 6.1 or later is needed"
                ),
                Some(libc::ENOMEM) => write!(
                    f,
                    "no memory for the ring: raise RLIMIT_MEMLOCK or the cgroup's memory limit"
                ),
                _ => write!(f, "io_uring_setup: {error}"),
            },
            Self::Table { table, error } => match error.raw_os_error() {
                Some(libc::EMFILE) => write!(
                    f,
                    "a table of {table} direct descriptors exceeds the limit of open files \
                     (RLIMIT_NOFILE); raise `ulimit -n`, use more workers, or lower \
                     --max-connections"
                ),
                _ => write!(f, "registering a table of {table} direct descriptors: {error}"),
            },
            Self::Doorbell(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => {
                    write!(f, "too few file descriptors for one eventfd per worker: {error}")
                }
                _ => write!(f, "eventfd: {error}"),
            },
            Self::Epoll(error) => write!(f, "epoll: {error}"),
            Self::Probe(error) => write!(f, "checking the ring's send path: {error}"),
        }
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Ring(error) | Self::Doorbell(error) | Self::Probe(error) => Some(error),
            Self::Table { error, .. } | Self::Epoll(error) => Some(error),
        }
    }
}
