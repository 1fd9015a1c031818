//! The few system calls that neither std nor a crate wraps: each function is safe to call and says
//! why its `unsafe` is sound.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::LazyLock;
use std::time::Duration;

use io_uring::{EnterFlags, squeue};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use super::ring::Doorbell;

/// Nanoseconds since an arbitrary start that all threads of the process share.
pub fn monotonic_ns() -> u64 {
    static START: LazyLock<u64> = LazyLock::new(clock_ns);
    clock_ns().saturating_sub(*START)
}

/// `CLOCK_MONOTONIC`, which every turn reads: std's takes five times the instructions.
fn clock_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one structure is written. The call cannot fail: this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Where the kernel writes the peer address of an accept.
pub struct AcceptAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Default for AcceptAddress {
    fn default() -> Self {
        // SAFETY: sockaddr_storage is plain data for which all zero bytes are a value (AF_UNSPEC).
        Self { storage: unsafe { std::mem::zeroed() }, len: 0 }
    }
}

impl AcceptAddress {
    /// Resets the length and gives the two pointers an accept needs. They are valid as long as
    /// the box this lives in.
    pub fn prepare(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        self.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        ((&raw mut self.storage).cast(), &raw mut self.len)
    }

    /// The address of a completed accept.
    pub fn parse(&self) -> io::Result<SocketAddr> {
        // SAFETY: the storage was zeroed at first and only the kernel wrote to it since, so its
        // family and the fields that go with it are consistent.
        let address = unsafe { SockAddr::new(std::mem::transmute_copy(&self.storage), self.len) };
        address.as_socket().ok_or_else(|| io::Error::other("accepted from an unknown family"))
    }
}

/// A zeroed message header.
pub fn empty_msghdr() -> libc::msghdr {
    // SAFETY: msghdr is plain data; null pointers with zero lengths are valid.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// An eventfd as a doorbell: it is polled, never read, so writing is all it needs.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, closed on exec and never blocking.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers; a non-negative result is a descriptor that is ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just created, owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Doorbell for std::sync::Arc<EventFd> {
    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight valid bytes. It cannot fail: the counter would need 2^64 rings to fill.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// The way into a ring: `io_uring_enter(2)`, as cheap as this kernel has it. Used by the thread
/// that made it, which is the ring's own (`IORING_SETUP_SINGLE_ISSUER`).
#[derive(Debug)]
pub struct Gate {
    ring: RawFd,
    /// What the ring is among those that its thread registered.
    index: Option<u32>,
    /// Of every call.
    flags: u32,
}

impl Gate {
    /// Registers the ring's descriptor with the calling thread, so that a call need not look it up
    /// and count a reference (Linux 5.18), and has waits count as idle and not as waiting for a
    /// disk, as which an idle core with armed polls shows otherwise (`IORING_ENTER_NO_IOWAIT`,
    /// Linux 6.15). Where the kernel has neither, calls work all the same.
    pub fn new(ring: &impl AsRawFd) -> Self {
        let mut gate = Self { ring: ring.as_raw_fd(), index: None, flags: 0 };
        let mut update = RingUpdate { data: gate.ring as u64, ..RingUpdate::default() };
        if gate.register(REGISTER_RING_FDS, &mut update) == 1 {
            gate.index = Some(update.offset);
            gate.flags = EnterFlags::REGISTERED_RING.bits();
        }
        let flags = EnterFlags::NO_IOWAIT.bits();
        // SAFETY: nothing is submitted.
        if unsafe { gate.enter(0, 0, flags, None) }.is_ok() {
            gate.flags |= flags;
        }
        gate
    }

    /// Returns how many rings the call was about.
    fn register(&self, code: libc::c_long, update: &mut RingUpdate) -> libc::c_long {
        let update: *mut RingUpdate = update;
        // SAFETY: one structure of the layout that both calls read and write.
        unsafe { libc::syscall(libc::SYS_io_uring_register, self.ring, code, update, 1) }
    }

    /// Submits up to `queued` entries and, with [`EnterFlags::GETEVENTS`] among `flags`, waits for
    /// `want` completions, at most for `limit`.
    ///
    /// # Safety
    ///
    /// The pointers of the queued entries must be valid until their operations need them no more.
    #[inline]
    pub unsafe fn enter(
        &self,
        queued: u32,
        want: u32,
        flags: u32,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        let Some(limit) = limit else {
            // SAFETY: there is no argument; the caller answers for the entries.
            return unsafe { self.call(queued, want, flags, std::ptr::null(), 0) };
        };
        let time = KernelTimespec {
            seconds: limit.as_secs() as i64,
            nanoseconds: i64::from(limit.subsec_nanos()),
        };
        let argument = GetEvents { time: std::ptr::from_ref(&time) as u64, ..GetEvents::default() };
        let flags = flags | EnterFlags::EXT_ARG.bits();
        // SAFETY: the argument and the time it points to outlive the call; the caller answers for
        // the entries.
        unsafe { self.call(queued, want, flags, &raw const argument, size_of::<GetEvents>()) }
    }

    /// # Safety
    ///
    /// As of [`Self::enter`]; and the argument, and what it points to, must be valid.
    #[inline]
    unsafe fn call(
        &self,
        queued: u32,
        want: u32,
        flags: u32,
        argument: *const GetEvents,
        size: usize,
    ) -> io::Result<()> {
        let flags = self.flags | flags;
        // SAFETY: the caller answers for the argument and the entries.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.index.unwrap_or(self.ring as u32),
                queued,
                want,
                flags,
                argument,
                size,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(offset) = self.index {
            // The thread would hold the ring, and its connections, as long as it lives.
            self.register(UNREGISTER_RING_FDS, &mut RingUpdate { offset, ..RingUpdate::default() });
        }
    }
}

/// Lets an accept wait for a connection before it makes a socket, a file and a place in the table
/// for it, which it gives back if there is none (`IORING_ACCEPT_POLL_FIRST`, Linux 6.10). The
/// crate's accept has no setter for it.
pub fn poll_before_accept(entry: &mut squeue::Entry) {
    const POLL_FIRST: u16 = 1 << 2;
    const IOPRIO: usize = 2;
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: the entry is `struct io_uring_sqe` and nothing else (`repr(C)`): 64 plain bytes, of
    // which the third and fourth are `ioprio`, where accept has its flags.
    unsafe { (&raw mut *entry).cast::<u8>().add(IOPRIO).cast::<u16>().write(POLL_FIRST) };
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

impl Default for RingUpdate {
    /// Any free index.
    fn default() -> Self {
        Self { offset: u32::MAX, reserved: 0, data: 0 }
    }
}

/// `struct io_uring_getevents_arg`.
#[derive(Default)]
#[repr(C)]
struct GetEvents {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_us: u32,
    time: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `IORING_REGISTER_RING_FDS` and its opposite.
const REGISTER_RING_FDS: libc::c_long = 20;
const UNREGISTER_RING_FDS: libc::c_long = 21;

/// A socket towards `peer`, bound to `local` without spending a port until it connects.
pub fn client_socket(peer: SocketAddr, local: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(ip) = local {
        let one: libc::c_int = 1;
        // SAFETY: the option takes an int, which `one` is. IP_BIND_ADDRESS_NO_PORT: Linux 4.2.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                (&raw const one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            );
        }
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    Ok(socket)
}

/// Lets the kernel drop requests to connect to a listener; handshakes in progress complete.
pub fn drop_new_connections(listener: &OwnedFd) {
    if let Err(error) = socket2::SockRef::from(listener).attach_filter(&DROP_SYN) {
        tracing::warn!(%error, "connections that begin while the listener closes may be reset");
    }
}

/// A socket filter for a listener, in classic BPF over the TCP header: a segment whose byte 13 has
/// SYN (2) set is dropped, any other passes whole. Needs no privilege (Linux 2.2).
const DROP_SYN: [SockFilter; 4] = [
    SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 13),
    SockFilter::new((libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16, 0, 1, 2),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
];

/// Bytes of a socket that its peer has not acknowledged (`SIOCOUTQ`).
pub fn unacknowledged(socket: &OwnedFd) -> io::Result<u32> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) } {
        0 => Ok(count.max(0) as u32),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The soft and hard limit of open files.
pub fn open_files_limit() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills the structure it is given.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_files_limit() -> u64 {
    let (soft, hard) = open_files_limit();
    if soft < hard {
        let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
        // SAFETY: setrlimit reads the structure it is given.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
    open_files_limit().0
}

/// Gives the whole pages of a buffer back to the kernel; they are zero when they are touched again.
/// A buffer made anew would be zeroed by hand where the allocator has had its memory before, and so
/// be resident from the start.
pub fn discard(buffer: &mut [u8]) {
    let page = rustix::param::page_size();
    let (head, len) = (buffer.as_ptr().align_offset(page), buffer.len());
    let pages = len.saturating_sub(head) / page * page;
    if pages == 0 {
        return;
    }
    let start = buffer[head..].as_mut_ptr();
    // SAFETY: the pages lie in the buffer, which is borrowed exclusively, so nobody else sees them
    // change; what they hold afterwards, zeroes or a mapped file's bytes, are valid bytes too.
    // Where the kernel refuses (huge pages of its own), nothing has changed.
    unsafe { libc::madvise(start.cast(), pages, libc::MADV_DONTNEED) };
}

/// Binds the calling thread to the `n`th of the processors that it may run on, counted around.
/// Returns which that is.
pub fn pin_to_cpu(n: usize) -> io::Result<usize> {
    const SIZE: usize = size_of::<libc::cpu_set_t>();
    // SAFETY: cpu_set_t is plain data.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread; the set is valid and of the size given.
    if unsafe { libc::sched_getaffinity(0, SIZE, &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the indices are within the set.
    let allowed = (0..8 * SIZE).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) });
    let allowed: Vec<usize> = allowed.collect();
    let Some(cpu) = allowed.get(n % allowed.len().max(1)).copied() else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    // SAFETY: as above, and the index is within the set.
    unsafe {
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(cpu, &mut set);
    }
    // SAFETY: as above.
    match unsafe { libc::sched_setaffinity(0, SIZE, &set) } {
        0 => Ok(cpu),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarded_pages_are_zero_and_the_rest_is_as_it_was() {
        let mut buffer = vec![7; 100_000];
        let page = rustix::param::page_size();
        let head = buffer.as_ptr().align_offset(page);
        let end = head + (buffer.len() - head) / page * page;
        discard(&mut buffer);
        assert!(buffer[..head].iter().chain(&buffer[end..]).all(|byte| *byte == 7));
        assert!(buffer[head..end].iter().all(|byte| *byte == 0));
        discard(&mut buffer[..10]);
        discard(&mut []);
    }

    #[test]
    fn a_gate_submits_waits_and_gives_up() {
        let mut ring = io_uring::IoUring::new(8).unwrap();
        // More than a thread may register (16): each gives its place back.
        for _ in 0..40 {
            assert_eq!(Gate::new(&ring).index, Some(0));
        }
        let gate = Gate::new(&ring);
        let nop = io_uring::opcode::Nop::new().build().user_data(7);
        let events = EnterFlags::GETEVENTS.bits();
        // SAFETY: the entry points to nothing.
        unsafe {
            ring.submission().push(&nop).unwrap();
            gate.enter(1, 1, events, None).unwrap();
        }
        assert_eq!(ring.completion().next().map(|entry| entry.user_data()), Some(7));
        let limit = Some(Duration::from_millis(1));
        // SAFETY: nothing is queued.
        let nothing = unsafe { gate.enter(0, 1, events, limit) };
        assert_eq!(nothing.unwrap_err().raw_os_error(), Some(libc::ETIME));
    }

    #[test]
    fn pinning_stays_within_the_processors_that_are_allowed() {
        let thread = std::thread::spawn(|| {
            let cpu = pin_to_cpu(1).unwrap();
            // Now that one is all there is.
            assert_eq!(pin_to_cpu(0).unwrap(), cpu);
            assert_eq!(pin_to_cpu(7).unwrap(), cpu);
        });
        thread.join().unwrap();
    }
}
