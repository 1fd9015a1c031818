//! A socket of which some bytes were read already: they come first, then the rest.
//!
//! Also gives up on a peer that takes nothing of an answer for too long, which hyper has no
//! deadline for. Invariant: bytes are neither lost nor seen twice.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream with bytes before it.
pub(crate) struct Replayed<S> {
    prefix: Bytes,
    stream: S,
    write_timeout: Duration,
    /// Runs while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Replayed<S> {
    pub(crate) fn new(prefix: Bytes, stream: S, write_timeout: Duration) -> Self {
        Self { prefix, stream, write_timeout, stalled: None }
    }

    /// Turns a write that waits for too long into an error.
    fn deadline<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let until = Instant::now() + self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replayed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let length = this.prefix.len().min(buf.remaining());
        buf.put_slice(&this.prefix[..length]);
        this.prefix.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replayed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.deadline(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.deadline(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What is sealed is written here.
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.deadline(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    #[tokio::test]
    async fn the_bytes_before_come_first() {
        for prefix in ["", "x", "abcdefghij"] {
            for step in 1..12 {
                let (mut peer, stream) = tokio::io::duplex(64);
                peer.write_all(b"KLM").await.unwrap();
                drop(peer);
                let mut replayed = Replayed::new(Bytes::from(prefix), stream, PATIENCE);
                let mut all = Vec::new();
                let mut piece = vec![0; step];
                loop {
                    let length = replayed.read(&mut piece).await.unwrap();
                    if length == 0 {
                        break;
                    }
                    all.extend_from_slice(&piece[..length]);
                }
                assert_eq!(all, format!("{prefix}KLM").as_bytes(), "step {step}");
            }
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (_peer, stream) = tokio::io::duplex(8);
        let mut replayed = Replayed::new(Bytes::new(), stream, Duration::from_millis(10));
        replayed.write_all(b"12345678").await.unwrap();
        let error = replayed.write_all(b"9").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_takes_something_starts_the_time_again() {
        let (mut peer, stream) = tokio::io::duplex(8);
        let mut replayed = Replayed::new(Bytes::new(), stream, PATIENCE);
        replayed.write_all(b"12345678").await.unwrap();
        let mut write = Box::pin(replayed.write_all(b"9"));
        let once = std::future::poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx).is_ready()));
        assert!(!once.await, "there was room");
        peer.read_exact(&mut [0; 8]).await.unwrap();
        write.await.unwrap();
        assert!(replayed.stalled.is_none());
    }
}
