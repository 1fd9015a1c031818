//! The gateway on one core: the engine's handler, which has sessions do what there is to do.
//!
//! Owns no rule of the protocol: callbacks become inputs of `Sessions`, whose calls
//! `EnginePort` takes to the engine; requests go to the `Entrance`, and those of the server API
//! to `calls`. The invariant: a session is there exactly while its connection is open.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::account::{Budget, Held};
pub use super::beside::ControlPlane;
use super::broker::Broker;
use super::emulation::SessionNames;
use super::engine_port::{CoreServices, EnginePort};
use super::entrance::{self, Arriving, Entrance};
use super::farewell::{Keeping, Leaving};
use super::format::{self, Format};
use super::home::HomeLimits;
use super::hooks::FeedNews;
use super::hub::Hub;
use super::hub_port::Link;
use super::inspect::Inspect;
use super::letters::{self, Reply};
use super::placement::Placement;
use super::rulebook::Rulebook;
pub use super::session::HookAnswer;
use super::session::{Beat, Sessions};
use super::stats::GatewayStats;
use crate::engine::{
    Closed, ConnId, Connection, Context, CoreStart, Detached, Ending, Handler, HeartbeatAction,
    HttpAction, Message, UpgradeAction,
};
use crate::protocol::request::Request;

/// What reaches the gateway of a core from other threads.
#[derive(Debug)]
pub enum CoreEvent {
    /// For the hub.
    Hub(letters::Letter),
    /// The backend's answer.
    Hook(Box<HookAnswer>),
    /// What the backend tells on a stream of a subscription.
    Feed(Box<FeedNews>),
    /// New options.
    Rules(Arc<Rulebook>),
    /// What is counted here?
    Stats(Reply<GatewayStats>),
    /// An operator looks into it.
    Inspect(Box<Inspect>),
    /// What the client of a stream posted: commands, as in one WebSocket message.
    Emulated(Box<Posted>),
    /// A connection to the internal port, of which nothing was read.
    Inside(OwnedFd, SocketAddr),
}

/// Commands on their way to their session.
#[derive(Debug)]
pub struct Posted {
    pub(super) link: Link,
    pub(super) data: Bytes,
    /// Of [`Seed::posts`].
    pub(super) held: Held,
}

/// What one server's cores share when they start.
#[derive(Clone)]
pub struct Seed {
    /// Which core is the home of what.
    pub placement: Placement,
    /// Memory for channels, per core.
    pub limits: HomeLimits,
    /// The options.
    pub rules: Arc<Rulebook>,
    /// The control plane.
    pub control: Arc<dyn ControlPlane>,
    /// Names of emulated sessions.
    pub names: Arc<SessionNames>,
    /// Bytes that streams' clients have posted and that are on their way to their sessions.
    pub posts: Arc<Budget>,
    /// Set if a broker orders the channels; else each home core orders its own.
    pub broker: Option<Arc<dyn Broker>>,
    /// Unix time in seconds, at this time of the cores' clock: [`unix_now`], but in tests.
    pub unix: fn(Duration) -> i64,
    /// What is kept over the end of a process.
    pub keeping: Keeping,
}

/// The application on one core.
pub struct Gateway {
    pub(super) sessions: Sessions,
    entrance: Entrance,
    leaving: Leaving,
    pub(super) services: CoreServices,
}

impl Gateway {
    /// The gateway of one core.
    pub fn new(start: CoreStart<Self>, seed: &Seed) -> Self {
        let (core, now) = (start.core as u16, start.now());
        let mut hub = match &seed.broker {
            Some(broker) => Hub::with_broker(core, seed.placement, seed.limits, broker.limits()),
            None => Hub::new(core, seed.placement, seed.limits),
        };
        seed.keeping.restore(core, &mut hub, now);
        let (rules, names) = (own(&seed.rules), seed.names.clone());
        Self {
            sessions: Sessions::new(core, hub, rules, names, (seed.unix)(Duration::ZERO)),
            entrance: Entrance::new(core, seed, start.handle.clone()),
            leaving: seed.keeping.leaving(),
            services: CoreServices::new(core, seed, start.handle),
        }
    }

    /// The sessions, and their port on the engine during a callback.
    pub(super) fn lend<'a, 'c>(
        &'a mut self,
        cx: &'a mut Context<'c>,
    ) -> (&'a mut Sessions, EnginePort<'a, 'c>) {
        (&mut self.sessions, EnginePort::new(cx, &mut self.services))
    }

    /// Writes what the client of a connection was refused.
    fn tell_refusals(&mut self, conn: &mut Connection<'_>) {
        if self.sessions.has_refusals() {
            self.sessions.tell_refusals(conn.peer_addr());
        }
    }

    fn stats(&self) -> GatewayStats {
        let mut stats = self.sessions.stats();
        stats.add(self.services.calls.stats());
        self.entrance.count(&mut stats.counters);
        stats
    }
}

impl Handler for Gateway {
    /// Sessions are in a table of the gateway's own, since letters have to find them. This is what
    /// is asked of a connection that may have none any more.
    type State = Format;
    type Event = CoreEvent;

    fn event_size(letter: &CoreEvent) -> usize {
        match letter {
            CoreEvent::Hub(letter) => letter.size(),
            CoreEvent::Hook(hook) => size_of_val(&**hook),
            CoreEvent::Feed(news) => size_of_val(&**news) + news.said.size(),
            CoreEvent::Emulated(posted) => size_of_val(&**posted) + posted.data.len(),
            CoreEvent::Rules(_)
            | CoreEvent::Stats(_)
            | CoreEvent::Inspect(_)
            | CoreEvent::Inside(..) => 0,
        }
    }

    fn on_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        peer: SocketAddr,
    ) -> UpgradeAction<Format> {
        if cx.port() == INSIDE {
            return UpgradeAction::Respond(entrance::nothing_here());
        }
        self.entrance.upgrade(self.sessions.rules(), request, peer.ip())
    }

    fn compresses(&self, format: &Format) -> bool {
        let options = &self.sessions.rules().options;
        match format {
            Format::UniWebSocket => options.uni_websocket.compression,
            _ => options.websocket.compression,
        }
    }

    fn on_http(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        body: Option<&[u8]>,
        peer: SocketAddr,
    ) -> HttpAction<Format> {
        if cx.port() == INSIDE {
            return self.call(cx, request, body);
        }
        match self.entrance.plain(self.sessions.rules(), request, peer.ip(), body) {
            HttpAction::Detach => self.call(cx, request, body),
            decided => decided,
        }
    }

    fn on_detach(&mut self, cx: &mut Context<'_>, passed: Detached) {
        let served = match cx.port() {
            INSIDE => self.services.control.serve_inside(passed),
            _ => self.services.control.serve(passed),
        };
        if let Err(passed) = served {
            entrance::turn_away(passed);
        }
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, _: &mut Format) {
        let Some(Arriving { session, first }) = self.entrance.take() else { return };
        if session.format().is_events() {
            // The browser learns at once that the stream is open.
            let _ = conn.text("\r\n");
        }
        let link = link(conn.id());
        let (sessions, mut port) = self.lend(conn);
        sessions.open(&mut port, link, session, first);
        self.tell_refusals(conn);
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, _: &mut Format, message: Message<'_>) {
        let link = link(conn.id());
        let (sessions, mut port) = self.lend(conn);
        sessions.message(&mut port, link, message.payload());
        self.tell_refusals(conn);
    }

    fn on_writable(&mut self, conn: &mut Connection<'_>, _: &mut Format) {
        let link = link(conn.id());
        let (sessions, mut port) = self.lend(conn);
        sessions.writable(&mut port, link);
        self.tell_refusals(conn);
    }

    fn on_heartbeat(&mut self, conn: &mut Connection<'_>, _: &mut Format) -> HeartbeatAction {
        let link = link(conn.id());
        let (sessions, mut port) = self.lend(conn);
        let awaited = match sessions.heartbeat(&mut port, link) {
            Beat::None => false,
            Beat::Ping => conn.ping(b"").is_ok(),
            Beat::Sent { awaited } => awaited,
        };
        if awaited { HeartbeatAction::Sent } else { HeartbeatAction::Quiet }
    }

    fn farewell(&self, format: &Format, ending: &Ending<'_>, out: &mut Vec<u8>) {
        format::farewell(*format, ending, out);
    }

    fn on_close(&mut self, cx: &mut Context<'_>, id: ConnId, _: Format, closed: &Closed) {
        let (sessions, mut port) = self.lend(cx);
        sessions.closed(&mut port, link(id), closed.cause);
    }

    fn on_event(&mut self, cx: &mut Context<'_>, letter: CoreEvent) {
        let (sessions, mut port) = self.lend(cx);
        let port = &mut port;
        match letter {
            CoreEvent::Hub(letter) => sessions.letter(port, letter),
            CoreEvent::Hook(answer) => sessions.answered(port, answer),
            CoreEvent::Feed(news) => sessions.fed(port, news),
            CoreEvent::Rules(rules) => sessions.set_rules(own(&rules)),
            CoreEvent::Stats(reply) => reply.answer(Ok(self.stats())),
            CoreEvent::Inspect(inspect) => sessions.inspect(port, *inspect),
            CoreEvent::Inside(socket, peer) => cx.adopt(socket, peer, INSIDE),
            CoreEvent::Emulated(posted) => {
                let Posted { link, data, held } = *posted;
                sessions.posted(port, link, &data);
                drop(held);
            }
        }
        self.sessions.tell_refusals(None);
    }

    fn lingers(&mut self, cx: &mut Context<'_>) -> bool {
        let (now, sessions) = (cx.now(), &mut self.sessions);
        self.leaving.wait(now, |vault| sessions.keep(now, vault))
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let now = cx.now();
        let (sessions, mut port) = self.lend(cx);
        let next = sessions.turn(&mut port);
        sessions.tell_refusals(None);
        let calls = port.end_turn();
        Some([next, calls].into_iter().flatten().min()?.saturating_sub(now))
    }
}

/// How sessions and the hub call a connection.
fn link(id: ConnId) -> Link {
    Link(id.to_bits())
}

/// A core's own copy: each command counts a reference, which cores would else do on one cache line.
fn own(rules: &Rulebook) -> Arc<Rulebook> {
    Arc::new(rules.clone())
}

/// Unix time in seconds, whatever the cores' clock says.
pub fn unix_now(_: Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() as i64
}

/// The internal port, among those that connections come by.
pub(super) const INSIDE: u8 = 1;
