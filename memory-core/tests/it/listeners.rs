//! The calls of listeners: from which allocator, how often, and with which sizes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow_memory_core::testing::{RecordingListener, TrackingManager};
use arrow_memory_core::{
    AllocError, AllocationListener, AllocationOutcome, AllocatorInfo, ArrowBuf, BufferAllocator,
    ForeignAllocation, PowerOfTwoRoundingPolicy, RootAllocatorBuilder, Veto,
};

use crate::support::{child, ones, over};

fn heard_root(limit: usize) -> (Arc<RecordingListener>, BufferAllocator) {
    let listener = Arc::new(RecordingListener::new());
    let builder = over(&Arc::new(TrackingManager::new())).limit(limit);
    let root = builder.listener(listener.clone()).build().unwrap();
    (listener, root.into())
}

#[test]
fn sizes_are_charged_bytes_and_growth_and_shrinking_report_the_difference() {
    let (listener, root) = heard_root(1 << 20);
    let mut buffer = root.buffer(100).unwrap();
    assert_eq!(
        listener.lines(),
        ["pre-allocation of 128 at ROOT", "allocation of 128 at ROOT"]
    );

    buffer.resize(129, 1).unwrap();
    assert_eq!(
        listener.lines(),
        ["pre-allocation of 128 at ROOT", "allocation of 128 at ROOT"]
    );
    buffer.truncate(1);
    buffer.shrink_to_fit().unwrap();
    assert_eq!(listener.lines(), ["release of 192 at ROOT"]);
    let (frozen, copy) = {
        let frozen = buffer.freeze();
        (frozen.clone(), frozen.slice(..1))
    };
    drop(frozen);
    assert_eq!(listener.lines(), [""; 0]);
    drop(copy);
    assert_eq!(listener.lines(), ["release of 64 at ROOT"]);
}

#[test]
fn whatever_else_is_on_a_listener_hears_the_same() {
    type SetUp = fn(RootAllocatorBuilder) -> RootAllocatorBuilder;
    let others: [(&str, usize, SetUp); 4] = [
        ("nothing", 320, |builder| builder.debug(false)),
        ("statistics", 320, |builder| {
            builder.debug(false).statistics(true)
        }),
        ("debug mode", 320, |builder| builder.debug(true)),
        ("a policy", 512, |builder| {
            builder.rounding_policy(PowerOfTwoRoundingPolicy)
        }),
    ];
    for (what, capacity, set_up) in others {
        let listener = Arc::new(RecordingListener::new());
        let manager = Arc::new(TrackingManager::new());
        let builder = set_up(over(&manager)).listener(listener.clone());
        let root = builder.build().unwrap();

        drop(root.buffer(300).unwrap());
        drop(root.buffer_zeroed(300).unwrap());
        drop(root.buffer_aligned(300, 4096).unwrap());

        let once = ["pre-allocation", "allocation", "release"]
            .map(|event| format!("{event} of {capacity} at ROOT"));
        let thrice = [&once[..]; 3].concat();
        assert_eq!(listener.lines(), thrice, "with {what}");
        assert!(root.stats().allocations.is_none_or(|count| count == 3));
        listener.veto(true);
        let vetoed = root.buffer(300).unwrap_err();
        assert!(matches!(vetoed, AllocError::Vetoed { .. }), "with {what}");
        assert_eq!(listener.lines(), once[..1], "with {what}");
        assert_eq!(manager.allocations(), 3, "with {what}");
        root.close().unwrap();
    }
}

/// A listener that panics in `on_allocation`.
struct Panics(Arc<RecordingListener>);

impl AllocationListener for Panics {
    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        panic!("told to");
    }

    fn on_release(&self, at: &AllocatorInfo, size: usize) {
        self.0.on_release(at, size);
    }
}

#[test]
fn what_a_listener_panics_about_is_released_and_told() {
    let listener = Arc::new(RecordingListener::new());
    let manager = Arc::new(TrackingManager::new());
    let builder = over(&manager).listener(Arc::new(Panics(listener.clone())));
    let root = builder.build().unwrap();

    catch_unwind(AssertUnwindSafe(|| root.buffer(100))).unwrap_err();

    assert_eq!(listener.lines(), ["release of 128 at ROOT"]);
    assert_eq!((root.allocated_memory(), manager.live_bytes()), (0, 0));
    root.close().unwrap();
}

#[test]
fn a_half_that_grows_is_an_allocation_of_its_own() {
    let (listener, root) = heard_root(1 << 20);
    let mut left = root.buffer_zeroed(128).unwrap();
    let mut right = left.split_off(64);
    listener.take();

    right.resize(65, 1).unwrap();
    assert_eq!(
        listener.lines(),
        ["pre-allocation of 128 at ROOT", "allocation of 128 at ROOT"]
    );
    drop(left);
    assert_eq!(listener.lines(), ["release of 128 at ROOT"]);
    drop(right);
    assert_eq!(listener.lines(), ["release of 128 at ROOT"]);
}

#[test]
fn reservations_are_silent_until_they_become_a_buffer_and_external_bytes_stay_so() {
    let (listener, root) = heard_root(1000);
    root.allocate_bytes(10).unwrap();
    assert!(root.allocate_bytes(1000).is_err());
    root.force_allocate(10);
    root.release_bytes(20);
    let mut reservation = root.new_reservation();
    reservation.add(100).unwrap();
    assert!(reservation.add(1000).is_err());
    reservation.resize(90).unwrap();
    drop(reservation.split(10));
    assert_eq!(listener.lines(), [""; 0]);

    let buffer = reservation.allocate_buffer().unwrap();

    assert_eq!(
        listener.lines(),
        ["pre-allocation of 128 at ROOT", "allocation of 128 at ROOT"]
    );
    drop(buffer);
    assert_eq!(listener.lines(), ["release of 128 at ROOT"]);
}

#[test]
fn foreign_memory_is_told_like_our_own() {
    let (listener, root) = heard_root(100);

    let foreign = ForeignAllocation::from_owner(vec![1; 77]);
    let buffer = root.wrap_foreign_allocation(foreign).unwrap();
    let forced = ForeignAllocation::from_owner(vec![1; 90]).forced();
    let forced = root.wrap_foreign_allocation(forced).unwrap();
    drop((buffer, forced));

    assert_eq!(
        listener.lines(),
        [
            "pre-allocation of 77 at ROOT",
            "allocation of 77 at ROOT",
            // Memory that exists already cannot be vetoed.
            "allocation of 90 at ROOT",
            "release of 77 at ROOT",
            "release of 90 at ROOT",
        ]
    );
}

#[test]
fn a_refusal_is_told_with_its_outcome_and_tried_once_more_if_the_listener_says_so() {
    let (listener, root) = heard_root(1000);
    let scan = child(&root, "scan");
    listener.take();

    for retry in [false, true] {
        listener.retry_failures(retry);
        assert!(scan.buffer(1001).is_err());
        assert_eq!(
            listener.lines(),
            [
                "pre-allocation of 1024 at scan",
                "failure of 1024 at scan, refused by ROOT",
            ]
        );
    }
    listener.veto(true);
    assert!(scan.buffer(1).is_err());
    assert_eq!(listener.lines(), ["pre-allocation of 64 at scan"]);
    assert_eq!(root.stats().refusals, 3, "a retry is a request of its own");
}

#[test]
fn a_transfer_is_told_once_to_the_listener_of_each_side() {
    let (first, root) = heard_root(1 << 20);
    let second = Arc::new(RecordingListener::new());
    let (a, b) = (child(&root, "a"), child(&root, "b"));
    let other = root
        .child("other")
        .listener(second.clone() as Arc<dyn AllocationListener>)
        .build()
        .unwrap();
    let buffer = ones(&a, 100);
    first.take();

    let moved = buffer.transfer_ownership(&b).unwrap().buffer;
    assert_eq!(first.lines(), ["transfer of 128 from a to b"]);
    let there = moved.try_transfer_ownership(&other).unwrap();
    assert_eq!(first.lines(), ["transfer of 128 from b to other"]);
    assert_eq!(second.lines(), ["transfer of 128 from b to other"]);

    // A transfer that moves no charge is not reported.
    let again = there.transfer_ownership(&other).unwrap().buffer;
    let shared = there.retain_in(&root).unwrap();
    let guest = shared.transfer_ownership(&b).unwrap().buffer;
    drop((shared, again, buffer, moved));
    let closed = child(&root, "closed");
    closed.close().unwrap();
    first.take();
    there.transfer_ownership(&closed).unwrap_err();
    assert_eq!((first.lines(), second.lines()), (vec![], vec![]));

    // The owner drops its buffer, and the charge moves to the guest.
    drop(there);
    assert_eq!(first.lines(), ["transfer of 128 from other to b"]);
    assert_eq!(second.lines(), ["transfer of 128 from other to b"]);
    drop(guest);
    assert_eq!(first.lines(), ["release of 128 at b"]);
    assert_eq!(second.lines(), [""; 0]);
}

#[test]
fn the_listener_of_the_parent_hears_of_children_however_they_go() {
    let (listener, root) = heard_root(1000);
    let scan = root.new_child_allocator("scan", 100, 200).unwrap();
    let below = child(&scan, "below");
    assert_eq!(
        listener.lines(),
        ["child scan added to ROOT", "child below added to scan"]
    );
    assert!(root.new_child_allocator("large", 5000, 5000).is_err());
    assert!(root.new_child_allocator("wrong", 2, 1).is_err());
    assert_eq!(listener.lines(), [""; 0]);

    scan.close().unwrap_err();
    drop(scan);
    assert_eq!(listener.lines(), [""; 0]);
    drop(below);

    assert_eq!(
        listener.lines(),
        [
            "child below removed from scan",
            "child scan removed from ROOT"
        ]
    );
    let closed = child(&root, "closed");
    closed.close().unwrap();
    closed.close().unwrap();
    drop(closed);
    assert_eq!(
        listener.lines(),
        [
            "child closed added to ROOT",
            "child closed removed from ROOT"
        ]
    );
}

/// A listener that drops a buffer after a refusal, and counts its calls.
#[derive(Default)]
struct WaitsForRefusals {
    held: Mutex<Vec<ArrowBuf>>,
    asked: AtomicUsize,
    heard: AtomicUsize,
}

impl AllocationListener for WaitsForRefusals {
    fn hears_allocations(&self) -> bool {
        false
    }

    fn on_pre_allocation(&self, _: &AllocatorInfo, _: usize) -> Result<(), Veto> {
        self.heard.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    fn on_release(&self, _: &AllocatorInfo, _: usize) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    fn on_failed_allocation(&self, _: &AllocatorInfo, _: usize, _: &AllocationOutcome) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.held.lock().unwrap().pop().is_some()
    }
}

#[test]
fn a_listener_that_does_not_hear_of_allocations_is_still_asked_after_a_refusal() {
    let listener = Arc::new(WaitsForRefusals::default());
    let builder = over(&Arc::new(TrackingManager::new())).limit(1024);
    let root = builder.listener(listener.clone()).build().unwrap();
    let hold = |size| {
        let buffer = root.buffer_zeroed(size).unwrap().freeze();
        listener.held.lock().unwrap().push(buffer);
    };
    hold(1024);

    // A new buffer, growth and foreign memory: each gets the room of a held buffer.
    let mut grown = root.buffer_zeroed(64).unwrap();
    hold(960);
    grown.resize(1000, 1).unwrap();
    drop(grown);
    hold(1024);
    let foreign = ForeignAllocation::from_owner(vec![1_u8; 100]);
    drop(root.wrap_foreign_allocation(foreign).unwrap());
    hold(1024);
    let sum = root.allocate_bytes(1);
    root.buffer(2000).unwrap_err();

    assert!(sum.is_err(), "external bytes are silent");
    assert_eq!(listener.asked.load(Ordering::Relaxed), 4);
    assert_eq!(listener.heard.load(Ordering::Relaxed), 0);
    assert_eq!(root.allocated_memory(), 0);
    root.verify().unwrap();
}
