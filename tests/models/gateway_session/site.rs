//! A gateway in memory, its clients and its backend.

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold::config::{Options, Sources};
use ringhold::gateway::account::Budget;
use ringhold::gateway::app::{ControlPlane, CoreEvent, Gateway, HookAnswer, Seed};
use ringhold::gateway::emulation::SessionNames;
use ringhold::gateway::farewell::Keeping;
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::hooks::{
    Asking, FeedId, FeedNews, FeedSaid, FeedWord, HookReply, HookRequest, HookResult,
};
use ringhold::gateway::inspect::{Connection, Inspect};
use ringhold::gateway::letters::{
    self, Action, Answer, Ask, Asker, Gather, Publish, Reply, UserOrder,
};
use ringhold::gateway::placement::Placement;
use ringhold::gateway::rulebook::Rulebook;
use ringhold::gateway::session::HookTicket;
use ringhold::gateway::stats::GatewayStats;
use ringhold::testing::{Client, Received, World};
use ringhold::{Detached, Stats};
use serde_json::{Value, json};

use crate::support::gateway::{objects, words_of_close};

/// What every configuration here begins with; a test adds tables of its own.
const COMMON: &str = "[client.token]\nhmac_secret_key = \"secret of the tests\"\n";

/// For the engine, where a test says nothing else of it.
pub(crate) const ENGINE: &str = "[engine]\ntick = \"10ms\"\n";

/// Unix time in seconds at which every world begins.
pub(crate) const BEGINNING: i64 = 2_000_000_000;

thread_local! {
    /// By how much the clock of the world goes behind.
    static BEHIND: Cell<i64> = const { Cell::new(0) };
}

/// The world's clock, which goes with that of the cores.
fn unix(now: Duration) -> i64 {
    // Worlds begin at their first second.
    BEGINNING - 1 + now.as_secs() as i64 - BEHIND.get()
}

/// The backend: holds what it was asked until the test answers.
#[derive(Default)]
pub(crate) struct Backend {
    asked: Mutex<VecDeque<(usize, HookRequest, HookTicket)>>,
    /// There is no room for questions.
    pub(crate) full: AtomicBool,
    /// How often somebody went whose questions need no answer.
    pub(crate) forgotten: AtomicU64,
    /// How often keys were wanted.
    pub(crate) keys_wanted: AtomicU64,
    /// What sessions have said of feeds, and by which proxy.
    words: Mutex<Vec<(FeedId, String, FeedWord)>>,
    /// There is no room for what is published to feeds.
    pub(crate) deaf: AtomicBool,
}

impl ControlPlane for Backend {
    fn ask(
        &self,
        core: usize,
        hook: Box<HookRequest>,
        question: HookTicket,
    ) -> Result<(), HookTicket> {
        if self.full.load(Ordering::Relaxed) {
            return Err(question);
        }
        self.asked.lock().expect("no panic").push_back((core, *hook, question));
        Ok(())
    }

    fn forget(&self, _: Asking) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    fn feed(&self, feed: FeedId, proxy: &str, word: FeedWord) -> bool {
        if self.deaf.load(Ordering::Relaxed) && matches!(word, FeedWord::Publish(..)) {
            return false;
        }
        self.words.lock().expect("no panic").push((feed, proxy.to_owned(), word));
        true
    }

    fn serve(&self, passed: Detached) -> Result<(), Detached> {
        Err(passed)
    }

    fn want_keys(&self) {
        self.keys_wanted.fetch_add(1, Ordering::Relaxed);
    }
}

/// A question that the backend thinks about.
pub(crate) struct Asked {
    pub(crate) core: usize,
    pub(crate) request: HookRequest,
    pub(crate) question: HookTicket,
}

/// An order about all connections of a user, and whether all cores are done with it.
pub(crate) fn order_of(user: &str, action: Action) -> (UserOrder, Arc<AtomicBool>) {
    let done = Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    let order = UserOrder {
        user: user.into(),
        client: None,
        spare: Vec::new(),
        action,
        done: Gather::new(move |_: Vec<usize>| flag.store(true, Ordering::Relaxed)),
    };
    (order, done)
}

/// A gateway with its backend and its clocks.
pub(crate) struct Site {
    pub(crate) world: World<Gateway>,
    pub(crate) backend: Arc<Backend>,
    cores: usize,
}

impl Site {
    /// One core with these tables of configuration besides those that all tests have.
    pub(crate) fn new(tables: &str) -> Self {
        Self::with_cores(1, tables)
    }

    /// Likewise with so many cores.
    pub(crate) fn with_cores(cores: usize, tables: &str) -> Self {
        Self::in_memory(cores, tables, HomeLimits::default())
    }

    /// Likewise with these limits of what channels take.
    pub(crate) fn in_memory(cores: usize, tables: &str, limits: HomeLimits) -> Self {
        BEHIND.set(0);
        crate::support::events::can_be_heard();
        let file = Some(PathBuf::from("a.toml"));
        let sources = Sources { file, ..Sources::default() };
        let engine = if tables.contains(ENGINE) { "" } else { ENGINE };
        let loaded = Options::from_text(&sources, &format!("{engine}{tables}\n{COMMON}"));
        let options = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).options;
        let config = options.engine_config();
        let placement = Placement::new(cores as u16, 1);
        let posts = Budget::new(options.emulation.max_waiting.0);
        let backend = Arc::new(Backend::default());
        let seed = Seed {
            placement,
            limits,
            rules: Arc::new(Rulebook::new(options.gateway_plan()).expect("the options hold")),
            control: backend.clone(),
            names: Arc::new(SessionNames::new("here".to_owned())),
            posts,
            broker: None,
            unix,
            keeping: Keeping::default(),
        };
        let world = World::new(config, cores, |start| Gateway::new(start, &seed));
        Self { world, backend, cores }
    }

    /// Unix time in seconds.
    pub(crate) fn now(&self) -> i64 {
        BEGINNING + self.world.now().as_secs() as i64 - BEHIND.get()
    }

    /// The clock of the world is behind that of the cores by so many seconds from now on.
    pub(crate) fn put_back(&self, seconds: i64) {
        BEHIND.set(seconds);
    }

    /// The n-th channel whose home is this core.
    pub(crate) fn channel_of(&self, core: usize, n: usize) -> String {
        let placement = Placement::new(self.cores as u16, 1);
        let names = (0..).map(|n| format!("channel{n}"));
        names.filter(|name| placement.home(name) == core).nth(n).expect("some")
    }

    pub(crate) fn run(&mut self) {
        self.world.run();
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        self.world.advance(time);
    }

    pub(crate) fn seconds(&mut self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }

    /// Opens a WebSocket with these headers, which must be accepted.
    pub(crate) fn open(&mut self, core: usize, target: &str, headers: &[(&str, &str)]) -> Peer {
        let client = self.world.open(core, target, headers);
        Peer::new(client.unwrap_or_else(|answer| panic!("refused: {answer:?}")))
    }

    /// One core takes a turn, and no other.
    pub(crate) fn turn(&mut self, core: usize) {
        self.world.turn(core);
    }

    /// A letter that waits for the core's next turn. False: there is no room for it.
    pub(crate) fn send(&self, core: usize, letter: letters::Letter) -> bool {
        self.world.handle().post(core, CoreEvent::Hub(letter)).is_ok()
    }

    /// A connection that waits to be accepted.
    pub(crate) fn knock(&mut self, core: usize) -> Client {
        self.world.knock(core)
    }

    /// Sends a request, whose answer may go on.
    pub(crate) fn request(&mut self, core: usize, request: &str) -> Client {
        let client = self.world.connect(core);
        client.bytes(request.as_bytes());
        self.run();
        client
    }

    /// What an operator sees of a user's connections on a core.
    pub(crate) fn connections(&mut self, core: usize, user: &str) -> Vec<Connection> {
        let answer = Arc::new(Mutex::new(None));
        let slot = answer.clone();
        let reply = Reply::new(move |it| *slot.lock().expect("no panic") = Some(it));
        let inspect = CoreEvent::Inspect(Box::new(Inspect::User(user.into(), 100, reply)));
        self.world.handle().post(core, inspect).expect("the core has room");
        self.run();
        let answer = answer.lock().expect("no panic").take();
        answer.expect("an answer").expect("connections")
    }

    /// A WebSocket on the first core that has not connected.
    pub(crate) fn session(&mut self) -> Peer {
        self.open(0, PATH, &[])
    }

    /// A connection of this user on the first core; "" is with no token.
    pub(crate) fn connected(&mut self, user: &str) -> Peer {
        self.connected_on(0, user)
    }

    /// Likewise on this core.
    pub(crate) fn connected_on(&mut self, core: usize, user: &str) -> Peer {
        let mut peer = self.open(core, PATH, &[]);
        let request = match user {
            "" => json!({}),
            user => json!({"token": token(&json!({"sub": user}))}),
        };
        peer.connect(self, request);
        peer
    }

    /// The next question that the backend was asked, if there is one.
    pub(crate) fn try_asked(&self) -> Option<Asked> {
        let next = self.backend.asked.lock().expect("no panic").pop_front();
        next.map(|(core, request, question)| Asked { core, request, question })
    }

    /// Likewise; there must be one.
    pub(crate) fn asked(&self) -> Asked {
        self.try_asked().expect("the backend is asked")
    }

    /// The backend answers.
    pub(crate) fn answer(&mut self, asked: Asked, reply: HookReply) {
        self.conclude(asked, Ok(reply));
    }

    /// Likewise with anything.
    pub(crate) fn conclude(&mut self, asked: Asked, result: HookResult) {
        let Asked { core, question, .. } = asked;
        let answer = HookAnswer { question, result, room: Box::new(()) };
        let posted = self.world.handle().post_urgent(core, CoreEvent::Hook(Box::new(answer)));
        posted.expect("the core is there");
        self.run();
    }

    /// What sessions have said of feeds since the last look.
    pub(crate) fn words(&self) -> Vec<(FeedId, String, FeedWord)> {
        std::mem::take(&mut *self.backend.words.lock().expect("no panic"))
    }

    /// The backend says something on a feed.
    pub(crate) fn tell(&mut self, feed: FeedId, said: FeedSaid) {
        let news = FeedNews { feed, said, room: Box::new(()) };
        let core = usize::from(feed.from.core);
        let posted = self.world.handle().post_urgent(core, CoreEvent::Feed(Box::new(news)));
        posted.expect("the core is there");
        self.run();
    }

    /// The server API wants something of a user's connections.
    pub(crate) fn order(&mut self, user: &str, action: Action) {
        let (order, done) = order_of(user, action);
        self.post(0, letters::Letter::Order(Arc::new(order)));
        assert!(done.load(Ordering::Relaxed), "all cores are done with it");
    }

    /// The same of all connections of a user on the first core, as soon as the home core of a
    /// channel has come to what it was asked before this: what it is asked after it is answered
    /// after the order.
    pub(crate) fn order_behind(&mut self, user: &str, action: Action, channel: &str) {
        let handle = self.world.handle();
        let (order, _) = order_of(user, action);
        let order = CoreEvent::Hub(letters::Letter::Order(Arc::new(order)));
        let reply = Reply::new(move |_| _ = handle.post(0, order));
        let (question, asker) = (letters::Question::PresenceStats, Asker::Control(reply));
        let ask = Ask { channel: channel.into(), question, asker };
        let ask = CoreEvent::Hub(letters::Letter::Ask(Box::new(ask)));
        self.world.handle().post(0, ask).expect("the core has room");
    }

    /// The server API publishes.
    pub(crate) fn publish(&mut self, channel: &str, data: &str) {
        let publish = Publish { data: data.to_owned().into(), ..Publish::default() };
        self.question(channel, letters::Question::Publish(publish)).expect("published");
    }

    /// The server API asks something of a channel.
    pub(crate) fn question(
        &mut self,
        channel: &str,
        question: letters::Question,
    ) -> Result<Answer, ringhold::gateway::wire::Error> {
        let answer = Arc::new(Mutex::new(None));
        let slot = answer.clone();
        let reply = Reply::new(move |it| *slot.lock().expect("no panic") = Some(it));
        let asker = Asker::Control(reply);
        let ask = Ask { channel: channel.into(), question, asker };
        self.post(0, letters::Letter::Ask(Box::new(ask)));
        let answer = answer.lock().expect("no panic").take();
        answer.expect("an answer")
    }

    fn post(&mut self, core: usize, letter: letters::Letter) {
        let posted = self.world.handle().post(core, CoreEvent::Hub(letter));
        posted.expect("the core has room");
        self.run();
    }

    /// What this core has counted.
    pub(crate) fn stats_of(&mut self, core: usize) -> GatewayStats {
        let answer = Arc::new(Mutex::new(None));
        let slot = answer.clone();
        let reply = Reply::new(move |it| *slot.lock().expect("no panic") = Some(it));
        self.world.handle().post(core, CoreEvent::Stats(reply)).expect("the core has room");
        self.run();
        let answer = answer.lock().expect("no panic").take();
        answer.expect("an answer").expect("figures")
    }

    /// What all cores have counted.
    pub(crate) fn stats(&mut self) -> GatewayStats {
        let mut all = GatewayStats::default();
        for core in 0..self.cores {
            all.add(&self.stats_of(core));
        }
        all
    }

    /// What the engine has counted.
    pub(crate) fn engine(&self) -> Stats {
        self.world.stats()
    }

    /// Asserts that nothing is held for anybody.
    pub(crate) fn empty(&mut self) {
        let c = self.stats().counters;
        let held = [c.clients, c.users, c.subscriptions, c.session_bytes, c.filter_bytes];
        assert_eq!(held, [0; 5], "clients, users, subscriptions, bytes of sessions and filters");
        assert_eq!((c.channels, c.deadlines), (0, 0), "channels with subscribers, deadlines");
        assert_eq!(self.engine().counters.panics, 0);
    }
}

/// Where clients connect.
pub(crate) const PATH: &str = "/connection/websocket";

/// A token of the tests with these claims.
pub(crate) fn token(claims: &Value) -> String {
    crate::support::gateway::token(claims)
}

/// A client, and what it was told.
pub(crate) struct Peer {
    pub(crate) client: Client,
    heard: VecDeque<Value>,
    ended: Option<(u16, String)>,
    number: u64,
}

impl Peer {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, heard: VecDeque::new(), ended: None, number: 1 }
    }

    /// Sends commands, a message.
    pub(crate) fn say(&self, commands: &[Value]) {
        let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
        self.client.text(&lines.join("\n"));
    }

    /// Reads what has come.
    fn read(&mut self) {
        while let Some(received) = self.client.next() {
            match received {
                Received::Text(text) => self.heard.extend(objects(&text)),
                Received::Close(code, reason) => self.ended = Some((code.0, reason)),
                Received::End => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// A command by its name, sent; its number.
    pub(crate) fn command(&mut self, site: &mut Site, name: &str, request: Value) -> u64 {
        self.number += 1;
        let mut command = json!({"id": self.number});
        command[name] = request;
        self.say(&[command]);
        site.run();
        self.number
    }

    /// The reply to a command, if it is there.
    pub(crate) fn reply(&mut self, number: u64) -> Option<Value> {
        self.read();
        let at = self.heard.iter().position(|it| it["id"] == json!(number))?;
        self.heard.remove(at)
    }

    /// A command, and its reply.
    pub(crate) fn ask(&mut self, site: &mut Site, name: &str, request: Value) -> Value {
        let number = self.command(site, name, request);
        let reply = self.reply(number);
        reply.unwrap_or_else(|| panic!("no reply to {name}; {:?} {:?}", self.heard, self.ended))
    }

    /// A command that succeeds: its result.
    pub(crate) fn result(&mut self, site: &mut Site, name: &str, request: Value) -> Value {
        let mut reply = self.ask(site, name, request);
        assert!(reply.get(name).is_some(), "{name}: {reply}");
        reply[name].take()
    }

    /// Connects, which succeeds.
    pub(crate) fn connect(&mut self, site: &mut Site, request: Value) -> Value {
        self.result(site, "connect", request)
    }

    /// Subscribes, which succeeds.
    pub(crate) fn subscribe(&mut self, site: &mut Site, channel: &str) -> Value {
        self.result(site, "subscribe", json!({"channel": channel}))
    }

    /// Pushes so far, in their order; what each is about.
    pub(crate) fn pushes(&mut self) -> Vec<Value> {
        self.read();
        let of_push = |it: &Value| it.get("push").is_some();
        let (pushes, rest): (Vec<Value>, Vec<Value>) = self.heard.drain(..).partition(of_push);
        self.heard = rest.into();
        pushes.into_iter().map(|mut it| it["push"].take()).collect()
    }

    /// All that came, in its order.
    pub(crate) fn heard(&mut self) -> Vec<Value> {
        self.read();
        self.heard.drain(..).collect()
    }

    /// The one push there is.
    pub(crate) fn push(&mut self) -> Value {
        let mut pushes = self.pushes();
        assert_eq!(pushes.len(), 1, "{pushes:?}, {:?}", self.ended);
        pushes.remove(0)
    }

    /// How the server has closed the connection, if it has.
    pub(crate) fn ended(&mut self) -> Option<u16> {
        self.read();
        let (code, reason) = self.ended.as_ref()?;
        assert_eq!(reason, words_of_close(*code));
        Some(*code)
    }

    /// Goes, and the server notices.
    pub(crate) fn leave(self, site: &mut Site) {
        self.client.leave();
        site.run();
    }
}
