//! Children: a node that is charged to its parent, and linked below it.

use super::handle::Handle;
use super::node::{Node, NodeConfig, NodePtr};
use super::reclaimer::AllShares;
use super::refusal::Refusal;
use crate::outcome::AllocatorInfo;
use crate::sampling;
use crate::sync::current::Unscoped;

impl Handle {
    /// A child of this node. If it was `admitted`, its reservation is charged to this node already. After a refusal
    /// `ask` may have others make room, and try again.
    ///
    /// # Errors
    ///
    /// The refusal, with the child's identity, if the reservation does not fit (in the child's own
    /// limit to begin with) or this node is closed.
    pub(crate) fn new_child(
        &self,
        config: NodeConfig,
        admitted: bool,
        ask: impl FnOnce(
            Box<Refusal>,
            &dyn Fn() -> Result<(), Box<Refusal>>,
        ) -> Result<(), Box<Refusal>>,
    ) -> Result<Self, (Box<Refusal>, AllocatorInfo)> {
        let (limit, reservation) = (config.limit, config.reservation);
        // The path stays as long as the tree, and the node as long as its bytes: no scope should pay for them.
        let unscoped = Unscoped::new();
        let label = config.group.as_ref().unwrap_or(&config.name);
        let path = self.tree.paths().child(&self.path, label);
        let child = Node::boxed(config, self.tree.clone(), self.depth + 1, path);
        drop(unscoped);
        let info = child.info.clone();
        if let Some(refusal) = Refusal::of_reservation(&info, limit, reservation) {
            return Err((Box::new(refusal), info));
        }
        let child = NodePtr::leak(child);
        let adopt = || {
            let adopted = self.tree.lock().adopt(self.0, child, admitted);
            // Boxed with the mutex released.
            adopted.map_err(Box::new)
        };
        let adopted = match adopt() {
            Ok(()) => Ok(()),
            Err(refusal) => ask(refusal, &adopt),
        };
        // The handle that the node was made with; dropped below if it was not adopted.
        let child = Self(child);
        match adopted {
            Ok(()) => {
                sampling::adopt(&child);
                Ok(child)
            }
            Err(refusal) => Err((refusal, info)),
        }
    }

    /// A child of this root for a share of the spill reserve.
    pub(crate) fn new_share(&self, config: NodeConfig) -> Result<Self, AllShares> {
        let share = config.reservation;
        let unscoped = Unscoped::new();
        let path = self.tree.paths().child(&self.path, &config.name);
        let child = NodePtr::leak(Node::boxed(config, self.tree.clone(), self.depth + 1, path));
        drop(unscoped);
        let mut locked = self.tree.lock();
        let charged = locked.charge_share(self.0, share);
        let adopted = charged.and_then(|()| {
            let adopted = locked.adopt(self.0, child, true);
            adopted.map_err(|_| {
                locked.return_share(child, self.0);
                locked.release(self.0, share);
                AllShares
            })
        });
        drop(locked);
        let child = Self(child); // dropped if it was not adopted
        adopted.map(|()| child)
    }
}
