//! The contract of a manager: an arena over the system's allocator. A binary of its own, since what is resident is the process's.

use std::sync::Arc;

use arrow_memory_arena::Arena;
use arrow_memory_core::conformance_suite;
use arrow_memory_system::SystemManager;

conformance_suite!(
    over_system,
    Arc::new(
        Arena::builder()
            .parent(Arc::new(SystemManager::new()))
            .build()
            .unwrap()
    )
);
