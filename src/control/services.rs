//! What stands beside a running gateway: HTTP, hooks and key sets, and the ways from the engine's
//! threads to them.
//!
//! Made in two steps. [`Services::new`] gives the cores their ways out before there are cores;
//! [`Services::run`] starts the tasks once the server runs. The invariant: no way out ever makes an
//! engine thread wait.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use super::access::Gate;
#[cfg(feature = "acme")]
use super::acme::Acme;
use super::certificates::{CertificateKeeper, CertificateSources};
use super::closing::Closing;
use super::consumers::Consumers;
use super::counts::Counts;
use super::gateway_backend::GatewayBackend;
use super::grpc::{self, GrpcConfig, GrpcLimits};
use super::hooks::{HookQueue, HookSender, Hooks, HooksError, hook_queue};
use super::http::{
    Cores, HandOver, HandedOver, HttpConfig, HttpLimits, HttpServer, PathTaken, Routes, hand_over,
    routes,
};
use super::jwks::{Jwks, JwksConfig, JwksView};
use super::nodes;
use super::outgoing;
use super::secure::Certificates;
use super::settings::Settings;
use crate::gateway::app::{ControlPlane, CoreEvent, Gateway, HookAnswer};
use crate::gateway::hooks::{Asking, FeedId, FeedNews, FeedWord, HookRequest};
use crate::gateway::session::HookTicket;
use crate::gateway::tokens::KeySet;
use crate::tls::TicketSecret;
use crate::tls::keys::{KeyFault, ServerMaterials};
use crate::{Detached, Handle, Proxies};

/// The ways from the engine's threads to the control plane.
pub struct ControlHandle {
    hooks: HookSender<(usize, HookTicket)>,
    http: HandOver,
    inside: HandOver,
    keys: Vec<JwksView<KeySet>>,
}

impl ControlPlane for ControlHandle {
    fn ask(
        &self,
        core: usize,
        hook: Box<HookRequest>,
        question: HookTicket,
    ) -> Result<(), HookTicket> {
        let more = question.cost();
        self.hooks.try_call(hook, (core, question), more).map_err(|(_, question)| question)
    }

    fn forget(&self, asking: Asking) {
        self.hooks.forget(asking);
    }

    fn feed(&self, feed: FeedId, proxy: &str, word: FeedWord) -> bool {
        self.hooks.feed(feed, proxy, word)
    }

    fn serve(&self, passed: Detached) -> Result<(), Detached> {
        self.http.serve(passed)
    }

    fn serve_inside(&self, passed: Detached) -> Result<(), Detached> {
        self.inside.serve(passed)
    }

    fn want_keys(&self) {
        for keys in &self.keys {
            keys.ask();
        }
    }
}

/// See the module's text.
pub struct Services {
    counts: Arc<Counts>,
    questions: HookQueue<(usize, HookTicket)>,
    connections: HandedOver,
    /// Those of the internal port that cores give back.
    inside: HandedOver,
    /// Which tokens the keys are for, who fetches them, and who sees them.
    keys: Vec<(KeysFor, Fetched)>,
    internal: Option<TcpListener>,
    grpc: Option<(TcpListener, GrpcConfig)>,
    grpc_limits: (HttpLimits, GrpcLimits),
    consumers: Consumers,
    certificates: CertificateKeeper,
    /// Who orders certificates, and where hosts are proven by plain HTTP.
    #[cfg(feature = "acme")]
    acme: Option<(Acme, Option<TcpListener>)>,
    http: HttpConfig,
    limits: HttpLimits,
    proxies: Proxies,
    closing: Closing,
}

#[derive(Clone, Copy, Debug)]
enum KeysFor {
    Connections,
    Subscriptions,
}

/// Why the control plane cannot be made.
#[derive(Debug)]
pub enum ServicesError {
    /// A proxy is configured wrongly.
    Hooks(HooksError),
    /// The HTTP client for key sets cannot be made.
    Keys(reqwest::Error),
    /// Certificates cannot be loaded.
    Certificates(KeyFault),
    /// Certificates cannot be ordered.
    Orders(String),
    /// Two things are at one path.
    Paths(PathTaken),
    /// A consumer is configured wrongly.
    Consumers(String),
    /// The internal port cannot be listened on.
    Listen(SocketAddr, io::Error),
}

impl std::fmt::Display for ServicesError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hooks(error) => error.fmt(f),
            Self::Keys(error) => write!(f, "the client of key sets: {}", outgoing::explain(error)),
            Self::Certificates(error) => error.fmt(f),
            Self::Orders(what) => write!(f, "http_server.tls_autocert: {what}"),
            Self::Paths(error) => error.fmt(f),
            Self::Consumers(what) => write!(f, "consumer {what}"),
            Self::Listen(address, error) => write!(f, "listening on {address}: {error}"),
        }
    }
}

impl std::error::Error for ServicesError {}

impl Services {
    /// Makes what is asked for, the cores' ways to it, and what they need to speak TLS.
    /// `certificates` is told what seals tickets where no key is configured.
    pub fn new(
        settings: Settings,
        certificates: impl FnOnce(&TicketSecret) -> CertificateSources,
    ) -> Result<(Self, Arc<ControlHandle>, Option<ServerMaterials>), ServicesError> {
        let counts = Arc::new(Counts::default());
        let listen_at = |address: Option<SocketAddr>| {
            let of =
                |address| listen(address).map_err(|error| ServicesError::Listen(address, error));
            address.map(of).transpose()
        };
        #[cfg(feature = "acme")]
        let acme = match settings.acme {
            Some(config) => {
                let acme = Acme::new(config, counts.clone()).map_err(ServicesError::Orders)?;
                let listener = listen_at(acme.http())?;
                Some((acme, listener))
            }
            None => None,
        };
        #[cfg(feature = "acme")]
        let issued = acme.as_ref().map(|(acme, _)| acme.issued()).unwrap_or_default();
        #[cfg(not(feature = "acme"))]
        let issued = Vec::new();
        let (certificates, tls) = CertificateKeeper::new(certificates, issued, counts.clone())
            .map_err(ServicesError::Certificates)?;
        let hooks = Hooks::new(settings.hooks, counts.clone()).map_err(ServicesError::Hooks)?;
        let (hook_sender, questions) = hook_queue(Arc::new(hooks));
        let (http, connections) = hand_over(HTTP_QUEUE);
        let (into_inside, inside) = hand_over(HTTP_QUEUE);
        let mut keys = Vec::new();
        for (whose, configs) in [
            (KeysFor::Connections, settings.connection_keys),
            (KeysFor::Subscriptions, settings.subscription_keys),
        ] {
            keys.extend(key_sets(configs, &counts)?.into_iter().map(|set| (whose, set)));
        }
        let internal = listen_at(settings.internal)?;
        let grpc = match settings.grpc {
            Some((address, config)) => listen_at(Some(address))?.zip(Some(config)),
            None => None,
        };
        let views = keys.iter().map(|(_, (_, view))| view.clone()).collect();
        let outlets =
            Arc::new(ControlHandle { hooks: hook_sender, http, inside: into_inside, keys: views });
        counts.http_bodies.resize(settings.bodies);
        let plane = Self {
            counts,
            questions,
            connections,
            inside,
            keys,
            internal,
            grpc,
            grpc_limits: settings.grpc_limits,
            consumers: Consumers::new(&settings.consumers).map_err(ServicesError::Consumers)?,
            certificates,
            #[cfg(feature = "acme")]
            acme,
            http: settings.http,
            limits: settings.http_limits,
            proxies: settings.proxies,
            closing: Closing::default(),
        };
        Ok((plane, outlets, tls))
    }

    /// What is served over HTTP, of this gateway.
    pub fn routes(&self, live: &Arc<GatewayBackend>) -> Result<Routes, ServicesError> {
        routes(live, &self.http, &self.counts).map_err(ServicesError::Paths)
    }

    /// Who may call the server API, to be changed by a reload; `None` if it is not served.
    pub fn gate(&self) -> Option<Gate> {
        self.http.api.as_ref().map(|api| api.access.clone())
    }

    /// The same of the API over gRPC.
    pub fn grpc_gate(&self) -> Option<Gate> {
        self.grpc.as_ref().map(|(_, config)| config.access.clone())
    }

    /// Where the API speaks gRPC, if it does.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// What is counted.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// By which it takes nothing new any more.
    pub fn closing(&self) -> Closing {
        self.closing.clone()
    }

    /// The certificates, to be loaded again.
    pub fn certificates(&self) -> CertificateKeeper {
        self.certificates.clone()
    }

    /// Starts the tasks, within the control thread's runtime.
    pub fn run(self, live: Arc<GatewayBackend>, routes: Routes, handle: Handle<Gateway>) {
        if let Some(bus) = live.bus().cloned() {
            tokio::spawn(nodes::serve(live.clone(), bus));
        }
        if let Some(past) = routes.past {
            tokio::spawn(past.keep(live.clone(), self.counts.clone()));
        }
        let server = HttpServer::new(routes.public, self.limits, self.counts.clone());
        let server = server.behind(self.proxies).until(self.closing);
        if let Some(listener) = self.internal {
            let mut internal = server.internal(routes.internal);
            tokio::spawn(internal.clone().serve_handed_over(self.inside));
            if self.http.api.is_some() {
                internal = internal.offering(cores(handle.clone()));
            }
            accept(internal, listener, self.certificates.internal(), "the internal port");
        }
        if let Some((listener, config)) = self.grpc {
            let router = grpc::router(live.clone(), config, self.counts.clone());
            let (limits, each) = self.grpc_limits;
            let grpc = server.grpc(router, limits, each);
            accept(grpc, listener, self.certificates.grpc(), "the port of gRPC");
        }
        #[cfg(feature = "acme")]
        if let Some((acme, listener)) = self.acme {
            if let Some(listener) = listener {
                accept(
                    server.internal(acme.router()),
                    listener,
                    None,
                    "the port that proves hosts",
                );
            }
            let (keeper, handle) = (self.certificates, handle.clone());
            let install = {
                let keeper = keeper.clone();
                Box::new(move || keeper.replace(&handle))
            };
            tokio::spawn(acme.run(keeper, install));
        }
        self.consumers.start(&live, &self.counts);
        tokio::spawn(server.serve_handed_over(self.connections));
        // A core that has ended has no sessions.
        let telling = handle.clone();
        let reply = move |(core, question), result, room| {
            let answer = HookAnswer { question, result, room: Box::new(room) };
            let _ = handle.post_urgent(core, CoreEvent::Hook(Box::new(answer)));
        };
        let tell = move |news: FeedNews| {
            let core = usize::from(news.feed.from.core);
            let _ = telling.post_urgent(core, CoreEvent::Feed(Box::new(news)));
        };
        tokio::spawn(self.questions.run(reply, tell));
        for (whose, (jwks, mut view)) in self.keys {
            let (live, url) = (live.clone(), jwks.url().to_owned());
            tokio::spawn(jwks.run());
            tokio::spawn(async move {
                while view.changed().await {
                    let Some(keys) = view.current() else { continue };
                    live.replace_rules(|rules| match whose {
                        KeysFor::Connections => rules.with_connection_keys(&url, &keys),
                        KeysFor::Subscriptions => rules.with_subscription_keys(&url, &keys),
                    });
                }
            });
        }
    }
}

/// Serves what comes in on a port of our own.
fn accept(
    server: HttpServer,
    listener: TcpListener,
    certificates: Option<Certificates>,
    port: &'static str,
) {
    tokio::spawn(async move {
        let served = match certificates {
            Some(certificates) => server.accept_secure(listener, certificates).await,
            None => server.accept(listener).await,
        };
        if let Err(error) = served {
            tracing::error!(%error, "{port} is closed");
        }
    });
}

/// Offers connections of the internal port to the cores, each in its turn.
fn cores(handle: Handle<Gateway>) -> Cores {
    let next = AtomicUsize::new(0);
    Cores::new(move |stream, peer| {
        let core = next.fetch_add(1, Ordering::Relaxed) % handle.workers().max(1);
        if handle.is_crowded() || stream.set_nonblocking(false).is_err() {
            return Some(stream);
        }
        // Answers leave at once.
        let _ = stream.set_nodelay(true);
        // A core that ends closes what it is offered. Answers keep the room reserved for them.
        let _ = handle.post(core, CoreEvent::Inside(stream.into(), peer));
        None
    })
}

/// As the engine listens, so that a new process can take over from an old one that drains.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(INTERNAL_BACKLOG)?;
    Ok(socket.into())
}

type Fetched = (Jwks<KeySet>, JwksView<KeySet>);

fn key_sets(configs: Vec<JwksConfig>, counts: &Arc<Counts>) -> Result<Vec<Fetched>, ServicesError> {
    let parse = |json: &[u8]| KeySet::parse(json).map_err(|error| error.to_string());
    let fetched = configs
        .into_iter()
        .map(|config| Jwks::new(config, parse, counts.clone()).map_err(ServicesError::Keys));
    fetched.collect()
}

/// Connections that wait on the internal port.
const INTERNAL_BACKLOG: i32 = 1024;

/// Connections on their way to the control thread.
const HTTP_QUEUE: usize = 1024;
