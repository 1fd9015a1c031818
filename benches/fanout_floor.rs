//! The floor of a fan-out: a bare loop of sends of the same bytes to all sockets, in ring batches,
//! with nothing looked up, queued or counted.
//!
//! `cargo bench --bench fanout_floor -- PORT [CONNECTIONS]` serves until it is interrupted: what
//! one connection sends goes to all of them. Measure it with `ringhold load fanout --server-pid`
//! beside `ringhold echo`, or both with `benches/compare.sh`. Sockets are direct descriptors of as
//! many rings as the limit of open files makes necessary, so 100,000 of them fit one process.
//!
//! What does not fit a socket's buffer is dropped, and `load` reports it as lost. Publishers must
//! be among the first connections, which the first ring holds.

mod bare;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};
use ringhold::protocol::mask;

fn main() {
    let Some((port, connections)) = bare::arguments("fanout_floor") else { return };
    let mut floor = Floor::new(connections.unwrap_or(TABLE_MAX as usize)).expect("io_uring");
    floor.run(&bare::listen(port).expect("a free port"));
}

/// A ring and the sockets in its table, from 0 to `used`.
struct Shelf {
    ring: IoUring,
    used: u32,
}

struct Floor {
    shelves: Vec<Shelf>,
    buffer: Vec<u8>,
}

impl Floor {
    fn new(connections: usize) -> io::Result<Self> {
        let shelves = (0..connections.div_ceil(TABLE_MAX as usize).max(1)).map(|_| Shelf::new());
        Ok(Self { shelves: shelves.collect::<io::Result<_>>()?, buffer: vec![0; BUFFER] })
    }

    fn run(&mut self, listener: &TcpListener) {
        listener.set_nonblocking(true).expect("a socket");
        let entry = opcode::PollAdd::new(types::Fd(listener.as_raw_fd()), libc::POLLIN as u32);
        self.shelves[0].push(entry.multi(true).build().user_data(LISTENER));
        loop {
            let _ = self.shelves[0].ring.submit_and_wait(1);
            let ready: Vec<u64> =
                self.shelves[0].ring.completion().map(|entry| entry.user_data()).collect();
            for data in ready {
                match data {
                    LISTENER => {
                        while let Ok((socket, _)) = listener.accept() {
                            self.adopt(socket);
                        }
                    }
                    SEND | RECV => {}
                    index => self.publish(index as u32),
                }
            }
        }
    }

    /// Answers the upgrade request in blocking style, and moves the socket into a table.
    fn adopt(&mut self, mut socket: TcpStream) {
        if bare::shake_hands(&mut socket).is_none() {
            return;
        }
        let place = self.shelves.iter().position(|shelf| shelf.used < TABLE_MAX);
        let Some(place) = place else { return };
        let shelf = &mut self.shelves[place];
        let index = shelf.used;
        let fds = [socket.as_raw_fd()];
        if shelf.ring.submitter().register_files_update(index, &fds).is_err() {
            return;
        }
        shelf.used += 1;
        if place == 0 {
            let entry = opcode::PollAdd::new(types::Fixed(index), libc::POLLIN as u32);
            shelf.push(entry.multi(true).build().user_data(u64::from(index)));
        }
    }

    /// Receives from one connection, and sends it to all.
    fn publish(&mut self, index: u32) {
        let room = &mut self.buffer;
        let entry = opcode::Recv::new(types::Fixed(index), room.as_mut_ptr(), room.len() as u32)
            .flags(libc::MSG_DONTWAIT)
            .build();
        self.shelves[0].push(entry.user_data(RECV));
        let _ = self.shelves[0].ring.submit();
        let mut received = 0;
        let mut others = Vec::new();
        for entry in self.shelves[0].ring.completion() {
            match entry.user_data() {
                RECV => received = usize::try_from(entry.result()).unwrap_or(0),
                other => others.push(other),
            }
        }
        assert!(others.is_empty(), "polls are seen by a waiting enter only");
        let (len, is_close) = unmask(&mut self.buffer[..received]);
        if is_close {
            let (frame, fd) = (self.buffer.as_ptr(), types::Fixed(index));
            self.shelves[0].send(fd, frame, len);
            let entry = opcode::Shutdown::new(fd, libc::SHUT_RDWR).build();
            self.shelves[0].push(entry.user_data(SEND));
        } else if len > 0 {
            for shelf in &mut self.shelves {
                for index in 0..shelf.used {
                    shelf.send(types::Fixed(index), self.buffer.as_ptr(), len);
                }
            }
        }
        for shelf in &mut self.shelves {
            let _ = shelf.ring.submit();
        }
    }
}

impl Shelf {
    fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(65_536)
            .build(ENTRIES)?;
        ring.submitter().register_files_sparse(TABLE_MAX)?;
        Ok(Self { ring, used: 0 })
    }

    fn send(&mut self, fd: types::Fixed, bytes: *const u8, len: usize) {
        let entry = opcode::Send::new(fd, bytes, len as u32)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry.user_data(SEND));
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: entries point into `Floor::buffer`, which lives as long as the rings and is not
        // resized; receives and sends do not wait, and `publish` submits before it ends.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            let _ = self.ring.submit();
        }
    }
}

/// Takes the masks out of whole frames, in place. Returns how many bytes are left, and whether the
/// last frame closes.
fn unmask(bytes: &mut [u8]) -> (usize, bool) {
    let (mut at, mut out, mut is_close) = (0, 0, false);
    while let Some((header, len)) = bare::parse(&bytes[at..]) {
        let end = at + header + len;
        if end > bytes.len() {
            break;
        }
        let key: [u8; 4] = std::array::from_fn(|n| bytes[at + header - 4 + n]);
        is_close = bytes[at] & 0x0f == 8;
        mask::apply(&mut bytes[at + header..end], key, 0);
        bytes.copy_within(at..at + header - 4, out);
        bytes[out + 1] &= 0x7f;
        bytes.copy_within(at + header..end, out + header - 4);
        (at, out) = (end, out + header - 4 + len);
    }
    (out, is_close)
}

/// Publications must fit: what is cut is dropped.
const BUFFER: usize = 256 * 1024;
/// Of one ring: below the common limit of open files, which bounds it.
const TABLE_MAX: u32 = 18_000;
/// Sends per submission.
const ENTRIES: u32 = 1024;
const LISTENER: u64 = 1 << 32;
const SEND: u64 = 1 << 40;
const RECV: u64 = 1 << 41;
