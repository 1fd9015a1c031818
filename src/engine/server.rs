//! Threads, listeners and their life: from a configuration to a running server, and to its end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::addresses::Addresses;
use super::config::{Config, ConfigError, Drain, Layout};
use super::core::Core;
use super::counters::Stats;
use super::epoll::Epoll;
use super::handler::Handler;
use super::io::Way;
use super::links::{Handle, Network, Post};
use super::ring::LANES_MAX;
use super::ring::Ring;
use super::secure::Secure;
use super::signals::Watch;
use super::sys::{self, EventFd};
use super::uring::{Setup, SetupError, Uring};
use super::worker::{Turn, Worker};
use crate::common::rng::Rng;

/// The entry to the library: see [`Server::builder`].
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts from the defaults of [`Config`].
    pub fn builder() -> Builder {
        Builder { config: Config::default(), signals: false }
    }
}

/// A configuration on its way to a server.
#[derive(Clone, Debug)]
pub struct Builder {
    config: Config,
    signals: bool,
}

/// What a new core's application is told about its place.
pub struct CoreStart<H: Handler> {
    /// Index of the core, from 0.
    pub core: usize,
    /// Reaches every core of this server.
    pub handle: Handle<H>,
}

impl<H: Handler> CoreStart<H> {
    /// Monotonic time, as [`super::Context::now`] tells it.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(sys::monotonic_ns())
    }
}

impl Builder {
    /// Replaces the whole configuration.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Changes the configuration in place, for what has no method of its own.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Address to listen on; port 0 takes a free one.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.config.listen = Some(address);
        self
    }

    /// Speaks TLS on that address; [`load`](crate::tls::keys::ServerMaterials::load) reads
    /// certificates and keys, and [`Handle::replace_tls`] exchanges them while the server runs.
    ///
    /// ```no_run
    /// use std::time::SystemTime;
    ///
    /// use ringhold::Server;
    /// use ringhold::tls::keys::{KeyPair, ServerKeys, ServerMaterials};
    /// use ringhold::tls::{RecordLayer, TicketSecret, Version};
    ///
    /// let (cert_pem, key_pem) = ("host.pem".to_owned(), "host.key".to_owned());
    /// let keys = ServerKeys {
    ///     certificates: vec![KeyPair { cert_pem, key_pem }],
    ///     client_ca_pem: None,
    ///     min_version: Version::Tls12,
    ///     tickets: TicketSecret::random()?,
    ///     record_layer: RecordLayer::Own,
    ///     on_order: None,
    /// };
    /// let keys = ServerMaterials::load(&keys, SystemTime::now())?;
    /// let server = Server::builder().listen("127.0.0.1:8443".parse()?).tls(keys);
    /// # let _ = server;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, keys: crate::tls::keys::ServerMaterials) -> Self {
        self.config.tls = Some(Arc::new(keys));
        self
    }

    /// Number of worker threads; 0: as many as processors, or as the limit of open files demands.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.config.workers = workers;
        self
    }

    /// Most connections over all workers.
    #[must_use]
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.config.max_connections = connections;
        self
    }

    /// Most payload bytes of a received message.
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.config.max_message = bytes;
        self
    }

    /// Goes away by itself: the first SIGTERM or SIGINT of the process begins the drain of
    /// [`Config::drain`], a second one, a second or more later, ends what is left at once. A thread
    /// waits for signals while the server runs; [`Running::join`] ends it, and from then on the
    /// process ignores these signals.
    #[must_use]
    pub fn drain_on_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// How the connections will be spread, as things are: what a start decides.
    pub fn layout(&self) -> Result<Layout, StartError> {
        let open_files = sys::raise_open_files_limit();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let layout = self.config.layout(open_files, processors)?;
        match self.config.io.takes_descriptors() {
            true => Ok(layout.within_process(&self.config, open_files)?),
            false => Ok(layout),
        }
    }

    /// Starts the server, and returns when it has ended by [`Handle::drain`] or
    /// [`super::Context::stop`]. `application` is called once on each worker's thread.
    pub fn run<H: Handler>(
        self,
        application: impl Fn(CoreStart<H>) -> H + Send + Sync + 'static,
    ) -> Result<Stats, StartError> {
        self.start(application)?.join()
    }

    /// Starts the server and returns when every worker is listening.
    pub fn start<H: Handler>(
        self,
        application: impl Fn(CoreStart<H>) -> H + Send + Sync + 'static,
    ) -> Result<Running<H>, StartError> {
        self.config.check()?;
        let way = self.config.io.decide().map_err(StartError::Ring)?;
        let layout = self.layout()?;
        let mut config = self.config;
        let (workers, table, signals) = (layout.workers, layout.table, self.signals);
        config.max_connections = layout.connections;
        let plan = config.drain.clone();
        let config = Arc::new(config);
        let (listeners, address) = listen(&config, workers)?;
        let doorbells = (0..workers)
            .map(|_| EventFd::new().map(Arc::new))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| StartError::Ring(SetupError::Doorbell(error)))?;
        let posts =
            doorbells.iter().map(|bell| Arc::new(Post::new::<H>(&config, Box::new(bell.clone()))));
        let network = Arc::new(Network { posts: posts.collect() });
        let total = Arc::new(AtomicU32::new(0));
        let addresses = Arc::new(Addresses::default());
        let application = Arc::new(application);
        let (ready, started) = mpsc::channel();
        let mut threads = Vec::with_capacity(workers);
        for (worker, (doorbell, listener)) in doorbells.into_iter().zip(listeners).enumerate() {
            let seat = CoreThread {
                worker,
                way,
                table,
                doorbell,
                listener,
                config: config.clone(),
                network: network.clone(),
                total: total.clone(),
                addresses: addresses.clone(),
            };
            let (ready, application) = (ready.clone(), application.clone());
            let thread = std::thread::Builder::new()
                .name(format!("ringhold-{worker}"))
                .spawn(move || seat.work(&*application, &ready))
                .map_err(StartError::Thread)?;
            threads.push(thread);
        }
        drop(ready);
        let handle = Handle::new(network);
        let mut running = Running { handle, address, workers, threads, signals: None };
        // Each worker says once how its start went.
        for outcome in started.iter().take(workers) {
            if let Err(error) = outcome {
                running.handle.stop();
                let _ = running.join();
                return Err(StartError::Ring(error));
            }
        }
        if signals {
            match running.watch_signals(&plan) {
                Ok(watch) => running.signals = Some(watch),
                Err(error) => {
                    running.handle.stop();
                    let _ = running.join();
                    return Err(StartError::Signals(error));
                }
            }
        }
        Ok(running)
    }
}

/// A server that runs. Dropping it leaves the server running; [`Running::join`] waits for its end.
pub struct Running<H: Handler> {
    handle: Handle<H>,
    address: Option<SocketAddr>,
    workers: usize,
    threads: Vec<JoinHandle<io::Result<Stats>>>,
    signals: Option<Watch>,
}

impl<H: Handler> Running<H> {
    /// Reaches every core, from any thread.
    pub fn handle(&self) -> Handle<H> {
        self.handle.clone()
    }

    /// The address that is listened on, with the port the kernel chose.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Workers that have not ended: fewer than [`Self::workers`] once the server ends or one
    /// failed.
    pub fn workers_alive(&self) -> usize {
        self.threads.iter().filter(|thread| !thread.is_finished()).count()
    }

    fn watch_signals(&self, plan: &Drain) -> io::Result<Watch> {
        let (handle, plan) = (self.handle.clone(), plan.clone());
        Watch::start(move |count| match count {
            1 => handle.drain(&plan),
            _ => handle.stop(),
        })
    }

    /// Starts to go away as configured.
    pub fn drain(&self, plan: &Drain) {
        self.handle.drain(plan);
    }

    /// Waits for the end of every worker and returns what they counted.
    pub fn join(self) -> Result<Stats, StartError> {
        let mut sum = Stats::default();
        let mut failed = None;
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(stats)) => sum.add(&stats),
                Ok(Err(error)) => failed = Some(StartError::Worker(error)),
                Err(_) => failed = Some(StartError::Worker(io::Error::other("a worker panicked"))),
            }
        }
        if let Some(watch) = self.signals {
            watch.end();
        }
        failed.map_or(Ok(sum), Err)
    }
}

/// What a worker thread takes with it.
struct CoreThread<H: Handler> {
    worker: usize,
    way: Way,
    table: u32,
    doorbell: Arc<EventFd>,
    listener: Option<OwnedFd>,
    config: Arc<Config>,
    network: Arc<Network<H::Event>>,
    total: Arc<AtomicU32>,
    addresses: Arc<Addresses>,
}

impl<H: Handler> CoreThread<H> {
    fn work(
        mut self,
        application: &impl Fn(CoreStart<H>) -> H,
        ready: &mpsc::Sender<Result<(), SetupError>>,
    ) -> io::Result<Stats> {
        if self.config.pin {
            match sys::pin_to_cpu(self.worker) {
                Ok(cpu) => tracing::debug!(worker = self.worker, cpu, "pinned"),
                Err(error) => {
                    tracing::warn!(worker = self.worker, %error, "not pinned to a processor");
                }
            }
        }
        let setup = Setup {
            table: self.table,
            lanes: LANES,
            listener: self.listener.take(),
            user_timeout: self.config.user_timeout(),
            doorbell: self.doorbell.clone(),
        };
        match self.way {
            Way::Uring => self.serve(Uring::new(setup), application, ready),
            Way::Epoll => self.serve(Epoll::new(setup), application, ready),
        }
    }

    /// Turns until the core is finished.
    fn serve<R: Ring>(
        self,
        ring: Result<R, SetupError>,
        application: &impl Fn(CoreStart<H>) -> H,
        ready: &mpsc::Sender<Result<(), SetupError>>,
    ) -> io::Result<Stats> {
        let post = self.network.posts[self.worker].clone();
        let ring = match ring {
            Ok(ring) => ring,
            Err(error) => {
                post.mailbox.close();
                let _ = ready.send(Err(error));
                return Ok(Stats::default());
            }
        };
        let handle = Handle::new(self.network.clone());
        let handler = application(CoreStart { core: self.worker, handle: handle.clone() });
        let rng = Rng::from_entropy();
        let index = self.worker as u16;
        let setup = self.config.tls.as_ref().map(|keys| keys.setup()).transpose();
        let dials = self.config.dial_tls.as_ref().map(|trust| trust.setup()).transpose();
        // Loading has tried the same.
        let setup = setup.map_err(io::Error::other)?;
        let dials = dials.map_err(io::Error::other)?;
        let mut core = Core::new(self.config, index, self.network, self.total, self.addresses, rng);
        core.secure = Secure::new(setup, dials, &core.config);
        let mut worker = Worker::new(ring, core, handler, post.clone(), self.table);
        let _ = ready.send(Ok(()));
        tracing::debug!(worker = self.worker, table = self.table, "worker runs");
        let outcome = loop {
            // A bug of the engine: the other workers must hear of it, or they would wait for ever.
            let turn = catch_unwind(AssertUnwindSafe(|| worker.turn()));
            match turn.unwrap_or_else(|_| Err(io::Error::other("a worker panicked"))) {
                Ok(Turn::Continue) => {}
                Ok(Turn::Finished) => break Ok(worker.stats()),
                Err(error) => break Err(error),
            }
        };
        // Letters that come too late are refused; questions among them are answered by their end.
        drop(post.mailbox.close());
        if let Err(error) = &outcome {
            tracing::error!(worker = self.worker, %error, "a worker failed; the server goes away");
            handle.stop();
        }
        outcome
    }
}

/// Why a server did not start, or did not end well.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot work.
    Config(ConfigError),
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// A ring cannot be made.
    Ring(SetupError),
    /// A thread cannot be started.
    Thread(io::Error),
    /// A worker ended with an error.
    Worker(io::Error),
    /// Signals cannot be waited for.
    Signals(io::Error),
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Listen(address, error) => match error.raw_os_error() {
                Some(libc::EADDRINUSE) => {
                    write!(f, "{address} is in use: another program listens there")
                }
                Some(libc::EADDRNOTAVAIL) => {
                    write!(f, "{address} is not an address of this host")
                }
                Some(libc::EACCES) => write!(
                    f,
                    "no permission to listen on {address}: ports below 1024 need \
                     CAP_NET_BIND_SERVICE"
                ),
                Some(libc::EMFILE | libc::ENFILE) => {
                    write!(f, "too few file descriptors for the listeners on {address}: {error}")
                }
                _ => write!(f, "listening on {address}: {error}"),
            },
            Self::Ring(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "starting a thread: {error}"),
            Self::Worker(error) => write!(f, "a worker failed: {error}"),
            Self::Signals(error) => write!(f, "waiting for signals: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Ring(error) => Some(error),
            Self::Listen(_, error)
            | Self::Thread(error)
            | Self::Worker(error)
            | Self::Signals(error) => Some(error),
        }
    }
}

/// One listener per worker on the same port (SO_REUSEPORT, Linux 3.9): the kernel spreads
/// connections by hash.
fn listen(
    config: &Config,
    workers: usize,
) -> Result<(Vec<Option<OwnedFd>>, Option<SocketAddr>), StartError> {
    let Some(mut address) = config.listen else {
        return Ok(((0..workers).map(|_| None).collect(), None));
    };
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket =
            listener(address, config).map_err(|error| StartError::Listen(address, error))?;
        if let Some(bound) = socket.local_addr().ok().and_then(|bound| bound.as_socket()) {
            address = bound;
        }
        listeners.push(Some(OwnedFd::from(socket)));
    }
    Ok((listeners, Some(address)))
}

fn listener(address: SocketAddr, config: &Config) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit these, which spares a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(config.backlog.min(i32::MAX as u32) as i32)?;
    Ok(socket)
}

/// Accepts in flight per worker: as many connections are taken per turn.
const LANES: u32 = LANES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_inherit_what_the_listener_has() {
        let config =
            Config { write_timeout: std::time::Duration::from_secs(77), ..Config::default() };
        let listener = listener(SocketAddr::from(([127, 0, 0, 1], 0)), &config).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(config.user_timeout(), std::time::Duration::from_secs(78));
        assert!(accepted.tcp_nodelay().unwrap());
    }
}
