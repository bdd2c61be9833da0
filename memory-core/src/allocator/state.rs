//! The numbers, reports and checks of an allocator.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use super::BufferAllocator;
use crate::accounting::{Census, Counted};
use crate::debug::{Operation, Recorder};
use crate::error::VerifyError;
use crate::raw::pool;
use crate::raw::slot::Face;
use crate::report::{
    AllocatorSnapshot, AllocatorStats, History, MemoryReport, OutstandingLedger,
    OutstandingReservation, ReportEntry, RetainedHeap, limit_text,
};

impl BufferAllocator {
    /// Returns the bytes allocated from this allocator: its own blocks and its foreign ones, its external
    /// bytes, the bytes of its [reservations](crate::AllocationReservation), and for each child the
    /// larger of its reservation and its own allocated bytes.
    ///
    /// The number is exact at one instant during the call. O(subtree) under the tree's lock; use
    /// [`charged_memory`](Self::charged_memory) to poll a large tree.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let scan = root.new_child_allocator("scan", 4096, 1 << 20)?;
    /// let _buffer = scan.buffer(100)?;
    /// root.allocate_bytes(10)?;
    /// assert_eq!(scan.allocated_memory(), 128);
    /// assert_eq!(root.allocated_memory(), 4096 + 10); // the reservation covers the buffer
    /// # root.release_bytes(10);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[doc(alias("getAllocatedMemory", "bytes_allocated", "reserved"))]
    pub fn allocated_memory(&self) -> usize {
        self.handle.allocated()
    }

    /// Returns an upper bound of [`allocated_memory`](Self::allocated_memory), in bytes, in constant
    /// time.
    ///
    /// It is too high by the credit that nodes below hold unused, at most.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let _buffer = root.child("scan").build()?.buffer(100)?;
    /// assert_eq!(root.allocated_memory(), 128);
    /// assert!((128..=128 + (1 << 20)).contains(&root.charged_memory()));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn charged_memory(&self) -> usize {
        self.handle.charged()
    }

    /// Returns the largest [`allocated_memory`](Self::allocated_memory) so far, in bytes.
    ///
    /// It is exact for an allocator without children that few threads share, and everywhere in a tree
    /// built with `.credit(0)`. Otherwise it may be too high by at most the credit that was then
    /// outstanding below. It is never too low.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// drop(root.buffer(4096)?);
    /// drop(root.buffer(64)?);
    /// assert_eq!((root.allocated_memory(), root.peak_memory_allocation()), (0, 4096));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[doc(alias("getPeakMemoryAllocation", "max_memory"))]
    pub fn peak_memory_allocation(&self) -> usize {
        self.handle.peak()
    }

    /// Starts a new epoch for the [`peak_memory_allocation`](Self::peak_memory_allocation) of this
    /// allocator alone. Returns the peak of the epoch that ends, in bytes. Takes the tree's lock.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// let root = arrow_memory_core::RootAllocator::unlimited();
    /// drop(root.buffer(4096)?);
    /// assert_eq!(root.reset_peak(), 4096);
    /// assert_eq!(root.peak_memory_allocation(), 0);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn reset_peak(&self) -> usize {
        self.handle.reset_peak()
    }

    /// Returns the limit as it was set, in bytes; above `isize::MAX` it means unlimited.
    #[doc(alias = "getLimit")]
    pub fn limit(&self) -> usize {
        self.handle.limit()
    }

    /// Sets the limit, in bytes. Lowering it revokes nothing; raising it takes effect at once.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let buffer = root.buffer(4096)?;
    /// root.set_limit(1000);
    /// assert_eq!((root.limit(), buffer.capacity()), (1000, 4096)); // nothing is revoked
    /// assert!(root.is_over_limit() && root.buffer(1).is_err());
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[track_caller]
    #[doc(alias = "setLimit")]
    pub fn set_limit(&self, limit: usize) {
        if let Some(trail) = self.node().trail() {
            trail.note(Operation::LimitSet, limit, Some(Location::caller()));
        }
        self.handle.set_limit(limit);
    }

    /// Returns the cap in bytes, if one was [set](Self::set_cap).
    pub fn cap(&self) -> Option<usize> {
        Some(self.handle.cap()).filter(|&cap| cap != usize::MAX)
    }

    /// Sets a second limit in bytes, beside the [limit](Self::set_limit); `None` removes it.
    ///
    /// The smaller of the two applies to every request. The cap is for code that adjusts a limit all the time,
    /// such as one that watches the memory of the host: it does not overwrite what the program has configured,
    /// and a request that is larger than the cap, but not than the limit, may still
    /// [wait](Self::wait) until the cap rises. Lowering the cap revokes nothing. Takes the tree's lock.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// root.set_cap(Some(1000));
    /// assert!(root.buffer(2000).is_err());
    /// assert_eq!((root.limit(), root.cap(), root.headroom()), (1 << 20, Some(1000), 1000));
    /// root.set_cap(None);
    /// assert!(root.buffer(2000).is_ok());
    /// ```
    pub fn set_cap(&self, cap: Option<usize>) {
        self.handle.set_cap(cap.unwrap_or(usize::MAX));
    }

    /// Returns the reservation in bytes with which this allocator was created. [`reservation`](Self::reservation)
    /// is the live one.
    #[doc(alias = "getInitReservation")]
    pub fn init_reservation(&self) -> usize {
        self.node().init_reservation
    }

    /// Returns how many bytes could be allocated here now without passing a limit: here, or in an
    /// ancestor, where reservations below it do not cover them. Room that is withheld for requests that
    /// [wait](Self::wait) is not counted. A negative number says by how many bytes
    /// a limit is passed. Exact; O(tree) under the tree's lock.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let scan = root.new_child_allocator("scan", 1000, 5000)?;
    /// root.set_limit(3000);
    /// assert_eq!(scan.headroom(), 3000); // its reservation, and the 2000 left in the root
    /// root.set_limit(0);
    /// assert_eq!((root.headroom(), scan.headroom()), (-1000, 0));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[doc(alias = "getHeadroom")]
    pub fn headroom(&self) -> isize {
        self.handle.headroom().0
    }

    /// Returns whether the allocated bytes of this allocator or of an ancestor pass its limit. Exact;
    /// O(tree) under the tree's lock.
    #[doc(alias = "isOverLimit")]
    pub fn is_over_limit(&self) -> bool {
        self.handle.headroom().1
    }

    /// Returns this allocator's own numbers, without those of its children.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let _buffer = root.buffer(100)?;
    /// root.force_allocate(10);
    /// let stats = root.stats();
    /// assert_eq!((stats.own_bytes, stats.external_bytes, stats.forced_bytes), (128, 10, 10));
    /// # root.release_bytes(10);
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn stats(&self) -> AllocatorStats {
        self.handle.stats()
    }

    /// Returns the numbers of this allocator and all below it, parents before children, at one instant.
    /// O(subtree) under the tree's lock.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let _scan = root.new_child_allocator("scan", 4096, 65536)?;
    /// let snapshot = root.snapshot();
    /// let scan = &snapshot.entries[1];
    /// assert_eq!((&*scan.allocator.name, scan.depth, scan.reservation), ("scan", 1, 4096));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    #[doc(alias = "TrackConsumersPool")]
    pub fn snapshot(&self) -> AllocatorSnapshot {
        self.handle.census().snapshot
    }

    /// Recomputes the sums of this allocator and all below it, and compares them with its counters.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] with the first rule that does not hold, which is a bug in this crate.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// root.verify()?; // in tests, after an operation that must keep the sums right
    /// # Ok::<(), arrow_memory_core::VerifyError>(())
    /// ```
    pub fn verify(&self) -> Result<(), VerifyError> {
        self.handle.verify()
    }

    /// Returns this allocator, all below it, and their live ledgers and reservations, as plain data.
    /// Visits every allocation of the process.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let _buffer = root.buffer(100)?;
    /// let report = root.report();
    /// let ledger = &report.entries[0].ledgers[0];
    /// assert_eq!((ledger.size, ledger.references, ledger.owning), (128, 1, true));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn report(&self) -> MemoryReport {
        let census = self.handle.census();
        to_report(census, self.handle.retained())
    }

    /// Returns this allocator, all below it, their ledgers and reservations as text in the format of
    /// Arrow Java; in debug mode with their histories. Visits every allocation of the process.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # use arrow_memory_core::RootAllocator;
    /// let root = RootAllocator::builder().limit(8192).debug(false).build()?;
    /// let _buffer = root.buffer(4096)?;
    /// assert_eq!(
    ///     root.to_verbose_string(),
    ///     "Allocator(ROOT) 0/4096/4096/8192 (res/actual/peak/limit)\n  \
    ///        child allocators: 0\n  \
    ///        ledgers: 1\n    \
    ///          ledger allocator: ROOT, owning: true, size: 4096, references: 1, holds 1 buffer\n  \
    ///        reservations: 0\n"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "toVerboseString")]
    pub fn to_verbose_string(&self) -> String {
        format!("{:#}\n", self.report())
    }
}

impl fmt::Display for BufferAllocator {
    /// Writes `Allocator(name) reservation/allocated/peak/limit`, in bytes; the name is escaped as in an
    /// [`AllocatorInfo`](crate::AllocatorInfo).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = limit_text(self.limit());
        let (reservation, allocated) = (self.reservation(), self.allocated_memory());
        let (name, peak) = (self.info(), self.peak_memory_allocation());
        write!(
            f,
            "Allocator({name}) {reservation}/{allocated}/{peak}/{limit}"
        )
    }
}

/// Turns a census into a report, with what is outstanding in each allocator.
fn to_report(census: Census, retained: RetainedHeap) -> MemoryReport {
    let ledgers = ledgers_of(&census);
    let Census { snapshot, nodes } = census;
    let entries = snapshot.entries.into_iter().zip(nodes).zip(ledgers);
    let entries = entries.map(|((entry, counted), ledgers)| ReportEntry {
        allocator: entry.allocator,
        parent: entry.parent,
        depth: entry.depth,
        reservation: entry.reservation,
        allocated: entry.allocated,
        peak: entry.peak,
        limit: entry.limit,
        external_bytes: entry.stats.external_bytes,
        reserved_bytes: entry.stats.reserved_bytes,
        history: counted.node.trail().map(History::of),
        ledgers,
        reservations: reservations_of(&entry.reservations, &counted),
    });
    MemoryReport {
        entries: entries.collect(),
        retained,
    }
}

/// Returns the reservations of a node, whose sizes were `sizes` at the instant of the census.
fn reservations_of(sizes: &[usize], counted: &Counted) -> Vec<OutstandingReservation> {
    let sized = sizes.iter().zip(&counted.reservations);
    let mut reservations: Vec<OutstandingReservation> = sized
        .map(|(&size, reserved)| OutstandingReservation {
            size,
            history: reserved.trail.as_ref().map(History::of),
        })
        .collect();
    reservations.sort_by_key(|reservation| reservation.history.as_ref().map(|known| known.id));
    reservations
}

/// Finds the ledgers of each entry's allocator by one walk over the slots in use.
///
/// The walk holds no lock, so the closure may allocate. The walk ends early once the ledgers found
/// account for all that the census counted.
fn ledgers_of(census: &Census) -> Vec<Vec<OutstandingLedger>> {
    let index_of: HashMap<usize, usize> = census
        .nodes
        .iter()
        .enumerate()
        .map(|(index, counted)| (Arc::as_ptr(&counted.node).addr(), index))
        .collect();
    let mut found: Vec<Vec<Found>> = census.nodes.iter().map(|_| Vec::new()).collect();
    let mut missing = Missing::of(census);
    if missing.nodes > 0 {
        pool::for_each_in_use(|face| {
            if let Some(&index) = index_of.get(&face.node_address().addr()) {
                let ledger = Found::of(face);
                missing.explain(index, &ledger);
                found[index].push(ledger);
            }
            missing.nodes > 0
        });
    }
    let nodes = census.nodes.iter();
    nodes
        .zip(found)
        .map(|(counted, found)| {
            let recorder = counted.node.tree.recorder();
            let ledgers = found.iter().map(|found| found.to_outstanding(recorder));
            let mut ledgers: Vec<OutstandingLedger> = ledgers.collect();
            ledgers.sort_by_key(|ledger| {
                let age = ledger.history.as_ref().map(|history| history.id);
                (Reverse((ledger.owning, ledger.size)), age)
            });
            ledgers
        })
        .collect()
}

/// The part of the census that no ledger accounts for yet: by entry, the owned bytes, and the number of
/// ledgers that do not own their allocation.
struct Missing {
    by_entry: Vec<(usize, usize)>,
    /// The number of entries that are not fully accounted for.
    nodes: usize,
}

impl Missing {
    /// An open allocator that has buffers may get new ones during the walk, which would be taken for
    /// those that were counted. So it never counts as accounted for, and the walk visits all slots.
    fn of(census: &Census) -> Self {
        let entries = census.snapshot.entries.iter().zip(&census.nodes);
        let by_entry: Vec<(usize, usize)> = entries
            .map(|(entry, counted)| match (counted.owned, counted.guests) {
                (0, 0) => (0, 0),
                _ if !entry.closed => (usize::MAX, usize::MAX),
                missing => missing,
            })
            .collect();
        let nodes = by_entry.iter().filter(|missing| **missing != (0, 0));
        Self {
            nodes: nodes.count(),
            by_entry,
        }
    }

    fn explain(&mut self, index: usize, ledger: &Found) {
        let (owned, guests) = &mut self.by_entry[index];
        let before = (*owned, *guests) != (0, 0);
        if *owned < usize::MAX {
            if ledger.owning {
                *owned = owned.saturating_sub(ledger.size);
            } else {
                *guests = guests.saturating_sub(1);
            }
        }
        if before && (*owned, *guests) == (0, 0) {
            self.nodes -= 1;
        }
    }
}

/// A ledger in use, found by the walk.
struct Found {
    /// The address of the ledger's slot.
    slot: usize,
    owning: bool,
    foreign: bool,
    size: usize,
    references: usize,
}

impl Found {
    fn of(face: &Face) -> Self {
        Self {
            // The face is a slot's first field.
            slot: std::ptr::from_ref(face).addr(),
            owning: face.count.is_owning(),
            foreign: face.is_foreign(),
            size: face.size(),
            references: face.count.buffers(),
        }
    }

    /// Adds the history that debug mode keeps. If the slot was recycled since the walk, the history is
    /// that of its next user: a report of a tree in use is not of one instant.
    fn to_outstanding(&self, recorder: Option<&Recorder>) -> OutstandingLedger {
        let known = recorder.and_then(|recorder| recorder.ledger(self.slot));
        let (history, buffers) = known.unzip();
        OutstandingLedger {
            owning: self.owning,
            foreign: self.foreign,
            size: self.size,
            references: self.references,
            history,
            buffers: buffers.unwrap_or_default(),
        }
    }
}
