//! More threads at once than the 1,024 that have slots of their own. This is a binary of its own: other
//! tests' threads would find no slot left.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::alloc::Layout;
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use arrow_memory_manager::testing::{Block, TrackingManager};
use arrow_memory_manager::{AllocationManager, CachingManager, Tally, thread_number};

const THREADS: usize = 1_100;

/// The stack of a thread; the tests need no more.
const STACK: usize = 512 * 1024;

/// Runs one test at a time, since each depends on which thread has which slot.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on all these threads at once; none of them ends before all have run it.
fn on_all_at_once(work: impl Fn() + Sync) {
    let all_there = Barrier::new(THREADS);
    thread::scope(|scope| {
        let threads = (0..THREADS).map(|_| {
            let thread = thread::Builder::new().stack_size(STACK);
            let thread = thread.spawn_scoped(scope, || {
                all_there.wait();
                work();
                all_there.wait();
            });
            thread.unwrap()
        });
        // A scope waits for the closures of threads, not for the destructors of their thread-locals.
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

/// The second thread finds the entry that the first one made for the number. The first one registered for its
/// own end only, so the second one has to register again.
#[test]
fn a_cache_keeps_nothing_of_a_thread_that_has_the_number_of_an_earlier_one() {
    let _alone = alone();
    let tracking = Arc::new(TrackingManager::new());
    let manager = CachingManager::new(tracking.clone());
    let use_block = |size| {
        let layout = Layout::from_size_align(size, 64).unwrap();
        drop(Block::untouched(&manager, layout).unwrap());
    };
    let on_a_thread = |sizes: &'static [usize]| {
        let thread = || {
            let number = thread_number();
            sizes.iter().copied().for_each(use_block);
            (number, manager.stats().cached_bytes)
        };
        thread::scope(|scope| scope.spawn(thread).join().unwrap())
    };

    // The thread of an earlier test may give its number back between the two.
    let same_number = (0..10).any(|_| {
        let (first, kept) = on_a_thread(&[64 * 1024]);
        assert_eq!(kept, Some(64 * 1024));
        let (second, kept) = on_a_thread(&[64, 64 * 1024]);
        assert_eq!(kept, Some(64 * 1024));

        assert_eq!(manager.stats().cached_bytes, Some(0));
        assert_eq!(tracking.live_bytes(), 0);
        first == second
    });
    assert!(same_number);
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
            let thread = thread::Builder::new().stack_size(STACK);
            let thread = thread.spawn_scoped(scope, || {
                tally.lent(1);
                taken.wait();
                tried.wait();
            });
            thread.unwrap()
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

#[test]
fn numbers_are_dense_and_serve_the_next_threads() {
    let _alone = alone();
    let numbers = || {
        let numbers = Mutex::new(Vec::new());
        on_all_at_once(|| numbers.lock().unwrap().push(thread_number()));
        let mut numbers = numbers.into_inner().unwrap();
        numbers.sort_unstable();
        numbers
    };

    let first = numbers();
    assert!(first.windows(2).all(|pair| pair[0] < pair[1]));
    // All 1,024 numbers except those of this thread and of the harness.
    assert!(first[1_000] < 1_024, "{first:?}");
    assert!(first[1_024] > THREADS, "{first:?}");
    assert_eq!(numbers()[..1_000], first[..1_000]);
}

#[test]
fn the_peak_is_seen_of_threads_with_high_numbers_and_of_those_that_share() {
    const BLOCK: usize = 1 << 20;
    let _alone = alone();
    let tally = Tally::new();
    let all_lent = Barrier::new(THREADS);

    on_all_at_once(|| {
        tally.lent(BLOCK);
        all_lent.wait();
        tally.resized(BLOCK, 2 * BLOCK);
        tally.returned(2 * BLOCK);
    });

    let stats = tally.stats();
    assert_eq!(
        (stats.live_bytes, stats.allocations),
        (Some(0), Some(THREADS as u64))
    );
    let peak = stats.peak_bytes.unwrap();
    // Each thread may keep 256 KiB uncounted, and may have doubled its block before others returned theirs.
    assert!(peak >= THREADS * (BLOCK - 256 * 1024), "{peak}");
    assert!(peak <= THREADS * (2 * BLOCK + 256 * 1024), "{peak}");
}
