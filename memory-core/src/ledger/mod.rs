//! Ledgers: who holds an allocation, and who pays for it.
//!
//! An allocation has one ledger for each allocator that it is shared with, in order of
//! association, and one of them owns it: there the allocation is charged. A buffer holds one
//! ledger. As long as there is one ledger only, which is nearly always, all happens without the
//! tree's mutex; with more, ledgers come, go and hand over the charge under it.
//!
//! When a ledger's last buffer is dropped while there are other ledgers, the thread that drops it takes
//! the mutex, takes the ledger off the list and, if the ledger owned, hands the charge to the ledger
//! that has been associated longest. Until that thread has the mutex, the ledger has no buffer but is
//! still on the list. A thread that needs a ledger for the same allocator meanwhile *buries* it, on
//! behalf of the other thread, and makes a new one. The allocation's home slot stays until the last
//! such thread has had the mutex (`pending`), and so does the memory if no ledger is left.
//!
//! # States of a ledger
//!
//! | state | buffers | SHARED | on the list | what ends it |
//! |---|---|---|---|---|
//! | only | some | no | yes, alone | the last buffer is dropped: the block is freed, without the mutex. Another ledger is made, under it: *one of several* |
//! | one of several | some | yes | yes | the last buffer is dropped: *left*; or, by a thread that takes the mutex before it gives up the buffer (`Leaving::Counted`), *gone*. The last other ledger goes, with none pending: *only* |
//! | left | none | yes | yes | its thread gets the mutex: *gone*. Another one needs a ledger for that allocator: *buried*. The last other ledger goes, with none pending: SHARED is cleared, and its thread frees the block, whether it sees that or waits for the mutex |
//! | buried | none | yes | no | its thread gets the mutex: *gone* |
//! | gone | | | | the slot is back in the pool; a home slot not before all ledgers are gone |
//!
//! OWNING moves under the mutex: by a transfer, or when the owning ledger is taken off the list.
//! `model` runs pairs and triples of these steps in all interleavings, with a datum for the bytes of
//! the block.
#![expect(unsafe_code, reason = "a reference-counted pointer to a slot")]

use std::panic::Location;
use std::ptr::NonNull;

use crate::accounting::{Handle, Node, NodePtr};
use crate::debug::{Operation, Seen};
use crate::raw::pool;
use crate::raw::release::Release;
use crate::raw::slot::{Block, MAX_SPECIAL, Slot};
use crate::sampling;

mod hooked;
mod index;
mod list;
#[cfg(all(test, loom))]
mod model;
mod release;
mod transfer;
mod view;
mod weak;

pub(crate) use hooked::tell_release;
use release::{let_go, let_go_of_first};
use view::View;
pub(crate) use weak::Weak;

/// A counted reference to a ledger; or, for the empty buffer, to a node that it pins.
///
/// # Invariants
///
/// 1. The address is a slot's, perhaps plus [`CLONED`], whose count includes this reference; or a
///    node's plus [`PIN`], whose pins include it; or, in debug mode, that of a [`View`] plus
///    [`VIEW`], which this reference owns. All are aligned to 8 bytes.
pub(crate) struct LedgerRef(NonNull<u8>);

/// The tag of a pinned node.
const PIN: usize = 1;

/// The tag of a view.
const VIEW: usize = 2;

/// The tag of a reference that was made by cloning another: probably not the last one, so that its
/// drop subtracts at once, where others first look whether they are the only one. A guess: either
/// way is right for every reference.
const CLONED: usize = 4;

/// Who a reference leads to.
enum Target<'a> {
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
    fn untagged(&self) -> NonNull<u8> {
        let address = self.0.as_ptr().map_addr(|address| address & !CLONED);
        // SAFETY: without the tag it is the address of a slot or a pinned node, so not null.
        unsafe { NonNull::new_unchecked(address) }
    }

    #[inline]
    fn target(&self) -> Target<'_> {
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
    pub(crate) fn downgrade(&self) -> Option<Weak> {
        let slot = self.slot().filter(|slot| slot.is_foreign())?;
        Some(Weak {
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
        if home.size() <= MAX_SPECIAL && sampling::record(address, &self.node().info, bytes, scale)
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
