//! What the registry has for an address.
#![expect(
    unsafe_code,
    reason = "views memory that an entry of the registry keeps"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arrow_memory_core::__private::heap::Moved;
use arrow_memory_core::{ArrowBuf, WeakForeign};

use super::super::deps::arrow_buffer::Buffer;
use super::super::region::Region;
use crate::registry::Registry;

pub(super) static REGISTRY: Registry<Target> = Registry::new();

/// The target of an entry of the registry.
///
/// The chain of an address begins with adopted memory: one entry for each tree that adopted it. The wrappers
/// follow. A wrapper that is wider than the first one is inserted in front of it, since it answers for more
/// regions. So is a wrapper of the same width on the ledger that is charged, since a move looks for that.
pub(super) enum Target {
    /// A buffer of arrow's, `len` bytes long, whose owner is an [`ArrowBuf`].
    Wrapper { owner: Weak<Wrapper>, len: usize },
    /// A buffer of arrow's whose memory a tree is charged for. The release of the memory removes the entry.
    Adopted {
        weak: WeakForeign,
        /// The buffer that was adopted. It keeps the memory until the entry is dropped.
        original: Buffer,
        /// The part of a block that the program's heap paid for. The release returns it.
        moved: Option<Box<Moved>>,
    },
}

/// The owner of a `Buffer` that this crate made of an [`ArrowBuf`].
pub(super) struct Wrapper {
    pub(super) held: ArrowBuf,
    /// The place of its entry, or [`NOWHERE`] until that is inserted.
    pub(super) place: AtomicUsize,
}

/// No entry has this place.
pub(super) const NOWHERE: usize = usize::MAX;

impl Drop for Wrapper {
    fn drop(&mut self) {
        // Relaxed: the thread that made this wrote the place before it dropped its own reference, and this
        // is the last drop, so the reference count orders the two.
        let place = self.place.load(Ordering::Relaxed);
        // `remove` has released its lock, so the entry is dropped with no lock held.
        drop(REGISTRY.remove(self.held.as_ptr().addr(), place));
    }
}

/// A strong reference that a lookup made. It is dropped after the lock was released.
pub(super) enum Found {
    Wrapper(Arc<Wrapper>),
    Adopted(ArrowBuf),
}

impl Target {
    /// A strong reference to what keeps `region` alive, if this entry's memory does and is alive. Runs under
    /// the shard's lock, so it neither drops nor allocates anything.
    pub(super) fn upgrade(&self, region: Region) -> Option<Found> {
        match self {
            Self::Wrapper { owner, len } if *len >= region.size => {
                owner.upgrade().map(Found::Wrapper)
            }
            Self::Adopted { weak, original, .. } if original.capacity() >= region.size => {
                // SAFETY: the release removes this entry before it returns, and needs the lock for it,
                // which this thread holds. The adopted buffer keeps `original.capacity()` bytes from
                // `start`, so all of the region; `seen` bytes of it are initialised, since a
                // `Buffer` views them; and no owner writes to memory that a
                // `Buffer` views while another `Buffer` is on it, as the adopted one is.
                let view = unsafe { weak.upgrade(region.start, region.seen) }?;
                Some(Found::Adopted(view))
            }
            _ => None,
        }
    }

    /// Whether its memory is too small for `region`.
    pub(super) fn is_narrower(&self, region: Region) -> bool {
        let size = match self {
            Self::Wrapper { len, .. } => *len,
            Self::Adopted { original, .. } => original.capacity(),
        };
        size < region.size
    }
}

/// Memory that a tree is charged for.
pub(in super::super) struct Known {
    /// A view of at least the first `seen` bytes of the region, on some ledger.
    pub(in super::super) view: ArrowBuf,
    /// Whether the registry has an entry of its adoption, so that the view needs none.
    pub(in super::super) adopted: bool,
    /// Whether a lookup saw all that is known of the memory, and all of it is of one allocation.
    pub(in super::super) by_one_allocation: bool,
}

/// The result of a lookup.
pub(in super::super) struct Lookup {
    /// The best find for the allocator that asked, in its tree if an allocator asked.
    pub(in super::super) known: Option<Known>,
    /// The buffer that some tree adopted, if no allocator asked, or another tree than that of the allocator which asked. It
    /// keeps the memory, but no tree's charge.
    pub(in super::super) original: Option<Buffer>,
}
