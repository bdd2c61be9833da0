//! More threads at once than the 128 that have something of their own. A process for itself: other
//! tests would find nothing left for their threads.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::alloc::Layout;
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use arrow_memory_core::testing::{Block, TrackingManager};
use arrow_memory_core::{AllocationManager, CachingManager, Tally};

const THREADS: usize = 150;

/// One test at a time: each needs to know who has what.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on so many threads, none of which ends before all have done it.
fn on_all_at_once(work: impl Fn() + Sync) {
    let all_there = Barrier::new(THREADS);
    thread::scope(|scope| {
        let threads = (0..THREADS).map(|_| {
            scope.spawn(|| {
                all_there.wait();
                work();
                all_there.wait();
            })
        });
        // A scope waits for what its threads do, not for what their locals do at the end.
        for thread in threads.collect::<Vec<_>>() {
            thread.join().unwrap();
        }
    });
}

#[test]
fn all_of_them_are_counted() {
    let _alone = alone();
    let tally = Tally::new();

    on_all_at_once(|| {
        for _ in 0..100 {
            tally.lent(10);
            tally.returned(4);
        }
    });

    assert_eq!(tally.stats().live_bytes, Some(600 * THREADS));
    assert_eq!(tally.stats().allocations, Some(100 * THREADS as u64));
}

#[test]
fn a_cache_keeps_what_it_can_and_nothing_in_the_end() {
    let _alone = alone();
    let tracking = Arc::new(TrackingManager::new());
    let manager = CachingManager::new(tracking.clone());
    let layout = Layout::from_size_align(64 * 1024, 64).unwrap();

    on_all_at_once(|| {
        for _ in 0..3 {
            drop(Block::untouched(&manager, layout).unwrap());
        }
    });

    assert_eq!(manager.stats().cached_bytes, Some(0));
    assert_eq!(tracking.live_bytes(), 0);
}

#[test]
fn a_thread_that_came_when_all_was_taken_gets_its_own_when_others_have_ended() {
    let _alone = alone();
    let manager = CachingManager::new(Arc::new(TrackingManager::new()));
    let layout = Layout::from_size_align(64 * 1024, 64).unwrap();
    let cached_after_use = || {
        drop(Block::untouched(&manager, layout).unwrap());
        manager.stats().cached_bytes.unwrap()
    };
    let tally = &Tally::new();
    let (taken, tried) = (&Barrier::new(THREADS + 1), &Barrier::new(THREADS + 1));

    thread::scope(|scope| {
        let others = (0..THREADS).map(|_| {
            scope.spawn(|| {
                tally.lent(1);
                taken.wait();
                tried.wait();
            })
        });
        let others: Vec<_> = others.collect();
        taken.wait();
        let late = scope.spawn(move || {
            let before = cached_after_use();
            tried.wait();
            for other in others {
                other.join().unwrap();
            }
            (before, cached_after_use())
        });
        assert_eq!(late.join().unwrap(), (0, layout.size()));
    });
}
