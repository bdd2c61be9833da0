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

use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// How many numbers there are: so many threads have one at once. A power of two.
pub const NUMBERS: usize = WORDS * WORD_BITS;

const WORDS: usize = if cfg!(loom) { 2 } else { 16 };

/// How many bits of a word are used: all 64 but in a model.
const WORD_BITS: usize = if cfg!(loom) { 1 } else { 64 };

/// A word all of whose used bits are set.
const FULL: u64 = u64::MAX >> (64 - WORD_BITS);

/// A set of numbers below [`NUMBERS`].
pub struct NumberSet {
    /// A bit for each number.
    words: [AtomicU64; WORDS],
    /// How many numbers were ever given back.
    given_back: AtomicUsize,
}

impl Default for NumberSet {
    fn default() -> Self {
        Self::new()
    }
}

impl NumberSet {
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            words: [const { AtomicU64::new(0) }; WORDS],
            given_back: AtomicUsize::new(0),
        }
    }

    /// loom's atomics have no `const` constructors.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            given_back: AtomicUsize::new(0),
        }
    }

    /// Enters the lowest number that is not in the set, and returns it; `None` if all are.
    ///
    /// The caller sees everything that the thread which last removed the number had done before. Costs a
    /// load for each 64 numbers below the one that is free.
    pub fn claim(&self) -> Option<usize> {
        (0..WORDS).find_map(|word| self.claim_in(word))
    }

    /// Removes a number that the calling thread claimed, and has [`given_back`](Self::given_back) change.
    pub fn give_back(&self, number: usize) {
        self.remove(number);
        // Release: its partner is the Acquire in `given_back`. A thread that reads the new value finds the number
        // removed.
        self.given_back.fetch_add(1, Ordering::Release);
    }

    /// How many numbers were ever given back; it wraps.
    ///
    /// A thread that reads this, finds no number to claim *afterwards*, and later reads the same value again
    /// need not try again: no number was given back that its claim did not consider.
    pub fn given_back(&self) -> usize {
        // Acquire: its partner is the Release in `give_back`.
        self.given_back.load(Ordering::Acquire)
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
    #[inline]
    pub fn insert(&self, number: usize) {
        let (word, bit) = place(number);
        // Relaxed: it publishes nothing by itself. A scan that must see it happens after a later Release
        // of the thread.
        self.words[word].fetch_or(bit, Ordering::Relaxed);
    }

    /// Removes a number. By the thread that entered it.
    #[inline]
    pub fn remove(&self, number: usize) {
        let (word, bit) = place(number);
        // Release: its partners are the Acquire in `claim_in`, so that the next holder sees all that this
        // one wrote, and the one in `iter`.
        self.words[word].fetch_and(!bit, Ordering::Release);
    }

    /// The numbers in the set, from the lowest to the highest. See the module's doc for what is found
    /// while others come and go.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = usize> {
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
