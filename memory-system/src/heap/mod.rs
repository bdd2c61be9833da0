//! Blocks from the platform's heap.
//!
//! # 64-byte alignment at `malloc`'s price
//!
//! glibc keeps free blocks of up to 1 KiB per thread, and finds one in 10 ns, for `malloc` only:
//! `posix_memalign` always takes the long way, splits a larger block and frees what it cut off.
//! So a block that is aligned to 64 bytes or less is a `malloc` of 64 bytes more than asked for,
//! in which the block starts at the first multiple of 64 that leaves room for a word before it,
//! and that word is the address to free. It lies in the cache line that `malloc` and `free` write
//! their own header to. (A byte *behind* the block would do with 56 bytes instead of 64, at the
//! price of another line, and of another page behind large blocks.)
//!
//! Allocate and free, in ns (glibc 2.36, AMD EPYC 9004 virtualised, 2026-11-22, best mean of 5
//! rounds of 20,000 by `examples/measure.rs`). The last column is the whole manager, called
//! through the trait and counting, whose share is 4 ns. At 1 KiB it is 26 ns dearer than `malloc`, since
//! the word and the alignment push the block out of glibc's per-thread lists, which end at 1,032 bytes
//! (`glibc.malloc.tcache_max`, a tunable that is the program's): it costs what `malloc` takes for 1,088.
//! A list of our own would save that, and would hide what AddressSanitizer and valgrind find in
//! freed blocks, for which this backend is the one to use:
//!
//! | bytes | `malloc` | `posix_memalign` | this manager |
//! |---|---|---|---|
//! | 64 | 8 | 52 | 14 |
//! | 256 | 8 | 58 | 14 |
//! | 1,024 | 8 | 75 | 34 |
//! | 4,096 | 27 | 62 | 32 |
//! | 65,536 | 17 | 51 | 26 |
//!
//! Larger alignments are rare, and go to `posix_memalign`.

#[cfg(not(unix))]
mod fallback;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub(crate) use fallback::{allocate, allocate_zeroed, deallocate, reallocate, release_unused};
#[cfg(unix)]
pub(crate) use unix::{allocate, allocate_zeroed, deallocate, reallocate, release_unused};
