//! The three profiles: what each expects of its connections, and its sysctl file, which is compiled
//! in so that advice and file cannot differ.

use clap::ValueEnum;

/// What the host is tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// The most idle connections per byte of memory
    Density,
    /// The most bytes and messages per second
    Throughput,
    /// Small messages that arrive soon
    Latency,
}

/// What a profile assumes of the connections that hold bytes in the kernel at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// How many of a hundred connections.
    pub(crate) percent: u32,
    /// Pages of socket buffers that each of them holds.
    pub(crate) pages: u64,
}

/// A line of a sysctl file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    /// The comment above the line, as one paragraph.
    pub(crate) reason: String,
}

impl Profile {
    pub(crate) const ALL: [Self; 3] = [Self::Density, Self::Throughput, Self::Latency];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Density => "density",
            Self::Throughput => "throughput",
            Self::Latency => "latency",
        }
    }

    /// Measured in a network namespace, /proc/net/sockstat before and after: an unread message of
    /// up to 1 KiB takes a page, one of 4 KiB takes two; a stalled reader 142,848 bytes with the
    /// profile's `tcp_notsent_lowat` of 128 KiB and 47,616 with 16 KiB. The shares are assumptions,
    /// which `--busy` replaces.
    pub(crate) fn load(self) -> Load {
        match self {
            Self::Density => Load { percent: 10, pages: 2 },
            Self::Throughput => Load { percent: 10, pages: 35 },
            Self::Latency => Load { percent: 10, pages: 12 },
        }
    }

    /// The lines of the profile's file below `tuning/`.
    pub(crate) fn settings(self) -> Vec<Setting> {
        parse(match self {
            Self::Density => include_str!("../../tuning/90-ringhold-density.conf"),
            Self::Throughput => include_str!("../../tuning/90-ringhold-throughput.conf"),
            Self::Latency => include_str!("../../tuning/90-ringhold-latency.conf"),
        })
    }
}

/// Lines `key = value`, each under its comment; a blank line ends a comment.
fn parse(text: &'static str) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut reason: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            reason.push(comment.trim());
        } else if let Some((key, value)) = line.split_once('=') {
            let reason = std::mem::take(&mut reason).join(" ");
            settings.push(Setting { key: key.trim(), value: value.trim(), reason });
        } else {
            reason.clear();
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_a_reason_and_a_cost() {
        for profile in Profile::ALL {
            let settings = profile.settings();
            assert!(settings.len() >= 3, "{profile:?}");
            for Setting { key, value, reason } in settings {
                assert!(reason.len() > 80, "{key}: {reason:?}");
                assert!(reason.contains("Costs"), "{key} does not say what it costs");
                assert!(!value.is_empty());
            }
        }
    }

    #[test]
    fn a_blank_line_ends_a_comment() {
        let settings = parse("# about the file\n\n# why\n# so\na.b = 1 2\nc = 3\n");
        assert_eq!(settings.len(), 2);
        assert_eq!((settings[0].key, settings[0].value), ("a.b", "1 2"));
        assert_eq!(settings[0].reason, "why so");
        assert_eq!(settings[1].reason, "");
    }
}
