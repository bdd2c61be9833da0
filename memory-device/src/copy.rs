//! Copies between buffers: everything that reads or writes the memory of a device.
//!
//! A buffer that is read is waited for first, by the thread or by the stream; and it is noted that the copy
//! uses it, so that its block is not freed before the copy is over. A buffer that is written has one handle.
#![expect(unsafe_code, reason = "calls a manager with addresses of its blocks")]

use std::mem::MaybeUninit;
use std::ptr;
use std::slice;
use std::sync::Arc;

use arrow_memory_core::{ArrowBuf, BufferAllocator};

use crate::buf::DeviceBuf;
use crate::buf_mut::DeviceBufMut;
use crate::device::DeviceAddress;
use crate::error::DeviceError;
use crate::event::{Event, Stream};
use crate::manager::DeviceManager;

/// The maximum of bytes that a reader, a writer or a copy over the host moves at once.
pub(crate) const PIECE: usize = 64 * 1024;

impl DeviceBuf {
    /// Waits until the bytes are written, then copies them, as many as `into` has room for, and waits for the copy.
    /// All of `into` is initialised after success.
    pub(crate) fn copy_to_host(&self, into: &mut [MaybeUninit<u8>]) -> Result<(), DeviceError> {
        assert_eq!(into.len(), self.len(), "a copy of a whole buffer");
        self.synchronize()?;
        let Some(from) = self.start().filter(|_| !into.is_empty()) else {
            return Ok(());
        };
        // SAFETY: the view lies in live memory, which nobody writes: what wrote it is done, and it is shared.
        // Without a stream the work is done when the call returns, and both slices stay until then.
        let event = unsafe { self.manager().copy_out(from, into, None) }?;
        event.wait()
    }

    /// Does what [`copy_to_host`](Self::copy_to_host) does, for bytes that are initialised already.
    pub(crate) fn copy_to_initialised(&self, into: &mut [u8]) -> Result<(), DeviceError> {
        let start = into.as_mut_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: the same bytes, which nothing but `copy_to_host` uses meanwhile. A manager writes bytes, and never
        // leaves one uninitialised that was not.
        let into = unsafe { slice::from_raw_parts_mut(start, into.len()) };
        self.copy_to_host(into)
    }
}

impl DeviceBuf {
    /// Copies all bytes to a new buffer of `target`, after what the stream was given so far, and waits for it.
    #[track_caller]
    pub(crate) fn copy_to_buffer(
        &self,
        target: &BufferAllocator,
        stream: Option<&Stream>,
    ) -> Result<ArrowBuf, DeviceError> {
        self.allocator().check_stream(stream)?;
        let mut copy = target.buffer(self.len())?;
        if let Some(stream) = stream {
            stream.synchronize()?;
        }
        self.copy_to_host(&mut copy.spare_capacity_mut()[..self.len()])?;
        // SAFETY: the capacity is as large at least, and the copy has initialised that many bytes.
        unsafe { copy.set_len(self.len()) };
        Ok(copy.freeze())
    }
}

impl DeviceBufMut {
    /// Copies bytes of the host to a part of this buffer, and waits for the copy.
    pub(crate) fn copy_in(&mut self, part: &DeviceBuf, bytes: &[u8]) -> Result<(), DeviceError> {
        assert_eq!(part.len(), bytes.len(), "a copy of a whole part");
        let Some(to) = part.start().filter(|_| !bytes.is_empty()) else {
            return Ok(());
        };
        // SAFETY: the part lies in a live block, which has this one handle, and the work that was to write it was
        // waited for. Without a stream the work is done when the call returns, and both live until then.
        let event = unsafe { part.manager().copy_in(bytes, to, None) }?;
        event.wait()
    }

    /// Begins to copy all of `source` to the start of this buffer. The source is kept until the copy is done.
    pub(crate) fn fill_from_host(
        &mut self,
        source: &ArrowBuf,
        stream: Option<&Stream>,
    ) -> Result<(), DeviceError> {
        let part = self.buffer.slice(..source.len());
        let Some(to) = part.start().filter(|_| !source.is_empty()) else {
            return Ok(());
        };
        // SAFETY: the part lies in a live block, which has this one handle and no other work than that of the
        // stream; the block is kept until the copy is done, and the event keeps the source. Neither unwinds.
        let event = unsafe { part.manager().copy_in(source, to, stream) }?;
        event.keep(source.clone());
        self.written_last_by(event);
        Ok(())
    }

    /// Begins to copy all of `source` to the start of this buffer: on its device, from device to device, or over the
    /// host. The source's block is kept until the copy is done.
    pub(crate) fn fill_from_device(
        &mut self,
        source: &DeviceBuf,
        stream: Option<&Stream>,
    ) -> Result<(), DeviceError> {
        let part = self.buffer.slice(..source.len());
        let (Some(from), Some(to)) = (source.start(), part.start()) else {
            return Ok(());
        };
        match (source.written(), stream) {
            (Some(event), Some(stream)) if !event.is_done() => stream.wait_for(event)?,
            // It may be done and have failed.
            (Some(event), _) => event.wait()?,
            (None, _) => {}
        }
        let event = start(
            source.manager(),
            from,
            part.manager(),
            to,
            source.len(),
            stream,
        )?;
        match event {
            Some(event) => {
                source.used_until(&event);
                self.written_last_by(event);
                Ok(())
            }
            None => self.fill_over_host(source, stream),
        }
    }

    /// Copies all of `source` in pieces that the host holds one after the other. Blocks the thread until that is done.
    fn fill_over_host(
        &mut self,
        source: &DeviceBuf,
        stream: Option<&Stream>,
    ) -> Result<(), DeviceError> {
        if let Some(stream) = stream {
            // The block may be used by work of this stream only, and the pieces are none.
            stream.synchronize()?;
        }
        let mut piece = vec![0; PIECE.min(source.len())];
        let mut done = 0;
        while done < source.len() {
            let len = piece.len().min(source.len() - done);
            source
                .slice(done..done + len)
                .copy_to_initialised(&mut piece[..len])?;
            self.write_at(done, &piece[..len])?;
            done += len;
        }
        Ok(())
    }
}

/// Begins a copy on one device or between two; `None` if the managers know no way.
fn start(
    source: &Arc<dyn DeviceManager>,
    from: DeviceAddress,
    target: &Arc<dyn DeviceManager>,
    to: DeviceAddress,
    len: usize,
    stream: Option<&Stream>,
) -> Result<Option<Event>, DeviceError> {
    if ptr::addr_eq(Arc::as_ptr(source), Arc::as_ptr(target)) {
        // SAFETY: both ranges lie in live memory of this manager, whose buffers the caller has; the target has
        // one handle, so they are different blocks. The source is written, or the stream waits for that, and it is
        // shared. The caller notes the event with both, which keeps their blocks and does not unwind.
        unsafe { target.copy_within(from, to, len, stream) }.map(Some)
    } else {
        // SAFETY: as above, with the source in live memory of the other manager.
        unsafe { target.copy_across(&**source, from, to, len, stream) }
    }
}
