//! The books of one core's subscribers.

use std::time::Duration;

use super::*;
use crate::engine::Frame;
use crate::gateway::delivery::{Delivery, Happening, Item};
use crate::gateway::hub_port::{Event, HubPort, Refused};
use crate::gateway::letters::{ClientId, Letter, Recovered, Who};
use crate::gateway::stream::{Epoch, Position};
use crate::gateway::users::Users;
use crate::gateway::wire::messages::FilterNode;

fn begin(filter: Option<Arc<Filter>>) -> Begin {
    Begin { wants: Wants::default(), member: false, filter }
}

fn answer(begun: &Begun, channel: u64) -> SubscribedLetter {
    SubscribedLetter {
        channel: ChannelId(channel),
        sub: begun.sub,
        nonce: begun.nonce,
        ticket: 0,
        seq: 0,
        top: None,
        told: 0,
        recovered: None,
        refused: None,
    }
}

#[test]
fn what_a_subscription_had_goes_with_it() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let key = users.connect(Link(1), ClientId::new(1), "ann", Format::WebSocketJson);
    let client = users.get_mut(key).unwrap();
    let node = FilterNode { key: "odd".to_owned(), cmp: "ex".to_owned(), ..FilterNode::default() };
    let filter = Arc::new(Filter::new(&node).unwrap());

    let stays = locals.begin(key, client, "stays", begin(None)).unwrap();
    let goes = locals.begin(key, client, "goes", begin(Some(filter))).unwrap();
    assert!(locals.begin(key, client, "goes", begin(None)).is_none(), "it has one");
    for (begun, channel) in [(&stays, 1), (&goes, 2)] {
        let letter = answer(begun, channel);
        assert!(locals.confirm(&letter).is_some());
        assert!(locals.confirm(&letter).is_none(), "once");
    }
    assert_eq!((client.subscriptions(), locals.filters.len(), locals.ids.len()), (2, 1, 2));
    assert!(locals.end(client, goes.sub).is_some());
    assert!(locals.end(client, goes.sub).is_none());
    assert_eq!((client.subscriptions(), locals.filters.len(), locals.ids.len()), (1, 0, 1));
    assert_eq!(locals.channels.len(), 1);
    assert!(locals.end_first(client).is_some() && locals.is_empty());
}

/// The home core forgets a channel and gives its number to another, while the first is
/// subscribed anew.
#[test]
fn a_number_that_is_given_anew_finds_the_new_channel() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let keys = [1, 2]
        .map(|n| users.connect(Link(n), ClientId::new(n.into()), "ann", Format::WebSocketJson));
    let first = locals.begin(keys[0], users.get_mut(keys[0]).unwrap(), "a", begin(None)).unwrap();
    locals.confirm(&answer(&first, 5)).unwrap();
    let again = locals.begin(keys[1], users.get_mut(keys[1]).unwrap(), "a", begin(None)).unwrap();
    locals.end(users.get_mut(keys[0]).unwrap(), first.sub).unwrap();
    assert!(locals.ids.is_empty(), "nobody listens under this number");
    let other = locals.begin(keys[0], users.get_mut(keys[0]).unwrap(), "b", begin(None)).unwrap();
    locals.confirm(&answer(&other, 5)).unwrap();
    locals.confirm(&answer(&again, 6)).unwrap();
    let name = |id| &*locals.channels[locals.ids[&ChannelId(id)]].name;
    assert_eq!((name(5), name(6)), ("b", "a"));
}

#[test]
fn each_wish_is_kept_as_it_was_said() {
    let wishes: [fn(&mut Wants); 7] = [
        |wants| wants.positioned = true,
        |wants| wants.recoverable = true,
        |wants| wants.delta = true,
        |wants| wants.compact = true,
        |wants| wants.joins = true,
        |wants| wants.server_side = true,
        |wants| wants.by_token = true,
    ];
    let placement = Placement::new(1, 1);
    for (number, wish) in wishes.into_iter().enumerate() {
        for format in Format::ALL {
            let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
            let key = users.connect(Link(1), ClientId::new(1), "ann", format);
            let client = users.get_mut(key).unwrap();
            let mut wants = Wants::default();
            wish(&mut wants);
            let begin = Begin { wants, member: number % 2 == 0, filter: None };
            let begun = locals.begin(key, client, "a", begin).unwrap();
            assert_eq!(locals.is_member(begun.sub), number % 2 == 0);
            assert_eq!(locals.get(begun.sub).unwrap().wants, wants);
            let confirmed = locals.confirm(&answer(&begun, 1)).unwrap();
            assert_eq!((confirmed.format, confirmed.wants), (format, wants));
            let ended = locals.end(client, begun.sub).unwrap();
            assert_eq!((ended.joins, ended.server_side), (wants.joins, wants.server_side));
        }
    }
}

#[test]
fn a_subscription_is_its_connections() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let keys = [1, 2]
        .map(|n| users.connect(Link(n), ClientId::new(n.into()), "ann", Format::WebSocketJson));
    let first = locals.begin(keys[0], users.get_mut(keys[0]).unwrap(), "a", begin(None)).unwrap();
    let other = locals.begin(keys[1], users.get_mut(keys[1]).unwrap(), "b", begin(None)).unwrap();
    assert!(locals.end(users.get_mut(keys[1]).unwrap(), first.sub).is_none());
    // An answer to what was before in the same place confirms nothing.
    let mut old = answer(&first, 1);
    old.nonce = other.nonce;
    assert!(locals.confirm(&old).is_none());
    assert!(locals.confirm(&answer(&first, 1)).is_some());
}

#[test]
fn the_account_has_every_part_of_a_subscription() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let key = users.connect(Link(1), ClientId::new(1), "ann", Format::WebSocketJson);
    let client = users.get_mut(key).unwrap();
    let node = FilterNode { key: "odd".to_owned(), cmp: "ex".to_owned(), ..FilterNode::default() };
    let filter = Arc::new(Filter::new(&node).unwrap());
    locals.begin(key, client, "short", begin(None)).unwrap();
    let records = size_of::<Sub>() + size_of::<u32>() + 128;
    let name = |length: usize| 2 * (size_of::<Channel>() + 128 + shared(length));
    assert_eq!((locals.bytes(), locals.filter_bytes()), (records + name(5), 0));
    let long = "long".repeat(50);
    let filtered = locals.begin(key, client, &long, begin(Some(filter.clone()))).unwrap();
    assert_eq!(locals.bytes(), 2 * records + name(5) + name(200));
    let place = 2 * size_of::<(u32, Arc<Filter>)>();
    assert_eq!(locals.filter_bytes(), filter.cost() + place);
    locals.end(client, filtered.sub).unwrap();
    assert_eq!((locals.bytes(), locals.filter_bytes()), (records + name(5), 0));
}

#[test]
fn nothing_is_left_when_each_book_is_empty() {
    let remains: [fn(&mut Locals); 5] = [
        |locals| locals.bytes = 1,
        |locals| locals.filter_bytes = 1,
        |locals| _ = locals.ids.insert(ChannelId(1), 0),
        |locals| _ = locals.intern("a"),
        |locals| {
            let node = FilterNode { cmp: "ex".to_owned(), ..FilterNode::default() };
            let node = FilterNode { key: "odd".to_owned(), ..node };
            locals.filters.insert(0, Arc::new(Filter::new(&node).unwrap()));
        },
    ];
    assert!(Locals::new(Placement::new(1, 1)).is_empty());
    for (number, leave) in remains.into_iter().enumerate() {
        let mut locals = Locals::new(Placement::new(1, 1));
        leave(&mut locals);
        assert!(!locals.is_empty(), "{number}");
    }
}

#[test]
fn a_crowd_that_leaves_a_channel_gives_its_memory_back_and_numbers_go_on() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let mut crowd = Vec::new();
    for n in 0..1000u32 {
        let key = users.connect(Link(n.into()), ClientId::new(n.into()), "", Format::Sse);
        let begun = locals.begin(key, users.get_mut(key).unwrap(), "a", begin(None)).unwrap();
        locals.confirm(&answer(&begun, 1)).unwrap();
        crowd.push((key, begun.sub));
    }
    let capacity = |locals: &Locals| -> usize {
        locals.channels.iter().map(|it| it.1.members.capacity()).sum()
    };
    let full: usize = capacity(&locals);
    let leave = |locals: &mut Locals, users: &mut Users, (key, sub): (ClientKey, SubKey)| {
        locals.end(users.get_mut(key).unwrap(), sub).unwrap();
    };
    for it in crowd.drain(full / 4..) {
        leave(&mut locals, &mut users, it);
        assert_eq!(capacity(&locals), full, "those who come back find room");
    }
    leave(&mut locals, &mut users, crowd.pop().unwrap());
    assert_eq!(capacity(&locals), 2 * (full / 4 - 1), "and so they do now");
    for it in crowd.drain(10..) {
        leave(&mut locals, &mut users, it);
    }
    let few: usize = capacity(&locals);
    assert!((10..=40).contains(&few), "{few}");
    for it in crowd.drain(..) {
        leave(&mut locals, &mut users, it);
    }
    assert!(locals.is_empty());
    let key = users.connect(Link(1), ClientId::new(1), "", Format::Sse);
    let begun = locals.begin(key, users.get_mut(key).unwrap(), "a", begin(None)).unwrap();
    assert_eq!(begun.nonce, 1001, "answers may be under way");
}

/// What connections were sent: to whom, its payload, and the position where it says one.
#[derive(Default)]
struct Out(Vec<(u64, String, Option<u64>)>);

impl Out {
    fn take(&mut self) -> Vec<(u64, String, Option<u64>)> {
        std::mem::take(&mut self.0)
    }

    fn push(&mut self, link: Link, frame: &Frame, at: Option<u64>) {
        self.0.push((link.0, String::from_utf8_lossy(frame.payload()).into_owned(), at));
    }
}

impl HubPort for Out {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn random(&mut self) -> u64 {
        1
    }

    fn post(&mut self, _: usize, _: Letter) -> Result<(), Refused> {
        Err(Refused)
    }

    fn post_reserved(&mut self, _: usize, _: Letter) -> Result<(), Refused> {
        Err(Refused)
    }

    fn post_urgent(&mut self, _: usize, _: Letter) {}

    fn send(&mut self, link: Link, frame: &Frame) {
        self.push(link, frame, None);
    }

    fn publication(&mut self, link: Link, frame: &Frame, _: &str, offset: u64) {
        self.push(link, frame, Some(offset));
    }

    fn event(&mut self, _: Link, _: Event<'_>) {}
}

/// Connections that are numbered as they come, all in channel "a", and what they are sent.
struct Crowd {
    locals: Locals,
    users: Users,
    out: Out,
    subs: Vec<SubKey>,
    seq: u64,
}

impl Crowd {
    fn new() -> Self {
        let placement = Placement::new(1, 1);
        let (locals, users) = (Locals::new(placement), Users::new(placement));
        Self { locals, users, out: Out::default(), subs: Vec::new(), seq: 0 }
    }

    /// One more, at this offset; `primed`: it has the last publication.
    fn join(&mut self, format: Format, begin: Begin, at: u64, primed: bool) -> SubKey {
        let number = self.subs.len() as u64;
        let key = self.users.connect(Link(number), ClientId::new(number.into()), "", format);
        let client = self.users.get_mut(key).unwrap();
        let begun = self.locals.begin(key, client, "a", begin).unwrap();
        let top = Some(Position { offset: at, epoch: Epoch::new(1) });
        let recovered = Recovered { items: None, since: 0, or_reject: false, primed };
        let letter = SubscribedLetter {
            top,
            seq: self.seq,
            recovered: Some(recovered),
            ..answer(&begun, 1)
        };
        self.locals.confirm(&letter).unwrap();
        self.subs.push(begun.sub);
        begun.sub
    }

    /// A publication with this offset. Gives how many got it, and who cannot go on.
    fn publish(
        &mut self,
        offset: u64,
        data: &str,
        base: Option<&str>,
    ) -> (u64, Vec<(SubKey, Loss)>) {
        let published = self.publication(offset, data, base);
        self.deliver(published)
    }

    /// What follows next.
    fn publication(&mut self, offset: u64, data: &str, base: Option<&str>) -> Happening {
        self.seq += 1;
        let tags = [("odd".to_owned(), "1".to_owned())];
        let tags = if offset % 2 == 1 { tags.into() } else { Default::default() };
        let data = data.to_owned().into();
        let mut item = Item::new(Duration::ZERO, data, None, tags, 0);
        item.offset = offset;
        let base = base.map(|base| base.to_owned().into());
        Happening::Published { item: Arc::new(item), seq: self.seq, base }
    }

    fn deliver(&mut self, happening: Happening) -> (u64, Vec<(SubKey, Loss)>) {
        self.deliver_all(vec![happening])
    }

    fn deliver_all(&mut self, happenings: Vec<Happening>) -> (u64, Vec<(SubKey, Loss)>) {
        let delivery = |happening| Arc::new(Delivery::new(ChannelId(1), "a".into(), happening));
        let deliveries: Vec<_> = happenings.into_iter().map(delivery).collect();
        let mut lost = Vec::new();
        let sent = self.locals.deliver(&mut self.out, &deliveries, &mut lost);
        (sent, lost)
    }
}

fn wants(wish: fn(&mut Wants)) -> Begin {
    let mut wants = Wants::default();
    wish(&mut wants);
    Begin { wants, member: false, filter: None }
}

#[test]
fn publications_are_for_those_who_are_where_they_follow() {
    let mut crowd = Crowd::new();
    let positioned = || wants(|wants| wants.positioned = true);
    let here = crowd.join(Format::WebSocketJson, positioned(), 4, false);
    let ahead = crowd.join(Format::WebSocketJson, positioned(), 5, false);
    let behind = crowd.join(Format::WebSocketJson, positioned(), 3, false);
    let anywhere = crowd.join(Format::WebSocketJson, wants(|_| {}), 9, false);
    let (sent, lost) = crowd.publish(5, "5", None);
    assert_eq!((sent, lost), (2, vec![(behind, Loss::Gap)]));
    let links: Vec<u64> = crowd.out.take().into_iter().map(|it| it.0).collect();
    assert_eq!(links, [0, 3]);
    // What has no offset is for all.
    assert_eq!(crowd.publish(0, "0", None), (4, vec![]));
    assert_eq!(crowd.publish(6, "6", None), (3, vec![(behind, Loss::Gap)]));
    let mut lost = Vec::new();
    crowd.locals.compare(ChannelId(1), 6, &mut lost);
    assert_eq!(lost, [(behind, Loss::Gap)]);
    crowd.locals.compare(ChannelId(1), 7, &mut lost);
    assert_eq!(lost.len(), 4, "{here:?} {ahead:?}, but not {anywhere:?}");
    crowd.locals.compare(ChannelId(2), 7, &mut lost);
    assert_eq!(lost.len(), 4);
}

#[test]
fn positions_are_told_where_they_can_be_given_back() {
    let mut crowd = Crowd::new();
    let recoverable = || wants(|wants| wants.recoverable = true);
    crowd.join(Format::UniSse, recoverable(), 0, false);
    crowd.join(Format::UniSse, wants(|_| {}), 0, false);
    crowd.join(Format::WebSocketJson, recoverable(), 0, false);
    crowd.join(Format::UniStream, recoverable(), 0, false);
    crowd.publish(7, "7", None);
    let told: Vec<_> = crowd.out.take().into_iter().map(|it| it.2).collect();
    assert_eq!(told, [Some(7), None, None, None]);
    crowd.publish(0, "0", None);
    assert!(crowd.out.take().iter().all(|it| it.2.is_none()), "it has none");
}

#[test]
fn a_patch_is_for_those_who_have_what_it_is_made_of() {
    let (first, second) = ("1".repeat(200), format!("{}2", "1".repeat(200)));
    let mut crowd = Crowd::new();
    let delta = || wants(|wants| wants.delta = true);
    crowd.join(Format::WebSocketJson, delta(), 0, true);
    crowd.join(Format::WebSocketJson, delta(), 0, false);
    crowd.join(Format::WebSocketJson, wants(|_| {}), 0, true);
    let node = FilterNode { key: "odd".to_owned(), cmp: "ex".to_owned(), ..FilterNode::default() };
    let filter = Some(Arc::new(Filter::new(&node).unwrap()));
    crowd.join(Format::WebSocketJson, Begin { filter, ..delta() }, 0, false);
    let patched = |crowd: &mut Crowd| -> Vec<(u64, bool)> {
        let of = |it: (u64, String, Option<u64>)| (it.0, it.1.contains("\"delta\":true"));
        crowd.out.take().into_iter().map(of).collect()
    };
    crowd.publish(1, &second, Some(&first));
    assert_eq!(patched(&mut crowd), [(0, true), (1, false), (2, false), (3, false)]);
    // From the second on all have the base, but for whom the last one was filtered out.
    crowd.publish(3, &first, Some(&second));
    assert_eq!(patched(&mut crowd), [(0, true), (1, true), (2, false), (3, true)]);
    crowd.publish(4, &second, Some(&first));
    assert_eq!(patched(&mut crowd), [(0, true), (1, true), (2, false)]);
    crowd.publish(5, &first, Some(&second));
    assert_eq!(patched(&mut crowd), [(0, true), (1, true), (2, false), (3, false)]);
    // One between the two did not come.
    crowd.seq += 1;
    crowd.publish(7, &second, Some(&first));
    assert!(patched(&mut crowd).iter().all(|it| !it.1));
}

/// Publications that come together are to each subscriber what they are one by one, where who
/// cannot go on is not there any more when the next one comes.
#[test]
fn several_at_once_are_as_one_after_the_other() {
    let mut rng = crate::common::rng::Rng::new(11);
    let node = FilterNode { key: "odd".to_owned(), cmp: "ex".to_owned(), ..FilterNode::default() };
    let filter = Arc::new(Filter::new(&node).unwrap());
    let (mut gaps, mut foreign, mut patches) = (0, 0, 0);
    for _ in 0..300 {
        let mut crowds = [Crowd::new(), Crowd::new()];
        for _ in 0..12 {
            let format = [Format::WebSocketJson, Format::WebSocketProtobuf, Format::UniSse];
            let format = format[rng.below(3) as usize];
            let (positioned, delta, recoverable) = (rng.one_in(2), rng.one_in(2), rng.one_in(2));
            let filter = rng.one_in(4).then(|| filter.clone());
            let (at, primed) = (u64::from(rng.below(3)), rng.one_in(2));
            for crowd in &mut crowds {
                let wants = Wants { positioned, delta, recoverable, ..Wants::default() };
                crowd.join(
                    format,
                    Begin { wants, member: false, filter: filter.clone() },
                    at,
                    primed,
                );
            }
        }
        let mut publications = Vec::new();
        let mut base = "1".repeat(200);
        for n in 0..1 + rng.below(6) {
            let json = !rng.one_in(8);
            let data = if json { format!("{base}{n}") } else { "no json".to_owned() };
            let offset = if rng.one_in(5) { 0 } else { 2 + u64::from(n) };
            publications.push((offset, data.clone(), rng.one_in(2).then(|| base.clone())));
            base = data;
        }
        let [one_by_one, together] = &mut crowds;
        let (mut sent, mut lost) = (0, Vec::new());
        for (offset, data, base) in &publications {
            let (more, gone) = one_by_one.publish(*offset, data, base.as_deref());
            sent += more;
            for (sub, loss) in gone {
                let client = one_by_one.locals.client(sub).unwrap();
                let client = one_by_one.users.get_mut(client).unwrap();
                one_by_one.locals.end(client, sub).unwrap();
                lost.push((sub, loss));
            }
        }
        let all = publications.iter();
        let all =
            all.map(|(offset, data, base)| together.publication(*offset, data, base.as_deref()));
        let all = all.collect();
        let (sent_together, mut lost_together) = together.deliver_all(all);
        let order = |it: &(SubKey, Loss)| it.0;
        lost.sort_by_key(order);
        lost_together.sort_by_key(order);
        assert_eq!((sent_together, &lost_together), (sent, &lost));
        let mut seen = [one_by_one, together].map(|crowd| crowd.out.take());
        // Each subscriber's own order counts.
        seen.iter_mut().for_each(|seen| seen.sort_by_key(|it| it.0));
        assert_eq!(seen[0], seen[1]);
        gaps += lost.iter().filter(|it| it.1 == Loss::Gap).count();
        foreign += lost.iter().filter(|it| it.1 == Loss::NotJson).count();
        patches += seen[0].iter().filter(|it| it.1.contains("\"delta\":true")).count();
    }
    assert!(gaps > 50 && foreign > 50 && patches > 50, "{gaps} {foreign} {patches}");
}

#[test]
fn what_is_not_json_ends_those_who_know_nothing_else() {
    let mut crowd = Crowd::new();
    let json = crowd.join(Format::WebSocketJson, wants(|_| {}), 0, false);
    crowd.join(Format::WebSocketProtobuf, wants(|_| {}), 0, false);
    assert_eq!(crowd.publish(1, "no json", None), (1, vec![(json, Loss::NotJson)]));
    assert_eq!(crowd.out.take().len(), 1);
}

#[test]
fn joins_are_for_those_who_want_them() {
    let mut crowd = Crowd::new();
    for _ in 0..2 {
        crowd.join(Format::WebSocketJson, wants(|wants| wants.joins = true), 0, false);
        crowd.join(Format::WebSocketJson, wants(|_| {}), 0, false);
    }
    let who = || (ClientId::new(9), Who::default());
    let (client, info) = who();
    assert_eq!(crowd.deliver(Happening::Join(client, info)), (2, vec![]));
    let (client, info) = who();
    assert_eq!(crowd.deliver(Happening::Leave(client, info)), (2, vec![]));
    let links: Vec<u64> = crowd.out.take().into_iter().map(|it| it.0).collect();
    assert_eq!(links, [0, 2, 0, 2]);
}
