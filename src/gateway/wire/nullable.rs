//! How single fields of JSON requests are read, where serde's own way is not the protocol's.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{ENTRIES_MAX, raw};

/// `null` is as good as absent.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Text that is told as a string, kept as bytes.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    or_default::<D, String>(deserializer).map(Bytes::from)
}

/// A raw field: the text of its value as it came, on one line. Here `null` is a value like any
/// other, as it is in Centrifugo: a client may publish it.
pub(super) fn verbatim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let value = <&RawValue>::deserialize(deserializer)?.get().as_bytes();
    if !raw::is_shallow(value) {
        return Err(D::Error::custom("nested too deep"));
    }
    Ok(raw::one_line(value))
}

/// As [`verbatim`]; `null` is as good as absent.
pub(super) fn verbatim_or_null<'de, D>(deserializer: D) -> Result<Option<Bytes>, D::Error>
where
    D: Deserializer<'de>,
{
    let bytes = verbatim(deserializer)?;
    Ok(Some(bytes).filter(|bytes| &**bytes != b"null"))
}

/// A map of at most [`ENTRIES_MAX`] entries, whose number is looked at while they come: each takes
/// many times its text. `null` is as good as absent, and for one of them as good as empty.
pub(super) fn few<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    struct Few<T>(PhantomData<T>);

    impl<'de, T: Default + Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = BTreeMap<String, T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object with at most {ENTRIES_MAX} entries")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while let Some(key) = map.next_key()? {
                if entries.len() == ENTRIES_MAX {
                    return Err(A::Error::invalid_length(ENTRIES_MAX + 1, &self));
                }
                let value: Option<T> = map.next_value()?;
                entries.insert(key, value.unwrap_or_default());
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_any(Few(PhantomData))
}
