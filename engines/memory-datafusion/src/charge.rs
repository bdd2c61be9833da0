//! What is charged to the operators of a query, and what is refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arrow_memory_arrow::arrow_59::Accounted;
use arrow_memory_arrow::{HandOver, MemoryError, Shares};
use arrow_memory_core::{AllocError, AllocatorId, Retry, TransferError};
use datafusion_common::arrow::record_batch::RecordBatch;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use crate::operator::{Consumer, Operator};
use crate::options::Wait;
use crate::query::Query;
use crate::refusal::{self, Refused};

#[cfg(test)]
mod tests;

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
        if bytes > 0 && consumer.gives_way() {
            let why = "it is to spill, since another request was refused";
            return Err((why.to_owned(), None));
        }
        let mut granted = self.grant(consumer, bytes);
        let for_room = |refused: &NotGranted| match refused {
            NotGranted::HeldBack(_) => true,
            NotGranted::Refused(error) => error.is_out_of_memory(),
        };
        if granted.as_ref().is_err_and(for_room) && self.let_go() {
            granted = self.grant(consumer, bytes);
        }
        let error = match granted {
            Ok(()) => return Ok(()),
            Err(NotGranted::HeldBack(why)) => return Err((why, None)),
            Err(NotGranted::Refused(error)) => error,
        };
        let refuser = error.allocator().map(|refuser| refuser.id);
        if consumer.passes_on() && error.is_out_of_memory() && self.overdraws(consumer, bytes) {
            return Ok(());
        }
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

    /// Charges bytes that a consumer declares, if policies and limits allow it now.
    fn grant(&self, consumer: &Consumer, bytes: usize) -> Result<(), NotGranted> {
        if let Some(why) = self.holds_back(consumer, bytes) {
            return Err(NotGranted::HeldBack(why));
        }
        consumer.try_grow(bytes).map_err(NotGranted::Refused)?;
        if !consumer.frees_by_spilling
            && let Some(level) = self.touches_headroom()
        {
            self.revoke(&consumer.operator, Some(level));
        }
        Ok(())
    }

    /// Charges by force, within half of the overdraft, what exists already and is on its way: the other half is left to
    /// those who fail without it.
    fn overdraws(&self, consumer: &Consumer, bytes: usize) -> bool {
        let _counted = Overdrawing::new(self.overdrawing(), bytes);
        let may = self.may_overdraw(&consumer.operator.allocator, 0.5);
        if may {
            consumer.grow(bytes);
        }
        may
    }

    /// Ends the charges of what operators have let go of since they were polled: those of all queries, since the level that
    /// refused may be above them. Returns whether there were any.
    fn let_go(&self) -> bool {
        let queries = self.alive();
        let operators: Vec<_> = queries.iter().flat_map(|query| query.operators()).collect();
        let sweep = || operators.iter().map(|one| one.sweep_all()).sum::<usize>();
        // What one has let go of may be charged to the next one that shared it, in the worst case down the whole plan.
        let rounds = operators.iter().take_while(|_| sweep() > 0);
        rounds.count() > 0
    }

    /// Waits for memory of other queries, if the options say so, and if the request may: it is of a consumer that cannot
    /// spill, and was not refused by its own query.
    fn wait(&self, consumer: &Consumer, bytes: usize, error: AllocError) -> Result<(), AllocError> {
        let Wait::Block(at_most) = self.options().wait else {
            return Err(error);
        };
        let refuser = error.allocator().map(|refuser| refuser.id);
        let by_own = refuser.is_none() || self.is_own(&consumer.operator, refuser);
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
            self.let_go();
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
    /// It exists already. So it may pass limits by the overdraft; then it counts as forced. With `shares`, the one that held
    /// it goes on to be charged for what it still has.
    ///
    /// # Errors
    ///
    /// The text of a refusal. The batch is dropped.
    pub(crate) fn hand_over(
        &self,
        batch: RecordBatch,
        from: &Operator,
        to: &Operator,
        shares: Option<&Shares>,
    ) -> Result<RecordBatch, String> {
        let (Some(source), Some(target)) = (&from.batches, &to.batches) else {
            return Ok(batch);
        };
        let lent = |start| self.lent().has(start);
        let mut way = HandOver::new(source, target);
        if let Some(shares) = shares {
            way = way.kept(&from.kept).shares(shares);
        }
        if self.lent().any() {
            way = way.except(&lent);
        }
        let mut handed = batch.hand_over(&way);
        if let Err(refused) = &handed
            && refused.is_out_of_memory()
            && self.let_go()
        {
            handed = handed.or_else(|refused| refused.value.hand_over(&way));
        }
        let refused = match handed {
            Ok(handed) => return Ok(handed.value),
            Err(refused) => refused,
        };
        // An adoption is refused for all of the batch, and a move for its first allocation that does not fit.
        let (bytes, refuser) = missing(&refused.source);
        self.revoke(to, refuser);
        let error = if refused.is_out_of_memory() {
            // Several threads may be here. Each counts its batch before it looks.
            let _counted = Overdrawing::new(self.overdrawing(), bytes);
            if !self.may_overdraw(target, 1.0) {
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
}

/// Why bytes are not charged now.
enum NotGranted {
    /// A policy leaves them to others.
    HeldBack(String),
    /// They do not fit.
    Refused(AllocError),
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
