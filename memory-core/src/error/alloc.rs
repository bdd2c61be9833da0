//! [`AllocError`]: why an allocation was refused.

use std::error::Error;
use std::fmt;
use std::io;

use super::veto::Veto;
use super::write_sources;
use arrow_memory_manager::ManagerError;

use crate::outcome::{AllocationOutcome, AllocatorInfo, Purpose};
use crate::text::{Bytes, Escaped, Size};

/// Why an allocation was refused. Nothing is charged after this error.
///
/// `{}` is one line. `{:#}` adds the state of each level that the request reached, one to a line, or the
/// backend's error. `{:?}` is the text of `{:#}`, and `{:#?}` shows the fields.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_core::AllocError;
///
/// let scan = root.new_child_allocator("scan", 0, 1000)?;
/// match scan.buffer(2000).unwrap_err() {
///     AllocError::OutOfMemory { requested, outcome, .. } => {
///         assert_eq!((requested, outcome.headroom()), (2000, 1000));
///         assert_eq!(outcome.failed_allocator(), scan.info());
///     }
///     other => panic!("{other}"),
/// }
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum AllocError {
    /// A *limit* left too little room. A retry may succeed once memory has been released.
    #[non_exhaustive]
    #[doc(alias("OutOfMemoryException", "ResourcesExhausted"))]
    OutOfMemory {
        /// The requested bytes, as the caller gave them.
        requested: usize,
        /// The purpose of the bytes.
        purpose: Box<Purpose>,
        /// The allocator that refused, and the state of each level up to there.
        outcome: Box<AllocationOutcome>,
    },
    /// The *environment's* fault: the backend had no block.
    #[non_exhaustive]
    Manager {
        /// The allocator of the request.
        allocator: AllocatorInfo,
        /// The backend's name.
        manager: String,
        /// The requested bytes, as the caller gave them.
        requested: usize,
        /// The purpose of the bytes.
        purpose: Box<Purpose>,
        /// The backend's error.
        source: ManagerError,
    },
    /// The allocator's listener refused the request.
    #[non_exhaustive]
    Vetoed {
        /// The allocator whose listener refused.
        allocator: AllocatorInfo,
        /// The requested bytes, as the caller gave them.
        requested: usize,
        /// The purpose of the bytes.
        purpose: Box<Purpose>,
        /// The listener's reason.
        veto: Veto,
    },
    /// The *caller's* fault: this allocator, or one whose memory it would need, is closed.
    #[non_exhaustive]
    Closed {
        /// The closed allocator.
        allocator: AllocatorInfo,
        /// The requested bytes, as the caller gave them.
        requested: usize,
        /// The purpose of the bytes.
        purpose: Box<Purpose>,
    },
    /// The *caller's* fault: the size, or a sum that includes it, is above `isize::MAX`.
    #[non_exhaustive]
    SizeOverflow {
        /// The allocator whose sum would overflow.
        allocator: AllocatorInfo,
        /// The requested bytes, as the caller gave them.
        requested: usize,
        /// The purpose of the bytes.
        purpose: Box<Purpose>,
    },
    /// The *caller's* fault: the alignment is not a power of two from 64 bytes to 2 MiB.
    InvalidAlignment {
        /// The requested alignment, in bytes.
        alignment: usize,
    },
}

/// Whether a refused request may be granted later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// No release of memory helps: the request is larger than the limit of an allocator that it reaches, that
    /// allocator is closed, or the request is wrong. What an allocator's reservation could cover does not reach
    /// the allocators above it.
    Never,
    /// It may be granted once memory was released, or a limit was raised:
    /// [`BufferAllocator::wait`](crate::BufferAllocator::wait) does that.
    WhenReleased,
}

impl AllocError {
    /// Returns the allocator that refused; `None` for [`InvalidAlignment`](Self::InvalidAlignment).
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let scan = root.child("scan").build()?;
    /// let refused = scan.buffer(2 << 20).unwrap_err();
    /// assert_eq!(refused.allocator(), Some(root.info())); // the limit is that of the root
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn allocator(&self) -> Option<&AllocatorInfo> {
        match self {
            Self::OutOfMemory { outcome, .. } => Some(outcome.failed_allocator()),
            Self::Manager { allocator, .. }
            | Self::Vetoed { allocator, .. }
            | Self::Closed { allocator, .. }
            | Self::SizeOverflow { allocator, .. } => Some(allocator),
            Self::InvalidAlignment { .. } => None,
        }
    }

    /// Returns whether memory was short: a limit left too little room, or the backend had no block. A
    /// smaller request may then succeed, or a retry after memory was released.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::new(1000);
    /// assert!(root.buffer(2000).unwrap_err().is_out_of_memory());
    /// assert!(!root.buffer_aligned(10, 3).unwrap_err().is_out_of_memory());
    /// ```
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. } | Self::Manager { .. })
    }

    /// Returns whether the same request may be granted later.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// use arrow_memory_core::Retry;
    ///
    /// let _held = root.buffer(1 << 19)?;
    /// let refused = root.buffer(1 << 20).unwrap_err();
    /// assert_eq!(refused.retry(), Retry::WhenReleased);
    /// let refused = root.buffer(2 << 20).unwrap_err();
    /// assert_eq!(refused.retry(), Retry::Never); // larger than the limit
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn retry(&self) -> Retry {
        let may_fit = match self {
            Self::OutOfMemory {
                purpose, outcome, ..
            } => {
                // A buffer that grows has its new capacity at once, whatever was charged for the old one.
                let too_large = match **purpose {
                    Purpose::Growth { to, .. } => {
                        outcome.entries.iter().any(|level| level.limit < to)
                    }
                    _ => false,
                };
                !outcome.never && !too_large
            }
            Self::Manager { .. } => true,
            Self::Vetoed { .. }
            | Self::Closed { .. }
            | Self::SizeOverflow { .. }
            | Self::InvalidAlignment { .. } => false,
        };
        if may_fit {
            Retry::WhenReleased
        } else {
            Retry::Never
        }
    }

    /// Returns the requested bytes, as the caller gave them; 0 if the error has none.
    #[cfg_attr(
        not(feature = "allocator-api2"),
        expect(dead_code, reason = "only collections report it")
    )]
    pub(crate) fn requested(&self) -> usize {
        match self {
            Self::OutOfMemory { requested, .. }
            | Self::Manager { requested, .. }
            | Self::Vetoed { requested, .. }
            | Self::Closed { requested, .. }
            | Self::SizeOverflow { requested, .. } => *requested,
            Self::InvalidAlignment { .. } => 0,
        }
    }

    /// Changes the request that the error describes to a buffer of `length` bytes that keeps a whole
    /// allocation of `allocation` bytes alive.
    ///
    /// This is for code that takes in a buffer from elsewhere, and charges the whole allocation behind
    /// it.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::new(1000);
    /// let refused = root.allocate_bytes(5000).unwrap_err();
    /// assert_eq!(
    ///     refused.for_buffer(24, 5000).to_string(),
    ///     "allocator `ROOT` is out of room: 5000 bytes requested for a slice of 24 bytes, which keeps \
    ///      an allocation of 5000 bytes alive, 1000 left of its limit of 1000"
    /// );
    /// ```
    #[must_use]
    pub fn for_buffer(self, length: usize, allocation: usize) -> Self {
        let (requested, purpose) = Purpose::of_buffer(length, allocation);
        self.for_request(requested, purpose)
    }

    /// Changes the request that the error describes: for code between the caller and an allocator, which
    /// asks for other numbers than it was given.
    pub(crate) fn for_request(mut self, bytes: usize, what: Purpose) -> Self {
        match &mut self {
            Self::OutOfMemory {
                requested, purpose, ..
            }
            | Self::Manager {
                requested, purpose, ..
            }
            | Self::Vetoed {
                requested, purpose, ..
            }
            | Self::Closed {
                requested, purpose, ..
            }
            | Self::SizeOverflow {
                requested, purpose, ..
            } => (*requested, **purpose) = (bytes, what),
            Self::InvalidAlignment { .. } => {}
        }
        self
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory {
                requested,
                purpose,
                outcome,
            } => write_out_of_memory(f, *requested, purpose, outcome),
            Self::Manager {
                allocator,
                manager,
                requested,
                purpose,
                source: _,
            } => {
                let (manager, requested) = (Escaped(manager), Bytes(*requested));
                write!(
                    f,
                    "backend `{manager}` could not serve {requested}{purpose} for allocator `{allocator}`"
                )?;
                write_sources(f, self)
            }
            Self::Vetoed {
                allocator,
                requested,
                purpose,
                veto,
            } => {
                let requested = Bytes(*requested);
                write!(
                    f,
                    "the listener of allocator `{allocator}` vetoed {requested}{purpose}: {veto}"
                )
            }
            Self::Closed {
                allocator,
                requested,
                purpose,
            } => {
                write!(f, "allocator `{allocator}` is closed: ")?;
                purpose.write_refused(f, *requested)
            }
            Self::SizeOverflow {
                allocator,
                requested,
                purpose,
            } => {
                let requested = Bytes(*requested);
                write!(
                    f,
                    "{requested} requested from allocator `{allocator}`{purpose} do not fit in a signed size"
                )
            }
            Self::InvalidAlignment { alignment } => write!(
                f,
                "alignment {alignment} is not a power of two from 64 to 2097152"
            ),
        }
    }
}

fn write_out_of_memory(
    f: &mut fmt::Formatter<'_>,
    requested: usize,
    purpose: &Purpose,
    outcome: &AllocationOutcome,
) -> fmt::Result {
    let (requested, left) = (Bytes(requested), Size(outcome.headroom()));
    let (at, limit) = (outcome.failed_allocator(), Size(outcome.refuser().limit));
    write!(
        f,
        "allocator `{at}` is out of room: {requested} requested{purpose}, {left} left of its limit of \
         {limit}"
    )?;
    let withheld = outcome.refuser().withheld;
    if withheld > 0 {
        write!(
            f,
            ", {} withheld for requests that wait or spill",
            Size(withheld)
        )?;
    }
    if f.alternate() {
        write!(f, "\n{outcome}")?;
    }
    Ok(())
}

impl Error for AllocError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Manager { source, .. } => Some(source),
            _ => None,
        }
    }
}

crate::__debug_as_display!(enum AllocError {
    OutOfMemory { requested, purpose, outcome },
    Manager { allocator, manager, requested, purpose, source },
    Vetoed { allocator, requested, purpose, veto },
    Closed { allocator, requested, purpose },
    SizeOverflow { allocator, requested, purpose },
    InvalidAlignment { alignment },
});

impl From<AllocError> for io::Error {
    fn from(error: AllocError) -> Self {
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }
}
