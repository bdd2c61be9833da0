//! Requests that wait.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow_memory_core::{ArrowBufMut, BufferAllocator, Wait, WaitError};

use crate::hooks::waker;
use crate::plan::pause;
use crate::state::{Charges, Opaque, State};
use crate::sweep::{Operation, op};
use crate::world::{World, done};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("Wait::buffer", |w| {
        w.act(&mut (), |()| w.leaf.wait().buffer(5000));
    }),
    op("Wait::buffer when memory is short", |w| {
        w.fill_cache();
        w.act(&mut (), |()| brief(w).buffer(5000));
    }),
    op("Wait::reserve", |w| {
        w.fill_cache();
        w.act(&mut (), |()| brief(w).reserve(5000));
    }),
    op("Wait::add", |w| {
        let mut reservation = w.leaf.new_reservation();
        w.fill_cache();
        w.act(&mut reservation, |it| brief(w).add(it, 5000));
    }),
    op("Wait::grow", |w| {
        let mut buffer = w.leaf.buffer_zeroed(100).unwrap();
        w.act(&mut buffer, |it| w.leaf.wait().grow(it, 5000));
    }),
    op("Wait::grow when memory is short", |w| {
        let mut buffer = w.leaf.buffer_zeroed(100).unwrap();
        w.fill_cache();
        w.act(&mut buffer, |it| brief(w).grow(it, 5000));
    }),
    op("Wait::buffer_async", |w| {
        waits(w, |leaf| Box::pin(leaf.wait().buffer_async(5000)));
    }),
    op("Wait::buffer_async that is granted at once", |w| {
        w.act(&mut (), |()| poll_once(w.leaf.wait().buffer_async(5000)));
    }),
    op("Wait::reserve_async", |w| {
        waits(w, |leaf| Box::pin(leaf.wait().reserve_async(5000)));
    }),
    op("Wait::add_async", |w| {
        let reservation = w.leaf.new_reservation();
        let held = w.fill();
        w.act_consuming(&mut (reservation, Some(held)), |(reservation, held)| {
            let mut future = Box::pin(w.leaf.wait().add_async(reservation, 5000));
            let first = poll(&mut future);
            drop(held.take());
            first.unwrap_or_else(|| poll(&mut future).expect("there is room"))
        });
    }),
    op("Wait::grow_async", |w| {
        let buffer = w.leaf.buffer_zeroed(100).unwrap();
        let held = w.fill();
        w.act_consuming(&mut (buffer, Some(held)), |(buffer, held)| {
            let mut future = Box::pin(w.leaf.wait().grow_async(buffer, 5000));
            let first = poll(&mut future);
            drop(held.take());
            first.unwrap_or_else(|| poll(&mut future).expect("there is room"))
        });
    }),
    op("Admission::blocking", |w| {
        w.act(&mut (), |()| {
            let admission = w.right.admit("query").reservation(5000);
            admission.blocking(BRIEF)
        });
    }),
    op("Admission::blocking when memory is short", |w| {
        w.fill_cache();
        w.act(&mut (), |()| {
            let admission = w.right.admit("query").reservation(5000);
            admission.blocking(BRIEF)
        });
    }),
    op("Admission::into_future", |w| {
        waits(w, |leaf| {
            Box::pin(leaf.admit("query").reservation(5000).into_future())
        });
    }),
    op("Wait::buffer_async, whose future is polled", |w| {
        let held = w.fill();
        let future = Box::pin(w.leaf.wait().buffer_async(5000));
        w.act(&mut Opaque(future), |it| done(poll(&mut it.0).is_none()));
        drop(held);
    }),
    op("Wait::buffer_async, whose future is polled again", |w| {
        let held = w.fill();
        let mut future = Box::pin(w.leaf.wait().buffer_async(5000));
        assert!(poll(&mut future).is_none());
        w.act(&mut Opaque(future), |it| done(poll(&mut it.0).is_none()));
        drop(held);
    }),
    op("Wait::buffer_async, whose future is dropped", |w| {
        let held = w.fill();
        let mut future = Box::pin(w.leaf.wait().buffer_async(5000));
        assert!(poll(&mut future).is_none());
        w.act_quietly(&mut Opaque(Some(future)), |it| drop(it.0.take()));
        drop(held);
    }),
    op("ArrowBufMut::drop that wakes", |w| {
        let held = w.fill();
        let mut future = Box::pin(w.leaf.wait().buffer_async(5000));
        assert!(poll(&mut future).is_none());
        w.act_quietly(&mut Grants(Some(held), 0), |it| {
            drop(it.0.take());
            it.1 = 5056;
        });
        assert!(poll(&mut future).is_some_and(|it| it.is_ok()));
    }),
    op("BufferAllocator::set_limit that wakes", |w| {
        let held = w.fill();
        let mut future = Box::pin(w.leaf.wait().buffer_async(5000));
        assert!(poll(&mut future).is_none());
        w.act_contained(&mut Grants(Some(held), 0), |it| {
            w.root.set_limit(2 * crate::world::LIMIT);
            it.1 = 5056;
            done(())
        });
        assert!(poll(&mut future).is_some_and(|it| it.is_ok()));
    }),
    op("BufferAllocator::close that wakes", |w| {
        let held = w.fill();
        let mut child = w.leaf.child("child").build().unwrap();
        let mut future = Box::pin(child.wait().buffer_async(5000));
        assert!(poll(&mut future).is_none());
        w.act(&mut child, |it| done(it.retire()));
        assert!(poll(&mut future).is_some_and(|it| it.is_err()));
        drop(held);
    }),
    op("BufferAllocator::expire_waits", |w| {
        let held = w.fill();
        let wait = w.leaf.wait().at_most(Duration::from_millis(1));
        let mut future = Box::pin(wait.buffer_async(5000));
        assert!(poll(&mut future).is_none());
        let later = Instant::now() + Duration::from_secs(1);
        w.act_contained(&mut (), |()| done(w.root.expire_waits(later).is_none()));
        let ended = poll(&mut future).expect("its time is over");
        assert!(matches!(ended, Err(WaitError::TimedOut(_))), "{ended:?}");
        drop(held);
    }),
];

/// How long a thread waits for memory that nobody releases, since the reclaimer panicked.
const BRIEF: Duration = Duration::from_millis(20);

fn brief(w: &World) -> Wait<'_> {
    w.leaf.wait().at_most(BRIEF)
}

/// What holds the memory, and what a waiter is charged for once it is released.
struct Grants(Option<ArrowBufMut>, usize);

impl State for Grants {
    fn charges(&self, charges: &mut Charges) {
        self.0.charges(charges);
        charges.add_bytes(self.1);
    }
}

type Requests<T> = Pin<Box<dyn Future<Output = Result<T, WaitError>>>>;

/// A request waits until a buffer is dropped, and is then granted.
fn waits<T: State + 'static>(w: &World, request: fn(&BufferAllocator) -> Requests<T>) {
    let mut held = Some(w.fill());
    w.act_consuming(&mut held, |held| {
        let mut future = request(&w.leaf);
        let first = poll(&mut future);
        drop(held.take());
        first.unwrap_or_else(|| poll(&mut future).expect("there is room"))
    });
}

fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
    let waker = waker();
    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
    // Where the library has dropped its clone, this is the last one.
    pause(|| drop(waker));
    match polled {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn poll_once<F: Future>(future: F) -> F::Output {
    poll(&mut Box::pin(future)).expect("it is granted at once")
}
