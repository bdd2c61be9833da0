//! Views of memory that is charged elsewhere.
//!
//! A view is a foreign allocation of its target that keeps the source. Its bytes are charged in the tree of the
//! device that holds them, and must not be charged twice. So the target is charged 1 byte: an allocation
//! without any bytes would not keep its node in the tree.
#![expect(unsafe_code, reason = "views memory that the source keeps alive")]

use std::ptr::NonNull;

use arrow_memory_core::{ArrowBuf, BufferAllocator, ForeignAllocation};

use crate::allocator::DeviceAllocator;
use crate::block::Keep;
use crate::buf::DeviceBuf;
use crate::error::DeviceError;
use crate::event::Event;

/// The bytes that a view is charged.
const CHARGE: usize = 1;

/// A view of a host's buffer for an allocator of another tree.
#[track_caller]
pub(crate) fn of_host_on_host(
    source: &ArrowBuf,
    target: &BufferAllocator,
) -> Result<ArrowBuf, DeviceError> {
    // SAFETY: the view keeps the buffer, whose bytes are initialised and do not change.
    unsafe {
        on_host(
            NonNull::from(source.as_slice()).cast(),
            source.len(),
            source,
            target,
        )
    }
}

/// A view on the host of a device's buffer, once it is written; `None` if the CPU does not see it.
#[track_caller]
pub(crate) fn of_device_on_host(
    source: &DeviceBuf,
    target: &BufferAllocator,
) -> Result<Option<ArrowBuf>, DeviceError> {
    let Some(start) = source.start().filter(|_| !source.is_empty()) else {
        return Ok(Some(target.buffer(0)?.freeze()));
    };
    let Some(at) = source.manager().view_on_cpu(start, source.len()) else {
        return Ok(None);
    };
    source.synchronize()?;
    // SAFETY: the manager promises that the bytes are initialised and readable while their block lives, which
    // the view keeps; what writes them is done.
    unsafe { on_host(at, source.len(), source, target) }.map(Some)
}

/// A view on the host that keeps `source`.
///
/// # Safety
///
/// While a clone of `source` lives, the bytes are initialised, may be read, and nobody writes them.
#[track_caller]
unsafe fn on_host<S: Clone + Send + Sync + 'static>(
    at: NonNull<u8>,
    len: usize,
    source: &S,
    target: &BufferAllocator,
) -> Result<ArrowBuf, DeviceError> {
    if len == 0 {
        return Ok(target.buffer(0)?.freeze());
    }
    let anchor = ForeignAllocation::from_owner(Anchor {
        bytes: [0; CHARGE],
        _source: source.clone(),
    });
    let anchor = target
        .wrap_foreign_allocation(anchor)
        .map_err(|error| error.source)?;
    // SAFETY: the caller's promise; the anchor's allocation has a clone of the source until it is released.
    Ok(unsafe { anchor.view_unchecked(at, len) })
}

/// What the allocation of a view is made of.
struct Anchor<S> {
    bytes: [u8; CHARGE],
    _source: S,
}

impl<S> AsRef<[u8]> for Anchor<S> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A view on a device of a host's buffer; `None` if the device does not see it.
#[track_caller]
pub(crate) fn of_host_on_device(
    source: &ArrowBuf,
    target: &DeviceAllocator,
) -> Result<Option<DeviceBuf>, DeviceError> {
    if source.is_empty() {
        return target.empty().map(Some);
    }
    let at = NonNull::from(source.as_slice()).cast();
    let Some(at) = target.manager().view_of_cpu(at, source.len()) else {
        return Ok(None);
    };
    let keep = Box::new(Host(source.clone()));
    target.wrap(at, source.len(), None, keep, CHARGE).map(Some)
}

/// A buffer of the host that a view on a device keeps.
struct Host(#[expect(dead_code, reason = "kept alive")] ArrowBuf);

impl Keep for Host {
    fn take_over(&self, _event: &Event) -> bool {
        false
    }
}

/// A view on a device of a buffer of another tree; `None` if the device does not see it.
#[track_caller]
pub(crate) fn of_device_on_device(
    source: &DeviceBuf,
    target: &DeviceAllocator,
) -> Result<Option<DeviceBuf>, DeviceError> {
    let Some(start) = source.start().filter(|_| !source.is_empty()) else {
        return target.empty().map(Some);
    };
    let manager = target.manager();
    let Some(at) = manager.view_of(&**source.manager(), start, source.len()) else {
        return Ok(None);
    };
    // The source is not freed before the work that writes it is over, and the view keeps the source.
    let (written, keep) = (source.written().cloned(), Box::new(source.clone()));
    target
        .wrap(at, source.len(), written, keep, CHARGE)
        .map(Some)
}
