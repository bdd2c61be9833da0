//! A set of numbers that threads enter and leave without a lock: [`NumberSet`].
//!
//! # Invariants
//!
//! 1. A number is in the set while its bit is set. The bit is set by the thread that enters the number and
//!    cleared, by a Release, by the same thread when it removes the number.
//! 2. Words are changed by read-modify-writes only.
//!
//! # What a scan finds
//!
//! [`iter`](NumberSet::iter) may run while numbers come and go. What it promises: *if a number's entry
//! happens before the scan, then the scan visits the number, or the number's removal happens before
//! what follows the scan*. By coherence the scan reads a value of the word that is not older than the
//! entry's. If the bit is clear there, the removal has come in between in the word's modification
//! order. It is a Release, and by invariant 2 all that follows it continues its release sequence, so the
//! scan's Acquire load synchronises with it.
//!
//! A scan reads one word for each 64 numbers, and nothing for a number that is not in the set.

#![cfg_attr(
    all(loom, not(test)),
    allow(dead_code, reason = "only models use it then")
)]

use crate::sync::{AtomicU64, Ordering};

/// How many numbers there are: so many threads have one at once. A power of two.
pub(crate) const NUMBERS: usize = WORDS * WORD_BITS;

const WORDS: usize = if cfg!(loom) { 2 } else { 16 };

/// How many bits of a word are used: all 64 but in a model.
const WORD_BITS: usize = if cfg!(loom) { 1 } else { 64 };

/// A word all of whose used bits are set.
const FULL: u64 = u64::MAX >> (64 - WORD_BITS);

/// A set of numbers below [`NUMBERS`].
pub(crate) struct NumberSet {
    /// A bit for each number.
    words: [AtomicU64; WORDS],
}

impl NumberSet {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// loom's atomics have no `const` constructors.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Enters the lowest number that is not in the set, and returns it; `None` if all are.
    ///
    /// The caller sees everything that the thread which last removed the number had done before. Costs a
    /// load for each 64 numbers below the one that is free.
    pub(crate) fn claim(&self) -> Option<usize> {
        (0..WORDS).find_map(|word| self.claim_in(word))
    }

    /// Sets the lowest bit of a word that is clear.
    fn claim_in(&self, word: usize) -> Option<usize> {
        let claimed = self.words[word].fetch_update(
            // Acquire: its partner is the Release in `remove`, by which the last holder left.
            Ordering::Acquire,
            // Relaxed: nothing is read before a number is ours.
            Ordering::Relaxed,
            |bits| (bits != FULL).then(|| bits | (bits + 1)),
        );
        let bits = claimed.ok()?;
        Some(word * WORD_BITS + bits.trailing_ones() as usize)
    }

    /// Enters a number that is not in the set, and that no other thread enters meanwhile.
    pub(crate) fn insert(&self, number: usize) {
        let (word, bit) = place(number);
        // Relaxed: it publishes nothing by itself. A scan that must see it happens after a later Release
        // of the thread.
        self.words[word].fetch_or(bit, Ordering::Relaxed);
    }

    /// Removes a number. By the thread that entered it.
    pub(crate) fn remove(&self, number: usize) {
        let (word, bit) = place(number);
        // Release: its partners are the Acquire in `claim_in`, so that the next holder sees all that this
        // one wrote, and the one in `iter`.
        self.words[word].fetch_and(!bit, Ordering::Release);
    }

    /// The numbers in the set, from the lowest to the highest. See the module's doc for what is found
    /// while others come and go.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            // Acquire: partner of the Release in `remove`: what follows comes after all that those who
            // have left had done.
            let mut bits = word.load(Ordering::Acquire);
            std::iter::from_fn(move || {
                let lowest = bits.trailing_zeros() as usize;
                // The lowest bit that is set, if there is one, is cleared.
                bits &= bits.checked_sub(1)?;
                Some(index * WORD_BITS + lowest)
            })
        })
    }
}

/// The word of a number and its bit there.
fn place(number: usize) -> (usize, u64) {
    (number / WORD_BITS, 1 << (number % WORD_BITS))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn numbers(set: &NumberSet) -> Vec<usize> {
        set.iter().collect()
    }

    #[test]
    fn the_lowest_number_that_is_free_comes_first() {
        let set = NumberSet::new();
        for expected in 0..200 {
            assert_eq!(set.claim(), Some(expected));
        }
        for left in [130, 7, 64] {
            set.remove(left);
        }

        assert_eq!([(); 4].map(|()| set.claim()), [7, 64, 130, 200].map(Some));
    }

    #[test]
    fn every_number_can_be_had_once() {
        let set = NumberSet::new();
        for expected in 0..NUMBERS {
            assert_eq!(set.claim(), Some(expected));
        }
        assert_eq!(set.claim(), None);

        set.remove(NUMBERS - 1);
        assert_eq!(set.claim(), Some(NUMBERS - 1));
        assert!(set.iter().eq(0..NUMBERS));
    }

    #[test]
    fn a_scan_visits_what_is_there_in_order() {
        let set = NumberSet::new();
        let there = [0, 63, 64, 500, 511, 512, NUMBERS - 1];
        there.into_iter().for_each(|number| set.insert(number));
        assert_eq!(numbers(&set), there);

        set.remove(511);
        set.remove(0);
        assert_eq!(numbers(&set), [63, 64, 500, 512, NUMBERS - 1]);
    }
}

#[cfg(all(test, loom))]
mod model {
    //! Mutations that these models catch, each tried: Relaxed in place of the Acquire in `claim_in` or in
    //! `iter`, or of the Release in `remove`.

    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    use super::*;

    /// What belongs to the holder of each number, and a node that one of the threads holds.
    struct World {
        set: NumberSet,
        places: [UnsafeCell<usize>; NUMBERS],
        node: UnsafeCell<usize>,
        /// One more than the number of the thread that has given up the node's bytes; 0 before.
        given: AtomicUsize,
    }

    // SAFETY: that nobody touches a cell while another thread writes there is what the models check.
    #[expect(unsafe_code, reason = "data that loom watches")]
    unsafe impl Sync for World {}

    impl World {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                set: NumberSet::new(),
                places: std::array::from_fn(|_| UnsafeCell::new(0)),
                node: UnsafeCell::new(0),
                given: AtomicUsize::new(0),
            })
        }

        /// Takes a number, works as its only holder, and gives it back.
        #[expect(unsafe_code, reason = "data that loom watches")]
        fn come_and_go(&self, work: impl FnOnce(usize)) {
            let Some(number) = self.set.claim() else {
                return;
            };
            // SAFETY: loom says if another thread is there, too.
            self.places[number].with_mut(|place| unsafe { *place += 1 });
            work(number);
            self.set.remove(number);
        }

        /// Gives up the node's bytes, and reads it afterwards.
        #[expect(unsafe_code, reason = "data that loom watches")]
        fn release(&self, number: usize) {
            // Release: as `Word::give`.
            self.given.store(number + 1, Ordering::Release);
            // SAFETY: loom says if another thread writes.
            self.node.with(|node| assert_eq!(unsafe { *node }, 0));
        }

        /// Frees the node if its bytes were given up and the scan does not find who holds it.
        #[expect(unsafe_code, reason = "data that loom watches")]
        fn free_if_unheld(&self) {
            // Acquire: as `Word::shut_down`.
            let given = self.given.load(Ordering::Acquire);
            if given != 0 && self.set.iter().all(|number| number + 1 != given) {
                // SAFETY: loom says if another thread reads or writes.
                self.node.with_mut(|node| unsafe { *node += 1 });
            }
        }
    }

    #[test]
    fn a_number_has_one_holder_who_sees_what_the_last_one_wrote() {
        loom::model(|| {
            let world = World::new();
            let others = [(); 2].map(|()| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.come_and_go(drop))
            });
            world.come_and_go(drop);
            for other in others {
                other.join().unwrap();
            }
            assert_eq!(world.set.iter().count(), 0);
        });
    }

    #[test]
    fn a_scan_misses_no_number_whose_holder_is_not_done() {
        loom::model(|| {
            let world = World::new();
            let holder = Arc::clone(&world);
            let holder = thread::spawn(move || holder.come_and_go(|number| holder.release(number)));
            // May have the number before the holder, or after it.
            let other = Arc::clone(&world);
            let other = thread::spawn(move || other.come_and_go(drop));

            world.free_if_unheld();

            holder.join().unwrap();
            other.join().unwrap();
        });
    }
}
