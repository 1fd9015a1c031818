//! The few system calls that neither std nor a crate wraps: each function is safe to call and says
//! why its `unsafe` is sound.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::LazyLock;
use std::time::Instant;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::ring::Doorbell;

/// Nanoseconds since an arbitrary start that all threads of the process share.
pub fn monotonic_ns() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
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
