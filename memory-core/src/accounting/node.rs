//! The node of an allocator: its word, its state under the tree's mutex, and its lifetime.
//!
//! Longer than most files, so that every `unsafe` access to a node's state is in one place.
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "reaching a place through a raw pointer and using it count as two"
)]
#![expect(
    unsafe_code,
    reason = "nodes are linked by pointers, and their state is shared under one mutex per tree: a \
              reference count on the node would be one read-modify-write more for every buffer"
)]

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::num::NonZeroU64;
use std::ops::Add;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock, Weak};

use slab::Slab;

use super::handle::quietly;
use super::mutex::{Shared, TreeMutex};
use super::word::{Held, Kind, MAX_CREDIT, Slow, Word};
use crate::debug::{Recorder, Trail};
use crate::listener::AllocationListener;
use crate::manager::AllocationManager;
use crate::outcome::{AllocatorId, AllocatorInfo};
use crate::probes::ProbeName;
use crate::rounding::RoundingPolicy;
use crate::sampling;
use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, MutexGuard, Ordering, plain};

/// What a tree is built with and never changes.
pub(crate) struct TreeConfig {
    /// Serves every block of the tree.
    pub(crate) manager: Arc<dyn AllocationManager>,
    /// The most credit, in bytes, that a node may hold unused; 0: none, all is exact at once.
    pub(crate) credit: usize,
    /// Whether debug mode is on.
    pub(crate) debug: bool,
    /// Whether totals and counts are kept.
    pub(crate) statistics: bool,
}

/// One tree of allocators: what its nodes share.
pub(crate) struct Tree {
    pub(crate) config: TreeConfig,
    /// In debug mode, what is alive.
    recorder: Option<Box<Recorder>>,
    mutex: TreeMutex,
}

/// A reservation, as its allocator sees it.
pub(crate) struct Reserved {
    /// Bytes charged; written by the reservation alone, read by reports.
    pub(crate) size: plain::AtomicUsize,
    /// In debug mode, where it comes from.
    pub(crate) trail: Option<Trail>,
}

/// What an allocator is made of, given at its creation.
pub(crate) struct NodeConfig {
    pub(crate) name: Arc<str>,
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
///    once, after it was unlinked, when its handles and pins are gone: see `Locked::may_free`.
/// 2. A linked node's parent is linked; an unlinked node has no children, no parent and no bytes.
/// 3. `state` is touched only through `Locked`, that is, under the tree's mutex.
/// 4. `stripes` is null or points to a live boxed slice that this node owns.
/// 5. `manager` points to the tree's manager, which `tree` keeps alive.
/// 6. `hearer` points to what `listener` keeps alive, or to a static.
#[repr(C, align(64))] // What every allocation reads is one cache line, and no other node's.
pub(crate) struct Node {
    /// The credit that may be taken without the mutex; shut for good once there are stripes.
    word: Word,
    /// The most credit that `give` may leave in the words together; set when one is opened. A
    /// giver that reads an old value lets a little too much or too little stay.
    high: AtomicUsize,
    /// The tree's manager, two loads nearer than through `tree`.
    manager: NonNull<dyn AllocationManager>,
    /// What `allocate` looks at first.
    ///
    /// | value | meaning |
    /// |---|---|
    /// | 0 | nobody watches |
    /// | > 0 | allocations are sampled: so many units per byte |
    /// | < 0 | there are hooks, and others than a listener if the next bit is set, too; the low bits are as above |
    watch: plain::AtomicU64,
    /// What is told of allocations: the listener if it wants to hear of them, else one that does
    /// nothing. Two loads nearer than through `listener`, and nothing to ask.
    hearer: NonNull<dyn AllocationListener>,
    /// Which of the slow extras are on, and what a release looks at: the bits of [`hooks`].
    pub(crate) hooks: u8,
    pub(crate) info: AllocatorInfo,
    /// The name as tracers read it.
    pub(crate) probe_name: ProbeName,
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
    /// The sizes of the `AllocationReservation`s, empty ones too; each holds a handle besides.
    /// A lock of its own, taken under the tree's or alone.
    pub(crate) reservations: plain::Mutex<Slab<Arc<Reserved>>>,
    /// In debug mode, where the allocator comes from.
    trail: OnceLock<Box<Trail>>,
    /// Bytes of foreign allocations that are charged here.
    pub(crate) foreign: AtomicUsize,
    /// With statistics on: bytes and blocks in total, and allocations charged here now.
    pub(crate) total_bytes: AtomicU64,
    pub(crate) total_allocations: AtomicU64,
    pub(crate) live_allocations: AtomicU64,
    state: UnsafeCell<State>,
}

// SAFETY: all but `state` and the pointers in it are atomics or immutable and Send + Sync (as are
// the manager that `manager` points to and the listener that `hearer` does); by invariant 3 `state`
// is touched under the mutex only, from whichever thread holds it.
unsafe impl Send for Node {}
// SAFETY: as for Send; `&Node` gives no access to `state` without the mutex.
unsafe impl Sync for Node {}

/// In [`Node::watch`]: there are hooks. The highest bit, so that it shows as the sign.
const HOOKED: u64 = 1 << 63;

/// In [`Node::watch`], with [`HOOKED`]: there is more than a listener that hears of allocations.
const OTHERS: u64 = 1 << 62;

/// What [`Node::watch`] was, read once.
#[derive(Clone, Copy)]
pub(crate) struct Watch(u64);

impl Watch {
    /// Whether anybody watches.
    #[inline]
    pub(crate) fn is_on(self) -> bool {
        self.0 != 0
    }

    #[inline]
    pub(crate) fn has_hooks(self) -> bool {
        self.0 & HOOKED != 0
    }

    /// Whether a listener is all that there is: no other hook, and no sampling.
    #[inline]
    pub(crate) fn is_listener_alone(self) -> bool {
        self.0 & !HOOKED == 0 && self.has_hooks()
    }

    /// As [`scale`](Self::scale), where there are no hooks: all bits are its.
    #[inline]
    pub(crate) fn scale_without_hooks(self) -> u64 {
        debug_assert!(!self.has_hooks());
        self.0
    }

    /// The units per byte; 0: not sampled.
    #[inline]
    pub(crate) fn scale(self) -> u64 {
        self.0 & !(HOOKED | OTHERS)
    }
}

/// Bits of [`Node::hooks`].
pub(crate) mod hooks {
    /// A listener is set that hears of allocations.
    pub(crate) const LISTENER: u8 = 1;
    /// Debug mode is on.
    pub(crate) const DEBUG: u8 = 2;
    /// Statistics are on.
    pub(crate) const STATISTICS: u8 = 4;
}

/// Does nothing; stands in for a listener that does not hear of allocations.
struct Deaf;

impl AllocationListener for Deaf {}

/// One word of a striped node, alone on its pair of cache lines (they are prefetched in pairs).
#[repr(align(128))]
struct Stripe(Word);

/// The words of a striped node.
struct Stripes {
    words: Box<[Stripe]>,
    /// Each may hold `Node::high` shifted right by so much: together they hold half of it, since
    /// as much again may be parked.
    shift: u32,
}

/// The numbers of a node that only the holder of the mutex touches, in bytes. The names in
/// parentheses are those of the essay at the head of `accounting`.
pub(super) struct State {
    pub(super) limit: usize,
    /// What the parent is charged for this node (O); for a root, the sum that its limit bounds.
    pub(super) obtained: usize,
    /// The sum of the children's `obtained` (S).
    pub(super) lent: usize,
    /// Free bytes that are in no word (P).
    pub(super) parked: usize,
    /// External bytes that no word counts.
    pub(super) external: usize,
    pub(super) peak: usize,
    /// The subtree is exact and shut (I2); set by recall, cleared by `relax`.
    pub(super) tight: bool,
    /// Must not be opened before it is known that no level from here up is tight.
    pub(super) shut: bool,
    pub(super) closed: bool,
    pub(super) linked: bool,
    /// It was told that memory outlived the last handle. Each growth of what is left takes and drops
    /// a handle again.
    pub(super) outlived: bool,
    /// Slow operations since the last recall here, and the nodes that it visited.
    pub(super) tight_operations: usize,
    pub(super) recall_cost: usize,
    pub(super) refusals: u64,
    pub(super) forced: u64,
    /// Non-owning ledgers.
    pub(super) guests: usize,
    /// A walk's own note: the exact allocated bytes.
    pub(super) exact: usize,
    pub(super) children: usize,
    pub(super) parent: Option<NodePtr>,
    pub(super) first_child: Option<NodePtr>,
    pub(super) last_child: Option<NodePtr>,
    pub(super) next_sibling: Option<NodePtr>,
    pub(super) previous_sibling: Option<NodePtr>,
    /// The next in the graveyard.
    next_dead: Option<NodePtr>,
    /// While a departure waits to be told: the former parent, and the next such node.
    departed_from: Option<NodePtr>,
    next_departed: Option<NodePtr>,
}

impl State {
    /// What is in use here and below (B + S): exact when the subtree is, else an upper bound.
    #[inline]
    pub(super) fn used(&self) -> usize {
        self.obtained - self.parked
    }

    /// The limit, never above what a signed size can express.
    #[inline]
    pub(super) fn bound(&self) -> usize {
        self.limit.min(crate::size::MAX_SIZE)
    }

    #[inline]
    pub(super) fn note_peak(&mut self) {
        self.peak = self.peak.max(self.used());
    }
}

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
        unsafe { self.0.as_ref() }
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
    /// answers `true`, the node may be gone.
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
            Err(slow) => node.give_after(bytes, kind, slow),
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

    /// Gives to the thread's stripe, likewise; the bytes are still charged, so the node is alive until
    /// that is done.
    #[cold]
    fn give_after(&self, bytes: usize, kind: Kind, slow: Slow) -> bool {
        let high = self.high();
        match self.stripes() {
            Some(stripes) => {
                let high = high >> stripes.shift;
                let mine = stripes.mine().give(bytes, high, kind);
                // Another thread may have charged external bytes. The node is the caller's anyway.
                mine || kind == Kind::External
                    && stripes.iter().any(|word| word.give(bytes, high, kind))
            }
            None => self.may_try_again(slow) && self.word.give(bytes, high, kind),
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

    /// The reservations: their sizes in bytes.
    pub(crate) fn reservations(&self) -> plain::MutexGuard<'_, Slab<Arc<Reserved>>> {
        plain::lock(&self.reservations)
    }

    /// Who watches this node's allocations, by hooks or by samples.
    #[inline]
    pub(crate) fn watch(&self) -> Watch {
        // Relaxed: a switch; an allocation that races with it may go either way.
        Watch(self.watch.load(Ordering::Relaxed))
    }

    /// Whether an allocation of `bytes` is due to be sampled: then, the units per byte.
    #[inline]
    pub(crate) fn sample_due(&self, bytes: usize) -> Option<u64> {
        let scale = self.watch().scale();
        (scale != 0 && sampling::due(bytes, scale)).then_some(scale)
    }

    /// Sets how many units of the sampler's distance a byte is; 0: not sampled.
    pub(crate) fn set_scale(&self, scale: u64) {
        // Relaxed: as in `watch`.
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

    /// The sizes of the reservations, in bytes.
    pub(crate) fn reservation_sizes(&self) -> Vec<usize> {
        // Relaxed: each is written by its one owner; numbers for readers.
        self.reservations()
            .iter()
            .map(|(_, reserved)| reserved.size.load(Ordering::Relaxed))
            .collect()
    }

    /// The sum of the reservations, in bytes.
    pub(crate) fn reserved_bytes(&self) -> usize {
        // Relaxed: each is written by its one owner; a number for readers.
        self.reservations()
            .iter()
            .map(|(_, reserved)| reserved.size.load(Ordering::Relaxed))
            .sum()
    }

    /// Another handle: the caller has one, or the mutex.
    #[inline]
    pub(crate) fn add_handle(&self) {
        // Relaxed: the caller keeps the node alive by other means until this is done.
        let count = self.handles.fetch_add(1, Ordering::Relaxed);
        abort_on_overflow(count);
    }

    /// Another handle, if there is one; `false`: the first one comes under the mutex.
    #[inline]
    pub(super) fn add_handle_unless_first(&self) -> bool {
        let added = self
            .handles
            // Relaxed, both: as for `add_handle`.
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count > 0).then(|| count + 1)
            });
        added.map(abort_on_overflow).is_ok()
    }

    /// Another pin: the caller has one, or a handle, or bytes or a ledger keep the node.
    #[inline]
    pub(crate) fn add_pin(&self) {
        // Relaxed: the caller keeps the node alive by other means until this is done.
        let count = self.pins.fetch_add(1, Ordering::Relaxed);
        abort_on_overflow(count);
    }

    /// Gives up a handle that is not the last one; `false`: it may be, and the mutex must decide.
    #[inline]
    pub(super) fn drop_handle_unless_last(&self) -> bool {
        drop_unless_last(&self.handles)
    }

    /// Gives up a pin that is not the last one.
    #[inline]
    pub(super) fn drop_pin_unless_last(&self) -> bool {
        drop_unless_last(&self.pins)
    }

    /// How many handles there are.
    pub(super) fn handles(&self) -> usize {
        // Acquire: partner of the Release in `drop_unless_last`; who sees the count drop to one
        // comes after all that the others did with the node.
        self.handles.load(Ordering::Acquire)
    }
}

/// [`Node::watch`] for these hooks, and a rounding policy other than the default, without sampling.
fn watched(hooks: u8, policy: bool) -> u64 {
    match (hooks, policy) {
        (0, false) => 0,
        (hooks::LISTENER, false) => HOOKED,
        _ => HOOKED | OTHERS,
    }
}

/// Decrements `count` if others remain.
fn drop_unless_last(count: &AtomicUsize) -> bool {
    count
        // Release: what this thread did with the node comes before whoever frees it; the partner
        // is the Acquire of `last_goes` and of `handles`. Relaxed for the looks before it.
        .fetch_update(Ordering::Release, Ordering::Relaxed, |count| {
            (count > 1).then(|| count - 1)
        })
        .is_ok()
}

/// As std does for `Arc`: after 2^63 leaked handles a wrap would be a use after free.
fn abort_on_overflow(count: usize) {
    if count > isize::MAX as usize {
        std::process::abort();
    }
}

/// Opens those of the words that are shut with an equal share of these bytes, of the credit at most
/// `high` each, and says how much that was. None gets more than half of what it can hold, so that it
/// can be given some, too.
#[inline]
fn open_shut<'w>(
    words: impl Iterator<Item = &'w Word> + Clone,
    credit: usize,
    external: usize,
    high: usize,
) -> (usize, usize) {
    const HALF: usize = MAX_CREDIT / 2 + 1;
    let shut = words.filter(|word| word.is_shut());
    let count = match shut.clone().count() {
        0 => return (0, 0),
        // The usual number, for which nothing is divided.
        1 => 1,
        count => count,
    };
    let (credit, external) = (credit / count, external / count);
    let (credit, external) = (credit.min(HALF).min(high), external.min(HALF));
    shut.for_each(|word| word.open(credit, external));
    (credit * count, external * count)
}

impl Stripes {
    fn iter(&self) -> impl Iterator<Item = &Word> + Clone {
        self.words.iter().map(|stripe| &stripe.0)
    }

    /// The word of the calling thread.
    fn mine(&self) -> &Word {
        &self.words[thread_number() & (self.words.len() - 1)].0
    }
}

/// A small number per thread, to spread threads over stripes.
#[cfg(not(loom))]
fn thread_number() -> usize {
    use std::cell::Cell;
    static NEXT: plain::AtomicUsize = plain::AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    // Without a destructor the cell is there until the thread has ended.
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            // Relaxed: any number will do.
            number.set(NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1));
        }
        number.get()
    })
}

/// In a model, the number that its thread chose.
#[cfg(loom)]
fn thread_number() -> usize {
    STRIPE.with(std::cell::Cell::get)
}

#[cfg(loom)]
loom::thread_local! {
    /// The stripe that a model's thread uses.
    pub(super) static STRIPE: std::cell::Cell<usize> = std::cell::Cell::new(0);
}

/// How many collisions on its word a node bears before it gets stripes.
const COLLISIONS: usize = 64;

/// How many words a striped node gets: a power of two.
fn stripe_count() -> usize {
    if cfg!(loom) {
        return 2;
    }
    std::thread::available_parallelism()
        .map_or(4, |cores| cores.get().clamp(2, 16))
        .next_power_of_two()
}

/// The tree's mutex, held. All that needs more than one word, or any state, happens here.
///
/// While it exists, nodes that are linked stay alive; unlinked ones too until it is dropped. Its
/// holder may give up under it what kept the tree alive: the mutex outlives the tree, and nothing
/// else is touched once it is released.
pub(crate) struct Locked<'t> {
    /// The tree; alive while a node is, so until the graveyard is emptied.
    tree: NonNull<Tree>,
    shared: Option<MutexGuard<'static, Shared>>,
    /// Nothing is opened for now: one step is made of several. What stays shut for it is opened
    /// when it is next used.
    pub(super) hold: bool,
    _tree: PhantomData<&'t Tree>,
}

impl Tree {
    /// What is alive, in debug mode.
    pub(crate) fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    /// A tree with its root, which has one handle.
    pub(crate) fn with_root(config: TreeConfig, root: NodeConfig) -> NodePtr {
        let tree = Arc::new(Self {
            recorder: config.debug.then(|| Box::new(Recorder::new())),
            config,
            mutex: TreeMutex::new(),
        });
        let mut root = Node::boxed(root, tree, 0);
        let root_node = Arc::get_mut(&mut root).expect("nobody else has seen the node");
        root_node.state.get_mut().shut = root_node.tree.config.credit == 0;
        let opens = !root_node.state.get_mut().shut;
        root_node.state.get_mut().linked = true;
        if opens {
            root_node.word.open(0, 0);
        }
        NodePtr::leak(root)
    }

    /// Takes the mutex. The caller has a handle, a pin or bytes, and may give it up under it.
    #[inline]
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked {
            tree: NonNull::from(self),
            shared: Some(self.mutex.lock()),
            hold: false,
            _tree: PhantomData,
        }
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
        if !locked.look(node).linked && strong.handles() == 0 {
            return None;
        }
        strong.add_handle();
        Some(node)
    }
}

impl Node {
    /// A node that nothing refers to yet, shut, with one handle and no bytes.
    pub(super) fn boxed(config: NodeConfig, tree: Arc<Tree>, depth: usize) -> Arc<Self> {
        let NodeConfig {
            name,
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
            manager: NonNull::from(&*tree.config.manager),
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
            reservations: plain::Mutex::default(),
            trail: OnceLock::new(),
            foreign: AtomicUsize::new(0),
            total_bytes: AtomicU64::new(0),
            total_allocations: AtomicU64::new(0),
            live_allocations: AtomicU64::new(0),
            state: UnsafeCell::new(State {
                limit,
                obtained: 0,
                lent: 0,
                parked: 0,
                external: 0,
                peak: 0,
                tight: false,
                shut: true,
                closed: false,
                linked: false,
                outlived: false,
                tight_operations: 0,
                recall_cost: 0,
                refusals: 0,
                forced: 0,
                guests: 0,
                exact: 0,
                children: 0,
                parent: None,
                first_child: None,
                last_child: None,
                next_sibling: None,
                previous_sibling: None,
                next_dead: None,
                departed_from: None,
                next_departed: None,
            }),
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Acquire: partner of the Release in `install_stripes`.
        let stripes = self.stripes.load(Ordering::Acquire);
        if !stripes.is_null() {
            // SAFETY: by invariant 4 this is the box that `install_stripes` made, owned by us.
            drop(unsafe { Box::from_raw(stripes) });
        }
        // What users wrote may panic when it is dropped. Nodes go one after another, so that would
        // leak the rest of them.
        if let Some(listener) = self.listener.take() {
            quietly(&self.info, || drop(listener));
        }
        if let Some(policy) = self.policy.take() {
            quietly(&self.info, || drop(policy));
        }
    }
}

/// The next identity: never used before in this process.
fn next_id() -> AllocatorId {
    static NEXT: plain::AtomicU64 = plain::AtomicU64::new(1);
    // Relaxed: uniqueness is all that is asked.
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    AllocatorId(NonZeroU64::new(id).expect("2^64 allocators were not created"))
}

impl<'t> Locked<'t> {
    /// The tree whose mutex this is.
    pub(super) fn tree(&self) -> &Tree {
        // SAFETY: it was alive when the mutex was taken, by what the caller had then; nodes own
        // their tree, and are freed only after this guard is gone.
        unsafe { self.tree.as_ref() }
    }

    /// The node behind a pointer that is alive while we hold the mutex: linked, or kept by a
    /// handle, a pin or bytes of whoever asks.
    #[inline]
    pub(super) fn node(&self, node: NodePtr) -> &'t Node {
        // SAFETY: the type's promise: its holder knows why the node is alive, and by I4 (see
        // `accounting`) nodes are freed only after this guard is gone.
        let node = unsafe { node.node() };
        debug_assert!(
            std::ptr::eq(&raw const *node.tree, self.tree.as_ptr()),
            "a node of another tree"
        );
        node
    }

    /// The node's state.
    #[inline]
    pub(super) fn state(&mut self, node: NodePtr) -> &mut State {
        // SAFETY: the node is alive as in `node`. By invariant 3 its state is touched only under
        // the mutex, which we hold, and `&mut self` lends out one state at a time.
        unsafe { &mut *self.node(node).state.get() }
    }

    /// The node's state, to read.
    #[inline]
    pub(super) fn look(&self, node: NodePtr) -> &State {
        // SAFETY: as in `state`; `&self` lends shared references only.
        unsafe { &*self.node(node).state.get() }
    }

    /// Shuts every word of the node and parks its credit: from here on `used` counts no credit
    /// of its own.
    pub(super) fn freeze(&mut self, node: NodePtr) {
        let held = self.node(node).sum(Word::shut_down);
        self.park(node, held);
    }

    /// Shuts the word that the calling thread uses, and no other: credit in other stripes counts
    /// as used.
    pub(super) fn freeze_mine(&mut self, node: NodePtr) {
        let this = self.node(node);
        let held = match this.stripes() {
            Some(stripes) => stripes.mine().shut_down(),
            None => this.word.shut_down(),
        };
        self.park(node, held);
    }

    fn park(&mut self, node: NodePtr, held: Held) {
        let state = self.state(node);
        state.peak = state.peak.max(state.used() - held.low);
        state.parked += held.credit;
        state.external += held.external;
    }

    /// Opens the node's shut words with what is parked, as far as its limit allows, and with external
    /// bytes.
    pub(super) fn open(&mut self, node: NodePtr) {
        let this = self.node(node);
        let state = self.state(node);
        let room = state.bound().saturating_sub(state.used());
        let (free, external) = (state.parked.min(room), state.external);
        // What is obtained stays as it is while the words are open. Up to so much beyond the
        // reservation all of it may be free; from there on only the credit may.
        let beyond = state.obtained - this.reservation;
        let most = self.tree().config.credit;
        let shift = this.stripes().map_or(0, |stripes| stripes.shift);
        let largest = MAX_CREDIT << shift;
        let high = if beyond <= most {
            largest
        } else {
            most.min(largest)
        };
        // Relaxed: see `high`.
        this.high.store(high, Ordering::Relaxed);
        let (credit, external) = match this.stripes() {
            None => open_shut(std::iter::once(&this.word), free, external, high),
            Some(stripes) => open_shut(stripes.iter(), free, external, high >> shift),
        };
        let state = self.state(node);
        state.parked -= credit;
        state.external -= external;
    }

    /// External bytes, as the words are.
    pub(super) fn external(&self, node: NodePtr) -> usize {
        self.look(node).external + self.node(node).sum(Word::held).external
    }

    /// What is in use here and below by the words as they are; never less than is allocated.
    pub(super) fn charged(&mut self, node: NodePtr) -> usize {
        if self.node(node).stripes().is_none() {
            return self.look(node).used() - self.node(node).word.held().credit;
        }
        // Several words are not read at one instant.
        self.freeze(node);
        let used = self.look(node).used();
        if !self.look(node).shut {
            self.open(node);
        }
        used
    }

    /// The peak, with what the open words have seen since they were opened.
    pub(super) fn peak(&mut self, node: NodePtr) -> usize {
        let low = self.node(node).sum(Word::held).low;
        let state = self.look(node);
        state.peak.max(state.used() - low)
    }

    /// Splits the node's word into stripes if enough threads were seen to collide on it. All its
    /// words are shut; the new ones are too.
    pub(super) fn stripe_if_contended(&mut self, node: NodePtr) {
        let this = self.node(node);
        // Relaxed: a statistic.
        if this.collisions.load(Ordering::Relaxed) > COLLISIONS && this.stripes().is_none() {
            self.install_stripes(node, stripe_count());
        }
    }

    /// Gives the node `count` stripes, a power of two.
    pub(super) fn install_stripes(&mut self, node: NodePtr, count: usize) {
        let this = self.node(node);
        self.freeze(node);
        let words = (0..count).map(|_| Stripe(Word::shut())).collect();
        let shift = count.trailing_zeros() + 1;
        let stripes = Box::new(Stripes { words, shift });
        // Release: partner of the Acquire in `stripes`.
        this.stripes
            .store(Box::into_raw(stripes), Ordering::Release);
    }

    /// The most bytes that a node may hold beyond what its reservation and its use need.
    pub(super) fn most_unused(&self, node: NodePtr) -> usize {
        let most = self.tree().config.credit;
        if self.node(node).stripes().is_some() {
            most / 2
        } else {
            most
        }
    }

    /// Takes credit as anyone may, without shutting the word.
    pub(super) fn take(&self, node: NodePtr, bytes: usize) -> bool {
        // SAFETY: the node is alive as in `node`.
        unsafe { node.take(bytes, Kind::Held) }
    }

    /// Gives `bytes` that are charged to the node back to its credit, without shutting the word.
    pub(super) fn give(&self, node: NodePtr, bytes: usize) -> bool {
        // SAFETY: the caller counts these bytes as charged; and a node is freed only under the
        // mutex, so it is alive afterwards too.
        unsafe { node.give(bytes, Kind::Held) }
    }

    /// Whether `give` would succeed, as things stand.
    pub(super) fn may_give(&self, node: NodePtr, bytes: usize) -> bool {
        let this = self.node(node);
        let (word, high) = match this.stripes() {
            Some(stripes) => (stripes.mine(), this.high() >> stripes.shift),
            None => (&this.word, this.high()),
        };
        !word.is_shut() && word.held().credit.saturating_add(bytes) <= high
    }

    /// Whether the node refuses new work.
    pub(crate) fn is_closed(&self, node: NodePtr) -> bool {
        self.look(node).closed
    }

    /// Counts non-owning ledgers in or out.
    pub(crate) fn change_guests(&mut self, node: NodePtr, by: isize) {
        let state = self.state(node);
        state.guests = state
            .guests
            .checked_add_signed(by)
            .expect("guests are counted in first");
    }

    /// Keeps the node's memory, and its name and listener in it; not the allocator.
    pub(crate) fn keep(&self, node: NodePtr) -> Arc<Node> {
        // SAFETY: the pointer is from `Arc::into_raw` in `leak`, and the node is alive as in
        // `node`.
        unsafe { Arc::increment_strong_count(node.0.as_ptr()) };
        // SAFETY: as above; this takes over the count just added.
        unsafe { Arc::from_raw(node.0.as_ptr()) }
    }

    /// Takes one from `count`; `true` if it was the last.
    fn last_goes(count: &AtomicUsize) -> bool {
        // Release for what we did; Acquire, partner of the Release in `drop_unless_last`, because
        // the last one may free the node.
        count.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Gives up a handle; `true` if it was the last.
    pub(super) fn drop_handle(&mut self, node: NodePtr) -> bool {
        Self::last_goes(&self.node(node).handles)
    }

    /// Gives up a pin.
    pub(super) fn drop_pin(&mut self, node: NodePtr) {
        Self::last_goes(&self.node(node).pins);
    }

    /// Remembers that `child` left `parent`, if anyone wants to know.
    pub(super) fn note_departure(&mut self, child: NodePtr, parent: NodePtr) {
        if self.node(parent).listener.is_none() {
            return;
        }
        for node in [child, parent] {
            // SAFETY: the pointer is from `Arc::into_raw` in `leak` and the node is alive. The
            // count is given back in `Departures`.
            unsafe { Arc::increment_strong_count(node.0.as_ptr()) };
        }
        let next = self.shared().departed.replace(child);
        let state = self.state(child);
        state.departed_from = Some(parent);
        state.next_departed = next;
    }

    /// What the mutex protects besides the states of the nodes.
    fn shared(&mut self) -> &mut Shared {
        self.shared
            .as_mut()
            .expect("the mutex is held until the guard is dropped")
    }

    /// Notes that the node's subtree is exact and shut, by a recall that visited so many nodes.
    pub(super) fn tighten(&mut self, node: NodePtr, visited: usize) {
        let state = self.state(node);
        (state.tight_operations, state.recall_cost) = (0, visited);
        if !std::mem::replace(&mut state.tight, true) {
            self.shared().tight += 1;
        }
    }

    /// Notes that the node is tight no more.
    pub(super) fn loosen(&mut self, node: NodePtr) {
        if std::mem::take(&mut self.state(node).tight) {
            self.shared().tight -= 1;
        }
    }

    /// Whether any node of the tree is tight.
    pub(super) fn some_are_tight(&mut self) -> bool {
        self.shared().tight > 0
    }

    /// The departures since this was last asked, in order, to be told once the mutex is released.
    pub(crate) fn take_departures(&mut self) -> Departures {
        // The last one is first on the list: children leave before their parents.
        let (mut next, mut told) = (self.shared().departed.take(), None);
        while let Some(node) = next {
            next = std::mem::replace(&mut self.state(node).next_departed, told);
            told = Some(node);
        }
        Departures(told)
    }

    /// Whether nothing but links can lead to the node any more.
    fn may_free(&self, node: NodePtr) -> bool {
        let this = self.node(node);
        // Acquire: partner of the Release in `drop_unless_last`.
        !self.look(node).linked && this.handles() == 0 && this.pins.load(Ordering::Acquire) == 0
    }

    /// How many pins the node has.
    pub(super) fn pins(&self, node: NodePtr) -> usize {
        // Acquire: partner of the Release in `drop_unless_last`.
        self.node(node).pins.load(Ordering::Acquire)
    }

    /// Buries the node if it is unlinked and nobody has a handle or a pin. It is freed when this
    /// guard goes; whoever calls this gives up the pointer.
    pub(super) fn bury_if_free(&mut self, node: NodePtr) {
        if self.may_free(node) {
            let next = self.shared().graveyard.replace(node);
            self.state(node).next_dead = next;
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Some(mut shared) = self.shared.take() else {
            return;
        };
        let mut grave = shared.graveyard.take();
        drop(shared);
        // Nodes with their names and listeners are freed with no lock held; the tree goes with the
        // last of them.
        while let Some(node) = grave {
            // SAFETY: a buried node is alive until it is retired below.
            let state = unsafe { node.node() }.state.get();
            // SAFETY: by `may_free` nobody else leads to this node but records, which do not touch
            // its state; the graveyard was ours under the mutex.
            grave = unsafe { (*state).next_dead };
            // SAFETY: it comes from the graveyard.
            unsafe { node.retire() };
        }
    }
}

impl NodePtr {
    /// Frees a buried node, or has a thread that still tells its listener of something free it.
    ///
    /// # Safety
    ///
    /// The caller took it from the graveyard, where it was once (it was unlinked once, and buried
    /// by whoever took the last handle or pin, or unlinked it when there was none); or from the
    /// record with which this left it.
    pub(super) unsafe fn retire(self) {
        // SAFETY: it is freed by this call, or by nobody before this call has left it to somebody.
        if unsafe { self.node() }.hooks & hooks::LISTENER == 0 {
            // SAFETY: the caller's promise; records hold nodes with listeners only.
            return unsafe { self.free() };
        }
        #[cfg(not(loom))]
        super::hazard::retire(self.0, super::hazard::records, |node| {
            // SAFETY: the caller's promise for this node, and that of those who left others with
            // the records; no record holds it now.
            unsafe { Self(node).free() };
        });
        #[cfg(loom)]
        // SAFETY: the caller's promise; in models there are no listeners.
        unsafe {
            self.free()
        };
    }

    /// # Safety
    ///
    /// As for `retire`, and no record holds the node.
    unsafe fn free(self) {
        // SAFETY: the pointer is from `Arc::into_raw` in `leak`; by the caller's promise nobody
        // leads to this node any more, and its count is given back once.
        drop(unsafe { Arc::from_raw(self.0.as_ptr().cast_const()) });
    }
}

/// Nodes that left the tree, as `(parent, child)`. They are kept alive as memory, no more.
pub(crate) struct Departures(Option<NodePtr>);

impl Iterator for Departures {
    type Item = (Arc<Node>, Arc<Node>);

    fn next(&mut self) -> Option<Self::Item> {
        let child = self.0?;
        // SAFETY: `note_departure` added one count for this list, which is taken over here, once.
        let child = unsafe { Arc::from_raw(child.0.as_ptr().cast_const()) };
        // SAFETY: a node departs once, and until this list has been walked nobody else looks at
        // these two fields: the list was taken, under the mutex, by whoever walks it.
        let (parent, next) = unsafe {
            (
                (*child.state.get()).departed_from,
                (*child.state.get()).next_departed,
            )
        };
        self.0 = next;
        let parent = parent.expect("a departed node has a former parent");
        // SAFETY: as for the child.
        let parent = unsafe { Arc::from_raw(parent.0.as_ptr().cast_const()) };
        Some((parent, child))
    }
}

impl Drop for Departures {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::RootAllocator;
    use crate::testing::TrackingManager;

    use super::*;

    fn root() -> RootAllocator {
        let builder = RootAllocator::builder().allocation_manager(Arc::new(TrackingManager::new()));
        builder.build().expect("nothing is missing")
    }

    #[test]
    fn external_bytes_of_one_stripe_are_given_back_on_another() {
        let root = root();
        let node = root.handle.ptr();
        root.node().tree.lock().install_stripes(node, 2);
        root.allocate_bytes(64).unwrap();
        root.release_bytes(64);
        root.allocate_bytes(64).unwrap();

        for _ in 0..4 {
            std::thread::scope(|scope| {
                // One of these numbers has the other stripe.
                scope.spawn(|| {
                    assert!(root.node().give_after(8, Kind::External, Slow::Mutex));
                });
            });
        }

        assert_eq!(root.stats().external_bytes, 32);
        root.release_bytes(32);
        root.verify().unwrap();
    }

    /// Collisions were once counted only where credit was short, too: where as much is given back as
    /// taken there were never stripes.
    #[test]
    fn a_node_on_which_threads_collide_gets_stripes_although_there_is_credit() {
        let root = root();
        drop(root.buffer(4096).unwrap());
        let node = &*root.handle;

        for _ in 0..COLLISIONS / 2 {
            assert!(node.take_after(64, Kind::Held, Slow::Collision));
            assert!(node.give_after(64, Kind::Held, Slow::Collision));
        }
        assert!(node.stripes().is_none());
        assert!(!node.take_after(64, Kind::Held, Slow::Collision));
        node.tree.lock().charge(root.handle.ptr(), 64).unwrap();

        assert!(node.stripes().is_some());
        // SAFETY: charged above.
        unsafe { root.handle.uncharge(64) };
        assert_eq!(root.allocated_memory(), 0);
        root.verify().unwrap();
    }
}
