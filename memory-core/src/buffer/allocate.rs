//! From an allocator to a buffer: capacity, charge, block, bookkeeping. The hot path.
//!
//! Without a listener, debug mode or statistics, [`BufferAllocator::buffer`] is: the default
//! rounding inline, one compare-exchange on the node's word ([`Handle::charge`]), one virtual call
//! to the manager, and a slot from the thread's own list. The drop is the same backwards (see
//! `ledger::free`). A listener, if it is all that there is, is called on the same way, before the
//! charge and after the slot was taken, for which there are two branches; all else takes another.
//!
//! Longer than most files: the public methods come with examples, and the slow ways to a buffer stand
//! beside the fast one, whose form they keep to.
#![expect(unsafe_code, reason = "takes over the blocks that a manager hands out")]

use std::alloc::Layout;
use std::marker::PhantomData;
use std::panic::Location;
use std::ptr::NonNull;

use super::ArrowBufMut;
use arrow_memory_manager::ManagerError;

use crate::accounting::{Handle, Node, NodePtr, Refusal, hooks};
use crate::allocator::BufferAllocator;
use crate::debug::Operation;
use crate::error::AllocError;
use crate::ledger::LedgerRef;
use crate::listener::AllocationListener;
use crate::outcome::{AllocationOutcome, Purpose};
use crate::probes;
use crate::raw::slot::Block;
use crate::rounding;
use crate::sampling;
use crate::size::{ALIGNMENT, MAX_ALIGNMENT, MAX_SIZE, checked_round_up};
use crate::sync::Ordering;
use crate::{ArrowBuf, Veto};

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
    /// * [`AllocError::Vetoed`] if the listener says no.
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

    /// As [`buffer`](Self::buffer), with a length of `size` and every byte zero.
    ///
    /// # Errors
    ///
    /// As [`buffer`](Self::buffer).
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

    /// As [`buffer`](Self::buffer), aligned to `alignment` bytes: a power of two from 64 to 2 MiB.
    /// The buffer keeps its alignment when it grows, as long as it has memory: an empty one grows
    /// at 64.
    ///
    /// # Errors
    ///
    /// As [`buffer`](Self::buffer), and [`AllocError::InvalidAlignment`].
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

    /// A buffer with a copy of `bytes`.
    ///
    /// # Errors
    ///
    /// As [`buffer`](Self::buffer).
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
        self.allocate_inline(size, alignment, contents)
            .map_err(|error| *error)
    }

    // What is called from here, the slow ways too, answers in registers: with a ledger, or an error
    // in a box. An answer through memory would be written word by word and read two words at a time,
    // for which the processor waits longer than the rest of an allocation takes.
    #[inline(always)] // As `allocate`.
    #[track_caller]
    fn allocate_inline(
        &self,
        size: usize,
        alignment: usize,
        contents: Contents,
    ) -> Result<ArrowBufMut, Box<AllocError>> {
        let node = self.node();
        let caller = Location::caller();
        let with_extras = || {
            self.allocate_with_extras(size, alignment, contents, caller)
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
                let asked = node.hearer().on_pre_allocation(&node.info, capacity);
                asked.map_err(|veto| boxed_veto(node, size, capacity, veto))?;
            } else if sampling::comes_to_point(size, watch.scale_without_hooks()) {
                return self
                    .allocate_at_point(size, alignment, contents)
                    .map(ArrowBufMut::fresh);
            }
        }
        // SAFETY: a power of two by `buffer_aligned`; the size is at most MAX_SIZE rounded down
        // to a multiple of the alignment.
        let layout = unsafe { Layout::from_size_align_unchecked(capacity, alignment) };
        let charge = Charge::boxed(&self.handle, capacity, size)?;
        allocate_and(charge, layout, size, contents, |node| {
            // What was looked at above, read anew rather than kept; hooks do not change.
            if node.hooks & hooks::LISTENER != 0 {
                node.hearer().on_allocation(&node.info, layout.size());
            }
        })
    }

    /// As `allocate`, whatever hooks the node has, and for sizes that need a second look.
    #[inline(never)]
    fn allocate_with_extras(
        &self,
        size: usize,
        alignment: usize,
        contents: Contents,
        caller: &'static Location<'static>,
    ) -> Result<LedgerRef, Box<AllocError>> {
        let node = self.node();
        let capacity = match &node.policy {
            _ if size == 0 => return self.pin_open(),
            None => checked_round_up(size, ALIGNMENT),
            Some(policy) => rounding::capacity(&**policy, size),
        };
        let Some(layout) = capacity.and_then(|size| Layout::from_size_align(size, alignment).ok())
        else {
            return Err(Box::new(self.too_large(size)));
        };
        allocate_watched(&self.handle, layout, size, contents, caller)
    }

    /// An allocation that is probably to be sampled, of a node that has no hooks.
    #[cold]
    #[inline(never)]
    fn allocate_at_point(
        &self,
        size: usize,
        alignment: usize,
        contents: Contents,
    ) -> Result<LedgerRef, Box<AllocError>> {
        // Read anew, so that the path that seldom leads here does not keep it.
        let scale = self.node().watch().scale();
        let due = scale > 0 && sampling::passes_point(size, scale);
        let layout = checked_round_up(size, ALIGNMENT)
            .and_then(|size| Layout::from_size_align(size, alignment).ok());
        let Some(layout) = layout else {
            return Err(Box::new(self.too_large(size)));
        };
        let charge = Charge::boxed(&self.handle, layout.size(), size)?;
        let buffer = allocate_charged(charge, layout, size, contents)?;
        if due {
            buffer.record_sample(size, scale);
        }
        Ok(buffer.into_ledger())
    }

    #[cold]
    fn too_large(&self, requested: usize) -> AllocError {
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

/// What a fresh block holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    Unspecified,
    Zero,
}

/// A new buffer with a capacity of `layout`'s size, given that what was not charged for it before is charged now;
/// after an error that is given back. The caller asked for `asked` bytes, says that error.
#[inline(always)] // The layout and the contents are constants, nearly.
pub(crate) fn allocate_charged(
    charge: Charge<'_>,
    layout: Layout,
    asked: usize,
    contents: Contents,
) -> Result<ArrowBufMut, Box<AllocError>> {
    allocate_and(charge, layout, asked, contents, |_| ())
}

/// As `allocate_charged`, and calls `then` when the allocation is complete. If that panics, all is
/// given back.
#[inline(always)] // As `allocate_charged`.
fn allocate_and(
    charge: Charge<'_>,
    layout: Layout,
    asked: usize,
    contents: Contents,
    then: impl FnOnce(&Node),
) -> Result<ArrowBufMut, Box<AllocError>> {
    let at = charge.node;
    // SAFETY: the charge borrows a handle of it, which outlives this call.
    let node = unsafe { at.node() };
    let manager = node.manager();
    // If the manager refuses, or panics, the charge is dropped, which gives it back.
    let block = match contents {
        Contents::Unspecified => manager.allocate(layout),
        Contents::Zero => manager.allocate_zeroed(layout),
    };
    let ptr = match block {
        Ok(ptr) => ptr,
        Err(source) => {
            let purpose = Purpose::rounded(asked, layout.size());
            return Err(Box::new(manager_failed(node, asked, purpose, source)));
        }
    };
    debug_assert!(
        ptr.addr().get().is_multiple_of(layout.align()),
        "a misaligned block"
    );
    charge.keep();
    probes::allocate(ptr, layout.size(), node);
    let block = Block {
        ptr,
        align: layout.align(),
    };
    // SAFETY: `layout.size()` bytes are charged to the node, and the guard that would give them
    // back is gone. The block is fresh from the tree's manager, with this layout.
    let ledger = unsafe { LedgerRef::new(at, block, layout.size(), None) };
    then(node);
    // SAFETY: the block has so many bytes, none known to be initialised; nobody else knows it, and
    // it is not foreign.
    Ok(unsafe { ArrowBufMut::from_parts(ptr, 0, layout.size(), ledger) })
}

/// A buffer for `reserved` bytes that are charged already; only what the layout adds is charged.
/// `hand_over` is called when the bytes have become the buffer's, before the listener hears of it.
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
    let charge = Charge::unheard(handle, size - reserved, || (reserved, purpose()))?;
    let buffer = allocate_charged(charge, layout, reserved, Contents::Unspecified);
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

/// Asks the listener, if it hears of allocations.
pub(crate) fn ask(handle: &Handle, size: usize, request: impl Request) -> Result<(), AllocError> {
    if let Some(listener) = handle.hearing() {
        let asked = listener.on_pre_allocation(&handle.info, size);
        asked.map_err(|veto| vetoed(handle, request(), veto))?;
    }
    Ok(())
}

/// What the caller asked for, in bytes, and for what: called after a refusal.
pub(crate) trait Request: FnOnce() -> (usize, Purpose) {}

impl<F: FnOnce() -> (usize, Purpose)> Request for F {}

/// A request for `size` bytes that became one for `capacity`.
pub(crate) fn rounded(size: usize, capacity: usize) -> impl Request + Copy {
    move || (size, Purpose::rounded(size, capacity))
}

/// Bytes that are charged and given back unless they are kept.
pub(crate) struct Charge<'a> {
    /// The handle's node. Through a reference it would be read anew after each call.
    node: NodePtr,
    bytes: usize,
    handle: PhantomData<&'a Handle>,
}

impl<'a> Charge<'a> {
    /// Charges `bytes` (perhaps none), asking the listener as for an allocation: it may veto, and
    /// it has one chance to make room.
    #[inline(always)] // Its result would be returned through memory.
    pub(crate) fn new(
        handle: &'a Handle,
        bytes: usize,
        request: impl Request,
    ) -> Result<Self, AllocError> {
        let Some(listener) = handle.listener.as_deref().filter(|_| bytes > 0) else {
            return Self::unheard(handle, bytes, request);
        };
        if let Some(listener) = handle.hearing()
            && let Err(veto) = listener.on_pre_allocation(&handle.info, bytes)
        {
            return Err(vetoed(handle, request(), veto));
        }
        if let Err(refusal) = handle.charge(bytes) {
            charge_again(handle, listener, bytes, request(), &refusal)?;
        }
        Ok(Self::of(handle, bytes))
    }

    /// Charges `bytes` (perhaps none) if the listener has nothing against it; it is not told of a
    /// refusal.
    pub(crate) fn allowed(
        handle: &'a Handle,
        bytes: usize,
        request: impl Request,
    ) -> Result<Self, AllocError> {
        if let Some(listener) = handle.hearing().filter(|_| bytes > 0)
            && let Err(veto) = listener.on_pre_allocation(&handle.info, bytes)
        {
            return Err(vetoed(handle, request(), veto));
        }
        Self::unheard(handle, bytes, request)
    }

    /// Charges `bytes` (perhaps none) without asking the listener.
    #[inline(always)] // As for `new`.
    pub(crate) fn unheard(
        handle: &'a Handle,
        bytes: usize,
        request: impl Request,
    ) -> Result<Self, AllocError> {
        if bytes > 0 {
            handle.charge(bytes).map_err(|refusal| {
                let (requested, purpose) = request();
                refusal.report(requested, purpose)
            })?;
        }
        Ok(Self::of(handle, bytes))
    }

    /// As `new`, for at least one byte, where the listener was asked or does not hear of
    /// allocations; with an error that fits in a register.
    #[inline(always)] // As for `new`.
    fn boxed(handle: &'a Handle, bytes: usize, asked: usize) -> Result<Self, Box<AllocError>> {
        if let Err(refusal) = handle.charge(bytes) {
            Self::boxed_again(handle, bytes, asked, &refusal)?;
        }
        Ok(Self::of(handle, bytes))
    }

    /// What is left to do after a refusal.
    #[cold]
    fn boxed_again(
        handle: &Handle,
        bytes: usize,
        asked: usize,
        refusal: &Refusal,
    ) -> Result<(), Box<AllocError>> {
        let purpose = Purpose::rounded(asked, bytes);
        match &handle.listener {
            Some(listener) => {
                let request = (asked, purpose);
                Ok(charge_again(handle, &**listener, bytes, request, refusal)?)
            }
            None => Err(Box::new(refusal.report(asked, purpose))),
        }
    }

    /// These bytes, charged to the handle's node.
    #[inline]
    fn of(handle: &'a Handle, bytes: usize) -> Self {
        Self {
            node: handle.ptr(),
            bytes,
            handle: PhantomData,
        }
    }

    /// The bytes that would be given back now.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges more bytes.
    pub(crate) fn add(
        &mut self,
        handle: &Handle,
        bytes: usize,
        request: impl Request,
    ) -> Result<(), AllocError> {
        Charge::unheard(handle, bytes, request)?.keep();
        self.bytes += bytes;
        Ok(())
    }

    /// Takes over bytes that are charged to the node already, and are the caller's.
    pub(crate) fn take_over(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Leaves the bytes charged.
    #[inline]
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }

    /// Leaves some of the bytes charged.
    #[inline]
    pub(crate) fn keep_some(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: charged by whoever made this, and not kept.
            unsafe { self.node.uncharge(self.bytes) };
        }
    }
}

/// The allocation of a node that may have a listener, debug mode or statistics.
#[inline]
fn allocate_watched(
    handle: &Handle,
    layout: Layout,
    asked: usize,
    contents: Contents,
    caller: &'static Location<'static>,
) -> Result<LedgerRef, Box<AllocError>> {
    let charge = Charge::new(handle, layout.size(), rounded(asked, layout.size()));
    let charge = charge.map_err(|error| {
        if let Some(trail) = handle.trail() {
            trail.note(Operation::Refused, layout.size(), Some(caller));
        }
        Box::new(error)
    })?;
    let mut buffer = allocate_charged(charge, layout, asked, contents)?;
    if handle.is_debug() {
        buffer.register(Operation::Created, caller);
    }
    buffer.sample(layout.size());
    count_allocation(handle, layout.size());
    tell_allocation(handle, layout.size());
    Ok(buffer.into_ledger())
}

/// Counts a new allocation in the statistics.
pub(crate) fn count_allocation(node: &Node, size: usize) {
    if node.hooks & hooks::STATISTICS != 0 {
        // Relaxed, all: statistics.
        node.total_bytes.fetch_add(size as u64, Ordering::Relaxed);
        node.total_allocations.fetch_add(1, Ordering::Relaxed);
        node.live_allocations.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts growth in the statistics.
pub(crate) fn count_growth(node: &Node, size: usize) {
    if node.hooks & hooks::STATISTICS != 0 {
        // Relaxed: a statistic.
        node.total_bytes.fetch_add(size as u64, Ordering::Relaxed);
    }
}

/// Tells the listener of an allocation, or of growth.
pub(crate) fn tell_allocation(node: &Node, size: usize) {
    if let Some(listener) = node.hearing() {
        listener.on_allocation(&node.info, size);
    }
}

/// Asks the listener whether it made room after a refusal, and then charges once more.
#[cold]
fn charge_again(
    handle: &Handle,
    listener: &dyn AllocationListener,
    bytes: usize,
    (requested, purpose): (usize, Purpose),
    first: &Refusal,
) -> Result<(), AllocError> {
    let Refusal::Limit(levels) = first else {
        return Err(first.report(requested, purpose));
    };
    let outcome: AllocationOutcome = levels.to_outcome();
    if listener.on_failed_allocation(&handle.info, bytes, &outcome) {
        return handle
            .charge(bytes)
            .map_err(|refusal| refusal.report(requested, purpose));
    }
    Err(first.report(requested, purpose))
}

#[cold]
#[inline(never)]
fn boxed_veto(node: &Node, asked: usize, capacity: usize, veto: Veto) -> Box<AllocError> {
    let request = (asked, Purpose::rounded(asked, capacity));
    Box::new(vetoed(node, request, veto))
}

#[cold]
fn vetoed(node: &Node, (requested, purpose): (usize, Purpose), veto: Veto) -> AllocError {
    AllocError::Vetoed {
        allocator: node.info.clone(),
        requested,
        purpose: Box::new(purpose),
        veto,
    }
}

#[cold]
pub(crate) fn manager_failed(
    node: &Node,
    requested: usize,
    purpose: Purpose,
    source: ManagerError,
) -> AllocError {
    let manager = node.manager().name().to_owned();
    AllocError::Manager {
        allocator: node.info.clone(),
        manager,
        requested,
        purpose: Box::new(purpose),
        source,
    }
}

#[cold]
pub(crate) fn overflow(node: &Node, requested: usize) -> AllocError {
    AllocError::SizeOverflow {
        allocator: node.info.clone(),
        requested,
        purpose: Box::new(Purpose::Bytes),
    }
}

#[cold]
pub(crate) fn closed(node: &Node, requested: usize, purpose: Purpose) -> AllocError {
    AllocError::Closed {
        allocator: node.info.clone(),
        requested,
        purpose: Box::new(purpose),
    }
}

/// The address of a block's byte.
///
/// # Safety
///
/// `offset` lies within the block that `ptr` starts, or at its end.
pub(super) unsafe fn at(ptr: NonNull<u8>, offset: usize) -> NonNull<u8> {
    // SAFETY: the caller's promise.
    unsafe { ptr.add(offset) }
}
