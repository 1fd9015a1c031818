//! A client, as SDKs are: it connects, subscribes from where it was, answers pings, and comes back
//! when a connection ends or a subscription does. It looks at everything that it sees.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::dice::Dice;
use super::element::{Body, Element, Granted, Pub, What};
use super::link::{Event, Link, Transport};
use super::plan::{Kind, NODES};
use super::shared::{Phase, Record, Records, Shared, Stretch, lock};
use crate::support::PATIENCE;
use crate::support::gateway::token_of;

/// An SDK waits so long for an answer.
const ANSWER: Duration = Duration::from_secs(5);

struct Subscriber {
    shared: Arc<Shared>,
    number: usize,
    dice: Dice,
    channels: Vec<String>,
    records: Records,
    /// Storms that it has seen.
    storms: u64,
}

/// Why a connection is over.
enum Over {
    /// The client wants it.
    Left,
    /// The run is over.
    Done,
    /// The server, or the kernel.
    Ended(String),
}

/// Comes and goes until the run ends.
pub(crate) async fn live(shared: Arc<Shared>, number: usize) {
    let mut dice = Dice::new(shared.plan.seed, 5 << 40 | number as u64);
    let of = |kinds: &[Kind]| {
        let some = shared.channels.iter().filter(|(_, kind)| kinds.contains(kind));
        some.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let mut channels = Vec::new();
    for kinds in [&[Kind::Kept, Kind::Room][..], &[Kind::Kept], &[Kind::Short], &[Kind::Plain]] {
        let some = of(kinds);
        let one = &some[dice.below(some.len())];
        if !channels.contains(one) {
            channels.push(one.clone());
        }
    }
    let records = shared.records[number].clone();
    *lock(&records) = channels.iter().map(|name| (name.clone(), Record::default())).collect();
    let storms = shared.storms.load(Ordering::SeqCst);
    let mut client = Subscriber { shared, number, dice, channels, records, storms };
    while client.shared.phase() < Phase::Leave {
        let node = client.dice.below(NODES);
        let over = client.stay(node).await;
        lock(&client.records).values_mut().for_each(|record| record.live = false);
        let away = match over {
            Over::Done => return,
            Over::Left => client.dice.between((0.0, client.shared.plan.away)),
            Over::Ended(why) => {
                let counts = &client.shared.tally.counts;
                if client.shared.is_harmed(node) {
                    counts.ended.one();
                } else {
                    let text = format!("client {number} was sent away by node {node}: {why}");
                    client.shared.tally.fail(&text);
                }
                // As SDKs do, not all at once.
                client.dice.between((0.05, 0.5))
            }
        };
        tokio::time::sleep(away).await;
    }
}

impl Subscriber {
    /// One connection.
    async fn stay(&mut self, node: usize) -> Over {
        let address = self.shared.nodes[node];
        let connect =
            json!({"id": 1, "connect": {"token": token_of(&format!("u{}", self.number))}});
        let opened = tokio::time::timeout(ANSWER, Link::open(address, Transport::Json, &connect));
        let link = match opened.await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return Over::Ended(error.to_string()),
            Err(_) => return Over::Ended("no connection".to_owned()),
        };
        self.shared.tally.counts.connects.one();
        let stay = self.dice.unit().max(1e-6).ln() * -self.shared.plan.stay;
        let mut visit = Visit {
            node,
            link,
            next: 1,
            asked: vec![(1, None, Instant::now())],
            again: Vec::new(),
            until: Instant::now() + Duration::from_secs_f64(stay),
        };
        loop {
            match self.turn(&mut visit).await {
                Ok(()) => {}
                Err(over) => return over,
            }
        }
    }

    async fn turn(&mut self, visit: &mut Visit) -> Result<(), Over> {
        // Nothing is lost where it is given up: it does one thing that is ready.
        let _ = tokio::time::timeout(Duration::from_millis(100), visit.link.turn()).await;
        while let Some(event) = visit.link.next() {
            match event {
                Event::Element(element) => self.element(visit, element)?,
                Event::Close(code) => return Err(Over::Ended(format!("close {code}"))),
                Event::Broken(why) => return Err(self.wrong(&why)),
                Event::End(error) => {
                    return Err(Over::Ended(error.unwrap_or_else(|| "end".to_owned())));
                }
            }
        }
        let now = Instant::now();
        let all = std::mem::take(&mut visit.again);
        let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, at)| *at <= now);
        visit.again = later;
        for (channel, _) in due {
            self.subscribe(visit, &channel);
        }
        let waits = visit.asked.iter().map(|(_, _, since)| since.elapsed()).max();
        let waits = waits.unwrap_or_default();
        if waits > ANSWER && self.shared.is_harmed(visit.node) {
            self.shared.tally.counts.given_up.one();
            return Err(Over::Left);
        }
        if waits > PATIENCE {
            let node = visit.node;
            return Err(self.wrong(&format!("node {node} does not answer a command")));
        }
        self.may_leave(visit)
    }

    fn may_leave(&mut self, visit: &Visit) -> Result<(), Over> {
        match self.shared.phase() {
            Phase::Leave => return Err(Over::Done),
            Phase::Settle => return Ok(()),
            Phase::Run => {}
        }
        if self.shared.is_still() {
            return Ok(());
        }
        let storms = self.shared.storms.load(Ordering::SeqCst);
        let storm = storms != std::mem::replace(&mut self.storms, storms);
        if storm && self.dice.chance(500) || Instant::now() >= visit.until {
            return Err(Over::Left);
        }
        Ok(())
    }

    fn element(&mut self, visit: &mut Visit, element: Element) -> Result<(), Over> {
        match element {
            Element::Ping => visit.link.send(&[json!({})]),
            Element::Reply(id, body) => {
                let place = visit.asked.iter().position(|(asked, ..)| *asked == id);
                let Some(place) = place else {
                    return Err(self.wrong("a reply to nothing"));
                };
                let (_, channel, _) = visit.asked.swap_remove(place);
                match (channel, body) {
                    (None, Body::Connect(_)) => {
                        for channel in self.channels.clone() {
                            self.subscribe(visit, &channel);
                        }
                    }
                    (Some(channel), Body::Subscribe(granted)) => {
                        self.subscribed(&channel, granted)?;
                    }
                    // Temporary: the broker is away.
                    (Some(channel), Body::Error(100)) => {
                        self.shared.tally.counts.later.one();
                        let pause = self.dice.between((0.05, 0.3));
                        visit.again.push((channel, Instant::now() + pause));
                    }
                    (channel, body) => {
                        return Err(self.wrong(&format!("{channel:?} is answered with {body:?}")));
                    }
                }
            }
            Element::Push(channel, What::Publication(publication)) => {
                self.publication(&channel, &publication)?;
            }
            Element::Push(_, What::Join(_) | What::Leave(_)) => {}
            Element::Push(channel, What::Unsubscribe(2500)) => {
                self.shared.tally.counts.told.one();
                if let Some(record) = lock(&self.records).get_mut(&channel) {
                    record.live = false;
                }
                self.told(&channel)?;
                self.subscribe(visit, &channel);
            }
            Element::Push(channel, what) => {
                return Err(self.wrong(&format!("{channel}: {what:?}")));
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, visit: &mut Visit, channel: &str) {
        visit.next += 1;
        let mut request = json!({"channel": channel});
        if let Some(current) = lock(&self.records).get(channel).and_then(|it| it.current.as_ref()) {
            request["recover"] = json!(true);
            request["epoch"] = json!(current.epoch);
            request["offset"] = json!(current.top());
        }
        let command: Value = json!({"id": visit.next, "subscribe": request});
        visit.link.send(&[command]);
        visit.asked.push((visit.next, Some(channel.to_owned()), Instant::now()));
    }

    fn subscribed(&mut self, channel: &str, granted: Granted) -> Result<(), Over> {
        let counts = &self.shared.tally.counts;
        let has_stream = self.shared.kind(channel).has_stream();
        let mut records = lock(&self.records);
        let record = records.get_mut(channel).expect("it was asked for");
        record.live = true;
        if !has_stream {
            // Another node may be behind the one before, and nobody has a position here.
            record.last = 0;
            return Ok(());
        }
        let Granted { epoch, offset, recovered, publications, was_recovering, .. } = granted;
        let same = record.current.as_ref().is_some_and(|it| recovered && it.epoch == epoch);
        if same {
            counts.recovered.one();
            let since = record.current.as_ref().map_or(0, Stretch::top);
            drop(records);
            if since != offset {
                return Err(self.wrong(&format!("{channel}: asked since {since}, got {offset}")));
            }
            for publication in &publications {
                self.publication(channel, publication)?;
            }
            return Ok(());
        }
        let fresh = Stretch { epoch, since: offset, numbers: Vec::new() };
        record.before.extend(record.current.replace(fresh));
        drop(records);
        if recovered || !publications.is_empty() {
            return Err(self.wrong(&format!("{channel}: recovered in another epoch")));
        }
        if was_recovering {
            self.shared.tally.counts.unrecovered.one();
            self.told(channel)?;
        }
        Ok(())
    }

    fn publication(&mut self, channel: &str, publication: &Pub) -> Result<(), Over> {
        self.shared.tally.counts.seen.one();
        let number = number(&publication.data);
        let mut records = lock(&self.records);
        let record = records.get_mut(channel);
        let Some((record, number)) = record.zip(number) else {
            drop(records);
            return Err(self.wrong(&format!("{channel}: a publication of somebody else")));
        };
        let said = match &mut record.current {
            None if self.shared.kind(channel) == Kind::Plain => {
                let last = std::mem::replace(&mut record.last, number);
                // A publisher tries again what a server has forgotten that it has passed on.
                let again = number <= last && !self.shared.may_miss();
                again.then(|| format!("{number} after {last}"))
            }
            None => Some("a publication before the position".to_owned()),
            Some(current) if publication.offset != current.top() + 1 => {
                Some(format!("{} after {}", publication.offset, current.top()))
            }
            Some(current) => {
                let last = current.numbers.last().copied().filter(|last| *last >= number);
                current.numbers.push(number);
                last.map(|last| format!("at {} there is {number} after {last}", publication.offset))
            }
        };
        drop(records);
        said.map_or(Ok(()), |said| Err(self.wrong(&format!("{channel}: {said}"))))
    }

    /// Something is missing, as the server says.
    fn told(&self, channel: &str) -> Result<(), Over> {
        match self.shared.kind(channel).is_whole() && !self.shared.may_miss() {
            true => Err(self.wrong(&format!("{channel}: told, though everything can be had"))),
            false => Ok(()),
        }
    }

    /// What must not happen; the client begins anew.
    fn wrong(&self, what: &str) -> Over {
        self.shared.tally.fail(&format!("client {}: {what}", self.number));
        Over::Left
    }
}

/// A connection and what is asked on it.
struct Visit {
    node: usize,
    link: Link,
    next: u32,
    /// Id, channel (none: it is the connect command), since when.
    asked: Vec<(u32, Option<String>, Instant)>,
    /// Channels to be asked for again.
    again: Vec<(String, Instant)>,
    until: Instant,
}

fn number(data: &[u8]) -> Option<u32> {
    let data: Value = serde_json::from_slice(data).ok()?;
    data["n"].as_u64().and_then(|number| u32::try_from(number).ok())
}
