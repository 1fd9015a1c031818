//! What a client is told, in the form that it takes, and the end of its connection.

use super::Leads;
use super::machine::CoreState;
use super::port::Port;
use crate::engine::Frame;
use crate::gateway::format::Format;
use crate::gateway::hub_port::Link;
use crate::gateway::plan::{ConnectResponses, Plan};
use crate::gateway::wire::Disconnect;
use crate::protocol::HttpResponse;

/// How an element is said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Saying {
    /// With the client's positions, if it is told any.
    pub(super) placed: bool,
    /// Never compressed: it may carry what only this client may know.
    pub(super) secret: bool,
}

impl CoreState {
    /// Queues a frame, or keeps it until the connect reply has left. `at`: it is a publication with
    /// this offset in this channel, of which the client is told.
    pub(super) fn send_at(
        &mut self,
        port: &mut impl Port,
        link: Link,
        frame: &Frame,
        at: Option<(&str, u64)>,
    ) {
        let Some(session) = self.table.get_mut(link) else { return };
        if session.connecting().is_some() {
            let leads = at.map(|(channel, offset)| Leads::To(channel.into(), offset));
            return self.stash(port, link, frame, leads);
        }
        self.buffer.clear();
        if let Some((channel, offset)) = at
            && let Some(places) = session.places()
            && places.advance(channel, offset)
        {
            places.line(&mut self.buffer);
        }
        match self.buffer.is_empty() {
            true => port.send(link, frame),
            false => port.send_prefixed(link, &self.buffer, frame),
        }
    }

    /// Keeps a frame until the connect reply has left.
    pub(super) fn stash(
        &mut self,
        port: &mut impl Port,
        link: Link,
        frame: &Frame,
        leads: Option<Leads>,
    ) {
        let connecting = self.table.get_mut(link).and_then(|session| session.connecting());
        let Some(connecting) = connecting else { return };
        connecting.stashed += frame.payload().len() + STASHED;
        connecting.stash.push((frame.clone(), leads));
        // As if the outbox were full, which is where all this goes next.
        if connecting.stashed > self.rules.options.client.queue_max_size.0 {
            self.close(port, link, &Disconnect::SLOW);
        }
    }

    /// Sends what had to wait for the connect reply.
    pub(super) fn unstash(
        &mut self,
        port: &mut impl Port,
        link: Link,
        stash: Vec<(Frame, Option<Leads>)>,
    ) {
        for (frame, leads) in stash {
            let at = match &leads {
                Some(Leads::To(channel, offset)) => Some((&**channel, *offset)),
                _ => None,
            };
            self.send_at(port, link, &frame, at);
            if let Some(Leads::OutOf(channel)) = leads
                && let Some(session) = self.table.get_mut(link)
                && let Some(places) = session.places()
            {
                places.end(&channel);
                session.tidy();
            }
        }
    }

    /// Queues one element of the protocol, which `encode` appends.
    pub(super) fn say(
        &mut self,
        port: &mut impl Port,
        link: Link,
        encode: impl FnOnce(Format, &mut Vec<u8>),
    ) {
        self.say_at(port, link, Saying::default(), encode);
    }

    /// As [`Self::say`], in a certain way.
    pub(super) fn say_at(
        &mut self,
        port: &mut impl Port,
        link: Link,
        saying: Saying,
        encode: impl FnOnce(Format, &mut Vec<u8>),
    ) {
        let Some(session) = self.table.get_mut(link) else { return };
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
        match saying.secret {
            true => port.send_secret(link, format.kind(), &self.buffer),
            false => port.send_message(link, format.kind(), &self.buffer),
        }
    }

    /// Closes a connection with a code of the protocol.
    pub(super) fn close(&mut self, port: &mut impl Port, link: Link, disconnect: &Disconnect) {
        if self.respond(port, link, disconnect.code.into(), &disconnect.reason) {
            return self.stats.disconnect(disconnect.code);
        }
        if port.close(link, disconnect) {
            self.stats.disconnect(disconnect.code);
        }
    }

    /// Ends a client whose connect request is not answered yet with a response of HTTP. `false`: it
    /// is, or such clients hear of errors in the stream.
    pub(super) fn respond(
        &mut self,
        port: &mut impl Port,
        link: Link,
        code: u32,
        why: &str,
    ) -> bool {
        let Some(session) = self.table.get_mut(link) else { return false };
        let format = session.format();
        let Some(headers) = session.take_answer() else { return false };
        let rules = self.rules.clone();
        let chosen = connect_responses(&rules.options, format).and_then(|it| it.of(code));
        let (status, body) = match chosen {
            Some((status, "")) => (status, why),
            Some(chosen) => chosen,
            None => (500, "Internal Server Error"),
        };
        // What lets a page read it.
        let of_page =
            |(name, _): &(String, String)| name.starts_with("Access-Control-") || name == "Vary";
        let headers = headers.into_iter().filter(of_page).collect();
        let response = HttpResponse::new(status)
            .headers(headers)
            .body("text/plain; charset=utf-8", body.to_owned());
        port.respond(link, &response);
        true
    }
}

/// What errors of a connect request are answered with; `None`: they are told in the stream.
pub(in crate::gateway) fn connect_responses(
    plan: &Plan,
    format: Format,
) -> Option<&ConnectResponses> {
    let responses = match format {
        Format::UniSse => &plan.uni_sse.connect_code_to_http_response,
        Format::UniStream => &plan.uni_http_stream.connect_code_to_http_response,
        _ => return None,
    };
    Some(responses).filter(|responses| responses.enabled)
}

/// What a push that waits for the connect reply takes besides its payload.
const STASHED: usize = 64;
