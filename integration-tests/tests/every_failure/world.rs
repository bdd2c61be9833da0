//! A fresh tree for each run of an operation, and what must hold after it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::{Context, Waker};

use arrow_memory_core::testing::TrackingManager;
use arrow_memory_core::{
    ArrowBuf, ArrowBufMut, BufferAllocator, Cost, ForeignAllocation, ReclaimGuard, RootAllocator,
    RootAllocatorBuilder,
};
use arrow_memory_integration_tests::books::Books;

use crate::hooks::{Cache, Listener, Owner, Policy, Reclaims};
use crate::managers::Hostile;
use crate::plan::{self, Injected, Mode, Point};
use crate::state::{Charges, State};

/// The limit of the whole tree, in bytes.
pub(crate) const LIMIT: usize = 1 << 20;

/// What kind of tree an operation runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Config {
    /// Neither listener nor policy.
    Plain,
    /// Without credit, so that peaks are exact.
    Exact,
    /// With a listener alone, for which allocations have a path of their own.
    Heard,
    /// With a listener, a policy and statistics.
    Watched,
    /// That, and in debug mode.
    Debug,
}

pub(crate) const CONFIGS: [Config; 5] = [
    Config::Plain,
    Config::Exact,
    Config::Heard,
    Config::Watched,
    Config::Debug,
];

impl Config {
    /// Sets what this kind of tree has.
    pub(crate) fn apply(self, builder: RootAllocatorBuilder) -> RootAllocatorBuilder {
        let builder = builder.own_timer(true).debug(self == Self::Debug);
        match self {
            Self::Plain => builder,
            Self::Exact => builder.credit(0),
            Self::Heard => builder.listener(Arc::new(Listener)),
            Self::Watched | Self::Debug => builder
                .listener(Arc::new(Listener))
                .rounding_policy(Policy)
                .statistics(true),
        }
    }
}

/// What one run of an operation came to.
pub(crate) struct Outcome {
    /// The point that failed or panicked.
    pub(crate) hit: Option<Point>,
    /// The sum of the peaks of the trees, if the operation is of those that always take the same memory.
    pub(crate) peaks: usize,
}

/// A tree: the root has `left`, which has a reservation of 1,000 bytes and a child `leaf`, and `right`.
pub(crate) struct World {
    pub(crate) root: BufferAllocator,
    pub(crate) left: BufferAllocator,
    pub(crate) leaf: BufferAllocator,
    pub(crate) right: BufferAllocator,
    pub(crate) config: Config,
    pub(crate) manager: Arc<TrackingManager>,
    cache: Arc<Cache>,
    guard: RefCell<Option<ReclaimGuard>>,
    mode: Mode,
    at: usize,
    outcome: RefCell<Option<Outcome>>,
    /// Further trees, whose numbers count as well.
    trees: RefCell<Vec<BufferAllocator>>,
    ends: RefCell<Vec<Box<dyn FnOnce()>>>,
}

/// What an operation may do.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// No panic leaves it.
    contains_panics: bool,
    /// An error leaves less of what it was given.
    consumes: bool,
}

impl World {
    /// The operation's point number `at` will be hit.
    pub(crate) fn new(config: Config, mode: Mode, at: usize) -> Self {
        let manager = Arc::new(TrackingManager::new());
        let builder = RootAllocator::builder().name("root").limit(LIMIT);
        let builder = builder.allocation_manager(Arc::new(Hostile {
            inner: Arc::clone(&manager),
        }));
        let root: BufferAllocator = config.apply(builder).build().unwrap().into();
        let left = root.child("left").reservation(1000).build().unwrap();
        let leaf = left.child("leaf").build().unwrap();
        let right = root.child("right").build().unwrap();
        Self {
            root,
            left,
            leaf,
            right,
            config,
            manager,
            cache: Arc::default(),
            guard: RefCell::default(),
            mode,
            at,
            outcome: RefCell::default(),
            trees: RefCell::default(),
            ends: RefCell::default(),
        }
    }

    /// Compares the numbers of a further tree, too, and checks that it is empty in the end.
    pub(crate) fn watch(&self, root: &BufferAllocator) {
        self.trees.borrow_mut().push(root.clone());
    }

    /// Runs a check when the tree is empty.
    pub(crate) fn at_end(&self, check: impl FnOnce() + 'static) {
        self.ends.borrow_mut().push(Box::new(check));
    }

    /// A frozen buffer of sevens.
    pub(crate) fn buffer(&self, allocator: &BufferAllocator, bytes: usize) -> ArrowBuf {
        allocator.buffer_from_slice(&vec![7; bytes]).unwrap()
    }

    /// Foreign memory of `bytes`.
    pub(crate) fn foreign(&self, bytes: usize) -> ForeignAllocation {
        ForeignAllocation::from_owner(Owner(vec![7; bytes]))
    }

    /// Takes all that is left of the limit.
    pub(crate) fn fill(&self) -> ArrowBufMut {
        let left = LIMIT - self.root.allocated_memory();
        self.right.buffer(left / 64 * 64).unwrap()
    }

    /// Takes all that is left of the limit for a cache, which drops its buffers when it is asked to.
    pub(crate) fn fill_cache(&self) {
        let child = self.root.child("cache").build().unwrap();
        let left = LIMIT - self.root.allocated_memory();
        self.cache.keep(self.buffer(&child, left / 64 * 64));
        let reclaims = Reclaims(Arc::clone(&self.cache));
        *self.guard.borrow_mut() = Some(child.on_shortage(Cost::Drop, reclaims));
    }

    /// Runs the operation, which changes `state` and makes a value. Its result is checked, whatever was injected.
    pub(crate) fn act<S: State, T: State, E: Display>(
        &self,
        state: &mut S,
        act: impl FnMut(&mut S) -> Result<T, E>,
    ) -> Option<T> {
        self.check(state, act, Manner::default())
    }

    /// Runs an operation that releases what it was given, and may fail nevertheless.
    pub(crate) fn act_consuming<S: State, T: State, E: Display>(
        &self,
        state: &mut S,
        act: impl FnMut(&mut S) -> Result<T, E>,
    ) -> Option<T> {
        let consumes = true;
        let manner = Manner {
            consumes,
            ..Manner::default()
        };
        self.check(state, act, manner)
    }

    /// Runs an operation that cannot fail, and out of which nothing may unwind: a `Drop`.
    pub(crate) fn act_quietly<S: State>(&self, state: &mut S, mut act: impl FnMut(&mut S)) {
        self.act_contained(state, |state: &mut S| done(act(state)));
    }

    /// Runs an operation of which the docs say that callbacks' panics are contained, but which may fail.
    pub(crate) fn act_contained<S: State, T: State, E: Display>(
        &self,
        state: &mut S,
        act: impl FnMut(&mut S) -> Result<T, E>,
    ) -> Option<T> {
        let contains_panics = true;
        let manner = Manner {
            contains_panics,
            ..Manner::default()
        };
        self.check(state, act, manner)
    }

    fn check<S: State, T: State, E: Display>(
        &self,
        state: &mut S,
        mut act: impl FnMut(&mut S) -> Result<T, E>,
        manner: Manner,
    ) -> Option<T> {
        let before = Numbers::of(self, state);
        plan::arm(self.mode, self.at);
        let result = catch_unwind(AssertUnwindSafe(|| act(state)));
        let hit = plan::disarm();
        let after = Numbers::of(self, state);

        assert!(after.peak >= before.peak, "the peaks fell");
        let peaks = if after.grows { 0 } else { after.peak };
        let value = match result {
            Ok(Ok(value)) => {
                if let Some(point) = hit.filter(|_| self.mode == Mode::Panic) {
                    let told = point.is_told() && !manner.contains_panics;
                    assert!(!told, "a panic in {point:?} was swallowed");
                }
                if !value.may_grow() {
                    before.assert_changed(&after, Charges::of_both(state, &value));
                }
                Some(value)
            }
            Ok(Err(error)) => {
                assert!(hit.is_some(), "nothing was injected: {error:#}");
                if self.cache.bytes() == before.cache && !manner.consumes {
                    before.assert_unchanged(&after, &format!("{error:#}"));
                } else {
                    before.assert_changed(&after, after.charged);
                }
                Some(again(state, &mut act))
            }
            Err(payload) => {
                let Some(point) = hit.filter(|_| payload.is::<Injected>()) else {
                    resume_unwind(payload);
                };
                let contained = point.is_contained() || manner.contains_panics;
                assert!(!contained, "a panic in {point:?} left the operation");
                before.assert_changed(&after, after.charged);
                None
            }
        };
        let outcome = Outcome { hit, peaks };
        let twice = self.outcome.replace(Some(outcome));
        assert!(twice.is_none(), "an operation is run once");
        value
    }

    /// The thread is in no callback any more, in which no request would be queued.
    fn assert_requests_are_queued(&self) {
        self.root.set_cap(None);
        self.root.set_limit(LIMIT);
        let held = self.root.buffer(LIMIT / 2).unwrap();
        let mut waits = Box::pin(self.root.wait().reserve_async(LIMIT / 2 + 1));
        let polled = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "a request is not queued");
        drop((waits, held));
    }

    /// Ends the tree, of which nothing may be left.
    pub(crate) fn end(self) -> Outcome {
        self.cache.clear();
        drop(self.guard.take());
        assert_eq!(self.root.verify(), Ok(()));
        let waiters = self.root.snapshot().waiters;
        assert!(waiters.is_empty(), "{waiters:?}");
        self.assert_requests_are_queued();
        self.manager.assert_clean();
        for node in [&self.leaf, &self.left, &self.right] {
            node.close().unwrap();
        }
        drop((self.leaf, self.left, self.right));
        for root in self.trees.into_inner().into_iter().chain([self.root]) {
            root.close().unwrap();
            assert_eq!(root.allocated_memory(), 0);
        }
        self.ends.into_inner().into_iter().for_each(|check| check());
        let outcome = self.outcome.into_inner();
        outcome.expect("an operation calls `act`")
    }
}

/// The value of an operation that cannot fail.
#[expect(clippy::unnecessary_wraps, reason = "other operations can fail")]
pub(crate) fn done<T>(value: T) -> Result<T, Infallible> {
    Ok(value)
}

/// Runs an operation that has failed once more, now that nothing is injected. A registration that was asked in vain is
/// left alone once, so that the second attempt may fail.
fn again<S: State, T: State, E: Display>(
    state: &mut S,
    act: &mut impl FnMut(&mut S) -> Result<T, E>,
) -> T {
    let first = act(state);
    first
        .or_else(|_| act(state))
        .unwrap_or_else(|error| panic!("it fails again: {error:#}"))
}

/// The numbers of the tree and of a value.
struct Numbers {
    books: Vec<Books>,
    /// The live allocations of all nodes, where they are counted.
    live: Vec<Option<u64>>,
    /// What the nodes own themselves.
    own: usize,
    peak: usize,
    /// What the value is charged for, and what the cache is.
    charged: usize,
    cache: usize,
    waiters: usize,
    state: String,
    /// The value does not tell how much memory it has.
    grows: bool,
}

impl Numbers {
    fn of(world: &World, state: &impl State) -> Self {
        let trees = world.trees.borrow();
        let roots = || trees.iter().chain([&world.root]);
        let books = roots().map(|root| Books::of(root).at_rest()).collect();
        let snapshots: Vec<_> = roots().map(BufferAllocator::snapshot).collect();
        let entries = || snapshots.iter().flat_map(|it| &it.entries);
        let stats = || entries().map(|entry| &entry.stats);
        let cache = world.cache.bytes();
        Self {
            books,
            live: stats().map(|it| it.live_allocations).collect(),
            own: stats()
                .map(|it| it.own_bytes + it.foreign_bytes + it.external_bytes + it.reserved_bytes)
                .sum(),
            peak: snapshots
                .iter()
                .filter_map(|it| it.entries.first())
                .map(|root| root.peak)
                .sum(),
            charged: Charges::of(state),
            cache,
            waiters: snapshots.iter().map(|it| it.waiters.len()).sum(),
            state: state.describe(),
            grows: state.may_grow(),
        }
    }

    /// An error left everything as it was.
    fn assert_unchanged(&self, after: &Self, error: &str) {
        if !self.grows {
            assert_eq!(self.books, after.books, "after: {error}");
            assert_eq!(self.live, after.live, "after: {error}");
        }
        assert_eq!(self.state, after.state, "after: {error}");
        assert_eq!(self.waiters, after.waiters, "after: {error}");
    }

    /// What is charged changed as the handles did, of which those that are left are charged for `charged` bytes.
    fn assert_changed(&self, after: &Self, charged: usize) {
        if self.grows {
            return;
        }
        // Without what others than these handles and the cache are charged for all the time.
        let before = self.own - self.charged - self.cache;
        let books = after.own - before - after.cache;
        assert_eq!(charged, books, "charged for handles, and in the books");
    }
}
