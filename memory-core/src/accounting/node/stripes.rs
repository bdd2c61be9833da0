//! The words of a node on which threads collide, one for each group of them: [`Stripes`].

use super::super::word::{MAX_CREDIT, Word};
use crate::sync::{Ordering, plain};
use crate::thread::{index, thread_number};

/// One word of a striped node, alone on its pair of cache lines (they are prefetched in pairs).
#[repr(align(128))]
pub(super) struct Stripe(Word);

/// The words of a striped node.
pub(in crate::accounting) struct Stripes {
    words: Box<[Stripe]>,
    /// Each may hold what the node's `high` says, shifted right by so much: together they hold half
    /// of it, since as much again may be parked.
    pub(super) shift: u32,
}

/// Opens those of the words that are shut with an equal share of these bytes, of the credit at most
/// `high` each, and says how much that was. None gets more than half of what it can hold, so that it
/// can be given some, too.
#[inline]
pub(super) fn open_shut<'w>(
    words: impl Iterator<Item = &'w Word> + Clone,
    credit: usize,
    external: usize,
    high: usize,
) -> (usize, usize) {
    const HALF: usize = MAX_CREDIT / 2 + 1;
    let shut = words.filter(|word| word.is_shut());
    let count = match shut.clone().count() {
        0 => return (0, 0),
        // The usual number, for which nothing is divided.
        1 => 1,
        count => count,
    };
    let (credit, external) = (credit / count, external / count);
    let (credit, external) = (credit.min(HALF).min(high), external.min(HALF));
    shut.for_each(|word| word.open(credit, external));
    (credit * count, external * count)
}

impl Stripes {
    /// `count` words, a power of two, all shut.
    #[cold]
    pub(in crate::accounting) fn new(count: usize) -> Box<Self> {
        Box::new(Self {
            words: (0..count).map(|_| Stripe(Word::shut())).collect(),
            shift: count.trailing_zeros() + 1,
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Word> + Clone {
        self.words.iter().map(|stripe| &stripe.0)
    }

    /// One of the words, for a thread that must not ask for its number: its own if it has one.
    pub(super) fn any(&self) -> &Word {
        &self.words[index() & (self.words.len() - 1)].0
    }

    /// The word of the calling thread.
    pub(super) fn mine(&self) -> &Word {
        &self.words[thread_number() & (self.words.len() - 1)].0
    }
}

/// How many collisions on its word a node bears before it gets stripes.
pub(super) const COLLISIONS: usize = 64;

/// How many words a striped node gets: a power of two.
pub(super) fn stripe_count() -> usize {
    if cfg!(loom) {
        return 2;
    }
    // Asked once: on Linux, the answer is read from files.
    static KNOWN: plain::AtomicUsize = plain::AtomicUsize::new(0);
    // Relaxed, both: the number guards nothing, and threads that ask at once get about the same.
    let known = KNOWN.load(Ordering::Relaxed);
    if known > 0 {
        return known;
    }
    let count = std::thread::available_parallelism()
        .map_or(4, |cores| cores.get().clamp(2, 16))
        .next_power_of_two();
    KNOWN.store(count, Ordering::Relaxed);
    count
}
