//! What the protocol layer costs per frame, byte and handshake, beside memcpy, tungstenite and
//! fastwebsockets.
//!
//! `cargo bench --bench protocol` runs all, `cargo bench --bench protocol -- mask` a group. The
//! others read from a stream, so the decode group feeds everybody by one copy of the wire bytes
//! into the read buffer, which stands for the kernel's copy in `recv`.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use futures_util::FutureExt;
use ringhold::protocol::frame::{self, Opcode};
use ringhold::protocol::utf8::{self, Utf8};
use ringhold::protocol::{Decoder, Deflater, Fault, Inflater, Kind, Role, mask, request, response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::handshake::machine::TryParse;
use tungstenite::protocol::WebSocketContext;

/// Low bits only, so that ASCII stays ASCII when it is masked.
const MASK: [u8; 4] = [1, 2, 3, 4];

/// A chat line, a document, a full ring buffer, a picture.
const SIZES: [usize; 4] = [32, 1 << 10, 16 << 10, 64 << 10];

/// A stream that repeats the same bytes for ever, as much as there is room for at a time.
struct Wire {
    bytes: Vec<u8>,
    at: usize,
}

impl Wire {
    fn next(&mut self, room: usize) -> &[u8] {
        let bytes = &self.bytes[self.at..];
        let n = bytes.len().min(room);
        self.at = (self.at + n) % self.bytes.len();
        &bytes[..n]
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.next(buffer.len());
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = self.next(buffer.remaining());
        buffer.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(40)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200));
    group
}

/// `count` frames of `size` bytes, masked, one after the other.
fn wire(opcode: Opcode, payload: &[u8], count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        frame::append(&mut bytes, opcode, payload, Some(MASK));
    }
    bytes
}

/// Text with a character of two bytes in every word.
fn mixed(size: usize) -> Vec<u8> {
    "größer ".bytes().cycle().take(size / 8 * 8).collect()
}

fn masking(c: &mut Criterion) {
    let mut group = group(c, "mask");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        // Where a payload starts in a read buffer: behind a header, hardly ever aligned.
        let start = frame::header_len(size, true);
        let mut bytes = vec![0x55; start + size];
        let mut copy = bytes.clone();
        group.bench_function(BenchmarkId::new("memcpy", size), |b| {
            b.iter(|| black_box(&mut copy)[start..].copy_from_slice(&black_box(&bytes)[start..]))
        });
        group.bench_function(BenchmarkId::new("ringhold", size), |b| {
            b.iter(|| mask::apply(&mut black_box(&mut bytes)[start..], black_box(MASK), 0))
        });
        let mut out = Vec::with_capacity(size);
        group.bench_function(BenchmarkId::new("ringhold copying", size), |b| {
            b.iter(|| {
                out.clear();
                mask::append(&mut out, &black_box(&bytes)[start..], black_box(MASK));
                black_box(&mut out);
            })
        });
        group.bench_function(BenchmarkId::new("fastwebsockets", size), |b| {
            b.iter(|| fastwebsockets::unmask(&mut black_box(&mut bytes)[start..], black_box(MASK)))
        });
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut group = group(c, "decode");
    for size in SIZES {
        let payload = vec![0x55; size];
        decode_case(&mut group, &format!("binary {size}"), Opcode::Binary, &payload, 1);
    }
    decode_case(&mut group, "binary 16 x 32", Opcode::Binary, &[0x55; 32], 16);
    decode_case(&mut group, "text 32", Opcode::Text, &[b'a'; 32], 1);
    decode_case(&mut group, "text 16384", Opcode::Text, &[b'a'; 16 << 10], 1);
    group.finish();
}

/// `count` frames that arrive at once.
fn decode_case(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    opcode: Opcode,
    payload: &[u8],
    count: usize,
) {
    group.throughput(Throughput::Bytes((payload.len() * count) as u64));
    let bytes = wire(opcode, payload, count);
    let decoder = Decoder { role: Role::Server, max_message: 1 << 20, max_fragments: 64 };
    let mut input = bytes.clone();
    let mut ringhold = |receive: bool| {
        if receive {
            input.copy_from_slice(black_box(&bytes));
        }
        let (mut partial, mut at) = (None, 0);
        for _ in 0..count {
            let event = decoder.decode(&mut partial, black_box(&mut input), &mut at);
            assert!(matches!(black_box(event), Ok(Some(_))));
        }
    };
    group.bench_function(BenchmarkId::new("ringhold", name), |b| b.iter(|| ringhold(true)));
    group.bench_function(BenchmarkId::new("ringhold, bytes there", name), |b| {
        b.iter(|| ringhold(false))
    });
    let mut stream = Wire { bytes: bytes.clone(), at: 0 };
    let mut context = WebSocketContext::new(tungstenite::protocol::Role::Server, None);
    group.bench_function(BenchmarkId::new("tungstenite", name), |b| {
        b.iter(|| {
            for _ in 0..count {
                black_box(context.read(black_box(&mut stream)).unwrap());
            }
        })
    });
    let stream = Wire { bytes, at: 0 };
    let server = fastwebsockets::Role::Server;
    let mut socket = fastwebsockets::WebSocket::after_handshake(stream, server);
    group.bench_function(BenchmarkId::new("fastwebsockets", name), |b| {
        b.iter(|| {
            for _ in 0..count {
                let frame = socket.read_frame().now_or_never().expect("the wire is ready");
                let frame = frame.unwrap_or_else(|error| panic!("{error}"));
                // It leaves the check of text to its callers.
                let text = frame.opcode == fastwebsockets::OpCode::Text;
                assert!(!text || frame.is_utf8());
                black_box(&frame.payload);
            }
        })
    });
}

fn encode(c: &mut Criterion) {
    let mut group = group(c, "encode");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let payload = vec![0x55; size];
        let mut out = Vec::with_capacity(size + frame::HEADER_MAX);
        for (name, mask) in [("ringhold", None), ("ringhold masked", Some(MASK))] {
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    out.clear();
                    frame::append(&mut out, Opcode::Binary, black_box(&payload), mask);
                    black_box(&mut out);
                })
            });
        }
        let shared = tungstenite::Bytes::from(payload.clone());
        group.bench_function(BenchmarkId::new("tungstenite", size), |b| {
            use tungstenite::protocol::frame::Frame;
            use tungstenite::protocol::frame::coding::{Data, OpCode};
            b.iter(|| {
                out.clear();
                let data = OpCode::Data(Data::Binary);
                Frame::message(black_box(shared.clone()), data, true).format(&mut out).unwrap();
                black_box(&mut out);
            })
        });
        group.bench_function(BenchmarkId::new("fastwebsockets", size), |b| {
            b.iter(|| {
                out.clear();
                let payload = fastwebsockets::Payload::Borrowed(black_box(&payload));
                black_box(fastwebsockets::Frame::binary(payload).write(&mut out));
            })
        });
    }
    group.finish();
}

fn text(c: &mut Criterion) {
    let mut group = group(c, "utf8");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        for (name, bytes) in [("ascii", vec![b'a'; size]), ("mixed", mixed(size))] {
            let id = |who| BenchmarkId::new(who, format!("{name} {size}"));
            group.bench_function(id("std"), |b| {
                b.iter(|| black_box(std::str::from_utf8(black_box(&bytes)).is_ok()))
            });
            group.bench_function(id("ringhold"), |b| {
                b.iter(|| black_box(utf8::is_valid(black_box(&bytes))))
            });
            group.bench_function(id("ringhold by 1000"), |b| {
                b.iter(|| {
                    let mut utf8 = Utf8::default();
                    for chunk in black_box(&bytes).chunks(1000) {
                        utf8.push(chunk).unwrap();
                    }
                    black_box(utf8)
                })
            });
        }
    }
    group.finish();
}

fn handshake(c: &mut Criterion) {
    let mut group = group(c, "handshake");
    let mut minimal = Vec::new();
    response::write_request(&mut minimal, "example.com", "/chat", [7; 16], &[]);
    let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let browser = [
        line("Pragma", "no-cache"),
        line("Cache-Control", "no-cache"),
        line(
            "User-Agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        line("Accept", "*/*"),
        line("Accept-Language", "en-US,en;q=0.5"),
        line("Accept-Encoding", "gzip, deflate, br, zstd"),
        line("Origin", "https://example.com"),
        line("Sec-WebSocket-Extensions", "permessage-deflate"),
        line("Cookie", &"session=0123456789abcdef; ".repeat(8)),
    ];
    let mut full = Vec::new();
    response::write_request(&mut full, "example.com", "/chat?room=1", [7; 16], &browser);
    for (name, head) in [("minimal", minimal), ("browser", full)] {
        group.throughput(Throughput::Bytes(head.len() as u64));
        let mut out = Vec::with_capacity(512);
        group.bench_function(BenchmarkId::new("ringhold", name), |b| {
            b.iter(|| {
                out.clear();
                let parsed = request::parse(black_box(&head), &mut 0, 8192).unwrap();
                let upgrade = parsed.unwrap().0.upgrade().unwrap();
                request::write_accept(&mut out, &upgrade, None, &[]);
                black_box(&mut out);
            })
        });
        group.bench_function(BenchmarkId::new("ringhold, byte by byte", name), |b| {
            b.iter(|| {
                let mut scanned = 0;
                let head = black_box(&head);
                (1..=head.len())
                    .find_map(|n| request::parse(&head[..n], &mut scanned, 8192).unwrap())
                    .unwrap()
                    .0
                    .upgrade()
                    .unwrap()
            })
        });
        group.bench_function(BenchmarkId::new("tungstenite", name), |b| {
            use tungstenite::handshake::server::{Request, create_response, write_response};
            b.iter(|| {
                out.clear();
                let (_, request) = Request::try_parse(black_box(&head)).unwrap().unwrap();
                write_response(&mut out, &create_response(&request).unwrap()).unwrap();
                black_box(&mut out);
            })
        });
    }
    group.finish();
}

/// Records of prices, as a gateway publishes them.
fn records(size: usize) -> Vec<u8> {
    let mut draw = 7692_u64;
    let mut next = || {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        draw >> 33
    };
    let mut text = String::from(r#"{"push":{"channel":"prices","pub":{"data":["#);
    while text.len() < size {
        let (bid, ask, volume) = (next() % 50_000_000, next() % 50_000_000, next() % (1 << 20));
        let (bid, ask) = (bid as f64 / 10_000.0, ask as f64 / 10_000.0);
        text += &format!(r#"{{"bid":{bid},"ask":{ask},"volume":{volume},"open":true}},"#);
    }
    text.truncate(size);
    text.into_bytes()
}

/// Messages compressed and inflated, and those that are made to take long.
fn compression(c: &mut Criterion) {
    let mut group = group(c, "compression");
    for size in [256, 1 << 10, 4 << 10, 16 << 10] {
        let message = records(size);
        let mut payload = Vec::new();
        Deflater::new(3).deflate(&message, 15, &mut payload).expect("shorter");
        group.throughput(Throughput::Bytes(size as u64));
        for level in [3, 6] {
            let mut deflater = Deflater::new(level);
            let mut out = Vec::new();
            let id = BenchmarkId::new(format!("deflate-{level}"), size);
            group.bench_with_input(id, &message, |b, message| {
                b.iter(|| {
                    out.clear();
                    deflater.deflate(black_box(message), 15, &mut out)
                });
            });
        }
        let mut inflater = Inflater::default();
        group.bench_with_input(BenchmarkId::new("inflate", size), &payload, |b, payload| {
            b.iter(|| inflater.message(Kind::Text, black_box(payload), 1 << 20).map(<[u8]>::len));
        });
    }
    // At a limit of 64 KiB: what would be 16 MiB; as many blocks as there may be.
    const LIMIT: usize = 64 << 10;
    let mut bomb = Vec::new();
    Deflater::new(9).deflate(&vec![0; 16 << 20], 15, &mut bomb).expect("shorter");
    let blocks = b"\x00\x00\x00\xff\xff".repeat(13_000);
    group.throughput(Throughput::Bytes(LIMIT as u64));
    for (name, payload, fault) in
        [("bomb", &bomb, Fault::MessageTooBig), ("bomb-of-blocks", &blocks, Fault::TooManyBlocks)]
    {
        let mut inflater = Inflater::default();
        group.bench_function(name, |b| {
            b.iter(|| {
                let found = inflater.message(Kind::Binary, black_box(payload), LIMIT);
                assert_eq!(found, Err(fault));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, masking, decode, encode, text, handshake, compression);
criterion_main!(benches);
