//! Two backends that nothing but their registration names.

use arrow_memory_arena as _;
use arrow_memory_core::{RootAllocator, backend};
use arrow_memory_system as _;

/// 0 if both are there and a root can be made on the preferred one; called from Python, too.
#[unsafe(no_mangle)]
pub extern "C" fn missing_backends() -> i32 {
    let supported = backend::supported();
    eprintln!("supported: {supported:?}");
    let all = supported == ["system", "arena"];
    let root = RootAllocator::try_new(1 << 20);
    let preferred = root.is_ok_and(|root| root.allocation_manager().name() == "system");
    i32::from(!all) + 2 * i32::from(!preferred)
}
