//! What the JSON of the server API and of backend hooks has in common: verbatim payloads, payloads
//! in Base64, and `null` for a field that is not there.
//!
//! A payload leaves here without line breaks. In valid JSON they can only stand between tokens, and
//! one object per line is how the client protocol frames its JSON, so nobody downstream has to look
//! again.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::gateway::repeated;
use crate::gateway::wire::raw::{is_json, one_line};

/// For `#[serde(deserialize_with)]`: the JSON text of a field as it is, `null` included.
pub(crate) fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    payload(<&RawValue>::deserialize(deserializer)?).map(Some)
}

/// For `#[serde(deserialize_with)]`: the JSON text of a field; `null` is as good as absent.
pub(crate) fn raw_or_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Bytes>, D::Error> {
    Option::<&RawValue>::deserialize(deserializer)?.map(payload).transpose()
}

/// For `#[serde(deserialize_with)]`: a value, or `null` for its default.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// As [`nullable`], for a list of texts; `null` in it is an empty one, as Go reads it.
pub(crate) fn nullable_texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    let texts: Vec<Option<String>> = nullable(deserializer)?;
    Ok(texts.into_iter().map(Option::unwrap_or_default).collect())
}

/// The same for texts by name.
pub(crate) fn nullable_labels<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let labels: BTreeMap<String, Option<String>> = nullable(deserializer)?;
    Ok(labels.into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect())
}

/// The payload that a pair of fields `x` and `b64x` carries: Base64 wins if it is not empty.
/// `None` if neither is there; an error if the Base64 is none.
pub(crate) fn either(
    json: Option<Bytes>,
    base64: Option<String>,
) -> Result<Option<Bytes>, base64::DecodeError> {
    match base64 {
        Some(text) if !text.is_empty() || json.is_none() => {
            Ok(Some(Bytes::from(STANDARD.decode(text)?)))
        }
        _ => Ok(json),
    }
}

/// Reads an object. Serde's own way would take an array for the fields in their order.
pub(crate) fn object<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, serde_json::Error> {
    match text.trim_ascii_start().first() {
        None | Some(b'{') => serde_json::from_slice(text),
        Some(_) => Err(serde::de::Error::custom("not an object")),
    }
}

/// As [`object`]; of fields that are named twice the last counts.
pub(crate) fn object_of_last<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    match text.trim_ascii_start().first() {
        None | Some(b'{') => repeated::read(text),
        Some(_) => Err(serde::de::Error::custom("not an object")),
    }
}

/// A payload that need not be JSON; of JSON without its line breaks.
pub(crate) fn one_line_if_json(payload: Bytes) -> Bytes {
    let breaks = payload.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
    if breaks && is_json(&payload) { one_line(&payload) } else { payload }
}

/// A payload in Base64.
pub(crate) fn base64(payload: &[u8]) -> String {
    STANDARD.encode(payload)
}

/// A payload that is JSON text, written into the surrounding JSON as it is. Where it is not JSON,
/// [`Raw::checked`] gives nothing.
pub(crate) struct Raw<'a>(&'a RawValue);

impl<'a> Raw<'a> {
    /// `None` if the payload is empty or no JSON.
    pub(crate) fn checked(payload: &'a [u8]) -> Option<Self> {
        if !is_json(payload) {
            return None;
        }
        serde_json::from_slice(payload).ok().map(Self)
    }
}

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

fn payload<E: serde::de::Error>(value: &RawValue) -> Result<Bytes, E> {
    let text = value.get().as_bytes();
    // It is JSON already, but perhaps nested deeper than clients' parsers go.
    if is_json(text) { Ok(one_line(text)) } else { Err(E::custom("nested too deep")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Both {
        #[serde(default, deserialize_with = "raw")]
        data: Option<Bytes>,
        #[serde(default, deserialize_with = "raw_or_null")]
        info: Option<Bytes>,
        #[serde(default, deserialize_with = "nullable")]
        count: u32,
    }

    fn both(text: &str) -> Both {
        object(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_array_is_no_object() {
        for text in ["[]", " [1, 2, 3]", "null", "1", "", "{"] {
            assert!(object::<Both>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn payloads_are_verbatim_but_for_line_breaks() {
        let found = both("{\"data\": {\"a\":\r\n [1,\n  \"x\\ny\"]}, \"count\": 3}");
        assert_eq!(found.data.unwrap(), "{\"a\": [1,  \"x\\ny\"]}");
        assert_eq!((found.info, found.count), (None, 3));
    }

    #[test]
    fn null_is_a_value_only_where_it_may_be_one() {
        let found = both(r#"{"data":null,"info":null,"count":null}"#);
        assert_eq!(found.data.unwrap(), "null");
        assert_eq!((found.info, found.count), (None, 0));
        assert_eq!(both("{}").data, None);
    }

    #[test]
    fn base64_wins_unless_it_is_empty() {
        let json = || Some(Bytes::from_static(b"1"));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(either(json(), text("AAE=")), Ok(Some(Bytes::from_static(&[0, 1]))));
        assert_eq!(either(json(), text("")), Ok(json()));
        assert_eq!(either(None, text("")), Ok(Some(Bytes::new())));
        assert_eq!(either(json(), None), Ok(json()));
        assert_eq!(either(None, None), Ok(None));
        assert!(either(json(), text("no base64")).is_err());
    }

    #[test]
    fn only_json_is_embedded() {
        assert!(Raw::checked(b"").is_none());
        assert!(Raw::checked(b"{\"a\":}").is_none());
        assert!(Raw::checked(b"1 2").is_none());
        let raw = Raw::checked(b"{\"a\": 1}").unwrap();
        assert_eq!(serde_json::to_string(&raw).unwrap(), "{\"a\": 1}");
    }
}
