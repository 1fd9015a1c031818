//! Chat with names and rooms, over all cores.
//!
//! ```text
//! cargo run --example chat -- 127.0.0.1:9001
//! websocat 'ws://127.0.0.1:9001/kitchen?name=Ann'
//! ```
//!
//! A line goes to everybody in the room; `/to Ben hello` to Ben alone, wherever he is; `/who` asks
//! how many are in the room.
//!
//! There is one `Chat` per core, so a `HashMap` of rooms in it would know a part of the people
//! only. Rooms are topics, which the engine spreads over cores. Names have to be unique over all of
//! them, so they are in one table behind a lock, which is taken when people come and go and for
//! private lines, and never for what a room says.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringhold::{
    CloseCode, Closed, ConnId, Connection, Context, Frame, Handler, HttpResponse, Message, Request,
    Running, Server, StartError, UpgradeAction,
};

type Names = Arc<Mutex<HashMap<String, ConnId>>>;

/// Questions that may wait.
const QUESTIONS_MAX: usize = 64;

/// One core of the chat.
pub struct Chat {
    names: Names,
    /// Who wants to know how many are in which room. All cores have to be asked, which takes a
    /// moment, so no callback waits for it: a thread does.
    questions: SyncSender<(ConnId, String)>,
}

/// The state of a connection.
pub struct Member {
    name: String,
    room: String,
    /// Whether the name is in the table for this connection.
    named: bool,
}

impl Handler for Chat {
    type State = Member;
    /// Other threads send nothing here.
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<Member> {
        let name = request.query_value("name").unwrap_or_default().into_owned();
        let fits = (1..=20).contains(&name.len()) && name.chars().all(char::is_alphanumeric);
        if !fits {
            let text = "?name= must be 1 to 20 letters and digits\n";
            return UpgradeAction::Respond(HttpResponse::new(400).body("text/plain", text));
        }
        UpgradeAction::accept(Member { name, room: request.path().to_owned(), named: false })
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, member: &mut Member) {
        match lock(&self.names).entry(member.name.clone()) {
            Entry::Vacant(place) => place.insert(conn.id()),
            Entry::Occupied(_) => {
                // An error says that the connection is gone already.
                let _ = conn.close(CloseCode(4009), "the name is taken");
                return;
            }
        };
        member.named = true;
        conn.subscribe(&member.room);
        conn.publish(&member.room, &Frame::text(&format!("* {} is here", member.name)));
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, member: &mut Member, message: Message<'_>) {
        let Some(line) = message.text() else { return };
        if let Some((name, line)) = line.strip_prefix("/to ").and_then(|it| it.split_once(' ')) {
            let id = lock(&self.names).get(name).copied();
            let line = Frame::text(&format!("{} to you: {line}", member.name));
            if id.is_none_or(|id| conn.send_to(id, &line).is_err()) {
                let _ = conn.text(&format!("* {name} is not here"));
            }
        } else if line == "/who" {
            if self.questions.try_send((conn.id(), member.room.clone())).is_err() {
                let _ = conn.text("* ask again later");
            }
        } else {
            // Encoded once for all who are in the room, on whatever core.
            conn.publish(&member.room, &Frame::text(&format!("{}: {line}", member.name)));
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, _: ConnId, member: Member, _: &Closed) {
        if member.named {
            lock(&self.names).remove(&member.name);
            cx.publish(&member.room, &Frame::text(&format!("* {} has left", member.name)));
        }
    }
}

fn lock(names: &Names) -> MutexGuard<'_, HashMap<String, ConnId>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the chat on this address; port 0 is a free one.
pub fn start(address: SocketAddr, cores: usize) -> Result<Running<Chat>, StartError> {
    let names = Names::default();
    let (questions, asked) = mpsc::sync_channel::<(ConnId, String)>(QUESTIONS_MAX);
    let running = Server::builder()
        .listen(address)
        .workers(cores)
        .max_message(4 * 1024)
        .configure(|config| config.message_rate = 50)
        .drain_on_signals()
        .start(move |_core| Chat { names: names.clone(), questions: questions.clone() })?;
    let handle = running.handle();
    // Ends with the cores, which hold the other end.
    std::thread::spawn(move || {
        for (id, room) in asked {
            let count = handle.subscribers(&room);
            let _ = handle.send(id, &Frame::text(&format!("* {count} in {room}")));
        }
    });
    Ok(running)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    start(address.parse()?, 0)?.join()?;
    Ok(())
}
