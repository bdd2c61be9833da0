//! Who is refused, beyond what limits say: consumers that can spill leave room to those that cannot, share what there is,
//! and give way when somebody else is refused.
//!
//! All of this looks at numbers that change meanwhile. It decides who is refused, and never what is charged: that is the
//! tree's, which is exact. A consumer that declares nothing is never refused here: it would have nothing to spill, and
//! fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_memory_core::{AllocatorId, BufferAllocator};

use crate::operator::{Consumer, Operator};
use crate::options::{Policy, share};
use crate::query::Query;
use crate::text::Size;

impl Query {
    /// Says why a consumer that would spill is not to get bytes although they may fit.
    pub(crate) fn holds_back(&self, consumer: &Consumer, bytes: usize) -> Option<String> {
        if bytes == 0 || !consumer.frees_by_spilling {
            return None;
        }
        let level = self.tightest(bytes)?;
        if !consumer.would_spill() {
            return None;
        }
        let limit = bound(&level);
        let (most, used) = (self.for_spillers(limit), level.allocated_memory());
        if used.saturating_add(bytes) > most {
            return Some(format!(
                "of the limit of {} of `{}`, {} are used, and {} are left to operators that cannot spill",
                Size(limit),
                level.info(),
                Size(used),
                Size(limit - most)
            ));
        }
        match self.options().policy {
            Policy::Greedy => None,
            Policy::Fair => self.over_its_part(consumer, bytes, most, used),
        }
    }

    /// Says why bytes are more than an equal part for the consumer.
    fn over_its_part(
        &self,
        consumer: &Consumer,
        bytes: usize,
        most: usize,
        used: usize,
    ) -> Option<String> {
        let active = self.spillers();
        if active.len() < 2 {
            return None;
        }
        let theirs: usize = active.iter().map(|one| one.declared()).sum();
        let others = used.saturating_sub(theirs);
        let part = most.saturating_sub(others) / active.len();
        let wanted = consumer.declared().saturating_add(bytes);
        (wanted > part).then(|| {
            format!(
                "it would declare {}, and the equal part of each of {} is {}",
                Size(wanted),
                active.len(),
                Size(part)
            )
        })
    }

    /// Returns the level between the query and its root that bytes would bring closest to its limit, if any has a limit
    /// that is near. An upper bound of what is used suffices to pass over the others.
    fn tightest(&self, bytes: usize) -> Option<BufferAllocator> {
        let fair = self.options().policy == Policy::Fair;
        let room = |level: &BufferAllocator| {
            self.for_spillers(bound(level))
                .saturating_sub(level.charged_memory())
        };
        let near = levels(self.allocator()).filter(|level| bound(level) <= isize::MAX as usize);
        let near = near.filter(|level| fair || room(level) < bytes);
        near.min_by_key(room)
    }

    /// Returns the consumers that declare something and would give it to others by spilling.
    fn spillers(&self) -> Vec<Arc<Consumer>> {
        let (_, mut consumers) = self.listed();
        consumers.retain(|consumer| consumer.frees_by_spilling && consumer.declared() > 0);
        consumers
    }

    /// Whether what exists already, and is about to be charged, passes no limit between an allocator and its root by more
    /// than a part of the overdraft.
    pub(crate) fn may_overdraw(&self, target: &BufferAllocator, part: f64) -> bool {
        // Relaxed: the sum is only read.
        let bytes = self.overdrawing().load(Ordering::Relaxed);
        levels(target).all(|level| {
            let limit = bound(&level);
            let most = limit.saturating_add(share(limit, self.options().overdraft * part));
            let fits = |used: usize| used.saturating_add(bytes) <= most;
            // An upper bound of what is used suffices to pass over most levels.
            fits(level.charged_memory()) || fits(level.allocated_memory())
        })
    }

    /// Whether one level is so full that the room for operators that cannot spill is touched.
    pub(crate) fn touches_headroom(&self) -> Option<AllocatorId> {
        let level = self.tightest(1)?;
        (level.allocated_memory() > self.for_spillers(bound(&level))).then(|| level.id())
    }

    /// Returns the part of a limit that consumers that can spill may fill.
    fn for_spillers(&self, limit: usize) -> usize {
        limit.saturating_sub(share(limit, self.options().headroom))
    }

    /// Whether a level is the query's own, or its operator's: not one above.
    pub(crate) fn is_own(&self, operator: &Operator, level: Option<AllocatorId>) -> bool {
        let own = [self.allocator().id(), operator.allocator.id()];
        level.is_some_and(|level| own.contains(&level))
    }

    /// Marks the largest consumer of some queries that would spill and give something to others, after a request was
    /// refused, or touched what is left to those that cannot spill. It is refused when it asks next.
    pub(crate) fn revoke(&self, operator: &Operator, level: Option<AllocatorId>) {
        // If the query's own limit refuses, it helps nobody if another query spills.
        let mut candidates = self.spillers();
        if !self.is_own(operator, level) {
            let others = self.others();
            let others = others.iter().filter(|query| query.end_reason().is_none());
            candidates.extend(others.flat_map(|query| query.spillers()));
        }
        candidates.retain(|consumer| consumer.can_give_way());
        if let Some(largest) = candidates.iter().max_by_key(|one| one.declared()) {
            largest.revoke();
        }
    }
}

/// Returns an allocator and those above it, up to its root.
pub(crate) fn levels(allocator: &BufferAllocator) -> impl Iterator<Item = BufferAllocator> {
    let parent = BufferAllocator::parent_allocator;
    std::iter::successors(Some(allocator.clone()), parent)
}

/// Returns the bytes that an allocator may use at most: the smaller of its limit and its cap.
pub(crate) fn bound(level: &BufferAllocator) -> usize {
    level.limit().min(level.cap().unwrap_or(usize::MAX))
}
