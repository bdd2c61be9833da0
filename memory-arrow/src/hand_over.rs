//! [`HandOver`]: the two allocators of a hand-over, and how it treats limits and memory of others.

use std::fmt;
use std::ptr::NonNull;

use arrow_memory_core::BufferAllocator;

use crate::kept::Kept;
use crate::shares::Shares;

/// A hand-over from one allocator to another, such as from the operator that produced a batch to the one that
/// holds it next. See `Accounted::hand_over`.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_arrow::deps::arrow_array::Int64Array;
/// use arrow_memory_arrow::{Accounted, HandOver};
/// use arrow_memory_core::RootAllocator;
///
/// let root = RootAllocator::new(1 << 20);
/// let (scan, small) = (root.child("scan").build()?, root.child("small").limit(100).build()?);
/// let batch = Int64Array::from(vec![7; 100]).adopt(&scan)?;
///
/// let refused = batch.hand_over(&HandOver::new(&scan, &small)).unwrap_err();
/// let moved = refused.value.hand_over(&HandOver::new(&scan, &small).forced())?;
/// assert!(!moved.allocation_fit && small.is_over_limit());
/// assert_eq!((scan.allocated_memory(), small.allocated_memory()), (0, 800));
/// # drop(moved);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct HandOver<'a> {
    pub(crate) from: &'a BufferAllocator,
    pub(crate) to: &'a BufferAllocator,
    pub(crate) forced: bool,
    pub(crate) except: Option<&'a dyn Fn(NonNull<u8>) -> bool>,
    pub(crate) kept: Option<&'a Kept>,
    pub(crate) shares: Option<&'a Shares>,
}

impl<'a> HandOver<'a> {
    /// Creates a hand-over from `from` to `to`, which is refused where a value does not fit.
    pub fn new(from: &'a BufferAllocator, to: &'a BufferAllocator) -> Self {
        Self {
            from,
            to,
            forced: false,
            except: None,
            kept: None,
            shares: None,
        }
    }

    /// Hands values over whatever the limits say. What is charged to the receiver then counts as
    /// [forced](arrow_memory_core::AllocatorStats::forced_bytes).
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.forced = true;
        self
    }

    /// Leaves the memory alone for which `except` returns `true`: it is neither adopted nor moved nor shared, and
    /// its buffers are in the result as they were. This is for memory that the program accounts for in another
    /// way, such as the batches of a table that is cached outside of the tree.
    ///
    /// `except` gets the address where an allocation starts: what arrow's `Buffer::data_ptr` returns, for all
    /// slices of a buffer alike. It is called once or twice for each allocation, with no lock held.
    #[must_use]
    pub fn except(mut self, except: &'a dyn Fn(NonNull<u8>) -> bool) -> Self {
        self.except = Some(except);
        self
    }

    /// Goes on to charge the giver for adopted memory that it still has a buffer on when the receiver has none any
    /// more. See [`Kept`] for how long that lasts, and what it asks of the giver.
    ///
    /// Without this, such memory is charged to nobody from then on until the giver hands over another buffer on it.
    ///
    /// A hand-over takes longer by the tree's lock, taken once, for each allocation that the giver still has. For every
    /// other one it looks at a count.
    #[must_use]
    pub fn kept(mut self, kept: &'a Kept) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Leaves the charge of memory that somebody has a buffer on besides the value where it is, and notes in `shares` what
    /// the receiver shares. See [`Shares`] for how long that lasts. Sharing is never refused for a limit, nor is what the
    /// receiver is charged for once the giver has let go: that counts as
    /// [forced](arrow_memory_core::AllocatorStats::forced_bytes).
    #[must_use]
    pub fn shares(mut self, shares: &'a Shares) -> Self {
        self.shares = Some(shares);
        self
    }
}

impl fmt::Debug for HandOver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver")
            .field("from", self.from)
            .field("to", self.to)
            .field("forced", &self.forced)
            .finish_non_exhaustive()
    }
}
