//! A tally inside of the global allocator: the tally's own allocations call it again.
#![expect(unsafe_code, reason = "implements `GlobalAlloc`")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::thread;

use arrow_memory_manager::Tally;

static TALLY: Tally = Tally::new();

struct Counted;

// SAFETY: all calls are forwarded to the system's allocator, and counting does not unwind.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TALLY.lent(layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        TALLY.returned(layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counted = Counted;

/// A thread allocates when it creates its shard, and so calls the tally again before the shard exists.
#[test]
fn a_tally_may_count_what_the_global_allocator_lends() {
    let before = TALLY.stats();

    let kept: Vec<Box<[u8]>> = (0..8)
        .map(|_| {
            let thread = thread::spawn(|| vec![0; 1 << 20].into_boxed_slice());
            thread.join().unwrap_or_default()
        })
        .collect();

    let after = TALLY.stats();
    let grown = after.live_bytes.unwrap_or(0) - before.live_bytes.unwrap_or(0);
    // Threads and their shards take a few hundred bytes each.
    assert!((8 << 20..(8 << 20) + 64 * 1024).contains(&grown), "{grown}");
    assert_eq!(kept.len(), 8);
}
