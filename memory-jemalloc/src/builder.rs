//! The settings of a manager: [`JemallocBuilder`].

use arrow_memory_manager::CacheLimits;

use crate::arenas::Decay;
use crate::error::JemallocError;
use crate::manager::JemallocManager;

/// Sets up a [`JemallocManager`].
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct JemallocBuilder {
    dedicated: bool,
    decay: Decay,
    cache: CacheLimits,
}

impl JemallocManager {
    /// Starts to set up a manager.
    pub fn builder() -> JemallocBuilder {
        JemallocBuilder::default()
    }
}

impl JemallocBuilder {
    /// Whether every block comes from one arena that nothing else in the process uses, so that
    /// statistics, decay and purging speak of this manager alone; no by default.
    ///
    /// It costs some 11 ns more for each allocation that a thread cache serves; for other
    /// allocations, all threads share the arena's locks.
    pub fn dedicated_arena(mut self, dedicated: bool) -> Self {
        self.dedicated = dedicated;
        self
    }

    /// How long unused pages stay dirty before they return to the operating system, in milliseconds; -1 for
    /// never. [`JemallocManager::set_dirty_decay_ms`] has the details.
    pub fn dirty_decay_ms(mut self, milliseconds: isize) -> Self {
        self.decay.dirty = milliseconds;
        self
    }

    /// How long a page stays muzzy after it was dirty, in milliseconds; -1 for forever.
    /// [`JemallocManager::set_muzzy_decay_ms`] has the details.
    pub fn muzzy_decay_ms(mut self, milliseconds: isize) -> Self {
        self.decay.muzzy = milliseconds;
        self
    }

    /// The limits of the blocks of more than 32 KiB that each thread keeps, since jemalloc's thread caches do
    /// not; [`CacheLimits::NONE`] keeps none.
    pub fn cache(mut self, limits: CacheLimits) -> Self {
        self.cache = limits;
        self
    }

    /// Creates the manager.
    ///
    /// # Errors
    ///
    /// * [`JemallocError::InvalidDecay`] if a decay time is below -1.
    /// * [`JemallocError::Refused`] if jemalloc could not make the dedicated arena.
    pub fn build(self) -> Result<JemallocManager, JemallocError> {
        JemallocManager::set_up(self.dedicated, self.decay, self.cache)
    }
}
