//! One client as a plain socket: it can stop reading, vanish, or stop in the middle of a frame.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;
use crate::support::unbroken::unbroken;
use crate::support::wire::{
    self, BINARY, CLOSE, FIN, PING, PONG, TEXT, UPGRADE, close_payload, frame,
};

/// A received frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
}

/// A connection, without any buffer: what was not read stays in the kernel.
pub(crate) struct Peer {
    stream: TcpStream,
}

impl Peer {
    /// A TCP connection, with nothing sent.
    pub(crate) fn connect(server: SocketAddr) -> Self {
        Self::try_connect(server, None, None).expect("the server accepts")
    }

    /// Likewise, from a source address and with a receive buffer of this size.
    pub(crate) fn try_connect(
        server: SocketAddr,
        local: Option<IpAddr>,
        receive: Option<usize>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        if let Some(size) = receive {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(local) = local {
            socket.bind(&SocketAddr::new(local, 0).into())?;
        }
        socket.connect_timeout(&server.into(), PATIENCE)?;
        socket.set_tcp_nodelay(true)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// A connection after the opening handshake.
    pub(crate) fn open(server: SocketAddr, path: &str) -> Self {
        Self::connect(server).upgraded(path)
    }

    /// Likewise, with a small receive buffer: it makes a slow reader of who does not read.
    pub(crate) fn open_narrow(server: SocketAddr, path: &str) -> Self {
        let peer = Self::try_connect(server, None, Some(32 * 1024)).expect("the server accepts");
        peer.upgraded(path)
    }

    /// Does the opening handshake.
    pub(crate) fn upgraded(mut self, path: &str) -> Self {
        self.send(&upgrade(path));
        let head = self.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        self
    }

    /// The socket, for what has no helper here.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes that the server has to take.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes bytes");
    }

    /// Sends bytes to a server that may have gone.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a masked frame.
    pub(crate) fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&frame(first, payload));
    }

    /// Sends a binary message.
    pub(crate) fn message(&mut self, payload: &[u8]) {
        self.send_frame(FIN | BINARY, payload);
    }

    /// Sends a binary message and expects it back.
    pub(crate) fn echo(&mut self, payload: &[u8]) {
        self.message(payload);
        let got = self.read().expect("an echo");
        let Frame::Binary(got) = got else { panic!("expected an echo, got {got:?}") };
        assert!(got == payload, "an echo of {} bytes came as {}", payload.len(), got.len());
    }

    /// Reads the head of a response, and nothing behind it.
    pub(crate) fn read_head(&mut self) -> String {
        self.try_read_head().expect("a response head")
    }

    /// Likewise, from a server that may hang up.
    pub(crate) fn try_read_head(&mut self) -> io::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// Reads the next frame.
    pub(crate) fn read(&mut self) -> io::Result<Frame> {
        let start = self.take(2)?;
        assert_eq!(start[1] & 0x80, 0, "a server must not mask");
        let len = match start[1] {
            126 => usize::from(u16::from_be_bytes([self.take(1)?[0], self.take(1)?[0]])),
            127 => {
                let bytes: [u8; 8] = self.take(8)?.try_into().expect("eight bytes");
                u64::from_be_bytes(bytes) as usize
            }
            short => usize::from(short),
        };
        assert!(len <= 32 << 20, "a frame of {len} bytes");
        let payload = self.take(len)?;
        Ok(match start[0] {
            0x81 => Frame::Text(payload),
            0x82 => Frame::Binary(payload),
            0x89 => Frame::Ping(payload),
            0x8a => Frame::Pong(payload),
            0x88 => close_frame(&payload),
            other => panic!("unexpected frame {other:#04x}"),
        })
    }

    /// Reads up to the close frame, past whatever comes before it.
    pub(crate) fn read_close(&mut self) -> (u16, String) {
        loop {
            if let Frame::Close(code, reason) = self.read().expect("a close frame") {
                return (code, reason);
            }
        }
    }

    /// Answers pings until something else comes.
    pub(crate) fn read_alive(&mut self) -> io::Result<Frame> {
        loop {
            match self.read()? {
                Frame::Ping(payload) => self.try_send(&frame(FIN | PONG, &payload))?,
                other => return Ok(other),
            }
        }
    }

    /// Answers the server's close frame and waits for the end of the connection.
    pub(crate) fn finish(mut self, code: u16) {
        let _ = self.try_send(&frame(FIN | CLOSE, &close_payload(code, b"")));
        self.expect_end();
    }

    /// Does the close handshake as the side that starts it.
    pub(crate) fn close(mut self, code: u16) {
        self.send_frame(FIN | CLOSE, &close_payload(code, b""));
        assert_eq!(self.read_close().0, code);
        self.expect_end();
    }

    /// Reads to the end of the connection, which may be a reset.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = [0; 4096];
        loop {
            match unbroken(|| self.stream.read(&mut rest)) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("expected the end, got {error}"),
            }
        }
    }

    /// Ends this side's direction only.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("half-close");
    }

    /// Vanishes with a TCP reset.
    pub(crate) fn reset(self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// A valid upgrade request for this path.
pub(crate) fn upgrade(path: &str) -> Vec<u8> {
    wire::request(&format!("GET {path} HTTP/1.1"), &UPGRADE)
}

fn close_frame(payload: &[u8]) -> Frame {
    match payload.split_first_chunk() {
        Some((code, reason)) => {
            let reason = String::from_utf8_lossy(reason).into_owned();
            Frame::Close(u16::from_be_bytes(*code), reason)
        }
        None => Frame::Close(1005, String::new()),
    }
}
