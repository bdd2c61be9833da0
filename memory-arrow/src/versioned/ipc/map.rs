//! Maps files of Arrow IPC.
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
    /// Makes a reader of a mapped file. The mapping is charged as foreign memory, at the size of the file in
    /// bytes, for as long as the reader or a batch of it lives.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Io`] if the file cannot be mapped, [`MemoryError::Arrow`] if it is not a file of Arrow IPC,
    /// or [`MemoryError::Alloc`] if it does not fit.
    ///
    /// # Safety
    ///
    /// No process changes or truncates the file as long as arrays of it live.
    #[track_caller]
    pub unsafe fn map(
        file: &File,
        destination: impl Into<Destination>,
    ) -> Result<Self, MemoryError> {
        let destination = destination.into();
        // SAFETY: the caller promises that the file stays as it is.
        let mapped = unsafe { map(file, destination.message_allocator()) }?;
        Self::open(Mapped(mapped), destination)
    }
}

/// Maps a file, and charges its size to `allocator`.
///
/// # Safety
///
/// No process changes or truncates the file as long as the buffer lives.
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
    // SAFETY: this asks for a new mapping of an open file at an address that the system chooses, so it
    // changes no other mapping.
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
        // SAFETY: `start` and `size` are those of the mapping made above. Its last buffer was dropped.
        unsafe { libc::munmap(start, size) };
    };
    start.as_ptr().expose_provenance();
    // SAFETY: the memory is mapped for reading until `unmap` runs, and the caller promises that it does not
    // change.
    let mapping = unsafe { ForeignAllocation::new(start.cast(), size, unmap) };
    Ok(allocator.wrap_foreign_allocation(mapping)?)
}
