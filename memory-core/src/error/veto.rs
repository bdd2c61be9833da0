//! [`Veto`]: the refusal of a listener.

use std::error::Error;
use std::fmt;

/// A listener's refusal of a request, with its reason.
///
/// ```
/// # use arrow_memory_system as _;
/// use std::sync::Arc;
///
/// use arrow_memory_core::{AllocError, AllocationListener, AllocatorInfo, RootAllocator, Veto};
///
/// struct AtMost(usize);
///
/// impl AllocationListener for AtMost {
///     fn on_pre_allocation(&self, _at: &AllocatorInfo, size: usize) -> Result<(), Veto> {
///         if size <= self.0 { Ok(()) } else { Err(Veto::new("too much at once")) }
///     }
/// }
///
/// let root = RootAllocator::builder().listener(Arc::new(AtMost(1024))).build()?;
/// assert!(matches!(root.buffer(2000), Err(AllocError::Vetoed { .. })));
/// # Ok::<(), arrow_memory_core::BackendError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Veto {
    reason: String,
}

impl Veto {
    /// Creates a refusal. The reason starts in lower case and ends without a full stop.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Veto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for Veto {}

crate::__debug_as_display!(struct Veto { reason });
