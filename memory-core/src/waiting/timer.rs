//! The thread that ends waits at their deadlines, and looks for levels that are stuck.
//!
//! There is one for the process, started when a request first waits. A tree is listed while it has requests that
//! wait. The thread wakes waiters, and does what the program's global allocator leaves to it (`tend`); those who are asked
//! for memory are called by the waiter. A forked child has no such thread until a request waits there.

use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::accounting::{Handle, has_tender, is_left, set_tender, tend};
use crate::allocator::{BufferAllocator, WeakBufferAllocator};
use crate::events;
use crate::sync::process::Order;
use crate::sync::{Ordering, ProcessLock, plain};

/// The timer thread and the trees that it looks after.
struct Timer {
    trees: Vec<WeakBufferAllocator>,
    /// Whether the thread was started in this process.
    started: bool,
    thread: Option<Thread>,
}

static TIMER: ProcessLock<Timer> = ProcessLock::new(
    Order::Inner,
    Timer {
        trees: Vec::new(),
        started: false,
        thread: None,
    },
)
.in_child(|timer| {
    timer.started = false;
    // To drop it may free memory.
    std::mem::forget(timer.thread.take());
    // Relaxed: the child has no other thread yet.
    NEXT.store(u64::MAX, Ordering::Relaxed);
});

/// When the thread will next look, in milliseconds since `EPOCH`, rounded up.
static NEXT: plain::AtomicU64 = plain::AtomicU64::new(u64::MAX);

/// The instant that `NEXT` counts from. Behind a lock that survives a fork, which a `OnceLock` does not.
fn epoch() -> Instant {
    static EPOCH: ProcessLock<Option<Instant>> = ProcessLock::new(Order::Inner, None);
    *EPOCH.lock().get_or_insert_with(Instant::now)
}

/// Milliseconds since the epoch, rounded up, so that the instant has passed by then.
fn milliseconds(at: Instant) -> u64 {
    let since = at.saturating_duration_since(epoch());
    u64::try_from(since.as_millis()).map_or(u64::MAX, |milliseconds| milliseconds + 1)
}

/// Has the thread look after the tree of an allocator where a request began to wait.
pub(super) fn arm(allocator: &BufferAllocator, now: Instant, deadline: Option<Instant>) {
    let tree = &allocator.handle.tree;
    if tree.config.own_timer {
        return;
    }
    let patient = now.checked_add(tree.config.patience);
    // SeqCst, here and in `look_after`: of a thread that lists a tree and the timer that takes it off the list,
    // one sees what the other did.
    if !tree.timed.swap(true, Ordering::SeqCst) {
        let root = allocator.root_allocator();
        if root.node().depth > 0 {
            // The allocator has left its tree meanwhile, and its request was refused.
            tree.timed.store(false, Ordering::SeqCst);
            return;
        }
        plain::push(|| TIMER.lock(), |timer| &mut timer.trees, root.downgrade());
    }
    let Some(at) = patient.into_iter().chain(deadline).min().map(milliseconds) else {
        return;
    };
    // SeqCst: the thread stores NEXT before it looks at trees, and loads it before it sleeps.
    if NEXT.fetch_min(at, Ordering::SeqCst) > at {
        wake();
    }
}

/// Starts the thread, for what sections of the global allocator leave. For trees whose deadlines the program keeps,
/// too: nobody else would wake who waits.
pub(super) fn start() {
    if !has_tender() {
        wake();
    }
}

/// Wakes the thread, or starts it.
#[cold]
fn wake() {
    let mut timer = TIMER.lock();
    let thread = timer.thread.clone();
    let starts = !std::mem::replace(&mut timer.started, true);
    drop(timer);
    if let Some(thread) = thread {
        thread.unpark();
    } else if starts {
        let builder = thread::Builder::new().name("arrow-memory-timer".to_owned());
        if let Err(error) = builder.spawn(run) {
            TIMER.lock().started = false;
            // So that the next request tries again. SeqCst, and so a Release: a request that loads this finds
            // `started` false.
            NEXT.store(u64::MAX, Ordering::SeqCst);
            events::no_timer(&error);
        }
    }
}

fn run() {
    let previous = TIMER.lock().thread.replace(thread::current());
    drop(previous);
    set_tender(thread::current());
    let mut trees = Vec::new();
    loop {
        // Nodes that are freed here may drop the program's listeners and managers.
        events::catch(tend);
        // SeqCst: see `arm`.
        NEXT.store(u64::MAX, Ordering::SeqCst);
        plain::copy_out(
            &mut trees,
            || TIMER.lock(),
            |timer| timer.trees.len(),
            |timer, into| into.extend(timer.trees.iter().cloned()),
        );
        let mut next = u64::MAX;
        for tree in trees.drain(..) {
            // A listener that is told of a node that leaves, or a subscriber, may panic.
            let panicked = events::catch(|| {
                if let Some(at) = look_after(&tree) {
                    next = next.min(milliseconds(at));
                }
            });
            if panicked {
                next = next.min(milliseconds(Instant::now() + Duration::from_millis(100)));
            }
        }
        // SeqCst: see `arm`.
        let at = NEXT.fetch_min(next, Ordering::SeqCst).min(next);
        // Foreign code that was called above may have parked this thread, and was unparked for this.
        if !is_left() {
            sleep_until(at);
        }
    }
}

fn sleep_until(at: u64) {
    if at == u64::MAX {
        return thread::park();
    }
    let due = epoch() + Duration::from_millis(at);
    let left = due.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        thread::park_timeout(left);
    }
}

/// Looks at a tree, and says when to look again. A tree without waiters is taken off the list.
fn look_after(tree: &WeakBufferAllocator) -> Option<Instant> {
    let Some(root) = tree.upgrade() else {
        forget(tree);
        return None;
    };
    let handle: &Handle = &root.handle;
    let next = handle.tick(Instant::now());
    if next.is_some() {
        return next;
    }
    // SeqCst: see `arm`. A request that begins to wait from here on lists the tree again.
    handle.tree.timed.store(false, Ordering::SeqCst);
    let next = handle.tick(Instant::now());
    match next {
        // It saw the tree listed.
        Some(_) => handle.tree.timed.store(true, Ordering::SeqCst),
        None => forget(tree),
    }
    next
}

/// Takes one entry of a tree off the list.
fn forget(tree: &WeakBufferAllocator) {
    let mut timer = TIMER.lock();
    let place = timer.trees.iter().position(|one| one.is(tree));
    let gone = place.map(|place| timer.trees.swap_remove(place));
    drop(timer);
    drop(gone);
}
