//! [`WeakBufferAllocator`]: a handle that keeps nothing alive.

use std::fmt;
use std::sync::Weak;

use super::BufferAllocator;
use crate::accounting::{Handle, Node};

/// A weak handle: it does not keep its allocator alive.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let scan = root.child("scan").build()?;
/// let weak = scan.downgrade();
/// assert_eq!(weak.upgrade(), Some(scan.clone()));
/// drop(scan);
/// assert_eq!(weak.upgrade(), None);
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone)]
pub struct WeakBufferAllocator {
    node: Weak<Node>,
}

impl WeakBufferAllocator {
    pub(super) fn of(handle: &Handle) -> Self {
        Self {
            node: handle.downgrade(),
        }
    }

    /// Returns the allocator, unless it has left its tree and has no other handle.
    pub fn upgrade(&self) -> Option<BufferAllocator> {
        Handle::upgrade(&self.node).map(BufferAllocator::from_handle)
    }

    /// Whether both are of the same node.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.node.ptr_eq(&other.node)
    }
}

impl fmt::Debug for WeakBufferAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakBufferAllocator")
    }
}
