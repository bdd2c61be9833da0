use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{
    AllocError, AllocationListener, AllocatorInfo, BufferAllocator, ForeignAllocation,
    RootAllocator, Veto,
};

fn root_with_limit(limit: usize) -> RootAllocator {
    RootAllocator::builder()
        .limit(limit)
        .allocation_manager(Arc::new(TrackingManager::default()))
        .build()
        .unwrap()
}

#[test]
fn a_request_refused_by_an_ancestor_leaves_every_counter_as_it_was() {
    let root = root_with_limit(1024);
    let child = root.child("join").build().unwrap();
    let _held = child.buffer(512).unwrap();

    let refused = child.buffer(1024).unwrap_err();

    assert!(
        matches!(refused, AllocError::OutOfMemory { .. }),
        "{refused}"
    );
    assert_eq!(
        (child.allocated_memory(), root.allocated_memory()),
        (512, 512)
    );
    root.verify().unwrap();
}

#[test]
fn credit_held_by_one_child_is_recalled_for_another() {
    let root = root_with_limit(1 << 20);
    let children: Vec<BufferAllocator> = (0..4)
        .map(|n| root.child(&n.to_string()).build().unwrap())
        .collect();
    for child in &children {
        drop(child.buffer(100_000).unwrap());
    }

    let whole = children[0].buffer(1 << 20).unwrap();

    assert_eq!(root.headroom(), 0);
    assert!(children[1].buffer(1).is_err());
    drop(whole);
    assert_eq!(root.headroom(), 1 << 20);
    assert!(children[1].buffer(1).is_ok());
    for child in &children {
        child.close().unwrap();
    }
    root.verify().unwrap();
    root.close().unwrap();
}

#[test]
fn a_transfer_moves_the_charge_and_release_moves_ownership() {
    let root = root_with_limit(1 << 20);
    let a = root.child("a").build().unwrap();
    let b = root.child("b").build().unwrap();
    let buffer = a.buffer_from_slice(&[1; 1000]).unwrap();
    let shared = buffer.retain_in(&b).unwrap();
    assert_eq!((shared.accounted_size(), shared.ref_count()), (0, 1));

    drop(buffer);

    assert_eq!((a.allocated_memory(), b.allocated_memory()), (0, 1024));
    let back = shared.transfer_ownership(&a).unwrap();
    assert!(back.allocation_fit);
    assert_eq!((a.allocated_memory(), b.allocated_memory()), (1024, 0));
    assert!(b.close().is_err());
    drop(shared);
    assert!(b.parent_allocator().is_none());
    drop(back);
    assert_eq!(root.allocated_memory(), 0);
    a.close().unwrap();
    root.close().unwrap();
}

/// Vetoes requests above this number of bytes.
struct Frugal(usize);

impl AllocationListener for Frugal {
    fn on_pre_allocation(&self, _at: &AllocatorInfo, size: usize) -> Result<(), Veto> {
        if size > self.0 {
            return Err(Veto::new("too much at once"));
        }
        Ok(())
    }
}

#[test]
fn growth_by_doubling_asks_the_listener_too() {
    let root = RootAllocator::builder()
        .allocation_manager(Arc::new(TrackingManager::default()))
        .listener(Arc::new(Frugal(1024)))
        .build()
        .unwrap();
    let mut buffer = root.buffer(1024).unwrap();
    buffer.resize(1024, 1).unwrap();

    buffer.try_reserve(64).unwrap();
    assert_eq!(buffer.capacity(), 2048, "twice the capacity is allowed");
    buffer.resize(2048, 1).unwrap();
    buffer.try_reserve(64).unwrap();
    assert_eq!(
        buffer.capacity(),
        2112,
        "twice is vetoed, what is needed is not"
    );
    let refused = buffer.try_reserve(4096).unwrap_err();
    assert!(matches!(refused, AllocError::Vetoed { .. }), "{refused}");
    assert_eq!(root.allocated_memory(), 2112);
}

/// A regression: each allocator that left the tree caused a walk over those that were still to leave.
#[test]
fn a_deep_line_of_allocators_that_only_the_last_one_kept_goes_at_once() {
    let quickly = (0..20).any(|_| {
        let (building, going) = time_of_a_deep_line();
        println!("{going:?}, and {building:?} to build");
        going < building
    });

    assert!(quickly, "other tests may disturb one measurement, not all");
}

/// The times of building 10,000 allocators below each other, and of dropping the last one.
fn time_of_a_deep_line() -> (Duration, Duration) {
    let root = root_with_limit(1 << 20);
    let mut last: BufferAllocator = root.clone().into();
    let start = Instant::now();
    for _ in 0..10_000 {
        last = last.child("link").build().unwrap();
    }
    let building = start.elapsed();

    drop(last);

    let going = start.elapsed() - building;
    assert!(root.child_allocators().is_empty());
    root.verify().unwrap();
    (building, going)
}

#[test]
fn forced_bytes_that_pass_the_largest_sum_overflow_whatever_the_limit() {
    let root = root_with_limit(1000);
    root.force_allocate(64);
    let huge = ForeignAllocation::from_owner([1]).charged_as(isize::MAX.unsigned_abs());

    let refused = root.wrap_foreign_allocation(huge.forced()).unwrap_err();

    let source = refused.source;
    assert!(
        matches!(source, AllocError::SizeOverflow { .. }),
        "{source}"
    );
    assert_eq!(root.allocated_memory(), 64);
    root.release_bytes(64);
}
