//! Walking the stack of the calling thread, fast where it looks as it did the last time.
//!
//! The platform's unwinder takes about 100 ns for each frame, since it interprets the tables that
//! the compiler left. But a thread that allocates comes from nearly the same place again and again.
//! So each thread remembers its last walk: for each frame the address in it (`ip`) and where its
//! stack began (`sp`). On x86-64 the address to which a function returns lies right below its
//! caller's `sp`. If the unwinder arrives at an `ip` and `sp` that the last walk has, then the next
//! frame begins where it began then, since the size of a frame is a constant of the address in it;
//! and its `ip` is what lies below that. While that word is what it was, the last walk is still
//! right, and the rest of it needs one comparison for each frame.
//!
//! A function with a frame of variable size (C's `alloca`) breaks the rule. Then the comparison
//! fails, but for a chance of nothing, and the walk goes on with the unwinder. Every address that
//! is read lies in the thread's own stack, above the frames that are alive.
#![cfg_attr(
    unix,
    expect(
        unsafe_code,
        reason = "reads the return addresses on the own stack, and walks it without the lock that \
                  only Windows needs"
    )
)]

/// The most frames of one walk, the walk's own among them.
pub(super) const MOST: usize = 24;

/// A frame: the address in it, and where its stack began.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Step {
    ip: usize,
    sp: usize,
}

/// A walk, innermost frame first.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    steps: [Step; MOST],
    count: usize,
    /// Whether it ended where the stack does.
    complete: bool,
}

impl Walk {
    const EMPTY: Self = Self {
        steps: [Step { ip: 0, sp: 0 }; MOST],
        count: 0,
        complete: false,
    };

    /// The frames of the calling thread whose stacks begin above `here`, at most `most` of them.
    pub(super) fn addresses_above<const N: usize>(here: usize) -> ([usize; N], usize) {
        let mut walk = Self::EMPTY;
        let mut addresses = [0; N];
        let mut count = 0;
        with_last(|last| {
            walk.take_steps(here, N, last);
            *last = walk;
        });
        for step in walk.steps[..walk.count]
            .iter()
            .filter(|step| step.sp > here)
        {
            if count < N {
                addresses[count] = step.ip;
                count += 1;
            }
        }
        (addresses, count)
    }

    /// Walks until `wanted` frames above `here` are found, or there are no more.
    fn take_steps(&mut self, here: usize, wanted: usize, last: &Self) {
        let mut found = 0;
        self.complete = true;
        unwind(|step| {
            if let Some(rest) = last.rest_from(step) {
                // As the last time from here on: enough of it?
                let more = rest.iter().filter(|step| step.sp > here).count();
                if last.complete || found + more >= wanted {
                    let room = rest.len().min(MOST - self.count);
                    rest[..room].iter().for_each(|step| self.push(*step));
                    self.complete = last.complete && room == rest.len();
                    return false;
                }
            }
            self.push(step);
            found += usize::from(step.sp > here);
            self.complete = found < wanted && self.count < MOST;
            self.complete
        });
    }

    fn push(&mut self, step: Step) {
        self.steps[self.count] = step;
        self.count += 1;
    }

    /// The frames of this walk from `step`, if it has it and all from there is still right.
    fn rest_from(&self, step: Step) -> Option<&[Step]> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64", not(miri))) {
            return None;
        }
        let steps = &self.steps[..self.count];
        let rest = &steps[steps.iter().position(|known| *known == step)?..];
        let right = rest.windows(2).all(|pair| {
            // The stack grows downwards: what is read lies above a frame that is alive.
            pair[1].sp > pair[0].sp && returns_to(pair[1].sp) == pair[1].ip
        });
        right.then_some(rest)
    }
}

/// The address to which the function returns whose caller's stack begins at `sp`.
#[cfg(unix)]
fn returns_to(sp: usize) -> usize {
    let slot = std::ptr::with_exposed_provenance::<usize>(sp - size_of::<usize>());
    // SAFETY: in an earlier walk of this thread `sp` was the start of a frame's stack, so the word
    // below it is in this thread's stack; and it is above a frame that is alive now, so mapped.
    // Any bits are a valid usize. Volatile, since it is no object of the language's.
    unsafe { slot.read_volatile() }
}

#[cfg(not(unix))]
fn returns_to(_: usize) -> usize {
    0
}

/// Calls `visit` for each frame, innermost first, until it answers `false`.
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

/// Calls `with` with this thread's last walk.
fn with_last(with: impl FnOnce(&mut Walk)) {
    use std::cell::RefCell;
    thread_local!(static LAST: RefCell<Walk> = const { RefCell::new(Walk::EMPTY) });
    LAST.with(|last| match last.try_borrow_mut() {
        Ok(mut last) => with(&mut last),
        // A signal handler that allocates, in the midst of a walk.
        Err(_) => with(&mut { Walk::EMPTY }),
    });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[inline(never)]
    fn here() -> Vec<usize> {
        let marker = 0_u8;
        let (addresses, count) =
            Walk::addresses_above::<16>((&raw const *black_box(&marker)).addr());
        addresses[..count].to_vec()
    }

    /// What the unwinder alone says.
    #[inline(never)]
    fn plain() -> Vec<usize> {
        let mut addresses = Vec::new();
        backtrace::trace(|frame| {
            addresses.push(frame.ip().addr());
            true
        });
        addresses
    }

    #[inline(never)]
    fn left(depth: usize) -> [Vec<usize>; 2] {
        let stacks = if depth == 0 {
            both()
        } else {
            middle(depth - 1)
        };
        black_box(stacks)
    }

    #[inline(never)]
    fn right(depth: usize) -> [Vec<usize>; 2] {
        let _frame = black_box([0_usize; 8]);
        let stacks = if depth == 0 {
            both()
        } else {
            middle(depth - 1)
        };
        black_box(stacks)
    }

    /// Left or right by the bits of the depth.
    #[inline(never)]
    fn middle(depth: usize) -> [Vec<usize>; 2] {
        let stacks = match depth % 3 {
            0 => left(depth),
            _ => right(depth),
        };
        black_box(stacks)
    }

    #[inline(never)]
    fn both() -> [Vec<usize>; 2] {
        [here(), plain()]
    }

    #[test]
    fn a_remembered_walk_says_what_the_unwinder_says() {
        for round in 0..200 {
            let [fast, plain] = match round % 4 {
                0 => left(round % 7),
                1 => right(round % 5),
                2 => middle(round % 9),
                _ => both(),
            };

            // Two calls from `both`: all but the innermost frames are the same.
            let common = (fast.len() - 1).min(11);
            let tail = &fast[fast.len() - common..];
            let found = plain.windows(common).any(|window| window == tail);
            assert!(
                found || common < 3,
                "round {round}: {fast:x?} is not in {plain:x?}"
            );
        }
    }
}
