//! A tree as an `Allocator` of `allocator-api2`: [`TreeAllocator`].
#![expect(
    unsafe_code,
    reason = "implements the unsafe trait of an allocator interface, over a manager"
)]

use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allocator_api2::alloc::{AllocError as Refused, Allocator};

use arrow_memory_manager::{AllocationManager, ManagerError};

use crate::allocator::BufferAllocator;
use crate::buffer::charge::{Charge, Request, rounded};
use crate::buffer::errors::{manager_failed, overflow};
use crate::buffer::notify::tell_allocation;
use crate::error::AllocError;
use crate::events::{self, quietly};
use crate::outcome::Purpose;
use crate::size::ALIGNMENT;
use crate::sync::plain::Mutex;
use crate::sync::process::ObjectLocks;

/// A [`BufferAllocator`] as an `Allocator` of `allocator-api2` 0.2, so that collections which take one
/// (hashbrown's, bumpalo's, `allocator_api2::vec::Vec`) are charged in place.
///
/// Each block is charged at its size, rounded up to a multiple of 64, before it is allocated and
/// until it has been freed. A refusal is an `AllocError` of `allocator-api2`, which says nothing; a
/// collection's `try_reserve` returns it, and other methods that grow abort the program. What stood in
/// the way is kept, as [`refusal`](Self::refusal), and is told before a collection can abort: as a
/// `tracing` event of level warn, and on standard error if there is no subscriber. (That may be after a
/// `try_reserve`, too, so it is told once a second at most for each `TreeAllocator` and its clones.) [`AccountedVec`](crate::AccountedVec) is a
/// vector whose own methods return the error. A panic of the listener's `on_allocation` is caught and
/// reported, for the collection cannot undo the step.
///
/// Clones share the refusal. A clone costs two atomic additions, a new one a small allocation.
///
/// ```
/// # use arrow_memory_system as _;
/// use allocator_api2::vec::Vec;
/// use arrow_memory_core::{RootAllocator, TreeAllocator};
///
/// let root = RootAllocator::new(1000);
/// let mut values: Vec<u64, _> = Vec::new_in(TreeAllocator::new(&root));
/// values.try_reserve_exact(100).unwrap();
/// assert_eq!(root.allocated_memory(), 832);
/// assert!(values.try_reserve_exact(200).is_err());
/// let refusal = values.allocator().refusal().expect("that was too much");
/// assert_eq!(
///     refusal.to_string(),
///     "allocator `ROOT` is out of room: 1600 bytes requested (a buffer of 832 bytes was to have \
///      1600), 168 left of its limit of 1000"
/// );
/// drop(values);
/// assert_eq!(root.allocated_memory(), 0);
/// ```
#[derive(Clone)]
#[doc(alias = "stl_allocator")]
pub struct TreeAllocator {
    allocator: BufferAllocator,
    /// What was refused; `None` for collections that say it themselves.
    refusals: Option<Arc<Mutex<Refusals>>>,
}

/// Under one of these locks a refusal is kept, or looked up.
static REFUSALS: ObjectLocks = ObjectLocks::new();

/// What was refused to the collections of an allocator and its clones.
#[derive(Default)]
struct Refusals {
    last: Option<Arc<AllocError>>,
    /// When a refusal was last told.
    told: Option<Instant>,
}

impl TreeAllocator {
    /// Memory of `allocator`'s.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            allocator: allocator.clone(),
            refusals: Some(Arc::default()),
        }
    }

    /// Memory of `allocator`'s, for a collection that returns the refusals itself: they are neither kept nor
    /// told.
    pub(super) fn silent(allocator: &BufferAllocator) -> Self {
        Self {
            allocator: allocator.clone(),
            refusals: None,
        }
    }

    /// The allocator that is charged.
    pub fn allocator(&self) -> &BufferAllocator {
        &self.allocator
    }

    /// Why memory was last refused through this allocator or a clone of it; `None` if it never was.
    /// What a collection's `try_reserve` leaves out. It stays when a later request succeeds.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use std::hash::RandomState;
    ///
    /// use arrow_memory_core::{RootAllocator, TreeAllocator};
    /// use hashbrown::HashMap;
    ///
    /// let root = RootAllocator::new(1000);
    /// let mut map = HashMap::with_hasher_in(RandomState::new(), TreeAllocator::new(&root));
    /// map.try_reserve(1).unwrap();
    /// map.insert("scan", 1);
    /// assert!(map.allocator().refusal().is_none());
    /// assert!(map.try_reserve(1000).is_err());
    /// assert!(map.allocator().refusal().unwrap().is_out_of_memory());
    /// ```
    pub fn refusal(&self) -> Option<AllocError> {
        let last = REFUSALS.with(self.refusals.as_ref()?, |kept| kept.last.clone());
        last.map(Arc::unwrap_or_clone)
    }

    /// Keeps a refusal, and tells it if none was told within a second.
    #[cold]
    fn refused(&self, error: AllocError) -> Refused {
        let Some(refusals) = &self.refusals else {
            return Refused;
        };
        let (error, now) = (Arc::new(error), Instant::now());
        let last = Arc::clone(&error);
        let (due, before) = REFUSALS.with(refusals, |kept| {
            let due = kept.told.is_none_or(|told| now - told >= TOLD_AGAIN);
            if due {
                kept.told = Some(now);
            }
            (due, kept.last.replace(last))
        });
        // Without the lock: an error may carry one of the manager's.
        drop(before);
        if due {
            events::collection_refused(&error);
        }
        Refused
    }

    /// Whether a block of `layout` could be charged now; if not, why.
    ///
    /// # Errors
    ///
    /// As [`BufferAllocator::buffer`].
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// use std::alloc::Layout;
    ///
    /// use arrow_memory_core::{AllocError, RootAllocator, TreeAllocator};
    ///
    /// let root = RootAllocator::new(1000);
    /// let memory = TreeAllocator::new(&root);
    /// assert_eq!(memory.allocator(), &*root);
    /// let refused = memory.check(Layout::new::<[u8; 2000]>()).unwrap_err();
    /// assert!(matches!(refused, AllocError::OutOfMemory { .. }));
    /// assert!(memory.check(Layout::new::<[u8; 1]>()).is_ok());
    /// ```
    pub fn check(&self, layout: Layout) -> Result<(), AllocError> {
        let capacity = block(layout).map_or(usize::MAX, |block| block.size());
        self.check_for(capacity, rounded(layout.size(), capacity))
    }

    /// Whether `bytes` could be charged now, for that request.
    pub(super) fn check_for(&self, bytes: usize, request: impl Request) -> Result<(), AllocError> {
        let charged = Charge::asking_and_retrying(&self.allocator.handle, bytes, request)?;
        drop(charged);
        Ok(())
    }

    fn allocate_by(
        &self,
        layout: Layout,
        allocate: impl FnOnce(&dyn AllocationManager, Layout) -> Result<NonNull<u8>, ManagerError>,
    ) -> Result<NonNull<[u8]>, Refused> {
        if layout.size() == 0 {
            return Ok(NonNull::slice_from_raw_parts(dangling(layout), 0));
        }
        let handle = &self.allocator.handle;
        let size = layout.size();
        let block = block(layout).ok_or_else(|| self.refused(overflow(handle, size)))?;
        let request = rounded(size, block.size());
        let charge = Charge::asking_and_retrying(handle, block.size(), request)
            .map_err(|error| self.refused(error))?;
        let ptr =
            allocate(handle.manager(), block).map_err(|source| self.failed(request, source))?;
        charge.keep();
        self.tell(block.size());
        Ok(NonNull::slice_from_raw_parts(ptr, block.size()))
    }

    #[cold]
    fn failed(&self, request: impl Request, source: ManagerError) -> Refused {
        let (requested, purpose) = request();
        let node = self.allocator.node();
        self.refused(manager_failed(node, requested, purpose, source))
    }

    /// Tells the listener of a block, or of growth. A panic goes no further: the collection does not
    /// know of the block yet, and after growth the one that it knows of is gone.
    fn tell(&self, bytes: usize) {
        let handle = &self.allocator.handle;
        quietly(&handle.info, || tell_allocation(handle, bytes));
    }

    /// Gives `bytes` back that were charged for a block.
    ///
    /// # Safety
    ///
    /// They are charged, and the block has shrunk by them, or is gone.
    unsafe fn give(&self, bytes: usize) {
        let handle = &self.allocator.handle;
        // SAFETY: the caller's promise.
        unsafe { handle.uncharge(bytes) };
        if let Some(listener) = handle.hearing() {
            quietly(&handle.info, || listener.on_release(&handle.info, bytes));
        }
    }

    /// Changes the size of a block, whose alignment stays.
    ///
    /// # Safety
    ///
    /// `ptr` is a block of `old` from here, neither size is zero.
    unsafe fn resize(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, Refused> {
        let handle = &self.allocator.handle;
        let asked = new.size();
        let overflows = || self.refused(overflow(handle, asked));
        let (old, new) = (
            block(old).ok_or_else(overflows)?,
            block(new).ok_or_else(overflows)?,
        );
        let request = || {
            let (from, to) = (old.size(), new.size());
            (asked, Purpose::Growth { from, to })
        };
        let more = new.size().saturating_sub(old.size());
        let charge = Charge::asking_and_retrying(handle, more, request)
            .map_err(|error| self.refused(error))?;
        let moved = if new.size() == old.size() {
            ptr
        } else {
            // SAFETY: a block of this manager's, of this layout by `block`; the new size is not zero,
            // and valid with the same alignment.
            unsafe { handle.manager().reallocate(ptr, old, new.size()) }
                .map_err(|source| self.failed(request, source))?
        };
        charge.keep();
        if more > 0 {
            self.tell(more);
        } else if old.size() > new.size() {
            // SAFETY: they were charged for what the block has no more.
            unsafe { self.give(old.size() - new.size()) };
        }
        Ok(NonNull::slice_from_raw_parts(moved, new.size()))
    }
}

// SAFETY: blocks are the manager's, valid until they are given back; clones share the manager, since
// they share the tree, so blocks may be given back through any of them.
unsafe impl Allocator for TreeAllocator {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, Refused> {
        self.allocate_by(layout, |manager, block| manager.allocate(block))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, Refused> {
        self.allocate_by(layout, |manager, block| manager.allocate_zeroed(block))
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        let Some(block) = block(layout).filter(|_| layout.size() > 0) else {
            return;
        };
        // SAFETY: by the caller's promise a live block; it was asked with this layout by
        // `allocate_by` or `resize`, since layouts that fit one block round up to the same.
        unsafe { self.allocator.handle.manager().deallocate(ptr, block) };
        // SAFETY: these bytes were charged for the block, which is gone.
        unsafe { self.give(block.size()) };
    }

    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, Refused> {
        if old.size() > 0 && same_alignment(old, new) {
            // SAFETY: the caller's promise, and the checks.
            return unsafe { self.resize(ptr, old, new) };
        }
        let moved = self.allocate(new)?;
        // SAFETY: the old block has that many bytes, and the new one at least as many.
        unsafe { moved.cast::<u8>().copy_from_nonoverlapping(ptr, old.size()) };
        // SAFETY: the caller's promise; nobody uses the block any more.
        unsafe { self.deallocate(ptr, old) };
        Ok(moved)
    }

    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, Refused> {
        if new.size() > 0 && same_alignment(old, new) {
            // SAFETY: the caller's promise, and the checks.
            return unsafe { self.resize(ptr, old, new) };
        }
        let moved = self.allocate(new)?;
        // SAFETY: both blocks have as many bytes as the new layout.
        unsafe { moved.cast::<u8>().copy_from_nonoverlapping(ptr, new.size()) };
        // SAFETY: the caller's promise; nobody uses the block any more.
        unsafe { self.deallocate(ptr, old) };
        Ok(moved)
    }
}

impl fmt::Debug for TreeAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeAllocator({})", self.allocator.info())
    }
}

/// Refusals are told this far apart, at least.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// What the manager is asked for: blocks are aligned to 64 bytes, and multiples of it.
fn block(layout: Layout) -> Option<Layout> {
    let size = layout.size().checked_next_multiple_of(ALIGNMENT)?;
    Layout::from_size_align(size, layout.align().max(ALIGNMENT)).ok()
}

fn same_alignment(old: Layout, new: Layout) -> bool {
    old.align().max(ALIGNMENT) == new.align().max(ALIGNMENT)
}

fn dangling(layout: Layout) -> NonNull<u8> {
    let address = std::ptr::without_provenance_mut(layout.align());
    NonNull::new(address).unwrap_or(NonNull::dangling())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use allocator_api2::vec::Vec;

    use super::*;
    use crate::RootAllocator;
    use crate::testing::TrackingManager;

    fn tracked(limit: usize) -> (Arc<TrackingManager>, RootAllocator) {
        let manager = Arc::new(TrackingManager::new());
        let root = RootAllocator::builder()
            .limit(limit)
            .allocation_manager(manager.clone())
            .build()
            .expect("a manager was given");
        (manager, root)
    }

    #[test]
    fn a_vector_is_charged_as_it_grows_shrinks_and_goes() {
        let (_manager, root) = tracked(1 << 20);
        let mut values: Vec<u32, _> = Vec::new_in(TreeAllocator::new(&root));

        values.extend(0..1000);
        assert_eq!(root.allocated_memory(), values.capacity().div_ceil(16) * 64);
        values.truncate(10);
        values.shrink_to_fit();
        assert_eq!((root.allocated_memory(), values[9]), (64, 9));
        values.clear();
        values.shrink_to_fit();
        assert_eq!(root.allocated_memory(), 0);
        values.push(1);
        drop(values);
        root.close().unwrap();
    }

    /// Once, the panic unwound out of `grow`, and the vector gave its old block back, which was gone.
    #[test]
    fn a_listener_that_panics_when_it_hears_of_growth_leaves_the_vector_whole() {
        struct Panics;
        impl crate::AllocationListener for Panics {
            fn on_allocation(&self, _at: &crate::AllocatorInfo, _size: usize) {
                panic!("told to");
            }
        }
        let manager = Arc::new(TrackingManager::new());
        let root = RootAllocator::builder()
            .allocation_manager(manager.clone())
            .listener(Arc::new(Panics))
            .build()
            .unwrap();
        let mut values: Vec<u32, _> = Vec::new_in(TreeAllocator::new(&root));

        values.extend(0..1000);

        assert!(values.iter().copied().eq(0..1000));
        drop(values);
        assert_eq!(root.allocated_memory(), 0);
        manager.assert_clean();
    }

    #[test]
    fn a_hash_map_is_charged_in_place_and_refused_with_an_error() {
        let (_manager, root) = tracked(4096);
        let mut map: hashbrown::HashMap<u64, u64, std::hash::RandomState, TreeAllocator> =
            hashbrown::HashMap::with_hasher_in(
                std::hash::RandomState::new(),
                TreeAllocator::new(&root),
            );

        let mut count = 0;
        while map.try_reserve(1).is_ok() {
            map.insert(count, count);
            count += 1;
        }
        assert!(root.allocated_memory() >= map.allocation_size());
        assert_eq!((map.len() as u64, map[&(count - 1)]), (count, count - 1));
        drop(map);
        root.close().unwrap();
    }

    #[test]
    fn large_alignments_and_nothing_are_served() {
        #[repr(align(256))]
        #[derive(Clone)]
        struct Aligned(#[expect(dead_code, reason = "has a size")] u8);
        let (_manager, root) = tracked(1 << 20);
        let mut aligned = Vec::new_in(TreeAllocator::new(&root));
        aligned.resize(3, Aligned(1));
        assert_eq!(aligned.as_ptr().addr() % 256, 0);
        let mut nothing = Vec::new_in(TreeAllocator::new(&root));
        nothing.resize(3, ());
        drop((aligned, nothing));
        assert_eq!(root.allocated_memory(), 0);
    }
}
