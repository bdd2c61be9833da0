//! The contract of [`AllocationManager`], promise by promise.
//!
//! [`conformance_suite!`](crate::conformance_suite) makes a test of each function here; each
//! panics where the manager breaks the promise that it is named after. Nothing else may use the manager
//! meanwhile, since they compare its statistics before and after.

mod bytes;
mod contents;
mod resident;
mod statistics;
mod threads;

pub use self::contents::{
    blocks_are_aligned, blocks_of_every_size_are_usable, growth_and_shrinking_keep_the_contents,
    live_blocks_do_not_overlap, zeroed_blocks_are_zero,
};
pub use self::resident::{resident_memory_may_change, unused_memory_is_given_back};
pub use self::statistics::{impossible_sizes_are_refused_without_side_effects, statistics_add_up};
pub use self::threads::{blocks_may_be_freed_on_another_thread, many_threads_may_work_at_once};

use crate::manager::AllocationManager;

/// Makes a module with one test for each promise of a manager.
///
/// The expression makes the manager, as an `Arc`; it is evaluated once per test, and the tests of
/// one module run one after the other. The one about unused memory, which looks at the whole
/// process, waits for those of all modules; see [`resident_memory_may_change`] for other tests. A
/// manager that does not claim to give unused memory back says `keeps_unused_memory`.
///
/// ```
/// use std::sync::Arc;
///
/// use arrow_memory_manager::conformance_suite;
/// use arrow_memory_manager::testing::{StdManager, TrackingManager};
///
/// conformance_suite!(tracking, Arc::new(TrackingManager::new()), keeps_unused_memory);
/// ```
#[macro_export]
macro_rules! conformance_suite {
    ($module:ident, $manager:expr $(,)?) => {
        $crate::conformance_suite! {
            @tests $module, $manager, unused_memory_is_given_back
        }
    };
    ($module:ident, $manager:expr, keeps_unused_memory $(,)?) => {
        $crate::conformance_suite! {
            @tests $module, $manager,
        }
    };
    (@tests $module:ident, $manager:expr, $($promise:ident)?) => {
        $crate::conformance_suite! {
            @each $module, $manager,
            blocks_are_aligned
            blocks_of_every_size_are_usable
            live_blocks_do_not_overlap
            zeroed_blocks_are_zero
            growth_and_shrinking_keep_the_contents
            blocks_may_be_freed_on_another_thread
            many_threads_may_work_at_once
            impossible_sizes_are_refused_without_side_effects
            statistics_add_up
            $($promise)?
        }
    };
    (@each $module:ident, $manager:expr, $($promise:ident)*) => {
        mod $module {
            #[allow(unused_imports, reason = "the manager's expression may need them")]
            use super::*;

            static ONE_AT_A_TIME: ::std::sync::Mutex<()> = ::std::sync::Mutex::new(());

            $(
                #[test]
                fn $promise() {
                    let _alone = ONE_AT_A_TIME
                        .lock()
                        .unwrap_or_else(::std::sync::PoisonError::into_inner);
                    let manager: ::std::sync::Arc<dyn $crate::AllocationManager> = $manager;
                    $crate::testing::conformance::$promise(&*manager);
                }
            )*
        }
    };
}

/// Checks all promises, one after the other, but for
/// [`unused_memory_is_given_back`], which not every manager claims.
///
/// ```no_run
/// # use arrow_memory_manager::testing::conformance;
/// conformance::check(&arrow_memory_system::SystemManager::new());
/// ```
///
/// # Panics
///
/// If the manager breaks one.
pub fn check(manager: &dyn AllocationManager) {
    blocks_are_aligned(manager);
    blocks_of_every_size_are_usable(manager);
    live_blocks_do_not_overlap(manager);
    zeroed_blocks_are_zero(manager);
    growth_and_shrinking_keep_the_contents(manager);
    blocks_may_be_freed_on_another_thread(manager);
    many_threads_may_work_at_once(manager);
    impossible_sizes_are_refused_without_side_effects(manager);
    statistics_add_up(manager);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use crate::testing::{CountingManager, FailingManager, StdManager, TrackingManager};

    conformance_suite!(std_manager, Arc::new(StdManager), keeps_unused_memory);
    conformance_suite!(
        tracking_manager,
        Arc::new(TrackingManager::new()),
        keeps_unused_memory
    );
    conformance_suite!(
        counting_manager,
        Arc::new(CountingManager::new()),
        keeps_unused_memory
    );
    conformance_suite!(
        failing_manager,
        Arc::new(FailingManager::new()),
        keeps_unused_memory
    );
}
