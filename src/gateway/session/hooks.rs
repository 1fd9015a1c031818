//! Questions to the application's backend, and how a session goes on with the answers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::ASKED;
use super::commands::{CommandError, Outcome};
use super::connect::Names;
use super::feeds;
use super::machine::Sessions;
use super::port::Port;
use super::subscribe::Wanted;
use super::ticket::{Ticket, Waits};
use crate::gateway::hooks::{
    Caller, ClientHeaders, HookEvent, HookKind, HookRefusal, HookReply, HookRequest, HookResult,
};
use crate::gateway::hooks::{DEFAULT_PROXY, proxy_name};
use crate::gateway::hub_port::Link;
use crate::gateway::plan::{ChannelOptions, HooksPlan, Route};
use crate::gateway::refusals::Refused;
use crate::gateway::stats::CommandKind;
use crate::gateway::wire::messages::{ReplyBody, RpcResult};
use crate::gateway::wire::{Disconnect, Error};
use crate::protocol::request::Request;

/// A question under way: whose it is, and what it was about.
#[derive(Debug)]
pub struct HookTicket {
    link: Link,
    ticket: Ticket,
    /// Of `publish` and `subscribe`: what goes on if the backend allows it.
    about: About,
}

#[derive(Debug)]
enum About {
    Nothing,
    Subscribe(Box<Wanted>),
    Publish {
        channel: String,
        data: bytes::Bytes,
    },
    /// Of a connection that expires then, in Unix seconds.
    Refresh {
        expire_at: u32,
    },
    /// Of a subscription, likewise.
    SubRefresh {
        channel: String,
        expire_at: i64,
    },
}

/// What the backend has answered.
pub struct HookAnswer {
    /// To what.
    pub question: HookTicket,
    /// The answer, or what stands for it.
    pub result: HookResult,
    /// What the control plane has back when the answer is read.
    pub room: Box<dyn Send>,
}

impl std::fmt::Debug for HookAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { question, result, room: _ } = self;
        f.debug_struct("HookAnswer")
            .field("question", question)
            .field("result", result)
            .finish_non_exhaustive()
    }
}

impl HookTicket {
    /// Memory that is held for it until the answer comes, beside what the backend is told.
    pub(crate) fn cost(&self) -> usize {
        size_of::<Self>()
            + match &self.about {
                About::Nothing | About::Refresh { .. } => 0,
                About::Subscribe(wanted) => {
                    let Wanted { request, filter } = &**wanted;
                    let filter = filter.as_ref().map_or(0, |filter| filter.cost());
                    let texts = [&request.channel, &request.epoch, &request.delta];
                    size_of::<Wanted>() + filter + texts.map(String::len).iter().sum::<usize>()
                }
                About::Publish { channel, data } => channel.len() + data.len(),
                About::SubRefresh { channel, .. } => channel.len(),
            }
    }
}

impl Sessions {
    /// Asks the backend on behalf of a connection.
    pub(super) fn ask_backend(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        event: HookEvent,
    ) -> Outcome {
        self.ask_backend_about(port, link, ticket, event, None)
    }

    /// As [`Self::ask_backend`], with the request that goes on if the answer is yes.
    pub(super) fn ask_backend_about(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        event: HookEvent,
        subscribe: Option<Box<Wanted>>,
    ) -> Outcome {
        let limit = self.state.rules.options.client.hook_limit;
        let Some(session) = self.state.table.get_mut(link) else { return Ok(()) };
        // The server's own questions wait for no other, and nobody can make more of them.
        let counted = !matches!(event.kind(), HookKind::Refresh | HookKind::SubRefresh);
        if counted && u32::from(session.asked) >= limit {
            self.state.stats.counters.hooks_limited += 1;
            return Err(Error::TOO_MANY_REQUESTS.into());
        }
        let (transport, encoding) = (session.format().transport(), session.encoding());
        let expire_at = session.expire_at;
        let sub_expire_at = match &event {
            HookEvent::SubRefresh { channel } => session.sub(channel).map_or(0, |it| it.expire_at),
            _ => 0,
        };
        let (meta, headers) = match &session.more {
            Some(more) => (more.meta.clone(), more.headers.clone()),
            None => Default::default(),
        };
        let (client, user) = match session.client() {
            Some(client) => {
                let user = self.hub.users().name_of(client).map_or("", |name| name).to_owned();
                (self.client_id(client).to_string(), user)
            }
            // It connects, and has its name already.
            None => {
                let name = session.connecting().and_then(|connecting| connecting.name);
                (name.map_or_else(String::new, |name| name.to_string()), String::new())
            }
        };
        let about = match (&event, subscribe) {
            (_, Some(wanted)) => About::Subscribe(wanted),
            (HookEvent::Publish { channel, data }, None) => {
                About::Publish { channel: channel.clone(), data: data.clone() }
            }
            (HookEvent::Refresh, None) => About::Refresh { expire_at },
            (HookEvent::SubRefresh { channel }, None) => {
                About::SubRefresh { channel: channel.clone(), expire_at: sub_expire_at }
            }
            _ => About::Nothing,
        };
        let caller = Caller { client, user, transport, encoding, meta, headers };
        let from = self.state.asking(link);
        let request = HookRequest { proxy: self.proxy_of(&event), from, caller, event };
        let reserved = match &about {
            About::Subscribe(wanted) => Some(wanted.request.channel.clone()),
            _ => None,
        };
        let question = HookTicket { link, ticket, about };
        match port.ask_backend(Box::new(request), question) {
            Ok(()) => {
                if let Some(session) = self.state.table.get_mut(link) {
                    session.asked += u16::from(counted);
                    if let Some(channel) = reserved {
                        session.reserve(&channel);
                    }
                }
                Ok(())
            }
            Err(_) if ticket.waits() == Some(Waits::Command(CommandKind::Connect)) => {
                Err(Disconnect::SERVER_ERROR.into())
            }
            Err(_) => Err(Error::INTERNAL.into()),
        }
    }

    /// Which proxy is asked.
    fn proxy_of(&self, event: &HookEvent) -> Cow<'static, str> {
        let rules = &self.state.rules;
        let named = |channel: &str, name: fn(&ChannelOptions) -> &String| {
            let place = rules.namespaces.place(channel).ok();
            place.map(|place| proxy_name(name(&place.rules.options)))
        };
        let name = match event {
            HookEvent::Connect { .. } | HookEvent::Refresh => None,
            HookEvent::Subscribe { channel, feed: None, .. } => {
                named(channel, |it| &it.subscribe_proxy_name)
            }
            HookEvent::Subscribe { channel, feed: Some(_), .. } => {
                named(channel, |it| &it.subscribe_stream_proxy_name)
            }
            HookEvent::Publish { channel, .. } => named(channel, |it| &it.publish_proxy_name),
            HookEvent::SubRefresh { channel } => named(channel, |it| &it.sub_refresh_proxy_name),
            HookEvent::Rpc { method, .. } => match rules.options.rpc.route(method) {
                Route::Proxy(name) => Some(name),
                _ => None,
            },
        };
        match name {
            None | Some(DEFAULT_PROXY) => Cow::Borrowed(DEFAULT_PROXY),
            Some(name) => Cow::Owned(name.to_owned()),
        }
    }

    /// The backend has answered.
    pub(super) fn backend_answered(
        &mut self,
        port: &mut impl Port,
        question: HookTicket,
        result: HookResult,
    ) {
        let HookTicket { link, ticket, about } = question;
        if let About::SubRefresh { channel, expire_at } = &about {
            return self.sub_refreshed(port, link, (channel, *expire_at), result);
        }
        let Some(session) = self.state.table.get_mut(link) else { return };
        // It may have been refreshed meanwhile, and that was not what the backend was asked about.
        if let About::Refresh { expire_at } = &about
            && !(session.is(ASKED) && session.expire_at == *expire_at)
        {
            return;
        }
        if let About::Subscribe(wanted) = &about {
            session.release(&wanted.request.channel);
        }
        if ticket.waits() != Some(Waits::Command(CommandKind::Refresh)) {
            session.asked = session.asked.saturating_sub(1);
        }
        let wanted = match &about {
            About::Subscribe(wanted) => Some(wanted.request.channel.clone()),
            _ => None,
        };
        let outcome = self.proceed(port, link, ticket, about, result);
        if let (Err(_), Some(channel), Some(session)) =
            (&outcome, wanted, self.state.table.get_mut(link))
        {
            session.take_revoked(&channel);
            self.state.end_feed(port, link, &channel);
        }
        self.conclude(port, link, ticket, outcome);
    }

    fn proceed(
        &mut self,
        port: &mut impl Port,
        link: Link,
        ticket: Ticket,
        about: About,
        result: HookResult,
    ) -> Outcome {
        let reply = match result {
            Ok(reply) => reply,
            Err(refusal) => {
                let why = match &refusal {
                    HookRefusal::Error(error) => error.to_string(),
                    HookRefusal::Disconnect(it) => format!("{}: {}", it.code, it.reason),
                };
                match &about {
                    About::Subscribe(wanted) => {
                        let channel = &wanted.request.channel;
                        self.refused(link, Refused::SubscriptionByBackend, &why, channel);
                    }
                    About::Publish { channel, .. } => {
                        self.refused(link, Refused::PublicationByBackend, &why, channel);
                    }
                    About::Nothing | About::Refresh { .. } | About::SubRefresh { .. } => {}
                }
                return Err(match refusal {
                    HookRefusal::Error(error) => error.into(),
                    HookRefusal::Disconnect(disconnect) => disconnect.into(),
                });
            }
        };
        match (reply, about) {
            (HookReply::Connect(Some(reply)), _) => {
                self.admit(port, link, ticket, reply.into(), Names::Backend)
            }
            (HookReply::Connect(None), _) => self.admit_nobody(port, link, ticket),
            (HookReply::Refresh(reply), _) => {
                if reply.expired || self.state.is_over(reply.expire_at) {
                    return Err(Disconnect::EXPIRED.into());
                }
                let (info, meta) = (reply.info.unwrap_or_default(), reply.meta.unwrap_or_default());
                self.renew(port, link, &info, &meta);
                self.state.prolong(port, link, reply.expire_at);
                Ok(())
            }
            (HookReply::Subscribe(mut reply), About::Subscribe(wanted)) => {
                let fed =
                    self.state.table.get_mut(link).map(|it| it.is_fed(&wanted.request.channel));
                if fed == Some(true) {
                    reply.overrides = feeds::unrecovered(reply.overrides);
                }
                let Wanted { request, filter } = *wanted;
                // While the backend thought, others may have been granted.
                let client = self.client_of(link)?;
                self.check_request(link, client, &request)?;
                self.subscribe_granted(port, link, ticket, &request, filter, reply.into())
            }
            (HookReply::Publish(mut reply), About::Publish { channel, data }) => {
                reply.data.get_or_insert(data);
                self.publish_as(port, link, ticket, &channel, reply, None)
            }
            (HookReply::Rpc(reply), _) => {
                let result = RpcResult { data: reply.data };
                self.state.reply(port, link, ticket, ReplyBody::Rpc(result));
                Ok(())
            }
            // An answer to another question: the control plane's mistake.
            _ => Err(CommandError::Error(Error::INTERNAL)),
        }
    }

    /// Keeps the headers that a client wants a proxy to see, and that one passes on.
    pub(super) fn keep_emulated(
        &mut self,
        link: Link,
        headers: BTreeMap<String, String>,
    ) -> Outcome {
        let emulated = emulated(headers, &self.state.rules.options.hooks)?;
        if let Some(session) = self.state.table.get_mut(link).filter(|_| !emulated.is_empty()) {
            let more = session.more();
            let transport = more.headers.transport.clone();
            more.headers = Arc::new(ClientHeaders { transport, emulated });
        }
        Ok(())
    }
}

/// Those of the headers in a connect command that some proxy passes on.
fn emulated(
    headers: BTreeMap<String, String>,
    hooks: &HooksPlan,
) -> Result<Vec<(String, String)>, Error> {
    let wanted =
        |name: &str| hooks.emulated_headers.iter().any(|header| header.eq_ignore_ascii_case(name));
    let kept: Vec<_> = headers.into_iter().filter(|(name, _)| wanted(name)).collect();
    let bytes: usize = kept.iter().map(|(name, value)| name.len() + value.len()).sum();
    if kept.len() > EMULATED_MAX || bytes > EMULATED_BYTES_MAX {
        return Err(Error::BAD_REQUEST);
    }
    Ok(kept)
}

/// The headers of an upgrade request that some proxy passes on.
///
/// Those that name the client are what it says; but where reverse proxies are trusted, and so its
/// address is known, they are that, whatever it says.
pub(super) fn forwarded(
    request: &Request<'_>,
    ip: IpAddr,
    hooks: &HooksPlan,
) -> Option<Arc<ClientHeaders>> {
    let wanted =
        |name: &str| hooks.http_headers.iter().any(|header| header.eq_ignore_ascii_case(name));
    let known = hooks.behind_proxies;
    let named = |name: &str| NAME_CLIENT.iter().any(|it| it.eq_ignore_ascii_case(name));
    let mut transport: Vec<(String, String)> = request
        .headers()
        .filter(|(name, _)| wanted(name) && !(known && named(name)))
        .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
        .collect();
    if known {
        let ours = NAME_CLIENT.into_iter().filter(|name| wanted(name));
        transport.extend(ours.map(|name| (name.to_owned(), ip.to_string())));
    }
    let headers = ClientHeaders { transport, emulated: Vec::new() };
    (!headers.transport.is_empty()).then(|| Arc::new(headers))
}

/// Headers by which backends know a client's address.
const NAME_CLIENT: [&str; 2] = ["X-Forwarded-For", "X-Real-IP"];

/// Headers inside one connect command that are kept, and bytes of their names and values.
const EMULATED_MAX: usize = 64;
const EMULATED_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_clients_own_headers_the_listed_are_kept_within_bounds() {
        let mut hooks = HooksPlan::default();
        let one = |name: &str, bytes: usize| (name.to_owned(), "v".repeat(bytes));
        let kept = |headers: Vec<(String, String)>, hooks: &HooksPlan| {
            let headers = headers.into_iter().collect();
            emulated(headers, hooks).map(|kept| kept.into_iter().map(|(name, _)| name).collect())
        };
        let none: Result<Vec<String>, _> = Ok(Vec::new());
        assert_eq!(kept(vec![one("a", 60_000)], &hooks), none, "no proxy passes any on");
        hooks.emulated_headers = vec!["Auth".to_owned(), "x-id".to_owned()];
        let some = vec![one("auth", 1), one("X-Id", 2), one("other", 60_000)];
        assert_eq!(kept(some, &hooks), Ok(vec!["X-Id".to_owned(), "auth".to_owned()]));
        assert_eq!(EMULATED_BYTES_MAX, 8192);
        let most = EMULATED_BYTES_MAX - 4;
        assert!(kept(vec![one("auth", most)], &hooks).is_ok());
        assert_eq!(kept(vec![one("auth", most + 1)], &hooks), Err(Error::BAD_REQUEST));
        // One name can be written in many ways.
        let ways = |count: usize| {
            let way = |n: usize| {
                let letter = |(at, letter): (usize, char)| match n >> at & 1 {
                    0 => letter,
                    _ => letter.to_ascii_uppercase(),
                };
                ("authorization".chars().enumerate().map(letter).collect(), String::new())
            };
            (0..count).map(way).collect::<Vec<(String, String)>>()
        };
        hooks.emulated_headers.push("authorization".to_owned());
        assert!(kept(ways(EMULATED_MAX), &hooks).is_ok());
        assert_eq!(kept(ways(EMULATED_MAX + 1), &hooks), Err(Error::BAD_REQUEST));
    }

    #[test]
    fn what_waits_for_an_answer_is_counted_in_bytes() {
        use crate::gateway::wire::messages::SubscribeRequest;
        let cost = |about: About| {
            let ticket = Ticket::new(Waits::Api, 0, 0);
            HookTicket { link: Link(0), ticket, about }.cost() - size_of::<HookTicket>()
        };
        let own = str::to_owned;
        assert_eq!(cost(About::Nothing), 0);
        assert_eq!(cost(About::SubRefresh { channel: own("abc"), expire_at: 1 }), 3);
        assert_eq!(cost(About::Refresh { expire_at: 1 }), 0);
        assert_eq!(cost(About::Publish { channel: own("abc"), data: "12345".into() }), 8);
        let request = || SubscribeRequest {
            channel: own("abc"),
            epoch: own("e"),
            delta: own("fossil"),
            ..SubscribeRequest::default()
        };
        let wanted = |filter| About::Subscribe(Box::new(Wanted { request: request(), filter }));
        assert_eq!(cost(wanted(None)), size_of::<Wanted>() + 10);
        let json = br#"{"key":"k","cmp":"eq","val":"v"}"#;
        let filter = crate::gateway::filter::Filter::decode(
            crate::gateway::wire::Encoding::Json,
            &bytes::Bytes::from_static(json),
        );
        let filter = Arc::new(filter.expect("a filter"));
        assert!(filter.cost() > 10);
        let with = size_of::<Wanted>() + 10 + filter.cost();
        assert_eq!(cost(wanted(Some(filter))), with);
    }

    #[test]
    fn the_address_that_backends_see_is_the_one_that_is_known() {
        let mut hooks = HooksPlan::default();
        let head =
            "GET / HTTP/1.1\r\nHost: h\r\nX-Real-IP: 6.6.6.6\r\nCookie: c\r\nOther: o\r\n\r\n";
        let parsed = crate::protocol::request::parse(head.as_bytes(), &mut 0, 8192);
        let (request, _) = parsed.expect("a request").expect("whole");
        let ip = IpAddr::from([9, 9, 9, 9]);
        let seen = |hooks: &HooksPlan| {
            forwarded(&request, ip, hooks).map(|headers| {
                assert!(headers.emulated.is_empty());
                let line = |(name, value): &(String, String)| format!("{name}: {value}");
                headers.transport.iter().map(line).collect::<Vec<_>>().join(", ")
            })
        };
        assert_eq!(seen(&hooks), None, "nobody wants any");
        let wanted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        hooks.http_headers = wanted(&["cookie"]);
        assert_eq!(seen(&hooks).as_deref(), Some("Cookie: c"));
        hooks.http_headers = wanted(&["cookie", "x-real-ip", "absent"]);
        assert_eq!(seen(&hooks).as_deref(), Some("X-Real-IP: 6.6.6.6, Cookie: c"));
        // Behind proxies it is known better.
        hooks.behind_proxies = true;
        assert_eq!(seen(&hooks).as_deref(), Some("Cookie: c, X-Real-IP: 9.9.9.9"));
        hooks.http_headers = wanted(&["cookie", "x-forwarded-for"]);
        assert_eq!(seen(&hooks).as_deref(), Some("Cookie: c, X-Forwarded-For: 9.9.9.9"));
        hooks.http_headers = wanted(&["absent"]);
        assert_eq!(seen(&hooks), None);
    }
}
