//! `X-Forwarded-For`: whom a chain of proxies says it speaks for.
//!
//! Each proxy appends the address it was connected from, so a client chooses what stands on the
//! left and the nearest proxy what stands last. Owns the walk from the right to the first address
//! that is not itself a trusted proxy's. Never decides whether the header is to be believed at all:
//! that depends on who sent it. The invariant: what a client writes is reached only through
//! entries that trusted proxies have written.

use core::net::{IpAddr, SocketAddr};

use super::head;
use super::network::Network;

/// The address that a chain of trusted proxies names: the rightmost one that is not trusted, or the
/// leftmost one if all are. `values` are the header's lines in order.
///
/// An entry may have a port, which is 0 where there is none. At an entry that is no address
/// (`unknown`, a made-up name) the walk ends, and the result is the entry to the right of it, a
/// proxy. `None`: nobody is named.
pub fn client<'a>(
    values: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &[Network],
) -> Option<SocketAddr> {
    let mut found = None;
    for value in values.rev() {
        // A proxy's entry is ASCII; what is not UTF-8 is some client's, and reached last.
        for entry in value.rsplit(|&byte| byte == b',') {
            let entry = head::trim(core::str::from_utf8(entry).unwrap_or("?"));
            if entry.is_empty() {
                continue;
            }
            let Some(address) = address(entry) else { return found };
            found = Some(address);
            if !is_trusted(trusted, address.ip()) {
                return found;
            }
        }
    }
    found
}

/// Whether an address is one of these.
pub fn is_trusted(trusted: &[Network], ip: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(ip))
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn address(entry: &str) -> Option<SocketAddr> {
    if let Ok(ip) = entry.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip.to_canonical(), 0));
    }
    if let Ok(address) = entry.parse::<SocketAddr>() {
        return Some(SocketAddr::new(address.ip().to_canonical(), address.port()));
    }
    let inner = entry.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse().ok().map(|ip: core::net::Ipv6Addr| SocketAddr::new(ip.to_canonical(), 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> Vec<Network> {
        ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec()
    }

    fn found(lines: &[&str]) -> Option<String> {
        let lines = lines.iter().map(|line| line.as_bytes());
        client(lines, &trusted()).map(|address| match address.port() {
            0 => address.ip().to_string(),
            _ => address.to_string(),
        })
    }

    #[test]
    fn the_rightmost_that_is_not_a_proxy() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (&[""], None),
            (&[" , ,"], None),
            (&["192.0.2.1"], Some("192.0.2.1")),
            // What a client had put there.
            (&["203.0.113.9, 192.0.2.1"], Some("192.0.2.1")),
            (&["203.0.113.9", "192.0.2.1"], Some("192.0.2.1")),
            (&["10.0.0.9, 192.0.2.1"], Some("192.0.2.1")),
            // A chain of proxies.
            (&["203.0.113.9, 192.0.2.1, 10.0.0.7"], Some("192.0.2.1")),
            (&["203.0.113.9, 192.0.2.1,", "10.0.0.7", " 10.0.0.8 "], Some("192.0.2.1")),
            // The client is inside.
            (&["10.0.0.9, 10.0.0.7"], Some("10.0.0.9")),
            // What is no address ends the walk at the proxy that wrote it.
            (&["unknown"], None),
            (&["192.0.2.1, unknown, 10.0.0.7"], Some("10.0.0.7")),
            (&["192.0.2.1, _hidden"], None),
            (&["192.0.2.1, 192.0.2.300"], None),
            (&["192.0.2.1, \u{e9}"], None),
            // Ports and brackets.
            (&["192.0.2.1:4711"], Some("192.0.2.1:4711")),
            (&["2001:db8::1"], Some("2001:db8::1")),
            (&["[2001:db8::1]"], Some("2001:db8::1")),
            (&["[2001:db8::1]:4711, fd00::1"], Some("[2001:db8::1]:4711")),
            (&["192.0.2.1, ::ffff:10.0.0.7"], Some("192.0.2.1")),
            (&["::ffff:192.0.2.1"], Some("192.0.2.1")),
        ];
        for (lines, expected) in cases {
            assert_eq!(found(lines).as_deref(), *expected, "{lines:?}");
        }
        assert_eq!(client([&b"192.0.2.1, \xff"[..]].into_iter(), &trusted()), None);
    }

    proptest! {
        /// Whatever a client sends, one trusted proxy that appends decides.
        #[test]
        fn a_client_cannot_choose(forged in prop::collection::vec("[ -~]{0,40}", 0..4)) {
            let mut lines: Vec<&str> = forged.iter().map(String::as_str).collect();
            lines.push("192.0.2.7");
            let expected = Some("192.0.2.7".to_owned());
            prop_assert_eq!(found(&lines), expected.clone());
            let appended = format!("{}, 192.0.2.7, 10.1.1.1", forged.join(","));
            prop_assert_eq!(found(&[&appended]), expected);
        }

        #[test]
        fn any_bytes_will_do(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = client(bytes.split(|&byte| byte == b'\n'), &trusted());
        }
    }
}
