//! Numbered publications at a rate, and subscribers that return as SDKs do: what each of them has
//! seen is compared with what was acknowledged.
//!
//! What must hold, whatever happened to the broker: nothing twice, nothing out of order, and
//! nothing missing between two moments at which a subscriber was told to begin anew.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::gateway::{Gateway, Session};

/// The number that ends subscribers.
const END: u64 = 0;

/// An acknowledged publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) number: u64,
    pub(crate) epoch: String,
    pub(crate) offset: u64,
}

/// What came of publishing.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) acked: Vec<Acked>,
    /// Answered with error 100.
    pub(crate) refused: u64,
    /// The longest time without an acknowledgement.
    pub(crate) gap: Duration,
}

/// What a subscriber has seen between two tellings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretch {
    epoch: String,
    /// Before the first.
    since: u64,
    /// Numbers of `since + 1` and so on.
    numbers: Vec<u64>,
}

/// A subscriber's life.
#[derive(Debug)]
pub(crate) struct Story {
    stretches: Vec<Stretch>,
    /// Unsubscribed by the server.
    pub(crate) told: u64,
}

/// Two nodes on one broker, and two subscribers on each.
pub(crate) struct Pair {
    channel: &'static str,
    pub(crate) nodes: [Gateway; 2],
    subscribers: Vec<JoinHandle<Story>>,
    pub(crate) acked: Vec<Acked>,
    next: u64,
}

impl Pair {
    pub(crate) fn new(channel: &'static str, nodes: [Gateway; 2]) -> Self {
        let both = nodes.iter().chain(&nodes);
        let subscribers = both.map(|node| subscriber(node, channel)).collect();
        Self { channel, nodes, subscribers, acked: Vec::new(), next: 1 }
    }

    /// Publishes so many, one after the other and through both nodes, each as often as it takes.
    /// How long it took.
    pub(crate) fn publish(&mut self, count: u64) -> Duration {
        let begun = Instant::now();
        for _ in 0..count {
            super::until("an acknowledgement", || {
                // A number that was refused may be there all the same, and is not given again.
                self.next += 1;
                let node = &self.nodes[self.next as usize % 2];
                let acked = publish(node, self.channel, self.next);
                let there = acked.is_some();
                self.acked.extend(acked);
                there
            });
        }
        begun.elapsed()
    }

    /// Publishes through both nodes, 100 a second each, while something is done.
    pub(crate) fn publish_through(&mut self, harm: impl FnOnce(&[Gateway; 2])) -> [Published; 2] {
        let (stop, first) = (AtomicBool::new(false), self.next + 1);
        let nodes = &self.nodes;
        let all = std::thread::scope(|scope| {
            let ends = Ends(&stop);
            let both = [0, 1].map(|n| {
                publisher(scope, &nodes[n], self.channel, (first + n as u64, 2), PAUSE, &stop)
            });
            std::thread::sleep(BESIDE);
            harm(nodes);
            std::thread::sleep(BESIDE);
            drop(ends);
            both.map(|one| one.join().expect("a publisher without a fault"))
        });
        for published in &all {
            self.acked.extend(published.acked.iter().cloned());
        }
        self.next += 1_000_000;
        all
    }

    /// Ends all, and says how often subscribers were told. Nothing is missing that nobody was told
    /// of.
    pub(crate) fn end(&mut self, what: &str, published: &[Published]) -> Vec<u64> {
        self.publish(10);
        let subscribers = std::mem::take(&mut self.subscribers);
        let stories = finish(&self.nodes[0], self.channel, subscribers);
        for story in &stories {
            let missing = missing(story, &self.acked);
            assert!(missing.is_empty(), "{what}: {missing:?} of {story:?}");
        }
        let told: Vec<_> = stories.iter().map(|story| story.told).collect();
        let refused: u64 = published.iter().map(|one| one.refused).sum();
        let gap = published.iter().map(|one| one.gap).max().unwrap_or_default();
        let acked = self.acked.len();
        println!(
            "{what}: {acked} acknowledged, {refused} answered with error 100, {gap:?} without an \
             acknowledgement; lost untold 0, doubled 0, told {told:?}"
        );
        told
    }
}

/// Between two publications of one node.
const PAUSE: Duration = Duration::from_millis(10);

/// Publications go on for so long before and after what is done to the broker.
const BESIDE: Duration = Duration::from_millis(500);

/// Ends publishers, also where the test fails: else it would wait for them for ever.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Publishes numbers from `first` on in steps of `step`, one every `pause`, until it is stopped.
pub(crate) fn publisher<'scope>(
    scope: &'scope Scope<'scope, '_>,
    node: &'scope Gateway,
    channel: &'static str,
    (first, step): (u64, u64),
    pause: Duration,
    stop: &'scope AtomicBool,
) -> ScopedJoinHandle<'scope, Published> {
    scope.spawn(move || {
        let mut done = Published::default();
        let (mut number, mut last) = (first, Instant::now());
        while !stop.load(Ordering::SeqCst) {
            match publish(node, channel, number) {
                Some(acked) => {
                    done.gap = done.gap.max(last.elapsed());
                    last = Instant::now();
                    done.acked.push(acked);
                }
                None => done.refused += 1,
            }
            number += step;
            std::thread::sleep(pause);
        }
        done
    })
}

/// One publication; `None`: temporary trouble.
pub(crate) fn publish(node: &Gateway, channel: &str, number: u64) -> Option<Acked> {
    let reply = node.api_reply("publish", &json!({"channel": channel, "data": number}));
    if let Some(error) = reply.get("error") {
        assert_eq!(error["code"], 100, "{reply}");
        return None;
    }
    let result = &reply["result"];
    let epoch = result["epoch"].as_str().expect("an epoch").to_owned();
    Some(Acked { number, epoch, offset: result["offset"].as_u64().expect("an offset") })
}

/// A subscriber on a thread of its own, until [`finish`].
pub(crate) fn subscriber(node: &Gateway, channel: &'static str) -> JoinHandle<Story> {
    let mut session = node.connected("ann");
    let subscribed = session.subscribe(channel);
    std::thread::spawn(move || follow(session, channel, &subscribed))
}

fn follow(mut session: Session, channel: &str, subscribed: &Value) -> Story {
    let mut story = Story { stretches: Vec::new(), told: 0 };
    let mut current = begin(subscribed);
    loop {
        let mut push = session.push();
        assert_eq!(push["channel"], json!(channel), "{push}");
        if push.get("unsubscribe").is_some() {
            assert_eq!(push["unsubscribe"]["code"], 2500, "{push}");
            story.told += 1;
            let since = current.since + current.numbers.len() as u64;
            let position = json!({
                "channel": channel, "recover": true, "epoch": current.epoch, "offset": since,
            });
            let answer = return_to(&mut session, &position);
            let missed = answer["publications"].as_array().cloned().unwrap_or_default();
            if answer["recovered"] == true && answer["epoch"] == current.epoch.as_str() {
                if missed.iter().any(|publication| current.take(publication)) {
                    break;
                }
            } else {
                story.stretches.push(std::mem::replace(&mut current, begin(&answer)));
            }
        } else if current.take(&push["pub"].take()) {
            break;
        }
    }
    story.stretches.push(current);
    story
}

fn begin(subscribed: &Value) -> Stretch {
    let epoch = subscribed["epoch"].as_str().unwrap_or_default().to_owned();
    Stretch { epoch, since: subscribed["offset"].as_u64().unwrap_or(0), numbers: Vec::new() }
}

/// Subscribes again, as often as it takes.
fn return_to(session: &mut Session, position: &Value) -> Value {
    let deadline = Instant::now() + super::PATIENCE;
    loop {
        let mut reply = session.ask("subscribe", position.clone());
        if reply.get("subscribe").is_some() {
            return reply["subscribe"].take();
        }
        assert_eq!(reply["error"]["code"], 100, "{reply}");
        assert!(Instant::now() < deadline, "no way back");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Stretch {
    /// The next publication. Whether it is the last one.
    fn take(&mut self, publication: &Value) -> bool {
        let (number, offset) = (publication["data"].as_u64(), publication["offset"].as_u64());
        let (number, offset) = number.zip(offset).unwrap_or_else(|| panic!("{publication}"));
        let next = self.since + self.numbers.len() as u64 + 1;
        assert_eq!(offset, next, "once each, in order: {self:?}");
        self.numbers.push(number);
        number == END
    }

    fn has(&self, acked: &Acked) -> bool {
        let place = acked.offset.checked_sub(self.since + 1);
        let number = place.and_then(|place| self.numbers.get(usize::try_from(place).ok()?));
        self.epoch == acked.epoch && number == Some(&acked.number)
    }
}

/// Ends subscribers, and says what they have seen.
pub(crate) fn finish(
    node: &Gateway,
    channel: &str,
    subscribers: Vec<JoinHandle<Story>>,
) -> Vec<Story> {
    let deadline = Instant::now() + super::PATIENCE;
    while !subscribers.iter().all(JoinHandle::is_finished) {
        assert!(Instant::now() < deadline, "a subscriber does not hear of the end");
        let _ = publish(node, channel, END);
        std::thread::sleep(Duration::from_millis(100));
    }
    subscribers.into_iter().map(|story| story.join().expect("a story without a fault")).collect()
}

/// Acknowledged publications that a subscriber has not seen although nobody told it that something
/// is missing. Panics where it has seen a number twice.
pub(crate) fn missing(story: &Story, acked: &[Acked]) -> Vec<Acked> {
    let mut seen = BTreeMap::new();
    for number in story.stretches.iter().flat_map(|stretch| &stretch.numbers) {
        *seen.entry(*number).or_insert(0) += 1;
    }
    let twice: Vec<_> =
        seen.iter().filter(|(number, times)| **number != END && **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?} came twice: {story:?}");
    let untold = |acked: &&Acked| {
        // What came before the first stretch or between two is what a telling is about.
        let last = story.stretches.last().expect("there is one");
        let after = acked.epoch == last.epoch && acked.offset > last.since;
        (story.stretches.len() == 1 || after)
            && !story.stretches.iter().any(|stretch| stretch.has(acked))
    };
    acked.iter().filter(untold).cloned().collect()
}
