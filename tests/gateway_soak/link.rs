//! One connection of a client, over any transport: bytes in and out without blocking, and the
//! elements in them. Knows no session.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use prost::Message;
use ringhold::gateway::wire::messages::Command;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::element::{self, Element};
use super::tally::Tally;
use crate::support::gateway::PATH;
use crate::support::stream::{escaped, request as http};
use crate::support::wire::{BINARY, CLOSE, FIN, PING, PONG, TEXT, UPGRADE, frame, request};

/// How a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Json,
    Protobuf,
    Sse,
    HttpStream,
}

impl Transport {
    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Json | Self::Protobuf)
    }
}

/// What came.
#[derive(Debug)]
pub(crate) enum Event {
    Element(Element),
    /// A close frame.
    Close(u16),
    /// What the server says breaks the protocol.
    Broken(String),
    /// The end of the connection; the text is of an error.
    End(Option<String>),
}

pub(crate) struct Link {
    stream: TcpStream,
    address: SocketAddr,
    transport: Transport,
    input: BytesMut,
    output: BytesMut,
    /// The head of the answer was read.
    open: bool,
    /// Of the body of a stream: chunks taken apart.
    body: BytesMut,
    events: VecDeque<Event>,
    ended: bool,
    /// Where commands are posted, once the session is known.
    emulation: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

impl Link {
    /// A connection with its request on the way. The connect command of a WebSocket follows it at
    /// once, as a batch may.
    pub(crate) async fn open(
        address: SocketAddr,
        transport: Transport,
        connect: &Value,
    ) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut link = Self {
            stream,
            address,
            transport,
            input: BytesMut::new(),
            output: BytesMut::new(),
            open: false,
            body: BytesMut::new(),
            events: VecDeque::new(),
            ended: false,
            emulation: None,
        };
        let text = connect.to_string();
        match transport {
            Transport::Json | Transport::Protobuf => {
                let mut lines = UPGRADE.to_vec();
                if transport == Transport::Protobuf {
                    lines.push("Sec-WebSocket-Protocol: centrifuge-protobuf");
                }
                link.output.extend(request(&format!("GET {PATH} HTTP/1.1"), &lines));
                link.send(std::slice::from_ref(connect));
            }
            Transport::Sse => {
                let target = format!("/connection/sse?cf_connect={}", escaped(&text));
                // A head has less room than a body.
                link.output.extend(match target.len() < 4096 {
                    true => http("GET", &target, &[], b""),
                    false => http("POST", "/connection/sse", &[], text.as_bytes()),
                });
            }
            Transport::HttpStream => {
                let it = http("POST", "/connection/http_stream", &[], text.as_bytes());
                link.output.extend(it);
            }
        }
        Ok(link)
    }

    /// From here on commands of a stream are posted for this session.
    pub(crate) fn emulate(&mut self, session: String, node: String, tally: Arc<Tally>) {
        if self.transport.is_websocket() {
            return;
        }
        let (sender, mut receiver) = mpsc::unbounded_channel::<Vec<u8>>();
        let address = self.address;
        self.emulation = Some(sender);
        tokio::task::spawn_local(async move {
            while let Some(commands) = receiver.recv().await {
                let data = String::from_utf8_lossy(&commands);
                let body = json!({"session": session, "node": node, "data": data}).to_string();
                let lines = ["Content-Type: application/json", "Connection: close"];
                let request = http("POST", "/emulation", &lines, body.as_bytes());
                match status(address, &request).await {
                    Ok(204) => {}
                    // The runtime ends.
                    Err(_) if receiver.is_closed() => return,
                    other => tally.fail(&format!("/emulation answers {other:?}")),
                }
            }
        });
    }

    /// Queues commands as one message.
    pub(crate) fn send(&mut self, commands: &[Value]) {
        let texts: Vec<_> = commands.iter().map(Value::to_string).collect();
        match self.transport {
            Transport::Json => {
                self.output.extend(frame(FIN | TEXT, texts.join("\n").as_bytes()));
            }
            Transport::Protobuf => {
                let mut bytes = Vec::new();
                for text in texts {
                    let command: Command = serde_json::from_str(&text).expect("a command");
                    command.encode_length_delimited(&mut bytes).expect("a Vec grows");
                }
                self.output.extend(frame(FIN | BINARY, &bytes));
            }
            Transport::Sse | Transport::HttpStream => {
                let emulation = self.emulation.as_ref().expect("a session");
                // Without a receiver the runtime ends.
                let _ = emulation.send(texts.join("\n").into_bytes());
            }
        }
    }

    /// Queues a close frame.
    pub(crate) fn send_close(&mut self) {
        self.output.extend(frame(FIN | CLOSE, &1000_u16.to_be_bytes()));
    }

    /// Queues the beginning of a frame.
    pub(crate) fn send_half(&mut self) {
        let whole = frame(FIN | TEXT, &[b' '; 100]);
        self.output.extend(&whole[..50]);
    }

    /// Makes closing the descriptor a reset.
    pub(crate) fn reset(self) {
        let set = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        set.expect("SO_LINGER");
    }

    /// Waits until something can be read or written, and does it. May be dropped at any time.
    pub(crate) async fn turn(&mut self) {
        let interest = match self.output.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        match self.stream.ready(interest).await {
            Ok(ready) => {
                if ready.is_writable() || ready.is_write_closed() {
                    self.write();
                }
                if ready.is_readable() || ready.is_read_closed() {
                    self.read();
                }
            }
            Err(error) => self.end(Some(error.to_string())),
        }
    }

    /// What came and was not looked at.
    pub(crate) fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether everything queued was taken by the kernel.
    pub(crate) fn is_written(&self) -> bool {
        self.output.is_empty()
    }

    fn end(&mut self, error: Option<String>) {
        if !self.ended {
            self.ended = true;
            self.events.push_back(Event::End(error));
        }
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            match self.stream.try_write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // Reading says how it ended.
                    self.output.clear();
                    return;
                }
            }
        }
    }

    fn read(&mut self) {
        for _ in 0..16 {
            self.input.reserve(4096);
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => {
                    self.end(None);
                    break;
                }
                Ok(_) => {
                    if let Err(error) = self.take_apart() {
                        self.events.push_back(Event::Broken(error));
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.end(Some(error.to_string()));
                    break;
                }
            }
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.body.is_empty() {
            self.body = BytesMut::new();
        }
    }

    fn take_apart(&mut self) -> Result<(), String> {
        if !self.open {
            let Some(end) = find(&self.input, b"\r\n\r\n") else { return Ok(()) };
            let head = self.input.split_to(end + 4);
            let status = head.get(9..12);
            let wanted = if self.transport.is_websocket() { b"101" } else { b"200" };
            if status != Some(wanted) {
                let text = String::from_utf8_lossy(&head);
                return Err(format!("HTTP {:?}", text.lines().next()));
            }
            self.open = true;
        }
        match self.transport.is_websocket() {
            true => self.frames(),
            false => self.chunks(),
        }
    }

    fn frames(&mut self) -> Result<(), String> {
        loop {
            let input = &self.input[..];
            let [first, second, ..] = *input else { return Ok(()) };
            let (len, head) = match second {
                126 => match input.get(2..4) {
                    Some(len) => (u64::from(u16::from_be_bytes(len.try_into().expect("two"))), 4),
                    None => return Ok(()),
                },
                127 => match input.get(2..10) {
                    Some(len) => (u64::from_be_bytes(len.try_into().expect("eight")), 10),
                    None => return Ok(()),
                },
                len => (u64::from(len), 2),
            };
            if len > 1 << 24 {
                return Err(format!("a frame of {len} bytes"));
            }
            let end = head + len as usize;
            if input.len() < end {
                return Ok(());
            }
            let whole = self.input.split_to(end);
            self.frame(first, &whole[head..])?;
        }
    }

    fn frame(&mut self, first: u8, payload: &[u8]) -> Result<(), String> {
        const JSON: u8 = FIN | TEXT;
        const PROTOBUF: u8 = FIN | BINARY;
        const NATIVE_PING: u8 = FIN | PING;
        const CLOSING: u8 = FIN | CLOSE;
        let mut elements = Vec::new();
        match (first, self.transport) {
            (JSON, Transport::Json) => element::json(payload, &mut elements)?,
            (PROTOBUF, Transport::Protobuf) => element::protobuf(payload, &mut elements)?,
            (NATIVE_PING, _) => self.output.extend(frame(FIN | PONG, payload)),
            (CLOSING, _) => {
                let code = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                self.output.extend(frame(FIN | CLOSE, payload.get(..2).unwrap_or_default()));
                self.events.push_back(Event::Close(code.unwrap_or(1005)));
            }
            _ => return Err(format!("a frame {first:#x} of {} bytes", payload.len())),
        }
        self.events.extend(elements.into_iter().map(Event::Element));
        Ok(())
    }

    fn chunks(&mut self) -> Result<(), String> {
        while let Some(line) = find(&self.input, b"\r\n") {
            let digits = std::str::from_utf8(&self.input[..line]).unwrap_or("not text");
            let len = usize::from_str_radix(digits, 16);
            let len = len.map_err(|error| format!("the length of a chunk: {error} {digits:?}"))?;
            if self.input.len() < line + 2 + len + 2 {
                break;
            }
            self.input.advance(line + 2);
            self.body.extend(self.input.split_to(len));
            self.input.advance(2);
        }
        let mark: &[u8] = if self.transport == Transport::Sse { b"\n\n" } else { b"\n" };
        // The blank line at the beginning of events.
        if self.transport == Transport::Sse && self.body.starts_with(b"\r\n") {
            self.body.advance(2);
        }
        while let Some(end) = find(&self.body, mark) {
            let piece = self.body.split_to(end + mark.len());
            let piece = &piece[..end];
            let object = match self.transport {
                Transport::Sse => piece.strip_prefix(b"data: ").ok_or_else(|| {
                    format!("an event {:?}", String::from_utf8_lossy(&piece[..end.min(100)]))
                })?,
                _ => piece,
            };
            let mut elements = Vec::new();
            element::json(object, &mut elements)?;
            self.events.extend(elements.into_iter().map(Event::Element));
        }
        Ok(())
    }
}

/// One request on a connection of its own: the status.
pub(crate) async fn status(address: SocketAddr, request: &[u8]) -> Result<u16, String> {
    let answer = exchange(address, request).await?;
    let status = answer.get(9..12).and_then(|it| std::str::from_utf8(it).ok()?.parse().ok());
    status.ok_or_else(|| format!("no status: {:?}", String::from_utf8_lossy(&answer)))
}

/// One request on a connection of its own: the whole answer.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> Result<Vec<u8>, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match tokio::time::timeout(crate::support::PATIENCE, exchange).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    let first = mark[0];
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == first) {
        if bytes[from + at..].starts_with(mark) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}
