//! The error of a backend that cannot be used: [`BackendError`].

use std::error::Error;
use std::fmt;

use super::write_sources;
use crate::manager::ManagerError;
use crate::text::Escaped;

/// Why a backend cannot be used.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{BackendError, RootAllocator};
///
/// let error = RootAllocator::builder().backend("tcmalloc").build().unwrap_err();
/// assert!(matches!(error, BackendError::Unknown { .. }));
/// assert!(error.to_string().contains("linked are: system"));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum BackendError {
    /// The *caller's* fault: the program links no backend that could be the default.
    NoneLinked,
    /// The *caller's* fault: no backend of this name is linked.
    Unknown {
        /// The name asked for.
        name: String,
        /// The names of the linked backends, preferred first.
        supported: Vec<&'static str>,
    },
    /// The *caller's* fault: the default was set, or used, before.
    AlreadyChosen {
        /// The name of the default in force.
        current: String,
    },
    /// The *environment's*: the backend could not be started.
    Failed {
        /// The backend's name.
        name: &'static str,
        /// The backend's error.
        source: ManagerError,
    },
}

impl BackendError {
    /// Whether a backend did not start because it found no memory.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.is_out_of_memory())
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneLinked => f.write_str(
                "no memory backend is linked: depend on arrow-memory-system, \
                 arrow-memory-jemalloc or arrow-memory-mimalloc and add \
                 `use arrow_memory_system as _;` (or the like), enable such a feature of \
                 arrow-memory, or pass an allocation manager to the root's builder",
            ),
            Self::Unknown { name, supported } => {
                let (name, supported) = (Escaped(name), supported.join(", "));
                write!(
                    f,
                    "no memory backend is called `{name}`; linked are: {supported}"
                )
            }
            Self::AlreadyChosen { current } => write!(
                f,
                "the default memory backend is `{}` already; set it once, before its first use",
                Escaped(current)
            ),
            Self::Failed { name, .. } => {
                write!(f, "memory backend `{}` did not start", Escaped(name))?;
                write_sources(f, self)
            }
        }
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { source, .. } => Some(source),
            _ => None,
        }
    }
}

crate::__debug_as_display!(enum BackendError {
    NoneLinked,
    Unknown { name, supported },
    AlreadyChosen { current },
    Failed { name, source },
});
