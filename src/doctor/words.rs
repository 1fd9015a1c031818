//! Numbers for people.

/// `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `17 bytes`, `4.1 KiB`, `3.8 GiB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} bytes");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A limit, of which the largest number means none.
pub(crate) fn limit(number: u64) -> String {
    if number >= i64::MAX as u64 { "unlimited".to_owned() } else { count(number) }
}

/// `one`, or `several` with the number before it.
pub(crate) fn plural(number: usize, one: &str, several: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{} {several}", count(number as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!((count(0), count(999), count(1000)), ("0".into(), "999".into(), "1,000".into()));
        assert_eq!(count(12_345_678), "12,345,678");
        assert_eq!((bytes(17), bytes(4058)), ("17 bytes".into(), "4.0 KiB".into()));
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(bytes(4_058_000_000), "3.8 GiB");
        assert_eq!((limit(u64::MAX), limit(20_000)), ("unlimited".into(), "20,000".into()));
        assert_eq!((plural(1, "x", "xs"), plural(2, "x", "xs")), ("1 x".into(), "2 xs".into()));
    }
}
