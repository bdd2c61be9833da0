//! [`is_installed`]: whether the program's allocator is an [`Attributed`](crate::Attributed).

use std::hint::black_box;
use std::sync::atomic::{AtomicU8, Ordering};

use arrow_memory_core::__private::heap;

use crate::shadow;
use crate::wrapper::THRESHOLD;

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// Returns whether the program's global allocator is an [`Attributed`](crate::Attributed), so that scopes charge what
/// is allocated in them.
///
/// The first call allocates a block; later ones cost a load.
pub fn is_installed() -> bool {
    // Not a `OnceLock`, whose lock a fork could find taken. Two threads find the same.
    static INSTALLED: AtomicU8 = AtomicU8::new(UNKNOWN);
    // Relaxed, both: the value guards no memory.
    let known = INSTALLED.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known == YES;
    }
    let installed = shadow::SUPPORTED && heap::is_installed(allocate);
    INSTALLED.store(if installed { YES } else { NO }, Ordering::Relaxed);
    installed
}

/// Allocates a block that would be attributed.
fn allocate() {
    drop(black_box(Vec::<u8>::with_capacity(THRESHOLD)));
}
