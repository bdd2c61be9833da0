//! Checks the promises in the documentation of `arrow_memory_mimalloc`.
#![expect(
    unsafe_code,
    reason = "gives blocks back to the manager and writes to them"
)]

use std::alloc::Layout;
use std::env;
use std::process::Command;
use std::ptr::NonNull;
use std::thread;

use arrow_memory_manager::AllocationManager;
use arrow_memory_mimalloc::{MimallocManager, MimallocOption};

const MIB: usize = 1 << 20;

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
    let manager = MimallocManager::new();
    let mut held = Vec::new();
    for align in [1, 8, 64, 128, 4096, 65536, 2 * MIB] {
        for size in [
            0,
            1,
            63,
            64,
            65,
            100,
            192,
            1000,
            4096,
            14337,
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

#[test]
fn zeroed_blocks_are_zero_where_a_dirty_one_lay() {
    let manager = MimallocManager::new();
    for (size, align) in [(64, 64), (100, 8), (4096, 4096), (40_000, 64), (MIB, 65536)] {
        let dirty = manager.allocate(layout(size, align)).unwrap();
        fill(dirty, size, 0xff);
        // SAFETY: the block is live and of this layout.
        unsafe { manager.deallocate(dirty, layout(size, align)) };

        let block = manager.allocate_zeroed(layout(size, align)).unwrap();

        assert!(is_filled(block, size, 0), "{size}");
        // SAFETY: the block is live and of this layout.
        unsafe { manager.deallocate(block, layout(size, align)) };
    }
}

#[test]
fn contents_survive_growth_and_shrinking() {
    let manager = MimallocManager::new();
    for align in [64, 256, 8192] {
        let mut size = 64;
        let mut block = manager.allocate(layout(size, align)).unwrap();
        fill(block, size, 7);
        for new in [
            1,
            64,
            65,
            4096,
            14336,
            100_000,
            9 * MIB,
            5 * MIB,
            3 * MIB,
            128,
            64,
        ] {
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

#[test]
fn a_block_with_room_grows_where_it_is_and_one_mostly_empty_moves() {
    let manager = MimallocManager::new();
    // Sizes between 4096 and 5120 have the same block size in mimalloc.
    let block = manager.allocate(layout(4160, 64)).unwrap();

    // SAFETY: the block is live and of this layout.
    let grown = unsafe { manager.reallocate(block, layout(4160, 64), 5120) }.unwrap();
    assert_eq!(grown, block);
    // SAFETY: the block is live and of its latest size.
    let shrunk = unsafe { manager.reallocate(grown, layout(5120, 64), 2048) }.unwrap();
    assert_ne!(shrunk, grown);

    // SAFETY: the block is live and of this layout.
    unsafe { manager.deallocate(shrunk, layout(2048, 64)) };
}

#[test]
fn a_size_that_cannot_be_had_is_refused_and_changes_nothing() {
    let manager = MimallocManager::new();
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

#[test]
fn one_heap_serves_all_threads_even_those_that_ended() {
    let manager = MimallocManager::new();
    for _ in 0..20 {
        let made_elsewhere = thread::scope(|scope| {
            let maker = scope.spawn(|| {
                (1..300_usize)
                    .map(|i| {
                        (
                            manager.allocate(layout(i * 331, 64)).unwrap().as_ptr() as usize,
                            i * 331,
                        )
                    })
                    .collect::<Vec<_>>()
            });
            maker.join().unwrap()
        });
        for (address, size) in made_elsewhere {
            let block = NonNull::new(address as *mut u8).unwrap();
            fill(block, size, 5);
            // SAFETY: the block is live and of this layout, although the thread that allocated it has ended.
            unsafe { manager.deallocate(block, layout(size, 64)) };
        }
    }
    assert_eq!(manager.stats().live_bytes, Some(0));
}

#[test]
fn a_leaked_block_outlives_its_manager() {
    let manager = MimallocManager::new();
    let leaked = manager.allocate(layout(4096, 64)).unwrap();
    fill(leaked, 4096, 9);
    drop(manager);

    let next = MimallocManager::new();
    for _ in 0..100 {
        let block = next.allocate(layout(4096, 64)).unwrap();
        fill(block, 4096, 1);
        // SAFETY: the block is live and of this layout.
        unsafe { next.deallocate(block, layout(4096, 64)) };
    }

    assert!(is_filled(leaked, 4096, 9));
}

#[test]
fn with_version_3_blocks_come_from_an_own_heap() {
    let (major, ..) = MimallocManager::version();

    assert!((2..=3).contains(&major));
    assert_eq!(MimallocManager::new().has_own_heap(), major == 3);
}

#[test]
fn options_are_those_of_the_same_name_in_the_environment() {
    const CHILD: &str = "ARROW_MIMALLOC_TEST_CHILD";
    let options = [
        ("MIMALLOC_PURGE_DELAY", MimallocOption::PurgeDelay, 4242),
        (
            "MIMALLOC_ARENA_PURGE_MULT",
            MimallocOption::ArenaPurgeMult,
            17,
        ),
        (
            "MIMALLOC_PURGE_DECOMMITS",
            MimallocOption::PurgeDecommits,
            0,
        ),
        (
            "MIMALLOC_ARENA_RESERVE",
            MimallocOption::ArenaReserve,
            65_536,
        ),
        (
            "MIMALLOC_ARENA_EAGER_COMMIT",
            MimallocOption::ArenaEagerCommit,
            1,
        ),
        (
            "MIMALLOC_ALLOW_LARGE_OS_PAGES",
            MimallocOption::AllowLargeOsPages,
            0,
        ),
        ("MIMALLOC_USE_NUMA_NODES", MimallocOption::UseNumaNodes, 3),
        ("MIMALLOC_SHOW_ERRORS", MimallocOption::ShowErrors, 1),
        ("MIMALLOC_SHOW_STATS", MimallocOption::ShowStats, 0),
        ("MIMALLOC_VERBOSE", MimallocOption::Verbose, 0),
    ];
    if env::var_os(CHILD).is_some() {
        for (name, option, value) in options {
            assert_eq!(MimallocManager::option(option), value.into(), "{name}");
            MimallocManager::set_option(option, value + 1);
            assert_eq!(
                MimallocManager::option(option),
                i64::from(value) + 1,
                "{name}"
            );
            MimallocManager::set_option(option, 0);
        }
        return;
    }

    let name = "options_are_those_of_the_same_name_in_the_environment";
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", name])
        .env(CHILD, "1")
        .envs(options.map(|(name, _, value)| (name, value.to_string())))
        .env("MIMALLOC_ARENA_RESERVE", "64MiB")
        .status()
        .unwrap();

    assert!(status.success());
}

#[test]
fn the_report_says_what_the_process_has_from_the_system() {
    let json = MimallocManager::new().statistics_json();

    assert!(json.contains("\"committed\""), "{json}");
}

#[test]
fn the_peak_can_be_reset() {
    let manager = MimallocManager::new();
    let block = manager.allocate(layout(MIB, 64)).unwrap();
    // SAFETY: the block is live and of this layout.
    unsafe { manager.deallocate(block, layout(MIB, 64)) };

    assert_eq!(manager.stats().peak_bytes, Some(MIB));
    manager.reset_peak();
    assert_eq!(manager.stats().peak_bytes, Some(0));
}

#[test]
fn large_blocks_are_kept_by_class_and_widely_aligned_ones_are_not() {
    let manager = MimallocManager::new();
    let (small, large, wide) = (
        layout(100_000, 64),
        layout(104 * 1024, 64),
        layout(100_001, 256),
    );

    let first = manager.allocate(small).unwrap();
    // SAFETY: the block is live, of this manager and layout, and is not used any more.
    unsafe { manager.deallocate(first, small) };
    assert_eq!(manager.stats().cached_bytes, Some(large.size()));

    // The block has the size of its class, so it can be lent for the larger layout.
    let second = manager.allocate(large).unwrap();
    assert_eq!((second, manager.stats().cached_bytes), (first, Some(0)));
    fill(second, large.size(), 7);
    assert!(is_filled(second, large.size(), 7));

    let third = manager.allocate(wide).unwrap();
    // SAFETY: the block is live and of this layout.
    unsafe { manager.deallocate(third, wide) };
    assert_eq!(manager.stats().cached_bytes, Some(0));
    // SAFETY: the block is live and of this layout.
    unsafe { manager.deallocate(second, large) };
    assert_eq!(manager.stats().cached_bytes, Some(large.size()));
    assert_eq!(manager.stats().live_bytes, Some(0));
}
