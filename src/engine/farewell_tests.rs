//! Farewells of an application that keeps a line of text for each connection and says it last: what
//! it is asked, of which state, and in which order, whoever has the state in hand when the end
//! comes.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::time::Duration;

use super::config::{Config, Drain};
use super::conn::{Connection, Context, Message};
use super::handler::{Handler, HttpAction, UpgradeAction};
use super::harness::{Client, Received, World};
use super::value::{Closed, ConnId, Ending, SendError};
use crate::protocol::CloseCode;
use crate::protocol::request::Request;

#[derive(Default)]
struct Diary {
    ids: Vec<ConnId>,
    /// Each farewell and each `on_close`, in their order.
    ends: RefCell<Vec<String>>,
}

impl Handler for Diary {
    type State = String;
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<String> {
        UpgradeAction::accept("new".to_owned())
    }

    fn on_http(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: Option<&[u8]>,
        _: SocketAddr,
    ) -> HttpAction<String> {
        HttpAction::Later { state: "without an answer".to_owned() }
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, _: &mut String) {
        self.ids.push(conn.id());
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, line: &mut String, message: Message<'_>) {
        match message.text() {
            Some("close") => {
                line.push_str(", closing");
                conn.close(CloseCode(4000), "so").expect("it is open");
                assert_eq!(conn.text("late"), Err(SendError::Gone));
                line.push_str(", closed");
            }
            Some("close the first, and panic") => {
                let cx: &mut Context<'_> = conn;
                cx.close(self.ids[0], CloseCode(4001), "you").expect("it is open");
                line.push_str(", half");
                resume_unwind(Box::new("on purpose"));
            }
            Some("flood") => {
                while conn.binary(&[0; 16 * 1024]).is_ok() {}
                line.push_str(", flooded");
            }
            Some(text) => text.clone_into(line),
            None => {}
        }
    }

    fn farewell(&self, line: &String, ending: &Ending<'_>, out: &mut Vec<u8>) {
        let Ending { cause, code, reason } = ending;
        self.ends.borrow_mut().push(format!("{line}: {cause:?}, {code} {reason}"));
        out.extend_from_slice(line.as_bytes());
        if line == "bad" {
            resume_unwind(Box::new("on purpose"));
        }
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ConnId, line: String, closed: &Closed) {
        self.ends.borrow_mut().push(format!("{line} is over: {:?}", closed.cause));
    }
}

fn world(change: impl FnOnce(&mut Config)) -> World<Diary> {
    let mut config = Config::default();
    config.heartbeat.enabled = false;
    change(&mut config);
    World::new(config, 1, |_| Diary::default())
}

fn open(world: &mut World<Diary>) -> Client {
    world.open(0, "/", &[]).expect("an upgrade")
}

fn say(world: &mut World<Diary>, client: &Client, text: &str) {
    client.text(text);
    world.run();
}

/// What came on a connection since the last look.
fn all(client: &Client) -> Vec<Received> {
    std::iter::from_fn(|| client.next()).collect()
}

fn text(text: &str) -> Received {
    Received::Text(text.to_owned())
}

fn close(code: CloseCode, reason: &str) -> Received {
    Received::Close(code, reason.to_owned())
}

fn ends(world: &mut World<Diary>) -> Vec<String> {
    world.handler(0).ends.take()
}

#[test]
fn the_state_is_as_the_callback_left_it() {
    let mut world = world(|_| {});
    let client = open(&mut world);
    say(&mut world, &client, "close");
    let line = "new, closing, closed";
    let end = [text(line), close(CloseCode(4000), "so"), Received::End];
    assert_eq!(all(&client), end);
    let asked = [format!("{line}: Application, 4000 so"), format!("{line} is over: Application")];
    assert_eq!(ends(&mut world), asked, "first asked, then told");
}

#[test]
fn a_panic_and_another_connection_are_no_hindrance() {
    let mut world = world(|_| {});
    let (first, second) = (open(&mut world), open(&mut world));
    say(&mut world, &first, "the first");
    say(&mut world, &second, "close the first, and panic");
    assert_eq!(all(&first), [text("the first"), close(CloseCode(4001), "you"), Received::End]);
    let internal = close(CloseCode::INTERNAL, "internal error");
    assert_eq!(all(&second), [text("new, half"), internal, Received::End]);
    let asked = [
        "the first: Application, 4001 you",
        "the first is over: Application",
        "new, half: Panic, 1011 internal error",
        "new, half is over: Panic",
    ];
    assert_eq!(ends(&mut world), asked);
}

#[test]
fn the_engine_may_end_it_in_the_middle_of_a_callback() {
    let mut world = world(|config| config.max_outboxes = 1 << 20);
    let client = open(&mut world);
    say(&mut world, &client, "flood");
    let full = close(CloseCode::TRY_AGAIN, "out of outbox memory");
    assert_eq!(all(&client), [text("new, flooded"), full, Received::End]);
    assert_eq!(ends(&mut world)[1..], ["new, flooded is over: OutboxFull"]);
}

#[test]
fn the_engine_asks_for_what_it_ends_itself() {
    let mut world = world(|config| config.idle_timeout = Duration::from_secs(5));
    let (idle, wrong) = (open(&mut world), open(&mut world));
    // A frame without a mask.
    wrong.bytes(b"\x81\x01x");
    world.run();
    let asked = ends(&mut world);
    assert!(asked[0].starts_with("new: Protocol, 1002 "), "{asked:?}");
    assert_eq!(all(&wrong)[0], text("new"));
    world.advance(Duration::from_secs(6));
    assert_eq!(all(&idle)[..2], [text("new"), close(CloseCode::GOING_AWAY, "idle")]);
    assert_eq!(ends(&mut world)[0], "new: Idle, 1001 idle");
    // The peer's own end, too.
    let gone = open(&mut world);
    gone.close(CloseCode(4002), "mine");
    world.run();
    assert_eq!(all(&gone)[..2], [text("new"), close(CloseCode(4002), "")]);
    assert_eq!(ends(&mut world), ["new: Peer, 4002 ", "new is over: Peer"]);
}

#[test]
fn a_drain_asks_for_each() {
    let mut world = world(|_| {});
    let clients: Vec<Client> = (0..5).map(|_| open(&mut world)).collect();
    for (number, client) in clients.iter().enumerate() {
        say(&mut world, client, &number.to_string());
    }
    let window = Duration::ZERO;
    let plan = Drain { code: CloseCode(3001), reason: "going".into(), window, ..Drain::default() };
    world.handle().drain(&plan);
    world.advance(Duration::from_secs(1));
    for (number, client) in clients.iter().enumerate() {
        let end = [text(&number.to_string()), close(CloseCode(3001), "going"), Received::End];
        assert_eq!(all(client), end);
    }
    assert!(world.is_ended());
}

#[test]
fn a_panic_says_nothing_and_the_close_frame_is_sent() {
    let mut world = world(|_| {});
    let client = open(&mut world);
    say(&mut world, &client, "bad");
    let id = world.handler(0).ids[0];
    world.handle().close(id, CloseCode(4003), "so").expect("it is open");
    world.run();
    assert_eq!(all(&client), [close(CloseCode(4003), "so"), Received::End]);
    assert_eq!(ends(&mut world)[1..], ["bad is over: Application"]);
    assert_eq!(world.stats().counters.panics, 1);
    assert_eq!(world.stats().counters.connections, 0);
}

#[test]
fn where_nothing_can_be_said_nobody_is_asked() {
    let mut world = world(|_| {});
    let client = open(&mut world);
    client.leave();
    world.run();
    assert_eq!(ends(&mut world), ["new is over: Abrupt"]);
    let stream = world.connect(0);
    stream.bytes(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    world.run();
    let id = world.handler(0).ids[1];
    world.handle().close(id, CloseCode(4004), "so").expect("it is open");
    world.run();
    assert_eq!(stream.answer().map(|answer| answer.status), Some(503));
    assert_eq!(ends(&mut world), ["without an answer is over: Application"]);
    // Those that are cut.
    let cut = open(&mut world);
    world.handle().stop();
    world.run();
    assert_eq!(all(&cut), [Received::End]);
    assert_eq!(ends(&mut world), ["new is over: Drain"]);
}
