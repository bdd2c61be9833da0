//! All hooks for the end of a thread are called, in one thread that has all of them.

use std::alloc::Layout;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use arrow_memory_core::__private::{AtEnd, at_end};
use arrow_memory_core::testing::{Block, RecordingListener, TrackingManager};
use arrow_memory_core::{AllocationManager, CachingManager, RootAllocator};
use arrow_memory_jemalloc::JemallocManager;
use arrow_memory_mimalloc::MimallocManager;
use arrow_memory_system::SystemManager;

/// The number of calls of `HOOK`.
static TOLD: AtomicUsize = AtomicUsize::new(0);

static HOOK: AtEnd = AtEnd(|_number| {
    TOLD.fetch_add(1, Ordering::Relaxed);
});

#[test]
fn a_thread_that_uses_every_backend_has_room_for_one_more_that_wants_to_know_of_its_end() {
    let dedicated = JemallocManager::builder().dedicated_arena(true).build();
    let managers: [Arc<dyn AllocationManager>; 5] = [
        Arc::new(CachingManager::new(Arc::new(TrackingManager::new()))),
        Arc::new(JemallocManager::new()),
        Arc::new(dedicated.unwrap()),
        Arc::new(MimallocManager::new()),
        // The last one, since it keeps blocks for the process and not for a thread.
        Arc::new(SystemManager::default()),
    ];

    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            for manager in &managers {
                // Uses the caches of the manager, the slots of the library, and a release that a listener
                // hears.
                for size in [64, 64 * 1024] {
                    let layout = Layout::from_size_align(size, 64).unwrap();
                    drop(Block::untouched(&**manager, layout).unwrap());
                }
                let root = RootAllocator::builder()
                    .allocation_manager(Arc::clone(manager))
                    .listener(Arc::new(RecordingListener::new()))
                    .build()
                    .unwrap();
                drop(root.buffer(64 * 1024).unwrap());
                root.close().unwrap();
            }
            at_end(&HOOK)
        });
        assert!(thread.join().unwrap(), "there is room");
    });

    assert_eq!(TOLD.load(Ordering::Relaxed), 1);
    for manager in &managers[..4] {
        let stats = manager.stats();
        assert_eq!(stats.live_bytes.unwrap_or(0), 0, "{}", manager.name());
    }
    // The numbers of the other managers include pages that belong to no thread.
    assert_eq!(managers[0].stats().cached_bytes, Some(0));
}
