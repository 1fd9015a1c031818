//! Blocks of addresses, as in a list of trusted proxies: `10.0.0.0/8`, `2001:db8::/32`, or a single
//! address.
//!
//! Owns how a block is written (RFC 4632 section 3.1, RFC 4291 section 2.3) and what lies in it.
//! Never asks a name server. The invariant: the two families stay apart, and an IPv4 address is the
//! same one in its form mapped to IPv6 (RFC 4291 section 2.5.5.2).

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// A block of addresses of one family. At least one bit of its prefix is given: a list of who is
/// trusted that names everybody is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// Text that names no block; says what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadNetwork(String);

impl Network {
    /// Whether an address lies in the block.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let prefix = |ip: u128, width: u8| ip >> (width - self.bits);
        match (self.first, ip.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => {
                prefix(first.to_bits().into(), 32) == prefix(ip.to_bits().into(), 32)
            }
            (IpAddr::V6(first), IpAddr::V6(ip)) => {
                prefix(first.to_bits(), 128) == prefix(ip.to_bits(), 128)
            }
            _ => false,
        }
    }
}

impl From<IpAddr> for Network {
    /// The block of a single address.
    fn from(ip: IpAddr) -> Self {
        let first = ip.to_canonical();
        Self { first, bits: if first.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let wrong = |what: String| Err(BadNetwork(format!("\"{text}\" {what}")));
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let Ok(written) = ip.parse::<IpAddr>() else {
            return wrong("is no address or block: write 10.0.0.1, 10.0.0.0/8 or fd00::/8".into());
        };
        let Some(bits) = bits else { return Ok(written.into()) };
        let width: u8 = if written.is_ipv4() { 32 } else { 128 };
        // No sign, no leading zeros: such are accepted by some and not by others.
        let plain = bits.bytes().all(|byte| byte.is_ascii_digit()) && !bits.starts_with('0');
        let bits = match bits.parse::<u8>() {
            Ok(bits) if plain && bits <= width => bits,
            _ if bits == "0" => return wrong("is everybody: name the proxies".into()),
            _ => return wrong(format!("has a prefix that is no number from 1 to {width}")),
        };
        let mut block = Self { first: written.to_canonical(), bits };
        if written.is_ipv6() && block.first.is_ipv4() {
            // A mapped block is one of IPv4, if it has no others in it.
            match bits.checked_sub(96) {
                Some(bits) if bits > 0 => block.bits = bits,
                _ => return wrong("holds more than one family: write IPv4 blocks as IPv4".into()),
            }
        }
        let width = if block.first.is_ipv4() { 32 } else { 128 };
        let value = match block.first {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let rest = (1_u128 << (width - block.bits)) - 1;
        if value & rest != 0 {
            return wrong(format!("has bits behind its prefix of {}", block.bits));
        }
        Ok(block)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.bits) {
            (IpAddr::V4(ip), 32) => ip.fmt(f),
            (IpAddr::V6(ip), 128) => ip.fmt(f),
            (ip, bits) => write!(f, "{ip}/{bits}"),
        }
    }
}

impl fmt::Display for BadNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for BadNetwork {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn what_lies_in_a_block() {
        let cases = [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.255.0.1", true),
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("128.0.0.0/1", "255.0.0.0", true),
            ("128.0.0.0/1", "127.255.255.255", false),
            ("10.0.0.4/31", "10.0.0.5", true),
            ("10.0.0.4/31", "10.0.0.6", false),
            ("10.0.0.4/32", "10.0.0.5", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("8000::/1", "ffff::", true),
            ("8000::/1", "7fff::", false),
            ("::1", "::1", true),
            ("::1", "::2", false),
            // The families are apart.
            ("2000::/3", "32.0.0.1", false),
            ("32.0.0.0/3", "2000::", false),
        ];
        for (block, ip, inside) in cases {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(network(block).contains(ip), inside, "{block} {ip}");
        }
    }

    #[test]
    fn what_is_no_block() {
        let cases = [
            ("", "no address"),
            ("proxy.example.org", "no address"),
            ("10.0.0", "no address"),
            ("010.0.0.1", "no address"),
            ("10.0.0.1:80", "no address"),
            (" 10.0.0.1", "no address"),
            ("10.0.0.0/", "prefix"),
            ("10.0.0.0/33", "from 1 to 32"),
            ("10.0.0.0/+8", "from 1 to 32"),
            ("10.0.0.0/08", "from 1 to 32"),
            ("10.0.0.0/255.0.0.0", "from 1 to 32"),
            ("10.0.0.0/8/8", "from 1 to 32"),
            ("fd00::/129", "from 1 to 128"),
            ("0.0.0.0/0", "everybody"),
            ("::/0", "everybody"),
            ("10.0.0.1/8", "behind its prefix"),
            ("fd00::1/8", "behind its prefix"),
            ("::ffff:0.0.0.0/96", "more than one family"),
            ("::ffff:0.0.0.0/90", "more than one family"),
        ];
        for (text, why) in cases {
            let error = text.parse::<Network>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.contains(&format!("\"{text}\"")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn blocks_are_written_as_they_are_read(ip: u128, v4: bool, bits in 1_u8..=128) {
            let width = if v4 { 32 } else { 128 };
            let bits = (bits - 1) % width + 1;
            let value = (ip & (u128::MAX >> (128 - width))) >> (width - bits) << (width - bits);
            let first = match v4 {
                true => IpAddr::V4((value as u32).into()),
                false => IpAddr::V6(value.into()),
            };
            // A mapped address is one of IPv4, which the cases above are about.
            prop_assume!(first.to_canonical() == first);
            let block = network(&format!("{first}/{bits}"));
            prop_assert_eq!(network(&block.to_string()), block);
            prop_assert!(block.contains(first));
            let flip = 1_u128 << (width - bits);
            let outside = match v4 {
                true => IpAddr::V4(((value ^ flip) as u32).into()),
                false => IpAddr::V6((value ^ flip).into()),
            };
            prop_assert!(!block.contains(outside));
        }

        #[test]
        fn no_text_is_too_much(text in "[0-9a-f:./]{0,50}|.{0,20}") {
            let _ = text.parse::<Network>();
        }
    }
}
