//! Subscribing: what the client asks for, what it gets, and what the hub is told to do.

use std::sync::Arc;

use bytes::Bytes;

use super::commands::{CommandError, Outcome, named};
use super::expiry::whole_seconds;
use super::machine::{CoreState, Sessions};
use super::port::Port;
use super::ticket::Ticket;
use super::{SubMore, feeds};
use crate::gateway::channels::{Decision, Mode, Override, Wish};
use crate::gateway::filter::{Filter, FilterError};
use crate::gateway::hooks::{HookEvent, SubscribeReply};
use crate::gateway::hub::Subscribe;
use crate::gateway::hub_port::{ClientKey, Link};
use crate::gateway::letters::{Recover, RecoverMode};
use crate::gateway::local::Wants;
use crate::gateway::plan::RecoveryMode;
use crate::gateway::refusals::Refused;
use crate::gateway::stream::Position;
use crate::gateway::wire::messages::SubscribeRequest;
use crate::gateway::wire::{Disconnect, Encoding, Error};

/// What is decided about a subscription.
pub(super) struct Terms<'a> {
    pub(super) channel: &'a str,
    pub(super) mode: Mode,
    pub(super) delta: bool,
    pub(super) filter: Option<Arc<Filter>>,
    pub(super) server_side: bool,
    pub(super) by_token: bool,
    /// Unix time in seconds; 0 is never.
    pub(super) expire_at: i64,
    /// Shown to others. Raw.
    pub(super) info: Bytes,
    /// For the client. Raw.
    pub(super) data: Bytes,
}

/// A subscription that the backend is asked about.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Without what only the backend needs.
    pub(super) request: SubscribeRequest,
    pub(super) filter: Option<Arc<Filter>>,
}

/// What a token or the backend adds to a subscription.
#[derive(Default)]
pub(super) struct Grant {
    pub(super) expire_at: i64,
    pub(super) info: Bytes,
    pub(super) data: Bytes,
    pub(super) overrides: Override,
}

impl From<SubscribeReply> for Grant {
    fn from(reply: SubscribeReply) -> Self {
        let SubscribeReply { expire_at, info, data, overrides } = reply;
        Self { expire_at, info, data, overrides }
    }
}

impl Sessions {
    pub(super) fn subscribe(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        mut request: SubscribeRequest,
    ) -> Outcome {
        let client = self.client_of(link)?;
        let rules = self.state.rules.clone();
        named(&request.channel)?;
        if let Err(refusal) = self.check_request(link, client, &request) {
            if let CommandError::Error(error) = &refusal
                && *error != Error::ALREADY_SUBSCRIBED
            {
                self.refused(link, Refused::Subscription, &error.message, &request.channel);
            }
            return Err(refusal);
        }
        // First of all: a filter that is refused costs nobody anything, and compiled it is small.
        let filter = self.filter_of(link, &mut request)?;
        let channel = &request.channel;
        let place = rules.namespaces.resolve(channel)?;
        match place.subscribe(self.asker(client, channel), !request.token.is_empty()) {
            Decision::Refuse(error) => {
                let why = match request.token.is_empty() && place.private {
                    true => "a private channel needs a token",
                    false => &error.message,
                };
                self.refused(link, Refused::Subscription, why, channel);
                Err(error.into())
            }
            Decision::Allow => {
                self.subscribe_granted(port, link, ticket, &request, filter, Grant::default())
            }
            Decision::VerifyToken => {
                let claims = self.sub_claims(port, link, client, channel, &request.token)?;
                let grant = Grant {
                    expire_at: claims.expire_at.unwrap_or(0),
                    info: claims.info,
                    data: claims.data,
                    overrides: claims.overrides,
                };
                self.subscribe_granted(port, link, ticket, &request, filter, grant)
            }
            Decision::AskProxy => {
                // What only the backend needs is not kept for afterwards.
                let event = HookEvent::Subscribe {
                    channel: request.channel.clone(),
                    token: std::mem::take(&mut request.token),
                    data: std::mem::take(&mut request.data),
                    feed: None,
                };
                let held = Box::new(Wanted { request, filter });
                self.ask_backend_about(port, link, ticket, event, Some(held))
            }
            Decision::AskStream => {
                // No publication of the channel's own would pass by it.
                if filter.is_some() {
                    return Err(Error::BAD_REQUEST.into());
                }
                feeds::plain(&mut request);
                let channel = request.channel.clone();
                let event = HookEvent::Subscribe {
                    channel: channel.clone(),
                    token: std::mem::take(&mut request.token),
                    data: std::mem::take(&mut request.data),
                    feed: self.begin_feed(link, &channel),
                };
                let held = Box::new(Wanted { request, filter: None });
                let asked = self.ask_backend_about(port, link, ticket, event, Some(held));
                if asked.is_err() {
                    self.state.end_feed(port, link, &channel);
                }
                asked
            }
        }
    }

    /// Takes the filter out of a request and compiles it.
    fn filter_of(
        &mut self,
        link: Link,
        request: &mut SubscribeRequest,
    ) -> Result<Option<Arc<Filter>>, CommandError> {
        let session = self.state.table.get_mut(link);
        let (Some(tf), Some(session)) = (request.tf.take(), session) else { return Ok(None) };
        match Filter::decode(session.encoding(), &tf) {
            Ok(filter) => Ok(Some(Arc::new(filter))),
            Err(FilterError::Malformed) => Err(Disconnect::BAD_REQUEST.into()),
            Err(_) => Err(Error::BAD_REQUEST.into()),
        }
    }

    /// Whether a subscription of this connection to a channel has no answer yet, from the backend
    /// or from the channel's home core.
    pub(super) fn is_subscribing(&mut self, link: Link, channel: &str) -> bool {
        let Some(session) = self.state.table.get_mut(link) else { return false };
        let client = session.client();
        session.is_reserved(channel)
            || client
                .and_then(|client| self.hub.subscription(client, channel))
                .is_some_and(|sub| sub.pending)
    }

    /// Whether a client is in a channel. A subscription without an answer does not count: an error
    /// may follow.
    pub(super) fn is_subscribed(&self, client: ClientKey, channel: &str) -> bool {
        self.hub.subscription(client, channel).is_some_and(|sub| !sub.pending)
    }

    /// What is wrong with a request, whoever asks.
    pub(super) fn check_request(
        &mut self,
        link: Link,
        client: ClientKey,
        request: &SubscribeRequest,
    ) -> Outcome {
        let rules = self.state.rules.clone();
        let place = rules.namespaces.resolve(&request.channel)?;
        let Some(session) = self.state.table.get_mut(link) else { return Ok(()) };
        if session.is_reserved(&request.channel)
            || self.hub.subscription(client, &request.channel).is_some()
        {
            return Err(Error::ALREADY_SUBSCRIBED.into());
        }
        let held = self.hub.users().get(client).map_or(0, |client| client.subscriptions())
            + session.reserved();
        if held >= rules.options.client.channel_limit {
            return Err(Error::LIMIT_EXCEEDED.into());
        }
        place.rules.grants_delta(&request.delta)?;
        if request.tf.is_some() && !place.rules.options.allow_tags_filter {
            return Err(Error::BAD_REQUEST.into());
        }
        if request.kind != 0 {
            return Err(Error::PERMISSION_DENIED.into());
        }
        Ok(())
    }

    /// Subscribes a client that may.
    pub(super) fn subscribe_granted(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        request: &SubscribeRequest,
        filter: Option<Arc<Filter>>,
        grant: Grant,
    ) -> Outcome {
        let client = self.client_of(link)?;
        if self.state.is_over(grant.expire_at) {
            return Err(Error::EXPIRED.into());
        }
        let rules = self.state.rules.clone();
        let place = rules.namespaces.place(&request.channel)?;
        let wish = Wish {
            positioned: request.positioned,
            recoverable: request.recoverable,
            join_leave: request.join_leave,
        };
        let asker = self.asker(client, &request.channel);
        let terms = Terms {
            channel: &request.channel,
            mode: place.mode(asker, &grant.overrides, wish),
            delta: place.rules.grants_delta(&request.delta)?,
            filter,
            server_side: false,
            by_token: false,
            expire_at: grant.expire_at,
            info: grant.info,
            data: grant.data,
        };
        self.subscribe_on(port, link, ticket, terms, request)
    }

    /// Subscribes a connection on these terms.
    pub(super) fn subscribe_on(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        terms: Terms<'_>,
        request: &SubscribeRequest,
    ) -> Outcome {
        let client = self.client_of(link)?;
        let rules = self.state.rules.clone();
        let place = rules.namespaces.place(terms.channel)?;
        let Terms { channel, mode, .. } = terms;
        let asked = mode.recovery && request.recover;
        let recover = (asked || mode.auto_cache_recover).then(|| Recover {
            since: Position { offset: request.offset, epoch: request.epoch.clone() },
            mode: match mode.recovery_mode {
                RecoveryMode::Stream => RecoverMode::Stream,
                RecoveryMode::Cache => RecoverMode::Cache,
            },
            limit: rules.options.client.recovery_max_publication_limit as u32,
            // More could not be sent, however often the client comes back for it.
            max_bytes: self.state.room(port, link),
            or_reject: asked && request.flag & SubscribeRequest::FLAG_REJECT_UNRECOVERED != 0,
        });
        if self.hub.subscription(client, channel).is_some() {
            return Err(Error::ALREADY_SUBSCRIBED.into());
        }
        if self.state.is_crowded() {
            return Err(Error::LIMIT_EXCEEDED.into());
        }
        let Some(session) = self.state.table.get_mut(link) else { return Ok(()) };
        if terms.expire_at > 0 || !terms.data.is_empty() || !terms.info.is_empty() {
            session.more().subs.push(SubMore {
                channel: channel.into(),
                expire_at: terms.expire_at,
                info: terms.info.clone(),
                data: terms.data,
                server_side: terms.server_side,
                by_backend: place.rules.options.sub_refresh_proxy_enabled,
                asked: false,
            });
        }
        // centrifuge-js asks for numbers over Protobuf, too, and then loses the pushes that have
        // them: it compares 64-bit numbers as objects.
        let compacts = session.encoding() == Encoding::Json;
        let conn_info =
            session.more.as_ref().map(|more| more.conn_info.clone()).unwrap_or_default();
        let subscribe = Subscribe {
            ticket: ticket.0,
            wants: Wants {
                positioned: mode.positioning,
                recoverable: mode.recovery,
                delta: terms.delta,
                compact: request.flag & SubscribeRequest::FLAG_COMPACT != 0 && compacts,
                joins: mode.push_join_leave,
                server_side: terms.server_side,
                by_token: terms.by_token,
            },
            stream: place.rules.stream(),
            recover,
            filter: terms.filter,
            present: mode.presence,
            announced: mode.join_leave,
            conn_info,
            chan_info: terms.info,
        };
        let begun = self.with_hub(port, |hub, out| hub.subscribe(out, client, channel, subscribe));
        if let Err(error) = begun {
            self.state.forget_sub(port, link, channel);
            return Err(CommandError::of_hub(error));
        }
        Ok(())
    }
}

impl CoreState {
    /// Sees to it that subscriptions end in time. Returns what the client is told of the one that
    /// expires then.
    pub(super) fn watch_subscriptions(
        &mut self,
        port: &impl Port,
        link: Link,
        expire_at: i64,
    ) -> (bool, u32) {
        let what = super::timers::What::Subscription;
        let Some(session) = self.table.get_mut(link) else { return (false, 0) };
        let subs = session.more.iter().flat_map(|more| &more.subs);
        let delay = whole_seconds(self.rules.options.client.expired_sub_close_delay);
        let first = subs.filter_map(|sub| sub.due(delay)).min();
        match first {
            Some(first) => {
                let at = port.now().saturating_add(self.left(first));
                self.timers.set(at, link, what);
            }
            None => self.timers.clear(link, what),
        }
        match expire_at {
            1.. => (true, self.ttl(expire_at)),
            _ => (false, 0),
        }
    }
}
