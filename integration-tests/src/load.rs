//! What programs share that load a tree at random for a while: the example `fuzz_waiting`, which tries what has to do
//! with waiting, and the program `soak`, which simulates a server.
//!
//! [`Ground`] has the counts of a run, and judges whether each error is one that the docs of the call name.
//! [`Cache`] and [`Operator`] give memory back when they are asked: a cache on the thread that asks, an operator on its
//! own. [`Trend`] tells whether the memory of the process grows.

mod caches;
mod ground;
mod resident;
mod spillers;
mod totals;
mod trend;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::caches::Cache;
pub use self::ground::Ground;
pub use self::resident::resident_bytes;
pub use self::spillers::Operator;
pub use self::totals::{Count, Totals};
pub use self::trend::{Sample, Slope, Trend};

/// The size of a buffer in bytes, mostly below 64 KiB and never 8 MiB or more.
pub fn size() -> usize {
    match fastrand::u32(..16) {
        0 => fastrand::usize(..8 << 20),
        1..4 => fastrand::usize(..1 << 20),
        _ => fastrand::usize(..64 << 10),
    }
}

/// The size of a reservation in bytes, now and then almost `limit`.
pub fn large(limit: usize) -> usize {
    match fastrand::u32(..16) {
        0 => fastrand::usize(..limit),
        1..8 => fastrand::usize(..limit / 16),
        _ => fastrand::usize(..limit / 256),
    }
}

/// Up to three milliseconds.
pub fn millis() -> Duration {
    Duration::from_micros(fastrand::u64(..3000))
}

/// The data behind a mutex, whether or not a thread panicked that held it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
