//! The sessions' [`Port`] on the engine.
//!
//! Owns the ways from a core to all that is not its own: other cores, the broker, the control
//! plane, and the calls of the server API that wait for home cores. The invariant: nothing here
//! decides anything about a session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::app::{CoreEvent, Gateway, Seed};
use super::beside::ControlPlane;
use super::broker::{self, Broker};
use super::calls::Calls;
use super::hooks::{Asking, FeedId, FeedWord, HookRequest};
use super::hub_port::{Link, Refused};
use super::letters::{self, Answer};
use super::session::{HookTicket, Port};
use super::wire::{Disconnect, Error};
use crate::engine::{ConnId, Context, Frame, Handle};
use crate::protocol::message::Kind;
use crate::protocol::{CloseCode, HttpResponse};

/// What a core has besides its sessions. See the module's text.
pub(super) struct CoreServices {
    pub(super) core: u16,
    pub(super) handle: Handle<Gateway>,
    pub(super) control: Arc<dyn ControlPlane>,
    pub(super) calls: Calls,
    broker: Option<Arc<dyn Broker>>,
    /// The broker was asked something in this turn.
    asked: bool,
    /// See [`Seed::unix`].
    wall: fn(Duration) -> i64,
}

/// The port during one callback.
pub(super) struct EnginePort<'a, 'c> {
    cx: &'a mut Context<'c>,
    services: &'a mut CoreServices,
}

impl CoreServices {
    pub(super) fn new(core: u16, seed: &Seed, handle: Handle<Gateway>) -> Self {
        Self {
            core,
            handle,
            control: seed.control.clone(),
            calls: Calls::default(),
            broker: seed.broker.clone(),
            asked: false,
            wall: seed.unix,
        }
    }

    /// Unix time in seconds, at this time of the core's clock.
    pub(super) fn unix(&self, now: Duration) -> i64 {
        (self.wall)(now)
    }
}

impl<'a, 'c> EnginePort<'a, 'c> {
    pub(super) fn new(cx: &'a mut Context<'c>, services: &'a mut CoreServices) -> Self {
        Self { cx, services }
    }

    /// The turn is over: the broker's thread is woken if it was asked something, and calls that
    /// took too long are answered. Returns when calls want to be looked at again.
    pub(super) fn end_turn(&mut self) -> Option<Duration> {
        if std::mem::take(&mut self.services.asked)
            && let Some(broker) = &self.services.broker
        {
            broker.ring(self.services.core);
        }
        let (now, wall) = (self.cx.now(), self.services.wall);
        for (conn, response) in self.services.calls.late(now, || wall(now)) {
            // Who asked may have gone.
            let _ = self.cx.answer(conn, &response);
        }
        self.services.calls.next()
    }

    fn id(&self, link: Link) -> ConnId {
        ConnId::from_bits(self.services.core, link.0)
    }
}

/// A connection that cannot take something is closed by the engine, or gone.
impl Port for EnginePort<'_, '_> {
    fn now(&self) -> Duration {
        self.cx.now()
    }

    fn unix(&self) -> i64 {
        self.services.unix(self.cx.now())
    }

    fn unix_millis(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
    }

    fn random(&mut self) -> u64 {
        self.cx.random()
    }

    fn send(&mut self, link: Link, frame: &Frame) {
        let _ = self.cx.send_to(self.id(link), frame);
    }

    fn send_prefixed(&mut self, link: Link, prefix: &[u8], frame: &Frame) {
        let _ = self.cx.send_prefixed_to(self.id(link), prefix, frame);
    }

    fn send_message(&mut self, link: Link, kind: Kind, payload: &[u8]) {
        let _ = self.cx.send_message_to(self.id(link), kind, payload);
    }

    fn send_secret(&mut self, link: Link, kind: Kind, payload: &[u8]) {
        let _ = self.cx.send_secret_to(self.id(link), kind, payload);
    }

    fn close(&mut self, link: Link, disconnect: &Disconnect) -> bool {
        self.cx.close(self.id(link), CloseCode(disconnect.code), &disconnect.reason).is_ok()
    }

    fn begin(&mut self, link: Link, headers: &[(String, String)]) {
        let _ = self.cx.begin(self.id(link), headers);
    }

    fn respond(&mut self, link: Link, response: &HttpResponse) {
        let _ = self.cx.respond(self.id(link), response);
    }

    fn hold(&mut self, link: Link) {
        self.cx.hold(self.id(link));
    }

    fn resume(&mut self, link: Link) {
        self.cx.resume(self.id(link));
    }

    fn is_open(&self, link: Link) -> bool {
        self.cx.is_open_at(self.id(link))
    }

    fn queued(&self, link: Link) -> usize {
        self.cx.queued_at(self.id(link))
    }

    fn is_congested(&self, link: Link) -> bool {
        self.cx.is_congested_at(self.id(link))
    }

    fn heard(&mut self, link: Link, bytes: usize) -> bool {
        self.cx.heard(self.id(link), bytes)
    }

    fn peer(&mut self, link: Link) -> Option<SocketAddr> {
        self.cx.peer_addr(self.id(link))
    }

    fn post(&mut self, core: usize, letter: letters::Letter) -> Result<(), Refused> {
        self.services.handle.post(core, CoreEvent::Hub(letter)).map_err(|_| Refused)
    }

    fn post_reserved(&mut self, core: usize, letter: letters::Letter) -> Result<(), Refused> {
        self.services.handle.post_reserved(core, CoreEvent::Hub(letter)).map_err(|_| Refused)
    }

    fn post_urgent(&mut self, core: usize, letter: letters::Letter) {
        // A core that has ended needs no answer.
        let _ = self.services.handle.post_urgent(core, CoreEvent::Hub(letter));
    }

    fn is_behind(&self, core: usize) -> bool {
        self.services.handle.is_behind(core)
    }

    fn is_crowded(&self) -> bool {
        self.services.handle.is_crowded()
    }

    fn ask_broker(&mut self, request: broker::Request) -> Result<(), Refused> {
        let Some(broker) = &self.services.broker else { return Err(Refused) };
        broker.request(self.services.core, request).map_err(|_| Refused)?;
        self.services.asked = true;
        Ok(())
    }

    fn ask_backend(
        &mut self,
        hook: Box<HookRequest>,
        question: HookTicket,
    ) -> Result<(), HookTicket> {
        self.services.control.ask(self.services.core.into(), hook, question)
    }

    fn forget(&mut self, link: Link) {
        self.services.control.forget(Asking { core: self.services.core, link });
    }

    fn feed(&mut self, feed: FeedId, proxy: &str, word: FeedWord) -> bool {
        self.services.control.feed(feed, proxy, word)
    }

    fn want_keys(&mut self) {
        self.services.control.want_keys();
    }

    fn answer_call(&mut self, ticket: u64, answer: Result<Answer, Error>) {
        let (now, wall) = (self.cx.now(), self.services.wall);
        if let Some((conn, response)) = self.services.calls.answered(ticket, answer, || wall(now)) {
            // Who asked may have gone.
            let _ = self.cx.answer(conn, &response);
        }
    }
}
