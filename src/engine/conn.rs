//! What an application holds in its hands: messages, and the contexts of callbacks.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::appointments::TimerId;
use super::core::Core;
use super::limits::Allowance;
use super::slots::{Flags, Marks, Phase};
use super::value::{Cause, ConnId, DialTarget, Frame, SendError};
use crate::common::table::SlotTable;
use crate::protocol::frame::Opcode;
use crate::protocol::{CloseCode, HttpResponse, Kind};

/// A received message. Where it lies decides what is cheap: [`Message::payload`] always borrows,
/// [`Connection::reply`] never copies.
#[derive(Debug)]
pub struct Message<'a> {
    kind: Kind,
    body: Body<'a>,
}

#[derive(Debug)]
pub(super) enum Body<'a> {
    /// In the receive arena; the frame's header lies before the range.
    Arena(&'a mut [u8], Range<usize>),
    /// Assembled from several reads or fragments.
    Owned(Bytes),
    /// Inflated, to where the core inflates.
    Inflated(&'a [u8]),
}

impl<'a> Message<'a> {
    pub(super) fn new(kind: Kind, body: Body<'a>) -> Self {
        Self { kind, body }
    }

    /// Text or binary.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        match &self.body {
            Body::Arena(arena, range) => &arena[range.clone()],
            Body::Owned(data) => data,
            Body::Inflated(data) => data,
        }
    }

    /// The payload as text; `None` if the message is binary.
    pub fn text(&self) -> Option<&str> {
        match self.kind {
            // Checked on receipt; checking again costs less than an `unsafe` would.
            Kind::Text => simdutf8::basic::from_utf8(self.payload()).ok(),
            Kind::Binary => None,
        }
    }

    /// The payload, to keep: without a copy if the message was assembled.
    pub fn into_bytes(self) -> Bytes {
        match self.body {
            Body::Arena(arena, range) => Bytes::copy_from_slice(&arena[range]),
            Body::Owned(data) => data,
            Body::Inflated(data) => Bytes::copy_from_slice(data),
        }
    }
}

/// A core, as seen from a callback.
pub struct Context<'a> {
    pub(super) core: &'a mut Core,
    /// The states of all connections (a `SlotTable`), where the callback has none of them.
    pub(super) states: Option<&'a mut dyn Any>,
}

impl Context<'_> {
    /// The index of this core.
    pub fn core(&self) -> usize {
        usize::from(self.core.number)
    }

    /// Monotonic time, read once per turn.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.core.clock.now_ns())
    }

    /// 64 bits from a fast generator that the kernel seeded. Not for secrets.
    pub fn random(&mut self) -> u64 {
        self.core.rng.draw()
    }

    /// Connections of this core, in any phase.
    pub fn connections(&self) -> u32 {
        self.core.slots.used()
    }

    /// A copy of this core's counters.
    pub fn counters(&self) -> super::Counters {
        self.core.counters()
    }

    /// Queues a frame for any connection, of this core or another. Another core's answer is not
    /// awaited: `Ok` means that its mailbox took the frame.
    pub fn send_to(&mut self, id: ConnId, frame: &Frame) -> Result<(), SendError> {
        if id.core == self.core.number {
            return self.core.queue_frame(id.slot, id.generation, frame);
        }
        self.core.send_remote(id, frame)
    }

    /// Queues a message for any connection, of this core or another, as [`Self::send_to`]. On this
    /// core the payload is copied once, without an allocation.
    pub fn send_message_to(
        &mut self,
        id: ConnId,
        kind: Kind,
        payload: &[u8],
    ) -> Result<(), SendError> {
        if id.core == self.core.number {
            return self.core.queue_message(id.slot, id.generation, kind, payload);
        }
        self.core.send_remote(id, &Frame::new(kind, payload))
    }

    /// As [`Self::send_message_to`], never compressed on this core: for messages with secrets
    /// beside text that somebody else chooses, since the length of a compressed one would tell. A
    /// message for another core travels as a frame, which that core may compress.
    pub fn send_secret_to(
        &mut self,
        id: ConnId,
        kind: Kind,
        payload: &[u8],
    ) -> Result<(), SendError> {
        if id.core == self.core.number {
            return self.core.queue_secret(id.slot, id.generation, kind, payload);
        }
        self.core.send_remote(id, &Frame::new(kind, payload))
    }

    /// As [`Self::send_to`], with bytes of the receiver's own before those that it shares, as one
    /// message. Only for streams of this core; others get the frame alone.
    pub fn send_prefixed_to(
        &mut self,
        id: ConnId,
        prefix: &[u8],
        frame: &Frame,
    ) -> Result<(), SendError> {
        if id.core == self.core.number {
            return self.core.queue_prefixed(id.slot, id.generation, prefix, frame);
        }
        self.core.send_remote(id, frame)
    }

    /// Whether messages can be sent to a connection of this core.
    pub fn is_open_at(&self, id: ConnId) -> bool {
        let hot = self.core.slots.get(id.slot).filter(|hot| hot.generation == id.generation);
        id.core == self.core.number && hot.is_some_and(|hot| hot.phase() == Phase::Open)
    }

    /// The client of a stream of this core has sent a message of so many bytes by another way: what
    /// a message on a WebSocket would be, it is proof of life, answers a heartbeat and counts
    /// towards the rate of messages. Beyond that rate the stream is closed, under either policy,
    /// since nothing can be left unread. Returns whether the stream is open.
    pub fn heard(&mut self, id: ConnId, bytes: usize) -> bool {
        if !self.is_open_at(id) {
            return false;
        }
        self.core.settle_accounts(id.slot);
        self.core.on_life(id.slot);
        let tick = self.core.clock.tick();
        if let Some(hot) = self.core.slots.get_mut(id.slot) {
            hot.active = tick;
        }
        self.core.counted.messages_in += 1;
        self.core.counted.payload_in += bytes as u64;
        if self.core.spend_message(id.slot) != Allowance::Granted {
            self.core.fail(id.slot, Cause::Rate, CloseCode::POLICY, "too many messages");
            return false;
        }
        true
    }

    /// Bytes queued for a connection of this core that are not sent.
    pub fn queued_at(&self, id: ConnId) -> usize {
        let hot = self.core.slots.get(id.slot).filter(|hot| hot.generation == id.generation);
        hot.and_then(|hot| hot.outbox.as_ref()).map_or(0, |outbox| outbox.bytes())
    }

    /// Whether the outbox of a connection of this core went over its high-water mark, and
    /// [`super::Handler::on_writable`] will tell when it is low again.
    pub fn is_congested_at(&self, id: ConnId) -> bool {
        let hot = self.core.slots.get(id.slot).filter(|hot| hot.generation == id.generation);
        hot.is_some_and(|hot| hot.has(Flags::HIGH_WATER))
    }

    /// Leaves further input of a WebSocket of this core in the kernel, until [`Self::resume`]: for
    /// an application that has enough to do for it. What was received already still comes.
    pub fn hold(&mut self, id: ConnId) {
        if id.core == self.core.number {
            self.core.hold(id.slot, id.generation);
        }
    }

    /// Ends [`Self::hold`].
    pub fn resume(&mut self, id: ConnId) {
        if id.core == self.core.number {
            self.core.resume(id.slot, id.generation);
        }
    }

    /// Starts the close handshake of any connection.
    pub fn close(&mut self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), SendError> {
        if id.core == self.core.number {
            return self.core.close_by_application(id.slot, id.generation, code, reason);
        }
        self.core.close_remote(id, code, reason)
    }

    /// Answers the request of a [`HttpAction::Later`](super::HttpAction) with 200 and these
    /// headers; those with line breaks are left out. Its messages may be sent from here on.
    ///
    /// # Errors
    /// It is gone, of another core, or has its answer.
    pub fn begin(&mut self, id: ConnId, headers: &[(String, String)]) -> Result<(), SendError> {
        if id.core != self.core.number {
            return Err(SendError::Gone);
        }
        self.core.begin_stream(id.slot, id.generation, headers)
    }

    /// Answers it with something else, and ends it. The body has the limit of
    /// [`HttpAction::Respond`](super::HttpAction::Respond): without room the answer is 503.
    ///
    /// # Errors
    /// As of [`Self::begin`].
    pub fn respond(&mut self, id: ConnId, response: &HttpResponse) -> Result<(), SendError> {
        if id.core != self.core.number {
            return Err(SendError::Gone);
        }
        self.core.respond(id.slot, id.generation, response)
    }

    /// The connection whose request is decided about, in
    /// [`Handler::on_http`](super::Handler::on_http); `None` elsewhere.
    pub fn asking(&self) -> Option<ConnId> {
        self.core.requests.asking()
    }

    /// Has a connection served here that was accepted elsewhere, in the clear, and of which nothing
    /// was read. `port`, not 0, is what [`Self::port`] says of it. It takes no seat of
    /// [`Config::max_connections`](super::Config::max_connections), counts for no address and
    /// begins with no PROXY header.
    ///
    /// Where there is no room, where the server goes away, and on kernels before Linux 6.8, which
    /// could not give it back later, it goes to [`Handler::on_detach`](super::Handler::on_detach)
    /// at the end of the turn.
    pub fn adopt(&mut self, socket: OwnedFd, peer: SocketAddr, port: u8) {
        self.core.adopted.ask(socket, peer, port);
    }

    /// By which port the connection came that is decided about, in
    /// [`Handler::on_upgrade`](super::Handler::on_upgrade) and
    /// [`Handler::on_http`](super::Handler::on_http), or that left, in
    /// [`Handler::on_detach`](super::Handler::on_detach): 0 if it was accepted here.
    pub fn port(&self) -> u8 {
        self.core.adopted.at_hand()
    }

    /// Answers a request after [`HttpAction::AnswerLater`](super::HttpAction::AnswerLater). The
    /// body has the limit of [`HttpAction::Respond`](super::HttpAction::Respond).
    ///
    /// # Errors
    /// [`SendError::Gone`]: the connection is gone, of another core, or awaits no answer.
    pub fn answer(&mut self, id: ConnId, response: &HttpResponse) -> Result<(), SendError> {
        if id.core != self.core.number {
            return Err(SendError::Gone);
        }
        self.core.answer_later(id.slot, id.generation, response)
    }

    /// The address and port of a connection's peer; `None` if the connection is gone, or of another
    /// core.
    pub fn peer_addr(&mut self, id: ConnId) -> Option<SocketAddr> {
        if id.core != self.core.number {
            return None;
        }
        self.core.slots.lookup(id.slot, id.generation)?;
        self.core.slots.cold(id.slot).map(|cold| cold.peer())
    }

    /// The state of a connection of this core, whose type is [`Handler::State`](super::Handler).
    /// `None` if the connection is gone, or of another core.
    ///
    /// Not in the callbacks of one connection, which are given a [`Connection`]: they have that
    /// connection's state as a parameter, and get `None` here (with debug assertions it panics).
    /// They reach another's by an event to their own core.
    pub fn state<S: 'static>(&mut self, id: ConnId) -> Option<&mut S> {
        debug_assert!(self.states.is_some(), "asked in the callback of a connection");
        if id.core != self.core.number {
            return None;
        }
        self.core.slots.lookup(id.slot, id.generation)?;
        let table = self.states.as_mut()?.downcast_mut::<SlotTable<S>>();
        debug_assert!(table.is_some(), "the type is not that of the handler's states");
        table?.get_mut(id.slot)
    }

    /// Calls [`Handler::on_timer`](super::Handler::on_timer) with `tag` on this core, once, when
    /// this time has passed, or in the next turn if it is zero. How many there may be is up to the
    /// application: each takes about 50 bytes. Those of a core that has ended never ring.
    pub fn set_timer(&mut self, after: Duration, tag: u64) -> TimerId {
        let now_ns = self.core.clock.now_ns();
        self.core.appointments.set(now_ns, after, tag)
    }

    /// Takes a timer back. False if it has rung already, or was set on another core.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.core.appointments.cancel(timer)
    }

    /// Subscribes any connection to a topic, of this core or another; nothing changes where it is
    /// subscribed. Another core's answer is not awaited: `Ok` means that its mailbox took the wish.
    ///
    /// [`SendError::Gone`]: the connection is not open. [`SendError::Busy`]: its core's mailbox is
    /// full.
    pub fn subscribe_at(&mut self, id: ConnId, topic: &str) -> Result<(), SendError> {
        self.core.subscribe_at(id, topic, true)
    }

    /// Ends a subscription of any connection, as [`Self::subscribe_at`] begins one.
    pub fn unsubscribe_at(&mut self, id: ConnId, topic: &str) -> Result<(), SendError> {
        self.core.subscribe_at(id, topic, false)
    }

    /// How many connections of this core are subscribed to a topic;
    /// [`Handle::subscribers`](super::Handle::subscribers) asks all cores.
    pub fn subscribers(&self, topic: &str) -> usize {
        self.core.fanout.topics().count(topic)
    }

    /// Sends a frame to every subscriber of a topic on every core. The frame is shared, not copied.
    /// A core whose mailbox is full misses it, which is counted.
    pub fn publish(&mut self, topic: &str, frame: &Frame) {
        let frame = &self.core.compressible(frame);
        self.core.publish_local(topic, frame, None);
        self.core.publish_remote(topic, frame);
    }

    /// Opens an outgoing connection, from `local` if given. [`super::Handler::on_dialled`] or
    /// [`super::Handler::on_dial_failed`] tell the outcome with the same `tag`.
    ///
    /// Its mask keys come from a fast generator that is seeded by the kernel, which is meant for
    /// load generation; RFC 6455 section 10.3 wants keys that a hostile script cannot predict.
    pub fn dial(&mut self, target: &Arc<DialTarget>, local: Option<IpAddr>, tag: u64) {
        self.core.dials.ask(target.clone(), local, tag);
    }

    /// Stops this core: connections are closed as by a drain without window.
    pub fn stop(&mut self) {
        self.core.stop_requested = true;
    }
}

/// A connection, as seen from a callback. Also a [`Context`].
pub struct Connection<'a> {
    cx: Context<'a>,
    slot: u32,
    generation: u32,
}

impl<'a> Deref for Connection<'a> {
    type Target = Context<'a>;

    fn deref(&self) -> &Context<'a> {
        &self.cx
    }
}

impl<'a> DerefMut for Connection<'a> {
    fn deref_mut(&mut self) -> &mut Context<'a> {
        &mut self.cx
    }
}

impl<'a> Connection<'a> {
    pub(super) fn new(core: &'a mut Core, slot: u32, generation: u32) -> Self {
        Self { cx: Context { core, states: None }, slot, generation }
    }

    /// Its identifier.
    pub fn id(&self) -> ConnId {
        let core = self.cx.core.number;
        ConnId { core, slot: self.slot, generation: self.generation }
    }

    /// The peer's address and port.
    pub fn peer_addr(&mut self) -> Option<SocketAddr> {
        self.cx.core.slots.cold(self.slot).map(|cold| cold.peer())
    }

    /// Whether messages can be sent.
    pub fn is_open(&self) -> bool {
        self.cx.core.slots.get(self.slot).is_some_and(|hot| hot.phase() == Phase::Open)
    }

    /// Round-trip time of the last heartbeat that was answered; `None` if there was none, or while
    /// a heartbeat of the application awaits its answer.
    pub fn rtt(&self) -> Option<Duration> {
        let hot = self.cx.core.slots.get(self.slot)?;
        let micros = if hot.is(Marks::ASKED) { 0 } else { hot.pulse.rtt_us };
        (micros > 0).then(|| Duration::from_micros(u64::from(micros)))
    }

    /// Bytes queued for this peer that are not sent.
    pub fn queued(&self) -> usize {
        let hot = self.cx.core.slots.get(self.slot);
        hot.and_then(|hot| hot.outbox.as_ref()).map_or(0, |outbox| outbox.bytes())
    }

    /// Queues a text message.
    pub fn text(&mut self, text: &str) -> Result<(), SendError> {
        self.send(Kind::Text, text.as_bytes())
    }

    /// Queues a binary message.
    pub fn binary(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.send(Kind::Binary, payload)
    }

    /// Queues a message; the payload is copied once. It leaves at the end of the turn, together
    /// with everything else queued for this peer.
    pub fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), SendError> {
        self.cx.core.queue_message(self.slot, self.generation, kind, payload)
    }

    /// Queues a shared frame without copying its payload.
    pub fn send_frame(&mut self, frame: &Frame) -> Result<(), SendError> {
        self.cx.core.queue_frame(self.slot, self.generation, frame)
    }

    /// Sends a received message back without copying it.
    #[inline]
    pub fn reply(&mut self, message: Message<'_>) -> Result<(), SendError> {
        let core = &mut *self.cx.core;
        match message.body {
            Body::Arena(arena, payload) => {
                core.queue_reply(self.slot, self.generation, message.kind, arena, payload)
            }
            Body::Owned(data) => core.queue_owned(self.slot, self.generation, message.kind, data),
            Body::Inflated(data) => {
                core.queue_message(self.slot, self.generation, message.kind, data)
            }
        }
    }

    /// Queues a ping with at most 125 bytes. At most one ping waits; a newer one replaces it. Not
    /// on streams.
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.cx.core.queue_control(self.slot, self.generation, Opcode::Ping, payload)
    }

    /// Starts the close handshake: the frame follows what is queued, and nothing follows the frame.
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), SendError> {
        self.cx.core.close_by_application(self.slot, self.generation, code, reason)
    }

    /// Subscribes to a topic of this server. False if it already is.
    pub fn subscribe(&mut self, topic: &str) -> bool {
        self.cx.core.subscribe(self.slot, topic)
    }

    /// Ends a subscription. False if there is none.
    pub fn unsubscribe(&mut self, topic: &str) -> bool {
        self.cx.core.unsubscribe(self.slot, topic)
    }

    /// As [`Context::publish`], leaving out this connection.
    pub fn publish_others(&mut self, topic: &str, frame: &Frame) {
        let frame = &self.cx.core.compressible(frame);
        self.cx.core.publish_local(topic, frame, Some(self.slot));
        self.cx.core.publish_remote(topic, frame);
    }
}
