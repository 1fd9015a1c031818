//! What an application implements, and what it is told.

use std::net::SocketAddr;
use std::time::Duration;

use super::conn::{Connection, Context, Message};
use super::handover::Detached;
use super::value::{Closed, ConnId, Ending, HeartbeatAction};
use crate::protocol::HttpResponse;
use crate::protocol::request::{Refusal, Request};

/// An application on one core. Every method is called by that core's thread, one at a time, so
/// nothing in it needs to be `Send`, locked or atomic. A method must not block: all connections of
/// the core wait for it. A panic closes the connection it was called for with 1011 and is counted.
pub trait Handler: Sized + 'static {
    /// What the application keeps per connection. `()` costs one byte.
    type State: 'static;

    /// What other threads may send to this core with [`super::Handle::post`].
    type Event: Send + 'static;

    /// Decides about an upgrade request that is valid by RFC 6455: accept it, with a state,
    /// a subprotocol and headers, or refuse it.
    fn on_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        peer: SocketAddr,
    ) -> UpgradeAction<Self::State>;

    /// Whether messages may be compressed on a connection that was just accepted, where
    /// [`super::Config::compression`] allows it and the client offers it.
    fn compresses(&self, state: &Self::State) -> bool {
        let _ = state;
        true
    }

    /// Decides about a request that does not ask for WebSocket. Asked again, with the body, after
    /// [`HttpAction::Body`].
    fn on_http(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        body: Option<&[u8]>,
        peer: SocketAddr,
    ) -> HttpAction<Self::State> {
        let _ = (cx, request, body, peer);
        HttpAction::Refuse
    }

    /// A connection left the engine: see [`Detached`].
    fn on_detach(&mut self, cx: &mut Context<'_>, passed: Detached) {
        let _ = (cx, passed);
    }

    /// The connection is open; sending is allowed from here on.
    fn on_open(&mut self, conn: &mut Connection<'_>, state: &mut Self::State) {
        let _ = (conn, state);
    }

    /// A whole message arrived. Its payload is borrowed; text is valid UTF-8.
    fn on_message(
        &mut self,
        conn: &mut Connection<'_>,
        state: &mut Self::State,
        message: Message<'_>,
    );

    /// An outbox that was over its high-water mark (half of its limit, or less where one more
    /// message would not fit) has drained to a quarter of that.
    fn on_writable(&mut self, conn: &mut Connection<'_>, state: &mut Self::State) {
        let _ = (conn, state);
    }

    /// It is time for a heartbeat, which the application may send itself. Called for streams, and
    /// for WebSockets with [`super::Heartbeat::steady`]; to others the engine sends its pings
    /// without asking. Of a stream the answer comes by another way, and is told with
    /// [`Context::heard`].
    fn on_heartbeat(
        &mut self,
        conn: &mut Connection<'_>,
        state: &mut Self::State,
    ) -> HeartbeatAction {
        let _ = (conn, state);
        HeartbeatAction::Ping
    }

    /// A connection ends, and the application has the last word. The engine sends the bytes that
    /// this appends to `out`: on a WebSocket as a text message before the close frame, on a stream
    /// as the end of its body. No bytes: no message.
    ///
    /// The engine asks once, behind the callback that ended the connection and before
    /// [`Self::on_close`], so the state is as that callback left it. It does not ask where the
    /// connection is cut or broken, nor for a stream without an answer. A panic counts, and sends
    /// no message.
    fn farewell(&self, state: &Self::State, ending: &Ending<'_>, out: &mut Vec<u8>) {
        let _ = (state, ending, out);
    }

    /// The connection is gone, for whatever reason; exactly once for each [`Self::on_open`].
    /// Sending to `id` is refused from here on, its topics and timers are gone.
    fn on_close(&mut self, cx: &mut Context<'_>, id: ConnId, state: Self::State, closed: &Closed) {
        let _ = (cx, id, state, closed);
    }

    /// Bytes of memory that an event holds besides itself: buffers, boxes, its share of what others
    /// hold too. What waits for a core is bounded by it, see [`super::Config::mailbox_bytes`].
    fn event_size(event: &Self::Event) -> usize {
        let _ = event;
        0
    }

    /// An event from another thread, or from this core's own handler.
    fn on_event(&mut self, cx: &mut Context<'_>, event: Self::Event) {
        let _ = (cx, event);
    }

    /// An outgoing connection made with [`Context::dial`] completed its handshake and is about to
    /// open. `None` drops it.
    fn on_dialled(&mut self, cx: &mut Context<'_>, tag: u64) -> Option<Self::State> {
        let _ = (cx, tag);
        None
    }

    /// An outgoing connection failed before it was open.
    fn on_dial_failed(&mut self, cx: &mut Context<'_>, tag: u64, error: &str) {
        let _ = (cx, tag, error);
    }

    /// A timer rings that was set with [`Context::set_timer`], with its tag.
    fn on_timer(&mut self, cx: &mut Context<'_>, tag: u64) {
        let _ = (cx, tag);
    }

    /// Called once per turn, after everything else. Returns how long the core may sleep at most, if
    /// the application has deadlines of its own.
    fn on_turn(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let _ = cx;
        None
    }

    /// A drain is complete: no connection is left, and every event was given. Whether the core goes
    /// on nevertheless, for events of other threads; asked again after each turn, at least every 10
    /// ms. After the first `false` nothing is called any more: the last chance to hand over what
    /// the application keeps.
    fn lingers(&mut self, cx: &mut Context<'_>) -> bool {
        let _ = cx;
        false
    }
}

/// The application's decision about an upgrade request.
#[derive(Debug)]
#[non_exhaustive]
pub enum UpgradeAction<S> {
    /// Switch protocols.
    Accept {
        /// The connection's state.
        state: S,
        /// One of the offered subprotocols, or none.
        protocol: Option<String>,
        /// Further headers of the response. Those with line breaks are left out.
        headers: Vec<(String, String)>,
    },
    /// Answer with this status and close.
    Refuse(Refusal),
    /// Answer with any status, headers and body, and close: to ask for a login, to send elsewhere,
    /// to name a limit. Counted as a refusal from 400 on. See [`HttpAction::Respond`] for the limit
    /// of the body.
    Respond(HttpResponse),
}

impl<S> UpgradeAction<S> {
    /// Accepts without subprotocol.
    pub fn accept(state: S) -> Self {
        Self::Accept { state, protocol: None, headers: Vec::new() }
    }
}

/// The application's decision about a request that does not ask for WebSocket.
#[derive(Debug)]
#[non_exhaustive]
pub enum HttpAction<S> {
    /// Answer with 426, 405 or 505: there is nothing here but WebSocket.
    Refuse,
    /// Hand it over, connection and all, to [`Handler::on_detach`]. Needs Linux 6.8; on older
    /// kernels the answer is 503.
    Detach,
    /// Read the body, of at most so many bytes, and ask again. Answered with 411 if its length is
    /// not said, with 413 if it is longer, with 408 if it takes longer than the handshake may.
    Body(usize),
    /// Answer and end the connection: a health check, a page. Counted as a refusal from 400 on. The
    /// body counts for [`super::Config::max_outboxes`]; one that is longer than half of that, or
    /// than what the turn has left of it, is not sent, and the answer is 503.
    Respond(HttpResponse),
    /// Answer as [`Self::Respond`] and wait for the connection's next request, for
    /// [`super::Config::keep_alive`]. Where the client goes on (HTTP/1.1 without `Connection:
    /// close`), all of the request's body has come, and no more than [`super::Config::max_kept`]
    /// stay; else the answer ends the connection. Requests that were sent one behind the other are
    /// answered in their order, each when the answer before has left.
    Answer(HttpResponse),
    /// The same, with an answer that comes later: [`super::Context::answer`] gives it, for the
    /// connection that [`super::Context::asking`] names, on this core. Nothing more is read of the
    /// connection until then, or until [`super::Config::answer_timeout`]. A connection that ends
    /// meanwhile is not told of: answering it is an error.
    AnswerLater,
    /// Answer with 200 and keep the connection open, to send on it: it is a connection like any
    /// other, with [`Handler::on_open`], heartbeats, limits and [`Handler::on_close`], but no
    /// message comes on it. Messages are written without frames, one after the other.
    Stream {
        /// The connection's state.
        state: S,
        /// Headers of the response. Those with line breaks are left out.
        headers: Vec<(String, String)>,
    },
    /// The same, but not answered yet: [`super::Context::begin`] answers with 200, and
    /// [`super::Context::respond`] with anything else, which is the end. Until then whatever is
    /// sent is refused, and where the engine ends the connection the answer is 503.
    Later {
        /// The connection's state.
        state: S,
    },
}
