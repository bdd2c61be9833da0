//! What a refusal says: who asked, which level refused, and who holds most.

use std::fmt::Write;
use std::sync::Arc;

use arrow_memory_core::{AllocError, BufferAllocator};

use crate::query::{Consumer, Query};
use crate::text::Size;

/// Holders that a refusal lists.
const TOP: usize = 5;

/// Returns the text of a refusal: the request, each level that it reached, the largest consumers of the query, and
/// the largest queries if it was not the query that refused.
pub(crate) fn text(query: &Query, consumer: &Consumer, bytes: usize, error: &AllocError) -> String {
    let (asker, name, bytes) = (
        consumer.name.escape_debug(),
        query.allocator().info(),
        Size(bytes),
    );
    if let Some(reason) = query.end_reason() {
        return format!(
            "{asker} of query `{name}` was refused {bytes}: the query has ended: {reason}"
        );
    }
    let mut text = format!("{asker} of query `{name}` was refused {bytes}: {error:#}");
    let mut consumers: Vec<(usize, Arc<Consumer>)> = query
        .listed()
        .1
        .into_iter()
        .map(|consumer| (consumer.held(), consumer))
        .filter(|(held, _)| *held > 0)
        .collect();
    consumers.sort_by(|(one, a), (two, b)| two.cmp(one).then_with(|| a.name.cmp(&b.name)));
    let lines = consumers.iter().map(|(held, consumer)| {
        let spills = if consumer.can_spill {
            "can spill"
        } else {
            "cannot spill"
        };
        (consumer.name.escape_debug().to_string(), *held, spills)
    });
    list(&mut text, &format!("largest consumers of `{name}`"), lines);

    let refused_by = error.allocator().map(|refuser| refuser.id);
    let own = [query.allocator().id(), consumer.operator.allocator.id()];
    let parent = query.allocator().parent_allocator();
    let parent = parent.filter(|_| !refused_by.is_some_and(|refuser| own.contains(&refuser)));
    if let Some(parent) = parent.filter(|_| !query.is_shared()) {
        let children = children(&parent);
        let lines = children.into_iter().map(|(name, held)| (name, held, ""));
        let title = format!("largest allocators below `{}`", parent.info());
        list(&mut text, &title, lines);
    }
    text.push_str("\nRaise the limit of the allocator that refused, run fewer queries at a time, or lower `target_partitions`.");
    text
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
fn list<'a>(
    text: &mut String,
    title: &str,
    lines: impl ExactSizeIterator<Item = (String, usize, &'a str)>,
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
