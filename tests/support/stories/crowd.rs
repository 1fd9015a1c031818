//! Thousands of well-behaved clients in the test's own process, dialled by the engine: they answer
//! pings and closes, echo as fast as they can if told so, and come back if told so.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold::protocol::request::{Refusal, Request};
use ringhold::{
    Cause, Closed, ConnId, Connection, Context, Counters, DialTarget, Drain, Handle, Handler,
    Message, Running, Server, UpgradeAction,
};

use super::wait_until;
use crate::support::figures;

/// How the clients behave.
#[derive(Clone, Debug)]
pub(crate) struct CrowdPlan {
    pub(crate) server: SocketAddr,
    pub(crate) path: String,
    /// Bytes of the message that each sends as soon as it is open; 0: none.
    pub(crate) payload: usize,
    /// Send the next message when the last one came back.
    pub(crate) busy: bool,
    /// Come back after every end.
    pub(crate) redial: bool,
    pub(crate) workers: usize,
    pub(crate) most: u32,
}

impl CrowdPlan {
    /// Clients that open and wait.
    pub(crate) fn quiet(server: SocketAddr, most: u32) -> Self {
        let path = "/".to_owned();
        Self { server, path, payload: 0, busy: false, redial: false, workers: 1, most }
    }
}

/// What all of them saw.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) opened: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) echoes: AtomicU64,
    errors: Mutex<HashMap<String, u64>>,
    ends: Mutex<HashMap<(Cause, u16), u64>>,
}

impl Tally {
    /// How connections ended, by cause and close code.
    pub(crate) fn ends(&self) -> HashMap<(Cause, u16), u64> {
        self.ends.lock().unwrap().clone()
    }

    /// What went wrong before connections were open.
    pub(crate) fn errors(&self) -> HashMap<String, u64> {
        self.errors.lock().unwrap().clone()
    }
}

/// A crowd; gone when dropped.
pub(crate) struct Crowd {
    running: Option<Running<Client>>,
    pub(crate) handle: Handle<Client>,
    pub(crate) tally: Arc<Tally>,
    coming_back: Arc<AtomicBool>,
}

impl Crowd {
    pub(crate) fn start(plan: &CrowdPlan) -> Self {
        let tally = Arc::new(Tally::default());
        let coming_back = Arc::new(AtomicBool::new(plan.redial));
        let target = Arc::new(DialTarget {
            peer: plan.server,
            host: plan.server.to_string(),
            target: plan.path.clone(),
            headers: Vec::new(),
            tls: None,
            resume: false,
            compression: false,
        });
        let client = Client {
            target,
            payload: vec![b'x'; plan.payload],
            busy: plan.busy,
            coming_back: coming_back.clone(),
            tally: tally.clone(),
        };
        let builder = Server::builder().configure(|config| {
            config.listen = None;
            config.workers = plan.workers;
            // Those that come back find their last place still taken for a moment.
            config.max_connections = 2 * plan.most;
            config.heartbeat.enabled = false;
            config.handshake_timeout = super::PATIENCE;
            config.close_timeout = super::PATIENCE;
        });
        let running = builder.start(move |_| client.clone()).expect("the crowd starts");
        Self { handle: running.handle(), running: Some(running), tally, coming_back }
    }

    /// Lets `count` more clients dial at once, spread over the workers.
    pub(crate) fn dial(&self, count: u64) {
        let workers = self.handle.workers() as u64;
        for worker in 0..workers {
            let share = count / workers + u64::from(worker < count % workers);
            self.handle.post(worker as usize, share).expect("the crowd listens");
        }
    }

    /// Waits until this many have been open and got the echo they asked for.
    pub(crate) fn wait_opened(&self, count: u64) {
        wait_until("the crowd to be connected", || {
            let (opened, failed) = (load(&self.tally.opened), load(&self.tally.failed));
            let state = format!("{opened} of {count} open, {failed}: {:?}", self.tally.errors());
            (opened < count && failed == 0 || opened + failed < count).then_some(state)
        });
    }

    /// What its cores count.
    pub(crate) fn counters(&self) -> Counters {
        figures::counters(&self.handle)
    }

    /// No client comes back from now on.
    pub(crate) fn stay_away(&self) {
        self.coming_back.store(false, Ordering::Relaxed);
    }

    /// Lets every client close its connection properly, and waits for the end of it.
    pub(crate) fn leave(mut self) -> Arc<Tally> {
        self.stay_away();
        if let Some(running) = self.running.take() {
            running.drain(&Drain { deadline: super::PATIENCE, ..Drain::default() });
            running.join().expect("the crowd ends well");
        }
        self.tally.clone()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stay_away();
        if let Some(running) = self.running.take() {
            self.handle.stop();
            let _ = running.join();
        }
    }
}

/// Reads a counter of the tally.
pub(crate) fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The application of a crowd's core.
#[derive(Clone)]
pub(crate) struct Client {
    target: Arc<DialTarget>,
    payload: Vec<u8>,
    busy: bool,
    coming_back: Arc<AtomicBool>,
    tally: Arc<Tally>,
}

impl Client {
    fn dial(&self, cx: &mut Context<'_>, tag: u64) {
        // Spread over source addresses, so that ports in TIME_WAIT never run out.
        let loopback = self.target.peer.ip().is_loopback() && self.target.peer.is_ipv4();
        let local = IpAddr::from([127, 0, 1, 1 + (tag % 8) as u8]);
        cx.dial(&self.target, loopback.then_some(local), tag);
    }

    fn come_back(&self, cx: &mut Context<'_>, tag: u64) {
        if self.coming_back.load(Ordering::Relaxed) {
            self.dial(cx, tag);
        }
    }
}

impl Handler for Client {
    type State = u64;
    type Event = u64;

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<u64> {
        UpgradeAction::Refuse(Refusal::NotFound)
    }

    fn on_event(&mut self, cx: &mut Context<'_>, count: u64) {
        for tag in 0..count {
            self.dial(cx, tag);
        }
    }

    fn on_dialled(&mut self, _: &mut Context<'_>, tag: u64) -> Option<u64> {
        Some(tag)
    }

    fn on_dial_failed(&mut self, cx: &mut Context<'_>, tag: u64, error: &str) {
        *self.tally.errors.lock().unwrap().entry(error.to_owned()).or_insert(0) += 1;
        self.tally.failed.fetch_add(1, Ordering::Relaxed);
        self.come_back(cx, tag);
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, _: &mut u64) {
        self.tally.opened.fetch_add(1, Ordering::Relaxed);
        if !self.payload.is_empty() {
            let _ = conn.binary(&self.payload);
        }
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, _: &mut u64, message: Message<'_>) {
        self.tally.echoes.fetch_add(1, Ordering::Relaxed);
        if self.busy {
            let _ = conn.reply(message);
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, _: ConnId, tag: u64, closed: &Closed) {
        let end = (closed.cause, closed.code.0);
        *self.tally.ends.lock().unwrap().entry(end).or_insert(0) += 1;
        self.tally.ended.fetch_add(1, Ordering::Relaxed);
        self.come_back(cx, tag);
    }
}
