//! Users' code may do anything in a callback of the library: no lock of the library is held there.
//!
//! A listener, a `tracing` subscriber, an owner of foreign memory, a backend that starts, and the `Drop` of
//! each take a lock of the program and use the library under it. Meanwhile other threads do the same, and
//! call every function that takes a global lock of the library. A deadlocked program is ended after a minute.
//!
//! A regression: sampling's rules were applied under a lock under which the last handle of a tree could be
//! dropped. A listener's `Drop` that read the rules, or a subscriber that built a root, then deadlocked every
//! thread that built a root.
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use arrow_memory_core::testing::{StdManager, locks_held};
use arrow_memory_core::{
    AllocationListener, AllocationManager, AllocationOutcome, AllocatorInfo, ForeignAllocation,
    LeakCheck, LoggingManager, ManagerError, MetricsExporter, RootAllocator, Veto, backend,
    sampling,
};
use arrow_memory_system as _;
use tracing::{Event, Metadata, Subscriber, span};

/// The time after which the program counts as deadlocked; it usually takes a second.
const PATIENCE: Duration = Duration::from_secs(60);

const ENOUGH: Duration = Duration::from_millis(2500);

/// The lock of the program.
static SHARED: Mutex<usize> = Mutex::new(0);

/// The number of calls of users' code.
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// The number of calls of users' code while the thread held a lock of the library.
static UNDER_LOCKS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether the thread is in `meddle`, or must not call it.
    static MEDDLING: Cell<bool> = const { Cell::new(false) };
}

/// Uses the library under the program's lock, except inside of itself.
fn meddle() {
    // Counted and not asserted, since a panic in a callback may be caught.
    UNDER_LOCKS.fetch_add(usize::from(locks_held() > 0), Ordering::Relaxed);
    if MEDDLING.replace(true) {
        return;
    }
    CALLS.fetch_add(1, Ordering::Relaxed);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    *shared += 1;
    let root = RootAllocator::unlimited();
    let child = root.child("meddling").build().unwrap();
    let buffer = child.buffer(100).unwrap();
    drop((sampling::patterns(), root.report(), backend::supported()));
    if shared.is_multiple_of(16) {
        drop((sampling::report(), child.close(), root.snapshot()));
    }
    drop((buffer, child, root));
    drop(shared);
    MEDDLING.set(false);
}

struct Listener;

impl AllocationListener for Listener {
    fn on_pre_allocation(&self, _: &AllocatorInfo, _: usize) -> Result<(), Veto> {
        meddle();
        Ok(())
    }

    fn on_allocation(&self, _: &AllocatorInfo, _: usize) {
        meddle();
    }

    fn on_release(&self, _: &AllocatorInfo, _: usize) {
        meddle();
    }

    fn on_failed_allocation(&self, _: &AllocatorInfo, _: usize, _: &AllocationOutcome) -> bool {
        meddle();
        false
    }

    fn on_transfer(&self, _: &AllocatorInfo, _: &AllocatorInfo, _: usize) {
        meddle();
    }

    fn on_child_added(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        meddle();
    }

    fn on_child_removed(&self, _: &AllocatorInfo, _: &AllocatorInfo) {
        meddle();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        meddle();
    }
}

struct Owner(Vec<u8>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        meddle();
    }
}

struct Watcher;

impl Subscriber for Watcher {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        meddle();
        *metadata.level() <= tracing::Level::DEBUG
            && metadata.target().starts_with("arrow_memory_core")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        meddle();
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        meddle();
    }

    fn enter(&self, _: &span::Id) {
        meddle();
    }

    fn exit(&self, _: &span::Id) {
        meddle();
    }
}

fn start_meddling() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    meddle();
    Ok(Arc::new(StdManager))
}

fn fail_to_start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
    meddle();
    Err(ManagerError::new("no luck"))
}

static MEDDLER: backend::BackendRegistration = backend::BackendRegistration {
    name: "meddling",
    preference: 0,
    manager: start_meddling,
};

static FAILING: backend::BackendRegistration = backend::BackendRegistration {
    name: "failing",
    preference: 0,
    manager: fail_to_start,
};

fn sample() {
    sampling::start("*", 1 << 20);
    sampling::start("kid*", 512);
    drop(sampling::report());
    sampling::stop("*");
    drop(sampling::who_holds());
    sampling::stop_all();
    sampling::reset();
}

fn roots() {
    let root = RootAllocator::builder()
        .listener(Arc::new(Listener))
        .build()
        .unwrap();
    let kids: Vec<_> = (0..50)
        .map(|i| root.child(&format!("kid-{i}")).build().unwrap())
        .collect();
    let buffer = kids[0].buffer(64).unwrap();
    kids[1].allocate_bytes(64).unwrap();
    drop(kids);
    // These outlive the last handle, which emits an event.
    drop(root);
    drop(buffer);
}

/// Makes and drops many roots, while other threads walk over them.
fn many_roots() {
    for _ in 0..50 {
        // No meddling in this thread's own calls: this is about other threads that drop the last handle.
        MEDDLING.set(true);
        let root = RootAllocator::builder().listener(Arc::new(Listener));
        let root = root.debug(false).build().unwrap();
        let kids: Vec<_> = (0..50)
            .map(|_| root.child("kid").build().unwrap())
            .collect();
        let buffer = root.buffer(64).unwrap();
        drop(kids);
        drop(root);
        drop(buffer);
        MEDDLING.set(false);
    }
}

fn rules() {
    for _ in 0..50 {
        sampling::start("*", 1 << 20);
        sampling::stop("*");
    }
}

fn backends() {
    backend::register(&MEDDLER);
    backend::register(&FAILING);
    drop((backend::supported(), backend::manager("meddling").unwrap()));
    drop(backend::manager("failing").unwrap_err());
    drop((
        backend::default_manager().unwrap(),
        backend::set_default("meddling"),
    ));
    drop(backend::default_manager_besides("system"));
}

fn closing() {
    let root = RootAllocator::builder()
        .limit(10_000)
        .listener(Arc::new(Listener));
    let root = root.debug(true).build().unwrap();
    let (a, b) = (
        root.child("a").build().unwrap(),
        root.child("b").build().unwrap(),
    );
    let foreign = ForeignAllocation::from_owner(Owner(vec![1; 100]));
    let foreign = a.wrap_foreign_allocation(foreign).unwrap();
    let shared = foreign.retain_in(&b).unwrap();
    let reserved = b.new_reservation();
    let check = LeakCheck::new(&root);
    drop(b.buffer(20_000).unwrap_err());
    drop(check);
    drop((a.close().unwrap_err(), b.close().unwrap_err()));
    drop((root.to_verbose_string(), root.snapshot(), foreign));
    drop((shared, reserved));
}

fn exports() {
    let manager = Arc::new(LoggingManager::new(Arc::new(StdManager)));
    let root = RootAllocator::builder().allocation_manager(manager);
    let root = root.listener(Arc::new(Listener)).build().unwrap();
    let mut exporter = MetricsExporter::new(&root);
    for _ in 0..10 {
        let child = root.child("exported").build().unwrap();
        let buffer = child.buffer(64).unwrap();
        assert!(exporter.export());
        drop(child);
        drop(buffer);
    }
    drop(root);
    exporter.export();
}

#[test]
fn users_code_may_take_locks_and_use_the_library_wherever_it_is_called() {
    tracing::subscriber::set_global_default(Watcher).unwrap();
    let (done, ended) = mpsc::channel();
    let work: [(&str, fn()); 10] = [
        ("rules", rules),
        ("many roots", many_roots),
        ("many roots", many_roots),
        ("sample", sample),
        ("sample", sample),
        ("roots", roots),
        ("roots", roots),
        ("backends", backends),
        ("closing", closing),
        ("exports", exports),
    ];
    for (name, turn) in work {
        let done = done.clone();
        // Not scoped, since a scope would wait for deadlocked threads.
        thread::spawn(move || {
            let (start, mut turns) = (Instant::now(), 0);
            while turns == 0 || start.elapsed() < ENOUGH {
                turn();
                turns += 1;
            }
            done.send((name, turns)).unwrap();
        });
    }
    drop(done);

    let by = Instant::now() + PATIENCE;
    let mut missing: Vec<&str> = work.iter().map(|(name, _)| *name).collect();
    while !missing.is_empty() {
        let patience = by.saturating_duration_since(Instant::now());
        match ended.recv_timeout(patience) {
            Ok((name, _)) => {
                let index = missing.iter().position(|missing| *missing == name).unwrap();
                missing.remove(index);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("locked up for {PATIENCE:?}: {missing:?}")
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("a thread panicked: {missing:?}"),
        }
    }
    assert!(CALLS.load(Ordering::Relaxed) > 100);
    let under_locks = UNDER_LOCKS.load(Ordering::Relaxed);
    assert_eq!(under_locks, 0, "users' code ran under a lock");
}
