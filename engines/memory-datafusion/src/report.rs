//! The state of a query as plain data.
//!
//! [`QueryReport`] prints as a tree (`report/tree.rs`); with the feature `serde` it is JSON, too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::operator::Operator;
use crate::query::Query;

mod tree;

/// The numbers of a query, in bytes where nothing else is said.
///
/// As text it is a tree with a line for each operator, at most 100 columns wide; `{report:120}` sets another width. A
/// column that is zero for all operators is left out, except for `declared` and `peak`.
///
/// With the feature `serde` it can be serialized. The names are those of the fields, except that `waited` is
/// `waited_seconds`, a number with a fraction. `limit` is `null` if there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct QueryReport {
    /// The query's name.
    pub name: String,
    /// Its own limit; `None` if it has none.
    pub limit: Option<usize>,
    /// What is set aside for it.
    pub reservation: usize,
    /// What its operators declare now.
    pub declared: usize,
    /// The batches that its operators hold now.
    pub held: usize,
    /// What its allocator is charged now. For each operator this is what it declares, or under
    /// [`Charge::Larger`](crate::Charge::Larger) the larger of that and of what it holds.
    pub charged: usize,
    /// The peak of what was charged. It may be too high by the credit that the operators' allocators held unused, and is
    /// exact in a tree that was built with `.credit(0)`.
    pub peak: usize,
    /// The sum of the operators' peaks of what they held. They need not have been at one time.
    pub held_peak: usize,
    /// The number of requests of operators that were refused. An operator that can spill spills then, and asks again.
    pub refused: u64,
    /// The number of requests of operators that were refused for the sake of others.
    pub revoked: u64,
    /// Bytes that operators were charged in total without being asked whether they fit: those that they declared so, batches
    /// that passed a limit, and each charge that fell to an operator because the one before had let go. It grows in
    /// queries that have room, too: a limit was passed only if `peak` is above `limit`.
    pub forced_bytes: u64,
    /// Bytes that its operators have written to disk because memory was short.
    pub spilled_bytes: usize,
    /// How long its operators' requests have waited for memory in total.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "waited_seconds", serialize_with = "seconds")
    )]
    pub waited: Duration,
    /// How many of its frames were [planned again](crate::OnRefusal::PlanAgain). The operators of both plans are listed.
    pub planned_again: u64,
    /// The streams of results that are open.
    pub open_streams: usize,
    /// The operators, the one with the largest peak first.
    pub operators: Vec<OperatorReport>,
}

/// One operator of a [`QueryReport`]: a node of the plan with all its partitions, or, where the plan is not known, all
/// consumers of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OperatorReport {
    /// The operator's name, with the number of its line in `EXPLAIN`: `SortExec#2`. Where the plan is not known, the name
    /// under which it declares memory, without the number of the partition.
    pub name: String,
    /// The bytes that it declares now.
    pub declared: usize,
    /// The bytes of the batches that it holds now.
    pub held: usize,
    /// The bytes that its allocator is charged now: what it declares, or under
    /// [`Charge::Larger`](crate::Charge::Larger) the larger of that and of what it holds.
    pub charged: usize,
    /// The peak of what was charged.
    pub peak: usize,
    /// The peak of what it held.
    pub held_peak: usize,
    /// The number of its requests that were refused.
    pub refused: u64,
    /// The number of its requests that were refused for the sake of others.
    pub revoked: u64,
    /// Bytes that it took in total without asking whether they fit.
    pub forced_bytes: u64,
    /// Bytes that it has written to disk because memory was short.
    pub spilled_bytes: usize,
    /// How long its requests have waited for memory in total.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "waited_seconds", serialize_with = "seconds")
    )]
    pub waited: Duration,
    /// Whether it can spill.
    pub can_spill: bool,
    /// The number of its consumers that are alive, usually one for each partition.
    pub consumers: usize,
}

impl QueryReport {
    /// Reads all allocators at one instant, and the rest one after another.
    pub(crate) fn of(query: &Query) -> Self {
        let (listed, consumers) = query.listed();
        let snapshot = query.allocator().snapshot();
        let mut operators: Vec<OperatorReport> = listed
            .iter()
            .map(|operator| {
                let mut report = OperatorReport::of(operator);
                let alive = consumers
                    .iter()
                    .filter(|consumer| Arc::ptr_eq(&consumer.operator, operator));
                report.consumers = alive.count();
                report
            })
            .collect();
        operators.sort_by(|a, b| b.peak.cmp(&a.peak).then_with(|| a.name.cmp(&b.name)));
        let own = snapshot.entries.first();
        let limit = query.allocator().limit();
        let charged = own.map_or(0, |own| own.allocated);
        let bytes = |field: fn(&OperatorReport) -> usize| operators.iter().map(field).sum();
        let count = |field: fn(&OperatorReport) -> u64| operators.iter().map(field).sum();
        Self {
            name: query.allocator().name().to_owned(),
            limit: Some(limit).filter(|&limit| limit <= isize::MAX as usize),
            reservation: own.map_or(0, |own| own.reservation),
            declared: bytes(|operator| operator.declared),
            held: bytes(|operator| operator.held),
            charged,
            peak: query.allocator().peak_memory_allocation(),
            held_peak: bytes(|operator| operator.held_peak),
            refused: count(|operator| operator.refused),
            revoked: count(|operator| operator.revoked),
            forced_bytes: count(|operator| operator.forced_bytes),
            spilled_bytes: bytes(|operator| operator.spilled_bytes),
            waited: operators.iter().map(|operator| operator.waited).sum(),
            // Relaxed: a number for reports.
            planned_again: query.planned_again.load(Ordering::Relaxed),
            open_streams: query.open_streams(),
            operators,
        }
    }
}

impl OperatorReport {
    fn of(operator: &Operator) -> Self {
        let numbers = operator.numbers();
        Self {
            name: operator.name.to_string(),
            declared: numbers.declared,
            held: numbers.held,
            charged: numbers.charged,
            peak: numbers.peak,
            held_peak: numbers.held_peak,
            refused: numbers.refused,
            revoked: numbers.revoked,
            forced_bytes: numbers.forced_bytes,
            spilled_bytes: numbers.spilled,
            waited: numbers.waited,
            // Relaxed: the flag guards nothing.
            can_spill: operator.can_spill.load(Ordering::Relaxed),
            ..Self::default()
        }
    }
}

/// Serializes a time as seconds.
#[cfg(feature = "serde")]
fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[cfg(test)]
mod tests;
