//! Checks the promises in the documentation of `arrow_memory_jemalloc`.
#![expect(
    unsafe_code,
    reason = "gives blocks back to the manager and writes to them"
)]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::thread;

use arrow_memory_jemalloc::{JemallocError, JemallocManager};
use arrow_memory_manager::AllocationManager;

const MIB: usize = 1 << 20;

/// A manager for each kind of set-up.
fn managers() -> [JemallocManager; 2] {
    let dedicated = JemallocManager::builder().dedicated_arena(true).build();
    [JemallocManager::new(), dedicated.expect("an arena")]
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a valid layout")
}

/// Writes to every byte of a block, so that an overlap with another block is seen.
fn fill(block: NonNull<u8>, size: usize, value: u8) {
    // SAFETY: the tests pass live blocks with at most their sizes.
    unsafe { block.as_ptr().write_bytes(value, size) };
}

fn is_filled(block: NonNull<u8>, size: usize, value: u8) -> bool {
    // SAFETY: the tests pass live blocks with at most the bytes they have filled.
    let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), size) };
    bytes.iter().all(|&byte| byte == value)
}

#[test]
fn blocks_of_every_size_and_alignment_are_aligned_and_apart() {
    for manager in managers() {
        let mut held = Vec::new();
        for align in [1, 8, 64, 128, 4096, 65536, 2 * MIB] {
            for size in [
                1,
                63,
                64,
                65,
                100,
                192,
                1000,
                4096,
                14337,
                32768,
                32769,
                65536,
                3 * MIB,
            ] {
                let block = manager.allocate(layout(size, align)).unwrap();
                assert!(
                    block.addr().get().is_multiple_of(align.max(64)),
                    "{size} {align}"
                );
                fill(block, size, held.len() as u8);
                held.push((block, layout(size, align)));
            }
        }

        let live: usize = held.iter().map(|(_, layout)| layout.size()).sum();
        assert_eq!(manager.stats().live_bytes, Some(live));
        for (index, (block, layout)) in held.into_iter().enumerate() {
            assert!(is_filled(block, layout.size(), index as u8));
            // SAFETY: the block is live and of this layout.
            unsafe { manager.deallocate(block, layout) };
        }
        assert_eq!(manager.stats().live_bytes, Some(0));
    }
}

#[test]
fn zeroed_blocks_are_zero_where_a_dirty_one_lay() {
    for manager in managers() {
        for size in [64, 4096, 20_000, 40_000, MIB] {
            let dirty = manager.allocate(layout(size, 64)).unwrap();
            fill(dirty, size, 0xff);
            // SAFETY: the block is live and of this layout.
            unsafe { manager.deallocate(dirty, layout(size, 64)) };

            let block = manager.allocate_zeroed(layout(size, 64)).unwrap();

            assert!(is_filled(block, size, 0), "{size}");
            // SAFETY: the block is live and of this layout.
            unsafe { manager.deallocate(block, layout(size, 64)) };
        }
    }
}

#[test]
fn contents_survive_growth_and_shrinking_across_every_boundary() {
    let sizes = [
        1,
        64,
        65,
        4096,
        14336,
        14400,
        32768,
        32832,
        100_000,
        9 * MIB,
        5 * MIB,
        128,
        64,
    ];
    for manager in managers() {
        for align in [64, 256, 8192] {
            let mut size = 64;
            let mut block = manager.allocate(layout(size, align)).unwrap();
            fill(block, size, 7);
            for new in sizes {
                // SAFETY: the block is live, of this alignment, and `size` is its latest.
                block = unsafe { manager.reallocate(block, layout(size, align), new) }.unwrap();
                assert!(block.addr().get().is_multiple_of(align));
                assert!(is_filled(block, size.min(new), 7), "{size} to {new}");
                fill(block, new, 7);
                size = new;
            }
            // SAFETY: the block is live and of this layout.
            unsafe { manager.deallocate(block, layout(size, align)) };
        }
        assert_eq!(manager.stats().live_bytes, Some(0));
    }
}

#[test]
fn a_large_block_with_room_behind_it_grows_where_it_is() {
    let manager = JemallocManager::builder()
        .dedicated_arena(true)
        .build()
        .unwrap();
    // A freed block of 16 MiB leaves room behind the block of 4 MiB that takes its place.
    let room = manager.allocate(layout(16 * MIB, 64)).unwrap();
    // SAFETY: the block is live and of this layout.
    unsafe { manager.deallocate(room, layout(16 * MIB, 64)) };
    let block = manager.allocate(layout(4 * MIB, 64)).unwrap();

    // SAFETY: the block is live and of this layout.
    let grown = unsafe { manager.reallocate(block, layout(4 * MIB, 64), 8 * MIB) }.unwrap();

    assert_eq!(grown, block);
    // SAFETY: the block is live, and of this size after the growth.
    unsafe { manager.deallocate(grown, layout(8 * MIB, 64)) };
}

#[test]
fn a_size_that_jemalloc_does_not_have_is_refused_and_changes_nothing() {
    for manager in managers() {
        let huge = layout(isize::MAX as usize - 63, 64);
        assert!(manager.allocate(huge).is_err());
        assert!(manager.allocate_zeroed(huge).is_err());
        let block = manager.allocate(layout(64, 64)).unwrap();
        fill(block, 64, 3);

        // SAFETY: the block is live and of this layout; the new size makes a valid one.
        let refused = unsafe { manager.reallocate(block, layout(64, 64), huge.size()) };

        assert!(refused.is_err());
        assert!(is_filled(block, 64, 3));
        assert_eq!(manager.stats().live_bytes, Some(64));
        // SAFETY: the block is still live and of its old layout.
        unsafe { manager.deallocate(block, layout(64, 64)) };
    }
}

#[test]
fn a_size_of_zero_is_served_and_taken_back() {
    for manager in managers() {
        for align in [1, 64, 4096] {
            let block = manager.allocate(layout(0, align)).unwrap();
            // SAFETY: the block is live and of this layout.
            unsafe { manager.deallocate(block, layout(0, align)) };
        }
    }
}

#[test]
fn blocks_may_be_given_back_by_other_threads_even_late_ones() {
    for manager in managers() {
        for _ in 0..20 {
            let blocks: Vec<_> = (1..200)
                .map(|i| {
                    (
                        manager.allocate(layout(i * 331, 64)).unwrap().as_ptr() as usize,
                        i * 331,
                    )
                })
                .collect();
            thread::scope(|scope| {
                scope.spawn(|| {
                    for (address, size) in blocks {
                        let block = NonNull::new(address as *mut u8).unwrap();
                        // SAFETY: the block is live and of this layout; the other thread left it.
                        unsafe { manager.deallocate(block, layout(size, 64)) };
                    }
                });
            });
        }
        assert_eq!(manager.stats().live_bytes, Some(0));
    }
}

#[test]
fn a_dedicated_arena_is_seen_alone_and_gives_everything_back() {
    let manager = JemallocManager::builder()
        .dedicated_arena(true)
        .build()
        .unwrap();
    let elsewhere = JemallocManager::new();
    let other = elsewhere.allocate(layout(50 * MIB, 64)).unwrap();
    fill(other, 50 * MIB, 1);

    let block = manager.allocate(layout(10 * MIB, 64)).unwrap();
    fill(block, 10 * MIB, 1);
    let held = manager.stats();
    // SAFETY: the block is live and of this layout.
    unsafe { manager.deallocate(block, layout(10 * MIB, 64)) };
    let cached = manager.stats();
    manager.release_unused();
    let released = manager.stats();

    assert!(
        (10 * MIB..20 * MIB).contains(&held.resident_bytes.unwrap()),
        "{held:?}"
    );
    assert!(cached.cached_bytes.unwrap() >= 10 * MIB, "{cached:?}");
    assert!(released.resident_bytes.unwrap() < 5 * MIB, "{released:?}");
    // SAFETY: the block is live and of this layout.
    unsafe { elsewhere.deallocate(other, layout(50 * MIB, 64)) };
}

/// A governor takes free bytes for room of the tree. Active pages of others, such as the program's own heap, are none.
#[test]
fn blocks_of_others_are_no_free_bytes() {
    let (manager, others) = (JemallocManager::new(), JemallocManager::new());
    let other = others.allocate(layout(50 * MIB, 64)).unwrap();
    fill(other, 50 * MIB, 1);

    let stats = manager.stats();
    // SAFETY: the block is live and of this layout.
    unsafe { others.deallocate(other, layout(50 * MIB, 64)) };

    assert_eq!(stats.live_bytes, Some(0));
    assert!(stats.active_bytes.unwrap() >= 50 * MIB, "{stats:?}");
    assert!(stats.fragmented_bytes.unwrap() < 25 * MIB, "{stats:?}");
}

#[test]
fn large_blocks_are_kept_for_the_decay_time_whatever_jemalloc_calls_oversize() {
    let manager = JemallocManager::new();
    let touched = || {
        let block = manager.allocate(layout(16 * MIB, 64)).unwrap();
        fill(block, 16 * MIB, 1);
        // SAFETY: the block is live and of this layout.
        unsafe { manager.deallocate(block, layout(16 * MIB, 64)) };
    };
    touched();
    let purged = manager.statistic("stats.arenas.4096.dirty_purged").unwrap();

    touched();
    touched();

    let again = manager.statistic("stats.arenas.4096.dirty_purged").unwrap();
    // Other tests purge meanwhile, but not three times 16 MiB.
    assert!((again - purged) * 4096 < 48 * MIB as u64);
}

#[test]
fn arenas_are_handed_on_and_not_piled_up() {
    let first = JemallocManager::builder()
        .dedicated_arena(true)
        .build()
        .unwrap();
    let leaked = first.allocate(layout(4096, 64)).unwrap();
    fill(leaked, 4096, 9);
    drop(first);

    for _ in 0..50 {
        let manager = JemallocManager::builder()
            .dedicated_arena(true)
            .build()
            .unwrap();
        let block = manager.allocate(layout(4096, 64)).unwrap();
        fill(block, 4096, 1);
        // SAFETY: the block is live and of this layout.
        unsafe { manager.deallocate(block, layout(4096, 64)) };
    }

    assert!(
        is_filled(leaked, 4096, 9),
        "a leaked block outlives its manager"
    );
    let arenas = JemallocManager::new().statistic("arenas.narenas").unwrap();
    let automatic = 4 * thread::available_parallelism().unwrap().get() as u64 + 2;
    assert!(arenas < automatic + 40, "{arenas} arenas");
}

#[test]
fn a_decay_time_below_minus_one_is_a_typed_error_and_changes_nothing() {
    let manager = JemallocManager::builder()
        .dedicated_arena(true)
        .build()
        .unwrap();
    let arena = manager.dedicated_arena().unwrap();
    let name = format!("arena.{arena}.dirty_decay_ms");
    let invalid = |milliseconds| JemallocError::InvalidDecay { milliseconds };

    assert_eq!(manager.set_dirty_decay_ms(-2), Err(invalid(-2)));
    assert_eq!(
        manager.set_muzzy_decay_ms(isize::MIN),
        Err(invalid(isize::MIN))
    );
    let built = JemallocManager::builder().muzzy_decay_ms(-2).build();
    assert_eq!(built.unwrap_err(), invalid(-2));
    assert_eq!(manager.statistic(&name), Ok(1000));

    manager.set_dirty_decay_ms(-1).unwrap();
    assert_eq!(manager.statistic(&name), Ok(u64::MAX));
    manager.set_dirty_decay_ms(0).unwrap();
    assert_eq!(manager.statistic(&name), Ok(0));
}

#[test]
fn the_program_s_own_arenas_and_options_stay_as_they_were() {
    let manager = JemallocManager::new();
    let before = manager.statistic("arenas.dirty_decay_ms").unwrap();
    manager.set_dirty_decay_ms(5).unwrap();
    manager.set_muzzy_decay_ms(5).unwrap();

    assert_eq!(manager.statistic("arenas.dirty_decay_ms"), Ok(before));
    assert_eq!(manager.statistic("arena.0.dirty_decay_ms"), Ok(before));
    assert_eq!(
        manager.statistic("opt.oversize_threshold"),
        Ok(8 * MIB as u64)
    );
}

#[test]
fn an_unknown_statistic_is_a_typed_error() {
    let error = JemallocManager::new()
        .statistic("stats.no_such_thing")
        .unwrap_err();

    let name = "stats.no_such_thing".to_owned();
    assert_eq!(error, JemallocError::UnknownStatistic { name });
    let text = "jemalloc has no statistic called `stats.no_such_thing`";
    assert_eq!(error.to_string(), text);
    assert_eq!(format!("{error:?}"), text);
}

#[test]
fn the_report_is_jemalloc_s_own() {
    let text = JemallocManager::new().statistics_text();

    assert!(text.contains("Begin jemalloc statistics"), "{text}");
    assert!(text.contains("End jemalloc statistics"));
}

#[test]
fn the_peak_can_be_reset() {
    let manager = JemallocManager::new();
    let block = manager.allocate(layout(MIB, 64)).unwrap();
    // SAFETY: the block is live and of this layout.
    unsafe { manager.deallocate(block, layout(MIB, 64)) };

    assert_eq!(manager.stats().peak_bytes, Some(MIB));
    manager.reset_peak();
    assert_eq!(manager.stats().peak_bytes, Some(0));
}
