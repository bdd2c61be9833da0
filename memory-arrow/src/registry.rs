//! From an address to the buffers that are known to start there.
//!
//! arrow-rs shows no owner of a `Buffer`, so what is known of one is found by the address where its
//! memory starts. An entry leads there *weakly*: it keeps no memory alive, and is removed by what
//! ends the life of its memory (the release of adopted memory, the drop of a wrapper).
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
//!    is not found. There is no third case, and nobody waits for anybody.
//! 3. What L2 made is dropped at L4 at the earliest: a drop may be the last one, which locks the
//!    shard (D2). For the same reason entries are dropped after the lock is released.
//! 4. An address that is not found may be adopted anew although D5 has not run: the old adoption
//!    and the new are two, each charged for its own time, as if they had come one after the other.
//! 5. Two threads that both found nothing and adopt the same memory meet again when they insert,
//!    under the lock: [`insert_unless`](Registry::insert_unless) gives the second the first's.
//! 6. A lookup that reads a count of zero does without the lock (L1 to L3), as if it had come before
//!    the insertions that it does not see. It sees those that happened before it, whose entries are
//!    there: counts change with the table, under the lock, so their order is the table's.
//!
//! 1 and 2 are why the count of a foreign allocation never takes the shortcut of a sole holder (see
//! `WATCHED` in the core's count). The model below checks them.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use crate::sync::{AtomicUsize, Mutex, Ordering, lock};

/// Entries by address, in shards.
pub(crate) struct Registry<T> {
    shards: [Shard<T>; SHARDS],
}

struct Shard<T> {
    entries: Mutex<HashTable<Entry<T>>>,
    /// How many entries have a hash with certain bits; changed under the lock.
    counts: [AtomicUsize; COUNTS],
}

struct Entry<T> {
    key: Key,
    target: T,
}

/// The identity of an entry, of which there may be several at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) address: usize,
    /// Not another entry's before this one is removed.
    pub(crate) id: usize,
}

impl<T> Registry<T> {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            shards: [const {
                Shard {
                    entries: Mutex::new(HashTable::new()),
                    counts: [const { AtomicUsize::new(0) }; COUNTS],
                }
            }; SHARDS],
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        let shard = || Shard {
            entries: Mutex::new(HashTable::new()),
            counts: std::array::from_fn(|_| AtomicUsize::new(0)),
        };
        Self {
            shards: std::array::from_fn(|_| shard()),
        }
    }

    /// Visits the entries at `address`.
    ///
    /// `visit` runs under the lock: it must not drop what it makes of an entry, nor call anything
    /// that may come back here.
    pub(crate) fn visit(&self, address: usize, visit: impl FnMut(&T)) {
        let hash = hash(address);
        let shard = self.shard(hash);
        // Relaxed: by 6 above.
        if shard.count(hash).load(Ordering::Relaxed) > 0 {
            visit_all(&lock(&shard.entries), hash, address, visit);
        }
    }

    /// Inserts an entry, unless `found`, which visits those at the same address as in
    /// [`visit`](Self::visit), says that one will do.
    pub(crate) fn insert_unless(
        &self,
        key: Key,
        target: T,
        mut found: impl FnMut(&T) -> bool,
    ) -> Result<(), T> {
        let hash = hash(key.address);
        let shard = self.shard(hash);
        let mut entries = lock(&shard.entries);
        let at_address = |entry: &Entry<T>| entry.key.address == key.address;
        match entries.entry(hash, at_address, Entry::rehash) {
            Place::Vacant(place) => {
                place.insert(Entry { key, target });
            }
            Place::Occupied(_) => {
                let mut known = false;
                visit_all(&entries, hash, key.address, |target| {
                    known = known || found(target);
                });
                if known {
                    return Err(target);
                }
                entries.insert_unique(hash, Entry { key, target }, Entry::rehash);
            }
        }
        shard.change_count(hash, 1);
        Ok(())
    }

    /// Inserts an entry.
    pub(crate) fn insert(&self, key: Key, target: T) {
        let hash = hash(key.address);
        let shard = self.shard(hash);
        let mut entries = lock(&shard.entries);
        entries.insert_unique(hash, Entry { key, target }, Entry::rehash);
        shard.change_count(hash, 1);
    }

    /// Takes an entry out, if it is there.
    pub(crate) fn remove(&self, key: Key) -> Option<T> {
        let hash = hash(key.address);
        let shard = self.shard(hash);
        let mut entries = lock(&shard.entries);
        let entry = entries.find_entry(hash, |entry| entry.key == key).ok()?;
        let target = entry.remove().0.target;
        shard.change_count(hash, -1);
        Some(target)
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(&shard.entries).len())
            .sum()
    }

    fn shard(&self, hash: u64) -> &Shard<T> {
        &self.shards[(hash >> SHARD_SHIFT) as usize % SHARDS]
    }
}

impl<T> Shard<T> {
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
}

fn visit_all<T>(
    entries: &HashTable<Entry<T>>,
    hash: u64,
    address: usize,
    mut visit: impl FnMut(&T),
) {
    for entry in entries.iter_hash(hash) {
        if entry.key.address == address {
            visit(&entry.target);
        }
    }
}

impl<T> Entry<T> {
    fn rehash(&self) -> u64 {
        hash(self.key.address)
    }
}

/// Spreads addresses, which are multiples of 64 mostly, over all bits.
fn hash(address: usize) -> u64 {
    let spread = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    spread ^ (spread >> 32)
}

#[cfg(not(loom))]
const SHARDS: usize = 64;
#[cfg(loom)]
const SHARDS: usize = 1;

#[cfg(not(loom))]
const COUNTS: usize = 64;
#[cfg(loom)]
const COUNTS: usize = 1;

/// Other bits than the tables use: those look at the lowest and the highest seven.
const SHARD_SHIFT: u32 = 40;

/// Other bits again.
const COUNT_SHIFT: u32 = 46;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn key(address: usize, id: usize) -> Key {
        Key { address, id }
    }

    #[test]
    fn entries_at_one_address_are_told_apart_by_their_keys() {
        let registry = Registry::new();
        registry.insert(key(64, 1), 'a');
        registry.insert_unless(key(64, 2), 'b', |_| false).unwrap();

        assert_eq!(registry.remove(key(64, 1)), Some('a'));
        assert_eq!(registry.remove(key(64, 1)), None);
        let mut seen = Vec::new();
        registry.visit(64, |&target| seen.push(target));
        assert_eq!((seen, registry.len()), (vec!['b'], 1));
    }

    #[test]
    fn an_entry_is_not_inserted_where_another_will_do() {
        let registry = Registry::new();
        registry.insert(key(64, 1), 1);

        let inserted = registry.insert_unless(key(64, 2), 2, |&one| one == 1);
        assert_eq!((inserted, registry.len()), (Err(2), 1));
    }

    #[test]
    fn a_thousand_addresses_are_found_again() {
        let registry = Registry::new();
        let addresses: Vec<usize> = (1..=1000).map(|page| page * 4096).collect();
        for &address in &addresses {
            registry.insert(key(address, 1), address);
        }

        for address in addresses {
            let mut seen = Vec::new();
            registry.visit(address, |&target| seen.push(target));
            assert_eq!(seen, [address]);
            assert_eq!(registry.remove(key(address, 1)), Some(address));
        }
        let counts = registry.shards.iter().flat_map(|shard| &shard.counts);
        // Relaxed: one thread.
        assert!(
            counts
                .into_iter()
                .all(|count| count.load(Ordering::Relaxed) == 0)
        );
    }
}

/// The protocol above on loom's atomics: each pair of racing operations.
#[cfg(all(test, loom))]
mod model {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    use super::*;

    /// What stands for foreign memory: a count that is recycled once the memory has been released.
    struct Memory {
        count: AtomicUsize,
        recycled: AtomicBool,
        /// Adoptions that are charged now.
        charged: Arc<AtomicUsize>,
    }

    type Model = Registry<Arc<Memory>>;

    const ADDRESS: usize = 64;

    fn adopt(registry: &Model, charged: &Arc<AtomicUsize>) -> Arc<Memory> {
        let mut found = None;
        registry.visit(ADDRESS, |memory| retain(memory, &mut found));
        if let Some(found) = found {
            return found;
        }
        charged.fetch_add(1, Ordering::Relaxed);
        let memory = Arc::new(Memory {
            count: AtomicUsize::new(1),
            recycled: AtomicBool::new(false),
            charged: Arc::clone(charged),
        });
        let mut found = None;
        let inserted = registry.insert_unless(key(&memory), Arc::clone(&memory), |known| {
            retain(known, &mut found);
            found.is_some()
        });
        match (inserted, found) {
            (Ok(()), _) => memory,
            (Err(_), Some(found)) => {
                release(registry, &memory);
                found
            }
            (Err(_), None) => unreachable!(),
        }
    }

    fn retain(memory: &Arc<Memory>, found: &mut Option<Arc<Memory>>) {
        if found.is_some() {
            return;
        }
        assert!(
            !memory.recycled.load(Ordering::Relaxed),
            "a recycled count is touched"
        );
        let risen = memory
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count > 0).then_some(count + 1)
            });
        if risen.is_ok() {
            *found = Some(Arc::clone(memory));
        }
    }

    /// The memory is where it is until it is released, as the core's bookkeeping is.
    fn key(memory: &Arc<Memory>) -> Key {
        Key {
            address: ADDRESS,
            id: std::ptr::from_ref(&**memory).addr(),
        }
    }

    fn release(registry: &Model, memory: &Arc<Memory>) {
        assert!(!memory.recycled.load(Ordering::Relaxed), "released twice");
        if memory.count.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        drop(registry.remove(key(memory)));
        memory.recycled.store(true, Ordering::Relaxed);
        memory.charged.fetch_sub(1, Ordering::Relaxed);
    }

    #[test]
    fn a_lookup_races_the_last_drop() {
        loom::model(|| {
            let (registry, charged) = (Arc::new(Model::new()), Arc::new(AtomicUsize::new(0)));
            let memory = adopt(&registry, &charged);

            let dropper = thread::spawn({
                let registry = Arc::clone(&registry);
                move || release(&registry, &memory)
            });
            let again = adopt(&registry, &charged);
            assert!(again.count.load(Ordering::Relaxed) > 0);
            dropper.join().unwrap();

            assert_eq!(charged.load(Ordering::Relaxed), 1, "one adoption is alive");
            assert_eq!(registry.len(), 1, "and it can be found");
            release(&registry, &again);
            assert_eq!((charged.load(Ordering::Relaxed), registry.len()), (0, 0));
        });
    }

    #[test]
    fn two_adoptions_of_the_same_memory_end_as_one() {
        loom::model(|| {
            let (registry, charged) = (Arc::new(Model::new()), Arc::new(AtomicUsize::new(0)));

            let other = thread::spawn({
                let (registry, charged) = (Arc::clone(&registry), Arc::clone(&charged));
                move || adopt(&registry, &charged)
            });
            let mine = adopt(&registry, &charged);
            let theirs = other.join().unwrap();

            assert!(Arc::ptr_eq(&mine, &theirs));
            assert_eq!((charged.load(Ordering::Relaxed), registry.len()), (1, 1));
            release(&registry, &mine);
            release(&registry, &theirs);
            assert_eq!((charged.load(Ordering::Relaxed), registry.len()), (0, 0));
        });
    }
}
