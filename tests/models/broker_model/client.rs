//! A connection with its session, and a check of everything it sees against what was published.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message as _;

use ringhold::gateway::delta;
use ringhold::gateway::hub_port::{ClientKey, Link};
use ringhold::gateway::letters::ClientId;
use ringhold::gateway::stream::Epoch;
use ringhold::gateway::wire::Error;
use ringhold::gateway::wire::messages::{Publication, PushBody, Reply, ReplyBody, SubscribeResult};

use super::run::Covered;
use super::server::{Logged, Server};
use super::world::Seen;

/// Offset and epoch, as clients see them.
pub type Place = (u64, String);

pub struct Client {
    pub node: usize,
    pub core: usize,
    pub key: ClientKey,
    pub link: Link,
    pub id: ClientId,
    /// Who comes back, perhaps to another node, with what it knows.
    pub person: usize,
    pub subs: BTreeMap<String, Sub>,
    pub known: HashMap<String, Place>,
    /// It was told to go.
    pub closed: bool,
}

/// A subscription, from the request on.
pub struct Sub {
    pub ticket: u64,
    pub positioned: bool,
    pub delta: bool,
    pub present: bool,
    pub server_side: bool,
    pub cached: bool,
    pub or_reject: bool,
    /// It asked for what is after this.
    pub since: Option<Place>,
    pub live: Option<Live>,
}

/// A subscription that was answered.
#[derive(Clone, Debug)]
pub struct Live {
    pub offset: u64,
    pub epoch: String,
    /// The payload at that offset, if it saw it.
    last: Option<Bytes>,
    /// The last payload: what a patch applies to.
    base: Option<Bytes>,
}

/// What is forbidden in a world without losses that cannot be repaired.
pub struct Strict {
    pub gentle: bool,
}

impl Strict {
    /// Whether everything that was published in this channel can be had.
    fn holds(&self, channel: &str) -> bool {
        self.gentle && channel.starts_with("long")
    }
}

impl Client {
    /// Looks at everything that came.
    pub fn look(
        &mut self,
        seen: Vec<Seen>,
        server: &Server,
        covered: &mut Covered,
        strict: &Strict,
    ) {
        for seen in seen {
            match seen {
                Seen::Frame(frame) => self.frame(&frame, server, covered),
                Seen::Subscribed { ticket, channel, result } => {
                    self.subscribed(ticket, &channel, result, server, covered, strict);
                }
                Seen::Unsubscribed { channel, code } => {
                    let sub = self.subs.remove(&channel).expect("it had a subscription");
                    assert_eq!(code, 2500);
                    assert!(sub.positioned, "who needs no position was told");
                    assert!(!strict.holds(&channel), "told, though everything could be had");
                    covered.told += 1;
                    self.closed |= sub.server_side;
                    self.keep_place(channel, &sub);
                }
                Seen::Close(code) => panic!("closed with {code}"),
            }
        }
    }

    /// A subscription is over; what it has seen can be recovered from.
    pub fn keep_place(&mut self, channel: String, sub: &Sub) {
        if let Some(live) = sub.live.as_ref().filter(|_| sub.positioned) {
            self.known.insert(channel, (live.offset, live.epoch.clone()));
        }
    }

    fn subscribed(
        &mut self,
        ticket: u64,
        channel: &str,
        result: Result<SubscribeResult, Error>,
        server: &Server,
        covered: &mut Covered,
        strict: &Strict,
    ) {
        let sub = self.subs.get_mut(channel).expect("the answer has a subscription");
        assert_eq!(sub.ticket, ticket, "an answer to an older subscription");
        assert!(sub.live.is_none(), "answered twice");
        let result = match result {
            Ok(result) => result,
            Err(error) if error == Error::INTERNAL => {
                covered.late += 1;
                self.subs.remove(channel);
                return;
            }
            Err(error) => {
                assert_eq!(error, Error::UNRECOVERABLE_POSITION);
                assert!(sub.or_reject && sub.since.is_some());
                assert!(!strict.holds(channel), "unrecoverable, though everything could be had");
                covered.rejected += 1;
                self.known.remove(channel);
                self.subs.remove(channel);
                return;
            }
        };
        let (epoch, mut offset) = (result.epoch.clone(), result.offset);
        let mut last = None;
        assert_eq!(result.was_recovering, sub.since.is_some());
        if result.recovered {
            covered.recovered += 1;
        } else {
            assert!(result.publications.is_empty());
            let lost = sub.since.is_some() && !sub.cached;
            assert!(
                !(lost && strict.holds(channel)),
                "unrecovered, though everything could be had"
            );
            covered.unrecovered += u64::from(lost);
        }
        for publication in &result.publications {
            covered.recovered_publications += 1;
            if sub.cached {
                offset = publication.offset;
            } else {
                assert_eq!(publication.offset, offset + 1, "recovered with a hole");
                offset += 1;
            }
            let data = plain(sub.delta, publication, last.as_ref());
            find(server, channel, &epoch, offset, &data);
            last = Some(data);
        }
        if sub.positioned {
            assert!(!epoch.is_empty());
        }
        sub.live = Some(Live { offset, epoch, last: last.clone(), base: last });
    }

    fn frame(&mut self, frame: &[u8], server: &Server, covered: &mut Covered) {
        let reply = Reply::decode_length_delimited(frame).expect("a reply");
        let Some(ReplyBody::Push(push)) = reply.body else { panic!("not a push") };
        let channel = push.channel;
        let sub = self.subs.get_mut(&channel).expect("a push without a subscription");
        let live = sub.live.as_mut().expect("a push before the answer");
        let publication = match push.body {
            Some(PushBody::Publication(publication)) => publication,
            Some(PushBody::Join(_) | PushBody::Leave(_)) => {
                covered.joins += 1;
                return;
            }
            _ => panic!("an unknown push"),
        };
        covered.delivered += 1;
        covered.patches += u64::from(publication.delta);
        let data = plain(sub.delta, &publication, live.base.as_ref());
        live.base = Some(data.clone());
        if publication.offset == 0 {
            assert!(server.passed.contains(&(channel, data)), "it was never published");
            return;
        }
        if !sub.positioned {
            let is_it = |logged: &Logged| logged.data == data;
            let all = server
                .log
                .iter()
                .filter(|((name, _, at), _)| *name == channel && *at == publication.offset);
            assert!(all.flat_map(|(_, log)| log).any(is_it), "it was never published");
            return;
        }
        assert_eq!(publication.offset, live.offset + 1, "{channel}: left out or repeated");
        live.offset += 1;
        let logged = find(server, &channel, &live.epoch, live.offset, &data);
        if let (Some(last), Some(before)) = (&live.last, &logged.before)
            && last != before
        {
            covered.crossed += 1;
            assert!(!channel.starts_with("long"), "{channel}: passed over a fork");
        }
        live.last = Some(data);
    }

    /// Everything has come: a subscription that lives is where the server is.
    pub fn settled(&self, server: &mut Server, now: std::time::Duration) {
        for (channel, sub) in &self.subs {
            let live = sub.live.as_ref().expect("every subscription is answered");
            if !sub.positioned {
                continue;
            }
            let Some((epoch, top)) = server.position(channel, now) else {
                panic!("{channel}: a followed stream is forgotten");
            };
            let ours = (live.offset, live.epoch.as_str());
            assert_eq!(ours, (top, epoch.as_str()), "{channel}: it is not where the server is");
        }
    }
}

/// The payload as it was published.
fn plain(wants_delta: bool, publication: &Publication, base: Option<&Bytes>) -> Bytes {
    if !publication.delta {
        return publication.data.clone();
    }
    assert!(wants_delta, "a patch nobody asked for");
    let base = base.expect("a patch needs a base");
    delta::apply(base, &publication.data, 1 << 20).expect("the patch fits its base").into()
}

/// What was published at a place.
fn find<'s>(
    server: &'s Server,
    channel: &str,
    epoch: &str,
    offset: u64,
    data: &Bytes,
) -> &'s Logged {
    let place = (channel.to_owned(), Epoch::parse(epoch).expect("an epoch"), offset);
    let all = server.log.get(&place).into_iter().flatten();
    let mut found = all.filter(|logged| logged.data == *data);
    found.next().unwrap_or_else(|| panic!("{channel} at {offset}: it was never published there"))
}
