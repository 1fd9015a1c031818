//! The client's half of the opening handshake (RFC 6455 section 4.1).
//!
//! Owns the upgrade request and the judgement of the answer. Never follows a redirect and never
//! chooses a key. The invariant: only an answer that proves it has read our key opens a connection.

use std::mem::MaybeUninit;

use super::extension::{Agreement, BadAnswer, OFFER};
use super::head::{self, Bad};
use super::request::HEADERS_MAX;

/// Why a server's answer is not a WebSocket connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejected {
    /// The server answered with this HTTP status.
    Status(u16),
    /// The answer is not HTTP/1.1 or breaks a rule of section 4.1; says which.
    Invalid(&'static str),
}

/// A server's answer that opens a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Length of the head. Bytes behind it belong to the first frames.
    pub len: usize,
    /// The subprotocol it chose. Whether that one was offered is the caller's to check (section
    /// 4.1, last item): it knows what it offered.
    pub protocol: Option<String>,
    /// The compression it agreed to.
    pub compression: Option<Agreement>,
}

/// The header line that offers compression, for the `headers` of [`write_request`].
pub fn compression_offer() -> (String, String) {
    ("Sec-WebSocket-Extensions".to_owned(), OFFER.to_owned())
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the server answered with status {status}"),
            Self::Invalid(rule) => write!(f, "no valid answer: {rule}"),
        }
    }
}

impl std::error::Error for Rejected {}

/// Appends an upgrade request. `key` is 16 random bytes.
///
/// Subprotocols are offered by a `Sec-WebSocket-Protocol` line in `headers`. A line whose name is
/// no token or whose value has control bytes is left out. In `host` and `target` blanks, control
/// bytes and bytes beyond ASCII are percent-encoded, so that they cannot end the line.
pub fn write_request(
    out: &mut Vec<u8>,
    host: &str,
    target: &str,
    key: [u8; 16],
    headers: &[(String, String)],
) {
    out.extend_from_slice(b"GET ");
    write_visible(out, if target.is_empty() { "/" } else { target });
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    write_visible(out, host);
    out.extend_from_slice(
        b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: ",
    );
    out.extend_from_slice(&head::encode_key(&key));
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        head::write_line(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Parses and checks the server's answer to a request without extensions. `Ok(None)`: incomplete.
/// On success: the length of the head and the chosen subprotocol, as in [`Answer`].
pub fn parse(
    bytes: &[u8],
    key: [u8; 16],
    max_head: usize,
) -> Result<Option<(usize, Option<String>)>, Rejected> {
    let answer = parse_offered(bytes, key, max_head, false)?;
    Ok(answer.map(|answer| (answer.len, answer.protocol)))
}

/// Parses and checks the server's answer, to a request that offered compression
/// ([`compression_offer`]) or none. `Ok(None)`: incomplete.
pub fn parse_offered(
    bytes: &[u8],
    key: [u8; 16],
    max_head: usize,
    compression: bool,
) -> Result<Option<Answer>, Rejected> {
    // What does not start like HTTP/1 is not worth waiting for.
    let start = &bytes[..bytes.len().min(VERSION.len())];
    if !VERSION.starts_with(start) {
        return Err(Rejected::Invalid("not HTTP/1.1"));
    }
    let end = match head::find_end(bytes, 0, &mut 0, max_head) {
        Ok(Some(end)) => end,
        Ok(None) => return Ok(None),
        Err(Bad::Byte) => return Err(Rejected::Invalid("a control byte in the head")),
        Err(Bad::TooLong) => return Err(Rejected::Invalid("the head is too long")),
    };
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        &bytes[..end],
        &mut headers,
    );
    match parsed {
        Ok(httparse::Status::Complete(len)) if len == end => {}
        Ok(_) => return Err(Rejected::Invalid("the head does not end where it should")),
        Err(httparse::Error::TooManyHeaders) => return Err(Rejected::Invalid("too many headers")),
        Err(_) => return Err(Rejected::Invalid("not HTTP/1.1")),
    }
    let (protocol, compression) = check(&response, key, compression)?;
    Ok(Some(Answer { len: end, protocol, compression }))
}

/// The rules of section 4.1 for the answer, in the order of their numbers.
fn check(
    response: &httparse::Response<'_, '_>,
    key: [u8; 16],
    offered: bool,
) -> Result<(Option<String>, Option<Agreement>), Rejected> {
    // 1. Anything else is for an HTTP client to handle.
    match response.code {
        Some(101) if response.version == Some(1) => {}
        Some(101) => return Err(Rejected::Invalid("not HTTP/1.1")),
        status => return Err(Rejected::Status(status.unwrap_or_default())),
    }
    let values = |name: &'static str| {
        let named = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        response.headers.iter().filter(named).map(|header| header.value)
    };
    // At most one, blanks removed.
    let single = |name: &'static str| {
        let mut values = values(name);
        let value = std::str::from_utf8(values.next()?).unwrap_or_default();
        Some(if values.next().is_none() { head::trim(value) } else { "" })
    };
    // 2. and 3.
    if !single("Upgrade").is_some_and(|it| it.eq_ignore_ascii_case("websocket")) {
        return Err(Rejected::Invalid("Upgrade is not websocket"));
    }
    let mut options = values("Connection").flat_map(head::elements);
    if !options.any(|it| it.eq_ignore_ascii_case("upgrade")) {
        return Err(Rejected::Invalid("Connection does not name Upgrade"));
    }
    // 4. The proof that the answer is to our request and not out of a cache.
    let accept = head::accept(&head::encode_key(&key));
    if single("Sec-WebSocket-Accept").map(str::as_bytes) != Some(&accept[..]) {
        return Err(Rejected::Invalid("Sec-WebSocket-Accept does not answer the key"));
    }
    // 5. Only what was offered.
    let agreed = Agreement::confirm(values("Sec-WebSocket-Extensions"));
    let compression = match agreed {
        Ok(None) => None,
        _ if !offered => return Err(Rejected::Invalid("an extension that was not offered")),
        Ok(agreed) => agreed,
        Err(BadAnswer(rule)) => return Err(Rejected::Invalid(rule)),
    };
    // 6. One at most.
    match single("Sec-WebSocket-Protocol") {
        None => Ok((None, compression)),
        Some(protocol) if head::is_token(protocol) => Ok((Some(protocol.to_owned()), compression)),
        Some(_) => Err(Rejected::Invalid("a bad Sec-WebSocket-Protocol")),
    }
}

fn write_visible(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            out.push(byte);
        } else {
            let digit = |nibble: u8| b"0123456789ABCDEF"[nibble as usize];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 0x0f)]);
        }
    }
}

/// How every answer starts; the minor version follows.
const VERSION: &[u8] = b"HTTP/1.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request;

    const KEY: [u8; 16] = *b"the sample nonce";
    const MAX: usize = 4096;

    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
        Sec-WebSocket-Protocol: chat\r\n\r\n";

    fn with(old: &str, new: &str) -> Result<Option<(usize, Option<String>)>, Rejected> {
        assert!(GOOD.contains(old), "{old}");
        parse(GOOD.replacen(old, new, 1).as_bytes(), KEY, MAX)
    }

    #[test]
    fn both_halves_agree() {
        let mut out = Vec::new();
        let offer = ("Sec-WebSocket-Protocol".to_owned(), "a, b".to_owned());
        let split = ("X-A".to_owned(), "1\r\nX-B: 2".to_owned());
        write_request(&mut out, "localhost:1", "/a b?x=\r\né", KEY, &[offer, split]);
        let (request, len) = request::parse(&out, &mut 0, MAX).unwrap().unwrap();
        assert_eq!(len, out.len());
        assert_eq!(request.target, "/a%20b?x=%0D%0A%C3%A9");
        assert_eq!(request.protocols().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(request.headers().count(), 6);
        let upgrade = request.upgrade().unwrap();
        let mut answer = Vec::new();
        request::write_accept(&mut answer, &upgrade, Some("b"), &[]);
        answer.extend_from_slice(b"\x81\x00");
        let head = answer.len() - 2;
        assert_eq!(parse(&answer, KEY, MAX), Ok(Some((head, Some("b".to_owned())))));
        for short in 0..head {
            assert_eq!(parse(&answer[..short], KEY, MAX), Ok(None));
        }
    }

    #[test]
    fn both_halves_agree_on_compression() {
        let mut out = Vec::new();
        write_request(&mut out, "localhost:1", "/", KEY, &[compression_offer()]);
        let (request, _) = request::parse(&out, &mut 0, MAX).unwrap().unwrap();
        let mut upgrade = request.upgrade().unwrap();
        let mut answer = Vec::new();
        request::write_accept(&mut answer, &upgrade, None, &[]);
        let declined = parse_offered(&answer, KEY, MAX, true).unwrap().unwrap();
        assert_eq!(declined.compression, None);
        upgrade.compression = request.compression();
        answer.clear();
        request::write_accept(&mut answer, &upgrade, None, &[]);
        let agreed = parse_offered(&answer, KEY, MAX, true).unwrap().unwrap();
        assert_eq!((agreed.len, agreed.compression), (answer.len(), upgrade.compression));
        assert!(agreed.compression.is_some());
        let unasked = Err(Rejected::Invalid("an extension that was not offered"));
        assert_eq!(parse_offered(&answer, KEY, MAX, false), unasked);
        let half = String::from_utf8(answer).unwrap().replace("server_no_context_takeover; ", "");
        let half = parse_offered(half.as_bytes(), KEY, MAX, true);
        assert!(matches!(half, Err(Rejected::Invalid(rule)) if rule.contains("takeover")));
    }

    #[test]
    fn what_servers_vary() {
        let chat = Some("chat".to_owned());
        for (old, new) in [
            ("Upgrade: websocket", "upgrade:WebSocket "),
            ("Connection: Upgrade", "Connection: keep-alive, upgrade"),
            ("Switching Protocols", ""),
            ("\r\nUpgrade", "\r\nServer: x\r\nSec-WebSocket-Extensions: \r\nUpgrade"),
        ] {
            let answer = with(old, new).unwrap().unwrap();
            assert_eq!(answer.1, chat, "{new}");
        }
        assert_eq!(with("Sec-WebSocket-Protocol: chat\r\n", "").unwrap().unwrap().1, None);
    }

    #[test]
    fn what_is_rejected() {
        for (old, new) in [
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1", "HTTP/2.0"),
            ("HTTP/1.1", "\r\nHTTP/1.1"),
            ("HTTP/1.1", "ICY"),
            ("Upgrade: websocket\r\n", ""),
            ("Upgrade: websocket", "Upgrade: websocket, h2c"),
            ("Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: websocket"),
            ("Connection: Upgrade", "Connection: close"),
            ("s3pPLM", "S3pPLM"),
            ("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", ""),
            ("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: permessage-deflate"),
            ("Protocol: chat", "Protocol: chat\r\nSec-WebSocket-Protocol: chat"),
            ("Protocol: chat", "Protocol: a, b"),
            ("Protocol: chat", "Protocol:"),
            ("chat", "ch\0at"),
            ("chat", "ch\rat"),
            ("\r\nUpgrade", "\r\n Upgrade"),
        ] {
            assert!(matches!(with(old, new), Err(Rejected::Invalid(_))), "{new:?}");
        }
        assert_eq!(with("101", "503"), Err(Rejected::Status(503)));
        assert_eq!(with("1.1 101", "1.0 404"), Err(Rejected::Status(404)));
        let many = format!("{}Upgrade", "A: b\r\n".repeat(HEADERS_MAX));
        assert_eq!(with("Upgrade", &many), Err(Rejected::Invalid("too many headers")));
        let long = parse(GOOD.as_bytes(), KEY, 50);
        assert_eq!(long, Err(Rejected::Invalid("the head is too long")));
        assert_eq!(parse(b"\x15\x03", KEY, MAX), Err(Rejected::Invalid("not HTTP/1.1")));
    }
}
