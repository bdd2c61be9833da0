//! Which blocks are alike: [`Class`].

use crate::size::KIB;

/// A class of blocks: one of eight sizes between a power of two and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(u8);

impl Class {
    /// How many there are.
    pub(super) const COUNT: usize = 8 * (LARGEST / SMALL).ilog2() as usize;

    /// The class of the smallest size that is at least `size`; `None` for what is small, or too
    /// large.
    #[inline]
    pub(super) fn of(size: usize) -> Option<Self> {
        if size <= SMALL || size > LARGEST {
            return None;
        }
        let last = size - 1;
        let power = last.ilog2();
        // The three bits behind the highest one, which make 8 to 15 with it.
        let eighth = last >> (power - 3);
        Some(Self(
            ((power - SMALL.ilog2()) * 8) as u8 + (eighth - 8) as u8,
        ))
    }

    /// The size of its blocks, in bytes.
    #[inline]
    pub(super) fn size(self) -> usize {
        let (power, eighth) = (self.0 / 8, usize::from(self.0 % 8));
        (eighth + 9) << (SMALL.ilog2() - 3 + u32::from(power))
    }

    /// Its place among all.
    #[inline]
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The one at a place.
    pub(super) fn at(index: usize) -> Self {
        Self(index as u8)
    }
}

/// The largest size that has no class, in bytes: what allocators keep per thread themselves.
const SMALL: usize = 32 * KIB;

/// The largest size that has one, in bytes.
pub(super) const LARGEST: usize = 8 * KIB * KIB;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_room_for_its_sizes_and_wastes_an_eighth_at_most() {
        assert_eq!(Class::of(0), None);
        assert_eq!(Class::of(SMALL), None);
        assert_eq!(Class::of(LARGEST + 1), None);
        let mut before = SMALL;
        for index in 0..Class::COUNT {
            let class = Class::at(index);
            let size = class.size();
            assert_eq!(class.index(), index);
            assert_eq!(Class::of(before + 1), Some(class), "{size}");
            assert_eq!(Class::of(size), Some(class));
            assert!(size - before <= before / 8, "{before} to {size}");
            before = size;
        }
        assert_eq!(before, LARGEST);
    }
}
