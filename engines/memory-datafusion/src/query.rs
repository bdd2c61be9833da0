//! The books of one query: its allocator, an allocator below it for each operator, and who declares how much.
//!
//! DataFusion's pools know a *consumer*: a name, whether it can spill, and a number. The name is that of the operator
//! and the partition, `ExternalSorter[0]`. All partitions of an operator share the operator's allocator.
//!
//! No lock of this module is held while bytes are charged, since a charge may ask others for memory; nor while a waker
//! is called, nor while a stream, a plan or the handle of an allocator is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

use arrow_memory_core::BufferAllocator;
use futures::stream::AbortHandle;

use crate::lent::Lent;
use crate::open::OpenStreams;
use crate::operator::{Consumer, Operator, Seen};
use crate::options::{Charge, Options};

/// One query, or all that runs in a session without one.
pub(crate) struct Query {
    allocator: BufferAllocator,
    /// Under [`Charge::Observed`], the parent of the allocators that are charged for batches: in a tree of its own.
    observed: Option<BufferAllocator>,
    options: Options,
    /// All queries under the same [`DataFusionMemory`](crate::DataFusionMemory).
    alive: Arc<Alive>,
    /// Whether this is not one query, but everything that runs beside the queries. Then an operator's allocator
    /// leaves with the operator's last consumer; else it stays, so that a report has its peak.
    shared: bool,
    books: RwLock<Books>,
    streams: Mutex<OpenStreams>,
    lent: Lent,
    /// Whether it has ended: for those who ask at each batch.
    has_ended: AtomicBool,
    /// How many of its frames were planned again.
    pub(crate) planned_again: AtomicU64,
}

#[derive(Default)]
struct Books {
    operators: Vec<Arc<Operator>>,
    consumers: HashMap<usize, Arc<Consumer>>,
}

impl Books {
    /// Takes out operators of plans that have ended, once there are many: a query may run any number of plans.
    fn make_room(&mut self) -> Vec<Arc<Operator>> {
        if self.operators.len() < MANY {
            return Vec::new();
        }
        // Nobody else has one: no consumer, no stream, no plan.
        let ended = |operator: &mut Arc<Operator>| {
            Arc::strong_count(operator) == 1 && operator.node.is_some()
        };
        self.operators.extract_if(.., ended).collect()
    }
}

/// So many operators are kept for a query's report, or as many as run.
const MANY: usize = 256;

/// The name of the allocators that are charged for the heap.
const HEAP: &str = "(heap)";

/// The operator that holds what a query gives to its client.
const RESULT: &str = "result";

impl Query {
    /// Opens the books of a query, and lists it among those that are alive.
    pub(crate) fn new(
        allocator: BufferAllocator,
        observed: Option<BufferAllocator>,
        options: Options,
        alive: &Arc<Alive>,
    ) -> Arc<Self> {
        let query = Arc::new(Self {
            observed,
            ..Self::with(allocator, options, alive)
        });
        alive.add(&query);
        query
    }

    /// Returns the books of what runs beside the queries.
    pub(crate) fn shared(
        allocator: BufferAllocator,
        options: Options,
        alive: &Arc<Alive>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared: true,
            ..Self::with(allocator, options, alive)
        })
    }

    fn with(allocator: BufferAllocator, options: Options, alive: &Arc<Alive>) -> Self {
        Self {
            allocator,
            observed: None,
            options,
            alive: Arc::clone(alive),
            shared: false,
            books: RwLock::default(),
            streams: Mutex::default(),
            lent: Lent::default(),
            has_ended: AtomicBool::new(false),
            planned_again: AtomicU64::new(0),
        }
    }

    /// Returns the queries that are alive, this one included unless it is what runs beside them.
    pub(crate) fn alive(&self) -> Vec<Arc<Query>> {
        self.alive.all()
    }

    /// Returns the bytes of batches, of any query, that are about to pass a limit.
    pub(crate) fn overdrawing(&self) -> &AtomicUsize {
        &self.alive.overdrawing
    }

    /// Returns the other queries that are not of a higher priority.
    pub(crate) fn others(&self) -> Vec<Arc<Query>> {
        let mut others = self.alive();
        let priority = self.allocator.priority();
        others.retain(|other| {
            !std::ptr::eq(&**other, self) && other.allocator.priority() <= priority
        });
        others
    }

    pub(crate) fn allocator(&self) -> &BufferAllocator {
        &self.allocator
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Returns the memory of others that passes through the query.
    pub(crate) fn lent(&self) -> &Lent {
        &self.lent
    }

    /// Returns the bytes that are declared or held, in whichever tree. The operators' heap does not count: it may be a
    /// cache's that outlives the query, and is kept track of when the query ends.
    pub(crate) fn outstanding(&self) -> usize {
        if !arrow_memory_global::is_installed() {
            let observed = self.observed.as_ref();
            let observed = observed.map_or(0, BufferAllocator::allocated_memory);
            return self.allocator.allocated_memory() + observed;
        }
        let entries = self.allocator.snapshot().entries;
        let entries = entries
            .iter()
            .filter(|entry| &*entry.allocator.name != HEAP);
        let entries = entries.map(|entry| {
            let stats = &entry.stats;
            let own = stats.own_bytes + stats.foreign_bytes + stats.external_bytes;
            own + stats.reserved_bytes
        });
        let operators = self.operators();
        let declared = operators.iter().map(|operator| operator.declared.now());
        entries.chain(declared).sum()
    }

    /// Whether operators declare or hold something, but for the results that the client has.
    pub(crate) fn holds_beside_results(&self) -> bool {
        self.outstanding() > self.result().numbers().held
    }

    // ---- consumers and operators --------------------------------------------------------------

    /// Returns the consumer's books. Opens them if this is the first that is heard of it: with that operator, or where
    /// the plan is not known with the operator of its name.
    pub(crate) fn consumer(
        &self,
        seen: Seen<'_>,
        operator: Option<&Arc<Operator>>,
    ) -> Arc<Consumer> {
        if let Some(consumer) = self.read().consumers.get(&seen.id) {
            return Arc::clone(consumer);
        }
        let operator =
            operator.map_or_else(|| self.operator(None, operator_name(seen.name)), Arc::clone);
        if seen.can_spill {
            // Relaxed: the flag guards nothing.
            operator.can_spill.store(true, Ordering::Relaxed);
        }
        let consumer = Arc::new(Consumer::new(seen, operator));
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

    /// Returns the operator that holds what the client has not dropped yet.
    pub(crate) fn result(&self) -> Arc<Operator> {
        self.operator(None, RESULT)
    }

    /// Returns the operator of a node of the plan, or of a name if the node is not known. It gets allocators of its own
    /// if the query's may have children.
    pub(crate) fn operator(&self, node: Option<u64>, name: &str) -> Arc<Operator> {
        let same =
            |known: &&Arc<Operator>| known.node == node && (node.is_some() || *known.name == *name);
        let find = |books: &Books| books.operators.iter().find(same).cloned();
        let known = find(&self.read());
        known.unwrap_or_else(|| {
            let made = Arc::new(self.new_operator(node, name));
            let mut books = self.write();
            let left = books.make_room();
            // Another partition may have been faster; what was made here is dropped after the lock.
            let kept = find(&books).unwrap_or_else(|| {
                books.operators.push(Arc::clone(&made));
                Arc::clone(&made)
            });
            drop(books);
            // If the query ended meanwhile, it did not see this one.
            if self.end_reason().is_some() {
                kept.retire();
            }
            for operator in left {
                operator.retire();
            }
            kept
        })
    }

    fn new_operator(&self, node: Option<u64>, name: &str) -> Operator {
        // Metrics add up operators of one kind.
        let kind = name.split_once('#').map_or(name, |(kind, _)| kind);
        let child = |parent: &BufferAllocator| parent.child(name).group(kind).build();
        let Ok(allocator) = child(&self.allocator) else {
            // The query has ended. So its own allocator refuses, or is forced.
            let own = self.allocator.clone();
            return Operator::new(name, node, own, None, Charge::Declared);
        };
        let batches = match self.options.charge {
            Charge::Declared => None,
            Charge::Observed => self.observed.as_ref().and_then(|all| child(all).ok()),
            Charge::Larger => Some(allocator.clone()),
        };
        Operator::new(name, node, allocator, batches, self.options.charge)
    }

    /// Returns the operators.
    pub(crate) fn operators(&self) -> Vec<Arc<Operator>> {
        self.read().operators.clone()
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
    pub(crate) fn open(&self, stream: AbortHandle) -> Result<u64, Arc<str>> {
        self.streams().open(stream)
    }

    /// Notes that a stream has ended.
    pub(crate) fn ended(&self, stream: u64) {
        let mut streams = self.streams();
        let (open, last) = streams.close(stream);
        // Under the lock, so that no stream begins meanwhile.
        let lent = last.then(|| self.lent.take());
        drop(streams);
        drop((open, lent));
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.streams().len()
    }

    /// Whether the query has ended. Somebody who has just ended it may not be seen yet.
    pub(crate) fn has_ended(&self) -> bool {
        // Relaxed: the flag guards nothing. Who needs the reason takes the lock.
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Returns why the query has ended, if it has.
    pub(crate) fn end_reason(&self) -> Option<Arc<str>> {
        self.streams().end_reason()
    }

    /// Ends the query: its streams fail with that reason, nothing more is granted, and its allocators leave the tree
    /// with their last bytes. Only the first call has an effect.
    pub(crate) fn end(&self, reason: &str) {
        let Some(streams) = self.streams().end(reason) else {
            return;
        };
        self.has_ended.store(true, Ordering::Relaxed);
        self.allocator.force_reservation(0);
        self.allocator.retire();
        if let Some(observed) = &self.observed {
            observed.retire();
        }
        for operator in self.operators() {
            operator.retire();
        }
        drop(self.lent.take());
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

/// The queries that are alive. It keeps none of them.
#[derive(Default)]
pub(crate) struct Alive {
    queries: Mutex<Vec<Weak<Query>>>,
    /// Bytes of batches, of any query, that are about to pass a limit.
    overdrawing: AtomicUsize,
}

impl Alive {
    pub(crate) fn add(&self, query: &Arc<Query>) {
        let mut alive = self.lock();
        alive.retain(|query| query.strong_count() > 0);
        alive.push(Arc::downgrade(query));
    }

    /// Returns the queries that are alive; what the caller drops, it drops without the lock.
    pub(crate) fn all(&self) -> Vec<Arc<Query>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Query>>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
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
