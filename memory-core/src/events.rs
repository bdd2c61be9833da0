//! Every `tracing` event and span of the tree. `docs/events.md` lists them, with their fields; a test
//! compares it with this file.
//!
//! `info` shows nothing in normal work. All targets start with `arrow_memory_core`.
//!
//! Nothing is emitted while a lock is held, so a subscriber may use the tree that it hears of. While
//! a thread emits one event it emits no other: a subscriber whose own allocation is refused does not
//! hear of that, which would have no end.
//!
//! A subscriber may panic. Where an event belongs to a call, that panic goes to the caller; where it
//! may be emitted by a `Drop`, it is caught and ignored ([`once_in_drop`]).

use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{AllocError, OneLine};
use crate::outcome::AllocatorInfo;
use crate::report::CloseError;

/// Runs `emit` unless this thread is emitting an event already.
pub(crate) fn once(emit: impl FnOnce()) {
    thread_local!(static EMITTING: Cell<bool> = const { Cell::new(false) });
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

/// As [`once`], for an event that a `Drop` may emit: a subscriber's panic is caught and ignored, since
/// another event about it would meet the same subscriber.
#[cold]
fn once_in_drop(emit: impl FnOnce()) {
    catch(|| once(emit));
}

/// Runs what users wrote in a `Drop`: whether it panicked.
pub(crate) fn catch(run: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(()) => false,
        Err(panic) => {
            drop_payload(panic);
            true
        }
    }
}

/// Drops what a panic carried, which may panic, too. What that leaves behind is not dropped.
#[cold]
pub(crate) fn drop_payload(panic: Box<dyn Any + Send>) {
    catch_unwind(AssertUnwindSafe(|| drop(panic))).unwrap_or_else(std::mem::forget);
}

/// Emits a warning, and writes a line to standard error where that is not heard: without a subscriber,
/// from inside another event, or if the subscriber panics. Does not unwind.
pub(crate) fn tell(emit: impl FnOnce(), line: impl FnOnce() -> String) {
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
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether debug mode is asked for by a subscriber that wants everything of this crate.
pub(crate) fn traced() -> bool {
    let mut traced = false;
    once(|| traced = tracing::enabled!(target: "arrow_memory_core", tracing::Level::TRACE));
    traced
}

pub(crate) fn child_created(
    child: &AllocatorInfo,
    parent: &AllocatorInfo,
    reservation: usize,
    limit: usize,
) {
    once(|| {
        tracing::debug!(
            allocator = %child, id = child.id.as_u64(), %parent, reservation, limit,
            "child allocator created"
        );
    });
}

pub(crate) fn child_refused(child: &AllocatorInfo, reservation: usize, error: &AllocError) {
    once(|| {
        let error = OneLine(error);
        tracing::debug!(allocator = %child, size = reservation, %error, "child allocator refused");
    });
}

#[cold]
pub(crate) fn refused(size: usize, error: &AllocError) {
    once(|| {
        let allocator = error.allocator().map(tracing::field::display);
        let error = OneLine(error);
        tracing::debug!(allocator, size, %error, "allocation refused");
    });
}

/// A span around work that may be slow.
pub(crate) fn slow(
    work: &'static str,
    allocator: &AllocatorInfo,
) -> Option<tracing::span::EnteredSpan> {
    let mut span = None;
    once(|| {
        span = Some(
            tracing::debug_span!("slow", work, %allocator, id = allocator.id.as_u64()).entered(),
        );
    });
    span
}

pub(crate) fn closed(allocator: &AllocatorInfo) {
    once(
        || tracing::debug!(%allocator, id = allocator.id.as_u64(), outcome = "closed", "allocator closed"),
    );
}

pub(crate) fn retired(allocator: &AllocatorInfo) {
    once(
        || tracing::debug!(%allocator, id = allocator.id.as_u64(), outcome = "retired", "allocator retired"),
    );
}

pub(crate) fn close_refused(error: &CloseError) {
    once(|| {
        let CloseError {
            allocator,
            allocated,
            ..
        } = error;
        tracing::error!(
            %allocator, id = allocator.id.as_u64(), size = allocated, outcome = "outstanding", %error,
            "closed with memory outstanding"
        );
    });
}

pub(crate) fn over_limit_after_transfer(from: &AllocatorInfo, to: &AllocatorInfo, size: usize) {
    once(|| {
        tracing::debug!(allocator = %to, id = to.id.as_u64(), %from, size, outcome = "over limit", "over limit after a transfer");
    });
}

/// Whether anybody wants to hear of late releases; asked before the lock is taken.
pub(crate) fn wants_late_release() -> bool {
    tracing::level_filters::LevelFilter::current() >= tracing::Level::DEBUG
}

pub(crate) fn late_release(allocator: &AllocatorInfo, size: usize) {
    once_in_drop(|| {
        tracing::debug!(%allocator, id = allocator.id.as_u64(), size, "release after close");
    });
}

pub(crate) fn external_bytes_outlived(allocator: &AllocatorInfo, size: usize) {
    once_in_drop(|| {
        tracing::warn!(
            %allocator, size,
            "external bytes were still charged when the last handle was dropped; released"
        );
    });
}

/// The last handle went and memory stays: a leak perhaps, so in debug mode a warning.
pub(crate) fn outlived(allocator: &AllocatorInfo, size: usize, debug: bool) {
    once_in_drop(|| {
        if debug {
            tracing::warn!(%allocator, size, "last handle dropped with memory outstanding");
        } else {
            tracing::debug!(%allocator, size, "last handle dropped with memory outstanding");
        }
    });
}

pub(crate) fn callback_panicked(allocator: &AllocatorInfo) {
    once_in_drop(|| tracing::error!(%allocator, "a callback panicked during a release; ignored"));
}

pub(crate) fn manager_panicked() {
    once_in_drop(|| {
        tracing::error!("a manager panicked when it was dropped with its tree; ignored")
    });
}

pub(crate) fn leaked(allocator: &AllocatorInfo, finding: &dyn Display) {
    once_in_drop(|| tracing::error!(%allocator, %finding, "leak in a failing test"));
}

/// An environment variable has a value that means nothing.
pub(crate) fn variable_ignored(line: &str) {
    tell(|| tracing::warn!("{line}"), || line.to_owned());
}

/// A collection was refused a block; it may be about to abort the program.
#[cfg(feature = "allocator-api2")]
#[cold]
pub(crate) fn collection_refused(error: &AllocError) {
    let size = error.requested();
    let allocator = error.allocator().map(tracing::field::display);
    let error = OneLine(error);
    tell(
        || tracing::warn!(allocator, size, %error, "a collection was refused memory"),
        || format!("a collection was refused memory: {error}"),
    );
}
