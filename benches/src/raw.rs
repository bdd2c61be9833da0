//! The backends' libraries without any wrapper: the baselines.
#![expect(unsafe_code, reason = "the baselines are C libraries")]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

/// The alignment in bytes that the tree requests from a backend.
const ALIGNMENT: usize = 64;

/// A C library that allocates blocks.
pub trait Library {
    /// The name in tables.
    const NAME: &'static str;
    /// Allocates a block aligned to 64 bytes (but see [`Malloc`]), or returns null.
    fn allocate(size: usize) -> *mut c_void;
    /// Frees a block.
    ///
    /// # Safety
    ///
    /// `block` is a live block of this library and size, and is not used any more.
    unsafe fn free(block: *mut c_void, size: usize);
}

/// `posix_memalign` of the platform.
#[derive(Debug)]
pub struct System;

impl Library for System {
    const NAME: &'static str = "raw system";

    #[inline]
    fn allocate(size: usize) -> *mut c_void {
        let mut block = ptr::null_mut();
        // SAFETY: the pointer is writable, and the alignment is a power of two and a multiple of a word.
        match unsafe { libc::posix_memalign(&raw mut block, ALIGNMENT, size) } {
            0 => block,
            _ => ptr::null_mut(),
        }
    }

    #[inline]
    unsafe fn free(block: *mut c_void, _size: usize) {
        // SAFETY: the caller's promise.
        unsafe { libc::free(block) };
    }
}

/// `malloc` of the platform, whose blocks are aligned to 16 bytes only.
#[derive(Debug)]
pub struct Malloc;

impl Library for Malloc {
    const NAME: &'static str = "raw malloc";

    #[inline]
    fn allocate(size: usize) -> *mut c_void {
        // SAFETY: every size is valid.
        unsafe { libc::malloc(size) }
    }

    #[inline]
    unsafe fn free(block: *mut c_void, _size: usize) {
        // SAFETY: the caller's promise.
        unsafe { libc::free(block) };
    }
}

/// `mi_malloc_aligned`.
#[derive(Debug)]
pub struct Mimalloc;

impl Library for Mimalloc {
    const NAME: &'static str = "raw mimalloc";

    #[inline]
    fn allocate(size: usize) -> *mut c_void {
        // SAFETY: every size and every power of two is valid.
        unsafe { libmimalloc_sys::mi_malloc_aligned(size, ALIGNMENT) }
    }

    #[inline]
    unsafe fn free(block: *mut c_void, _size: usize) {
        // SAFETY: the caller's promise.
        unsafe { libmimalloc_sys::mi_free(block) };
    }
}

/// `mallocx` and `sdallocx`.
#[derive(Debug)]
pub struct Jemalloc;

impl Jemalloc {
    const FLAGS: i32 = tikv_jemalloc_sys::MALLOCX_ALIGN(ALIGNMENT);
}

impl Library for Jemalloc {
    const NAME: &'static str = "raw jemalloc";

    #[inline]
    fn allocate(size: usize) -> *mut c_void {
        // SAFETY: the size is not zero, and the flags contain a power of two.
        unsafe { tikv_jemalloc_sys::mallocx(size, Self::FLAGS) }
    }

    #[inline]
    unsafe fn free(block: *mut c_void, size: usize) {
        // SAFETY: the caller's promise; size and flags are those of the allocation.
        unsafe { tikv_jemalloc_sys::sdallocx(block, size, Self::FLAGS) };
    }
}

/// A block of a library, freed on drop.
#[derive(Debug)]
pub struct Block<L: Library> {
    block: NonNull<u8>,
    size: usize,
    library: PhantomData<L>,
}

// SAFETY: the libraries free blocks on any thread, and this is the block's only owner.
unsafe impl<L: Library> Send for Block<L> {}

impl<L: Library> Block<L> {
    /// Allocates a block of `size` bytes, not 0.
    ///
    /// # Panics
    ///
    /// If the library returns null.
    #[inline]
    pub fn new(size: usize) -> Self {
        Self {
            block: NonNull::new(L::allocate(size).cast()).expect("there is memory"),
            size,
            library: PhantomData,
        }
    }

    /// The bytes of the block.
    #[inline]
    pub fn bytes(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: the block is live, has `size` bytes, and is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.block.as_ptr().cast(), self.size) }
    }
}

impl<L: Library> Drop for Block<L> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the block is live, of this library and size, and is not used any more.
        unsafe { L::free(self.block.as_ptr().cast(), self.size) };
    }
}

/// Writes one byte on every page.
#[inline]
pub fn touch(bytes: &mut [MaybeUninit<u8>]) {
    for byte in bytes.iter_mut().step_by(4096) {
        byte.write(1);
    }
    std::hint::black_box(bytes);
}

/// Writes one byte on every page of a buffer of arrow's, which has no view of its spare capacity.
#[inline]
pub fn touch_arrow(buffer: &mut arrow_buffer::MutableBuffer) {
    let (start, capacity) = (buffer.as_mut_ptr().cast(), buffer.capacity());
    // SAFETY: the buffer is borrowed exclusively and has this many bytes, initialised or not.
    touch(unsafe { std::slice::from_raw_parts_mut(start, capacity) });
}

/// Asserts that arrow's buffers are compiled without their own accounting, the feature `pool`, which takes
/// some 40 ns. Cargo turns it on for all packages if one package of the build requests it.
///
/// # Panics
///
/// If the feature is on.
pub fn assert_arrow_without_pool() {
    assert_eq!(
        size_of::<arrow_buffer::MutableBuffer>(),
        4 * size_of::<usize>(),
        "build this package by itself: the feature `pool` of arrow-buffer is on"
    );
}

/// Asserts that the program's global allocator is mimalloc.
///
/// # Panics
///
/// If it is another one.
pub fn assert_global_is_mimalloc() {
    let probe = Box::new([0_u8; 100]);
    // SAFETY: every address is valid.
    let is = unsafe { libmimalloc_sys::mi_is_in_heap_region(ptr::from_ref(&*probe).cast()) };
    assert!(is, "the global allocator of this benchmark is mimalloc");
}

/// Asserts that the program's global allocator is the platform's.
///
/// # Panics
///
/// If it is mimalloc.
pub fn assert_global_is_system() {
    let probe = Box::new([0_u8; 100]);
    // SAFETY: every address is valid.
    let is = unsafe { libmimalloc_sys::mi_is_in_heap_region(ptr::from_ref(&*probe).cast()) };
    assert!(
        !is,
        "the global allocator of this benchmark is the platform's"
    );
}
