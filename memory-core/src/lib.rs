#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[doc(hidden)]
pub use arrow_memory_manager::__debug_as_display;
pub(crate) use arrow_memory_manager::__private::{environment, size, sync, text, thread};

mod accounting;
mod allocator;
mod buffer;
mod collections;
mod debug;
mod error;
mod events;
#[doc(hidden)]
pub mod heap;
mod holders;
mod leak_check;
mod ledger;
mod listener;
#[cfg(feature = "metrics")]
mod metrics;
mod outcome;
mod probes;
mod raw;
mod reclaim;
mod report;
mod reservation;
mod rounding;
pub mod sampling;
mod stack;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod totals;
mod waiting;

// What a backend is, in a crate of its own: one crate suffices to write a program.
#[cfg(feature = "allocator-api2")]
pub use arrow_memory_manager::AllocatorManager;
#[cfg(feature = "testing")]
pub use arrow_memory_manager::conformance_suite;
pub use arrow_memory_manager::{
    ALIGNMENT, AllocationManager, BackendError, BlockCache, CacheLimits, CachingManager,
    CappedManager, DEBUG_POOL_VARIABLE, GlobalAllocManager, GuardAction, GuardedManager,
    LoggingManager, MAX_ALIGNMENT, ManagerError, ManagerStats, ProxyManager, Tally,
    UnknownGuardAction, backend, register_backend, thread_number,
};

pub use allocator::{
    BufferAllocator, ChildAllocatorBuilder, RootAllocator, RootAllocatorBuilder,
    WeakBufferAllocator,
};
pub use buffer::{
    ArrowBuf, ArrowBufMut, BooleanBufferBuilder, BufferBuilder, ForeignAllocation, ForeignError,
    ForeignId, ReleaseFn, TransferResult, TypedBufferBuilder, WeakForeign,
};
#[cfg(feature = "allocator-api2")]
pub use collections::{AccountedVec, TreeAllocator};
pub use error::{
    AllocError, CastError, OutOfBounds, Refused, Retry, SegmentError, TransferError, VerifyError,
    Veto,
};
pub use leak_check::{LeakCheck, leak_check};
pub use listener::AllocationListener;
#[cfg(feature = "metrics")]
pub use metrics::{MetricsExporter, Peaks};
pub use outcome::{AllocationOutcome, AllocatorId, AllocatorInfo, OutcomeEntry, Purpose};
pub use reclaim::{Ask, Cost, Reclaim, ReclaimGuard, ReclaimInbox};
pub use report::{
    AllocatorSnapshot, AllocatorStats, CloseError, History, HistoryEvent, MemoryReport,
    OutstandingBuffer, OutstandingLedger, OutstandingReservation, ReportEntry, RetainedHeap,
    SnapshotEntry, WaitingRequest,
};
pub use reservation::AllocationReservation;
pub use rounding::{
    PaddingRoundingPolicy, PowerOfTwoRoundingPolicy, RoundingPolicy, SegmentRoundingPolicy,
};
pub use stack::{StackFrame, StackTrace};
pub use totals::MemoryTotals;
pub use waiting::{Admission, AdmissionFuture, GiveWay, Wait, WaitError, Waited};

/// What the other crates of this workspace share with this one. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::buffer::{ForeignRoom, may_move_in_place, move_in_place, undo_transfer};
    pub use crate::heap;
    pub use crate::raw::release::Payer;
    pub use arrow_memory_manager::__private::*;
}
