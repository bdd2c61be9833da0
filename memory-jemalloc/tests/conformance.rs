//! The contract of a manager. A binary of its own, since what is resident is the process's.

use std::sync::Arc;

use arrow_memory_core::conformance_suite;
use arrow_memory_jemalloc::JemallocManager;

conformance_suite!(jemalloc, Arc::new(JemallocManager::new()));
