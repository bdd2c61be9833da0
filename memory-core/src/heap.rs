//! The program's own heap in a tree: what a global allocator that attributes blocks is built on.
//!
//! See `accounting::heap` for how it works. All of it is for `arrow-memory-global` and for the crates that adopt
//! memory; programs use scopes.

use std::ptr::NonNull;

use crate::accounting::heap::HeapHandle;
pub use crate::accounting::heap::{
    Account, LEDGER, Taken, attributed, current, is_installed, replace,
};
use crate::allocator::BufferAllocator;
use crate::error::AllocError;
use crate::outcome::{AllocatorInfo, Purpose};
use crate::sync::current as thread;
pub use crate::sync::current::unscoped;
use crate::sync::{Ordering, plain};
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

/// What a global allocator knows of a block that it has attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The id of the account that pays, or [`LEDGER`].
    pub id: u32,
    /// The first byte of the block.
    pub start: NonNull<u8>,
    /// Its size in bytes, which is what is charged for it.
    pub size: usize,
}

/// The labels of a global allocator's blocks. Its functions take no lock and allocate nothing.
pub trait Labels: Sync {
    /// The label of the live block that `at` points into, if it was attributed.
    fn find(&self, at: NonNull<u8>) -> Option<Label>;

    /// Changes the id of the block that starts at `start` from `from` to `to`; `false`: it had another one.
    fn relabel(&self, start: NonNull<u8>, from: u32, to: u32) -> bool;
}

static LABELS: plain::AtomicPtr<&'static dyn Labels> = plain::AtomicPtr::new(std::ptr::null_mut());

/// Makes the labels of the program's global allocator known. The first ones stay.
pub fn set_labels(labels: &'static dyn Labels) {
    let made = unscoped(|| Box::leak(Box::new(labels)));
    // Release: partner of the Acquire in `labels`. A second one is a program's mistake, and is leaked.
    let _ = LABELS.compare_exchange(
        std::ptr::null_mut(),
        made,
        Ordering::Release,
        Ordering::Relaxed,
    );
}

/// The labels of the program's global allocator, if it attributes blocks.
#[expect(
    unsafe_code,
    reason = "kept as a pointer, so that it is read without a lock"
)]
pub fn labels() -> Option<&'static dyn Labels> {
    // Acquire: partner of the Release in `set_labels`.
    let labels = LABELS.load(Ordering::Acquire);
    // SAFETY: null, or leaked by `set_labels`.
    unsafe { labels.as_ref() }.copied()
}
