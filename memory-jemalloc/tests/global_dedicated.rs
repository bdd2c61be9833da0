//! A manager with a dedicated arena as the global allocator: what the manager itself allocates comes back to it.
#![expect(unsafe_code, reason = "implements `GlobalAlloc`")]

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::thread;

use arrow_memory_jemalloc::JemallocManager;
use arrow_memory_manager::AllocationManager;
use tikv_jemalloc_sys as jemalloc;

/// What serves the program once the test has made it. What was allocated before is jemalloc's, too.
static MANAGER: OnceLock<JemallocManager> = OnceLock::new();

struct Dedicated;

/// The alignment of all blocks of a manager.
const ALIGNMENT: usize = 64;

/// The largest block that a manager asks of jemalloc as it is: larger ones get the size of their class.
const LARGEST: usize = 32 * 1024;

fn padded(layout: Layout) -> Layout {
    let align = layout.align().max(ALIGNMENT);
    let padded = Layout::from_size_align(layout.size().max(1), align);
    padded.map_or(layout, |padded| padded.pad_to_align())
}

// SAFETY: every block is jemalloc's, of a size that is padded alike on both ways; neither way unwinds.
unsafe impl GlobalAlloc for Dedicated {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let layout = padded(layout);
        match MANAGER.get() {
            Some(manager) => manager
                .allocate(layout)
                .map_or(ptr::null_mut(), NonNull::as_ptr),
            // SAFETY: the size is not zero, and the alignment is a power of two.
            None => unsafe {
                jemalloc::mallocx(layout.size(), jemalloc::MALLOCX_ALIGN(layout.align())).cast()
            },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let layout = padded(layout);
        let Some(manager) = MANAGER.get().filter(|_| layout.size() <= LARGEST) else {
            // SAFETY: a live block of jemalloc's, whichever arena it came from.
            unsafe { jemalloc::dallocx(block.cast(), jemalloc::MALLOCX_TCACHE_NONE) };
            return;
        };
        // SAFETY: by the caller's promise it is not null.
        let block = unsafe { NonNull::new_unchecked(block) };
        // SAFETY: a live block of jemalloc's of this size and alignment. That is all that the manager's own
        // blocks of up to 32 KiB are.
        unsafe { manager.deallocate(block, layout) };
    }
}

#[global_allocator]
static GLOBAL: Dedicated = Dedicated;

/// A thread that makes its cache for the arena allocates, and so comes back to the manager before the cache is
/// there.
#[test]
fn a_manager_with_a_dedicated_arena_may_be_the_global_allocator() {
    let manager = JemallocManager::builder().dedicated_arena(true).build();
    MANAGER.set(manager.expect("an arena")).expect("the first");

    for _ in 0..4 {
        let threads = [(); 8].map(|()| {
            thread::spawn(|| {
                let texts: Vec<String> = (0..1000).map(|i| format!("{i:>100}")).collect();
                texts.iter().map(String::len).sum::<usize>()
            })
        });
        let lengths = threads.map(|thread| thread.join().expect("no panic"));
        assert_eq!(lengths, [100_000; 8]);
    }

    // Another arena of the same thread.
    let other = JemallocManager::builder().dedicated_arena(true).build();
    let other = other.expect("an arena");
    let layout = Layout::new::<[u8; 64]>();
    let block = other.allocate(layout).expect("64 bytes");
    // SAFETY: allocated just now, with this layout.
    unsafe { other.deallocate(block, layout) };
    assert!(
        MANAGER
            .get()
            .is_some_and(|manager| manager.stats().allocations > Some(32_000))
    );
}
