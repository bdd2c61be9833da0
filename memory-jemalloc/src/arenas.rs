//! Arenas of jemalloc that belong to one manager: [`OwnArenas`].
//!
//! An arena is jemalloc's unit of locking, statistics, decay and purging. Those made here serve
//! only blocks that name them, so their settings are ours to make; those that jemalloc assigns to
//! threads by itself serve the whole process, and stay as the program configured them.
//!
//! jemalloc can destroy an arena only with everything in it, and a block may be leaked for good. So
//! arenas are not destroyed but purged and handed to the next manager.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow_memory_manager::__private::{Order, ProcessLock, make_room};
use arrow_memory_manager::thread_number;
use tikv_jemalloc_sys::MALLOCX_ARENA;

use crate::error::JemallocError;
use crate::mallctl;

/// A manager's arenas, made when a thread first needs one.
#[derive(Debug)]
pub(crate) struct OwnArenas {
    /// A thread uses the slot of its number, modulo how many there are. A slot holds the flags that name
    /// its arena, 0 if jemalloc could not make one, whereupon its own choice of arena must do,
    /// [`UNMADE`] or [`MAKING`].
    slots: Box<[AtomicI32]>,
    /// The settings of the arenas, and the numbers of those that were made. Locked only under [`LEFT`], by
    /// [`with_state`](Self::with_state), so that no thread has it locked at the instant of a fork. A few
    /// words are copied or written under it; nothing is allocated, and jemalloc is not called.
    state: Mutex<State>,
}

impl OwnArenas {
    /// At most `count` arenas (at least 1), none of them made yet.
    pub(crate) fn new(count: usize, decay: Decay) -> Self {
        Self {
            slots: (0..count.max(1)).map(|_| AtomicI32::new(UNMADE)).collect(),
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
        // Relaxed: jemalloc knows the arena by its number, and orders what it has of it.
        match slot.load(Ordering::Relaxed) {
            flags if flags >= 0 => flags,
            _ => self.make_for(slot),
        }
    }

    /// Makes the arena of a slot, for the first thread that needs it. Until the arena is there, other threads
    /// leave the choice to jemalloc, and so does this one with what it allocates meanwhile, if the manager is
    /// the program's global allocator.
    #[cold]
    fn make_for(&self, slot: &AtomicI32) -> c_int {
        // Relaxed, all: jemalloc knows the arena by its number, and orders its own data.
        match slot.compare_exchange(UNMADE, MAKING, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                let made = self.make().map_or(0, |arena| MALLOCX_ARENA(arena as usize));
                slot.store(made, Ordering::Relaxed);
                made
            }
            Err(MAKING) => 0,
            Err(made) => made,
        }
    }

    /// Makes an arena, or takes one that another manager left.
    pub(crate) fn make(&self) -> Result<u32, JemallocError> {
        let left = LEFT.lock().pop();
        let arena = match left {
            Some(arena) => arena,
            None => mallctl::create("arenas.create")?,
        };
        let decay = self.add(arena);
        // jemalloc purges an oversize block when it is freed, whatever the decay time says.
        // Every byte of a large block would fault again each time, so here nothing is oversize.
        mallctl::write(&format!("arena.{arena}.oversize_threshold"), usize::MAX)?;
        decay.apply(arena)?;
        // Another thread may have changed the times meanwhile, and set them before the line above.
        let now = self.with_state(|state| state.decay);
        if now != decay {
            self.apply_latest()?;
        }
        Ok(arena)
    }

    /// Adds an arena to those that were made, and returns what its decay times shall be.
    fn add(&self, arena: u32) -> Decay {
        let mut spare = Vec::new();
        loop {
            let added = self.with_state(|state| {
                make_room(&mut state.made, &mut spare)?;
                state.made.push(arena);
                Ok(state.decay)
            });
            match added {
                Ok(decay) => return decay,
                Err(capacity) => spare = Vec::with_capacity(capacity),
            }
        }
    }

    /// Sets the decay times of the arenas that were made, and of those to come.
    pub(crate) fn set_decay(&self, change: impl FnOnce(&mut Decay)) -> Result<(), JemallocError> {
        let before = self.with_state(|state| state.decay);
        let mut decay = before;
        change(&mut decay);
        decay.check()?;
        self.with_state(|state| state.decay = decay);
        // What `check` lets through fails only if there were no such arena.
        self.apply_latest()
    }

    /// Applies the decay times to all arenas, until they are the latest: others may set them, too.
    fn apply_latest(&self) -> Result<(), JemallocError> {
        loop {
            let decay = self.with_state(|state| state.decay);
            for arena in self.made() {
                decay.apply(arena)?;
            }
            if self.with_state(|state| state.decay) == decay {
                return Ok(());
            }
        }
    }

    /// Gives every page that no block uses back to the operating system.
    pub(crate) fn purge(&self) {
        for arena in self.made() {
            // It fails only if there were no such arena.
            let _ = mallctl::act(&format!("arena.{arena}.purge"));
        }
    }

    /// The arenas that were made.
    fn made(&self) -> Vec<u32> {
        let mut copy = Vec::new();
        loop {
            let count = self.with_state(|state| {
                if state.made.len() <= copy.capacity() {
                    copy.extend_from_slice(&state.made);
                }
                state.made.len()
            });
            if copy.len() == count {
                return copy;
            }
            copy.reserve(count);
        }
    }

    /// Runs `with` with the state locked: it must neither allocate nor free.
    fn with_state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        let _shared = LEFT.lock();
        // Nothing panics while it is locked, so a poisoned one is whole.
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for OwnArenas {
    fn drop(&mut self) {
        self.purge();
        for arena in self.made() {
            LEFT.push(arena);
        }
    }
}

/// When unused pages return to the operating system, in milliseconds; -1 for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// In a slot: no arena was made for it yet. (No flags are negative.)
const UNMADE: c_int = c_int::MIN;

/// In a slot: a thread is making its arena. It stays so in a child process that was forked meanwhile.
const MAKING: c_int = c_int::MIN + 1;

/// Arenas whose managers are gone. Under the lock one is pushed or popped, or a manager's state is looked
/// at. A fork waits for it.
static LEFT: ProcessLock<Vec<u32>> = ProcessLock::new(Order::Inner, Vec::new());

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_that_comes_while_an_arena_is_made_leaves_the_choice_to_jemalloc() {
        let arenas = OwnArenas::new(1, Decay::default());
        arenas.slots[0].store(MAKING, Ordering::Relaxed);

        assert_eq!(arenas.flags(), 0);
        assert!(arenas.made().is_empty());
    }

    #[test]
    fn threads_that_start_together_make_one_arena_for_each_slot() {
        const THREADS: usize = 64;
        for slots in [1, 2] {
            let arenas = OwnArenas::new(slots, Decay::default());
            let all_there = Barrier::new(THREADS);

            let flags = thread::scope(|scope| {
                let threads = [(); THREADS].map(|()| {
                    scope.spawn(|| {
                        // Its number is there, so that nothing else happens between.
                        thread_number();
                        all_there.wait();
                        arenas.flags()
                    })
                });
                threads.map(|thread| thread.join().expect("flags"))
            });

            let made = arenas.made();
            assert_eq!(made.len(), slots, "{made:?}");
            let of_arena = |flags| {
                made.iter()
                    .any(|&arena| MALLOCX_ARENA(arena as usize) == flags)
            };
            // Threads that asked while the arena was made leave the choice to jemalloc.
            assert!(flags.iter().all(|&flags| flags == 0 || of_arena(flags)));
            assert!(of_arena(arenas.flags()));
        }
    }
}
