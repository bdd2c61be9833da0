//! The sum of all attributed bytes, alone in its process, since other tests would change it.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

use std::alloc::System;

use arrow_memory_arrow::Accounted;
use arrow_memory_arrow::deps::arrow_buffer::Buffer;
use arrow_memory_core::__private::heap::attributed;
use arrow_memory_core::RootAllocator;
use arrow_memory_global::{Attributed, Scope};
use arrow_memory_system as _;

#[global_allocator]
static GLOBAL: Attributed<System> = Attributed::new(System);

/// Fails if what moved to a ledger is left out, or is not taken off again when it returns, or when it was refused.
#[test]
fn what_was_adopted_is_attributed_as_long_as_it_lives() {
    let root = RootAllocator::new(1 << 20);
    let scope = Scope::new(&root).unwrap();
    let small = root.child("small").limit(100).build().unwrap();
    let buffer = scope.run(|| Buffer::from_vec(vec![7_u8; 8000]));
    assert_eq!(attributed(), 8000);

    let adopted = buffer.clone().adopt(&root).unwrap();
    assert_eq!(attributed(), 8000);
    drop(adopted);
    assert_eq!(attributed(), 8000);
    let refused = buffer.clone().adopt(&small).unwrap_err();
    assert_eq!(attributed(), 8000);
    let adopted = refused.value.adopt(&root).unwrap();
    drop(buffer);
    assert_eq!(attributed(), 8000);
    drop(adopted);
    assert_eq!(attributed(), 0);
}
