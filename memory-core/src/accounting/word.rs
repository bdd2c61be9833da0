//! The word: the credit of a node (or of one of its stripes), in one atomic.

use crate::sync::{AtomicU64, Ordering};

/// The most credit that one word can hold, in bytes: 2 GiB less one.
pub(super) const MAX_CREDIT: usize = (1 << CREDIT_BITS) - 1;

const CREDIT_BITS: u32 = 31;
const CREDIT: u64 = (1 << CREDIT_BITS) - 1;
const LOW_SHIFT: u32 = CREDIT_BITS;

/// A shut word: only the tree's mutex decides here. It holds no credit, so that `take` needs no
/// look at the bit; and the bit is far above any credit, so that `give` compares once.
const SHUT: u64 = 1 << 62;

/// Why a word was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slow {
    /// The mutex must decide.
    Mutex,
    /// Another thread changed the word at the same time.
    Collision,
}

/// What a word held when it was shut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// The credit, in bytes.
    pub(super) credit: usize,
    /// The least credit since the word was last opened.
    pub(super) low: usize,
}

/// Credit, the least credit since the word was opened, and whether it is open.
///
/// | bits | meaning |
/// |---|---|
/// | 0..31 | `credit`: bytes that may be taken without asking anyone |
/// | 31..62 | `low`: the least credit since the word was opened |
/// | 62 | SHUT: all other bits are zero, and only who holds the mutex may change the word |
///
/// Several compare-exchanges may succeed on equal words that mean different histories; that is
/// harmless, because a word's meaning is its value.
#[derive(Debug)]
pub(super) struct Word(AtomicU64);

impl Word {
    /// A shut word.
    pub(super) fn shut() -> Self {
        Self(AtomicU64::new(SHUT))
    }

    /// Takes `bytes` (at least 1) of the credit, or says that the slow path must decide, or that
    /// another thread came in between.
    #[inline]
    pub(super) fn try_take(&self, bytes: usize) -> Result<(), Slow> {
        debug_assert!(bytes > 0);
        let bytes = bytes as u64;
        // Relaxed: a hint for the exchange below, which checks it.
        let word = self.0.load(Ordering::Relaxed);
        let credit = word & CREDIT;
        if credit < bytes {
            return Err(Slow::Mutex);
        }
        let left = credit - bytes;
        // A branch, which is foreseen, and not a minimum, for which the exchange would wait.
        let next = if left >= word >> LOW_SHIFT {
            word - bytes
        } else {
            new_low(left)
        };
        // Relaxed, both: taking publishes nothing, and the bytes taken guard no memory. (A `give`
        // is a Release; its partner is `shut_down`. Blocks are ordered by their manager.)
        self.0
            .compare_exchange(word, next, Ordering::Relaxed, Ordering::Relaxed)
            .map(drop)
            .map_err(|_| Slow::Collision)
    }

    /// Adds `bytes` to the credit, up to `high`, or says that the slow path must decide, or that
    /// another thread came in between.
    ///
    /// After success the word may be gone: nothing of its node is touched.
    #[inline]
    pub(super) fn try_give(&self, bytes: usize, high: usize) -> Result<(), Slow> {
        let (bytes, high) = (bytes as u64, high as u64);
        // Relaxed: a hint for the exchange below, which checks it.
        let word = self.0.load(Ordering::Relaxed);
        // No overflow: SHUT, a credit and a size of at most isize::MAX stay below 2^64.
        if (word & (SHUT | CREDIT)) + bytes > high {
            return Err(Slow::Mutex);
        }
        // Release: all that this thread did with the bytes' node comes before it; the partner is the
        // Acquire in `shut_down`, through which whoever frees a drained node comes after. Relaxed on
        // failure: nothing was read.
        self.0
            .compare_exchange(word, word + bytes, Ordering::Release, Ordering::Relaxed)
            .map(drop)
            .map_err(|_| Slow::Collision)
    }

    /// As [`try_take`](Self::try_take), until that is decided; `false`: by the mutex.
    pub(super) fn take(&self, bytes: usize) -> bool {
        decided(|| self.try_take(bytes))
    }

    /// As [`try_give`](Self::try_give), until that is decided; `false`: by the mutex.
    pub(super) fn give(&self, bytes: usize, high: usize) -> bool {
        decided(|| self.try_give(bytes, high))
    }

    /// Shuts the word and returns what it held; nothing if it was shut. Under the mutex.
    pub(super) fn shut_down(&self) -> Held {
        if self.is_shut() {
            return Held::default();
        }
        // Acquire: partner of the Release in `give`. All who gave back their bytes are done with
        // the node when their bytes are seen here. Takers need no order (see `take`).
        let word = self.0.swap(SHUT, Ordering::Acquire);
        Held {
            credit: (word & CREDIT) as usize,
            low: ((word >> LOW_SHIFT) & CREDIT) as usize,
        }
    }

    /// Opens the word with `credit` bytes, at most [`MAX_CREDIT`]. Under the mutex, when shut.
    pub(super) fn open(&self, credit: usize) {
        debug_assert!(credit <= MAX_CREDIT);
        // Relaxed, for the check and the store: under SHUT only the mutex's holder changes it.
        debug_assert_eq!(self.0.load(Ordering::Relaxed), SHUT);
        let credit = credit as u64;
        // Relaxed: who opened and who shuts next are ordered by the mutex, and each later `give`
        // heads a release sequence of its own.
        self.0
            .store(credit << LOW_SHIFT | credit, Ordering::Relaxed);
    }

    /// Whether the word is shut. Under the mutex, where it does not change.
    pub(super) fn is_shut(&self) -> bool {
        // Relaxed: only holders of the mutex shut and open words.
        self.0.load(Ordering::Relaxed) == SHUT
    }

    /// What it holds at this instant; nothing if shut.
    pub(super) fn held(&self) -> Held {
        // Relaxed: numbers for a reader.
        Held::of(self.0.load(Ordering::Relaxed))
    }
}

fn decided(attempt: impl Fn() -> Result<(), Slow>) -> bool {
    loop {
        match attempt() {
            Ok(()) => return true,
            Err(Slow::Mutex) => return false,
            Err(Slow::Collision) => {}
        }
    }
}

/// A word with a credit of `left` that is the least so far.
#[cold]
#[inline(never)] // Or it would be a minimum after all.
fn new_low(left: u64) -> u64 {
    left << LOW_SHIFT | left
}

impl Held {
    fn of(word: u64) -> Self {
        Self {
            credit: (word & CREDIT) as usize,
            low: ((word >> LOW_SHIFT) & CREDIT) as usize,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_shut_word_lets_nobody_take_or_give() {
        let word = Word::shut();
        assert!(!word.take(1));
        assert!(!word.give(0, MAX_CREDIT));
        assert!(!word.give(isize::MAX as usize, MAX_CREDIT));
        assert_eq!(word.shut_down(), Held::default());
    }

    #[test]
    fn the_low_mark_remembers_the_least_credit() {
        let word = Word::shut();
        word.open(100);
        assert!(word.take(70));
        assert!(word.give(50, 100));
        assert!(!word.take(81));
        assert!(!word.give(21, 100));
        assert_eq!(word.held().credit, 80);
        assert_eq!(
            word.shut_down(),
            Held {
                credit: 80,
                low: 30
            }
        );
    }

    #[test]
    fn the_largest_credit_fits() {
        let word = Word::shut();
        word.open(MAX_CREDIT);
        assert!(word.take(MAX_CREDIT));
        assert!(word.give(MAX_CREDIT, MAX_CREDIT));
        assert!(!word.give(1, MAX_CREDIT));
        assert_eq!(
            word.shut_down(),
            Held {
                credit: MAX_CREDIT,
                low: 0
            }
        );
    }
}
