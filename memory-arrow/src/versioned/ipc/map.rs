//! Files of Arrow IPC that are mapped.
#![expect(unsafe_code, reason = "maps files")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use arrow_memory_core::{ArrowBuf, BufferAllocator, ForeignAllocation};

use super::super::Destination;
use super::bad;
use super::file::IpcFileReader;
use super::source::Mapped;
use crate::error::MemoryError;

impl IpcFileReader<Mapped> {
    /// Maps a file: it is charged as foreign memory, at its size, for as long as a batch of it lives.
    ///
    /// # Errors
    ///
    /// As [`IpcStreamReader::new`](super::IpcStreamReader::new); and [`MemoryError::Io`] if it cannot be mapped.
    ///
    /// # Safety
    ///
    /// Nobody changes or truncates the file as long as its arrays live.
    #[track_caller]
    pub unsafe fn map(
        file: &File,
        destination: impl Into<Destination>,
    ) -> Result<Self, MemoryError> {
        let destination = destination.into();
        // SAFETY: the caller's promise.
        let mapped = unsafe { map(file, destination.message_allocator()) }?;
        Self::open(Mapped(mapped), destination)
    }
}

/// # Safety
///
/// Nobody changes or truncates the file as long as the buffer lives.
#[track_caller]
unsafe fn map(file: &File, allocator: &BufferAllocator) -> Result<ArrowBuf, MemoryError> {
    let size = usize::try_from(file.metadata()?.len())
        .ok()
        .filter(|&size| size <= isize::MAX as usize)
        .ok_or_else(|| bad("the file is too large to map"))?;
    if size == 0 {
        return Ok(allocator.empty());
    }
    let fd = file.as_raw_fd();
    // SAFETY: a new mapping of an open file, wherever the system likes.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            fd,
            0,
        )
    };
    let Some(start) = NonNull::new(start).filter(|start| start.as_ptr() != libc::MAP_FAILED) else {
        return Err(io::Error::last_os_error().into());
    };
    let address = start.addr();
    let unmap = move || {
        let start = std::ptr::with_exposed_provenance_mut(address.get());
        // SAFETY: the mapping that was made above; its last buffer has gone.
        unsafe { libc::munmap(start, size) };
    };
    start.as_ptr().expose_provenance();
    // SAFETY: mapped for reading until `unmap`; not written, by the caller's promise.
    let mapping = unsafe { ForeignAllocation::new(start.cast(), size, unmap) };
    Ok(allocator.wrap_foreign_allocation(mapping)?)
}
