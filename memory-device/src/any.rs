//! [`AnyBuffer`]: bytes wherever they are, and [`AnyAllocator`]: where they shall be.

use arrow_memory_core::{ArrowBuf, ArrowBufMut, BufferAllocator, RootAllocator};

use crate::allocator::DeviceAllocator;
use crate::block::Payer;
use crate::buf::DeviceBuf;
use crate::buf_mut::DeviceBufMut;
use crate::device::Device;
use crate::error::DeviceError;
use crate::event::Stream;
use crate::io::{Reader, Writer};
use crate::root::DeviceRoot;
use crate::view;

/// A shared buffer, wherever its bytes are: an [`ArrowBuf`] or a [`DeviceBuf`].
///
/// So code that does not know where its data is says where it shall be, and gets it there:
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{ArrowBuf, BufferAllocator, RootAllocator};
/// use arrow_memory_device::{AnyBuffer, DeviceError, DeviceRoot, SimDevice};
///
/// /// The sum of bytes that may be anywhere.
/// fn sum(bytes: &impl AnyBuffer, host: &BufferAllocator) -> Result<u64, DeviceError> {
///     let bytes: ArrowBuf = bytes.view_or_copy(host)?; // a copy only if the CPU cannot read them
///     Ok(bytes.iter().copied().map(u64::from).sum())
/// }
///
/// let host = RootAllocator::new(1 << 20);
/// let gpu = DeviceRoot::builder().limit(1 << 20).manager(SimDevice::new()).build()?;
/// let here = host.buffer_from_slice(&[1, 2, 3])?;
/// let there = here.copy_to(&gpu)?;
/// assert_eq!((sum(&here, &host)?, sum(&there, &host)?), (6, 6));
/// assert_eq!((host.allocated_memory(), gpu.allocated_memory()), (64, 64));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AnyBuffer: sealed::Source {
    /// Returns the length in bytes.
    fn len(&self) -> usize {
        match self.bytes() {
            Bytes::Host(buffer) => buffer.len(),
            Bytes::Device(buffer) => buffer.len(),
        }
    }

    /// Returns whether the length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the device that has the bytes; [`Device::CPU`] for an [`ArrowBuf`].
    fn device(&self) -> Device {
        match self.bytes() {
            Bytes::Host(_) => Device::CPU,
            Bytes::Device(buffer) => buffer.device(),
        }
    }

    /// Returns whether the CPU may read the bytes by their address.
    fn is_cpu(&self) -> bool {
        self.device().is_cpu()
    }

    /// Returns the same bytes as a buffer of `target`, without a copy; `None` if they cannot be seen from there.
    ///
    /// * If `target` is of the same tree, the buffer is shared with it, as by `retain_in`: the charge stays
    ///   where it is until the owner's last buffer is dropped.
    /// * Otherwise the view keeps the source alive. The bytes stay charged in the tree of the source, and
    ///   nowhere else; `target` is charged 1 byte for the view, so that its `close` reports it. Its allocation's size
    ///   is that one byte. A view on the CPU waits for the work that writes the bytes.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`] if `target` is closed, or has no room for that byte; [`DeviceError::Transfer`] if
    /// `target` is closed; the error of the work that writes the bytes.
    #[doc(alias = "View")]
    #[track_caller]
    fn view_on<A: AnyAllocator>(&self, target: &A) -> Result<Option<A::Buf>, DeviceError> {
        target.view(self.bytes())
    }

    /// Copies the bytes to a new buffer of `target`, which is charged for it, and waits until they are there.
    ///
    /// A copy to a device moves all bytes at once where the devices know a way. Otherwise it moves them over
    /// the host, 64 KiB at a time.
    ///
    /// # Errors
    ///
    /// The errors of [`DeviceAllocator::allocate`], or of [`BufferAllocator::buffer`] as
    /// [`DeviceError::Refused`]; an error of a device that copies, or of the work that writes the bytes. Nothing
    /// stays charged then.
    #[doc(alias = "Copy")]
    #[track_caller]
    fn copy_to<A: AnyAllocator>(&self, target: &A) -> Result<A::Buf, DeviceError> {
        target.copy(self.bytes(), None)
    }

    /// Copies the bytes to a new buffer of `target` in the order of a stream of the target's device, and does not wait:
    /// the buffer is [ready](DeviceBuf::ready) once they are there. The source is kept until then.
    ///
    /// A copy to the host, and one over the host, blocks the thread after all. A stream of the source's device orders
    /// a copy from a device to the host, and a stream of the CPU's one within the host.
    ///
    /// If the work that writes the source fails, the copy has unspecified bytes: the error is that of the source's
    /// [`synchronize`](DeviceBuf::synchronize), and perhaps of the copy's, as the device has it. If that work has failed
    /// already, this returns the error.
    ///
    /// # Errors
    ///
    /// Those of [`copy_to`](Self::copy_to), and [`DeviceError::WrongDevice`].
    #[track_caller]
    fn copy_to_on<A: AnyAllocator>(
        &self,
        target: &A,
        stream: &Stream,
    ) -> Result<A::Buf, DeviceError> {
        target.copy(self.bytes(), Some(stream))
    }

    /// Returns the bytes as a buffer of `target`: [viewed](Self::view_on) if they can be seen from there, else
    /// [copied](Self::copy_to).
    ///
    /// # Errors
    ///
    /// Those of the two.
    #[doc(alias("ViewOrCopy", "ViewOrCopyTo"))]
    #[track_caller]
    fn view_or_copy<A: AnyAllocator>(&self, target: &A) -> Result<A::Buf, DeviceError> {
        match self.view_on(target)? {
            Some(view) => Ok(view),
            None => self.copy_to(target),
        }
    }

    /// Returns a reader of the bytes, which keeps them alive. It copies at most 64 KiB at a time.
    #[doc(alias = "GetReader")]
    fn reader(&self) -> Reader {
        Reader::new(match self.bytes() {
            Bytes::Host(buffer) => Ok(buffer.clone()),
            Bytes::Device(buffer) => Err(buffer.clone()),
        })
    }
}

impl AnyBuffer for ArrowBuf {}
impl AnyBuffer for DeviceBuf {}

/// A buffer with one handle, wherever its bytes are: an [`ArrowBufMut`] or a [`DeviceBufMut`].
pub trait AnyBufferMut: sealed::Sink {
    /// Returns a writer of the bytes within the buffer's length, from the start. It copies at most 64 KiB at a
    /// time, and nobody else can use the bytes meanwhile.
    ///
    /// ```
    /// # use arrow_memory_device::{DeviceRoot, SimDevice};
    /// use std::io::{Seek, SeekFrom, Write};
    /// use arrow_memory_device::{AnyBuffer, AnyBufferMut};
    ///
    /// let gpu = DeviceRoot::builder().manager(SimDevice::new()).build()?;
    /// let mut buffer = gpu.allocate(10)?;
    /// let mut writer = buffer.writer();
    /// writer.seek(SeekFrom::Start(2))?;
    /// writer.write_all(b"columnar")?;
    /// assert!(writer.write_all(b"!").is_err()); // the buffer does not grow
    /// let text = std::io::read_to_string(buffer.freeze().slice(2..).reader())?;
    /// assert_eq!(text, "columnar");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "GetWriter")]
    fn writer(&mut self) -> Writer<'_> {
        self.sink()
    }
}

impl AnyBufferMut for ArrowBufMut {}
impl AnyBufferMut for DeviceBufMut {}

/// Where bytes shall be: a [`BufferAllocator`] (for the host), a [`DeviceAllocator`], or the root of either.
pub trait AnyAllocator: sealed::Sealed {
    /// The buffers of this allocator.
    type Buf: AnyBuffer;

    /// Returns the device whose memory this allocates; [`Device::CPU`] for the host.
    fn device(&self) -> Device;

    #[doc(hidden)]
    #[track_caller]
    fn view(&self, source: Bytes<'_>) -> Result<Option<Self::Buf>, DeviceError>;

    #[doc(hidden)]
    #[track_caller]
    fn copy(&self, source: Bytes<'_>, stream: Option<&Stream>) -> Result<Self::Buf, DeviceError>;
}

impl AnyAllocator for BufferAllocator {
    type Buf = ArrowBuf;

    fn device(&self) -> Device {
        Device::CPU
    }

    #[track_caller]
    fn view(&self, source: Bytes<'_>) -> Result<Option<ArrowBuf>, DeviceError> {
        match source {
            Bytes::Host(buffer) if buffer.shares_root(self) => Ok(Some(buffer.retain_in(self)?)),
            Bytes::Host(buffer) => Ok(Some(view::of_host_on_host(buffer, self)?)),
            Bytes::Device(buffer) => view::of_device_on_host(buffer, self),
        }
    }

    #[track_caller]
    fn copy(&self, source: Bytes<'_>, stream: Option<&Stream>) -> Result<ArrowBuf, DeviceError> {
        match source {
            Bytes::Host(buffer) => {
                if let Some(stream) = stream {
                    if !stream.device().is_cpu() {
                        return Err(DeviceError::wrong_device(Device::CPU, stream.device()));
                    }
                    stream.synchronize()?;
                }
                Ok(self.buffer_from_slice(buffer)?)
            }
            Bytes::Device(buffer) => buffer.copy_to_buffer(self, stream),
        }
    }
}

impl AnyAllocator for DeviceAllocator {
    type Buf = DeviceBuf;

    fn device(&self) -> Device {
        self.manager().device()
    }

    #[track_caller]
    fn view(&self, source: Bytes<'_>) -> Result<Option<DeviceBuf>, DeviceError> {
        match source {
            Bytes::Host(buffer) => view::of_host_on_device(buffer, self),
            Bytes::Device(buffer) if buffer.shares_root(self) => Ok(Some(buffer.retain_in(self)?)),
            Bytes::Device(buffer) => view::of_device_on_device(buffer, self),
        }
    }

    #[track_caller]
    fn copy(&self, source: Bytes<'_>, stream: Option<&Stream>) -> Result<DeviceBuf, DeviceError> {
        let payer = Payer::Allocator(self.accounting());
        match source {
            Bytes::Host(buffer) => {
                let mut target = self.allocate_with(buffer.len(), stream, payer)?;
                target.fill_from_host(buffer, stream)?;
                Ok(target.freeze())
            }
            Bytes::Device(buffer) => {
                let mut target = self.allocate_with(buffer.len(), stream, payer)?;
                target.fill_from_device(buffer, stream)?;
                Ok(target.freeze())
            }
        }
    }
}

macro_rules! root_as_allocator {
    ($Root:ty, $Allocator:ty) => {
        impl AnyAllocator for $Root {
            type Buf = <$Allocator as AnyAllocator>::Buf;

            fn device(&self) -> Device {
                AnyAllocator::device(&**self)
            }

            #[track_caller]
            fn view(&self, source: Bytes<'_>) -> Result<Option<Self::Buf>, DeviceError> {
                (**self).view(source)
            }

            #[track_caller]
            fn copy(
                &self,
                source: Bytes<'_>,
                stream: Option<&Stream>,
            ) -> Result<Self::Buf, DeviceError> {
                (**self).copy(source, stream)
            }
        }
    };
}

root_as_allocator!(RootAllocator, BufferAllocator);
root_as_allocator!(DeviceRoot, DeviceAllocator);

/// A buffer of one of the two kinds.
#[derive(Clone, Copy)]
pub enum Bytes<'a> {
    /// Memory of the host.
    Host(&'a ArrowBuf),
    /// Memory of a device.
    Device(&'a DeviceBuf),
}

mod sealed {
    use super::{ArrowBuf, ArrowBufMut, Bytes, DeviceBuf, DeviceBufMut, Writer};
    use super::{BufferAllocator, DeviceAllocator, DeviceRoot, RootAllocator};

    /// What has bytes to be read.
    pub trait Source {
        fn bytes(&self) -> Bytes<'_>;
    }

    impl Source for ArrowBuf {
        fn bytes(&self) -> Bytes<'_> {
            Bytes::Host(self)
        }
    }

    impl Source for DeviceBuf {
        fn bytes(&self) -> Bytes<'_> {
            Bytes::Device(self)
        }
    }

    /// What has bytes to be written.
    pub trait Sink {
        fn sink(&mut self) -> Writer<'_>;
    }

    impl Sink for ArrowBufMut {
        fn sink(&mut self) -> Writer<'_> {
            Writer::on_host(self.as_mut_slice())
        }
    }

    impl Sink for DeviceBufMut {
        fn sink(&mut self) -> Writer<'_> {
            Writer::on_device(self)
        }
    }

    pub trait Sealed {}
    impl Sealed for BufferAllocator {}
    impl Sealed for RootAllocator {}
    impl Sealed for DeviceAllocator {}
    impl Sealed for DeviceRoot {}
}
