use std::sync::Barrier;
use std::thread;

use super::*;
use crate::size::KIB;
use crate::testing::{Block, CountingManager, TrackingManager};

const MIB: usize = KIB * KIB;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 64).expect("a valid layout")
}

fn block(manager: &CachingManager, size: usize) -> Block<'_> {
    Block::untouched(manager, layout(size)).expect("a usual size")
}

fn cached(manager: &CachingManager) -> usize {
    manager.stats().cached_bytes.expect("known")
}

fn tracked(limits: CacheLimits) -> (Arc<TrackingManager>, CachingManager) {
    let tracking = Arc::new(TrackingManager::new());
    let caching = CachingManager::with_limits(tracking.clone(), limits);
    (tracking, caching)
}

#[test]
fn a_block_that_comes_back_is_lent_again_without_a_call_below() {
    let counting = Arc::new(CountingManager::new());
    let manager = CachingManager::new(counting.clone());

    let address = block(&manager, 64 * KIB).address();
    for size in [64 * KIB, 60 * KIB + 1, 61 * KIB] {
        assert_eq!(block(&manager, size).address(), address);
    }

    let calls = counting.calls();
    assert_eq!((calls.allocate, calls.deallocate), (1, 0));
}

#[test]
fn what_the_cache_lends_counts_and_what_it_keeps_is_not_live() {
    let (_, manager) = tracked(CacheLimits::default());
    let numbers = || {
        let stats = manager.stats();
        (stats.live_bytes, stats.allocations, stats.total_bytes)
    };

    thread::scope(|scope| {
        let ended = scope.spawn(|| (0..3).for_each(|_| drop(block(&manager, 63_000))));
        ended.join().unwrap();
    });
    assert_eq!(numbers(), (Some(0), Some(3), Some(3 * 63_000)));

    let held = block(&manager, 63_000);
    drop(block(&manager, 63_000));
    assert_eq!(numbers(), (Some(63_000), Some(5), Some(5 * 63_000)));
    assert_eq!(manager.stats().peak_bytes, Some(126_000));
    drop(held);
    drop(block(&manager, 63_000));
    assert_eq!(numbers(), (Some(0), Some(6), Some(6 * 63_000)));
    assert_eq!(cached(&manager), 2 * 64 * KIB);
}

#[test]
fn small_large_and_widely_aligned_blocks_pass_through() {
    let (tracking, manager) = tracked(CacheLimits::default());

    drop(block(&manager, 32 * KIB));
    drop(block(&manager, 4 * MIB + 1));
    drop(Block::untouched(
        &manager,
        Layout::from_size_align(64 * KIB, 128).unwrap(),
    ));

    assert_eq!((cached(&manager), tracking.live_bytes()), (0, 0));
    drop(block(&manager, 4 * MIB));
    assert_eq!(cached(&manager), 4 * MIB);
    drop(block(&manager, 32 * KIB + 1));
    assert_eq!(cached(&manager), 36 * KIB);
    assert_eq!(tracking.live_bytes(), 36 * KIB);
}

#[test]
fn a_thread_keeps_so_many_blocks_of_a_class_and_so_many_bytes() {
    let (tracking, manager) = tracked(CacheLimits {
        bytes_per_thread: MIB,
        blocks_per_class: 3,
        largest_block: 2 * MIB,
    });

    drop(
        (0..10)
            .map(|_| block(&manager, 64 * KIB))
            .collect::<Vec<_>>(),
    );
    assert_eq!(cached(&manager), 3 * 64 * KIB);

    drop(
        (0..10)
            .map(|_| block(&manager, 512 * KIB))
            .collect::<Vec<_>>(),
    );
    assert_eq!(cached(&manager), MIB);
    assert_eq!(tracking.live_bytes(), MIB);

    // A larger one is kept alone.
    drop((0..3).map(|_| block(&manager, 2 * MIB)).collect::<Vec<_>>());
    assert_eq!(cached(&manager), 2 * MIB);
    drop(block(&manager, 64 * KIB));
    assert_eq!(cached(&manager), 64 * KIB);
}

#[test]
fn what_is_not_asked_for_any_more_makes_room_for_what_is() {
    let (_, manager) = tracked(CacheLimits {
        bytes_per_thread: 8 * MIB,
        ..CacheLimits::default()
    });
    let large = (0..4).map(|_| block(&manager, 2 * MIB));
    drop(large.collect::<Vec<_>>());
    assert_eq!(cached(&manager), 8 * MIB);

    let address = block(&manager, 64 * KIB).address();
    assert_eq!(block(&manager, 64 * KIB).address(), address);
    assert_eq!(cached(&manager), 6 * MIB + 64 * KIB);

    // What has just been used is spared as long as there is something else.
    let held: Vec<_> = (0..3).map(|_| block(&manager, MIB)).collect();
    drop(held);
    assert_eq!(block(&manager, 64 * KIB).address(), address);
    assert!(cached(&manager) <= 8 * MIB);
}

#[test]
fn a_thread_that_frees_what_others_allocate_keeps_nothing() {
    let (tracking, manager) = tracked(CacheLimits::default());
    let manager = &manager;
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Block<'_>>(4);

    thread::scope(|scope| {
        scope.spawn(move || receiver.into_iter().for_each(drop));
        for _ in 0..100 {
            sender.send(block(manager, 64 * KIB)).unwrap();
        }
        drop(sender);
    });

    assert_eq!((cached(manager), tracking.live_bytes()), (0, 0));
}

#[test]
fn a_thread_does_not_inherit_what_another_asked_for() {
    let (_, manager) = tracked(CacheLimits::default());
    let (held, manager) = (block(&manager, 64 * KIB), &manager);
    for _ in 0..2 {
        thread::scope(|scope| {
            let asked = scope.spawn(|| drop(block(manager, 64 * KIB)));
            asked.join().unwrap();
        });
    }

    thread::scope(|scope| {
        let frees = scope.spawn(move || {
            drop(held);
            cached(manager)
        });
        assert_eq!(frees.join().unwrap(), 0);
    });
}

#[test]
fn after_all_was_released_blocks_are_kept_again_at_once() {
    let (_, manager) = tracked(CacheLimits::default());
    let mut held: Vec<_> = (0..20).map(|_| block(&manager, 64 * KIB)).collect();
    held.truncate(4);
    assert_eq!(cached(&manager), 16 * 64 * KIB);
    manager.release_unused();
    assert_eq!(cached(&manager), 0);

    drop(held);
    assert_eq!(cached(&manager), 4 * 64 * KIB);
}

#[test]
fn a_limit_between_two_classes_and_too_many_places_are_what_can_be_had() {
    let (_, manager) = tracked(CacheLimits {
        bytes_per_thread: 64 * MIB,
        blocks_per_class: 100,
        largest_block: 100_000,
    });
    assert_eq!(manager.limits().largest_block, 104 * KIB);
    assert_eq!(manager.limits().blocks_per_class, 16);

    drop((0..40).map(|_| block(&manager, 99_000)).collect::<Vec<_>>());
    assert_eq!(cached(&manager), 16 * 104 * KIB);
}

#[test]
fn what_is_small_or_too_large_has_no_class_whatever_the_limit() {
    let cache = BlockCache::new(
        CacheLimits {
            largest_block: usize::MAX,
            ..CacheLimits::default()
        },
        |_, _| (),
    );
    for size in [0, 32 * KIB, 8 * MIB + 1] {
        assert_eq!(cache.size_of_class(size), None, "{size}");
    }
    assert_eq!(cache.size_of_class(32 * KIB + 1), Some(36 * KIB));
    assert_eq!(cache.size_of_class(8 * MIB), Some(8 * MIB));
}

#[test]
fn zeroed_blocks_from_the_cache_are_zero() {
    let manager = CachingManager::new(Arc::new(CountingManager::new()));
    let dirty = Block::filled(&manager, layout(100_000), 0xFF).unwrap();
    let address = dirty.address();
    drop(dirty);

    let zeroed = Block::zeroed(&manager, layout(99_999)).unwrap();

    assert_eq!(zeroed.address(), address);
    assert!(zeroed.bytes().iter().all(|&byte| byte == 0));
}

#[test]
fn growth_within_a_class_stays_in_place_and_into_and_out_of_the_cache_is_a_call_below() {
    let counting = Arc::new(CountingManager::new());
    let manager = CachingManager::new(Arc::new(TrackingManager::over(counting.clone())));
    let mut grown = Block::filled(&manager, layout(100), 7).unwrap();

    for size in [60 * KIB + 1, 64 * KIB, 61 * KIB, 5 * MIB, 70 * KIB, 100] {
        grown.resize(size).unwrap();
        assert_eq!(grown.bytes(), [7; 100]);
    }

    assert_eq!(counting.calls().reallocate, 4);
}

#[test]
fn release_unused_empties_the_caches_of_all_threads() {
    let (tracking, manager) = tracked(CacheLimits::default());
    let (filled, emptied) = (Barrier::new(4), Barrier::new(4));

    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                drop(block(&manager, 64 * KIB));
                filled.wait();
                emptied.wait();
            });
        }
        filled.wait();
        assert_eq!(cached(&manager), 3 * 64 * KIB);

        manager.release_unused();

        assert_eq!((cached(&manager), tracking.live_bytes()), (0, 0));
        emptied.wait();
    });
}

#[test]
fn a_thread_that_ends_leaves_nothing_behind() {
    let (tracking, manager) = tracked(CacheLimits::default());

    thread::scope(|scope| {
        let ended = scope.spawn(|| drop(block(&manager, 64 * KIB)));
        ended.join().unwrap();
    });

    assert_eq!((cached(&manager), tracking.live_bytes()), (0, 0));
}

#[test]
fn a_wrapper_that_goes_before_its_threads_takes_its_blocks_along() {
    let (tracking, manager) = tracked(CacheLimits::default());
    drop(block(&manager, 64 * KIB));

    drop(manager);

    tracking.assert_clean();
}

#[test]
fn blocks_are_kept_apart_by_manager() {
    let (mine, first) = tracked(CacheLimits::default());
    let (yours, second) = tracked(CacheLimits::default());

    drop(block(&first, 64 * KIB));
    drop(block(&second, 64 * KIB));
    drop((first, second));

    mine.assert_clean();
    yours.assert_clean();
}

#[test]
fn blocks_are_lent_once_while_others_empty_the_caches() {
    let (tracking, manager) = tracked(CacheLimits {
        bytes_per_thread: 600 * KIB,
        ..CacheLimits::default()
    });
    let (manager, working) = (&manager, &Barrier::new(3));
    thread::scope(|scope| {
        let work = |seed: usize| {
            move || {
                working.wait();
                let mut held = Vec::new();
                for round in 0..3_000 {
                    let size = 33 * KIB + (round * 7 + seed) % 9 * 8 * KIB;
                    let mut block = block(manager, size);
                    block.reallocate(size, seed as u8).unwrap();
                    held.push(block);
                    if round % 5 == 4 {
                        for block in held.drain(..) {
                            assert!(
                                block
                                    .bytes()
                                    .iter()
                                    .step_by(512)
                                    .all(|it| *it == seed as u8)
                            );
                        }
                    }
                }
            }
        };
        let threads = [0, 1].map(|seed| scope.spawn(work(seed)));
        working.wait();
        for _ in 0..2_000 {
            manager.release_unused();
            assert!(cached(manager) <= 2 * 600 * KIB);
        }
        // With their thread-locals, which the end of a scope does not wait for.
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });

    manager.release_unused();
    assert_eq!((cached(manager), tracking.live_bytes()), (0, 0));
}

#[test]
fn threads_that_come_and_go_race_with_release_and_drop() {
    for _ in 0..50 {
        let (tracking, manager) = tracked(CacheLimits::default());
        let manager = Arc::new(manager);
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let manager = Arc::clone(&manager);
                thread::spawn(move || {
                    for size in [64 * KIB, 100 * KIB, 64 * KIB, MIB] {
                        drop(block(&manager, size));
                    }
                })
            })
            .collect();
        manager.release_unused();
        drop(manager);
        for thread in threads {
            thread.join().unwrap();
        }

        tracking.assert_clean();
    }
}
