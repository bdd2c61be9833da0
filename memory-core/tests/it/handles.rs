//! Handles: their identity, the allocators that they keep alive, and the settings that children inherit.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use arrow_memory_core::testing::{RecordingListener, TrackingManager};
use arrow_memory_core::{
    AllocError, AllocationListener, BufferAllocator, PowerOfTwoRoundingPolicy, RootAllocator,
    RoundingPolicy, SegmentRoundingPolicy,
};

use crate::support::{child, ones, over, tracked};

#[test]
fn handles_are_equal_if_they_are_of_the_same_allocator() {
    let (_, root) = tracked(1000);
    let (one, two) = (child(&root, "same"), child(&root, "same"));

    assert_eq!(one, one.clone());
    assert_ne!(one, two);
    assert_eq!(one.parent_allocator(), Some(root.clone()));
    assert_eq!(one.root_allocator(), root);
    assert_eq!(
        (root.root_allocator(), root.parent_allocator()),
        (root.clone(), None)
    );
    assert_eq!(root.child_allocators(), [one, two]);
}

#[test]
fn identities_are_unique_also_across_threads_and_after_an_allocator_has_gone() {
    let (_, root) = tracked(1000);

    let mut ids: Vec<_> = thread::scope(|threads| {
        let makers: Vec<_> = (0..4)
            .map(|_| threads.spawn(|| (0..200).map(|_| child(&root, "x").id()).collect::<Vec<_>>()))
            .collect();
        makers
            .into_iter()
            .flat_map(|maker| maker.join().unwrap())
            .collect()
    });

    assert!(root.child_allocators().is_empty());
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 800);
}

#[test]
fn a_tree_goes_with_its_last_handle_charge_and_pin() {
    let manager = Arc::new(TrackingManager::new());
    let listener = Arc::new(RecordingListener::new());
    let root = over(&manager).listener(listener.clone()).build().unwrap();
    let scan = child(&root, "scan");
    let held = ones(&scan, 100);
    let empty = scan.empty();
    let (weak_root, weak_scan) = (root.downgrade(), scan.downgrade());

    drop(root);
    drop(scan);
    assert!(weak_root.upgrade().is_some() && weak_scan.upgrade().is_some());
    assert_eq!(held.allocator().root_allocator().allocated_memory(), 128);
    drop(held);
    assert!(weak_root.upgrade().is_some(), "an empty buffer keeps it");
    drop(empty);

    assert!(weak_root.upgrade().is_none() && weak_scan.upgrade().is_none());
    assert_eq!(Arc::strong_count(&listener), 1);
    assert_eq!(Arc::strong_count(&manager), 1);
    manager.assert_clean();
}

#[test]
fn an_allocator_that_left_its_tree_is_without_parent_and_numbers_and_takes_no_work() {
    let (_, root) = tracked(1000);
    let scan = root.new_child_allocator("scan", 100, 500).unwrap();
    let weak = scan.downgrade();
    drop(ones(&scan, 10));

    scan.close().unwrap();

    assert!(scan.is_closed() && scan.parent_allocator().is_none());
    assert_eq!(scan.root_allocator(), scan);
    assert_eq!((scan.allocated_memory(), scan.charged_memory()), (0, 0));
    assert!(matches!(scan.buffer(0), Err(AllocError::Closed { .. })));
    assert!(matches!(
        scan.allocate_bytes(0),
        Err(AllocError::Closed { .. })
    ));
    assert!(scan.empty().is_empty(), "which is never refused");
    assert_eq!((scan.name(), scan.limit()), ("scan", 500));
    assert!(weak.upgrade().is_some(), "there is another handle");
    drop(scan);
    assert!(weak.upgrade().is_none());
}

#[test]
fn children_inherit_listener_and_policy_and_are_unlimited() {
    let (manager, _) = tracked(0);
    let (first, second) = (
        Arc::new(RecordingListener::new()),
        Arc::new(RecordingListener::new()),
    );
    let root = over(&manager)
        .listener(first.clone())
        .rounding_policy(PowerOfTwoRoundingPolicy)
        .limit(1 << 20)
        .build()
        .unwrap();
    let heir = child(&child(&root, "parent"), "heir");
    let other = root
        .child("other")
        .listener(second.clone() as Arc<dyn AllocationListener>)
        .rounding_policy(SegmentRoundingPolicy::new(4096).unwrap())
        .build()
        .unwrap();
    first.take();

    assert_eq!(heir.limit(), usize::MAX);
    assert_eq!(heir.init_reservation(), 0);
    assert_eq!(heir.buffer(1000).unwrap().capacity(), 1024);
    assert_eq!(heir.rounding_policy().rounded_size(5), 8);
    assert_eq!(first.lines().len(), 3);
    assert_eq!(child(&other, "below").buffer(1).unwrap().capacity(), 4096);
    assert_eq!(second.lines().len(), 5, "the child came and went, too");
    assert_eq!(first.lines(), [""; 0]);
}

#[derive(Debug)]
struct Answers(usize);

impl RoundingPolicy for Answers {
    fn rounded_size(&self, _requested: usize) -> usize {
        self.0
    }
}

#[test]
fn a_policy_is_not_trusted() {
    let (manager, _) = tracked(0);
    for (answer, capacity) in [(0, 128), (100, 128), (1000, 1024), (1024, 1024)] {
        let builder = over(&manager).rounding_policy(Answers(answer));
        let root = builder.build().unwrap();
        let buffer = root.buffer(100).unwrap();
        assert_eq!(
            (buffer.capacity(), root.allocated_memory()),
            (capacity, capacity)
        );
    }
    let builder = over(&manager).rounding_policy(Answers(usize::MAX));
    let root = builder.build().unwrap();
    let refused = root.buffer(100).unwrap_err();
    assert!(
        matches!(refused, AllocError::SizeOverflow { .. }),
        "{refused}"
    );
}

#[test]
fn an_allocator_shows_its_name_and_numbers() {
    let (_, root) = tracked(1000);
    let scan = root.new_child_allocator("scan", 10, usize::MAX).unwrap();
    let _held = ones(&scan, 1);

    assert_eq!(scan.to_string(), "Allocator(scan) 10/64/64/none");
    let debug = format!("{scan:?}");
    assert!(debug.contains("\"scan\"") && debug.contains(&scan.id().to_string()));
}

#[test]
fn explicit_debug_settings_beat_the_environment() {
    let test = "handles::child_that_tells_its_debug_modes";
    let told = |value: &str| {
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env("ARROW_MEMORY_DEBUG_ALLOCATOR", value)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let told = text.split_once("told: ").unwrap().1;
        told.split_once('.').unwrap().0.to_owned()
    };

    assert_eq!(told("true"), "true true false");
    assert_eq!(told(""), "false true false");
    assert_eq!(told("false"), "false true false");
}

#[test]
#[ignore = "run by another, in a child process"]
fn child_that_tells_its_debug_modes() {
    let builder = || over(&Arc::new(TrackingManager::new()));
    let modes = [builder(), builder().debug(true), builder().debug(false)]
        .map(|builder| builder.build().unwrap().is_debug().to_string());
    println!("told: {}.", modes.join(" "));
}

#[test]
fn everything_can_be_sent_shared_and_kept_across_a_panic() {
    fn plain<T: Send + Sync + 'static>() {}
    fn unwinds<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe>() {}
    plain::<BufferAllocator>();
    plain::<RootAllocator>();
    plain::<arrow_memory_core::WeakBufferAllocator>();
    plain::<arrow_memory_core::ArrowBuf>();
    plain::<arrow_memory_core::ArrowBufMut>();
    plain::<arrow_memory_core::AllocationReservation>();
    plain::<arrow_memory_core::BufferBuilder>();
    plain::<arrow_memory_core::AllocatorSnapshot>();
    unwinds::<arrow_memory_core::ArrowBuf>();
    unwinds::<arrow_memory_core::ArrowBufMut>();

    let (_, root) = tracked(1000);
    let held = ones(&root, 100);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _moved = held.slice(1..);
        panic!("told to");
    }));
    assert!(caught.is_err());
    assert_eq!((held.ref_count(), root.allocated_memory()), (1, 128));
}
