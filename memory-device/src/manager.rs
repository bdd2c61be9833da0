//! The contract of a device: [`DeviceManager`] allocates its memory and copies it.
#![expect(
    unsafe_code,
    reason = "the trait's contract is about the memory of devices"
)]

use std::alloc::Layout;
use std::any::Any;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use arrow_memory_core::ManagerStats;

use crate::device::{Device, DeviceAddress};
use crate::error::DeviceError;
use crate::event::{Event, Stream};

/// A device's memory: allocates it, frees it, copies it, and knows who else can see it.
///
/// Arrow C++ calls this `MemoryManager`. A tree of device memory, a [`DeviceRoot`](crate::DeviceRoot), has
/// one manager, charges each block before it asks for it, and gives the charge back after the block was freed.
/// A manager counts nothing for a tree. None of its methods is called while a lock of this workspace is
/// held.
///
/// Each method that takes an `Option<&Stream>` works in one of two ways. With `None` its work is done when it
/// returns, and the event is [`Event::done`]. With a stream the work begins after all that the stream was given
/// before, and its event says when it is done.
///
/// # Live memory
///
/// The contracts of copies and views are about *live memory* of a manager: that of a block until it is given back,
/// that which [`view_of_cpu`](Self::view_of_cpu) or [`view_of`](Self::view_of) has shown until its owner frees it, and
/// that for which the caller of [`wrap_foreign`](crate::DeviceAllocator::wrap_foreign) vouches.
///
/// # Safety
///
/// An implementation promises that
///
/// 1. a block that [`allocate`](Self::allocate) returned has `layout.size()` bytes, is aligned to
///    `layout.align()`, and overlaps no other live block of this manager until it is given back;
/// 2. a block may be used and given back on any thread, at any time the manager lives;
/// 3. a failed call changes nothing, and no work of it goes on;
/// 4. a copy touches only the bytes that it was given, and none after its event is done;
/// 5. once the work that writes them is done, the pointer that [`view_on_cpu`](Self::view_on_cpu) returns is valid for
///    reads of that many initialised bytes, from any thread, for as long as their memory is live;
/// 6. [`deallocate`](Self::deallocate) does not unwind, even if the events that it is given panic. The other methods may
///    panic, if they leave no block lent and no copy begun;
/// 7. a stream whose type is not one of this manager's own is refused with [`DeviceError::WrongDevice`], whichever device
///    it names: safe code can implement [`DeviceStream`](crate::DeviceStream). The streams that this manager accepts do
///    what that trait says;
/// 8. an event that this manager or one of those streams returned is done only once the work is over, whether it succeeded
///    or failed, and its [`wait`](crate::DeviceEvent::wait) returns only then. It may panic, which says nothing about
///    the work.
#[doc(alias = "MemoryManager")]
pub unsafe trait DeviceManager: Any + Send + Sync + fmt::Debug {
    /// Returns the device whose memory this is.
    fn device(&self) -> Device;

    /// Returns the name that errors and reports show, such as `cuda`.
    fn name(&self) -> &str;

    /// Allocates a block of at least `layout.size()` bytes with unspecified contents. The size is never 0.
    /// With a stream the block may be used by work of that stream at once, and elsewhere after it.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Failed`] if the device has no such block, [`DeviceError::WrongDevice`] if the stream is
    /// that of another device.
    fn allocate(
        &self,
        layout: Layout,
        stream: Option<&Stream>,
    ) -> Result<DeviceAddress, DeviceError>;

    /// Takes a block back, whose memory is not used again before the work of all events in `after` is over. They
    /// may be events of other devices. Does not fail and does not unwind. If an event panics, its work may go on: the
    /// block is leaked then.
    ///
    /// The manager may wait for the events, or have the device free the block after them.
    ///
    /// # Safety
    ///
    /// `at` is a live block of this manager, and `layout` is the one that it was allocated with. Nothing but
    /// the work of these events uses the block any more.
    unsafe fn deallocate(&self, at: DeviceAddress, layout: Layout, after: &[Event]);

    /// Copies from the host to the device.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses, or the stream is that of another device.
    ///
    /// # Safety
    ///
    /// `to` and the `from.len()` bytes there lie in live memory of this manager. Until the event is
    /// done, `from` stays valid and unchanged, the memory is live, and nothing else uses those bytes, except for
    /// work that is ordered by streams.
    unsafe fn copy_in(
        &self,
        from: &[u8],
        to: DeviceAddress,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError>;

    /// Copies from the device to the host. All of `to` is initialised once the event is done.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses, or the stream is that of another device.
    ///
    /// # Safety
    ///
    /// `from` and the `to.len()` bytes there lie in live memory of this manager. Until the event is
    /// done, nothing else uses `to`, the memory is live, and nothing writes those bytes, except for work that is
    /// ordered by streams.
    unsafe fn copy_out(
        &self,
        from: DeviceAddress,
        to: &mut [MaybeUninit<u8>],
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError>;

    /// Copies within the device. The two ranges do not overlap.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses, or the stream is that of another device.
    ///
    /// # Safety
    ///
    /// The `len` bytes at `from` and at `to` lie in live memory of this manager. Until the event is done, the
    /// memory is live, nothing writes the bytes at `from`, and nothing else uses those at `to`, except for work
    /// that is ordered by streams.
    unsafe fn copy_within(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError>;

    /// Copies from the memory of another manager to this one's; `None` if it cannot, and the bytes must be
    /// copied over the host. The provided body returns `None`.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses, or the stream is that of another device.
    ///
    /// # Safety
    ///
    /// That of [`copy_within`](Self::copy_within), with `at` in live memory of `from`.
    unsafe fn copy_across(
        &self,
        from: &dyn DeviceManager,
        at: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Option<Event>, DeviceError> {
        let _ = (from, at, to, len, stream);
        Ok(None)
    }

    /// Returns where the CPU sees `len` bytes of this device; `None`, as from the provided body, if it cannot.
    fn view_on_cpu(&self, at: DeviceAddress, len: usize) -> Option<NonNull<u8>> {
        let _ = (at, len);
        None
    }

    /// Returns where this device sees `len` bytes of the host's memory; `None`, as from the provided body, if it
    /// cannot.
    fn view_of_cpu(&self, at: NonNull<u8>, len: usize) -> Option<DeviceAddress> {
        let _ = (at, len);
        None
    }

    /// Returns where this device sees `len` bytes of another manager's memory; `None`, as from the provided
    /// body, if it cannot. The other manager may be one of the same device.
    fn view_of(
        &self,
        other: &dyn DeviceManager,
        at: DeviceAddress,
        len: usize,
    ) -> Option<DeviceAddress> {
        let _ = (other, at, len);
        None
    }

    /// Creates a stream.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device has none to give.
    fn stream(&self) -> Result<Stream, DeviceError>;

    /// Returns the device's own statistics, for all its users together; all `None` unless overridden.
    fn stats(&self) -> ManagerStats {
        ManagerStats::default()
    }
}
