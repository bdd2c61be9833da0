//! [`Scope`]: what is allocated while it is entered is charged to its allocator.
#![expect(unsafe_code, reason = "finds the thread's scope by a pointer to it")]

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr;
use std::sync::Arc;

use arrow_memory_core::{AllocError, BufferAllocator};

use crate::{Overdraft, fork, labels};
use arrow_memory_core::__private::heap::{self, Account, Heap};

thread_local! {
    /// The scope that the thread runs in, or null. Without a destructor. While it is not null, a call of `run` below
    /// on the stack has a reference to the scope.
    static CURRENT: Cell<*const Arc<Heap>> = const { Cell::new(ptr::null()) };
}

/// A part of the program whose heap is charged to an allocator.
///
/// While a thread is in a scope, by [`run`](Self::run) or in the poll of a future [in scope](crate::ScopeExt), every
/// block of 512 bytes or more that it allocates is charged to the scope's allocator, if the program's global allocator
/// is an [`Attributed`](crate::Attributed). It stays charged until it is freed, wherever that is. The bytes stand in a
/// child `(heap)` of the allocator, and count in its `allocated_memory()` and against its limit and those above.
///
/// Limits refuse nothing here, since most code cannot be told that an allocation failed: bytes that do not fit are
/// charged all the same. [`check`](Self::check) tells, and so does every refusal of a buffer that there is no room for
/// then.
///
/// Clones are the same scope. It ends when its last clone is dropped, or when its allocator is closed. Bytes that are
/// allocated still, a cache that the query has filled, then move to a child `(retained)` of the root, and stay charged
/// there until they are freed. Dropping the last clone takes the tree's lock, and so does creating a scope; entering
/// one does not.
///
/// # Examples
///
/// ```
/// use std::alloc::System;
/// use std::collections::HashMap;
///
/// use arrow_memory_core::RootAllocator;
/// use arrow_memory_global::{Attributed, Scope};
/// # use arrow_memory_system as _;
///
/// #[global_allocator]
/// static GLOBAL: Attributed<System> = Attributed::new(System);
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let root = RootAllocator::new(64 << 20);
///     let join = root.child("join").build()?;
///     let scope = Scope::new(&join)?;
///
///     let table: HashMap<u64, u64> = scope.run(|| (0..10_000).map(|key| (key, key * key)).collect());
///
///     assert!(join.allocated_memory() > 10_000 * 16 || !arrow_memory_global::supported());
///     drop(table);
///     assert_eq!(join.allocated_memory(), 0);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Scope {
    heap: Arc<Heap>,
}

// The tree changes under its lock only, in which nothing unwinds.
impl UnwindSafe for Scope {}
impl RefUnwindSafe for Scope {}

impl Scope {
    /// Creates a scope of an allocator.
    ///
    /// The scope keeps the allocator in its tree, as a handle of a child does. Where the platform is not
    /// [supported](crate::supported), or the global allocator is another one, a scope charges nothing.
    ///
    /// # Errors
    ///
    /// [`AllocError::Closed`] if the allocator is closed.
    pub fn new(allocator: &BufferAllocator) -> Result<Self, AllocError> {
        fork::watch();
        labels::publish();
        let heap = Heap::open(allocator)?;
        // It may outlive the scope that is current here.
        Ok(Self {
            heap: heap::unscoped(|| Arc::new(heap)),
        })
    }

    /// Calls `work` in this scope. The scope that the thread was in before is current again afterwards, also if `work`
    /// panics.
    ///
    /// Costs a few loads and stores. What the closure returns stays charged to this scope as long as it is allocated.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        let _back = self.enter();
        work()
    }

    /// Calls `work` in no scope, so that what it allocates is charged to nobody: a cache for all queries, for example.
    pub fn suspend<R>(work: impl FnOnce() -> R) -> R {
        // SAFETY: there is no scope to be kept.
        let _back = unsafe { enter(ptr::null(), || None) };
        work()
    }

    /// Returns the scope that the thread is in.
    pub fn current() -> Option<Self> {
        let heap = CURRENT.get();
        if heap.is_null() {
            return None;
        }
        // SAFETY: while it is not null, a call of `run` below on this thread's stack borrows the scope.
        let heap = unsafe { &*heap };
        Some(Self {
            heap: Arc::clone(heap),
        })
    }

    /// Says whether bytes were charged by force that are over a limit still, of the allocator or of one above it.
    ///
    /// Costs a load, unless bytes were forced over a limit since this last found none over: then the tree's lock, at
    /// each call for as long as a limit is passed. A loop of an
    /// operator that calls this can spill, or end its query with an error that says who is over.
    ///
    /// # Errors
    ///
    /// [`Overdraft`] with the allocator that is over its limit.
    pub fn check(&self) -> Result<(), Overdraft> {
        match self.heap.over() {
            None => Ok(()),
            Some(over) => Err(Overdraft::new(self.heap.allocator_info().clone(), over)),
        }
    }

    /// Makes this the thread's scope until the result is dropped.
    #[inline]
    pub(crate) fn enter(&self) -> Back<'_> {
        // SAFETY: the result borrows the scope.
        unsafe { enter(&raw const self.heap, || Some(self.heap.account())) }
    }
}

/// `Scope(scan)`, with the name of the allocator.
impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({})", self.heap.allocator_info())
    }
}

/// Sets what the thread's scope was before.
pub(crate) struct Back<'a> {
    heap: *const Arc<Heap>,
    account: Option<Account>,
    scope: PhantomData<&'a Scope>,
}

/// Enters a scope, or none.
///
/// # Safety
///
/// The scope that has the heap and the account lives as long as the result.
#[inline]
unsafe fn enter<'a>(heap: *const Arc<Heap>, account: impl FnOnce() -> Option<Account>) -> Back<'a> {
    // Not asked for in a forked child: it may take the tree's mutex, which another thread of the parent may have had.
    let account = match fork::in_child() {
        true => None,
        false => account(),
    };
    Back {
        heap: CURRENT.replace(heap),
        // SAFETY: the caller's promise. The result sets the one before again.
        account: unsafe { heap::replace(account) },
        scope: PhantomData,
    }
}

impl Drop for Back<'_> {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.heap);
        let before = self.account.filter(|_| !fork::in_child());
        // SAFETY: whoever set it before is further down on the stack, and keeps the scope.
        unsafe { heap::replace(before) };
    }
}
