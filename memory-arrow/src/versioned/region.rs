//! [`Region`]: the memory under a buffer of arrow's.

use std::ptr::NonNull;

use arrow_memory_core::__private::heap::{Labels, Piece};

use super::deps::arrow_buffer::Buffer;

/// The memory under a `Buffer`: its start and its sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) start: NonNull<u8>,
    /// Bytes that are allocated there.
    pub(super) size: usize,
    /// Bytes from the start that `Buffer`s are known to view, so that are initialised.
    pub(super) seen: usize,
}

impl Region {
    /// The region under a buffer; `None` for an empty one, which no allocator is charged for.
    #[inline]
    pub(super) fn of(buffer: &Buffer) -> Option<Self> {
        if buffer.is_empty() {
            return None;
        }
        let seen = buffer.ptr_offset() + buffer.len();
        Some(Self {
            start: buffer.data_ptr(),
            size: buffer.capacity().max(seen),
            seen,
        })
    }

    /// The region under a buffer, also under an empty slice, which keeps the memory that it is a slice of.
    pub(super) fn held(buffer: &Buffer) -> Option<Self> {
        Self::of(buffer).or_else(|| {
            (buffer.capacity() > 0).then(|| Self {
                start: buffer.data_ptr(),
                size: buffer.capacity(),
                seen: buffer.ptr_offset(),
            })
        })
    }

    /// The region as it is to be adopted by a second tree, where the first adopted `original`. The second adopts
    /// `original`, too: a buffer that came of the first adoption would keep the first tree's charge, and may
    /// have a smaller capacity.
    pub(super) fn on(self, original: &Buffer) -> Self {
        // This is no less than the size of the region, or `original` would not have been found.
        let size = original.capacity();
        Self { size, ..self }
    }

    pub(super) fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// The region as a part of a block of the program's heap, if that pays for it.
    pub(super) fn piece(&self, labels: &dyn Labels) -> Option<Piece> {
        let label = labels.find(self.start, self.size)?;
        Some(Piece::new(label, self.size))
    }
}
