//! What a backend says of itself: [`BackendRegistration`].

use std::fmt;
use std::sync::Arc;

use crate::manager::{AllocationManager, ManagerError};

/// How a backend makes itself known: see the [module's documentation](crate::backend).
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
    /// The backend with the highest preference becomes the default if neither the environment nor the program
    /// chooses one. jemalloc has 30, mimalloc 20, system
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
