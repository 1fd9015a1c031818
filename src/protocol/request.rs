//! The server's half of the opening handshake (RFC 6455 section 4.2).
//!
//! Owns what makes a request head an upgrade, and the answer that accepts it. Never chooses an
//! origin, a path or a subprotocol: the application does. The invariant: a head gets the same
//! answer whether it comes at once or a byte at a time.

use std::mem::MaybeUninit;

use super::extension::Agreement;
use super::head::{self, Bad};
pub use super::refusal::Refusal;

/// Most header lines in a request.
pub const HEADERS_MAX: usize = 64;

/// A well-formed HTTP/1.1 (or 1.0) request head.
#[derive(Debug)]
pub struct Request<'a> {
    /// `GET`, for an upgrade.
    pub method: &'a str,
    /// Path and query as sent.
    pub target: &'a str,
    /// Minor HTTP version: 1 for HTTP/1.1. 0 is parsed, for health checks, but never upgraded.
    pub minor_version: u8,
    headers: Vec<(&'a str, &'a [u8])>,
}

/// What the handshake needs from a valid upgrade request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Value of `Sec-WebSocket-Accept` (28 bytes of base64).
    pub accept: [u8; 28],
    /// Compression, if the server wants it ([`Request::compression`]). `None` at first.
    pub compression: Option<Agreement>,
}

/// Parses a request head of at most `max_head` bytes. `Ok(None)`: incomplete. On success the second
/// value is the length of the head; bytes behind it belong to the first frames.
///
/// `scanned` remembers how far earlier calls with the same, shorter input have searched for the
/// end of the head, so that a head that comes a byte at a time costs no more than one that comes
/// at once. It starts at 0. Obviously wrong beginnings fail before the head is complete.
///
/// Refuses with [`Refusal::BadRequest`], [`Refusal::HeadTooLarge`] or [`Refusal::HttpVersion`].
pub fn parse<'a>(
    bytes: &'a [u8],
    scanned: &mut usize,
    max_head: usize,
) -> Result<Option<(Request<'a>, usize)>, Refusal> {
    let start = check_start(bytes)?;
    // A head mostly comes at once: then one pass is enough. What this pass would refuse is left to
    // the search below, so that the answer does not depend on how the bytes were cut.
    if *scanned == 0
        && let Ok(Some((request, len))) = parse_head(bytes)
        && len <= max_head
    {
        return Ok(Some((request, len)));
    }
    match head::find_end(bytes, start, scanned, max_head) {
        Ok(None) => Ok(None),
        Ok(Some(end)) => match parse_head(&bytes[..end])? {
            Some((request, len)) if len == end => Ok(Some((request, len))),
            _ => Err(Refusal::BadRequest("the head does not end where it should")),
        },
        Err(Bad::Byte) => Err(Refusal::BadRequest("a control byte in the head")),
        Err(Bad::TooLong) => Err(Refusal::HeadTooLarge),
    }
}

impl<'a> Request<'a> {
    /// The first value of a header, case-insensitive name, surrounding blanks removed. `None` also
    /// when that value is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let value = self.values(name).next()?;
        std::str::from_utf8(value).ok().map(head::trim)
    }

    /// The origin of the page that asks, if there is one. A value that is not UTF-8 is the empty
    /// text, which no list of origins admits.
    pub fn origin(&self) -> Option<&'a str> {
        let value = self.values("Origin").next()?;
        Some(head::trim(std::str::from_utf8(value).unwrap_or_default()))
    }

    /// All headers in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + '_ {
        self.headers.iter().copied()
    }

    /// The path: the target up to `?`, without scheme and authority where a client sent an absolute
    /// URI (RFC 9112 section 3.2.2).
    pub fn path(&self) -> &'a str {
        let target = self.resource();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    /// The target after `?`, if any.
    pub fn query(&self) -> Option<&'a str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The subprotocols offered, in order, over all `Sec-WebSocket-Protocol` lines; empty elements
    /// and such as are no token (section 4.1, item 10) are skipped.
    pub fn protocols(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.values("Sec-WebSocket-Protocol")
            .flat_map(head::elements)
            .filter(|protocol| head::is_token(protocol))
    }

    /// The compression that a server can agree on with this client, which it does by putting it
    /// into the [`Upgrade`].
    pub fn compression(&self) -> Option<Agreement> {
        Agreement::choose(self.values("Sec-WebSocket-Extensions"), self.header("User-Agent"))
    }

    /// Whether it names the upgrade to WebSocket, rightly or not.
    pub fn asks_for_websocket(&self) -> bool {
        self.lists("Upgrade", "websocket")
    }

    /// How long the body is that follows the head; 0 without one. For requests that are no
    /// upgrades.
    ///
    /// Refuses with [`Refusal::LengthRequired`] a body that only its own framing would end, and
    /// with [`Refusal::BadRequest`] a length that is none, or several (RFC 9112 section 6.3): what
    /// is read differently by two servers is a way to smuggle requests.
    pub fn body_len(&self) -> Result<u64, Refusal> {
        if self.values("Transfer-Encoding").next().is_some() {
            return Err(Refusal::LengthRequired);
        }
        match self.single("Content-Length", "several Content-Length lines")? {
            None => Ok(0),
            Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                // So many digits are more than any limit.
                Ok(text.parse().unwrap_or(u64::MAX))
            }
            Some(_) => Err(Refusal::BadRequest("a bad Content-Length")),
        }
    }

    /// Whether the client awaits a word before it sends the body (RFC 9110 section 10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.minor_version >= 1 && self.lists("Expect", "100-continue")
    }

    /// Whether the client may send another request behind this one (RFC 9112 section 9.3). For
    /// clients of HTTP/1.0, which may ask for that, the answer is no.
    pub fn goes_on(&self) -> bool {
        self.minor_version >= 1 && !self.lists("Connection", "close")
    }

    /// Checks what any request must have to be answered with a stream: a path, and with HTTP/1.1
    /// one Host (RFC 9112 section 3.2).
    ///
    /// Refuses with [`Refusal::BadRequest`].
    pub fn check_plain(&self) -> Result<(), Refusal> {
        self.check_target()?;
        self.single("Origin", "several Origin lines")?;
        if self.minor_version >= 1 { self.check_host() } else { Ok(()) }
    }

    /// Checks everything section 4.2.1 demands of an upgrade.
    ///
    /// Refuses with [`Refusal::HttpVersion`], [`Refusal::Method`], [`Refusal::UpgradeRequired`] or
    /// [`Refusal::BadRequest`].
    pub fn upgrade(&self) -> Result<Upgrade, Refusal> {
        // Item 1: a GET of HTTP/1.1 or higher.
        if self.minor_version < 1 {
            return Err(Refusal::HttpVersion);
        }
        if self.method != "GET" {
            return Err(Refusal::Method);
        }
        // Item 3. Without it the client wants something else, and can be told what there is.
        if !self.asks_for_websocket() {
            return Err(Refusal::UpgradeRequired);
        }
        // Item 4. A proxy that forwards Upgrade but not Connection is the usual culprit.
        if !self.lists("Connection", "upgrade") {
            return Err(Refusal::BadRequest("Connection does not name Upgrade"));
        }
        self.check_target()?;
        self.check_host()?;
        self.check_body()?;
        // Item 6, and section 4.4 for other versions.
        match self.single("Sec-WebSocket-Version", "several Sec-WebSocket-Version lines")? {
            Some("13") => {}
            _ => return Err(Refusal::UpgradeRequired),
        }
        // Not demanded, but two origins would make any policy about them ambiguous.
        self.single("Origin", "several Origin lines")?;
        let key = self.key()?;
        Ok(Upgrade { accept: head::accept(key.as_bytes()), compression: None })
    }

    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        let named = move |header: &&(&str, &[u8])| header.0.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|header| header.1)
    }

    /// Whether a comma list, over all its lines, has `token` in any case.
    fn lists(&self, name: &str, token: &str) -> bool {
        self.values(name).flat_map(head::elements).any(|it| it.eq_ignore_ascii_case(token))
    }

    /// The value of a header that may come at most once. Not UTF-8 counts as empty.
    fn single(&self, name: &str, several: &'static str) -> Result<Option<&'a str>, Refusal> {
        let mut values = self.values(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Refusal::BadRequest(several));
        }
        Ok(first.map(|value| head::trim(std::str::from_utf8(value).unwrap_or_default())))
    }

    /// The target without the `http://host` of an absolute URI (section 4.2.1, item 1).
    fn resource(&self) -> &'a str {
        let Some((scheme, rest)) = self.target.split_once("://") else {
            return self.target;
        };
        let known = ["http", "https", "ws", "wss"];
        if !known.iter().any(|it| it.eq_ignore_ascii_case(scheme)) {
            return self.target;
        }
        match rest.find(['/', '?']) {
            Some(at) if rest.as_bytes()[at] == b'/' => &rest[at..],
            _ => "/",
        }
    }

    fn check_target(&self) -> Result<(), Refusal> {
        if !self.resource().starts_with('/') {
            return Err(Refusal::BadRequest("the target is no path"));
        }
        // Section 3: fragments have no meaning here and must not be sent.
        if self.target.contains('#') {
            return Err(Refusal::BadRequest("the target has a fragment"));
        }
        Ok(())
    }

    /// Item 2, with RFC 9112 section 3.2: exactly one, and one that could be an authority.
    fn check_host(&self) -> Result<(), Refusal> {
        let host = self.single("Host", "several Host lines")?.unwrap_or_default();
        if host.is_empty() {
            return Err(Refusal::BadRequest("no Host"));
        }
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte);
        if !host.bytes().all(plain) {
            return Err(Refusal::BadRequest("a bad Host"));
        }
        Ok(())
    }

    /// A body would be taken for frames, or frames for a body (request smuggling).
    fn check_body(&self) -> Result<(), Refusal> {
        if self.values("Transfer-Encoding").next().is_some() {
            return Err(Refusal::BadRequest("an upgrade with a body"));
        }
        match self.single("Content-Length", "several Content-Length lines")? {
            None | Some("0") => Ok(()),
            Some(_) => Err(Refusal::BadRequest("an upgrade with a body")),
        }
    }

    /// Item 5: base64 of 16 bytes, so 22 digits and two pads. It is never decoded, only hashed as
    /// sent, so the four bits of the last digit that carry nothing may be anything.
    fn key(&self) -> Result<&'a str, Refusal> {
        let key = self.single("Sec-WebSocket-Key", "several Sec-WebSocket-Key lines")?;
        let Some(key) = key else {
            return Err(Refusal::BadRequest("no Sec-WebSocket-Key"));
        };
        let digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
        match key.strip_suffix("==") {
            Some(digits) if digits.len() == 22 && digits.bytes().all(digit) => Ok(key),
            _ => Err(Refusal::BadRequest("a bad Sec-WebSocket-Key")),
        }
    }
}

/// Appends the 101 response. `headers` come after the mandatory ones; names must be tokens and
/// values free of control bytes, else the line is left out (response splitting).
pub fn write_accept(
    out: &mut Vec<u8>,
    upgrade: &Upgrade,
    protocol: Option<&str>,
    headers: &[(String, String)],
) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&upgrade.accept);
    out.extend_from_slice(b"\r\n");
    if let Some(protocol) = protocol {
        head::write_line(out, "Sec-WebSocket-Protocol", protocol);
    }
    if let Some(compression) = upgrade.compression {
        compression.write(out);
    }
    for (name, value) in headers {
        head::write_line(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Checks the bytes before the first blank and returns where the request line starts.
fn check_start(bytes: &[u8]) -> Result<usize, Refusal> {
    // RFC 9112 section 2.2: empty lines before the request line are to be ignored; a few are.
    let blank = bytes.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
    if blank > BLANK_MAX {
        return Err(Refusal::BadRequest("too many empty lines"));
    }
    let line = &bytes[blank..];
    if line.starts_with(b"GET ") {
        return Ok(blank);
    }
    // What is no method is no HTTP, say TLS or SSH, and is not worth waiting for.
    let method = line.iter().take(METHOD_MAX + 1).position(|&byte| !head::is_token_byte(byte));
    match method {
        Some(len) if len > 0 && line[len] == b' ' => Ok(blank),
        None if line.len() <= METHOD_MAX => Ok(blank),
        _ => Err(Refusal::BadRequest("not HTTP")),
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, Refusal> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(refuse(error)),
    };
    let (Some(method), Some(target), Some(minor_version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Refusal::BadRequest("no request line"));
    };
    let headers = request.headers.iter().map(|header| (header.name, header.value)).collect();
    Ok(Some((Request { method, target, minor_version, headers }, len)))
}

fn refuse(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::Version => Refusal::HttpVersion,
        httparse::Error::TooManyHeaders => Refusal::HeadTooLarge,
        httparse::Error::HeaderName => Refusal::BadRequest("a bad header name"),
        httparse::Error::HeaderValue => Refusal::BadRequest("a bad header value"),
        httparse::Error::NewLine => Refusal::BadRequest("a bad line end"),
        httparse::Error::Token | httparse::Error::Status => Refusal::BadRequest("not HTTP"),
    }
}

/// Bytes of empty lines before a request line: four CRLF.
const BLANK_MAX: usize = 8;
/// Longest method: twice the longest that is registered, UPDATEREDIRECTREF.
const METHOD_MAX: usize = 34;

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4096;

    const GOOD: &str = "GET /chat?room=1 HTTP/1.1\r\n\
        Host: server.example.com\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Origin: http://example.com\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";

    /// The outcome of a head that comes at once, which must be that of one that comes in bytes.
    fn answer(head: &[u8]) -> Result<Upgrade, Refusal> {
        let outcome = |bytes: &[u8], scanned: &mut usize| match parse(bytes, scanned, MAX) {
            Ok(Some((request, len))) => {
                assert_eq!(len, bytes.len());
                Some(request.upgrade())
            }
            Ok(None) => None,
            Err(refusal) => Some(Err(refusal)),
        };
        let at_once = outcome(head, &mut 0).expect("complete");
        let mut scanned = 0;
        let in_bytes = (0..=head.len()).find_map(|n| outcome(&head[..n], &mut scanned));
        assert_eq!(in_bytes, Some(at_once), "{}", head.escape_ascii());
        at_once
    }

    fn with(old: &str, new: &str) -> Result<Upgrade, Refusal> {
        assert!(GOOD.contains(old), "{old}");
        answer(GOOD.replacen(old, new, 1).as_bytes())
    }

    fn status(result: Result<Upgrade, Refusal>) -> u16 {
        result.map_or_else(Refusal::status, |_| 101)
    }

    #[test]
    fn the_example_of_the_rfc() {
        let mut upgrade = answer(GOOD.as_bytes()).unwrap();
        assert_eq!(&upgrade.accept, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let bytes = [GOOD.as_bytes(), b"\x81\x80mask"].concat();
        let (request, len) = parse(&bytes, &mut 0, MAX).unwrap().unwrap();
        assert_eq!(len, GOOD.len());
        assert_eq!((request.path(), request.query()), ("/chat", Some("room=1")));
        assert_eq!(request.header("oRIGIN"), Some("http://example.com"));
        assert_eq!(request.header("Cookie"), None);
        assert_eq!(request.protocols().collect::<Vec<_>>(), ["chat", "superchat"]);
        assert_eq!(request.headers().count(), 7);
        let mut out = Vec::new();
        let extra = [("X-A".into(), "1".into()), ("X-B".into(), "1\r\nX-C: 2".into())];
        write_accept(&mut out, &upgrade, Some("chat"), &extra);
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
            Sec-WebSocket-Protocol: chat\r\nX-A: 1\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);

        assert_eq!((request.compression(), upgrade.compression), (None, None));
        let offer = "permessage-deflate; server_max_window_bits=12";
        let lines =
            format!("Sec-WebSocket-Extensions: x\r\nSec-WebSocket-Extensions: {offer}\r\nOrigin");
        let with_offer = GOOD.replacen("Origin", &lines, 1);
        let (request, _) = parse(with_offer.as_bytes(), &mut 0, MAX).unwrap().unwrap();
        upgrade.compression = request.compression();
        assert_eq!(upgrade.compression.unwrap().window_bits(), 12);
        let mut out = Vec::new();
        write_accept(&mut out, &upgrade, Some("chat"), &[]);
        let line = "Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate; \
            server_no_context_takeover; client_no_context_takeover; \
            server_max_window_bits=12\r\n\r\n";
        assert!(String::from_utf8(out).unwrap().ends_with(line));
        let safari = "User-Agent: Version/15.2 Safari/605.1.15\r\nOrigin";
        let from_safari = with_offer.replacen("Origin", safari, 1);
        let (request, _) = parse(from_safari.as_bytes(), &mut 0, MAX).unwrap().unwrap();
        assert_eq!(request.compression(), None);
    }

    #[test]
    fn what_clients_vary() {
        let good = [
            ("Connection: Upgrade", "connection:keep-alive ,\tUPGRADE"),
            ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade"),
            ("Upgrade: websocket", "UPGRADE: h2c, WebSocket  "),
            ("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: websocket"),
            ("chat, superchat", ""),
            ("chat, superchat", " , ,chat"),
            ("Origin: http://example.com\r\n", ""),
            ("GET", "\r\n\r\nGET"),
            ("GET", "\nGET"),
            ("\r\nUpgrade", "\nUpgrade"),
            ("/chat?room=1", "http://server.example.com/chat?room=1"),
            ("/chat?room=1", "/?x=://"),
            ("server.example.com", "[::1]:8080"),
            ("Origin", "Content-Length: 0\r\nOrigin"),
            // Sixteen bytes all the same: these bits of the last digit mean nothing.
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZf=="),
        ];
        for (old, new) in good {
            assert_eq!(status(with(old, new)), 101, "{new}");
        }
    }

    #[test]
    fn what_is_refused_and_how() {
        let bad = [
            (405, "GET", "POST"),
            (405, "GET", "get"),
            (505, "HTTP/1.1", "HTTP/1.0"),
            (505, "HTTP/1.1", "HTTP/2.0"),
            (426, "Upgrade: websocket\r\n", ""),
            (426, "Upgrade: websocket", "Upgrade: websockets"),
            (426, "Version: 13", "Version: 8"),
            (426, "Version: 13", "Version: 13, 8"),
            (426, "Sec-WebSocket-Version: 13\r\n", ""),
            (400, "Connection: Upgrade", "Connection: keep-alive"),
            (400, "Host: server.example.com\r\n", ""),
            (400, "server.example.com", ""),
            (400, "server.example.com", "a b"),
            (400, "server.example.com", "user@a"),
            (400, "Origin", "Host: b\r\nOrigin"),
            (400, "Origin", "Origin: b\r\nOrigin"),
            (400, "Origin", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin"),
            (400, "Origin", "Sec-WebSocket-Version: 13\r\nOrigin"),
            (400, "Origin", "Content-Length: 0\r\nContent-Length: 0\r\nOrigin"),
            (400, "Origin", "Content-Length: 5\r\nOrigin"),
            (400, "Origin", "Content-Length: +0\r\nOrigin"),
            (400, "Origin", "Transfer-Encoding: chunked\r\nOrigin"),
            (400, "ZSBub25jZQ==", "ZSBub25jZQ"),
            (400, "ZSBub25jZQ==", "ZSBub25jZQ==="),
            (400, "ZSBub25jZQ==", "ZSBub25jZ==="),
            (400, "ZSBub25jZQ==", "ZSBub2-jZQ=="),
            (400, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
            (400, "/chat", "chat"),
            (400, "/chat", "*"),
            (400, "/chat?room=1", "/chat#top"),
            (400, "/chat?room=1", "ftp://a/"),
        ];
        for (expected, old, new) in bad {
            assert_eq!(status(with(old, new)), expected, "{new}");
        }
    }

    #[test]
    fn tricks_with_lines_and_bytes() {
        let bad = [
            ("GET /chat", "GET  /chat"),
            ("Host: server", "Host : server"),
            ("\r\nHost", "\r\n Host"),
            ("\r\nUpgrade: websocket", "\r\nUpgrade:\r\n websocket"),
            ("example.com\r\nUp", "example.com\rUp"),
            ("server.example.com", "server\0.example.com"),
            ("server.example.com", "server\x7f"),
            ("/chat", "/ch\0at"),
            ("Host:", ":"),
            ("Host: server.example.com", "Host"),
            ("GET", "\r\n\r\n\r\n\r\n\r\nGET"),
            ("GET", "\rGET"),
            ("GET", " GET"),
            ("Origin", "Ori\u{e9}gin"),
        ];
        for (old, new) in bad {
            assert_eq!(status(with(old, new)), 400, "{new:?}");
        }
    }

    #[test]
    fn junk_is_not_waited_for() {
        let mut scanned = 0;
        for junk in [
            &b"\x16"[..], // TLS
            b"\0",
            b"SSH-2.0-OpenSSH_9.6\r", // the CR is where a blank should be
            b"{",
            b"\r\n\r\n\0", // PROXY protocol, version 2
            b"GET / HTTP/1.1\r\nHost: a\0",
            &[b'A'; METHOD_MAX + 1],
            b" ",
            b"\n\n\n\n\n\n\n\n\n",
        ] {
            let (last, start) = junk.split_last().unwrap();
            scanned = 0;
            assert!(matches!(parse(start, &mut scanned, MAX), Ok(None)), "{junk:x?}");
            let refusal = parse(junk, &mut scanned, MAX).unwrap_err();
            assert_eq!(refusal.status(), 400, "{junk:x?} {last}");
        }
        assert!(scanned < MAX);
    }

    #[test]
    fn heads_have_limits() {
        let line = "X-Filler: yes\r\n";
        let lines = |count| GOOD.replacen("Origin", &format!("{}Origin", line.repeat(count)), 1);
        assert_eq!(status(answer(lines(HEADERS_MAX - 7).as_bytes())), 101);
        assert_eq!(status(answer(lines(HEADERS_MAX - 6).as_bytes())), 431);
        let long = |len| GOOD.replacen("room=1", &"x".repeat(len), 1);
        let room = MAX - long(0).len();
        assert_eq!(status(answer(long(room).as_bytes())), 101);
        assert_eq!(status(answer(long(room + 1).as_bytes())), 431);
        let endless = [b'x'; MAX];
        let head = [b"GET /", &endless[..]].concat();
        assert!(matches!(parse(&head[..MAX - 1], &mut 0, MAX), Ok(None)));
        assert!(matches!(parse(&head[..MAX], &mut 0, MAX), Err(Refusal::HeadTooLarge)));
    }
}
