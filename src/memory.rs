//! The program's allocator, and giving back to the kernel what it keeps.

#[cfg(feature = "allocator")]
pub(crate) use mimalloc_apart::{give_back, put_apart};

/// mimalloc, which gives freed pages back to the kernel; glibc's allocator does not do so reliably.
/// A thread can put what it allocates apart from the rest.
#[cfg(feature = "allocator")]
mod mimalloc_apart {
    use std::alloc::{GlobalAlloc, Layout};
    use std::cell::Cell;
    use std::ptr::null_mut;
    use std::sync::OnceLock;

    use libmimalloc_sys::{
        mi_collect, mi_heap_collect, mi_heap_malloc_aligned, mi_heap_new, mi_heap_realloc_aligned,
        mi_heap_t, mi_heap_zalloc_aligned,
    };
    use mimalloc::MiMalloc;

    struct Allocator;

    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    thread_local! {
        /// Where this thread allocates; null: from its own heap.
        static CHOSEN: Cell<*mut mi_heap_t> = const { Cell::new(null_mut()) };
    }

    /// The heap that is apart; null if there was no memory for it.
    static APART: OnceLock<Heap> = OnceLock::new();

    struct Heap(*mut mi_heap_t);

    // SAFETY: any thread may allocate from a heap of mimalloc 3, which finds the thread's part.
    unsafe impl Send for Heap {}
    // SAFETY: as above.
    unsafe impl Sync for Heap {}

    // SAFETY: all is mimalloc's, and a block is freed in the same way whatever heap it is of. A
    // chosen heap is never deleted.
    unsafe impl GlobalAlloc for Allocator {
        #[inline]
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let heap = CHOSEN.get();
            // SAFETY: the caller promises what both ask for.
            unsafe {
                match heap.is_null() {
                    true => MiMalloc.alloc(layout),
                    false => mi_heap_malloc_aligned(heap, layout.size(), layout.align()).cast(),
                }
            }
        }

        #[inline]
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            let heap = CHOSEN.get();
            // SAFETY: as above.
            unsafe {
                match heap.is_null() {
                    true => MiMalloc.alloc_zeroed(layout),
                    false => mi_heap_zalloc_aligned(heap, layout.size(), layout.align()).cast(),
                }
            }
        }

        #[inline]
        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { MiMalloc.dealloc(block, layout) }
        }

        #[inline]
        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            let (heap, align) = (CHOSEN.get(), layout.align());
            // SAFETY: as above.
            unsafe {
                match heap.is_null() {
                    true => MiMalloc.realloc(block, layout, size),
                    false => mi_heap_realloc_aligned(heap, block.cast(), size, align).cast(),
                }
            }
        }
    }

    /// From `true` to `false` this thread's blocks come from a heap apart. A page of the allocator
    /// goes back when the last block of its 64 KiB does, and a core has some block of nearly every
    /// size for ever: without this the blocks of a burst of handshakes left 0.25 MiB per core.
    pub(crate) fn put_apart(apart: bool) {
        CHOSEN.set(if apart {
            // SAFETY: takes nothing.
            APART.get_or_init(|| Heap(unsafe { mi_heap_new() })).0
        } else {
            null_mut()
        });
    }

    /// Returns what this thread's heaps have free. The allocator does so while it is used; a core
    /// whose crowd has left uses it no more (165 bytes per former connection stayed resident).
    pub(crate) fn give_back() {
        // SAFETY: collects this thread's part of both heaps, and may be called by any thread at any
        // time that is not inside the allocator, which nothing that calls this is.
        unsafe {
            if let Some(Heap(heap)) = APART.get().filter(|heap| !heap.0.is_null()) {
                mi_heap_collect(*heap, true);
            }
            mi_collect(true);
        }
        super::trim();
    }
}

/// Without that allocator there is none to be asked.
#[cfg(not(feature = "allocator"))]
pub(crate) fn put_apart(_: bool) {}

/// Returns what the C library has free.
#[cfg(not(feature = "allocator"))]
pub(crate) fn give_back() {
    trim();
}

/// Cryptography is C and has glibc's heaps, which keep what many handshakes at once needed.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and locks what it walks (glibc 2.8).
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, feature = "allocator"))]
mod tests {
    use super::*;

    #[test]
    fn blocks_grow_and_are_freed_whichever_heap_they_are_of() {
        for (first, then) in [(true, false), (false, true), (true, true), (false, false)] {
            for size in [1, 100, 5_000, 200_000, 5_000_000] {
                put_apart(first);
                let (mut grown, zeroed) = (vec![7_u8; size], vec![0_u8; size]);
                put_apart(then);
                grown.resize(3 * size, 8);
                assert!(grown[..size].iter().all(|byte| *byte == 7) && grown[size..].contains(&8));
                assert!(zeroed.iter().all(|byte| *byte == 0));
                drop(grown);
                std::thread::spawn(move || drop(zeroed)).join().expect("another thread frees it");
                give_back();
                put_apart(false);
            }
        }
    }
}
