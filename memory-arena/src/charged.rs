//! A parent whose blocks are buffers of an allocator: [`Charged`].
//!
//! The allocator is charged for an arena's chunks at their full size, from before they are made until after they
//! are freed, and the chunks count against its limits. The blocks in them are not charged.

#![expect(unsafe_code, reason = "implements AllocationManager")]

use std::alloc::Layout;
use std::fmt;
use std::mem;
use std::ptr::NonNull;

use arrow_memory_core::__private::{
    Bytes, Entry, HandedOn, ListedGuard, Order, ProcessLock, Room, Table,
};
use arrow_memory_core::{
    ALIGNMENT, AllocationManager, ArrowBufMut, BufferAllocator, ManagerError, ManagerStats,
};

type Lent = Table<ArrowBufMut>;

/// The locks of parents that are gone.
static LENT: HandedOn<Lent> = HandedOn::new();

/// Lends the memory of buffers that it holds.
pub(crate) struct Charged {
    allocator: BufferAllocator,
    /// The buffers by the address of their memory, which is never touched through them. Under the lock one
    /// is linked or unlinked, or their sizes are summed; nothing is allocated or freed, and no buffer is made
    /// or dropped. Like an arena's lock, it is one of the process's locks.
    lent: &'static ProcessLock<Lent>,
}

impl Charged {
    pub(crate) fn new(allocator: BufferAllocator) -> Self {
        Self {
            allocator,
            lent: LENT.take(|| ProcessLock::new(Order::Inner, Lent::default())),
        }
    }

    /// Under the lock nothing panics, and no buffer is dropped.
    fn lock(&self) -> ListedGuard<Lent> {
        self.lent.lock_listed()
    }
}

// SAFETY: a block is the memory of a buffer of its own, of at least its size and its alignment,
// which stays in `lent` until the block is given back, forever if it never is; any thread may drop
// a buffer, and dropping one does not panic.
unsafe impl AllocationManager for Charged {
    fn name(&self) -> &str {
        "allocator"
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let buffer = self
            .allocator
            .buffer_aligned(layout.size().max(1), layout.align().max(ALIGNMENT));
        let mut buffer = buffer.map_err(|error| {
            let (size, name) = (Bytes(layout.size()), self.allocator.info());
            ManagerError::new(format!("allocator `{name}` gave no {size}")).with_source(error)
        })?;
        let memory = buffer.spare_capacity_mut();
        debug_assert!(memory.len() >= layout.size());
        let start = NonNull::from(memory).cast::<u8>();
        let entry = Entry::new(start.addr().get(), buffer);
        let mut room = Room::default();
        loop {
            room.prepare();
            let mut lent = self.lock();
            if room.is_in(&mut lent) {
                lent.insert(entry);
                return Ok(start);
            }
        }
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, _layout: Layout) {
        let buffer = self.lock().remove(ptr.addr().get());
        debug_assert!(buffer.is_some(), "{ptr:p} is no block of this manager");
        drop(buffer);
    }

    fn release_unused(&self) {
        self.allocator.release_unused();
    }

    fn stats(&self) -> ManagerStats {
        let mut stats = ManagerStats::default();
        let capacities = (self.lock().iter())
            .map(|entry| entry.value.capacity())
            .sum();
        stats.live_bytes = Some(capacities);
        stats
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        let never_given_back = mem::take(&mut *self.lock());
        LENT.leave(self.lent);
        if !never_given_back.is_empty() {
            // Such blocks stay valid forever.
            mem::forget(never_given_back);
        }
    }
}

impl fmt::Debug for Charged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charged")
            .field("allocator", &self.allocator.name())
            .finish()
    }
}
