//! Threads and tasks: bytes are charged to the scope that allocated them, wherever they are freed.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

use std::alloc::System;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;

use arrow_memory_core::{BufferAllocator, RootAllocator};
use arrow_memory_global::{Attributed, Scope, ScopeExt};
use arrow_memory_host::HostExt;
use arrow_memory_system as _;

#[global_allocator]
static GLOBAL: Attributed<System> = Attributed::new(System);

fn root() -> RootAllocator {
    RootAllocator::unlimited()
}

/// A block of so many bytes, and nothing else.
fn bytes(count: usize) -> Vec<u8> {
    Vec::with_capacity(count)
}

fn scope_of(allocator: &BufferAllocator) -> Scope {
    Scope::new(allocator).unwrap()
}

#[test]
fn the_wrapper_is_installed_here() {
    assert!(arrow_memory_global::supported());
    assert!(arrow_memory_global::is_installed());
    assert!(arrow_memory_global::is_installed(), "known by now");
}

#[test]
fn a_thousand_threads_that_come_and_go_leave_nothing() {
    let root = root();
    let scope = scope_of(&root);
    let (to_others, from_threads) = mpsc::sync_channel::<Vec<u8>>(100);
    let freeing = thread::spawn(move || from_threads.into_iter().map(drop).count());
    for turn in 0..125 {
        thread::scope(|threads| {
            for number in 0..8 {
                let (scope, to_others) = (&scope, to_others.clone());
                threads.spawn(move || {
                    let mut own = scope.run(|| bytes(1000 + number * 512));
                    to_others.send(scope.run(|| bytes(4096 + turn))).unwrap();
                    scope.run(|| own.reserve_exact(20_000));
                    // In no scope: the block's payer pays on.
                    own.reserve_exact(30_000);
                });
            }
        });
    }
    drop(to_others);
    assert_eq!(freeing.join().unwrap(), 1000);
    assert_eq!(root.allocated_memory(), 0);
    drop(scope);
    root.close().unwrap();
}

#[test]
fn bytes_of_threads_are_exact_while_they_are_held() {
    const THREADS: usize = 16;
    let root = root();
    let (all, over) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    let children: Vec<_> = (0..4)
        .map(|i| root.child(&i.to_string()).build().unwrap())
        .collect();
    let scopes: Vec<Scope> = children.iter().map(scope_of).collect();
    thread::scope(|threads| {
        for number in 0..THREADS {
            let (scope, all, over) = (&scopes[number % 4], &all, &over);
            threads.spawn(move || {
                let held: Vec<Vec<u8>> = (0..200)
                    .map(|i| scope.run(|| bytes(512 + i * 7 + number)))
                    .collect();
                all.wait();
                over.wait();
                drop(held);
            });
        }
        all.wait();
        for (number, child) in children.iter().enumerate() {
            let of_thread =
                |thread: usize| (0..200).map(move |i| 512 + i * 7 + thread).sum::<usize>();
            let expected: usize = (number..THREADS).step_by(4).map(of_thread).sum();
            assert_eq!(child.allocated_memory(), expected);
        }
        over.wait();
    });
    assert_eq!(root.allocated_memory(), 0);
}

/// Allocates and frees when its thread ends.
struct AtTheEnd {
    scope: Scope,
    held: Vec<u8>,
}

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        self.scope.run(|| self.held.reserve_exact(100_000));
        let more = self.scope.run(|| bytes(7000));
        // It may be gone already.
        let _ = SOME.try_with(|some| *some.borrow_mut() = more);
    }
}

thread_local! {
    static AT_THE_END: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
    static SOME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn destructors_of_thread_locals_allocate_in_scopes() {
    let root = root();
    let scope = scope_of(&root);
    for turn in 0..200 {
        let scope = scope.clone();
        let ended = thread::spawn(move || {
            // Both orders of destructors.
            if turn % 2 == 0 {
                SOME.with(|some| some.borrow_mut().clear());
            }
            AT_THE_END.with(|it| {
                *it.borrow_mut() = Some(AtTheEnd {
                    held: scope.run(|| bytes(600)),
                    scope,
                });
            });
            SOME.with(|some| some.borrow_mut().clear());
        });
        ended.join().unwrap();
    }
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn scopes_nest_and_unwinding_leaves_them() {
    let root = root();
    let (a, b) = (
        root.child("a").build().unwrap(),
        root.child("b").build().unwrap(),
    );
    let (in_a, in_b) = (scope_of(&a), scope_of(&b));
    assert!(Scope::current().is_none());
    let held = in_a.run(|| {
        let inner = in_b.run(|| bytes(1000));
        let panicked = std::panic::catch_unwind(|| {
            in_b.run(|| std::panic::resume_unwind(Box::new(())));
        });
        assert_eq!(format!("{:?}", Scope::current().unwrap()), "Scope(a)");
        assert!(panicked.is_err());
        let nobodys = Scope::suspend(|| {
            assert!(Scope::current().is_none());
            bytes(5000)
        });
        assert_eq!(format!("{:?}", Scope::current().unwrap()), "Scope(a)");
        (inner, bytes(2000), nobodys)
    });
    assert!(Scope::current().is_none());
    assert_eq!((a.allocated_memory(), b.allocated_memory()), (2000, 1000));
    drop(held);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn tasks_that_move_between_threads_keep_their_scope() {
    const TASKS: usize = 64;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .build()
        .unwrap();
    let root = root();
    let moved = Arc::new(AtomicUsize::new(0));
    let (scopes, children): (Vec<Scope>, Vec<_>) = (0..TASKS)
        .map(|number| {
            let child = root.child(&number.to_string()).build().unwrap();
            (scope_of(&child), child)
        })
        .unzip();
    let tasks: Vec<_> = (scopes.iter().enumerate())
        .map(|(number, scope)| {
            let moved = Arc::clone(&moved);
            let task = async move {
                let mut held = bytes(1000 + number);
                for turn in 1..100_000 {
                    let before = thread::current().id();
                    tokio::task::yield_now().await;
                    if thread::current().id() != before {
                        moved.fetch_add(1, Ordering::Relaxed);
                    }
                    if turn < 50 {
                        held.reserve_exact(1000 + number + turn * 100);
                    } else if moved.load(Ordering::Relaxed) > 100 {
                        break;
                    }
                }
                held
            };
            runtime.spawn(task.in_scope(scope))
        })
        .collect();
    let held: Vec<Vec<u8>> = runtime.block_on(async {
        let mut held = Vec::new();
        for task in tasks {
            held.push(task.await.unwrap());
        }
        held
    });
    for (held, child) in held.iter().zip(&children) {
        // A list of the runtime's may have grown in a poll.
        let charged = child.allocated_memory();
        assert!((held.capacity()..held.capacity() + 64 * 1024).contains(&charged));
    }
    assert!(moved.load(Ordering::Relaxed) > 0, "no task moved");
    drop((held, runtime));
    assert_eq!(root.allocated_memory(), 0);
}

/// Pends for ever, and allocates when it is dropped.
struct Pending<'a>(&'a mut Option<(Vec<u8>, bool)>);

impl Future for Pending<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        assert!(Scope::current().is_some());
        Poll::Pending
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        *self.0 = Some((bytes(3000), Scope::current().is_some()));
    }
}

#[test]
fn a_future_is_dropped_in_its_scope() {
    let root = root();
    let scope = scope_of(&root);
    let mut left = None;
    let mut future = Box::pin(Pending(&mut left).in_scope(&scope));
    let pending = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(pending.is_pending());
    drop(future);
    let (held, in_scope) = left.unwrap();
    assert!(in_scope && Scope::current().is_none());
    assert_eq!(root.allocated_memory(), 3000);
    drop(held);
    assert_eq!(root.allocated_memory(), 0);
}

#[test]
fn a_future_can_take_the_scope_that_it_was_made_in() {
    let root = root();
    let scope = scope_of(&root);
    let allocate = || poll_fn(|_| Poll::Ready(bytes(800)));
    let within = scope.run(|| allocate().in_current_scope());
    let outside = allocate().in_current_scope();
    assert!(within.scope().is_some() && outside.scope().is_none());
    let mut context = Context::from_waker(Waker::noop());
    let held = [within, outside].map(|future| Box::pin(future).as_mut().poll(&mut context));
    assert_eq!(root.allocated_memory(), 800);
    drop(held);
}

#[cfg(feature = "futures")]
#[test]
fn a_stream_allocates_each_item_in_its_scope() {
    struct Items(usize);
    impl futures_core::Stream for Items {
        type Item = Vec<u8>;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
            self.0 -= 1;
            Poll::Ready((self.0 > 0).then(|| bytes(1000)))
        }
        fn size_hint(&self) -> (usize, Option<usize>) {
            (self.0, Some(self.0))
        }
    }
    let root = root();
    let scope = scope_of(&root);
    let mut items = Box::pin(Items(4).in_scope(&scope));
    assert_eq!(futures_core::Stream::size_hint(&*items), (4, Some(4)));
    let mut held = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(item)) =
        futures_core::Stream::poll_next(items.as_mut(), &mut context)
    {
        held.push(item);
    }
    assert_eq!((held.len(), root.allocated_memory()), (3, 3000));
}

#[test]
fn an_overdraft_is_told_by_check_until_there_is_room() {
    let root = root();
    let query = root.child("query").limit(10_000).build().unwrap();
    let join = query.child("join").build().unwrap();
    let scope = scope_of(&join);
    scope.check().unwrap();

    let held = scope.run(|| bytes(50_000));

    let overdraft = scope.check().unwrap_err();
    assert_eq!(
        (overdraft.limit, overdraft.used, overdraft.excess()),
        (10_000, 50_000, 40_000)
    );
    assert_eq!(
        overdraft.to_string(),
        "allocator `query` is 40000 bytes over its limit of 10000"
    );
    assert_eq!(
        format!("{overdraft:#}"),
        "allocator `query` is 40000 bytes over its limit of 10000\n  50000 allocated in all, found by a scope of `join`"
    );
    assert!(query.buffer(1).is_err());
    drop(held);
    scope.check().unwrap();
    drop(query.buffer(1).unwrap());
}

#[test]
fn a_cache_that_outlives_its_query_is_retained_by_the_root() {
    let root = root();
    let query = root.child("q7").build().unwrap();
    let scope = scope_of(&query);
    let cache = scope.run(|| bytes(5000));
    let clone = scope.clone();
    drop(scope);
    assert_eq!(query.allocated_memory(), 5000);

    drop(clone);

    assert_eq!(
        (query.allocated_memory(), root.allocated_memory()),
        (0, 5000)
    );
    query.close().unwrap();
    let report = root.to_verbose_string();
    assert!(report.contains("(heap) of q7"), "{report}");
    let error = root.close().unwrap_err().to_string();
    assert!(error.contains("5000"), "{error}");
    drop(cache);
    assert_eq!(root.allocated_memory(), 0);
    root.close().unwrap();
}

#[test]
fn attributed_bytes_are_part_of_the_reconciliation() {
    let root = root();
    let held = scope_of(&root).run(|| bytes(32 << 20));

    let books = root.reconcile();

    // Of all trees: other tests run, too.
    assert!(books.attributed_bytes >= 32 << 20);
    assert!(books.accounted_bytes == 32 << 20 && books.other_program_bytes.is_some());
    drop(held);
}

#[test]
fn a_scope_of_a_closed_allocator_charges_nothing() {
    let root = root();
    let query = root.child("query").build().unwrap();
    let scope = scope_of(&query);
    let held = scope.run(|| bytes(5000));
    query.close().unwrap();
    assert!(Scope::new(&query).is_err());
    let nobodys = scope.run(|| bytes(6000));
    assert_eq!(root.allocated_memory(), 5000);
    drop((held, nobodys));
    assert_eq!(root.allocated_memory(), 0);
}
