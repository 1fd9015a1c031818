//! What a check found: one verdict, in words, with the lines that mend it.

use serde::Serialize;

use super::tree::Unknown;

/// How well the host is prepared, in one respect; ordered from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Enough.
    Ok,
    /// Could not be read.
    Unknown,
    /// It works, at a price.
    CouldBeBetter,
    /// The connections do not fit, or not reliably.
    FallsShort,
}

/// Where a line that mends something belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RemedyPlace {
    /// Run it as root; to keep it, write `key = value` below /etc/sysctl.d.
    Sysctl,
    /// Run it as root; it holds until the next start of the host.
    Shell,
    /// The `[Service]` section of the systemd unit.
    Systemd,
    /// The kernel's command line, at the next start of the host.
    Boot,
    /// An argument of ringhold.
    Argument,
    /// `redis-cli`; to keep it, the configuration of Redis.
    Redis,
}

/// A line that mends what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Mend {
    pub(crate) place: RemedyPlace,
    pub(crate) line: String,
}

/// The answer of one check. Its keys are those of the JSON report and stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Stable name of the check; of a profile's setting, its sysctl key.
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    /// What the host has.
    pub(crate) found: String,
    /// What the connections need.
    pub(crate) needed: Option<String>,
    /// What follows if nothing is done, or what mending costs.
    pub(crate) consequence: Option<String>,
    /// Each of them alone is enough.
    pub(crate) mend: Vec<Mend>,
}

impl Finding {
    pub(super) fn new(check: &'static str, verdict: Verdict, found: String) -> Self {
        Self { check, verdict, found, needed: None, consequence: None, mend: Vec::new() }
    }

    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, found.into())
    }

    pub(crate) fn better(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::CouldBeBetter, found.into())
    }

    pub(crate) fn short(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::FallsShort, found.into())
    }

    pub(crate) fn unknown(check: &'static str, why: &Unknown) -> Self {
        Self::new(check, Verdict::Unknown, why.to_string())
    }

    pub(crate) fn needs(mut self, text: impl Into<String>) -> Self {
        self.needed = Some(text.into());
        self
    }

    pub(crate) fn because(mut self, text: impl Into<String>) -> Self {
        self.consequence = Some(text.into());
        self
    }

    pub(crate) fn mend(mut self, place: RemedyPlace, line: impl Into<String>) -> Self {
        self.mend.push(Mend { place, line: line.into() });
        self
    }

    /// `sysctl -w key=value`, quoted where the value has blanks.
    pub(crate) fn sysctl(self, key: &str, value: impl std::fmt::Display) -> Self {
        let value = value.to_string();
        let quote = if value.contains(' ') { "'" } else { "" };
        self.mend(RemedyPlace::Sysctl, format!("sysctl -w {quote}{key}={value}{quote}"))
    }
}
