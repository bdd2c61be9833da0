//! The backends linked into this program, and which of them is the default.
//!
//! Depending on a backend crate is choosing it: the crate registers itself at link time, and
//! `use arrow_memory_system as _;` is enough to link it. The default is decided when it is first
//! asked for, by the first of these that says something:
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
//! Elsewhere (and in a static library whose linker drops what nobody calls) the program calls
//! [`register`] before it builds its first root.
// Longer than most files: the functions of the module come with examples.
#![expect(
    unsafe_code,
    reason = "the link-time table is a section of the binary, which linkme declares"
)]

use std::cmp::Reverse;
use std::env;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::BackendError;
use crate::events;
use crate::manager::{AllocationManager, ManagerError};
use crate::sync::ProcessLock;
use crate::sync::plain::{copy_out, push};
use crate::sync::process::Order;
use crate::text::Escaped;

/// The environment variable that names the default backend.
///
/// ```
/// use arrow_memory_manager::backend;
/// # use arrow_memory_system as _;
/// if let Ok(name) = std::env::var(backend::DEFAULT_POOL_VARIABLE) {
///     println!("`{name}` was asked for, of {:?}", backend::supported());
/// }
/// ```
pub const DEFAULT_POOL_VARIABLE: &str = "ARROW_DEFAULT_MEMORY_POOL";

/// How a backend makes itself known: see the [module's documentation](self).
///
/// ```
/// use std::sync::Arc;
/// use arrow_memory_manager::backend::{self, BackendRegistration};
/// use arrow_memory_system::SystemManager;
///
/// static HOUSE: BackendRegistration = BackendRegistration {
///     name: "house",
///     preference: 0, // by name only
///     manager: || Ok(Arc::new(SystemManager::new())),
/// };
/// backend::register(&HOUSE);
/// assert!(backend::supported().contains(&"house"));
/// ```
#[derive(Clone, Copy)]
pub struct BackendRegistration {
    /// What the backend is called in `ARROW_DEFAULT_MEMORY_POOL` and by its manager.
    pub name: &'static str,
    /// The highest becomes the default if nobody chose one. jemalloc has 30, mimalloc 20, system
    /// 10; a backend of preference 0 is used by name only.
    pub preference: u32,
    /// Makes the manager; called once per process unless it fails or two threads are the first.
    pub manager: fn() -> Result<Arc<dyn AllocationManager>, ManagerError>,
}

impl fmt::Debug for BackendRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendRegistration")
            .field("name", &self.name)
            .field("preference", &self.preference)
            .finish_non_exhaustive()
    }
}

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
/// For backends that stand on another one, as an arena does, and may be the default themselves.
///
/// # Errors
///
/// As [`default_manager`].
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

/// Registers a [`BackendRegistration`] at link time, where the target's linker can.
///
/// The [module `backend`](crate::backend) has an example. On other targets the macro only checks
/// its argument, and the program calls [`backend::register`](crate::backend::register).
#[cfg(all(
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
))]
#[macro_export]
macro_rules! register_backend {
    ($registration:expr $(,)?) => {
        const _: () = {
            #[$crate::__private::linkme::distributed_slice($crate::__private::LINKED)]
            #[linkme(crate = $crate::__private::linkme)]
            static LINKED: $crate::backend::BackendRegistration = $registration;
        };
    };
}

/// Registers a [`BackendRegistration`] at link time, where the target's linker can.
///
/// This target's cannot: the program calls [`backend::register`](crate::backend::register).
#[cfg(not(all(
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
)))]
#[macro_export]
macro_rules! register_backend {
    ($registration:expr $(,)?) => {
        const _: $crate::backend::BackendRegistration = $registration;
    };
}

/// What [`register_backend!`] expands to. The list of targets is that of `Cargo.toml`.
#[cfg(all(
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
))]
pub(crate) mod table {
    use std::sync::Arc;

    use super::BackendRegistration;
    use crate::manager::{AllocationManager, ManagerError};

    pub use linkme;

    /// The registrations of all crates of this program.
    #[linkme::distributed_slice]
    pub static LINKED: [BackendRegistration];

    /// Some linkers cannot make an empty table. An empty name is never listed nor found.
    #[linkme::distributed_slice(LINKED)]
    static HIDDEN: BackendRegistration = BackendRegistration {
        name: "",
        preference: 0,
        manager: nothing,
    };

    fn nothing() -> Result<Arc<dyn AllocationManager>, ManagerError> {
        Err(ManagerError::new("the hidden entry is no backend"))
    }

    pub(super) fn linked() -> &'static [BackendRegistration] {
        &LINKED
    }
}

/// No link-time table on this target.
#[cfg(not(all(
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
)))]
pub(crate) mod table {
    pub(super) fn linked() -> &'static [super::BackendRegistration] {
        &[]
    }
}

/// The backends of this process.
static BACKENDS: Backends = Backends::new(table::linked, environment);

/// The backends of a process. The lock is free while a backend starts, while `tracing` runs and while
/// anything is allocated or dropped, so that all of these may come back here.
struct Backends {
    /// What was registered at link time.
    linked: fn() -> &'static [BackendRegistration],
    /// Reads the name in the environment.
    environment: fn() -> Option<String>,
    /// Whether the warning about an unknown name was given.
    warned: AtomicBool,
    known: ProcessLock<Known>,
}

/// What a process has learnt of its backends. Under the lock one thing is looked up, set or pushed, or
/// what was registered is copied.
struct Known {
    /// What `environment` said, once it was asked; the name is kept for ever.
    named: Option<Option<&'static str>>,
    /// What was registered by hand, in order.
    added: Vec<&'static BackendRegistration>,
    /// The managers that were started, by name; never dropped.
    started: Vec<(&'static str, Arc<dyn AllocationManager>)>,
    /// How far the choice of the default is.
    choice: Choice,
}

/// How far the choice of the default is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Nobody asked and nobody chose.
    Open,
    /// The program chose; nobody asked.
    Set(&'static str),
    /// A default is in use and stays.
    InUse(&'static str),
}

impl Backends {
    const fn new(
        linked: fn() -> &'static [BackendRegistration],
        environment: fn() -> Option<String>,
    ) -> Self {
        Self {
            linked,
            environment,
            warned: AtomicBool::new(false),
            known: ProcessLock::new(
                Order::Inner,
                Known {
                    named: None,
                    added: Vec::new(),
                    started: Vec::new(),
                    choice: Choice::Open,
                },
            ),
        }
    }

    fn register(&'static self, registration: &'static BackendRegistration) {
        push(|| self.known.lock(), |known| &mut known.added, registration);
    }

    fn supported(&'static self) -> Vec<&'static str> {
        self.registrations()
            .iter()
            .map(|known| known.name)
            .collect()
    }

    fn manager(&'static self, name: &str) -> Result<Arc<dyn AllocationManager>, BackendError> {
        match self.started(name) {
            Some(manager) => Ok(manager),
            None => self.start(self.find(name)?),
        }
    }

    fn default_manager(&'static self) -> Result<Arc<dyn AllocationManager>, BackendError> {
        loop {
            let before = self.known.lock().choice;
            if let Choice::InUse(name) = before {
                return self.manager(name);
            }
            let chosen = self.choose(before, None)?;
            let manager = self.start(chosen)?;

            let mut known = self.known.lock();
            if known.choice == before {
                known.choice = Choice::InUse(chosen.name);
                drop(known);
                return Ok(manager);
            }
            drop(known);
            // Somebody chose or asked while the backend started: what they were told holds.
        }
    }

    fn default_manager_besides(
        &'static self,
        name: &str,
    ) -> Result<Arc<dyn AllocationManager>, BackendError> {
        let choice = self.known.lock().choice;
        self.start(self.choose(choice, Some(name))?)
    }

    fn set_default(&'static self, name: &str) -> Result<(), BackendError> {
        let found = self.find(name)?;
        let mut known = self.known.lock();
        let before = known.choice;
        if before == Choice::Open {
            known.choice = Choice::Set(found.name);
        }
        drop(known);
        match before {
            Choice::Open => Ok(()),
            Choice::Set(current) | Choice::InUse(current) => Err(BackendError::AlreadyChosen {
                current: current.to_owned(),
            }),
        }
    }

    /// The default by the rules of the module, as if there were no backend called `besides`.
    fn choose(
        &'static self,
        choice: Choice,
        besides: Option<&str>,
    ) -> Result<&'static BackendRegistration, BackendError> {
        let known = self.registrations();
        let by_name = |name: &str| known.iter().find(|known| known.name == name).copied();
        let allowed = |known: &&BackendRegistration| Some(known.name) != besides;

        let named = self.named();
        let in_any_case = |name: &str| {
            let mut known = known.iter();
            known
                .find(|known| known.name.eq_ignore_ascii_case(name.trim()))
                .copied()
        };
        let from_environment = named.and_then(|name| by_name(name).or_else(|| in_any_case(name)));
        if let (Some(named), None) = (named, from_environment) {
            self.warn_once(named, &known);
        }
        let from_program = match choice {
            Choice::Open => None,
            Choice::Set(name) | Choice::InUse(name) => by_name(name),
        };

        from_environment
            .filter(allowed)
            .or(from_program.filter(allowed))
            .or_else(|| {
                let by_preference = known.iter().copied().find(allowed)?;
                (by_preference.preference > 0).then_some(by_preference)
            })
            .ok_or(BackendError::NoneLinked)
    }

    /// What the environment says; asked once.
    fn named(&'static self) -> Option<&'static str> {
        let known = self.known.lock().named;
        known.unwrap_or_else(|| {
            let named = (self.environment)().map(|name| &*name.leak());
            *self.known.lock().named.get_or_insert(named)
        })
    }

    fn warn_once(&'static self, named: &str, known: &[&BackendRegistration]) {
        // Relaxed: the flag guards no other memory.
        if self.warned.swap(true, Ordering::Relaxed) {
            return;
        }
        let supported: Vec<_> = known.iter().map(|known| known.name).collect();
        let (named, supported) = (Escaped(named), supported.join(", "));
        events::variable_ignored(&format!(
            "{DEFAULT_POOL_VARIABLE} names `{named}`, which is not linked into this program; \
             supported are: {supported}"
        ));
    }

    fn find(&'static self, name: &str) -> Result<&'static BackendRegistration, BackendError> {
        let known = self.registrations();
        if known.is_empty() {
            return Err(BackendError::NoneLinked);
        }
        let found = known.iter().find(|known| known.name == name);
        found.copied().ok_or_else(|| BackendError::Unknown {
            name: name.to_owned(),
            supported: known.iter().map(|known| known.name).collect(),
        })
    }

    /// The manager of `registration`, started if it was not.
    fn start(
        &'static self,
        registration: &'static BackendRegistration,
    ) -> Result<Arc<dyn AllocationManager>, BackendError> {
        let name = registration.name;
        if let Some(manager) = self.started(name) {
            return Ok(manager);
        }
        let fresh =
            (registration.manager)().map_err(|source| BackendError::Failed { name, source })?;

        push(
            || self.known.lock(),
            |known| &mut known.started,
            (name, fresh),
        );
        let mut known = self.known.lock();
        let mut named = (0..).zip(&known.started);
        let (first, second) = {
            let mut same = named.by_ref().filter(|(_, (known, _))| *known == name);
            let first = same.next().map(|(_, (_, first))| Arc::clone(first));
            (first, same.next().map(|(index, _)| index))
        };
        // If another thread was faster, everybody sees its manager, which is the first. Ours is dropped
        // when the lock is free, since dropping it is code of the backend.
        let slower = second.map(|index| known.started.remove(index));
        drop(known);
        drop(slower);
        first.ok_or(BackendError::NoneLinked)
    }

    fn started(&'static self, name: &str) -> Option<Arc<dyn AllocationManager>> {
        let known = self.known.lock();
        let found = known.started.iter().find(|(known, _)| *known == name);
        found.map(|(_, manager)| Arc::clone(manager))
    }

    /// All backends, one of each name, the preferred first, otherwise in alphabetical order.
    fn registrations(&'static self) -> Vec<&'static BackendRegistration> {
        let mut added = Vec::new();
        copy_out(
            &mut added,
            || self.known.lock(),
            |known| known.added.len(),
            |known, copy| copy.extend_from_slice(&known.added),
        );
        let mut known: Vec<&BackendRegistration> = Vec::new();
        for registration in (self.linked)().iter().chain(added) {
            let name = registration.name;
            if !name.is_empty() && known.iter().all(|known| known.name != name) {
                known.push(registration);
            }
        }
        known.sort_by_key(|known| (Reverse(known.preference), known.name));
        known
    }
}

/// The name in the environment; empty is unset.
fn environment() -> Option<String> {
    let name = env::var_os(DEFAULT_POOL_VARIABLE)?;
    Some(name.to_string_lossy().into_owned()).filter(|name| !name.trim().is_empty())
}

#[cfg(all(test, not(loom)))]
mod tests;
