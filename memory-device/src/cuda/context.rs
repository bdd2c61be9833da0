//! The driver, and the primary context of a device.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::ffi::c_int;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::__private::events::tell;
use arrow_memory_core::ManagerError;
use cudarc::driver::{DriverError, result, sys};

use crate::device::{Device, DeviceKind};
use crate::error::DeviceError;

/// Returns whether there is a CUDA driver with at least one device. Loads the driver.
pub fn is_available() -> bool {
    count().is_ok_and(|count| count > 0)
}

/// Returns the number of devices.
pub(super) fn count() -> Result<usize, DeviceError> {
    load()?;
    match result::device::get_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(error) => Err(unusable(error)),
    }
}

/// Loads and starts the driver. Nothing else of CUDA is called before this has succeeded, since cudarc panics if the
/// library is not there, or lacks a function that is called.
fn load() -> Result<(), DeviceError> {
    // SAFETY: this loads NVIDIA's library, if there is one, whose initialisers may run on any thread.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::unavailable(
            "no CUDA driver: the library `libcuda` cannot be loaded; install NVIDIA's driver, or use another device",
        ));
    }
    static MISSING: OnceLock<Option<&str>> = OnceLock::new();
    if let Some(name) = MISSING.get_or_init(missing) {
        return Err(DeviceError::unavailable(format!(
            "the CUDA driver is too old: it lacks `{name}`; install one of CUDA 11.4 or later"
        )));
    }
    result::init().map_err(unusable)
}

/// The first function that this crate calls and the driver lacks.
fn missing() -> Option<&'static str> {
    // SAFETY: the library is there, as the caller has checked.
    let library = unsafe { sys::culib() };
    FUNCTIONS.iter().copied().find(|name| {
        // SAFETY: the symbol is looked up only, and not called by this type.
        let symbol = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) };
        symbol.is_err()
    })
}

/// Every function of the driver that this crate calls. A call of another one would panic if the driver lacks it.
const FUNCTIONS: &[&str] = &[
    "cuCtxPopCurrent_v2",
    "cuCtxPushCurrent_v2",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyPeerAsync",
    "cuPointerGetAttribute",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuThreadExchangeStreamCaptureMode",
];

#[cold]
fn unusable(error: DriverError) -> DeviceError {
    let text = describe(error);
    DeviceError::unavailable(format!("the CUDA driver cannot be used: {text}"))
}

/// The driver's own name and text for an error.
fn describe(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(
            |_| String::new(),
            |text| text.to_string_lossy().into_owned(),
        )
    };
    let (name, message) = (text(error.error_name()), text(error.error_string()));
    match name.as_str() {
        "" => format!("error {}", error.0 as i32),
        _ => format!("{name}, {message}"),
    }
}

/// The primary context of a device, which all managers, streams and events of the device share.
///
/// # Invariants
///
/// 1. `context` is the primary context of `ordinal`, retained once for this value until it is dropped.
#[derive(Debug)]
pub(super) struct Context {
    device: Device,
    ordinal: sys::CUdevice,
    context: sys::CUcontext,
    /// Whether a drop gave up since the driver last told how some work ended.
    gave_up: AtomicBool,
}

// SAFETY: a context may be used and released on any thread; the driver synchronises its functions.
unsafe impl Send for Context {}
// SAFETY: a context may be used by several threads at a time; the driver synchronises its functions.
unsafe impl Sync for Context {}

impl Context {
    /// Loads the driver, and retains the primary context of the device with this number.
    pub(super) fn new(number: usize) -> Result<Arc<Self>, DeviceError> {
        let count = count()?;
        let Some(ordinal) = c_int::try_from(number).ok().filter(|_| number < count) else {
            return Err(DeviceError::unavailable(format!(
                "there is no CUDA device {number}: the driver has {count}"
            )));
        };
        let device = Device::new(DeviceKind::Cuda, i64::from(ordinal));
        let failed = |error| failed(device, "start", error);
        let ordinal = result::device::get(ordinal).map_err(failed)?;
        // SAFETY: the driver returned this device just now.
        let context = unsafe { result::primary_ctx::retain(ordinal) }.map_err(failed)?;
        Ok(Arc::new(Self {
            device,
            ordinal,
            context,
            gave_up: AtomicBool::new(false),
        }))
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    pub(super) fn raw(&self) -> sys::CUcontext {
        self.context
    }

    /// The name of the device, as the driver has it.
    pub(super) fn name(&self) -> Result<String, DeviceError> {
        result::device::get_name(self.ordinal).map_err(|error| self.failed("name", error))
    }

    /// Whether the device has pools, from which memory is allocated and freed in the order of a stream.
    pub(super) fn has_pools(&self) -> bool {
        let pools = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
        // SAFETY: the driver returned this device.
        unsafe { result::device::get_attribute(self.ordinal, pools) }.is_ok_and(|value| value != 0)
    }

    /// Makes the context current on this thread until the guard is dropped.
    pub(super) fn enter(&self, operation: &'static str) -> Result<Current<'_>, DeviceError> {
        self.current()
            .map_err(|error| self.failed(operation, error))
    }

    /// Does what [`enter`](Self::enter) does, and returns the driver's own error.
    pub(super) fn current(&self) -> Result<Current<'_>, DriverError> {
        // SAFETY: by invariant 1 the context is retained.
        unsafe { sys::cuCtxPushCurrent_v2(self.context) }.result()?;
        let mut current = Current {
            mode: sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
            context: PhantomData,
        };
        current.exchange_mode();
        Ok(current)
    }

    /// Waits for work of this context by a function of the driver, and returns once the work is over, also if it failed.
    ///
    /// An answer that says nothing about the work, such as that of a thread which captures a graph, is not an end: the driver
    /// is asked again after a millisecond, without a limit. Otherwise a caller's slice would be returned that a copy still
    /// writes. After a second this warns, once.
    pub(super) fn until_over(
        &self,
        wait: impl Fn() -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let mut warned = false;
        let ended = self.ask(wait, |error, since| {
            if since >= SUSPICIOUS && !warned {
                warned = true;
                warn(self.device, error, "a thread waits until it does");
            }
            true
        });
        ended.unwrap_or_else(Err)
    }

    /// Does what [`until_over`](Self::until_over) does, for a drop: it gives up when the driver has told nothing of the work
    /// for [`patience`], or at once if another drop has given up since the driver last told. `None` then: the work may go
    /// on, so what it uses is to be leaked.
    pub(super) fn until_over_in_drop(
        &self,
        wait: impl Fn() -> Result<(), DriverError>,
    ) -> Option<Result<(), DriverError>> {
        let patience = patience();
        let ended = self.ask(wait, |error, since| {
            // Relaxed: whether a drop gives up early does not order anything.
            if self.gave_up.load(Ordering::Relaxed) {
                return false;
            }
            let wait = since < patience;
            // Relaxed: as above.
            if !wait && !self.gave_up.swap(true, Ordering::Relaxed) {
                warn(
                    self.device,
                    error,
                    "what the work uses is leaked, and so it is from now on until it does",
                );
            }
            wait
        });
        ended.ok()
    }

    /// Asks the driver until it says that work is over, or until `go_on` returns `false`: it gets each answer that says
    /// nothing about the work, and the time since the first of them. The error is such an answer.
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing says when the driver will tell"
    )]
    fn ask(
        &self,
        wait: impl Fn() -> Result<(), DriverError>,
        mut go_on: impl FnMut(DriverError, Duration) -> bool,
    ) -> Result<Result<(), DriverError>, DriverError> {
        let mut first = None;
        loop {
            let answer = self.current().and_then(|_current| wait());
            match answer {
                Err(error) if !is_over(error) => {
                    let since = first.get_or_insert_with(Instant::now).elapsed();
                    if !go_on(error, since) {
                        return Err(error);
                    }
                    thread::sleep(RETRY);
                }
                over => {
                    // Relaxed: as in `until_over_in_drop`.
                    self.gave_up.store(false, Ordering::Relaxed);
                    return Ok(over);
                }
            }
        }
    }

    /// The error of an operation of this device.
    #[cold]
    pub(super) fn failed(&self, operation: &'static str, error: DriverError) -> DeviceError {
        failed(self.device, operation, error)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: by invariant 1 this value retained it once. An error is ignored: the driver may have ended with the
        // process.
        let _ = unsafe { result::primary_ctx::release(self.ordinal) };
    }
}

#[cold]
fn failed(device: Device, operation: &'static str, error: DriverError) -> DeviceError {
    DeviceError::failed(device, operation, ManagerError::new(describe(error)))
}

/// Whether the answer to a query of some work, or to a wait for it, says that none of the context's work runs any more. All
/// other errors may be of the call alone, and the work goes on.
pub(super) fn is_over(error: DriverError) -> bool {
    use sys::CUresult::*;
    matches!(
        error.0,
        // The driver was shut down, or the program reset the device: the context and what belonged to it are gone. A driver
        // that has made the context and is not initialised is that of a process that was forked, or one that shuts down.
        CUDA_ERROR_NOT_INITIALIZED
            | CUDA_ERROR_DEINITIALIZED
            | CUDA_ERROR_INVALID_CONTEXT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_INVALID_HANDLE
            // The hardware failed under the work. NVIDIA's documentation says of these two that the error was detected
            // during execution, and not what becomes of other work. This takes them for an end, as the errors below are.
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            // The work failed. NVIDIA's documentation says of each of these that the process cannot use the device any more.
            // Codes that are missing here are taken for no end, `CUDA_ERROR_KEY_ROTATION` among them, of which it is not
            // known here whether work goes on.
            | CUDA_ERROR_CONTAINED
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUDA_ERROR_MPS_CLIENT_TERMINATED
            | CUDA_ERROR_EXTERNAL_DEVICE
    )
}

/// How long a thread waits before it asks the driver again.
const RETRY: Duration = Duration::from_millis(1);

/// How long the driver may tell nothing of some work before a wait without a limit says that it hangs.
const SUSPICIOUS: Duration = Duration::from_secs(1);

/// How long the driver may tell nothing of some work before a drop gives up, and leaks what the work uses. A driver that
/// refuses for a while, as while a graph is captured, has told by then.
fn patience() -> Duration {
    #[cfg(feature = "testing")]
    if let Some(text) = std::env::var_os("TESTING_CUDA_PATIENCE_MS") {
        let millis = text.to_str().and_then(|text| text.parse().ok());
        return millis.map_or(Duration::ZERO, Duration::from_millis);
    }
    Duration::from_secs(30)
}

/// Warns of a driver that tells nothing of some work.
#[cold]
fn warn(device: Device, error: DriverError, what: &str) {
    let line = format!(
        "device `{device}`: the driver does not tell whether work is over ({}): {what}",
        describe(error)
    );
    tell(|| tracing::warn!("{line}"), || line.clone());
}

/// While this exists, a context is the current one of this thread, and the thread may make all calls while any thread
/// captures a graph: none of ours is given to a stream that is captured. What was before comes back when it is dropped.
pub(super) struct Current<'a> {
    /// The mode that the thread does not have now.
    mode: sys::CUstreamCaptureMode,
    context: PhantomData<(&'a Context, *mut ())>,
}

impl Current<'_> {
    fn exchange_mode(&mut self) {
        // SAFETY: the driver reads and writes this mode only. If it fails, calls during a capture fail, too.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut self.mode) };
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        self.exchange_mode();
        let mut popped = std::ptr::null_mut();
        // SAFETY: `enter` pushed a context on this thread, which this type does not leave.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&raw mut popped) };
    }
}
