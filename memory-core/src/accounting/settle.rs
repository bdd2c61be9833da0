//! The slow path: giving back under the tree's mutex, recalling credit, and opening what was stopped.

use super::node::{Locked, NodeKind, NodePtr};
use super::queue::NONE;

impl Locked<'_> {
    /// Gives back `bytes` that are charged to `node`.
    pub(super) fn release(&mut self, node: NodePtr, bytes: usize) {
        self.freeze_mine(node);
        self.state(node).parked += bytes;
        self.settle(node);
    }

    /// Returns what `node` and its ancestors hold beyond what they may keep, and thaws them.
    /// `node` is frozen, at least for this thread.
    pub(super) fn settle(&mut self, node: NodePtr) {
        let tight = self.topmost_tight(node);
        let mut exact = tight.is_some() && tight != Some(node);
        let mut at = node;
        loop {
            let excess = self.excess(at, exact);
            let state = self.state(at);
            state.parked -= excess;
            state.obtained -= excess;
            let parent = state.parent;
            self.freed(at);
            self.kept(at);
            let Some(parent) = parent.filter(|_| excess > 0) else {
                break;
            };
            self.freeze_mine(parent);
            let state = self.state(parent);
            state.lent -= excess;
            state.parked += excess;
            exact = exact && tight != Some(parent);
            at = parent;
        }
        self.thaw(node, at);
    }

    /// How many bytes a frozen node must return: below a tight level all that its reservation does not
    /// cover; elsewhere, with hysteresis, what is above the credit that it may hold.
    fn excess(&self, node: NodePtr, exact: bool) -> usize {
        let state = self.look(node);
        let unused = state.obtained - state.reservation.max(state.used());
        if exact || state.closed || self.node(node).handles() == 0 {
            return unused;
        }
        let max = self.max_unused(node);
        if unused <= max { 0 } else { unused - max / 2 }
    }

    /// Makes all below `at` exact: stops the whole subtree, then folds each node's free bytes
    /// into what its parent is charged for it, so that `obtained` is the larger of reservation
    /// and use. Everything stays shut, and `at` is tight, until `relax` says otherwise.
    pub(super) fn recall(&mut self, at: NodePtr) {
        // A level above may be tight already, and then what soft leaves hold must not stay here.
        self.recall_soft(at);
        let mut visited = 0;
        let mut next = Some(at);
        while let Some(node) = next {
            if node == at || !self.is_covered(node) {
                self.freeze(node);
            }
            self.state(node).shut = true;
            visited += 1;
            next = self.next_preorder(node, at);
        }
        // From here on nothing moves in this subtree without the mutex, except within reservations.
        self.for_each_postorder(at, |locked, node| {
            if node != at {
                let (given, parent) = (locked.look(node).loose, locked.look(node).parent);
                let returned = locked.fold(node);
                locked.set_exact(node);
                locked.need_less(node, given);
                if let Some(parent) = parent {
                    locked.need_less(parent, returned);
                }
            }
        });
        self.tighten(at, visited);
        self.state(at).note_peak();
        self.recount(at);
    }

    /// Returns to the parent what the node's reservation and use do not need, and says how much
    /// that was. Both are frozen.
    pub(super) fn fold(&mut self, node: NodePtr) -> usize {
        let excess = self.excess(node, true);
        let state = self.state(node);
        state.parked -= excess;
        state.obtained -= excess;
        if let Some(parent) = state.parent {
            let state = self.state(parent);
            state.lent -= excess;
            state.parked += excess;
        }
        excess
    }

    /// The tight level nearest to the root at or above `node`. Nothing at or above a node that is
    /// not shut is tight (I2), so that this costs little in deep trees whose leaves are created and
    /// dropped often.
    pub(super) fn topmost_tight(&mut self, node: NodePtr) -> Option<NodePtr> {
        let (mut topmost, mut next) = (None, Some(node));
        if !self.some_are_tight() {
            return None;
        }
        while let Some(node) = next.filter(|&node| self.look(node).shut) {
            let state = self.look(node);
            if state.tight {
                topmost = Some(node);
            }
            next = state.parent;
        }
        topmost
    }

    /// Ends an operation that froze the levels from `node` up to `top`: lets tight levels relax
    /// where they may, and opens what is not at or below a tight one.
    pub(super) fn thaw(&mut self, node: NodePtr, top: NodePtr) {
        self.relax(node);
        // At and below the topmost tight level everything stays `shut`, though covered words are opened.
        let tight = self.topmost_tight(node).or_else(|| self.topmost_tight(top));
        let mut below = tight.is_some();
        let mut at = node;
        loop {
            if below {
                self.open_covered(at);
            } else {
                self.reopen(at);
            }
            if tight == Some(at) {
                below = false;
            }
            if at == top {
                return;
            }
            match self.look(at).parent {
                Some(parent) => at = parent,
                None => return,
            }
        }
    }

    /// Whether the node uses no more than is reserved for it, here and below, whatever moves between its words and its
    /// users: then its words may be open below a tight level (I2). Not where requests wait below, which need less from
    /// above when something is given back here.
    fn is_covered(&self, node: NodePtr) -> bool {
        let state = self.look(node);
        let covered = state.reservation > 0 && state.obtained == state.reservation;
        covered && state.waiters_below == 0 && self.node(node).kind == NodeKind::Allocator
    }

    /// Opens the words of a frozen node that is as `shut` as it has to be: those of a node that is `shut` only if they are
    /// covered.
    pub(super) fn open_if_allowed(&mut self, node: NodePtr) {
        if self.look(node).shut {
            self.open_covered(node);
        } else {
            self.open(node);
        }
    }

    /// Opens the words of a frozen node below a tight level, if it is covered. It stays `shut`.
    fn open_covered(&mut self, node: NodePtr) {
        let (this, state) = (self.node(node), self.look(node));
        let may = !state.tight && !state.closed && !self.hold && this.handles() > 0;
        if may && state.parked > 0 && self.is_covered(node) && self.tree().config.credit > 0 {
            self.open(node);
        } else {
            // It may hold more or less unused than before.
            self.recount_if_changed(node);
        }
    }

    /// The rule for open words of nodes that are `shut` which a node breaks, with the numbers of both sides. Before the
    /// nodes are stopped for other checks.
    pub(super) fn wrong_covered(&self, node: NodePtr) -> Option<(&'static str, usize, usize)> {
        let (this, state) = (self.node(node), self.look(node));
        let is_open = this.kind == NodeKind::Allocator && self.open_words(node) > 0;
        let may_be_open = !state.tight && (!state.shut || self.is_covered(node));
        let rule = "a word is open that no reservation covers";
        (is_open && !may_be_open).then_some((rule, state.obtained, state.reservation))
    }

    /// Opens a frozen node that no tight level covers, unless it must stay shut for itself.
    fn reopen(&mut self, node: NodePtr) {
        let orphan = self.node(node).handles() == 0;
        let never = self.tree().config.credit == 0;
        let state = self.state(node);
        debug_assert!(!state.tight);
        state.shut = state.closed || orphan || never;
        if !state.shut && !self.hold {
            self.open(node);
        } else {
            self.recount(node);
        }
    }

    /// Counts an operation at the tight levels above `node`, and loosens those that have had
    /// enough of them, and some slack, since their last recall: so a recall's cost is spread
    /// over as many operations, and a client that keeps asking for too much costs the others
    /// nothing but the mutex.
    fn relax(&mut self, node: NodePtr) {
        let mut next = Some(node).filter(|_| self.some_are_tight());
        while let Some(node) = next.filter(|&node| self.look(node).shut) {
            let state = self.state(node);
            next = state.parent;
            if !state.tight {
                continue;
            }
            state.tight_operations += 1;
            let bound = state.bound();
            let slack = (bound / 8).max(1);
            let has_slack = state.used() <= bound.saturating_sub(slack);
            let may = !state.closed && state.tight_operations >= state.recall_cost;
            let within = state.used() <= bound;
            if may && self.may_loosen(node, has_slack, within) {
                self.loosen(node);
            }
        }
    }

    /// Whether a tight level has enough room to be opened; or, where requests wait, so little that none of them
    /// may fit soon.
    fn may_loosen(&mut self, node: NodePtr, has_slack: bool, within: bool) -> bool {
        if self.waits && self.queue().serves {
            false
        } else if self.look(node).queue == NONE {
            has_slack
        } else {
            within && !self.is_near(node)
        }
    }
}
