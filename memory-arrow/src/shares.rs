//! [`Shares`]: what a receiver shares with the giver of many values.

use std::fmt;

use arrow_memory_core::__private::sync::plain::{Guard, Mutex, lock};
use arrow_memory_core::{ArrowBuf, BufferAllocator};
use hashbrown::HashTable;

/// Memory that a giver still has, and that the values which it hands over refer to again and again.
///
/// The results of a join refer to the strings of its build side, which it keeps, so that each batch of results has the
/// same buffers as the one before. Without this, each hand-over moves their charges to the receiver, and they fall back
/// to the giver when the receiver has dropped the batch. With [`HandOver::shares`](crate::HandOver::shares), the giver
/// stays charged for as long as it has a buffer, and after that the receiver for as long as *it* has one. What the
/// receiver needs for this is made once for each buffer, and not for each value.
///
/// A list is for one giver and one receiver, usually for one stream of values. It keeps the memory of its entries. So call
/// [`sweep`](Self::sweep) whenever the giver may have dropped buffers, for example each time it was polled: until then,
/// what both have dropped is neither uncharged nor freed. Dropping the list ends that, too.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::deps::arrow_array::{Array, ArrayRef, StringViewArray};
/// use arrow_memory_arrow::{Accounted, HandOver, Shares};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let (join, sort) = (root.child("join").build()?, root.child("sort").build()?);
/// let build_side = StringViewArray::from(vec!["a string that is not short"; 1]).adopt(&join)?;
/// let strings = build_side.data_buffers()[0].capacity();
///
/// let shares = Shares::new();
/// let hand_over = HandOver::new(&join, &sort).shares(&shares);
/// let results = StringViewArray::new(
///     build_side.views().clone(), build_side.data_buffers().to_vec(), None,
/// );
/// let held = results.hand_over(&hand_over)?.value;
/// let charged = join.allocated_memory();
/// assert!(charged >= strings); // the join still has the strings
/// drop(build_side);
/// shares.sweep();
/// assert_eq!((join.allocated_memory(), sort.allocated_memory()), (0, charged));
/// drop(held);
/// assert_eq!(root.allocated_memory(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Shares(Mutex<Table>);

#[derive(Default)]
pub(crate) struct Table {
    entries: HashTable<Share>,
    /// The number of sweeps so far.
    sweeps: u64,
}

/// A buffer on the receiver's ledger of an allocation that others have, too.
struct Share {
    view: ArrowBuf,
    /// Whether the registry has an entry of its adoption.
    adopted: bool,
    /// The number of sweeps when a value had it last.
    used: u64,
}

/// An entry that no value has had for so many sweeps is dropped: whoever is charged may keep the memory for long.
const UNUSED: u64 = 64;

impl Shares {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops what the giver has let go of, and what no value has referred to during the latest 64 sweeps. Returns the
    /// number of allocations. Takes a look at each entry; nothing is dropped under the lock.
    pub fn sweep(&self) -> usize {
        let mut table = self.lock();
        if table.entries.is_empty() {
            return 0;
        }
        table.sweeps += 1;
        let sweeps = table.sweeps;
        // It is charged once all who were charged before have let go.
        let ends =
            |share: &mut Share| share.view.accounted_size() > 0 || sweeps - share.used > UNUSED;
        let ended: Vec<Share> = table.entries.extract_if(ends).collect();
        drop(table);
        ended.len()
    }

    /// Drops all entries.
    pub fn clear(&self) {
        let entries = std::mem::take(&mut self.lock().entries);
        drop(entries);
    }

    /// Calls `f` under the lock.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Table) -> R) -> R {
        f(&mut self.lock())
    }

    /// Adds a buffer, in place of another one at that address.
    pub(crate) fn insert(&self, view: ArrowBuf, adopted: bool) {
        let start = view.as_ptr().addr();
        let mut table = self.lock();
        let share = Share {
            view,
            adopted,
            used: table.sweeps,
        };
        let same = |share: &Share| share.view.as_ptr().addr() == start;
        let before = match table.entries.find_mut(mix(start), same) {
            Some(place) => Some(std::mem::replace(place, share)),
            None => {
                let hash_of = |share: &Share| mix(share.view.as_ptr().addr());
                table.entries.insert_unique(mix(start), share, hash_of);
                None
            }
        };
        drop(table);
        drop(before);
    }

    fn lock(&self) -> Guard<'_, Table> {
        lock(&self.0)
    }
}

impl Table {
    /// Returns a buffer on the ledger of `to` that shows `seen` bytes from that address at least, of an allocation that
    /// has `size` bytes from there at least, and whether the registry has an entry of its adoption.
    pub(crate) fn find(
        &mut self,
        start: usize,
        (seen, size): (usize, usize),
        to: &BufferAllocator,
    ) -> Option<(ArrowBuf, bool)> {
        // The entry keeps its allocation, so that no other one is at the address.
        let same = |share: &Share| share.view.as_ptr().addr() == start;
        let share = self.entries.find_mut(mix(start), same)?;
        let view = &share.view;
        let suits = view.len() >= seen && view.allocation_size() >= size && view.belongs_to(to);
        share.used = self.sweeps;
        suits.then(|| (share.view.clone(), share.adopted))
    }
}

/// Spreads an address over all bits, as the hash of a table.
pub(crate) fn mix(address: usize) -> u64 {
    let spread = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    spread ^ (spread >> 32)
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing is written under the lock.
        let len = self.lock().entries.len();
        f.debug_struct("Shares").field("len", &len).finish()
    }
}
