//! [`Shares`]: what a receiver shares with the giver of many values.

use std::fmt;
use std::sync::Arc;

use arrow_memory_core::__private::sync::plain::{Guard, Mutex, lock};
use arrow_memory_core::{ArrowBuf, BufferAllocator};
use hashbrown::HashTable;

/// Memory that a giver still has, and that the values which it hands over refer to again and again.
///
/// The results of a join refer to the strings of its build side, which it keeps, so that each batch of results has the
/// same buffers as the one before. Without this, each hand-over moves their charges to the receiver, and they fall back
/// to the giver when the receiver has dropped the batch. With [`HandOver::shares`](crate::HandOver::shares), a giver that
/// is charged stays so for as long as it has a buffer, and after that the receiver is for as long as *it* has one. The
/// receiver's ledger of each allocation is made once, and not for each value.
///
/// arrow-rs tells how many buffers there are, and not who has them. So whatever has a buffer besides the value counts as
/// the giver. Arrays that share a list of buffers, as slices of one array of views do, count as one: their buffers move.
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
struct Table {
    entries: HashTable<Share>,
    /// The number of values that were handed over.
    values: u64,
}

/// A buffer on the receiver's ledger of an allocation that others have, too.
struct Share {
    /// In an `Arc`, so that it can be cloned under the lock: a buffer in debug mode allocates for a clone.
    view: Arc<ArrowBuf>,
    /// Whether the registry has an entry of its adoption.
    adopted: bool,
    /// The number of values when one had it last.
    used: u64,
}

/// An entry that so many values have not had is dropped: whoever is charged may keep the memory for long.
const UNUSED: u64 = 64;

impl Share {
    fn address(&self) -> usize {
        self.view.as_ptr().addr()
    }

    fn hash(&self) -> u64 {
        mix(self.address())
    }

    /// Whether nobody else has a ledger of the memory, or the latest of so many values have not had it.
    fn ends(&self, values: u64) -> bool {
        // Its ledger is charged once all who were charged before have let go.
        self.view.accounted_size() > 0 || values - self.used > UNUSED
    }
}

impl Shares {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops what the giver has let go of, and what none of the latest 64 values has referred to. Returns the number of
    /// allocations. Takes a look at each entry, twice if some end. Nothing is dropped under the list's lock.
    pub fn sweep(&self) -> usize {
        let mut ended: Vec<Share> = Vec::new();
        loop {
            let mut table = self.lock();
            let Table { entries, values } = &mut *table;
            let ends = entries.iter().filter(|share| share.ends(*values)).count();
            if ends <= ended.capacity() {
                // Others may end meanwhile; there is no room for them.
                let room = ended.capacity();
                ended.extend(entries.extract_if(|share| share.ends(*values)).take(room));
                drop(table);
                return ended.len();
            }
            drop(table);
            ended.reserve(ends);
        }
    }

    /// Drops all entries.
    pub fn clear(&self) {
        let entries = std::mem::take(&mut self.lock().entries);
        drop(entries);
    }

    /// Counts a value that is handed over, and returns whether there are entries.
    pub(crate) fn count_value(&self) -> bool {
        let mut table = self.lock();
        table.values += 1;
        !table.entries.is_empty()
    }

    /// Returns a buffer on the ledger of `to` that shows `seen` bytes from that address at least, of an allocation that
    /// has `size` bytes from there at least, and whether the registry has an entry of its adoption.
    pub(crate) fn find(
        &self,
        start: usize,
        (seen, size): (usize, usize),
        to: &BufferAllocator,
    ) -> Option<(ArrowBuf, bool)> {
        let (view, adopted) = {
            let mut table = self.lock();
            let Table { entries, values } = &mut *table;
            // The entry keeps its allocation, so that no other one is at the address.
            let share = entries.find_mut(mix(start), |share| share.address() == start)?;
            share.used = *values;
            (Arc::clone(&share.view), share.adopted)
        };
        let suits = view.len() >= seen && view.allocation_size() >= size && view.belongs_to(to);
        suits.then(|| (ArrowBuf::clone(&view), adopted))
    }

    /// Adds a buffer, in place of another one at that address. Nothing is allocated or freed under the lock.
    pub(crate) fn insert(&self, view: ArrowBuf, adopted: bool) {
        let view = Arc::new(view);
        let start = view.as_ptr().addr();
        let mut room = HashTable::new();
        loop {
            let mut table = self.lock();
            let Table { entries, values } = &mut *table;
            if entries.len() == entries.capacity() && entries.len() < room.capacity() {
                for share in entries.drain() {
                    room.insert_unique(share.hash(), share, Share::hash);
                }
                std::mem::swap(entries, &mut room);
            }
            if entries.len() < entries.capacity() {
                let used = *values;
                let share = Share {
                    view,
                    adopted,
                    used,
                };
                let same = |share: &Share| share.address() == start;
                let before = match entries.find_mut(mix(start), same) {
                    Some(place) => Some(std::mem::replace(place, share)),
                    None => {
                        entries.insert_unique(share.hash(), share, Share::hash);
                        None
                    }
                };
                drop(table);
                drop(before);
                return;
            }
            let more = entries.capacity() * 2 + 8;
            drop(table);
            room = HashTable::with_capacity(more);
        }
    }

    fn lock(&self) -> Guard<'_, Table> {
        lock(&self.0)
    }
}

/// Spreads an address over all bits, as the hash of a table. Addresses are usually multiples of 64.
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
