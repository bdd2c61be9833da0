//! Uses the library in the destructors of thread-locals, before and after its own are destroyed.

use std::cell::Cell;
use std::sync::Arc;
use std::thread;

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{
    AllocationListener, AllocatorInfo, CachingManager, ForeignAllocation, RootAllocator,
};

/// A listener that hears every release, for which threads need their records.
struct Hears;

impl AllocationListener for Hears {
    fn on_release(&self, _allocator: &AllocatorInfo, _bytes: usize) {}
}

/// Uses an allocator in every way when the thread-local is destroyed.
struct Last(RootAllocator);

impl Drop for Last {
    fn drop(&mut self) {
        let root = &self.0;
        // More slots than the pool moves at once.
        let buffers = (0..600).map(|size| root.buffer(64 + size).unwrap().freeze());
        let buffers: Vec<_> = buffers.collect();
        let child = root.child("end").build().unwrap();
        let retained = buffers[0].retain_in(&child).unwrap();
        drop(child);
        drop(retained);
        let foreign = ForeignAllocation::from_owner(vec![1; 100]);
        drop(root.wrap_foreign_allocation(foreign).unwrap());
        (0..3).for_each(|_| drop(root.buffer(100_000).unwrap()));
        drop(buffers);
        assert_eq!(root.allocated_memory(), 0);
    }
}

#[test]
fn allocators_may_be_used_in_thread_locals_that_are_dropped_before_and_after_the_librarys_own() {
    thread_local! {
        static BEFORE: Cell<Option<Last>> = const { Cell::new(None) };
        static AFTER: Cell<Option<Last>> = const { Cell::new(None) };
    }
    let tracking = Arc::new(TrackingManager::new());
    let caching = Arc::new(CachingManager::new(tracking.clone()));
    for round in 0..20 {
        let root = || {
            let builder = RootAllocator::builder().allocation_manager(caching.clone());
            let builder = match round % 2 {
                0 => builder.listener(Arc::new(Hears)),
                _ => builder,
            };
            builder.build().unwrap()
        };
        thread::scope(|scope| {
            let threads = (0..4).map(|_| {
                let (first, second) = (root(), root());
                scope.spawn(move || {
                    BEFORE.set(Some(Last(first)));
                    drop(second.buffer(100).unwrap());
                    drop(second.buffer(100_000).unwrap());
                    AFTER.set(Some(Last(second)));
                })
            });
            // A scope does not wait for the destructors of thread-locals.
            for thread in threads.collect::<Vec<_>>() {
                thread.join().unwrap();
            }
        });
    }

    drop(caching);
    tracking.assert_clean();
}
