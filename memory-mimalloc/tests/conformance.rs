//! Checks the contract of a manager. This is a binary of its own, since resident memory is counted for the
//! process.
//!
//! With mimalloc 2 `unused_memory_is_given_back` passes only if it runs alone: it does not reach the memory
//! that threads of other tests left behind.

use std::sync::Arc;

use arrow_memory_manager::conformance_suite;
use arrow_memory_mimalloc::MimallocManager;

conformance_suite!(mimalloc, Arc::new(MimallocManager::new()));
