//! What exists, and what is known of it.

use std::collections::HashMap;

use arrow_memory_core::{
    AllocationReservation, ArrowBuf, ArrowBufMut, BufferAllocator, RootAllocator,
};
use arrow_memory_fuzz::Input;

/// A buffer, writable or not.
pub enum Buffer {
    Mut(ArrowBufMut),
    Shared(ArrowBuf),
}

/// A buffer beside what it has to be.
pub struct Live {
    pub buffer: Buffer,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The number of its allocation; empty buffers have one, too, although nobody is charged for them.
    pub allocation: usize,
}

/// The objects of one run.
pub struct Case {
    pub root: RootAllocator,
    /// The root and allocators below it, closed ones included.
    pub allocators: Vec<BufferAllocator>,
    pub buffers: Vec<Live>,
    pub reservations: Vec<AllocationReservation>,
    /// External bytes, by the allocator that is charged.
    pub external: Vec<(BufferAllocator, usize)>,
    pub allocations: usize,
}

impl Live {
    pub fn as_slice(&self) -> &[u8] {
        match &self.buffer {
            Buffer::Mut(buffer) => buffer,
            Buffer::Shared(buffer) => buffer,
        }
    }

    pub fn allocator(&self) -> BufferAllocator {
        match &self.buffer {
            Buffer::Mut(buffer) => buffer.allocator(),
            Buffer::Shared(buffer) => buffer.allocator(),
        }
    }

    pub fn accounted_size(&self) -> usize {
        match &self.buffer {
            Buffer::Mut(buffer) => buffer.accounted_size(),
            Buffer::Shared(buffer) => buffer.accounted_size(),
        }
    }

    /// Whether it has a part of an allocation; nothing is charged for empty buffers.
    fn has_block(&self) -> bool {
        match &self.buffer {
            Buffer::Mut(buffer) => buffer.capacity() > 0,
            Buffer::Shared(buffer) => buffer.allocation_size() > 0,
        }
    }

    fn ref_count(&self) -> usize {
        match &self.buffer {
            Buffer::Mut(buffer) => buffer.ref_count(),
            Buffer::Shared(buffer) => buffer.ref_count(),
        }
    }
}

impl Case {
    pub fn new(input: &mut Input<'_>) -> Self {
        let limit = match input.byte() {
            0 => 16 << 20,
            units => usize::from(units) * 512,
        };
        let mut root = RootAllocator::builder()
            .limit(limit)
            .allocation_manager(input.manager());
        // Every buffer is known in debug mode.
        if input.below(4) == 1 {
            root = root.debug(true);
        }
        let root = root.build().expect("a manager was given");
        Self {
            allocators: vec![BufferAllocator::clone(&root)],
            root,
            buffers: Vec::new(),
            reservations: Vec::new(),
            external: Vec::new(),
            allocations: 0,
        }
    }

    /// The number of a new allocation.
    pub fn allocation(&mut self) -> usize {
        self.allocations += 1;
        self.allocations
    }

    /// Checks everything that exists.
    pub fn check(&self) {
        // By allocation, what is charged for it; and by ledger, the number of its buffers.
        let mut charged: HashMap<usize, usize> = HashMap::new();
        let mut ledgers: HashMap<(usize, u64), usize> = HashMap::new();
        for live in self.buffers.iter().filter(|it| it.has_block()) {
            let bytes = charged.entry(live.allocation).or_default();
            *bytes = (*bytes).max(live.accounted_size());
            let ledger = (live.allocation, live.allocator().id().as_u64());
            *ledgers.entry(ledger).or_default() += 1;
        }
        for live in &self.buffers {
            assert_eq!(live.as_slice(), live.bytes, "the bytes are others");
            if !live.has_block() {
                continue;
            }
            let ledger = (live.allocation, live.allocator().id().as_u64());
            assert_eq!(live.ref_count(), ledgers[&ledger], "references");
            if let Buffer::Shared(buffer) = &live.buffer {
                assert_eq!(buffer.allocation_size(), charged[&live.allocation]);
            }
        }
        let blocks: usize = charged.values().sum();
        let reserved: usize = self.reservations.iter().map(|it| it.size()).sum();
        let external: usize = self.external.iter().map(|it| it.1).sum();
        assert_eq!(self.root.allocated_memory(), blocks + reserved + external);
        assert_eq!(self.root.verify(), Ok(()));
    }

    /// Drops everything in the order of the input, and closes the tree.
    pub fn finish(mut self, input: &mut Input<'_>) {
        while !self.buffers.is_empty() {
            let at = input.below(self.buffers.len());
            drop(self.buffers.swap_remove(at));
        }
        self.reservations.clear();
        for (allocator, bytes) in self.external.drain(..) {
            allocator.release_bytes(bytes);
        }
        self.check();
        // The youngest first: children before their parents.
        for allocator in self.allocators.drain(1..).rev() {
            allocator.close().expect("nothing is outstanding");
            assert_eq!(allocator.allocated_memory(), 0);
        }
        self.allocators.clear();
        self.root.close().expect("nothing is outstanding");
        assert_eq!(self.root.allocated_memory(), 0);
    }
}
