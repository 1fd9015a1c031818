//! One connection to a server: bytes out, replies in, whichever protocol it speaks.
//!
//! Owns the stream, what waits to be sent and what was received of a reply that is not whole. Knows
//! no request. Why not the `redis` crate: what counts here is when a connection was lost and what
//! was under way then, so that each publication is answered once and repeated only where it can be
//! found again; its connections reconnect or drop behind the caller's back, bound nothing that
//! waits for the server, and hand pushes over one by one, where here each read from the socket
//! becomes one letter to each core.
//!
//! The invariant: nothing here waits, but [`Link::exchange`], which a caller may drop at any time
//! and call again.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::resp::{Bounds, Fault, Reply, Scanner};

/// Whatever carries bytes to a server.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// See the module's text.
pub struct Link {
    stream: Box<dyn Stream>,
    input: BytesMut,
    scanner: Scanner,
    output: Vec<u8>,
    /// Bytes of `output` that the stream has taken.
    sent: usize,
    /// The stream may hold back what it has taken.
    unflushed: bool,
    /// The last time that something came.
    heard: Instant,
    /// Bytes received so far.
    received: u64,
}

/// Why a connection is no more.
#[derive(Debug)]
pub enum Lost {
    /// The server has closed it.
    Closed,
    /// The system says so.
    Io(io::Error),
    /// The server does not speak its protocol.
    Protocol(Fault),
    /// A request has no answer within its time, or the server is silent.
    Silent(Duration),
    /// The server is not the one in charge any more.
    NotPrimary,
    /// The server does not let us.
    Refused(String),
    /// The other connection is to another server, or Sentinels name another.
    Moved,
}

impl Lost {
    /// As in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Io(_) => "io",
            Self::Protocol(_) => "protocol",
            Self::Silent(_) => "silent",
            Self::NotPrimary => "not_primary",
            Self::Refused(_) => "refused",
            Self::Moved => "moved",
        }
    }

    /// All of these.
    pub const NAMES: [&'static str; 7] =
        ["closed", "io", "protocol", "silent", "not_primary", "refused", "moved"];
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the server has closed the connection"),
            Self::Io(error) => error.fmt(f),
            Self::Protocol(fault) => fault.fmt(f),
            Self::Silent(time) => write!(f, "no answer for {time:?}"),
            Self::NotPrimary => f.write_str("the server is not the primary, or not ready yet"),
            Self::Refused(what) => f.write_str(what),
            Self::Moved => f.write_str("another server is in charge by now"),
        }
    }
}

/// Received at once.
const CHUNK: usize = 64 << 10;

/// Of buffers, while nothing is in them.
const KEPT: usize = 1 << 20;

impl Link {
    /// Over this stream, on which nothing was said yet.
    pub fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            input: BytesMut::with_capacity(CHUNK),
            scanner: Scanner::new(Bounds::default()),
            output: Vec::new(),
            sent: 0,
            unflushed: false,
            heard: Instant::now(),
            received: 0,
        }
    }

    /// The same, after this was received of it already.
    pub fn going_on(stream: Box<dyn Stream>, received: &[u8]) -> Self {
        let mut link = Self::new(stream);
        link.input.extend_from_slice(received);
        link
    }

    /// What is sent next: commands are put behind it.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Bytes that the stream has not taken.
    pub fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// The last time that something came from the server.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Sends what waits, and receives. Returns when something came.
    pub async fn exchange(&mut self) -> Result<(), Lost> {
        poll_fn(|cx| self.poll_exchange(cx)).await
    }

    /// As [`Self::exchange`], for who waits for more than one thing.
    pub fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.poll_send(cx)?;
        if self.input.capacity() - self.input.len() < CHUNK / 4 {
            self.input.reserve(CHUNK);
        }
        let read = pin!(self.stream.read_buf(&mut self.input));
        match ready!(read.poll(cx)) {
            Ok(0) => Poll::Ready(Err(Lost::Closed)),
            Ok(bytes) => {
                self.received += bytes as u64;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(Lost::Io(error))),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        while self.sent < self.output.len() {
            let stream = Pin::new(&mut *self.stream);
            match stream.poll_write(cx, &self.output[self.sent..]) {
                Poll::Ready(Ok(0)) => return Err(Lost::Closed),
                Poll::Ready(Ok(bytes)) => self.sent += bytes,
                Poll::Ready(Err(error)) => return Err(Lost::Io(error)),
                Poll::Pending => break,
            }
            self.unflushed = true;
        }
        if self.unflushed {
            match Pin::new(&mut *self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(Lost::Io(error)),
                Poll::Pending => {}
            }
        }
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
            if self.output.capacity() > KEPT {
                self.output = Vec::new();
            }
        } else if self.sent > KEPT {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Hands on each reply that is whole, in order, until one is not wanted.
    pub fn replies(
        &mut self,
        now: Instant,
        mut each: impl FnMut(Reply<'_>) -> Result<(), Lost>,
    ) -> Result<(), Lost> {
        self.heard = now;
        let scanner = &mut self.scanner;
        take(&mut self.input, |input| {
            let Some(len) = scanner.scan(input).map_err(Lost::Protocol)? else { return Ok(None) };
            each(Reply::parse(&input[..len]).map_err(Lost::Protocol)?)?;
            Ok(Some(len))
        })
    }

    /// Hands on what came, of a protocol that is not RESP: `each` says how many bytes it has taken,
    /// or that it needs more than there are.
    pub fn pieces(
        &mut self,
        now: Instant,
        each: impl FnMut(&[u8]) -> Result<Option<usize>, Lost>,
    ) -> Result<(), Lost> {
        self.heard = now;
        take(&mut self.input, each)
    }
}

/// Hands on what was received until more is needed.
fn take(
    input: &mut BytesMut,
    mut each: impl FnMut(&[u8]) -> Result<Option<usize>, Lost>,
) -> Result<(), Lost> {
    let mut at = 0;
    let read = loop {
        match each(&input[at..]) {
            Ok(Some(len)) => at += len,
            Ok(None) => break Ok(()),
            Err(lost) => break Err(lost),
        }
    };
    input.advance(at);
    if input.is_empty() && input.capacity() > KEPT {
        *input = BytesMut::with_capacity(CHUNK);
    }
    read
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("unsent", &self.unsent())
            .field("unread", &self.input.len())
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::super::resp::command;
    use super::*;

    #[tokio::test]
    async fn replies_come_however_they_are_cut() {
        let wire = b"+PONG\r\n*2\r\n$1\r\na\r\n:7\r\n>1\r\n$3\r\nxyz\r\n-ERR no\r\n";
        for step in 1..wire.len() {
            let (client, mut server) = tokio::io::duplex(1000);
            let mut link = Link::new(Box::new(client));
            let mut seen = Vec::new();
            for piece in wire.chunks(step) {
                server.write_all(piece).await.unwrap();
                link.exchange().await.unwrap();
                let each = |reply: Reply<'_>| {
                    seen.push(format!("{reply:?}"));
                    Ok(())
                };
                link.replies(Instant::now(), each).unwrap();
            }
            assert_eq!(seen.len(), 4, "in pieces of {step}: {seen:?}");
            assert!(seen[1].contains("Integer(7)") && seen[3].contains("Error"), "{seen:?}");
        }
    }

    #[tokio::test]
    async fn what_waits_is_sent_as_the_stream_takes_it() {
        let (client, mut server) = tokio::io::duplex(7);
        let mut link = Link::new(Box::new(client));
        let mut expected = Vec::new();
        for n in 0..100 {
            command(link.output(), &["SET", &n.to_string()]);
            command(&mut expected, &["SET", &n.to_string()]);
        }
        let mut got = vec![0; expected.len()];
        let reader = async {
            server.read_exact(&mut got).await.unwrap();
            server.write_all(b"+OK\r\n").await.unwrap();
        };
        let (sent, ()) = tokio::join!(link.exchange(), reader);
        sent.unwrap();
        assert_eq!((got, link.unsent()), (expected, 0));
        drop(server);
        link.replies(Instant::now(), |_| Ok(())).unwrap();
        assert!(matches!(link.exchange().await, Err(Lost::Closed)));
    }

    #[tokio::test]
    async fn what_is_no_resp_ends_it() {
        let (client, mut server) = tokio::io::duplex(100);
        let mut link = Link::new(Box::new(client));
        server.write_all(b"+OK\r\nHTTP/1.1 400\r\n").await.unwrap();
        link.exchange().await.unwrap();
        let mut count = 0;
        let read = link.replies(Instant::now(), |_| {
            count += 1;
            Ok(())
        });
        assert!(matches!(read, Err(Lost::Protocol(Fault::Type(b'H')))), "{read:?}");
        assert_eq!(count, 1);
    }
}
