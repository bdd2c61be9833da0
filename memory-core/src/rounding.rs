//! Rounding policies: from the requested bytes to the capacity that is allocated and charged.

use std::fmt;

use crate::error::SegmentError;
use crate::size::{ALIGNMENT, KIB, checked_round_up};

/// A policy that decides the capacity of a buffer from the requested bytes.
///
/// A policy is safe code and is not trusted: the capacity is the larger of its result and the request,
/// rounded up to a multiple of 64, and `isize::MAX` at most.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{RootAllocator, RoundingPolicy};
///
/// #[derive(Debug)]
/// struct Pages;
///
/// impl RoundingPolicy for Pages {
///     fn rounded_size(&self, requested: usize) -> usize {
///         requested.next_multiple_of(4096)
///     }
/// }
///
/// let root = RootAllocator::builder().rounding_policy(Pages).build()?;
/// assert_eq!(root.buffer(1)?.capacity(), 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait RoundingPolicy: Send + Sync + fmt::Debug {
    /// Returns the capacity in bytes for a request of `requested` bytes (never 0).
    fn rounded_size(&self, requested: usize) -> usize;
}

/// Returns the capacity for `requested` by `policy` and the library's own rules; `None` if it overflows.
pub(crate) fn capacity(policy: &dyn RoundingPolicy, requested: usize) -> Option<usize> {
    checked_round_up(policy.rounded_size(requested).max(requested), ALIGNMENT)
}

/// Rounds up to the next multiple of 64 bytes: the default.
///
/// ```
/// use arrow_memory_core::{PaddingRoundingPolicy, RoundingPolicy};
///
/// assert_eq!(PaddingRoundingPolicy.rounded_size(65), 128);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaddingRoundingPolicy;

impl RoundingPolicy for PaddingRoundingPolicy {
    fn rounded_size(&self, requested: usize) -> usize {
        checked_round_up(requested, ALIGNMENT).unwrap_or(requested)
    }
}

/// Rounds requests below 16 MiB up to the next power of two, and no others: Arrow Java's default.
///
/// ```
/// use arrow_memory_core::{PowerOfTwoRoundingPolicy, RoundingPolicy};
///
/// assert_eq!(PowerOfTwoRoundingPolicy.rounded_size(1_000), 1_024);
/// assert_eq!(PowerOfTwoRoundingPolicy.rounded_size(17_000_000), 17_000_000);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(alias = "DefaultRoundingPolicy")]
pub struct PowerOfTwoRoundingPolicy;

impl PowerOfTwoRoundingPolicy {
    /// The chunk size of Arrow Java's default policy, in bytes: requests of this size or more are not
    /// rounded.
    const CHUNK: usize = 16 * KIB * KIB;
}

impl RoundingPolicy for PowerOfTwoRoundingPolicy {
    fn rounded_size(&self, requested: usize) -> usize {
        if requested < Self::CHUNK {
            requested.next_power_of_two()
        } else {
            requested
        }
    }
}

/// Rounds up to the next multiple of a segment: Arrow Java's `SegmentRoundingPolicy`.
///
/// ```
/// use arrow_memory_core::{RoundingPolicy, SegmentRoundingPolicy};
///
/// let policy = SegmentRoundingPolicy::new(4096)?;
/// assert_eq!(policy.rounded_size(4097), 8192);
/// # Ok::<(), arrow_memory_core::SegmentError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRoundingPolicy {
    segment: usize,
}

impl SegmentRoundingPolicy {
    /// The minimum size of a segment, in bytes: [`new`](Self::new) refuses a smaller one.
    pub const MIN_SEGMENT: usize = KIB;

    /// Creates a policy that rounds up to multiples of `segment` bytes.
    ///
    /// # Errors
    ///
    /// [`SegmentError`] unless `segment` is a power of two and at least 1024.
    pub fn new(segment: usize) -> Result<Self, SegmentError> {
        if segment.is_power_of_two() && segment >= Self::MIN_SEGMENT {
            Ok(Self { segment })
        } else {
            Err(SegmentError { segment })
        }
    }
}

impl RoundingPolicy for SegmentRoundingPolicy {
    fn rounded_size(&self, requested: usize) -> usize {
        checked_round_up(requested, self.segment).unwrap_or(requested)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(usize);

    impl RoundingPolicy for Fixed {
        fn rounded_size(&self, _requested: usize) -> usize {
            self.0
        }
    }

    #[test]
    fn a_policy_that_answers_too_little_is_overruled() {
        assert_eq!(capacity(&Fixed(0), 100), Some(128));
        assert_eq!(capacity(&Fixed(usize::MAX), 100), None);
    }

    #[test]
    fn the_power_of_two_policy_stops_rounding_at_sixteen_mebibytes() {
        let chunk = PowerOfTwoRoundingPolicy::CHUNK;
        assert_eq!(capacity(&PowerOfTwoRoundingPolicy, chunk - 1), Some(chunk));
        assert_eq!(capacity(&PowerOfTwoRoundingPolicy, chunk), Some(chunk));
        assert_eq!(
            capacity(&PowerOfTwoRoundingPolicy, chunk + 1),
            Some(chunk + 64)
        );
    }

    #[test]
    fn a_segment_is_a_power_of_two_from_1024() {
        for bad in [0, 1, 512, 1023, 1025, 3000, usize::MAX] {
            assert_eq!(
                SegmentRoundingPolicy::new(bad),
                Err(SegmentError { segment: bad })
            );
        }
        assert!(SegmentRoundingPolicy::new(1024).is_ok());
    }
}
