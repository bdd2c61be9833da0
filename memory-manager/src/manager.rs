//! The contract of a backend: [`AllocationManager`] hands out and takes back raw blocks.
#![expect(
    unsafe_code,
    reason = "the trait's contract is about raw memory; its provided bodies copy and clear blocks"
)]

use std::alloc::Layout;
use std::error::Error;
use std::fmt;
use std::ptr::NonNull;

use crate::error::write_sources;
use crate::text::Bytes;

/// A backend: hands out raw blocks of memory and takes them back.
///
/// Arrow Java calls this `AllocationManager.Factory`, Arrow C++ `MemoryPool`. A tree of
/// allocators has one manager and charges each block before it asks for it. Managers count
/// nothing for a tree; [`stats`](Self::stats) returns what the backend itself knows.
///
/// # Safety
///
/// An implementation promises that
///
/// 1. a block that [`allocate`](Self::allocate), [`allocate_zeroed`](Self::allocate_zeroed) or
///    [`reallocate`](Self::reallocate) returned is valid for reads and writes of `layout.size()`
///    bytes, aligned to `layout.align()`, and overlaps no other live block, from any thread,
///    until it is given back;
/// 2. a block may be given back on any thread, at any time the manager lives;
/// 3. a failed call changes nothing: after a failed `reallocate` the old block is as it was;
/// 4. [`deallocate`](Self::deallocate) does not unwind. The other methods may panic, if they
///    leave no block lent.
///
/// ```
/// use std::alloc::{self, Layout};
/// use std::ptr::NonNull;
///
/// use arrow_memory_manager::{AllocationManager, ManagerError};
///
/// /// A backend on the program's global allocator.
/// #[derive(Debug)]
/// struct Global;
///
/// // SAFETY: the global allocator keeps the same promises, and never unwinds.
/// unsafe impl AllocationManager for Global {
///     fn name(&self) -> &str {
///         "global"
///     }
///
///     fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
///         // SAFETY: the size is never 0.
///         let ptr = unsafe { alloc::alloc(layout) };
///         NonNull::new(ptr).ok_or_else(|| ManagerError::out_of_memory(layout))
///     }
///
///     unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
///         // SAFETY: by the caller's promise a block of ours with this layout.
///         unsafe { alloc::dealloc(ptr.as_ptr(), layout) }
///     }
/// }
///
/// let manager = std::sync::Arc::new(Global);
/// let root = arrow_memory_core::RootAllocator::builder()
///     .allocation_manager(manager)
///     .build()?;
/// assert_eq!(root.buffer_zeroed(100)?[99], 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias("Factory", "MemoryPool"))]
pub unsafe trait AllocationManager: Send + Sync + fmt::Debug {
    /// The backend's name as used in `ARROW_DEFAULT_MEMORY_POOL` and in reports.
    #[doc(alias = "backend_name")]
    fn name(&self) -> &str;

    /// Hands out a block of at least `layout.size()` bytes with unspecified contents.
    ///
    /// The size is never 0. The tree asks for alignments from 64 bytes to 2 MiB.
    ///
    /// # Errors
    ///
    /// [`ManagerError`] if the backend has no such block to give.
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError>;

    /// Takes a block back. Does not fail and does not unwind.
    ///
    /// # Safety
    ///
    /// `ptr` is a live block of this manager and `layout` is the one it was asked with, its size
    /// the latest one it was reallocated to. The block is not used any more.
    #[doc(alias = "Free")]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout);

    /// Like [`allocate`](Self::allocate), with every byte zero.
    ///
    /// The provided body clears what `allocate` returns. Backends whose fresh pages are zero
    /// already should not touch them again.
    ///
    /// # Errors
    ///
    /// [`ManagerError`] if the backend has no such block to give.
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let ptr = self.allocate(layout)?;
        // SAFETY: `allocate` returned a block that is valid for writes of `layout.size()` bytes.
        unsafe { ptr.as_ptr().write_bytes(0, layout.size()) };
        Ok(ptr)
    }

    /// Changes the size of a block and keeps the contents that both sizes have in common.
    ///
    /// The alignment stays. The provided body allocates, copies and deallocates; backends should
    /// grow in place or move pages where they can.
    ///
    /// # Errors
    ///
    /// [`ManagerError`] if the backend has no such block to give; the old one is as it was.
    ///
    /// # Safety
    ///
    /// `ptr` and `old` as for [`deallocate`](Self::deallocate). `new_size` is not 0, and with the
    /// alignment of `old` it makes a valid `Layout`. After success the old pointer is dead.
    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("the new size does not make a valid layout"))?;
        let moved = self.allocate(new)?;
        // SAFETY: the caller's block is valid for reads of `old.size()` bytes and the new one for
        // writes of `new_size`; two live blocks of one manager do not overlap.
        unsafe {
            moved
                .as_ptr()
                .copy_from_nonoverlapping(ptr.as_ptr(), old.size().min(new_size));
        }
        // SAFETY: by the caller's promise `ptr` is live, of this manager and of layout `old`; the
        // copy is done and the caller forgets the pointer, so the block is not used any more.
        unsafe { self.deallocate(ptr, old) };
        Ok(moved)
    }

    /// Asks the backend to give cached memory back to the operating system. May take milliseconds.
    #[doc(alias = "ReleaseUnused")]
    fn release_unused(&self) {}

    /// Returns the backend's own statistics, for all its users together; all `None` unless overridden.
    fn stats(&self) -> ManagerStats {
        ManagerStats::default()
    }
}

/// What a backend knows about itself; `None` where it does not know.
///
/// `live_bytes` ≤ `active_bytes` ≤ `resident_bytes` where all are known. All in bytes, but the
/// count of allocations.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let _buffer = root.buffer(4096)?;
/// let stats = root.allocation_manager().stats(); // of all trees on this backend
/// assert!(stats.live_bytes.is_none_or(|live| live >= 4096));
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ManagerStats {
    /// Bytes handed out and not given back.
    pub live_bytes: Option<usize>,
    /// The maximum of `live_bytes` so far.
    pub peak_bytes: Option<usize>,
    /// Bytes handed out in total; growth counts with its difference.
    pub total_bytes: Option<u64>,
    /// The number of blocks handed out in total.
    pub allocations: Option<u64>,
    /// Bytes that were given back and that the manager keeps for reuse.
    pub cached_bytes: Option<usize>,
    /// Bytes in pages that hold live blocks.
    pub active_bytes: Option<usize>,
    /// Bytes in those pages that are neither in a block nor cached: free, but not whole pages.
    pub fragmented_bytes: Option<usize>,
    /// Bytes of physical memory, as the backend counts them.
    pub resident_bytes: Option<usize>,
    /// Bytes of address space that is kept without memory behind it.
    pub retained_bytes: Option<usize>,
}

/// Why a backend had no block to give.
///
/// One pointer wide, so that `Result<NonNull<u8>, ManagerError>` travels in registers.
///
/// ```
/// use std::alloc::Layout;
/// use std::error::Error;
///
/// use arrow_memory_manager::ManagerError;
///
/// let error = ManagerError::out_of_memory(Layout::from_size_align(128, 64)?);
/// assert_eq!(error.to_string(), "no memory for 128 bytes aligned to 64");
/// let error = ManagerError::new("the device is gone").with_source(std::fmt::Error);
/// assert!(error.source().is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ManagerError(Box<Cause>);

/// What a [`ManagerError`] says.
#[derive(Clone, Debug)]
struct Cause {
    message: String,
    source: Option<std::sync::Arc<dyn Error + Send + Sync>>,
    out_of_memory: bool,
}

impl ManagerError {
    /// Creates an error with a message, which is in lower case and has no full stop.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Cause {
            message: message.into(),
            source: None,
            out_of_memory: false,
        }))
    }

    /// Creates the error of a backend that has no memory for `layout`.
    #[cold]
    pub fn out_of_memory(layout: Layout) -> Self {
        let (size, align) = (Bytes(layout.size()), layout.align());
        let mut error = Self::new(format!("no memory for {size} aligned to {align}"));
        error.0.out_of_memory = true;
        error
    }

    /// Whether this was made by [`out_of_memory`](Self::out_of_memory).
    pub fn is_out_of_memory(&self) -> bool {
        self.0.out_of_memory
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(std::sync::Arc::new(source));
        self
    }
}

crate::__debug_as_display!(struct ManagerError (cause));

impl fmt::Display for ManagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        write_sources(f, self)
    }
}

impl Error for ManagerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
