//! How single fields of JSON requests are read, where serde's own way is not the protocol's.

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::raw;

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
