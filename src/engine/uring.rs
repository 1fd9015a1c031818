//! [`Ring`] over io_uring: the only file that submits to the kernel, and with [`super::sys`] the
//! only one of the engine with `unsafe`.
//!
//! The invariant: every pointer in a submission entry stays valid until the call that submits it
//! has returned. Receives and sends carry `MSG_DONTWAIT`, so the kernel is done with their buffers
//! when `io_uring_enter` returns (`REQ_F_NOWAIT` in io_uring/net.c: such a request completes with
//! `-EAGAIN` instead of being parked). Accept addresses live as long as the ring, and longer.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{DestinationSlot, Fixed};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use super::alarm::{Alarm, WaitPlan};
use super::ring::{Completion, Errno, Readiness, Recv, Ring, Send, Wait};
pub use super::setup_error::SetupError;
use super::sys::{self, AcceptAddress, EventFd, Gate};
use super::token::{Op, Token};

/// How a ring is made.
#[derive(Debug)]
pub struct Setup {
    /// Entries of the direct descriptor table: the connections this core can hold, plus reserve.
    pub table: u32,
    /// Accepts in flight at once.
    pub lanes: u32,
    /// The listening socket, if this core accepts.
    pub listener: Option<OwnedFd>,
    /// For accepted sockets (TCP_USER_TIMEOUT), where the kernel does not say what is acknowledged.
    pub user_timeout: Duration,
    /// The bell by which other threads wake this ring.
    pub doorbell: Arc<EventFd>,
}

/// A ring of one thread. See [`Ring`].
pub struct Uring {
    /// Names the ring by its index, so it goes first.
    gate: Gate,
    ring: IoUring,
    listener: Option<OwnedFd>,
    lanes: u32,
    doorbell: Arc<EventFd>,
    landed: Landed,
    /// Peer addresses of connects that are queued but not yet submitted.
    #[allow(clippy::vec_box)]
    dialled: Vec<Box<socket2::SockAddr>>,
    /// Whether fully taken sends post no completion (see [`probe_silent_sends`]).
    silent_sends: bool,
    /// Whether an accept looks for a connection before it makes a socket for it.
    polls_before_accept: bool,
    /// Whether the kernel says what a peer has not acknowledged.
    tells_unacknowledged: bool,
    /// Whether a socket can leave the table again.
    installs: bool,
    /// Headers of a batch's gathering sends.
    messages: Vec<libc::msghdr>,
    overflows: u64,
}

/// What completions change, besides those of a batch.
struct Landed {
    /// Boxed: the kernel holds pointers to them.
    #[allow(clippy::vec_box)]
    addresses: Vec<Box<AcceptAddress>>,
    wake_armed: bool,
    alarm: Alarm,
    /// Completions of asynchronous operations, until the caller takes them.
    done: VecDeque<Completion>,
}

impl Uring {
    /// Makes the ring on the thread that will use it (`IORING_SETUP_SINGLE_ISSUER`).
    pub fn new(setup: Setup) -> Result<Self, SetupError> {
        let mut ring = build(cq_entries(setup.table))?;
        ring.submitter()
            .register_files_sparse(setup.table)
            .map_err(|error| SetupError::Table { table: setup.table, error })?;
        // Only shutdowns go to kernel workers; a flood of them must not start threads.
        let _ = ring.submitter().register_iowq_max_workers(&mut [2, 2]);
        let silent_sends = probe_silent_sends(&mut ring).map_err(SetupError::Probe)?;
        let polls_before_accept = probe_poll_before_accept(&mut ring).map_err(SetupError::Probe)?;
        let tells_unacknowledged = probe_unacknowledged(&mut ring).map_err(SetupError::Probe)?;
        let mut known = io_uring::Probe::new();
        let probed = ring.submitter().register_probe(&mut known).is_ok();
        let installs = probed && known.is_supported(opcode::FixedFdInstall::CODE);
        if let (Some(listener), false) = (&setup.listener, tells_unacknowledged) {
            let _ = socket2::SockRef::from(listener).set_tcp_user_timeout(Some(setup.user_timeout));
        }
        let mut uring = Self {
            gate: Gate::new(&ring),
            ring,
            listener: setup.listener,
            lanes: setup.lanes,
            doorbell: setup.doorbell,
            landed: Landed {
                addresses: (0..setup.lanes).map(|_| Box::default()).collect(),
                wake_armed: false,
                alarm: Alarm::default(),
                done: VecDeque::new(),
            },
            dialled: Vec::new(),
            silent_sends,
            polls_before_accept,
            tells_unacknowledged,
            installs,
            messages: Vec::new(),
            overflows: 0,
        };
        uring.arm_wake();
        Ok(uring)
    }

    fn arm_wake(&mut self) {
        let entry = opcode::PollAdd::new(types::Fd(self.doorbell.as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(Token::new(Op::Wake, 0, 0).0);
        self.push(entry);
        self.landed.wake_armed = true;
    }

    /// Queues an entry whose pointers, if any, outlive the next submission.
    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: as in `push_linked`.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.make_room();
        }
    }

    /// Queues entries that have to be in one submission.
    fn push_linked(&mut self, entries: &[squeue::Entry]) {
        // SAFETY: the callers in this file queue entries that point to nothing, to `addresses`,
        // `dialled`, `messages` or into `alarm` (owned by self), or to batch buffers borrowed until
        // the submission returns.
        while unsafe { self.ring.submission().push_multiple(entries) }.is_err() {
            self.make_room();
        }
    }

    /// The submission queue is full: submitting makes room. A kernel short of memory is retried.
    #[cold]
    fn make_room(&mut self) {
        if self.submit(0, None).is_err() {
            std::thread::yield_now();
        }
    }

    /// Submits all that is queued. `want` completions are waited for, up to `timeout`.
    fn submit(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let events = if want > 0 { EnterFlags::GETEVENTS } else { EnterFlags::empty() };
        self.pass(want, events, timeout)
    }

    /// Runs deferred task work without sleeping, and submits.
    fn submit_and_flush(&mut self) -> io::Result<()> {
        self.pass(0, EnterFlags::GETEVENTS, None)
    }

    fn pass(&mut self, want: u32, events: EnterFlags, limit: Option<Duration>) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        // SAFETY: the pointers of queued entries are valid (see `push_linked`).
        match unsafe { self.gate.enter(queued, want, events.bits(), limit) } {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // ETIME: nothing came. EINTR: a signal. EBUSY: completions must be taken first.
                // EAGAIN: no memory for a request now; what is left is submitted next time.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Submits all that is queued, and waits for a completion until `end_ns`.
    fn sleep(&mut self, end_ns: u64) -> io::Result<()> {
        let limit = match self.landed.alarm.arm(end_ns, sys::monotonic_ns) {
            WaitPlan::Armed => None,
            WaitPlan::Limit(limit) => Some(limit),
            WaitPlan::Entry => {
                self.push(self.landed.alarm.entry());
                None
            }
        };
        self.submit(1, limit)
    }

    /// Takes every completion there is, the kernel's overflow list included. Returns how many
    /// belonged to the batch.
    fn collect(&mut self, batch: &mut Batch<'_>) -> io::Result<usize> {
        let mut ours = 0;
        loop {
            for entry in self.ring.completion() {
                let token = Token(entry.user_data());
                match token.op() {
                    Some(Op::Send | Op::Recv) => {
                        batch.finish(token.generation() as usize, &entry);
                        ours += 1;
                    }
                    Some(Op::Poll | Op::PollOut) => {
                        self.landed.done.push_back(Completion::Polled {
                            token,
                            result: check(entry.result()).map(readiness),
                            more: cqueue::more(entry.flags()),
                        });
                    }
                    _ => self.landed.take(token, &entry),
                }
            }
            if !self.ring.submission().cq_overflow() {
                return Ok(ours);
            }
            self.overflows += 1;
            self.submit_and_flush()?;
        }
    }
}

impl Ring for Uring {
    fn now(&self) -> u64 {
        sys::monotonic_ns()
    }

    fn accept(&mut self, lane: u32) {
        let Some(listener) = &self.listener else { return };
        let listener = types::Fd(listener.as_raw_fd());
        let (address, len) = self.landed.addresses[lane as usize].prepare();
        let mut entry = opcode::Accept::new(listener, address, len)
            .file_index(Some(DestinationSlot::auto_target()))
            .build()
            .user_data(Token::new(Op::Accept, lane, 0).0);
        if self.polls_before_accept {
            sys::poll_before_accept(&mut entry);
        }
        self.push(entry);
    }

    fn lanes(&self) -> u32 {
        if self.listener.is_some() { self.lanes } else { 0 }
    }

    fn cancel_accept(&mut self, lane: u32) {
        let entry =
            opcode::AsyncCancel::new(Token::new(Op::Accept, lane, 0).0).build().user_data(CANCEL);
        self.push(entry);
    }

    fn stop_listening(&mut self) {
        if let Some(listener) = &self.listener {
            sys::drop_new_connections(listener);
        }
    }

    fn close_listener(&mut self) {
        self.listener = None;
    }

    fn poll(&mut self, token: Token, multishot: bool) {
        let input = token.op() == Some(Op::Poll);
        let events = if input { libc::POLLIN | libc::POLLRDHUP } else { libc::POLLOUT };
        let entry = opcode::PollAdd::new(Fixed(token.slot()), events as u32)
            .multi(multishot)
            .build()
            .user_data(token.0);
        self.push(entry);
    }

    fn close(&mut self, token: Token, polls: &[Token]) {
        // Hard links: the close follows whether or not there was something to cancel. Without
        // the cancel the pending poll would hold the socket and no FIN would leave.
        let cancel = |poll: &Token| {
            opcode::AsyncCancel::new(poll.0)
                .build()
                .flags(squeue::Flags::IO_HARDLINK)
                .user_data(CANCEL)
        };
        let close = opcode::Close::new(Fixed(token.slot())).build().user_data(token.0);
        match polls {
            [] => self.push(close),
            [one] => self.push_linked(&[cancel(one), close]),
            [one, two, ..] => self.push_linked(&[cancel(one), cancel(two), close]),
        }
    }

    fn shutdown(&mut self, token: Token) {
        let entry =
            opcode::Shutdown::new(Fixed(token.slot()), libc::SHUT_WR).build().user_data(token.0);
        self.push(entry);
    }

    fn install(&mut self, token: Token) {
        let entry = opcode::FixedFdInstall::new(Fixed(token.slot()), 0).build().user_data(token.0);
        self.push(entry);
    }

    fn unacknowledged(&mut self, token: Token) {
        if self.tells_unacknowledged {
            let entry = opcode::UringCmd16::new(Fixed(token.slot()), SIOCOUTQ).build();
            return self.push(entry.user_data(token.0));
        }
        let result = Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        self.landed.done.push_back(Completion::Unacknowledged { token, result });
    }

    fn socket(&mut self, peer: SocketAddr, local: Option<IpAddr>) -> io::Result<u32> {
        let socket = sys::client_socket(peer, local)?;
        self.enter_table(socket.as_raw_fd())
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<u32, OwnedFd> {
        if !self.installs {
            return Err(socket);
        }
        match self.enter_table(socket.as_raw_fd()) {
            Ok(slot) => Ok(slot),
            Err(_) => Err(socket),
        }
    }

    fn connect(&mut self, token: Token, peer: SocketAddr) {
        let address = Box::new(socket2::SockAddr::from(peer));
        let entry = opcode::Connect::new(
            Fixed(token.slot()),
            address.as_ptr().cast::<libc::sockaddr>(),
            address.len(),
        )
        .build()
        .user_data(token.0);
        self.dialled.push(address);
        self.push(entry);
    }

    fn shrink(&mut self) {
        self.landed.done.shrink_to_fit();
        self.messages = Vec::new();
        self.dialled.shrink_to_fit();
    }

    fn overflows(&self) -> u64 {
        self.overflows
    }

    fn recv(&mut self, arena: &mut [u8], batch: &mut [Recv]) -> io::Result<()> {
        for chunk in batch.chunks_mut(SQ_ENTRIES as usize) {
            for (index, op) in chunk.iter().enumerate() {
                let room = &mut arena[op.range()];
                let entry = opcode::Recv::new(Fixed(op.slot), room.as_mut_ptr(), op.room)
                    .flags(libc::MSG_DONTWAIT)
                    .build()
                    .user_data(Token::new(Op::Recv, 0, index as u32).0);
                self.push(entry);
            }
            let mut missing = chunk.len();
            let mut want = 0;
            let mut batch = Batch::Recv(chunk);
            while missing > 0 {
                self.submit(want, None)?;
                missing -= self.collect(&mut batch)?;
                want = 1;
            }
        }
        Ok(())
    }

    fn enter(
        &mut self,
        mut batch: &mut [Send],
        pieces: &[IoSlice<'_>],
        wait: Wait,
        done: &mut VecDeque<Completion>,
    ) -> io::Result<()> {
        if !self.landed.wake_armed {
            self.arm_wake();
        }
        let mut used = 0;
        loop {
            let (chunk, rest) = batch.split_at_mut(batch.len().min(SQ_ENTRIES as usize));
            batch = rest;
            used += self.queue_sends(chunk, &pieces[used..]);
            let mut missing = if self.silent_sends { 0 } else { chunk.len() };
            let mut sends = Batch::Send(chunk);
            match wait {
                Wait::Until(end)
                    if batch.is_empty() && self.landed.done.is_empty() && missing == 0 =>
                {
                    self.sleep(end)?
                }
                _ => self.submit_and_flush()?,
            }
            missing = missing.saturating_sub(self.collect(&mut sends)?);
            // What a full submission queue or a kernel short of memory left over.
            while !self.ring.submission().is_empty() {
                self.submit_and_flush()?;
                missing = missing.saturating_sub(self.collect(&mut sends)?);
            }
            while missing > 0 {
                self.submit(1, None)?;
                missing = missing.saturating_sub(self.collect(&mut sends)?);
            }
            if batch.is_empty() {
                break;
            }
        }
        self.dialled.clear();
        match done.is_empty() {
            true => std::mem::swap(done, &mut self.landed.done),
            false => done.append(&mut self.landed.done),
        }
        Ok(())
    }
}

impl Uring {
    /// Puts a socket into the table of direct descriptors, and returns its slot.
    fn enter_table(&mut self, socket: RawFd) -> io::Result<u32> {
        let mut fds: [RawFd; 1] = [socket];
        let token = Token::new(Op::Enter, 0, 0);
        // Offset -1 is IORING_FILE_INDEX_ALLOC: the kernel picks the slot and writes it back.
        let entry =
            opcode::FilesUpdate::new(fds.as_mut_ptr(), 1).offset(-1).build().user_data(token.0);
        self.push(entry);
        loop {
            self.submit(1, None)?;
            self.collect(&mut Batch::None)?;
            let entered = |it: &Completion| match it {
                Completion::Connected { token: other, .. } => *other == token,
                _ => false,
            };
            let ours = self
                .landed
                .done
                .iter()
                .rposition(entered)
                .and_then(|at| self.landed.done.remove(at));
            if let Some(Completion::Connected { result, .. }) = ours {
                return result.map(|()| fds[0] as u32);
            }
        }
    }

    /// Queues sends of the first pieces. Returns how many that are.
    fn queue_sends(&mut self, chunk: &mut [Send], pieces: &[IoSlice<'_>]) -> usize {
        let mut used = 0;
        let flags = match self.silent_sends {
            true => squeue::Flags::SKIP_SUCCESS,
            false => squeue::Flags::empty(),
        };
        // No more is pushed below, so what the entries point to stays where it is: each operation
        // has a piece at least, and one with several needs a message.
        self.messages.clear();
        self.messages.reserve(chunk.len().min(pieces.len() - chunk.len()));
        for (index, op) in chunk.iter_mut().enumerate() {
            // Until a completion says otherwise, all of it was taken.
            op.result = Ok(op.len);
            let fd = Fixed(op.slot);
            let data = &pieces[used..used + op.pieces as usize];
            used += data.len();
            let entry = match data {
                [one] => {
                    let len = one.len().min(u32::MAX as usize) as u32;
                    opcode::Send::new(fd, one.as_ptr(), len).flags(SEND_FLAGS).build()
                }
                many => {
                    let mut message = sys::empty_msghdr();
                    // The layout of IoSlice is that of iovec (documented in std).
                    message.msg_iov = many.as_ptr().cast_mut().cast();
                    message.msg_iovlen = many.len();
                    self.messages.push(message);
                    let message = self.messages.last().map_or(std::ptr::null(), std::ptr::from_ref);
                    opcode::SendMsg::new(fd, message).flags(SEND_FLAGS as u32).build()
                }
            };
            self.push(entry.flags(flags).user_data(Token::new(Op::Send, 0, index as u32).0));
        }
        used
    }
}

impl Landed {
    /// Takes a completion that comes seldom, out of the way of the others.
    #[inline(never)]
    fn take(&mut self, token: Token, entry: &cqueue::Entry) {
        match token.op() {
            Some(Op::Wake) => {
                self.wake_armed &= cqueue::more(entry.flags());
                self.done.push_back(Completion::Woken);
            }
            Some(Op::Alarm) => self.alarm.rang(token),
            Some(Op::Accept) => {
                let lane = token.slot();
                let result = check(entry.result())
                    .and_then(|slot| Ok((slot, self.addresses[lane as usize].parse()?)));
                self.done.push_back(Completion::Accepted { lane, result });
            }
            Some(op) => self.done.extend(completion(op, token, entry)),
            None => debug_assert!(false, "a completion nobody asked for: {token:?}"),
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // A cancelled accept may be finished by the kernel after the ring is closed; it must not
        // find its address freed. A few kilobytes per ring, once.
        for address in self.landed.addresses.drain(..) {
            Box::leak(address);
        }
    }
}

/// The batch a completion may belong to.
enum Batch<'a> {
    None,
    Recv(&'a mut [Recv]),
    Send(&'a mut [Send]),
}

impl Batch<'_> {
    fn finish(&mut self, index: usize, entry: &cqueue::Entry) {
        let result = match entry.result() {
            count @ 0.. => Ok(count as u32),
            error => Err(Errno(-error)),
        };
        match self {
            Batch::Recv(batch) => {
                batch[index].result = result;
                batch[index].more = cqueue::sock_nonempty(entry.flags());
            }
            Batch::Send(batch) => {
                batch[index].result = match result {
                    Err(error) if error.would_block() => Ok(0),
                    other => other.map(|count| count as usize),
                };
            }
            Batch::None => debug_assert!(false, "a batch completion outside its batch"),
        }
    }
}

fn completion(op: Op, token: Token, entry: &cqueue::Entry) -> Option<Completion> {
    match op {
        Op::Close => Some(Completion::Closed { token }),
        Op::Shutdown => Some(Completion::ShutDown { token }),
        Op::Look => Some(Completion::Unacknowledged { token, result: check(entry.result()) }),
        Op::Install => Some(Completion::Installed {
            token,
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
            result: check(entry.result()).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
        }),
        // Entering a socket reports through the same shape; only `socket` looks for it.
        Op::Connect | Op::Enter => {
            Some(Completion::Connected { token, result: check(entry.result()).map(|_| ()) })
        }
        // Their batch or the ring itself has them, and what is cancelled says so.
        Op::Poll | Op::PollOut | Op::Send | Op::Recv => None,
        Op::Cancel | Op::Accept | Op::Wake | Op::Alarm => None,
    }
}

fn readiness(events: u32) -> Readiness {
    let events = events as i16;
    let broken = events & (libc::POLLERR | libc::POLLHUP) != 0;
    Readiness {
        readable: broken || events & (libc::POLLIN | libc::POLLRDHUP) != 0,
        writable: broken || events & libc::POLLOUT != 0,
        broken,
    }
}

fn check(result: i32) -> io::Result<u32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as u32) }
}

fn build(cq: u32) -> Result<IoUring, SetupError> {
    let make = |no_sqarray: bool| {
        let mut builder = IoUring::builder();
        builder
            .setup_cqsize(cq)
            .setup_clamp()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun();
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        builder.build(SQ_ENTRIES)
    };
    make(true).or_else(|_| make(false)).map_err(SetupError::Ring)
}

/// Completion queue entries for a table: a poll of every second connection at once without
/// overflow, 16 bytes each; beyond that the kernel queues and the polls are armed again.
fn cq_entries(table: u32) -> u32 {
    (table / 2).next_power_of_two().clamp(4096, 65_536)
}

/// Bytes that the queues of a worker's ring take from `RLIMIT_MEMLOCK`, which a user without
/// CAP_IPC_LOCK shares among all its processes. On Linux 6.18, 8 MiB hold 7 of the largest.
pub fn locked_bytes(table: u32) -> u64 {
    const PAGE: u64 = 4096;
    let completions = u64::from(cq_entries(table)) * 16 + PAGE;
    completions + u64::from(SQ_ENTRIES) * 64
}

/// Whether a send with `MSG_WAITALL | MSG_DONTWAIT` and `IOSQE_CQE_SKIP_SUCCESS` is silent when all
/// of it was taken, and reports the count or `EAGAIN` otherwise. So the kernel behaves since 6.1
/// (io_uring/net.c, `io_sendrecv_fail`); a kernel that does not gets a completion for every send.
fn probe_silent_sends(ring: &mut IoUring) -> io::Result<bool> {
    let (sender, _receiver) = std::os::unix::net::UnixStream::pair()?;
    socket2::SockRef::from(&sender).set_send_buffer_size(4096)?;
    let data = [0u8; 1 << 15];
    let mut attempt = |len: u32| -> io::Result<Option<i32>> {
        let entry = opcode::Send::new(types::Fd(sender.as_raw_fd()), data.as_ptr(), len)
            .flags(SEND_FLAGS)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(CANCEL);
        // SAFETY: `data` and `sender` outlive the submission, which does not park the request.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        ring.submit()?;
        Ok(ring.completion().next().map(|entry| entry.result()))
    };
    let whole = attempt(16)?;
    let partial = attempt(data.len() as u32)?;
    let full = attempt(data.len() as u32)?;
    let in_part = matches!(partial, Some(n) if n > 0 && (n as usize) < data.len());
    Ok(whole.is_none() && in_part && full == Some(-libc::EAGAIN))
}

/// Whether the kernel knows [`sys::poll_before_accept`]: without a descriptor an accept fails with
/// `EBADF` where it does, and with `EINVAL` before that where it does not.
fn probe_poll_before_accept(ring: &mut IoUring) -> io::Result<bool> {
    let nothing = (std::ptr::null_mut(), std::ptr::null_mut());
    let mut entry = opcode::Accept::new(types::Fd(-1), nothing.0, nothing.1).build();
    sys::poll_before_accept(&mut entry);
    // SAFETY: the entry points to nothing.
    unsafe { ring.submission().push(&entry.user_data(CANCEL)) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    Ok(ring.completion().next().is_some_and(|entry| entry.result() == -libc::EBADF))
}

/// Whether the kernel knows `SIOCOUTQ` as a command to a socket (Linux 6.7), asked of a socket
/// without a peer.
fn probe_unacknowledged(ring: &mut IoUring) -> io::Result<bool> {
    use socket2::{Domain, Socket, Type};
    let new = |domain| Socket::new(domain, Type::STREAM, None);
    let Ok(socket) = new(Domain::IPV4).or_else(|_| new(Domain::IPV6)) else { return Ok(false) };
    let entry = opcode::UringCmd16::new(types::Fd(socket.as_raw_fd()), SIOCOUTQ).build();
    // SAFETY: the entry points to nothing, and the socket outlives it.
    unsafe { ring.submission().push(&entry.user_data(CANCEL)) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    Ok(ring.completion().next().is_some_and(|entry| entry.result() == 0))
}

/// Whether this process may make a ring such as a worker's.
pub fn probe() -> Result<(), SetupError> {
    build(cq_entries(0)).map(drop)
}

/// Submission queue entries: a batch of this size costs one system call. 64 bytes each in the
/// kernel; 256 and 4,096 measured the same per send.
const SQ_ENTRIES: u32 = 1024;
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
/// `SOCKET_URING_OP_SIOCOUTQ`.
const SIOCOUTQ: u32 = 1;
const CANCEL: u64 = Token::new(Op::Cancel, 0, 0).0;
