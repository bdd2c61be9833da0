//! The blocks that one thread keeps: [`ThreadBlocks`].
//!
//! One thread, the owner, takes and puts; any thread may empty. A place holds a block or null. Only
//! the owner fills places, and only those that it sees empty; other threads only swap null in. So
//! the owner puts with a store and takes with a swap, and needs no lock.
//!
//! # Invariants
//!
//! 1. A block lies in one place or none, and the thread that swaps it out is the only one that has it.
//! 2. Places from a class's `top` on are empty. A place below it is empty if another thread emptied it.
//! 3. Any thread writes `emptied`. Only the owner writes the other fields, except the places.
//! 4. A new owner has asked for nothing: every bin is 0. A bin is raised from 0 only by an owner
//!    that has its blocks emptied when it ends, and a block is put only where the bin is not 0.
//! 5. `kept` counts a block from before it is put until it is taken, `emptied` after it was swapped
//!    out: their difference is never less than the bytes that are there.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

use super::classes::Class;

/// The blocks that the thread with one number keeps, by class.
#[derive(Debug)]
pub(super) struct ThreadBlocks {
    /// The sizes of the blocks that were put, less those that the owner took; it wraps.
    kept: AtomicUsize,
    /// The sizes of the blocks that were ever emptied; it wraps.
    emptied: AtomicUsize,
    /// The class after the one that gave up a block last.
    hand: AtomicUsize,
    bins: [AtomicU8; Class::COUNT],
    places: [[AtomicPtr<u8>; PLACES]; Class::COUNT],
}

/// The state of a class: 0 if the owner has not asked for it yet, else one more than its `top`; with the bit
/// `WANTED` if the owner has asked for it since `hand` last passed it.
type Bin = u8;

const WANTED: Bin = 1 << 7;

/// The number of a bin's first place that is empty, with all above it; `None` if the class was not
/// asked for.
#[inline]
fn top(bin: Bin) -> Option<usize> {
    usize::from(bin & !WANTED).checked_sub(1)
}

impl ThreadBlocks {
    pub(super) const fn new() -> Self {
        Self {
            kept: AtomicUsize::new(0),
            emptied: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
            bins: [const { AtomicU8::new(0) }; Class::COUNT],
            places: [const { [const { AtomicPtr::new(ptr::null_mut()) }; PLACES] }; Class::COUNT],
        }
    }

    // Relaxed, all orderings without a comment of their own: by invariant 3 only the owner writes, and a new owner
    // has acquired the number from the last one. Other threads empty places, but a load of a place only decides whether
    // to try the swap that takes the block.

    /// The latest block of a class. For the owner.
    ///
    /// An owner that asks for a class for the first time may keep blocks of it from now on. So it is asked
    /// `first` whether it may: if not, nothing changes.
    #[inline]
    pub(super) fn take(&self, class: Class, first: impl FnOnce() -> bool) -> Option<NonNull<u8>> {
        let bin = &self.bins[class.index()];
        let now = bin.load(Ordering::Relaxed);
        match top(now) {
            Some(top) if top > 0 => {
                bin.store((now - 1) | WANTED, Ordering::Relaxed);
                self.take_from(class, top - 1)
                    .or_else(|| self.take_lower(class))
            }
            _ => {
                if now == 0 && !first() {
                    return None;
                }
                bin.store(1 | WANTED, Ordering::Relaxed);
                None
            }
        }
    }

    /// Takes the latest block of a class, after the owner found a place empty that another thread had emptied.
    #[cold]
    fn take_lower(&self, class: Class) -> Option<NonNull<u8>> {
        // It was asked for before: there were blocks.
        self.take(class, || true)
    }

    /// Keeps a block, if its class was asked for and there are fewer than `most` of it. For the
    /// owner.
    #[inline]
    pub(super) fn put(&self, class: Class, block: NonNull<u8>, most: usize) -> bool {
        let Some(top) = self.free_place(class, most) else {
            return false;
        };
        let kept = self.kept.load(Ordering::Relaxed);
        self.kept
            .store(kept.wrapping_add(class.size()), Ordering::Relaxed);
        let place = &self.places[class.index()][top];
        debug_assert!(place.load(Ordering::Relaxed).is_null(), "invariant 2");
        // Release: its partner is the Acquire with which a thread swaps the block out.
        place.store(block.as_ptr(), Ordering::Release);
        let bin = &self.bins[class.index()];
        bin.store(bin.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        true
    }

    /// Where a block of this class would be kept, if there is room. For the owner.
    #[inline]
    pub(super) fn free_place(&self, class: Class, most: usize) -> Option<usize> {
        let mut top = top(self.bins[class.index()].load(Ordering::Relaxed))?;
        if top >= most {
            top = self.lower(class, top);
        }
        (top < most).then_some(top)
    }

    /// Lowers the top of a class to the latest block that is still there. For the owner.
    fn lower(&self, class: Class, mut top: usize) -> usize {
        let places = &self.places[class.index()];
        while top > 0 && places[top - 1].load(Ordering::Relaxed).is_null() {
            top -= 1;
        }
        let bin = &self.bins[class.index()];
        let wanted = bin.load(Ordering::Relaxed) & WANTED;
        bin.store(wanted | (top as u8 + 1), Ordering::Relaxed);
        top
    }

    /// Forgets what was asked for, once all is empty: the next owner is another thread. For the owner.
    pub(super) fn forget(&self) {
        for bin in &self.bins {
            bin.store(0, Ordering::Relaxed);
        }
    }

    /// A block of another class, one that was not asked for lately if there is one. For the owner.
    #[cold]
    pub(super) fn give_up(&self, besides: Class) -> Option<(NonNull<u8>, Class)> {
        let hand = self.hand.load(Ordering::Relaxed);
        // Twice around: the first time, those that are wanted may be spared.
        for step in hand..hand + 2 * Class::COUNT {
            let class = Class::at(step % Class::COUNT);
            let bin = &self.bins[class.index()];
            let now = bin.load(Ordering::Relaxed);
            let Some(top) = top(now).filter(|&top| top > 0 && class != besides) else {
                continue;
            };
            if now & WANTED != 0 {
                bin.store(now & !WANTED, Ordering::Relaxed);
                continue;
            }
            for top in (0..top).rev() {
                bin.store(top as u8 + 1, Ordering::Relaxed);
                if let Some(block) = self.take_from(class, top) {
                    self.hand.store(class.index() + 1, Ordering::Relaxed);
                    return Some((block, class));
                }
            }
        }
        None
    }

    /// The block in a place, if there is one still. For the owner.
    #[inline]
    fn take_from(&self, class: Class, place: usize) -> Option<NonNull<u8>> {
        let place = &self.places[class.index()][place % PLACES];
        // Acquire: a block that was put by an earlier holder of the number, or by us.
        let block = NonNull::new(place.swap(ptr::null_mut(), Ordering::Acquire))?;
        let kept = self.kept.load(Ordering::Relaxed);
        self.kept
            .store(kept.wrapping_sub(class.size()), Ordering::Relaxed);
        Some(block)
    }

    /// Takes every block out. Any thread may call this at any time.
    pub(super) fn empty(&self, mut release: impl FnMut(NonNull<u8>, Class)) {
        for (index, places) in self.places.iter().enumerate() {
            let class = Class::at(index);
            for place in places {
                // Relaxed: a hint. What is put from now on may stay.
                if place.load(Ordering::Relaxed).is_null() {
                    continue;
                }
                // Acquire: its partner is the Release in `put`.
                let block = place.swap(ptr::null_mut(), Ordering::Acquire);
                if let Some(block) = NonNull::new(block) {
                    // Release: its partner is the Acquire in `bytes`.
                    self.emptied.fetch_add(class.size(), Ordering::Release);
                    release(block, class);
                }
            }
        }
    }

    /// The sum of the sizes of all blocks; for the owner, at least that.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        // Acquire: its partner is the Release in `empty`. What is seen to be gone was counted
        // before, so the difference is not negative.
        let emptied = self.emptied.load(Ordering::Acquire);
        self.kept.load(Ordering::Relaxed).wrapping_sub(emptied)
    }

    /// The sum of the sizes of all blocks, for other threads than the owner. Blocks that are put and taken while
    /// such a thread is suspended between its two loads seem to be kept, so the minimum of several looks counts.
    pub(super) fn bytes_seen(&self) -> usize {
        (0..4).map(|_| self.bytes()).min().unwrap_or(0)
    }
}

/// The maximum number of blocks of one class.
pub(super) const PLACES: usize = 16;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What is in each class that was asked for, by place; `None` was emptied.
    type Model = BTreeMap<usize, Vec<Option<usize>>>;

    fn pop(places: &mut Vec<Option<usize>>) -> Option<usize> {
        while let Some(place) = places.pop() {
            if place.is_some() {
                return place;
            }
        }
        None
    }

    fn bytes(model: &Model) -> usize {
        let sizes = model
            .iter()
            .map(|(&class, places)| places.iter().flatten().count() * Class::at(class).size());
        sizes.sum()
    }

    /// Blocks of one thread and what a naive model says of them.
    struct Pair {
        blocks: ThreadBlocks,
        model: Model,
        /// The maximum number of blocks of a class.
        limit: usize,
    }

    impl Pair {
        fn take(&mut self, class: Class) {
            let taken = self.blocks.take(class, || true);
            let expected = pop(self.model.entry(class.index()).or_default());
            assert_eq!(taken.map(|block| block.addr().get()), expected);
        }

        fn put(&mut self, class: Class, address: usize) {
            let block = NonNull::new(std::ptr::without_provenance_mut(address)).expect("not null");
            let kept = self.blocks.put(class, block, self.limit);
            let Some(places) = self.model.get_mut(&class.index()) else {
                assert!(!kept, "nobody asked for it");
                return;
            };
            if places.len() >= self.limit {
                let last = places.iter().rposition(Option::is_some);
                places.truncate(last.map_or(0, |last| last + 1));
            }
            assert_eq!(kept, places.len() < self.limit);
            if kept {
                places.push(Some(address));
            }
        }

        fn give_up(&mut self, class: Class) {
            let given = self.blocks.give_up(class);
            let others = |(&other, places): (&usize, &Vec<Option<usize>>)| {
                other != class.index() && places.iter().any(Option::is_some)
            };
            assert_eq!(given.is_some(), self.model.iter().any(others));
            if let Some((block, from)) = given {
                assert_ne!(from, class);
                let places = self.model.get_mut(&from.index()).expect("it was put there");
                assert_eq!(pop(places), Some(block.addr().get()));
            }
            // It may have passed places that were emptied.
            for (&class, places) in &mut self.model {
                let top =
                    top(self.blocks.bins[class].load(Ordering::Relaxed)).expect("a list of places");
                assert!(places.drain(top..).all(|place| place.is_none()));
            }
        }

        fn empty(&mut self) {
            let mut emptied = 0;
            self.blocks.empty(|_, class| emptied += class.size());
            assert_eq!(emptied, bytes(&self.model));
            self.model.values_mut().for_each(|places| places.fill(None));
        }
    }

    #[test]
    fn one_thread_finds_what_a_naive_model_does() {
        let mut random = fastrand::Rng::with_seed(88_172_645);
        for _ in 0..100 {
            let mut pair = Pair {
                blocks: ThreadBlocks::new(),
                model: Model::new(),
                limit: random.usize(1..=PLACES),
            };
            for step in 1..1000 {
                let class = Class::at([0, 1, 7, 31, 62, 63][random.usize(..6)]);
                match random.u32(..100) {
                    0..40 => pair.take(class),
                    40..90 => pair.put(class, step * 64),
                    90..98 => pair.give_up(class),
                    _ => pair.empty(),
                }
                assert_eq!(pair.blocks.bytes(), bytes(&pair.model));
            }
        }
    }
}
