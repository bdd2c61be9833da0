//! [`Kept`]: the memory that a giver has handed over and still has buffers on.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_memory_core::__private::sync::plain::{Guard, Mutex, lock};
use arrow_memory_core::{ArrowBuf, BufferAllocator, ForeignId};

/// The memory that a giver has handed over and still has buffers on.
///
/// An operator may return slices of one batch, one after the other. Each slice is charged to the receiver for as
/// long as the receiver has it; between two slices, nobody would be charged for the batch, which the operator still
/// has. A hand-over that is told to [keep](crate::HandOver::kept) such memory shares it with the giver: the receiver
/// is charged while it has a buffer, and after that the giver, by force, until it has let go.
///
/// arrow-rs tells nobody when a buffer is dropped, so the giver has to look: call [`sweep`](Self::sweep) whenever it
/// may have dropped buffers, for example each time it was polled. Until then the memory is neither uncharged nor freed.
/// Dropping the `Kept` ends all its charges.
///
/// arrow-rs does not tell either who has a buffer. So whoever has an array that was cloned before it was adopted counts as
/// the giver: do not use this for a giver that passes on clones of what somebody else caches. Memory that came to the
/// giver from another tree is not kept.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::deps::arrow_array::{Array, Int64Array};
/// use arrow_memory_arrow::{Accounted, HandOver, Kept};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let (aggregate, sort) = (root.child("aggregate").build()?, root.child("sort").build()?);
/// let kept = Kept::new();
/// let groups = Int64Array::from(vec![7; 100]);
///
/// let hand_over = HandOver::new(&aggregate, &sort).kept(&kept);
/// let first = groups.slice(0, 50).hand_over(&hand_over)?.value;
/// assert_eq!((aggregate.allocated_memory(), sort.allocated_memory()), (0, 800));
/// drop(first); // the operator still has the groups
/// assert_eq!((aggregate.allocated_memory(), sort.allocated_memory()), (800, 0));
/// drop(groups);
/// kept.sweep(usize::MAX);
/// assert_eq!(root.allocated_memory(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Kept {
    list: Mutex<List>,
    /// Whether there are entries. Written under the lock.
    any: AtomicBool,
}

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    /// Where the next sweep begins.
    next: usize,
}

/// One allocation that the giver has handed over and still has a buffer on.
pub(crate) struct Entry {
    /// A buffer on the giver's ledger.
    _share: ArrowBuf,
    original: Original,
}

/// Adopted memory, as the registry knows it.
#[derive(Clone, Copy)]
pub(crate) struct Original {
    /// The address where it starts.
    pub(crate) start: usize,
    /// The adoption.
    pub(crate) id: ForeignId,
    /// Whether nobody has a buffer on the memory but the registry. It takes and releases a lock.
    pub(crate) is_let_go: fn(usize, ForeignId) -> bool,
}

impl Original {
    pub(crate) fn is_let_go(self) -> bool {
        (self.is_let_go)(self.start, self.id)
    }
}

impl Entry {
    /// Creates an entry for adopted memory. Returns `None` if the giver is closed, or of another tree: then nothing is
    /// charged to it.
    pub(crate) fn new(
        adopted: &ArrowBuf,
        giver: &BufferAllocator,
        original: Original,
    ) -> Option<Self> {
        let share = adopted.retain_in(giver).ok()?;
        Some(Self {
            _share: share,
            original,
        })
    }
}

impl Kept {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the charge of what the giver has let go of, and returns the number of allocations whose charge ended.
    ///
    /// Looks at a maximum of `at_most` allocations, by a lookup each; the next sweep goes on from there. The lookups, and
    /// the drop of what ends, run with no lock held.
    pub fn sweep(&self, at_most: usize) -> usize {
        // Relaxed: whoever has handed something over itself sees that. Others look at all.
        if at_most < usize::MAX && !self.any.load(Ordering::Relaxed) {
            return 0;
        }
        let looked_at = self.next_ones(at_most).into_iter();
        let let_go = looked_at.filter(|original| original.is_let_go());
        let mut let_go: Vec<usize> = let_go.map(|original| original.id.get()).collect();
        if let_go.is_empty() {
            return 0;
        }
        let_go.sort_unstable();
        self.take(&let_go).len()
    }

    /// Ends all charges, and returns their number.
    pub fn clear(&self) -> usize {
        let entries = {
            let mut list = self.lock();
            self.any.store(false, Ordering::Relaxed);
            std::mem::take(&mut list.entries)
        };
        entries.len()
    }

    /// Adds entries. Nothing is allocated or freed under the lock.
    pub(crate) fn add(&self, mut new: Vec<Entry>) {
        let mut room = Vec::new();
        loop {
            let mut list = self.lock();
            let entries = &mut list.entries;
            let len = entries.len() + new.len();
            if len > entries.capacity() && len <= room.capacity() {
                room.append(entries);
                std::mem::swap(&mut room, entries);
            }
            if len <= entries.capacity() {
                entries.append(&mut new);
                self.any.store(true, Ordering::Relaxed);
                return;
            }
            drop(list);
            room = Vec::with_capacity(len * 2);
        }
    }

    /// Returns what the next sweep looks at. Nothing is allocated under the lock.
    fn next_ones(&self, at_most: usize) -> Vec<Original> {
        let mut room = Vec::new();
        loop {
            let mut list = self.lock();
            let List { entries, next } = &mut *list;
            let looks = entries.len().min(at_most);
            if looks <= room.capacity() {
                let (before, after) = entries.split_at((*next).min(entries.len()));
                let in_turn = after.iter().chain(before).take(looks);
                room.extend(in_turn.map(|entry| entry.original));
                *next = (before.len() + looks) % entries.len().max(1);
                return room;
            }
            drop(list);
            room = Vec::with_capacity(looks + looks / 4);
        }
    }

    /// Takes out the entries of these adoptions, which are sorted. Nothing is allocated or freed under the lock.
    fn take(&self, ids: &[usize]) -> Vec<Entry> {
        let mut taken = Vec::with_capacity(ids.len());
        let mut list = self.lock();
        let is_one = |entry: &mut Entry| ids.binary_search(&entry.original.id.get()).is_ok();
        // Each adoption has one entry.
        taken.extend(list.entries.extract_if(.., is_one).take(ids.len()));
        self.any.store(!list.entries.is_empty(), Ordering::Relaxed);
        drop(list);
        taken
    }

    fn lock(&self) -> Guard<'_, List> {
        lock(&self.list)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing is written under the lock.
        let len = self.lock().entries.len();
        f.debug_struct("Kept")
            .field("len", &len)
            .finish_non_exhaustive()
    }
}
