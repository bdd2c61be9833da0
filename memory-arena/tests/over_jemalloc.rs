//! The contract of a manager: an arena over jemalloc. A binary of its own, since what is resident is the process's.

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
