//! Whose connection it is, as the engine tells: by whom `X-Forwarded-For` and PROXY headers are
//! believed, how they may be cut, and what is counted for whom.
//!
//! The method: raw clients at several loopback addresses, some of which the server trusts. The
//! application tells each client the address it was told, and so do limits and lists.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use ringhold::protocol::request::Request;
use ringhold::{
    Config, Connection, Context, Counters, Detached, Handler, HttpAction, Kind, Message,
    ProxyHeaders, UpgradeAction,
};

use crate::stories::{Frame, Peer, Site, wait_until};
use crate::support::wire::{self, FIN, TEXT, UPGRADE, frame};

/// Proxies that the servers here trust, and somebody else.
const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 6, 1));
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 7, 1));

/// Tells clients who they are: when they open, and when they ask over plain HTTP.
struct Mirror;

impl Handler for Mirror {
    type State = SocketAddr;
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &Request<'_>,
        peer: SocketAddr,
    ) -> UpgradeAction<Self::State> {
        UpgradeAction::accept(peer)
    }

    fn on_http(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        body: Option<&[u8]>,
        _: SocketAddr,
    ) -> HttpAction<Self::State> {
        match (request.method, body) {
            ("POST", None) => HttpAction::Body(100),
            _ => HttpAction::Detach,
        }
    }

    fn on_detach(&mut self, _: &mut Context<'_>, passed: Detached) {
        let Detached { socket, received, via, .. } = passed;
        let mut socket = TcpStream::from(socket);
        let first = received.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        let text = format!("{} {} {first}", via.peer.ip(), via.forwards);
        // Fits an empty send buffer.
        let _ = socket.write_all(text.as_bytes());
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, asked: &mut SocketAddr) {
        assert_eq!(conn.peer_addr(), Some(*asked), "one address for all callbacks");
        let _ = conn.send(Kind::Text, asked.to_string().as_bytes());
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, _: &mut SocketAddr, message: Message<'_>) {
        let _ = conn.reply(message);
    }
}

fn site(change: impl FnOnce(&mut Config)) -> Site<Mirror> {
    Site::start(
        |config| {
            config.proxies.trusted = vec!["127.0.6.0/24".parse().expect("a network")];
            change(config);
        },
        || Mirror,
    )
}

fn with_headers(headers: ProxyHeaders) -> Site<Mirror> {
    site(|config| config.proxies.headers = headers)
}

fn with_forwarded() -> Site<Mirror> {
    site(|config| config.proxies.forwarded_for = true)
}

fn from(site: &Site<Mirror>, local: IpAddr) -> Peer {
    Peer::try_connect(site.address, Some(local), None).expect("the server accepts")
}

fn request(lines: &[&str]) -> Vec<u8> {
    wire::request("GET / HTTP/1.1", &[&UPGRADE[..], lines].concat())
}

/// The address that the server tells, without its port where it is the connection's own.
fn told(peer: &mut Peer) -> String {
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let Frame::Text(text) = peer.read().expect("the first message") else { panic!("no text") };
    let text = String::from_utf8(text).expect("text");
    let own = peer.socket().local_addr().expect("bound").to_string();
    if text == own { peer.socket().local_addr().expect("bound").ip().to_string() } else { text }
}

/// Sends these bytes and says what the server thinks who that was.
fn who(site: &Site<Mirror>, local: IpAddr, bytes: &[u8]) -> String {
    let mut peer = from(site, local);
    peer.send(bytes);
    told(&mut peer)
}

/// Sends these bytes, which must be refused, and gives the answer.
fn refusal(site: &Site<Mirror>, local: IpAddr, bytes: &[u8]) -> String {
    let mut peer = from(site, local);
    peer.send(bytes);
    let mut answer = String::new();
    peer.socket().read_to_string(&mut answer).expect("an answer and the end");
    answer
}

fn v1() -> Vec<u8> {
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n".to_vec()
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, body].concat()
}

/// From a client at 2001:db8::`last`, with a TLV behind the addresses.
fn v2_inet6(last: u8) -> Vec<u8> {
    let mut body = [0; 36 + 7];
    body[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    body[15] = last;
    body[32..34].copy_from_slice(&4711_u16.to_be_bytes());
    body[36..].copy_from_slice(&[0xea, 0, 4, 1, 2, 3, 4]);
    v2(0x21, 0x21, &body)
}

#[test]
fn without_a_list_nobody_is_believed() {
    let site = site(|config| config.proxies.trusted.clear());
    let forged = request(&["X-Forwarded-For: 192.0.2.1", "X-Real-IP: 192.0.2.1"]);
    assert_eq!(who(&site, PROXY, &forged), PROXY.to_string());
    for header in [v1(), v2_inet6(1)] {
        let answer = refusal(&site, PROXY, &[header, request(&[])].concat());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(
            answer.ends_with("a PROXY header, which this server does not expect\n"),
            "{answer}"
        );
    }
    assert_eq!(site.wait_empty().refused_proxy_untrusted, 2);
    site.end();
}

#[test]
fn a_configuration_that_believes_half_is_refused() {
    let check = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config.check().expect_err("contradicts itself").to_string()
    };
    assert!(check(|config| config.proxies.forwarded_for = true).contains("named as trusted"));
    let headers = |config: &mut Config| config.proxies.headers = ProxyHeaders::Required;
    assert!(check(headers).contains("named as trusted"));
    let nothing = |config: &mut Config| config.proxies.trusted = vec![PROXY.into()];
    assert!(check(nothing).contains("must be said"));
}

#[test]
fn forwarded_for_of_trusted_proxies() {
    let site = with_forwarded();
    let cases = [
        (&["X-Forwarded-For: 192.0.2.1"][..], "192.0.2.1:0"),
        // The client had put something there; a second proxy stands behind the first.
        (&["X-Forwarded-For: 203.0.113.9, 192.0.2.1"], "192.0.2.1:0"),
        (&["x-forwarded-for: 203.0.113.9", "X-FORWARDED-FOR: 192.0.2.1, 127.0.6.7"], "192.0.2.1:0"),
        (&["X-Forwarded-For: [2001:db8::1]:4711"], "[2001:db8::1]:4711"),
        (&["X-Forwarded-For: unknown"], "127.0.6.1"),
        (&["X-Forwarded-For: "], "127.0.6.1"),
        (&["X-Real-IP: 192.0.2.1", "Forwarded: for=192.0.2.1"], "127.0.6.1"),
        (&[], "127.0.6.1"),
    ];
    for (lines, expected) in cases {
        assert_eq!(who(&site, PROXY, &request(lines)), expected, "{lines:?}");
        assert_eq!(who(&site, OTHER, &request(lines)), OTHER.to_string(), "{lines:?}");
    }
    // PROXY headers are not asked for.
    let answer = refusal(&site, PROXY, &[v1(), request(&[])].concat());
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    site.wait_empty();
    site.end();
}

#[test]
fn headers_of_trusted_proxies() {
    let inet = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
    let cases = [
        (v1(), "192.0.2.1:4711"),
        (b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n".to_vec(), "[2001:db8::1]:4711"),
        (b"PROXY UNKNOWN a b c\r\n".to_vec(), "127.0.6.1"),
        (v2(0x21, 0x11, &inet), "192.0.2.7:4711"),
        (v2_inet6(9), "[2001:db8::9]:4711"),
        (v2(0x20, 0x00, b""), "127.0.6.1"),
        (v2(0x21, 0x00, b"xyz"), "127.0.6.1"),
        (v2(0x21, 0x31, &[b'/'; 216]), "127.0.6.1"),
        (v2(0x20, 0x00, &[7; 4080]), "127.0.6.1"),
    ];
    for headers in [ProxyHeaders::Optional, ProxyHeaders::Required] {
        let site = with_headers(headers);
        for (header, expected) in &cases {
            // What a client forges counts for nothing here.
            let request = request(&["X-Forwarded-For: 203.0.113.9"]);
            let whole = [&header[..], &request].concat();
            assert_eq!(who(&site, PROXY, &whole), *expected, "{}", header.escape_ascii());
        }
        site.wait_empty();
        site.end();
    }
}

/// Where the bytes are cut decides nothing, and what is behind header and request is not lost.
#[test]
fn headers_in_pieces() {
    let site = with_headers(ProxyHeaders::Required);
    for (header, expected) in [(v1(), "192.0.2.1:4711"), (v2_inet6(1), "[2001:db8::1]:4711")] {
        let message = frame(FIN | TEXT, b"at once");
        let whole = [&header[..], &request(&[]), &message].concat();
        let cuts = [1, 5, 6, 11, 12, 13, 16, header.len() - 1, header.len(), header.len() + 1];
        let bytewise = [(1..whole.len()).collect::<Vec<_>>()];
        for cuts in cuts.map(|cut| vec![cut]).iter().chain(&bytewise) {
            let mut peer = from(&site, PROXY);
            let mut sent = 0;
            let before = site.counters().bytes_in;
            for cut in cuts.iter().copied().chain([whole.len()]) {
                peer.send(&whole[sent..cut]);
                sent = cut;
                if cuts.len() == 1 {
                    // The server has this piece before the next one comes.
                    site.wait_for("the piece", |c| c.bytes_in == before + cut as u64);
                }
            }
            assert_eq!(told(&mut peer), expected, "{cuts:?}");
            assert_eq!(peer.read().expect("the echo"), Frame::Text(b"at once".to_vec()));
            drop(peer);
            site.wait_empty();
        }
    }
    site.end();
}

/// What begins like a header and is none is a request all the same.
#[test]
fn beginnings_that_are_no_header() {
    let site = with_headers(ProxyHeaders::Optional);
    let mut peer = from(&site, PROXY);
    for byte in [&b"\r\n\r\n"[..], &request(&[])].concat() {
        peer.send(&[byte]);
    }
    assert_eq!(told(&mut peer), PROXY.to_string());
    drop(peer);
    assert_eq!(who(&site, PROXY, &request(&[])), PROXY.to_string());
    assert_eq!(who(&site, OTHER, &request(&[])), OTHER.to_string());
    let answer = refusal(&site, PROXY, b"PROP / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    site.wait_empty();
    site.end();
}

#[test]
fn headers_that_are_refused() {
    let counted = |c: &Counters| {
        [c.refused_proxy_untrusted, c.refused_proxy_missing, c.refused_proxy_malformed]
    };
    let (good, bad) = ([v1(), request(&[])].concat(), b"PROXY TCP4 x\r\n".to_vec());
    let long = v2(0x20, 0, &[0; 5000]);
    for headers in [ProxyHeaders::Optional, ProxyHeaders::Required] {
        let site = with_headers(headers);
        let cases = [
            (OTHER, &good[..], "a PROXY header from an address that is not trusted"),
            (OTHER, &bad, "a PROXY header from an address that is not trusted"),
            (PROXY, &bad, "a bad PROXY line"),
            (PROXY, &long[..16], "the PROXY header is too long"),
            (PROXY, &v2(0x21, 0x11, b"")[..16], "a PROXY header without its addresses"),
            (PROXY, &v2(0x22, 0x11, b"")[..13], "a PROXY header with an unknown code"),
        ];
        for (local, bytes, reason) in cases {
            let answer = refusal(&site, local, bytes);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{reason}\n")), "{answer}");
        }
        let mut missing = 0;
        if headers == ProxyHeaders::Required {
            for local in [PROXY, OTHER] {
                let answer = refusal(&site, local, &request(&[]));
                assert!(answer.ends_with("\r\n\r\nno PROXY header\n"), "{answer}");
            }
            missing = 2;
        }
        assert_eq!(counted(&site.wait_empty()), [2, missing, 4]);
        site.end();
    }
}

/// A header that does not come is a handshake that does not.
#[test]
fn a_header_that_stops() {
    let site = site(|config| {
        config.proxies.headers = ProxyHeaders::Required;
        config.handshake_timeout = Duration::from_secs(6);
    });
    // All at once: each takes its time.
    let begin = |bytes: &[u8]| {
        let mut peer = from(&site, PROXY);
        peer.send(bytes);
        peer
    };
    let stopped = [&b""[..], b"PROXY TCP4 192.0", &v2_inet6(1)[..20], &v1()].map(begin);
    for peer in &stopped {
        let mut answer = String::new();
        peer.socket().read_to_string(&mut answer).expect("an answer and the end");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    drop(stopped);
    assert_eq!(site.wait_empty().handshake_timeouts, 4);
    site.end();
}

/// A proxy in front of a proxy: the first one's word counts only through the second.
#[test]
fn a_chain_of_both() {
    let site = site(|config| {
        config.proxies.headers = ProxyHeaders::Required;
        config.proxies.forwarded_for = true;
    });
    let ask = request(&["X-Forwarded-For: 203.0.113.9, 192.0.2.33"]);
    let from_proxy = b"PROXY TCP4 127.0.6.9 198.51.100.1 4711 443\r\n";
    let cases = [
        (&from_proxy[..], "192.0.2.33:0"),
        // A client of the outer proxy itself.
        (&v1(), "192.0.2.1:4711"),
        // Nobody is named, so nobody vouches for what the request says.
        (b"PROXY UNKNOWN\r\n", "127.0.6.1"),
        (&v2(0x20, 0, b""), "127.0.6.1"),
    ];
    for (header, expected) in cases {
        assert_eq!(who(&site, PROXY, &[header, &ask].concat()), expected);
    }
    site.wait_empty();
    site.end();
}

/// The limit per address is the client's, over all cores; the proxy's connections are many.
#[test]
fn connections_per_client() {
    let limited = |change: fn(&mut Config)| {
        site(|config| {
            config.max_per_address = 3;
            change(config);
        })
    };
    let forwarded = |n: u8| request(&[&format!("X-Forwarded-For: 192.0.2.{n}")]);
    let header = |n: u8| {
        let header = format!("PROXY TCP4 192.0.2.{n} 198.51.100.1 4711 443\r\n");
        [header.as_bytes(), &request(&[])].concat()
    };
    type Way<'a> = (fn(&mut Config), &'a dyn Fn(u8) -> Vec<u8>);
    let ways: [Way<'_>; 2] = [
        (|config| config.proxies.forwarded_for = true, &forwarded),
        (|config| config.proxies.headers = ProxyHeaders::Required, &header),
    ];
    for (change, hello) in ways {
        let site = limited(change);
        let open = |n: u8| {
            let mut peer = from(&site, PROXY);
            peer.send(&hello(n));
            told(&mut peer);
            peer
        };
        let mut inside: Vec<Peer> = (0..30).map(|at| open(at % 10)).collect();
        // The proxy may have any number of connections that have not said yet for whom.
        let silent: Vec<Peer> = (0..20).map(|_| from(&site, PROXY)).collect();
        for n in 0..10 {
            let answer = refusal(&site, PROXY, &hello(n));
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains("\r\nRetry-After: 5\r\n"), "{answer}");
        }
        assert_eq!(site.counters().refused_per_address, 10);
        assert_eq!(site.counters().refused_application, 0);
        // One leaves, one more may come.
        drop(inside.swap_remove(4));
        site.wait_for("a free place", |c| c.open == 29);
        drop(silent);
        site.wait_for("the silent to be gone", |c| c.connections == 29);
        inside.push(open(4));
        drop(inside);
        site.wait_empty();
        drop(open(4));
        site.wait_empty();
        site.end();
    }
}

/// With no room left even to say so, one client's surplus is let go without a word, and the others
/// are served.
#[test]
fn the_surplus_of_one_client_is_bounded() {
    let site = site(|config| {
        config.proxies.headers = ProxyHeaders::Required;
        config.workers = 1;
        config.max_per_address = 1;
        config.reserve = 2;
    });
    let mut inside = from(&site, PROXY);
    inside.send(&[v1(), request(&[])].concat());
    told(&mut inside);
    // Its header says who it is; the request does not follow.
    let waiting: Vec<Peer> = (0..2)
        .map(|_| {
            let mut peer = from(&site, PROXY);
            peer.send(&v1());
            peer
        })
        .collect();
    site.wait_for("both", |c| c.refused_per_address == 2);
    let mut third = from(&site, PROXY);
    third.send(&v1());
    third.expect_end();
    assert_eq!(site.counters().refused_per_address, 3);
    assert_eq!(who(&site, PROXY, &[v2_inet6(1), request(&[])].concat()), "[2001:db8::1]:4711");
    drop((inside, waiting));
    site.wait_empty();
    site.end();
}

/// Plain HTTP is handed over without the PROXY header, and with what is to be believed about the
/// requests that follow on the connection: the first one says nothing about them.
#[test]
fn plain_http_is_handed_over_with_the_way_it_came() {
    let ask = |method: &str| {
        let lines = "Host: x\r\nX-Forwarded-For: 192.0.2.5\r\nContent-Length: 2\r\n";
        format!("{method} /health HTTP/1.1\r\n{lines}\r\n{{}}").into_bytes()
    };
    let passed = |site: &Site<Mirror>, local: IpAddr, header: &[u8]| {
        ["GET", "POST"].map(|method| {
            let answer = refusal(site, local, &[header, &ask(method)].concat());
            let (way, line) = answer.split_once(&format!(" {method} ")).unwrap_or((&answer, ""));
            assert!(line == "/health HTTP/1.1" || answer.starts_with("HTTP/1.1 503 "), "{answer}");
            way.to_owned()
        })
    };
    let both = |way: &str| [way, way].map(str::to_owned);
    let site = with_headers(ProxyHeaders::Required);
    let way = passed(&site, PROXY, &v1());
    if way[0].starts_with("HTTP/1.1 503 ") {
        return crate::support::skip("this kernel cannot hand connections over");
    }
    assert_eq!(way, both("192.0.2.1 false"));
    site.end();
    let site = with_forwarded();
    assert_eq!(passed(&site, PROXY, b""), both("127.0.6.1 true"));
    assert_eq!(passed(&site, OTHER, b""), both("127.0.7.1 false"));
    // A body that comes later is waited for; what was learnt before is not forgotten.
    let mut slow = from(&site, PROXY);
    let whole = ask("POST");
    let (first, last) = whole.split_at(whole.len() - 1);
    slow.send(first);
    std::thread::sleep(Duration::from_millis(50));
    slow.send(last);
    let mut answer = String::new();
    slow.socket().read_to_string(&mut answer).expect("an answer and the end");
    assert_eq!(answer, "127.0.6.1 true POST /health HTTP/1.1");
    site.wait_empty();
    site.end();
    // Both: a proxy that a trusted one names is believed, what is named behind nobody is not.
    let site = self::site(|config| {
        config.proxies.headers = ProxyHeaders::Optional;
        config.proxies.forwarded_for = true;
    });
    assert_eq!(passed(&site, PROXY, b""), both("127.0.6.1 true"));
    assert_eq!(passed(&site, PROXY, &v1()), both("192.0.2.1 false"));
    assert_eq!(passed(&site, PROXY, b"PROXY UNKNOWN\r\n"), both("127.0.6.1 false"));
    let chain = b"PROXY TCP4 127.0.6.9 127.0.0.1 4711 80\r\n";
    assert_eq!(passed(&site, PROXY, chain), both("127.0.6.9 true"));
    site.wait_empty();
    site.end();
}

/// The slow are listed by their own address, not the proxy's.
#[test]
fn slow_clients_are_listed_by_address() {
    let site = with_forwarded();
    let mut slow = Peer::try_connect(site.address, Some(PROXY), Some(32 * 1024)).expect("accepted");
    slow.send(&request(&["X-Forwarded-For: 192.0.2.77"]));
    told(&mut slow);
    // Echoes of what it sends and does not read.
    let large = vec![0; 512 * 1024];
    let _ = slow.socket().set_write_timeout(Some(Duration::from_millis(500)));
    for _ in 0..64 {
        if slow.try_send(&frame(FIN | wire::BINARY, &large)).is_err() {
            break;
        }
    }
    wait_until("the slow to be listed", || {
        let listed = site.handle.slow_peers();
        (listed.first().map(|peer| peer.peer) != Some(([192, 0, 2, 77], 0).into()))
            .then(|| format!("{listed:?}"))
    });
    drop(slow);
    site.wait_empty();
    site.end();
}
