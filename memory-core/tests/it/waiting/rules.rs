//! Who passes a request that waits, how far, and when it can never be granted.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use arrow_memory_core::{BufferAllocator, RootAllocator, WaitError};

use super::balanced;
use crate::support::{Woken, allocated, child, exact, ones, poll};

/// Whether room is withheld for the only request that waits in the tree.
fn withholds(root: &BufferAllocator) -> bool {
    let [waiter] = &root.snapshot().waiters[..] else {
        panic!("one waits")
    };
    waiter.withholds
}

#[test]
fn a_small_request_may_be_passed_by_a_sixteenth_of_the_limit() {
    let root = exact(16 << 10);
    let [held, scan, passes] = ["held", "scan", "passes"].map(|name| child(&root, name));
    let held = ones(&held, (16 << 10) - 64);
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(scan.wait().buffer_async(128));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    for _ in 0..15 {
        drop(passes.buffer(64).unwrap());
    }
    assert!(!withholds(&root));
    drop(passes.buffer(64).unwrap());

    assert!(withholds(&root));
    passes.buffer(64).unwrap_err();
    drop(held);
    assert!(matches!(poll(waits.as_mut(), &woken), Poll::Ready(Ok(_))));
    assert_eq!(woken.count(), 1);
}

#[test]
fn bytes_that_move_within_an_allocator_pass_nobody_who_waits_there() {
    let root = exact(1024);
    let [one, other, scan] = ["one", "other", "scan"].map(|name| child(&root, name));
    let mut held = ones(&one, 512);
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(scan.wait().buffer_async(1024));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    for _ in 0..4 {
        for target in [&other, &one] {
            held = held.try_transfer_ownership(target).unwrap();
            assert_eq!(target.allocated_memory(), 512);
        }
    }

    assert!(!withholds(&root));
    root.verify().unwrap();
}

#[test]
fn what_a_reservation_covers_waits_although_the_levels_above_could_never_grant_it() {
    let root = exact(1 << 20);
    let parent = root.child("parent").limit(1000).build().unwrap();
    let reserved = parent.child("reserved").reservation(512).limit(512);
    let reserved = reserved.build().unwrap();
    let held = ones(&reserved, 64);
    parent.set_limit(100);
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(reserved.wait().buffer_async(512));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    drop(held);

    assert!(matches!(poll(waits.as_mut(), &woken), Poll::Ready(Ok(_))));
    assert_eq!(allocated([&parent, &root]), [512, 512]);
}

#[test]
fn a_blocked_request_ends_at_its_deadline_without_a_timer() {
    let root = RootAllocator::builder().limit(1024).own_timer(true);
    let root = root.build().unwrap();
    let held = root.buffer(1024).unwrap();
    let began = Instant::now();

    let ended = root.wait().at_most(Duration::from_millis(20)).buffer(64);

    assert!(
        matches!(ended, Err(WaitError::TimedOut { .. })),
        "{ended:?}"
    );
    assert!(began.elapsed() >= Duration::from_millis(20));
    drop(held);
    balanced(&root);
}

#[test]
fn who_waits_at_a_level_whose_children_hold_all_is_not_told_to_give_way() {
    let root = RootAllocator::builder().limit(1024).own_timer(true);
    let root = root.build().unwrap();
    let computes = root.child("computes").build().unwrap();
    let held = computes.buffer(1024).unwrap();
    let woken = Arc::new(Woken::default());
    let mut waits = Box::pin(root.wait().buffer_async(64));
    assert!(poll(waits.as_mut(), &woken).is_pending());

    let mut now = Instant::now();
    for _ in 0..4 {
        now += Duration::from_secs(10);
        assert!(root.expire_waits(now).is_some());
        assert!(poll(waits.as_mut(), &woken).is_pending());
    }

    drop(held);
    assert!(matches!(poll(waits.as_mut(), &woken), Poll::Ready(Ok(_))));
    drop((waits, computes));
    balanced(&root);
}
