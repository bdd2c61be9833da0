//! Arenas of jemalloc that belong to one manager: [`OwnArenas`].
//!
//! An arena is jemalloc's unit of locking, statistics, decay and purging. Those made here serve
//! only blocks that name them, so their settings are ours to make; those that jemalloc assigns to
//! threads by itself serve the whole process, and stay as the program configured them.
//!
//! jemalloc can destroy an arena only with everything in it, and a block may be leaked for good. So
//! arenas are not destroyed but purged and handed to the next manager.

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use arrow_memory_core::thread_number;
use tikv_jemalloc_sys::MALLOCX_ARENA;

use crate::error::JemallocError;
use crate::mallctl;

/// A manager's arenas, made when a thread first needs one.
#[derive(Debug)]
pub(crate) struct OwnArenas {
    /// A thread uses the slot of its number, modulo how many there are. A slot holds the flags that name its arena, or 0 if
    /// jemalloc could not make one, whereupon its own choice of arena must do.
    slots: Box<[OnceLock<c_int>]>,
    /// What new arenas get, and those that were made.
    state: Mutex<State>,
}

impl OwnArenas {
    /// At most `count` arenas (at least 1), none of them made yet.
    pub(crate) fn new(count: usize, decay: Decay) -> Self {
        Self {
            slots: (0..count.max(1)).map(|_| OnceLock::new()).collect(),
            state: Mutex::new(State {
                decay,
                made: Vec::new(),
            }),
        }
    }

    /// The flags that send a block of the calling thread to its arena; 0 if there is none.
    #[inline]
    pub(crate) fn flags(&self) -> c_int {
        let slot = &self.slots[thread_number() % self.slots.len()];
        match slot.get() {
            Some(flags) => *flags,
            None => {
                *slot.get_or_init(|| self.make().map_or(0, |arena| MALLOCX_ARENA(arena as usize)))
            }
        }
    }

    /// Makes an arena, or takes one that another manager left.
    pub(crate) fn make(&self) -> Result<u32, JemallocError> {
        let mut state = lock(&self.state);
        let left = lock(&LEFT).pop();
        let arena = match left {
            Some(arena) => arena,
            None => mallctl::create("arenas.create")?,
        };
        state.made.push(arena);
        // What jemalloc calls oversize is purged when it is freed, whatever the decay time says.
        // Every byte of a large block would fault again each time, so here nothing is oversize.
        mallctl::write(&format!("arena.{arena}.oversize_threshold"), usize::MAX)?;
        state.decay.apply(arena)?;
        Ok(arena)
    }

    /// Sets the decay times of the arenas that were made, and of those to come.
    pub(crate) fn set_decay(&self, change: impl FnOnce(&mut Decay)) -> Result<(), JemallocError> {
        let mut state = lock(&self.state);
        let mut decay = state.decay;
        change(&mut decay);
        decay.check()?;
        for &arena in &state.made {
            decay.apply(arena)?;
        }
        state.decay = decay;
        Ok(())
    }

    /// Gives every page that no block uses back to the operating system.
    pub(crate) fn purge(&self) {
        let state = lock(&self.state);
        for arena in &state.made {
            // It fails only if there were no such arena.
            let _ = mallctl::act(&format!("arena.{arena}.purge"));
        }
    }
}

impl Drop for OwnArenas {
    fn drop(&mut self) {
        self.purge();
        lock(&LEFT).append(&mut lock(&self.state).made);
    }
}

/// When pages that nobody uses go back to the operating system: milliseconds, -1 for never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decay {
    /// Until a dirty page becomes muzzy: it may be taken away, but is not yet.
    pub(crate) dirty: isize,
    /// Until a muzzy page is taken away.
    pub(crate) muzzy: isize,
}

impl Decay {
    /// An error unless jemalloc would take both.
    pub(crate) fn check(self) -> Result<(), JemallocError> {
        for milliseconds in [self.dirty, self.muzzy] {
            if milliseconds < -1 {
                return Err(JemallocError::InvalidDecay { milliseconds });
            }
        }
        Ok(())
    }

    fn apply(self, arena: u32) -> Result<(), JemallocError> {
        mallctl::write(&format!("arena.{arena}.dirty_decay_ms"), self.dirty)?;
        mallctl::write(&format!("arena.{arena}.muzzy_decay_ms"), self.muzzy)
    }
}

impl Default for Decay {
    /// One second for dirty pages, and no muzzy ones.
    fn default() -> Self {
        Self {
            dirty: 1000,
            muzzy: 0,
        }
    }
}

#[derive(Debug)]
struct State {
    decay: Decay,
    made: Vec<u32>,
}

/// Nothing panics while it holds one of these locks, so a poisoned one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Arenas whose managers are gone.
static LEFT: Mutex<Vec<u32>> = Mutex::new(Vec::new());
