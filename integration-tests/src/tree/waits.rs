//! Futures that wait for memory, polled by hand.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Context, Poll, Waker};
use std::time::{Duration, Instant};

use arrow_memory_core::{AllocationReservation, ArrowBufMut, BufferAllocator, Wait, WaitError};

use super::{Tree, fill, key, name, refusal};
use crate::model::Seen;
use crate::operation::{Ask, Key, Operation, Outcome, Refusal};

/// What a future is ready with.
enum Taken {
    Buffer(ArrowBufMut),
    Reservation(AllocationReservation),
    Grown,
    Child(BufferAllocator),
}

type Obtains = Pin<Box<dyn Future<Output = Result<Taken, WaitError>>>>;

/// A future that was not ready when it was polled last.
pub(super) struct Waiting {
    ask: Ask,
    future: Obtains,
    /// The wakers that it was polled with, the current one last.
    wakers: Vec<Arc<Woken>>,
    /// Where a buffer that grows is put back.
    returned: Returned,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting")
            .field("ask", &self.ask)
            .finish_non_exhaustive()
    }
}

/// Counts how often it was woken.
#[derive(Debug, Default)]
struct Woken(AtomicUsize);

impl task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        // Relaxed: one thread.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn count(&self) -> usize {
        // Relaxed: one thread.
        self.0.load(Ordering::Relaxed)
    }
}

type Returned = Rc<Cell<Option<ArrowBufMut>>>;

/// Puts a buffer back when the future that has it ends, or is dropped.
struct Lent {
    buffer: Option<ArrowBufMut>,
    to: Returned,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.to.set(self.buffer.take());
    }
}

impl Waiting {
    /// Polls the future with a new waker.
    fn poll(&mut self) -> Poll<Result<Taken, WaitError>> {
        let woken = Arc::new(Woken::default());
        self.wakers.push(Arc::clone(&woken));
        let waker = Waker::from(woken);
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Whether the wait is over. Only the waker of the latest poll is woken, and once.
    fn is_woken(&self) -> bool {
        let (current, earlier) = self.wakers.split_last().expect("it was polled");
        assert!(current.count() <= 1, "woken twice");
        current.count() == 1 || earlier.iter().any(|it| it.count() > 0)
    }

    /// Whether a waker was woken that was replaced by then. `ended`: the wait was over when the future was
    /// polled last.
    fn check_wakers(&self) {
        let (_, earlier) = self.wakers.split_last().expect("it was polled");
        assert!(
            earlier.iter().all(|it| it.count() == 0),
            "an old waker was woken"
        );
    }
}

impl Tree {
    /// The futures whose wait is over.
    pub fn ended(&self) -> Vec<Key> {
        for waiting in self.waits.values() {
            waiting.check_wakers();
        }
        let woken = self.waits.iter().filter(|(_, it)| it.is_woken());
        woken.map(|(&key, _)| key).collect()
    }

    /// The requests that wait, the oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        let Some(root) = self.allocators.values().next() else {
            return Vec::new();
        };
        let waiters = root.snapshot().waiters;
        let seen = waiters.iter().map(|it| Seen {
            allocator: key(&it.allocator),
            lacks_room: key(&it.lacks_room),
            bytes: it.bytes,
            admission: it.admission,
            withholds: it.withholds,
        });
        seen.collect()
    }

    pub(super) fn step_of_wait(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
        match *operation {
            Operation::Wait {
                wait,
                ask,
                deadline,
            } => {
                let waiting = self.begin(ask, deadline);
                self.poll(wait, waiting)
            }
            Operation::Poll { wait } => {
                let waiting = self.waits.remove(&wait).expect("the future is there");
                self.poll(wait, waiting)
            }
            Operation::Cancel { wait } => {
                let waiting = self.waits.remove(&wait).expect("the future is there");
                self.put_back(waiting);
                Ok(Outcome::Done)
            }
            Operation::Expire { now } => {
                let now = self.time(now);
                let root = self.allocators.values().next().expect("there is a root");
                root.expire_waits(now);
                Ok(Outcome::Done)
            }
            ref other => unreachable!("{other:?} is of another kind"),
        }
    }

    /// An instant that no clock reaches while a test runs.
    fn time(&self, at: u32) -> Instant {
        self.began + Duration::from_secs(1 << 30) + Duration::from_millis(u64::from(at))
    }

    fn begin(&mut self, ask: Ask, deadline: Option<u32>) -> Waiting {
        let deadline = deadline.map(|at| self.time(at));
        let returned = Returned::default();
        let future: Obtains = match ask {
            Ask::Buffer {
                allocator, size, ..
            } => {
                let future = wait(self.allocator(allocator), deadline).buffer_async(size);
                Box::pin(async { future.await.map(Taken::Buffer) })
            }
            Ask::Reservation {
                allocator, bytes, ..
            } => {
                let future = wait(self.allocator(allocator), deadline).reserve_async(bytes);
                Box::pin(async { future.await.map(Taken::Reservation) })
            }
            Ask::Growth { buffer, additional } => {
                let buffer = self.buffers.remove(&buffer).expect("the buffer is alive");
                let allocator = buffer.allocator().clone();
                let buffer = buffer.try_into_mut().expect("the buffer is the only one");
                let to = Rc::clone(&returned);
                let mut lent = Lent {
                    buffer: Some(buffer),
                    to,
                };
                Box::pin(async move {
                    let buffer = lent.buffer.as_mut().expect("it was just put there");
                    let wait = wait(&allocator, deadline);
                    wait.grow_async(buffer, additional).await?;
                    Ok(Taken::Grown)
                })
            }
            Ask::Child {
                allocator,
                parent,
                reservation,
                limit,
            } => {
                let admission = self.allocator(parent).admit(&name(allocator));
                let admission = admission.reservation(reservation).limit(limit);
                let admission = match deadline {
                    Some(at) => admission.until(at),
                    None => admission,
                };
                let future = admission.into_future();
                Box::pin(async { future.await.map(Taken::Child) })
            }
        };
        Waiting {
            ask,
            future,
            wakers: Vec::new(),
            returned,
        }
    }

    fn poll(&mut self, wait: Key, mut waiting: Waiting) -> Result<Outcome, Refusal> {
        let ready = match waiting.poll() {
            Poll::Pending => {
                self.waits.insert(wait, waiting);
                return Ok(Outcome::Pending);
            }
            Poll::Ready(ready) => ready,
        };
        let ask = waiting.ask;
        self.put_back(waiting);
        match ready {
            Ok(taken) => Ok(self.keep(ask, taken)),
            Err(WaitError::Refused(error)) => Err(refusal(&error)),
            Err(WaitError::TimedOut(waited)) => Err(refusal(&waited.error)),
            Err(other) => panic!("no wait can end like this: {other}"),
        }
    }

    /// Drops a future. The buffer that it had is as it was, or has grown.
    fn put_back(&mut self, waiting: Waiting) {
        let Waiting {
            ask,
            future,
            returned,
            ..
        } = waiting;
        drop(future);
        if let (Ask::Growth { buffer, .. }, Some(mut returned)) = (ask, returned.take()) {
            fill(&mut returned);
            self.buffers.insert(buffer, returned.freeze());
        }
    }

    fn keep(&mut self, ask: Ask, taken: Taken) -> Outcome {
        match (ask, taken) {
            (Ask::Buffer { buffer, .. }, Taken::Buffer(mut new)) => {
                fill(&mut new);
                let new = new.freeze();
                let (capacity, references) = (new.len(), new.ref_count());
                self.buffers.insert(buffer, new);
                Outcome::Allocated {
                    capacity,
                    references,
                }
            }
            (Ask::Reservation { reservation, .. }, Taken::Reservation(new)) => {
                self.reservations.insert(reservation, new);
                Outcome::Done
            }
            (Ask::Growth { buffer, .. }, Taken::Grown) => Outcome::Grown {
                capacity: self.buffers[&buffer].len(),
            },
            (Ask::Child { allocator, .. }, Taken::Child(new)) => {
                self.allocators.insert(allocator, new);
                Outcome::Done
            }
            (ask, _) => unreachable!("{ask:?} gives something else"),
        }
    }
}

fn wait(allocator: &BufferAllocator, deadline: Option<Instant>) -> Wait<'_> {
    let wait = allocator.wait();
    match deadline {
        Some(at) => wait.until(at),
        None => wait,
    }
}
