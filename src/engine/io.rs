//! The way into the kernel: io_uring, or epoll on hosts that refuse it.
//!
//! The invariant: a server decides once, before its first thread starts, so all its cores go the
//! same way and no turn asks again.

use std::fmt;
use std::str::FromStr;

use super::uring::{self, SetupError};

/// How a server reaches the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Io {
    /// io_uring, or epoll where the host refuses io_uring. The environment variable `RINGHOLD_IO`
    /// (`uring` or `epoll`) decides instead where it is set.
    #[default]
    Auto,
    /// io_uring; a host that refuses it is an error at start.
    Uring,
    /// epoll (Linux 2.6.17): one system call for each operation, one descriptor of the process for
    /// each connection.
    Epoll,
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        })
    }
}

impl FromStr for Io {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            _ => Err(format!("{text:?} is none of auto, uring, epoll")),
        }
    }
}

/// What [`Io`] comes to on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Uring,
    Epoll,
}

impl Io {
    /// Decides, and logs a warning where epoll stands in for io_uring.
    pub(super) fn decide(self) -> Result<Way, SetupError> {
        match self.or_environment() {
            Self::Uring => uring::probe().map(|()| Way::Uring),
            Self::Epoll => Ok(Way::Epoll),
            Self::Auto => match uring::probe() {
                Ok(()) => Ok(Way::Uring),
                Err(error) if error.is_refusal() => {
                    tracing::warn!(
                        "epoll instead of io_uring, at more processor time per message: {error}"
                    );
                    Ok(Way::Epoll)
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Whether connections take descriptors of the process on this host, as far as a trial shows.
    pub fn takes_descriptors(self) -> bool {
        match self.or_environment() {
            Self::Uring => false,
            Self::Epoll => true,
            Self::Auto => uring::probe().is_err_and(|error| error.is_refusal()),
        }
    }

    fn or_environment(self) -> Self {
        let wish = || std::env::var("RINGHOLD_IO").ok()?.parse().ok();
        if self == Self::Auto { wish().unwrap_or_default() } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_have_names() {
        for way in [Io::Auto, Io::Uring, Io::Epoll] {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        assert!("kqueue".parse::<Io>().unwrap_err().contains("auto, uring, epoll"));
    }

    #[test]
    fn a_trial_tells_whether_a_ring_can_be_made() {
        let setup = uring::Setup {
            table: 64,
            lanes: 1,
            listener: None,
            user_timeout: std::time::Duration::ZERO,
            doorbell: std::sync::Arc::new(crate::engine::sys::EventFd::new().unwrap()),
        };
        assert_eq!(uring::probe().is_ok(), uring::Uring::new(setup).is_ok());
    }

    #[test]
    fn what_is_asked_for_is_taken() {
        assert_eq!(Io::Epoll.decide().unwrap(), Way::Epoll);
        assert!(Io::Epoll.takes_descriptors() && !Io::Uring.takes_descriptors());
    }
}
