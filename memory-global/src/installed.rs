//! [`is_installed`]: whether the program's allocator is an [`Attributed`](crate::Attributed).

use std::hint::black_box;
use std::sync::OnceLock;

use crate::wrapper::THRESHOLD;
use arrow_memory_core::__private::heap;

use crate::shadow;

/// Returns whether the program's global allocator is an [`Attributed`](crate::Attributed), so that scopes charge what
/// is allocated in them.
///
/// The first call allocates a block; later ones cost a load.
pub fn is_installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        shadow::SUPPORTED
            && heap::is_installed(|| drop(black_box(Vec::<u8>::with_capacity(THRESHOLD))))
    })
}
