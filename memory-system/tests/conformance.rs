//! The contract of a manager. A binary of its own, since statistics are the process's.

use std::sync::Arc;

use arrow_memory_manager::conformance_suite;
use arrow_memory_system::SystemManager;

conformance_suite!(system, Arc::new(SystemManager::new()));
