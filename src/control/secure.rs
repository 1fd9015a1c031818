//! TLS on the control plane's connections: a socket that speaks it, as a stream of plain bytes.
//!
//! Owns a connection's handshake, if the engine has not done it, and its record layer. The
//! invariant: bytes are neither lost nor seen twice, nothing leaves in the clear, and after a fault
//! nothing is read or written any more.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::keys::{KeyFault, ServerMaterials, ServerSetup};
use crate::tls::{Fault, Greeting, Limits, Opened, Parts, RECORD_MAX, Record, Step, greet, length};

/// What handshakes of the control plane share; a reload exchanges it, and connections that are open
/// keep what they have.
#[derive(Clone)]
pub struct Certificates(Arc<RwLock<Arc<ServerSetup>>>, &'static [u8]);

impl Certificates {
    /// Those that were loaded, for a protocol by its name in TLS (ALPN).
    pub fn new(materials: &ServerMaterials, protocol: &'static [u8]) -> Result<Self, KeyFault> {
        let setup = Arc::new(materials.setup_for(protocol)?);
        Ok(Self(Arc::new(RwLock::new(setup)), protocol))
    }

    /// Others from now on.
    pub fn replace(&self, materials: &ServerMaterials) -> Result<(), KeyFault> {
        let setup = Arc::new(materials.setup_for(self.1)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = setup;
        Ok(())
    }

    fn current(&self) -> Arc<ServerSetup> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

/// A socket, with TLS or without.
pub(crate) enum Wire<S> {
    Plain(S),
    Secure(Box<Secure<S>>),
}

/// A socket with TLS.
pub(crate) struct Secure<S> {
    socket: S,
    state: State,
    /// Received bytes, worked off up to `start`; `plain` of them are opened and not taken.
    received: Vec<u8>,
    start: usize,
    plain: std::ops::Range<usize>,
    /// Records to be sent.
    out: Vec<u8>,
    sent: usize,
}

enum State {
    /// Before the first record of a client.
    New(Certificates),
    Greeting(Box<Greeting>),
    Open(Box<Record>),
    /// The client said that nothing follows.
    Ended(Box<Record>),
    Broken,
}

impl<S> Secure<S> {
    /// A connection that was just accepted.
    pub(crate) fn accepted(socket: S, certificates: Certificates) -> Self {
        Self::of(socket, State::New(certificates), Vec::new(), Vec::new())
    }

    /// One that the engine hands over.
    pub(crate) fn handed_over(socket: S, parts: Parts) -> Self {
        let Parts { record, received, unsent } = parts;
        Self::of(socket, State::Open(Box::new(record)), received, unsent)
    }

    fn of(socket: S, state: State, received: Vec<u8>, out: Vec<u8>) -> Self {
        Self { socket, state, received, start: 0, plain: 0..0, out, sent: 0 }
    }

    /// Works off one whole record, if there is one.
    fn step(&mut self) -> Result<bool, Fault> {
        let rest = &mut self.received[self.start..];
        let len = match &self.state {
            State::New(_) => greet::length(rest, true)?,
            State::Greeting(_) => greet::length(rest, false)?,
            State::Open(_) => length(rest)?,
            State::Ended(_) => return Ok(false),
            State::Broken => return Err(Fault::Closed),
        };
        let Some(len) = len.filter(|len| *len <= rest.len()) else { return Ok(false) };
        let record = &mut rest[..len];
        if let State::New(certificates) = &self.state {
            self.state = State::Greeting(Box::new(Greeting::server(&certificates.current())?));
        }
        match &mut self.state {
            State::Greeting(greeting) => {
                if let Step::Done(welcome) = greeting.feed(record, &mut self.out)? {
                    self.state = State::Open(Box::new(welcome.record));
                }
            }
            State::Open(layer) => {
                let opened = layer.open(&LIMITS, record)?;
                // One answer stands for many (RFC 8446 section 4.6.3). A peer that reads none gets
                // it with the next record, so that answers never add up.
                if self.out.is_empty() {
                    layer.settle(&mut self.out)?;
                }
                match opened {
                    Opened::Data(place) => {
                        self.plain = self.start + place.start..self.start + place.end;
                    }
                    Opened::Nothing | Opened::Messages(_) => {}
                    Opened::Closed => {
                        if let State::Open(layer) =
                            std::mem::replace(&mut self.state, State::Broken)
                        {
                            self.state = State::Ended(layer);
                        }
                    }
                }
            }
            State::New(_) | State::Ended(_) | State::Broken => {}
        }
        self.start += len;
        Ok(true)
    }

    /// Nothing goes on; the client hears why as far as it can.
    fn fail(&mut self, fault: &Fault) -> io::Error {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Open(mut layer) | State::Ended(mut layer) => {
                layer.refuse(fault, &mut self.out);
            }
            _ if *fault == Fault::NotTls => self.out.extend_from_slice(NOT_TLS),
            // A greeting has written its alert itself.
            State::New(_) => greet::alert(fault, &mut self.out),
            State::Greeting(_) | State::Broken => {}
        }
        io::Error::new(io::ErrorKind::InvalidData, fault.to_string())
    }

    /// Drops the bytes that are worked off.
    fn tidy(&mut self) {
        if self.start == self.received.len() {
            self.received.clear();
            if self.received.capacity() > KEPT {
                self.received = Vec::new();
            }
        } else {
            self.received.drain(..self.start);
        }
        self.start = 0;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Secure<S> {
    /// Sends what there is to be sent.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let written =
                ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.out.clear();
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        }
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// The same, as far as it goes at once.
    fn try_out(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.poll_out(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Receives more of what was received in part. False: the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.tidy();
        let have = self.received.len();
        self.received.resize((have + CHUNK).min(RECORD_MAX + CHUNK), 0);
        let mut room = ReadBuf::new(&mut self.received[have..]);
        let outcome = Pin::new(&mut self.socket).poll_read(cx, &mut room);
        let count = room.filled().len();
        self.received.truncate(have + count);
        ready!(outcome)?;
        Poll::Ready(Ok(count > 0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Secure<S> {
    /// Goes on with the handshake until it is done: HTTP/2 writes before it reads.
    fn poll_greet(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while matches!(self.state, State::New(_) | State::Greeting(_)) {
            let stepped = self.step();
            let outcome = stepped.map_err(|fault| self.fail(&fault));
            self.try_out(cx)?;
            if !outcome? && !ready!(self.poll_more(cx))? {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secure<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.plain.is_empty() {
                let count = this.plain.len().min(buf.remaining());
                buf.put_slice(&this.received[this.plain.start..this.plain.start + count]);
                this.plain.start += count;
                return Poll::Ready(Ok(()));
            }
            if matches!(this.state, State::Ended(_)) {
                return Poll::Ready(Ok(()));
            }
            let stepped = this.step();
            let outcome = stepped.map_err(|fault| this.fail(&fault));
            this.try_out(cx)?;
            // One that ends without a word is for HTTP to judge, whose messages have lengths.
            if !outcome? && !ready!(this.poll_more(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secure<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_greet(cx))?;
        // At most one record waits.
        ready!(this.poll_out(cx))?;
        let (State::Open(layer) | State::Ended(layer)) = &mut this.state else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let count = buf.len().min(CONTENT_MAX);
        let sealed = layer.seal(&LIMITS, &[&buf[..count]], &mut this.out);
        sealed.map_err(|fault| this.fail(&fault))?;
        this.try_out(cx)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let State::Open(layer) | State::Ended(layer) = &mut this.state {
            layer.close(&mut this.out);
        }
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            // One buffer is one record.
            Self::Secure(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

const LIMITS: Limits = Limits::DEFAULT;

/// Bytes of content in a record.
const CONTENT_MAX: usize = 16 << 10;

/// Received at once.
const CHUNK: usize = 4 << 10;

/// Of buffers, while nothing is in them.
const KEPT: usize = 8 << 10;

/// The answer to plain HTTP, in the clear.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 22\r\n\r\nthis port speaks TLS\r\n";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::tls::{Aead, Role};

    const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

    fn record(role: Role) -> Record {
        Record::from_secrets(role, Aead::Aes128Gcm, SECRETS[0], SECRETS[1])
    }

    /// Whatever was received before, and however the rest comes, all of it is read once.
    #[tokio::test]
    async fn what_the_engine_received_comes_first() {
        for split in [0, 1, 5, 30, 100] {
            let mut client = record(Role::Client);
            let mut wire = Vec::new();
            for text in ["hello", " ", &"world".repeat(10_000)] {
                client.seal(&LIMITS, &[text.as_bytes()], &mut wire).unwrap();
            }
            let (mut peer, socket) = tokio::io::duplex(1000);
            let parts = Parts {
                record: record(Role::Server),
                received: wire[..split].to_vec(),
                unsent: b"before".to_vec(),
            };
            let mut stream = Secure::handed_over(socket, parts);
            let rest = wire[split..].to_vec();
            let sender = tokio::spawn(async move {
                peer.write_all(&rest).await.unwrap();
                let mut heard = [0; 6];
                peer.read_exact(&mut heard).await.unwrap();
                (peer, heard)
            });
            let mut text = vec![0; 6 + 50_000];
            stream.read_exact(&mut text).await.unwrap();
            assert!(text.starts_with(b"hello worldworld") && text.ends_with(b"world"));
            let (mut peer, heard) = sender.await.unwrap();
            assert_eq!(&heard, b"before");
            stream.write_all(b"answer").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut sealed = Vec::new();
            peer.read_to_end(&mut sealed).await.unwrap();
            let len = length(&sealed).unwrap().unwrap();
            let opened = client.open(&LIMITS, &mut sealed[..len]).unwrap();
            assert!(matches!(opened, Opened::Data(place) if &sealed[place.clone()] == b"answer"));
            assert_eq!(client.open(&LIMITS, &mut sealed[len..]), Ok(Opened::Closed));
        }
    }

    /// A client that reads nothing asks for an answer after each byte that it sends.
    #[tokio::test]
    async fn answers_that_nobody_reads_do_not_add_up() {
        const BYTES: usize = 2000;
        let (mut client, mut wire) = (record(Role::Client), Vec::new());
        for _ in 0..BYTES {
            client.seal(&LIMITS, &[b"x"], &mut wire).unwrap();
            client.update_key(true, &mut wire).unwrap();
        }
        let (mut peer, socket) = tokio::io::duplex(100);
        let parts = Parts { record: record(Role::Server), received: wire, unsent: Vec::new() };
        let mut stream = Secure::handed_over(socket, parts);
        stream.read_exact(&mut [0; BYTES]).await.unwrap();
        assert!(stream.out.len() < 100, "{} bytes of answers", stream.out.len());

        let speaker = tokio::spawn(async move {
            stream.write_all(b"answer").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut sealed = Vec::new();
        peer.read_to_end(&mut sealed).await.unwrap();
        speaker.await.unwrap();
        let (mut at, mut text) = (0, Vec::new());
        while let Some(len) = length(&sealed[at..]).unwrap() {
            let opened = client.open(&LIMITS, &mut sealed[at..at + len]).unwrap();
            if let Opened::Data(place) = opened {
                text.extend_from_slice(&sealed[at + place.start..at + place.end]);
            }
            at += len;
        }
        assert_eq!((text.as_slice(), at), (&b"answer"[..], sealed.len()), "keys go in step");
    }

    #[tokio::test]
    async fn a_damaged_record_ends_it_with_an_alert() {
        let (mut peer, socket) = tokio::io::duplex(1000);
        let parts =
            Parts { record: record(Role::Server), received: Vec::new(), unsent: Vec::new() };
        let mut stream = Secure::handed_over(socket, parts);
        peer.write_all(&[23, 3, 3, 0, 20]).await.unwrap();
        peer.write_all(&[7; 20]).await.unwrap();
        let error = stream.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(stream.write(b"x").await.is_err());
        assert!(stream.read(&mut [0; 10]).await.is_err());
        drop(stream);
        let mut sealed = Vec::new();
        peer.read_to_end(&mut sealed).await.unwrap();
        let mut client = record(Role::Client);
        assert_eq!(client.open(&LIMITS, &mut sealed), Err(Fault::Alert(20)));
    }

    /// An empty slice writes nothing, and so many bytes are one record.
    #[tokio::test]
    async fn an_end_without_a_word_is_the_end() {
        let (peer, socket) = tokio::io::duplex(1000);
        let parts =
            Parts { record: record(Role::Server), received: vec![23, 3], unsent: Vec::new() };
        let mut stream = Secure::handed_over(socket, parts);
        drop(peer);
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    }
}
