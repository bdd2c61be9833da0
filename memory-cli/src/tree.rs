//! A tree of allocators as rows, and as text.

use std::collections::HashMap;
use std::fmt::Write as _;

use arrow_memory_core::{AllocatorId, AllocatorSnapshot, SnapshotEntry};

use crate::size::human;
use crate::terminal::Style;

/// One allocator.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Row {
    /// The allocator's name.
    pub(crate) name: String,
    /// Levels below the root.
    pub(crate) depth: usize,
    /// Bytes allocated.
    pub(crate) used: usize,
    /// The most bytes that were.
    pub(crate) peak: usize,
    /// `used` as a part of the root's.
    pub(crate) share: f64,
}

/// The allocators of a snapshot, parents before children, in the order in which they were made.
pub(crate) fn rows(snapshot: &AllocatorSnapshot) -> Vec<Row> {
    let mut children: HashMap<Option<AllocatorId>, Vec<&SnapshotEntry>> = HashMap::new();
    for entry in &snapshot.entries {
        children.entry(entry.parent).or_default().push(entry);
    }
    for siblings in children.values_mut() {
        // Descending: the last one is popped first.
        siblings.sort_by_key(|entry| std::cmp::Reverse(entry.allocator.id));
    }
    let whole = snapshot.entries.first().map_or(0, |root| root.allocated);
    let mut open: Vec<&SnapshotEntry> = children.remove(&None).unwrap_or_default();
    let mut rows = Vec::with_capacity(snapshot.entries.len());
    while let Some(entry) = open.pop() {
        rows.push(Row {
            name: entry.allocator.name.to_string(),
            depth: entry.depth,
            used: entry.allocated,
            peak: entry.peak,
            share: if whole == 0 {
                0.0
            } else {
                entry.allocated as f64 / whole as f64
            },
        });
        open.extend(
            children
                .remove(&Some(entry.allocator.id))
                .into_iter()
                .flatten(),
        );
    }
    rows
}

/// The rows as lines, with branches and bars.
pub(crate) fn render(rows: &[Row], style: Style) -> String {
    let names: Vec<String> = (0..rows.len()).map(|index| branch(rows, index)).collect();
    let width = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0)
        .max("allocator".len());
    let mut text = String::new();
    let head = format!(
        "  {:<width$}  {:>10}  {:>10}  {:>7}",
        "allocator", "used", "peak", "share"
    );
    line(&mut text, &style.dim(&head));
    for (row, name) in rows.iter().zip(&names) {
        let bar = bar(row.share);
        let numbers = format!(
            "{:>10}  {:>10}  {:>5.1} %",
            human(row.used),
            human(row.peak),
            row.share * 100.0,
        );
        let padding = " ".repeat(width - name.chars().count());
        let name = if row.depth < 2 {
            style.bold(name)
        } else {
            name.clone()
        };
        let cells = format!("  {name}{padding}  {numbers}  {}", style.accent(&bar));
        line(&mut text, cells.trim_end());
    }
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

/// The name of a row behind the branches that lead to it, without the part that its parent says.
fn branch(rows: &[Row], index: usize) -> String {
    let row = &rows[index];
    let goes_on = |depth: usize| {
        let below = rows[index + 1..].iter();
        below
            .take_while(|row| row.depth >= depth)
            .any(|row| row.depth == depth)
    };
    let mut text = String::new();
    for depth in 1..row.depth {
        text.push_str(if goes_on(depth) { "│  " } else { "   " });
    }
    if row.depth > 0 {
        text.push_str(if goes_on(row.depth) {
            "├─ "
        } else {
            "└─ "
        });
    }
    let parent = rows[..index]
        .iter()
        .rev()
        .find(|above| above.depth < row.depth);
    let own = parent
        .and_then(|parent| row.name.strip_prefix(&parent.name)?.strip_prefix('/'))
        .unwrap_or(&row.name);
    text.push_str(own);
    text
}

/// A bar of up to [`BAR`] characters, in eighths.
fn bar(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

    let eighths = (share.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// The width of a full bar.
const BAR: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, depth: usize, used: usize, share: f64) -> Row {
        Row {
            name: name.to_owned(),
            depth,
            used,
            peak: used * 2,
            share,
        }
    }

    #[test]
    fn a_tree_is_drawn_with_branches_shares_and_bars() {
        let rows = [
            row("scan", 0, 4096, 1.0),
            row("a.csv", 1, 3072, 0.75),
            row("a.csv/x", 2, 3072, 0.75),
            row("a.csv/y", 2, 0, 0.0),
            row("b.csv", 1, 1024, 0.25),
            row("b.csv/x", 2, 1024, 0.25),
        ];

        assert_eq!(
            render(&rows, Style::plain()),
            "  allocator        used        peak    share
  scan          4.0 KiB     8.0 KiB  100.0 %  ████████████████████
  ├─ a.csv      3.0 KiB     6.0 KiB   75.0 %  ███████████████
  │  ├─ x       3.0 KiB     6.0 KiB   75.0 %  ███████████████
  │  └─ y           0 B         0 B    0.0 %
  └─ b.csv      1.0 KiB     2.0 KiB   25.0 %  █████
     └─ x       1.0 KiB     2.0 KiB   25.0 %  █████
"
        );
    }
}
