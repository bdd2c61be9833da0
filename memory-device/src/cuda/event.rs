//! [`CudaEvent`]: when work of a GPU is done.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, OnceLock};

use cudarc::driver::{DriverError, result, sys};

use super::context::{Context, is_over};
use crate::error::DeviceError;
use crate::event::DeviceEvent;

/// An event of a GPU, which was recorded on a stream: what an [`Event`](crate::Event) of a CUDA device is made of.
///
/// # Invariants
///
/// 1. `raw` is an event of `context` that was not destroyed.
pub struct CudaEvent {
    context: Arc<Context>,
    /// In a box, so that the C Device Data Interface can point at it.
    raw: Box<sys::CUevent>,
    /// How the work was first seen to end. It stays so, also if the driver later says something else, or nothing.
    ended: OnceLock<Result<(), DriverError>>,
}

// SAFETY: an event may be queried, waited for and destroyed on any thread.
unsafe impl Send for CudaEvent {}
// SAFETY: an event may be queried and waited for by several threads at a time.
unsafe impl Sync for CudaEvent {}

impl CudaEvent {
    /// Records an event on a stream of `context`.
    ///
    /// # Safety
    ///
    /// `stream` is a stream of `context` that was not destroyed.
    pub(super) unsafe fn record(
        context: &Arc<Context>,
        stream: sys::CUstream,
    ) -> Result<Self, DeviceError> {
        let _current = context.enter("recording an event")?;
        let failed = |error| context.failed("recording an event", error);
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let event = Self {
            context: Arc::clone(context),
            raw: Box::new(result::event::create(flags).map_err(failed)?),
            ended: OnceLock::new(),
        };
        // SAFETY: the event was created just now, and the stream is valid by the caller's promise.
        unsafe { result::event::record(*event.raw, stream) }.map_err(failed)?;
        Ok(event)
    }

    /// Returns the driver's event, a `CUevent`, which is the runtime's `cudaEvent_t`. It is valid as long as this value.
    pub fn as_raw(&self) -> *mut c_void {
        self.raw.cast()
    }

    /// Returns the address of the driver's event, as the C Device Data Interface wants it. It is valid as long as this value.
    pub fn address(&self) -> *mut c_void {
        std::ptr::from_ref(&*self.raw).cast_mut().cast()
    }

    /// Has the driver wait, which it may refuse.
    fn synchronize(&self) -> Result<(), DriverError> {
        // SAFETY: by invariant 1 the event exists.
        unsafe { result::event::synchronize(*self.raw) }
    }

    /// Notes how the work ended, unless another thread has seen an end before, which stays. Returns what is noted.
    fn see(&self, ended: Result<(), DriverError>) -> Result<(), DriverError> {
        *self.ended.get_or_init(|| ended)
    }

    /// The driver's event.
    pub(super) fn raw(&self) -> sys::CUevent {
        *self.raw
    }
}

impl DeviceEvent for CudaEvent {
    /// An event whose work failed is done, too. One that the driver says nothing about is not.
    fn is_done(&self) -> bool {
        if self.ended.get().is_some() {
            return true;
        }
        // SAFETY: by invariant 1 the event exists.
        let query = |_current| unsafe { result::event::query(*self.raw) };
        let state = self.context.current().and_then(query);
        let over = state.map_or_else(is_over, |()| true);
        if over {
            let _ = self.see(state);
        }
        over
    }

    /// Asks again, without a limit, while the driver's answer is of the call alone and not of the work.
    fn wait(&self) -> Result<(), DeviceError> {
        let ended = match self.ended.get() {
            Some(ended) => *ended,
            None => self.see(self.context.until_over(|| self.synchronize())),
        };
        ended.map_err(|error| self.context.failed(WAITING, error))
    }

    /// Gives up if the driver tells nothing of the work for 30 seconds, and then leaves a warning.
    fn wait_in_drop(&self) -> Option<Result<(), DeviceError>> {
        if self.ended.get().is_none() {
            let ended = self.context.until_over_in_drop(|| self.synchronize())?;
            let _ = self.see(ended);
        }
        Some(self.wait())
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        let Ok(_current) = self.context.enter("destroying an event") else {
            return;
        };
        // SAFETY: by invariant 1 the event exists, and it is destroyed once. The driver keeps what unfinished work needs.
        let _ = unsafe { result::event::destroy(*self.raw) };
    }
}

impl fmt::Debug for CudaEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CudaEvent({:?} on {})",
            self.as_raw(),
            self.context.device()
        )
    }
}

const WAITING: &str = "waiting for an event";
