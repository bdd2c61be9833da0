//! The gaps between sampled points, drawn per thread.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

/// The mean gap in units. One byte counts as `scale` units.
const MEAN: u64 = 1 << 32;

/// The maximum of an interval in bytes, so that one byte counts as a few units at least.
const MAX_INTERVAL: usize = 1 << 30;

/// The minimum of an interval in bytes, so that the units of no possible block overflow.
const MIN_INTERVAL: usize = 1 << 9;

thread_local! {
    /// Units until the next point. A new thread starts with none, so that it draws a gap at its first
    /// allocation.
    static REMAINING: Cell<i64> = const { Cell::new(0) };
    /// The state of the generator; 0 until the first gap is drawn.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// Returns whether an allocation of `bytes` contains a point.
#[inline]
pub(crate) fn due(bytes: usize, scale: u64) -> bool {
    comes_to_point(bytes, scale) && passes_point(bytes, scale)
}

/// The first half of `due`, four instructions: returns whether the second half has to be called.
#[inline]
pub(crate) fn comes_to_point(bytes: usize, scale: u64) -> bool {
    let remaining = REMAINING
        .get()
        .wrapping_sub((bytes as u64).wrapping_mul(scale) as i64);
    REMAINING.set(remaining);
    remaining < 0
}

/// The second half of `due`: returns whether the allocation contains a point, and draws the next gap.
#[cold]
#[inline(never)]
pub(crate) fn passes_point(bytes: usize, scale: u64) -> bool {
    if STATE.get() == 0 {
        let seed = RandomState::new().build_hasher().finish();
        STATE.set(seed | 1);
        let remaining = draw() - (bytes as u64).saturating_mul(scale).min(i64::MAX as u64) as i64;
        REMAINING.set(remaining);
        if remaining >= 0 {
            return false;
        }
    }
    // The bytes of the allocation after the point do not count: one point is enough to record it, and its
    // weight stands for all points that it may contain.
    REMAINING.set(draw());
    true
}

/// Draws a gap, exponentially distributed with a mean of `MEAN`.
fn draw() -> i64 {
    let mut state = STATE.get();
    // This is xorshift64*: its high bits are random enough to pick points.
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    STATE.set(state);
    let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
    // `uniform` is in (0, 1].
    let uniform = (bits + 1) as f64 / (1_u64 << 53) as f64;
    (-uniform.ln() * MEAN as f64) as i64
}

/// Returns the units per byte for a mean interval in bytes.
pub(super) fn scale_of(interval: usize) -> u64 {
    MEAN / interval.clamp(MIN_INTERVAL, MAX_INTERVAL) as u64
}

/// Returns how many allocations a sampled one of `bytes` stands for.
pub(super) fn weight(bytes: usize, scale: u64) -> f64 {
    let expected = bytes as f64 * scale as f64 / MEAN as f64;
    // `exp_m1` keeps 1 − exp(−x) exact for small x too.
    1.0 / -(-expected).exp_m1()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Returns the estimated bytes of `count` allocations of `bytes` each.
    fn estimate(bytes: usize, count: usize, interval: usize) -> f64 {
        let scale = scale_of(interval);
        (0..count)
            .filter(|_| due(bytes, scale))
            .map(|_| bytes as f64 * weight(bytes, scale))
            .sum()
    }

    #[test]
    fn estimates_are_unbiased_whatever_the_size() {
        for (bytes, count) in [
            (64, 2_000_000),
            (4096, 200_000),
            (100_000, 20_000),
            (1 << 20, 2000),
        ] {
            let estimated = estimate(bytes, count, 32 << 10);

            let actual = (bytes * count) as f64;
            // There are about 4000 samples, or 3900 of the small ones; three sigma are 5 %.
            let error = (estimated / actual - 1.0).abs();
            assert!(error < 0.08, "{bytes} bytes: off by {error}");
        }
    }

    #[test]
    fn a_change_of_the_interval_takes_effect_at_once() {
        estimate(4096, 1, MAX_INTERVAL);

        let estimated = estimate(4096, 200_000, 32 << 10);

        assert!((estimated / (4096.0 * 200_000.0) - 1.0).abs() < 0.08);
    }

    #[test]
    fn a_large_allocation_stands_for_itself() {
        assert!((weight(1 << 30, scale_of(1 << 19)) - 1.0).abs() < 1e-9);
        let small = weight(1, scale_of(1 << 19));
        assert!((small / f64::from(1 << 19) - 1.0).abs() < 1e-3, "{small}");
    }
}
