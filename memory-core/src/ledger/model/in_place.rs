//! Models of `in_place`: the only ledger of a watched allocation changes its node, while a watcher looks for it.
//!
//! Whoever has a buffer reads the ledger's node, and looks at that node's memory. The thread that moves the ledger frees the
//! old node's memory afterwards, as the last handle on an allocator does.
//!
//! Each of these mutations makes two of them fail: Relaxed in place of the Acquire in `retain_alone`, and `retain_alone`
//! without its look at SHARED. By reading, these do, too, but they were not run: Relaxed in `claim` or in `set_alone`, and a
//! claim of a ledger that has two buffers.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::{Relaxed, Release};
use loom::thread;

use super::{Allocation, Buffer, Datum, check, check_bounded, cloned, first};
use crate::sync::lock;

/// An allocation, the node of its ledger, and the memory of both nodes.
struct Ledger {
    allocation: Arc<Allocation>,
    node: AtomicUsize,
    nodes: [Datum; 2],
}

// SAFETY: loom checks how the data are used; the rest is Sync.
unsafe impl Sync for Ledger {}
// SAFETY: as for Sync.
unsafe impl Send for Ledger {}

const FROM: usize = 0;
const TO: usize = 1;

impl Ledger {
    fn with(buffers: &[Buffer]) -> Arc<Self> {
        Arc::new(Self {
            allocation: Allocation::watched(buffers, 0),
            node: AtomicUsize::new(FROM),
            nodes: std::array::from_fn(|_| Datum(UnsafeCell::new(false))),
        })
    }

    /// What the holder of a buffer does with it, and its drop.
    fn use_up(&self, buffer: Buffer) {
        // Relaxed: as in `Slot::node`.
        self.nodes[self.node.load(Relaxed)].read();
        self.allocation.use_up(buffer);
    }

    /// A watcher looks for the allocation, and uses what it finds.
    fn watch(&self) {
        if let Some(found) = self.allocation.upgrade() {
            self.use_up(found);
        }
    }

    /// `move_in_place`, by the holder of a buffer. Whether it moved.
    fn move_in_place(&self) -> bool {
        let list = lock(&self.allocation.list);
        let only = list.only() == Some(0);
        let moved = only && self.allocation.counts[0].claim();
        if moved {
            // Release: as in `Slot::set_node`.
            self.node.store(TO, Release);
            self.allocation.counts[0].set_alone();
        }
        drop(list);
        moved
    }

    /// Moves it if that is possible, after which the old node is freed.
    fn leave(&self) {
        if self.move_in_place() {
            self.nodes[FROM].write();
        }
    }
}

#[test]
fn a_watcher_finds_a_ledger_with_a_node_that_lives() {
    for last in [first(0), cloned(0)] {
        check(move || {
            let ledger = Ledger::with(&[last]);
            let watcher = Arc::clone(&ledger);
            let thread = thread::spawn(move || watcher.watch());

            ledger.leave();
            ledger.use_up(last);

            thread.join().unwrap();
            ledger.allocation.at_end();
        });
    }
}

/// Another thread drops a buffer that was made before.
#[test]
fn who_had_a_buffer_before_the_move_has_done_with_the_old_node() {
    check(|| {
        let ledger = Ledger::with(&[first(0), cloned(0)]);
        let other = Arc::clone(&ledger);
        let thread = thread::spawn(move || other.use_up(cloned(0)));

        ledger.leave();
        ledger.use_up(first(0));

        thread.join().unwrap();
        ledger.allocation.at_end();
    });
}

/// Two threads look for it. With at most three preemptions, since there are too many interleavings.
#[test]
fn two_watchers_find_it_before_and_after() {
    check_bounded(3, || {
        let ledger = Ledger::with(&[first(0)]);
        let threads = [(); 2].map(|()| {
            let watcher = Arc::clone(&ledger);
            thread::spawn(move || watcher.watch())
        });

        ledger.leave();
        ledger.use_up(first(0));

        for thread in threads {
            thread.join().unwrap();
        }
        ledger.allocation.at_end();
    });
}

/// A watcher shares the allocation with another allocator, so that it has a second ledger.
#[test]
fn a_second_ledger_comes_before_the_move_or_after_it() {
    check(|| {
        let ledger = Ledger::with(&[first(0)]);
        let watcher = Arc::clone(&ledger);
        let thread = thread::spawn(move || {
            if let Some(found) = watcher.allocation.upgrade() {
                let shared = watcher.allocation.retain_in(1);
                watcher.use_up(found);
                watcher.allocation.use_up(shared);
            }
        });

        ledger.leave();
        ledger.use_up(first(0));

        thread.join().unwrap();
        ledger.allocation.at_end();
    });
}
