//! Every `tracing` event and span of the tree. `docs/events.md` lists them, with their fields; a test
//! compares it with this file.
//!
//! A subscriber at level `info` gets no event in normal operation. All targets start with
//! `arrow_memory_core`.
//!
//! No event is emitted while a lock is held, so a subscriber may use the tree that the event is about.
//! While a thread emits one event it emits no other: otherwise a subscriber whose own allocation is
//! refused would cause events without end.
//!
//! A subscriber may panic. If the event belongs to a call, that panic propagates to the caller; if a
//! `Drop` may emit the event, the panic is caught and ignored ([`once_in_drop`]).

use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::error::{AllocError, OneLine};
use crate::outcome::AllocatorInfo;
use crate::report::CloseError;

pub(crate) use arrow_memory_manager::__private::events::{
    catch, drop_payload, is_emitting, manager_panicked, once, once_in_drop,
};

/// Returns whether a subscriber turns on debug mode by enabling level trace for this crate.
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

/// Opens a span around work that may be slow.
pub(crate) fn slow(
    work: &'static str,
    allocator: &AllocatorInfo,
) -> Option<tracing::span::EnteredSpan> {
    if !wants_debug() {
        return None;
    }
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

/// Returns whether late releases are logged; checked before the lock is taken.
pub(crate) fn wants_late_release() -> bool {
    wants_debug()
}

/// Returns whether a subscriber may want events of level debug. One load.
fn wants_debug() -> bool {
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

/// Logs that the last handle was dropped and memory stays allocated. It may be a leak, so in debug mode
/// this is a warning.
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

pub(crate) fn waits(allocator: &AllocatorInfo, size: usize) {
    once(|| tracing::debug!(%allocator, id = allocator.id.as_u64(), size, "waits for memory"));
}

pub(crate) fn waited(
    allocator: &AllocatorInfo,
    size: usize,
    waited: Duration,
    outcome: &'static str,
) {
    once(|| {
        let milliseconds = waited.as_millis() as u64;
        tracing::debug!(
            %allocator, id = allocator.id.as_u64(), size, milliseconds, outcome, "waited for memory"
        );
    });
}

pub(crate) fn no_timer(error: &std::io::Error) {
    once(|| tracing::error!(%error, "the timer thread could not be started: deadlines are late"));
}

pub(crate) fn waker_panicked() {
    once_in_drop(|| tracing::error!("a waker panicked; ignored"));
}

pub(crate) fn leaked(allocator: &AllocatorInfo, finding: &dyn Display) {
    once_in_drop(|| tracing::error!(%allocator, %finding, "leak in a failing test"));
}

/// Reports that a collection was refused a block; it may be about to abort the program.
#[cfg(feature = "allocator-api2")]
#[cold]
pub(crate) fn collection_refused(error: &AllocError) {
    let size = error.requested();
    let allocator = error.allocator().map(tracing::field::display);
    let error = OneLine(error);
    arrow_memory_manager::__private::events::tell(
        || tracing::warn!(allocator, size, %error, "a collection was refused memory"),
        || format!("a collection was refused memory: {error}"),
    );
}

thread_local! {
    /// How many callbacks of this crate the thread is in. Without a destructor.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Runs a callback in which nobody may wait for memory.
pub(crate) fn inside<T>(callback: impl FnOnce() -> T) -> T {
    let result = enter(callback);
    leave();
    result
}

/// Runs a callback in which nobody may wait for memory, nor afterwards until [`leave`]. A panic leaves.
#[inline(always)] // One instruction, for each allocation with a listener.
pub(crate) fn enter<T>(callback: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            leave();
        }
    }
    INSIDE.set(INSIDE.get() + 1);
    let panicking = Leave;
    let result = callback();
    std::mem::forget(panicking);
    result
}

/// Runs the part of a request that is not the callback's, between [`enter`] and [`leave`].
pub(crate) fn outside<T>(part: impl FnOnce() -> T) -> T {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            INSIDE.set(INSIDE.get() + 1);
        }
    }
    leave();
    let _back = Back;
    part()
}

/// Ends [`enter`].
#[inline(always)] // As `enter`.
pub(crate) fn leave() {
    INSIDE.set(INSIDE.get() - 1);
}

/// Whether the thread is in a callback of this crate, or in a subscriber.
pub(crate) fn is_inside() -> bool {
    INSIDE.get() > 0 || is_emitting()
}

/// Runs a callback in a `Drop`, in which nobody may wait: a panic is caught and reported.
pub(crate) fn quietly(allocator: &AllocatorInfo, callback: impl FnOnce()) {
    quietly_unmarked(allocator, || inside(callback));
}

/// Runs a callback in a `Drop`: a panic is caught and reported. For each release with a listener, where the
/// thread's hazard record says that it is in a callback.
#[inline(always)] // Otherwise the captures would be passed through memory.
pub(crate) fn quietly_unmarked(allocator: &AllocatorInfo, callback: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(callback)) {
        panicked(allocator, panic);
    }
}

#[cold]
fn panicked(allocator: &AllocatorInfo, panic: Box<dyn Any + Send>) {
    drop_payload(panic);
    callback_panicked(allocator);
}
