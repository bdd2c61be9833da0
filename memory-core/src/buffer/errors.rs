//! The errors of an allocation.

use arrow_memory_manager::ManagerError;

use crate::accounting::Node;
use crate::error::{AllocError, Veto};
use crate::events::leave;
use crate::outcome::Purpose;

/// The error of a veto, after which the listener is not told of the allocation.
#[cold]
#[inline(never)]
pub(super) fn boxed_veto(
    node: &Node,
    asked: usize,
    capacity: usize,
    veto: Veto,
) -> Box<AllocError> {
    leave();
    let request = (asked, Purpose::rounded(asked, capacity));
    Box::new(vetoed(node, request, veto))
}

#[cold]
pub(super) fn vetoed(
    node: &Node,
    (requested, purpose): (usize, Purpose),
    veto: Veto,
) -> AllocError {
    AllocError::Vetoed {
        allocator: node.info.clone(),
        requested,
        purpose: Box::new(purpose),
        veto,
    }
}

#[cold]
pub(crate) fn manager_failed(
    node: &Node,
    requested: usize,
    purpose: Purpose,
    source: ManagerError,
) -> AllocError {
    let manager = node.manager().name().to_owned();
    AllocError::Manager {
        allocator: node.info.clone(),
        manager,
        requested,
        purpose: Box::new(purpose),
        source,
    }
}

#[cold]
pub(crate) fn overflow(node: &Node, requested: usize) -> AllocError {
    AllocError::SizeOverflow {
        allocator: node.info.clone(),
        requested,
        purpose: Box::new(Purpose::Bytes),
    }
}

#[cold]
pub(crate) fn closed(node: &Node, requested: usize, purpose: Purpose) -> AllocError {
    AllocError::Closed {
        allocator: node.info.clone(),
        requested,
        purpose: Box::new(purpose),
    }
}
