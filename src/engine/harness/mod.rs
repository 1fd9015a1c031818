//! An application driven without a socket: cores on this thread, clients that are values, and a
//! clock that only the test moves. Nothing waits, and nothing depends on luck.
//!
//! ```
//! use std::net::SocketAddr;
//! use std::time::Duration;
//!
//! use ringhold::testing::{Received, World};
//! use ringhold::{Config, Connection, Context, Handler, Message, Request, UpgradeAction};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type State = ();
//!     type Event = ();
//!
//!     fn on_upgrade(
//!         &mut self,
//!         _: &mut Context<'_>,
//!         _: &Request<'_>,
//!         _: SocketAddr,
//!     ) -> UpgradeAction<()> {
//!         UpgradeAction::accept(())
//!     }
//!
//!     fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
//!         let _ = conn.reply(message);
//!     }
//! }
//!
//! let mut world = World::new(Config::default(), 1, |_core| Echo);
//! let client = world.open(0, "/", &[]).expect("accepted");
//! client.text("hello");
//! world.run();
//! assert_eq!(client.next(), Some(Received::Text("hello".to_owned())));
//! // Heartbeats, timeouts and timers are due when the clock says so.
//! world.advance(Duration::from_secs(60));
//! assert!(client.pings() > 0);
//! ```
//!
//! The engine is the one that serves sockets; only the kernel is replaced, by one that takes what
//! it is given at once. It does not dial (`dial_failed` is called), and hands no connection over
//! (`HttpAction::Detach` is answered with 503). It speaks no TLS. Everything happens on the thread
//! of the test; a callback that panics is caught and counted as ever.

mod client;
mod memory;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use client::{Client, HttpAnswer, Received};

use self::client::Pipe;
use self::memory::Memory;
use super::config::Config;
use super::counters::Stats;
use super::handler::Handler;
use super::links::Handle;
use super::ring::Doorbell;
use super::server::CoreStart;
use super::testing::Shared;
use super::worker::{Turn, Worker};

/// A server in memory, with its cores and its clock.
pub struct World<H: Handler> {
    shared: Shared<H>,
    clock: Rc<Cell<u64>>,
    cores: Vec<Core<H>>,
    port: u16,
}

/// One core, and what it shares with its ring.
struct Core<H: Handler> {
    worker: Worker<Memory, H>,
    knocking: Rc<RefCell<VecDeque<Rc<RefCell<Pipe>>>>>,
    /// Until when it sleeps, if it does.
    asleep: Rc<Cell<Option<u64>>>,
    bell: Arc<AtomicBool>,
    ended: bool,
}

/// Sets what the ring looks at.
struct Bell(Arc<AtomicBool>);

impl Doorbell for Bell {
    fn ring(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl<H: Handler> World<H> {
    /// A server with this configuration (its address does not matter) and as many cores; the
    /// application is made as by [`Builder::start`](crate::Builder::start).
    ///
    /// # Panics
    ///
    /// If the configuration cannot work, or there are no cores.
    pub fn new(mut config: Config, cores: usize, application: impl Fn(CoreStart<H>) -> H) -> Self {
        assert!(cores > 0, "a server needs a core");
        config.check().unwrap_or_else(|error| panic!("the configuration: {error}"));
        if config.max_connections == 0 {
            config.max_connections = TABLE;
        }
        let clock = Rc::new(Cell::new(START_NS));
        let bells: Vec<_> = (0..cores).map(|_| Arc::new(AtomicBool::new(false))).collect();
        let doorbells = bells.iter().map(|bell| Box::new(Bell(bell.clone())) as Box<dyn Doorbell>);
        let shared = Shared::new(config, doorbells.collect());
        let cores = bells.into_iter().enumerate().map(|(index, bell)| {
            let (knocking, asleep) = (Rc::default(), Rc::default());
            let ring = Memory::new(&clock, &knocking, &asleep, &bell, 2 * TABLE);
            let handler = application(CoreStart { core: index, handle: shared.handle() });
            let worker = shared.worker(index as u16, ring, handler, 2 * TABLE, 1 + index as u64);
            Core { worker, knocking, asleep, bell, ended: false }
        });
        let cores = cores.collect();
        let mut world = Self { shared, clock, cores, port: 1024 };
        world.run();
        world
    }

    /// Reaches the cores as from any thread. Its questions ([`Handle::stats`],
    /// [`Handle::subscribers`]) wait for other threads and find none here: see [`Self::stats`].
    pub fn handle(&self) -> Handle<H> {
        self.shared.handle()
    }

    /// The application on one core.
    pub fn handler(&mut self, core: usize) -> &mut H {
        &mut self.cores[core].worker.handler
    }

    /// Time since the world began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.get() - START_NS)
    }

    /// The counters of all cores together.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for core in &self.cores {
            sum.add(&core.worker.stats());
        }
        sum
    }

    /// Whether every core has ended, as it does after [`Handle::drain`] or
    /// [`crate::Context::stop`].
    pub fn is_ended(&self) -> bool {
        self.cores.iter().all(|core| core.ended)
    }

    /// Lets all happen that can happen at this moment.
    ///
    /// # Panics
    ///
    /// If the application never rests: its [`Handler::on_turn`] always wants another turn at once,
    /// or two of its parts answer each other for ever.
    pub fn run(&mut self) {
        let mut calm = 0;
        for _ in 0..TURNS_MAX {
            calm = if self.round() { calm + 1 } else { 0 };
            // The first pass of a core may have reached another core.
            if calm == 2 {
                return;
            }
        }
        panic!("the application never rests");
    }

    /// Lets one core take a turn, and no other: what it says to them waits. So a test has cores act
    /// in any order, where [`Self::run`] has one.
    pub fn turn(&mut self, core: usize) {
        let core = &mut self.cores[core];
        if core.ended {
            return;
        }
        core.asleep.set(None);
        match core.worker.turn() {
            Ok(Turn::Continue) => {}
            Ok(Turn::Finished) => {
                core.ended = true;
                core.worker.retire();
            }
            Err(error) => panic!("the ring failed: {error}"),
        }
    }

    /// Lets this time pass, and all happen that is due meanwhile, in its order.
    pub fn advance(&mut self, time: Duration) {
        self.run();
        let end = self.clock.get().saturating_add(time.as_nanos() as u64);
        while self.clock.get() < end {
            let due = self.cores.iter().filter(|core| !core.ended);
            let next = due.filter_map(|core| core.asleep.get()).min().unwrap_or(end);
            self.clock.set(next.clamp(self.clock.get() + 1, end));
            self.run();
        }
    }

    /// Lets this time pass while no core runs, as on a host that has no processor for them: what
    /// is sent and what falls due meanwhile meets in one turn.
    pub fn stall(&mut self, time: Duration) {
        self.clock.set(self.clock.get().saturating_add(time.as_nanos() as u64));
    }

    /// Opens a WebSocket on this core, with these headers besides those of the handshake. Fails
    /// with the answer if the server refuses it.
    ///
    /// # Panics
    ///
    /// If there is no answer, as when an earlier one of the core's has stopped it.
    pub fn open(
        &mut self,
        core: usize,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Client, HttpAnswer> {
        let mut head = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let client = self.connect(core);
        client.bytes(head.as_bytes());
        self.run();
        match client.answer() {
            None => panic!("the server does not answer"),
            Some(answer) if answer.status == 101 => Ok(client),
            Some(answer) => Err(answer),
        }
    }

    /// Sends a request, head and body as they are given, and returns the answer. `None`: there is
    /// no whole one yet, or the connection was ended without one.
    pub fn ask(&mut self, core: usize, request: &str) -> Option<HttpAnswer> {
        let client = self.connect(core);
        client.bytes(request.as_bytes());
        self.run();
        client.answer()
    }

    /// Connects to a core without saying anything.
    pub fn connect(&mut self, core: usize) -> Client {
        let client = self.knock(core);
        self.run();
        client
    }

    /// As [`Self::connect`], but nothing happens yet: the connection waits to be accepted.
    pub fn knock(&mut self, core: usize) -> Client {
        self.port += 1;
        let peer = SocketAddr::from(([192, 0, 2, 1], self.port));
        let client = Client::new(peer);
        self.cores[core].knocking.borrow_mut().push_back(client.pipe.clone());
        client
    }

    /// A turn of each core. True if all sleep, and would go on sleeping.
    fn round(&mut self) -> bool {
        (0..self.cores.len()).for_each(|core| self.turn(core));
        let now = self.clock.get();
        self.cores.iter().all(|core| {
            let sleeps = core.asleep.get().is_some_and(|until| until > now);
            core.ended || sleeps && !core.bell.load(Ordering::Acquire)
        })
    }
}

/// Connections that a core can have.
const TABLE: u32 = 16 * 1024;

/// When the clock starts.
const START_NS: u64 = 1_000_000_000;

/// Turns of a core without any sleep after which nobody waits for it any more.
const TURNS_MAX: usize = 100_000;
