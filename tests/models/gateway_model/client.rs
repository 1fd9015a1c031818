//! A connection with its session, and a check of everything it sees against what is true.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use serde_json::Value;

use ringhold::gateway::delta;
use ringhold::gateway::hub_port::{ClientKey, Link};
use ringhold::gateway::letters::ClientId;
use ringhold::gateway::wire::messages::{Publication, PushBody, Reply, ReplyBody, SubscribeResult};
use ringhold::gateway::wire::{Encoding, Error};

use super::run::Covered;
use super::truth::{Place, Truth};
use super::world::Seen;

pub struct Client {
    pub core: usize,
    pub key: ClientKey,
    pub link: Link,
    pub id: ClientId,
    pub user: &'static str,
    pub encoding: Encoding,
    pub subs: BTreeMap<String, Sub>,
    /// Where to recover from, by channel.
    pub known: HashMap<String, Place>,
    /// Compact ids.
    pub ids: HashMap<i64, String>,
    /// It was told to go.
    pub closed: bool,
}

/// A subscription, from the request on.
pub struct Sub {
    pub ticket: u64,
    pub positioned: bool,
    pub filtered: bool,
    pub delta: bool,
    pub joins: bool,
    pub present: bool,
    pub recovering: bool,
    pub or_reject: bool,
    pub server_side: bool,
    pub live: Option<Live>,
}

/// A subscription that was answered.
pub struct Live {
    /// The next publication, as an index into the channel's log.
    next: usize,
    /// The last publication's payload: what a patch applies to.
    base: Option<Vec<u8>>,
    /// What the client would recover from.
    place: Place,
    /// A publication that must not be missed was.
    lost: bool,
    /// Who came and went last, as far as it was told.
    members: HashMap<String, bool>,
}

/// A push, whatever it was encoded in.
enum Pushed {
    Publication(Box<Publication>),
    Join(String),
    Leave(String),
}

impl Client {
    /// Looks at everything that came.
    pub fn look(&mut self, seen: Vec<Seen>, truth: &Truth, covered: &mut Covered) {
        for seen in seen {
            match seen {
                Seen::Frame(frame) => self.frame(&frame, truth, covered),
                Seen::Subscribed { ticket, channel, result } => {
                    self.subscribed(ticket, &channel, result, truth, covered);
                }
                Seen::Unsubscribed { channel, server_side, code } => {
                    let sub = self.subs.remove(&channel).expect("it had a subscription");
                    assert_eq!(sub.server_side, server_side);
                    let live = sub.live.as_ref().expect("it was answered");
                    if code == 2500 {
                        covered.insufficient += 1;
                        assert!(sub.positioned);
                        let log = &truth.channels[&channel].log[live.next..];
                        let lost = log.iter().any(|published| {
                            published.offset > 0
                                && truth.is_refused(self.core, &channel, &published.data)
                        });
                        assert!(lost || live.lost, "nothing was lost");
                        self.closed |= server_side;
                    }
                    self.keep_place(channel, live.place.clone(), &sub);
                }
                Seen::Close(code) => {
                    assert_eq!(code, 3503);
                    self.closed = true;
                }
                // What is not answered yet is for a session to end, of which none is here.
                Seen::Order => {}
                Seen::Answered { .. } | Seen::Entered { .. } => {
                    panic!("{seen:?} was not asked for");
                }
            }
        }
    }

    /// A subscription is over; what it has seen can be recovered from.
    pub fn keep_place(&mut self, channel: String, place: Place, sub: &Sub) {
        if sub.positioned {
            self.known.insert(channel, place);
        }
    }

    fn subscribed(
        &mut self,
        ticket: u64,
        channel: &str,
        result: Result<SubscribeResult, Error>,
        truth: &Truth,
        covered: &mut Covered,
    ) {
        let sub = self.subs.get_mut(channel).expect("the answer has a subscription");
        assert_eq!(sub.ticket, ticket, "an answer to an older subscription");
        assert!(sub.live.is_none(), "answered twice");
        let start = &truth.starts[&ticket];
        let request = &truth.requests[&ticket];
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                assert_eq!(error, Error::UNRECOVERABLE_POSITION);
                assert!(sub.or_reject && start.recovered.is_none());
                covered.rejected += 1;
                self.subs.remove(channel);
                return;
            }
        };
        assert_eq!(result.positioned, sub.positioned);
        assert_eq!(result.was_recovering, sub.recovering);
        assert_eq!(result.recovered, start.recovered.is_some());
        assert_eq!(result.delta, sub.delta);
        if result.id > 0 {
            self.ids.insert(result.id, channel.to_owned());
        }
        let mut place = (result.offset, result.epoch.clone());
        let mut base = None;
        if let Some(recovered) = &start.recovered {
            covered.recovered += 1;
            assert_eq!(result.offset, request.since.as_ref().unwrap().offset);
            let log = &truth.channels[channel].log;
            let all = recovered.iter().map(|index| &log[*index]);
            let wanted: Vec<_> = all.filter(|it| !sub.filtered || it.odd).collect();
            assert_eq!(result.publications.len(), wanted.len(), "recovered more or less");
            for (publication, wanted) in result.publications.iter().zip(wanted) {
                covered.recovered_publications += 1;
                // The reply makes strings of them when it is encoded.
                let data = publication.data.to_vec();
                assert!(self.encoding == Encoding::Protobuf || delta::is_text(&data));
                let data = plain(sub.delta, publication.delta, data, base.as_deref());
                assert_eq!(data, wanted.data);
                assert_eq!(publication.offset, wanted.offset);
                base = Some(data);
            }
            if let Some(last) = recovered.last() {
                place.0 = log[*last].offset;
            }
        } else {
            assert!(result.publications.is_empty());
        }
        let members = HashMap::new();
        sub.live = Some(Live { next: start.at, base, place, lost: false, members });
    }

    fn frame(&mut self, frame: &[u8], truth: &Truth, covered: &mut Covered) {
        let (channel, pushed) = decode(self.encoding, frame, &self.ids);
        let sub = self.subs.get_mut(&channel).expect("a push without a subscription");
        let live = sub.live.as_mut().expect("a push before the answer");
        let publication = match pushed {
            Pushed::Publication(publication) => publication,
            Pushed::Join(client) => {
                assert!(sub.joins);
                let before = live.members.insert(client, true);
                assert!(before != Some(true) || truth.joins_lost, "a second join");
                covered.joins += 1;
                return;
            }
            Pushed::Leave(client) => {
                assert!(sub.joins);
                let before = live.members.insert(client, false);
                assert!(before != Some(false) || truth.joins_lost, "a second leave");
                return;
            }
        };
        covered.delivered += 1;
        covered.patches += u64::from(publication.delta);
        let data = match (self.encoding, sub.delta) {
            (Encoding::Json, true) => {
                let text: String = serde_json::from_slice(&publication.data).expect("a string");
                text.into_bytes()
            }
            _ => publication.data.to_vec(),
        };
        let data = plain(sub.delta, publication.delta, data, live.base.as_deref());
        let log = &truth.channels[&channel].log;
        loop {
            let published = log.get(live.next).expect("a publication that was never made");
            live.next += 1;
            if published.data == data {
                assert_eq!(publication.offset, published.offset);
                assert!(!sub.filtered || published.odd, "a publication that was filtered out");
                break;
            }
            if truth.is_refused(self.core, &channel, &published.data) {
                live.lost |= sub.positioned && published.offset > 0;
                continue;
            }
            assert!(sub.filtered && !published.odd, "a publication was left out or repeated");
            if published.offset > 0 {
                live.place.0 = published.offset;
            }
        }
        assert!(!live.lost || publication.offset == 0, "a publication after a gap");
        live.base = Some(data);
        if publication.offset > 0 {
            live.place.0 = publication.offset;
        }
    }

    /// Everything that was sent has come: a subscription that lives has missed nothing, or
    /// nothing that it was promised.
    pub fn settled(&self, truth: &Truth) {
        for (channel, sub) in &self.subs {
            let live = sub.live.as_ref().expect("every subscription is answered");
            assert!(!live.lost, "a loss was not told");
            let Some(of) = truth.channels.get(channel) else { continue };
            for published in &of.log[live.next..] {
                let refused = truth.is_refused(self.core, channel, &published.data);
                let skipped = sub.filtered && !published.odd;
                assert!(refused || skipped, "a publication did not come");
                let lost = refused && sub.positioned && published.offset > 0;
                assert!(!lost, "a loss was not told");
            }
        }
    }

    /// The channels it is shown in.
    pub fn shown_in(&self) -> HashSet<&str> {
        let shown = self.subs.iter().filter(|(_, sub)| sub.present);
        shown.map(|(channel, _)| channel.as_str()).collect()
    }
}

impl Live {
    pub fn place(&self) -> &Place {
        &self.place
    }
}

/// The payload as it was published.
fn plain(wants_delta: bool, patch: bool, data: Vec<u8>, base: Option<&[u8]>) -> Vec<u8> {
    match patch {
        true => {
            assert!(wants_delta, "a patch nobody asked for");
            let base = base.expect("a patch needs a base");
            delta::apply(base, &data, 1 << 20).expect("the patch fits its base")
        }
        false => data,
    }
}

fn decode(encoding: Encoding, frame: &[u8], ids: &HashMap<i64, String>) -> (String, Pushed) {
    let (id, channel, pushed) = match encoding {
        Encoding::Json => decode_json(frame),
        Encoding::Protobuf => decode_protobuf(frame),
    };
    let channel = if id > 0 { ids[&id].clone() } else { channel };
    (channel, pushed)
}

fn decode_json(frame: &[u8]) -> (i64, String, Pushed) {
    #[derive(serde::Deserialize)]
    struct Frame<'a> {
        #[serde(borrow)]
        push: Push<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Push<'a> {
        #[serde(default)]
        id: i64,
        #[serde(default)]
        channel: String,
        #[serde(borrow, rename = "pub")]
        publication: Option<Pub<'a>>,
        join: Option<Value>,
        leave: Option<Value>,
    }
    #[derive(serde::Deserialize)]
    struct Pub<'a> {
        #[serde(borrow)]
        data: &'a serde_json::value::RawValue,
        #[serde(default)]
        offset: u64,
        #[serde(default)]
        delta: bool,
    }
    let Push { id, channel, publication, join, leave } =
        serde_json::from_slice::<Frame<'_>>(frame).expect("a push").push;
    let who = |value: &Value| value["info"]["client"].as_str().unwrap().to_owned();
    let pushed = match (publication, &join, &leave) {
        (Some(it), None, None) => Pushed::Publication(Box::new(Publication {
            data: Bytes::copy_from_slice(it.data.get().as_bytes()),
            offset: it.offset,
            delta: it.delta,
            ..Publication::default()
        })),
        (None, Some(join), None) => Pushed::Join(who(join)),
        (None, None, Some(leave)) => Pushed::Leave(who(leave)),
        _ => panic!("not one push"),
    };
    (id, channel, pushed)
}

fn decode_protobuf(frame: &[u8]) -> (i64, String, Pushed) {
    let reply = Reply::decode_length_delimited(frame).expect("a reply");
    let Some(ReplyBody::Push(push)) = reply.body else { panic!("not a push") };
    let who = |info: Option<ringhold::gateway::wire::messages::ClientInfo>| info.unwrap().client;
    let pushed = match push.body {
        Some(PushBody::Publication(publication)) => Pushed::Publication(publication),
        Some(PushBody::Join(join)) => Pushed::Join(who(join.info)),
        Some(PushBody::Leave(leave)) => Pushed::Leave(who(leave.info)),
        _ => panic!("another push"),
    };
    (push.id, push.channel, pushed)
}
