//! The slot: the bookkeeping of one ledger and, in the first ledger's slot, of its allocation.
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "reaching a place through a raw pointer and using it count as two"
)]
#![expect(
    unsafe_code,
    reason = "slots are recycled memory; who may touch which field is written here"
)]

use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::ptr::NonNull;

use super::count::Count;
use super::release::Release;
use crate::accounting::{Node, NodePtr};
use crate::sync::{AtomicPtr, AtomicUsize, Ordering};

/// The bookkeeping of one ledger: 88 bytes, recycled by [`pool`](super::pool).
///
/// The first ledger of an allocation has the allocation's own fields in its slot, which is the
/// allocation's *home* and stays until the allocation is freed, even if its ledger ends before.
///
/// # Invariants
///
/// 1. A slot in use has a non-null `node`, which is alive: the allocation is charged to it, or it
///    counts this ledger among its guests.
/// 2. `home` is the slot of the allocation's first ledger (the slot itself, there); it outlives
///    every ledger of the allocation.
/// 3. While the allocation has one ledger, its plain fields belong to the holder of a sole buffer,
///    or are constant. While it has several, `links` of all, and `body` of all but the home, are
///    touched under the tree's mutex; `body` of the home, its block, is constant.
/// 4. A slot that the pool hands out is *ready* for an allocation of our own: it is its own home, its
///    links are those of an only ledger, and it has no release. An allocation that is never transferred
///    or retained leaves these fields so: it neither writes nor reads the slot's second half.
#[repr(C)]
pub(crate) struct Slot {
    face: Face,
    body: UnsafeCell<Body>,
    /// The slot of the allocation's first ledger; never changes while the slot is in use.
    home: NonNull<Slot>,
    links: UnsafeCell<Links>,
    /// What releases foreign memory; in the home slot.
    foreign: UnsafeCell<Option<Release>>,
}

/// The part of a slot, used or free, that a walk over all slots reads while others work: only atomics.
#[repr(C)]
pub(crate) struct Face {
    pub(crate) count: Count,
    /// The allocator of this ledger; null in a free slot.
    node: AtomicPtr<Node>,
    /// The allocation's size in bytes, and [`FOREIGN`] and [`SAMPLED`] where they apply.
    size: AtomicUsize,
}

/// In `Face::size`: releasing the memory takes more than a manager, and the next two bits are flags.
/// Sizes are at most `isize::MAX`.
const SPECIAL: usize = 1 << (usize::BITS - 1);

/// With [`SPECIAL`]: the memory is foreign.
const FOREIGN: usize = 1 << (usize::BITS - 2);

/// With [`SPECIAL`]: the allocation was sampled.
const SAMPLED: usize = 1 << (usize::BITS - 3);

/// The largest size of a special allocation: more than any address space has.
pub(crate) const MAX_SPECIAL: usize = SAMPLED - 1;

/// Where an allocation's memory is.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) ptr: NonNull<u8>,
    pub(crate) align: usize,
}

/// A field of the home slot, or one of the other slots, in the same place.
#[derive(Clone, Copy)]
union Body {
    /// In the home slot: where the memory is.
    block: Block,
    /// In another slot: see [`below`](Slot::below). It stays as it is while the slot is that of the
    /// only ledger, since the slot is the root of the index then.
    below: [Option<NonNull<Slot>>; 2],
}

/// How the ledgers of an allocation hang together: in a ring, in the order in which they were
/// associated, from the home slot to the home slot.
pub(crate) struct Links {
    /// The ledger associated next; from the last one, the home slot.
    pub(crate) next: NonNull<Slot>,
    /// The ledger associated before; from the home slot, the last one.
    pub(crate) previous: NonNull<Slot>,
    /// In the home slot: how many ledgers are buried, each until its own thread has had the mutex.
    pub(crate) pending: u32,
    role: Role,
    /// In the home slot: its own ledger, which is the first one, was taken off the list. The slot
    /// stays in the ring.
    pub(crate) unlisted: bool,
    /// The ledger was taken off the list by another thread. The one that dropped its last buffer still
    /// waits for the mutex.
    pub(crate) buried: bool,
}

/// A field of the home slot, or one of the other slots, in the same place.
#[derive(Clone, Copy)]
union Role {
    /// In the home slot: the node that is charged for a stranded allocation, if it is one (see
    /// `ledger::release`).
    stranded: Option<NodePtr>,
    /// In another slot: the ledger above this one in the index, but for the root.
    above: Option<NonNull<Slot>>,
}

impl Links {
    /// The node that is charged for a stranded allocation, if it is one (see `ledger::release`); of the
    /// home slot.
    pub(crate) fn stranded(&mut self) -> &mut Option<NodePtr> {
        // SAFETY: both are an optional pointer, for which all that is written here is valid.
        unsafe { &mut self.role.stranded }
    }

    /// The ledger above this one in the index, but for the root; of a slot that is not the home.
    pub(crate) fn above(&mut self) -> &mut Option<NonNull<Slot>> {
        // SAFETY: as above.
        unsafe { &mut self.role.above }
    }

    /// The links of an allocation's only ledger, in its home slot.
    fn alone(home: NonNull<Slot>) -> Self {
        Self {
            next: home,
            previous: home,
            pending: 0,
            role: Role { above: None },
            unlisted: false,
            buried: false,
        }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 88, "the bookkeeping of one allocation");

impl Slot {
    /// Makes a slot ready (invariant 4): one that is new, or that was used for more than an
    /// allocation of our own with one ledger.
    ///
    /// # Safety
    ///
    /// The slot is valid for writes and initialised but for what is written here, and nobody uses it.
    pub(crate) unsafe fn make_ready(slot: NonNull<Slot>) {
        let links = Links::alone(slot);
        let this = slot.as_ptr();
        // SAFETY: the caller's promise.
        unsafe { (&raw mut (*this).home).write(slot) };
        // SAFETY: as above.
        unsafe { (&raw mut (*this).links).write(UnsafeCell::new(links)) };
        // SAFETY: as above.
        unsafe { (&raw mut (*this).foreign).write(UnsafeCell::new(None)) };
    }

    /// Whether the slot is ready.
    ///
    /// # Safety
    ///
    /// It came from the pool, and nobody uses it.
    pub(crate) unsafe fn is_ready(slot: NonNull<Slot>) -> bool {
        let this = slot.as_ptr();
        // SAFETY: the caller's promise; the pool initialised what is looked at.
        let (home, links) = unsafe { ((*this).home, &mut *(*this).links.get()) };
        // SAFETY: as above.
        let foreign = unsafe { &*(*this).foreign.get() };
        home == slot
            && (links.next, links.previous) == (slot, slot)
            && links.stranded().is_none()
            && (links.pending, links.unlisted, links.buried) == (0, false, false)
            && foreign.is_none()
    }

    /// Writes the slot of a new allocation's only ledger, with one buffer.
    ///
    /// # Safety
    ///
    /// `slot` came from the pool and nobody else knows it. `size` bytes are charged to `node`, and
    /// the slot's user gives them back with the memory.
    #[inline]
    pub(crate) unsafe fn init(
        slot: NonNull<Slot>,
        node: NodePtr,
        block: Block,
        size: usize,
        foreign: Option<Release>,
    ) {
        let this = slot.as_ptr();
        // SAFETY: the pool's slots are valid for writes, and this one is the caller's.
        unsafe { (&raw mut (*this).body).write(UnsafeCell::new(Body { block })) };
        // SAFETY: the pool initialised the face when it made the chunk; it is all atomics.
        let face = unsafe { &(*this).face };
        if foreign.is_some() {
            // SAFETY: as for the block.
            unsafe { (&raw mut (*this).foreign).write(UnsafeCell::new(foreign)) };
            face.count.reset_to_watched();
            face.fill(node, size, true);
        } else {
            face.count.reset_to_sole();
            face.fill(node, size, false);
        }
    }

    /// Writes the slot of a further ledger of the allocation at `home`, with one buffer.
    ///
    /// # Safety
    ///
    /// `slot` came from the pool and nobody else knows it; `home` is the home of a live allocation.
    pub(crate) unsafe fn init_guest(slot: NonNull<Slot>, node: NodePtr, home: &Slot) {
        // SAFETY: the caller's promise.
        unsafe { Self::init_further(slot, node, home, Count::reset_to_guest) };
    }

    /// Writes the slot of a further ledger of the allocation at `home`, with one buffer. The new ledger
    /// owns the allocation.
    ///
    /// # Safety
    ///
    /// The conditions of `init_guest`.
    pub(crate) unsafe fn init_heir(slot: NonNull<Slot>, node: NodePtr, home: &Slot) {
        // SAFETY: the caller's promise.
        unsafe { Self::init_further(slot, node, home, Count::reset_to_heir) };
    }

    /// # Safety
    ///
    /// The conditions of `init_guest`.
    #[inline]
    unsafe fn init_further(
        slot: NonNull<Slot>,
        node: NodePtr,
        home: &Slot,
        reset: impl FnOnce(&Count, bool),
    ) {
        let this = slot.as_ptr();
        // SAFETY: the pool's slots are valid for writes, and this one is the caller's.
        unsafe { (&raw mut (*this).home).write(home.home_ptr()) };
        // SAFETY: as above.
        unsafe { (&raw mut (*this).links).write(UnsafeCell::new(Links::alone(slot))) };
        let below = [None; 2];
        // SAFETY: as above.
        unsafe { (&raw mut (*this).body).write(UnsafeCell::new(Body { below })) };
        // SAFETY: the pool initialised the face when it made the chunk; it is all atomics.
        let face = unsafe { &(*this).face };
        reset(&face.count, home.is_foreign());
        face.fill(node, home.size(), home.is_foreign());
    }

    /// The count of the buffers on this ledger.
    #[inline]
    pub(crate) fn count(&self) -> &Count {
        &self.face.count
    }

    /// The node of a slot in use.
    #[inline]
    pub(crate) fn node(&self) -> NodePtr {
        // Relaxed: constant while the slot is in use, but for `set_node`; its user learnt of the slot in order.
        let node = self.face.node.load(Ordering::Relaxed);
        debug_assert!(!node.is_null(), "a slot in use has a node");
        // SAFETY: not null by invariant 1.
        NodePtr::from_ptr(unsafe { NonNull::new_unchecked(node) })
    }

    /// Changes the node. Under the tree's mutex; nobody else has a buffer of this ledger, nor gets one meanwhile: see
    /// `ledger::in_place`.
    pub(crate) fn set_node(&self, node: NodePtr) {
        // Release: partner of the Acquire in `node_address`.
        self.face
            .node
            .store(node.as_ptr().as_ptr(), Ordering::Release);
    }

    /// The allocation's size in bytes.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.face.size()
    }

    /// Notes that the slot is free, before its charge is given back.
    #[inline]
    pub(crate) fn vacate(&self) {
        // Release: partner of the Acquire in `node_address`. A walk that sees null does not take
        // numbers of a later use for this one's.
        self.face
            .node
            .store(std::ptr::null_mut(), Ordering::Release);
    }

    /// Whether the memory is foreign.
    #[inline]
    pub(crate) fn is_foreign(&self) -> bool {
        self.face.is_foreign()
    }

    /// The memory, of the home slot.
    ///
    /// # Safety
    ///
    /// The allocation is alive and no sole holder changes it meanwhile (invariant 3).
    #[inline]
    pub(crate) unsafe fn block(&self) -> Block {
        debug_assert!(self.is_home(), "another slot has no block");
        // SAFETY: the caller's promise; the home slot has a block.
        unsafe { (*self.body.get()).block }
    }

    /// The two ledgers, if any, below this one in the index of the allocation's ledgers; of a slot
    /// that is not the home.
    ///
    /// # Safety
    ///
    /// The slot is not the home. The caller is the sole holder or has the tree's mutex, and gives up the
    /// reference before it asks for this slot's again.
    #[expect(
        clippy::mut_from_ref,
        reason = "a cell; exclusive by the caller's promise"
    )]
    pub(crate) unsafe fn below(&self) -> &mut [Option<NonNull<Slot>>; 2] {
        debug_assert!(!self.is_home(), "the home slot has a block there");
        // SAFETY: the caller's promise; a slot that is not the home has these.
        unsafe { &mut (*self.body.get()).below }
    }

    /// Notes that the memory moved or changed its size, in the home slot and in this one, which is that
    /// of the only ledger.
    ///
    /// # Safety
    ///
    /// The caller is the sole holder (invariant 3).
    #[inline]
    pub(crate) unsafe fn set_block(&self, ptr: NonNull<u8>, size: usize) {
        debug_assert!(!self.is_foreign(), "foreign memory does not move");
        let home = self.home();
        // SAFETY: the caller's promise: nobody else reads it; the home slot has a block.
        unsafe { (*home.body.get()).block.ptr = ptr };
        home.face.set_size(size);
        if !self.is_home() {
            // The body of this slot is its place in the index.
            self.face.set_size(size);
        }
    }

    /// The size; with flags, and so above `MAX_SIZE`, if releasing the memory takes more than a manager.
    #[inline]
    pub(crate) fn flagged_size(&self) -> usize {
        // Relaxed: constant while others can reach the slot.
        self.face.size.load(Ordering::Relaxed)
    }

    /// Whether the allocation was sampled; of the home slot.
    pub(crate) fn is_sampled(&self) -> bool {
        self.face.is_sampled()
    }

    /// Notes that the allocation was sampled; of the home slot, by the sole holder.
    pub(crate) fn set_sampled(&self) {
        debug_assert!(self.size() <= MAX_SPECIAL);
        // Relaxed: others do not reach the slot now; a walk takes what it gets.
        self.face
            .size
            .fetch_or(SPECIAL | SAMPLED, Ordering::Relaxed);
    }

    /// The links, of any slot in use.
    ///
    /// # Safety
    ///
    /// The caller is the sole holder or has the tree's mutex, and gives up the reference before it
    /// asks for this slot's links again.
    #[expect(
        clippy::mut_from_ref,
        reason = "a cell; exclusive by the caller's promise"
    )]
    pub(crate) unsafe fn links(&self) -> &mut Links {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.links.get() }
    }

    /// The home slot.
    #[inline]
    pub(crate) fn home(&self) -> &Slot {
        // SAFETY: by invariant 2 the home outlives this ledger.
        unsafe { self.home.as_ref() }
    }

    /// Whether this is the home slot.
    #[inline]
    pub(crate) fn is_home(&self) -> bool {
        std::ptr::eq(self.home.as_ptr(), self)
    }

    /// The pool's pointer to the home slot. This pointer is returned to the pool: one that was made of a
    /// reference may not be used to write to a constant field or to reach the chunk.
    #[inline]
    pub(crate) fn home_ptr(&self) -> NonNull<Slot> {
        self.home
    }

    /// Takes what releases foreign memory; of the home slot.
    ///
    /// # Safety
    ///
    /// Nobody else can reach the allocation.
    #[inline]
    pub(crate) unsafe fn take_foreign(&self) -> Option<Release> {
        // SAFETY: the caller's promise.
        unsafe { (*self.foreign.get()).take() }
    }

    /// The layout of the memory, of the home slot.
    ///
    /// # Safety
    ///
    /// The allocation is alive, no sole holder changes it meanwhile, and the memory is a manager's.
    #[inline]
    pub(crate) unsafe fn layout(&self) -> Layout {
        // SAFETY: the caller's promise.
        let align = unsafe { self.block() }.align;
        // SAFETY: size and alignment are those of the layout that the block was asked with.
        unsafe { Layout::from_size_align_unchecked(self.size(), align) }
    }
}

impl Face {
    #[inline]
    fn fill(&self, node: NodePtr, size: usize, foreign: bool) {
        debug_assert!(!foreign || size <= MAX_SPECIAL);
        let flag = if foreign { SPECIAL | FOREIGN } else { 0 };
        // Relaxed: a walk takes what it gets; other threads learn of the slot in order.
        self.size.store(size | flag, Ordering::Relaxed);
        // Release: partner of the Acquire in `node_address`: a walk that sees the node sees the rest.
        self.node.store(node.as_ptr().as_ptr(), Ordering::Release);
    }

    /// The node's address, or null in a free slot.
    pub(crate) fn node_address(&self) -> *const Node {
        // Acquire: partner of the Release in `fill`, in `vacate` and in `set_node`.
        self.node.load(Ordering::Acquire)
    }

    /// The allocation's size in bytes.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        // Relaxed: constant while others can reach the slot; a walk takes what it gets.
        let size = self.size.load(Ordering::Relaxed);
        if size & SPECIAL == 0 {
            size
        } else {
            size & MAX_SPECIAL
        }
    }

    /// Changes the size and leaves the flags as they are, which are not those of foreign memory.
    #[inline]
    fn set_size(&self, size: usize) {
        let flags = if self.is_sampled() {
            SPECIAL | SAMPLED
        } else {
            0
        };
        // Relaxed: constant while others can reach the slot; a walk takes what it gets.
        self.size.store(size | flags, Ordering::Relaxed);
    }

    /// Whether the allocation was sampled.
    fn is_sampled(&self) -> bool {
        // Relaxed: constant while others can reach the slot; a walk takes what it gets.
        let flags = SPECIAL | SAMPLED;
        self.size.load(Ordering::Relaxed) & flags == flags
    }

    /// Whether the memory is foreign.
    #[inline]
    pub(crate) fn is_foreign(&self) -> bool {
        // Relaxed: constant while others can reach the slot; a walk takes what it gets.
        let flags = SPECIAL | FOREIGN;
        self.size.load(Ordering::Relaxed) & flags == flags
    }
}
