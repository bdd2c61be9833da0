//! Trees that are full, wakers that count, and executors that are made by hand.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::{
    AllocError, ArrowBufMut, BufferAllocator, RootAllocator, RootAllocatorBuilder, WaitError,
};
use arrow_memory_system as _;
use tokio::runtime::{Builder, Runtime};

/// Longer than any test takes.
pub(crate) const LONG: Duration = Duration::from_secs(50);

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

/// Runs a closure each time it is woken.
pub(crate) struct Calls(Mutex<Box<dyn FnMut() + Send>>);

impl Calls {
    pub(crate) fn waker(call: impl FnMut() + Send + 'static) -> Waker {
        Arc::new(Self(Mutex::new(Box::new(call)))).into()
    }
}

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap()();
    }
}

pub(crate) fn poll<F: Future + ?Sized>(
    future: &mut Pin<Box<F>>,
    woken: &Arc<Woken>,
) -> Poll<F::Output> {
    poll_with(future, &Waker::from(Arc::clone(woken)))
}

pub(crate) fn poll_with<F: Future + ?Sized>(
    future: &mut Pin<Box<F>>,
    waker: &Waker,
) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(waker))
}

/// Runs a future on this thread. It polls again and again, each time with a waker that it then drops, and
/// never sleeps.
pub(crate) fn poll_spuriously<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let began = Instant::now();
    loop {
        let waker = Waker::from(Arc::new(Woken::default()));
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        drop(waker);
        assert!(began.elapsed() < LONG, "too long");
        thread::yield_now();
    }
}

/// A root whose branch `held` is charged for all of the limit but for `free` bytes. The library's timer does not
/// look after it: its thread might be the one that wakes, at any time.
pub(crate) fn full(limit: usize, free: usize) -> (RootAllocator, ArrowBufMut) {
    let root = builder(limit).own_timer(true).build().unwrap();
    let held = hold(&root, limit - free);
    (root, held)
}

/// Such a root, all of it used, with the library's timer.
pub(crate) fn full_with_timer(limit: usize) -> (RootAllocator, ArrowBufMut) {
    let root = RootAllocator::new(limit);
    let held = hold(&root, limit);
    (root, held)
}

pub(crate) fn builder(limit: usize) -> RootAllocatorBuilder {
    RootAllocator::builder().limit(limit)
}

/// A buffer in a child of its own.
pub(crate) fn hold(root: &BufferAllocator, bytes: usize) -> ArrowBufMut {
    let held = root.child("held").build().unwrap();
    held.buffer(bytes).unwrap()
}

/// An executor with so many threads.
pub(crate) fn runtime(threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).build().unwrap()
}

pub(crate) fn until_waiting(root: &BufferAllocator, count: usize) {
    until(|| root.snapshot().waiters.len() == count);
}

pub(crate) fn until(mut reached: impl FnMut() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < LONG, "too long");
        thread::yield_now();
    }
}

/// Nothing is charged, nobody waits, and the sums are right.
pub(crate) fn assert_empty(root: &BufferAllocator) {
    root.verify().unwrap();
    let snapshot = root.snapshot();
    assert_eq!((root.allocated_memory(), snapshot.waiters.len()), (0, 0));
}

pub(crate) fn is_closed<T>(ended: &Result<T, WaitError>) -> bool {
    matches!(ended, Err(WaitError::Refused(AllocError::Closed { .. })))
}
