//! Requests on a connection to NATS: how each is written, and what the server's answers mean for
//! those that were sent.
//!
//! NATS answers nothing but errors, and a PING with a PONG in its turn. So a PING behind what was
//! sent is a fence: with its PONG all before it is done, but for what an error has named. Owns no
//! state; that is in [`Work`] and [`Listening`], which know nothing of fences but the PINGs among
//! what was sent. The invariant: nothing that the server would end the connection for is written.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::subjects::{CHANNEL, Subjects};
use super::wire::{self, MESSAGE_MAX};
use crate::broker::listening::{Listening, Piece};
use crate::broker::tongue::{Asked, Tongue};
use crate::broker::work::{Sent, Work, complain};
use crate::gateway::broker::{Fault, Happening, Outcome, Request};

/// How NATS is spoken to.
#[derive(Debug)]
pub(super) struct Speech {
    /// How channels are named.
    pub(super) subjects: Subjects,
    /// Bytes of a message that the server takes.
    most: Cell<usize>,
}

impl Speech {
    /// With these names.
    pub(super) fn new(subjects: Subjects) -> Self {
        Self { subjects, most: Cell::new(MESSAGE_MAX) }
    }

    /// The server takes messages of so many bytes; 0: it does not say.
    pub(super) fn limit(&self, bytes: u64) {
        let most = usize::try_from(bytes).unwrap_or(MESSAGE_MAX).min(MESSAGE_MAX);
        self.most.set(if most == 0 { MESSAGE_MAX } else { most });
    }

    fn publish(&self, out: &mut Vec<u8>, subject: &str, pieces: &[&[u8]]) -> Result<(), Fault> {
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() > self.most.get() {
            return Err(Fault::Size);
        }
        wire::publish(out, subject, pieces);
        Ok(())
    }
}

impl Tongue for Speech {
    fn write(&self, out: &mut Vec<u8>, request: &Request, _: Asked) -> Result<usize, Fault> {
        let subjects = &self.subjects;
        let (channel, wrapped) = match request {
            Request::Publish(_, publish) => {
                let channel = &*publish.channel;
                (channel, Some(subjects.publication(channel, &publish.data, publish.delta)?))
            }
            Request::Join(channel, info) => (&**channel, subjects.notice(channel, info, true)),
            Request::Leave(channel, info) => (&**channel, subjects.notice(channel, info, false)),
            // Nothing is kept; `Keeps` says so, and nobody asks.
            _ => return Err(Fault::Denied),
        };
        let notice = request.ticket().is_none();
        match (subjects.to_publish(channel), wrapped) {
            (Ok(subject), Some(wrapped)) => {
                self.publish(out, &subject, &wrapped.pieces())?;
                Ok(1)
            }
            // Of who comes to several channels, or where messages are data only, nobody is told.
            _ if notice => Ok(0),
            (Err(fault), _) => Err(fault),
            (_, None) => Err(Fault::Denied),
        }
    }

    fn tell(&self, out: &mut Vec<u8>, to: Option<&str>, data: &[u8]) -> bool {
        let subject = match to {
            None => Some(self.subjects.control()),
            Some(uid) => self.subjects.node(uid),
        };
        subject.is_some_and(|subject| self.publish(out, &subject, &[data]).is_ok())
    }

    /// Nobody could say whether it was done.
    fn may_repeat(&self, _: &Request) -> bool {
        false
    }
}

impl Work {
    /// All that was sent up to the next fence is done.
    pub(super) fn pong(&mut self, now: Instant) {
        while let Some(sent) = self.sent.pop_front() {
            match sent {
                Sent::Job(job) => {
                    let done = match job.request() {
                        Request::Publish(..) => {
                            Outcome::Published { position: None, suppressed: false }
                        }
                        _ => Outcome::Done,
                    };
                    self.finish_with(job, Ok(done), now);
                }
                Sent::Told { .. } => self.tally.control_sent.add(1),
                // Nothing joins here.
                Sent::Script | Sent::Joined(_) => {}
                Sent::Ping(_) => return,
            }
        }
    }

    /// Says in the log what the server refuses.
    pub(super) fn complains(&mut self, request: &str, what: &[u8], now: Instant) {
        complain(&mut self.complained, request, what, now);
    }

    /// A fence is written.
    pub(super) fn fence(&mut self, now: Instant) {
        self.sent.push_back(Sent::Ping(now));
    }

    /// The server will not publish in this subject. It is the oldest that was sent of it.
    pub(super) fn denied(&mut self, speech: &Speech, subject: &str, what: &[u8], now: Instant) {
        let is_it = |sent: &Sent| match sent {
            Sent::Job(job) => {
                let channel = job.request().channel();
                let own = channel.and_then(|channel| speech.subjects.to_publish(channel).ok());
                own.is_some_and(|own| own == subject)
            }
            _ => false,
        };
        let found = self.sent.iter().position(is_it);
        match found.and_then(|at| self.sent.remove(at)) {
            Some(Sent::Job(job)) => {
                complain(&mut self.complained, job.request().name(), what, now);
                self.answer(job, Err(Fault::Denied));
            }
            _ => {
                let told = self.sent.iter().position(|sent| matches!(sent, Sent::Told { .. }));
                told.and_then(|at| self.sent.remove(at));
                self.tally.control_dropped.add(u64::from(told.is_some()));
                complain(&mut self.complained, "control", what, now);
            }
        }
    }

    /// Answers what has waited for too long, sent or not. The connection may still be good: what
    /// comes after it is not late yet.
    pub(super) fn give_up_late(&mut self, now: Instant) {
        let late = |sent: &Sent| match sent {
            Sent::Job(job) => Some(job.is_late(self.patience, now)),
            _ => None,
        };
        if self.sent.iter().find_map(late) == Some(true) {
            let some = self.sent.iter().take_while(|sent| late(sent) != Some(false)).count();
            let rest = self.sent.split_off(some);
            let mut fences = VecDeque::new();
            for sent in std::mem::take(&mut self.sent) {
                match sent {
                    Sent::Job(job) => self.answer(job, Err(Fault::Late)),
                    other => fences.push_back(other),
                }
            }
            fences.extend(rest);
            self.sent = fences;
        }
        // Of what was not sent.
        let _ = self.expire(now);
    }

    /// When that has something to do.
    pub(super) fn next_late(&self) -> Option<Instant> {
        let job = |sent: &Sent| match sent {
            Sent::Job(job) => Some(job.at()),
            _ => None,
        };
        let sent = self.sent.iter().find_map(job);
        let waiting = self.waiting.front().map(|job| job.at());
        sent.into_iter().chain(waiting).min().map(|at| at + self.patience)
    }
}

impl Listening {
    /// Writes what may be asked now. Returns how many pieces wait for the next fence.
    pub(super) fn write(&mut self, speech: &Speech, out: &mut Vec<u8>, now: Instant) -> usize {
        let mut pieces = 0;
        while let Some(Piece { core, begins, names }) = self.next_piece() {
            if !begins {
                let subjects = names.iter().filter(|it| speech.subjects.to_listen(it).is_ok());
                subjects.for_each(|name| wire::unsubscribe(out, &[CHANNEL, name]));
                continue;
            }
            let (mut known, mut unknown) = (Vec::with_capacity(names.len()), Vec::new());
            for name in names {
                match speech.subjects.to_listen(&name) {
                    Ok(subject) => {
                        wire::subscribe(out, &subject, &[CHANNEL, &name]);
                        known.push(name);
                    }
                    Err(_) => unknown.push(name),
                }
            }
            if !unknown.is_empty() {
                self.post.tell(core, Happening::Refused(unknown, Fault::Name));
            }
            if !known.is_empty() {
                self.asked(Piece { core, begins, names: known }, now);
                pieces += 1;
            }
        }
        pieces
    }

    /// The oldest so many pieces are listened to.
    pub(super) fn heard(&mut self, pieces: usize) {
        for Piece { core, names, .. } in (0..pieces).filter_map(|_| self.pop()).collect::<Vec<_>>()
        {
            if !names.is_empty() {
                self.post.tell(core, Happening::Listening(names));
            }
        }
    }

    /// The oldest so many pieces have to be asked again.
    pub(super) fn again(&mut self, pieces: usize) {
        for piece in (0..pieces).filter_map(|_| self.pop()).collect::<Vec<_>>() {
            self.submit(piece);
        }
    }

    /// The server will not pass on what is published in this subject.
    pub(super) fn refused(&mut self, speech: &Speech, subject: &str) {
        let is_it = |name: &Arc<str>| speech.subjects.to_listen(name).is_ok_and(|it| it == subject);
        let mut refused = Vec::new();
        for piece in self.unacknowledged_pieces() {
            let before = piece.names.len();
            let found: Vec<_> = piece.names.iter().filter(|name| is_it(name)).cloned().collect();
            piece.names.retain(|name| !is_it(name));
            if piece.names.len() < before {
                refused.push((piece.core, found));
                break;
            }
        }
        for (core, names) in refused {
            self.post.tell(core, Happening::Refused(names, Fault::Denied));
        }
    }
}
