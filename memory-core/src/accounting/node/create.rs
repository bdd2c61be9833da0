//! How a node comes to be, and how one is found again by a weak reference.
#![expect(unsafe_code, reason = "a node's `Arc` is kept as a pointer")]

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::num::NonZeroU64;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock, Weak};

use super::super::paths::NodePath;
use super::super::word::Word;
use super::watch::{hooks, watched};
use super::{Node, NodeConfig, NodePtr, Reserved, State, Tree};
use crate::debug::Trail;
use crate::listener::AllocationListener;
use crate::outcome::{AllocatorId, AllocatorInfo};
use crate::probes::ProbeName;
use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, plain};

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

/// Does nothing; stands in for a listener that does not hear of allocations.
struct Deaf;

impl AllocationListener for Deaf {}

impl NodePtr {
    /// Gives up the node's `Arc` until `Locked` frees it.
    pub(in crate::accounting) fn leak(node: Arc<Node>) -> Self {
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
    pub(in crate::accounting) fn boxed(
        config: NodeConfig,
        tree: Arc<Tree>,
        depth: usize,
        path: NodePath,
    ) -> Arc<Self> {
        let NodeConfig {
            kind,
            name,
            group,
            limit,
            reservation,
            priority,
            in_reserve,
            listener,
            policy,
        } = config;
        let (bits, hearer) = hooks_of(listener.as_ref(), &tree);
        let place = Place::new();
        place.fill(Self {
            word: Word::shut(),
            high: AtomicUsize::new(0),
            manager: NonNull::from(&**tree.manager()),
            watch: plain::AtomicU64::new(watched(bits, policy.is_some(), 0)),
            hearer,
            hooks: bits,
            kind,
            probe_name: ProbeName::new(&name),
            info: AllocatorInfo {
                id: next_id(),
                name,
            },
            listener,
            policy,
            init_reservation: reservation,
            in_reserve,
            priority,
            was_over: plain::AtomicBool::new(false),
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
            state: UnsafeCell::new(State::shut(limit, reservation)),
            departure: UnsafeCell::default(),
            group,
            path,
            #[cfg(loom)]
            memory: super::memory::Memory::default(),
        })
    }
}

/// The memory of an `Arc`, for a value to be written to.
///
/// `Arc::new` would build a large value on the stack and copy it. If the memory was allocated before the value is built,
/// the compiler writes each field where it stays. The memory leaks if nothing is written to it.
struct Place<T>(*const T);

impl<T> Place<T> {
    #[inline(always)]
    fn new() -> Self {
        Self(Arc::into_raw(Arc::<T>::new_uninit()).cast())
    }

    #[inline(always)]
    fn fill(self, value: T) -> Arc<T> {
        // SAFETY: nobody else has the Arc, whose own pointer allows writes to what it holds.
        unsafe { self.0.cast_mut().write(value) };
        // SAFETY: the pointer is from `into_raw`, and what it points to was written just now. `MaybeUninit` has the
        // layout of what it holds.
        unsafe { Arc::from_raw(self.0) }
    }
}

/// The bits of [`hooks`] for a node of this tree, and what its allocations are told to.
fn hooks_of(
    listener: Option<&Arc<dyn AllocationListener>>,
    tree: &Tree,
) -> (u8, NonNull<dyn AllocationListener>) {
    let listener = listener.map(|listener| &**listener);
    let hearing = listener.filter(|listener| listener.hears_allocations());
    let hearer = NonNull::from(hearing.unwrap_or(&Deaf));
    let mut bits = 0;
    for (on, bit) in [
        (hearing.is_some(), hooks::LISTENER),
        (tree.config.debug, hooks::DEBUG),
        (tree.config.statistics, hooks::STATISTICS),
    ] {
        bits |= if on { bit } else { 0 };
    }
    (bits, hearer)
}

/// The next identity: never used before in this process.
fn next_id() -> AllocatorId {
    static NEXT: plain::AtomicU64 = plain::AtomicU64::new(1);
    // Relaxed: uniqueness is all that is asked.
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    AllocatorId(NonZeroU64::new(id).expect("2^64 allocators were not created"))
}
