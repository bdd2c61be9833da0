//! What the system knows of this process's memory.

use std::fs;

use super::MIB;
use crate::size::KIB;

/// Whether a large vector that is dropped leaves resident memory.
pub(super) fn own_heap_gives_back() -> bool {
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
pub(super) fn resident() -> Option<usize> {
    status("VmRSS:")
}

/// A line of what Linux tells about this process, in bytes.
fn status(name: &str) -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * KIB)
}
