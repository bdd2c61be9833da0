//! A reference to the crate is enough to make it the default.

use arrow_memory_jemalloc as _;
use arrow_memory_manager::backend;

#[test]
fn the_backend_is_linked_and_preferred() {
    assert_eq!(backend::supported(), ["jemalloc"]);
    assert_eq!(backend::default_manager().unwrap().name(), "jemalloc");
}
