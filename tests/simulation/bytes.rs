//! What clients write: frames, and payloads that can be told apart; and what they are told.

use std::collections::{HashMap, VecDeque};

use ringhold::Policy;
use ringhold::internals::rng::Rng;
use ringhold::protocol::frame::{self, HEADER_MAX, Header, Opcode};
use ringhold::protocol::{Kind, mask};

/// Appends a frame of a client.
pub fn put(out: &mut VecDeque<u8>, fin: bool, opcode: Opcode, payload: &[u8], mask: u32) {
    put_with(out, 0, fin, opcode, payload, mask);
}

/// The same with reserved bits.
pub fn put_with(
    out: &mut VecDeque<u8>,
    reserved: u8,
    fin: bool,
    opcode: Opcode,
    payload: &[u8],
    mask: u32,
) {
    let mask = mask.to_ne_bytes();
    let header = Header { fin, opcode, mask: Some(mask), len: payload.len() as u64 };
    let mut bytes = [0; HEADER_MAX];
    let used = header.write(&mut bytes);
    bytes[0] |= reserved;
    let mut masked = bytes[..used].to_vec();
    debug_assert_eq!(used, frame::header_len(payload.len(), true));
    mask::append(&mut masked, payload, mask);
    out.extend(masked);
}

/// A payload that no other message of this client has, unless it is very short.
pub fn content(kind: Kind, len: usize, number: u64, rng: &mut Rng) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    let mut payload = format!("E{number} ").into_bytes();
    while payload.len() < len {
        match kind {
            Kind::Binary => payload.extend(rng.draw().to_ne_bytes()),
            Kind::Text => {
                payload.extend(["é", "x", "日本", "🦀"][rng.below(4) as usize].as_bytes());
            }
        }
    }
    payload
}

/// What the numbers of messages of one kind must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Newer ones may take the places of older ones.
    Free,
    /// Some may be missing.
    Rising,
    /// None may.
    Whole,
}

impl Order {
    pub fn of(policy: Policy, calm: bool) -> Self {
        match policy {
            Policy::Conflate => Self::Free,
            _ if calm => Self::Whole,
            _ => Self::Rising,
        }
    }
}

/// The numbers of what a client received: of its own messages, and of each publisher and topic.
pub struct Numbers {
    order: Order,
    last: HashMap<Vec<u8>, u64>,
}

impl Numbers {
    pub fn new(order: Order) -> Self {
        Self { order, last: HashMap::new() }
    }

    /// Takes a message that begins with its kind, a dot and its number.
    pub fn take(&mut self, data: &[u8]) -> Result<(), String> {
        let dot = data.iter().position(|byte| *byte == b'.').ok_or("a message without number")?;
        let digits = data[dot + 1..].iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        let Some(last) = self.last.insert(data[..dot].to_vec(), number) else { return Ok(()) };
        let holds = match self.order {
            Order::Free => true,
            Order::Rising => number > last,
            Order::Whole => number == last + 1,
        };
        let kind = data[..dot].escape_ascii();
        if holds { Ok(()) } else { Err(format!("{kind}: number {number} behind {last}")) }
    }
}

/// The name a refusal is counted by.
pub fn refused(status: u16) -> &'static str {
    match status {
        400 => "refused 400",
        403 => "refused 403",
        404 => "refused 404",
        405 => "refused 405",
        204 => "answered 204",
        408 => "refused 408",
        411 => "refused 411",
        413 => "refused 413",
        426 => "refused 426",
        431 => "refused 431",
        503 => "refused 503",
        505 => "refused 505",
        _ => "refused otherwise",
    }
}
