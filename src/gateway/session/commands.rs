//! Commands: which may come when, and those that are answered by a channel's home core or at once.

use std::time::Duration;

use bytes::Bytes;

use super::machine::{CoreState, Sessions};
use super::order::Done;
use super::port::Port;
use super::sending::Saying;
use super::ticket::{Ticket, Waits, kind_of};
use super::{CONNECTING, OPEN, SubMore};
use crate::gateway::channels::{Decision, ResolvedChannel, Subject};
use crate::gateway::hooks::{HookEvent, PublishReply};
use crate::gateway::hub_port::{ClientKey, Link};
use crate::gateway::letters::{self, Ask, ClientId, Publish};
use crate::gateway::places::Resume;
use crate::gateway::plan::Route;
use crate::gateway::refusals::{self, Refused};
use crate::gateway::rulebook::Rulebook;
use crate::gateway::stats::CommandKind;
use crate::gateway::stream::{Position, Read};
use crate::gateway::tokens;
use crate::gateway::wire::messages::{
    ClientInfo, Command, HistoryRequest, PublishRequest, Push, PushBody, RefreshRequest,
    RefreshResult, Reply, ReplyBody, Request, RpcRequest, RpcResult, StreamPosition,
    SubRefreshRequest, SubRefreshResult, UnsubscribeRequest, UnsubscribeResult,
};
use crate::gateway::wire::{self, Disconnect, Encoding, Error};

/// What becomes of a command.
pub(super) enum CommandError {
    /// An error reply.
    Error(Error),
    /// The end of the connection.
    Disconnect(Disconnect),
    /// The channel's home core has no room for the question, and nothing has been done: later.
    Later,
}

impl CommandError {
    /// For who cannot come back later.
    pub(super) fn at_once(self) -> Self {
        match self {
            Self::Later => Self::Error(Error::TOO_MANY_REQUESTS),
            other => other,
        }
    }

    /// Why the hub did not take a question.
    pub(super) fn of_hub(error: Error) -> Self {
        if error == Error::TOO_MANY_REQUESTS { Self::Later } else { Self::Error(error) }
    }
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Disconnect> for CommandError {
    fn from(disconnect: Disconnect) -> Self {
        Self::Disconnect(disconnect)
    }
}

/// A command that is replied to later, or was.
pub(super) type Outcome = Result<(), CommandError>;

impl Sessions {
    /// Handles one command. The error closes the connection.
    pub(super) fn command(
        &mut self,
        port: &mut impl Port,
        link: Link,
        command: Command,
    ) -> Result<Done, Disconnect> {
        let Some(session) = self.state.table.get_mut(link) else { return Ok(Done::Done) };
        if command.is_pong() {
            return session.pong(false).map(|()| Done::Done);
        }
        let number = command.id;
        let Some(request) = command.into_request() else { return Err(Disconnect::BAD_REQUEST) };
        let kind = kind_of(&request);
        if number == 0 && kind != CommandKind::Send {
            return Err(Disconnect::BAD_REQUEST);
        }
        // One connect command, and before all others; one that failed was the last command.
        let connects = kind == CommandKind::Connect;
        if session.is(OPEN) == connects || session.is(CONNECTING) && !session.is(OPEN) {
            return Err(Disconnect::BAD_REQUEST);
        }
        if let Request::Unsubscribe(request) = &request
            && self.is_subscribing(link, &request.channel)
        {
            // It wins when that has its answer.
            return Ok(Done::Wait);
        }
        if let Some(session) = self.state.table.get_mut(link) {
            session.busy = session.busy.saturating_add(1);
        }
        let now = port.now().as_millis() as u64;
        let ticket = Ticket::new(Waits::Command(kind), now, number);
        let outcome = match request {
            Request::Connect(request) => {
                self.connect(port, link, ticket, *request, Resume::default())
            }
            Request::Subscribe(request) => self.subscribe(port, link, ticket, *request),
            Request::Unsubscribe(request) => self.unsubscribe(port, link, ticket, &request),
            Request::Publish(request) => self.publish(port, link, ticket, request),
            Request::Presence(request) => {
                let question = self.state.presence_question(port, link);
                self.ask_who(port, link, ticket, &request.channel, question)
            }
            Request::PresenceStats(request) => {
                self.ask_who(port, link, ticket, &request.channel, letters::Question::PresenceStats)
            }
            Request::History(request) => self.history(port, link, ticket, request),
            Request::Rpc(request) => self.rpc(port, link, ticket, request),
            Request::Send(_) => Err(Disconnect::NOT_AVAILABLE.into()),
            Request::Refresh(request) => self.refresh(port, link, ticket, &request),
            Request::SubRefresh(request) => self.sub_refresh(port, link, ticket, &request),
        };
        match outcome {
            Ok(()) => Ok(Done::Done),
            Err(CommandError::Error(error)) => {
                self.state.fail(port, link, ticket, error);
                Ok(Done::Done)
            }
            Err(CommandError::Disconnect(disconnect)) => Err(disconnect),
            Err(CommandError::Later) => {
                self.state.postpone(port, link);
                Ok(Done::Wait)
            }
        }
    }

    /// Who asks about a channel.
    pub(super) fn asker<'g>(&'g self, client: ClientKey, channel: &str) -> Subject<'g> {
        let subscribed = self.is_subscribed(client, channel);
        let user = self.hub.users().name_of(client).map_or("", |name| name);
        Subject { user, insecure: self.state.rules.options.client.insecure, subscribed }
    }

    /// What holds for a channel that a client names. One to which the application has subscribed it
    /// may have any name.
    fn place<'n, 'c>(
        &self,
        rules: &'n Rulebook,
        client: ClientKey,
        channel: &'c str,
    ) -> Result<ResolvedChannel<'n, 'c>, Error> {
        match self.is_subscribed(client, channel) {
            true => rules.namespaces.place(channel),
            false => rules.namespaces.resolve(channel),
        }
    }

    /// The session's number in the hub. Only open sessions get here.
    pub(super) fn client_of(&mut self, link: Link) -> Result<ClientKey, CommandError> {
        let session = self.state.table.get_mut(link);
        session.and_then(|session| session.client()).ok_or(Error::INTERNAL.into())
    }

    pub(super) fn client_id(&self, client: ClientKey) -> ClientId {
        self.hub.users().get(client).map_or(ClientId::new(0), |client| client.id())
    }

    fn unsubscribe(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        request: &UnsubscribeRequest,
    ) -> Outcome {
        let client = self.client_of(link)?;
        let channel = named(&request.channel)?;
        self.with_hub(port, |hub, out| hub.unsubscribe(out, client, channel));
        self.state.forget_sub(port, link, channel);
        self.state.reply(port, link, ticket, ReplyBody::Unsubscribe(UnsubscribeResult {}));
        Ok(())
    }

    fn publish(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        request: PublishRequest,
    ) -> Outcome {
        let client = self.client_of(link)?;
        let channel = named(&request.channel)?;
        let rules = self.state.rules.clone();
        let place = self.place(&rules, client, channel);
        let place = place.inspect_err(|error| {
            self.refused(link, Refused::Publication, &error.message, channel);
        })?;
        if request.kind != 0 {
            return Err(Error::NOT_AVAILABLE.into());
        }
        let is_json = place.rules.accept_data(&request.data).inspect_err(|_| {
            self.refused(link, Refused::Publication, "data of another format", channel);
        })?;
        let fed = self.state.table.get_mut(link).is_some_and(|it| it.feeds_back(channel));
        match place.publish(self.asker(client, channel), fed) {
            Decision::Refuse(error) => {
                self.refused(link, Refused::Publication, &error.message, channel);
                Err(error.into())
            }
            Decision::AskProxy => {
                let PublishRequest { channel, data, .. } = request;
                self.ask_backend(port, link, ticket, HookEvent::Publish { channel, data })
            }
            Decision::AskStream => {
                let PublishRequest { channel, data, .. } = request;
                self.publish_to_feed(port, link, ticket, &channel, data)
            }
            Decision::Allow | Decision::VerifyToken => {
                let reply = PublishReply { data: Some(request.data), ..PublishReply::default() };
                self.publish_as(port, link, ticket, &request.channel, reply, Some(is_json))
            }
        }
    }

    /// Publishes what a client may publish. `is_json`: what the look at the data has shown, if
    /// there was one.
    pub(super) fn publish_as(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        channel: &str,
        reply: PublishReply,
        is_json: Option<bool>,
    ) -> Outcome {
        let client = self.client_of(link)?;
        let rules = self.state.rules.clone();
        let place = rules.namespaces.place(channel)?;
        let options = &place.rules.options;
        let data = reply.data.unwrap_or_default();
        let is_json = match is_json {
            Some(is_json) => is_json,
            // The backend may have put something else in its place.
            None => place.rules.accept_data(&data)?,
        };
        let mut info = self.client_info(link, client);
        let sub = self.state.table.get_mut(link).and_then(|session| session.sub(channel));
        info.chan_info = sub.map(|sub| sub.info.clone()).unwrap_or_default();
        let publish = Publish {
            data,
            is_json,
            info: Some(Box::new(info)),
            tags: reply.tags,
            stream: place.rules.stream().filter(|_| !reply.skip_history),
            delta: options.delta_publish || reply.delta,
            idempotency_key: reply.idempotency_key,
            version: reply.version,
            version_epoch: reply.version_epoch,
        };
        self.ask(port, link, ticket, channel, letters::Question::Publish(publish))
    }

    /// What others are told about a connection.
    pub(super) fn client_info(&mut self, link: Link, client: ClientKey) -> ClientInfo {
        let user = self.hub.users().name_of(client).map_or("", |name| name).to_owned();
        let client = self.client_id(client).to_string();
        let more = self.state.table.get_mut(link).and_then(|session| session.more.as_ref());
        let conn_info = more.map(|more| more.conn_info.clone()).unwrap_or_default();
        ClientInfo { user, client, conn_info, ..ClientInfo::default() }
    }

    fn ask_who(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        channel: &str,
        question: letters::Question,
    ) -> Outcome {
        let client = self.client_of(link)?;
        let rules = self.state.rules.clone();
        let place = self.place(&rules, client, named(channel)?)?;
        granted(place.presence(self.asker(client, channel)))?;
        self.ask(port, link, ticket, channel, question)
    }

    fn history(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        request: HistoryRequest,
    ) -> Outcome {
        let client = self.client_of(link)?;
        let rules = self.state.rules.clone();
        let place = self.place(&rules, client, named(&request.channel)?)?;
        granted(place.history(self.asker(client, &request.channel)))?;
        let Some(stream) = place.rules.stream() else { return Err(Error::NOT_AVAILABLE.into()) };
        let read = Read {
            since: request.since.map(position),
            limit: request.limit,
            reverse: request.reverse,
            max: rules.options.client.history_max_publication_limit as u32,
            max_bytes: self.state.room(port, link),
        };
        self.ask(port, link, ticket, &request.channel, letters::Question::History { stream, read })
    }

    fn rpc(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        request: RpcRequest,
    ) -> Outcome {
        match self.state.rules.options.rpc.route(&request.method) {
            Route::Off => Err(Error::NOT_AVAILABLE.into()),
            Route::NoMethod => Err(Error::METHOD_NOT_FOUND.into()),
            Route::Ping => {
                self.state.reply(port, link, ticket, ReplyBody::Rpc(RpcResult::default()));
                Ok(())
            }
            Route::Proxy(_) => {
                let RpcRequest { data, method } = request;
                self.ask_backend(port, link, ticket, HookEvent::Rpc { method, data })
            }
        }
    }

    fn refresh(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        request: &RefreshRequest,
    ) -> Outcome {
        let client = self.client_of(link)?;
        // Where the backend decides how long a connection lasts, the client was not told that it
        // expires, and no token of its own may say otherwise.
        if request.token.is_empty() || self.state.rules.options.hooks.refresh {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        self.state.pay_signature(port, link);
        let claims = match self.state.rules.connection.connection(&request.token, self.state.unix) {
            Ok(claims) => claims,
            Err(error) => {
                return Err(self.bad_token(port, link, &error, Disconnect::EXPIRED.into()));
            }
        };
        let user = self.hub.users().name_of(client);
        if user.is_none_or(|user| **user != *claims.user) {
            self.refused(link, Refused::Token, "it names another user", "");
            return Err(Disconnect::INVALID_TOKEN.into());
        }
        let personal = self.state.rules.namespaces.personal_channel(&claims.user);
        let granted = |channel: &str| {
            personal.as_deref() == Some(channel) || claims.subs.iter().any(|s| s.channel == channel)
        };
        let has = |channel: &str| channel.is_empty() || self.is_subscribed(client, channel);
        let mut subscriptions = self.hub.subscriptions(client);
        if subscriptions.any(|sub| sub.wants.by_token && !granted(sub.channel))
            || claims.subs.iter().any(|sub| !has(&sub.channel))
        {
            return Err(Disconnect::INSUFFICIENT_STATE.into());
        }
        drop(subscriptions);
        let expire_at = claims.expire_at.unwrap_or(0);
        if self.state.is_over(expire_at) {
            self.refused(link, Refused::Token, "expire_at is over", "");
            return Err(Disconnect::EXPIRED.into());
        }
        self.renew(port, link, &claims.info, &claims.meta);
        let (expires, ttl) = self.state.prolong(port, link, expire_at);
        let result = RefreshResult {
            client: self.client_id(client).to_string(),
            version: super::connect::VERSION.to_owned(),
            expires,
            ttl,
        };
        self.state.reply(port, link, ticket, ReplyBody::Refresh(result));
        Ok(())
    }

    fn sub_refresh(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        request: &SubRefreshRequest,
    ) -> Outcome {
        let client = self.client_of(link)?;
        let channel = named(&request.channel)?;
        if request.kind != 0 {
            return Err(Error::NOT_AVAILABLE.into());
        }
        if !self.is_subscribed(client, channel) {
            return Err(Error::PERMISSION_DENIED.into());
        }
        // Likewise where the backend decides how long a subscription lasts.
        if self.state.rules.refreshes(channel) {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        // An error would make SDKs give the subscription up for good. Closed, they ask for another
        // token when they are back.
        let claims = match self.sub_claims(port, link, client, channel, &request.token) {
            Err(CommandError::Error(error)) if error == Error::TOKEN_EXPIRED => {
                return Err(Disconnect::SUBSCRIPTION_EXPIRED.into());
            }
            Err(CommandError::Error(error)) if error == Error::PERMISSION_DENIED => {
                return Err(Disconnect::INVALID_TOKEN.into());
            }
            other => other?,
        };
        let expire_at = claims.expire_at.unwrap_or(0);
        if self.state.is_over(expire_at) {
            return Err(Disconnect::SUBSCRIPTION_EXPIRED.into());
        }
        self.renew_sub(port, link, channel, expire_at, claims.info);
        let (expires, ttl) = self.state.watch_subscriptions(port, link, expire_at);
        let result = SubRefreshResult { expires, ttl };
        self.state.reply(port, link, ticket, ReplyBody::SubRefresh(result));
        Ok(())
    }

    /// A subscription lasts until then, and has new information unless that is empty.
    pub(super) fn renew_sub(
        &mut self,
        port: &mut impl Port,
        link: Link,
        channel: &str,
        expire_at: i64,
        info: Bytes,
    ) {
        let Some(session) = self.state.table.get_mut(link) else { return };
        if session.sub(channel).is_none() && (expire_at > 0 || !info.is_empty()) {
            // By a token, since what the backend decides about has its time from the beginning.
            let held = session.client().and_then(|it| self.hub.subscription(it, channel));
            let server_side = held.is_some_and(|sub| sub.wants.server_side);
            let channel = channel.into();
            let sub = SubMore { channel, server_side, ..SubMore::default() };
            session.more().subs.push(sub);
        }
        let Some(sub) = session.sub(channel) else { return };
        sub.expire_at = expire_at;
        sub.asked = false;
        if !info.is_empty() && sub.info != info {
            sub.info = info;
            self.inform(port, link, &channel.into());
        }
    }

    /// What a subscription token grants to this connection.
    pub(super) fn sub_claims(
        &mut self,
        port: &mut impl Port,
        link: Link,
        client: ClientKey,
        channel: &str,
        token: &str,
    ) -> Result<tokens::SubscriptionClaims, CommandError> {
        self.state.pay_signature(port, link);
        let claims = match self.state.rules.subscription.subscription(token, self.state.unix) {
            Ok(claims) => claims,
            Err(error) => {
                self.refused(link, Refused::Token, &error.to_string(), channel);
                return Err(match error {
                    tokens::TokenError::Expired => Error::TOKEN_EXPIRED.into(),
                    tokens::TokenError::NeedKey(_) => {
                        port.want_keys();
                        Error::INTERNAL.into()
                    }
                    tokens::TokenError::Invalid(_) => self.state.refuse_token(link),
                });
            }
        };
        let user = self.hub.users().name_of(client).map_or("", |name| name);
        let bound = claims.client.is_empty() || claims.client == self.client_id(client).to_string();
        let other = match () {
            () if claims.user != user => "user",
            () if claims.channel != channel => "channel",
            () if !bound => "client",
            () => return Ok(claims),
        };
        self.refused(link, Refused::Token, &format!("it names another {other}"), channel);
        Err(Disconnect::INVALID_TOKEN.into())
    }

    /// A connection token that is not accepted. `expired`: what the client is told if it was once.
    pub(super) fn bad_token(
        &mut self,
        port: &mut impl Port,
        link: Link,
        error: &tokens::TokenError,
        expired: CommandError,
    ) -> CommandError {
        self.refused(link, Refused::Token, &error.to_string(), "");
        match error {
            tokens::TokenError::Expired => expired,
            tokens::TokenError::NeedKey(_) => {
                // The client comes back, and then the key may be here.
                port.want_keys();
                Disconnect::SERVER_ERROR.into()
            }
            tokens::TokenError::Invalid(_) => Disconnect::INVALID_TOKEN.into(),
        }
    }

    /// A client is refused something: that is counted, and told to the operator now and then.
    pub(super) fn refused(&mut self, link: Link, what: Refused, why: &str, channel: &str) {
        let counters = &mut self.state.stats.counters;
        match what {
            Refused::Token => counters.tokens_refused += 1,
            Refused::Subscription | Refused::SubscriptionByBackend => {
                counters.subscriptions_refused += 1;
            }
            Refused::Publication | Refused::PublicationByBackend => {
                counters.publications_refused += 1;
            }
        }
        let unix = self.state.unix;
        if !self.state.refusals.admits(what, unix) {
            return;
        }
        let client = self.state.table.get_mut(link).and_then(|session| session.client());
        let user = client.and_then(|client| self.hub.users().name_of(client));
        let refusal = refusals::Refusal {
            what,
            why: why.to_owned().into(),
            user: user.map_or_else(String::new, |user| user.to_string()),
            client: client.map(|client| self.client_id(client)),
            channel: channel.to_owned(),
        };
        self.state.refusals.push(refusal, unix);
    }

    /// Asks the channel's home core for a client.
    fn ask(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        channel: &str,
        question: letters::Question,
    ) -> Outcome {
        let asker = letters::Asker::Client { core: self.state.core, link, ticket: ticket.0 };
        let ask = Ask { channel: channel.into(), question, asker };
        self.with_hub(port, |hub, out| hub.ask(out, ask)).map_err(CommandError::of_hub)
    }
}

impl CoreState {
    /// A subscription token that is not ours: the client is told so, and closed after a few.
    fn refuse_token(&mut self, link: Link) -> CommandError {
        let limit = self.rules.options.client.failed_token_limit;
        let Some(session) = self.table.get_mut(link) else { return Error::INTERNAL.into() };
        session.failures = session.failures.saturating_add(1);
        match limit {
            1.. if u32::from(session.failures) >= limit => Disconnect::TOO_MANY_ERRORS.into(),
            _ => Error::PERMISSION_DENIED.into(),
        }
    }

    /// Bytes that may still be queued for a connection.
    pub(super) fn room(&self, port: &impl Port, link: Link) -> usize {
        let max = self.rules.options.client.queue_max_size.0.saturating_sub(AROUND);
        max.saturating_sub(port.queued(link)).max(1)
    }

    fn presence_question(&mut self, port: &impl Port, link: Link) -> letters::Question {
        let encoding = self.table.get_mut(link).map_or(Encoding::Json, |it| it.encoding());
        letters::Question::Members { encoding, max: self.room(port, link) }
    }

    /// A command is answered now: others may come.
    fn settle_command(&mut self, port: &impl Port, link: Link, ticket: Ticket) {
        let Some(Waits::Command(kind)) = ticket.waits() else { return };
        let age = ticket.age_ms(port.now().as_millis() as u64);
        self.stats.command(kind, Duration::from_millis(age));
        // Without a number nobody asked.
        if ticket.id() > 0
            && let Some(session) = self.table.get_mut(link)
        {
            session.busy = session.busy.saturating_sub(1);
            self.wake(link);
        }
    }

    /// Replies to `presence` with what all who ask share.
    pub(super) fn reply_members(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        members: &[u8],
    ) {
        self.settle_command(port, link, ticket);
        self.say(port, link, |format, batch| {
            wire::encode_presence(format.encoding(), ticket.id(), members, batch);
        });
        self.pay_answer(port, link, members.len());
    }

    /// Replies to a command.
    pub(super) fn reply(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        body: ReplyBody,
    ) {
        self.settle_command(port, link, ticket);
        if !self.can_take(link, &body) {
            return self.close(port, link, &Disconnect::INAPPROPRIATE_PROTOCOL);
        }
        if self.is_one_way(link) {
            // It asked for nothing else.
            if let ReplyBody::Connect(result) = body {
                let push = Push {
                    body: Some(PushBody::Connect(Box::new((*result).into()))),
                    ..Push::default()
                };
                let saying = Saying { placed: true, secret: true };
                self.say_at(port, link, saying, |format, batch| {
                    wire::encode_push(format.encoding(), format.envelope(), &push, batch);
                });
            }
            return;
        }
        // Of sessions and tokens, beside which others may have chosen text.
        let secret = matches!(
            body,
            ReplyBody::Connect(_) | ReplyBody::Refresh(_) | ReplyBody::SubRefresh(_)
        );
        let reply = Reply { id: ticket.id(), body: Some(body) };
        self.say_at(port, link, Saying { placed: false, secret }, |format, batch| {
            wire::encode_reply(format.encoding(), &reply, batch);
        });
        self.pay_answer(port, link, self.buffer.len());
    }

    fn is_one_way(&mut self, link: Link) -> bool {
        self.table.get_mut(link).is_some_and(|session| session.format().is_uni())
    }

    /// Replies to a command with an error. A one-way client is closed instead.
    pub(super) fn fail(&mut self, port: &mut impl Port, link: Link, ticket: Ticket, error: Error) {
        if let Some(Waits::Command(kind)) = ticket.waits() {
            self.stats.error(kind, error.code);
        }
        if self.is_one_way(link) {
            if self.respond(port, link, error.code, &error.message) {
                return;
            }
            let rules = self.rules.clone();
            let chosen = &rules.options.client.connect_code_to_unidirectional_disconnect;
            let disconnect = match chosen.of(error.code) {
                Some((code, reason)) => Disconnect::new(code, reason.to_owned()),
                None => Disconnect::instead_of(&error),
            };
            return self.close(port, link, &disconnect);
        }
        self.reply(port, link, ticket, ReplyBody::Error(error.into()));
    }
}

/// What is around an answer, at most.
const AROUND: usize = 1024;

/// A channel's name; clients are closed for none.
pub(super) fn named(channel: &str) -> Result<&str, CommandError> {
    if channel.is_empty() { Err(Disconnect::BAD_REQUEST.into()) } else { Ok(channel) }
}

fn granted(decision: Decision) -> Outcome {
    match decision {
        Decision::Allow => Ok(()),
        Decision::Refuse(error) => Err(error.into()),
        // No ladder but those of subscribing and publishing leads there.
        Decision::AskProxy | Decision::AskStream | Decision::VerifyToken => {
            Err(Error::PERMISSION_DENIED.into())
        }
    }
}

/// A position as the hub takes it.
fn position(since: StreamPosition) -> Position<String> {
    Position { offset: since.offset, epoch: since.epoch }
}
