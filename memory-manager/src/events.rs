//! How `tracing` events are emitted: with no lock held, never one inside another, and without unwinding
//! out of a `Drop`.
//!
//! While a thread emits one event it emits no other: a subscriber whose own allocation is refused does not
//! hear of that, which would have no end.

use std::any::Any;
use std::cell::Cell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local!(static EMITTING: Cell<bool> = const { Cell::new(false) });

/// Whether this thread is emitting an event: then a subscriber's code runs.
pub fn is_emitting() -> bool {
    EMITTING.get()
}

/// Runs `emit` unless this thread is emitting an event already.
pub fn once(emit: impl FnOnce()) {
    /// Ends the exclusion, also when a subscriber panics.
    struct Emitting;
    impl Drop for Emitting {
        fn drop(&mut self) {
            EMITTING.set(false);
        }
    }
    if !EMITTING.replace(true) {
        let _emitting = Emitting;
        emit();
    }
}

/// Runs `emit` unless this thread is emitting an event already, and ignores a subscriber's panic.
///
/// For events that a `Drop` may emit. Another event about the panic would meet the same subscriber.
#[cold]
pub fn once_in_drop(emit: impl FnOnce()) {
    catch(|| once(emit));
}

/// Runs a user's code inside a `Drop`; returns whether it panicked.
pub fn catch(run: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(()) => false,
        Err(panic) => {
            drop_payload(panic);
            true
        }
    }
}

/// Drops the payload of a panic. If that panics as well, the second payload is leaked.
#[cold]
pub fn drop_payload(panic: Box<dyn Any + Send>) {
    catch_unwind(AssertUnwindSafe(|| drop(panic))).unwrap_or_else(std::mem::forget);
}

/// Emits a warning, or writes a line to standard error if no subscriber gets the warning: there is none, this
/// thread is inside another event, or the subscriber panics. Does not unwind.
pub fn tell(emit: impl FnOnce(), line: impl FnOnce() -> String) {
    let mut heard = false;
    catch(|| {
        once(|| {
            emit();
            heard = tracing::dispatcher::has_been_set();
        });
    });
    if !heard {
        say(&line());
    }
}

/// Writes a line to standard error, which may be closed.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Warns that an environment variable has a value without a meaning.
pub fn variable_ignored(line: &str) {
    tell(|| tracing::warn!("{line}"), || line.to_owned());
}

/// A manager's own `Drop` panicked, where nobody can be told of it but by an event.
#[cold]
pub fn manager_panicked() {
    once_in_drop(|| tracing::error!("a manager panicked when it was dropped; ignored"));
}
