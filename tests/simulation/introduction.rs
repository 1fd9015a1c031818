//! What a client's connection says about itself before and in its request, as if a proxy stood in
//! front of it: truly, wrongly, or not at all; and whom the server must then take it for.

use std::net::{IpAddr, SocketAddr};

use ringhold::internals::rng::Rng;
use ringhold::{Proxies, ProxyHeaders};

/// A few hosts of [`super::run`]'s are proxies: 0 and 1 of each family.
pub fn proxies(rng: &mut Rng, calm: bool) -> Proxies {
    let headers = match rng.below(if calm { 6 } else { 8 }) {
        0..3 => return Proxies::default(),
        3 => ProxyHeaders::Off,
        4..6 => ProxyHeaders::Optional,
        _ => ProxyHeaders::Required,
    };
    Proxies {
        trusted: ["10.0.0.0/31", "2001:db8::/63"].map(|text| text.parse().unwrap()).to_vec(),
        forwarded_for: headers == ProxyHeaders::Off || rng.one_in(2),
        headers,
    }
}

/// Bytes before the request, lines in it, and what the server makes of them.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    pub header: Vec<u8>,
    pub lines: Vec<(String, String)>,
    /// The page that connects, if one does.
    pub origin: Option<&'static str>,
    /// `None`: the connection may not open.
    pub client: Option<IpAddr>,
}

/// Draws one for a client that connects from here. Ports stay, since they name clients.
pub fn draw(rng: &mut Rng, calm: bool, proxies: &Proxies, from: SocketAddr) -> Introduction {
    let proxy = is_proxy(from.ip());
    let mut introduction = Introduction { client: Some(from.ip()), ..Introduction::default() };
    if *proxies == Proxies::default() {
        return introduction;
    }
    let forwarded = somebody(rng, from.port());
    if rng.one_in(2) {
        let lines = [format!("junk, 203.0.113.9, {forwarded}"), format!("{forwarded}")];
        let line = lines[rng.below(2) as usize].clone();
        introduction.lines.push(("X-Forwarded-For".to_owned(), line));
    }
    let said = |introduction: &Introduction, proxy: IpAddr| {
        let heard = proxies.forwarded_for && is_proxy(proxy) && !introduction.lines.is_empty();
        if heard { forwarded.ip() } else { proxy }
    };
    if proxies.headers == ProxyHeaders::Off {
        introduction.client = Some(said(&introduction, from.ip()));
        return introduction;
    }
    let sends = match (calm, proxy) {
        (true, _) => proxy,
        (false, true) => !rng.one_in(8),
        (false, false) => rng.one_in(8),
    };
    if !sends {
        introduction.client = match proxies.headers {
            ProxyHeaders::Required => None,
            _ => Some(said(&introduction, from.ip())),
        };
        return introduction;
    }
    let source = match rng.below(4) {
        // Another proxy.
        0 => SocketAddr::from(([10, 0, 0, 1], from.port())),
        _ => somebody(rng, from.port()),
    };
    let client = said(&introduction, source.ip());
    (introduction.header, introduction.client) = match rng.below(if calm { 8 } else { 10 }) {
        0..3 => (line(source), Some(client)),
        3..7 => (block(rng, source), Some(client)),
        // The proxy speaks for itself, and for nobody else.
        7 => (b"PROXY UNKNOWN\r\n".to_vec(), Some(from.ip())),
        8 => (b"PROXY TCP4 nobody\r\n".to_vec(), None),
        _ => (block(rng, source)[..14].to_vec(), None),
    };
    if !proxy {
        introduction.client = None;
    }
    introduction
}

/// Draws the page that a client says to be.
pub fn origin(rng: &mut Rng) -> Option<&'static str> {
    let origins = [None, None, Some(GOOD), Some("HTTPS://Good.Example"), Some("null"), Some(EVIL)];
    origins[rng.below(6) as usize]
}

/// Whether a server that admits only [`GOOD`] lets it in.
pub fn is_admitted(origin: Option<&str>) -> bool {
    origin.is_none_or(|origin| origin.eq_ignore_ascii_case(GOOD))
}

pub const GOOD: &str = "https://good.example";
const EVIL: &str = "https://good.example.evil.test";

fn is_proxy(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(ip.octets(), [10, 0, 0, 0 | 1]),
        IpAddr::V6(ip) => matches!(ip.segments(), [0x2001, 0xdb8, 0, 0 | 1, ..]),
    }
}

/// One of few, so that limits per address are met.
fn somebody(rng: &mut Rng, port: u16) -> SocketAddr {
    let last = rng.below(4) as u16;
    match rng.one_in(2) {
        true => SocketAddr::from(([192, 0, 2, last as u8], port)),
        false => SocketAddr::from(([0x2001, 0xdb8, 0xffff, last, 0, 0, 0, port], port)),
    }
}

fn line(source: SocketAddr) -> Vec<u8> {
    let (family, to) = if source.is_ipv4() { ("TCP4", "10.0.0.9") } else { ("TCP6", "::1") };
    format!("PROXY {family} {} {to} {} 80\r\n", source.ip(), source.port()).into_bytes()
}

fn block(rng: &mut Rng, source: SocketAddr) -> Vec<u8> {
    let (family, mut body) = match source.ip() {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [10, 0, 0, 9]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [9; 16]].concat()),
    };
    body.extend(source.port().to_be_bytes());
    body.extend(80_u16.to_be_bytes());
    body.extend(std::iter::repeat_n(0xea, rng.below(3000) as usize));
    let len = (body.len() as u16).to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21"[..], &[family], &len, &body].concat()
}
