//! What the program's global allocator knows of its blocks: which account pays for each.
#![expect(
    unsafe_code,
    reason = "the labels are kept as a pointer, so that they are read without a lock"
)]

use std::ptr::{self, NonNull};

use crate::sync::{Ordering, plain};

/// What a global allocator knows of a block that it has attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The id of the account that pays.
    pub id: u32,
    /// The address of the block.
    pub start: usize,
    /// Its size in bytes, which is what is charged for it.
    pub size: usize,
}

/// The labels of a global allocator's blocks. Its functions take no lock and allocate nothing.
pub trait Labels: Sync {
    /// The label of the attributed block that contains `size` bytes at `part`, which are memory of a live block.
    fn find(&self, part: NonNull<u8>, size: usize) -> Option<Label>;

    /// The id of the account that pays for the live block that starts at `start`; 0 for none. Acquire: whoever learns
    /// the id of an account from here sees to which tree the account belonged when it got the block, or later.
    fn id(&self, start: usize) -> u32;

    /// Changes the id of the live block that starts at `start` from `from` to `to`; `false`: it had another one. Release:
    /// partner of the Acquire in `id`.
    fn relabel(&self, start: usize, from: u32, to: u32) -> bool;
}

static LABELS: plain::AtomicPtr<&'static dyn Labels> = plain::AtomicPtr::new(ptr::null_mut());

/// Makes the labels of the program's global allocator known. Those of the last call count.
pub fn set_labels(labels: &'static &'static dyn Labels) {
    // Release: partner of the Acquire in `labels`.
    LABELS.store(ptr::from_ref(labels).cast_mut(), Ordering::Release);
}

/// The labels of the program's global allocator, if it attributes blocks.
#[inline]
pub fn labels() -> Option<&'static dyn Labels> {
    // Acquire: partner of the Release in `set_labels`.
    let labels = LABELS.load(Ordering::Acquire);
    // SAFETY: null, or a reference that `set_labels` was given.
    unsafe { labels.as_ref() }.copied()
}
