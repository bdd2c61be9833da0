//! Checks the contract of a manager with one arena for all blocks. This is a binary of its own, since
//! resident memory is counted for the process.

use std::sync::Arc;

use arrow_memory_jemalloc::JemallocManager;
use arrow_memory_manager::conformance_suite;

conformance_suite!(
    dedicated_arena,
    Arc::new(
        JemallocManager::builder()
            .dedicated_arena(true)
            .build()
            .unwrap()
    )
);
