//! A [`BlockCache`] for the blocks that jemalloc's thread caches do not hold.
#![expect(unsafe_code, reason = "gives blocks back to jemalloc in C")]

use std::ffi::c_int;

use arrow_memory_manager::{BlockCache, CacheLimits};
use tikv_jemalloc_sys as jemalloc;

/// Keeps large blocks, which are given back with `flags`.
pub(crate) fn kept(limits: CacheLimits, flags: c_int) -> BlockCache {
    BlockCache::new(limits, move |block, size| {
        // SAFETY: a block that was kept and that is not in use, with the size of its class, and the
        // flags of all blocks of this manager that are kept. Arenas outlive managers.
        unsafe { jemalloc::sdallocx(block.as_ptr().cast(), size, flags) };
    })
}
