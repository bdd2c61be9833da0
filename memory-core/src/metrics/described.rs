//! The metrics that an exporter publishes, with their units and descriptions.

use metrics::{Unit, describe_counter, describe_gauge};

pub(super) const ALLOCATED: &str = "arrow_memory_allocated_bytes";
pub(super) const PEAK: &str = "arrow_memory_peak_bytes";
pub(super) const LIMIT: &str = "arrow_memory_limit_bytes";
pub(super) const RESERVATION: &str = "arrow_memory_reservation_bytes";
pub(super) const LIVE_ALLOCATIONS: &str = "arrow_memory_live_allocations";
pub(super) const REFUSALS: &str = "arrow_memory_refusals_total";
pub(super) const FORCED: &str = "arrow_memory_forced_bytes_total";
pub(super) const ACCOUNTED: &str = "arrow_memory_accounted_bytes";
pub(super) const HELD: &str = "arrow_memory_held_bytes";
pub(super) const RESIDENT: &str = "arrow_memory_resident_bytes";
pub(super) const MANAGER_LIVE: &str = "arrow_memory_manager_live_bytes";
pub(super) const MANAGER_PEAK: &str = "arrow_memory_manager_peak_bytes";
pub(super) const MANAGER_CACHED: &str = "arrow_memory_manager_cached_bytes";
pub(super) const MANAGER_ACTIVE: &str = "arrow_memory_manager_active_bytes";
pub(super) const MANAGER_RESIDENT: &str = "arrow_memory_manager_resident_bytes";
pub(super) const MANAGER_RETAINED: &str = "arrow_memory_manager_retained_bytes";
pub(super) const MANAGER_ALLOCATIONS: &str = "arrow_memory_manager_allocations_total";

pub(super) const WAITING_REQUESTS: &str = "arrow_memory_waiting_requests";
pub(super) const WAITING_BYTES: &str = "arrow_memory_waiting_bytes";
pub(super) const WAITS: &str = "arrow_memory_waits_total";
pub(super) const WAITED: &str = "arrow_memory_waited_seconds_total";
pub(super) const GIVE_WAYS: &str = "arrow_memory_give_ways_total";

const GAUGES: [(&str, Unit, &str); 16] = [
    (
        WAITING_REQUESTS,
        Unit::Count,
        "Requests of this tree that wait for memory now, admissions included.",
    ),
    (
        WAITING_BYTES,
        Unit::Bytes,
        "Bytes for which requests of this tree wait now.",
    ),
    (
        ALLOCATED,
        Unit::Bytes,
        "Bytes allocated now from the allocators of this path and all below them. Exact.",
    ),
    (
        PEAK,
        Unit::Bytes,
        "Largest allocated bytes of an allocator of this path, ever or since the last export. Exact for \
         allocators without children that few threads share, and in trees built with .credit(0); \
         otherwise it may be too high by at most the credit that was then outstanding. It is never \
         too low.",
    ),
    (
        LIMIT,
        Unit::Bytes,
        "Largest limit of an allocator of this path; infinite if the limit was removed, 0 if the \
         allocators are gone.",
    ),
    (
        RESERVATION,
        Unit::Bytes,
        "Bytes reserved for the allocators of this path.",
    ),
    (
        LIVE_ALLOCATIONS,
        Unit::Count,
        "Allocations owned now by the allocators of this path.",
    ),
    (
        ACCOUNTED,
        Unit::Bytes,
        "Bytes that the allocators of this tree are charged, whether or not there is memory behind them.",
    ),
    (
        HELD,
        Unit::Bytes,
        "Bytes that the backend has handed out or keeps for reuse, for all trees that share it.",
    ),
    (
        RESIDENT,
        Unit::Bytes,
        "Physical memory of the process, including its code, stacks and other heaps.",
    ),
    (
        MANAGER_LIVE,
        Unit::Bytes,
        "Bytes that the backend has handed out and that were not given back.",
    ),
    (
        MANAGER_PEAK,
        Unit::Bytes,
        "Largest number of live bytes that the backend has seen.",
    ),
    (
        MANAGER_CACHED,
        Unit::Bytes,
        "Bytes that were given back and that the backend keeps for reuse.",
    ),
    (
        MANAGER_ACTIVE,
        Unit::Bytes,
        "Bytes in pages of the backend that hold live blocks.",
    ),
    (
        MANAGER_RESIDENT,
        Unit::Bytes,
        "Physical memory of the backend, as the backend counts it.",
    ),
    (
        MANAGER_RETAINED,
        Unit::Bytes,
        "Address space that the backend keeps without physical memory behind it.",
    ),
];

const COUNTERS: [(&str, Unit, &str); 6] = [
    (
        WAITS,
        Unit::Count,
        "Requests of this tree that did not fit and were queued, admissions included.",
    ),
    (
        WAITED,
        Unit::Seconds,
        "Whole seconds that requests of this tree waited, those that wait now left out.",
    ),
    (
        GIVE_WAYS,
        Unit::Count,
        "Requests of this tree that were told to give way, since waiters that hold memory waited for one another.",
    ),
    (
        REFUSALS,
        Unit::Count,
        "Requests that allocators of this path refused, including allocators that are gone.",
    ),
    (
        FORCED,
        Unit::Bytes,
        "Bytes that forced paths charged to allocators of this path, whether or not they fitted, \
         including allocators that are gone.",
    ),
    (
        MANAGER_ALLOCATIONS,
        Unit::Count,
        "Blocks that the backend has handed out.",
    ),
];

/// Registers the unit and the description of each metric with the recorder.
pub(super) fn describe() {
    for (name, unit, help) in GAUGES {
        describe_gauge!(name, unit, help);
    }
    for (name, unit, help) in COUNTERS {
        describe_counter!(name, unit, help);
    }
}
