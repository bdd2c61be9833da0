//! The reference to a ledger that each buffer holds.
#![expect(unsafe_code, reason = "a reference-counted pointer to a slot")]

use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr::NonNull;

use super::release::{drop_clone, drop_first, drop_uncharged};
use super::view::View;
use crate::accounting::{Handle, Node, NodePtr};
use crate::debug::{Operation, Seen};
use crate::raw::pool;
use crate::raw::release::Release;
use crate::raw::slot::{Block, MAX_SPECIAL, Slot};
use crate::report::OutstandingBuffer;
use crate::sampling;
use crate::sync::current::unscoped;

/// A counted reference to a ledger. That of an empty buffer leads to a node, which it pins.
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

/// The tag of a reference that was made by cloning another. It is probably not the last one, so its
/// drop subtracts at once, while that of an untagged one first looks whether it is the only one. The tag
/// is a guess: both kinds of drop are right for every reference.
const CLONED: usize = 4;

/// The tag fits below the address.
const _: () = assert!(align_of::<View>() > VIEW);

/// What a reference leads to.
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

    /// A reference to the ledger in `slot`.
    ///
    /// # Safety
    ///
    /// The slot's count includes one reference for this one. `slot` is the pool's pointer.
    pub(super) unsafe fn from_slot(slot: NonNull<Slot>) -> Self {
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
        // Sites and tables stay, whatever scope the thread is in.
        let record = || sampling::record(address, &self.node().info, bytes, scale);
        if home.size() <= MAX_SPECIAL && unscoped(record) {
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
            return unsafe { drop_first(slot) };
        }
        // SAFETY: our reference is given up.
        unsafe { drop_clone(slot) };
    }
}

impl LedgerRef {
    #[cold]
    fn drop_slowly(&mut self) {
        match self.target() {
            // SAFETY: the pin is ours by invariant 1.
            Target::Pin(node) => unsafe { node.unpin() },
            Target::View(_) => {
                // SAFETY: the view is ours by invariant 1.
                let slot = unsafe { View::dissolve(self.view()) };
                // SAFETY: the reference that the view had is given up.
                unsafe { drop_first(slot) };
            }
            Target::Slot(_) => {}
        }
    }

    /// Drops the reference. If it was the only way to the allocation, the memory is freed, but its bytes
    /// stay charged to the ledger's node, for the caller, and no listener is told. Returns its size, 0
    /// if the allocation lives on, and how many bytes are charged for the caller.
    pub(crate) fn free_uncharged(self) -> (usize, usize) {
        if let Target::Pin(_) = self.target() {
            return (0, 0);
        }
        let this = ManuallyDrop::new(self);
        let slot = match this.target() {
            // SAFETY: the view is ours by invariant 1, and this reference, which is not dropped, gives it up.
            Target::View(_) => unsafe { View::dissolve(this.view()) },
            Target::Slot(_) | Target::Pin(_) => this.untagged().cast(),
        };
        // SAFETY: our reference, which is not dropped, is given up.
        unsafe { drop_uncharged(slot) }
    }

    /// The view that this reference, which is registered, leads to.
    fn view(&self) -> NonNull<View> {
        debug_assert!(self.is_registered());
        let view = self.0.as_ptr().map_addr(|address| address & !VIEW);
        // SAFETY: by invariant 1 a view's address, so not null.
        unsafe { NonNull::new_unchecked(view.cast()) }
    }

    /// Registers the buffer that holds this reference, if its tree is in debug mode.
    #[cold]
    pub(crate) fn register(
        &mut self,
        seen: Seen,
        operation: Operation,
        caller: &'static Location<'static>,
    ) {
        let Target::Slot(_) = self.target() else {
            return;
        };
        let slot = self.untagged().cast();
        // SAFETY: our reference, by the pool's pointer.
        if let Some(view) = unsafe { View::register(slot, seen, operation, caller) } {
            let tagged = view
                .cast::<u8>()
                .as_ptr()
                .map_addr(|address| address | VIEW);
            // SAFETY: a box's address is not null.
            self.0 = unsafe { NonNull::new_unchecked(tagged) };
        }
    }

    /// Whether the buffer that holds this reference is registered.
    #[inline]
    pub(crate) fn is_registered(&self) -> bool {
        self.0.addr().get() & VIEW != 0
    }

    /// Notes what happened to the buffer and what it looks like now, if it is registered.
    #[cold]
    pub(crate) fn note(
        &self,
        seen: Seen,
        operation: Operation,
        detail: usize,
        caller: &'static Location<'static>,
    ) {
        if let Target::View(view) = self.target() {
            view.note(seen, operation, detail, caller);
        }
    }

    /// What debug mode knows of the buffer that holds this reference.
    pub(crate) fn evidence(&self) -> Option<OutstandingBuffer> {
        match self.target() {
            Target::View(view) => view.evidence(),
            Target::Slot(_) | Target::Pin(_) => None,
        }
    }

    /// Another reference, where `share` has more to do than to count.
    #[cold]
    fn share_slowly(
        &self,
        seen: Seen,
        operation: Operation,
        caller: &'static Location<'static>,
    ) -> Self {
        match self.target() {
            Target::Pin(_) => self.to_pin(),
            Target::Slot(slot) => {
                slot.count().retain();
                Self(self.untagged())
            }
            Target::View(view) => {
                view.slot().count().retain();
                let mut another = Self(view.slot_ptr().cast());
                another.register(seen, operation, caller);
                another
            }
        }
    }
}
