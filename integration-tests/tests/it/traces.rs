//! Replays the reference traces on the real tree, and compares every number in every line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{AllocationManager, BufferAllocator, RootAllocator};
use arrow_memory_integration_tests::for_every_backend;
use arrow_memory_integration_tests::side_by_side::{Headroom, SideBySide};
use arrow_memory_integration_tests::trace::{Step, Trace};
use arrow_memory_integration_tests::tree::Ground;

type Backend = Arc<dyn AllocationManager>;

for_every_backend!(
    every_trace_replays_with_the_default_credit,
    every_trace_replays_without_credit,
    every_trace_replays_with_the_credit_of_a_few_buffers,
    eight_traces_on_eight_threads_below_one_root_do_not_see_one_another,
    eight_traces_on_eight_threads_do_not_see_one_another_without_credit,
);

fn every_trace_replays_with_the_default_credit(backend: &Backend) {
    replay_all(backend, None);
}

fn every_trace_replays_without_credit(backend: &Backend) {
    replay_all(backend, Some(0));
}

fn every_trace_replays_with_the_credit_of_a_few_buffers(backend: &Backend) {
    replay_all(backend, Some(5000));
}

fn eight_traces_on_eight_threads_below_one_root_do_not_see_one_another(backend: &Backend) {
    interleave_all(backend, None);
}

fn eight_traces_on_eight_threads_do_not_see_one_another_without_credit(backend: &Backend) {
    interleave_all(backend, Some(0));
}

fn replay_all(backend: &Backend, credit: Option<usize>) {
    for trace in Trace::all() {
        let manager = Arc::new(TrackingManager::over(Arc::clone(backend)));
        let ground = Ground::Root {
            manager: manager.clone(),
            credit,
        };
        let mut pair = SideBySide::new(ground, trace.rounding);
        for step in &trace.steps {
            replay(&trace, step, &mut pair, Headroom::Known);
            pair.verify();
        }
        assert_eq!(manager.live_bytes(), 0, "{}", trace.name);
    }
}

/// Checks one line: the model, the tree and the reference have to agree.
fn replay(trace: &Trace, step: &Step, pair: &mut SideBySide, headroom: Headroom) {
    let outcome = pair.apply(&step.operation);
    pair.compare(headroom);

    let place = format!("{}:{}: {:?}", trace.name, step.line, step.operation);
    assert!(outcome.agrees(&step.expected()), "{place}: {outcome:?}");
    let mut states = pair.model.states();
    if headroom == Headroom::Unknown {
        for (state, line) in states.iter_mut().zip(&step.states) {
            state.headroom = line.headroom;
        }
    }
    assert_eq!(states, step.states, "{place}");
}

/// Interleaves eight consecutive traces at a time, until each trace was in one set.
fn interleave_all(backend: &Backend, credit: Option<usize>) {
    let traces = Trace::all();
    let last = traces.len() - 8;
    for first in (0..last).step_by(8).chain([last]) {
        interleave(backend, &traces[first..first + 8], credit);
    }
}

/// Each trace's root becomes a child of one unlimited root, and each trace runs on its own thread. Between
/// two quiet points every thread runs a few lines and checks its own numbers; at a quiet point it checks all
/// numbers.
fn interleave(backend: &Backend, traces: &[Trace], credit: Option<usize>) {
    const LINES: usize = 6;
    let manager = Arc::new(TrackingManager::over(Arc::clone(backend)));
    let mut builder = RootAllocator::builder()
        .name("all")
        .allocation_manager(manager.clone());
    if let Some(credit) = credit {
        builder = builder.credit(credit);
    }
    let root: BufferAllocator = builder.build().expect("a manager was given").into();

    let rounds = traces.iter().map(|it| it.steps.len().div_ceil(LINES)).max();
    let barrier = QuietPoint::new(traces.len());
    let sums: Vec<AtomicUsize> = traces.iter().map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for (index, trace) in traces.iter().enumerate() {
            let (root, barrier, sums) = (&root, &barrier, &sums);
            scope.spawn(move || {
                let _fails_with_others = barrier.guard();
                let ground = Ground::Below(root.clone());
                let mut pair = SideBySide::new(ground, trace.rounding).with_credit(credit);
                let others_show = trace.root().1 > isize::MAX as usize / 2;
                let headroom = if others_show {
                    Headroom::Unknown
                } else {
                    Headroom::Known
                };
                let mut steps = trace.steps.chunks(LINES);
                for _ in 0..rounds.unwrap_or(0) {
                    for step in steps.next().unwrap_or_default() {
                        replay(trace, step, &mut pair, headroom);
                    }
                    at_quiet_point(root, barrier, sums, index, &mut pair);
                }
            });
        }
    });

    assert_eq!(root.allocated_memory(), 0);
    assert_eq!(manager.live_bytes(), 0);
    root.close().expect("everything was released");
}

fn at_quiet_point(
    root: &BufferAllocator,
    barrier: &QuietPoint,
    sums: &[AtomicUsize],
    index: usize,
    pair: &mut SideBySide,
) {
    let own = pair.model.states().first().map_or(0, |it| it.allocated);
    // Relaxed, both: the barrier orders the store before every load.
    sums[index].store(own, Ordering::Relaxed);
    barrier.wait();

    let all: usize = sums.iter().map(|it| it.load(Ordering::Relaxed)).sum();
    assert_eq!(root.allocated_memory(), all);
    assert_eq!(root.headroom(), isize::MAX - isize::try_from(all).unwrap());
    assert!(!root.is_over_limit());
    assert!(root.peak_memory_allocation() >= all);
    assert!(root.charged_memory() >= all);
    pair.model.set_beside(all - own);
    pair.compare(Headroom::Known);
    assert_eq!(root.verify(), Ok(()));
    barrier.wait();
}

/// A barrier at which no thread waits for one that failed.
struct QuietPoint {
    threads: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    failed: AtomicBool,
}

impl QuietPoint {
    fn new(threads: usize) -> Self {
        Self {
            threads,
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        }
    }

    fn wait(&self) {
        // Acquire, both: the partner is the Release below, so that each thread sees the work of the others.
        let round = self.round.load(Ordering::Acquire);
        // AcqRel: the last thread to arrive passes on the work of all before it.
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            // Relaxed: no thread reads it before the round is over.
            self.arrived.store(0, Ordering::Relaxed);
            // Release: the partners are the Acquires of `round`.
            self.round.store(round + 1, Ordering::Release);
        }
        while self.round.load(Ordering::Acquire) == round {
            // Relaxed: only the flag matters.
            assert!(
                !self.failed.load(Ordering::Relaxed),
                "another thread failed"
            );
            thread::yield_now();
        }
    }

    /// Ends the wait of all threads if this one panics.
    fn guard(&self) -> impl Drop {
        FailTogether(self)
    }
}

struct FailTogether<'a>(&'a QuietPoint);

impl Drop for FailTogether<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            // Relaxed: only the flag matters.
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}
