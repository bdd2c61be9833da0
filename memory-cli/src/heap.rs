//! The program's allocator: the system's, which ends the program with one line when memory runs out. What a scan's
//! decoder allocates there is attributed.
#![expect(
    unsafe_code,
    reason = "a global allocator is an unsafe trait; it hands every call on"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write as _;

use arrow_memory_global::Attributed;

/// The system's allocator. A refused request ends the program with one line and exit code 1, where
/// the standard library would abort.
///
/// Accounted memory is not allocated here: backends call their own allocators, whose refusals are errors. Nor
/// are the stacks of threads and the memory of C libraries.
struct Heap;

#[global_allocator]
static HEAP: Attributed<Heap> = Attributed::new(Heap);

// SAFETY: every method passes its arguments to `System`, which implements the trait, and returns its result;
// if that is null, the process ends.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which `System.alloc` has, too.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which `System.alloc_zeroed` has, too.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `realloc`; `block` came from `System`.
        given(unsafe { System.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`; `block` came from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}

fn given(block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() {
        end(size);
    }
    block
}

/// Reports the refused request in one line. Allocates nothing, takes no lock and runs no destructor.
#[cold]
fn end(size: usize) -> ! {
    let mut line = [0_u8; 160];
    let mut rest = &mut line[..];
    // The buffer is long enough for the longest number.
    let _ = writeln!(
        rest,
        "error: out of memory: the system refused {size} bytes; raise the limit of its address space (ulimit -v), or use a smaller --batch-size"
    );
    let left = rest.len();
    let written = line.len() - left;
    exit::now(&line[..written])
}

#[cfg(unix)]
mod exit {
    /// Writes to standard error without a lock, and ends the process without running destructors.
    pub(super) fn now(line: &[u8]) -> ! {
        // SAFETY: the line is valid for reads of its length; the descriptor may be closed, which is
        // an error that changes nothing.
        unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
        // SAFETY: the call takes no pointers; it ends the process.
        unsafe { libc::_exit(1) }
    }
}

#[cfg(not(unix))]
mod exit {
    use std::io::Write as _;

    pub(super) fn now(line: &[u8]) -> ! {
        let _ = std::io::stderr().write_all(line);
        std::process::exit(1)
    }
}
