//! The behaviour of the allocator tree and its buffers, by every promise in the docs.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod asking_again;
mod asking_turns;
mod buffers;
mod builders;
mod charges;
mod debug;
mod dropped_waits;
mod errors;
mod events;
mod external;
mod foreign;
mod foreign_rooms;
mod growth;
mod hand_over;
mod handles;
mod heap;
mod heap_quiet;
mod heap_random;
#[cfg(feature = "futures")]
mod inbox_stream;
mod kept;
mod leak_check;
mod leaks;
mod limits;
mod listeners;
mod live_reservations;
mod messages;
mod metrics;
mod moved;
mod numbers;
mod probes;
mod reclaim;
mod reclaim_regressions;
mod registrations;
mod release;
mod reservations;
mod reserved_foreign;
mod retire;
mod support;
mod thread_ends;
mod tree;
mod waiting;
mod waiting_regressions;
mod weak_foreign;
mod withheld;
