//! The server API on the cores: what publishes is served where its request came in.
//!
//! Owns the calls whose outcome is not complete. Serves `publish`, `broadcast` and `batch` with a
//! key, a body of a length that is said, at most [`BODY_MAX`] bytes, and at most [`CALL_MAX`]
//! publications; everything else, each refusal and each mistake in a body included, is for the
//! control plane, which is handed the connection with all that was read of it. So both say the
//! same. The invariant: a call is here while the engine awaits its answer, and
//! [`CALL_TIMEOUT`] at most.
//!
//! Publications of a channel keep their order: those of a call go to each home core in one letter,
//! and a connection has one call at a time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::api::batch::{Batch, Replies};
use super::api::{ApiError, ApiReply, ApiRequest, BroadcastRequest, BroadcastResult, Envelope};
use super::api::{NewPublication, PublishRequest, PublishResult, key, status_of};
use super::app::{self, Gateway, INSIDE};
use super::date::Date;
use super::format::Format;
use super::hub_port::Link;
use super::letters::{Answer, Ask, Asker, Letter, Publish, Question};
use super::plan::Plan;
use super::rulebook::Rulebook;
use super::session;
use super::stats::GatewayStats;
use super::wire::Error;
use crate::engine::{ConnId, Context, HttpAction};
use crate::protocol::HttpResponse;
use crate::protocol::request::Request;

/// See the module's text.
#[derive(Default)]
pub(super) struct Calls {
    open: HashMap<u64, Call>,
    last: u64,
    /// When to look for those that take too long.
    look: Option<Duration>,
    date: Date,
    /// What was served.
    stats: GatewayStats,
}

/// A call whose outcome is not complete.
struct Call {
    conn: ConnId,
    method: Method,
    by_status: bool,
    /// Publications, each in its place.
    outcomes: Vec<Option<Result<PublishResult, Error>>>,
    /// How many are missing.
    missing: usize,
    /// Commands of a batch that were refused before, and where they stand.
    refused: Vec<(usize, Error)>,
    started: Instant,
    until: Duration,
    /// The engine awaits the answer: until then it is given at once.
    awaited: bool,
}

/// A method that cores serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Publish,
    Broadcast,
    Batch,
}

/// A request that may be served here.
struct Wanted {
    method: Method,
    by_status: bool,
}

/// The commands of a body.
#[derive(Default)]
struct Orders {
    publications: Vec<PublishRequest>,
    /// Commands of a batch that are refused, and where they stand.
    refused: Vec<(usize, Error)>,
}

impl Calls {
    /// What was served here.
    pub(super) fn stats(&self) -> &GatewayStats {
        &self.stats
    }

    /// When the next look is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.look
    }

    fn begin(&mut self, call: Call, now: Duration) -> u64 {
        self.last = (self.last + 1) & NUMBERS;
        self.look.get_or_insert(now + LOOK);
        self.open.insert(self.last, call);
        self.last
    }

    /// An outcome has come. Returns the call if that was the last one, and its answer is awaited.
    fn note(&mut self, ticket: u64, outcome: Result<PublishResult, Error>) -> Option<Call> {
        let (number, place) = (ticket >> PLACES & NUMBERS, ticket as usize & (CALL_MAX - 1));
        let call = self.open.get_mut(&number)?;
        let found = call.outcomes.get_mut(place)?;
        if found.is_none() {
            *found = Some(outcome);
            call.missing -= 1;
        }
        let done = call.missing == 0 && call.awaited;
        if done { self.open.remove(&number) } else { None }
    }
}

impl Gateway {
    /// Serves a request to the server API, or leaves it to the control plane.
    pub(super) fn call(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        body: Option<&[u8]>,
    ) -> HttpAction<Format> {
        let rules = self.sessions.rules().clone();
        let Some(Wanted { method, by_status }) = wanted(&rules.options, request, cx.port()) else {
            return HttpAction::Detach;
        };
        let Some(body) = body else {
            return match request.body_len() {
                Ok(1..=BODY_MAX) => HttpAction::Body(BODY_MAX as usize),
                _ => HttpAction::Detach,
            };
        };
        let (Some(orders), Some(conn)) = (orders(method, body), cx.asking()) else {
            return HttpAction::Detach;
        };
        let Orders { publications, refused } = orders;
        let now = cx.now();
        let call = Call {
            conn,
            method,
            by_status,
            outcomes: vec![None; publications.len()],
            missing: publications.len(),
            refused,
            started: Instant::now(),
            until: now + CALL_TIMEOUT,
            awaited: false,
        };
        let number = self.services.calls.begin(call, now);
        self.publish_all(cx, &rules, number, conn, publications);
        let Some(call) = self.services.calls.open.get_mut(&number) else {
            return HttpAction::Detach;
        };
        if call.missing > 0 {
            call.awaited = true;
            return HttpAction::AnswerLater;
        }
        let unix = self.services.unix(now);
        match self.services.calls.open.remove(&number) {
            Some(call) => HttpAction::Answer(self.services.calls.told(call, unix)),
            None => HttpAction::Detach,
        }
    }

    /// Asks the home cores to publish: one letter for each.
    fn publish_all(
        &mut self,
        cx: &mut Context<'_>,
        rules: &Rulebook,
        number: u64,
        conn: ConnId,
        publications: Vec<PublishRequest>,
    ) {
        let core = self.services.core;
        let link = Link(conn.to_bits());
        let cores = self.services.handle.workers();
        let mut letters: Vec<VecDeque<Ask>> = Vec::new();
        letters.resize_with(cores, VecDeque::new);
        for (place, PublishRequest { channel, publication }) in publications.into_iter().enumerate()
        {
            let ticket = session::CALL << (PLACES + NUMBER) | number << PLACES | place as u64;
            match question(rules, &channel, publication) {
                Ok(question) => {
                    let home = self.sessions.placement().home(&channel);
                    let asker = Asker::Client { core, link, ticket };
                    letters[home].push_back(Ask { channel: channel.into(), question, asker });
                }
                Err(error) => _ = self.services.calls.note(ticket, Err(error)),
            }
        }
        for (home, asks) in letters.into_iter().enumerate() {
            let is_here = home == usize::from(core);
            // A letter that is refused does not come back.
            let tickets: Vec<u64> = asks.iter().filter(|_| !is_here).map(ticket_of).collect();
            let Some(letter) = Letter::of_asks(asks) else { continue };
            if is_here {
                let (sessions, mut port) = self.lend(cx);
                sessions.letter(&mut port, letter);
            } else if self.services.handle.post_reserved(home, app::CoreEvent::Hub(letter)).is_err()
            {
                for ticket in tickets {
                    self.services.calls.note(ticket, Err(Error::INTERNAL));
                }
            }
        }
    }
}

fn ticket_of(ask: &Ask) -> u64 {
    match ask.asker {
        Asker::Client { ticket, .. } => ticket,
        Asker::Control(_) | Asker::Nobody => 0,
    }
}

impl Calls {
    /// A home core has answered a call's question. Returns whom to answer then, and what.
    pub(super) fn answered(
        &mut self,
        ticket: u64,
        answer: Result<Answer, Error>,
        unix: impl FnOnce() -> i64,
    ) -> Option<(ConnId, HttpResponse)> {
        let call = self.note(ticket, answer.map(result))?;
        Some((call.conn, self.told(call, unix())))
    }

    /// Those that took too long, answered with an internal error where an outcome is missing.
    pub(super) fn late(
        &mut self,
        now: Duration,
        unix: impl FnOnce() -> i64,
    ) -> Vec<(ConnId, HttpResponse)> {
        if self.look.is_none_or(|look| look > now) {
            return Vec::new();
        }
        let unix = unix();
        let is_late = |(number, call): (&u64, &Call)| (call.until <= now).then_some(*number);
        let late: Vec<u64> = self.open.iter().filter_map(is_late).collect();
        let ended: Vec<_> =
            late.into_iter().filter_map(|number| self.open.remove(&number)).collect();
        self.look = (!self.open.is_empty()).then(|| now + LOOK);
        if self.open.is_empty() && self.open.capacity() > KEPT {
            self.open.shrink_to_fit();
        }
        ended.into_iter().map(|call| (call.conn, self.told(call, unix))).collect()
    }

    /// Counts a call and writes its answer.
    fn told(&mut self, call: Call, unix: i64) -> HttpResponse {
        let took = call.started.elapsed();
        let missing = || Err(Error::INTERNAL);
        let mut outcomes = call.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing));
        match call.method {
            Method::Publish => {
                let outcome = outcomes.next_back().unwrap_or_else(missing);
                self.stats.api_call("publish", took, outcome.as_ref().err());
                match &outcome {
                    Err(error) if call.by_status => {
                        self.json(status_of(error), unix, &ApiError(error))
                    }
                    outcome => self.json(200, unix, &Envelope(outcome)),
                }
            }
            Method::Broadcast => {
                self.stats.api_call("broadcast", took, None);
                let result = BroadcastResult { responses: outcomes.collect() };
                self.json(200, unix, &Envelope(&Ok(result)))
            }
            Method::Batch => {
                let outcomes: Vec<_> = outcomes.collect();
                for outcome in &outcomes {
                    self.stats.api_call("publish", took, outcome.as_ref().err());
                }
                let published = |outcome: Result<PublishResult, Error>| {
                    Some(("publish", outcome.map(ApiReply::Publish)))
                };
                let mut replies: Vec<_> = outcomes.into_iter().map(published).collect();
                for (place, error) in call.refused {
                    // In ascending order, so each stands where it stood.
                    replies.insert(place, Some(("", Err(error))));
                }
                self.json(200, unix, &Replies::new(&replies))
            }
        }
    }

    fn json(&mut self, status: u16, unix: i64, body: &impl Serialize) -> HttpResponse {
        let (status, text) = match serde_json::to_vec(body) {
            Ok(text) => (status, text),
            // Our own types serialize; should one not, the caller must not take it for success.
            Err(_) => (500, b"{\"status\":500,\"message\":\"internal server error\"}".to_vec()),
        };
        let date = self.date.at(unix);
        HttpResponse::new(status)
            .header("Cache-Control", "no-store")
            .header("Date", date)
            .body("application/json", text)
    }
}

/// Whether a request is one that is served here, as far as its head tells.
fn wanted(plan: &Plan, request: &Request<'_>, port: u8) -> Option<Wanted> {
    let calls = plan.calls.as_ref()?;
    if calls.inside && port != INSIDE || request.method != "POST" || request.minor_version < 1 {
        return None;
    }
    // A key in the query is for the control plane.
    let method = match request.target.strip_prefix(calls.prefix.as_str())? {
        "/publish" => Method::Publish,
        "/broadcast" => Method::Broadcast,
        "/batch" => Method::Batch,
        _ => return None,
    };
    let given = |name| request.header(name).map(str::as_bytes);
    let keys = [given("X-API-Key"), given("Authorization").and_then(key::authorization)];
    if !calls.key.admits(keys.into_iter().flatten()) {
        return None;
    }
    let mode = given("X-Centrifugo-Error-Mode");
    let by_status = calls.transport_errors || mode == Some(b"transport");
    Some(Wanted { method, by_status })
}

/// Reads a body; `None` if the control plane has to.
fn orders(method: Method, body: &[u8]) -> Option<Orders> {
    match method {
        Method::Publish => match ApiRequest::decode("publish", body).ok()? {
            ApiRequest::Publish(request) => {
                Some(Orders { publications: vec![request], refused: Vec::new() })
            }
            _ => None,
        },
        Method::Broadcast => match ApiRequest::decode("broadcast", body).ok()? {
            ApiRequest::Broadcast(BroadcastRequest { channels, publication })
                if channels.len() <= CALL_MAX =>
            {
                let to = |channel| PublishRequest { channel, publication: publication.clone() };
                let publications = channels.into_iter().map(to).collect();
                Some(Orders { publications, refused: Vec::new() })
            }
            _ => None,
        },
        Method::Batch => {
            let commands = Batch::decode(body).ok()?.commands;
            if commands.len() > CALL_MAX {
                return None;
            }
            let mut orders = Orders::default();
            for (place, command) in commands.into_iter().enumerate() {
                match command {
                    Ok(ApiRequest::Publish(request)) => orders.publications.push(request),
                    Ok(_) => return None,
                    Err(error) => orders.refused.push((place, error)),
                }
            }
            Some(orders)
        }
    }
}

/// The question for a publication's home core.
pub(crate) fn question(
    rules: &Rulebook,
    channel: &str,
    new: NewPublication,
) -> Result<Question, Error> {
    if channel.is_empty() {
        return Err(Error::BAD_REQUEST);
    }
    let place = rules.namespaces.place(channel)?;
    let is_json = place.rules.accept_data(&new.data)?;
    Ok(Question::Publish(Publish {
        data: new.data,
        is_json,
        info: None,
        tags: new.tags,
        stream: place.rules.stream().filter(|_| !new.skip_history),
        delta: new.delta || place.rules.options.delta_publish,
        idempotency_key: new.idempotency_key,
        version: new.version,
        version_epoch: new.version_epoch,
    }))
}

/// The backend's answer, of the home core's.
pub(crate) fn result(answer: Answer) -> PublishResult {
    match answer {
        Answer::Published { position: Some(position), .. } => {
            PublishResult { offset: position.offset, epoch: position.epoch.as_str().to_owned() }
        }
        _ => PublishResult::default(),
    }
}

/// Bytes of a body: what the control plane does not count, either.
const BODY_MAX: u64 = 64 << 10;

/// Publications of one call: as many as the control plane has under way for one.
const CALL_MAX: usize = 1 << PLACES;

/// Bits of a ticket that tell the place in its call.
const PLACES: u32 = 8;

/// Bits that tell the call.
const NUMBER: u32 = 48;
const NUMBERS: u64 = (1 << NUMBER) - 1;

/// How long a call may take; then what is missing is an internal error.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often calls that take too long are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Calls that there is always room for.
const KEPT: usize = 256;
