//! What is known of the memory at an address: wrappers that we made, and memory that was adopted.
#![expect(
    unsafe_code,
    reason = "views memory that an entry of the registry keeps"
)]

use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use arrow_memory_core::{
    ArrowBuf, BufferAllocator, ForeignAllocation, ForeignId, ForeignRoom, ForeignWatch,
    SharedRelease,
};

use super::deps::arrow_buffer::Buffer;
use crate::error::MemoryError;
use crate::registry::{Key, Registry};

static REGISTRY: Registry<Target> = Registry::new();

/// What an entry of the registry leads to.
enum Target {
    /// A buffer of arrow's, `len` bytes long, that holds one of ours.
    Wrapper { owner: Weak<Wrapper>, len: usize },
    /// A buffer of arrow's that a tree holds. Removed by the release of its memory.
    Adopted {
        watch: ForeignWatch,
        /// What was adopted; keeps the memory, and drops it with the entry.
        original: Buffer,
    },
}

/// The owner of a `Buffer` that we made of an [`ArrowBuf`].
struct Wrapper {
    held: ArrowBuf,
}

impl Wrapper {
    /// Told apart by where it is, which it leaves after its entry is gone.
    fn key(&self) -> Key {
        Key {
            address: self.held.as_ptr().addr(),
            id: std::ptr::from_ref(self).addr(),
        }
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        // The entry is dropped here, with the lock released.
        drop(REGISTRY.remove(self.key()));
    }
}

/// Ends an adoption: removes its entry, if it came to that, and so lets go of what was adopted.
static RELEASE: SharedRelease = SharedRelease::new(|start, id| {
    drop(id.and_then(|id| REGISTRY.remove(adoption(start, id))));
});

/// The key of adopted memory: a foreign allocation's identity is its own until it is released.
fn adoption(start: NonNull<u8>, id: ForeignId) -> Key {
    Key {
        address: start.addr().get(),
        id: id.get(),
    }
}

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
    /// A view of what was `seen` of the region, on some ledger.
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
    /// What keeps `region` alive, if this does and is alive. Drops nothing.
    fn upgrade(&self, region: Region) -> Option<Found> {
        match self {
            Self::Wrapper { owner, len } if *len >= region.size => {
                owner.upgrade().map(Found::Wrapper)
            }
            Self::Adopted { watch, original } if original.capacity() >= region.size => {
                // SAFETY: the release removes this entry before it returns, and takes the lock
                // that we hold to do so. The adopted buffer keeps `original.capacity()` bytes from
                // `start`, so all of the region; `seen` bytes of it are initialised, since a
                // `Buffer` views them; and nobody writes to memory that a `Buffer` views while
                // another is on it, as the adopted one is.
                let view = unsafe { watch.upgrade(region.start, region.seen) }?;
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

    /// How good a find this is for `allocator`: its own ledger, the owner, another of its tree.
    fn rank(&self, allocator: Option<&BufferAllocator>) -> u8 {
        let held = self.held();
        match allocator {
            Some(allocator) if held.belongs_to(allocator) => 4,
            Some(allocator) if !held.shares_root(allocator) => 0,
            _ if held.accounted_size() > 0 => 3,
            _ => 2,
        }
    }

    fn into_known(self, region: Region) -> Known {
        match self {
            Self::Wrapper(wrapper) => Known {
                view: match region.seen {
                    // A slice of nothing would let go of the allocation.
                    0 => wrapper.held.clone(),
                    seen => wrapper.held.slice(..seen),
                },
                adopted: false,
            },
            Self::Adopted(view, _) => Known {
                view,
                adopted: true,
            },
        }
    }
}

/// What is known of `region`.
pub(super) fn find(region: Region, allocator: Option<&BufferAllocator>) -> Lookup {
    let mut all = Vec::new();
    REGISTRY.visit(region.address(), |target| {
        all.extend(target.upgrade(region));
    });
    if all.is_empty() {
        return Lookup {
            known: None,
            original: None,
        };
    }
    let original = all.iter().find_map(|found| match found {
        Found::Adopted(_, original) => Some(original.clone()),
        Found::Wrapper(_) => None,
    });
    Lookup {
        known: best(all, region, allocator),
        original,
    }
}

fn best(all: Vec<Found>, region: Region, allocator: Option<&BufferAllocator>) -> Option<Known> {
    let best = all
        .into_iter()
        .max_by_key(|found| found.rank(allocator))
        .filter(|found| found.rank(allocator) > 0)?;
    Some(best.into_known(region))
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
    let foreign = unsafe { ForeignAllocation::shared(region.start, region.seen, &RELEASE) };
    let view = room.wrap(foreign.charged_as(region.size))?;
    // Only an empty allocation has none, and a region is not empty.
    let Some(watch) = view.watch() else {
        let adopted = false;
        return Ok(Adoption::Found(Known { view, adopted }));
    };
    let key = adoption(region.start, watch.id());
    let target = Target::Adopted { watch, original };
    // Another thread may have adopted it meanwhile.
    let mut all = Vec::new();
    let inserted = REGISTRY.insert_unless(key, target, |target| {
        let found = target.upgrade(region);
        let fits = matches!(&found, Some(found) if found.held().shares_root(allocator));
        all.extend(found);
        fits
    });
    let Err(ours) = inserted else {
        return Ok(Adoption::Made(view));
    };
    // Our charge goes first, then what it was for.
    drop(view);
    drop(ours);
    match best(all, region, Some(allocator)) {
        Some(known) => Ok(Adoption::Found(known)),
        // What made us give way is among them; this is for the type.
        None => Err(MemoryError::Value("adopted memory was not found".into())),
    }
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
    let owner = Arc::new(Wrapper { held });
    let target = Target::Wrapper {
        owner: Arc::downgrade(&owner),
        len,
    };
    REGISTRY.insert(owner.key(), target);
    // SAFETY: the owner keeps these bytes, which are initialised and immutable.
    unsafe { Buffer::from_custom_allocation(start, len, owner) }
}

fn extent(held: &ArrowBuf) -> (NonNull<u8>, usize) {
    (NonNull::from(held.as_slice()).cast(), held.len())
}
