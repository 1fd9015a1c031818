//! Numbers of bytes: as such, or with a unit.

use bytesize::ByteSize;

use super::values::described;
use super::{Leaf, Secrets, Value};
use crate::options::Size;

impl Leaf for Size {
    fn parse(value: &Value) -> Result<Self, String> {
        let expected = "must be a size in bytes, as 65536, \"64KiB\" or \"1MiB\"";
        let bytes = match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Text(text) | Value::Raw(text) => {
                text.trim().parse::<ByteSize>().ok().map(|size| size.as_u64())
            }
            _ => None,
        };
        match bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) if i64::try_from(bytes).is_ok() => Ok(Self(bytes)),
            _ => Err(format!("{expected}, not {}", described(value))),
        }
    }

    fn show(&self, _: Secrets) -> toml::Value {
        match self.0 {
            0 => 0.into(),
            bytes if bytes % (1 << 20) == 0 => format!("{}MiB", bytes >> 20).into(),
            bytes if bytes % (1 << 10) == 0 => format!("{}KiB", bytes >> 10).into(),
            bytes => toml::Value::Integer(i64::try_from(bytes).unwrap_or(i64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_numbers_and_units() {
        for (text, bytes) in
            [("65536", 65_536), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("1MB", 1_000_000)]
        {
            assert_eq!(Size::parse(&raw(text)), Ok(Size(bytes)), "{text}");
        }
        assert_eq!(Size::parse(&Value::Integer(7)), Ok(Size(7)));
        for value in [Value::Integer(-1), raw("lots"), raw("-1"), Value::Bool(true)] {
            assert!(Size::parse(&value).is_err(), "{value:?}");
        }
        for bytes in [0, 1, 1024, 65_536, 1 << 20, (1 << 20) + 1] {
            let shown = match Leaf::show(&Size(bytes), Secrets::Plain) {
                toml::Value::String(text) => raw(&text),
                toml::Value::Integer(number) => Value::Integer(number),
                other => panic!("{other}"),
            };
            assert_eq!(Size::parse(&shown), Ok(Size(bytes)));
        }
    }

    fn raw(text: &str) -> Value {
        Value::Raw(text.to_owned())
    }
}
