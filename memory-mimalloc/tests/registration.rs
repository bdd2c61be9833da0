//! A reference to the crate is enough to make it the default.

use arrow_memory_manager::backend;
use arrow_memory_mimalloc as _;

#[test]
fn the_backend_is_linked_and_preferred() {
    assert_eq!(backend::supported(), ["mimalloc"]);
    assert_eq!(backend::default_manager().unwrap().name(), "mimalloc");
}
