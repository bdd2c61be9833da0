//! A global allocator may release bytes anywhere: no foreign code runs there, and no lock is taken twice.

#![expect(unsafe_code, reason = "stands in for a global allocator")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Wake, Waker};
use std::thread::{self, ThreadId};

use arrow_memory_core::__private::heap::{Heap, Taken};
use arrow_memory_core::__private::sync::process::{Order, ProcessLock};
use arrow_memory_core::AllocationListener;
use arrow_memory_core::testing::TrackingManager;

use crate::heap::{Block, block};
use crate::support::{child, over, tracked};

/// Tells which thread drops or wakes it.
struct Teller(Sender<ThreadId>);

impl Drop for Teller {
    fn drop(&mut self) {
        let _ = self.0.send(thread::current().id());
    }
}

impl AllocationListener for Teller {}

impl Wake for Teller {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(thread::current().id());
    }
}

#[test]
fn the_last_block_of_a_tree_drops_no_listener_in_the_thread_that_frees_it() {
    let (send, receive) = channel();
    let builder = over(&Arc::new(TrackingManager::new())).limit(1 << 20);
    let root = builder.listener(Arc::new(Teller(send))).build().unwrap();
    let heap = Heap::open(&root).unwrap();
    let cache = block(&heap, 1000);
    drop((root, heap));

    drop(cache);

    assert_ne!(receive.recv().unwrap(), thread::current().id());
}

#[test]
fn a_block_that_is_freed_wakes_a_waiter_by_another_thread() {
    let (_, root) = tracked(1 << 20);
    let heap = Heap::open(&child(&root, "query")).unwrap();
    let most = block(&heap, 1 << 20);
    let (send, receive) = channel();
    let waker = Waker::from(Arc::new(Teller(send)));
    let mut buffer = pin!(root.wait().buffer_async(4096));
    assert!(
        buffer
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );

    drop(most);

    assert_ne!(receive.recv().unwrap(), thread::current().id());
    assert!(
        buffer
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    );
}

#[test]
fn under_a_lock_nothing_is_charged_and_what_is_freed_is_given_back_later() {
    static LOCK: ProcessLock<()> = ProcessLock::new(Order::Inner, ());
    let (_, root) = tracked(1 << 20);
    let heap = Heap::open(&root).unwrap();
    // Blocks of ended scopes are always given back under the mutex.
    let ended = Heap::open(&root).unwrap();
    let blocks: Vec<Block> = (600..620).map(|size| block(&ended, size)).collect();
    drop(ended);

    let locked = LOCK.lock();
    // SAFETY: the heap lives.
    assert_eq!(unsafe { heap.account().take_slowly(600) }, Taken::Ended);
    drop(blocks);
    drop(locked);
    drop(block(&heap, 600));

    // Another test's thread may be giving them back at this instant.
    while root.allocated_memory() > 0 {
        thread::yield_now();
    }
    root.verify().unwrap();
}
