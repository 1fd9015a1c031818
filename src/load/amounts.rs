//! Amounts that are told apart: by reason, or by how long something took.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// Reasons with their number. What peers say is bounded in kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reasons(pub(crate) BTreeMap<String, u64>);

impl Reasons {
    /// One more for this reason.
    pub(crate) fn count(&mut self, reason: &str) {
        self.count_many(reason, 1);
    }

    fn count_many(&mut self, reason: &str, count: u64) {
        let full = self.0.len() >= REASONS_MAX && !self.0.contains_key(reason);
        let name = if full { "other reasons" } else { reason };
        *self.0.entry(name.to_owned()).or_default() += count;
    }

    /// All together.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (reason, count) in &other.0 {
            self.count_many(reason, *count);
        }
    }
}

/// 1 ns to 100 s with three significant digits: 0.2 MiB.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).unwrap_or_else(|_| unreachable!("constants"))
}

/// Different reasons that are told apart.
const REASONS_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bounded() {
        let mut reasons = Reasons::default();
        for n in 0..1000 {
            reasons.count(&format!("reason {n}"));
        }
        assert_eq!((reasons.total(), reasons.0.len()), (1000, REASONS_MAX + 1));
    }
}
