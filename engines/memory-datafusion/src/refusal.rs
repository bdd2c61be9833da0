//! What a refusal says: who asked, which level refused, and who holds most.

use std::fmt::Write;
use std::sync::Arc;

use arrow_memory_core::{AllocatorId, BufferAllocator};

use crate::operator::{Consumer, Operator};
use crate::query::Query;
use crate::text::Size;

/// Holders that a refusal lists.
const TOP: usize = 5;

/// A request that was refused.
pub(crate) struct Refused<'a> {
    /// Who asked.
    pub(crate) asker: &'a str,
    pub(crate) operator: &'a Operator,
    pub(crate) bytes: usize,
    /// Why, with the numbers of each level that the request reached.
    pub(crate) why: String,
    /// Which allocator refused.
    pub(crate) refuser: Option<AllocatorId>,
}

/// Returns the text of a refusal: the request, each level that it reached, the largest operators and consumers of the
/// query, and the largest queries if it was not the query that refused.
pub(crate) fn text(query: &Query, refused: &Refused<'_>) -> String {
    let (asker, name, bytes) = (
        refused.asker.escape_debug(),
        query.allocator().info(),
        Size(refused.bytes),
    );
    if let Some(reason) = query.end_reason() {
        return format!(
            "{asker} of query `{name}` was refused {bytes}: the query has ended: {reason}"
        );
    }
    let why = &refused.why;
    let mut text = format!("{asker} of query `{name}` was refused {bytes}: {why}");
    holders(&mut text, query);
    let by_own = query.is_own(refused.operator, refused.refuser);
    let parent = query.allocator().parent_allocator();
    let parent = parent.filter(|_| !by_own);
    if let Some(parent) = parent.filter(|_| !query.is_shared()) {
        let children = children(&parent);
        let lines = children
            .into_iter()
            .map(|(name, held)| (name, held, String::new()));
        let title = format!("largest allocators below `{}`", parent.info());
        list(&mut text, &title, lines);
    }
    text.push_str(&advice(refused.asker, by_own));
    text
}

/// Says what can be done: about the limit, and about the kind of operator that asked.
fn advice(asker: &str, by_own: bool) -> String {
    let limit = match by_own {
        true => "Raise the query's limit",
        false => "Raise the limit of the allocator that refused, run fewer queries at a time",
    };
    let operator = if asker.starts_with("HashJoin") {
        "have it planned with sort-merge joins, which spill (`OnRefusal::PlanAgain`, or \
         `datafusion.optimizer.prefer_hash_join = false` with at least two `target_partitions`)"
    } else if asker.starts_with("ExternalSorterMerge") {
        "lower `target_partitions` or change `datafusion.execution.sort_spill_reservation_bytes`, which each sort sets aside \
         before it begins"
    } else {
        "lower `target_partitions`"
    };
    format!("\n{limit}, or {operator}.")
}

/// Adds who holds most of a query: its operators, and what their consumers declare.
fn holders(text: &mut String, query: &Query) {
    let name = query.allocator().info();
    let (operators, consumers) = query.listed();
    let numbers = |operator: &Arc<Operator>| (operator.numbers(), Arc::clone(operator));
    let mut operators: Vec<_> = operators.iter().map(numbers).collect();
    operators.retain(|(numbers, _)| numbers.charged.max(numbers.held) > 0);
    operators.sort_by(|(one, a), (two, b)| {
        two.charged
            .cmp(&one.charged)
            .then_with(|| a.name.cmp(&b.name))
    });
    let lines = operators.iter().map(|(numbers, operator)| {
        let (declared, held) = (Size(numbers.declared), Size(numbers.held));
        let both = match operator.batches {
            Some(_) => format!("declares {declared}, holds {held} of batches"),
            None => String::new(),
        };
        (
            operator.name.escape_debug().to_string(),
            numbers.charged,
            both,
        )
    });
    list(text, &format!("largest operators of `{name}`"), lines);
    let mut consumers: Vec<(usize, Arc<Consumer>)> = consumers
        .into_iter()
        .map(|consumer| (consumer.declared(), consumer))
        .filter(|(declared, _)| *declared > 0)
        .collect();
    consumers.sort_by(|(one, a), (two, b)| two.cmp(one).then_with(|| a.name.cmp(&b.name)));
    let lines = consumers.iter().map(|(declared, consumer)| {
        let spills = if consumer.can_spill {
            "can spill"
        } else {
            "cannot spill"
        };
        (
            consumer.name.escape_debug().to_string(),
            *declared,
            spills.to_owned(),
        )
    });
    list(text, &format!("largest consumers of `{name}`"), lines);
}

/// Returns the children of an allocator with an upper bound of what each holds, the largest first.
fn children(parent: &BufferAllocator) -> Vec<(String, usize)> {
    let held = |child: &BufferAllocator| {
        // What is reserved for a child is the parent's, used or not.
        let held = child.charged_memory().max(child.reservation());
        (child.info().to_string(), held)
    };
    let mut children: Vec<_> = parent.child_allocators().iter().map(held).collect();
    children.retain(|(_, held)| *held > 0);
    children.sort_by(|(a, one), (b, two)| two.cmp(one).then_with(|| a.cmp(b)));
    children
}

/// Adds a list to the text: its title and the first few lines.
fn list(
    text: &mut String,
    title: &str,
    lines: impl ExactSizeIterator<Item = (String, usize, String)>,
) {
    let others = lines.len().saturating_sub(TOP);
    for (index, (name, held, note)) in lines.take(TOP).enumerate() {
        if index == 0 {
            let _ = write!(text, "\n{title}:");
        }
        let comma = if note.is_empty() { "" } else { ", " };
        let _ = write!(text, "\n  {name}: {}{comma}{note}", Size(held));
    }
    if others > 0 {
        let _ = write!(text, "\n  and {others} more");
    }
}
