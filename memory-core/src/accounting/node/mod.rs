//! The data of a tree: a node for each allocator, and what the nodes share.
//!
//! Nodes, their states and the tree refer to each other, so all of them are defined here. The other files of
//! this folder import from here: `fast` has the operations that need no mutex, those that take it start in
//! `locked`, and `retire` frees nodes. All code that reaches a node's state is in this folder.
#![expect(
    unsafe_code,
    reason = "nodes are linked by pointers, and their state is shared under one mutex per tree: a \
              reference count on the node would be one read-modify-write more for every buffer"
)]

mod accounts;
mod counts;
mod create;
mod end;
mod fast;
mod locked;
#[cfg(loom)]
mod memory;
mod mutex;
mod retire;
mod state;
mod stripes;
#[cfg_attr(loom, path = "no_tend.rs")]
mod tend;
mod tree;
mod wake;
mod watch;
mod words;

use std::cell::UnsafeCell;
use std::fmt;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow_memory_manager::AllocationManager;

pub(super) use self::accounts::Accounts;
pub(crate) use self::locked::Locked;
pub(super) use self::retire::Departures;
#[cfg(all(test, loom))]
pub(super) use self::stripes::Stripes as ModelStripes;
use self::stripes::Stripes;
pub(crate) use self::tend::tend;
pub(in crate::accounting) use self::tend::wake_tender;
#[cfg(not(loom))]
pub(crate) use self::tend::{has_tender, is_left, set_tender};
pub(crate) use self::watch::hooks;
use super::paths::{InPath, NodePath, Paths};
use super::queue::Queue;
use super::reclaimer::Registered;
use super::word::Word;
use crate::debug::{Recorder, Trail};
use crate::listener::AllocationListener;
use crate::outcome::AllocatorInfo;
use crate::probes::ProbeName;
use crate::rounding::RoundingPolicy;
#[cfg(loom)]
use crate::sync::Mutex;
#[cfg(not(loom))]
use crate::sync::process::ProcessLock;
use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, plain};

/// A reservation, as its allocator sees it.
pub(crate) struct Reserved {
    /// Bytes charged; written by the reservation alone, read by reports.
    pub(crate) size: plain::AtomicUsize,
    /// In debug mode, where it comes from.
    pub(crate) trail: Option<Trail>,
    /// Its index in the node's list; changes only under the tree's mutex.
    place: plain::AtomicUsize,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// An allocator of the program.
    Allocator,
    /// The child of an allocator that is charged for the program's heap: see [`heap`](super::heap).
    Heap,
    /// The child of a root that is charged for heap blocks whose scopes have ended. Scopes pin it. It has no handle, so
    /// its word stays shut.
    Retained,
}

/// The properties of an allocator that are given at its creation.
pub(crate) struct NodeConfig {
    pub(crate) kind: NodeKind,
    pub(crate) name: Arc<str>,
    /// The name that metrics use for it instead of its own.
    pub(crate) group: Option<Arc<str>>,
    pub(crate) limit: usize,
    pub(crate) reservation: usize,
    /// Larger is asked later to give memory back.
    pub(crate) priority: i32,
    /// Whether its requests neither ask nor wait.
    pub(crate) in_reserve: bool,
    pub(crate) listener: Option<Arc<dyn AllocationListener>>,
    /// `None` is the default policy, which the hot path computes inline.
    pub(crate) policy: Option<Arc<dyn RoundingPolicy>>,
}

/// An allocator's node.
///
/// # Invariants
///
/// 1. A node is created linked (it is the root, or in its parent's list of children) and is freed
///    once, after it was unlinked and its handles and pins were dropped: see `Locked::may_free`.
/// 2. A linked node's parent is linked; an unlinked node has no children, no parent and no bytes.
/// 3. `state` is touched only through `Locked`, that is, under the tree's mutex.
/// 4. `stripes` is null or points to a live boxed slice that this node owns.
/// 5. `manager` points to the tree's manager, which `tree` keeps alive.
/// 6. `hearer` points to what `listener` keeps alive, or to a static.
#[repr(C, align(64))] // Every allocation reads one cache line, which no other node shares.
pub(crate) struct Node {
    /// The credit that may be taken without the mutex; shut for good once there are stripes.
    word: Word,
    /// The maximum of the credit that `give` may leave in the words together; set when one is opened. A
    /// giver that reads an old value lets a little too much or too little stay.
    high: AtomicUsize,
    /// The tree's manager, two loads nearer than through `tree`.
    manager: NonNull<dyn AllocationManager>,
    /// The word that `allocate` looks at first.
    ///
    /// | value | meaning |
    /// |---|---|
    /// | 0 | nobody watches |
    /// | > 0 | allocations are sampled: so many units per byte |
    /// | < 0 | there are hooks, and others than a listener if the next bit is set, too; the low bits are the units per byte |
    watch: plain::AtomicU64,
    /// What is told of allocations: the listener if it wants to hear of them, else one that does
    /// nothing. Two loads nearer than through `listener`, and nothing to ask.
    hearer: NonNull<dyn AllocationListener>,
    /// Which of the slow extras are on, and what a release looks at: the bits of [`hooks`].
    pub(crate) hooks: u8,
    pub(crate) kind: NodeKind,
    pub(crate) info: AllocatorInfo,
    /// The name as tracers read it.
    probe_name: ProbeName,
    pub(crate) tree: Arc<Tree>,
    pub(crate) listener: Option<Arc<dyn AllocationListener>>,
    pub(crate) policy: Option<Arc<dyn RoundingPolicy>>,
    /// The reservation that the node was created with, in bytes. The live one is in [`State`].
    pub(crate) init_reservation: usize,
    /// Whether it is the tree's spill reserve, or below it.
    pub(in crate::accounting) in_reserve: bool,
    /// The number that orders who is asked for memory: larger is asked later.
    pub(crate) priority: i32,
    /// Of a node for the heap: whether a level was over its limit after a charge, since it was last found that none is.
    was_over: plain::AtomicBool,
    /// Levels above this node.
    pub(crate) depth: usize,
    /// One word per group of threads, once contention showed.
    stripes: AtomicPtr<Stripes>,
    /// How often threads were seen to collide on `word`.
    collisions: AtomicUsize,
    /// `BufferAllocator`s; reaches zero, and leaves it, only under the mutex.
    handles: AtomicUsize,
    /// What keeps the node without bytes or handles: empty buffers and builders; reaches zero
    /// only under the mutex.
    pins: AtomicUsize,
    /// In debug mode, where the allocator comes from.
    trail: OnceLock<Box<Trail>>,
    /// Bytes of foreign allocations that are charged here.
    pub(crate) foreign: AtomicUsize,
    /// With statistics on: bytes and blocks in total, and allocations charged here now.
    pub(crate) total_bytes: AtomicU64,
    pub(crate) total_allocations: AtomicU64,
    pub(crate) live_allocations: AtomicU64,
    state: UnsafeCell<State>,
    /// Touched under the tree's mutex until the list that it is part of was taken, and then by
    /// the thread that took it: see [`Departures`].
    departure: UnsafeCell<Departure>,
    /// The name that metrics use for the allocator instead of its own.
    pub(crate) group: Option<Arc<str>>,
    /// Where its counts are added up with those of others.
    pub(crate) path: NodePath,
    /// In models, what stands for the node's memory.
    #[cfg(loom)]
    memory: memory::Memory,
}

// SAFETY: all but `state`, `departure` and the pointers in them are atomics or immutable and
// Send + Sync (as are the manager that `manager` points to and the listener that `hearer` does); by
// invariant 3 `state` is touched under the mutex only, from whichever thread holds it, and
// `departure` by one thread at a time.
unsafe impl Send for Node {}
// SAFETY: as for Send; `&Node` gives no access to `state` without the mutex.
unsafe impl Sync for Node {}

/// The numbers of a node that only the holder of the mutex touches, in bytes. The names in
/// parentheses are those of the essay at the head of `accounting`.
///
/// The first cache line has all that a charge, a transfer or the end of a ledger looks at.
#[repr(C, align(64))]
pub(in crate::accounting) struct State {
    /// The minimum of the limit, the cap, and what a signed size can express (L).
    bound: usize,
    /// The parent's charge for this node (O); for a root, the sum that its limit bounds.
    pub(in crate::accounting) obtained: usize,
    /// Free bytes that are in no word (P).
    pub(in crate::accounting) parked: usize,
    pub(in crate::accounting) peak: usize,
    /// Non-owning ledgers.
    pub(in crate::accounting) guests: usize,
    pub(in crate::accounting) parent: Option<NodePtr>,
    pub(in crate::accounting) forced: u64,
    /// The subtree is exact and shut (I2); set by recall, cleared by `relax`.
    pub(in crate::accounting) tight: bool,
    /// Must not be opened before it is known that no level from here up is tight.
    pub(in crate::accounting) shut: bool,
    pub(in crate::accounting) closed: bool,
    pub(in crate::accounting) linked: bool,
    /// Whether the event that memory outlived the last handle was emitted. Growth of a buffer that is left
    /// takes and drops a handle again, so it would be emitted more than once.
    pub(in crate::accounting) outlived: bool,
    /// The sum of the children's `obtained` (S).
    pub(in crate::accounting) lent: usize,
    /// The bytes that the parent is charged for in any case (R); 0 for a root, and after the node has left
    /// its tree.
    pub(in crate::accounting) reservation: usize,
    /// External bytes that no word counts.
    pub(in crate::accounting) external: usize,
    /// Slow operations since the last recall here, and the nodes that it visited.
    pub(in crate::accounting) tight_operations: usize,
    pub(in crate::accounting) recall_cost: usize,
    pub(in crate::accounting) refusals: u64,
    pub(in crate::accounting) children: usize,
    /// The `AllocationReservation`s, empty ones too; each holds a handle besides. It grows while the
    /// mutex is free.
    pub(in crate::accounting) reservations: Vec<Arc<Reserved>>,
    /// The part of `refusals` and `forced` that was added to the sums of the node's path.
    pub(in crate::accounting) in_path: InPath,
    /// The limit that was set.
    pub(in crate::accounting) limit: usize,
    /// A second limit, which does not decide what can never fit.
    pub(in crate::accounting) cap: usize,
    /// The spill reserve of a root, in bytes, and the part of it that nobody has taken. That part is not in `bound`.
    pub(in crate::accounting) reserve: usize,
    pub(in crate::accounting) set_aside: usize,
    /// The level's place in the queue of waiters, or `NONE`.
    pub(in crate::accounting) queue: u32,
    /// How many requests of this node and those below it wait.
    pub(in crate::accounting) waiters_below: u32,
    /// What `obtained` may fall by if the node's words fill up: see [`queue`](super::queue). Those levels above
    /// that have waiters have counted it.
    pub(in crate::accounting) loose: usize,
    /// The registered reclaimers of this node. It grows while the mutex is free.
    pub(in crate::accounting) reclaimers: Vec<Registered>,
    /// How many registrations there are here and below.
    pub(in crate::accounting) registrations: u32,
    /// The children that have registrations at or below them, and the node's own place in its parent's list of them.
    pub(in crate::accounting) first_registered: Option<NodePtr>,
    pub(in crate::accounting) next_registered: Option<NodePtr>,
    pub(in crate::accounting) previous_registered: Option<NodePtr>,
    /// Scratch field of the current walk: exact allocated bytes of this subtree.
    pub(in crate::accounting) exact: usize,
    pub(in crate::accounting) first_child: Option<NodePtr>,
    pub(in crate::accounting) last_child: Option<NodePtr>,
    pub(in crate::accounting) next_sibling: Option<NodePtr>,
    pub(in crate::accounting) previous_sibling: Option<NodePtr>,
    /// The next in the graveyard.
    next_dead: Option<NodePtr>,
    /// The child that is charged for the heap blocks of this allocator's scopes, if there is one.
    pub(in crate::accounting) heap: Option<NodePtr>,
    /// The first account of a heap leaf, or 0; how many there are; and the sum of the caps of their open words.
    pub(in crate::accounting) accounts: u32,
    pub(in crate::accounting) lanes: u32,
    pub(in crate::accounting) caps: usize,
    /// Whether a heap leaf is in the list of soft ones, and its neighbours there.
    pub(in crate::accounting) soft: bool,
    next_soft: Option<NodePtr>,
    previous_soft: Option<NodePtr>,
}

/// While a node's departure waits to be told: where it left, and the next such node.
///
/// It is no part of [`State`], because the thread that tells the departures reads it without the
/// mutex, while another thread may have the mutex, and with it a unique reference to the state.
#[derive(Clone, Copy, Default)]
struct Departure {
    /// The former parent.
    parent: Option<NodePtr>,
    next: Option<NodePtr>,
}

/// The properties of a tree that are given at its creation and never change.
pub(crate) struct TreeConfig {
    /// Serves every block of the tree; there until the tree is dropped.
    pub(crate) manager: Option<Arc<dyn AllocationManager>>,
    /// The maximum of the credit, in bytes, that a node may hold; 0: none, so that every number is exact.
    pub(crate) credit: usize,
    /// Whether debug mode is on.
    pub(crate) debug: bool,
    /// Whether totals and counts are kept.
    pub(crate) statistics: bool,
    /// How long a waiter's missing bytes may not fall before another one is told to give way.
    pub(crate) patience: Duration,
    /// Whether the program calls `tick` itself.
    #[cfg_attr(loom, allow(dead_code, reason = "models have no timer"))]
    pub(crate) own_timer: bool,
}

/// One tree of allocators: the data that its nodes share.
pub(crate) struct Tree {
    pub(crate) config: TreeConfig,
    /// The registry of buffers, in debug mode.
    recorder: Option<Box<Recorder>>,
    /// The sums of the counts of each path's allocators.
    paths: Paths,
    /// How many registrations of reclaimers there are.
    pub(in crate::accounting) reclaimers: plain::AtomicUsize,
    /// Whether the timer knows the tree.
    pub(crate) timed: plain::AtomicBool,
    mutex: TreeMutex,
}

/// The data that the mutex protects besides the states of the nodes.
#[derive(Default)]
struct Shared {
    /// Nodes that left the tree and have no handle: freed after the mutex is released.
    graveyard: Option<NodePtr>,
    /// Nodes that left the tree and whose former parent has a listener to be told.
    departed: Option<NodePtr>,
    /// How many nodes of the tree are tight; none when the tree is freed.
    tight: usize,
    /// The requests that wait for memory.
    queue: Queue<NodePtr>,
    /// The thread that will wake this tree's waiters, by an address of its own, and the next tree whose waiters it
    /// will wake: see `wake`.
    waking: Option<NonZeroUsize>,
    next_to_wake: Option<SharedMutex>,
    /// The first of the soft leaves: those that may have open words although a level above is tight.
    soft: Option<NodePtr>,
    /// The node for heap blocks whose scopes have ended, while it is in the tree or has a handle.
    retained: Option<NodePtr>,
    /// The first account whose scope has ended and which has bytes, or 0.
    retired: u32,
    /// The first account that is to be given back with its name once the mutex is free, or 0.
    left: u32,
    /// Whether something is left to be done for a section of the global allocator, and the next mutex for which
    /// something is: see `tend`.
    to_tend: bool,
    next_to_tend: Option<SharedMutex>,
}

/// A tree's mutex without the tree. It is never freed, and may belong to another tree by now.
#[cfg(not(loom))]
type SharedMutex = &'static ProcessLock<Shared>;
#[cfg(loom)]
type SharedMutex = &'static Mutex<Shared>;

/// A mutex for one tree, until it is dropped.
struct TreeMutex(SharedMutex);

/// A pointer to a node.
///
/// Everyone who holds one knows why the node is alive: a handle, a pin, bytes charged to it, or
/// the mutex and a link. That is what [`node`](Self::node)'s callers promise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodePtr(NonNull<Node>);

// SAFETY: a plain address; what may be done with it is the promise of `node`'s callers, and
// `Node` is Send + Sync.
unsafe impl Send for NodePtr {}
// SAFETY: as for Send.
unsafe impl Sync for NodePtr {}

impl fmt::Debug for NodePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

impl NodePtr {
    /// The node.
    ///
    /// # Safety
    ///
    /// The node is alive for as long as the reference is used.
    #[inline]
    pub(crate) unsafe fn node<'a>(self) -> &'a Node {
        // SAFETY: the caller promises that the node is alive; nodes are only shared.
        let node = unsafe { self.0.as_ref() };
        #[cfg(loom)]
        node.memory.used();
        node
    }

    /// The address, for tagged pointers. Nodes are aligned to 8 bytes at least.
    #[inline]
    pub(crate) fn as_ptr(self) -> NonNull<Node> {
        self.0
    }

    /// The node behind an address that [`as_ptr`](Self::as_ptr) gave.
    #[inline]
    pub(crate) fn from_ptr(ptr: NonNull<Node>) -> Self {
        Self(ptr)
    }
}
