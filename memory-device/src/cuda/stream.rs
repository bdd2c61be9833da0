//! [`CudaStream`]: work of a GPU in order.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use arrow_memory_core::ManagerError;
use cudarc::driver::{DriverError, result, sys};

use super::context::Context;
use super::event::CudaEvent;
use crate::device::Device;
use crate::error::DeviceError;
use crate::event::{DeviceStream, Event};

/// A stream of a GPU: what a [`Stream`](crate::Stream) of a CUDA device is made of. It does not synchronise with the
/// legacy default stream.
///
/// Dropping it does not wait for its work.
///
/// # Invariants
///
/// 1. `raw` is a stream of `context` that was not destroyed.
pub struct CudaStream {
    context: Arc<Context>,
    raw: sys::CUstream,
}

// SAFETY: the driver lets any thread use and destroy a stream.
unsafe impl Send for CudaStream {}
// SAFETY: the driver lets several threads give work to a stream at a time.
unsafe impl Sync for CudaStream {}

impl CudaStream {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let _current = context.enter("creating a stream")?;
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|error| context.failed("creating a stream", error))?;
        Ok(Self {
            context: Arc::clone(context),
            raw,
        })
    }

    /// Returns the driver's stream, a `CUstream`, which is the runtime's `cudaStream_t`. It is valid as long as this value.
    ///
    /// While it is captured into a graph, this crate refuses to work on it. Do not begin to capture it while another thread
    /// gives it work through this crate.
    pub fn as_raw(&self) -> *mut c_void {
        self.raw.cast()
    }

    /// The driver's stream.
    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Records an event of all work that was given to this stream so far.
    pub(super) fn event(&self) -> Result<CudaEvent, DeviceError> {
        self.check_not_captured("recording an event")?;
        // SAFETY: by invariant 1 this is a stream of the context.
        unsafe { CudaEvent::record(&self.context, self.raw) }
    }

    /// Blocks the thread until all work that was given to this stream so far is done.
    /// The work is over when this returns, also with an error.
    pub(super) fn synchronize(&self, operation: &'static str) -> Result<(), DeviceError> {
        let ended = self.until_over();
        ended.map_err(|error| self.context.failed(operation, error))
    }

    /// Does what [`synchronize`](Self::synchronize) does, and returns the driver's own error.
    pub(super) fn until_over(&self) -> Result<(), DriverError> {
        self.context.until_over(|| self.wait())
    }

    /// Does what [`synchronize`](Self::synchronize) does, for a drop; `false` if it gave up, and the work may go on.
    pub(super) fn is_over_in_drop(&self) -> bool {
        self.context.until_over_in_drop(|| self.wait()).is_some()
    }

    /// Has the driver wait, which it may refuse.
    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: by invariant 1 the stream exists.
        unsafe { result::stream::synchronize(self.raw) }
    }

    /// Refuses to work on a stream that is captured: the work would become part of a graph, which runs when the program
    /// launches it, if at all, and nobody could wait for it.
    pub(super) fn check_not_captured(&self, operation: &'static str) -> Result<(), DeviceError> {
        let _current = self.context.enter(operation)?;
        // SAFETY: by invariant 1 the stream exists.
        let status = unsafe { result::stream::is_capturing(self.raw) };
        match status {
            Ok(sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE) => Ok(()),
            Ok(_) => {
                let captured = ManagerError::new("the stream is captured into a graph");
                Err(DeviceError::failed(self.device(), operation, captured))
            }
            Err(error) => Err(self.context.failed(operation, error)),
        }
    }

    /// Makes later work begin after an event of the driver, of any context.
    ///
    /// # Safety
    ///
    /// `event` is an event of the driver that was not destroyed. It may be destroyed once this has returned.
    pub(crate) unsafe fn wait_for_raw(&self, event: *mut c_void) -> Result<(), DeviceError> {
        let _current = self.context.enter(WAITING)?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: by invariant 1 the stream exists, and by the caller's promise the event does.
        let told = unsafe { result::stream::wait_event(self.raw, event.cast(), flags) };
        told.map_err(|error| self.context.failed(WAITING, error))
    }
}

impl DeviceStream for CudaStream {
    fn device(&self) -> Device {
        self.context.device()
    }

    /// Events of other kinds than [`CudaEvent`] are waited for on this thread.
    fn wait_for(&self, event: &Event) -> Result<(), DeviceError> {
        self.check_not_captured(WAITING)?;
        match event.downcast_ref::<CudaEvent>() {
            // SAFETY: the event is alive during the call.
            Some(event) => unsafe { self.wait_for_raw(event.raw().cast()) },
            None => event.wait(),
        }
    }

    fn record(&self) -> Result<Event, DeviceError> {
        Ok(Event::new(self.event()?))
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        let Ok(_current) = self.context.enter("destroying a stream") else {
            return;
        };
        // SAFETY: by invariant 1 the stream exists, and it is destroyed once. The driver finishes its work first.
        let _ = unsafe { result::stream::destroy(self.raw) };
    }
}

impl fmt::Debug for CudaStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaStream({:?} on {})", self.raw, self.context.device())
    }
}

const WAITING: &str = "waiting on a stream";
