//! Large blocks, in pages of their own.
//!
//! On Linux a block of [`THRESHOLD`] bytes or more is a mapping: it grows by `mremap`, which moves
//! page tables and not bytes, and goes back to the system without a hole in the heap.
//!
//! # What a fresh page costs, and what is done about it
//!
//! The system clears a page when it is first touched, which takes 0.3 to 1.7 µs per 4 KiB (the
//! upper end in virtual machines): far more than all else. So
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
//! It is the size of a huge page: what is smaller gains nothing from a mapping of its own, and
//! the heap serves it well. Times in µs per block (glibc 2.36, AMD EPYC 9004 virtualised, kernel
//! 6.18, huge pages on `madvise`, 2026-11-22, best of 5 and 3 rounds by `examples/measure.rs`).
//! One block at a time, each page written to:
//!
//! | bytes | `malloc` | `mmap` | `mmap`, huge pages | this manager |
//! |---|---|---|---|---|
//! | 256 KiB | 0.4 | 93 | 93 | 0.3 |
//! | 1 MiB | 1.8 | 365 | 359 | 1.7 |
//! | 2 MiB | 3.9 | 732 | 53 | 3.9 |
//! | 16 MiB | 33 | 7,275 | 445 | 33 |
//! | 64 MiB | 29,189 | 28,769 | 5,413 | 127 |
//! | 100 MiB | 45,785 | 45,645 | 8,188 | 8,345 |
//!
//! 128 MiB of blocks held together, each page written to, and then all freed:
//!
//! | bytes | `malloc` | `mmap` | `mmap`, huge pages | this manager |
//! |---|---|---|---|---|
//! | 256 KiB | 118 | 121 | 22 | 117 |
//! | 1 MiB | 459 | 454 | 95 | 480 |
//! | 2 MiB | 912 | 913 | 183 | 99 |
//! | 16 MiB | 7,347 | 7,443 | 1,381 | 758 |
//! | 64 MiB | 29,859 | 30,465 | 5,682 | 3,017 |
//!
//! (Mappings below 2 MiB are cheap in the second table where the kernel merges neighbours into
//! huge pages, which it can do for blocks that come one after the other only: the first table has
//! the rule.) Growth by doubling from 64 KiB to 1 GiB, each new page written to, takes 99 ms; with
//! `realloc` it takes 486, with `mremap` in small pages 464, by allocating, copying and freeing
//! 1,174. A threshold from 128 KiB to 32 MiB made no difference to it.

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

/// From how many bytes on a block has pages of its own, where there are pages.
#[cfg(target_os = "linux")]
const THRESHOLD: usize = 2 * 1024 * 1024;
