#![doc = include_str!("../README.md")]

mod accounting;
mod allocator;
pub mod backend;
mod buffer;
mod collections;
mod debug;
mod environment;
mod error;
mod events;
mod guard;
mod leak_check;
mod ledger;
mod listener;
mod manager;
#[cfg(feature = "metrics")]
mod metrics;
mod outcome;
mod probes;
mod raw;
mod report;
mod reservation;
mod rounding;
pub mod sampling;
mod size;
mod sync;
mod tally;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text;
mod thread;
mod totals;
mod wrappers;

pub use allocator::{
    BufferAllocator, ChildAllocatorBuilder, RootAllocator, RootAllocatorBuilder,
    WeakBufferAllocator,
};
pub use buffer::{
    ArrowBuf, ArrowBufMut, BooleanBufferBuilder, BufferBuilder, ForeignAllocation, ForeignError,
    ForeignId, ReleaseFn, TransferResult, TypedBufferBuilder, WeakForeign,
};
pub use collections::GlobalAllocManager;
#[cfg(feature = "allocator-api2")]
pub use collections::{AccountedVec, AllocatorManager, TreeAllocator};
pub use debug::{History, HistoryEvent, OutstandingBuffer, StackFrame, StackTrace};
pub use error::{
    AllocError, BackendError, CastError, OutOfBounds, Refused, SegmentError, TransferError,
    VerifyError,
};
pub use guard::{DEBUG_POOL_VARIABLE, GuardAction, GuardedManager, UnknownGuardAction};
pub use leak_check::{LeakCheck, leak_check};
pub use listener::{AllocationListener, Veto};
pub use manager::{AllocationManager, ManagerError, ManagerStats};
#[cfg(feature = "metrics")]
pub use metrics::{MetricsExporter, Peaks};
pub use outcome::{AllocationOutcome, AllocatorId, AllocatorInfo, OutcomeEntry, Purpose};
pub use report::{
    AllocatorSnapshot, AllocatorStats, CloseError, MemoryReport, OutstandingLedger,
    OutstandingReservation, ReportEntry, SnapshotEntry,
};
pub use reservation::AllocationReservation;
pub use rounding::{
    PaddingRoundingPolicy, PowerOfTwoRoundingPolicy, RoundingPolicy, SegmentRoundingPolicy,
};
pub use size::{ALIGNMENT, MAX_ALIGNMENT};
pub use tally::Tally;
pub use thread::thread_number;
pub use totals::MemoryTotals;
pub use wrappers::{
    BlockCache, CacheLimits, CachingManager, CappedManager, LoggingManager, ProxyManager,
};

/// What the macros of this crate expand to, and what the other crates of this workspace share with it.
/// Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::buffer::ForeignRoom;
    pub use crate::sync::plain::push;
    pub use crate::sync::process::{HandedOn, ListedGuard, Order, ProcessGuard, ProcessLock};
    pub use crate::sync::table::{Entry, Room, Table};
    pub use crate::text::{Bytes, Escaped, Limit, Size};

    #[cfg(all(
        not(miri),
        any(
            target_os = "linux",
            target_os = "macos",
            target_os = "windows",
            target_os = "android",
            target_os = "ios",
            target_os = "freebsd",
            target_os = "illumos"
        )
    ))]
    pub use crate::backend::table::{LINKED, linkme};
    pub use crate::thread::{AtEnd, at_end};
}
