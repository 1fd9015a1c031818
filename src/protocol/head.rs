//! HTTP/1.1 heads: where they end, and the small grammar that both halves of the handshake share.
//!
//! Owns the search for the empty line that ends a head, the rules for tokens and comma lists (RFC
//! 9110 section 5.6) and the key digest (RFC 6455 section 1.3). Never parses header lines: httparse
//! does. The invariant: each byte of a head is searched once, however many reads it comes in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// Why the search for the end of a head was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// A byte that no HTTP head contains.
    Byte,
    /// The head is longer than allowed.
    TooLong,
}

/// Finds the end of the head that starts at `bytes[start]`: the position behind its empty line,
/// which must be at most `max`. `scanned` is where an earlier call with fewer bytes stopped.
pub(super) fn find_end(
    bytes: &[u8],
    start: usize,
    scanned: &mut usize,
    max: usize,
) -> Result<Option<usize>, Bad> {
    let limit = bytes.len().min(max);
    for at in start.max(*scanned)..limit {
        let byte = bytes[at];
        if byte == b'\n' {
            // An empty line, as httparse reads it: the CR is optional at either line end.
            let line = &bytes[start..at];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.last() == Some(&b'\n') {
                return Ok(Some(at + 1));
            }
        } else if byte < b' ' && byte != b'\r' && byte != b'\t' || byte == 0x7f {
            // httparse would refuse it, too, but only when the head is complete.
            return Err(Bad::Byte);
        }
    }
    *scanned = limit.max(*scanned);
    if limit == max { Err(Bad::TooLong) } else { Ok(None) }
}

/// Whether `byte` may be part of a token, such as a header name (RFC 9110 section 5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `text` is a token: one or more token bytes.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// The elements of a comma list, blanks around them removed, empty ones skipped. Values that are
/// not UTF-8 are an empty list.
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &str> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    text.split(',').map(trim).filter(|element| !element.is_empty())
}

/// Removes the blanks of HTTP: space and tab (RFC 9110 section 5.6.3).
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Appends a header line, unless its name is no token or its value has control bytes: they could
/// end the line and start another (response splitting).
pub(super) fn write_line(out: &mut Vec<u8>, name: &str, value: &str) {
    let plain = |byte: u8| byte == b'\t' || byte >= b' ' && byte != 0x7f;
    if !is_token(name) || !value.bytes().all(plain) {
        return;
    }
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2).
pub(super) fn accept(key: &[u8]) -> [u8; 28] {
    let mut sha1 = Sha1::new();
    sha1.update(key);
    sha1.update(GUID);
    let mut out = [0; 28];
    encode(&sha1.finalize(), &mut out);
    out
}

/// The value of `Sec-WebSocket-Key` for 16 random bytes (RFC 6455 section 4.1).
pub(super) fn encode_key(key: &[u8; 16]) -> [u8; 24] {
    let mut out = [0; 24];
    encode(key, &mut out);
    out
}

/// Encodes `bytes` as base64, whose length is that of `out`.
fn encode(bytes: &[u8], out: &mut [u8]) {
    let written = STANDARD.encode_slice(bytes, out);
    debug_assert!(written.is_ok(), "the callers' arrays have the length of the encoding");
}

/// What is appended to a key before it is hashed (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 6455 section 1.3.
        assert_eq!(&accept(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(&encode_key(b"the sample nonce"), b"dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn ends_are_found_at_every_cut() {
        let heads: [&[u8]; 4] = [b"a\r\nb\r\n\r\n", b"a\nb\n\n", b"a\r\n\n", b"a\n\r\n"];
        for head in heads {
            let bytes = [head, b"body\x00\r\n\r\n"].concat();
            assert_eq!(find_end(&bytes, 0, &mut 0, 100), Ok(Some(head.len())));
            let mut scanned = 0;
            for n in 0..head.len() {
                assert_eq!(find_end(&bytes[..n], 0, &mut scanned, 100), Ok(None));
                assert_eq!(scanned, n);
            }
            assert_eq!(find_end(&bytes, 0, &mut scanned, 100), Ok(Some(head.len())));
        }
    }

    #[test]
    fn limits_and_bytes() {
        let head = b"abc\r\n\r\n";
        assert_eq!(find_end(head, 0, &mut 0, 7), Ok(Some(7)));
        assert_eq!(find_end(head, 0, &mut 0, 6), Err(Bad::TooLong));
        assert_eq!(find_end(b"abc", 0, &mut 0, 3), Err(Bad::TooLong));
        assert_eq!(find_end(b"ab\0", 0, &mut 0, 100), Err(Bad::Byte));
        assert_eq!(find_end(b"ab\0", 0, &mut 0, 2), Err(Bad::TooLong));
        assert_eq!(find_end(b"ab\x7f", 0, &mut 0, 100), Err(Bad::Byte));
    }

    #[test]
    fn lists_and_tokens() {
        let list: Vec<&str> = elements(b" a,\tb ,, c d,").collect();
        assert_eq!(list, ["a", "b", "c d"]);
        assert_eq!(elements(b"\xff, a").count(), 0);
        assert!(is_token("x-Y_1") && !is_token("") && !is_token("a b") && !is_token("a\r"));
    }

    #[test]
    fn lines_cannot_be_split() {
        let mut out = Vec::new();
        write_line(&mut out, "X-A", "1\r\nX-B: 2");
        write_line(&mut out, "X-A\r\nX-B", "1");
        write_line(&mut out, "X-A", "1\0");
        write_line(&mut out, "X-A:", "1");
        write_line(&mut out, "", "1");
        assert!(out.is_empty());
        write_line(&mut out, "X-A", "grüße\t!");
        assert_eq!(out, "X-A: grüße\t!\r\n".as_bytes());
    }
}
