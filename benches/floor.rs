//! The floor: how cheap an echo can be on this machine. A bare loop of the receives and sends that
//! an echo server needs, with no rules, no timers, no limits and no application: the same ring
//! operations as the engine's (one multishot poll per connection, batched receives and sends), a
//! fixed 32-byte frame, nothing parsed.
//!
//! `cargo bench --bench floor -- [PORT]` serves until it is interrupted. Measure it with `ringhold
//! load echo --server-pid` beside `ringhold echo`: the difference is what ringhold adds to the
//! kernel's TCP path. `cargo bench` without a port says so and ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use ringhold::protocol::request;

fn main() {
    let port = std::env::args().skip(1).find_map(|argument| argument.parse::<u16>().ok());
    let Some(port) = port else {
        println!("floor: give a port to serve on, e.g. `cargo bench --bench floor -- 9002`");
        return;
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    println!("listening on ws://127.0.0.1:{port}");
    let mut floor = Floor::new().expect("io_uring");
    floor.run(&listener);
}

/// Connections by index; their sockets stay ordinary descriptors, which cost the same per message.
struct Floor {
    ring: IoUring,
    sockets: Vec<Option<TcpStream>>,
    buffers: Vec<[u8; BUFFER]>,
}

impl Floor {
    fn new() -> std::io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(16_384)
            .build(1024)?;
        Ok(Self { ring, sockets: Vec::new(), buffers: vec![[0; BUFFER]; BATCH] })
    }

    fn run(&mut self, listener: &TcpListener) {
        listener.set_nonblocking(true).expect("a socket");
        self.arm(types::Fd(listener.as_raw_fd()), LISTENER);
        let mut ready = Vec::new();
        loop {
            let wait = usize::from(ready.is_empty());
            let _ = self.ring.submit_and_wait(wait);
            let mut accept = false;
            for entry in self.ring.completion() {
                match entry.user_data() {
                    LISTENER => accept = true,
                    index if index < LISTENER => ready.push(index as usize),
                    _ => {}
                }
                debug_assert!(entry.user_data() >= SEND || cqueue::more(entry.flags()));
            }
            if accept {
                while let Ok((socket, _)) = listener.accept() {
                    self.adopt(socket);
                }
            }
            let batch = ready.len().min(BATCH);
            let batch: Vec<usize> = ready.drain(..batch).collect();
            self.echo(&batch);
        }
    }

    /// Answers the upgrade request in blocking style: it is not what is measured.
    fn adopt(&mut self, mut socket: TcpStream) {
        let _ = socket.set_nonblocking(false);
        let _ = socket.set_nodelay(true);
        let mut head = Vec::new();
        let mut scanned = 0;
        let upgrade = loop {
            let mut piece = [0; 1024];
            match socket.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(n) => head.extend_from_slice(&piece[..n]),
            }
            match request::parse(&head, &mut scanned, 8192) {
                Ok(None) => {}
                Ok(Some((request, _))) => match request.upgrade() {
                    Ok(upgrade) => break upgrade,
                    Err(_) => return,
                },
                Err(_) => return,
            }
        };
        let mut answer = Vec::new();
        request::write_accept(&mut answer, &upgrade, None, &[]);
        if socket.write_all(&answer).is_err() {
            return;
        }
        let index = self.sockets.len();
        self.arm(types::Fd(socket.as_raw_fd()), index as u64);
        self.sockets.push(Some(socket));
    }

    fn arm(&mut self, fd: types::Fd, data: u64) {
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.push(entry.user_data(data));
    }

    /// Receives once from each, and sends back a frame of as many payload bytes.
    fn echo(&mut self, batch: &[usize]) {
        for (place, index) in batch.iter().enumerate() {
            let Some(socket) = &self.sockets[*index] else { continue };
            let fd = types::Fd(socket.as_raw_fd());
            let buffer = self.buffers[place].as_mut_ptr();
            let entry = opcode::Recv::new(fd, buffer, BUFFER as u32).flags(libc::MSG_DONTWAIT);
            self.push(entry.build().user_data(RECV + place as u64));
        }
        if batch.is_empty() {
            return;
        }
        let _ = self.ring.submit();
        let mut received = [0i32; BATCH];
        let mut polled = Vec::new();
        for entry in self.ring.completion() {
            match entry.user_data() {
                data if data >= RECV => received[(data - RECV) as usize] = entry.result(),
                data => polled.push(data),
            }
        }
        assert!(polled.iter().all(|data| *data == SEND), "polls are seen by a waiting enter only");
        for (place, index) in batch.iter().enumerate() {
            let count = received[place];
            let Some(socket) = &self.sockets[*index] else { continue };
            if count <= 0 {
                if count != -libc::EAGAIN {
                    self.sockets[*index] = None;
                }
                continue;
            }
            // A masked frame of the shortest form: its answer is four bytes shorter.
            let len = (count as usize).saturating_sub(4) as u32;
            let fd = types::Fd(socket.as_raw_fd());
            let buffer = &mut self.buffers[place];
            unmask(&mut buffer[..count as usize]);
            let entry = opcode::Send::new(fd, buffer[4..].as_ptr(), len)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS);
            self.push(entry.user_data(SEND));
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: entries point into `buffers`, which lives as long as the ring and is not moved;
        // receives and sends do not wait, so a buffer is free again when its submission returned.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            let _ = self.ring.submit();
        }
    }
}

/// Turns a masked frame of less than 126 bytes into its echo, four bytes further on.
fn unmask(frame: &mut [u8]) {
    if frame.len() < 6 {
        return;
    }
    let mask = [frame[2], frame[3], frame[4], frame[5]];
    let (first, second) = (frame[0], frame[1] & 0x7f);
    ringhold::protocol::mask::apply(&mut frame[6..], mask, 0);
    (frame[4], frame[5]) = (first, second);
}

const BUFFER: usize = 4096;
const BATCH: usize = 240;
const LISTENER: u64 = 1 << 32;
const SEND: u64 = 1 << 40;
const RECV: u64 = 1 << 41;
