//! Calls the application's backend: the hooks of `crate::gateway::hooks`, over HTTP or gRPC.
//!
//! Every call ends: by its answer, by the proxy's timeout (waiting for its turn included), or at
//! once where too many wait already, or too much. Whatever happens, the caller gets a
//! [`HookResult`], unless it has gone; why is counted. Each proxy has turns, room and bytes of its
//! own, so one whose backend hangs delays no other; turns go round between connections.

mod feeds;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{Semaphore, mpsc};

use super::counts::Counts;
use super::grpc::GrpcBackend;
use super::outgoing::is_grpc;
use super::outgoing::{self, Certificates};
use super::turns::{Line, Turns};
use crate::gateway::account::{Budget, Held};
use crate::gateway::hooks::DEFAULT_PROXY;
use crate::gateway::hooks::{
    Asking, BadReply, ClientHeaders, FeedId, FeedNews, HookFailure, HookKind, HookRefusal,
    HookReply, HookRequest, HookResult,
};
use crate::gateway::wire::Error;
use crate::options::without_credentials;
use feeds::{Feeds, Opening, Word};

/// Where questions of one kind go, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct HookConfig {
    /// URL: `http://` or `https://`; or of gRPC, `grpc://host:port`, also without the scheme.
    pub endpoint: String,
    /// From the question to the end of its answer. Default 1 s.
    pub timeout: Duration,
    /// Questions under way at once. Default 512.
    pub concurrency: usize,
    /// Questions that may wait for their turn; one more fails at once. Default 4096.
    pub queue: usize,
    /// Bytes of questions and answers under way; more fails at once. Default 32 MiB.
    pub max_memory: usize,
    /// Bytes of an answer; a longer one is no answer. Default 1 MiB.
    pub reply_max: usize,
    /// Streams of subscriptions that are open at once; a subscription more fails. 0 where nothing
    /// asks for any.
    pub max_streams: usize,
    /// Names of request headers of the client that are passed on.
    pub http_headers: Vec<String>,
    /// Names of headers in the client's connect command that are passed on, where the client has
    /// no request header of that name that is.
    pub emulated_headers: Vec<String>,
    /// Headers of every question, over gRPC its metadata. The client's, if passed on, replace them.
    pub static_headers: BTreeMap<String, String>,
    /// Payloads travel as Base64.
    pub binary_encoding: bool,
    /// The connection's `meta` goes along.
    pub include_connection_meta: bool,
    /// What a status other than 200 means. The first that fits holds; without one, it is no answer.
    pub statuses: Vec<(u16, HookRefusal)>,
    /// Certificates, where those of the host's authorities are not what counts.
    pub tls: Option<Certificates>,
}

/// Which questions a target is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookTarget {
    /// Those of this kind that name no other.
    Default(HookKind),
    /// All that name it.
    Named(String),
}

impl std::fmt::Display for HookTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default(kind) => write!(f, "{} proxy", kind.name()),
            Self::Named(name) => write!(f, "proxy {name}"),
        }
    }
}

impl Default for HookConfig {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            timeout: Duration::from_secs(1),
            concurrency: 512,
            queue: 4096,
            max_memory: 32 << 20,
            reply_max: 1 << 20,
            max_streams: 0,
            http_headers: Vec::new(),
            emulated_headers: Vec::new(),
            static_headers: BTreeMap::new(),
            binary_encoding: false,
            include_connection_meta: false,
            statuses: Vec::new(),
            tls: None,
        }
    }
}

/// Why hooks cannot be called.
#[derive(Debug)]
pub enum HooksError {
    /// The endpoint of a hook is neither a URL of HTTP nor one of gRPC.
    Endpoint(HookTarget, String),
    /// A header of a hook is none, or belongs to the connection itself.
    Header(HookTarget, String),
    /// Keys and certificates of a hook are not what they should be.
    Certificates(HookTarget, String),
    /// The HTTP client cannot be made.
    Client(reqwest::Error),
}

impl std::fmt::Display for HooksError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(target, url) => write!(
                f,
                "{target}: the endpoint must be an http://, https:// or grpc:// URL, not {:?}",
                without_credentials(url)
            ),
            Self::Header(target, name) => {
                write!(f, "{target}: {name:?} cannot be passed on as a header")
            }
            Self::Certificates(target, what) => write!(f, "{target}: {what}"),
            Self::Client(error) => write!(f, "the client of proxies: {}", outgoing::explain(error)),
        }
    }
}

impl std::error::Error for HooksError {}

/// All configured hooks.
pub struct Hooks {
    client: reqwest::Client,
    targets: HashMap<HookKind, Target>,
    named: HashMap<String, Target>,
    counts: Arc<Counts>,
}

struct Target {
    config: HookConfig,
    to: To,
    turns: Arc<Turns>,
    /// Questions under way.
    number: Arc<Budget>,
    /// Bytes of theirs.
    memory: Arc<Budget>,
    /// Streams of subscriptions that are open.
    feeds: Arc<Budget>,
    /// Bytes that wait for the backend to take them from such streams.
    feeds_out: Arc<Budget>,
    /// Units of [`feeds::UNIT`] bytes for what it has sent there and sessions have not got yet.
    feeds_in: Arc<Semaphore>,
    feeds_in_units: usize,
    http_headers: Vec<HeaderName>,
    emulated_headers: Vec<HeaderName>,
    static_headers: HeaderMap,
}

/// Where a target's questions go.
enum To {
    /// With a client of its own where it does not do with the one that all share.
    Http(reqwest::Url, Option<reqwest::Client>),
    Grpc(Box<GrpcBackend>),
}

impl Hooks {
    /// Hooks by kind, and those with a name.
    pub fn new(
        targets: impl IntoIterator<Item = (HookTarget, HookConfig)>,
        counts: Arc<Counts>,
    ) -> Result<Self, HooksError> {
        let (mut of_kind, mut named) = (HashMap::new(), HashMap::new());
        for (key, config) in targets {
            let target = Target::new(&key, config)?;
            match key {
                HookTarget::Default(kind) => drop(of_kind.insert(kind, target)),
                HookTarget::Named(name) => drop(named.insert(name, target)),
            }
        }
        let mut every = of_kind.values().chain(named.values());
        let secure = every.any(|target: &Target| match &target.to {
            To::Http(url, client) => client.is_none() && url.scheme() == "https",
            To::Grpc(_) => false,
        });
        // A backend that moved a question elsewhere would get the client's cookies there.
        let client = outgoing::client(secure).build().map_err(HooksError::Client)?;
        Ok(Self { client, targets: of_kind, named, counts })
    }

    fn target(&self, request: &HookRequest) -> Option<&Target> {
        self.named(request.kind(), &request.proxy)
    }

    fn named(&self, kind: HookKind, proxy: &str) -> Option<&Target> {
        match proxy {
            DEFAULT_PROXY => self.targets.get(&kind),
            name => self.named.get(name),
        }
    }

    /// Room for a question and what goes with it. `None`: there is none.
    fn room(&self, request: &HookRequest, more: usize) -> Option<Room> {
        // Without a target it fails at once.
        let Some(target) = self.target(request) else { return Some(Room::default()) };
        let number = target.number.take(1)?;
        let memory = target.memory.take(request.cost() + more)?;
        let feed = request.feed().map(|_| {
            let place = target.feeds.take(1);
            if place.is_none() {
                self.counts.feeds_full.count();
            }
            place
        });
        let feed = match feed {
            Some(None) => return None,
            place => place.flatten(),
        };
        Some(Room { held: Some((number, memory)), feed })
    }

    /// Gets in line for a question.
    fn line_up(&self, request: &HookRequest) -> Option<Line> {
        self.target(request).map(|target| target.turns.line_up(request.from))
    }

    /// A connection has gone: what it has waiting is not asked.
    fn forget(&self, asking: Asking) {
        for target in self.targets.values().chain(self.named.values()) {
            target.turns.forget(asking);
        }
    }

    /// Asks the backend. `None`: whoever wanted to know has gone.
    async fn call(
        &self,
        request: HookRequest,
        line: Option<Line>,
        room: &mut Room,
        opening: &mut Opening,
    ) -> Option<HookResult> {
        let kind = request.kind();
        let _inside = self.counts.hooks_in_flight.enter();
        let started = Instant::now();
        let outcome = match self.target(&request).zip(line) {
            Some((target, line)) => target.ask(&self.client, request, line, room, opening).await,
            None => Err(Failed::new(HookFailure::NotConfigured, "no such proxy")),
        };
        let outcome = match outcome {
            Ok(None) => return None,
            Ok(Some(outcome)) => Ok(outcome),
            Err(failed) => Err(failed),
        };
        let failure = outcome.as_ref().err().map(|failed| failed.why);
        self.counts.hook_call(kind, started.elapsed(), failure);
        Some(outcome.unwrap_or_else(|failed| {
            let Failed { why, detail } = failed;
            tracing::warn!(hook = kind.name(), why = why.name(), detail, "a hook failed");
            match why {
                HookFailure::NotJson => Err(HookRefusal::Error(Error::BAD_REQUEST)),
                HookFailure::NotConfigured => Err(HookRefusal::Error(Error::NOT_AVAILABLE)),
                _ => HookReply::without_answer(kind, unix_seconds()),
            }
        }))
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.targets.keys()).entries(self.named.keys()).finish()
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

    fn of_reply(error: BadReply) -> Self {
        Self::new(HookFailure::BadReply, error.to_string())
    }

    /// The URL is left out: it may hold a password.
    fn of_client(error: reqwest::Error) -> Self {
        let why = if error.is_timeout() { HookFailure::Timeout } else { HookFailure::Unreachable };
        Self::new(why, error.without_url().to_string())
    }
}

impl To {
    /// What is no URL of HTTP is of gRPC, as for Centrifugo.
    fn new(of: &HookTarget, config: &HookConfig) -> Result<Self, HooksError> {
        let endpoint = || HooksError::Endpoint(of.clone(), config.endpoint.clone());
        let certificates = |what| HooksError::Certificates(of.clone(), what);
        match reqwest::Url::parse(&config.endpoint) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => {
                let own = |tls: &Certificates| {
                    tls.client().map_err(certificates)?.build().map_err(HooksError::Client)
                };
                Ok(Self::Http(url, config.tls.as_ref().map(own).transpose()?))
            }
            _ if !is_grpc(&config.endpoint) => Err(endpoint()),
            _ => match GrpcBackend::new(&config.endpoint, config.tls.as_ref()) {
                Ok(backend) => Ok(Self::Grpc(Box::new(backend))),
                Err(what) => Err(certificates(what)),
            },
        }
    }
}

impl Target {
    fn new(of: &HookTarget, config: HookConfig) -> Result<Self, HooksError> {
        let to = To::new(of, &config)?;
        let grpc = matches!(to, To::Grpc(_));
        let name = |name: &String| {
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
            let ours = |name: &HeaderName| {
                let name = name.as_str();
                // Of gRPC itself, and what it takes for Base64.
                let special = name.starts_with("grpc-") || name.ends_with("-bin");
                OURS.contains(&name) || grpc && special
            };
            parsed
                .filter(|name| !ours(name))
                .ok_or_else(|| HooksError::Header(of.clone(), name.clone()))
        };
        let mut static_headers = HeaderMap::new();
        for (key, value) in &config.static_headers {
            let value = HeaderValue::from_str(value)
                .map_err(|_| HooksError::Header(of.clone(), key.clone()))?;
            static_headers.insert(name(key)?, value);
        }
        let units = (config.max_memory / feeds::UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self {
            to,
            http_headers: config.http_headers.iter().map(name).collect::<Result<_, _>>()?,
            emulated_headers: config.emulated_headers.iter().map(name).collect::<Result<_, _>>()?,
            static_headers,
            turns: Turns::new(config.concurrency),
            number: Budget::new(config.concurrency.saturating_add(config.queue)),
            memory: Budget::new(config.max_memory),
            feeds: Budget::new(config.max_streams),
            feeds_out: Budget::new(config.max_memory),
            feeds_in: Arc::new(Semaphore::new(units)),
            feeds_in_units: units,
            config,
        })
    }

    async fn ask(
        &self,
        client: &reqwest::Client,
        request: HookRequest,
        line: Line,
        room: &mut Room,
        opening: &mut Opening,
    ) -> Result<Option<HookResult>, Failed> {
        let exchange = async {
            let Some(_turn) = line.turn().await else { return Ok(None) };
            let asked = match (&self.to, request.feed()) {
                (To::Http(..), Some(_)) => {
                    let what = "streams go over gRPC only";
                    Err(Failed::new(HookFailure::NotConfigured, what))
                }
                (To::Grpc(backend), Some(asked)) => {
                    self.open_feed(backend, request, asked, room, opening).await
                }
                (To::Http(url, own), None) => {
                    let client = own.as_ref().unwrap_or(client);
                    self.ask_http(client, url.clone(), request, room).await
                }
                (To::Grpc(backend), None) => self.ask_grpc(backend, request, room).await,
            };
            asked.map(Some)
        };
        match tokio::time::timeout(self.config.timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failed::new(HookFailure::Timeout, "no answer in time")),
        }
    }

    async fn ask_http(
        &self,
        client: &reqwest::Client,
        url: reqwest::Url,
        request: HookRequest,
        room: &mut Room,
    ) -> Result<HookResult, Failed> {
        let kind = request.kind();
        let body = request
            .body(self.config.binary_encoding, self.config.include_connection_meta)
            .map_err(|_| Failed::new(HookFailure::NotJson, "payload"))?;
        let mut headers = self.headers(&request.caller.headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        drop(request);
        let question = client.post(url).headers(headers).body(body);
        let mut answer = question.send().await.map_err(Failed::of_client)?;
        if answer.status() != 200 {
            let status = answer.status().as_u16();
            let meant = self.config.statuses.iter().find(|(code, _)| *code == status);
            if let Some((_, refusal)) = meant {
                return Ok(HookReply::refused(kind, refusal.clone()));
            }
            return Err(Failed::new(HookFailure::Status, answer.status().as_str()));
        }
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(Failed::of_client)? {
            if piece.len() > self.config.reply_max - text.len() {
                return Err(Failed::new(HookFailure::BadReply, "too large"));
            }
            // Read, and decoded.
            if !room.grow(2 * piece.len()) {
                return Err(Failed::new(HookFailure::Overloaded, "answers take the memory"));
            }
            text.extend_from_slice(&piece);
        }
        HookReply::decode(kind, &text).map_err(Failed::of_reply)
    }

    async fn ask_grpc(
        &self,
        backend: &GrpcBackend,
        request: HookRequest,
        room: &mut Room,
    ) -> Result<HookResult, Failed> {
        let kind = request.kind();
        let HookConfig { binary_encoding, include_connection_meta, reply_max, .. } = self.config;
        let message = request.message(binary_encoding, include_connection_meta);
        let mut metadata = self.headers(&request.caller.headers);
        drop(request);
        if let Ok(patience) = HeaderValue::from_str(&patience(self.config.timeout)) {
            metadata.insert("grpc-timeout", patience);
        }
        let grow = |bytes| room.grow(bytes);
        let answer = backend.ask(kind.grpc_path(), metadata, &message, reply_max, grow).await;
        let answer = answer.map_err(|(why, detail)| Failed::new(why, detail))?;
        HookReply::decode_message(kind, answer).map_err(Failed::of_reply)
    }

    /// Static headers, replaced by emulated ones, replaced by those of the transport.
    fn headers(&self, client: &ClientHeaders) -> HeaderMap {
        let mut all = self.static_headers.clone();
        replace(&mut all, &client.emulated, &self.emulated_headers);
        replace(&mut all, &client.transport, &self.http_headers);
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

/// What a question and its answer hold, until the asker has heard.
#[derive(Debug, Default)]
pub struct Room {
    /// Of the target's number, and of its memory.
    held: Option<(Held, Held)>,
    /// Of the number of streams.
    feed: Option<Held>,
}

impl Room {
    fn grow(&mut self, bytes: usize) -> bool {
        self.held.as_mut().is_none_or(|(_, memory)| memory.grow(bytes))
    }
}

/// What engine threads say to the control thread.
enum Said<T> {
    Ask(Box<HookRequest>, T, Room),
    Gone(Asking),
    Feed(FeedId, Word),
}

/// A way to hooks for engine threads: it never waits. `T` is what the asker recognises its question
/// by.
pub struct HookSender<T> {
    /// Never full: all that is in it has room of a target's, or is the last word of a connection
    /// with such a question.
    said: mpsc::UnboundedSender<Said<T>>,
    hooks: Arc<Hooks>,
}

impl<T> HookSender<T> {
    /// Hands a question over; `more` is what the asker holds beside it. The error gives the ticket
    /// back: there is no room, or the control plane has ended. Then
    /// [`HookReply::without_answer`] says what to do.
    pub fn try_call(&self, request: Box<HookRequest>, ticket: T, more: usize) -> Result<(), T> {
        let Some(room) = self.hooks.room(&request, more) else {
            self.hooks.counts.hooks_queue_full.count();
            return Err(ticket);
        };
        match self.said.send(Said::Ask(request, ticket, room)) {
            Err(mpsc::error::SendError(Said::Ask(_, ticket, _))) => Err(ticket),
            _ => Ok(()),
        }
    }

    /// A connection with questions under way has gone.
    pub fn forget(&self, asking: Asking) {
        // Without a control plane there is nothing to forget.
        let _ = self.said.send(Said::Gone(asking));
    }
}

/// The other end of [`HookSender`], for the control thread.
pub struct HookQueue<T> {
    said: mpsc::UnboundedReceiver<Said<T>>,
    hooks: Arc<Hooks>,
}

/// A queue between engine threads and the control thread, bounded by the room that hooks have.
pub fn hook_queue<T>(hooks: Arc<Hooks>) -> (HookSender<T>, HookQueue<T>) {
    let (sender, said) = mpsc::unbounded_channel();
    (HookSender { said: sender, hooks: hooks.clone() }, HookQueue { said, hooks })
}

impl<T: Send + 'static> HookQueue<T> {
    /// Asks the backend what comes in, and passes each outcome to `reply`, on the control thread,
    /// with the room that it takes; to `tell` what comes on streams after that. Ends when all
    /// senders are gone.
    pub async fn run(
        mut self,
        reply: impl Fn(T, HookResult, Room) + Send + Sync + 'static,
        tell: impl Fn(FeedNews) + Send + Sync + 'static,
    ) {
        let (reply, tell) = (Arc::new(reply), Arc::new(tell));
        let mut feeds = Feeds::default();
        let (over, mut ended) = mpsc::unbounded_channel();
        loop {
            let said = tokio::select! {
                said = self.said.recv() => said,
                Some(feed) = ended.recv() => {
                    feeds.end(feed);
                    continue;
                }
            };
            let (request, ticket, mut room) = match said {
                None => return,
                Some(Said::Gone(asking)) => {
                    self.hooks.forget(asking);
                    feeds.forget(asking);
                    continue;
                }
                Some(Said::Feed(feed, word)) => {
                    feeds.hear(feed, word);
                    continue;
                }
                Some(Said::Ask(request, ticket, room)) => (request, ticket, room),
            };
            let (hooks, reply) = (self.hooks.clone(), reply.clone());
            // Here and not in the task, which may begin after the connection has gone.
            let line = hooks.line_up(&request);
            if let Some(asked) = request.feed() {
                let (orders, tell, over) = (feeds.begin(asked), tell.clone(), over.clone());
                tokio::spawn(async move {
                    let reply = |outcome, room| reply(ticket, outcome, room);
                    hooks.feed(*request, line, room, orders, reply, &*tell).await;
                    // The queue may have ended before.
                    let _ = over.send(asked.id);
                });
                continue;
            }
            tokio::spawn(async move {
                let mut none = Opening::default();
                if let Some(outcome) = hooks.call(*request, line, &mut room, &mut none).await {
                    reply(ticket, outcome, room);
                }
            });
        }
    }
}

/// How long a backend over gRPC need go on, as it is told. Later than our own deadline, so that who
/// is too slow is known as that.
fn patience(timeout: Duration) -> String {
    let millis = timeout.saturating_add(LATER).as_millis().min(99_999_999);
    format!("{millis}m")
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().try_into().unwrap_or(i64::MAX)
}

/// A backend over gRPC has so much more time than its answer.
const LATER: Duration = Duration::from_millis(100);

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
#[path = "hooks_tests.rs"]
mod tests;
