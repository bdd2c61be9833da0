//! What is charged to the operators of a query, and what is refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arrow_memory_arrow::arrow_59::Accounted;
use arrow_memory_arrow::{HandOver, MemoryError};
use arrow_memory_core::{AllocError, AllocatorId, BufferAllocator, Retry, TransferError};
use datafusion_common::arrow::record_batch::RecordBatch;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use crate::operator::{Consumer, Operator};
use crate::options::{Wait, share};
use crate::policy::{bound, levels};
use crate::query::Query;
use crate::refusal::{self, Refused};

impl Query {
    /// Charges bytes that a consumer declares.
    ///
    /// # Errors
    ///
    /// The text of a refusal, after which an operator that can spill does so. Nothing is charged then.
    pub(crate) fn try_grow(&self, consumer: &Consumer, bytes: usize) -> Result<(), String> {
        let (why, refuser) = match self.grow(consumer, bytes) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        // Relaxed: a number for reports.
        consumer.operator.refused.fetch_add(1, Ordering::Relaxed);
        Err(refusal::text(
            self,
            &Refused {
                asker: &consumer.name,
                operator: &consumer.operator,
                bytes,
                why,
                refuser,
            },
        ))
    }

    /// Charges bytes that a consumer declares, or says why not, and which allocator refused if one did.
    fn grow(&self, consumer: &Consumer, bytes: usize) -> Result<(), (String, Option<AllocatorId>)> {
        if let Some(why) = self.holds_back(consumer, bytes) {
            return Err((why, None));
        }
        let Err(error) = consumer.try_grow(bytes) else {
            if !consumer.can_spill
                && let Some(level) = self.touches_headroom()
            {
                self.revoke(&consumer.operator, Some(level));
            }
            return Ok(());
        };
        let refuser = error.allocator().map(|refuser| refuser.id);
        if consumer.would_spill() {
            return Err((format!("{error:#}"), refuser));
        }
        if error.is_out_of_memory() && consumer.declares_what_it_holds(bytes) {
            // The operator's batches are charged already, and this declares them.
            consumer.grow(bytes);
            return Ok(());
        }
        self.revoke(&consumer.operator, refuser);
        self.wait(consumer, bytes, error)
            .map_err(|error| (format!("{error:#}"), refuser))
    }

    /// Waits for memory of other queries, if the options say so, and if the request may: it is of a consumer that cannot
    /// spill, and was not refused by its own query.
    fn wait(&self, consumer: &Consumer, bytes: usize, error: AllocError) -> Result<(), AllocError> {
        let Wait::Block(at_most) = self.options().wait else {
            return Err(error);
        };
        let own = [self.allocator().id(), consumer.operator.allocator.id()];
        let by_own = error
            .allocator()
            .is_none_or(|refuser| own.contains(&refuser.id));
        let threads = Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        if by_own || !threads || error.retry() == Retry::Never {
            return Err(error);
        }
        let begun = Instant::now();
        let waited = block_in_place(|| self.wait_until(consumer, bytes, begun + at_most, error));
        consumer.operator.has_waited(begun.elapsed());
        waited
    }

    /// The queue of the tree knows bytes of an allocator, and not a reservation of it. So the request waits there, and then
    /// asks anew. Another one may have been faster; then it waits again.
    fn wait_until(
        &self,
        consumer: &Consumer,
        bytes: usize,
        deadline: Instant,
        mut error: AllocError,
    ) -> Result<(), AllocError> {
        while Instant::now() < deadline {
            let room = self.allocator().wait().until(deadline).reserve(bytes);
            let Ok(room) = room else {
                return Err(error);
            };
            drop(room);
            match consumer.try_grow(bytes) {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
        Err(error)
    }

    /// Charges a batch to the operator that holds it from now on, instead of the one that held it until now.
    ///
    /// It exists already. So it may pass limits by the overdraft; then it counts as forced. With `keeps`, the one that held
    /// it goes on to be charged for what it still has once the other one has dropped it.
    ///
    /// # Errors
    ///
    /// The text of a refusal. The batch is dropped.
    pub(crate) fn hand_over(
        &self,
        batch: RecordBatch,
        from: &Operator,
        to: &Operator,
        keeps: bool,
    ) -> Result<RecordBatch, String> {
        let (Some(source), Some(target)) = (&from.batches, &to.batches) else {
            return Ok(batch);
        };
        let lent = |start| self.lent().has(start);
        let mut way = HandOver::new(source, target);
        if keeps {
            way = way.kept(&from.kept);
        }
        if self.lent().any() {
            way = way.except(&lent);
        }
        let refused = match batch.hand_over(&way) {
            Ok(handed) => return Ok(handed.value),
            Err(refused) => refused,
        };
        let (missing, refuser) = missing(&refused.source);
        self.revoke(to, refuser);
        // A move may be refused for its first allocation that does not fit, and an adoption is for all of them.
        let bytes = match &refused.source {
            MemoryError::Transfer(_) => refused.value.get_array_memory_size(),
            _ => missing,
        };
        let error = if refused.is_out_of_memory() {
            // Several threads may be here. Each counts its batch before it looks.
            let _counted = Overdrawing::new(&self.overdrawing, bytes);
            if !self.may_overdraw(target) {
                refused.source
            } else {
                match refused.value.hand_over(&way.forced()) {
                    Ok(handed) => return Ok(handed.value),
                    Err(refused) => refused.source,
                }
            }
        } else {
            refused.source
        };
        // Relaxed: a number for reports.
        to.refused.fetch_add(1, Ordering::Relaxed);
        Err(refusal::text(
            self,
            &Refused {
                asker: &to.name,
                operator: to,
                bytes,
                why: format!("it is to hold a batch of {}: {error:#}", from.name),
                refuser,
            },
        ))
    }

    /// Whether the batches that are about to pass limits pass none between an allocator and its root by more than the
    /// overdraft.
    fn may_overdraw(&self, target: &BufferAllocator) -> bool {
        // Relaxed: the sum is only read.
        let bytes = self.overdrawing.load(Ordering::Relaxed);
        levels(target).all(|level| {
            let limit = bound(&level);
            let most = limit.saturating_add(share(limit, self.options().overdraft));
            level.allocated_memory().saturating_add(bytes) <= most
        })
    }
}

/// Bytes that are counted while this lives.
struct Overdrawing<'a> {
    counter: &'a AtomicUsize,
    bytes: usize,
}

impl<'a> Overdrawing<'a> {
    fn new(counter: &'a AtomicUsize, bytes: usize) -> Self {
        // Relaxed, here and below: whoever comes later in the order of the counter's changes sees those before.
        counter.fetch_add(bytes, Ordering::Relaxed);
        Self { counter, bytes }
    }
}

impl Drop for Overdrawing<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Returns the bytes that a refused batch needs more, and who refused them.
fn missing(error: &MemoryError) -> (usize, Option<AllocatorId>) {
    match error {
        MemoryError::Alloc(error) => {
            let bytes = match error {
                AllocError::OutOfMemory { requested, .. } => *requested,
                _ => 0,
            };
            (bytes, error.allocator().map(|refuser| refuser.id))
        }
        MemoryError::Transfer(TransferError::DoesNotFit { bytes, outcome, .. }) => {
            (*bytes, Some(outcome.failed_allocator().id))
        }
        _ => (0, None),
    }
}
