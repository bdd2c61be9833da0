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
    /// Whether there may be entries: set after some were added, cleared by a sweep that has found none.
    any: AtomicBool,
}

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    /// Where the next sweep begins, unless it looks at all.
    next: usize,
    /// A thread has taken the entries out to sweep them.
    sweeping: bool,
    /// A sweep of all entries was asked for meanwhile.
    again: bool,
    /// How often the list was cleared. What was taken out before is not put back after that.
    cleared: usize,
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

    /// Ends the charge of what the giver has let go of.
    ///
    /// Looks at a maximum of `at_most` allocations, by a lookup each; the next sweep goes on from there. What ends is
    /// dropped with no lock held. While another thread sweeps, this returns at once; if `at_most` is [`usize::MAX`], the
    /// other thread then looks at all of them before it returns.
    pub fn sweep(&self, at_most: usize) {
        // Relaxed: whoever has handed something over itself sees that.
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut at_most = at_most;
        let Some(mut taken) = self.take_to_sweep(at_most) else {
            return;
        };
        loop {
            sweep(&mut taken, at_most);
            match self.put_back(taken) {
                None => return,
                Some(again) => (taken, at_most) = (again, usize::MAX),
            }
        }
    }

    /// Ends all charges.
    pub fn clear(&self) {
        let mut list = self.lock();
        let entries = std::mem::take(&mut list.entries);
        list.cleared += 1;
        drop(list);
        drop(entries);
    }

    /// Adds entries.
    pub(crate) fn add(&self, new: Vec<Entry>) {
        let mut list = self.lock();
        let mut entries = std::mem::take(&mut list.entries);
        let cleared = list.cleared;
        drop(list);
        entries.extend(new);
        self.merge(entries, cleared);
    }

    /// Takes the entries out, unless there are none, or a thread has done that already. That one then looks at all of them
    /// if this one was to.
    fn take_to_sweep(&self, at_most: usize) -> Option<List> {
        let mut list = self.lock();
        if list.sweeping {
            list.again |= at_most == usize::MAX;
            return None;
        }
        if list.entries.is_empty() {
            // Relaxed, here and in `merge`: under the lock.
            self.any.store(false, Ordering::Relaxed);
            return None;
        }
        list.sweeping = true;
        Some(List {
            entries: std::mem::take(&mut list.entries),
            ..*list
        })
    }

    /// Puts swept entries back, or returns them, with those that others have added since, if all are to be looked at again.
    fn put_back(&self, mut taken: List) -> Option<List> {
        loop {
            let mut list = self.lock();
            let kept = list.cleared == taken.cleared;
            let added = std::mem::take(&mut list.entries);
            if kept && (list.again || !added.is_empty()) {
                let again = std::mem::take(&mut list.again);
                // Nothing is allocated under the lock.
                drop(list);
                taken.entries.extend(added);
                if again {
                    return Some(taken);
                }
                continue;
            }
            (list.sweeping, list.again, list.next) = (false, false, taken.next);
            // What was taken out before the list was cleared ends, and what was added since stays.
            list.entries = match kept {
                true => std::mem::take(&mut taken.entries),
                false => added,
            };
            drop(list);
            return None;
        }
    }

    /// Puts entries in that were taken out when the list had been cleared so often, with those that others have added
    /// since. Nothing is allocated or freed under the lock.
    fn merge(&self, mut entries: Vec<Entry>, cleared: usize) {
        loop {
            let mut list = self.lock();
            if list.cleared != cleared {
                // The lock is released before the entries are dropped.
                drop(list);
                return;
            }
            let others = std::mem::take(&mut list.entries);
            if others.is_empty() {
                self.any.store(true, Ordering::Relaxed);
                list.entries = entries;
                drop(list);
                // It may have room, which is freed here.
                drop(others);
                return;
            }
            drop(list);
            entries.extend(others);
        }
    }

    fn lock(&self) -> Guard<'_, List> {
        lock(&self.list)
    }
}

/// Drops the entries that the giver has let go of, among the next `at_most`.
fn sweep(taken: &mut List, at_most: usize) {
    let entries = &mut taken.entries;
    if entries.len() <= at_most {
        entries.retain(|entry| !entry.original.is_let_go());
        return;
    }
    let mut at = taken.next;
    for _ in 0..at_most {
        // A removal moves the last one to its place.
        at = if at < entries.len() { at } else { 0 };
        if entries[at].original.is_let_go() {
            drop(entries.swap_remove(at));
        } else {
            at += 1;
        }
    }
    taken.next = at;
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
