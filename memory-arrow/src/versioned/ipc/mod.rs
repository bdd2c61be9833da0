//! Arrow IPC: read into memory of a tree, or mapped, and decoded where it lies.

use std::io::{self, Read};

use arrow_memory_core::{ArrowBuf, BufferAllocator};

use crate::error::MemoryError;

mod file;
#[cfg(unix)]
mod map;
mod source;
mod stream;
#[cfg(test)]
mod tests;

pub use file::IpcFileReader;
pub use source::{IpcSource, Mapped, Seekable};
pub use stream::IpcStreamReader;

/// Exactly `size` bytes, `skip` bytes into a fresh allocation. One that is said to be large grows as
/// the bytes come, so that a false size does not take the memory.
#[track_caller]
fn read_exactly(
    reader: &mut impl Read,
    size: usize,
    skip: usize,
    allocator: &BufferAllocator,
) -> Result<ArrowBuf, MemoryError> {
    let Some(total) = size.checked_add(skip) else {
        return Err(bad(format!("a part of {size} bytes")));
    };
    let mut buffer = allocator.buffer(total.min(AT_ONCE))?;
    buffer.resize(skip, 0)?;
    while buffer.len() < total {
        let next = (buffer.len().saturating_mul(2)).clamp(AT_ONCE, total.max(AT_ONCE));
        let (start, end) = (buffer.len(), next.min(total));
        buffer.resize(end, 0)?;
        reader.read_exact(&mut buffer[start..end])?;
    }
    let whole = buffer.freeze();
    Ok(whole.slice(skip..))
}

#[cold]
fn bad(message: impl Into<String>) -> MemoryError {
    MemoryError::Arrow(message.into().into())
}

#[cold]
fn truncated() -> MemoryError {
    MemoryError::Io(io::ErrorKind::UnexpectedEof.into())
}

/// What is allocated on the word of the input.
const AT_ONCE: usize = 16 << 20;
