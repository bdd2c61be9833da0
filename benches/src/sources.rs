//! Sources of blocks: the four backends, and the libraries below them, behind one trait.
#![expect(
    unsafe_code,
    reason = "the baselines are C libraries, and blocks are written to"
)]

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use arrow_memory_arena::Arena;
use arrow_memory_core::{AllocationManager, CacheLimits};
use arrow_memory_jemalloc::JemallocManager;
use arrow_memory_mimalloc::MimallocManager;
use arrow_memory_system::SystemManager;

/// A source of blocks of 64-byte alignment.
pub trait Source: Send + Sync {
    /// Allocates a block.
    ///
    /// # Panics
    ///
    /// If there is no memory.
    fn allocate(&self, size: usize) -> NonNull<u8>;
    /// Reallocates a block to another size, and keeps the contents that fit. The old block is not valid any
    /// more.
    ///
    /// # Safety
    ///
    /// `block` is a live block of this source and of size `old`, and is not used any more; `new` is not 0.
    unsafe fn grow(&self, block: NonNull<u8>, old: usize, new: usize) -> NonNull<u8>;
    /// Frees a block.
    ///
    /// # Safety
    ///
    /// `block` is a live block of this source and size, and is not used any more.
    unsafe fn free(&self, block: NonNull<u8>, size: usize);
}

/// The names of all sources, in the order of the tables.
pub const NAMES: [&str; 9] = [
    "raw system",
    "system",
    "raw jemalloc",
    "jemalloc",
    "jemalloc, no cache",
    "raw mimalloc",
    "mimalloc",
    "mimalloc, no cache",
    "arena",
];

/// The source of this name.
///
/// # Panics
///
/// If there is no such source.
pub fn source(name: &str) -> Box<dyn Source> {
    match name {
        "raw system" => Box::new(Raw {
            allocate: posix_memalign,
            grow: realloc,
            free: |block, _| {
                // SAFETY: `Source::free`'s promise.
                unsafe { libc::free(block.cast()) };
            },
        }),
        "raw jemalloc" => Box::new(Raw {
            // SAFETY: the size is not 0, and the flags contain a power of two.
            allocate: |size| unsafe { tikv_jemalloc_sys::mallocx(size, JEMALLOC) }.cast(),
            grow: |block, _, new| {
                // SAFETY: `Source::grow`'s promise; the flags are those of the allocation.
                unsafe { tikv_jemalloc_sys::rallocx(block.cast(), new, JEMALLOC) }.cast()
            },
            free: |block, size| {
                // SAFETY: `Source::free`'s promise; the flags are those of the allocation.
                unsafe { tikv_jemalloc_sys::sdallocx(block.cast(), size, JEMALLOC) };
            },
        }),
        "raw mimalloc" => Box::new(Raw {
            // SAFETY: every size and every power of two is valid.
            allocate: |size| unsafe { libmimalloc_sys::mi_malloc_aligned(size, 64) }.cast(),
            grow: |block, _, new| {
                // SAFETY: `Source::grow`'s promise.
                unsafe { libmimalloc_sys::mi_realloc_aligned(block.cast(), new, 64) }.cast()
            },
            free: |block, _| {
                // SAFETY: `Source::free`'s promise.
                unsafe { libmimalloc_sys::mi_free(block.cast()) };
            },
        }),
        other => over(&manager(other)),
    }
}

/// Makes a source of a manager.
pub fn over(manager: &Arc<dyn AllocationManager>) -> Box<dyn Source> {
    Box::new(Managed(Arc::clone(manager)))
}

/// The backend of this name with default settings, or without its cache.
///
/// # Panics
///
/// If there is no such backend.
pub fn manager(name: &str) -> Arc<dyn AllocationManager> {
    match name {
        "system" => Arc::new(SystemManager::new()),
        "jemalloc" => Arc::new(JemallocManager::new()),
        "jemalloc, no cache" => {
            let builder = JemallocManager::builder().cache(CacheLimits::NONE);
            Arc::new(builder.build().expect("valid settings"))
        }
        "mimalloc" => Arc::new(MimallocManager::new()),
        "mimalloc, no cache" => Arc::new(MimallocManager::with_cache(CacheLimits::NONE)),
        "arena" => Arc::new(Arena::new()),
        other => panic!("no source is called {other}"),
    }
}

/// A block of a [`Source`], freed on drop.
pub struct Block<'a> {
    source: &'a dyn Source,
    block: NonNull<u8>,
    size: usize,
}

// SAFETY: sources free blocks on any thread, and this is the block's only owner.
unsafe impl Send for Block<'_> {}

impl<'a> Block<'a> {
    /// Allocates a block of `size` bytes, not 0.
    #[inline]
    pub fn new(source: &'a dyn Source, size: usize) -> Self {
        let block = black_box(source.allocate(black_box(size)));
        Self {
            source,
            block,
            size,
        }
    }

    /// Changes the block's size, which must not become 0.
    pub fn grow(&mut self, size: usize) {
        // SAFETY: the block is live, of this source and size, and borrowed exclusively.
        self.block = unsafe { self.source.grow(self.block, self.size, size) };
        self.size = size;
    }

    /// Writes one byte on every page from `from` on.
    #[inline]
    pub fn touch(&mut self, from: usize) {
        for offset in (from..self.size).step_by(4096) {
            // SAFETY: the offset is within the block.
            let byte = unsafe { self.block.add(offset) };
            // SAFETY: the block is live, and borrowed exclusively.
            unsafe { byte.write_volatile(1) };
        }
    }
}

impl Drop for Block<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the block is live, of this source and size, and is not used any more.
        unsafe { self.source.free(self.block, self.size) };
    }
}

/// The functions of a library.
struct Raw {
    allocate: fn(usize) -> *mut u8,
    grow: unsafe fn(*mut u8, usize, usize) -> *mut u8,
    free: unsafe fn(*mut u8, usize),
}

impl Source for Raw {
    #[inline]
    fn allocate(&self, size: usize) -> NonNull<u8> {
        NonNull::new((self.allocate)(size)).expect("there is memory")
    }

    unsafe fn grow(&self, block: NonNull<u8>, old: usize, new: usize) -> NonNull<u8> {
        // SAFETY: the caller's promise.
        let grown = unsafe { (self.grow)(block.as_ptr(), old, new) };
        NonNull::new(grown).expect("there is memory")
    }

    #[inline]
    unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { (self.free)(block.as_ptr(), size) };
    }
}

struct Managed(Arc<dyn AllocationManager>);

impl Source for Managed {
    #[inline]
    fn allocate(&self, size: usize) -> NonNull<u8> {
        self.0.allocate(layout(size)).expect("there is memory")
    }

    unsafe fn grow(&self, block: NonNull<u8>, old: usize, new: usize) -> NonNull<u8> {
        // SAFETY: the caller's promise.
        unsafe { self.0.reallocate(block, layout(old), new) }.expect("there is memory")
    }

    #[inline]
    unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.0.deallocate(block, layout(size)) };
    }
}

#[inline]
fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 64).expect("a valid layout")
}

fn posix_memalign(size: usize) -> *mut u8 {
    let mut block = ptr::null_mut();
    // SAFETY: the pointer is writable, and the alignment is a power of two and a multiple of a word.
    match unsafe { libc::posix_memalign(&raw mut block, 64, size) } {
        0 => block.cast(),
        _ => ptr::null_mut(),
    }
}

/// There is no aligned `realloc`, so the new block may be aligned to 16 bytes only.
///
/// # Safety
///
/// The same as for [`Source::grow`].
unsafe fn realloc(block: *mut u8, _old: usize, new: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { libc::realloc(block.cast(), new) }.cast()
}

const JEMALLOC: i32 = tikv_jemalloc_sys::MALLOCX_ALIGN(64);
