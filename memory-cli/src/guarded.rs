//! Calls into decoders, which may panic on corrupt files.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

use crate::failure::Failure;

thread_local! {
    /// Whether this thread is in a decoder, so that a panic is about the file.
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics within [`guarded`] from printing a message and a backtrace.
pub(crate) fn install_hook() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !READING.get() {
            default(info);
        }
    }));
}

/// Calls a decoder. If it panics, the file is corrupt in a way that the decoder does not check.
pub(crate) fn guarded<T, E: From<Failure>>(decode: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let before = READING.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(decode));
    READING.set(before);
    outcome.unwrap_or_else(|payload| {
        Err(E::from(Failure::new(format!(
            "the file is corrupt: its decoder gave up ({})",
            text(payload.as_ref())
        ))))
    })
}

fn text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("without a reason")
}
