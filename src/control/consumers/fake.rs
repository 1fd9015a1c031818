//! A backend for tests: some channels fail, until they do not, and it may be unwell as a whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::doing::Doer;
use crate::control::backend::{Backend, SlowReport, Snapshot};
use crate::control::publishing::Published;
use crate::gateway::api::{
    ApiReply, ApiRequest, BroadcastResult, InfoResult, PublishRequest, PublishResult,
};
use crate::gateway::inspect::{Connection, Found, Search};
use crate::gateway::wire::Error;

/// Channels that begin with `bad` fail with error 100, those with `full` with 111.
#[derive(Default)]
pub(in crate::control) struct Fake {
    /// What was published, by channel.
    pub(super) published: Mutex<Vec<String>>,
    /// Its cores do not answer.
    pub(super) unwell: AtomicBool,
    /// There is no broker.
    pub(super) away: AtomicBool,
    /// Nothing fails any more.
    pub(super) mended: AtomicBool,
}

impl Fake {
    fn publish(&self, channel: &str) -> Result<PublishResult, Error> {
        let fails = !self.mended.load(Ordering::Relaxed);
        match () {
            () if fails && channel.starts_with("bad") => return Err(Error::INTERNAL),
            () if fails && channel.starts_with("full") => return Err(Error::TOO_MANY_REQUESTS),
            () if fails && self.away.load(Ordering::Relaxed) => return Err(Error::INTERNAL),
            () => {}
        }
        self.published.lock().unwrap().push(channel.to_owned());
        Ok(PublishResult::default())
    }

    /// What was published since it was asked last.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.published.lock().unwrap())
    }

    /// It, and who asks it.
    pub(super) fn with_doer() -> (Arc<Self>, Arc<Doer<Self>>) {
        let fake = Arc::new(Self::default());
        (fake.clone(), Arc::new(Doer::new("some".into(), fake, Arc::default())))
    }
}

impl Backend for Fake {
    async fn call(&self, request: ApiRequest) -> Result<ApiReply, Error> {
        match request {
            ApiRequest::Publish(it) => self.publish(&it.channel).map(ApiReply::Publish),
            ApiRequest::Broadcast(it) => {
                let responses = it.channels.iter().map(|channel| self.publish(channel)).collect();
                Ok(ApiReply::Broadcast(BroadcastResult { responses }))
            }
            ApiRequest::Info(_) if self.unwell.load(Ordering::Relaxed) => Err(Error::INTERNAL),
            ApiRequest::Info(_) => Ok(ApiReply::Info(InfoResult { nodes: Vec::new() })),
            _ => Ok(ApiReply::Done),
        }
    }

    fn publish_all(&self, all: Vec<PublishRequest>) -> Vec<Published> {
        let publish = |request: PublishRequest| {
            let (to, published) = oneshot::channel();
            // Whoever asked may have gone.
            let _ = to.send(self.publish(&request.channel));
            published
        };
        all.into_iter().map(publish).collect()
    }

    async fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }

    async fn channels(&self, _: Search) -> Result<Found, Error> {
        Ok(Found::default())
    }

    async fn users(&self, _: Search) -> Result<Found, Error> {
        Ok(Found::default())
    }

    async fn user(&self, _: String, _: usize) -> Result<Vec<Connection>, Error> {
        Ok(Vec::new())
    }

    async fn slow(&self, _: usize) -> SlowReport {
        SlowReport::default()
    }

    fn draining(&self) -> bool {
        false
    }

    fn broken(&self) -> Option<String> {
        self.away.load(Ordering::Relaxed).then(|| "away".to_owned())
    }
}
