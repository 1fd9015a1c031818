//! Durations of something that happened many times.
//!
//! Owns the bounds and the resolution. The invariant: all distributions have the same bounds, so
//! that those of several cores add up.

use hdrhistogram::Histogram;

/// Durations in microseconds, from 1 µs to 100 s, values 6 % apart told from each other. Longer
/// ones are left out.
#[derive(Clone, Debug)]
pub struct Distribution(Histogram<u64>);

impl Distribution {
    /// How many durations it has.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The duration in microseconds that this share of all, from 0 to 1, does not exceed; 0 if
    /// there is none.
    pub fn quantile(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }

    /// The longest in microseconds; 0 if there is none.
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// The mean in microseconds; 0 if there is none.
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// Every value in microseconds that occurred, in order, and how often.
    pub fn steps(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let steps = self.0.iter_recorded();
        steps.map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
    }

    /// Adds another's durations to these.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds, so adding cannot fail.
        let _ = self.0.add(&other.0);
    }

    /// Adds one duration in microseconds.
    pub fn record(&mut self, us: u64) {
        let _ = self.0.record(us);
    }
}

/// One significant digit: 3 KiB. A second digit would be 20 KiB, of which a storm touches all, for
/// each core and for each answer about it.
impl Default for Distribution {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, 100_000_000, 1);
        Self(histogram.unwrap_or_else(|_| unreachable!("constants")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_add_up() {
        let (mut one, mut other) = (Distribution::default(), Distribution::default());
        assert!(one.is_empty() && one.quantile(0.5) == 0);
        one.record(40);
        other.record(40);
        other.record(90_000_000);
        // Beyond the bounds.
        other.record(u64::MAX);
        one.add(&other);
        assert_eq!(one.count(), 3);
        assert!((40..=42).contains(&one.quantile(0.5)));
        assert_eq!(one.steps().map(|(_, count)| count).collect::<Vec<_>>(), [2, 1]);
        assert!(one.max() >= 90_000_000 && one.mean() > 1e6);
    }
}
