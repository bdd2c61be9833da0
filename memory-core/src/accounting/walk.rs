//! Walks over a subtree, without recursion and without memory, and what they compute.

use super::node::{Locked, NodePtr};
use super::queue::Turn;
use crate::size::MAX_SIZE;

impl Locked<'_> {
    /// The node after `node` in the subtree of `top`, parents before children.
    pub(super) fn next_preorder(&self, node: NodePtr, top: NodePtr) -> Option<NodePtr> {
        let state = self.look(node);
        if state.first_child.is_some() {
            return state.first_child;
        }
        let mut at = node;
        while at != top {
            let state = self.look(at);
            if state.next_sibling.is_some() {
                return state.next_sibling;
            }
            at = state.parent?;
        }
        None
    }

    /// Calls `visit` for each node of the subtree of `top`, children before parents.
    pub(super) fn for_each_postorder(
        &mut self,
        top: NodePtr,
        mut visit: impl FnMut(&mut Self, NodePtr),
    ) {
        let mut at = self.leftmost(top);
        loop {
            let (sibling, parent) = (self.look(at).next_sibling, self.look(at).parent);
            visit(self, at);
            if at == top {
                return;
            }
            at = match (sibling, parent) {
                (Some(sibling), _) => self.leftmost(sibling),
                (None, Some(parent)) => parent,
                (None, None) => return,
            };
        }
    }

    fn leftmost(&self, from: NodePtr) -> NodePtr {
        let mut at = from;
        while let Some(child) = self.look(at).first_child {
            at = child;
        }
        at
    }

    /// Stops the subtree of `top` for an instant and notes in each node's `exact` what is
    /// allocated there. The caller thaws with [`thaw_subtree`](Self::thaw_subtree).
    pub(super) fn measure_subtree(&mut self, top: NodePtr) {
        self.recall_soft(top);
        let mut next = Some(top);
        while let Some(node) = next {
            self.freeze(node);
            next = self.next_preorder(node, top);
        }
        // allocated(n) = B(n) + Σ max(R(c), allocated(c)); the sum is collected in the parent.
        self.for_each_postorder(top, |locked, node| {
            let state = locked.state(node);
            state.exact = state.used() - state.lent;
        });
        self.for_each_postorder(top, |locked, node| {
            if node == top {
                return;
            }
            let counted = locked.look(node).exact.max(locked.look(node).reservation);
            if let Some(parent) = locked.look(node).parent {
                locked.state(parent).exact += counted;
            }
        });
    }

    /// Opens what `measure_subtree` stopped.
    pub(super) fn thaw_subtree(&mut self, top: NodePtr) {
        let mut next = Some(top);
        while let Some(node) = next {
            self.open_if_allowed(node);
            next = self.next_preorder(node, top);
        }
    }

    /// Exact allocated bytes; O(1) where there is nothing below or all below is exact already.
    pub(super) fn allocated(&mut self, node: NodePtr) -> usize {
        if self.look(node).tight {
            self.recall_soft(node);
            return self.look(node).used();
        }
        self.measure_subtree(node);
        let allocated = self.look(node).exact;
        self.thaw_subtree(node);
        allocated
    }

    /// Exact headroom, and whether the node or an ancestor is over its limit.
    pub(super) fn headroom(&mut self, node: NodePtr) -> (isize, bool) {
        let root = self.root_of(node);
        self.measure_subtree(root);
        // headroom(n) = min(L − allocated, headroom(parent) + max(0, R − allocated)), unrolled
        // from the leaf upwards: `covered` sums what the reservations of the levels below still cover.
        let (mut headroom, mut covered, mut over) = (i128::from(i64::MAX), 0_i128, false);
        let mut next = Some(node);
        while let Some(at) = next {
            let state = self.look(at);
            let (limit, allocated) = (state.bound() as i128, state.exact as i128);
            let free = limit - allocated;
            let withheld = self.withheld(at, Turn::TRY) as i128;
            headroom = headroom.min(free - withheld.min(free.max(0)) + covered);
            covered += (state.reservation as i128 - allocated).max(0);
            over |= allocated > limit;
            next = state.parent;
        }
        self.thaw_subtree(root);
        let bounded = headroom.clamp(-(MAX_SIZE as i128), MAX_SIZE as i128);
        (bounded as isize, over)
    }

    pub(super) fn root_of(&self, node: NodePtr) -> NodePtr {
        let mut at = node;
        while let Some(parent) = self.look(at).parent {
            at = parent;
        }
        at
    }
}
