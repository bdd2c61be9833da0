//! Why a request that waited was not granted.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::accounting::Age;
use crate::error::{AllocError, Retry};
use crate::outcome::AllocatorInfo;
use crate::text::Bytes;

/// Why a request that may wait was not granted. Nothing is charged after this error.
///
/// `{}` is one line, `{:#}` adds the state of each level that the request reached, and `{:?}` is the text of
/// `{:#}`.
#[non_exhaustive]
pub enum WaitError {
    /// The request can never be granted, was vetoed, or the backend had no block; or this waiter is the only one
    /// that could release anything, was told to give way, and still does not fit.
    Refused(AllocError),
    /// The deadline passed.
    TimedOut(Waited),
    /// Waiters that hold memory wait for one another, and this one is to release what it can. See [`GiveWay`].
    GiveWay(GiveWay),
}

/// A wait that ended at its deadline.
#[derive(Clone)]
#[non_exhaustive]
pub struct Waited {
    /// How long the request waited, since its first attempt.
    pub waited: Duration,
    /// Why it was refused in the end.
    pub error: AllocError,
}

/// Tells a waiter to release what it can and to ask again.
///
/// Two queries that hold memory and wait for more may wait for each other. Once a waiter has not come nearer to
/// being granted for the tree's [patience](crate::RootAllocatorBuilder::patience), the youngest waiter whose
/// branch holds memory gets this: its branch is the child, of the allocator that lacks room, in which it waits.
/// It should release what it can (spill, drop a cache), and wait again with [`Wait::after`](crate::Wait::after):
/// then it keeps its age, and its place before those that came later. It is told once between two grants in
/// the tree. A request whose branch holds nothing is never told.
///
/// Dropping this value gives the age up.
#[must_use = "pass it to `Wait::after`, so that the next attempt keeps its age"]
pub struct GiveWay {
    pub(super) age: Age,
    pub(super) allocator: AllocatorInfo,
    pub(super) requested: usize,
    pub(super) waited: Duration,
}

impl GiveWay {
    /// Returns the allocator of the request.
    pub fn allocator(&self) -> &AllocatorInfo {
        &self.allocator
    }

    /// Returns the requested bytes, as the caller gave them.
    pub fn requested(&self) -> usize {
        self.requested
    }

    /// Returns how long the request waited, since its first attempt.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl WaitError {
    /// Returns whether the same request may be granted later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(error) => error.retry(),
            Self::TimedOut(_) | Self::GiveWay(_) => Retry::WhenReleased,
        }
    }

    /// Returns the refusal behind the error; `None` for [`GiveWay`](Self::GiveWay).
    pub fn refusal(&self) -> Option<&AllocError> {
        match self {
            Self::Refused(error) | Self::TimedOut(Waited { error, .. }) => Some(error),
            Self::GiveWay(_) => None,
        }
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => fmt::Display::fmt(error, f),
            Self::TimedOut(waited) => fmt::Display::fmt(waited, f),
            Self::GiveWay(give_way) => fmt::Display::fmt(give_way, f),
        }
    }
}

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gave up after waiting {:.1?}: ", self.waited)?;
        fmt::Display::fmt(&self.error, f)
    }
}

impl fmt::Display for GiveWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (allocator, requested) = (&self.allocator, Bytes(self.requested));
        write!(
            f,
            "{requested} requested from allocator `{allocator}` did not become free in {:.1?}: requests that \
             hold memory wait for one another; release some and wait again",
            self.waited
        )
    }
}

impl fmt::Debug for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")
    }
}

impl fmt::Debug for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")
    }
}

impl fmt::Debug for GiveWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")
    }
}

impl Error for WaitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.refusal().and_then(Error::source)
    }
}

impl From<AllocError> for WaitError {
    fn from(error: AllocError) -> Self {
        Self::Refused(error)
    }
}

impl From<WaitError> for io::Error {
    fn from(error: WaitError) -> Self {
        let kind = match &error {
            WaitError::TimedOut(_) => io::ErrorKind::TimedOut,
            WaitError::Refused(_) | WaitError::GiveWay(_) => io::ErrorKind::OutOfMemory,
        };
        io::Error::new(kind, error)
    }
}
