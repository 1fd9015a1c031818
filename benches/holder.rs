//! A server that does nothing: accepts, answers the upgrade request, and holds the bare socket.
//! What the kernel keeps for it is the least that any server's connection costs;
//! `benches/density.sh` takes it as the measure.
//!
//! `cargo bench --bench holder -- PORT` serves until its input ends. At each line of input it reads
//! what has come on all sockets, without closing any: when the clients have gone, their
//! farewells no longer weigh on the sockets that are left.

mod bare;

use std::io::{BufRead, Read};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};

static SOCKETS: Mutex<Vec<TcpStream>> = Mutex::new(Vec::new());

fn main() {
    let Some((port, _)) = bare::arguments("holder") else { return };
    let listener = bare::listen(port).expect("a free port");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            if bare::shake_hands(&mut socket).is_some() {
                SOCKETS.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
            }
        }
    });
    for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
        let sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = sockets.iter().filter(|socket| has_ended(socket)).count();
        println!("{ended} of {} have ended", sockets.len());
    }
}

/// Reads what there is. True if the peer has gone.
fn has_ended(mut socket: &TcpStream) -> bool {
    let mut bytes = [0; 4096];
    let _ = socket.set_nonblocking(true);
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}
