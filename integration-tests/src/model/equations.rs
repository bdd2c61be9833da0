//! The equations of the model.

use super::{Allocated, MAX, Model};
use crate::operation::{Key, Refusal};

impl Model {
    /// The first equation for every node. A child's key is above its parent's, so the loop visits children
    /// before their parents.
    pub(super) fn allocated_by_node(&self) -> Allocated {
        let mut allocated = Allocated::new();
        for (&key, node) in &self.nodes {
            allocated.insert(key, node.external + node.forced);
        }
        for block in self.blocks.values() {
            *allocated.get_mut(&block.owner).expect("the owner lives") += block.size;
        }
        for it in self.reservations.values() {
            *allocated.get_mut(&it.allocator).expect("the payer lives") += it.bytes;
        }
        for (&key, node) in self.nodes.iter().rev() {
            if let Some(parent) = node.parent {
                assert!(parent < key, "a child's key is above its parent's");
                let charge = allocated[&key].max(node.reservation);
                *allocated.get_mut(&parent).expect("the parent lives") += charge;
            }
        }
        allocated
    }

    pub(super) fn headroom(&self, allocator: Key, allocated: &Allocated) -> i128 {
        let node = self.node(allocator);
        let own = node.limit - allocated[&allocator];
        match node.parent {
            None => own.min(MAX - allocated[&allocator] - self.beside),
            Some(parent) => {
                let reserved = (node.reservation - allocated[&allocator]).max(0);
                own.min(self.headroom(parent, allocated) + reserved)
            }
        }
    }

    pub(super) fn over(&self, allocator: Key, allocated: &Allocated) -> bool {
        let over = |key: &Key| allocated[key] > self.node(*key).limit;
        self.path(allocator).iter().any(over)
    }

    /// Whether no level that the charge reaches is over its limit.
    pub(super) fn fitted(&self, allocator: Key, without: &Allocated, with: &Allocated) -> bool {
        let over = |key: &Key| with[key] > without[key] && with[key] > self.node(*key).limit;
        !self.path(allocator).iter().any(over)
    }

    /// Returns the refusal of the lowest level that the charge reaches and that is closed or over its limit.
    pub(super) fn check_charge(
        &self,
        allocator: Key,
        without: &Allocated,
        with: &Allocated,
    ) -> Result<(), Refusal> {
        for key in self.path(allocator) {
            if with[&key] <= without[&key] {
                continue;
            }
            let node = self.node(key);
            if node.closed {
                return Err(Refusal::Closed(key));
            }
            if with[&key] > MAX {
                return Err(Refusal::Overflow(key));
            }
            if with[&key] > node.limit {
                return Err(Refusal::Limit(key));
            }
        }
        Ok(())
    }
}
