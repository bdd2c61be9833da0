//! The charge is made before the block and ends after it, as seen by a manager that reads the tree.
#![expect(unsafe_code, reason = "a manager that forwards to another one")]

use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock};

use arrow_memory_core::testing::{FailingManager, PanickingManager, TrackingManager};
use arrow_memory_core::{
    AllocError, AllocationManager, BufferAllocator, ManagerError, RootAllocator,
    WeakBufferAllocator,
};

use crate::support::{child, exact};

/// Compares, inside every call, the live bytes with those that the root is charged.
#[derive(Debug)]
struct Witness {
    inner: TrackingManager,
    root: OnceLock<WeakBufferAllocator>,
    /// The violations that it saw.
    complaints: Mutex<Vec<String>>,
}

impl Witness {
    /// Complains if the root is charged less than the live bytes and `bytes` more.
    fn look(&self, call: &str, bytes: usize) {
        // While the last handle is dropped, no upgrade succeeds, but the bytes keep the tree alive.
        let Some(root) = self.root.get().and_then(WeakBufferAllocator::upgrade) else {
            return;
        };
        let (live, charged) = (self.inner.live_bytes(), root.allocated_memory());
        if live + bytes > charged {
            let complaint = format!("{call}: {live} + {bytes} live, {charged} charged");
            self.complaints.lock().unwrap().push(complaint);
        }
    }
}

// SAFETY: every method forwards to a manager that keeps the promises.
unsafe impl AllocationManager for Witness {
    fn name(&self) -> &str {
        "witness"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        self.look("allocate", layout.size());
        self.inner.allocate(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.look("deallocate", 0);
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.deallocate(ptr, layout) };
        // The bytes are still charged after the block was freed.
        self.look("deallocated", layout.size());
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        self.look("allocate_zeroed", layout.size());
        self.inner.allocate_zeroed(layout)
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        self.look("reallocate", new_size.saturating_sub(old.size()));
        // SAFETY: the caller's promise is the same.
        let moved = unsafe { self.inner.reallocate(ptr, old, new_size) };
        self.look("reallocated", old.size().saturating_sub(new_size));
        moved
    }
}

/// Makes, grows, shrinks, shares, moves and drops buffers.
fn work(root: &BufferAllocator) -> Result<(), AllocError> {
    let scan = root.new_child_allocator("scan", 300, 1 << 20)?;
    let join = child(&scan, "join");
    let mut buffer = join.buffer(100)?;
    buffer.resize(1000, 1)?;
    buffer.truncate(10);
    buffer.shrink_to_fit()?;
    let mut half = buffer.split_off(32);
    half.resize(500, 1)?;
    let zeroed = scan.buffer_zeroed(4096)?;
    let aligned = root.buffer_aligned(100, 4096)?;
    let mut reservation = join.new_reservation();
    reservation.add(70)?;
    let reserved = reservation.allocate_buffer().map_err(|(error, _)| error)?;
    let buffer = buffer.freeze();
    let shared = buffer.retain_in(root).unwrap();
    let moved = half.freeze().transfer_ownership(root).unwrap();
    drop((buffer, zeroed, aligned, reserved, moved));
    let compact = shared.compact()?;
    drop(shared);
    drop(compact);
    join.close().unwrap();
    scan.close().unwrap();
    Ok(())
}

#[test]
fn live_blocks_are_charged_from_before_they_exist_until_after_they_are_gone() {
    for credit in [0, 1 << 20] {
        let witness = Arc::new(Witness {
            inner: TrackingManager::new(),
            root: OnceLock::new(),
            complaints: Mutex::default(),
        });
        let root = RootAllocator::builder()
            .allocation_manager(witness.clone())
            .credit(credit)
            .build()
            .unwrap();
        witness.root.set(root.downgrade()).unwrap();

        work(&root).unwrap();

        assert_eq!(*witness.complaints.lock().unwrap(), [""; 0]);
        assert_eq!(root.allocated_memory(), 0);
        witness.inner.assert_clean();
    }
}

#[test]
fn whatever_call_of_the_manager_panics_nothing_stays_charged_or_lost() {
    for call in 0.. {
        let tracking = Arc::new(TrackingManager::new());
        let manager = Arc::new(PanickingManager::over(tracking.clone()));
        manager.panic_at(call);
        let builder = RootAllocator::builder().allocation_manager(manager.clone());
        let root = builder.build().unwrap();

        let caught = catch_unwind(AssertUnwindSafe(|| work(&root).unwrap()));

        // If the request for the doubled size panics, the exact size is not requested any more.
        assert_eq!(caught.is_err(), manager.panics() > 0);
        assert_eq!(root.allocated_memory(), 0, "call {call}");
        root.verify().unwrap();
        tracking.assert_clean();
        root.close().unwrap();
        if manager.panics() == 0 {
            assert!(call > 5);
            break;
        }
    }
}

#[test]
fn an_error_of_the_manager_carries_its_source_and_leaves_nothing_charged() {
    let manager = Arc::new(FailingManager::new());
    let builder = RootAllocator::builder().allocation_manager(manager.clone());
    let root = builder.build().unwrap();
    let scan = child(&root, "scan");
    manager.fail_always();

    let refused = scan.buffer(100).unwrap_err();

    let text = refused.to_string();
    assert_eq!(
        text,
        "backend `std` could not serve 100 bytes (128 after rounding) for allocator `scan`"
    );
    assert_eq!(
        format!("{refused:#}"),
        format!("{text}: call 0 was to fail")
    );
    let source = std::error::Error::source(&refused).unwrap();
    assert!(source.is::<ManagerError>(), "{source}");
    assert_eq!(source.to_string(), "call 0 was to fail");
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn capacities_are_charged_and_never_less_than_what_the_manager_is_asked_for() {
    let root = exact(usize::MAX);
    for size in [1, 63, 64, 65, 1000, 4096, 4097, 1 << 20] {
        let (plain, aligned) = (
            root.buffer(size).unwrap(),
            root.buffer_aligned(size, 4096).unwrap(),
        );
        let live = root.allocation_manager().stats().live_bytes.unwrap();

        assert_eq!(plain.capacity(), size.next_multiple_of(64));
        assert_eq!(aligned.capacity(), size.next_multiple_of(64));
        assert_eq!(root.allocated_memory(), live);
        assert_eq!(live, plain.capacity() + aligned.capacity());
    }
}
