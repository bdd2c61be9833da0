//! Where blocks come from: the four backends, and the libraries below them, behind one trait.
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

/// What hands blocks of 64-byte alignment out, and takes them back.
pub trait Source: Send + Sync {
    /// A block.
    ///
    /// # Panics
    ///
    /// If there is none.
    fn allocate(&self, size: usize) -> NonNull<u8>;
    /// The block with another size and the contents that both have; the old one is gone.
    ///
    /// # Safety
    ///
    /// As for [`free`](Self::free); the new size is not 0.
    unsafe fn grow(&self, block: NonNull<u8>, old: usize, new: usize) -> NonNull<u8>;
    /// Takes a block back.
    ///
    /// # Safety
    ///
    /// A live block of this source and size, that nobody uses any more.
    unsafe fn free(&self, block: NonNull<u8>, size: usize);
}

/// What can be measured, in the order of the tables.
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
/// If there is none.
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
            // SAFETY: the size is not 0, and the flags hold a power of two.
            allocate: |size| unsafe { tikv_jemalloc_sys::mallocx(size, JEMALLOC) }.cast(),
            grow: |block, _, new| {
                // SAFETY: `Source::grow`'s promise; the flags are those that it was asked with.
                unsafe { tikv_jemalloc_sys::rallocx(block.cast(), new, JEMALLOC) }.cast()
            },
            free: |block, size| {
                // SAFETY: `Source::free`'s promise; as above.
                unsafe { tikv_jemalloc_sys::sdallocx(block.cast(), size, JEMALLOC) };
            },
        }),
        "raw mimalloc" => Box::new(Raw {
            // SAFETY: any size and power of two may be asked for.
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

/// A manager as a source.
pub fn over(manager: &Arc<dyn AllocationManager>) -> Box<dyn Source> {
    Box::new(Managed(Arc::clone(manager)))
}

/// The backend of this name, as a program gets it; or without its cache.
///
/// # Panics
///
/// If there is none.
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

/// A block of a [`Source`], given back on drop.
pub struct Block<'a> {
    source: &'a dyn Source,
    block: NonNull<u8>,
    size: usize,
}

// SAFETY: sources take blocks back on any thread, and the block is nobody else's.
unsafe impl Send for Block<'_> {}

impl<'a> Block<'a> {
    /// A block of `size` bytes, not 0.
    #[inline]
    pub fn new(source: &'a dyn Source, size: usize) -> Self {
        let block = black_box(source.allocate(black_box(size)));
        Self {
            source,
            block,
            size,
        }
    }

    /// Changes the size, to anything but 0.
    pub fn grow(&mut self, size: usize) {
        // SAFETY: the block is live, ours and of this size.
        self.block = unsafe { self.source.grow(self.block, self.size, size) };
        self.size = size;
    }

    /// Writes one byte on every page from `from` on.
    #[inline]
    pub fn touch(&mut self, from: usize) {
        for offset in (from..self.size).step_by(4096) {
            // SAFETY: the offset is within the block.
            let byte = unsafe { self.block.add(offset) };
            // SAFETY: the block is live and ours.
            unsafe { byte.write_volatile(1) };
        }
    }
}

impl Drop for Block<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: it is live, of this source and size, and goes.
        unsafe { self.source.free(self.block, self.size) };
    }
}

/// Functions of a library.
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
    // SAFETY: the pointer is writable, and the alignment a power of two and a word's multiple.
    match unsafe { libc::posix_memalign(&raw mut block, 64, size) } {
        0 => block.cast(),
        _ => ptr::null_mut(),
    }
}

/// There is no aligned `realloc`: the new block may be aligned to 16 bytes only.
///
/// # Safety
///
/// As for [`Source::grow`].
unsafe fn realloc(block: *mut u8, _old: usize, new: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { libc::realloc(block.cast(), new) }.cast()
}

const JEMALLOC: i32 = tikv_jemalloc_sys::MALLOCX_ALIGN(64);
