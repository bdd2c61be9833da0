//! Thread caches for blocks of a dedicated arena.
//!
//! jemalloc's automatic thread cache is not used for blocks that name an arena: each of them would
//! take the arena's locks, which costs ten times as much. A cache can be named, too, if it is made
//! explicitly and used by one thread only. So each thread makes one for each arena that it meets,
//! and destroys it, which gives its blocks back to the arena, when the thread ends. Arenas are
//! handed on and never destroyed, so a cache fits its arena for as long as it lives.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;

use tikv_jemalloc_sys::{MALLOCX_TCACHE, MALLOCX_TCACHE_NONE};

use crate::mallctl;

/// The flags that name the calling thread's cache for `arena`, or no cache if it has none.
#[inline]
pub(crate) fn flags(arena: u32) -> c_int {
    let (last, flags) = LAST.get();
    if last == arena { flags } else { look_up(arena) }
}

/// Gives the blocks in the calling thread's cache for `arena` back to the arena.
pub(crate) fn flush(arena: u32) {
    let cache = CACHES.try_with(|caches| {
        let caches = caches.made.borrow();
        caches
            .iter()
            .find(|made| made.0 == arena)
            .map(|made| made.1)
    });
    if let Ok(Some(cache)) = cache {
        // It fails only if there were no such cache.
        let _ = mallctl::write("tcache.flush", cache);
    }
}

#[cold]
fn look_up(arena: u32) -> c_int {
    let cache = CACHES.try_with(|caches| {
        let mut made = caches.made.borrow_mut();
        if let Some(found) = made.iter().find(|made| made.0 == arena) {
            return Some(found.1);
        }
        // jemalloc has about 4000 caches; without one, the block goes to the arena itself.
        let cache = mallctl::create("tcache.create").ok()?;
        made.push((arena, cache));
        Some(cache)
    });
    match cache {
        Ok(Some(cache)) => {
            let flags = MALLOCX_TCACHE(cache as usize);
            LAST.set((arena, flags));
            flags
        }
        // No cache to be had, or the thread is ending.
        _ => MALLOCX_TCACHE_NONE,
    }
}

/// The caches of one thread, by arena.
struct Caches {
    made: RefCell<Vec<(u32, u32)>>,
}

impl Drop for Caches {
    fn drop(&mut self) {
        LAST.set(NONE);
        for (_, cache) in self.made.take() {
            // It fails only if there were no such cache.
            let _ = mallctl::write("tcache.destroy", cache);
        }
    }
}

thread_local! {
    /// The arena used last and the flags of its cache. It has no destructor.
    static LAST: Cell<(u32, c_int)> = const { Cell::new(NONE) };
    static CACHES: Caches = const { Caches { made: RefCell::new(Vec::new()) } };
}

/// No arena has this number.
const NONE: (u32, c_int) = (u32::MAX, 0);
