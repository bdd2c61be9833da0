//! Moving the charges of some arrays' memory from one allocator of a tree to another.

use std::ptr::NonNull;

use arrow_memory_core::__private::undo_transfer;
use arrow_memory_core::{ArrowBuf, BufferAllocator};

use super::known;
use super::regions::{Regions, State};
use crate::error::MemoryError;
use crate::hand_over::HandOver;
use crate::shares::Shares;

/// What a transfer does about limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limits {
    /// It is refused where it does not fit.
    Kept,
    /// It goes over them.
    Ignored,
}

/// A transfer of regions to `target`.
pub(super) struct Transfer<'a> {
    pub(super) target: &'a BufferAllocator,
    /// With `from`, only the charges of that allocator move, and regions that others are charged for are
    /// shared.
    pub(super) from: Option<&'a BufferAllocator>,
    pub(super) limits: Limits,
    /// Whether the memory at an address is to be left alone.
    pub(super) except: Option<&'a dyn Fn(NonNull<u8>) -> bool>,
    /// Where memory is noted that is shared instead of moved, since the source has it, too.
    pub(super) shares: Option<&'a Shares>,
}

impl<'a> Transfer<'a> {
    /// A transfer of everything to `target`, whatever the limits say.
    pub(super) fn forced(target: &'a BufferAllocator) -> Self {
        Self {
            target,
            from: None,
            limits: Limits::Ignored,
            except: None,
            shares: None,
        }
    }

    /// Whether the charge of `view`, which owns its allocation, is to move.
    fn moves(&self, view: &ArrowBuf) -> bool {
        self.from.is_none_or(|from| view.belongs_to(from))
    }
}

impl<'a> From<&HandOver<'a>> for Transfer<'a> {
    fn from(by: &HandOver<'a>) -> Self {
        Self {
            target: by.to,
            from: Some(by.from),
            limits: if by.forced {
                Limits::Ignored
            } else {
                Limits::Kept
            },
            except: by.except,
            shares: by.shares,
        }
    }
}

/// The charges that were moved, each with the allocator that it was moved from.
#[derive(Default)]
pub(super) struct Moves(Vec<(ArrowBuf, BufferAllocator)>);

impl Moves {
    /// Moves the charges back, since what was to come after them was refused.
    #[cold]
    pub(super) fn undo(&mut self) {
        for (view, from) in self.0.drain(..).rev() {
            if let Err(error) = undo_transfer(&view, &from) {
                tracing::warn!(%error, "a transfer could not be undone");
            }
        }
    }
}

impl Regions<'_> {
    /// Moves the known regions and their charges to the target. Returns whether no charge that moved went over a limit. After
    /// an error the caller undoes what `moved`.
    #[track_caller]
    pub(super) fn transfer(
        &mut self,
        transfer: &Transfer<'_>,
        moved: &mut Moves,
    ) -> Result<bool, MemoryError> {
        let mut fit = true;
        let target = transfer.target;
        let mut shared = Vec::new();
        for slot in &mut self.slots {
            let Some(mut known) = slot.take_known() else {
                continue;
            };
            // The charge moves, so take the buffer on the ledger that owns it, if there is one.
            if known.view.accounted_size() == 0
                && let Some(owner) = known::find_owner(slot.region, target)
                && transfer.moves(&owner.view)
                && owner.view.allocation_id() == known.view.allocation_id()
            {
                known.view = owner.view;
            }
            if known.view.belongs_to(target) {
                slot.state = State::Ready(known.into_buffer());
                continue;
            }
            let owns = known.view.accounted_size() > 0;
            // Others have buffers like the value's: the source has, usually.
            let shares = transfer.shares;
            let shares = shares.filter(|_| slot.widest.strong_count() > slot.owned as usize);
            let moves = transfer.moves(&known.view) && shares.is_none();
            let owns = owns && moves;
            let view = match transfer.limits {
                _ if !moves => known.view.retain_in(target),
                Limits::Kept => known.view.try_transfer_ownership(target),
                Limits::Ignored => known.view.transfer_ownership(target).map(|moved| {
                    fit &= moved.allocation_fit;
                    moved.buffer
                }),
            }?;
            if owns {
                moved.0.push((view.clone(), known.view.allocator()));
            }
            if let Some(shares) = shares {
                shared.push((shares, view.clone(), known.adopted));
            }
            known.view = view;
            slot.state = State::Ready(known.into_buffer());
        }
        for (shares, view, adopted) in shared {
            shares.insert(view, adopted);
        }
        Ok(fit)
    }
}
