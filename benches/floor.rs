//! The floor of an echo: how cheap it can be on this machine. A bare loop of the receives and sends
//! that an echo server needs, with no rules, no timers, no limits and no application: the same ring
//! operations as the engine's (one multishot poll per connection, batched receives and sends), and
//! of the frames only what it takes to send their payload back.
//!
//! `cargo bench --bench floor -- PORT [PAYLOAD]` serves until it is interrupted; its buffers fit
//! messages of that many bytes. Measure it with `ringhold load echo --server-pid` beside `ringhold
//! echo`, or both with `benches/compare.sh`: the difference is what ringhold adds to the kernel's
//! TCP path. `cargo bench` without a port says so and ends.
//!
//! `--help` has its variants: other ways to receive, send and wait, each to be measured against the
//! loop without flags. Whatever the variant, a connection has at most one send under way, and a
//! buffer is received into again only when the kernel is done with the answer that lies in it.

mod bare;
#[path = "bare/stream.rs"]
mod stream;
#[path = "bare/variants.rs"]
mod variants;
#[path = "bare/wakes.rs"]
mod wakes;

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, Napi, SubmitArgs};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use ringhold::internals::sys::Gate;
use stream::{HEADER_MAX, Stream};
use variants::{Accept, Buffers, Receive, Send, Variant};

fn main() {
    let Some(variant) = Variant::from_arguments() else { return };
    if let Some(count) = variant.wakes {
        return wakes::measure(count).expect("io_uring");
    }
    let listener = bare::listen(variant.port.unwrap_or_default()).expect("a free port");
    let mut floor = Floor::new(variant).expect("io_uring, with what this variant needs of it");
    floor.run(&listener);
}

/// Connections by index; their sockets stay ordinary descriptors, which cost the same per message.
struct Floor {
    /// As the engine enters its ring; a kernel thread that submits is woken in another way.
    gate: Option<Gate>,
    ring: IoUring,
    variant: Variant,
    peers: Vec<Option<Peer>>,
    /// Each with room for the start of a header before what is received.
    buffers: Vec<&'static mut [u8]>,
    /// What the receive of each place of a batch returned.
    received: Vec<i32>,
    receiving: usize,
    /// Connections with something to receive.
    ready: Vec<usize>,
    /// The listener has something to accept.
    accept: bool,
    /// Sends whose buffers are in use, and what they send.
    sending: usize,
    sent: Vec<Sent>,
    /// Connections whose last answer is on its way.
    leaving: Vec<usize>,
    multishot: Option<Multishot>,
    /// Number of the batch: a connection is in it once.
    batch: u64,
    /// Frames whose start lay elsewhere than their rest.
    spilled: Vec<Vec<u8>>,
    /// By place: what a gathering send points to, and the buffers of a bundle.
    messages: Vec<Message>,
    bundles: Vec<Option<Provided>>,
}

struct Peer {
    socket: TcpStream,
    stream: Stream,
    is_open: bool,
    is_ready: bool,
    batch: u64,
}

/// An answer that is on its way; a registered one has its buffer's number.
#[derive(Clone, Copy)]
struct Sent {
    index: usize,
    place: usize,
    at: *const u8,
    len: usize,
    registered: Option<u16>,
    result: i32,
}

type Message = (libc::msghdr, [libc::iovec; PIECES_MAX]);

/// What multishot receives brought, and the buffers they take from.
struct Multishot {
    ring: Provided,
    arrived: VecDeque<Arrival>,
    /// Connections whose receive ended for want of a buffer.
    starved: Vec<usize>,
    uses: Vec<Use>,
    /// Buffers that can go back once the sends are done.
    spent: Vec<u16>,
}

struct Arrival {
    index: usize,
    result: i32,
    flags: u32,
    /// Where it lies in its buffer.
    start: usize,
}

/// Of a buffer in a shared ring.
#[derive(Clone, Copy, Default)]
struct Use {
    filled: usize,
    tenants: u32,
    is_full: bool,
}

impl Floor {
    fn new(variant: Variant) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_cqsize(16_384);
        match variant.sqpoll {
            Some(idle) => builder.setup_sqpoll(idle),
            None => builder.setup_defer_taskrun(),
        };
        let ring = builder.build(1024)?;
        if let Some(us) = variant.napi {
            ring.submitter().register_napi(&mut Napi::new().set_busy_poll_timeout(us))?;
        }
        let (size, count) = variant.sizes();
        let mut buffers = allocate(size, count, variant.buffers);
        if matches!(variant.send, Send::Registered | Send::ZeroCopyRegistered) {
            let all: Vec<_> = buffers.iter_mut().map(|it| iovec(it.as_ptr(), it.len())).collect();
            // SAFETY: the buffers are never freed.
            unsafe { ring.submitter().register_buffers(&all) }?;
        }
        let multishot = match variant.receive {
            Receive::Poll => None,
            receive => Some(Multishot::new(&ring, receive, &mut buffers)?),
        };
        let batch = if multishot.is_some() { BATCH_MAX } else { count };
        Ok(Self {
            gate: variant.sqpoll.is_none().then(|| Gate::new(&ring)),
            ring,
            variant,
            peers: Vec::new(),
            buffers,
            received: vec![0; batch],
            receiving: 0,
            ready: Vec::new(),
            accept: false,
            sending: 0,
            sent: Vec::new(),
            leaving: Vec::new(),
            multishot,
            batch: 0,
            spilled: Vec::new(),
            messages: vec![(ringhold::internals::sys::empty_msghdr(), NO_PIECES); batch],
            bundles: (0..batch).map(|_| None).collect(),
        })
    }

    fn run(&mut self, listener: &TcpListener) {
        listener.set_nonblocking(true).expect("a socket");
        if self.variant.accept == Accept::Deferred {
            defer_accept(listener).expect("TCP_DEFER_ACCEPT");
        }
        self.poll(listener.as_raw_fd(), LISTENER);
        loop {
            let arrived = self.multishot.as_ref().is_some_and(|it| !it.arrived.is_empty());
            self.enter(if self.ready.is_empty() && !arrived { Wait::Idle } else { Wait::No });
            if std::mem::take(&mut self.accept) {
                while let Ok((socket, _)) = listener.accept() {
                    self.adopt(socket);
                }
            }
            if self.multishot.is_some() {
                self.echo_arrived();
            } else {
                let count = self.ready.len().min(self.received.len());
                let batch: Vec<usize> = self.ready.drain(..count).collect();
                if !batch.is_empty() {
                    self.echo(&batch);
                }
            }
        }
    }

    /// Submits, waits, and notes all completions there are.
    fn enter(&mut self, wait: Wait) {
        let want = u32::from(wait != Wait::No);
        let _ = match (wait, self.variant.wait, &self.gate) {
            (Wait::Idle, Some(us), _) => {
                let args = SubmitArgs::new().min_wait_usec(us);
                self.ring.submitter().submit_with_args(MIN_WAIT, &args).map(drop)
            }
            (_, _, Some(gate)) => {
                let queued = self.ring.submission().len() as u32;
                let events = if want > 0 { EnterFlags::GETEVENTS } else { EnterFlags::empty() };
                // SAFETY: what the entries point to is never freed while they are under way.
                unsafe { gate.enter(queued, want, events.bits(), None) }
            }
            _ => self.ring.submit_and_wait(want as usize).map(drop),
        };
        for entry in self.ring.completion() {
            let (result, flags) = (entry.result(), entry.flags());
            let index = entry.user_data() as u32 as usize;
            match entry.user_data() & !u64::from(u32::MAX) {
                LISTENER => self.accept = true,
                SEND => {
                    self.sending -= usize::from(!cqueue::more(flags));
                    if !cqueue::notif(flags) {
                        self.sent[index].result = result;
                    }
                }
                // A small send that failed: its peer is gone, or misses an answer and says so. What
                // it left of a bundle must not go to the next.
                SMALL_SEND => self.bundles[index] = None,
                RECV => {
                    self.received[index] = result;
                    self.receiving -= 1;
                }
                ARRIVAL => self.multishot.as_mut().expect("armed").note(index, result, flags),
                _ => {
                    if let Some(peer) = &mut self.peers[index]
                        && !std::mem::replace(&mut peer.is_ready, true)
                    {
                        self.ready.push(index);
                    }
                }
            }
        }
        // All small sends are submitted, so their buffers are free.
        if self.sending == 0 && self.multishot.is_some() {
            self.give_back();
        }
    }

    /// Answers the upgrade request in blocking style: it is not what is measured.
    fn adopt(&mut self, mut socket: TcpStream) {
        let is_open = self.variant.accept != Accept::Polled;
        if is_open && bare::shake_hands(&mut socket).is_none() {
            return;
        }
        let (index, fd) = (self.peers.len(), socket.as_raw_fd());
        let stream = Stream::default();
        self.peers.push(Some(Peer { socket, stream, is_open, is_ready: false, batch: 0 }));
        match &mut self.multishot {
            Some(_) => self.receive(index),
            None => self.poll(fd, index as u64),
        }
    }

    fn poll(&mut self, fd: i32, data: u64) {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build();
        self.push(entry.user_data(data));
    }

    fn receive(&mut self, index: usize) {
        let Some(peer) = &self.peers[index] else { return };
        let entry = opcode::RecvMulti::new(Fd(peer.socket.as_raw_fd()), GROUP).build();
        self.push(entry.user_data(ARRIVAL | index as u64));
    }

    /// Receives once from each, and sends back what came.
    fn echo(&mut self, batch: &[usize]) {
        for (place, index) in batch.iter().enumerate() {
            self.received[place] = -libc::EAGAIN;
            let Some(peer) = &mut self.peers[*index] else { continue };
            peer.is_ready = false;
            if !peer.is_open {
                peer.is_open = true;
                if bare::shake_hands(&mut peer.socket).is_none() {
                    self.hang_up(*index);
                }
                continue;
            }
            let fd = Fd(peer.socket.as_raw_fd());
            let room = &mut self.buffers[place][HEADER_MAX..];
            let entry = opcode::Recv::new(fd, room.as_mut_ptr(), room.len() as u32)
                .flags(libc::MSG_DONTWAIT)
                .build();
            self.receiving += 1;
            self.push(entry.user_data(RECV | place as u64));
        }
        self.enter(Wait::No);
        while self.receiving > 0 {
            self.enter(Wait::One);
        }
        for (place, index) in batch.iter().enumerate() {
            let count = self.received[place];
            let Some(peer) = &mut self.peers[*index] else { continue };
            if count <= 0 {
                if count != -libc::EAGAIN {
                    self.hang_up(*index);
                }
                continue;
            }
            if count as usize == self.buffers[place].len() - HEADER_MAX
                && !std::mem::replace(&mut peer.is_ready, true)
            {
                self.ready.push(*index);
            }
            self.answer(*index, place, place, HEADER_MAX, count as usize);
        }
        self.finish();
    }

    /// Sends back what came, once per connection; what is left is the next batch.
    fn echo_arrived(&mut self) {
        self.batch += 1;
        let (mut later, mut place) = (VecDeque::new(), 0);
        while let Some(arrival) = self.multishot.as_mut().and_then(|it| it.arrived.pop_front()) {
            let index = arrival.index;
            let Some(peer) = &mut self.peers[index] else {
                self.release(&arrival);
                continue;
            };
            if place == self.received.len() || peer.batch == self.batch {
                later.push_back(arrival);
                continue;
            }
            peer.batch = self.batch;
            match arrival.result {
                count @ 1.. => {
                    let buffer = cqueue::buffer_select(arrival.flags).expect("one per receive");
                    self.answer(index, place, buffer.into(), arrival.start, count as usize);
                    place += 1;
                    if !cqueue::more(arrival.flags) {
                        self.receive(index);
                    }
                }
                error if error == -libc::ENOBUFS => {
                    self.multishot.as_mut().expect("armed").starved.push(index);
                }
                _ => self.hang_up(index),
            }
            self.release(&arrival);
        }
        self.multishot.as_mut().expect("armed").arrived = later;
        self.finish();
    }

    fn release(&mut self, arrival: &Arrival) {
        if let (Some(it), Some(buffer)) =
            (&mut self.multishot, cqueue::buffer_select(arrival.flags))
        {
            it.release(buffer);
        }
    }

    /// Gives buffers back, and lets those receive that had none.
    fn give_back(&mut self) {
        self.spilled.clear();
        let it = self.multishot.as_mut().expect("armed");
        if it.spent.is_empty() {
            return;
        }
        for buffer in it.spent.drain(..) {
            it.uses[usize::from(buffer)] = Use::default();
            it.ring.add(buffer, &self.buffers[usize::from(buffer)][HEADER_MAX..]);
        }
        it.ring.publish();
        for index in std::mem::take(&mut it.starved) {
            self.receive(index);
        }
    }

    /// Sends back what lies at `start` in a buffer.
    fn answer(&mut self, index: usize, place: usize, buffer: usize, start: usize, count: usize) {
        let Some(peer) = &mut self.peers[index] else { return };
        let shared = self.variant.receive == Receive::MultishotIncremental;
        let room = &mut self.buffers[buffer][start - HEADER_MAX..start + count];
        // Before it in a shared buffer lies somebody else's.
        let is_elsewhere = shared && peer.stream.spilled > 0;
        let answer = if is_elsewhere {
            self.spilled.push(room.to_vec());
            let copy = self.spilled.last_mut().expect("just pushed");
            let range = peer.stream.turn_round(copy, count);
            &copy[range]
        } else {
            let range = peer.stream.turn_round(room, count);
            &room[range]
        };
        let is_last = peer.stream.closing;
        let registered = (!is_elsewhere).then_some(buffer as u16);
        let (at, len) = (answer.as_ptr(), answer.len());
        if len > 0 {
            self.send(Sent { index, place, at, len, registered, result: 0 });
        }
        if is_last {
            self.leaving.push(index);
        }
    }

    fn send(&mut self, sent: Sent) {
        let Some(peer) = &self.peers[sent.index] else { return };
        let (fd, len) = (Fd(peer.socket.as_raw_fd()), sent.len as u32);
        // A small answer fits the socket, as its peer waits for it. A large one may have to wait,
        // and its buffer with it. A kernel thread has not sent it when it is submitted.
        let is_small = sent.len.max(self.variant.payload) <= BUFFER_MIN;
        let is_small = is_small && self.variant.sqpoll.is_none();
        let flags =
            libc::MSG_NOSIGNAL | if is_small { libc::MSG_DONTWAIT } else { libc::MSG_WAITALL };
        let entry = match (self.variant.send, sent.registered) {
            (Send::Gather, _) => {
                self.gather(&sent);
                let message = &raw const self.messages[sent.place].0;
                opcode::SendMsg::new(fd, message).flags(flags as u32).build()
            }
            (Send::Bundle, _) => {
                self.bundle(&sent);
                let group = GROUP + 1 + sent.place as u16;
                opcode::SendBundle::new(fd, group).flags(flags).build()
            }
            (Send::Registered, Some(buffer)) => {
                let entry = opcode::WriteFixed::new(fd, sent.at, len, buffer);
                entry.rw_flags(if is_small { libc::RWF_NOWAIT } else { 0 }).build()
            }
            (Send::ZeroCopy, _) if !is_small => {
                opcode::SendZc::new(fd, sent.at, len).flags(flags).build()
            }
            (Send::ZeroCopyRegistered, buffer @ Some(_)) if !is_small => {
                opcode::SendZc::new(fd, sent.at, len).flags(flags).buf_index(buffer).build()
            }
            _ => opcode::Send::new(fd, sent.at, len).flags(flags).build(),
        };
        if is_small {
            let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
            self.push(entry.user_data(SMALL_SEND | sent.place as u64));
        } else {
            self.sending += 1;
            self.push(entry.user_data(SEND | self.sent.len() as u64));
            self.sent.push(sent);
        }
    }

    fn gather(&mut self, sent: &Sent) {
        let (message, list) = &mut self.messages[sent.place];
        let mut count = 0;
        for piece in pieces(sent.len, self.variant.answer()) {
            list[count] = iovec(sent.at.wrapping_add(piece.start), piece.len());
            count += 1;
        }
        (message.msg_iov, message.msg_iovlen) = (list.as_mut_ptr(), count);
    }

    fn bundle(&mut self, sent: &Sent) {
        let group = GROUP + 1 + sent.place as u16;
        let ring = &self.ring;
        let bundle = self.bundles[sent.place].get_or_insert_with(|| {
            // There is one already if an earlier bundle did not leave whole.
            let _ = ring.submitter().unregister_buf_ring(group);
            Provided::new(ring, group, PIECES_MAX, 0).expect("a ring of buffers")
        });
        for (number, piece) in pieces(sent.len, self.variant.answer()).enumerate() {
            bundle.add_raw(number as u16, sent.at.wrapping_add(piece.start), piece.len());
        }
        bundle.publish();
    }

    /// Waits until the buffers of all counted sends are free; what one of them left is sent. Then
    /// hangs up on those whose last answer this was.
    fn finish(&mut self) {
        while !self.sent.is_empty() {
            while self.sending > 0 {
                self.enter(Wait::One);
            }
            for sent in std::mem::take(&mut self.sent) {
                let done = sent.result.max(0) as usize;
                if done == sent.len {
                    continue;
                }
                self.bundles[sent.place] = None;
                if done > 0 {
                    let (at, len) = (sent.at.wrapping_add(done), sent.len - done);
                    self.send(Sent { at, len, ..sent });
                }
            }
        }
        if !self.leaving.is_empty() {
            self.enter(Wait::No);
            for index in std::mem::take(&mut self.leaving) {
                self.hang_up(index);
            }
        }
    }

    /// The poll holds the socket, so closing it would not be enough.
    fn hang_up(&mut self, index: usize) {
        if let Some(peer) = self.peers[index].take() {
            let _ = peer.socket.shutdown(Shutdown::Both);
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: entries point into `buffers`, which are never freed, into `spilled`, which is
        // emptied when no send is counted and none is queued, or to `messages`, which are not
        // resized. Receives and small sends do not wait, so their buffers are free again when
        // their submission returned; `finish` waits for the others.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            let _ = self.ring.submit();
        }
    }
}

/// What a call waits for: nothing, one completion, or what the variant does when there is no work.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    No,
    One,
    Idle,
}

impl Multishot {
    fn new(ring: &IoUring, receive: Receive, buffers: &mut [&mut [u8]]) -> io::Result<Self> {
        let flags = if receive == Receive::MultishotIncremental { INCREMENTAL } else { 0 };
        let mut provided = Provided::new(ring, GROUP, buffers.len().next_power_of_two(), flags)?;
        for (number, buffer) in buffers.iter().enumerate() {
            provided.add(number as u16, &buffer[HEADER_MAX..]);
        }
        provided.publish();
        Ok(Self {
            ring: provided,
            arrived: VecDeque::new(),
            starved: Vec::new(),
            uses: vec![Use::default(); buffers.len()],
            spent: Vec::new(),
        })
    }

    /// Receives fill a buffer in the order of their completions.
    fn note(&mut self, index: usize, result: i32, flags: u32) {
        let mut start = HEADER_MAX;
        if let Some(buffer) = cqueue::buffer_select(flags) {
            let it = &mut self.uses[usize::from(buffer)];
            start += it.filled;
            it.filled += result.max(0) as usize;
            it.tenants += 1;
            it.is_full = !cqueue::buffer_more(flags);
        }
        self.arrived.push_back(Arrival { index, result, flags, start });
    }

    fn release(&mut self, buffer: u16) {
        let it = &mut self.uses[usize::from(buffer)];
        it.tenants -= 1;
        if it.is_full && it.tenants == 0 {
            self.spent.push(buffer);
        }
    }
}

/// A ring of buffers that the kernel takes from.
struct Provided {
    entries: *mut BufRingEntry,
    mask: u16,
    tail: u16,
}

impl Provided {
    fn new(ring: &IoUring, group: u16, count: usize, flags: u16) -> io::Result<Self> {
        let pages = vec![Page([0; PAGE]); (count * size_of::<BufRingEntry>()).div_ceil(PAGE)];
        let entries = pages.leak().as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: pages that are never freed, with room for so many entries.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries as u64,
                count as u16,
                group,
                flags,
            )
        }?;
        Ok(Self { entries, mask: count as u16 - 1, tail: 0 })
    }

    fn add(&mut self, number: u16, buffer: &[u8]) {
        self.add_raw(number, buffer.as_ptr(), buffer.len());
    }

    fn add_raw(&mut self, number: u16, at: *const u8, len: usize) {
        // SAFETY: an entry of the ring, beyond the tail that the kernel reads up to.
        let entry = unsafe { &mut *self.entries.add(usize::from(self.tail & self.mask)) };
        entry.set_addr(at as u64);
        entry.set_len(len as u32);
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was added.
    fn publish(&mut self) {
        // SAFETY: the tail lies in the ring's first entry, and only this thread writes it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Buffers for the life of the process.
fn allocate(size: usize, count: usize, kind: Buffers) -> Vec<&'static mut [u8]> {
    if kind == Buffers::Heap {
        return (0..count).map(|_| vec![0; size].leak()).collect();
    }
    let whole = (size * count).next_multiple_of(HUGE_PAGE);
    let memory = vec![0; whole + HUGE_PAGE].leak();
    let skip = memory.as_ptr().align_offset(HUGE_PAGE);
    let memory = &mut memory[skip..skip + whole];
    // SAFETY: advice about memory of ours; it changes no contents.
    let result = unsafe { libc::madvise(memory.as_mut_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
    assert_eq!(result, 0, "huge pages: {}", io::Error::last_os_error());
    memory.fill(0);
    memory.chunks_exact_mut(size).take(count).collect()
}

/// Queues an entry without pointers, for [`wakes`].
fn push_plain(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: it points to nothing. The queue is submitted after each.
    unsafe { ring.submission().push(entry) }.expect("room for one");
}

/// An answer in pieces of a message, or larger ones if that were too many.
fn pieces(len: usize, message: usize) -> impl Iterator<Item = Range<usize>> {
    let piece = message.max(len.div_ceil(PIECES_MAX));
    (0..len).step_by(piece).map(move |start| start..len.min(start + piece))
}

fn iovec(at: *const u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: at.cast_mut().cast(), iov_len: len }
}

/// Connections are accepted once their first bytes are there, or after some seconds without.
fn defer_accept(listener: &TcpListener) -> io::Result<()> {
    let seconds = 5_i32;
    // SAFETY: the value is a valid int of the length that is given.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<i32>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of a buffer; what a message needs lies between.
const BUFFER_MIN: usize = 4096;
const BUFFER_MAX: usize = 256 * 1024 + 64;
/// Receives and sends per submission.
const BATCH_MIN: usize = 4;
const BATCH_MAX: usize = 240;
/// Pieces of a send.
const PIECES_MAX: usize = 16;
const NO_PIECES: [libc::iovec; PIECES_MAX] =
    [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES_MAX];
/// Completions that `--wait min-wait` waits for.
const MIN_WAIT: usize = 32;
/// `IOU_PBUF_RING_INC` (include/uapi/linux/io_uring.h).
const INCREMENTAL: u16 = 2;
/// Buffers of receives; those of bundles follow, by place.
const GROUP: u16 = 0;
const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 * 1024 * 1024;
/// What a completion belongs to; the rest is an index. A poll has none of these.
const LISTENER: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const SMALL_SEND: u64 = 3 << 32;
const RECV: u64 = 4 << 32;
const ARRIVAL: u64 = 5 << 32;
