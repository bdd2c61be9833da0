//! What is known of the memory at an address: wrappers that we made, and memory that was adopted.
#![expect(
    unsafe_code,
    reason = "views memory that an entry of the registry keeps"
)]

use std::ops::ControlFlow;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arrow_memory_core::__private::ForeignRoom;
use arrow_memory_core::{ArrowBuf, BufferAllocator, ForeignAllocation, ReleaseFn, WeakForeign};

use super::deps::arrow_buffer::Buffer;
use crate::error::MemoryError;
use crate::registry::Registry;

static REGISTRY: Registry<Target> = Registry::new();

/// What an entry of the registry leads to.
///
/// At an address, adopted memory comes first, an entry for each tree that adopted it; then come the
/// wrappers. One that is wider than the first goes in front of it, since it answers for more regions;
/// so does one of the same width on the ledger that is charged, which is what a move looks for.
enum Target {
    /// A buffer of arrow's, `len` bytes long, that holds one of ours.
    Wrapper { owner: Weak<Wrapper>, len: usize },
    /// A buffer of arrow's that a tree holds. Removed by the release of its memory.
    Adopted {
        weak: WeakForeign,
        /// What was adopted; keeps the memory, and drops it with the entry.
        original: Buffer,
    },
}

/// The owner of a `Buffer` that we made of an [`ArrowBuf`].
struct Wrapper {
    held: ArrowBuf,
    /// The place of its entry, or [`NOWHERE`] until that is inserted.
    place: AtomicUsize,
}

/// No entry has this place.
const NOWHERE: usize = usize::MAX;

impl Drop for Wrapper {
    fn drop(&mut self) {
        // Relaxed: whoever drops the last reference comes after the thread that made this, and wrote
        // the place before it gave its own reference up.
        let place = self.place.load(Ordering::Relaxed);
        // The entry is dropped here, with the lock released.
        drop(REGISTRY.remove(self.held.as_ptr().addr(), place));
    }
}

/// Ends an adoption: removes its entry, if it came to that, and so lets go of what was adopted.
static RELEASE: ReleaseFn = ReleaseFn::new(|start, id| {
    // A foreign allocation's identity is its own until it is released.
    let is_it = |target: &Target| match target {
        Target::Adopted { weak, .. } => Some(weak.id()) == id,
        Target::Wrapper { .. } => false,
    };
    drop(REGISTRY.remove_first(start.addr().get(), is_it));
});

/// Where a `Buffer`'s memory starts, and how much of it there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) start: NonNull<u8>,
    /// The whole of it, in bytes.
    pub(super) size: usize,
    /// As much of it as `Buffer`s are known to view, so as is initialised.
    pub(super) seen: usize,
}

impl Region {
    /// `None` for an empty buffer, which holds nothing worth an account.
    #[inline]
    pub(super) fn of(buffer: &Buffer) -> Option<Self> {
        if buffer.is_empty() {
            return None;
        }
        let seen = buffer.ptr_offset() + buffer.len();
        Some(Self {
            start: buffer.data_ptr(),
            size: buffer.capacity().max(seen),
            seen,
        })
    }

    /// As `of`, and what an empty buffer keeps all the same: a slice does.
    pub(super) fn held(buffer: &Buffer) -> Option<Self> {
        Self::of(buffer).or_else(|| {
            (buffer.capacity() > 0).then(|| Self {
                start: buffer.data_ptr(),
                size: buffer.capacity(),
                seen: buffer.ptr_offset(),
            })
        })
    }

    /// As it is to be adopted where another tree adopted it as `original`: through that, since a
    /// buffer that was made then would keep the other's charge, and may show less than there is.
    pub(super) fn on(self, original: &Buffer) -> Self {
        // As much as the region, or it would not have been found.
        let size = original.capacity();
        Self { size, ..self }
    }

    pub(super) fn address(&self) -> usize {
        self.start.addr().get()
    }
}

/// Memory that a tree is charged for.
pub(super) struct Known {
    /// A view from the region's start of at least what was `seen` of it, on some ledger.
    pub(super) view: ArrowBuf,
    /// Whether the region is found by its adoption, whatever becomes of wrappers.
    pub(super) adopted: bool,
}

/// What a lookup came to.
pub(super) struct Lookup {
    /// The best for the allocator that asked, in its tree if there was one.
    pub(super) known: Option<Known>,
    /// The buffer that was adopted here, for whatever tree: no tree's charge lasts as long as it.
    pub(super) original: Option<Buffer>,
}

/// A strong reference that a lookup made, to be dropped with the lock released.
enum Found {
    Wrapper(Arc<Wrapper>),
    Adopted(ArrowBuf, Buffer),
}

impl Target {
    /// What keeps `region` alive, if this does and is alive. Under the shard's lock, so it neither
    /// drops nor allocates anything.
    fn upgrade(&self, region: Region) -> Option<Found> {
        match self {
            Self::Wrapper { owner, len } if *len >= region.size => {
                owner.upgrade().map(Found::Wrapper)
            }
            Self::Adopted { weak, original } if original.capacity() >= region.size => {
                // SAFETY: the release removes this entry before it returns, and takes the lock
                // that we hold to do so. The adopted buffer keeps `original.capacity()` bytes from
                // `start`, so all of the region; `seen` bytes of it are initialised, since a
                // `Buffer` views them; and nobody writes to memory that a `Buffer` views while
                // another is on it, as the adopted one is.
                let view = unsafe { weak.upgrade(region.start, region.seen) }?;
                Some(Found::Adopted(view, original.clone()))
            }
            _ => None,
        }
    }
}

impl Found {
    fn held(&self) -> &ArrowBuf {
        match self {
            Self::Wrapper(wrapper) => &wrapper.held,
            Self::Adopted(view, _) => view,
        }
    }

    /// How good a find this is for `allocator`.
    fn rank(&self, allocator: Option<&BufferAllocator>) -> Rank {
        let held = self.held();
        match allocator {
            Some(allocator) if held.belongs_to(allocator) => Rank::Own,
            Some(allocator) if !held.shares_root(allocator) => Rank::Elsewhere,
            _ if held.accounted_size() > 0 => Rank::Owner,
            _ => Rank::Tree,
        }
    }

    #[track_caller]
    fn into_known(self) -> Known {
        match self {
            // All of it, so that what is made of this is as wide, and is found as soon.
            Self::Wrapper(wrapper) => Known {
                view: wrapper.held.clone(),
                adopted: false,
            },
            Self::Adopted(view, _) => Known {
                view: view.registered(),
                adopted: true,
            },
        }
    }
}

/// How good a find is, from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// On a ledger of another tree than that of the allocator that asked.
    Elsewhere,
    /// On a ledger of its tree, or of any, if no allocator asked.
    Tree,
    /// As `Tree`, on the ledger that is charged.
    Owner,
    /// On its own ledger.
    Own,
}

/// A lookup under way.
///
/// What it makes of entries is kept until the lock is released, since a drop may be the last one: the
/// best, and in `passed` all others. `passed` does not grow under the lock: a lookup that has no room
/// left in it is broken off, and starts over with more.
struct Search<'a> {
    region: Region,
    allocator: Option<&'a BufferAllocator>,
    /// The first find of this rank ends it.
    enough: Rank,
    /// After so many live entries, any find of the right tree ends it.
    patience: usize,
    best: Option<(Rank, Found)>,
    passed: Vec<Found>,
    original: Option<Buffer>,
    /// How many live entries were looked at.
    looked_at: usize,
    out_of_room: bool,
}

impl<'a> Search<'a> {
    fn new(
        region: Region,
        allocator: Option<&'a BufferAllocator>,
        enough: Rank,
        patience: usize,
    ) -> Self {
        Self {
            region,
            allocator,
            enough,
            patience,
            best: None,
            passed: Vec::new(),
            original: None,
            looked_at: 0,
            out_of_room: false,
        }
    }

    /// Looks at an entry, under the lock.
    fn look(&mut self, target: &Target) -> ControlFlow<()> {
        #[cfg(test)]
        LOOKED_AT.set(LOOKED_AT.get() + 1);
        if self.best.is_some() && self.passed.len() == self.passed.capacity() {
            self.out_of_room = true;
            return ControlFlow::Break(());
        }
        let Some(found) = target.upgrade(self.region) else {
            return ControlFlow::Continue(());
        };
        if let (Found::Adopted(_, original), None) = (&found, &self.original) {
            self.original = Some(original.clone());
        }
        let rank = found.rank(self.allocator);
        let best = match &self.best {
            Some((best, _)) if *best >= rank => {
                self.passed.push(found);
                *best
            }
            _ => {
                let before = self.best.replace((rank, found));
                self.passed.extend(before.map(|(_, before)| before));
                rank
            }
        };
        self.looked_at += 1;
        let will_do = best >= Rank::Tree && self.looked_at >= self.patience;
        if best >= self.enough || will_do {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    #[inline]
    #[track_caller]
    fn run(mut self) -> Lookup {
        let region = self.region;
        loop {
            REGISTRY.visit(region.address(), |target| self.look(target));
            if !self.starts_over() {
                return self.finish();
            }
        }
    }

    /// Whether it has to start over; it has more room then. With the lock released.
    fn starts_over(&mut self) -> bool {
        if !std::mem::take(&mut self.out_of_room) {
            return false;
        }
        self.best = None;
        self.original = None;
        self.looked_at = 0;
        self.passed.clear();
        self.passed.reserve(4 * self.passed.capacity() + ENOUGH);
        true
    }

    /// What was found in the tree of the allocator that asked, with the lock released. If the search was
    /// broken off for want of room, it found nothing; it has more room then, and starts over.
    fn found(&mut self) -> Option<Found> {
        if self.starts_over() {
            return None;
        }
        let (rank, found) = self.best.take()?;
        (rank > Rank::Elsewhere).then_some(found)
    }

    /// What was found in the tree of the allocator that asked, or in any. With the lock released.
    #[track_caller]
    fn finish(self) -> Lookup {
        let known = match self.best {
            None | Some((Rank::Elsewhere, _)) => None,
            Some((_, found)) => Some(found.into_known()),
        };
        Lookup {
            known,
            original: self.original,
        }
    }
}

/// After so many entries, one of the tree's is as good as one of the allocator's own: another ledger
/// for that allocator is found, or made, from any of them.
const ENOUGH: usize = 8;

/// How many entries lookups of this thread looked at.
#[cfg(test)]
pub(super) fn looked_at() -> usize {
    LOOKED_AT.get()
}

#[cfg(test)]
thread_local! {
    static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What is known of `region`. Usually the first entry answers.
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

/// What is known of `region`, on the ledger that is charged for it if any entry is on that. Looks at all
/// of them if it must; but what is wrapped on the ledger that is charged stands in front.
#[track_caller]
pub(super) fn find_owner(region: Region) -> Option<Known> {
    Search::new(region, None, Rank::Owner, usize::MAX)
        .run()
        .known
}

/// What came of an adoption.
pub(super) enum Adoption {
    /// A view of what was seen of the region, which is found by its address now.
    Made(ArrowBuf),
    /// Another thread was first.
    Found(Known),
}

/// Puts a region that nobody knew under `allocator`, where there is `room` for it. `original` is a
/// buffer on it that keeps all of it.
#[inline]
#[track_caller]
pub(super) fn adopt(
    allocator: &BufferAllocator,
    room: &mut ForeignRoom<'_>,
    original: &Buffer,
    region: Region,
) -> Result<Adoption, MemoryError> {
    // Held until it stands in the entry, or until the allocation is gone.
    let original = original.clone();
    // SAFETY: `original` keeps the memory; from the insertion below on the entry has it, which the
    // release removes. The first `seen` bytes are initialised, for a `Buffer` views up to there and
    // those before come from the same producer. Nobody writes what two `Buffer`s are on.
    let foreign = unsafe { ForeignAllocation::with_release(region.start, region.seen, &RELEASE) };
    let view = room.wrap(foreign.charged_as(region.size))?;
    // Only an empty allocation has none, and a region is not empty.
    let Some(weak) = view.downgrade() else {
        let adopted = false;
        return Ok(Adoption::Found(Known { view, adopted }));
    };
    let mut target = Target::Adopted { weak, original };
    // Another thread may have adopted it meanwhile.
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
        // Nothing was found if the search ran out of room. It has more now, and the next turn looks again.
        if let Some(found) = search.as_mut().and_then(Search::found) {
            break found;
        }
    };
    // No entry led to it, so its bytes are the room's again. What they were charged for is dropped after that.
    room.take_back(view);
    drop(target);
    Ok(Adoption::Found(found.into_known()))
}

impl Known {
    /// A buffer of arrow's on all of the view.
    pub(super) fn into_buffer(self) -> Buffer {
        if self.adopted {
            return on_adopted(self.view);
        }
        wrap(self.view)
    }
}

/// A buffer of arrow's on all of `view`: found by its adoption, so that the owner needs no entry.
#[inline]
pub(super) fn on_adopted(view: ArrowBuf) -> Buffer {
    let (start, len) = extent(&view);
    let owner = Arc::new(view);
    // SAFETY: the owner keeps these bytes.
    unsafe { Buffer::from_custom_allocation(start, len, owner) }
}

/// A buffer of arrow's on `held`, which is found by its address from then on.
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
    // Relaxed: whoever drops the owner last comes after the drop of ours, by its count.
    owner.place.store(place, Ordering::Relaxed);
    // SAFETY: the owner keeps these bytes, which are initialised and immutable.
    unsafe { Buffer::from_custom_allocation(start, len, owner) }
}

fn extent(held: &ArrowBuf) -> (NonNull<u8>, usize) {
    (NonNull::from(held.as_slice()).cast(), held.len())
}
