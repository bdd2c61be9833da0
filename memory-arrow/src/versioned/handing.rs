//! Transfers of whole values, and hand-overs, which give their value up.
#![expect(
    unsafe_code,
    reason = "moves allocations of which it has a buffer that nobody knows"
)]

use arrow_memory_core::__private::{ForeignRoom, move_in_place};
use arrow_memory_core::BufferAllocator;

use super::movable::Movable;
use super::parts::Parts;
use super::regions::Regions;
use super::shared::Shared;
use super::transfer::{Limits, Moves, Transfer};
use crate::error::{MemoryError, Refused};
use crate::hand_over::HandOver;
use crate::kept::Kept;

/// What [`Accounted::transfer_ownership`](super::Accounted::transfer_ownership) and [`Accounted::hand_over`](super::Accounted::hand_over) return.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransferResult<T> {
    /// The same values, on the target's ledgers.
    pub value: T,
    /// `false` exactly if a charge was moved or made, and a level that it reached was over its limit then.
    pub allocation_fit: bool,
}

/// What a hand-over asks of a transfer, and what it is told besides the result.
#[derive(Default)]
pub(super) struct Aside {
    /// Whether charges may stay where they are if they can probably move in place.
    in_place: bool,
    /// The allocations whose charges stayed. If there are any, the result is the same value on new buffers, and nothing
    /// has moved.
    movable: Movable,
    /// Whether to note what may still have other buffers.
    notes_shared: bool,
    /// What was adopted and may still have other buffers.
    shared: Vec<Shared>,
}

/// Hands a value over.
#[track_caller]
pub(super) fn handed_over<T: Parts>(
    value: T,
    by: &HandOver<'_>,
) -> Result<TransferResult<T>, Refused<T>> {
    let transfer = Transfer::from(by);
    let refused = |value, source| Err(Refused { value, source });
    let mut aside = Aside {
        in_place: true,
        notes_shared: by.kept.is_some(),
        ..Aside::default()
    };
    let value = match transferred(&value, &transfer, &mut aside) {
        Ok(handed) if aside.movable.allocations.is_empty() => {
            return Ok(finish(value, handed, by, aside.shared));
        }
        // The old buffers go here, so that the new ones are probably the only ones.
        Ok(same) => replace(value, same.value),
        Err(source) => return refused(value, source),
    };
    let movable = std::mem::take(&mut aside.movable);
    // SAFETY: `movable` has a buffer on each of the allocations, which was made for it and for `value`. Nobody else has seen
    // either, so nobody else can use, clone or drop them.
    let moved = unsafe { move_in_place(&movable.allocations, by.from, by.to, by.forced) };
    drop(movable);
    match moved {
        Ok(Some(allocation_fit)) => Ok(TransferResult {
            value,
            allocation_fit,
        }),
        Ok(None) => {
            aside.in_place = false;
            match transferred(&value, &transfer, &mut aside) {
                Ok(handed) => Ok(finish(value, handed, by, aside.shared)),
                Err(source) => refused(value, source),
            }
        }
        Err(source) => refused(value, source.into()),
    }
}

/// Drops a value, and returns the one in its place.
fn replace<T>(old: T, new: T) -> T {
    drop(old);
    new
}

/// Drops the value that was handed over, and has the giver charged for what it still has.
fn finish<T>(
    given: T,
    handed: TransferResult<T>,
    by: &HandOver<'_>,
    shared: Vec<Shared>,
) -> TransferResult<T> {
    drop(given);
    if let Some(kept) = by.kept {
        keep(kept, by.from, shared);
    }
    handed
}

/// Adds those of the adopted allocations to the list that the giver still has a buffer on.
fn keep(kept: &Kept, giver: &BufferAllocator, shared: Vec<Shared>) {
    let entries = shared.into_iter().filter_map(|one| one.entry(giver));
    let entries: Vec<_> = entries.collect();
    if !entries.is_empty() {
        kept.add(entries);
    }
}

/// `whole` under `target`. Memory that is charged to `from`, or to any allocator of the tree without `from`, is
/// moved; memory that is charged to another allocator is shared; the rest is adopted. An error changes nothing, and
/// undoes the `moves` that were made before, too.
#[track_caller]
pub(super) fn moved<T: Parts>(
    whole: &T,
    target: &BufferAllocator,
    from: Option<&BufferAllocator>,
    moves: &mut Moves,
) -> Result<T, MemoryError> {
    let transfer = Transfer {
        target,
        from,
        limits: Limits::Kept,
        except: None,
        shares: None,
    };
    Ok(transferred_after(moves, whole, &transfer, &mut Aside::default())?.value)
}

/// `whole` under the target, as for `moved`, within the limits or whatever they say, except for what is left
/// alone.
#[track_caller]
pub(super) fn transferred<T: Parts>(
    whole: &T,
    transfer: &Transfer<'_>,
    aside: &mut Aside,
) -> Result<TransferResult<T>, MemoryError> {
    transferred_after(&mut Moves::default(), whole, transfer, aside)
}

/// The same, as one of several steps. After an error the `moves` of those before are undone, too.
#[track_caller]
fn transferred_after<T: Parts>(
    moves: &mut Moves,
    whole: &T,
    transfer: &Transfer<'_>,
    aside: &mut Aside,
) -> Result<TransferResult<T>, MemoryError> {
    let result = transferred_or_left(moves, whole, transfer, aside);
    if result.is_err() {
        moves.undo();
    }
    result
}

/// The same, without undoing anything.
#[track_caller]
fn transferred_or_left<T: Parts>(
    moves: &mut Moves,
    whole: &T,
    transfer: &Transfer<'_>,
    aside: &mut Aside,
) -> Result<TransferResult<T>, MemoryError> {
    let parts = whole.parts();
    let mut regions = Regions::of(&parts);
    if let Some(except) = transfer.except {
        regions.leave(except);
    }
    let target = transfer.target;
    if let Some(shares) = transfer.shares {
        regions.find_shared(shares, target);
    }
    let mut fit = true;
    // Adopting comes first: a move can be undone if it fails, and after it nothing else can fail.
    let missing = regions.find(target);
    if missing.bytes > 0 {
        let pieces = regions.pieces();
        let room = match transfer.limits {
            Limits::Kept => {
                ForeignRoom::new(target, missing.bytes, pieces).map(|room| (room, true))
            }
            Limits::Ignored => ForeignRoom::forced(target, missing.bytes, pieces),
        };
        let (mut room, adoption_fit) = room.map_err(|error| missing.refused(error))?;
        fit = adoption_fit;
        regions.adopt(target, &mut room)?.keep();
    } else if aside.in_place {
        aside.movable = regions.stay_for_now(&parts, transfer);
    }
    fit &= regions.transfer(transfer, moves)?;
    if aside.notes_shared {
        regions.note_shared(&parts, &mut aside.shared);
    }
    Ok(TransferResult {
        value: whole.assemble(regions.rebuild(&parts)),
        allocation_fit: fit,
    })
}
