//! The soak test of the gateway: a server under clients that come, talk and go in every way there
//! is, with a backend that fails now and then.
//!
//! `cargo test` runs it for some twenty seconds. The run that means something is
//!
//! ```text
//! GATEWAY_SOAK_SECONDS=3600 GATEWAY_SOAK_CLIENTS=2000 \
//!     cargo test --release --test gateway_soak -- --nocapture
//! ```
//!
//! Method: two servers, each with half of the clients and a thread for them; at one, clients
//! refresh what expires, at the other the backend does. Clients come over WebSocket (JSON and
//! Protobuf), SSE and HTTP streams, stall, leave, are killed and come back to recover. Each
//! compares what it sees with what was published: all of it once, in order, unless it is told that
//! something is lost; a publication whose publisher got an error must not be seen; no push without
//! a subscription, no end without a reason.
//!
//! There are two rounds, a short one to warm up and the one that counts. After each everybody
//! leaves: all tables must be empty then, and memory at rest after the second round must be that
//! after the first. `GATEWAY_SOAK_SEED` chooses another course of events.

mod support;

#[path = "gateway_soak/backend.rs"]
mod backend;
#[path = "soak/dice.rs"]
#[allow(dead_code, reason = "the engine's soak uses the rest")]
mod dice;
#[path = "gateway_soak/element.rs"]
mod element;
#[path = "gateway_soak/life.rs"]
mod life;
#[path = "gateway_soak/link.rs"]
mod link;
#[path = "gateway_soak/plan.rs"]
mod plan;
#[path = "gateway_soak/publisher.rs"]
mod publisher;
#[path = "gateway_soak/seat.rs"]
mod seat;
#[path = "gateway_soak/server.rs"]
mod server;
#[path = "gateway_soak/sub.rs"]
mod sub;
#[path = "gateway_soak/tally.rs"]
mod tally;
#[path = "gateway_soak/truth.rs"]
mod truth;
#[path = "gateway_soak/world.rs"]
mod world;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use plan::Plan;
use serde_json::json;
use support::gateway::Gateway;
use tally::Tally;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use truth::{Kind, Truth};
use world::{Phase, SeatView, World};

#[test]
fn with_clients_that_refresh() {
    soak(&Plan::from_environment(false), "clients");
}

#[test]
fn with_a_backend_that_refreshes() {
    soak(&Plan::from_environment(true), "backend");
}

fn soak(plan: &Plan, name: &'static str) {
    let files = support::raise_open_files();
    let need = 4 * plan.clients as u64 + 500;
    assert!(files.is_none_or(|it| it >= need), "{need} open files are needed: ulimit -Hn");
    let tally = Arc::new(Tally::new(name));
    tally.say(&format!("{plan:?}"));
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.set_nonblocking(true).expect("a socket that does not block");
    let backend = listener.local_addr().expect("bound");
    let gateway = Gateway::start_whole(&plan.config(backend));
    let (phase, phases) = watch::channel(Phase::Run);
    let (left, everybody_left) = channel();
    let world_of = (plan.clone(), gateway.address(), tally.clone(), phases);
    let clients = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (plan, address, tally, phase) = world_of;
        let world = Rc::new(new_world(plan, address, tally, phase));
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            spawn_local(backend::serve(world.clone(), listener));
            spawn_local(watch_lag(world.clone()));
            for number in 1..=2 {
                round(&world, number).await;
                // Without a receiver the test has failed already.
                let _ = left.send(());
                let mut phase = world.phase.clone();
                if number == 1 && phase.wait_for(|phase| *phase == Phase::Run).await.is_err() {
                    return;
                }
            }
        });
    });

    let run = Run { plan, gateway: &gateway, tally: &tally, start: Instant::now() };
    let warm = run.round(&phase, &everybody_left, (plan.time / 6).max(Duration::from_secs(3)));
    let _ = phase.send(Phase::Run);
    let last = run.round(&phase, &everybody_left, plan.time);
    let _ = clients.join().map_err(|_| tally.fail("the clients' thread panicked"));
    run.check_memory(warm, last);
    run.check_counters();
    gateway.stop();
    let failures = tally.failures();
    let seed = plan.seed;
    assert!(
        failures.is_empty(),
        "{} failures with GATEWAY_SOAK_SEED={seed}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn new_world(
    plan: Plan,
    address: SocketAddr,
    tally: Arc<Tally>,
    phase: watch::Receiver<Phase>,
) -> World {
    let truth = RefCell::new(Truth::new(plan.channels));
    let views = (0..plan.clients).map(|_| SeatView::default()).collect();
    let (seats, lagged) = (RefCell::new(views), Cell::new(None));
    World { plan, address, tally, truth, seats, phase, lagged }
}

/// Everybody comes, and everybody goes.
async fn round(world: &Rc<World>, number: u64) {
    let publishers: Vec<_> = (0..publisher::PUBLISHERS)
        .map(|it| spawn_local(publisher::publish(world.clone(), it)))
        .chain([spawn_local(publisher::order(world.clone()))])
        .collect();
    let seats: Vec<_> = (0..world.plan.clients)
        .map(|seat| spawn_local(seat::sit(world.clone(), seat, number)))
        .collect();
    for task in publishers.into_iter().chain(seats) {
        if let Err(panic) = task.await {
            world.tally.fail(&format!("a task: {panic}"));
        }
    }
    let done = compare_tops(world).await;
    done.unwrap_or_else(|error| world.tally.fail(&error));
}

/// Streams have what was published; nobody is present; histories go, so that memory may.
async fn compare_tops(world: &World) -> Result<(), String> {
    let count = world.truth.borrow().channels.len();
    for channel in 0..count {
        let (name, kind, epoch) = {
            let truth = world.truth.borrow();
            let of = &truth.channels[channel];
            (of.name.clone(), of.kind, of.epoch.clone())
        };
        if kind.has_stream() {
            let history = world.api("history", &json!({"channel": name, "limit": 0})).await?;
            let (top, now) = (history["offset"].as_u64(), history["epoch"].as_str());
            if epoch.is_some() && now != epoch.as_deref() {
                return Err(format!("{name}: the epoch {epoch:?} became {now:?}"));
            }
            world.truth.borrow().compare_top(channel, top.unwrap_or(0))?;
            world.api("history_remove", &json!({"channel": name})).await?;
            world.truth.borrow_mut().channels[channel].removed = Some(Instant::now());
        }
        if matches!(kind, Kind::Plain | Kind::Private) {
            empty_presence(world, &name).await?;
        }
    }
    Ok(())
}

/// Those who were killed leave when the server has noticed.
async fn empty_presence(world: &World, name: &str) -> Result<(), String> {
    let deadline = Instant::now() + support::PATIENCE;
    loop {
        let stats = world.api("presence_stats", &json!({"channel": name})).await?;
        match stats["num_clients"].as_u64() {
            None | Some(0) => return Ok(()),
            Some(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Some(number) => return Err(format!("{name}: {number} present, and all have left")),
        }
    }
}

/// Notes when this thread itself is late, since then clients may be taken for dead.
async fn watch_lag(world: Rc<World>) {
    loop {
        let before = Instant::now();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if before.elapsed() > Duration::from_millis(2500) {
            world.counts().lags.one();
            world.lagged.set(Some(Instant::now()));
        }
    }
}

/// What the test's own thread does: it looks at the server.
struct Run<'a> {
    plan: &'a Plan,
    gateway: &'a Gateway,
    tally: &'a Tally,
    start: Instant,
}

impl Run<'_> {
    /// One round of so much time. Returns resident memory after it, at rest.
    fn round(&self, phase: &watch::Sender<Phase>, left: &Receiver<()>, time: Duration) -> u64 {
        let Self { plan, gateway, tally, .. } = self;
        let start = Instant::now();
        let mut next_report = plan.report;
        while start.elapsed() < time && !tally.has_failed_often() {
            std::thread::sleep(Duration::from_millis(100));
            if start.elapsed() >= next_report {
                next_report += plan.report;
                self.report();
            }
        }
        self.report();
        let _ = phase.send(Phase::Settle);
        // What is on its way arrives meanwhile, so that a client that leaves misses nothing.
        std::thread::sleep(Duration::from_millis(500));
        let _ = phase.send(Phase::Leave);
        let settled = left.recv_timeout(8 * support::PATIENCE);
        assert!(settled.is_ok(), "clients that do not leave: {:?}", tally.failures());
        let metrics = server::await_empty(gateway, tally, 4 * support::PATIENCE);
        server::check_never(&metrics, tally);
        std::thread::sleep(plan.rest);
        let bytes = server::resident(gateway);
        tally.say(&format!("everybody has left; RSS {:.1} MiB", mib(bytes)));
        bytes
    }

    fn report(&self) {
        let seconds = self.start.elapsed().as_secs_f64();
        let percent = |process: &str| 100.0 * server::processor_time(process) / seconds;
        self.tally.say(&format!(
            "RSS {:.1} MiB, server {:.0} %, this process {:.0} % of a core; {}",
            mib(server::resident(self.gateway)),
            percent(&self.gateway.id().to_string()),
            percent("self"),
            self.tally.counts.text()
        ));
    }

    /// Memory at rest is what it was at rest.
    fn check_memory(&self, warm: u64, last: u64) {
        if last > warm + warm / 10 + self.plan.slack {
            let (warm, last) = (mib(warm), mib(last));
            self.tally.fail(&format!(
                "resident memory at rest grew from {warm:.1} to {last:.1} MiB; what the server \
                 holds is in the lines above and in its /metrics"
            ));
        }
    }

    /// The server counted what the clients did.
    fn check_counters(&self) {
        let metrics = server::metrics(self.gateway);
        let of = |name: &str| metrics.get(name).copied().unwrap_or(-1.0) as u64;
        let counts = &self.tally.counts;
        // Of those who are killed some were connected without knowing it.
        for (name, at_least) in [
            ("gateway_connects_total", counts.connected.get()),
            ("gateway_subscribes_total", counts.subscribed.get()),
            ("gateway_recoveries_total", counts.recoveries.get()),
            (
                "gateway_deliveries_total",
                counts.checked.get() - counts.recovered_publications.get(),
            ),
            (
                "gateway_publications_total",
                counts.published_by_api.get() + counts.published_by_clients.get(),
            ),
        ] {
            if of(name) < at_least {
                self.tally.fail(&format!("{name}: {}, and clients saw {at_least}", of(name)));
            }
        }
        let seen = [
            ("checked", &counts.checked),
            ("recoveries", &counts.recoveries),
            ("patches", &counts.patches),
            ("joins", &counts.joins),
            ("published_by_clients", &counts.published_by_clients),
            ("rpcs", &counts.rpcs),
            ("histories", &counts.histories),
            ("presences", &counts.presences),
            ("stalls", &counts.stalls),
            ("resets", &counts.resets),
            ("spoiled", &counts.spoiled),
            ("sub_refreshed", &counts.sub_refreshed),
            ("orders", &counts.orders),
        ];
        for (name, count) in seen {
            if count.get() == 0 {
                self.tally.fail(&format!("the run did not meet what it is for: {name} is 0"));
            }
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
