//! The program's allocator, and giving back to the kernel what it keeps.

/// Gives freed pages back to the kernel, which glibc's allocator does not do reliably.
#[cfg(feature = "allocator")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Returns what this thread's heap has free. The allocator does so while it is used; a core whose
/// crowd has left uses it no more (165 bytes per former connection stayed resident).
pub(crate) fn give_back() {
    #[cfg(feature = "allocator")]
    // SAFETY: takes no pointer, and may be called by any thread at any time that is not inside the
    // allocator, which nothing that calls this is.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
    // Cryptography is C and has glibc's heaps, which keep what many handshakes at once needed.
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and locks what it walks (glibc 2.8).
    unsafe {
        libc::malloc_trim(0);
    }
}
