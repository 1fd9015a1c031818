//! Push to one user from a tokio task.
//!
//! ```text
//! cargo run --example push -- 127.0.0.1:9001
//! websocat 'ws://127.0.0.1:9001/?user=42'
//! ```
//!
//! Each connection of a user subscribes to a topic of the user's own, so all of a user's browsers
//! are reached, on whatever core they are, and nobody keeps a table of them. The task is where an
//! application would listen to its database or its queue; here it reads lines such as `42 hello`
//! from standard input.

use std::net::SocketAddr;

use ringhold::{
    Connection, Context, Frame, Handle, Handler, HttpResponse, Message, Request, Running, Server,
    StartError, UpgradeAction,
};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

/// One core of the server.
pub struct Push;

impl Handler for Push {
    /// The user's topic; an empty text costs no memory, and it is not needed after `open`.
    type State = Box<str>;
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<Box<str>> {
        // A real server would believe a token, and not the client.
        match request.query_value("user") {
            Some(user) => UpgradeAction::accept(topic(&user).into()),
            None => UpgradeAction::Respond(HttpResponse::new(401)),
        }
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, topic: &mut Box<str>) {
        conn.subscribe(&std::mem::take(topic));
    }

    fn on_message(&mut self, _: &mut Connection<'_>, _: &mut Box<str>, _: Message<'_>) {}
}

fn topic(user: &str) -> String {
    format!("user:{user}")
}

/// Sends each line `<user> <text>` to that user, until the input ends.
pub async fn push_lines(
    handle: Handle<Push>,
    input: impl AsyncBufRead + Unpin,
) -> std::io::Result<()> {
    let mut lines = input.lines();
    while let Some(line) = lines.next_line().await? {
        let Some((user, text)) = line.split_once(' ') else { continue };
        // Never blocks. A core that is too busy misses it, which is counted (`mailbox_full`).
        handle.publish(&topic(user), &Frame::text(text));
    }
    Ok(())
}

/// Serves on this address; port 0 is a free one.
pub fn start(address: SocketAddr, cores: usize) -> Result<Running<Push>, StartError> {
    Server::builder().listen(address).workers(cores).start(|_core| Push)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let running = start(address.parse()?, 0)?;
    let input = BufReader::new(tokio::io::stdin());
    tokio::spawn(push_lines(running.handle(), input)).await??;
    running.drain(&ringhold::Drain::default());
    tokio::task::spawn_blocking(|| running.join()).await??;
    Ok(())
}
