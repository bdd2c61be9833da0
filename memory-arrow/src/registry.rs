//! A table from addresses to the buffers that are known to start there.
//!
//! arrow-rs does not show the owner of a `Buffer`. So this table finds what is known of a buffer by the
//! address where its memory starts. An entry is a *weak* reference: it keeps no memory alive, and is removed
//! when its memory ends (by the release of adopted memory, or the drop of a wrapper).
//!
//! # Many entries at one address
//!
//! All slices of a buffer start where the buffer does, as far as this registry can see, and a whole
//! message of Arrow IPC is one buffer. So thousands of entries may share an address. They form a chain,
//! a doubly linked list through the shard's slots:
//!
//! * The time to insert an entry, or to remove it by its place, does not depend on the length of the chain.
//! * A lookup starts at the front, and stops when the visitor breaks. The entries that answer nearly all lookups
//!   stand in front: first adopted memory (an entry for each tree that adopted it), then the wrapper that was the
//!   widest when it was inserted, or the latest one of that width on the ledger that is charged. A slice that is
//!   adopted again is wrapped at the full length of its buffer, so the first entry answers for all slices.
//! * A lookup passes entries that do not answer it: those of other trees, narrower ones, and those whose last
//!   holder is at D1 below.
//!
//! # The race: a lookup against the last drop
//!
//! The last holder of the memory, on one thread, and a lookup of its address, on another:
//!
//! ```text
//!        last drop                                lookup
//! D1  count 1 → 0                          L1  lock the shard
//! D2  lock the shard                       L2  entry there? count n > 0 → n + 1, else skip it
//! D3  remove the entry                     L3  unlock
//! D4  unlock                               L4  use, or drop, what was found
//! D5  free the memory, recycle the count
//! ```
//!
//! 1. The entry is removed (D3) before what it points at is recycled (D5), and L2 runs while the
//!    entry is there, under the lock: so L2 never touches a recycled count.
//! 2. Counts rise in L2 only from above zero, and zero is final: either L2 comes before D1 in the
//!    count's order of changes, and then D1 was not the last drop; or it finds zero, and the memory
//!    is not found. There is no third case, and neither thread waits for the other.
//! 3. The reference that L2 made is dropped at L4 at the earliest: it may be the last one, whose drop locks the
//!    shard (D2). For the same reason entries are dropped after the lock is released.
//!    An entry has its place to itself from its insertion to D3, so D3 removes that entry and no other. The last
//!    drop may run on a thread that found the memory before the inserting thread had stored the place. The
//!    count orders the two: the inserting thread drops its own reference after it has stored the place.
//! 4. An address that is not found may be adopted anew although D5 has not run. The old adoption and the new one
//!    are charged each for its own time: until D5, both are. Of what the program's heap paid for the memory, the old
//!    one returns then only what the new one is not charged for.
//! 5. Two threads that both found nothing and adopt the same memory meet again when they insert,
//!    under the lock: [`insert_unless`](Registry::insert_unless) gives the second the first's.
//! 6. A lookup that reads a count of zero skips L1 to L3, as if it had come before the insertions that it does
//!    not see. It sees every insertion that happened before it and whose entry is still there: counts change
//!    with the table, under the lock, so their order of changes is the table's.
//!
//! 1 and 2 are why the count of a foreign allocation never takes the shortcut of a sole holder (see
//! `WATCHED` in the core's count). The model below checks them.

use std::ops::ControlFlow;

use arrow_memory_core::__private::sync::current::unscoped;
use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, OccupiedEntry};

use crate::shares::mix as hash;
use crate::sync::{AtomicUsize, Guard, Lock, Ordering, lock, lock_alone, new_lock};

/// The entries, by address, in shards. A fork takes the shards' locks, so a registry is never freed.
pub(crate) struct Registry<T: Send + 'static> {
    shards: [Shard<T>; SHARDS],
}

struct Shard<T: Send + 'static> {
    /// Under this lock a hash is looked up, links change, and `visit` runs, which may raise counts and takes a
    /// tree's mutex for that (`WeakForeign::upgrade`). So the order of locks is: shard, then tree. Nothing is
    /// allocated, freed or dropped under it, and no code of a user's runs.
    table: Lock<Table<T>>,
    /// The number of entries with the same bits in their hashes, by those bits. Changed under the lock.
    counts: [AtomicUsize; COUNTS],
}

/// The chains of a shard.
///
/// # Invariants
///
/// 1. There is one chain for each address that has an entry. From `first` along `after` it leads to
///    each entry of the address once, and ends at `last`; `before` leads back.
/// 2. A slot without a target is on the list of free ones, along `after`, and on no chain.
struct Table<T> {
    chains: HashTable<Chain>,
    slots: Vec<Slot<T>>,
    free: Option<usize>,
}

/// The ends of a chain, as places.
struct Chain {
    address: usize,
    first: usize,
    last: usize,
}

struct Slot<T> {
    address: usize,
    target: Option<T>,
    before: Option<usize>,
    after: Option<usize>,
}

impl<T: Send> Registry<T> {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            shards: [const {
                Shard {
                    table: new_lock(Table::new()),
                    counts: [const { AtomicUsize::new(0) }; COUNTS],
                }
            }; SHARDS],
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        let shard = || Shard {
            table: new_lock(Table::new()),
            counts: std::array::from_fn(|_| AtomicUsize::new(0)),
        };
        Self {
            shards: std::array::from_fn(|_| shard()),
        }
    }

    /// Whether there is certainly no entry at `address`. `false` may be wrong, since this takes no lock.
    #[inline]
    pub(crate) fn is_vacant(&self, address: usize) -> bool {
        let hash = hash(address);
        // Relaxed: by 6 above.
        self.shard(hash).count(hash).load(Ordering::Relaxed) == 0
    }

    /// Visits the entries at `address`, from the front, until `visit` breaks.
    ///
    /// `visit` runs under the lock. It must not drop what it makes of an entry, must not allocate, and must not
    /// call code that may use the registry.
    pub(crate) fn visit(&'static self, address: usize, visit: impl FnMut(&T) -> ControlFlow<()>) {
        let hash = hash(address);
        let shard = self.shard(hash);
        // Relaxed: by 6 above.
        if shard.count(hash).load(Ordering::Relaxed) > 0 {
            let _ = lock(&shard.table).visit(hash, address, visit);
        }
    }

    /// Inserts an entry in front and returns its place. First `found` visits the entries at the same address,
    /// like in [`visit`](Self::visit); if it breaks, the target is given back.
    pub(crate) fn insert_unless(
        &'static self,
        address: usize,
        target: T,
        found: impl FnMut(&T) -> ControlFlow<()>,
    ) -> Result<usize, T> {
        let hash = hash(address);
        let shard = self.shard(hash);
        let mut table = shard.table_with_room();
        // Relaxed: under the lock, which orders it.
        let any = shard.count(hash).load(Ordering::Relaxed) > 0;
        if any && table.visit(hash, address, found).is_break() {
            drop(table);
            return Err(target);
        }
        let place = table.insert(hash, address, target, |_| true);
        shard.change_count(hash, 1);
        Ok(place)
    }

    /// Inserts an entry and returns its place: in front of the first one if `before` returns `true` for that,
    /// else behind the last one. `before` runs under the lock.
    pub(crate) fn insert(
        &'static self,
        address: usize,
        target: T,
        before: impl FnOnce(&T) -> bool,
    ) -> usize {
        let hash = hash(address);
        let shard = self.shard(hash);
        let mut table = shard.table_with_room();
        let place = table.insert(hash, address, target, before);
        shard.change_count(hash, 1);
        place
    }

    /// Removes the entry at `address` that has this place, if it is there.
    pub(crate) fn remove(&'static self, address: usize, place: usize) -> Option<T> {
        let hash = hash(address);
        let shard = self.shard(hash);
        let mut table = lock_alone(&shard.table);
        let target = table.remove(hash, address, place)?;
        shard.change_count(hash, -1);
        Some(target)
    }

    /// Removes the first entry at `address` for which `is_it` returns `true`. `is_it` runs under the lock.
    pub(crate) fn remove_first(
        &'static self,
        address: usize,
        is_it: impl FnMut(&T) -> bool,
    ) -> Option<T> {
        let hash = hash(address);
        let shard = self.shard(hash);
        let mut table = lock_alone(&shard.table);
        let target = table.remove_first(hash, address, is_it)?;
        shard.change_count(hash, -1);
        Some(target)
    }

    /// The number of entries.
    #[cfg(test)]
    pub(crate) fn len(&'static self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(&shard.table).len())
            .sum()
    }

    fn shard(&self, hash: u64) -> &Shard<T> {
        &self.shards[(hash >> SHARD_SHIFT) as usize % SHARDS]
    }
}

impl<T: Send> Shard<T> {
    fn count(&self, hash: u64) -> &AtomicUsize {
        &self.counts[(hash >> COUNT_SHIFT) as usize % COUNTS]
    }

    /// Changes a count by one, under the lock, so that no change is lost.
    fn change_count(&self, hash: u64, by: isize) {
        let count = self.count(hash);
        // Relaxed, both: by 6 above.
        let value = count.load(Ordering::Relaxed).wrapping_add_signed(by);
        count.store(value, Ordering::Relaxed);
    }

    /// Locks the table, with room for one more entry. The table grows with the lock released: the larger one is
    /// allocated before the lock is taken again, and the old one is freed after it was released.
    #[inline(always)] // Into both insertions, for each adopted buffer.
    fn table_with_room(&'static self) -> Guard<Table<T>> {
        let table = lock(&self.table);
        if table.has_room() {
            return table;
        }
        self.grow(table)
    }

    #[cold]
    fn grow(&'static self, mut table: Guard<Table<T>>) -> Guard<Table<T>> {
        while !table.has_room() {
            let (chains, slots) = (table.chains.len(), table.slots.len());
            drop(table);
            let mut larger =
                unscoped(|| Table::with_capacity(2 * chains + SMALLEST, 2 * slots + SMALLEST));
            table = lock(&self.table);
            // Another thread may have filled the table, or made it larger, meanwhile.
            if !table.has_room() && larger.can_take(&table) {
                table.move_to(&mut larger);
                std::mem::swap(&mut *table, &mut larger);
            }
            drop(table);
            drop(larger);
            table = lock(&self.table);
        }
        table
    }
}

impl<T> Table<T> {
    const fn new() -> Self {
        Self {
            chains: HashTable::new(),
            slots: Vec::new(),
            free: None,
        }
    }

    fn with_capacity(chains: usize, slots: usize) -> Self {
        Self {
            chains: HashTable::with_capacity(chains),
            slots: Vec::with_capacity(slots),
            free: None,
        }
    }

    /// Whether an entry can be inserted without allocating.
    fn has_room(&self) -> bool {
        // Erased chains may use up capacity; `capacity` does not count those.
        self.chains.len() < self.chains.capacity()
            && (self.free.is_some() || self.slots.len() < self.slots.capacity())
    }

    /// Whether this empty table has room for the entries of `other` and one more.
    fn can_take(&self, other: &Self) -> bool {
        other.chains.len() < self.chains.capacity() && other.slots.len() < self.slots.capacity()
    }

    /// Moves all entries to an empty table with room for them. Entries keep their places.
    fn move_to(&mut self, larger: &mut Self) {
        for chain in self.chains.drain() {
            let hash = hash(chain.address);
            larger.chains.insert_unique(hash, chain, Chain::rehash);
        }
        larger.slots.append(&mut self.slots);
        larger.free = self.free.take();
    }

    #[inline]
    fn visit(
        &self,
        hash: u64,
        address: usize,
        mut visit: impl FnMut(&T) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let chain = self.chains.find(hash, |chain| chain.address == address);
        let mut next = chain.map(|chain| chain.first);
        while let Some(place) = next {
            let slot = &self.slots[place];
            if let Some(target) = &slot.target {
                visit(target)?;
            }
            next = slot.after;
        }
        ControlFlow::Continue(())
    }

    /// Inserts an entry, for which there is room.
    fn insert(
        &mut self,
        hash: u64,
        address: usize,
        target: T,
        before: impl FnOnce(&T) -> bool,
    ) -> usize {
        let place = self.take_slot(address, target);
        let at_address = |chain: &Chain| chain.address == address;
        let mut entry = match self.chains.entry(hash, at_address, Chain::rehash) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                entry.insert(Chain {
                    address,
                    first: place,
                    last: place,
                });
                return place;
            }
        };
        let chain = entry.get_mut();
        if self.slots[chain.first].target.as_ref().is_some_and(before) {
            self.slots[chain.first].before = Some(place);
            self.slots[place].after = Some(chain.first);
            chain.first = place;
        } else {
            self.slots[chain.last].after = Some(place);
            self.slots[place].before = Some(chain.last);
            chain.last = place;
        }
        place
    }

    /// Fills a free slot, which is on no chain.
    #[inline(always)] // The target need not be copied for a call.
    fn take_slot(&mut self, address: usize, target: T) -> usize {
        match self.free {
            Some(place) => {
                let slot = &mut self.slots[place];
                self.free = slot.after.take();
                slot.address = address;
                slot.target = Some(target);
                slot.before = None;
                place
            }
            None => {
                self.slots.push(Slot {
                    address,
                    target: Some(target),
                    before: None,
                    after: None,
                });
                self.slots.len() - 1
            }
        }
    }

    fn remove(&mut self, hash: u64, address: usize, place: usize) -> Option<T> {
        let slot = self
            .slots
            .get_mut(place)
            .filter(|slot| slot.address == address)?;
        let target = slot.target.take()?;
        let (before, after) = (slot.before, slot.after);
        // The removal of an entry in the middle changes no end of the chain.
        if (before.is_none() || after.is_none())
            && let Ok(chain) = self
                .chains
                .find_entry(hash, |chain| chain.address == address)
        {
            shorten(chain, before, after);
        }
        self.bridge(place, before, after);
        Some(target)
    }

    fn remove_first(
        &mut self,
        hash: u64,
        address: usize,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Option<T> {
        let chain = self
            .chains
            .find_entry(hash, |chain| chain.address == address)
            .ok()?;
        let mut place = chain.get().first;
        while !self.slots[place].target.as_ref().is_some_and(&mut is_it) {
            place = self.slots[place].after?;
        }
        let slot = &mut self.slots[place];
        let target = slot.target.take()?;
        let (before, after) = (slot.before, slot.after);
        shorten(chain, before, after);
        self.bridge(place, before, after);
        Some(target)
    }

    /// Links the neighbours of a slot that was emptied, and puts it on the list of free ones.
    fn bridge(&mut self, place: usize, before: Option<usize>, after: Option<usize>) {
        if let Some(before) = before {
            self.slots[before].after = after;
        }
        if let Some(after) = after {
            self.slots[after].before = before;
        }
        self.slots[place].after = self.free;
        self.free = Some(place);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.target.is_some())
            .count()
    }
}

/// Corrects the ends of a chain after the removal of the entry between `before` and `after`. A chain without
/// entries is removed.
fn shorten(mut chain: OccupiedEntry<'_, Chain>, before: Option<usize>, after: Option<usize>) {
    match (before, after) {
        (None, None) => drop(chain.remove()),
        (None, Some(first)) => chain.get_mut().first = first,
        (Some(last), None) => chain.get_mut().last = last,
        (Some(_), Some(_)) => {}
    }
}

impl Chain {
    fn rehash(&self) -> u64 {
        hash(self.address)
    }
}

#[cfg(not(loom))]
const SHARDS: usize = 64;
#[cfg(loom)]
const SHARDS: usize = 1;

#[cfg(not(loom))]
const COUNTS: usize = 64;
#[cfg(loom)]
const COUNTS: usize = 1;

/// These bits are not those that the tables use: the lowest ones and the highest seven.
const SHARD_SHIFT: u32 = 40;

/// These bits are neither those of the tables nor those of the shards.
const COUNT_SHIFT: u32 = 46;

/// A table that grows gets room for twice as many entries as it has, and for this many more.
const SMALLEST: usize = 8;

#[cfg(all(test, loom))]
#[path = "registry_model.rs"]
mod model;
#[cfg(all(test, not(loom)))]
#[path = "registry_tests.rs"]
mod tests;
