//! The contract of a manager. A binary of its own, since what is resident is the process's.
//!
//! With mimalloc 2 `unused_memory_is_given_back` passes alone only: what the threads of other tests
//! left behind is not reached.

use std::sync::Arc;

use arrow_memory_manager::conformance_suite;
use arrow_memory_mimalloc::MimallocManager;

conformance_suite!(mimalloc, Arc::new(MimallocManager::new()));
