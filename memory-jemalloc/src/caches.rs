//! Thread caches for blocks of a dedicated arena.
//!
//! jemalloc's automatic thread cache is not used for blocks that name an arena: each of them would
//! take the arena's locks, which costs ten times as much. A cache can be named, too, if it is made
//! explicitly and used by one thread only. So each thread makes one for each arena that it meets,
//! and destroys it, which gives its blocks back to the arena, when the thread ends. Arenas are
//! handed on and never destroyed, so a cache fits its arena for as long as it lives.
//!
//! The program's global allocator may be a manager with a dedicated arena. Then whatever is allocated here
//! comes back to [`flags`]. So nothing is allocated or freed while the list of caches is borrowed, and while
//! a thread makes its cache for an arena, it uses the arena without one.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::mem::ManuallyDrop;

use arrow_memory_manager::__private::{AtEnd, at_end, push};
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
    if let Some(cache) = CACHES.with(|made| find(&made.borrow(), arena)) {
        // It fails only if there were no such cache.
        let _ = mallctl::write("tcache.flush", cache);
    }
}

#[cold]
fn look_up(arena: u32) -> c_int {
    let known = CACHES.with(|made| find(&made.borrow(), arena));
    let Some(cache) = known.or_else(|| make(arena)) else {
        // It is tried anew when the next block comes.
        LAST.set(NONE);
        return MALLOCX_TCACHE_NONE;
    };
    let flags = MALLOCX_TCACHE(cache as usize);
    LAST.set((arena, flags));
    flags
}

/// Makes the calling thread's cache for an arena for which it has none. What is allocated meanwhile from the
/// same arena finds that no cache is to be used.
fn make(arena: u32) -> Option<u32> {
    LAST.set((arena, MALLOCX_TCACHE_NONE));
    // A thread that is ending would keep its cache for good.
    if !at_end(&DESTROY) {
        return None;
    }
    // jemalloc has about 4000 caches; without one, the arena itself takes the block.
    let cache = mallctl::create("tcache.create").ok()?;
    CACHES.with(|made| push(|| made.borrow_mut(), |list| list, (arena, cache)));
    Some(cache)
}

/// The caches of one thread, each with its arena.
type Made = Vec<(u32, u32)>;

fn find(made: &Made, arena: u32) -> Option<u32> {
    made.iter().find(|made| made.0 == arena).map(|made| made.1)
}

/// Destroys the caches of a thread that ends.
static DESTROY: AtEnd = AtEnd(|_number| {
    LAST.set(NONE);
    for (_, cache) in CACHES.with(|made| made.take()) {
        // It fails only if there were no such cache.
        let _ = mallctl::write("tcache.destroy", cache);
    }
});

thread_local! {
    /// The arena used last and the flags of its cache.
    static LAST: Cell<(u32, c_int)> = const { Cell::new(NONE) };
    /// Without a destructor, like `LAST`: `DESTROY` empties it.
    static CACHES: ManuallyDrop<RefCell<Made>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// No arena has this number.
const NONE: (u32, c_int) = (u32::MAX, 0);
