//! Loom models of an inbox that two threads read. The lock of an inbox is std's: to loom, what is done under it is one
//! step, and it sees no reason to let others run before and after it. So each look begins with the tree's mutex, which is
//! also taken for a share of the spill reserve while the ask is out of the inbox.
//!
//! Each of these mutations makes some of them fail: an ask that goes back to its inbox and has nobody woken who looked
//! meanwhile; no second look after that was arranged for.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::thread;

use super::*;
use crate::accounting::model::waiting::{Signal, at_rest_alone};
use crate::accounting::model::{check_bounded, child, patient_root};

/// An inbox with an ask in it that finds all shares of the spill reserve taken: one that the function returns, and
/// three others.
fn model(
    preemptions: usize,
    then: impl Fn(&Arc<ReclaimInbox>, BufferAllocator) + Send + Sync + 'static,
) {
    check_bounded(preemptions, move || {
        let root = patient_root(128);
        root.set_spill_reserve(64);
        let sort = BufferAllocator::from_handle(child(&root, usize::MAX, 0));
        sort.allocate_bytes(8).unwrap();
        let inbox = Arc::new(sort.reclaim_inbox(Cost::Spill));
        let mut taken = [(); 4].map(|()| root.take_spill_share().ok().flatten());
        let share = BufferAllocator::from_handle(taken[0].take().unwrap());
        assert_eq!(sort.reclaim(8), 0);

        then(&inbox, share);

        drop((taken, inbox));
        sort.release_bytes(8);
        at_rest_alone(&root, 0);
    });
}

/// Blocks as a task until an ask is there.
fn read(inbox: &ReclaimInbox) -> Ask {
    let signal = Arc::<Signal>::default();
    let waker = Waker::from(Arc::clone(&signal));
    loop {
        drop(inbox.guard.allocator().handle.tree.lock());
        if let Poll::Ready(ask) = inbox.poll_ask(&mut Context::from_waker(&waker)) {
            return ask;
        }
        signal.wait();
    }
}

#[test]
fn who_reads_while_another_one_finds_no_share_is_woken_when_one_is_free() {
    model(3, |inbox, share| {
        let other = Arc::clone(inbox);
        let tries = thread::spawn(move || {
            assert!(other.try_ask().is_none(), "all shares are taken");
            drop(share);
        });

        assert!(read(inbox).memory().is_some());

        tries.join().unwrap();
    });
}

#[test]
fn who_reads_while_another_one_looks_and_a_third_one_returns_a_share_is_woken() {
    model(2, |inbox, share| {
        let other = Arc::clone(inbox);
        let tries = thread::spawn(move || {
            drop(other.guard.allocator().handle.tree.lock());
            other.try_ask()
        });
        let other = Arc::clone(inbox);
        let reads = thread::spawn(move || read(&other));

        drop(share);

        if let Some(ask) = tries.join().unwrap() {
            drop(ask);
            // It gave nothing back, so it is left alone once. The reader gets the next one.
            let [asks, again] = [(); 2].map(|()| inbox.guard.allocator().reclaim(8));
            assert_eq!((asks, again), (0, 0));
        }
        assert!(reads.join().unwrap().memory().is_some());
    });
}
