//! The heap of Unix: `malloc`, whose blocks are aligned to 16 bytes or more.
#![expect(unsafe_code, reason = "calls the C library and writes before blocks")]

use std::alloc::Layout;
use std::ptr::{self, NonNull};

/// A block with unspecified contents.
#[inline]
pub(crate) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    if layout.align() > SHIFT {
        return allocate_aligned(layout);
    }
    // SAFETY: `malloc` may be called with any size. The sum does not overflow, since a layout's
    // size is at most `isize::MAX`.
    let raw = unsafe { libc::malloc(layout.size() + SHIFT) };
    let raw = NonNull::new(raw.cast::<u8>())?;
    // SAFETY: `malloc` made a block of `SHIFT` bytes and more, aligned to 16.
    Some(unsafe { shifted(raw) })
}

/// A block that is zero.
pub(crate) fn allocate_zeroed(layout: Layout) -> Option<NonNull<u8>> {
    if layout.align() > SHIFT {
        let block = allocate_aligned(layout)?;
        // SAFETY: the block was just made with this size.
        unsafe { block.write_bytes(0, layout.size()) };
        return Some(block);
    }
    // `calloc` knows which pages are fresh and does not clear them again.
    // SAFETY: `calloc` may be called with any size; the sum does not overflow, since a
    // layout's size is at most `isize::MAX`.
    let raw = unsafe { libc::calloc(1, layout.size() + SHIFT) };
    let raw = NonNull::new(raw.cast::<u8>())?;
    // SAFETY: `calloc` made a block of `SHIFT` bytes and more, aligned to 16; only bytes before
    // the result are written.
    Some(unsafe { shifted(raw) })
}

/// Takes a block back.
///
/// # Safety
///
/// `ptr` is a live block of this module with `layout`, and it is not used any more.
#[inline]
pub(crate) unsafe fn deallocate(ptr: NonNull<u8>, layout: Layout) {
    let raw = if layout.align() > SHIFT {
        ptr
    } else {
        // SAFETY: by the caller's promise a function of this module made this block, and shifted it.
        unsafe { unshifted(ptr) }
    };
    // SAFETY: `raw` is what the C library returned for this block, which is live.
    unsafe { libc::free(raw.as_ptr().cast()) };
}

/// Changes the size of a block; after `None` it is as it was.
///
/// # Safety
///
/// `ptr` is a live block of this module with `old`; `new` has the same alignment. After success
/// the old pointer is dead.
pub(crate) unsafe fn reallocate(ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
    let common = old.size().min(new.size());
    if old.align() > SHIFT {
        let moved = allocate_aligned(new)?;
        // SAFETY: both blocks are live, so they do not overlap, and have `common` bytes.
        unsafe { moved.copy_from_nonoverlapping(ptr, common) };
        // SAFETY: by the caller's promise; the contents were copied.
        unsafe { deallocate(ptr, old) };
        return Some(moved);
    }
    // SAFETY: by the caller's promise a function of this module made this block, and shifted it.
    let raw = unsafe { unshifted(ptr) };
    let shift = ptr.as_ptr().addr() - raw.as_ptr().addr();
    // SAFETY: `raw` is what the C library returned for this block, which is live; the sum does not
    // overflow, since a layout's size is at most `isize::MAX`.
    let moved = unsafe { libc::realloc(raw.as_ptr().cast(), new.size() + SHIFT) };
    let moved = NonNull::new(moved.cast::<u8>())?;

    // `realloc` moved the contents with the old shift; the new address may need another one.
    let new_shift = shift_of(moved);
    if new_shift != shift {
        // SAFETY: `shift` is at most `SHIFT`, which is within the block.
        let from = unsafe { moved.add(shift) };
        // SAFETY: `new_shift` is at most `SHIFT`, too, which is within the block.
        let to = unsafe { moved.add(new_shift) };
        // SAFETY: the block has `new.size() + SHIFT` bytes, so `common` and a shift lie within;
        // the old contents had `common` bytes at least. `copy_from` may overlap.
        unsafe { to.copy_from(from, common) };
    }
    // SAFETY: `realloc` made a block of `SHIFT` bytes and more, aligned to 16. The word that is
    // written lies before the contents.
    Some(unsafe { shifted(moved) })
}

/// Asks the C library to give free memory back to the system.
pub(crate) fn release_unused() {
    // SAFETY: `malloc_trim` may be called at any time.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    let _ = unsafe { libc::malloc_trim(0) };
}

/// A block with a larger alignment than [`SHIFT`], which is not shifted.
#[cold]
fn allocate_aligned(layout: Layout) -> Option<NonNull<u8>> {
    let mut raw = ptr::null_mut();
    // SAFETY: `raw` is writable; the alignment is a power of two and a multiple of a word.
    let error = unsafe { libc::posix_memalign(&raw mut raw, layout.align(), layout.size()) };
    if error == 0 {
        NonNull::new(raw.cast())
    } else {
        None
    }
}

/// The block inside of `raw`, with the address of `raw` in the word before it.
///
/// # Safety
///
/// `raw` is a block of at least [`SHIFT`] bytes that is aligned to 16.
#[inline]
unsafe fn shifted(raw: NonNull<u8>) -> NonNull<u8> {
    // SAFETY: the shift is at most `SHIFT`, which is within the block.
    let block = unsafe { raw.add(shift_of(raw)) };
    // SAFETY: the shift is a multiple of 16 and not 0, so the word lies within the block.
    let slot = unsafe { block.cast::<NonNull<u8>>().sub(1) };
    // SAFETY: the word is ours, and aligned, since the block is aligned to 64.
    unsafe { slot.write(raw) };
    block
}

/// The address that the C library returned for a block that was [`shifted`].
///
/// # Safety
///
/// `block` came from `shifted` and is live.
#[inline]
unsafe fn unshifted(block: NonNull<u8>) -> NonNull<u8> {
    // SAFETY: `shifted` wrote the word before the block, which is within what lies below it.
    let slot = unsafe { block.cast::<NonNull<u8>>().sub(1) };
    // SAFETY: the word is ours, and aligned, since the block is aligned to 64; `shifted` wrote it.
    unsafe { slot.read() }
}

/// The bytes from `raw` to the first multiple of 64 that leaves 16 bytes or more before it.
#[inline]
fn shift_of(raw: NonNull<u8>) -> usize {
    SHIFT - raw.as_ptr().addr() % SHIFT
}

/// How much larger a block below is, and the largest alignment that is had so.
const SHIFT: usize = 64;
