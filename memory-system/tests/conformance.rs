//! Checks the contract of a manager. This is a binary of its own, since the statistics are those of the
//! process.

use std::sync::Arc;

use arrow_memory_manager::conformance_suite;
use arrow_memory_system::SystemManager;

conformance_suite!(system, Arc::new(SystemManager::new()));
