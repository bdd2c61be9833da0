//! A heap of mimalloc's: [`Heap`], and what works without one.
//!
//! Version 3 of mimalloc has heaps that serve every thread. In version 2, which another crate of
//! the program can choose by a feature, a heap serves only the thread that made it, and the
//! default heap of each thread must do.
//!
//! A heap that is deleted leaves its live blocks to the main heap; here it is handed to the next
//! manager instead, which is as safe and leaves no thread with a pointer to it.

#![expect(unsafe_code, reason = "calls mimalloc in C")]

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::ptr::{self, NonNull};

use arrow_memory_manager::__private::{Order, ProcessLock};
use libmimalloc_sys as mimalloc;

/// Where a manager's blocks come from.
///
/// # Invariants
///
/// 1. `own`, if there is one, was made by version 3 and is never deleted, so any thread may use it
///    at any time. No other `Heap` has it.
#[derive(Debug)]
pub(crate) struct Heap {
    own: Option<OwnHeap>,
}

impl Heap {
    /// A heap of its own where the linked version has such, else the threads' default heaps.
    pub(crate) fn new() -> Self {
        if !is_version_3() {
            return Self { own: None };
        }
        let left = LEFT.lock().pop();
        let own = left.or_else(|| {
            // SAFETY: any thread may make a heap at any time.
            NonNull::new(unsafe { mimalloc::mi_heap_new() }).map(OwnHeap)
        });
        Self { own }
    }

    /// Whether blocks come from a heap of its own.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// A block of `size` bytes, with mimalloc's natural alignment, or null.
    #[inline]
    pub(crate) fn malloc(&self, size: usize) -> *mut u8 {
        let ptr = match &self.own {
            // SAFETY: by invariant 1 the heap is alive and serves this thread.
            Some(own) => unsafe { mimalloc::mi_heap_malloc(own.0.as_ptr(), size) },
            // SAFETY: any size may be asked for.
            None => unsafe { mimalloc::mi_malloc(size) },
        };
        ptr.cast()
    }

    /// A block of `size` bytes, all zero, with mimalloc's natural alignment, or null.
    pub(crate) fn zalloc(&self, size: usize) -> *mut u8 {
        let ptr = match &self.own {
            // SAFETY: by invariant 1 the heap is alive and serves this thread.
            Some(own) => unsafe { mimalloc::mi_heap_zalloc(own.0.as_ptr(), size) },
            // SAFETY: any size may be asked for.
            None => unsafe { mimalloc::mi_zalloc(size) },
        };
        ptr.cast()
    }

    /// A block of `size` bytes aligned to `align`, or null.
    pub(crate) fn malloc_aligned(&self, size: usize, align: usize) -> *mut u8 {
        let ptr = match &self.own {
            // SAFETY: by invariant 1 the heap is alive and serves this thread.
            Some(own) => unsafe { mimalloc::mi_heap_malloc_aligned(own.0.as_ptr(), size, align) },
            // SAFETY: any size may be asked for; an alignment that is none is refused.
            None => unsafe { mimalloc::mi_malloc_aligned(size, align) },
        };
        ptr.cast()
    }

    /// A block of `size` bytes, all zero, aligned to `align`, or null.
    pub(crate) fn zalloc_aligned(&self, size: usize, align: usize) -> *mut u8 {
        let ptr = match &self.own {
            // SAFETY: by invariant 1 the heap is alive and serves this thread.
            Some(own) => unsafe { mimalloc::mi_heap_zalloc_aligned(own.0.as_ptr(), size, align) },
            // SAFETY: any size may be asked for; an alignment that is none is refused.
            None => unsafe { mimalloc::mi_zalloc_aligned(size, align) },
        };
        ptr.cast()
    }

    /// Gives back what the calling thread keeps, and what no thread uses.
    pub(crate) fn collect(&self) {
        if let Some(own) = &self.own {
            // SAFETY: by invariant 1 the heap is alive and serves this thread.
            unsafe { mimalloc::mi_heap_collect(own.0.as_ptr(), true) };
        }
        // SAFETY: any thread may collect at any time.
        unsafe { mimalloc::mi_collect(true) };
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            // SAFETY: by invariant 1 the heap is alive and serves this thread.
            unsafe { mimalloc::mi_heap_collect(own.0.as_ptr(), true) };
            LEFT.push(own);
        }
    }
}

/// A heap of version 3, with one owner.
#[derive(Debug)]
struct OwnHeap(NonNull<mimalloc::mi_heap_t>);

// SAFETY: heaps of version 3 may be allocated from, and collected, on any thread.
unsafe impl Send for OwnHeap {}
// SAFETY: heaps of version 3 serve several threads at once; each works in its own part of the heap.
unsafe impl Sync for OwnHeap {}

/// Gives a block back.
///
/// # Safety
///
/// `ptr` is a live block of mimalloc's, of any heap, and it is not used any more.
#[inline]
pub(crate) unsafe fn free(ptr: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { mimalloc::mi_free(ptr.cast()) };
}

/// Whether a block has room for `size` bytes where it is.
///
/// # Safety
///
/// `ptr` is a live block of mimalloc's.
pub(crate) unsafe fn expand(ptr: *mut u8, size: usize) -> bool {
    // SAFETY: the caller's promise. The block does not move: it is returned, or null.
    !unsafe { mimalloc::mi_expand(ptr.cast(), size) }.is_null()
}

/// How many bytes a block has room for.
///
/// # Safety
///
/// `ptr` is a live block of mimalloc's.
pub(crate) unsafe fn usable_size(ptr: *mut u8) -> usize {
    // SAFETY: the caller's promise.
    unsafe { mimalloc::mi_usable_size(ptr.cast()) }
}

/// The version of the linked mimalloc: major, minor, patch.
pub(crate) fn version() -> (u32, u32, u32) {
    // SAFETY: it only tells a constant.
    let version = unsafe { mimalloc::mi_version() }.unsigned_abs();
    if version < 10_000 {
        // Older ones have one digit each for minor and patch.
        (version / 100, version / 10 % 10, version % 10)
    } else {
        (version / 10_000, version / 100 % 100, version % 100)
    }
}

/// mimalloc's statistics of the process, as JSON; empty if it has no memory for them.
pub(crate) fn statistics_json() -> String {
    // SAFETY: a null buffer of no bytes asks for a new one.
    let json = unsafe { mi_stats_get_json(0, ptr::null_mut()) };
    if json.is_null() {
        return String::new();
    }
    // SAFETY: what is returned ends with a zero byte, and is ours until it is freed below.
    let text = unsafe { CStr::from_ptr(json) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: it was made for us by mimalloc, and the text is copied.
    unsafe { mimalloc::mi_free(json.cast::<c_void>()) };
    text
}

/// The value of an option, by its number.
pub(crate) fn option(option: c_int) -> c_long {
    // SAFETY: it reads a table, and answers 0 for a number that it does not have.
    unsafe { mimalloc::mi_option_get(option) }
}

/// Sets an option, by its number.
pub(crate) fn set_option(option: c_int, value: i32) {
    // SAFETY: it writes to a table, atomically, and ignores a number that it does not have.
    unsafe { mimalloc::mi_option_set(option, c_long::from(value)) };
}

fn is_version_3() -> bool {
    version().0 == 3
}

unsafe extern "C" {
    // Both versions have it; libmimalloc-sys declares it for one of them.
    fn mi_stats_get_json(buf_size: usize, buf: *mut c_char) -> *mut c_char;
}

/// Heaps whose managers are gone. Under the lock one is pushed or popped. A fork waits for it.
static LEFT: ProcessLock<Vec<OwnHeap>> = ProcessLock::new(Order::Inner, Vec::new());
