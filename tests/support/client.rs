//! A client that is only a socket: it sends whatever bytes a test makes up, valid or not, and reads
//! frames strictly, so that a server frame that breaks RFC 6455 fails the test that meets it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::server::Server;
use super::unbroken::unbroken;
use super::wire::{BINARY, CLOSE, FIN, PONG, RSV1, RSV2, RSV3, TEXT};
use super::wire::{close_payload, frame, upgrade};
use super::{PATIENCE, deflate};

/// First bytes of whole messages.
const FIN_TEXT: u8 = FIN | TEXT;
const FIN_BINARY: u8 = FIN | BINARY;

/// The longest frame a test may receive: nothing here echoes more than 16 MiB.
const FRAME_MAX: u64 = 17 << 20;

/// The head of an HTTP response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    lines: Vec<(String, String)>,
}

impl Head {
    /// The values of a header, by its name in lower case.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.lines.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
}

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    /// Compression was offered and agreed on: all messages are sent compressed.
    deflates: bool,
    /// Frames that came compressed.
    pub(crate) inflated: u64,
}

impl Client {
    /// A TCP connection, with nothing sent.
    pub(crate) fn connect(server: &Server) -> Self {
        Self::connect_to(server.address(), None)
    }

    /// Likewise, to whatever listens there, and from this address of the loopback interface.
    pub(crate) fn connect_to(address: SocketAddr, local: Option<IpAddr>) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("a socket can be made");
        if let Some(local) = local {
            socket.bind(&SocketAddr::new(local, 0).into()).expect("a loopback address");
        }
        socket.connect(&address.into()).expect("the server accepts");
        Self::on(socket.into())
    }

    /// Likewise, on a socket of the test's own.
    pub(crate) fn on(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("set_nodelay");
        stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("set_write_timeout");
        Self { stream: BufReader::new(stream), deflates: false, inflated: 0 }
    }

    /// A connection after the opening handshake.
    pub(crate) fn open(server: &Server) -> Self {
        let mut client = Self::connect(server);
        client.send(&upgrade());
        assert_eq!(client.read_head().status, 101);
        client
    }

    /// Likewise on a server that may have no place: refused by 503, hung up on or left waiting, it
    /// is `None`.
    pub(crate) fn try_open(server: &Server) -> Option<Self> {
        let mut client = Self::connect(server);
        client.socket().set_read_timeout(Some(Duration::from_secs(2))).expect("set_read_timeout");
        if !client.try_send(&upgrade())
            || !matches!(unbroken(|| client.socket().peek(&mut [0])), Ok(1))
        {
            return None;
        }
        client.socket().set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        (client.read_head().status == 101).then_some(client)
    }

    /// Has a text message echoed, then closes.
    pub(crate) fn echoes(mut self, text: &[u8]) -> bool {
        self.send_frame(FIN | TEXT, text);
        self.expect_frame(FIN | TEXT, text);
        self.close(1000);
        true
    }

    /// The socket, for what has no helper here.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Whether bytes, or the end, are there within so long.
    pub(crate) fn comes_within(&self, time: Duration) -> bool {
        if !self.stream.buffer().is_empty() {
            return true;
        }
        self.socket().set_read_timeout(Some(time)).expect("set_read_timeout");
        let came = unbroken(|| self.socket().peek(&mut [0]));
        self.socket().set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        let late = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
        !came.is_err_and(|error| late.contains(&error.kind()))
    }

    /// Sends bytes that the server has to take.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.socket().write_all(bytes).expect("the server takes bytes");
    }

    /// Sends bytes to a server that may have gone already. Returns whether it took them.
    pub(crate) fn try_send(&self, bytes: &[u8]) -> bool {
        match self.socket().write_all(bytes) {
            Ok(()) => true,
            Err(error) => {
                let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
                assert!(gone.contains(&error.kind()), "send: {error}");
                false
            }
        }
    }

    /// Sends bytes without waiting for room, on a non-blocking socket. Returns whether all of them
    /// fitted.
    pub(crate) fn fits(&self, bytes: &[u8]) -> bool {
        self.socket().write(bytes).is_ok_and(|count| count == bytes.len())
    }

    /// Sends a masked frame.
    pub(crate) fn send_frame(&self, first: u8, payload: &[u8]) {
        match first {
            FIN_TEXT | FIN_BINARY if self.deflates => {
                self.send(&deflate::deflated(first & !FIN, payload));
            }
            _ => self.send(&frame(first, payload)),
        }
    }

    /// Sends each byte in a write of its own. Where the segments are cut is up to the kernel, so
    /// the server may see any of the splits.
    pub(crate) fn send_bytewise(&self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.send(&[*byte]));
    }

    /// Ends this side's direction only.
    pub(crate) fn half_close(&self) {
        self.socket().shutdown(Shutdown::Write).expect("half-close");
    }

    /// Drops the connection with a TCP reset, as a crashed or unplugged client's NAT would.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(self.socket());
        socket.set_linger(Some(Duration::ZERO)).expect("set_linger");
    }

    /// Reads the head of a response.
    pub(crate) fn read_head(&mut self) -> Head {
        let mut lines = Vec::new();
        for _ in 0..100 {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("a line of the response head");
            let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("cut head: {line:?}"));
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let first = lines.remove(0);
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let split = |line: &String| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("header {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let status = status.unwrap_or_else(|| panic!("status line {first:?}"));
        let head = Head { status, lines: lines.iter().map(split).collect() };
        let extensions = head.values("sec-websocket-extensions");
        self.deflates = extensions.iter().any(|it| it.starts_with("permessage-deflate"));
        head
    }

    /// Whether compression was agreed on.
    pub(crate) fn deflates(&self) -> bool {
        self.deflates
    }

    /// Reads a refusal with one of these statuses, its body, and the end of the connection.
    pub(crate) fn expect_refusal(&mut self, statuses: &[u16]) -> Head {
        let head = self.read_head();
        assert!(statuses.contains(&head.status), "expected one of {statuses:?}, got {head:?}");
        assert!(head.values("sec-websocket-accept").is_empty(), "{head:?}");
        let length = head.values("content-length");
        assert_eq!(length.len(), 1, "{head:?}");
        let _body = self.take(length[0].parse().expect("Content-Length is a number"));
        self.expect_end();
        head
    }

    /// Reads the next frame: its first byte and its payload. One that came compressed looks as if
    /// it had not.
    pub(crate) fn read_frame(&mut self) -> (u8, Vec<u8>) {
        let (first, payload) = self.read_frame_as_it_is();
        if first & RSV1 == 0 {
            return (first, payload);
        }
        assert!(matches!(first & !RSV1, FIN_TEXT | FIN_BINARY), "7692 5: {first:#x}");
        self.inflated += 1;
        let message = deflate::inflate(&payload);
        assert!(payload.len() < message.len(), "compressed, and not shorter");
        (first & !RSV1, message)
    }

    fn read_frame_as_it_is(&mut self) -> (u8, Vec<u8>) {
        let start = self.take(2);
        let reserved = if self.deflates { RSV2 | RSV3 } else { RSV1 | RSV2 | RSV3 };
        assert_eq!(start[0] & reserved, 0, "5.2: reserved bits, no extension agreed");
        assert_eq!(start[1] & 0x80, 0, "5.1: a server must not mask");
        let len = match start[1] {
            126 => u64::from(u16::from_be_bytes(self.take(2).try_into().expect("2 bytes"))),
            127 => u64::from_be_bytes(self.take(8).try_into().expect("8 bytes")),
            short => u64::from(short),
        };
        let form = match len {
            0..=125 => len as u8,
            126..=0xffff => 126,
            _ => 127,
        };
        assert_eq!(start[1], form, "5.2: a length must be in its shortest form");
        assert!(len <= FRAME_MAX, "a frame of {len} bytes");
        if start[0] & 0x8 != 0 {
            assert!(start[0] & FIN != 0 && len <= 125, "5.5: {start:?}");
        }
        (start[0], self.take(len as usize))
    }

    /// Expects exactly this frame next.
    pub(crate) fn expect_frame(&mut self, first: u8, payload: &[u8]) {
        let (got, bytes) = self.read_frame();
        let start =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned();
        assert!(
            got == first && bytes == payload,
            "expected {first:#04x} with {} bytes {:?}, got {got:#04x} with {} bytes {:?}",
            payload.len(),
            start(payload),
            bytes.len(),
            start(&bytes)
        );
    }

    /// Expects these messages in their order, and pongs to these pings anywhere between them: a
    /// pong may overtake messages (section 5.5.3 only says "as soon as is practical"), and only
    /// the last of several pings has to be answered.
    pub(crate) fn expect_messages_and_pongs(&mut self, messages: &[(u8, &[u8])], pings: &[&[u8]]) {
        let mut messages = messages.iter();
        let mut pings = pings.iter();
        while messages.len() + pings.len() > 0 {
            let (first, payload) = self.read_frame();
            if first == FIN | PONG {
                let known = pings.any(|ping| payload == *ping);
                assert!(known, "a pong to no ping: {payload:?}");
            } else {
                let next = messages.next();
                assert!(next == Some(&(first, &payload)), "unexpected {first:#04x}");
            }
        }
    }

    /// Expects a close frame and returns its code (`None`: it was empty) and reason. A ping of the
    /// gateway may have been under way.
    pub(crate) fn read_close(&mut self) -> (Option<u16>, String) {
        let (mut first, mut payload) = self.read_frame();
        if (first, &payload[..]) == (FIN | TEXT, b"{}") {
            (first, payload) = self.read_frame();
        }
        assert_eq!(first, FIN | CLOSE, "expected a close frame, got {payload:?}");
        match payload.split_first_chunk() {
            Some((code, reason)) => {
                let reason = std::str::from_utf8(reason).expect("5.5.1: a reason is UTF-8");
                (Some(u16::from_be_bytes(*code)), reason.to_owned())
            }
            None => {
                assert!(payload.is_empty(), "5.5.1: a close payload of one byte");
                (None, String::new())
            }
        }
    }

    /// Expects the end of the connection, by FIN and with nothing before it.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = [0; 64];
        match unbroken(|| self.stream.read(&mut rest)) {
            Ok(0) => {}
            Ok(count) => panic!("expected the end, got {:?}", &rest[..count]),
            Err(error) => panic!("expected the end, got: {error}"),
        }
    }

    /// Expects the server to fail the connection (section 7.1.7) with this code: its close frame,
    /// then, whether or not the answer still reaches it, the end of the TCP connection.
    pub(crate) fn expect_failure(&mut self, code: u16) {
        let (got, reason) = self.read_close();
        assert_eq!(got, Some(code), "close code (reason {reason:?})");
        self.try_send(&frame(FIN | CLOSE, &close_payload(code, b"")));
        self.expect_end();
    }

    /// Does the close handshake as the side that starts it (section 7.1.2). The server must be the
    /// one that ends the TCP connection: this side's direction is open until its FIN is here.
    pub(crate) fn close(mut self, code: u16) {
        self.send_frame(FIN | CLOSE, &close_payload(code, b""));
        let (got, reason) = self.read_close();
        assert_eq!(got, Some(code), "close code (reason {reason:?})");
        self.expect_end();
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => bytes,
            Err(error) => panic!("{count} bytes were expected: {error}"),
        }
    }
}
