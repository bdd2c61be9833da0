//! Ledgers: who holds an allocation, and who pays for it.
//!
//! An allocation has one ledger for each allocator that it is shared with, in order of
//! association, and one of them owns it: there the allocation is charged. A buffer holds one
//! ledger. As long as there is one ledger only, which is nearly always, all happens without the
//! tree's mutex; with more, ledgers come, go and hand over the charge under it.
//!
//! When a ledger's last buffer goes while there are others, its holder takes the mutex to take the
//! ledger off the list and, if it owned, to hand the charge to the ledger that has been associated
//! longest. Until it has the mutex the ledger is dead but still listed; a thread that meets such a
//! ledger under the mutex *buries* it on its holder's behalf. The allocation's home slot, and the
//! memory if no ledger is left, stay until the last such holder came by (`pending`).
//!
//! Longer than most files: the ways in which a ledger comes and goes race with one another, and are
//! read together.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is made under the mutex, where nothing is allocated"
)]
#![expect(unsafe_code, reason = "a reference-counted pointer to a slot")]

use std::alloc::Layout;
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::accounting::{Handle, Locked, Node, NodePtr, Refusal, Tree};
use crate::debug::{Operation, Seen};
use crate::error::TransferError;
use crate::probes;
use crate::raw::count::Left;
use crate::raw::pool;
use crate::raw::release::{ForeignId, Release};
use crate::raw::slot::{Block, MOST_SPECIAL, Slot};
use crate::sampling;
use crate::size::MAX_SIZE;

mod hooked;
mod view;

use view::View;

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

    /// A reference to the allocation's ledger for `target`, which is made if there is none.
    pub(crate) fn retain_in(&self, target: &Handle) -> Result<Self, TransferError> {
        self.check_roots(target)?;
        let Some(slot) = self.slot() else {
            return Self::pin_open(target);
        };
        let mut spare = Spare::take();
        let mut locked = target.tree.lock();
        check_open(&locked, target)?;
        let (reference, moved) = find_or_make(&mut locked, slot, target, &mut spare);
        drop(locked);
        if let Some(moved) = moved {
            moved.tell_quietly();
        }
        Ok(reference)
    }

    /// As `retain_in`, and the charge moves to the target's ledger if it is this one's. The
    /// second value is whether no level that the charge reached is over its limit.
    pub(crate) fn transfer(&self, target: &Handle) -> Result<(Self, bool), TransferError> {
        self.transfer_by(target, |locked, from, size| {
            locked.transfer(from, target.ptr(), size)
        })
    }

    /// As `transfer`, if the charge fits at every level.
    pub(crate) fn try_transfer(&self, target: &Handle) -> Result<Self, TransferError> {
        self.transfer_by(target, |locked, from, size| {
            locked.try_transfer(from, target.ptr(), size).map(|()| true)
        })
        .map(|(reference, _)| reference)
    }

    fn transfer_by(
        &self,
        target: &Handle,
        move_charge: impl FnOnce(&mut Locked<'_>, NodePtr, usize) -> Result<bool, Refusal>,
    ) -> Result<(Self, bool), TransferError> {
        self.check_roots(target)?;
        let Some(slot) = self.slot() else {
            return Self::pin_open(target).map(|pin| (pin, true));
        };
        let mut spare = Spare::take();
        let mut locked = target.tree.lock();
        check_open(&locked, target)?;
        let (from, size) = (slot.node(), slot.size());
        let moves = slot.count().is_owning() && from != target.ptr();
        if moves && !slot.count().is_shared() {
            // The usual case: this is the only ledger, and gets a successor.
            let fit = match move_charge(&mut locked, from, size) {
                Ok(fit) => fit,
                Err(refusal) => {
                    drop(locked);
                    return Err(self.refused(target, &refusal, size));
                }
            };
            let reference = succeed(&mut locked, slot, target, &mut spare);
            hooked::moved_counts(self.node(), target, slot);
            drop(locked);
            hooked::after_transfer(self.node(), target, size, fit);
            return Ok((reference, fit));
        }
        let mut fit = true;
        if moves {
            match move_charge(&mut locked, from, size) {
                Ok(fits) => fit = fits,
                Err(refusal) => {
                    drop(locked);
                    return Err(self.refused(target, &refusal, size));
                }
            }
        }
        let (reference, buried) = find_or_make(&mut locked, slot, target, &mut spare);
        if moves && let Some(owner) = reference.slot() {
            slot.count().set_owning(false);
            owner.count().set_owning(true);
            locked.change_guests(from, 1);
            locked.change_guests(target.ptr(), -1);
            hooked::moved_counts(self.node(), target, slot);
        }
        drop(locked);
        if let Some(buried) = buried {
            buried.tell_quietly();
        }
        if moves {
            hooked::after_transfer(self.node(), target, size, fit);
        }
        Ok((reference, fit))
    }

    fn pin_open(target: &Handle) -> Result<Self, TransferError> {
        check_open(&target.tree.lock(), target)?;
        Ok(Self::pin(target))
    }

    #[cold]
    fn refused(&self, target: &Handle, refusal: &Refusal, bytes: usize) -> TransferError {
        match refusal {
            Refusal::Limit(levels) => TransferError::DoesNotFit {
                bytes,
                length: bytes,
                from: self.node().info.clone(),
                to: target.info.clone(),
                outcome: Box::new(levels.to_outcome()),
            },
            Refusal::Closed(to) => TransferError::Closed { to: to.clone() },
            Refusal::Overflow(to) => TransferError::SizeOverflow {
                bytes,
                to: to.clone(),
            },
        }
    }

    fn check_roots(&self, target: &Handle) -> Result<(), TransferError> {
        let node = self.node();
        if Arc::ptr_eq(&node.tree, &target.tree) {
            return Ok(());
        }
        Err(TransferError::DifferentRoots {
            from: node.info.clone(),
            to: target.info.clone(),
        })
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

/// Gives up a reference that was not made by cloning, and so is often the only one.
///
/// # Safety
///
/// As for `let_go`.
#[inline(never)]
unsafe fn let_go_of_first(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    if unsafe { slot.as_ref() }.count().is_sole() {
        // SAFETY: we are the only way to the allocation.
        unsafe { free(slot) }
    } else {
        // SAFETY: our reference is given up.
        unsafe { let_go_of_one(slot) }
    }
}

/// Gives up a reference.
///
/// # Safety
///
/// The caller has that reference of the slot's ledger.
#[inline]
unsafe fn let_go(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    if unsafe { slot.as_ref() }.count().release() {
        // SAFETY: it was ours.
        unsafe { leave(slot) }
    }
}

/// Leaves a ledger whose last reference was given up.
///
/// # Safety
///
/// By the caller, just now.
#[inline(never)]
unsafe fn leave(slot: NonNull<Slot>) {
    // SAFETY: the slot is ours to give back.
    match unsafe { slot.as_ref() }.count().last_left() {
        // SAFETY: we were the only way to the allocation.
        Left::Nothing => unsafe { free(slot) },
        // SAFETY: ours was the ledger's last reference.
        Left::Ledgers => unsafe { leave_others(slot, Leaving::Uncounted) },
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

/// What finds a foreign allocation's ledgers again, and keeps nothing alive.
pub(crate) struct Watch {
    home: NonNull<Slot>,
    tree: NonNull<Tree>,
}

// SAFETY: the slot and the tree are touched as `upgrade` says, by any thread.
unsafe impl Send for Watch {}
// SAFETY: as for Send.
unsafe impl Sync for Watch {}

impl Watch {
    /// Which allocation this is.
    pub(crate) fn id(&self) -> ForeignId {
        ForeignId::of(self.home)
    }

    /// A reference to one of the allocation's ledgers, unless its last buffer has gone: to the
    /// owning one, if that is not about to go.
    ///
    /// # Safety
    ///
    /// The release of the allocation has not returned, and does not before this does.
    pub(crate) unsafe fn upgrade(&self) -> Option<LedgerRef> {
        // SAFETY: the home slot stays until the release has returned.
        let home = unsafe { self.home.as_ref() };
        if !home.count().is_shared() {
            // A second ledger may come just now; then this one owned at the moment we looked.
            if home.count().try_retain() {
                return Some(LedgerRef(self.home.cast()));
            }
            // No buffer, unless a second ledger came and this one's buffers went since: then the
            // bit is set.
            if !home.count().is_shared() {
                return None;
            }
        }
        // SAFETY: until the release has returned, the allocation is charged to a node of the tree,
        // which keeps it.
        let locked = unsafe { self.tree.as_ref() }.lock();
        for only_owning in [true, false] {
            // SAFETY: under the mutex, which all others take who have several ledgers. If one is
            // left, its holder does not look at links without it either, since the memory is foreign.
            let mut at = unsafe { home.links() }.first;
            while let Some(here) = at {
                // SAFETY: on the list, so in use, or its release has not returned.
                let ledger = unsafe { here.as_ref() };
                // SAFETY: as above.
                at = unsafe { ledger.links() }.next;
                let wanted = !only_owning || ledger.count().is_owning();
                if wanted && ledger.count().try_retain() {
                    // None is dropped here: a last one would tell listeners, in the caller's locks.
                    drop(locked);
                    return Some(LedgerRef(here.cast()));
                }
            }
        }
        None
    }
}

/// Frees an allocation, then its charge, by its only ledger.
///
/// # Safety
///
/// The slot's ledger is the only one and owns; nobody else can reach it.
#[inline]
unsafe fn free(slot: NonNull<Slot>) {
    // SAFETY: the slot is in use, by us alone.
    let node = unsafe { slot.as_ref() }.node();
    // SAFETY: the allocation is charged to the node, so it is alive.
    if unsafe { node.node() }.hooks == 0 {
        // SAFETY: the caller's promise.
        unsafe { free_unwatched(slot) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { hooked::free(slot) }
    }
}

/// As `free`, if nobody listens or counts. A function of its own, so that either way is one jump from
/// where it is decided, with nothing to save before.
///
/// # Safety
///
/// As for `free`.
#[inline(never)]
unsafe fn free_unwatched(slot: NonNull<Slot>) {
    // SAFETY: the slot is in use, by us alone.
    let this = unsafe { slot.as_ref() };
    let node = this.node();
    // SAFETY: the allocation is charged to the node, so it is alive.
    let owner = unsafe { node.node() };
    // The size, unless the highest bit says that the memory is special.
    let size = this.flagged_size();
    if size > MAX_SIZE || !std::ptr::eq(this.home(), this) {
        // SAFETY: the caller's promise.
        return unsafe { hooked::free_any(slot) };
    }
    // SAFETY: nobody else can reach the allocation.
    let block = unsafe { this.block() };
    // SAFETY: size and alignment are those of the layout that the block was asked with.
    let layout = unsafe { Layout::from_size_align_unchecked(size, block.align) };
    probes::release(block.ptr, size, owner);
    this.vacate();
    // SAFETY: the block came from this manager with this layout; nobody can reach it any more.
    unsafe { owner.manager().deallocate(block.ptr, layout) };
    // SAFETY: vacated, and nobody else knows the slot.
    unsafe { pool::put(slot) };
    // SAFETY: these bytes were charged for the block, which is gone.
    unsafe { node.uncharge(size) };
}

/// Whether the reference that goes is still in the count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// It is, and it was the last one when that was looked at.
    Counted,
    /// It is not, and it was the last one.
    Uncounted,
}

/// Gives up a reference that was not made by cloning, and is not the only one.
///
/// # Safety
///
/// As for `let_go`.
#[inline(never)]
unsafe fn let_go_of_one(slot: NonNull<Slot>) {
    // SAFETY: the reference keeps the slot.
    if unsafe { slot.as_ref() }.count().is_last_of_shared() {
        // SAFETY: ours is a reference of a ledger that has others beside it.
        unsafe { leave_others(slot, Leaving::Counted) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { let_go(slot) }
    }
}

/// Takes a ledger without buffers off its allocation's list.
///
/// # Safety
///
/// The caller gives up a reference of the ledger, as `leaving` says, and the allocation had other
/// ledgers.
#[cold]
#[inline(never)]
unsafe fn leave_others(slot: NonNull<Slot>, leaving: Leaving) {
    // SAFETY: our reference keeps the slot; or the slot is ours to give back: its count is zero,
    // and nobody revives it.
    let this = unsafe { slot.as_ref() };
    let node = this.node();
    // SAFETY: the node counts this ledger as its guest, or the allocation is charged there.
    let tree = &unsafe { node.node() }.tree;
    // The home slot stays until we, on the list or counted in `pending`, came by.
    let root = this.home();
    let home = this.home_ptr();
    let mut locked = tree.lock();
    if leaving == Leaving::Counted {
        if !this.count().is_last_of_shared() {
            // Somebody made another buffer of this ledger, or we are the last but the only one:
            // it is as if we had not looked before.
            drop(locked);
            // SAFETY: the caller's promise.
            return unsafe { let_go(slot) };
        }
        this.count().release_last();
    }
    // SAFETY: under the mutex, as all uses of links here; one slot's at a time.
    let buried = unsafe { this.links() }.buried;
    let moved = if buried {
        // SAFETY: as above.
        unsafe { root.links() }.pending -= 1;
        None
    } else {
        bury(&mut locked, this, true)
    };
    if !this.count().is_owning() {
        locked.change_guests(node, -1);
    }
    this.vacate();
    // SAFETY: as above.
    let links = unsafe { root.links() };
    if links.first.is_none() && links.pending > 0 {
        // Whoever comes by last may give the home slot back as soon as we let go of the mutex, so
        // the memory is left to them, with its charge.
        links.stranded = links.stranded.or(Some(node));
    }
    let (first, pending, stranded) = (links.first, links.pending, links.stranded);
    if let Some(first) = first.filter(|_| pending == 0 && stranded.is_none()) {
        // SAFETY: on the list, so in use.
        let first = unsafe { first.as_ref() };
        // SAFETY: as above.
        if unsafe { first.links() }.next.is_none() {
            first.count().set_alone();
        }
    }
    locked.reconsider(node);
    let departures = locked.take_departures();
    drop(locked);
    departures.tell_quietly();
    if let Some(moved) = moved {
        moved.tell_quietly();
    }
    if first.is_none() && pending == 0 {
        // No ledger is left and nobody else is on the way: the memory goes now, and its charge.
        // SAFETY: nobody can reach the memory or the home slot; it is charged to that node.
        unsafe { hooked::free_memory(root, stranded.unwrap_or(node)) };
    }
    if slot != home {
        // SAFETY: vacated, off the list, and nobody else is on the way to it.
        unsafe { pool::put_used(slot) };
    }
    if first.is_none() && pending == 0 {
        // SAFETY: no ledger is left and nobody is on the way (`pending` is zero), so the home's own
        // holder has been here and vacated it.
        unsafe { pool::put_used(home) };
    }
}

/// Takes a ledger without buffers off the list, under the mutex. If it owned and others remain,
/// the one that has been associated longest gets the charge, and the answer says so. A ledger
/// that does not own afterwards counts as a guest. If its holder is not here but on the way, its
/// node must not leave the tree before.
fn bury(locked: &mut Locked<'_>, slot: &Slot, holder_is_here: bool) -> Option<hooked::Moved> {
    let root = slot.home();
    unlist(root, slot);
    if !slot.count().is_owning() {
        return None;
    }
    // SAFETY: under the mutex.
    let first = unsafe { root.links() }.first?;
    // SAFETY: on the list, so in use.
    let heir = unsafe { first.as_ref() };
    let (from, to, size) = (slot.node(), heir.node(), slot.size());
    let moved = if holder_is_here {
        locked.bequeath(from, to, size)
    } else {
        locked.transfer(from, to, size)
    };
    slot.count().set_owning(false);
    locked.change_guests(from, 1);
    if moved.is_err() {
        // The sum would pass isize::MAX, which takes reservations as large. The charge stays where
        // it is until the memory goes. No ledger owns from here on, and none is told that it is
        // alone, so that whoever is the last comes by here.
        // SAFETY: under the mutex.
        unsafe { root.links() }.stranded = Some(from);
        return None;
    }
    heir.count().set_owning(true);
    locked.change_guests(to, -1);
    let moved = hooked::Moved::new(locked.keep(from), locked.keep(to), size);
    hooked::moved_counts(moved.from(), moved.to(), slot);
    Some(moved)
}

/// Takes `slot` off the list that starts at `root`.
fn unlist(root: &Slot, slot: &Slot) {
    // SAFETY: under the mutex; one reference to one slot's links at a time.
    let next = unsafe { slot.links() }.next.take();
    // SAFETY: as above.
    let mut at = unsafe { root.links() }.first;
    if at == Some(NonNull::from(slot)) {
        // SAFETY: as above.
        unsafe { root.links() }.first = next;
        return;
    }
    while let Some(before) = at {
        // SAFETY: on the list, so in use.
        let before = unsafe { before.as_ref() };
        // SAFETY: under the mutex, as above.
        let links = unsafe { before.links() };
        if links.next == Some(NonNull::from(slot)) {
            links.next = next;
            return;
        }
        at = links.next;
    }
}

/// Another reference to the ledger that the allocation of `slot` has for `target`, or to a new
/// one. Under the mutex; the caller has a buffer of `slot`.
fn find_or_make(
    locked: &mut Locked<'_>,
    slot: &Slot,
    target: &Handle,
    spare: &mut Spare,
) -> (LedgerRef, Option<hooked::Moved>) {
    let root = slot.home();
    // SAFETY: under the mutex: there may be other ledgers; and if there is none, other holders
    // of this one look at links under the mutex only.
    let mut at = unsafe { root.links() }.first;
    let (mut last, mut moved) = (None, None);
    while let Some(here) = at {
        // SAFETY: on the list, so in use.
        let ledger = unsafe { here.as_ref() };
        // SAFETY: under the mutex.
        at = unsafe { ledger.links() }.next;
        if ledger.node() != target.ptr() {
            last = Some(here);
        } else if ledger.count().try_retain() {
            return (LedgerRef(here.cast()), moved);
        } else {
            // Dead: its last holder waits for the mutex that we hold.
            moved = bury(locked, ledger, false);
            // SAFETY: under the mutex.
            unsafe { ledger.links() }.buried = true;
            // SAFETY: as above.
            unsafe { root.links() }.pending += 1;
        }
    }
    let made = spare.slot();
    // SAFETY: the slot is fresh; `root` is the home of a live allocation.
    unsafe { Slot::init_guest(made, target.ptr(), root) };
    locked.change_guests(target.ptr(), 1);
    if let Some(last) = last {
        // SAFETY: on the list, so in use.
        let last = unsafe { last.as_ref() };
        // If it was the only one it did not know of others; setting the bit again is no harm.
        last.count().set_shared();
        // SAFETY: under the mutex.
        unsafe { last.links() }.next = Some(made);
    }
    (LedgerRef(made.cast()), moved)
}

/// A reference to a new ledger for `target`, which takes over from `slot`'s, the only one there was.
/// Under the mutex; the charge has moved already, and the caller has a buffer of `slot`.
fn succeed(locked: &mut Locked<'_>, slot: &Slot, target: &Handle, spare: &mut Spare) -> LedgerRef {
    let made = spare.slot();
    // SAFETY: the slot is fresh; its home is that of a live allocation.
    unsafe { Slot::init_heir(made, target.ptr(), slot.home()) };
    // SAFETY: under the mutex; other holders of this ledger look at links there only.
    unsafe { slot.links() }.next = Some(made);
    slot.count().yield_to_another();
    locked.change_guests(slot.node(), 1);
    LedgerRef(made.cast())
}

/// A slot that goes back to the pool unless it is used: after the mutex, which is taken later and
/// so dropped before it.
struct Spare {
    slot: NonNull<Slot>,
    used: bool,
}

impl Spare {
    fn take() -> Self {
        Self {
            slot: pool::take(),
            used: false,
        }
    }

    /// The slot, for the caller to fill; once.
    fn slot(&mut self) -> NonNull<Slot> {
        debug_assert!(!self.used);
        self.used = true;
        self.slot
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if !self.used {
            // SAFETY: taken by `take` and not used.
            unsafe { pool::put(self.slot) };
        }
    }
}

fn check_open(locked: &Locked<'_>, target: &Handle) -> Result<(), TransferError> {
    if locked.is_closed(target.ptr()) {
        return Err(TransferError::Closed {
            to: target.info.clone(),
        });
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::TrackingManager;
    use crate::{AllocationManager, ArrowBuf, RootAllocator};

    #[test]
    fn a_holder_who_is_still_on_the_way_keeps_the_home_slot_and_the_memory() {
        let manager = Arc::new(TrackingManager::default());
        let root = RootAllocator::builder()
            // Takes a reference apart, which in debug mode leads to a view.
            .debug(false)
            .allocation_manager(manager.clone())
            .build()
            .unwrap();
        let (a, b) = (
            root.child("a").build().unwrap(),
            root.child("b").build().unwrap(),
        );
        let buffer = a.buffer_from_slice(&[7; 64]).unwrap();
        let shared = buffer.retain_in(&b).unwrap();
        // The first half of the drop: the count is zero, the mutex not yet taken.
        let late = buffer.ledger().untagged().cast();
        let count = buffer.ledger().slot().unwrap().count();
        assert!(count.release());
        assert_eq!(count.last_left(), Left::Ledgers);
        std::mem::forget(buffer);

        // Buries the dead ledger, whose home slot the allocation lives in; then all others go.
        let again: ArrowBuf = shared.retain_in(&a).unwrap();
        drop(shared);
        drop(again);

        assert_eq!(
            manager.stats().live_bytes,
            Some(64),
            "freed while the last one to come by may give the slot back"
        );
        assert_eq!(root.allocated_memory(), 64);
        // SAFETY: the second half of the drop above.
        unsafe { leave_others(late, Leaving::Uncounted) };
        assert_eq!(manager.stats().live_bytes, Some(0));
        assert_eq!(root.allocated_memory(), 0);
        root.verify().unwrap();
        drop((a, b));
        assert!(root.child_allocators().is_empty());
    }
}
