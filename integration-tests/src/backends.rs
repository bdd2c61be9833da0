//! Runs scenarios over every backend.

use std::sync::Arc;

use arrow_memory_core::{AllocationManager, backend};

/// Makes a test of each scenario and backend: `fn scenario(backend: &Arc<dyn AllocationManager>)` becomes the
/// tests `system::scenario` and so on.
///
/// A new backend needs one line here, and a dependency of this package. Call the macro once per module. The
/// arena takes its memory from the preferred one of the other backends, or from the one that
/// `ARROW_DEFAULT_MEMORY_POOL` names.
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
/// If no backend of this name is linked, or if it does not start.
pub fn manager(name: &str) -> Arc<dyn AllocationManager> {
    backend::manager(name).unwrap_or_else(|error| panic!("{error}"))
}
