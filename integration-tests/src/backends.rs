//! Runs scenarios over every backend.

use std::sync::Arc;

use arrow_memory_core::{AllocationManager, backend};

/// Makes a test of every scenario for every backend: `fn scenario(backend: &Arc<dyn
/// AllocationManager>)` becomes the tests `system::scenario` and so on.
///
/// A new backend is one line here (and a dependency of this package). Once per module. The arena
/// stands on the preferred one of the others, or on what `ARROW_DEFAULT_MEMORY_POOL` names.
#[macro_export]
macro_rules! for_every_backend {
    ($($scenario:ident),+ $(,)?) => {
        $crate::on_backend!(system, arrow_memory_system: $($scenario),+);
        $crate::on_backend!(jemalloc, arrow_memory_jemalloc: $($scenario),+);
        $crate::on_backend!(mimalloc, arrow_memory_mimalloc: $($scenario),+);
        $crate::on_backend!(arena, arrow_memory_arena: $($scenario),+);
    };
}

/// The tests of one backend: its name and the crate that registers it.
#[doc(hidden)]
#[macro_export]
macro_rules! on_backend {
    ($backend:ident, $library:ident: $($scenario:ident),+) => {
        mod $backend {
            use $library as _;

            $(
                #[test]
                fn $scenario() {
                    super::$scenario(&$crate::backends::manager(stringify!($backend)));
                }
            )+
        }
    };
}

/// The backend of this name.
///
/// # Panics
///
/// If none of this name is linked, or it does not start.
pub fn manager(name: &str) -> Arc<dyn AllocationManager> {
    backend::manager(name).unwrap_or_else(|error| panic!("{error}"))
}
