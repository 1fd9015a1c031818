//! A client: dials a server, says something, prints what comes, and comes back after a failure.
//!
//! ```text
//! cargo run --example client -- 127.0.0.1:9001 /kitchen?name=Cid hello
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use ringhold::{
    Closed, ConnId, Connection, Context, DialTarget, Handler, Message, Refusal, Request, Running,
    Server, StartError, UpgradeAction,
};

/// Most attempts to connect, one after the other.
const ATTEMPTS_MAX: u64 = 5;

/// The one core of the client.
pub struct Client {
    target: Arc<DialTarget>,
    greeting: String,
    begun: bool,
    heard: Sender<String>,
}

impl Handler for Client {
    type State = ();
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        // It does not listen.
        UpgradeAction::Refuse(Refusal::NotFound)
    }

    /// The first turn comes at once.
    fn on_turn(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        if !std::mem::replace(&mut self.begun, true) {
            cx.dial(&self.target, None, 1);
        }
        None
    }

    fn on_dialled(&mut self, _: &mut Context<'_>, _: u64) -> Option<()> {
        Some(())
    }

    fn on_dial_failed(&mut self, cx: &mut Context<'_>, attempt: u64, error: &str) {
        self.say(format!("attempt {attempt}: {error}"));
        if attempt == ATTEMPTS_MAX {
            return cx.stop();
        }
        // Not all clients at the same moment.
        let pause = Duration::from_millis((50 << attempt) + cx.random() % 50);
        cx.set_timer(pause, attempt + 1);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, attempt: u64) {
        cx.dial(&self.target, None, attempt);
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, (): &mut ()) {
        let _ = conn.text(&self.greeting);
    }

    fn on_message(&mut self, _: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        if let Some(text) = message.text() {
            self.say(text.to_owned());
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, _: ConnId, (): (), closed: &Closed) {
        self.say(format!("ended: {:?}, {} {}", closed.cause, closed.code, closed.reason));
        cx.stop();
    }
}

impl Client {
    fn say(&self, text: String) {
        // Nobody listens any more at the end.
        let _ = self.heard.send(text);
    }
}

/// Connects to `path` at this address. Messages and failures arrive as lines.
pub fn start(
    address: SocketAddr,
    path: &str,
    greeting: &str,
) -> Result<(Running<Client>, Receiver<String>), StartError> {
    let target = Arc::new(DialTarget {
        peer: address,
        host: address.to_string(),
        target: path.to_owned(),
        headers: Vec::new(),
        compression: false,
        tls: None,
        resume: false,
    });
    let greeting = greeting.to_owned();
    let (heard, lines) = mpsc::channel();
    let running = Server::builder()
        .workers(1)
        .configure(|config| config.listen = None)
        .drain_on_signals()
        .start(move |_core| Client {
            target: target.clone(),
            greeting: greeting.clone(),
            begun: false,
            heard: heard.clone(),
        })?;
    Ok((running, lines))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let path = arguments.next().unwrap_or_else(|| "/".to_owned());
    let greeting = arguments.next().unwrap_or_else(|| "hello".to_owned());
    let (running, lines) = start(address.parse()?, &path, &greeting)?;
    // The end of the server's threads ends the lines.
    for line in lines {
        println!("{line}");
    }
    running.join()?;
    Ok(())
}
