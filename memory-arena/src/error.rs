//! Why an arena cannot be built or reset.

use arrow_memory_core::__private::{Bytes, Size};
use arrow_memory_core::BackendError;

/// Why an arena was not built or not reset. Nothing has changed.
///
/// Prints in one line, `{:?}` as well; `{:#?}` shows the fields.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// The *caller's* fault: chunks have from 1 to `isize::MAX` bytes, and no more than the maximum.
    #[error("chunks of {} that grow to {} cannot be had", Bytes(*.chunk_size), Size(*.max_chunk_size))]
    InvalidChunkSize {
        /// The size of the first chunk, in bytes.
        chunk_size: usize,
        /// The size of the largest one, in bytes.
        max_chunk_size: usize,
    },
    /// The *caller's* fault: blocks are live, so their memory cannot be used again.
    #[error(
        "the arena has {blocks} live blocks of {}, {large_blocks} of them beside its {chunks} chunks",
        Bytes(*.bytes)
    )]
    StillLive {
        /// How many blocks were not given back.
        blocks: usize,
        /// Their bytes, as asked for.
        bytes: usize,
        /// How many of them are too large for a chunk and came from the parent as they are.
        large_blocks: usize,
        /// How many chunks the others keep.
        chunks: usize,
    },
    /// The *caller's* fault, or the *environment's*: no other backend to take chunks from.
    #[error("the arena has no parent to take chunks from: {0:#}")]
    NoParent(BackendError),
}

arrow_memory_core::__debug_as_display!(enum ArenaError {
    InvalidChunkSize { chunk_size, max_chunk_size },
    StillLive { blocks, bytes, large_blocks, chunks },
    NoParent(parent),
});
