//! Sources of the parts of a file: a reader that can seek, or a buffer.

use std::io::{Read, Seek, SeekFrom};

use arrow_memory_core::{ArrowBuf, BufferAllocator};

use super::{read_exactly, truncated};
use crate::error::MemoryError;

/// A source of the parts of a file: [`Seekable`] or [`Mapped`].
pub trait IpcSource: sealed::Source {}

pub(super) mod sealed {
    use super::{ArrowBuf, BufferAllocator, MemoryError};

    pub trait Source {
        /// Whether the source keeps the memory of the parts that it gives out.
        const KEEPS: bool;

        /// The size of the file in bytes.
        fn size(&mut self) -> Result<u64, MemoryError>;

        /// The `size` bytes from `start`. The byte at `aligned` within them lies at a multiple of 64, if the
        /// source can choose where.
        #[track_caller]
        fn part(
            &mut self,
            start: u64,
            size: usize,
            aligned: usize,
            allocator: &BufferAllocator,
        ) -> Result<ArrowBuf, MemoryError>;
    }
}

/// A file whose parts are read into buffers.
#[derive(Debug)]
pub struct Seekable<R>(pub(super) R);

/// A file that is in memory as a whole.
#[derive(Debug)]
pub struct Mapped(pub(super) ArrowBuf);

impl<R: Read + Seek> IpcSource for Seekable<R> {}

impl<R: Read + Seek> sealed::Source for Seekable<R> {
    const KEEPS: bool = false;

    fn size(&mut self) -> Result<u64, MemoryError> {
        Ok(self.0.seek(SeekFrom::End(0))?)
    }

    #[track_caller]
    fn part(
        &mut self,
        start: u64,
        size: usize,
        aligned: usize,
        allocator: &BufferAllocator,
    ) -> Result<ArrowBuf, MemoryError> {
        self.0.seek(SeekFrom::Start(start))?;
        let skip = aligned.next_multiple_of(64) - aligned;
        read_exactly(&mut self.0, size, skip, allocator)
    }
}

impl IpcSource for Mapped {}

impl sealed::Source for Mapped {
    const KEEPS: bool = true;

    fn size(&mut self) -> Result<u64, MemoryError> {
        Ok(self.0.len() as u64)
    }

    #[track_caller]
    fn part(
        &mut self,
        start: u64,
        size: usize,
        _: usize,
        _: &BufferAllocator,
    ) -> Result<ArrowBuf, MemoryError> {
        let start = usize::try_from(start).map_err(|_| truncated())?;
        self.0.try_slice(start, size).map_err(|_| truncated())
    }
}
