//! Keeps a node in memory for a thread that gave its bytes back and has yet to tell a listener.
//!
//! The listener is told of a release when the bytes are free again, and from then on the thread has
//! nothing that keeps the node. A pin would keep it, at the price of two read-modify-writes. Instead each
//! thread has a *record*, and writes there, with a plain store, which node it still needs. A thread that
//! frees a node with a listener reads all open records first. Such nodes are freed rarely; releases are
//! frequent.
//!
//! Records lie in an array by [thread number](crate::thread). A thread's record is *open* from its first
//! release that a listener hears of until the thread ends; the numbers of open records are a
//! [`NumberSet`](crate::thread::NumberSet).
//!
//! # Invariants
//!
//! 1. A thread holds a node in its record *before* it gives up what keeps it, by a Release (`give`)
//!    that the freeing thread has acquired (see the essay in `accounting`). So the freeing thread
//!    finds the node there, or finds a later value, which the first thread stored when it was done.
//! 2. The thread opens its record before it holds anything there. The freeing thread's scan happens after
//!    the `give` of invariant 1 and so after the opening: the scan visits the record, or finds the number
//!    removed and then happens after `end` (that is what `NumberSet` promises). So the scan needs no
//!    lock and no fence, and records of threads that have ended cost nothing.
//! 3. A record's pointer is written by Releases only, by one thread after another, each of which has
//!    acquired the number from the last. So a scan that reads any value but the node comes
//!    after all that the thread did with the node, whichever later value it is.
//! 4. Only the records that hold a retired node lead to it, and no further record holds it afterwards.
//! 5. A retired node is freed once, by a thread that finds it in no record. Until then one thread has it,
//!    or it is *left* with a record that held it. A node that is left there is retired again by the
//!    record's thread when that is done, or by the next thread that leaves a node there.
//!
//! The thread may miss a node that is left at the instant when it is done, since its two accesses, to different
//! variables, may appear in another order to other threads. Then it finds the node at its next release, or
//! when it ends. There a fence, the partner of the one in `retire`, ensures that one of the two threads
//! finds it. So at most one node for each thread is kept for longer than it is needed, and with it its tree,
//! manager and listener.
//!
//! # Fork
//!
//! A child process inherits the records of threads that do not exist there. They stay open, and a node that
//! one of them held at the instant of the fork is held until the child ends: a thread of the child that
//! retires it leaves it there, so that it is never freed. That wastes at most the memory of one node for each such thread (with
//! its tree, manager and listener), and no record that is still used is ever mistaken for one of those.

#![cfg_attr(
    not(loom),
    expect(unsafe_code, reason = "says of a node that it may be freed")
)]

use std::ptr::{NonNull, null_mut};

#[cfg(not(loom))]
use crate::events;
use crate::sync::{AtomicPtr, Ordering, fence};

/// The node that one thread still needs, and one that was left with it.
#[derive(Debug)]
pub(super) struct Record<T> {
    /// The node that the thread holds, or null; written by the thread alone.
    held: AtomicPtr<T>,
    /// A node that another thread would have freed if this record had not held it, or null.
    left: AtomicPtr<T>,
}

impl<T> Record<T> {
    /// A record that holds `held`: null, but for one that can never hold anything.
    #[cfg(not(loom))]
    const fn holding(held: *mut T) -> Self {
        Self {
            held: AtomicPtr::new(held),
            left: AtomicPtr::new(null_mut()),
        }
    }

    /// Holds `this` until [`let_go`](Self::let_go); `false` if the record holds something already.
    /// By the record's thread.
    #[inline]
    pub(super) fn hold(&self, this: NonNull<T>) -> bool {
        // Relaxed: written by this thread alone.
        if !self.held.load(Ordering::Relaxed).is_null() {
            return false;
        }
        // Release: a scan that reads this instead of the node that was held before comes after what the
        // thread did with that one (invariant 3); the partner is the Acquire in `holds`.
        self.held.store(this.as_ptr(), Ordering::Release);
        true
    }

    /// Ends `hold`. Called by the record's thread, which must retire the node that this returns.
    #[inline]
    pub(super) fn let_go(&self) -> Option<NonNull<T>> {
        // Release: all that the thread did with the node comes before it is freed; the partner is
        // the Acquire in `retire`.
        self.held.store(null_mut(), Ordering::Release);
        // Relaxed: a hint for `take`.
        if self.left.load(Ordering::Relaxed).is_null() {
            return None;
        }
        self.take()
    }

    /// Empties the record for good, or for another thread. The caller must retire the node that this returns.
    pub(super) fn end(&self) -> Option<NonNull<T>> {
        // SeqCst: after `let_go`; the partner is the fence in `retire`.
        fence(Ordering::SeqCst);
        self.take()
    }

    #[cold]
    fn take(&self) -> Option<NonNull<T>> {
        // Acquire: partner of the Release in `leave`.
        NonNull::new(self.left.swap(null_mut(), Ordering::Acquire))
    }

    fn holds(&self, this: NonNull<T>) -> bool {
        // Acquire: partner of the Release in `let_go`: a scan that sees that the thread is done comes
        // after what it did.
        self.held.load(Ordering::Acquire) == this.as_ptr()
    }

    /// Leaves `this` with the record, and returns what was left there before.
    fn leave(&self, this: NonNull<T>) -> Option<NonNull<T>> {
        // Release and Acquire: partners of each other, and of the Acquire in `take`: the thread that frees
        // the node comes after us.
        NonNull::new(self.left.swap(this.as_ptr(), Ordering::AcqRel))
    }
}

/// Has `free` called for `this` once no record holds it: now, or by a thread that does.
pub(super) fn retire<'a, T: 'a, R>(
    this: NonNull<T>,
    records: impl Fn() -> R,
    free: impl Fn(NonNull<T>),
) where
    R: Iterator<Item = &'a Record<T>>,
{
    let mut waiting = Vec::new();
    let mut next = Some(this);
    while let Some(this) = next {
        match records().find(|record| record.holds(this)) {
            None => free(this),
            Some(record) => {
                waiting.extend(record.leave(this));
                // SeqCst: the partner is the fence in `end`.
                fence(Ordering::SeqCst);
                if !record.holds(this) {
                    // The thread was done meanwhile and may not have seen it.
                    waiting.extend(record.take());
                }
            }
        }
        next = waiting.pop();
    }
}

#[cfg(not(loom))]
use threads::is_holding;
#[cfg(not(loom))]
pub(super) use threads::{Hold, records};

/// Whether the thread is in a callback: of a listener, a subscriber, a waker, or a `Drop` that this crate calls.
#[cfg(not(loom))]
pub(crate) fn is_in_callback() -> bool {
    events::is_inside() || is_holding()
}

/// In models, where callbacks neither ask nor wait.
#[cfg(loom)]
pub(crate) fn is_in_callback() -> bool {
    false
}

/// Where the records of threads are.
#[cfg(not(loom))]
mod threads {
    use std::cell::Cell;
    use std::ptr::{NonNull, null_mut};

    use super::super::node::{Node, NodePtr};
    use super::Record;
    use crate::sync::Ordering;
    use crate::thread::{self, AtEnd, NUMBERS, NumberSet};

    /// A node that the calling thread's record holds until this is dropped.
    pub(in super::super) struct Hold(&'static Record<Node>);

    impl Hold {
        /// Holds the node; `None` if the thread's record holds another one (a release inside a
        /// callback), or the thread has no record: it is ending, or has no number.
        #[inline]
        pub(in super::super) fn on(node: NodePtr) -> Option<Self> {
            let record = RECORD.get();
            if record.hold(node.as_ptr()) {
                return Some(Self(record));
            }
            Self::on_first(node)
        }

        /// Does what `on` does, for a thread that perhaps has no record yet.
        #[cold]
        #[inline(never)]
        fn on_first(node: NodePtr) -> Option<Self> {
            if !std::ptr::eq(RECORD.get(), &raw const NONE) {
                return None;
            }
            let record = open()?;
            record.hold(node.as_ptr()).then_some(Self(record))
        }
    }

    /// Whether the calling thread holds a node: it tells a listener of a release.
    pub(super) fn is_holding() -> bool {
        let record = RECORD.get();
        // Relaxed: written by this thread alone.
        !std::ptr::eq(record, &raw const NONE) && !record.held.load(Ordering::Relaxed).is_null()
    }

    impl Drop for Hold {
        #[inline]
        fn drop(&mut self) {
            if let Some(left) = self.0.let_go() {
                // SAFETY: it was left with this record.
                unsafe { NodePtr::from_ptr(left).retire() };
            }
        }
    }

    /// Opens the record of the calling thread's number, before the thread holds anything in it.
    #[cold]
    fn open() -> Option<&'static Record<Node>> {
        let number = thread::number()?;
        if !thread::at_end(&CLOSE) {
            return None;
        }
        let record = &RECORDS[number].0;
        OPEN.insert(number);
        RECORD.set(record);
        Some(record)
    }

    /// Closes the record of a thread that ends. Only threads with a number have one.
    static CLOSE: AtEnd = AtEnd(|number| {
        RECORD.set(&NONE);
        let Some(number) = number else { return };
        if let Some(left) = RECORDS[number].0.end() {
            // SAFETY: it was left with this record.
            unsafe { NodePtr::from_ptr(left).retire() };
        }
        // After `end`: a scan that does not find the number comes after all that the thread did.
        OPEN.remove(number);
    });

    /// The open records. A scan costs a cache line for each thread that is alive and has told a listener of a
    /// release, and nothing for threads that have ended.
    pub(in super::super) fn records() -> impl Iterator<Item = &'static Record<Node>> {
        OPEN.iter().map(|number| &RECORDS[number].0)
    }

    /// A record alone on its pair of cache lines (they are prefetched in pairs): its thread writes to it
    /// at each release.
    #[repr(align(128))]
    struct Alone(Record<Node>);

    thread_local! {
        /// This thread's record, or `NONE`. Without a destructor, so that it is there to the very end.
        static RECORD: Cell<&'static Record<Node>> = const { Cell::new(&NONE) };
    }

    /// Stands for the record of a thread that has none: it can hold nothing, since it is taken for
    /// one that holds a node already, and is not among `records`.
    static NONE: Record<Node> = Record::holding(NonNull::dangling().as_ptr());

    /// The numbers whose records are open.
    static OPEN: NumberSet = NumberSet::new();

    /// One record for each number. They are zeros at first: 128 KiB of addresses, of which only those pages
    /// become memory that an open record lies in.
    static RECORDS: [Alone; NUMBERS] = [const { Alone(Record::holding(null_mut())) }; NUMBERS];
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use super::Hold;
    use crate::RootAllocator;
    use crate::testing::TrackingManager;

    /// Looks, as the thread ends, whether it still has a record.
    struct AtTheEnd(RootAllocator);

    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            assert!(Hold::on(self.0.handle.ptr()).is_none());
        }
    }

    thread_local! {
        static LAST: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
    }

    #[test]
    fn a_thread_holds_one_node_at_a_time_and_none_when_it_is_ending() {
        let thread = std::thread::spawn(|| {
            let root =
                RootAllocator::builder().allocation_manager(Arc::new(TrackingManager::new()));
            let root = root.build().unwrap();
            let node = root.handle.ptr();
            // Before the record, so that it is dropped after it.
            LAST.set(Some(AtTheEnd(root)));

            let first = Hold::on(node);
            assert!(first.is_some());
            assert!(Hold::on(node).is_none());
            drop(first);
            assert!(Hold::on(node).is_some());
        });
        thread.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod model;
