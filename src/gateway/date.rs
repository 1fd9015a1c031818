//! The time of day as HTTP has it (RFC 9110 section 5.6.7), made once a second.

use std::fmt::Write as _;

/// The text of a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    second: Option<i64>,
    text: String,
}

impl Date {
    /// The text of a Unix time in seconds.
    pub(super) fn at(&mut self, unix: i64) -> &str {
        if self.second != Some(unix) {
            self.second = Some(unix);
            self.text.clear();
            write(&mut self.text, unix);
        }
        &self.text
    }
}

/// Appends `Sun, 06 Nov 1994 08:49:37 GMT`. Leap seconds are none, as in Unix time.
fn write(out: &mut String, unix: i64) {
    let (days, second) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    // Days since 1 March of the year 0, in eras of 400 years, which are all alike.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let name = MONTHS[month as usize % 12];
    // January and February belong to the year that began in March before.
    let year = year + era * 400 + i64::from(month >= 10);
    let weekday = WEEKDAYS[(days + 4).rem_euclid(7) as usize];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // Writing to a String cannot fail.
    let _ =
        write!(out, "{weekday}, {day:02} {name} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// From March on.
const MONTHS: [&str; 12] =
    ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let mut date = Date::default();
        for (unix, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(date.at(unix), text);
            assert_eq!(date.at(unix), text, "once more");
        }
    }
}
