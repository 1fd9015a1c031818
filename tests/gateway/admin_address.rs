//! Whose logins the admin page counts: clients behind trusted proxies each for themselves, by the
//! rules that hold for connections; and nobody can choose whose he is.
//!
//! The method: raw connections from loopback addresses, of which the server trusts some, carry
//! logins one after the other, as proxies that keep connections do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::PATIENCE;
use crate::support::daemon::free_address;
use crate::support::gateway::Gateway;

/// A proxy that the servers here trust, and somebody else.
const PROXY: [u8; 4] = [127, 0, 6, 1];
const OTHER: [u8; 4] = [127, 0, 7, 1];

const WRONG: &str = "guess";
const RIGHT: &str = "sesame";

/// How many of one address may fail.
const FAILURES: usize = 5;

fn start(keys: &str) -> Gateway {
    let keys = format!("trusted_proxies = [\"127.0.6.0/24\"]\n{keys}");
    Gateway::start_listening(&keys, "", "[admin]\nenabled = true\npassword = \"sesame\"\n")
}

/// A connection that is kept for one login after the other.
struct Line(BufReader<TcpStream>);

impl Line {
    fn open(gateway: &Gateway, local: [u8; 4], header: &str) -> Self {
        Self::open_at(gateway.address(), local, header)
    }

    fn open_at(address: SocketAddr, local: [u8; 4], header: &str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let local = SockAddr::from(SocketAddr::from((local, 0)));
        socket.bind(&local).expect("the whole of 127/8 is ours");
        socket.connect(&address.into()).expect("the server accepts");
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("set_read_timeout");
        stream.write_all(header.as_bytes()).expect("a header is taken");
        Self(BufReader::new(stream))
    }

    /// The status of a login in a request with these lines.
    fn login(&mut self, lines: &[&str], password: &str) -> u16 {
        let body = format!("password={password}");
        let mut head = "POST /admin/auth HTTP/1.1\r\nHost: test\r\n".to_owned();
        for line in lines {
            head += &format!("{line}\r\n");
        }
        head += "Content-Type: application/x-www-form-urlencoded\r\n";
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        self.0.get_mut().write_all((head + &body).as_bytes()).expect("a request is taken");
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).expect("a head") > 0, "the connection is kept");
            let line = line.trim().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().expect("a status");
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            } else if line.is_empty() {
                self.0.read_exact(&mut vec![0; length]).expect("the whole answer");
                return status;
            }
        }
    }

    fn login_for(&mut self, client: &str, password: &str) -> u16 {
        self.login(&[&format!("X-Forwarded-For: {client}")], password)
    }
}

fn statuses(login: impl FnMut(usize) -> u16) -> Vec<u16> {
    (0..=FAILURES).map(login).collect()
}

/// As many as may fail, and one that is not looked at.
fn locked() -> Vec<u16> {
    let mut statuses = vec![400; FAILURES];
    statuses.push(429);
    statuses
}

#[test]
fn clients_on_a_proxys_connection_are_counted_each() {
    let gateway = start("forwarded_for = true");
    let mut line = Line::open(&gateway, PROXY, "");
    assert_eq!(statuses(|_| line.login_for("192.0.2.1", WRONG)), locked());
    // The same connection, another client; and the proxy itself, where it names nobody.
    assert_eq!(line.login_for("192.0.2.2", WRONG), 400);
    assert_eq!(line.login_for("192.0.2.2", RIGHT), 200);
    assert_eq!(line.login(&[], RIGHT), 200);
    // The same client, another connection, whose first request was somebody else's.
    let mut other = Line::open(&gateway, [127, 0, 6, 2], "");
    assert_eq!(other.login_for("192.0.2.3", RIGHT), 200);
    assert_eq!(other.login_for("192.0.2.1", RIGHT), 429);
    // What a client has put to the left of what the proxy appends, in one line or in two.
    let forge = |n: usize| format!("203.0.113.{n}, 192.0.2.4");
    assert_eq!(statuses(|n| other.login_for(&forge(n), WRONG)), locked());
    let lines =
        |n: usize| [format!("X-Forwarded-For: 203.0.113.{n}"), "x-forwarded-for: ::5".into()];
    let two = |n: usize| other.login(&lines(n).each_ref().map(String::as_str), WRONG);
    assert_eq!(statuses(two), locked());
    gateway.stop();
}

#[test]
fn who_is_not_trusted_cannot_choose_an_address() {
    for keys in ["forwarded_for = true", "proxy_protocol = \"optional\""] {
        let gateway = start(keys);
        let mut line = Line::open(&gateway, OTHER, "");
        assert_eq!(statuses(|n| line.login_for(&format!("192.0.2.{n}"), WRONG)), locked());
        // Those it named are none the worse, and it is no better for naming them.
        assert_eq!(line.login_for("192.0.2.100", RIGHT), 429);
        assert_eq!(line.login(&[], RIGHT), 429);
        let mut proxy = Line::open(&gateway, PROXY, "");
        assert_eq!(proxy.login_for("192.0.2.0", RIGHT), 200);
        gateway.stop();
    }
}

#[test]
fn a_proxy_header_names_the_client_of_all_requests() {
    let gateway = start("proxy_protocol = \"required\"");
    let header = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 4711 80\r\n");
    let mut line = Line::open(&gateway, PROXY, &header("192.0.2.1"));
    assert_eq!(statuses(|n| line.login_for(&format!("203.0.113.{n}"), WRONG)), locked());
    let mut again = Line::open(&gateway, PROXY, &header("192.0.2.1"));
    assert_eq!(again.login(&[], RIGHT), 429);
    let mut other = Line::open(&gateway, PROXY, &header("192.0.2.2"));
    assert_eq!(other.login(&[], RIGHT), 200);
    gateway.stop();
    // A chain: the one that the header names is a trusted proxy itself, and names others.
    let gateway = start("proxy_protocol = \"required\"\nforwarded_for = true");
    let mut chain = Line::open(&gateway, PROXY, &header(&IpAddr::from([127, 0, 6, 9]).to_string()));
    assert_eq!(statuses(|_| chain.login_for("192.0.2.1", WRONG)), locked());
    assert_eq!(chain.login_for("192.0.2.2", RIGHT), 200);
    assert_eq!(chain.login(&[], RIGHT), 200);
    gateway.stop();
}

#[test]
fn the_internal_port_has_the_same_rules() {
    let internal = free_address();
    let gateway = start(&format!("forwarded_for = true\ninternal_port = {}", internal.port()));
    let mut line = Line::open_at(internal, PROXY, "");
    assert_eq!(statuses(|_| line.login_for("192.0.2.1", WRONG)), locked());
    assert_eq!(line.login_for("192.0.2.2", RIGHT), 200);
    let mut other = Line::open_at(internal, OTHER, "");
    assert_eq!(statuses(|n| other.login_for(&format!("192.0.2.{n}"), WRONG)), locked());
    gateway.stop();
}
