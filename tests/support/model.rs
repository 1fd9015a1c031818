//! RFC 6455 once more, as plain as it can be: a byte at a time, every byte kept, nothing shared
//! with the decoder but its types. It says what a stream of bytes means and which byte of it is the
//! first bad one; [`run`] asks the decoder the same, in pieces of any size.

use ringhold::protocol::deflate::payload_max;
use ringhold::protocol::frame::{self, Opcode};
use ringhold::protocol::{Arrival, Decoder, Event, Fault, Kind, Partial, Payload, Role};

/// An event with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Message(Kind, Vec<u8>),
    /// With its payload as it came.
    Deflated(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Between two messages.
    Idle,
    /// In the middle of something.
    Unfinished,
    /// By a close frame.
    Closed,
    /// By the peer's fault.
    Failed(Fault),
}

/// What a stream means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<Seen>,
    pub(crate) end: End,
}

struct Frame {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    len: u64,
}

struct Model<'a> {
    rules: &'a Decoder,
    /// Whether compression was agreed on.
    compression: bool,
    /// Whether the message in progress is compressed.
    deflated: bool,
    header: Vec<u8>,
    frame: Option<Frame>,
    payload: Vec<u8>,
    message: Option<(Kind, Vec<u8>)>,
    frames: u32,
}

/// What `stream` means, and how many of its bytes decide it.
fn expect(rules: &Decoder, compression: bool, stream: &[u8]) -> (Outcome, usize) {
    let mut model = Model {
        rules,
        compression,
        deflated: false,
        header: Vec::new(),
        frame: None,
        payload: Vec::new(),
        message: None,
        frames: 0,
    };
    let mut events = Vec::new();
    for (at, &byte) in stream.iter().enumerate() {
        match model.push(byte) {
            Ok(None) => {}
            Ok(Some(event)) => {
                let closed = matches!(event, Seen::Close(..));
                events.push(event);
                if closed {
                    return (Outcome { events, end: End::Closed }, at + 1);
                }
            }
            Err(fault) => {
                return (Outcome { events, end: End::Failed(fault) }, at + 1);
            }
        }
    }
    let idle = model.header.is_empty() && model.frame.is_none() && model.message.is_none();
    let end = if idle { End::Idle } else { End::Unfinished };
    (Outcome { events, end }, stream.len())
}

impl Model<'_> {
    fn push(&mut self, byte: u8) -> Result<Option<Seen>, Fault> {
        let Some(frame) = &self.frame else {
            self.header.push(byte);
            self.frame = self.read_header()?;
            let Some(frame) = &self.frame else {
                return Ok(None);
            };
            self.header.clear();
            return if frame.len == 0 { self.end_frame() } else { Ok(None) };
        };
        let plain = byte ^ frame.mask[self.payload.len() % 4];
        self.payload.push(plain);
        if frame.opcode < 8 {
            let (kind, message) = self.message.as_mut().expect("a data frame opened it");
            message.push(plain);
            let cannot_end_well = || {
                // Only the last character can be bad, because the bytes before were checked.
                let tail = message.len().saturating_sub(8);
                let start = (tail..message.len()).find(|&at| message[at] & 0xc0 != 0x80);
                let last = &message[start.unwrap_or(tail)..];
                std::str::from_utf8(last).is_err_and(|error| error.error_len().is_some())
            };
            if *kind == Kind::Text && !self.deflated && cannot_end_well() {
                return Err(Fault::InvalidUtf8);
            }
        }
        if self.payload.len() as u64 == frame.len { self.end_frame() } else { Ok(None) }
    }

    fn read_header(&mut self) -> Result<Option<Frame>, Fault> {
        let header = &self.header;
        let (fin, opcode) = (header[0] >= 0x80, header[0] & 15);
        let (control, rsv1) = (opcode >= 8, header[0] & 0x40 != 0);
        if header.len() == 1 {
            let in_message = self.message.is_some();
            return match () {
                () if header[0] & 0x30 != 0 => Err(Fault::ReservedBits),
                () if rsv1 && !self.compression => Err(Fault::ReservedBits),
                () if ![0, 1, 2, 8, 9, 10].contains(&opcode) => Err(Fault::ReservedOpcode),
                () if rsv1 && opcode != 1 && opcode != 2 => Err(Fault::ReservedBits),
                () if control && !fin => Err(Fault::FragmentedControl),
                () if opcode == 0 && !in_message => Err(Fault::LoneContinuation),
                () if opcode == 0 && self.frames >= self.rules.max_fragments => {
                    Err(Fault::TooManyFragments)
                }
                () if (opcode == 1 || opcode == 2) && in_message => Err(Fault::InterleavedMessage),
                () => Ok(None),
            };
        }
        let (masked, short) = (header[1] >= 0x80, header[1] & 127);
        match self.rules.role {
            Role::Server if !masked => return Err(Fault::Unmasked),
            Role::Client if masked => return Err(Fault::Masked),
            _ if control && short > 125 => return Err(Fault::ControlTooLong),
            _ if opcode == 8 && short == 1 => return Err(Fault::CloseLength),
            _ => {}
        }
        let Some((len, len_end)) = read_len(header)? else {
            return Ok(None);
        };
        let before = self.message.as_ref().map_or(0, |(_, message)| message.len());
        let deflated = if opcode == 0 { self.deflated } else { rsv1 };
        let most = self.rules.max_message;
        let most = if deflated { payload_max(most) } else { most };
        if !control && len > (most - before) as u64 {
            return Err(Fault::MessageTooBig);
        }
        let mask_end = if masked { len_end + 4 } else { len_end };
        if header.len() < mask_end {
            return Ok(None);
        }
        let mask = header[len_end..].try_into().unwrap_or([0; 4]);
        match opcode {
            1 => self.message = Some((Kind::Text, Vec::new())),
            2 => self.message = Some((Kind::Binary, Vec::new())),
            _ => {}
        }
        if !control {
            self.frames += 1;
            self.deflated = deflated;
        }
        Ok(Some(Frame { fin, opcode, mask, len }))
    }

    fn end_frame(&mut self) -> Result<Option<Seen>, Fault> {
        let frame = self.frame.take().expect("in a frame");
        let payload = std::mem::take(&mut self.payload);
        match frame.opcode {
            9 => return Ok(Some(Seen::Ping(payload))),
            10 => return Ok(Some(Seen::Pong(payload))),
            8 if payload.is_empty() => return Ok(Some(Seen::Close(1005, String::new()))),
            8 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                    return Err(Fault::CloseCode);
                }
                let reason = String::from_utf8(payload[2..].to_vec());
                return Ok(Some(Seen::Close(code, reason.map_err(|_| Fault::CloseReason)?)));
            }
            _ if !frame.fin => return Ok(None),
            _ => {}
        }
        self.frames = 0;
        let (kind, message) = self.message.take().expect("in a message");
        if self.deflated {
            return Ok(Some(Seen::Deflated(kind, message)));
        }
        if kind == Kind::Text && std::str::from_utf8(&message).is_err() {
            return Err(Fault::InvalidUtf8);
        }
        Ok(Some(Seen::Message(kind, message)))
    }
}

/// The payload length of a header, and where it ends.
fn read_len(header: &[u8]) -> Result<Option<(u64, usize)>, Fault> {
    let short = header[1] & 127;
    if short == 127 && header.len() >= 3 && header[2] >= 0x80 {
        return Err(Fault::LengthTopBit);
    }
    if short == 127 && header.len() >= 8 && header[2..8] == [0; 6] {
        return Err(Fault::LengthNotMinimal);
    }
    let end = match short {
        126 => 4,
        127 => 10,
        _ => return Ok(Some((short as u64, 2))),
    };
    if header.len() < end {
        return Ok(None);
    }
    let len = header[2..end].iter().fold(0, |len, &byte| len << 8 | byte as u64);
    if short == 126 && len < 126 {
        return Err(Fault::LengthNotMinimal);
    }
    Ok(Some((len, end)))
}

/// Decodes `stream` in pieces of so many bytes as `plan` says, over and over, and checks on the way
/// what holds at every step. Returns the outcome and the range of the stream that the last piece
/// was.
pub(crate) fn run(
    decoder: &Decoder,
    compression: bool,
    stream: &[u8],
    plan: &[usize],
) -> (Outcome, std::ops::Range<usize>) {
    let mut events = Vec::new();
    let mut partial: Option<Box<Partial>> = None;
    let mut piece = 0..0;
    for bytes in plan.iter().cycle() {
        let rest = &stream[piece.end..];
        let bytes = (*bytes).clamp(1, rest.len().max(1)).min(rest.len());
        piece = piece.end..piece.end + bytes;
        let input = &mut rest[..bytes].to_vec();
        let result = decode(decoder, compression, &mut partial, input, &mut events);
        if let Err(fault) = result {
            assert!(partial.is_none(), "a failed connection keeps nothing");
            return (Outcome { events, end: End::Failed(fault) }, piece);
        }
        if let Some(partial) = &partial {
            let most = 2 * piece.end + (4 << 10) + 512;
            assert!(partial.memory() <= most, "{} after {piece:?}", partial.memory());
            assert!(partial.missing() <= payload_max(decoder.max_message));
        }
        if matches!(events.last(), Some(Seen::Close(..))) {
            return (Outcome { events, end: End::Closed }, piece);
        }
        if piece.end == stream.len() {
            break;
        }
    }
    let end = if partial.is_none() { End::Idle } else { End::Unfinished };
    (Outcome { events, end }, piece)
}

fn decode(
    decoder: &Decoder,
    compression: bool,
    partial: &mut Option<Box<Partial>>,
    input: &mut [u8],
    events: &mut Vec<Seen>,
) -> Result<(), Fault> {
    let mut at = 0;
    loop {
        let before = at;
        let event = match compression {
            true => decoder.decode_deflated(partial, input, &mut at)?,
            false => decoder.decode(partial, input, &mut at)?.map(Arrival::Event),
        };
        assert!(before <= at && at <= input.len());
        let Some(event) = event else {
            assert_eq!(at, input.len(), "all of the input is consumed");
            return Ok(());
        };
        let event = see(decoder, event, input);
        let closed = matches!(event, Seen::Close(..));
        events.push(event);
        if closed {
            return Ok(());
        }
    }
}

fn see(decoder: &Decoder, event: Arrival, input: &[u8]) -> Seen {
    let bytes = |payload: Payload| match payload {
        Payload::Inline(range) => {
            // There is room before it for the header it came with.
            let masked = decoder.role == Role::Server;
            assert!(range.start >= frame::header_len(range.len(), masked));
            input[range].to_vec()
        }
        Payload::Assembled(bytes) => bytes.into(),
    };
    let event = match event {
        Arrival::Event(event) => event,
        Arrival::Deflated(kind, payload) => return Seen::Deflated(kind, bytes(payload)),
    };
    match event {
        Event::Message(kind, payload) => Seen::Message(kind, bytes(payload)),
        Event::Ping(payload) => Seen::Ping(bytes(payload)),
        Event::Pong(payload) => Seen::Pong(bytes(payload)),
        Event::Close(close) => Seen::Close(close.code.0, close.reason),
    }
}

/// Fails unless the decoder makes of `stream`, cut by `plan`, what the model makes of it, and finds
/// a fault in the very piece that brings the first bad byte.
pub(crate) fn check(decoder: &Decoder, compression: bool, stream: &[u8], plan: &[usize]) {
    let (expected, decided) = expect(decoder, compression, stream);
    let (outcome, piece) = run(decoder, compression, stream, plan);
    assert_eq!(outcome, expected, "{decoder:?} {plan:?} {}", stream.escape_ascii());
    if let End::Failed(_) | End::Closed = outcome.end {
        assert!(
            piece.start < decided && decided <= piece.end,
            "decided by byte {decided}, found in {piece:?} of {}",
            stream.escape_ascii()
        );
    }
}

/// Appends a frame as it would be written by the peer of `role`.
pub(crate) fn put(
    out: &mut Vec<u8>,
    role: Role,
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    bytes: &[u8],
) {
    let mask = (role == Role::Server).then_some(mask);
    let header = frame::Header { fin, opcode, mask, len: bytes.len() as u64 };
    let mut head = [0; frame::HEADER_MAX];
    let used = header.write(&mut head);
    out.extend_from_slice(&head[..used]);
    let mask = mask.unwrap_or_default();
    out.extend(bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
