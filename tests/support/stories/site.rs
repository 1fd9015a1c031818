//! A server inside the test process, and an application that keeps a journal of what it is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold::protocol::request::Request;
use ringhold::{
    Cause, CloseCode, Closed, Config, ConnId, Connection, Context, Counters, Drain, Handle,
    Handler, Message, Running, Server, Stats, UpgradeAction,
};

use super::{PATIENCE, wait_until};
use crate::support::figures;

/// A running server; stopped when dropped.
pub(crate) struct Site<H: Handler> {
    running: Option<Running<H>>,
    pub(crate) handle: Handle<H>,
    pub(crate) address: SocketAddr,
}

impl Site<Watcher> {
    /// Starts a server with two workers whose application is a [`Watcher`].
    pub(crate) fn watched(change: impl FnOnce(&mut Config)) -> (Self, Arc<Journal>) {
        let journal = Arc::new(Journal::default());
        let kept = journal.clone();
        let site = Self::start(change, move || Watcher { journal: kept.clone() });
        (site, journal)
    }
}

impl<H: Handler> Site<H> {
    /// Starts a server with two workers on a port the kernel gives, without heartbeats unless
    /// `change` asks for them: raw clients answer no pings. Clients of a test that is not about a
    /// time limit have time.
    pub(crate) fn start(
        change: impl FnOnce(&mut Config),
        application: impl Fn() -> H + Send + Sync + 'static,
    ) -> Self {
        let builder = Server::builder().configure(|config| {
            config.listen = Some(([127, 0, 0, 1], 0).into());
            config.workers = 2;
            config.max_connections = 2_000;
            config.heartbeat.enabled = false;
            config.handshake_timeout = PATIENCE;
            config.write_timeout = PATIENCE;
            config.close_timeout = PATIENCE;
            change(config);
        });
        let running = builder.start(move |_| application()).expect("the server starts");
        let address = running.address().expect("the server listens");
        Self { handle: running.handle(), running: Some(running), address }
    }

    /// What all cores count now.
    pub(crate) fn counters(&self) -> Counters {
        figures::counters(&self.handle)
    }

    /// Waits until the counters say so.
    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(&Counters) -> bool) -> Counters {
        let mut last = Counters::default();
        wait_until(what, || {
            last = self.counters();
            (!holds(&last)).then(|| format!("{last:?}"))
        });
        last
    }

    /// Waits until nothing is held for anybody.
    pub(crate) fn wait_empty(&self) -> Counters {
        self.wait_for("every table to be empty", is_empty)
    }

    /// Drains the server and asserts that it ends with nothing left.
    pub(crate) fn end(mut self) -> Stats {
        let running = self.running.take().expect("it runs until here");
        running.drain(&Drain { deadline: PATIENCE, ..Drain::default() });
        let stats = running.join().expect("every worker ends well");
        assert!(is_empty(&stats.counters), "left over: {:?}", stats.counters);
        assert_eq!(stats.counters.opened, stats.counters.closed);
        stats
    }
}

impl<H: Handler> Drop for Site<H> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.handle.stop();
            let _ = running.join();
        }
    }
}

/// Whether every gauge is at zero.
pub(crate) fn is_empty(c: &Counters) -> bool {
    let tables = [c.connections, c.open, c.timers, c.topics, c.subscriptions];
    let bytes = [c.inbound_bytes_held, c.outbox_bytes_held, c.blocked];
    tables.iter().chain(&bytes).all(|gauge| *gauge == 0)
}

/// How one connection ended, as its application saw it.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) id: ConnId,
    pub(crate) path: String,
    pub(crate) cause: Cause,
    pub(crate) code: CloseCode,
    /// By the clock of its core. By another one a core that stands still between a look at its own
    /// and what it does then would seem to be early.
    pub(crate) at: Duration,
    /// When it had its last message.
    pub(crate) heard: Duration,
}

/// What the application on all cores was told.
#[derive(Default)]
pub(crate) struct Journal(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    open: HashMap<ConnId, (String, Duration)>,
    ended: Vec<Ended>,
    /// What must never happen: events out of order.
    faults: Vec<String>,
}

impl Journal {
    /// The connections that are open now.
    pub(crate) fn open(&self) -> Vec<ConnId> {
        self.0.lock().unwrap().open.keys().copied().collect()
    }

    /// The open connection of this path.
    pub(crate) fn find(&self, path: &str) -> Option<ConnId> {
        let pages = self.0.lock().unwrap();
        pages.open.iter().find(|(_, (p, _))| p == path).map(|(id, _)| *id)
    }

    /// Waits for the connection of this path to be open.
    pub(crate) fn wait_open(&self, path: &str) -> ConnId {
        wait_until("a connection to open", || self.find(path).is_none().then(|| path.to_owned()));
        self.find(path).expect("it is open")
    }

    /// Waits for the connection of this path to have ended, and says how.
    pub(crate) fn wait_ended(&self, path: &str) -> Ended {
        let find = || self.ended().into_iter().find(|ended| ended.path == path);
        wait_until("a connection to end", || find().is_none().then(|| path.to_owned()));
        find().expect("it has ended")
    }

    /// Every connection that has ended, in order.
    pub(crate) fn ended(&self) -> Vec<Ended> {
        self.0.lock().unwrap().ended.clone()
    }

    /// Asserts that events came in order: open, messages, one close.
    pub(crate) fn assert_sound(&self) {
        let pages = self.0.lock().unwrap();
        assert!(pages.faults.is_empty(), "{:#?}", pages.faults);
        let mut ids: Vec<_> = pages.ended.iter().map(|ended| ended.id).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "a connection ended twice");
    }

    fn note_open(&self, id: ConnId, path: &str, now: Duration) {
        let pages = &mut *self.0.lock().unwrap();
        if pages.open.insert(id, (path.to_owned(), now)).is_some() {
            pages.faults.push(format!("{id:?} opened twice"));
        }
    }

    fn note_message(&self, id: ConnId, now: Duration) {
        let pages = &mut *self.0.lock().unwrap();
        match pages.open.get_mut(&id) {
            Some((_, heard)) => *heard = now,
            None => pages.faults.push(format!("{id:?} had a message while not open")),
        }
    }

    fn note_close(&self, id: ConnId, closed: &Closed, at: Duration) {
        let pages = &mut *self.0.lock().unwrap();
        let Some((path, heard)) = pages.open.remove(&id) else {
            pages.faults.push(format!("{id:?} closed while not open"));
            return;
        };
        let Closed { cause, code, .. } = *closed;
        pages.ended.push(Ended { id, path, cause, code, at, heard });
    }
}

/// Echoes, and keeps the journal. The path says what else a connection wants: below `/sink` no
/// echo, below `/topic` a subscription to `news`.
pub(crate) struct Watcher {
    pub(crate) journal: Arc<Journal>,
}

impl Handler for Watcher {
    type State = String;
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<Self::State> {
        UpgradeAction::accept(request.path().to_owned())
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, path: &mut String) {
        self.journal.note_open(conn.id(), path, conn.now());
        if path.starts_with("/topic") {
            conn.subscribe("news");
        }
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, path: &mut String, message: Message<'_>) {
        self.journal.note_message(conn.id(), conn.now());
        if !path.starts_with("/sink") {
            // What a peer that is gone does not get is counted by the engine.
            let _ = conn.reply(message);
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, id: ConnId, _: String, closed: &Closed) {
        self.journal.note_close(id, closed, cx.now());
    }
}
