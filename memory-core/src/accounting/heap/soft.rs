//! Soft leaves: heap leaves whose words are open although a level above is tight.
//!
//! Infallible code brings allocators over their limits, and keeps them there. If the words of heap leaves were shut
//! there, as those of other nodes are, each block of the program would take the mutex twice. But nobody is refused a
//! charge of the heap, so a little credit can be charged by force and left in the words.
//!
//! # Invariants
//!
//! * **G1** Below a tight level every word is shut, except those of soft leaves and of nodes whose reservation covers
//!   what they hold. What soft words hold is charged at every level above. A node below a tight level has
//!   O = max(R, S + B), and a soft leaf O = B + credit. So `used` of a tight level is an upper bound of what is
//!   allocated, too high by what the soft words below it hold.
//! * **G2** A soft word holds at most its cap, which is at most `SOFT`. The cap is in the word: a giver cannot have read
//!   an old one, so what the word can come to hide is known under the mutex.
//! * **G3** Whoever is about to believe that a tight level is over its limit, or has no room, recalls the soft leaves
//!   below it first. At the instant of a refusal no soft word is open below the level that refuses.
//! * **G4** What users may give back to soft words is loose (see `queue::measure`): if with it a waiter could fit at a
//!   level, no soft word is open below that level at the end of the section. So a soft word is given less than what
//!   the waiters above lack.
//!
//! A leaf on the list of soft ones may have no open word, and may have no tight level above it any more. Readers of
//! exact numbers recall soft leaves, and leave them shut; they are opened again when they are next used.

use super::super::node::{Accounts, Locked, NodeKind, NodePtr};

/// The maximum of what one soft word may hold, in bytes.
const SOFT: usize = 64 << 10;

impl Locked<'_> {
    /// The cap that a soft word of the leaf may have now; 0: none may be open.
    pub(super) fn soft_cap(&self, leaf: NodePtr) -> usize {
        let state = self.look(leaf);
        if state.closed || self.hold {
            return 0;
        }
        let mut cap = SOFT.min(self.tree().config.credit);
        let mut next = state.parent.filter(|_| self.waits);
        while let Some(at) = next {
            if let Some(lacks) = self.lacks(at) {
                cap = cap.min(lacks.saturating_sub(1));
            }
            next = self.look(at).parent;
        }
        cap
    }

    /// Opens the word of the account that the section is for, on a leaf that is shut, with what is parked there. What
    /// is parked beyond that is returned to the levels above.
    pub(super) fn open_soft(&mut self, leaf: NodePtr) {
        if !self.look(leaf).shut {
            return;
        }
        let cap = self.soft_cap(leaf);
        if cap > 0 && self.open_up_to(leaf, cap) {
            self.make_soft(leaf);
        }
        self.recount(leaf);
    }

    /// Whether a soft word is open at or below a level.
    pub(in crate::accounting) fn is_soft_below(&self, at: NodePtr) -> bool {
        let mut next = self.first_soft();
        while let Some(leaf) = next {
            if self.look(leaf).caps > 0 && self.is_below(leaf, at) {
                return true;
            }
            next = self.next_soft(leaf);
        }
        false
    }

    /// Shuts the soft leaves at and below a level, and returns what they held to the levels above, up to the tight one
    /// nearest to the root. Says whether any was open. O(soft leaves x depth).
    #[inline]
    pub(in crate::accounting) fn recall_soft(&mut self, at: NodePtr) -> bool {
        self.first_soft().is_some() && self.recall_soft_below(at)
    }

    #[cold]
    fn recall_soft_below(&mut self, at: NodePtr) -> bool {
        let (mut next, mut found) = (self.first_soft(), false);
        while let Some(leaf) = next {
            next = self.next_soft(leaf);
            if self.is_below(leaf, at) {
                let was_open = self.look(leaf).caps > 0;
                // What happens on the leaf from here on waits for the mutex. So the sums are those of the instant at
                // which the last leaf is shut.
                self.freeze(leaf);
                found |= was_open || self.look(leaf).parked > 0;
                self.make_hard(leaf);
                self.fold_upwards(leaf);
            }
        }
        found
    }

    /// Returns what a leaf, which is frozen, does not use to the levels above, up to the tight one nearest to the root.
    fn fold_upwards(&mut self, leaf: NodePtr) {
        let Some(tight) = self.topmost_tight(leaf) else {
            // Nothing is exact there, and the leaf is opened when it is next used.
            self.recount(leaf);
            return;
        };
        let mut at = leaf;
        while let Some(parent) = self.look(at).parent.filter(|_| at != tight) {
            let given = self.look(at).loose;
            let returned = self.fold(at);
            self.set_exact(at);
            self.need_less(at, given);
            self.need_less(parent, returned);
            at = parent;
        }
        self.freed(tight);
    }

    /// Makes exact what decides whether `bytes` more fit at the levels from a node upwards: below a tight level that
    /// they may bring over its limit, soft leaves are recalled.
    #[inline]
    pub(in crate::accounting) fn look_closely(&mut self, node: NodePtr, bytes: usize) {
        if self.first_soft().is_some() {
            self.look_closely_at_levels(node, bytes);
        }
    }

    #[cold]
    fn look_closely_at_levels(&mut self, node: NodePtr, bytes: usize) {
        let mut next = Some(node);
        while let Some(at) = next {
            let state = self.look(at);
            next = state.parent;
            if state.tight && bytes > state.room() {
                self.recall_soft(at);
            }
        }
    }

    /// The first rule for soft leaves that a node breaks, with the numbers of both sides. Before the nodes are stopped
    /// for other checks.
    pub(in crate::accounting) fn wrong_soft(
        &self,
        node: NodePtr,
    ) -> Option<(&'static str, usize, usize)> {
        if self.node(node).kind != NodeKind::Heap {
            return None;
        }
        let state = self.look(node);
        if !state.shut {
            return None;
        }
        if state.caps > 0 && !state.soft {
            return Some((
                "an open word of a shut leaf is not known as soft",
                state.caps,
                0,
            ));
        }
        let mut caps = self
            .accounts(Accounts::Of(node))
            .map(|account| account.held().external);
        let cap = caps.find(|&cap| cap > SOFT)?;
        Some(("a soft word may hold too much", cap, SOFT))
    }
}
