//! Handlers around `fork`, by `pthread_atfork`.
#![expect(unsafe_code, reason = "calls libc")]

/// Has every `fork` of the process call `before` first, and when it is done `in_parent` in the parent and
/// `in_child` in the child, on the thread that forks.
pub(super) fn install(
    before: extern "C" fn(),
    in_parent: extern "C" fn(),
    in_child: extern "C" fn(),
) {
    // It fails only without memory for its table; then forks are as they were.
    // SAFETY: the handlers are functions of this crate, which is never unloaded while its code runs.
    let _ = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
}
