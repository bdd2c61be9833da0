//! One block of the parent's, from which blocks are cut: [`Chunk`].

#![expect(unsafe_code, reason = "moves a pointer inside a chunk")]

use std::ptr::NonNull;

/// A chunk and how far it is cut.
///
/// # Invariants
///
/// 1. `start` is valid for `size` bytes, lent by the parent and not given back while the `Chunk`
///    lives.
/// 2. Every live block of the chunk lies below `used`, which is at most `size`; `live` counts them.
///    Blocks do not overlap: each was cut at `used`, and nothing below `used` is cut again.
/// 3. Without live blocks `used` is 0: the chunk starts again.
#[derive(Debug)]
pub(crate) struct Chunk {
    start: NonNull<u8>,
    size: usize,
    used: usize,
    live: usize,
}

// SAFETY: a chunk is memory and numbers; the parent lends blocks to any thread.
unsafe impl Send for Chunk {}

impl Chunk {
    /// A chunk without blocks.
    ///
    /// # Safety
    ///
    /// `start` is valid for reads and writes of `size` bytes until the `Chunk` is taken apart, and
    /// no other code uses it.
    pub(crate) unsafe fn new(start: NonNull<u8>, size: usize) -> Self {
        Self {
            start,
            size,
            used: 0,
            live: 0,
        }
    }

    /// Cuts a block off; `None` if there is no room for it. `align` is a power of two.
    #[inline]
    pub(crate) fn cut(&mut self, size: usize, align: usize) -> Option<NonNull<u8>> {
        let address = self.start.addr().get();
        let padding = (address + self.used).wrapping_neg() & (align - 1);
        let offset = self.used + padding;
        if offset > self.size || size > self.size - offset {
            return None;
        }
        self.used = offset + size;
        self.live += 1;
        // SAFETY: `offset` is at most `size`, which by invariant 1 is inside one allocation.
        Some(unsafe { self.start.add(offset) })
    }

    /// Takes a block back: room above the others can be cut again at once, the rest when the last
    /// block is back.
    #[inline]
    pub(crate) fn take_back(&mut self, block: NonNull<u8>, size: usize) {
        let offset = self.offset(block);
        debug_assert!(offset + size <= self.used && self.live > 0);
        self.live -= 1;
        if self.live == 0 {
            self.used = 0;
        } else if offset + size == self.used {
            self.used = offset;
        }
    }

    /// Changes a block's size where it is: any may shrink, the newest may grow while there is room.
    #[inline]
    pub(crate) fn resize(&mut self, block: NonNull<u8>, old: usize, new: usize) -> bool {
        let offset = self.offset(block);
        debug_assert!(offset + old <= self.used && self.live > 0);
        if offset + old != self.used {
            return new <= old;
        }
        if new > self.size - offset {
            return false;
        }
        self.used = offset + new;
        true
    }

    /// Whether `address` lies in this chunk.
    #[inline]
    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.address()) < self.size
    }

    /// Where it starts.
    #[inline]
    pub(crate) fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// The pointer that the parent lent.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its bytes, as asked of the parent.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// How many bytes are cut off, live or not.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whether no block of it is live.
    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// How many blocks of it are live.
    #[cfg(test)]
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    #[inline]
    fn offset(&self, block: NonNull<u8>) -> usize {
        block.addr().get() - self.address()
    }
}
