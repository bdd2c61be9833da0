//! The operations of `memory-global`: scopes, and the program's allocator, which attributes.
#![expect(unsafe_code, reason = "implements the global allocator's unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::ptr::null_mut;
use std::task::{Context, Poll, Waker};

use allocator_api2::alloc::Global;
use allocator_api2::boxed::Box as Boxed;
use arrow_memory_arrow::deps::arrow_buffer::Buffer;
use arrow_memory_arrow::{Accounted, HandOver, MemoryError};
use arrow_memory_global::{Attributed, InScope, Scope, ScopeExt};

use crate::plan::{Mode, Point, fails, is_armed, panics};
use crate::state::{Charged, Charges, Opaque, State, digest};
use crate::sweep::{Operation, op};
use crate::world::done;

#[global_allocator]
static GLOBAL: Attributed<Faulty> = Attributed::new(Faulty);

/// The system's allocator, which fails where the plan says so, and the thread allows for it.
pub(crate) struct Faulty;

thread_local! {
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

fn is_failing() -> bool {
    MAY_FAIL.get() && is_armed(Mode::Fail) && fails(Point::Heap)
}

// SAFETY: it forwards calls to the system's allocator, which keeps the contract, or returns null.
unsafe impl GlobalAlloc for Faulty {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_failing() {
            return null_mut();
        }
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_failing() {
            return null_mut();
        }
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if is_failing() {
            return null_mut();
        }
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

/// Runs a part whose allocations may fail.
fn fallible<T>(part: impl FnOnce() -> T) -> T {
    MAY_FAIL.set(true);
    let result = part();
    MAY_FAIL.set(false);
    result
}

pub(crate) const OPERATIONS: &[Operation] = &[
    op("Scope::new", |w| {
        w.act(&mut (), |()| Scope::new(&w.leaf).map(Opaque));
    }),
    op("Scope::drop", |w| {
        let scope = Scope::new(&w.leaf).ok();
        w.act_quietly(&mut Opaque(scope), |it| drop(it.0.take()));
    }),
    op("Scope::run", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        w.act(&mut Within, |_| {
            done(scope.run(|| {
                panics(Point::Body);
                // Charged to the scope, and given back.
                drop(vec![7_u8; 5000]);
                panics(Point::Body);
            }))
        });
    }),
    op("Scope::suspend", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        w.act(&mut Within, |_| {
            done(scope.run(|| Scope::suspend(|| panics(Point::Body))))
        });
    }),
    op("Attributed::alloc", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let mut bytes = Bytes(Vec::new());
        w.act(&mut bytes, |it| {
            scope.run(|| fallible(|| it.0.try_reserve_exact(5000)))
        });
    }),
    op("Attributed::alloc_zeroed", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        w.act(&mut (), |()| {
            let zeroed = || Boxed::<[u64; 1000]>::try_new_zeroed_in(Global);
            scope
                .run(|| fallible(zeroed))
                .map(|it| Charged(Some(it), 8000))
        });
    }),
    op("Attributed::realloc", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let mut bytes = Bytes(scope.run(|| vec![7; 5000]));
        w.act(&mut bytes, |it| {
            scope.run(|| fallible(|| it.0.try_reserve_exact(50_000)))
        });
    }),
    op("Attributed::realloc in another scope", |w| {
        let (scope, other) = (Scope::new(&w.leaf).unwrap(), Scope::new(&w.right).unwrap());
        let mut bytes = Bytes(scope.run(|| vec![7; 5000]));
        w.act(&mut bytes, |it| {
            other.run(|| fallible(|| it.0.try_reserve_exact(50_000)))
        });
    }),
    op("Attributed::realloc of a small block", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let mut bytes = Bytes(scope.run(|| vec![7; 100]));
        w.act(&mut bytes, |it| {
            scope.run(|| fallible(|| it.0.try_reserve_exact(5000)))
        });
    }),
    op("Attributed::dealloc", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let mut bytes = Some(Bytes(scope.run(|| vec![7; 5000])));
        w.act_quietly(&mut bytes, |it| drop(it.take()));
    }),
    op("Attributed::dealloc after the scope", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let mut bytes = Some(Bytes(scope.run(|| vec![7; 5000])));
        drop(scope);
        w.act_quietly(&mut bytes, |it| drop(it.take()));
    }),
    op("ScopeExt::in_scope", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        w.act(&mut Within, |_| {
            let mut future = Box::pin(work().in_scope(&scope));
            let _ = poll(&mut future);
            done(poll(&mut future).is_ready())
        });
    }),
    op("ScopeExt::in_scope beyond the limit", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        w.leaf.set_limit(1000);
        w.act(&mut Within, |_| {
            let mut future = Box::pin(work().in_scope(&scope));
            let _ = poll(&mut future);
            done(poll(&mut future).is_ready())
        });
    }),
    op("ScopeExt::in_current_scope", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        w.act(&mut Within, |_| {
            let mut future = scope.run(|| Box::pin(work().in_current_scope()));
            let _ = poll(&mut future);
            done(poll(&mut future).is_ready())
        });
    }),
    op("InScope::drop", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let mut future = Box::pin(work().in_scope(&scope));
        assert!(poll(&mut future).is_pending());
        w.act_quietly(&mut Charged(Some(future), 5000), |it| drop(it.0.take()));
    }),
    op("Accounted::adopt of what a scope pays for", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let mut buffer = Some(InHeap(scope.run(|| Buffer::from_vec(vec![7_u8; 5000]))));
        w.act(&mut buffer, |it| consume(it, |it| it.adopt(&w.right)));
    }),
    op("Accounted::adopt_from of what a scope pays for", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let buffer = Some(InHeap(scope.run(|| Buffer::from_vec(vec![7_u8; 5000]))));
        let mut reservation = w.right.new_reservation();
        reservation.add(100).unwrap();
        w.act(&mut (reservation, buffer), |(reservation, it)| {
            consume(it, |it| it.adopt_from(reservation))
        });
    }),
    op("Accounted::hand_over of what a scope pays for", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let mut buffer = Some(InHeap(scope.run(|| Buffer::from_vec(vec![7_u8; 5000]))));
        w.act(&mut buffer, |it| {
            consume(it, |it| {
                let by = HandOver::new(&w.leaf, &w.right);
                it.hand_over(&by).map(|it| it.value)
            })
        });
    }),
    op("Buffer::drop of what a scope paid for", |w| {
        let scope = Scope::new(&w.leaf).unwrap();
        let buffer = scope.run(|| Buffer::from_vec(vec![7_u8; 5000]));
        let mut buffer = buffer.adopt(&w.right).ok();
        w.act_quietly(&mut buffer, |it| drop(it.take()));
    }),
];

/// Whether the thread is in a scope, in which no panic may leave it.
struct Within;

impl State for Within {
    fn charges(&self, _: &mut Charges) {
        assert!(Scope::current().is_none());
    }
}

/// Bytes of the program's heap; charged from 512 of them on.
struct Bytes(Vec<u8>);

impl State for Bytes {
    fn charges(&self, charges: &mut Charges) {
        if self.0.capacity() >= 512 {
            charges.add_bytes(self.0.capacity());
        }
    }

    fn describe(&self) -> String {
        format!("{} {}", self.0.capacity(), digest(&self.0))
    }
}

/// A buffer whose 5,000 bytes a scope pays for.
struct InHeap(Buffer);

impl State for InHeap {
    fn charges(&self, charges: &mut Charges) {
        charges.add_bytes(self.0.capacity());
    }

    fn describe(&self) -> String {
        format!("{} {}", self.0.capacity(), digest(&self.0))
    }
}

fn consume(
    slot: &mut Option<InHeap>,
    act: impl FnOnce(Buffer) -> Result<Buffer, arrow_memory_arrow::Refused<Buffer>>,
) -> Result<Buffer, MemoryError> {
    let buffer = slot.take().expect("it was put back");
    act(buffer.0).map_err(|refused| {
        *slot = Some(InHeap(refused.value));
        refused.source
    })
}

/// A task that holds 5,000 bytes at its one point of suspension.
async fn work() {
    panics(Point::Body);
    let held = vec![7_u8; 5000];
    let mut polled = false;
    std::future::poll_fn(|_| match std::mem::replace(&mut polled, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
    panics(Point::Body);
    drop(held);
}

fn poll<F: Future>(future: &mut Pin<Box<InScope<F>>>) -> Poll<F::Output> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}
