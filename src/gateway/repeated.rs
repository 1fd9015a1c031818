//! Fields that an object names twice: the last one counts, as with most readers of JSON.
//!
//! Serde's derived readers refuse such objects, and are right as fast as they are for the others;
//! so this is for a text that one of them has refused. The invariant: payloads are not looked into.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Reads an object; where it names fields twice, without those before the last.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(text).or_else(|error| match is_repeat(&error) {
        true => serde_json::from_slice(&last_of_each(text).ok_or(error)?),
        false => Err(error),
    })
}

/// Whether a reader has refused a text for this.
pub(crate) fn is_repeat(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("duplicate field")
}

/// The object with the last field of each name. `None` if it is no object.
pub(crate) fn last_of_each(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    write(serde_json::from_slice(text).ok()?, LEVELS, &mut out)?;
    Some(out)
}

fn write(object: Pairs<'_>, levels: usize, out: &mut Vec<u8>) -> Option<()> {
    let last: HashMap<&str, usize> =
        object.0.iter().enumerate().map(|(place, (key, _))| (&**key, place)).collect();
    out.push(b'{');
    let mut first = true;
    for (place, (key, value)) in object.0.iter().enumerate() {
        if last.get(&**key) != Some(&place) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, key).ok()?;
        out.push(b':');
        let value = value.get();
        match levels.checked_sub(1) {
            Some(levels) if value.starts_with('{') && !PAYLOADS.contains(&&**key) => {
                write(serde_json::from_str(value).ok()?, levels, out)?;
            }
            _ => out.extend_from_slice(value.as_bytes()),
        }
    }
    out.push(b'}');
    Some(())
}

/// How deep messages are in messages: a command, its request, a map, an entry, its position.
const LEVELS: usize = 5;

/// Fields that are the application's.
const PAYLOADS: [&str; 5] = ["data", "info", "meta", "params", "tf"];

/// An object as it came.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counts_and_payloads_stay() {
        let text = r#"{"a":1,"b":{"x":1,"x":[2]},"a":"2","data":{"x":1,"x":2},"é":null}"#;
        let last = last_of_each(text.as_bytes()).unwrap();
        let expected = r#"{"b":{"x":[2]},"a":"2","data":{"x":1,"x":2},"é":null}"#;
        assert_eq!(String::from_utf8(last).unwrap(), expected);
        for text in ["", "[]", "{", "1", "{} {}"] {
            assert_eq!(last_of_each(text.as_bytes()), None, "{text}");
        }
    }
}
