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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringhold::{
    Answer, CloseCode, Closed, Conn, ConnId, Cx, Frame, Handle, Handler, HttpResponse, Message,
    Request, Running, Server, StartError,
};

type Names = Arc<Mutex<HashMap<String, ConnId>>>;

/// One core of the chat.
pub struct Chat {
    names: Names,
    handle: Handle<Chat>,
}

/// What is kept of a connection.
pub struct Member {
    name: String,
    room: String,
    /// Whether the name is in the table for this connection.
    named: bool,
}

impl Handler for Chat {
    type State = Member;
    /// Other threads send nothing here.
    type Letter = ();

    fn request(&mut self, _: &mut Cx<'_>, request: &Request<'_>, _: SocketAddr) -> Answer<Member> {
        let name = request.query_value("name").unwrap_or_default().into_owned();
        let fits = (1..=20).contains(&name.len()) && name.chars().all(char::is_alphanumeric);
        if !fits {
            let text = "?name= must be 1 to 20 letters and digits\n";
            return Answer::Respond(HttpResponse::new(400).body("text/plain", text));
        }
        Answer::accept(Member { name, room: request.path().to_owned(), named: false })
    }

    fn open(&mut self, conn: &mut Conn<'_>, member: &mut Member) {
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

    fn message(&mut self, conn: &mut Conn<'_>, member: &mut Member, message: Message<'_>) {
        let Some(line) = message.text() else { return };
        if let Some((name, line)) = line.strip_prefix("/to ").and_then(|it| it.split_once(' ')) {
            let id = lock(&self.names).get(name).copied();
            let line = Frame::text(&format!("{} to you: {line}", member.name));
            if id.is_none_or(|id| conn.send_to(id, &line).is_err()) {
                let _ = conn.text(&format!("* {name} is not here"));
            }
        } else if line == "/who" {
            self.count(conn.id(), member.room.clone());
        } else {
            // Encoded once for all who are in the room, on whatever core.
            conn.publish(&member.room, &Frame::text(&format!("{}: {line}", member.name)));
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>, _: ConnId, member: Member, _: &Closed) {
        if member.named {
            lock(&self.names).remove(&member.name);
            cx.publish(&member.room, &Frame::text(&format!("* {} has left", member.name)));
        }
    }
}

impl Chat {
    /// All cores have to be asked, which takes a moment, so no callback waits for it. (A thread for
    /// each question is simple; a service would have one that answers all of them.)
    fn count(&self, id: ConnId, room: String) {
        let handle = self.handle.clone();
        std::thread::spawn(move || {
            let count = handle.subscribers(&room);
            let _ = handle.send(id, &Frame::text(&format!("* {count} in {room}")));
        });
    }
}

fn lock(names: &Names) -> MutexGuard<'_, HashMap<String, ConnId>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the chat on this address; port 0 is a free one.
pub fn start(address: SocketAddr, cores: usize) -> Result<Running<Chat>, StartError> {
    let names = Names::default();
    Server::builder()
        .listen(address)
        .workers(cores)
        .max_message(4 * 1024)
        .drain_on_signals()
        .start(move |core| Chat { names: names.clone(), handle: core.handle })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    start(address.parse()?, 0)?.join()?;
    Ok(())
}
