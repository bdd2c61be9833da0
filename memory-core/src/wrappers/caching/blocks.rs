//! The blocks that one thread keeps: [`ThreadBlocks`].
//!
//! One thread, the owner, takes and puts; any thread may empty. A place holds a block or null. Only
//! the owner fills places, and only those that it sees empty; everybody else just swaps null in. So
//! the owner puts with a store and takes with a swap, and needs no lock.
//!
//! # Invariants
//!
//! 1. A block lies in at most one place, and who swaps it out has it alone.
//! 2. Places from a bin's `top` on are empty. Places below it may be: then somebody emptied them.
//! 3. `full`, `asked`, `wanted`, `hand` and all `top`s are the owner's; `put` and `taken` are written by it.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::classes::Class;

/// The blocks that the holder of one slot keeps, by class.
#[derive(Debug)]
pub(super) struct ThreadBlocks {
    bins: [Bin; Class::COUNT],
    /// A bit for each class whose bin may have blocks.
    full: AtomicU64,
    /// A bit for each class that was asked for.
    asked: AtomicU64,
    /// A bit for each class that was asked for since `hand` last passed it.
    wanted: AtomicU64,
    /// The class after the one that gave up a block last.
    hand: AtomicU32,
    /// The bytes that were ever put, taken by the owner, and emptied by anybody; they wrap.
    put: AtomicU64,
    taken: AtomicU64,
    emptied: AtomicU64,
}

/// The blocks of one class.
#[derive(Debug)]
struct Bin {
    places: [AtomicPtr<u8>; PLACES],
    /// Above the latest block.
    top: AtomicUsize,
}

impl ThreadBlocks {
    pub(super) const fn new() -> Self {
        Self {
            bins: [const {
                Bin {
                    places: [const { AtomicPtr::new(ptr::null_mut()) }; PLACES],
                    top: AtomicUsize::new(0),
                }
            }; Class::COUNT],
            full: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            hand: AtomicU32::new(0),
            put: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            emptied: AtomicU64::new(0),
        }
    }

    // Relaxed, all that says nothing else: by invariant 3 only the owner writes, and a new owner
    // has acquired the slot from the last one.

    /// The latest block of a class. For the owner.
    #[inline]
    pub(super) fn take(&self, class: Class) -> Option<NonNull<u8>> {
        let bit = 1 << class.index();
        self.wanted
            .store(self.wanted.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
        if self.full.load(Ordering::Relaxed) & bit == 0 {
            self.asked
                .store(self.asked.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
            return None;
        }
        self.pop(class)
    }

    /// Keeps a block, if its class was asked for and there are fewer than `most` of it. For the
    /// owner.
    #[inline]
    pub(super) fn put(&self, class: Class, block: NonNull<u8>, most: usize) -> bool {
        if !self.would_keep(class, most) {
            return false;
        }
        let bin = &self.bins[class.index()];
        let (top, bit) = (bin.top.load(Ordering::Relaxed), 1 << class.index());
        let put = self.put.load(Ordering::Relaxed);
        self.put
            .store(put.wrapping_add(class.size() as u64), Ordering::Relaxed);
        // Release: its partner is the Acquire of whoever swaps the block out.
        bin.places[top].store(block.as_ptr(), Ordering::Release);
        bin.top.store(top + 1, Ordering::Relaxed);
        self.full
            .store(self.full.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
        true
    }

    /// Whether a block of this class would be kept, if there is room. For the owner.
    #[inline]
    pub(super) fn would_keep(&self, class: Class, most: usize) -> bool {
        let bin = &self.bins[class.index()];
        let top = bin.top.load(Ordering::Relaxed);
        // A place from `top` on may hold a block until somebody who empties gets there, if `top`
        // was lowered meanwhile.
        top < most.min(PLACES)
            && self.asked.load(Ordering::Relaxed) & (1 << class.index()) != 0
            && bin.places[top].load(Ordering::Relaxed).is_null()
    }

    /// A block of another class, one that was not asked for lately if there is one. For the owner.
    #[cold]
    pub(super) fn give_up(&self, besides: Class) -> Option<(NonNull<u8>, Class)> {
        let others = !(1 << besides.index());
        // Twice around: the first time, those that are wanted may be spared.
        loop {
            let full = self.full.load(Ordering::Relaxed) & others;
            if full == 0 {
                return None;
            }
            let hand = self.hand.load(Ordering::Relaxed);
            let next = (full.rotate_right(hand).trailing_zeros() + hand) % u64::BITS;
            self.hand.store((next + 1) % u64::BITS, Ordering::Relaxed);
            let wanted = self.wanted.load(Ordering::Relaxed);
            if wanted & (1 << next) != 0 {
                self.wanted.store(wanted & !(1 << next), Ordering::Relaxed);
                continue;
            }
            let class = Class::at(next as usize);
            if let Some(block) = self.pop(class) {
                return Some((block, class));
            }
        }
    }

    /// Takes every block out. For anybody, at any time.
    pub(super) fn empty(&self, mut release: impl FnMut(NonNull<u8>, Class)) {
        for (index, bin) in self.bins.iter().enumerate() {
            let class = Class::at(index);
            for place in &bin.places {
                // Acquire: its partner is the Release in `put`.
                let block = place.swap(ptr::null_mut(), Ordering::Acquire);
                if let Some(block) = NonNull::new(block) {
                    // Release: its partner is the Acquire in `bytes`.
                    self.emptied
                        .fetch_add(class.size() as u64, Ordering::Release);
                    release(block, class);
                }
            }
        }
    }

    /// The sum of the sizes of all blocks; for the owner, at least that.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        // Acquire, both: their partners are the Releases in `pop` and `empty`. What is seen to be
        // gone was put before, so the difference is not negative.
        let taken = self.taken.load(Ordering::Acquire);
        let emptied = self.emptied.load(Ordering::Acquire);
        let put = self.put.load(Ordering::Relaxed);
        put.wrapping_sub(taken).wrapping_sub(emptied) as usize
    }

    /// The same for others, who may be held up while they look: what comes and goes meanwhile seems
    /// to be kept. So the least of some looks counts.
    pub(super) fn bytes_seen(&self) -> usize {
        (0..4).map(|_| self.bytes()).min().unwrap_or(0)
    }

    #[inline]
    fn pop(&self, class: Class) -> Option<NonNull<u8>> {
        let bin = &self.bins[class.index()];
        let mut top = bin.top.load(Ordering::Relaxed);
        while top > 0 {
            top -= 1;
            bin.top.store(top, Ordering::Relaxed);
            // Acquire: a block that was put by an earlier holder of the slot, or by us.
            let block = bin.places[top].swap(ptr::null_mut(), Ordering::Acquire);
            if let Some(block) = NonNull::new(block) {
                let taken = self.taken.load(Ordering::Relaxed);
                // Release: its partner is the Acquire in `bytes`.
                self.taken
                    .store(taken.wrapping_add(class.size() as u64), Ordering::Release);
                return Some(block);
            }
        }
        let bit = 1 << class.index();
        self.full
            .store(self.full.load(Ordering::Relaxed) & !bit, Ordering::Relaxed);
        None
    }
}

/// The most blocks of one class.
pub(super) const PLACES: usize = 16;

const _: () = assert!(Class::COUNT <= u64::BITS as usize, "a class has a bit");
