//! [`DeviceBufMut`]: the only handle on a block of a device, which may be written.

use std::fmt;

use crate::allocator::DeviceAllocator;
use crate::buf::DeviceBuf;
use crate::device::Device;
use crate::error::DeviceError;
use crate::event::Event;

/// The only handle on a block of a device. Its bytes may be written; [`freeze`](Self::freeze) makes it a
/// [`DeviceBuf`], which is shared and no longer written.
///
/// Its contents are unspecified until they are written: by [`write_at`](Self::write_at), by
/// [`AnyBufferMut::writer`](crate::AnyBufferMut::writer), or by a kernel that gets its
/// [`address`](Self::address).
///
/// ```
/// use arrow_memory_device::{AnyBuffer, DeviceRoot, SimDevice};
/// use std::io::Read;
///
/// let gpu = DeviceRoot::builder().manager(SimDevice::new()).build()?;
/// let mut buffer = gpu.allocate(8)?;
/// buffer.write_at(0, b"columnar")?;
/// let mut text = String::new();
/// buffer.freeze().reader().read_to_string(&mut text)?;
/// assert_eq!(text, "columnar");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DeviceBufMut {
    pub(crate) buffer: DeviceBuf,
    /// The works that write the bytes, except for those that are known to have succeeded, and for those that are known to
    /// have failed after another one.
    pending: Vec<Event>,
}

impl DeviceBufMut {
    /// The handle on a block that nothing else knows yet, or on no memory.
    pub(crate) fn new(buffer: DeviceBuf) -> Self {
        Self {
            buffer,
            pending: Vec::new(),
        }
    }

    /// Returns the length in bytes: those that were asked for.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Returns whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Returns the size of the block in bytes of the device, all of which is charged.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Returns the address of the first byte on the device; 0 for a buffer on no memory.
    pub fn address(&self) -> u64 {
        self.buffer.address()
    }

    /// Returns the device that has the bytes.
    pub fn device(&self) -> Device {
        self.buffer.device()
    }

    /// Returns the allocator that is charged.
    pub fn allocator(&self) -> DeviceAllocator {
        self.buffer.allocator()
    }

    /// Says that the work of `event` writes these bytes. The buffer that [`freeze`](Self::freeze) makes is
    /// [ready](DeviceBuf::ready) after it, and the memory is not given back before.
    ///
    /// Call this after starting a kernel that writes the buffer. Earlier events stay: the buffer is ready after all of
    /// them, and has failed if one of them has. If two or more are unfinished, [`ready`](DeviceBuf::ready) is
    /// an event of its own, which is no manager's.
    pub fn written_by(&mut self, event: Event) {
        self.buffer.used_until(&event);
        self.forget_what_is_over();
        if !event.is_nothing() {
            self.pending.push(event);
        }
    }

    /// Drops the events of works that succeeded, and of those that failed all but the first one, whose error is returned.
    fn forget_what_is_over(&mut self) {
        let mut failed = false;
        self.pending.retain(|event| {
            let again = failed && event.has_failed();
            failed |= !again && event.has_failed();
            !again && !event.has_succeeded()
        });
    }

    /// Does what [`written_by`](Self::written_by) does for work that comes after all earlier work on these bytes and
    /// fails if that has failed, so that its event alone is to be waited for.
    pub(crate) fn written_last_by(&mut self, event: Event) {
        self.buffer.used_until(&event);
        self.pending.clear();
        if !event.is_nothing() {
            self.pending.push(event);
        }
    }

    /// Copies bytes of the host to `offset`, and waits for the copy.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses, or earlier work on these bytes failed.
    ///
    /// # Panics
    ///
    /// If the bytes would not lie within the buffer; nothing has changed then.
    #[track_caller]
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let end = offset.saturating_add(bytes.len());
        // Panics if the range is not within the buffer.
        let part = self.buffer.slice(offset.min(end)..end);
        self.synchronize()?;
        self.pending.clear();
        self.copy_in(&part, bytes)
    }

    /// Copies bytes at `offset` to the host, and waits for the copy.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the device refuses, or earlier work on these bytes failed.
    ///
    /// # Panics
    ///
    /// If the bytes do not lie within the buffer.
    #[track_caller]
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), DeviceError> {
        let end = offset.saturating_add(into.len());
        let part = self.buffer.slice(offset.min(end)..end);
        self.synchronize()?;
        part.copy_to_initialised(into)
    }

    /// Blocks the thread until all work that [writes](Self::written_by) the bytes is over.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the work failed.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        Event::all(&self.pending).wait()
    }

    /// Makes the buffer shared and immutable. Does not block: the result is [ready](DeviceBuf::ready) once
    /// the work is over that writes it. If that has failed, now or later, each use of the result returns the error.
    #[must_use]
    pub fn freeze(mut self) -> DeviceBuf {
        self.forget_what_is_over();
        let Self { buffer, pending } = self;
        let written = Event::all(&pending);
        if let Some(held) = buffer.held()
            && !written.is_nothing()
        {
            held.block().set_written(written);
        }
        buffer
    }
}

impl fmt::Debug for DeviceBufMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBufMut")
            .field("buffer", &self.buffer)
            .field("pending", &self.pending)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::error::DeviceError;
    use crate::event::{DeviceEvent, Event};
    use crate::root::DeviceRoot;
    use crate::sim::SimDevice;

    /// Work that failed.
    #[derive(Debug)]
    struct Fails(usize);

    impl DeviceEvent for Fails {
        fn is_done(&self) -> bool {
            true
        }

        fn wait(&self) -> Result<(), DeviceError> {
            Err(DeviceError::unavailable(format!("work {}", self.0)))
        }
    }

    #[test]
    fn of_works_that_failed_only_the_first_one_is_kept() {
        let device = DeviceRoot::builder().manager(SimDevice::new()).build();
        let mut buffer = device.unwrap().allocate(64).unwrap();

        for number in 0..100 {
            buffer.written_by(Event::new(Fails(number)));
        }

        assert!(buffer.pending.len() <= 2, "{}", buffer.pending.len());
        let error = buffer.freeze().synchronize().unwrap_err();
        assert_eq!(error.to_string(), "work 0");
    }
}
