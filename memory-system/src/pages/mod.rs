//! Large blocks, in pages of their own.
//!
//! On Linux a block of [`THRESHOLD`] bytes or more is a mapping: it grows by `mremap`, which moves
//! page tables and not bytes, and returns to the system without a hole in the heap.
//!
//! # What a fresh page costs, and what is done about it
//!
//! The system clears a page when it is first touched, which takes 0.3 to 1.7 µs per 4 KiB (the
//! upper end in virtual machines): far more than all other costs. So
//!
//! * mappings are aligned to 2 MiB and ask for huge pages, which cost 5 to 16 times less per byte.
//!   A mapping is as long as its block, so no more can be resident than was asked for. The
//!   alignment is also the largest that the tree asks for;
//! * up to 64 MiB that are given back are kept, whole, for the next block of about that size.
//!   (glibc's heap, which would serve these blocks otherwise, keeps as much at its end.) Zeroed
//!   blocks are fresh pages, which need no clearing.
//!
//! # Why from 2 MiB
//!
//! 2 MiB is the size of a huge page: a smaller block gains nothing from a mapping of its own, and the heap
//! serves it well. From 32 MiB on glibc maps each block anew, and pays for its pages each time. One block at a
//! time, each page written to, in ns (glibc 2.36, AMD EPYC virtualised, kernel 6.18, huge pages on `madvise`,
//! 2026-11-22, best of all rounds of `cargo bench -p arrow-memory-benches --bench backends -- --quick`):
//!
//! | | heap (`posix_memalign`) | this manager |
//! |---|---:|---:|
//! | 256 KiB | 406 | 328 |
//! | 1 MiB | 1694 | 1677 |
//! | 2 MiB | 3705 | 3162 |
//! | 4 MiB | 7985 | 6864 |
//! | 16 MiB | 56364 | 26987 |
//! | 32 MiB | 14373650 | 56592 |
//! | 64 MiB | 31094221 | 116925 |
//!
//! The same program measures growth by doubling from 64 KiB to 1 GiB, each new page written to, which is
//! bound by the pages that the system clears. A threshold from 128 KiB to 32 MiB made no difference to it.

#[cfg(target_os = "linux")]
mod cache;
#[cfg(not(target_os = "linux"))]
mod fallback;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
pub(crate) use fallback::{
    allocate, allocate_zeroed, cached_bytes, deallocate, reallocate, release_unused, serve,
};
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    allocate, allocate_zeroed, cached_bytes, deallocate, reallocate, release_unused, serve,
};

/// The minimum size of a block that has pages of its own, in bytes.
#[cfg(target_os = "linux")]
const THRESHOLD: usize = 2 * 1024 * 1024;
