//! Why an opening handshake is refused, and the HTTP response that says so.
//!
//! Owns the statuses and the refusing responses. Never decides. The invariant: each refusal is one
//! complete HTTP/1.1 response that ends the connection, with nothing in it that the peer sent.

use std::io::Write as _;

/// Why a request is refused, each with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// 400: not HTTP, no or several Host lines, a bad or missing key...
    BadRequest(&'static str),
    /// 403: the Origin policy or the application says no.
    Forbidden,
    /// 404: nothing at that target.
    NotFound,
    /// 405: the method is not GET.
    Method,
    /// 408: the head did not arrive in time.
    Timeout,
    /// 411: a body whose length is not said.
    LengthRequired,
    /// 413: the body is over its limit.
    BodyTooLarge,
    /// 426: not an upgrade to WebSocket, or not version 13 (names version 13).
    UpgradeRequired,
    /// 431: the head is over its limit of bytes or lines.
    HeadTooLarge,
    /// 503: no room; `Retry-After` in seconds.
    Unavailable(u32),
    /// 505: not HTTP/1.1.
    HttpVersion,
}

impl Refusal {
    /// The HTTP status code.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::Timeout => 408,
            Self::LengthRequired => 411,
            Self::BodyTooLarge => 413,
            Self::UpgradeRequired => 426,
            Self::HeadTooLarge => 431,
            Self::Unavailable(_) => 503,
            Self::HttpVersion => 505,
        }
    }

    /// A short text for the body, the logs and counters.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadRequest(reason) => reason,
            Self::Forbidden => "not allowed",
            Self::NotFound => "nothing here",
            Self::Method => "the method must be GET",
            Self::Timeout => "the request took too long",
            Self::LengthRequired => "the length of the body must be said",
            Self::BodyTooLarge => "the body is too large",
            Self::UpgradeRequired => "this is a WebSocket endpoint, version 13",
            Self::HeadTooLarge => "the request head is too large",
            Self::Unavailable(_) => "no room, try again later",
            Self::HttpVersion => "the version must be HTTP/1.1",
        }
    }

    /// Appends the whole response with `Connection: close`, `Content-Length` and a one-line body.
    pub fn write(self, out: &mut Vec<u8>) {
        let (status, phrase, reason) = (self.status(), self.phrase(), self.reason());
        let length = reason.len() + 1;
        out.extend_from_slice(b"HTTP/1.1 ");
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{status} {phrase}\r\n");
        out.extend_from_slice(match self {
            // Section 4.4: name the versions understood. RFC 9110 section 15.5.22: name the
            // protocol, which section 7.8 makes a connection option.
            Self::UpgradeRequired => {
                b"Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            }
            // RFC 9110 section 15.5.6: name the methods that would do.
            Self::Method => b"Connection: close\r\nAllow: GET\r\n",
            _ => b"Connection: close\r\n",
        });
        if let Self::Unavailable(seconds) = self {
            let _ = write!(out, "Retry-After: {seconds}\r\n");
        }
        let _ = write!(
            out,
            "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{reason}\n"
        );
    }

    /// Appends the same without the body: the answer to HEAD.
    pub fn write_head(self, out: &mut Vec<u8>) {
        self.write(out);
        out.truncate(out.len() - (self.reason().len() + 1));
    }

    fn phrase(self) -> &'static str {
        match self {
            Self::BadRequest(_) => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::Method => "Method Not Allowed",
            Self::Timeout => "Request Timeout",
            Self::LengthRequired => "Length Required",
            Self::BodyTooLarge => "Content Too Large",
            Self::UpgradeRequired => "Upgrade Required",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::Unavailable(_) => "Service Unavailable",
            Self::HttpVersion => "HTTP Version Not Supported",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status(), self.phrase(), self.reason())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Refusal; 11] = [
        Refusal::BadRequest("bad"),
        Refusal::Forbidden,
        Refusal::NotFound,
        Refusal::Method,
        Refusal::Timeout,
        Refusal::LengthRequired,
        Refusal::BodyTooLarge,
        Refusal::UpgradeRequired,
        Refusal::HeadTooLarge,
        Refusal::Unavailable(7),
        Refusal::HttpVersion,
    ];

    #[test]
    fn each_is_one_whole_response() {
        for refusal in ALL {
            let mut out = Vec::new();
            refusal.write(&mut out);
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut headers);
            let head = response.parse(&out).unwrap().unwrap();
            assert_eq!(response.code, Some(refusal.status()));
            let header = |name| {
                let found = response.headers.iter().find(|header| header.name == name)?;
                std::str::from_utf8(found.value).ok()
            };
            let body = &out[head..];
            assert_eq!(body, format!("{}\n", refusal.reason()).as_bytes());
            assert_eq!(header("Content-Length"), Some(body.len().to_string().as_str()));
            assert!(header("Connection").unwrap().starts_with("close"));
            assert_eq!(header("Allow").is_some(), refusal == Refusal::Method);
            let upgrade = refusal == Refusal::UpgradeRequired;
            assert_eq!(header("Sec-WebSocket-Version"), upgrade.then_some("13"));
            assert_eq!(header("Upgrade"), upgrade.then_some("websocket"));
            let retry = refusal == Refusal::Unavailable(7);
            assert_eq!(header("Retry-After"), retry.then_some("7"));
        }
    }
}
