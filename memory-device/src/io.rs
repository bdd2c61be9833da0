//! [`Reader`] and [`Writer`]: `std::io` over bytes wherever they are, in bounded pieces.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};

use arrow_memory_core::ArrowBuf;

use crate::buf::DeviceBuf;
use crate::buf_mut::DeviceBufMut;
use crate::copy::PIECE;

/// Reads the bytes of a buffer, on the host or on a device, and keeps them alive.
/// [`AnyBuffer::reader`](crate::AnyBuffer::reader) makes one.
///
/// One `read` copies at most 64 KiB, straight to where the caller wants them. For many small reads of
/// a device, put it in a [`BufReader`](io::BufReader). The first read of a device waits for the work that writes
/// the bytes.
pub struct Reader {
    source: Source,
    at: u64,
}

enum Source {
    Host(ArrowBuf),
    Device(DeviceBuf),
}

impl Reader {
    /// A reader of a buffer of the host or of a device.
    pub(crate) fn new(source: Result<ArrowBuf, DeviceBuf>) -> Self {
        let source = source.map_or_else(Source::Device, Source::Host);
        Self { source, at: 0 }
    }

    fn len(&self) -> usize {
        match &self.source {
            Source::Host(buffer) => buffer.len(),
            Source::Device(buffer) => buffer.len(),
        }
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (start, len) = piece(self.at, self.len(), into.len());
        let into = &mut into[..len];
        match &self.source {
            Source::Host(buffer) => into.copy_from_slice(&buffer[start..start + len]),
            Source::Device(buffer) => buffer.slice(start..start + len).copy_to_initialised(into)?,
        }
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Reader {
    /// Sets the position, which may lie beyond the end: a read returns no bytes there.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = seek(self.at, self.len(), to)?;
        Ok(self.at)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("position", &self.at)
            .field("length", &self.len())
            .finish_non_exhaustive()
    }
}

/// Writes the bytes of a buffer that has one handle, on the host or on a device.
/// [`AnyBufferMut::writer`](crate::AnyBufferMut::writer) makes one.
///
/// One `write` copies at most 64 KiB and waits for the copy, so there is nothing to flush. For many small
/// writes to a device, put it in a [`BufWriter`](io::BufWriter). The buffer does not grow: at its end a
/// write returns 0, and `write_all` the error [`WriteZero`](io::ErrorKind::WriteZero).
pub struct Writer<'a> {
    sink: Sink<'a>,
    at: u64,
}

enum Sink<'a> {
    Host(&'a mut [u8]),
    Device(&'a mut DeviceBufMut),
}

impl<'a> Writer<'a> {
    pub(crate) fn on_host(bytes: &'a mut [u8]) -> Self {
        let sink = Sink::Host(bytes);
        Self { sink, at: 0 }
    }

    pub(crate) fn on_device(buffer: &'a mut DeviceBufMut) -> Self {
        let sink = Sink::Device(buffer);
        Self { sink, at: 0 }
    }

    fn len(&self) -> usize {
        match &self.sink {
            Sink::Host(bytes) => bytes.len(),
            Sink::Device(buffer) => buffer.len(),
        }
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let (start, len) = piece(self.at, self.len(), from.len());
        let from = &from[..len];
        match &mut self.sink {
            Sink::Host(bytes) => bytes[start..start + len].copy_from_slice(from),
            Sink::Device(buffer) => buffer.write_at(start, from)?,
        }
        self.at += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Writer<'_> {
    /// Sets the position, which may lie beyond the end: a write writes no bytes there.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = seek(self.at, self.len(), to)?;
        Ok(self.at)
    }
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("position", &self.at)
            .field("length", &self.len())
            .finish_non_exhaustive()
    }
}

/// Where the next piece starts in a buffer of `len` bytes, and how long it is if the caller has `room`.
fn piece(at: u64, len: usize, room: usize) -> (usize, usize) {
    let start = usize::try_from(at).map_or(len, |at| at.min(len));
    (start, (len - start).min(room).min(PIECE))
}

/// The position after a seek, as a cursor of std has it.
fn seek(at: u64, len: usize, to: SeekFrom) -> io::Result<u64> {
    let position = match to {
        SeekFrom::Start(position) => Some(position),
        SeekFrom::End(offset) => (len as u64).checked_add_signed(offset),
        SeekFrom::Current(offset) => at.checked_add_signed(offset),
    };
    position.ok_or_else(|| {
        let message = "seek to a position before the start, or beyond any";
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}
