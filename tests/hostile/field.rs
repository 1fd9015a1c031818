//! What an attacker's script works with: connections that send whatever it makes up and never wait
//! for ever, crowds that read, and the server's core of its choice.
//!
//! Every loop here is bounded: by a count in the quick form, by time in the measured one.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::vitals::Metrics;
use super::witness::Shared;
use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::deflate::OFFER;
use crate::support::gateway::{Gateway, PATH, Session, token_of};
use crate::support::unbroken::unbroken;
use crate::support::wire::{CLOSE, FIN, TEXT, UPGRADE, frame, request};

/// The core that attackers choose where they can.
pub(crate) const ATTACKED: usize = 0;

/// Tries to send without progress, each of a millisecond, before an attacker gives up.
const TRIES: u32 = 1_000;

/// What fits in one message.
const MESSAGE: usize = 65_000;

/// The place of an attack.
pub(crate) struct Field<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) shared: &'a Shared,
    /// In the measured form: when it is over.
    pub(crate) until: Option<Instant>,
    /// Bytes of attackers that the kernel took.
    pub(crate) sent: Arc<AtomicU64>,
}

impl Field<'_> {
    /// Rounds of an attack: so many in the quick form, in the measured one until time is over.
    pub(crate) fn rounds(&self, quick: usize) -> impl Iterator<Item = usize> + use<> {
        let until = self.until;
        (0..).take_while(move |round| match until {
            Some(until) => Instant::now() < until,
            None => *round < quick,
        })
    }

    /// Likewise; in the quick form more of them until it has `happened`, which takes longer where
    /// attackers get little of the processors.
    pub(crate) fn rounds_until(
        &self,
        quick: usize,
        happened: impl Fn() -> bool,
    ) -> impl Iterator<Item = usize> {
        let (until, patience) = (self.until, Instant::now() + PATIENCE);
        (0..).take_while(move |round| match until {
            Some(until) => Instant::now() < until,
            None => *round < quick || (Instant::now() < patience && !happened()),
        })
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// A connection with nothing sent, from this address of the loopback interface.
    pub(crate) fn foe_from(&self, local: [u8; 4]) -> Foe {
        self.foe(Client::connect_to(self.address(), Some(IpAddr::from(local))))
    }

    /// A connection with nothing sent.
    pub(crate) fn stranger(&self) -> Foe {
        self.foe_from([127, 0, 0, 1])
    }

    /// A WebSocket without a connect command.
    pub(crate) fn visitor(&self) -> Foe {
        self.foe(self.gateway.session().into_client())
    }

    /// A WebSocket of this user.
    pub(crate) fn member(&self, user: &str) -> Foe {
        self.foe(self.gateway.connected(user).into_client())
    }

    /// A WebSocket of a user, subscribed to channels, whose receive buffer is small: what it does
    /// not read waits in the server, not in the kernel.
    pub(crate) fn narrow(&self, user: &str, channels: &[&str]) -> Foe {
        let mut session = self.narrow_session(PATH);
        session.connect(&json!({"token": token_of(user)}));
        for channel in channels {
            session.subscribe(channel);
        }
        self.foe(session.into_client()).deaf()
    }

    fn narrow_session(&self, target: &str) -> Session {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket can be made");
        socket.set_recv_buffer_size(2048).expect("a small buffer");
        socket.connect(&self.address().into()).expect("the server accepts");
        Session::open_on(Client::on(socket.into()), target, &[])
    }

    /// A WebSocket of this user with compression.
    pub(crate) fn deflating(&self, user: &str) -> Foe {
        self.foe(self.gateway.connected_with(user, &[OFFER]).into_client())
    }

    /// WebSockets of a user, all on the core that is attacked.
    pub(crate) fn gang(&self, count: usize, user: &str) -> Vec<Foe> {
        self.gang_with(count, user, &[])
    }

    /// Likewise, with more header lines.
    pub(crate) fn gang_with(&self, count: usize, user: &str, lines: &[&str]) -> Vec<Foe> {
        let mut others = Vec::new();
        let mut gang = Vec::new();
        while gang.len() < count && others.len() < 16 * count {
            let (session, core) = connected_somewhere(self.gateway, user, lines);
            if core == ATTACKED {
                gang.push(self.foe(session.into_client()));
            } else {
                others.push(session);
            }
        }
        assert_eq!(gang.len(), count, "the kernel gives the core no connections");
        gang
    }

    /// People who are subscribed to a channel and read.
    pub(crate) fn crowd(&self, count: usize, channel: &str) -> Crowd {
        self.crowd_with(count, channel, |_| Vec::new())
    }

    /// Likewise, each with header lines of its own.
    pub(crate) fn crowd_with(
        &self,
        count: usize,
        channel: &str,
        lines: impl Fn(usize) -> Vec<String>,
    ) -> Crowd {
        let join = |number: usize| {
            let lines = lines(number);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let mut session = self.gateway.connected_with(&format!("member-{number}"), &lines);
            session.subscribe(channel);
            session.into_client()
        };
        Crowd::start((0..count).map(join).collect())
    }

    /// What an attacker makes of a connection.
    pub(crate) fn foe(&self, client: Client) -> Foe {
        client.socket().set_nonblocking(true).expect("set_nonblocking");
        let sent = self.sent.clone();
        Foe { client, rest: Vec::new(), gone: false, deaf: false, sent, heard: 0 }
    }

    /// Has each witness do so many rounds while the attack goes on.
    pub(crate) fn witnesses_get_on(&self, rounds: u64) {
        self.shared.wait_rounds(rounds);
    }

    /// Waits until the kernel has taken all that outboxes hold, as long as it takes some of it: how
    /// fast that goes is the machine's doing.
    pub(crate) fn wait_for_readers(&self) {
        let (mut taken, mut deadline) = (0, Instant::now() + PATIENCE);
        loop {
            let metrics = Metrics::of(self.gateway);
            if metrics.get("outbox_bytes_held") == 0 {
                return;
            }
            let now = metrics.get("bytes_out_total");
            if now > taken + (1 << 20) {
                (taken, deadline) = (now, Instant::now() + PATIENCE);
            }
            assert!(Instant::now() < deadline, "the crowd does not get it");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a metric is at least this.
    pub(crate) fn wait_for(&self, metric: &str, least: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric(metric) < least {
            let value = self.metric(metric);
            assert!(Instant::now() < deadline, "{metric} is {value}, not {least} or more");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One metric now.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        Metrics::of(self.gateway).get(name)
    }
}

/// A session of a user, and the core that has it. Nobody else may come or go meanwhile.
pub(crate) fn connected_somewhere(
    gateway: &Gateway,
    user: &str,
    lines: &[&str],
) -> (Session, usize) {
    let before = Metrics::of(gateway).cores();
    let session = gateway.connected_with(user, lines);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let cores = Metrics::of(gateway).cores();
        if let Some(core) = (0..2).find(|core| cores[*core] > before[*core]) {
            return (session, core);
        }
        assert!(Instant::now() < deadline, "the connection is not counted: {cores:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The bytes of a command.
pub(crate) fn command(id: u64, method: &str, parameters: &Value) -> String {
    json!({"id": id, method: parameters}).to_string()
}

/// A frame with as many copies of a command as one message holds, and how many these are.
pub(crate) fn batch(line: &str) -> (Vec<u8>, u64) {
    let count = MESSAGE / (line.len() + 1);
    (text(&vec![line; count].join("\n")), count as u64)
}

/// A text frame.
pub(crate) fn text(payload: &str) -> Vec<u8> {
    frame(FIN | TEXT, payload.as_bytes())
}

/// A request to be upgraded.
pub(crate) fn upgrade() -> Vec<u8> {
    request(&format!("GET {PATH} HTTP/1.1"), &UPGRADE)
}

/// One connection of an attacker. Nothing it does waits for ever.
pub(crate) struct Foe {
    client: Client,
    /// What its socket did not take yet.
    rest: Vec<u8>,
    gone: bool,
    deaf: bool,
    sent: Arc<AtomicU64>,
    /// Bytes read in all.
    pub(crate) heard: u64,
}

impl Foe {
    /// It reads nothing from now on.
    pub(crate) fn deaf(mut self) -> Self {
        self.deaf = true;
        self
    }

    /// Offers bytes, of which it sends what fits; the others come first at the next call, which
    /// then adds nothing. Returns whether these bytes were taken up.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        let free = self.rest.is_empty();
        if free {
            self.rest.extend_from_slice(bytes);
        }
        self.write();
        self.read();
        free && !self.gone
    }

    /// Sends bytes, as long as the server takes some now and then. Returns whether it took all.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        for _ in 0..TRIES {
            let before = self.rest.len();
            self.write();
            self.read();
            if self.rest.is_empty() || self.gone {
                break;
            }
            if self.rest.len() == before {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.rest.is_empty() && !self.gone
    }

    /// Sends bytes, and waits as long as it takes. Returns whether the server took all.
    pub(crate) fn deliver(&mut self, bytes: &[u8]) -> bool {
        let mut deadline = Instant::now() + PATIENCE;
        let mut left = self.rest.len() + bytes.len();
        self.rest.extend_from_slice(bytes);
        loop {
            self.write();
            self.read();
            if self.rest.is_empty() || self.gone {
                return self.rest.is_empty() && !self.gone;
            }
            if self.rest.len() < left {
                (left, deadline) = (self.rest.len(), Instant::now() + PATIENCE);
            }
            assert!(Instant::now() < deadline, "the server takes nothing of an attacker");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the server has ended the connection, as far as it was looked at.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Sends what fits, and reads nothing.
    pub(crate) fn quietly(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        self.write();
    }

    fn write(&mut self) {
        let mut at = 0;
        while at < self.rest.len() && !self.gone {
            let end = self.rest.len().min(at + (1 << 16));
            match self.client.socket().write(&self.rest[at..end]) {
                Ok(count) => at += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.gone = true,
            }
        }
        self.rest.drain(..at);
        self.sent.fetch_add(at as u64, Ordering::Relaxed);
    }

    /// Reads what is there.
    pub(crate) fn read(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 1 << 16];
        for _ in 0..if self.deaf { 0 } else { 64 } {
            match unbroken(|| self.client.socket().read(&mut chunk)) {
                Ok(0) => self.gone = true,
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.gone = true,
            }
            if self.gone {
                break;
            }
        }
        self.heard += bytes.len() as u64;
        bytes
    }

    /// Reads at most one byte.
    pub(crate) fn sip(&mut self) {
        match unbroken(|| self.client.socket().read(&mut [0])) {
            Ok(0) => self.gone = true,
            Err(error) if error.kind() != ErrorKind::WouldBlock => self.gone = true,
            _ => {}
        }
    }

    /// Reads until the server ends the connection, and sends what is left.
    pub(crate) fn wait_gone(&mut self) {
        self.deaf = false;
        let deadline = Instant::now() + PATIENCE;
        while !self.gone {
            assert!(Instant::now() < deadline, "an attacker is not closed");
            self.write();
            self.read();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Likewise on a WebSocket: it answers the close frame.
    pub(crate) fn wait_closed(&mut self) {
        let heard = self.heard;
        self.wait_heard(heard + 1);
        if !self.gone {
            self.quietly(&frame(FIN | CLOSE, b"\x03\xe8"));
            self.gone = false;
        }
        self.wait_gone();
    }

    /// Reads until so many bytes have come, the server ends the connection, or nothing has come for
    /// long; sends what is left. Returns whether they have come.
    pub(crate) fn wait_heard(&mut self, bytes: u64) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.write();
            self.read();
            if self.heard >= bytes || self.gone {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.heard >= bytes
    }

    /// The connection, as a client that waits.
    pub(crate) fn into_client(self) -> Client {
        self.client.socket().set_nonblocking(false).expect("set_nonblocking");
        self.client
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.client.socket()
    }

    /// Ends it with a TCP reset.
    pub(crate) fn reset(self) {
        self.client.reset();
    }

    /// Ends its own direction.
    pub(crate) fn half_close(&self) {
        let _ = self.client.socket().shutdown(std::net::Shutdown::Write);
    }
}

/// People who read all that comes, and do nothing else.
pub(crate) struct Crowd {
    leave: Arc<AtomicBool>,
    /// Bytes that each has read.
    least: Arc<AtomicU64>,
    reader: Option<JoinHandle<usize>>,
}

impl Crowd {
    fn start(clients: Vec<Client>) -> Self {
        let leave = Arc::new(AtomicBool::new(false));
        let (leaving, least) = (leave.clone(), Arc::<AtomicU64>::default());
        let counted = least.clone();
        let reader = std::thread::spawn(move || {
            // Whoever made it up, these are no attackers.
            super::measure::step_up();
            read(&clients, &leaving, &counted)
        });
        Self { leave, least, reader: Some(reader) }
    }

    /// Waits until each of them has read so many bytes.
    pub(crate) fn has_read(&self, bytes: u64) {
        let mut deadline = Instant::now() + PATIENCE;
        let mut before = 0;
        loop {
            let least = self.least.load(Ordering::Relaxed);
            if least >= bytes {
                return;
            }
            if least > before {
                (before, deadline) = (least, Instant::now() + PATIENCE);
            }
            assert!(Instant::now() < deadline, "the crowd has {least} bytes, not {bytes}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Leaves, and asserts that nobody of them was cut.
    pub(crate) fn leave(mut self) {
        self.leave.store(true, Ordering::Relaxed);
        let cut = self.reader.take().map_or(0, |reader| reader.join().expect("the crowd reads"));
        assert_eq!(cut, 0, "people who read all that came were cut");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::Relaxed);
    }
}

/// Reads on all connections until told to leave, and says how much each has got. Returns how many
/// the server has ended.
fn read(clients: &[Client], leaving: &AtomicBool, least: &AtomicU64) -> usize {
    let mut gone = vec![false; clients.len()];
    let mut got = vec![0; clients.len()];
    let mut chunk = vec![0; 1 << 18];
    for client in clients {
        client.socket().set_nonblocking(true).expect("set_nonblocking");
    }
    while !leaving.load(Ordering::Relaxed) {
        let mut quiet = true;
        for ((client, gone), got) in clients.iter().zip(&mut gone).zip(&mut got) {
            if *gone {
                continue;
            }
            match unbroken(|| client.socket().read(&mut chunk)) {
                Ok(0) => *gone = true,
                Ok(count) => {
                    *got += count as u64;
                    quiet = false;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => *gone = true,
            }
        }
        least.store(got.iter().copied().min().unwrap_or(0), Ordering::Relaxed);
        if quiet {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    gone.iter().filter(|gone| **gone).count()
}
