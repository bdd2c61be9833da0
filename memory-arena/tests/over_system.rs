//! Checks the contract of a manager for an arena over the system's allocator. This is a binary of its own,
//! since resident memory is counted for the process.

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
