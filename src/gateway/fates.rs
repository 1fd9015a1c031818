//! What becomes of each field of a JSON object that somebody else writes: absent, empty, null,
//! zero, negative, huge, of another kind, named twice. The rows come from the description of the
//! message, so no field is forgotten.

use std::fmt::Debug;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// As if the field were not there.
    Absent,
    /// It is read.
    Taken,
    /// The whole is refused.
    Malformed,
}

/// How a message stands in what is read.
pub(crate) struct Rows<'a> {
    /// Of the message.
    pub(crate) of: MessageDescriptor,
    /// Its fields without which there would be nothing to compare, with their values.
    pub(crate) base: &'a [(&'a str, &'a str)],
    /// What `null` is where any value may stand.
    pub(crate) null_is_a_value: bool,
    /// Fields whose kind in JSON is another than that of the description.
    pub(crate) others: &'a [&'a str],
}

use Fate::{Absent, Malformed, Taken};

/// Values for a field, and what becomes of each.
fn values(field: &FieldDescriptor, null_is_a_value: bool) -> Vec<(String, Fate)> {
    let payload = field.kind() == Kind::Bytes && !field.is_list();
    let null = if payload && null_is_a_value { Taken } else { Absent };
    let integer = |min: &str, max: &str, below: &str, beyond: &str| {
        let fates = [("0", Absent), ("1", Taken), (min, Taken), (max, Taken)];
        let wrong = [below, beyond, "1.5", "1e400", "\"1\"", "true", "[]", "{}"];
        fates.into_iter().chain(wrong.map(|it| (it, Malformed))).map(own).collect()
    };
    let mut all: Vec<(String, Fate)> = match field.kind() {
        _ if field.is_map() => {
            [("{}", Absent), ("{\"k\":null}", Taken), ("1", Malformed)].map(own).into()
        }
        _ if field.is_list() => {
            [("[]", Absent), ("[null]", Taken), ("1", Malformed), ("\"x\"", Malformed)]
                .map(own)
                .into()
        }
        Kind::Bytes => ["0", "\"\"", "{}", "[1, 2]", "-1e400"].map(|it| own((it, Taken))).into(),
        // Good Base64, too.
        Kind::String => {
            [("\"\"", Absent), ("\"AAE=\"", Taken), ("1", Malformed), ("[]", Malformed)]
                .map(own)
                .into()
        }
        Kind::Bool => {
            [("false", Absent), ("true", Taken), ("0", Malformed), ("\"true\"", Malformed)]
                .map(own)
                .into()
        }
        Kind::Int32 => integer("-2147483648", "2147483647", "-2147483649", "2147483648"),
        Kind::Uint32 => integer("4294967294", "4294967295", "-1", "4294967296"),
        Kind::Int64 => integer(
            "-9223372036854775808",
            "9223372036854775807",
            "-9223372036854775809",
            "9223372036854775808",
        ),
        Kind::Uint64 => {
            integer("18446744073709551614", "18446744073709551615", "-1", "18446744073709551616")
        }
        Kind::Message(_) => [("{}", Taken), ("1", Malformed), ("\"x\"", Malformed)].map(own).into(),
        kind => panic!("{kind:?}"),
    };
    all.push(("null".to_owned(), null));
    all
}

fn own((text, fate): (&str, Fate)) -> (String, Fate) {
    (text.to_owned(), fate)
}

fn object<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let fields: Vec<String> = fields.map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// Reads each row with `read`, which is given the message's object; `None`: it is refused as a
/// whole. What is wrong is added to `wrong`. Returns the number of rows.
pub(crate) fn check<T: PartialEq + Debug>(
    rows: &Rows<'_>,
    read: &dyn Fn(&str) -> Option<T>,
    wrong: &mut Vec<String>,
) -> usize {
    let mut count = 0;
    for field in rows.of.fields() {
        if rows.others.contains(&field.name()) {
            continue;
        }
        let name = field.name();
        let with = |values: &[&str]| {
            let rest = rows.base.iter().copied().filter(|(it, _)| *it != name);
            let mut fields: Vec<(&str, &str)> = rest.collect();
            fields.extend(values.iter().map(|value| (name, *value)));
            object(fields.into_iter())
        };
        let without = read(&with(&[]));
        let mut taken: Option<String> = None;
        for (value, fate) in values(&field, rows.null_is_a_value) {
            count += 1;
            let text = with(&[&value]);
            let found = read(&text);
            let fits = match fate {
                Absent => found == without,
                Taken => found.is_some() || without.is_none(),
                Malformed => found.is_none(),
            };
            if !fits {
                wrong.push(format!("{} {text}: {found:?}, which is not {fate:?}", rows.of.name()));
            }
            if fate != Taken {
                continue;
            }
            // Named twice, the last counts.
            if let Some(first) = &taken {
                count += 1;
                let text = with(&[first, &value]);
                let twice = read(&text);
                if twice != found {
                    wrong.push(format!("{} {text}: {twice:?}, not the last", rows.of.name()));
                }
            }
            taken.get_or_insert(value);
        }
        // And so on inside.
        if let Kind::Message(inner) = field.kind()
            && !field.is_map()
            && !field.is_list()
            && inner != rows.of
        {
            let inside = Rows { of: inner, base: &[], others: &[], ..*rows };
            count += check(&inside, &|text| read(&with(&[text])), wrong);
        }
    }
    // What it does not know is no reason to refuse it.
    for unknown in ["1", "null", "{\"a\":[]}"] {
        count += 1;
        let base = || rows.base.iter().copied();
        let text = object(base().chain([("unknown_field", unknown)]));
        if read(&text) != read(&object(base())) {
            wrong.push(format!("{} {text}: the unknown matters", rows.of.name()));
        }
    }
    count
}
