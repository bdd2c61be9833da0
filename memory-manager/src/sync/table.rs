//! [`Table`]: a hash table that never allocates under the lock that guards it.
//!
//! Entries are boxes that the caller makes before it takes the lock and drops after it; the buckets
//! grow by a [`Room`] that is made while the lock is free.

use super::current::unscoped;

/// Entries by a key, of which several may be equal.
pub struct Table<T> {
    /// A power of two of them, or none.
    buckets: Vec<Link<T>>,
    len: usize,
}

type Link<T> = Option<Box<Entry<T>>>;

/// One entry, linked into a table or not.
pub struct Entry<T> {
    /// The key under which the entry is found.
    pub key: usize,
    /// The value that the entry holds.
    pub value: T,
    next: Link<T>,
}

impl<T> Entry<T> {
    /// An entry that is in no table.
    pub fn new(key: usize, value: T) -> Box<Self> {
        let next = None;
        unscoped(|| Box::new(Self { key, value, next }))
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Table<T> {
    /// An empty table, which has no room yet.
    pub const fn new() -> Self {
        Self {
            buckets: Vec::new(),
            len: 0,
        }
    }

    /// An empty table with room for the first entries.
    pub fn with_room() -> Self {
        let mut room = Room::default();
        let mut table = Self::new();
        while !room.is_in(&mut table) {
            room.prepare();
        }
        table
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.buckets.iter().flat_map(|first| {
            std::iter::successors(first.as_deref(), |entry| entry.next.as_deref())
        })
    }

    /// The value of an entry with this key.
    pub fn get(&self, key: usize) -> Option<&T> {
        let mut at = self.buckets.get(self.index(key)?)?.as_deref();
        while let Some(entry) = at {
            if entry.key == key {
                return Some(&entry.value);
            }
            at = entry.next.as_deref();
        }
        None
    }

    /// The value of an entry with this key for which `is` holds.
    pub fn find_mut(&mut self, key: usize, is: impl Fn(&T) -> bool) -> Option<&mut T> {
        let index = self.index(key)?;
        let mut at = self.buckets[index].as_deref_mut();
        while let Some(entry) = at {
            if entry.key == key && is(&entry.value) {
                return Some(&mut entry.value);
            }
            at = entry.next.as_deref_mut();
        }
        None
    }

    /// An entry with this key, whatever its value.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.find_mut(key, |_| true)
    }

    /// Adds an entry. There are buckets: [`Room::is_in`] said so.
    pub fn insert(&mut self, mut entry: Box<Entry<T>>) {
        let Some(index) = self.index(entry.key) else {
            debug_assert!(false, "inserted without room");
            return;
        };
        entry.next = self.buckets[index].take();
        self.buckets[index] = Some(entry);
        self.len += 1;
    }

    /// Takes an entry with this key out, to be dropped when the lock is free.
    #[must_use = "an entry is dropped when the lock is free"]
    pub fn remove(&mut self, key: usize) -> Option<Box<Entry<T>>> {
        let index = self.index(key)?;
        let gone = unlink(&mut self.buckets[index], |entry| entry.key == key)?;
        self.len -= 1;
        Some(gone)
    }

    /// Unlinks all entries for which `goes` holds and returns them as one list, to be dropped when the lock is
    /// free.
    pub fn remove_all(&mut self, goes: impl Fn(&mut T) -> bool) -> Removed<T> {
        let mut removed = Removed(None);
        for first in &mut self.buckets {
            while let Some(mut entry) = unlink(first, |entry| goes(&mut entry.value)) {
                entry.next = removed.0.take();
                removed.0 = Some(entry);
                self.len -= 1;
            }
        }
        removed
    }

    fn index(&self, key: usize) -> Option<usize> {
        let mask = self.buckets.len().checked_sub(1)?;
        Some(spread(key) as usize & mask)
    }
}

/// Takes the first entry out of a list for which `is` holds.
fn unlink<T>(first: &mut Link<T>, is: impl Fn(&mut Entry<T>) -> bool) -> Link<T> {
    let mut at = first;
    while at.as_mut().is_some_and(|entry| !is(entry)) {
        at = &mut at.as_mut()?.next;
    }
    let mut gone = at.take()?;
    *at = gone.next.take();
    Some(gone)
}

/// Entries that were taken out together.
#[must_use = "entries are dropped when the lock is free"]
pub struct Removed<T>(Link<T>);

impl<T> Drop for Removed<T> {
    fn drop(&mut self) {
        // In a loop: dropping a chain of boxes at once recurses.
        while let Some(mut entry) = self.0.take() {
            self.0 = entry.next.take();
        }
    }
}

/// Buckets for a table that is full, made while its lock is free:
///
/// ```text
/// let mut room = Room::default();      // before the guard, so that it is dropped after it
/// loop {
///     room.prepare();
///     let mut guard = lock();
///     if room.is_in(&mut guard) { guard.insert(entry); break; }
/// }
/// ```
pub struct Room<T> {
    fresh: Vec<Link<T>>,
    wanted: usize,
}

impl<T> Default for Room<T> {
    fn default() -> Self {
        Self {
            fresh: Vec::new(),
            wanted: 0,
        }
    }
}

impl<T> Room<T> {
    /// Makes the buckets that the last [`is_in`](Self::is_in) found missing.
    pub fn prepare(&mut self) {
        if self.fresh.len() < self.wanted {
            self.fresh.clear();
            // Tables are the library's own, and most stay for ever: no scope should pay for them.
            unscoped(|| self.fresh.resize_with(self.wanted, || None));
        }
    }

    /// Whether `table` has room for one more entry, perhaps by what was prepared. If not, the caller
    /// unlocks, prepares, and asks again.
    pub fn is_in(&mut self, table: &mut Table<T>) -> bool {
        if table.len < table.buckets.len() {
            return true;
        }
        let wanted = (2 * table.buckets.len()).max(4);
        if self.fresh.len() < wanted {
            self.wanted = wanted;
            return false;
        }
        std::mem::swap(&mut table.buckets, &mut self.fresh);
        table.len = 0;
        for first in &mut self.fresh {
            let mut next = first.take();
            while let Some(mut entry) = next {
                next = entry.next.take();
                table.insert(entry);
            }
        }
        // No longer of use, whatever its length: it has fewer than the table.
        self.wanted = 0;
        true
    }
}

/// Spreads a key, often an address, over all bits.
#[inline]
pub fn spread(key: usize) -> u64 {
    // Fibonacci hashing; both ends are used.
    let product = (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn insert(table: &mut Table<usize>, key: usize, value: usize) {
        let mut room = Room::default();
        while !room.is_in(table) {
            room.prepare();
        }
        table.insert(Entry::new(key, value));
    }

    #[test]
    fn entries_are_found_until_they_are_removed_however_much_the_table_grows() {
        let mut table = Table::new();
        assert_eq!(table.get(64), None);
        assert!(table.remove(64).is_none());
        for key in 0..1000 {
            insert(&mut table, key * 64, key);
        }

        for key in 0..1000 {
            assert_eq!(table.get(key * 64), Some(&key));
        }
        assert_eq!(table.iter().count(), 1000);
        drop(table.remove_all(|&mut value| value % 2 == 0));
        for key in 0..1000 {
            let found = table.remove(key * 64).map(|entry| entry.value);
            assert_eq!(found, (key % 2 == 1).then_some(key));
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn equal_keys_are_told_apart_by_their_values() {
        let mut table = Table::new();
        insert(&mut table, 1, 10);
        insert(&mut table, 1, 11);

        assert_eq!(table.find_mut(1, |&value| value == 10), Some(&mut 10));
        assert_eq!(table.find_mut(1, |&value| value == 12), None);
        assert!(table.remove(1).is_some() && table.remove(1).is_some());
        assert!(table.remove(1).is_none());
    }
}
