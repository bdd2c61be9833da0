//! [`LeakCheck`]: a guard that makes a test fail if it leaks memory.

use std::collections::HashSet;
use std::fmt;
use std::panic::Location;
use std::thread;

use crate::allocator::BufferAllocator;
use crate::events;
use crate::outcome::AllocatorId;
use crate::report::{MemoryReport, ReportEntry, counted};

/// A guard that panics when it is dropped if the allocated bytes differ from those when it was created,
/// or if buffers, reservations or children that were created since are still alive.
///
/// It is for tests.
///
/// The panic names the expected and the actual bytes, and, for a tree in debug mode, the line of code
/// that created each thing that is still alive. Scopes nest: things that were alive before the guard are
/// not checked. On a thread that is already panicking, the guard does not panic, and logs its finding to
/// `tracing` at level error. Without debug mode only bytes and children are checked.
///
/// Creating and dropping it takes the tree's lock, O(subtree); dropping it also visits every allocation
/// of the process.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{LeakCheck, RootAllocator};
///
/// let root = RootAllocator::builder().debug(true).build()?;
/// let before = root.buffer(100)?;
/// {
///     let _check = LeakCheck::new(&root);
///     let during = root.buffer(100)?;
///     drop(during);
/// }
/// # drop(before);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the check is made when this is dropped"]
pub struct LeakCheck {
    allocator: BufferAllocator,
    expected: usize,
    /// IDs from this one on were assigned after the check began.
    first_id: u64,
    /// The allocators that existed when the check began.
    known: HashSet<AllocatorId>,
    begun: &'static Location<'static>,
}

/// Runs `body` under a [`LeakCheck`] of `allocator`.
///
/// # Panics
///
/// If the check fails, after `body` returned.
///
/// ```should_panic
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{RootAllocator, leak_check};
///
/// let root = RootAllocator::builder().debug(true).build().unwrap();
/// leak_check(&root, |root| std::mem::forget(root.buffer(100)));
/// ```
#[track_caller]
pub fn leak_check<T>(allocator: &BufferAllocator, body: impl FnOnce(&BufferAllocator) -> T) -> T {
    let check = LeakCheck::new(allocator);
    let result = body(allocator);
    drop(check);
    result
}

impl LeakCheck {
    /// Starts a scope, which ends when the guard is dropped.
    #[track_caller]
    pub fn new(allocator: &BufferAllocator) -> Self {
        let snapshot = allocator.snapshot();
        let recorder = allocator.node().tree.recorder();
        Self {
            allocator: allocator.clone(),
            expected: snapshot.entries.first().map_or(0, |own| own.allocated),
            first_id: recorder.map_or(0, |recorder| recorder.next_id()),
            known: snapshot
                .entries
                .iter()
                .map(|entry| entry.allocator.id)
                .collect(),
            begun: Location::caller(),
        }
    }

    /// Returns the finding if the check fails.
    fn finding(&self) -> Option<Finding> {
        let mut report = self.allocator.report();
        let actual = report.entries.first().map_or(0, |own| own.allocated);
        self.retain_new(&mut report);
        let new =
            |entry: &ReportEntry| entry.depth > 0 && !self.known.contains(&entry.allocator.id);
        let counts = (
            report.entries.iter().filter(|entry| new(entry)).count(),
            self.count(&report, |entry| {
                entry
                    .ledgers
                    .iter()
                    .map(|ledger| ledger.buffers.len())
                    .sum()
            }),
            self.count(&report, |entry| entry.reservations.len()),
        );
        (actual != self.expected || counts != (0, 0, 0)).then_some(Finding {
            allocator: self.allocator.clone(),
            expected: self.expected,
            actual,
            counts,
            begun: self.begun,
            report,
        })
    }

    fn count(&self, report: &MemoryReport, of: impl Fn(&ReportEntry) -> usize) -> usize {
        if self.allocator.is_debug() {
            report.entries.iter().map(of).sum()
        } else {
            0
        }
    }

    /// In debug mode, removes the buffers and reservations that existed when the check began.
    fn retain_new(&self, report: &mut MemoryReport) {
        if !self.allocator.is_debug() {
            return;
        }
        for entry in &mut report.entries {
            for ledger in &mut entry.ledgers {
                ledger
                    .buffers
                    .retain(|buffer| buffer.history.id >= self.first_id);
            }
            entry.ledgers.retain(|ledger| !ledger.buffers.is_empty());
            entry.reservations.retain(|reservation| {
                let history = reservation.history.as_ref();
                history.is_none_or(|history| history.id >= self.first_id)
            });
        }
    }
}

impl Drop for LeakCheck {
    fn drop(&mut self) {
        let Some(finding) = self.finding() else {
            return;
        };
        if thread::panicking() {
            events::leaked(self.allocator.info(), &finding);
        } else {
            panic!("{finding}");
        }
    }
}

impl fmt::Debug for LeakCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeakCheck")
            .field("allocator", &self.allocator)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// The result of a failed check.
struct Finding {
    allocator: BufferAllocator,
    expected: usize,
    actual: usize,
    /// The numbers of new children, buffers and reservations.
    counts: (usize, usize, usize),
    begun: &'static Location<'static>,
    report: MemoryReport,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            expected,
            actual,
            begun,
            report,
            ..
        } = self;
        let (name, (children, buffers, reservations)) = (self.allocator.info(), self.counts);
        writeln!(
            f,
            "leak check of allocator `{name}` failed: expected {expected} bytes, actual {actual}"
        )?;
        if self.allocator.is_debug() {
            writeln!(
                f,
                "still alive of what was made since {begun}: {}, {}, {}",
                counted(children, "child", "children"),
                counted(buffers, "buffer", "buffers"),
                counted(reservations, "reservation", "reservations"),
            )?;
        } else {
            writeln!(
                f,
                "{} more since {begun}; build the root with `.debug(true)` or set \
                 ARROW_MEMORY_DEBUG_ALLOCATOR=true to see the lines",
                counted(children, "child", "children"),
            )?;
        }
        write!(f, "{report}")
    }
}
