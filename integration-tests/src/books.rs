//! All numbers of a tree, to compare before and after an operation that must not change them.

use std::thread;
use std::time::Duration;

use arrow_memory_core::BufferAllocator;

/// The numbers of an allocator and of all allocators below it, without the count of refusals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    allocated: usize,
    own: usize,
    foreign: usize,
    external: usize,
    reserved: usize,
    forced: u64,
    limit: usize,
    reservation: usize,
    closed: bool,
    peak: usize,
}

impl Books {
    /// Checks the tree, and returns the numbers at and below `top`.
    ///
    /// # Panics
    ///
    /// If the sums of the tree do not add up.
    pub fn of(top: &BufferAllocator) -> Self {
        assert_eq!(top.root_allocator().verify(), Ok(()));
        let entries = top.snapshot().entries.into_iter().map(|it| Entry {
            name: it.allocator.name.to_string(),
            allocated: it.allocated,
            own: it.stats.own_bytes,
            foreign: it.stats.foreign_bytes,
            external: it.stats.external_bytes,
            reserved: it.stats.reserved_bytes,
            forced: it.stats.forced_bytes,
            limit: it.limit,
            reservation: it.reservation,
            closed: it.closed,
            peak: it.peak,
        });
        Self(entries.collect())
    }

    /// The same numbers without peaks and without forced bytes, which a step may change although it leaves
    /// nothing charged.
    #[must_use]
    pub fn at_rest(mut self) -> Self {
        for entry in &mut self.0 {
            entry.peak = 0;
            entry.forced = 0;
        }
        self
    }
}

/// Runs a scenario that may deadlock, and fails after a minute.
///
/// # Panics
///
/// If the scenario panics or takes more than a minute.
pub fn within_a_minute(scenario: impl FnOnce() + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel();
    let worker = thread::spawn(move || {
        scenario();
        // The receiver was dropped if the minute is over.
        let _ = done.send(());
    });
    match wait.recv_timeout(Duration::from_secs(60)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}
