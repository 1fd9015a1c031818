//! The types of single values: how each is written in a file or a variable, and what is said when
//! it is not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::field::{Leaf, Secrets};
use super::node::{Location, Node, Value};
use crate::options::{MASK, Secret, without_credentials};
use crate::protocol::Network;

impl Leaf for bool {
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(value) => Ok(*value),
            Value::Integer(0) => Ok(false),
            Value::Integer(1) => Ok(true),
            Value::Raw(text) | Value::Text(text) => match text.trim() {
                "true" | "True" | "TRUE" | "t" | "T" | "1" => Ok(true),
                "false" | "False" | "FALSE" | "f" | "F" | "0" => Ok(false),
                _ => Err(format!("must be true or false, not \"{text}\"")),
            },
            other => Err(format!("must be true or false, not {}", described(other))),
        }
    }

    fn show(&self, _: Secrets) -> toml::Value {
        (*self).into()
    }
}

macro_rules! integers {
    ($($type:ty)*) => { $(
        impl Leaf for $type {
            fn parse(value: &Value) -> Result<Self, String> {
                let range = || {
                    let (least, most) = (i128::from(i64::MIN), i128::from(i64::MAX));
                    let least = i128::try_from(<$type>::MIN).unwrap_or(least).max(least);
                    let most = i128::try_from(<$type>::MAX).unwrap_or(most).min(most);
                    format!("must be an integer from {least} to {most}")
                };
                match value {
                    Value::Integer(number) => {
                        Self::try_from(*number).map_err(|_| format!("{}, not {number}", range()))
                    }
                    // Centrifugo writes some of its numbers as text, where nothing is none.
                    Value::Text(text) if text.is_empty() => Ok(0),
                    Value::Raw(text) | Value::Text(text) => {
                        text.trim().parse().map_err(|_| format!("{}, not \"{text}\"", range()))
                    }
                    other => Err(format!("{}, not {}", range(), described(other))),
                }
            }

            fn show(&self, _: Secrets) -> toml::Value {
                toml::Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )* };
}

integers!(u8 u16 u32 usize i64);

impl Leaf for String {
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Raw(text) => Ok(text.clone()),
            Value::Integer(number) => Ok(number.to_string()),
            other => Err(format!("must be text in quotes, not {}", described(other))),
        }
    }

    fn show(&self, secrets: Secrets) -> toml::Value {
        match secrets {
            Secrets::Plain => self.as_str().into(),
            Secrets::Masked => without_credentials(self).into(),
        }
    }
}

impl Leaf for Secret {
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Raw(text) => Ok(Self::new(text.clone())),
            Value::Integer(number) => Ok(Self::new(number.to_string())),
            // The value may be a secret that lost its quotes: it is not repeated.
            other => Err(format!("must be text in quotes, not {}", other.kind())),
        }
    }

    fn show(&self, secrets: Secrets) -> toml::Value {
        match secrets {
            Secrets::Masked if !self.is_empty() => MASK.into(),
            _ => self.reveal().into(),
        }
    }
}

impl Leaf for Duration {
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Raw(text) => {
                let text = text.trim();
                if text.starts_with('-') {
                    return Err(format!("{text} is negative; 0s switches off what can be off"));
                }
                let duration = super::duration::parse(text).map_err(|error| {
                    format!("is no duration ({error}): write 25s, 100ms, 1h30m, not \"{text}\"")
                })?;
                match duration <= LONGEST {
                    true => Ok(duration),
                    false => Err(format!("must be at most 876000h, not \"{text}\"")),
                }
            }
            Value::Integer(0) => Ok(Self::ZERO),
            // As Go counts them. Fewer were meant otherwise.
            Value::Integer(nanos @ MILLISECOND..) => {
                Ok(Self::from_nanos(nanos.unsigned_abs()).min(LONGEST))
            }
            Value::Integer(number) if *number < 0 => {
                Err(format!("{number} is negative; 0s switches off what can be off"))
            }
            other => Err(format!(
                "must be a duration with its unit, as \"25s\", \"100ms\" or \"1h30m\", not {}",
                described(other)
            )),
        }
    }

    fn show(&self, _: Secrets) -> toml::Value {
        written(*self).into()
    }
}

impl Leaf for IpAddr {
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Raw(text) => match text.trim() {
                "" => Ok(Self::V4(Ipv4Addr::UNSPECIFIED)),
                "localhost" => Ok(Self::V4(Ipv4Addr::LOCALHOST)),
                text => text.parse().map_err(|_| {
                    format!(
                        "must be an address as \"127.0.0.1\" or \"::\", without port, \
                         not \"{text}\""
                    )
                }),
            },
            other => Err(format!("must be an address in quotes, not {}", described(other))),
        }
    }

    fn show(&self, _: Secrets) -> toml::Value {
        self.to_string().into()
    }
}

/// Makes lists of a value a value: as text separated by spaces, or a JSON list.
macro_rules! lists {
    ($($item:ty)*) => { $(
        impl $crate::config::schema::Leaf for Vec<$item> {
            fn parse(value: &$crate::config::schema::Value) -> Result<Self, String> {
                use $crate::config::schema::Leaf;
                $crate::config::schema::values::list(value, <$item as Leaf>::parse)
            }

            fn mistakes(
                node: &$crate::config::schema::Node,
                what: String,
            ) -> Vec<($crate::config::schema::Location, String)> {
                use $crate::config::schema::Leaf;
                $crate::config::schema::values::mistakes_of(node, what, <$item as Leaf>::parse)
            }

            fn show(&self, secrets: $crate::config::schema::Secrets) -> toml::Value {
                let items = self.iter();
                toml::Value::Array(
                    items.map(|it| $crate::config::schema::Leaf::show(it, secrets)).collect(),
                )
            }
        }
    )* };
}

pub(crate) use lists;

lists!(String Network);

impl Leaf for Network {
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Raw(text) => {
                text.trim().parse().map_err(|error| format!("{error}"))
            }
            other => Err(format!("must be an address in quotes, not {}", described(other))),
        }
    }

    fn show(&self, _: Secrets) -> toml::Value {
        self.to_string().into()
    }
}

impl Leaf for BTreeMap<String, String> {
    /// As text: a JSON object.
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Table(entries) => {
                let pair = |entry: &super::Entry| match String::parse(&entry.node.value) {
                    Ok(text) => Ok((entry.key.clone(), text)),
                    Err(what) => Err(format!("{}: {what}", entry.key)),
                };
                entries.iter().map(pair).collect()
            }
            Value::Raw(text) => serde_json::from_str(text)
                .map_err(|error| format!("must be a JSON object of text: {error}")),
            other => Err(format!("must be a table of text, not {}", described(other))),
        }
    }

    fn show(&self, secrets: Secrets) -> toml::Value {
        // Values are often credentials.
        let text = |text: &String| match secrets {
            Secrets::Plain => text.clone(),
            Secrets::Masked => MASK.to_owned(),
        };
        toml::Value::Table(
            self.iter().map(|(key, value)| (key.clone(), text(value).into())).collect(),
        )
    }
}

pub(crate) fn list<T>(
    value: &Value,
    item: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match value {
        Value::List(nodes) => nodes.iter().map(|node| item(&node.value)).collect(),
        Value::Raw(text) if text.trim_start().starts_with('[') => {
            let items: Vec<String> = serde_json::from_str(text)
                .map_err(|error| format!("must be a JSON list of text: {error}"))?;
            items.into_iter().map(|text| item(&Value::Raw(text))).collect()
        }
        Value::Raw(text) => {
            text.split_whitespace().map(|word| item(&Value::Raw(word.to_owned()))).collect()
        }
        // One that is alone needs no brackets for Centrifugo.
        Value::Text(text) if !text.is_empty() => Ok(vec![item(value)?]),
        Value::Text(_) => Ok(Vec::new()),
        other => Err(format!("must be a list as [\"a\", \"b\"], not {}", described(other))),
    }
}

/// Every item that is wrong, where it is a list of its own lines; else `what` is wrong with it.
pub(crate) fn mistakes_of<T>(
    node: &Node,
    what: String,
    item: impl Fn(&Value) -> Result<T, String>,
) -> Vec<(Location, String)> {
    let Value::List(nodes) = &node.value else { return vec![(node.place.clone(), what)] };
    let wrong = |node: &Node| item(&node.value).err().map(|what| (node.place.clone(), what));
    nodes.iter().filter_map(wrong).collect()
}

/// Short values are repeated to the person who wrote them.
pub(crate) fn described(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Text(text) | Value::Raw(text) => format!("\"{}\"", without_credentials(text)),
        other => other.kind().to_owned(),
    }
}

/// A duration as Go and humantime both read it.
pub(crate) fn written(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".to_owned();
    }
    let seconds = duration.as_secs();
    let nanos = duration.subsec_nanos();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(nanos / 1_000_000), "ms"),
        (u64::from(nanos / 1000 % 1000), "us"),
        (u64::from(nanos % 1000), "ns"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, unit)| format!("{count}{unit}")).collect()
}

/// Declares a value that is one of several words; the first word of each is how it is shown.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$doc:meta])* $variant:ident = $word:literal $(| $other:literal)*, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $( $(#[$doc])* $variant, )+
        }

        $crate::config::schema::words! {
            $name { $( $variant = $word $(| $other)*, )+ }
        }
    };
}

/// Gives the words of a value that a lower layer owns.
macro_rules! words {
    ($name:ident { $( $variant:ident = $word:literal $(| $other:literal)*, )+ }) => {
        impl $crate::config::schema::Leaf for $name {
            fn parse(value: &$crate::config::schema::Value) -> Result<Self, String> {
                use $crate::config::schema::Value;
                match value {
                    Value::Text(text) | Value::Raw(text) => match text.as_str() {
                        $( $word $(| $other)* => Ok(Self::$variant), )+
                        text => Err($crate::config::schema::values::no_choice(
                            text,
                            &[$( $word, )+],
                        )),
                    },
                    other => Err(format!("must be text in quotes, not {}", other.kind())),
                }
            }

            fn show(&self, _: $crate::config::schema::Secrets) -> toml::Value {
                match self {
                    $( Self::$variant => $word.into(), )+
                }
            }
        }
    };
}

pub(crate) use {choice, words};

/// What is said of a word that is none of those.
pub(crate) fn no_choice(text: &str, words: &[&str]) -> String {
    let known: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match known.as_slice() {
        [only] => format!("\"{text}\" is not supported; only {only} is"),
        _ => format!("must be one of {}, not \"{text}\"", known.join(", ")),
    }
}

/// In nanoseconds.
const MILLISECOND: i64 = 1_000_000;

/// No duration is longer: a hundred years, which any clock can be added to.
pub const LONGEST: Duration = Duration::from_secs(876_000 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Value {
        Value::Raw(text.to_owned())
    }

    #[test]
    fn durations_read_humantime_and_go() {
        let cases = [
            ("25s", 25_000),
            ("1h30m", 5_400_000),
            ("720h", 2_592_000_000),
            ("1.5h", 5_400_000),
            ("1000ms", 1000),
            ("1m 30s", 90_000),
            ("0s", 0),
            ("0", 0),
        ];
        for (text, millis) in cases {
            assert_eq!(Duration::parse(&raw(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(Duration::parse(&raw("876000h")), Ok(LONGEST));
        assert!(Duration::parse(&raw("876000h 1ns")).unwrap_err().contains("at most"));
        for text in ["", "25", "-1s", "-1", "5 parsecs", "s", "99999999999999999999s"] {
            assert!(Duration::parse(&raw(text)).is_err(), "{text}");
        }
        assert!(Duration::parse(&Value::Integer(25)).unwrap_err().contains("with its unit"));
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for millis in [0, 1, 999, 1000, 90_000, 5_400_000, 2_592_000_001] {
            let duration = Duration::from_millis(millis);
            assert_eq!(Duration::parse(&raw(&written(duration))), Ok(duration));
        }
        assert_eq!(written(Duration::from_secs(720 * 3600)), "720h");
        assert_eq!(written(Duration::from_secs(90)), "1m30s");
    }

    #[test]
    fn integers_keep_to_their_range() {
        assert_eq!(u16::parse(&Value::Integer(65_535)), Ok(65_535));
        let error = u16::parse(&Value::Integer(65_536)).unwrap_err();
        assert_eq!(error, "must be an integer from 0 to 65535, not 65536");
        assert_eq!(u16::parse(&Value::Text("9000".to_owned())), Ok(9000));
        assert!(u32::parse(&raw("-1")).is_err());
        assert!(usize::parse(&Value::Float(1.5)).unwrap_err().contains("1.5"));
    }

    #[test]
    fn lists_read_words_and_json() {
        let list = |text| Vec::<String>::parse(&raw(text)).unwrap();
        assert_eq!(list("a  b"), ["a", "b"]);
        assert_eq!(list("[\"a b\", \"c\"]"), ["a b", "c"]);
        assert!(list("").is_empty());
    }

    /// Values that Centrifugo takes for another type, without a loss.
    #[test]
    fn types_are_as_loose_as_centrifugos() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (value, on) in [("true", true), ("1", true), ("False", false), ("0", false)] {
            assert_eq!(bool::parse(&text(value)), Ok(on), "{value}");
        }
        assert_eq!(bool::parse(&Value::Integer(1)), Ok(true));
        assert!(bool::parse(&Value::Integer(2)).is_err() && bool::parse(&text("yes")).is_err());
        assert_eq!(String::parse(&Value::Integer(42)), Ok("42".to_owned()));
        assert_eq!(u16::parse(&text("")), Ok(0));
        assert!(u16::parse(&raw("")).is_err());
        assert_eq!(Vec::<String>::parse(&text("*")), Ok(vec!["*".to_owned()]));
        let nanos = Value::Integer(25_000_000_000);
        assert_eq!(Duration::parse(&nanos), Ok(Duration::from_secs(25)));
        assert!(Duration::parse(&Value::Integer(999_999)).is_err());
    }

    #[test]
    fn addresses_have_no_port() {
        assert_eq!(IpAddr::parse(&raw("")), Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        assert!(IpAddr::parse(&raw("::1")).is_ok());
        assert!(IpAddr::parse(&raw("127.0.0.1:80")).unwrap_err().contains("without port"));
    }

    #[test]
    fn credentials_in_urls_are_not_printed() {
        for (text, shown) in [
            ("http://user:hush@host:1/path", "http://********@host:1/path"),
            ("https://hush@host", "https://********@host"),
            ("http://user:hu/sh@host/", "http://********@host/"),
            ("https://host/path?key=hush&b=1", "https://host/path?********"),
            ("https://u:hush@host/?key=hush", "https://********@host/?********"),
            ("https://host/path", "https://host/path"),
            ("https://host/path?", "https://host/path?"),
            ("^https://a?.example=(.*)$", "^https://a?.example=(.*)$"),
            ("https://a(b)?=(.*)", "https://a(b)?=(.*)"),
            ("no@url", "no@url"),
        ] {
            assert_eq!(Leaf::show(&text.to_owned(), Secrets::Masked).as_str(), Some(shown));
            assert_eq!(Leaf::show(&text.to_owned(), Secrets::Plain).as_str(), Some(text));
        }
    }

    #[test]
    fn secrets_are_never_printed() {
        let secret = Secret::new("hush");
        assert!(!format!("{secret:?}").contains("hush"));
        assert!(!Leaf::show(&secret, Secrets::Masked).to_string().contains("hush"));
        assert!(Leaf::show(&secret, Secrets::Plain).to_string().contains("hush"));
        assert_eq!(Secret::parse(&Value::Integer(12_345)), Ok(Secret::new("12345")));
        let unquoted = Secret::parse(&Value::Float(123.5)).unwrap_err();
        assert!(!unquoted.contains("123"));
    }
}
