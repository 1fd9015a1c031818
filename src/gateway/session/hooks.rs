//! Questions to the application's backend, and how a session goes on with the answers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::commands::{Outcome, Refusal};
use super::{Ticket, Waits};
use crate::engine::{ConnId, Cx};
use crate::gateway::app::Gateway;
use crate::gateway::options::Options;
use crate::gateway::proxy::{
    Caller, ClientHeaders, HookEvent, HookRefusal, HookReply, HookRequest, HookResult,
};
use crate::gateway::stats::CommandKind;
use crate::gateway::wire::messages::{ReplyBody, RpcResult, SubscribeRequest};
use crate::gateway::wire::{self, Disconnect, Encoding, Error};
use crate::protocol::request::Request;

/// A question under way: whose it is, and what it was about.
#[derive(Debug)]
pub struct Question {
    id: ConnId,
    ticket: Ticket,
    /// Of `publish` and `subscribe`: what goes on if the backend allows it.
    about: About,
}

#[derive(Debug)]
enum About {
    Nothing,
    Subscribe(Box<SubscribeRequest>),
    Publish { channel: String, data: bytes::Bytes },
}

impl Gateway {
    /// Asks the backend on behalf of a connection.
    pub(super) fn ask_backend(&mut self, id: ConnId, ticket: Ticket, event: HookEvent) -> Outcome {
        self.ask_backend_about(id, ticket, event, None)
    }

    /// As [`Self::ask_backend`], with the request that goes on if the answer is yes.
    pub(super) fn ask_backend_about(
        &mut self,
        id: ConnId,
        ticket: Ticket,
        event: HookEvent,
        subscribe: Option<Box<SubscribeRequest>>,
    ) -> Outcome {
        let Some(session) = self.desk.sessions.get_mut(id) else { return Ok(()) };
        let (transport, encoding) = (session.format().transport(), session.encoding());
        let (meta, headers) = match &session.more {
            Some(more) => (more.meta.clone(), more.headers.clone()),
            None => Default::default(),
        };
        let (client, user) = match session.client() {
            Some(client) => {
                let user = self.hub.users().name_of(client).map_or("", |name| name).to_owned();
                (self.client_id(client).to_string(), user)
            }
            None => Default::default(),
        };
        let about = match (&event, subscribe) {
            (_, Some(request)) => About::Subscribe(request),
            (HookEvent::Publish { channel, data }, None) => {
                About::Publish { channel: channel.clone(), data: data.clone() }
            }
            _ => About::Nothing,
        };
        let caller = Caller { client, user, transport, encoding, meta, headers };
        let request = HookRequest { proxy: Cow::Borrowed("default"), caller, event };
        let question = Question { id, ticket, about };
        let core = usize::from(self.desk.core);
        match self.desk.control.ask(core, Box::new(request), question) {
            Ok(()) => Ok(()),
            Err(_) if ticket.waits() == Some(Waits::Command(CommandKind::Connect)) => {
                Err(Disconnect::SERVER_ERROR.into())
            }
            Err(_) => Err(Error::INTERNAL.into()),
        }
    }

    /// The backend has answered.
    pub(in crate::gateway) fn answered(
        &mut self,
        cx: &mut Cx<'_>,
        question: Question,
        result: HookResult,
    ) {
        let Question { id, ticket, about } = question;
        if self.desk.sessions.get_mut(id).is_none() {
            return;
        }
        let outcome = self.go_on(cx, id, ticket, about, result);
        self.conclude(cx, id, ticket, outcome);
    }

    fn go_on(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        ticket: Ticket,
        about: About,
        result: HookResult,
    ) -> Outcome {
        let reply = match result {
            Ok(reply) => reply,
            Err(HookRefusal::Error(error)) => return Err(error.into()),
            Err(HookRefusal::Disconnect(disconnect)) => return Err(disconnect.into()),
        };
        match (reply, about) {
            (HookReply::Connect(Some(reply)), _) => self.admit(cx, id, ticket, reply.into()),
            (HookReply::Connect(None), _) => self.admit_nobody(cx, id, ticket),
            (HookReply::Refresh(reply), _) => {
                if reply.expired {
                    return Err(Disconnect::EXPIRED.into());
                }
                if let Some(session) = self.desk.sessions.get_mut(id) {
                    if let Some(info) = reply.info {
                        session.more().conn_info = info;
                    }
                    if let Some(meta) = reply.meta {
                        session.more().meta = meta;
                    }
                    session.tidy();
                }
                self.desk.prolong(cx, id, reply.expire_at);
                Ok(())
            }
            (HookReply::Subscribe(reply), About::Subscribe(request)) => {
                // While the backend thought, others may have been granted.
                let client = self.client_of(id)?;
                self.check_request(client, &request)?;
                self.subscribe_granted(cx, id, ticket, &request, reply.into())
            }
            (HookReply::Publish(mut reply), About::Publish { channel, data }) => {
                reply.data.get_or_insert(data);
                self.publish_as(cx, id, ticket, &channel, reply)
            }
            (HookReply::Rpc(reply), _) => {
                let json = self.desk.sessions.get_mut(id).map(|session| session.encoding());
                if json == Some(Encoding::Json)
                    && !reply.data.is_empty()
                    && !wire::is_json(&reply.data)
                {
                    return Err(Disconnect::INAPPROPRIATE_PROTOCOL.into());
                }
                let result = RpcResult { data: reply.data };
                self.desk.reply(cx, id, ticket, ReplyBody::Rpc(result));
                Ok(())
            }
            // An answer to another question: the control plane's mistake.
            _ => Err(Refusal::Error(Error::INTERNAL)),
        }
    }

    /// Keeps the headers that a client wants a proxy to see.
    pub(super) fn keep_emulated(&mut self, id: ConnId, headers: BTreeMap<String, String>) {
        if headers.is_empty() {
            return;
        }
        if let Some(session) = self.desk.sessions.get_mut(id) {
            let more = session.more();
            let transport = more.headers.transport.clone();
            let emulated = headers.into_iter().take(EMULATED_MAX).collect();
            more.headers = Arc::new(ClientHeaders { transport, emulated });
        }
    }
}

/// The headers of an upgrade request that some proxy passes on.
///
/// Those that name the client are what it says; but where reverse proxies are trusted, and so its
/// address is known, they are that, whatever it says.
pub(super) fn forwarded(
    request: &Request<'_>,
    ip: IpAddr,
    options: &Options,
) -> Option<Arc<ClientHeaders>> {
    let client = &options.client.proxy;
    let channel = &options.channel.proxy;
    let proxies = [
        &client.connect.proxy,
        &client.refresh.proxy,
        &channel.subscribe,
        &channel.publish,
        &options.rpc.proxy,
    ];
    let wanted = |name: &str| {
        proxies.iter().flat_map(|p| &p.http_headers).any(|header| header.eq_ignore_ascii_case(name))
    };
    let known = !options.http_server.trusted_proxies.is_empty();
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

/// Headers inside one connect command.
const EMULATED_MAX: usize = 64;
