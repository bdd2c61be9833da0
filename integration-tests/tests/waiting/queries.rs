//! A thousand queries, sixteen at a time, where memory suffices for a third of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use arrow_memory_core::{RootAllocator, Wait, WaitError};

use crate::support::{assert_empty, builder, runtime};

const QUERIES: usize = 1000;
const AT_A_TIME: usize = 16;
const UNIT: usize = 4 << 10;
/// A query needs three units in the end, and sixteen queries need 48.
const LIMIT: usize = 16 * UNIT;

/// The tree and the counts of one run.
struct Run {
    root: RootAllocator,
    next: AtomicUsize,
    finished: AtomicUsize,
    cancelled: AtomicUsize,
    told: AtomicUsize,
    /// Waits that were granted after they were queued.
    granted: AtomicUsize,
    woken: AtomicUsize,
}

impl Run {
    fn new() -> Arc<Self> {
        let count = || AtomicUsize::new(0);
        Arc::new(Self {
            root: builder(LIMIT)
                .patience(Duration::from_millis(5))
                .build()
                .unwrap(),
            next: count(),
            finished: count(),
            cancelled: count(),
            told: count(),
            granted: count(),
            woken: count(),
        })
    }

    fn next(&self) -> Option<usize> {
        Some(add(&self.next)).filter(|&index| index < QUERIES)
    }

    fn check(&self) {
        let ended = (count(&self.finished), count(&self.cancelled));
        assert_eq!(ended.0 + ended.1, QUERIES);
        assert!(ended.0 > QUERIES / 2, "{ended:?}");
        assert_empty(&self.root);
    }

    /// Checks that no wait is woken in vain: a wake-up per grant, and some for those that gave way.
    fn check_wakes(&self, executor: &str) {
        self.check();
        let (granted, woken) = (count(&self.granted), count(&self.woken));
        println!(
            "{executor}: {} finished, {} cancelled, {} gave way; {woken} wake-ups for {granted} granted waits",
            count(&self.finished),
            count(&self.cancelled),
            count(&self.told),
        );
        assert!(granted > 0, "no query had to wait");
        assert!(2 * woken <= 3 * granted, "{woken} for {granted}");
    }
}

fn add(count: &AtomicUsize) -> usize {
    count.fetch_add(1, Ordering::Relaxed)
}

fn count(count: &AtomicUsize) -> usize {
    count.load(Ordering::Relaxed)
}

/// Runs queries until none is left. Every eighth one is cancelled soon, wherever it is.
async fn work(run: Arc<Run>) {
    while let Some(index) = run.next() {
        let rounds = if index % 8 == 7 {
            fastrand::usize(..40)
        } else {
            usize::MAX
        };
        let query = CancelledAfter {
            rounds,
            future: Box::pin(query(Arc::clone(&run), index)),
        };
        add(match query.await {
            Some(()) => &run.finished,
            None => &run.cancelled,
        });
    }
}

/// A query that holds one unit and wants two more, in one or two steps; or is admitted with all of them.
async fn query(run: Arc<Run>, index: usize) {
    let name = format!("query-{index}");
    if index.is_multiple_of(2) {
        let admission = run.root.admit(&name).reservation(3 * UNIT);
        let query = counted(&run, admission).await.unwrap();
        let buffer = query.wait().buffer_async(3 * UNIT).await.unwrap();
        pause(fastrand::usize(..20)).await;
        drop(buffer);
        return;
    }
    let query = run.root.child(&name).limit(3 * UNIT).build().unwrap();
    let reserve = |wait: Wait<'_>, bytes| counted(&run, wait.reserve_async(bytes));
    let mut held = Some(reserve(query.wait(), UNIT).await.unwrap());
    pause(fastrand::usize(..20)).await;
    let mut wait = query.wait();
    loop {
        let bytes = if held.is_some() { 2 * UNIT } else { 3 * UNIT };
        match reserve(wait, bytes).await {
            Ok(more) => {
                pause(fastrand::usize(..20)).await;
                drop((held, more));
                return;
            }
            Err(WaitError::GiveWay(give_way)) => {
                held = None;
                add(&run.told);
                wait = query.wait().after(give_way);
            }
            Err(error) => panic!("{error:#}"),
        }
    }
}

/// Lets other tasks run so many times.
async fn pause(mut rounds: usize) {
    std::future::poll_fn(|context| {
        if rounds == 0 {
            return Poll::Ready(());
        }
        rounds -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Drops its future after so many polls, which it causes itself.
struct CancelledAfter<F> {
    rounds: usize,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for CancelledAfter<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        if self.rounds == usize::MAX {
            return Poll::Pending;
        }
        if self.rounds == 0 {
            return Poll::Ready(None);
        }
        self.rounds -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A wait whose wake-ups are counted.
struct Counted<F> {
    future: Pin<Box<F>>,
    through: Arc<Through>,
    queued: bool,
}

/// A waker that counts, and wakes the task that polled last.
struct Through {
    run: Arc<Run>,
    task: Mutex<Waker>,
}

impl Wake for Through {
    fn wake(self: Arc<Self>) {
        add(&self.run.woken);
        self.task.lock().unwrap().wake_by_ref();
    }
}

fn counted<F: IntoFuture>(run: &Arc<Run>, wait: F) -> Counted<F::IntoFuture> {
    Counted {
        future: Box::pin(wait.into_future()),
        through: Arc::new(Through {
            run: Arc::clone(run),
            task: Mutex::new(Waker::noop().clone()),
        }),
        queued: false,
    }
}

impl<T, F: Future<Output = Result<T, WaitError>>> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.through
            .task
            .lock()
            .unwrap()
            .clone_from(context.waker());
        let waker = Waker::from(Arc::clone(&self.through));
        let ended = self.future.as_mut().poll(&mut Context::from_waker(&waker));
        match &ended {
            Poll::Pending => self.queued = true,
            Poll::Ready(Ok(_)) if self.queued => drop(add(&self.through.run.granted)),
            Poll::Ready(_) => {}
        }
        ended
    }
}

#[test]
fn a_thousand_queries_on_tokio_end_and_wake_no_more_than_they_are_granted() {
    let run = Run::new();
    let runtime = runtime(2);

    let tasks: Vec<_> = (0..AT_A_TIME)
        .map(|_| runtime.spawn(work(Arc::clone(&run))))
        .collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }

    run.check_wakes("tokio");
}

#[test]
fn a_thousand_queries_on_smol_end_and_wake_no_more_than_they_are_granted() {
    let run = Run::new();
    let executor = smol::Executor::new();
    let tasks: Vec<_> = (0..AT_A_TIME)
        .map(|_| executor.spawn(work(Arc::clone(&run))))
        .collect();
    let all = async {
        for task in tasks {
            task.await;
        }
    };

    thread::scope(|scope| {
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        let executor = &executor;
        scope.spawn(move || smol::block_on(executor.run(stopped.recv())));
        smol::block_on(executor.run(all));
        drop(stop);
    });

    run.check_wakes("smol");
}

/// Wake-ups of threads are not counted: `park` does not say why it returns.
#[test]
fn a_thousand_queries_on_threads_end() {
    let run = Run::new();

    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(index) = run.next() {
                    add(match query_of_a_thread(&run, index) {
                        Ok(()) => &run.finished,
                        Err(WaitError::TimedOut(_)) if index % 8 == 7 => &run.cancelled,
                        Err(error) => panic!("{error:#}"),
                    });
                }
            });
        }
    });

    run.check();
}

/// The same query as [`query`]. Every eighth one gives up soon if it has to wait.
fn query_of_a_thread(run: &Run, index: usize) -> Result<(), WaitError> {
    let name = format!("query-{index}");
    let long = Duration::from_secs(50);
    let patience = if index % 8 == 7 {
        Duration::from_micros(fastrand::u64(..500))
    } else {
        long
    };
    if index.is_multiple_of(2) {
        let query = run
            .root
            .admit(&name)
            .reservation(3 * UNIT)
            .blocking(patience)?;
        let buffer = query.wait().buffer(3 * UNIT)?;
        thread::yield_now();
        drop(buffer);
        return Ok(());
    }
    let query = run.root.child(&name).limit(3 * UNIT).build()?;
    let mut held = Some(query.wait().at_most(patience).reserve(UNIT)?);
    thread::yield_now();
    let mut wait = query.wait();
    loop {
        let bytes = if held.is_some() { 2 * UNIT } else { 3 * UNIT };
        match wait.at_most(patience).reserve(bytes) {
            Err(WaitError::GiveWay(give_way)) => {
                held = None;
                add(&run.told);
                wait = query.wait().after(give_way);
            }
            ended => return ended.map(drop),
        }
    }
}
