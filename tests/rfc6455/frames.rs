//! Data framing, masking, fragmentation, UTF-8 and control frames as RFC 6455 sections 5, 8.1 and
//! 10.4 demand them of a server, one test per rule.
//!
//! Method: raw sockets send frames with any header bits, cut anywhere. What is legal must come back
//! as a message of the same kind and bytes; what is not must fail the connection with the right
//! close code as soon as the first wrong byte is there, and end it by FIN. After each test the
//! server still has to echo.

use crate::support::client::Client;
use crate::support::server::{Server, serve};
use crate::support::wire::{
    BINARY, CONTINUATION, FIN, Length, MASK, PING, PONG, RSV1, RSV2, RSV3, TEXT,
};
use crate::support::wire::{close_payload, frame, header, masked};

/// `len` bytes that differ from their neighbours and from the same place of another message.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16) ^ len) as u8).collect()
}

/// Sends bytes on a connection of their own that must fail it with this code.
#[track_caller]
fn fails(server: &Server, bytes: &[u8], code: u16) {
    eprintln!("must fail with {code}: {:02x?}", &bytes[..bytes.len().min(64)]);
    let mut client = Client::open(server);
    client.send(bytes);
    client.expect_failure(code);
}

/// Sends bytes on a connection of their own that must be echoed as one message.
#[track_caller]
fn echoes(server: &Server, bytes: &[u8], first: u8, payload: &[u8]) {
    let mut client = Client::open(server);
    client.send(bytes);
    client.expect_frame(first, payload);
    client.close(1000);
}

/// Section 5.2: the three lengths, around each of their borders, text and binary.
#[test]
fn section_5_2_lengths() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        for len in [0, 1, 2, 3, 4, 124, 125, 126, 127, 128, 1000, 65_534, 65_535, 65_536, 65_537] {
            let bytes = pattern(len);
            client.send_frame(FIN | BINARY, &bytes);
            client.expect_frame(FIN | BINARY, &bytes);
            let text = "*".repeat(len);
            client.send_frame(FIN | TEXT, text.as_bytes());
            client.expect_frame(FIN | TEXT, text.as_bytes());
        }
        client.close(1000);
    });
}

/// Section 5.4: messages come back in their order, also those that came in one piece and go back in
/// one, of any length, in fragments, and with control frames between them.
#[test]
fn section_5_4_messages_that_come_together_keep_their_order() {
    let lengths = [0, 1, 5, 125, 126, 256, 257, 3, 1000, 2, 0, 70_000, 4, 255, 16_384, 9];
    serve(&[], |server| {
        let mut client = Client::open(server);
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        for at in 0..3 * lengths.len() {
            let bytes = pattern(lengths[at % lengths.len()]);
            let (start, rest) = bytes.split_at(bytes.len() / 3);
            match at % 5 {
                0 => {
                    sent.extend(frame(BINARY, start));
                    sent.extend(frame(FIN | CONTINUATION, rest));
                }
                _ => sent.extend(frame(FIN | BINARY, &bytes)),
            }
            expected.push((FIN | BINARY, bytes));
            if at % 7 == 3 {
                let stamp = vec![at as u8; at];
                sent.extend(frame(FIN | PING, &stamp));
                expected.push((FIN | PONG, stamp));
            }
        }
        client.send(&sent);
        for (first, payload) in &expected {
            client.expect_frame(*first, payload);
        }
        client.close(1000);
    });
}

/// Section 5.2: "the minimal number of bytes must be used to encode the length".
#[test]
fn section_5_2_length_must_be_minimal() {
    serve(&[], |server| {
        for len in [0, 1, 125] {
            fails(server, &header(FIN | BINARY, Length::Bits16(len), Some(MASK)), 1002);
            fails(server, &header(FIN | PING, Length::Bits16(len), Some(MASK)), 1002);
        }
        for len in [0, 125, 126, 65_535] {
            fails(server, &header(FIN | BINARY, Length::Bits64(len), Some(MASK)), 1002);
        }
    });
}

/// Section 5.2: "the most significant bit must be 0" of a 64-bit length.
#[test]
fn section_5_2_length_top_bit() {
    serve(&[], |server| {
        for len in [1 << 63, (1 << 63) + 70_000, u64::MAX] {
            fails(server, &header(FIN | BINARY, Length::Bits64(len), Some(MASK)), 1002);
        }
    });
}

/// Section 5.2: reserved bits must be 0 without an extension, on every kind of frame.
#[test]
fn section_5_2_reserved_bits() {
    serve(&[], |server| {
        for bits in [RSV1, RSV2, RSV3, RSV1 | RSV2, RSV1 | RSV2 | RSV3] {
            fails(server, &frame(FIN | bits | TEXT, b"x"), 1002);
            fails(server, &frame(bits | BINARY, b"x"), 1002);
            fails(server, &frame(FIN | bits | PING, b"x"), 1002);
            let later = [frame(TEXT, b"x"), frame(FIN | bits | CONTINUATION, b"x")].concat();
            fails(server, &later, 1002);
        }
    });
}

/// Section 5.2: opcodes 3 to 7 and 11 to 15 are reserved.
#[test]
fn section_5_2_reserved_opcodes() {
    serve(&[], |server| {
        for opcode in (0x3..=0x7).chain(0xb..=0xf) {
            fails(server, &frame(FIN | opcode, b""), 1002);
            fails(server, &frame(FIN | opcode, b"payload"), 1002);
            fails(server, &[frame(TEXT, b"x"), frame(FIN | opcode, b"y")].concat(), 1002);
        }
    });
}

/// Sections 5.2 and 7.1.7: a wrong first byte, or second, is answered without what would follow.
#[test]
fn section_5_2_wrong_header_is_seen_at_its_first_bytes() {
    serve(&[], |server| {
        fails(server, &[FIN | RSV1 | TEXT, 0xff], 1002);
        fails(server, &[FIN | 0x3, 0xff], 1002);
        fails(server, &[FIN | TEXT, 0x05], 1002);
        fails(server, &[FIN | PING, 0xfe], 1002);
        fails(server, &[PING, 0x80], 1002);
        fails(server, &[FIN | CONTINUATION, 0x80], 1002);
    });
}

/// Section 5.1: a client's frames are masked, each of them.
#[test]
fn section_5_1_unmasked_frames() {
    serve(&[], |server| {
        for first in [FIN | TEXT, FIN | BINARY, TEXT, FIN | PING, FIN | PONG] {
            fails(server, &header(first, Length::Bits7(0), None), 1002);
            let bare = [&header(first, Length::Bits7(5), None)[..], b"hello"].concat();
            fails(server, &bare, 1002);
        }
        let close = [&header(FIN | 0x8, Length::Bits7(2), None)[..], &[3, 232]].concat();
        fails(server, &close, 1002);
        let later = [frame(TEXT, b"x"), header(FIN, Length::Bits7(0), None)].concat();
        fails(server, &later, 1002);
    });
}

/// Section 5.3: any masking key, at any alignment; a key of zeros is a key.
#[test]
fn section_5_3_masking_keys() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        for key in [[0; 4], [255; 4], [1, 0, 0, 0], [0, 0, 0, 1], [0x81, 0x85, 0x88, 0x8a]] {
            let mut bytes = Vec::new();
            for len in (0..70).chain([1000, 4099]) {
                bytes.extend(header(FIN | BINARY, Length::shortest(len), Some(key)));
                bytes.extend(masked(&pattern(len), key));
            }
            client.send(&bytes);
            for len in (0..70).chain([1000, 4099]) {
                client.expect_frame(FIN | BINARY, &pattern(len));
            }
        }
        client.close(1000);
    });
}

/// Section 5.4: a message may come in fragments of any size, also of none.
#[test]
fn section_5_4_fragments() {
    serve(&[], |server| {
        for (kind, pieces) in [
            (TEXT, vec!["Hel", "lo"]),
            (TEXT, vec!["", "", "a", "", ""]),
            (TEXT, vec!["", ""]),
            (BINARY, vec!["", "b"]),
            (BINARY, vec!["b", ""]),
            (BINARY, vec!["a", "b", "c", "d", "e", "f", "g", "h", "i"]),
        ] {
            let last = pieces.len() - 1;
            let frames = pieces.iter().enumerate().map(|(at, piece)| {
                let opcode = if at == 0 { kind } else { CONTINUATION };
                frame(opcode | if at == last { FIN } else { 0 }, piece.as_bytes())
            });
            let bytes: Vec<u8> = frames.flatten().collect();
            echoes(server, &bytes, FIN | kind, pieces.concat().as_bytes());
        }
    });
}

/// Section 5.4: long fragments whose borders lie anywhere.
#[test]
fn section_5_4_fragments_of_many_sizes() {
    serve(&[], |server| {
        let whole = pattern(300_000);
        for size in [1021, 4096, 16_384, 65_535, 65_536, 100_000, 299_999] {
            let mut bytes = Vec::new();
            let mut opcode = BINARY;
            for piece in whole.chunks(size) {
                bytes.extend(frame(opcode, piece));
                opcode = CONTINUATION;
            }
            bytes.extend(frame(FIN | CONTINUATION, b""));
            echoes(server, &bytes, FIN | BINARY, &whole);
        }
    });
}

/// Section 5.4: 65,537 fragments of one byte make one message.
#[test]
fn section_5_4_fragments_65537() {
    serve(&[], |server| {
        let whole = pattern(65_537);
        let mut bytes = frame(BINARY, &whole[..1]);
        for byte in &whole[1..65_536] {
            bytes.extend(frame(CONTINUATION, &[*byte]));
        }
        bytes.extend(frame(FIN | CONTINUATION, &whole[65_536..]));
        echoes(server, &bytes, FIN | BINARY, &whole);
    });
}

/// Section 10.4: the number of fragments is limited; 131,072 are allowed and one more is not,
/// however small they are.
#[test]
fn section_10_4_fragment_limit() {
    serve(&[], |server| {
        let mut bytes = frame(BINARY, b"");
        bytes.extend(frame(CONTINUATION, b"").repeat(131_070));
        let most = [bytes.clone(), frame(FIN | CONTINUATION, b"end")].concat();
        echoes(server, &most, FIN | BINARY, b"end");
        bytes.extend(frame(CONTINUATION, b"").repeat(2));
        fails(server, &bytes, 1009);
    });
}

/// Section 5.4: a continuation needs something to continue.
#[test]
fn section_5_4_lone_continuation() {
    serve(&[], |server| {
        fails(server, &frame(FIN | CONTINUATION, b"x"), 1002);
        fails(server, &frame(CONTINUATION, b"x"), 1002);
        let mut client = Client::open(server);
        client.send(&[frame(TEXT, b"a"), frame(FIN | CONTINUATION, b"b")].concat());
        client.expect_frame(FIN | TEXT, b"ab");
        client.send_frame(FIN | CONTINUATION, b"c");
        client.expect_failure(1002);
    });
}

/// Section 5.4: the fragments of one message are not interleaved with another message.
#[test]
fn section_5_4_interleaved_messages() {
    serve(&[], |server| {
        for first in [TEXT, BINARY] {
            for second in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
                fails(server, &[frame(first, b"a"), frame(second, b"b")].concat(), 1002);
            }
        }
    });
}

/// Section 5.4: control frames may come between fragments and are answered there.
#[test]
fn section_5_4_control_frames_between_fragments() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        client.send_frame(TEXT, b"one, ");
        client.send_frame(FIN | PING, b"first");
        client.expect_frame(FIN | PONG, b"first");
        client.send_frame(CONTINUATION, b"two, ");
        client.send_frame(FIN | PONG, b"unsolicited");
        client.send_frame(FIN | PING, b"");
        client.expect_frame(FIN | PONG, b"");
        client.send_frame(FIN | CONTINUATION, b"three");
        client.expect_frame(FIN | TEXT, b"one, two, three");
        client.close(1000);

        // In one piece the pong may come before or after the message.
        let mut client = Client::open(server);
        client.send(&[frame(TEXT, b"a"), frame(FIN | PING, b"p"), frame(FIN, b"b")].concat());
        client.expect_messages_and_pongs(&[(FIN | TEXT, b"ab")], &[b"p"]);
        client.close(1000);
    });
}

/// Section 5.5.1: the close handshake may start between the fragments of a message.
#[test]
fn section_5_4_close_between_fragments() {
    serve(&[], |server| {
        let client = Client::open(server);
        client.send_frame(TEXT, b"never ends");
        client.close(1000);
    });
}

/// Section 5.5: control frames carry at most 125 bytes.
#[test]
fn section_5_5_control_frame_length() {
    serve(&[], |server| {
        for opcode in [PING, PONG, 0x8] {
            fails(server, &frame(FIN | opcode, &[b'x'; 126]), 1002);
            fails(server, &header(FIN | opcode, Length::Bits16(1000), Some(MASK)), 1002);
            fails(server, &header(FIN | opcode, Length::Bits64(70_000), Some(MASK)), 1002);
        }
    });
}

/// Section 5.5: control frames are not fragmented.
#[test]
fn section_5_5_control_frames_are_not_fragmented() {
    serve(&[], |server| {
        for opcode in [PING, PONG, 0x8] {
            fails(server, &frame(opcode, b""), 1002);
            fails(server, &frame(opcode, &close_payload(1000, b"")), 1002);
            fails(server, &[frame(TEXT, b"x"), frame(opcode, b"")].concat(), 1002);
        }
    });
}

/// Sections 5.5.2 and 5.5.3: a pong carries the payload of its ping, of each length 0 to 125.
#[test]
fn section_5_5_3_pong_payloads() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        for len in 0..=125 {
            client.send_frame(FIN | PING, &pattern(len));
            client.expect_frame(FIN | PONG, &pattern(len));
        }
        client.close(1000);
    });
}

/// Section 5.5.3: of many pings sent at once, at least the last is answered, each pong once.
#[test]
fn section_5_5_3_many_pings_at_once() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        let pings: Vec<u8> =
            (0..1000).flat_map(|n: u32| frame(FIN | PING, &n.to_be_bytes())).collect();
        client.send(&pings);
        let mut next = 0;
        while next < 1000 {
            let (first, payload) = client.read_frame();
            let number = u32::from_be_bytes(payload.try_into().expect("4 bytes"));
            assert!(first == FIN | PONG && number >= next, "{first:#x}, {number} after {next}");
            next = number + 1;
        }
        client.close(1000);
    });
}

/// Section 5.5.3: an unsolicited pong is no error and has no answer.
#[test]
fn section_5_5_3_unsolicited_pongs() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        for len in [0, 1, 8, 125] {
            client.send_frame(FIN | PONG, &pattern(len));
        }
        client.send_frame(FIN | TEXT, b"next");
        client.expect_frame(FIN | TEXT, b"next");
        client.close(1000);
    });
}

/// Section 5.5.2: a ping's payload is not text, whatever message it interrupts.
#[test]
fn section_5_5_2_ping_payload_is_binary() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        client.send_frame(TEXT, &[0xe2, 0x82]);
        client.send_frame(FIN | PING, &[0xff, 0xfe, 0xc0]);
        client.expect_frame(FIN | PONG, &[0xff, 0xfe, 0xc0]);
        client.send_frame(FIN | CONTINUATION, &[0xac]);
        client.expect_frame(FIN | TEXT, "€".as_bytes());
        client.close(1000);
    });
}

/// Section 5.6: binary is any bytes; text is UTF-8 up to its limits, noncharacters included.
#[test]
fn section_5_6_text_and_binary() {
    serve(&[], |server| {
        let all: Vec<u8> = (0..=255).collect();
        echoes(server, &frame(FIN | BINARY, &all), FIN | BINARY, &all);
        for text in [
            "",
            "\0",
            "\u{feff}byte order mark",
            "Hello-µ@ßöäüàá-UTF-8!!",
            "\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}",
            "\u{d7ff}\u{e000}\u{fffe}\u{1fffe}\u{10fffe}",
        ] {
            echoes(server, &frame(FIN | TEXT, text.as_bytes()), FIN | TEXT, text.as_bytes());
        }
    });
}

/// Byte sequences that are not UTF-8, each cut after the first byte that proves it.
const NOT_UTF8: [&[u8]; 20] = [
    b"\x80",                     // a continuation byte alone
    b"\xbf",                     //
    b"ok\xff",                   // bytes that are nowhere in UTF-8
    b"\xfe",                     //
    b"\xc0",                     // overlong, two bytes
    b"\xc1",                     //
    b"\xe0\x80",                 // overlong, three bytes
    b"\xe0\x9f",                 //
    b"\xf0\x80",                 // overlong, four bytes
    b"\xf0\x8f",                 //
    b"\xed\xa0",                 // surrogates
    b"\xed\xbf",                 //
    b"\xf4\x90",                 // beyond U+10FFFF
    b"\xf5",                     //
    b"\xc3x",                    // sequences broken off
    b"\xe2\x82x",                //
    b"\xf0\x9f\x98x",            //
    b"\xe2\x82\xc3",             //
    b"\xce\xba\xe1\xbd\xb9\x80", // one continuation byte too many
    b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\x80",
];

/// Section 8.1: text that is not UTF-8 fails the connection, in one frame.
#[test]
fn section_8_1_invalid_utf8() {
    serve(&[], |server| {
        for bytes in NOT_UTF8 {
            fails(server, &frame(FIN | TEXT, bytes), 1007);
            let longer = [bytes, b" and more text behind it"].concat();
            fails(server, &frame(FIN | TEXT, &longer), 1007);
        }
    });
}

/// Section 8.1: a message that ends inside a sequence is not UTF-8.
#[test]
fn section_8_1_incomplete_utf8() {
    serve(&[], |server| {
        for sequence in ["é", "€", "😀", "\u{10ffff}"] {
            for cut in 1..sequence.len() {
                let bytes = &sequence.as_bytes()[..cut];
                fails(server, &frame(FIN | TEXT, bytes), 1007);
                fails(server, &[frame(TEXT, bytes), frame(FIN, b"")].concat(), 1007);
            }
        }
    });
}

/// Section 8.1: the first wrong byte fails the connection, though frame and message go on: the
/// rest of the frame is never sent.
#[test]
fn section_8_1_fails_fast_inside_a_frame() {
    serve(&["--close-timeout", "1s"], |server| {
        for bytes in NOT_UTF8 {
            let mut partly = header(FIN | TEXT, Length::Bits16(1000), Some(MASK));
            partly.extend(masked(bytes, MASK));
            fails(server, &partly, 1007);
        }
    });
}

/// Section 8.1: likewise between fragments, where each byte of the sequence has its own frame.
#[test]
fn section_8_1_fails_fast_between_fragments() {
    serve(&[], |server| {
        for bytes in NOT_UTF8 {
            let mut frames = frame(TEXT, "κόσμε".as_bytes());
            for byte in bytes {
                frames.extend(frame(CONTINUATION, &[*byte]));
            }
            fails(server, &frames, 1007);
        }
    });
}

/// Section 8.1: sequences may be cut by fragments, and by TCP, anywhere.
#[test]
fn section_8_1_sequences_cut_anywhere() {
    serve(&[], |server| {
        let text = "aé€😀z\u{10ffff}κόσμε".as_bytes();
        let mut client = Client::open(server);
        for cut in 0..=text.len() {
            client.send_frame(TEXT, &text[..cut]);
            client.send_frame(FIN | CONTINUATION, &text[cut..]);
            client.expect_frame(FIN | TEXT, text);
        }
        for (at, byte) in text.iter().enumerate() {
            client.send_frame(if at == 0 { TEXT } else { CONTINUATION }, &[*byte]);
        }
        client.send_frame(FIN | CONTINUATION, b"");
        client.expect_frame(FIN | TEXT, text);
        let whole = frame(FIN | TEXT, text);
        for cut in 1..whole.len() {
            client.send(&whole[..cut]);
            client.send(&whole[cut..]);
            client.expect_frame(FIN | TEXT, text);
        }
        client.close(1000);
    });
}

/// Section 8.1: the check of one message does not leak into the next, nor into binary.
#[test]
fn section_8_1_state_ends_with_the_message() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        client.send(&[frame(BINARY, b"\xe2\x82"), frame(FIN, b"")].concat());
        client.expect_frame(FIN | BINARY, b"\xe2\x82");
        client.send_frame(FIN | TEXT, b"plain");
        client.expect_frame(FIN | TEXT, b"plain");
        client.send_frame(FIN | TEXT, b"\xac");
        client.expect_failure(1007);
    });
}

/// Section 10.4: a message of exactly the limit passes, in one frame and in several.
#[test]
fn section_10_4_message_at_the_limit() {
    serve(&["--max-message", "1000"], |server| {
        let whole = pattern(1000);
        echoes(server, &frame(FIN | BINARY, &whole), FIN | BINARY, &whole);
        let pieces =
            [frame(BINARY, &whole[..1]), frame(0, &whole[1..999]), frame(FIN, &whole[999..])];
        echoes(server, &pieces.concat(), FIN | BINARY, &whole);
        // The limit is for a message, not for the connection.
        let mut client = Client::open(server);
        for _ in 0..3 {
            client.send_frame(FIN | BINARY, &whole);
            client.expect_frame(FIN | BINARY, &whole);
        }
        client.close(1000);
    });
}

/// Section 10.4: a frame beyond the limit fails on its header; its payload is never sent.
#[test]
fn section_10_4_message_over_the_limit() {
    serve(&["--max-message", "1000", "--close-timeout", "1s"], |server| {
        for length in [
            Length::Bits16(1001),
            Length::Bits16(65_535),
            Length::Bits64(65_536),
            Length::Bits64(1 << 40),
            Length::Bits64((1 << 63) - 1),
        ] {
            for first in [FIN | BINARY, FIN | TEXT, BINARY] {
                fails(server, &header(first, length, Some(MASK)), 1009);
            }
        }
        let mut later = frame(BINARY, &[0; 600]);
        later.extend(header(FIN, Length::Bits16(401), Some(MASK)));
        fails(server, &later, 1009);
    });
}

/// Section 10.4: a client that sends the whole too large message still gets the close frame.
#[test]
fn section_10_4_message_over_the_limit_sent_nevertheless() {
    serve(&["--max-message", "1000"], |server| {
        let mut client = Client::open(server);
        client.try_send(&frame(FIN | BINARY, &vec![0; 200_000]));
        client.expect_failure(1009);
    });
}

/// Section 5.2: 16 MiB, the default limit, in one frame and in fragments; then one byte more.
#[test]
fn section_5_2_message_of_16_mib() {
    serve(&["--close-timeout", "1s"], |server| {
        let whole = pattern(16 << 20);
        echoes(server, &frame(FIN | BINARY, &whole), FIN | BINARY, &whole);
        let halves = [frame(BINARY, &whole[..9 << 20]), frame(FIN, &whole[9 << 20..])].concat();
        echoes(server, &halves, FIN | BINARY, &whole);
        fails(server, &header(FIN | BINARY, Length::Bits64((16 << 20) + 1), Some(MASK)), 1009);
    });
}

/// Section 5.2: TCP may cut a stream anywhere: every byte in a write of its own.
#[test]
fn section_5_2_byte_by_byte() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        let bytes = [
            frame(FIN | TEXT, "byte by byte, €".as_bytes()),
            frame(FIN | PING, b"ping"),
            frame(BINARY, &pattern(300)),
            frame(FIN | PING, b""),
            frame(FIN | CONTINUATION, b""),
            frame(FIN | TEXT, b""),
        ];
        client.send_bytewise(&bytes.concat());
        let messages: [(u8, &[u8]); 3] = [
            (FIN | TEXT, "byte by byte, €".as_bytes()),
            (FIN | BINARY, &pattern(300)),
            (FIN | TEXT, b""),
        ];
        client.expect_messages_and_pongs(&messages, &[b"ping", b""]);
        client.close(1000);
    });
}

/// Section 5.4: the messages of one write are answered in their order, none left in a buffer.
#[test]
fn section_5_4_messages_keep_their_order() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        for round in 0..20 {
            let payloads: Vec<Vec<u8>> =
                (0..200).map(|n| pattern((n * 37 + round) % 700)).collect();
            let bytes: Vec<u8> = payloads.iter().flat_map(|p| frame(FIN | BINARY, p)).collect();
            client.send(&bytes);
            for payload in &payloads {
                client.expect_frame(FIN | BINARY, payload);
            }
        }
        client.close(1000);
    });
}

/// Section 7.1.7: a fault behind good messages does not cost them their echo, and what follows the
/// fault is not processed.
#[test]
fn section_7_1_7_messages_before_and_after_a_fault() {
    serve(&[], |server| {
        let mut client = Client::open(server);
        let bytes =
            [frame(FIN | TEXT, b"good"), frame(FIN | 0x3, b"bad"), frame(FIN | TEXT, b"late")];
        client.send(&bytes.concat());
        client.expect_frame(FIN | TEXT, b"good");
        client.expect_failure(1002);
    });
}

/// Section 7.1.1: the close frame of a failed connection arrives although the client keeps sending.
#[test]
fn section_7_1_7_close_frame_survives_data_in_flight() {
    serve(&["--close-timeout", "1s"], |server| {
        for (fault, code) in
            [(frame(FIN | RSV1 | TEXT, b"x"), 1002), (frame(FIN | TEXT, b"\xff"), 1007)]
        {
            let mut client = Client::open(server);
            let flood = [fault, frame(FIN | BINARY, &pattern(60_000)).repeat(3)].concat();
            client.try_send(&flood);
            client.expect_failure(code);
        }
    });
}
