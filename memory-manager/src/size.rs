//! Sizes: `usize` bytes, at most [`MAX_SIZE`], added and rounded with checks.

/// Bytes in one KiB.
pub const KIB: usize = 1024;

/// The largest block and the largest sum: what a `Layout` and a signed headroom can express.
pub const MAX_SIZE: usize = isize::MAX as usize;

/// The alignment of every block, in bytes; every capacity is a multiple of it. It is a cache line, and the
/// alignment that the Arrow format recommends.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_manager::{ALIGNMENT, MAX_ALIGNMENT};
///
/// let buffer = root.buffer(1)?;
/// assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
/// assert_eq!(buffer.capacity(), ALIGNMENT);
/// assert!(root.buffer_aligned(1, 2 * MAX_ALIGNMENT).is_err());
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[doc(alias = "kDefaultBufferAlignment")]
pub const ALIGNMENT: usize = 64;

/// The largest alignment that can be asked for, in bytes: a huge page.
pub const MAX_ALIGNMENT: usize = 2 * KIB * KIB;

/// `size` rounded up to a multiple of the power of two `multiple`, or `None` above [`MAX_SIZE`].
#[inline]
pub const fn checked_round_up(size: usize, multiple: usize) -> Option<usize> {
    debug_assert!(multiple.is_power_of_two());
    match size.checked_add(multiple - 1) {
        Some(sum) => {
            let rounded = sum & !(multiple - 1);
            if rounded > MAX_SIZE {
                None
            } else {
                Some(rounded)
            }
        }
        None => None,
    }
}

/// The sum of two sizes, or `None` above [`MAX_SIZE`].
#[inline]
pub const fn checked_sum(a: usize, b: usize) -> Option<usize> {
    match a.checked_add(b) {
        Some(sum) if sum <= MAX_SIZE => Some(sum),
        _ => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn rounding_up_stops_at_the_largest_size() {
        assert_eq!(checked_round_up(0, 64), Some(0));
        assert_eq!(checked_round_up(1, 64), Some(64));
        assert_eq!(checked_round_up(64, 64), Some(64));
        assert_eq!(checked_round_up(MAX_SIZE - 63, 64), Some(MAX_SIZE - 63));
        assert_eq!(checked_round_up(MAX_SIZE - 62, 64), None);
        assert_eq!(checked_round_up(usize::MAX, 64), None);
    }

    #[test]
    fn a_sum_above_the_largest_size_is_none() {
        assert_eq!(checked_sum(MAX_SIZE, 0), Some(MAX_SIZE));
        assert_eq!(checked_sum(MAX_SIZE, 1), None);
        assert_eq!(checked_sum(usize::MAX, usize::MAX), None);
    }
}
