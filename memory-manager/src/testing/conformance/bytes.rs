//! Blocks for the promises: how large they are, what they are filled with, and whether they still are.

use std::alloc::Layout;

use crate::manager::AllocationManager;
use crate::size::KIB;
use crate::testing::block::Block;

pub(super) fn untouched(manager: &dyn AllocationManager, size: usize, align: usize) -> Block<'_> {
    Block::untouched(manager, layout(size, align)).expect("a usual size")
}

pub(super) fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a valid layout")
}

/// Bytes in one MiB.
pub(super) const MIB: usize = KIB * KIB;

#[track_caller]
pub(super) fn assert_filled(block: &Block<'_>, value: u8) {
    assert!(all(block.bytes(), value), "{block:?} is not all {value}");
}

/// Whether all `bytes` are `value`; fast without optimisation too.
pub(super) fn all(bytes: &[u8], value: u8) -> bool {
    let expected = [value; 4 * KIB];
    let mut chunks = bytes.chunks(expected.len());
    chunks.all(|chunk| *chunk == expected[..chunk.len()])
}

/// Fills `bytes` with [`pattern`]s.
pub(super) fn number(bytes: &mut [u8]) {
    let pattern = pattern();
    for chunk in bytes.chunks_mut(pattern.len()) {
        chunk.copy_from_slice(&pattern[..chunk.len()]);
    }
}

#[track_caller]
pub(super) fn assert_numbered(bytes: &[u8]) {
    let pattern = pattern();
    let mut chunks = bytes.chunks(pattern.len());
    let same = chunks.all(|chunk| *chunk == pattern[..chunk.len()]);
    assert!(same, "the contents of {} bytes changed", bytes.len());
}

/// Random bytes, of a prime length: no part of it looks like what is a page away.
fn pattern() -> [u8; 4093] {
    let mut random = Random(0xFEED);
    [(); 4093].map(|()| random.below(256) as u8)
}

/// Sizes on both sides of where backends change their ways, in growing order.
pub(super) fn sizes() -> impl DoubleEndedIterator<Item = usize> {
    const SIZES: [usize; 14] = [
        1,
        64,
        100,
        1_000,
        4 * KIB,
        10_000,
        32 * KIB,
        64 * KIB,
        128 * KIB,
        300 * KIB,
        MIB,
        3 * MIB,
        8 * MIB,
        33 * MIB,
    ];
    SIZES.into_iter()
}

/// A small generator of random numbers (xorshift), the same ones each time.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// From 1 to 2^`bits` bytes; each order of magnitude is as likely.
    pub(super) fn size(&mut self, bits: usize) -> usize {
        let bits = 4 + self.below(bits - 3);
        1 + self.below(1 << bits)
    }
}
