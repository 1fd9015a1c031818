//! The findings as text for people and JSON for machines.
//!
//! The invariant: the keys of the JSON object are stable: keys are added, never renamed, and a
//! change of meaning raises `version`. tuning/README.md documents them.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::costs;
use super::demand::Demand;
use super::finding::{Finding, Mend, RemedyPlace, Verdict};
use super::words::{bytes, count, plural};

/// What an examination found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of this format: 1.
    version: u32,
    connections: u32,
    profile: &'static str,
    need: Need,
    /// The worst of all.
    pub(crate) verdict: Verdict,
    findings: Vec<Finding>,
}

/// What the connections need.
#[derive(Debug, Serialize)]
struct Need {
    /// Processors that the program counts.
    processors: usize,
    workers: usize,
    /// Direct descriptors of each worker.
    table: u32,
    /// User and kernel together.
    memory_bytes: u64,
    kernel_bytes_per_connection: u64,
    user_bytes_per_connection: u64,
    /// Socket buffers, part of `memory_bytes`.
    buffer_bytes: u64,
    locked_bytes: u64,
}

impl Report {
    pub(crate) fn new(demand: &Demand, findings: Vec<Finding>) -> Self {
        Self {
            version: 1,
            connections: demand.wish.connections,
            profile: demand.wish.profile.name(),
            need: Need {
                processors: demand.processors,
                workers: demand.layout.workers,
                table: demand.layout.table,
                memory_bytes: demand.memory_bytes(),
                kernel_bytes_per_connection: costs::KERNEL_PER_CONNECTION,
                user_bytes_per_connection: demand.wish.user_bytes,
                buffer_bytes: demand.buffer_pages() * costs::PAGE,
                locked_bytes: demand.locked_bytes(),
            },
            verdict: findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok),
            findings,
        }
    }

    /// Whether something must be mended. `strict`: or could be better, or is not known.
    pub(crate) fn fails(&self, strict: bool) -> bool {
        self.verdict == Verdict::FallsShort || (strict && self.verdict != Verdict::Ok)
    }

    /// As text; `colour` for a terminal.
    pub(crate) fn text(&self, colour: bool) -> impl Display + '_ {
        Text { report: self, colour }
    }
}

struct Text<'a> {
    report: &'a Report,
    colour: bool,
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Report { connections, profile, need, findings, .. } = self.report;
        writeln!(
            f,
            "{} connections, profile {profile}: {} with {} slots each on {}, {}\n",
            count(u64::from(*connections)),
            plural(need.workers, "worker", "workers"),
            count(u64::from(need.table)),
            plural(need.processors, "processor", "processors"),
            bytes(need.memory_bytes),
        )?;
        let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for finding in findings {
            self.finding(f, finding, width)?;
        }
        writeln!(f)?;
        self.summary(f)
    }
}

impl Text<'_> {
    fn finding(&self, f: &mut Formatter<'_>, finding: &Finding, width: usize) -> fmt::Result {
        let (word, paint) = match finding.verdict {
            Verdict::Ok => ("ok", "32"),
            Verdict::Unknown => ("unknown", "36"),
            Verdict::CouldBeBetter => ("better", "33"),
            Verdict::FallsShort => ("SHORT", "1;31"),
        };
        let (on, off) = match self.colour {
            true => (format!("\x1b[{paint}m"), "\x1b[0m"),
            false => (String::new(), ""),
        };
        writeln!(f, "{on}{word:8}{off} {:width$}  {}", finding.check, finding.found)?;
        let indent = " ".repeat(9);
        if let Some(needed) = &finding.needed {
            writeln!(f, "{indent}needs: {needed}")?;
        }
        if let Some(consequence) = &finding.consequence {
            wrap(f, &indent, consequence)?;
        }
        for (at, Mend { place, line }) in finding.mend.iter().enumerate() {
            let lead = if at == 0 { "mend: " } else { "or:   " };
            let place = match place {
                RemedyPlace::Sysctl | RemedyPlace::Shell => "",
                RemedyPlace::Systemd => "  (systemd unit, [Service])",
                RemedyPlace::Boot => "  (kernel command line)",
                RemedyPlace::Argument => "  (argument of ringhold)",
                RemedyPlace::Redis => "  (redis-cli; to keep it: redis.conf)",
            };
            writeln!(f, "{indent}{lead} {line}{place}")?;
        }
        Ok(())
    }

    fn summary(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let number = |verdict| {
            self.report.findings.iter().filter(|finding| finding.verdict == verdict).count()
        };
        let parts = [
            (number(Verdict::FallsShort), "must be mended"),
            (number(Verdict::CouldBeBetter), "could be better"),
            (number(Verdict::Unknown), "unknown"),
        ];
        let parts = parts.iter().filter(|(number, _)| *number > 0);
        let parts: Vec<_> = parts.map(|(number, what)| format!("{number} {what}")).collect();
        match parts.is_empty() {
            true => writeln!(f, "all is well"),
            false => writeln!(f, "{}", parts.join(", ")),
        }
    }
}

/// A paragraph in lines of at most [`COLUMNS`].
fn wrap(f: &mut Formatter<'_>, indent: &str, text: &str) -> fmt::Result {
    let mut line = String::from(indent);
    for word in text.split_whitespace() {
        if line.len() > indent.len() && line.len() + word.len() >= COLUMNS {
            writeln!(f, "{}", line.trim_end())?;
            indent.clone_into(&mut line);
        }
        line.push_str(word);
        line.push(' ');
    }
    writeln!(f, "{}", line.trim_end())
}

const COLUMNS: usize = 100;
