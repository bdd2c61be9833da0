//! Finds the memory that trees are charged for by its address: wrappers that this crate made, and memory that it
//! adopted.
#![expect(
    unsafe_code,
    reason = "views memory that an entry of the registry keeps"
)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_memory_core::__private::ForeignRoom;
use arrow_memory_core::__private::heap::Piece;
use arrow_memory_core::{ArrowBuf, BufferAllocator, ForeignAllocation, ReleaseFn};

use super::deps::arrow_buffer::Buffer;
use super::region::Region;
use crate::error::MemoryError;

mod entry;
mod let_go;
mod search;

pub(super) use entry::{Known, Lookup};
use entry::{NOWHERE, REGISTRY, Target, Wrapper};
pub(super) use let_go::is_let_go;
#[cfg(test)]
pub(super) use search::looked_at;
use search::{ENOUGH, Rank, Search};

/// Ends an adoption: removes its entry, if it was inserted, and drops the adopted buffer with it. Before that, what the
/// program's heap paid for the memory is returned there: another buffer may keep the memory.
static RELEASE: ReleaseFn = ReleaseFn::with_payer(|start, id, payer| {
    // A foreign allocation's identity is its own until it is released.
    let is_it = |target: &Target| match target {
        Target::Adopted { weak, .. } => Some(weak.id()) == id,
        Target::Wrapper { .. } => false,
    };
    let mut entry = REGISTRY.remove_first(start.addr().get(), is_it);
    if let Some(Target::Adopted { moved, .. }) = &mut entry
        && let (Some(moved), Some(payer)) = (moved.take(), payer)
    {
        // SAFETY: the adoption was charged for these bytes; the entry keeps the block until it is dropped below.
        unsafe { payer.return_to_heap(*moved) };
    }
    drop(entry);
});

/// Looks up `region`. Usually the first entry answers.
#[inline]
#[track_caller]
pub(super) fn find(region: Region, allocator: Option<&BufferAllocator>) -> Lookup {
    if REGISTRY.is_vacant(region.address()) {
        return Lookup {
            known: None,
            original: None,
        };
    }
    let enough = match allocator {
        Some(_) => Rank::Own,
        None => Rank::Owner,
    };
    Search::new(region, allocator, enough, ENOUGH).run()
}

/// Looks up `region` on the ledger that the tree of `allocator` charges for it, or on another one of the tree if no
/// entry is on that. This may look at all entries, but a wrapper on the ledger that is charged stands in front.
#[track_caller]
pub(super) fn find_owner(region: Region, allocator: &BufferAllocator) -> Option<Known> {
    Search::new(region, Some(allocator), Rank::Owner, usize::MAX)
        .run()
        .known
}

/// The result of an adoption.
pub(super) enum Adoption {
    /// A view of the `seen` bytes of the region. The registry has an entry for it now.
    Made(ArrowBuf),
    /// Another thread adopted the region first.
    Found(Known),
}

/// A piece that no entry is responsible for yet. What the program's heap paid for it is returned from the room when this
/// is dropped.
struct Unused<'s, 'r> {
    room: &'s mut ForeignRoom<'r>,
    piece: Option<&'s mut Piece>,
    /// A buffer that keeps all of the piece.
    _original: &'s Buffer,
}

impl Drop for Unused<'_, '_> {
    fn drop(&mut self) {
        if let Some(moved) = self.piece.as_mut().and_then(|piece| piece.take()) {
            // SAFETY: the bytes moved when the room was created, and `_original` keeps the block.
            unsafe { self.room.return_to_heap(moved) };
        }
    }
}

/// Returns what the program's heap paid for a piece that was not adopted. `original` is a buffer that keeps all of it.
pub(super) fn return_piece(room: &mut ForeignRoom<'_>, piece: &mut Piece, original: &Buffer) {
    drop(Unused {
        room,
        piece: Some(piece),
        _original: original,
    });
}

/// Adopts a region that was not found, for `allocator` and out of `room`, which was created with `piece`. `original`
/// is a buffer that keeps all of the region.
#[inline]
#[track_caller]
pub(super) fn adopt(
    allocator: &BufferAllocator,
    room: &mut ForeignRoom<'_>,
    original: &Buffer,
    region: Region,
    piece: Option<&mut Piece>,
) -> Result<Adoption, MemoryError> {
    let mut unused = Unused {
        room,
        piece,
        _original: original,
    };
    // The clone keeps the memory until the entry has it, or until the allocation was released.
    let original = original.clone();
    // SAFETY: `original` keeps the memory; from the insertion below on, the entry has it, which the
    // release removes. The first `seen` bytes are initialised: a `Buffer` views up to there, and
    // those before it come from the same producer. No owner writes to memory that two `Buffer`s are on.
    let foreign = unsafe { ForeignAllocation::with_release(region.start, region.seen, &RELEASE) };
    let view = unused.room.wrap(foreign.charged_as(region.size))?;
    // Only an empty allocation has none, and a region is not empty.
    let Some(weak) = view.downgrade() else {
        return Ok(Adoption::Found(Known::of(view, false)));
    };
    // From the insertion on, the release returns them.
    let moved = unused.piece.as_mut().and_then(|piece| piece.take());
    let mut target = Target::Adopted {
        weak,
        original,
        moved: moved.map(Box::new),
    };
    // Another thread may have adopted the region meanwhile; then this one gives way.
    let mut search = None;
    let found = loop {
        let look = |target: &Target| {
            let search = search
                .get_or_insert_with(|| Search::new(region, Some(allocator), Rank::Tree, ENOUGH));
            search.look(target)
        };
        match REGISTRY.insert_unless(region.address(), target, look) {
            Ok(_) => return Ok(Adoption::Made(view)),
            Err(ours) => target = ours,
        }
        // Without a find, the search ran out of room. It has more now, and the next turn looks again.
        if let Some(found) = search.as_mut().and_then(Search::found) {
            break found;
        }
    };
    // No entry leads to the view, so no other thread has it, and its bytes return to the room. The memory that
    // they were charged for is dropped after that.
    unused.room.take_back(view);
    if let Target::Adopted { moved, .. } = &mut target
        && let Some(moved) = moved.take()
    {
        // SAFETY: the bytes moved when the room was created, and the target keeps the block.
        unsafe { unused.room.return_to_heap(*moved) };
    }
    drop(target);
    Ok(Adoption::Found(found.into_known(false)))
}

impl Known {
    /// Memory of which there may be other allocations, too.
    pub(super) fn of(view: ArrowBuf, adopted: bool) -> Self {
        Self {
            view,
            adopted,
            by_one_allocation: false,
        }
    }

    /// Makes a buffer of arrow's on all of the view.
    pub(super) fn into_buffer(self) -> Buffer {
        if self.adopted {
            return on_adopted(self.view);
        }
        wrap(self.view)
    }
}

/// A buffer of arrow's on all of `view`, whose adoption has an entry, so that the buffer needs none.
#[inline]
pub(super) fn on_adopted(view: ArrowBuf) -> Buffer {
    let (start, len) = extent(&view);
    let owner = Arc::new(view);
    // SAFETY: `owner` keeps these bytes, which are initialised and immutable.
    unsafe { Buffer::from_custom_allocation(start, len, owner) }
}

/// A buffer of arrow's on `held`. It gets an entry, by which lookups find it.
pub(super) fn wrap(held: ArrowBuf) -> Buffer {
    let (start, len) = extent(&held);
    if len == 0 {
        return Buffer::default();
    }
    let place = AtomicUsize::new(NOWHERE);
    let owns = held.accounted_size() > 0;
    let owner = Arc::new(Wrapper { held, place });
    let target = Target::Wrapper {
        owner: Arc::downgrade(&owner),
        len,
    };
    let in_front = |first: &Target| match first {
        Target::Wrapper { len: other, .. } => *other < len || (owns && *other == len),
        Target::Adopted { .. } => false,
    };
    let place = REGISTRY.insert(start.addr().get(), target, in_front);
    // Relaxed: the last drop of the owner reads it, and comes after the drop of this thread's reference, by
    // the order of the reference count.
    owner.place.store(place, Ordering::Relaxed);
    // SAFETY: `owner` keeps these bytes, which are initialised and immutable.
    unsafe { Buffer::from_custom_allocation(start, len, owner) }
}

fn extent(held: &ArrowBuf) -> (NonNull<u8>, usize) {
    (NonNull::from(held.as_slice()).cast(), held.len())
}
