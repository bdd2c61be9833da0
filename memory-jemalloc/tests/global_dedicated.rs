//! A manager with a dedicated arena as the global allocator: the manager's own allocations call it again.
#![expect(unsafe_code, reason = "implements `GlobalAlloc`")]

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::thread;

use arrow_memory_jemalloc::JemallocManager;
use arrow_memory_manager::AllocationManager;
use tikv_jemalloc_sys as jemalloc;

/// The global allocator once the test has set it. Blocks from before are jemalloc's, too.
static MANAGER: OnceLock<JemallocManager> = OnceLock::new();

struct Dedicated;

/// The alignment of all blocks of a manager.
const ALIGNMENT: usize = 64;

/// The maximum size that a manager requests from jemalloc unchanged: larger ones get the size of their class.
const LARGEST: usize = 32 * 1024;

fn padded(layout: Layout) -> Layout {
    let align = layout.align().max(ALIGNMENT);
    let padded = Layout::from_size_align(layout.size().max(1), align);
    padded.map_or(layout, |padded| padded.pad_to_align())
}

// SAFETY: every block is jemalloc's, of a size that both methods pad alike; neither method unwinds.
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
            // SAFETY: this is a live block of jemalloc's, from any arena.
            unsafe { jemalloc::dallocx(block.cast(), jemalloc::MALLOCX_TCACHE_NONE) };
            return;
        };
        // SAFETY: by the caller's promise it is not null.
        let block = unsafe { NonNull::new_unchecked(block) };
        // SAFETY: this is a live block of jemalloc's of this size and alignment, and so are the manager's own
        // blocks of up to 32 KiB.
        unsafe { manager.deallocate(block, layout) };
    }
}

#[global_allocator]
static GLOBAL: Dedicated = Dedicated;

/// A thread allocates when it creates its cache for the arena, and so calls the manager again before the
/// cache exists.
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

    // A second arena that the same thread uses.
    let other = JemallocManager::builder().dedicated_arena(true).build();
    let other = other.expect("an arena");
    let layout = Layout::new::<[u8; 64]>();
    let block = other.allocate(layout).expect("64 bytes");
    // SAFETY: the block was just allocated, with this layout.
    unsafe { other.deallocate(block, layout) };
    assert!(
        MANAGER
            .get()
            .is_some_and(|manager| manager.stats().allocations > Some(32_000))
    );
}
