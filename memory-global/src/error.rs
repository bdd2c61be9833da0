//! [`Overdraft`]: bytes that were charged over a limit.

use std::fmt;

use arrow_memory_core::__private::text::{Bytes, Size};
use arrow_memory_core::AllocatorInfo;

use arrow_memory_core::__private::heap::Overdrawn;

/// That an allocator is over its limit because of what a scope has charged by force. From
/// [`Scope::check`](crate::Scope::check).
///
/// It is a *limit's* fault: free memory, spill, or end the query.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Overdraft {
    /// The allocator of the scope.
    pub scope: AllocatorInfo,
    /// The allocator that is over its limit: the scope's, or one above it.
    pub allocator: AllocatorInfo,
    /// The limit in bytes.
    pub limit: usize,
    /// The bytes that are allocated there. More than the limit.
    pub used: usize,
}

impl Overdraft {
    pub(crate) fn new(scope: AllocatorInfo, over: Overdrawn) -> Self {
        Self {
            scope,
            allocator: over.allocator,
            limit: over.limit,
            used: over.allocated,
        }
    }

    /// Returns by how many bytes the limit is passed.
    pub fn excess(&self) -> usize {
        self.used.saturating_sub(self.limit)
    }
}

impl fmt::Display for Overdraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            allocator, limit, ..
        } = self;
        write!(
            f,
            "allocator `{allocator}` is {} over its limit of {}",
            Bytes(self.excess()),
            Size(*limit)
        )?;
        if f.alternate() {
            let Self { scope, used, .. } = self;
            write!(
                f,
                "\n  {} allocated in all, found by a scope of `{scope}`",
                Size(*used)
            )?;
        }
        Ok(())
    }
}

arrow_memory_core::__debug_as_display!(struct Overdraft { scope, allocator, limit, used });
