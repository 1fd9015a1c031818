//! Streams from a backend: message after message, for as long as both ends want. They have a
//! connection of their own, so that a question never waits behind them. The invariant: of a message
//! only what its stream may have unread is held before [`Feed::message`] is called, by whom there
//! is room for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::HttpBody;
use axum::http::HeaderMap;
use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use super::backend::{GrpcBackend, NoAnswer, PREFIX, check, explain, framed, request};
use crate::gateway::account::Held;
use crate::gateway::hooks::HookFailure;

/// What is sent on a stream: its first message, and those that follow, if any may.
pub(in crate::control) struct Outgoing {
    first: Option<Bytes>,
    more: Option<mpsc::UnboundedReceiver<Message>>,
    /// Of what was handed to the connection last.
    held: Option<[Held; 2]>,
}

/// A message on its way to the backend, and what it takes.
pub(in crate::control) type Message = (Bytes, [Held; 2]);

impl Outgoing {
    /// Without `more`, the first is all.
    pub(in crate::control) fn new(
        first: &[u8],
        more: Option<mpsc::UnboundedReceiver<Message>>,
    ) -> Self {
        Self { first: Some(framed(first)), more, held: None }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        // The connection has room for another, so the one before is on its way.
        self.held = None;
        let Some(more) = &mut self.more else { return Poll::Ready(None) };
        let Some((message, held)) = ready!(more.poll_recv(cx)) else { return Poll::Ready(None) };
        self.held = Some(held);
        Poll::Ready(Some(Ok(Frame::data(framed(&message)))))
    }
}

/// What a backend says on a stream. Dropped, it tells the backend that nobody listens.
pub(in crate::control) struct Feed {
    body: tonic::body::Body,
    buffer: BytesMut,
    /// The backend has said that all went well.
    well: bool,
    limit: usize,
}

impl GrpcBackend {
    /// Opens a stream. `limit`: bytes of a message.
    pub(in crate::control) async fn open(
        &self,
        path: &'static str,
        metadata: HeaderMap,
        outgoing: Outgoing,
        limit: usize,
    ) -> Result<Feed, NoAnswer> {
        let gone = |error: &dyn std::error::Error| (HookFailure::Unreachable, explain(error));
        let mut channel: Channel = self.feeds();
        let ready = channel.ready().await.map_err(|error| gone(&error))?;
        let answer = ready.call(request(path, metadata, tonic::body::Body::new(outgoing))).await;
        let answer = answer.map_err(|error| gone(&error))?;
        if answer.status() != 200 {
            return Err((HookFailure::Status, format!("HTTP {}", answer.status())));
        }
        let well = check(answer.headers())?;
        Ok(Feed { body: answer.into_body(), buffer: BytesMut::new(), well, limit })
    }
}

impl Feed {
    /// Bytes of the next message, when it begins. `None`: the backend has ended the stream, and
    /// well.
    pub(in crate::control) async fn begins(&mut self) -> Result<Option<usize>, NoAnswer> {
        while self.buffer.len() < PREFIX {
            if !self.more().await? {
                return match (self.buffer.is_empty(), self.well) {
                    (true, true) => Ok(None),
                    (true, false) => Err(wrong("without a status")),
                    (false, _) => Err(wrong("not a whole message")),
                };
            }
        }
        let length = [self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]];
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        match self.buffer[0] {
            0 if length <= self.limit => Ok(Some(length)),
            0 => Err(wrong("too large")),
            _ => Err(wrong("compressed, which was not asked for")),
        }
    }

    /// The message that has begun, of so many bytes.
    pub(in crate::control) async fn message(&mut self, length: usize) -> Result<Bytes, NoAnswer> {
        while self.buffer.len() < PREFIX + length {
            if !self.more().await? {
                return Err(wrong("not a whole message"));
            }
        }
        self.buffer.advance(PREFIX);
        // A copy of its own: what the connection received with it would stay as long.
        let message = Bytes::copy_from_slice(&self.buffer.split_to(length));
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(message)
    }

    /// Reads on. False: there is no more.
    async fn more(&mut self) -> Result<bool, NoAnswer> {
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            let Some(frame) = next else { return Ok(false) };
            let frame = frame.map_err(|status| (HookFailure::Unreachable, status.to_string()))?;
            match frame.into_data() {
                Ok(piece) => {
                    self.buffer.extend_from_slice(&piece);
                    return Ok(true);
                }
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        self.well |= check(trailers)?;
                    }
                }
            }
        }
    }
}

fn wrong(what: &str) -> NoAnswer {
    (HookFailure::BadReply, what.to_owned())
}
