//! A client of streams that is only a socket: it sends a request as it is written, and reads the
//! response strictly: chunks, events, lines, the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use super::PATIENCE;
use super::answers::head;

/// A response, and the connection it comes on.
pub(crate) struct Stream {
    reader: BufReader<TcpStream>,
    /// The status of the answer.
    pub(crate) status: u16,
    lines: Vec<(String, String)>,
    /// Of the body, received and not looked at.
    text: Vec<u8>,
    ended: bool,
    /// The `id:` of the last event that had one.
    pub(crate) last_id: String,
}

/// Sends a request and closes nothing.
pub(crate) fn send(address: SocketAddr, request: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("the server accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
    socket.write_all(request).expect("the request is taken");
    socket
}

/// A request's head and body.
pub(crate) fn request(method: &str, target: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n");
    for line in lines {
        head.push_str(&format!("{line}\r\n"));
    }
    if method == "POST" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// A text as it stands in a query.
pub(crate) fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

impl Stream {
    /// Sends a request and reads the head of the answer.
    pub(crate) fn open(address: SocketAddr, request: &[u8]) -> Self {
        Self::on(send(address, request))
    }

    /// Reads the head of the answer to a request that was sent.
    pub(crate) fn on(socket: TcpStream) -> Self {
        let mut reader = BufReader::new(socket);
        let (status, lines) = head(&mut reader);
        let (text, last_id) = Default::default();
        Self { reader, status, lines, text, ended: false, last_id }
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The socket below.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The next chunk; `None` is the end of the body.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        assert!(!self.ended, "read behind the end");
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("the length of a chunk");
        let digits = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("cut: {line:?}"));
        let len = usize::from_str_radix(digits, 16).unwrap_or_else(|e| panic!("{e}: {digits:?}"));
        let mut data = vec![0; len + 2];
        self.reader.read_exact(&mut data).expect("a whole chunk");
        assert_eq!(data.split_off(len), b"\r\n");
        self.ended = len == 0;
        (!self.ended).then_some(data)
    }

    /// More of the body, also of one without chunks. False at its end.
    fn more(&mut self) -> bool {
        if self.header("transfer-encoding") == Some("chunked") {
            let chunk = self.chunk();
            self.text.extend(chunk.iter().flatten());
            return chunk.is_some();
        }
        let bytes = self.reader.fill_buf().expect("bytes of the body").to_vec();
        self.reader.consume(bytes.len());
        self.text.extend_from_slice(&bytes);
        !bytes.is_empty()
    }

    /// The body up to `mark`, which is taken out; `None` if it ends before, with nothing left.
    fn up_to(&mut self, mark: &[u8]) -> Option<String> {
        loop {
            let found = self.text.windows(mark.len()).position(|window| window == mark);
            if let Some(at) = found {
                let rest = self.text.split_off(at + mark.len());
                let mut piece = std::mem::replace(&mut self.text, rest);
                piece.truncate(at);
                return Some(String::from_utf8(piece).expect("text is UTF-8"));
            }
            if !self.more() {
                assert!(self.text.is_empty(), "half an element: {:?}", self.text);
                return None;
            }
        }
    }

    /// The object of the next event of a `text/event-stream`; `None` at its end.
    pub(crate) fn event(&mut self) -> Option<Value> {
        let event = self.up_to(b"\n\n")?;
        let mut data = None;
        for line in event.trim_start_matches("\r\n").lines() {
            match line.split_once(": ") {
                Some(("data", text)) => {
                    assert!(data.is_none(), "two objects in one event: {event:?}");
                    let object = serde_json::from_str(text);
                    data = Some(object.unwrap_or_else(|e| panic!("{e}: {text:?}")));
                }
                Some(("id", id)) => self.last_id = id.to_owned(),
                _ => panic!("unexpected line {line:?} in {event:?}"),
            }
        }
        Some(data.unwrap_or_else(|| panic!("an event of nothing: {event:?}")))
    }

    /// The object in the next line; `None` at the end.
    pub(crate) fn line(&mut self) -> Option<Value> {
        let line = self.up_to(b"\n")?;
        Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}")))
    }

    /// The next element that is no ping, of either kind of stream.
    pub(crate) fn heard(&mut self) -> Option<Value> {
        loop {
            let events = self.header("content-type").is_some_and(|it| it.contains("event-stream"));
            let object = if events { self.event() } else { self.line() };
            if object != Some(json!({})) {
                return object;
            }
        }
    }

    /// Expects the end of the body, and of the connection.
    pub(crate) fn expect_end(&mut self) {
        if !self.ended {
            assert!(!self.more() && self.text.is_empty(), "more: {:?}", self.text);
        }
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).expect("the connection ends");
        assert!(rest.is_empty(), "behind the end: {}", rest.escape_ascii());
    }
}
