//! A manager's block as safe code: [`Block`].
#![expect(
    unsafe_code,
    reason = "calls the manager's unsafe methods, and makes slices of its blocks"
)]

use std::alloc::Layout;
use std::fmt;
use std::ptr::NonNull;
use std::slice;

use crate::manager::{AllocationManager, ManagerError};

/// A block of a manager, initialised, and given back when it is dropped.
///
/// It trusts the manager, whose trait is unsafe to implement for that reason.
///
/// ```
/// use std::alloc::Layout;
///
/// use arrow_memory_manager::testing::{Block, StdManager};
///
/// let manager = StdManager;
/// let mut block = Block::zeroed(&manager, Layout::from_size_align(100, 64)?)?;
/// block.bytes_mut()[99] = 7;
/// block.reallocate(200, 0)?;
/// assert_eq!(block.bytes()[99], 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// Invariants:
//
// 1. `ptr` is a live block of `manager` with `layout`, which is lent to this value alone.
// 2. Its first `initialised` bytes are initialised, and `initialised` is at most its size.
pub struct Block<'a> {
    manager: &'a dyn AllocationManager,
    ptr: NonNull<u8>,
    layout: Layout,
    initialised: usize,
}

impl<'a> Block<'a> {
    /// A block whose bytes are all `value`.
    ///
    /// # Errors
    ///
    /// The manager's error.
    ///
    /// ```
    /// use std::alloc::Layout;
    ///
    /// use arrow_memory_manager::testing::{Block, StdManager};
    ///
    /// let layout = Layout::from_size_align(100, 64)?;
    /// let block = Block::filled(&StdManager, layout, 7)?;
    /// assert_eq!((block.layout(), block.bytes()), (layout, &[7; 100][..]));
    /// assert!(block.address().is_multiple_of(64));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn filled(
        manager: &'a dyn AllocationManager,
        layout: Layout,
        value: u8,
    ) -> Result<Self, ManagerError> {
        let mut block = Self::untouched(manager, layout)?;
        block.fill_rest(value);
        Ok(block)
    }

    /// A block that the manager has cleared.
    ///
    /// # Errors
    ///
    /// The manager's error.
    pub fn zeroed(
        manager: &'a dyn AllocationManager,
        layout: Layout,
    ) -> Result<Self, ManagerError> {
        let ptr = manager.allocate_zeroed(layout)?;
        Ok(Self {
            manager,
            ptr,
            layout,
            initialised: layout.size(),
        })
    }

    /// A block whose memory is not touched: its [`bytes`](Self::bytes) are empty.
    ///
    /// # Errors
    ///
    /// The manager's error.
    pub fn untouched(
        manager: &'a dyn AllocationManager,
        layout: Layout,
    ) -> Result<Self, ManagerError> {
        let ptr = manager.allocate(layout)?;
        Ok(Self {
            manager,
            ptr,
            layout,
            initialised: 0,
        })
    }

    /// Changes the size to `size` bytes (not 0); what it gains is filled with `value`.
    ///
    /// # Errors
    ///
    /// The manager's error; the block is as it was.
    ///
    /// # Panics
    ///
    /// If `size` is 0 or makes no valid layout with the block's alignment.
    pub fn reallocate(&mut self, size: usize, value: u8) -> Result<(), ManagerError> {
        self.resize(size)?;
        self.fill_rest(value);
        Ok(())
    }

    /// Like [`reallocate`](Self::reallocate), without touching what it gains.
    ///
    /// # Errors
    ///
    /// The manager's error; the block is as it was.
    ///
    /// # Panics
    ///
    /// If `size` is 0 or makes no valid layout with the block's alignment.
    pub fn resize(&mut self, size: usize) -> Result<(), ManagerError> {
        assert_ne!(size, 0, "a block has at least one byte");
        let layout = Layout::from_size_align(size, self.layout.align())
            .expect("the size makes a valid layout");
        // SAFETY: by invariant 1 `ptr` is a live block of this manager with this layout, and
        // nobody else uses it; `size` is not 0 and makes a valid layout, as was just checked.
        self.ptr = unsafe { self.manager.reallocate(self.ptr, self.layout, size)? };
        self.layout = layout;
        self.initialised = self.initialised.min(size);
        Ok(())
    }

    /// The initialised bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: by invariants 1 and 2 that many bytes are readable, writable, initialised and
        // ours alone; the result borrows `self`.
        unsafe { slice::from_raw_parts_mut(self.ptr.as_ptr(), self.initialised) }
    }

    /// The initialised bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: by invariants 1 and 2 that many bytes are readable and initialised; the result borrows `self`.
        unsafe { slice::from_raw_parts(self.ptr.as_ptr(), self.initialised) }
    }

    /// The address of the first byte.
    pub fn address(&self) -> usize {
        self.ptr.as_ptr() as usize
    }

    /// Size and alignment that the manager was asked for last.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    fn fill_rest(&mut self, value: u8) {
        let rest = self.layout.size() - self.initialised;
        // SAFETY: by invariant 2 `initialised` is at most the size of the block.
        let start = unsafe { self.ptr.as_ptr().add(self.initialised) };
        // SAFETY: by invariant 1 the block is writable to its end, which is `rest` bytes away.
        unsafe { start.write_bytes(value, rest) };
        self.initialised = self.layout.size();
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        // SAFETY: by invariant 1 `ptr` is a live block of this manager with this layout, and
        // nobody can use it after this value.
        unsafe { self.manager.deallocate(self.ptr, self.layout) };
    }
}

impl fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("address", &self.ptr)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

// SAFETY: the block is lent to this value alone (invariant 1), may be used and given back on any
// thread by the manager's promises 1 and 2, and the manager is `Sync`.
unsafe impl Send for Block<'_> {}

// SAFETY: a shared `Block` only reads its bytes and plain fields.
unsafe impl Sync for Block<'_> {}
