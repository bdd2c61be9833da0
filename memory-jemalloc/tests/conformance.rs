//! Checks the contract of a manager. This is a binary of its own, since resident memory is counted for the
//! process.

use std::sync::Arc;

use arrow_memory_jemalloc::JemallocManager;
use arrow_memory_manager::conformance_suite;

conformance_suite!(jemalloc, Arc::new(JemallocManager::new()));
