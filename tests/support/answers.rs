//! A client of plain HTTP that keeps its connection, and reads its answers one by one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::PATIENCE;

/// One answer, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    lines: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header, by its name in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the head of an answer: its status, and its headers with their names in small letters.
pub(crate) fn head(reader: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line of a head");
        line.strip_suffix("\r\n").unwrap_or_else(|| panic!("cut head: {line:?}")).to_owned()
    };
    let first = line();
    let status = first.get(9..12).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("status line {first:?}"));
    let mut lines = Vec::new();
    loop {
        let line = line();
        let Some((name, value)) = line.split_once(':') else { return (status, lines) };
        lines.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// A connection.
pub(crate) struct Asker(BufReader<TcpStream>);

impl Asker {
    /// One to a server.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("the server accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        socket.set_nodelay(true).expect("set_nodelay");
        Self(BufReader::new(socket))
    }

    /// The socket below.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends bytes, whatever they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the bytes are taken");
    }

    /// Sends a request and reads its answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Answer {
        self.send(request);
        self.answer()
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Answer {
        let (status, lines) = head(&mut self.0);
        let length = lines.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, length)| length.parse().expect("a length"));
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a whole body");
        let body = String::from_utf8(body).expect("a body of text");
        Answer { status, lines, body }
    }

    /// Whether nothing has come for a moment: what a server does not send cannot be waited for.
    pub(crate) fn hears_nothing(&mut self) -> bool {
        let moment = std::time::Duration::from_millis(200);
        self.socket().set_read_timeout(Some(moment)).expect("set_read_timeout");
        let heard = self.0.fill_buf().is_ok();
        self.socket().set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        !heard
    }

    /// Says that nothing more will be asked.
    pub(crate) fn finish(&mut self) {
        self.socket().shutdown(Shutdown::Write).expect("it is connected");
    }

    /// Reads to the end of the connection, however it ends. What came before.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest);
        rest
    }
}
