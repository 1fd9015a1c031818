//! `ringhold serve`: the gateway, from its configuration to its end.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use ringhold::config::{Loaded, LogFormat, Options, Sources};
use ringhold::control::access::Gate;
use ringhold::control::alone::Alone;
use ringhold::control::broker::Beginning;
use ringhold::control::certificates::CertificateKeeper;
use ringhold::control::demo::Demo;
use ringhold::control::gateway_backend::GatewayBackend;
use ringhold::control::keeping::Keeper;
use ringhold::control::logging::{Format, LogFile, Reopen};
use ringhold::control::notify::Notifier;
use ringhold::control::services::Services;
use ringhold::control::takeover::{self, Found};
use ringhold::control::{self, Duties};
use ringhold::gateway::account::Budget;
use ringhold::gateway::app::{ControlPlane, Gateway, Seed, unix_now};
use ringhold::gateway::emulation::SessionNames;
use ringhold::gateway::farewell::Keeping;
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::placement::Placement;
use ringhold::gateway::plan::{ChannelOptions, Namespace, Token};
use ringhold::gateway::rulebook::Rulebook;
use ringhold::gateway::tokens::TokenRequest;
use ringhold::options::Secret;
use ringhold::{Config, Handle, Io, Server};
use socket2::{Domain, Socket, Type};

use super::config::warn;
use super::options::duration;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArguments {
    /// Configuration: TOML, or JSON or YAML if its name ends so
    #[arg(short, long, value_name = "FILE", env = "RINGHOLD_CONFIG")]
    config: Option<PathBuf>,

    /// Address to listen on; stronger than the configuration
    #[arg(short, long, value_name = "IP")]
    address: Option<IpAddr>,

    /// Port to listen on, 0 for a free one; stronger than the configuration
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,

    /// The way into the kernel: uring, epoll, or auto: epoll where the host refuses io_uring;
    /// stronger than the configuration
    #[arg(long, value_name = "IO")]
    io: Option<Io>,

    /// Any key of the configuration, as client.insecure=true. May be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Listen beside another server on the same port, which is about to go away
    ///
    /// With `shutdown.takeover_path` the channels go over, too. Without this a second server does
    /// not start: the kernel would spread clients over both, and neither would know the other's
    /// channels.
    #[arg(long)]
    takeover: bool,

    /// Log the engine's counters at this interval; 0s: never
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "TIME")]
    stats_interval: Duration,
}

impl ServeArguments {
    fn sources(&self) -> Sources {
        let address = self.address.map(|address| format!("http_server.address={address}"));
        let port = self.port.map(|port| format!("http_server.port={port}"));
        let io = self.io.map(|io| format!("engine.io={io}"));
        let sets = self.set.iter().cloned().chain(address).chain(port).chain(io).collect();
        Sources::of_process(self.config.clone(), sets)
    }
}

pub(crate) fn run(
    arguments: &ServeArguments,
    log: Option<&str>,
) -> Result<ExitCode, Box<dyn Error>> {
    let Prepared { options, demo, first_run, notifier, reopen } = prepare(arguments, log)?;
    let config = engine(&options)?;
    let (drain, io) = (config.drain.clone(), config.io);
    let rules = Arc::new(Rulebook::new(options.gateway_plan())?);
    let (plane, outlets, tls) =
        Services::new(options.control_settings(demo), |own| options.certificate_sources(own))?;
    let server = Server::builder().config(Config { tls: tls.map(Arc::new), ..config });
    let layout = server.layout()?;
    let cores = u16::try_from(layout.workers)?;
    let drawn = u64::from_ne_bytes(uuid::Uuid::new_v4().into_bytes()[..8].try_into()?);
    let placement = Placement::new(cores, drawn);
    let uid = uuid::Uuid::new_v4().to_string();
    let broker = options.broker_config(&uid)?;
    let broker = broker.map(|config| Beginning::new(config, placement));
    let (counts, closing) = (plane.counts(), plane.closing());
    let _pid = PidFile::write(&options.pid_file)?;
    let found = if arguments.takeover { predecessor(&options) } else { None };
    let keeper = Arc::new(Keeper::begin(options.keep_settings(), layout.workers, found, counts));
    let queue = broker.as_ref().map(Beginning::queue).or_else(|| keeper.queue());
    let start = Seed {
        broker: queue,
        keeping: keeper.keeping(),
        ..seed(&options, placement, rules.clone(), outlets)
    };
    let started = server.workers(layout.workers).start(move |core| Gateway::new(core, &start));
    let running = match started {
        Ok(running) => running,
        Err(error) => {
            keeper.undo();
            return Err(error.into());
        }
    };

    let address = running.address().ok_or("nothing is listened on")?;
    let name = own_name(&options, address);
    let live = GatewayBackend::new(running.handle(), placement, rules.clone(), name);
    let live = Arc::new(live.with_broker(broker.as_ref().map(Beginning::view)));
    let broker = broker.map(|broker| broker.start(running.handle())).transpose()?;
    let routes = match plane.routes(&live) {
        Ok(routes) => routes,
        Err(error) => {
            running.handle().stop();
            running.join()?;
            keeper.undo();
            return Err(error.into());
        }
    };
    keeper.started();
    let reloads = Reloads {
        live: live.clone(),
        gates: Gates { http: plane.gate(), grpc: plane.grpc_gate() },
        certificates: plane.certificates(),
        handle: running.handle(),
        arguments: (!first_run).then(|| arguments.clone()),
        running: Mutex::new(options.clone()),
        reopen,
        notifier: notifier.clone(),
    };
    if let Some(address) = plane.grpc_address() {
        tracing::info!(%address, "the server API speaks gRPC");
    }
    let duties = Duties {
        begin: {
            let (live, handle, notifier) = (live.clone(), running.handle(), notifier.clone());
            let keeper = keeper.clone();
            Box::new(move || {
                tokio::spawn(notifier.watch(handle.clone()));
                keeper.serve(placement, handle.clone());
                plane.run(live, routes, handle);
            })
        },
        delay: options.shutdown.delay,
        drain: {
            let (notifier, keeper) = (notifier.clone(), keeper.clone());
            Box::new(move || {
                notifier.stopping();
                live.drain();
                keeper.drain(&closing);
            })
        },
        reload: Box::new(move || reloads.reload()),
        io,
    };
    let control = control::start(running.handle(), drain, arguments.stats_interval, duties)?;
    let ceiling = options.memory_ceiling(&layout);
    tracing::info!(bytes = ceiling.total(), "memory ceiling; `config show` has the table");
    announce(&options, address, running.workers(), first_run)?;
    notifier.ready();
    let stats = running.join()?;
    keeper.finish();
    if let Some(broker) = broker {
        broker.finish();
    }
    control.finish();
    control::summarise(&stats);
    Ok(ExitCode::SUCCESS)
}

/// What `serve` has before anything runs.
struct Prepared {
    options: Options,
    /// The page that shows a server without a configuration.
    demo: Option<Demo>,
    /// Nothing is configured.
    first_run: bool,
    notifier: Notifier,
    reopen: Option<Reopen>,
}

/// Reads the configuration, begins the log, and refuses what must not start.
fn prepare(arguments: &ServeArguments, log: Option<&str>) -> Result<Prepared, Box<dyn Error>> {
    let Loaded { mut options, warnings } = Options::load(&arguments.sources())?;
    let format = match options.log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let file = log_file(&options)?;
    let reopen = file.as_ref().map(LogFile::reopen);
    super::start_logging(Some(log.unwrap_or(options.log.filter())), format, file);
    warn(&warnings);
    let first_run = arguments.config.is_none() && is_unconfigured(&options);
    if first_run && !options.http_server.address.is_loopback() {
        return Err(
            "nothing is configured, and then the demo page gives a token to whoever opens \
             it: write a configuration (ringhold config example), or listen on 127.0.0.1"
                .into(),
        );
    }
    let notifier = Notifier::from_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "systemd is told nothing");
        Notifier::none()
    });
    if !arguments.takeover {
        refuse_company(&options)?;
    }
    let demo = if first_run { Some(improvise(&mut options)?) } else { None };
    Ok(Prepared { options, demo, first_run, notifier, reopen })
}

/// The engine's configuration, with the program's allocator.
fn engine(options: &Options) -> Result<Config, Box<dyn Error>> {
    let config = Config {
        after_burst: Some(crate::memory::give_back),
        around_handshake: Some(crate::memory::put_apart),
        ..options.engine_config()
    };
    let workers = Server::builder().config(config.clone()).layout()?.workers;
    let accept_rate = options.accept_rate(workers);
    Ok(Config { accept_rate, ..config })
}

/// What cores share when they start, but for the broker and what is kept.
fn seed(
    options: &Options,
    placement: Placement,
    rules: Arc<Rulebook>,
    control: Arc<dyn ControlPlane>,
) -> Seed {
    Seed {
        placement,
        limits: home_limits(options),
        rules,
        control,
        names: Arc::new(SessionNames::new(uuid::Uuid::new_v4().to_string())),
        posts: Budget::new(options.emulation.max_waiting.0),
        broker: None,
        unix: unix_now,
        keeping: Keeping::default(),
    }
}

/// How this node is called.
fn own_name(options: &Options, address: SocketAddr) -> String {
    match options.node.name.as_str() {
        "" => node_name(address),
        name => name.to_owned(),
    }
}

fn home_limits(options: &Options) -> HomeLimits {
    // What a turn queues is sent early beyond a sixteenth, and a frame takes some 64 bytes of it.
    let frames = (options.engine.max_outboxes.0 as u64 / 16 / 64).max(1);
    let usual = HomeLimits::default();
    HomeLimits {
        history_bytes: options.engine.max_history.0,
        filter_bytes: options.engine.max_filters.0,
        position_check: options.client.plan.channel_position_check_delay,
        position_lag: options.client.plan.channel_position_max_time_lag,
        turn_deliveries: frames.min(usual.turn_deliveries),
        ..usual
    }
}

/// What SIGHUP reads anew.
struct Reloads {
    live: Arc<GatewayBackend>,
    gates: Gates,
    certificates: CertificateKeeper,
    handle: Handle<Gateway>,
    /// Where the configuration is; `None`: nothing is configured.
    arguments: Option<ServeArguments>,
    running: Mutex<Options>,
    reopen: Option<Reopen>,
    notifier: Notifier,
}

impl Reloads {
    fn reload(&self) {
        self.notifier.reloading();
        if let Some(reopen) = &self.reopen {
            reopen.ask();
        }
        match &self.arguments {
            None => tracing::info!("nothing is configured, so there is nothing to reload"),
            Some(arguments) => {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                match reload(&self.live, &self.gates, arguments, &mut running) {
                    true => self
                        .certificates
                        .reload(|own| running.certificate_sources(own), &self.handle),
                    false => self.certificates.note_failure(),
                }
            }
        }
        self.notifier.ready();
    }
}

/// How long a process that listens where we shall is waited for to open its door. Milliseconds, as
/// a rule: it has just taken over itself. One that never opens any still serves meanwhile.
const DOOR_PATIENCE: Duration = Duration::from_secs(10);

/// Who is taken over from, channels and all, if it can be.
fn predecessor(options: &Options) -> Option<Found> {
    let path = options.takeover_path()?;
    await_door(&path, options);
    let knocked = takeover::knock(&path, options.own_name());
    if let Err(why) = &knocked {
        let path = path.display();
        tracing::warn!(%path, why, "channels begin anew: nobody can be taken over from");
    }
    knocked.ok()
}

/// Waits for the door at `path`, as long as somebody listens who may open it.
fn await_door(path: &Path, options: &Options) {
    let end = Instant::now() + DOOR_PATIENCE;
    let awaits = || !path.exists() && Instant::now() < end && refuse_company(options).is_err();
    if awaits() {
        let path = path.display();
        tracing::info!(%path, limit = ?DOOR_PATIENCE, "somebody listens, whose socket is awaited");
    }
    while awaits() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The file for the log, if there is one.
fn log_file(options: &Options) -> Result<Option<LogFile>, String> {
    let path = options.log.file.as_str();
    let opened = (!path.is_empty()).then(|| LogFile::open(path.as_ref())).transpose();
    opened.map_err(|error| format!("log.file {path}: {error}"))
}

/// The file with the number of this process, until this is dropped.
struct PidFile {
    path: String,
    number: String,
}

impl PidFile {
    /// Writes it, where one is wanted.
    fn write(path: &str) -> Result<Option<Self>, String> {
        if path.is_empty() {
            return Ok(None);
        }
        let (path, number) = (path.to_owned(), format!("{}\n", std::process::id()));
        let _alone = Alone::at(path.as_ref());
        std::fs::write(&path, &number).map_err(|error| format!("pid_file {path}: {error}"))?;
        Ok(Some(Self { path, number }))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A server that took over has written its own, or does so right now.
        let _alone = Alone::at(self.path.as_ref());
        if std::fs::read_to_string(&self.path).is_ok_and(|found| found == self.number) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether somebody listens on one of our ports already, which the kernel would let us share.
fn refuse_company(options: &Options) -> Result<(), String> {
    let server = &options.http_server;
    let public = SocketAddr::new(server.address, server.port);
    let own = [options.internal_address(), options.grpc_address()];
    for address in std::iter::once(public).chain(own.into_iter().flatten()) {
        if address.port() != 0 && is_taken(address) {
            return Err(format!(
                "{address} is taken by another process; with --takeover this one listens beside \
                 it, to take over from a server that goes away"
            ));
        }
    }
    Ok(())
}

/// Whether another socket listens at an address. Whatever else keeps us from listening there is
/// said when we try.
fn is_taken(address: SocketAddr) -> bool {
    let bound = Socket::new(Domain::for_address(address), Type::STREAM, None).and_then(|socket| {
        // Connections that linger are no company. Without a queue nobody gets in.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    });
    bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// By which people tell nodes apart: as Centrifugo names them, of the host and the port.
fn node_name(address: SocketAddr) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => address.to_string(),
        host => format!("{host}_{}", address.port()),
    }
}

/// Who may call the server API, where it is offered.
struct Gates {
    http: Option<Gate>,
    grpc: Option<Gate>,
}

/// Takes over what can be taken over from the configuration as it is now. False: nothing is.
fn reload(
    live: &GatewayBackend,
    gates: &Gates,
    arguments: &ServeArguments,
    running: &mut Options,
) -> bool {
    let new = match Options::load(&arguments.sources()) {
        Ok(Loaded { options, warnings }) => {
            warn(&warnings);
            options
        }
        Err(error) => {
            tracing::error!(%error, "the configuration stays as it was");
            return false;
        }
    };
    let mut options = running.clone();
    for key in options.restart_needed(&new) {
        tracing::warn!(key, "changed, but only a restart brings it into effect");
    }
    options.reload(&new);
    match Rulebook::new(options.gateway_plan()) {
        Ok(rules) => {
            if let Some(gate) = &gates.http {
                gate.replace(options.api_access());
            }
            if let Some(gate) = &gates.grpc {
                gate.replace(options.grpc_access());
            }
            live.replace_rules(|old| rules.keeping_fetched_keys(old));
            *running = options;
            tracing::info!("channels and keys are those of the configuration as it is now");
            true
        }
        Err(error) => {
            tracing::error!(error, "the configuration stays as it was");
            false
        }
    }
}

/// Whether nobody could connect or publish: nothing was configured.
fn is_unconfigured(options: &Options) -> bool {
    let client = &options.client;
    client.plan.token == Token::default()
        && !client.plan.insecure
        && !client.plan.allow_anonymous_connect_without_token
        && !client.proxy.connect.enabled
        && options.http_api.key.is_empty()
        && !options.http_api.insecure
}

/// Secrets and a channel for trying it out. They end with the process.
fn improvise(options: &mut Options) -> Result<Demo, Box<dyn Error>> {
    let secret =
        || uuid::Uuid::new_v4().simple().to_string() + &uuid::Uuid::new_v4().simple().to_string();
    options.client.plan.token.hmac_secret_key = Secret::new(secret());
    options.http_api.key = Secret::new(secret());
    options.health.enabled = true;
    options.prometheus.enabled = true;
    if options.client.plan.allowed_origins.is_empty() {
        let http = if options.http_server.speaks_tls() { "https" } else { "http" };
        options.client.plan.allowed_origins =
            ["127.0.0.1", "localhost"].map(|host| format!("{http}://{host}:*")).to_vec();
    }
    options.channel.plan.namespaces.push(Namespace {
        name: "demo".to_owned(),
        options: ChannelOptions {
            presence: true,
            join_leave: true,
            force_push_join_leave: true,
            history_size: 100,
            history_ttl: Duration::from_secs(3600),
            force_recovery: true,
            allow_subscribe_for_client: true,
            allow_publish_for_subscriber: true,
            allow_history_for_subscriber: true,
            allow_presence_for_subscriber: true,
            ..ChannelOptions::default()
        },
    });
    let key = options.client.plan.token.hmac_secret_key.reveal().to_owned();
    token(&key, "guest")?;
    let guests = std::sync::atomic::AtomicU32::new(1);
    let token = move || {
        let guest = guests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Signing with this key was tried just now.
        token(&key, &format!("guest-{guest}")).unwrap_or_default()
    };
    Ok(Demo { channel: DEMO.to_owned(), token: Arc::new(token) })
}

fn token(key: &str, user: &str) -> Result<String, Box<dyn Error>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let request = TokenRequest {
        sub: user.to_owned(),
        iat: now,
        exp: Some(now + 24 * 3600),
        ..TokenRequest::default()
    };
    Ok(request.sign(key)?)
}

fn announce(
    options: &Options,
    address: SocketAddr,
    workers: usize,
    first_run: bool,
) -> Result<(), Box<dyn Error>> {
    let path = &options.websocket.handler_prefix;
    let s = if options.http_server.speaks_tls() { "s" } else { "" };
    tracing::info!(%address, workers, "ready");
    if !first_run {
        control::say(format!("listening on ws{s}://{address}{path}"));
        return Ok(());
    }
    // An address of all interfaces is no address to go to.
    let mut at = address;
    if at.ip().is_unspecified() {
        at.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let key = options.http_api.key.reveal();
    let token = token(options.client.plan.token.hmac_secret_key.reveal(), "you")?;
    control::say(format!(
        "listening on ws{s}://{address}{path}

Nothing is configured, so this run has secrets of its own, which end with it.

Try it in two tabs:
  http{s}://{at}/

Connect with an SDK of Centrifugo, as the user \"you\":
  url    ws{s}://{at}{path}
  token  {token}

Publish:
  curl -H 'X-API-Key: {key}' \\
    -d '{{\"channel\":\"{DEMO}\",\"data\":{{\"text\":\"hello\"}}}}' http{s}://{at}/api/publish

Then write a configuration:
  ringhold config example > ringhold.toml
  ringhold serve --config ringhold.toml"
    ));
    Ok(())
}

/// The channel of the demo page.
const DEMO: &str = "demo:chat";
