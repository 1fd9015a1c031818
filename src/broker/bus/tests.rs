//! What nodes hear of each other, who answers in time, and how much may wait.

use std::time::Duration;

use super::messages::{Disconnect, SurveyRequest};
use super::*;
use crate::broker::server::RedisPlace;

/// For answers that do not come.
const SHORT: Duration = Duration::from_millis(30);

/// For answers that do.
const LONG: Duration = Duration::from_secs(30);

/// Two nodes whose server carries messages where a test says so.
struct World {
    one: Arc<Bus>,
    two: Arc<Bus>,
}

fn bus(uid: &str) -> (Arc<Bus>, Arc<Condition>) {
    let condition = Arc::new(Condition::new(&RedisPlace::Tcp("h".to_owned(), 1)));
    condition.up("7.0");
    let conditions = Arc::new([condition.clone()]);
    let bus = Bus { patience: SHORT, ..Bus::new(uid, Arc::default(), conditions) };
    (Arc::new(bus), condition)
}

fn node(name: &str) -> Node {
    Node { name: name.to_owned(), ..Node::default() }
}

fn disconnect(user: &str) -> Command {
    let disconnect = Disconnect { user: user.to_owned(), code: 3503, ..Disconnect::default() };
    Command { disconnect: Some(disconnect), ..Command::default() }
}

impl World {
    /// Two that know of each other, of which the first waits for so long.
    fn acquainted(patience: Duration) -> Self {
        let (bus_of_one, _) = bus("one");
        let one = Arc::into_inner(bus_of_one).expect("nobody else has it");
        let world = Self { one: Arc::new(Bus { patience, ..one }), two: bus("two").0 };
        world.one.announce(node("first"));
        world.two.announce(node("second"));
        world.carry();
        world
    }

    /// Carries everything to whom it is for, also to its sender, as the server does.
    fn carry(&self) {
        let all = [&self.one, &self.two];
        loop {
            let told: Vec<_> = all.iter().flat_map(|bus| bus.take()).collect();
            if told.is_empty() {
                return;
            }
            for Told { to, data, .. } in told {
                for bus in all.iter().filter(|bus| to.as_deref().is_none_or(|to| to == bus.uid())) {
                    bus.receive(&data, Instant::now());
                }
            }
        }
    }

    fn names(bus: &Bus) -> Vec<String> {
        bus.nodes(Instant::now()).into_iter().map(|node| node.name).collect()
    }
}

/// Runs what waits for answers as far as it goes without time.
async fn settle() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nodes_meet_and_part() {
    let world = World { one: bus("one").0, two: bus("two").0 };
    world.one.announce(node("first"));
    // Nobody hears it, and who comes later is greeted.
    world.one.take();
    world.two.announce(node("second"));
    world.carry();
    assert_eq!(World::names(&world.one), ["second"]);
    assert_eq!(World::names(&world.two), ["first"]);
    world.two.farewell();
    world.two.announce(node("second"));
    world.carry();
    assert!(World::names(&world.one).is_empty(), "it has gone, whatever it says");
}

#[tokio::test]
async fn an_order_is_done_when_all_nodes_have_answered() {
    let world = World::acquainted(LONG);
    let one = world.one.clone();
    let order = tokio::spawn(async move { one.order("disconnect", disconnect("ann")).await });
    settle().await;
    world.carry();
    let Incoming { command, answer, .. } = world.two.arrival().await;
    assert_eq!(command.disconnect.expect("the order").user, "ann");
    settle().await;
    assert!(!order.is_finished());
    world.two.answer(&answer.expect("an answer is wanted"), 0, Bytes::new());
    world.carry();
    assert_eq!(order.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_named() {
    let world = World::acquainted(SHORT);
    let begun = Instant::now();
    let order = world.one.order("disconnect", disconnect("ann")).await;
    assert_eq!(order, Err(Unreached::Nodes(vec!["second".to_owned()])));
    assert!(begun.elapsed() >= SHORT);
    let answers = world.one.survey("channels", Bytes::new()).await.unwrap();
    assert_eq!((answers.answers.len(), answers.missing.len()), (0, 1));
    let maps = world.one.tally.maps().clone();
    assert_eq!(maps.surveys[&("disconnect", "partial")], 1);
    assert_eq!(maps.surveys[&("channels", "partial")], 1);
    assert!(world.one.state().questions.is_empty());
}

#[tokio::test]
async fn who_goes_meanwhile_is_not_waited_for() {
    let world = World::acquainted(LONG);
    let one = world.one.clone();
    let order = tokio::spawn(async move { one.order("disconnect", disconnect("ann")).await });
    settle().await;
    world.two.farewell();
    world.carry();
    assert_eq!(order.await.unwrap(), Ok(()));
    assert!(world.one.state().questions.is_empty());
}

#[tokio::test]
async fn a_caller_who_gives_up_leaves_nothing_open() {
    let world = World::acquainted(LONG);
    let order = world.one.order("disconnect", disconnect("ann"));
    assert!(tokio::time::timeout(SHORT, order).await.is_err());
    assert!(world.one.state().questions.is_empty());
}

#[tokio::test]
async fn nodes_of_centrifugo_are_told_and_not_waited_for() {
    let (bus, _) = bus("one");
    let other = Node { uid: "c".to_owned(), name: "their".to_owned(), ..Node::default() };
    let hello = Command { uid: "c".to_owned(), node: Some(other), ..Command::default() };
    bus.receive(&hello.encode_to_vec(), Instant::now());
    assert_eq!(World::names(&bus), ["their"]);
    assert_eq!(bus.order("disconnect", disconnect("ann")).await, Ok(()));
    let told: Vec<_> = bus.take().into_iter().collect();
    // It is announced to nobody, as it has said nothing of itself; the order is for all.
    let [Told { to: None, data, .. }] = &told[..] else { panic!("{told:?}") };
    let command = Command::decode(&data[..]).unwrap();
    assert_eq!((&*command.uid, command.disconnect.unwrap().code), ("one", 3503));
    // Their orders want no answer, their questions do.
    let order = Command { uid: "c".to_owned(), ..disconnect("bob") };
    bus.receive(&order.encode_to_vec(), Instant::now());
    assert_eq!(bus.arrival().await.answer, None);
    let request = SurveyRequest { id: 7, op: "channels".to_owned(), data: Bytes::new() };
    let question = Command { survey_request: Some(request), ..Command::default() };
    let question = Command { uid: "c".to_owned(), ..question };
    bus.receive(&question.encode_to_vec(), Instant::now());
    let address = Address { node: "c".into(), id: 7 };
    assert_eq!(bus.arrival().await.answer, Some(address));
}

#[tokio::test]
async fn without_a_connection_nothing_is_asked() {
    let (bus, condition) = bus("one");
    condition.down("refused".to_owned());
    assert_eq!(bus.order("disconnect", disconnect("ann")).await, Err(Unreached::Away));
    assert!(bus.take().is_empty() && bus.state().questions.is_empty());
    assert_eq!(bus.tally.maps().surveys[&("disconnect", "away")], 1);
}

#[tokio::test]
async fn what_waits_is_bounded_until_it_is_sent_or_done() {
    let (bus, _) = bus("one");
    let full = |bus: &Bus| bus.tell(None, disconnect("ann")) == Err(Unreached::Full);
    (0..OUTGOING).for_each(|_| assert!(!full(&bus)));
    assert!(full(&bus));
    let mut taken = bus.take();
    assert!(full(&bus), "the server has not taken them");
    taken.pop_front();
    assert!(!full(&bus) && full(&bus));
    drop((taken, bus.take()));
    let large = Bytes::from(vec![0; OUTGOING_BYTES]);
    bus.answer(&Address { node: "two".into(), id: 1 }, 0, large);
    assert!(bus.take().is_empty(), "it is too large");
    let order = Command { uid: "two".to_owned(), ..disconnect("ann") }.encode_to_vec();
    (0..=INCOMING).for_each(|_| bus.receive(&order, Instant::now()));
    assert_eq!(bus.tally.control_dropped.get(), 5);
    for _ in 0..INCOMING {
        bus.arrival().await;
    }
    assert_eq!(bus.state().incoming_bytes, 0);
}

#[test]
fn what_is_no_message_is_counted() {
    let (bus, _) = bus("one");
    for payload in [&b"\xff\xff\xff"[..], b"", b"\x0a\x01x"] {
        bus.receive(payload, Instant::now());
    }
    assert_eq!(bus.tally.control_malformed.get(), 3);
    assert!(bus.nodes(Instant::now()).is_empty());
}

/// As Centrifugo's nodes write and read it.
#[test]
fn messages_are_those_of_centrifugo() {
    let order = Command { uid: "u".to_owned(), acknowledge: 5, ..disconnect("ann") };
    let expected = b"\x0a\x01u\x32\x08\x0a\x03ann\x18\xaf\x1b\xc0\x3e\x05";
    assert_eq!(order.encode_to_vec(), expected);
    // Unknown fields are skipped: `reconnect` of the order, and a notification.
    let theirs = b"\x0a\x01u\x32\x0a\x0a\x03ann\x18\xaf\x1b\x28\x01\x5a\x02\x0a\x00";
    let read = Command::decode(&theirs[..]).unwrap();
    assert_eq!(read, Command { acknowledge: 0, ..order });
}
