//! Whether a numbered message comes as it should, again, after a later one, or not at all.
//!
//! The invariant: each number that came counts once as new, however often and in whatever order it
//! comes, as long as no more than `GAPS_MAX` gaps are open.

use std::ops::RangeInclusive;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Beyond all that came before.
    New,
    /// After a later one.
    Late,
    /// It was here before.
    Again,
}

/// The numbers that a receiver has skipped, by sender.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gaps(Vec<(u32, RangeInclusive<u32>)>);

impl Gaps {
    /// A message of a sender, of whom `last` is the highest number that came.
    pub(crate) fn arrive(&mut self, from: u32, last: &mut u32, number: u32) -> Arrival {
        if number > *last {
            if number - *last > 1 {
                if self.0.len() == GAPS_MAX {
                    self.0.remove(0);
                }
                self.0.push((from, *last + 1..=number - 1));
            }
            *last = number;
            return Arrival::New;
        }
        let holds =
            |(whose, gap): &(u32, RangeInclusive<u32>)| *whose == from && gap.contains(&number);
        let Some(at) = self.0.iter().position(holds) else { return Arrival::Again };
        let (_, gap) = self.0.remove(at);
        let parts = [(*gap.start(), number - 1), (number + 1, *gap.end())];
        for (first, last) in parts.into_iter().filter(|(first, last)| first <= last) {
            self.0.insert(at, (from, first..=last));
        }
        Arrival::Late
    }

    /// Numbers that are skipped, and that are no more waited for.
    pub(crate) fn close(&mut self) -> u64 {
        let gaps = self.0.drain(..);
        gaps.map(|(_, gap)| u64::from(gap.end() - gap.start()) + 1).sum()
    }
}

/// Gaps of one receiver that are remembered; what comes late of an older one counts as come again.
const GAPS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::Arrival::{Again, Late, New};
    use super::*;

    #[test]
    fn each_number_is_new_once() {
        let (mut gaps, mut last) = (Gaps::default(), 0);
        for (number, expected) in [
            (1, New),
            (1, Again),
            (2, New),
            (7, New),
            (1, Again),
            (5, Late),
            (5, Again),
            (3, Late),
            (4, Late),
            (7, Again),
            (6, Late),
            (6, Again),
            (3, Again),
            (8, New),
        ] {
            assert_eq!(gaps.arrive(0, &mut last, number), expected, "{number}");
        }
        assert_eq!(gaps.close(), 0);
    }

    #[test]
    fn senders_are_told_apart_and_what_is_missing_is_known() {
        let (mut gaps, mut one, mut two) = (Gaps::default(), 0, 0);
        assert_eq!(gaps.arrive(1, &mut one, 4), New);
        assert_eq!(gaps.arrive(2, &mut two, 1), New);
        assert_eq!(gaps.arrive(2, &mut two, 1), Again);
        assert_eq!(gaps.arrive(1, &mut one, 2), Late);
        assert_eq!(gaps.close(), 2);
        assert_eq!(gaps.arrive(1, &mut one, 1), Again);
    }

    #[test]
    fn gaps_are_bounded() {
        let (mut gaps, mut last) = (Gaps::default(), 0);
        for number in (2..=4 * GAPS_MAX as u32).step_by(2) {
            assert_eq!(gaps.arrive(0, &mut last, number), New);
        }
        assert_eq!(gaps.0.len(), GAPS_MAX);
        assert_eq!(gaps.arrive(0, &mut last, 1), Again);
        assert_eq!(gaps.arrive(0, &mut last, 4 * GAPS_MAX as u32 - 1), Late);
    }
}
