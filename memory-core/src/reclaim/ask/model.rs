//! Loom models of asking: asks are answered, given up and dropped while others ask.
//!
//! A datum stands for what a reclaimer does when it is called, and for what whoever has an ask does before the ask is
//! answered. So loom sees a call, an answer or a drop that is not ordered, and not only wrong counts. This crate
//! catches the panics of reclaimers, and loom reports by panics: so a `Fate` notes them, and each model looks at it in
//! the end. The lock of an inbox is std's: to loom, what is done under it is one step.
//!
//! Each of these mutations makes some of them fail.
//!
//! * Answers: an ask whose drop is no answer, or is one before its share of the spill reserve is free; an answer that is
//!   noted before the tree's mutex was taken for the numbers; a look at the numbers before the ask begins, or before the
//!   look whether it was answered.
//! * Beginning: no look whether an ask is out; a store in place of the compare-exchange of `asked`; Relaxed in it, or
//!   in the load of `asked`; a time that is noted after it.
//! * Going on: an ask counts as out although it was answered, or never; what is out counts although the request
//!   insists. A request that is given up and does not end its shortage.
//! * Guards: one that does not unregister, that unregisters another, or that drops the reclaimer itself; an ask that
//!   keeps its registration; an inbox that takes asks in after its drop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool as Flag, AtomicUsize as Number};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

use super::super::charge;
use super::{Ask, Cost, Ordering, Reclaim, Reclaimer, Registration, Shortage};
use crate::accounting::model::waiting::{Datum, Signal, at_rest_alone, datum};
use crate::accounting::model::{PATIENCE, check, check_bounded, child, patient_root};
use crate::accounting::{Handle, Turn};
use crate::allocator::BufferAllocator;
use crate::reservation::AllocationReservation;
use crate::sync::AtomicBool;
use crate::waiting::WaitError;

/// A root, and allocators below it that reach up to its limit.
fn tree<const N: usize>(limit: usize) -> (Handle, [BufferAllocator; N]) {
    let root = patient_root(limit);
    let allocators =
        std::array::from_fn(|_| BufferAllocator::from_handle(child(&root, usize::MAX, 0)));
    (root, allocators)
}

/// What became of a reclaimer. Loom sees the datum only.
struct Fate {
    datum: Datum,
    calls: Number,
    drops: Number,
    panicked: Flag,
}

impl Fate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            datum: datum(),
            calls: Number::new(0),
            drops: Number::new(0),
            panicked: Flag::new(false),
        })
    }

    /// Uses the datum, in a callback.
    fn write(&self) {
        /// Notes a panic, which the caller catches.
        struct Note<'a>(&'a Fate);
        impl Drop for Note<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.panicked.store(true, Ordering::Relaxed);
                }
            }
        }
        let _note = Note(self);
        assert_eq!(self.drops.load(Ordering::Relaxed), 0, "it is dropped last");
        self.datum.write();
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// No callback panicked, and the reclaimer was dropped so many times. All threads were joined.
    fn ends(&self, drops: usize) {
        assert!(!self.panicked.load(Ordering::Relaxed));
        assert_eq!(self.drops.load(Ordering::Relaxed), drops);
    }
}

/// A reclaimer that does what its function says with each ask.
struct Asked<F> {
    fate: Arc<Fate>,
    answer: F,
}

impl<F: Fn(Ask) + Send + Sync> Reclaim for Asked<F> {
    fn reclaimable(&self) -> usize {
        usize::MAX
    }

    fn reclaim(&self, ask: Ask) {
        self.fate.calls.fetch_add(1, Ordering::Relaxed);
        self.fate.write();
        (self.answer)(ask);
    }
}

impl<F> Drop for Asked<F> {
    fn drop(&mut self) {
        self.fate.write();
        self.fate.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where a reclaimer puts its asks for another thread.
#[derive(Default)]
struct Letters {
    asks: Mutex<Vec<Ask>>,
    arrived: Condvar,
}

impl Letters {
    fn put(&self, ask: Ask) {
        self.asks.lock().unwrap().push(ask);
        self.arrived.notify_one();
    }

    fn take(&self) -> Option<Ask> {
        self.asks.lock().unwrap().pop()
    }

    fn wait(&self) -> Ask {
        let mut asks = self.asks.lock().unwrap();
        loop {
            if let Some(ask) = asks.pop() {
                return ask;
            }
            asks = self.arrived.wait(asks).unwrap();
        }
    }
}

fn asked<F: Fn(Ask) + Send + Sync>(fate: &Arc<Fate>, answer: F) -> Asked<F> {
    let fate = Arc::clone(fate);
    Asked { fate, answer }
}

/// A reclaimer that puts its asks into letters.
fn hands_over(fate: &Arc<Fate>) -> (Asked<impl Fn(Ask) + Send + Sync + use<>>, Arc<Letters>) {
    let letters = Arc::<Letters>::default();
    let puts = Arc::clone(&letters);
    (asked(fate, move |ask| puts.put(ask)), letters)
}

/// Has another thread answer an ask by dropping what it holds.
fn answer(fate: &Arc<Fate>, held: Option<AllocationReservation>, ask: Ask) -> JoinHandle<()> {
    let fate = Arc::clone(fate);
    thread::spawn(move || {
        fate.datum.write();
        drop(held);
        drop(ask);
    })
}

fn register(
    allocator: &BufferAllocator,
    cost: Cost,
    reclaim: impl Reclaim + 'static,
) -> Arc<Registration> {
    Arc::new(Registration::new(allocator, cost, Arc::new(reclaim), false))
}

/// Asks for 8 bytes, also one who is to be left alone. Whether the ask is out when that returns.
fn ask(registration: &Arc<Registration>) -> bool {
    let shortage = Shortage::new(registration.allocator().info().clone(), false);
    Arc::clone(registration).ask(&shortage, 8, true).out
}

/// A request for bytes that waits, and blocks nobody.
type Waits = Pin<Box<dyn Future<Output = Result<AllocationReservation, WaitError>> + Send>>;

fn waits(allocator: &BufferAllocator, bytes: usize) -> Waits {
    Box::pin(allocator.wait().reserve_async(bytes))
}

fn poll(request: &mut Waits, waker: &Waker) -> Option<AllocationReservation> {
    match request.as_mut().poll(&mut Context::from_waker(waker)) {
        Poll::Ready(granted) => Some(granted.expect("it can be granted, and has no deadline")),
        Poll::Pending => None,
    }
}

/// Bytes that are charged, which fit.
fn holds(allocator: &BufferAllocator, bytes: usize) -> AllocationReservation {
    poll(&mut waits(allocator, bytes), Waker::noop()).expect("they fit")
}

/// Blocks as a task until the bytes are granted.
fn obtain(allocator: &BufferAllocator, bytes: usize) -> AllocationReservation {
    let signal = Arc::<Signal>::default();
    let waker = Waker::from(Arc::clone(&signal));
    let mut request = waits(allocator, bytes);
    loop {
        if let Some(granted) = poll(&mut request, &waker) {
            return granted;
        }
        signal.wait();
    }
}

#[test]
fn an_ask_begins_after_the_one_before_was_answered() {
    check(|| {
        let (root, [cache]) = tree(64);
        let fate = Fate::new();
        let (reclaim, letters) = hands_over(&fate);
        let registration = register(&cache, Cost::Drop, reclaim);
        assert!(ask(&registration));
        let thread = answer(&fate, None, letters.take().unwrap());

        let again = ask(&registration);

        thread.join().unwrap();
        assert_eq!(fate.calls(), if again { 2 } else { 1 });
        drop(letters.take());
        assert!(ask(&registration), "whatever was out is answered");
        drop((registration, letters.take()));
        fate.ends(1);
        at_rest_alone(&root, 0);
    });
}

#[test]
fn who_sees_that_an_ask_was_answered_comes_after_the_answer() {
    check(|| {
        let (root, [cache]) = tree(64);
        let fate = Fate::new();
        let (reclaim, letters) = hands_over(&fate);
        let registration = register(&cache, Cost::Drop, reclaim);
        let answering = Arc::clone(&fate);
        let thread = thread::spawn(move || {
            let ask = letters.wait();
            answering.datum.write();
            drop(ask);
        });

        if !ask(&registration) {
            fate.datum.write();
        }

        thread.join().unwrap();
        drop(registration);
        fate.ends(1);
        at_rest_alone(&root, 0);
    });
}

#[test]
fn of_two_requests_that_ask_at_once_one_does() {
    check(|| {
        let (root, [cache]) = tree(64);
        let fate = Fate::new();
        let (reclaim, letters) = hands_over(&fate);
        let mut registration = Registration::new(&cache, Cost::Drop, Arc::new(reclaim), false);
        // Old: whoever sees that one is out, and not when it was made, takes it for one that is out for too long.
        let standing = Arc::get_mut(&mut registration.standing).unwrap();
        standing.made = Instant::now().checked_sub(2 * PATIENCE).unwrap();
        let registration = Arc::new(registration);
        let other = Arc::clone(&registration);
        let thread = thread::spawn(move || ask(&other));

        let out = ask(&registration);

        assert!(thread.join().unwrap() ^ out);
        assert_eq!(fate.calls(), 1);
        drop((letters.take(), registration));
        fate.ends(1);
        at_rest_alone(&root, 0);
    });
}

#[test]
fn the_share_of_an_ask_is_free_before_the_next_ask_begins() {
    check(|| {
        let (root, [cache]) = tree(128);
        root.set_spill_reserve(64);
        let fate = Fate::new();
        let (reclaim, letters) = hands_over(&fate);
        let registration = register(&cache, Cost::Spill, reclaim);
        let _taken = [(); 3].map(|()| root.take_spill_share().ok().flatten().unwrap());
        // With the fourth and last share.
        assert!(ask(&registration));
        let thread = answer(&fate, None, letters.take().unwrap());

        ask(&registration);

        thread.join().unwrap();
        let asked = registration.standing.asked.load(Ordering::Relaxed);
        assert_eq!(fate.calls(), asked as usize, "each ask had a share");
        drop((letters.take(), registration));
        fate.ends(1);
        at_rest_alone(&root, 48);
    });
}

#[test]
fn an_ask_is_answered_while_the_request_that_asked_is_given_up() {
    check_bounded(3, || {
        let (root, [cache, kept, query, next]) = tree(64);
        let fate = Fate::new();
        let (reclaim, letters) = hands_over(&fate);
        let guard = cache.on_shortage(Cost::Drop, reclaim);
        let (reclaim, unanswered) = hands_over(&Fate::new());
        let guards = (guard, kept.on_shortage(Cost::Spill, reclaim));
        let (held, more) = (holds(&cache, 48), holds(&kept, 16));
        let mut request = waits(&query, 48);
        assert!(poll(&mut request, Waker::noop()).is_none());
        let unanswered = unanswered.take().unwrap();
        let thread = answer(&fate, Some(held), letters.take().unwrap());

        drop(request);
        assert!(unanswered.is_over());
        let granted = obtain(&next, 48);
        fate.datum.write();

        thread.join().unwrap();
        drop((granted, more, unanswered, letters.take(), guards));
        fate.ends(1);
        at_rest_alone(&root, 0);
    });
}

#[test]
fn a_request_goes_on_asking_unless_an_ask_is_out() {
    check(|| {
        let (root, [later, now, query]) = tree(64);
        let (fate, other) = (Fate::new(), Fate::new());
        let (letters, answered) = (Arc::<Letters>::default(), Arc::new(AtomicBool::new(false)));
        let seen = Arc::new(Flag::new(false));
        let (puts, looks, notes) = (letters.clone(), answered.clone(), seen.clone());
        let reclaim = asked(&fate, move |ask| {
            puts.put(ask);
            // Acquire: partner of the Release below.
            notes.store(looks.load(Ordering::Acquire), Ordering::Relaxed);
        });
        let guard = later.on_shortage(Cost::Drop, reclaim);
        let (held, more) = (holds(&later, 32), Mutex::new(Some(holds(&now, 32))));
        let reclaim = asked(&other, move |_ask| drop(more.lock().unwrap().take()));
        let guards = (guard, now.on_shortage(Cost::Spill, reclaim));
        let (answering, asks) = (Arc::clone(&fate), Arc::clone(&letters));
        let thread = thread::spawn(move || {
            let ask = asks.wait();
            answering.datum.write();
            // It gave nothing back.
            drop(ask);
            // Release: partner of the Acquire above.
            answered.store(true, Ordering::Release);
        });

        let mut request = waits(&query, 16);
        let granted = poll(&mut request, Waker::noop());
        assert_eq!(granted.is_some(), other.calls() == 1);
        if granted.is_some() {
            fate.datum.write();
        } else {
            assert!(!seen.load(Ordering::Relaxed), "the next one is asked");
        }

        thread.join().unwrap();
        let granted = granted.or_else(|| {
            // After the patience, those who may answer later are not relied on any more.
            query.expire_waits(Instant::now() + 2 * PATIENCE);
            poll(&mut request, Waker::noop())
        });
        assert!(granted.is_some() && other.calls() == 1);
        drop((granted, request, held, letters.take(), guards));
        fate.ends(1);
        other.ends(1);
        at_rest_alone(&root, 0);
    });
}

#[test]
fn a_guard_is_dropped_while_its_reclaimer_is_asked() {
    check(|| {
        let (root, [cache, other, query]) = tree(64);
        let (fate, spared) = (Fate::new(), Fate::new());
        let held = Mutex::new(Some(holds(&cache, 64)));
        let reclaim = asked(&fate, move |_ask| drop(held.lock().unwrap().take()));
        let _other = other.on_shortage(Cost::Drop, hands_over(&spared).0);
        let guard = cache.on_shortage(Cost::Drop, reclaim);
        let thread = thread::spawn(move || {
            let granted = charge(&query.handle, 40).is_ok();
            (query, granted)
        });

        drop(guard);

        let (query, granted) = thread.join().unwrap();
        fate.ends(1);
        assert!(granted || fate.calls() == 0);
        at_rest_alone(&root, if granted { 40 } else { 0 });
        drop(query);
    });
}

#[test]
fn an_ask_that_its_reclaimer_keeps_is_answered_once_the_guard_is_dropped() {
    check(|| {
        let (root, [cache, query]) = tree(128);
        root.set_spill_reserve(64);
        let held = holds(&cache, 64);
        let (fate, kept) = (Fate::new(), Mutex::new(Vec::new()));
        let reclaim = asked(&fate, move |ask| kept.lock().unwrap().push(ask));
        let guard = cache.on_shortage(Cost::Spill, reclaim);
        let thread = thread::spawn(move || {
            assert!(charge(&query.handle, 40).is_err(), "nobody gives back");
        });

        drop(guard);

        thread.join().unwrap();
        fate.ends(1);
        drop(held);
        // The share that the ask had is free again.
        at_rest_alone(&root, 0);
    });
}

#[test]
fn an_ask_that_arrives_as_its_inbox_is_dropped_is_answered() {
    check(|| {
        let (root, [cache, query]) = tree(64);
        let held = holds(&cache, 64);
        let inbox = cache.reclaim_inbox(Cost::Drop);
        let dropped = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&dropped);
        let (missing, candidates) = query.handle.who_could_help(8, Turn::TRY);
        let thread = thread::spawn(move || {
            let shortage = Shortage::new(query.info().clone(), false);
            // Acquire: partner of the Release below.
            let dropped = seen.load(Ordering::Acquire);
            for candidate in candidates {
                let answer = candidate.reclaimer.ask(&shortage, missing, false);
                assert!(!(dropped && answer.out), "nobody is left to answer it");
            }
        });

        drop(inbox);
        // Release: partner of the Acquire above.
        dropped.store(true, Ordering::Release);

        thread.join().unwrap();
        drop(held);
        at_rest_alone(&root, 0);
    });
}

#[test]
fn a_thread_that_blocks_is_granted_what_its_ask_brings() {
    check(|| {
        let (root, [cache, query]) = tree(64);
        let held = holds(&cache, 64);
        let fate = Fate::new();
        let (reclaim, letters) = hands_over(&fate);
        let guard = cache.on_shortage(Cost::Drop, reclaim);
        let answering = Arc::clone(&fate);
        let thread = thread::spawn(move || {
            let ask = letters.wait();
            answering.datum.write();
            drop(held);
            drop(ask);
        });

        let granted = query.wait().reserve(40).unwrap();
        fate.datum.write();

        thread.join().unwrap();
        drop((granted, guard));
        fate.ends(1);
        at_rest_alone(&root, 0);
    });
}
