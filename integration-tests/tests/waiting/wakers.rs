//! Wakers that panic, that use the tree, and that release what the next one waits for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::time::Duration;

use arrow_memory_core::{AllocError, WaitError};

use crate::support::{Calls, Woken, assert_empty, builder, full, poll, poll_with};

#[test]
fn a_waker_that_panics_harms_neither_the_releaser_nor_other_waiters() {
    let (root, held) = full(1024, 0);
    let panics = Calls::waker(|| std::panic::resume_unwind(Box::new("on purpose")));
    let mut first = Box::pin(root.wait().buffer_async(512));
    let mut second = Box::pin(root.wait().buffer_async(512));
    let woken = Arc::new(Woken::default());
    assert!(poll_with(&mut first, &panics).is_pending());
    assert!(poll(&mut second, &woken).is_pending());

    drop(held);

    assert_eq!(woken.count(), 1);
    assert!(matches!(poll(&mut first, &woken), Poll::Ready(Ok(_))));
    assert!(matches!(poll(&mut second, &woken), Poll::Ready(Ok(_))));
    drop((first, second));
    assert_empty(&root);
}

#[test]
fn a_waker_may_release_allocate_and_ask_to_wait_in_its_tree() {
    let (root, held) = full(4096, 0);
    let (send, ended) = mpsc::channel();
    let (tree, other) = (
        root.clone(),
        Mutex::new(Some(root.child("other").build().unwrap())),
    );
    let mut kept = None;
    let uses = Calls::waker(move || {
        drop(kept.take());
        kept = Some(tree.buffer(1024).unwrap());
        let full = tree.wait().at_most(Duration::ZERO).buffer(4096);
        let without_end = tree.wait().reserve(4096).map(drop);
        drop(other.lock().unwrap().take());
        drop(kept.take());
        send.send((full.map(drop), without_end, tree.allocated_memory()))
            .unwrap();
    });
    let mut waits = Box::pin(root.wait().buffer_async(1024));
    assert!(poll_with(&mut waits, &uses).is_pending());

    drop(held);

    let (full, without_end, allocated) = ended.recv().unwrap();
    for refused in [full, without_end] {
        // Nobody waits in a waker, so no deadline can have passed.
        let is_refused = matches!(
            refused,
            Err(WaitError::Refused(AllocError::OutOfMemory { .. }))
        );
        assert!(is_refused, "{refused:?}");
    }
    assert_eq!(allocated, 1024);
    assert!(matches!(
        poll_with(&mut waits, Waker::noop()),
        Poll::Ready(Ok(_))
    ));
    drop((waits, uses));
    assert_empty(&root);
}

#[test]
fn a_waker_may_poll_its_own_future_to_its_end() {
    let (root, held) = full(1024, 0);
    let future = Arc::new(Mutex::new(Some(Box::pin(root.wait().buffer_async(1024)))));
    let polled = Arc::new(AtomicUsize::new(0));
    let (shared, count) = (Arc::clone(&future), Arc::clone(&polled));
    let runs = Calls::waker(move || {
        let mut future = shared.lock().unwrap().take().unwrap();
        assert!(poll_with(&mut future, Waker::noop()).is_ready());
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert!(poll_with(future.lock().unwrap().as_mut().unwrap(), &runs).is_pending());

    drop(held);

    assert_eq!(polled.load(Ordering::Relaxed), 1);
    assert_empty(&root);
}

/// Each waiter's waker releases what the next one waits for. One tree, or each link in a tree of its own.
fn chain(trees: usize) {
    const LINKS: usize = 10_000;
    let root = || builder(1 << 30).own_timer(true).build().unwrap();
    let roots: Vec<_> = (0..trees).map(|_| root()).collect();
    let links: Vec<_> = (0..LINKS)
        .map(|link| {
            let child = roots[link % trees].child("link").limit(64).build().unwrap();
            let held = child.buffer(64).unwrap();
            (child, Mutex::new(Some(held)))
        })
        .collect();
    let links = Arc::new(links);
    let woken = Arc::new(AtomicUsize::new(0));
    let mut waits: Vec<_> = (0..LINKS)
        .map(|link| {
            let mut waits = Box::pin(links[link].0.wait().buffer_async(64));
            let (links, woken) = (Arc::clone(&links), Arc::clone(&woken));
            let releases_next = Calls::waker(move || {
                woken.fetch_add(1, Ordering::Relaxed);
                if let Some((_, next)) = links.get(link + 1) {
                    drop(next.lock().unwrap().take());
                }
            });
            assert!(poll_with(&mut waits, &releases_next).is_pending());
            waits
        })
        .collect();

    drop(links[0].1.lock().unwrap().take());

    assert_eq!(woken.load(Ordering::Relaxed), LINKS);
    for waits in &mut waits {
        assert!(matches!(
            poll_with(waits, Waker::noop()),
            Poll::Ready(Ok(_))
        ));
    }
    drop((waits, links));
    roots.iter().for_each(|root| assert_empty(root));
}

/// Runs on a thread with a small stack, which a chain of frames would overflow.
#[test]
fn a_chain_of_ten_thousand_wakers_that_release_is_no_chain_of_stack_frames() {
    for trees in [1, 2, 100] {
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        thread.spawn(move || chain(trees)).unwrap().join().unwrap();
    }
}

/// The first waker releases what waits in eight other trees, and then what the second waker waits for. From there on
/// the wakers of two trees release what the next one waits for.
#[test]
fn a_chain_of_wakers_in_two_trees_beside_eight_others_is_no_chain_of_stack_frames() {
    const LINKS: usize = 10_000;
    let root = || builder(1 << 30).own_timer(true).build().unwrap();
    let roots: Vec<_> = (0..10).map(|_| root()).collect();
    let children: Vec<_> = (0..LINKS + 8)
        .map(|link| {
            let tree = if link < LINKS {
                link % 2
            } else {
                2 + link - LINKS
            };
            roots[tree].child("link").limit(64).build().unwrap()
        })
        .collect();
    let held = children
        .iter()
        .map(|child| Mutex::new(child.buffer(64).ok()));
    let held: Arc<Vec<_>> = Arc::new(held.collect());
    let woken = Arc::new(AtomicUsize::new(0));
    let waits: Vec<_> = (0..LINKS + 8)
        .map(|link| {
            let mut waits = Box::pin(children[link].wait().buffer_async(64));
            let (held, woken) = (Arc::clone(&held), Arc::clone(&woken));
            let waker = Calls::waker(move || {
                woken.fetch_add(1, Ordering::Relaxed);
                let others = if link == 0 { LINKS..LINKS + 8 } else { 0..0 };
                let next = Some(link + 1).filter(|&next| next < LINKS);
                for release in others.chain(next) {
                    drop(held[release].lock().unwrap().take());
                }
            });
            assert!(poll_with(&mut waits, &waker).is_pending());
            waits
        })
        .collect();

    drop(held[0].lock().unwrap().take());

    assert_eq!(woken.load(Ordering::Relaxed), LINKS + 8);
    drop((waits, held, children));
    roots.iter().for_each(|root| assert_empty(root));
}
