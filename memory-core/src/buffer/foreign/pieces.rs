//! Charging for foreign memory that lies in blocks of the program's heap, which pays for them already.

use std::cell::RefCell;

use crate::accounting::heap::{Piece, labels};
use crate::accounting::{Handle, Refusal};
use crate::buffer::charge::{Charge, Request};
use crate::error::AllocError;
use crate::reclaim::retry_after_asking;

/// Charges `bytes`, without a word to the listener, and takes what the program's heap pays for the pieces, in one step.
/// An error leaves everything as it was.
pub(super) fn charge_with<'a>(
    handle: &'a Handle,
    bytes: usize,
    pieces: &mut [Piece],
    request: impl Request,
) -> Result<Charge<'a>, AllocError> {
    let Some(labels) = labels().filter(|_| !pieces.is_empty()) else {
        return Charge::silently(handle, bytes, request);
    };
    // A refused attempt leaves the pieces as they were.
    let pieces = RefCell::new(pieces);
    let attempt = || handle.adopt_pieces(bytes, &mut pieces.borrow_mut(), labels, false);
    let adopted = match attempt() {
        Err(refusal) => retry_after_asking(handle, bytes, refusal, attempt),
        adopted => adopted,
    };
    adopted.map_err(|refusal| {
        let (requested, purpose) = request();
        refusal.report(requested, purpose)
    })?;
    Ok(Charge::of(handle, bytes))
}

/// Does what `charge_with` does, whatever the limits say. The answer is whether no level is over its limit afterwards.
pub(super) fn force_with(
    handle: &Handle,
    bytes: usize,
    pieces: &mut [Piece],
) -> Result<bool, Box<Refusal>> {
    match labels().filter(|_| !pieces.is_empty()) {
        Some(labels) => handle.adopt_pieces(bytes, pieces, labels, true),
        None => handle.force_block(bytes),
    }
}
