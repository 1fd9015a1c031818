//! Durations as text: as Go writes them (`1h30m`, `1.5s`, `0`), and with words as people do
//! (`2 days`).

use std::time::Duration;

/// Reads one that is not negative.
pub(super) fn parse(text: &str) -> Result<Duration, humantime::DurationError> {
    match go(text) {
        Some(duration) => Ok(duration),
        None => humantime::parse_duration(text),
    }
}

/// Numbers, with a fraction or without, each with its unit; `None`: it is something else.
fn go(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (unit, after) = UNITS.iter().find_map(|(name, unit)| {
            let after = after.strip_prefix(name)?;
            let ends = after.starts_with(|c: char| c.is_ascii_digit() || c == '.');
            (after.is_empty() || ends).then_some((*unit, after))
        })?;
        nanos = nanos.checked_add(scaled(number, unit)?)?;
        rest = after;
    }
    let (seconds, nanos) = (nanos / SECOND, nanos % SECOND);
    (!text.is_empty()).then_some(())?;
    Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?))
}

/// `1.5` of a unit, in nanoseconds; what is less than one is cut off.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Digits beyond a nanosecond of an hour say nothing.
    let fraction = &fraction[..fraction.len().min(DIGITS)];
    let parts = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let part = parts * unit / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(unit)?.checked_add(part)
}

const SECOND: u128 = 1_000_000_000;
const DIGITS: usize = 18;

/// Those of Go in nanoseconds; the micro sign has two codes.
const UNITS: &[(&str, u128)] = &[
    ("ns", 1),
    ("us", 1000),
    ("\u{b5}s", 1000),
    ("\u{3bc}s", 1000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("+5s", 5000),
            ("1.5s", 1500),
            (".5s", 500),
            ("5.s", 5000),
            ("1h30m", 5_400_000),
            ("1h0.5m100ms", 3_630_100),
            ("1000\u{b5}s", 1),
            ("1000\u{3bc}s", 1),
            ("0.000000000000000000000000000001h", 0),
            ("720h", 720 * 3_600_000),
            // Words of people, which Go has not.
            ("2 days", 2 * 86_400_000),
            ("1h 5min", 3_900_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let many = format!("{}h", "9".repeat(60));
        for text in ["", ".", "s", ".s", "1", "1.2.3s", "1x", "1s2", "5 s x", &many] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
