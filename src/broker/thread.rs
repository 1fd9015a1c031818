//! The broker's thread: takes what the cores ask, and hands it to the server in charge.
//!
//! A runtime of its own, neither a core's nor the control plane's: a large request to the server
//! API must not delay what is published, nor a slow Redis the answer about health. One thread,
//! because one writer per connection keeps a channel's order.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::bus::{Bus, Told};
use super::cluster::Cluster;
use super::config::Config;
use super::layout::shard;
use super::listening::Piece;
use super::nats;
use super::post::{Cores, Post};
use super::queue::{Queue, Taken};
use super::requests::Dialect;
use super::scripts::Digests;
use super::shard::{Inbox, Parts, Shard};
use super::tally::{Condition, Tally};
use super::target::Target;
use super::watch;
use super::work::Job;
use crate::broker::server::RedisPlace;
use crate::gateway::broker::{self, Happening, Life, Request, Scope};
use crate::gateway::placement::Placement;

/// The thread, while it runs.
#[derive(Debug)]
pub struct Thread {
    queue: Arc<Queue>,
    bus: Arc<Bus>,
    thread: JoinHandle<()>,
}

/// What it shares with the control plane.
#[derive(Clone, Debug)]
pub struct View {
    /// What is counted.
    pub tally: Arc<Tally>,
    /// How it is with each server.
    pub conditions: Arc<[Arc<Condition>]>,
    /// What waits for answers.
    pub queue: Arc<Queue>,
    /// The way to other nodes.
    pub bus: Arc<Bus>,
}

impl View {
    /// Of a thread that is about to start.
    pub fn new(config: &Config, queue: Arc<Queue>) -> Self {
        let places = config.targets.iter().map(|target| &target.server.place);
        let redis = places.map(|place| Arc::new(Condition::new(place)));
        let nats = config.nats.iter().map(|nats| Condition::of("nats", nats.servers.place(), None));
        // Those that messages pass through come first.
        let conditions: Arc<[_]> = nats.map(Arc::new).chain(redis).collect();
        let tally: Arc<Tally> = Arc::default();
        let carriers = if config.nats.is_some() { 1 } else { conditions.len() };
        let bus = Arc::new(Bus::new(&config.uid, tally.clone(), conditions[..carriers].into()));
        Self { tally, conditions, queue, bus }
    }
}

/// Starts the thread. `cores` are made on it: the mailboxes of the cores that `queue` is of.
pub fn start<C: Cores + 'static>(
    config: Config,
    view: View,
    placement: Placement,
    cores: impl FnOnce() -> C + Send + 'static,
) -> io::Result<Thread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (queue, bus) = (view.queue.clone(), view.bus.clone());
    let run = move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, serve(config, view, placement, Box::new(cores())));
    };
    let thread = std::thread::Builder::new().name("ringhold-broker".to_owned()).spawn(run)?;
    Ok(Thread { queue, bus, thread })
}

impl Thread {
    /// Ends the thread after the cores have ended: what they asked last is answered, or has had its
    /// time. Other nodes hear of the end.
    pub fn finish(self) {
        self.bus.farewell();
        self.queue.end();
        let _ = self.thread.join();
    }
}

/// Channels that one of several servers is in charge of.
#[derive(Debug)]
struct Share {
    shard: usize,
    shards: usize,
}

impl broker::Part for Share {
    fn has(&self, channel: &str) -> bool {
        shard(channel, self.shards) == self.shard
    }
}

async fn serve(config: Config, view: View, placement: Placement, cores: Box<dyn Cores>) {
    let post = Rc::new(Post::new(cores, placement, view.tally.clone()));
    let mut tasks = Vec::new();
    let nats = config.nats.as_ref().map(|nats| {
        let inbox = Rc::new(Inbox::default());
        let parts = nats::Parts {
            subjects: nats.subjects.clone(),
            post: post.clone(),
            bus: view.bus.clone(),
            tally: view.tally.clone(),
            condition: view.conditions[0].clone(),
            patience: nats.write_timeout,
        };
        let (servers, own) = (nats.servers.clone(), inbox.clone());
        let (condition, post) = (parts.condition.clone(), post.clone());
        let shard = move || nats::Shard::new(servers.clone(), own.clone(), parts.clone()).run();
        let kept = async move { keep_on(shard, &condition, &post, &Scope::All).await };
        tasks.push(tokio::task::spawn_local(kept));
        Server::One(inbox)
    });
    let redis = of_redis(&config, &view, &post, nats.is_some(), &mut tasks);
    let (servers, members) = match nats {
        Some(nats) => (vec![nats], redis),
        None => (redis, Vec::new()),
    };
    let mut router = Router { servers, members, conditions: view.conditions.clone(), turn: 0 };
    let mut taken = VecDeque::new();
    loop {
        tokio::select! {
            () = view.queue.arrival() => {}
            () = view.bus.outgoing() => {}
        }
        let ending = view.queue.is_ending();
        view.queue.take(&mut taken);
        taken.drain(..).for_each(|taken| router.route(taken));
        for told in view.bus.take() {
            router.tell(told, &view.tally);
        }
        for server in router.servers.iter().chain(&router.members) {
            if ending {
                server.end();
            }
            server.ring();
        }
        if ending {
            break;
        }
    }
    for task in tasks {
        // Each ends in its time.
        let _ = task.await;
    }
}

/// Starts what serves each Redis; `members_only`: beside another broker.
fn of_redis(
    config: &Config,
    view: &View,
    post: &Rc<Post>,
    members_only: bool,
    tasks: &mut Vec<tokio::task::JoinHandle<()>>,
) -> Vec<Server> {
    let shards = config.targets.len();
    let post = if members_only { Rc::new(post.of_answers()) } else { post.clone() };
    let mut servers = Vec::new();
    for (index, target) in config.targets.iter().enumerate() {
        let dialect = Dialect {
            layout: config.layout(target),
            digests: Digests::new(),
            node: config.node.clone(),
            presence_ttl: config.limits.presence_ttl,
        };
        let scope = match shards {
            1 => Scope::All,
            _ => Scope::Part(Arc::new(Share { shard: index, shards })),
        };
        let parts = Parts {
            dialect: Rc::new(dialect),
            post: post.clone(),
            bus: view.bus.clone(),
            tally: view.tally.clone(),
            condition: view.conditions[usize::from(members_only) + index].clone(),
            scope,
            other: if config.renew { Life::Lost } else { Life::Other },
            cluster: None,
            listens: !members_only,
        };
        if let RedisPlace::Cluster(_) = target.server.place {
            let share = (shards > 1).then_some((index, shards));
            let cluster = Cluster::new(target.clone(), parts, share);
            tasks.push(tokio::task::spawn_local(cluster.clone().run()));
            servers.push(Server::Many(cluster));
        } else {
            let inbox = Rc::new(Inbox::default());
            tasks.push(tokio::task::spawn_local(keep(target.clone(), inbox.clone(), parts)));
            servers.push(Server::One(inbox));
        }
    }
    servers
}

/// Runs a shard to its end.
pub(super) async fn keep(target: Target, inbox: Rc<Inbox>, parts: Parts) {
    let _watch = watch::follow(&target, inbox.clone(), parts.condition.clone());
    let Parts { condition, post, scope, .. } = parts.clone();
    let shard = move || Shard::new(target.clone(), inbox.clone(), parts.clone()).run();
    keep_on(shard, &condition, &post, &scope).await;
}

/// Runs a shard to its end, and begins anew where a fault of ours ends it.
async fn keep_on<S: Future<Output = ()> + 'static>(
    shard: impl Fn() -> S,
    condition: &Condition,
    post: &Post,
    scope: &Scope,
) {
    loop {
        match tokio::task::spawn_local(shard()).await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(%error, "the broker's thread begins anew: please report it");
                condition.down(error.to_string());
                post.tell_all(&Happening::Deaf(scope.clone()));
                post.flush(Instant::now());
                // Nothing that ends it again and again may take all of the processor.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Before a shard begins anew.
const PAUSE: Duration = Duration::from_secs(1);

/// A server, or the nodes of a cluster.
enum Server {
    One(Rc<Inbox>),
    Many(Rc<Cluster>),
}

impl Server {
    fn job(&self, job: Box<Job>) {
        match self {
            Self::One(inbox) => inbox.job(job),
            Self::Many(cluster) => cluster.job(job),
        }
    }

    fn piece(&self, piece: Piece) {
        match self {
            Self::One(inbox) => inbox.piece(piece),
            Self::Many(cluster) => cluster.piece(piece),
        }
    }

    fn end(&self) {
        match self {
            Self::One(inbox) => inbox.end(),
            Self::Many(cluster) => cluster.end(),
        }
    }

    fn ring(&self) {
        match self {
            Self::One(inbox) => inbox.ring(),
            Self::Many(cluster) => cluster.ring(),
        }
    }
}

/// The server that has a channel.
fn share_of(servers: &[Server], channel: &str) -> usize {
    match servers.len() {
        1 => 0,
        shards => shard(channel, shards),
    }
}

/// Which server each request goes to.
struct Router {
    servers: Vec<Server>,
    /// Those that know who is in channels, where the others do not.
    members: Vec<Server>,
    conditions: Arc<[Arc<Condition>]>,
    /// Whose turn it is to take a message to other nodes.
    turn: usize,
}

impl Router {
    fn shard(&self, channel: &str) -> usize {
        share_of(&self.servers, channel)
    }

    fn route(&self, taken: Taken) {
        match &taken.request {
            Request::Listen(_) | Request::Ignore(_) => return self.pieces(taken),
            Request::Positions(..) if self.servers.len() > 1 => return self.tops(taken),
            request if request.is_of_members() && !self.members.is_empty() => {
                let job = Job::new(taken, None);
                let shard = job.channel().map_or(0, |channel| share_of(&self.members, channel));
                return self.members[shard].job(job);
            }
            _ => {}
        }
        let job = Job::new(taken, None);
        let shard = job.channel().map_or(0, |channel| self.shard(channel));
        self.servers[shard].job(job);
    }

    /// A message to other nodes, which listen on all servers: over any that is there.
    fn tell(&mut self, told: Told, tally: &Tally) {
        let servers = self.servers.len();
        let mut all = (0..servers).map(|step| (self.turn + step) % servers);
        let Some(server) = all.find(|server| self.conditions[*server].is_up()) else {
            return tally.control_dropped.add(1);
        };
        self.turn = server + 1;
        match &self.servers[server] {
            Server::One(inbox) => inbox.tell(told),
            Server::Many(cluster) => cluster.tell(told),
        }
    }

    fn pieces(&self, taken: Taken) {
        let core = taken.core;
        let (begins, names) = match taken.into_request() {
            Request::Listen(names) => (true, names),
            Request::Ignore(names) => (false, names),
            _ => return,
        };
        if let [server] = &self.servers[..] {
            return server.piece(Piece { core, begins, names });
        }
        let mut parts: Vec<_> = self.servers.iter().map(|_| Vec::new()).collect();
        names.into_iter().for_each(|name| parts[self.shard(&name)].push(name));
        for (server, names) in self.servers.iter().zip(parts) {
            server.piece(Piece { core, begins, names });
        }
    }

    /// A question about several servers' channels.
    fn tops(&self, taken: Taken) {
        let job = Job::new(taken, None);
        let places = job.tops().iter().map(|top| self.shard(&top.channel) as u16).collect();
        for job in job.split(places, self.servers.len()) {
            let shard = job.channel().map_or(0, |channel| self.shard(channel));
            self.servers[shard].job(job);
        }
    }
}
