//! A device's manager that fails or panics where the plan says so, over the simulated device.
#![expect(
    unsafe_code,
    reason = "implements a device's manager, which passes on what another one promises"
)]

use std::alloc::Layout;
use std::any::Any;
use std::mem::MaybeUninit;
use std::ptr;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_memory_core::{ManagerError, ManagerStats};
use arrow_memory_device::{
    Device, DeviceAddress, DeviceError, DeviceManager, Event, SimDevice, SimOperation, Stream,
};

use crate::plan::{Point, fails, panics};

#[derive(Debug)]
pub(crate) struct HostileDevice {
    pub(crate) inner: Arc<SimDevice>,
}

impl HostileDevice {
    fn step(&self, point: Point) -> Result<(), DeviceError> {
        match fails(point) {
            true => Err(DeviceError::failed(
                self.inner.device(),
                "work",
                ManagerError::new("injected"),
            )),
            false => Ok(()),
        }
    }

    /// A copy that may be refused, and whose work may fail if it is on a stream.
    fn copy(&self, stream: Option<&Stream>) -> Result<(), DeviceError> {
        self.step(Point::Device)?;
        if stream.is_some() && fails(Point::Work) {
            self.inner.fail_nth(SimOperation::Finish, 1);
        }
        Ok(())
    }
}

// SAFETY: every method but `deallocate` fails or panics without doing anything, or forwards to a manager that keeps the
// promises.
unsafe impl DeviceManager for HostileDevice {
    fn device(&self) -> Device {
        self.inner.device()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn allocate(
        &self,
        layout: Layout,
        stream: Option<&Stream>,
    ) -> Result<DeviceAddress, DeviceError> {
        self.step(Point::Device)?;
        self.inner.allocate(layout, stream)
    }

    unsafe fn deallocate(&self, at: DeviceAddress, layout: Layout, after: &[Event]) {
        // SAFETY: the caller's promise is about a block of ours, which is one of `inner`.
        unsafe { self.inner.deallocate(at, layout, after) };
    }

    unsafe fn copy_in(
        &self,
        from: &[u8],
        to: DeviceAddress,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        self.copy(stream)?;
        // SAFETY: the caller's promise; our live memory is that of `inner`.
        unsafe { self.inner.copy_in(from, to, stream) }
    }

    unsafe fn copy_out(
        &self,
        from: DeviceAddress,
        to: &mut [MaybeUninit<u8>],
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        self.copy(stream)?;
        // SAFETY: the caller's promise; our live memory is that of `inner`.
        unsafe { self.inner.copy_out(from, to, stream) }
    }

    unsafe fn copy_within(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        self.copy(stream)?;
        // SAFETY: the caller's promise; our live memory is that of `inner`.
        unsafe { self.inner.copy_within(from, to, len, stream) }
    }

    fn view_on_cpu(&self, at: DeviceAddress, len: usize) -> Option<NonNull<u8>> {
        panics(Point::Device);
        self.inner.view_on_cpu(at, len)
    }

    fn view_of(
        &self,
        other: &dyn DeviceManager,
        at: DeviceAddress,
        len: usize,
    ) -> Option<DeviceAddress> {
        panics(Point::Device);
        let other: &dyn Any = other;
        let other = other.downcast_ref::<Self>()?;
        // Two trees of one device have the same memory, each with a manager of its own.
        ptr::addr_eq(Arc::as_ptr(&other.inner), Arc::as_ptr(&self.inner))
            .then(|| self.inner.view_of(&*other.inner, at, len))
            .flatten()
    }

    fn stream(&self) -> Result<Stream, DeviceError> {
        self.step(Point::Stream)?;
        self.inner.stream()
    }

    fn stats(&self) -> ManagerStats {
        panics(Point::Stats);
        self.inner.stats()
    }
}
