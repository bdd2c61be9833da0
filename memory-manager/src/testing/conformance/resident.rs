//! The promise about unused memory, and what the system knows of this process's memory.

use std::fs;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::bytes::{MIB, assert_filled, layout};
use crate::manager::AllocationManager;
use crate::size::KIB;
use crate::testing::block::Block;

/// `release_unused` gives unused memory back to the operating system.
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

/// Shared by tests that change the resident memory of the process, exclusive for the one that measures it.
static RESIDENT: RwLock<()> = RwLock::new(());

/// Whether a large vector that is dropped leaves resident memory.
fn own_heap_gives_back() -> bool {
    // Sanitizers, whose heaps keep what is freed, are known by their terabytes of shadow memory.
    if status("VmSize:") > Some(1 << 40) {
        return false;
    }
    let before = resident().unwrap_or(0);
    drop(std::hint::black_box(vec![1_u8; 64 * MIB]));
    let after = resident().unwrap_or(usize::MAX);
    after.saturating_sub(before) < 16 * MIB
}

/// Resident memory of this process in bytes, where the system tells it.
fn resident() -> Option<usize> {
    status("VmRSS:")
}

/// A line of what Linux tells about this process, in bytes.
fn status(name: &str) -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * KIB)
}
