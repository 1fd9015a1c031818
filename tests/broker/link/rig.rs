//! Two cores' side of a broker: asks, and collects what they would hear.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ringhold::broker::resp::Reply;
use ringhold::broker::{Cores, Queue, Thread, View, start};
use ringhold::config::{Options, Sources};
use ringhold::gateway::broker::{
    Broker, Fault, Happening, Kept, Life, Message, Outcome, Publish, Request, Scope, Ticket,
};
use ringhold::gateway::placement::Placement;
use ringhold::gateway::stream::Epoch;

use crate::support::PATIENCE;

pub(crate) const CORES: u16 = 2;

struct Desk(Sender<(usize, Vec<Happening>)>);

impl Cores for Desk {
    fn post_reserved(&self, core: usize, batch: Vec<Happening>) -> bool {
        self.0.send((core, batch)).is_ok()
    }

    fn post_urgent(&self, core: usize, batch: Vec<Happening>) {
        let _ = self.0.send((core, batch));
    }
}

/// See the module's text.
pub(crate) struct Rig {
    pub(crate) queue: Arc<Queue>,
    pub(crate) view: View,
    thread: Option<Thread>,
    heard: Receiver<(usize, Vec<Happening>)>,
    answers: HashMap<u64, Result<Outcome, Fault>>,
    pub(crate) messages: Vec<(String, Message)>,
    /// Of core 0.
    pub(crate) lives: Vec<Option<Life>>,
    /// Parts of which core 0 has heard that nothing comes, and not that it comes again.
    pub(crate) deaf: Vec<Scope>,
    pub(crate) listening: Vec<String>,
    /// Channels that cannot be listened to.
    pub(crate) refused: Vec<(String, Fault)>,
    next: u64,
}

pub(crate) fn options(tables: &str) -> Options {
    all_options(&format!("[engine]\ntype = \"redis\"\n{tables}"))
}

/// Those with these keys of `[broker.nats]`.
pub(crate) fn nats_options(keys: &str) -> Options {
    let broker = "[broker]\nenabled = true\ntype = \"nats\"\n[broker.nats]\n";
    // Where nothing is said of it, a server that has to wait for its processor is not away.
    let patience = match keys.contains("write_timeout") {
        true => "",
        false => "write_timeout = \"60s\"\n",
    };
    all_options(&format!("{broker}{patience}{keys}"))
}

fn all_options(text: &str) -> Options {
    let file = Some("ringhold.toml".into());
    let sources = Sources { file, variables: Default::default(), sets: Vec::new() };
    Options::from_text(&sources, text).unwrap_or_else(|wrong| panic!("{wrong}")).options
}

impl Rig {
    /// With these keys of `[engine.redis]`.
    pub(crate) fn start(keys: &str) -> Self {
        Self::with(&options(&format!("[engine.redis]\n{keys}")))
    }

    /// With these keys of `[broker.nats]`.
    pub(crate) fn start_nats(keys: &str) -> Self {
        Self::with(&nats_options(keys))
    }

    /// The same, once the cores have heard that it is there.
    pub(crate) fn on_nats(keys: &str) -> Self {
        let mut rig = Self::start_nats(keys);
        rig.until("the broker to be there", |rig| !rig.lives.is_empty());
        rig
    }

    fn with(options: &Options) -> Self {
        let config = options.broker_config("node").unwrap().expect("a broker");
        let queue = Queue::new(CORES.into(), config.limits);
        let view = View::new(&config, queue.clone());
        let (sender, heard) = channel();
        let placement = Placement::new(CORES, 7);
        let thread = start(config, view.clone(), placement, move || Desk(sender)).unwrap();
        Self {
            queue,
            view,
            thread: Some(thread),
            heard,
            answers: HashMap::new(),
            messages: Vec::new(),
            lives: Vec::new(),
            deaf: Vec::new(),
            listening: Vec::new(),
            refused: Vec::new(),
            next: 0,
        }
    }

    /// The same for one server, once the cores have heard that it is there.
    pub(crate) fn connected(keys: &str) -> Self {
        let mut rig = Self::start(keys);
        rig.until("the broker to be there", |rig| !rig.lives.is_empty());
        rig
    }

    /// Asks. The ticket of what is answered.
    pub(crate) fn ask(&mut self, request: impl FnOnce(Ticket) -> Request) -> u64 {
        self.next += 1;
        let request = request(Ticket(self.next));
        self.queue.request(0, request).expect("there is room");
        self.queue.ring(0);
        self.next
    }

    /// Asks for publications that the thread finds all at once, and waits for the results.
    pub(crate) fn results(&mut self, all: Vec<Publish>) -> Vec<Result<Outcome, Fault>> {
        let put = |publish: Publish| {
            self.next += 1;
            let request = Request::Publish(Ticket(self.next), Box::new(publish));
            self.queue.request(0, request).expect("there is room");
            self.next
        };
        let tickets: Vec<_> = all.into_iter().map(put).collect();
        self.queue.ring(0);
        tickets.into_iter().map(|ticket| self.answer(ticket)).collect()
    }

    /// Asks and waits for the result.
    pub(crate) fn result(
        &mut self,
        request: impl FnOnce(Ticket) -> Request,
    ) -> Result<Outcome, Fault> {
        let ticket = self.ask(request);
        self.answer(ticket)
    }

    /// The answer to what was asked with this ticket.
    pub(crate) fn answer(&mut self, ticket: u64) -> Result<Outcome, Fault> {
        self.until("an answer", |rig| rig.answers.contains_key(&ticket));
        self.answers.remove(&ticket).expect("it is there")
    }

    /// How many answers have come that nobody has taken.
    pub(crate) fn answered(&self) -> u64 {
        self.answers.len() as u64
    }

    /// Listens, and waits until the server has acknowledged it.
    pub(crate) fn listen(&mut self, names: &[&str]) {
        self.listening.clear();
        let channels = names.iter().map(|name| (*name).into()).collect();
        self.ask(|_| Request::Listen(channels));
        let count = names.len();
        self.until("channels to be listened to", |rig| rig.listening.len() == count);
    }

    /// Collects what comes until something holds.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited for {what}");
            self.collect(Duration::from_millis(50));
        }
    }

    /// Takes what comes within so long.
    pub(crate) fn collect(&mut self, time: Duration) {
        let Ok((core, batch)) = self.heard.recv_timeout(time) else { return };
        for happening in batch {
            match happening {
                Happening::Answer(Ticket(ticket), result) => {
                    let twice = self.answers.insert(ticket, result);
                    assert!(twice.is_none(), "{ticket} is answered twice");
                }
                Happening::Message(name, message) => {
                    self.messages.push((name.into(), plain(message)));
                }
                Happening::Listening(names) => {
                    self.listening.extend(names.iter().map(|name| name.to_string()));
                }
                Happening::Refused(names, fault) => {
                    self.refused.extend(names.iter().map(|name| (name.to_string(), fault)));
                }
                Happening::Back(scope, life) if core == 0 => {
                    self.lives.push(Some(life));
                    self.deaf.retain(|deaf| !is_same(deaf, &scope));
                }
                Happening::Deaf(scope) if core == 0 => {
                    self.lives.push(None);
                    self.deaf.push(scope);
                }
                Happening::Back(..) | Happening::Deaf(_) => {}
                Happening::Suspect(scope) => panic!("nothing is refused here: {scope:?}"),
            }
        }
    }

    /// Why the first server counts as away.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.view.conditions[0].report(Instant::now()).unhealthy
    }

    /// Waits until the trouble with the first server is told in these words.
    pub(crate) fn complains(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let trouble = self.trouble();
            if trouble.as_ref().is_some_and(|trouble| trouble.contains(words)) {
                return;
            }
            assert!(Instant::now() < deadline, "{words:?} is not in {trouble:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the thread; nothing is left unanswered.
    pub(crate) fn finish(mut self) {
        self.end();
        assert_eq!((self.queue.unanswered(), self.queue.bytes()), (0, 0));
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.finish();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end();
    }
}

fn is_same(one: &Scope, other: &Scope) -> bool {
    match (one, other) {
        (Scope::Part(one), Scope::Part(other)) => Arc::ptr_eq(one, other),
        (one, other) => matches!((one, other), (Scope::All, Scope::All)),
    }
}

/// What was published, without what says which attempt it was.
pub(crate) fn said(data: &[u8]) -> &[u8] {
    match data {
        [data @ .., 0xfd, 0x7f, _, _, _, _] => data,
        data => data,
    }
}

/// The same of what `redis-cli` prints.
pub(crate) fn said_in(line: &str) -> &str {
    line.split('\u{fffd}').next().unwrap_or(line)
}

/// The words of a command, as servers of the tests read it.
pub(crate) fn words(command: &Reply<'_>) -> Vec<String> {
    let parts = command.list().expect("a command").iter().filter_map(Reply::text);
    parts.map(|part| String::from_utf8_lossy(said(part)).into_owned()).collect()
}

fn plain(message: Message) -> Message {
    match message {
        Message::Published { epoch, offset, data } => {
            let data = data.slice(..said(&data).len());
            Message::Published { epoch, offset, data }
        }
        message => message,
    }
}

/// What a publication is kept by.
pub(crate) fn kept(size: u32) -> Kept {
    Kept {
        size,
        ttl: Duration::from_secs(60),
        meta_ttl: Duration::from_secs(600),
        renew: false,
        fresh: Epoch::parse("freshone").unwrap(),
    }
}

/// A publication with a history.
pub(crate) fn publish(channel: &str, data: &str, sequence: u64) -> Publish {
    Publish {
        channel: channel.into(),
        data: data.to_owned().into(),
        stream: Some(kept(100)),
        delta: false,
        idempotency_key: String::new(),
        idempotency_ttl: Duration::from_secs(300),
        version: 0,
        version_epoch: String::new(),
        sequence,
    }
}

pub(crate) fn request(publish: Publish) -> impl FnOnce(Ticket) -> Request {
    move |ticket| Request::Publish(ticket, Box::new(publish))
}

/// The offset of a publication that was made.
pub(crate) fn offset(result: Result<Outcome, Fault>) -> u64 {
    match result {
        Ok(Outcome::Published { position: Some((_, offset)), suppressed: false }) => offset,
        other => panic!("{other:?}"),
    }
}
