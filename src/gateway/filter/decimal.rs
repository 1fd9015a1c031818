//! Decimal numbers in text, compared exactly and without limits on their digits.

use std::cmp::Ordering;

/// A number as the digits that matter: no zeros before the integer and after the fraction, and no
/// sign for zero. Equal numbers are equal then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal<'a> {
    negative: bool,
    integer: &'a str,
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    /// An optional sign, digits, and optionally a point and digits. No exponents.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let negative = text.starts_with('-');
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (integer, fraction) = match digits.split_once('.') {
            None => (digits, None),
            Some((integer, fraction)) => (integer, Some(fraction)),
        };
        let is_digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(integer) || !fraction.is_none_or(is_digits) {
            return None;
        }
        let integer = integer.trim_start_matches('0');
        let fraction = fraction.unwrap_or_default().trim_end_matches('0');
        let negative = negative && !(integer.is_empty() && fraction.is_empty());
        Some(Self { negative, integer, fraction })
    }

    fn cmp_size(&self, other: &Self) -> Ordering {
        let by_length = self.integer.len().cmp(&other.integer.len());
        by_length.then(self.integer.cmp(other.integer)).then(self.fraction.cmp(other.fraction))
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.cmp_size(other),
            (true, true) => other.cmp_size(self),
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
        }
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cmp(a: &str, b: &str) -> Ordering {
        Decimal::parse(a).unwrap().cmp(&Decimal::parse(b).unwrap())
    }

    #[test]
    fn numbers_are_compared_exactly() {
        assert_eq!(cmp("10", "9"), Ordering::Greater);
        assert_eq!(cmp("1.10", "1.1"), Ordering::Equal);
        assert_eq!(cmp("007", "+7.0"), Ordering::Equal);
        assert_eq!(cmp("-0.0", "0"), Ordering::Equal);
        assert_eq!(cmp("-2", "-10"), Ordering::Greater);
        assert_eq!(cmp("-1", "0"), Ordering::Less);
        assert_eq!(cmp("0.15", "0.2"), Ordering::Less);
        // One more than doubles can tell apart.
        assert_eq!(cmp("9007199254740993", "9007199254740992"), Ordering::Greater);
    }

    #[test]
    fn what_is_no_number() {
        for text in
            ["", "-", "+", ".", "1.", ".5", "1e3", "1_000", " 1", "--1", "1.2.3", "NaN", "٣"]
        {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    proptest! {
        /// Against integers of thousandths.
        #[test]
        fn the_order_is_that_of_numbers(a in -200_000_i64..200_000, b in -200_000_i64..200_000) {
            let text = |n: i64| {
                let sign = if n < 0 { "-" } else { "" };
                format!("{sign}{}.{:03}", n.abs() / 1000, n.abs() % 1000)
            };
            prop_assert_eq!(cmp(&text(a), &text(b)), a.cmp(&b));
        }
    }
}
