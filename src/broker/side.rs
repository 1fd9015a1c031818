//! One of the two connections to a server through its lives: waiting for the next attempt, being
//! made, being there.
//!
//! Owns when the next attempt is made: at once after a connection that had lasted, else after 50 ms
//! and twice as long each time up to 2 s, at random between half of it and the whole, so that nodes
//! do not come back in step.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::dial::{DialError, Identity, Purpose, dial};
use super::link::{Link, Lost};
use super::target::Target;
use crate::common::rng::Rng;

/// An attempt to make a connection.
pub(super) type Dialling = Pin<Box<dyn Future<Output = Result<(Link, Identity), DialError>>>>;

/// See the module's text.
pub(super) struct Side {
    attempt: Box<dyn Fn() -> Dialling>,
    state: State,
    /// Attempts in a row that failed.
    failures: u32,
    rng: Rng,
}

enum State {
    /// There will never be one.
    Unwanted,
    Waiting(Pin<Box<Sleep>>),
    Dialling(Dialling),
    Up(Box<Up>),
}

/// A connection that is there.
pub(super) struct Up {
    /// It.
    pub(super) link: Link,
    /// To whom.
    pub(super) identity: Identity,
    since: Instant,
}

/// What has become of a connection.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// It is there.
    Made(Identity),
    /// The attempt has failed.
    Failed(DialError),
    /// Something was received.
    Received,
    /// It is lost.
    Lost(Lost),
}

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A connection that did not last so long counts as a failure.
const LASTING: Duration = Duration::from_secs(1);

impl Side {
    /// Not connected; the first attempt is made at once.
    pub(super) fn new(target: Rc<Target>, purpose: Purpose) -> Self {
        Self::by(move || {
            let target = target.clone();
            Box::pin(async move { dial(&target, purpose).await })
        })
    }

    /// The same, whatever an attempt is.
    pub(super) fn by(attempt: impl Fn() -> Dialling + 'static) -> Self {
        let state = State::Dialling(attempt());
        Self { attempt: Box::new(attempt), state, failures: 0, rng: Rng::from_entropy() }
    }

    /// None, for who needs only the other one.
    pub(super) fn unwanted() -> Self {
        let never = || Box::pin(std::future::pending()) as Dialling;
        Self { state: State::Unwanted, ..Self::by(never) }
    }

    /// The connection, if it is there.
    pub(super) fn up(&mut self) -> Option<&mut Up> {
        match &mut self.state {
            State::Up(up) => Some(up),
            _ => None,
        }
    }

    /// To whom, if it is there.
    pub(super) fn identity(&self) -> Option<&Identity> {
        match &self.state {
            State::Up(up) => Some(&up.identity),
            _ => None,
        }
    }

    /// Goes on; ready when something has happened that others have to know.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        loop {
            match &mut self.state {
                State::Unwanted => return Poll::Pending,
                State::Waiting(pause) => {
                    ready!(pause.as_mut().poll(cx));
                    self.state = State::Dialling((self.attempt)());
                }
                State::Dialling(attempt) => {
                    return Poll::Ready(match ready!(attempt.as_mut().poll(cx)) {
                        Ok((link, identity)) => {
                            let told = identity.clone();
                            let up = Up { link, identity, since: Instant::now() };
                            self.state = State::Up(Box::new(up));
                            LinkEvent::Made(told)
                        }
                        Err(error) => {
                            self.failures += 1;
                            self.pause();
                            LinkEvent::Failed(error)
                        }
                    });
                }
                State::Up(up) => {
                    return Poll::Ready(match ready!(up.link.poll_exchange(cx)) {
                        Ok(()) => LinkEvent::Received,
                        Err(lost) => {
                            self.drop_link();
                            LinkEvent::Lost(lost)
                        }
                    });
                }
            }
        }
    }

    /// Gives the connection up, and sees to the next.
    pub(super) fn drop_link(&mut self) {
        let State::Up(up) = &self.state else { return };
        self.failures = if up.since.elapsed() < LASTING { self.failures + 1 } else { 0 };
        match self.failures {
            0 => self.state = State::Dialling((self.attempt)()),
            _ => self.pause(),
        }
    }

    /// The next attempt is made at once, in place of one that is under way or waited for: it would
    /// lead elsewhere.
    pub(super) fn hurry(&mut self) {
        if !matches!(self.state, State::Up(_) | State::Unwanted) {
            self.failures = 0;
            self.state = State::Dialling((self.attempt)());
        }
    }

    fn pause(&mut self) {
        let doubled = PAUSE_MIN.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        let half = doubled.min(PAUSE_MAX) / 2;
        let more = half.mul_f64(f64::from(self.rng.below(1 << 16)) / f64::from(1 << 16));
        self.state = State::Waiting(Box::pin(tokio::time::sleep(half + more)));
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Unwanted => "unwanted",
            State::Waiting(_) => "waiting",
            State::Dialling(_) => "dialling",
            State::Up(_) => "up",
        };
        f.debug_struct("Side").field("state", &state).field("failures", &self.failures).finish()
    }
}
