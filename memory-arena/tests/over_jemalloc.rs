//! Checks the contract of a manager for an arena over jemalloc. This is a binary of its own, since resident
//! memory is counted for the process.

use std::sync::Arc;

use arrow_memory_arena::Arena;
use arrow_memory_core::conformance_suite;
use arrow_memory_jemalloc::JemallocManager;

conformance_suite!(
    over_jemalloc,
    Arc::new(
        Arena::builder()
            .parent(Arc::new(JemallocManager::new()))
            .build()
            .unwrap()
    )
);
