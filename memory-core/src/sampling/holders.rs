//! [`Holders`]: which allocators are charged for memory, and which sites allocated what is held, as plain data.

use super::live::Estimate;
use crate::outcome::AllocatorInfo;
use crate::stack::StackTrace;

/// What [`who_holds`](super::who_holds) found: the allocators of all trees that are charged for something, the largest
/// charge first, and for each the sites that allocated what is still held.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Holders {
    /// The allocators.
    pub allocators: Vec<Held>,
}

/// What one allocator holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Held {
    /// Which allocator.
    pub allocator: AllocatorInfo,
    /// The names of its ancestors and its own, from the root, escaped as [`AllocatorInfo`] prints them
    /// and joined by `/`.
    pub path: String,
    /// Bytes that it is charged for itself, without its children; exact.
    pub charged_bytes: usize,
    /// All that it ever allocated, exact; `None` without `.statistics(true)`.
    pub total_bytes: Option<u64>,
    /// External bytes among them, which have no site; exact.
    pub external_bytes: usize,
    /// Bytes of reservations among them, which have no site either; exact.
    pub reserved_bytes: usize,
    /// Whether `sites` is exact, from debug mode, or estimated from samples.
    pub exact: bool,
    /// The sites that allocated it, those with the most bytes first. A clone or a slice that keeps it
    /// alive may have been made elsewhere. Empty if the allocator is neither sampled nor in
    /// debug mode.
    pub sites: Vec<HeldSite>,
}

/// What one site has allocated of what an allocator holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HeldSite {
    /// The stack; `None` for sites beyond the most that are kept apart.
    pub stack: Option<StackTrace>,
    /// How many bytes.
    pub bytes: u64,
    /// How many allocations.
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
