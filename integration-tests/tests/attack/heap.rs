//! The heap of the process: what the global allocator has handed out. Blocks of a tree are not in it, since the backend
//! `system` asks the C library for them.
#![expect(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};

/// The system's allocator, which counts live bytes.
struct Counting;

#[global_allocator]
static GLOBAL: Counting = Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

/// The live bytes of the heap.
pub(crate) fn live() -> isize {
    // Relaxed: the count guards no other memory.
    LIVE.load(Ordering::Relaxed)
}

fn count(bytes: usize) {
    // Relaxed: the count guards no other memory.
    LIVE.fetch_add(bytes as isize, Ordering::Relaxed);
}

fn uncount(bytes: usize) {
    // Relaxed: the count guards no other memory.
    LIVE.fetch_sub(bytes as isize, Ordering::Relaxed);
}

// SAFETY: it forwards all calls to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        uncount(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(ptr, layout) };
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        uncount(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}
