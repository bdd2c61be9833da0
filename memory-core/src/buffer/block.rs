//! From a charge to a buffer: the block of the manager, and its bookkeeping.
#![expect(unsafe_code, reason = "takes over the blocks that a manager hands out")]

use std::alloc::Layout;

use super::arrow_buf_mut::ArrowBufMut;
use super::charge::Charge;
use super::errors::manager_failed;
use crate::accounting::Node;
use crate::error::AllocError;
use crate::ledger::LedgerRef;
use crate::outcome::Purpose;
use crate::probes;
use crate::raw::slot::Block;

/// What a fresh block holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    Unspecified,
    Zero,
}

/// A new buffer with a capacity of `layout`'s size. `charge` holds what of that was not charged before;
/// an error gives it back. The error says that the caller asked for `asked` bytes.
#[inline(always)] // The caller knows parts of the layout, and the contents, when it is compiled.
pub(crate) fn allocate_block(
    charge: Charge<'_>,
    layout: Layout,
    asked: usize,
    contents: Contents,
) -> Result<ArrowBufMut, Box<AllocError>> {
    allocate_block_then(charge, layout, asked, contents, |_| ())
}

/// Does what `allocate_block` does, and calls `then` when the allocation is complete. If `then` panics,
/// the buffer is dropped, which gives everything back.
#[inline(always)] // For the same reason.
pub(super) fn allocate_block_then(
    charge: Charge<'_>,
    layout: Layout,
    asked: usize,
    contents: Contents,
    then: impl FnOnce(&Node),
) -> Result<ArrowBufMut, Box<AllocError>> {
    let at = charge.node();
    // SAFETY: the charge borrows a handle of it, which outlives this call.
    let node = unsafe { at.node() };
    let manager = node.manager();
    // If the manager refuses, or panics, the charge is dropped, which gives it back.
    let block = match contents {
        Contents::Unspecified => manager.allocate(layout),
        Contents::Zero => manager.allocate_zeroed(layout),
    };
    let ptr = match block {
        Ok(ptr) => ptr,
        Err(source) => {
            let purpose = Purpose::rounded(asked, layout.size());
            return Err(Box::new(manager_failed(node, asked, purpose, source)));
        }
    };
    debug_assert!(
        ptr.addr().get().is_multiple_of(layout.align()),
        "a misaligned block"
    );
    charge.keep();
    probes::allocate(ptr, layout.size(), node.probed());
    let block = Block {
        ptr,
        align: layout.align(),
    };
    // SAFETY: `layout.size()` bytes are charged to the node, and the guard that would give them
    // back is gone. The block is fresh from the tree's manager, with this layout.
    let ledger = unsafe { LedgerRef::new(at, block, layout.size(), None) };
    then(node);
    // SAFETY: the block has so many bytes, none known to be initialised; nobody else knows it, and
    // it is not foreign.
    Ok(unsafe { ArrowBufMut::from_parts(ptr, 0, layout.size(), ledger) })
}
