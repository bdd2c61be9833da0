//! A program whose global allocator is another one.

use arrow_memory_core::RootAllocator;
use arrow_memory_global::Scope;
use arrow_memory_system as _;

#[test]
fn a_scope_charges_nothing_where_the_wrapper_is_not_the_global_allocator() {
    assert!(!arrow_memory_global::is_installed());
    assert!(!arrow_memory_global::is_installed());
    let root = RootAllocator::unlimited();
    let scope = Scope::new(&root).expect("it is open");
    let held = scope.run(|| vec![1; 5000]);
    assert_eq!((held.len(), root.allocated_memory()), (5000, 0));
}
