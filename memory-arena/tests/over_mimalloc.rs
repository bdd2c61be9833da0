//! The contract of a manager: an arena over mimalloc. A binary of its own, since what is resident is the process's.

use std::sync::Arc;

use arrow_memory_arena::Arena;
use arrow_memory_core::conformance_suite;
use arrow_memory_mimalloc::MimallocManager;

conformance_suite!(
    over_mimalloc,
    Arc::new(
        Arena::builder()
            .parent(Arc::new(MimallocManager::new()))
            .build()
            .unwrap()
    )
);
