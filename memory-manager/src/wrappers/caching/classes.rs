//! Which blocks are alike: [`Class`].

use crate::size::KIB;

/// A class of blocks: one of eight sizes between a power of two and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(usize);

impl Class {
    /// How many there are.
    pub(super) const COUNT: usize = 8 * (LARGEST / SMALL).ilog2() as usize;

    /// The class of the smallest size that is at least `size`, which is over [`SMALL`] and at most
    /// [`LARGEST`].
    #[inline]
    pub(super) fn of(size: usize) -> Self {
        debug_assert!(size > SMALL && size <= LARGEST);
        let last = size - 1;
        let power = last.ilog2();
        // The three bits behind the highest one, which make 8 to 15 with it.
        let eighth = last >> (power - 3);
        Self((power - SMALL.ilog2()) as usize * 8 + eighth - 8)
    }

    /// The size of its blocks, in bytes.
    #[inline]
    pub(super) fn size(self) -> usize {
        SIZES[self.0] as usize
    }

    /// The index of the class.
    #[inline]
    pub(super) fn index(self) -> usize {
        self.0
    }

    /// The class with this index.
    pub(super) fn at(index: usize) -> Self {
        Self(index)
    }
}

/// The size of each class.
static SIZES: [u32; Class::COUNT] = {
    let mut sizes = [0; Class::COUNT];
    let mut index = 0;
    while index < Class::COUNT {
        let (power, eighth) = (SMALL.ilog2() as usize + index / 8, index % 8);
        sizes[index] = ((eighth + 9) << (power - 3)) as u32;
        index += 1;
    }
    sizes
};

/// The largest size that has no class, in bytes: what allocators keep per thread themselves.
pub(super) const SMALL: usize = 32 * KIB;

/// The largest size that has a class, in bytes.
pub(super) const LARGEST: usize = 8 * KIB * KIB;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_room_for_its_sizes_and_wastes_an_eighth_at_most() {
        let mut before = SMALL;
        for index in 0..Class::COUNT {
            let class = Class::at(index);
            let size = class.size();
            assert_eq!(class.index(), index);
            assert_eq!(Class::of(before + 1), class, "{size}");
            assert_eq!(Class::of(size), class);
            assert!(size - before <= before / 8, "{before} to {size}");
            before = size;
        }
        assert_eq!(before, LARGEST);
    }
}
