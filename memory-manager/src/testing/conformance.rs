//! The contract of [`AllocationManager`], promise by promise.
//!
//! [`conformance_suite!`](crate::conformance_suite) makes a test of each function here; each
//! panics where the manager breaks the promise that it is named after. They take the manager for
//! themselves: statistics are compared before and after, so nobody else may use it meanwhile.
//!
//! Longer than most files: each promise comes with an example.

mod bytes;
mod resident;

use std::alloc::Layout;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::thread;

use self::bytes::{Random, all, assert_filled, assert_numbered, number, sizes};
use self::resident::{own_heap_gives_back, resident};
use super::block::Block;
use crate::manager::{AllocationManager, ManagerStats};
use crate::size::{ALIGNMENT, KIB, MAX_ALIGNMENT, MAX_SIZE};

/// Makes a module with one test for each promise of a manager.
///
/// The expression makes the manager, as an `Arc`; it is evaluated once per test, and the tests of
/// one module run one after the other. The one about unused memory, which looks at the whole
/// process, waits for those of all modules; see [`resident_memory_may_change`] for other tests. A
/// manager that does not claim to give unused memory back says `keeps_unused_memory`.
///
/// ```
/// use std::sync::Arc;
///
/// use arrow_memory_manager::conformance_suite;
/// use arrow_memory_manager::testing::{StdManager, TrackingManager};
///
/// conformance_suite!(tracking, Arc::new(TrackingManager::new()), keeps_unused_memory);
/// ```
#[macro_export]
macro_rules! conformance_suite {
    ($module:ident, $manager:expr $(,)?) => {
        $crate::conformance_suite! {
            @tests $module, $manager, unused_memory_is_given_back
        }
    };
    ($module:ident, $manager:expr, keeps_unused_memory $(,)?) => {
        $crate::conformance_suite! {
            @tests $module, $manager,
        }
    };
    (@tests $module:ident, $manager:expr, $($promise:ident)?) => {
        $crate::conformance_suite! {
            @each $module, $manager,
            blocks_are_aligned
            blocks_of_every_size_are_usable
            live_blocks_do_not_overlap
            zeroed_blocks_are_zero
            growth_and_shrinking_keep_the_contents
            blocks_may_be_freed_on_another_thread
            many_threads_may_work_at_once
            impossible_sizes_are_refused_without_side_effects
            statistics_add_up
            $($promise)?
        }
    };
    (@each $module:ident, $manager:expr, $($promise:ident)*) => {
        mod $module {
            #[allow(unused_imports, reason = "the manager's expression may need them")]
            use super::*;

            static ONE_AT_A_TIME: ::std::sync::Mutex<()> = ::std::sync::Mutex::new(());

            $(
                #[test]
                fn $promise() {
                    let _alone = ONE_AT_A_TIME
                        .lock()
                        .unwrap_or_else(::std::sync::PoisonError::into_inner);
                    let manager: ::std::sync::Arc<dyn $crate::AllocationManager> = $manager;
                    $crate::testing::conformance::$promise(&*manager);
                }
            )*
        }
    };
}

/// Checks all promises, one after the other, but for
/// [`unused_memory_is_given_back`], which not every manager claims.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::check(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If the manager breaks one.
pub fn check(manager: &dyn AllocationManager) {
    blocks_are_aligned(manager);
    blocks_of_every_size_are_usable(manager);
    live_blocks_do_not_overlap(manager);
    zeroed_blocks_are_zero(manager);
    growth_and_shrinking_keep_the_contents(manager);
    blocks_may_be_freed_on_another_thread(manager);
    many_threads_may_work_at_once(manager);
    impossible_sizes_are_refused_without_side_effects(manager);
    statistics_add_up(manager);
}

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

/// A block may be given back on another thread, also when the one that made it is gone.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::blocks_may_be_freed_on_another_thread(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If it may not.
pub fn blocks_may_be_freed_on_another_thread(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    let orphans = thread::scope(|scope| {
        let made = scope.spawn(|| {
            let sizes = sizes().flat_map(|size| [size; 3]);
            let blocks = sizes.map(|size| Block::filled(manager, layout(size, 64), 7));
            blocks.collect::<Result<Vec<_>, _>>()
        });
        join(made).expect("usual sizes")
    });
    for block in &orphans {
        assert_filled(block, 7);
    }
    drop(orphans);

    let (sender, receiver) = mpsc::sync_channel::<Block<'_>>(16);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            for block in receiver {
                assert_filled(&block, block.layout().size() as u8);
            }
        });
        for round in 0..2_000 {
            let size = 1 + round * 37 % 9_000;
            let block = Block::filled(manager, layout(size, 64), size as u8);
            sender.send(block.expect("a usual size")).expect("a reader");
        }
        drop(sender);
        join(reader);
    });
}

/// Waits for a thread and its thread-locals, where managers may keep blocks; a scope's end does not.
fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().expect("no panic")
}

/// Threads may allocate, grow and free at once.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::many_threads_may_work_at_once(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If they may not.
pub fn many_threads_may_work_at_once(manager: &dyn AllocationManager) {
    let _change = resident_memory_may_change();
    thread::scope(|scope| {
        let work = |thread: u8| {
            move || {
                let mut random = Random(u64::from(thread));
                let mut held: Vec<Block<'_>> = Vec::new();
                for _ in 0..1_000 {
                    let size = random.size(18);
                    match random.below(4) {
                        0 if !held.is_empty() => {
                            let victim = random.below(held.len());
                            held.swap_remove(victim);
                        }
                        1 if !held.is_empty() => {
                            let grown = random.below(held.len());
                            let block = &mut held[grown];
                            block.reallocate(size, thread).expect("a usual size");
                            assert_filled(block, thread);
                        }
                        _ if held.len() < 16 => {
                            let block = Block::filled(manager, layout(size, 64), thread);
                            held.push(block.expect("a usual size"));
                        }
                        _ => held.clear(),
                    }
                }
                for block in &held {
                    assert_filled(block, thread);
                }
            }
        };
        let threads = [1, 2, 3, 4].map(|thread| scope.spawn(work(thread)));
        threads.into_iter().for_each(join);
    });
}

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

/// `release_unused` gives memory that nobody uses back to the operating system.
///
/// The check needs a system that tells resident memory, and a process whose own heap gives memory
/// back (under AddressSanitizer, say, none does): otherwise it passes. Blocks that are alive
/// survive in any case.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::unused_memory_is_given_back(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If it does not.
pub fn unused_memory_is_given_back(manager: &dyn AllocationManager) {
    let _alone = RESIDENT.write().unwrap_or_else(PoisonError::into_inner);
    let held = Block::filled(manager, layout(100 * KIB, 64), 5).expect("a usual size");
    manager.release_unused();
    let before = resident();

    // What lies above the lowest live block of a heap must not hide what lies below: the small
    // blocks come first and one of them stays.
    let mut blocks = Vec::new();
    for (size, count) in [(64, 10_000), (20 * KIB, 500), (MIB, 20), (40 * MIB, 1)] {
        let made = (0..count).map(|_| Block::filled(manager, layout(size, 64), 6));
        blocks.extend(made.map(|block| block.expect("a usual size")));
    }
    let full = resident();
    drop(blocks);
    manager.release_unused();
    let after = resident();

    assert_filled(&held, 5);
    let cached = manager.stats().cached_bytes.unwrap_or(0);
    let (Some(before), Some(full), Some(after)) = (before, full, after) else {
        return;
    };
    if !own_heap_gives_back() {
        return;
    }
    let (taken, kept) = (full.saturating_sub(before), after.saturating_sub(before));
    assert!(taken >= 60 * MIB, "blocks that were written are resident");
    assert!(
        kept <= taken / 8,
        "{kept} of {taken} bytes stayed resident; {cached} are said to be cached"
    );
}

/// Keeps [`unused_memory_is_given_back`] from running while the result lives: for tests beside a
/// suite that take or release many MiB. The other functions here hold one for themselves.
///
/// ```
/// # use arrow_memory_manager::testing::conformance;
/// let _change = conformance::resident_memory_may_change();
/// ```
pub fn resident_memory_may_change() -> RwLockReadGuard<'static, ()> {
    RESIDENT.read().unwrap_or_else(PoisonError::into_inner)
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

fn untouched(manager: &dyn AllocationManager, size: usize, align: usize) -> Block<'_> {
    Block::untouched(manager, layout(size, align)).expect("a usual size")
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a valid layout")
}

/// Who changes the resident memory of the process, shared, and who measures it, alone.
static RESIDENT: RwLock<()> = RwLock::new(());

/// Bytes in one MiB.
const MIB: usize = KIB * KIB;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use crate::testing::{CountingManager, FailingManager, StdManager, TrackingManager};

    conformance_suite!(std_manager, Arc::new(StdManager), keeps_unused_memory);
    conformance_suite!(
        tracking_manager,
        Arc::new(TrackingManager::new()),
        keeps_unused_memory
    );
    conformance_suite!(
        counting_manager,
        Arc::new(CountingManager::new()),
        keeps_unused_memory
    );
    conformance_suite!(
        failing_manager,
        Arc::new(FailingManager::new()),
        keeps_unused_memory
    );
}
