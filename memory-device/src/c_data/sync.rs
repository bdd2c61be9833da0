//! The events of exported and imported arrays: what `sync_event` of a C structure leads to.
//!
//! | device | an exported event | an imported event |
//! |---|---|---|
//! | CUDA, its pinned and its managed memory | a pointer to a `cudaEvent_t` | a stream of ours waits for it, and the array is ready after that stream |
//! | `ext-dev`, such as the simulated device | a pointer to this crate's [`Event`] | refused, unless this copy of the crate exported it |
//! | all others, the CPU among them | none: the export waits | refused |
#![expect(unsafe_code, reason = "reads events through raw pointers of C")]

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use super::error::{At, CDataError};
use crate::device::DeviceKind;
use crate::event::Event;
use crate::manager::DeviceManager;

/// The event of an exported array, where C code can find it.
///
/// # Invariants
///
/// 1. Unless it is null, `address` leads to an event that is alive as long as this value.
pub(super) struct Exported {
    event: Box<Event>,
    address: *mut c_void,
}

// SAFETY: the address leads to an event of this value, which any thread may use.
unsafe impl Send for Exported {}

impl Exported {
    /// Makes one event of the events of all buffers. Waits for them where the interface has no event for the device.
    pub(super) fn of(
        events: &[Event],
        manager: Option<&Arc<dyn DeviceManager>>,
    ) -> Result<Option<Self>, CDataError> {
        let Some(manager) = manager.filter(|_| !events.is_empty()) else {
            return Ok(None);
        };
        let (event, address) = match manager.device().kind() {
            #[cfg(feature = "cuda")]
            DeviceKind::Cuda | DeviceKind::CudaHost | DeviceKind::CudaManaged => {
                let event = match events {
                    [event] if cuda_address(event).is_some() => Box::new(event.clone()),
                    _ => Box::new(joined(events, manager)?),
                };
                let address = cuda_address(&event).unwrap_or(null_mut());
                (event, address)
            }
            DeviceKind::ExtDev => {
                let event = match events {
                    [event] => Box::new(event.clone()),
                    _ => Box::new(joined(events, manager)?),
                };
                let address = std::ptr::from_ref(&*event).cast_mut().cast::<c_void>();
                (event, address)
            }
            _ => (Box::new(Event::done()), null_mut()),
        };
        if address.is_null() {
            for event in events {
                event.wait()?;
            }
            return Ok(None);
        }
        Ok(Some(Self { event, address }))
    }

    /// The event.
    pub(super) fn event(&self) -> &Event {
        &self.event
    }

    /// What `sync_event` is set to.
    pub(super) fn address(&self) -> *mut c_void {
        self.address
    }
}

/// An event after all of these.
fn joined(events: &[Event], manager: &Arc<dyn DeviceManager>) -> Result<Event, CDataError> {
    let stream = manager.stream()?;
    for event in events {
        stream.wait_for(event)?;
    }
    Ok(stream.record()?)
}

#[cfg(feature = "cuda")]
fn cuda_address(event: &Event) -> Option<*mut c_void> {
    let event = event.downcast_ref::<crate::cuda::CudaEvent>()?;
    Some(event.address())
}

/// Makes an event of ours that is done after the event of an imported structure.
///
/// # Safety
///
/// `event` is null, or leads to an event of the type that the interface has for the manager's device, until this returns.
pub(super) unsafe fn import(
    event: *mut c_void,
    manager: &Arc<dyn DeviceManager>,
    at: &At<'_>,
) -> Result<Option<Event>, CDataError> {
    if event.is_null() {
        return Ok(None);
    }
    #[cfg(feature = "cuda")]
    if let DeviceKind::Cuda | DeviceKind::CudaHost | DeviceKind::CudaManaged =
        manager.device().kind()
    {
        if !event.cast::<*mut c_void>().is_aligned() {
            return at.error("the pointer to the event is not aligned");
        }
        let stream = manager.stream()?;
        if let Some(cuda) = stream.downcast_ref::<crate::cuda::CudaStream>() {
            // SAFETY: the pointer is aligned, and by the caller's promise leads to an event, which is a pointer.
            let event = unsafe { event.cast::<*mut c_void>().read() };
            // SAFETY: the caller promises an event of the driver, which lives during this call.
            unsafe { cuda.wait_for_raw(event) }?;
            return Ok(Some(stream.record()?));
        }
    }
    let device = manager.device();
    at.error(format!(
        "events of device `{device}` from elsewhere are unknown"
    ))
}
