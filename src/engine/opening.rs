//! How connections open: requests that are answered, responses that are awaited.
//!
//! Owns what became of a head, and of the body that an application asked for. The invariant: of a
//! connection that is not open nothing is kept but its head, at most `max_head` bytes, and its
//! body, at most as long as it said; both are accounted as messages in progress are. What stays for
//! more than one request is in `requests`.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::config::Via;
use super::core::Core;
use super::guard;
use super::handler::{Handler, HttpAction, UpgradeAction};
use super::inbound::Holding;
use super::phase::Event;
use super::queueing::CORK_MAX;
use super::requests::REQUESTS_AT_ONCE;
use super::ring::Ring;
use super::slots::{Flags, Marks, Phase};
use super::value::{ConnId, Data, SendError};
use super::worker::Worker;
use crate::common::table::SlotTable;
use crate::protocol::request::{self, Refusal, Request};
use crate::protocol::{Agreement, HttpResponse, stream};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    heads: HashMap<u32, Head>,
    /// The answer to the request at hand.
    answer: Vec<u8>,
}

impl Handshakes {
    /// Memory of what is there of a head, and where it is accounted.
    pub(super) fn held(&self, slot: u32) -> Option<(Holding, usize)> {
        self.heads.get(&slot).map(|head| (head.place, head.memory()))
    }

    /// How many heads there are.
    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    /// The answer to the request at hand, as far as it is written.
    pub(super) fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// Writes the head of an answer that is complete at once. Returns its body.
    pub(super) fn write(&mut self, response: &HttpResponse, bodiless: bool, last: bool) -> Bytes {
        self.answer.clear();
        response.write_and(&mut self.answer, bodiless, last)
    }

    pub(super) fn shrink(&mut self) {
        self.heads.shrink_to_fit();
    }
}

/// A request or response head that came in part.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    scanned: usize,
    /// Where the body ends that the application asked for; 0 if it asked for none.
    end: usize,
    /// Which way it came, once the head was whole.
    via: Option<Via>,
    /// Where it is accounted.
    place: Holding,
}

impl Head {
    /// One of which so much is there, and nothing is known.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// Bytes of memory, its place in a table included.
    fn memory(&self) -> usize {
        self.bytes.capacity() + 2 * size_of::<(u32, Self)>()
    }
}

/// What becomes of a request that is not refused.
enum Verdict<S> {
    Upgrade {
        state: S,
        compression: Option<Agreement>,
    },
    Stream {
        state: S,
        /// The head of the answer is not there yet.
        later: bool,
        chunked: bool,
    },
    Pass,
    /// The head of the answer is written; its body follows, and is the last thing.
    Answered(u16, Bytes),
    /// The same, and the connection goes on behind its request, which ends here.
    Stays {
        status: u16,
        body: Bytes,
        end: usize,
    },
    /// The answer comes later; its request ends here, and it is the last one if nothing follows.
    Awaited {
        end: Option<usize>,
        bodiless: bool,
    },
    /// The body is needed; this is where it ends.
    Body {
        end: usize,
        /// The client awaits a word before it sends it.
        expected: bool,
    },
}

impl<R: Ring, H: Handler> Worker<R, H> {
    /// Reads the requests in a piece of the arena: one, or as many as a turn works off for a
    /// connection that stays. Returns how much of the piece that is; the rest has to wait.
    #[inline(never)]
    pub(super) fn on_request(&mut self, slot: u32, generation: u32, range: Range<usize>) -> usize {
        let mut at = 0;
        for _ in 0..REQUESTS_AT_ONCE {
            if !self.core.takes_request(slot) {
                break;
            }
            at += self.read_request(slot, generation, range.start + at..range.end);
            if at == range.len() || !self.core.goes_on(slot, generation) {
                break;
            }
            self.deliver_notices();
        }
        at
    }

    /// Reads one request, or a part of one. Returns how much of the piece that is.
    fn read_request(&mut self, slot: u32, generation: u32, range: Range<usize>) -> usize {
        let all = range.len();
        let port = self.core.adopted.of(slot).map_or(0, |(port, _)| port);
        self.core.adopted.turn_to(port);
        let mut head = self.core.take_head(slot);
        let before = head.bytes.len();
        let whole = before == 0;
        if !whole {
            head.bytes.extend_from_slice(&self.arena.bytes[range.clone()]);
            if head.bytes.len() < head.end {
                self.core.keep_head(slot, head);
                return all;
            }
        }
        // Parsed from a copy where it came in pieces, in place where it came whole.
        let copy = std::mem::take(&mut head.bytes);
        let bytes = if whole { &self.arena.bytes[range.clone()] } else { &copy[..] };
        // RFC 9110 section 9.3.2: the answer to HEAD has no body.
        let bodiless = bytes.starts_with(b"HEAD ");
        let Self { core, handler, states, .. } = self;
        let Some(outcome) = decide(core, handler, states, &mut head, (slot, generation), bytes)
        else {
            return all;
        };
        let came = Came { range, before, head, copy, whole };
        match outcome {
            Ok(None) => {
                self.keep_request(slot, came, 0);
                all
            }
            Ok(Some((verdict, len))) => self.carry_out(slot, came, verdict, len),
            Err(refusal) => {
                self.core.count_refusal(slot, refusal);
                self.core.refuse_with(slot, refusal, bodiless);
                all
            }
        }
    }

    /// Keeps what came of a request until there is more. `end`: how much of it is head and body,
    /// if that is known.
    fn keep_request(&mut self, slot: u32, came: Came, end: usize) {
        let Came { range, mut head, copy, whole, .. } = came;
        head.bytes = copy;
        if whole {
            head.bytes.extend_from_slice(&self.arena.bytes[range]);
        }
        head.end = if end > 0 { end } else { head.end };
        self.core.keep_head(slot, head);
        if whole {
            self.core.on_request_begun(slot);
        }
    }

    /// Does what is decided about a request whose head has `len` bytes. Returns how much of what
    /// was just received is worked off.
    fn carry_out(
        &mut self,
        slot: u32,
        came: Came,
        verdict: Verdict<H::State>,
        len: usize,
    ) -> usize {
        let (all, before) = (came.range.len(), came.before);
        match verdict {
            Verdict::Upgrade { state, compression } => {
                // What follows the head lies at the end of what was just received.
                let range = came.range;
                let rest = range.start + (len - before)..range.end;
                self.core.agree(slot, compression);
                if self.core.leftovers.len(slot) > 0 {
                    // It is taken up again, as frames.
                    self.on_upgraded(slot, state, range.end..range.end);
                    return len - before;
                }
                self.on_upgraded(slot, state, rest);
            }
            Verdict::Stream { state, later, chunked } => {
                // What follows the request has no meaning on a connection that is not used again.
                self.core.leftovers.drop_of(slot, &mut self.core.inbound);
                self.on_streaming(slot, state, later, chunked);
            }
            Verdict::Pass => {
                let Some(via) = came.head.via else { return all };
                let mut received = match came.whole {
                    true => self.arena.bytes[came.range].to_vec(),
                    false => came.copy,
                };
                let core = &mut self.core;
                received.append(&mut core.leftovers.take_rest(slot, &mut core.inbound));
                self.core.begin_pass(slot, received, via);
            }
            Verdict::Answered(status, body) => {
                self.core.answer(slot, status, body);
                self.relieve();
            }
            Verdict::Stays { status, body, end } => {
                let Some(via) = came.head.via else { return all };
                self.core.answer_and_stay(slot, via, status, body);
                self.relieve();
                return end - before;
            }
            Verdict::Awaited { end, bodiless } => {
                let Some(via) = came.head.via else { return all };
                self.core.await_answer(slot, via, end.is_none(), bodiless);
                self.relieve();
                return end.map_or(all, |end| end - before);
            }
            Verdict::Body { end, expected } => {
                self.keep_request(slot, came, end);
                if expected {
                    self.core.send_continue(slot);
                }
            }
        }
        all
    }

    /// The handshake is complete; `rest` are the first bytes of frames.
    pub(super) fn on_upgraded(&mut self, slot: u32, state: H::State, rest: Range<usize>) {
        let Some(generation) = self.core.open_connection(slot) else { return };
        self.states.insert(slot, state);
        self.call(slot, generation, |handler, conn, state| handler.on_open(conn, state));
        self.deliver_notices();
        if !rest.is_empty() {
            self.read(slot, generation, rest, false);
        }
    }

    /// A stream begins, and perhaps is answered later.
    fn on_streaming(&mut self, slot: u32, state: H::State, later: bool, chunked: bool) {
        let Some(hot) = self.core.slots.get_mut(slot) else { return };
        hot.set(if chunked { Flags::STREAM } else { Flags::STREAM | Flags::BARE });
        if later {
            hot.mark(Marks::UNANSWERED);
        }
        let Some(generation) = self.core.open_connection(slot) else { return };
        self.core.counted.streams_opened += 1;
        self.states.insert(slot, state);
        self.call(slot, generation, |handler, conn, state| handler.on_open(conn, state));
        self.deliver_notices();
    }
}

/// What came of a request so far.
struct Came {
    /// What was just received, in the arena.
    range: Range<usize>,
    /// Bytes of the request that came before.
    before: usize,
    head: Head,
    /// The request where it came in pieces.
    copy: Vec<u8>,
    /// It came in one piece.
    whole: bool,
}

/// What is decided about a request, and how long its head is; nothing where more has to come.
type Outcome<S> = Result<Option<(Verdict<S>, usize)>, Refusal>;

/// Reads a request and asks the application about it. `None`: the connection is gone.
fn decide<H: Handler>(
    core: &mut Core,
    handler: &mut H,
    states: &mut SlotTable<H::State>,
    head: &mut Head,
    (slot, generation): (u32, u32),
    bytes: &[u8],
) -> Option<Outcome<H::State>> {
    let (request, len) = match request::parse(bytes, &mut head.scanned, core.config.max_head) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return Some(Ok(None)),
        Err(refusal) => return Some(Err(refusal)),
    };
    let kept = core.requests.via(slot);
    if kept.is_some() && head.end == 0 {
        core.learn_next_client(slot, &request);
    }
    let via = core.learn_client(slot, &request);
    head.via = head.via.or(kept).or(via);
    if let Some(refusal) = core.refusal_of(slot) {
        return Some(Err(refusal));
    }
    let peer = core.slots.cold(slot)?.peer();
    let asked = Asked { slot, generation, request: &request, bytes, len, peer };
    Some(answer(handler, core, states, &asked).map(|verdict| Some((verdict, len))))
}

/// A request, and where it lies.
pub(super) struct Asked<'a> {
    pub(super) slot: u32,
    generation: u32,
    pub(super) request: &'a Request<'a>,
    /// All that was received of the connection and not worked off.
    pub(super) bytes: &'a [u8],
    /// Where the head ends in it.
    pub(super) len: usize,
    peer: std::net::SocketAddr,
}

/// Asks the application about a request, and encodes its answer.
fn answer<H: Handler>(
    handler: &mut H,
    core: &mut Core,
    states: &mut SlotTable<H::State>,
    asked: &Asked<'_>,
) -> Result<Verdict<H::State>, Refusal> {
    let Asked { request, peer, .. } = asked;
    let mut upgrade = match request.upgrade() {
        Ok(upgrade) => upgrade,
        Err(refusal) if request.asks_for_websocket() => return Err(refusal),
        Err(refusal) => return answer_plain(handler, core, states, asked, refusal),
    };
    if !core.config.admits_origin(request.origin()) {
        return Err(Refusal::Forbidden);
    }
    let decision = guard::call(core, states, |cx| handler.on_upgrade(cx, request, *peer));
    match decision {
        Some(UpgradeAction::Accept { state, protocol, headers }) => {
            if core.compressor.offers()
                && guard::ask(core, || handler.compresses(&state)).unwrap_or(false)
            {
                upgrade.compression = request.compression();
            }
            core.handshakes.answer.clear();
            request::write_accept(
                &mut core.handshakes.answer,
                &upgrade,
                protocol.as_deref(),
                &headers,
            );
            Ok(Verdict::Upgrade { state, compression: upgrade.compression })
        }
        Some(UpgradeAction::Refuse(refusal)) => Err(refusal),
        Some(UpgradeAction::Respond(response)) => Ok(respond(core, request, &response)),
        None => Err(Refusal::Unavailable(core.config.retry_after)),
    }
}

/// The same for a request that is no upgrade. `refusal` says so to the client if nothing else does.
fn answer_plain<H: Handler>(
    handler: &mut H,
    core: &mut Core,
    states: &mut SlotTable<H::State>,
    asked: &Asked<'_>,
    refusal: Refusal,
) -> Result<Verdict<H::State>, Refusal> {
    let Asked { slot, generation, request, bytes, len, peer } = *asked;
    let mut body = None;
    // Once without the body, and once with it.
    for _ in 0..2 {
        core.requests.ask(Some(ConnId { core: core.number, slot, generation }));
        let decision = guard::call(core, states, |cx| handler.on_http(cx, request, body, peer));
        core.requests.ask(None);
        let Some(decision) = decision else {
            return Err(Refusal::Unavailable(core.config.retry_after));
        };
        match decision {
            HttpAction::Answer(response) => match core.end_to_go_on(asked) {
                None => return Ok(respond(core, request, &response)),
                Some(end) => {
                    let body = core.handshakes.write(&response, request.method == "HEAD", false);
                    return Ok(Verdict::Stays { status: response.status(), body, end });
                }
            },
            HttpAction::AnswerLater => {
                let bodiless = request.method == "HEAD";
                return Ok(Verdict::Awaited { end: core.end_to_go_on(asked), bodiless });
            }
            HttpAction::Refuse => return Err(refusal),
            HttpAction::Detach => return Ok(Verdict::Pass),
            HttpAction::Respond(response) => return Ok(respond(core, request, &response)),
            HttpAction::Stream { state, headers } => {
                request.check_plain()?;
                let chunked = request.minor_version >= 1;
                core.handshakes.answer.clear();
                stream::write_head(&mut core.handshakes.answer, chunked, &headers);
                return Ok(Verdict::Stream { state, later: false, chunked });
            }
            HttpAction::Later { state } => {
                request.check_plain()?;
                let chunked = request.minor_version >= 1;
                core.handshakes.answer.clear();
                return Ok(Verdict::Stream { state, later: true, chunked });
            }
            HttpAction::Body(limit) => {
                let said = request.body_len()?;
                let size = usize::try_from(said).ok().filter(|size| *size <= limit);
                let size = size.ok_or(Refusal::BodyTooLarge)?;
                let end = len + size;
                let Some(arrived) = bytes.get(len..end) else {
                    // Who has sent some of it does not wait.
                    let expected = bytes.len() == len && request.expects_continue();
                    return Ok(Verdict::Body { end, expected });
                };
                body = Some(arrived);
            }
        }
    }
    debug_assert!(false, "the application asks for the body that it has");
    Err(Refusal::Unavailable(core.config.retry_after))
}

/// Writes the head of an answer that is complete at once.
fn respond<S>(core: &mut Core, request: &Request<'_>, response: &HttpResponse) -> Verdict<S> {
    let body = core.handshakes.write(response, request.method == "HEAD", true);
    Verdict::Answered(response.status(), body)
}

impl Core {
    /// What is there of a head, to go on with.
    pub(super) fn take_head(&mut self, slot: u32) -> Head {
        let mut head = self.handshakes.heads.remove(&slot).unwrap_or_default();
        self.inbound.clear(std::mem::take(&mut head.place));
        head
    }

    /// Keeps what is there of a head and its body, if there is memory for it.
    pub(super) fn keep_head(&mut self, slot: u32, mut head: Head) {
        if head.end > 0 {
            // Grown as it comes, never further than it goes.
            let missing = head.end.saturating_sub(head.bytes.len());
            head.bytes.reserve_exact(missing.min(head.bytes.len().max(BODY_STEP)));
        }
        let memory = head.memory();
        self.inbound.set(&mut head.place, slot, memory);
        self.handshakes.heads.insert(slot, head);
        self.enforce_inbound();
    }

    /// Forgets what is there of a head, and whether its connection was to stay.
    pub(super) fn drop_head(&mut self, slot: u32) {
        self.requests.forget(slot);
        drop(self.take_head(slot));
    }

    /// Tells a client to send its body.
    fn send_continue(&mut self, slot: u32) {
        if self.slots.get(slot).is_none_or(|hot| hot.phase() != Phase::Handshake) {
            return;
        }
        let data = self.outgoing.write(|cork| cork.extend_from_slice(stream::CONTINUE));
        self.with_outbox(slot, |outbox| outbox.push_head(data));
    }

    /// Whether the turn can queue the body of an answer.
    pub(super) fn has_room_for(&self, body: &Bytes) -> bool {
        self.turn_size().saturating_add(body.len()) <= self.limits.turn_hard
    }

    /// Counts an answer of the application's.
    pub(super) fn count_answer(&mut self, status: u16) {
        match status {
            400.. => self.counted.refused_application += 1,
            _ => self.counted.answered += 1,
        }
    }

    /// Sends the answer whose head is written, and ends the connection.
    pub(super) fn answer(&mut self, slot: u32, status: u16, body: Bytes) {
        if !self.has_room_for(&body) {
            self.counted.refused_application += 1;
            return self.refuse(slot, Refusal::Unavailable(self.config.retry_after));
        }
        self.count_answer(status);
        let short = body.len() < CORK_MAX;
        let head = self.outgoing.write(|cork| {
            cork.extend_from_slice(&self.handshakes.answer);
            cork.extend_from_slice(if short { &body } else { b"" });
        });
        if short {
            return self.end_with(slot, head);
        }
        self.outgoing.note_own(body.len());
        self.with_outbox(slot, |outbox| outbox.push_head(head));
        self.end_with(slot, Data::Shared(body, 0));
    }

    /// Queues the head of the answer and makes the connection an open one.
    fn open_connection(&mut self, slot: u32) -> Option<u32> {
        let hot = self.slots.get_mut(slot)?;
        let generation = hot.generation;
        let answered = !hot.has(Flags::CLIENT) && !hot.is(Marks::UNANSWERED);
        self.requests.forget(slot);
        self.census.enter(hot);
        self.compressor.enter(hot);
        self.enter(slot, Event::Opened);
        if answered {
            let answer = &self.handshakes.answer;
            let data = self.outgoing.write(|cork| cork.extend_from_slice(answer));
            self.with_outbox(slot, |outbox| outbox.push_head(data));
        }
        self.counted.opened += 1;
        Some(generation)
    }

    /// Answers the request of a stream that was accepted for later.
    pub(super) fn begin_stream(
        &mut self,
        slot: u32,
        generation: u32,
        headers: &[(String, String)],
    ) -> Result<(), SendError> {
        let chunked = self.take_unanswered(slot, generation)?;
        let data = self.outgoing.write(|cork| stream::write_head(cork, chunked, headers));
        self.with_outbox(slot, |outbox| outbox.push_head(data));
        Ok(())
    }

    /// A stream's request has its answer from now on. Whether the body goes in chunks.
    pub(super) fn take_unanswered(
        &mut self,
        slot: u32,
        generation: u32,
    ) -> Result<bool, SendError> {
        let open = self.slots.lookup(slot, generation).is_some_and(|hot| {
            hot.phase() == Phase::Open && !hot.has(Flags::CLOSE_SENT) && hot.is(Marks::UNANSWERED)
        });
        let hot = self.slots.get_mut(slot).filter(|_| open).ok_or(SendError::Gone)?;
        hot.unmark(Marks::UNANSWERED);
        Ok(!hot.has(Flags::BARE))
    }

    /// Why this request is refused whatever it says.
    pub(super) fn refusal_of(&self, slot: u32) -> Option<Refusal> {
        let surplus = self.slots.get(slot).is_some_and(|hot| hot.has(Flags::SURPLUS));
        surplus.then_some(Refusal::Unavailable(self.config.retry_after))
    }

    fn count_refusal(&mut self, slot: u32, refusal: Refusal) {
        let c = &mut self.counted;
        match refusal {
            Refusal::BadRequest(_) | Refusal::HttpVersion => c.refused_bad_request += 1,
            Refusal::Method | Refusal::UpgradeRequired => c.refused_not_websocket += 1,
            Refusal::HeadTooLarge => c.refused_head_too_large += 1,
            // Counted by reason when the connection was accepted.
            Refusal::Unavailable(_)
                if self.slots.get(slot).is_some_and(|hot| hot.has(Flags::SURPLUS)) => {}
            _ => c.refused_application += 1,
        }
    }
}

/// The least that memory for a body grows by.
const BODY_STEP: usize = 4096;
