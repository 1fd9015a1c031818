//! From a request to what becomes of the message that holds it, and whom a failure is to blame on.
//!
//! Owns what a consumer counts and logs of its messages. The invariants: a message whose failure
//! may have another reason than itself is never given up, and keeps its place before those behind
//! it; it loses that place only once the server is well and one behind it has come through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::message::PassedOver;
use crate::control::api::{Api, ApiConfig};
use crate::control::backend::Backend;
use crate::control::counts::Counts;
use crate::gateway::api::{ApiReply, ApiRequest, InfoRequest};
use crate::gateway::wire::Error;

/// Does what messages of one consumer ask for.
pub(super) struct Doer<B> {
    api: Arc<Api<B>>,
    backend: Arc<B>,
    counts: Arc<Counts>,
    /// The consumer's.
    name: Arc<str>,
    /// The second in which a message was logged last, since the beginning.
    told: AtomicU64,
    began: Instant,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// It was dealt with.
    Done,
    /// It can never be.
    PassedOver(PassedOver),
    /// It has to be tried again.
    Again(Rest),
}

/// What is left to be done of a message after a failure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rest {
    /// All of it, or the channels that failed.
    pub(super) request: Box<ApiRequest>,
    /// Whether the message itself may be the reason. Not if there was too much else to do.
    pub(super) doubtful: bool,
}

impl<B: Backend> Doer<B> {
    pub(super) fn new(name: Arc<str>, backend: Arc<B>, counts: Arc<Counts>) -> Self {
        let api = Api::new(backend.clone(), ApiConfig::default(), counts.clone());
        let api = Arc::new(api);
        Self { api, backend, counts, name, told: AtomicU64::new(0), began: Instant::now() }
    }

    /// Does what a message asks for.
    pub(super) async fn attempt(&self, request: Result<Box<ApiRequest>, PassedOver>) -> Fate {
        let request = match request {
            Ok(request) => request,
            Err(why) => return Fate::PassedOver(why),
        };
        match self.api.call((*request).clone()).await {
            Err(error) if passes(&error) => {
                Fate::Again(Rest { request, doubtful: is_doubtful(&error) })
            }
            Err(_) => Fate::PassedOver(PassedOver::Refused),
            Ok(ApiReply::Broadcast(it)) => rest_of(*request, &it.responses),
            Ok(_) => Fate::Done,
        }
    }

    /// Whether the server could do what it is asked for now: its cores answer, and the broker is
    /// there.
    async fn is_well(&self) -> bool {
        if self.backend.broken().is_some() {
            return false;
        }
        let info = self.backend.call(ApiRequest::Info(InfoRequest));
        tokio::time::timeout(ANSWER, info).await.is_ok_and(|answer| answer.is_ok())
    }

    /// Whether the server goes away.
    pub(super) fn draining(&self) -> bool {
        self.backend.draining()
    }

    /// A message was dealt with.
    pub(super) fn done(&self) {
        self.counts.consumed(&self.name);
    }

    /// A message can never be dealt with.
    pub(super) fn passed_over(&self, place: &str, id: &str, why: &'static str) {
        self.failed(why);
        if self.may_tell() {
            let consumer = &self.name;
            tracing::warn!(%consumer, place, id, why, "a message was passed over");
        }
    }

    /// A message has to be tried again, in its place.
    fn waits(&self, place: &str, id: &str) {
        self.failed("retried");
        if self.may_tell() {
            let consumer = &self.name;
            tracing::warn!(%consumer, place, id, "a message fails, and those behind it wait");
        }
    }

    /// A message has to be tried again, behind others.
    pub(super) fn put_off(&self, place: &str, id: &str) {
        self.failed("put_off");
        if self.may_tell() {
            let consumer = &self.name;
            tracing::warn!(%consumer, place, id, "a message is tried again later");
        }
    }

    /// Something else went wrong.
    pub(super) fn gone(&self, place: &str, why: &'static str, error: &dyn std::fmt::Display) {
        self.failed(why);
        let consumer = &self.name;
        tracing::warn!(%consumer, place, %error, "a consumer cannot read");
    }

    fn failed(&self, why: &'static str) {
        self.counts.consumer_failed(&self.name, why);
    }

    /// One message a second is logged, all are counted.
    fn may_tell(&self) -> bool {
        let second = self.began.elapsed().as_secs() + 1;
        self.told.swap(second, Ordering::Relaxed) != second
    }
}

/// Errors that go by.
fn passes(error: &Error) -> bool {
    is_doubtful(error) || error.temporary
}

/// Those of which nobody says why.
fn is_doubtful(error: &Error) -> bool {
    error.code == Error::INTERNAL.code
}

/// What of a broadcast is left: channels that failed, so that the others do not get it twice.
fn rest_of<T>(request: ApiRequest, responses: &[Result<T, Error>]) -> Fate {
    let failed = |one: &Result<T, Error>| one.as_ref().err().filter(|error| passes(error)).cloned();
    let failures: Vec<_> = responses.iter().map(failed).collect();
    let ApiRequest::Broadcast(mut broadcast) = request else { return Fate::Done };
    let mut errors = failures.iter();
    broadcast.channels.retain(|_| errors.next().is_some_and(Option::is_some));
    if broadcast.channels.is_empty() {
        return Fate::Done;
    }
    let doubtful = failures.iter().flatten().all(is_doubtful);
    Fate::Again(Rest { request: Box::new(ApiRequest::Broadcast(broadcast)), doubtful })
}

/// With a message that fails: how long before it is tried again, and when it is suspected.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience {
    tries: u32,
    doubts: u32,
}

impl Patience {
    /// With a message that was suspected before.
    pub(super) fn spent() -> Self {
        Self { tries: 0, doubts: DOUBTS_MAX }
    }

    /// After a try that failed. Whether the message is suspected: it is given up for now if one
    /// behind it comes through.
    pub(super) async fn fails<B: Backend>(
        &mut self,
        doer: &Doer<B>,
        (place, id): (&str, &str),
        doubtful: bool,
    ) -> bool {
        doer.waits(place, id);
        self.tries = self.tries.saturating_add(1);
        if !doubtful || !doer.is_well().await {
            self.doubts = self.doubts.min(DOUBTS_MAX / 2);
            return false;
        }
        self.doubts = self.doubts.saturating_add(1);
        self.doubts > DOUBTS_MAX
    }

    /// Before the next try.
    pub(super) fn pause(&self) -> Duration {
        pause(self.tries)
    }
}

/// Before the next try, after so many.
pub(super) fn pause(tries: u32) -> Duration {
    PAUSE_MAX.min(PAUSE * 2_u32.saturating_pow(tries.min(16)))
}

/// Tries of a message on a server that is well before it is suspected: half a minute.
const DOUBTS_MAX: u32 = 20;

/// For cores to say that they live.
const ANSWER: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;
    use crate::gateway::api::BroadcastRequest;

    /// Tries until a message is suspected, at most so many.
    async fn suspected(
        patience: &mut Patience,
        doer: &Doer<Fake>,
        doubtful: bool,
        most: u32,
    ) -> Option<u32> {
        for tries in 1..=most {
            if patience.fails(doer, ("here", "1"), doubtful).await {
                return Some(tries);
            }
        }
        None
    }

    #[tokio::test]
    async fn a_message_is_suspected_only_while_the_server_is_well() {
        let (fake, doer) = Fake::with_doer();
        let mut patience = Patience::default();
        let first = suspected(&mut patience, &doer, true, 100).await;
        assert_eq!(first, Some(DOUBTS_MAX + 1));
        assert_eq!(suspected(&mut patience, &doer, true, 100).await, Some(1));
        assert_eq!(suspected(&mut Patience::spent(), &doer, true, 9).await, Some(1));
        // There was too much else to do.
        assert_eq!(suspected(&mut Patience::default(), &doer, false, 100).await, None);
        for why in [&fake.unwell, &fake.away] {
            why.store(true, Ordering::Relaxed);
            assert_eq!(suspected(&mut patience, &doer, true, 100).await, None);
            why.store(false, Ordering::Relaxed);
            // What failed while it was not well says nothing about the time after.
            let after = suspected(&mut patience, &doer, true, 100).await;
            assert!(after.is_some_and(|tries| tries > DOUBTS_MAX / 2), "{after:?}");
        }
        assert_eq!(patience.pause(), PAUSE_MAX);
    }

    #[test]
    fn pauses_grow_and_end() {
        assert_eq!(pause(0), PAUSE);
        assert_eq!(pause(1), 2 * PAUSE);
        assert_eq!((pause(16), pause(u32::MAX)), (PAUSE_MAX, PAUSE_MAX));
        let all: Duration = (1..=DOUBTS_MAX).map(pause).sum();
        assert!(all > Duration::from_secs(20) && all < Duration::from_secs(40), "{all:?}");
    }

    #[test]
    fn of_a_broadcast_only_what_failed_is_left() {
        let broadcast = |channels: &[&str]| {
            let channels = channels.iter().map(|name| (*name).to_owned()).collect();
            ApiRequest::Broadcast(BroadcastRequest { channels, ..BroadcastRequest::default() })
        };
        let all = || broadcast(&["a", "b", "c"]);
        let again = |channels: &[&str], doubtful| {
            Fate::Again(Rest { request: Box::new(broadcast(channels)), doubtful })
        };
        let (away, full) = (Err(Error::INTERNAL), Err(Error::TOO_MANY_REQUESTS));
        let never = Err(Error::UNKNOWN_CHANNEL);
        assert_eq!(rest_of(all(), &[Ok(()), Ok(()), Ok(())]), Fate::Done);
        assert_eq!(rest_of(all(), &[Ok(()), never.clone(), Ok(())]), Fate::Done);
        assert_eq!(rest_of(all(), &[Ok(()), away.clone(), never]), again(&["b"], true));
        assert_eq!(rest_of(all(), &[away, Ok(()), full]), again(&["a", "c"], false));
    }
}
