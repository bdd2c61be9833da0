//! The word: the credit of a node (or of one of its stripes), in one atomic.

use std::ops::Add;

use crate::sync::{AtomicU64, Ordering};

/// The maximum of the credit, and of the external bytes, that one word can hold: 2 MiB less one.
pub(super) const MAX_CREDIT: usize = FIELD as usize;

const FIELD_BITS: u32 = 21;
const FIELD: u64 = (1 << FIELD_BITS) - 1;
const EXTERNAL_SHIFT: u32 = FIELD_BITS;
const LOW_SHIFT: u32 = 2 * FIELD_BITS;

/// A shut word: only the tree's mutex decides here. It holds no credit and no external bytes, so that
/// taking and giving these need no look at the bit; and the bit is far above any credit, so that
/// `give` compares once.
const SHUT: u64 = 1 << 63;

/// The purpose of charged bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes that their holder gives back: blocks, foreign memory, reservations.
    Held,
    /// External bytes. They are counted, since any holder of a handle may give them back.
    External,
    /// Blocks of the program's heap, of an account. The word has no external bytes: their field is its cap, the
    /// maximum of the credit that a `give` may leave. So a bound for what its users can hide in the word is in
    /// the word itself, and a giver cannot read an old one.
    Heap,
}

/// Why a word was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slow {
    /// The mutex must decide.
    Mutex,
    /// Another thread changed the word at the same time.
    Collision,
}

/// The contents of a word when it was shut, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) credit: usize,
    /// External bytes that are charged and that no other place counts.
    pub(super) external: usize,
    /// The minimum of the credit since the word was last opened.
    pub(super) low: usize,
}

/// Credit, external bytes, the minimum of the credit since the word was opened, and whether it is open.
///
/// | bits | meaning |
/// |---|---|
/// | 0..21 | `credit`: bytes that may be taken without asking anyone |
/// | 21..42 | `external`: external bytes that may be given back without asking anyone; in the word of an account, its cap |
/// | 42..63 | `low`: the minimum of the credit since the word was opened |
/// | 63 | SHUT: all other bits are zero, and only the holder of the mutex may change the word |
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
    pub(super) fn try_take(&self, bytes: usize, kind: Kind) -> Result<(), Slow> {
        debug_assert!(bytes > 0);
        let bytes = bytes as u64;
        // Relaxed: a hint for the exchange below, which checks it.
        let word = self.0.load(Ordering::Relaxed);
        let credit = word & FIELD;
        if credit < bytes {
            return Err(Slow::Mutex);
        }
        let (left, mut next) = (credit - bytes, word - bytes);
        if kind == Kind::External {
            if external(word) + bytes > FIELD {
                return Err(Slow::Mutex);
            }
            next += bytes << EXTERNAL_SHIFT;
        }
        // A branch, which is foreseen, and not a minimum, for which the exchange would wait.
        if left < word >> LOW_SHIFT {
            next = with_low(next, left);
        }
        // Relaxed, both: taking publishes nothing, and the bytes taken guard no memory. (A `give`
        // is a Release; its partner is `shut_down`. Blocks are ordered by their manager.)
        self.0
            .compare_exchange(word, next, Ordering::Relaxed, Ordering::Relaxed)
            .map(drop)
            .map_err(|_| Slow::Collision)
    }

    /// Adds `bytes` (at least 1, unless they are held) to the credit, up to `high`, or up to the cap of an
    /// account's word; or says that the slow path must decide, or that another thread came in between.
    ///
    /// After success the node may be freed: nothing of it is touched.
    #[inline]
    pub(super) fn try_give(&self, bytes: usize, high: usize, kind: Kind) -> Result<(), Slow> {
        let (bytes, high) = (bytes as u64, high as u64);
        // Relaxed: a hint for the exchange below, which checks it.
        let word = self.0.load(Ordering::Relaxed);
        // First, since these may be any number. A shut word counts none.
        if kind == Kind::External && external(word) < bytes {
            return Err(Slow::Mutex);
        }
        let high = if kind == Kind::Heap {
            external(word)
        } else {
            high
        };
        // No overflow: SHUT, or a credit, and a size of at most isize::MAX stay below 2^64.
        if (word & (SHUT | FIELD)) + bytes > high {
            return Err(Slow::Mutex);
        }
        let mut next = word + bytes;
        if kind == Kind::External {
            next -= bytes << EXTERNAL_SHIFT;
        }
        // Release: all that this thread did with the bytes' node comes before it; the partner is the
        // Acquire in `shut_down`, by which the thread that frees a drained node comes after. Relaxed on
        // failure: nothing was read.
        self.0
            .compare_exchange(word, next, Ordering::Release, Ordering::Relaxed)
            .map(drop)
            .map_err(|_| Slow::Collision)
    }

    /// Repeats [`try_take`](Self::try_take) until that is decided; `false`: the mutex must decide.
    pub(super) fn take(&self, bytes: usize, kind: Kind) -> bool {
        decided(|| self.try_take(bytes, kind))
    }

    /// Repeats [`try_give`](Self::try_give) until that is decided; `false`: the mutex must decide.
    pub(super) fn give(&self, bytes: usize, high: usize, kind: Kind) -> bool {
        decided(|| self.try_give(bytes, high, kind))
    }

    /// Shuts the word and returns what it held; nothing if it was shut. Under the mutex.
    pub(super) fn shut_down(&self) -> Held {
        if self.is_shut() {
            return Held::default();
        }
        // Acquire: partner of the Release in `give`. A thread whose returned bytes are seen here is done
        // with the node. Takers need no order (see `take`).
        Held::of(self.0.swap(SHUT, Ordering::Acquire))
    }

    /// Opens the word with `credit` and `external` bytes, each at most [`MAX_CREDIT`]. Under the
    /// mutex, when shut.
    pub(super) fn open(&self, credit: usize, external: usize) {
        debug_assert!(credit <= MAX_CREDIT && external <= MAX_CREDIT);
        // Relaxed, for the check and the store: under SHUT only the mutex's holder changes it.
        debug_assert_eq!(self.0.load(Ordering::Relaxed), SHUT);
        let (credit, external) = (credit as u64, external as u64);
        let word = credit << LOW_SHIFT | external << EXTERNAL_SHIFT | credit;
        // Relaxed: the mutex orders this thread and the next one that shuts the word, and each later
        // `give` heads a release sequence of its own.
        self.0.store(word, Ordering::Relaxed);
    }

    /// Whether the word is shut. Under the mutex, where it does not change.
    pub(super) fn is_shut(&self) -> bool {
        // Relaxed: only holders of the mutex shut and open words.
        self.0.load(Ordering::Relaxed) == SHUT
    }

    /// The contents at this instant; nothing if shut.
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

fn external(word: u64) -> u64 {
    (word >> EXTERNAL_SHIFT) & FIELD
}

/// The word with another `low`.
#[cold]
#[inline(never)] // Or it would be a minimum after all.
fn with_low(word: u64, low: u64) -> u64 {
    word & !(FIELD << LOW_SHIFT) | low << LOW_SHIFT
}

impl Held {
    fn of(word: u64) -> Self {
        Self {
            credit: (word & FIELD) as usize,
            external: external(word) as usize,
            low: ((word >> LOW_SHIFT) & FIELD) as usize,
        }
    }
}

impl Add for Held {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            credit: self.credit + other.credit,
            external: self.external + other.external,
            low: self.low + other.low,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const KINDS: [Kind; 2] = [Kind::Held, Kind::External];

    #[test]
    fn a_shut_word_lets_nobody_take_or_give() {
        let word = Word::shut();
        for kind in KINDS {
            assert!(!word.take(1, kind));
            assert!(!word.give(1, MAX_CREDIT, kind));
            assert!(!word.give(isize::MAX as usize, MAX_CREDIT, kind));
        }
        assert!(!word.give(usize::MAX, MAX_CREDIT, Kind::External));
        assert!(!word.give(0, MAX_CREDIT, Kind::Held));
        assert_eq!(word.shut_down(), Held::default());
    }

    #[test]
    fn the_low_mark_remembers_the_least_credit() {
        for kind in KINDS {
            let word = Word::shut();
            word.open(100, 7);
            assert!(word.take(70, kind));
            assert!(word.give(50, 100, kind));
            assert!(!word.take(81, kind));
            assert!(!word.give(21, 100, kind));
            // More is left than the minimum.
            assert!(word.take(10, kind));
            let held = Held {
                credit: 70,
                external: if kind == Kind::Held { 7 } else { 37 },
                low: 30,
            };
            assert_eq!((word.held(), word.shut_down()), (held, held));
        }
    }

    #[test]
    fn only_external_bytes_that_the_word_counts_are_given_back_as_such() {
        let word = Word::shut();
        word.open(100, 0);
        assert!(word.take(40, Kind::Held));
        assert!(!word.give(1, 100, Kind::External));
        assert!(word.take(30, Kind::External));
        assert!(!word.give(31, 100, Kind::External));
        assert!(word.give(30, 100, Kind::External));
        assert_eq!(word.held().external, 0);
    }

    #[test]
    fn the_word_of_an_account_takes_back_as_much_as_its_cap() {
        let word = Word::shut();
        assert!(!word.give(1, MAX_CREDIT, Kind::Heap));
        assert!(!word.take(1, Kind::Heap));
        word.open(50, 80);
        assert!(!word.give(31, MAX_CREDIT, Kind::Heap));
        assert!(word.give(30, 0, Kind::Heap));
        assert!(!word.give(1, MAX_CREDIT, Kind::Heap));
        assert!(word.take(80, Kind::Heap));
        let held = Held {
            credit: 0,
            external: 80,
            low: 0,
        };
        assert_eq!(word.shut_down(), held);
    }

    #[test]
    fn the_largest_credit_and_the_most_external_bytes_fit() {
        let word = Word::shut();
        word.open(MAX_CREDIT, 0);
        assert!(word.take(MAX_CREDIT, Kind::External));
        assert_eq!(word.held().external, MAX_CREDIT);
        assert!(word.give(MAX_CREDIT, MAX_CREDIT, Kind::External));
        assert!(word.take(MAX_CREDIT, Kind::Held));
        assert!(word.give(MAX_CREDIT, MAX_CREDIT, Kind::Held));
        assert!(!word.give(1, MAX_CREDIT, Kind::Held));
        let held = Held {
            credit: MAX_CREDIT,
            external: 0,
            low: 0,
        };
        assert_eq!(word.shut_down(), held);
        word.open(2, MAX_CREDIT - 1);
        assert!(!word.take(2, Kind::External));
        assert!(word.take(1, Kind::External));
        word.shut_down();
        word.open(MAX_CREDIT, MAX_CREDIT / 2);
        assert!(word.take(MAX_CREDIT / 2, Kind::External));
    }

    #[test]
    fn what_stripes_held_is_added_field_by_field() {
        let held = |credit, external, low| Held {
            credit,
            external,
            low,
        };
        assert_eq!(held(3, 5, 7) + held(11, 13, 17), held(14, 18, 24));
    }
}
