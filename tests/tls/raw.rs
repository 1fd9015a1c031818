//! A client of which a test makes each record: ringhold's own record layer over a socket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use ringhold::tls::{Limits, Opened, Record, length};

use super::peer::{Ours, client_setup, unbroken};

/// A client whose handshake is done.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    pub(crate) record: Record,
    /// Received bytes whose last record is not whole.
    partial: Vec<u8>,
    /// What the records of data held.
    pub(crate) heard: Vec<u8>,
    /// Records of the protocol: tickets, KeyUpdates.
    pub(crate) others: usize,
    /// Bytes written so far.
    pub(crate) written: u64,
}

impl Raw {
    /// Does the handshake of TLS 1.3.
    pub(crate) fn connect(mut socket: TcpStream) -> Self {
        let mut ours = Ours::client(&client_setup(), "localhost");
        let (mut piece, mut written) = ([0; 4096], 0);
        loop {
            let out = std::mem::take(&mut ours.out);
            socket.write_all(&out).unwrap();
            written += out.len() as u64;
            if let Some(welcome) = ours.welcome.take() {
                let (partial, heard) = (Vec::new(), Vec::new());
                return Self { socket, record: welcome.record, partial, heard, others: 0, written };
            }
            let count = unbroken(|| socket.read(&mut piece)).unwrap();
            assert!(count > 0, "the handshake failed");
            ours.receive(&piece[..count]).unwrap();
        }
    }

    /// Seals data behind what is in `out`.
    pub(crate) fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.record.seal(&LIMITS, &[data], out).unwrap();
    }

    /// Writes bytes as they are. Whether the socket took them.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        self.written += bytes.len() as u64;
        self.socket.write_all(bytes).is_ok()
    }

    pub(crate) fn send(&mut self, data: &[u8]) {
        let mut out = Vec::new();
        self.seal(data, &mut out);
        assert!(self.write(&out));
    }

    /// A KeyUpdate that asks for the server's, with a pong behind it so that it is not one of many
    /// in a row.
    pub(crate) fn ask(&mut self) -> bool {
        let mut out = Vec::new();
        self.record.update_key(true, &mut out).unwrap();
        self.seal(b"\x8a\x80\0\0\0\0", &mut out);
        self.write(&out)
    }

    /// Upgrades to WebSocket.
    pub(crate) fn upgrade(&mut self, path: &str) {
        self.send(
            format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Version: 13\r\n\r\n"
            )
            .as_bytes(),
        );
        while !self.heard.ends_with(b"\r\n\r\n") {
            assert!(self.read().unwrap());
        }
        assert!(self.heard.starts_with(b"HTTP/1.1 101 "), "{:?}", self.heard.escape_ascii());
        self.heard.clear();
    }

    /// Receives once, and opens what is whole. False: the end.
    pub(crate) fn read(&mut self) -> Result<bool, ringhold::tls::Fault> {
        let mut piece = [0; 16 << 10];
        let count = unbroken(|| self.socket.read(&mut piece)).unwrap();
        self.partial.extend_from_slice(&piece[..count]);
        let mut at = 0;
        while let Some(len) = length(&self.partial[at..])? {
            let Some(record) = self.partial.get_mut(at..at + len) else { break };
            match self.record.open(&LIMITS, record)? {
                Opened::Data(place) => self.heard.extend_from_slice(&record[place]),
                Opened::Nothing | Opened::Messages(_) => self.others += 1,
                Opened::Closed => return Ok(false),
            }
            at += len;
        }
        self.partial.drain(..at);
        Ok(count > 0)
    }
}

const LIMITS: Limits = Limits::DEFAULT;
