//! The contract of a manager. A binary of its own, since what is resident is the process's.

use std::sync::Arc;

use arrow_memory_jemalloc::JemallocManager;
use arrow_memory_manager::conformance_suite;

conformance_suite!(jemalloc, Arc::new(JemallocManager::new()));
