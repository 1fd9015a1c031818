//! Cores joined by queues: what the engine is to the hubs in earnest.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringhold::Frame;
use ringhold::gateway::delivery::Happening;
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::hub::Hub;
use ringhold::gateway::hub_port::{Event, HubPort, Link, Refused};
use ringhold::gateway::letters::{Answer, Ask, Asker, Letter, Publish, Question, Reply};
use ringhold::gateway::placement::Placement;
use ringhold::gateway::wire::Error;
use ringhold::gateway::wire::messages::SubscribeResult;
use ringhold::internals::rng::Rng;

use super::truth::Truth;

/// What a connection got.
#[derive(Debug)]
pub enum Seen {
    Frame(Vec<u8>),
    Subscribed { ticket: u64, channel: String, result: Result<SubscribeResult, Error> },
    Unsubscribed { channel: String, server_side: bool, code: u32 },
    Answered { ticket: u64, answer: Result<Answer, Error> },
    Entered { ticket: u64 },
    Close(u16),
    Order,
}

pub struct Shared {
    pub now: Duration,
    pub rng: Rng,
    /// By destination and sender.
    queues: Vec<Vec<VecDeque<Letter>>>,
    /// Letters that one core's mailbox holds.
    pub capacity: usize,
    /// Cores that are behind with their deliveries.
    pub behind: Vec<usize>,
    pub inbox: HashMap<Link, Vec<Seen>>,
    pub truth: Truth,
    /// Letters with several publications.
    pub together: u64,
}

/// One core's view of the world.
struct Port<'a> {
    core: usize,
    shared: &'a mut Shared,
}

impl Port<'_> {
    fn put(&mut self, core: usize, letter: Letter) {
        let later = matches!(letter, Letter::Asks(_));
        assert!(later || core != self.core, "what concerns its own core is done at once");
        if let Letter::Subscribed(subscribed) = &letter {
            self.shared.truth.subscribed(subscribed.ticket(), subscribed.top(), self.shared.now);
        }
        self.shared.together += u64::from(matches!(letter, Letter::DeliverAll(_)));
        self.shared.queues[core][self.core].push_back(letter);
    }
}

impl HubPort for Port<'_> {
    fn now(&self) -> Duration {
        self.shared.now
    }

    fn random(&mut self) -> u64 {
        self.shared.rng.draw()
    }

    fn post(&mut self, core: usize, letter: Letter) -> Result<(), Refused> {
        let waiting: usize = self.shared.queues[core].iter().map(VecDeque::len).sum();
        if waiting < self.shared.capacity {
            self.put(core, letter);
            return Ok(());
        }
        let refused = match &letter {
            Letter::Deliver(delivery) => std::slice::from_ref(delivery),
            Letter::DeliverAll(deliveries) => deliveries,
            _ => &[],
        };
        for delivery in refused {
            match delivery.happening() {
                Happening::Published { item, .. } => {
                    self.shared.truth.refused(core, delivery.channel(), &item.data);
                }
                Happening::Join(..) | Happening::Leave(..) => self.shared.truth.joins_lost = true,
            }
        }
        Err(Refused)
    }

    fn post_reserved(&mut self, core: usize, letter: Letter) -> Result<(), Refused> {
        self.post(core, letter)
    }

    fn is_behind(&self, core: usize) -> bool {
        self.shared.behind.contains(&core)
    }

    fn post_urgent(&mut self, core: usize, letter: Letter) {
        self.put(core, letter);
    }

    fn send(&mut self, link: Link, frame: &Frame) {
        let inbox = self.shared.inbox.get_mut(&link).expect("sent to a connection that is gone");
        inbox.push(Seen::Frame(frame.payload().to_vec()));
    }

    fn event(&mut self, link: Link, event: Event<'_>) {
        let seen = match event {
            Event::Subscribed { ticket, channel, result, .. } => {
                self.shared.truth.subscribed_here(ticket, &result, self.shared.now);
                Seen::Subscribed { ticket, channel: channel.to_string(), result }
            }
            Event::Unsubscribed { channel, server_side, why, .. } => {
                Seen::Unsubscribed { channel: channel.to_string(), server_side, code: why.code }
            }
            Event::Answered { ticket, answer } => Seen::Answered { ticket, answer },
            Event::Entered { ticket } => Seen::Entered { ticket },
            Event::Close(disconnect) => Seen::Close(disconnect.code),
            Event::Order(_) => Seen::Order,
        };
        // Answers may come late.
        if let Some(inbox) = self.shared.inbox.get_mut(&link) {
            inbox.push(seen);
        }
    }
}

pub struct World {
    pub hubs: Vec<Hub>,
    pub shared: Shared,
}

impl World {
    pub fn new(cores: usize, seed: u64, limits: HomeLimits) -> Self {
        let placement = Placement::new(cores as u16, seed);
        let queues = (0..cores).map(|_| (0..cores).map(|_| VecDeque::new()).collect()).collect();
        Self {
            hubs: (0..cores).map(|core| Hub::new(core as u16, placement, limits)).collect(),
            shared: Shared {
                now: Duration::from_secs(1000),
                rng: Rng::new(seed),
                queues,
                capacity: usize::MAX,
                behind: Vec::new(),
                inbox: HashMap::new(),
                truth: Truth::default(),
                together: 0,
            },
        }
    }

    /// Lets a core's hub do something.
    pub fn at<T>(&mut self, core: usize, act: impl FnOnce(&mut Hub, &mut dyn HubPort) -> T) -> T {
        act(&mut self.hubs[core], &mut Port { core, shared: &mut self.shared })
    }

    pub fn home(&self, channel: &str) -> usize {
        self.hubs[0].placement().home(channel)
    }

    /// Asks from a core as the control plane does. The answer may be there at once.
    pub fn ask(&mut self, core: usize, channel: &str, question: Question) -> Asked {
        let asked = Asked::default();
        let asker = Asker::Control(asked.reply());
        let ask = Ask { channel: channel.into(), question, asker };
        self.asked(core, ask);
        asked
    }

    /// A question is at a core. If that is its home, the model hears of it.
    fn asked(&mut self, core: usize, ask: Ask) {
        if self.home(&ask.channel) == core
            && let Question::Publish(publish) = &ask.question
        {
            let (channel, answer) = (ask.channel.clone(), Asked::default());
            let now = self.shared.now;
            let expected = self.shared.truth.publish(&channel, publish, now);
            let (put, Asker::Control(reply)) = (answer.clone(), ask.asker) else {
                panic!("publications of the model are the control plane's");
            };
            let tap = Reply::new(move |answer: Result<Answer, Error>| {
                *put.0.lock().unwrap() = Some(answer.clone());
                reply.answer(answer);
            });
            let ask = Ask { asker: Asker::Control(tap), ..ask };
            self.at(core, |hub, out| hub.ask(out, ask)).expect("it is at home");
            let answer = answer.take().expect("home answers at once").expect("publishing works");
            self.shared.truth.published(&channel, expected, &answer, now);
        } else {
            // A refusal is an answer, too.
            let _ = self.at(core, |hub, out| hub.ask(out, ask));
        }
    }

    /// Asks for publications of channels with one home, in one letter.
    pub fn ask_all(&mut self, core: usize, publications: Vec<(&str, Publish)>) -> Vec<Asked> {
        let ask = |(channel, publish): (&str, Publish)| {
            let asked = Asked::default();
            let asker = Asker::Control(asked.reply());
            (Ask { channel: channel.into(), question: Question::Publish(publish), asker }, asked)
        };
        let (asks, asked) = publications.into_iter().map(ask).unzip();
        self.asked_all(core, asks);
        asked
    }

    /// Questions of one letter are at a core. If that is their home, the model hears of those that
    /// are answered within this turn; the others come back.
    fn asked_all(&mut self, core: usize, asks: VecDeque<Ask>) {
        let Some(first) = asks.front() else { return };
        if self.home(&first.channel) != core {
            return self.at(core, |hub, out| hub.letter(out, Letter::Asks(asks)));
        }
        let mut tapped = Vec::new();
        let tap = |ask: Ask| {
            let (Question::Publish(publish), Asker::Control(reply)) = (&ask.question, ask.asker)
            else {
                panic!("letters of the model are publications of the control plane");
            };
            let answer = Asked::default();
            tapped.push((ask.channel.clone(), publish.clone(), answer.clone()));
            let asker = Asker::Control(Reply::new(move |told: Result<Answer, Error>| {
                *answer.0.lock().unwrap() = Some(told.clone());
                reply.answer(told);
            }));
            Ask { asker, ..ask }
        };
        let asks = asks.into_iter().map(tap).collect();
        self.at(core, |hub, out| hub.letter(out, Letter::Asks(asks)));
        let now = self.shared.now;
        let mut goes_on = true;
        for (channel, publish, answer) in tapped {
            let Some(answer) = answer.take() else {
                goes_on = false;
                continue;
            };
            assert!(goes_on, "one was answered before another that came first");
            let expected = self.shared.truth.publish(&channel, &publish, now);
            let answer = answer.expect("publishing works");
            self.shared.truth.published(&channel, expected, &answer, now);
        }
    }

    /// Delivers one letter of a random pair of cores. False if there is none.
    pub fn step(&mut self) -> bool {
        self.step_with(true)
    }

    /// The same, for publications of clients: the model does not hear of them.
    pub fn step_as_it_is(&mut self) -> bool {
        self.step_with(false)
    }

    fn step_with(&mut self, model: bool) -> bool {
        let cores = self.hubs.len();
        let pairs = (0..cores * cores).map(|pair| (pair / cores, pair % cores));
        let waiting: Vec<_> =
            pairs.filter(|(to, from)| !self.shared.queues[*to][*from].is_empty()).collect();
        if waiting.is_empty() {
            return false;
        }
        let (to, from) = waiting[self.shared.rng.below(waiting.len() as u32) as usize];
        match self.shared.queues[to][from].pop_front() {
            Some(Letter::Ask(ask)) if model => self.asked(to, *ask),
            Some(Letter::Asks(asks)) if model => self.asked_all(to, asks),
            Some(letter) => self.at(to, |hub, out| hub.letter(out, letter)),
            None => {}
        }
        true
    }

    /// Delivers all letters.
    pub fn settle(&mut self) {
        while self.step() {}
    }

    /// All letters vanish, as if the cores they went to had ended.
    pub fn lose_letters(&mut self) {
        for queue in self.shared.queues.iter_mut().flatten() {
            queue.clear();
        }
    }

    /// Lets time pass for all cores, and settles.
    pub fn pass(&mut self, time: Duration) {
        self.shared.now += time;
        for core in 0..self.hubs.len() {
            self.at(core, |hub, out| hub.turn(out));
        }
        self.settle();
    }
}

/// A place where an answer comes.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<Mutex<Option<Result<Answer, Error>>>>);

impl Asked {
    fn reply(&self) -> Reply<Answer> {
        let put = self.clone();
        Reply::new(move |answer| *put.0.lock().unwrap() = Some(answer))
    }

    pub fn take(&self) -> Option<Result<Answer, Error>> {
        self.0.lock().unwrap().take()
    }
}
