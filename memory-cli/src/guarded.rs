//! Calls into decoders, which may panic on corrupt files.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

use crate::failure::Failure;

thread_local! {
    /// Whether a panic on this thread is about the file that is being read.
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics within [`guarded`] from printing a backtrace at the user.
pub(crate) fn install_hook() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !READING.get() {
            default(info);
        }
    }));
}

/// Calls a decoder. That it panics says that the file is corrupt in a way it did not foresee.
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
