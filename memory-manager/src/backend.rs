//! The backends linked into this program, and which of them is the default.
//!
//! Depending on a backend crate is choosing it: the crate registers itself at link time, and
//! `use arrow_memory_system as _;` is enough to link it. The default is decided when it is first
//! asked for, by the first of these that names one:
//!
//! 1. the environment variable [`ARROW_DEFAULT_MEMORY_POOL`](DEFAULT_POOL_VARIABLE), which is read
//!    once, in any case of letters. Empty is unset; a name that is not linked is answered with one
//!    warning that lists the supported names (by `tracing`, and on standard error if there is no
//!    subscriber), and passed over;
//! 2. [`set_default`], for the program, so that no transitive dependency decides for it;
//! 3. the highest [`preference`](BackendRegistration::preference): jemalloc, mimalloc, system.
//!
//! # Registering a backend
//!
//! A crate names its manager once, in a static next to it. It needs no dependency but this crate:
//!
//! ```
//! use std::sync::Arc;
//!
//! use arrow_memory_manager::backend::{self, BackendRegistration};
//! use arrow_memory_manager::{AllocationManager, ManagerError};
//! # use arrow_memory_manager::testing::StdManager as MyManager;
//!
//! fn start() -> Result<Arc<dyn AllocationManager>, ManagerError> {
//!     Ok(Arc::new(MyManager::default()))
//! }
//!
//! arrow_memory_manager::register_backend!(BackendRegistration {
//!     name: "mine",
//!     preference: 0, // only by name
//!     manager: start,
//! });
//!
//! assert!(backend::supported().contains(&"mine"));
//! assert!(backend::manager("mine").is_ok());
//! ```
//!
//! Link-time registration works on Linux, macOS, Windows, Android, iOS, FreeBSD and illumos.
//! Elsewhere (and in a static library whose linker drops functions without callers) the program calls
//! [`register`] before it builds its first root.

mod backends;
mod registration;
// The only list of targets in the code; `Cargo.toml` has the same for linkme.
#[cfg_attr(
    all(
        not(miri),
        any(
            target_os = "linux",
            target_os = "macos",
            target_os = "windows",
            target_os = "android",
            target_os = "ios",
            target_os = "freebsd",
            target_os = "illumos"
        )
    ),
    path = "backend/table/linked.rs"
)]
pub(crate) mod table;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::Arc;

use self::backends::{Backends, environment};
use crate::error::BackendError;
use crate::manager::AllocationManager;

pub use self::backends::DEFAULT_POOL_VARIABLE;
pub use self::registration::BackendRegistration;

/// The names of the backends in this program, the preferred first.
///
/// ```
/// use arrow_memory_system as _;
///
/// assert!(arrow_memory_manager::backend::supported().contains(&"system"));
/// ```
#[doc(alias = "SupportedMemoryBackendNames")]
pub fn supported() -> Vec<&'static str> {
    BACKENDS.supported()
}

/// The manager of the backend called `name`: the same one each time.
///
/// # Errors
///
/// * [`BackendError::NoneLinked`] if there is no backend at all.
/// * [`BackendError::Unknown`] if none has this name.
/// * [`BackendError::Failed`] if it could not be started; the next call tries again.
///
/// ```
/// use arrow_memory_manager::{BackendError, backend};
/// # use arrow_memory_system as _;
///
/// assert_eq!(backend::manager("system")?.name(), "system");
/// let error = backend::manager("tcmalloc").unwrap_err();
/// assert!(matches!(error, BackendError::Unknown { .. }));
/// # Ok::<(), BackendError>(())
/// ```
#[doc(alias("system_memory_pool", "jemalloc_memory_pool", "mimalloc_memory_pool"))]
pub fn manager(name: &str) -> Result<Arc<dyn AllocationManager>, BackendError> {
    BACKENDS.manager(name)
}

/// The manager that roots use unless they are given one: see the [module's documentation](self).
///
/// The first success settles the choice for the life of the process.
///
/// # Errors
///
/// * [`BackendError::NoneLinked`] if no backend could be the default.
/// * [`BackendError::Failed`] if the one chosen could not be started; the next call tries again.
///
/// ```
/// use arrow_memory_manager::backend;
/// # use arrow_memory_system as _;
///
/// assert_eq!(backend::default_manager()?.name(), "system");
/// # Ok::<(), arrow_memory_manager::BackendError>(())
/// ```
#[doc(alias("default_memory_pool", "DefaultAllocationManagerOption"))]
pub fn default_manager() -> Result<Arc<dyn AllocationManager>, BackendError> {
    BACKENDS.default_manager()
}

/// The manager that [`default_manager`] would be if there were no backend called `name`.
///
/// For backends that take their blocks from another backend, like an arena, and may be the default themselves.
///
/// # Errors
///
/// * [`BackendError::NoneLinked`] if no other backend could be the default.
/// * [`BackendError::Failed`] if the one chosen could not be started; the next call tries again.
///
/// ```
/// use arrow_memory_manager::{BackendError, backend};
/// # use arrow_memory_system as _;
///
/// // An arena that is the default itself takes its chunks from what would be it otherwise.
/// assert_eq!(backend::default_manager_besides("arena")?.name(), "system");
/// # Ok::<(), BackendError>(())
/// ```
pub fn default_manager_besides(name: &str) -> Result<Arc<dyn AllocationManager>, BackendError> {
    BACKENDS.default_manager_besides(name)
}

/// Makes the backend called `name` the default, unless `ARROW_DEFAULT_MEMORY_POOL` names one.
///
/// # Errors
///
/// * [`BackendError::NoneLinked`] or [`BackendError::Unknown`] if there is no such backend.
/// * [`BackendError::AlreadyChosen`] if a default was set before, or is already in use.
///
/// ```
/// use arrow_memory_core::{BackendError, RootAllocator, backend};
/// # use arrow_memory_system as _;
///
/// if let Err(error) = backend::set_default("system") {
///     assert!(matches!(error, BackendError::AlreadyChosen { .. })); // by other code of the program
/// }
/// assert_eq!(RootAllocator::new(1000).allocation_manager().name(), "system");
/// ```
pub fn set_default(name: &str) -> Result<(), BackendError> {
    BACKENDS.set_default(name)
}

/// Adds a backend by hand, as [`register_backend!`](crate::register_backend) does at link time.
///
/// A name that is registered already keeps its first registration; those of link time are first.
///
/// ```
/// use std::sync::Arc;
///
/// use arrow_memory_manager::backend::{self, BackendRegistration};
/// # use arrow_memory_manager::testing::StdManager as MyManager;
///
/// static MINE: BackendRegistration = BackendRegistration {
///     name: "by-hand",
///     preference: 0,
///     manager: || Ok(Arc::new(MyManager::default())),
/// };
///
/// backend::register(&MINE);
/// assert!(backend::manager("by-hand").is_ok());
/// ```
pub fn register(registration: &'static BackendRegistration) {
    BACKENDS.register(registration);
}

/// The backends of this process.
static BACKENDS: Backends = Backends::new(table::linked, environment);
