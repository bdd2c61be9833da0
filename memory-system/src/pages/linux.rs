//! Pages of Linux: `mmap`, `mremap` and `madvise`.
//!
//! The mapping of a block starts where the block starts, and is its size rounded up to whole
//! pages: nothing else has to be remembered.
#![expect(unsafe_code, reason = "maps, moves and unmaps memory")]

use std::alloc::Layout;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::THRESHOLD;
use super::cache::{Cache, Put, Region};

/// Whether this module serves blocks of this layout.
#[inline]
pub(crate) fn serve(layout: Layout) -> bool {
    layout.size() >= THRESHOLD
}

/// A block with unspecified contents.
pub(crate) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    let len = mapped_len(layout)?;
    let Some(kept) = CACHE.take(len, alignment(layout)) else {
        return map(len, alignment(layout));
    };
    // SAFETY: the region is ours, and its pages from `len` on are no part of the block.
    unsafe { unmap_from(kept.start, len, kept.len) };
    Some(kept.start)
}

/// A block that is zero: fresh pages, which the system clears when they are touched.
pub(crate) fn allocate_zeroed(layout: Layout) -> Option<NonNull<u8>> {
    map(mapped_len(layout)?, alignment(layout))
}

/// Takes a block back.
///
/// # Safety
///
/// `ptr` is a live block of this module with `layout`, and it is not used any more.
pub(crate) unsafe fn deallocate(ptr: NonNull<u8>, layout: Layout) {
    // A live block has a mapping, so its length was computed before.
    let Some(len) = mapped_len(layout) else {
        return;
    };
    let mut region = Region { start: ptr, len };
    loop {
        region = match CACHE.put(region) {
            Put::Kept => return,
            Put::Full(oldest, again) => {
                give_back(oldest);
                again
            }
            Put::Refused(refused) => return give_back(refused),
        }
    }
}

/// Changes the size of a block; after `None` it is as it was.
///
/// # Safety
///
/// `ptr` is a live block of this module with `old`; `new` has the same alignment. After success
/// the old pointer is dead.
pub(crate) unsafe fn reallocate(ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
    let old_len = mapped_len(old)?;
    let new_len = mapped_len(new)?;
    if new_len <= old_len {
        // SAFETY: by the caller's promise the mapping is ours, and the pages from `new_len` on
        // are no part of the smaller block.
        unsafe { unmap_from(ptr, new_len, old_len) };
        return Some(ptr);
    }
    // SAFETY: by the caller's promise the mapping is ours and `old_len` long. Without a flag it
    // grows where it is, or the call fails.
    let grown = unsafe { libc::mremap(ptr.as_ptr().cast(), old_len, new_len, 0) };
    if grown != libc::MAP_FAILED {
        return Some(ptr);
    }

    // The system would choose a place that is aligned to a page. So we choose one.
    let target = map(new_len, alignment(new))?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the mapping is ours and `old_len` long; what it replaces is ours too, `new_len`
    // long, and holds nothing yet. After success the old pages are at the new place.
    let moved = unsafe {
        libc::mremap(
            ptr.as_ptr().cast(),
            old_len,
            new_len,
            flags,
            target.as_ptr(),
        )
    };
    // After a failure the system may have unmapped the target, or not. Another thread may have mapped
    // something there by now, so it is not unmapped again: at worst, untouched address space is lost. `map`
    // granted the memory, so the only cause that remains is the limit on the number of mappings.
    (moved != libc::MAP_FAILED).then_some(target)
}

/// Unmaps the mappings that are kept for reuse.
pub(crate) fn release_unused() {
    while let Some(region) = CACHE.pop() {
        give_back(region);
    }
}

/// Bytes that are kept for reuse.
pub(crate) fn cached_bytes() -> usize {
    CACHE.bytes()
}

/// Fresh pages, `len` bytes of them, aligned to `align`.
fn map(len: usize, align: usize) -> Option<NonNull<u8>> {
    // A mapping starts at a page; with this much more it has an aligned place for `len` bytes.
    let mapped = len.checked_add(align - page_size())?;
    // SAFETY: a new mapping, at a place of the system's choice, touches no other one.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            mapped,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    let start = NonNull::new(start.cast::<u8>())?;

    let head = start.as_ptr().addr().wrapping_neg() % align;
    // SAFETY: `head` is less than `align`, and a multiple of the page size: it is within.
    let block = unsafe { start.add(head) };
    // SAFETY: the pages before the block are ours and not in use.
    unsafe { unmap_from(start, 0, head) };
    // SAFETY: the pages behind the block are ours and not in use.
    unsafe { unmap_from(block, len, mapped - head) };
    // Without huge pages, or on a kernel that has none, the advice fails and nothing is lost.
    // SAFETY: the pages are ours; the advice does not change what they hold.
    let _ = unsafe { libc::madvise(block.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    Some(block)
}

fn give_back(Region { start, len }: Region) {
    // SAFETY: the region was ours, and is not in use.
    unsafe { unmap_from(start, 0, len) };
}

/// Unmaps the bytes from `from` to `to` of a mapping.
///
/// # Safety
///
/// `from` and `to` are multiples of the page size within a mapping of ours that starts at `start`
/// or before it; the bytes between are not in use.
unsafe fn unmap_from(start: NonNull<u8>, from: usize, to: usize) {
    if from >= to {
        return;
    }
    // SAFETY: by the caller's promise `from` is within the mapping.
    let first = unsafe { start.add(from) }.as_ptr().cast();
    // SAFETY: by the caller's promise these pages are ours, and not in use.
    if unsafe { libc::munmap(first, to - from) } != 0 {
        // A process at its limit of mappings cannot make a hole in one. Its memory can go. The address
        // space stays mapped and is forgotten: to keep it for later would take a place to note it, and
        // a block that is cut from it would need the mapping that there is no room for.
        // SAFETY: by the caller's promise these pages are ours, and not in use.
        let _ = unsafe { libc::madvise(first, to - from, libc::MADV_DONTNEED) };
    }
}

/// The length of a block's mapping.
fn mapped_len(layout: Layout) -> Option<usize> {
    // A division would cost more than all else here.
    let mask = page_size() - 1;
    Some(layout.size().checked_add(mask)? & !mask)
}

/// The alignment of a block's mapping, in bytes: a huge page, or the alignment asked for if that is larger.
fn alignment(layout: Layout) -> usize {
    layout.align().max(THRESHOLD)
}

fn page_size() -> usize {
    static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);
    // Relaxed, both: the number guards no other memory, and every thread finds the same one.
    let known = PAGE_SIZE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: `sysconf` may be called at any time.
    let asked = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let asked = usize::try_from(asked).unwrap_or(4096);
    PAGE_SIZE.store(asked, Ordering::Relaxed);
    asked
}

/// The mappings that are kept for reuse.
static CACHE: Cache = Cache::new();
