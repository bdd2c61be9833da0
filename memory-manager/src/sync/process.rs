//! [`ProcessLock`]: a lock of the whole process, which survives a fork.
//!
//! # Fork
//!
//! A child process has one thread, the copy of the one that called `fork`. A lock that another thread
//! held at that instant stays locked there forever, and the data that it guards may be half changed. So on
//! unix, handlers of `pthread_atfork` take every [`ProcessLock`] that is in use before a fork, and
//! release them in the parent and in the child: then no other thread holds one at that instant.
//!
//! The forking thread waits in `fork` until the locks are free, which takes microseconds, plus a walk over as
//! many trees as ever lived at once. It should hold none of the locks itself, and usually does not, since no
//! foreign code runs under them. If a thread forks while it holds one or waits for one (from a signal handler, for example),
//! the handlers take no lock, because the thread would wait for itself. Its child then has the locks as they
//! were at that instant. This does not hold for the locks of managers, which release builds do not count
//! ([`ProcessLock::lock_listed`]): a signal handler that interrupts an arena and forks waits forever.
//!
//! Between the two handlers the forking thread holds every lock. Other libraries' handlers run there,
//! too: those that were installed before ours, which are installed when the first lock is listed. Such a
//! handler waits for itself forever if it allocates from a tree, releases anything to one or asks
//! for a report. If it takes a lock under which another thread uses this library, the two wait for each
//! other. So a handler that does either must be installed after the first root was built: then it runs
//! before our locks are taken, and after they are released.
//!
//! # Invariants
//!
//! 1. A lock is listed before it is first taken, and stays listed. A lock that is taken under another
//!    one is listed before it nests: a thread that holds a lock must not wait for `LIST`, since the
//!    thread that forks has that and waits for the lock.
//! 2. `next` and `held` of every lock, and the list, are touched only with `LIST` locked. The thread
//!    that forks has it locked from before the first lock is taken until after the last is released,
//!    in the parent and, as its copy, in the child. So a lock that is being listed by another thread
//!    is either taken by the fork, or not yet taken by anybody.
//! 3. `held` is `None` but during a fork.
//! 4. A thread that holds a lock takes only locks of a later [`Order`]. Debug builds check that.
#![expect(
    unsafe_code,
    reason = "guards are kept in statics between two handlers of one thread"
)]

#[cfg_attr(all(unix, not(any(loom, miri))), path = "fork/unix.rs")]
#[cfg_attr(not(all(unix, not(any(loom, miri)))), path = "fork/none.rs")]
mod platform;

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicBool, Ordering};

use super::current::unscoped;
use super::plain::{Guard, Mutex, MutexGuard, held, lock, lock_uncounted, push};
use super::table::spread;

/// The order in which locks are nested, and in which a fork takes them. A thread that holds a lock
/// takes only locks of a later order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Locks under which a tree's mutex may be taken: sampling's rules, and registries that look up
    /// buffers.
    Outer,
    /// The mutexes of trees. No thread holds two of them.
    Tree,
    /// Locks under which no other is taken.
    Inner,
}

impl Order {
    const ALL: [Self; 3] = [Self::Outer, Self::Tree, Self::Inner];
}

/// A lock of the whole process, or of a part that is never freed. A fork waits until it is free.
#[repr(C, align(64))] // Alone on its cache lines; what every use touches is together in front.
pub struct ProcessLock<T: Send + 'static> {
    mutex: Mutex<T>,
    /// Whether it is in the list.
    listed: AtomicBool,
    order: Order,
    /// Called in a forked child with the value, before the lock is released.
    in_child: Option<fn(&mut T)>,
    /// The lock that was listed before.
    next: UnsafeCell<Option<&'static dyn Forked>>,
    /// During a fork, what the forking thread holds.
    held: UnsafeCell<Option<MutexGuard<'static, T>>>,
}

// SAFETY: the mutex is Sync for a T that is Send. By invariant 2 `next` and `held` are touched under
// one lock; the guard in `held` is made and dropped by the thread that forks, as which the child's
// only thread counts: it is a copy of it.
unsafe impl<T: Send> Sync for ProcessLock<T> {}

impl<T: Send> ProcessLock<T> {
    /// A lock, not listed yet.
    pub const fn new(order: Order, value: T) -> Self {
        Self {
            mutex: Mutex::new(value),
            listed: AtomicBool::new(false),
            order,
            in_child: None,
            next: UnsafeCell::new(None),
            held: UnsafeCell::new(None),
        }
    }

    /// Has `change` called for the value in each forked child, where no other thread of the parent
    /// exists. It runs with all locks held, so it must not take any, nor allocate.
    pub const fn in_child(mut self, change: fn(&mut T)) -> Self {
        self.in_child = Some(change);
        self
    }

    /// Takes the lock.
    #[inline]
    pub fn lock(&'static self) -> ProcessGuard<T> {
        // Acquire: partner of the Release in `list`: the handlers are installed.
        if !self.listed.load(Ordering::Acquire) {
            self.list();
        }
        self.take()
    }

    /// Takes a lock that [`HandedOn`] made, which is listed: for managers, whose locks are taken for each
    /// block. Counts it in debug builds and for tests only.
    #[inline]
    pub fn lock_listed(&'static self) -> ListedGuard<T> {
        // Relaxed: an assertion about a value that no longer changes.
        debug_assert!(self.listed.load(Ordering::Relaxed));
        #[cfg(any(debug_assertions, feature = "testing"))]
        return self.take();
        #[cfg(not(any(debug_assertions, feature = "testing")))]
        lock_uncounted(&self.mutex)
    }

    #[inline]
    fn take(&'static self) -> ProcessGuard<T> {
        let nested = Nested::enter(self.order);
        ProcessGuard(lock(&self.mutex), nested)
    }

    /// Has every fork from now on take this lock. It must be called before the lock is taken under
    /// another one; [`lock`](Self::lock) calls it otherwise.
    #[cold]
    pub fn list(&'static self) {
        debug_assert_eq!(held(), 0, "listed under another lock");
        install();
        let mut newest = lock(&LIST);
        // Relaxed: written with `LIST` locked.
        if self.listed.load(Ordering::Relaxed) {
            return;
        }
        let next = newest.replace(self);
        // SAFETY: by invariant 2, `LIST` being locked.
        unsafe { *self.next.get() = next };
        // Release: partner of the Acquire in `lock`.
        self.listed.store(true, Ordering::Release);
    }
}

impl<T: Send> ProcessLock<Vec<T>> {
    /// Pushes `value`. The vector grows while the lock is free.
    pub fn push(&'static self, value: T) {
        push(|| self.lock(), |list| list, value);
    }
}

/// Locks that have one owner at a time, which may come and go: they are never freed, but handed on.
/// There are as many as owners ever lived at once.
pub struct HandedOn<T: Send + 'static>(ProcessLock<Vec<&'static ProcessLock<T>>>);

impl<T: Send> HandedOn<T> {
    /// None yet.
    pub const fn new() -> Self {
        Self(ProcessLock::new(Order::Inner, Vec::new()))
    }

    /// A lock that has no owner: one that was [left](Self::leave), or what `make` makes.
    pub fn take(&'static self, make: impl FnOnce() -> ProcessLock<T>) -> &'static ProcessLock<T> {
        let left = self.0.lock().pop();
        left.unwrap_or_else(|| {
            let made: &'static ProcessLock<T> = unscoped(|| Box::leak(Box::new(make())));
            made.list();
            made
        })
    }

    /// Leaves a lock to the next owner, with what it guards.
    pub fn leave(&'static self, lock: &'static ProcessLock<T>) {
        self.0.push(lock);
    }
}

impl<T: Send> Default for HandedOn<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A few locks of the process for values whose owners may be freed. A fork cannot list a lock that may be
/// freed, so the mutex of such a value is taken only under one of these.
pub struct ObjectLocks([ProcessLock<()>; 16]);

impl ObjectLocks {
    /// Locks for the values of one kind of object.
    pub const fn new() -> Self {
        Self([const { ProcessLock::new(Order::Inner, ()) }; 16])
    }

    /// Calls `work` with the value, locked. The rules for locks hold for it.
    pub fn with<T, R>(&'static self, value: &Mutex<T>, work: impl FnOnce(&mut T) -> R) -> R {
        let key = spread(std::ptr::from_ref(value).addr()) as usize;
        let _shared = self.0[key % self.0.len()].lock();
        work(&mut lock(value))
    }
}

impl Default for ObjectLocks {
    fn default() -> Self {
        Self::new()
    }
}

/// A [`ProcessLock`], held.
pub struct ProcessGuard<T: 'static>(
    Guard<'static, T>,
    #[allow(dead_code, reason = "dropped")] Nested,
);

/// What [`ProcessLock::lock_listed`] returns.
#[cfg(any(debug_assertions, feature = "testing"))]
pub type ListedGuard<T> = ProcessGuard<T>;
/// What [`ProcessLock::lock_listed`] returns.
#[cfg(not(any(debug_assertions, feature = "testing")))]
pub type ListedGuard<T> = MutexGuard<'static, T>;

/// In debug builds, that the thread holds a lock of this order.
struct Nested(#[cfg(debug_assertions)] Order);

impl Nested {
    #[cfg(debug_assertions)]
    fn enter(order: Order) -> Self {
        let held = ORDERS.get();
        // The lowest bit is that of `Outer`.
        assert!(
            held >> order as u8 == 0,
            "a lock of order {order:?} is taken under one that is not of an earlier order"
        );
        ORDERS.set(held | 1 << order as u8);
        Self(order)
    }

    #[cfg(not(debug_assertions))]
    #[inline]
    fn enter(_: Order) -> Self {
        Self()
    }
}

#[cfg(debug_assertions)]
impl Drop for Nested {
    fn drop(&mut self) {
        ORDERS.set(ORDERS.get() & !(1 << self.0 as u8));
    }
}

#[cfg(debug_assertions)]
thread_local! {
    /// The orders of the locks that the thread holds, a bit each: by invariant 4 it holds one lock of
    /// each at maximum. Without a destructor.
    static ORDERS: Cell<u8> = const { Cell::new(0) };
}

impl<T> std::ops::Deref for ProcessGuard<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> std::ops::DerefMut for ProcessGuard<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// The operations of a lock that the fork handlers call.
///
/// # Safety
///
/// All is called with `LIST` locked; `release` by the thread that called `acquire`, or by its copy in
/// a forked child.
trait Forked: Sync {
    fn order(&self) -> Order;
    /// The lock that was listed before.
    unsafe fn next(&self) -> Option<&'static dyn Forked>;
    unsafe fn acquire(&'static self);
    /// Calls the lock's `in_child` function, in a child.
    unsafe fn change_in_child(&self);
    unsafe fn release(&self);
}

impl<T: Send> Forked for ProcessLock<T> {
    fn order(&self) -> Order {
        self.order
    }

    unsafe fn next(&self) -> Option<&'static dyn Forked> {
        // SAFETY: the caller's promise and invariant 2.
        unsafe { *self.next.get() }
    }

    unsafe fn acquire(&'static self) {
        let guard = lock_uncounted(&self.mutex);
        // SAFETY: as above.
        unsafe { *self.held.get() = Some(guard) };
    }

    unsafe fn change_in_child(&self) {
        // SAFETY: as above.
        let held = unsafe { &mut *self.held.get() };
        if let (Some(change), Some(value)) = (self.in_child, held) {
            change(value);
        }
    }

    unsafe fn release(&self) {
        // SAFETY: as above.
        drop(unsafe { (*self.held.get()).take() });
    }
}

type List = Option<&'static dyn Forked>;

/// The lock that was listed last. The first that a fork takes.
static LIST: Mutex<List> = Mutex::new(None);

/// During a fork, the forking thread's hold on `LIST`.
struct Forking(UnsafeCell<Option<MutexGuard<'static, List>>>);

// SAFETY: touched only by the thread that has `LIST` locked.
unsafe impl Sync for Forking {}

static FORKING: Forking = Forking(UnsafeCell::new(None));

thread_local! {
    /// How often the thread has called `before_fork` and not yet `after_fork`: the handlers may be
    /// installed twice.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Whether the first of these calls took the locks.
    static TOOK: Cell<bool> = const { Cell::new(false) };
}

/// Whether the thread is between the handlers around a fork, in which it may hold every lock of the process
/// without counting them. It must not wait for any lock then.
pub fn forking() -> bool {
    DEPTH.get() > 0
}

fn install() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    // Two threads may both install the handlers, which is no harm. A `Once` could not do without
    // a lock of its own, which a fork could find taken.
    // Acquire and Release: partners of each other. A thread that sees the flag runs after the call.
    if !INSTALLED.load(Ordering::Acquire) {
        platform::install(before_fork, after_fork, after_fork_in_child);
        INSTALLED.store(true, Ordering::Release);
    }
}

/// Takes every listed lock, in order, unless the thread holds one already. Neither allocates nor frees.
extern "C" fn before_fork() {
    let depth = DEPTH.get();
    DEPTH.set(depth + 1);
    if depth > 0 || held() > 0 {
        return;
    }
    let list = lock_uncounted(&LIST);
    for order in Order::ALL {
        for_each(*list, |lock| {
            if lock.order() == order {
                // SAFETY: `LIST` is locked by this thread.
                unsafe { lock.acquire() };
            }
        });
    }
    // SAFETY: `LIST` is locked by this thread.
    unsafe { *FORKING.0.get() = Some(list) };
    TOOK.set(true);
}

/// Releases what `before_fork` took, in the parent.
extern "C" fn after_fork() {
    release(false);
}

/// Releases what `before_fork` took, in the child.
extern "C" fn after_fork_in_child() {
    release(true);
}

fn release(in_child: bool) {
    // None if the handlers were installed by another thread after this fork had begun.
    let Some(depth) = DEPTH.get().checked_sub(1) else {
        return;
    };
    DEPTH.set(depth);
    if depth > 0 || !TOOK.replace(false) {
        return;
    }
    // SAFETY: `LIST` is locked since `before_fork`, by this thread or by the one that it is a copy of.
    let list = unsafe { (*FORKING.0.get()).take() };
    let Some(list) = list else { return };
    if in_child {
        for_each(*list, |lock| {
            // SAFETY: as above.
            unsafe { lock.change_in_child() };
        });
    }
    for_each(*list, |lock| {
        // SAFETY: as above.
        unsafe { lock.release() };
    });
}

/// Calls `visit` for each listed lock; `LIST` is locked.
fn for_each(newest: List, visit: impl Fn(&'static dyn Forked)) {
    let mut next = newest;
    while let Some(lock) = next {
        visit(lock);
        // SAFETY: `LIST` is locked by the caller.
        next = unsafe { lock.next() };
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
