//! Platforms on which no block has a label.

use super::Found;

/// Whether blocks can have labels.
pub(crate) const SUPPORTED: bool = false;

/// Returns the label of the block that starts at `start`; 0 is none.
#[inline]
pub(crate) fn get(_start: *mut u8) -> u32 {
    0
}

/// The same.
pub(crate) fn get_acquire(_start: usize) -> u32 {
    0
}

/// Labels a block, or returns `false` if it cannot have a label.
#[inline]
pub(crate) fn set(_start: *mut u8, _size: usize, _label: u32) -> bool {
    false
}

/// Removes the label of a block that has one.
#[inline]
pub(crate) fn clear(_start: *mut u8, _size: usize) {}

/// Finds the labelled block that contains some memory.
pub(crate) fn find(_part: *mut u8, _size: usize) -> Option<Found> {
    None
}

/// Changes the label of a block, or returns `false` if it has another one.
pub(crate) fn relabel(_start: usize, _from: u32, _to: u32) -> bool {
    false
}

/// Returns how many blocks were not labelled because of their address.
pub(crate) fn unattributable() -> usize {
    0
}

/// Calls `work`.
pub(crate) fn keep_errno<R>(work: impl FnOnce() -> R) -> R {
    work()
}
