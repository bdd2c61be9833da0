//! [`SimDevice`]: a device for tests, whose memory no CPU can read.
#![expect(unsafe_code, reason = "implements a device's manager")]

mod shared;
mod state;

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_memory_core::__private::lock_uncounted;
use arrow_memory_core::__private::sync::plain::Mutex;
use arrow_memory_core::{ManagerError, ManagerStats};

use self::shared::{Shared, SimEvent, SimStream, sleep_until};
pub use self::state::Hazard;
use self::state::{HostBytes, POISON, Span, Work};
use crate::device::{Device, DeviceAddress, DeviceKind};
use crate::error::DeviceError;
use crate::event::{Event, Stream};
use crate::manager::DeviceManager;

/// A simulated device: memory with an address space of its own, in which a dereference faults.
///
/// Programs that use devices can be tested with it where there is none, and with it rather than a real one, since it
/// finds what a real one lets pass:
///
/// * its addresses are mapped in no process, so a dereference faults;
/// * memory that was not written contains [`POISON`](Self::POISON), and so does host memory that an unfinished copy is
///   to write;
/// * copies on a stream are not done when they return. With [`late`](SimDeviceBuilder::late) they are not even done
///   later, but only once their event, or later work of their stream, is waited for. Whoever forgets to wait reads
///   poison, each time;
/// * what is used in the wrong order is recorded as a [`Hazard`].
///
/// It is of kind [`DeviceKind::ExtDev`], its bytes are in memory of the host that no tree is charged for, and one lock
/// serves all of it.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::RootAllocator;
/// use arrow_memory_device::{AnyBuffer, DeviceRoot, SimDevice};
///
/// let sim = SimDevice::builder().late(true).build();
/// let gpu = DeviceRoot::builder().manager(sim.clone()).build()?;
/// let stream = gpu.stream()?;
///
/// let host = RootAllocator::new(1 << 20);
/// let there = host.buffer_from_slice(b"columnar")?.copy_to_on(&gpu, &stream)?;
/// assert!(!there.ready().expect("nobody waited for the copy").is_done());
/// let back = there.copy_to(&host)?; // waits for the first copy, since it reads what that writes
/// assert_eq!(back.as_slice(), b"columnar");
/// assert!(there.ready().is_none() && sim.hazards().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SimDevice {
    shared: Arc<Shared>,
    capacity: usize,
    injected: Mutex<Injected>,
}

/// The longest latency. The clock's instants end somewhere, which std does not say, and a sum beyond it panics.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// An operation of a [`SimDevice`] that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SimOperation {
    /// The allocation of a block.
    Allocate,
    /// A copy from the host, when it is begun.
    CopyIn,
    /// A copy to the host, when it is begun.
    CopyOut,
    /// A copy within the device, when it is begun.
    CopyWithin,
    /// A copy on a stream, when it is done: its target contains poison, and waiting for it returns the error. All later
    /// work of its stream fails in the same way, and so does later work of each stream that waits for work that failed.
    Finish,
    /// The creation of a stream.
    Stream,
}

/// The failures that are to come, and the calls that are left before each.
#[derive(Debug, Default)]
struct Injected(Vec<(SimOperation, usize, Failure)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Error,
    Panic,
}

impl Injected {
    /// The failure of this call.
    fn due(&mut self, operation: SimOperation) -> Option<Failure> {
        let mut due = None;
        self.0.retain_mut(|(injected, left, failure)| {
            if *injected != operation {
                return true;
            }
            *left -= 1;
            if *left == 0 {
                due.get_or_insert(*failure);
            }
            *left > 0
        });
        due
    }
}

impl SimDevice {
    /// What memory contains that was not written yet.
    pub const POISON: u8 = POISON;

    /// Creates a device with number 0, without a capacity, whose copies take no time.
    pub fn new() -> Arc<Self> {
        Self::builder().build()
    }

    /// Returns a builder of a device, with all options.
    pub fn builder() -> SimDeviceBuilder {
        SimDeviceBuilder {
            id: 0,
            capacity: usize::MAX,
            latency: Duration::ZERO,
            late: false,
        }
    }

    /// Returns what was done in the wrong order since the last call.
    ///
    /// ```
    /// # use arrow_memory_device::{DeviceManager, SimDevice};
    /// let sim = SimDevice::new();
    /// // … a test that uses it …
    /// assert_eq!(sim.hazards(), []);
    /// ```
    pub fn hazards(&self) -> Vec<Hazard> {
        self.shared.with(|state| state.take_hazards())
    }

    /// Makes the `nth` of the following calls of that operation fail. The next one is the first. If one call is to fail in
    /// several ways, it fails in the way that was asked for first.
    pub fn fail_nth(&self, operation: SimOperation, nth: usize) {
        self.inject(operation, nth, Failure::Error);
    }

    /// Makes the `nth` of the following calls of that operation panic. The next one is the first. For
    /// [`SimOperation::Finish`], which never panics, it fails.
    pub fn panic_nth(&self, operation: SimOperation, nth: usize) {
        self.inject(operation, nth, Failure::Panic);
    }

    /// Returns the bytes that blocks have on the device, with those that were given back while a copy was under
    /// way, and that it has not freed yet.
    pub fn used_bytes(&self) -> usize {
        self.shared.with(|state| state.used())
    }

    fn inject(&self, operation: SimOperation, nth: usize, failure: Failure) {
        let injected = (operation, nth.max(1), failure);
        lock_uncounted(&self.injected).0.push(injected);
    }

    /// Fails or panics if that was injected.
    fn attempt(&self, operation: SimOperation, name: &'static str) -> Result<(), DeviceError> {
        let due = lock_uncounted(&self.injected).due(operation);
        match due {
            None => Ok(()),
            Some(Failure::Error) => Err(self.failed(name, "injected failure")),
            Some(Failure::Panic) => panic!("injected panic"),
        }
    }

    fn failed(&self, operation: &'static str, reason: &str) -> DeviceError {
        DeviceError::failed(self.device(), operation, ManagerError::new(reason))
    }

    /// The stream, if it is one of this device.
    fn own<'a>(&self, stream: Option<&'a Stream>) -> Result<Option<&'a SimStream>, DeviceError> {
        let Some(stream) = stream else {
            return Ok(None);
        };
        let own = stream.downcast_ref::<SimStream>();
        match own.filter(|own| Arc::ptr_eq(&own.0.shared, &self.shared)) {
            Some(own) => Ok(Some(own)),
            None => Err(DeviceError::wrong_device(self.device(), stream.device())),
        }
    }

    /// Does a copy now, or puts it at the end of a stream.
    fn copy(
        &self,
        operation: SimOperation,
        name: &'static str,
        spans: &[Span],
        work: Work,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        let stream = self.own(stream)?;
        let live = self
            .shared
            .with(|state| spans.iter().all(|&span| state.check(span)));
        if !live {
            return Err(self.failed(name, "these bytes lie in no live block"));
        }
        self.attempt(operation, name)?;
        let due = Instant::now() + self.shared.latency;
        if let Some(stream) = stream {
            let fails = lock_uncounted(&self.injected).due(SimOperation::Finish);
            return Ok(stream.push(work, due, fails.is_some()));
        }
        sleep_until(due);
        self.shared.run_due();
        self.shared.with(|state| state.perform_now(&work));
        Ok(Event::done())
    }
}

impl Drop for SimDevice {
    fn drop(&mut self) {
        // Work that waits for an event keeps that, and so this device's memory, until it is done.
        self.shared.run_all();
    }
}

// SAFETY: blocks lie in memory of their own, at addresses that are used once; copies stay within the spans they were
// given, which are checked, and are done in the order of their stream, before their event is. Nothing is shown to the
// CPU. `deallocate` does not panic: panics of events are caught. Only a `SimStream` of this device is accepted.
unsafe impl DeviceManager for SimDevice {
    fn device(&self) -> Device {
        self.shared.device
    }

    fn name(&self) -> &str {
        "sim"
    }

    fn allocate(
        &self,
        layout: Layout,
        stream: Option<&Stream>,
    ) -> Result<DeviceAddress, DeviceError> {
        self.own(stream)?;
        self.attempt(SimOperation::Allocate, "allocation")?;
        let size = layout.size();
        let allocate = || {
            self.shared.with(|state| {
                let fits = state.used().checked_add(size)? <= self.capacity;
                fits.then(|| state.allocate(size)).flatten()
            })
        };
        // Blocks that were given back may still be in use: they are free once all work is done.
        let at = allocate().or_else(|| {
            self.shared.run_all();
            allocate()
        });
        at.and_then(DeviceAddress::new).ok_or_else(|| {
            let source = ManagerError::out_of_memory(layout);
            DeviceError::failed(self.device(), "allocation", source)
        })
    }

    unsafe fn deallocate(&self, at: DeviceAddress, layout: Layout, after: &[Event]) {
        let own = |event: &Event| {
            let SimEvent { stream, id } = event.downcast_ref()?;
            Arc::ptr_eq(&stream.shared, &self.shared).then_some((stream.number, *id))
        };
        // Work of other devices is over after this, even if it failed; but not if its event panicked or gave up.
        let mut over = true;
        for foreign in after.iter().filter(|event| own(event).is_none()) {
            over &= foreign.outcome_in_drop().is_some();
        }
        if !over {
            return;
        }
        let own: Vec<(usize, u64)> = after.iter().filter_map(own).collect();
        let covered = |stream, id| own.iter().any(|&(s, last)| s == stream && id <= last);
        self.shared.run_due();
        self.shared
            .with(|state| state.free(at.get(), layout.size(), covered));
    }

    unsafe fn copy_in(
        &self,
        from: &[u8],
        to: DeviceAddress,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        let (from, to) = (HostBytes::from(from), span(to, from.len()));
        let work = Work::In { from, to };
        self.copy(
            SimOperation::CopyIn,
            "copy from the host",
            &[to],
            work,
            stream,
        )
    }

    unsafe fn copy_out(
        &self,
        from: DeviceAddress,
        to: &mut [MaybeUninit<u8>],
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        let (from, to) = (span(from, to.len()), HostBytes::to(to));
        let work = Work::Out { from, to };
        self.copy(
            SimOperation::CopyOut,
            "copy to the host",
            &[from],
            work,
            stream,
        )
    }

    unsafe fn copy_within(
        &self,
        from: DeviceAddress,
        to: DeviceAddress,
        len: usize,
        stream: Option<&Stream>,
    ) -> Result<Event, DeviceError> {
        let (from, to) = (span(from, len), span(to, len));
        let (spans, work) = ([from, to], Work::Within { from, to });
        self.copy(
            SimOperation::CopyWithin,
            "copy on the device",
            &spans,
            work,
            stream,
        )
    }

    fn view_of(
        &self,
        other: &dyn DeviceManager,
        at: DeviceAddress,
        _len: usize,
    ) -> Option<DeviceAddress> {
        ptr::addr_eq(ptr::from_ref(other), ptr::from_ref(self)).then_some(at)
    }

    fn stream(&self) -> Result<Stream, DeviceError> {
        self.attempt(SimOperation::Stream, "the creation of a stream")?;
        Ok(Stream::new(SimStream::new(&self.shared)))
    }

    fn stats(&self) -> ManagerStats {
        self.shared.with(|state| state.stats())
    }
}

fn span(at: DeviceAddress, len: usize) -> Span {
    let at = at.get();
    Span { at, len }
}

/// Builds a [`SimDevice`].
///
/// ```
/// use std::time::Duration;
/// use arrow_memory_device::{DeviceManager, SimDevice};
///
/// let sim = SimDevice::builder()
///     .id(1)
///     .capacity(1 << 20)
///     .latency(Duration::from_micros(50))
///     .build();
/// assert_eq!(sim.device().to_string(), "ext-dev:1");
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct SimDeviceBuilder {
    id: i64,
    capacity: usize,
    latency: Duration,
    late: bool,
}

impl SimDeviceBuilder {
    /// Sets the number of the device; 0 by default. Two devices of one number are two devices: neither sees the
    /// other's memory.
    pub fn id(mut self, id: i64) -> Self {
        self.id = id;
        self
    }

    /// Sets the bytes that the device has; without this call there is no end to them.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = bytes;
        self
    }

    /// Sets how long a copy takes, at most a year; no time by default. A copy without a stream blocks the thread so long.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency.min(LONGEST);
        self
    }

    /// Sets whether copies on a stream are done only once they are waited for, by the thread or by later work; by
    /// default, `false`, they are done after the latency.
    pub fn late(mut self, late: bool) -> Self {
        self.late = late;
        self
    }

    /// Builds the device.
    pub fn build(self) -> Arc<SimDevice> {
        let device = Device::new(DeviceKind::ExtDev, self.id);
        Arc::new(SimDevice {
            shared: Arc::new(Shared::new(device, self.latency, self.late)),
            capacity: self.capacity,
            injected: Mutex::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{DeviceManager, SimDevice};

    #[test]
    fn streams_are_forgotten_with_their_last_event() {
        for late in [false, true] {
            let sim = SimDevice::builder().late(late).build();
            let streams = || sim.shared.with(|state| state.streams().len());

            let event = sim.stream().unwrap().record().unwrap();
            drop(sim.stream().unwrap());
            assert_eq!(streams(), 1);
            let stream = sim.stream().unwrap();
            stream.wait_for(&event).unwrap();
            drop(event); // its work keeps its stream, and the wait of the other one does
            assert_eq!(streams(), 2);
            stream.synchronize().unwrap();
            assert_eq!(streams(), 1);
            drop(stream.record().unwrap());
            drop(stream);
            assert_eq!(streams(), 1); // its work is not done yet
            sim.shared.run_all();
            assert_eq!(streams(), 0);
        }
    }
}
