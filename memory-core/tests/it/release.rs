//! Listeners that hear of a release: their allocator stays alive until they return.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow_memory_system as _;

use arrow_memory_core::{AllocationListener, AllocatorInfo, BufferAllocator, RootAllocator};

/// Drops its handle of the allocator when it hears of a release, and then reads the allocator's name.
#[derive(Default)]
struct LetsGo {
    handle: Mutex<Option<BufferAllocator>>,
    heard: Mutex<Vec<String>>,
}

impl AllocationListener for LetsGo {
    fn on_release(&self, at: &AllocatorInfo, size: usize) {
        drop(self.handle.lock().unwrap().take());
        self.heard.lock().unwrap().push(format!("{at} {size}"));
    }
}

#[test]
fn a_listener_may_drop_the_last_handle_when_it_hears_of_a_release() {
    let listener = Arc::new(LetsGo::default());
    let root = RootAllocator::builder()
        .name("brief")
        .limit(1 << 20)
        .listener(Arc::clone(&listener) as Arc<dyn AllocationListener>)
        .build()
        .unwrap();
    let buffer = root.buffer(100).unwrap();
    *listener.handle.lock().unwrap() = Some(root.into());

    drop(buffer);

    assert_eq!(*listener.heard.lock().unwrap(), ["brief 128"]);
    // The tree was freed, with its reference to the listener.
    assert_eq!(Arc::strong_count(&listener), 1);
}

#[test]
fn a_release_inside_a_release_is_heard_too() {
    struct Nested {
        inner: Mutex<Option<arrow_memory_core::ArrowBuf>>,
        heard: AtomicUsize,
    }
    impl AllocationListener for Nested {
        fn on_release(&self, _at: &AllocatorInfo, size: usize) {
            let inner = self.inner.lock().unwrap().take();
            drop(inner);
            self.heard.fetch_add(size, Ordering::Relaxed);
        }
    }
    let listener = Arc::new(Nested {
        inner: Mutex::new(None),
        heard: AtomicUsize::new(0),
    });
    let root = RootAllocator::builder()
        .listener(Arc::clone(&listener) as Arc<dyn AllocationListener>)
        .build()
        .unwrap();
    let child = root.child("inner").build().unwrap();
    *listener.inner.lock().unwrap() = Some(child.buffer(64).unwrap().freeze());
    let outer = root.buffer(128).unwrap();
    drop(child);

    drop(outer);

    assert_eq!(listener.heard.load(Ordering::Relaxed), 192);
    assert_eq!(root.allocated_memory(), 0);
}

/// Reads the allocator's name while other threads may be freeing the tree.
struct Reads(AtomicUsize);

impl AllocationListener for Reads {
    fn on_release(&self, at: &AllocatorInfo, _size: usize) {
        for _ in 0..50 {
            self.0.fetch_add(at.name.len(), Ordering::Relaxed);
        }
    }
}

#[test]
fn trees_that_go_while_several_threads_release_go_once_and_not_too_early() {
    let rounds = if cfg!(miri) { 5 } else { 2_000 };
    let listener = Arc::new(Reads(AtomicUsize::new(0)));
    for _ in 0..rounds {
        let root = RootAllocator::builder()
            .name("four")
            .listener(Arc::clone(&listener) as Arc<dyn AllocationListener>)
            .build()
            .unwrap();
        let buffers: Vec<_> = (0..3).map(|_| root.buffer(64).unwrap().freeze()).collect();

        let mut threads: Vec<_> = buffers
            .into_iter()
            .map(|buffer| std::thread::spawn(move || drop(buffer)))
            .collect();
        threads.push(std::thread::spawn(move || drop(root)));
        // Joined one by one, which also waits for their thread-locals.
        for thread in threads {
            thread.join().unwrap();
        }
    }

    assert_eq!(listener.0.load(Ordering::Relaxed), rounds * 3 * 50 * 4);
    // No tree is left after the threads have ended.
    assert_eq!(Arc::strong_count(&listener), 1);
}

#[test]
fn listeners_that_panic_when_they_are_dropped_keep_nobody_from_being_freed() {
    struct Hostile(Arc<AtomicUsize>);
    impl AllocationListener for Hostile {}
    impl Drop for Hostile {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            panic!("as it likes");
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let root = RootAllocator::builder().build().unwrap();
    let outer = root
        .child("outer")
        .listener(Arc::new(Hostile(Arc::clone(&dropped))))
        .build()
        .unwrap();
    let inner = outer
        .child("inner")
        .listener(Arc::new(Hostile(Arc::clone(&dropped))))
        .build()
        .unwrap();
    let buffer = inner.buffer(64).unwrap();
    drop((outer, inner));

    // Both allocators leave the tree in one step.
    drop(buffer);

    assert_eq!(dropped.load(Ordering::Relaxed), 2);
    assert!(root.child_allocators().is_empty());
    root.close().unwrap();
}
