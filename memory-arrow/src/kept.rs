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
    /// Where the next sweep begins, unless it looks at all.
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
    /// Looks at a maximum of `at_most` allocations, by a lookup each; the next sweep goes on from there. The lookups run
    /// under a lock of this list. What ends is dropped with no lock held.
    pub fn sweep(&self, at_most: usize) -> usize {
        // Relaxed: whoever has handed something over itself sees that.
        if !self.any.load(Ordering::Relaxed) {
            return 0;
        }
        // A lookup needs the thread's number, which may be allocated here, with no lock held.
        let _ = arrow_memory_core::thread_number();
        let mut ended = Vec::new();
        while let Some(room) = self.take_let_go(at_most, &mut ended) {
            ended.reserve(room);
        }
        ended.len()
    }

    /// Ends all charges.
    pub fn clear(&self) {
        let entries = {
            let mut list = self.lock();
            self.any.store(false, Ordering::Relaxed);
            std::mem::take(&mut list.entries)
        };
        drop(entries);
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

    /// Moves the entries that the giver has let go of to `ended`, among the next `at_most`. Returns the room that `ended`
    /// needs before this is called again if it has not enough: nothing is allocated or freed under the lock.
    fn take_let_go(&self, at_most: usize, ended: &mut Vec<Entry>) -> Option<usize> {
        let mut list = self.lock();
        let List { entries, next } = &mut *list;
        let looks = entries.len().min(at_most);
        if looks == entries.len() {
            *next = 0;
        }
        for _ in 0..looks {
            // A removal moves the last one to its place.
            if *next >= entries.len() {
                *next = 0;
            }
            if !entries[*next].original.is_let_go() {
                *next += 1;
            } else if ended.len() < ended.capacity() {
                ended.push(entries.swap_remove(*next));
            } else {
                return Some(looks);
            }
        }
        self.any.store(!entries.is_empty(), Ordering::Relaxed);
        None
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
