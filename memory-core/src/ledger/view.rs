//! What debug mode keeps for a buffer: an entry of the registry, and the view that leads to it.
//!
//! A [`LedgerRef`](super::LedgerRef) is one word. In a tree in debug mode it leads to a [`View`],
//! a small block that leads to the slot and holds the key under which the buffer is registered.
//! Where debug mode is off there are no views, and only the cold path of a test that is made
//! anyway would find one.
#![expect(
    unsafe_code,
    reason = "a counted pointer to a slot, as the parent module"
)]

use std::panic::Location;
use std::ptr::NonNull;

use crate::accounting::Node;
use crate::debug::{Operation, Recorder, Seen};
use crate::raw::slot::Slot;
use crate::report::OutstandingBuffer;

/// What a reference leads to in debug mode.
///
/// # Invariants
///
/// 1. The slot is in use, and its count includes the reference that owns this view.
/// 2. The buffer is registered with the recorder of the slot's tree, under `key`.
pub(super) struct View {
    slot: NonNull<Slot>,
    key: usize,
}

impl View {
    /// Registers a buffer, if its tree is in debug mode. The view takes its reference over;
    /// [`dissolve`](Self::dissolve) gives it back.
    ///
    /// # Safety
    ///
    /// The caller has a reference to the slot's ledger. `slot` is the pool's pointer, to which the slot
    /// returns some day, and not made of a reference.
    pub(super) unsafe fn register(
        slot: NonNull<Slot>,
        seen: Seen,
        operation: Operation,
        caller: &'static Location<'static>,
    ) -> Option<NonNull<Self>> {
        // SAFETY: the caller's reference keeps the slot.
        let node = unsafe { slot.as_ref() }.node();
        // SAFETY: a slot in use has a live node (its invariant 1).
        let recorder = unsafe { node.node() }.tree.recorder()?;
        let key = recorder.add(slot.addr().get(), seen, operation, caller);
        Some(NonNull::from(Box::leak(Box::new(Self { slot, key }))))
    }

    /// Takes the buffer out of the registry and frees the view; the reference to the slot that remains.
    ///
    /// # Safety
    ///
    /// `register` made the view, and the caller gives it up.
    pub(super) unsafe fn dissolve(view: NonNull<Self>) -> NonNull<Slot> {
        // SAFETY: `register` leaked the box; the caller gives the view up, so this is done once.
        let view = unsafe { Box::from_raw(view.as_ptr()) };
        // Before the count is released: see `debug` on races.
        if let Some(recorder) = view.recorder() {
            recorder.remove(view.ledger(), view.key);
        }
        view.slot
    }

    /// Notes what happened to the buffer and what it looks like now.
    pub(super) fn note(
        &self,
        seen: Seen,
        operation: Operation,
        detail: usize,
        caller: &'static Location<'static>,
    ) {
        if let Some(recorder) = self.recorder() {
            recorder.note(self.ledger(), self.key, seen, (operation, detail), caller);
        }
    }

    /// What debug mode knows of the buffer.
    pub(super) fn evidence(&self) -> Option<OutstandingBuffer> {
        self.recorder()?.buffer(self.ledger(), self.key)
    }

    pub(super) fn slot(&self) -> &Slot {
        // SAFETY: by invariant 1 the slot is in use as long as this view exists.
        unsafe { self.slot.as_ref() }
    }

    /// The pool's pointer to the slot.
    pub(super) fn slot_ptr(&self) -> NonNull<Slot> {
        self.slot
    }

    /// The key of the ledger in the registry.
    fn ledger(&self) -> usize {
        self.slot.addr().get()
    }

    fn recorder(&self) -> Option<&Recorder> {
        self.node().tree.recorder()
    }

    fn node(&self) -> &Node {
        // SAFETY: a slot in use has a live node (its invariant 1).
        unsafe { self.slot().node().node() }
    }
}
