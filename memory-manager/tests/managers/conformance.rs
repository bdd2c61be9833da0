use std::sync::Arc;

use arrow_memory_manager::testing::{TrackingManager, conformance};
use arrow_memory_manager::{
    AllocationManager, CachingManager, CappedManager, GuardAction, GuardedManager, LoggingManager,
    ProxyManager, conformance_suite,
};
use arrow_memory_system::SystemManager;

/// The backend behind a counter, since its own statistics are those of the whole process.
fn system() -> Arc<dyn AllocationManager> {
    Arc::new(ProxyManager::new(Arc::new(SystemManager::new())))
}

conformance_suite!(proxy, system());
conformance_suite!(caching, Arc::new(CachingManager::new(system())));
conformance_suite!(capped, Arc::new(CappedManager::new(system(), usize::MAX)));
conformance_suite!(logging, Arc::new(LoggingManager::new(system())));
conformance_suite!(
    guarded,
    Arc::new(GuardedManager::new(system(), GuardAction::Abort))
);
conformance_suite!(
    guarded_by_nothing,
    Arc::new(GuardedManager::new(system(), GuardAction::None))
);
conformance_suite!(
    all_at_once,
    Arc::new(LoggingManager::new(Arc::new(GuardedManager::new(
        Arc::new(CachingManager::new(Arc::new(CappedManager::new(
            system(),
            1 << 40
        )))),
        GuardAction::Abort
    ))))
);

#[test]
fn wrappers_give_all_they_took_back_with_the_layouts_they_took_it_with() {
    type Wrap = fn(Arc<TrackingManager>) -> Arc<dyn AllocationManager>;
    let wrap: [Wrap; 5] = [
        |inner| Arc::new(ProxyManager::new(inner)),
        |inner| Arc::new(CachingManager::new(inner)),
        |inner| Arc::new(CappedManager::new(inner, usize::MAX)),
        |inner| Arc::new(LoggingManager::new(inner)),
        |inner| Arc::new(GuardedManager::new(inner, GuardAction::Abort)),
    ];
    for wrap in wrap {
        // Not over malloc, whose adaptive trimming this would change for the other tests.
        let tracking = Arc::new(TrackingManager::over(system()));
        let wrapper = wrap(Arc::clone(&tracking));

        conformance::check(&*wrapper);
        drop(wrapper);

        tracking.assert_clean();
    }
}
