//! The backends of a process: which there are, which were started, and which is the default.

use std::cmp::Reverse;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::registration::BackendRegistration;
use crate::error::BackendError;
use crate::events;
use crate::manager::AllocationManager;
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

/// The backends of a process. The lock is free while a backend starts, while `tracing` runs and while
/// anything is allocated or dropped, so that all of these may call this registry.
pub(super) struct Backends {
    /// What was registered at link time.
    linked: fn() -> &'static [BackendRegistration],
    /// Reads the name in the environment.
    environment: fn() -> Option<String>,
    /// Whether the warning about an unknown name was given.
    pub(super) warned: AtomicBool,
    known: ProcessLock<Known>,
}

/// What a process knows of its backends. Under the lock one thing is looked up, set or pushed, or the
/// registrations are copied.
struct Known {
    /// What `environment` returned, once it was called. The name is leaked.
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
    /// The program has not chosen, and no default is in use.
    Open,
    /// The program chose this backend, and no default is in use yet.
    Set(&'static str),
    /// A default is in use and stays.
    InUse(&'static str),
}

impl Backends {
    pub(super) const fn new(
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

    pub(super) fn register(&'static self, registration: &'static BackendRegistration) {
        push(|| self.known.lock(), |known| &mut known.added, registration);
    }

    pub(super) fn supported(&'static self) -> Vec<&'static str> {
        self.registrations()
            .iter()
            .map(|known| known.name)
            .collect()
    }

    pub(super) fn manager(
        &'static self,
        name: &str,
    ) -> Result<Arc<dyn AllocationManager>, BackendError> {
        match self.started(name) {
            Some(manager) => Ok(manager),
            None => self.start(self.find(name)?),
        }
    }

    pub(super) fn default_manager(
        &'static self,
    ) -> Result<Arc<dyn AllocationManager>, BackendError> {
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
            // Another thread chose or asked while the backend started. Its result holds, so look again.
        }
    }

    pub(super) fn default_manager_besides(
        &'static self,
        name: &str,
    ) -> Result<Arc<dyn AllocationManager>, BackendError> {
        let choice = self.known.lock().choice;
        self.start(self.choose(choice, Some(name))?)
    }

    pub(super) fn set_default(&'static self, name: &str) -> Result<(), BackendError> {
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
        // If another thread was faster, all threads use its manager, which is the first. Ours is dropped
        // when the lock is free, since its `Drop` is code of the backend.
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
pub(super) fn environment() -> Option<String> {
    let name = env::var_os(DEFAULT_POOL_VARIABLE)?;
    Some(name.to_string_lossy().into_owned()).filter(|name| !name.trim().is_empty())
}
