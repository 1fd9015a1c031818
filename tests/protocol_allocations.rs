//! The common path of the protocol layer takes no memory: counted, not believed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringhold::protocol::frame::{self, Opcode};
use ringhold::protocol::proxy_header::{self, Start};
use ringhold::protocol::{Arrival, Decoder, Deflater, Event, Inflater, Kind, Payload, Role};

/// The system's allocator, which counts what the current thread asks for and holds.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends may allocate after its counter is gone.
        let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
        let _ = HELD.try_with(|held| held.set(held.get() + layout.size() as isize));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| held.set(held.get() - layout.size() as isize));
        // SAFETY: the pointer came from `System`, because `alloc` passes everything on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MASK: [u8; 4] = [1, 2, 3, 4];

fn asked() -> u64 {
    ASKED.with(Cell::get)
}

fn decoder() -> Decoder {
    Decoder { role: Role::Server, max_message: 1 << 20, max_fragments: 8 }
}

#[test]
fn whole_frames_take_no_memory() {
    let mut input = Vec::new();
    for size in [0, 5, 32, 125, 126, 4_000, 70_000] {
        frame::append(&mut input, Opcode::Binary, &vec![7; size], Some(MASK));
        frame::append(&mut input, Opcode::Text, "é".repeat(size).as_bytes(), Some(MASK));
    }
    frame::append(&mut input, Opcode::Ping, b"ping", Some(MASK));
    frame::append(&mut input, Opcode::Pong, b"", Some(MASK));
    frame::append(&mut input, Opcode::Close, b"", Some(MASK));
    let mut out = Vec::with_capacity(input.len());

    let (mut partial, mut at, mut events) = (None, 0, 0);
    let before = asked();
    while let Some(event) = decoder().decode(&mut partial, &mut input, &mut at).unwrap() {
        let (Event::Message(_, payload) | Event::Ping(payload) | Event::Pong(payload)) = event
        else {
            break;
        };
        frame::append(&mut out, Opcode::Binary, payload.bytes(&input), None);
        events += 1;
    }
    assert_eq!(asked() - before, 0);
    assert_eq!((events, at), (16, input.len()));
    assert!(partial.is_none());
}

/// Each connection is asked whether it begins with one.
#[test]
fn proxy_headers_take_no_memory() {
    let before = asked();
    let start = proxy_header::parse(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(start, Ok(Start::Plain));
    let start = proxy_header::parse(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n");
    assert!(matches!(start, Ok(Start::Header(_))));
    let start = proxy_header::parse(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    assert!(matches!(start, Ok(Start::Header(_))));
    assert_eq!(asked() - before, 0);
}

#[test]
fn control_frames_inside_a_message_take_no_memory() {
    let mut start = Vec::new();
    frame::append(&mut start, Opcode::Text, b"half a mess", Some(MASK));
    start[0] &= 0x7f;
    let (mut partial, mut at) = (None, 0);
    assert_eq!(decoder().decode(&mut partial, &mut start, &mut at), Ok(None));

    let mut input = Vec::new();
    for _ in 0..10 {
        frame::append(&mut input, Opcode::Ping, &[9; 125], Some(MASK));
    }
    at = 0;
    let before = asked();
    for _ in 0..10 {
        let event = decoder().decode(&mut partial, &mut input, &mut at);
        assert!(matches!(event, Ok(Some(Event::Ping(Payload::Inline(_))))));
    }
    assert_eq!(asked() - before, 0);

    let mut end = Vec::new();
    frame::append(&mut end, Opcode::Continuation, b"age", Some(MASK));
    at = 0;
    let event = decoder().decode(&mut partial, &mut end, &mut at);
    let message = Payload::Assembled(b"half a message".as_slice().into());
    assert_eq!(event, Ok(Some(Event::Message(Kind::Text, message))));
    assert!(partial.is_none());
}

#[test]
fn compression_takes_memory_once_and_gives_it_back() {
    let message = b"a message that is like a message ".repeat(100);
    let held = || HELD.with(Cell::get);
    let before = held();
    let (mut deflater, mut inflater) = (Deflater::new(3), Inflater::default());
    assert_eq!((held() - before, deflater.memory() + inflater.memory()), (0, 0));

    let mut payload = Vec::with_capacity(8 << 10);
    let room = payload.capacity() as isize;
    deflater.deflate(&message, 15, &mut payload).unwrap();
    // Never less than what it says, and not much more.
    let (real, said) = (held() - before - room, deflater.memory() as isize);
    assert!(real <= said && said < real + (64 << 10), "{real} of {said} bytes");
    let before_inflater = held();
    inflater.message(Kind::Text, &payload, 1 << 20).unwrap();
    let (real, said) = (held() - before_inflater, inflater.memory() as isize);
    assert!(real <= said && said < real + (8 << 10), "{real} of {said} bytes");

    let mut input = Vec::new();
    frame::append_deflated(&mut input, Opcode::Text, &payload, Some(MASK));
    let asked_before = asked();
    for _ in 0..10 {
        payload.clear();
        deflater.deflate(&message, 15, &mut payload).unwrap();
        let (mut partial, mut at) = (None, 0);
        let mut copy = [0; 8 << 10];
        let copy = &mut copy[..input.len()];
        copy.copy_from_slice(&input);
        let arrival = decoder().decode_deflated(&mut partial, copy, &mut at).unwrap();
        let Some(Arrival::Deflated(kind, payload)) = arrival else { panic!("a message") };
        assert_eq!(inflater.message(kind, payload.bytes(copy), 1 << 20), Ok(&message[..]));
    }
    assert_eq!(asked() - asked_before, 0);

    drop(input);

    // Each window has a compressor of at most that size.
    for bits in [9, 12] {
        let (real, said) = (held(), deflater.memory() as isize);
        payload.clear();
        deflater.deflate(&[7; 17 << 10], bits, &mut Vec::with_capacity(20 << 10)).unwrap();
        let (real, said) = (held() - real, deflater.memory() as isize - said);
        assert!(0 < real && real <= said, "{bits}: {real} of {said} bytes");
    }
    // Those between have none of their own.
    for bits in 10..15 {
        let real = held();
        deflater.deflate(&[7; 17 << 10], bits, &mut Vec::with_capacity(20 << 10)).unwrap();
        assert_eq!(held() - real, 0, "{bits}");
    }
    deflater.release();
    inflater.release();
    assert_eq!((held() - before - room, deflater.memory() + inflater.memory()), (0, 0));
}
