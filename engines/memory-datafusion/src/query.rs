//! The books of one query: its allocator, an allocator below it for each operator, and who declares how much.
//!
//! DataFusion's pools know a *consumer*: a name, whether it can spill, and a number. The name is that of the operator
//! and the partition, `ExternalSorter[0]`. All partitions of an operator share the operator's allocator.
//!
//! No lock of this module is held while bytes are charged, since a charge may ask others for memory; nor while a waker
//! is called, nor while a stream, a plan or the handle of an allocator is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arrow_memory_core::{AllocError, BufferAllocator};

use crate::open::{Open, OpenStreams};

/// One query, or all that runs in a session without one.
pub(crate) struct Query {
    allocator: BufferAllocator,
    /// Whether this is not one query, but everything that runs beside the queries. Then an operator's allocator
    /// leaves with the operator's last consumer; else it stays, so that a report has its peak.
    shared: bool,
    books: RwLock<Books>,
    streams: Mutex<OpenStreams>,
    spilled: AtomicUsize,
}

#[derive(Default)]
struct Books {
    operators: Vec<Arc<Operator>>,
    consumers: HashMap<usize, Arc<Consumer>>,
}

/// An operator of a query: all consumers of one name, without the number of the partition.
pub(crate) struct Operator {
    pub(crate) name: Box<str>,
    pub(crate) allocator: BufferAllocator,
    pub(crate) refused: AtomicU64,
    pub(crate) can_spill: AtomicBool,
}

/// What DataFusion calls a consumer, usually one partition of an operator.
pub(crate) struct Consumer {
    pub(crate) name: Box<str>,
    pub(crate) can_spill: bool,
    pub(crate) operator: Arc<Operator>,
    /// Bytes that the operator's allocator is charged for this consumer: never more, at any instant.
    held: AtomicUsize,
}

/// A consumer as it comes from DataFusion.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) id: usize,
    pub(crate) name: &'a str,
    pub(crate) can_spill: bool,
}

impl Query {
    pub(crate) fn new(allocator: BufferAllocator) -> Arc<Self> {
        Self::with(allocator, false)
    }

    /// Returns the books of what runs beside the queries.
    pub(crate) fn shared(allocator: BufferAllocator) -> Arc<Self> {
        Self::with(allocator, true)
    }

    fn with(allocator: BufferAllocator, shared: bool) -> Arc<Self> {
        Arc::new(Self {
            allocator,
            shared,
            books: RwLock::default(),
            streams: Mutex::default(),
            spilled: AtomicUsize::new(0),
        })
    }

    pub(crate) fn allocator(&self) -> &BufferAllocator {
        &self.allocator
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    // ---- consumers --------------------------------------------------------------------------

    /// Returns the consumer's books. Opens them if this is the first that is heard of it.
    pub(crate) fn consumer(&self, seen: Seen<'_>) -> Arc<Consumer> {
        if let Some(consumer) = self.read().consumers.get(&seen.id) {
            return Arc::clone(consumer);
        }
        let consumer = Arc::new(Consumer {
            name: seen.name.into(),
            can_spill: seen.can_spill,
            operator: self.operator(seen),
            held: AtomicUsize::new(0),
        });
        let mut books = self.write();
        let kept = Arc::clone(books.consumers.entry(seen.id).or_insert(consumer.clone()));
        drop(books);
        kept
    }

    /// Closes a consumer's books, and gives back what it has not given back itself.
    pub(crate) fn unregister(&self, id: usize) {
        let Some(consumer) = self.write().consumers.remove(&id) else {
            return;
        };
        consumer.shrink(usize::MAX);
        if !self.shared {
            return;
        }
        let mut left = Vec::new();
        let mut books = self.write();
        let used: Vec<_> = books
            .consumers
            .values()
            .map(|consumer| Arc::as_ptr(&consumer.operator))
            .collect();
        let gone = |operator: &mut Arc<Operator>| {
            Arc::ptr_eq(operator, &consumer.operator) && !used.contains(&Arc::as_ptr(operator))
        };
        left.extend(books.operators.extract_if(.., gone));
        drop(books);
    }

    /// Returns the operator of that consumer, with an allocator of its own if the query's may have children.
    fn operator(&self, seen: Seen<'_>) -> Arc<Operator> {
        let name = operator_name(seen.name);
        let find = |books: &Books| {
            books
                .operators
                .iter()
                .find(|known| *known.name == *name)
                .cloned()
        };
        let known = find(&self.read());
        let operator = known.unwrap_or_else(|| {
            // If the query has ended there is no child: then the query's own allocator refuses, or is forced.
            let allocator = self.allocator.child(name).build();
            let made = Arc::new(Operator {
                allocator: allocator.unwrap_or_else(|_| self.allocator.clone()),
                name: name.into(),
                refused: AtomicU64::new(0),
                can_spill: AtomicBool::new(false),
            });
            let mut books = self.write();
            // Another partition may have been faster; what was made here is dropped after the lock.
            let kept = find(&books).unwrap_or_else(|| {
                books.operators.push(Arc::clone(&made));
                Arc::clone(&made)
            });
            drop(books);
            kept
        });
        if seen.can_spill {
            // Relaxed: the flag guards nothing.
            operator.can_spill.store(true, Ordering::Relaxed);
        }
        operator
    }

    /// Returns the operators and the consumers.
    pub(crate) fn listed(&self) -> (Vec<Arc<Operator>>, Vec<Arc<Consumer>>) {
        let books = self.read();
        (
            books.operators.clone(),
            books.consumers.values().cloned().collect(),
        )
    }

    // ---- streams and the end ------------------------------------------------------------------

    /// Notes a stream of this query.
    ///
    /// # Errors
    ///
    /// The reason, if the query was cancelled or has finished.
    pub(crate) fn open(&self, open: Open) -> Result<u64, Arc<str>> {
        self.streams().open(open)
    }

    /// Notes that a stream has ended, and how much its plan has spilled.
    pub(crate) fn ended(&self, stream: u64, spilled: usize) {
        // Relaxed: a number for reports.
        self.spilled.fetch_add(spilled, Ordering::Relaxed);
        let open = self.streams().close(stream);
        drop(open);
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.streams().len()
    }

    /// Returns why the query has ended, if it has.
    pub(crate) fn end_reason(&self) -> Option<Arc<str>> {
        self.streams().end_reason()
    }

    /// Returns the bytes that the query has spilled so far.
    pub(crate) fn spilled(&self) -> usize {
        let plans = self.streams().plans();
        let running: usize = plans.iter().filter_map(|plan| plan.spilled()).sum();
        // Relaxed: a number for reports.
        running + self.spilled.load(Ordering::Relaxed)
    }

    /// Ends the query: its streams fail with that reason, nothing more is granted, and its allocators leave the tree
    /// with their last bytes. Only the first call has an effect.
    pub(crate) fn end(&self, reason: &str) {
        let Some(streams) = self.streams().end(reason) else {
            return;
        };
        self.allocator.force_reservation(0);
        self.allocator.retire();
        for operator in self.listed().0 {
            operator.allocator.retire();
        }
        for stream in streams {
            stream.abort();
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Books> {
        self.books.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Books> {
        self.books.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, OpenStreams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consumer {
    /// Charges bytes if they fit. Zero always fits.
    pub(crate) fn try_grow(&self, bytes: usize) -> Result<(), AllocError> {
        if bytes == 0 {
            return Ok(());
        }
        let charged = self.operator.allocator.allocate_bytes(bytes);
        if charged.is_ok() {
            self.hold(bytes);
        } else {
            // Relaxed: a number for reports.
            self.operator.refused.fetch_add(1, Ordering::Relaxed);
        }
        charged
    }

    /// Charges bytes whatever the limits say.
    pub(crate) fn grow(&self, bytes: usize) {
        self.operator.allocator.force_allocate(bytes);
        self.hold(bytes);
    }

    /// Gives bytes back, at most as many as it holds.
    pub(crate) fn shrink(&self, bytes: usize) {
        // Relaxed, both: the allocator's own counts order what must be ordered; this one bounds what is given back.
        let take = |held: usize| Some(held.saturating_sub(bytes));
        let held = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let held = held.unwrap_or_else(|held| held);
        self.operator.allocator.release_bytes(held.min(bytes));
    }

    pub(crate) fn held(&self) -> usize {
        // Relaxed: a number for reports.
        self.held.load(Ordering::Relaxed)
    }

    fn hold(&self, bytes: usize) {
        // Relaxed: as in `shrink`. The bytes are charged before they are counted here.
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Query").field(&self.allocator).finish()
    }
}

/// Returns a consumer's name up to the bracket with the number of the partition, or with a file.
fn operator_name(consumer: &str) -> &str {
    match consumer.find('[') {
        Some(open) if open > 0 => consumer[..open].trim_end(),
        _ => consumer,
    }
}

#[cfg(test)]
mod tests {
    use super::operator_name;

    #[test]
    fn the_number_of_the_partition_is_no_part_of_an_operators_name() {
        let names = [
            ("ExternalSorter[12]", "ExternalSorter"),
            ("RepartitionExec[Merge 0]", "RepartitionExec"),
            (
                "GroupedHashAggregateStream[0] (sum(x))",
                "GroupedHashAggregateStream",
            ),
            ("ParquetSink[a/[b].parquet]", "ParquetSink"),
            ("HashJoinInput", "HashJoinInput"),
            ("[0]", "[0]"),
            ("]a[", "]a"),
            ("", ""),
        ];
        for (consumer, operator) in names {
            assert_eq!(operator_name(consumer), operator, "{consumer}");
        }
    }
}
