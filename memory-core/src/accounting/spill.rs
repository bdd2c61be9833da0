//! The spill reserve of a tree: bytes of the root's limit that are set aside, in shares, for those whose memory is
//! asked for and who need memory to give it.

use std::sync::Arc;

use super::charge::Mode;
use super::handle::Handle;
use super::node::{Locked, NodeConfig, NodeKind, NodePtr};
use super::queue::Spiller;
use super::reclaimer::AllShares;
use crate::sync::current::unscoped;

impl Handle {
    /// Sets bytes aside for spilling: those whose memory is asked for get shares of them. For a root, at its creation.
    pub(crate) fn set_spill_reserve(&self, bytes: usize) {
        let mut locked = self.tree.lock();
        let state = locked.state(self.ptr());
        state.reserve = bytes;
        state.set_aside(bytes);
    }

    /// A share of the tree's spill reserve: a child of the root with that reservation, and no more. `Ok(None)`: the
    /// tree has no reserve, or is closed; an error: all shares are taken.
    pub(crate) fn take_spill_share(&self) -> Result<Option<Self>, AllShares> {
        let root = self.root();
        let locked = root.tree.lock();
        let state = locked.look(root.ptr());
        // A root that is closed has no children any more, and so no shares.
        let share = if state.closed {
            0
        } else {
            state.reserve / SHARES
        };
        drop(locked);
        if share == 0 {
            return Ok(None);
        }
        let config = NodeConfig {
            kind: NodeKind::Allocator,
            name: Arc::from("(spill)"),
            group: None,
            limit: share,
            reservation: share,
            priority: 0,
            in_reserve: true,
            listener: None,
            policy: None,
        };
        root.new_share(config).map(Some)
    }

    /// Has a spiller woken once a share is free. It looks whether one is free after it was listed: a share that is
    /// returned before that wakes nobody. False if it is listed already.
    pub(crate) fn list_spiller(&self, spiller: &Arc<dyn Spiller>) -> bool {
        let mut spare = Vec::new();
        loop {
            let mut locked = self.tree.lock();
            let listed = locked.queue_mut().add_spiller(spiller, &mut spare);
            drop(locked);
            match listed {
                Ok(new) => return new,
                Err(capacity) => spare = unscoped(|| Vec::with_capacity(capacity)),
            }
        }
    }

    /// Does not have the spiller woken any more, if it is listed.
    pub(crate) fn unlist_spiller(&self, spiller: &Arc<dyn Spiller>) {
        let mut locked = self.tree.lock();
        let gone = locked.queue_mut().remove_spiller(spiller);
        drop(locked);
        drop(gone);
    }

    /// Whether this node belongs to the spill reserve of its tree: its requests neither ask nor wait.
    pub(crate) fn is_in_reserve(&self) -> bool {
        self.in_reserve
    }
}

impl Locked<'_> {
    /// Whether a node is a share of the spill reserve. Its reservation does not change.
    pub(super) fn is_share(&self, node: NodePtr) -> bool {
        let parent = self.look(node).parent;
        self.node(node).in_reserve && parent.is_some_and(|parent| !self.node(parent).in_reserve)
    }

    /// Takes a share off what is set aside, and charges it to the root for a child that is not linked yet.
    pub(super) fn charge_share(&mut self, root: NodePtr, bytes: usize) -> Result<(), AllShares> {
        let state = self.state(root);
        let left = state.set_aside.checked_sub(bytes).ok_or(AllShares)?;
        state.set_aside(left);
        // The room was kept free for it, unless forced bytes have taken it.
        let charged = self.charge_exactly(root, bytes, Mode::Forced, &[]);
        charged.map(drop).map_err(|refused| {
            self.end(root, refused);
            let state = self.state(root);
            state.set_aside(left + bytes);
            AllShares
        })
    }

    /// Sets a share aside again whose child has left the tree. What it returns to the root is counted by the caller.
    #[cold]
    pub(super) fn return_share(&mut self, child: NodePtr, root: NodePtr) {
        let share = self.node(child).init_reservation;
        let state = self.state(root);
        let left = state.set_aside + share;
        state.set_aside(left);
        // The end of the section wakes them.
        self.waits |= self.queue_mut().share_is_free();
    }
}

/// The parts of a spill reserve.
const SHARES: usize = 4;
