//! The numbers of a node when nothing refers to it yet, and what follows from them at once.

use super::super::paths::InPath;
use super::super::queue::NONE;
use super::State;
use crate::size::MAX_SIZE;

impl State {
    /// That of a node that nothing refers to yet, shut.
    pub(super) fn shut(limit: usize, reservation: usize) -> Self {
        Self {
            bound: limit.min(MAX_SIZE),
            limit,
            cap: usize::MAX,
            reserve: 0,
            set_aside: 0,
            queue: NONE,
            waiters_below: 0,
            loose: 0,
            reclaimers: Vec::new(),
            registrations: 0,
            first_registered: None,
            next_registered: None,
            previous_registered: None,
            obtained: 0,
            lent: 0,
            reservation,
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
            heap: None,
            accounts: 0,
            lanes: 0,
            caps: 0,
            soft: false,
            next_soft: None,
            previous_soft: None,
        }
    }

    /// The bytes in use here and below (B + S): exact when the subtree is, else an upper bound.
    #[inline]
    pub(in crate::accounting) fn used(&self) -> usize {
        self.obtained - self.parked
    }

    /// The bytes in use here and below that the node's reservation does not keep.
    pub(in crate::accounting) fn beyond_reservation(&self) -> usize {
        self.used().saturating_sub(self.reservation)
    }

    /// The bytes that may be in use here: the smaller of limit and cap, never above what a signed size can
    /// express.
    #[inline]
    pub(in crate::accounting) fn bound(&self) -> usize {
        self.bound
    }

    /// Sets the limit and the cap, in bytes.
    pub(in crate::accounting) fn set_bounds(&mut self, limit: usize, cap: usize) {
        (self.limit, self.cap) = (limit, cap);
        self.bound = limit.min(cap).min(MAX_SIZE).saturating_sub(self.set_aside);
    }

    /// Sets how much of the spill reserve nobody has taken, in bytes.
    pub(in crate::accounting) fn set_aside(&mut self, bytes: usize) {
        self.set_aside = bytes;
        self.set_bounds(self.limit, self.cap);
    }

    /// The maximum of what requests of others than spilling can ever have, in bytes.
    pub(in crate::accounting) fn most(&self) -> usize {
        self.limit.min(MAX_SIZE).saturating_sub(self.reserve)
    }

    /// The room that is left, as far as the numbers say: in use is an upper bound.
    #[inline]
    pub(in crate::accounting) fn room(&self) -> usize {
        self.bound.saturating_sub(self.used())
    }

    /// Free bytes that the reservation keeps, and that a waiter here or below can use. The node's words are shut.
    #[inline]
    pub(in crate::accounting) fn kept_for_waiters(&self) -> usize {
        if self.waiters_below > 0 {
            self.reservation.saturating_sub(self.used())
        } else {
            0
        }
    }

    #[inline]
    pub(in crate::accounting) fn note_peak(&mut self) {
        self.peak = self.peak.max(self.used());
    }
}
