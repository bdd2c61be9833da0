//! [`TreeAllocator`]: a tree as an `Allocator` of `allocator-api2`.
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

/// A [`BufferAllocator`] as an `Allocator` of `allocator-api2` 0.2, which charges the memory of
/// collections that take one (those of hashbrown and bumpalo, `allocator_api2::vec::Vec`).
///
/// Each block is charged at its size, rounded up to a multiple of 64 bytes, before it is allocated and
/// until it has been freed.
///
/// A refusal is the `AllocError` of `allocator-api2`, which gives no reason. The `try_reserve` of a
/// collection returns it; other methods that grow abort the program. The reason is kept as
/// [`refusal`](Self::refusal). It is also reported before a collection can abort: as a `tracing` event of
/// level warn, or on standard error if there is no subscriber. A `try_reserve` may cause that report too,
/// so there is a maximum of one per second for each `TreeAllocator` and its clones.
/// [`AccountedVec`](crate::AccountedVec) is a vector whose own methods return the error.
///
/// A panic of the listener's `on_allocation` is caught and reported, because the collection cannot undo
/// the allocation.
///
/// Clones share the refusal. A clone costs two atomic additions; a new `TreeAllocator` costs a small heap
/// allocation.
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
    /// The refusals that are kept; `None` for a collection that returns them itself.
    refusals: Option<Arc<Mutex<Refusals>>>,
}

/// One of these locks is held while a refusal is kept or read.
static REFUSALS: ObjectLocks = ObjectLocks::new();

/// The refusals to the collections of an allocator and its clones.
#[derive(Default)]
struct Refusals {
    last: Option<Arc<AllocError>>,
    /// When a refusal was last reported.
    told: Option<Instant>,
}

impl TreeAllocator {
    /// Creates an `Allocator` whose memory is charged to `allocator`. Costs a small heap allocation.
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            allocator: allocator.clone(),
            refusals: Some(Arc::default()),
        }
    }

    /// Creates an `Allocator` for a collection that returns the refusals itself: they are neither kept
    /// nor reported.
    pub(super) fn silent(allocator: &BufferAllocator) -> Self {
        Self {
            allocator: allocator.clone(),
            refusals: None,
        }
    }

    /// Returns the allocator that is charged.
    pub fn allocator(&self) -> &BufferAllocator {
        &self.allocator
    }

    /// Returns the reason of the last refusal through this allocator or a clone of it; `None` if there
    /// was none.
    ///
    /// The `try_reserve` of a collection does not return this reason. It is kept when a later request
    /// succeeds.
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

    /// Keeps a refusal, and reports it if none was reported within `TOLD_AGAIN`.
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
        // Dropped without the lock: the error may own one of the manager's errors, whose drop is foreign
        // code.
        drop(before);
        if due {
            events::collection_refused(&error);
        }
        Refused
    }

    /// Checks whether a block of `layout` could be charged now.
    ///
    /// The listener is asked first, and has one chance to free memory, as for an allocation. Nothing
    /// stays charged.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if a limit between here and the root would be passed.
    /// * [`AllocError::Vetoed`] if the listener refuses the request.
    /// * [`AllocError::Closed`] if the allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if the size, or a sum, is above `isize::MAX`.
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

    /// Checks whether `bytes` could be charged now, for that request.
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

    /// Tells the listener of a new block, or of growth. A panic is caught: the collection does not have
    /// the new block yet, and after growth its old block is freed.
    fn tell(&self, bytes: usize) {
        let handle = &self.allocator.handle;
        quietly(&handle.info, || tell_allocation(handle, bytes));
    }

    /// Gives back `bytes` that were charged for a block.
    ///
    /// # Safety
    ///
    /// The bytes are charged, and the block has shrunk by them or is freed.
    unsafe fn give(&self, bytes: usize) {
        let handle = &self.allocator.handle;
        // SAFETY: the bytes are charged, by the caller's promise.
        unsafe { handle.uncharge(bytes) };
        if let Some(listener) = handle.hearing() {
            quietly(&handle.info, || listener.on_release(&handle.info, bytes));
        }
    }

    /// Changes the size of a block and keeps its alignment.
    ///
    /// # Safety
    ///
    /// `ptr` is a live block that this allocator returned for `old`. `old` and `new` have the same
    /// alignment, and neither size is zero.
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
            // SAFETY: by the caller's promise `ptr` is a live block of the manager, which `block` asked
            // for with this layout; the new size is not zero, and is valid with the same alignment.
            unsafe { handle.manager().reallocate(ptr, old, new.size()) }
                .map_err(|source| self.failed(request, source))?
        };
        charge.keep();
        if more > 0 {
            self.tell(more);
        } else if old.size() > new.size() {
            // SAFETY: these bytes were charged for the block, which has shrunk by them.
            unsafe { self.give(old.size() - new.size()) };
        }
        Ok(NonNull::slice_from_raw_parts(moved, new.size()))
    }
}

// SAFETY: each block is the manager's, and is valid until it is given back. Clones share the tree and so
// its manager: a block may be given back through any of them.
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
        // SAFETY: by the caller's promise this is a live block. `allocate_by` or `resize` asked for it
        // with this layout: all layouts that fit one block round up to the same.
        unsafe { self.allocator.handle.manager().deallocate(ptr, block) };
        // SAFETY: these bytes were charged for the block, which is freed.
        unsafe { self.give(block.size()) };
    }

    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, Refused> {
        if old.size() > 0 && same_alignment(old, new) {
            // SAFETY: by the caller's promise `ptr` is a block of `old`; the sizes are not zero (the new
            // one is not smaller), and the alignments are the same.
            return unsafe { self.resize(ptr, old, new) };
        }
        let moved = self.allocate(new)?;
        // SAFETY: the old block has `old.size()` bytes, and the new one is at least as large. They are
        // distinct blocks.
        unsafe { moved.cast::<u8>().copy_from_nonoverlapping(ptr, old.size()) };
        // SAFETY: by the caller's promise `ptr` is a block of `old`; its contents are copied, and no one
        // uses it any more.
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
            // SAFETY: by the caller's promise `ptr` is a block of `old`; the sizes are not zero (the old
            // one is not smaller), and the alignments are the same.
            return unsafe { self.resize(ptr, old, new) };
        }
        let moved = self.allocate(new)?;
        // SAFETY: both blocks have at least `new.size()` bytes. They are distinct blocks.
        unsafe { moved.cast::<u8>().copy_from_nonoverlapping(ptr, new.size()) };
        // SAFETY: by the caller's promise `ptr` is a block of `old`; its contents are copied, and no one
        // uses it any more.
        unsafe { self.deallocate(ptr, old) };
        Ok(moved)
    }
}

impl fmt::Debug for TreeAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeAllocator({})", self.allocator.info())
    }
}

/// The minimum time between two reports of a refusal.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// The layout that the manager is asked for: both the alignment and the size are multiples of 64 bytes.
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

    /// Once the panic unwound out of `grow`, and the vector gave back its old block, which was already
    /// freed.
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
        struct Aligned(#[expect(dead_code, reason = "gives the type a size")] u8);
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
