//! Calls the application's backend: the hooks of `crate::gateway::proxy`, over HTTP.
//!
//! Every call ends: by its answer, by the proxy's timeout (waiting for its turn included), or at
//! once where too many wait already. Whatever happens, the caller gets a [`HookResult`]; why is
//! counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{Semaphore, mpsc};

use super::counts::Counts;
use crate::gateway::proxy::{
    ClientHeaders, HookFailure, HookKind, HookRefusal, HookReply, HookRequest, HookResult,
};
use crate::gateway::wire::Error;

/// Where questions of one kind go, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct HookConfig {
    /// URL: `http://` or `https://`.
    pub endpoint: String,
    /// From the question to the end of its answer. Default 1 s.
    pub timeout: Duration,
    /// Questions under way at once. Default 512.
    pub concurrency: usize,
    /// Questions that may wait for their turn; one more fails at once. Default 4096.
    pub queue: usize,
    /// Bytes of an answer; a longer one is no answer. Default 1 MiB.
    pub reply_max: usize,
    /// Names of request headers of the client that are passed on.
    pub http_headers: Vec<String>,
    /// Names of headers in the client's connect command that are passed on, where the client has
    /// no request header of that name that is.
    pub emulated_headers: Vec<String>,
    /// Headers of every question. The client's, if passed on, replace them.
    pub static_headers: BTreeMap<String, String>,
    /// Payloads travel as Base64.
    pub binary_encoding: bool,
    /// The connection's `meta` goes along.
    pub include_connection_meta: bool,
}

impl Default for HookConfig {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            timeout: Duration::from_secs(1),
            concurrency: 512,
            queue: 4096,
            reply_max: 1 << 20,
            http_headers: Vec::new(),
            emulated_headers: Vec::new(),
            static_headers: BTreeMap::new(),
            binary_encoding: false,
            include_connection_meta: false,
        }
    }
}

/// Why hooks cannot be called.
#[derive(Debug)]
pub enum HooksError {
    /// The endpoint of a hook is not a URL of HTTP.
    Endpoint(HookKind, String),
    /// A header of a hook is none, or belongs to the connection itself.
    Header(HookKind, String),
    /// The HTTP client cannot be made.
    Client(reqwest::Error),
}

impl std::fmt::Display for HooksError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(kind, url) => write!(
                f,
                "{} proxy: the endpoint must be an http:// or https:// URL, not {url:?}",
                kind.name()
            ),
            Self::Header(kind, name) => {
                write!(f, "{} proxy: {name:?} cannot be passed on as a header", kind.name())
            }
            Self::Client(error) => write!(f, "the HTTP client for proxies: {error}"),
        }
    }
}

impl std::error::Error for HooksError {}

/// All configured hooks.
pub struct Hooks {
    client: reqwest::Client,
    targets: HashMap<(HookKind, String), Target>,
    counts: Arc<Counts>,
}

struct Target {
    config: HookConfig,
    url: reqwest::Url,
    turns: Semaphore,
    /// Questions that wait for their turn.
    waiting: AtomicUsize,
    http_headers: Vec<HeaderName>,
    emulated_headers: Vec<HeaderName>,
    static_headers: HeaderMap,
}

impl Hooks {
    /// Hooks by kind and name; the usual name is `default`.
    pub fn new(
        targets: impl IntoIterator<Item = (HookKind, String, HookConfig)>,
        counts: Arc<Counts>,
    ) -> Result<Self, HooksError> {
        let client = reqwest::Client::builder()
            // A backend that moves the question elsewhere would get the client's cookies there.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(HooksError::Client)?;
        let targets = targets
            .into_iter()
            .map(|(kind, name, config)| Ok(((kind, name), Target::new(kind, config)?)));
        Ok(Self { client, targets: targets.collect::<Result<_, _>>()?, counts })
    }

    /// Asks the backend.
    pub async fn call(&self, request: HookRequest) -> HookResult {
        let kind = request.kind();
        let _inside = self.counts.hooks_in_flight.enter();
        let started = Instant::now();
        let outcome = match self.targets.get(&(kind, request.proxy.to_string())) {
            Some(target) => target.ask(&self.client, &request).await,
            None => Err(Failed::new(HookFailure::NotConfigured, "no such proxy")),
        };
        let failure = outcome.as_ref().err().map(|failed| failed.why);
        self.counts.hook_call(kind, started.elapsed(), failure);
        outcome.unwrap_or_else(|failed| {
            let Failed { why, detail } = failed;
            tracing::warn!(hook = kind.name(), why = why.name(), detail, "a hook failed");
            match why {
                HookFailure::NotJson => Err(HookRefusal::Error(Error::BAD_REQUEST)),
                HookFailure::NotConfigured => Err(HookRefusal::Error(Error::NOT_AVAILABLE)),
                _ => HookReply::without_answer(kind, unix_seconds()),
            }
        })
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.targets.keys()).finish()
    }
}

struct Failed {
    why: HookFailure,
    detail: String,
}

impl Failed {
    fn new(why: HookFailure, detail: impl Into<String>) -> Self {
        Self { why, detail: detail.into() }
    }

    /// The URL is left out: it may hold a password.
    fn of_client(error: reqwest::Error) -> Self {
        let why = if error.is_timeout() { HookFailure::Timeout } else { HookFailure::Unreachable };
        Self::new(why, error.without_url().to_string())
    }
}

impl Target {
    fn new(kind: HookKind, config: HookConfig) -> Result<Self, HooksError> {
        let url = reqwest::Url::parse(&config.endpoint).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| HooksError::Endpoint(kind, config.endpoint.clone()))?;
        let name = |name: &String| {
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
            let ours = |name: &HeaderName| OURS.contains(&name.as_str());
            parsed.filter(|name| !ours(name)).ok_or(HooksError::Header(kind, name.clone()))
        };
        let mut static_headers = HeaderMap::new();
        for (key, value) in &config.static_headers {
            let value =
                HeaderValue::from_str(value).map_err(|_| HooksError::Header(kind, key.clone()))?;
            static_headers.insert(name(key)?, value);
        }
        Ok(Self {
            http_headers: config.http_headers.iter().map(name).collect::<Result<_, _>>()?,
            emulated_headers: config.emulated_headers.iter().map(name).collect::<Result<_, _>>()?,
            static_headers,
            turns: Semaphore::new(config.concurrency.clamp(1, Semaphore::MAX_PERMITS)),
            waiting: AtomicUsize::new(0),
            url,
            config,
        })
    }

    async fn ask(
        &self,
        client: &reqwest::Client,
        request: &HookRequest,
    ) -> Result<HookResult, Failed> {
        let body = request
            .body(self.config.binary_encoding, self.config.include_connection_meta)
            .map_err(|_| Failed::new(HookFailure::NotJson, "payload"))?;
        let headers = self.headers(&request.caller.headers);
        let exchange = async {
            let _turn = self.turn().await?;
            let question = client.post(self.url.clone()).headers(headers).body(body);
            let mut answer = question.send().await.map_err(Failed::of_client)?;
            if answer.status() != 200 {
                return Err(Failed::new(HookFailure::Status, answer.status().as_str()));
            }
            let mut text = Vec::new();
            while let Some(piece) = answer.chunk().await.map_err(Failed::of_client)? {
                if piece.len() > self.config.reply_max - text.len() {
                    return Err(Failed::new(HookFailure::BadReply, "too large"));
                }
                text.extend_from_slice(&piece);
            }
            HookReply::decode(request.kind(), &text)
                .map_err(|error| Failed::new(HookFailure::BadReply, error.to_string()))
        };
        match tokio::time::timeout(self.config.timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failed::new(HookFailure::Timeout, "no answer in time")),
        }
    }

    /// Waits for one of the places, if there is room to wait.
    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Failed> {
        let overloaded = || Failed::new(HookFailure::Overloaded, "too many wait");
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        let _waiting = Waiting::enter(&self.waiting, self.config.queue).ok_or_else(overloaded)?;
        // The semaphore is never closed.
        self.turns.acquire().await.map_err(|_| overloaded())
    }

    /// Static headers, replaced by emulated ones, replaced by those of the transport.
    fn headers(&self, client: &ClientHeaders) -> HeaderMap {
        let mut all = self.static_headers.clone();
        replace(&mut all, &client.emulated, &self.emulated_headers);
        replace(&mut all, &client.transport, &self.http_headers);
        all.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        all
    }
}

/// Takes those of the given headers that are listed. A value that is none is left out.
fn replace(all: &mut HeaderMap, given: &[(String, String)], listed: &[HeaderName]) {
    let mut taken = HeaderMap::new();
    for (name, value) in given {
        let Some(name) = listed.iter().find(|listed| listed.as_str().eq_ignore_ascii_case(name))
        else {
            continue;
        };
        if let Ok(value) = HeaderValue::from_str(value) {
            taken.append(name, value);
        }
    }
    for name in taken.keys() {
        all.remove(name);
    }
    all.extend(taken);
}

/// A place in a queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize, room: usize) -> Option<Self> {
        let place = Self(waiting);
        // Undone by the drop where there was no room.
        (waiting.fetch_add(1, Ordering::Relaxed) < room).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A way to hooks for engine threads: it never waits. `T` is what the asker recognises its question
/// by.
#[derive(Debug)]
pub struct HookSender<T> {
    questions: mpsc::Sender<(HookRequest, T)>,
    counts: Arc<Counts>,
}

impl<T> Clone for HookSender<T> {
    fn clone(&self) -> Self {
        Self { questions: self.questions.clone(), counts: self.counts.clone() }
    }
}

impl<T> HookSender<T> {
    /// Hands a question over. The error gives it back: the queue is full, or the control plane has
    /// ended. Then [`HookReply::without_answer`] says what to do.
    pub fn try_call(&self, request: HookRequest, ticket: T) -> Result<(), Box<(HookRequest, T)>> {
        self.questions.try_send((request, ticket)).map_err(|error| {
            self.counts.hooks_queue_full.count();
            Box::new(error.into_inner())
        })
    }
}

/// The other end of [`HookSender`], for the control thread.
#[derive(Debug)]
pub struct HookQueue<T> {
    questions: mpsc::Receiver<(HookRequest, T)>,
}

/// A queue of at most `capacity` questions between engine threads and the control thread.
pub fn hook_queue<T>(capacity: usize, counts: Arc<Counts>) -> (HookSender<T>, HookQueue<T>) {
    let (sender, questions) = mpsc::channel(capacity.max(1));
    (HookSender { questions: sender, counts }, HookQueue { questions })
}

impl<T: Send + 'static> HookQueue<T> {
    /// Asks the backend what comes in, and passes each outcome to `reply`, on the control thread.
    /// Ends when all senders are gone.
    pub async fn run(
        mut self,
        hooks: Arc<Hooks>,
        reply: impl Fn(T, HookResult) + Send + Sync + 'static,
    ) {
        let reply = Arc::new(reply);
        while let Some((request, ticket)) = self.questions.recv().await {
            let (hooks, reply) = (hooks.clone(), reply.clone());
            // Their number is bounded: what neither runs nor may wait fails in its first poll.
            tokio::spawn(async move {
                let outcome = hooks.call(request).await;
                reply(ticket, outcome);
            });
        }
    }
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().try_into().unwrap_or(i64::MAX)
}

/// Headers that belong to our own connection to the backend.
const OURS: [&str; 12] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "sec-websocket-key",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
