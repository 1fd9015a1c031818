//! HTTP responses that go on: their heads, and the chunks of their bodies (RFC 9112 section 7.1).
//!
//! Owns what a response without WebSocket looks like on the wire. Never decides who gets one. The
//! invariant: a payload is one chunk, and no payload, not even an empty one, ends the body; only
//! [`END`] does.

use std::io::Write as _;

use super::head;

/// Most bytes before a chunk's payload: a length in hexadecimal digits and a line break.
pub const CHUNK_HEAD_MAX: usize = 2 * size_of::<usize>() + 2;

/// What follows a chunk's payload.
pub const CHUNK_TAIL: &[u8] = b"\r\n";

/// The chunk of no bytes that ends a body, and the end of the empty trailer.
pub const END: &[u8] = b"0\r\n\r\n";

/// What a client that announced `Expect: 100-continue` waits for before it sends its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends the head of a response whose body goes on: in chunks, or for HTTP/1.0 (`chunked` false)
/// up to the end of the connection. Header lines with control bytes are left out (response
/// splitting).
pub fn write_head(out: &mut Vec<u8>, chunked: bool, headers: &[(String, String)]) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nConnection: close\r\n");
    if chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    for (name, value) in headers {
        head::write_line(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// What comes before a payload of `len` bytes, which must not be 0, in its chunk; and how many of
/// the bytes are it.
pub fn chunk_head(len: usize) -> ([u8; CHUNK_HEAD_MAX], usize) {
    debug_assert!(len > 0, "a chunk of no bytes would end the body");
    let mut bytes = [0; CHUNK_HEAD_MAX];
    let room = bytes.len();
    let mut rest = &mut bytes[..];
    // There is room for the longest length.
    let _ = write!(rest, "{len:x}\r\n");
    let used = room - rest.len();
    (bytes, used)
}

/// Appends a payload as one chunk; nothing for an empty one.
pub fn append_chunk(out: &mut Vec<u8>, payload: &[u8]) {
    if payload.is_empty() {
        return;
    }
    let (head, used) = chunk_head(payload.len());
    out.extend_from_slice(&head[..used]);
    out.extend_from_slice(payload);
    out.extend_from_slice(CHUNK_TAIL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_as_long_as_they_say() {
        for len in [1, 15, 16, 255, 4096, 65_536, 1_000_000] {
            let payload = vec![b'x'; len];
            let mut out = Vec::new();
            append_chunk(&mut out, &payload);
            let line = out.iter().position(|byte| *byte == b'\r').unwrap();
            let said = std::str::from_utf8(&out[..line]).unwrap();
            assert_eq!(usize::from_str_radix(said, 16), Ok(len));
            assert_eq!(&out[line + 2..line + 2 + len], payload);
            assert_eq!(&out[line + 2 + len..], CHUNK_TAIL);
        }
        let (_, used) = chunk_head(usize::MAX);
        assert_eq!(used, CHUNK_HEAD_MAX);
    }

    #[test]
    fn nothing_is_no_chunk() {
        let mut out = Vec::new();
        append_chunk(&mut out, b"");
        assert!(out.is_empty());
    }

    #[test]
    fn heads_say_how_the_body_ends() {
        for chunked in [true, false] {
            let mut out = Vec::new();
            write_head(&mut out, chunked, &[("X-C".to_owned(), "3".to_owned())]);
            let text = String::from_utf8(out).unwrap();
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("X-C: 3\r\n\r\n"));
            assert_eq!(text.contains("Transfer-Encoding: chunked\r\n"), chunked);
        }
    }
}
