//! Promises about what a manager counts, and about calls that must fail.

use super::bytes::{MIB, assert_filled, layout, sizes};
use super::resident::resident_memory_may_change;
use crate::manager::{AllocationManager, ManagerStats};
use crate::size::{KIB, MAX_ALIGNMENT, MAX_SIZE};
use crate::testing::block::Block;

/// Sizes that no machine has are errors, and leave everything as it was.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::impossible_sizes_are_refused_without_side_effects(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If they are not.
pub fn impossible_sizes_are_refused_without_side_effects(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    let mut block = Block::filled(manager, layout(100, 64), 9).expect("a usual size");
    let mut large = Block::filled(manager, layout(10 * MIB, 64), 9).expect("a usual size");
    let before = manager.stats();

    for align in [64, 4 * KIB, MAX_ALIGNMENT] {
        // The largest sizes that a layout of this alignment can have.
        let largest = MAX_SIZE - (align - 1);
        for size in [largest, largest - 1, largest - MIB, MAX_SIZE / 2] {
            let layout = layout(size, align);
            assert!(Block::untouched(manager, layout).is_err(), "{layout:?}");
            assert!(Block::zeroed(manager, layout).is_err(), "{layout:?}");
        }
    }
    for size in [MAX_SIZE - 63, MAX_SIZE / 2] {
        for block in [&mut block, &mut large] {
            assert!(block.resize(size).is_err(), "growth to {size}");
            assert_filled(block, 9);
        }
    }

    let after = manager.stats();
    assert_eq!(after.live_bytes, before.live_bytes);
    assert_eq!(after.peak_bytes, before.peak_bytes);
    assert_eq!(after.total_bytes, before.total_bytes);
    assert_eq!(after.allocations, before.allocations);
    block.reallocate(200, 9).expect("a usual size");
    assert_filled(&block, 9);
}

/// The statistics that the manager has agree with each other and with what was done.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::statistics_add_up(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If they do not.
pub fn statistics_add_up(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    let live = |stats: ManagerStats| stats.live_bytes.unwrap_or(0);
    let before = manager.stats();
    let mut lent = 0;
    let mut blocks = Vec::new();
    for (index, size) in sizes().enumerate() {
        let block = match index % 2 {
            0 => Block::filled(manager, layout(size, 64), 1),
            _ => Block::zeroed(manager, layout(size, 64)),
        };
        blocks.push(block.expect("a usual size"));
        lent += size;
        assert_consistent(manager.stats());
    }
    let full = manager.stats();
    if full.live_bytes.is_some() {
        assert!(live(full) - live(before) >= lent, "{before:?} {full:?}");
        assert!(live(full) - live(before) <= 2 * lent, "{before:?} {full:?}");
    }
    if let (Some(peak), Some(live)) = (full.peak_bytes, full.live_bytes) {
        assert!(peak >= live, "{full:?}");
    }
    if let (Some(before), Some(after)) = (before.total_bytes, full.total_bytes) {
        assert!(after - before >= lent as u64, "{full:?}");
    }
    if let (Some(before), Some(after)) = (before.allocations, full.allocations) {
        assert_eq!(after - before, blocks.len() as u64, "{full:?}");
    }

    for block in &mut blocks {
        let size = block.layout().size();
        block.reallocate(size + 4_096, 1).expect("a usual size");
    }
    let grown = manager.stats();
    assert_consistent(grown);
    if grown.live_bytes.is_some() {
        let expected = lent + 4_096 * blocks.len();
        assert!(live(grown) - live(before) >= expected, "{grown:?}");
    }
    if let (Some(full), Some(grown)) = (full.allocations, grown.allocations) {
        assert!(grown >= full);
    }

    drop(blocks);
    let after = manager.stats();
    assert_consistent(after);
    assert_eq!(after.live_bytes, before.live_bytes, "all was given back");
    assert!(after.peak_bytes >= full.peak_bytes, "a peak does not fall");
    assert!(after.total_bytes >= grown.total_bytes);
}

fn assert_consistent(stats: ManagerStats) {
    let not_above = |small: Option<usize>, large: Option<usize>| match (small, large) {
        (Some(small), Some(large)) => small <= large,
        _ => true,
    };
    assert!(not_above(stats.live_bytes, stats.peak_bytes), "{stats:?}");
    assert!(not_above(stats.live_bytes, stats.active_bytes), "{stats:?}");
    assert!(
        not_above(stats.active_bytes, stats.resident_bytes),
        "{stats:?}"
    );
}
