//! The connect command: who it is, whether there is room, server-side subscriptions, the reply.

use std::collections::HashSet;

use bytes::Bytes;

use super::commands::{CommandError, Outcome};
use super::machine::{CoreState, Deferred, Sessions};
use super::port::Port;
use super::ticket::{Ticket, Waits};
use super::timers::What;
use super::{CONNECTING, Connecting, NATIVE_PINGS, NOBODY, OPEN};
use crate::gateway::channels::{Decision, Override, Subject, Wish};
use crate::gateway::format::Format;
use crate::gateway::hooks::{ConnectReply, HookEvent};
use crate::gateway::hub_port::Link;
use crate::gateway::letters::{ClientId, SeatRule};
use crate::gateway::places::Resume;
use crate::gateway::plan::Plan;
use crate::gateway::refusals::Refused;
use crate::gateway::stats::CommandKind;
use crate::gateway::tokens::ConnectionClaims;
use crate::gateway::wire::messages::{
    ConnectRequest, ConnectResult, ReplyBody, SubscribeRequest, SubscribeResult,
};
use crate::gateway::wire::{self, Disconnect, Encoding, Error, Malformed};
use crate::protocol::request::Request;

/// What clients are told the server is.
pub(super) const VERSION: &str = concat!("ringhold ", env!("CARGO_PKG_VERSION"));

/// Who a connection is, and what it gets.
#[derive(Clone, Debug, Default)]
pub(super) struct Admitted {
    user: String,
    /// Unix time in seconds; 0 is never.
    expire_at: i64,
    info: Bytes,
    meta: Bytes,
    data: Bytes,
    subs: Vec<ServerSub>,
}

/// A server-side subscription that a token or the backend grants.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerSub {
    pub(super) channel: String,
    pub(super) info: Bytes,
    pub(super) data: Bytes,
    pub(super) expire_at: i64,
    pub(super) overrides: Override,
    /// The newest publication comes with the reply.
    pub(super) cached: bool,
    /// A connection token grants it: the next one has to, too.
    pub(super) by_token: bool,
}

/// Who names the channels of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// The backend, which was told what the client asks for.
    Backend,
    /// Also the client, as far as it may subscribe to them by itself.
    ClientToo,
}

impl From<ConnectionClaims> for Admitted {
    fn from(claims: ConnectionClaims) -> Self {
        let subs = claims.subs.into_iter().map(|sub| ServerSub {
            channel: sub.channel,
            info: sub.info,
            data: sub.data,
            overrides: sub.overrides,
            by_token: true,
            ..ServerSub::default()
        });
        Self {
            user: claims.user,
            expire_at: claims.expire_at.unwrap_or(0),
            info: claims.info,
            meta: claims.meta,
            data: Bytes::new(),
            subs: subs.collect(),
        }
    }
}

impl From<ConnectReply> for Admitted {
    fn from(reply: ConnectReply) -> Self {
        let named =
            reply.channels.into_iter().map(|channel| ServerSub { channel, ..ServerSub::default() });
        let set = reply.subs.into_iter().map(|(channel, settings)| ServerSub {
            channel,
            info: settings.info,
            data: settings.data,
            expire_at: settings.expire_at,
            overrides: settings.overrides,
            cached: settings.cache_recover,
            by_token: false,
        });
        Self {
            user: reply.user,
            expire_at: reply.expire_at,
            info: reply.info,
            meta: reply.meta,
            data: reply.data,
            subs: named.chain(set).collect(),
        }
    }
}

impl Sessions {
    pub(super) fn connect(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        request: ConnectRequest,
        resume: Resume,
    ) -> Outcome {
        let mut request = request;
        if request.name.len() > NAME_MAX || request.version.len() > VERSION_MAX {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if request.subs.len() > self.state.rules.options.client.channel_limit {
            return Err(Disconnect::CHANNEL_LIMIT.into());
        }
        let mut positions = std::mem::take(&mut request.subs);
        for position in positions.values_mut() {
            let SubscribeRequest { recover, epoch, offset, flag, .. } = std::mem::take(position);
            *position =
                SubscribeRequest { recover, epoch, offset, flag, ..SubscribeRequest::default() };
        }
        let Some(session) = self.state.table.get_mut(link) else { return Ok(()) };
        session.set(CONNECTING, true);
        // The backend is told of it before there is anything else to know.
        let name = ClientId::random(port.random(), port.random());
        let connecting = Connecting {
            ticket: ticket.0,
            name: Some(name),
            positions,
            resume,
            ..Connecting::default()
        };
        session.more().connecting = Some(Box::new(connecting));
        self.state.table.weigh(link);
        if self.state.is_crowded() {
            return Err(Disconnect::TOO_MANY_REQUESTS.into());
        }
        let outcome = self.identify(port, link, ticket, request);
        if outcome.is_err() {
            // The error is said at once; any next command closes.
            self.give_up(port, link);
        }
        outcome
    }

    /// The one request of a one-way client.
    pub(super) fn connect_one_way(
        &mut self,
        port: &mut impl Port,
        link: Link,
        request: ConnectRequest,
        resume: Resume,
    ) {
        let now = port.now().as_millis() as u64;
        let ticket = Ticket::new(Waits::Command(CommandKind::Connect), now, 0);
        let outcome = self.connect(port, link, ticket, request, resume);
        self.conclude(port, link, ticket, outcome);
    }

    /// Finds out who it is.
    fn identify(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        request: ConnectRequest,
    ) -> Outcome {
        let rules = self.state.rules.clone();
        let client = &rules.options.client;
        if !request.token.is_empty() {
            self.state.pay_signature(port, link);
            let claims = match rules.connection.connection(&request.token, self.state.unix) {
                Ok(claims) => claims,
                Err(error) => {
                    return Err(self.bad_token(port, link, &error, Error::TOKEN_EXPIRED.into()));
                }
            };
            if claims.user.is_empty()
                && client.disallow_anonymous_connection_tokens
                && !client.insecure
            {
                self.refused(link, Refused::Token, "it names no user", "");
                return Err(Disconnect::PERMISSION_DENIED.into());
            }
            return self.admit(port, link, ticket, claims.into(), Names::ClientToo);
        }
        if rules.options.hooks.connect {
            let ConnectRequest { name, version, data, headers, .. } = request;
            self.keep_emulated(link, headers)?;
            let session = self.state.table.get_mut(link);
            let connecting = session.and_then(|session| session.connecting());
            let channels = connecting.map(|it| it.positions.keys().cloned().collect());
            let channels = channels.unwrap_or_default();
            let event = HookEvent::Connect { name, version, data, channels };
            return self.ask_backend(port, link, ticket, event);
        }
        self.admit_nobody(port, link, ticket)
    }

    /// A connection that neither a token nor the backend vouches for: it is whom its header names,
    /// or nobody.
    pub(super) fn admit_nobody(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
    ) -> Outcome {
        let more = self.state.table.get_mut(link).and_then(|session| session.more.as_mut());
        if let Some(user) = more.and_then(|more| more.vouched.take()) {
            let admitted = Admitted { user: user.into_string(), ..Admitted::default() };
            return self.admit(port, link, ticket, admitted, Names::Backend);
        }
        let client = &self.state.rules.options.client;
        if client.insecure || client.allow_anonymous_connect_without_token {
            return self.admit(port, link, ticket, Admitted::default(), Names::ClientToo);
        }
        Err(Disconnect::BAD_REQUEST.into())
    }

    /// Lets a connection in as who it is, if there is a seat.
    pub(super) fn admit(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        mut admitted: Admitted,
        names: Names,
    ) -> Outcome {
        let rules = self.state.rules.clone();
        let options = &rules.options.client;
        if options.insecure {
            admitted.expire_at = 0;
        }
        if admitted.expire_at > 0 && admitted.expire_at <= self.state.unix {
            return Err(Error::EXPIRED.into());
        }
        if let Some(channel) = rules.namespaces.personal_channel(&admitted.user)
            && !admitted.subs.iter().any(|sub| sub.channel == channel)
        {
            admitted.subs.push(ServerSub { channel, ..ServerSub::default() });
        }
        if names == Names::ClientToo {
            self.add_asked(link, &mut admitted)?;
        }
        keep_last(&mut admitted.subs);
        if admitted.subs.len() > options.channel_limit {
            return Err(Disconnect::CHANNEL_LIMIT.into());
        }
        for sub in &admitted.subs {
            rules.namespaces.place(&sub.channel)?;
        }
        let Some(session) = self.state.table.get_mut(link) else { return Ok(()) };
        let format = session.format();
        session.more().conn_info = admitted.info.clone();
        session.more().meta = admitted.meta.clone();
        let Some(name) = session.connecting().and_then(|connecting| connecting.name) else {
            return Ok(());
        };
        let user = admitted.user.clone();
        let client = self.hub.connect(link, name, &user, format);
        let Some(session) = self.state.table.get_mut(link) else { return Ok(()) };
        session.client = client;
        let single = options.subscribe_to_user_personal_channel.single_connection;
        let rule = match options.user_connection_limit {
            _ if user.is_empty() => None,
            _ if single => Some(SeatRule::Single),
            0 => None,
            limit => Some(SeatRule::Limit(limit)),
        };
        if let Some(connecting) = session.connecting() {
            connecting.admitted = Some(Box::new(admitted));
        }
        match rule {
            Some(rule) => {
                let entered =
                    self.with_hub(port, |hub, out| hub.enter(out, client, ticket.0, rule));
                entered.map_err(|_| CommandError::from(Disconnect::TOO_MANY_REQUESTS))
            }
            None => self.seat(port, link),
        }
    }

    /// Adds the channels that the client asks for with its connect command, less those to which it
    /// could not subscribe by itself.
    fn add_asked(&mut self, link: Link, admitted: &mut Admitted) -> Outcome {
        let rules = self.state.rules.clone();
        let Some(session) = self.state.table.get_mut(link) else { return Ok(()) };
        let Some(connecting) = session.connecting() else { return Ok(()) };
        // Not even without checks: the client would be in channels it does not know.
        let asker = Subject { user: &admitted.user, insecure: false, subscribed: false };
        let mut asked = Vec::new();
        for channel in connecting.positions.keys().filter(|channel| !channel.is_empty()) {
            if rules.namespaces.place(channel).is_err() {
                return Err(Disconnect::BAD_REQUEST.into());
            }
            let place = rules.namespaces.resolve(channel);
            let may = place.is_ok_and(|place| place.subscribe(asker, false) == Decision::Allow);
            if may && !admitted.subs.iter().any(|sub| sub.channel == *channel) {
                asked.push(ServerSub { channel: channel.clone(), ..ServerSub::default() });
            }
        }
        admitted.subs.append(&mut asked);
        Ok(())
    }

    /// The hub has a seat for a connection.
    pub(super) fn entered(&mut self, port: &mut impl Port, link: Link) {
        let connecting = self.state.table.get_mut(link).and_then(|session| session.connecting());
        let Some(ticket) = connecting.map(|connecting| Ticket(connecting.ticket)) else { return };
        let outcome = self.seat(port, link);
        self.conclude(port, link, ticket, outcome);
    }

    /// A connect command has failed: nothing more comes of it, and the connection is nobody again,
    /// whom others do not see.
    pub(super) fn give_up(&mut self, port: &mut impl Port, link: Link) {
        let Some(session) = self.state.table.get_mut(link) else { return };
        session.more().connecting = None;
        let client = std::mem::replace(&mut session.client, NOBODY);
        session.expire_at = 0;
        session.tidy();
        self.state.timers.clear(link, What::Connection);
        if client != NOBODY {
            self.with_hub(port, |hub, out| hub.disconnect(out, client));
        }
    }

    /// Makes the server-side subscriptions and, when they are there, the reply.
    fn seat(&mut self, port: &mut impl Port, link: Link) -> Outcome {
        let Some(session) = self.state.table.get_mut(link) else { return Ok(()) };
        let Some(client) = session.client() else { return Ok(()) };
        let (native, format) = (session.is(NATIVE_PINGS), session.format());
        let Some(connecting) = session.connecting() else { return Ok(()) };
        let Some(admitted) = connecting.admitted.take() else { return Ok(()) };
        let ticket = Ticket(connecting.ticket);
        connecting.waiting = admitted.subs.len();
        let positions = std::mem::take(&mut connecting.positions);
        let resume = std::mem::take(&mut connecting.resume);
        let options = &self.state.rules.options.client;
        let ping = if native { 0 } else { options.ping_interval.as_secs_f64().ceil() as u32 };
        let pong = ping > 0 && !format.is_uni() && !options.pong_timeout.is_zero();
        let with_time = options.connect_include_server_time;
        let by_client = !self.state.rules.options.hooks.refresh;
        let (expires, ttl) = self.state.prolong(port, link, admitted.expire_at);
        let time = match with_time {
            true => self.state.unix.saturating_mul(1000),
            false => 0,
        };
        let name = self.client_id(client).to_string();
        let (session, node) = match format.is_emulated() {
            true => {
                (self.state.names.name(self.state.core, link), self.state.names.node().to_owned())
            }
            // The server API knows it by this.
            false if format.is_uni() => (name.clone(), String::new()),
            false => Default::default(),
        };
        let result = ConnectResult {
            client: name,
            version: VERSION.to_owned(),
            expires: expires && by_client,
            ttl: if by_client { ttl } else { 0 },
            data: admitted.data,
            ping,
            pong,
            session,
            node,
            time,
            ..ConnectResult::default()
        };
        if let Some(connecting) =
            self.state.table.get_mut(link).and_then(|session| session.connecting())
        {
            connecting.result = result;
        }
        let channels = admitted.subs.len();
        for sub in admitted.subs {
            let request = positions.get(&sub.channel).cloned();
            let request = request.or_else(|| resume.of(&sub.channel));
            self.subscribe_by_server(port, link, Waits::Connect, ticket.id(), sub, request)?;
        }
        if channels == 0 {
            self.state.finish_connect(port, link);
        }
        Ok(())
    }

    /// Subscribes a connection for the server.
    pub(super) fn subscribe_by_server(
        &mut self,
        port: &mut impl Port,
        link: Link,
        waits: Waits,
        number: u32,
        sub: ServerSub,
        request: Option<SubscribeRequest>,
    ) -> Outcome {
        let client = self.client_of(link)?;
        let rules = self.state.rules.clone();
        let place = rules.namespaces.place(&sub.channel)?;
        if self.state.table.get_mut(link).is_some_and(|session| session.is_reserved(&sub.channel)) {
            return Err(Error::ALREADY_SUBSCRIBED.into());
        }
        let user = self.hub.users().name_of(client).map_or("", |name| name);
        let asker = Subject { user, insecure: rules.options.client.insecure, subscribed: true };
        let mut mode = place.mode(asker, &sub.overrides, Wish::default());
        mode.auto_cache_recover |= sub.cached && mode.recovery;
        let ticket = Ticket::new(waits, port.now().as_millis() as u64, number);
        let request = request.unwrap_or_default();
        let terms = super::subscribe::Terms {
            channel: &sub.channel,
            mode,
            delta: false,
            filter: None,
            server_side: true,
            by_token: sub.by_token,
            expire_at: sub.expire_at,
            info: sub.info,
            data: sub.data,
        };
        self.subscribe_on(port, link, ticket, terms, &request).map_err(CommandError::at_once)
    }
}

impl CoreState {
    /// A server-side subscription of a connect command has its answer.
    pub(super) fn connect_part(
        &mut self,
        port: &mut impl Port,
        link: Link,
        channel: &str,
        result: SubscribeResult,
    ) {
        let connecting = self.table.get_mut(link).and_then(|session| session.connecting());
        let Some(connecting) = connecting else { return };
        connecting.result.subs.insert(channel.to_owned(), result);
        connecting.waiting = connecting.waiting.saturating_sub(1);
        if connecting.waiting == 0 {
            self.finish_connect(port, link);
        }
    }

    /// Sends the connect reply, and what had to wait for it.
    fn finish_connect(&mut self, port: &mut impl Port, link: Link) {
        let Some(session) = self.table.get_mut(link) else { return };
        let Some(connecting) = session.more().connecting.take() else { return };
        session.more().vouched = None;
        let answer = session.take_answer();
        session.set(OPEN, true);
        self.timers.clear(link, What::Stale);
        let Connecting { ticket, result, stash, orders, .. } = *connecting;
        if session.format() == Format::UniSse {
            for (channel, sub) in &result.subs {
                session.more().places.begin(channel, sub);
            }
        }
        session.tidy();
        self.stats.counters.connects += 1;
        debug_assert_eq!(Ticket(ticket).waits(), Some(Waits::Command(CommandKind::Connect)));
        // They came before the commands that the reply wakes.
        for order in orders {
            self.defer(Deferred::LateOrder(link, order));
        }
        if let Some(headers) = answer {
            // One that is gone hears nothing of what follows, either.
            port.begin(link, &headers);
        }
        self.reply(port, link, Ticket(ticket), ReplyBody::Connect(Box::new(result)));
        self.unstash(port, link, stash);
        self.table.weigh(link);
    }
}

/// The user that a request's header names, where one does that. Text that is not UTF-8 names
/// nobody.
pub(super) fn vouched(request: &Request<'_>, options: &Plan) -> Option<Box<str>> {
    let header = options.client.user_id_http_header.as_str();
    let user = (!header.is_empty()).then(|| request.header(header))??;
    (!user.is_empty()).then(|| user.into())
}

/// A one-way client's request; nothing, and `null`, ask for nothing.
pub(in crate::gateway) fn connect_request(content: &[u8]) -> Result<ConnectRequest, Malformed> {
    match content.trim_ascii() {
        b"" | b"null" => Ok(ConnectRequest::default()),
        content => wire::decode_connect(Encoding::Json, content),
    }
}

/// Each channel once, as it was named last; one without a name is none.
fn keep_last(subs: &mut Vec<ServerSub>) {
    let mut seen = HashSet::new();
    subs.reverse();
    subs.retain(|sub| !sub.channel.is_empty() && seen.insert(sub.channel.clone()));
    subs.reverse();
}

/// Bytes of a client's name for itself.
const NAME_MAX: usize = 16;

/// Bytes of its version.
const VERSION_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_null_are_requests() {
        for content in ["", " ", "null", " null\n", "{}"] {
            let request = connect_request(content.as_bytes());
            assert_eq!(request, Ok(ConnectRequest::default()), "{content:?}");
        }
        for content in ["[]", "1", "{", "{} {}", "nul"] {
            assert!(connect_request(content.as_bytes()).is_err(), "{content:?}");
        }
    }

    #[test]
    fn a_header_names_somebody_or_nobody() {
        let mut options = Plan::default();
        let user = |lines: &str, options: &Plan| {
            let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            let parsed = crate::protocol::request::parse(head.as_bytes(), &mut 0, 8192);
            let (request, _) = parsed.expect("a request").expect("whole");
            vouched(&request, options).map(String::from)
        };
        assert_eq!(user("X-User: ann\r\n", &options), None, "no header does");
        options.client.user_id_http_header = "X-User".to_owned();
        assert_eq!(user("X-User: ann\r\n", &options).as_deref(), Some("ann"));
        assert_eq!(user("X-User:\r\n", &options), None);
        assert_eq!(user("", &options), None);
    }

    #[test]
    fn a_channel_is_what_was_said_of_it_last() {
        let sub = |(channel, expire_at): (&str, i64)| ServerSub {
            channel: channel.to_owned(),
            expire_at,
            ..ServerSub::default()
        };
        let mut subs: Vec<_> = [("a", 1), ("", 2), ("b", 3), ("a", 4)].map(sub).into();
        keep_last(&mut subs);
        let left: Vec<_> = subs.iter().map(|sub| (&*sub.channel, sub.expire_at)).collect();
        assert_eq!(left, [("b", 3), ("a", 4)]);
    }
}
