//! Keeps a node in memory for a thread that gave its bytes back and has yet to tell a listener.
//!
//! The listener hears of a release when the bytes are free again, and from then on nothing of the
//! thread's keeps the node. A pin would, for two read-modify-writes. Instead each thread has a
//! *record*, and writes there, with a plain store, which node it still needs; whoever frees a node
//! that has a listener reads all records first. Freeing such a node is rare, releasing is not.
//!
//! # Invariants
//!
//! 1. A thread holds a node in its record *before* it gives up what keeps it, by a Release (`give`)
//!    that whoever frees the node has acquired (see the essay in `accounting`). So the one who
//!    frees finds it there, or finds a later value, which the thread stored when it was done.
//! 2. A node that is retired is in nobody's reach but of the records that hold it: no record comes
//!    to hold it afterwards.
//! 3. A retired node is freed once, by whoever finds it in no record; until then it is in the hands
//!    of one thread, or *left* with a record that held it. What is left there is retired anew by
//!    the record's thread when it is done, or by the next one who leaves something there.
//!
//! The thread may miss what is left just when it is done, since its two accesses, of different
//! variables, may appear in another order to others: then it finds it at its next release, or when
//! it ends. There a fence, the partner of the one in `retire`, sees to it that one of the two finds
//! it. So at most one node for each thread waits for longer than it is needed.

#![cfg_attr(
    any(not(loom), test),
    expect(unsafe_code, reason = "says of a node that it may be freed")
)]

use std::ptr::{NonNull, null_mut};

use crate::sync::{AtomicPtr, Ordering, fence};

/// What one thread still needs, and what was left with it.
#[derive(Debug)]
pub(super) struct Record<T> {
    /// What the thread holds, or null; written by the thread alone.
    held: AtomicPtr<T>,
    /// What another thread would have freed but for that, or null.
    left: AtomicPtr<T>,
}

impl<T> Record<T> {
    pub(super) fn new() -> Self {
        Self {
            held: AtomicPtr::new(null_mut()),
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
        // Relaxed: the Release by which the thread gives the node up comes after it (invariant 1).
        self.held.store(this.as_ptr(), Ordering::Relaxed);
        true
    }

    /// Ends `hold`. What it returns must be retired. By the record's thread.
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

    /// Empties the record for good, or for another thread. What it returns must be retired.
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
        // Acquire: partner of the Release in `let_go`: who sees that the thread is done comes after
        // what it did.
        self.held.load(Ordering::Acquire) == this.as_ptr()
    }

    /// Leaves `this` with the record, and returns what was left there before.
    fn leave(&self, this: NonNull<T>) -> Option<NonNull<T>> {
        // Release and Acquire: partners of each other, and of the Acquire in `take`: who frees the
        // node comes after us.
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
pub(super) use threads::{Hold, records};

/// Where the records of threads are.
#[cfg(not(loom))]
mod threads {
    use std::cell::Cell;
    use std::ptr::{NonNull, null_mut};
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicBool;

    use super::super::node::{Node, NodePtr};
    use super::Record;
    use crate::sync::process::Order;
    use crate::sync::{AtomicPtr, Ordering, ProcessLock};

    /// A node that the calling thread's record holds until this is dropped.
    pub(in super::super) struct Hold(&'static Record<Node>);

    impl Hold {
        /// Holds the node; `None` if the thread's record holds another one (a release inside a
        /// callback), or the thread is ending.
        #[inline]
        pub(in super::super) fn on(node: NodePtr) -> Option<Self> {
            let record = RECORD.get();
            if record.hold(node.as_ptr()) {
                return Some(Self(record));
            }
            Self::on_first(node)
        }

        /// As `on`, for a thread that perhaps has no record yet.
        #[cold]
        #[inline(never)]
        fn on_first(node: NodePtr) -> Option<Self> {
            if !std::ptr::eq(RECORD.get(), &raw const NONE) {
                return None;
            }
            let record = claim()?;
            record.hold(node.as_ptr()).then_some(Self(record))
        }
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

    /// A record for one thread at a time. Records are never freed: there are as many as threads ever
    /// had one at once. Their threads write to them at each release, so no two share a pair of cache
    /// lines.
    #[repr(align(128))]
    struct Entry {
        record: Record<Node>,
        taken: AtomicBool,
        /// The one that was made before.
        next: Option<&'static Entry>,
    }

    /// All records that there ever were.
    pub(in super::super) fn records() -> impl Iterator<Item = &'static Record<Node>> {
        entries().map(|entry| &entry.record)
    }

    fn entries() -> impl Iterator<Item = &'static Entry> {
        std::iter::successors(*NEWEST.lock(), |entry| entry.next)
    }

    #[cold]
    fn claim() -> Option<&'static Record<Node>> {
        let entry = LEASE.try_with(|lease| *lease.0.get_or_init(entry)).ok()?;
        RECORD.set(&entry.record);
        Some(&entry.record)
    }

    /// An entry that no other thread has.
    fn entry() -> &'static Entry {
        let idle = entries().find(|entry| {
            // Acquire: partner of the Release in `Lease::drop`. Relaxed: a look before that.
            !entry.taken.load(Ordering::Relaxed) && !entry.taken.swap(true, Ordering::Acquire)
        });
        idle.unwrap_or_else(|| {
            let entry = Box::leak(Box::new(Entry {
                record: Record::new(),
                taken: AtomicBool::new(true),
                next: None,
            }));
            let mut newest = NEWEST.lock();
            entry.next = *newest;
            let entry: &'static Entry = entry;
            *newest = Some(entry);
            entry
        })
    }

    /// A thread's hold on its entry; dropped with the thread's locals.
    struct Lease(OnceLock<&'static Entry>);

    impl Drop for Lease {
        fn drop(&mut self) {
            RECORD.set(&NONE);
            let Some(entry) = self.0.get() else { return };
            if let Some(left) = entry.record.end() {
                // SAFETY: it was left with this record.
                unsafe { NodePtr::from_ptr(left).retire() };
            }
            // Release: partner of the Acquire in `entry`.
            entry.taken.store(false, Ordering::Release);
        }
    }

    thread_local! {
        /// This thread's record, or `NONE`. Without a destructor, so that it is there to the very end.
        static RECORD: Cell<&'static Record<Node>> = const { Cell::new(&NONE) };
        /// What gives it back.
        static LEASE: Lease = const { Lease(OnceLock::new()) };
    }

    /// Stands for the record of a thread that has none: it can hold nothing, since it is taken for
    /// one that holds a node already, and is not among `records`.
    static NONE: Record<Node> = Record {
        held: AtomicPtr::new(NonNull::dangling().as_ptr()),
        left: AtomicPtr::new(null_mut()),
    };

    /// The entry that was made last.
    static NEWEST: ProcessLock<Option<&'static Entry>> = ProcessLock::new(Order::Inner, None);
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
mod model {
    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    use super::*;

    /// Stands for a node: credit that is given back, and memory that is read and then freed. Leaked
    /// at the end, so that a model may look at it.
    struct Object {
        given: AtomicUsize,
        freed: UnsafeCell<usize>,
    }

    // SAFETY: that nobody reads while another one writes is what the model checks.
    unsafe impl Sync for Object {}

    impl Object {
        fn new() -> Self {
            Self {
                given: AtomicUsize::new(0),
                freed: UnsafeCell::new(0),
            }
        }

        fn read(&self) -> usize {
            // SAFETY: loom says if another thread writes.
            self.freed.with(|freed| unsafe { *freed })
        }

        fn free(&self) {
            // SAFETY: loom says if another thread reads or writes.
            self.freed.with_mut(|freed| unsafe { *freed += 1 });
        }
    }

    struct World {
        object: Object,
        records: Vec<Record<Object>>,
    }

    impl World {
        fn new(threads: usize) -> Arc<Self> {
            Arc::new(Self {
                object: Object::new(),
                records: (0..threads).map(|_| Record::new()).collect(),
            })
        }

        fn retire(&self, object: NonNull<Object>) {
            retire(
                object,
                || self.records.iter(),
                // SAFETY: the world, and the object with it, is alive.
                |object| unsafe { object.as_ref() }.free(),
            );
        }

        /// Gives one of the object's bytes back, tells a listener, and ends.
        fn release(&self, thread: usize) {
            let (record, object) = (&self.records[thread], NonNull::from(&self.object));
            assert!(record.hold(object));
            // Release: as `Word::give`.
            self.object.given.fetch_add(1, Ordering::Release);
            assert_eq!(
                self.object.read(),
                0,
                "it was freed before the listener was told"
            );
            if let Some(left) = record.let_go() {
                self.retire(left);
            }
            if let Some(left) = record.end() {
                self.retire(left);
            }
        }

        /// Frees the object if all its bytes were given back.
        fn free_if(&self, given: usize) -> bool {
            // Acquire: as `Word::shut_down`.
            if self.object.given.load(Ordering::Acquire) < given {
                return false;
            }
            self.retire(NonNull::from(&self.object));
            true
        }
    }

    #[test]
    fn a_node_is_freed_once_and_not_before_its_listener_was_told() {
        loom::model(|| {
            let world = World::new(1);
            let other = Arc::clone(&world);
            let thread = thread::spawn(move || other.release(0));

            let freed = world.free_if(1);

            thread.join().unwrap();
            assert_eq!(world.object.read(), usize::from(freed));
        });
    }

    #[test]
    fn a_node_that_two_threads_hold_is_freed_by_the_last() {
        loom::model(|| {
            let world = World::new(2);
            let others = [0, 1].map(|thread| {
                let other = Arc::clone(&world);
                thread::spawn(move || other.release(thread))
            });

            let freed = world.free_if(2);

            for other in others {
                other.join().unwrap();
            }
            assert_eq!(world.object.read(), usize::from(freed));
        });
    }
}
