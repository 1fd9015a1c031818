//! Echo for those who have a token, with limits and a graceful end.
//!
//! ```text
//! cargo run --example echo -- 127.0.0.1:9001
//! websocat -H 'Authorization: Bearer secret-of-ann' ws://127.0.0.1:9001/
//! ```
//!
//! An unknown user gets 401, a user with too many connections 429. SIGTERM lets clients go over
//! some seconds, so that they do not all come back at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringhold::{
    CloseCode, Closed, ConnId, Connection, Context, Drain, Handler, HttpResponse, Message,
    RatePolicy, Request, Running, Server, StartError, UpgradeAction,
};

/// Users by their tokens.
const TOKENS: [(&str, &str); 2] = [("secret-of-ann", "ann"), ("secret-of-ben", "ben")];

/// Connections that a user may have, over all cores.
const CONNECTIONS_MAX: u32 = 2;

type Seats = Arc<Mutex<HashMap<&'static str, u32>>>;

/// One core of the server.
pub struct Echo {
    /// Taken seats of each user; shared by all cores.
    seats: Seats,
}

impl Handler for Echo {
    /// The user's seat, which is free again when this is dropped: also if a connection ends before
    /// it is open.
    type State = Seat;
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<Seat> {
        let token = request.header("Authorization").and_then(|it| it.strip_prefix("Bearer "));
        let user = TOKENS.iter().find(|(known, _)| Some(*known) == token).map(|(_, user)| *user);
        let Some(user) = user else {
            return UpgradeAction::Respond(
                HttpResponse::new(401).header("WWW-Authenticate", "Bearer"),
            );
        };
        match Seat::take(&self.seats, user) {
            Some(seat) => UpgradeAction::accept(seat),
            None => UpgradeAction::Respond(HttpResponse::new(429).header("Retry-After", "10")),
        }
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, _: &mut Seat, message: Message<'_>) {
        // An error says that the connection is gone or too slow, which the engine counts.
        let _ = conn.reply(message);
    }

    fn on_close(&mut self, _: &mut Context<'_>, id: ConnId, seat: Seat, closed: &Closed) {
        eprintln!("{id:?} of {} ended: {:?}, {}", seat.user, closed.cause, closed.code);
    }
}

/// One of a user's connections.
pub struct Seat {
    seats: Seats,
    user: &'static str,
}

impl Seat {
    fn take(seats: &Seats, user: &'static str) -> Option<Self> {
        let mut taken = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(user).or_default();
        if *count == CONNECTIONS_MAX {
            return None;
        }
        *count += 1;
        Some(Self { seats: seats.clone(), user })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(self.user) {
            *count -= 1;
        }
    }
}

/// Serves on this address; port 0 is a free one.
pub fn start(address: SocketAddr, cores: usize) -> Result<Running<Echo>, StartError> {
    let seats = Seats::default();
    Server::builder()
        .listen(address)
        .workers(cores)
        .max_connections(10_000)
        .max_message(64 * 1024)
        .configure(|config| {
            config.max_per_address = 100;
            // Faster than that, and TCP slows the sender down.
            config.message_rate = 100;
            config.rate_policy = RatePolicy::Pause;
            config.idle_timeout = Duration::from_secs(300);
            config.drain = Drain {
                window: Duration::from_secs(3),
                deadline: Duration::from_secs(5),
                code: CloseCode::GOING_AWAY,
                reason: "come back in a moment".to_owned(),
            };
        })
        .drain_on_signals()
        .start(move |_core| Echo { seats: seats.clone() })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let stats = start(address.parse()?, 0)?.join()?;
    eprintln!("{} connections, {} messages", stats.counters.opened, stats.counters.messages_in);
    Ok(())
}
