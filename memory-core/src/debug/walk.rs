//! Walks the stack of the calling thread, by the platform's unwinder and a table of its earlier answers.
//!
//! The unwinder takes more than a thousand instructions for each frame, because it interprets the tables
//! that the compiler wrote. But programs allocate at the same places again and again. So its answers are
//! kept, frame by frame, and a walk whose frames are all known does not call it: see [`known`].
#![cfg_attr(
    unix,
    expect(
        unsafe_code,
        reason = "walks the stack without the lock that only Windows needs"
    )
)]

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
mod known;

/// On other targets no answer is kept.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64", not(miri))))]
mod known {
    use super::Step;

    pub(super) fn walk<const N: usize>(_: usize, _: &mut [usize; N]) -> Option<usize> {
        None
    }

    pub(super) fn learn(_: usize, _: &[Step], _: bool) {}
}

/// A frame: the address in it, and the address where its stack begins.
#[derive(Clone, Copy, Default)]
struct Step {
    ip: usize,
    sp: usize,
}

/// The maximum number of frames of one walk.
const MAX_STEPS: usize = 24;

/// Fills in the frames of the calling thread whose stacks begin above `here`, innermost first. Returns
/// how many there are, or `N` if there are more. `here` is the address of a word in the caller's frame,
/// which is the same word at each call.
#[inline(always)] // Otherwise the caller's frame would not be left out.
pub(super) fn addresses_above<const N: usize>(here: usize, addresses: &mut [usize; N]) -> usize {
    known::walk(here, addresses).unwrap_or_else(|| walk(here, addresses))
}

/// Walks the stack by the unwinder, and enters its answer into the table.
#[cold]
#[inline(never)]
fn walk<const N: usize>(here: usize, addresses: &mut [usize; N]) -> usize {
    const { assert!(N < MAX_STEPS) };
    let mut steps = [Step::default(); MAX_STEPS];
    let mut count = 0;
    unwind(|step| {
        if step.sp > here {
            steps[count] = step;
            count += 1;
        }
        // One frame more than asked for is needed, to tell where the stack of the last one ends.
        count <= N
    });
    known::learn(here, &steps[..count], count <= N);
    for (address, step) in addresses.iter_mut().zip(&steps[..count]) {
        *address = step.ip;
    }
    count.min(N)
}

/// Calls `visit` for each frame, innermost first, until it returns `false`.
#[inline]
fn unwind(mut visit: impl FnMut(Step) -> bool) {
    let visit = |frame: &backtrace::Frame| {
        visit(Step {
            ip: frame.ip().addr(),
            sp: frame.sp().addr(),
        })
    };
    #[cfg(unix)]
    // SAFETY: the walk needs synchronisation on Windows only, where a debugging library is not
    // thread-safe; the platform's unwinder is.
    unsafe {
        backtrace::trace_unsynchronized(visit);
    }
    #[cfg(not(unix))]
    backtrace::trace(visit);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::hint::black_box;

    use super::*;

    type Frames = Vec<usize>;

    /// Returns the frames of this stack according to the table, if it knows all, and according to the
    /// unwinder, if `ask` is set.
    #[inline(never)]
    fn both(ask: bool) -> (Option<Frames>, Frames) {
        let marker = 0_usize;
        let here = (&raw const *black_box(&marker)).addr();
        let (mut known, mut walked) = ([0; 16], [0; 16]);
        let count = known::walk(here, &mut known);
        let known = count.map(|count| known[..count].to_vec());
        let count = if ask { walk(here, &mut walked) } else { 0 };
        (known, walked[..count].to_vec())
    }

    #[inline(never)]
    fn small(path: usize) -> (Option<Frames>, Frames) {
        black_box(next(path))
    }

    #[inline(never)]
    fn large(path: usize) -> (Option<Frames>, Frames) {
        let _frame = black_box([0_usize; 80]);
        black_box(next(path))
    }

    /// The size of this function's frame depends on the address where it begins.
    #[inline(never)]
    fn aligned(path: usize) -> (Option<Frames>, Frames) {
        #[repr(align(256))]
        struct Aligned {
            _words: [usize; 32],
        }
        let _frame = black_box(Aligned { _words: [path; 32] });
        black_box(next(path))
    }

    /// The rest of a path for which the unwinder is not called.
    const SILENT: usize = 1 << 20;

    /// Makes one call for each digit of the path.
    #[inline(never)]
    fn next(path: usize) -> (Option<Frames>, Frames) {
        black_box(match path % 4 {
            0 => both(path != SILENT),
            1 => small(path / 4),
            2 => large(path / 4),
            _ => aligned(path / 4),
        })
    }

    #[test]
    fn what_is_known_is_what_the_unwinder_says() {
        for round in 0..4 {
            for path in 0..4_usize.pow(5) {
                let (known, walked) = next(path);

                if let Some(known) = known {
                    assert_eq!(known, walked, "path {path:o} in round {round}");
                }
            }
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
    fn a_stack_of_pairs_that_were_seen_in_other_stacks_is_known() {
        use std::time::{Duration, Instant};

        let digits = [1, 2];
        let pairs = digits.map(|a| digits.map(|b| a + 4 * b)).concat();
        let triple = |c| pairs.iter().map(move |pair| pair + 16 * c + 64 * SILENT);
        let triples: Vec<usize> = digits.into_iter().flat_map(triple).collect();

        let all_are_known = || {
            let mut known = Vec::new();
            for path in [&pairs[..], &triples].concat() {
                known.push(next(path).0.is_some());
            }
            known[pairs.len()..].iter().all(|known| *known)
        };

        // Tests that run at the same time walk from other places, so the first frame may have to be
        // learnt again while they run.
        let begun = Instant::now();
        while !all_are_known() {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
    }
}
