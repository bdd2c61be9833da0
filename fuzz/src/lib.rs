//! The common code of the fuzz targets.

use std::panic::{Location, PanicHookInfo};

/// Silences panics of arrow-rs on bad input, which callers catch and return as errors; libFuzzer's hook would
/// abort. Panics in the targets themselves are printed and unwind out of the target, which stops the fuzzer.
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
