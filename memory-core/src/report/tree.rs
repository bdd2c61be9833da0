//! A tree with all that is outstanding in it, as plain data and as text in the format of Arrow Java.

use std::fmt;
use std::sync::Arc;

use super::history::{History, Milliseconds, OutstandingBuffer};
use super::{counted, limit_text};
use crate::outcome::{AllocatorId, AllocatorInfo};
use crate::text::Escaped;

/// An allocator and all below it with their ledgers, buffers and reservations.
/// [`BufferAllocator::report`](crate::BufferAllocator::report) and a failed close return it.
///
/// As text (`{}`) it has the format of Arrow Java, in debug mode with the line of code that created each
/// thing; `{:#}` adds the events since. The text lists all that is in `entries`, without a bound; levels
/// deeper than 20 are not indented further.
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// let scan = root.new_child_allocator("scan", 4096, 65536)?;
/// let _buffer = scan.buffer(100)?;
/// let report = root.report();
/// assert_eq!((report.entries[1].depth, report.entries[1].ledgers.len()), (1, 1));
/// assert!(report.to_string().contains("Allocator(scan) 4096/128/"));
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryReport {
    /// The allocators, parents before children.
    pub entries: Vec<ReportEntry>,
    /// Blocks of the program's heap that outlived their scopes, if the first entry is a root. They are charged to
    /// its child `(retained)`.
    pub retained: RetainedHeap,
}

/// Blocks of the program's heap that outlived the scopes in which they were allocated, by allocator. A scope has an
/// account for each of its threads, up to eight; finding the largest visits all of them under the tree's mutex.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetainedHeap {
    /// The names of the allocators and the bytes of the blocks: those of the 32 largest accounts, added up by name,
    /// largest first.
    pub largest: Vec<(Arc<str>, usize)>,
    /// The number of other accounts.
    pub others: usize,
    /// The bytes of the blocks that they pay for.
    pub other_bytes: usize,
}

impl fmt::Display for RetainedHeap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in &self.largest {
            let name = Escaped(name);
            write!(f, "\n  (heap) of {name}, whose scope has ended: {bytes}")?;
        }
        if self.others > 0 {
            let (others, bytes) = (self.others, self.other_bytes);
            write!(
                f,
                "\n  (heap) of {others} other accounts of scopes that have ended: {bytes}"
            )?;
        }
        Ok(())
    }
}

/// One allocator within a [`MemoryReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportEntry {
    /// The allocator.
    pub allocator: AllocatorInfo,
    /// The parent; `None` for a root.
    pub parent: Option<AllocatorId>,
    /// The number of levels below the first entry.
    pub depth: usize,
    /// The live reservation in bytes.
    pub reservation: usize,
    /// Allocated bytes.
    pub allocated: usize,
    /// The peak of the allocated bytes.
    pub peak: usize,
    /// The limit in bytes; a value above `isize::MAX` means unlimited.
    pub limit: usize,
    /// External bytes that were not released.
    pub external_bytes: usize,
    /// The sum of the reservations in bytes.
    pub reserved_bytes: usize,
    /// The creation of the allocator and the events since; `None` without debug mode.
    pub history: Option<History>,
    /// The ledgers with buffers: owning ones first, each kind from the largest to the smallest.
    pub ledgers: Vec<OutstandingLedger>,
    /// The reservations, in debug mode in order of creation.
    pub reservations: Vec<OutstandingReservation>,
}

/// A ledger that buffers hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutstandingLedger {
    /// Whether the allocation is charged here.
    pub owning: bool,
    /// Whether the memory is foreign.
    pub foreign: bool,
    /// The size of the allocation in bytes.
    pub size: usize,
    /// The number of buffers that hold it.
    pub references: usize,
    /// The creation of the ledger and the events since; `None` without debug mode.
    pub history: Option<History>,
    /// The buffers that hold it, oldest first; empty without debug mode.
    pub buffers: Vec<OutstandingBuffer>,
}

/// An `AllocationReservation` that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutstandingReservation {
    /// Bytes charged.
    pub size: usize,
    /// The creation of the reservation and the events since; `None` without debug mode.
    pub history: Option<History>,
}

/// Levels deeper than this are not indented further: otherwise the text of a tree of depth n had a length
/// of n².
const DEEPEST_INDENT: usize = 20;

/// Bytes in use beyond a reservation; `None` without one.
pub(super) fn undeclared(allocated: usize, reservation: usize) -> Option<usize> {
    (reservation > 0).then(|| allocated.saturating_sub(reservation))
}

impl ReportEntry {
    /// Returns how many bytes are allocated here and below beyond the live reservation: what the allocator uses and has
    /// not declared, its part of the program's heap included. `None` if it has no reservation, and so declares nothing.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let sort = root.child("sort").reservation(1000).build()?;
    /// let _buffer = sort.buffer(4096)?;
    /// let report = root.report();
    /// assert_eq!(report.entries[0].undeclared(), None); // the root has no reservation
    /// assert_eq!(report.entries[1].undeclared(), Some(3096));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn undeclared(&self) -> Option<usize> {
        undeclared(self.allocated, self.reservation)
    }
}

impl MemoryReport {
    /// Returns the allocators that use more than they have declared, with the bytes of
    /// [`undeclared`](ReportEntry::undeclared), the largest first. An allocator and one below it may both be there for the
    /// same bytes.
    ///
    /// ```
    /// # use arrow_memory_system as _;
    /// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
    /// let scan = root.child("scan").reservation(8192).build()?;
    /// let join = root.child("join").reservation(1000).build()?;
    /// let _buffers = [scan.buffer(4096)?, join.buffer(4096)?];
    /// let report = root.report();
    /// let guilty: Vec<_> = report.undeclared().collect();
    /// assert_eq!((guilty.len(), &*guilty[0].0.name, guilty[0].1), (1, "join", 3096));
    /// # Ok::<(), arrow_memory_core::AllocError>(())
    /// ```
    pub fn undeclared(&self) -> impl Iterator<Item = (&AllocatorInfo, usize)> {
        let mut guilty: Vec<_> = (self.entries.iter())
            .filter_map(|entry| Some((&entry.allocator, entry.undeclared()?)))
            .filter(|&(_, bytes)| bytes > 0)
            .collect();
        guilty.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        guilty.into_iter()
    }

    /// Returns the number of children of each entry.
    fn children(&self) -> Vec<usize> {
        let mut counts = vec![0; self.entries.len()];
        let mut path: Vec<usize> = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            path.truncate(entry.depth);
            if let Some(&parent) = path.last() {
                counts[parent] += 1;
            }
            path.push(index);
        }
        counts
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let children = self.children();
        // The ancestors, whose ledgers are written after their children.
        let mut open: Vec<&ReportEntry> = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            while let Some(above) = open.pop_if(|above| above.depth >= entry.depth) {
                above.write_tail(f)?;
            }
            if index > 0 {
                writeln!(f)?;
            }
            entry.write_head(f, children[index])?;
            open.push(entry);
        }
        while let Some(above) = open.pop() {
            above.write_tail(f)?;
        }
        self.retained.fmt(f)
    }
}

impl ReportEntry {
    fn indent(&self) -> String {
        "    ".repeat(self.depth.min(DEEPEST_INDENT))
    }

    fn write_head(&self, f: &mut fmt::Formatter<'_>, children: usize) -> fmt::Result {
        let indent = self.indent();
        let Self {
            allocator,
            reservation,
            allocated,
            peak,
            ..
        } = self;
        let limit = limit_text(self.limit);
        write!(
            f,
            "{indent}Allocator({allocator}) {reservation}/{allocated}/{peak}/{limit} \
             (res/actual/peak/limit)"
        )?;
        // The first entry is the allocator that was asked for the report: its creation is only written
        // with `{:#}`.
        if let Some(history) = self
            .history
            .as_ref()
            .filter(|_| self.depth > 0 || f.alternate())
        {
            history.write(f, &format!("{indent}  "), f.alternate())?;
        }
        write!(f, "\n{indent}  child allocators: {children}")
    }

    /// Writes the lines that follow those of the children.
    fn write_tail(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indent = self.indent();
        let item = format!("{indent}    ");
        write!(f, "\n{indent}  ledgers: {}", self.ledgers.len())?;
        for ledger in &self.ledgers {
            ledger.write(f, &item, &self.allocator)?;
        }
        write!(f, "\n{indent}  reservations: {}", self.reservations.len())?;
        for reservation in &self.reservations {
            reservation.write(f, &item)?;
        }
        if self.external_bytes > 0 {
            write!(f, "\n{indent}  external bytes: {}", self.external_bytes)?;
        }
        if let Some(bytes) = self.undeclared().filter(|&bytes| bytes > 0) {
            write!(f, "\n{indent}  undeclared bytes: {bytes}")?;
        }
        Ok(())
    }
}

impl OutstandingLedger {
    fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        indent: &str,
        allocator: &AllocatorInfo,
    ) -> fmt::Result {
        let Self {
            owning,
            size,
            references,
            ..
        } = self;
        let number = match &self.history {
            Some(history) => format!("[{}]", history.id),
            None => String::new(),
        };
        write!(
            f,
            "\n{indent}ledger{number} allocator: {allocator}, owning: {owning}, size: {size}, \
             references: {references}"
        )?;
        if self.foreign {
            f.write_str(", foreign")?;
        }
        let mut buffers = *references;
        if let Some(history) = &self.history {
            buffers = self.buffers.len();
            write!(f, ", life: {}..", Milliseconds(history.age))?;
        }
        write!(f, ", holds {}", counted(buffers, "buffer", "buffers"))?;
        if let Some(history) = self.history.as_ref().filter(|_| f.alternate()) {
            for event in &history.events {
                write!(f, "\n{indent}  {event}")?;
            }
        }
        for buffer in &self.buffers {
            write!(f, "\n{indent}  {buffer}")?;
            let below = format!("{indent}    ");
            buffer.history.write(f, &below, f.alternate())?;
        }
        Ok(())
    }
}

impl OutstandingReservation {
    fn write(&self, f: &mut fmt::Formatter<'_>, indent: &str) -> fmt::Result {
        let Some(history) = &self.history else {
            return write!(f, "\n{indent}reservation, size: {}", self.size);
        };
        let (id, life) = (history.id, Milliseconds(history.age));
        let size = self.size;
        write!(
            f,
            "\n{indent}reservation[{id}], size: {size}, life: {life}.."
        )?;
        history.write(f, &format!("{indent}  "), f.alternate())
    }
}
