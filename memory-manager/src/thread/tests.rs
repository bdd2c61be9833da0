use std::cell::Cell;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use super::*;

/// What a hook, or the destructor of a thread-local, found.
#[derive(Debug, PartialEq)]
struct Found {
    /// What the hook was given.
    told: Option<usize>,
    /// The number of the thread, if it still has one.
    number: Option<usize>,
    /// Whether the thread can be told of its end.
    living: bool,
}

impl Found {
    fn now(told: Option<usize>) -> Self {
        Self {
            told,
            number: number(),
            living: at_end(&HOOK),
        }
    }
}

thread_local! {
    static REPORT: Cell<Option<mpsc::Sender<Found>>> = const { Cell::new(None) };
}

/// Says what it finds, to a thread of this module that wants to know.
static HOOK: AtEnd = AtEnd(|told| {
    // The report's own destructor may have run already: then its channel is closed.
    let report = REPORT.try_with(Cell::take);
    if let Ok(Some(report)) = report {
        report.send(Found::now(told)).expect("a test that listens");
    }
});

#[test]
fn living_threads_have_numbers_of_their_own_and_keep_them() {
    let mine = number().unwrap();
    let (said, others) = mpsc::channel();
    thread::scope(|scope| {
        let (hold, held): (Vec<_>, Vec<_>) = (0..20).map(|_| mpsc::channel::<()>()).unzip();
        for held in held {
            let said = said.clone();
            scope.spawn(move || {
                said.send(number().unwrap()).unwrap();
                let _ = held.recv();
                said.send(number().unwrap()).unwrap();
            });
        }
        let mut numbers: Vec<_> = others.iter().take(20).collect();
        numbers.push(mine);
        numbers.sort_unstable();
        assert!(
            numbers.windows(2).all(|pair| pair[0] < pair[1]),
            "{numbers:?}"
        );
        let there: Vec<_> = taken().collect();
        assert!(numbers.iter().all(|number| there.contains(number)));
        assert!(numbers.iter().all(|&number| number < ever()));

        drop(hold);
        numbers.retain(|&number| number != mine);
        let mut again: Vec<_> = others.iter().take(20).collect();
        again.sort_unstable();
        assert_eq!(again, numbers);
    });
    assert_eq!(
        (number(), thread_number(), index()),
        (Some(mine), mine, mine)
    );
}

#[test]
fn a_hook_is_called_once_with_the_number_that_its_thread_has_no_more() {
    let (report, found) = mpsc::channel();
    // Joined, so that its thread-locals are gone.
    let number = thread::spawn(move || {
        // Before the lease, so that it is dropped after it.
        REPORT.set(Some(report));
        assert!((0..3).all(|_| at_end(&HOOK)));
        number()
    });
    let number = number.join().unwrap();

    let found: Vec<_> = found.iter().collect();
    let expected = Found {
        told: number,
        number: None,
        living: false,
    };
    assert!(number.is_some());
    assert_eq!(found, [expected]);
}

#[test]
fn a_thread_that_never_asked_is_told_of_its_end_all_the_same() {
    let (report, found) = mpsc::channel();
    let thread = thread::spawn(move || {
        REPORT.set(Some(report));
        assert!(at_end(&HOOK));
    });
    thread.join().unwrap();

    let told: Vec<_> = found.iter().map(|found| found.told).collect();
    assert_eq!(told, [None]);
}

/// One more than a thread has room for.
static MANY: [AtEnd; 9] = [const {
    AtEnd(|_| {
        // Relaxed: read after the thread was joined.
        CALLS.fetch_add(1, Ordering::Relaxed);
    })
}; 9];

static CALLS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_thread_tells_eight_of_its_end_and_refuses_a_ninth() {
    let thread = thread::spawn(|| {
        let (ninth, eight) = MANY.split_last().unwrap();
        assert!(eight.iter().chain(eight).all(at_end));
        panic::catch_unwind(|| at_end(ninth)).ok()
    });
    let refused = thread.join().unwrap();

    // Debug builds say that `HOOKS` has to grow.
    assert_eq!(refused, (!cfg!(debug_assertions)).then_some(false));
    // Relaxed: the thread was joined.
    assert_eq!(CALLS.load(Ordering::Relaxed), 8);
}

/// Says, when its thread-local is dropped, what it finds.
struct Late(mpsc::Sender<Found>);

impl Drop for Late {
    fn drop(&mut self) {
        self.0.send(Found::now(None)).expect("a test that listens");
    }
}

#[test]
fn other_thread_locals_find_a_number_before_the_lease_is_dropped_and_none_after_it() {
    thread_local! {
        static BEFORE: Cell<Option<Late>> = const { Cell::new(None) };
        static AFTER: Cell<Option<Late>> = const { Cell::new(None) };
    }
    let (report, found) = mpsc::channel();

    let number = thread::spawn(move || {
        BEFORE.set(Some(Late(report.clone())));
        let number = number();
        AFTER.set(Some(Late(report)));
        number
    });
    let number = number.join().unwrap();

    // Whichever order thread-locals are dropped in, one of the two is dropped after the lease.
    let mut found: Vec<_> = found.iter().collect();
    found.sort_by_key(|found| found.number);
    let [late, early] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!((late.number, late.living), (None, false));
    assert_eq!((early.number, early.living), (number, true));
}

#[test]
fn a_number_that_is_asked_for_first_when_the_thread_is_ending_is_not_there() {
    thread_local!(static LATE: Cell<Option<Late>> = const { Cell::new(None) });
    let (report, found) = mpsc::channel();
    let thread = thread::spawn(move || {
        LATE.set(Some(Late(report)));
        // The lease is there, but the thread has no number.
        assert!(at_end(&HOOK));
    });
    thread.join().unwrap();

    // It depends on the order: a thread whose lease is still there may take a number until it ends.
    let found = found.recv().unwrap();
    assert_eq!(found.number.is_some(), found.living, "{found:?}");
}

#[test]
fn threads_without_a_number_are_spread_all_the_same() {
    struct Spreads(mpsc::Sender<usize>);
    impl Drop for Spreads {
        fn drop(&mut self) {
            self.0.send(thread_number()).expect("a test that listens");
        }
    }
    thread_local!(static LATE: Cell<Option<Spreads>> = const { Cell::new(None) });
    let (report, spread) = mpsc::channel();
    let mine = thread::spawn(move || {
        LATE.set(Some(Spreads(report)));
        thread_number()
    });
    let mine = mine.join().unwrap();

    // The low bits stay, so a thread that is ending keeps to its place among a few.
    assert_eq!(spread.recv().unwrap() % 16, mine % 16);
}

/// Says how the thread that is ending is spread, to a thread of this module that wants to know.
static SPREAD: AtEnd = AtEnd(|told| {
    if let Ok(Some(report)) = SPREAD_REPORT.try_with(Cell::take) {
        report
            .send((told, thread_number()))
            .expect("a test that listens");
    }
});

/// What a hook was told, and the result of `thread_number` in it.
type Spread = (Option<usize>, usize);

thread_local! {
    static SPREAD_REPORT: Cell<Option<mpsc::Sender<Spread>>> = const { Cell::new(None) };
}

#[test]
fn threads_that_end_without_ever_having_asked_are_spread() {
    let (report, found) = mpsc::channel();
    for _ in 0..8 {
        let report = report.clone();
        let thread = thread::spawn(move || {
            SPREAD_REPORT.set(Some(report));
            assert!(at_end(&SPREAD));
        });
        thread.join().unwrap();
    }
    drop(report);

    let (told, mut spread): (Vec<_>, Vec<_>) = found.iter().unzip();
    assert_eq!(told, [None; 8]);
    spread.sort_unstable();
    spread.dedup();
    assert_eq!(spread.len(), 8, "each has its own place: {spread:?}");
}
