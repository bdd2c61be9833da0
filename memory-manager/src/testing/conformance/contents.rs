//! Promises about one thread's blocks: where they are and what is in them.

use super::bytes::{
    MIB, Random, all, assert_filled, assert_numbered, layout, number, sizes, untouched,
};
use super::resident::resident_memory_may_change;
use crate::manager::AllocationManager;
use crate::size::{ALIGNMENT, KIB, MAX_ALIGNMENT};
use crate::testing::block::Block;

/// Blocks of any size are aligned as asked for, from 64 bytes to 2 MiB, before and after growth.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::blocks_are_aligned(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If they are not.
pub fn blocks_are_aligned(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    for shift in ALIGNMENT.ilog2()..=MAX_ALIGNMENT.ilog2() {
        let align = 1 << shift;
        for size in [1, 64, 65, 5_000, 200 * KIB, 3 * MIB] {
            // Two at a time: the second of two neighbours is rarely aligned by chance.
            let plain = untouched(manager, size, align);
            let zeroed = Block::zeroed(manager, layout(size, align)).expect("a usual size");
            let mut grown = untouched(manager, 64, align);
            grown.resize(size).expect("a usual size");
            let mut regrown = untouched(manager, size, align);
            regrown.resize(size * 2 + 1).expect("a usual size");

            for block in [&plain, &zeroed, &grown, &regrown] {
                let address = block.address();
                assert!(
                    address.is_multiple_of(align),
                    "{address:#x} is not aligned to {align} (size {size})"
                );
            }
        }
    }
}

/// Every byte of a block can be written and read, from 1 byte to tens of MiB.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::blocks_of_every_size_are_usable(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If it cannot.
pub fn blocks_of_every_size_are_usable(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    for size in sizes() {
        for delta in [-1, 0, 1] {
            let Some(size) = size.checked_add_signed(delta).filter(|&size| size > 0) else {
                continue;
            };
            let mut block = untouched(manager, size, ALIGNMENT);
            block.reallocate(size, 0x33).expect("the same size");
            block.bytes_mut()[size - 1] = 0x44;

            assert!(all(&block.bytes()[..size - 1], 0x33), "{block:?}");
            assert_eq!(block.bytes()[size - 1], 0x44);
        }
    }
}

/// Blocks that live together keep their own contents.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::live_blocks_do_not_overlap(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If they do not.
pub fn live_blocks_do_not_overlap(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    let mut random = Random(0x5EED);
    let mut blocks: Vec<(u8, Block<'_>)> = Vec::new();
    for round in 0..2_000_u32 {
        if blocks.len() > 64 || (round % 3 == 2 && !blocks.is_empty()) {
            let victim = random.below(blocks.len());
            let (value, block) = blocks.swap_remove(victim);
            assert_filled(&block, value);
        }
        let value = round as u8;
        let size = random.size(16);
        let align = ALIGNMENT << random.below(4);
        let block = Block::filled(manager, layout(size, align), value);
        blocks.push((value, block.expect("a usual size")));
    }
    for (value, block) in &blocks {
        assert_filled(block, *value);
    }
}

/// Zeroed blocks are zero, also where dirty memory was given back before.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::zeroed_blocks_are_zero(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If they are not.
pub fn zeroed_blocks_are_zero(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    for size in sizes() {
        for align in [ALIGNMENT, 4 * KIB, 64 * KIB] {
            for _ in 0..3 {
                let dirty = Block::filled(manager, layout(size, align), 0xFF);
                drop(dirty.expect("a usual size"));
                let block = Block::zeroed(manager, layout(size, align)).expect("a usual size");
                assert_filled(&block, 0);
            }
        }
    }
}

/// `reallocate` keeps what the old and the new size have in common.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::growth_and_shrinking_keep_the_contents(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If it does not.
pub fn growth_and_shrinking_keep_the_contents(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    let mut steps: Vec<usize> = sizes().collect();
    steps.extend(sizes().rev().skip(1));
    steps.extend([MIB, 100, 20 * MIB, 64, 70 * KIB, 69 * KIB, 71 * KIB]);
    for align in [ALIGNMENT, 4 * KIB, 64 * KIB, MAX_ALIGNMENT] {
        let mut block = Block::filled(manager, layout(1, align), 0).expect("a usual size");
        number(block.bytes_mut());
        for &size in &steps {
            let kept = size.min(block.bytes().len());
            // A neighbour, so that growing in place is not always possible.
            let _neighbour = untouched(manager, size, ALIGNMENT);

            block.reallocate(size, 0xEE).expect("a usual size");

            assert_numbered(&block.bytes()[..kept]);
            assert!(all(&block.bytes()[kept..], 0xEE), "{block:?}");
            assert!(block.address().is_multiple_of(align), "{block:?}");
            number(block.bytes_mut());
        }
    }
}
