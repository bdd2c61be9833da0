//! The state of a query as plain data, and as a tree.

use std::fmt;
use std::sync::atomic::Ordering;

use crate::query::Query;
use crate::text::Size;

/// The numbers of a query, in bytes where nothing else is said. As text it is a tree with a line for each operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryReport {
    /// The query's name.
    pub name: String,
    /// Its own limit; `None` if it has none.
    pub limit: Option<usize>,
    /// What is set aside for it.
    pub reservation: usize,
    /// What its operators declare now, and what else is charged to its allocator.
    pub declared: usize,
    /// The peak of that. It may be too high by the credit that the operators' allocators held unused, and is exact in a
    /// tree that was built with `.credit(0)`.
    pub peak: usize,
    /// The number of requests of operators that were refused. An operator that can spill spills then, and asks again.
    pub refused: u64,
    /// Bytes that operators took in total without asking whether they fit.
    pub forced_bytes: u64,
    /// Bytes that its operators have written to disk because memory was short.
    pub spilled_bytes: usize,
    /// The streams of results that are open.
    pub open_streams: usize,
    /// The operators, the one with the largest peak first.
    pub operators: Vec<OperatorReport>,
}

/// One operator of a [`QueryReport`]: all partitions of all operators of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorReport {
    /// The name under which DataFusion's operator declares its memory, without the number of the partition.
    pub name: String,
    /// The bytes that it declares now.
    pub declared: usize,
    /// The peak of that.
    pub peak: usize,
    /// The number of its requests that were refused.
    pub refused: u64,
    /// Bytes that it took in total without asking whether they fit.
    pub forced_bytes: u64,
    /// Whether it can spill.
    pub can_spill: bool,
    /// The number of its consumers that are alive, usually one for each partition.
    pub consumers: usize,
}

impl QueryReport {
    /// Reads all allocators at one instant, and the rest one after another.
    pub(crate) fn of(query: &Query) -> Self {
        let (operators, consumers) = query.listed();
        let snapshot = query.allocator().snapshot();
        let own = snapshot.entries.first();
        let mut reports: Vec<OperatorReport> = operators
            .iter()
            .map(|operator| {
                let id = operator.allocator.id();
                let entry = snapshot
                    .entries
                    .iter()
                    .find(|entry| entry.allocator.id == id);
                let entry = entry.filter(|_| id != query.allocator().id());
                let alive = consumers
                    .iter()
                    .filter(|consumer| consumer.operator.name == operator.name);
                OperatorReport {
                    name: operator.name.to_string(),
                    declared: entry.map_or(0, |entry| entry.allocated),
                    // An allocator that has left its tree is not in the snapshot, and still knows these two.
                    peak: operator.allocator.peak_memory_allocation(),
                    forced_bytes: operator.allocator.stats().forced_bytes,
                    // Relaxed: numbers for reports.
                    refused: operator.refused.load(Ordering::Relaxed),
                    can_spill: operator.can_spill.load(Ordering::Relaxed),
                    consumers: alive.count(),
                }
            })
            .collect();
        reports.sort_by(|a, b| b.peak.cmp(&a.peak).then_with(|| a.name.cmp(&b.name)));
        let limit = query.allocator().limit();
        Self {
            name: query.allocator().name().to_owned(),
            limit: Some(limit).filter(|&limit| limit <= isize::MAX as usize),
            reservation: own.map_or(0, |own| own.reservation),
            declared: own.map_or(0, |own| own.allocated),
            peak: query.allocator().peak_memory_allocation(),
            refused: reports.iter().map(|operator| operator.refused).sum(),
            forced_bytes: reports.iter().map(|operator| operator.forced_bytes).sum(),
            spilled_bytes: query.spilled(),
            open_streams: query.open_streams(),
            operators: reports,
        }
    }
}

/// Cells of a whole bar.
const BAR: usize = 20;

impl fmt::Display for QueryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.escape_debug();
        write!(
            f,
            "query `{name}`: {} declared, peak {}",
            Size(self.declared),
            Size(self.peak)
        )?;
        if let Some(limit) = self.limit {
            write!(f, ", limit {}", Size(limit))?;
        }
        write!(f, ", spilled {}", Size(self.spilled_bytes))?;
        if self.operators.is_empty() {
            return write!(f, "\n  no operator has declared any memory");
        }
        let names = self
            .operators
            .iter()
            .map(|operator| operator.name.chars().count());
        let width = names.max().unwrap_or(0).clamp(8, 48);
        let (operator, declared) = ("operator", "declared");
        write!(
            f,
            "\n     {operator:width$}  {declared:>10}  {:>10}  refused      forced",
            "peak"
        )?;
        let largest = self.operators.iter().map(|operator| operator.peak).max();
        for (index, operator) in self.operators.iter().enumerate() {
            let last = index + 1 == self.operators.len();
            let branch = if last { "└─" } else { "├─" };
            let cells = operator.peak.saturating_mul(BAR) / largest.unwrap_or(0).max(1);
            let OperatorReport {
                name,
                declared,
                peak,
                refused,
                forced_bytes,
                ..
            } = operator;
            let (declared, peak) = (Size(*declared), Size(*peak));
            let forced = Size(usize::try_from(*forced_bytes).unwrap_or(usize::MAX));
            let line = format!(
                "  {branch} {name:width$}  {declared:>10}  {peak:>10}  {refused:>7}  {forced:>10}  {}",
                "█".repeat(cells),
            );
            write!(f, "\n{}", line.trim_end())?;
        }
        Ok(())
    }
}
