//! Why a request was refused: made under the tree's mutex, told outside.

use crate::error::AllocError;
use crate::events;
use crate::outcome::{AllocationOutcome, AllocatorInfo, OutcomeEntry, Purpose};
use crate::probes;
use crate::size::MAX_SIZE;

/// The level that refused a request, with the numbers of that instant. Made under the mutex, so without
/// a heap allocation.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The request does not fit below a limit.
    Limit(Levels),
    /// The allocator whose bytes the request needs is closed.
    Closed(AllocatorInfo),
    /// A sum would be above `isize::MAX`.
    Overflow(AllocatorInfo),
}

/// The levels that a refused request reached: the first ones and the refuser.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    entries: [Option<OutcomeEntry>; AllocationOutcome::MAX_ENTRIES],
    reached: usize,
    /// The reservation that keeps bytes charged which a transfer would move, and how many.
    kept: Option<(AllocatorInfo, usize)>,
    /// Whether the request can never be granted.
    pub(super) never: bool,
}

impl Levels {
    pub(super) fn push(&mut self, entry: OutcomeEntry) {
        let last = self.entries.len() - 1;
        self.entries[self.reached.min(last)] = Some(entry);
        self.reached += 1;
    }

    /// Notes that the reservation of `keeper` keeps `bytes` charged that a transfer would move.
    pub(super) fn note_kept(&mut self, keeper: &AllocatorInfo, bytes: usize) {
        self.kept = Some((keeper.clone(), bytes));
    }

    /// The outcome for an error or a listener. Allocates: not under the mutex.
    pub(crate) fn to_outcome(&self) -> AllocationOutcome {
        let omitted = self.reached.saturating_sub(self.entries.len());
        AllocationOutcome {
            entries: self.entries.iter().flatten().cloned().collect(),
            omitted,
            kept: self.kept.clone(),
            never: self.never,
        }
    }
}

impl Refusal {
    /// The refusal of a child whose reservation does not fit in its own limit.
    pub(super) fn of_reservation(
        child: &AllocatorInfo,
        limit: usize,
        reservation: usize,
    ) -> Option<Self> {
        if reservation > MAX_SIZE {
            return Some(Self::Overflow(child.clone()));
        }
        if reservation <= limit {
            return None;
        }
        let mut levels = Levels::default();
        levels.push(OutcomeEntry {
            allocator: child.clone(),
            limit,
            allocated: 0,
            reservation,
            requested: reservation,
            withheld: 0,
        });
        levels.never = true;
        Some(Self::Limit(levels))
    }

    /// The error for a request of `requested` bytes, as the caller gave them.
    #[cold]
    pub(crate) fn to_error(&self, requested: usize, purpose: Purpose) -> AllocError {
        let purpose = Box::new(purpose);
        match self {
            Self::Limit(levels) => AllocError::OutOfMemory {
                requested,
                purpose,
                outcome: Box::new(levels.to_outcome()),
            },
            Self::Closed(allocator) => AllocError::Closed {
                allocator: allocator.clone(),
                requested,
                purpose,
            },
            Self::Overflow(allocator) => AllocError::SizeOverflow {
                allocator: allocator.clone(),
                requested,
                purpose,
            },
        }
    }

    /// The error of `to_error`, which this also emits as an event and as a probe.
    #[cold]
    pub(crate) fn report(&self, requested: usize, purpose: Purpose) -> AllocError {
        let error = self.to_error(requested, purpose);
        events::refused(requested, &error);
        if let Some(allocator) = error.allocator() {
            probes::refuse(requested, allocator);
        }
        error
    }
}
