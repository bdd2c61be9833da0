//! The program's own heap in a tree: what a global allocator that attributes blocks is built on.
//!
//! See `accounting::heap` for how it works. All of it is for `arrow-memory-global` and for the crates that adopt
//! memory; programs use scopes.

use crate::accounting::heap::HeapHandle;
pub use crate::accounting::heap::{
    Account, ID_BITS, Label, Labels, Moved, Piece, Taken, attributed, current, is_installed,
    labels, replace, set_labels,
};
use crate::allocator::BufferAllocator;
use crate::error::AllocError;
use crate::outcome::{AllocatorInfo, Purpose};
use crate::sync::current as thread;
pub use crate::sync::current::unscoped;
use crate::waiting;

/// A scope's hold on an allocator's heap: as long as it exists, heap blocks can be charged to the allocator.
///
/// When it is dropped, what is still charged moves to the child `(retained)` of the root.
pub struct Heap {
    handle: HeapHandle,
    allocator: AllocatorInfo,
}

impl Heap {
    /// A hold on the heap of `allocator`, whose bytes are charged to a child of it named `(heap)`.
    ///
    /// # Errors
    ///
    /// * [`AllocError::Closed`] if the allocator is closed or has left its tree.
    /// * [`AllocError::SizeOverflow`] if the process has four million scopes, with those that have ended and whose
    ///   blocks live.
    pub fn open(allocator: &BufferAllocator) -> Result<Self, AllocError> {
        let opened = HeapHandle::open(&allocator.handle);
        let handle = opened.map_err(|refusal| refusal.to_error(0, Purpose::Bytes))?;
        unscoped(waiting::start_timer);
        Ok(Self {
            handle,
            allocator: allocator.info().clone(),
        })
    }

    /// The account that the calling thread is to charge. A few loads; for a thread that is new to this scope, the
    /// tree's lock.
    #[inline]
    pub fn account(&self) -> Account {
        self.handle.account_of_thread(thread::identity())
    }

    /// The first level from the allocator's heap upwards that is over its limit, if a charge of its scopes was forced
    /// over one. One load where none was.
    pub fn over(&self) -> Option<Overdrawn> {
        let (allocator, limit, allocated) = self.handle.over()?;
        Some(Overdrawn {
            allocator,
            limit,
            allocated,
        })
    }

    /// The allocator.
    pub fn allocator_info(&self) -> &AllocatorInfo {
        &self.allocator
    }
}

impl std::fmt::Debug for Heap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Heap({})", self.allocator)
    }
}

/// A level that is over its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overdrawn {
    /// The level.
    pub allocator: AllocatorInfo,
    /// Its limit, or the cap that holds, in bytes.
    pub limit: usize,
    /// What is allocated there and below, in bytes.
    pub allocated: usize,
}
