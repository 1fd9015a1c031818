//! Where connections go to, and from which addresses they come.
//!
//! Owns the rules for URLs and source addresses. Never opens a socket; the only question it asks
//! the host is for the address of a name. The invariant: there are enough source addresses for all
//! connections, or the reason why there may not be is the user's own choice.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use http::Uri;
use ringhold::DialTarget;

/// A `ws://` or `wss://` URL, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As given.
    pub(crate) url: String,
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
    host: String,
    port: u16,
    /// Value of the Host header.
    authority: String,
    /// Path and query.
    resource: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        // RFC 6455 section 3.
        if url.contains('#') {
            return Err("a WebSocket URL has no fragment (#)".to_owned());
        }
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => {
                let text = "not a WebSocket URL: write ws://HOST:PORT/PATH or wss://…";
                return Err(text.to_owned());
            }
        };
        let authority = uri.authority().ok_or("the host is missing")?;
        if authority.as_str().contains('@') {
            return Err("a WebSocket URL has no user name".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("the host is missing".to_owned());
        }
        if authority.as_str() != authority.host() && authority.port_u16().is_none() {
            return Err("the port is not a number below 65536".to_owned());
        }
        Ok(Self {
            url: url.to_owned(),
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            resource: uri.path_and_query().map_or("/", |it| it.as_str()).to_owned(),
        })
    }
}

impl Target {
    /// With this path, if the URL has none.
    pub(crate) fn or_path(mut self, path: &str) -> Self {
        if self.resource == "/" {
            self.url = format!("{}{path}", self.url.trim_end_matches('/'));
            self.resource = path.to_owned();
        }
        self
    }

    /// With one more part of the query, such as `key=value`.
    pub(crate) fn and_query(mut self, part: &str) -> Self {
        let mark = if self.resource.contains('?') { '&' } else { '?' };
        for text in [&mut self.url, &mut self.resource] {
            text.push(mark);
            text.push_str(part);
        }
        self
    }

    /// The first address of the host.
    pub(crate) fn resolve(&self) -> Result<DialTarget, String> {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs();
        let first = addresses.map_err(|error| format!("{}: {error}", self.host))?.next();
        Ok(DialTarget {
            peer: first.ok_or_else(|| format!("{} has no address", self.host))?,
            host: self.authority.clone(),
            target: self.resource.clone(),
            headers: Vec::new(),
            tls: self.tls.then(|| self.host.clone()),
            resume: false,
            compression: false,
        })
    }
}

/// Addresses to connect from, as written by the user: `10.0.0.2,10.0.0.8-10.0.0.15`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sources(pub(crate) Vec<IpAddr>);

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in text.split(',') {
            let address = |text: &str| {
                let text = text.trim();
                text.parse::<IpAddr>().map_err(|_| format!("{text:?} is not an address"))
            };
            let Some((first, last)) = part.split_once('-') else {
                all.push(address(part)?);
                continue;
            };
            match (address(first)?, address(last)?) {
                (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                    let range = u32::from(first)..=u32::from(last);
                    all.extend(
                        range.take(SOURCES_MAX + 1).map(|ip| IpAddr::from(Ipv4Addr::from(ip))),
                    );
                }
                (IpAddr::V4(_), IpAddr::V4(_)) => return Err(format!("{part} runs backwards")),
                _ => return Err(format!("{part}: only IPv4 addresses make a range")),
            }
        }
        match all.len() {
            0..=SOURCES_MAX => Ok(Self(all)),
            _ => Err(format!("more than {SOURCES_MAX} addresses")),
        }
    }
}

/// The addresses to bind to, in turn. Empty: the kernel chooses, which is one address. `ports` is
/// how many connections the kernel may open from one address to one port.
pub(crate) fn plan_sources(
    asked: Option<&Sources>,
    peer: SocketAddr,
    connections: u32,
    ports: u32,
) -> Result<Vec<IpAddr>, String> {
    if let Some(Sources(asked)) = asked {
        return match asked.iter().find(|ip| ip.is_ipv4() != peer.is_ipv4()) {
            Some(ip) => Err(format!("source {ip} and target {peer} are of different families")),
            None => Ok(asked.clone()),
        };
    }
    let each = (ports / 8 * 3).clamp(1, PER_SOURCE);
    let needed = connections.div_ceil(each);
    if needed <= 1 || !peer.ip().is_loopback() || !peer.is_ipv4() {
        return Ok(Vec::new());
    }
    // All of 127/8 is this host (RFC 1122 section 3.2.1.3); .1 is left to others.
    let first = u32::from(Ipv4Addr::new(127, 0, 0, 2));
    Ok((0..needed).map(|n| Ipv4Addr::from(first + n).into()).collect())
}

/// The size of the kernel's range of ephemeral ports, from `net.ipv4.ip_local_port_range`.
pub(crate) fn parse_port_range(text: &str) -> Option<u32> {
    let mut numbers = text.split_whitespace().map(str::parse::<u32>);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (first <= last && last <= 65_535).then(|| last - first + 1)
}

/// Connections per source address. The kernel's range has 28,232 ports by default, of which connect
/// tries every second one first: once that half is used up, each connect walks all of it. Measured:
/// 20,000 connections took 6.9 s of processor time from one address and 1.0 s from two.
const PER_SOURCE: u32 = 10_000;

/// More would be a slip: a thousand addresses carry ten million connections.
const SOURCES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target: Target = "ws://localhost:9001/chat/x?y=1".parse().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("localhost", 9001));
        assert_eq!(target.resource, "/chat/x?y=1");
        assert_eq!(target.authority, "localhost:9001");
        let dial = "ws://[::1]".parse::<Target>().unwrap().resolve().unwrap();
        assert_eq!(dial.peer, "[::1]:80".parse().unwrap());
        assert_eq!((dial.host.as_str(), dial.target.as_str()), ("[::1]", "/"));
        assert_eq!(dial.tls, None);
        let dial = "wss://[::1]/".parse::<Target>().unwrap().resolve().unwrap();
        assert_eq!((dial.peer, dial.host.as_str()), ("[::1]:443".parse().unwrap(), "[::1]"));
        assert_eq!(dial.tls.as_deref(), Some("::1"));
    }

    #[test]
    fn paths_and_queries_are_added() {
        let target = |url: &str| url.parse::<Target>().unwrap().or_path("/a/b").and_query("k=v");
        for url in ["ws://host:1", "ws://host:1/", "ws://host:1/a/b"] {
            let target = target(url);
            assert_eq!(target.resource, "/a/b?k=v", "{url}");
            assert_eq!(target.url, "ws://host:1/a/b?k=v", "{url}");
        }
        assert_eq!(target("ws://host:1/x?y").resource, "/x?y&k=v");
    }

    #[test]
    fn other_urls_are_refused_with_a_reason() {
        for (url, reason) in [
            ("wss://example.org:70000/", "port"),
            ("http://localhost/", "ws://"),
            ("localhost:9001", "ws://"),
            ("ws://localhost/#x", "fragment"),
            ("ws://me@localhost/", "user name"),
            ("ws://localhost:70000/", "port"),
            ("ws:///x", ""),
            ("", ""),
        ] {
            let error = url.parse::<Target>().unwrap_err();
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    #[test]
    fn lists_and_ranges_of_sources() {
        let Sources(all) = "127.0.0.2-127.0.0.4, 10.0.0.1,::1".parse().unwrap();
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "10.0.0.1", "::1"]);
        for bad in ["", "x", "127.0.0.4-127.0.0.2", "::1-::2", "10.0.0.0-10.255.255.255"] {
            assert!(bad.parse::<Sources>().is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_gets_as_many_sources_as_it_needs() {
        let plan = |peer: &str, n| plan_sources(None, peer.parse().unwrap(), n, 28_232).unwrap();
        assert_eq!(plan("127.0.0.1:9001", 10_000).len(), 0);
        assert_eq!(plan("127.0.0.1:9001", 100_000).len(), 10);
        assert_eq!(plan("127.0.0.1:9001", 100_000)[0], IpAddr::from([127, 0, 0, 2]));
        assert_eq!(plan("10.1.2.3:9001", 100_000).len(), 0);
        let asked: Sources = "::1".parse().unwrap();
        assert!(plan_sources(Some(&asked), "127.0.0.1:1".parse().unwrap(), 1, 28_232).is_err());
    }

    #[test]
    fn the_port_range_of_the_kernel() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(28_232));
        assert_eq!(parse_port_range("60999 32768"), None);
        assert_eq!(parse_port_range(""), None);
    }
}
