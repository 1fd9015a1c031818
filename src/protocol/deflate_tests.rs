//! Messages that peers compress in ways of their own, what ours writes, and every bound.

use zlib_rs::DeflateConfig;

use super::*;

const LIMIT: usize = 64 << 10;

fn inflate(payload: &[u8]) -> Result<Vec<u8>, Fault> {
    Inflater::default().message(Kind::Binary, payload, LIMIT).map(<[u8]>::to_vec)
}

fn deflate(message: &[u8], window_bits: u8) -> Result<Vec<u8>, Kept> {
    let mut out = b"before".to_vec();
    let result = Deflater::new(6).deflate(message, window_bits, &mut out);
    let appended = out.strip_prefix(b"before").unwrap().to_vec();
    assert!(result.is_ok() || appended.is_empty());
    result.map(|()| appended)
}

/// Text that gets shorter, and refers back as far as it can.
fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|n: u32| format!("{{\"n\":{n}}} ").into_bytes()).take(len).collect()
}

/// Bytes that nothing can compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A deflate stream, bit by bit.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// Appends a number of so many bits, the lowest first.
    fn put(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) << (self.used % 8)) as u8;
            self.used += 1;
        }
    }

    /// Appends a code, the highest bit first.
    fn put_code(&mut self, code: u32, count: u32) {
        (0..count).rev().for_each(|bit| self.put(code >> bit & 1, 1));
    }

    /// A block with codes of its own and no content, in 90 bits.
    fn put_empty_block(&mut self) {
        // 257 lengths of literals, one of a distance, and 18 of the codes for these, of which
        // that for a length of 1 and that for many zeros have one bit.
        for (value, count) in [(0b100, 3), (0, 5), (0, 5), (14, 4)] {
            self.put(value, count);
        }
        (0..18).for_each(|place| self.put(u32::from(place == 2 || place == 17), 3));
        // 138 and 118 literals without a code, the end of the block, a distance; and that end.
        for (value, count) in [(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)] {
            self.put(value, count);
        }
    }

    /// The payload, which ends in the header of a stored block.
    fn end(mut self) -> Vec<u8> {
        self.put(0, 3);
        self.bytes
    }
}

#[test]
fn the_examples_of_the_rfc() {
    // RFC 7692 sections 7.2.3.1 and 7.2.3.3 to 7.2.3.6.
    for payload in [
        &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..],
        b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
    ] {
        assert_eq!(inflate(payload).as_deref(), Ok(&b"Hello"[..]), "{payload:x?}");
    }
    assert_eq!(inflate(b"\x00").as_deref(), Ok(&b""[..]));
    // What a zlib that was flushed before writes for an empty message.
    assert_eq!(inflate(b"").as_deref(), Ok(&b""[..]));
}

#[test]
fn final_blocks_stand_anywhere() {
    let hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
    let open = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
    assert_eq!(inflate(hello).as_deref(), Ok(&b"Hello"[..]), "without a padding byte");
    assert_eq!(inflate(&[&hello[..], hello].concat()).as_deref(), Ok(&b"HelloHello"[..]));
    assert_eq!(inflate(&[&hello[..], open].concat()).as_deref(), Ok(&b"HelloHello"[..]));
    // The stored block's length comes from the marker that was cut off.
    assert_eq!(inflate(&[&hello[..], b"\x01"].concat()).as_deref(), Ok(&b"Hello"[..]));
    let many = hello.repeat(250);
    assert_eq!(inflate(&many).unwrap(), b"Hello".repeat(250));
}

#[test]
fn blocks_are_counted() {
    let most = blocks_max(LIMIT);
    // Final blocks and others, with fixed codes, stored, and with codes of their own.
    let own_codes = |count| {
        let mut bits = Bits::default();
        (0..count).for_each(|_| bits.put_empty_block());
        bits.end()
    };
    let repeated = |block: &[u8], last: &[u8], count| [&block.repeat(count), last].concat();
    let payloads: [&dyn Fn(usize) -> Vec<u8>; 4] = [
        &|count| repeated(b"\x03\x00", b"", count),
        &|count| repeated(b"\x00\x00\x00\xff\xff", b"\x00", count),
        &|count| repeated(b"\xf3\x48\xcd\xc9\xc9\x07\x00", b"", count),
        &own_codes,
    ];
    for (index, payload) in payloads.into_iter().enumerate() {
        let mut inflater = Inflater::default();
        let mut inflate =
            |payload: &[u8]| inflater.message(Kind::Binary, payload, LIMIT).map(<[u8]>::len);
        assert_eq!(inflate(&payload(most + 1)), Err(Fault::TooManyBlocks), "{index}");
        assert_eq!(inflate(&payload(5000)), Err(Fault::TooManyBlocks), "{index}");
        let larger = Inflater::default().message(Kind::Binary, &payload(4000), 16 * LIMIT).is_ok();
        assert!(larger, "{index}: a larger message may have more");
        assert!(inflate(&payload(most / 3)).is_ok(), "{index}");
        assert!(inflater.effort() > most / 3 * BLOCK_EFFORT, "{index}");
    }
    // Who flushes after each 256 bytes of a message of the limit.
    let mut state = Deflate::new(6, false, WINDOW_BITS_MAX);
    let (message, mut payload) = (text(LIMIT), vec![0; LIMIT]);
    for piece in message.chunks(256) {
        let at = state.total_out() as usize;
        let done = state.compress(piece, &mut payload[at..], DeflateFlush::SyncFlush);
        assert_eq!(done, Ok(Status::Ok));
    }
    payload.truncate(state.total_out() as usize - MARKER.len());
    assert_eq!(inflate(&payload).unwrap(), message);
}

#[test]
fn effort_is_what_takes_time() {
    let mut inflater = Inflater::default();
    let payload = deflate(&text(1000), 15).unwrap();
    inflater.message(Kind::Text, &payload, LIMIT).unwrap();
    let least = 1000 + payload.len();
    assert!((least..least + 6 * BLOCK_EFFORT).contains(&inflater.effort()));
    let bomb = deflate(&vec![0; 4 << 20], 15).unwrap();
    inflater.message(Kind::Binary, &bomb, LIMIT).unwrap_err();
    assert!(inflater.effort() > LIMIT, "what is thrown away took time, too");
    inflater.message(Kind::Binary, b"\x06", LIMIT).unwrap_err();
    assert!(inflater.effort() < 3 * BLOCK_EFFORT);
}

#[test]
fn what_cannot_be_compressed_may_grow() {
    for len in [1, 100, 1000, LIMIT, 1 << 20] {
        // Nothing but stored blocks.
        let message = noise(len);
        let config = DeflateConfig { window_bits: -15, level: 0, ..Default::default() };
        let mut state = Deflate::new_with_config(config);
        let mut stored = vec![0; 2 * len + 64];
        state.compress(&message, &mut stored, DeflateFlush::SyncFlush).unwrap();
        stored.truncate(state.total_out() as usize - MARKER.len());
        // Nothing but the longest of the fixed codes.
        let mut bits = Bits::default();
        bits.put(0b010, 3);
        (0..len).for_each(|_| bits.put_code(0b1_1100_1000, 9));
        bits.put(0, 7);
        for payload in [stored, bits.end()] {
            assert!(payload.len() <= payload_max(len), "{len}: {}", payload.len());
            let mut inflater = Inflater::default();
            let inflated = inflater.message(Kind::Binary, &payload, len);
            assert_eq!(inflated.map(<[u8]>::len), Ok(len));
        }
    }
}

#[test]
fn bombs_end_at_the_limit() {
    let bomb = deflate(&vec![0; 4 << 20], 15).unwrap();
    assert!(bomb.len() < 8 << 10);
    for limit in [0, 1, 1000, LIMIT] {
        let mut inflater = Inflater::default();
        let result = inflater.message(Kind::Binary, &bomb, limit).map(<[u8]>::len);
        assert_eq!(result, Err(Fault::MessageTooBig));
        // The least that a vector allocates is 8 bytes.
        let most = (limit + 1).max(8) + INFLATE_BYTES;
        assert!(inflater.memory() <= most, "{}", inflater.memory());
        let state = inflater.state.as_ref().unwrap();
        assert_eq!(state.total_out(), 0, "it is ready for the next message");
    }
    for len in [1, 1000, LIMIT] {
        let exact = deflate(&[vec![7; len], text(100)].concat(), 15).unwrap();
        let mut inflater = Inflater::default();
        let mut len_at = |limit| inflater.message(Kind::Binary, &exact, limit).map(<[u8]>::len);
        assert_eq!(len_at(len + 100), Ok(len + 100));
        assert_eq!(len_at(len + 99), Err(Fault::MessageTooBig));
        assert_eq!(len_at(usize::MAX), Ok(len + 100));
        assert_eq!(len_at(len + 99), Err(Fault::MessageTooBig));
    }
}

#[test]
fn what_would_not_get_shorter_is_kept() {
    assert_eq!(deflate(b"", 15), Err(Kept::Grew));
    assert_eq!(deflate(b"ab", 15), Err(Kept::Grew));
    for len in [10, 1000, 100_000] {
        assert_eq!(deflate(&noise(len), 15), Err(Kept::Grew));
    }
    for len in [100, 1000, 100_000] {
        let out = deflate(&text(len), 15).unwrap();
        assert!(out.len() < len);
        assert_eq!(Inflater::default().message(Kind::Text, &out, len), Ok(&text(len)[..]));
    }
}

#[test]
fn what_was_kept_leaves_nothing_behind() {
    let (mut deflater, mut out) = (Deflater::new(3), Vec::new());
    for len in [1024, 10, 90_000] {
        for _ in 0..100 {
            assert_eq!(deflater.deflate(&noise(len), 15, &mut out), Err(Kept::Grew));
            assert!(out.is_empty());
        }
    }
    assert_eq!(deflater.deflate(&text(1000), 15, &mut out), Ok(()));
    assert_eq!(Inflater::default().message(Kind::Text, &out, 1000), Ok(&text(1000)[..]));
}

#[test]
fn small_windows_have_small_messages_or_compressors_of_their_own() {
    let mut deflater = Deflater::new(1);
    let mut out = Vec::new();
    for bits in 8..=15 {
        assert_eq!(deflater.deflate(&text(1 << bits), bits, &mut out), Ok(()));
    }
    assert_eq!(deflater.memory(), DEFLATE_BYTES, "one served them all");
    assert_eq!(deflater.deflate(&text(257), 8, &mut out), Err(Kept::Window));
    for bits in 9..=14 {
        assert_eq!(deflater.deflate(&text((1 << bits) + 1), bits, &mut out), Ok(()));
    }
    assert_eq!(deflater.memory(), 3 * DEFLATE_BYTES, "a smaller window suits larger ones");
    deflater.release();
    assert_eq!(deflater.memory(), 0);
    assert_eq!(deflater.deflate(&text(100), 15, &mut out), Ok(()));
}

#[test]
fn every_level_has_codes_of_its_own() {
    let len = |level| {
        let mut out = Vec::new();
        Deflater::new(level).deflate(&text(1000), 15, &mut out).unwrap();
        out.len()
    };
    assert_eq!((len(0), len(1)), (len(2), len(2)));
    assert_eq!(len(200), len(9));
    for level in 1..=9 {
        // Codes that are fixed leave more than 400.
        assert!(len(level) < 300, "{level}: {}", len(level));
    }
}
