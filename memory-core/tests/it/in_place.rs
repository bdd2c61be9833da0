//! Foreign allocations that move from one allocator to another in place.
#![expect(
    unsafe_code,
    reason = "calls a function that relies on what the test has"
)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread;

use arrow_memory_core::__private::move_in_place;
use arrow_memory_core::testing::RecordingListener;
use arrow_memory_core::{
    ArrowBuf, BufferAllocator, ForeignAllocation, RootAllocator, TransferError, WeakForeign,
};

use crate::support::{Woken, allocated, child, poll};

/// A root that is not in debug mode, in which nothing moves in place; its peaks are exact.
fn plain(limit: usize) -> BufferAllocator {
    let builder = RootAllocator::builder().debug(false).credit(0).limit(limit);
    builder.build().unwrap().into()
}

fn foreign(allocator: &BufferAllocator, size: usize) -> ArrowBuf {
    let foreign = ForeignAllocation::from_owner(vec![7; size]);
    allocator.wrap_foreign_allocation(foreign).unwrap()
}

fn weak<const N: usize>(buffers: [&ArrowBuf; N]) -> [WeakForeign; N] {
    buffers.map(|buffer| buffer.downgrade().unwrap())
}

/// Moves the allocations, of each of which the test has a buffer that no other thread uses.
fn moved(
    allocations: &[WeakForeign],
    from: &BufferAllocator,
    to: &BufferAllocator,
) -> Result<Option<bool>, TransferError> {
    // SAFETY: the tests have a buffer of each.
    unsafe { move_in_place(allocations, from, to, false) }
}

#[test]
fn allocations_of_one_buffer_each_change_their_allocator() {
    let root = plain(1 << 20);
    let (scan, sort) = (child(&root, "scan"), child(&root, "sort"));
    let (one, two) = (foreign(&scan, 1000), foreign(&scan, 24));
    let peak = root.peak_memory_allocation();

    let fit = moved(&weak([&one, &two]), &scan, &sort).unwrap();

    assert_eq!(fit, Some(true));
    assert_eq!(allocated([&scan, &sort, &root]), [0, 1024, 1024]);
    assert_eq!(root.peak_memory_allocation(), peak);
    assert_eq!(
        (one.allocator(), two.allocator()),
        (sort.clone(), sort.clone())
    );
    assert_eq!(
        (one.accounted_size(), sort.stats().foreign_bytes),
        (1000, 1024)
    );
    root.verify().unwrap();
    scan.close().unwrap();
    drop(scan);
    // Back, and shared and dropped as ever.
    let other = child(&root, "other");
    assert_eq!(moved(&weak([&one]), &sort, &other).unwrap(), Some(true));
    let shared = one.retain_in(&sort).unwrap();
    drop(one);
    assert_eq!(allocated([&sort, &other]), [1024, 0]);
    drop((shared, two));
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}

#[test]
fn what_has_other_buffers_or_ledgers_does_not_move_and_holds_the_rest_back() {
    let root = plain(1 << 20);
    let (scan, sort) = (child(&root, "scan"), child(&root, "sort"));
    let (lone, cloned) = (foreign(&scan, 10), foreign(&scan, 20));
    let (shared, elsewhere) = (foreign(&scan, 40), foreign(&sort, 80));
    let clone = cloned.clone();
    let guest = shared.retain_in(&sort).unwrap();

    for other in [&cloned, &shared, &elsewhere, &lone] {
        let both = weak([&lone, other]);
        assert_eq!(moved(&both, &scan, &sort).unwrap(), None);
        assert_eq!(allocated([&scan, &sort]), [70, 80]);
        root.verify().unwrap();
    }
    drop((clone, guest));
    let all = weak([&lone, &cloned, &shared]);
    assert_eq!(moved(&all, &scan, &sort).unwrap(), Some(true));
    assert_eq!(allocated([&scan, &sort]), [0, 150]);
}

/// A transfer has left the allocation with one ledger again, which is not the first one.
#[test]
fn a_later_ledger_moves_like_the_first_one() {
    let root = plain(1 << 20);
    let (scan, sort) = (child(&root, "scan"), child(&root, "sort"));
    let buffer = foreign(&scan, 100).try_move_to(&sort).unwrap();

    assert_eq!(moved(&weak([&buffer]), &sort, &scan).unwrap(), Some(true));

    assert_eq!(allocated([&scan, &sort]), [100, 0]);
    let weak = buffer.downgrade().unwrap();
    let start = NonNull::from(&buffer[..]).cast();
    // SAFETY: bytes of the buffer, which is alive.
    let found = unsafe { weak.upgrade(start, 100) }.unwrap();
    assert_eq!((found.allocator(), found.ref_count()), (scan, 2));
    drop((found, buffer));
    root.verify().unwrap();
}

#[test]
fn a_refusal_names_the_sum_and_changes_nothing_and_a_forced_move_passes_the_limit() {
    let listener = Arc::new(RecordingListener::new());
    let root = RootAllocator::builder()
        .debug(false)
        .credit(0)
        .listener(listener.clone());
    let root = root.build().unwrap();
    let scan = child(&root, "scan");
    let small = root.child("small").limit(100).build().unwrap();
    let (one, two) = (foreign(&scan, 60), foreign(&scan, 50));
    let both = weak([&one, &two]);
    listener.take();

    let refused = moved(&both, &scan, &small).unwrap_err();

    let TransferError::DoesNotFit { bytes, outcome, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!((*bytes, outcome.headroom()), (110, 100));
    assert_eq!(allocated([&scan, &small]), [110, 0]);
    assert_eq!((one.allocator(), listener.lines().len()), (scan.clone(), 0));
    root.verify().unwrap();
    // SAFETY: the test has a buffer of each.
    let fit = unsafe { move_in_place(&both, &scan, &small, true) };
    assert_eq!((fit.unwrap(), small.is_over_limit()), (Some(false), true));
    assert_eq!(small.stats().forced_bytes, 110);
    let told = [
        "transfer of 60 from scan to small",
        "transfer of 50 from scan to small",
    ];
    assert_eq!(listener.lines(), told);
}

#[test]
fn nothing_moves_in_place_where_somebody_has_to_be_told() {
    let root = plain(1000);
    let (scan, sort, closed) = (
        child(&root, "scan"),
        child(&root, "sort"),
        child(&root, "closed"),
    );
    let buffer = foreign(&scan, 600);
    let allocation = weak([&buffer]);
    closed.close().unwrap();
    assert_eq!(moved(&allocation, &scan, &closed).unwrap(), None);
    let elsewhere = plain(1 << 20);
    assert_eq!(moved(&allocation, &scan, &elsewhere).unwrap(), None);
    assert_eq!(moved(&allocation, &sort, &scan).unwrap(), None);
    assert_eq!(moved(&allocation, &scan, &scan).unwrap(), None);

    let woken = Arc::new(Woken::default());
    let mut waiting = Box::pin(sort.wait().reserve_async(500));
    assert!(matches!(poll(waiting.as_mut(), &woken), Poll::Pending));
    assert_eq!(moved(&allocation, &scan, &sort).unwrap(), None);
    drop(waiting);

    assert_eq!(moved(&allocation, &scan, &sort).unwrap(), Some(true));
    let debugged = RootAllocator::builder().debug(true).build().unwrap();
    let (one, two) = (child(&debugged, "one"), child(&debugged, "two"));
    let seen = foreign(&one, 10);
    assert_eq!(moved(&weak([&seen]), &one, &two).unwrap(), None);
}

/// The giver has gone but for the allocation: it leaves its tree with that.
#[test]
fn a_retired_giver_leaves_with_its_last_allocation() {
    let root = plain(1 << 20);
    let (scan, sort) = (child(&root, "scan"), child(&root, "sort"));
    let buffer = foreign(&scan, 100);
    scan.retire();
    assert_eq!(root.child_allocators().len(), 2);

    assert_eq!(moved(&weak([&buffer]), &scan, &sort).unwrap(), Some(true));

    assert_eq!(root.child_allocators().len(), 1);
    drop(scan);
    root.verify().unwrap();
}

/// A watcher finds the allocation with the one allocator or with the other, and may keep it from moving.
#[test]
fn a_watcher_finds_allocations_that_move_to_and_fro() {
    let root = plain(usize::MAX);
    let buffer = foreign(&root, 64);
    let [allocation] = weak([&buffer]);
    let done = AtomicBool::new(false);
    let mut at = root.clone();
    thread::scope(|scope| {
        for _ in 0..2 {
            let (allocation, done) = (allocation.clone(), &done);
            let (buffer, root) = (&buffer, &root);
            scope.spawn(move || {
                let pointer = NonNull::from(&buffer[..]).cast::<u8>();
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: bytes of the buffer, which the other thread has until this one has ended.
                    let found = unsafe { allocation.upgrade(pointer, 64) }.unwrap();
                    assert!(found.allocator().name().starts_with('n') || found.belongs_to(root));
                    assert_eq!(found[0], 7);
                }
            });
        }
        for number in 0..20_000 {
            // The allocator before goes as soon as nothing of it is left.
            let next = child(&root, &format!("n{}", number % 7));
            let all = std::slice::from_ref(&allocation);
            if moved(all, &at, &next).unwrap().is_some() {
                at = next;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    // Nobody else has a buffer now.
    let last = child(&root, "last");
    assert_eq!(moved(&[allocation], &at, &last).unwrap(), Some(true));
    drop((buffer, at, last));
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}
