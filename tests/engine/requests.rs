//! Plain HTTP of the engine, as a library's user has it: connections that stay for another request,
//! requests behind each other, answers that come later, and all that goes wrong with them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use ringhold::protocol::request::Request;
use ringhold::{
    Config, ConnId, Connection, Context, Detached, Drain, Handler, Heartbeat, HttpAction,
    HttpResponse, Io, Message, Network, ProxyHeaders, Running, SendError, Server, UpgradeAction,
};

use crate::support::answers::Asker;
use crate::support::figures;
use crate::support::{PATIENCE, until};

/// Bytes of a body.
const BODY_MAX: usize = 100_000;

/// What is done with a request is in its path.
struct Host {
    asked: mpsc::Sender<ConnId>,
    told: mpsc::Sender<Result<(), SendError>>,
    passed: mpsc::Sender<(u8, Detached)>,
}

/// What the test says to the core.
enum Word {
    /// The answer to a request.
    Tell(ConnId, String),
    /// A connection that was accepted elsewhere.
    Adopt(TcpStream, SocketAddr),
}

impl Handler for Host {
    type State = ();
    type Event = Word;

    fn on_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        assert_eq!(cx.asking(), None);
        UpgradeAction::accept(())
    }

    fn on_http(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        body: Option<&[u8]>,
        peer: SocketAddr,
    ) -> HttpAction<()> {
        let id = cx.asking().expect("somebody asks");
        if request.method == "POST" && body.is_none() && request.path() != "/skip" {
            return HttpAction::Body(BODY_MAX);
        }
        let text = |text: String| HttpResponse::new(200).body("text/plain", text);
        match request.path() {
            "/later" => {
                self.asked.send(id).expect("the test listens");
                HttpAction::AnswerLater
            }
            "/out" => HttpAction::Detach,
            "/port" => HttpAction::Answer(text(cx.port().to_string())),
            "/stream" => HttpAction::Stream { state: (), headers: Vec::new() },
            "/last" => HttpAction::Respond(text("last".to_owned())),
            "/panic" => panic!("at the wrong moment"),
            "/peer" => HttpAction::Answer(text(peer.ip().to_string())),
            "/large" => HttpAction::Answer(text("x".repeat(1 << 20))),
            path => {
                let body = body.map_or(0, <[u8]>::len);
                HttpAction::Answer(text(format!("{path} {body}")))
            }
        }
    }

    fn on_detach(&mut self, cx: &mut Context<'_>, passed: Detached) {
        self.passed.send((cx.port(), passed)).expect("the test listens");
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, (): &mut ()) {
        conn.text("open").expect("it is open");
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        let _ = conn.reply(message);
    }

    fn on_event(&mut self, cx: &mut Context<'_>, word: Word) {
        match word {
            Word::Tell(id, text) => {
                let response = HttpResponse::new(200).body("text/plain", text);
                self.told.send(cx.answer(id, &response)).expect("the test listens");
            }
            Word::Adopt(socket, peer) => cx.adopt(socket.into(), peer, 7),
        }
    }
}

struct Site {
    running: Running<Host>,
    address: SocketAddr,
    asked: mpsc::Receiver<ConnId>,
    told: mpsc::Receiver<Result<(), SendError>>,
    passed: mpsc::Receiver<(u8, Detached)>,
}

fn start(change: impl FnOnce(&mut Config)) -> Site {
    let (ask, asked) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let (pass, passed) = mpsc::channel();
    let builder = Server::builder().listen(SocketAddr::from(([127, 0, 0, 1], 0))).workers(1);
    let builder = builder.configure(|config| {
        config.tick = Duration::from_millis(10);
        config.heartbeat = Heartbeat { enabled: false, ..Heartbeat::default() };
        change(config);
    });
    let running = builder
        .start(move |_| Host { asked: ask.clone(), told: tell.clone(), passed: pass.clone() })
        .expect("the server starts");
    let address = running.address().expect("it listens");
    Site { running, address, asked, told, passed }
}

impl Site {
    fn client(&self) -> Asker {
        Asker::connect(self.address)
    }

    fn counters(&self) -> ringhold::Counters {
        figures::counters(&self.running.handle())
    }

    fn asked(&self) -> ConnId {
        self.asked.recv_timeout(PATIENCE).expect("it is asked")
    }

    fn tell(&self, id: ConnId, text: &str) -> Result<(), SendError> {
        let word = Word::Tell(id, text.to_owned());
        self.running.handle().post(id.core(), word).expect("there is room");
        self.told.recv_timeout(PATIENCE).expect("it is told")
    }

    fn passed(&self, port: u8) -> Detached {
        let (by, passed) = self.passed.recv_timeout(PATIENCE).expect("it is passed on");
        assert_eq!(by, port);
        passed
    }

    /// Has the server serve the next connection to this listener.
    fn adopts(&self, listener: &TcpListener) -> Asker {
        let client = Asker::connect(listener.local_addr().expect("an address"));
        let (socket, peer) = listener.accept().expect("a connection");
        let word = Word::Adopt(socket, peer);
        self.running.handle().post(0, word).expect("there is room");
        client
    }

    fn end(self) {
        until("nobody to be there", || self.counters().connections == 0);
        let counters = self.counters();
        assert_eq!((counters.kept, counters.inbound_bytes_held), (0, 0));
        assert_eq!((counters.outbox_bytes_held, counters.timers), (0, 0));
        self.running.handle().stop();
        self.running.join().expect("it ends well");
    }
}

/// Both ways into the kernel.
fn each(test: impl Fn(Io)) {
    test(Io::Auto);
    test(Io::Epoll);
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

#[test]
fn a_connection_stays_for_as_many_requests_as_come() {
    each(|io| {
        let site = start(|config| config.io = io);
        let mut client = site.client();
        for n in 0..100 {
            let answer = client.ask(&get(&format!("/{n}")));
            assert_eq!((answer.status, answer.body), (200, format!("/{n} 0")));
            let body = "x".repeat(n * 700);
            let answer = client.ask(&post("/", &body));
            assert_eq!(answer.body, format!("/ {}", body.len()));
            assert_eq!(answer.header("connection"), None);
        }
        client.send(b"HEAD /a HTTP/1.1\r\nHost: test\r\n\r\n");
        client.send(b"HEAD /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let both = String::from_utf8(client.rest()).expect("text");
        let (first, last) = both.split_at(both.len() / 2 - "Connection: close\r\n".len() / 2);
        assert!(first.ends_with("Content-Length: 4\r\n\r\n"), "{both}");
        assert!(last.starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"), "{both}");
        let counters = site.counters();
        assert_eq!((counters.answered, counters.accepted, counters.handshake_aborts), (202, 1, 0));
        // Who does not go on, or cannot.
        for request in [
            &b"GET /a HTTP/1.0\r\n\r\n"[..],
            b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: test\r\nConnection: x, Close\r\n\r\n",
            b"GET /last HTTP/1.1\r\nHost: test\r\n\r\n",
            // Where the next request would begin is not known.
            b"POST /skip HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nabc",
            b"POST /skip HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET /a HTTP/1.1\r\n\r\n",
        ] {
            let mut client = site.client();
            let answer = client.ask(request);
            let text = request.escape_ascii();
            assert_eq!(
                (answer.status, answer.header("connection")),
                (200, Some("close")),
                "{text}"
            );
            assert_eq!(client.rest(), b"", "{text}");
        }
        site.end();
    });
}

#[test]
fn requests_behind_each_other_are_answered_in_their_order_however_they_are_cut() {
    each(|io| {
        let site = start(|config| config.io = io);
        let mut all = Vec::new();
        let mut expected = Vec::new();
        for n in 0..300 {
            let (body, path) = ("y".repeat(n % 40), format!("/{n}"));
            all.extend(if n % 3 == 0 { get(&path) } else { post(&path, &body) });
            let length = if n % 3 == 0 { 0 } else { body.len() };
            expected.push(format!("{path} {length}"));
        }
        for piece in [1, 7, 83, 1000, 4096, all.len()] {
            let mut client = site.client();
            for piece in all.chunks(piece) {
                client.send(piece);
            }
            for expected in &expected {
                assert_eq!(&client.answer().body, expected, "pieces of {piece}");
            }
        }
        // Long ones, of which few fit a receive, and short ones behind them.
        let long = post("/long", &"z".repeat(BODY_MAX));
        let mut client = site.client();
        let rest = [&get("/a")[..], &get("/b")].concat();
        client.send(&[&long[..], &rest, &long, &rest, &long, &rest].concat());
        for _ in 0..3 {
            for expected in [&format!("/long {BODY_MAX}"), "/a 0", "/b 0"] {
                assert_eq!(client.answer().body, expected);
            }
        }
        drop(client);
        assert!(site.counters().reads_left > 0, "nothing had to wait");
        site.end();
    });
}

#[test]
fn an_answer_that_comes_later_keeps_what_is_behind_it_waiting() {
    each(|io| {
        let site = start(|config| config.io = io);
        let mut client = site.client();
        client.send(&[get("/later"), get("/now"), get("/later"), get("/end")].concat());
        for text in ["first", "second"] {
            let id = site.asked();
            assert!(client.hears_nothing());
            let counters = site.counters();
            assert_eq!((counters.kept, counters.open), (1, 0));
            assert_eq!(site.tell(id, text), Ok(()));
            assert_eq!(client.answer().body, text);
            assert_eq!(client.answer().body, if text == "first" { "/now 0" } else { "/end 0" });
            if text == "second" {
                assert_eq!(site.tell(id, "again"), Err(SendError::Gone));
            }
        }
        // The last one, and one whose client says no more meanwhile.
        client.send(b"GET /later HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        assert_eq!(site.tell(site.asked(), "bye"), Ok(()));
        let answer = client.answer();
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("bye", Some("close")));
        assert_eq!(client.rest(), b"");
        let mut client = site.client();
        client.send(&get("/later"));
        client.finish();
        assert_eq!(site.tell(site.asked(), "still"), Ok(()));
        assert_eq!(client.answer().body, "still");
        assert_eq!(client.rest(), b"");
        // One that goes meanwhile is not told of, and nothing is left of it.
        let mut client = site.client();
        client.send(&get("/later"));
        let id = site.asked();
        drop(client);
        let _ = site.tell(id, "into the void");
        until("it to be gone", || site.counters().connections == 0);
        assert_eq!(site.tell(id, "again"), Err(SendError::Gone));
        // Not one that awaits none.
        let mut client = site.client();
        assert_eq!(client.ask(&get("/a")).status, 200);
        assert_eq!(site.tell(id, "to somebody else"), Err(SendError::Gone));
        drop(client);
        site.end();
    });
}

#[test]
fn a_connection_is_passed_on_with_all_that_was_read_behind_the_answers_before() {
    each(|io| {
        let site = start(|config| config.io = io);
        let out = post("/out", "the body");
        for (before, after) in [(0, 0), (1, 10), (3, 100_000), (15, 1), (16, 1), (17, 500), (40, 3)]
        {
            let mut client = site.client();
            let behind = vec![b'.'; after];
            let requests: Vec<u8> = (0..before).flat_map(|_| get("/a")).collect();
            client.send(&[&requests[..], &out, &behind].concat());
            for _ in 0..before {
                assert_eq!(client.answer().body, "/a 0");
            }
            let passed = site.passed(0);
            let mut socket = TcpStream::from(passed.socket);
            let mut received = passed.received.to_vec();
            assert!(received.starts_with(&out), "{}", received.escape_ascii());
            let missing = out.len() + after - received.len();
            let mut rest = vec![0; missing];
            socket.read_exact(&mut rest).expect("the rest is there");
            received.extend(rest);
            assert_eq!(received, [&out[..], &behind].concat());
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nelse").expect("taken");
            assert_eq!(client.answer().body, "else");
        }
        // Answers that its client does not take at once leave before it goes.
        let mut client = site.client();
        let large: Vec<u8> = (0..12).flat_map(|_| get("/large")).collect();
        client.send(&[&large[..], &out].concat());
        let early = site.passed.recv_timeout(Duration::from_millis(200));
        assert!(early.is_err(), "passed too early");
        for _ in 0..12 {
            assert_eq!(client.answer().body.len(), 1 << 20);
        }
        let passed = site.passed(0);
        assert_eq!(passed.received, out);
        drop((passed, client));
        site.end();
    });
}

#[test]
fn a_websocket_or_a_stream_may_follow() {
    each(|io| {
        let site = start(|config| config.io = io);
        let upgrade = b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        // Masked with zeros.
        let hello = b"\x81\x85\0\0\0\0hello";
        for before in [1, 20] {
            let mut client = site.client();
            let requests: Vec<u8> = (0..before).flat_map(|_| get("/a")).collect();
            client.send(&[&requests[..], upgrade, hello].concat());
            for _ in 0..before {
                assert_eq!(client.answer().body, "/a 0");
            }
            assert_eq!(client.answer().status, 101);
            // A close frame, so that there is an end.
            client.send(b"\x88\x80\0\0\0\0");
            assert_eq!(client.rest(), b"\x81\x04open\x81\x05hello\x88\x00");
            let mut client = site.client();
            client.send(&[&requests[..], &get("/stream"), &get("/a")].concat());
            for _ in 0..before {
                assert_eq!(client.answer().body, "/a 0");
            }
            let head = client.answer();
            assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
            client.finish();
            assert_eq!(client.rest(), b"4\r\nopen\r\n");
        }
        assert_eq!(site.counters().opened, 4);
        site.end();
    });
}

#[test]
fn whoever_stays_has_limits() {
    each(|io| {
        // Each time with what is about no other.
        let patient = |config: &mut Config| {
            config.io = io;
            (config.keep_alive, config.handshake_timeout) = (PATIENCE, PATIENCE);
            config.answer_timeout = PATIENCE;
        };
        let site = start(|config| {
            patient(config);
            config.keep_alive = Duration::from_millis(300);
        });
        let mut idle = site.client();
        assert_eq!(idle.ask(&get("/a")).status, 200);
        assert_eq!(idle.rest(), b"", "closed without a word");
        assert_eq!(site.counters().kept_late, 1);
        site.end();
        // A request that begins and does not end, in its head or in its body.
        let site = start(|config| {
            patient(config);
            config.handshake_timeout = Duration::from_secs(6);
        });
        let halves = [&b"POST /a HTTP/1.1\r\nHo"[..], &post("/a", "12345")[..50]];
        let mut slow = halves.map(|half| {
            let mut slow = site.client();
            assert_eq!(slow.ask(&get("/a")).status, 200);
            slow.send(half);
            slow
        });
        for slow in &mut slow {
            assert_eq!(slow.answer().status, 408);
            assert_eq!(slow.rest(), b"");
        }
        assert_eq!(site.counters().handshake_timeouts, 2);
        drop(slow);
        site.end();
        let site = start(|config| {
            patient(config);
            config.answer_timeout = Duration::from_millis(300);
            config.max_kept = 2;
        });
        // An application that does not answer.
        let mut patient = site.client();
        patient.send(&[get("/later"), get("/a")].concat());
        let id = site.asked();
        assert_eq!(patient.answer().status, 503);
        assert_eq!(patient.rest(), b"");
        assert_eq!(site.tell(id, "late"), Err(SendError::Gone));
        assert_eq!(site.counters().answers_late, 1);
        // One more than stay.
        let mut clients = [site.client(), site.client(), site.client()];
        let connections = clients.each_mut().map(|client| {
            let answer = client.ask(&get("/a"));
            answer.header("connection").map(str::to_owned)
        });
        assert_eq!(connections, [None, None, Some("close".to_owned())]);
        assert_eq!(site.counters().kept_refused, 1);
        drop(clients);
        // A body that is too long, behind an answer.
        let mut client = site.client();
        let long =
            format!("POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", BODY_MAX + 1);
        client.send(&[&get("/a")[..], long.as_bytes()].concat());
        assert_eq!((client.answer().status, client.answer().status), (200, 413));
        assert_eq!(client.rest(), b"");
        // And what is no request.
        let mut client = site.client();
        client.send(&[&get("/a")[..], b"\0\0\0\0"].concat());
        assert_eq!((client.answer().status, client.answer().status), (200, 400));
        assert_eq!(client.rest(), b"");
        // A callback that panics.
        let mut client = site.client();
        client.send(&[get("/a"), get("/panic")].concat());
        assert_eq!((client.answer().status, client.answer().status), (200, 503));
        assert_eq!(site.counters().panics, 1);
        drop(client);
        site.end();
    });
}

#[test]
fn who_asks_and_does_not_read_is_read_no_further() {
    each(|io| {
        let site = start(|config| {
            config.io = io;
            config.keep_alive = Duration::from_secs(1);
        });
        let deaf = site.client();
        let socket = deaf.socket().try_clone().expect("a descriptor");
        let writer = std::thread::spawn(move || {
            let requests: Vec<u8> = (0..100).flat_map(|_| get("/large")).collect();
            let mut taken = 0;
            // Until the server takes no more, and in the end cuts it.
            while taken < 1 << 30 {
                match (&socket).write(&requests) {
                    Ok(count) => taken += count,
                    Err(_) => break,
                }
            }
            taken
        });
        until("it to be held", || site.counters().read_pauses > 0);
        let held = site.counters();
        assert!(held.outbox_bytes_held < 32 << 20, "{}", held.outbox_bytes_held);
        assert!(held.inbound_bytes_held < 1 << 20, "{}", held.inbound_bytes_held);
        let mut other = site.client();
        assert_eq!(other.ask(&get("/a")).status, 200, "others are served");
        drop(other);
        until("it to be cut", || site.counters().kept_late > 0);
        assert!(writer.join().expect("no panic") < 1 << 30);
        drop(deaf);
        site.end();
    });
}

#[test]
fn a_drain_ends_who_is_idle_and_answers_who_waits() {
    each(|io| {
        let site = start(|config| config.io = io);
        let mut idle = site.client();
        assert_eq!(idle.ask(&get("/a")).status, 200);
        let mut waits = site.client();
        waits.send(&[get("/later"), get("/never")].concat());
        let id = site.asked();
        site.running.handle().drain(&Drain { deadline: PATIENCE, ..Drain::default() });
        assert_eq!(idle.rest(), b"");
        assert_eq!(site.tell(id, "before the end"), Ok(()));
        let answer = waits.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert_eq!(waits.rest(), b"");
        site.running.join().expect("it ends well");
    });
}

#[test]
fn a_proxys_connection_is_its_clients_each_in_turn() {
    let site = start(|config| {
        config.max_per_address = 1;
        config.proxies.trusted = vec!["127.0.0.1/32".parse::<Network>().expect("a network")];
        config.proxies.forwarded_for = true;
        config.proxies.headers = ProxyHeaders::Off;
    });
    let from = |ip: &str| {
        format!("GET /peer HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {ip}\r\n\r\n").into_bytes()
    };
    let mut proxy = site.client();
    for ip in ["192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1"] {
        assert_eq!(proxy.ask(&from(ip)).body, ip);
    }
    // Whoever it was for before may come by another connection, and it may not become theirs.
    let mut other = site.client();
    assert_eq!(other.ask(&from("192.0.2.1")).body, "192.0.2.1");
    assert_eq!(proxy.ask(&from("192.0.2.1")).status, 503);
    assert_eq!(site.counters().refused_per_address, 1);
    let mut again = site.client();
    assert_eq!(again.ask(&from("2001:db8::1")).status, 200);
    drop((proxy, other, again));
    site.end();
}

#[test]
fn a_connection_that_was_accepted_elsewhere_is_served_as_one_of_that_port() {
    each(|io| {
        let site = start(|config| {
            config.io = io;
            config.max_adopted = 2;
            config.max_per_address = 1;
            config.handshake_timeout = PATIENCE;
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        // The limits of its own port do not hold for it, nor it for them.
        let mut own = site.client();
        assert_eq!(own.ask(&get("/port")).body, "0");
        let mut clients = [site.adopts(&listener), site.adopts(&listener)];
        for client in &mut clients {
            client.send(&[get("/port"), post("/a", "body"), get("/later"), get("/port")].concat());
            assert_eq!((client.answer().body, client.answer().body), ("7".into(), "/a 4".into()));
            assert_eq!(site.tell(site.asked(), "told"), Ok(()));
            assert_eq!((client.answer().body, client.answer().body), ("told".into(), "7".into()));
        }
        assert_eq!(own.ask(&get("/port")).body, "0");
        let counters = site.counters();
        assert_eq!((counters.accepted, counters.adopted, counters.adopted_here), (1, 2, 2));
        // One more is given back as it was handed in.
        let mut third = site.adopts(&listener);
        let passed = site.passed(7);
        assert_eq!((passed.received.len(), passed.via.peer.ip()), (0, own_address(&third)));
        let mut socket = TcpStream::from(passed.socket);
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback").expect("taken");
        assert_eq!(third.answer().body, "back");
        assert_eq!(site.counters().adopt_refused, 1);
        // And so is one that wants what is not here, with what was read.
        let [mut first, second] = clients;
        first.send(&[get("/a"), get("/out")].concat());
        assert_eq!(first.answer().body, "/a 0");
        let passed = site.passed(7);
        assert_eq!(passed.received, get("/out"));
        drop((passed, first, second));
        until("nobody to be adopted", || site.counters().adopted_here == 0);
        drop(own);
        site.end();
        // One that says nothing.
        let site = start(|config| {
            config.io = io;
            config.max_adopted = 2;
            config.handshake_timeout = Duration::from_secs(1);
        });
        let mut silent = site.adopts(&listener);
        assert!(silent.rest().starts_with(b"HTTP/1.1 408"));
        drop(silent);
        site.end();
    });
}

fn own_address(client: &Asker) -> std::net::IpAddr {
    client.socket().local_addr().expect("an address").ip()
}
