//! Blocks from the platform's heap.
//!
//! # 64-byte alignment at `malloc`'s price
//!
//! glibc keeps free blocks of up to 1 KiB per thread, and finds one in 10 ns, for `malloc` only:
//! `posix_memalign` always uses the slow path, splits a larger block and frees the rest.
//! So a block that is aligned to 64 bytes or less is a `malloc` of 64 bytes more than asked for,
//! in which the block starts at the first multiple of 64 that leaves room for a word before it,
//! and that word is the address to free. It lies in the cache line that `malloc` and `free` write
//! their own header to. (A byte *behind* the block would do with 56 bytes instead of 64, at the
//! price of another line, and of another page behind large blocks.)
//!
//! Allocate and free, in ns (glibc 2.36, AMD EPYC virtualised, 2026-11-22, best of all rounds of `cargo bench
//! -p arrow-memory-benches --bench backends -- --quick`). The last column is the whole manager, called through
//! the trait and counting:
//!
//! | | `posix_memalign` | this manager |
//! |---|---:|---:|
//! | 64 B | 42.4 | 14.4 |
//! | 256 B | 67.1 | 13.6 |
//! | 1 KiB | 39.2 | 23.6 |
//! | 4 KiB | 38.8 | 23.8 |
//! | 64 KiB | 41.0 | 22.7 |
//!
//! Blocks from 1 KiB on cost more than smaller ones, since the word and the alignment push the block out of glibc's
//! per-thread lists, which end at 1,032 bytes (`glibc.malloc.tcache_max`, a tunable that is the program's). A
//! list of our own would save that, and would hide what AddressSanitizer and valgrind find in freed blocks,
//! for which this backend is the one to use.
//!
//! Larger alignments are rare; `posix_memalign` serves them.

#[cfg(not(unix))]
mod fallback;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub(crate) use fallback::{allocate, allocate_zeroed, deallocate, reallocate, release_unused};
#[cfg(unix)]
pub(crate) use unix::{allocate, allocate_zeroed, deallocate, reallocate, release_unused};
