//! A small number for each thread, and hooks that run when the thread ends.
//!
//! State that is kept per thread is found by the thread's *number*: the shard of a
//! [`Tally`](crate::Tally), the blocks of a [`BlockCache`](crate::BlockCache), the record of
//! `accounting::hazard`, the stripe of a node, an arena of jemalloc. A number is an index into
//! arrays, so a thread finds its part of any number of objects without searching.
//!
//! A thread takes the lowest free number when it first asks, and gives it back when it ends. Numbers
//! are therefore dense: a program with 20 threads uses 0 to 19, however many threads have ended. Up to
//! [`NUMBERS`] (1,024) threads have a number at once. Other threads have none: those that asked
//! when all were taken, which ask again when a number was given back, and those that are ending. Threads without
//! a number share: 16 shards of a tally, over which [`thread_number`] spreads them. They keep no blocks, and
//! they pin nodes where others hold them in a record.
//!
//! # The lease
//!
//! The lease is the crate's only thread-local with a destructor, but for one that keeps the thread's name in
//! debug mode. It owns the number, and the list of those that keep something for this thread and want to know
//! when it ends ([`AtEnd`]). The number itself lies in a thread-local of its own, which has no destructor: it
//! can be read as long as the thread runs, and a load and a comparison with the length of an array are all
//! that a hot path does.
//!
//! # Invariants
//!
//! 1. A number is held by at most one living thread. Its next holder sees all that the last one wrote:
//!    [`NumberSet::claim`] is an Acquire whose partner is the Release in [`NumberSet::remove`].
//! 2. What [`index`] returns is at most `NUMBERS`, and less only while the thread holds that number: the
//!    lease's destructor reads the number from the lease, and then puts `NUMBERS` there before it calls a
//!    hook or gives the number back. So code that runs later in the same thread (in a hook, or in the
//!    destructor of another thread-local) uses nothing that belongs to the number.
//! 3. Before the number is given back, every hook that the thread has registered has returned. So code that
//!    keeps something for a number calls [`at_end`] before it keeps the first thing, and keeps nothing if it
//!    returns `false`. An earlier holder's call does not count: hooks are the thread's, not the number's.
//!    Then whatever is kept for a number that is not taken is empty, but for sums (those of a tally, and
//!    bookkeeping that the next holder uses), which go on. No lock is held while a hook runs.
//! 4. [`ever`] is larger than each number whose taking happens before the call.
//!
//! Invariants 2 and 3 need thread-locals that can be read until the thread is gone if they have no destructor.
//! That is so where threads have native thread-locals: on Linux, macOS, and Windows with MSVC. Where std stores
//! thread-locals behind keys of the operating system, every thread-local is freed in some order, and starts
//! again with its initial value when it is used later. There a thread whose other thread-locals use this crate
//! late in its end may take a second number, and a second lease, whose hooks the system calls in a later
//! round. If the system stops before that round, the number stays taken, and what was kept for it
//! stays kept. No number ever gets two holders.
//!
//! # Fork
//!
//! A child process has one thread, the copy of the one that called `fork`, which keeps its number. The numbers
//! of all other threads stay taken in the child: their holders do not exist there, and no destructor gives
//! the numbers back. That is on purpose. A thread may be anywhere at the instant of the fork, for
//! example between the two stores by which it takes a block out of its cache; the next holder of its
//! number would continue with half a change. In the child, no thread continues it: what others read of such a place
//! (a scan, a sum, [`release`](crate::BlockCache::release)) they read with the precautions that they take
//! against a thread that runs beside them, and one that stands still is a case of that. So in a child
//!
//! * as many threads fewer than 1,024 have a number as the parent had threads with a number, but for the one that forked;
//!   all others work as threads without a number;
//! * blocks that those threads kept are counted as cached until the program releases the unused memory of the manager;
//! * a node that such a thread held in its record at the instant of the fork is never freed (`accounting::hazard`).
//!
//! Destructors of thread-locals run in no order that one may rely on. Code that runs before the lease's
//! destructor finds a thread like any other. Code that runs after it, or in a hook, finds a thread that has
//! no number and gets none, and that [`at_end`] cannot be told of: it must leave nothing behind.

mod set;

pub use self::set::NUMBERS;
pub use self::set::NumberSet;

/// A small number for the calling thread, to spread threads over a few places.
///
/// Numbers are dense: a thread takes the lowest that no other living thread has when it first uses
/// this crate, keeps it until it ends, and leaves it to the next thread. A program with 20 threads has
/// the numbers 0 to 19, so `thread_number() % places` gives each of 20 places one thread.
///
/// Two threads may get the same result: a thread that is already running the destructors of its
/// thread-locals has none of its own any more, nor has one that came when 1,024 others had all there are;
/// such results are large, but not unique. So use the result to choose among places that any
/// thread may use, not as an index into something that a single thread writes.
///
/// Costs a load and a comparison after the first call in a thread. In a thread that has no number of its own each
/// call costs a function call and some more loads, and a search for a free number if another thread has given
/// one back since the last call.
///
/// # Examples
///
/// ```
/// use arrow_memory_manager::thread_number;
///
/// let mine = thread_number();
/// let other = std::thread::spawn(thread_number).join().unwrap();
///
/// assert_eq!(thread_number(), mine);
/// assert_ne!(other, mine);
/// ```
#[inline]
pub fn thread_number() -> usize {
    let number = index();
    if number < NUMBERS {
        number
    } else {
        live::ask().unwrap_or_else(live::spread)
    }
}

/// This thread's number if it has asked for one, or else [`NUMBERS`]; never more. Costs a load.
///
/// An index into arrays with a place for each number, and perhaps one more: what lies there is the thread's own.
#[inline]
pub fn index() -> usize {
    live::index()
}

/// This thread's number. `None` if there is none for it: all are taken, or the thread is ending. A thread that
/// was told `None` because all are taken is told so again, for the cost of two loads, until one is given back.
#[inline]
pub fn number() -> Option<usize> {
    let number = index();
    if number < NUMBERS {
        return Some(number);
    }
    live::ask()
}

/// A hook for the end of a thread. The function gets the number that the thread had, if it had one; no other
/// thread has that number before the function returns.
///
/// It runs in the destructor of a thread-local, where it must not panic. It may run foreign code. There is
/// room for a few in each thread: this crate's own and those of its backends (`HOOKS`).
pub struct AtEnd(
    #[cfg_attr(loom, allow(dead_code, reason = "nobody is told in a model"))] pub fn(Option<usize>),
);

pub use self::live::at_end;
pub use self::live::{ever, spread, taken, without_number};

#[cfg(not(loom))]
mod live {
    use std::cell::Cell;

    use super::{AtEnd, NUMBERS, NumberSet};
    use crate::sync::{AtomicUsize, Ordering};

    #[inline]
    pub(super) fn index() -> usize {
        NUMBER.get()
    }

    /// Takes a number if the thread may have one. A thread that found all taken looks again once a number
    /// was given back.
    #[cold]
    pub(super) fn ask() -> Option<usize> {
        // Before the claim: see `given_back`.
        let given_back = TAKEN.given_back();
        let spread = match OTHERWISE.get() {
            Otherwise::Unasked => new_spread(),
            Otherwise::Waiting { seen, .. } if seen == given_back => return None,
            Otherwise::Waiting { spread, .. } => spread,
            Otherwise::Never(_) => return None,
        };
        // The first use of a thread-local with a destructor may allocate, on some platforms, and so
        // come back here: then the thread has no number for the time being.
        OTHERWISE.set(Otherwise::Never(spread));
        let claimed = LEASE.try_with(|lease| {
            // The lease has one already if `NUMBER` was lost (see the module's doc on thread-locals).
            let number = lease.number.get().or_else(|| TAKEN.claim());
            lease.number.set(number);
            number
        });
        let Some(number) = claimed.ok()? else {
            OTHERWISE.set(Otherwise::Waiting {
                spread,
                seen: given_back,
            });
            return None;
        };
        // Relaxed, both: by coherence it is seen by all that happens after (invariant 4).
        if EVER.load(Ordering::Relaxed) <= number {
            EVER.fetch_max(number + 1, Ordering::Relaxed);
        }
        NUMBER.set(number);
        Some(number)
    }

    /// What spreads a thread that has no number over places. It does not ask for one: that is for a caller
    /// that has asked.
    #[cold]
    pub fn spread() -> usize {
        match OTHERWISE.get() {
            Otherwise::Waiting { spread, .. } | Otherwise::Never(spread) => {
                NUMBERS.wrapping_add(spread)
            }
            Otherwise::Unasked => NUMBERS,
        }
    }

    /// A place among the threads that have no number.
    fn new_spread() -> usize {
        // Relaxed: any order will do.
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Does `work` as a thread that has no number, which this one has. For what the way to the thread's own
    /// place needs, and may itself look for that place.
    pub fn without_number<R>(work: impl FnOnce() -> R) -> R {
        let number = NUMBER.replace(NUMBERS);
        OTHERWISE.set(Otherwise::Never(number));
        let result = work();
        NUMBER.set(number);
        result
    }

    /// Has `hook` called when the calling thread ends, once, however often this was called. `false` if that
    /// will not happen: the thread is ending already, or there is no room for another hook (`HOOKS`). Then
    /// the caller must keep nothing for the thread.
    pub fn at_end(hook: &'static AtEnd) -> bool {
        let registered = LEASE.try_with(|lease| {
            let mut places = lease.hooks.iter();
            let place =
                places.find(|place| place.get().is_none_or(|there| std::ptr::eq(there, hook)));
            debug_assert!(place.is_some(), "more hooks than HOOKS");
            place.inspect(|place| place.set(Some(hook))).is_some()
        });
        registered.unwrap_or(false)
    }

    /// The numbers of living threads: all whose threads took one before (see [`NumberSet::iter`]).
    pub fn taken() -> impl Iterator<Item = usize> {
        TAKEN.iter()
    }

    /// One more than the highest number that was ever taken, by invariant 4. Never falls.
    #[inline]
    pub fn ever() -> usize {
        // Relaxed: see invariant 4.
        EVER.load(Ordering::Relaxed)
    }

    /// The number that a thread gives back when it ends, and the hooks that it then calls.
    struct Lease {
        number: Cell<Option<usize>>,
        hooks: [Cell<Option<&'static AtEnd>>; HOOKS],
    }

    impl Drop for Lease {
        fn drop(&mut self) {
            let number = self.number.take();
            NUMBER.set(NUMBERS);
            OTHERWISE.set(Otherwise::Never(match (number, OTHERWISE.get()) {
                // It still spreads threads as before.
                (Some(spread), _)
                | (None, Otherwise::Waiting { spread, .. } | Otherwise::Never(spread)) => spread,
                (None, Otherwise::Unasked) => new_spread(),
            }));
            for hook in self.hooks.iter().filter_map(Cell::take) {
                (hook.0)(number);
            }
            if let Some(number) = number {
                TAKEN.give_back(number);
            }
        }
    }

    /// What a thread is while it has no number.
    #[derive(Clone, Copy)]
    enum Otherwise {
        /// It has not asked.
        Unasked,
        /// It found all taken.
        Waiting {
            /// Its place among the threads that have no number.
            spread: usize,
            /// What [`NumberSet::given_back`] said before: while that stays, there is no number for it.
            seen: usize,
        },
        /// It gets none: it is ending, or just about to take one. Its place among the threads that have no number.
        Never(usize),
    }

    thread_local! {
        /// This thread's number, or `NUMBERS`. It has no destructor, so it can be read as long as the thread
        /// runs.
        static NUMBER: Cell<usize> = const { Cell::new(NUMBERS) };
        /// The same without a number. Without a destructor, too.
        static OTHERWISE: Cell<Otherwise> = const { Cell::new(Otherwise::Unasked) };
        static LEASE: Lease = const {
            Lease {
                number: Cell::new(None),
                hooks: [const { Cell::new(None) }; HOOKS],
            }
        };
    }

    /// How many can be told of a thread's end. Four want to know: the pool of slots, the records of
    /// `accounting`, the caches of blocks, and those of jemalloc's arenas. The rest is room for others.
    const HOOKS: usize = 8;

    /// The numbers that threads hold.
    static TAKEN: NumberSet = NumberSet::new();

    /// One more than the highest number so far.
    static EVER: AtomicUsize = AtomicUsize::new(0);

    /// Spreads threads that have no number.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
}

/// In a model, the number that its thread chose; no hooks run.
#[cfg(loom)]
mod live {
    use super::{AtEnd, NUMBERS};

    pub(super) fn index() -> usize {
        CHOSEN.with(std::cell::Cell::get)
    }

    pub(super) fn ask() -> Option<usize> {
        None
    }

    pub fn spread() -> usize {
        NUMBERS
    }

    pub fn without_number<R>(work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Registers nothing: no hooks run in a model.
    pub fn at_end(_hook: &'static AtEnd) -> bool {
        true
    }

    pub fn taken() -> impl Iterator<Item = usize> {
        0..NUMBERS
    }

    pub fn ever() -> usize {
        NUMBERS
    }

    loom::thread_local! {
        /// The number of a model's thread.
        pub static CHOSEN: std::cell::Cell<usize> = std::cell::Cell::new(0);
    }
}

#[cfg(loom)]
pub use self::live::CHOSEN;

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod model;
