//! The PROXY protocol: what a proxy says about a connection before the first byte of it.
//!
//! Owns versions 1 and 2 of the specification that HAProxy publishes (`doc/proxy-protocol.txt`; its
//! sections are cited). Never decides who may send a header, and keeps nothing of it but the
//! source: TLVs (section 2.2) are skipped. The invariant: the answer does not depend on how the
//! bytes are cut, since each prefix is either undecided or answered as the whole is.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Too few of them to tell.
    Undecided,
    /// No PROXY header: the connection's own bytes.
    Plain,
    /// A whole header.
    Header(Header),
}

/// A PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes it takes; the connection's own begin behind it. At most [`HEADER_MAX`].
    pub len: usize,
    /// Who connected to the proxy. `None`: the proxy speaks for itself (`LOCAL`), does not know
    /// (`UNKNOWN`, `AF_UNSPEC`), or it was not TCP over IP; the address of its own connection is
    /// all there is to know (sections 2.1 and 2.2).
    pub source: Option<SocketAddr>,
}

/// A header that breaks the specification. The connection has to be given up (section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Version 1: no line end within 107 bytes. Version 2: more than [`HEADER_MAX`] bytes.
    TooLong,
    /// Version 1: not the fields there must be, in their one way to be written.
    Line,
    /// Version 2: another version, or a command, family or transport that is not assigned.
    Code,
    /// Version 2: fewer bytes than the family's addresses take.
    TooShort,
}

impl Malformed {
    /// A short text for the answer.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "the PROXY header is too long",
            Self::Line => "a bad PROXY line",
            Self::Code => "a PROXY header with an unknown code",
            Self::TooShort => "a PROXY header without its addresses",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl core::error::Error for Malformed {}

/// Reads the first bytes of a connection on which a header may come. Called again with more of
/// them while [`Start::Undecided`]; at most [`HEADER_MAX`] are ever waited for.
pub fn parse(bytes: &[u8]) -> Result<Start, Malformed> {
    if agree(bytes, V1) {
        version_1(bytes)
    } else if agree(bytes, V2) {
        version_2(bytes)
    } else {
        Ok(Start::Plain)
    }
}

/// Whether the shorter one begins the longer one.
fn agree(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

/// Section 2.1: `PROXY TCP4 192.0.2.1 198.51.100.1 4711 443`, or `PROXY UNKNOWN` and anything.
fn version_1(bytes: &[u8]) -> Result<Start, Malformed> {
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() == V1_MAX { Err(Malformed::TooLong) } else { Ok(Start::Undecided) };
    };
    // The line end comes behind the signature, which has none.
    let fields = window.get(V1.len()..end).ok_or(Malformed::Line)?;
    let source = v1_source(fields).ok_or(Malformed::Line)?;
    Ok(Start::Header(Header { len: end + 2, source }))
}

/// `None`: malformed.
fn v1_source(fields: &[u8]) -> Option<Option<SocketAddr>> {
    let rest = fields.strip_prefix(b"UNKNOWN");
    if rest.is_some_and(|rest| rest.is_empty() || rest[0] == b' ') {
        return Some(None);
    }
    let mut fields = core::str::from_utf8(fields).ok()?.split(' ');
    let mut next = || fields.next();
    let (family, source, destination) = (next()?, next()?, next()?);
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    if next().is_some() {
        return None;
    }
    let ip = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(Into::into),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(|ip| ip.to_canonical()),
        _ => None,
    };
    let _ = (ip(destination)?, destination_port);
    Some(Some(SocketAddr::new(ip(source)?, source_port)))
}

/// A decimal number without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
}

/// Section 2.2: signature, version and command, family and transport, length, addresses, TLVs.
fn version_2(bytes: &[u8]) -> Result<Start, Malformed> {
    let rest = bytes.get(V2.len()..).unwrap_or_default();
    // Each byte is judged as soon as it is there, so that nobody waits for what is wrong already.
    let Some(command) = rest.first() else { return Ok(Start::Undecided) };
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Code),
    };
    let Some(family) = rest.get(1) else { return Ok(Start::Undecided) };
    let (family, transport) = (family >> 4, family & 0xf);
    // Of LOCAL the receiver must ignore the family.
    if !local && (family > UNIX || transport > DATAGRAM) {
        return Err(Malformed::Code);
    }
    let Some(&[high, low]) = rest.get(2..4) else { return Ok(Start::Undecided) };
    let body = usize::from(u16::from_be_bytes([high, low]));
    let needed = match (local, family) {
        (false, INET) => 12,
        (false, INET6) => 36,
        (false, UNIX) => 216,
        _ => 0,
    };
    let len = V2.len() + 4 + body;
    if body < needed {
        return Err(Malformed::TooShort);
    }
    if len > HEADER_MAX {
        return Err(Malformed::TooLong);
    }
    let Some(body) = rest.get(4..4 + body) else { return Ok(Start::Undecided) };
    let source = match (local, family, transport) {
        (false, INET, STREAM) => v2_inet(body),
        (false, INET6, STREAM) => v2_inet6(body),
        _ => None,
    };
    Ok(Start::Header(Header { len, source }))
}

/// Source, destination, and their ports.
fn v2_inet(body: &[u8]) -> Option<SocketAddr> {
    let (ip, rest) = body.split_first_chunk::<4>()?;
    let port = rest.get(4..6)?.try_into().ok()?;
    Some(SocketAddr::new(Ipv4Addr::from(*ip).into(), u16::from_be_bytes(port)))
}

fn v2_inet6(body: &[u8]) -> Option<SocketAddr> {
    let (ip, rest) = body.split_first_chunk::<16>()?;
    let port = rest.get(16..18)?.try_into().ok()?;
    Some(SocketAddr::new(Ipv6Addr::from(*ip).to_canonical(), u16::from_be_bytes(port)))
}

/// Bytes of the longest header that is read: what is longer carries more than addresses and a few
/// TLVs, such as a client's certificate, for which nobody asks here. The specification asks senders
/// to stay within 536 bytes (section 2.2).
pub const HEADER_MAX: usize = 4096;

/// The longest line of version 1, its end included (section 2.1).
const V1_MAX: usize = 107;
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Families and transports of version 2; 0 is unspecified.
const INET: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;
const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The answer to whole bytes, which must be that to every cut of them.
    fn start(bytes: &[u8]) -> Result<Start, Malformed> {
        let whole = parse(bytes);
        let undecided = |answer: &Result<_, _>| *answer == Ok(Start::Undecided);
        let first = (0..=bytes.len()).map(|n| (n, parse(&bytes[..n])));
        let (at, decided) = first
            .into_iter()
            .find(|(_, answer)| !undecided(answer))
            .unwrap_or((bytes.len(), Ok(Start::Undecided)));
        assert_eq!(decided, whole, "{}", bytes.escape_ascii());
        for n in at..=bytes.len() {
            assert_eq!(parse(&bytes[..n]), whole, "{} cut at {n}", bytes.escape_ascii());
        }
        if let Ok(Start::Header(header)) = whole {
            assert_eq!(header.len, at, "decided with its last byte");
            assert!(header.len <= HEADER_MAX);
        }
        whole
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &len, body].concat()
    }

    fn source(bytes: &[u8]) -> Result<Option<String>, Malformed> {
        let bytes = [bytes, b"GET / HTTP/1.1"].concat();
        match start(&bytes)? {
            Start::Header(header) => {
                assert!(bytes[header.len..].starts_with(b"GET "));
                Ok(header.source.map(|source| source.to_string()))
            }
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
    }

    fn named(address: &str) -> Result<Option<String>, Malformed> {
        Ok(Some(address.to_owned()))
    }

    #[test]
    fn lines_of_version_1() {
        let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        let cases = [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", named("192.0.2.1:4711")),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                named("255.255.255.255:65535"),
            ),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 0 0\r\n", named("192.0.2.1:0")),
            ("PROXY TCP6 2001:db8::1 ::1 4711 443\r\n", named("[2001:db8::1]:4711")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n", named("192.0.2.1:4711")),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            (longest, Ok(None)),
            ("PROXY UNKNOWN whatever \t \r there is\r\n", Ok(None)),
        ];
        for (line, expected) in cases {
            assert_eq!(source(line.as_bytes()), expected, "{line}");
        }
        let bad = [
            "PROXY \r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY unknown\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 4711 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 \r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 4711 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 4711 443\r\n",
            "PROXY TCP4 2001:db8::1 ::1 4711 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 4711 443\r\n",
            "PROXY TCP4 192.0.2.1 example.org 4711 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 4711 -1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1  443\r\n",
            "PROXY TCP4 192.0.2.1\t198.51.100.1 4711 443\r\n",
        ];
        for line in bad {
            assert_eq!(start(line.as_bytes()), Err(Malformed::Line), "{line}");
        }
    }

    #[test]
    fn the_longest_line_of_version_1() {
        let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16));
        assert_eq!(source(line(107).as_bytes()), Ok(None));
        assert_eq!(start(line(108).as_bytes()), Err(Malformed::TooLong));
        assert_eq!(start(&b"PROXY ".repeat(50)), Err(Malformed::TooLong));
        assert_eq!(start(&line(107).as_bytes()[..106]), Ok(Start::Undecided));
        // A line end without CR is none.
        let bare = b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n";
        assert_eq!(start(bare), Ok(Start::Undecided));
    }

    #[test]
    fn headers_of_version_2() {
        let inet = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
        let mut inet6 = [0; 36];
        inet6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        inet6[15] = 1;
        inet6[32..34].copy_from_slice(&4711_u16.to_be_bytes());
        let tlvs = [&inet[..], &[0x01, 0, 2, b'h', b'2', 0x04, 0, 0]].concat();
        assert_eq!(source(&v2(0x21, 0x11, &inet)), named("192.0.2.1:4711"));
        assert_eq!(source(&v2(0x21, 0x21, &inet6)), named("[2001:db8::1]:4711"));
        assert_eq!(source(&v2(0x21, 0x11, &tlvs)), named("192.0.2.1:4711"));
        // LOCAL, whatever it says besides; what is not TCP over IP; what the sender does not know.
        assert_eq!(source(&v2(0x20, 0x00, b"")), Ok(None));
        assert_eq!(source(&v2(0x20, 0x11, &inet)), Ok(None));
        assert_eq!(source(&v2(0x20, 0xff, b"xy")), Ok(None));
        assert_eq!(source(&v2(0x21, 0x00, b"")), Ok(None));
        assert_eq!(source(&v2(0x21, 0x00, b"xyz")), Ok(None));
        assert_eq!(source(&v2(0x21, 0x12, &inet)), Ok(None));
        assert_eq!(source(&v2(0x21, 0x31, &[b'/'; 216])), Ok(None));
        assert_eq!(source(&v2(0x21, 0x10, &inet)), Ok(None));

        assert_eq!(start(&v2(0x11, 0x11, &inet)), Err(Malformed::Code));
        assert_eq!(start(&v2(0x31, 0x11, &inet)), Err(Malformed::Code));
        assert_eq!(start(&v2(0x22, 0x11, &inet)), Err(Malformed::Code));
        assert_eq!(start(&v2(0x21, 0x41, &inet)), Err(Malformed::Code));
        assert_eq!(start(&v2(0x21, 0x13, &inet)), Err(Malformed::Code));
        assert_eq!(start(&v2(0x21, 0x11, &inet[..11])), Err(Malformed::TooShort));
        assert_eq!(start(&v2(0x21, 0x21, &inet6[..35])), Err(Malformed::TooShort));
        assert_eq!(start(&v2(0x21, 0x31, &[0; 215])), Err(Malformed::TooShort));
        assert_eq!(source(&v2(0x20, 0x00, &[0; HEADER_MAX - 16])), Ok(None));
        assert_eq!(start(&v2(0x20, 0x00, &[0; HEADER_MAX - 15])), Err(Malformed::TooLong));
    }

    #[test]
    fn what_is_no_header() {
        let plain: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\n",
            b"PROXIES / HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n",
            b"\r\n\r\n\0\r\nQUIX\n",
            b"\x16\x03\x01",
        ];
        for bytes in plain {
            assert_eq!(start(bytes), Ok(Start::Plain), "{}", bytes.escape_ascii());
        }
        for bytes in [&b""[..], b"P", b"PROXY", b"\r\n", &V2[..11], V2] {
            assert_eq!(start(bytes), Ok(Start::Undecided), "{}", bytes.escape_ascii());
        }
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let any = || prop::collection::vec(any::<u8>(), 0..300);
        let line = "(UNKNOWN|TCP4|TCP6)?( [0-9a-f.:]{0,15}){0,5} ?(\r\n|\n|\r)?.{0,8}";
        prop_oneof![
            any(),
            line.prop_map(|line| [V1, line.as_bytes()].concat()),
            any().prop_map(|rest| [V2, &rest].concat()),
            (0x1f_u8..0x23, 0_u8..0x44, 0_u16..260, any()).prop_map(
                |(command, family, len, rest)| {
                    [V2, &[command, family], &len.to_be_bytes(), &rest].concat()
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn one_answer_however_cut(bytes in bytes()) {
            let _ = start(&bytes);
        }

        #[test]
        fn addresses_arrive(source: SocketAddr, destination: SocketAddr, tlvs in 0..50_usize) {
            let canonical = SocketAddr::new(source.ip().to_canonical(), source.port());
            let expected = Ok(Some(canonical.to_string()));
            let (s, d) = match (source, destination) {
                (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => {
                    (source, destination)
                }
                _ => (source, source),
            };
            let family = if s.is_ipv4() { "TCP4" } else { "TCP6" };
            let line =
                format!("PROXY {family} {} {} {} {}\r\n", s.ip(), d.ip(), s.port(), d.port());
            prop_assert_eq!(self::source(line.as_bytes()), expected.clone());
            let octets = |ip| match ip {
                core::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                core::net::IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let ports = [s.port().to_be_bytes(), d.port().to_be_bytes()].concat();
            let body = [octets(s.ip()), octets(d.ip()), ports, vec![0; tlvs]].concat();
            let family = if s.is_ipv4() { 0x11 } else { 0x21 };
            prop_assert_eq!(self::source(&v2(0x21, family, &body)), expected);
        }
    }
}
