//! Compressed messages beside C zlib, for any window, any level, any fragments and any cuts.
//!
//! Method: what C zlib compresses, in blocks that end in any way a peer may end them, goes through
//! frames in pieces and must come out again; what ours compresses is inflated by C zlib with the
//! very window that was agreed on, so that a reference beyond it fails.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use proptest::collection::vec;
use proptest::prelude::*;
use ringhold::protocol::deflate::Kept;
use ringhold::protocol::frame::{self, HEADER_MAX, Header, Opcode, RSV1};
use ringhold::protocol::{
    Arrival, Decoder, Deflater, Event, Fault, Inflater, Kind, Partial, Role, mask,
};

/// How a peer may end a piece of a message.
#[derive(Clone, Copy, Debug)]
enum End {
    Open,
    Sync,
    Full,
    /// A final block: what follows is a stream of its own.
    Final,
}

/// A part of a message and how often it stands there.
type Part = (Vec<u8>, usize, End);

fn part() -> impl Strategy<Value = Part> {
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..40),
        "[a-f{}\":,]{0,60}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..3_000),
    ];
    let end = prop_oneof![
        4 => Just(End::Open),
        2 => Just(End::Sync),
        1 => Just(End::Full),
        1 => Just(End::Final),
    ];
    (bytes, prop_oneof![3 => Just(1_usize), 1 => 1..60_usize], end)
}

/// The payload of a message that a peer compresses with C zlib, and the message.
fn compress(parts: &[Part], level: u32, bits: u8) -> (Vec<u8>, Vec<u8>) {
    let (mut payload, mut message) = (Vec::new(), Vec::new());
    let fresh = || Compress::new_with_window_bits(Compression::new(level), false, bits);
    let mut stream = fresh();
    let mut open = false;
    for (bytes, times, end) in parts {
        let bytes = bytes.repeat(*times);
        message.extend_from_slice(&bytes);
        let flush = match end {
            End::Open => FlushCompress::None,
            End::Sync => FlushCompress::Sync,
            End::Full => FlushCompress::Full,
            End::Final => FlushCompress::Finish,
        };
        put(&mut stream, &bytes, flush, &mut payload);
        open = true;
        if let End::Final = end {
            stream = fresh();
            open = false;
        }
    }
    // A message that ends in a final block may go without a padding byte, but need not.
    if open || level.is_multiple_of(2) {
        let mut tail = Vec::new();
        put(&mut stream, b"", FlushCompress::Sync, &mut tail);
        payload.extend_from_slice(&tail);
        // Flushed twice, zlib writes nothing the second time.
        if payload.ends_with(&[0, 0, 0xff, 0xff]) {
            payload.truncate(payload.len() - 4);
        }
    }
    (payload, message)
}

fn put(stream: &mut Compress, mut bytes: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
    loop {
        out.reserve(64 + bytes.len());
        let room = out.capacity();
        let before = stream.total_in();
        let status = stream.compress_vec(bytes, out, flush).unwrap();
        bytes = &bytes[(stream.total_in() - before) as usize..];
        let ended = status == Status::StreamEnd;
        if ended || bytes.is_empty() && out.len() < room && !matches!(flush, FlushCompress::Finish)
        {
            return;
        }
    }
}

/// Inflates with C zlib and a window of so many bits, which a reference must not leave.
fn inflate(payload: &[u8], bits: u8, len: usize) -> Vec<u8> {
    let mut stream = Decompress::new_with_window_bits(false, bits);
    let mut out = Vec::new();
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut at = 0;
    while at < input.len() {
        // In small steps: what is written must be found in the window, not in the output.
        out.reserve_exact(100);
        let (before, filled) = (stream.total_in(), out.len());
        stream.decompress_vec(&input[at..], &mut out, FlushDecompress::None).unwrap();
        at += (stream.total_in() - before) as usize;
        assert!(out.len() > filled || stream.total_in() > before, "it goes on");
        assert!(out.len() <= len);
    }
    out
}

/// Frames of a client, cut and mixed with pings.
fn frames(opcode: Opcode, rsv: u8, payload: &[u8], cuts: &[prop::sample::Index]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
    cuts.sort_unstable();
    let (mut out, mut start) = (Vec::new(), 0);
    for (index, end) in cuts.iter().copied().chain([payload.len()]).enumerate() {
        let opcode = if index == 0 { opcode } else { Opcode::Continuation };
        let fin = index == cuts.len();
        let header = Header { fin, opcode, mask: Some(MASK), len: (end - start) as u64 };
        let mut bytes = [0; HEADER_MAX];
        let used = header.write(&mut bytes);
        if index == 0 {
            bytes[0] |= rsv;
        }
        out.extend_from_slice(&bytes[..used]);
        mask::append(&mut out, &payload[start..end], MASK);
        if !fin {
            frame::append(&mut out, Opcode::Ping, b"?", Some(MASK));
        }
        start = end;
    }
    out
}

/// Decodes and inflates a stream in pieces of so many bytes.
fn receive(stream: &[u8], piece: usize, limit: usize) -> Result<Vec<Vec<u8>>, Fault> {
    let decoder = Decoder { role: Role::Server, max_message: limit, max_fragments: 8 };
    let mut partial: Option<Box<Partial>> = None;
    let (mut inflater, mut messages) = (Inflater::default(), Vec::new());
    for chunk in stream.chunks(piece) {
        let (mut input, mut at) = (chunk.to_vec(), 0);
        while let Some(arrival) = decoder.decode_deflated(&mut partial, &mut input, &mut at)? {
            match arrival {
                Arrival::Deflated(kind, payload) => {
                    let message = inflater.message(kind, payload.bytes(&input), limit)?;
                    messages.push(message.to_vec());
                }
                Arrival::Event(Event::Message(_, payload)) => {
                    messages.push(payload.bytes(&input).to_vec());
                }
                Arrival::Event(event) => assert!(matches!(event, Event::Ping(_))),
            }
        }
    }
    assert!(partial.is_none(), "between two messages nothing is held");
    Ok(messages)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What a peer compresses in its own way is read, however it is cut.
    #[test]
    fn what_peers_write(
        messages in vec((vec(part(), 0..6), 0..10_u32, 9..16_u8, any::<bool>()), 1..4),
        cuts in vec(any::<prop::sample::Index>(), 0..5),
        piece in prop_oneof![1..20_usize, 1..5_000_usize, Just(usize::MAX)],
    ) {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for (parts, level, bits, compressed) in &messages {
            let (payload, message) = compress(parts, *level, *bits);
            stream.extend(match compressed {
                true => frames(Opcode::Binary, RSV1, &payload, &cuts),
                false => frames(Opcode::Binary, 0, &message, &cuts),
            });
            expected.push(message);
        }
        prop_assert_eq!(receive(&stream, piece.min(stream.len()), 1 << 20), Ok(expected));
    }

    /// The limit counts what comes out.
    #[test]
    fn limits_are_exact(parts in vec(part(), 1..6), bits in 9..16_u8, piece in 1..3_000_usize) {
        let (payload, message) = compress(&parts, 6, bits);
        prop_assume!(!message.is_empty());
        let stream = frames(Opcode::Binary, RSV1, &payload, &[]);
        // A peer that ends many blocks may need more bytes than the message has.
        let limit = message.len().max(payload.len());
        prop_assert_eq!(receive(&stream, piece, limit), Ok(vec![message.clone()]));
        let short = receive(&stream, piece, message.len() - 1);
        prop_assert_eq!(short, Err(Fault::MessageTooBig));
    }

    /// What ours compresses keeps to the window, is shorter, and stands alone.
    #[test]
    fn what_ours_writes(
        messages in vec(vec(part(), 1..5), 1..4),
        level in 0..12_u8,
        bits in 8..16_u8,
    ) {
        let mut deflater = Deflater::new(level);
        for parts in &messages {
            let (_, message) = compress(parts, 1, 15);
            let mut payload = Vec::new();
            match deflater.deflate(&message, bits, &mut payload) {
                Ok(()) => {
                    prop_assert!(payload.len() < message.len());
                    // C zlib reads no less than 9 bits; for 8 no message is longer than the window.
                    prop_assert!(bits > 8 || message.len() <= 256);
                    prop_assert_eq!(&inflate(&payload, bits.max(9), message.len()), &message);
                    let ours = Inflater::default()
                        .message(Kind::Binary, &payload, message.len())
                        .map(<[u8]>::to_vec);
                    prop_assert_eq!(ours, Ok(message));
                }
                Err(kept) => {
                    prop_assert!(payload.is_empty());
                    prop_assert_eq!(kept == Kept::Window, bits == 8 && message.len() > 256);
                }
            }
        }
    }
}

/// A window that is too large fails in the reader, so that what holds above means something.
#[test]
#[should_panic(expected = "DecompressError")]
fn the_reader_knows_its_window() {
    let message: Vec<u8> = (0..4_000_u32).flat_map(|n| (n * 7919).to_le_bytes()).collect();
    let message = [&message[..], &message[..1_000]].concat();
    let mut payload = Vec::new();
    Deflater::new(9).deflate(&message, 15, &mut payload).expect("it gets shorter");
    inflate(&payload, 9, message.len());
}

#[test]
fn the_bit_means_nothing_elsewhere() {
    let fault = |bytes: &[u8], compression: bool| {
        let decoder = Decoder { role: Role::Server, max_message: 1 << 10, max_fragments: 8 };
        let (mut partial, mut input, mut at) = (None, bytes.to_vec(), 0);
        loop {
            let event = match compression {
                true => decoder.decode_deflated(&mut partial, &mut input, &mut at),
                false => {
                    let event = decoder.decode(&mut partial, &mut input, &mut at);
                    event.map(|event| event.map(Arrival::Event))
                }
            };
            match event {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(fault) => return Some(fault),
            }
        }
    };
    let reserved = Some(Fault::ReservedBits);
    // Nothing was agreed on.
    assert_eq!(fault(&[0xc1], false), reserved);
    assert_eq!(fault(&[0xc1], true), None);
    for other in [0x20, 0x10] {
        assert_eq!(fault(&[0x81 | other], true), reserved);
        assert_eq!(fault(&[0xc1 | other], true), reserved);
    }
    for control in [0x88, 0x89, 0x8a] {
        assert_eq!(fault(&[control | RSV1], true), reserved);
    }
    // A continuation, of a message that is compressed or not.
    for start in [0x01, 0x41] {
        let mut message = vec![start];
        message.extend([0x80, 1, 2, 3, 4]);
        let first = &message[..];
        assert_eq!(fault(&[first, &[0x80]].concat(), true), None);
        assert_eq!(fault(&[first, &[0x80 | RSV1]].concat(), true), reserved);
    }
    for opcode in [0x43, 0x4b] {
        assert_eq!(fault(&[0x80 | opcode], true), Some(Fault::ReservedOpcode));
    }
}
