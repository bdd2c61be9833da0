//! Arrow IPC: messages are read into a tree's memory, or mapped, and decoded in place.

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

/// Reads exactly `size` bytes into a new allocation, at an offset of `skip` bytes. A large allocation grows as
/// bytes arrive, so that a false size does not take memory that no bytes are there for.
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

/// The maximum of bytes that are allocated before the input has shown that it has them.
const AT_ONCE: usize = 16 << 20;
