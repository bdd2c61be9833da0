//! Checks the contract of a manager for an arena over mimalloc. This is a binary of its own, since resident
//! memory is counted for the process.

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
