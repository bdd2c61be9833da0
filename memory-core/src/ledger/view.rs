//! References to a ledger in debug mode: each has an identity of its own.
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

use super::reference::{LedgerRef, Target, VIEW};
use crate::accounting::Node;
use crate::debug::{Operation, OutstandingBuffer, Seen};
use crate::raw::slot::Slot;

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

/// The tag fits below the address.
const _: () = assert!(align_of::<View>() > VIEW);

impl View {
    pub(super) fn slot(&self) -> &Slot {
        // SAFETY: by invariant 1 alive as long as this view is.
        unsafe { self.slot.as_ref() }
    }

    /// The key of the ledger in the registry.
    fn ledger(&self) -> usize {
        self.slot.addr().get()
    }

    fn node(&self) -> &Node {
        // SAFETY: a slot in use has a live node (its invariant 1).
        unsafe { self.slot().node().node() }
    }
}

impl LedgerRef {
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
        let Some(recorder) = self.node().tree.recorder() else {
            return;
        };
        // Not made of a reference: this pointer goes back to the pool some day.
        let slot = self.untagged().cast::<Slot>();
        let key = recorder.add(slot.addr().get(), seen, operation, caller);
        let view = Box::into_raw(Box::new(View { slot, key }));
        let tagged = view.cast::<u8>().map_addr(|address| address | VIEW);
        // SAFETY: a box's address is not null.
        self.0 = unsafe { NonNull::new_unchecked(tagged) };
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
        let Target::View(view) = self.target() else {
            return;
        };
        if let Some(recorder) = view.node().tree.recorder() {
            recorder.note(view.ledger(), view.key, seen, (operation, detail), caller);
        }
    }

    /// What debug mode knows of the buffer that holds this reference.
    pub(crate) fn evidence(&self) -> Option<OutstandingBuffer> {
        let Target::View(view) = self.target() else {
            return None;
        };
        let recorder = view.node().tree.recorder()?;
        recorder.buffer(view.ledger(), view.key)
    }

    /// Another reference, for a buffer that is an empty one's or a registered one's.
    #[cold]
    pub(super) fn share_slowly(
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
                let mut another = Self(view.slot.cast());
                another.register(seen, operation, caller);
                another
            }
        }
    }
}

/// Takes the buffer out of the registry and frees its view; the reference to the slot that remains.
///
/// # Safety
///
/// `tagged` is the word of a reference to a view, which the caller gives up.
pub(super) unsafe fn dissolve(tagged: NonNull<u8>) -> LedgerRef {
    let view = tagged
        .as_ptr()
        .map_addr(|address| address & !VIEW)
        .cast::<View>();
    // SAFETY: made by `register`, which forgot the box; the reference goes, so this is done once.
    let view = unsafe { Box::from_raw(view) };
    // Before the count is released: see `debug` on races.
    if let Some(recorder) = view.node().tree.recorder() {
        recorder.remove(view.ledger(), view.key);
    }
    LedgerRef(view.slot.cast())
}
