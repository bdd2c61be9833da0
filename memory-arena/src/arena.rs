//! [`Arena`]: the handle, and the work that is done outside the lock.
//!
//! A block is *large* if it has more than a quarter of the first chunk's size, its alignment's
//! padding included; that depends on its layout alone, so giving it back needs no search. The parent
//! serves large blocks. The others are cut from chunks under one mutex, which is never
//! held while the parent is called: a thread that needs a chunk asks for it with the lock free, and
//! looks again when it has it.

#![expect(
    unsafe_code,
    reason = "implements AllocationManager and calls the parent's"
)]

use std::alloc::Layout;
use std::fmt;
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_memory_core::__private::sync::current::unscoped;
use arrow_memory_core::__private::{Bytes, HandedOn, ListedGuard, Order, ProcessLock};
use arrow_memory_core::backend;
use arrow_memory_core::{
    ALIGNMENT, AllocationManager, BufferAllocator, ManagerError, ManagerStats,
};

use crate::charged::Charged;
use crate::chunk::Chunk;
use crate::error::ArenaError;
use crate::padded;
use crate::state::State;

/// Region memory: a backend that cuts blocks from chunks of another one.
///
/// A handle: clones share the arena. The chunks go back to the parent with the last handle; if
/// blocks are live then, their chunks are leaked, so that no block ever dangles.
///
/// # Examples
///
/// ```
/// use std::alloc::Layout;
///
/// use arrow_memory_arena::Arena;
/// use arrow_memory_core::AllocationManager;
/// use arrow_memory_system as _;
///
/// let arena = Arena::builder().chunk_size(1 << 20).build()?;
/// let layout = Layout::from_size_align(1000, 64)?;
/// let block = arena.allocate(layout)?;
/// assert!(arena.reset().is_err(), "a block is live");
///
/// // SAFETY: the block is live, of this arena and this layout.
/// unsafe { arena.deallocate(block, layout) };
/// arena.reset()?;
/// assert_eq!(arena.high_water_mark(), 1024);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Arena {
    inner: Arc<Inner>,
}

impl Arena {
    /// Creates an arena over the preferred backend other than arenas, with chunks of 256 KiB to 4 MiB.
    ///
    /// # Panics
    ///
    /// If the program links no other backend.
    pub fn new() -> Self {
        match Self::builder().build() {
            Ok(arena) => arena,
            Err(error) => panic!("{error}"),
        }
    }

    /// Starts to set up an arena.
    pub fn builder() -> ArenaBuilder {
        ArenaBuilder::default()
    }

    /// Checks that no block is live, and gives the spare chunk back to the parent.
    ///
    /// A chunk is reused without this call when its last block is freed; this call adds the proof
    /// that nothing was left behind. The arena keeps the current chunk.
    ///
    /// # Errors
    ///
    /// [`ArenaError::StillLive`] if a block is live, with the number of live blocks and their bytes. Nothing has
    /// changed then.
    pub fn reset(&self) -> Result<(), ArenaError> {
        let empty = {
            let mut state = self.inner.lock();
            state.check_empty()?;
            state.take_empty(true)
        };
        self.inner.give_back(empty);
        Ok(())
    }

    /// The maximum number of bytes that were occupied at once since the arena was made.
    ///
    /// Live blocks occupy bytes, large ones included, and so do freed ones whose room could not be cut again yet.
    pub fn high_water_mark(&self) -> usize {
        self.inner.lock().high_water_mark()
    }

    /// Bytes that the arena has from its parent now: chunks and large blocks.
    pub fn held_bytes(&self) -> usize {
        self.inner.lock().held()
    }

    /// Resets [`peak_bytes`](ManagerStats::peak_bytes) to the bytes that are live now.
    pub fn reset_peak(&self) {
        self.inner.lock().reset_peak();
    }

    /// The manager that chunks and large blocks come from.
    pub fn parent(&self) -> &Arc<dyn AllocationManager> {
        &self.inner.parent
    }
}

// SAFETY:
// 1. A block is cut from a chunk that the parent lent, where no live block is (the invariants of
//    `Chunk` and `State`, under the lock), or is the parent's own; chunks with live blocks are not
//    given back. Cutting aligns it.
// 2. The lock lets any thread take a block back.
// 3. `reallocate` gives the old block back only once it has a new one.
// 4. `deallocate` panics only for a block that is not the arena's.
unsafe impl AllocationManager for Arena {
    fn name(&self) -> &str {
        NAME
    }

    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let inner = &*self.inner;
        if inner.is_large(layout) {
            let block = inner.parent.allocate(at_least_aligned(layout)?)?;
            inner.lock().large_lent(layout.size());
            return Ok(block);
        }
        if let Some(block) = inner.lock().allocate(layout) {
            return Ok(block);
        }
        inner.allocate_from_new_chunk(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        let inner = &*self.inner;
        if inner.is_large(layout) {
            inner.lock().large_returned(layout.size());
            // SAFETY: by the caller's promise the block is live and of this layout, so the parent
            // lent it for the aligned one.
            unsafe { inner.return_large(ptr, layout) };
            return;
        }
        let superfluous = inner.lock().deallocate(ptr, layout);
        inner.give_back([superfluous, None]);
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let inner = &*self.inner;
        if inner.is_large(layout) {
            let block = inner.parent.allocate_zeroed(at_least_aligned(layout)?)?;
            inner.lock().large_lent(layout.size());
            return Ok(block);
        }
        let block = self.allocate(layout)?;
        // SAFETY: the block is valid for writes of `layout.size()` bytes.
        unsafe { block.as_ptr().write_bytes(0, layout.size()) };
        Ok(block)
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        let inner = &*self.inner;
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("the new size does not make a valid layout"))?;
        match (inner.is_large(old), inner.is_large(new)) {
            (true, true) => {
                let aligned = at_least_aligned(old)?;
                // The parent's size must be valid with the parent's alignment, too.
                at_least_aligned(new)?;
                // SAFETY: the caller's promises; the parent lent the block for the aligned layout.
                let moved = unsafe { inner.parent.reallocate(ptr, aligned, new_size) }?;
                inner.lock().large_resized(old.size(), new_size);
                Ok(moved)
            }
            (false, false) if inner.lock().resize(ptr, old.size(), new_size) => Ok(ptr),
            _ => {
                let moved = self.allocate(new)?;
                let common = old.size().min(new_size);
                // SAFETY: the caller's block is valid for reads of `old.size()` bytes and the new
                // one for writes of `new_size`; two live blocks do not overlap.
                unsafe {
                    moved
                        .as_ptr()
                        .copy_from_nonoverlapping(ptr.as_ptr(), common)
                };
                // SAFETY: by the caller's promise the block is live, of layout `old`, and is not
                // used any more.
                unsafe { self.deallocate(ptr, old) };
                Ok(moved)
            }
        }
    }

    /// Gives the empty chunks back to the parent, and asks the parent to do the same.
    fn release_unused(&self) {
        let empty = self.inner.lock().take_empty(false);
        self.inner.give_back(empty);
        self.inner.parent.release_unused();
    }

    /// The numbers are exact unless another thread uses the arena meanwhile. `cached_bytes` is the memory
    /// that the arena holds from its parent beyond the live bytes: empty chunks, freed blocks in chunks that others keep,
    /// padding. `active_bytes` is in chunks with live blocks, and in large blocks.
    fn stats(&self) -> ManagerStats {
        self.inner.lock().stats()
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("parent", &self.inner.parent.name())
            .field("chunk_size", &self.inner.chunk_size)
            .field("max_chunk_size", &self.inner.max_chunk_size)
            .field("held_bytes", &self.held_bytes())
            .field("stats", &self.stats())
            .finish()
    }
}

/// Sets up an [`Arena`].
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct ArenaBuilder {
    parent: Option<Arc<dyn AllocationManager>>,
    chunk_size: Option<usize>,
    max_chunk_size: Option<usize>,
}

impl ArenaBuilder {
    /// The manager that chunks and large blocks come from; by default the preferred backend of the
    /// program other than arenas.
    pub fn parent(mut self, parent: Arc<dyn AllocationManager>) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Takes chunks and large blocks as buffers of `allocator`, which is charged for them: for whole
    /// chunks, as long as the arena holds them. Instead of a [`parent`](Self::parent).
    ///
    /// The arena keeps a handle on the allocator, whose tree must not itself stand on the arena.
    /// Where a large chunk does not fit in a limit, the arena tries one of the smallest size.
    pub fn allocator(mut self, allocator: &BufferAllocator) -> Self {
        self.parent = Some(Arc::new(Charged::new(allocator.clone())));
        self
    }

    /// The bytes of the first chunk, rounded up to a multiple of 64; 256 KiB by default.
    ///
    /// Each further one has twice the bytes of the one before, up to the maximum. Blocks over a
    /// quarter of this come from the parent as they are.
    pub fn chunk_size(mut self, bytes: usize) -> Self {
        self.chunk_size = Some(bytes);
        self
    }

    /// The bytes of the largest chunks; by default 4 MiB, or the first chunk's if that is more.
    pub fn max_chunk_size(mut self, bytes: usize) -> Self {
        self.max_chunk_size = Some(bytes);
        self
    }

    /// Creates the arena, which takes its first chunk when it needs it.
    ///
    /// # Errors
    ///
    /// * [`ArenaError::InvalidChunkSize`] if a chunk has no byte, more than a block can have, or
    ///   more than the maximum.
    /// * [`ArenaError::NoParent`] if none was given and the program links no other backend.
    pub fn build(self) -> Result<Arena, ArenaError> {
        let chunk_size = self.chunk_size.unwrap_or(DEFAULT_CHUNK_SIZE);
        let max_chunk_size = self
            .max_chunk_size
            .unwrap_or(DEFAULT_MAX_CHUNK_SIZE.max(chunk_size));
        let invalid = ArenaError::InvalidChunkSize {
            chunk_size,
            max_chunk_size,
        };
        let largest = isize::MAX as usize - ALIGNMENT;
        if chunk_size == 0 || chunk_size > max_chunk_size || max_chunk_size > largest {
            return Err(invalid);
        }
        let parent = match self.parent {
            Some(parent) => parent,
            None => backend::default_manager_besides(NAME).map_err(ArenaError::NoParent)?,
        };
        Ok(Arena {
            inner: Arc::new(Inner {
                parent,
                chunk_size: padded(chunk_size),
                max_chunk_size: padded(max_chunk_size),
                state: STATES.take(|| ProcessLock::new(Order::Inner, State::default())),
            }),
        })
    }
}

/// The part of an arena that all its handles share.
struct Inner {
    parent: Arc<dyn AllocationManager>,
    /// The first chunk's bytes: a multiple of 64.
    chunk_size: usize,
    /// The largest chunk's bytes: a multiple of 64, at least `chunk_size`.
    max_chunk_size: usize,
    /// The books. Under the lock they are looked at and changed; nothing is allocated or freed, and no
    /// manager is called. The lock is one of the process's, which are never freed, so that a fork can wait
    /// for it.
    state: &'static ProcessLock<State>,
}

impl Inner {
    /// Whether the parent serves a block as it is. It depends on nothing but the layout.
    #[inline]
    fn is_large(&self, layout: Layout) -> bool {
        let padding = layout.align().max(ALIGNMENT) - ALIGNMENT;
        // No overflow: both are below `isize::MAX` and some.
        padded(layout.size()) + padding > self.chunk_size / 4
    }

    #[cold]
    fn allocate_from_new_chunk(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let chunk = self.obtain_chunk()?;
        // Grown and dropped while the lock is free.
        let mut spare = Vec::new();
        let (block, superfluous) = loop {
            let mut state = self.lock();
            match state.make_room(&mut spare) {
                Ok(()) => break state.add(chunk, layout),
                Err(wanted) => {
                    drop(state);
                    spare = unscoped(|| Vec::with_capacity(wanted));
                }
            }
        };
        self.give_back([superfluous, None]);
        // It is only null if `State` is wrong about its fourth invariant.
        block.ok_or_else(|| ManagerError::out_of_memory(layout))
    }

    /// A new chunk of the size that the growth policy wants, or at least of the smallest.
    fn obtain_chunk(&self) -> Result<Chunk, ManagerError> {
        let size = self
            .lock()
            .next_chunk_size(self.chunk_size, self.max_chunk_size);
        let mut result = self.lend_chunk(size);
        if result.is_err() && size > self.chunk_size {
            result = self.lend_chunk(self.chunk_size);
        }
        result.map_err(|error| {
            let message = format!("the arena got no chunk of {}", Bytes(self.chunk_size));
            ManagerError::new(message).with_source(error)
        })
    }

    fn lend_chunk(&self, size: usize) -> Result<Chunk, ManagerError> {
        let start = self.parent.allocate(chunk_layout(size)?)?;
        // SAFETY: the parent lent the block just now, for these many bytes, to this arena alone; it is
        // given back by `give_back` only, which takes the chunk apart.
        Ok(unsafe { Chunk::new(start, size) })
    }

    /// Gives empty chunks back to the parent. The lock must be free.
    fn give_back(&self, chunks: [Option<Chunk>; 2]) {
        for chunk in chunks.into_iter().flatten() {
            debug_assert!(chunk.is_empty());
            // It was valid when the chunk was lent.
            let Ok(layout) = chunk_layout(chunk.size()) else {
                continue;
            };
            // SAFETY: the parent lent the chunk for this layout; no block of it is live, and the
            // `Chunk` ends here.
            unsafe { self.parent.deallocate(chunk.start(), layout) };
        }
    }

    /// Gives a large block back to the parent.
    ///
    /// # Safety
    ///
    /// `ptr` is a live large block with this layout, and it is not used any more.
    unsafe fn return_large(&self, ptr: NonNull<u8>, layout: Layout) {
        // It was valid when the block was lent.
        let Ok(layout) = at_least_aligned(layout) else {
            return;
        };
        // SAFETY: by the caller's promise; the parent lent it for the aligned layout.
        unsafe { self.parent.deallocate(ptr, layout) };
    }

    /// The books.
    #[inline]
    fn lock(&self) -> ListedGuard<State> {
        self.state.lock_listed()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut books = mem::take(&mut *self.lock());
        STATES.leave(self.state);
        self.give_back(books.take_empty(false));
        if books.check_empty().is_err() {
            // Leaked blocks may still be in use, so the parent must not be dropped either.
            mem::forget(Arc::clone(&self.parent));
        }
    }
}

/// The locks of arenas that are gone.
static STATES: HandedOn<State> = HandedOn::new();

/// The name in `ARROW_DEFAULT_MEMORY_POOL` and in reports.
pub(crate) const NAME: &str = "arena";

/// The layout with which a chunk is asked of the parent.
fn chunk_layout(size: usize) -> Result<Layout, ManagerError> {
    Layout::from_size_align(size, ALIGNMENT)
        .map_err(|_| ManagerError::new(format!("chunks of {} cannot be had", Bytes(size))))
}

/// The layout with which a large block is asked of the parent.
fn at_least_aligned(layout: Layout) -> Result<Layout, ManagerError> {
    layout
        .align_to(ALIGNMENT)
        .map_err(|_| ManagerError::out_of_memory(layout))
}

/// The first chunk's bytes.
const DEFAULT_CHUNK_SIZE: usize = 256 * 1024;

/// The largest chunk's bytes.
const DEFAULT_MAX_CHUNK_SIZE: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
