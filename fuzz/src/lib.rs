//! What the targets have in common.

use std::panic::{Location, PanicHookInfo};

/// Panics of arrow-rs on bad input are caught and become errors, where libFuzzer would stop at them.
/// Our own, in the targets, are printed and stop it: they unwind out of the target.
pub fn let_arrow_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
            let is_ours = |at: &Location<'_>| at.file().contains("fuzz_targets");
            if panic.location().is_none_or(is_ours) {
                eprintln!("{panic}");
            }
        }));
    });
}
