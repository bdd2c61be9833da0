//! From an allocator to a buffer: capacity, charge, block, bookkeeping. The hot path.
//!
//! Without a listener, debug mode or statistics, [`BufferAllocator::buffer`] is: the default
//! rounding inline, one compare-exchange on the node's word ([`Handle::charge`]), one virtual call
//! to the manager, and a slot from the thread's own list. The drop frees the block, returns the slot and then
//! gives the bytes back (`ledger::free`).
//!
//! | function | for | the listener |
//! |---|---|---|
//! | `allocate_boxed` | nodes without hooks, and those whose only hook is a listener | is asked, and told, by two branches here |
//! | `allocate_sampled` | nodes without hooks, where a sample is probably due | is not there |
//! | `allocate_slowly` | any node and any size; calls `allocate_with_hooks` | is asked, and told |
//! | [`allocate_reserved`] | bytes that a reservation has charged already | is asked, and told |
//!
//! # Results travel in registers
//!
//! Every function that is called from `allocate_boxed`, the slow ones included, returns a `LedgerRef` or a
//! boxed error: either fits in a register. A buffer or an `AllocError` would be returned through
//! memory, written word by word and then read two words at a time; the processor waits longer for such a read
//! than the rest of an allocation takes. So the buffer is put together from the ledger by inlined code
//! (`ArrowBufMut::fresh`).
#![expect(unsafe_code, reason = "takes over the blocks that a manager hands out")]

use std::alloc::Layout;
use std::panic::Location;

use super::arrow_buf::ArrowBuf;
use super::arrow_buf_mut::ArrowBufMut;
use super::block::{Contents, allocate_block, allocate_block_then};
use super::charge::{Charge, rounded};
use super::errors::{boxed_veto, closed, overflow};
use super::notify::{ask, count_allocation, tell_allocation};
use crate::accounting::{Handle, Node, hooks};
use crate::allocator::BufferAllocator;
use crate::debug::Operation;
use crate::error::AllocError;
use crate::events::{enter, leave};
use crate::ledger::LedgerRef;
use crate::outcome::Purpose;
use crate::rounding;
use crate::sampling;
use crate::size::{ALIGNMENT, MAX_ALIGNMENT, MAX_SIZE, checked_round_up};

impl BufferAllocator {
    /// Allocates a buffer of at least `size` bytes and charges it to this allocator.
    ///
    /// The buffer's length is 0. Its capacity is `size` rounded up by the
    /// [`RoundingPolicy`](crate::RoundingPolicy) and to a multiple of 64; all of it is charged,
    /// here and in every ancestor whose reservation does not cover it. The contents are
    /// unspecified until written. A `size` of zero returns an empty buffer, never charged, which
    /// can grow.
    ///
    /// # Errors
    ///
    /// * [`AllocError::OutOfMemory`] if a limit between here and the root would be passed, after
    ///   the listener had one chance to free memory.
    /// * [`AllocError::Vetoed`] if the listener refuses the request.
    /// * [`AllocError::Manager`] if the backend has no such block.
    /// * [`AllocError::Closed`] if this allocator, or one whose memory it would need, is closed.
    /// * [`AllocError::SizeOverflow`] if the size, or a sum, is above `isize::MAX`.
    ///
    /// No byte stays charged after an error.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut buffer = root.buffer(100)?;
    /// buffer.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!((buffer.len(), buffer.capacity()), (3, 128));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[inline]
    #[track_caller]
    #[doc(alias("AllocateBuffer", "AllocateResizableBuffer"))]
    pub fn buffer(&self, size: usize) -> Result<ArrowBufMut, AllocError> {
        self.allocate(size, ALIGNMENT, Contents::Unspecified)
    }

    /// Allocates a buffer with a length of `size` whose bytes are all zero. Its capacity and its charge are
    /// those of [`buffer`](Self::buffer).
    ///
    /// # Errors
    ///
    /// The errors of [`buffer`](Self::buffer).
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer_zeroed(100)?;
    /// assert_eq!((&buffer[..], buffer.capacity()), (&[0; 100][..], 128));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn buffer_zeroed(&self, size: usize) -> Result<ArrowBufMut, AllocError> {
        let mut buffer = self.allocate(size, ALIGNMENT, Contents::Zero)?;
        debug_assert!(buffer.capacity() >= size);
        // SAFETY: the capacity is at least `size` and all of it is zero.
        unsafe { buffer.set_len(size) };
        Ok(buffer)
    }

    /// Allocates a buffer of length 0 that is aligned to `alignment` bytes: a power of two from 64 to
    /// 2 MiB. Its capacity and its charge are those of [`buffer`](Self::buffer). A buffer that grows keeps
    /// its alignment, but an empty one, which has no memory, grows at 64.
    ///
    /// # Errors
    ///
    /// The errors of [`buffer`](Self::buffer), and [`AllocError::InvalidAlignment`].
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let mut page = root.buffer_aligned(100, 4096)?;
    /// page.resize(10_000, 1)?;
    /// assert!(page.as_ptr().addr().is_multiple_of(4096));
    /// assert!(root.buffer_aligned(100, 100).is_err());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn buffer_aligned(&self, size: usize, alignment: usize) -> Result<ArrowBufMut, AllocError> {
        if !alignment.is_power_of_two() || !(ALIGNMENT..=MAX_ALIGNMENT).contains(&alignment) {
            return Err(AllocError::InvalidAlignment { alignment });
        }
        self.allocate(size, alignment, Contents::Unspecified)
    }

    /// Allocates a buffer with a copy of `bytes`.
    ///
    /// # Errors
    ///
    /// The errors of [`buffer`](Self::buffer).
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer_from_slice(b"columnar")?;
    /// assert_eq!((buffer.as_slice(), root.allocated_memory()), (&b"columnar"[..], 64));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    pub fn buffer_from_slice(&self, bytes: &[u8]) -> Result<ArrowBuf, AllocError> {
        let mut buffer = self.buffer(bytes.len())?;
        buffer.extend_from_slice(bytes)?;
        Ok(buffer.freeze())
    }

    /// The empty buffer of this allocator: zero bytes, never charged, not even if the allocator is
    /// closed. It keeps the allocator's node alive.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let empty = root.empty();
    /// assert_eq!((empty.len(), root.allocated_memory()), (0, 0));
    /// assert!(empty.as_ptr().addr().is_multiple_of(64));
    /// ```
    #[doc(alias = "getEmpty")]
    pub fn empty(&self) -> ArrowBuf {
        ArrowBuf::empty(LedgerRef::pin(&self.handle))
    }

    #[inline(always)] // Each caller's alignment and contents are constants.
    #[track_caller]
    fn allocate(
        &self,
        size: usize,
        alignment: usize,
        contents: Contents,
    ) -> Result<ArrowBufMut, AllocError> {
        self.allocate_boxed(size, alignment, contents)
            .map_err(|error| *error)
    }

    /// Does what `allocate` does; the error is in a box, as those of all that this calls.
    #[inline(always)] // As is `allocate`, for the same reason.
    #[track_caller]
    fn allocate_boxed(
        &self,
        size: usize,
        alignment: usize,
        contents: Contents,
    ) -> Result<ArrowBufMut, Box<AllocError>> {
        let node = self.node();
        let caller = Location::caller();
        let with_extras = || {
            self.allocate_slowly(size, alignment, contents, caller)
                .map(ArrowBufMut::fresh)
        };
        // Neither zero nor so large that rounding it up could overflow.
        if size.wrapping_sub(1) >= MAX_SIZE - alignment {
            return with_extras();
        }
        let capacity = (size + (ALIGNMENT - 1)) & !(ALIGNMENT - 1);
        let watch = node.watch();
        if watch.is_on() {
            if watch.has_hooks() {
                if !watch.is_listener_alone() {
                    return with_extras();
                }
                let asked = enter(|| node.hearer().on_pre_allocation(&node.info, capacity));
                asked.map_err(|veto| boxed_veto(node, size, capacity, veto))?;
            } else if sampling::comes_to_point(size, watch.scale_without_hooks()) {
                return self
                    .allocate_sampled(size, alignment, contents)
                    .map(ArrowBufMut::fresh);
            }
        }
        // SAFETY: a power of two by `buffer_aligned`; the size is at most MAX_SIZE rounded down
        // to a multiple of the alignment.
        let layout = unsafe { Layout::from_size_align_unchecked(capacity, alignment) };
        // From the listener's first callback to its second the thread counts as inside: two instructions less than
        // for each by itself.
        let heard = Heard(node);
        let charge = Charge::retrying(&self.handle, capacity, size)?;
        let allocated = allocate_block_then(charge, layout, size, contents, |node| {
            // The same test as above, on hooks that never change: they are read again rather than kept.
            if node.hooks & hooks::LISTENER != 0 {
                node.hearer().on_allocation(&node.info, layout.size());
                leave();
            }
        })?;
        std::mem::forget(heard);
        Ok(allocated)
    }

    /// Allocates whatever hooks the node has, and whatever the size is: zero and too large ones, too.
    #[inline(never)]
    fn allocate_slowly(
        &self,
        size: usize,
        alignment: usize,
        contents: Contents,
        caller: &'static Location<'static>,
    ) -> Result<LedgerRef, Box<AllocError>> {
        if size == 0 {
            return self.pin_open();
        }
        let Some(layout) = layout_of(self.node(), size, alignment) else {
            return Err(Box::new(self.too_large(size)));
        };
        allocate_with_hooks(&self.handle, layout, size, contents, caller)
    }

    /// Allocates for a node that has no hooks, where a sample is probably due.
    #[cold]
    #[inline(never)]
    fn allocate_sampled(
        &self,
        size: usize,
        alignment: usize,
        contents: Contents,
    ) -> Result<LedgerRef, Box<AllocError>> {
        // Read again, so that the fast path need not keep it in a register.
        let scale = self.node().watch().scale();
        let due = scale > 0 && sampling::passes_point(size, scale);
        let layout = checked_round_up(size, ALIGNMENT)
            .and_then(|size| Layout::from_size_align(size, alignment).ok());
        let Some(layout) = layout else {
            return Err(Box::new(self.too_large(size)));
        };
        let charge = Charge::retrying(&self.handle, layout.size(), size)?;
        let buffer = allocate_block(charge, layout, size, contents)?;
        if due {
            buffer.record_sample(size, scale);
        }
        Ok(buffer.into_ledger())
    }

    #[cold]
    pub(crate) fn too_large(&self, requested: usize) -> AllocError {
        if self.is_closed() {
            return closed(self.node(), requested, Purpose::Bytes);
        }
        overflow(self.node(), requested)
    }

    #[cold]
    fn pin_open(&self) -> Result<LedgerRef, Box<AllocError>> {
        if self.is_closed() {
            return Err(Box::new(closed(self.node(), 0, Purpose::Bytes)));
        }
        Ok(LedgerRef::pin(&self.handle))
    }
}

/// Ends an allocation that failed after its node's listener was asked.
struct Heard<'a>(&'a Node);

impl Drop for Heard<'_> {
    #[cold]
    fn drop(&mut self) {
        if self.0.hooks & hooks::LISTENER != 0 {
            leave();
        }
    }
}

/// Allocates a buffer for `reserved` bytes that are charged already; only what the layout adds is
/// charged. `hand_over` is called when the bytes have become the buffer's, before the listener is told.
#[track_caller]
pub(crate) fn allocate_reserved(
    handle: &Handle,
    reserved: usize,
    layout: Layout,
    hand_over: impl FnOnce(),
) -> Result<ArrowBufMut, AllocError> {
    let size = layout.size();
    let purpose = || Purpose::ReservedBuffer {
        reserved,
        capacity: size,
    };
    ask(handle, size, || (reserved, purpose()))?;
    if handle.is_closed() {
        return Err(closed(handle, reserved, purpose()));
    }
    let charge = Charge::silently(handle, size - reserved, || (reserved, purpose()))?;
    let buffer = allocate_block(charge, layout, reserved, Contents::Unspecified);
    let mut buffer = buffer.map_err(|error| *error)?;
    hand_over();
    if handle.is_debug() {
        buffer.register(Operation::Created, Location::caller());
    }
    buffer.sample(size);
    count_allocation(handle, size);
    tell_allocation(handle, size);
    Ok(buffer)
}

/// Allocates for a node that may have a listener, debug mode or statistics.
#[inline]
fn allocate_with_hooks(
    handle: &Handle,
    layout: Layout,
    asked: usize,
    contents: Contents,
    caller: &'static Location<'static>,
) -> Result<LedgerRef, Box<AllocError>> {
    let charge = Charge::asking_and_retrying(handle, layout.size(), rounded(asked, layout.size()));
    let charge = charge.map_err(|error| {
        if let Some(trail) = handle.trail() {
            trail.note(Operation::Refused, layout.size(), Some(caller));
        }
        Box::new(error)
    })?;
    let buffer = allocate_charged(handle, charge, layout, asked, contents, caller)?;
    Ok(buffer.into_ledger())
}

/// Allocates what is charged already, for a node that may have a listener, debug mode or statistics.
#[inline]
pub(crate) fn allocate_charged(
    handle: &Handle,
    charge: Charge<'_>,
    layout: Layout,
    asked: usize,
    contents: Contents,
    caller: &'static Location<'static>,
) -> Result<ArrowBufMut, Box<AllocError>> {
    let mut buffer = allocate_block(charge, layout, asked, contents)?;
    if handle.is_debug() {
        buffer.register(Operation::Created, caller);
    }
    buffer.sample(layout.size());
    count_allocation(handle, layout.size());
    tell_allocation(handle, layout.size());
    Ok(buffer)
}

/// The layout of a buffer of `size` bytes (at least 1), by the node's policy; `None` if it overflows.
pub(crate) fn layout_of(node: &Node, size: usize, alignment: usize) -> Option<Layout> {
    let capacity = match &node.policy {
        None => checked_round_up(size, ALIGNMENT),
        Some(policy) => rounding::capacity(&**policy, size),
    };
    Layout::from_size_align(capacity?, alignment).ok()
}
