//! The text of JSON values that nobody here looks into: payloads.
//!
//! Owns what may be embedded in a JSON message: one value, no line breaks, not too deep. Line
//! breaks separate messages, and events of server-sent streams.

use bytes::Bytes;
use serde::de::IgnoredAny;

/// The deepest nesting of arrays and objects, as in Go's `encoding/json` and so in Centrifugo.
/// Nothing here recurses per level.
pub const DEPTH_MAX: usize = 10_000;

/// Whether this is exactly one JSON value in UTF-8, not nested deeper than [`DEPTH_MAX`], with
/// nothing but whitespace around it. Takes time in proportion to the length; never recurses.
pub fn is_json(value: &[u8]) -> bool {
    simdutf8::basic::from_utf8(value).is_ok()
        && serde_json::from_slice::<IgnoredAny>(value).is_ok()
        && is_shallow(value)
}

/// Whether a valid value is nested at most [`DEPTH_MAX`] deep.
pub(super) fn is_shallow(value: &[u8]) -> bool {
    let opens = |byte: &u8| matches!(byte, b'{' | b'[');
    // Hardly any payload has that many brackets at all, and counting them is much cheaper.
    value.len() <= 2 * DEPTH_MAX
        || value.iter().filter(|byte| opens(byte)).count() <= DEPTH_MAX
        || depth(value) <= DEPTH_MAX
}

/// How deep a valid value is nested.
fn depth(value: &[u8]) -> usize {
    let (mut now, mut deepest, mut in_string) = (0_usize, 0, false);
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // Whatever is escaped, it does not end the string.
            b'\\' => {
                bytes.next();
            }
            b'{' | b'[' if !in_string => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether a valid value can be embedded as it is.
pub(super) fn is_one_line(value: &[u8]) -> bool {
    memchr::memchr2(b'\n', b'\r', value).is_none()
}

/// A valid value without line breaks. Within strings JSON has them escaped only, so those that
/// there are stand between tokens and mean nothing.
pub fn one_line(value: &[u8]) -> Bytes {
    if is_one_line(value) {
        return Bytes::copy_from_slice(value);
    }
    value.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect()
}
