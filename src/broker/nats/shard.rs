//! A connection to NATS through its lives: requests and subscriptions out, messages in.
//!
//! One connection for both, so that whoever hears that it listens hears what this node publishes
//! next. Owns the fences that are not answered ([`super::exchange`]), and when the cores are told
//! [`Happening::Deaf`] and [`Happening::Back`]. The invariant: one turn reads the socket once and
//! works it off, then posts; nothing but the socket and the clock makes it wait.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::dial::{Servers, attempts, described};
use super::exchange::Speech;
use super::subjects::{CHANNEL, CONTROL, Malformed, NODE, Subjects};
use super::wire::{self, Info, Operation};
use crate::broker::bus::Bus;
use crate::broker::diary::Diary;
use crate::broker::link::Lost;
use crate::broker::listening::Listening;
use crate::broker::post::Post;
use crate::broker::resp::Fault;
use crate::broker::shard::{Inbox, SILENCE};
use crate::broker::side::{LinkEvent, Side};
use crate::broker::tally::{Condition, Tally};
use crate::broker::work::Work;
use crate::gateway::broker::{Happening, Life, Message, Scope};

/// See the module's text.
#[derive(Debug)]
pub(in crate::broker) struct Shard {
    inbox: Rc<Inbox>,
    side: Side,
    servers: Arc<Servers>,
    speech: Rc<Speech>,
    work: Work,
    listening: Listening,
    post: Rc<Post>,
    bus: Arc<Bus>,
    tally: Arc<Tally>,
    diary: Diary,
    /// `write_timeout`.
    patience: Duration,
    /// PINGs that are not answered, and what each of them stands behind.
    fences: VecDeque<Fence>,
    /// What is written behind the last of them.
    open: Fence,
    /// The server is about to end.
    leaving: bool,
    /// No more channels before that.
    full_until: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// When a full mailbox is tried again.
    retry: Option<Instant>,
}

/// What a shard is made of.
#[derive(Clone, Debug)]
pub(in crate::broker) struct Parts {
    /// How channels are named.
    pub(in crate::broker) subjects: Subjects,
    /// The way to the cores.
    pub(in crate::broker) post: Rc<Post>,
    /// The way to other nodes.
    pub(in crate::broker) bus: Arc<Bus>,
    /// What is counted.
    pub(in crate::broker) tally: Arc<Tally>,
    /// How it is with the server.
    pub(in crate::broker) condition: Arc<Condition>,
    /// `write_timeout`.
    pub(in crate::broker) patience: Duration,
}

/// A PING, and what the answer to it acknowledges.
#[derive(Debug)]
struct Fence {
    at: Instant,
    /// Pieces of channels that are listened to then.
    pieces: usize,
    /// One of them was refused, and nobody says which.
    spoilt: bool,
    /// Something is before it.
    needed: bool,
}

impl Fence {
    fn new(now: Instant) -> Self {
        Self { at: now, pieces: 0, spoilt: false, needed: false }
    }
}

/// Fences that may be unanswered; what is sent meanwhile shares the next. So a busy node sends few,
/// and an idle one waits for nobody.
const FENCES: usize = 8;

/// Before channels are asked for again that the server had no room for.
const FULL: Duration = Duration::from_millis(250);

impl Shard {
    /// Of these servers. Connects when it runs.
    pub(in crate::broker) fn new(servers: Arc<Servers>, inbox: Rc<Inbox>, parts: Parts) -> Self {
        let Parts { subjects, post, bus, tally, condition, patience } = parts;
        let speech = Rc::new(Speech::new(subjects));
        let limit = speech.clone();
        let made = move |info: Info| limit.limit(info.max_payload);
        let now = Instant::now();
        Self {
            inbox,
            side: Side::by(attempts(servers.clone(), made)),
            work: Work::new(post.clone(), tally.clone(), speech.clone(), patience),
            listening: Listening::new(post.clone(), bus.clone(), tally.clone(), patience),
            diary: Diary::new(servers.place(), condition, tally.clone()),
            servers,
            speech,
            post,
            bus,
            tally,
            patience,
            fences: VecDeque::new(),
            open: Fence::new(now),
            leaving: false,
            full_until: None,
            timer: Box::pin(tokio::time::sleep(SILENCE)),
            retry: None,
        }
    }

    /// Serves until the inbox ends and all that came is answered.
    pub(in crate::broker) async fn run(mut self) {
        loop {
            let turn = poll_fn(|cx| self.poll(cx)).await;
            let now = Instant::now();
            if let Some(turn) = turn {
                self.on_turn(turn, now);
            }
            let is_up = self.side.up().is_some();
            let listening = is_up.then_some(&mut self.listening);
            let ending = self.inbox.hand_on(&mut self.work, listening);
            self.send(now);
            self.check_time(now);
            self.retry = self.post.flush(now);
            if ending && self.work.is_empty() {
                return;
            }
            self.set_timer(now);
        }
    }

    /// Looks at everything that may have happened.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<LinkEvent>> {
        let turn = match self.side.poll(cx) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        };
        let late = self.timer.as_mut().poll(cx).is_ready();
        let some = self.inbox.poll(self.work.is_empty(), cx);
        match some || late || turn.is_some() {
            true => Poll::Ready(turn),
            false => Poll::Pending,
        }
    }

    fn on_turn(&mut self, turn: LinkEvent, now: Instant) {
        match turn {
            LinkEvent::Made(identity) => {
                self.work.back();
                self.open = Fence::new(now);
                (self.leaving, self.full_until) = (false, None);
                self.greet();
                self.diary.made("messages", &identity.version);
                self.diary.well(&identity.version);
                let (server, version) = (identity.place.to_string(), identity.version);
                tracing::info!(server, version, "the broker is there");
                self.post.tell_all(&Happening::Back(Scope::All, Life::Same));
                // Others may have given this node up.
                self.bus.greet(None);
            }
            LinkEvent::Failed(error) => {
                self.diary.failed("messages", error.name(), &error.to_string(), now);
                self.work.away();
            }
            LinkEvent::Received => {
                if let Err(lost) = self.receive(now) {
                    self.lose(&lost, now);
                }
            }
            LinkEvent::Lost(lost) => self.lose(&lost, now),
        }
    }

    /// What nodes tell each other comes here from here on.
    fn greet(&mut self) {
        let Some(up) = self.side.up() else { return };
        let subjects = &self.speech.subjects;
        wire::subscribe(up.link.output(), &subjects.control(), &[CONTROL]);
        if let Some(node) = subjects.node(self.bus.uid()) {
            wire::subscribe(up.link.output(), &node, &[NODE]);
        }
        self.open.needed = true;
    }

    fn receive(&mut self, now: Instant) -> Result<(), Lost> {
        let Self { side, speech, servers, work, listening, post, bus, tally, .. } = self;
        let Self { fences, open, leaving, full_until, .. } = self;
        let Some(up) = side.up() else { return Ok(()) };
        let mut asked = 0;
        let read = up.link.pieces(now, |input| {
            let Some((operation, bytes)) = wire::read(input).map_err(Lost::Protocol)? else {
                return Ok(None);
            };
            match operation {
                Operation::Message { subject, sid, payload } => {
                    match read_message(speech, sid, subject, payload) {
                        Ok(Heard::Message(channel, message)) => {
                            tally.messages.add(1);
                            post.message(channel, message);
                        }
                        Ok(Heard::Control) => bus.receive(payload, now),
                        Ok(Heard::Nothing) => {}
                        Err(Malformed) => tally.messages_malformed.add(1),
                    }
                }
                Operation::Pong => {
                    let unasked = Lost::Protocol(Fault::End);
                    let fence = fences.pop_front().ok_or(unasked)?;
                    work.pong(now);
                    match fence.spoilt {
                        true => listening.again(fence.pieces),
                        false => listening.heard(fence.pieces),
                    }
                }
                Operation::Ping => asked += 1,
                Operation::Info(json) => {
                    let fault = |_| Lost::Protocol(Fault::Number);
                    let info = described(json).map_err(fault)?;
                    speech.limit(info.max_payload);
                    servers.meet(&info);
                    *leaving |= info.ldm;
                }
                Operation::Refused(what) => match ServerError::of(what) {
                    ServerError::Publish(subject) => work.denied(speech, subject, what, now),
                    ServerError::Subscribe(subject) => {
                        listening.refused(speech, subject);
                        work.complains("listen", what, now);
                    }
                    ServerError::Full => {
                        work.complains("listen", what, now);
                        fences.front_mut().unwrap_or(open).spoilt = true;
                        *full_until = Some(now + FULL);
                    }
                    ServerError::End(words) => return Err(Lost::Refused(words)),
                },
                Operation::Done => {}
            }
            Ok(Some(bytes))
        });
        (0..asked).for_each(|_| wire::pong(up.link.output()));
        read
    }

    fn lose(&mut self, lost: &Lost, now: Instant) {
        self.diary.lost("messages", lost, now);
        self.side.drop_link();
        self.work.lost(now);
        self.listening.lost();
        self.fences.clear();
        self.post.tell_all(&Happening::Deaf(Scope::All));
    }

    fn send(&mut self, now: Instant) {
        let Self { side, work, listening, speech, fences, open, .. } = self;
        let Some(up) = side.up() else { return work.drop_told() };
        let silent = fences.is_empty() && up.link.heard() + SILENCE <= now;
        let out = up.link.output();
        let before = out.len();
        if !self.leaving {
            if self.full_until.is_none_or(|until| until <= now) {
                self.full_until = None;
                open.pieces += listening.write(speech, out, now);
            }
            work.send(out, now, Duration::ZERO);
        }
        open.needed |= out.len() > before || silent;
        if open.needed && fences.len() < FENCES {
            wire::ping(out);
            work.fence(now);
            fences.push_back(std::mem::replace(open, Fence::new(now)));
            if let Some(fence) = fences.back_mut() {
                fence.at = now;
            }
        }
    }

    fn check_time(&mut self, now: Instant) {
        self.work.give_up_late(now);
        if self.silence().is_some_and(|at| at <= now) {
            return self.lose(&Lost::Silent(self.patience), now);
        }
        if self.leaving && self.work.is_settled() && self.side.up().is_some() {
            // Before it ends the connection itself, with what is under way.
            self.servers.turn_away();
            self.lose(&Lost::Moved, now);
        }
    }

    /// When the server will have said nothing for too long, although it owes an answer.
    fn silence(&mut self) -> Option<Instant> {
        let (fence, up) = self.fences.front().zip(self.side.up())?;
        Some(fence.at.max(up.link.heard()) + self.patience)
    }

    fn set_timer(&mut self, now: Instant) {
        let probe = self.side.up().map(|up| up.link.heard() + SILENCE);
        let times = [probe, self.silence(), self.work.next_late(), self.retry, self.full_until];
        let next = times.into_iter().flatten().filter(|at| *at > now).min();
        self.timer.as_mut().reset(next.unwrap_or(now + SILENCE).into());
    }
}

/// What a message is.
enum Heard<'a> {
    /// For this channel.
    Message(&'a str, Message),
    /// Of other nodes.
    Control,
    /// For nobody here.
    Nothing,
}

fn read_message<'a>(
    speech: &Speech,
    sid: &'a [u8],
    subject: &[u8],
    payload: &[u8],
) -> Result<Heard<'a>, Malformed> {
    let Some(channel) = std::str::from_utf8(sid).ok().and_then(|it| it.strip_prefix(CHANNEL))
    else {
        return Ok(Heard::Control);
    };
    let message = speech.subjects.message(channel, subject, payload)?;
    Ok(message.map_or(Heard::Nothing, |message| Heard::Message(channel, message)))
}

/// What a server's error means.
#[derive(Debug, PartialEq, Eq)]
enum ServerError<'a> {
    /// It did not publish in this subject.
    Publish(&'a str),
    /// It does not pass this subject on.
    Subscribe(&'a str),
    /// It passes no more subjects on.
    Full,
    /// It ends the connection, or has not understood us.
    End(String),
}

impl<'a> ServerError<'a> {
    fn of(what: &'a [u8]) -> Self {
        let words = std::str::from_utf8(what).unwrap_or_default();
        let lower = words.to_ascii_lowercase();
        let quoted = || words.split('"').nth(1);
        let permission = |of: &str| lower.starts_with(&format!("permissions violation for {of}"));
        match quoted() {
            Some(subject) if permission("publish") => Self::Publish(subject),
            Some(subject) if permission("subscription") => Self::Subscribe(subject),
            _ if lower.starts_with("maximum subscriptions exceeded") => Self::Full,
            _ => {
                let words =
                    String::from_utf8_lossy(&what[..what.len().min(super::dial::WORDS_MAX)]);
                Self::End(format!("the server says: {words}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let publish = ServerError::of(b"Permissions Violation for Publish to \"a.b\"");
        assert_eq!(publish, ServerError::Publish("a.b"));
        let queue = b"permissions violation for subscription to \"a\" using queue \"q\"";
        assert_eq!(ServerError::of(queue), ServerError::Subscribe("a"));
        assert_eq!(ServerError::of(b"maximum subscriptions exceeded"), ServerError::Full);
        for what in [&b"Slow Consumer"[..], b"Permissions Violation", b"\xff", b""] {
            assert!(matches!(ServerError::of(what), ServerError::End(_)));
        }
    }
}
