//! A handler for forked children, by `pthread_atfork`.
#![expect(unsafe_code, reason = "calls libc")]

/// Has every later `fork` of the process call `handler` in the child, on its only thread.
pub(super) fn in_children(handler: extern "C" fn()) {
    // It fails only without memory for its table; then children are as they were.
    // SAFETY: the handler is a function of this crate, which is never unloaded while its code runs.
    let _ = unsafe { libc::pthread_atfork(None, None, Some(handler)) };
}
