//! Complete answers to requests that become no WebSocket: a page, a health check, a redirect, a
//! refusal in the application's words.
//!
//! Owns what such an answer looks like on the wire. Never decides who gets one. The invariant: an
//! answer is one whole HTTP/1.1 response that ends the connection, and header values cannot split
//! it.

use std::io::Write as _;

use bytes::Bytes;

use super::head;

/// A complete HTTP answer: a status, headers, and a body, which is the status in words unless there
/// is another.
///
/// ```
/// use ringhold::HttpResponse;
///
/// let page = HttpResponse::new(200).body("text/html; charset=utf-8", "<h1>It works</h1>");
/// let login = HttpResponse::new(401).header("WWW-Authenticate", "Bearer");
/// let moved = HttpResponse::new(307).header("Location", "https://example.org/");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: Option<Bytes>,
}

impl HttpResponse {
    /// An answer with this status, from 200 to 599; any other becomes 500.
    pub fn new(status: u16) -> Self {
        let status = if (200..600).contains(&status) { status } else { 500 };
        Self { status, headers: Vec::new(), body: None }
    }

    /// Adds a header. One with a bad name or with control bytes in its value is left out
    /// (response splitting), and so are `Connection`, `Content-Length` and `Transfer-Encoding`,
    /// which the server writes itself.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces all headers, with the exceptions of [`Self::header`].
    #[must_use]
    pub fn headers(mut self, headers: Vec<(String, String)>) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the body and its `Content-Type`. Bytes that many answers share are not copied. Not
    /// sent with statuses that have no body (204, 304) and to `HEAD`.
    #[must_use]
    pub fn body(self, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self { body: Some(body.into()), ..self.header("Content-Type", content_type) }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Appends the head, and returns the body that follows it. `bodiless`: the request was `HEAD`.
    pub fn write(&self, out: &mut Vec<u8>, bodiless: bool) -> Bytes {
        self.write_and(out, bodiless, true)
    }

    /// The same; the connection goes on unless this is the `last` answer.
    pub(crate) fn write_and(&self, out: &mut Vec<u8>, bodiless: bool, last: bool) -> Bytes {
        let phrase = phrase(self.status);
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {} {phrase}\r\n", self.status);
        if last {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        for (name, value) in &self.headers {
            if !OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
                head::write_line(out, name, value);
            }
        }
        if [204, 304].contains(&self.status) {
            out.extend_from_slice(b"\r\n");
            return Bytes::new();
        }
        let body = match &self.body {
            Some(body) => body.clone(),
            None => {
                out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
                format!("{phrase}\n").into()
            }
        };
        let _ = write!(out, "Content-Length: {}\r\n\r\n", body.len());
        if bodiless { Bytes::new() } else { body }
    }
}

/// Headers that say where the answer ends.
const OURS: [&str; 3] = ["Connection", "Content-Length", "Transfer-Encoding"];

/// The words beside a status (RFC 9110 section 15).
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => match status / 100 {
            2 => "Successful",
            3 => "Redirected",
            4 => "Refused",
            _ => "Failed",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_and_cannot_be_split() {
        let page = || Bytes::from_static(b"<p>hello");
        for status in (200..600).chain([0, 101, 600]) {
            for own in [false, true] {
                let answer = HttpResponse::new(status)
                    .header("X-A", "1\r\nX-B: 2")
                    .header("content-length", "7")
                    .header("X-C", "3");
                let answer = if own { answer.body("text/html", page()) } else { answer };
                let mut out = Vec::new();
                let body = answer.write(&mut out, false);
                let mut lines = [httparse::EMPTY_HEADER; 8];
                let mut response = httparse::Response::new(&mut lines);
                assert_eq!(response.parse(&out).unwrap(), httparse::Status::Complete(out.len()));
                assert_eq!(response.code, Some(answer.status()));
                let header = |name: &str| {
                    let mut all = response.headers.iter();
                    let found = all.find(|header| header.name.eq_ignore_ascii_case(name))?;
                    std::str::from_utf8(found.value).ok()
                };
                assert_eq!((header("X-A"), header("X-B"), header("X-C")), (None, None, Some("3")));
                assert_eq!(header("Connection"), Some("close"));
                let said = header("Content-Length").map(|length| length.parse().unwrap());
                assert_eq!(said.unwrap_or(0), body.len());
                let empty = [204, 304].contains(&answer.status());
                assert_eq!(body.is_empty(), empty);
                assert_eq!(header("Content-Type").is_some(), !empty || own);
                assert!(!own || empty || body == page());
            }
        }
        assert_eq!(HttpResponse::new(101).status(), 500);
    }

    #[test]
    fn a_head_says_how_long_the_body_would_be() {
        let mut out = Vec::new();
        assert!(HttpResponse::new(200).write(&mut out, true).is_empty());
        assert!(out.ends_with(b"Content-Length: 3\r\n\r\n"), "{}", out.escape_ascii());
    }
}
