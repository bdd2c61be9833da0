//! Races of requests that wait for memory with what makes room for them, and with what ends their wait.
//!
//! Most models have a datum that whoever makes room writes to before, and the waiter after its grant, so that
//! loom sees a hand-over that does not synchronise, and not only wrong counts. A lost wake-up is a thread that
//! stays parked, which loom reports as a deadlock; or, where the waiter is polled, a waker that was not called.
//!
//! Each of these mutations makes some of them fail: queueing a request after the mutex was released in between; a
//! section that ends without serving, or looks for wake-ups before it serves; a grant whose bytes are charged by the
//! waiter when it runs; a waiter that stays at its level although another one is short now; a poll that replaces
//! the waker without a look at the verdict; a dropped wait that stays in the queue, does not serve the next one, or
//! keeps what it was granted; a release, or a raised limit, that does not look at the level; a lowered limit or a
//! close that refuses nobody; a level with waiters that is opened with room for others; what is loose counted as
//! nothing, as the credit of the words, or by half, or not told to the levels above; no barriers, or barriers that
//! tries ignore; Relaxed in `give`, or in `shut_down`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::{at_rest, check, check_bounded, child, root, uncharge};
use crate::accounting::handle::Handle;
use crate::accounting::node::NodePtr;
use crate::accounting::queue::{Ask, Queued, Verdict, Wake};

mod cancel;
mod ends;
mod passing;
mod tight;

/// What was in the bytes that are handed over. Loom reports accesses that are not ordered.
#[derive(Clone)]
pub(crate) struct Datum(Arc<UnsafeCell<usize>>);

// SAFETY: loom checks how the datum is used.
unsafe impl Sync for Datum {}
// SAFETY: as for Sync.
unsafe impl Send for Datum {}

pub(crate) fn datum() -> Datum {
    Datum(Arc::new(UnsafeCell::new(0)))
}

impl Datum {
    /// What a holder of the bytes does while it has them.
    pub(crate) fn write(&self) {
        // SAFETY: loom checks that no other access is concurrent.
        self.0.with_mut(|datum| unsafe { *datum += 1 });
    }
}

/// Counts how often it is woken. Loom does not see the count: it is looked at when all threads were joined.
#[derive(Default)]
struct Woken(AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        // Relaxed: a number that is read after the threads were joined.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Blocks a thread until it is woken.
#[derive(Default)]
pub(crate) struct Signal {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn wait(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

impl std::task::Wake for Signal {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

/// A request that was queued, by a task.
pub(super) struct Polled {
    queued: Queued,
    woken: Arc<Woken>,
}

/// Queues a request that does not fit.
pub(super) fn queue(handle: &Handle, bytes: usize) -> Polled {
    let woken = Arc::<Woken>::default();
    let mut wake = Some(Wake::Task(Waker::from(Arc::clone(&woken))));
    match handle.charge_or_queue(ask(bytes), &mut wake) {
        Ok(Some(queued)) => Polled { queued, woken },
        _ => panic!("{bytes} bytes do not fit yet, but may"),
    }
}

impl Polled {
    /// Polls it with its own waker, as a task does that another future has woken.
    fn poll(&mut self) -> Option<Verdict> {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.queued.poll(&waker).map(|(verdict, _)| verdict)
    }

    /// The verdict, of which it was told once. All other threads were joined.
    pub(super) fn told(mut self) -> Verdict {
        // Relaxed: as above.
        assert_eq!(self.woken.0.load(Ordering::Relaxed), 1, "woken once");
        self.poll().expect("it was woken for a reason")
    }

    /// It still waits.
    fn waits(&mut self) {
        // Relaxed: as above.
        assert_eq!(self.woken.0.load(Ordering::Relaxed), 0);
        assert_eq!(self.poll(), None);
    }
}

/// Gives back bytes of a node that nothing else may keep.
fn uncharge_last(node: NodePtr, bytes: usize) {
    // SAFETY: the bytes are charged to the node, and keep it until here.
    unsafe { node.uncharge(bytes) };
}

fn ask(bytes: usize) -> Ask {
    let mut ask = Ask::new(false);
    ask.bytes = bytes;
    ask
}

/// Charges `bytes`, or blocks the thread until the wait is over.
fn obtain(handle: &Handle, bytes: usize) -> Verdict {
    let mut wake = Some(Wake::Thread(thread::current()));
    let mut queued = match handle.charge_or_queue(ask(bytes), &mut wake) {
        Ok(Some(queued)) => queued,
        Ok(None) => return Verdict::Granted,
        Err(_) => return Verdict::Refused,
    };
    loop {
        if let Some((verdict, _)) = queued.verdict() {
            return verdict;
        }
        thread::park();
    }
}

/// The same by a task of its own. Unlike `park`, which in loom forgets that it was woken while it waited for a
/// mutex, it can be used beside several threads.
fn obtain_as_task(handle: &Handle, bytes: usize) -> Verdict {
    let signal = Arc::new(Signal::default());
    let waker = Waker::from(Arc::clone(&signal));
    let mut queued = match handle.charge_or_queue(ask(bytes), &mut Some(Wake::Task(waker.clone())))
    {
        Ok(Some(queued)) => queued,
        Ok(None) => return Verdict::Granted,
        Err(_) => return Verdict::Refused,
    };
    loop {
        if let Some((verdict, _)) = queued.poll(&waker) {
            return verdict;
        }
        signal.wait();
    }
}

/// Charges `bytes`, and blocks until they are granted; then does with them as their holder before.
pub(super) fn obtain_and_write(handle: &Handle, bytes: usize, datum: &Datum) {
    assert_eq!(obtain(handle, bytes), Verdict::Granted);
    datum.write();
}

/// At rest, and nobody waits.
pub(crate) fn at_rest_alone(root: &Handle, allocated: usize) {
    let locked = root.tree.lock();
    assert_eq!(locked.queue().waiting(), 0);
    assert!(!locked.queue().withholds() && !locked.queue().is_active());
    drop(locked);
    at_rest(root, allocated);
}

#[test]
fn a_release_races_with_a_request_that_is_queued() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        a.charge(64).unwrap();
        let datum = datum();
        let held = datum.clone();
        // Without the mutex, if the word is open still.
        let thread = thread::spawn(move || {
            held.write();
            uncharge(&a, 64);
            a
        });

        obtain_and_write(&b, 32, &datum);

        let _a = thread.join().unwrap();
        at_rest_alone(&root, 32);
    });
}

#[test]
fn a_request_moves_from_level_to_level_until_both_have_room() {
    for above_first in [false, true] {
        check(move || {
            let root = root(56);
            let middle = child(&root, 48, 0);
            let (a, b) = (child(&middle, 64, 0), child(&middle, 64, 0));
            a.charge(40).unwrap();
            root.charge(16).unwrap();
            let datum = datum();
            let (held, other) = (datum.clone(), root.clone());
            let thread = thread::spawn(move || {
                held.write();
                let mut steps = [(&a, 32), (&other, 8)];
                if above_first {
                    steps.reverse();
                }
                for (handle, bytes) in steps {
                    uncharge(handle, bytes);
                }
                a
            });

            // It needs both.
            obtain_and_write(&b, 40, &datum);

            let _a = thread.join().unwrap();
            at_rest_alone(&root, 56);
        });
    }
}

#[test]
fn two_releases_that_a_waiter_needs_both() {
    check(|| {
        let root = root(64);
        let [a, b, c] = [(); 3].map(|()| child(&root, 64, 0));
        a.charge(32).unwrap();
        b.charge(32).unwrap();
        let mut waiter = queue(&c, 64);
        let threads = [a, b].map(|handle| {
            thread::spawn(move || {
                uncharge(&handle, 32);
                handle
            })
        });

        let early = waiter.poll();

        let _handles = threads.map(|thread| thread.join().unwrap());
        let verdict = early.unwrap_or_else(|| waiter.told());
        assert_eq!(verdict, Verdict::Granted);
        at_rest_alone(&root, 64);
    });
}

#[test]
fn one_release_fits_the_younger_of_two_waiters() {
    check(|| {
        let root = root(64);
        let [a, b, c] = [(); 3].map(|()| child(&root, 64, 0));
        a.charge(64).unwrap();
        let mut older = queue(&b, 48);
        let datum = datum();
        let (held, other) = (datum.clone(), a.clone());
        let thread = thread::spawn(move || {
            held.write();
            uncharge(&other, 16);
        });

        obtain_and_write(&c, 8, &datum);

        thread.join().unwrap();
        older.waits();
        uncharge(&a, 48);
        assert_eq!(older.told(), Verdict::Granted);
        at_rest_alone(&root, 56);
    });
}

#[test]
fn a_raised_limit_races_with_a_request_that_is_queued() {
    check(|| {
        let root = root(32);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        a.charge(32).unwrap();
        let datum = datum();
        let (held, other) = (datum.clone(), root.clone());
        let thread = thread::spawn(move || {
            held.write();
            other.set_limit(64);
        });

        obtain_and_write(&b, 32, &datum);

        thread.join().unwrap();
        at_rest_alone(&root, 64);
    });
}

#[test]
fn nobody_takes_what_was_granted_before_the_waiter_runs() {
    check(|| {
        let root = root(64);
        let [a, b, c] = [(); 3].map(|()| child(&root, 64, 0));
        a.charge(64).unwrap();
        let waiter = queue(&b, 40);
        let thread = thread::spawn(move || {
            uncharge(&a, 64);
            a
        });

        assert!(c.charge(32).is_err(), "full before, and after the grant");

        let _a = thread.join().unwrap();
        assert_eq!(waiter.told(), Verdict::Granted);
        at_rest_alone(&root, 40);
    });
}

#[test]
fn a_task_with_another_waker_is_woken_by_that_one() {
    check(|| {
        let root = root(64);
        let (a, b) = (child(&root, 64, 0), child(&root, 64, 0));
        a.charge(64).unwrap();
        let mut waiter = queue(&b, 32);
        let thread = thread::spawn(move || {
            uncharge(&a, 64);
            a
        });

        waiter.woken = Arc::default();
        let early = waiter.poll();

        let _a = thread.join().unwrap();
        let verdict = early.unwrap_or_else(|| waiter.told());
        assert_eq!(verdict, Verdict::Granted);
        at_rest_alone(&root, 32);
    });
}
