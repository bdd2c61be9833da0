//! The blocks that one thread keeps, by class.

use std::ptr::NonNull;

use super::CacheLimits;
use crate::size::KIB;

/// A class of blocks: one of eight sizes between a power of two and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class(u16);

impl Class {
    /// The class of the smallest size that is at least `size`; `None` for small blocks.
    #[inline]
    pub(super) fn of(size: usize) -> Option<Self> {
        if size <= SMALL {
            return None;
        }
        let last = size - 1;
        let power = last.ilog2();
        // The three bits behind the highest one, which make 8 to 15 with it.
        let eighth = last >> (power - 3);
        Some(Self(
            ((power - SMALL.ilog2()) * 8) as u16 + (eighth - 8) as u16,
        ))
    }

    /// The size of its blocks, in bytes.
    #[inline]
    pub(super) fn size(self) -> usize {
        let (power, eighth) = (self.0 / 8, usize::from(self.0 % 8));
        (eighth + 9) << (SMALL.ilog2() - 3 + u32::from(power))
    }
}

/// A block that nobody uses, and its class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) class: Class,
    pub(super) ptr: NonNull<u8>,
}

/// What became of a block that was to be kept.
#[derive(Debug)]
pub(super) enum Put {
    /// It is kept.
    Kept,
    /// It is not: `oldest` was given up to make room; try again.
    Full { oldest: Kept, again: Kept },
    /// It is not.
    Refused,
}

/// The blocks that one thread keeps.
#[derive(Debug)]
pub(super) struct Bins {
    limits: CacheLimits,
    /// By class.
    bins: Vec<Bin>,
    /// The sum of the sizes of all blocks.
    bytes: usize,
    /// Goes up with each use of a class.
    clock: u64,
    /// What was taken.
    hits: Hits,
}

/// What a cache has lent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hits {
    /// How many blocks.
    pub(super) blocks: u64,
    /// The sum of their sizes.
    pub(super) bytes: u64,
}

impl Hits {
    pub(super) fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
    }
}

/// The blocks of one class.
#[derive(Debug, Default)]
struct Bin {
    /// The latest last.
    blocks: Vec<Address>,
    /// The clock when it was last used.
    used: u64,
}

impl Bins {
    pub(super) fn new(limits: CacheLimits) -> Self {
        let classes = Class::of(limits.largest_block).map_or(0, |largest| largest.0 + 1);
        Self {
            limits,
            bins: (0..classes).map(|_| Bin::default()).collect(),
            bytes: 0,
            clock: 0,
            hits: Hits::default(),
        }
    }

    /// The latest block of a class.
    #[inline]
    pub(super) fn take(&mut self, class: Class) -> Option<NonNull<u8>> {
        let bin = self.bins.get_mut(usize::from(class.0))?;
        self.clock += 1;
        bin.used = self.clock;
        let block = bin.blocks.pop()?;
        self.bytes -= class.size();
        self.hits.blocks += 1;
        self.hits.bytes += class.size() as u64;
        Some(block.0)
    }

    /// Keeps a block, if the limits allow it.
    ///
    /// Where the sum of bytes does not, the class that was used least lately gives up a block, so
    /// that a cache full of what is not asked for any more comes to serve what is.
    #[inline]
    pub(super) fn put(&mut self, block: Kept) -> Put {
        let (class, size) = (usize::from(block.class.0), block.class.size());
        let Some(bin) = self.bins.get_mut(class) else {
            return Put::Refused;
        };
        self.clock += 1;
        bin.used = self.clock;
        if bin.blocks.len() >= self.limits.blocks_per_class || size > self.limits.bytes_per_thread {
            return Put::Refused;
        }
        if self.bytes + size > self.limits.bytes_per_thread {
            return match self.least_used() {
                Some(oldest) if oldest != class => match self.pop_from(oldest) {
                    Some(oldest) => Put::Full {
                        oldest,
                        again: block,
                    },
                    None => Put::Refused,
                },
                _ => Put::Refused,
            };
        }
        bin.blocks.push(Address(block.ptr));
        self.bytes += size;
        Put::Kept
    }

    /// Some block.
    pub(super) fn pop(&mut self) -> Option<Kept> {
        let class = self.least_used()?;
        self.pop_from(class)
    }

    /// The sum of the sizes of all blocks.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was taken so far.
    pub(super) fn hits(&self) -> Hits {
        self.hits
    }

    /// The class that has blocks and was used least lately.
    #[cold]
    fn least_used(&self) -> Option<usize> {
        let bins = self.bins.iter().enumerate();
        let full = bins.filter(|(_, bin)| !bin.blocks.is_empty());
        let (class, _) = full.min_by_key(|(_, bin)| bin.used)?;
        Some(class)
    }

    fn pop_from(&mut self, class: usize) -> Option<Kept> {
        let ptr = self.bins.get_mut(class)?.blocks.pop()?.0;
        let class = Class(class as u16);
        self.bytes -= class.size();
        Some(Kept { class, ptr })
    }
}

/// The address of a block that is kept.
#[derive(Debug)]
struct Address(NonNull<u8>);

// SAFETY: memory has no thread, by the manager's promise that a block may be given back on any;
// while a block is kept, nobody but the bins has its address.
unsafe impl Send for Address {}

/// The largest size that is not kept, in bytes: what allocators keep per thread themselves.
const SMALL: usize = 32 * KIB;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_room_for_its_sizes_and_wastes_an_eighth_at_most() {
        assert_eq!(Class::of(0), None);
        assert_eq!(Class::of(SMALL), None);
        assert_eq!(Class::of(SMALL + 1), Some(Class(0)));
        let mut before = SMALL;
        for class in (0..88).map(Class) {
            let size = class.size();
            assert_eq!(Class::of(before + 1), Some(class), "{size}");
            assert_eq!(Class::of(size), Some(class));
            assert!(size - before <= before / 8, "{before} to {size}");
            before = size;
        }
        assert_eq!(before, 64 * KIB * KIB);
    }
}
