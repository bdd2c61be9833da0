//! A block of device memory, and how the core's accounting holds it.
//!
//! The core charges and shares *buffers*, which are memory that the CPU reads. So a block of a device is
//! represented by a header on the host, and the buffer of the core views one byte of that header. It is a foreign
//! allocation of the tree, charged as the block's size on the device: the core never learns an address
//! of the device, and nothing can dereference one.
//!
//! # Invariants
//!
//! 1. A header is a leaked box. It is freed by the release of the core's allocation, and so lives as long as any
//!    of the allocation's buffers. Its first byte is written before it is shared, and never again.
//! 2. The header is charged before its block exists. Its drop frees the block, if there is one, before the
//!    core gives the charge back. (D2, D3 of the crate)
//! 3. `uses` has the event of every unfinished work that this crate was told of and that reads or writes the block,
//!    except for those that `hold` waits for: the source of a view has taken them over, and the owner of foreign
//!    memory waits for the work that writes that memory.
//! 4. `written` has the event of the work that wrote the block, if that was not known to have succeeded when the block
//!    was first shared. It stays there, since an event that is done may have failed.
#![expect(
    unsafe_code,
    reason = "headers are found by address, and device memory is given back"
)]

use std::alloc::Layout;
use std::fmt;
use std::mem;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use arrow_memory_core::__private::events::catch;
use arrow_memory_core::__private::push;
use arrow_memory_core::__private::sync::plain::{Mutex, lock};
use arrow_memory_core::{
    AllocError, AllocationReservation, ArrowBuf, BufferAllocator, ForeignAllocation, ReleaseFn,
    TransferError,
};

use crate::device::DeviceAddress;
use crate::event::Event;
use crate::manager::DeviceManager;

/// What a view or foreign memory keeps until its header is dropped.
pub(crate) trait Keep: Send + Sync {
    /// Takes over that `event` uses the memory, or leaves that to the header, which then waits for the event
    /// before it drops this value.
    fn take_over(&self, event: &Event) -> bool;
}

/// Whose a block is.
pub(crate) enum Hold {
    /// The manager's: it gets the block back.
    Own,
    /// That of a value, which is dropped; or leaked if it is not known that all work on the memory is over.
    Kept(Box<dyn Keep>),
}

/// The header of a block on a device.
#[repr(C)] // The byte that the core views is the first one.
pub(crate) struct Block {
    /// What the core's buffer views.
    _byte: u8,
    /// Where the block is, from when it was allocated.
    address: OnceLock<DeviceAddress>,
    layout: Layout,
    manager: Arc<dyn DeviceManager>,
    hold: Hold,
    /// When the work is done that wrote the block, and whether it succeeded.
    written: OnceLock<Event>,
    /// Other work that uses the block.
    uses: Mutex<Vec<Event>>,
}

impl Block {
    /// The header of a block that the manager is still to be asked for.
    pub(crate) fn new(manager: &Arc<dyn DeviceManager>, layout: Layout) -> Self {
        Self::with(manager, OnceLock::new(), layout, Hold::Own)
    }

    /// The header of memory that `keep` owns.
    pub(crate) fn kept(
        manager: &Arc<dyn DeviceManager>,
        at: DeviceAddress,
        layout: Layout,
        keep: Box<dyn Keep>,
    ) -> Self {
        Self::with(manager, OnceLock::from(at), layout, Hold::Kept(keep))
    }

    fn with(
        manager: &Arc<dyn DeviceManager>,
        address: OnceLock<DeviceAddress>,
        layout: Layout,
        hold: Hold,
    ) -> Self {
        Self {
            _byte: 0,
            address,
            layout,
            manager: Arc::clone(manager),
            hold,
            written: OnceLock::new(),
            uses: Mutex::new(Vec::new()),
        }
    }

    /// Says where the block is that the manager allocated for this header.
    pub(crate) fn set_address(&self, at: DeviceAddress) {
        let set = self.address.set(at);
        debug_assert!(set.is_ok(), "a header has one block");
    }

    /// Where the block is; `None` until it is allocated.
    pub(crate) fn address(&self) -> Option<DeviceAddress> {
        self.address.get().copied()
    }

    pub(crate) fn manager(&self) -> &Arc<dyn DeviceManager> {
        &self.manager
    }

    /// The size of the block on the device.
    pub(crate) fn capacity(&self) -> usize {
        self.layout.size()
    }

    /// The event of the work that wrote the block, also if it is done: it may have failed.
    pub(crate) fn written(&self) -> Option<&Event> {
        self.written.get()
    }

    /// Says which work wrote the block; once, before it is shared. The caller sees to it that the memory stays until
    /// that is over: it is a [use](Self::add_use), or what the header keeps waits for it.
    pub(crate) fn set_written(&self, event: Event) {
        let set = self.written.set(event);
        debug_assert!(set.is_ok(), "a block is written before it is shared");
    }

    /// Notes that the work of `event` uses the block, which is not given back before that is over. Does not unwind,
    /// so the caller may note the same event with other blocks after this.
    pub(crate) fn add_use(&self, event: &Event) {
        for part in event.parts().iter().filter(|part| !part.is_done()) {
            match &self.hold {
                Hold::Kept(keep) if keep.take_over(part) => {}
                _ => self.add_own_use(part),
            }
        }
    }

    /// Notes an event that is made of no others in this header, and drops those that are done.
    fn add_own_use(&self, event: &Event) {
        // The lock is free while events are asked and dropped: they are foreign code, and may keep a buffer.
        let before = mem::take(&mut *lock(&self.uses));
        let (over, mut left): (Vec<Event>, Vec<Event>) =
            before.into_iter().partition(Event::is_done);
        left.push(event.clone());
        for event in left {
            push(|| lock(&self.uses), |uses| uses, event);
        }
        catch(|| drop(over));
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(at) = self.address() else { return };
        let after = mem::take(&mut *lock(&self.uses));
        if matches!(self.hold, Hold::Own) {
            // SAFETY: `set_address` got the block from this manager, for this layout, and it is given back
            // here only. By invariant 3 only the work of these events uses it.
            unsafe { self.manager.deallocate(at, self.layout, &after) };
            return;
        }
        // The owner is dropped with this header's fields. By invariant 3 no work but that of these events, and that
        // which the owner waits for, uses its memory. The work is over, also if it failed.
        let mut over = true;
        for event in &after {
            over &= event.outcome_in_drop().is_some();
        }
        if !over {
            // An event panicked or gave up, and its work may still use the memory.
            mem::forget(mem::replace(&mut self.hold, Hold::Own));
        }
    }
}

/// Frees a header, which frees its block.
static RELEASE: ReleaseFn = ReleaseFn::new(|start, _id| {
    // SAFETY: `Held::new` leaked this box, and the core releases an allocation once.
    drop(unsafe { Box::from_raw(start.cast::<Block>().as_ptr()) });
});

/// Who pays for a block.
pub(crate) enum Payer<'a> {
    Allocator(&'a BufferAllocator),
    /// Bytes that are charged already.
    Reservation(&'a mut AllocationReservation),
}

/// A header that the accounting holds: one buffer of the core on it. A clone is one more.
///
/// # Invariants
///
/// 1. `block` is the header whose first byte the buffer views; so it lives as long as this value.
pub(crate) struct Held {
    block: NonNull<Block>,
    ledger: ArrowBuf,
}

// SAFETY: only shared references to the header are made, which is Sync (its parts are).
unsafe impl Send for Held {}
// SAFETY: as for Send.
unsafe impl Sync for Held {}

/// The header is shared between threads, and dropped on any of them.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Block>();
};

impl Held {
    /// Charges `bytes` for a header. If they are refused, the header is dropped.
    #[track_caller]
    pub(crate) fn new(payer: Payer<'_>, block: Block, bytes: usize) -> Result<Self, AllocError> {
        let block = NonNull::from(Box::leak(Box::new(block)));
        // SAFETY: the first byte is initialised, and nothing writes it until the release, which frees it.
        let header = unsafe { ForeignAllocation::with_release(block.cast(), 1, &RELEASE) };
        let header = header.charged_as(bytes);
        let wrapped = match payer {
            Payer::Allocator(allocator) => allocator.wrap_foreign_allocation(header),
            Payer::Reservation(reservation) => reservation.wrap_foreign_allocation(header),
        };
        match wrapped {
            Ok(ledger) => Ok(Self { block, ledger }),
            Err(error) => Err(error.source),
        }
    }

    pub(crate) fn block(&self) -> &Block {
        // SAFETY: by invariant 1 the header lives, and nobody has an exclusive reference before its release.
        unsafe { self.block.as_ref() }
    }

    /// The buffer that stands for the block in the accounting.
    pub(crate) fn ledger(&self) -> &ArrowBuf {
        &self.ledger
    }

    /// The same block on the ledger of `target`.
    #[track_caller]
    pub(crate) fn retain_in(&self, target: &BufferAllocator) -> Result<Self, TransferError> {
        Ok(self.on(self.ledger.retain_in(target)?))
    }

    /// The same block on the ledger of `target`, to which its charge moves; and whether it fits there.
    #[track_caller]
    pub(crate) fn transfer(&self, target: &BufferAllocator) -> Result<(Self, bool), TransferError> {
        let moved = self.ledger.transfer_ownership(target)?;
        Ok((self.on(moved.buffer), moved.allocation_fit))
    }

    /// The same block on the ledger of `target`, to which its charge moves if it fits there.
    #[track_caller]
    pub(crate) fn try_transfer(&self, target: &BufferAllocator) -> Result<Self, TransferError> {
        Ok(self.on(self.ledger.try_transfer_ownership(target)?))
    }

    /// This block on another ledger of the same allocation.
    fn on(&self, ledger: ArrowBuf) -> Self {
        Self {
            block: self.block,
            ledger,
        }
    }
}

impl Clone for Held {
    #[track_caller]
    fn clone(&self) -> Self {
        self.on(self.ledger.clone())
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("address", &self.block().address())
            .field("capacity", &self.block().capacity())
            .finish_non_exhaustive()
    }
}

/// A closure that is called when foreign memory is not used any more.
pub(crate) struct OnRelease<F: FnOnce() + Send> {
    /// The work that writes the memory.
    ready: Event,
    release: Mutex<Option<F>>,
}

impl<F: FnOnce() + Send> OnRelease<F> {
    /// Has `release` called by the drop of this value, which waits for the work of `ready` first.
    pub(crate) fn new(ready: Option<Event>, release: F) -> Self {
        Self {
            ready: ready.unwrap_or(Event::done()),
            release: Mutex::new(Some(release)),
        }
    }
}

impl<F: FnOnce() + Send> Keep for OnRelease<F> {
    fn take_over(&self, _event: &Event) -> bool {
        false
    }
}

impl<F: FnOnce() + Send> Drop for OnRelease<F> {
    fn drop(&mut self) {
        let over = self.ready.outcome_in_drop().is_some();
        // The guard is a temporary of this statement, so the lock is free when the closure runs.
        let release = lock(&self.release).take();
        match release {
            Some(release) if over => release(),
            // The event panicked or gave up, and its work may still write the memory.
            release => mem::forget(release),
        }
    }
}
