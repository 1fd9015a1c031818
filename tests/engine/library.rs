//! The interface of the library, as an application has it: timers, states, subscriptions of others,
//! answers over HTTP, heartbeats and slow readers.
//!
//! Method: the application runs in `ringhold::testing`, without a socket and with a clock that only
//! the test moves; so nothing here waits, and each figure is exact.

use std::net::SocketAddr;
use std::time::Duration;

use ringhold::testing::{Client, Received, World};
use ringhold::{
    Bytes, Cause, CloseCode, Closed, Config, ConnId, Connection, Context, CoreStart, Drain, Frame,
    Handle, Handler, HttpAction, HttpResponse, Message, Refusal, Request, SendError, TimerId,
    UpgradeAction,
};

use crate::support::until;

/// A user's connection; what it says is done by the letter's thread.
struct User {
    name: String,
    score: u32,
}

/// What a backend wants of a core.
enum Wish {
    /// Add to the score of a user's connection, and say so.
    Score(ConnId, u32),
    /// Put somebody into a room.
    Join(ConnId, &'static str),
    Panic,
}

struct App {
    core: usize,
    handle: Handle<App>,
    rung: Vec<(u64, Duration)>,
    closed: Vec<(String, u32, Cause)>,
    ids: Vec<ConnId>,
    timer: Option<TimerId>,
    writable: u32,
}

impl App {
    fn new(start: CoreStart<Self>) -> Self {
        Self {
            core: start.core,
            handle: start.handle,
            rung: Vec::new(),
            closed: Vec::new(),
            ids: Vec::new(),
            timer: None,
            writable: 0,
        }
    }
}

impl Handler for App {
    type State = User;
    type Event = Wish;

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<User> {
        match (request.path(), request.cookie("user")) {
            ("/teapot", _) => UpgradeAction::Respond(
                HttpResponse::new(418).header("X-Why", "short").body("text/plain", "and stout"),
            ),
            ("/login", _) => UpgradeAction::Respond(
                HttpResponse::new(303).header("Location", "https://a.example/"),
            ),
            ("/gone", _) => UpgradeAction::Refuse(Refusal::NotFound),
            (_, Some(name)) => UpgradeAction::accept(User { name: name.to_owned(), score: 0 }),
            (_, None) => UpgradeAction::Respond(HttpResponse::new(401)),
        }
    }

    fn on_http(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        _: Option<&[u8]>,
        _: SocketAddr,
    ) -> HttpAction<User> {
        match request.query_value("size").map(|size| size.parse::<usize>()) {
            Some(Ok(size)) => HttpAction::Respond(
                HttpResponse::new(200).body("application/octet-stream", vec![b'x'; size]),
            ),
            _ => HttpAction::Respond(
                HttpResponse::new(200).body("text/plain", Bytes::from_static(b"healthy")),
            ),
        }
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, user: &mut User) {
        self.ids.push(conn.id());
        conn.subscribe("all");
        let _ = conn.text(&format!("welcome {}", user.name));
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, _: &mut User, message: Message<'_>) {
        match message.text() {
            Some("in a second") => {
                let tag = conn.id().to_bits();
                self.timer = Some(conn.set_timer(Duration::from_secs(1), tag));
            }
            Some("never mind") => {
                let timer = self.timer.take().expect("one was set");
                assert!(conn.cancel_timer(timer) && !conn.cancel_timer(timer));
            }
            Some("flood") => {
                for _ in 0..40 {
                    conn.binary(&[0; 16 * 1024]).expect("there is room");
                }
            }
            _ => drop(conn.reply(message)),
        }
    }

    fn on_writable(&mut self, _: &mut Connection<'_>, _: &mut User) {
        self.writable += 1;
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, tag: u64) {
        self.rung.push((tag, cx.now()));
        if tag == 0 {
            panic!("at the wrong moment");
        }
        let id = ConnId::from_bits(self.core as u16, tag);
        let _ = cx.send_to(id, &Frame::text("it is time"));
    }

    fn on_event(&mut self, cx: &mut Context<'_>, wish: Wish) {
        match wish {
            Wish::Score(id, points) => {
                let Some(user) = cx.state::<User>(id) else { return };
                user.score += points;
                let line = format!("{} has {}", user.name, user.score);
                cx.send_to(id, &Frame::text(&line)).expect("it is open");
            }
            // Of this core, or of another.
            Wish::Join(id, room) => drop(cx.subscribe_at(id, room)),
            Wish::Panic => {
                cx.set_timer(Duration::ZERO, 0);
            }
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, id: ConnId, user: User, closed: &Closed) {
        assert!(cx.state::<User>(id).is_none(), "it is in our hands");
        self.closed.push((user.name, user.score, closed.cause));
    }
}

fn world(cores: usize) -> World<App> {
    World::new(Config::default(), cores, App::new)
}

fn user(world: &mut World<App>, core: usize, name: &str) -> (Client, ConnId) {
    let client = world.open(core, "/", &[("Cookie", &format!("user={name}"))]).expect("accepted");
    assert_eq!(client.next_text(), Some(format!("welcome {name}")));
    let id = *world.handler(core).ids.last().expect("it is open");
    (client, id)
}

#[test]
fn upgrades_are_refused_in_any_words() {
    let mut world = world(1);
    let teapot = world.open(0, "/teapot", &[]).unwrap_err();
    assert_eq!((teapot.status, teapot.header("x-why")), (418, Some("short")));
    assert_eq!(teapot.body, b"and stout");
    assert_eq!(teapot.header("connection"), Some("close"));
    let login = world.open(0, "/login", &[]).unwrap_err();
    assert_eq!((login.status, login.header("location")), (303, Some("https://a.example/")));
    assert_eq!(world.open(0, "/gone", &[]).unwrap_err().status, 404);
    assert_eq!(world.open(0, "/", &[]).unwrap_err().status, 401);
    let counters = world.stats().counters;
    assert_eq!((counters.refused_application, counters.answered, counters.opened), (3, 1, 0));
}

#[test]
fn plain_requests_get_bodies_of_any_size() {
    let mut world = world(1);
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let health = world.ask(0, &get("/health")).expect("an answer");
    assert_eq!((health.status, &health.body[..]), (200, &b"healthy"[..]));
    // In the cork, and beside it.
    for size in [0, 1, 16 * 1024 - 1, 16 * 1024, 1 << 20] {
        let answer = world.ask(0, &get(&format!("/?size={size}"))).expect("an answer");
        assert_eq!(answer.header("content-length"), Some(size.to_string().as_str()));
        assert_eq!(answer.body.len(), size);
    }
    let head = world.ask(0, "HEAD /?size=70000 HTTP/1.1\r\nHost: a\r\n\r\n").expect("an answer");
    assert_eq!((head.header("content-length"), head.body.len()), (Some("70000"), 0));
    // Longer than half of the memory for outboxes.
    let config = Config { max_outboxes: 1 << 20, ..Config::default() };
    let mut world = World::new(config, 1, App::new);
    assert_eq!(world.ask(0, &get("/?size=600000")).expect("an answer").status, 503);
    assert_eq!(world.ask(0, &get("/?size=500000")).expect("an answer").body.len(), 500_000);
}

#[test]
fn who_does_not_read_an_answer_is_given_up() {
    let mut world = world(1);
    let client = world.connect(0);
    client.set_reading(false);
    client.bytes(b"GET /?size=1000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    world.run();
    assert!(world.stats().counters.outbox_bytes_held > 900_000);
    let timeout = Config::default().write_timeout;
    world.advance(timeout - Duration::from_secs(1));
    assert!(!client.is_ended());
    // The kernel is asked in steps of a third of it.
    world.advance(timeout / 2);
    assert!(client.is_ended());
    let counters = world.stats().counters;
    assert_eq!((counters.outbox_bytes_held, counters.connections), (0, 0));
}

#[test]
fn timers_ring_when_they_are_due() {
    let mut world = world(1);
    let (ann, id) = user(&mut world, 0, "ann");
    ann.text("in a second");
    world.run();
    world.advance(Duration::from_millis(999));
    assert_eq!(ann.next(), None);
    world.advance(Duration::from_millis(1));
    assert_eq!(ann.next_text().as_deref(), Some("it is time"));
    ann.text("in a second");
    ann.text("never mind");
    world.advance(Duration::from_secs(10));
    assert_eq!(ann.next(), None);
    // Who has gone is not reached, nor is who has the same slot now.
    ann.text("in a second");
    world.run();
    ann.leave();
    world.run();
    let (ben, _) = user(&mut world, 0, "ben");
    world.advance(Duration::from_secs(2));
    assert_eq!(ben.next(), None);
    let rung = &world.handler(0).rung;
    assert_eq!(rung.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [id.to_bits(); 2]);
    // A panic in one is counted, and nothing else happens.
    world.handle().post(0, Wish::Panic).expect("there is room");
    world.run();
    assert_eq!(world.stats().counters.panics, 1);
    ben.text("still here?");
    world.run();
    assert_eq!(ben.next_text().as_deref(), Some("still here?"));
}

#[test]
fn letters_reach_states() {
    let mut world = world(2);
    let (ann, ann_id) = user(&mut world, 0, "ann");
    let (ben, ben_id) = user(&mut world, 1, "ben");
    let handle = world.handle();
    for (id, points) in [(ann_id, 3), (ben_id, 5), (ann_id, 4)] {
        handle.post(id.core(), Wish::Score(id, points)).expect("there is room");
    }
    // Of another core: there is no state here.
    handle.post(1, Wish::Score(ann_id, 100)).expect("there is room");
    world.run();
    assert_eq!([ann.next_text(), ann.next_text()].map(Option::unwrap), ["ann has 3", "ann has 7"]);
    assert_eq!(ben.next_text().as_deref(), Some("ben has 5"));
    ann.close(CloseCode::NORMAL, "bye");
    world.run();
    // It is gone, and its slot may have another tenant.
    handle.post(0, Wish::Score(ann_id, 100)).expect("there is room");
    let (cid, _) = user(&mut world, 0, "cid");
    handle.post(0, Wish::Score(ann_id, 100)).expect("there is room");
    world.run();
    assert_eq!(cid.next(), None);
    assert_eq!(world.handler(0).closed, [("ann".to_owned(), 7, Cause::Peer)]);
    assert_eq!(world.stats().counters.panics, 0);
}

#[test]
fn others_are_subscribed_from_anywhere() {
    let mut world = world(2);
    let (ann, ann_id) = user(&mut world, 0, "ann");
    let (ben, ben_id) = user(&mut world, 1, "ben");
    let handle = world.handle();
    // By the own core, by another, and by any thread.
    handle.post(0, Wish::Join(ann_id, "room")).expect("there is room");
    handle.post(0, Wish::Join(ben_id, "room")).expect("there is room");
    handle.subscribe(ben_id, "other").expect("there is room");
    handle.subscribe(ben_id, "other").expect("twice is once");
    world.run();
    handle.publish("room", &Frame::text("both"));
    handle.publish("other", &Frame::text("ben alone"));
    world.run();
    assert_eq!(ann.next_text().as_deref(), Some("both"));
    assert_eq!([ben.next_text(), ben.next_text()].map(Option::unwrap), ["both", "ben alone"]);
    assert_eq!(world.stats().counters.subscriptions, 5);
    handle.unsubscribe(ben_id, "room").expect("there is room");
    handle.unsubscribe(ben_id, "nowhere").expect("it changes nothing");
    world.run();
    handle.publish("room", &Frame::text("ann alone"));
    world.run();
    assert_eq!(ann.next_text().as_deref(), Some("ann alone"));
    assert_eq!((ann.next(), ben.next()), (None, None));
    // Who is gone is in no room, and neither is who has the slot next.
    ann.leave();
    world.run();
    handle.subscribe(ann_id, "room").expect("the mailbox takes it");
    let (cid, _) = user(&mut world, 0, "cid");
    handle.subscribe(ann_id, "room").expect("the mailbox takes it");
    world.run();
    handle.publish("room", &Frame::text("nobody"));
    world.run();
    assert_eq!(cid.next(), None);
    assert_eq!(handle.subscribe(ConnId::from_bits(9, 0), "room"), Err(SendError::Gone));
}

#[test]
fn subscribers_are_counted_over_cores() {
    let mut world = world(2);
    let all: Vec<_> = (0..5).map(|n| user(&mut world, n % 2, "somebody")).collect();
    let handle = world.handle();
    // The question waits on another thread while the cores take their turns here. A core whose turn
    // is late is left out.
    until("all cores to answer", || {
        let handle = handle.clone();
        let question = std::thread::spawn(move || handle.subscribers("all"));
        while !question.is_finished() {
            world.run();
            std::thread::yield_now();
        }
        question.join().expect("an answer") == 5
    });
    drop(all);
}

#[test]
fn silence_is_noticed() {
    let mut world = world(1);
    let (ann, _) = user(&mut world, 0, "ann");
    let (ben, _) = user(&mut world, 0, "ben");
    ben.set_answering(false);
    world.advance(Duration::from_secs(120));
    assert!(ann.pings() > 1 && !ann.is_ended());
    assert!(ben.is_ended());
    assert_eq!(world.handler(0).closed, [("ben".to_owned(), 0, Cause::Heartbeat)]);
}

#[test]
fn slow_readers_are_congested() {
    let mut world = world(1);
    let (ann, _) = user(&mut world, 0, "ann");
    ann.set_reading(false);
    ann.text("flood");
    world.run();
    let held = world.stats().counters.outbox_bytes_held;
    assert!(held > 0 && world.stats().counters.blocked == 1);
    ann.set_reading(true);
    world.run();
    assert_eq!(world.handler(0).writable, 1);
    let mut bytes = 0;
    while let Some(Received::Binary(payload)) = ann.next() {
        bytes += payload.len();
    }
    assert_eq!(bytes, 40 * 16 * 1024);
    assert_eq!(world.stats().counters.outbox_bytes_held, 0);
}

#[test]
fn a_drain_closes_evenly_over_its_window() {
    let mut world = world(2);
    let mut open: Vec<_> = (0..200).map(|n| user(&mut world, n % 2, "somebody").0).collect();
    let (all, quarter) = (open.len(), Duration::from_millis(750));
    let plan = Drain { window: 4 * quarter, deadline: 40 * quarter, ..Drain::default() };
    world.handle().drain(&plan);
    world.run();
    for quarters in 1..=4 {
        world.advance(quarter);
        open.retain(|client| !matches!(client.next(), Some(Received::Close(..))));
        let (told, due) = (all - open.len(), all * quarters / 4);
        assert!(told.abs_diff(due) <= all / 20, "{told} of {due} in quarter {quarters}");
    }
    assert!(open.is_empty());
}

#[test]
fn a_drain_ends_the_world() {
    let mut world = world(2);
    let (ann, _) = user(&mut world, 0, "ann");
    let (ben, _) = user(&mut world, 1, "ben");
    let plan = Drain {
        window: Duration::from_secs(2),
        deadline: Duration::from_secs(4),
        ..Drain::default()
    };
    world.handle().drain(&plan);
    world.run();
    assert_eq!((ann.next(), ben.next()), (None, None));
    world.advance(Duration::from_secs(5));
    for client in [&ann, &ben] {
        assert!(matches!(client.next(), Some(Received::Close(CloseCode::GOING_AWAY, _))));
        assert_eq!(client.next(), Some(Received::End));
    }
    assert!(world.is_ended());
    let handle = world.handler(0).handle.clone();
    assert!(handle.post(0, Wish::Panic).is_err());
}
