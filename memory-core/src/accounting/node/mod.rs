//! The node of an allocator, and the operations on it that need no mutex.
//!
//! The operations that take the tree's mutex start in `locked`, and `retire` frees nodes. All code that reaches
//! a node's state is in this folder.
#![expect(
    unsafe_code,
    reason = "nodes are linked by pointers, and their state is shared under one mutex per tree: a \
              reference count on the node would be one read-modify-write more for every buffer"
)]

mod counts;
mod locked;
#[cfg(loom)]
mod memory;
mod retire;
mod state;
mod stripes;
#[cfg(all(test, not(loom)))]
mod tests;
mod tree;
mod watch;

use std::cell::UnsafeCell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::num::NonZeroU64;
use std::ops::Add;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock, Weak};

pub(crate) use self::locked::Locked;
pub(super) use self::retire::Departures;
use self::state::Departure;
pub(super) use self::state::State;
#[cfg(all(test, loom))]
pub(super) use self::stripes::Stripes as ModelStripes;
use self::stripes::{COLLISIONS, Stripes};
pub(crate) use self::tree::{Tree, TreeConfig};
pub(crate) use self::watch::hooks;
use self::watch::{Watch, watched};
use super::paths::NodePath;
use super::word::{Held, Kind, Slow, Word};
use arrow_memory_manager::AllocationManager;

use crate::debug::Trail;
use crate::listener::AllocationListener;
use crate::outcome::{AllocatorId, AllocatorInfo};
use crate::probes::{ProbeName, Probed};
use crate::rounding::RoundingPolicy;
use crate::sampling;
use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, plain};

/// A reservation, as its allocator sees it.
pub(crate) struct Reserved {
    /// Bytes charged; written by the reservation alone, read by reports.
    pub(crate) size: plain::AtomicUsize,
    /// In debug mode, where it comes from.
    pub(crate) trail: Option<Trail>,
    /// Its index in the node's list; changes only under the tree's mutex.
    place: plain::AtomicUsize,
}

impl Reserved {
    /// A reservation of `bytes`, in no list yet.
    pub(crate) fn new(bytes: usize, trail: Option<Trail>) -> Arc<Self> {
        Arc::new(Self {
            size: plain::AtomicUsize::new(bytes),
            trail,
            place: plain::AtomicUsize::new(usize::MAX),
        })
    }

    /// Its size in bytes, as it is now.
    pub(crate) fn size(&self) -> usize {
        // Relaxed: written by its one owner; a number for readers.
        self.size.load(Ordering::Relaxed)
    }
}

/// The properties of an allocator that are given at its creation.
pub(crate) struct NodeConfig {
    pub(crate) name: Arc<str>,
    /// The name that metrics use for it instead of its own.
    pub(crate) group: Option<Arc<str>>,
    pub(crate) limit: usize,
    pub(crate) reservation: usize,
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
    pub(crate) info: AllocatorInfo,
    /// The name as tracers read it.
    probe_name: ProbeName,
    pub(crate) tree: Arc<Tree>,
    pub(crate) listener: Option<Arc<dyn AllocationListener>>,
    pub(crate) policy: Option<Arc<dyn RoundingPolicy>>,
    /// Bytes set aside for life.
    pub(crate) reservation: usize,
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

/// Does nothing; stands in for a listener that does not hear of allocations.
struct Deaf;

impl AllocationListener for Deaf {}

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

    /// Takes `bytes` of the node's credit, without the mutex.
    ///
    /// # Safety
    ///
    /// The node is alive.
    #[inline]
    pub(super) unsafe fn take(self, bytes: usize, kind: Kind) -> bool {
        // SAFETY: the caller promises that the node is alive.
        let node = unsafe { self.node() };
        match node.word.try_take(bytes, kind) {
            Ok(()) => true,
            Err(slow) => node.take_after(bytes, kind, slow),
        }
    }

    /// Gives `bytes` that are charged to the node back to its credit, without the mutex. When it
    /// answers `true`, the node may be freed.
    ///
    /// # Safety
    ///
    /// `bytes` are charged to the node and the caller gives them up. If they are external, the caller
    /// has a handle besides, since they may not be there.
    #[inline]
    pub(super) unsafe fn give(self, bytes: usize, kind: Kind) -> bool {
        // SAFETY: the bytes that the caller still holds keep the node alive (invariant 2), until
        // the exchange succeeds; after it nothing of the node is touched. `Node` is not Freeze,
        // so the reference claims nothing about its memory after that.
        let node = unsafe { self.node() };
        match node.word.try_give(bytes, node.high(), kind) {
            Ok(()) => true,
            // SAFETY: the bytes were not given yet; the rest is the caller's promise.
            Err(slow) => unsafe { self.give_after(bytes, kind, slow) },
        }
    }

    /// Gives to the thread's stripe, if there are any, or once more after a collision; `false`: the
    /// mutex must decide. When it answers `true`, the node may be freed: so this takes a pointer,
    /// since a reference that is an argument would promise that the node lives until it returns.
    ///
    /// # Safety
    ///
    /// The conditions of `give`.
    #[cold]
    unsafe fn give_after(self, bytes: usize, kind: Kind, slow: Slow) -> bool {
        // SAFETY: as in `give`.
        let node = unsafe { self.node() };
        let high = node.high();
        match node.stripes() {
            Some(stripes) => {
                let high = high >> stripes.shift;
                let mine = stripes.mine().give(bytes, high, kind);
                // Another thread may have charged external bytes. The node is the caller's anyway.
                mine || kind == Kind::External
                    && stripes.iter().any(|word| word.give(bytes, high, kind))
            }
            None => node.may_try_again(slow) && node.word.give(bytes, high, kind),
        }
    }
}

impl Node {
    /// The sum of what the words in use hold.
    #[inline]
    fn sum(&self, held: impl Fn(&Word) -> Held) -> Held {
        match self.stripes() {
            None => held(&self.word),
            Some(stripes) => stripes.iter().map(held).fold(Held::default(), Held::add),
        }
    }

    /// The stripes, once there are any.
    #[inline]
    fn stripes(&self) -> Option<&Stripes> {
        // Acquire: partner of the Release in `install_stripes`, to see the words.
        let stripes = self.stripes.load(Ordering::Acquire);
        // SAFETY: by invariant 4 null or live for as long as the node.
        unsafe { stripes.as_ref() }
    }

    /// Takes of the thread's stripe, if there are any, or once more after a collision; `false`: the
    /// mutex must decide.
    #[cold]
    fn take_after(&self, bytes: usize, kind: Kind, slow: Slow) -> bool {
        match self.stripes() {
            Some(stripes) => stripes.mine().take(bytes, kind),
            None => self.may_try_again(slow) && self.word.take(bytes, kind),
        }
    }

    /// Whether to try the word again: after a collision, but for so many that the mutex should make
    /// stripes.
    fn may_try_again(&self, slow: Slow) -> bool {
        // Relaxed: a statistic that decides when to stripe, and guards nothing.
        slow == Slow::Collision && self.collisions.fetch_add(1, Ordering::Relaxed) < COLLISIONS
    }

    #[inline]
    fn high(&self) -> usize {
        // Relaxed: a threshold, see the field.
        self.high.load(Ordering::Relaxed)
    }

    /// The manager of the tree.
    #[inline]
    pub(crate) fn manager(&self) -> &dyn AllocationManager {
        // SAFETY: by invariant 5 it is alive as long as this node; managers are only shared.
        unsafe { self.manager.as_ref() }
    }

    /// Whether this node's allocations are watched, by hooks or by samples.
    #[inline]
    pub(crate) fn watch(&self) -> Watch {
        // Relaxed: a switch; an allocation that races with it may see either value.
        Watch(self.watch.load(Ordering::Relaxed))
    }

    /// This node as the probes name it.
    #[inline]
    pub(crate) fn probed(&self) -> Probed<'_> {
        Probed::new(&self.probe_name, &self.info)
    }

    /// Whether an allocation of `bytes` is due to be sampled: then, the units per byte.
    #[inline]
    pub(crate) fn sample_due(&self, bytes: usize) -> Option<u64> {
        let scale = self.watch().scale();
        (scale != 0 && sampling::due(bytes, scale)).then_some(scale)
    }

    /// Sets how many units of the sampler's distance a byte is; 0: not sampled.
    pub(crate) fn set_scale(&self, scale: u64) {
        // Relaxed: a switch; an allocation that races with it may see either value.
        self.watch.store(
            watched(self.hooks, self.policy.is_some()) | scale,
            Ordering::Relaxed,
        );
    }

    /// The listener, if it wants to hear of each allocation.
    #[inline]
    pub(crate) fn hearing(&self) -> Option<&dyn AllocationListener> {
        (self.hooks & hooks::LISTENER != 0).then(|| self.hearer())
    }

    /// The listener if it wants to hear of each allocation; else one that does nothing.
    #[inline]
    pub(crate) fn hearer(&self) -> &dyn AllocationListener {
        // SAFETY: by invariant 6 it is alive as long as this node; listeners are only shared.
        unsafe { self.hearer.as_ref() }
    }

    /// Whether debug mode is on in this tree.
    #[inline]
    pub(crate) fn is_debug(&self) -> bool {
        self.hooks & hooks::DEBUG != 0
    }

    /// The history of the allocator, in debug mode.
    pub(crate) fn trail(&self) -> Option<&Trail> {
        self.trail.get().map(Box::as_ref)
    }

    /// Starts the history of the allocator, once.
    pub(crate) fn set_trail(&self, trail: Trail) {
        // The first one stays, and there is no second.
        let _ = self.trail.set(Box::new(trail));
    }
}

impl NodePtr {
    /// Gives up the node's `Arc` until `Locked` frees it.
    pub(super) fn leak(node: Arc<Node>) -> Self {
        let ptr = Arc::into_raw(node).cast_mut();
        Self(NonNull::new(ptr).expect("an Arc's pointer is not null"))
    }

    /// A weak reference to the node's memory.
    ///
    /// # Safety
    ///
    /// The node is alive.
    pub(crate) unsafe fn weak(self) -> Weak<Node> {
        // SAFETY: the pointer is from `Arc::into_raw` in `leak`, and the node is alive, so the Arc
        // is; the count that this borrows is not given back.
        let strong = ManuallyDrop::new(unsafe { Arc::from_raw(self.0.as_ptr()) });
        Arc::downgrade(&strong)
    }

    /// Another handle on the node behind `weak`, unless it has left its tree.
    pub(crate) fn upgrade(weak: &Weak<Node>) -> Option<Self> {
        let strong = weak.upgrade()?;
        // The Arc's own pointer: one made of a reference could not be turned back into an Arc.
        let node = Self(NonNull::new(Arc::as_ptr(&strong).cast_mut())?);
        let locked = strong.tree.lock();
        // Only a look: of a buried node another thread may be reading the state.
        let left = !locked.look(node).linked && strong.handles() == 0;
        if !left {
            strong.add_handle();
        }
        #[cfg(loom)]
        strong.memory.left();
        (!left).then_some(node)
    }
}

impl Node {
    /// A node that nothing refers to yet, shut, with one handle and no bytes.
    pub(super) fn boxed(
        config: NodeConfig,
        tree: Arc<Tree>,
        depth: usize,
        path: NodePath,
    ) -> Arc<Self> {
        let NodeConfig {
            name,
            group,
            limit,
            reservation,
            listener,
            policy,
        } = config;
        let hearing = listener
            .as_deref()
            .filter(|listener| listener.hears_allocations());
        let hearer = NonNull::from(hearing.unwrap_or(&Deaf));
        let mut bits = 0;
        for (on, bit) in [
            (hearing.is_some(), hooks::LISTENER),
            (tree.config.debug, hooks::DEBUG),
            (tree.config.statistics, hooks::STATISTICS),
        ] {
            bits |= if on { bit } else { 0 };
        }
        Arc::new(Self {
            word: Word::shut(),
            high: AtomicUsize::new(0),
            manager: NonNull::from(&**tree.manager()),
            watch: plain::AtomicU64::new(watched(bits, policy.is_some())),
            hearer,
            hooks: bits,
            probe_name: ProbeName::new(&name),
            info: AllocatorInfo {
                id: next_id(),
                name,
            },
            listener,
            policy,
            reservation,
            depth,
            tree,
            stripes: AtomicPtr::new(std::ptr::null_mut()),
            collisions: AtomicUsize::new(0),
            handles: AtomicUsize::new(1),
            pins: AtomicUsize::new(0),
            trail: OnceLock::new(),
            foreign: AtomicUsize::new(0),
            total_bytes: AtomicU64::new(0),
            total_allocations: AtomicU64::new(0),
            live_allocations: AtomicU64::new(0),
            state: UnsafeCell::new(State::shut(limit)),
            departure: UnsafeCell::default(),
            group,
            path,
            #[cfg(loom)]
            memory: memory::Memory::default(),
        })
    }
}

/// The next identity: never used before in this process.
fn next_id() -> AllocatorId {
    static NEXT: plain::AtomicU64 = plain::AtomicU64::new(1);
    // Relaxed: uniqueness is all that is asked.
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    AllocatorId(NonZeroU64::new(id).expect("2^64 allocators were not created"))
}
