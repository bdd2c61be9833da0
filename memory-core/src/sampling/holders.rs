//! [`Holders`]: the allocators that are charged for memory, and the sites that allocated it, as plain
//! data.

use super::live::Estimate;
use crate::outcome::AllocatorInfo;
use crate::stack::StackTrace;

/// The result of [`who_holds`](super::who_holds): the allocators of all trees that have bytes charged,
/// the largest charge first, each with the sites that allocated the memory that is still held.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Holders {
    /// The allocators, the largest charge first.
    pub allocators: Vec<Held>,
}

/// The memory that one allocator holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Held {
    /// The allocator.
    pub allocator: AllocatorInfo,
    /// The names of its ancestors and its own, from the root, escaped as [`AllocatorInfo`] prints them
    /// and joined by `/`.
    pub path: String,
    /// Bytes charged to the allocator itself, without those of its children; exact.
    pub charged_bytes: usize,
    /// Bytes that it ever allocated, exact; `None` without `.statistics(true)`.
    pub total_bytes: Option<u64>,
    /// External bytes among the charged ones; exact. They have no site.
    pub external_bytes: usize,
    /// Bytes of reservations among the charged ones; exact. They have no site either.
    pub reserved_bytes: usize,
    /// Whether `sites` is exact, because debug mode recorded them, or estimated from samples.
    pub exact: bool,
    /// The sites that allocated the memory, those with the most bytes first. A clone or a slice that
    /// keeps it alive may have been created elsewhere. Empty if the allocator is neither sampled nor in
    /// debug mode.
    pub sites: Vec<HeldSite>,
}

/// The memory that one site allocated, and one allocator still holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HeldSite {
    /// The stack; `None` for all sites beyond the maximum that is kept apart.
    pub stack: Option<StackTrace>,
    /// Bytes still held.
    pub bytes: u64,
    /// Allocations still held.
    pub count: u64,
}

impl HeldSite {
    pub(crate) fn new(stack: Option<StackTrace>, live: Estimate) -> Self {
        Self {
            stack,
            bytes: live.bytes.round() as u64,
            count: live.count.round() as u64,
        }
    }
}
