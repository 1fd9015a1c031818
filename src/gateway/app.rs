//! The gateway on one core: between the engine's connections and the hub's channels.
//!
//! Owns the sessions of its core and their timers. The hub calls back while it works (`World`);
//! what then needs the hub again is put aside and done when the hub has returned
//! (`settle`). The invariant: a session exists exactly while its connection is open, and
//! is known to the hub from its accepted connect command to its end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::account::{Budget, Held};
pub use super::beside::ControlPlane;
use super::broker::{self, Broker};
use super::calls::Calls;
use super::emulation::SessionNames;
use super::entrance;
use super::farewell::{Keeping, Leaving};
use super::format::Format;
use super::hub::Hub;
use super::inspect::{Inspect, SlowEnds};
use super::letters::{Reply, UserOrder};
use super::outside::{Event, Link, Outside, Refused};
use super::placement::Placement;
use super::places::Resume;
use super::proxy::{Asking, FeedNews};
use super::refusals::Refusals;
use super::rulebook::Rulebook;
pub use super::session::HookAnswer;
use super::session::{self, Debts, Pace, Revoked, Session, Sessions};
use super::stats::GatewayStats;
use super::timers::{Timers, What};
use super::wire::messages::ConnectRequest;
use super::wire::{self, Disconnect};
use super::{home::HomeLimits, letters};
use crate::engine::{
    Closed, ConnId, Connection, Context, CoreStart, Detached, Frame, Handle, Handler, HttpAction,
    Message, UpgradeAction,
};
use crate::protocol::CloseCode;
use crate::protocol::request::{Refusal, Request};

/// What reaches the gateway of a core from other threads.
#[derive(Debug)]
pub enum Letter {
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
    pub(super) id: ConnId,
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
    pub(super) hub: Hub,
    pub(super) desk: Desk,
}

/// Everything but the hub, so that the hub can be lent one and the other be called back.
pub(super) struct Desk {
    pub(super) core: u16,
    pub(super) rules: Arc<Rulebook>,
    pub(super) control: Arc<dyn ControlPlane>,
    pub(super) names: Arc<SessionNames>,
    pub(super) posts: Arc<Budget>,
    /// The number of the last feed.
    pub(super) last_feed: u64,
    pub(super) handle: Handle<Gateway>,
    pub(super) broker: Option<Arc<dyn Broker>>,
    /// The broker was asked something in this turn.
    asked: bool,
    /// Of the request that was just accepted: it opens next, before any other.
    pub(super) arriving: Option<Arriving>,
    pub(super) sessions: Sessions,
    pub(super) timers: Timers,
    pub(super) pace: Pace,
    /// What the hub's subscriptions take.
    pub(super) subscription_bytes: usize,
    pub(super) debts: Debts,
    pub(super) calls: Calls,
    pub(super) stats: GatewayStats,
    pub(super) refusals: Refusals,
    /// Connections that were closed because they did not read.
    pub(super) slow_ends: SlowEnds,
    pub(super) leaving: Leaving,
    later: VecDeque<Later>,
    /// Kept for its memory.
    pub(super) buffer: Vec<u8>,
    /// Unix time in seconds, as of this callback.
    pub(super) unix: i64,
    /// See [`Seed::unix`].
    wall: fn(Duration) -> i64,
}

/// A connection that is about to open.
pub(super) struct Arriving {
    pub(super) session: Session,
    pub(super) first: First,
}

/// What came with a request.
pub(super) enum First {
    /// Nothing: it follows.
    Nothing,
    /// Commands, as in one WebSocket message.
    Commands(Vec<u8>),
    /// All that a one-way client ever says, and where it was.
    Connect(Box<ConnectRequest>, Resume),
}

/// What the hub said and only the hub can go on with.
pub(super) enum Later {
    /// The connection has its seat among those of its user.
    Entered(Link),
    /// Something was answered that commands of its client waited for.
    Commands(Link),
    /// The server API wants something of it.
    Order(Link, Arc<UserOrder>),
    /// The server API wanted something of it while it connected.
    Deferred(Link, Arc<UserOrder>),
    /// The server API has ended a subscription that was not answered then.
    Revoked(Link, Box<Revoked>),
}

/// The hub's way to the sessions and the engine.
pub(super) struct World<'w, 'c> {
    pub(super) desk: &'w mut Desk,
    pub(super) cx: &'w mut Context<'c>,
}

impl Outside for World<'_, '_> {
    fn now(&self) -> Duration {
        self.cx.now()
    }

    fn unix_millis(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
    }

    fn random(&mut self) -> u64 {
        self.cx.random()
    }

    fn post(&mut self, core: usize, letter: letters::Letter) -> Result<(), Refused> {
        self.desk.handle.post(core, Letter::Hub(letter)).map_err(|_| Refused)
    }

    fn post_reserved(&mut self, core: usize, letter: letters::Letter) -> Result<(), Refused> {
        self.desk.handle.post_reserved(core, Letter::Hub(letter)).map_err(|_| Refused)
    }

    fn is_behind(&self, core: usize) -> bool {
        self.desk.handle.is_behind(core)
    }

    fn post_urgent(&mut self, core: usize, letter: letters::Letter) {
        // A core that has ended needs no answer.
        let _ = self.desk.handle.post_urgent(core, Letter::Hub(letter));
    }

    fn broker(&mut self, request: broker::Request) -> Result<(), Refused> {
        let Some(broker) = &self.desk.broker else { return Err(Refused) };
        broker.request(self.desk.core, request).map_err(|_| Refused)?;
        self.desk.asked = true;
        Ok(())
    }

    fn send(&mut self, link: Link, frame: &Frame) {
        self.desk.send_at(self.cx, link, frame, None);
    }

    fn publication(&mut self, link: Link, frame: &Frame, channel: &str, offset: u64) {
        self.desk.send_at(self.cx, link, frame, Some((channel, offset)));
    }

    fn event(&mut self, link: Link, event: Event<'_>) {
        self.desk.event(self.cx, link, event);
    }
}

impl Gateway {
    /// The gateway of one core.
    pub fn new(start: CoreStart<Self>, seed: &Seed) -> Self {
        let (core, now) = (start.core as u16, start.now());
        Self {
            hub: match &seed.broker {
                Some(broker) => {
                    Hub::with_broker(core, seed.placement, seed.limits, broker.limits())
                }
                None => Hub::new(core, seed.placement, seed.limits),
            },
            desk: Desk {
                core,
                rules: own(&seed.rules),
                control: seed.control.clone(),
                names: seed.names.clone(),
                posts: seed.posts.clone(),
                last_feed: 0,
                handle: start.handle,
                broker: seed.broker.clone(),
                asked: false,
                arriving: None,
                sessions: Sessions::default(),
                timers: Timers::default(),
                pace: Pace::default(),
                subscription_bytes: 0,
                debts: Debts::default(),
                calls: Calls::default(),
                stats: GatewayStats::default(),
                refusals: Refusals::default(),
                slow_ends: SlowEnds::default(),
                leaving: seed.keeping.leaving(),
                later: VecDeque::new(),
                buffer: Vec::new(),
                unix: (seed.unix)(Duration::ZERO),
                wall: seed.unix,
            },
        }
        .restored(now, &seed.keeping)
    }

    /// Lends the hub the world.
    pub(super) fn with_hub<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Hub, &mut World<'_, '_>) -> T,
    ) -> T {
        let result = act(&mut self.hub, &mut World { desk: &mut self.desk, cx });
        self.desk.subscription_bytes = self.hub.subscription_bytes();
        result
    }

    /// Does what was put aside while the hub worked.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        while let Some(later) = self.desk.later.pop_front() {
            match later {
                Later::Entered(link) => self.entered(cx, link),
                Later::Commands(link) => self.go_on(cx, self.desk.id(link)),
                Later::Order(link, order) => self.obey(cx, link, &order),
                Later::Deferred(link, order) => self.obey_late(cx, link, &order),
                Later::Revoked(link, revoked) => self.revoke(cx, link, &revoked),
            }
        }
    }

    /// Writes what the client of a connection was refused.
    fn tell_refusals(&mut self, conn: &mut Connection<'_>) {
        if !self.desk.refusals.is_empty() {
            self.desk.refusals.write(conn.peer_addr());
        }
    }

    fn snapshot(&self) -> GatewayStats {
        let mut stats = self.desk.stats.clone();
        let (gauges, hub) = (self.hub.gauges(), self.hub.counters());
        stats.mirror = self.hub.mirror_counters().unwrap_or_default();
        let c = &mut stats.counters;
        c.clients = gauges.clients as u64;
        c.users = gauges.users as u64;
        c.subscriptions = gauges.subscriptions as u64;
        c.channels = gauges.active_channels as u64;
        c.channels_known = gauges.channels as u64;
        c.history_bytes = gauges.history_bytes as u64;
        c.idempotency_keys = gauges.idempotency_keys as u64;
        c.deadlines = self.desk.timers.len() as u64;
        c.session_bytes = (self.desk.sessions.bytes() + gauges.subscription_bytes) as u64;
        c.filter_bytes = gauges.filter_bytes as u64;
        c.emulation_bytes = match self.desk.core {
            0 => self.desk.posts.held() as u64,
            _ => 0,
        };
        c.subscribes = hub.subscribed;
        c.publications = hub.home.published;
        c.publications_repeated = hub.home.suppressed;
        c.deliveries = hub.sent;
        c.recoveries = hub.home.recovered;
        c.recoveries_failed = hub.home.unrecovered;
        c.positions_lost = hub.insufficient;
        c.letters_refused = hub.letters_refused + hub.home.deliveries_refused;
        c.history_dropped = hub.home.history_dropped;
        stats
    }
}

/// How an element is said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Saying {
    /// With the client's positions, if it is told any.
    pub(super) placed: bool,
    /// Never compressed: it may carry what only this client may know.
    pub(super) secret: bool,
}

impl Desk {
    /// The connection behind an address.
    pub(super) fn id(&self, link: Link) -> ConnId {
        ConnId::from_bits(self.core, link.0)
    }

    /// Queues a frame, or keeps it until the connect reply has left. `at`: it is a publication with
    /// this offset in this channel, of which the client is told.
    pub(super) fn send_at(
        &mut self,
        cx: &mut Context<'_>,
        link: Link,
        frame: &Frame,
        at: Option<(&str, u64)>,
    ) {
        let id = self.id(link);
        let Some(session) = self.sessions.get_mut(id) else { return };
        if let Some(connecting) = session.connecting() {
            let at = at.map(|(channel, offset)| (channel.into(), offset));
            connecting.stashed += frame.payload().len() + STASHED;
            connecting.stash.push((frame.clone(), at));
            // As if the outbox were full, which is where all this goes next.
            if connecting.stashed > self.rules.options.client.queue_max_size.0 {
                self.close(cx, id, &Disconnect::SLOW);
            }
            return;
        }
        self.buffer.clear();
        if let Some((channel, offset)) = at
            && let Some(places) = session.places()
            && places.advance(channel, offset)
        {
            places.line(&mut self.buffer);
        }
        // A connection that cannot take it is closed by the engine, or gone.
        let _ = match self.buffer.is_empty() {
            true => cx.send_to(id, frame),
            false => cx.send_prefixed_to(id, &self.buffer, frame),
        };
    }

    /// Queues one element of the protocol, which `encode` appends.
    pub(super) fn say(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnId,
        encode: impl FnOnce(Format, &mut Vec<u8>),
    ) {
        self.say_at(cx, id, Saying::default(), encode);
    }

    /// As [`Self::say`], in a certain way.
    pub(super) fn say_at(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnId,
        saying: Saying,
        encode: impl FnOnce(Format, &mut Vec<u8>),
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let format = session.format();
        self.buffer.clear();
        encode(format, &mut self.buffer);
        format.wrap(&mut self.buffer, 0);
        if saying.placed
            && let Some(places) = session.places()
        {
            let mut line = Vec::new();
            places.line(&mut line);
            self.buffer.splice(0..0, line);
        }
        let _ = match saying.secret {
            true => cx.send_secret_to(id, format.kind(), &self.buffer),
            false => cx.send_message_to(id, format.kind(), &self.buffer),
        };
    }

    /// Closes a connection with a code of the protocol.
    pub(super) fn close(&mut self, cx: &mut Context<'_>, id: ConnId, disconnect: &Disconnect) {
        if self.respond(cx, id, disconnect.code.into(), &disconnect.reason) {
            return self.stats.disconnect(disconnect.code);
        }
        if cx.close(id, CloseCode(disconnect.code), &disconnect.reason).is_ok() {
            self.stats.disconnect(disconnect.code);
        }
    }

    /// What time it is in the world, for this callback.
    pub(super) fn look_at_wall(&mut self, cx: &Context<'_>) {
        self.unix = (self.wall)(cx.now());
    }

    /// Leaves something to be done when the hub has returned.
    pub(super) fn put_aside(&mut self, later: Later) {
        self.later.push_back(later);
    }
}

impl Handler for Gateway {
    /// Sessions are in a table of the gateway's own, since letters have to find them.
    type State = ();
    type Event = Letter;

    fn event_size(letter: &Letter) -> usize {
        match letter {
            Letter::Hub(letter) => letter.size(),
            Letter::Hook(hook) => size_of_val(&**hook),
            Letter::Feed(news) => size_of_val(&**news) + news.said.size(),
            Letter::Emulated(posted) => size_of_val(&**posted) + posted.data.len(),
            Letter::Rules(_) | Letter::Stats(_) | Letter::Inspect(_) | Letter::Inside(..) => 0,
        }
    }

    fn on_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        peer: SocketAddr,
    ) -> UpgradeAction<()> {
        if cx.port() == INSIDE {
            return UpgradeAction::Respond(entrance::nothing_here());
        }
        let options = &self.desk.rules.options;
        let (websocket, uni) = (&options.websocket, &options.uni_websocket);
        let at =
            |prefix: &str| request.path().trim_end_matches('/') == prefix.trim_end_matches('/');
        let one_way = uni.enabled && at(&uni.handler_prefix);
        if !one_way && (websocket.disabled || !at(&websocket.handler_prefix)) {
            return UpgradeAction::Refuse(Refusal::NotFound);
        }
        if !self.desk.rules.origins.admit(request.origin()) {
            return UpgradeAction::Refuse(Refusal::Forbidden);
        }
        let (format, protocol, first) = match one_way {
            false => {
                let (format, protocol) = session::negotiate(request);
                (format, protocol, First::Nothing)
            }
            true => match entrance::query(request, "cf_connect") {
                None => (Format::UniWebSocket, None, First::Nothing),
                Some(content) => match entrance::connect_request(&content) {
                    Ok(connect) => {
                        let first = First::Connect(Box::new(connect), Resume::default());
                        (Format::UniWebSocket, None, first)
                    }
                    Err(_) => {
                        let refusal = Refusal::BadRequest("cf_connect is no connect request");
                        return UpgradeAction::Refuse(refusal);
                    }
                },
            },
        };
        let session = Session::new(request, peer.ip(), options, format);
        self.desk.arriving = Some(Arriving { session, first });
        let dialect = format.dialect();
        UpgradeAction::Accept { state: (), protocol, headers: Vec::new(), dialect }
    }

    fn compresses(&self, dialect: u8) -> bool {
        let options = &self.desk.rules.options;
        match Format::of_bits(dialect) {
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
    ) -> HttpAction<()> {
        if cx.port() == INSIDE {
            return self.call(cx, request, body);
        }
        match self.desk.plain(request, peer.ip(), body) {
            HttpAction::Detach => self.call(cx, request, body),
            decided => decided,
        }
    }

    fn on_detach(&mut self, cx: &mut Context<'_>, passed: Detached) {
        let served = match cx.port() {
            INSIDE => self.desk.control.serve_inside(passed),
            _ => self.desk.control.serve(passed),
        };
        if let Err(passed) = served {
            entrance::turn_away(passed);
        }
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, (): &mut ()) {
        let id = conn.id();
        let Some(Arriving { session, first }) = self.desk.arriving.take() else { return };
        let delay = self.desk.rules.options.client.stale_close_delay;
        self.desk.timers.set(conn.now() + delay, Link(id.to_bits()), What::Stale);
        let format = session.format();
        self.desk.stats.opened(format.transport());
        self.desk.look_at_wall(conn);
        self.desk.sessions.insert(id, session, self.desk.unix);
        if format.is_events() {
            // The browser learns at once that the stream is open.
            let _ = conn.text("\r\n");
        }
        match first {
            First::Nothing => {}
            First::Commands(commands) => self.hear(conn, id, &commands),
            First::Connect(request, resume) => {
                self.connect_one_way(conn, id, *request, resume);
                self.settle(conn);
            }
        }
        self.tell_refusals(conn);
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        let id = conn.id();
        self.hear(conn, id, message.payload());
        self.tell_refusals(conn);
    }

    fn on_writable(&mut self, conn: &mut Connection<'_>, (): &mut ()) {
        let id = conn.id();
        self.desk.look_at_wall(conn);
        self.go_on(conn, id);
        self.settle(conn);
        self.tell_refusals(conn);
    }

    fn on_heartbeat(&mut self, conn: &mut Connection<'_>, (): &mut ()) -> bool {
        let id = conn.id();
        let Some(session) = self.desk.sessions.get_mut(id).filter(|session| session.is_open())
        else {
            return false;
        };
        if session.pings_natively() {
            return conn.ping(b"").is_ok();
        }
        let format = session.format();
        if !format.is_uni() {
            session.set_pinged();
        }
        self.desk.say(conn, id, |format, batch| wire::encode_ping(format.encoding(), batch));
        match format {
            // The browser answers the one, the page reads the other.
            Format::UniWebSocket => conn.ping(b"").is_ok(),
            // Nobody answers; that nobody takes it is found by the kernel.
            Format::UniSse | Format::UniStream => false,
            _ => !self.desk.rules.options.client.pong_timeout.is_zero(),
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, id: ConnId, (): (), closed: &Closed) {
        let Some(session) = self.desk.sessions.remove(id) else { return };
        let link = Link(id.to_bits());
        self.desk.timers.forget(link);
        self.desk.debts.forget(link);
        self.desk.stats.ended(session.format().transport());
        if session.has_asked() || session.has_feeds() {
            let link = Link(id.to_bits());
            self.desk.control.forget(Asking { core: self.desk.core, link });
        }
        if let Some(client) = session.client() {
            self.remember_slow(cx, (client, session.since()), closed.cause);
            self.with_hub(cx, |hub, out| hub.disconnect(out, client));
            self.settle(cx);
        }
    }

    fn on_event(&mut self, cx: &mut Context<'_>, letter: Letter) {
        self.desk.look_at_wall(cx);
        match letter {
            Letter::Hub(letter) => self.with_hub(cx, |hub, out| hub.letter(out, letter)),
            Letter::Hook(answer) => {
                let HookAnswer { question, result, room } = *answer;
                self.answered(cx, question, result);
                drop(room);
            }
            Letter::Feed(news) => self.feed_told(cx, *news),
            Letter::Rules(rules) => self.desk.rules = own(&rules),
            Letter::Stats(reply) => reply.answer(Ok(self.snapshot())),
            Letter::Inspect(inspect) => self.inspect(cx, *inspect),
            Letter::Inside(socket, peer) => cx.adopt(socket, peer, INSIDE),
            Letter::Emulated(posted) => {
                let Posted { id, data, held } = *posted;
                self.posted(cx, id, &data);
                drop(held);
            }
        }
        self.settle(cx);
        self.desk.refusals.write(None);
    }

    fn lingers(&mut self, cx: &mut Context<'_>) -> bool {
        self.wait_for_others(cx.now())
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let now = cx.now();
        // Deadlines that become due meanwhile wait for the next turn.
        for _ in 0..self.desk.timers.len() {
            let Some((link, what)) = self.desk.timers.due(now) else { break };
            self.desk.look_at_wall(cx);
            self.expire(cx, link, what);
            self.settle(cx);
        }
        let more = self.take_up(cx);
        let hub = self.with_hub(cx, |hub, out| hub.turn(out));
        self.settle(cx);
        if std::mem::take(&mut self.desk.asked)
            && let Some(broker) = &self.desk.broker
        {
            broker.ring(self.desk.core);
        }
        self.desk.refusals.write(None);
        self.desk.end_late_calls(cx);
        let debts = self.desk.debts.sweep(now);
        if more {
            return Some(Duration::ZERO);
        }
        let calls = self.desk.calls.next();
        let next = [hub, self.desk.timers.next(), debts, calls].into_iter().flatten().min()?;
        Some(next.saturating_sub(now))
    }
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

/// What a push that waits for the connect reply takes besides its payload.
const STASHED: usize = 64;
