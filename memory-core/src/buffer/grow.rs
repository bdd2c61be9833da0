//! Changing the capacity of a writable buffer.
#![expect(unsafe_code, reason = "moves bytes to a block that has room for them")]

use std::alloc::Layout;
use std::panic::Location;

use super::address::at;
use super::arrow_buf_mut::ArrowBufMut;
use super::block::{Contents, allocate_block};
use super::charge::Charge;
use super::errors::{manager_failed, overflow};
use super::notify::{count_allocation, count_growth, tell_allocation};
use crate::accounting::Handle;
use crate::debug::Operation;
use crate::error::AllocError;
use crate::events;
use crate::outcome::Purpose;
use crate::probes;
use crate::rounding;
use crate::size::{ALIGNMENT, checked_round_up, checked_sum};

impl ArrowBufMut {
    /// Sets the length to `len`, filling what is new with `value`.
    ///
    /// # Errors
    ///
    /// The errors of [`try_reserve`](Self::try_reserve); the buffer is as it was.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer(0)?;
    /// buffer.resize(100, 7)?;
    /// assert_eq!((buffer[99], root.allocated_memory()), (7, 128));
    /// buffer.resize(1, 0)?; // the capacity stays
    /// assert_eq!((buffer.len(), buffer.capacity()), (1, 128));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[doc(alias = "Resize")]
    #[track_caller]
    pub fn resize(&mut self, len: usize, value: u8) -> Result<(), AllocError> {
        if let Some(more) = len.checked_sub(self.len) {
            if more > self.capacity - self.len {
                self.grow(more, len)?;
            }
            for byte in &mut self.spare_capacity_mut()[..more] {
                byte.write(value);
            }
        }
        self.len = len;
        Ok(())
    }

    /// Makes room for `additional` bytes beyond the length.
    ///
    /// The buffer grows to at least twice its capacity, so that appending n bytes costs O(n). If twice does
    /// not fit, it grows to just what is asked. Only the difference is charged. The backend resizes the
    /// block in place, or moves its pages, where it can.
    ///
    /// # Errors
    ///
    /// The errors of [`BufferAllocator::buffer`](crate::BufferAllocator::buffer); the buffer is as it was.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer_zeroed(640)?;
    /// root.set_limit(1000);
    /// buffer.try_reserve(64)?; // twice as much does not fit
    /// assert_eq!((buffer.capacity(), root.allocated_memory()), (704, 704));
    /// assert!(buffer.try_reserve(1000).is_err());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline]
    #[track_caller]
    #[doc(alias("Reserve", "reallocIfNeeded"))]
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        if additional <= self.capacity - self.len {
            return Ok(());
        }
        self.grow(additional, additional)
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    ///
    /// The errors of [`try_reserve`](Self::try_reserve); the buffer is as it was.
    #[inline]
    #[track_caller]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), AllocError> {
        self.try_reserve(bytes.len())?;
        let len = self.len; // read once: as far as the compiler knows, the copy may change it
        // SAFETY: `len <= capacity`, so that is within the memory.
        let end = unsafe { at(self.ptr, len) };
        // SAFETY: room was made for them; they are not in our memory, which nobody else views.
        unsafe {
            end.as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        self.len = len + bytes.len();
        Ok(())
    }

    /// Frees what lies beyond the length, rounded up to a multiple of 64. At length 0 that is
    /// everything. A handle that shares its allocation after a split keeps all its memory.
    ///
    /// # Errors
    ///
    /// [`AllocError::Manager`] if the backend cannot; the buffer is as it was.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer_zeroed(4096)?;
    /// buffer.truncate(100);
    /// buffer.shrink_to_fit()?;
    /// assert_eq!((buffer.capacity(), root.allocated_memory()), (128, 128));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn shrink_to_fit(&mut self) -> Result<(), AllocError> {
        if self.len == 0 {
            if self.capacity > 0 {
                *self = self.new_empty();
            }
            return Ok(());
        }
        let Some(block_size) = self.whole_block() else {
            return Ok(());
        };
        let fitting = checked_round_up(self.len, ALIGNMENT).unwrap_or(block_size);
        if fitting >= block_size {
            return Ok(());
        }
        let handle = self.ledger.allocator();
        let shrinking = Resizing {
            asked: self.len,
            from: block_size,
            to: fitting,
        };
        self.reallocate(&handle, block_size, shrinking)?;
        let given = block_size - fitting;
        self.ledger.samples_resized(block_size, fitting);
        self.note(Operation::Resized, Location::caller());
        // SAFETY: the block is smaller by as many bytes, which were charged for it.
        unsafe { handle.uncharge(given) };
        if let Some(listener) = handle.hearing() {
            events::inside(|| listener.on_release(&handle.info, given));
        }
        Ok(())
    }

    /// The size of the block, if this handle is the only one on it and starts where it starts.
    fn whole_block(&self) -> Option<usize> {
        let slot = self.ledger.slot()?;
        if !self.ledger.is_sole() {
            return None;
        }
        // SAFETY: nobody else can reach the allocation, so nobody changes it.
        let start = unsafe { slot.home().block() }.ptr;
        (start == self.ptr).then(|| slot.size())
    }

    /// Grows for `additional` bytes. An error says that the caller asked for `asked`.
    #[cold]
    #[track_caller]
    fn grow(&mut self, additional: usize, asked: usize) -> Result<(), AllocError> {
        let Some(size) = self.grow_if_twice_fits(additional, asked)? else {
            return Ok(());
        };
        let handle = self.ledger.allocator();
        let block_size = self.whole_block();
        self.grow_to(
            &handle,
            block_size,
            size,
            asked,
            |handle, bytes, resizing| {
                Charge::asking_and_retrying(handle, bytes, || resizing.request())
            },
        )
    }

    /// Grows to twice the capacity, if that is enough and fits; otherwise the answer is the capacity that is
    /// needed.
    #[track_caller]
    fn grow_if_twice_fits(
        &mut self,
        additional: usize,
        asked: usize,
    ) -> Result<Option<usize>, AllocError> {
        let handle = self.ledger.allocator();
        let Some(needed) = checked_sum(self.len, additional) else {
            return Err(overflow(&handle, asked));
        };
        let block_size = self.whole_block();
        if let Some(block_size) = block_size
            && block_size >= needed
        {
            // Another handle had these bytes after a split, and was dropped.
            self.capacity = block_size;
            return Ok(None);
        }
        let doubled = self.capacity.saturating_mul(2);
        if doubled > needed
            && let Some(size) = capacity_for(&handle, doubled)
            && self
                .grow_to(
                    &handle,
                    block_size,
                    size,
                    asked,
                    |handle, bytes, resizing| Charge::asking(handle, bytes, || resizing.request()),
                )
                .is_ok()
        {
            return Ok(None);
        }
        let size = capacity_for(&handle, needed).ok_or_else(|| overflow(&handle, asked))?;
        Ok(Some(size))
    }

    /// What has to be charged so that the buffer can grow by `additional` bytes; `None` if it has room, or
    /// could be given twice its capacity.
    #[track_caller]
    pub(crate) fn needs_to_grow(
        &mut self,
        additional: usize,
    ) -> Result<Option<Growth>, AllocError> {
        if additional <= self.capacity - self.len {
            return Ok(None);
        }
        let Some(size) = self.grow_if_twice_fits(additional, additional)? else {
            return Ok(None);
        };
        let kept = self.whole_block().unwrap_or(0);
        Ok(Some(Growth {
            added: size - kept,
            kept,
            from: self.capacity,
            size,
        }))
    }

    /// Grows as `growth` says. Its bytes are charged to `handle`, which is that of this buffer's allocator;
    /// an error gives them back.
    #[track_caller]
    pub(crate) fn grow_charged(
        &mut self,
        handle: &Handle,
        growth: Growth,
        additional: usize,
        charge: Charge<'_>,
    ) -> Result<(), AllocError> {
        // Another handle on the block may have been dropped meanwhile, and then less is needed.
        let block_size = self.whole_block();
        let (node, size) = (charge.node(), growth.size);
        if let Some(block_size) = block_size.filter(|&block_size| block_size >= size) {
            self.capacity = block_size;
            return Ok(());
        }
        self.grow_to(handle, block_size, size, additional, |_, added, _| {
            debug_assert!(added <= growth.added && node == handle.ptr());
            charge.split_off(handle, added)
        })
    }

    /// Grows to a capacity of `size`: resizes the block if this is its only handle, else moves to a new one.
    #[track_caller]
    fn grow_to<'a>(
        &mut self,
        handle: &'a Handle,
        block_size: Option<usize>,
        size: usize,
        asked: usize,
        charge: impl FnOnce(&'a Handle, usize, Resizing) -> Result<Charge<'a>, AllocError>,
    ) -> Result<(), AllocError> {
        let layout =
            Layout::from_size_align(size, self.alignment()).map_err(|_| overflow(handle, asked))?;
        let added = size - block_size.unwrap_or(0);
        let growing = Resizing {
            asked,
            from: self.capacity,
            to: size,
        };
        let charge = charge(handle, added, growing)?;
        match block_size {
            Some(block_size) => {
                self.reallocate(handle, block_size, growing)?;
                charge.keep();
                count_growth(handle, added);
                self.sample(added);
                self.note(Operation::Resized, Location::caller());
            }
            None => {
                let moved = allocate_block(charge, layout, asked, Contents::Unspecified);
                let mut moved = moved.map_err(|error| growing.explain(*error))?;
                // SAFETY: our `len` bytes are initialised and the new block, which is another,
                // has room for them.
                unsafe {
                    moved
                        .ptr
                        .as_ptr()
                        .copy_from_nonoverlapping(self.ptr.as_ptr(), self.len);
                }
                moved.len = self.len;
                *self = moved;
                self.register(Operation::Created, Location::caller());
                self.sample(size);
                count_allocation(handle, size);
            }
        }
        tell_allocation(handle, added);
        Ok(())
    }

    /// Has the manager resize our block, of which this is the only handle.
    fn reallocate(
        &mut self,
        handle: &Handle,
        old_size: usize,
        growing: Resizing,
    ) -> Result<(), AllocError> {
        let new_size = growing.to;
        let Some(slot) = self.ledger.slot() else {
            return Ok(());
        };
        debug_assert_eq!((slot.size(), slot.home().size()), (old_size, old_size));
        // SAFETY: we are the only way to the allocation (`whole_block` said so), which is not
        // foreign (invariant 3).
        let layout = unsafe { slot.home().layout() };
        // SAFETY: the block came from this manager with this layout. The new size is not 0, and with
        // the alignment it makes a valid layout: it is less than the old one, or `grow_to` checked.
        let moved = unsafe { handle.manager().reallocate(self.ptr, layout, new_size) };
        let ptr = moved.map_err(|source| {
            let (asked, purpose) = growing.request();
            manager_failed(handle, asked, purpose, source)
        })?;
        probes::reallocate(self.ptr, old_size, ptr, new_size, handle.probed());
        // SAFETY: as above: nobody else reads it.
        unsafe { slot.set_block(ptr, new_size) };
        self.ptr = ptr;
        self.capacity = new_size;
        Ok(())
    }

    /// The alignment that the memory was asked with.
    fn alignment(&self) -> usize {
        // SAFETY: the alignment is never changed, and the handle keeps the allocation.
        self.ledger
            .slot()
            .map_or(ALIGNMENT, |slot| unsafe { slot.home().block() }.align)
    }
}

/// What a buffer needs to grow, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Growth {
    /// Bytes to charge.
    pub(crate) added: usize,
    /// Bytes of the block that stays until then.
    pub(crate) kept: usize,
    /// The old and the new capacity.
    from: usize,
    size: usize,
}

impl Growth {
    /// The request, as an error names it.
    pub(crate) fn request(self, asked: usize) -> (usize, Purpose) {
        let Self { from, size, .. } = self;
        let resizing = Resizing {
            asked,
            from,
            to: size,
        };
        resizing.request()
    }
}

/// A change of the capacity, as an error names it.
#[derive(Clone, Copy)]
struct Resizing {
    /// How many bytes the caller asked for.
    asked: usize,
    /// The old and the new capacity.
    from: usize,
    to: usize,
}

impl Resizing {
    fn request(self) -> (usize, Purpose) {
        let Self { asked, from, to } = self;
        (asked, Purpose::Growth { from, to })
    }

    fn explain(self, error: AllocError) -> AllocError {
        let (asked, purpose) = self.request();
        error.for_request(asked, purpose)
    }
}

/// The capacity for `size` bytes by the node's policy; `None` if it overflows.
fn capacity_for(handle: &Handle, size: usize) -> Option<usize> {
    match &handle.policy {
        None => checked_round_up(size, ALIGNMENT),
        Some(policy) => rounding::capacity(&**policy, size),
    }
}
