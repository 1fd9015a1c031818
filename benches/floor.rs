//! The floor of an echo: how cheap it can be on this machine. A bare loop of the receives and sends
//! that an echo server needs, with no rules, no timers, no limits and no application: the same ring
//! operations as the engine's (one multishot poll per connection, batched receives and sends), and
//! of the frames only what it takes to send their payload back.
//!
//! `cargo bench --bench floor -- PORT [PAYLOAD]` serves until it is interrupted; its buffers fit
//! messages of that many bytes. Measure it with `ringhold load echo --server-pid` beside `ringhold
//! echo`, or both with `benches/compare.sh`: the difference is what ringhold adds to the kernel's
//! TCP path. `cargo bench` without a port says so and ends.

mod bare;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};
use ringhold::protocol::mask;

fn main() {
    let Some((port, payload)) = bare::arguments("floor") else { return };
    let listener = bare::listen(port).expect("a free port");
    let mut floor = Floor::new(payload.unwrap_or(32)).expect("io_uring");
    floor.run(&listener);
}

/// Connections by index; their sockets stay ordinary descriptors, which cost the same per message.
struct Floor {
    ring: IoUring,
    peers: Vec<Option<Peer>>,
    /// One per place of a batch, each with room for the start of a header before what is received.
    buffers: Vec<Vec<u8>>,
    /// What the receive of each place returned.
    received: Vec<i32>,
    /// Connections with something to receive.
    ready: Vec<usize>,
    /// The listener has something to accept.
    accept: bool,
    /// Sends whose buffers are in use.
    sending: usize,
}

struct Peer {
    socket: TcpStream,
    stream: Stream,
}

impl Floor {
    fn new(payload: usize) -> std::io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(16_384)
            .build(1024)?;
        let buffer = (payload + 2 * HEADER_MAX).clamp(BUFFER_MIN, BUFFER_MAX);
        let batch = (BUFFERS / buffer).clamp(BATCH_MIN, BATCH_MAX);
        Ok(Self {
            ring,
            peers: Vec::new(),
            buffers: vec![vec![0; buffer]; batch],
            received: vec![0; batch],
            ready: Vec::new(),
            accept: false,
            sending: 0,
        })
    }

    fn run(&mut self, listener: &TcpListener) {
        listener.set_nonblocking(true).expect("a socket");
        self.arm(types::Fd(listener.as_raw_fd()), LISTENER);
        loop {
            self.enter(usize::from(self.ready.is_empty()));
            if std::mem::take(&mut self.accept) {
                while let Ok((socket, _)) = listener.accept() {
                    self.adopt(socket);
                }
            }
            let count = self.ready.len().min(self.buffers.len());
            let batch: Vec<usize> = self.ready.drain(..count).collect();
            if !batch.is_empty() {
                self.echo(&batch);
            }
        }
    }

    /// Submits, waits for so many completions, and notes all there are.
    fn enter(&mut self, wait: usize) {
        let _ = self.ring.submit_and_wait(wait);
        for entry in self.ring.completion() {
            match entry.user_data() {
                LISTENER => self.accept = true,
                SEND => self.sending -= 1,
                // A small send that failed: its peer is gone, or misses an answer and says so.
                SMALL_SEND => {}
                data if data >= RECV => self.received[(data - RECV) as usize] = entry.result(),
                index => self.ready.push(index as usize),
            }
        }
    }

    /// Answers the upgrade request in blocking style: it is not what is measured.
    fn adopt(&mut self, mut socket: TcpStream) {
        if bare::shake_hands(&mut socket).is_none() {
            return;
        }
        let index = self.peers.len();
        self.arm(types::Fd(socket.as_raw_fd()), index as u64);
        self.peers.push(Some(Peer { socket, stream: Stream::default() }));
    }

    fn arm(&mut self, fd: types::Fd, data: u64) {
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.push(entry.user_data(data));
    }

    /// Receives once from each, and sends back what came.
    fn echo(&mut self, batch: &[usize]) {
        for (place, index) in batch.iter().enumerate() {
            self.received[place] = -libc::EAGAIN;
            let Some(peer) = &self.peers[*index] else { continue };
            let fd = types::Fd(peer.socket.as_raw_fd());
            let room = &mut self.buffers[place][HEADER_MAX..];
            let entry = opcode::Recv::new(fd, room.as_mut_ptr(), room.len() as u32)
                .flags(libc::MSG_DONTWAIT)
                .build();
            self.push(entry.user_data(RECV + place as u64));
        }
        self.enter(0);
        for (place, index) in batch.iter().enumerate() {
            let count = self.received[place];
            let Some(peer) = &mut self.peers[*index] else { continue };
            if count <= 0 {
                if count != -libc::EAGAIN {
                    self.hang_up(*index);
                }
                continue;
            }
            let buffer = &mut self.buffers[place];
            if count as usize == buffer.len() - HEADER_MAX {
                self.ready.push(*index);
            }
            let answer = peer.stream.turn_round(buffer, count as usize);
            let (fd, is_last) = (types::Fd(peer.socket.as_raw_fd()), peer.stream.closing);
            let entry = opcode::Send::new(fd, buffer[answer.clone()].as_ptr(), answer.len() as u32);
            // A small answer fits the socket, as its peer waits for it. A large one may have to
            // wait, and its buffer with it.
            let entry = if answer.len() <= BUFFER_MIN {
                let entry = entry.flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).build();
                entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(SMALL_SEND)
            } else {
                self.sending += 1;
                entry.flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build().user_data(SEND)
            };
            self.push(entry);
            if is_last {
                self.enter(0);
                self.hang_up(*index);
            }
        }
        while self.sending > 0 {
            self.enter(1);
        }
    }

    /// The poll holds the socket, so closing it would not be enough.
    fn hang_up(&mut self, index: usize) {
        if let Some(peer) = self.peers[index].take() {
            let _ = peer.socket.shutdown(Shutdown::Both);
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: entries point into `buffers`, which live as long as the ring and are not resized.
        // Receives and small sends do not wait, so their buffers are free again when their
        // submission returned; `echo` waits for the others.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            let _ = self.ring.submit();
        }
    }
}

/// How far into a frame a connection is.
#[derive(Default)]
struct Stream {
    mask: [u8; 4],
    /// Payload bytes of the frame so far, and those to come.
    seen: usize,
    left: usize,
    /// The start of a header whose rest has not come.
    head: [u8; HEADER_MAX],
    spilled: usize,
    /// A close frame came.
    closing: bool,
}

impl Stream {
    /// Turns `count` bytes received at [`HEADER_MAX`] into what is sent back: the same frames
    /// without masks. Returns where it lies.
    fn turn_round(&mut self, buffer: &mut [u8], count: usize) -> Range<usize> {
        let mut at = HEADER_MAX - self.spilled;
        buffer[at..HEADER_MAX].copy_from_slice(&self.head[..self.spilled]);
        self.spilled = 0;
        let end = HEADER_MAX + count;
        let (mut start, mut out) = (at, at);
        while at < end {
            if self.left == 0 {
                let Some((header, len)) = bare::parse(&buffer[at..end]) else {
                    self.spilled = end - at;
                    self.head[..self.spilled].copy_from_slice(&buffer[at..end]);
                    break;
                };
                self.mask.copy_from_slice(&buffer[at + header - 4..at + header]);
                self.closing |= buffer[at] & 0x0f == 8;
                (self.seen, self.left) = (0, len);
                // The first header moves up to its payload, which saves moving that one down.
                if out == start && out == at {
                    (start, out) = (at + 4, at + 4);
                }
                buffer.copy_within(at..at + header - 4, out);
                buffer[out + 1] &= 0x7f;
                (at, out) = (at + header, out + header - 4);
            }
            let piece = self.left.min(end - at);
            mask::apply(&mut buffer[at..at + piece], self.mask, self.seen);
            if out != at {
                buffer.copy_within(at..at + piece, out);
            }
            (at, out) = (at + piece, out + piece);
            (self.seen, self.left) = (self.seen + piece, self.left - piece);
        }
        start..out
    }
}

/// The longest header of a frame (RFC 6455 section 5.2).
const HEADER_MAX: usize = 14;
/// Bytes of a buffer; what a message needs lies between.
const BUFFER_MIN: usize = 4096;
const BUFFER_MAX: usize = 256 * 1024 + 64;
/// Of all buffers together: half of the second-level cache of a common processor.
const BUFFERS: usize = 1024 * 1024;
/// Receives and sends per submission.
const BATCH_MIN: usize = 4;
const BATCH_MAX: usize = 240;
const LISTENER: u64 = 1 << 32;
const SEND: u64 = 1 << 40;
const SMALL_SEND: u64 = SEND + 1;
const RECV: u64 = 1 << 41;
