//! What a configuration needs besides the host: the Redis or NATS that it names.

use ringhold::broker::inspect::{Grade, Remark};

use super::finding::{Finding, RemedyPlace, Verdict};

/// A remark about a server as a finding.
pub(crate) fn finding(remark: Remark) -> Finding {
    let Remark { check, grade, found, consequence, mend } = remark;
    let verdict = match grade {
        Grade::Fine => Verdict::Ok,
        Grade::Unknown => Verdict::Unknown,
        Grade::Better => Verdict::CouldBeBetter,
        Grade::Short => Verdict::FallsShort,
    };
    let mut finding = Finding::new(check, verdict, found);
    if let Some(consequence) = consequence {
        finding = finding.because(consequence);
    }
    match mend {
        Some(line) => finding.mend(RemedyPlace::Redis, line),
        None => finding,
    }
}
