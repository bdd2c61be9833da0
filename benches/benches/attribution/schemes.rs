//! Re-creations of two other schemes, to be measured beside ours.
#![expect(unsafe_code, reason = "wraps allocators")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mimalloc::MiMalloc;

/// Re-creation of counting by thread: each thread adds to a number of its own, and to that of the process every 4 MiB.
/// It knows what the process has allocated, give or take 4 MiB for each thread, and not who.
pub(crate) struct Drift;

thread_local! {
    static OWN: Cell<i64> = const { Cell::new(0) };
    /// Whom the tail names.
    static OWNER: UnsafeCell<Option<Arc<u64>>> = const { UnsafeCell::new(None) };
}

static ALL: AtomicUsize = AtomicUsize::new(0);

#[inline]
fn drift(bytes: i64) {
    OWN.with(|own| {
        let sum = own.get() + bytes;
        if sum.unsigned_abs() < 4 << 20 {
            return own.set(sum);
        }
        // Relaxed: a count.
        ALL.fetch_add(sum as usize, Ordering::Relaxed);
        own.set(0);
    });
}

// SAFETY: it forwards all calls to mimalloc.
unsafe impl GlobalAlloc for Drift {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        drift(layout.size() as i64);
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        drift(-(layout.size() as i64));
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.dealloc(block, layout) };
    }
}

/// Re-creation of a tail: 8 bytes behind each block have a counted pointer to its owner, and the thread counts the bytes.
pub(crate) struct Tail;

/// The layout with room for the tail.
#[inline]
fn with_tail(layout: Layout) -> Layout {
    // SAFETY: the size is small.
    unsafe { Layout::from_size_align_unchecked(layout.size() + size_of::<usize>(), layout.align()) }
}

// SAFETY: it forwards all calls to mimalloc, with a larger size.
unsafe impl GlobalAlloc for Tail {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let larger = with_tail(layout);
        drift(larger.size() as i64);
        // SAFETY: the caller's promises are the same.
        let block = unsafe { MiMalloc.alloc(larger) };
        let owner = OWNER.with(|owner| {
            // SAFETY: nothing else has a reference to the thread's own value.
            let owner = unsafe { &mut *owner.get() };
            Arc::into_raw(Arc::clone(owner.get_or_insert_with(|| Arc::new(1))))
        });
        // SAFETY: the tail is in the block.
        let tail = unsafe { block.add(layout.size()) };
        // SAFETY: the same.
        unsafe { tail.cast::<*const u64>().write_unaligned(owner) };
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let larger = with_tail(layout);
        // SAFETY: the tail is in the block.
        let tail = unsafe { block.add(layout.size()) };
        // SAFETY: `alloc` wrote it.
        let owner = unsafe { tail.cast::<*const u64>().read_unaligned() };
        // SAFETY: `alloc` took it from an `Arc`, once for each block.
        drop(unsafe { Arc::from_raw(owner) });
        drift(-(larger.size() as i64));
        // SAFETY: `alloc` allocated it with this layout.
        unsafe { MiMalloc.dealloc(block, larger) };
    }
}
