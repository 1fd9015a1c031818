//! Sessions: what clients want and are told, from the upgrade to the connect command, and from
//! there to their end. Without I/O, without a clock, without the engine.
//!
//! What happens comes in through `machine`, and what sessions do to others goes out through a
//! `port`. What the hub tells is in `events`. The commands are in `commands` and their order in
//! `order`, the opening of a session in `connect`, subscriptions in `subscribe`, expiry in
//! `expiry`, what the backend is asked in `hooks` and what it tells subscribers in `feeds`; what
//! clients are told leaves by `sending`, and what operators are, by `looking`.
//!
//! Owns, here, what is kept per connection, small for the many that are idle: what only some need
//! is in a box of its own (`More`).

mod commands;
mod connect;
mod events;
mod expiry;
mod feeds;
mod hooks;
mod looking;
mod machine;
mod order;
mod port;
mod queue;
mod sending;
mod shares;
mod subscribe;
mod table;
mod ticket;
mod timers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

pub(super) use connect::connect_request;
pub use hooks::{HookAnswer, HookTicket};
pub(super) use machine::{Beat, First, Sessions};
pub(super) use port::Port;
pub(super) use sending::connect_responses;
pub(super) use ticket::CALL;

use super::format::{Format, Transport};
use super::hooks::ClientHeaders;
use super::hub_port::ClientKey;
use super::letters::{ClientId, UserOrder};
use super::places::{Places, Resume};
use super::plan::Plan;
use super::wire::messages::{ConnectResult, SubscribeRequest};
use super::wire::{Encoding, Unsubscribe};
use crate::engine::Frame;
use crate::protocol::request;
use queue::Queue;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Session {
    generation: u32,
    /// As the hub knows it; from the accepted connect command on, before it [`NOBODY`].
    client: ClientKey,
    /// When it was opened, in Unix seconds.
    since: u32,
    /// Unix time in seconds; 0 is never.
    expire_at: u32,
    flags: u8,
    format: Format,
    /// Questions to the backend under way, but for the one whether it may stay.
    asked: u16,
    /// Commands without an answer.
    busy: u8,
    /// Tokens that were refused.
    failures: u8,
    /// Pings without a pong. A client that sends without reading is alive, and pinged again.
    pings: u8,
    more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Option<Session>>() <= 40);

/// In place of an option, whose four bytes the time of opening has.
const NOBODY: ClientKey = ClientKey(u32::MAX);

/// It is not read, because enough of it waits.
const HELD: u8 = 1;
/// Pings are WebSocket's, as the client asked.
const NATIVE_PINGS: u8 = 2;
/// The connect command came.
const CONNECTING: u8 = 4;
/// It was answered.
const OPEN: u8 = 8;
/// The backend was asked whether it may stay.
const ASKED: u8 = 32;
/// Its commands are being done.
const RUNNING: u8 = 64;
/// They go on in the next turn.
const BACKLOG: u8 = 128;

/// What few connections have.
#[derive(Debug, Default)]
struct More {
    /// Shown to others. Raw.
    conn_info: Bytes,
    /// For the backend's eyes only. Raw.
    meta: Bytes,
    /// For the backend.
    headers: Arc<ClientHeaders>,
    /// The user that a header names, until the connect command.
    vouched: Option<Box<str>>,
    /// Headers of the answer to the request, where that is not there before the connect command's.
    answer: Option<Box<[(String, String)]>>,
    /// While the connect command is being answered.
    connecting: Option<Box<Connecting>>,
    /// Of subscriptions that expire, or have something to say.
    subs: Vec<SubMore>,
    /// Of clients that are told where they are.
    places: Places,
    /// Channels whose subscription the backend was asked about.
    reserved: Vec<Box<str>>,
    /// Those of the subscriptions that the backend feeds.
    feeds: Vec<feeds::Feed>,
    /// Subscriptions that end when they are answered.
    revoked: Vec<Revoked>,
    /// Commands that wait for others.
    queue: Queue,
    /// What of this is on the account of the core.
    charged: usize,
}

/// What few subscriptions have.
#[derive(Debug, Default)]
struct SubMore {
    channel: Box<str>,
    /// Unix time in seconds; 0 is never.
    expire_at: i64,
    /// Shown to others. Raw.
    info: Bytes,
    /// For the reply. Raw.
    data: Bytes,
    server_side: bool,
    /// When it expires, the backend is asked whether it may stay.
    by_backend: bool,
    /// That is being done.
    asked: bool,
}

impl SubMore {
    /// When something must be done about it, in Unix seconds, if ever. `delay`: the time that
    /// clients have to refresh it.
    fn due(&self, delay: i64) -> Option<i64> {
        let watched = self.expire_at > 0 && !self.asked;
        let delay = if self.by_backend { 0 } else { delay };
        watched.then(|| self.expire_at.saturating_add(delay))
    }
}

/// A subscription that the server API ended before it was answered.
#[derive(Debug)]
struct Revoked {
    channel: Box<str>,
    why: Unsubscribe,
}

/// Effect of a stashed push on the positions of a one-way client.
#[derive(Debug)]
enum Leads {
    /// To a publication of this channel.
    To(Box<str>, u64),
    /// Out of it.
    OutOf(Box<str>),
}

/// A connect command on its way to its reply.
#[derive(Debug, Default)]
struct Connecting {
    ticket: u64,
    /// What the client is called.
    name: Option<ClientId>,
    result: ConnectResult,
    /// Server-side subscriptions without an answer.
    waiting: usize,
    /// Pushes that have to follow the reply.
    stash: Vec<(Frame, Option<Leads>)>,
    /// Bytes of these.
    stashed: usize,
    /// What is decided about the connection, until it has its seat.
    admitted: Option<Box<connect::Admitted>>,
    /// Where the client's server-side subscriptions were: of a request only what says that.
    positions: BTreeMap<String, SubscribeRequest>,
    /// The same, as a one-way client brought it back.
    resume: Resume,
    /// What the server API wants of the connection, once it has its reply.
    orders: Vec<Arc<UserOrder>>,
}

impl Session {
    /// A session for a request of a client at this address.
    pub(super) fn new(
        request: &request::Request<'_>,
        client: IpAddr,
        options: &Plan,
        format: Format,
    ) -> Self {
        let bidirectional = format.transport() == Transport::WebSocket;
        let native = bidirectional && asks(request, "cf_ws_frame_ping_pong", "true");
        let flags = if native { NATIVE_PINGS } else { 0 };
        let headers = hooks::forwarded(request, client, &options.hooks);
        let vouched = connect::vouched(request, options);
        let more = (headers.is_some() || vouched.is_some()).then(|| {
            Box::new(More { headers: headers.unwrap_or_default(), vouched, ..More::default() })
        });
        Self {
            generation: 0,
            client: NOBODY,
            since: 0,
            expire_at: 0,
            flags,
            format,
            asked: 0,
            busy: 0,
            failures: 0,
            pings: 0,
            more,
        }
    }

    /// How what it is told is wrapped.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    fn encoding(&self) -> Encoding {
        self.format.encoding()
    }

    /// Whether the backend's answer to something is still to come.
    fn has_asked(&self) -> bool {
        self.asked > 0 || self.is(ASKED)
    }

    /// As the hub knows it.
    fn client(&self) -> Option<ClientKey> {
        Some(self.client).filter(|client| *client != NOBODY)
    }

    /// When it was opened, in Unix seconds.
    fn since(&self) -> u32 {
        self.since
    }

    /// Whether the connect command came.
    fn is_connecting(&self) -> bool {
        self.is(CONNECTING)
    }

    /// Where the client is told to be, if it is told.
    fn places(&mut self) -> Option<&mut Places> {
        self.more.as_mut().map(|more| &mut more.places).filter(|places| !places.is_empty())
    }

    /// Whether the connect command was answered well.
    fn is_open(&self) -> bool {
        self.is(OPEN)
    }

    fn pings_natively(&self) -> bool {
        self.is(NATIVE_PINGS)
    }

    /// A ping left.
    fn set_pinged(&mut self) {
        self.pings = self.pings.saturating_add(1);
    }

    /// The connect command that is being answered.
    fn connecting(&mut self) -> Option<&mut Connecting> {
        self.more.as_mut()?.connecting.as_deref_mut()
    }

    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }

    /// Its request is answered with these headers once the connect command is.
    pub(super) fn answer_later(&mut self, headers: Vec<(String, String)>) {
        self.more().answer = Some(headers.into());
    }

    /// Those headers, unless the request has its answer.
    fn take_answer(&mut self) -> Option<Vec<(String, String)>> {
        self.more.as_mut()?.answer.take().map(Vec::from)
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// What of a subscription is not in the hub.
    fn sub(&mut self, channel: &str) -> Option<&mut SubMore> {
        self.more.as_mut()?.subs.iter_mut().find(|sub| *sub.channel == *channel)
    }

    /// Whether the backend is being asked about a subscription to this channel.
    fn is_reserved(&self, channel: &str) -> bool {
        self.more.as_ref().is_some_and(|more| more.reserved.iter().any(|of| **of == *channel))
    }

    /// How many subscriptions the backend is being asked about.
    fn reserved(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.reserved.len())
    }

    /// The backend is asked about a subscription, which takes a place meanwhile.
    fn reserve(&mut self, channel: &str) {
        self.more().reserved.push(channel.into());
    }

    /// It has answered.
    fn release(&mut self, channel: &str) {
        let Some(more) = &mut self.more else { return };
        more.reserved.retain(|of| **of != *channel);
        more.reserved.shrink_to_fit();
        self.tidy();
    }

    /// A subscription that is under way ends with its answer.
    fn revoke(&mut self, channel: &str, why: &Unsubscribe) {
        let more = self.more();
        if !more.revoked.iter().any(|it| *it.channel == *channel) {
            more.revoked.push(Revoked { channel: channel.into(), why: why.clone() });
        }
    }

    /// It has its answer.
    fn take_revoked(&mut self, channel: &str) -> Option<Revoked> {
        let revoked = &mut self.more.as_mut()?.revoked;
        let at = revoked.iter().position(|it| *it.channel == *channel)?;
        let taken = revoked.swap_remove(at);
        revoked.shrink_to_fit();
        self.tidy();
        Some(taken)
    }

    /// Forgets it, and the box if nothing is left in it.
    fn forget_sub(&mut self, channel: &str) {
        let Some(more) = &mut self.more else { return };
        more.subs.retain(|sub| *sub.channel != *channel);
        more.subs.shrink_to_fit();
        more.places.end(channel);
        self.tidy();
    }

    /// Gives back the box of a connection that needs it no longer, unless the account knows of it:
    /// then [`SessionTable::weigh`](table::SessionTable::weigh) does.
    fn tidy(&mut self) {
        if self.more.as_ref().is_some_and(|more| more.charged == 0 && more.is_idle()) {
            self.more = None;
        }
    }

    /// What the account knows of.
    fn charged(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.charged)
    }
}

impl More {
    fn is_idle(&self) -> bool {
        self.conn_info.is_empty()
            && self.meta.is_empty()
            && *self.headers == ClientHeaders::default()
            && self.vouched.is_none()
            && self.answer.is_none()
            && self.connecting.is_none()
            && self.subs.is_empty()
            && self.places.is_empty()
            && self.reserved.is_empty()
            && self.feeds.is_empty()
            && self.revoked.is_empty()
            && self.queue.is_empty()
    }

    /// What it takes, with all that is in it.
    fn bytes(&self) -> usize {
        if self.is_idle() {
            return 0;
        }
        let headers = self.headers.transport.iter().chain(&self.headers.emulated);
        let headers: usize = headers.map(|(name, value)| ENTRY + name.len() + value.len()).sum();
        let subs = self.subs.capacity() * size_of::<SubMore>()
            + self
                .subs
                .iter()
                .map(|it| it.channel.len() + it.info.len() + it.data.len())
                .sum::<usize>();
        let reserved = self.reserved.iter().map(|it| ENTRY + it.len()).sum::<usize>();
        let feeds = self.feeds.capacity() * size_of::<feeds::Feed>()
            + self.feeds.iter().map(feeds::Feed::bytes).sum::<usize>();
        let revoked = self.revoked.iter().map(|it| 2 * ENTRY + it.channel.len()).sum::<usize>();
        let connecting = self.connecting.as_ref().map_or(0, |it| it.bytes());
        let vouched = self.vouched.as_ref().map_or(0, |user| user.len());
        let lines = self.answer.iter().flatten();
        let answer = lines.map(|(name, value)| ENTRY + name.len() + value.len()).sum::<usize>();
        let raw = self.conn_info.len() + self.meta.len() + vouched + answer;
        size_of::<Self>()
            + raw
            + headers
            + subs
            + reserved
            + feeds
            + revoked
            + connecting
            + self.queue.memory()
    }
}

impl Connecting {
    fn bytes(&self) -> usize {
        let position = |(channel, request): (&String, &SubscribeRequest)| {
            size_of::<SubscribeRequest>() + ENTRY + channel.len() + request.epoch.len()
        };
        let positions = self.positions.iter().map(position).sum::<usize>();
        let orders = self.orders.len() * size_of::<Arc<UserOrder>>();
        size_of::<Self>() + positions + orders + self.stashed
    }
}

/// What a text or a pair of texts takes in a list besides its bytes.
const ENTRY: usize = 2 * size_of::<String>();

/// How the messages of a WebSocket are encoded, and the subprotocol to answer with.
pub(super) fn negotiate(request: &request::Request<'_>) -> (Format, Option<String>) {
    let offered = |name: &str| request.protocols().any(|protocol| protocol == name);
    let protocol = [PROTOBUF_PROTOCOL, JSON_PROTOCOL].into_iter().find(|name| offered(name));
    let protobuf = protocol == Some(PROTOBUF_PROTOCOL)
        || asks(request, "cf_protocol", "protobuf")
        || asks(request, "format", "protobuf");
    let format = if protobuf { Format::WebSocketProtobuf } else { Format::WebSocketJson };
    (format, protocol.map(str::to_owned))
}

/// Whether the query has this.
fn asks(request: &request::Request<'_>, name: &str, value: &str) -> bool {
    let pairs = request.query().unwrap_or("").split('&');
    pairs.filter_map(|pair| pair.split_once('=')).any(|pair| pair == (name, value))
}

const PROTOBUF_PROTOCOL: &str = "centrifuge-protobuf";
const JSON_PROTOCOL: &str = "centrifuge-json";

#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod tests;
