//! What is true of the channels, in the order in which their home cores do it: a list of
//! publications each, and a stream that is simple enough to be believed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use ringhold::gateway::letters::{Answer, IDEMPOTENCY_TTL, Publish};
use ringhold::gateway::stream::{Position, StreamOptions};
use ringhold::gateway::wire::Error;
use ringhold::gateway::wire::messages::SubscribeResult;

/// Offset and epoch, as clients see them.
pub type Place = (u64, String);

#[derive(Clone, Debug)]
pub struct Published {
    pub data: Vec<u8>,
    /// 0 if it is not in the stream.
    pub offset: u64,
    /// What filters look at.
    pub odd: bool,
}

#[derive(Debug, Default)]
pub struct Channel {
    pub log: Vec<Published>,
    /// The stream's top.
    pub top: Place,
    /// Indices into the log of what the stream retains.
    kept: Vec<usize>,
    kept_until: Duration,
    meta_until: Duration,
    version: (u64, String),
}

impl Channel {
    /// What the stream retains.
    pub fn kept(&mut self, now: Duration) -> &[usize] {
        if now >= self.kept_until {
            self.kept.clear();
        }
        &self.kept
    }

    /// Whether the stream's life may have ended. It goes on as long as somebody listens.
    fn may_be_over(&mut self, now: Duration) -> bool {
        self.kept(now).is_empty() && now >= self.meta_until
    }

    /// The stream is used, and shows this epoch.
    pub fn used(&mut self, epoch: &str, options: &StreamOptions, now: Duration) {
        if self.top.1 != epoch {
            let over = self.may_be_over(now);
            assert!(self.top.1.is_empty() || over, "a stream's life ended too soon");
            self.top = (0, epoch.to_owned());
            self.version = Default::default();
        }
        self.meta_until = now + options.meta_ttl;
    }

    /// What was published after a place, if all of it is retained.
    fn since(&mut self, since: &Position<String>, limit: u32, now: Duration) -> Option<Vec<usize>> {
        let same = since.epoch.is_empty() || since.epoch == self.top.1;
        let missed = self.top.0.checked_sub(since.offset).filter(|_| same)? as usize;
        let kept = self.kept(now);
        let fits = missed <= kept.len() && missed <= limit as usize;
        fits.then(|| kept[kept.len() - missed..].to_vec())
    }
}

/// What a subscription asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub channel: String,
    pub stream: Option<StreamOptions>,
    pub since: Option<Position<String>>,
    pub limit: u32,
}

/// How the home core must have answered it.
#[derive(Clone, Debug)]
pub struct Start {
    /// How long the log was.
    pub at: usize,
    /// What it could recover.
    pub recovered: Option<Vec<usize>>,
}

/// How a publication must be answered.
#[derive(Debug)]
pub enum Expected {
    Known(Option<Place>),
    Stale,
    New(Publish),
}

#[derive(Default)]
pub struct Truth {
    pub channels: BTreeMap<String, Channel>,
    pub requests: HashMap<u64, Request>,
    pub starts: HashMap<u64, Start>,
    /// Core, channel and payload of what a full mailbox did not take.
    refused: HashSet<(usize, String, Vec<u8>)>,
    /// A join or a leave was not taken.
    pub joins_lost: bool,
    results: HashMap<(String, String), (Duration, Option<Place>)>,
}

impl Truth {
    pub fn channel(&mut self, name: &str) -> &mut Channel {
        self.channels.entry(name.to_owned()).or_default()
    }

    /// A publication is about to be made at its home core.
    pub fn publish(&mut self, name: &str, publish: &Publish, now: Duration) -> Expected {
        let key = (name.to_owned(), publish.idempotency_key.clone());
        if let Some((until, result)) = self.results.get(&key)
            && now < *until
        {
            return Expected::Known(result.clone());
        }
        let channel = self.channel(name);
        let (number, epoch) = &channel.version;
        let same = publish.version_epoch.is_empty() || publish.version_epoch == *epoch;
        let stale = publish.version > 0 && same && publish.version <= *number;
        if publish.stream.is_some() && stale && !channel.may_be_over(now) {
            return Expected::Stale;
        }
        let (data, odd) = (publish.data.to_vec(), publish.tags.contains_key("odd"));
        channel.log.push(Published { data, offset: 0, odd });
        Expected::New(publish.clone())
    }

    /// It is made.
    pub fn published(&mut self, name: &str, expected: Expected, answer: &Answer, now: Duration) {
        let Answer::Published { position, suppressed, .. } = answer else {
            panic!("{answer:?} is no answer to a publication");
        };
        let place = position.map(|at| (at.offset, at.epoch.as_str().to_owned()));
        let channel = self.channel(name);
        let publish = match expected {
            Expected::Known(result) => {
                assert!(*suppressed && place == result);
                return;
            }
            Expected::Stale => {
                assert!(*suppressed, "a stale version was published");
                assert_eq!(place.as_ref(), Some(&channel.top));
                return;
            }
            Expected::New(publish) => publish,
        };
        if *suppressed {
            assert!(publish.version > 0 && channel.may_be_over(now), "suppressed without cause");
            channel.log.pop();
            return;
        }
        assert_eq!(place.is_some(), publish.stream.is_some());
        if let Some(((offset, epoch), options)) = place.as_ref().zip(publish.stream) {
            channel.kept(now);
            channel.used(epoch, &options, now);
            channel.top.0 += 1;
            assert_eq!(*offset, channel.top.0);
            if publish.version > 0 {
                channel.version = (publish.version, publish.version_epoch);
            }
            let index = channel.log.len() - 1;
            channel.log[index].offset = *offset;
            channel.kept.push(index);
            if channel.kept.len() > options.size as usize {
                channel.kept.remove(0);
            }
            channel.kept_until = now + options.ttl;
        }
        if !publish.idempotency_key.is_empty() {
            let key = (name.to_owned(), publish.idempotency_key);
            self.results.insert(key, (now + IDEMPOTENCY_TTL, place));
        }
    }

    /// A home core lets a subscriber in, and sends the answer.
    pub fn subscribed(&mut self, ticket: u64, top: Option<Position>, now: Duration) {
        // Tests of single rules have no model.
        let Some(request) = self.requests.get(&ticket).cloned() else { return };
        let channel = self.channel(&request.channel);
        let mut recovered = None;
        if let Some(options) = request.stream {
            let top = top.expect("it wanted a position");
            channel.used(top.epoch.as_str(), &options, now);
            assert_eq!(top.offset, channel.top.0);
            let since = request.since.as_ref();
            recovered = since.and_then(|since| channel.since(since, request.limit, now));
        }
        let at = channel.log.len();
        self.starts.insert(ticket, Start { at, recovered });
    }

    /// The same for a subscriber on the home core, which is answered at once. The top is not in
    /// every answer.
    pub fn subscribed_here(
        &mut self,
        ticket: u64,
        result: &Result<SubscribeResult, Error>,
        now: Duration,
    ) {
        if self.starts.contains_key(&ticket) {
            return;
        }
        let Some(request) = self.requests.get(&ticket).cloned() else { return };
        let channel = self.channel(&request.channel);
        let mut recovered = None;
        if let Some(options) = request.stream {
            let known = match result {
                Ok(result) => {
                    channel.used(&result.epoch, &options, now);
                    true
                }
                // The epoch is not told; of a new life nothing could be recovered.
                Err(_) => !channel.may_be_over(now),
            };
            let since = request.since.as_ref().filter(|_| known);
            recovered = since.and_then(|since| channel.since(since, request.limit, now));
        }
        let at = channel.log.len();
        self.starts.insert(ticket, Start { at, recovered });
    }

    /// A mailbox did not take a publication.
    pub fn refused(&mut self, core: usize, channel: &str, data: &[u8]) {
        self.refused.insert((core, channel.to_owned(), data.to_vec()));
    }

    pub fn is_refused(&self, core: usize, channel: &str, data: &[u8]) -> bool {
        self.refused.contains(&(core, channel.to_owned(), data.to_vec()))
    }
}
