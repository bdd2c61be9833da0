//! Writes a backend with public items only. It registers itself and is selected by name.
//!
//! `cargo run --example own_backend`
//!
//! The backend allocates from the platform's allocator, and counts the blocks.
#![expect(unsafe_code, reason = "a backend hands out raw memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_memory::backend::{self, BackendRegistration};
use arrow_memory::{AllocationManager, ManagerError, RootAllocator};

#[derive(Debug, Default)]
struct Counted {
    blocks: AtomicUsize,
}

// SAFETY: `System` keeps promises 1 and 2 of the contract for blocks of the same layout; a refusal changes
// nothing; `dealloc` does not unwind.
unsafe impl AllocationManager for Counted {
    fn name(&self) -> &str {
        "counted"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        // SAFETY: the contract says that the size is not 0.
        let block = NonNull::new(unsafe { System.alloc(layout) });
        let block = block.ok_or_else(|| ManagerError::out_of_memory(layout))?;
        // Relaxed: a statistic.
        self.blocks.fetch_add(1, Ordering::Relaxed);
        Ok(block)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller promises a live block of ours with its layout.
        unsafe { System.dealloc(ptr.as_ptr(), layout) };
        // Relaxed: a statistic.
        self.blocks.fetch_sub(1, Ordering::Relaxed);
    }
}

fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    Ok(Arc::new(Counted::default()))
}

arrow_memory::register_backend!(BackendRegistration {
    name: "counted",
    preference: 0, // only by name
    manager: start,
});

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("linked: {}", backend::supported().join(", "));
    assert!(backend::supported().contains(&"counted"));

    let root = RootAllocator::builder()
        .backend("counted")
        .limit(1 << 20)
        .build()?;
    let buffer = root.buffer_from_slice(b"from a backend of our own")?;
    println!(
        "{}: {:?}",
        root.allocation_manager().name(),
        root.allocation_manager()
    );
    assert_eq!(
        format!("{:?}", root.allocation_manager()),
        "Counted { blocks: 1 }"
    );

    drop(buffer);
    root.close()?;
    Ok(())
}
