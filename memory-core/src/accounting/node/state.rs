//! [`State`]: the numbers of a node that only the holder of the mutex touches.

use std::sync::Arc;

#[cfg(feature = "metrics")]
use super::super::paths::InPath;
use super::{NodePtr, Reserved};

/// The numbers of a node that only the holder of the mutex touches, in bytes. The names in
/// parentheses are those of the essay at the head of `accounting`.
///
/// The first cache line has all that a charge, a transfer or the end of a ledger looks at.
#[repr(C, align(64))]
pub(in crate::accounting) struct State {
    pub(in crate::accounting) limit: usize,
    /// The parent's charge for this node (O); for a root, the sum that its limit bounds.
    pub(in crate::accounting) obtained: usize,
    /// Free bytes that are in no word (P).
    pub(in crate::accounting) parked: usize,
    pub(in crate::accounting) peak: usize,
    /// Non-owning ledgers.
    pub(in crate::accounting) guests: usize,
    pub(in crate::accounting) parent: Option<NodePtr>,
    pub(in crate::accounting) forced: u64,
    /// The subtree is exact and shut (I2); set by recall, cleared by `relax`.
    pub(in crate::accounting) tight: bool,
    /// Must not be opened before it is known that no level from here up is tight.
    pub(in crate::accounting) shut: bool,
    pub(in crate::accounting) closed: bool,
    pub(in crate::accounting) linked: bool,
    /// Whether the event that memory outlived the last handle was emitted. Growth of a buffer that is left
    /// takes and drops a handle again, so it would be emitted more than once.
    pub(in crate::accounting) outlived: bool,
    /// The sum of the children's `obtained` (S).
    pub(in crate::accounting) lent: usize,
    /// External bytes that no word counts.
    pub(in crate::accounting) external: usize,
    /// Slow operations since the last recall here, and the nodes that it visited.
    pub(in crate::accounting) tight_operations: usize,
    pub(in crate::accounting) recall_cost: usize,
    pub(in crate::accounting) refusals: u64,
    pub(in crate::accounting) children: usize,
    /// The `AllocationReservation`s, empty ones too; each holds a handle besides. It grows while the
    /// mutex is free.
    pub(in crate::accounting) reservations: Vec<Arc<Reserved>>,
    /// The part of `refusals` and `forced` that was added to the sums of the node's path.
    #[cfg(feature = "metrics")]
    pub(in crate::accounting) in_path: InPath,
    /// Scratch field of the current walk: exact allocated bytes of this subtree.
    pub(in crate::accounting) exact: usize,
    pub(in crate::accounting) first_child: Option<NodePtr>,
    pub(in crate::accounting) last_child: Option<NodePtr>,
    pub(in crate::accounting) next_sibling: Option<NodePtr>,
    pub(in crate::accounting) previous_sibling: Option<NodePtr>,
    /// The next in the graveyard.
    pub(super) next_dead: Option<NodePtr>,
}

/// While a node's departure waits to be told: where it left, and the next such node.
///
/// It is no part of [`State`], because the thread that tells the departures reads it without the
/// mutex, while another thread may have the mutex, and with it a unique reference to the state.
#[derive(Clone, Copy, Default)]
pub(super) struct Departure {
    /// The former parent.
    pub(super) parent: Option<NodePtr>,
    pub(super) next: Option<NodePtr>,
}

impl State {
    /// That of a node that nothing refers to yet, shut.
    pub(super) fn shut(limit: usize) -> Self {
        Self {
            limit,
            obtained: 0,
            lent: 0,
            parked: 0,
            external: 0,
            peak: 0,
            tight: false,
            shut: true,
            closed: false,
            linked: false,
            outlived: false,
            tight_operations: 0,
            recall_cost: 0,
            refusals: 0,
            forced: 0,
            reservations: Vec::new(),
            #[cfg(feature = "metrics")]
            in_path: InPath::default(),
            guests: 0,
            exact: 0,
            children: 0,
            parent: None,
            first_child: None,
            last_child: None,
            next_sibling: None,
            previous_sibling: None,
            next_dead: None,
        }
    }

    /// The bytes in use here and below (B + S): exact when the subtree is, else an upper bound.
    #[inline]
    pub(in crate::accounting) fn used(&self) -> usize {
        self.obtained - self.parked
    }

    /// The limit, never above what a signed size can express.
    #[inline]
    pub(in crate::accounting) fn bound(&self) -> usize {
        self.limit.min(crate::size::MAX_SIZE)
    }

    #[inline]
    pub(in crate::accounting) fn note_peak(&mut self) {
        self.peak = self.peak.max(self.used());
    }
}
