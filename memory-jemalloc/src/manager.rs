//! [`JemallocManager`]: which entry point of jemalloc serves which block.
//!
//! # Invariants
//!
//! 1. jemalloc is asked for *padded* sizes: multiples of 64, at least 64. Its size classes for
//!    those are multiples of 64 themselves, and slabs start on pages, so such a block is aligned to
//!    64 bytes without being asked for an alignment (large blocks are aligned to a cache line).
//!    That matters because only calls without flags take jemalloc's fast path.
//! 2. A block of an alignment up to 64 was asked for with no alignment flag, a block of a higher
//!    one with its own; so the layout tells with which flags it must be given back.
//! 3. The size class of a live block is that of its *room*, which its layout tells: sized
//!    deallocation relies on it. That is its padded size, but for blocks beyond jemalloc's thread
//!    caches, up to a few MiB and of an alignment up to 64: those are kept when they come back, and
//!    have room for the class in which they are kept, so that one fits every layout of its class.

#![expect(
    unsafe_code,
    reason = "calls jemalloc in C and implements AllocationManager"
)]

use std::alloc::Layout;
use std::ffi::c_int;
use std::num::NonZero;
use std::ptr::NonNull;
use std::thread;

use arrow_memory_manager::{
    ALIGNMENT, AllocationManager, BlockCache, CacheLimits, ManagerError, ManagerStats, Tally,
};
use tikv_jemalloc_ctl::stats_print;
use tikv_jemalloc_sys as jemalloc;
use tikv_jemalloc_sys::{MALLOCX_ALIGN, MALLOCX_ARENA, MALLOCX_TCACHE_NONE, MALLOCX_ZERO};

use crate::arenas::{Decay, OwnArenas};
use crate::caches;
use crate::error::JemallocError;
use crate::kept::kept;
use crate::mallctl::{self, ALL_ARENAS};

/// A backend on jemalloc.
///
/// The [crate's documentation](crate) says which blocks go where and what that costs.
///
/// # Examples
///
/// ```
/// use arrow_memory_manager::AllocationManager;
/// use arrow_memory_jemalloc::JemallocManager;
///
/// let manager = JemallocManager::builder().dedicated_arena(true).dirty_decay_ms(500).build()?;
///
/// assert_eq!(manager.name(), "jemalloc");
/// assert_eq!(manager.stats().live_bytes, Some(0));
/// assert!(manager.statistic("stats.resident")? > 0);
/// # Ok::<(), arrow_memory_jemalloc::JemallocError>(())
/// ```
pub struct JemallocManager {
    /// Up to this padded size, blocks of alignment 64 are jemalloc's own business: its thread
    /// caches' ceiling, or 0 with a dedicated arena.
    automatic_max: usize,
    /// The largest size that a thread cache holds.
    cached_max: usize,
    /// The arena that serves everything, if there is one.
    dedicated: Option<u32>,
    /// Keeps blocks that jemalloc's thread caches do not hold. Gone before the arenas are left.
    kept: BlockCache,
    /// The arenas for blocks that no thread cache holds; or just the dedicated one.
    arenas: OwnArenas,
    tally: Tally,
}

impl JemallocManager {
    /// Creates a manager with the defaults: jemalloc places small blocks, large ones lie in arenas of its own.
    pub fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let cached_max = cached_max();
        Self {
            automatic_max: cached_max,
            cached_max,
            dedicated: None,
            kept: kept(CacheLimits::default(), 0),
            arenas: OwnArenas::new(cores.min(MAX_ARENAS), Decay::default()),
            tally: Tally::new(),
        }
    }

    /// Creates the manager for [`JemallocBuilder::build`](crate::JemallocBuilder::build).
    pub(crate) fn set_up(
        dedicated: bool,
        decay: Decay,
        cache: CacheLimits,
    ) -> Result<Self, JemallocError> {
        decay.check()?;
        let mut manager = Self::new();
        manager.arenas.set_decay(|now| *now = decay)?;
        if dedicated {
            manager.dedicated = Some(manager.arenas.make()?);
            manager.automatic_max = 0;
        }
        manager.kept = kept(cache, manager.return_flags(LARGE, ALIGNMENT));
        Ok(manager)
    }

    /// Sets how long pages of this manager's arenas stay dirty before they go back to the
    /// operating system: milliseconds, 0 for at once, -1 for never; 1000 by default.
    ///
    /// Time passes for an arena while it is used (or always, where the program has turned on
    /// jemalloc's background threads): an arena that is left alone keeps its pages until
    /// [`release_unused`](AllocationManager::release_unused). Arenas that jemalloc assigns to
    /// threads by itself are the program's and keep their settings.
    ///
    /// # Errors
    ///
    /// [`JemallocError::InvalidDecay`] below -1.
    pub fn set_dirty_decay_ms(&self, milliseconds: isize) -> Result<(), JemallocError> {
        self.arenas.set_decay(|decay| decay.dirty = milliseconds)
    }

    /// Sets how long a page stays muzzy after it was dirty, in milliseconds: 0 for not at all, -1 for forever; 0
    /// by default. The system may take a muzzy page when it is short of memory.
    ///
    /// # Errors
    ///
    /// [`JemallocError::InvalidDecay`] below -1.
    pub fn set_muzzy_decay_ms(&self, milliseconds: isize) -> Result<(), JemallocError> {
        self.arenas.set_decay(|decay| decay.muzzy = milliseconds)
    }

    /// Reads any number that jemalloc keeps, by the name that its manual gives it: `stats.allocated`,
    /// `stats.arenas.0.pdirty`, `arenas.page`, `opt.tcache_max`. A value of -1 reads as `u64::MAX`.
    ///
    /// The number is of this copy of jemalloc, for all its users in the process, as of now.
    ///
    /// # Errors
    ///
    /// * [`JemallocError::UnknownStatistic`] if there is no such name.
    /// * [`JemallocError::NotANumber`] if it names an action or a text.
    pub fn statistic(&self, name: &str) -> Result<u64, JemallocError> {
        mallctl::statistic(name)
    }

    /// jemalloc's own report on itself, several hundred lines. Takes milliseconds.
    pub fn statistics_text(&self) -> String {
        mallctl::refresh();
        let mut text = Vec::new();
        // Writing to a vector does not fail.
        let _ = stats_print::stats_print(&mut text, stats_print::Options::default());
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Resets [`peak_bytes`](ManagerStats::peak_bytes) to the bytes that are live now.
    pub fn reset_peak(&self) {
        self.tally.reset_peak();
    }

    /// The number of the dedicated arena, as in `stats.arenas.<i>`, if there is one.
    pub fn dedicated_arena(&self) -> Option<u32> {
        self.dedicated
    }

    /// A block, or null.
    #[inline]
    fn obtain(&self, size: usize, align: usize) -> *mut u8 {
        let padded = padded(size);
        if self.is_automatic(padded, align) {
            // SAFETY: any size may be asked for.
            return unsafe { jemalloc::malloc(padded) }.cast();
        }
        match self.take(padded, align) {
            Some(kept) => kept.as_ptr(),
            None => self.allocate_flagged(padded, align, 0),
        }
    }

    /// Gives a block to jemalloc, or keeps it.
    ///
    /// # Safety
    ///
    /// The block is live, of this layout, and it is not used any more.
    #[inline(always)] // Two callers, one of which is what every release takes.
    unsafe fn give_back(&self, ptr: NonNull<u8>, layout: Layout) {
        let (size, align) = (padded(layout.size()), layout.align());
        if self.is_automatic(size, align) {
            // SAFETY: by the caller's promise and invariants 2 and 3.
            unsafe { jemalloc::sdallocx(ptr.as_ptr().cast(), size, 0) };
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.give_back_flagged(ptr, size, align) };
        }
    }

    /// Gives a block of a padded size that is not served without flags to jemalloc, or keeps it.
    ///
    /// # Safety
    ///
    /// The block is live, of this padded size and alignment, and it is not used any more.
    #[inline(never)]
    unsafe fn give_back_flagged(&self, ptr: NonNull<u8>, size: usize, align: usize) {
        if self.is_kept(size, align) {
            // SAFETY: by the caller's promise; by invariant 3 it has room for its class.
            let kept = unsafe { self.kept.keep(ptr, size) };
            if kept {
                return;
            }
        }
        let flags = self.return_flags(size, align);
        // SAFETY: by the caller's promise the block is live and of this layout; by invariants 2 and
        // 3 this is its size class and these are its flags.
        unsafe { jemalloc::sdallocx(ptr.as_ptr().cast(), self.room(size, align), flags) };
    }

    /// A block that this thread kept.
    fn take(&self, size: usize, align: usize) -> Option<NonNull<u8>> {
        self.is_kept(size, align)
            .then(|| self.kept.take(size))
            .flatten()
    }

    /// Whether a block of this padded size is kept when it comes back, if the limits allow it.
    #[inline]
    fn is_kept(&self, size: usize, align: usize) -> bool {
        size > self.cached_max && align <= ALIGNMENT
    }

    /// The size that jemalloc is asked for: see invariant 3.
    fn room(&self, size: usize, align: usize) -> usize {
        let class = self
            .is_kept(size, align)
            .then(|| self.kept.size_of_class(size));
        class.flatten().unwrap_or(size)
    }

    /// Asks jemalloc for a block of a padded size that is not served without flags.
    fn allocate_flagged(&self, size: usize, align: usize, more: c_int) -> *mut u8 {
        let flags = self.flags(size, align) | more;
        let size = self.room(size, align);
        // SAFETY: the size is not 0, and the flags hold a power of two that a `Layout` had, an
        // arena that exists and a cache of this thread.
        unsafe { jemalloc::mallocx(size, flags) }.cast()
    }

    /// The flags with which a block is asked for.
    fn flags(&self, size: usize, align: usize) -> c_int {
        match self.dedicated {
            Some(arena) => MALLOCX_ARENA(arena as usize) | self.return_flags(size, align),
            None if size > self.cached_max => self.arenas.flags() | align_flag(align),
            None => align_flag(align),
        }
    }

    /// The flags with which a block is given back.
    fn return_flags(&self, size: usize, align: usize) -> c_int {
        match self.dedicated {
            Some(arena) if size <= self.cached_max => caches::flags(arena) | align_flag(align),
            Some(_) => MALLOCX_TCACHE_NONE | align_flag(align),
            None => align_flag(align),
        }
    }

    /// Whether jemalloc serves such a block without any flag, by its fast path.
    #[inline]
    fn is_automatic(&self, size: usize, align: usize) -> bool {
        size <= self.automatic_max && align <= ALIGNMENT
    }

    #[inline]
    fn lend(&self, ptr: *mut u8, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        match NonNull::new(ptr) {
            Some(block) => {
                debug_assert!(
                    block
                        .addr()
                        .get()
                        .is_multiple_of(layout.align().max(ALIGNMENT))
                );
                self.tally.lent(layout.size());
                Ok(block)
            }
            None => Err(ManagerError::out_of_memory(layout)),
        }
    }

    /// Tries to change the size class of a block where it is.
    ///
    /// # Safety
    ///
    /// The conditions of [`AllocationManager::reallocate`].
    unsafe fn resize_in_place(&self, ptr: NonNull<u8>, new_size: usize, align: usize) -> bool {
        let wanted = self.room(padded(new_size), align);
        let flags = align_flag(align);
        // SAFETY: by the caller's promise the block is live; the size is not 0.
        let usable = unsafe { jemalloc::xallocx(ptr.as_ptr().cast(), wanted, 0, flags) };
        // SAFETY: the size is not 0, and the flags hold a power of two.
        let class = unsafe { jemalloc::nallocx(wanted, flags) };
        // A block that is merely large enough does not do: see invariant 3.
        usable == class
    }
}

// SAFETY:
// 1. A block is what jemalloc returned for a padded size, which is not less than the layout's, with
//    an alignment flag or, by invariant 1, with an alignment that needs none. jemalloc does not
//    hand out the same bytes twice. Arenas outlive every manager, and so do blocks.
// 2. jemalloc takes blocks back on any thread; a cache that is named is the calling thread's own.
// 3. A failed request changes nothing; `reallocate` gives the old block back only once it has a
//    new one.
// 4. C does not unwind.
unsafe impl AllocationManager for JemallocManager {
    fn name(&self) -> &str {
        NAME
    }

    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        self.lend(self.obtain(layout.size(), layout.align()), layout)
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.tally.returned(layout.size());
        // SAFETY: the caller's promise.
        unsafe { self.give_back(ptr, layout) };
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, ManagerError> {
        let (size, align) = (padded(layout.size()), layout.align());
        let ptr = match self.take(size, align) {
            Some(kept) => {
                // SAFETY: the block is ours, and has this size.
                unsafe { kept.write_bytes(0, size) };
                kept.as_ptr()
            }
            None => self.allocate_flagged(size, align, MALLOCX_ZERO),
        };
        self.lend(ptr, layout)
    }

    unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ManagerError> {
        // SAFETY: the caller's promises are the same.
        if unsafe { self.resize_in_place(ptr, new_size, old.align()) } {
            self.tally.resized(old.size(), new_size);
            return Ok(ptr);
        }
        let new = Layout::from_size_align(new_size, old.align())
            .map_err(|_| ManagerError::new("the new size does not make a valid layout"))?;
        let moved = NonNull::new(self.obtain(new_size, new.align()))
            .ok_or_else(|| ManagerError::out_of_memory(new))?;
        let common = old.size().min(new_size);
        // SAFETY: the caller's block is valid for reads of `old.size()` bytes and the new one for
        // writes of `new_size`; two live blocks of jemalloc do not overlap.
        unsafe {
            moved
                .as_ptr()
                .copy_from_nonoverlapping(ptr.as_ptr(), common)
        };
        // SAFETY: by the caller's promise the block is live, of layout `old`, and is not used any
        // more.
        unsafe { self.give_back(ptr, old) };
        self.tally.resized(old.size(), new_size);
        Ok(moved)
    }

    /// Releases the large blocks that all threads keep, empties the calling thread's cache and
    /// purges the arenas.
    ///
    /// With a dedicated arena, that cache and that arena. Without, also the arenas that jemalloc
    /// chose for small blocks, which the whole process shares. The caches of other threads, up to
    /// a few hundred KiB each, cannot be reached: jemalloc empties them bit by bit while those
    /// threads allocate, and at their end.
    fn release_unused(&self) {
        self.kept.release();
        match self.dedicated {
            Some(arena) => caches::flush(arena),
            None => {
                // Both fail only if thread caches were turned off or there were no arenas.
                let _ = mallctl::act("thread.tcache.flush");
                let _ = mallctl::act(&format!("arena.{ALL_ARENAS}.purge"));
            }
        }
        self.arenas.purge();
    }

    /// The blocks that this manager lent, and the memory that jemalloc holds for it.
    ///
    /// Live, peak and total bytes and allocations count this manager's blocks, at their layouts'
    /// sizes. Active, fragmented, resident, retained and cached bytes are those of the dedicated arena if
    /// there is one; otherwise jemalloc's as a whole, for all its users in the process. So without a
    /// dedicated arena `active - live` is not fragmentation where the program's own heap is jemalloc's, too.
    /// Takes some ten microseconds.
    fn stats(&self) -> ManagerStats {
        let mut stats = self.tally.stats();
        mallctl::refresh();
        let read = |name: &str| mallctl::read(name).ok().map(|value| value as usize);
        let page = read("arenas.page").unwrap_or(0);
        let arena = self.dedicated.unwrap_or(ALL_ARENAS);
        let in_arena = |name: &str| read(&format!("stats.arenas.{arena}.{name}"));
        let dirty = in_arena("pdirty").zip(in_arena("pmuzzy"));
        let dirty = dirty.map(|(dirty, muzzy)| (dirty + muzzy) * page);
        let lent_by_arena = in_arena("small.allocated")
            .zip(in_arena("large.allocated"))
            .map(|(small, large)| small + large);
        let in_caches = match self.dedicated {
            // What the arena handed out is lent, or lies in a thread's cache.
            Some(_) => lent_by_arena.map(|lent| lent.saturating_sub(stats.live_bytes.unwrap_or(0))),
            None => in_arena("tcache_bytes").map(|bytes| bytes + self.kept.bytes()),
        };
        stats.cached_bytes = dirty.zip(in_caches).map(|(dirty, caches)| dirty + caches);
        stats.active_bytes = in_arena("pactive").map(|pages| pages * page);
        stats.fragmented_bytes = stats
            .active_bytes
            .zip(lent_by_arena)
            .map(|(active, lent)| active.saturating_sub(lent));
        stats.resident_bytes = in_arena("resident");
        stats.retained_bytes = in_arena("retained");
        stats
    }
}

impl Default for JemallocManager {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for JemallocManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JemallocManager")
            .field("dedicated_arena", &self.dedicated)
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

/// The name in `ARROW_DEFAULT_MEMORY_POOL` and in reports.
pub(crate) const NAME: &str = "jemalloc";

/// `size` as jemalloc is asked for it: see invariant 1. A layout's size cannot overflow here.
#[inline]
fn padded(size: usize) -> usize {
    (size.max(1) + (ALIGNMENT - 1)) & !(ALIGNMENT - 1)
}

/// The flag for an alignment; none where blocks are aligned that much anyway.
#[inline]
fn align_flag(align: usize) -> c_int {
    if align <= ALIGNMENT {
        0
    } else {
        MALLOCX_ALIGN(align)
    }
}

/// A size that no thread cache of jemalloc's holds.
const LARGE: usize = 1 << 30;

/// The largest size that jemalloc's thread caches hold.
fn cached_max() -> usize {
    mallctl::read("arenas.tcache_max").map_or(32 * 1024, |max| max as usize)
}

/// The maximum number of arenas. More would hold memory without saving much waiting.
const MAX_ARENAS: usize = 64;
