//! Fetches a set of public keys (JWKS) and keeps the last good one.
//!
//! Tokens are verified on engine threads, which must not wait: they look at the last set and, when
//! a token names a key that is not in it, ask for a new one. However often they ask, and however
//! often the endpoint fails, it is called at most once per interval.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::counts::Counts;
use super::outgoing;

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksConfig {
    /// URL of the set.
    pub url: String,
    /// Time for the whole answer. Default 5 s.
    pub timeout: Duration,
    /// Bytes of the answer; a longer one counts as a failure. Default 1 MiB.
    pub bytes_max: usize,
    /// Shortest time between two fetches. Default 10 s.
    pub interval: Duration,
    /// Longest time between two fetches, so that withdrawn keys are forgotten. Default 1 h.
    pub refresh: Duration,
}

impl Default for JwksConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            timeout: Duration::from_secs(5),
            bytes_max: 1 << 20,
            interval: Duration::from_secs(10),
            refresh: Duration::from_secs(3600),
        }
    }
}

/// The set as engine threads see it. `T` is what the set is parsed into.
#[derive(Debug)]
pub struct JwksView<T> {
    current: watch::Receiver<Option<Arc<T>>>,
    wanted: Arc<Notify>,
}

impl<T> Clone for JwksView<T> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), wanted: self.wanted.clone() }
    }
}

impl<T> JwksView<T> {
    /// The last good set; `None` until there was one. Cheap, never waits.
    pub fn current(&self) -> Option<Arc<T>> {
        self.current.borrow().clone()
    }

    /// Asks for a new set, because of a key that is not in the current one. Never waits.
    pub fn ask(&self) {
        self.wanted.notify_one();
    }

    /// Waits for the next set, on a runtime. False: the fetcher has ended.
    pub async fn changed(&mut self) -> bool {
        self.current.changed().await.is_ok()
    }
}

/// The fetcher, for the control thread.
pub struct Jwks<T> {
    config: JwksConfig,
    client: reqwest::Client,
    parse: Box<Parse<T>>,
    current: watch::Sender<Option<Arc<T>>>,
    wanted: Arc<Notify>,
    counts: Arc<Counts>,
}

type Parse<T> = dyn Fn(&[u8]) -> Result<T, String> + Send + Sync;

impl<T> std::fmt::Debug for Jwks<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwks").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Jwks<T> {
    /// `parse` makes a set of the endpoint's answer; what it refuses counts as a failure.
    pub fn new(
        config: JwksConfig,
        parse: impl Fn(&[u8]) -> Result<T, String> + Send + Sync + 'static,
        counts: Arc<Counts>,
    ) -> Result<(Self, JwksView<T>), reqwest::Error> {
        let secure = config.url.trim_start().to_ascii_lowercase().starts_with("https:");
        let client = outgoing::client(secure).timeout(config.timeout).build()?;
        let (current, seen) = watch::channel(None);
        let wanted = Arc::new(Notify::new());
        let view = JwksView { current: seen, wanted: wanted.clone() };
        Ok((Self { config, client, parse: Box::new(parse), current, wanted, counts }, view))
    }

    /// Where they are fetched.
    pub fn url(&self) -> &str {
        &self.config.url
    }

    /// Fetches at once, then when asked and from time to time. Ends when nobody looks any more.
    pub async fn run(self) {
        loop {
            let fetched = Instant::now();
            let good = match self.fetch().await {
                Ok(set) => {
                    self.counts.jwks_fetched.count();
                    self.current.send_replace(Some(Arc::new(set)));
                    true
                }
                Err(error) => {
                    self.counts.jwks_failed.count();
                    tracing::warn!(error, "fetching token keys failed; the last ones stay");
                    false
                }
            };
            let ended = tokio::select! {
                () = self.current.closed() => true,
                () = sleep_until(fetched + self.config.interval) => false,
            };
            if ended {
                return;
            }
            // After a failure there is no need to be asked.
            if good {
                tokio::select! {
                    () = self.current.closed() => return,
                    () = self.wanted.notified() => {}
                    () = sleep_until(fetched + self.config.refresh.max(self.config.interval)) => {}
                }
            }
        }
    }

    async fn fetch(&self) -> Result<T, String> {
        let text = |error: reqwest::Error| error.without_url().to_string();
        let request = self.client.get(&self.config.url);
        let mut answer = request.send().await.map_err(text)?;
        if !answer.status().is_success() {
            return Err(format!("status {}", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(text)? {
            if piece.len() > self.config.bytes_max - body.len() {
                return Err(format!("more than {} bytes", self.config.bytes_max));
            }
            body.extend_from_slice(&piece);
        }
        (self.parse)(&body)
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
