//! The set-up that most tests share.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{ArrowBuf, BufferAllocator, RootAllocator, RootAllocatorBuilder};

/// A root over a manager that tracks every block.
pub(crate) fn tracked(limit: usize) -> (Arc<TrackingManager>, BufferAllocator) {
    let manager = Arc::new(TrackingManager::new());
    let root = over(&manager).limit(limit).build().unwrap();
    (manager, root.into())
}

/// The builder of such a root, for further settings.
pub(crate) fn over(manager: &Arc<TrackingManager>) -> RootAllocatorBuilder {
    RootAllocator::builder().allocation_manager(manager.clone())
}

/// A root with a limit, whose peaks are exact.
pub(crate) fn exact(limit: usize) -> BufferAllocator {
    let builder = over(&Arc::new(TrackingManager::new())).credit(0);
    builder.limit(limit).build().unwrap().into()
}

pub(crate) fn child(parent: &BufferAllocator, name: &str) -> BufferAllocator {
    parent.child(name).build().unwrap()
}

/// A buffer of `size` ones.
pub(crate) fn ones(allocator: &BufferAllocator, size: usize) -> ArrowBuf {
    allocator.buffer_from_slice(&vec![1; size]).unwrap()
}

/// The allocated bytes of each allocator.
pub(crate) fn allocated<const N: usize>(allocators: [&BufferAllocator; N]) -> [usize; N] {
    allocators.map(BufferAllocator::allocated_memory)
}

/// Counts how often it is woken.
#[derive(Default)]
pub(crate) struct Woken(AtomicUsize);

impl Woken {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls with a waker that counts.
pub(crate) fn poll<F: Future + ?Sized>(future: Pin<&mut F>, woken: &Arc<Woken>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(woken));
    future.poll(&mut Context::from_waker(&waker))
}
