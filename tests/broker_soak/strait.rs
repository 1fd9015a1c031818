//! What lies between a node and the servers of its broker: a proxy of the test's own, which holds
//! what passes, delays it, cuts it off, and cuts between a request and its answer.
//!
//! A node finds its servers at a loopback address of its own, under the ports that they have at
//! 127.0.0.1, and where they name each other, the address in their words becomes that one: it has
//! as many letters, so lengths stay true. What is held is not lost: it passes when the strait is
//! open again, late, as after a partition.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// What one connection meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Flows,
    /// Nothing passes, in either direction.
    Held,
    /// The next answer ends it, and is lost.
    Unanswered,
    Cut,
}

#[derive(Clone, Copy, Debug)]
struct Weather {
    fate: Fate,
    delay: Duration,
}

#[derive(Default)]
struct Inner {
    held: bool,
    delay: Duration,
    connections: Vec<watch::Sender<Weather>>,
}

/// See the module's text.
#[derive(Clone)]
pub(crate) struct Strait {
    host: Ipv4Addr,
    inner: Arc<Mutex<Inner>>,
}

impl Strait {
    /// For one of at most eight nodes, to servers with these ports; it ends with the runtime.
    pub(crate) fn open(runtime: &Handle, node: u8, ports: &[u16]) -> Self {
        assert!(node < 8, "the address has one digit to change");
        let strait = Self { host: Ipv4Addr::new(127, 0, 0, 2 + node), inner: Arc::default() };
        for port in ports {
            let listener = std::net::TcpListener::bind((strait.host, *port));
            let listener = listener.expect("nobody else uses this address");
            listener.set_nonblocking(true).expect("a socket that does not block");
            runtime.spawn(strait.clone().serve(listener, *port));
        }
        strait
    }

    /// Where the node finds its servers.
    pub(crate) fn host(&self) -> Ipv4Addr {
        self.host
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self, listener: std::net::TcpListener, port: u16) {
        let listener = TcpListener::from_std(listener).expect("within a runtime");
        while let Ok((node, _)) = listener.accept().await {
            tokio::spawn(self.clone().carry(node, port));
        }
    }

    async fn carry(self, node: TcpStream, port: u16) {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let weather = {
            let mut inner = self.inner();
            let fate = if inner.held { Fate::Held } else { Fate::Flows };
            let (sender, weather) = watch::channel(Weather { fate, delay: inner.delay });
            inner.connections.retain(|it| !it.is_closed());
            inner.connections.push(sender);
            weather
        };
        let Ok(server) = TcpStream::connect(server).await else { return };
        // Where nobody listens, the kernel may have given the port to this end.
        if server.local_addr().ok() == server.peer_addr().ok() {
            return;
        }
        let nodelay = [&node, &server].map(|socket| socket.set_nodelay(true));
        if nodelay.iter().any(Result::is_err) {
            return;
        }
        let (node_in, node_out) = node.into_split();
        let (server_in, server_out) = server.into_split();
        let name = self.host.to_string().into_bytes();
        // Neither side ever ends one direction alone.
        tokio::select! {
            () = pump(node_in, server_out, weather.clone(), None) => {}
            () = pump(server_in, node_out, weather, Some(name)) => {}
        }
    }

    fn all(&self, change: impl Fn(&mut Weather)) {
        for connection in &self.inner().connections {
            connection.send_modify(|weather| change(weather));
        }
    }

    /// Nothing passes any more, until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.inner().held = true;
        self.all(|weather| weather.fate = Fate::Held);
    }

    /// What was held passes.
    pub(crate) fn release(&self) {
        self.inner().held = false;
        self.all(|weather| {
            if weather.fate == Fate::Held {
                weather.fate = Fate::Flows;
            }
        });
    }

    /// Each piece waits so long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.inner().delay = delay;
        self.all(|weather| weather.delay = delay);
    }

    /// All connections end.
    pub(crate) fn cut(&self) {
        self.all(|weather| weather.fate = Fate::Cut);
    }

    /// One of the connections, by a number: it ends, it is held, or its next answer ends it.
    pub(crate) fn one(&self, number: usize, harm: Harm) {
        let inner = self.inner();
        let open: Vec<_> = inner.connections.iter().filter(|it| !it.is_closed()).collect();
        let Some(connection) = open.get(number % open.len().max(1)) else { return };
        connection.send_modify(|weather| {
            weather.fate = match harm {
                Harm::Cut => Fate::Cut,
                Harm::Hold => Fate::Held,
            };
        });
    }

    /// The next answer on each connection is lost, with the connection.
    pub(crate) fn unanswered(&self) {
        self.all(|weather| weather.fate = Fate::Unanswered);
    }
}

/// What is done to one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Harm {
    Cut,
    Hold,
}

/// As servers name themselves.
const SAID: &[u8] = b"127.0.0.1";

/// Carries one direction until it ends. Answers have a `name`, which replaces the servers' own.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    name: Option<Vec<u8>>,
) {
    let mut chunk = vec![0; 16 << 10];
    // Received and not sent: it may be the beginning of a name.
    let mut begun = Vec::new();
    loop {
        let count = tokio::select! {
            read = from.read(&mut chunk) => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            },
            () = cut(&mut weather) => return,
        };
        loop {
            let now = *weather.borrow_and_update();
            match now.fate {
                Fate::Cut => return,
                Fate::Unanswered if name.is_some() => return,
                Fate::Held => {
                    if weather.changed().await.is_err() {
                        return;
                    }
                }
                Fate::Flows | Fate::Unanswered => {
                    if now.delay > Duration::ZERO {
                        tokio::time::sleep(now.delay).await;
                    }
                    break;
                }
            }
        }
        begun.extend_from_slice(&chunk[..count]);
        let mut rest = Vec::new();
        if let Some(name) = &name {
            rename(&mut begun, name);
            rest = begun.split_off(begun.len() - beginning(&begun));
        }
        tokio::select! {
            written = to.write_all(&begun) => if written.is_err() { return },
            () = cut(&mut weather) => return,
        }
        begun = rest;
    }
}

/// Waits until the connection is to end.
async fn cut(weather: &mut watch::Receiver<Weather>) {
    let _: Result<(), _> = weather.wait_for(|it| it.fate == Fate::Cut).await.map(|_| ());
}

fn rename(bytes: &mut [u8], name: &[u8]) {
    let mut place = 0;
    while let Some(found) = bytes[place..].windows(SAID.len()).position(|window| window == SAID) {
        bytes[place + found..][..SAID.len()].copy_from_slice(name);
        place += found + SAID.len();
    }
}

/// How many of the last bytes may begin a name.
fn beginning(bytes: &[u8]) -> usize {
    let most = bytes.len().min(SAID.len() - 1);
    (1..=most).rev().find(|len| bytes.ends_with(&SAID[..*len])).unwrap_or(0)
}

#[test]
fn names_are_replaced_wherever_pieces_end() {
    let text = b"$9\r\n127.0.0.1\r\n:1\r\n127.0.0.127.127.0.0.1@1,127.0.0";
    let whole = b"$9\r\n127.0.0.5\r\n:1\r\n127.0.0.527.127.0.0.5@1,127.0.0";
    for cut in 0..=text.len() {
        let (mut passed, mut begun) = (Vec::new(), Vec::new());
        for piece in [&text[..cut], &text[cut..]] {
            begun.extend_from_slice(piece);
            rename(&mut begun, b"127.0.0.5");
            let rest = begun.split_off(begun.len() - beginning(&begun));
            passed.append(&mut begun);
            begun = rest;
        }
        passed.append(&mut begun);
        assert_eq!(passed, whole, "cut at {cut}");
    }
}
