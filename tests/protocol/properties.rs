//! Properties of the protocol layer over random inputs.
//!
//! The decoder is compared with a second, naive implementation (`support/model.rs`) for any stream
//! cut in any way. The handshake parsers are compared with themselves: at once, and a byte at a
//! time.

use proptest::collection::vec;
use proptest::prelude::*;
use ringhold::protocol::frame::{self, Opcode};
use ringhold::protocol::utf8::Utf8;
use ringhold::protocol::{Decoder, Deflater, Kind, Role, mask};

use crate::entries::model::{self, End, Outcome, Seen};

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    let bytes = prop_oneof![1..4_usize, 0..40_usize, 0..3_000_usize, 0..200_000_usize];
    vec(bytes, 1..8)
}

/// Lengths around those at which headers grow, and some of any size.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..20_usize,
        2 => 120..130_usize,
        1 => 65_530..65_540_usize,
        1 => 0..100_000_usize,
    ]
}

/// The second byte of a header without its mask bit.
fn short_length() -> impl Strategy<Value = u8> {
    prop_oneof![4 => 0..126_u8, 1 => Just(126_u8), 1 => Just(127_u8)]
}

/// Text that is mostly valid, in which the bad bytes sit anywhere.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => "[a-z]{1,40}".prop_map(String::into_bytes),
        8 => any::<char>().prop_map(|char| char.to_string().into_bytes()),
        1 => vec(0x80..=0xff_u8, 1..4),
    ];
    vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

/// Whether it is a ping, and its payload.
type Control = (bool, Vec<u8>);

/// A message in fragments with control frames between them, as its peer would write it.
#[derive(Clone, Debug)]
struct Message {
    kind: Kind,
    payload: Vec<u8>,
    /// Where it is cut, and what stands there.
    cuts: Vec<(prop::sample::Index, Option<Control>)>,
    mask: [u8; 4],
}

fn message() -> impl Strategy<Value = Message> {
    let binary = length().prop_map(|len| (0..len).map(|i| (i * 31) as u8).collect());
    let payload = prop_oneof![
        2 => vec(any::<char>(), 0..50).prop_map(|text| {
            (Kind::Text, text.into_iter().collect::<String>().into_bytes())
        }),
        1 => length().prop_map(|len| (Kind::Text, "añ∂🦀".repeat(len / 10).into_bytes())),
        3 => binary.prop_map(|bytes: Vec<u8>| (Kind::Binary, bytes)),
    ];
    let control = prop::option::of((any::<bool>(), vec(any::<u8>(), 0..=125)));
    let cuts = vec((any::<prop::sample::Index>(), control), 0..4);
    (payload, cuts, any::<[u8; 4]>()).prop_map(|((kind, payload), cuts, mask)| Message {
        kind,
        payload,
        cuts,
        mask,
    })
}

impl Message {
    fn write(&self, role: Role, stream: &mut Vec<u8>, events: &mut Vec<Seen>) {
        let len = self.payload.len();
        let mut cuts: Vec<_> = self.cuts.iter().map(|(at, it)| (at.index(len + 1), it)).collect();
        cuts.sort();
        let mut opcode = match self.kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        let mut start = 0;
        for (cut, control) in cuts {
            model::put(stream, role, false, opcode, self.mask, &self.payload[start..cut]);
            (start, opcode) = (cut, Opcode::Continuation);
            if let Some((ping, bytes)) = control {
                let opcode = if *ping { Opcode::Ping } else { Opcode::Pong };
                model::put(stream, role, true, opcode, self.mask, bytes);
                let seen = if *ping { Seen::Ping } else { Seen::Pong };
                events.push(seen(bytes.clone()));
            }
        }
        model::put(stream, role, true, opcode, self.mask, &self.payload[start..]);
        events.push(Seen::Message(self.kind, self.payload.clone()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// What is written is read, however it is cut.
    #[test]
    fn decode_inverts_encode(
        role in role(),
        messages in vec(message(), 1..4),
        close in prop::option::of("[a-zà-ü]{0,60}"),
        plan in pieces(),
    ) {
        let (mut stream, mut events) = (Vec::new(), Vec::new());
        for message in &messages {
            message.write(role, &mut stream, &mut events);
        }
        let mut end = End::Idle;
        if let Some(reason) = close {
            let payload = [&1001_u16.to_be_bytes(), reason.as_bytes()].concat();
            model::put(&mut stream, role, true, Opcode::Close, [9, 8, 7, 6], &payload);
            events.push(Seen::Close(1001, reason));
            end = End::Closed;
        }
        let decoder = Decoder { role, max_message: 1 << 20, max_fragments: 5 };
        let (outcome, _) = model::run(&decoder, false, &stream, &plan);
        prop_assert_eq!(outcome, Outcome { events, end });
    }

    /// The same with one byte changed or the end missing: the naive decoder knows what it means.
    #[test]
    fn damaged_streams_fail_alike(
        role in role(),
        messages in vec(message(), 1..4),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        keep in any::<prop::sample::Index>(),
        limits in (1..100_000_usize, 1..5_u32),
        plan in pieces(),
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            message.write(role, &mut stream, &mut Vec::new());
        }
        if let Some((at, byte)) = damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream.truncate(keep.index(stream.len() + 1));
        let decoder = Decoder { role, max_message: limits.0, max_fragments: limits.1 };
        model::check(&decoder, false, &stream, &plan);
        model::check(&decoder, true, &stream, &plan);
    }

    /// The limit of bytes is exact, over fragments and whatever came before.
    #[test]
    fn limits_are_exact(
        role in role(),
        messages in vec(message(), 1..3),
        slack in 0..3_usize,
        plan in pieces(),
    ) {
        let longest = messages.iter().map(|message| message.payload.len()).max().unwrap_or(0);
        let mut stream = Vec::new();
        for message in &messages {
            message.write(role, &mut stream, &mut Vec::new());
        }
        let max_message = (longest + slack).saturating_sub(1);
        let decoder = Decoder { role, max_message, max_fragments: 5 };
        model::check(&decoder, false, &stream, &plan);
    }

    /// Text with bad bytes, in frames and pieces: the fault comes with the first bad byte.
    #[test]
    fn bad_text_fails_in_its_piece(
        role in role(),
        text in text(),
        cut in any::<prop::sample::Index>(),
        plan in pieces(),
    ) {
        let (a, b) = text.split_at(cut.index(text.len() + 1));
        let mut stream = Vec::new();
        model::put(&mut stream, role, false, Opcode::Text, [1, 2, 3, 4], a);
        model::put(&mut stream, role, true, Opcode::Continuation, [5, 6, 7, 8], b);
        model::put(&mut stream, role, true, Opcode::Text, [1, 2, 3, 4], &text);
        let decoder = Decoder { role, max_message: 1 << 20, max_fragments: 5 };
        model::check(&decoder, false, &stream, &plan);
    }

    /// Incremental UTF-8 is `std::str::from_utf8` of the whole, decided as early as can be.
    #[test]
    fn utf8_in_chunks(text in text(), sizes in vec(0..50_usize, 1..6)) {
        let bad = |end: usize| {
            std::str::from_utf8(&text[..end]).is_err_and(|error| error.error_len().is_some())
        };
        let (mut utf8, mut at) = (Utf8::default(), 0_usize);
        for size in sizes.iter().chain([&usize::MAX]) {
            let end = text.len().min(at.saturating_add(*size));
            prop_assert_eq!(utf8.push(&text[at..end]).is_err(), bad(end));
            if bad(end) {
                return Ok(());
            }
            at = end;
        }
        prop_assert_eq!(utf8.finish().is_ok(), std::str::from_utf8(&text).is_ok());
    }

    /// Masking is its own inverse, and in pieces what it is at once.
    #[test]
    fn masking(
        bytes in vec(any::<u8>(), 0..3_000),
        key: [u8; 4],
        offset in 0..9_usize,
        cut: usize,
    ) {
        let expected: Vec<u8> =
            bytes.iter().enumerate().map(|(i, byte)| byte ^ key[(offset + i) % 4]).collect();
        let mut masked = bytes.clone();
        let cut = cut % (bytes.len() + 1);
        let (a, b) = masked.split_at_mut(cut);
        mask::apply(a, key, offset);
        mask::apply(b, key, offset + cut);
        prop_assert_eq!(&masked, &expected);
        mask::apply(&mut masked, key, offset);
        prop_assert_eq!(&masked, &bytes);
        let mut appended = Vec::new();
        frame::append(&mut appended, Opcode::Binary, &bytes, Some(key));
        mask::apply(&mut masked, key, 0);
        prop_assert!(appended.ends_with(&masked));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Arbitrary bytes mean the same to both decoders, for both roles.
    #[test]
    fn arbitrary_bytes(data in vec(any::<u8>(), 0..400)) {
        crate::entries::frames(&data);
    }

    /// Arbitrary bytes behind plausible headers go deeper.
    #[test]
    fn plausible_bytes(
        settings: [u8; 5],
        frames in vec((0..12_u8, short_length(), 0..9_usize, vec(any::<u8>(), 0..140)), 0..6),
    ) {
        let mut data = settings.to_vec();
        data[0] &= !4;
        for (first, second, zeroes, bytes) in frames {
            data.extend([first | (second & 1) << 7, second | (!settings[0] & 1) << 7]);
            data.extend(&[0; 9][..zeroes * (second >= 126) as usize]);
            data.extend(bytes);
        }
        crate::entries::frames(&data);
    }

    /// Arbitrary bytes and damaged heads get one answer from the server's half...
    #[test]
    fn arbitrary_requests(
        limit: u8,
        junk in vec(any::<u8>(), 0..60),
        damage in vec((any::<prop::sample::Index>(), prop_oneof![
            any::<u8>(),
            Just(b'\r'), Just(b'\n'), Just(b' '), Just(b','), Just(b':'), Just(0), Just(0x7f),
        ]), 0..3),
    ) {
        crate::entries::handshake(&[&[limit][..], &junk].concat());
        let mut head = REQUEST.to_vec();
        for (at, byte) in damage {
            let at = at.index(head.len());
            head[at] = byte;
        }
        crate::entries::handshake(&[&[255], &head[..]].concat());
        crate::entries::handshake(&[&[limit], &head[..]].concat());
    }

    /// What stands in an offer may be anything, an answer is never more than was offered.
    #[test]
    fn arbitrary_offers(junk in vec(any::<u8>(), 0..60), words in vec(0..OFFERED.len(), 0..12)) {
        crate::entries::extensions(&junk);
        let line: String = words.into_iter().map(|word| OFFERED[word]).collect();
        crate::entries::extensions(line.as_bytes());
    }

    /// Before the request, from a proxy: bytes of any kind, and headers that are nearly right.
    #[test]
    fn arbitrary_proxy_headers(
        junk in vec(any::<u8>(), 0..80),
        second: bool,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut header = match second {
            false => b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n".to_vec(),
            // TCP over IPv4, with two bytes behind the addresses.
            true => [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0e"[..], &[1; 14]].concat(),
        };
        header.extend_from_slice(&junk);
        for (at, byte) in damage {
            let at = at.index(header.len());
            header[at] = byte;
        }
        crate::entries::proxy_header(&header);
        crate::entries::proxy_header(&junk);
    }

    /// ... and from the client's.
    #[test]
    fn arbitrary_responses(
        limit: u8,
        junk in vec(any::<u8>(), 0..60),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        crate::entries::client_response(&[&[limit][..], &junk].concat());
        let mut head = RESPONSE.to_vec();
        for (at, byte) in damage {
            let at = at.index(head.len());
            head[at] = byte;
        }
        crate::entries::client_response(&[&[limit], &head[..]].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Arbitrary bytes, and damaged messages, mean to our inflater what they mean to C zlib.
    #[test]
    fn arbitrary_compressed_messages(
        limit: [u8; 2],
        junk in vec(any::<u8>(), 0..60),
        text in "[a-f]{0,300}",
        level in 0..10_u8,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        crate::entries::inflate(&[&limit[..], &junk].concat());
        let mut data = limit.to_vec();
        let _ = Deflater::new(level).deflate(text.as_bytes(), 15, &mut data);
        data.extend_from_slice(&junk);
        for (at, byte) in damage {
            let at = 2 + at.index(data.len() - 1);
            if at < data.len() {
                data[at] = byte;
            }
        }
        crate::entries::inflate(&data);
    }
}

const OFFERED: [&str; 18] = [
    "permessage-deflate",
    "permessage-deflate",
    "server_no_context_takeover",
    "client_no_context_takeover",
    "server_max_window_bits",
    "client_max_window_bits",
    "; ",
    ";",
    ";",
    ", ",
    "=",
    "=",
    "8",
    "15",
    "\"10\"",
    "\"",
    "\\",
    "\n",
];

const REQUEST: &[u8] = b"GET /chat?a=b HTTP/1.1\r\nHost: a:1\r\nUpgrade: websocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: http://a\r\nSec-WebSocket-Protocol: x, y\r\nSec-WebSocket-Version: 13\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: chat\r\n\r\n";
