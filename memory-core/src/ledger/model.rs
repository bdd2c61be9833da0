//! Loom models of ledgers: buffers of several ledgers of one allocation are made and dropped at once.
//!
//! The models follow `release`, `list` and `transfer` step by step, with the real [`Count`]s, and
//! with flags in place of the list. Each has a datum that stands for the bytes of the block:
//! the holder of a buffer reads it, and the sole owner writes to it, which is what freeing or
//! reusing the block amounts to. So they see data races, and not only wrong counts.
//!
//! Each of these mutations makes some of them fail: Relaxed in place of the Acquire in
//! `is_last_of_shared`, `is_sole` or `last_left`; Relaxed in place of the Release in `release` or
//! `set_alone`; unlinking a ledger without asking again under the mutex.
//!
//! Run by `RUSTFLAGS='--cfg loom' cargo test --release -p arrow-memory-core --lib model`.
#![expect(unsafe_code, reason = "loom's cells lend out raw pointers")]

mod in_place;

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use crate::accounting::model::{check, check_bounded};
use crate::raw::count::{Count, Left};
use crate::sync::{Mutex, MutexGuard, lock};

/// The bytes of a block. Loom reports a read that is not ordered before the write, or after it.
struct Datum(UnsafeCell<bool>);

impl Datum {
    /// What the holder of a buffer does.
    fn read(&self) {
        // SAFETY: loom checks that no write is concurrent.
        let freed = self.0.with(|freed| unsafe { *freed });
        assert!(!freed, "read after the sole owner took over");
    }

    /// What the sole owner does: it frees the block, reallocates it or writes to it.
    fn write(&self) {
        // SAFETY: loom checks that no other access is concurrent.
        let before = self.0.with_mut(|freed| unsafe { freed.replace(true) });
        assert!(!before, "freed twice");
    }
}

/// How many ledgers an allocation may have had at the end of a model.
const LEDGERS: usize = 5;

/// The data that the tree's mutex guards: the list of ledgers, in order, and the home slot's fields.
#[derive(Default)]
struct List {
    listed: [bool; LEDGERS],
    buried: [bool; LEDGERS],
    pending: usize,
    stranded: bool,
}

impl List {
    fn first(&self) -> Option<usize> {
        self.listed.iter().position(|&listed| listed)
    }

    fn only(&self) -> Option<usize> {
        let count = self.listed.iter().filter(|&&listed| listed).count();
        self.first().filter(|_| count == 1)
    }
}

/// An allocation with at most five ledgers: 0 of one node, 1 and 2 of two others, and 3 and 4 of those
/// two again, if a thread that needed one met ledger 1 or 2 without buffers, and buried it.
struct Allocation {
    counts: [Count; LEDGERS],
    /// Whether the memory is foreign.
    watched: bool,
    /// The mutex is the tree's.
    list: Mutex<List>,
    block: Datum,
}

// SAFETY: loom checks how the datum is used; the rest is Sync.
unsafe impl Sync for Allocation {}
// SAFETY: as for Sync.
unsafe impl Send for Allocation {}

/// A buffer: the ledger that it holds, and whether its reference has the tag of a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffer {
    ledger: usize,
    cloned: bool,
}

const fn first(ledger: usize) -> Buffer {
    Buffer {
        ledger,
        cloned: false,
    }
}

const fn cloned(ledger: usize) -> Buffer {
    Buffer {
        ledger,
        cloned: true,
    }
}

impl Allocation {
    /// An allocation with these buffers. Ledger 0 exists; another one does if a buffer holds it. The
    /// ledger `owner` owns.
    fn with(buffers: &[Buffer], owner: usize) -> Arc<Self> {
        Arc::new(Self::made(buffers, owner, false))
    }

    /// The same, of foreign memory.
    fn watched(buffers: &[Buffer], owner: usize) -> Arc<Self> {
        Arc::new(Self::made(buffers, owner, true))
    }

    fn made(buffers: &[Buffer], owner: usize, watched: bool) -> Self {
        let mut list = List::default();
        list.listed[0] = true;
        for buffer in buffers {
            list.listed[buffer.ledger] = true;
        }
        let (listed, only) = (list.listed, list.only());
        let this = Self {
            counts: std::array::from_fn(|_| Count::new()),
            watched,
            list: Mutex::new(list),
            block: Datum(UnsafeCell::new(false)),
        };
        for (ledger, count) in this.counts.iter().enumerate() {
            if !listed[ledger] {
                continue;
            }
            match only {
                Some(_) if watched => count.reset_to_watched(),
                Some(_) => count.reset_to_sole(),
                None if ledger == owner => count.reset_to_heir(watched),
                None => count.reset_to_guest(watched),
            }
            let held = buffers.iter().filter(|buffer| buffer.ledger == ledger);
            (1..held.count()).for_each(|_| count.retain());
        }
        this
    }

    /// `LedgerRef::drop`.
    fn drop_buffer(&self, buffer: Buffer) {
        if buffer.cloned {
            self.drop_clone(buffer.ledger);
        } else {
            self.drop_first(buffer.ledger);
        }
    }

    /// `release::drop_first`, and `drop_first_of_several` and `drop_last_of_shared`, which it calls.
    fn drop_first(&self, ledger: usize) {
        let count = &self.counts[ledger];
        if count.is_sole() {
            self.block.write();
        } else if count.is_last_of_shared() {
            let list = lock(&self.list);
            if !count.is_last_of_shared() {
                drop(list);
                return self.drop_clone(ledger);
            }
            count.release_last();
            self.unlink(ledger, list);
        } else {
            self.drop_clone(ledger);
        }
    }

    /// `release::drop_clone`, and `last_buffer_dropped`, which it calls.
    fn drop_clone(&self, ledger: usize) {
        if self.counts[ledger].release() {
            match self.counts[ledger].last_left() {
                Left::Nothing => self.block.write(),
                Left::Ledgers => self.unlink_left(ledger),
            }
        }
    }

    /// `release::unlink_left`.
    fn unlink_left(&self, ledger: usize) {
        self.unlink(ledger, lock(&self.list));
    }

    /// `release::unlink`, and `settle`, which it calls.
    fn unlink(&self, ledger: usize, mut list: MutexGuard<'_, List>) {
        if list.buried[ledger] {
            list.buried[ledger] = false;
            list.pending -= 1;
        } else {
            self.take_off(&mut list, ledger);
        }
        let first = list.first();
        list.stranded |= first.is_none() && list.pending > 0;
        let pending = list.pending;
        if let Some(only) = list.only().filter(|_| pending == 0 && !list.stranded) {
            self.counts[only].set_alone();
        }
        drop(list);
        if first.is_none() && pending == 0 {
            self.block.write();
        }
    }

    /// `list::take_off`.
    fn take_off(&self, list: &mut List, ledger: usize) {
        assert!(list.listed[ledger], "taken off the list twice");
        list.listed[ledger] = false;
        if let Some(heir) = list.first().filter(|_| self.counts[ledger].is_owning()) {
            self.counts[ledger].set_owning(false);
            self.counts[heir].set_owning(true);
        }
    }

    /// `retain_in` the node of `ledger`, 1 or 2, by the holder of a buffer of ledger 0:
    /// `list::find_or_make`.
    fn retain_in(&self, ledger: usize) -> Buffer {
        let mut list = lock(&self.list);
        if list.listed[ledger] {
            if self.counts[ledger].try_retain() {
                return first(ledger);
            }
            self.take_off(&mut list, ledger);
            list.buried[ledger] = true;
            list.pending += 1;
        }
        let made = ledger + 2;
        self.counts[made].reset_to_guest(self.watched);
        list.listed[made] = true;
        if !self.counts[0].is_shared() {
            self.counts[0].set_shared();
        }
        first(made)
    }

    /// `Weak::upgrade`.
    fn upgrade(&self) -> Option<Buffer> {
        match self.counts[0].retain_alone() {
            Ok(()) => return Some(first(0)),
            Err(Left::Nothing) => return None,
            Err(Left::Ledgers) => {}
        }
        let list = lock(&self.list);
        for only_owning in [true, false] {
            for (ledger, count) in self.counts.iter().enumerate() {
                let wanted = list.listed[ledger] && (!only_owning || count.is_owning());
                if wanted && count.try_retain() {
                    return Some(first(ledger));
                }
            }
        }
        None
    }

    /// `transfer` to ledger 1, which does not exist yet, by the holder of a buffer of ledger 0,
    /// which is the only one: `list::add_successor`.
    fn transfer(&self) -> Buffer {
        let mut list = lock(&self.list);
        self.counts[1].reset_to_heir(false);
        list.listed[1] = true;
        self.counts[0].yield_to_another();
        first(1)
    }

    /// Reads through a buffer and drops it.
    fn use_up(&self, buffer: Buffer) {
        self.block.read();
        self.drop_buffer(buffer);
    }

    fn at_end(&self) {
        // SAFETY: all threads have been joined.
        let freed = self.block.0.with(|freed| unsafe { *freed });
        assert!(freed, "nobody freed the block");
    }
}

/// Each buffer is read and dropped, each on a thread of its own. One of them frees the block.
fn all_go<const N: usize>(buffers: [Buffer; N], owner: usize) {
    check(move || {
        let allocation = Allocation::with(&buffers, owner);
        let threads: Vec<_> = buffers[1..]
            .iter()
            .map(|&buffer| {
                let allocation = Arc::clone(&allocation);
                thread::spawn(move || allocation.use_up(buffer))
            })
            .collect();

        allocation.use_up(buffers[0]);

        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        allocation.at_end();
    });
}

#[test]
fn of_two_buffers_of_one_ledger_the_last_frees_the_block_after_the_other_has_read() {
    all_go([first(0), first(0)], 0);
    all_go([first(0), cloned(0)], 0);
    all_go([cloned(0), cloned(0)], 0);
}

#[test]
fn of_two_ledgers_the_last_to_go_frees_the_block_after_the_other_has_read() {
    for owner in [0, 1] {
        all_go([first(0), first(1)], owner);
        all_go([first(0), cloned(1)], owner);
        all_go([cloned(0), cloned(1)], owner);
    }
}

/// A thread that drops a clone subtracts from the count and never has the mutex. A second thread,
/// whose buffer is then the last one of that ledger, leaves the ledger with the mutex. A third one,
/// which frees the block, must come after both.
#[test]
fn two_buffers_of_one_ledger_and_one_of_another_go_in_any_order() {
    all_go([first(0), first(1), cloned(1)], 0);
    all_go([cloned(0), first(1), first(1)], 1);
}

/// The same, where the third one writes to the block as soon as it is the sole owner.
#[test]
fn what_holders_of_another_ledger_read_comes_before_what_the_sole_owner_writes() {
    check(|| {
        let buffers = [first(0), first(1), cloned(1)];
        let allocation = Allocation::with(&buffers, 0);
        let threads = [buffers[1], buffers[2]].map(|buffer| {
            let allocation = Arc::clone(&allocation);
            thread::spawn(move || allocation.use_up(buffer))
        });

        // `try_into_mut`.
        if allocation.counts[0].is_sole() {
            allocation.block.write();
        }

        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_ledger_is_left_once_however_many_come_and_go() {
    for (guest, owner) in [(first(1), 0), (cloned(1), 0), (cloned(1), 1)] {
        check(move || {
            let allocation = Allocation::with(&[first(0), guest], owner);
            let other = Arc::clone(&allocation);
            let thread = thread::spawn(move || {
                other.block.read();
                let found = other.retain_in(1);
                other.use_up(first(0));
                other.use_up(found);
            });

            allocation.use_up(guest);

            thread.join().unwrap();
            allocation.at_end();
        });
    }
}

#[test]
fn a_ledger_that_hands_over_its_allocation_loses_its_other_buffer_meanwhile() {
    for other in [first(0), cloned(0)] {
        check(move || {
            let allocation = Allocation::with(&[first(0), other], 0);
            let others = Arc::clone(&allocation);
            let thread = thread::spawn(move || others.use_up(other));

            allocation.block.read();
            let moved = allocation.transfer();
            allocation.use_up(first(0));
            allocation.use_up(moved);

            thread.join().unwrap();
            allocation.at_end();
        });
    }
}

/// A watched allocation may be found again without the mutex, until its last buffer has gone.
#[test]
fn a_watched_block_is_found_with_its_bytes_or_not_at_all() {
    for last in [first(0), cloned(0)] {
        check(move || {
            let allocation = Allocation::watched(&[last], 0);
            let watcher = Arc::clone(&allocation);
            let thread = thread::spawn(move || {
                if let Some(found) = watcher.upgrade() {
                    watcher.use_up(found);
                }
            });

            allocation.use_up(last);

            thread.join().unwrap();
            allocation.at_end();
        });
    }
}

/// A watched allocation gets a second ledger while it is looked for; afterwards its first one ends.
#[test]
fn a_watched_block_is_found_by_either_ledger_while_the_second_one_comes() {
    check(|| {
        let allocation = Allocation::watched(&[first(0)], 0);
        let watcher = Arc::clone(&allocation);
        let thread = thread::spawn(move || {
            if let Some(found) = watcher.upgrade() {
                watcher.use_up(found);
            }
        });

        let retained = allocation.retain_in(1);
        allocation.use_up(first(0));
        allocation.use_up(retained);

        thread.join().unwrap();
        allocation.at_end();
    });
}

/// Both ledgers of a watched allocation end while it is looked for.
#[test]
fn a_watched_block_with_two_ledgers_is_found_with_its_bytes_or_not_at_all() {
    for owner in [0, 1] {
        check(move || {
            let allocation = Allocation::watched(&[first(0), first(1)], owner);
            let watcher = Arc::clone(&allocation);
            let thread = thread::spawn(move || {
                if let Some(found) = watcher.upgrade() {
                    watcher.use_up(found);
                }
            });

            allocation.use_up(first(0));
            allocation.use_up(first(1));

            thread.join().unwrap();
            allocation.at_end();
        });
    }
}

/// Two ledgers have left: their threads gave up the last buffers and wait for the mutex. Meanwhile other
/// ledgers take their places, and end. With at most two preemptions, since there are too many interleavings.
#[test]
fn of_two_ledgers_that_are_buried_at_once_the_last_holder_to_come_by_frees_the_block() {
    check_bounded(2, || {
        let allocation = Allocation::with(&[first(0), cloned(1), cloned(2)], 0);
        let threads = [1, 2].map(|ledger| {
            allocation.block.read();
            assert!(allocation.counts[ledger].release());
            let allocation = Arc::clone(&allocation);
            thread::spawn(move || {
                allocation.unlink_left(ledger);
            })
        });

        let retained = [1, 2].map(|ledger| allocation.retain_in(ledger));
        allocation.use_up(first(0));
        for buffer in retained {
            allocation.use_up(buffer);
        }

        for thread in threads {
            thread.join().unwrap();
        }
        allocation.at_end();
    });
}
