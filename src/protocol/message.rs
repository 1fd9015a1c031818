//! From received bytes to messages: frames, fragments, interleaved control frames, limits.
//!
//! Owns the rules that span frames (RFC 6455 section 5.4) and the limits. Never keeps bytes itself.
//! The invariant: a connection between two messages owns nothing. Everything a message in progress
//! needs is in a [`Partial`], which exists only from its first incomplete byte to its last.

use std::ops::Range;

use bytes::Bytes;

use super::deflate::payload_max;
use super::frame::{self, HEADER_MAX, Header, Opcode, RSV1};
pub use super::partial::Partial;
use super::{CloseFrame, Fault, Role, mask, utf8};

/// Text or binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// Where the unmasked payload of an event is.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload {
    /// In the input that was decoded, at these positions. The frame's header lies directly
    /// before it, so a shorter or equal header can be written in its place.
    Inline(Range<usize>),
    /// In a buffer of its own: the message came in several frames or several reads.
    Assembled(Bytes),
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole data message.
    Message(Kind, Payload),
    /// To be answered by a pong with the same payload (at most 125 bytes).
    Ping(Payload),
    /// An answer to a ping, or a heartbeat (at most 125 bytes).
    Pong(Payload),
    /// The peer closes. Bytes after it are not frames (section 5.5.1) and must not be decoded.
    Close(CloseFrame),
}

/// What arrived on a connection with compression.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// As on any connection.
    Event(Event),
    /// A whole data message, still compressed: [`Inflater::message`](super::Inflater::message) says
    /// what it is.
    Deflated(Kind, Payload),
}

/// Turns bytes into events under limits. One per core: it holds no connection's state.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Which side receives.
    pub role: Role,
    /// Longest message, in payload bytes, over all its fragments. A frame that would exceed it
    /// fails on its header, before memory is taken.
    pub max_message: usize,
    /// Most frames one message may come in. 0 means 1.
    pub max_fragments: u32,
}

impl Arrival {
    /// Whether it is a data message.
    #[inline]
    pub fn is_message(&self) -> bool {
        matches!(self, Self::Deflated(..) | Self::Event(Event::Message(..)))
    }
}

impl Payload {
    /// The bytes, given the input that was decoded.
    #[inline]
    pub fn bytes<'a>(&'a self, input: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Inline(range) => &input[range.clone()],
            Self::Assembled(bytes) => bytes,
        }
    }
}

impl Decoder {
    /// Decodes the next event from `input[*at..]`, moving `at` past what was consumed. `None`: all
    /// of the input is consumed and no further event is complete; what is unfinished is in
    /// `partial`. Whole frames are unmasked in place; bytes before `at` are never touched again.
    ///
    /// A whole unfragmented frame inside `input` is never copied and leaves `partial` untouched
    /// (`None`, or the fragmented message a control frame interleaves with).
    ///
    /// After a fault the connection is failed (section 7.1.7): `partial` is `None` and its memory
    /// free, `at` is somewhere in the input, and nothing more may be decoded.
    pub fn decode(
        &self,
        partial: &mut Option<Box<Partial>>,
        input: &mut [u8],
        at: &mut usize,
    ) -> Result<Option<Event>, Fault> {
        Ok(self.decode_either(false, partial, input, at)?.map(|arrival| match arrival {
            Arrival::Event(event) => event,
            // Not reached: no frame may say so.
            Arrival::Deflated(kind, payload) => Event::Message(kind, payload),
        }))
    }

    /// As [`Decoder::decode`], for a connection that has agreed on compression: RSV1 marks messages
    /// that are to be inflated. Nothing is inflated here, so fragments may cut their stream
    /// anywhere, and the limit is that of the compressed bytes ([`payload_max`]).
    pub fn decode_deflated(
        &self,
        partial: &mut Option<Box<Partial>>,
        input: &mut [u8],
        at: &mut usize,
    ) -> Result<Option<Arrival>, Fault> {
        self.decode_either(true, partial, input, at)
    }

    /// One of the two, by what a connection has agreed on.
    pub(crate) fn decode_either(
        &self,
        deflates: bool,
        partial: &mut Option<Box<Partial>>,
        input: &mut [u8],
        at: &mut usize,
    ) -> Result<Option<Arrival>, Fault> {
        let result = self.next_frame(if deflates { RSV1 } else { 0 }, partial, input, at);
        if result.is_err() {
            *partial = None;
        }
        result
    }

    /// `allowed` are the reserved bits that may be set.
    #[inline(always)]
    fn next_frame(
        &self,
        allowed: u8,
        partial: &mut Option<Box<Partial>>,
        input: &mut [u8],
        at: &mut usize,
    ) -> Result<Option<Arrival>, Fault> {
        // Each turn consumes a header or ends, so the length of the input bounds the turns.
        loop {
            if let Some(unfinished) = partial.as_deref_mut() {
                if let Some(event) = self.resume(allowed, unfinished, input, at)? {
                    if unfinished.is_idle() {
                        *partial = None;
                    }
                    return Ok(Some(event));
                }
                if unfinished.is_waiting() {
                    return Ok(None);
                }
            }
            let rest = &input[*at..];
            let Some((header, len)) = self.parse(allowed, partial.as_deref(), rest)? else {
                if !rest.is_empty() {
                    partial.get_or_insert_default().set_header(rest);
                    *at = input.len();
                }
                return Ok(None);
            };
            let deflated = allowed & rest[0] != 0;
            *at += len;
            let alone = header.fin && header.opcode != Opcode::Continuation;
            if alone && header.len <= (input.len() - *at) as u64 {
                return whole(&header, deflated, input, at).map(Some);
            }
            partial.get_or_insert_default().begin(&header, deflated);
        }
    }

    /// Goes on with a header whose start came with an earlier input, and with any payload that is
    /// not whole and alone. Out of line, so that the common path stays short.
    #[inline(never)]
    fn resume(
        &self,
        allowed: u8,
        unfinished: &mut Partial,
        input: &[u8],
        at: &mut usize,
    ) -> Result<Option<Arrival>, Fault> {
        let spilled = unfinished.header().len();
        if spilled > 0 {
            let rest = &input[*at..];
            let added = rest.len().min(HEADER_MAX - spilled);
            let mut bytes = [0; HEADER_MAX];
            bytes[..spilled].copy_from_slice(unfinished.header());
            bytes[spilled..spilled + added].copy_from_slice(&rest[..added]);
            let bytes = &bytes[..spilled + added];
            let Some((header, len)) = self.parse(allowed, Some(unfinished), bytes)? else {
                // No header is longer than HEADER_MAX, so `rest` ended first.
                unfinished.set_header(bytes);
                *at += added;
                return Ok(None);
            };
            unfinished.set_header(&[]);
            unfinished.begin(&header, allowed & bytes[0] != 0);
            *at += len - spilled;
        }
        if !unfinished.in_payload() {
            return Ok(None);
        }
        *at += unfinished.absorb(&input[*at..])?;
        Ok(unfinished.complete()?.map(|event| match event {
            Event::Message(kind, payload) if unfinished.is_deflated() => {
                Arrival::Deflated(kind, payload)
            }
            event => Arrival::Event(event),
        }))
    }

    /// Parses a header and checks it against the message in progress and the limits, each rule as
    /// soon as the bytes that decide it are there, in their order.
    #[inline(always)]
    fn parse(
        &self,
        allowed: u8,
        open: Option<&Partial>,
        bytes: &[u8],
    ) -> Result<Option<(Header, usize)>, Fault> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let (fin, opcode) = frame::parse_first(first, allowed)?;
        let (fragments, filled) = open.map_or((0, 0), |it| (it.fragments(), it.filled()));
        match opcode {
            // Section 5.4: a continuation continues something...
            Opcode::Continuation if fragments == 0 => return Err(Fault::LoneContinuation),
            Opcode::Continuation if fragments >= self.max_fragments => {
                return Err(Fault::TooManyFragments);
            }
            // ... and fragments of two messages never mix.
            Opcode::Text | Opcode::Binary if fragments > 0 => {
                return Err(Fault::InterleavedMessage);
            }
            _ => {}
        }
        let Some((len, mask_at)) = frame::parse_len(self.role, opcode, bytes)? else {
            return Ok(None);
        };
        let deflated = allowed != 0
            && (first & allowed != 0
                || fragments > 0 && open.is_some_and(|open| open.is_deflated()));
        let most = if deflated { payload_max(self.max_message) } else { self.max_message };
        let left = most.saturating_sub(filled);
        if !opcode.is_control() && len > left as u64 {
            return Err(Fault::MessageTooBig);
        }
        let Some((mask, header_len)) = frame::parse_mask(self.role, bytes, mask_at) else {
            return Ok(None);
        };
        Ok(Some((Header { fin, opcode, mask, len }, header_len)))
    }
}

/// The event of a frame whose payload lies in `input` at `at`, all of it, and needs no other frame.
#[inline(always)]
fn whole(
    header: &Header,
    deflated: bool,
    input: &mut [u8],
    at: &mut usize,
) -> Result<Arrival, Fault> {
    let range = *at..*at + header.len as usize;
    *at = range.end;
    let bytes = &mut input[range.clone()];
    if let Some(mask) = header.mask {
        mask::apply(bytes, mask, 0);
    }
    let payload = Payload::Inline(range);
    let event = match header.opcode {
        Opcode::Text if deflated => return Ok(Arrival::Deflated(Kind::Text, payload)),
        Opcode::Binary if deflated => return Ok(Arrival::Deflated(Kind::Binary, payload)),
        Opcode::Text if !utf8::is_valid(bytes) => return Err(Fault::InvalidUtf8),
        Opcode::Text => Event::Message(Kind::Text, payload),
        Opcode::Close => Event::Close(CloseFrame::parse(bytes)?),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        // A continuation needs its message, so it does not come here.
        Opcode::Binary | Opcode::Continuation => Event::Message(Kind::Binary, payload),
    };
    Ok(Arrival::Event(event))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn server() -> Decoder {
        Decoder { role: Role::Server, max_message: 1 << 20, max_fragments: 4 }
    }

    fn put(out: &mut Vec<u8>, fin: bool, opcode: Opcode, payload: &[u8]) {
        let mut bytes = [0; HEADER_MAX];
        let header = Header { fin, opcode, mask: Some(MASK), len: payload.len() as u64 };
        let used = header.write(&mut bytes);
        out.extend_from_slice(&bytes[..used]);
        mask::append(out, payload, MASK);
    }

    fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, fin, opcode, payload);
        out
    }

    /// Decodes chunk by chunk, and shows events as text.
    fn run(decoder: &Decoder, chunks: &[&[u8]]) -> Result<Vec<String>, (Fault, Vec<String>)> {
        let (mut partial, mut seen) = (None, Vec::new());
        for chunk in chunks {
            let (mut input, mut at) = (chunk.to_vec(), 0);
            loop {
                match decoder.decode(&mut partial, &mut input, &mut at) {
                    Ok(Some(event)) => seen.push(show(&event, &input)),
                    Ok(None) => break,
                    Err(fault) => {
                        assert!(partial.is_none(), "a failed connection keeps no memory");
                        return Err((fault, seen));
                    }
                }
            }
            assert_eq!(at, input.len(), "all of the input is consumed");
        }
        Ok(seen)
    }

    fn show(event: &Event, input: &[u8]) -> String {
        let text = |payload: &Payload| String::from_utf8_lossy(payload.bytes(input)).into_owned();
        match event {
            Event::Message(Kind::Text, payload) => format!("text {}", text(payload)),
            Event::Message(Kind::Binary, payload) => format!("binary {}", text(payload)),
            Event::Ping(payload) => format!("ping {}", text(payload)),
            Event::Pong(payload) => format!("pong {}", text(payload)),
            Event::Close(close) => format!("close {} {}", close.code, close.reason),
        }
    }

    fn fault(chunks: &[&[u8]]) -> Fault {
        run(&server(), chunks).expect_err("a fault").0
    }

    #[test]
    fn whole_frames_borrow_the_input() {
        let mut input = frame(true, Opcode::Text, b"hello");
        put(&mut input, true, Opcode::Binary, &[7; 300]);
        put(&mut input, true, Opcode::Ping, b"");
        let (mut partial, mut at) = (None, 0);
        let mut next = || server().decode(&mut partial, &mut input, &mut at).unwrap();
        assert_eq!(next(), Some(Event::Message(Kind::Text, Payload::Inline(6..11))));
        assert_eq!(next(), Some(Event::Message(Kind::Binary, Payload::Inline(19..319))));
        assert_eq!(next(), Some(Event::Ping(Payload::Inline(325..325))));
        assert_eq!(next(), None);
        assert!(partial.is_none());
        assert_eq!((at, &input[6..11], &input[19..22]), (325, &b"hello"[..], &[7; 3][..]));
    }

    #[test]
    fn every_cut_gives_the_same_events() {
        let mut stream = frame(false, Opcode::Text, "κόσ".as_bytes());
        put(&mut stream, true, Opcode::Ping, b"still there?");
        put(&mut stream, false, Opcode::Continuation, b"");
        put(&mut stream, true, Opcode::Continuation, "με".as_bytes());
        put(&mut stream, true, Opcode::Binary, &[b'x'; 130]);
        put(&mut stream, true, Opcode::Pong, b"");
        put(&mut stream, true, Opcode::Close, b"\x03\xe8bye");
        let whole = run(&server(), &[&stream]).unwrap();
        let long = format!("binary {}", "x".repeat(130));
        assert_eq!(whole, ["ping still there?", "text κόσμε", &long, "pong ", "close 1000 bye"]);
        for cut in 0..=stream.len() {
            let (a, b) = stream.split_at(cut);
            assert_eq!(run(&server(), &[a, b]).unwrap(), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(run(&server(), &bytes).unwrap(), whole);
    }

    #[test]
    fn clients_receive_unmasked_frames() {
        let client = Decoder { role: Role::Client, ..server() };
        let mut stream = Vec::new();
        frame::append(&mut stream, Opcode::Text, b"plain", None);
        for cut in 0..=stream.len() {
            let (a, b) = stream.split_at(cut);
            assert_eq!(run(&client, &[a, b]).unwrap(), ["text plain"]);
        }
        let masked = frame(true, Opcode::Text, b"x");
        assert_eq!(run(&client, &[&masked]).unwrap_err().0, Fault::Masked);
    }

    #[test]
    fn sequence_faults_need_one_byte() {
        assert_eq!(fault(&[&[0x80]]), Fault::LoneContinuation);
        let start = frame(false, Opcode::Binary, b"a");
        assert_eq!(fault(&[&start, &[0x82]]), Fault::InterleavedMessage);
        assert_eq!(fault(&[&start, &[0x01]]), Fault::InterleavedMessage);
        // The earlier byte decides, whether or not a later one is wrong, too.
        assert_eq!(fault(&[&[0x80, 0x00]]), Fault::LoneContinuation);
        assert_eq!(fault(&[&[0x82, 0x7f, 0xff]]), Fault::Unmasked);
    }

    #[test]
    fn limits_fail_on_headers() {
        let limited = Decoder { max_message: 1000, ..server() };
        let exact = frame(true, Opcode::Binary, &[0; 1000]);
        assert_eq!(run(&limited, &[&exact]).unwrap().len(), 1);
        // 1001 bytes: seen without the mask, let alone the payload.
        assert_eq!(
            run(&limited, &[&[0x82, 0xfe, 0x03, 0xe9]]).unwrap_err().0,
            Fault::MessageTooBig
        );
        let huge = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(run(&limited, &[&huge]).unwrap_err().0, Fault::MessageTooBig);
        let half = frame(false, Opcode::Binary, &[0; 600]);
        let more = frame(true, Opcode::Continuation, &[0; 401]);
        assert_eq!(run(&limited, &[&half, &more[..4]]).unwrap_err().0, Fault::MessageTooBig);

        let start = frame(false, Opcode::Binary, b"1");
        let next = frame(false, Opcode::Continuation, b"");
        let chunks: [&[u8]; 5] = [&start, &next, &next, &next, &[0x80]];
        assert_eq!(fault(&chunks), Fault::TooManyFragments);
        assert!(run(&server(), &chunks[..4]).is_ok());
    }

    #[test]
    fn text_faults_come_with_the_byte() {
        assert_eq!(fault(&[&frame(true, Opcode::Text, b"ab\xff")]), Fault::InvalidUtf8);
        // The character is cut by the end of the message.
        assert_eq!(fault(&[&frame(true, Opcode::Text, b"ab\xc3")]), Fault::InvalidUtf8);
        let start = frame(false, Opcode::Text, b"ab\xed");
        assert_eq!(fault(&[&start, &frame(true, Opcode::Continuation, b"")]), Fault::InvalidUtf8);
        // Eleven bytes announced, the second one of a surrogate ends it.
        let long = frame(true, Opcode::Text, b"\xed\xa0 is no end");
        assert_eq!(run(&server(), &[&long[..7]]), Ok(vec![]));
        assert_eq!(fault(&[&long[..8]]), Fault::InvalidUtf8);
    }

    #[test]
    fn close_payload_faults() {
        assert_eq!(fault(&[&[0x88, 0x81]]), Fault::CloseLength);
        let close = |payload: &[u8]| frame(true, Opcode::Close, payload);
        for split in [1, 6, 7, 8] {
            for (payload, expected) in
                [(b"\x03\xee", Fault::CloseCode), (b"\x03\xed", Fault::CloseCode)]
            {
                let bytes = close(payload);
                let (a, b) = bytes.split_at(split);
                assert_eq!(fault(&[a, b]), expected);
            }
        }
        assert_eq!(fault(&[&close(b"\x03\xe8\xff")]), Fault::CloseReason);
        assert_eq!(run(&server(), &[&close(b"")]).unwrap(), ["close 1005 "]);
    }
}
