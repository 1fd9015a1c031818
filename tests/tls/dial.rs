//! Dialling over TLS, end to end: servers of ours, of rustls and of OpenSSL, and those that must be
//! refused.
//!
//! Method: one engine dials as letters tell it, and tells what happens. Nothing waits for time to
//! pass: every step ends by an event, or by a deadline far away.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Instant, SystemTime};

use ringhold::protocol::request::{Refusal, Request};
use ringhold::tls::keys::{ClientMaterials, ServerKeys, ServerMaterials, Trust};
use ringhold::{
    Cause, CloseCode, Closed, ConnId, Connection, Context, Counters, DialTarget, Handler, Kind,
    Message, Running, Server, UpgradeAction,
};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tungstenite::WebSocket;
use tungstenite::handshake::derive_accept_key;

use crate::peer::{SHAPES, pair, path, server_config, server_keys, unbroken};
use crate::support::PATIENCE;
use crate::support::figures;

/// What the dialler is told to do.
enum Order {
    Dial(Arc<DialTarget>),
    Say(Vec<u8>),
    Leave,
}

/// What happened to it.
#[derive(Debug, PartialEq)]
enum News {
    Open,
    Failed(String),
    Heard(Vec<u8>),
    Closed(Cause, CloseCode),
}

struct Dialler {
    tell: Mutex<Sender<News>>,
    id: Option<ConnId>,
}

impl Dialler {
    fn tell(&self, news: News) {
        let _ = self.tell.lock().unwrap().send(news);
    }
}

impl Handler for Dialler {
    type State = ();
    type Event = Order;

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        UpgradeAction::Refuse(Refusal::UpgradeRequired)
    }

    fn on_dialled(&mut self, _: &mut Context<'_>, _: u64) -> Option<()> {
        Some(())
    }

    fn on_dial_failed(&mut self, _: &mut Context<'_>, _: u64, error: &str) {
        self.tell(News::Failed(error.to_owned()));
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, (): &mut ()) {
        self.id = Some(conn.id());
        self.tell(News::Open);
    }

    fn on_message(&mut self, _: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        self.tell(News::Heard(message.payload().to_vec()));
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: ConnId, (): (), closed: &Closed) {
        self.tell(News::Closed(closed.cause, closed.code));
    }

    fn on_event(&mut self, cx: &mut Context<'_>, order: Order) {
        match (order, self.id) {
            (Order::Dial(target), _) => cx.dial(&target, None, 7),
            (Order::Say(data), Some(id)) => {
                cx.send_message_to(id, Kind::Binary, &data).unwrap();
            }
            (Order::Leave, Some(id)) => cx.close(id, CloseCode::NORMAL, "").unwrap(),
            (_, None) => panic!("it is not open"),
        }
    }
}

/// An engine that dials.
struct Client {
    running: Running<Dialler>,
    news: Receiver<News>,
}

impl Client {
    fn start(trust: Option<&Trust>) -> Self {
        Self::keeping(trust, 0)
    }

    /// With room for so many tickets.
    fn keeping(trust: Option<&Trust>, tickets: usize) -> Self {
        let (tell, news) = channel();
        let load = |trust| ClientMaterials::load(trust).unwrap().with_tickets(tickets);
        let trust = trust.map(|trust| Arc::new(load(trust)));
        let running = Server::builder()
            .workers(1)
            .max_message(8 << 20)
            .configure(|config| {
                config.listen = None;
                config.dial_tls = trust;
                config.max_outbox = 32 << 20;
                config.heartbeat.enabled = false;
            })
            .start(move |_| Dialler { tell: Mutex::new(tell.clone()), id: None })
            .unwrap();
        Self { running, news }
    }

    fn trusting_tests() -> Self {
        Self::start(Some(&Trust::Authorities(path("ca.pem"))))
    }

    fn order(&self, order: Order) {
        assert!(self.running.handle().post(0, order).is_ok());
    }

    fn hear(&self) -> News {
        self.news.recv_timeout(PATIENCE).unwrap()
    }

    fn dial(&self, peer: SocketAddr, name: &str) -> News {
        let (host, target) = ("localhost".to_owned(), "/echo".to_owned());
        let tls = Some(name.to_owned());
        let target = DialTarget {
            peer,
            host,
            target,
            headers: Vec::new(),
            tls,
            resume: true,
            compression: false,
        };
        self.order(Order::Dial(Arc::new(target)));
        self.hear()
    }

    fn failure(&self, peer: SocketAddr, name: &str) -> String {
        match self.dial(peer, name) {
            News::Failed(text) => text,
            news => panic!("{news:?}"),
        }
    }

    fn echoes(&self, len: usize) {
        let data: Vec<u8> = (0..len).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
        self.order(Order::Say(data.clone()));
        assert!(self.hear() == News::Heard(data), "{len} bytes");
    }

    fn leave(&self) {
        self.order(Order::Leave);
        assert_eq!(self.hear(), News::Closed(Cause::Application, CloseCode::NORMAL));
    }

    /// Waits until all connections are gone: until then their ends are not counted.
    fn finish(self) -> Counters {
        let handle = self.running.handle();
        let deadline = Instant::now() + PATIENCE;
        while figures::counters(&handle).connections > 0 {
            assert!(Instant::now() < deadline, "a connection stays");
            thread::yield_now();
        }
        handle.stop();
        self.running.join().unwrap().counters
    }
}

/// Sends back what comes.
struct Echo;

impl Handler for Echo {
    type State = ();
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        UpgradeAction::accept(())
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        let _ = conn.reply(message);
    }
}

fn ours(keys: Option<&ServerKeys>) -> (Running<Echo>, SocketAddr) {
    let builder = Server::builder().listen(SocketAddr::from(([127, 0, 0, 1], 0))).workers(1);
    let builder = builder.max_message(8 << 20).configure(|config| {
        config.max_outbox = 32 << 20;
        let load = |keys| Arc::new(ServerMaterials::load(keys, SystemTime::now()).unwrap());
        config.tls = keys.map(load);
    });
    let running = builder.start(|_| Echo).unwrap();
    let address = running.address().unwrap();
    (running, address)
}

type Accepted = StreamOwned<ServerConnection, TcpStream>;

/// A server of rustls for one connection, which does as it is told.
fn theirs(
    config: ServerConfig,
    serve: impl FnOnce(Accepted) + Send + 'static,
) -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        serve(StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), socket));
    });
    (address, thread)
}

fn accept(stream: Accepted) -> WebSocket<Accepted> {
    tungstenite::accept(stream).unwrap()
}

#[test]
fn a_server_of_ours() {
    let (server, address) = ours(Some(&server_keys()));
    // By name and by address: the certificate has both.
    for name in ["localhost", "127.0.0.1"] {
        let client = Client::trusting_tests();
        assert_eq!(client.dial(address, name), News::Open);
        for len in [0, 1, 125, 126, 4000, 16_383, 16_384, 16_385, 70_000, 1 << 20] {
            client.echoes(len);
        }
        client.leave();
        let counters = client.finish();
        assert_eq!((counters.tls_handshakes, counters.closed_clean), (1, 1));
        assert_eq!((counters.tls_bad_records, counters.tls_truncated), (0, 0));
        assert_eq!((counters.inbound_bytes_held, counters.connect_errors), (0, 0));
    }
    server.handle().stop();
    let counters = server.join().unwrap().counters;
    assert_eq!((counters.tls_handshakes, counters.closed_clean), (2, 2));
    assert_eq!((counters.tls_truncated, counters.tls_handshake_failures), (0, 0));
}

/// Memory for a ticket is held until it is there, or until something else comes.
#[test]
fn a_dial_goes_on_with_an_earlier_session() {
    let (server, address) = ours(Some(&server_keys()));
    let client = Client::keeping(Some(&Trust::Authorities(path("ca.pem"))), 10);
    for dials in 1..=3 {
        assert_eq!(client.dial(address, "localhost"), News::Open);
        client.echoes(100);
        let counters = figures::counters(&client.running.handle());
        assert_eq!((counters.tls_handshakes, counters.tls_handshakes_resumed), (dials, dials - 1));
        assert_eq!(counters.inbound_bytes_held, 0);
        client.leave();
    }
    assert_eq!(client.finish().tls_bad_records, 0);
    // Sessions are of a core of a client: another has none, and so it is without room.
    for tickets in [10, 0, 0] {
        let client = Client::keeping(Some(&Trust::Authorities(path("ca.pem"))), tickets);
        assert_eq!(client.dial(address, "localhost"), News::Open);
        client.leave();
        assert_eq!(client.finish().tls_handshakes_resumed, 0);
    }
    server.handle().stop();
    let counters = server.join().unwrap().counters;
    assert_eq!((counters.tls_handshakes, counters.tls_handshakes_resumed), (6, 2));
}

#[test]
fn a_server_of_rustls_in_each_shape() {
    for shape in SHAPES {
        let mut config = server_config(shape);
        config.send_tls13_tickets = 3;
        let (address, server) = theirs(config, |stream| {
            let mut socket = accept(stream);
            while let Ok(message) = socket.read() {
                if message.is_binary() {
                    socket.send(message).unwrap();
                    let tls = &mut socket.get_mut().conn;
                    if tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3) {
                        tls.refresh_traffic_keys().unwrap();
                    }
                }
            }
            // Behind its close frame comes the client's close_notify.
            let mut rest = Vec::new();
            let stream = socket.get_mut();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            assert_eq!(stream.read_to_end(&mut rest).unwrap(), 0);
        });
        let client = Client::trusting_tests();
        assert_eq!(client.dial(address, "localhost"), News::Open, "{shape:?}");
        for len in [1, 16_385, 300_000, 5] {
            client.echoes(len);
        }
        client.leave();
        assert_eq!(client.finish().tls_bad_records, 0, "{shape:?}");
        server.join().unwrap();
    }
}

#[test]
fn who_is_not_trusted_is_refused() {
    let (server, address) = ours(Some(&server_keys()));
    // Signed by somebody else: the certificate of a client is no authority's.
    let other = Client::start(Some(&Trust::Authorities(path("client.pem"))));
    let text = other.failure(address, "localhost");
    assert!(text.contains("UnknownIssuer"), "{text}");
    assert_eq!(other.finish().connect_errors, 1);
    // Whom the host trusts: not the authority of these tests.
    if let Ok(trust) = ClientMaterials::load(&Trust::System) {
        drop(trust);
        let system = Client::start(Some(&Trust::System));
        let text = system.failure(address, "localhost");
        assert!(text.contains("invalid peer certificate"), "{text}");
        system.finish();
    }
    let client = Client::trusting_tests();
    let text = client.failure(address, "other.test");
    assert!(text.contains("not valid for name \"other.test\""), "{text}");
    let text = client.failure(address, "no name");
    assert!(text.contains("no name of a server"), "{text}");
    let counters = client.finish();
    assert_eq!((counters.connect_errors, counters.tls_handshake_failures), (2, 1));
    // Its connection is encrypted, to whomever.
    let anybody = Client::start(Some(&Trust::Anybody));
    assert_eq!(anybody.dial(address, "other.test"), News::Open);
    anybody.echoes(10);
    anybody.leave();
    anybody.finish();
    server.handle().stop();
    // The server heard why.
    assert!(server.join().unwrap().counters.tls_handshake_failures >= 2);
}

#[test]
fn without_trust_nothing_is_dialled() {
    let client = Client::start(None);
    let text = client.failure(SocketAddr::from(([127, 0, 0, 1], 9)), "localhost");
    assert_eq!(text, "no TLS is set up for outgoing connections");
    assert_eq!(client.finish().connect_errors, 1);
}

#[test]
fn an_alert_is_named() {
    // It wants a certificate of its client, which has none.
    let mut keys = server_keys();
    keys.client_ca_pem = Some(path("ca.pem"));
    let (server, address) = ours(Some(&keys));
    let client = Client::trusting_tests();
    let text = client.failure(address, "localhost");
    assert!(text.contains("fatal alert"), "{text}");
    client.finish();
    server.handle().stop();
    server.join().unwrap();
    let mut config = server_config(SHAPES[0]);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (address, server) = theirs(config, |mut stream| {
        assert!(unbroken(|| stream.read(&mut [0])).is_err());
        // Its alert.
        let _ = stream.conn.write_tls(&mut stream.sock);
    });
    let client = Client::trusting_tests();
    let text = client.failure(address, "localhost");
    assert!(text.contains("NoApplicationProtocol"), "{text}");
    client.finish();
    server.join().unwrap();
}

#[test]
fn a_server_without_tls_is_named() {
    let (server, address) = ours(None);
    let client = Client::trusting_tests();
    let text = client.failure(address, "localhost");
    assert!(text.contains("does not speak TLS"), "{text}");
    assert_eq!(client.finish().tls_handshake_failures, 1);
    server.handle().stop();
    server.join().unwrap();
}

#[test]
fn a_server_that_falls_silent_or_hangs_up_in_the_handshake() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::trusting_tests();
    let thread = thread::spawn(move || {
        let mut socket = listener.accept().unwrap().0;
        // All of the ClientHello, or closing would reset.
        let mut header = [0; 5];
        socket.read_exact(&mut header).unwrap();
        let len = u16::from_be_bytes([header[3], header[4]]);
        socket.read_exact(&mut vec![0; usize::from(len)]).unwrap();
        // Half a record.
        socket.write_all(&[22, 3, 3, 0, 100, 2]).unwrap();
    });
    let text = client.failure(address, "localhost");
    assert!(text.contains("closed the connection before it answered"), "{text}");
    thread.join().unwrap();
    assert_eq!(client.finish().inbound_bytes_held, 0);
}

#[test]
fn ends_are_told_apart() {
    for polite in [true, false] {
        let (address, server) = theirs(server_config(SHAPES[0]), move |stream| {
            let mut socket = accept(stream);
            let message = socket.read().unwrap();
            socket.send(message).unwrap();
            let stream = socket.get_mut();
            if polite {
                stream.conn.send_close_notify();
            }
            stream.flush().unwrap();
        });
        let client = Client::trusting_tests();
        assert_eq!(client.dial(address, "localhost"), News::Open);
        client.echoes(100);
        // In both cases there was no close frame.
        assert_eq!(client.hear(), News::Closed(Cause::Abrupt, CloseCode::ABNORMAL));
        server.join().unwrap();
        assert_eq!(client.finish().tls_truncated, u64::from(!polite));
    }
}

#[test]
fn a_damaged_record_ends_the_connection_with_an_alert() {
    let (address, server) = theirs(server_config(SHAPES[0]), |stream| {
        let mut socket = accept(stream);
        let message = socket.read().unwrap();
        socket.send(message).unwrap();
        let stream = socket.get_mut();
        stream.sock.write_all(&[23, 3, 3, 0, 20]).unwrap();
        stream.sock.write_all(&[7; 20]).unwrap();
        let error = socket.read().unwrap_err().to_string();
        assert!(error.contains("BadRecordMac"), "{error}");
    });
    let client = Client::trusting_tests();
    assert_eq!(client.dial(address, "localhost"), News::Open);
    client.echoes(100);
    assert_eq!(client.hear(), News::Closed(Cause::Protocol, CloseCode::ABNORMAL));
    server.join().unwrap();
    assert_eq!(client.finish().tls_bad_records, 1);
}

/// An answer that comes with the first messages, and one that is none.
#[test]
fn what_follows_the_answer_is_read() {
    let (address, server) = theirs(server_config(SHAPES[0]), |mut stream| {
        let key = request_key(&mut BufReader::new(&mut stream));
        stream.write_all(&[answer(&key).as_bytes(), b"\x82\x03abc"].concat()).unwrap();
        stream.flush().unwrap();
        let mut close = Vec::new();
        // Its client ends as soon as it has heard that.
        let _ = stream.read_to_end(&mut close);
    });
    let client = Client::trusting_tests();
    assert_eq!(client.dial(address, "localhost"), News::Open);
    assert_eq!(client.hear(), News::Heard(b"abc".to_vec()));
    client.running.handle().stop();
    client.running.join().unwrap();
    server.join().unwrap();
    let (address, server) = theirs(server_config(SHAPES[0]), |mut stream| {
        request_key(&mut BufReader::new(&mut stream));
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
        stream.flush().unwrap();
    });
    let client = Client::trusting_tests();
    let text = client.failure(address, "localhost");
    assert!(text.contains("404"), "{text}");
    server.join().unwrap();
    client.finish();
}

/// Reads a request's head; its key.
fn request_key(from: &mut impl BufRead) -> String {
    let mut key = String::new();
    loop {
        let mut line = String::new();
        assert!(from.read_line(&mut line).unwrap() > 0, "a whole request");
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("sec-websocket-key") => {
                value.clone_into(&mut key);
            }
            None if line == "\r\n" => return key,
            _ => {}
        }
    }
}

fn answer(key: &str) -> String {
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// `openssl s_server`, whose input is what it sends.
struct OpenSsl {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
}

impl OpenSsl {
    fn start(arguments: &[&str]) -> Option<Self> {
        let keys = pair("localhost");
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert", &keys.cert_pem])
            .args(["-key", &keys.key_pem, "-naccept", "1"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let stdin = process.stdin.take().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "it listens");
            if let Some(address) = line.trim().strip_prefix("ACCEPT ") {
                break address.parse().unwrap();
            }
        };
        Some(Self { process, stdin, stdout, address })
    }

    /// It sends what it reads at once, and takes a letter at the begin of that as an order.
    fn say(&mut self, bytes: &[u8]) {
        self.stdin.write_all(bytes).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while rustix::io::ioctl_fionread(&self.stdin).unwrap() > 0 {
            assert!(Instant::now() < deadline, "it reads");
            thread::yield_now();
        }
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_of_openssl_in_each_shape() {
    let shapes: [&[&str]; 5] = [
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        // What it takes by itself.
        &[],
    ];
    for arguments in shapes {
        let Some(mut server) = OpenSsl::start(arguments) else {
            eprintln!("skipped: openssl is not installed");
            return;
        };
        let client = Client::trusting_tests();
        let (host, target) = ("localhost".to_owned(), "/echo".to_owned());
        let tls = Some(host.clone());
        let peer = server.address;
        let headers = Vec::new();
        let (resume, compression) = (false, false);
        let target = DialTarget { peer, host, target, headers, tls, resume, compression };
        client.order(Order::Dial(Arc::new(target)));
        // What it tells of the session comes before and between.
        let key = request_key(&mut server.stdout);
        server.say(answer(&key).as_bytes());
        assert_eq!(client.hear(), News::Open, "{arguments:?}");
        server.say(b"\x82\x03abc");
        assert_eq!(client.hear(), News::Heard(b"abc".to_vec()));
        if arguments.first() == Some(&"-tls1_3") {
            for order in [&b"k"[..], b"K", b"k"] {
                server.say(&[order, b"\n"].concat());
                server.say(b"\x82\x01x");
                assert_eq!(client.hear(), News::Heard(b"x".to_vec()));
                client.order(Order::Say(b"after a new key".to_vec()));
            }
        }
        drop(server);
        assert!(matches!(client.hear(), News::Closed(..)));
        client.finish();
    }
}
