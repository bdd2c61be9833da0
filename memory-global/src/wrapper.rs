//! [`Attributed`]: the wrapper around a global allocator.
#![expect(unsafe_code, reason = "implements the global allocator's unsafe trait")]

use std::alloc::{GlobalAlloc, Layout};
use std::fmt;

use crate::{fork, shadow};
use arrow_memory_core::__private::heap::{self, Account, Taken};

/// The smallest block that is attributed, in bytes.
pub(crate) const THRESHOLD: usize = 512;

/// A global allocator that attributes what it allocates to the [`Scope`](crate::Scope) of the calling thread.
///
/// It hands every call on to the allocator that it wraps. A block of 512 bytes or more that is allocated in a scope is
/// charged to the scope's allocator, at the size of its layout, until it is freed: by whichever thread, in whatever
/// scope. A block that is reallocated stays with who allocated it, unless it shrinks below 512 bytes. Blocks below 512
/// bytes, and those of threads that are in no scope, are not charged.
///
/// An allocation never fails because of a limit: it is charged by force. [`Scope::check`](crate::Scope::check) says so.
///
/// Costs two compare-exchanges for a block and its release if it is attributed, a comparison for smaller ones, and
/// a load for other ones. Takes 4 bytes for each 512 bytes of the address space that attributed blocks have touched, and
/// 2 more where they have less than 1,024 bytes, in pages of 4 KiB.
///
/// # Examples
///
/// ```
/// use std::alloc::System;
///
/// use arrow_memory_global::Attributed;
///
/// #[global_allocator]
/// static GLOBAL: Attributed<System> = Attributed::new(System);
///
/// fn main() {
///     assert_eq!(arrow_memory_global::is_installed(), arrow_memory_global::supported());
/// }
/// ```
pub struct Attributed<A> {
    inner: A,
}

impl<A> Attributed<A> {
    /// Wraps an allocator.
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }

    /// Returns the allocator that this one wraps. Do not free blocks with it that this one has allocated, or the
    /// other way round: they would stay charged, or be charged no longer.
    pub const fn inner(&self) -> &A {
        &self.inner
    }
}

impl<A> fmt::Debug for Attributed<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attributed")
    }
}

// SAFETY: every method passes its arguments to the inner allocator, which implements the trait, and returns its
// result. Nothing that is done besides touches the block or unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Attributed<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match payer(layout.size()) {
            // SAFETY: the caller's promises are the same.
            None => unsafe { self.inner.alloc(layout) },
            // SAFETY: as above.
            Some(payer) => unsafe { self.alloc_charged(layout, payer) },
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match payer(layout.size()) {
            // SAFETY: the caller's promises are the same.
            None => unsafe { self.inner.alloc_zeroed(layout) },
            // SAFETY: as above.
            Some(payer) => unsafe { self.alloc_zeroed_charged(layout, payer) },
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match label(block, layout.size()) {
            // SAFETY: the caller's promises are the same.
            0 => unsafe { self.inner.dealloc(block, layout) },
            // SAFETY: as above; the block has this label.
            label => unsafe { self.dealloc_labelled(block, layout, label) },
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let label = label(block, layout.size());
        if label != 0 {
            // SAFETY: the caller's promises are the same; the block has this label.
            return unsafe { self.realloc_labelled(block, layout, new_size, label) };
        }
        // SAFETY: the caller's promises are the same.
        let realloc = || unsafe { self.inner.realloc(block, layout, new_size) };
        // A larger block that nobody pays for stays so.
        match payer(new_size).filter(|_| layout.size() < THRESHOLD) {
            None => realloc(),
            Some(payer) => charged(payer, new_size, realloc),
        }
    }
}

/// What is done for blocks that somebody pays for. Not inline, so that a call for another block saves no registers.
impl<A: GlobalAlloc> Attributed<A> {
    /// # Safety
    ///
    /// As for `alloc`.
    #[inline(never)]
    unsafe fn alloc_charged(&self, layout: Layout, payer: Account) -> *mut u8 {
        // SAFETY: the caller's promise.
        charged(payer, layout.size(), || unsafe { self.inner.alloc(layout) })
    }

    /// # Safety
    ///
    /// As for `alloc_zeroed`.
    #[inline(never)]
    unsafe fn alloc_zeroed_charged(&self, layout: Layout, payer: Account) -> *mut u8 {
        // SAFETY: the caller's promise.
        let allocate = || unsafe { self.inner.alloc_zeroed(layout) };
        charged(payer, layout.size(), allocate)
    }

    /// # Safety
    ///
    /// As for `dealloc`. The block has this label.
    #[inline(never)]
    unsafe fn dealloc_labelled(&self, block: *mut u8, layout: Layout, label: u32) {
        shadow::clear(block, layout.size());
        // SAFETY: the caller's promise.
        unsafe { self.inner.dealloc(block, layout) };
        give(label, layout.size());
    }

    /// Reallocates a block that has a label. Whoever paid for it pays for what comes.
    ///
    /// # Safety
    ///
    /// As for `realloc`. The block's size is charged to whom `label` names.
    #[inline(never)]
    unsafe fn realloc_labelled(
        &self,
        block: *mut u8,
        layout: Layout,
        new_size: usize,
        label: u32,
    ) -> *mut u8 {
        let old_size = layout.size();
        shadow::clear(block, old_size);
        let grown = new_size.saturating_sub(old_size);
        let charged = grown == 0 || charge_more(label, grown);
        // SAFETY: the caller's promises are the same.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        if moved.is_null() {
            // The cells of this block are there, so it gets its label again: the size that the account pays for is its.
            shadow::set(block, old_size, label);
            if charged {
                give(label, grown);
            }
            return moved;
        }
        // In a forked child nothing was charged, so that the account does not pay for the new size.
        let labelled = charged
            && new_size >= THRESHOLD
            && !fork::in_child()
            && shadow::set(moved, new_size, label);
        let paid = old_size + if charged { grown } else { 0 };
        give(label, if labelled { paid - new_size } else { paid });
        moved
    }
}

/// The account that is to pay for a block of this size that the thread allocates.
#[inline]
fn payer(size: usize) -> Option<Account> {
    if !shadow::SUPPORTED || size < THRESHOLD {
        return None;
    }
    heap::current()
}

/// Allocates a block by `allocate`, charges it, and labels it.
#[inline(always)]
fn charged(account: Account, size: usize, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
    let paid = account.take(size) || take_slowly(account, size);
    let block = allocate();
    if paid {
        settle(account, block, size);
    }
    block
}

#[cold]
#[inline(never)]
fn take_slowly(account: Account, size: usize) -> bool {
    // SAFETY: it is the thread's current account, whose scope is borrowed by a call of `Scope::run` below on the stack.
    let taken = shadow::keep_errno(|| unsafe { account.take_slowly(size) });
    !matches!(taken, Taken::Ended)
}

/// Charges what a block grows by to whoever pays for the block, whose bytes are charged. Returns `false` if that
/// cannot be: under a lock of the library.
fn charge_more(label: u32, bytes: usize) -> bool {
    if fork::in_child() {
        return true;
    }
    // SAFETY: it was the label of a block, so it is the number of an account.
    let account = unsafe { Account::of(label) };
    // SAFETY: the block's bytes are charged to the account, and are given up later.
    let slowly = || unsafe { account.take_more_slowly(bytes) };
    account.take(bytes) || !matches!(shadow::keep_errno(slowly), Taken::Ended)
}

/// Labels a block that was charged. If there is none, or it cannot have a label, the charge is given back.
#[inline]
fn settle(account: Account, block: *mut u8, size: usize) {
    if block.is_null() || !shadow::set(block, size, account.id()) {
        give(account.id(), size);
    }
}

/// The label of a block; 0 is none.
#[inline]
fn label(block: *mut u8, size: usize) -> u32 {
    if !shadow::SUPPORTED || size < THRESHOLD {
        return 0;
    }
    shadow::get(block)
}

/// Gives bytes back to whom a label names.
#[inline]
fn give(label: u32, bytes: usize) {
    if bytes == 0 || fork::in_child() {
        return;
    }
    // SAFETY: it was the label of a block, or is about to be, so it is the number of an account.
    let account = unsafe { Account::of(label) };
    // SAFETY: the bytes are charged to this account: its label was on a block of so many, or they were just taken. Each
    // caller gives them once.
    if !unsafe { account.give(bytes) } {
        give_slowly(account, bytes);
    }
}

#[cold]
#[inline(never)]
fn give_slowly(account: Account, bytes: usize) {
    // SAFETY: as in `give`, whose call gave nothing.
    shadow::keep_errno(|| unsafe { account.give_slowly(bytes) });
}
