//! What is injected, and where: of the points that an operation passes, one fails or panics.
//!
//! Everything that calls foreign code in these tests calls [`fails`] or [`panics`]. The plan is the thread's own, so that
//! tests do not disturb each other, and consists of cells without destructors, so that a global allocator may ask it.

use std::cell::Cell;
use std::panic::resume_unwind;

/// A call of foreign code, or of a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    Allocate,
    AllocateZeroed,
    Reallocate,
    ReleaseUnused,
    Stats,
    PreAllocation,
    Allocation,
    Release,
    FailedAllocation,
    Transfer,
    ChildAdded,
    ChildRemoved,
    ListenerDrop,
    Policy,
    PolicyDrop,
    Reclaimable,
    Reclaim,
    ReclaimerDrop,
    Event,
    Span,
    SpanEnd,
    Owner,
    Wake,
    WakerDrop,
    Body,
    Heap,
    Device,
    Stream,
    Work,
}

impl Point {
    /// Whether this is called where nothing may unwind, wherever it is called from.
    pub(crate) fn is_contained(self) -> bool {
        matches!(
            self,
            Self::Owner
                | Self::Wake
                | Self::WakerDrop
                | Self::Reclaim
                | Self::Reclaimable
                | Self::ReclaimerDrop
                | Self::ListenerDrop
                | Self::PolicyDrop
        )
    }

    /// Whether a panic here reaches the caller of every operation that does not say otherwise.
    pub(crate) fn is_told(self) -> bool {
        matches!(
            self,
            Self::Allocate
                | Self::AllocateZeroed
                | Self::Reallocate
                | Self::PreAllocation
                | Self::FailedAllocation
                | Self::Policy
                | Self::Body
        )
    }
}

/// What happens at the point that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing is injected.
    Off,
    /// The call returns an error.
    Fail,
    /// The call panics.
    Panic,
}

/// The payload of an injected panic.
pub(crate) struct Injected;

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Off) };
    /// The number of the point that is hit.
    static AT: Cell<usize> = const { Cell::new(0) };
    /// How many points there were.
    static MET: Cell<usize> = const { Cell::new(0) };
    static HIT: Cell<Option<Point>> = const { Cell::new(None) };
}

/// From now on points are counted, and number `at` is hit.
pub(crate) fn arm(mode: Mode, at: usize) {
    AT.set(at);
    MET.set(0);
    HIT.set(None);
    MODE.set(mode);
}

/// Ends [`arm`]. Returns which point was hit.
pub(crate) fn disarm() -> Option<Point> {
    MODE.set(Mode::Off);
    HIT.get()
}

/// Runs a part of a test that is no part of the operation: its points are not counted.
pub(crate) fn pause<T>(part: impl FnOnce() -> T) -> T {
    let mode = MODE.replace(Mode::Off);
    let result = part();
    MODE.set(mode);
    result
}

/// Whether points are counted.
pub(crate) fn is_armed(mode: Mode) -> bool {
    MODE.get() == mode
}

/// A call that may fail: the answer is whether it is to. It may panic instead.
pub(crate) fn fails(point: Point) -> bool {
    match MODE.get() {
        Mode::Off => false,
        Mode::Fail => is_hit(point),
        Mode::Panic => {
            panics(point);
            false
        }
    }
}

/// A call that cannot fail, but may panic.
pub(crate) fn panics(point: Point) {
    if MODE.get() == Mode::Panic && is_hit(point) {
        // Without a call of the panic hook, which would print it.
        resume_unwind(Box::new(Injected));
    }
}

fn is_hit(point: Point) -> bool {
    let met = MET.replace(MET.get() + 1);
    let hit = met == AT.get();
    if hit {
        HIT.set(Some(point));
    }
    hit
}
