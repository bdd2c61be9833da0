//! The equations of the model.

use super::{Allocated, MAX, Model, Turn};
use crate::operation::{Key, Refusal};

/// A charge, or one that moves, as the allocated bytes of all nodes.
#[derive(Clone, Debug)]
pub(super) struct Charging {
    /// The allocator that is charged.
    pub(super) to: Key,
    pub(super) before: Allocated,
    /// The source is not charged any more, and the target is not charged yet.
    pub(super) without: Allocated,
    pub(super) with: Allocated,
}

impl Charging {
    /// A charge of an allocator that moves nothing.
    pub(super) fn new(to: Key, without: Allocated, with: Allocated) -> Self {
        Self {
            to,
            before: without.clone(),
            without,
            with,
        }
    }
}

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
        for it in self.waits.values().filter(|it| it.is_granted()) {
            *allocated.get_mut(&it.node).expect("the payer lives") += it.bytes;
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
        let free = node.bound() - allocated[&allocator];
        let own = free - self.withheld(allocator, Turn::TRY).min(free.max(0));
        match node.parent {
            None => own.min(MAX - allocated[&allocator] - self.beside),
            Some(parent) => {
                let reserved = (node.reservation - allocated[&allocator]).max(0);
                own.min(self.headroom(parent, allocated) + reserved)
            }
        }
    }

    pub(super) fn over(&self, allocator: Key, allocated: &Allocated) -> bool {
        let over = |key: &Key| allocated[key] > self.node(*key).bound();
        self.path(allocator).iter().any(over)
    }

    /// Whether no level that the charge reaches is over its limit.
    pub(super) fn fitted(&self, allocator: Key, without: &Allocated, with: &Allocated) -> bool {
        let over = |key: &Key| with[key] > without[key] && with[key] > self.node(*key).bound();
        !self.path(allocator).iter().any(over)
    }

    /// Returns the refusal of the lowest level that the charge reaches, and that is closed, or has no room for it
    /// besides what is withheld. Where a charge moves and adds nothing, nothing is withheld from it.
    pub(super) fn check_charge(&self, charging: &Charging, turn: Turn) -> Result<(), Refusal> {
        let Charging {
            before,
            without,
            with,
            ..
        } = charging;
        for key in self.path(charging.to) {
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
            let withheld = if with[&key] > before[&key] {
                self.withheld(key, turn)
            } else {
                0
            };
            if with[&key] + withheld > node.bound() {
                return Err(Refusal::Limit(key));
            }
        }
        Ok(())
    }
}
