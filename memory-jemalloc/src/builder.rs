//! What can be set about a manager: [`JemallocBuilder`].

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
    /// Sets what [`build`](JemallocBuilder::build) makes.
    pub fn builder() -> JemallocBuilder {
        JemallocBuilder::default()
    }
}

impl JemallocBuilder {
    /// Whether every block comes from one arena that nothing else in the process uses, so that
    /// statistics, decay and purging speak of this manager alone; no by default.
    ///
    /// It costs some 11 ns more for each allocation that a thread cache serves, and all threads
    /// share the arena's locks for the others.
    pub fn dedicated_arena(mut self, dedicated: bool) -> Self {
        self.dedicated = dedicated;
        self
    }

    /// See [`JemallocManager::set_dirty_decay_ms`].
    pub fn dirty_decay_ms(mut self, milliseconds: isize) -> Self {
        self.decay.dirty = milliseconds;
        self
    }

    /// See [`JemallocManager::set_muzzy_decay_ms`].
    pub fn muzzy_decay_ms(mut self, milliseconds: isize) -> Self {
        self.decay.muzzy = milliseconds;
        self
    }

    /// How many blocks of more than 32 KiB each thread keeps for itself, which jemalloc's thread
    /// caches do not; [`CacheLimits::NONE`] for none.
    pub fn cache(mut self, limits: CacheLimits) -> Self {
        self.cache = limits;
        self
    }

    /// Makes the manager.
    ///
    /// # Errors
    ///
    /// * [`JemallocError::InvalidDecay`] if a decay time is below -1.
    /// * [`JemallocError::Refused`] if jemalloc could not make the dedicated arena.
    pub fn build(self) -> Result<JemallocManager, JemallocError> {
        JemallocManager::set_up(self.dedicated, self.decay, self.cache)
    }
}
