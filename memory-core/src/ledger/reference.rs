//! The reference to a ledger that each buffer holds.
#![expect(unsafe_code, reason = "a reference-counted pointer to a slot")]

use std::panic::Location;
use std::ptr::NonNull;

use super::release::{let_go, let_go_of_first};
use super::view::{self, View};
use super::watch::Watch;
use crate::accounting::{Handle, Node, NodePtr};
use crate::debug::{Operation, Seen};
use crate::raw::pool;
use crate::raw::release::Release;
use crate::raw::slot::{Block, MOST_SPECIAL, Slot};
use crate::sampling;

/// A counted reference to a ledger; or, for the empty buffer, to a node that it pins.
///
/// # Invariants
///
/// 1. The address is a slot's, perhaps plus [`CLONED`], whose count includes this reference; or a
///    node's plus [`PIN`], whose pins include it; or, in debug mode, that of a [`View`] plus
///    [`VIEW`], which this reference owns. All are aligned to 8 bytes.
pub(crate) struct LedgerRef(pub(super) NonNull<u8>);

/// The tag of a pinned node.
const PIN: usize = 1;

/// The tag of a view.
pub(super) const VIEW: usize = 2;

/// The tag of a reference that was made by cloning another: probably not the last one, so that its
/// drop subtracts at once, where others first look whether they are the only one. A guess: either
/// way is right for every reference.
const CLONED: usize = 4;

/// Who a reference leads to.
pub(super) enum Target<'a> {
    Slot(&'a Slot),
    Pin(NodePtr),
    View(&'a View),
}

// SAFETY: a reference gives shared access to atomics, and to the slot's plain fields by the rules
// in `Slot`'s invariants, which hold across threads; the last holder may release from any thread:
// managers and foreign releases are Send.
unsafe impl Send for LedgerRef {}
// SAFETY: as for Send; `&LedgerRef` can be cloned into another reference, which is Send.
unsafe impl Sync for LedgerRef {}

impl LedgerRef {
    /// A reference to a new allocation's only ledger.
    ///
    /// # Safety
    ///
    /// `size` bytes are charged to `node`, which this takes over. Without `foreign`, `block` is
    /// live, from the manager of the node's tree, asked with `size` and its alignment; with it,
    /// `foreign` gives it back. Nobody else gives either back.
    #[inline]
    pub(crate) unsafe fn new(
        node: NodePtr,
        block: Block,
        size: usize,
        foreign: Option<Release>,
    ) -> Self {
        let slot = pool::take();
        // SAFETY: the slot is fresh; the rest is the caller's promise.
        unsafe { Slot::init(slot, node, block, size, foreign) };
        Self(slot.cast())
    }

    /// A reference for an empty buffer of `node`'s.
    pub(crate) fn pin(node: &Handle) -> Self {
        node.add_pin();
        Self::tagged(node.ptr())
    }

    /// A reference for an empty buffer of this ledger's node.
    pub(crate) fn to_pin(&self) -> Self {
        self.node().add_pin();
        Self::tagged(self.node_ptr())
    }

    fn tagged(node: NodePtr) -> Self {
        Self(node.as_ptr().cast::<u8>().map_addr(|address| address | PIN))
    }

    /// The pointer without [`CLONED`].
    #[inline]
    pub(super) fn untagged(&self) -> NonNull<u8> {
        let address = self.0.as_ptr().map_addr(|address| address & !CLONED);
        // SAFETY: without the tag it is the address of a slot or a pinned node, so not null.
        unsafe { NonNull::new_unchecked(address) }
    }

    #[inline]
    pub(super) fn target(&self) -> Target<'_> {
        if self.0.addr().get() & (PIN | VIEW) == 0 {
            // SAFETY: by invariant 1 a live slot.
            Target::Slot(unsafe { self.untagged().cast().as_ref() })
        } else if self.is_registered() {
            let view = self.0.as_ptr().map_addr(|address| address & !VIEW);
            // SAFETY: by invariant 1 a live view, which nobody changes.
            Target::View(unsafe { &*view.cast() })
        } else {
            let node = self.0.as_ptr().map_addr(|address| address & !PIN);
            // SAFETY: by invariant 1 a node's address, so not null.
            Target::Pin(NodePtr::from_ptr(
                unsafe { NonNull::new_unchecked(node) }.cast(),
            ))
        }
    }

    /// The slot, unless this is an empty buffer's.
    #[inline]
    pub(crate) fn slot(&self) -> Option<&Slot> {
        match self.target() {
            Target::Slot(slot) => Some(slot),
            Target::View(view) => Some(view.slot()),
            Target::Pin(_) => None,
        }
    }

    /// The node; alive as long as this reference is.
    #[inline]
    pub(crate) fn node_ptr(&self) -> NodePtr {
        match self.target() {
            Target::Slot(slot) => slot.node(),
            Target::View(view) => view.slot().node(),
            Target::Pin(node) => node,
        }
    }

    /// The node of this ledger.
    #[inline]
    pub(crate) fn node(&self) -> &Node {
        // SAFETY: a slot in use has a live node (its invariant 1), a pin keeps one alive.
        unsafe { self.node_ptr().node() }
    }

    /// A handle on the node of this ledger.
    pub(crate) fn allocator(&self) -> Handle {
        // SAFETY: as in `node`.
        unsafe { self.node_ptr().handle() }
    }

    /// How many buffers hold this ledger; 1 for an empty buffer.
    pub(crate) fn buffers(&self) -> usize {
        self.slot().map_or(1, |slot| slot.count().buffers())
    }

    /// The allocation's size if this is the owning ledger, else 0.
    pub(crate) fn accounted_size(&self) -> usize {
        self.slot()
            .filter(|slot| slot.count().is_owning())
            .map_or(0, Slot::size)
    }

    /// What finds foreign memory's ledgers again; `None` for our own, and for an empty buffer.
    pub(crate) fn watch(&self) -> Option<Watch> {
        let slot = self.slot().filter(|slot| slot.is_foreign())?;
        Some(Watch {
            home: slot.home_ptr(),
            tree: NonNull::from(&*self.node().tree),
        })
    }

    /// The allocation's size.
    pub(crate) fn allocation_size(&self) -> usize {
        self.slot().map_or(0, Slot::size)
    }

    /// Whether this is the only reference to the allocation, now and until it is cloned. An empty
    /// buffer's is.
    #[inline]
    pub(crate) fn is_sole(&self) -> bool {
        self.slot().is_none_or(|slot| slot.count().is_sole())
    }

    /// Records the allocation, or growth by so many bytes, with the sampler. This is the only
    /// reference to it.
    #[cold]
    pub(crate) fn record_sample(&self, bytes: usize, scale: u64) {
        let Some(slot) = self.slot() else { return };
        let home = slot.home();
        let address = std::ptr::from_ref(home).addr();
        if home.size() <= MOST_SPECIAL && sampling::record(address, &self.node().info, bytes, scale)
        {
            home.set_sampled();
        }
    }

    /// Notes that the allocation shrank, if it was sampled.
    pub(crate) fn samples_resized(&self, old_size: usize, new_size: usize) {
        if let Some(home) = self.slot().map(Slot::home).filter(|home| home.is_sampled()) {
            sampling::resized(std::ptr::from_ref(home).addr(), old_size, new_size);
        }
    }

    /// Another reference, for a buffer of `len` bytes at `ptr`.
    #[inline]
    pub(crate) fn share(
        &self,
        ptr: NonNull<u8>,
        len: usize,
        operation: Operation,
        caller: &'static Location<'static>,
    ) -> Self {
        if let Target::Slot(slot) = self.target() {
            slot.count().retain();
            return Self(self.0.map_addr(|address| address | CLONED));
        }
        self.share_slowly(Seen::shared(ptr, len), operation, caller)
    }
}

impl Drop for LedgerRef {
    // Small, so that it becomes part of what drops a buffer: no more than one call in each case.
    #[inline(always)]
    fn drop(&mut self) {
        let tags = self.0.addr().get() & (PIN | VIEW | CLONED);
        if tags & (PIN | VIEW) != 0 {
            return self.drop_slowly();
        }
        let slot = self.untagged().cast::<Slot>();
        if tags == 0 {
            // SAFETY: our reference is given up.
            return unsafe { let_go_of_first(slot) };
        }
        // SAFETY: our reference is given up.
        unsafe { let_go(slot) };
    }
}

impl LedgerRef {
    #[cold]
    fn drop_slowly(&mut self) {
        match self.target() {
            // SAFETY: the pin is ours by invariant 1.
            Target::Pin(node) => unsafe { node.unpin() },
            // A reference of its own takes the view's place, and goes at once.
            // SAFETY: the view is ours by invariant 1.
            Target::View(_) => drop(unsafe { view::dissolve(self.0) }),
            Target::Slot(_) => {}
        }
    }
}
