//! [`DeviceWait`]: requests for device memory that wait.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use arrow_memory_core::{AllocationReservation, GiveWay, Wait};

use crate::allocator::DeviceAllocator;
use crate::block::Payer;
use crate::buf_mut::DeviceBufMut;
use crate::error::DeviceError;

/// A request that waits for device memory instead of being refused: made by [`DeviceAllocator::wait`].
///
/// The rules are those of [`Wait`]: whoever releases memory charges it on the request's behalf, in the order of age.
/// What is waited for is room in the accounting. The device is asked once that is granted.
///
/// ```
/// # use arrow_memory_device::{DeviceRoot, SimDevice};
/// use std::time::Duration;
///
/// let gpu = DeviceRoot::builder().limit(4096).manager(SimDevice::new()).build()?;
/// let held = gpu.allocate(4096)?;
/// let releaser = std::thread::spawn(move || drop(held));
/// let buffer = gpu.wait().at_most(Duration::from_secs(10)).allocate(1000)?;
/// assert_eq!(gpu.allocated_memory(), 1024);
/// # releaser.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a wait does nothing until `allocate`"]
pub struct DeviceWait<'a> {
    allocator: &'a DeviceAllocator,
    wait: Wait<'a>,
}

impl DeviceAllocator {
    /// Returns a request that waits for memory of this allocator instead of being refused.
    pub fn wait(&self) -> DeviceWait<'_> {
        DeviceWait {
            allocator: self,
            wait: self.accounting().wait(),
        }
    }

    /// Allocates what a reservation was granted for.
    #[track_caller]
    fn allocate_granted(
        &self,
        mut reservation: AllocationReservation,
        bytes: usize,
    ) -> Result<DeviceBufMut, DeviceError> {
        self.allocate_with(bytes, None, Payer::Reservation(&mut reservation))
    }
}

impl DeviceWait<'_> {
    /// Waits at most so long, from now on. Replaces what [`until`](Self::until) has set.
    pub fn at_most(mut self, duration: Duration) -> Self {
        self.wait = self.wait.at_most(duration);
        self
    }

    /// Waits at most until that instant. Replaces what [`at_most`](Self::at_most) has set.
    pub fn until(mut self, deadline: Instant) -> Self {
        self.wait = self.wait.until(deadline);
        self
    }

    /// Keeps the age of a request that was told to give way.
    pub fn after(mut self, give_way: GiveWay) -> Self {
        self.wait = self.wait.after(give_way);
        self
    }

    /// Allocates a buffer as [`DeviceAllocator::allocate`] does, and blocks the thread until it fits.
    ///
    /// Do not call it in a task of an async runtime: the thread may be the one that would release memory.
    ///
    /// # Errors
    ///
    /// * [`DeviceError::Wait`] after the deadline, or if waiters that hold memory wait for one another.
    /// * The errors of [`DeviceAllocator::allocate`] that waiting does not help.
    ///
    /// No byte stays charged after an error.
    #[track_caller]
    pub fn allocate(self, bytes: usize) -> Result<DeviceBufMut, DeviceError> {
        if bytes == 0 {
            return self.allocator.allocate(0);
        }
        let size = self.allocator.layout_of(bytes)?.size();
        let reservation = self.wait.reserve(size)?;
        self.allocator.allocate_granted(reservation, bytes)
    }

    /// Does what [`allocate`](Self::allocate) does, without blocking the thread until the bytes fit. The device is
    /// then asked by the thread that polls.
    ///
    /// # Errors
    ///
    /// Those of [`allocate`](Self::allocate).
    #[track_caller]
    pub fn allocate_async(
        self,
        bytes: usize,
    ) -> impl Future<Output = Result<DeviceBufMut, DeviceError>> + Send + use<> {
        let allocator = self.allocator.clone();
        // A reservation of 0 bytes does not wait, and neither does one whose size is refused below.
        let size = allocator.layout_of(bytes.max(1));
        let wanted = size.as_ref().map_or(0, |layout| layout.size());
        let granted = self.wait.reserve_async(if bytes == 0 { 0 } else { wanted });
        async move {
            size?;
            let reservation = granted.await?;
            allocator.allocate_granted(reservation, bytes)
        }
    }
}

impl fmt::Debug for DeviceWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceWait")
            .field("allocator", self.allocator)
            .finish_non_exhaustive()
    }
}
