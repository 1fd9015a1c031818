//! Compression on a client's side: what it offers, and what it makes of messages. All clients of a
//! thread share the library's compressor and decompressor, since each message stands alone.

use std::cell::RefCell;

use ringhold::protocol::frame::RSV1;
use ringhold::protocol::{Deflater, Inflater, Kind};

thread_local! {
    static DEFLATER: RefCell<Deflater> = RefCell::new(Deflater::new(6));
    static INFLATER: RefCell<Inflater> = RefCell::default();
}

/// The header that offers compression with a window of so many bits.
pub fn offer(window_bits: u8) -> (String, String) {
    let window = format!("; server_max_window_bits={window_bits}");
    let window = if window_bits == 15 { "" } else { &window };
    // What the answer of the library's server says is what its client demands.
    let value = format!("permessage-deflate; server_no_context_takeover{window}");
    ("Sec-WebSocket-Extensions".to_owned(), value)
}

/// The payload of a message: as short as it gets, or as a poor encoder has it.
pub fn deflate(message: &[u8], poorly: bool) -> Vec<u8> {
    let mut payload = Vec::new();
    let done = DEFLATER.with_borrow_mut(|deflater| deflater.deflate(message, 15, &mut payload));
    if poorly || done.is_err() {
        payload.clear();
        for piece in message.chunks(256) {
            let len = piece.len() as u16;
            payload.push(0);
            payload.extend(len.to_le_bytes());
            payload.extend((!len).to_le_bytes());
            payload.extend(piece);
        }
        payload.push(0);
    }
    payload
}

/// The message that a payload is of.
pub fn inflate(kind: Kind, payload: &[u8]) -> Result<Vec<u8>, String> {
    INFLATER.with_borrow_mut(|inflater| {
        let message = inflater.message(kind, payload, 1 << 24);
        message.map(<[u8]>::to_vec).map_err(|fault| format!("no server's stream: {fault}"))
    })
}

/// What nobody may send where compression is agreed on, masked by zeros.
pub fn violation(number: usize) -> Vec<u8> {
    let mut bomb = Vec::new();
    let spaces = vec![b' '; 1 << 20];
    let done = DEFLATER.with_borrow_mut(|deflater| deflater.deflate(&spaces, 15, &mut bomb));
    assert_eq!(done, Ok(()));
    let blocks = b"\x03\0".repeat(4000);
    let (first, payload): (u8, &[u8]) = match number % 6 {
        0 => (0x81 | RSV1, b"\x06"),
        1 => (0x81 | RSV1, b"\xf2\x48"),
        2 => (0x82 | RSV1, &bomb),
        3 => (0x82 | RSV1, &blocks),
        4 => (0x89 | RSV1, b"\0"),
        _ => (0x80 | RSV1, b"\0"),
    };
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
